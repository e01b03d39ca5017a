use super::*;
use crate::parser::signatures::SIGNATURES;
use crate::parser::{ExprKind, ParserOptions, parse_expr};
use crate::plan::repeats::Repeats;
use crate::plan::{Times, plan};
use crate::script::{MemoryStore, ScriptStore};
use crate::{Engine, EngineOptions, Features, NoControl, QueryRequest, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Queries over several worlds, with their world.
fn questions(seed: u64, n_worlds: usize, mix: Mix) -> Vec<(World, Vec<Question>)> {
    let mut rng = Rng::new(seed);
    (0..n_worlds)
        .map(|_| {
            let world = World::new(&mut rng, mix);
            let questions = (0..50).map(|_| world.question(&mut rng, mix)).collect();
            (world, questions)
        })
        .collect()
}

#[test]
fn a_seed_gives_the_same_series_and_queries() {
    let texts = |seed| -> Vec<Question> {
        questions(seed, 3, Mix::ALL).into_iter().flat_map(|(_, questions)| questions).collect()
    };
    assert_eq!(texts(1), texts(1));
    assert_ne!(texts(1), texts(2));
}

#[test]
fn nearly_all_queries_parse_and_every_part_of_the_language_occurs() {
    let mut functions = BTreeSet::new();
    let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut n_all, mut n_parsed) = (0, 0);
    let mut texts = String::new();
    for (_, questions) in questions(7, 300, Mix::ALL) {
        for question in questions {
            n_all += 1;
            let Ok(expr) = parse_expr(&question.text, ParserOptions::ALL) else { continue };
            n_parsed += 1;
            expr.walk(|expr| {
                match &expr.kind {
                    ExprKind::Call(call) => {
                        functions.insert(call.function.name);
                    }
                    ExprKind::Aggregate(aggregate) => {
                        *operators.entry(aggregate.op.as_str()).or_default() += 1;
                    }
                    ExprKind::Binary(binary) => *operators.entry(binary.op.as_str()).or_default() += 1,
                    _ => {}
                }
                true
            });
            texts.push_str(&question.text);
            texts.push('\n');
        }
    }
    assert!(n_parsed * 100 > n_all * 97, "{n_parsed} of {n_all}");
    let missing: Vec<&str> =
        SIGNATURES.iter().map(|signature| signature.name).filter(|name| !functions.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(operators.len(), 14 + 18, "{operators:?}");
    let parts = [
        " offset -",
        " @ start()",
        " @ end()",
        "anchored",
        "smoothed",
        "fill (",
        "fill_left",
        "fill_right",
        "group_left",
        "group_right",
        " bool ",
        "without",
        " ignoring",
        ":]",
        "step()",
        "range()",
        "max_of(",
        "__name__=~",
    ];
    for part in parts {
        assert!(texts.contains(part), "{part}");
    }
}

#[test]
fn classic_queries_and_series_are_those_of_any_server() {
    let options = ParserOptions::default();
    let (mut n_all, mut n_parsed) = (0, 0);
    for (world, questions) in questions(3, 100, Mix::CLASSIC) {
        for (_, samples) in &world.series {
            assert!(samples.iter().all(|(time, _)| time % 1000 != 0));
            assert!(samples.iter().all(|(_, sample)| sample.start_timestamp == 0));
            assert!(samples.iter().all(|(_, sample)| matches!(sample.value, crate::SampleValue::Float(_))));
        }
        for question in questions {
            n_all += 1;
            n_parsed += usize::from(parse_expr(&question.text, options).is_ok());
            assert!(question.start % 1000 == 0 && question.interval_ms % 1000 == 0);
        }
    }
    assert!(n_parsed * 100 > n_all * 97, "{n_parsed} of {n_all}");
}

#[test]
fn most_queries_return_something() {
    let features = Features::scripts();
    let engine = Engine::new(EngineOptions { features, threads: 1, ..EngineOptions::default() });
    let (mut n_all, mut n_filled, mut errors) = (0, 0, BTreeMap::<String, usize>::new());
    for (world, questions) in questions(11, 40, Mix::ALL) {
        let mut store = MemoryStore::new();
        store.load(&world.series).unwrap();
        for question in questions {
            let request = QueryRequest {
                text: &question.text,
                start: question.start,
                end: question.end,
                interval_ms: question.interval_ms,
                range: question.range,
                lookback_delta_ms: Some(world.lookback_ms),
            };
            n_all += 1;
            match engine.execute(&store, &request, &NoControl) {
                Ok(output) => {
                    n_filled += usize::from(match output.value {
                        Value::Scalar { .. } | Value::String { .. } => true,
                        Value::Vector(vector) => !vector.is_empty(),
                        Value::Matrix(matrix) => !matrix.is_empty(),
                    });
                }
                Err(error) => *errors.entry(error.to_string()).or_default() += 1,
            }
        }
    }
    let n_errors: usize = errors.values().sum();
    println!("{n_all} queries, {n_filled} not empty, {n_errors} errors");
    assert!(n_filled * 2 > n_all, "{n_filled} of {n_all}");
    assert!(n_errors * 4 < n_all, "{errors:?}");
}

#[test]
fn parts_of_many_queries_repeat() {
    let times = Times { start: 0, end: 60_000, interval_ms: 15_000, default_subquery_step_ms: 60_000 };
    let (mut n_all, mut n_repeating) = (0, 0);
    for question in questions(11, 60, Mix::ALL).into_iter().flat_map(|(_, questions)| questions) {
        let expr = parse_expr(&question.text, ParserOptions::ALL);
        let Some(plan) = expr.ok().and_then(|expr| plan(&expr, &times).ok()) else { continue };
        n_all += 1;
        n_repeating += usize::from(!Repeats::find(&plan).counts.is_empty());
    }
    // Half of the queries read one selector only.
    assert!(n_repeating * 100 > n_all * 7, "{n_repeating} of {n_all}");
}
