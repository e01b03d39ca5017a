//! The store as the server sees it: open, append, read, delete, snapshot, close.
//!
//! A sample goes to the open tables and their log ([`crate::table`], [`crate::log`]). Frozen tables
//! become blocks (`seal`), blocks are merged (`compact`) and dropped (`retention`). Readers pin a
//! version (`version`). Every change of the set of blocks happens under one mutex.

mod ahead;
mod background;
pub mod ballast;
mod compact;
mod delete;
pub mod directory;
pub mod ids;
mod read;
pub mod recover;
mod retention;
mod seal;
mod status;
#[cfg(test)]
mod tests;
mod version;

use crate::block::merge::Interrupts;
use crate::block::quarantine::Quarantine;
use crate::cache::Caches;
use crate::error::{AppendError, StorageError, error_chain};
use crate::kv::keys::BlockId;
use crate::kv::pins::DropQueue;
use crate::kv::store::Store;
use crate::log::fs::{LogFs, RealFs};
use crate::log::syncer::Syncer;
use crate::metrics::{Cardinality, DbStatus, LostRange, StorageMetrics};
use crate::options::{Options, WalSync};
use crate::read::lease::Leases;
use crate::table::{TableSet, TableSetup};
use arc_swap::ArcSwap;
use background::Signal;
use ballast::Ballast;
use chronolith_model::append::{AppendBatch, AppendOutcome, Exemplar, Metadata};
use chronolith_model::changes::Changes;
use chronolith_model::queryable::{Queryable, ReadError, Snapshot};
use chronolith_model::{Labels, Matcher};
use compact::Compacted;
use directory::DataDirectory;
use ids::BlockIds;
use parking_lot::Mutex;
use recover::{Found, Recovery};
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use version::{Block, Version};

/// How long [`Db::close`] may take before it leaves the rest to the log.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// An open store. Dropping it without [`Db::close`] is safe: the next start replays the log.
pub struct Db {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
    reader_ahead: Mutex<Option<JoinHandle<()>>>,
    syncer: Option<Syncer>,
}

struct Inner {
    options: Options,
    // Before the directory, whose lock goes last.
    tables: Arc<TableSet>,
    version: ArcSwap<Version>,
    store: Arc<Store>,
    quarantine: Quarantine,
    ballast: Ballast,
    directory: DataDirectory,
    drops: Arc<DropQueue>,
    /// What is decoded of all blocks.
    caches: Arc<Caches>,
    /// What queries hold of blocks.
    leases: Arc<Leases>,
    lists: Arc<crate::read::lists::Lists>,
    ids: BlockIds,
    /// Held by whoever changes which blocks and deletions there are.
    commit: Mutex<()>,
    sealing: Mutex<()>,
    compacting: Mutex<()>,
    /// Blocks that are being merged.
    merging: Mutex<HashSet<BlockId>>,
    /// Results of merges that are in the database and not served yet.
    pending: Mutex<Vec<Arc<Block>>>,
    interrupts: Interrupts,
    /// For who keeps results of queries.
    changes: Changes,
    retention_time_ms: AtomicI64,
    retention_size_bytes: AtomicU64,
    unavailable: Mutex<Option<String>>,
    sealer: Signal,
    compactor: Signal,
    counters: status::Counters,
    open_duration: Duration,
    /// Damaged places met in the log when the store was opened.
    log_corruptions: u64,
}

impl Db {
    /// Opens the store at `path`, creating it if nothing is there. Damage does not keep it from
    /// opening: what cannot be read is moved to quarantine and reported by [`Db::status`].
    ///
    /// # Errors
    /// [`StorageError::Locked`] if another process has it, [`StorageError::Version`] if it is of another
    /// format, and what the environment refuses (permissions, a full disk).
    pub fn open(path: &Path, options: Options) -> Result<Self, StorageError> {
        Self::open_with(path, options, Arc::new(RealFs))
    }

    /// As [`Db::open`], with other file operations of the log.
    fn open_with(path: &Path, options: Options, log_fs: Arc<dyn LogFs>) -> Result<Self, StorageError> {
        let inner = Arc::new(Inner::open(path, options, log_fs)?);
        // A crash may have come between a merge and the end of its inputs.
        inner.reap();
        let threads = if inner.options.background {
            background::start(&inner).map_err(|error| StorageError::io("start threads for", path, error))?
        } else {
            Vec::new()
        };
        let is_grouped = inner.options.wal_sync == WalSync::Grouped && inner.options.background;
        let syncer = if is_grouped { Some(inner.tables.start_syncer()?) } else { None };
        Ok(Self { inner, threads, reader_ahead: Mutex::new(None), syncer })
    }

    /// Takes a batch. What the outcome counts as written is in the log; the batch is never rolled back.
    /// Blocks the thread for some microseconds, with [`WalSync::Always`] for a sync.
    ///
    /// # Errors
    /// [`AppendError`] if nothing of it was acknowledged. Sending it again is safe: samples that are
    /// there already count as written.
    pub fn append(&self, batch: &AppendBatch<'_>, want_refs: bool) -> Result<AppendOutcome, AppendError> {
        if self.inner.interrupts.is_stopped() {
            return Err(AppendError::Closed);
        }
        let result = self.inner.tables.append(batch, want_refs);
        // Also after a failure: some of it may have been written.
        if let Some(lowest) = batch.lowest_timestamp() {
            self.inner.changes.note(lowest);
        }
        self.inner.note_append(&result);
        result
    }

    /// Deletes the samples of `[mint, maxt]` (both inclusive) of series for which all matchers of any
    /// set hold. Durable and seen by every later read once it returns; later writes are not touched.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be recorded; nothing is deleted then.
    pub fn delete(&self, matcher_sets: &[Vec<Matcher>], mint: i64, maxt: i64) -> Result<(), StorageError> {
        let result = self.inner.delete(matcher_sets, mint, maxt);
        self.inner.changes.note(mint);
        result
    }

    /// Writes blocks with deletions anew, so that the space of what was deleted comes back.
    ///
    /// # Errors
    /// [`StorageError`] if a block cannot be read or written; nothing is lost then.
    pub fn clean_tombstones(&self) -> Result<(), StorageError> {
        self.inner.clean_tombstones()
    }

    /// Writes a copy of the store by hard links into `into`, which must not exist. It opens as a store
    /// of its own. With `skip_head` samples that are not in blocks yet are left out; otherwise they are
    /// sealed first.
    ///
    /// # Errors
    /// [`StorageError`] if they cannot be sealed or the copy not be written.
    pub fn snapshot(&self, into: &Path, skip_head: bool) -> Result<(), StorageError> {
        if !skip_head {
            self.inner.flush()?;
        }
        // No block goes or comes while links are made.
        let _commit = self.inner.commit.lock();
        directory::create_copy(into, |blocks| self.inner.store.checkpoint(blocks))
    }

    /// Exemplars of `[mint, maxt]` of series for which all matchers of any set hold, by labels, then by
    /// time.
    ///
    /// # Errors
    /// [`StorageError`] if they cannot be read.
    pub fn exemplars(
        &self,
        matcher_sets: &[Vec<Matcher>],
        mint: i64,
        maxt: i64,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, StorageError> {
        self.inner.exemplars(matcher_sets, mint, maxt)
    }

    /// Metadata by metric family, of all or of one; the newest first.
    pub fn metadata(&self, metric: Option<&str>) -> Vec<(String, Vec<Metadata>)> {
        self.inner.metadata(metric)
    }

    /// The state of the store.
    pub fn status(&self) -> DbStatus {
        self.inner.status()
    }

    /// Where the series in memory are; at most `limit` entries a list. Walks all series in memory.
    ///
    /// # Errors
    /// [`ReadError`] if they cannot be read.
    pub fn cardinality(&self, limit: usize) -> Result<Cardinality, ReadError> {
        self.inner.cardinality(limit)
    }

    /// What the store counts.
    pub fn metrics(&self) -> StorageMetrics {
        self.inner.metrics()
    }

    /// Sets the limits of retention; 0 means none. They are enforced within a minute.
    pub fn set_retention(&self, time_ms: i64, size_bytes: u64) {
        self.inner.retention_time_ms.store(time_ms, Ordering::Relaxed);
        self.inner.retention_size_bytes.store(size_bytes, Ordering::Relaxed);
        self.inner.tables.set_retention(time_ms);
    }

    /// Drops what retention no longer keeps, now. The store does so by itself each minute.
    pub fn enforce_retention(&self) {
        self.inner.enforce_retention();
    }

    /// Merges blocks until no merge is due. The store does so by itself.
    ///
    /// # Errors
    /// [`StorageError`] if a merge fails; its inputs stay.
    pub fn compact(&self) -> Result<(), StorageError> {
        while self.inner.compact_once()? != Compacted::Nothing {}
        Ok(())
    }

    /// Begins to read the newest data ahead, in a thread of its own that ends with the store, and does `then` when it
    /// has come to its end. Nothing at all if [`Options::read_ahead_bytes`] is 0.
    pub fn start_read_ahead(&self, then: impl FnOnce() + Send + 'static) {
        let mut running = self.reader_ahead.lock();
        if self.inner.options.read_ahead_bytes == 0 || running.is_some() {
            return;
        }
        match ahead::start(&self.inner, then) {
            Ok(thread) => *running = Some(thread),
            Err(error) => tracing::warn!(%error, "cannot start a thread that reads ahead"),
        }
    }

    /// Reads the newest data into the caches, as far as [`Options::read_ahead_bytes`] allows; returns the bytes of
    /// index records and of tiles.
    pub fn read_ahead(&self) -> (usize, usize) {
        self.inner.read_ahead()
    }

    /// Freezes the tables that are due and seals them; recovers a broken log. The store does so by
    /// itself each second. False if it has to be tried again.
    pub fn tick(&self) -> bool {
        self.inner.seal_due()
    }

    /// Freezes and seals everything that is in memory.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be written; it stays in memory and in the log.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.inner.flush()
    }

    /// Stops taking in, seals what is worth it, syncs the rest of the log and closes; at most 10 s. What
    /// is not sealed by then is in the log.
    ///
    /// # Errors
    /// [`StorageError`] if the log cannot be synced.
    pub fn close(mut self) -> Result<(), StorageError> {
        let deadline = Instant::now() + CLOSE_WITHIN;
        self.stop_threads();
        let closed = self.inner.tables.close();
        let stats = self.inner.tables.stats();
        if stats.n_samples > self.inner.options.seal_on_close_samples || closed.is_err() {
            self.seal_until(deadline);
        }
        self.inner.reap();
        // A log that could not be synced matters no more once everything is in blocks.
        if self.inner.tables.stats().n_samples == 0 { Ok(()) } else { closed }
    }

    /// Seals in a thread of its own, which is left behind if it does not end in time: sealing is atomic
    /// and the log is complete, so the end of the process may come at any point.
    fn seal_until(&self, deadline: Instant) {
        let inner = Arc::clone(&self.inner);
        let (done, wait) = std::sync::mpsc::channel();
        let spawned = std::thread::Builder::new().name("last-seal".to_owned()).spawn(move || {
            let result = inner.flush();
            drop(inner);
            let _ = done.send(result);
        });
        let left = deadline.saturating_duration_since(Instant::now());
        match spawned.map(|_| wait.recv_timeout(left)) {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(error = error_chain(&error), "could not seal at the end, the log is kept");
            }
            Ok(Err(_)) => tracing::warn!("sealing at the end took too long, the log is kept"),
            Err(error) => tracing::warn!(%error, "could not seal at the end, the log is kept"),
        }
    }

    fn stop_threads(&mut self) {
        background::shut_down(&self.inner);
        for thread in self.threads.drain(..).chain(self.reader_ahead.get_mut().take()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        if let Some(syncer) = self.syncer.take() {
            syncer.stop();
        }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

impl Queryable for Db {
    fn pin(&self) -> Result<Arc<dyn Snapshot>, ReadError> {
        self.inner.pin()
    }

    fn version(&self) -> Option<u64> {
        Some(self.inner.changes.version())
    }

    fn unchanged_since(&self, version: u64) -> Range<i64> {
        let changes = &self.inner.changes;
        changes.gone_below()..changes.lowest_since(version)
    }
}

impl Inner {
    fn open(path: &Path, options: Options, log_fs: Arc<dyn LogFs>) -> Result<Self, StorageError> {
        let begun = Instant::now();
        let directory = DataDirectory::open(path)?;
        let quarantine = Quarantine::open(directory.quarantine());
        let ballast = Ballast::new(directory.ballast(), options.ballast_bytes);
        let recovery = Recovery {
            directory: &directory,
            quarantine: &quarantine,
            ballast: &ballast,
            cache_bytes: options.block_cache_bytes(),
            clock: &*options.clock,
        };
        let found = recovery.open()?;
        let drops = Arc::new(DropQueue::default());
        let caches = Arc::new(Caches::new(options.tile_cache_bytes(), options.series_cache_bytes()));
        let blocks = open_blocks(&recovery, &found, &drops, &caches);
        let headers = || blocks.iter().map(|block| &block.header);
        let covered: Vec<u64> = headers().flat_map(|header| header.tables.iter().copied()).collect();
        let tables = TableSet::create(TableSetup {
            options: options.clone(),
            log_dir: directory.log(),
            fs: log_fs,
            secret: directory.secret(),
            next_number: headers().map(|header| header.seq_max + 1).max().unwrap_or(1),
            newest: headers().map(|header| header.maxt).max(),
        });
        ballast.take();
        let mut inner = Self {
            tables,
            version: ArcSwap::from_pointee(Version::new(blocks)),
            ids: BlockIds::after(found.greatest_id),
            store: found.store,
            quarantine,
            ballast,
            directory,
            drops,
            caches,
            leases: Arc::default(),
            lists: Arc::default(),
            commit: Mutex::new(()),
            sealing: Mutex::new(()),
            compacting: Mutex::new(()),
            merging: Mutex::default(),
            pending: Mutex::default(),
            interrupts: Interrupts::default(),
            changes: Changes::default(),
            retention_time_ms: AtomicI64::new(options.retention_time_ms),
            retention_size_bytes: AtomicU64::new(options.retention_size_bytes),
            unavailable: Mutex::new(None),
            sealer: Signal::default(),
            compactor: Signal::default(),
            counters: status::Counters::default(),
            open_duration: Duration::ZERO,
            log_corruptions: 0,
            options,
        };
        inner.replay(&covered)?;
        inner.open_duration = begun.elapsed();
        Ok(inner)
    }

    /// Replays the log; what does not fit into memory is sealed meanwhile.
    fn replay(&mut self, covered: &[u64]) -> Result<(), StorageError> {
        let report = self.tables.replay(covered, &mut || {
            if let Err(error) = self.seal_replayed() {
                let error = error_chain(&error);
                tracing::error!(
                    error,
                    "cannot seal while the log is replayed, it takes more memory than it should"
                );
            }
        })?;
        self.log_corruptions = report.quarantined.len() as u64;
        for damage in report.quarantined {
            self.quarantine.report(LostRange {
                what: format!("log {} from byte {} to {}", damage.path.display(), damage.from, damage.to),
                range: damage.window,
                reason: damage.reason,
                kept_at: None,
                found_at: self.options.clock.now_ms(),
            });
        }
        Ok(())
    }

    fn note_append(&self, result: &Result<AppendOutcome, AppendError>) {
        match result {
            Ok(_) | Err(AppendError::Closed) => {}
            Err(AppendError::Unavailable { reason, .. }) => {
                self.unavailable.lock().get_or_insert_with(|| reason.clone());
                self.sealer.set();
            }
        }
    }
}

/// Opens the blocks that were found, and has those dropped that a merge replaced.
fn open_blocks(
    recovery: &Recovery<'_>,
    found: &Found,
    drops: &Arc<DropQueue>,
    caches: &Arc<Caches>,
) -> Vec<Arc<Block>> {
    let mut blocks: Vec<Arc<Block>> = Vec::new();
    let quarantine = |id: BlockId, range: (i64, i64), reason: &str, is_lost: bool| {
        let files = found.store.blocks().unwrap_or_default().remove(&Some(id)).unwrap_or_default();
        recovery.quarantine_block(&found.store, id, &files, Some(range), reason, is_lost);
    };
    for block in found.blocks.values() {
        match Block::open(&found.store, drops, caches, Arc::clone(&block.header), block.size_bytes) {
            Ok(block) => blocks.push(Arc::new(block)),
            Err(error) => {
                let range = (block.header.mint, block.header.maxt);
                quarantine(block.header.block_id(), range, &error_chain(&error), true);
            }
        }
    }
    let mut replaced = BTreeSet::new();
    let mut unusable = BTreeSet::new();
    // Ascending ids: a merge of a merge comes after its input.
    for block in &blocks {
        let parents = block.header.parents.iter().map(|&id| BlockId(id));
        let present: Vec<BlockId> = parents.filter(|id| found.blocks.contains_key(id)).collect();
        if present.is_empty() {
            continue;
        }
        // It was ingested, and the end came before it was verified or its inputs were dropped.
        match block
            .bulk_part(&found.store)
            .and_then(|part| compact::verify(&part.without_tombstones(), &block.header, &|| Ok(())))
        {
            Ok(()) => {
                tracing::info!(block = %block.id(), n_inputs = present.len(), "a merge is finished, its inputs go");
                replaced.extend(present);
            }
            Err(error) => {
                unusable.insert(block.id());
                let range = (block.header.mint, block.header.maxt);
                quarantine(block.id(), range, &error_chain(&error), false);
            }
        }
    }
    blocks.retain(|block| {
        if replaced.contains(&block.id()) {
            block.doom();
        }
        !replaced.contains(&block.id()) && !unusable.contains(&block.id())
    });
    blocks
}
