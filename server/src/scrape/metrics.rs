//! What scraping tells about itself, under the names of Prometheus.

use crate::telemetry::metrics::{Counter, Exposition, FamilyType, Gauge, Registry};
use chronolith_model::duration::format_duration;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Quantiles of the interval lengths are of this many, the last ones: ten minutes of forty targets
/// that are scraped each 15 s give three times as many, and quantiles settle long before.
const N_LENGTHS: usize = 512;

const QUANTILES: [(&str, f64); 5] =
    [("0.01", 0.01), ("0.05", 0.05), ("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99)];

/// Counters of all scrape pools together.
#[derive(Clone)]
pub(super) struct ScrapeMetrics {
    registry: Arc<Registry>,
    /// By interval in milliseconds.
    lengths: Arc<Mutex<BTreeMap<i64, Lengths>>>,
    pub pools: Gauge,
    pub reloads: Counter,
    pub reloads_failed: Counter,
    pub exceeded_target_limit: Counter,
    pub exceeded_label_limits: Counter,
    pub exceeded_sample_limit: Counter,
    pub exceeded_body_size_limit: Counter,
    pub sample_duplicate: Counter,
    pub sample_out_of_order: Counter,
    pub sample_out_of_bounds: Counter,
    pub exemplar_out_of_order: Counter,
    pub cache_flush_forced: Counter,
}

impl ScrapeMetrics {
    pub fn new(registry: &Arc<Registry>) -> Self {
        let lengths: Arc<Mutex<BTreeMap<i64, Lengths>>> = Arc::default();
        let collected = Arc::clone(&lengths);
        registry.collect(move |out| write_lengths(&collected.lock(), out));
        let counter = |name, help| registry.counter(name, help, &[]);
        Self {
            pools: registry.gauge(
                "prometheus_target_scrape_pools",
                "Number of scrape pools, one for each job of the configuration.",
                &[],
            ),
            reloads: counter(
                "prometheus_target_scrape_pool_reloads_total",
                "Total number of scrape pool reloads.",
            ),
            reloads_failed: counter(
                "prometheus_target_scrape_pool_reloads_failed_total",
                "Total number of failed scrape pool reloads.",
            ),
            exceeded_target_limit: counter(
                "prometheus_target_scrape_pool_exceeded_target_limit_total",
                "Total number of times scrape pools hit the target limit, during sync or config reload.",
            ),
            exceeded_label_limits: counter(
                "prometheus_target_scrape_pool_exceeded_label_limits_total",
                "Total number of times scrape pools hit the label limits, during sync or config reload.",
            ),
            exceeded_sample_limit: counter(
                "prometheus_target_scrapes_exceeded_sample_limit_total",
                "Total number of scrapes that hit the sample limit and were rejected.",
            ),
            exceeded_body_size_limit: counter(
                "prometheus_target_scrapes_exceeded_body_size_limit_total",
                "Total number of scrapes that hit the body size limit",
            ),
            sample_duplicate: counter(
                "prometheus_target_scrapes_sample_duplicate_timestamp_total",
                "Total number of samples rejected due to duplicate timestamps but different values.",
            ),
            sample_out_of_order: counter(
                "prometheus_target_scrapes_sample_out_of_order_total",
                "Total number of samples that came after a newer one of their series; they are stored.",
            ),
            sample_out_of_bounds: counter(
                "prometheus_target_scrapes_sample_out_of_bounds_total",
                "Total number of samples rejected due to timestamp falling outside of the time bounds.",
            ),
            exemplar_out_of_order: counter(
                "prometheus_target_scrapes_exemplar_out_of_order_total",
                "Total number of exemplar rejected due to not being out of the expected order.",
            ),
            cache_flush_forced: counter(
                "prometheus_target_scrapes_cache_flush_forced_total",
                "How many times a scrape cache was flushed due to getting big while scrapes are failing.",
            ),
            registry: Arc::clone(registry),
            lengths,
        }
    }

    /// Notes how long after the scrape before a scrape began.
    pub fn observe_length(&self, interval_ms: i64, length_s: f64) {
        self.lengths.lock().entry(interval_ms).or_default().push(length_s);
    }

    /// How many targets a pool has.
    pub fn pool_targets(&self, job: &str) -> Gauge {
        let help = "Current number of targets in this scrape pool.";
        self.registry.gauge("prometheus_target_scrape_pool_targets", help, &[("scrape_job", job)])
    }

    /// How many targets were found for a pool, before relabelling.
    pub fn discovered_targets(&self, job: &str) -> Gauge {
        let help = "Current number of discovered targets.";
        let labels = [("config", job), ("name", "scrape")];
        self.registry.gauge("prometheus_sd_discovered_targets", help, &labels)
    }

    /// Forgets a pool that is gone.
    pub fn remove_pool(&self, job: &str) {
        self.registry.remove("prometheus_sd_discovered_targets", &[("config", job), ("name", "scrape")]);
        self.registry.remove("prometheus_target_scrape_pool_targets", &[("scrape_job", job)]);
    }
}

/// Times between scrapes.
#[derive(Debug, Default)]
struct Lengths {
    count: u64,
    sum_s: f64,
    /// The last ones, as a ring.
    last_s: Vec<f64>,
}

impl Lengths {
    fn push(&mut self, length_s: f64) {
        let at = (self.count % N_LENGTHS as u64) as usize;
        match self.last_s.get_mut(at) {
            Some(oldest) => *oldest = length_s,
            None => self.last_s.push(length_s),
        }
        self.count += 1;
        self.sum_s += length_s;
    }
}

fn write_lengths(lengths: &BTreeMap<i64, Lengths>, out: &mut Exposition) {
    const NAME: &str = "prometheus_target_interval_length_seconds";
    if lengths.is_empty() {
        return;
    }
    out.family(NAME, "Actual intervals between scrapes.", FamilyType::Summary);
    for (&interval_ms, lengths) in lengths {
        let interval = format_duration(interval_ms);
        let mut sorted = lengths.last_s.clone();
        sorted.sort_by(f64::total_cmp);
        for (text, quantile) in QUANTILES {
            let rank = (quantile * (sorted.len() - 1) as f64).round() as usize;
            out.sample(NAME, &[("interval", &interval), ("quantile", text)], sorted[rank]);
        }
        out.sample(&format!("{NAME}_sum"), &[("interval", &interval)], lengths.sum_s);
        out.sample(&format!("{NAME}_count"), &[("interval", &interval)], lengths.count as f64);
    }
}
