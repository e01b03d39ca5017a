//! What a target exposed before: labels and handles by the bytes that name a series.
//!
//! A series that comes in every scrape costs one look-up. The cache also knows which series the last
//! scrape had, so that those that are gone can be marked stale.
//!
//! Source: Prometheus v3.14, `scrape/scrape.go`, `scrapeCache`. Different from there, two spellings of
//! one label set share one series, so that a target may change between them.

use chronolith_model::Labels;
use chronolith_model::append::{MetricType, SeriesRef};
use std::collections::HashMap;
use std::hash::BuildHasher;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// Position of a series in the cache; valid until the scrape it was got in is finished, and on while
/// the series keeps coming.
pub(super) type SeriesIndex = u32;

/// A scrape that fails half-way leaves entries behind. Beyond twice the last success and this many,
/// they are swept.
const SLACK: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Number of the scrape that is going on, from 1.
    iteration: u64,
    entries: HashMap<Box<[u8]>, Entry, Xxh3DefaultBuilder>,
    series: Vec<CachedSeries>,
    free: Vec<SeriesIndex>,
    by_labels: HashMap<u64, SeriesIndex, Xxh3DefaultBuilder>,
    /// Series that get a staleness marker if they do not come again.
    tracked: Vec<SeriesIndex>,
    /// Entries that came in this scrape; if all did, there is nothing to sweep.
    n_seen: usize,
    n_entries_at_success: usize,
}

/// What the bytes of a series mean.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Type at the time: it decides how `le` and `quantile` are written. `Unknown` stands for all
    /// types for which it decides nothing.
    metric_type: MetricType,
    last_seen: u64,
    /// `None` for series that relabelling drops.
    series: Option<SeriesIndex>,
}

#[derive(Debug)]
pub(super) struct CachedSeries {
    pub labels: Labels,
    pub reference: Option<SeriesRef>,
    labels_hash: u64,
    /// Entries that lead here.
    n_entries: u32,
    scraped_in: u64,
    tracked_in: u64,
}

/// How a cache ends a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The body was read to its end.
    Success,
    /// It was not; entries are kept for the next time.
    Failure,
    /// The batch was not taken: the staleness markers of this scrape are still to be written.
    NotAppended,
}

impl Cache {
    pub fn new() -> Self {
        Self { iteration: 1, ..Self::default() }
    }

    /// The series that `raw` names: `None` if not known, `Some(None)` if known to be dropped.
    pub fn get(&mut self, raw: &[u8], metric_type: MetricType) -> Option<Option<SeriesIndex>> {
        let entry = self.entries.get_mut(raw).filter(|entry| entry.metric_type == metric_type)?;
        if std::mem::replace(&mut entry.last_seen, self.iteration) != self.iteration {
            self.n_seen += 1;
        }
        Some(entry.series)
    }

    /// Remembers what `raw` means; `None` says that the series is dropped. Returns its series, and
    /// whether it was not known under another spelling either.
    pub fn insert(
        &mut self,
        raw: &[u8],
        metric_type: MetricType,
        labels: Option<Labels>,
    ) -> Option<(SeriesIndex, bool)> {
        let found = labels.map(|labels| self.series_of(labels));
        let series = found.map(|(index, _)| index);
        let entry = Entry { metric_type, last_seen: self.iteration, series };
        if let Some(series) = series {
            self.series[series as usize].n_entries += 1;
        }
        let before = self.entries.insert(raw.into(), entry);
        if before.is_none_or(|before| before.last_seen != self.iteration) {
            self.n_seen += 1;
        }
        if let Some(Entry { series: Some(before), .. }) = before {
            self.series[before as usize].n_entries -= 1;
        }
        found
    }

    fn series_of(&mut self, labels: Labels) -> (SeriesIndex, bool) {
        let labels_hash = Xxh3DefaultBuilder::new().hash_one(&labels);
        if let Some(&known) = self.by_labels.get(&labels_hash)
            && self.series[known as usize].labels == labels
        {
            return (known, false);
        }
        let series =
            CachedSeries { labels, reference: None, labels_hash, n_entries: 0, scraped_in: 0, tracked_in: 0 };
        let index = match self.free.pop() {
            Some(index) => {
                self.series[index as usize] = series;
                index
            }
            None => {
                self.series.push(series);
                u32::try_from(self.series.len() - 1).expect("a body has fewer than 2^32 series")
            }
        };
        self.by_labels.insert(labels_hash, index);
        (index, true)
    }

    pub fn series(&self, index: SeriesIndex) -> &CachedSeries {
        &self.series[index as usize]
    }

    pub fn set_reference(&mut self, index: SeriesIndex, reference: Option<SeriesRef>) {
        self.series[index as usize].reference = reference;
    }

    /// Notes that a series came. Returns whether it had come in this scrape before.
    pub fn mark_scraped(&mut self, index: SeriesIndex) -> bool {
        let series = &mut self.series[index as usize];
        std::mem::replace(&mut series.scraped_in, self.iteration) == self.iteration
    }

    /// Notes that a series gets a staleness marker when it stops coming. Returns whether that is news
    /// in this scrape.
    pub fn track(&mut self, index: SeriesIndex) -> bool {
        let series = &mut self.series[index as usize];
        std::mem::replace(&mut series.tracked_in, self.iteration) != self.iteration
    }

    /// Series of the last scrape that did not come in this one.
    pub fn vanished(&self) -> Vec<SeriesIndex> {
        let is_gone = |index: &SeriesIndex| self.series[*index as usize].tracked_in != self.iteration;
        self.tracked.iter().copied().filter(is_gone).collect()
    }

    /// All series of the last scrape.
    pub fn tracked(&self) -> &[SeriesIndex] {
        &self.tracked
    }

    /// Ends a scrape. `tracked` are the series for which [`Self::track`] said that they are news.
    /// Returns whether entries had to be swept because failed scrapes left too many.
    pub fn finish(&mut self, tracked: Vec<SeriesIndex>, finish: Finish) -> bool {
        if finish == Finish::NotAppended {
            let mut tracked = tracked;
            tracked.extend(self.vanished());
            self.tracked = tracked;
            self.begin();
            return false;
        }
        self.tracked = tracked;
        let is_success = finish == Finish::Success;
        let is_forced = !is_success && self.entries.len() > self.n_entries_at_success * 2 + SLACK;
        if (is_success && self.n_seen < self.entries.len()) || is_forced {
            self.sweep();
        }
        if is_success {
            self.n_entries_at_success = self.entries.len();
        }
        self.begin();
        is_forced
    }

    fn begin(&mut self) {
        self.iteration += 1;
        self.n_seen = 0;
    }

    /// Forgets entries that did not come in this scrape, and series without entries.
    fn sweep(&mut self) {
        let Self { entries, series, free, by_labels, iteration, .. } = self;
        entries.retain(|_, entry| {
            let stays = entry.last_seen == *iteration;
            if let (false, Some(index)) = (stays, entry.series) {
                series[index as usize].n_entries -= 1;
            }
            stays
        });
        for (index, series) in series.iter_mut().enumerate() {
            let index = index as SeriesIndex;
            // Series that are free already have given up their labels.
            if series.n_entries > 0 || series.labels.is_empty() {
                continue;
            }
            if by_labels.get(&series.labels_hash) == Some(&index) {
                by_labels.remove(&series.labels_hash);
            }
            series.labels = Labels::empty();
            series.reference = None;
            free.push(index);
        }
    }

    /// Forgets what bytes mean, because the rules by which they got their meaning have changed. Series
    /// stay as they are, so that those that the new rules drop are marked stale.
    pub fn forget_meanings(&mut self) {
        for entry in self.entries.values() {
            if let Some(index) = entry.series {
                self.series[index as usize].n_entries -= 1;
            }
        }
        self.entries.clear();
        self.n_seen = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(name: &str) -> Labels {
        Labels::from_pairs([("__name__", name)]).unwrap()
    }

    fn scrape(cache: &mut Cache, names: &[&str]) -> Vec<String> {
        let mut tracked = Vec::new();
        for name in names {
            let raw = name.as_bytes();
            let known = cache.get(raw, MetricType::Unknown);
            let index = known.unwrap_or_else(|| {
                cache.insert(raw, MetricType::Unknown, Some(labels(name))).map(|(index, _)| index)
            });
            let index = index.expect("nothing is dropped here");
            if cache.track(index) {
                tracked.push(index);
            }
        }
        let vanished = cache.vanished();
        let vanished = vanished.iter().map(|&i| cache.series(i).labels.metric_name().to_owned()).collect();
        cache.finish(tracked, Finish::Success);
        vanished
    }

    #[test]
    fn series_that_do_not_come_again_have_vanished_once() {
        let mut cache = Cache::new();
        assert!(scrape(&mut cache, &["a", "b", "c"]).is_empty());
        assert_eq!(scrape(&mut cache, &["b"]), ["a", "c"]);
        assert!(scrape(&mut cache, &["b"]).is_empty());
        assert!(scrape(&mut cache, &["b", "d"]).is_empty());
        assert_eq!(cache.series.len(), 3, "free places are taken again");
        assert_eq!(cache.entries.len(), 2);
    }

    #[test]
    fn spellings_of_one_label_set_share_a_series() {
        let mut cache = Cache::new();
        let (first, is_new) = cache.insert(b"a{}", MetricType::Unknown, Some(labels("a"))).unwrap();
        assert!(is_new);
        let (second, is_new) = cache.insert(b"a", MetricType::Unknown, Some(labels("a"))).unwrap();
        assert!(!is_new);
        assert_eq!(first, second);
        assert!(!cache.mark_scraped(first));
        assert!(cache.mark_scraped(second));
    }

    #[test]
    fn another_type_is_another_meaning() {
        let mut cache = Cache::new();
        cache.insert(b"a", MetricType::Histogram, Some(labels("a")));
        assert_eq!(cache.get(b"a", MetricType::Gauge), None);
        cache.insert(b"a", MetricType::Gauge, None);
        assert_eq!(cache.get(b"a", MetricType::Gauge), Some(None));
        assert_eq!(cache.series[0].n_entries, 0);
    }

    #[test]
    fn failed_scrapes_do_not_fill_the_memory() {
        let mut cache = Cache::new();
        let mut was_swept = false;
        for i in 0..40 {
            for j in 0..100 {
                let name = format!("m{i}_{j}");
                cache.insert(name.as_bytes(), MetricType::Unknown, Some(labels(&name)));
            }
            was_swept |= cache.finish(Vec::new(), Finish::Failure);
        }
        assert!(was_swept);
        assert!(cache.entries.len() <= SLACK + 100);
        assert!(cache.series.len() <= SLACK + 200);
    }

    #[test]
    fn markers_that_were_not_written_are_still_due() {
        let mut cache = Cache::new();
        scrape(&mut cache, &["a", "b"]);
        cache.get(b"b", MetricType::Unknown);
        cache.track(1);
        assert_eq!(cache.vanished(), [0]);
        cache.finish(vec![1], Finish::NotAppended);
        assert_eq!(scrape(&mut cache, &["b"]), ["a"]);
    }
}
