//! Rates of native histograms.

use crate::annotations::{Annotation, HistogramOperation};
use crate::functions::{HistogramPoints, SeriesNotes};
use chronolith_model::histogram::{IncompatibleSchema, Reconciled};
use chronolith_model::{CounterResetHint, FloatHistogram};
use std::borrow::Cow;
use std::sync::Arc;

/// The last histogram of a window less the first, plus what was counted before each reset; a gauge, compacted.
/// `None`, with a note, if layouts do not fit. There are at least two histograms.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `histogramRate`.
pub(super) fn difference(
    points: HistogramPoints<'_>,
    is_counter: bool,
    notes: &mut SeriesNotes<'_>,
) -> Option<FloatHistogram> {
    let HistogramPoints { times, values, starts } = points;
    let (first, last) = (&*values[0], &*values[values.len() - 1]);
    let is_gauge = |h: &FloatHistogram| h.counter_reset_hint == CounterResetHint::Gauge;
    // Upstream forgets these where it finds in the middle that layouts do not fit.
    let mut own: Vec<Annotation> = Vec::new();
    let name = notes.symbols.resolve(notes.name);
    if is_counter && (is_gauge(first) || is_gauge(last)) {
        own.push(Annotation::NativeHistogramNotCounter(Arc::clone(&name)));
    }
    let start_reset = |i: usize| {
        !starts.is_empty() && super::is_start_reset(starts[i - 1], times[i - 1], starts[i], times[i])
    };

    // A first sample that is before a reset is of no interest, and so is its layout.
    let mut previous = Cow::Borrowed(first);
    if is_counter && (start_reset(1) || values[1].detect_reset(first)) {
        previous = Cow::Owned(FloatHistogram {
            schema: values[1].schema,
            custom_values: values[1].custom_values.clone(),
            ..FloatHistogram::default()
        });
    }
    let custom = previous.uses_custom_buckets();
    if last.uses_custom_buckets() != custom {
        own.into_iter().for_each(|note| notes.add(note));
        notes.named(Annotation::MixedExponentialCustomHistograms);
        return None;
    }
    let mut schema = last.schema.min(previous.schema);
    if is_counter {
        for h in &values[1..values.len() - 1] {
            if is_gauge(h) {
                own.push(Annotation::NativeHistogramNotCounter(Arc::clone(&name)));
            }
            schema = schema.min(h.schema);
            if h.uses_custom_buckets() != custom {
                notes.named(Annotation::MixedExponentialCustomHistograms);
                return None;
            }
        }
    }

    let mut result = last.clone();
    result.reduce_resolution(schema);
    let mut note_bounds = |result: Result<Reconciled, IncompatibleSchema>, operation| match result {
        Ok(reconciled) => {
            if reconciled.custom_bounds {
                own.push(Annotation::MismatchedCustomBuckets(operation));
            }
            Some(())
        }
        Err(_) => {
            notes.named(Annotation::MixedExponentialCustomHistograms);
            None
        }
    };
    note_bounds(result.sub(&previous), HistogramOperation::Sub)?;
    if is_counter {
        let mut overlap = false;
        for i in 1..values.len() {
            if !starts.is_empty() {
                overlap |= super::starts_overlap(starts[i - 1], times[i - 1], starts[i]);
            }
            if start_reset(i) || values[i].detect_reset(&previous) {
                note_bounds(result.add(&previous), HistogramOperation::Add)?;
            }
            previous = Cow::Borrowed(&*values[i]);
        }
        if overlap {
            own.push(Annotation::StartTimeOverlap(name));
        }
    } else if !is_gauge(first) || !is_gauge(last) {
        own.push(Annotation::NativeHistogramNotGauge(name));
    }
    own.into_iter().for_each(|note| notes.add(note));
    result.counter_reset_hint = CounterResetHint::Gauge;
    result.compact();
    Some(result)
}

/// Adds with notes; false if the layouts do not fit.
pub(super) fn add(
    base: &mut FloatHistogram,
    other: &FloatHistogram,
    operation: HistogramOperation,
    notes: &mut SeriesNotes<'_>,
) -> bool {
    match base.add(other) {
        Err(_) => {
            notes.named(Annotation::MixedExponentialCustomHistograms);
            false
        }
        Ok(reconciled) => {
            if reconciled.custom_bounds {
                notes.add(Annotation::MismatchedCustomBuckets(operation));
            }
            true
        }
    }
}

/// Subtracts with notes; `None` if the layouts do not fit.
pub(super) fn sub(
    base: &mut FloatHistogram,
    other: &FloatHistogram,
    notes: &mut SeriesNotes<'_>,
) -> Option<()> {
    match base.sub(other) {
        Err(_) => {
            notes.named(Annotation::MixedExponentialCustomHistograms);
            None
        }
        Ok(reconciled) => {
            if reconciled.custom_bounds {
                notes.add(Annotation::MismatchedCustomBuckets(HistogramOperation::Sub));
            }
            Some(())
        }
    }
}
