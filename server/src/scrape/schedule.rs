//! When a target is scraped, and which timestamp its samples get. No clock is read here.
//!
//! Source: Prometheus v3.14, `scrape/target.go`, `offset`, and `scrape/scrape.go`, `run`.

use std::time::Duration;

/// Timers are late by up to this much; samples are then dated as planned, so that their timestamps
/// keep an even distance and compress well (Prometheus #7846).
const TOLERANCE_NS: i64 = 2_000_000;

const NS_PER_MS: i64 = 1_000_000;

/// The schedule of one target: every `interval`, at an offset that is its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    interval_ns: i64,
    /// The scrape that is due or was last, in nanoseconds since the epoch.
    planned_ns: i64,
}

impl Schedule {
    /// A schedule whose first scrape lies within one interval after `now_ns`. `hash` spreads targets
    /// over the interval; the same one gives the same offset whenever the process starts.
    pub fn new(interval_ms: i64, hash: u64, now_ns: i64) -> Self {
        let interval_ns = interval_ms.max(1) * NS_PER_MS;
        let offset_ns = (hash % interval_ms.max(1) as u64) as i64 * NS_PER_MS;
        let base = now_ns - now_ns.rem_euclid(interval_ns) + offset_ns;
        let planned_ns = if base < now_ns { base + interval_ns } else { base };
        Self { interval_ns, planned_ns }
    }

    /// How long to wait for the next scrape.
    pub fn delay(&self, now_ns: i64) -> Duration {
        Duration::from_nanos(u64::try_from(self.planned_ns - now_ns).unwrap_or(0))
    }

    /// The timestamp, in milliseconds, of a scrape that begins now.
    pub fn timestamp_ms(&mut self, now_ns: i64) -> i64 {
        let missed = (now_ns - self.planned_ns).div_euclid(self.interval_ns).max(0);
        self.planned_ns += missed * self.interval_ns;
        let late_ns = now_ns - self.planned_ns;
        let tolerance = TOLERANCE_NS.min(self.interval_ns / 100);
        // A clock that was set back makes a scrape early; it is then dated by the clock.
        let is_on_time = (0..=tolerance).contains(&late_ns);
        (if is_on_time { self.planned_ns } else { now_ns }).div_euclid(NS_PER_MS)
    }

    /// Plans the scrape after the one that began last; those that were missed are left out.
    pub fn advance(&mut self, now_ns: i64) {
        self.planned_ns += self.interval_ns;
        if self.planned_ns < now_ns {
            self.planned_ns += (now_ns - self.planned_ns).div_euclid(self.interval_ns) * self.interval_ns;
        }
        // A clock that was set back must not stop scraping until it has caught up.
        if self.planned_ns - now_ns > self.interval_ns {
            self.planned_ns -= (self.planned_ns - now_ns).div_euclid(self.interval_ns) * self.interval_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_700_000_000_123_456_789;

    #[test]
    fn the_offset_is_stable_and_within_the_interval() {
        for hash in [0, 1, 9_999, u64::MAX] {
            let first = Schedule::new(10_000, hash, START);
            let later = Schedule::new(10_000, hash, START + 31_000 * NS_PER_MS);
            let interval = first.interval_ns;
            assert_eq!(first.planned_ns.rem_euclid(interval), later.planned_ns.rem_euclid(interval));
            assert!(first.delay(START) <= Duration::from_secs(10));
            assert_eq!(first.planned_ns % NS_PER_MS, 0);
        }
    }

    #[test]
    fn a_scrape_that_is_a_little_late_is_dated_as_planned() {
        let mut schedule = Schedule::new(15_000, 77, START);
        let planned = schedule.planned_ns;
        assert_eq!(schedule.timestamp_ms(planned + 2_000_000), planned / NS_PER_MS);
        assert_eq!(schedule.timestamp_ms(planned + 2_999_999), planned / NS_PER_MS + 2);
        assert_eq!(schedule.timestamp_ms(planned + 3_000_000), planned / NS_PER_MS + 3);
    }

    #[test]
    fn the_tolerance_is_one_percent_of_short_intervals() {
        let mut schedule = Schedule::new(100, 7, START);
        let planned = schedule.planned_ns;
        assert_eq!(schedule.timestamp_ms(planned + 1_000_000), planned / NS_PER_MS);
        assert_eq!(schedule.timestamp_ms(planned + 2_000_000), planned / NS_PER_MS + 2);
    }

    #[test]
    fn missed_scrapes_are_left_out_and_the_grid_is_kept() {
        let mut schedule = Schedule::new(1_000, 7, START);
        let planned = schedule.planned_ns;
        schedule.timestamp_ms(planned);
        schedule.advance(planned + 3_500 * NS_PER_MS);
        assert_eq!(schedule.planned_ns, planned + 3_000 * NS_PER_MS);
        assert_eq!(schedule.timestamp_ms(planned + 3_500 * NS_PER_MS), planned / NS_PER_MS + 3_500);
        schedule.advance(planned + 3_600 * NS_PER_MS);
        assert_eq!(schedule.planned_ns, planned + 4_000 * NS_PER_MS);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_scraping() {
        let mut schedule = Schedule::new(1_000, 7, START);
        let now = schedule.planned_ns - 86_400_000 * NS_PER_MS;
        schedule.advance(now);
        assert!(schedule.delay(now) <= Duration::from_secs(1));
    }
}
