//! Functions of counters and gauges over a window: rate, increase, delta, irate, idelta, resets, changes.
//!
//! Source: Prometheus v3.14, `promql/functions.go`.

mod extended;
mod histogram;

pub(crate) use extended::{interpolate, interpolate_histograms};

use super::{
    ColumnValues, Extension, FloatColumn, FloatPoints, HistogramPoints, SeriesNotes, Window, WindowFunction,
};
use crate::annotations::{Annotation, HistogramOperation};
use crate::error::QueryError;
use crate::eval::batch::RowMut;
use crate::parser::Function;
use crate::value::SampleValue;
use chronolith_model::{CounterResetHint, FloatHistogram};
use std::sync::Arc;

/// The function of this family called `function`.
pub(super) fn find(function: Function) -> Option<Box<dyn WindowFunction>> {
    Some(match function {
        Function::Rate => Box::new(Extrapolated { is_counter: true, is_rate: true }),
        Function::Increase => Box::new(Extrapolated { is_counter: true, is_rate: false }),
        Function::Delta => Box::new(Extrapolated { is_counter: false, is_rate: false }),
        Function::Irate => Box::new(LastTwo { is_rate: true }),
        Function::Idelta => Box::new(LastTwo { is_rate: false }),
        Function::Resets => Box::new(Count::Resets),
        Function::Changes => Box::new(Count::Changes),
        _ => return None,
    })
}

/// `rate`, `increase`, `delta`: the difference between the ends of a window, extrapolated to its edges.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `extrapolatedRate`.
struct Extrapolated {
    /// Whether a fall in value is a reset.
    is_counter: bool,
    /// Whether the result is per second.
    is_rate: bool,
}

/// What is known of a window before extrapolation.
struct Ends {
    sampled_s: f64,
    to_start_s: f64,
    to_end_s: f64,
    n_samples_minus_one: f64,
}

impl WindowFunction for Extrapolated {
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        let has_floats = !window.floats.times.is_empty();
        if has_floats && !window.histograms.times.is_empty() {
            notes.named(Annotation::MixedFloatsHistograms);
            return Ok(None);
        }
        Ok(match (window.extension, has_floats) {
            (Extension::None, true) => self.floats(window, notes).map(SampleValue::Float),
            (Extension::None, false) => self.histograms(window, notes).map(histogram_value),
            (_, true) => extended::rate(window, self.is_counter, self.is_rate).map(SampleValue::Float),
            (_, false) => {
                extended::histogram_rate(window, self.is_counter, self.is_rate, notes).map(histogram_value)
            }
        })
    }

    fn column(
        &self,
        column: &FloatColumn<'_>,
        row: &mut RowMut<'_>,
        _notes: &mut SeriesNotes<'_>,
    ) -> Result<bool, QueryError> {
        if column.extension != Extension::None || (self.is_counter && !column.starts.is_empty()) {
            return Ok(false);
        }
        match column.values {
            ColumnValues::Constant(value) => self.constant_column(column, value, row),
            ColumnValues::Each(values) => self.value_column(column, values, row),
        }
        Ok(true)
    }

    fn weight(&self) -> usize {
        1
    }

    fn needs_geometry(&self) -> bool {
        true
    }

    fn factors(&self, low: &[u32], high: &[u32], geometry: &[[f64; 3]], range_s: f64) -> Vec<f64> {
        let factor = |(&[sampled_s, to_start_s, to_end_s], n): (&[f64; 3], u32)| {
            if n < 2 {
                return f64::NAN;
            }
            let ends = Ends { sampled_s, to_start_s, to_end_s, n_samples_minus_one: f64::from(n - 1) };
            let factor = self.factor(&ends, range_s, None);
            // Of counters only where the samples reach farther than to the start: see `series_without_resets`.
            if self.is_counter && sampled_s < self.reach_s(&ends) { f64::NAN } else { factor }
        };
        geometry.iter().zip(low.iter().zip(high).map(|(low, high)| high - low)).map(factor).collect()
    }

    fn expects_counter(&self) -> bool {
        self.is_counter
    }
}

impl Extrapolated {
    /// A series that never changes: its difference is zero, or NaN where it is not finite.
    fn constant_column(&self, column: &FloatColumn<'_>, value: f64, row: &mut RowMut<'_>) {
        // Whatever the factor: it is positive and finite.
        row.values.fill(if value.is_finite() { 0.0 } else { f64::NAN });
        row.present.copy_from_slice(column.pairs);
    }

    fn value_column(&self, column: &FloatColumn<'_>, values: &[f64], row: &mut RowMut<'_>) {
        // Positions of samples that are lower than the one before: usually none or few, so a window costs
        // two loads and not a scan. The values before them are added in order, as a scan would.
        let (Some(&first), Some(&last)) = (column.low.first(), column.high.last()) else {
            return;
        };
        let mut resets = Vec::new();
        if self.is_counter && first < last {
            let read = &values[first as usize..last as usize];
            // Without a branch for each sample, so that several are compared at once.
            let falls = read.windows(2).fold(false, |falls, pair| falls | (pair[1] < pair[0]));
            if falls {
                let read = first as usize + 1..last as usize;
                resets.extend(read.filter(|&i| values[i] < values[i - 1]));
            }
        }
        row.present.copy_from_slice(column.pairs);
        if resets.is_empty() {
            return self.series_without_resets(column, values, row);
        }
        let mut next_reset = 0;
        for (step, low, high) in column.windows(2) {
            while resets.get(next_reset).is_some_and(|&reset| reset <= low) {
                next_reset += 1;
            }
            let mut difference = values[high - 1] - values[low];
            for &reset in resets[next_reset..].iter().take_while(|&&reset| reset < high) {
                difference += values[reset - 1];
            }
            row.values[step] = difference * self.factor_at(column, step, high - low, difference, values[low]);
        }
    }

    /// Nearly all windows have the factor that their geometry gives. Others are those in which a counter would be
    /// below zero at the start. It is not where it grows by no more than it was at first: then it was zero at least as
    /// long ago as the samples reach, which is farther than to the start (`factors` has NaN where it is not).
    fn series_without_resets(&self, column: &FloatColumn<'_>, values: &[f64], row: &mut RowMut<'_>) {
        let windows = column.low.iter().zip(column.high).zip(column.factors);
        for (step, (cell, ((&low, &high), &factor))) in row.values.iter_mut().zip(windows).enumerate() {
            if high - low < 2 {
                continue;
            }
            let (first, last) = (values[low as usize], values[high as usize - 1]);
            let difference = last - first;
            let grows = self.is_counter && difference > 0.0 && first >= 0.0 && first < difference;
            *cell = match grows || factor.is_nan() {
                false => difference * factor,
                true => difference * self.factor_at(column, step, (high - low) as usize, difference, first),
            };
        }
    }

    fn factor_at(&self, column: &FloatColumn<'_>, step: usize, n: usize, difference: f64, first: f64) -> f64 {
        let [sampled_s, to_start_s, to_end_s] = column.geometry[step];
        let ends = Ends { sampled_s, to_start_s, to_end_s, n_samples_minus_one: (n - 1) as f64 };
        self.factor(&ends, column.range_s, (difference > 0.0 && first >= 0.0).then(|| first / difference))
    }

    /// What the difference is multiplied with. Samples close to an edge stand for the series up to the edge,
    /// others for half the average distance between samples. `zero` is how many sampled intervals before the
    /// first sample a counter was zero; it was never below.
    fn factor(&self, ends: &Ends, range_s: f64, zero: Option<f64>) -> f64 {
        let average_s = ends.sampled_s / ends.n_samples_minus_one;
        let threshold_s = average_s * 1.1;
        let mut to_start_s = self.reach_s(ends);
        if self.is_counter
            && let Some(zero) = zero
        {
            let to_zero_s = ends.sampled_s * zero;
            if to_zero_s < to_start_s {
                to_start_s = to_zero_s;
            }
        }
        self.scale(ends.sampled_s, to_start_s, ends.to_end_s, threshold_s, average_s, range_s)
    }

    /// How long before the first sample the series may have begun, zeros left aside.
    fn reach_s(&self, ends: &Ends) -> f64 {
        let average_s = ends.sampled_s / ends.n_samples_minus_one;
        if ends.to_start_s >= average_s * 1.1 { average_s / 2.0 } else { ends.to_start_s }
    }

    fn scale(
        &self,
        sampled_s: f64,
        to_start_s: f64,
        mut to_end_s: f64,
        threshold_s: f64,
        average_s: f64,
        range_s: f64,
    ) -> f64 {
        if to_end_s >= threshold_s {
            to_end_s = average_s / 2.0;
        }
        let mut factor = 1.0;
        if sampled_s != 0.0 {
            factor = (sampled_s + to_start_s + to_end_s) / sampled_s;
        }
        if self.is_rate {
            factor /= range_s;
        }
        factor
    }

    fn floats(&self, window: &Window<'_>, notes: &mut SeriesNotes<'_>) -> Option<f64> {
        let FloatPoints { times, values, starts } = window.floats;
        let last = times.len() - 1;
        let mut difference = values[last] - values[0];
        if self.is_counter {
            let mut overlap = false;
            for i in 1..values.len() {
                let starts_reset = !starts.is_empty() && {
                    overlap |= starts_overlap(starts[i - 1], times[i - 1], starts[i]);
                    is_start_reset(starts[i - 1], times[i - 1], starts[i], times[i])
                };
                if values[i] < values[i - 1] || starts_reset {
                    difference += values[i - 1];
                }
            }
            if overlap {
                notes.named(Annotation::StartTimeOverlap);
            }
        }
        let ends = Ends::new(window, times);
        let start = self.start_inside(window, starts, times);
        if let Some(start) = start {
            difference += values[0];
            return Some(difference * self.factor_from(&ends, start, times, window.range_s));
        }
        if last == 0 {
            return None;
        }
        let zero = (difference > 0.0 && values[0] >= 0.0).then(|| values[0] / difference);
        Some(difference * self.factor(&ends, window.range_s, zero))
    }

    /// The start timestamp of the first sample, if it lies in the window: the counter was zero then.
    fn start_inside(&self, window: &Window<'_>, starts: &[i64], times: &[i64]) -> Option<i64> {
        let &start = starts.first()?;
        let inside = self.is_counter && start != 0 && start > window.start && start < times[0];
        inside.then_some(start)
    }

    /// As [`Extrapolated::factor`], from the time at which the counter was zero.
    fn factor_from(&self, ends: &Ends, start: i64, times: &[i64], range_s: f64) -> f64 {
        let sampled_s = (times[times.len() - 1] - start) as f64 / 1000.0;
        let average_s =
            if ends.n_samples_minus_one > 0.0 { ends.sampled_s / ends.n_samples_minus_one } else { 0.0 };
        self.scale(sampled_s, 0.0, ends.to_end_s, average_s * 1.1, average_s, range_s)
    }

    fn histograms(&self, window: &Window<'_>, notes: &mut SeriesNotes<'_>) -> Option<FloatHistogram> {
        let HistogramPoints { times, values, starts } = window.histograms;
        let mut result = None;
        if values.len() > 1 {
            result = Some(histogram::difference(window.histograms, self.is_counter, notes)?);
        }
        let ends = Ends::new(window, times);
        let factor = if let Some(start) = self.start_inside(window, starts, times) {
            match &mut result {
                None => result = Some((*values[0]).clone()),
                Some(result) => {
                    if !histogram::add(result, &values[0], HistogramOperation::Add, notes) {
                        return None;
                    }
                }
            }
            self.factor_from(&ends, start, times, window.range_s)
        } else {
            let count = result.as_ref()?.count;
            let zero = (count > 0.0 && values[0].count >= 0.0).then(|| values[0].count / count);
            self.factor(&ends, window.range_s, zero)
        };
        let mut result = result?;
        result.mul(factor);
        Some(result)
    }
}

impl Ends {
    fn new(window: &Window<'_>, times: &[i64]) -> Self {
        let (first, last) = (times[0], times[times.len() - 1]);
        Self {
            sampled_s: (last - first) as f64 / 1000.0,
            to_start_s: (first - window.start) as f64 / 1000.0,
            to_end_s: (window.end - last) as f64 / 1000.0,
            n_samples_minus_one: (times.len() - 1) as f64,
        }
    }
}

fn histogram_value(h: FloatHistogram) -> SampleValue {
    SampleValue::Histogram(Arc::new(h))
}

/// Whether a start timestamp tells of a counter reset between two samples.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `isStartTimestampReset`.
fn is_start_reset(previous_start: i64, previous_time: i64, start: i64, time: i64) -> bool {
    if start == 0 || start >= time || start < previous_time {
        return false;
    }
    if start > previous_time {
        return true;
    }
    // It points at the sample before: a reset for deltas, none where the start is unknown.
    previous_start <= previous_time && previous_start != 0 && previous_start != previous_time
}

/// Whether a sample starts before the sample before it ends.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `checkStartTimeOverlap`.
fn starts_overlap(previous_start: i64, previous_time: i64, start: i64) -> bool {
    start != 0 && start < previous_time && start != previous_start
}

/// `irate`, `idelta`: the difference of the last two samples.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `instantValue`.
struct LastTwo {
    is_rate: bool,
}

/// A sample of either kind, with its times.
#[derive(Clone, Copy)]
struct Point<'a> {
    time: i64,
    start: i64,
    value: PointValue<'a>,
}

#[derive(Clone, Copy)]
enum PointValue<'a> {
    Float(f64),
    Histogram(&'a Arc<FloatHistogram>),
}

/// The samples of a window of both kinds, by time.
fn points<'a>(window: &Window<'a>) -> Vec<Point<'a>> {
    let FloatPoints { times, values, starts } = window.floats;
    let floats = (0..times.len()).map(|i| Point {
        time: times[i],
        start: starts.get(i).copied().unwrap_or(0),
        value: PointValue::Float(values[i]),
    });
    let HistogramPoints { times, values, starts } = window.histograms;
    let histograms = (0..times.len()).map(|i| Point {
        time: times[i],
        start: starts.get(i).copied().unwrap_or(0),
        value: PointValue::Histogram(&values[i]),
    });
    let mut points: Vec<_> = floats.chain(histograms).collect();
    if !window.histograms.times.is_empty() {
        points.sort_by_key(|point| point.time);
    }
    points
}

impl WindowFunction for LastTwo {
    fn weight(&self) -> usize {
        1
    }

    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        let points = points(window);
        let [.., first, last] = points[..] else {
            return Ok(None);
        };
        let sampled_s = (last.time - first.time) as f64 / 1000.0;
        let start_reset = is_start_reset(first.start, first.time, last.start, last.time);
        Ok(match (first.value, last.value) {
            (PointValue::Float(a), PointValue::Float(b)) => {
                let reset = self.is_rate && (b < a || start_reset);
                let difference = if reset { b } else { b - a };
                Some(SampleValue::Float(if self.is_rate { difference / sampled_s } else { difference }))
            }
            (PointValue::Histogram(a), PointValue::Histogram(b)) => {
                self.histograms(a, b, start_reset, sampled_s, notes).map(histogram_value)
            }
            _ => {
                notes.named(Annotation::MixedFloatsHistograms);
                None
            }
        })
    }

    fn column(
        &self,
        column: &FloatColumn<'_>,
        row: &mut RowMut<'_>,
        _notes: &mut SeriesNotes<'_>,
    ) -> Result<bool, QueryError> {
        if !column.starts.is_empty() {
            return Ok(false);
        }
        for (step, _, high) in column.windows(2) {
            let (a, b) = match column.values {
                ColumnValues::Constant(value) => (value, value),
                ColumnValues::Each(values) => (values[high - 2], values[high - 1]),
            };
            let sampled_s = (column.times[high - 1] - column.times[high - 2]) as f64 / 1000.0;
            let value = match self.is_rate {
                true if b < a => b / sampled_s,
                true => (b - a) / sampled_s,
                false => b - a,
            };
            row.set(step, value);
        }
        Ok(true)
    }
}

impl LastTwo {
    fn histograms(
        &self,
        first: &FloatHistogram,
        last: &FloatHistogram,
        start_reset: bool,
        sampled_s: f64,
        notes: &mut SeriesNotes<'_>,
    ) -> Option<FloatHistogram> {
        let is_gauge = |h: &FloatHistogram| h.counter_reset_hint == CounterResetHint::Gauge;
        if self.is_rate && (is_gauge(first) || is_gauge(last)) {
            notes.named(Annotation::NativeHistogramNotCounter);
        }
        if !(self.is_rate || is_gauge(first) && is_gauge(last)) {
            notes.named(Annotation::NativeHistogramNotGauge);
        }
        let mut result = last.clone();
        if !self.is_rate || (!start_reset && !last.detect_reset(first)) {
            match result.sub(first) {
                Err(_) => {
                    notes.named(Annotation::MixedExponentialCustomHistograms);
                    return None;
                }
                Ok(reconciled) if reconciled.custom_bounds => {
                    notes.add(Annotation::MismatchedCustomBuckets(HistogramOperation::Sub));
                }
                Ok(_) => {}
            }
        }
        result.counter_reset_hint = CounterResetHint::Gauge;
        result.compact();
        if self.is_rate {
            result.div(sampled_s);
        }
        Some(result)
    }
}

/// `resets`, `changes`: how often the value fell, or changed, from one sample of a window to the next.
enum Count {
    Resets,
    Changes,
}

impl Count {
    fn floats(&self, a: f64, b: f64) -> bool {
        match self {
            Self::Resets => b < a,
            Self::Changes => b != a && !(a.is_nan() && b.is_nan()),
        }
    }

    fn between(&self, a: &Point<'_>, b: &Point<'_>) -> bool {
        let start_reset = || matches!(self, Self::Resets) && is_start_reset(a.start, a.time, b.start, b.time);
        match (a.value, b.value) {
            (PointValue::Float(x), PointValue::Float(y)) => self.floats(x, y) || start_reset(),
            (PointValue::Histogram(x), PointValue::Histogram(y)) => match self {
                Self::Resets => start_reset() || y.detect_reset(x),
                Self::Changes => !y.same_data(x),
            },
            _ => true,
        }
    }
}

impl WindowFunction for Count {
    fn window(
        &self,
        window: &Window<'_>,
        _notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        let points = points(window);
        let mut points = &points[..];
        if window.extension == Extension::Anchored {
            // The last sample at or before the range is where counting starts.
            let inside = points.partition_point(|point| point.time <= window.start);
            if inside == points.len() {
                return Ok(None);
            }
            points = &points[inside.saturating_sub(1)..];
        }
        let count = points.windows(2).filter(|pair| self.between(&pair[0], &pair[1])).count();
        Ok(Some(SampleValue::Float(count as f64)))
    }

    fn column(
        &self,
        column: &FloatColumn<'_>,
        row: &mut RowMut<'_>,
        _notes: &mut SeriesNotes<'_>,
    ) -> Result<bool, QueryError> {
        if column.extension != Extension::None || !column.starts.is_empty() {
            return Ok(false);
        }
        let ColumnValues::Each(values) = column.values else {
            for (step, ..) in column.windows(1) {
                row.set(step, 0.0);
            }
            return Ok(true);
        };
        // How many of the samples before each differ from the one before them: a window is a difference.
        let mut counts = Vec::with_capacity(values.len());
        let mut n = 0u32;
        for i in 0..values.len() {
            if i > 0 && self.floats(values[i - 1], values[i]) {
                n += 1;
            }
            counts.push(n);
        }
        for (step, low, high) in column.windows(1) {
            row.set(step, f64::from(counts[high - 1] - counts[low]));
        }
        Ok(true)
    }
}
