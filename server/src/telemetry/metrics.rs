//! A small registry of the server's own metrics, and the text it is read as.
//!
//! Counters, gauges and histograms are handles that threads share without a lock. What others count
//! (the storage engine) comes in through collectors, which are asked at the time of reading.

use chronolith_model::labels::METRIC_NAME;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Only rises.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicF64>);

/// Goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicF64>);

/// Counts observations by size.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<HistogramCells>);

#[derive(Debug)]
struct HistogramCells {
    bounds: &'static [f64],
    /// Not cumulative; one more than bounds.
    buckets: Vec<AtomicU64>,
    sum: AtomicF64,
}

#[derive(Debug, Default)]
struct AtomicF64(AtomicU64);

impl AtomicF64 {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    fn add(&self, value: f64) {
        // The closure always gives a value, so the update cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            Some((f64::from_bits(bits) + value).to_bits())
        });
    }
}

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.add(1.0);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.add(n as f64);
    }

    /// The sum so far.
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Adds to the value.
    pub fn add(&self, value: f64) {
        self.0.add(value);
    }

    /// The value.
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

impl Histogram {
    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let cells = &self.0;
        let bucket = cells.bounds.partition_point(|&bound| bound < value);
        cells.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        cells.sum.add(value);
    }
}

/// Durations of requests, as Prometheus's own server has them.
pub const REQUEST_SECONDS: &[f64] = &[0.1, 0.2, 0.4, 1.0, 3.0, 8.0, 20.0, 60.0, 120.0];
/// Sizes of responses, likewise.
pub const RESPONSE_BYTES: &[f64] = &[1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyType {
    /// Only rises; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets.
    Histogram,
    /// Quantiles, count and sum.
    Summary,
}

impl FamilyType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// All metrics of the process.
#[derive(Default)]
pub struct Registry {
    families: RwLock<BTreeMap<String, Family>>,
    collectors: RwLock<Vec<Collector>>,
}

type Collector = Box<dyn Fn(&mut Exposition) + Send + Sync>;

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

struct Family {
    kind: FamilyType,
    help: String,
    children: BTreeMap<Vec<(String, String)>, Child>,
}

enum Child {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl Registry {
    /// A registry without metrics.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counter with this name and these labels; the same one whenever asked again.
    ///
    /// # Panics
    /// If the name was given to another type.
    pub fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Counter {
        let new = || Child::Counter(Counter::default());
        self.child(name, help, FamilyType::Counter, labels, new, |child| match child {
            Child::Counter(counter) => Some(counter.clone()),
            _ => None,
        })
    }

    /// The gauge with this name and these labels; the same one whenever asked again.
    ///
    /// # Panics
    /// If the name was given to another type.
    pub fn gauge(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Gauge {
        let new = || Child::Gauge(Gauge::default());
        self.child(name, help, FamilyType::Gauge, labels, new, |child| match child {
            Child::Gauge(gauge) => Some(gauge.clone()),
            _ => None,
        })
    }

    /// The histogram with this name and these labels; the same one whenever asked again. `bounds` are
    /// upper bounds, ascending, without +Inf.
    ///
    /// # Panics
    /// If the name was given to another type.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        bounds: &'static [f64],
    ) -> Histogram {
        let new = || {
            let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
            Child::Histogram(Histogram(Arc::new(HistogramCells {
                bounds,
                buckets,
                sum: AtomicF64::default(),
            })))
        };
        self.child(name, help, FamilyType::Histogram, labels, new, |child| match child {
            Child::Histogram(histogram) => Some(histogram.clone()),
            _ => None,
        })
    }

    /// Forgets a metric, for labels that no longer mean anything.
    pub fn remove(&self, name: &str, labels: &[(&str, &str)]) {
        let mut families = self.families.write();
        if let Some(family) = families.get_mut(name) {
            family.children.remove(&owned(labels));
            if family.children.is_empty() {
                families.remove(name);
            }
        }
    }

    /// Adds a source that is asked at each reading.
    pub fn collect(&self, collector: impl Fn(&mut Exposition) + Send + Sync + 'static) {
        self.collectors.write().push(Box::new(collector));
    }

    /// All metrics as text.
    pub fn render(&self, format: TextFormat) -> String {
        let mut exposition = Exposition { out: String::with_capacity(64 << 10), format };
        for (name, family) in &*self.families.read() {
            exposition.family(name, &family.help, family.kind);
            for (labels, child) in &family.children {
                let labels: Vec<(&str, &str)> =
                    labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                match child {
                    Child::Counter(counter) => exposition.sample(name, &labels, counter.get()),
                    Child::Gauge(gauge) => exposition.sample(name, &labels, gauge.get()),
                    Child::Histogram(histogram) => {
                        let cells = &histogram.0;
                        let counts: Vec<u64> =
                            cells.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
                        exposition.histogram(name, &labels, cells.bounds, &counts, cells.sum.get());
                    }
                }
            }
        }
        for collector in &*self.collectors.read() {
            collector(&mut exposition);
        }
        if format == TextFormat::OpenMetrics {
            exposition.out.push_str("# EOF\n");
        }
        exposition.out
    }

    fn child<T>(
        &self,
        name: &str,
        help: &str,
        kind: FamilyType,
        labels: &[(&str, &str)],
        new: impl FnOnce() -> Child,
        pick: impl Fn(&Child) -> Option<T>,
    ) -> T {
        let key = owned(labels);
        if let Some(child) = self.families.read().get(name).and_then(|family| family.children.get(&key)) {
            return pick(child).expect("a metric keeps its type");
        }
        let mut families = self.families.write();
        let family = families.entry(name.to_owned()).or_insert_with(|| Family {
            kind,
            help: help.to_owned(),
            children: BTreeMap::new(),
        });
        assert_eq!(family.kind, kind, "metric {name} keeps its type");
        pick(family.children.entry(key).or_insert_with(new)).expect("a metric keeps its type")
    }
}

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The format of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// `text/plain; version=0.0.4`
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl TextFormat {
    /// What an `Accept` header asks for; the classic format unless OpenMetrics 1.0.0 is wanted at least
    /// as much.
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (0.0f64, Self::Prometheus);
        for clause in accept.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or("");
            let mut quality = 1.0;
            let mut version = "";
            for part in parts {
                if let Some(text) = part.strip_prefix("q=") {
                    quality = text.parse().unwrap_or(0.0);
                } else if let Some(text) = part.strip_prefix("version=") {
                    version = text;
                }
            }
            let format = match (media, version) {
                ("application/openmetrics-text", "1.0.0" | "0.0.1" | "") => Self::OpenMetrics,
                ("text/plain", "0.0.4" | "") => Self::Prometheus,
                _ => continue,
            };
            if quality > best.0 {
                best = (quality, format);
            }
        }
        best.1
    }

    /// The content type of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            Self::OpenMetrics => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
            }
        }
    }
}

/// The text of a reading while it is written.
#[derive(Debug)]
pub struct Exposition {
    out: String,
    format: TextFormat,
}

impl Exposition {
    /// Starts a family: its samples follow. A counter's `name` ends in `_total`.
    pub fn family(&mut self, name: &str, help: &str, kind: FamilyType) {
        // OpenMetrics names the family of a counter without the suffix of its samples.
        let name = match (self.format, kind) {
            (TextFormat::OpenMetrics, FamilyType::Counter) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str()));
    }

    /// One sample of the family started last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        debug_assert!(labels.iter().all(|(name, _)| *name != METRIC_NAME));
        self.out.push_str(name);
        if !labels.is_empty() {
            self.out.push('{');
            for (i, (name, value)) in labels.iter().enumerate() {
                if i > 0 {
                    self.out.push(',');
                }
                self.out.push_str(name);
                self.out.push_str("=\"");
                push_escaped(&mut self.out, value);
                self.out.push('"');
            }
            self.out.push('}');
        }
        self.out.push(' ');
        self.out.push_str(&chronolith_query::go_format::format_general(value));
        self.out.push('\n');
    }

    /// A family with a single sample.
    pub fn single(&mut self, name: &str, help: &str, kind: FamilyType, value: f64) {
        self.family(name, help, kind);
        self.sample(name, &[], value);
    }

    /// The samples of one histogram; `counts` are not cumulative and one more than `bounds`.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut total = 0;
        for (i, count) in counts.iter().enumerate() {
            total += count;
            let le = match bounds.get(i) {
                // OpenMetrics wants bounds to look like floats.
                Some(bound)
                    if self.format == TextFormat::OpenMetrics
                        && bound.fract() == 0.0
                        && bound.abs() < 1e6 =>
                {
                    format!("{bound:.1}")
                }
                Some(bound) => chronolith_query::go_format::format_general(*bound),
                None => "+Inf".to_owned(),
            };
            let mut with_le = labels.to_vec();
            with_le.push(("le", &le));
            self.sample(&format!("{name}_bucket"), &with_le, total as f64);
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, total as f64);
    }
}

/// Escapes a label value as the text formats want it.
pub fn push_escaped(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BOUNDS: [f64; 2] = [0.5, 1.0];

    #[test]
    fn both_formats_are_written_as_prometheus_writes_them() {
        let registry = Registry::new();
        registry.counter("a_total", "Counts.\nA lot.", &[("x", "q\"\\\n")]).add(3);
        registry.gauge("b", "Level.", &[]).set(-1.5);
        let histogram = registry.histogram("c_seconds", "Time.", &[("h", "/")], &BOUNDS);
        histogram.observe(0.5);
        histogram.observe(7.0);
        assert_eq!(
            registry.render(TextFormat::Prometheus),
            "# HELP a_total Counts.\\nA lot.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\"} 3\n\
             # HELP b Level.\n# TYPE b gauge\nb -1.5\n\
             # HELP c_seconds Time.\n# TYPE c_seconds histogram\n\
             c_seconds_bucket{h=\"/\",le=\"0.5\"} 1\nc_seconds_bucket{h=\"/\",le=\"1\"} 1\n\
             c_seconds_bucket{h=\"/\",le=\"+Inf\"} 2\nc_seconds_sum{h=\"/\"} 7.5\nc_seconds_count{h=\"/\"} 2\n"
        );
        let text = registry.render(TextFormat::OpenMetrics);
        assert!(text.contains("# TYPE a counter\na_total{"), "{text}");
        assert!(text.contains("le=\"1.0\""));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_metric_is_the_same_one_when_asked_again_and_can_be_forgotten() {
        let registry = Registry::new();
        registry.counter("a_total", "", &[("x", "1")]).inc();
        registry.counter("a_total", "", &[("x", "1")]).inc();
        assert!(registry.render(TextFormat::Prometheus).contains("a_total{x=\"1\"} 2"));
        registry.remove("a_total", &[("x", "1")]);
        assert_eq!(registry.render(TextFormat::Prometheus), "");
    }

    #[test]
    fn negotiation_prefers_what_the_client_prefers() {
        let check = |accept: &str, expected| assert_eq!(TextFormat::negotiate(accept), expected, "{accept}");
        check("", TextFormat::Prometheus);
        check("*/*", TextFormat::Prometheus);
        check("text/html,application/xhtml+xml", TextFormat::Prometheus);
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            TextFormat::OpenMetrics,
        );
        check(
            "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.3",
            TextFormat::Prometheus,
        );
    }
}
