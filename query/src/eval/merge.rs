//! Series whose labels became equal: merged where they never meet, an error where they do.

use super::batch::{Batch, Grid, HistogramColumn, Row, Rows, bits, get_bit, set_bit};
use super::labels::LabelSetId;
use super::{Cx, Kept, Operator, OutSeries};
use crate::error::QueryError;
use std::collections::HashMap;

/// When series with equal labels are an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collision {
    /// At a step at which two of them have a sample. What is known of the one with the first sample holds for
    /// all.
    AtStep,
    /// As [`Collision::AtStep`], but what is known of the first series holds for all, and whatever goes wrong in the
    /// operator comes first: functions of labels.
    Relabelled,
    /// If two of them have any sample: functions over windows.
    Ever,
}

/// Merges the series of an operator that have equal labels; each comes out where the first of them that has a
/// sample was. Costs nothing where all labels differ, otherwise all rows are evaluated and kept.
pub(crate) fn merged(
    cx: &Cx<'_>,
    mut inner: Box<dyn Operator>,
    grid: Grid,
    collision: Collision,
) -> Result<Box<dyn Operator>, QueryError> {
    cx.charge_labels()?;
    let n_words = cx.label_sets.len().div_ceil(64);
    let charge = cx.store.budget.take(n_words * 8, 0)?;
    let mut met = vec![0; n_words];
    let is_new = |series: &OutSeries| {
        let at = series.labels.index();
        let is_new = !get_bit(&met, at);
        set_bit(&mut met, at);
        is_new
    };
    if inner.series().iter().all(is_new) {
        return Ok(inner);
    }
    drop((met, charge));
    let mut merged = Merged { grid, collision, numbers: HashMap::new(), rows: Vec::new(), meeting: None };
    let mut batch = Batch::default();
    loop {
        match inner.next(cx, &mut batch) {
            Ok(true) => merged.add(cx, &batch, inner.series())?,
            Ok(false) => break,
            // Prometheus looks for equal labels after each step of the operator.
            Err(error) => {
                let failed_at = inner.failed_at().filter(|_| collision == Collision::AtStep);
                let earlier = merged.meeting.zip(failed_at).is_some_and(|(step, failed)| step < failed);
                return Err(if earlier { QueryError::same_labelset() } else { error });
            }
        }
    }
    if merged.meeting.is_some() {
        return Err(QueryError::same_labelset());
    }
    let mut rows = Rows::default();
    let mut series = Vec::with_capacity(merged.rows.len());
    for (one, batch) in merged.rows {
        series.push(one);
        rows.push(batch);
    }
    Ok(Box::new(Kept { grid, series, rows, at: 0, notes: inner.finish() }))
}

struct Merged {
    grid: Grid,
    collision: Collision,
    numbers: HashMap<LabelSetId, usize>,
    /// What is known of the first series with the labels, and the samples of all, as a batch of one row.
    rows: Vec<(OutSeries, Batch)>,
    /// The first step at which series with equal labels meet.
    meeting: Option<usize>,
}

impl Merged {
    fn add(&mut self, cx: &Cx<'_>, batch: &Batch, series: &[OutSeries]) -> Result<(), QueryError> {
        cx.check()?;
        for at in 0..batch.rows {
            let row = batch.row(at);
            if row.is_empty() {
                continue;
            }
            let series = series[batch.first + at];
            let number = *self.numbers.entry(series.labels).or_insert(self.rows.len());
            if number == self.rows.len() {
                let mut kept = Batch::new(cx, &self.grid, 0, 1)?;
                kept.copy_row(0, row);
                self.rows.push((series, kept));
                continue;
            }
            let meeting = match self.collision {
                Collision::Ever => Some(0),
                Collision::AtStep | Collision::Relabelled => {
                    let (known, kept) = &mut self.rows[number];
                    if self.collision == Collision::AtStep && first_step(&row) < first_step(&kept.row(0)) {
                        *known = series;
                    }
                    merge_row(kept, batch, at)
                }
            };
            self.meeting = self.meeting.into_iter().chain(meeting).min();
        }
        Ok(())
    }
}

/// The first step with a sample.
fn first_step(row: &Row<'_>) -> Option<usize> {
    let histogram = row.histograms.and_then(|column| column.iter().next()).map(|(step, _)| step);
    row.float_steps().next().into_iter().chain(histogram).min()
}

/// Adds the samples of row `at` of `batch` to the only row of `merged`, or says at which step they meet first.
fn merge_row(merged: &mut Batch, batch: &Batch, at: usize) -> Option<usize> {
    let row = batch.row(at);
    let mut seen = vec![0; row.present.len()];
    let mut new = vec![0; row.present.len()];
    merged.row(0).mark_any(&mut seen);
    row.mark_any(&mut new);
    seen.iter_mut().zip(&new).for_each(|(a, b)| *a &= b);
    if let Some(step) = bits(&seen).next() {
        return Some(step);
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
    None
}

/// Two columns with no step in common.
fn interleave(a: HistogramColumn, b: &HistogramColumn) -> HistogramColumn {
    let mut all: Vec<_> = a.steps.into_iter().zip(a.values).collect();
    all.extend(b.steps.iter().copied().zip(b.values.iter().cloned()));
    all.sort_by_key(|(step, _)| *step);
    let (steps, values) = all.into_iter().unzip();
    HistogramColumn { steps, values }
}
