//! Queries with repeats, evaluated with and without sharing: nobody may see a difference but in time.

use crate::engine::{Engine, EngineOptions, Features, QueryOutput, QueryRequest};
use crate::error::QueryError;
use crate::explain::{Clock, Explanation};
use crate::limits::NoControl;
use crate::script::parse::CommandKind;
use crate::script::run::store_load;
use crate::script::{MemoryStore, Script, ScriptStore as _};
use std::sync::Arc;
use std::time::Duration;

const LOAD: &str = "load 10s
  requests{job=\"a\",x=\"1\"} 1+1x200
  requests{job=\"a\",x=\"2\"} 1+2x200
  requests{job=\"b\",x=\"3\"} 1+3x100 stale _x20 5+1x79
  memory{job=\"a\"} 5 3 4x90 7x100
  memory{job=\"b\"} 5 3 {{schema:0 count:1 sum:2 buckets:[1]}}x90 7x100
  native{job=\"a\"} {{schema:1 count:5 sum:20 buckets:[1 2 1 1]}}+{{schema:1 count:10 sum:5 buckets:[1 2 3 4]}}x200
  le_bucket{job=\"a\",le=\"1\"} 7+7x200
  le_bucket{job=\"a\",le=\"2\"} 5+5x200
  le_bucket{job=\"a\",le=\"+Inf\"} 9+9x200
";

/// Series of `wide`.
const N_WIDE: usize = 100;

fn store() -> MemoryStore {
    let mut store = MemoryStore::with_partition_rows(1);
    let wide: String = (0..N_WIDE).map(|n| format!("  wide{{n=\"{n}\"}} {n}x70\n")).collect();
    for command in Script::parse(&format!("{LOAD}{wide}")).unwrap().commands {
        if let CommandKind::Load(load) = command.kind {
            store_load(&load, &mut store).unwrap();
        }
    }
    store
}

/// Small batches, so that what is kept is told from what passes.
fn options(sharing: bool) -> EngineOptions {
    let features = Features { per_step_stats: true, ..Features::scripts() };
    EngineOptions { threads: 1, batch_rows: Some(1), features, sharing, ..EngineOptions::default() }
}

fn request(text: &str) -> QueryRequest<'_> {
    QueryRequest {
        text,
        start: 100_000,
        end: 1_900_000,
        interval_ms: 7000,
        range: true,
        lookback_delta_ms: Some(60_000),
    }
}

fn ask(options: EngineOptions, text: &str) -> Result<QueryOutput, QueryError> {
    Engine::new(options).execute(store().queryable(), &request(text), &NoControl)
}

/// Everything but the most samples that were held.
fn seen(answer: &Result<QueryOutput, QueryError>) -> String {
    match answer {
        Ok(QueryOutput { value, warnings, infos, stats, .. }) => format!(
            "{value:?} {warnings:?} {infos:?} {} {} {:?}",
            stats.total_queryable_samples, stats.samples_read, stats.per_step
        ),
        Err(error) => error.to_string(),
    }
}

/// The text is evaluated twice; memory and samples for both as given.
fn check(text: &str, memory_limit_bytes: usize, max_samples: usize) -> QueryOutput {
    let limited = |options| EngineOptions { memory_limit_bytes, max_samples, ..options };
    let (shared, apart) = (ask(limited(options(true)), text), ask(limited(options(false)), text));
    assert_eq!(seen(&shared), seen(&apart), "{text}");
    shared.unwrap_or_else(|error| panic!("{text}: {error}"))
}

const PLENTY: usize = 1 << 30;

#[test]
fn values_annotations_and_statistics_are_those_of_each_place() {
    for text in [
        "rate(requests[1m]) / rate(requests[1m])",
        "rate(requests[1m]) / (rate(requests[1m]) + rate(native[1m]))",
        "sum(requests) by (job) / on() group_left sum(requests)",
        "requests > 5 and requests < 100 or -requests",
        "-requests + -requests * -requests",
        "sum(rate(requests[1m])) / (sum(rate(requests[1m])) + sum by (job) (rate(requests[1m])))",
        "max_over_time((requests + requests)[1m:10s]) - min_over_time((requests + requests)[1m:10s])",
        "max_over_time(sum(requests)[50s:20s] @ 500) + max_over_time(sum(requests)[50s:20s] @ 500)",
        "avg_over_time(rate(requests[1m])[1m:7s] offset 20s) or rate(requests[1m]) or rate(requests[1m])",
        "topk(1, requests) + topk(2, requests)",
        "scalar(sum(requests)) + sum(requests) + scalar(sum(requests))",
        "requests @ 300 + requests @ 300 + requests",
        "label_replace(requests, \"x\", \"$1\", \"x\", \"(.)\") * requests",
        "histogram_quantile(0.9, rate(native[1m])) + histogram_quantile(0.5, rate(native[1m]))",
        "memory * memory",
    ] {
        check(text, PLENTY, PLENTY);
    }
}

#[test]
fn an_annotation_stands_at_the_last_place_that_gives_it() {
    let infos = |text: &str| check(text, PLENTY, PLENTY).infos;
    let counter = |place: &str| {
        [format!(
            "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \
             \"memory\" ({place})"
        )]
    };
    assert_eq!(infos("rate(memory{job=\"a\"}[1m]) / rate(memory{job=\"a\"}[1m])"), counter("1:34"));
    assert_eq!(
        infos("sum(rate(memory{job=\"a\"}[1m])) /\n  sum( (rate(  memory {job=\"a\"} [1m] ) ))"),
        counter("2:16")
    );
    // A part within a part that stands alone later.
    assert_eq!(
        infos(
            "sum(rate(memory{job=\"a\"}[1m])) * sum(rate(memory{job=\"a\"}[1m])) + rate(memory{job=\"a\"}[1m])"
        ),
        counter("1:72")
    );
}

#[test]
fn what_is_counted_counts_for_each_place_and_stands_at_the_first() {
    let infos = |text: &str| check(text, PLENTY, PLENTY).infos;
    let once = infos("histogram_quantile(0.5, le_bucket)");
    let twice = infos("histogram_quantile(0.5, le_bucket) + histogram_quantile(0.5, le_bucket)");
    assert!(once[0].contains(" over 258 samples ") && once[0].ends_with("(1:25)"), "{once:?}");
    assert_eq!(twice, [once[0].replace(" over 258 ", " over 516 ")]);
}

/// Cells of the columns of `wide` at the steps of [`request`], in bytes.
const WIDE_BYTES: usize = N_WIDE * 258 * 8;

#[test]
fn large_parts_are_evaluated_at_each_place_and_small_ones_around_them_are_not() {
    let text = "sum(wide @ 300 + time()) * sum(wide @ 300 + time()) + count(wide @ 300 + time())";
    let memory_limit_bytes = 3 * WIDE_BYTES;
    check(text, memory_limit_bytes, PLENTY);
    let lines = analysis(text, EngineOptions { memory_limit_bytes, ..options(true) }).to_string();
    assert_eq!(lines.matches("shared: evaluated once for all places where it stands").count(), 2, "{lines}");
    let too_large = "shared: no, its rows would take more than a quarter of the memory of a query";
    assert_eq!(lines.matches(too_large).count(), 2, "{lines}");
}

#[derive(Default)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// Most memory at once.
fn peak_bytes(sharing: bool, text: &str) -> usize {
    analysis(text, options(sharing)).outcome.expect("it was evaluated").peak_memory_bytes
}

fn analysis(text: &str, options: EngineOptions) -> Explanation {
    let clock = Some(Arc::new(Stopped) as Arc<dyn Clock>);
    let explanation = Engine::new(options).explain(store().queryable(), &request(text), &NoControl, clock);
    explanation.unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_query_that_needs_the_memory_of_what_is_kept_is_evaluated_again_without() {
    let parts: Vec<String> = (1..=6).map(|at| format!("(wide @ {at}00 + time())")).collect();
    let folded = |op: &str| parts.iter().map(|part| format!("{op}{part}")).collect::<Vec<_>>().join(" + ");
    let text = format!("{} + {}", folded("sum"), folded("max"));
    // Each may be kept, but not all of them.
    let memory_limit_bytes = 5 * WIDE_BYTES;
    assert!(peak_bytes(false, &text) < memory_limit_bytes && memory_limit_bytes < peak_bytes(true, &text));
    check(&text, memory_limit_bytes, PLENTY);
    let lines = analysis(&text, EngineOptions { memory_limit_bytes, ..options(true) }).to_string();
    let given_up = "shared: no, keeping rows met a limit, and all was evaluated again without";
    assert_eq!(lines.matches(given_up).count(), 12, "{lines}");
    let lines = analysis(&text, options(true)).to_string();
    assert_eq!(lines.matches("shared: evaluated once").count(), 12, "{lines}");
}

#[test]
fn what_is_kept_does_not_count_as_samples() {
    for text in [
        "topk(1, requests) + topk(1, requests)",
        "sum(requests) + count_values(\"v\", memory) + max(requests)",
        "sum(native) + topk(1, native) + on (job) topk(1, native)",
    ] {
        let peak = ask(options(false), text).unwrap().stats.peak_samples as usize;
        assert!(ask(options(true), text).unwrap().stats.peak_samples as usize <= peak, "{text}");
        check(text, PLENTY, peak);
        let too_few = EngineOptions { max_samples: peak / 4, ..options(true) };
        assert_eq!(ask(too_few, text).unwrap_err(), QueryError::TooManySamples, "{text}");
    }
}

#[test]
fn all_memory_is_given_back() {
    let engine = Engine::new(options(true));
    let ask = |text: &str| drop(engine.execute(store().queryable(), &request(text), &NoControl));
    ask("sum(requests) / max(requests) + on (job) native * 2 + native");
    ask("sum(requests) / max(requests) + on () memory + memory");
    let account = engine.memory_account();
    account.charge(engine.options().memory_limit_bytes).expect("nothing is charged any more");
}

#[test]
fn the_error_that_comes_first_comes_first() {
    let error = |text: &str| {
        let (shared, apart) = (ask(options(true), text), ask(options(false), text));
        assert_eq!(seen(&shared), seen(&apart), "{text}");
        shared.unwrap_err().to_string()
    };
    let doubled = "(memory * on () requests)";
    let same_labels = "label_replace(requests, \"x\", \"\", \"x\", \".*\")";
    for (first, second) in [(doubled, same_labels), (same_labels, doubled)] {
        let of_first = error(&format!("{first} + 1"));
        assert_ne!(of_first, error(&format!("{second} + 1")));
        assert_eq!(error(&format!("{first} + ({second} or {second})")), of_first);
        assert_eq!(error(&format!("({first} + 1) + ({second} or {second} + {first})")), of_first);
        assert_eq!(error(&format!("memory + ({first} or {second} or {first} or {second})")), of_first);
    }
}
