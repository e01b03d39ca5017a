//! Rates, differences, resets and changes.
//!
//! Source: Prometheus v3.14, `promql/functions.go`, `extrapolatedRate`, `histogramRate`, `extendedRate`,
//! `extendedHistogramRate`, `instantValue`, `funcResets`, `funcChanges` and what they call.

use super::data::{Point, Window};
use super::evaluate::{floats_of, histograms_of};
use super::notes::Notes;
use super::tree::seconds;
use super::windows::Frame;
use crate::annotations::{Annotation, HistogramOperation};
use crate::parser::{Function, Span};
use crate::value::SampleValue;
use chronolith_model::{CounterResetHint, FloatHistogram};
use std::sync::Arc;

type Floats = [(i64, f64)];
type Histograms = [(i64, Arc<FloatHistogram>)];

fn value(histogram: FloatHistogram) -> Option<SampleValue> {
    Some(SampleValue::Histogram(Arc::new(histogram)))
}

fn is_gauge(histogram: &FloatHistogram) -> bool {
    histogram.counter_reset_hint == CounterResetHint::Gauge
}

pub(super) fn interpolate(p1: (i64, f64), p2: (i64, f64), t: i64, is_counter: bool) -> f64 {
    let y1 = if is_counter && p2.1 < p1.1 { 0.0 } else { p1.1 };
    y1 + (p2.1 - y1) * (t - p1.0) as f64 / (p2.0 - p1.0) as f64
}

pub(super) fn interpolate_histograms(
    (t1, h1): (i64, &FloatHistogram),
    (t2, h2): (i64, &FloatHistogram),
    t: i64,
    is_counter: bool,
    span: Span,
    notes: &mut Notes,
) -> Result<FloatHistogram, ()> {
    if t == t1 {
        return Ok(h1.clone());
    }
    if t == t2 {
        return Ok(h2.clone());
    }
    let fraction = (t - t1) as f64 / (t2 - t1) as f64;
    let mut result = h2.clone();
    if is_counter && h2.detect_reset(h1) {
        result.mul(fraction);
        return Ok(result);
    }
    if result.sub(h1).map_err(|_| ())?.custom_bounds {
        notes.add(Annotation::MismatchedCustomBuckets(HistogramOperation::Sub), span);
    }
    result.mul(fraction);
    if result.add(h1).map_err(|_| ())?.custom_bounds {
        notes.add(Annotation::MismatchedCustomBuckets(HistogramOperation::Add), span);
    }
    Ok(result)
}

/// Go's `sort.Search` over the times of samples.
fn search(n: usize, found: impl Fn(usize) -> bool) -> usize {
    (0..n).find(|&at| found(at)).unwrap_or(n)
}

/// The samples at the edges of an extended window.
pub(super) fn edges<T>(points: &[(i64, T)], start: i64, end: i64, smoothed: bool) -> (usize, usize) {
    let last = points.len() - 1;
    let first = search(last, |at| points[at].0 > start).saturating_sub(1);
    let last = if smoothed { search(last, |at| points[at].0 >= end) } else { last };
    (first, last)
}

pub(super) fn left(floats: &Floats, first: usize, start: i64, smoothed: bool, is_counter: bool) -> f64 {
    match smoothed && floats[first].0 < start {
        true => interpolate(floats[first], floats[first + 1], start, is_counter),
        false => floats[first].1,
    }
}

pub(super) fn right(floats: &Floats, last: usize, end: i64, smoothed: bool, is_counter: bool) -> f64 {
    match smoothed && last > 0 && floats[last].0 > end {
        true => interpolate(floats[last - 1], floats[last], end, is_counter),
        false => floats[last].1,
    }
}

/// `rate`, `increase` and `delta`.
pub(super) fn rate(frame: &Frame<'_>, window: &Window, notes: &mut Notes) -> Option<SampleValue> {
    let is_counter = frame.call.function != Function::Delta;
    let is_rate = frame.call.function == Function::Rate;
    let span = frame.call.first();
    let range_s = seconds(frame.call.range_ms);
    let (floats, histograms) = (floats_of(window), histograms_of(window));
    if !floats.is_empty() && !histograms.is_empty() {
        notes.add(Annotation::MixedFloatsHistograms(frame.name()), span);
        return None;
    }
    if frame.anchored || frame.smoothed {
        return match histograms.is_empty() {
            true => extended(frame, &floats, is_counter, is_rate.then_some(range_s)),
            false => extended_histograms(frame, &histograms, is_counter, is_rate.then_some(range_s), notes),
        };
    }
    let starts_of = |points: &[Point]| -> Vec<i64> {
        if frame.uses_start { points.iter().map(|point| point.start).collect() } else { Vec::new() }
    };
    let mut starts = Vec::new();
    let mut result = 0.0;
    let mut result_histogram: Option<FloatHistogram> = None;
    let (n, first, last);
    if histograms.is_empty() {
        (n, first, last) = (floats.len() - 1, floats[0].0, floats[floats.len() - 1].0);
        result = floats[n].1 - floats[0].1;
        if is_counter {
            starts = starts_of(&window.floats);
            let mut overlap = false;
            for (i, pair) in floats.windows(2).enumerate() {
                let [(t0, before), (t1, after)] = [pair[0], pair[1]];
                if !overlap && i + 1 < starts.len() && overlaps(starts[i], t0, starts[i + 1]) {
                    notes.add(Annotation::StartTimeOverlap(frame.name()), span);
                    overlap = true;
                }
                if after < before || (i + 1 < starts.len() && starts_anew(starts[i], t0, starts[i + 1], t1)) {
                    result += before;
                }
            }
        }
    } else {
        (n, first, last) = (histograms.len() - 1, histograms[0].0, histograms[histograms.len() - 1].0);
        starts = starts_of(&window.histograms);
        if n > 0 {
            result_histogram = Some(histogram_rate(frame, &histograms, &starts, is_counter, notes)?);
        }
    }
    let mut to_start = (first - frame.start) as f64 / 1000.0;
    let mut to_end = (frame.end - last) as f64 / 1000.0;
    let mut sampled = (last - first) as f64 / 1000.0;
    let average = if n > 0 { sampled / n as f64 } else { 0.0 };
    let threshold = average * 1.1;
    match starts.first() {
        Some(&start) if is_counter && start != 0 && start > frame.start && start < first => {
            to_start = 0.0;
            sampled = (last - start) as f64 / 1000.0;
            if let Some((_, first)) = floats.first() {
                result += first;
            } else {
                let first = &histograms[0].1;
                match &mut result_histogram {
                    None => result_histogram = Some((**first).clone()),
                    Some(result) => {
                        if !add(result, first, frame, span, notes) {
                            return None;
                        }
                    }
                }
            }
        }
        _ if n == 0 => return None,
        _ => {
            if to_start >= threshold {
                to_start = average / 2.0;
            }
            if is_counter {
                let mut to_zero = to_start;
                if result > 0.0 && floats.first().is_some_and(|(_, first)| *first >= 0.0) {
                    to_zero = sampled * (floats[0].1 / result);
                } else if let Some(result) = &result_histogram
                    && result.count > 0.0
                    && histograms[0].1.count >= 0.0
                {
                    to_zero = sampled * (histograms[0].1.count / result.count);
                }
                if to_zero < to_start {
                    to_start = to_zero;
                }
            }
        }
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let mut factor = 1.0;
    if sampled != 0.0 {
        factor = (sampled + to_start + to_end) / sampled;
    }
    if is_rate {
        factor /= range_s;
    }
    match result_histogram {
        None => Some(SampleValue::Float(result * factor)),
        Some(mut histogram) => {
            histogram.mul(factor);
            value(histogram)
        }
    }
}

/// Whether a counter began anew between two samples, as their start timestamps tell.
fn starts_anew(start0: i64, t0: i64, start1: i64, t1: i64) -> bool {
    if start1 == 0 || start1 >= t1 || start1 < t0 {
        return false;
    }
    if start1 > t0 {
        return true;
    }
    start0 <= t0 && start0 != 0 && start0 != t0
}

fn overlaps(start0: i64, t0: i64, start1: i64) -> bool {
    start1 != 0 && start1 < t0 && start1 != start0
}

fn add(
    sum: &mut FloatHistogram,
    other: &FloatHistogram,
    frame: &Frame<'_>,
    span: Span,
    notes: &mut Notes,
) -> bool {
    combined(sum.add(other), HistogramOperation::Add, frame, span, notes)
}

fn combined(
    result: Result<chronolith_model::histogram::Reconciled, chronolith_model::histogram::IncompatibleSchema>,
    operation: HistogramOperation,
    frame: &Frame<'_>,
    span: Span,
    notes: &mut Notes,
) -> bool {
    match result {
        Ok(reconciled) => {
            if reconciled.custom_bounds {
                notes.add(Annotation::MismatchedCustomBuckets(operation), span);
            }
            true
        }
        Err(_) => {
            notes.add(Annotation::MixedExponentialCustomHistograms(frame.name()), span);
            false
        }
    }
}

/// The difference of last and first histogram, with what was lost at resets. Notes made before an incompatible
/// layout is met are lost in some places, as upstream.
fn histogram_rate(
    frame: &Frame<'_>,
    points: &Histograms,
    starts: &[i64],
    is_counter: bool,
    notes: &mut Notes,
) -> Option<FloatHistogram> {
    let span = frame.call.first();
    let mixed = Annotation::MixedExponentialCustomHistograms(frame.name());
    let not_counter = Annotation::NativeHistogramNotCounter(frame.name());
    let n = points.len();
    let mut own: Vec<Annotation> = Vec::new();
    let mut first = (*points[0].1).clone();
    let mut custom = first.uses_custom_buckets();
    let last = &points[n - 1].1;
    if is_counter && (is_gauge(&first) || is_gauge(last)) {
        own.push(not_counter.clone());
    }
    let anew =
        |i: usize| i < starts.len() && starts_anew(starts[i - 1], points[i - 1].0, starts[i], points[i].0);
    if is_counter {
        let second = &points[1].1;
        if anew(1) || second.detect_reset(&first) {
            first = FloatHistogram {
                schema: second.schema,
                custom_values: second.custom_values.clone(),
                ..FloatHistogram::default()
            };
            custom = second.uses_custom_buckets();
        }
    }
    let flush =
        |own: Vec<Annotation>, notes: &mut Notes| own.into_iter().for_each(|note| notes.add(note, span));
    if last.uses_custom_buckets() != custom {
        own.push(mixed);
        flush(own, notes);
        return None;
    }
    let mut min_schema = last.schema.min(first.schema);
    for (_, current) in &points[1..n - 1] {
        if !is_counter {
            continue;
        }
        if is_gauge(current) {
            own.push(not_counter.clone());
        }
        min_schema = min_schema.min(current.schema);
        if current.uses_custom_buckets() != custom {
            notes.add(mixed, span);
            return None;
        }
    }
    let mut h = (**last).clone();
    if !h.uses_custom_buckets() {
        h = h.to_schema(min_schema);
    }
    match h.sub(&first) {
        Ok(reconciled) if reconciled.custom_bounds => {
            own.push(Annotation::MismatchedCustomBuckets(HistogramOperation::Sub));
        }
        Ok(_) => {}
        Err(_) => {
            notes.add(mixed, span);
            return None;
        }
    }
    if is_counter {
        let mut overlap = false;
        let mut previous = &first;
        for i in 1..n {
            let current = &points[i].1;
            if !overlap && i < starts.len() && overlaps(starts[i - 1], points[i - 1].0, starts[i]) {
                own.push(Annotation::StartTimeOverlap(frame.name()));
                overlap = true;
            }
            if anew(i) || current.detect_reset(previous) {
                match h.add(previous) {
                    Ok(reconciled) if reconciled.custom_bounds => {
                        own.push(Annotation::MismatchedCustomBuckets(HistogramOperation::Add));
                    }
                    Ok(_) => {}
                    Err(_) => {
                        notes.add(mixed, span);
                        return None;
                    }
                }
            }
            previous = current;
        }
    } else if !is_gauge(&points[0].1) || !is_gauge(last) {
        own.push(Annotation::NativeHistogramNotGauge(frame.name()));
    }
    flush(own, notes);
    h.counter_reset_hint = CounterResetHint::Gauge;
    h.compact();
    Some(h)
}

fn extended(
    frame: &Frame<'_>,
    floats: &Floats,
    is_counter: bool,
    range_s: Option<f64>,
) -> Option<SampleValue> {
    let (mut first, last) = edges(floats, frame.start, frame.end, frame.smoothed);
    if floats[last].0 <= frame.start || (frame.smoothed && floats[first].0 > frame.end) {
        return None;
    }
    let left = left(floats, first, frame.start, frame.smoothed, is_counter);
    let right = right(floats, last, frame.end, frame.smoothed, is_counter);
    let mut result = right - left;
    if is_counter {
        if floats[first].0 <= frame.start {
            first += 1;
        }
        let end = if floats[last].0 >= frame.end { last } else { last + 1 };
        let mut correction = 0.0;
        let mut previous = left;
        for &(_, value) in floats.get(first..end).unwrap_or_default() {
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
    if let Some(range_s) = range_s {
        result /= range_s;
    }
    Some(SampleValue::Float(result))
}

fn extended_histograms(
    frame: &Frame<'_>,
    h: &Histograms,
    is_counter: bool,
    range_s: Option<f64>,
    notes: &mut Notes,
) -> Option<SampleValue> {
    let span = frame.call.first();
    let (first, last) = edges(h, frame.start, frame.end, frame.smoothed);
    if h[last].0 <= frame.start || (frame.smoothed && h[first].0 > frame.end) {
        return None;
    }
    let mixed = || Annotation::MixedExponentialCustomHistograms(frame.name());
    let custom = h[first].1.uses_custom_buckets();
    for (_, histogram) in &h[first..=last] {
        if histogram.uses_custom_buckets() != custom {
            notes.add(mixed(), span);
            return None;
        }
        if is_counter && is_gauge(histogram) {
            notes.add(Annotation::NativeHistogramNotCounter(frame.name()), span);
        }
    }
    let between = |a: usize, b: usize, t: i64, notes: &mut Notes| {
        let result = interpolate_histograms((h[a].0, &h[a].1), (h[b].0, &h[b].1), t, is_counter, span, notes);
        if result.is_err() {
            notes.add(mixed(), span);
        }
        result.ok()
    };
    let left = match frame.smoothed && h[first].0 < frame.start {
        true => between(first, first + 1, frame.start, notes)?,
        false => (*h[first].1).clone(),
    };
    let right = match frame.smoothed && last > 0 && h[last].0 > frame.end {
        true => between(last - 1, last, frame.end, notes)?,
        false => (*h[last].1).clone(),
    };
    if !is_counter && (!is_gauge(&left) || !is_gauge(&right)) {
        notes.add(Annotation::NativeHistogramNotGauge(frame.name()), span);
    }
    let mut result = right.clone();
    if !combined(result.sub(&left), HistogramOperation::Sub, frame, span, notes) {
        return None;
    }
    if is_counter
        && let Some(correction) = correction(frame, h, (first, last), &left, &right, span, notes)?
        && !add(&mut result, &correction, frame, span, notes)
    {
        return None;
    }
    if let Some(range_s) = range_s {
        result.div(range_s);
    }
    result.counter_reset_hint = CounterResetHint::Gauge;
    result.compact();
    value(result)
}

/// What was lost at resets inside an extended window; the outer `None` if histograms could not be added.
#[expect(clippy::option_option, reason = "nothing was lost, or nothing is known")]
fn correction(
    frame: &Frame<'_>,
    h: &Histograms,
    (first_index, last_index): (usize, usize),
    left: &FloatHistogram,
    right: &FloatHistogram,
    span: Span,
    notes: &mut Notes,
) -> Option<Option<FloatHistogram>> {
    let mut first = first_index + 1;
    let mut previous = left;
    if frame.smoothed
        && h[first_index].0 < frame.start
        && h[first_index + 1].1.detect_reset(&h[first_index].1)
    {
        previous = &h[first_index + 1].1;
        first += 1;
    }
    // One past the samples between the edges.
    let end = last_index;
    if first > end {
        return Some(None);
    }
    let mut correction: Option<FloatHistogram> = None;
    let between = h[first..end].iter().map(|(_, histogram)| &**histogram);
    for current in between.chain([right]) {
        if current.detect_reset(previous) {
            match &mut correction {
                None => correction = Some(previous.clone()),
                Some(sum) => {
                    if !add(sum, previous, frame, span, notes) {
                        return None;
                    }
                }
            }
        }
        previous = current;
    }
    Some(correction)
}

/// `irate` and `idelta`.
pub(super) fn instant(frame: &Frame<'_>, window: &Window, notes: &mut Notes) -> Option<SampleValue> {
    let is_rate = frame.call.function == Function::Irate;
    let span = frame.call.first();
    let mut points = merged(window);
    let last = points.pop()?;
    let before = points.pop()?;
    let interval = last.t - before.t;
    if interval == 0 {
        return None;
    }
    let anew = frame.uses_start && starts_anew(before.start, before.t, last.start, last.t);
    let per_second = interval as f64 / 1000.0;
    match (&before.value, &last.value) {
        (SampleValue::Float(a), SampleValue::Float(b)) => {
            let difference = if !is_rate || !(b < a || anew) { b - a } else { *b };
            Some(SampleValue::Float(if is_rate { difference / per_second } else { difference }))
        }
        (SampleValue::Histogram(a), SampleValue::Histogram(b)) => {
            if is_rate && (is_gauge(a) || is_gauge(b)) {
                notes.add(Annotation::NativeHistogramNotCounter(frame.name()), span);
            }
            if !is_rate && (!is_gauge(a) || !is_gauge(b)) {
                notes.add(Annotation::NativeHistogramNotGauge(frame.name()), span);
            }
            let mut result = (**b).clone();
            if (!is_rate || (!anew && !b.detect_reset(a)))
                && !combined(result.sub(a), HistogramOperation::Sub, frame, span, notes)
            {
                return None;
            }
            result.counter_reset_hint = CounterResetHint::Gauge;
            result.compact();
            if is_rate {
                result.div(per_second);
            }
            value(result)
        }
        _ => {
            notes.add(Annotation::MixedFloatsHistograms(frame.name()), span);
            None
        }
    }
}

/// All samples in the order of time.
fn merged(window: &Window) -> Vec<Point> {
    let mut points: Vec<Point> = window.floats.iter().chain(&window.histograms).cloned().collect();
    points.sort_by_key(|point| point.t);
    points
}

/// All samples from the one that anchors the window on; nothing if there is none after its start.
fn from_anchor(frame: &Frame<'_>, window: &Window) -> Option<Vec<Point>> {
    let points = merged(window);
    if !frame.anchored {
        return Some(points);
    }
    let after = points.partition_point(|point| point.t <= frame.start);
    if after == points.len() {
        return None;
    }
    Some(points[after.saturating_sub(1)..].to_vec())
}

pub(super) fn resets(frame: &Frame<'_>, window: &Window) -> Option<f64> {
    let points = from_anchor(frame, window)?;
    let is_reset = |pair: &[Point]| {
        let (a, b) = (&pair[0], &pair[1]);
        let anew = frame.uses_start && starts_anew(a.start, a.t, b.start, b.t);
        match (&a.value, &b.value) {
            (SampleValue::Float(x), SampleValue::Float(y)) => y < x || anew,
            (SampleValue::Histogram(x), SampleValue::Histogram(y)) => anew || y.detect_reset(x),
            _ => true,
        }
    };
    Some(points.windows(2).filter(|pair| is_reset(pair)).count() as f64)
}

pub(super) fn changes(frame: &Frame<'_>, window: &Window) -> Option<f64> {
    let points = from_anchor(frame, window)?;
    let is_change = |pair: &[Point]| match (&pair[0].value, &pair[1].value) {
        (SampleValue::Float(x), SampleValue::Float(y)) => x != y && !(x.is_nan() && y.is_nan()),
        (SampleValue::Histogram(x), SampleValue::Histogram(y)) => !y.same_data(x),
        _ => true,
    };
    Some(points.windows(2).filter(|pair| is_change(pair)).count() as f64)
}
