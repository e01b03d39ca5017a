//! The series in memory: from labels to a slot, and back. All tables share it; a series is here while
//! a table holds it, and a while longer.
//!
//! A slot number holds the shard in its low bits. The shard follows from the labels `job` and
//! `instance` (the scrape target by convention), so that series with common timestamps meet in one
//! shard; a wrong hint costs space only.

pub mod aliases;
pub mod hasher;
pub mod identity;
pub mod interner;

use crate::lock::RwLock;
use aliases::Aliases;
use chronolith_model::append::{InvalidLabels, SeriesRef};
use chronolith_model::labels::write_labels;
use hashbrown::HashTable;
use hasher::{Hash128, SeriesHasher};
use identity::LabelLimits;
use interner::Interner;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::index::varint::{Bytes, put_varint};
use crate::metrics::Counter;
use crate::prefetch::prefetch;

/// A series that no table holds stays for so long: the next run of its window usually wants it back,
/// and its handles stay valid.
const GRACE_MS: i64 = 600_000;

/// All series in memory.
pub struct Registry {
    hasher: SeriesHasher,
    limits: LabelLimits,
    aliases: Aliases,
    /// Locked after a shard, never before one.
    pub(super) interner: RwLock<Interner>,
    pub(super) shards: Box<[RwLock<RegistryShard>]>,
    shard_bits: u32,
    retired: Mutex<VecDeque<Retired>>,
    n_series: AtomicUsize,
    /// Series created so far.
    pub created: Counter,
    /// Series that left so far.
    pub removed: Counter,
}

/// A series that no table held at some time.
struct Retired {
    at_ms: i64,
    series: SeriesRef,
}

/// The series of one shard.
#[derive(Default)]
pub struct RegistryShard {
    entries: Vec<Entry>,
    by_hash: HashTable<u32>,
    free: Vec<u32>,
    labels: LabelArena,
}

/// One slot of a shard.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    hash: Hash128,
    // The newest sample that any table ever took of the series while it was here, without the padding.
    last_timestamp: i64,
    last_bits: u64,
    labels_at: u32,
    labels_len: u32,
    /// Of the handle; 0 only before the first use.
    pub generation: u32,
    /// Tables that hold the series.
    uses: u16,
    last_is_histogram: bool,
}

const _: () = assert!(size_of::<Entry>() == 48);

impl Entry {
    /// The newest sample that any table ever took of the series while it was here.
    #[inline]
    pub const fn last(&self) -> LastSample {
        LastSample {
            timestamp: self.last_timestamp,
            bits: self.last_bits,
            is_histogram: self.last_is_histogram,
        }
    }

    /// Notes the newest sample.
    #[inline]
    pub const fn set_last(&mut self, last: LastSample) {
        self.last_timestamp = last.timestamp;
        self.last_bits = last.bits;
        self.last_is_histogram = last.is_histogram;
    }

    /// Notes that one table more holds the series.
    ///
    /// # Panics
    /// If 2^16 do: their logs alone would take more than there is.
    pub fn add_use(&mut self) {
        self.uses = self.uses.checked_add(1).expect("fewer than 2^16 tables in memory");
    }
}

/// What retries of the newest sample are recognised by, also after the table that holds it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSample {
    /// `i64::MIN` if there is none.
    pub timestamp: i64,
    /// Bits of the float, or hash of the histogram.
    pub bits: u64,
    /// Which of the two.
    pub is_histogram: bool,
}

impl LastSample {
    /// Before the first sample.
    pub const NONE: Self = Self { timestamp: i64::MIN, bits: 0, is_histogram: false };
}

impl Registry {
    /// An empty registry. `n_shards` is a power of two.
    pub fn new(key: &[u8; 32], n_shards: usize, limits: LabelLimits) -> Self {
        assert!(n_shards.is_power_of_two());
        let hasher = SeriesHasher::new(key);
        let seed = hasher.bytes(b"interner")[0];
        Self {
            hasher,
            limits,
            aliases: Aliases::default(),
            interner: RwLock::new(Interner::new(seed)),
            shards: (0..n_shards).map(|_| RwLock::default()).collect(),
            shard_bits: n_shards.trailing_zeros(),
            retired: Mutex::default(),
            n_series: AtomicUsize::new(0),
            created: Counter::default(),
            removed: Counter::default(),
        }
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.n_series.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many shards.
    pub fn n_shards(&self) -> usize {
        self.shards.len()
    }

    /// Shard and slot in the shard.
    pub const fn split(&self, slot: u32) -> (usize, u32) {
        (slot as usize & ((1 << self.shard_bits) - 1), slot >> self.shard_bits)
    }

    fn join(&self, shard: usize, local: u32) -> u32 {
        assert!(local <= u32::MAX >> self.shard_bits, "fewer than 2^32 series in memory");
        local << self.shard_bits | shard as u32
    }

    /// The slot of canonical labels, made now if there is none; whether it was made.
    ///
    /// # Errors
    /// [`InvalidLabels`] if the label sets of the shard take up its address space.
    pub fn get_or_create(&self, labels: &[(&str, &str)]) -> Result<(SeriesRef, bool), InvalidLabels> {
        let hashed = labels.iter().map(|&(name, value)| (name, self.hash_text(name), self.hash_text(value)));
        let (hash, shard_index) = self.place(hashed, &mut Vec::new());
        let mut shard = self.shards[shard_index].write();
        if let Some(local) = shard.find(&hash) {
            let generation = shard.entries[local as usize].generation;
            return Ok((SeriesRef { slot: self.join(shard_index, local), generation }, false));
        }
        let mut symbols = Vec::new();
        let mut interner = self.interner.write();
        for (name, value) in labels {
            put_varint(&mut symbols, u64::from(interner.acquire(name)));
            put_varint(&mut symbols, u64::from(interner.acquire(value)));
        }
        drop(interner);
        let local = shard.create(hash, &symbols)?;
        let generation = shard.entries[local as usize].generation;
        drop(shard);
        self.n_series.fetch_add(1, Ordering::Relaxed);
        self.created.increment();
        Ok((SeriesRef { slot: self.join(shard_index, local), generation }, true))
    }

    /// Hash and shard of canonical labels, which come as name, hash of the name and hash of the value.
    /// `scratch` is any buffer.
    pub(super) fn place<'a>(
        &self,
        labels: impl Iterator<Item = (&'a str, Hash128, Hash128)>,
        scratch: &mut Vec<u8>,
    ) -> (Hash128, usize) {
        let mut sum = 0u64;
        let hashes = labels.flat_map(|(name, name_hash, value_hash)| {
            if name == "job" || name == "instance" {
                // Sorted labels: `instance` always comes before `job`.
                sum = sum.rotate_left(17) ^ value_hash[0];
            }
            [name_hash, value_hash]
        });
        let hash = self.hasher.fold(hashes, scratch);
        (hash, (sum >> 20) as usize & (self.shards.len() - 1))
    }

    /// The hash of one label name or value.
    pub(super) fn hash_text(&self, text: &str) -> Hash128 {
        self.hasher.bytes(text.as_bytes())
    }

    /// Counts series that were created by the way of a shard.
    pub(super) fn count_created(&self, count: usize) {
        self.n_series.fetch_add(count, Ordering::Relaxed);
        self.created.add(count as u64);
    }

    /// Forgets the newest sample of series where it lies in `[mint, maxt]`.
    pub(super) fn forget_newest(&self, mint: i64, maxt: i64) {
        for shard in &self.shards {
            for entry in &mut shard.write().entries {
                if (mint..=maxt).contains(&entry.last_timestamp) {
                    entry.set_last(LastSample::NONE);
                }
            }
        }
    }

    /// The handle of a slot in use of a shard that the caller has locked.
    pub(super) fn handle(&self, shard_index: usize, local: u32, shard: &RegistryShard) -> SeriesRef {
        let generation = shard.entries[local as usize].generation;
        SeriesRef { slot: self.join(shard_index, local), generation }
    }

    /// Takes back one use of each of these slots of a shard; those without any are due to leave.
    pub fn release(&self, shard_index: usize, locals: &[u32], now_ms: i64) {
        // In pieces, so that appends get their turn.
        for piece in locals.chunks(4096) {
            let mut unused = Vec::new();
            let mut shard = self.shards[shard_index].write();
            for &local in piece {
                let entry = &mut shard.entries[local as usize];
                assert!(entry.uses > 0, "a table holds its series");
                entry.uses -= 1;
                if entry.uses == 0 {
                    let series =
                        SeriesRef { slot: self.join(shard_index, local), generation: entry.generation };
                    unused.push(Retired { at_ms: now_ms, series });
                }
            }
            drop(shard);
            self.retired.lock().extend(unused);
        }
    }

    /// Removes series that no table has held for some time.
    pub fn purge(&self, now_ms: i64) {
        loop {
            let mut due = Vec::new();
            let mut retired = self.retired.lock();
            while due.len() < 4096 && retired.front().is_some_and(|first| first.at_ms + GRACE_MS <= now_ms) {
                due.extend(retired.pop_front());
            }
            drop(retired);
            if due.is_empty() {
                return;
            }
            for Retired { series, .. } in due {
                self.remove(series);
            }
        }
    }

    fn remove(&self, series: SeriesRef) {
        let (shard_index, local) = self.split(series.slot);
        let mut guard = self.shards[shard_index].write();
        let shard = &mut *guard;
        let entry = &mut shard.entries[local as usize];
        if entry.generation != series.generation || entry.uses > 0 {
            return;
        }
        // Handles to this generation end here. Zero marks empty aliases, so it is skipped.
        entry.generation = entry.generation.checked_add(1).unwrap_or(1);
        let found = shard.by_hash.find_entry(entry.hash[0], |&other| other == local);
        found.expect("a series is in the map").remove();
        let mut interner = self.interner.write();
        for symbol in symbols_of(shard.labels.get(entry.labels_at, entry.labels_len)) {
            interner.release(symbol);
        }
        drop(interner);
        shard.labels.release(entry.labels_len);
        entry.labels_len = 0;
        shard.free.push(local);
        shard.compact_labels();
        self.n_series.fetch_sub(1, Ordering::Relaxed);
        self.removed.increment();
    }

    /// The labels of a series as text, for messages.
    pub fn labels_text(&self, series: SeriesRef) -> String {
        let (shard_index, local) = self.split(series.slot);
        let shard = self.shards[shard_index].read();
        let interner = self.interner.read();
        let mut text = String::new();
        if shard.get(local, series.generation).is_some() {
            let labels = shard.labels(local).map(|(n, v)| (interner.resolve(n), interner.resolve(v)));
            write_labels(&mut text, labels).expect("a string takes any text");
        }
        text
    }

    /// Estimated heap size.
    pub fn size_bytes(&self) -> usize {
        self.memory().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Estimated heap size by what takes it.
    pub fn memory(&self) -> [(&'static str, usize); 5] {
        let sum =
            |size: fn(&RegistryShard) -> usize| self.shards.iter().map(|shard| size(&shard.read())).sum();
        [
            (
                "entries",
                sum(|shard| shard.entries.capacity() * size_of::<Entry>() + shard.free.capacity() * 4),
            ),
            ("hashes", sum(|shard| shard.by_hash.allocation_size())),
            ("labels", sum(|shard| shard.labels.bytes.capacity())),
            ("aliases", self.aliases.size_bytes()),
            ("strings", self.interner.read().size_bytes()),
        ]
    }
}

impl RegistryShard {
    /// The slot of canonical labels with this hash.
    pub(super) fn find(&self, hash: &Hash128) -> Option<u32> {
        self.by_hash.find(hash[0], |&local| self.entries[local as usize].hash == *hash).copied()
    }

    /// Makes an entry for labels that have none, given as numbers of names and values in varints.
    ///
    /// # Errors
    /// [`InvalidLabels`] if the label sets of the shard take up its address space.
    pub(super) fn create(&mut self, hash: Hash128, symbols: &[u8]) -> Result<u32, InvalidLabels> {
        let (labels_at, labels_len) = self.labels.add(symbols)?;
        let LastSample { timestamp, bits, is_histogram } = LastSample::NONE;
        let mut entry = Entry {
            hash,
            last_timestamp: timestamp,
            last_bits: bits,
            labels_at,
            labels_len,
            generation: 1,
            uses: 0,
            last_is_histogram: is_histogram,
        };
        let local = if let Some(local) = self.free.pop() {
            entry.generation = self.entries[local as usize].generation;
            self.entries[local as usize] = entry;
            local
        } else {
            super::reserve_tight(&mut self.entries, 1);
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        };
        let entries = &self.entries;
        self.by_hash.insert_unique(hash[0], local, |&local| entries[local as usize].hash[0]);
        Ok(local)
    }

    /// Asks for the memory of the entry in a slot.
    #[inline]
    pub(super) fn prefetch(&self, local: u32) {
        if let Some(entry) = self.entries.get(local as usize) {
            // It may lie across two cache lines.
            prefetch(entry);
            prefetch(&entry.generation);
        }
    }

    /// The entry of a handle, if it is still valid.
    pub fn get(&self, local: u32, generation: u32) -> Option<&Entry> {
        self.entries.get(local as usize).filter(|entry| entry.generation == generation)
    }

    /// The entry of a slot in use.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn entry_mut(&mut self, local: u32) -> &mut Entry {
        &mut self.entries[local as usize]
    }

    /// Name and value numbers of a slot in use, sorted by name.
    pub fn labels(&self, local: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let entry = &self.entries[local as usize];
        let mut symbols = symbols_of(self.labels.get(entry.labels_at, entry.labels_len));
        std::iter::from_fn(move || Some((symbols.next()?, symbols.next()?)))
    }

    /// Rewrites the label sets once more than half of their bytes are of series that left.
    fn compact_labels(&mut self) {
        if !self.labels.is_wasteful() {
            return;
        }
        let mut bytes = Vec::with_capacity(self.labels.bytes.len() - self.labels.garbage_bytes);
        for entry in &mut self.entries {
            let at = bytes.len() as u32;
            bytes.extend_from_slice(self.labels.get(entry.labels_at, entry.labels_len));
            entry.labels_at = at;
        }
        self.labels = LabelArena { bytes, garbage_bytes: 0 };
    }
}

/// Label sets of a shard, back to back: symbol numbers as varints.
#[derive(Default)]
struct LabelArena {
    bytes: Vec<u8>,
    garbage_bytes: usize,
}

impl LabelArena {
    fn add(&mut self, symbols: &[u8]) -> Result<(u32, u32), InvalidLabels> {
        let full = InvalidLabels::Encoding("the label sets of a shard take more than 4 GiB");
        let at = u32::try_from(self.bytes.len()).map_err(|_| full.clone())?;
        let len = u32::try_from(symbols.len()).map_err(|_| full)?;
        super::reserve_tight(&mut self.bytes, symbols.len());
        self.bytes.extend_from_slice(symbols);
        Ok((at, len))
    }

    fn get(&self, at: u32, len: u32) -> &[u8] {
        if len == 0 { &[] } else { &self.bytes[at as usize..][..len as usize] }
    }

    fn release(&mut self, len: u32) {
        self.garbage_bytes += len as usize;
    }

    const fn is_wasteful(&self) -> bool {
        self.garbage_bytes > 1 << 16 && self.garbage_bytes * 2 > self.bytes.len()
    }
}

fn symbols_of(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let mut rest = Bytes(bytes);
    std::iter::from_fn(move || rest.varint_u32())
}

#[cfg(test)]
mod tests;
