//! Sums and means of the native histograms in a window.

use crate::annotations::{Annotation, HistogramOperation};
use crate::functions::SeriesNotes;
use chronolith_model::histogram::IncompatibleSchema;
use chronolith_model::{CounterResetHint, FloatHistogram};
use std::sync::Arc;

/// What was seen on the way.
#[derive(Default)]
struct Seen {
    reset: bool,
    not_reset: bool,
    reconciled: bool,
}

impl Seen {
    fn hint(&mut self, h: &FloatHistogram) {
        self.reset |= h.counter_reset_hint == CounterResetHint::Reset;
        self.not_reset |= h.counter_reset_hint == CounterResetHint::NotReset;
    }

    fn add(
        &mut self,
        sum: &mut FloatHistogram,
        h: &FloatHistogram,
        compensation: &mut Option<FloatHistogram>,
    ) -> Result<(), IncompatibleSchema> {
        let compensation = compensation.get_or_insert_with(|| sum.new_compensation());
        self.reconciled |= sum.kahan_add(h, compensation)?.custom_bounds;
        Ok(())
    }
}

/// The sum, or mean, of at least one histogram, not compacted; `None`, with a note, if layouts do not fit.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `funcSumOverTime` and `funcAvgOverTime`.
pub(super) fn total(
    values: &[Arc<FloatHistogram>],
    average: bool,
    notes: &mut SeriesNotes<'_>,
) -> Option<FloatHistogram> {
    let mut seen = Seen::default();
    let result = if average { mean(values, &mut seen) } else { sum(values, &mut seen) };
    let Ok(result) = result else {
        notes.named(Annotation::MixedExponentialCustomHistograms);
        return None;
    };
    if seen.reset && seen.not_reset {
        notes.add(Annotation::HistogramCounterResetCollision(HistogramOperation::Aggregation));
    }
    if seen.reconciled {
        notes.add(Annotation::MismatchedCustomBuckets(HistogramOperation::Aggregation));
    }
    Some(result)
}

fn sum(values: &[Arc<FloatHistogram>], seen: &mut Seen) -> Result<FloatHistogram, IncompatibleSchema> {
    let mut sum = (*values[0]).clone();
    let mut compensation = None;
    seen.hint(&sum);
    for h in &values[1..] {
        seen.hint(h);
        seen.add(&mut sum, h, &mut compensation)?;
    }
    if let Some(compensation) = compensation {
        seen.reconciled |= sum.add(&compensation)?.custom_bounds;
    }
    Ok(sum)
}

fn mean(values: &[Arc<FloatHistogram>], seen: &mut Seen) -> Result<FloatHistogram, IncompatibleSchema> {
    let mut sum = (*values[0]).clone();
    let mut compensation: Option<FloatHistogram> = None;
    let mut mean: Option<FloatHistogram> = None;
    let mut count = 1.0;
    seen.hint(&sum);
    for h in &values[1..] {
        seen.hint(h);
        count += 1.0;
        let mut before = match mean.take() {
            Some(mean) => mean,
            None => {
                let (mut new_sum, mut new_compensation) = (sum.clone(), compensation.clone());
                seen.add(&mut new_sum, h, &mut new_compensation)?;
                if !new_sum.has_overflow() {
                    (sum, compensation) = (new_sum, new_compensation);
                    continue;
                }
                if let Some(compensation) = &mut compensation {
                    compensation.div(count - 1.0);
                }
                sum.div(count - 1.0);
                sum.clone()
            }
        };
        let q = (count - 1.0) / count;
        if let Some(compensation) = &mut compensation {
            compensation.mul(q);
        }
        let mut share = (**h).clone();
        share.div(count);
        before.mul(q);
        seen.add(&mut before, &share, &mut compensation)?;
        mean = Some(before);
    }
    if let Some(mut mean) = mean {
        if let Some(compensation) = compensation {
            mean.add(&compensation)?;
        }
        return Ok(mean);
    }
    sum.div(count);
    if let Some(mut compensation) = compensation {
        compensation.div(count);
        sum.add(&compensation)?;
    }
    Ok(sum)
}
