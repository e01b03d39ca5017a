//! Extremes of long windows that overlap: each sample is looked at twice at most, however many windows hold it.

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
