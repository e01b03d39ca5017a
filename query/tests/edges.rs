//! What Prometheus's own test scripts do not cover, as scripts of ours: every function over nothing, NaN,
//! infinities, resets, gaps and staleness markers, immediate removal of names, uneven steps, long ranges, times
//! before 1970. What they expect is what Prometheus 3.14 answers.

#[path = "support/scripts.rs"]
mod support;

use chronolith_query::script::parse::{CommandKind, Times};
use chronolith_query::script::run::store_load;
use chronolith_query::script::{MemoryStore, ScriptStore as _, run};
use chronolith_query::{NoControl, QueryRequest};
use support::{assert_same_bits, engine, own};

#[test]
fn every_script_passes_whole() {
    let mut n_failed = 0;
    for (name, script) in own() {
        let outcome = run(&script, &engine(script.features, 2, None), &mut MemoryStore::new());
        println!("{name} {} passed, {} failed", outcome.passed, outcome.failures.len());
        for failure in &outcome.failures {
            println!("  {name} line {}: {}", failure.line, failure.message);
        }
        n_failed += outcome.failures.len();
        let n_evals = script.commands.iter().filter(|command| matches!(command.kind, CommandKind::Eval(_)));
        assert!(outcome.failures.len() + outcome.passed >= n_evals.count(), "{name} stopped early");
    }
    assert_eq!(n_failed, 0);
}

#[test]
fn results_are_the_same_bits_on_any_number_of_threads_and_in_batches_of_any_size() {
    assert_same_bits(own());
}

/// Time that goes on whenever somebody looks.
#[derive(Default)]
struct Ticks(std::sync::atomic::AtomicU64);

impl chronolith_query::Clock for Ticks {
    fn now(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

#[test]
fn an_analysis_evaluates_as_the_query_does() {
    for (name, script) in own() {
        let engine = engine(script.features, 2, None);
        let mut store = MemoryStore::new();
        for command in &script.commands {
            match &command.kind {
                CommandKind::Clear => store.clear(),
                CommandKind::Load(load) => store_load(load, &mut store).expect("the script loads"),
                CommandKind::Eval(eval) => {
                    let (start, end, interval_ms, range) = match eval.times {
                        Times::Instant(at) => (at, at, 0, false),
                        Times::Range(start, end, step) => (start, end, step, true),
                    };
                    let text = eval.query.as_str();
                    let request =
                        QueryRequest { text, start, end, interval_ms, range, lookback_delta_ms: None };
                    let clock = std::sync::Arc::new(Ticks::default());
                    let place = format!("{name} line {}: {text}", command.line);
                    let explained = engine.explain(store.queryable(), &request, &NoControl, Some(clock));
                    match (engine.execute(store.queryable(), &request, &NoControl), explained) {
                        (Ok(output), Ok(explanation)) => {
                            let outcome = explanation.outcome.expect("it was evaluated");
                            assert_eq!(outcome.warnings, output.warnings, "{place}");
                            assert_eq!(outcome.infos, output.infos, "{place}");
                            assert_eq!(outcome.stats.samples_read, output.stats.samples_read, "{place}");
                        }
                        (Err(expected), Err(found)) => assert_eq!(expected, found, "{place}"),
                        (expected, found) => panic!("{place}: {expected:?} against {found:?}"),
                    }
                }
            }
        }
    }
}
