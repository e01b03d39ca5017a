//! Scripts from a folder, and one evaluation after the other over several engines.

#![allow(dead_code, reason = "no test uses all of it")]

use chronolith_query::script::parse::{CommandKind, Times};
use chronolith_query::script::run::store_load;
use chronolith_query::script::{MemoryStore, Script, ScriptStore};
use chronolith_query::{Engine, EngineOptions, Features, NoControl, QueryRequest};
use std::path::Path;

/// Our own scripts.
pub fn own() -> Vec<(String, Script)> {
    scripts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata"))
}

/// Prometheus's scripts. They are not part of this project: without the folder beside it there are none, and a word
/// about it.
pub fn upstream() -> Vec<(String, Script)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/promql");
    if !folder.is_dir() {
        println!("SKIPPED: no scripts at {}", folder.display());
        return Vec::new();
    }
    scripts(&folder)
}

/// Name and content of each script of a folder, or of the one that `CHRONOLITH_SCRIPT` names.
fn scripts(folder: &Path) -> Vec<(String, Script)> {
    let only = std::env::var("CHRONOLITH_SCRIPT").ok();
    let mut scripts: Vec<(String, Script)> = std::fs::read_dir(folder)
        .expect("the folder is there")
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

/// An engine with so many threads; `batch_rows` as in [`EngineOptions`].
pub fn engine(features: Features, threads: usize, batch_rows: Option<usize>) -> Engine {
    Engine::new(EngineOptions { features, threads, batch_rows, ..EngineOptions::default() })
}

/// As [`engine`], but every part of a query is evaluated wherever it stands, and selectors read everything.
pub fn plain_engine(features: Features, threads: usize, batch_rows: Option<usize>) -> Engine {
    let options = EngineOptions { features, threads, batch_rows, ..EngineOptions::default() };
    Engine::new(EngineOptions { sharing: false, pushdown: false, ..options })
}

/// Runs each script on several threads, in batches of several sizes, over partitions of several sizes: sums of floats
/// depend on their order, so whatever runs at once has to be put back in order. And with and without what is done to
/// read and evaluate less.
pub fn assert_same_bits(scripts: Vec<(String, Script)>) {
    for (name, script) in scripts {
        let features = script.features;
        let engines = [
            plain_engine(features, 1, None),
            engine(features, 1, None),
            engine(features, 2, Some(1)),
            engine(features, 3, Some(7)),
            plain_engine(features, 1, Some(1)),
        ];
        let mut stores = [
            MemoryStore::new(),
            MemoryStore::new(),
            MemoryStore::with_partition_rows(1),
            MemoryStore::with_partition_rows(3),
            MemoryStore::with_partition_rows(1),
        ];
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
                    for other in &results[1..] {
                        assert_eq!(&results[0], other, "{name} line {}: {}", command.line, eval.query);
                    }
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
        Ok(output) => format!(
            "{:?} {:?} {:?} {} {}",
            output.value,
            output.warnings,
            output.infos,
            output.stats.total_queryable_samples,
            output.stats.samples_read
        ),
        Err(error) => format!("error: {error}"),
    }
}
