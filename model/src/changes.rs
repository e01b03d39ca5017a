//! Which times of a store have changed since when: what those have to know who keep results of queries.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};

/// Versions that are told apart; what is older has changed altogether.
const MAX_VERSIONS: usize = 4096;

/// A record of changes, by the lowest timestamp of each.
///
/// Whoever changes the store calls [`Changes::note`] after readers can see the change and before it is
/// acknowledged. Whoever keeps a result takes a [`Changes::version`] before pinning what the result is made
/// from. A change that is not in the pinned version is then always noted in a later one; one that is in both
/// makes a result go stale too early, never too late.
#[derive(Debug)]
pub struct Changes {
    /// Lowest timestamp that changed in the present version.
    lowest: AtomicI64,
    /// The same of past versions.
    past: Mutex<Past>,
    /// Samples before this time may be gone.
    gone_below: AtomicI64,
}

#[derive(Debug, Default)]
struct Past {
    /// Number of the first version in `lowest`.
    first: u64,
    lowest: VecDeque<i64>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            lowest: AtomicI64::new(i64::MAX),
            past: Mutex::default(),
            gone_below: AtomicI64::new(i64::MIN),
        }
    }
}

impl Changes {
    /// Samples at or after `lowest` (milliseconds) were written or deleted.
    pub fn note(&self, lowest: i64) {
        // Writes of a stream come in order: most change nothing here.
        if lowest < self.lowest.load(Ordering::SeqCst) {
            self.lowest.fetch_min(lowest, Ordering::SeqCst);
        }
    }

    /// All samples before `time` (milliseconds) may be gone for good.
    pub fn note_gone(&self, time: i64) {
        self.gone_below.fetch_max(time, Ordering::SeqCst);
    }

    /// Samples before this time may be gone.
    pub fn gone_below(&self) -> i64 {
        self.gone_below.load(Ordering::SeqCst)
    }

    /// Begins a version: what is noted from now on belongs to it or to later ones.
    pub fn version(&self) -> u64 {
        let mut past = self.past.lock();
        let lowest = self.lowest.swap(i64::MAX, Ordering::SeqCst);
        past.lowest.push_back(lowest);
        if past.lowest.len() > MAX_VERSIONS {
            past.lowest.pop_front();
            past.first += 1;
        }
        past.first + past.lowest.len() as u64
    }

    /// The lowest timestamp that changed in `version` or after it: `i64::MAX` if none did, `i64::MIN` if the
    /// version is forgotten.
    pub fn lowest_since(&self, version: u64) -> i64 {
        let past = self.past.lock();
        let Some(skip) = version.checked_sub(past.first) else { return i64::MIN };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let present = self.lowest.load(Ordering::SeqCst);
        past.lowest.iter().skip(skip).copied().fold(present, i64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_for_the_versions_before_it() {
        let changes = Changes::default();
        changes.note(50);
        let a = changes.version();
        assert_eq!(changes.lowest_since(a), i64::MAX);
        changes.note(70);
        changes.note(60);
        changes.note(65);
        assert_eq!(changes.lowest_since(a), 60);
        let b = changes.version();
        changes.note(80);
        assert_eq!((changes.lowest_since(a), changes.lowest_since(b)), (60, 80));
        changes.note(10);
        assert_eq!((changes.lowest_since(a), changes.lowest_since(b)), (10, 10));
        let c = changes.version();
        assert_eq!((changes.lowest_since(b), changes.lowest_since(c)), (10, i64::MAX));
        assert_eq!(changes.gone_below(), i64::MIN);
        changes.note_gone(5);
        changes.note_gone(3);
        assert_eq!(changes.gone_below(), 5);
    }

    #[test]
    fn a_version_that_is_forgotten_has_changed_altogether() {
        let changes = Changes::default();
        let first = changes.version();
        let mut last = first;
        for _ in 0..MAX_VERSIONS {
            last = changes.version();
        }
        assert_eq!(changes.lowest_since(first), i64::MAX);
        changes.version();
        changes.version();
        assert_eq!(changes.lowest_since(first), i64::MIN);
        assert_eq!(changes.lowest_since(last), i64::MAX);
    }

    #[test]
    fn no_change_is_missed_while_versions_begin() {
        let changes = Changes::default();
        // Before the writer begins, which may be done before this thread runs again.
        let mut version = changes.version();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for time in (0..20_000).rev() {
                    changes.note(time);
                }
            });
            let mut lowest = i64::MAX;
            while !writer.is_finished() {
                let next = changes.version();
                lowest = lowest.min(changes.lowest_since(version));
                version = next;
            }
            assert_eq!(lowest.min(changes.lowest_since(version)), 0);
        });
    }
}
