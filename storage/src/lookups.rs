//! Which samples of a chunk look-ups want. Parts ask before they decode; whatever the answer leaves out is no
//! step's last sample, in this part or, because of that, in any version of the store that holds it.

use chronolith_model::queryable::Lookups;

/// Below this many samples for each step a chunk is decoded whole: cheaper than its pieces one by one.
const SAMPLES_PER_STEP: usize = 64;

/// Collects into `positions`, ascending, which of `times` are the last one at or before a step. False, and
/// nothing collected, if so many are wanted that all should be read.
pub(crate) fn pick(lookups: &Lookups, times: &[i64], positions: &mut Vec<u32>) -> bool {
    positions.clear();
    let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return true };
    let Some((from, to)) = steps_that_see(lookups, first, last) else { return true };
    if to > from && (to - from) as usize >= times.len() / SAMPLES_PER_STEP {
        return false;
    }
    for step in from..=to {
        let time = lookups.start + step * lookups.interval;
        let end = times.partition_point(|&at| at <= time);
        if end > 0 && times[end - 1] > time.saturating_sub(lookups.lookback) {
            let position = (end - 1) as u32;
            if positions.last() != Some(&position) {
                positions.push(position);
            }
        }
    }
    true
}

/// Whether a step looks at any time of `[first, last]`.
pub(crate) fn is_seen(lookups: &Lookups, first: i64, last: i64) -> bool {
    steps_that_see(lookups, first, last).is_some()
}

/// First and last number of the steps that look at a time of `[first, last]`.
fn steps_that_see(lookups: &Lookups, first: i64, last: i64) -> Option<(i64, i64)> {
    let n_last = i64::from(lookups.n_steps) - 1;
    let end = last.saturating_add(lookups.lookback).saturating_sub(1);
    if n_last <= 0 || lookups.interval <= 0 {
        return (first <= lookups.start && lookups.start <= end).then_some((0, 0));
    }
    let before = first.saturating_sub(lookups.start);
    let from =
        (before.div_euclid(lookups.interval) + i64::from(before.rem_euclid(lookups.interval) > 0)).max(0);
    let to = end.saturating_sub(lookups.start).div_euclid(lookups.interval).min(n_last);
    (from <= to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookups(start: i64, interval: i64, n_steps: u32, lookback: i64) -> Lookups {
        Lookups { start, interval, n_steps, lookback }
    }

    #[test]
    fn a_single_step_wants_one_sample_at_most() {
        let times = [10, 20, 30];
        let picked = |time| {
            let mut positions = vec![9];
            assert!(pick(&lookups(time, 0, 1, 15), &times, &mut positions));
            positions
        };
        assert_eq!(picked(9), []);
        assert_eq!(picked(10), [0]);
        assert_eq!(picked(29), [1]);
        assert_eq!(picked(44), [2]);
        assert_eq!(picked(45), []);
    }

    #[test]
    fn steps_close_together_want_everything() {
        let times: Vec<i64> = (0..480).map(|i| i * 15).collect();
        assert!(!pick(&lookups(0, 60, 120, 300), &times, &mut Vec::new()));
        let mut positions = Vec::new();
        assert!(pick(&lookups(0, 3_600, 2, 300), &times, &mut positions));
        assert_eq!(positions, [0, 240]);
    }

    proptest! {
        #[test]
        fn what_is_picked_is_what_steps_see(
            mut times in prop::collection::vec(-50_000i64..50_000, 0..400),
            start in -60_000i64..60_000, interval in 1i64..30_000, n_steps in 1u32..20, lookback in 1i64..20_000,
        ) {
            times.sort_unstable();
            times.dedup();
            let lookups = lookups(start, interval, n_steps, lookback);
            let mut expected: Vec<u32> = (0..i64::from(n_steps))
                .filter_map(|step| {
                    let time = start + step * interval;
                    let at = times.iter().rposition(|&at| at <= time)?;
                    (times[at] > time - lookback).then_some(at as u32)
                })
                .collect();
            expected.dedup();
            let mut positions = Vec::new();
            if pick(&lookups, &times, &mut positions) {
                prop_assert_eq!(&positions, &expected);
            } else {
                prop_assert!(n_steps > 1);
            }
            let seen = times.first().is_some_and(|&first| is_seen(&lookups, first, times[times.len() - 1]));
            prop_assert!(seen || expected.is_empty());
        }
    }
}
