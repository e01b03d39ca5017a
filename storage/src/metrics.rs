//! What the store counts about itself, what it reports as its state, and what it knows about
//! cardinality. The server turns these into metrics and JSON; nothing here is serialized.

use crate::kv::keys::BlockId;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A counter that threads add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the duration buckets, in seconds: from a fast SSD's sync to a stall that users see.
pub const DURATION_BOUNDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Durations that threads record.
#[derive(Debug, Default)]
pub struct DurationRecorder {
    buckets: [AtomicU64; DURATION_BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl DurationRecorder {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = DURATION_BOUNDS.partition_point(|&bound| bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was recorded so far.
    pub fn snapshot(&self) -> Durations {
        let mut durations = Durations::default();
        for (count, bucket) in durations.buckets.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        durations.sum_seconds = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        durations
    }
}

/// A histogram of durations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations {
    /// Not cumulative; the last one is above all of [`DURATION_BOUNDS`].
    pub buckets: [u64; DURATION_BOUNDS.len() + 1],
    /// Sum of all durations.
    pub sum_seconds: f64,
}

impl Durations {
    /// How many durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Counters and gauges for `/metrics`. Counters start at zero with the process.
#[derive(Clone, Debug, Default)]
pub struct StorageMetrics {
    /// Float samples taken into the log.
    pub samples_appended: u64,
    /// Histograms taken into the log.
    pub histograms_appended: u64,
    /// Exemplars taken into the log.
    pub exemplars_appended: u64,
    /// Samples that came before the newest of their series and were taken.
    pub out_of_order: u64,
    /// Refused: another value was acknowledged for the timestamp before.
    pub refused_duplicate: u64,
    /// Refused: older than retention keeps.
    pub refused_too_old: u64,
    /// Refused: too far ahead of the clock, or out of range.
    pub refused_too_new: u64,
    /// Refused: labels of the series.
    pub refused_labels: u64,
    /// All refused samples, histograms and exemplars.
    pub refused: u64,
    /// Requests turned away because the store could not log.
    pub appends_unavailable: u64,
    /// Series created in memory.
    pub series_created: u64,
    /// Series that left memory.
    pub series_removed: u64,
    /// Series in memory.
    pub head_series: u64,
    /// Samples in open and frozen tables.
    pub head_samples: u64,
    /// Estimated bytes of open and frozen tables.
    pub head_bytes: u64,
    /// Exemplars in memory.
    pub head_exemplars: u64,
    /// First timestamp in open and frozen tables, if there is one.
    pub head_mint: Option<i64>,
    /// Last timestamp in open and frozen tables, if there is one.
    pub head_maxt: Option<i64>,
    /// Tables frozen, by any reason.
    pub tables_frozen: u64,
    /// Blocks written from tables.
    pub blocks_sealed: u64,
    /// Seals that failed and are tried again.
    pub seals_failed: u64,
    /// How long sealing a freeze takes.
    pub seal_durations: Durations,
    /// How long a sync of the log takes.
    pub wal_sync_durations: Durations,
    /// Bytes written to the log.
    pub wal_bytes_written: u64,
    /// Bytes of the log on disk.
    pub wal_size_bytes: u64,
    /// Writes and syncs of the log that failed.
    pub wal_failures: u64,
    /// Damaged places met in the log at the last start.
    pub wal_corruptions: u64,
    /// Merges that were committed.
    pub compactions: u64,
    /// Merges that failed.
    pub compactions_failed: u64,
    /// How long a merge takes.
    pub compaction_durations: Durations,
    /// Samples that a merge dropped because an earlier one had the timestamp with another value.
    pub compaction_conflicts: u64,
    /// Blocks now.
    pub blocks: u64,
    /// Bytes of all blocks.
    pub blocks_bytes: u64,
    /// First timestamp in blocks.
    pub blocks_mint: Option<i64>,
    /// Blocks dropped because they were too old.
    pub retention_time_drops: u64,
    /// Blocks dropped because the store was too large.
    pub retention_size_drops: u64,
    /// Queries ended because the disk was full and they read blocks that are to be dropped.
    pub revoked_queries: u64,
    /// Retention time now, 0 if there is none.
    pub retention_time_ms: i64,
    /// Retention size now, 0 if there is none.
    pub retention_size_bytes: u64,
    /// Deletions that were recorded.
    pub deletions: u64,
    /// Blocks and files that were put aside as damaged, since the store exists.
    pub quarantined: u64,
    /// Whether appends are refused now.
    pub unavailable: bool,
    /// How often RocksDB was reopened under the running store.
    pub reopened: u64,
    /// How long the store took to open, replay included.
    pub open_duration_seconds: f64,
    /// Bytes in RocksDB's block cache and in those of tiles and series.
    pub cache_bytes: u64,
}

/// The state of the store for the status API.
#[derive(Clone, Debug, Default)]
pub struct DbStatus {
    /// What is in memory.
    pub head: HeadStatus,
    /// All blocks by time.
    pub blocks: Vec<BlockStatus>,
    /// What was lost to damage, since the store exists.
    pub lost: Vec<LostRange>,
    /// Why appends are refused now, if they are.
    pub unavailable: Option<String>,
    /// What a power loss may take of acknowledged samples; 0 if every append is synced.
    pub wal_sync_window_ms: u64,
    /// First and last timestamp stored.
    pub time_range: Option<(i64, i64)>,
}

/// Open and frozen tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadStatus {
    /// Series in memory.
    pub n_series: u64,
    /// Distinct label pairs of those.
    pub n_label_pairs: u64,
    /// Stretches of samples that would be chunks.
    pub n_chunks: u64,
    /// First timestamp.
    pub mint: Option<i64>,
    /// Last timestamp.
    pub maxt: Option<i64>,
    /// Open tables.
    pub n_tables: u64,
    /// Frozen tables that are on their way into blocks.
    pub n_frozen: u64,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockStatus {
    /// Its id.
    pub id: BlockId,
    /// First timestamp.
    pub mint: i64,
    /// Last timestamp.
    pub maxt: i64,
    /// 0 for a sealed table, higher for merges.
    pub level: u8,
    /// Series.
    pub n_series: u64,
    /// Samples.
    pub n_samples: u64,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Deletions recorded for it.
    pub n_tombstones: u64,
}

/// Data that could not be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// "block 0190...", "log table 12 segment 3", "file 000123.sst".
    pub what: String,
    /// First and last timestamp that may be missing; `None` if it is not known.
    pub range: Option<(i64, i64)>,
    /// What is wrong with it.
    pub reason: String,
    /// Where the damaged bytes are kept, if they are.
    pub kept_at: Option<PathBuf>,
    /// When it was found, milliseconds since the epoch.
    pub found_at: i64,
}

/// Where the series are: the longest lists first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cardinality {
    /// Series by metric name.
    pub series_by_metric: Vec<(String, u64)>,
    /// Distinct values by label name.
    pub values_by_label: Vec<(String, u64)>,
    /// Bytes of the distinct values by label name.
    pub bytes_by_label: Vec<(String, u64)>,
    /// Series by `name=value`.
    pub series_by_pair: Vec<(String, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_bucket_that_holds_it() {
        let recorder = DurationRecorder::default();
        recorder.record(Duration::from_millis(1));
        recorder.record(Duration::from_micros(1001));
        recorder.record(Duration::from_secs(100));
        let durations = recorder.snapshot();
        assert_eq!(durations.buckets[..2], [1, 1]);
        assert_eq!(durations.buckets[DURATION_BOUNDS.len()], 1);
        assert_eq!(durations.count(), 3);
    }
}
