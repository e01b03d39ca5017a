//! Functions over subqueries: rows of an inner grid are the samples of windows of an outer grid.

use super::batch::{Batch, Grid};
use super::join::first_failure;
use super::window::{NotedMetric, OwnedPoints, SeriesPoints, WindowCall, WindowPlan};
use super::{ColumnMap, Cx, Operator, OutSeries};
use crate::annotations::Annotations;
use crate::error::QueryError;
use crate::functions::ColumnValues;
use chronolith_model::{CounterResetHint, FloatHistogram};
use std::sync::Arc;

/// A window function over the rows of an inner operator.
pub(crate) struct SubqueryWindows {
    inner: Box<dyn Operator>,
    inner_times: Vec<i64>,
    call: WindowCall,
    /// Windows over all inner steps, for rows that have them all.
    plan: WindowPlan,
    series: Vec<OutSeries>,
    batch: Batch,
    scratch: Vec<f64>,
    noted: Option<NotedMetric>,
    notes: Annotations,
}

impl SubqueryWindows {
    /// `series` are those of `inner`, with the labels of the result.
    pub(crate) fn new(
        inner: Box<dyn Operator>,
        inner_grid: Grid,
        call: WindowCall,
        series: Vec<OutSeries>,
    ) -> Self {
        let inner_times: Vec<i64> = inner_grid.times().collect();
        let plan = call.plan(&inner_times);
        Self {
            inner,
            inner_times,
            call,
            plan,
            series,
            batch: Batch::default(),
            scratch: Vec::new(),
            noted: None,
            notes: Annotations::default(),
        }
    }
}

impl Operator for SubqueryWindows {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        if !self.inner.next(cx, &mut self.batch)? {
            return Ok(false);
        }
        if let Err(error) = self.fill(cx, out) {
            // The whole subquery is evaluated before any window.
            return Err(first_failure(cx, &mut *self.inner, error));
        }
        Ok(true)
    }

    fn push_map(&mut self, _map: &Arc<dyn ColumnMap>) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> Annotations {
        let mut notes = self.inner.finish();
        notes.merge(self.notes);
        notes
    }
}

impl SubqueryWindows {
    /// The windows over a batch of the inner operator.
    fn fill(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<(), QueryError> {
        let batch = &self.batch;
        out.reset(cx, &self.call.grid, batch.first, batch.rows)?;
        for at in 0..batch.rows {
            if at % 64 == 0 {
                cx.check()?;
            }
            let row = batch.row(at);
            let labels = cx.label_sets.get(self.inner.series()[batch.first + at].labels);
            if row.dense && row.histograms.is_none() {
                let floats = match row.constant {
                    true => ColumnValues::Constant(row.values[0]),
                    false => ColumnValues::Each(row.values),
                };
                let points = SeriesPoints {
                    float_times: &self.inner_times,
                    floats: Some(floats),
                    ..SeriesPoints::default()
                };
                self.call.fill_row(
                    cx,
                    &mut self.scratch,
                    &mut self.noted,
                    &points,
                    &self.plan,
                    &labels,
                    out,
                    at,
                    &mut self.notes,
                )?;
                continue;
            }
            let mut points = OwnedPoints::default();
            for step in row.float_steps() {
                points.float_times.push(self.inner_times[step]);
                points.floats.push(row.values[step]);
            }
            for (step, h) in row.histograms.into_iter().flat_map(|column| column.iter()) {
                points.histogram_times.push(self.inner_times[step]);
                points.histograms.push(without_hint(h));
            }
            let plan = self.call.plan(&points.float_times);
            self.call.fill_row(
                cx,
                &mut self.scratch,
                &mut self.noted,
                &points.view(),
                &plan,
                &labels,
                out,
                at,
                &mut self.notes,
            )?;
        }
        out.charge_samples()
    }
}

/// What a hint says of a sample and the one before it does not hold for the samples of a subquery.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `evalSubquery`.
fn without_hint(h: &Arc<FloatHistogram>) -> Arc<FloatHistogram> {
    match h.counter_reset_hint {
        CounterResetHint::Unknown | CounterResetHint::Gauge => Arc::clone(h),
        CounterResetHint::Reset | CounterResetHint::NotReset => {
            Arc::new(FloatHistogram { counter_reset_hint: CounterResetHint::Unknown, ..(**h).clone() })
        }
    }
}
