//! Counters, metrics and status of the running store.

use super::Inner;
use crate::metrics::{BlockStatus, Counter, DbStatus, DurationRecorder, HeadStatus, StorageMetrics};
use crate::options::WalSync;
use std::sync::atomic::Ordering;

/// What the store counts itself; the tables count appends and the log.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub blocks_sealed: Counter,
    pub seals_failed: Counter,
    pub seal_durations: DurationRecorder,
    pub compactions: Counter,
    pub compactions_failed: Counter,
    pub compaction_durations: DurationRecorder,
    pub compaction_conflicts: Counter,
    pub retention_time_drops: Counter,
    pub retention_size_drops: Counter,
    pub deletions: Counter,
    pub revoked_queries: Counter,
    pub reopened: Counter,
}

impl Inner {
    pub fn status(&self) -> DbStatus {
        let stats = self.tables.stats();
        let tables = self.tables.pins();
        let n_frozen = self.tables.frozen().len() as u64;
        let version = self.version.load();
        let blocks = version.blocks.iter().map(|block| BlockStatus {
            id: block.id(),
            mint: block.header.mint,
            maxt: block.header.maxt,
            level: block.header.level,
            n_series: u64::from(block.header.n_series),
            n_samples: block.header.n_samples(),
            size_bytes: block.size_bytes,
            n_tombstones: block.part.tombstones().len() as u64,
        });
        DbStatus {
            head: HeadStatus {
                n_series: stats.n_series,
                n_label_pairs: stats.n_label_pairs,
                n_chunks: stats.n_chunks,
                mint: stats.mint,
                maxt: stats.maxt,
                n_tables: (tables.len() as u64).saturating_sub(n_frozen),
                n_frozen,
            },
            blocks: blocks.collect(),
            lost: self.quarantine.lost(),
            unavailable: self.unavailable.lock().clone().or_else(|| self.tables.broken()),
            wal_sync_window_ms: match self.options.wal_sync {
                WalSync::Grouped => self.options.wal_sync_window_ms,
                WalSync::Always => 0,
            },
            time_range: self.time_range(),
        }
    }

    pub fn metrics(&self) -> StorageMetrics {
        let stats = self.tables.stats();
        let counters = &self.counters;
        let version = self.version.load();
        StorageMetrics {
            samples_appended: stats.samples_appended,
            histograms_appended: stats.histograms_appended,
            exemplars_appended: stats.exemplars_appended,
            out_of_order: stats.out_of_order,
            refused_duplicate: stats.refused_duplicate,
            refused_too_old: stats.refused_too_old,
            refused_too_new: stats.refused_too_new,
            refused_labels: stats.refused_labels,
            refused: stats.refused,
            appends_unavailable: stats.unavailable,
            series_created: stats.series_created,
            series_removed: stats.series_removed,
            head_series: stats.n_series,
            head_samples: stats.n_samples,
            head_bytes: stats.tables_bytes,
            head_exemplars: stats.n_exemplars,
            head_mint: stats.mint,
            head_maxt: stats.maxt,
            tables_frozen: stats.tables_frozen,
            blocks_sealed: counters.blocks_sealed.get(),
            seals_failed: counters.seals_failed.get(),
            seal_durations: counters.seal_durations.snapshot(),
            wal_sync_durations: stats.sync_durations,
            wal_bytes_written: stats.log_bytes_written,
            wal_size_bytes: stats.log_size_bytes,
            wal_failures: stats.log_failures,
            wal_corruptions: self.log_corruptions,
            compactions: counters.compactions.get(),
            compactions_failed: counters.compactions_failed.get(),
            compaction_durations: counters.compaction_durations.snapshot(),
            compaction_conflicts: counters.compaction_conflicts.get(),
            blocks: version.blocks.len() as u64,
            blocks_bytes: version.size_bytes(),
            blocks_mint: version.time_range().map(|range| range.0),
            retention_time_drops: counters.retention_time_drops.get(),
            retention_size_drops: counters.retention_size_drops.get(),
            revoked_queries: counters.revoked_queries.get(),
            retention_time_ms: self.retention_time_ms.load(Ordering::Relaxed),
            retention_size_bytes: self.retention_size_bytes.load(Ordering::Relaxed),
            deletions: counters.deletions.get(),
            quarantined: self.quarantine.n_lost(),
            unavailable: self.unavailable.lock().is_some() || self.tables.broken().is_some(),
            reopened: counters.reopened.get(),
            open_duration_seconds: self.open_duration.as_secs_f64(),
            cache_bytes: self.store.cache_bytes() + self.caches.size_bytes() as u64,
        }
    }
}
