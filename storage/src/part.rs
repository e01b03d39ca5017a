//! The parts a version of the store is made of: open tables, frozen tables and blocks. The read path
//! sees them through one trait and merges what they give.

use crate::error::StorageError;
use crate::kv::keys::BlockId;
use chronolith_model::Matcher;
use chronolith_model::append::{Exemplar, Metadata};
use chronolith_model::histogram::Histogram;
use chronolith_model::queryable::{Estimate, HistogramNeed, Lookups, Projection, QueryContext};
use chronolith_model::sample::is_stale;
use chronolith_model::symbols::Symbol;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// Which of two parts wins where both hold a timestamp of a series: the lower one, because it was
/// acknowledged first. Frozen tables get their number when they are frozen and blocks keep it; open
/// tables rank after all of them.
pub type Precedence = u64;

/// What is selected from a part.
#[derive(Clone, Copy, Debug)]
pub struct PartSelect<'q> {
    /// All must hold; an empty list means every series.
    pub matchers: &'q [Matcher],
    /// First millisecond wanted.
    pub mint: i64,
    /// Last millisecond wanted.
    pub maxt: i64,
    /// Which labels [`PartSeries::labels`] gives.
    pub labels: Projection<'q>,
}

/// A projection in the numbers that a part has for names.
#[derive(Debug)]
pub(crate) struct KeptNames {
    names: Vec<u32>,
    /// Whether labels of these names are kept, or all others.
    keep: bool,
}

impl KeptNames {
    /// `number` finds the number of a name, if the part knows it: otherwise it is no label of any series.
    pub(crate) fn new<E>(
        projection: Projection<'_>,
        number: impl FnMut(&String) -> Result<Option<u32>, E>,
    ) -> Result<Self, E> {
        let (names, keep): (&[String], _) = match projection {
            Projection::All => (&[], false),
            Projection::Only(names) => (names, true),
            Projection::Without(names) => (names, false),
        };
        let numbers = names.iter().map(number).filter_map(Result::transpose);
        Ok(Self { names: numbers.collect::<Result<_, E>>()?, keep })
    }

    /// As [`KeptNames::extend`], of labels that lie side by side.
    pub(crate) fn extend_from_slice(&self, kept: &mut Vec<(u32, u32)>, labels: &[(u32, u32)]) {
        match self.names.is_empty() && !self.keep {
            true => kept.extend_from_slice(labels),
            false => self.extend(kept, labels.iter().copied()),
        }
    }

    /// Appends those of `labels` that are kept.
    pub(crate) fn extend(&self, kept: &mut Vec<(u32, u32)>, labels: impl IntoIterator<Item = (u32, u32)>) {
        kept.extend(labels.into_iter().filter(|label| self.names.contains(&label.0) == self.keep));
    }
}

/// How samples are read.
#[derive(Clone, Copy, Debug)]
pub struct PartRead {
    /// First millisecond wanted; more may come back.
    pub mint: i64,
    /// Last millisecond wanted.
    pub maxt: i64,
    /// Set if only the last sample at or before each step is wanted; more may come back. Histograms bring
    /// along what their reset hints depend on.
    pub lookups: Option<Lookups>,
    /// False: float values may be replaced by a constant; staleness markers are still told apart.
    pub values: bool,
    /// How much of histograms is needed; reset hints need full buckets, so `Stats` reads them too.
    pub histograms: HistogramNeed,
    /// Whether start timestamps are wanted.
    pub start_timestamps: bool,
}

/// What takes exemplars: the labels of their series, and the exemplars by time.
pub type ExemplarSink<'s> = dyn FnMut(&[(&str, &str)], &[Exemplar]) + 's;

/// Counts bytes that were read ahead, and says whether more may be read.
pub type Take<'t> = dyn FnMut(usize) -> ControlFlow<()> + 't;

/// An open table, a frozen table or a block, pinned: it does not go away while it is held.
pub trait Part: Send + Sync {
    /// Which part wins for equal timestamps.
    fn precedence(&self) -> Precedence;

    /// First and last timestamp, `None` if the part is empty.
    fn time_range(&self) -> Option<(i64, i64)>;

    /// Upper bounds from index and header.
    ///
    /// # Errors
    /// [`StorageError`] if the index cannot be read.
    fn estimate(&self, select: &PartSelect<'_>) -> Result<Estimate, StorageError>;

    /// Series that match and may have a sample in range, in block order. Deleted series (tombstones
    /// that leave nothing) are not among them; deleted ranges are applied by `read`.
    ///
    /// # Errors
    /// [`StorageError`] if the query has to stop or the index cannot be read.
    fn select(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Box<dyn PartSeries>, StorageError>;

    /// The block, if a look-up of the values of `label` (of label names, without one) by these matchers over this range gives
    /// what it gave when it was written, and always will: for each string, a series that matches and has it may have a
    /// sample in the range, and none is deleted.
    ///
    /// # Errors
    /// As [`Part::select`].
    fn written_as(
        &self,
        _label: Option<&str>,
        _select: &PartSelect<'_>,
        _cx: &dyn QueryContext,
    ) -> Result<Option<BlockId>, StorageError> {
        Ok(None)
    }

    /// How far a part has grown that takes in series and loses none: as long as that is the same, it has the same ones.
    fn grown(&self) -> Option<Grown> {
        None
    }

    /// False if every value that any series has for `label` (every label name, without one) is known: a look-up
    /// has nothing to add then, whatever its range. True where that is not cheap to tell.
    ///
    /// # Errors
    /// As [`Part::select`].
    fn has_more(
        &self,
        _label: Option<&str>,
        _cx: &dyn QueryContext,
        _is_known: &mut dyn FnMut(&str) -> bool,
    ) -> Result<bool, StorageError> {
        Ok(true)
    }

    /// Names of the labels of matching series, in any order, possibly repeated.
    ///
    /// # Errors
    /// As [`Part::select`].
    fn label_names(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError>;

    /// Values of the label `name` of matching series, in any order, possibly repeated.
    ///
    /// # Errors
    /// As [`Part::select`].
    fn label_values(
        &self,
        name: &str,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError>;

    /// Exemplars in range of the selected series: position in block order of the part is irrelevant,
    /// labels are given as pairs.
    ///
    /// # Errors
    /// As [`Part::select`].
    fn exemplars(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut ExemplarSink<'_>,
    ) -> Result<(), StorageError>;

    /// Metadata of all metric families of the part.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be read.
    fn metadata(&self, sink: &mut dyn FnMut(&str, &Metadata)) -> Result<(), StorageError>;
}

/// The selected series of one part.
pub trait PartSeries: Send + Sync {
    /// How many.
    fn len(&self) -> u32;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels of a series that were asked for, sorted by name, as symbols of the query's table.
    ///
    /// # Panics
    /// If `index` is not below `len`.
    fn labels(&self, index: u32) -> &[(Symbol, Symbol)];

    /// Appends the runs of the series of `range` (ascending by series, then by time), with deleted
    /// ranges already cut out. `Run::series` is the index of the series minus `range.start`.
    ///
    /// # Errors
    /// [`StorageError`] if the query has to stop, or stored bytes cannot be read or do not decode.
    fn read(
        &self,
        range: Range<u32>,
        read: &PartRead,
        out: &mut RunBuffer,
        cx: &dyn QueryContext,
    ) -> Result<(), StorageError>;

    /// Appends the last float of each series of `range` within `[read.mint, read.maxt]`, or false if that is not
    /// known without [`PartSeries::read`]: the last sample is a histogram, or some are deleted.
    ///
    /// # Errors
    /// As [`PartSeries::read`].
    fn last_floats(
        &self,
        _range: Range<u32>,
        _read: &PartRead,
        _known: &mut KnownColumns,
        _out: &mut Vec<Option<LastFloat>>,
        _cx: &dyn QueryContext,
    ) -> Result<bool, StorageError> {
        Ok(false)
    }

    /// Index ranges that are cheap to read whole (a tile each), ascending, covering all series.
    fn partitions(&self) -> Vec<Range<u32>>;

    /// About how many samples a series has in a range of time; 0 if that is not known.
    fn samples_per_series(&self, _mint: i64, _maxt: i64) -> u64 {
        0
    }
}

/// A stretch of a timestamp column that many series may share. Two stretches with the same `Arc`,
/// `first` and `count` are the same times: compare with [`ColumnSlice::same`].
#[derive(Clone, Debug)]
pub struct ColumnSlice {
    /// Milliseconds, strictly ascending.
    pub column: Arc<Vec<i64>>,
    /// Where the stretch begins.
    pub first: u32,
    /// How long it is.
    pub count: u32,
}

impl ColumnSlice {
    /// A whole column of its own.
    pub fn private(times: Vec<i64>) -> Self {
        let count = u32::try_from(times.len()).expect("a column holds fewer than 2^32 timestamps");
        Self { column: Arc::new(times), first: 0, count }
    }

    /// The times of the stretch.
    pub fn times(&self) -> &[i64] {
        &self.column[self.first as usize..][..self.count as usize]
    }

    /// Whether both are the same stretch of the same column (not: of equal times).
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.column, &other.column) && self.first == other.first && self.count == other.count
    }

    /// The part of the stretch from `from` (counted from its start), `count` long.
    ///
    /// # Panics
    /// If that reaches beyond the stretch.
    #[must_use]
    pub fn slice(&self, from: u32, count: u32) -> Self {
        assert!(from + count <= self.count);
        Self { column: Arc::clone(&self.column), first: self.first + from, count }
    }
}

/// A table and how many series it has. Numbers of tables are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grown {
    /// Which table.
    pub table: u64,
    /// Its series.
    pub n_series: usize,
}

/// The last float of a series in a range of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastFloat {
    /// When it is.
    pub time: i64,
    /// Whether it is a staleness marker.
    pub is_stale: bool,
}

/// Where a range of time ends in the stretches of shared columns that a worker met last, of one part and range.
#[derive(Debug, Default)]
pub struct KnownColumns {
    /// By number of the column.
    slots: Vec<Option<(Stretch, LastOfStretch)>>,
}

/// Position in the stretch and time of the last sample in range, if there is one.
type LastOfStretch = Option<(u32, i64)>;

/// A stretch of a shared column of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Number of the column.
    pub column: u32,
    /// Where it begins.
    pub first: u32,
    /// How long it is.
    pub count: u32,
    /// Its first time.
    pub mint: i64,
}

impl KnownColumns {
    /// A power of two, more than a worker meets by turns: the targets of a job.
    const SLOTS: usize = 256;

    /// The last sample in range, if that is known.
    pub(crate) fn get(&self, stretch: &Stretch) -> Option<LastOfStretch> {
        let (known, last) = self.slots.get(stretch.column as usize % Self::SLOTS)?.as_ref()?;
        (known == stretch).then_some(*last)
    }

    /// Remembers it.
    pub(crate) fn insert(&mut self, stretch: Stretch, last: LastOfStretch) {
        self.slots.resize(Self::SLOTS, None);
        self.slots[stretch.column as usize % Self::SLOTS] = Some((stretch, last));
    }
}

/// Room for `n` more. A buffer that is empty is replaced rather than grown, which would copy what it held before.
pub(crate) fn make_room<T>(buffer: &mut Vec<T>, n: usize) {
    if buffer.is_empty() && buffer.capacity() < n {
        *buffer = Vec::new();
    }
    buffer.reserve(n);
}

/// Decoded samples of consecutive series, as runs of one kind each.
#[derive(Debug, Default)]
pub struct RunBuffer {
    /// Ascending by series, then by time; within a series strictly ascending over all runs.
    pub runs: Vec<Run>,
    /// Floats of all runs.
    pub values: Vec<f64>,
    /// Histograms of all runs, in their stored form.
    pub histograms: Vec<Arc<Histogram>>,
}

/// Consecutive samples of one series and one kind.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which series of the buffer.
    pub series: u32,
    /// Their times.
    pub times: ColumnSlice,
    /// Their values, one per time.
    pub values: RunValues,
    /// One per time, 0 where unknown; `None` if all are.
    pub start_timestamps: Option<Arc<[i64]>>,
    /// True if the sample before this run is not the one before it in the part's history (first run of
    /// a chunk whose predecessor is elsewhere): reset hints of its first histogram become unknown.
    pub first_of_chunk: bool,
}

impl Run {
    /// Appends the samples at `positions` of this run, ascending, as runs of neighbours. Values of the new runs
    /// are numbered among the positions.
    pub(crate) fn pick(self, positions: &[u32], runs: &mut Vec<Self>) {
        let mut n_before = 0;
        for neighbours in positions.chunk_by(|a, b| a + 1 == *b) {
            let n_after = n_before + neighbours.len();
            if n_after == positions.len() {
                // Mostly there is one: nothing is counted up and down again.
                runs.push(self.picked(neighbours, n_before));
                return;
            }
            runs.push(self.clone().picked(neighbours, n_before));
            n_before = n_after;
        }
    }

    /// Neighbours alone, of which `n_before` values come before.
    fn picked(mut self, neighbours: &[u32], n_before: usize) -> Self {
        let first = neighbours[0];
        let of_values =
            |range: &Range<usize>| range.start + n_before..range.start + n_before + neighbours.len();
        assert!(first as usize + neighbours.len() <= self.times.count as usize);
        self.times.first += first;
        self.times.count = neighbours.len() as u32;
        match &mut self.values {
            RunValues::Constant(_) => {}
            RunValues::Floats(range) | RunValues::Histograms(range) => *range = of_values(range),
        }
        if let Some(starts) = &mut self.start_timestamps {
            *starts = starts[first as usize..first as usize + neighbours.len()].into();
        }
        self.first_of_chunk |= first > 0;
        self
    }

    fn cut_back(&mut self, n_kept: usize) {
        self.times.count = n_kept as u32;
        match &mut self.values {
            RunValues::Constant(_) => {}
            RunValues::Floats(range) | RunValues::Histograms(range) => range.end = range.start + n_kept,
        }
        if let Some(times) = &mut self.start_timestamps {
            *times = times[..n_kept].into();
        }
    }

    fn cut_front(&mut self, n_cut: usize) {
        self.times.first += n_cut as u32;
        self.times.count -= n_cut as u32;
        match &mut self.values {
            RunValues::Constant(_) => {}
            RunValues::Floats(range) | RunValues::Histograms(range) => range.start += n_cut,
        }
        if let Some(times) = &mut self.start_timestamps {
            *times = times[n_cut..].into();
        }
        self.first_of_chunk = true;
    }
}

/// Values of a run. Staleness markers are among them, bit for bit.
#[derive(Clone, Debug)]
pub enum RunValues {
    /// Every value has these bits.
    Constant(f64),
    /// In [`RunBuffer::values`].
    Floats(Range<usize>),
    /// In [`RunBuffer::histograms`]; all of one form (integer or float) and one bucket layout.
    Histograms(Range<usize>),
}

impl RunBuffer {
    /// Leaves out the samples before `oldest`, and floats before `mint` and after `maxt`: chunks come whole, and an
    /// alert wants minutes of hours. Histograms after `oldest` stay, because the reset hint of the first one wanted
    /// hangs on those before it. A run may become empty.
    pub(crate) fn cut(&mut self, oldest: i64, mint: i64, maxt: i64) {
        for run in &mut self.runs {
            let times = run.times.times();
            let (Some(&first), Some(&last)) = (times.first(), times.last()) else { continue };
            let (mint, maxt) = match run.values {
                RunValues::Histograms(_) => (oldest, i64::MAX),
                _ => (mint.max(oldest), maxt),
            };
            if mint <= first && last <= maxt {
                continue;
            }
            let n_before = times.partition_point(|&time| time < mint);
            run.cut_back(times.partition_point(|&time| time <= maxt).max(n_before));
            if n_before > 0 {
                run.cut_front(n_before);
            }
        }
    }

    /// The last float in `[mint, maxt]` of each of `n_series`, or false if there are histograms.
    pub(crate) fn last_floats(
        &self,
        n_series: usize,
        (mint, maxt): (i64, i64),
        out: &mut Vec<Option<LastFloat>>,
    ) -> bool {
        out.clear();
        out.resize(n_series, None);
        for run in &self.runs {
            let times = run.times.times();
            let Some(at) = times.partition_point(|&time| time <= maxt).checked_sub(1) else { continue };
            let value = match &run.values {
                RunValues::Constant(value) => *value,
                RunValues::Floats(range) => self.values[range.start + at],
                RunValues::Histograms(_) => return false,
            };
            if times[at] >= mint {
                out[run.series as usize] = Some(LastFloat { time: times[at], is_stale: is_stale(value) });
            }
        }
        true
    }

    /// Empties the buffer and keeps its memory.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.values.clear();
        self.histograms.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(times: &[i64], values: RunValues) -> Run {
        Run {
            series: 0,
            times: ColumnSlice::private(times.to_vec()),
            values,
            start_timestamps: None,
            first_of_chunk: false,
        }
    }

    #[test]
    fn floats_are_cut_to_the_range_and_histograms_to_what_is_seen() {
        let cut = |oldest, values: RunValues| {
            let mut buffer = RunBuffer { runs: vec![run(&[10, 20, 30, 40], values)], ..RunBuffer::default() };
            buffer.cut(oldest, 20, 30);
            let run = buffer.runs.pop().expect("a run stays, if need be without samples");
            let values = match run.values {
                RunValues::Floats(range) | RunValues::Histograms(range) => range,
                RunValues::Constant(_) => 0..0,
            };
            (run.times.times().to_vec(), values, run.first_of_chunk)
        };
        assert_eq!(cut(0, RunValues::Floats(4..8)), (vec![20, 30], 5..7, true));
        assert_eq!(cut(25, RunValues::Floats(4..8)), (vec![30], 6..7, true), "the later limit");
        assert_eq!(cut(35, RunValues::Floats(4..8)), (vec![], 7..7, true));
        assert_eq!(cut(0, RunValues::Constant(1.0)), (vec![20, 30], 0..0, true));
        assert_eq!(cut(0, RunValues::Histograms(4..8)), (vec![10, 20, 30, 40], 4..8, false));
        assert_eq!(cut(25, RunValues::Histograms(4..8)), (vec![30, 40], 6..8, true));
    }

    #[test]
    fn the_last_floats_are_those_of_the_last_runs_in_range() {
        let runs = vec![
            run(&[10, 20], RunValues::Constant(1.0)),
            run(&[30, 40], RunValues::Floats(0..2)),
            Run { series: 2, ..run(&[50], RunValues::Constant(1.0)) },
        ];
        let values = vec![1.0, chronolith_model::sample::stale_nan()];
        let mut buffer = RunBuffer { runs, values, histograms: Vec::new() };
        let last = |buffer: &RunBuffer, mint, maxt| {
            let mut out = vec![None; 9];
            buffer.last_floats(3, (mint, maxt), &mut out).then_some(out)
        };
        let float = |time, is_stale| Some(LastFloat { time, is_stale });
        assert_eq!(last(&buffer, 0, 45), Some(vec![float(40, true), None, None]));
        assert_eq!(last(&buffer, 0, 39), Some(vec![float(30, false), None, None]));
        assert_eq!(last(&buffer, 20, 29), Some(vec![float(20, false), None, None]));
        assert_eq!(last(&buffer, 21, 29), Some(vec![None; 3]));
        assert_eq!(last(&buffer, 0, 50), Some(vec![float(40, true), None, float(50, false)]));
        buffer.runs.push(Run { series: 2, ..run(&[60], RunValues::Histograms(0..1)) });
        assert_eq!(last(&buffer, 0, 60), None);
    }
}
