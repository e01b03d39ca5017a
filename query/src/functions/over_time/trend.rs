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
    let (mut x_sum, mut y_sum, mut xy_sum, mut xx_sum) = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0));
    let mut n = 0.0;
    for (&t, &y) in points.times.iter().zip(points.values) {
        n += 1.0;
        let x = (t - origin) as f64 / 1e3;
        x_sum = kahan_increment(x, x_sum.0, x_sum.1);
        y_sum = kahan_increment(y, y_sum.0, y_sum.1);
        xy_sum = kahan_increment(x * y, xy_sum.0, xy_sum.1);
        xx_sum = kahan_increment(x * x, xx_sum.0, xx_sum.1);
    }
    let [x, y, xy, xx] = [x_sum, y_sum, xy_sum, xx_sum].map(|(sum, c)| sum + c);
    Sums { n, x, y, xy, xx }.line()
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
