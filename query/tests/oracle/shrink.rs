//! Making a difference small: less of everything, as long as the answers still differ.

use super::compare::{Case, Contest};
use chronolith_model::{FloatHistogram, LabelsBuilder};
use chronolith_query::SampleValue;
use chronolith_query::parser::ast::{At, Extent, NumberLiteral};
use chronolith_query::parser::{Expr, ExprKind, ParserOptions, ValueType, parse_expr};
use std::sync::Arc;

/// A case that cannot be made smaller in one step.
pub fn shrink(contest: &mut Contest, mut case: Case) -> Case {
    loop {
        let mut smaller = fewer_series(contest, &mut case) | fewer_samples(contest, &mut case);
        for candidates in [grids, expressions, simpler_samples, settings] {
            // Candidates follow from the case, so begin anew with each that works.
            while let Some(found) =
                candidates(&case).into_iter().find(|candidate| contest.ask(candidate).1.is_some())
            {
                case = found;
                smaller = true;
            }
        }
        if !smaller {
            return case;
        }
    }
}

/// Leaves out as many items as possible, many at once first; whether it could leave out any.
fn reduce<T: Clone>(items: &mut Vec<T>, mut still: impl FnMut(&[T]) -> bool) -> bool {
    let n_before = items.len();
    let mut size = items.len();
    while size > 0 {
        let mut at = 0;
        while at < items.len() {
            let end = items.len().min(at + size);
            let fewer: Vec<T> = items[..at].iter().chain(&items[end..]).cloned().collect();
            if still(&fewer) {
                *items = fewer;
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    items.len() < n_before
}

fn fewer_series(contest: &mut Contest, case: &mut Case) -> bool {
    let mut series = case.world.series.clone();
    let mut candidate = case.clone();
    let smaller = reduce(&mut series, |fewer| {
        candidate.world.series = fewer.to_vec();
        contest.ask(&candidate).1.is_some()
    });
    case.world.series = series;
    smaller
}

fn fewer_samples(contest: &mut Contest, case: &mut Case) -> bool {
    let mut smaller = false;
    for at in 0..case.world.series.len() {
        let mut samples = case.world.series[at].1.clone();
        let mut candidate = case.clone();
        smaller |= reduce(&mut samples, |fewer| {
            candidate.world.series[at].1 = fewer.to_vec();
            contest.ask(&candidate).1.is_some()
        });
        case.world.series[at].1 = samples;
    }
    smaller
}

fn grids(case: &Case) -> Vec<Case> {
    let question = &case.question;
    if !question.range {
        return Vec::new();
    }
    let n_steps = (question.end - question.start) / question.interval_ms + 1;
    let with = |change: &dyn Fn(&mut Case)| {
        let mut case = case.clone();
        change(&mut case);
        case
    };
    let mut candidates: Vec<Case> = (0..n_steps)
        .map(|step| {
            with(&|case| {
                let at = question.start + step * question.interval_ms;
                (case.question.start, case.question.end, case.question.interval_ms) = (at, at, 0);
                case.question.range = false;
            })
        })
        .collect();
    let last = question.start + (n_steps - 1) * question.interval_ms;
    if last != question.end {
        candidates.push(with(&|case| case.question.end = last));
    }
    if n_steps > 1 {
        candidates.push(with(&|case| {
            case.question.end = question.start + (n_steps / 2 - 1) * question.interval_ms
        }));
        candidates.push(with(&|case| case.question.end = last - question.interval_ms));
        candidates.push(with(&|case| case.question.start += question.interval_ms));
    }
    candidates
}

/// The query with one part of it left out.
fn expressions(case: &Case) -> Vec<Case> {
    let Ok(expr) = parse_expr(&case.question.text, ParserOptions::ALL) else { return Vec::new() };
    let mut n_nodes = 0;
    expr.walk(|_| {
        n_nodes += 1;
        true
    });
    let mut texts = vec![expr.to_string()];
    for target in 0..n_nodes {
        for change in 0.. {
            let mut copy = expr.clone();
            let (mut at, mut changed) = (0, false);
            copy.walk_mut(|node| {
                if at == target {
                    changed = simplify(node, change);
                }
                at += 1;
                at <= target
            });
            if !changed {
                break;
            }
            texts.push(copy.to_string());
        }
    }
    let shorter = |text: &String| text.len() < case.question.text.len();
    let candidates =
        texts.into_iter().filter(shorter).filter(|text| parse_expr(text, ParserOptions::ALL).is_ok());
    candidates.map(|text| with_text(case, text)).collect()
}

fn with_text(case: &Case, text: String) -> Case {
    let mut case = case.clone();
    case.question.text = text;
    case
}

/// Makes the `change`th change to a node; false if there are not so many.
fn simplify(node: &mut Expr, change: usize) -> bool {
    let wanted = node.value_type();
    let children: Vec<Expr> = node.children().into_iter().cloned().collect();
    let n_children = children.len();
    if let Some(child) = children.into_iter().nth(change) {
        if child.value_type() == wanted {
            *node = child;
        } else if let (ExprKind::Matrix(matrix), ValueType::Vector) = (&child.kind, wanted) {
            node.kind = ExprKind::Vector(Box::new(matrix.selector.clone()));
        } else if let (ExprKind::Subquery(subquery), ValueType::Vector) = (&child.kind, wanted) {
            *node = subquery.expr.clone();
        }
        return true;
    }
    match change - n_children {
        0 if wanted == ValueType::Scalar => {
            node.kind = ExprKind::Number(NumberLiteral { value: 1.0, is_duration: false });
        }
        0..7 => {
            let change = change - n_children;
            match &mut node.kind {
                ExprKind::Vector(selector) => simplify_selector(selector, change),
                ExprKind::Matrix(matrix) => simplify_selector(&mut matrix.selector, change),
                ExprKind::Subquery(subquery) => match change {
                    0 => subquery.offset = Extent::default(),
                    1 => subquery.at = At::None,
                    _ => {}
                },
                ExprKind::Aggregate(aggregate) => match change {
                    0 => drop(aggregate.grouping.pop()),
                    1 => aggregate.without = false,
                    _ => {}
                },
                ExprKind::Binary(binary) => {
                    if change == 0 {
                        binary.return_bool = false;
                    }
                    if let Some(matching) = &mut binary.matching {
                        match change {
                            1 => drop(matching.labels.pop()),
                            2 => drop(matching.include.pop()),
                            3 => matching.fill_lhs = None,
                            4 => matching.fill_rhs = None,
                            5 => matching.on = false,
                            _ => {}
                        }
                    }
                }
                ExprKind::Call(call) if change == 0 && call.function.variadic != 0 => drop(call.args.pop()),
                _ => {}
            }
        }
        _ => return false,
    }
    true
}

fn simplify_selector(selector: &mut chronolith_query::parser::ast::VectorSelector, change: usize) {
    match change {
        0 => selector.offset = Extent::default(),
        1 => selector.at = At::None,
        2 => selector.anchored = false,
        3 => selector.smoothed = false,
        4 if selector.matchers.len() > 1 => drop(selector.matchers.remove(0)),
        _ => {}
    }
}

fn simpler_samples(case: &Case) -> Vec<Case> {
    let mut candidates = Vec::new();
    for (at, (labels, samples)) in case.world.series.iter().enumerate() {
        for name in labels.iter().map(|(name, _)| name).filter(|name| *name != "__name__") {
            let mut builder: LabelsBuilder = labels.to_builder();
            builder.remove(name);
            let without = builder.build();
            if case.world.series.iter().all(|(other, _)| *other != without) {
                let mut case = case.clone();
                case.world.series[at].0 = without;
                candidates.push(case);
            }
        }
        for (i, (_, sample)) in samples.iter().enumerate() {
            let mut with = |sample| {
                let mut case = case.clone();
                case.world.series[at].1[i].1 = sample;
                candidates.push(case);
            };
            if sample.start_timestamp != 0 {
                let mut simple = sample.clone();
                simple.start_timestamp = 0;
                with(simple);
            }
            for value in simpler_values(&sample.value) {
                let mut simple = sample.clone();
                simple.value = value;
                with(simple);
            }
        }
    }
    candidates
}

fn simpler_values(value: &SampleValue) -> Vec<SampleValue> {
    match value {
        SampleValue::Float(value) => {
            let simple = [1.0, value.round(), (value * 10.0).round() / 10.0];
            let is_simpler = |simple: &&f64| simple.to_string().len() < value.to_string().len();
            simple.iter().filter(is_simpler).map(|simple| SampleValue::Float(*simple)).collect()
        }
        SampleValue::Histogram(histogram) => {
            let mut simpler = Vec::new();
            let mut push = |change: &dyn Fn(&mut FloatHistogram)| {
                let mut copy = (**histogram).clone();
                change(&mut copy);
                if format!("{copy:?}").len() < format!("{histogram:?}").len() {
                    simpler.push(SampleValue::Histogram(Arc::new(copy)));
                }
            };
            push(&|histogram| {
                histogram.negative_spans.clear();
                histogram.negative_buckets.clear();
            });
            push(&|histogram| {
                histogram.positive_spans.clear();
                histogram.positive_buckets.clear();
            });
            push(&|histogram| histogram.sum = histogram.sum.round());
            push(&|histogram| histogram.count = histogram.count.round());
            push(&|histogram| histogram.zero_count = 0.0);
            push(&|histogram| {
                let buckets = histogram.positive_buckets.iter_mut().chain(&mut histogram.negative_buckets);
                buckets.for_each(|count| *count = count.round());
            });
            simpler
        }
    }
}

fn settings(case: &Case) -> Vec<Case> {
    let mut candidates = Vec::new();
    let mut with = |change: &dyn Fn(&mut Case)| {
        let mut case = case.clone();
        change(&mut case);
        candidates.push(case);
    };
    if !case.features.delayed_name_removal {
        with(&|case| case.features.delayed_name_removal = true);
    }
    if case.features.type_and_unit_labels {
        with(&|case| case.features.type_and_unit_labels = false);
    }
    if !case.features.start_timestamps {
        with(&|case| case.features.start_timestamps = true);
    }
    if case.world.lookback_ms != 300_000 {
        with(&|case| case.world.lookback_ms = 300_000);
    }
    candidates
}
