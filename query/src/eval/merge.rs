//! Series whose labels became equal: merged where they never meet, an error where they do.

use super::batch::{Batch, Grid, HistogramColumn, set_bit};
use super::labels::LabelSetId;
use super::{Cx, Operator, OutSeries};
use crate::annotations::Annotations;
use crate::error::QueryError;
use std::collections::HashMap;

/// When series with equal labels are an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collision {
    /// At a step at which two of them have a sample.
    AtStep,
    /// If two of them have any sample: functions over windows.
    Ever,
}

/// Merges the series of an operator that have equal labels. Costs nothing where all labels differ.
pub(crate) fn merged(
    cx: &Cx<'_>,
    inner: Box<dyn Operator>,
    grid: Grid,
    collision: Collision,
) -> Result<Box<dyn Operator>, QueryError> {
    cx.charge_labels()?;
    let mut groups: HashMap<LabelSetId, Group> = HashMap::with_capacity(inner.series().len());
    for (at, series) in inner.series().iter().enumerate() {
        let group = groups.entry(series.labels).or_insert(Group { first: at, last: at });
        group.last = at;
    }
    if groups.len() == inner.series().len() {
        return Ok(inner);
    }
    // A merged row comes out where its last member was, with what is known of its first.
    let members = inner.series();
    let series: Vec<OutSeries> = members
        .iter()
        .enumerate()
        .filter_map(|(at, series)| {
            let group = &groups[&series.labels];
            (group.last == at).then(|| members[group.first])
        })
        .collect();
    groups.retain(|_, group| group.first != group.last);
    Ok(Box::new(Merged {
        inner,
        grid,
        collision,
        groups,
        open: HashMap::new(),
        series,
        emitted: 0,
        batch: Batch::default(),
    }))
}

/// First and last series with the same labels.
struct Group {
    first: usize,
    last: usize,
}

struct Merged {
    inner: Box<dyn Operator>,
    grid: Grid,
    collision: Collision,
    /// Only those with several members.
    groups: HashMap<LabelSetId, Group>,
    /// Groups that are not complete: their rows so far, as a batch of one.
    open: HashMap<LabelSetId, Batch>,
    series: Vec<OutSeries>,
    emitted: usize,
    batch: Batch,
}

impl Operator for Merged {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        loop {
            if !self.inner.next(cx, &mut self.batch)? {
                return Ok(false);
            }
            let batch = std::mem::take(&mut self.batch);
            let series = &self.inner.series()[batch.first..batch.first + batch.rows];
            let complete = |at: usize| {
                self.groups.get(&series[at].labels).is_none_or(|group| group.last == batch.first + at)
            };
            let n_rows = (0..batch.rows).filter(|&at| complete(at)).count();
            out.reset(cx, &self.grid, self.emitted, n_rows)?;
            let mut n_out = 0;
            for (at, series) in series.iter().enumerate() {
                let Some(group) = self.groups.get(&series.labels) else {
                    out.copy_row(n_out, batch.row(at));
                    n_out += 1;
                    continue;
                };
                let merged = match self.open.remove(&series.labels) {
                    Some(mut merged) => {
                        merge_row(&mut merged, &batch, at, self.collision)?;
                        merged
                    }
                    None => {
                        let mut merged = Batch::new(cx, &self.grid, 0, 1)?;
                        merged.copy_row(0, batch.row(at));
                        merged
                    }
                };
                if group.last == batch.first + at {
                    out.copy_row(n_out, merged.row(0));
                    n_out += 1;
                } else {
                    self.open.insert(series.labels, merged);
                }
            }
            if n_rows > 0 {
                self.emitted += n_rows;
                out.charge_samples()?;
                return Ok(true);
            }
        }
    }

    fn finish(self: Box<Self>) -> Annotations {
        self.inner.finish()
    }
}

/// Adds the samples of row `at` of `batch` to the only row of `merged`.
fn merge_row(merged: &mut Batch, batch: &Batch, at: usize, collision: Collision) -> Result<(), QueryError> {
    let row = batch.row(at);
    let old = merged.row(0);
    if row.is_empty() {
        return Ok(());
    }
    if old.is_empty() {
        let histograms = row.histograms.cloned();
        merged.histograms.clear();
        merged.copy_row(0, super::batch::Row { histograms: None, ..row });
        if let Some(column) = histograms {
            merged.set_histograms(0, column);
        }
        return Ok(());
    }
    let mut seen = vec![0; row.present.len()];
    let mut new = vec![0; row.present.len()];
    old.mark_any(&mut seen);
    row.mark_any(&mut new);
    let meet = seen.iter().zip(&new).any(|(a, b)| a & b != 0);
    if meet || collision == Collision::Ever {
        return Err(QueryError::same_labelset());
    }
    let mut histograms = merged.take_histograms(0).unwrap_or_default();
    if let Some(column) = row.histograms {
        histograms = interleave(histograms, column);
    }
    let mut target = merged.row_mut(0);
    for step in row.float_steps() {
        target.values[step] = row.values[step];
        set_bit(target.present, step);
    }
    target.finish();
    merged.set_histograms(0, histograms);
    Ok(())
}

/// Two columns with no step in common.
fn interleave(a: HistogramColumn, b: &HistogramColumn) -> HistogramColumn {
    let mut all: Vec<_> = a.steps.into_iter().zip(a.values).collect();
    all.extend(b.steps.iter().copied().zip(b.values.iter().cloned()));
    all.sort_by_key(|(step, _)| *step);
    let (steps, values) = all.into_iter().unzip();
    HistogramColumn { steps, values }
}
