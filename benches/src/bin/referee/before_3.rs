//! Differences from Prometheus before 3.0, which lacks what came later and had other rules.
//!
//! A query merely having an operation whose rule changed explains nothing. Where the rule can be put aside, both are
//! asked a neighbour of the query that does without it (a window a millisecond shorter, `irate` for `rate`, all
//! series for the first `k`): only a difference that goes away with it is taken for what it is said to be.

use crate::Version;
use crate::compare::{Answer, Difference, Verdict, compare};
use chronolith_model::{METRIC_NAME, Matcher};
use chronolith_query::oracle::generate::Question;
use chronolith_query::parser::ast::{Aggregate, AggregateOp, At, BinaryOp, Extent, NumberLiteral};
use chronolith_query::parser::{Expr, ExprKind, Function, ParserOptions, ValueType, parse_expr};
use std::collections::BTreeMap;

/// Functions that 2.42 does not know.
const LATER_FUNCTIONS: [&str; 19] = [
    "double_exponential_smoothing",
    "first_over_time",
    "histogram_avg",
    "histogram_quantiles",
    "histogram_stddev",
    "histogram_stdvar",
    "info",
    "mad_over_time",
    "max_of",
    "min_of",
    "range",
    "sort_by_label",
    "sort_by_label_desc",
    "start_timestamp",
    "step",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
];

/// What a difference is looked at with.
pub struct Case<'a> {
    pub question: &'a Question,
    pub difference: &'a Difference,
    pub answers: [&'a Answer; 2],
    /// Whether a series has a bound of buckets that is no number.
    pub has_nan_bounds: bool,
    pub version: Version,
}

impl Case<'_> {
    /// Why the difference is none, if it is; `ask` asks both.
    pub fn reason(
        &self,
        ask: &mut dyn FnMut(&Question) -> Result<[Answer; 2], String>,
    ) -> Result<Option<&'static str>, String> {
        let text = self.question.text.as_str();
        let Ok(expr) = parse_expr(text, ParserOptions::ALL) else { return Ok(None) };
        if let Difference::Refusal { theirs, ours } = self.difference
            && let Some(reason) = refusal(&expr, text, theirs, ours)
        {
            return Ok(Some(reason));
        }
        let [theirs, ours] = self.answers;
        if self.agree_but_for_type_and_unit(theirs, ours) {
            return Ok(Some(TYPE_AND_UNIT));
        }
        let rules = RULES.iter().filter(|rule| !rule.needs_nan_bounds || self.has_nan_bounds);
        let rules: Vec<&Rule> = rules.filter(|rule| changed(&expr, rule.change).is_some()).collect();
        for rule in &rules {
            let neighbour = changed(&expr, rule.change).expect("it applies");
            if self.agree_on(&neighbour, ask)? {
                return Ok(Some(rule.reason));
            }
        }
        let mut untyped = expr.clone();
        without_type_and_unit(&mut untyped);
        let has_typed = selects_typed(&expr);
        if has_typed && self.agree_on(&untyped, ask)? {
            return Ok(Some(TYPE_AND_UNIT));
        }
        // Several at once.
        if let [first, ..] = &rules[..]
            && rules.len() + usize::from(has_typed) > 1
        {
            let from = if has_typed { untyped } else { expr.clone() };
            let neighbour = rules.iter().fold(from, |expr, rule| changed(&expr, rule.change).unwrap_or(expr));
            if self.agree_on(&neighbour, ask)? {
                return Ok(Some(first.reason));
            }
        }
        // What is grouped or matched by a label that only one of them has differs in its values, too.
        Ok((text.contains("__type__") || text.contains("__unit__")).then_some(TYPE_AND_UNIT))
    }

    fn agree_on(
        &self,
        neighbour: &Expr,
        ask: &mut dyn FnMut(&Question) -> Result<[Answer; 2], String>,
    ) -> Result<bool, String> {
        let [theirs, ours] = ask(&Question { text: neighbour.to_string(), ..self.question.clone() })?;
        let verdict = compare(&theirs, &ours, self.version);
        let is_refusal = matches!(self.difference, Difference::Refusal { .. });
        Ok(matches!(verdict, Verdict::Equal { .. })
            || is_refusal && matches!(verdict, Verdict::BothRefuse)
            || self.agree_but_for_type_and_unit(&theirs, &ours))
    }

    /// `__type__` and `__unit__` go with the name since 3.4. Of series that become equal by that, one is compared.
    fn agree_but_for_type_and_unit(&self, theirs: &Answer, ours: &Answer) -> bool {
        let names = |answer: &Answer| answer.points.keys().any(|labels| labels.contains("__type__"));
        if theirs.error.is_some() || ours.error.is_some() || !names(theirs) {
            return false;
        }
        let without = |answer: &Answer| Answer {
            points: answer
                .points
                .iter()
                .map(|(labels, points)| (without_type(labels), points.clone()))
                .collect(),
            ..answer.clone()
        };
        matches!(compare(&without(theirs), &without(ours), self.version), Verdict::Equal { .. })
    }
}

const TYPE_AND_UNIT: &str = "labels of type and unit";

/// A rule that changed, and how to ask without it.
struct Rule {
    reason: &'static str,
    needs_nan_bounds: bool,
    /// Changes an expression; false if it is none that the rule is about.
    change: fn(&mut Expr) -> bool,
}

const RULES: [Rule; 9] = [
    Rule {
        reason: "windows of subqueries closed on the left",
        needs_nan_bounds: false,
        change: |expr| {
            let ExprKind::Subquery(subquery) = &mut expr.kind else { return false };
            let Extent::Millis(range_ms) = &mut subquery.range else { return false };
            *range_ms -= 1;
            true
        },
    },
    Rule {
        reason: "extrapolation of counters to zero",
        needs_nan_bounds: false,
        change: |expr| {
            let ExprKind::Call(call) = &mut expr.kind else { return false };
            let is_extrapolated = matches!(call.function.function, Function::Rate | Function::Increase);
            if is_extrapolated {
                call.function = Function::Irate.signature();
            }
            is_extrapolated
        },
    },
    Rule {
        reason: "ties of topk and bottomk",
        needs_nan_bounds: false,
        change: |expr| {
            let ExprKind::Aggregate(aggregate) = &mut expr.kind else { return false };
            let takes_first = matches!(aggregate.op, AggregateOp::Topk | AggregateOp::Bottomk);
            if let (true, Some(count)) = (takes_first, &mut aggregate.param) {
                count.kind = ExprKind::Number(NumberLiteral { value: 1e6, is_duration: false });
            }
            takes_first
        },
    },
    Rule {
        reason: "names after atan2",
        needs_nan_bounds: false,
        change: |expr| {
            let ExprKind::Binary(binary) = &mut expr.kind else { return false };
            let is_atan2 = binary.op == BinaryOp::Atan2;
            if is_atan2 {
                binary.op = BinaryOp::Div;
            }
            is_atan2
        },
    },
    Rule {
        reason: "names brought by group_left",
        needs_nan_bounds: false,
        change: |expr| {
            let ExprKind::Binary(binary) = &mut expr.kind else { return false };
            let Some(matching) = &mut binary.matching else { return false };
            let n_before = matching.include.len();
            matching.include.retain(|label| label != METRIC_NAME);
            matching.include.len() < n_before
        },
    },
    Rule {
        reason: "count_values with the name, or a label twice",
        needs_nan_bounds: false,
        change: |expr| {
            let ExprKind::Aggregate(aggregate) = &mut expr.kind else { return false };
            let Some(ExprKind::String(label)) = aggregate.param.as_ref().map(|param| &param.kind) else {
                return false;
            };
            let grouping = &aggregate.grouping;
            let is_twice = |(at, name): (usize, &String)| grouping[..at].contains(name);
            let is_odd = label == METRIC_NAME.as_bytes()
                || grouping.iter().any(|name| name.as_bytes() == label)
                || grouping.iter().enumerate().any(is_twice);
            if !is_odd {
                return false;
            }
            (aggregate.op, aggregate.param) = (AggregateOp::Count, None);
            true
        },
    },
    Rule {
        reason: "predictions from a fixed window",
        needs_nan_bounds: false,
        change: |expr| {
            let ExprKind::Call(call) = &mut expr.kind else { return false };
            let is_fixed = match call.args.first().map(|arg| &arg.kind) {
                Some(ExprKind::Matrix(matrix)) => matrix.selector.at != At::None,
                Some(ExprKind::Subquery(subquery)) => subquery.at != At::None,
                _ => false,
            };
            if call.function.function != Function::PredictLinear || !is_fixed {
                return false;
            }
            call.function = Function::Deriv.signature();
            call.args.truncate(1);
            true
        },
    },
    Rule {
        reason: "sums without compensation",
        needs_nan_bounds: false,
        change: |expr| match &mut expr.kind {
            ExprKind::Aggregate(aggregate) => {
                use AggregateOp::{Avg, Max, Stddev, Stdvar, Sum};
                let sums = matches!(aggregate.op, Avg | Stddev | Stdvar | Sum);
                if sums {
                    aggregate.op = Max;
                }
                sums
            }
            ExprKind::Call(call) => {
                use Function::{AvgOverTime, MaxOverTime, StddevOverTime, StdvarOverTime, SumOverTime};
                let function = call.function.function;
                let sums = matches!(function, AvgOverTime | StddevOverTime | StdvarOverTime | SumOverTime);
                if sums {
                    call.function = MaxOverTime.signature();
                }
                sums
            }
            _ => false,
        },
    },
    Rule {
        reason: "buckets bounded by NaN",
        needs_nan_bounds: true,
        change: |expr| {
            let ExprKind::Call(call) = &mut expr.kind else { return false };
            if call.function.function != Function::HistogramQuantile {
                return false;
            }
            let Some(buckets) = call.args.pop() else { return false };
            expr.kind = ExprKind::Aggregate(Box::new(Aggregate {
                op: AggregateOp::Sum,
                expr: buckets,
                param: None,
                grouping: vec!["le".to_owned()],
                without: true,
            }));
            true
        },
    },
];

/// The expression with a change wherever it applies; nothing if it does nowhere.
fn changed(expr: &Expr, change: fn(&mut Expr) -> bool) -> Option<Expr> {
    let mut expr = expr.clone();
    let mut any = false;
    expr.walk_mut(|expr| {
        any |= change(expr);
        true
    });
    any.then_some(expr)
}

fn refusal(expr: &Expr, text: &str, theirs: &str, ours: &str) -> Option<&'static str> {
    if let Some((_, name)) = theirs.split_once("unknown function with name \\\"") {
        let name = name.split('\\').next().unwrap_or_default();
        return LATER_FUNCTIONS.contains(&name).then_some("functions that came later");
    }
    if let Some((_, name)) = theirs.split_once("unknown function with name \"") {
        let name = name.split('"').next().unwrap_or_default();
        return LATER_FUNCTIONS.contains(&name).then_some("functions that came later");
    }
    let refusals = [
        ("unexpected string", text.contains('{'), "quoted metric names in braces"),
        ("invalid label name", text.contains('.'), "label names in UTF-8"),
        ("invalid destination label name", text.contains("label_"), "label names in UTF-8"),
        ("unexpected result in StepInvariantExpr evaluation", text.contains('('), "a string in parentheses"),
        ("unexpected duration", text.bytes().any(|byte| byte.is_ascii_digit()), "durations as numbers"),
        ("overflows int64", takes_first(expr), "a parameter of topk below every integer"),
        ("trailing commas not allowed", text.contains(','), "durations as numbers"),
    ];
    let found = refusals.iter().find(|(refusal, is_asked, _)| *is_asked && theirs.contains(refusal));
    if let Some((.., reason)) = found {
        return Some(reason);
    }
    if !theirs.starts_with("200") {
        return None;
    }
    if ours.contains("multiple matches for labels") && compares_vectors(expr) {
        return Some("second matches of comparisons");
    }
    (ours.contains("same labelset") && selects_typed(expr)).then_some(TYPE_AND_UNIT)
}

/// Takes type and unit away where series come from: around selectors, and around functions of windows and times.
fn without_type_and_unit(expr: &mut Expr) {
    let is_source =
        |expr: &Expr| matches!(&expr.kind, ExprKind::Vector(_) | ExprKind::Matrix(_) | ExprKind::Subquery(_));
    let wraps = match &mut expr.kind {
        ExprKind::Vector(_) => true,
        ExprKind::Call(call) if call.args.iter().any(is_source) => {
            let is_of_samples = call.function.function == Function::Timestamp;
            let mut takes_window = false;
            for arg in &mut call.args {
                match &mut arg.kind {
                    ExprKind::Subquery(subquery) => without_type_and_unit(&mut subquery.expr),
                    ExprKind::Matrix(_) => {}
                    ExprKind::Vector(_) if is_of_samples => {}
                    _ => {
                        without_type_and_unit(arg);
                        continue;
                    }
                }
                takes_window = true;
            }
            takes_window
        }
        _ => {
            expr.children_mut().into_iter().for_each(without_type_and_unit);
            false
        }
    };
    if wraps && expr.value_type() == ValueType::Vector {
        let text = format!(
            "label_replace(label_replace({expr}, \"__type__\", \"\", \"__type__\", \".*\"), \"__unit__\", \"\", \"__unit__\", \".*\")"
        );
        if let Ok(wrapped) = parse_expr(&text, ParserOptions::ALL) {
            *expr = wrapped;
        }
    }
}

/// Whether a comparison of two vectors is part of the query.
fn compares_vectors(expr: &Expr) -> bool {
    any(
        expr,
        |kind| matches!(kind, ExprKind::Binary(binary) if binary.op.is_comparison() && binary.matching.is_some()),
    )
}

fn takes_first(expr: &Expr) -> bool {
    any(
        expr,
        |kind| matches!(kind, ExprKind::Aggregate(aggregate) if matches!(aggregate.op, AggregateOp::Topk | AggregateOp::Bottomk)),
    )
}

/// Whether series with a type and a unit may be selected: by their name, or where the name is left open.
fn selects_typed(expr: &Expr) -> bool {
    let takes = |matcher: &Matcher| matcher.name != METRIC_NAME || matcher.matches("typed");
    expr.selectors().iter().any(|selector| selector.matchers.iter().all(takes))
}

fn any(expr: &Expr, is_it: impl Fn(&ExprKind) -> bool) -> bool {
    let mut found = false;
    expr.walk(|expr| {
        found |= is_it(&expr.kind);
        !found
    });
    found
}

/// The labels of an [`Answer`] without those of type and unit.
fn without_type(labels: &str) -> String {
    let labels = labels.trim_start_matches('{').trim_end_matches('}');
    let parts: BTreeMap<&str, &str> = labels.split(", ").filter_map(|part| part.split_once(": ")).collect();
    let kept = parts.into_iter().filter(|(name, _)| !["\"__type__\"", "\"__unit__\""].contains(name));
    format!("{:?}", kept.collect::<BTreeMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_do_without_what_changed() {
        let check = |text: &str, expected: &[&str]| {
            let expr = parse_expr(text, ParserOptions::ALL).unwrap();
            let found = RULES.iter().filter_map(|rule| changed(&expr, rule.change));
            assert_eq!(found.map(|expr| expr.to_string()).collect::<Vec<_>>(), expected, "{text}");
        };
        check("irate(a[5m]) + a", &[]);
        check(
            "count(topk by (b) (2, rate(a[5m]))) / 2",
            &["count(topk by (b) (2, irate(a[5m]))) / 2", "count(topk by (b) (1000000, rate(a[5m]))) / 2"],
        );
        check(
            "max_over_time(increase(a[1m])[30s:7s])",
            &["max_over_time(increase(a[1m])[29s999ms:7s])", "max_over_time(irate(a[1m])[30s:7s])"],
        );
        check("a atan2 b * c", &["a / b * c"]);
        check("a > bool on (b) group_left (__name__) c", &["a > bool on (b) group_left () c"]);
        check("count_values by (b, c) (\"b\", a)", &["count by (b, c) (a)"]);
        check("count_values by (c, d, c) (\"b\", a)", &["count by (c, d, c) (a)"]);
        check("count_values by (c) (\"b\", a)", &[]);
        check("predict_linear(a[5m] @ 7, 3)", &["deriv(a[5m] @ 7.000)"]);
        check("predict_linear(a[5m], 3)", &[]);
        check("avg(stddev_over_time(a[5m]))", &["max(max_over_time(a[5m]))"]);
        check("histogram_quantile(0.9, b)", &["sum without (le) (b)"]);
    }

    #[test]
    fn type_and_unit_go_where_series_come_from() {
        let check = |text: &str, expected: &str| {
            let mut expr = parse_expr(text, ParserOptions::ALL).unwrap();
            without_type_and_unit(&mut expr);
            let head = "label_replace(label_replace(";
            let tail =
                ", \"__type__\", \"\", \"__type__\", \".*\"), \"__unit__\", \"\", \"__unit__\", \".*\")";
            assert_eq!(expr.to_string().replace(head, "<").replace(tail, ">"), expected, "{text}");
        };
        check("sum(a) + b * 2", "sum(<a>) + <b> * 2");
        check("abs(rate(a[5m]))", "abs(<rate(a[5m])>)");
        check("max_over_time(abs(a)[5m:1m])", "<max_over_time(abs(<a>)[5m:1m])>");
        check("timestamp(a) + timestamp(-a)", "<timestamp(a)> + timestamp(-<a>)");
    }

    #[test]
    fn refusals_name_what_is_refused() {
        let check = |text: &str, theirs: &str, ours: &str, expected| {
            let expr = parse_expr(text, ParserOptions::ALL).unwrap();
            assert_eq!(refusal(&expr, text, theirs, ours), expected, "{text}");
        };
        let unknown =
            |name: &str| format!("400 bad_data: 1:1: parse error: unknown function with name \"{name}\"");
        check("mad_over_time(a[5m])", &unknown("mad_over_time"), "200", Some("functions that came later"));
        check("rate(a[5m])", &unknown("rate"), "200", None);
        let twice = "422 execution: multiple matches for labels: many-to-one";
        check("a == on (b) c", "200 with 1 series", twice, Some("second matches of comparisons"));
        check("a + on (b) c", "200 with 1 series", twice, None);
    }
}
