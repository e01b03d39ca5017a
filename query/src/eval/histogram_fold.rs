//! Sums and averages of native histograms by group and step: rare beside floats, so cells are kept in a map.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `aggregation`.

use super::Cx;
use super::batch::{Grid, HistogramColumn};
use super::fold::HasFloat;
use super::labels::LabelSetId;
use crate::annotations::{Annotation, Annotations, HistogramOperation};
use crate::error::QueryError;
use crate::limits::Charge;
use crate::parser::Span;
use chronolith_model::histogram::IncompatibleSchema;
use chronolith_model::{CounterResetHint, FloatHistogram};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Accumulators of all groups and steps that have seen a histogram.
pub(crate) struct HistogramFold {
    average: bool,
    /// Where the aggregated vector stands.
    span: Span,
    cells: BTreeMap<(usize, usize), Cell>,
    charge: Option<Charge>,
}

#[derive(Default)]
struct Cell {
    /// The sum; `None` if a float came first, which spoils the cell.
    sum: Option<FloatHistogram>,
    compensation: Option<FloatHistogram>,
    /// Set once the sum would overflow.
    mean: Option<FloatHistogram>,
    count: f64,
    reset: bool,
    not_reset: bool,
    /// Layouts did not fit; whether a float was there before.
    incompatible: Option<bool>,
}

/// What became of the histograms of a group at a step.
pub(super) enum FoldedHistogram {
    /// Their sum or average, and whether some say that there was a reset and some that there was none.
    Value { histogram: Arc<FloatHistogram>, collision: bool },
    /// Layouts did not fit; whether a float was there before.
    Incompatible { after_float: bool },
    /// A float came first.
    Spoilt,
}

impl HistogramFold {
    pub(crate) fn new(average: bool, span: Span) -> Self {
        Self { average, span, cells: BTreeMap::new(), charge: None }
    }

    /// Adds the histograms of one series.
    #[expect(clippy::too_many_arguments, reason = "the accumulators of floats decide with")]
    pub(super) fn add(
        &mut self,
        cx: &Cx<'_>,
        group: usize,
        column: &HistogramColumn,
        series: LabelSetId,
        floats: &impl HasFloat,
        grid: &Grid,
        notes: &mut Annotations,
    ) -> Result<(), QueryError> {
        for (step, h) in column.iter() {
            let cell = match self.cells.entry((group, step)) {
                std::collections::btree_map::Entry::Occupied(cell) => cell.into_mut(),
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    let size_bytes = 2 * h.go_size_bytes() + size_of::<Cell>();
                    match &mut self.charge {
                        Some(charge) => charge.add_bytes(size_bytes)?,
                        None => self.charge = Some(cx.store.budget.take(size_bytes, 0)?),
                    }
                    let float_first = floats.has_float(grid, group, step);
                    let cell = vacant.insert(Cell { count: 1.0, ..Cell::default() });
                    if !float_first {
                        cell.hint(h);
                        cell.sum = Some((**h).clone());
                    }
                    continue;
                }
            };
            if cell.incompatible.is_some() || cell.sum.is_none() {
                continue;
            }
            cell.hint(h);
            let added = if self.average { cell.add_to_mean(h) } else { cell.add(h) };
            match added {
                Err(_) => {
                    let name = cx.label_text(series, cx.names.metric);
                    notes.add(Annotation::MixedExponentialCustomHistograms(name), self.span);
                    cell.incompatible = Some(floats.has_float(grid, group, step));
                }
                Ok(true) => {
                    let note = Annotation::MismatchedCustomBuckets(HistogramOperation::Aggregation);
                    notes.add(note, self.span);
                }
                Ok(false) => {}
            }
        }
        Ok(())
    }

    /// Takes the results of a group out, by step.
    pub(super) fn take(&mut self, group: usize) -> Vec<(usize, FoldedHistogram)> {
        let mut rest = self.cells.split_off(&(group, 0));
        let mut after = rest.split_off(&(group + 1, 0));
        self.cells.append(&mut after);
        let mut results = Vec::with_capacity(rest.len());
        for ((_, step), cell) in rest {
            results.push((step, cell.result(self.average)));
        }
        results
    }
}

impl Cell {
    fn hint(&mut self, h: &FloatHistogram) {
        self.reset |= h.counter_reset_hint == CounterResetHint::Reset;
        self.not_reset |= h.counter_reset_hint == CounterResetHint::NotReset;
    }

    /// Whether custom bounds had to be reconciled.
    fn add(&mut self, h: &FloatHistogram) -> Result<bool, IncompatibleSchema> {
        let Some(sum) = &mut self.sum else {
            return Ok(false);
        };
        let compensation = self.compensation.get_or_insert_with(|| sum.new_compensation());
        Ok(sum.kahan_add(h, compensation)?.custom_bounds)
    }

    fn add_to_mean(&mut self, h: &FloatHistogram) -> Result<bool, IncompatibleSchema> {
        self.count += 1.0;
        let mut reconciled = false;
        if self.mean.is_none()
            && let Some(sum) = &mut self.sum
        {
            let mut new_sum = sum.clone();
            let mut new_compensation = self.compensation.clone().unwrap_or_else(|| sum.new_compensation());
            reconciled = new_sum.kahan_add(h, &mut new_compensation)?.custom_bounds;
            if !new_sum.has_overflow() {
                *sum = new_sum;
                self.compensation = Some(new_compensation);
                return Ok(reconciled);
            }
            let mut mean = sum.clone();
            mean.div(self.count - 1.0);
            self.mean = Some(mean);
            if let Some(compensation) = &mut self.compensation {
                compensation.div(self.count - 1.0);
            }
        }
        let Some(mean) = &mut self.mean else {
            return Ok(reconciled);
        };
        let q = (self.count - 1.0) / self.count;
        mean.mul(q);
        let compensation = self.compensation.get_or_insert_with(|| mean.new_compensation());
        compensation.mul(q);
        let mut share = h.clone();
        share.div(self.count);
        Ok(reconciled | mean.kahan_add(&share, compensation)?.custom_bounds)
    }

    fn result(self, average: bool) -> FoldedHistogram {
        if let Some(after_float) = self.incompatible {
            return FoldedHistogram::Incompatible { after_float };
        }
        let collision = self.reset && self.not_reset;
        let incremental = self.mean.is_some();
        let Some(mut result) = self.mean.or(self.sum) else { return FoldedHistogram::Spoilt };
        if average && !incremental {
            result.div(self.count);
        }
        if let Some(mut compensation) = self.compensation {
            if average && !incremental {
                compensation.div(self.count);
            }
            // Layouts fitted when the terms were made.
            let _ = result.add(&compensation);
        }
        result.compact();
        FoldedHistogram::Value { histogram: Arc::new(result), collision }
    }
}
