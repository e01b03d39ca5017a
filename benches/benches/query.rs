//! Whole queries: PromQL text in, a value out, through the engine and the store, and the value as JSON.
//!
//! Data: 50 targets of 100 counters and gauges and two classic histograms of eleven buckets (6,100
//! series), a scrape each 15 s for six hours, in three sealed blocks of two hours; read often, so from
//! caches. Range queries ask for the last hour but one, a step a minute; two threads.
//!
//! ```sh
//! cargo bench --workspace --bench query
//! ```

use chronolith::api::answer::{QueryAnswer, Steps};
use chronolith::api::sending::Render;
use chronolith_benches::grid::{Grid, INTERVAL_MS, START_MS, fill, open};
use chronolith_query::parser::{ParserOptions, parse_expr};
use chronolith_query::{Engine, EngineOptions, NoControl, QueryOutput, QueryRequest};
use chronolith_storage::db::Db;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const N_SCRAPES: i64 = 1440;

fn run(engine: &Engine, db: &Db, text: &str, range: bool) -> QueryOutput {
    let last = START_MS + (N_SCRAPES - 1) * INTERVAL_MS;
    let end = last - 3_600_000;
    let start = if range { end - 3_600_000 } else { end };
    let request = QueryRequest { text, start, end, interval_ms: 60_000, range, lookback_delta_ms: None };
    engine.execute(db, &request, &NoControl).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn queries(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let db = open(folder.path());
    fill(&db, &Grid::new(50, 100, 2), 0..N_SCRAPES);
    let engine = Engine::new(EngineOptions { threads: 2, ..EngineOptions::default() });

    let mut group = c.benchmark_group("query");
    group.sample_size(20);
    for (name, text, range) in [
        ("sum_by_rate_range", "sum by (job) (rate(metric_042_total[5m]))", true),
        ("sum_by_rate_instant", "sum by (job) (rate(metric_042_total[5m]))", false),
        ("raw_range", "metric_042_total", true),
        ("raw_instant_6100_series", r#"{job=~".+"}"#, false),
        (
            "histogram_quantile_range",
            "histogram_quantile(0.9, sum by (le, job) (rate(seconds_0_bucket[5m])))",
            true,
        ),
        ("quantile_range", "quantile by (job) (0.9, metric_042_total)", true),
        ("topk_range", "topk(5, metric_042_total)", true),
        ("join_range", "metric_042_total * on (instance) group_left (zone) metric_043_total", true),
        ("count_of_everything_range", r#"count by (job) ({__name__=~"metric_.*"})"#, true),
    ] {
        group.bench_function(name, |b| b.iter(|| run(&engine, &db, text, range).stats.samples_read));
    }
    let last = START_MS + (N_SCRAPES - 1) * INTERVAL_MS;
    let steps = Steps { start: last - 7_200_000, interval: 60_000, n: 61 };
    let answer = || {
        let output = run(&engine, &db, r#"{__name__=~"metric_0[0-4].*"}"#, true);
        QueryAnswer::new(output, steps, b"", None).expect("its labels are short")
    };
    let write = |mut answer: QueryAnswer| {
        let (mut piece, mut size_bytes) = (Vec::new(), 0);
        loop {
            piece.clear();
            let more = answer.render(&mut piece);
            size_bytes += piece.len();
            if !more {
                return size_bytes;
            }
        }
    };
    group.throughput(Throughput::Bytes(write(answer()) as u64));
    group.bench_function("json_of_2500_series_61_steps", |b| {
        b.iter_batched(answer, write, BatchSize::PerIteration);
    });
    group.finish();
}

/// Texts to trees.
fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let ratio = r#"sum by (instance) (rate(http_requests_total{job="api",code=~"5.."}[5m])) / ignoring (code) group_left
        sum by (instance) (rate(http_requests_total{job="api"}[5m])) > 0.01 and on (instance) up == 1"#;
    let long = (0..200).map(|n| format!("metric_{n:03}{{job=\"node\"}}")).collect::<Vec<_>>().join(" + ");
    for (name, text) in [("selector", "up"), ("ratio", ratio), ("sum_of_200", &long)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group
            .bench_function(name, |b| b.iter(|| parse_expr(text, ParserOptions::ALL).expect("it is PromQL")));
    }
    group.finish();
}

/// Queries in which parts repeat, evaluated at each place and only once; the last has none, for what it costs to look.
fn repeats(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let db = open(folder.path());
    fill(&db, &Grid::new(50, 100, 2), 0..N_SCRAPES);
    let mut group = c.benchmark_group("repeats");
    group.sample_size(20);
    let rate = |n: u32| format!("rate(metric_04{n}_total[5m])");
    for (name, text) in [
        ("ratio", format!("{0} / ({0} + {1})", rate(2), rate(4))),
        ("share_of_the_sum", format!("sum by (job) ({0}) / on () group_left sum({0})", "metric_042_total")),
        (
            "bounds",
            r#"{__name__=~"metric_0[0-4].*"} > 1 and {__name__=~"metric_0[0-4].*"} < 1e12"#.to_owned(),
        ),
        ("ratio_without_repeats", format!("{} / ({} + {})", rate(2), rate(4), rate(6))),
    ] {
        for sharing in [false, true] {
            let options = EngineOptions { threads: 1, sharing, ..EngineOptions::default() };
            let engine = Engine::new(options);
            let name = format!("{name}_{}", if sharing { "once" } else { "each" });
            group.bench_function(name, |b| b.iter(|| run(&engine, &db, &text, true).stats.samples_read));
        }
    }
    group.finish();
}

criterion_group!(benches, queries, parse, repeats);
criterion_main!(benches);
