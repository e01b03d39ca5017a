//! Sums of windows that overlap, each sample looked at three times however many windows hold it, and still the bits
//! that adding up each window in the order of time gives.
//!
//! `sum_over_time` adds with compensation: the running `sum` is rounded at each addition, what rounding cost is a
//! float itself and goes to `c`, and the result is `sum + c`, rounded once more. While nothing is lost when `c`
//! grows, that is the true total rounded once, whatever the order. The true total can be kept as an integer, with
//! which samples come and go without loss.
//!
//! Nothing is lost if all numbers are multiples of some `2^unit` and `c` stays below `2^(unit + 53)`. Of samples
//! below `2^top` the i-th sum is below `i * 2^top` and off by less than `i * 2^(top - 53)`, all `n` together by
//! `n^2 * 2^(top - 54)`. `2 log2(n) + top - unit <= 106` is enough, with one bit to spare: of 10,000 samples between
//! 0.01 and 1,000 it is 96.

use crate::functions::FloatColumn;

/// Fewer windows are added up one by one.
const MIN_WINDOWS: usize = 4;
/// And so are windows that overlap less: each sample has to lie in so many of them. Measured: adding one by one takes
/// 1 ns a sample and window, totals 8 to 10 ns a sample.
const MIN_OVERLAP: usize = 10;

/// How the samples of a column are kept as integers.
pub(super) struct ExactTotals {
    /// The integer 1 stands for `2^unit`.
    unit: i32,
}

impl ExactTotals {
    /// `None` if it does not pay, or is not proved to be exact. Means need more: the running sum must never be
    /// rounded, because they divide `sum` and `c` before they add them.
    pub(super) fn new(column: &FloatColumn<'_>, values: &[f64], for_means: bool) -> Option<Self> {
        let (mut n_windows, mut n_samples, mut longest, mut first, mut end) = (0, 0, 0, usize::MAX, 0);
        for (_, low, high) in column.windows(1) {
            n_windows += 1;
            n_samples += high - low;
            longest = longest.max(high - low);
            first = first.min(low);
            end = high;
        }
        if n_windows < MIN_WINDOWS || n_samples < MIN_OVERLAP * (end - first) {
            return None;
        }
        let (mut unit, mut top) = (i32::MAX, i32::MIN);
        for &value in values[first..end].iter().filter(|value| value.is_finite() && **value != 0.0) {
            let (digits, exponent) = parts(value);
            unit = unit.min(exponent + digits.trailing_zeros() as i32);
            top = top.max(exponent + 64 - digits.unsigned_abs().leading_zeros() as i32);
        }
        if unit > top {
            return Some(Self { unit: 0 });
        }
        let log_n = longest.next_power_of_two().trailing_zeros() as i32;
        let exact = match for_means {
            true => log_n + top - unit <= 53,
            false => 2 * log_n + top - unit <= 106,
        };
        (exact && log_n + top < 1022).then_some(Self { unit })
    }

    /// Calls `emit(step, total, window)` for each window. There is no total where a sample is not finite.
    pub(super) fn each(
        &self,
        column: &FloatColumn<'_>,
        values: &[f64],
        mut emit: impl FnMut(usize, Option<f64>, &[f64]),
    ) {
        let scale = power_of_two(self.unit);
        let (mut start, mut end, mut total, mut n_odd) = (0, 0, 0i128, 0usize);
        for (step, low, high) in column.windows(1) {
            if low >= end {
                (start, end, total, n_odd) = (low, low, 0, 0);
            }
            for &value in &values[end..high] {
                match value.is_finite() {
                    true => total += self.fixed(value),
                    false => n_odd += 1,
                }
            }
            for &value in &values[start..low] {
                match value.is_finite() {
                    true => total -= self.fixed(value),
                    false => n_odd -= 1,
                }
            }
            (start, end) = (low, high);
            emit(step, (n_odd == 0).then_some(total as f64 * scale), &values[low..high]);
        }
    }

    /// A number in units; it is a multiple of one.
    fn fixed(&self, value: f64) -> i128 {
        let (digits, exponent) = parts(value);
        match exponent - self.unit {
            left @ 0.. => i128::from(digits) << left,
            // Digits that are shifted out are zeros.
            right => i128::from(digits >> (-right).min(63)),
        }
    }
}

/// Digits with their sign and the exponent they are to be taken with.
pub(super) fn parts(value: f64) -> (i64, i32) {
    let bits = value.to_bits();
    let (fraction, exponent) = ((bits & ((1 << 52) - 1)) as i64, (bits >> 52 & 0x7ff) as i32);
    let (digits, exponent) = match exponent {
        0 => (fraction, -1074),
        _ => (fraction | 1 << 52, exponent - 1075),
    };
    (if value.is_sign_negative() { -digits } else { digits }, exponent)
}

/// `2^exponent` of a float that has digits left.
pub(super) fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(match exponent {
        ..-1022 => 1 << (exponent + 1074),
        _ => ((exponent + 1023) as u64) << 52,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{average, plain_column, sliding, sum};
    use super::*;

    /// Windows of `length` samples, a step every `stride`: all are the bits that adding one by one gives. Tells
    /// whether sums and means went by integers.
    fn check(values: &[f64], length: usize, stride: usize) -> (bool, bool) {
        let times: Vec<i64> = (0..values.len() as i64).collect();
        let (low, high) = sliding(values.len(), length, stride);
        let column = plain_column(&times, values, &low, &high);
        let totals = [false, true].map(|for_means| ExactTotals::new(&column, values, for_means));
        for (totals, for_means) in totals.iter().zip([false, true]) {
            let Some(totals) = totals else { continue };
            totals.each(&column, values, |step, total, window| {
                let Some(total) = total else {
                    assert!(window.iter().any(|value| !value.is_finite()));
                    return;
                };
                let (expected, found) = match for_means {
                    true => (average(window), total / window.len() as f64 + 0.0),
                    false => (sum(window), total),
                };
                assert_eq!(found.to_bits(), expected.to_bits(), "step {step}: {found} for {expected}");
            });
        }
        let [sums, means] = totals.map(|totals| totals.is_some());
        (sums, means)
    }

    type Number = fn(&mut Random) -> f64;

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.0 >> 11
        }

        fn unit(&mut self) -> f64 {
            self.next() as f64 / (1u64 << 53) as f64
        }
    }

    #[test]
    fn totals_are_the_bits_that_adding_in_order_gives() {
        let mut random = Random(1);
        let shapes: [(&str, Number, (bool, bool)); 7] = [
            ("integers", |r| (r.next() % 100_000) as f64, (true, true)),
            ("tenths", |r| (r.next() % 1000) as f64 * 0.1, (true, false)),
            ("parts of one", |r| r.unit() + 0.01, (true, false)),
            ("of either sign", |r| (r.unit() - 0.5) * 1000.0 + 1e-3, (true, false)),
            ("that cancel", |r| [1e9 + 0.1, -1e9, 0.3, -0.0][(r.next() % 4) as usize], (true, false)),
            ("without digits", |r| f64::from_bits(r.next() % 1000), (true, true)),
            ("far apart", |r| [1e-200, 1e200][(r.next() % 2) as usize] * r.unit(), (false, false)),
        ];
        for (name, number, expected) in shapes {
            let values: Vec<f64> = (0..3000).map(|_| number(&mut random)).collect();
            for (length, stride) in [(40, 1), (200, 3), (1000, 20), (2000, 5)] {
                assert_eq!(check(&values, length, stride), expected, "{name} {length} {stride}");
            }
            for (length, stride) in [(40, 7), (40, 40), (40, 90), (1, 1)] {
                assert_eq!(check(&values, length, stride), (false, false), "{name} {length} {stride}");
            }
        }
    }

    #[test]
    fn windows_with_odd_numbers_have_no_total_and_others_recover() {
        let mut random = Random(7);
        let mut values: Vec<f64> = (0..500).map(|_| random.unit()).collect();
        values[100] = f64::NAN;
        values[200] = f64::INFINITY;
        values[300] = f64::NEG_INFINITY;
        values[400..450].fill(f64::NAN);
        assert_eq!(check(&values, 40, 1), (true, false));
        assert_eq!(check(&values, 120, 5), (true, false));
    }

    #[test]
    fn nothing_but_zeros_is_zero() {
        assert_eq!(check(&[-0.0; 100], 40, 2), (true, true));
        assert_eq!(check(&[0.0; 100], 40, 2), (true, true));
    }
}
