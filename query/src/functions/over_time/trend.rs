//! Trends: linear regression and double exponential smoothing over the floats of a window.

use super::lanes;
use super::lines::{ExactLines, Sums};
use crate::annotations::Annotation;
use crate::error::QueryError;
use crate::eval::batch::RowMut;
use crate::functions::{ColumnValues, FloatColumn, FloatPoints, SeriesNotes, Window, WindowFunction};
use crate::go_format::format_fixed;
use crate::value::SampleValue;
use chronolith_model::histogram::kahan_increment;

/// Whether there are floats enough; notes histograms beside floats.
fn has_two_floats(window: &Window<'_>, notes: &mut SeriesNotes<'_>) -> bool {
    let n_floats = window.floats.times.len();
    if n_floats > 0 && !window.histograms.times.is_empty() {
        notes.named(Annotation::HistogramIgnoredInMixedRange);
    }
    n_floats >= 2
}

/// Slope per second and value at `origin` of the line through the samples, by least squares.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `linearRegression`.
pub(super) fn linear_regression(points: FloatPoints<'_>, origin: i64) -> (f64, f64) {
    let first = points.values[0];
    if points.values.iter().skip(1).all(|&value| value == first) {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let [x, y, xy, xx] = lanes::line_sums(points, origin).unwrap_or_else(|| sums_one_by_one(points, origin));
    Sums { n: points.times.len() as f64, x, y, xy, xx }.line()
}

/// The sums of x, y, xy and xx as Prometheus makes them, also where something overflows.
fn sums_one_by_one(points: FloatPoints<'_>, origin: i64) -> [f64; 4] {
    let mut sums = [(0.0, 0.0); 4];
    for (&t, &y) in points.times.iter().zip(points.values) {
        let x = (t - origin) as f64 / 1e3;
        for ((sum, c), increment) in sums.iter_mut().zip([x, y, x * y, x * x]) {
            (*sum, *c) = kahan_increment(increment, *sum, *c);
        }
    }
    sums.map(|(sum, c)| sum + c)
}

/// `deriv`; the origin is the first sample, for the sake of digits.
pub(super) struct Deriv;

impl WindowFunction for Deriv {
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        if !has_two_floats(window, notes) {
            return Ok(None);
        }
        let (slope, _) = linear_regression(window.floats, window.floats.times[0]);
        Ok(Some(SampleValue::Float(slope)))
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
        let one = |low: usize, high: usize| {
            let times = &column.times[low..high];
            let points = FloatPoints { times, values: &values[low..high], starts: &[] };
            linear_regression(points, times[0]).0
        };
        match ExactLines::new(column, values) {
            Some(lines) => lines.each(column, values, |step, sums, _| {
                row.values[step] = sums.map_or(0.0, |sums| sums.line().0);
            }),
            None => lanes::slopes(column, values, one, row.values),
        }
        row.present.copy_from_slice(column.pairs);
        Ok(true)
    }
}

/// `predict_linear`; the origin is the step.
pub(super) struct PredictLinear {
    /// How far ahead, by step.
    pub(super) ahead_s: Vec<f64>,
}

impl WindowFunction for PredictLinear {
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        if !has_two_floats(window, notes) {
            return Ok(None);
        }
        let (slope, now) = linear_regression(window.floats, window.time);
        Ok(Some(SampleValue::Float(slope * self.ahead_s[window.step] + now)))
    }
}

/// `double_exponential_smoothing`
///
/// Source: Prometheus v3.14, `promql/functions.go`, `funcDoubleExponentialSmoothing`.
pub(super) struct Smoothing {
    /// By step.
    pub(super) smoothing: Vec<f64>,
    /// By step.
    pub(super) trend: Vec<f64>,
}

impl WindowFunction for Smoothing {
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError> {
        let (smoothing, trend) = (self.smoothing[window.step], self.trend[window.step]);
        let check = |what: &str, name: &str, factor: f64| {
            if factor <= 0.0 || factor >= 1.0 {
                return Err(QueryError::execution(format!(
                    "invalid {what} factor. Expected: 0 < {name} < 1, got: {}",
                    format_fixed(factor, 6)
                )));
            }
            Ok(())
        };
        check("smoothing", "sf", smoothing)?;
        check("trend", "tf", trend)?;
        if !has_two_floats(window, notes) {
            return Ok(None);
        }
        let values = window.floats.values;
        let (mut before, mut smoothed) = (0.0, values[0]);
        let mut slope = values[1] - values[0];
        for (i, &value) in values.iter().enumerate().skip(1) {
            if i > 1 {
                slope = trend * (smoothed - before) + (1.0 - trend) * slope;
            }
            let next = smoothing * value + (1.0 - smoothing) * (smoothed + slope);
            (before, smoothed) = (smoothed, next);
        }
        Ok(Some(SampleValue::Float(smoothed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_side_by_side_are_those_one_by_one_unless_they_overflow() {
        let times: Vec<i64> = (0..300).map(|i| 1_795_369_335_123 + i * 15_000 + i * 7919 % 13).collect();
        for seed in 0..60u32 {
            let value = |i: usize| {
                let noise = xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), seed.into());
                match seed % 4 {
                    0 => (noise >> 24) as f64,
                    1 => f64::from(noise as i32) * 1e-7,
                    // All magnitudes, so that either addend is the larger one.
                    2 => f64::from_bits(noise % (0x5000 << 48)) * if noise >> 63 == 0 { 1.0 } else { -1.0 },
                    _ => f64::from(noise as i32) * 1e299,
                }
            };
            let values: Vec<f64> = (0..times.len()).map(value).collect();
            let points = FloatPoints { times: &times, values: &values, starts: &[] };
            for origin in [times[0], times[299] + 123, 0] {
                let expected = sums_one_by_one(points, origin).map(f64::to_bits);
                if let Some(found) = lanes::line_sums(points, origin) {
                    assert_eq!(found.map(f64::to_bits), expected, "{seed} {origin}");
                }
            }
        }
        let last_one = |value| [0.0, 1.0, value];
        for (values, fits) in
            [(last_one(2.0), true), (last_one(f64::MAX), false), (last_one(f64::NAN), false)]
        {
            let points = FloatPoints { times: &times[..3], values: &values, starts: &[] };
            assert_eq!(lanes::line_sums(points, times[0]).is_some(), fits, "{values:?}");
        }
    }
}
