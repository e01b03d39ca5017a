//! Applying the samples of a log.
//!
//! A log has all series at one time, then all at the next; a table has all times of a series. Samples are
//! collected by neighbouring series first, so that what is touched for one sample is still in the cache for the
//! next ones.

use super::feed::{Frame, Frames};
use super::series::Targets;
use crate::lock::RwLockWriteGuard;
use crate::log::histogram as histogram_bytes;
use crate::log::record::{RecordSink, Samples, Section, sections};
use crate::table::TableSet;
use crate::table::open::{ShardTotals, Table};
use crate::table::registry::LastSample;
use crate::table::shard::{TableShard, Value};
use chronolith_model::append::Exemplar;
use chronolith_model::histogram::Histogram;
use xxhash_rust::xxh3::xxh3_64;

/// Series whose samples are collected together: what tables hold of them fits into a core's own cache.
const BUCKET_SERIES: usize = 512;
/// Entries of a bucket before they are applied: 32 KB, 64 MB for a million series.
const BUCKET_ENTRIES: usize = 2048;

/// What a worker has done.
#[derive(Default)]
pub(super) struct Applied {
    /// Samples, histograms and exemplars.
    pub n_samples: u64,
    /// Those without a series.
    pub n_undefined: u64,
    /// Segments with sections that do not decode, and why.
    pub damage: Vec<(u32, &'static str)>,
}

/// Applies the sections of a worker's shards. `base` is a time that most samples come shortly after, if one is
/// known.
pub(super) fn work(
    table: &Table,
    targets: &[Targets],
    base: Option<i64>,
    own: impl Fn(usize) -> bool,
    frames: Frames,
) -> Applied {
    let shards = targets.iter().map(|all| ShardReplay::new(table, all, base)).collect();
    let mut worker =
        Worker { table, own, shards, bad_segment: vec![0; targets.len()], result: Applied::default() };
    for batch in frames {
        batch.iter().for_each(|frame| worker.apply(frame));
    }
    let mut result = worker.result;
    for mut shard in worker.shards {
        shard.finish();
        result.n_samples += shard.n_samples;
        result.n_undefined += shard.n_undefined;
    }
    result
}

struct Worker<'t, O> {
    table: &'t Table,
    own: O,
    shards: Vec<ShardReplay<'t>>,
    /// By shard, the segment in which it cannot be read on.
    bad_segment: Vec<u32>,
    result: Applied,
}

impl<O: Fn(usize) -> bool> Worker<'_, O> {
    fn apply(&mut self, frame: &Frame) {
        let segment = frame.at as u32;
        let sections = match sections(&frame.body) {
            Ok(sections) => sections,
            Err(reason) => {
                if (self.own)(0) {
                    self.result.damage.push((segment, reason));
                }
                return;
            }
        };
        for section in sections {
            match section {
                Section::Metadata(entries) if (self.own)(0) => {
                    entries.iter().for_each(|(name, metadata)| self.table.replay_metadata(name, metadata));
                }
                Section::Metadata(_) => {}
                Section::Samples(samples) => self.apply_samples(segment, &samples),
            }
        }
    }

    fn apply_samples(&mut self, segment: u32, samples: &Samples<'_>) {
        let index = samples.shard as usize;
        if !(self.own)(index) || self.bad_segment.get(index) == Some(&segment) {
            return;
        }
        let Some(shard) = self.shards.get_mut(index) else {
            self.result.damage.push((segment, "samples of a shard that is not there"));
            return;
        };
        shard.begin(segment);
        if let Err(reason) = samples.replay(shard) {
            // Differences to what did not decode would be wrong.
            self.bad_segment[index] = segment;
            self.result.damage.push((segment, reason));
        }
        shard.release();
    }
}

/// A float that waits to be applied; 16 bytes, since there are many.
#[derive(Clone, Copy)]
struct Entry {
    bits: u64,
    /// Milliseconds after the base.
    time: u32,
    /// Number of the series in its bucket.
    number: u16,
    /// The next entry is no sample: its bits are the start timestamp of this one.
    has_start: bool,
}

const _: () = assert!(size_of::<Entry>() == 16);

/// Hands floats over with their start timestamps, 0 for none.
#[inline]
fn each(entries: &[Entry], mut apply: impl FnMut(Entry, i64)) {
    let mut rest = entries.iter();
    while let Some(&entry) = rest.next() {
        let start_timestamp =
            if entry.has_start { rest.next().map_or(0, |start| start.bits as i64) } else { 0 };
        apply(entry, start_timestamp);
    }
}

/// A shard of the log on its way into the table.
struct ShardReplay<'t> {
    table: &'t Table,
    targets: &'t Targets,
    logged: Vec<u64>,
    segment: u32,
    /// Times of entries count from here; of the first float if `None`.
    base: Option<i64>,
    buckets: Vec<Vec<Entry>>,
    /// The shard that is locked now, what it held before, and the lock.
    locked: Option<(u32, ShardTotals, RwLockWriteGuard<'t, TableShard>)>,
    n_samples: u64,
    n_undefined: u64,
}

impl<'t> ShardReplay<'t> {
    fn new(table: &'t Table, targets: &'t Targets, base: Option<i64>) -> Self {
        let mut buckets = Vec::new();
        buckets.resize_with(targets.len().div_ceil(BUCKET_SERIES), Vec::new);
        Self {
            table,
            targets,
            logged: Vec::new(),
            segment: 0,
            base,
            buckets,
            locked: None,
            n_samples: 0,
            n_undefined: 0,
        }
    }

    fn begin(&mut self, segment: u32) {
        if self.segment != segment {
            self.segment = segment;
            self.logged.clear();
            self.logged.resize(self.targets.len(), 0);
        }
    }

    fn finish(&mut self) {
        (0..self.buckets.len()).for_each(|index| self.apply(index));
        self.release();
    }

    /// Applies what a bucket has collected.
    fn apply(&mut self, index: usize) {
        let mut entries = std::mem::take(&mut self.buckets[index]);
        let base = self.base.unwrap_or(0);
        let first = (index * BUCKET_SERIES) as u32;
        let same_in = self.targets.same_in();
        if let Some(shard_index) = same_in {
            let shard = self.lock(shard_index);
            each(&entries, |entry, start_timestamp| {
                let time = base.wrapping_add(i64::from(entry.time));
                shard.place_float(first + u32::from(entry.number), time, entry.bits, start_timestamp);
            });
        } else {
            each(&entries, |entry, start_timestamp| {
                let time = base.wrapping_add(i64::from(entry.time));
                if let Some((shard, number)) = self.shard(first + u32::from(entry.number)) {
                    shard.place_float(number, time, entry.bits, start_timestamp);
                }
            });
        }
        entries.clear();
        self.buckets[index] = entries;
    }

    /// As [`Self::apply`] of the bucket of a series, before something is applied to it that is no entry.
    fn catch_up(&mut self, number: u32) {
        let index = number as usize / BUCKET_SERIES;
        if self.buckets.get(index).is_some_and(|bucket| !bucket.is_empty()) {
            self.apply(index);
        }
    }

    #[inline]
    fn shard(&mut self, number: u32) -> Option<(&mut TableShard, u32)> {
        let (shard_index, own_number) = self.targets.get(number)?;
        Some((self.lock(shard_index), own_number))
    }

    #[inline]
    fn lock(&mut self, shard_index: u32) -> &mut TableShard {
        if self.locked.as_ref().is_none_or(|(locked, ..)| *locked != shard_index) {
            self.release();
        }
        let (.., guard) = self.locked.get_or_insert_with(|| {
            let guard = self.table.shards[shard_index as usize].write();
            (shard_index, ShardTotals::of(&guard), guard)
        });
        guard
    }

    fn release(&mut self) {
        if let Some((_, before, guard)) = self.locked.take() {
            self.table.account(before, &guard);
        }
    }
}

impl RecordSink for ShardReplay<'_> {
    #[inline]
    fn logged(&mut self, ordinal: u32) -> Option<&mut u64> {
        if self.targets.get(ordinal).is_none() {
            self.n_undefined += 1;
            return None;
        }
        self.logged.get_mut(ordinal as usize)
    }

    #[inline]
    fn float(&mut self, ordinal: u32, timestamp: i64, bits: u64, start_timestamp: i64) {
        self.n_samples += 1;
        let base = *self.base.get_or_insert(timestamp);
        let Ok(time) = u32::try_from(timestamp.wrapping_sub(base)) else {
            self.catch_up(ordinal);
            if let Some((shard, number)) = self.shard(ordinal) {
                shard.place_float(number, timestamp, bits, start_timestamp);
            }
            return;
        };
        let index = ordinal as usize / BUCKET_SERIES;
        let number = (ordinal as usize % BUCKET_SERIES) as u16;
        let bucket = &mut self.buckets[index];
        if bucket.capacity() == 0 {
            bucket.reserve_exact(BUCKET_ENTRIES);
        }
        bucket.push(Entry { bits, time, number, has_start: start_timestamp != 0 });
        if start_timestamp != 0 {
            bucket.push(Entry { bits: start_timestamp as u64, time, number, has_start: false });
        }
        // Two more must fit.
        if bucket.len() >= BUCKET_ENTRIES - 1 {
            self.apply(index);
        }
    }

    fn histogram(&mut self, ordinal: u32, timestamp: i64, start_timestamp: i64, histogram: Histogram) {
        self.n_samples += 1;
        self.catch_up(ordinal);
        if let Some((shard, number)) = self.shard(ordinal) {
            let mut encoded = Vec::new();
            histogram_bytes::encode(&histogram, &mut encoded);
            shard.place_histogram(number, timestamp, start_timestamp, &encoded);
        }
    }

    fn exemplar(&mut self, ordinal: u32, exemplar: Exemplar) {
        self.n_samples += 1;
        if let Some((shard, number)) = self.shard(ordinal) {
            shard.place_exemplar(number, &exemplar);
        }
    }
}

/// Tells the registry the newest sample of each series.
pub(super) fn restore_last(set: &TableSet, table: &Table) {
    let n_threads = set.options.n_threads().min(table.shards.len()).max(1);
    std::thread::scope(|scope| {
        for thread in 0..n_threads {
            scope.spawn(move || {
                let shards = 0..table.shards.len();
                shards.skip(thread).step_by(n_threads).for_each(|index| restore_last_of(set, table, index));
            });
        }
    });
}

fn restore_last_of(set: &TableSet, table: &Table, shard_index: usize) {
    let mut registry = set.registry.shards[shard_index].write();
    let shard = table.shards[shard_index].read();
    for (number, series) in shard.series().iter().enumerate() {
        let Some((timestamp, value)) = shard.last_sample(number as u32) else { continue };
        let entry = registry.entry_mut(series.slot);
        if timestamp <= entry.last().timestamp {
            continue;
        }
        entry.set_last(match value {
            Value::Float(bits) => LastSample { timestamp, bits, is_histogram: false },
            Value::Histogram(bytes) => LastSample { timestamp, bits: xxh3_64(&bytes), is_histogram: true },
        });
    }
}
