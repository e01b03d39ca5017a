//! Differences that are meant to be. Each has a paragraph in docs/decisions/0021-referee.md, under the text that
//! is given here as the reason.

use crate::compare::{Answer, Difference};
use chronolith_query::oracle::generate::Question;
use std::collections::{BTreeMap, BTreeSet};

/// Nanoseconds of 64 bits end here.
const MAX_GO_MS: i64 = i64::MAX / 1_000_000;

/// Why a difference is none with any version, if it is; `before_3.rs` has what is to be added for old ones.
pub fn reason(
    question: &Question,
    difference: &Difference,
    [theirs, ours]: [&Answer; 2],
) -> Option<&'static str> {
    if question.end > MAX_GO_MS {
        return Some("times after 2262");
    }
    let text = question.text.as_str();
    match difference {
        Difference::Notes { theirs, ours } => {
            let same_but_for = |normal: fn(&str) -> Option<String>| {
                let normalised = |notes: &BTreeSet<String>| -> Vec<String> {
                    notes.iter().filter_map(|note| normal(note)).collect()
                };
                normalised(theirs) == normalised(ours)
            };
            if same_but_for(without_count) {
                Some("how many samples were made monotonic")
            } else if calls_elementary(text) && same_but_for(|note| Some(round_numbers(note))) {
                Some(LAST_DIGITS)
            } else if quantiles_of_buckets(text) && same_but_for(without_buckets) {
                Some("several quantiles of buckets with equal bounds")
            } else if omitted(theirs).is_some() && omitted(theirs) == omitted(ours) {
                Some("which ten annotations are shown")
            } else if same_but_for(without_resets) {
                Some("counter-reset hints at the edge of what was read")
            } else {
                None
            }
        }
        Difference::Refusal { theirs, ours } => {
            if theirs.contains("runtime error: index out of range") {
                return Some("raw extended selectors of series without samples");
            }
            let merges = ["label_replace(", "label_join(", "-"].iter().any(|part| text.contains(part));
            (merges
                && theirs.starts_with("200")
                && ours.ends_with("vector cannot contain metrics with the same labelset"))
            .then_some("a float and a histogram with equal labels")
        }
        Difference::Shape(_) if quantiles_of_buckets(text) && text.contains("count_values") => {
            Some("several quantiles of buckets with equal bounds")
        }
        Difference::Shape(_) => (text.contains("count_values") && calls_elementary(text))
            .then(|| same_but_for_digits(&theirs.points, &ours.points))
            .and_then(|same| same.then_some(LAST_DIGITS)),
        Difference::Value { theirs, ours, .. } => {
            if text.contains("step()") {
                return Some("a step finer than a millisecond");
            }
            let denormal =
                ["-307.95", "-709.08", "-709.09", "0.99999929"].iter().any(|log| theirs.contains(log));
            let takes = |names: &[&str]| names.iter().any(|name| text.contains(name));
            // `odd` holds denormal numbers; the logarithm may be used further.
            if takes(&["ln(", "log10("]) && (denormal || text.contains("odd")) || denormal && takes(&["^"]) {
                return Some("logarithms of denormal numbers");
            }
            if ["sin(", "cos(", "tan("].iter().any(|name| text.contains(name)) {
                return Some("sines of huge numbers");
            }
            if quantiles_of_buckets(text) {
                return Some("several quantiles of buckets with equal bounds");
            }
            if without_nan_buckets(theirs).is_some_and(|rest| without_nan_buckets(ours) == Some(rest)) {
                return Some("empty buckets times infinity");
            }
            // A remainder shows nothing but last digits.
            let close = || text.contains('%') || nearly_equal(theirs, ours, 1e-4);
            (calls_elementary(text) && close()).then_some(LAST_DIGITS)
        }
    }
}

/// A histogram without the buckets whose count is no number; nothing if it is none.
fn without_nan_buckets(histogram: &str) -> Option<serde_json::Value> {
    let mut histogram: serde_json::Value = serde_json::from_str(histogram).ok()?;
    histogram.get_mut("buckets")?.as_array_mut()?.retain(|bucket| bucket[3] != "NaN");
    Some(histogram)
}

const LAST_DIGITS: &str = "last digits of elementary functions";

fn quantiles_of_buckets(text: &str) -> bool {
    text.contains("histogram_quantiles(") && text.contains("lat_bucket")
}

/// Whether a query calls a function that mathematical libraries round in different ways.
fn calls_elementary(text: &str) -> bool {
    let names =
        ["exp(", "ln(", "log2(", "log10(", "sin(", "cos(", "tan(", "sinh(", "cosh(", "tanh(", "atan2", "^"];
    names.iter().any(|name| text.contains(name))
}

fn nearly_equal(a: &str, b: &str, tolerance: f64) -> bool {
    let number = |text: &str| text.trim_matches('"').parse::<f64>().ok();
    match (number(a), number(b)) {
        (Some(a), Some(b)) => (a - b).abs() <= tolerance * a.abs().max(b.abs()),
        _ => false,
    }
}

/// Whether the series are the same if numbers in their labels are cut to nine digits.
fn same_but_for_digits<T>(theirs: &BTreeMap<String, T>, ours: &BTreeMap<String, T>) -> bool {
    let rounded = |points: &BTreeMap<String, T>| -> Vec<String> {
        let mut labels: Vec<String> = points.keys().map(|labels| round_numbers(labels)).collect();
        labels.sort();
        labels
    };
    rounded(theirs) == rounded(ours)
}

/// The text with its numbers cut to nine digits.
fn round_numbers(text: &str) -> String {
    let mut rounded = String::new();
    let is_part = |c: char| c.is_ascii_digit() || "+-.e".contains(c);
    for part in text.split_inclusive(|c: char| !is_part(c)) {
        let number = part.trim_end_matches(|c: char| !is_part(c));
        match number.parse::<f64>() {
            Ok(value) => rounded.push_str(&format!("{value:.8e}{}", &part[number.len()..])),
            Err(_) => rounded.push_str(part),
        }
    }
    rounded
}

/// The notes that say how many others are left out.
fn omitted(notes: &BTreeSet<String>) -> Option<Vec<&String>> {
    let omitted: Vec<&String> = notes.iter().filter(|note| note.ends_with("annotations omitted")).collect();
    (!omitted.is_empty()).then_some(omitted)
}

/// A note on monotonicity without the number of samples; other notes as they are.
#[expect(clippy::unnecessary_wraps, reason = "one of several ways to look at notes")]
fn without_count(note: &str) -> Option<String> {
    Some(match (note.find(", over "), note.find(" samples from ")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &note[..from], &note[to..]),
        _ => note.to_owned(),
    })
}

/// A note on monotonicity without buckets and difference; other notes as they are.
#[expect(clippy::unnecessary_wraps, reason = "one of several ways to look at notes")]
fn without_buckets(note: &str) -> Option<String> {
    Some(match (note.find(", from buckets "), note.find(" samples from ")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &note[..from], &note[to..]),
        _ => note.to_owned(),
    })
}

/// Notes but those about conflicting resets.
fn without_resets(note: &str) -> Option<String> {
    if note.contains("conflicting counter resets") { None } else { without_count(note) }
}
