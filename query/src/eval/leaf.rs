//! Leaves: the series of a selector, read and decoded by workers, a chain of row-wise steps behind them.

use super::batch::{Batch, Grid};
use super::labels::SymbolPairs;
use super::turns::{AHEAD_PER_THREAD, Take, in_turn};
use super::{ColumnMap, Cx, Operator, OutSeries, Sink};
use crate::annotations::Annotations;
use crate::error::QueryError;
use crate::limits::{Charge, SAMPLES_PER_CHECK};
use crate::stats::Scope;
use chronolith_model::queryable::{SampleBatch, SelectedSeries, TimestampColumn, pieces};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;

/// Series that a worker reads at a time, unless batches are larger: two full tiles.
const SERIES_PER_READ: usize = 256;
/// Cells that are worth a thread: about half a millisecond of reading and of windows. Waking one takes a tenth of that.
const CELLS_PER_THREAD: usize = 16 * 1024;
/// How much more work a cell of native histograms is than one of floats.
const HISTOGRAM_WEIGHT: usize = 64;
/// Parts that their rows are made in, for each thread.
const PARTS_PER_THREAD: usize = 4;

/// Makes rows out of decoded samples.
pub(crate) trait RowSource: Send + Sync {
    /// State of one worker.
    type Scratch: Default + Send;

    /// How much more work a cell is than a rate or a look-up.
    fn weight(&self) -> usize {
        1
    }

    /// Fills row `row` of `batch` from series `at` of `samples`, with its own labels.
    #[expect(clippy::too_many_arguments, reason = "one call a row: what it reads, and where it goes")]
    fn fill(
        &self,
        cx: &Cx<'_>,
        scratch: &mut Self::Scratch,
        samples: &SampleBatch,
        at: usize,
        labels: &SymbolPairs,
        batch: &mut Batch,
        row: usize,
        notes: &mut Annotations,
    ) -> Result<(), QueryError>;

    /// Where samples of a single step are counted, if nothing but their being there matters: the store is asked for
    /// that first, and rows are filled with any value.
    fn presence(&self) -> Option<&Scope> {
        None
    }
}

/// The series of a selector and the pipeline behind them.
pub(crate) struct Leaf<S: RowSource> {
    selected: Arc<dyn SelectedSeries>,
    source: S,
    maps: Vec<Arc<dyn ColumnMap>>,
    grid: Grid,
    series: Vec<OutSeries>,
    /// Ranges of series that are read at a time, and how many of them are done.
    reads: Vec<Range<u32>>,
    next_read: usize,
    ready: VecDeque<Batch>,
    /// Of the source, then of each map.
    notes: Vec<Annotations>,
    /// Buffers that were used and are free again, at most as many as were used at once.
    spare: Mutex<Spare<S::Scratch>>,
}

/// The rows of one read, and what was noted.
type Rows = (Vec<Batch>, Vec<Annotations>);

struct Spare<T> {
    decoded: Vec<(SampleBatch, T)>,
    batches: Vec<Batch>,
}

impl<S: RowSource> Leaf<S> {
    /// `series` are those of `selected`, with labels as they come out of `source`.
    pub(crate) fn new(
        cx: &Cx<'_>,
        selected: Arc<dyn SelectedSeries>,
        source: S,
        grid: Grid,
        series: Vec<OutSeries>,
    ) -> Self {
        // Each thread gets an equal part, even of a single tile.
        let n_threads = n_threads(cx, series.len(), &grid, source.weight());
        let most = series.len().div_ceil(n_threads).max(1);
        let reads = plan_reads(selected.partitions(), cx.rows_per_batch(&grid), most);
        Self {
            selected,
            source,
            maps: Vec::new(),
            grid,
            series,
            reads,
            next_read: 0,
            ready: VecDeque::new(),
            notes: vec![Annotations::default()],
            spare: Mutex::new(Spare { decoded: Vec::new(), batches: Vec::new() }),
        }
    }

    /// Reads one range of series and runs the pipeline over it, a partition at a time, so that rows are made of
    /// samples that the cache still has. If `take` is there, no other read is under way: rows of native histograms,
    /// which take long, are made by the workers then and go there.
    fn run(
        &self,
        cx: &Cx<'_>,
        range: Range<u32>,
        mut take: Option<&mut Take<'_, Rows>>,
    ) -> Result<Rows, QueryError> {
        let mut made = Made::new(self, range.clone());
        let (mut samples, mut scratch) = self.spare.lock().decoded.pop().unwrap_or_default();
        let mut present = Vec::new();
        for piece in pieces(self.selected.partitions(), range.clone()) {
            samples.clear();
            cx.check()?;
            let is_known = match self.source.presence() {
                Some(scope) if self.selected.present(piece.clone(), &mut present, &cx.store)? => {
                    let n_present = present.iter().filter(|&&present| present).count() as u64;
                    scope.add_step(0, n_present, n_present);
                    true
                }
                _ => {
                    self.selected.read(piece.clone(), &mut samples, &cx.store)?;
                    assert_eq!(samples.series.len(), piece.len(), "a read gives an entry for each series");
                    false
                }
            };
            if !samples.histograms.is_empty() {
                cx.store.budget.note_histograms();
            }
            let decoded_bytes = samples.values.len() * 8 + samples.histograms.len() * 16;
            let _decoded = cx.store.budget.take(decoded_bytes, 0)?;
            let present = is_known.then_some(present.as_slice());
            let read = ReadPiece { first: piece.start, samples: &samples, present };
            let is_split = !samples.histograms.is_empty() && made.range.start == piece.start;
            let n_threads = match cx.batch_rows {
                _ if !is_split => 1,
                // In tests the workers get what little there is.
                Some(_) => cx.pool.current_num_threads(),
                None => n_threads(cx, piece.len(), &self.grid, HISTOGRAM_WEIGHT),
            };
            if n_threads > 1
                && let Some(take) = &mut take
            {
                let n = piece.len().min(PARTS_PER_THREAD * n_threads);
                let start = |part: usize| piece.start + (piece.len() * part / n) as u32;
                let make = |part: usize| {
                    let mut made = Made::new(self, start(part)..start(part + 1));
                    let mut scratch = S::Scratch::default();
                    self.make(cx, &read, made.range.clone(), &mut scratch, &mut made)?;
                    Ok(made.rows)
                };
                in_turn(cx.pool, n_threads, n, &make, &mut **take)?;
                made.range.start = piece.end;
                continue;
            }
            self.make(cx, &read, piece, &mut scratch, &mut made)?;
        }
        self.spare.lock().decoded.push((samples, scratch));
        Ok(made.rows)
    }

    /// Makes the rows of the series `range` of a piece.
    fn make(
        &self,
        cx: &Cx<'_>,
        read: &ReadPiece<'_>,
        range: Range<u32>,
        scratch: &mut S::Scratch,
        made: &mut Made,
    ) -> Result<(), QueryError> {
        let n_rows = cx.rows_per_batch(&self.grid);
        let (batches, notes) = &mut made.rows;
        for index in range {
            let row = (index - made.range.start) as usize % n_rows;
            let rows = n_rows.min(row + (made.range.end - index) as usize);
            if row == 0 {
                let mut batch = self.spare.lock().batches.pop().unwrap_or_default();
                batch.reset(cx, &self.grid, index as usize, rows)?;
                batches.push(batch);
            }
            let at = (index - read.first) as usize;
            let batch = batches.last_mut().expect("the first row began one");
            if let Some(present) = read.present {
                if present[at] {
                    batch.row_mut(row).fill(0.0);
                }
            } else {
                made.n_unchecked += read.samples.series[at].timestamps.times.len().max(self.grid.n_steps);
                if made.n_unchecked > SAMPLES_PER_CHECK {
                    cx.check()?;
                    made.n_unchecked = 0;
                }
                let labels = self.selected.labels(index);
                self.source.fill(cx, scratch, read.samples, at, labels, batch, row, &mut notes[0])?;
            }
            if row + 1 == rows {
                batch.charge_samples()?;
                for (map, notes) in self.maps.iter().zip(&mut notes[1..]) {
                    map.apply(cx, batch, notes)?;
                }
            }
        }
        Ok(())
    }
}

/// What was read of a piece.
struct ReadPiece<'r> {
    /// Its first series.
    first: u32,
    samples: &'r SampleBatch,
    /// Which series have a sample, where that is all that was asked for.
    present: Option<&'r [bool]>,
}

/// Rows that are being made.
struct Made {
    /// The series that are still to be cut into batches, or are in the last one.
    range: Range<u32>,
    rows: Rows,
    /// Samples since somebody asked whether to go on.
    n_unchecked: usize,
}

impl Made {
    fn new<S: RowSource>(leaf: &Leaf<S>, range: Range<u32>) -> Self {
        let notes = vec![Annotations::default(); 1 + leaf.maps.len()];
        Self { range, rows: (Vec::new(), notes), n_unchecked: 0 }
    }
}

/// Threads that have something to do.
fn n_threads(cx: &Cx<'_>, n_series: usize, grid: &Grid, weight: usize) -> usize {
    let n_cells = n_series.saturating_mul(grid.n_steps).saturating_mul(weight);
    (n_cells / CELLS_PER_THREAD).clamp(1, cx.pool.current_num_threads())
}

impl<S: RowSource> Leaf<S> {
    /// Hands the rows of the next reads to `sink`, in series order, so that an error in a lower range wins. One read
    /// is done by the caller, several by the workers.
    fn read_on(&mut self, cx: &Cx<'_>, n_reads: usize, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let first = self.next_read;
        let n_reads = n_reads.min(self.reads.len() - first);
        self.next_read += n_reads;
        let mut notes = std::mem::take(&mut self.notes);
        let this = &*self;
        let mut take = |read: Result<Rows, QueryError>| {
            let (batches, later) = read?;
            notes.iter_mut().zip(later).for_each(|(all, later)| all.merge(later));
            for mut batch in batches {
                sink(&this.series, &mut batch)?;
                batch.release();
                this.spare.lock().batches.push(batch);
            }
            Ok(())
        };
        let threads = cx.pool.current_num_threads().min(n_reads);
        let reads = &this.reads[first..self.next_read];
        let result = match threads {
            0 | 1 => reads.iter().try_for_each(|range| {
                let rows = this.run(cx, range.clone(), Some(&mut take));
                take(rows)
            }),
            _ => in_turn(cx.pool, threads, n_reads, &|at| this.run(cx, reads[at].clone(), None), &mut take),
        };
        self.notes = notes;
        result
    }
}

impl<S: RowSource> Operator for Leaf<S>
where
    Self: Send,
{
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                let mut used = std::mem::replace(out, batch);
                used.release();
                self.spare.lock().batches.push(used);
                return Ok(true);
            }
            if self.next_read == self.reads.len() {
                return Ok(false);
            }
            let n_reads = match cx.pool.current_num_threads() {
                1 => 1,
                threads => AHEAD_PER_THREAD * threads,
            };
            let mut ready = std::mem::take(&mut self.ready);
            let result = self.read_on(cx, n_reads, &mut |_, batch| {
                ready.push_back(std::mem::take(batch));
                Ok(())
            });
            self.ready = ready;
            result?;
        }
    }

    fn for_each(&mut self, cx: &Cx<'_>, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        while let Some(mut batch) = self.ready.pop_front() {
            sink(&self.series, &mut batch)?;
        }
        self.read_on(cx, usize::MAX, sink)
    }

    fn push_map(&mut self, map: &Arc<dyn ColumnMap>) -> bool {
        self.maps.push(Arc::clone(map));
        self.notes.push(Annotations::default());
        true
    }

    fn finish(self: Box<Self>) -> Annotations {
        self.notes.into_iter().fold(Annotations::default(), |mut notes, later| {
            notes.merge(later);
            notes
        })
    }
}

/// Ranges that are read at a time, of `most` series at most: small partitions together until a batch of `n_rows` is
/// full, large ones in pieces.
fn plan_reads(partitions: &[Range<u32>], n_rows: usize, most: usize) -> Vec<Range<u32>> {
    let piece = n_rows.max(SERIES_PER_READ).min(most) as u32;
    let n_rows = n_rows.min(most);
    let mut reads: Vec<Range<u32>> = Vec::new();
    for partition in partitions {
        let mut start = partition.start;
        while start < partition.end {
            let end = partition.end.min(start.saturating_add(piece));
            match reads.last_mut() {
                Some(last) if last.end == start && end - last.start <= n_rows as u32 => last.end = end,
                _ => reads.push(start..end),
            }
            start = end;
        }
    }
    reads
}

/// Plans by timestamp column: series that share a column share its plan.
pub(crate) struct PlanCache<P> {
    inner: Mutex<Plans<P>>,
}

struct Plans<P> {
    /// By the address of the column, which no other column has as long as this one is held.
    entries: HashMap<usize, (Arc<TimestampColumn>, Arc<P>), AddressHash>,
    size_bytes: usize,
    charges: Vec<Charge>,
}

/// Addresses are multiples of eight at least.
type AddressHash = std::hash::BuildHasherDefault<AddressHasher>;

#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

impl<P> Default for PlanCache<P> {
    fn default() -> Self {
        let plans = Plans { entries: HashMap::default(), size_bytes: 0, charges: Vec::new() };
        Self { inner: Mutex::new(plans) }
    }
}

/// The plans that a worker used last, to be found without a lock: series of one metric come by labels, and each target
/// has a column of its own.
pub(crate) struct LastPlans<P> {
    /// By the address of the column; empty before the first.
    slots: Vec<Option<(Arc<TimestampColumn>, Arc<P>)>>,
}

impl<P> Default for LastPlans<P> {
    fn default() -> Self {
        Self { slots: Vec::new() }
    }
}

/// What a column and its entry take beside the plan.
const ENTRY_BYTES: usize = 128;

impl<P> PlanCache<P> {
    /// Bytes of plans that are remembered over all workers: those of the scrapes of thousands of targets. Beyond it
    /// all are forgotten.
    const CAPACITY_BYTES: usize = 16 << 20;
    /// Bytes and number of plans that a worker remembers at most; it always remembers one.
    const LAST_BYTES: usize = 1 << 20;
    const LAST_PLANS: usize = 64;

    /// The plan of a column, `size_bytes` large; `build` makes it where it is not known.
    pub(crate) fn get<'l>(
        &self,
        cx: &Cx<'_>,
        last: &'l mut LastPlans<P>,
        column: &Arc<TimestampColumn>,
        size_bytes: usize,
        build: impl FnOnce(&[i64]) -> P,
    ) -> Result<&'l P, QueryError> {
        let size_bytes = size_bytes + ENTRY_BYTES;
        let n_slots = (Self::LAST_BYTES / size_bytes).clamp(1, Self::LAST_PLANS);
        last.slots.resize_with(n_slots, Option::default);
        let address = Arc::as_ptr(column).addr();
        let slot = &mut last.slots[AddressHash::default().hash_one(address) as usize % n_slots];
        if slot.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, column)) {
            *slot = Some((Arc::clone(column), self.shared(cx, column, address, size_bytes, build)?));
        }
        Ok(&slot.as_ref().expect("it was there or is now").1)
    }

    fn shared(
        &self,
        cx: &Cx<'_>,
        column: &Arc<TimestampColumn>,
        address: usize,
        size_bytes: usize,
        build: impl FnOnce(&[i64]) -> P,
    ) -> Result<Arc<P>, QueryError> {
        if let Some((_, plan)) = self.inner.lock().entries.get(&address) {
            return Ok(Arc::clone(plan));
        }
        let charge = cx.store.budget.take(size_bytes, 0)?;
        let plan = Arc::new(build(&column.times));
        let mut plans = self.inner.lock();
        if plans.size_bytes + size_bytes > Self::CAPACITY_BYTES {
            plans.entries.clear();
            plans.charges.clear();
            plans.size_bytes = 0;
        }
        plans.size_bytes += size_bytes;
        plans.entries.insert(address, (Arc::clone(column), Arc::clone(&plan)));
        plans.charges.push(charge);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cover_all_series_in_order() {
        let check = |partitions: &[Range<u32>], n_rows: usize, expected: &[Range<u32>]| {
            assert_eq!(plan_reads(partitions, n_rows, usize::MAX), expected);
        };
        assert_eq!(plan_reads(&[0..20, 20..108], 181, 54), [0..20, 20..74, 74..108]);
        assert_eq!(plan_reads(&[0..20, 20..40, 40..108], 181, 54), [0..40, 40..94, 94..108]);
        check(&[], 10, &[]);
        check(&[0..100, 100..128, 128..200], 150, &[0..128, 128..200]);
        check(&[0..128, 128..256], 1, &[0..128, 128..256]);
        check(&[0..300, 300..600], 1, &[0..256, 256..300, 300..556, 556..600]);
        check(&[0..4096, 4096..10_000], 4096, &[0..4096, 4096..8192, 8192..10_000]);
    }
}
