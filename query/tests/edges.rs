//! What Prometheus's own test scripts do not cover, as scripts of ours: every function over nothing, NaN,
//! infinities, resets, gaps and staleness markers, immediate removal of names, uneven steps, long ranges, times
//! before 1970. What they expect is what Prometheus 3.14 answers.

use chronolith_query::script::parse::{CommandKind, Times};
use chronolith_query::script::run::store_load;
use chronolith_query::script::{MemoryStore, Script, ScriptStore, run};
use chronolith_query::{Engine, EngineOptions, NoControl, QueryRequest};
use std::path::Path;

fn scripts() -> Vec<(String, Script)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata");
    let only = std::env::var("CHRONOLITH_SCRIPT").ok();
    let mut scripts: Vec<(String, Script)> = std::fs::read_dir(folder)
        .expect("the scripts are part of the crate")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .map(|path| {
            let name = path.file_stem().expect("it has an extension").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("scripts are text");
            let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, script)
        })
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == name))
        .collect();
    scripts.sort_by(|a, b| a.0.cmp(&b.0));
    scripts
}

fn engine(script: &Script, threads: usize, batch_rows: Option<usize>) -> Engine {
    let features = script.features;
    Engine::new(EngineOptions { features, threads, batch_rows, ..EngineOptions::default() })
}

#[test]
fn every_script_passes_whole() {
    let mut n_failed = 0;
    for (name, script) in scripts() {
        let outcome = run(&script, &engine(&script, 2, None), &mut MemoryStore::new());
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
    for (name, script) in scripts() {
        let engines = [engine(&script, 1, None), engine(&script, 2, Some(1)), engine(&script, 3, Some(7))];
        let mut stores =
            [MemoryStore::new(), MemoryStore::with_partition_rows(1), MemoryStore::with_partition_rows(3)];
        for command in &script.commands {
            match &command.kind {
                CommandKind::Clear => stores.iter_mut().for_each(MemoryStore::clear),
                CommandKind::Load(load) => {
                    for store in &mut stores {
                        store_load(load, store).expect("the script loads");
                    }
                }
                CommandKind::Eval(eval) => {
                    let results: Vec<String> = engines
                        .iter()
                        .zip(&stores)
                        .map(|(engine, store)| result(engine, store, &eval.query, eval.times))
                        .collect();
                    assert_eq!(results[0], results[1], "{name} line {}: {}", command.line, eval.query);
                    assert_eq!(results[0], results[2], "{name} line {}: {}", command.line, eval.query);
                }
            }
        }
    }
}

/// Everything a query gives, as text that tells all floats apart.
fn result(engine: &Engine, store: &MemoryStore, text: &str, times: Times) -> String {
    let (start, end, interval_ms, range) = match times {
        Times::Instant(at) => (at, at, 0, false),
        Times::Range(start, end, step) => (start, end, step, true),
    };
    let request = QueryRequest { text, start, end, interval_ms, range, lookback_delta_ms: None };
    match engine.execute(store.queryable(), &request, &NoControl) {
        Ok(output) => format!("{:?} {:?} {:?}", output.value, output.warnings, output.infos),
        Err(error) => format!("error: {error}"),
    }
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
    for (name, script) in scripts() {
        let engine = engine(&script, 2, None);
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
