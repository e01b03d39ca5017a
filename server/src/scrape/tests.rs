//! Scraping against a server in this process and a store that only writes down what it gets.

use super::cache::Cache;
use super::client::Fetched;
use super::manager::ScrapeManager;
use super::metrics::ScrapeMetrics;
use super::process::Processor;
use super::target::{Populated, Target};
use super::*;
use crate::config::{Config, RelabelAction, RelabelConfig, ScrapeConfig, ScrapeProtocol};
use crate::targets::{Health, Scraping};
use crate::telemetry::metrics::Registry;
use chronolith_model::append::{Exemplar, Metadata, Refusal, Sample, SeriesKey, SeriesRef};
use chronolith_model::is_stale;
use chronolith_model::re2::Re2;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// One sample that was appended.
#[derive(Clone, Debug)]
struct Stored {
    labels: String,
    timestamp: i64,
    value: f64,
    exemplar: Option<Exemplar>,
}

/// A store that gives out handles, as the engine does, and refuses on demand.
#[derive(Default)]
struct Recorder {
    batches: Mutex<Vec<Vec<Stored>>>,
    metadata: Mutex<Vec<(String, Metadata)>>,
    known: Mutex<HashMap<String, SeriesRef>>,
    newest: Mutex<HashMap<String, i64>>,
    n_by_reference: Mutex<usize>,
    is_unavailable: Mutex<bool>,
    appended: Mutex<Option<mpsc::UnboundedSender<()>>>,
}

impl Appender for Recorder {
    fn append(&self, batch: &AppendBatch<'_>, want_refs: bool) -> Result<AppendOutcome, AppendError> {
        if *self.is_unavailable.lock() {
            return Err(AppendError::Unavailable { reason: "test".to_owned(), retry_after_s: 1 });
        }
        let mut outcome = AppendOutcome::default();
        let mut stored = Vec::new();
        for (position, series) in batch.series.iter().enumerate() {
            let labels = match series.key {
                SeriesKey::Labels(labels) => labels.to_string(),
                SeriesKey::Ref(reference, labels) => {
                    *self.n_by_reference.lock() += 1;
                    let labels = labels.to_string();
                    assert_eq!(self.known.lock().get(&labels), Some(&reference));
                    labels
                }
                SeriesKey::Encoded(_) | SeriesKey::Symbols(_) | SeriesKey::Handle(_) => {
                    panic!("scrapes name series by labels")
                }
            };
            let mut known = self.known.lock();
            let slot = known.len() as u32;
            let reference = *known.entry(labels.clone()).or_insert(SeriesRef { slot, generation: 1 });
            outcome.refs.extend(want_refs.then_some(Some(reference)));
            let histogram = batch.histograms.get(series.histograms.start as usize);
            let sample = match histogram.filter(|_| !series.histograms.is_empty()) {
                // A histogram is written down as its count.
                Some(sample) => Sample {
                    timestamp: sample.timestamp,
                    value: sample.histogram.to_float().count,
                    start_timestamp: 0,
                },
                None => batch.samples[series.samples.start as usize],
            };
            let mut newest = self.newest.lock();
            let newest = newest.entry(labels.clone()).or_insert(i64::MIN);
            if position >= batch.newest_only_from && sample.timestamp <= *newest {
                continue;
            }
            if sample.timestamp > 10_000_000_000_000 {
                outcome.refused += 1;
                outcome.refused_too_new += 1;
                outcome.first_refused = Some((labels, sample.timestamp, Refusal::OutOfRange));
                continue;
            }
            *newest = sample.timestamp.max(*newest);
            let exemplars = series.exemplars.start as usize..series.exemplars.end as usize;
            stored.push(Stored {
                labels,
                timestamp: sample.timestamp,
                value: sample.value,
                exemplar: batch.exemplars[exemplars].first().cloned(),
            });
        }
        self.batches.lock().push(stored);
        self.metadata.lock().extend(batch.metadata.iter().map(|(name, m)| (name.to_string(), m.clone())));
        if let Some(appended) = &*self.appended.lock() {
            let _ = appended.send(());
        }
        Ok(outcome)
    }
}

impl Recorder {
    /// The last batch as text, without the samples about the scrape, `stale` for staleness markers.
    fn last(&self) -> Vec<String> {
        self.last_where(|labels| !is_report(labels))
    }

    fn last_report(&self) -> Vec<String> {
        self.last_where(|labels| is_report(labels) && !labels.contains("scrape_duration_seconds"))
    }

    fn last_where(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let batches = self.batches.lock();
        let batch = batches.last().expect("something was appended");
        let text = |stored: &Stored| {
            let value = if is_stale(stored.value) { "stale".to_owned() } else { stored.value.to_string() };
            format!("{} {value} @{}", stored.labels, stored.timestamp)
        };
        batch.iter().filter(|stored| wanted(&stored.labels)).map(text).collect()
    }

    fn value(&self, metric: &str) -> f64 {
        let name = format!("__name__=\"{metric}\"");
        let batches = self.batches.lock();
        let batch = batches.last().expect("something was appended");
        batch.iter().find(|stored| stored.labels.contains(&name)).expect("the report has it").value
    }
}

fn is_report(labels: &str) -> bool {
    labels.contains("__name__=\"up\"") || labels.contains("__name__=\"scrape_")
}

/// A configuration read from YAML, as the server reads it.
fn config(yaml: &str) -> Config {
    let text = format!("scrape_configs:\n{yaml}");
    let environment = crate::config::Environment(&|_| None);
    Config::from_text(&text, Path::new("test.yml"), &environment).unwrap_or_else(|error| panic!("{error}"))
}

fn job(extra: &str) -> ScrapeConfig {
    let extra: String = extra.lines().map(|line| format!("  {}\n", line)).collect();
    let yaml = format!(
        "- job_name: test\n  static_configs:\n  - targets: ['host:80']\n    labels: {{dc: x}}\n{extra}"
    );
    (*config(&yaml).scrape_configs[0]).clone()
}

struct Bench {
    config: ScrapeConfig,
    recorder: Arc<Recorder>,
    registry: Arc<Registry>,
    target: Arc<Target>,
    processor: Processor,
}

impl Bench {
    fn new(extra: &str) -> Self {
        let config = job(extra);
        let groups = crate::discovery::static_groups(&config);
        let populated = Target::populate(&config, &groups[0].targets[0], &groups[0].labels);
        let Ok(Populated::Active(target)) = populated else { panic!("an active target: {populated:?}") };
        let target = Arc::new(*target);
        let recorder = Arc::new(Recorder::default());
        let registry = Arc::new(Registry::new());
        let metrics = ScrapeMetrics::new(&registry);
        let processor = Processor::new(Arc::clone(&target), recorder.clone(), metrics);
        Self { config, recorder, registry, target, processor }
    }

    fn scrape(&mut self, body: &str, timestamp: i64) {
        self.scrape_as(body.as_bytes(), "text/plain; version=0.0.4", timestamp);
    }

    fn scrape_as(&mut self, body: &[u8], content_type: &str, timestamp: i64) {
        let fetched = Fetched { body: body.to_vec(), is_gzip: false, content_type: content_type.to_owned() };
        self.processor.scrape(&self.config, 0, Ok(fetched), timestamp, Instant::now());
    }

    fn fail(&mut self, timestamp: i64) {
        let error = ScrapeError::Status(hyper::StatusCode::NOT_FOUND);
        self.processor.scrape(&self.config, 0, Err(error), timestamp, Instant::now());
    }

    fn counter(&self, name: &str) -> f64 {
        self.registry.counter(name, "", &[]).get()
    }
}

fn line(name: &str, labels: &str, rest: &str) -> String {
    let labels = if labels.is_empty() { String::new() } else { format!(", {labels}") };
    format!("{{__name__=\"{name}\", dc=\"x\", instance=\"host:80\", job=\"test\"{labels}}} {rest}")
}

#[test]
fn a_scrape_is_one_append_with_its_report() {
    let mut bench = Bench::new("");
    bench.scrape("# HELP a Help.\n# TYPE a counter\na 1\nb{x=\"y\"} 2 7000\n", 5000);
    assert_eq!(bench.recorder.batches.lock().len(), 1);
    assert_eq!(bench.recorder.last(), [line("a", "", "1 @5000"), line("b", "x=\"y\"", "2 @7000")]);
    let expected = [
        line("up", "", "1 @5000"),
        line("scrape_samples_scraped", "", "2 @5000"),
        line("scrape_samples_post_metric_relabeling", "", "2 @5000"),
        line("scrape_series_added", "", "2 @5000"),
    ];
    assert_eq!(bench.recorder.last_report(), expected);
    bench.scrape("a 3\nb{x=\"y\"} 2 8000\n", 6000);
    assert_eq!(bench.recorder.value("scrape_series_added"), 0.0);
    assert_eq!(*bench.recorder.n_by_reference.lock(), 7, "known series come by handle");
    let status = bench.target.status();
    assert_eq!((status.health, status.last_scrape_ms), (Health::Up, 6000));
    assert_eq!(status.last_error, "");
}

#[test]
fn metadata_is_appended_when_it_changes() {
    let mut bench = Bench::new("");
    let families = |bench: &Bench| {
        let mut metadata = std::mem::take(&mut *bench.recorder.metadata.lock());
        metadata.retain(|(name, _)| !is_report(&format!("__name__=\"{name}\"")));
        metadata
    };
    bench.scrape("# HELP a Help.\n# TYPE a counter\na 1\n", 1000);
    let first = families(&bench);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].1.metric_type.as_str(), first[0].1.help.as_str()), ("counter", "Help."));
    bench.scrape("# HELP a Help.\n# TYPE a counter\na 1\n", 2000);
    assert!(families(&bench).is_empty());
    bench.scrape("# HELP a Other.\n# TYPE a counter\na 1\n", 3000);
    assert_eq!(families(&bench)[0].1.help, "Other.");
    for i in 0..20 {
        bench.scrape("b 1\n", 4000 + i);
    }
    assert!(bench.target.metadata().is_empty());
}

#[test]
fn series_that_vanish_are_marked_stale_once() {
    let mut bench = Bench::new("");
    bench.scrape("a 1\nb 2\n", 1000);
    bench.scrape("a 1\n", 2000);
    assert_eq!(bench.recorder.last(), [line("a", "", "1 @2000"), line("b", "", "stale @2000")]);
    bench.scrape("a 1\n", 3000);
    assert_eq!(bench.recorder.last(), [line("a", "", "1 @3000")]);
    bench.scrape("a 1\nb 3\n", 4000);
    assert_eq!(bench.recorder.last(), [line("a", "", "1 @4000"), line("b", "", "3 @4000")]);
}

#[test]
fn a_failed_scrape_marks_everything_stale() {
    let mut bench = Bench::new("");
    bench.scrape("a 1\nb 2\n", 1000);
    bench.fail(2000);
    assert_eq!(bench.recorder.last(), [line("a", "", "stale @2000"), line("b", "", "stale @2000")]);
    assert_eq!(bench.recorder.last_report()[0], line("up", "", "0 @2000"));
    assert_eq!(bench.target.status().last_error, "server returned HTTP status 404 Not Found");
    bench.fail(3000);
    assert!(bench.recorder.last().is_empty());
    bench.scrape("a 1\nb 2\n", 4000);
    assert_eq!(bench.recorder.last().len(), 2);
    bench.scrape("a 1\nnonsense{\n", 5000);
    assert_eq!(bench.recorder.last(), [line("a", "", "stale @5000"), line("b", "", "stale @5000")]);
    assert_eq!(bench.target.status().last_error, "line 2: expected label name, at \"nonsense{\\n\"");
    bench.scrape("a{x=\"1\",x=\"2\"} 1\n", 5500);
    assert_eq!(bench.target.status().last_error, "series a{x=\"1\",x=\"2\"}: label \"x\" occurs twice");
    bench.scrape("", 6000);
    assert_eq!(bench.recorder.value("up"), 1.0, "an empty body is no failure");
}

#[test]
fn the_end_of_a_target_marks_its_series_and_its_report_stale() {
    let mut bench = Bench::new("");
    bench.scrape("a 1\n", 1000);
    bench.processor.end(2000);
    assert_eq!(bench.recorder.last(), [line("a", "", "stale @2000")]);
    assert_eq!(bench.recorder.last_where(is_report).len(), 8);
    assert!(is_stale(bench.recorder.value("up")));
}

#[test]
fn no_marker_lands_behind_samples_of_another_target() {
    let mut bench = Bench::new("");
    bench.scrape("a 1\nb 1\n", 1000);
    bench.recorder.newest.lock().insert(line("a", "", "").trim_end().to_owned(), 2500);
    bench.processor.end(2000);
    assert_eq!(bench.recorder.last(), [line("b", "", "stale @2000")]);
}

#[test]
fn markers_that_storage_did_not_take_are_written_later() {
    let mut bench = Bench::new("");
    bench.scrape("a 1\nb 2\n", 1000);
    *bench.recorder.is_unavailable.lock() = true;
    bench.scrape("a 1\n", 2000);
    *bench.recorder.is_unavailable.lock() = false;
    bench.scrape("a 1\n", 3000);
    assert_eq!(bench.recorder.last(), [line("a", "", "1 @3000"), line("b", "", "stale @3000")]);
}

#[test]
fn own_timestamps_are_honored_and_get_no_markers() {
    let mut bench = Bench::new("");
    bench.scrape("a 1 500\na 2 600\n", 1000);
    assert_eq!(bench.recorder.last(), [line("a", "", "1 @500"), line("a", "", "2 @600")]);
    bench.scrape("b 1\n", 2000);
    assert_eq!(bench.recorder.last(), [line("b", "", "1 @2000")]);

    let mut bench = Bench::new("track_timestamps_staleness: true");
    bench.scrape("a 1 500\n", 1000);
    bench.scrape("b 1\n", 2000);
    assert_eq!(bench.recorder.last(), [line("b", "", "1 @2000"), line("a", "", "stale @2000")]);

    let mut bench = Bench::new("honor_timestamps: false");
    bench.scrape("a 1 500\n", 1000);
    assert_eq!(bench.recorder.last(), [line("a", "", "1 @1000")]);
}

#[test]
fn of_duplicates_in_one_scrape_the_first_wins() {
    let mut bench = Bench::new("");
    bench.scrape("a{x=\"1\",y=\"2\"} 1\na{x=\"1\",y=\"2\"} 2\na{y=\"2\",x=\"1\"} 3\n", 1000);
    assert_eq!(bench.recorder.last(), [line("a", "x=\"1\", y=\"2\"", "1 @1000")]);
    assert_eq!(bench.counter("prometheus_target_scrapes_sample_duplicate_timestamp_total"), 2.0);
    assert_eq!(bench.recorder.value("scrape_samples_post_metric_relabeling"), 3.0);
    bench.scrape("a{y=\"2\",x=\"1\"} 4\n", 2000);
    assert_eq!(bench.recorder.last(), [line("a", "x=\"1\", y=\"2\"", "4 @2000")], "another spelling");
}

#[test]
fn samples_out_of_bounds_are_counted_and_the_scrape_succeeds() {
    let mut bench = Bench::new("");
    bench.scrape("a 1 99999999999999\nb 1\n", 1000);
    assert_eq!(bench.recorder.last(), [line("b", "", "1 @1000")]);
    assert_eq!(bench.counter("prometheus_target_scrapes_sample_out_of_bounds_total"), 1.0);
    assert_eq!(bench.recorder.value("up"), 1.0);
}

#[test]
fn conflicting_labels_are_renamed_or_honored() {
    let body = "a{job=\"theirs\",exported_job=\"older\",instance=\"\"} 1\n";
    let mut bench = Bench::new("");
    bench.scrape(body, 1000);
    let expected = "{__name__=\"a\", dc=\"x\", exported_exported_job=\"theirs\", exported_job=\"older\", instance=\"host:80\", \
         job=\"test\"} 1 @1000";
    assert_eq!(bench.recorder.last(), [expected]);
    let mut bench = Bench::new("honor_labels: true");
    bench.scrape(body, 1000);
    let expected =
        "{__name__=\"a\", dc=\"x\", exported_job=\"older\", instance=\"host:80\", job=\"theirs\"} 1 @1000";
    assert_eq!(bench.recorder.last(), [expected]);
}

#[test]
fn metric_relabelling_drops_and_rewrites() {
    let mut bench = Bench::new(
        "metric_relabel_configs:\n- {source_labels: [__name__], regex: 'drop.*', action: drop}\n\
         - {source_labels: [x], target_label: x, replacement: 'new-$1'}",
    );
    for timestamp in [1000, 2000] {
        bench.scrape("drop_a 1\nb{x=\"1\"} 2\n", timestamp);
        let expected = line("b", "x=\"new-1\"", &format!("2 @{timestamp}"));
        assert_eq!(bench.recorder.last(), [expected]);
        assert_eq!(bench.recorder.value("scrape_samples_scraped"), 2.0);
        assert_eq!(bench.recorder.value("scrape_samples_post_metric_relabeling"), 1.0);
    }
}

#[test]
fn new_rules_void_what_the_cache_knows() {
    let mut bench = Bench::new("");
    bench.scrape("a 1\nb 1\n", 1000);
    bench.config.metric_relabel_configs = vec![RelabelConfig {
        source_labels: vec!["__name__".to_owned()],
        separator: ";".to_owned(),
        regex: Re2::anchored("b").unwrap(),
        regex_text: "b".to_owned(),
        modulus: 0,
        target_label: String::new(),
        replacement: "$1".to_owned(),
        action: RelabelAction::Drop,
        name_validation: crate::config::NameValidation::Utf8,
    }];
    let fetched =
        Fetched { body: b"a 1\nb 1\n".to_vec(), is_gzip: false, content_type: "text/plain".to_owned() };
    bench.processor.scrape(&bench.config, 1, Ok(fetched), 2000, Instant::now());
    assert_eq!(bench.recorder.last(), [line("a", "", "1 @2000"), line("b", "", "stale @2000")]);
}

#[test]
fn over_the_sample_limit_the_whole_scrape_fails() {
    let mut bench = Bench::new("sample_limit: 2\nextra_scrape_metrics: true");
    bench.scrape("a 1\nb 1\n", 1000);
    assert_eq!(bench.recorder.last().len(), 2);
    assert_eq!(bench.recorder.value("scrape_sample_limit"), 2.0);
    assert_eq!(bench.recorder.value("scrape_body_size_bytes"), 8.0);
    assert_eq!(bench.recorder.value("scrape_timeout_seconds"), 10.0);
    bench.scrape("a 1\nb 1\nc 1\nd 1\n", 2000);
    assert_eq!(bench.recorder.last(), [line("a", "", "stale @2000"), line("b", "", "stale @2000")]);
    assert_eq!(bench.recorder.value("up"), 0.0);
    assert_eq!(bench.recorder.value("scrape_samples_scraped"), 4.0);
    assert_eq!(bench.recorder.value("scrape_samples_post_metric_relabeling"), 4.0);
    assert_eq!(bench.target.status().last_error, "sample limit exceeded");
    assert_eq!(bench.counter("prometheus_target_scrapes_exceeded_sample_limit_total"), 1.0);
}

#[test]
fn label_limits_fail_the_scrape() {
    let check = |extra: &str, body: &str, expected: &str| {
        let mut bench = Bench::new(extra);
        bench.scrape(body, 1000);
        assert_eq!(bench.target.status().last_error, expected);
        assert_eq!(bench.recorder.value("up"), 0.0);
        assert_eq!(bench.counter("prometheus_target_scrape_pool_exceeded_label_limits_total"), 1.0);
    };
    check(
        "label_limit: 4",
        "a{x=\"1\"} 1\n",
        "label_limit exceeded (metric: a, number of labels: 5, limit: 4)",
    );
    check(
        "label_name_length_limit: 8",
        "a{long_name=\"1\"} 1\n",
        "label_name_length_limit exceeded (metric: a, label name: long_name, length: 9, limit: 8)",
    );
    check(
        "label_value_length_limit: 8",
        "a{x=\"123456789\"} 1\n",
        "label_value_length_limit exceeded (metric: a, label name: x, value: \"123456789\", length: 9, limit: 8)",
    );
}

#[test]
fn the_content_type_decides_and_may_fall_back() {
    let mut bench = Bench::new("");
    bench.scrape_as(b"a 1\n", "text/html", 1000);
    assert_eq!(
        bench.target.status().last_error,
        "received unsupported Content-Type \"text/html\" and no fallback_scrape_protocol specified for target"
    );
    let mut bench = Bench::new("");
    bench.config.fallback_scrape_protocol = Some(ScrapeProtocol::PrometheusText0_0_4);
    bench.scrape_as(b"a 1\n", "", 1000);
    assert_eq!(bench.recorder.last(), [line("a", "", "1 @1000")]);
}

#[test]
fn exemplars_come_along_and_large_ones_are_left_out() {
    let mut bench = Bench::new("");
    let body = format!(
        "# TYPE a counter\na_total 1 # {{id=\"x\"}} 0.5\nb_total 1 # {{id=\"{}\"}} 1\n# EOF\n",
        "y".repeat(127)
    );
    bench.scrape_as(body.as_bytes(), "application/openmetrics-text; version=1.0.0", 1000);
    let batches = bench.recorder.batches.lock();
    let exemplar = batches[0][0].exemplar.as_ref().unwrap();
    assert_eq!((exemplar.labels.get("id"), exemplar.value, exemplar.timestamp), (Some("x"), 0.5, 1000));
    assert!(batches[0][1].exemplar.is_none());
}

#[test]
fn legacy_names_are_enforced_where_asked_for() {
    let mut bench = Bench::new("metric_name_validation_scheme: legacy");
    bench.scrape("{\"a.b\"} 1\n", 1000);
    assert!(bench.target.status().last_error.starts_with("invalid metric name or label names: "));
}

#[test]
fn targets_are_relabelled_and_checked() {
    let populate = |extra: &str| {
        let config = job(extra);
        let groups = crate::discovery::static_groups(&config);
        Target::populate(&config, &groups[0].targets[0], &groups[0].labels)
    };
    let active = |extra: &str| match populate(extra) {
        Ok(Populated::Active(target)) => target,
        other => panic!("{extra}: {other:?}"),
    };
    let target = active("params: {module: [a, 'b c'], x: ['ä/1']}\nmetrics_path: /probe it");
    assert_eq!(target.url, "http://host:80/probe%20it?module=a&module=b+c&x=%C3%A4%2F1");
    assert_eq!(target.public_labels.to_string(), r#"{dc="x", instance="host:80", job="test"}"#);
    assert_eq!((target.interval_ms, target.timeout_ms), (60_000, 10_000));
    let discovered = target.status().discovered_labels;
    assert_eq!(discovered["__param_module"], "a");
    assert_eq!(discovered["__scrape_interval__"], "1m");
    assert_eq!(discovered["__address__"], "host:80");
    let target = active(
        "params: {module: [a, b]}\nrelabel_configs:\n\
         - {target_label: __address__, replacement: 'other:1'}\n- {target_label: __scheme__, replacement: https}\n\
         - {target_label: __param_module, replacement: z}\n- {target_label: __metrics_path__, replacement: /x}\n\
         - {target_label: __scrape_interval__, replacement: 5s}\n- {target_label: __scrape_timeout__, replacement: 2s}\n\
         - {target_label: __meta_y, replacement: gone}\n- {target_label: job, replacement: renamed}",
    );
    assert_eq!(target.url, "https://other:1/x?module=z&module=b");
    assert_eq!((target.interval_ms, target.timeout_ms), (5_000, 2_000));
    assert_eq!(target.public_labels.to_string(), r#"{dc="x", instance="other:1", job="renamed"}"#);
    assert_eq!(target.labels.get("__meta_y"), None);
    let error = |label: &str, value: &str| {
        let rule = format!("relabel_configs:\n- {{target_label: {label}, replacement: '{value}'}}");
        populate(&rule).err().unwrap_or_else(|| panic!("{label}={value} is fine"))
    };
    assert_eq!(error("__address__", ""), "no address");
    assert_eq!(error("__address__", "http://x"), "\"http://x\" is not a valid hostname");
    assert_eq!(error("__scrape_interval__", "0s"), "scrape interval cannot be 0");
    assert!(error("__scrape_interval__", "soon").starts_with("error parsing scrape interval: "));
    assert_eq!(
        error("__scrape_timeout__", "2m"),
        "scrape timeout cannot be greater than scrape interval (\"2m\" > \"1m\")"
    );
    assert!(
        error("__scrape_native_histograms__", "maybe").starts_with("error parsing scrape native histograms")
    );
    let dropped = populate("relabel_configs:\n- {source_labels: [dc], regex: x, action: drop}");
    let Ok(Populated::Dropped(labels)) = dropped else { panic!("dropped") };
    assert_eq!(labels["dc"], "x");
}

#[test]
fn an_empty_cache_has_nothing_to_mark() {
    assert!(Cache::new().vanished().is_empty());
}

/// A server that answers every request with what `answer` makes of its head.
async fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let answer = Arc::new(answer);
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
            tokio::spawn(async move {
                let mut received = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(n) = stream.read(&mut buffer).await {
                    if n == 0 {
                        break;
                    }
                    received.extend_from_slice(&buffer[..n]);
                    if received.ends_with(b"\r\n\r\n") {
                        let head = String::from_utf8_lossy(&std::mem::take(&mut received)).into_owned();
                        let response = answer(&head);
                        seen.lock().push(head);
                        if stream.write_all(&response).await.is_err() {
                            break;
                        }
                    }
                }
            });
        }
    });
    (port, heads)
}

fn response(head: &str, body: &[u8]) -> Vec<u8> {
    let mut response =
        format!("HTTP/1.1 {head}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    response.extend_from_slice(body);
    response
}

async fn next(appended: &mut mpsc::UnboundedReceiver<()>) {
    let waited = tokio::time::timeout(Duration::from_secs(20), appended.recv()).await;
    waited.expect("a scrape within twenty seconds").expect("the recorder lives");
}

fn manager() -> (Arc<ScrapeManager>, Arc<Recorder>, mpsc::UnboundedReceiver<()>, Arc<Registry>) {
    let recorder = Arc::new(Recorder::default());
    let (sender, receiver) = mpsc::unbounded_channel();
    *recorder.appended.lock() = Some(sender);
    let registry = Arc::new(Registry::new());
    let manager = ScrapeManager::with_appender(recorder.clone(), &registry, ScrapeOptions::default());
    (manager, recorder, receiver, registry)
}

fn local_job(port: u16, extra: &str) -> Config {
    config(&format!(
        "- job_name: local\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\n  static_configs:\n  - targets: ['127.0.0.1:{port}']\n{extra}"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_are_scraped_on_schedule_over_one_connection() {
    let (port, heads) = serve(|_| response("200 OK", b"a 1\n")).await;
    let (manager, recorder, mut appended, registry) = manager();
    manager.apply(&local_job(port, "")).unwrap();
    for _ in 0..3 {
        next(&mut appended).await;
    }
    let head = heads.lock()[0].to_lowercase();
    for header in [
        "get /metrics http/1.1",
        "accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
         application/openmetrics-text;version=0.0.1;q=0.5,\
         text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n",
        "accept-encoding: gzip\r\n",
        "user-agent: prometheus/3.14.0",
        "x-prometheus-scrape-timeout-seconds: 0.1\r\n",
    ] {
        assert!(head.contains(header), "{header:?} in {head:?}");
    }
    let pools = manager.pools();
    assert_eq!((pools.len(), pools[0].active.len()), (1, 1));
    let text = registry.render(crate::telemetry::metrics::TextFormat::Prometheus);
    assert!(text.contains("prometheus_target_interval_length_seconds_count{interval=\"100ms\"}"), "{text}");
    assert!(text.contains("prometheus_target_scrape_pool_targets{scrape_job=\"local\"} 1\n"), "{text}");
    let status = &pools[0].active[0];
    assert_eq!(status.health, Health::Up, "{}", status.last_error);
    assert_eq!(status.scrape_url, format!("http://127.0.0.1:{port}/metrics"));
    assert_eq!(recorder.value("up"), 1.0);
    manager.shutdown().await;
    let n_batches = recorder.batches.lock().len();
    assert!(manager.apply(&local_job(port, "")).is_ok());
    assert_eq!(recorder.batches.lock().len(), n_batches, "nothing is scraped after shutdown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_removed_is_marked_stale_and_others_go_on() {
    let (port, _) = serve(|_| response("200 OK", b"a 1\n")).await;
    let (manager, recorder, mut appended, _) = manager();
    manager.apply(&local_job(port, "")).unwrap();
    next(&mut appended).await;
    manager.apply(&config("- job_name: other")).unwrap();
    assert_eq!(manager.pools()[0].name, "other");
    loop {
        next(&mut appended).await;
        if is_stale(recorder.value("up")) {
            break;
        }
    }
    assert!(recorder.last()[0].contains("stale"));
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_keeps_the_loops_of_targets_that_stay() {
    let (port, heads) = serve(|_| response("200 OK", b"a 1\nb 1\n")).await;
    let (manager, recorder, mut appended, _) = manager();
    manager.apply(&local_job(port, "")).unwrap();
    next(&mut appended).await;
    let rules =
        "  metric_relabel_configs:\n  - {source_labels: [__name__], regex: b, action: drop}\n  params: {}\n";
    manager.apply(&local_job(port, rules)).unwrap();
    loop {
        next(&mut appended).await;
        let last = recorder.last();
        if last.len() == 2 && last[1].contains("stale") {
            assert!(last[1].contains("__name__=\"b\""), "{last:?}");
            break;
        }
    }
    assert!(heads.lock().len() >= 2);
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gzip_limits_status_codes_and_timeouts() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(format!("a 1\n#{}\n", "x".repeat(5000)).as_bytes()).unwrap();
    let compressed = encoder.finish().unwrap();
    let (port, _) = serve(move |head| {
        if head.starts_with("GET /gzip") {
            response("200 OK\r\nContent-Encoding: gzip", &compressed)
        } else if head.starts_with("GET /broken") {
            response("200 OK\r\nContent-Encoding: gzip", b"not gzip at all")
        } else if head.starts_with("GET /moved") {
            response("302 Found\r\nLocation: /gzip", b"")
        } else if head.starts_with("GET /slow") {
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\na".to_vec()
        } else {
            response("404 Not Found", b"")
        }
    })
    .await;
    let fetch = async |path: &str, extra: &str| {
        let mut bench = Bench::new(extra);
        let client = super::client::Client::new(&bench.config, None).unwrap();
        let url = format!("http://127.0.0.1:{port}{path}");
        let fetched = client.fetch(&url, Duration::from_millis(300)).await;
        bench.processor.scrape(&bench.config, 0, fetched, 1000, Instant::now());
        let error = bench.target.status().last_error;
        (error, bench.recorder.value("up"), bench.recorder.last_where(|_| true))
    };
    assert_eq!(fetch("/gzip", "").await.1, 1.0);
    assert_eq!(fetch("/gzip", "body_size_limit: 5KB").await.1, 1.0);
    let (error, _, samples) = fetch("/gzip", "body_size_limit: 4KB\nextra_scrape_metrics: true").await;
    assert_eq!(error, "body size limit exceeded");
    assert!(samples.iter().any(|line| line.contains("scrape_body_size_bytes") && line.contains("} -1 @")));
    assert!(fetch("/broken", "").await.0.starts_with("cannot decompress the body: "));
    assert_eq!(fetch("/moved", "").await.1, 1.0);
    assert_eq!(fetch("/moved", "follow_redirects: false").await.0, "server returned HTTP status 302 Found");
    assert_eq!(fetch("/none", "").await.0, "server returned HTTP status 404 Not Found");
    let (error, ..) = fetch("/slow", "").await;
    assert_eq!(error, format!("Get \"http://127.0.0.1:{port}/slow\": context deadline exceeded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_and_headers_are_sent() {
    let (port, heads) = serve(|_| response("200 OK", b"a 1\n")).await;
    let fetch = async |extra: &str| {
        let bench = Bench::new(extra);
        let client = super::client::Client::new(&bench.config, None).unwrap();
        let url = format!("http://127.0.0.1:{port}/metrics");
        client.fetch(&url, Duration::from_secs(5)).await.unwrap();
        heads.lock().pop().unwrap().to_lowercase()
    };
    let head = fetch("basic_auth: {username: user, password: pass}\nenable_compression: false").await;
    assert!(head.contains("authorization: basic dxnlcjpwyxnz\r\n"), "{head}");
    assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
    let head = fetch("authorization: {credentials: secret}").await;
    assert!(head.contains("authorization: bearer secret\r\n"), "{head}");
    let head = fetch("http_headers: {X-One: {values: [a, b]}}").await;
    assert!(head.contains("x-one: a\r\n") && head.contains("x-one: b\r\n"), "{head}");
}

#[tokio::test]
async fn a_target_nobody_listens_at_is_down() {
    let bench = Bench::new("");
    let client = super::client::Client::new(&bench.config, None).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://127.0.0.1:{}/metrics", listener.local_addr().unwrap().port());
    drop(listener);
    let error = client.fetch(&url, Duration::from_secs(5)).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("Get {url:?}: ")), "{error}");
    assert!(error.contains("onnection refused"), "{error}");
}

#[test]
fn a_pool_with_too_many_targets_is_not_scraped() {
    let yaml = "- job_name: many\n  target_limit: 1\n  static_configs:\n  - targets: ['a:1', 'b:1']\n";
    let config = config(yaml);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let registry = Arc::new(Registry::new());
        let recorder = Arc::new(Recorder::default());
        let manager = ScrapeManager::with_appender(recorder, &registry, ScrapeOptions::default());
        manager.apply(&config).unwrap();
        assert_eq!(manager.pools()[0].active.len(), 2);
        let exceeded = "prometheus_target_scrape_pool_exceeded_target_limit_total";
        assert_eq!(registry.counter(exceeded, "", &[]).get(), 1.0);
        manager.shutdown().await;
    });
}

#[test]
fn dropped_targets_are_counted_and_some_are_kept() {
    let yaml = "- job_name: drop\n  keep_dropped_targets: 1\n  static_configs:\n  - targets: ['a:1', 'b:1', 'c:1']\n  \
                relabel_configs:\n  - {source_labels: [__address__], regex: 'c.*', action: keep}\n";
    let config = config(yaml);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (manager, ..) = manager();
        manager.apply(&config).unwrap();
        let pool = manager.pools().remove(0);
        assert_eq!((pool.active.len(), pool.dropped.len(), pool.n_dropped), (1, 1, 2));
        let expected: &BTreeMap<String, String> = &pool.dropped[0].discovered_labels;
        assert_eq!(expected["__address__"], "a:1");
        manager.shutdown().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_scrapes_are_written_to_their_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failures.json");
    let (port, _) = serve(|_| response("404 Not Found", b"")).await;
    let (manager, _, mut appended, _) = manager();
    let log = |path: &Path| format!("  scrape_failure_log_file: {}\n", path.display());
    manager.apply(&local_job(port, &log(&file))).unwrap();
    next(&mut appended).await;
    next(&mut appended).await;
    manager.shutdown().await;
    let text = std::fs::read_to_string(&file).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["msg"], "server returned HTTP status 404 Not Found");
    assert_eq!((&line["level"], &line["job_name"]), (&"ERROR".into(), &"local".into()));
    assert_eq!(line["target"], format!("http://127.0.0.1:{port}/metrics"));
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
}

#[tokio::test]
async fn a_failure_log_that_cannot_be_written_refuses_the_configuration() {
    let (manager, ..) = manager();
    let error = manager.apply(&local_job(1, "  scrape_failure_log_file: /nonexistent/x/log\n")).unwrap_err();
    assert!(error.starts_with("cannot open scrape_failure_log_file /nonexistent/x/log: "), "{error}");
}

/// A classic histogram with three observations, two exemplars, one of them dated.
const CLASSIC: &str = "# TYPE h histogram\nh_bucket{le=\"1\",a=\"b\"} 1 # {id=\"x\"} 0.5 7.5\n\
     h_bucket{a=\"b\",le=\"+Inf\"} 3 # {id=\"y\"} 2\nh_sum{a=\"b\"} 4.5\nh_count{a=\"b\"} 3\n\
     # TYPE other counter\nother_total 1\n# EOF\n";

#[test]
fn classic_histograms_of_text_are_converted_where_asked_for() {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";
    let other = line("other_total", "", "1 @1000");
    let mut bench = Bench::new("convert_classic_histograms_to_nhcb: true");
    bench.scrape_as(CLASSIC.as_bytes(), OPENMETRICS, 1000);
    let native = "{__name__=\"h\", a=\"b\", dc=\"x\", instance=\"host:80\", job=\"test\"} 3 @1000";
    assert_eq!(bench.recorder.last(), [native, &other]);
    {
        let batches = bench.recorder.batches.lock();
        let exemplar = batches[0][0].exemplar.as_ref().expect("the dated one");
        assert_eq!((exemplar.value, exemplar.timestamp), (0.5, 7500));
    }
    // The next scrape knows the series; one without it marks it stale.
    bench.scrape_as(CLASSIC.as_bytes(), OPENMETRICS, 2000);
    bench.scrape_as(b"# EOF\n", OPENMETRICS, 3000);
    assert_eq!(bench.recorder.last()[0], native.replace("3 @1000", "stale @3000"));

    let mut bench =
        Bench::new("convert_classic_histograms_to_nhcb: true\nalways_scrape_classic_histograms: true");
    bench.scrape_as(CLASSIC.as_bytes(), OPENMETRICS, 1000);
    assert_eq!(bench.recorder.last().len(), 6, "{:?}", bench.recorder.last());

    // Buckets that contradict each other make no histogram.
    let mut bench = Bench::new("convert_classic_histograms_to_nhcb: true");
    bench.scrape("# TYPE h histogram\nh_bucket{le=\"1\"} 5\nh_bucket{le=\"+Inf\"} 3\nh_count 3\n", 1000);
    assert!(bench.recorder.last().is_empty());
    assert_eq!(bench.recorder.value("up"), 1.0);
}

/// A native histogram with 3 observations in two buckets and classic buckets beside them, as protobuf.
const PROTOBUF: &[u8] = &[
    58, 10, 1, 104, 18, 2, 72, 46, 24, 4, 34, 47, 58, 45, 8, 3, 17, 0, 0, 0, 0, 0, 0, 18, 64, 26, 11, 8, 1,
    17, 0, 0, 0, 0, 0, 0, 240, 63, 40, 2, 49, 0, 0, 0, 0, 0, 0, 80, 63, 98, 4, 8, 2, 16, 2, 106, 2, 2, 2,
];

#[test]
fn native_histograms_come_by_protobuf() {
    const TYPE: &str =
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    let scrape = |extra: &str| {
        let mut bench = Bench::new(extra);
        bench.scrape_as(PROTOBUF, TYPE, 1000);
        bench
    };
    let bench = scrape("scrape_native_histograms: true");
    assert_eq!(bench.recorder.last(), [line("h", "", "3 @1000")], "{}", bench.target.status().last_error);
    let metadata = bench.target.metadata();
    assert_eq!((metadata[0].0.as_str(), metadata[0].1.help.as_str()), ("h", "H."));
    let bench = scrape("scrape_native_histograms: true\nalways_scrape_classic_histograms: true");
    assert_eq!(bench.recorder.last().len(), 5, "{:?}", bench.recorder.last());
    let bench = scrape("");
    let expected = [
        line("h_count", "", "3 @1000"),
        line("h_sum", "", "4.5 @1000"),
        line("h_bucket", "le=\"1.0\"", "1 @1000"),
        line("h_bucket", "le=\"+Inf\"", "3 @1000"),
    ];
    assert_eq!(bench.recorder.last(), expected);
    let bench = scrape("scrape_native_histograms: true\nnative_histogram_bucket_limit: 1");
    assert_eq!(bench.recorder.last(), [line("h", "", "3 @1000")], "buckets are merged");
    let mut bench = scrape("scrape_native_histograms: true");
    bench.scrape_as(&PROTOBUF[..20], TYPE, 2000);
    assert_eq!(bench.recorder.value("up"), 0.0);
    let error = bench.target.status().last_error;
    assert!(error.contains("length 58 reaches beyond the message"), "{error}");
}
