//! Rates over `anchored` and `smoothed` windows: differences between values at the very edges of a range.
//!
//! Source: Prometheus v3.14, `promql/functions.go`, `extendedRate` and `extendedHistogramRate`.

use super::histogram::{add, sub};
use crate::annotations::{Annotation, HistogramOperation};
use crate::functions::{Extension, SeriesNotes, Window};
use chronolith_model::{CounterResetHint, FloatHistogram};

/// First and last sample that matter; `None` if there is nothing to measure.
fn ends(window: &Window<'_>, times: &[i64]) -> Option<(usize, usize)> {
    let smoothed = window.extension == Extension::Smoothed;
    let mut last = times.len() - 1;
    let first = times[..last].partition_point(|&t| t <= window.start).saturating_sub(1);
    if smoothed {
        last = times[..last].partition_point(|&t| t < window.end);
    }
    let nothing = times[last] <= window.start || (smoothed && times[first] > window.end);
    (!nothing).then_some((first, last))
}

/// The difference between the edges of a range of floats.
pub(super) fn rate(window: &Window<'_>, is_counter: bool, is_rate: bool) -> Option<f64> {
    let (times, values) = (window.floats.times, window.floats.values);
    let smoothed = window.extension == Extension::Smoothed;
    let (mut first, mut last) = ends(window, times)?;
    let between =
        |i: usize, t: i64| interpolate((times[i], values[i]), (times[i + 1], values[i + 1]), t, is_counter);
    let left =
        if smoothed && times[first] < window.start { between(first, window.start) } else { values[first] };
    let right = if smoothed && last > 0 && times[last] > window.end {
        between(last - 1, window.end)
    } else {
        values[last]
    };
    let mut result = right - left;
    if is_counter {
        if times[first] <= window.start {
            first += 1;
        }
        let mut end = last + 1;
        if times[last] >= window.end {
            end = last;
        }
        last = end;
        let mut previous = left;
        let mut correction = 0.0;
        for &value in values.get(first..last).unwrap_or(&[]) {
            if value < previous {
                correction += previous;
            }
            previous = value;
        }
        if right < previous {
            correction += previous;
        }
        result += correction;
    }
    Some(if is_rate { result / window.range_s } else { result })
}

/// The value at `t` on the line between two samples; a counter that fell started from zero.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `interpolate`.
pub(crate) fn interpolate(a: (i64, f64), b: (i64, f64), t: i64, is_counter: bool) -> f64 {
    let y = if is_counter && b.1 < a.1 { 0.0 } else { a.1 };
    y + (b.1 - y) * (t - a.0) as f64 / (b.0 - a.0) as f64
}

/// The difference between the edges of a range of histograms.
pub(super) fn histogram_rate(
    window: &Window<'_>,
    is_counter: bool,
    is_rate: bool,
    notes: &mut SeriesNotes<'_>,
) -> Option<FloatHistogram> {
    let (times, values) = (window.histograms.times, window.histograms.values);
    let smoothed = window.extension == Extension::Smoothed;
    let (first, last) = ends(window, times)?;
    let custom = values[first].uses_custom_buckets();
    for h in &values[first..=last] {
        if h.uses_custom_buckets() != custom {
            notes.named(Annotation::MixedExponentialCustomHistograms);
            return None;
        }
        if is_counter && h.counter_reset_hint == CounterResetHint::Gauge {
            notes.named(Annotation::NativeHistogramNotCounter);
        }
    }
    let mut between = |i: usize, t: i64| {
        let (a, b) = ((times[i], &*values[i]), (times[i + 1], &*values[i + 1]));
        interpolate_histograms(a, b, t, is_counter, notes)
    };
    let left = if smoothed && times[first] < window.start {
        between(first, window.start)?
    } else {
        (*values[first]).clone()
    };
    let right = if smoothed && last > 0 && times[last] > window.end {
        between(last - 1, window.end)?
    } else {
        (*values[last]).clone()
    };
    let is_gauge = |h: &FloatHistogram| h.counter_reset_hint == CounterResetHint::Gauge;
    if !(is_counter || is_gauge(&left) && is_gauge(&right)) {
        notes.named(Annotation::NativeHistogramNotGauge);
    }
    let mut result = right.clone();
    sub(&mut result, &left, notes)?;
    if is_counter {
        let correction = histogram_correction(window, (first, last), &left, &right, notes)?;
        if let Some(correction) = correction
            && !add(&mut result, &correction, HistogramOperation::Add, notes)
        {
            return None;
        }
    }
    if is_rate {
        result.div(window.range_s);
    }
    result.counter_reset_hint = CounterResetHint::Gauge;
    result.compact();
    Some(result)
}

/// What was counted before the resets between two edges; `None` if layouts do not fit.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `correctForCounterResetsHistogram`.
fn histogram_correction(
    window: &Window<'_>,
    (first, last): (usize, usize),
    left: &FloatHistogram,
    right: &FloatHistogram,
    notes: &mut SeriesNotes<'_>,
) -> Option<Option<FloatHistogram>> {
    let (times, values) = (window.histograms.times, window.histograms.values);
    let mut start = first + 1;
    let mut previous = left;
    // A reset that the left edge was interpolated over is already accounted for.
    if window.extension == Extension::Smoothed
        && times[first] < window.start
        && values[first + 1].detect_reset(&values[first])
    {
        previous = &values[first + 1];
        start += 1;
    }
    if start > last {
        return Some(None);
    }
    let mut correction: Option<FloatHistogram> = None;
    let inner = values[start..last].iter().map(|h| &**h);
    for h in inner.chain(std::iter::once(right)) {
        if h.detect_reset(previous) {
            match &mut correction {
                None => correction = Some(previous.clone()),
                Some(correction) => {
                    if !add(correction, previous, HistogramOperation::Add, notes) {
                        return None;
                    }
                }
            }
        }
        previous = h;
    }
    Some(correction)
}

/// The histogram at `t` on the line between two samples; a counter that was reset started from zero. `None`,
/// with a note, if layouts do not fit.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `interpolateHistograms`.
pub(crate) fn interpolate_histograms(
    a: (i64, &FloatHistogram),
    b: (i64, &FloatHistogram),
    t: i64,
    is_counter: bool,
    notes: &mut SeriesNotes<'_>,
) -> Option<FloatHistogram> {
    if t == a.0 {
        return Some(a.1.clone());
    }
    let mut result = b.1.clone();
    if t == b.0 {
        return Some(result);
    }
    let fraction = (t - a.0) as f64 / (b.0 - a.0) as f64;
    if is_counter && b.1.detect_reset(a.1) {
        result.mul(fraction);
        return Some(result);
    }
    sub(&mut result, a.1, notes)?;
    result.mul(fraction);
    add(&mut result, a.1, HistogramOperation::Add, notes).then_some(result)
}
