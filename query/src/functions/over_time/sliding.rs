//! Folds of long windows that overlap: each sample is looked at twice at most, however many windows hold it.

use super::sum;
use crate::functions::FloatColumn;
use chronolith_model::histogram::kahan_increment;
use std::collections::VecDeque;

/// Windows with fewer samples on average are searched one by one: a search among some 30 samples costs as much
/// as the bookkeeping (measured: 60 ns for 20 samples).
pub(super) const MIN_SAMPLES: usize = 32;
/// Sums are made of more than this many samples before they are made of parts: parts may round the last digit
/// another way than Prometheus, which adds in the order of time. Adding 512 samples takes about 0.6 us.
pub(super) const MIN_SAMPLES_OF_SUM: usize = 512;
/// And so are few windows, so that an instant query adds in the order of time.
const MIN_WINDOWS: usize = 4;

/// Whether windows overlap enough for a sliding fold to pay.
pub(super) fn pays(column: &FloatColumn<'_>, min_samples: usize) -> bool {
    let (n_windows, n_samples) = column
        .windows(1)
        .fold((0, 0), |(windows, samples), (_, low, high)| (windows + 1, samples + high - low));
    n_windows >= MIN_WINDOWS && n_samples / n_windows >= min_samples
}

/// Calls `emit(step, sum, compensation, n)` for each window; the total is sum plus compensation.
///
/// Subtracting what leaves a window would lose digits for good. Instead a window is the sum of two parts: before
/// the middle, where partial sums were made from right to left, and behind it, where one is running. Where a part
/// is not finite, the order of adding decides, and the window is added up in the order of time.
pub(super) fn sums(
    column: &FloatColumn<'_>,
    values: &[f64],
    mut emit: impl FnMut(usize, Option<(f64, f64)>, &[f64]),
) {
    let mut front: Vec<(f64, f64)> = Vec::new();
    let (mut start, mut middle, mut end) = (0, 0, 0);
    let mut back = (0.0, 0.0);
    for (step, low, high) in column.windows(1) {
        if low >= middle {
            (start, middle, end) = (low, high, high);
            back = (0.0, 0.0);
            front.clear();
            let mut partial = (0.0, 0.0);
            for &value in values[low..high].iter().rev() {
                partial = kahan_increment(value, partial.0, partial.1);
                front.push(partial);
            }
            front.reverse();
        }
        while end < high {
            back = kahan_increment(values[end], back.0, back.1);
            end += 1;
        }
        let (front_sum, front_c) = front[low - start];
        let (total, c) = kahan_increment(back.0, front_sum, front_c);
        let c = c + back.1;
        let finite = total.is_finite() && c.is_finite();
        emit(step, finite.then_some((total, c)), &values[low..high]);
    }
}

/// Calls `emit(step, sample)` with the best sample of each window: the one that no other `beats`. Samples that
/// are NaN lose; if all are, it is the last.
pub(super) fn extremes(
    column: &FloatColumn<'_>,
    values: &[f64],
    beats: impl Fn(f64, f64) -> bool,
    mut emit: impl FnMut(usize, usize),
) {
    // Samples that may still be the best of a later window, each beaten by none behind it.
    let mut candidates: VecDeque<usize> = VecDeque::new();
    let mut end = 0;
    for (step, low, high) in column.windows(1) {
        for at in end.max(low)..high {
            if values[at].is_nan() {
                continue;
            }
            while candidates.back().is_some_and(|&last| beats(values[at], values[last])) {
                candidates.pop_back();
            }
            candidates.push_back(at);
        }
        end = high;
        while candidates.front().is_some_and(|&first| first < low) {
            candidates.pop_front();
        }
        emit(step, candidates.front().copied().unwrap_or(high - 1));
    }
}

/// The sum of a window as `sum_over_time` gives it.
pub(super) fn total(parts: Option<(f64, f64)>, window: &[f64]) -> f64 {
    match parts {
        Some((sum, c)) => sum + c,
        None => sum(window),
    }
}
