//! Targets whose values are those of recorded pages.

use super::{Target, Values};
use crate::recording::Recording;
use chronolith_wire::exposition::{Entry, Format, Parser};
use std::collections::HashMap;

/// How far apart two neighbouring hosts are in the recording: copies that are equal at every scrape would
/// compress as no fleet does. A prime, so that they meet late.
const PAGES_BETWEEN_HOSTS: usize = 53;

/// One row per page, one value per series; `None`, or nothing, where the page lacks it.
#[derive(Debug, Default)]
pub struct Pages(Vec<Vec<Option<f64>>>);

impl Pages {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, host: u32, series: usize, scrape: u32) -> Option<f64> {
        let page = (scrape as usize + host as usize * PAGES_BETWEEN_HOSTS) % self.0.len();
        self.0[page].get(series).copied().flatten()
    }
}

/// The targets of a recording, by name.
///
/// # Errors
/// If a page does not parse.
pub fn targets(recording: &Recording) -> Result<Vec<Target>, String> {
    let mut targets: Vec<(Target, HashMap<Vec<u8>, usize>)> = Vec::new();
    for page in recording.pages() {
        let at = targets.iter().position(|(target, _)| target.job == page.job).unwrap_or_else(|| {
            targets.push((Target { job: page.job.to_owned(), ..Target::default() }, HashMap::new()));
            targets.len() - 1
        });
        let (target, known) = &mut targets[at];
        read_page(target, known, page.body).map_err(|e| format!("{}: {e}", page.job))?;
    }
    if targets.is_empty() {
        return Err("the recording holds no page".to_owned());
    }
    Ok(targets.into_iter().map(|(target, _)| target).collect())
}

fn read_page(target: &mut Target, known: &mut HashMap<Vec<u8>, usize>, body: &[u8]) -> Result<(), String> {
    let mut row = vec![None; target.series.len()];
    let mut parser = Parser::new(body, Format::Text);
    while let Some(entry) = parser.next_entry().map_err(|e| e.to_string())? {
        let Entry::Series(series) = entry else { continue };
        let at = match known.get(series.raw) {
            Some(&at) => at,
            None => {
                let at = target.series.len();
                known.insert(series.raw.to_vec(), at);
                target.series.push(series.labels().map_err(|e| e.to_string())?.to_builder());
                row.push(None);
                at
            }
        };
        row[at] = Some(series.value);
    }
    if let Values::Recorded(Pages(rows)) = &mut target.values {
        rows.push(row);
    }
    Ok(())
}

#[cfg(test)]
pub(super) fn target_of(job: &str, pages: &[&[u8]]) -> Target {
    let mut target = Target { job: job.into(), ..Target::default() };
    let mut known = HashMap::new();
    for page in pages {
        read_page(&mut target, &mut known, page).unwrap();
    }
    target
}
