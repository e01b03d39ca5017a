//! What a server has to hold after it was sent a source: counts of all series, and every sample of some.

use crate::source::Source;
use chronolith_model::append::{AppendBatch, SeriesKey};
use chronolith_model::labels::write_labels;
use chronolith_wire::remote_write::v1;
use std::collections::{BTreeMap, HashMap};

/// What was sent.
#[derive(Debug)]
pub struct Expected {
    /// Samples by metric name; NaNs, which VictoriaMetrics does not keep, apart.
    pub counts: BTreeMap<String, Count>,
    /// Series.
    pub n_series: u64,
    /// Time of the first sample that is sent, milliseconds.
    pub begin: i64,
    /// Time of the first sample that is expected back.
    pub mint: i64,
    /// Time of the last sample.
    pub maxt: i64,
    /// Some series, whole.
    pub series: Vec<ExpectedSeries>,
    /// The name that most series have; of these, some query asks.
    pub common_name: String,
}

/// Samples sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Floats that are numbers, and histograms.
    pub numbers: u64,
    /// NaNs.
    pub nans: u64,
}

/// A series whose samples are compared one by one.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedSeries {
    /// As a selector.
    pub selector: String,
    /// Times, and values as floats; the count of a native histogram.
    pub samples: Vec<(i64, f64)>,
    /// Whether the samples are native histograms.
    pub is_histogram: bool,
}

struct Seen {
    counts: Count,
    number: u32,
}

impl Expected {
    /// Reads the source three times: for the times, for counts, and for the samples of `n_checked` series spread evenly. Of servers that
    /// keep no more, only the `newest_ms` milliseconds before the last sample are expected.
    ///
    /// # Errors
    /// If the source is broken.
    pub fn of(source: &Source, n_checked: usize, newest_ms: Option<i64>) -> Result<Self, String> {
        let mut seen: HashMap<Box<[u8]>, Seen> = HashMap::new();
        let (begin, maxt) = time_range(source)?;
        let mint = newest_ms.map_or(begin, |newest| maxt.saturating_sub(newest).max(begin));
        source.requests((0, 1), &mut |batch| {
            for (key, timestamp, value, _) in samples(batch)? {
                if timestamp < mint {
                    continue;
                }
                let number = seen.len() as u32;
                let counts = match seen.get_mut(key) {
                    Some(seen) => &mut seen.counts,
                    None => {
                        &mut seen
                            .entry(key.into())
                            .or_insert(Seen { counts: Count::default(), number })
                            .counts
                    }
                };
                if value.is_nan() { counts.nans += 1 } else { counts.numbers += 1 }
            }
            Ok(())
        })?;
        let mut expected = Self {
            counts: BTreeMap::new(),
            n_series: seen.len() as u64,
            begin,
            mint,
            maxt,
            series: Vec::new(),
            common_name: String::new(),
        };
        let mut names: BTreeMap<String, u64> = BTreeMap::new();
        let every = (seen.len() / n_checked.max(1)).max(1) as u32;
        let mut checked: HashMap<Box<[u8]>, usize> = HashMap::new();
        for (key, Seen { counts, number }) in seen {
            let mut pairs = Vec::new();
            v1::decode_labels(&key, &mut pairs).map_err(|e| e.to_string())?;
            let name = pairs.iter().find(|(name, _)| *name == "__name__").map_or("", |(_, value)| value);
            let sum = expected.counts.entry(name.to_owned()).or_default();
            sum.numbers += counts.numbers;
            sum.nans += counts.nans;
            *names.entry(name.to_owned()).or_default() += 1;
            if number % every == every / 2 && checked.len() < n_checked {
                let mut selector = String::new();
                write_labels(&mut selector, pairs.iter().copied()).expect("a string takes any text");
                checked.insert(key.clone(), expected.series.len());
                expected.series.push(ExpectedSeries { selector, samples: Vec::new(), is_histogram: false });
            }
        }
        let common = names.into_iter().max_by_key(|(_, count)| *count);
        expected.common_name = common.map(|(name, _)| name).unwrap_or_default();
        source.requests((0, 1), &mut |batch| {
            for (key, timestamp, value, is_histogram) in samples(batch)? {
                if let Some(&at) = checked.get(key).filter(|_| timestamp >= mint) {
                    expected.series[at].samples.push((timestamp, value));
                    expected.series[at].is_histogram = is_histogram;
                }
            }
            Ok(())
        })?;
        Ok(expected)
    }

    /// All samples.
    pub fn total(&self) -> Count {
        self.counts.values().fold(Count::default(), |sum, count| Count {
            numbers: sum.numbers + count.numbers,
            nans: sum.nans + count.nans,
        })
    }
}

/// Times of the first and of the last sample.
fn time_range(source: &Source) -> Result<(i64, i64), String> {
    let mut range: Option<(i64, i64)> = None;
    source.requests((0, 1), &mut |batch| {
        for (_, timestamp, ..) in samples(batch)? {
            let (begin, end) = range.unwrap_or((timestamp, timestamp));
            range = Some((begin.min(timestamp), end.max(timestamp)));
        }
        Ok(())
    })?;
    range.ok_or_else(|| "the source holds no sample".to_owned())
}

/// Key, time, value and whether it is a histogram of each sample.
fn samples<'b>(
    batch: &'b AppendBatch<'_>,
) -> Result<impl Iterator<Item = (&'b [u8], i64, f64, bool)>, String> {
    if batch.series.iter().any(|series| !matches!(series.key, SeriesKey::Encoded(_))) {
        return Err("series are not encoded".to_owned());
    }
    Ok(batch.series.iter().flat_map(|series| {
        let SeriesKey::Encoded(key) = series.key else { unreachable!("checked above") };
        let floats = batch.samples[series.samples.start as usize..series.samples.end as usize]
            .iter()
            .map(move |sample| (key, sample.timestamp, sample.value, false));
        let histograms = batch.histograms[series.histograms.start as usize..series.histograms.end as usize]
            .iter()
            .map(move |sample| (key, sample.timestamp, sample.histogram.to_float().count, true));
        floats.chain(histograms)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Fleet, Schedule, synthetic::Mixture};

    #[test]
    fn everything_that_is_sent_is_expected() {
        let mixture = Mixture { series: 40, histogram_share: 0.4, native_share: 0.1 };
        let schedule = Schedule {
            start: 1_000_000,
            interval: 1000,
            jitter: 0,
            scrapes: 7,
            churn_per_hour: 0.0,
            samples_per_request: 11,
        };
        let source = Source::Fleet(Fleet::synthetic(&mixture, 3), schedule);
        let expected = Expected::of(&source, 10, None).unwrap();
        assert_eq!(expected.n_series, 120);
        assert_eq!(expected.total(), Count { numbers: 120 * 7, nans: 0 });
        assert!(expected.counts.len() > 3);
        assert_eq!(expected.series.len(), 10);
        assert!(expected.series.iter().all(|series| series.samples.len() == 7));
        assert!(expected.mint >= 1_000_000 && expected.maxt < 1_007_000);
        assert_eq!(expected.begin, expected.mint);

        let newest = Expected::of(&source, 10, Some(2999)).unwrap();
        assert_eq!((newest.begin, newest.maxt), (expected.begin, expected.maxt));
        assert_eq!(newest.mint, expected.maxt - 2999);
        assert_eq!(newest.total(), Count { numbers: 120 * 3, nans: 0 });
        assert!(newest.series.iter().all(|series| series.samples.len() == 3));
    }
}
