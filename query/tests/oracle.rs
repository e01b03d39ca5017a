//! The engine and the oracle over queries at random: the same bits, labels, order, annotations, errors and
//! statistics.
//!
//! A difference is made small (expression, grid, series, samples) and printed as a script for `testdata`.
//!
//! - `CHRONOLITH_ORACLE_SEED`: where to begin; each world of series and its queries have a seed of their own.
//! - `CHRONOLITH_ORACLE_QUERIES`: how many queries, 20,000 by default.
//! - `CHRONOLITH_ORACLE_SECONDS`: begin no world after so many seconds.
//! - `CHRONOLITH_ORACLE_KEEP_GOING`: print so many differences before failing, instead of one.

mod oracle {
    pub mod compare;
    pub mod script;
    pub mod shrink;
}

#[path = "support/scripts.rs"]
mod support;

use chronolith_query::oracle::Oracle;
use chronolith_query::oracle::generate::{Mix, Question, Rng, World};
use chronolith_query::script::{MemoryStore, run};
use chronolith_query::{EngineOptions, Features};
use oracle::compare::{Case, Contest};
use std::time::Instant;

/// Queries over one world: reading it costs as much as some of them.
const QUERIES_PER_WORLD: usize = 100;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// The parts of the language that are on in a world.
fn features(rng: &mut Rng) -> Features {
    Features {
        delayed_name_removal: rng.chance(50),
        type_and_unit_labels: rng.chance(20),
        start_timestamps: rng.chance(70),
        ..Features::scripts()
    }
}

#[test]
fn engine_and_oracle_agree() {
    let first = number("CHRONOLITH_ORACLE_SEED").unwrap_or(1);
    let n_queries = number("CHRONOLITH_ORACLE_QUERIES").unwrap_or(20_000);
    let most_differences = number("CHRONOLITH_ORACLE_KEEP_GOING").unwrap_or(1);
    let seconds = number("CHRONOLITH_ORACLE_SECONDS");
    let begun = Instant::now();
    let mut contest = Contest::new();
    let (mut n_differences, mut seed) = (0, first);
    while contest.n_queries < n_queries && seconds.is_none_or(|most| begun.elapsed().as_secs() < most) {
        let mut rng = Rng::new(seed);
        let features = features(&mut rng);
        let world = World::new(&mut rng, Mix::ALL);
        let questions: Vec<Question> =
            (0..QUERIES_PER_WORLD).map(|_| world.question(&mut rng, Mix::ALL)).collect();
        for question in contest.differences(&world, features, &questions) {
            let case = Case { world: world.clone(), features, question: question.clone() };
            println!("seed {seed}, {}", question.text);
            let small = oracle::shrink::shrink(&mut contest, case);
            println!("{}", oracle::script::print(&mut contest, &small));
            n_differences += 1;
            assert!(n_differences < most_differences, "{n_differences} differences, see above");
        }
        seed += 1;
    }
    println!(
        "{} queries over the worlds {first} to {} in {:.0?}: {} of them with samples, {} errors",
        contest.n_queries,
        seed - 1,
        begun.elapsed(),
        contest.n_filled,
        contest.n_errors
    );
    assert_eq!(n_differences, 0);
}

/// Our own scripts say what Prometheus answers: the oracle has to agree.
#[test]
fn the_oracle_passes_our_scripts() {
    let mut failures = Vec::new();
    for (name, script) in support::own() {
        let oracle = Oracle::new(EngineOptions { features: script.features, ..EngineOptions::default() });
        let outcome = run(&script, &oracle, &mut MemoryStore::new());
        assert!(outcome.passed > 0, "{name} asks nothing");
        for failure in outcome.failures {
            failures.push(format!("{name} line {}: {}", failure.line, failure.message));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
