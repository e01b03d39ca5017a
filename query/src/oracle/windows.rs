//! Functions of the samples in a window.
//!
//! Source: Prometheus v3.14, `promql/functions.go`.

use super::data::{Point, Window};
use super::evaluate::{floats_of, histograms_of};
use super::notes::Notes;
use super::tree::Node;
use super::{kahan, quantile, rate};
use crate::annotations::{Annotation, HistogramOperation};
use crate::go_format::format_fixed;
use crate::parser::{Function, Span};
use crate::value::SampleValue;
use chronolith_model::{CounterResetHint, FloatHistogram, Labels};
use std::rc::Rc;
use std::sync::Arc;

/// A call of a function with a range vector among its arguments.
pub(super) struct Call<'n> {
    pub(super) function: Function,
    pub(super) args: &'n [Node],
    /// Which argument is the range vector.
    pub(super) matrix: usize,
    pub(super) range_ms: i64,
    /// Where the range vector stands; nowhere for a subquery.
    pub(super) span: Span,
}

impl Call<'_> {
    /// Where the first argument stands.
    pub(super) fn first(&self) -> Span {
        if self.matrix == 0 { self.span } else { self.args[0].span }
    }
}

/// A window and what is known about it.
pub(super) struct Frame<'f> {
    pub(super) call: &'f Call<'f>,
    pub(super) labels: &'f Rc<Labels>,
    /// Time of the step.
    pub(super) ts: i64,
    /// The range is `(start, end]`.
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) anchored: bool,
    pub(super) smoothed: bool,
    pub(super) uses_start: bool,
    /// Scalar arguments at this step.
    pub(super) params: &'f [f64],
}

impl Frame<'_> {
    pub(super) fn name(&self) -> Arc<str> {
        self.labels.metric_name().into()
    }

    fn ignored(&self, window: &Window, notes: &mut Notes) {
        if !window.histograms.is_empty() {
            notes.add(Annotation::HistogramIgnoredInMixedRange(self.name()), self.call.first());
        }
    }
}

/// The value for a window that is not empty.
pub(super) fn call(
    frame: &Frame<'_>,
    window: &Window,
    notes: &mut Notes,
) -> Result<Option<SampleValue>, String> {
    let floats = floats_of(window);
    let histograms = histograms_of(window);
    let values = || floats.iter().map(|(_, value)| *value);
    let function = frame.call.function;
    let param = |at: usize| frame.params.get(at).copied().unwrap_or(f64::NAN);
    let result = match function {
        Function::Rate | Function::Increase | Function::Delta => return Ok(rate::rate(frame, window, notes)),
        Function::Irate | Function::Idelta => return Ok(rate::instant(frame, window, notes)),
        Function::Resets => return Ok(rate::resets(frame, window).map(SampleValue::Float)),
        Function::Changes => return Ok(rate::changes(frame, window).map(SampleValue::Float)),
        Function::AvgOverTime | Function::SumOverTime if !histograms.is_empty() => {
            if !floats.is_empty() {
                notes.add(Annotation::MixedFloatsHistograms(frame.name()), frame.call.first());
                return Ok(None);
            }
            let histograms: Vec<&FloatHistogram> = histograms.iter().map(|(_, h)| &**h).collect();
            let result = match function {
                Function::SumOverTime => sum(&histograms),
                _ => average(&histograms),
            };
            return Ok(noted(frame, &histograms, result, notes));
        }
        Function::AvgOverTime => Some(average_floats(values())),
        Function::SumOverTime => {
            let (sum, c) = values().fold((0.0, 0.0), |(sum, c), value| kahan(value, sum, c));
            Some(if f64::is_infinite(sum) { sum } else { sum + c })
        }
        Function::CountOverTime => Some((floats.len() + histograms.len()) as f64),
        Function::PresentOverTime | Function::AbsentOverTime => Some(1.0),
        Function::FirstOverTime => {
            return Ok(edge(window.floats.first(), window.histograms.first(), |f, h| f < h));
        }
        Function::LastOverTime => {
            return Ok(edge(window.floats.last(), window.histograms.last(), |f, h| h < f));
        }
        Function::TsOfFirstOverTime => {
            let first = |points: &[Point]| points.first().map_or(i64::MAX, |point| point.t);
            Some(first(&window.floats).min(first(&window.histograms)) as f64 / 1000.0)
        }
        Function::TsOfLastOverTime => {
            let last = |points: &[Point]| points.last().map_or(0, |point| point.t);
            Some(last(&window.floats).max(last(&window.histograms)) as f64 / 1000.0)
        }
        Function::DoubleExponentialSmoothing => {
            let (sf, tf) = (param(0), param(1));
            check_factor("smoothing", "sf", sf)?;
            check_factor("trend", "tf", tf)?;
            if !floats.is_empty() {
                frame.ignored(window, notes);
            }
            (floats.len() >= 2).then(|| smooth_twice(&floats, sf, tf))
        }
        _ if floats.is_empty() => None,
        Function::MaxOverTime => {
            frame.ignored(window, notes);
            Some(best(&floats, |value, best| value > best).1)
        }
        Function::MinOverTime => {
            frame.ignored(window, notes);
            Some(best(&floats, |value, best| value < best).1)
        }
        Function::TsOfMaxOverTime => {
            frame.ignored(window, notes);
            Some(best(&floats, |value, best| value >= best).0 as f64 / 1000.0)
        }
        Function::TsOfMinOverTime => {
            frame.ignored(window, notes);
            Some(best(&floats, |value, best| value <= best).0 as f64 / 1000.0)
        }
        Function::QuantileOverTime => {
            let q = param(0);
            if q.is_nan() || !(0.0..=1.0).contains(&q) {
                notes.add(Annotation::InvalidQuantile(q), frame.call.first());
            }
            frame.ignored(window, notes);
            Some(quantile::quantile(q, &mut values().collect::<Vec<_>>()))
        }
        Function::StddevOverTime | Function::StdvarOverTime => {
            frame.ignored(window, notes);
            let variance = variance(values());
            Some(if function == Function::StddevOverTime { variance.sqrt() } else { variance })
        }
        Function::MadOverTime => {
            frame.ignored(window, notes);
            let mut sorted: Vec<f64> = values().collect();
            if sorted.iter().any(|value| value.is_nan()) {
                return Ok(Some(SampleValue::Float(f64::NAN)));
            }
            let median = quantile::quantile(0.5, &mut sorted);
            sorted.iter_mut().for_each(|value| *value = (*value - median).abs());
            Some(quantile::quantile(0.5, &mut sorted))
        }
        Function::Deriv | Function::PredictLinear => {
            frame.ignored(window, notes);
            if floats.len() < 2 {
                return Ok(None);
            }
            Some(match function {
                Function::Deriv => regression(&floats, floats[0].0).0,
                _ => {
                    let (slope, intercept) = regression(&floats, frame.ts);
                    slope * param(0) + intercept
                }
            })
        }
        _ => return Err(format!("{} is no function of a window", function.name())),
    };
    Ok(result.map(SampleValue::Float))
}

fn check_factor(what: &str, name: &str, value: f64) -> Result<(), String> {
    if value <= 0.0 || value >= 1.0 {
        let value = format_fixed(value, 6);
        return Err(format!("invalid {what} factor. Expected: 0 < {name} < 1, got: {value}"));
    }
    Ok(())
}

fn edge(
    float: Option<&Point>,
    histogram: Option<&Point>,
    float_wins: impl Fn(i64, i64) -> bool,
) -> Option<SampleValue> {
    match (float, histogram) {
        (Some(f), Some(h)) if float_wins(f.t, h.t) => Some(f.value.clone()),
        (_, Some(h)) => Some(h.value.clone()),
        (f, None) => f.map(|point| point.value.clone()),
    }
}

/// Time and value of the best float; NaN is worst.
fn best(floats: &[(i64, f64)], better: impl Fn(f64, f64) -> bool) -> (i64, f64) {
    let mut best = floats[0];
    for &(t, value) in floats {
        if better(value, best.1) || best.1.is_nan() {
            best = (t, value);
        }
    }
    best
}

fn average_floats(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut c, mut mean, mut count) = (0.0, 0.0, 0.0, 0.0);
    let mut incremental = false;
    for (i, value) in values.enumerate() {
        count += 1.0;
        if i == 0 {
            sum = value;
            continue;
        }
        if !incremental {
            let (new_sum, new_c) = kahan(value, sum, c);
            if !new_sum.is_infinite() {
                (sum, c) = (new_sum, new_c);
                continue;
            }
            incremental = true;
            mean = sum / (count - 1.0);
            c /= count - 1.0;
        }
        let q = (count - 1.0) / count;
        (mean, c) = kahan(value / count, q * mean, q * c);
    }
    if incremental { mean + c } else { sum / count + c / count }
}

fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut mean, mut mean_c, mut aux, mut aux_c) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let delta = value - (mean + mean_c);
        (mean, mean_c) = kahan(delta / count, mean, mean_c);
        (aux, aux_c) = kahan(delta * (value - (mean + mean_c)), aux, aux_c);
    }
    (aux + aux_c) / count
}

/// Slope, and value at `time`.
fn regression(floats: &[(i64, f64)], time: i64) -> (f64, f64) {
    let first = floats[0].1;
    if !floats[1..].iter().any(|(_, value)| *value != first) {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let mut sums = [(0.0, 0.0); 4];
    for &(t, y) in floats {
        let x = (t - time) as f64 / 1e3;
        for ((sum, c), increment) in sums.iter_mut().zip([x, y, x * y, x * x]) {
            (*sum, *c) = kahan(increment, *sum, *c);
        }
    }
    let [x, y, xy, x2] = sums.map(|(sum, c)| sum + c);
    let n = floats.len() as f64;
    let covariance = xy - x * y / n;
    let variance = x2 - x * x / n;
    let slope = covariance / variance;
    (slope, y / n - slope * x / n)
}

fn smooth_twice(floats: &[(i64, f64)], sf: f64, tf: f64) -> f64 {
    let (mut s0, mut s1) = (0.0, floats[0].1);
    let mut b = floats[1].1 - floats[0].1;
    for (i, &(_, value)) in floats.iter().enumerate().skip(1) {
        let x = sf * value;
        if i > 1 {
            b = tf * (s1 - s0) + (1.0 - tf) * b;
        }
        let y = (1.0 - sf) * (s1 + b);
        (s0, s1) = (s1, x + y);
    }
    s1
}

/// A histogram and whether custom bounds were reconciled on the way; an error where layouts do not fit.
type Folded = Result<(FloatHistogram, bool), ()>;

fn sum(histograms: &[&FloatHistogram]) -> Folded {
    let mut sum = histograms[0].clone();
    let mut compensation: Option<FloatHistogram> = None;
    let mut reconciled = false;
    for histogram in &histograms[1..] {
        let c = compensation.get_or_insert_with(|| sum.new_compensation());
        reconciled |= sum.kahan_add(histogram, c).map_err(|_| ())?.custom_bounds;
    }
    if let Some(c) = compensation {
        reconciled |= sum.add(&c).map_err(|_| ())?.custom_bounds;
    }
    Ok((sum, reconciled))
}

fn average(histograms: &[&FloatHistogram]) -> Folded {
    let mut sum = histograms[0].clone();
    let mut c: Option<FloatHistogram> = None;
    let mut mean: Option<FloatHistogram> = None;
    let mut reconciled = false;
    let mut count = 1.0;
    for histogram in &histograms[1..] {
        count += 1.0;
        if mean.is_none() {
            let mut new_sum = sum.clone();
            let mut new_c = c.clone().unwrap_or_else(|| new_sum.new_compensation());
            reconciled |= new_sum.kahan_add(histogram, &mut new_c).map_err(|_| ())?.custom_bounds;
            if !new_sum.has_overflow() {
                (sum, c) = (new_sum, Some(new_c));
                continue;
            }
            let mut start = sum.clone();
            start.div(count - 1.0);
            mean = Some(start);
            if let Some(c) = &mut c {
                c.div(count - 1.0);
            }
        }
        let Some(mean) = &mut mean else { continue };
        let q = (count - 1.0) / count;
        if let Some(c) = &mut c {
            c.mul(q);
        }
        let mut addend = (*histogram).clone();
        addend.div(count);
        mean.mul(q);
        let c = c.get_or_insert_with(|| mean.new_compensation());
        reconciled |= mean.kahan_add(&addend, c).map_err(|_| ())?.custom_bounds;
    }
    let mut result = match mean {
        Some(mean) => mean,
        None => {
            sum.div(count);
            if let Some(c) = &mut c {
                c.div(count);
            }
            sum
        }
    };
    if let Some(c) = c {
        result.add(&c).map_err(|_| ())?;
    }
    Ok((result, reconciled))
}

fn noted(
    frame: &Frame<'_>,
    histograms: &[&FloatHistogram],
    result: Folded,
    notes: &mut Notes,
) -> Option<SampleValue> {
    let span = frame.call.first();
    let Ok((result, reconciled)) = result else {
        notes.add(Annotation::MixedExponentialCustomHistograms(frame.name()), span);
        return None;
    };
    let seen = |hint| histograms.iter().any(|histogram| histogram.counter_reset_hint == hint);
    if seen(CounterResetHint::Reset) && seen(CounterResetHint::NotReset) {
        notes.add(Annotation::HistogramCounterResetCollision(HistogramOperation::Aggregation), span);
    }
    if reconciled {
        notes.add(Annotation::MismatchedCustomBuckets(HistogramOperation::Aggregation), span);
    }
    Some(SampleValue::Histogram(Arc::new(result)))
}

/// A metric that gave a rate, but does not look like a counter.
pub(super) fn note_non_counter(type_and_unit: bool, labels: &Labels, span: Span, notes: &mut Notes) {
    let name = labels.metric_name();
    if name.is_empty() {
        return;
    }
    if type_and_unit {
        let found = labels.get("__type__").unwrap_or("");
        if found != "counter" && found != "histogram" {
            let note = Annotation::PossibleNonCounterLabel { name: name.into(), type_label: found.into() };
            notes.add(note, span);
        }
    } else if !["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix)) {
        notes.add(Annotation::PossibleNonCounter(name.into()), span);
    }
}

/// The value of a smoothed selector at `time`.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `smoothSeries`.
pub(super) fn smooth(
    window: &Window,
    time: i64,
    name: &str,
    span: Span,
    notes: &mut Notes,
) -> Option<SampleValue> {
    if !window.histograms.is_empty() && !window.floats.is_empty() {
        notes.add(Annotation::MixedFloatsHistograms(name.into()), span);
        return None;
    }
    let histograms = histograms_of(window);
    if !histograms.is_empty() {
        let at = histograms.partition_point(|(t, _)| *t < time);
        let histogram = match (at.checked_sub(1).map(|before| &histograms[before]), histograms.get(at)) {
            (_, Some((t, histogram))) if *t == time => (**histogram).clone(),
            (Some((t1, h1)), Some((t2, h2))) => {
                if h1.uses_custom_buckets() != h2.uses_custom_buckets() {
                    notes.add(Annotation::MixedExponentialCustomHistograms(name.into()), span);
                    return None;
                }
                let gauge = |h: &FloatHistogram| h.counter_reset_hint == CounterResetHint::Gauge;
                let is_counter = !gauge(h1) || !gauge(h2);
                match rate::interpolate_histograms((*t1, h1), (*t2, h2), time, is_counter, span, notes) {
                    Ok(histogram) => histogram,
                    Err(()) => {
                        notes.add(Annotation::MixedExponentialCustomHistograms(name.into()), span);
                        return None;
                    }
                }
            }
            (Some((_, histogram)), None) => {
                FloatHistogram { counter_reset_hint: CounterResetHint::Unknown, ..(**histogram).clone() }
            }
            (None, _) => return None,
        };
        return Some(SampleValue::Histogram(Arc::new(histogram)));
    }
    let floats = floats_of(window);
    let at = floats.partition_point(|(t, _)| *t < time);
    let value = match (at.checked_sub(1).map(|before| floats[before]), floats.get(at)) {
        (_, Some((t, value))) if *t == time => *value,
        (Some(before), Some(after)) => rate::interpolate(before, *after, time, false),
        (Some((_, value)), None) => value,
        (None, _) => return None,
    };
    Some(SampleValue::Float(value))
}

/// Source: Prometheus v3.14, `promql/engine.go`, `extendFloats`.
pub(super) fn extend_floats(floats: &[(i64, f64)], mint: i64, maxt: i64, smoothed: bool) -> Vec<(i64, f64)> {
    if floats.is_empty() {
        return Vec::new();
    }
    let (mut first, last) = rate::edges(floats, mint, maxt, smoothed);
    if floats[last].0 <= mint {
        return Vec::new();
    }
    let left = rate::left(floats, first, mint, smoothed, false);
    let right = rate::right(floats, last, maxt, smoothed, false);
    if floats[first].0 <= mint {
        first += 1;
    }
    let end = if floats[last].0 >= maxt { last } else { last + 1 };
    let mut out = vec![(mint, left)];
    if first < end {
        out.extend_from_slice(&floats[first..end]);
    }
    out.push((maxt, right));
    out
}
