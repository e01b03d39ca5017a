//! Differences that are meant to be. Each has a paragraph in docs/decisions/0021-referee.md, under the text that
//! is given here as the reason.

use crate::Version;
use crate::compare::Difference;
use chronolith_query::oracle::generate::Question;

/// Why a difference is none, if it is.
pub fn reason(question: &Question, difference: &Difference, version: Version) -> Option<&'static str> {
    let text = question.text.as_str();
    let any = reason_with_any(text, difference);
    if version.major < 3 { any.or_else(|| reason_before_3(text, difference)) } else { any }
}

fn reason_with_any(text: &str, difference: &Difference) -> Option<&'static str> {
    match difference {
        Difference::Notes { theirs, ours } => {
            let same_but_for = |normal: fn(&str) -> Option<String>| {
                let normalised = |notes: &std::collections::BTreeSet<String>| -> Vec<String> {
                    notes.iter().filter_map(|note| normal(note)).collect()
                };
                normalised(theirs) == normalised(ours)
            };
            if same_but_for(without_count) {
                Some("how many samples were made monotonic")
            } else if same_but_for(without_resets) {
                Some("counter-reset hints at the edge of what was read")
            } else {
                None
            }
        }
        Difference::Refusal { theirs, ours } => {
            let merges = ["label_replace(", "label_join(", "-"].iter().any(|part| text.contains(part));
            (merges
                && theirs.starts_with("200")
                && ours.ends_with("vector cannot contain metrics with the same labelset"))
            .then_some("a float and a histogram with equal labels")
        }
        Difference::Shape(_) => text.contains("limitk").then_some("which series limitk takes"),
        Difference::Value { theirs, .. } => {
            if text.contains("limitk") {
                return Some("which series limitk takes");
            }
            if text.contains("step()") {
                return Some("a step finer than a millisecond");
            }
            let denormal = ["-307.95", "-709.08", "-709.09"].iter().any(|log| theirs.contains(log));
            if denormal && (text.contains("ln(") || text.contains("log10(")) {
                return Some("logarithms of denormal numbers");
            }
            let periodic = ["sin(", "cos(", "tan("].iter().any(|name| text.contains(name));
            periodic.then_some("sines of huge numbers")
        }
    }
}

/// Prometheus before 3.0 lacks what came later, and some rules changed since.
fn reason_before_3(text: &str, difference: &Difference) -> Option<&'static str> {
    if let Difference::Refusal { theirs, ours } = difference {
        let refusals = [
            ("unknown function with name", "functions that came later"),
            ("unexpected string", "quoted metric names in braces"),
            ("invalid label name", "label names in UTF-8"),
            ("invalid destination label name", "label names in UTF-8"),
            ("unexpected result in StepInvariantExpr evaluation", "a string in parentheses"),
            ("unexpected duration", "durations as numbers"),
            ("trailing commas not allowed", "durations as numbers"),
        ];
        if let Some((_, reason)) = refusals.iter().find(|(refusal, _)| theirs.contains(refusal)) {
            return Some(reason);
        }
        if theirs.starts_with("200") && ours.contains("multiple matches for labels") {
            return Some("second matches of comparisons");
        }
        if theirs.starts_with("200") && ours.contains("same labelset") {
            return Some("labels of type and unit");
        }
    }
    if let Difference::Value { theirs, ours, .. } = difference
        && theirs.contains("NaN")
        && ours.contains("Inf")
    {
        return Some("compensated sums that overflow");
    }
    if text.contains("atan2") {
        return Some("names after atan2");
    }
    if text.contains("topk") || text.contains("bottomk") {
        return Some("ties of topk and bottomk");
    }
    if text.contains("histogram_quantile") {
        return Some("buckets bounded by NaN");
    }
    if text.contains("typed") || matches!(difference, Difference::Shape(shape) if shape.contains("__type__"))
    {
        return Some("labels of type and unit");
    }
    if has_subquery(text) {
        return Some("windows of subqueries closed on the left");
    }
    if ["rate(", "increase("].iter().any(|name| text.contains(name)) {
        return Some("extrapolation of counters to zero");
    }
    None
}

fn has_subquery(text: &str) -> bool {
    text.split('[').skip(1).any(|rest| rest.split(']').next().is_some_and(|range| range.contains(':')))
}

/// A note on monotonicity without the number of samples; other notes as they are.
#[expect(clippy::unnecessary_wraps, reason = "one of several ways to look at notes")]
fn without_count(note: &str) -> Option<String> {
    Some(match (note.find(", over "), note.find(" samples from ")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &note[..from], &note[to..]),
        _ => note.to_owned(),
    })
}

/// Notes but those about conflicting resets.
fn without_resets(note: &str) -> Option<String> {
    if note.contains("conflicting counter resets") { None } else { without_count(note) }
}
