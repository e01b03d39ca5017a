//! Prometheus's own test scripts, run against the engine over a store in memory.
//!
//! The scripts are not part of this project: they are read from a folder beside it, and without that folder the
//! test says so and checks nothing. `floor.txt` holds how many evaluations of each file passed once; fewer is a
//! failure, more asks for a higher floor. `CHRONOLITH_SCRIPT=name` runs one file and prints every failure.

use chronolith_query::script::{MemoryStore, Script, run};
use chronolith_query::{Engine, EngineOptions, Features};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/promql")
}

fn engine() -> Engine {
    Engine::new(EngineOptions { features: Features::scripts(), threads: 2, ..EngineOptions::default() })
}

#[test]
fn scripts_pass_at_least_as_far_as_before() {
    let folder = folder();
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("SKIPPED: no scripts at {}", folder.display());
        return;
    };
    let floors: BTreeMap<&str, usize> = include_str!("floor.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (file, passed) = line.split_once(' ')?;
            Some((file, passed.trim().parse().expect("floor.txt has a name and a number a line")))
        })
        .collect();
    let only = std::env::var("CHRONOLITH_SCRIPT").ok();
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("the folder can be read").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "test"));
    files.sort();
    let engine = engine();
    let mut below = Vec::new();
    for path in files {
        let name = path.file_stem().expect("it has an extension").to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("scripts are text");
        let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = run(&script, &engine, &mut MemoryStore::new());
        println!("{name} {} passed, {} failed", outcome.passed, outcome.failures.len());
        if only.is_some() {
            for failure in &outcome.failures {
                println!("  line {}: {}", failure.line, failure.message);
            }
        }
        let floor = floors.get(name.as_str()).copied().unwrap_or(0);
        if outcome.passed < floor {
            below.push(format!("{name}: {} passed, {floor} before", outcome.passed));
        }
    }
    assert!(below.is_empty(), "{below:?}");
}
