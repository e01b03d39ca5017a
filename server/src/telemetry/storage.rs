//! The storage engine's metrics, under the names dashboards know where the meaning is the same, and
//! under ours where it is not.

use super::metrics::{Exposition, FamilyType};
use chronolith_storage::metrics::{DURATION_BOUNDS, Durations, StorageMetrics};

/// Writes what the engine counts.
pub fn write(out: &mut Exposition, m: &StorageMetrics) {
    use FamilyType::{Counter, Gauge};
    let float = |n: u64| n as f64;
    let time = |ms: Option<i64>| ms.unwrap_or(0) as f64;
    out.family("prometheus_tsdb_head_samples_appended_total", "Total number of appended samples.", Counter);
    for (kind, count) in [("float", m.samples_appended), ("histogram", m.histograms_appended)] {
        out.sample("prometheus_tsdb_head_samples_appended_total", &[("type", kind)], float(count));
    }
    let lowest = match (m.blocks_mint, m.head_mint) {
        (Some(blocks), Some(head)) => Some(blocks.min(head)),
        (blocks, head) => blocks.or(head),
    };
    for (name, help, kind, value) in [
        (
            "prometheus_tsdb_exemplar_exemplars_appended_total",
            "Total number of appended exemplars.",
            Counter,
            float(m.exemplars_appended),
        ),
        (
            "prometheus_tsdb_exemplar_exemplars_in_storage",
            "Number of exemplars currently in memory.",
            Gauge,
            float(m.head_exemplars),
        ),
        ("prometheus_tsdb_head_series", "Total number of series in memory.", Gauge, float(m.head_series)),
        (
            "prometheus_tsdb_head_series_created_total",
            "Total number of series created in memory.",
            Counter,
            float(m.series_created),
        ),
        (
            "prometheus_tsdb_head_series_removed_total",
            "Total number of series removed from memory.",
            Counter,
            float(m.series_removed),
        ),
        (
            "prometheus_tsdb_head_min_time",
            "Minimum time of samples in memory, in milliseconds.",
            Gauge,
            time(m.head_mint),
        ),
        (
            "prometheus_tsdb_head_max_time",
            "Maximum time of samples in memory, in milliseconds.",
            Gauge,
            time(m.head_maxt),
        ),
        (
            "prometheus_tsdb_lowest_timestamp",
            "Lowest timestamp value stored in the database.",
            Gauge,
            time(lowest),
        ),
        ("prometheus_tsdb_blocks_loaded", "Number of currently loaded data blocks.", Gauge, float(m.blocks)),
        (
            "prometheus_tsdb_storage_blocks_bytes",
            "The number of bytes that are currently used for blocks.",
            Gauge,
            float(m.blocks_bytes),
        ),
        (
            "prometheus_tsdb_compactions_total",
            "Total number of compactions that were executed.",
            Counter,
            float(m.compactions),
        ),
        (
            "prometheus_tsdb_compactions_failed_total",
            "Total number of compactions that failed.",
            Counter,
            float(m.compactions_failed),
        ),
        (
            "prometheus_tsdb_wal_corruptions_total",
            "Damaged places met in the log at the last start.",
            Counter,
            float(m.wal_corruptions),
        ),
        (
            "prometheus_tsdb_wal_writes_failed_total",
            "Total number of log writes and syncs that failed.",
            Counter,
            float(m.wal_failures),
        ),
        (
            "prometheus_tsdb_wal_storage_size_bytes",
            "Size of the log on disk.",
            Gauge,
            float(m.wal_size_bytes),
        ),
        (
            "prometheus_tsdb_head_out_of_order_samples_appended_total",
            "Total number of appended out of order samples.",
            Counter,
            float(m.out_of_order),
        ),
        (
            "prometheus_tsdb_too_old_samples_total",
            "Samples refused because they are older than retention keeps.",
            Counter,
            float(m.refused_too_old),
        ),
        (
            "prometheus_tsdb_out_of_bound_samples_total",
            "Samples refused because they are too far in the future.",
            Counter,
            float(m.refused_too_new),
        ),
        (
            "prometheus_tsdb_time_retentions_total",
            "Blocks dropped because they were too old.",
            Counter,
            float(m.retention_time_drops),
        ),
        (
            "prometheus_tsdb_size_retentions_total",
            "Blocks dropped because the store was too large.",
            Counter,
            float(m.retention_size_drops),
        ),
        (
            "prometheus_tsdb_retention_limit_seconds",
            "How long samples are kept; 0 means forever.",
            Gauge,
            m.retention_time_ms as f64 / 1000.0,
        ),
        (
            "prometheus_tsdb_retention_limit_bytes",
            "Size at which the oldest blocks are dropped; 0 means no limit.",
            Gauge,
            float(m.retention_size_bytes),
        ),
        (
            "prometheus_tsdb_data_replay_duration_seconds",
            "Time it took to open the store, replay included.",
            Gauge,
            m.open_duration_seconds,
        ),
        ("chronolith_storage_head_samples", "Samples in memory.", Gauge, float(m.head_samples)),
        (
            "chronolith_storage_head_bytes",
            "Estimated size of series and samples in memory.",
            Gauge,
            float(m.head_bytes),
        ),
        (
            "chronolith_storage_samples_refused_total",
            "Samples, histograms and exemplars refused for any reason.",
            Counter,
            float(m.refused),
        ),
        (
            "chronolith_storage_samples_refused_duplicate_total",
            "Samples refused because another value was stored for their timestamp before.",
            Counter,
            float(m.refused_duplicate),
        ),
        (
            "chronolith_storage_samples_refused_labels_total",
            "Samples refused because of the labels of their series.",
            Counter,
            float(m.refused_labels),
        ),
        (
            "chronolith_storage_appends_unavailable_total",
            "Appends turned away because the store could not log.",
            Counter,
            float(m.appends_unavailable),
        ),
        (
            "chronolith_storage_unavailable",
            "1 while appends are turned away.",
            Gauge,
            if m.unavailable { 1.0 } else { 0.0 },
        ),
        (
            "chronolith_storage_tables_frozen_total",
            "Tables closed for sealing.",
            Counter,
            float(m.tables_frozen),
        ),
        (
            "chronolith_storage_blocks_sealed_total",
            "Blocks written from tables.",
            Counter,
            float(m.blocks_sealed),
        ),
        (
            "chronolith_storage_seals_failed_total",
            "Seals that failed and are tried again.",
            Counter,
            float(m.seals_failed),
        ),
        (
            "chronolith_storage_revoked_queries_total",
            "Queries ended because the disk was full and they read blocks that are to be dropped.",
            Counter,
            float(m.revoked_queries),
        ),
        (
            "chronolith_storage_compaction_conflicts_total",
            "Samples that lost to an earlier one of the same timestamp in a compaction.",
            Counter,
            float(m.compaction_conflicts),
        ),
        (
            "chronolith_storage_log_written_bytes_total",
            "Bytes written to the log.",
            Counter,
            float(m.wal_bytes_written),
        ),
        (
            "chronolith_storage_deletions_total",
            "Deletions by selector and range.",
            Counter,
            float(m.deletions),
        ),
        (
            "chronolith_storage_quarantined",
            "Blocks and files put aside as damaged since the store exists.",
            Gauge,
            float(m.quarantined),
        ),
        (
            "chronolith_storage_reopened_total",
            "Times the block store was reopened while running.",
            Counter,
            float(m.reopened),
        ),
        ("chronolith_storage_cache_bytes", "Bytes in the block cache.", Gauge, float(m.cache_bytes)),
    ] {
        out.single(name, help, kind, value);
    }
    for (name, help, durations) in [
        ("prometheus_tsdb_wal_fsync_duration_seconds", "Duration of log syncs.", &m.wal_sync_durations),
        ("prometheus_tsdb_compaction_duration_seconds", "Duration of compactions.", &m.compaction_durations),
        (
            "chronolith_storage_seal_duration_seconds",
            "Duration of writing tables to blocks.",
            &m.seal_durations,
        ),
    ] {
        histogram(out, name, help, durations);
    }
}

fn histogram(out: &mut Exposition, name: &str, help: &str, durations: &Durations) {
    out.family(name, help, FamilyType::Histogram);
    out.histogram(name, &[], &DURATION_BOUNDS, &durations.buckets, durations.sum_seconds);
}
