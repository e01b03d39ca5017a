//! Prometheus's own test scripts, run against the engine over a store in memory.
//!
//! The scripts are not part of this project: they are read from a folder beside it, and without that folder the
//! tests say so and check nothing. `floor.txt` holds how many evaluations of each file passed once; fewer is a
//! failure, more asks for a higher floor. `CHRONOLITH_SCRIPT=name` runs one file and prints every failure.

use chronolith_query::oracle::Oracle;
use chronolith_query::script::parse::{CommandKind, Times};
use chronolith_query::script::run::store_load;
use chronolith_query::script::{MemoryStore, Script, ScriptEngine, ScriptStore, run};
use chronolith_query::{Engine, EngineOptions, Features, NoControl, QueryRequest};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Name and content of each script; empty, with a word about it, where there are none.
fn scripts() -> Vec<(String, Script)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/promql");
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("SKIPPED: no scripts at {}", folder.display());
        return Vec::new();
    };
    let only = std::env::var("CHRONOLITH_SCRIPT").ok();
    let mut scripts: Vec<(String, Script)> = files
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .map(|path| (path.file_stem().expect("it has an extension").to_string_lossy().into_owned(), path))
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == name))
        .map(|(name, path)| {
            let text = std::fs::read_to_string(&path).expect("scripts are text");
            let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, script)
        })
        .collect();
    scripts.sort_by(|a, b| a.0.cmp(&b.0));
    scripts
}

fn engine(threads: usize, batch_rows: Option<usize>) -> Engine {
    let features = Features::scripts();
    Engine::new(EngineOptions { features, threads, batch_rows, ..EngineOptions::default() })
}

#[test]
fn scripts_pass_at_least_as_far_as_before() {
    check_floors(&engine(2, None));
}

/// What is compared with the engine has to be as right as the engine.
#[test]
fn the_oracle_passes_as_many() {
    check_floors(&Oracle::new(EngineOptions { features: Features::scripts(), ..EngineOptions::default() }));
}

fn check_floors(engine: &dyn ScriptEngine) {
    let floors: BTreeMap<&str, usize> = include_str!("floor.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (file, passed) = line.split_once(' ')?;
            Some((file, passed.trim().parse().expect("floor.txt has a name and a number a line")))
        })
        .collect();
    let verbose = std::env::var("CHRONOLITH_SCRIPT").is_ok();
    let mut below = Vec::new();
    for (name, script) in scripts() {
        let outcome = run(&script, engine, &mut MemoryStore::new());
        println!("{name} {} passed, {} failed", outcome.passed, outcome.failures.len());
        for failure in outcome.failures.iter().filter(|_| verbose) {
            println!("  line {}: {}", failure.line, failure.message);
        }
        let floor = floors.get(name.as_str()).copied().unwrap_or(0);
        if outcome.passed < floor {
            below.push(format!("{name}: {} passed, {floor} before", outcome.passed));
        }
    }
    assert!(below.is_empty(), "{below:?}");
}

/// Sums of floats depend on their order, so whatever may run at once has to be put back in order.
#[test]
fn results_are_the_same_bits_on_any_number_of_threads_and_in_batches_of_any_size() {
    let engines = [engine(1, None), engine(2, Some(1)), engine(3, Some(7))];
    for (name, script) in scripts() {
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
