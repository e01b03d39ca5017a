//! Answers of the query API, and what makes two of them equal.

use crate::Version;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a server said.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// `errorType` and `error`, if it refused.
    pub error: Option<(String, String)>,
    pub result_type: String,
    /// By labels and time, as text.
    pub points: BTreeMap<String, BTreeMap<String, Value>>,
    /// More than one series with the same labels: the others are not in `points`.
    pub n_doubled: usize,
    pub warnings: BTreeSet<String>,
    pub infos: BTreeSet<String>,
}

impl Answer {
    /// Reads the JSON of the API.
    pub fn read(status: u16, body: &[u8]) -> Result<Self, String> {
        let json: Value = serde_json::from_slice(body).map_err(|error| {
            format!("status {status}, no JSON ({error}): {}", String::from_utf8_lossy(body))
        })?;
        let texts = |name: &str| -> BTreeSet<String> {
            let array = json[name].as_array().map_or(&[][..], Vec::as_slice);
            array.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut answer = Self {
            status,
            error: (json["status"] != "success").then(|| (text(&json["errorType"]), text(&json["error"]))),
            result_type: text(&json["data"]["resultType"]),
            points: BTreeMap::new(),
            n_doubled: 0,
            warnings: texts("warnings"),
            infos: texts("infos"),
        };
        let result = &json["data"]["result"];
        if matches!(answer.result_type.as_str(), "scalar" | "string") {
            answer.points.insert(String::new(), BTreeMap::from([(result[0].to_string(), result[1].clone())]));
            return Ok(answer);
        }
        for series in result.as_array().map_or(&[][..], Vec::as_slice) {
            let labels: BTreeMap<String, Value> =
                serde_json::from_value(series["metric"].clone()).map_err(|e| e.to_string())?;
            let mut points = BTreeMap::new();
            for key in ["value", "histogram"] {
                if series[key].is_array() {
                    points.insert(series[key][0].to_string(), series[key][1].clone());
                }
            }
            for key in ["values", "histograms"] {
                for point in series[key].as_array().map_or(&[][..], Vec::as_slice) {
                    points.insert(point[0].to_string(), point[1].clone());
                }
            }
            let doubled = answer.points.insert(format!("{labels:?}"), points).is_some();
            answer.n_doubled += usize::from(doubled);
        }
        Ok(answer)
    }
}

/// What comparing came to.
#[derive(Debug)]
pub enum Verdict {
    Equal { n_points: usize },
    BothRefuse,
    Differ(Difference),
}

/// The first thing that is not equal.
#[derive(Debug)]
pub enum Difference {
    /// Only one refused the query, or with another status.
    Refusal { theirs: String, ours: String },
    /// Types of values, or which series there are.
    Shape(String),
    /// A value.
    Value { series: String, time: String, theirs: String, ours: String },
    /// Warnings or infos.
    Notes { theirs: BTreeSet<String>, ours: BTreeSet<String> },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refusal { theirs, ours } => write!(f, "theirs {theirs}, ours {ours}"),
            Self::Shape(text) => write!(f, "{text}"),
            Self::Value { series, time, theirs, ours } => {
                write!(f, "{series} at {time}: theirs {theirs}, ours {ours}")
            }
            Self::Notes { theirs, ours } => write!(f, "notes: theirs {theirs:?}, ours {ours:?}"),
        }
    }
}

/// Compares two answers to one query.
pub fn compare(theirs: &Answer, ours: &Answer, version: Version) -> Verdict {
    let refusal = |answer: &Answer| match &answer.error {
        Some((kind, text)) => format!("{} {kind}: {text}", answer.status),
        None => format!("{} with {} series", answer.status, answer.points.len()),
    };
    match (&theirs.error, &ours.error) {
        (Some(a), Some(b))
            if (theirs.status, &a.0) == (ours.status, &b.0) && same_error(&a.1, &b.1, version) =>
        {
            return Verdict::BothRefuse;
        }
        (None, None) => {}
        _ => return Verdict::Differ(Difference::Refusal { theirs: refusal(theirs), ours: refusal(ours) }),
    }
    if theirs.result_type != ours.result_type {
        let text = format!("theirs is a {}, ours a {}", theirs.result_type, ours.result_type);
        return Verdict::Differ(Difference::Shape(text));
    }
    if theirs.n_doubled != ours.n_doubled {
        let text = format!("theirs has {} labels twice, ours {}", theirs.n_doubled, ours.n_doubled);
        return Verdict::Differ(Difference::Shape(text));
    }
    let only = |a: &Answer, b: &Answer| a.points.keys().find(|key| !b.points.contains_key(*key)).cloned();
    if let Some(series) = only(theirs, ours) {
        return Verdict::Differ(Difference::Shape(format!("only theirs has {series}")));
    }
    if let Some(series) = only(ours, theirs) {
        return Verdict::Differ(Difference::Shape(format!("only ours has {series}")));
    }
    let mut n_points = 0;
    for (series, their_points) in &theirs.points {
        let our_points = &ours.points[series];
        let times: BTreeSet<&String> = their_points.keys().chain(our_points.keys()).collect();
        for time in times {
            let (a, b) = (their_points.get(time), our_points.get(time));
            let equal = matches!((a, b), (Some(a), Some(b)) if same_value(a, b, version));
            if !equal && theirs.n_doubled == 0 {
                let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
                return Verdict::Differ(Difference::Value {
                    series: series.clone(),
                    time: time.clone(),
                    theirs: text(a),
                    ours: text(b),
                });
            }
            n_points += 1;
        }
    }
    // Before 3.0 there are neither positions nor infos.
    if version.major >= 3 && (&theirs.warnings, &theirs.infos) != (&ours.warnings, &ours.infos) {
        let notes = |answer: &Answer| answer.warnings.union(&answer.infos).cloned().collect();
        return Verdict::Differ(Difference::Notes { theirs: notes(theirs), ours: notes(ours) });
    }
    Verdict::Equal { n_points }
}

/// Whether each point of an answer occurs in one of several that differ among themselves, and as many at each time
/// as they have.
pub fn is_mixture(answer: &Answer, others: &[Answer], version: Version) -> bool {
    let n_by_time = |answer: &Answer| {
        let mut n: BTreeMap<String, usize> = BTreeMap::new();
        let times = answer.points.values().flat_map(BTreeMap::keys);
        times.for_each(|time| *n.entry(time.clone()).or_default() += 1);
        n
    };
    let occurs = |series: &String, time: &String, value: &Value| {
        let found = |other: &Answer| other.points.get(series).and_then(|points| points.get(time)).cloned();
        others.iter().filter_map(found).any(|other| same_value(&other, value, version))
    };
    let counts: Vec<_> = others.iter().map(n_by_time).collect();
    let as_many = |(time, n): (&String, &usize)| {
        let theirs = counts.iter().map(|counts| counts.get(time).copied().unwrap_or_default());
        (theirs.clone().min()..=theirs.max()).contains(&Some(*n))
    };
    others.iter().any(|other| matches!(compare(other, &others[0], version), Verdict::Differ(_)))
        && n_by_time(answer).iter().all(as_many)
        && (answer.points.iter())
            .all(|(series, points)| points.iter().all(|(time, value)| occurs(series, time, value)))
}

/// Texts of errors changed over the years, and which of several duplicates is named is chance.
fn same_error(theirs: &str, ours: &str, version: Version) -> bool {
    version.major < 3
        || theirs == ours
        || ["found duplicate series for the match group", "multiple matches for labels"]
            .iter()
            .any(|text| theirs.contains(text) && ours.contains(text))
}

fn same_value(theirs: &Value, ours: &Value, version: Version) -> bool {
    match (theirs, ours) {
        (Value::String(a), Value::String(b)) => same_number(a, b, version),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b, version))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same_value(a, b, version)))
        }
        (a, b) => a == b,
    }
}

/// Equal to the digit, or within rounding: 2.42 sums without compensation.
fn same_number(a: &str, b: &str, version: Version) -> bool {
    if a == b {
        return true;
    }
    let tolerance = if version.major >= 3 { 1e-11 } else { 1e-8 };
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => {
            let scale = a.abs().max(b.abs());
            (a - b).abs() <= tolerance * scale || scale < 1e-290
        }
        _ => false,
    }
}
