//! The read path: a version of the store is a list of parts, and a query sees them as one set of
//! series. Which part holds what, and which of two samples of a timestamp stays, is settled here.

pub mod columns;
mod hints;
mod labels;
pub mod lease;
pub mod lists;
pub mod merge;
mod samples;
mod select;

#[cfg(test)]
mod tests;

use crate::error::StorageError;
use crate::part::{Part, PartSelect};
use chronolith_model::append::{Exemplar, Metadata};
use chronolith_model::queryable::{
    Estimate, LabelQuery, Projection, QueryContext, ReadError, Select, SelectedSeries, Snapshot,
};
use chronolith_model::{Labels, Matcher};
use lease::{Lease, Leased};
use lists::Lists;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One version of the store from its parts, in any order.
pub fn snapshot(parts: Vec<Arc<dyn Part>>, bounds: Bounds) -> Arc<dyn Snapshot> {
    Arc::new(StoreSnapshot::new(parts, bounds))
}

/// What a version of the store shows of its parts.
#[derive(Debug)]
pub struct Bounds {
    /// Samples before it are not seen, although a block or table still holds them.
    pub oldest: i64,
    /// The store may take back the blocks while the version is held; without a lease it cannot.
    pub lease: Option<Arc<Lease>>,
    /// What the parts cannot serve.
    pub warnings: Vec<String>,
    /// Lists of names and values that versions before it left.
    pub lists: Arc<Lists>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { oldest: i64::MIN, lease: None, warnings: Vec::new(), lists: Arc::default() }
    }
}

/// Parts of one version of the store.
struct StoreSnapshot {
    // Invariant: ascending by precedence.
    parts: Vec<Arc<dyn Part>>,
    bounds: Bounds,
}

impl StoreSnapshot {
    fn new(mut parts: Vec<Arc<dyn Part>>, bounds: Bounds) -> Self {
        parts.sort_by_key(|part| part.precedence());
        Self { parts, bounds }
    }

    fn leased<'q>(&'q self, cx: &'q dyn QueryContext) -> Leased<'q> {
        Leased::new(self.bounds.lease.as_deref(), cx)
    }

    /// A look-up of what is old enough to be gone finds nothing of it.
    fn cut<'q>(&self, query: &LabelQuery<'q>) -> LabelQuery<'q> {
        LabelQuery { mint: query.mint.max(self.bounds.oldest), ..*query }
    }
}

/// The parts that have a sample in the range, or may.
fn overlapping(parts: &[Arc<dyn Part>], mint: i64, maxt: i64) -> impl Iterator<Item = &dyn Part> {
    let overlaps = move |(first, last)| mint <= maxt && first <= maxt && mint <= last;
    parts.iter().map(|part| &**part).filter(move |part| part.time_range().is_some_and(overlaps))
}

impl Snapshot for StoreSnapshot {
    fn estimate(&self, select: &Select<'_>) -> Result<Estimate, ReadError> {
        let mint = select.mint.max(self.bounds.oldest);
        let wanted =
            PartSelect { matchers: select.matchers, mint, maxt: select.maxt, labels: Projection::All };
        let mut total = Estimate::default();
        for part in overlapping(&self.parts, mint, select.maxt) {
            let estimate = part.estimate(&wanted)?;
            total.n_series = total.n_series.saturating_add(estimate.n_series);
            total.n_samples = total.n_samples.saturating_add(estimate.n_samples);
            total.size_bytes = total.size_bytes.saturating_add(estimate.size_bytes);
        }
        Ok(total)
    }

    fn select(
        &self,
        select: &Select<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Arc<dyn SelectedSeries>, ReadError> {
        let select = &Select { mint: select.mint.max(self.bounds.oldest), ..select.clone() };
        let cx = &self.leased(cx);
        // Series of several parts are told apart by all of their labels.
        let is_single = overlapping(&self.parts, select.mint, select.maxt).nth(1).is_none();
        let labels = if is_single { select.labels } else { Projection::All };
        let wanted = PartSelect { matchers: select.matchers, mint: select.mint, maxt: select.maxt, labels };
        let mut parts = Vec::new();
        for part in overlapping(&self.parts, select.mint, select.maxt) {
            cx.check()?;
            let series = part.select(&wanted, cx)?;
            if !series.is_empty() {
                parts.push(series);
            }
        }
        let rest = if is_single { Projection::All } else { select.labels };
        let select = &Select { labels: rest, ..select.clone() };
        Ok(Arc::new(select::Selected::new(parts, select, &self.bounds, cx)?))
    }

    fn label_names(&self, query: &LabelQuery<'_>, cx: &dyn QueryContext) -> Result<Vec<String>, ReadError> {
        let cx = &self.leased(cx);
        labels::collect(&self.parts, labels::Wanted::Names, &self.cut(query), &self.bounds.lists, cx)
    }

    fn label_values(
        &self,
        name: &str,
        query: &LabelQuery<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Vec<String>, ReadError> {
        let cx = &self.leased(cx);
        labels::collect(&self.parts, labels::Wanted::Values(name), &self.cut(query), &self.bounds.lists, cx)
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        self.parts
            .iter()
            .filter_map(|part| part.time_range())
            .reduce(|(first, last), (mint, maxt)| (first.min(mint), last.max(maxt)))
            .map(|(first, last)| (first.max(self.bounds.oldest).min(last), last))
    }

    fn warnings(&self) -> Vec<String> {
        self.bounds.warnings.clone()
    }
}

/// Exemplars in `[mint, maxt]` of the series that satisfy all matchers of any set (every series if
/// there is no set): series in API order, exemplars by time, each once.
///
/// # Errors
/// [`StorageError`] if the query has to stop or a part cannot be read.
pub fn exemplars(
    parts: &[Arc<dyn Part>],
    matcher_sets: &[Vec<Matcher>],
    mint: i64,
    maxt: i64,
    cx: &dyn QueryContext,
) -> Result<Vec<(Labels, Vec<Exemplar>)>, StorageError> {
    let mut found: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
    // Exemplars may lie outside of the range of their part's samples.
    for part in parts {
        for matchers in labels::sets(matcher_sets) {
            cx.check()?;
            let mut invalid = None;
            part.exemplars(
                &PartSelect { matchers, mint, maxt, labels: Projection::All },
                cx,
                &mut |pairs, exemplars| {
                    let in_range = |exemplar: &&Exemplar| (mint..=maxt).contains(&exemplar.timestamp);
                    match Labels::from_pairs(pairs.iter().copied()) {
                        Ok(labels) => {
                            found
                                .entry(labels)
                                .or_default()
                                .extend(exemplars.iter().filter(in_range).cloned());
                        }
                        Err(error) => invalid = Some(error),
                    }
                },
            )?;
            if let Some(error) = invalid {
                return Err(StorageError::corrupt("labels of exemplars", error.to_string()));
            }
        }
    }
    found.retain(|_, exemplars| {
        exemplars.sort_by(|a, b| a.timestamp.cmp(&b.timestamp).then_with(|| a.labels.cmp(&b.labels)));
        exemplars.dedup();
        !exemplars.is_empty()
    });
    Ok(found.into_iter().collect())
}

/// Metadata of all metric families: sorted by name, per family each distinct entry once.
///
/// # Errors
/// [`StorageError`] if a part cannot be read.
pub fn metadata(parts: &[Arc<dyn Part>]) -> Result<Vec<(String, Vec<Metadata>)>, StorageError> {
    let mut found: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
    for part in parts {
        part.metadata(&mut |family, metadata| match found.get_mut(family) {
            Some(known) if known.contains(metadata) => {}
            Some(known) => known.push(metadata.clone()),
            None => {
                found.insert(family.to_owned(), vec![metadata.clone()]);
            }
        })?;
    }
    Ok(found.into_iter().collect())
}
