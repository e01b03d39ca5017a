//! Prometheus's own test scripts, run against the engine over a store in memory.
//!
//! The scripts are not part of this project: they are read from a folder beside it, and without that folder the
//! tests say so and check nothing. `floor.txt` holds how many evaluations of each file passed once; fewer is a
//! failure, more asks for a higher floor. `CHRONOLITH_SCRIPT=name` runs one file and prints every failure.

#[path = "support/scripts.rs"]
mod support;

use chronolith_query::oracle::Oracle;
use chronolith_query::script::{MemoryStore, ScriptEngine, run};
use chronolith_query::{EngineOptions, Features};
use std::collections::BTreeMap;
use support::{assert_same_bits, engine, plain_engine, upstream};

#[test]
fn scripts_pass_at_least_as_far_as_before() {
    check_floors(&engine(Features::scripts(), 2, None));
}

#[test]
fn scripts_pass_as_far_with_one_thread_rows_one_by_one_and_nothing_shared_or_pushed_down() {
    check_floors(&plain_engine(Features::scripts(), 1, Some(1)));
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
    for (name, script) in upstream() {
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

#[test]
fn results_are_the_same_bits_whatever_threads_batches_sharing_and_pushdown() {
    assert_same_bits(upstream());
}
