//! One shard of a table: its series with their samples, the index over them, and what the log has not
//! been given yet. All of it under one lock.

use super::columns::{Columns, Position};
use super::exemplars::ExemplarRing;
use super::index::MemoryIndex;
use super::late::{Late, LateSample};
use crate::chunk::open::{Arena, OpenChunk};
use crate::log::record::{DefinitionsBuilder, SectionBuilder};
use crate::prefetch::prefetch;
use chronolith_model::append::Exemplar;
use std::sync::Arc;

/// Samples of an open chunk before the next begins: what a late sample with the timestamp of another
/// one has to decode, some microseconds.
const CHUNK_SAMPLES: usize = 480;
/// Slots that share a page of the map from slots to series: a table of late samples that holds few of
/// the series takes few pages.
const PAGE_SLOTS: usize = 1024;
const NO_EXTRA: u32 = u32::MAX;

/// One shard of a table.
pub struct TableShard {
    series: Vec<Series>,
    /// Series number + 1 by slot of the registry's shard.
    pages: Vec<Option<Box<[u32; PAGE_SLOTS]>>>,
    columns: Columns,
    arena: Arena,
    extras: Vec<Extra>,
    extras_bytes: usize,
    index: MemoryIndex,
    exemplars: ExemplarRing,
    section: SectionBuilder,
    definitions: DefinitionsBuilder,
    log_segment: u32,
    n_samples: u64,
    n_histograms: u64,
    mint: i64,
    maxt: i64,
}

/// A series of a shard of a table: what every series has.
// Invariant: the float that was logged last is `Extra::logged`, or else the newest of the open chunk.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// Slot in the registry's shard.
    pub slot: u32,
    extra: u32,
    /// Times of the open chunk.
    position: Position,
    /// Values of the open chunk.
    chunk: OpenChunk,
    /// Newest time of the samples that came in order, `i64::MIN` before the first.
    last: i64,
    /// Segment of the log that holds the float that was logged last.
    logged_segment: u32,
}

const _: () = assert!(size_of::<Series>() == 56);
const _: () = assert!(CHUNK_SAMPLES < crate::chunk::open::MAX_VALUES);

/// What few series have.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Full chunks, by time.
    pub closed: Vec<(OpenChunk, Position)>,
    /// Samples that were older than the newest when they came.
    pub late: Late,
    /// Histograms that came in order.
    pub histograms: Vec<HistogramPoint>,
    /// From which time of floats in order on which start timestamp holds.
    pub starts: Vec<(i64, i64)>,
    /// Bits of the float that was logged last, if it came late.
    logged: Option<u64>,
}

/// A histogram of a series.
#[derive(Clone, Debug)]
pub struct HistogramPoint {
    /// Its time.
    pub timestamp: i64,
    /// 0 if unknown.
    pub start_timestamp: i64,
    /// As it was sent.
    pub value: Value,
}

/// A float or a histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bits of a float.
    Float(u64),
    /// A histogram as in the log: a fraction of what it takes as a structure.
    Histogram(Arc<[u8]>),
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is new and the newest of its series in the table.
    Newest,
    /// It is new, and older than others.
    Late,
    /// It was there, bit for bit.
    Same,
    /// Another value was there and stays.
    Conflict,
}

/// A consistent copy of what a series holds; its values stay in the shard, which only grows.
#[derive(Clone, Debug)]
pub struct SeriesCopy {
    /// Newest chunk.
    pub open: (OpenChunk, Position),
    /// What few series have.
    pub extra: Option<Box<Extra>>,
}

/// What a series holds: lent by its shard, or by a copy.
#[derive(Clone, Copy)]
pub struct Held<'s> {
    /// Newest chunk.
    pub open: (OpenChunk, Position),
    /// What few series have.
    pub extra: Option<&'s Extra>,
}

impl SeriesCopy {
    /// What the series held.
    pub fn held(&self) -> Held<'_> {
        Held { open: self.open, extra: self.extra.as_deref() }
    }
}

impl Series {
    /// Bytes of the shard's arena that the open chunk holds.
    pub fn arena_bytes(&self) -> usize {
        self.chunk.arena_bytes()
    }
}

impl TableShard {
    /// An empty shard that keeps at most so many exemplars.
    pub fn new(max_exemplars: usize) -> Self {
        Self {
            series: Vec::new(),
            pages: Vec::new(),
            columns: Columns::default(),
            arena: Arena::new(),
            extras: Vec::new(),
            extras_bytes: 0,
            index: MemoryIndex::default(),
            exemplars: ExemplarRing::new(max_exemplars),
            section: SectionBuilder::default(),
            definitions: DefinitionsBuilder::default(),
            log_segment: 1,
            n_samples: 0,
            n_histograms: 0,
            mint: i64::MAX,
            maxt: i64::MIN,
        }
    }

    /// All series; positions are their numbers.
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// The number of the series in a slot, if it is here.
    #[inline]
    pub fn ordinal(&self, slot: u32) -> Option<u32> {
        let page = self.pages.get(slot as usize / PAGE_SLOTS)?.as_ref()?;
        page[slot as usize % PAGE_SLOTS].checked_sub(1)
    }

    /// Asks for the memory of the series in a slot.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        if let Some(series) = self.ordinal(slot).and_then(|number| self.series.get(number as usize)) {
            // It may lie across two cache lines.
            prefetch(series);
            prefetch(&series.logged_segment);
        }
    }

    /// Asks for the memory to which the next value of the series in a slot is written, if it is written at once.
    #[inline]
    pub fn prefetch_values(&self, slot: u32, bits: u64) {
        if let Some(series) = self.ordinal(slot).and_then(|number| self.series.get(number as usize)) {
            series.chunk.prefetch(&self.arena, bits);
        }
    }

    /// Takes in a series, as numbers for the index and as text for the log (unless it comes from there).
    pub fn add_series<'a>(
        &mut self,
        slot: u32,
        symbols: impl Iterator<Item = (u32, u32)>,
        texts: Option<impl Iterator<Item = (&'a str, &'a str)> + Clone>,
    ) -> u32 {
        let ordinal = u32::try_from(self.series.len()).expect("fewer than 2^32 series");
        let page_index = slot as usize / PAGE_SLOTS;
        if self.pages.len() <= page_index {
            self.pages.resize_with(page_index + 1, || None);
        }
        let page = self.pages[page_index].get_or_insert_with(|| Box::new([0; PAGE_SLOTS]));
        page[slot as usize % PAGE_SLOTS] = ordinal + 1;
        super::reserve_tight(&mut self.series, 1);
        self.series.push(Series {
            slot,
            extra: NO_EXTRA,
            position: Position::EMPTY,
            chunk: OpenChunk::new(),
            last: i64::MIN,
            logged_segment: 0,
        });
        self.index.add(symbols);
        if let Some(texts) = texts {
            self.definitions.push(ordinal, texts);
        }
        ordinal
    }

    /// Applies a float and hands it to the log unless it was there.
    #[inline]
    pub fn append_float(&mut self, ordinal: u32, timestamp: i64, bits: u64, start_timestamp: i64) -> Placed {
        let before = self.logged(&self.series[ordinal as usize]);
        let placed = self.place_float(ordinal, timestamp, bits, start_timestamp);
        if matches!(placed, Placed::Newest | Placed::Late) {
            let series = &mut self.series[ordinal as usize];
            series.logged_segment = self.log_segment;
            if let Some(extra) = self.extras.get_mut(series.extra as usize) {
                extra.logged = (placed == Placed::Late).then_some(bits);
            }
            self.section.push_float(ordinal, timestamp, before, bits, start_timestamp);
        }
        placed
    }

    /// Bits of the float of a series that was logged last in this segment, 0 if there is none.
    #[inline]
    fn logged(&self, series: &Series) -> u64 {
        if series.logged_segment != self.log_segment {
            return 0;
        }
        let late = self.extra(series).and_then(|extra| extra.logged);
        late.or(series.chunk.last().map(f64::to_bits)).unwrap_or(0)
    }

    /// Applies a float: first acknowledged wins.
    #[inline]
    pub fn place_float(&mut self, ordinal: u32, timestamp: i64, bits: u64, start_timestamp: i64) -> Placed {
        let series = &mut self.series[ordinal as usize];
        if timestamp <= series.last {
            return self.place_late(ordinal, timestamp, Value::Float(bits), start_timestamp);
        }
        if series.chunk.len() >= CHUNK_SAMPLES {
            self.close_chunk(ordinal);
        }
        let series = &mut self.series[ordinal as usize];
        self.columns.append(&mut series.position, timestamp);
        series.chunk.push(&mut self.arena, f64::from_bits(bits));
        series.last = timestamp;
        if start_timestamp != 0 || series.extra != NO_EXTRA {
            self.note_start(ordinal, timestamp, start_timestamp);
        }
        self.count(timestamp);
        Placed::Newest
    }

    fn count(&mut self, timestamp: i64) {
        self.n_samples += 1;
        self.mint = self.mint.min(timestamp);
        self.maxt = self.maxt.max(timestamp);
    }

    #[cold]
    fn close_chunk(&mut self, ordinal: u32) {
        let series = &self.series[ordinal as usize];
        let closed = (series.chunk, series.position);
        self.extra_mut(ordinal).closed.push(closed);
        self.extras_bytes += size_of_val(&closed);
        let series = &mut self.series[ordinal as usize];
        series.chunk = OpenChunk::new();
        series.position = series.position.next_chunk();
    }

    fn note_start(&mut self, ordinal: u32, timestamp: i64, start_timestamp: i64) {
        let starts = &mut self.extra_mut(ordinal).starts;
        if starts.last().map_or(0, |&(_, start)| start) != start_timestamp {
            starts.push((timestamp, start_timestamp));
            self.extras_bytes += 16;
        }
    }

    fn extra_mut(&mut self, ordinal: u32) -> &mut Extra {
        let series = &mut self.series[ordinal as usize];
        if series.extra == NO_EXTRA {
            series.extra = self.extras.len() as u32;
            self.extras.push(Extra::default());
            self.extras_bytes += size_of::<Extra>();
        }
        &mut self.extras[series.extra as usize]
    }

    fn extra(&self, series: &Series) -> Option<&Extra> {
        self.extras.get(series.extra as usize)
    }

    #[cold]
    fn place_late(&mut self, ordinal: u32, timestamp: i64, value: Value, start_timestamp: i64) -> Placed {
        if let Some(there) = self.value_at(ordinal, timestamp) {
            return if there == value { Placed::Same } else { Placed::Conflict };
        }
        self.n_histograms += u64::from(matches!(value, Value::Histogram(_)));
        let sample = LateSample { value, start_timestamp };
        let size_bytes = self.extra_mut(ordinal).late.insert(timestamp, sample);
        self.extras_bytes += size_bytes;
        self.count(timestamp);
        Placed::Late
    }

    /// The value that a series has at a time.
    fn value_at(&self, ordinal: u32, timestamp: i64) -> Option<Value> {
        let series = &self.series[ordinal as usize];
        let extra = self.extra(series);
        if let Some(extra) = extra {
            if let Some(value) = extra.late.get(timestamp) {
                return Some(value);
            }
            if let Ok(at) = extra.histograms.binary_search_by_key(&timestamp, |point| point.timestamp) {
                return Some(extra.histograms[at].value.clone());
            }
        }
        let open = (series.chunk, series.position);
        let closed = extra.map_or(&[][..], |extra| &extra.closed);
        closed.iter().chain([&open]).rev().find_map(|(chunk, position)| {
            let at = self.columns.find(*position, timestamp)?;
            // The usual retry repeats the newest sample.
            let last = chunk.last().filter(|_| at + 1 == chunk.len());
            let value = last.or(chunk.constant()).unwrap_or_else(|| {
                let mut values = Vec::new();
                chunk.decode(&self.arena, &mut values);
                values[at]
            });
            Some(Value::Float(value.to_bits()))
        })
    }

    /// Applies a histogram and hands it to the log unless it was there.
    pub fn append_histogram(
        &mut self,
        ordinal: u32,
        timestamp: i64,
        start_timestamp: i64,
        encoded: &[u8],
    ) -> Placed {
        let placed = self.place_histogram(ordinal, timestamp, start_timestamp, encoded);
        if matches!(placed, Placed::Newest | Placed::Late) {
            self.section.push_histogram(ordinal, timestamp, start_timestamp, encoded);
        }
        placed
    }

    /// Applies a histogram, given as bytes of the log: first acknowledged wins.
    pub fn place_histogram(
        &mut self,
        ordinal: u32,
        timestamp: i64,
        start_timestamp: i64,
        encoded: &[u8],
    ) -> Placed {
        let value = Value::Histogram(encoded.into());
        if timestamp <= self.series[ordinal as usize].last {
            return self.place_late(ordinal, timestamp, value, start_timestamp);
        }
        self.series[ordinal as usize].last = timestamp;
        self.extras_bytes += value.size_bytes();
        let histograms = &mut self.extra_mut(ordinal).histograms;
        let capacity = histograms.capacity();
        histograms.push(HistogramPoint { timestamp, start_timestamp, value });
        let grown = histograms.capacity() - capacity;
        self.extras_bytes += grown * size_of::<HistogramPoint>();
        self.n_histograms += 1;
        self.count(timestamp);
        Placed::Newest
    }

    /// Applies an exemplar and hands it to the log unless it was there.
    pub fn append_exemplar(&mut self, ordinal: u32, exemplar: &Exemplar) -> Placed {
        let placed = self.exemplars.add(ordinal, exemplar);
        if placed == Placed::Newest {
            self.section.push_exemplar(ordinal, exemplar);
        }
        placed
    }

    /// Applies an exemplar from the log.
    pub fn place_exemplar(&mut self, ordinal: u32, exemplar: &Exemplar) {
        self.exemplars.put(ordinal, exemplar);
    }

    /// Applies an exemplar of another table, of any age, and hands it to the log.
    pub fn carry_exemplar(&mut self, ordinal: u32, exemplar: &Exemplar) {
        self.exemplars.put(ordinal, exemplar);
        self.section.push_exemplar(ordinal, exemplar);
    }

    /// Moves what the log has not been given yet to the buffers.
    pub fn drain(&mut self, shard: u16, last_of_segment: bool, definitions: &mut Vec<u8>, out: &mut Vec<u8>) {
        self.definitions.finish(shard, definitions);
        self.section.finish(shard, out);
        // Differences to values of an earlier segment must not be made: it may be damaged.
        self.log_segment += u32::from(last_of_segment);
    }

    /// What a series holds, as long as the shard is locked.
    pub fn held(&self, ordinal: u32) -> Held<'_> {
        let series = &self.series[ordinal as usize];
        Held { open: (series.chunk, series.position), extra: self.extra(series) }
    }

    /// What a series holds now.
    pub fn copy(&self, ordinal: u32) -> SeriesCopy {
        let Held { open, extra } = self.held(ordinal);
        SeriesCopy { open, extra: extra.map(|extra| Box::new(extra.clone())) }
    }

    /// First and last time of a series, `None` if it has no sample.
    pub fn time_range(&self, ordinal: u32) -> Option<(i64, i64)> {
        let series = &self.series[ordinal as usize];
        let open = self.columns.first_time(series.position);
        let Some(extra) = self.extra(series) else {
            return open.map(|first| (first, series.last));
        };
        let closed = extra.closed.first().and_then(|(_, position)| self.columns.first_time(*position));
        let late = extra.late.first_time();
        let histogram = extra.histograms.first().map(|point| point.timestamp);
        let first = [closed, late, histogram].into_iter().flatten().chain(open).min()?;
        // The newest sample of a series always came in order.
        Some((first, series.last))
    }

    /// Whether a series has a sample in `[mint, maxt]`.
    pub fn has_samples_in(&self, ordinal: u32, mint: i64, maxt: i64) -> bool {
        let series = &self.series[ordinal as usize];
        let has = |position: Position| {
            let times = self.columns.times(position);
            times.get(times.partition_point(|&time| time < mint)).is_some_and(|&time| time <= maxt)
        };
        has(series.position)
            || self.extra(series).is_some_and(|extra| {
                let histograms = &extra.histograms;
                let at = histograms.partition_point(|point| point.timestamp < mint);
                extra.closed.iter().any(|(_, position)| has(*position))
                    || (mint <= maxt && extra.late.range(mint..=maxt).next().is_some())
                    || histograms.get(at).is_some_and(|point| point.timestamp <= maxt)
            })
    }

    /// How many samples a series has.
    pub fn n_samples_of(&self, ordinal: u32) -> usize {
        let series = &self.series[ordinal as usize];
        series.chunk.len()
            + self.extra(series).map_or(0, |extra| {
                let closed: usize = extra.closed.iter().map(|(chunk, _)| chunk.len()).sum();
                closed + extra.late.len() + extra.histograms.len()
            })
    }

    /// The newest sample of a series that came in order.
    pub fn last_sample(&self, ordinal: u32) -> Option<(i64, Value)> {
        let last = self.series[ordinal as usize].last;
        Some((last, self.value_at(ordinal, last)?))
    }

    /// The columns of the shard.
    pub const fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The values of the shard.
    pub const fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The index of the shard.
    pub const fn index(&self) -> &MemoryIndex {
        &self.index
    }

    /// The exemplars of the shard.
    pub const fn exemplars(&self) -> &ExemplarRing {
        &self.exemplars
    }

    /// Samples of all series.
    pub const fn n_samples(&self) -> u64 {
        self.n_samples
    }

    /// Histograms among the samples.
    pub const fn n_histograms(&self) -> u64 {
        self.n_histograms
    }

    /// First and last time, `None` without samples.
    pub fn whole_range(&self) -> Option<(i64, i64)> {
        (self.n_samples > 0).then_some((self.mint, self.maxt))
    }

    /// Estimated heap size.
    pub fn size_bytes(&self) -> usize {
        self.memory().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Estimated heap size by what takes it.
    pub fn memory(&self) -> [(&'static str, usize); 7] {
        let n_pages = self.pages.iter().flatten().count();
        [
            ("series", self.series.capacity() * size_of::<Series>()),
            ("slots", n_pages * PAGE_SLOTS * 4),
            ("times", self.columns.size_bytes()),
            ("values", self.arena.size_bytes()),
            ("extras", self.extras_bytes),
            ("index", self.index.size_bytes()),
            ("exemplars", self.exemplars.size_bytes()),
        ]
    }
}

impl Value {
    /// Heap size: of a histogram its bytes, the counts of the `Arc`, and what an allocation costs.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Float(_) => 0,
            Self::Histogram(bytes) => bytes.len() + 32,
        }
    }
}
