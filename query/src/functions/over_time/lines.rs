//! Lines through the samples of windows that overlap, each sample looked at three times however many windows hold it,
//! and still the bits that [`super::trend`] gives window by window.
//!
//! Least squares take four sums: of x, of y, of x * y and of x * x, all compensated. If timestamps are whole seconds
//! apart, x is an integer; if the digits of x and y together fit those of a float, no product is rounded; then
//! [`super::exact`] says that each sum is the true total rounded once, and true totals of integers can be kept while
//! samples come and go. x begins anew with each window, which moves the totals: `sum (t - o) * y` is
//! `sum t * y - o * sum y`.

use super::exact::{parts, power_of_two};
use crate::functions::FloatColumn;

/// Windows that overlap less are worked out one by one: each sample has to lie in so many of them. Measured: one by
/// one takes 5 ns a sample and window, totals 10 to 15 ns a sample.
const MIN_OVERLAP: usize = 4;

/// How the samples of a column are kept as integers.
pub(super) struct ExactLines {
    /// Of y, the integer 1 stands for `2^unit`.
    unit: i32,
    /// The first sample of any window.
    first: usize,
}

/// What least squares need of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sums {
    pub(super) n: f64,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) xy: f64,
    pub(super) xx: f64,
}

impl Sums {
    /// Slope per second, and value where x is zero.
    pub(super) fn line(self) -> (f64, f64) {
        let Self { n, x, y, xy, xx } = self;
        let covariance = xy - x * y / n;
        let variance = xx - x * x / n;
        let slope = covariance / variance;
        (slope, y / n - slope * x / n)
    }
}

/// Totals over a window, modulo 2^64: what is asked for in the end fits.
#[derive(Default)]
struct Totals {
    t: i64,
    y: i64,
    ty: i64,
    tt: i64,
    /// Samples that differ from the one before.
    changes: usize,
}

impl Totals {
    /// Adds a sample, or takes it away.
    fn count(&mut self, t: i64, y: i64, add: bool) {
        let sign = if add { 1 } else { -1 };
        self.t = self.t.wrapping_add(sign * t);
        self.y = self.y.wrapping_add(sign * y);
        self.ty = self.ty.wrapping_add(t.wrapping_mul(y).wrapping_mul(sign));
        self.tt = self.tt.wrapping_add(t.wrapping_mul(t).wrapping_mul(sign));
    }
}

impl ExactLines {
    /// `None` if it does not pay, or is not proved to be exact.
    pub(super) fn new(column: &FloatColumn<'_>, values: &[f64]) -> Option<Self> {
        let (mut n_samples, mut longest, mut span, mut first, mut end) = (0, 0, 0, usize::MAX, 0);
        for (_, low, high) in column.windows(2) {
            n_samples += high - low;
            longest = longest.max(high - low);
            span = span.max(column.times[high - 1] - column.times[low]);
            first = first.min(low);
            end = high;
        }
        if n_samples == 0 || n_samples < MIN_OVERLAP * (end - first) {
            return None;
        }
        let whole_seconds = column.times[first..end].windows(2).all(|pair| (pair[1] - pair[0]) % 1000 == 0);
        if !whole_seconds || values[first..end].iter().any(|value| !value.is_finite()) {
            return None;
        }
        let (mut unit, mut top) = (i32::MAX, i32::MIN);
        for &value in values[first..end].iter().filter(|value| **value != 0.0) {
            let (digits, exponent) = parts(value);
            unit = unit.min(exponent + digits.trailing_zeros() as i32);
            top = top.max(exponent + 64 - digits.unsigned_abs().leading_zeros() as i32);
        }
        if unit > top {
            // Nothing but zeros.
            (unit, top) = (0, 0);
        }
        let log = |n: u64| 64 - n.leading_zeros() as i32;
        let (x, y, n) = (log(span.unsigned_abs() / 1000), top - unit, log(longest as u64));
        let exact = x + y <= 53 && 2 * x <= 53 && x + y.max(x) + n <= 62;
        (exact && (-900..=900).contains(&unit)).then_some(Self { unit, first })
    }

    /// Calls `emit(step, sums, first value)` for each window of two samples or more; no sums if all are equal.
    pub(super) fn each(
        &self,
        column: &FloatColumn<'_>,
        values: &[f64],
        mut emit: impl FnMut(usize, Option<Sums>, f64),
    ) {
        let (to_units, unit) = (power_of_two(-self.unit), power_of_two(self.unit));
        let base = column.times[self.first];
        let seconds = |at: usize| (column.times[at] - base) / 1000;
        let fixed = |at: usize| (values[at] * to_units) as i64;
        let differs = |at: usize| usize::from(values[at] != values[at - 1]);
        let (mut totals, mut start, mut end) = (Totals::default(), 0, 0);
        for (step, low, high) in column.windows(2) {
            if low >= end {
                (totals, start, end) = (Totals::default(), low, low);
            }
            for at in end..high {
                totals.count(seconds(at), fixed(at), true);
                totals.changes += if at > start { differs(at) } else { 0 };
            }
            for at in start..low {
                totals.count(seconds(at), fixed(at), false);
                totals.changes -= if at + 1 < high { differs(at + 1) } else { 0 };
            }
            (start, end) = (low, high);
            let sums = (totals.changes > 0).then(|| {
                let (n, origin) = ((high - low) as i64, seconds(low));
                let Totals { t, y, ty, tt, .. } = totals;
                let n_origin = origin.wrapping_mul(n);
                let xx = tt.wrapping_sub(origin.wrapping_mul(t.wrapping_mul(2).wrapping_sub(n_origin)));
                Sums {
                    n: n as f64,
                    x: t.wrapping_sub(n_origin) as f64,
                    y: y as f64 * unit,
                    xy: ty.wrapping_sub(origin.wrapping_mul(y)) as f64 * unit,
                    xx: xx as f64,
                }
            });
            emit(step, sums, values[low]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trend::linear_regression;
    use super::super::{plain_column, sliding};
    use super::*;
    use crate::functions::FloatPoints;

    /// Windows of `length` samples, a step every `stride`: all lines are those that are drawn one by one. Tells whether
    /// they went by integers.
    fn check(times: &[i64], values: &[f64], length: usize, stride: usize) -> bool {
        let (low, high) = sliding(values.len(), length, stride);
        let column = plain_column(times, values, &low, &high);
        let Some(lines) = ExactLines::new(&column, values) else { return false };
        let mut steps = Vec::new();
        lines.each(&column, values, |step, sums, first| {
            let (low, high) = (low[step] as usize, high[step] as usize);
            let points = FloatPoints { times: &times[low..high], values: &values[low..high], starts: &[] };
            let expected = linear_regression(points, times[low]);
            let (slope, start) = sums.map_or((0.0, first), Sums::line);
            assert_eq!(
                (slope.to_bits(), start.to_bits()),
                (expected.0.to_bits(), expected.1.to_bits()),
                "step {step}: {slope} and {start} for {expected:?}, {sums:?}"
            );
            steps.push(step);
        });
        let expected: Vec<usize> = column.windows(2).map(|(step, ..)| step).collect();
        assert_eq!(steps, expected);
        true
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) % n
        }
    }

    type Number = fn(&mut Random) -> f64;

    #[test]
    fn lines_are_the_bits_that_each_window_gives() {
        let mut random = Random(1);
        let shapes: [(&str, Number, bool); 9] = [
            ("integers", |r| r.below(100_000) as f64, true),
            ("bytes in pages", |r| (r.below(1 << 24) * 4096) as f64, true),
            ("of either sign", |r| r.below(2000) as f64 - 1000.0, true),
            ("eighths, some steady", |r| r.below(3) as f64 * 0.125, true),
            ("zeros of either sign", |r| [0.0, -0.0][r.below(2) as usize], true),
            ("as large as fits", |r| (r.below(1 << 40) + 1) as f64, true),
            ("too large", |r| (r.below(1 << 50) + 1) as f64, false),
            ("tenths", |r| r.below(1000) as f64 * 0.1, false),
            ("not finite", |r| [1.0, f64::INFINITY][usize::from(r.below(100) == 0)], false),
        ];
        for (name, number, expected) in shapes {
            let mut time = 1_700_000_000_123;
            let (mut times, mut values) = (Vec::new(), Vec::new());
            for _ in 0..1500 {
                time += [15_000, 15_000, 15_000, 14_000, 31_000][random.below(5) as usize];
                times.push(time);
                values.push(number(&mut random));
            }
            for (length, stride) in [(40, 1), (120, 4), (300, 20), (100, 20)] {
                assert_eq!(check(&times, &values, length, stride), expected, "{name} {length} {stride}");
            }
            for (length, stride) in [(40, 30), (40, 40), (40, 90), (1, 1)] {
                assert!(!check(&times, &values, length, stride), "{name} {length} {stride}");
            }
            times[700] += 1;
            assert!(!check(&times, &values, 40, 1), "{name}");
        }
    }
}
