//! Metrics of the cache of query results.

use super::metrics::{Exposition, FamilyType};
use chronolith_query::CacheStats;

/// Writes what the cache holds and did.
pub fn write(out: &mut Exposition, stats: &CacheStats) {
    use FamilyType::{Counter, Gauge};
    for (name, help, kind, value) in [
        (
            "chronolith_query_result_cache_entries",
            "Results of range queries that are kept.",
            Gauge,
            stats.n_entries,
        ),
        (
            "chronolith_query_result_cache_bytes",
            "Memory of the results of range queries that are kept.",
            Gauge,
            stats.size_bytes,
        ),
        (
            "chronolith_query_result_cache_evictions_total",
            "Results that made room for others.",
            Counter,
            stats.evictions,
        ),
    ] {
        out.single(name, help, kind, value as f64);
    }
    let steps = "chronolith_query_result_cache_steps_total";
    out.family(steps, "Steps of range queries whose results may be kept, by where they came from.", Counter);
    out.sample(steps, &[("from", "cache")], stats.steps_kept as f64);
    out.sample(steps, &[("from", "evaluation")], stats.steps_evaluated as f64);
}
