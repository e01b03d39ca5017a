//! Extremes and order of long windows that overlap: what samples that come and go change, not each window anew.

use crate::functions::FloatColumn;
use std::collections::VecDeque;

/// Windows with fewer samples on average are searched one by one: a search among some 30 samples costs as much
/// as the bookkeeping (measured: 60 ns for 20 samples).
const MIN_SAMPLES: usize = 32;
/// And so are few windows.
const MIN_WINDOWS: usize = 4;

/// Whether windows overlap enough for a sliding search to pay.
pub(super) fn pays(column: &FloatColumn<'_>) -> bool {
    let (n_windows, n_samples) = column
        .windows(1)
        .fold((0, 0), |(windows, samples), (_, low, high)| (windows + 1, samples + high - low));
    n_windows >= MIN_WINDOWS && n_samples / n_windows >= MIN_SAMPLES
}

/// Calls `emit(step, value)` with the greatest value of each window, of those that are nothing but ordered
/// ([`are_ordered`]): so `max` may join them in any order. Windows are split where one of them ended once: the greatest of
/// what is left of the first half and that of the second are each known.
pub(super) fn greatest(
    column: &FloatColumn<'_>,
    values: &[f64],
    max: impl Fn(f64, f64) -> f64,
    mut emit: impl FnMut(usize, f64),
) {
    // The greatest of the samples from each on to the split, and of those behind it.
    let mut before: Vec<f64> = Vec::new();
    let (mut split, mut behind, mut end) = (0, f64::NAN, 0);
    for (step, low, high) in column.windows(1) {
        if low >= split {
            (split, end) = (high, high);
            before.clear();
            let mut best = values[high - 1];
            before.extend(values[low..high].iter().rev().map(|&value| {
                best = max(best, value);
                best
            }));
            emit(step, best);
            continue;
        }
        for &value in &values[end..high] {
            behind = if end == split { value } else { max(behind, value) };
            end += 1;
        }
        let best = before[split - 1 - low];
        emit(step, if end > split { max(best, behind) } else { best });
    }
}

/// Whether equal values have equal bits, and all can be compared.
pub(super) fn are_ordered(values: &[f64]) -> bool {
    let is_odd = |value: f64| value.is_nan() | (value.to_bits() == (-0.0f64).to_bits());
    !values.iter().fold(false, |any, &value| any | is_odd(value))
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

/// Calls `emit(step, sorted)` with the samples of each window in ascending order. There is no NaN among them.
///
/// The samples that come and go find their places by binary search, unless most of a window is new.
pub(super) fn sorted(column: &FloatColumn<'_>, values: &[f64], mut emit: impl FnMut(usize, &[f64])) {
    let mut sorted: Vec<f64> = Vec::new();
    let (mut start, mut end) = (0, 0);
    for (step, low, high) in column.windows(1) {
        let n_changed = low.saturating_sub(start) + high - end.min(high);
        if low >= end || n_changed > (high - low) / 4 {
            sorted.clear();
            sorted.extend_from_slice(&values[low..high]);
            sorted.sort_unstable_by(f64::total_cmp);
        } else {
            for value in &values[start..low] {
                let at = sorted.partition_point(|other| other < value);
                sorted.remove(at);
            }
            for value in &values[end..high] {
                let at = sorted.partition_point(|other| other < value);
                sorted.insert(at, *value);
            }
        }
        (start, end) = (low, high);
        emit(step, &sorted);
    }
}
