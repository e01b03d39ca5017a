//! The open tables: where samples live until they are sealed into blocks.
//!
//! A [`TableSet`] holds at most three open tables, for the two newest windows and for everything
//! older, and those that are frozen and wait for their seal. Series are shared by all of them in the
//! [`registry`]. Everything acknowledged is in the log of its table (see [`crate::log`]); the set is
//! rebuilt from there when it is opened.
//!
//! Locks, in the order in which one thread takes them: structure, flush lock of a log, shard of the
//! registry, shard of a table, interner. None but the flush lock is held over file operations of the
//! append path, and nothing that holds it waits for a sync.

pub mod append;
mod carry;
pub mod columns;
pub mod exemplars;
pub mod index;
pub mod late;
pub mod numbers;
pub mod open;
pub mod order;
pub mod read;
pub mod registry;
pub mod replay;
pub mod runs;
pub mod set;
pub mod shard;
pub mod source;

use crate::error::StorageError;
use crate::log::fs::LogFs;
use crate::log::syncer::Syncer;
use crate::log::writer::{Broken, LogContext, SEGMENT_BYTES};
use crate::metrics::{Counter, DurationRecorder, Durations};
use crate::options::Options;
use arc_swap::ArcSwap;
use chronolith_model::append::AppendOutcome;
use open::MetadataMap;
use order::{Ranks, Watched};
use parking_lot::Mutex;
use registry::Registry;
use registry::identity::LabelLimits;
use replay::replay;
use set::Tables;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

pub use open::Table;
pub use replay::{LogDamage, ReplayReport};
pub use source::{FrozenTable, TableSource};

/// What a set of tables is opened with.
pub struct TableSetup {
    /// Limits, clock, progress.
    pub options: Options,
    /// Folder of the log; made if it is not there.
    pub log_dir: PathBuf,
    /// How files are reached.
    pub fs: Arc<dyn LogFs>,
    /// Hash key of the data directory.
    pub secret: [u8; 32],
    /// Above every table number and every seq that a block names. Both are drawn from one counter.
    pub next_number: u64,
    /// The newest timestamp in blocks.
    pub newest: Option<i64>,
}

/// The open and frozen tables of a store.
pub struct TableSet {
    options: Options,
    registry: Arc<Registry>,
    log: Arc<LogContext>,
    tables: ArcSwap<Tables>,
    /// Held while `tables` is replaced. Appends take it only when a table is missing or behind; files
    /// are created under it (the log of a new table, the mark of a frozen one), and nothing is synced.
    structure: Mutex<()>,
    next_number: AtomicU64,
    closed: AtomicBool,
    /// Which tables will be open is not known yet.
    replaying: AtomicBool,
    retention_ms: AtomicI64,
    newest: AtomicI64,
    /// Positions of series in block order.
    ranks: ArcSwap<Ranks>,
    watched: Mutex<Watched>,
    /// Tables in blocks whose logs stay until what is not in blocks has moved on.
    waiting: Mutex<Vec<Arc<Table>>>,
    /// Metadata of tables that are sealed.
    known_metadata: Mutex<MetadataMap>,
    counters: AppendCounters,
    n_unavailable: Counter,
    n_frozen: Counter,
}

#[derive(Default)]
struct AppendCounters {
    samples: Counter,
    histograms: Counter,
    exemplars: Counter,
    out_of_order: Counter,
    refused: Counter,
    refused_duplicate: Counter,
    refused_too_old: Counter,
    refused_too_new: Counter,
    refused_labels: Counter,
}

impl AppendCounters {
    fn add(&self, outcome: &AppendOutcome) {
        self.samples.add(outcome.samples_written);
        self.histograms.add(outcome.histograms_written);
        self.exemplars.add(outcome.exemplars_written);
        self.out_of_order.add(outcome.out_of_order);
        self.refused.add(outcome.refused);
        self.refused_duplicate.add(outcome.refused_duplicate);
        self.refused_too_old.add(outcome.refused_too_old);
        self.refused_too_new.add(outcome.refused_too_new);
        self.refused_labels.add(outcome.refused_labels);
    }

    fn fill(&self, stats: &mut TableStats) {
        stats.samples_appended = self.samples.get();
        stats.histograms_appended = self.histograms.get();
        stats.exemplars_appended = self.exemplars.get();
        stats.out_of_order = self.out_of_order.get();
        stats.refused = self.refused.get();
        stats.refused_duplicate = self.refused_duplicate.get();
        stats.refused_too_old = self.refused_too_old.get();
        stats.refused_too_new = self.refused_too_new.get();
        stats.refused_labels = self.refused_labels.get();
    }
}

/// State and counters of a set of tables.
#[derive(Clone, Debug, Default)]
pub struct TableStats {
    /// Floats taken into the log, identical repetitions included. So for the two that follow.
    pub samples_appended: u64,
    /// Histograms.
    pub histograms_appended: u64,
    /// Exemplars.
    pub exemplars_appended: u64,
    /// Samples older than the newest of their series.
    pub out_of_order: u64,
    /// All that was refused.
    pub refused: u64,
    /// Another value was there.
    pub refused_duplicate: u64,
    /// Older than retention.
    pub refused_too_old: u64,
    /// Ahead of the clock, or out of range.
    pub refused_too_new: u64,
    /// Series whose labels were refused.
    pub refused_labels: u64,
    /// Batches turned away.
    pub unavailable: u64,
    /// Series created.
    pub series_created: u64,
    /// Series that left memory.
    pub series_removed: u64,
    /// Series in memory.
    pub n_series: u64,
    /// Bytes of the registry.
    pub registry_bytes: u64,
    /// Samples in open and frozen tables; so for all that follow.
    pub n_samples: u64,
    /// Exemplars.
    pub n_exemplars: u64,
    /// Open chunks: series, counted in each table.
    pub n_chunks: u64,
    /// Label pairs, counted in each shard of each table.
    pub n_label_pairs: u64,
    /// Estimated bytes.
    pub tables_bytes: u64,
    /// First timestamp.
    pub mint: Option<i64>,
    /// Last timestamp.
    pub maxt: Option<i64>,
    /// Tables frozen so far.
    pub tables_frozen: u64,
    /// Bytes written to the log so far.
    pub log_bytes_written: u64,
    /// Bytes of the log on disk.
    pub log_size_bytes: u64,
    /// Failed file operations of the log.
    pub log_failures: u64,
    /// How long syncs took.
    pub sync_durations: Durations,
}

/// Makes room for `count` more in a vector that grows with the series: a long one by an eighth, since the
/// half that doubling leaves empty is memory of each series.
fn reserve_tight<T>(all: &mut Vec<T>, count: usize) {
    const LONG: usize = 1024;
    if all.len() >= LONG && all.capacity() - all.len() < count {
        all.reserve_exact(count.max(all.len() / 8));
    }
}

impl TableSet {
    /// Opens the set: replays the logs but those in `covered`, which are in blocks and go, and goes on
    /// where they end.
    ///
    /// # Errors
    /// [`StorageError`] if the folder cannot be used. Damaged logs are no error: the report names what
    /// was dropped.
    pub fn open(setup: TableSetup, covered: &[u64]) -> Result<(Arc<Self>, ReplayReport), StorageError> {
        let set = Self::create(setup);
        let report = set.replay(covered, &mut || {})?;
        Ok((set, report))
    }

    /// A set whose logs are still to be replayed, by [`TableSet::replay`] and before anything else.
    pub fn create(setup: TableSetup) -> Arc<Self> {
        Self::create_with(setup, SEGMENT_BYTES)
    }

    /// Replays the logs but those in `covered`, which are in blocks and go. `relieve` is called when what was read takes more than the
    /// share of the open tables: it should seal [`TableSet::frozen`]. What it cannot seal stays in memory.
    ///
    /// # Errors
    /// As [`TableSet::open`].
    pub fn replay(&self, covered: &[u64], relieve: &mut dyn FnMut()) -> Result<ReplayReport, StorageError> {
        self.replaying.store(true, Ordering::Release);
        let result = replay(self, covered, relieve);
        self.replaying.store(false, Ordering::Release);
        result
    }

    /// As [`TableSet::create`], with segments of another length.
    fn create_with(setup: TableSetup, segment_bytes: u64) -> Arc<Self> {
        let TableSetup { options, log_dir, fs, secret, next_number, newest } = setup;
        let limits = LabelLimits {
            max_labels: options.max_labels_per_series,
            max_name_bytes: options.max_label_name_bytes,
            max_value_bytes: options.max_label_value_bytes,
        };
        let log = Arc::new(LogContext {
            fs,
            dir: log_dir,
            broken: Broken::default(),
            bytes_written: Counter::default(),
            failures: Counter::default(),
            sync_durations: DurationRecorder::default(),
            segment_bytes,
        });
        let registry = Arc::new(Registry::new(&secret, options.n_shards(), limits));
        Arc::new(Self {
            retention_ms: AtomicI64::new(options.retention_time_ms),
            newest: AtomicI64::new(newest.unwrap_or(i64::MIN)),
            next_number: AtomicU64::new(next_number),
            options,
            registry,
            log,
            tables: ArcSwap::default(),
            structure: Mutex::default(),
            closed: AtomicBool::new(false),
            replaying: AtomicBool::new(false),
            ranks: ArcSwap::default(),
            watched: Mutex::default(),
            waiting: Mutex::default(),
            known_metadata: Mutex::default(),
            counters: AppendCounters::default(),
            n_unavailable: Counter::default(),
            n_frozen: Counter::default(),
        })
    }

    /// Starts the thread that syncs the logs.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the system has no more threads.
    pub fn start_syncer(self: &Arc<Self>) -> Result<Syncer, StorageError> {
        let window = std::time::Duration::from_millis(self.options.wal_sync_window_ms);
        let fail = |source| StorageError::Io {
            operation: "start the thread that syncs",
            path: self.log.dir.clone(),
            source,
        };
        Syncer::start(Arc::clone(self), window).map_err(fail)
    }

    /// Makes everything written to the logs durable.
    ///
    /// # Errors
    /// [`StorageError::Io`] if a sync failed; the log is broken then.
    pub fn sync_now(&self) -> Result<(), StorageError> {
        if self.log.broken.is_set() {
            return Ok(());
        }
        self.all_tables().iter().try_for_each(|table| table.log.sync())
    }

    /// Has the system begin to write back what the logs have grown by.
    pub fn start_writeback(&self) {
        self.all_tables().iter().for_each(|table| table.log.start_writeback());
    }

    /// Refuses appends from now on, waits for those that run, and syncs the logs.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the log cannot be synced.
    pub fn close(&self) -> Result<(), StorageError> {
        self.closed.store(true, Ordering::Release);
        let tables = self.all_tables();
        tables.iter().for_each(|table| {
            table.gate.close();
            table.gate.wait_drained();
        });
        self.sync_now()
    }
}

#[cfg(test)]
mod tests;
