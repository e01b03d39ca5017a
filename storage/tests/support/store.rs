//! What the tests of the whole store share: appending, reading everything back, and a model.

#![allow(dead_code, reason = "each test uses a part of it")]

use chronolith_model::append::{AppendBatch, AppendOutcome, BatchSeries, HistogramSample, Sample, SeriesKey};
use chronolith_model::histogram::{Histogram, IntHistogram, Span};
use chronolith_model::queryable::{
    BitSet, Floats, HistogramNeed, LabelQuery, Lookups, QueryContext, Queryable, ReadError, SampleBatch,
    Select, SeriesSamples, Snapshot, Unlimited,
};
use chronolith_model::sample::STALE_NAN_BITS;
use chronolith_model::{Labels, Matcher};
use chronolith_storage::db::Db;
use chronolith_storage::options::{ManualClock, Options};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Length of a window in these tests.
pub const WINDOW_MS: i64 = 10_000;
/// Retention in these tests: blocks are at most four windows long.
pub const RETENTION_MS: i64 = 400_000;

/// A sample's value, comparable to the bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bits of a float.
    Float(u64),
    /// An integer histogram that is made from this number.
    Histogram(u64),
    /// The staleness marker, as a float.
    Stale,
}

/// A histogram made from a number.
pub fn histogram(n: u64) -> Histogram {
    Histogram::Int(IntHistogram {
        count: n + 3,
        sum: n as f64,
        zero_threshold: 0.001,
        zero_count: 1,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_deltas: vec![1, n as i64],
        ..IntHistogram::default()
    })
}

/// All series with all their samples.
pub type Content = BTreeMap<Labels, BTreeMap<i64, Value>>;

/// Options that leave everything to the test.
pub fn options(clock: &Arc<ManualClock>) -> Options {
    Options {
        window_ms: WINDOW_MS,
        retention_time_ms: RETENTION_MS,
        table_samples: 200,
        background: false,
        ballast_bytes: Some(0),
        shards: 2,
        threads: 2,
        memory_budget_bytes: 64 << 20,
        clock: Arc::clone(clock) as Arc<_>,
        ..Options::default()
    }
}

pub fn open(path: &Path, clock: &Arc<ManualClock>) -> Db {
    Db::open(path, options(clock)).unwrap_or_else(|error| panic!("{error}"))
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).expect("no name occurs twice")
}

/// Appends samples in order, as one batch.
pub fn append(db: &Db, samples: &[(Labels, i64, Value)]) -> AppendOutcome {
    let mut batch = AppendBatch::default();
    for (labels, timestamp, value) in samples {
        let (n_samples, n_histograms) = (batch.samples.len() as u32, batch.histograms.len() as u32);
        let float = match value {
            Value::Float(bits) => Some(f64::from_bits(*bits)),
            Value::Stale => Some(f64::from_bits(STALE_NAN_BITS)),
            Value::Histogram(n) => {
                let sample =
                    HistogramSample { timestamp: *timestamp, start_timestamp: 0, histogram: histogram(*n) };
                batch.histograms.push(sample);
                None
            }
        };
        batch.samples.extend(float.map(|value| Sample { timestamp: *timestamp, value, start_timestamp: 0 }));
        batch.series.push(BatchSeries {
            key: SeriesKey::Labels(labels),
            samples: n_samples..batch.samples.len() as u32,
            histograms: n_histograms..batch.histograms.len() as u32,
            exemplars: 0..0,
        });
    }
    db.append(&batch, false).unwrap_or_else(|error| panic!("{error}"))
}

/// Everything that matches in `[mint, maxt]`; series without a sample in range are left out.
pub fn read(db: &Db, matchers: &[Matcher], mint: i64, maxt: i64) -> Result<Content, ReadError> {
    read_snapshot(&*db.pin()?, matchers, mint, maxt)
}

pub fn read_snapshot(
    snapshot: &dyn Snapshot,
    matchers: &[Matcher],
    mint: i64,
    maxt: i64,
) -> Result<Content, ReadError> {
    let context = Unlimited::default();
    let select = Select::whole(matchers, mint, maxt);
    let series = snapshot.select(&select, &context)?;
    let mut content = Content::new();
    let mut batch = SampleBatch::default();
    for partition in series.partitions() {
        batch.clear();
        series.read(partition.clone(), &mut batch, &context)?;
        for (index, samples) in partition.clone().zip(&batch.series) {
            let mut found = BTreeMap::new();
            let mut floats = 0usize;
            let mut histograms = 0usize;
            for (at, &timestamp) in samples.timestamps.times.iter().enumerate() {
                let is_stale = samples.stale.contains(&(at as u32));
                let is_histogram =
                    samples.histograms.as_ref().is_some_and(|(_, at_times)| at_times.contains(at));
                let value = if is_histogram {
                    let (range, _) = samples.histograms.as_ref().expect("it was just seen");
                    histograms += 1;
                    Value::Histogram(batch.histograms[range.start as usize + histograms - 1].sum as u64)
                } else {
                    floats += 1;
                    match &samples.floats {
                        Floats::None => panic!("a timestamp is neither float nor histogram"),
                        Floats::Constant(value) => Value::Float(value.to_bits()),
                        Floats::Values(range) => {
                            Value::Float(batch.values[range.start as usize + floats - 1].to_bits())
                        }
                    }
                };
                if (mint..=maxt).contains(&timestamp) {
                    found.insert(timestamp, if is_stale { Value::Stale } else { value });
                }
            }
            if !found.is_empty() {
                let symbols = context.symbols();
                let pairs = series.labels(index).iter().map(|&(name, value)| {
                    (symbols.resolve(name).to_string(), symbols.resolve(value).to_string())
                });
                let labels = Labels::from_pairs(pairs).expect("stored labels are canonical");
                assert!(content.insert(labels, found).is_none(), "a series came twice");
            }
        }
    }
    Ok(content)
}

/// What the steps of look-ups see of each series: time and sample, as text. Series that no step sees are
/// left out.
pub type Seen = BTreeMap<Labels, Vec<Option<(i64, String)>>>;

/// Reads what `select` says and looks each step of `steps` up in what comes back. Values and histograms are
/// shown as far as `shown` wants them.
pub fn look_up(
    snapshot: &dyn Snapshot,
    select: &Select<'_>,
    steps: &Lookups,
    shown: &Select<'_>,
) -> Result<Seen, ReadError> {
    let context = Unlimited::default();
    let series = snapshot.select(select, &context)?;
    let mut seen = Seen::new();
    let mut batch = SampleBatch::default();
    let mut present = Vec::new();
    for partition in series.partitions() {
        batch.clear();
        series.read(partition.clone(), &mut batch, &context)?;
        let is_known = series.present(partition.clone(), &mut present, &context)?;
        for (index, samples) in partition.clone().zip(&batch.series) {
            let times = &samples.timestamps.times;
            assert!(times.is_sorted_by(|a, b| a < b));
            let at_steps: Vec<Option<(i64, String)>> = (0..i64::from(steps.n_steps))
                .map(|step| {
                    let time = steps.start + step * steps.interval;
                    let at = times.partition_point(|&at| at <= time).checked_sub(1)?;
                    (times[at] > time - steps.lookback).then(|| (times[at], text(&batch, samples, at, shown)))
                })
                .collect();
            if is_known {
                let is_there = |(_, text): &(i64, String)| text != "stale";
                let expected = at_steps[0].as_ref().is_some_and(is_there);
                assert_eq!(present[(index - partition.start) as usize], expected, "{select:?}: {at_steps:?}");
            }
            if at_steps.iter().any(Option::is_some) {
                let symbols = context.symbols();
                let pairs = series.labels(index).iter().map(|&(name, value)| {
                    (symbols.resolve(name).to_string(), symbols.resolve(value).to_string())
                });
                seen.insert(Labels::from_pairs(pairs).expect("stored labels are canonical"), at_steps);
            }
        }
    }
    Ok(seen)
}

/// The sample at a position, down to the reset hint.
fn text(batch: &SampleBatch, samples: &SeriesSamples, at: usize, shown: &Select<'_>) -> String {
    if samples.stale.contains(&(at as u32)) {
        return "stale".to_owned();
    }
    let n_before = |set: &BitSet| set.iter().take_while(|&before| before < at).count();
    match &samples.histograms {
        Some((range, set)) if set.contains(at) => {
            let histogram = &batch.histograms[range.start as usize + n_before(set)];
            match shown.histograms {
                HistogramNeed::None => "histogram".to_owned(),
                HistogramNeed::Stats | HistogramNeed::Full => format!("{histogram:?}"),
            }
        }
        _ if !shown.values => "float".to_owned(),
        histograms => {
            let float = at - histograms.as_ref().map_or(0, |(_, set)| n_before(set));
            let value = match &samples.floats {
                Floats::None => panic!("a timestamp is neither float nor histogram"),
                Floats::Constant(value) => *value,
                Floats::Values(range) => batch.values[range.start as usize + float],
            };
            format!("{:x}", value.to_bits())
        }
    }
}

/// Values of a label over everything.
pub fn label_values(db: &Db, name: &str) -> BTreeSet<String> {
    let query = LabelQuery { matcher_sets: &[], mint: i64::MIN, maxt: i64::MAX, limit: 0 };
    let values = db.pin().and_then(|snapshot| snapshot.label_values(name, &query, &Unlimited::default()));
    values.unwrap_or_else(|error| panic!("{error}")).into_iter().collect()
}

/// The part of a content that matches and lies in range.
pub fn filter(content: &Content, matchers: &[Matcher], mint: i64, maxt: i64) -> Content {
    let matches = |labels: &Labels| matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or("")));
    let mut filtered = Content::new();
    for (labels, samples) in content.iter().filter(|(labels, _)| matches(labels)) {
        let in_range: BTreeMap<i64, Value> =
            samples.range(mint..=maxt.max(mint)).map(|(&t, &v)| (t, v)).collect();
        if mint <= maxt && !in_range.is_empty() {
            filtered.insert(labels.clone(), in_range);
        }
    }
    filtered
}

/// Copies a directory, as it is at this moment.
pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a test folder can be made");
    for entry in std::fs::read_dir(from).expect("the folder is there") {
        let entry = entry.expect("the folder reads");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has a type").is_dir() {
            copy_directory(&entry.path(), &target);
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}

/// A small generator of random numbers (splitmix64): a seed reproduces a run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Tells why two contents differ, shortly.
pub fn difference(found: &Content, expected: &Content) -> Option<String> {
    for labels in found.keys().chain(expected.keys()) {
        let empty = BTreeMap::new();
        let (a, b) = (found.get(labels).unwrap_or(&empty), expected.get(labels).unwrap_or(&empty));
        for timestamp in a.keys().chain(b.keys()) {
            if a.get(timestamp) != b.get(timestamp) {
                let (a, b) = (a.get(timestamp), b.get(timestamp));
                return Some(format!("{labels} at {timestamp}: found {a:?}, expected {b:?}"));
            }
        }
    }
    None
}
