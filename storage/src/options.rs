//! Options of the store, the clock it reads and the progress it shows while it opens. Limits have
//! their defaults here, each with its reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Two hours: the length of a window of time unless a test sets another.
pub const DEFAULT_WINDOW_MS: i64 = 7_200_000;

/// Prometheus's default retention, 15 days.
pub const DEFAULT_RETENTION_MS: i64 = 15 * 24 * 3_600_000;

/// 32 MB: half a day of 50,000 series that are like those of recorded exporters.
pub const DEFAULT_READ_AHEAD_BYTES: usize = 64 << 20;

/// The longest block, 31 days: longer ones return their space late and gain nothing in size.
pub const MAX_BLOCK_MS: i64 = 31 * 24 * 3_600_000;

/// How the store is opened and bounded.
#[derive(Clone)]
pub struct Options {
    /// Samples older than the newest one minus this are dropped, block by block; 0 keeps all.
    pub retention_time_ms: i64,
    /// The oldest blocks are dropped while the store is larger; 0 sets no limit.
    pub retention_size_bytes: u64,
    /// What open tables, frozen tables and caches may take together. A share of it, stated in
    /// [`Options::block_cache_bytes`], is RocksDB's block cache, others, stated in [`Options::tile_cache_bytes`]
    /// and [`Options::series_cache_bytes`], those of opened tiles and of series.
    pub memory_budget_bytes: usize,
    /// When an append is acknowledged.
    pub wal_sync: WalSync,
    /// The longest time between two syncs of the log with [`WalSync::Grouped`]: what a power loss may
    /// take.
    pub wal_sync_window_ms: u64,
    /// Samples further ahead of the clock are refused.
    pub max_ahead_ms: i64,
    /// Series with more labels are refused.
    pub max_labels_per_series: usize,
    /// Series with a longer label name are refused.
    pub max_label_name_bytes: usize,
    /// Series with a longer label value are refused.
    pub max_label_value_bytes: usize,
    /// Exemplars kept in memory, and so per table; 0 stores none.
    pub max_exemplars: usize,
    /// Shards of the open tables; 0 means the next power of two of twice the cores.
    pub shards: usize,
    /// Length of a window of time. The blocks on disk must have been written with the same length or
    /// a divisor of it.
    pub window_ms: i64,
    /// A table is frozen when it holds so many samples, or 120 for each of its series if that is more. At the end of
    /// its window it takes up to an eighth more.
    pub table_samples: u64,
    /// A table without appends for so long is frozen.
    pub idle_freeze_ms: i64,
    /// A clean stop seals tables that hold more samples together; fewer stay in the log.
    pub seal_on_close_samples: u64,
    /// Whether sealing, compaction and retention run by themselves. Tests switch this off and ask for
    /// each.
    pub background: bool,
    /// Space that is set aside so that a full disk can still seal; `None` means a hundredth of the file
    /// system, at least 64 MB and at most 256 MB, but never more than a quarter of what is free.
    pub ballast_bytes: Option<u64>,
    /// What is read of the newest blocks after a start, before anybody asks for it; at most half of the caches
    /// that it is read into. 0 reads nothing.
    pub read_ahead_bytes: usize,
    /// Threads that replay the log; 0 means one per core.
    pub threads: usize,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Told how far opening has come.
    pub progress: Arc<ReplayProgress>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention_time_ms: DEFAULT_RETENTION_MS,
            retention_size_bytes: 0,
            memory_budget_bytes: 1 << 30,
            wal_sync: WalSync::Grouped,
            wal_sync_window_ms: 1000,
            max_ahead_ms: 600_000,
            max_labels_per_series: 128,
            max_label_name_bytes: 1024,
            max_label_value_bytes: 16 << 10,
            max_exemplars: 100_000,
            shards: 0,
            window_ms: DEFAULT_WINDOW_MS,
            table_samples: 12_000_000,
            idle_freeze_ms: 600_000,
            seal_on_close_samples: 2_000_000,
            background: true,
            ballast_bytes: None,
            read_ahead_bytes: DEFAULT_READ_AHEAD_BYTES,
            threads: 0,
            clock: Arc::new(SystemClock),
            progress: Arc::default(),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("retention_time_ms", &self.retention_time_ms)
            .field("retention_size_bytes", &self.retention_size_bytes)
            .field("memory_budget_bytes", &self.memory_budget_bytes)
            .field("wal_sync", &self.wal_sync)
            .field("window_ms", &self.window_ms)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// The shards to use: a power of two.
    pub fn n_shards(&self) -> usize {
        match self.shards {
            0 => (2 * cores()).next_power_of_two().min(64),
            n => n.next_power_of_two(),
        }
    }

    /// The threads to replay with.
    pub fn n_threads(&self) -> usize {
        match self.threads {
            0 => cores(),
            n => n,
        }
    }

    /// RocksDB's block cache, which is for indexes of files and of blocks: a 32nd of the budget, at least 8 MB.
    pub fn block_cache_bytes(&self) -> usize {
        (self.memory_budget_bytes / 32).max(8 << 20)
    }

    /// Opened tiles that are kept for queries to come: a sixteenth of the budget, at least 4 MB.
    pub fn tile_cache_bytes(&self) -> usize {
        (self.memory_budget_bytes / 16).max(4 << 20)
    }

    /// Series of blocks with their labels as numbers, for queries to come: a 32nd of the budget, at least 2 MB.
    pub fn series_cache_bytes(&self) -> usize {
        (self.memory_budget_bytes / 32).max(2 << 20)
    }

    /// What the open tables may take together before one of them is frozen: half of the budget. The
    /// rest is for frozen tables on their way to disk, caches and queries.
    pub fn tables_bytes(&self) -> usize {
        self.memory_budget_bytes / 2
    }

    /// The longest block that compaction makes: a tenth of retention, so that dropping whole blocks
    /// keeps at most a tenth too much, and at most [`MAX_BLOCK_MS`].
    pub fn max_block_ms(&self, retention_time_ms: i64) -> i64 {
        let tenth = if retention_time_ms > 0 { retention_time_ms / 10 } else { MAX_BLOCK_MS };
        tenth.clamp(self.window_ms, MAX_BLOCK_MS.max(self.window_ms))
    }

    /// The start of the window that holds `timestamp`; the window is `window_ms` long.
    pub fn window_start(&self, timestamp: i64) -> i64 {
        timestamp.div_euclid(self.window_ms) * self.window_ms
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalSync {
    /// After its bytes were written to the log: it survives the end of the process, and after
    /// [`Options::wal_sync_window_ms`] a power loss too.
    #[default]
    Grouped,
    /// After its bytes were synced.
    Always,
}

/// Milliseconds since the epoch, from whoever knows.
pub trait Clock: Send + Sync {
    /// The time now. It may jump back; block ids do not follow.
    fn now_ms(&self) -> i64;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands until it is set: tests, and replays of recorded streams.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `now_ms`.
    pub fn new(now_ms: i64) -> Self {
        Self(AtomicI64::new(now_ms))
    }

    /// Sets the time.
    pub fn set(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// How far the replay of the log has come, in segments; read while the store opens.
#[derive(Debug, Default)]
pub struct ReplayProgress {
    /// Number of the first segment.
    pub min: AtomicU64,
    /// Number of the last segment.
    pub max: AtomicU64,
    /// Number of the segment that was read last.
    pub current: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_negative_times_begin_below_them() {
        let options = Options::default();
        assert_eq!(options.window_start(-1), -7_200_000);
        assert_eq!(options.window_start(0), 0);
        assert_eq!(options.window_start(7_199_999), 0);
        assert_eq!(options.window_start(7_200_000), 7_200_000);
    }

    #[test]
    fn a_block_is_never_longer_than_a_month_or_shorter_than_a_window() {
        let options = Options::default();
        assert_eq!(options.max_block_ms(0), MAX_BLOCK_MS);
        assert_eq!(options.max_block_ms(3_600_000), DEFAULT_WINDOW_MS);
        assert_eq!(options.max_block_ms(100 * 365 * 24 * 3_600_000), MAX_BLOCK_MS);
        assert_eq!(options.max_block_ms(DEFAULT_RETENTION_MS), DEFAULT_RETENTION_MS / 10);
    }
}
