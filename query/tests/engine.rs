//! Tables from upstream's engine tests that the scripts do not cover: immediate removal of names, fixed times,
//! and which series may be counters.
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
