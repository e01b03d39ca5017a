//! Functions that fold the samples of a window: the `_over_time` family, deriv, predict_linear and double
//! exponential smoothing.
//!
//! Source: Prometheus v3.14, `promql/functions.go`.

mod exact;
mod histogram;
mod lanes;
mod lines;
mod sliding;
mod trend;

use super::{ColumnValues, FloatColumn, SeriesNotes, Window, WindowFunction};
use crate::annotations::Annotation;
use crate::error::QueryError;
use crate::eval::batch::RowMut;
use crate::parser::{Function, Span};
use crate::value::SampleValue;
use chronolith_model::histogram::kahan_increment;
use std::sync::Arc;

/// The function of this family called `function`.
pub(super) fn find(
    function: Function,
    mut scalars: Vec<Vec<f64>>,
    spans: &[Span],
) -> Option<Box<dyn WindowFunction>> {
    let fold = |fold: fn(&[i64], &[f64]) -> f64| -> Option<Box<dyn WindowFunction>> {
        Some(Box::new(FloatFold(fold)))
    };
    match function {
        Function::MaxOverTime => Some(Box::new(Extreme { beats: |a, b| a > b, time: false })),
        Function::MinOverTime => Some(Box::new(Extreme { beats: |a, b| a < b, time: false })),
        // The last of equals is wanted.
        Function::TsOfMaxOverTime => Some(Box::new(Extreme { beats: |a, b| a >= b, time: true })),
        Function::TsOfMinOverTime => Some(Box::new(Extreme { beats: |a, b| a <= b, time: true })),
        Function::StddevOverTime => Some(Box::new(Spread { root: true })),
        Function::StdvarOverTime => Some(Box::new(Spread { root: false })),
        Function::MadOverTime => fold(|_, values| median_absolute_deviation(values)),
        Function::SumOverTime => Some(Box::new(Total { average: false })),
        Function::AvgOverTime => Some(Box::new(Total { average: true })),
        Function::CountOverTime => Some(Box::new(Simple::Count)),
        Function::PresentOverTime | Function::AbsentOverTime => Some(Box::new(Simple::Present)),
        Function::FirstOverTime => Some(Box::new(Simple::First)),
        Function::LastOverTime => Some(Box::new(Simple::Last)),
        Function::TsOfFirstOverTime => Some(Box::new(Simple::TsOfFirst)),
        Function::TsOfLastOverTime => Some(Box::new(Simple::TsOfLast)),
        Function::QuantileOverTime => {
            Some(Box::new(Quantile { quantiles: scalars.pop()?, span: *spans.first()? }))
        }
        Function::Deriv => Some(Box::new(trend::Deriv)),
        Function::PredictLinear => Some(Box::new(trend::PredictLinear { ahead_s: scalars.pop()? })),
        Function::DoubleExponentialSmoothing => {
            let trend = scalars.pop()?;
            Some(Box::new(trend::Smoothing { smoothing: scalars.pop()?, trend }))
        }
        _ => None,
    }
}

/// Functions that look at one sample, or only at how many there are.
enum Simple {
    Count,
    Present,
    First,
    Last,
    TsOfFirst,
    TsOfLast,
}

impl WindowFunction for Simple {
    fn window(
        &self,
        window: &Window<'_>,
        _notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        let (floats, histograms) = (&window.floats, &window.histograms);
        let float_at = |at: usize| SampleValue::Float(floats.values[at]);
        let histogram_at = |at: usize| SampleValue::Histogram(Arc::clone(&histograms.values[at]));
        let ends = |times: &[i64]| Some((*times.first()?, *times.last()?));
        let (f, h) = (ends(floats.times), ends(histograms.times));
        Ok(Some(match self {
            Self::Count => SampleValue::Float((floats.times.len() + histograms.times.len()) as f64),
            Self::Present => SampleValue::Float(1.0),
            Self::First => match (f, h) {
                (Some(f), Some(h)) if h.0 <= f.0 => histogram_at(0),
                (None, _) => histogram_at(0),
                _ => float_at(0),
            },
            Self::Last => match (f, h) {
                (Some(f), Some(h)) if f.1 <= h.1 => histogram_at(histograms.times.len() - 1),
                (None, _) => histogram_at(histograms.times.len() - 1),
                _ => float_at(floats.times.len() - 1),
            },
            Self::TsOfFirst => {
                let first = f.into_iter().chain(h).map(|(first, _)| first).min().unwrap_or(0);
                SampleValue::Float(first as f64 / 1000.0)
            }
            Self::TsOfLast => {
                let last = match (f, h) {
                    (Some((_, f)), Some((_, h))) => f.max(h),
                    // In Prometheus a kind of samples that is not there counts as if it ended in 1970.
                    (Some((_, last)), None) | (None, Some((_, last))) => last.max(0),
                    (None, None) => 0,
                };
                SampleValue::Float(last as f64 / 1000.0)
            }
        }))
    }

    fn column(
        &self,
        column: &FloatColumn<'_>,
        row: &mut RowMut<'_>,
        _notes: &mut SeriesNotes<'_>,
    ) -> Result<bool, QueryError> {
        let value_at = |at: usize| match column.values {
            ColumnValues::Constant(value) => value,
            ColumnValues::Each(values) => values[at],
        };
        for (step, low, high) in column.windows(1) {
            row.set(
                step,
                match self {
                    Self::Count => (high - low) as f64,
                    Self::Present => 1.0,
                    Self::First => value_at(low),
                    Self::Last => value_at(high - 1),
                    Self::TsOfFirst => column.times[low] as f64 / 1000.0,
                    Self::TsOfLast => column.times[high - 1].max(0) as f64 / 1000.0,
                },
            );
        }
        Ok(true)
    }
}

/// A fold of the floats of a window; histograms are ignored, with a note where there are floats too.
struct FloatFold<F>(F);

impl<F: Fn(&[i64], &[f64]) -> f64 + Send + Sync> WindowFunction for FloatFold<F> {
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        if window.floats.times.is_empty() {
            return Ok(None);
        }
        if !window.histograms.times.is_empty() {
            notes.named(Annotation::HistogramIgnoredInMixedRange);
        }
        Ok(Some(SampleValue::Float(self.0(window.floats.times, window.floats.values))))
    }
}

/// `max_over_time` and `min_over_time`, and the times of these samples.
struct Extreme {
    beats: fn(f64, f64) -> bool,
    time: bool,
}

impl Extreme {
    /// The sample that no later one beats; NaN is beaten by anything.
    fn find(&self, values: &[f64]) -> usize {
        let mut best = 0;
        for (at, &value) in values.iter().enumerate() {
            if (self.beats)(value, values[best]) || values[best].is_nan() {
                best = at;
            }
        }
        best
    }

    fn result(&self, times: &[i64], values: &[f64], at: usize) -> f64 {
        if self.time { times[at] as f64 / 1000.0 } else { values[at] }
    }
}

impl WindowFunction for Extreme {
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        let (times, values) = (window.floats.times, window.floats.values);
        if times.is_empty() {
            return Ok(None);
        }
        if !window.histograms.times.is_empty() {
            notes.named(Annotation::HistogramIgnoredInMixedRange);
        }
        Ok(Some(SampleValue::Float(self.result(times, values, self.find(values)))))
    }

    fn column(
        &self,
        column: &FloatColumn<'_>,
        row: &mut RowMut<'_>,
        _notes: &mut SeriesNotes<'_>,
    ) -> Result<bool, QueryError> {
        match column.values {
            ColumnValues::Constant(value) if !self.time => {
                column.windows(1).for_each(|(step, ..)| row.set(step, value));
            }
            ColumnValues::Constant(_) => return Ok(false),
            ColumnValues::Each(values) if !self.time && sliding::are_ordered(values) => {
                let set = |step, value| row.set(step, value);
                match (self.beats)(1.0, 0.0) {
                    true => sliding::greatest(column, values, |a, b| if b > a { b } else { a }, set),
                    false => sliding::greatest(column, values, |a, b| if b < a { b } else { a }, set),
                }
            }
            ColumnValues::Each(values) if sliding::pays(column) => {
                sliding::extremes(column, values, self.beats, |step, at| {
                    row.set(step, self.result(column.times, values, at));
                });
            }
            ColumnValues::Each(values) => {
                for (step, low, high) in column.windows(1) {
                    let at = low + self.find(&values[low..high]);
                    row.set(step, self.result(column.times, values, at));
                }
            }
        }
        Ok(true)
    }
}

/// `stddev_over_time`, `stdvar_over_time`
struct Spread {
    root: bool,
}

impl Spread {
    fn of(&self, values: &[f64]) -> f64 {
        if self.root { variance(values).sqrt() } else { variance(values) }
    }
}

impl WindowFunction for Spread {
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        FloatFold(|_: &[i64], values: &[f64]| self.of(values)).window(window, notes)
    }

    fn column(
        &self,
        column: &FloatColumn<'_>,
        row: &mut RowMut<'_>,
        _notes: &mut SeriesNotes<'_>,
    ) -> Result<bool, QueryError> {
        let ColumnValues::Each(values) = column.values else {
            return Ok(false);
        };
        if !column.is_short() {
            return Ok(false);
        }
        lanes::variances(column, values, row.values);
        if self.root {
            row.values.iter_mut().for_each(|value| *value = value.sqrt());
        }
        row.present.copy_from_slice(column.filled);
        Ok(true)
    }
}

/// Population variance, with compensated sums.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `varianceOverTime`.
#[derive(Clone, Copy, Default)]
struct Variance {
    count: f64,
    /// A sum and its compensation, both.
    mean: (f64, f64),
    squares: (f64, f64),
}

impl Variance {
    fn with(mut self, values: &[f64]) -> Self {
        let Self { count, mean, squares } = &mut self;
        for &value in values {
            *count += 1.0;
            let delta = value - (mean.0 + mean.1);
            *mean = kahan_increment(delta / *count, mean.0, mean.1);
            *squares = kahan_increment(delta * (value - (mean.0 + mean.1)), squares.0, squares.1);
        }
        self
    }

    fn result(self) -> f64 {
        (self.squares.0 + self.squares.1) / self.count
    }
}

fn variance(values: &[f64]) -> f64 {
    Variance::default().with(values).result()
}

fn median_absolute_deviation(values: &[f64]) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    let mut values = values.to_vec();
    let median = quantile(0.5, &mut values);
    for value in &mut values {
        *value = (*value - median).abs();
    }
    quantile(0.5, &mut values)
}

/// The `q`-quantile, between neighbours by weight. Sorts the values, NaN first; there is at least one.
///
/// Source: Prometheus v3.14, `promql/quantile.go`, `quantile`.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if (0.0..=1.0).contains(&q) {
        if sliding::are_ordered(values) {
            values.sort_unstable_by(f64::total_cmp);
            return quantile_of_sorted(q, values);
        }
        // Stable, so that zeros of either sign stay in order, as in Prometheus where values are few.
        values.sort_by(|a, b| a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan())));
    }
    quantile_of_sorted(q, values)
}

fn quantile_of_sorted(q: f64, values: &[f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let n = values.len() as f64;
    let rank = q * (n - 1.0);
    let lower = rank.floor().max(0.0);
    let upper = (lower + 1.0).min(n - 1.0);
    let weight = rank - rank.floor();
    values[lower as usize] * (1.0 - weight) + values[upper as usize] * weight
}

/// `quantile_over_time`
struct Quantile {
    quantiles: Vec<f64>,
    /// Where the quantile stands.
    span: Span,
}

impl WindowFunction for Quantile {
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        if window.floats.times.is_empty() {
            return Ok(None);
        }
        let q = self.quantiles[window.step];
        if q.is_nan() || !(0.0..=1.0).contains(&q) {
            notes.annotations.add(Annotation::InvalidQuantile(q), self.span);
        }
        if !window.histograms.times.is_empty() {
            let note = Annotation::HistogramIgnoredInMixedRange(notes.symbols.resolve(notes.name));
            notes.annotations.add(note, self.span);
        }
        Ok(Some(SampleValue::Float(quantile(q, &mut window.floats.values.to_vec()))))
    }

    fn column(
        &self,
        column: &FloatColumn<'_>,
        row: &mut RowMut<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<bool, QueryError> {
        let ColumnValues::Each(values) = column.values else {
            return Ok(false);
        };
        // NaNs, and zeros of both signs, stay in the order of time when they are sorted.
        if !column.is_short()
            || values.iter().any(|value| value.is_nan() || *value == 0.0 && value.is_sign_negative())
        {
            return Ok(false);
        }
        sliding::sorted(column, values, |step, sorted| {
            let q = self.quantiles[step];
            if q.is_nan() || !(0.0..=1.0).contains(&q) {
                notes.annotations.add(Annotation::InvalidQuantile(q), self.span);
            }
            row.set(step, quantile_of_sorted(q, sorted));
        });
        Ok(true)
    }
}

/// `sum_over_time`, `avg_over_time`
struct Total {
    average: bool,
}

impl WindowFunction for Total {
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        let (floats, histograms) = (window.floats.values, window.histograms.values);
        if floats.is_empty() {
            let result = histogram::total(histograms, self.average, notes);
            return Ok(result.map(|h| SampleValue::Histogram(Arc::new(h))));
        }
        if !histograms.is_empty() {
            notes.named(Annotation::MixedFloatsHistograms);
            return Ok(None);
        }
        Ok(Some(SampleValue::Float(if self.average { average(floats) } else { sum(floats) })))
    }

    fn column(
        &self,
        column: &FloatColumn<'_>,
        row: &mut RowMut<'_>,
        _notes: &mut SeriesNotes<'_>,
    ) -> Result<bool, QueryError> {
        let ColumnValues::Each(values) = column.values else {
            return Ok(false);
        };
        let one_by_one = |window: &[f64]| if self.average { average(window) } else { sum(window) };
        let Some(totals) = exact::ExactTotals::new(column, values, self.average) else {
            if !column.is_short() {
                return Ok(false);
            }
            // Where a sum is not finite, the order of adding decides, or a mean is made another way.
            let result = |sum: f64, c: f64, window: &[f64]| {
                let n = window.len() as f64;
                match (self.average, sum.is_finite()) {
                    (_, false) => one_by_one(window),
                    (true, true) => sum / n + c / n,
                    (false, true) => sum + c,
                }
            };
            lanes::sums(column, values, result, row.values);
            row.present.copy_from_slice(column.filled);
            return Ok(true);
        };
        totals.each(column, values, |step, total, window| {
            row.set(
                step,
                match total {
                    Some(total) if self.average => total / window.len() as f64 + 0.0,
                    Some(total) => total,
                    None => one_by_one(window),
                },
            );
        });
        Ok(true)
    }
}

fn sum(values: &[f64]) -> f64 {
    let (sum, c) = values.iter().fold((0.0, 0.0), |(sum, c), &value| kahan_increment(value, sum, c));
    if sum.is_infinite() { sum } else { sum + c }
}

/// The mean of at least one value: from the sum, or incremental from where the sum would overflow.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `funcAvgOverTime`.
fn average(values: &[f64]) -> f64 {
    let (mut sum, mut c) = (values[0], 0.0);
    let mut mean = None;
    let mut count = 1.0;
    for &value in &values[1..] {
        count += 1.0;
        let before = match mean {
            Some(mean) => mean,
            None => {
                let (new_sum, new_c) = kahan_increment(value, sum, c);
                if !new_sum.is_infinite() {
                    (sum, c) = (new_sum, new_c);
                    continue;
                }
                c /= count - 1.0;
                sum / (count - 1.0)
            }
        };
        let q = (count - 1.0) / count;
        let (new_mean, new_c) = kahan_increment(value / count, q * before, q * c);
        mean = Some(new_mean);
        c = new_c;
    }
    match mean {
        Some(mean) => mean + c,
        None => sum / count + c / count,
    }
}

/// First and last bounds of windows of `length` samples, a step every `stride`.
#[cfg(test)]
fn sliding(n_samples: usize, length: usize, stride: usize) -> (Vec<u32>, Vec<u32>) {
    let high: Vec<u32> = (0..=n_samples).step_by(stride).map(|end| end as u32).collect();
    let low = high.iter().map(|&end| end.saturating_sub(length as u32)).collect();
    (low, high)
}

/// A column of samples and bounds alone.
#[cfg(test)]
fn plain_column<'a>(times: &'a [i64], values: &'a [f64], low: &'a [u32], high: &'a [u32]) -> FloatColumn<'a> {
    FloatColumn {
        times,
        values: crate::functions::ColumnValues::Each(values),
        starts: &[],
        low,
        high,
        geometry: &[],
        factors: &[],
        filled: &[],
        pairs: &[],
        range_s: 1.0,
        extension: crate::functions::Extension::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::FloatPoints;

    #[test]
    fn quantiles_weigh_neighbours_and_sort_nan_first() {
        let check = |q: f64, values: &[f64], expected: f64| {
            let result = quantile(q, &mut values.to_vec());
            assert!(
                result == expected || result.is_nan() && expected.is_nan(),
                "{q} of {values:?}: {result}"
            );
        };
        check(0.5, &[3.0, 1.0, 2.0], 2.0);
        check(0.25, &[1.0, 2.0], 1.25);
        check(1.0, &[f64::NAN, 5.0], 5.0);
        check(0.0, &[5.0, f64::NAN], f64::NAN);
        check(-0.1, &[1.0], f64::NEG_INFINITY);
        check(1.1, &[1.0], f64::INFINITY);
    }

    /// Windows of `length` samples, a step every `stride`.
    fn check_sliding(values: &[f64], length: usize, stride: usize) {
        let times: Vec<i64> = (0..values.len() as i64).collect();
        let (low, high) = sliding(values.len(), length, stride);
        let column = plain_column(&times, values, &low, &high);
        let filled = vec![!0; low.len().div_ceil(64)];
        let column = FloatColumn { filled: &filled, pairs: &filled, ..column };
        let same = |what: &str, found: &[f64], n: u32, one: &dyn Fn(usize, usize) -> f64| {
            for (step, low, high) in column.windows(n) {
                let (found, expected) = (found[step], one(low, high));
                let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(same, "{what}, step {step}: {found} for {expected}");
            }
        };
        let mut out = vec![0.0; low.len()];
        let total = |sum: f64, c: f64, window: &[f64]| {
            if sum.is_finite() { sum + c } else { super::sum(window) }
        };
        lanes::sums(&column, values, total, &mut out);
        same("sum", &out, 1, &|low, high| sum(&values[low..high]));
        let mean = |sum: f64, c: f64, window: &[f64]| {
            let n = window.len() as f64;
            if sum.is_finite() { sum / n + c / n } else { average(window) }
        };
        lanes::sums(&column, values, mean, &mut out);
        same("mean", &out, 1, &|low, high| average(&values[low..high]));
        lanes::variances(&column, values, &mut out);
        same("variance", &out, 1, &|low, high| variance(&values[low..high]));
        let slope = |low: usize, high: usize| {
            let times = &times[low..high];
            trend::linear_regression(FloatPoints { times, values: &values[low..high], starts: &[] }, times[0])
                .0
        };
        lanes::slopes(&column, values, slope, &mut out);
        same("slope", &out, 2, &slope);
        if !values.iter().any(|value| value.is_nan()) {
            sliding::sorted(&column, values, |step, sorted| out[step] = quantile_of_sorted(0.3, sorted));
            same("quantile", &out, 1, &|low, high| quantile(0.3, &mut values[low..high].to_vec()));
        }
        if sliding::are_ordered(values) {
            let (most, least) =
                (Extreme { beats: |a, b| a > b, time: false }, Extreme { beats: |a, b| a < b, time: false });
            let find =
                |extreme: &Extreme, low: usize, high: usize| values[low + extreme.find(&values[low..high])];
            sliding::greatest(&column, values, f64::max, |step, value| out[step] = value);
            same("greatest", &out, 1, &|low, high| find(&most, low, high));
            sliding::greatest(&column, values, f64::min, |step, value| out[step] = value);
            same("least", &out, 1, &|low, high| find(&least, low, high));
        }
        for beats in [|a: f64, b: f64| a > b, |a, b| a < b, |a, b| a >= b, |a, b| a <= b] {
            let plain = Extreme { beats, time: false };
            sliding::extremes(&column, values, beats, |step, at| {
                let (low, high) = (low[step] as usize, high[step] as usize);
                assert_eq!(at, low + plain.find(&values[low..high]), "step {step}");
            });
        }
    }

    #[test]
    fn sliding_extremes_are_those_of_each_window() {
        let mut state = 1u64;
        let mut values: Vec<f64> = (0..500)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                f64::from((state >> 40) as u32 % 50) * 0.1
            })
            .collect();
        for (length, stride) in [(40, 1), (40, 7), (40, 40), (40, 90), (200, 3), (1, 1)] {
            check_sliding(&values, length, stride);
        }
        values[100] = f64::NAN;
        values[200] = f64::INFINITY;
        values[300] = f64::NEG_INFINITY;
        values[400..450].fill(f64::NAN);
        for (length, stride) in [(40, 1), (120, 5)] {
            check_sliding(&values, length, stride);
        }
    }

    #[test]
    fn sums_are_compensated_and_means_survive_overflow() {
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(average(&[f64::MAX, f64::MAX]), f64::MAX);
        assert!(average(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }
}
