//! `smoothed` instant selectors: values between samples, on the line from one to the next.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `smoothSeries`.

use super::Cx;
use super::batch::{Batch, Grid, HistogramColumn};
use super::labels::{SymbolPairs, value_of};
use super::leaf::RowSource;
use super::window::OwnedPoints;
use crate::annotations::{Annotation, Annotations};
use crate::error::QueryError;
use crate::functions::SeriesNotes;
use crate::functions::rate::{interpolate, interpolate_histograms};
use crate::parser::Span;
use crate::plan::DataTime;
use chronolith_model::queryable::SampleBatch;
use chronolith_model::{CounterResetHint, FloatHistogram};
use std::ops::Range;
use std::sync::Arc;

/// Rows of a smoothed selector.
pub(crate) struct Smoothed {
    pub(crate) grid: Grid,
    pub(crate) time: DataTime,
    pub(crate) lookback_ms: i64,
    /// Where the selector stands.
    pub(crate) span: Span,
}

/// Where a time lies among samples.
enum Between {
    At(usize),
    /// After this one and before the next.
    Inside(usize),
    /// After the last one.
    After(usize),
}

fn find(times: &[i64], window: &Range<usize>, t: i64) -> Option<Between> {
    let at = window.start + times[window.clone()].partition_point(|&time| time < t);
    if at < window.end && times[at] == t {
        return Some(Between::At(at));
    }
    if at == window.start {
        return None;
    }
    Some(if at < window.end { Between::Inside(at - 1) } else { Between::After(at - 1) })
}

impl RowSource for Smoothed {
    type Scratch = ();

    fn fill(
        &self,
        cx: &Cx<'_>,
        (): &mut (),
        samples: &SampleBatch,
        at: usize,
        labels: &SymbolPairs,
        batch: &mut Batch,
        row: usize,
        annotations: &mut Annotations,
    ) -> Result<(), QueryError> {
        let name = value_of(labels, cx.names.metric);
        let mut notes = SeriesNotes { annotations, symbols: &cx.store.symbols, name, span: self.span };
        let points = OwnedPoints::new(samples, at, &[]);
        let mut histograms = HistogramColumn::default();
        let mut out = batch.row_mut(row);
        for step in 0..self.grid.n_steps {
            let t = self.time.at(self.grid.time(step));
            let window = |times: &[i64]| {
                let low = times.partition_point(|&time| time <= t - self.lookback_ms);
                low..times.partition_point(|&time| time <= t + self.lookback_ms)
            };
            let (floats, hists) = (window(&points.float_times), window(&points.histogram_times));
            if !floats.is_empty() && !hists.is_empty() {
                notes.named(Annotation::MixedFloatsHistograms);
                continue;
            }
            let times = &points.float_times;
            let sample = |at: usize| (times[at], points.floats[at]);
            match find(times, &floats, t) {
                Some(Between::At(at) | Between::After(at)) => out.set(step, points.floats[at]),
                Some(Between::Inside(at)) => {
                    out.set(step, interpolate(sample(at), sample(at + 1), t, false));
                }
                None => {}
            }
            if let Some(between) = find(&points.histogram_times, &hists, t)
                && let Some(h) = smooth_histogram(&points, &between, t, &mut notes)
            {
                histograms.push(step, h);
            }
        }
        out.finish();
        batch.set_histograms(row, histograms);
        Ok(())
    }
}

fn smooth_histogram(
    points: &OwnedPoints,
    between: &Between,
    t: i64,
    notes: &mut SeriesNotes<'_>,
) -> Option<Arc<FloatHistogram>> {
    let (times, values) = (&points.histogram_times, &points.histograms);
    match *between {
        Between::At(at) => Some(Arc::clone(&values[at])),
        Between::After(at) => Some(Arc::new(FloatHistogram {
            counter_reset_hint: CounterResetHint::Unknown,
            ..(*values[at]).clone()
        })),
        Between::Inside(at) => {
            let (a, b) = (&*values[at], &*values[at + 1]);
            if a.uses_custom_buckets() != b.uses_custom_buckets() {
                notes.named(Annotation::MixedExponentialCustomHistograms);
                return None;
            }
            let is_gauge = |h: &FloatHistogram| h.counter_reset_hint == CounterResetHint::Gauge;
            let is_counter = !(is_gauge(a) && is_gauge(b));
            interpolate_histograms((times[at], a), (times[at + 1], b), t, is_counter, notes).map(Arc::new)
        }
    }
}
