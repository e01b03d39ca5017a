//! Tables from upstream's engine tests that the scripts do not cover: immediate removal of names, fixed times,
//! which series may be counters, and what the statistics count.
//!
//! Source of the cases: Prometheus v3.14, `promql/engine_test.go`.

use chronolith_query::script::parse::CommandKind;
use chronolith_query::script::run::store_load;
use chronolith_query::script::{MemoryStore, Script, run};
use chronolith_query::{Engine, EngineOptions, Features, NoControl, QueryRequest};

fn engine(features: Features) -> Engine {
    Engine::new(EngineOptions { features, threads: 1, ..EngineOptions::default() })
}

fn loaded(text: &str) -> MemoryStore {
    let mut store = MemoryStore::new();
    for command in Script::parse(text).expect("a script").commands {
        let CommandKind::Load(load) = command.kind else { panic!("only loads here") };
        store_load(&load, &mut store).expect("the series load");
    }
    store
}

fn check_script(text: &str, features: Features, n_evals: usize) {
    let script = Script::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let outcome = run(&script, &engine(features), &mut MemoryStore::new());
    assert_eq!((outcome.passed, outcome.failures.len()), (n_evals, 0), "{:#?}", outcome.failures);
}

#[test]
fn names_are_removed_at_once_without_the_feature() {
    let features = Features { delayed_name_removal: false, ..Features::scripts() };
    let text = include_str!("testdata/immediate_names.test");
    check_script(text, features, text.matches("\neval ").count());
}

#[test]
fn times_fixed_by_the_query_do_not_depend_on_the_step() {
    let text = include_str!("testdata/fixed_times.test");
    check_script(text, Features::scripts(), text.matches("\neval ").count());
}

#[test]
fn functions_of_counters_tell_what_may_be_none() {
    let by_name = |name: &str, column: usize| {
        Some(format!(
            "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \
             \"{name}\" (1:{column})"
        ))
    };
    let by_type = |found: &str, column: usize| {
        Some(format!(
            "PromQL info: metric might not be a counter, __type__ label is not set to \"counter\" or \
             \"histogram\", got \"{found}\": \"m\" (1:{column})"
        ))
    };
    let cases = [
        ("m 1 2", "rate(m[1m1s])", false, by_name("m", 6)),
        ("m 1 2", "increase(m[1m1s])", false, by_name("m", 10)),
        ("m 1 2", "rate((m[1m1s]))", false, by_name("m", 7)),
        ("m 1 2", "irate(m[1m1s])", false, None),
        ("m 1 2", "rate(m[10s])", false, None),
        ("m 1 2", "delta(m[1m1s])", false, None),
        ("m", "rate(m[1m1s])", false, None),
        ("m {{schema:1 sum:10 count:5 buckets:[1 2 3]}}x2", "rate(m[1m1s])", false, None),
        ("m_total 1 2", "rate(m_total[1m1s])", false, None),
        ("m_sum 1 2", "rate(m_sum[1m1s])", false, None),
        ("m_count 1 2", "increase(m_count[1m1s])", false, None),
        ("m_bucket 1 2", "increase(m_bucket[1m1s])", false, None),
        ("m 1 2", "rate(m[1m1s])", true, by_type("", 6)),
        ("m{__type__=\"gauge\"} 1 2", "increase(m[1m1s])", true, by_type("gauge", 10)),
        ("m{__type__=\"counter\"} 1 2", "rate(m[1m1s])", true, None),
        ("m{__type__=\"histogram\"} 1 2", "increase(m[1m1s])", true, None),
        (
            "m_total 1 2",
            "rate(m_total[1m1s])",
            true,
            by_type("", 6).map(|text| text.replace("\"m\"", "\"m_total\"")),
        ),
    ];
    for (series, text, type_and_unit_labels, info) in cases {
        let store = loaded(&format!("load 1m\n{series}"));
        let engine = engine(Features { type_and_unit_labels, ..Features::scripts() });
        let request = QueryRequest {
            text,
            start: 60_000,
            end: 60_000,
            interval_ms: 0,
            range: false,
            lookback_delta_ms: None,
        };
        let output = engine.execute(&store, &request, &NoControl).unwrap();
        assert_eq!(output.infos, Vec::from_iter(info), "{text} over {series}");
        assert!(output.warnings.is_empty(), "{text} over {series}");
    }
}

#[test]
fn statistics_count_as_prometheus_counts() {
    let store = loaded(
        "load 10s\n  one 1+1x100\n  three{a=\"1\",b=\"1\"} 1+1x100\n  three{a=\"2\",b=\"2\"} 1+1x100\n  \
         three{a=\"3\",b=\"2\"} 1+1x100\n  histogram {{schema:1 count:5 sum:20 buckets:[1 2 1 1]}}+{{schema:1 \
         count:10 sum:5 buckets:[1 2 3 4]}}x100\n",
    );
    let engine = engine(Features::scripts());
    for &(text, start, end, interval, total, read) in STATISTICS {
        let request = QueryRequest {
            text,
            start: start * 1000,
            end: end * 1000,
            interval_ms: interval * 1000,
            range: interval > 0,
            lookback_delta_ms: None,
        };
        let stats = engine.execute(&store, &request, &NoControl).unwrap().stats;
        let context = format!("{text} from {start} to {end} step {interval}");
        assert_eq!((stats.total_queryable_samples, stats.samples_read), (total, read), "{context}");
    }
}

/// Query; start, end and step in seconds (step 0: instant); samples looked at, samples read.
const STATISTICS: &[(&str, i64, i64, i64, u64, u64)] = &[
    (r#""literal string""#, 21, 21, 0, 0, 0),
    ("1", 21, 21, 0, 0, 0),
    ("one", 21, 21, 0, 1, 1),
    ("histogram", 21, 21, 0, 13, 13),
    ("timestamp(one)", 21, 21, 0, 1, 1),
    ("timestamp(histogram)", 21, 21, 0, 1, 1),
    ("one", 22, 22, 0, 1, 1),
    ("one offset 10s", 21, 21, 0, 1, 1),
    ("one @ 15", 21, 21, 0, 1, 1),
    (r#"three{a="1"}"#, 21, 21, 0, 1, 1),
    (r#"three{a="1"} @ 19"#, 21, 21, 0, 1, 1),
    (r#"three{a="1"}[20s] @ 19"#, 21, 21, 0, 2, 2),
    ("three", 21, 21, 0, 3, 3),
    ("one[60s]", 201, 201, 0, 6, 6),
    ("histogram[60s]", 201, 201, 0, 78, 78),
    ("max_over_time(one[60s])[20s:5s]", 201, 201, 0, 24, 8),
    ("max_over_time(one[61s])[20s:5s]", 201, 201, 0, 26, 8),
    ("max_over_time(histogram[60s])[20s:5s]", 201, 201, 0, 312, 104),
    ("one[60s] @ 30", 201, 201, 0, 4, 4),
    ("histogram[60s] @ 30", 201, 201, 0, 52, 52),
    ("sum(max_over_time(three[60s] @ 30))", 201, 201, 0, 12, 12),
    ("sum by (b) (max_over_time(three[60s] @ 30))", 201, 201, 0, 12, 12),
    ("one[60s] offset 10s", 201, 201, 0, 6, 6),
    ("three[60s]", 201, 201, 0, 18, 18),
    ("max_over_time(one[60s])", 201, 201, 0, 6, 6),
    ("absent_over_time(one[60s])", 201, 201, 0, 6, 6),
    ("max_over_time(three[60s])", 201, 201, 0, 18, 18),
    ("one[60s:5s]", 201, 201, 0, 12, 12),
    ("one[60s:5s] offset 10s", 201, 201, 0, 12, 12),
    ("max_over_time(three[60s:5s])", 201, 201, 0, 36, 36),
    ("sum(max_over_time(three[60s:5s])) + sum(max_over_time(three[60s:5s]))", 201, 201, 0, 72, 72),
    (r#"three{a="1"}"#, 201, 220, 5, 4, 4),
    (r#"three{a="1"}"#, 204, 223, 5, 4, 4),
    ("histogram", 204, 223, 5, 52, 52),
    ("timestamp(one)", 201, 220, 5, 4, 4),
    ("timestamp(histogram)", 201, 220, 5, 4, 4),
    (r#"max_over_time(three{a="1"}[10s])"#, 991, 1021, 10, 2, 2),
    (r#"three{a="1"} offset 10s"#, 201, 220, 5, 4, 4),
    ("max_over_time(three[60s] @ 30)", 201, 220, 5, 48, 12),
    ("three", 201, 220, 5, 12, 12),
    ("max_over_time(three[60s])", 201, 220, 5, 72, 21),
    ("max_over_time(three[60s:5s])", 201, 216, 5, 144, 45),
    ("max_over_time(three[60s:5s])", 201, 220, 5, 144, 45),
    ("max_over_time(one[60s:5s])", 201, 220, 5, 48, 15),
    ("sum by (b) (max_over_time(one[60s:5s]))", 201, 220, 5, 48, 15),
    ("sum(max_over_time(three[60s:5s])) + sum(max_over_time(three[60s:5s]))", 201, 220, 5, 288, 90),
    ("sum(max_over_time(three[60s:5s])) + sum(max_over_time(one[60s:5s]))", 201, 216, 5, 192, 60),
    ("sum(max_over_time(three[60s:5s])) + sum(max_over_time(one[60s:5s]))", 201, 220, 5, 192, 60),
    ("max_over_time(one[20s:10s])", 201, 201, 0, 2, 2),
    ("sum_over_time(one[30s:30s])", 90, 90, 0, 1, 1),
    ("max_over_time(one[30s:2m])", 240, 240, 0, 1, 1),
    ("max_over_time(one[30s:10s])", 201, 231, 30, 6, 6),
    ("max_over_time(one[20s:10s])", 201, 261, 10, 14, 8),
    ("histogram_count(max_over_time(histogram[20s:10s]))", 201, 201, 0, 26, 26),
    ("avg_over_time(histogram[2m:1m])", 120, 240, 60, 78, 52),
    ("max_over_time(three[60s:10s])", 200, 400, 30, 126, 72),
    ("predict_linear(one[60s] @ 100, 60)", 100, 300, 100, 18, 6),
    ("sum_over_time(three[20s:10s] @ 200)", 250, 250, 0, 6, 6),
    ("sum_over_time(one[20s:10s] offset 1m)", 240, 240, 0, 2, 2),
    ("sum_over_time(three[1m:10s] @ 200 offset 1m)", 300, 300, 0, 18, 18),
    ("sum_over_time(max_over_time(three[60s] @ 300)[5m:1m] @ 600)[10m:2m]", 800, 800, 0, 75, 18),
    ("rate(sum_over_time(one[30s])[1m:30s])", 240, 240, 0, 2, 6),
];
