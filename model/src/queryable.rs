//! The trait through which queries read series. The storage engine implements it over blocks and
//! open tables, the test-script runner over memory.
//!
//! Times are milliseconds since the epoch; ranges include both ends.

use crate::histogram::FloatHistogram;
use crate::matcher::Matcher;
use crate::symbols::{Symbol, SymbolTable};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a running query has to end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The client went away, or somebody killed the query.
    #[error("query was canceled")]
    Cancelled,
    /// The deadline has passed.
    #[error("query timed out")]
    TimedOut,
    /// A memory or sample budget would be exceeded. The text names the limit and its flag.
    #[error("{0}")]
    OverBudget(String),
    /// The store needs the space of blocks that retention or a merge has replaced and this query reads.
    #[error("query was canceled: the disk is full and the query reads blocks that are to be dropped")]
    Revoked,
}

/// Why series could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The query has to end; nothing is wrong with the data.
    #[error(transparent)]
    Stop(#[from] Stop),
    /// Stored bytes do not decode. The text names block and place.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// The disk or the engine failed. The text says where.
    #[error("failed to read: {0}")]
    Io(String),
}

/// A store that queries can pin a version of.
pub trait Queryable: Send + Sync {
    /// Pins the present version of the store.
    ///
    /// # Errors
    /// [`ReadError`] if the store is closed or cannot be read.
    fn pin(&self) -> Result<Arc<dyn Snapshot>, ReadError>;

    /// Begins a version, for who keeps results of what is pinned after this call; `None` if the store cannot
    /// tell what changes.
    fn version(&self) -> Option<u64> {
        None
    }

    /// The times, in milliseconds, whose samples are the same as in a version: those that were there are there,
    /// and no others.
    fn unchanged_since(&self, version: u64) -> Range<i64> {
        let _ = version;
        0..0
    }
}

/// One version of the store: all selects of a query see the same blocks and tables.
pub trait Snapshot: Send + Sync {
    /// What a select would read, from index and block headers; no sample is read.
    ///
    /// # Errors
    /// [`ReadError`] if an index cannot be read.
    fn estimate(&self, select: &Select<'_>) -> Result<Estimate, ReadError>;

    /// Series with matching labels that may have a sample in `[mint, maxt]`: every label set once over
    /// all blocks and tables, in block order (metric name, then label by label as bytes).
    ///
    /// # Errors
    /// [`ReadError`] if the query has to stop or an index cannot be read.
    fn select(
        &self,
        select: &Select<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Arc<dyn SelectedSeries>, ReadError>;

    /// Sorted names of the labels of series that match, each once.
    ///
    /// # Errors
    /// As [`Snapshot::select`].
    fn label_names(&self, query: &LabelQuery<'_>, cx: &dyn QueryContext) -> Result<Vec<String>, ReadError>;

    /// Sorted values of the label `name` of series that match, each once.
    ///
    /// # Errors
    /// As [`Snapshot::select`].
    fn label_values(
        &self,
        name: &str,
        query: &LabelQuery<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Vec<String>, ReadError>;

    /// Time range of everything stored, `None` if nothing is.
    fn time_range(&self) -> Option<(i64, i64)>;

    /// What this version cannot serve (quarantined blocks), in words for the API's warnings.
    fn warnings(&self) -> Vec<String>;
}

/// What one selector of a query reads.
#[derive(Clone, Debug)]
pub struct Select<'q> {
    /// All must hold.
    pub matchers: &'q [Matcher],
    /// First millisecond wanted (an open left end is already + 1).
    pub mint: i64,
    /// Last millisecond wanted.
    pub maxt: i64,
    /// Set if only the last sample at or before each step is wanted; more may come back.
    pub lookups: Option<Lookups>,
    /// False: presence is enough (count, group, absent, timestamp ...) and `floats` may be `Constant`
    /// with any value. Staleness markers are told apart all the same.
    pub values: bool,
    /// How much of histograms is needed.
    pub histograms: HistogramNeed,
    /// Whether start timestamps are wanted.
    pub start_timestamps: bool,
    /// Which labels are needed.
    pub labels: Projection<'q>,
}

impl<'q> Select<'q> {
    /// All samples of all matching series between two times, both included, with their histograms and labels but
    /// without start timestamps.
    pub fn whole(matchers: &'q [Matcher], mint: i64, maxt: i64) -> Self {
        Self {
            matchers,
            mint,
            maxt,
            lookups: None,
            values: true,
            histograms: HistogramNeed::Full,
            start_timestamps: false,
            labels: Projection::All,
        }
    }
}

/// How much of histograms a selector needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistogramNeed {
    /// Nothing but presence.
    None,
    /// Count, sum and reset hints; the hints are worked out on full buckets, which are then dropped.
    Stats,
    /// Everything.
    #[default]
    Full,
}

/// Which labels of the series a selector needs.
#[derive(Clone, Copy, Debug, Default)]
pub enum Projection<'q> {
    /// All labels.
    #[default]
    All,
    /// These names only.
    Only(&'q [String]),
    /// All but these names.
    Without(&'q [String]),
}

impl Projection<'_> {
    /// Whether labels of a name are kept.
    pub fn keeps(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|kept| kept == name),
            Self::Without(names) => names.iter().all(|dropped| dropped != name),
        }
    }
}

/// Steps at which an instant selector looks back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookups {
    /// First step.
    pub start: i64,
    /// Between steps; positive, of no meaning for a single step.
    pub interval: i64,
    /// At least one.
    pub n_steps: u32,
    /// A sample at `t` is seen from steps in `[t, t + lookback)`.
    pub lookback: i64,
}

/// What a select would read. Series are an upper bound; samples and bytes are worked out from the means of a block,
/// as an exact count would look at every series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Series, a series of several blocks counted in each.
    pub n_series: u64,
    /// Samples in the chunks that would be decoded.
    pub n_samples: u64,
    /// Bytes that would be read.
    pub size_bytes: u64,
}

/// What a label look-up asks for.
#[derive(Clone, Copy, Debug)]
pub struct LabelQuery<'q> {
    /// A series counts if all matchers of any set hold; no set at all means every series.
    pub matcher_sets: &'q [Vec<Matcher>],
    /// First millisecond.
    pub mint: i64,
    /// Last millisecond.
    pub maxt: i64,
    /// At most this many results; 0 means no limit. One more than the limit is returned where there
    /// are more, so that the caller can say so.
    pub limit: usize,
}

/// The series of one selector.
pub trait SelectedSeries: Send + Sync {
    /// How many.
    fn len(&self) -> u32;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels of a series after projection, sorted by name; symbols of the query's table.
    ///
    /// # Panics
    /// If `index` is not below [`SelectedSeries::len`].
    fn labels(&self, index: u32) -> &[(Symbol, Symbol)];

    /// Index ranges that are cheap to read whole, ascending, covering all series.
    fn partitions(&self) -> &[Range<u32>];

    /// Appends the decoded columns of the series of `range` to `out`, in order. Workers call this at
    /// once on disjoint ranges.
    ///
    /// # Errors
    /// [`ReadError`] if the query has to stop, or stored bytes cannot be read or do not decode.
    fn read(&self, range: Range<u32>, out: &mut SampleBatch, cx: &dyn QueryContext) -> Result<(), ReadError>;

    /// Whether each series of `range` has a sample at the only step of [`Select::lookups`] that is no staleness
    /// marker, in order, where only presence was asked for. False, and nothing of use in `out`, if that is not known
    /// without [`SelectedSeries::read`]: there are histograms, whose size counts.
    ///
    /// # Errors
    /// As [`SelectedSeries::read`].
    fn present(
        &self,
        _range: Range<u32>,
        _out: &mut Vec<bool>,
        _cx: &dyn QueryContext,
    ) -> Result<bool, ReadError> {
        Ok(false)
    }

    /// What could not be served (quarantined blocks); not PromQL annotations.
    fn warnings(&self) -> Vec<String>;
}

/// The parts of `range` that lie in each of the partitions of a selector.
pub fn pieces(partitions: &[Range<u32>], range: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let first = partitions.partition_point(|partition| partition.end <= range.start);
    let within = partitions[first..].iter().take_while(move |partition| partition.start < range.end);
    within.map(move |partition| partition.start.max(range.start)..partition.end.min(range.end))
}

/// Sorted, distinct sample times. Series that share their times hold the same `Arc` of one, so that
/// work done for a column serves all of them: compare with `Arc::ptr_eq`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TimestampColumn {
    /// Milliseconds, strictly ascending.
    pub times: Vec<i64>,
}

/// Decoded samples of consecutive series.
#[derive(Debug, Default)]
pub struct SampleBatch {
    /// One entry per series, in order, also for series without a sample in range.
    pub series: Vec<SeriesSamples>,
    /// Floats of all series, one after another.
    pub values: Vec<f64>,
    /// Histograms of all series, one after another.
    pub histograms: Vec<Arc<FloatHistogram>>,
}

impl SampleBatch {
    /// Empties the batch and keeps its buffers.
    pub fn clear(&mut self) {
        self.series.clear();
        self.values.clear();
        self.histograms.clear();
    }
}

/// The samples of one series. A timestamp holds a float or a histogram, never both.
#[derive(Clone, Debug)]
pub struct SeriesSamples {
    /// Times of all samples in range, staleness markers included. May reach beyond the asked range
    /// on both sides (a shared column is not cut for each query): windows are found by time.
    pub timestamps: Arc<TimestampColumn>,
    /// The floats, at the timestamps that are no histograms, in order.
    pub floats: Floats,
    /// The histograms in [`SampleBatch::histograms`] and which of the timestamps they are at; `None`
    /// if there is no histogram.
    pub histograms: Option<(Range<u32>, BitSet)>,
    /// Positions in `timestamps` of staleness markers, ascending; usually empty. The value at such a
    /// position has no meaning.
    pub stale: Vec<u32>,
    /// One per timestamp, 0 where unknown; `None` if all are unknown or they were not asked for.
    pub start_timestamps: Option<Arc<[i64]>>,
}

/// The float values of one series.
#[derive(Clone, Debug, PartialEq)]
pub enum Floats {
    /// No float at all.
    None,
    /// Every float (but staleness markers) has this value, bit for bit.
    Constant(f64),
    /// In [`SampleBatch::values`], one per timestamp that is no histogram.
    Values(Range<u32>),
}

/// What a query gives to storage, and storage obeys.
pub trait QueryContext: Send + Sync {
    /// Whether to go on. Called at least every 64 Ki samples or 1 MiB read.
    ///
    /// # Errors
    /// [`Stop`] once the query has to end.
    fn check(&self) -> Result<(), Stop>;

    /// Charges memory before it is taken.
    ///
    /// # Errors
    /// [`Stop::OverBudget`] if the budget does not allow it; nothing is charged then.
    fn charge(&self, size_bytes: usize) -> Result<(), Stop>;

    /// Gives back what was charged.
    fn release(&self, size_bytes: usize);

    /// The string interner of this query.
    fn symbols(&self) -> &SymbolTable;

    /// Where the store counts what it reads, if somebody wants to know.
    fn read_stats(&self) -> Option<&ReadStats> {
        None
    }
}

/// What a store read for one selector. It is added to by group of chunks, never by sample.
#[derive(Debug, Default)]
pub struct ReadStats {
    /// Bytes of sealed samples and timestamp columns that were fetched; what open tables hold has no such bytes.
    pub size_bytes: AtomicU64,
    /// Tiles (groups of chunks) that were fetched.
    pub n_tiles: AtomicU64,
    /// Groups of tiles and timestamp columns that were there from before.
    pub cache_hits: AtomicU64,
    /// Groups of tiles and timestamp columns that had to be fetched.
    pub cache_misses: AtomicU64,
}

impl ReadStats {
    /// Adds to one of the counters.
    pub fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// A context without limits: tests, tools, and label look-ups of the server itself.
#[derive(Debug, Default)]
pub struct Unlimited {
    symbols: SymbolTable,
}

impl QueryContext for Unlimited {
    fn check(&self) -> Result<(), Stop> {
        Ok(())
    }
    fn charge(&self, _size_bytes: usize) -> Result<(), Stop> {
        Ok(())
    }
    fn release(&self, _size_bytes: usize) {}
    fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }
}

/// A set of small integers below a fixed length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitSet {
    words: Vec<u64>,
    len: usize,
}

impl BitSet {
    /// An empty set of numbers below `len`.
    pub fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    /// The bound given at construction.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the bound is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a number.
    ///
    /// # Panics
    /// If `index` is not below [`BitSet::len`].
    pub fn insert(&mut self, index: usize) {
        assert!(index < self.len);
        self.words[index / 64] |= 1 << (index % 64);
    }

    /// Whether a number is in the set; false beyond the bound.
    pub fn contains(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The numbers in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            std::iter::successors((word != 0).then_some(word), |rest| {
                let next = rest & (rest - 1);
                (next != 0).then_some(next)
            })
            .map(move |rest| i * 64 + rest.trailing_zeros() as usize)
        })
    }

    /// Low bit first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range() {
        let of = |range: Range<u32>| pieces(&[0..20, 20..40, 40..100], range).collect::<Vec<_>>();
        assert_eq!(of(0..100), [0..20, 20..40, 40..100]);
        assert_eq!(of(5..41), [5..20, 20..40, 40..41]);
        assert_eq!(of(20..41), [20..40, 40..41]);
        assert_eq!(of(21..22), vec![21..22; 1]);
    }

    #[test]
    fn bit_set_iterates_in_order() {
        let mut set = BitSet::new(130);
        for i in [0, 63, 64, 129] {
            set.insert(i);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!(set.count(), 4);
        assert!(set.contains(64));
        assert!(!set.contains(65));
        assert!(!set.contains(1000));
    }
}
