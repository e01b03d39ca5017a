//! One table: its shards, its log, and the gate through which appends go in.

use super::registry::Registry;
use super::shard::TableShard;
use crate::lock::RwLock;
use crate::log::writer::{Drain, TableLog};
use crate::options::Clock;
use crate::part::Precedence;
use chronolith_model::append::Metadata;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// Descriptions of one metric family that are kept: targets may differ, but not without end.
const MAX_METADATA_PER_FAMILY: usize = 8;
/// Metric families that a table keeps metadata of.
const MAX_FAMILIES: usize = 1 << 20;

/// Metadata by metric family.
pub type MetadataMap = BTreeMap<String, Vec<Metadata>>;

/// A table, open or frozen: a frozen one takes no more appends and is otherwise the same.
pub struct Table {
    /// Names its log directory; never given out twice.
    pub number: u64,
    /// Start of its window; `None` for late samples.
    pub window: Option<i64>,
    pub(super) registry: Arc<Registry>,
    pub(super) shards: Box<[RwLock<TableShard>]>,
    pub(super) log: TableLog,
    pub(super) gate: Gate,
    /// Its place among frozen tables and blocks, once frozen.
    seq: OnceLock<u64>,
    clock: Arc<dyn Clock>,
    n_samples: AtomicU64,
    n_series: AtomicUsize,
    size_bytes: AtomicUsize,
    mint: AtomicI64,
    maxt: AtomicI64,
    pub(super) last_append_ms: AtomicI64,
    metadata: Mutex<MetadataMap>,
    new_metadata: Mutex<Vec<(String, Metadata)>>,
    /// Series in block order as (shard, number), once somebody needed it after the freeze.
    pub(super) order: OnceLock<Arc<Vec<(u32, u32)>>>,
}

impl Table {
    /// An empty table over a log.
    pub fn new(
        number: u64,
        window: Option<i64>,
        registry: Arc<Registry>,
        log: TableLog,
        clock: Arc<dyn Clock>,
        max_exemplars: usize,
    ) -> Self {
        let n_shards = registry.n_shards();
        let shards = (0..n_shards).map(|_| RwLock::new(TableShard::new(max_exemplars.div_ceil(n_shards))));
        Self {
            number,
            window,
            registry,
            shards: shards.collect(),
            log,
            gate: Gate::default(),
            seq: OnceLock::new(),
            last_append_ms: AtomicI64::new(clock.now_ms()),
            clock,
            n_samples: AtomicU64::new(0),
            n_series: AtomicUsize::new(0),
            size_bytes: AtomicUsize::new(0),
            mint: AtomicI64::new(i64::MAX),
            maxt: AtomicI64::new(i64::MIN),
            metadata: Mutex::default(),
            new_metadata: Mutex::default(),
            order: OnceLock::new(),
        }
    }

    /// The place of the table among all parts: frozen ones by their number, open ones behind.
    pub fn precedence(&self) -> Precedence {
        self.seq.get().copied().unwrap_or(Precedence::MAX)
    }

    /// The number it was frozen with.
    pub fn seq(&self) -> Option<u64> {
        self.seq.get().copied()
    }

    /// Freezes the table: appends that are in it may finish, others find it closed.
    pub(super) fn freeze(&self, seq: u64) {
        if self.seq.set(seq).is_ok() {
            self.log.mark_frozen(seq);
        }
        self.gate.close();
    }

    /// As [`Table::freeze`], for a table that was marked before the process began.
    pub(super) fn freeze_as_marked(&self, seq: u64) {
        let _already_set = self.seq.set(seq);
        self.gate.close();
    }

    /// Samples in the table.
    pub fn n_samples(&self) -> u64 {
        self.n_samples.load(Ordering::Relaxed)
    }

    /// Series in the table.
    pub fn n_series(&self) -> usize {
        self.n_series.load(Ordering::Relaxed)
    }

    /// Estimated heap size.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// First and last timestamp, `None` without samples.
    pub fn time_range(&self) -> Option<(i64, i64)> {
        let (mint, maxt) = (self.mint.load(Ordering::Acquire), self.maxt.load(Ordering::Acquire));
        (mint <= maxt).then_some((mint, maxt))
    }

    /// Adds what a change of a shard did to the totals.
    pub(super) fn account(&self, before: ShardTotals, shard: &TableShard) {
        let after = ShardTotals::of(shard);
        self.n_samples.fetch_add(after.n_samples - before.n_samples, Ordering::Relaxed);
        self.n_series.fetch_add(after.n_series - before.n_series, Ordering::Relaxed);
        self.size_bytes.fetch_add(after.size_bytes.wrapping_sub(before.size_bytes), Ordering::Relaxed);
        if let Some((mint, maxt)) = shard.whole_range() {
            self.mint.fetch_min(mint, Ordering::AcqRel);
            self.maxt.fetch_max(maxt, Ordering::AcqRel);
        }
    }

    /// Notes metadata; what is new in this table goes to the log with the next flush.
    pub(super) fn add_metadata<'a>(&self, entries: impl Iterator<Item = (&'a str, &'a Metadata)>) {
        let mut map = self.metadata.lock();
        for (name, metadata) in entries {
            if add_metadata(&mut map, name, metadata) {
                self.new_metadata.lock().push((name.to_owned(), metadata.clone()));
            }
        }
    }

    /// Takes metadata from the log.
    pub(super) fn replay_metadata(&self, name: &str, metadata: &Metadata) {
        add_metadata(&mut self.metadata.lock(), name, metadata);
    }

    /// All metadata.
    pub fn metadata(&self) -> MetadataMap {
        self.metadata.lock().clone()
    }

    /// Writes what shards hold to the log, or waits until it is written.
    ///
    /// # Errors
    /// As [`TableLog::flush`].
    pub(super) fn flush(&self) -> Result<u64, crate::StorageError> {
        self.log.flush(self)
    }
}

/// Adds metadata unless it is there or there is no room; whether it was added.
pub(super) fn add_metadata(map: &mut MetadataMap, name: &str, metadata: &Metadata) -> bool {
    if let Some(all) = map.get_mut(name) {
        let is_new = !all.contains(metadata) && all.len() < MAX_METADATA_PER_FAMILY;
        if is_new {
            all.push(metadata.clone());
        }
        return is_new;
    }
    let has_room = map.len() < MAX_FAMILIES;
    if has_room {
        map.insert(name.to_owned(), vec![metadata.clone()]);
    }
    has_room
}

impl Drain for Table {
    fn drain(&self, last_of_segment: bool, definitions: &mut Vec<u8>, sections: &mut Vec<u8>) {
        for (index, shard) in self.shards.iter().enumerate() {
            shard.write().drain(index as u16, last_of_segment, definitions, sections);
        }
        let metadata = std::mem::take(&mut *self.new_metadata.lock());
        let entries = metadata.iter().map(|(name, metadata)| (name.as_str(), metadata));
        crate::log::record::put_metadata(entries, sections);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let now_ms = self.clock.now_ms();
        for (index, shard) in self.shards.iter_mut().enumerate() {
            let slots: Vec<u32> = shard.get_mut().series().iter().map(|series| series.slot).collect();
            self.registry.release(index, &slots, now_ms);
        }
    }
}

/// What of a shard counts in the totals of its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardTotals {
    n_samples: u64,
    n_series: usize,
    size_bytes: usize,
}

impl ShardTotals {
    /// Those of a shard now.
    pub(super) fn of(shard: &TableShard) -> Self {
        Self { n_samples: shard.n_samples(), n_series: shard.series().len(), size_bytes: shard.size_bytes() }
    }
}

/// Counts who is in, and closes. Closing never waits; whoever needs the table empty waits for it.
#[derive(Default)]
pub(super) struct Gate {
    state: AtomicUsize,
    lock: Mutex<()>,
    emptied: Condvar,
}

/// Set once the gate is closed; the rest counts who is in.
const CLOSED: usize = 1 << (usize::BITS - 1);

impl Gate {
    /// Goes in, unless the gate is closed.
    pub(super) fn enter(&self) -> bool {
        let before = self.state.fetch_add(1, Ordering::AcqRel);
        if before & CLOSED == 0 {
            return true;
        }
        self.leave();
        false
    }

    /// Goes out.
    pub(super) fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        if before == CLOSED + 1 {
            // Under the lock, or a waiter could miss it between its look and its sleep.
            let _guard = self.lock.lock();
            self.emptied.notify_all();
        }
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether the gate is closed and nobody is in.
    pub(super) fn is_drained(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// Waits until nobody is in. The gate is closed.
    pub(super) fn wait_drained(&self) {
        let mut guard = self.lock.lock();
        while !self.is_drained() {
            self.emptied.wait(&mut guard);
        }
    }
}
