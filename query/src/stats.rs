//! Query statistics with the meaning they have in Prometheus's API.
//!
//! Source: Prometheus v3.14, `util/stats/query_stats.go`.

use chronolith_model::FloatHistogram;
use std::sync::Arc;
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

/// Counts what the leaves of one part of a query look at; they add to it from several threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    counters: Arc<Counters>,
    /// How often the steps of this part count: once, for every step of what surrounds a part that does not
    /// depend on the step, or not at all inside a subquery, whose result is counted instead.
    factor: u64,
}

#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    read: AtomicU64,
}

impl Scope {
    /// The whole query.
    pub(crate) fn new() -> Self {
        Self { counters: Arc::default(), factor: 1 }
    }

    /// A part that counts `factor` times as often.
    pub(crate) fn times(&self, factor: u64) -> Self {
        Self { counters: Arc::clone(&self.counters), factor: self.factor * factor }
    }

    /// Counts samples looked at and samples read.
    pub(crate) fn add(&self, total: u64, read: u64) {
        self.counters.total.fetch_add(total * self.factor, Ordering::Relaxed);
        self.counters.read.fetch_add(read, Ordering::Relaxed);
    }

    /// Samples looked at so far, over all parts.
    pub(crate) fn total(&self) -> u64 {
        self.counters.total.load(Ordering::Relaxed)
    }

    /// Samples read so far, over all parts.
    pub(crate) fn read(&self) -> u64 {
        self.counters.read.load(Ordering::Relaxed)
    }
}

/// How many float samples a histogram counts for: its size with a timestamp, in units of a float sample.
///
/// Source: Prometheus v3.14, `promql/value.go`, `HPoint.size`.
pub(crate) fn histogram_samples(h: &FloatHistogram) -> u64 {
    ((h.go_size_bytes() + 8) / 16) as u64
}
