//! Query statistics with the meaning they have in Prometheus's API.
//!
//! Source: Prometheus v3.14, `util/stats/query_stats.go`.

use chronolith_model::FloatHistogram;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a query read and held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Samples looked at over all steps: a window counts whole at every step, a part of the query that does
    /// not depend on the step counts at every step. A histogram counts by its size.
    pub total_queryable_samples: u64,
    /// Samples read, each counted once a selector.
    pub samples_read: u64,
    /// Most samples held at once: samples in columns between operators, in groups and in the result. Our
    /// columns hold fewer than Prometheus's matrices, so this is at most what Prometheus shows.
    pub peak_samples: u64,
}

/// Counters of one part of a query; leaves add to it from several threads.
#[derive(Debug, Default)]
pub(crate) struct SampleCounters {
    total: AtomicU64,
    read: AtomicU64,
}

impl SampleCounters {
    /// Counts samples looked at and samples read.
    pub(crate) fn add(&self, total: u64, read: u64) {
        self.total.fetch_add(total, Ordering::Relaxed);
        self.read.fetch_add(read, Ordering::Relaxed);
    }

    /// Samples looked at so far.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Samples read so far.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// How many float samples a histogram counts for: its heap size and a timestamp, in units of a float sample.
///
/// Source: Prometheus v3.14, `promql/value.go`, `HPoint.size`, and `FloatHistogram.Size`.
pub(crate) fn histogram_samples(h: &FloatHistogram) -> u64 {
    const FIXED_BYTES: usize = 168;
    let spans = h.positive_spans.len() + h.negative_spans.len();
    let buckets = h.positive_buckets.len() + h.negative_buckets.len();
    let bounds = h.custom_values.as_ref().map_or(0, |bounds| bounds.len());
    ((FIXED_BYTES + 8 * (spans + buckets + bounds) + 8) / 16) as u64
}
