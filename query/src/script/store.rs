//! Series in memory, with the whole contract of [`chronolith_model::queryable`]: shared timestamp columns,
//! staleness markers left in place, reset hints on read, start timestamps, and the view of histograms without
//! buckets.

use crate::value::SampleValue;
use chronolith_model::labels::block_order;
use chronolith_model::queryable::{
    BitSet, Estimate, Floats, HistogramNeed, LabelQuery, QueryContext, Queryable, ReadError, SampleBatch,
    Select, SelectedSeries, SeriesSamples, Snapshot, TimestampColumn,
};
use chronolith_model::{CounterResetHint, FloatHistogram, Labels, Matcher, Symbol, is_stale};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// What a series holds at one time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// A float or a histogram. The staleness marker is a float.
    pub value: SampleValue,
    /// Since when the counter counts, in milliseconds; 0 if unknown.
    pub start_timestamp: i64,
}

impl Sample {
    /// Whether it marks the end of the series.
    fn is_marker(&self) -> bool {
        match &self.value {
            SampleValue::Float(value) => is_stale(*value),
            SampleValue::Histogram(histogram) => histogram.is_stale(),
        }
    }
}

/// A store in memory. Cloning it is cheap as long as neither copy changes.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    /// In block order of the labels.
    series: Arc<BTreeMap<BlockOrder, BTreeMap<i64, Sample>>>,
    frozen: OnceLock<Arc<Frozen>>,
    partition_rows: Option<u32>,
}

/// Labels that compare as blocks number series.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BlockOrder(Labels);

impl Ord for BlockOrder {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        block_order(&self.0, &other.0)
    }
}

impl PartialOrd for BlockOrder {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that cuts its series into partitions of so many rows, instead of a few large ones: results must
    /// not depend on it.
    pub fn with_partition_rows(rows: u32) -> Self {
        Self { partition_rows: Some(rows.max(1)), ..Self::default() }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self { partition_rows: self.partition_rows, ..Self::default() };
    }

    /// Adds a sample. One that is there already stays.
    pub fn append(&mut self, labels: &Labels, timestamp: i64, sample: Sample) {
        self.frozen = OnceLock::new();
        let series = Arc::make_mut(&mut self.series);
        series.entry(BlockOrder(labels.clone())).or_default().entry(timestamp).or_insert(sample);
    }
}

impl Queryable for MemoryStore {
    fn pin(&self) -> Result<Arc<dyn Snapshot>, ReadError> {
        let frozen = self.frozen.get_or_init(|| Arc::new(Frozen::new(&self.series)));
        Ok(Arc::new(Pinned { frozen: Arc::clone(frozen), partition_rows: self.partition_rows }))
    }
}

/// All series as columns.
#[derive(Debug)]
struct Frozen {
    series: Vec<FrozenSeries>,
}

/// One series as columns.
#[derive(Debug)]
struct FrozenSeries {
    labels: Labels,
    timestamps: Arc<TimestampColumn>,
    /// At the times without a histogram; anything at staleness markers.
    floats: Vec<f64>,
    /// Set if all floats but markers have these bits.
    constant: Option<f64>,
    /// With the hints that reading gives.
    histograms: Vec<Arc<FloatHistogram>>,
    histogram_at: BitSet,
    stale: Vec<u32>,
    start_timestamps: Option<Arc<[i64]>>,
}

impl Frozen {
    fn new(series: &BTreeMap<BlockOrder, BTreeMap<i64, Sample>>) -> Self {
        let mut columns: HashMap<Vec<i64>, Arc<TimestampColumn>> = HashMap::new();
        let series = series
            .iter()
            .map(|(labels, samples)| {
                let times: Vec<i64> = samples.keys().copied().collect();
                let timestamps =
                    columns.entry(times.clone()).or_insert_with(|| Arc::new(TimestampColumn { times }));
                FrozenSeries::new(&labels.0, Arc::clone(timestamps), samples)
            })
            .collect();
        Self { series }
    }
}

impl FrozenSeries {
    fn new(labels: &Labels, timestamps: Arc<TimestampColumn>, samples: &BTreeMap<i64, Sample>) -> Self {
        let mut frozen = Self {
            labels: labels.clone(),
            timestamps,
            floats: Vec::new(),
            constant: None,
            histograms: Vec::new(),
            histogram_at: BitSet::new(samples.len()),
            stale: Vec::new(),
            start_timestamps: None,
        };
        let mut run = HistogramRun::default();
        let mut distinct = BTreeSet::new();
        for (position, sample) in samples.values().enumerate() {
            if sample.is_marker() {
                run.end();
                frozen.stale.push(u32::try_from(position).expect("fewer than 2^32 samples"));
                frozen.floats.push(f64::NAN);
                continue;
            }
            match &sample.value {
                SampleValue::Float(value) => {
                    run.end();
                    distinct.insert(value.to_bits());
                    frozen.floats.push(*value);
                }
                SampleValue::Histogram(histogram) => {
                    frozen.histogram_at.insert(position);
                    frozen.histograms.push(run.read(histogram));
                }
            }
        }
        if distinct.len() == 1 {
            frozen.constant = distinct.first().map(|&bits| f64::from_bits(bits));
        }
        if samples.values().any(|sample| sample.start_timestamp != 0) {
            frozen.start_timestamps = Some(samples.values().map(|sample| sample.start_timestamp).collect());
        }
        frozen
    }

    fn has_sample_in(&self, mint: i64, maxt: i64) -> bool {
        let times = &self.timestamps.times;
        let first = times.partition_point(|&time| time < mint);
        times.get(first).is_some_and(|&time| time <= maxt)
    }

    /// The histograms without buckets, for a reader that begins at `mint`. Hints are worked out while the
    /// buckets are there: what is stored if it is known, else from the sample read before.
    fn stats(&self, mint: i64) -> Vec<Arc<FloatHistogram>> {
        let mut before: Option<&FloatHistogram> = None;
        let times = self.histogram_at.iter().map(|position| self.timestamps.times[position]);
        times
            .zip(&self.histograms)
            .map(|(time, histogram)| {
                let hint = match (histogram.counter_reset_hint, before) {
                    (CounterResetHint::Unknown, Some(before)) if histogram.detect_reset(before) => {
                        CounterResetHint::Reset
                    }
                    (CounterResetHint::Unknown, Some(_)) => CounterResetHint::NotReset,
                    (hint, _) => hint,
                };
                if time >= mint {
                    before = Some(histogram);
                }
                Arc::new(FloatHistogram {
                    counter_reset_hint: hint,
                    schema: histogram.schema,
                    count: histogram.count,
                    sum: histogram.sum,
                    ..FloatHistogram::default()
                })
            })
            .collect()
    }
}

/// Follows runs of histograms that one chunk would hold.
#[derive(Default)]
struct HistogramRun {
    last: Option<Arc<FloatHistogram>>,
}

impl HistogramRun {
    fn end(&mut self) {
        self.last = None;
    }

    /// The histogram with the hint a reader sees: a gauge stays one; the others are known not to be a reset if
    /// they follow another of their run.
    fn read(&mut self, histogram: &Arc<FloatHistogram>) -> Arc<FloatHistogram> {
        let follows = self.last.as_ref().is_some_and(|last| continues_run(last, histogram));
        self.last = Some(Arc::clone(histogram));
        let hint = match histogram.counter_reset_hint {
            CounterResetHint::Gauge => CounterResetHint::Gauge,
            _ if follows => CounterResetHint::NotReset,
            _ => CounterResetHint::Unknown,
        };
        Arc::new(FloatHistogram { counter_reset_hint: hint, ..(**histogram).clone() })
    }
}

fn continues_run(last: &FloatHistogram, next: &FloatHistogram) -> bool {
    let is_gauge = |histogram: &FloatHistogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
    if is_gauge(last) != is_gauge(next)
        || last.schema != next.schema
        || last.zero_threshold != next.zero_threshold
        || last.custom_bounds() != next.custom_bounds()
    {
        return false;
    }
    if is_gauge(next) {
        return true;
    }
    if next.counter_reset_hint == CounterResetHint::Reset {
        return false;
    }
    // Whatever was claimed, the counts decide.
    let unhinted = FloatHistogram { counter_reset_hint: CounterResetHint::Unknown, ..next.clone() };
    !unhinted.detect_reset(last)
}

/// A version of the store.
struct Pinned {
    frozen: Arc<Frozen>,
    partition_rows: Option<u32>,
}

impl Pinned {
    fn matching(&self, matchers: &[Matcher], mint: i64, maxt: i64) -> Vec<u32> {
        let matches = |series: &FrozenSeries| {
            series.has_sample_in(mint, maxt)
                && matchers
                    .iter()
                    .all(|matcher| matcher.matches(series.labels.get(&matcher.name).unwrap_or("")))
        };
        let all = self.frozen.series.iter().enumerate();
        all.filter(|(_, series)| matches(series)).map(|(index, _)| index as u32).collect()
    }

    /// The label sets of the series that a label look-up asks for.
    fn labels_of(&self, query: &LabelQuery<'_>) -> impl Iterator<Item = &Labels> {
        let any = [Vec::new()];
        let sets = if query.matcher_sets.is_empty() { &any[..] } else { query.matcher_sets };
        let indexes: BTreeSet<u32> =
            sets.iter().flat_map(|matchers| self.matching(matchers, query.mint, query.maxt)).collect();
        indexes.into_iter().map(|index| &self.frozen.series[index as usize].labels)
    }
}

/// At most one string more than the limit, so that the caller sees that there are more.
fn limited(strings: BTreeSet<&str>, limit: usize) -> Vec<String> {
    let n_most = if limit == 0 { usize::MAX } else { limit.saturating_add(1) };
    strings.into_iter().take(n_most).map(str::to_owned).collect()
}

impl Snapshot for Pinned {
    fn estimate(&self, select: &Select<'_>) -> Result<Estimate, ReadError> {
        let indexes = self.matching(select.matchers, select.mint, select.maxt);
        let n_samples: usize =
            indexes.iter().map(|&index| self.frozen.series[index as usize].timestamps.times.len()).sum();
        Ok(Estimate {
            n_series: indexes.len() as u64,
            n_samples: n_samples as u64,
            size_bytes: 16 * n_samples as u64,
        })
    }

    fn select(
        &self,
        select: &Select<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Arc<dyn SelectedSeries>, ReadError> {
        cx.check()?;
        let indexes = self.matching(select.matchers, select.mint, select.maxt);
        let intern = |labels: &Labels| -> Vec<(Symbol, Symbol)> {
            labels
                .iter()
                .filter(|(name, _)| select.labels.keeps(name))
                .map(|(name, value)| (cx.symbols().intern(name), cx.symbols().intern(value)))
                .collect()
        };
        let series = |index: u32| &self.frozen.series[index as usize].labels;
        let n_rows = indexes.len() as u32;
        let partition_rows = self.partition_rows.unwrap_or(n_rows.div_ceil(4).max(1));
        Ok(Arc::new(Selected {
            frozen: Arc::clone(&self.frozen),
            labels: indexes.iter().map(|&index| intern(series(index))).collect(),
            partitions: (0..n_rows)
                .step_by(partition_rows as usize)
                .map(|first| first..n_rows.min(first.saturating_add(partition_rows)))
                .collect(),
            indexes,
            mint: select.mint,
            histograms: select.histograms,
            start_timestamps: select.start_timestamps,
        }))
    }

    fn label_names(&self, query: &LabelQuery<'_>, cx: &dyn QueryContext) -> Result<Vec<String>, ReadError> {
        cx.check()?;
        let names = self.labels_of(query).flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
        Ok(limited(names, query.limit))
    }

    fn label_values(
        &self,
        name: &str,
        query: &LabelQuery<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Vec<String>, ReadError> {
        cx.check()?;
        let values = self.labels_of(query).filter_map(|labels| labels.get(name)).collect();
        Ok(limited(values, query.limit))
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        let columns = self.frozen.series.iter().map(|series| &series.timestamps.times);
        let first = columns.clone().filter_map(|times| times.first()).min()?;
        let last = columns.filter_map(|times| times.last()).max()?;
        Some((*first, *last))
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The series of one selector.
struct Selected {
    frozen: Arc<Frozen>,
    indexes: Vec<u32>,
    labels: Vec<Vec<(Symbol, Symbol)>>,
    partitions: Vec<Range<u32>>,
    mint: i64,
    histograms: HistogramNeed,
    start_timestamps: bool,
}

impl SelectedSeries for Selected {
    fn len(&self) -> u32 {
        self.indexes.len() as u32
    }

    fn labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        &self.labels[index as usize]
    }

    fn partitions(&self) -> &[Range<u32>] {
        &self.partitions
    }

    fn read(&self, range: Range<u32>, out: &mut SampleBatch, cx: &dyn QueryContext) -> Result<(), ReadError> {
        for index in range {
            cx.check()?;
            let series = &self.frozen.series[self.indexes[index as usize] as usize];
            let floats = match series.constant {
                _ if series.floats.is_empty() => Floats::None,
                Some(value) => Floats::Constant(value),
                None => {
                    let first = out.values.len() as u32;
                    out.values.extend_from_slice(&series.floats);
                    Floats::Values(first..out.values.len() as u32)
                }
            };
            let histograms = (!series.histograms.is_empty()).then(|| {
                let first = out.histograms.len() as u32;
                match self.histograms {
                    HistogramNeed::Stats => out.histograms.extend(series.stats(self.mint)),
                    HistogramNeed::None | HistogramNeed::Full => {
                        out.histograms.extend(series.histograms.iter().cloned());
                    }
                }
                (first..out.histograms.len() as u32, series.histogram_at.clone())
            });
            out.series.push(SeriesSamples {
                timestamps: Arc::clone(&series.timestamps),
                floats,
                histograms,
                stale: series.stale.clone(),
                start_timestamps: series.start_timestamps.clone().filter(|_| self.start_timestamps),
            });
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
