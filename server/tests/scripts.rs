//! Prometheus's own test scripts, run against the engine on disk: samples in open tables, in blocks of short
//! windows, in merged blocks, and half in blocks and half in memory. Each must answer as the store in memory of
//! `query/tests/scripts.rs` does, the same bits with and without threads, sharing and pushdown, and pass as many evaluations as its `floor.txt` says.
//!
//! The scripts are not part of this project: they are read from a folder beside it, and without that folder the
//! tests say so and check nothing. `CHRONOLITH_SCRIPT=name` runs one file and prints every failure.

use chronolith_model::append::{AppendBatch, BatchSeries, HistogramSample, Sample as FloatSample, SeriesKey};
use chronolith_model::histogram::{FloatHistogram, Histogram, IntHistogram};
use chronolith_model::queryable::Queryable;
use chronolith_model::{Labels, is_stale};
use chronolith_query::script::{Sample, Script, ScriptEngine, ScriptStore, run};
use chronolith_query::{
    Engine, EngineOptions, Features, NoControl, QueryError, QueryOutput, QueryRequest, SampleValue,
};
use chronolith_storage::db::Db;
use chronolith_storage::options::{ManualClock, Options};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// Later than all samples of all scripts.
const NOW_MS: i64 = 4_000_000_000_000;

/// Shorter than what most loads span, longer than their intervals.
const WINDOW_MS: i64 = 20 * 60_000;

/// Where samples are when a query asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// In open tables.
    Open,
    /// In blocks of one window each.
    Sealed,
    /// In blocks that were merged as far as they can be.
    Merged,
    /// Those of the first half of a load in blocks, the others in open tables.
    HalfSealed,
}

/// The engine in a folder of its own.
struct Disk {
    layout: Layout,
    /// Whether histograms of whole counts are stored as such.
    whole: bool,
    window_ms: i64,
    store: Option<(Db, TempDir)>,
}

impl Disk {
    fn new(layout: Layout, whole: bool, window_ms: i64) -> Self {
        Self { layout, whole, window_ms, store: None }
    }

    fn db(&self) -> &Db {
        &self.store.as_ref().expect("a script begins with a clear store").0
    }

    fn append(
        &self,
        series: &[(Labels, Vec<(i64, Sample)>)],
        in_part: &dyn Fn(i64) -> bool,
    ) -> Result<(), String> {
        let mut batch = AppendBatch::default();
        for (labels, samples) in series {
            let whole = self.whole.then(|| all_whole(samples)).flatten();
            let mut whole = whole.map(Vec::into_iter);
            for (timestamp, sample) in samples {
                let (timestamp, start_timestamp) = (*timestamp, sample.start_timestamp);
                let (n_samples, n_histograms) = (batch.samples.len() as u32, batch.histograms.len() as u32);
                match &sample.value {
                    SampleValue::Float(value) => {
                        batch.samples.push(FloatSample { timestamp, value: *value, start_timestamp });
                    }
                    SampleValue::Histogram(histogram) => {
                        let histogram = match whole.as_mut().and_then(Iterator::next) {
                            Some(whole) => Histogram::Int(whole),
                            None => Histogram::Float((**histogram).clone()),
                        };
                        batch.histograms.push(HistogramSample { timestamp, start_timestamp, histogram });
                    }
                }
                // One entry a sample: within an entry, floats come before histograms.
                if in_part(timestamp) {
                    batch.series.push(BatchSeries {
                        key: SeriesKey::Labels(labels),
                        samples: n_samples..batch.samples.len() as u32,
                        histograms: n_histograms..batch.histograms.len() as u32,
                        exemplars: 0..0,
                    });
                }
            }
        }
        let outcome = self.db().append(&batch, false).map_err(|error| error.to_string())?;
        match outcome.first_refused {
            Some((series, timestamp, refusal)) => Err(format!("{series} at {timestamp}: {refusal}")),
            None => Ok(()),
        }
    }

    fn flush(&self) -> Result<(), String> {
        self.db().flush().map_err(|error| error.to_string())
    }
}

impl ScriptStore for Disk {
    fn clear(&mut self) -> Result<(), String> {
        self.store = None;
        // Hundreds of stores: a folder in memory, where there is one, spares hundreds of waits for a disk.
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.map_err(|error| error.to_string())?;
        let options = Options {
            window_ms: self.window_ms,
            retention_time_ms: 0,
            background: false,
            ballast_bytes: Some(0),
            shards: 2,
            threads: 1,
            memory_budget_bytes: 64 << 20,
            clock: Arc::new(ManualClock::new(NOW_MS)),
            ..Options::default()
        };
        let db = Db::open(&folder.path().join("data"), options).map_err(|error| error.to_string())?;
        self.store = Some((db, folder));
        Ok(())
    }

    fn load(&mut self, series: &[(Labels, Vec<(i64, Sample)>)]) -> Result<(), String> {
        match self.layout {
            Layout::Open => self.append(series, &|_| true),
            Layout::Sealed => {
                self.append(series, &|_| true)?;
                self.flush()
            }
            Layout::Merged => {
                self.append(series, &|_| true)?;
                self.flush()?;
                self.db().compact().map_err(|error| error.to_string())
            }
            Layout::HalfSealed => {
                let times = || series.iter().flat_map(|(_, samples)| samples.iter().map(|(time, _)| *time));
                let middle = times().max().unwrap_or(0).midpoint(times().min().unwrap_or(0));
                self.append(series, &|time| time <= middle)?;
                self.flush()?;
                self.append(series, &|time| time > middle)
            }
        }
    }

    fn queryable(&self) -> &dyn Queryable {
        self.db()
    }
}

/// The histograms of a series as whole counts, if all of them are that.
fn all_whole(samples: &[(i64, Sample)]) -> Option<Vec<IntHistogram>> {
    let histograms = samples.iter().filter_map(|(_, sample)| match &sample.value {
        SampleValue::Histogram(histogram) => Some(&**histogram),
        SampleValue::Float(_) => None,
    });
    histograms.map(whole).collect()
}

fn whole(histogram: &FloatHistogram) -> Option<IntHistogram> {
    let count = |value: f64| ((0.0..1e15).contains(&value) && value.fract() == 0.0).then_some(value as u64);
    let deltas = |buckets: &[f64]| {
        let mut before = 0;
        let delta = |value: &f64| {
            let value = count(*value)? as i64;
            Some(value - std::mem::replace(&mut before, value))
        };
        buckets.iter().map(delta).collect::<Option<Vec<i64>>>()
    };
    if is_stale(histogram.sum) {
        return None;
    }
    Some(IntHistogram {
        counter_reset_hint: histogram.counter_reset_hint,
        schema: histogram.schema,
        zero_threshold: histogram.zero_threshold,
        zero_count: count(histogram.zero_count)?,
        count: count(histogram.count)?,
        sum: histogram.sum,
        positive_spans: histogram.positive_spans.clone(),
        negative_spans: histogram.negative_spans.clone(),
        positive_deltas: deltas(&histogram.positive_buckets)?,
        negative_deltas: deltas(&histogram.negative_buckets)?,
        custom_values: histogram.custom_values.clone(),
    })
}

/// Asks twice: as a server does, and with one thread, row by row, every part of a query evaluated wherever it stands
/// and every selector reading all there is.
struct TwoWays {
    engine: Engine,
    plain: Engine,
}

impl TwoWays {
    fn new(features: Features) -> Self {
        let options = EngineOptions { features, threads: 2, ..EngineOptions::default() };
        let plain = EngineOptions {
            threads: 1,
            batch_rows: Some(1),
            sharing: false,
            pushdown: false,
            ..options.clone()
        };
        Self { engine: Engine::new(options), plain: Engine::new(plain) }
    }
}

impl ScriptEngine for TwoWays {
    fn execute(&self, store: &dyn Queryable, request: &QueryRequest<'_>) -> Result<QueryOutput, QueryError> {
        let ask = |engine: &Engine| engine.execute(store, request, &NoControl);
        let text = |answer: &Result<QueryOutput, QueryError>| match answer {
            Ok(QueryOutput { value, warnings, infos, stats, .. }) => {
                let (total, read) = (stats.total_queryable_samples, stats.samples_read);
                format!("{value:?} {warnings:?} {infos:?} {total} {read}")
            }
            Err(error) => error.to_string(),
        };
        let (answer, plain) = (ask(&self.engine), ask(&self.plain));
        assert_eq!(text(&answer), text(&plain), "{}", request.text);
        answer
    }
}

fn check(layout: Layout, whole: bool, window_ms: i64) {
    check_own(layout, whole, window_ms);
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = here.join("../../shared/conformance/promql");
    if !folder.is_dir() {
        println!("SKIPPED: no scripts at {}", folder.display());
        return;
    }
    let only = std::env::var("CHRONOLITH_SCRIPT").ok();
    let engine = TwoWays::new(Features::scripts());
    let mut below = Vec::new();
    for line in include_str!("../../query/tests/floor.txt").lines().filter(|line| !line.starts_with('#')) {
        let (name, floor) = line.split_once(' ').expect("floor.txt has a name and a number a line");
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let text = std::fs::read_to_string(folder.join(format!("{name}.test"))).expect("the script is there");
        let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = run(&script, &engine, &mut Disk::new(layout, whole, window_ms));
        println!("{name} {} passed, {} failed", outcome.passed, outcome.failures.len());
        for failure in outcome.failures.iter().filter(|_| only.is_some()) {
            println!("  line {}: {}", failure.line, failure.message);
        }
        if outcome.passed < floor.trim().parse().expect("floor.txt has a name and a number a line") {
            below.push(format!("{name}: {} passed, {floor} before", outcome.passed));
        }
    }
    assert!(below.is_empty(), "{below:#?}");
}

/// Whether a failure is that nobody knows of a histogram if it follows a reset: the one before it is in another part
/// of the store, which was sealed without it.
fn is_seam(message: &str) -> bool {
    let values =
        message.split_once("expected histogram ").and_then(|(_, values)| values.split_once(", got "));
    values.is_some_and(|(expected, got)| got.starts_with(&expected.replace("NotReset", "Unknown")))
}

/// Our own scripts pass whole.
fn check_own(layout: Layout, whole: bool, window_ms: i64) {
    let only = std::env::var("CHRONOLITH_SCRIPT").ok();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../query/tests/testdata");
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_stem().expect("files have names").to_string_lossy().into_owned();
        let is_script = path.extension().is_some_and(|extension| extension == "test");
        if !is_script || only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("scripts are text");
        let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = run(&script, &TwoWays::new(script.features), &mut Disk::new(layout, whole, window_ms));
        let failures: Vec<String> = (outcome.failures.iter())
            .filter(|failure| layout != Layout::HalfSealed || !is_seam(&failure.message))
            .map(|failure| format!("line {}: {}", failure.line, failure.message))
            .collect();
        assert!(failures.is_empty(), "{name}: {failures:#?}");
    }
}

#[test]
fn scripts_pass_over_open_tables() {
    check(Layout::Open, false, WINDOW_MS);
}

#[test]
fn scripts_pass_over_blocks_of_short_windows() {
    check(Layout::Sealed, false, WINDOW_MS);
}

#[test]
fn scripts_pass_over_merged_blocks() {
    check(Layout::Merged, false, WINDOW_MS);
}

#[test]
fn scripts_pass_over_blocks_and_open_tables_together() {
    check(Layout::HalfSealed, false, WINDOW_MS);
}

#[test]
fn scripts_pass_with_whole_counts_stored_as_such() {
    check(Layout::Merged, true, WINDOW_MS);
}
