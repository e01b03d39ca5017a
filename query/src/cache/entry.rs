//! One result that is kept, and which of its steps still hold.

use crate::engine::QueryRequest;
use crate::plan::reach::Reach;
use crate::stats::histogram_samples;
use crate::value::{RangeSeries, ResultLabels};
use chronolith_model::Symbol;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// What makes two results parts of the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    text: String,
    interval_ms: i64,
    /// Of every step, by the interval.
    remainder: i64,
    lookback_ms: i64,
}

impl Key {
    pub(super) fn new(request: &QueryRequest<'_>, lookback_ms: i64) -> Self {
        Self {
            text: request.text.to_owned(),
            interval_ms: request.interval_ms,
            remainder: request.start.rem_euclid(request.interval_ms),
            lookback_ms,
        }
    }
}

/// Consecutive steps of a grid, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) first: i64,
    pub(super) last: i64,
    interval_ms: i64,
}

impl Steps {
    pub(super) fn of(request: &QueryRequest<'_>) -> Self {
        let QueryRequest { start, end, interval_ms, .. } = *request;
        Self { first: start, last: end - (end - start) % interval_ms, interval_ms }
    }

    pub(super) fn count(self) -> u64 {
        ((self.last - self.first) / self.interval_ms) as u64 + 1
    }

    /// Those in both.
    pub(super) fn and(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last), ..self };
        (both.first <= both.last).then_some(both)
    }

    /// Those before `part`.
    pub(super) fn before(self, part: Self) -> Option<Self> {
        (self.first < part.first).then(|| Self { last: part.first - self.interval_ms, ..self })
    }

    /// Those after `part`.
    pub(super) fn after(self, part: Self) -> Option<Self> {
        (part.last < self.last).then(|| Self { first: part.last + self.interval_ms, ..self })
    }

    /// Those at or after `time`.
    fn from(self, time: i64) -> Option<Self> {
        if time <= self.first {
            return Some(self);
        }
        let missing = i128::from(time) - i128::from(self.first);
        let skipped = (missing + i128::from(self.interval_ms) - 1) / i128::from(self.interval_ms);
        let first = i128::from(self.first) + skipped * i128::from(self.interval_ms);
        let first = i64::try_from(first).ok().filter(|&first| first <= self.last)?;
        Some(Self { first, ..self })
    }

    /// Those at or before `time`.
    fn until(self, time: i64) -> Option<Self> {
        if time >= self.last {
            return Some(self);
        }
        let length = time.checked_sub(self.first).filter(|&length| length >= 0)?;
        Some(Self { last: self.first + length / self.interval_ms * self.interval_ms, ..self })
    }
}

/// A result that is kept.
#[derive(Debug)]
pub(super) struct Entry {
    /// Of the store, taken before the result was evaluated.
    pub(super) version: u64,
    pub(super) steps: Steps,
    /// Sorted by labels.
    pub(super) series: Vec<RangeSeries>,
    pub(super) size_bytes: usize,
}

impl Entry {
    /// The steps that depend on nothing but the samples of `unchanged`.
    pub(super) fn unchanged(&self, unchanged: &Range<i64>, reach: Reach) -> Option<Steps> {
        if unchanged.is_empty() {
            return None;
        }
        let first = unchanged.start.saturating_add(reach.before_ms);
        let last = (unchanged.end - 1).saturating_sub(reach.after_ms);
        self.steps.from(first)?.until(last)
    }

    /// The samples of some of its steps.
    pub(super) fn cut(&self, steps: Steps) -> Vec<RangeSeries> {
        fn inside<T: Clone>(points: &[(i64, T)], steps: Steps) -> Vec<(i64, T)> {
            let first = points.partition_point(|point| point.0 < steps.first);
            let end = points.partition_point(|point| point.0 <= steps.last);
            points[first..end].to_vec()
        }
        let cut = |series: &RangeSeries| {
            let floats = inside(&series.floats, steps);
            let histograms = inside(&series.histograms, steps);
            let is_empty = floats.is_empty() && histograms.is_empty();
            (!is_empty).then(|| RangeSeries { labels: series.labels.clone(), floats, histograms })
        };
        self.series.iter().filter_map(cut).collect()
    }
}

/// The series with label texts of their own, each once: what they come with may be all that the query has read.
pub(super) fn with_own_texts(series: &[RangeSeries]) -> Vec<RangeSeries> {
    let mut numbers: HashMap<&str, Symbol> = HashMap::new();
    let mut texts: Vec<Arc<str>> = Vec::new();
    let mut number = |text| {
        *numbers.entry(text).or_insert_with(|| {
            texts.push(Arc::from(text));
            Symbol(u32::try_from(texts.len() - 1).expect("a query has fewer than 2^32 symbols"))
        })
    };
    let pairs: Vec<Arc<[(Symbol, Symbol)]>> = series
        .iter()
        .map(|series| series.labels.iter().map(|(name, value)| (number(name), number(value))).collect())
        .collect();
    let texts: Arc<[Arc<str>]> = texts.into();
    let labels = pairs.into_iter().map(|pairs| ResultLabels::new(Arc::clone(&texts), pairs));
    let with = |(series, labels): (&RangeSeries, _)| RangeSeries {
        labels,
        floats: series.floats.clone(),
        histograms: series.histograms.clone(),
    };
    series.iter().zip(labels).map(with).collect()
}

/// Memory of an entry.
pub(super) fn size_bytes(key: &Key, series: &[RangeSeries]) -> usize {
    /// The entry itself, its place among the others and the allocations' own.
    const ENTRY_BYTES: usize = 400;
    ENTRY_BYTES + 2 * key.text.len() + series.iter().map(series_bytes).sum::<usize>()
}

/// Memory of a series.
pub(super) fn series_bytes(series: &RangeSeries) -> usize {
    let labels: usize = series.labels.iter().map(|(name, value)| 48 + name.len() + value.len()).sum();
    let histograms: usize =
        series.histograms.iter().map(|(_, histogram)| 16 + histogram.go_size_bytes()).sum();
    size_of::<RangeSeries>() + labels + series.floats.len() * 16 + histograms
}

/// Samples of a series as `--query.max-samples` counts them.
pub(super) fn n_samples(series: &RangeSeries) -> usize {
    let histograms = series.histograms.iter().map(|(_, histogram)| histogram_samples(histogram) as usize);
    series.floats.len() + histograms.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(first: i64, last: i64) -> Steps {
        Steps { first, last, interval_ms: 10 }
    }

    #[test]
    fn steps_are_cut_to_whole_ones() {
        let request = QueryRequest {
            text: "a",
            start: -15,
            end: 29,
            interval_ms: 10,
            range: true,
            lookback_delta_ms: None,
        };
        let all = Steps::of(&request);
        assert_eq!(all, steps(-15, 25));
        assert_eq!(all.count(), 5);
        let part = all.from(-14).and_then(|rest| rest.until(24));
        assert_eq!(part, Some(steps(-5, 15)));
        assert_eq!(all.before(steps(-5, 15)), Some(steps(-15, -15)));
        assert_eq!(all.after(steps(-5, 15)), Some(steps(25, 25)));
        assert_eq!((all.before(all), all.after(all)), (None, None));
        assert_eq!((all.from(26), all.until(-16)), (None, None));
        assert_eq!((all.from(i64::MIN), all.until(i64::MAX)), (Some(all), Some(all)));
        assert_eq!((all.from(i64::MAX), all.until(i64::MIN)), (None, None));
        assert_eq!(all.and(steps(15, 95)), Some(steps(15, 25)));
        assert_eq!(all.and(steps(35, 95)), None);
    }

    #[test]
    fn steps_hold_whose_samples_are_unchanged() {
        let entry = Entry { version: 1, steps: steps(100, 200), series: Vec::new(), size_bytes: 0 };
        let reach = Reach { before_ms: 30, after_ms: 5 };
        assert_eq!(entry.unchanged(&(i64::MIN..i64::MAX), reach), Some(steps(100, 200)));
        assert_eq!(entry.unchanged(&(i64::MIN..206), reach), Some(steps(100, 200)));
        assert_eq!(entry.unchanged(&(i64::MIN..205), reach), Some(steps(100, 190)));
        assert_eq!(entry.unchanged(&(70..i64::MAX), reach), Some(steps(100, 200)));
        assert_eq!(entry.unchanged(&(71..i64::MAX), reach), Some(steps(110, 200)));
        assert_eq!(entry.unchanged(&(0..0), reach), None);
        assert_eq!(entry.unchanged(&(i64::MIN..50), reach), None);
        // An offset keeps all that is new away.
        let behind = Reach { before_ms: 130, after_ms: -100 };
        assert_eq!(entry.unchanged(&(i64::MIN..90), behind), Some(steps(100, 180)));
    }
}
