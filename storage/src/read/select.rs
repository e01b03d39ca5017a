//! The series of one selector over all parts.

use super::Bounds;
use super::columns::{LastPlans, PlanCache, Stretch};
use super::hints::Hints;
use super::lease::{Lease, Leased};
use super::merge::{Merged, merge};
use super::samples::{Piece, Wanted, append_series};
use crate::error::StorageError;
use crate::part::{KnownColumns, LastFloat, PartRead, PartSeries, RunBuffer, make_room};
use chronolith_model::queryable::{
    Lookups, Projection, QueryContext, ReadError, SampleBatch, Select, SelectedSeries, Stop, pieces,
};
use chronolith_model::symbols::Symbol;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

/// Series read at once at most: parts without tiles, such as a small open table among large blocks,
/// must not make one huge piece of work.
const MAX_PARTITION: u32 = 1_024;

/// Samples of a piece at most, about: a worker decodes all of them before it puts them together. Two megabytes stay
/// in a core's cache, and in the allocator's: what has eight or more goes back to the system at once.
const MAX_PIECE_SAMPLES: u64 = 1 << 18;

/// Samples put together between two looks at whether the query goes on.
const SAMPLES_PER_CHECK: usize = 64 << 10;

/// Values that a worker's buffers may have room for to be kept for the next piece.
const MAX_SPARE_BYTES: usize = 8 << 20;

/// Merged series of the parts of a version.
pub(super) struct Selected {
    // The parts that win come first.
    parts: Vec<Box<dyn PartSeries>>,
    merged: Merged,
    partitions: Vec<Range<u32>>,
    projected: Option<Projected>,
    read: PartRead,
    plans: PlanCache,
    /// Buffers that no worker uses now: as many as there were workers.
    spare: Mutex<Vec<Scratch>>,
    oldest: i64,
    lease: Option<Arc<Lease>>,
    warnings: Vec<String>,
}

/// Labels that remain of each series.
struct Projected {
    labels: Vec<(Symbol, Symbol)>,
    ends: Vec<u32>,
}

impl Selected {
    /// Merges the series of `parts`, which ascend by precedence.
    ///
    /// # Errors
    /// [`StorageError`] if the query has to stop or its memory does not suffice.
    pub(super) fn new(
        parts: Vec<Box<dyn PartSeries>>,
        select: &Select<'_>,
        bounds: &Bounds,
        cx: &dyn QueryContext,
    ) -> Result<Self, StorageError> {
        let n_sources: usize = parts.iter().map(|part| part.len() as usize).sum();
        // Sources and ends, once as input and once as output of the last merge.
        cx.charge(n_sources * 24)?;
        let merged = merge(&parts, cx)?;
        // The query keeps what the list takes; the rest was for merging.
        cx.release((n_sources * 24).saturating_sub(merged.size_bytes()));
        let per_series: u64 = match select.lookups {
            Some(_) => 0,
            None => parts.iter().map(|part| part.samples_per_series(select.mint, select.maxt)).sum(),
        };
        let most = (MAX_PIECE_SAMPLES / per_series.max(1)).clamp(1, u64::from(MAX_PARTITION)) as u32;
        let partitions = partitions(&parts, &merged, most);
        let projected = Projected::new(&parts, &merged, select.labels, cx)?;
        // Look-ups say by themselves what they see.
        let seen = |lookups: Lookups| {
            let last = lookups.interval.saturating_mul(i64::from(lookups.n_steps) - 1);
            let first = lookups.start.saturating_sub(lookups.lookback).saturating_add(1);
            (select.mint.max(first), select.maxt.min(lookups.start.saturating_add(last)))
        };
        let (mint, maxt) = select.lookups.map_or((select.mint, select.maxt), seen);
        let read = PartRead {
            mint,
            maxt,
            lookups: select.lookups,
            values: select.values,
            histograms: select.histograms,
            start_timestamps: select.start_timestamps,
        };
        Ok(Self {
            parts,
            merged,
            partitions,
            projected,
            read,
            plans: PlanCache::default(),
            spare: Mutex::default(),
            oldest: bounds.oldest,
            lease: bounds.lease.clone(),
            warnings: bounds.warnings.clone(),
        })
    }

    fn part_labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        let source = self.merged.sources(index as usize)[0];
        self.parts[source.part as usize].labels(source.index)
    }

    /// Reads series that fit in memory at once.
    fn read_piece(
        &self,
        range: Range<u32>,
        scratch: &mut Scratch,
        out: &mut SampleBatch,
        cx: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        let wanted = self.part_ranges(&range);
        for (part, range) in wanted.iter().enumerate() {
            scratch.buffers[part].clear();
            if !range.is_empty() {
                let buffer = &mut scratch.buffers[part];
                self.parts[part].read(range.clone(), &self.read, buffer, cx)?;
                buffer.cut(self.oldest, self.read.mint, self.read.maxt);
            }
        }
        let size_bytes = scratch.buffers.iter().map(buffer_bytes).sum();
        cx.charge(size_bytes)?;
        // Values that stay over a chunk are in no buffer, but take a place each where their series has others.
        let n_samples =
            |buffer: &RunBuffer| buffer.runs.iter().map(|run| run.times.count as usize).sum::<usize>();
        make_room(&mut out.values, scratch.buffers.iter().map(n_samples).sum());
        let assembled = self.assemble(&range, &wanted, scratch, out, cx);
        cx.release(size_bytes);
        assembled
    }

    /// Which series of `range` have a float at the only step, or false where there are histograms. Of two parts the
    /// one with the later sample tells; of samples at one time the first part's stays.
    fn present_piece(
        &self,
        range: Range<u32>,
        scratch: &mut Scratch,
        out: &mut Vec<bool>,
        cx: &dyn QueryContext,
    ) -> Result<bool, StorageError> {
        let read = PartRead { mint: self.read.mint.max(self.oldest), ..self.read };
        let wanted = self.part_ranges(&range);
        for (part, range) in wanted.iter().enumerate() {
            let Scratch { buffers, seen, .. } = &mut *scratch;
            let Seen { known, last } = &mut seen[part];
            last.clear();
            let series = &self.parts[part];
            if range.is_empty() || series.last_floats(range.clone(), &read, known, last, cx)? {
                continue;
            }
            buffers[part].clear();
            series.read(range.clone(), &self.read, &mut buffers[part], cx)?;
            let size_bytes = buffer_bytes(&buffers[part]);
            cx.charge(size_bytes)?;
            let is_known = buffers[part].last_floats(range.len(), (read.mint, read.maxt), last);
            cx.release(size_bytes);
            if !is_known {
                return Ok(false);
            }
        }
        for index in range {
            let mut found: Option<LastFloat> = None;
            for source in self.merged.sources(index as usize) {
                let part = source.part as usize;
                let last = scratch.seen[part].last[(source.index - wanted[part].start) as usize];
                if last.is_some_and(|last| found.is_none_or(|found| last.time > found.time)) {
                    found = last;
                }
            }
            out.push(found.is_some_and(|found| !found.is_stale));
        }
        Ok(true)
    }

    fn scratch(&self) -> Scratch {
        let spare = self.spare.lock().pop();
        spare.unwrap_or_else(|| Scratch {
            buffers: std::iter::repeat_with(RunBuffer::default).take(self.parts.len()).collect(),
            seen: std::iter::repeat_with(Seen::default).take(self.parts.len()).collect(),
            hints: Hints::new(self.read.histograms, self.read.mint),
            last: LastPlans::default(),
        })
    }

    /// Keeps buffers for the next worker. Columns are not held longer than needed, nor is what is large.
    fn give_back(&self, mut scratch: Scratch) {
        let kept_bytes: usize = scratch.buffers.iter().map(|buffer| buffer.values.capacity() * 8).sum();
        if kept_bytes <= MAX_SPARE_BYTES {
            scratch.buffers.iter_mut().for_each(RunBuffer::clear);
            self.spare.lock().push(scratch);
        }
    }

    /// Which series of each part belong to merged series of `range`: they are neighbours, because both
    /// have one order.
    fn part_ranges(&self, range: &Range<u32>) -> Vec<Range<u32>> {
        let mut wanted = vec![0..0; self.parts.len()];
        for index in range.clone() {
            for source in self.merged.sources(index as usize) {
                let wanted = &mut wanted[source.part as usize];
                if wanted.start >= wanted.end {
                    wanted.start = source.index;
                }
                wanted.end = source.index + 1;
            }
        }
        wanted
    }

    fn assemble(
        &self,
        range: &Range<u32>,
        wanted: &[Range<u32>],
        scratch: &mut Scratch,
        out: &mut SampleBatch,
        cx: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        let Scratch { buffers, hints, last, .. } = scratch;
        let keep = Wanted { values: self.read.values, start_timestamps: self.read.start_timestamps };
        let mut cursors = vec![0usize; buffers.len()];
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        let mut stretches: Vec<Stretch<'_>> = Vec::new();
        let mut n_unchecked = 0;
        for index in range.clone() {
            pieces.clear();
            for source in self.merged.sources(index as usize) {
                let part = source.part as usize;
                let buffer = &buffers[part];
                let series = source.index - wanted[part].start;
                let cursor = &mut cursors[part];
                while let Some(run) = buffer.runs.get(*cursor).filter(|run| run.series <= series) {
                    if run.series == series && run.times.count > 0 {
                        pieces.push(Piece { part: source.part, run, buffer });
                    }
                    *cursor += 1;
                }
            }
            stretches.clear();
            stretches
                .extend(pieces.iter().map(|piece| Stretch { part: piece.part, times: &piece.run.times }));
            let plan = self.plans.plan(&stretches, last, cx)?;
            append_series(&pieces, plan, keep, hints, out)?;
            n_unchecked += plan.timestamps.times.len();
            if n_unchecked >= SAMPLES_PER_CHECK {
                n_unchecked = 0;
                cx.check()?;
            }
        }
        Ok(())
    }
}

/// What a worker keeps between pieces.
struct Scratch {
    buffers: Vec<RunBuffer>,
    /// By part.
    seen: Vec<Seen>,
    hints: Hints,
    last: LastPlans,
}

/// What a worker knows of the last floats of one part.
#[derive(Default)]
struct Seen {
    known: KnownColumns,
    /// Of the series of a piece.
    last: Vec<Option<LastFloat>>,
}

impl SelectedSeries for Selected {
    fn len(&self) -> u32 {
        self.merged.len() as u32
    }

    fn labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        match &self.projected {
            Some(projected) => projected.labels(index),
            None => self.part_labels(index),
        }
    }

    fn partitions(&self) -> &[Range<u32>] {
        &self.partitions
    }

    fn read(&self, range: Range<u32>, out: &mut SampleBatch, cx: &dyn QueryContext) -> Result<(), ReadError> {
        let cx = &Leased::new(self.lease.as_deref(), cx);
        let mut scratch = self.scratch();
        for piece in pieces(&self.partitions, range) {
            cx.check()?;
            self.read_piece(piece, &mut scratch, out, cx)?;
        }
        self.give_back(scratch);
        Ok(())
    }

    fn present(
        &self,
        range: Range<u32>,
        out: &mut Vec<bool>,
        cx: &dyn QueryContext,
    ) -> Result<bool, ReadError> {
        if self.read.values || self.read.lookups.is_none_or(|lookups| lookups.n_steps != 1) {
            return Ok(false);
        }
        let cx = &Leased::new(self.lease.as_deref(), cx);
        let mut scratch = self.scratch();
        out.clear();
        let mut is_known = true;
        for piece in pieces(&self.partitions, range) {
            cx.check()?;
            is_known = is_known && self.present_piece(piece, &mut scratch, out, cx)?;
        }
        self.give_back(scratch);
        Ok(is_known)
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}

impl Projected {
    fn new(
        parts: &[Box<dyn PartSeries>],
        merged: &Merged,
        projection: Projection<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Option<Self>, StorageError> {
        let (names, keep) = match projection {
            Projection::All => return Ok(None),
            Projection::Only(names) => (names, true),
            Projection::Without(names) => (names, false),
        };
        // A name that the query's table does not know is no label of any series.
        let names: Vec<Symbol> = names.iter().filter_map(|name| cx.symbols().get(name)).collect();
        let mut projected = Self { labels: Vec::new(), ends: Vec::with_capacity(merged.len()) };
        for at in 0..merged.len() {
            let source = merged.sources(at)[0];
            let labels = parts[source.part as usize].labels(source.index);
            projected.labels.extend(labels.iter().filter(|label| names.contains(&label.0) == keep));
            let end = u32::try_from(projected.labels.len())
                .map_err(|_| Stop::OverBudget("the selector reads 2^32 labels or more".to_owned()))?;
            projected.ends.push(end);
        }
        cx.charge(size_of_val(projected.labels.as_slice()) + size_of_val(projected.ends.as_slice()))?;
        Ok(Some(projected))
    }

    fn labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        let at = index as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.labels[start as usize..self.ends[at] as usize]
    }
}

/// The borders of the part that has most of them, cut where pieces have more than `most` series.
fn partitions(parts: &[Box<dyn PartSeries>], merged: &Merged, most: u32) -> Vec<Range<u32>> {
    let leading =
        parts.iter().map(|part| part.partitions()).enumerate().max_by_key(|(_, ranges)| ranges.len());
    let Some((part, ranges)) = leading else { return Vec::new() };
    let mut starts = ranges.iter().map(|range| range.start).filter(|&start| start > 0).peekable();
    let n_series = merged.len() as u32;
    let mut partitions = Vec::with_capacity(ranges.len());
    let mut start = 0;
    for at in 0..n_series {
        let is_border = merged
            .sources(at as usize)
            .iter()
            .any(|source| source.part as usize == part && starts.next_if_eq(&source.index).is_some());
        if at > start && (is_border || at - start == most) {
            partitions.push(start..at);
            start = at;
        }
    }
    if start < n_series {
        partitions.push(start..n_series);
    }
    partitions
}

/// What a buffer takes on the heap; shared columns are not its own.
fn buffer_bytes(buffer: &RunBuffer) -> usize {
    size_of_val(buffer.runs.as_slice())
        + size_of_val(buffer.values.as_slice())
        + buffer.histograms.len() * HISTOGRAM_BYTES
}

/// A histogram of some 20 buckets.
const HISTOGRAM_BYTES: usize = 512;
