//! The function `info`.
//!
//! Source: Prometheus v3.14, `promql/info.go`.

use super::evaluate::{Evaluator, Matrix, Sample};
use super::notes::Notes;
use super::tree::{Kind, Node};
use crate::value::SampleValue;
use chronolith_model::{Labels, METRIC_NAME, MatchOp, Matcher};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

const IDENTIFYING: [&str; 2] = ["instance", "job"];

pub(super) fn eval(
    evaluator: &mut Evaluator<'_>,
    args: &[Node],
    notes: &mut Notes,
) -> Result<Matrix, String> {
    let (at, offset) = reference_time(&args[0], &mut Vec::new()).unwrap_or((None, 0));
    let base = evaluator.eval(&args[0], notes)?;
    let matchers: Vec<Matcher> = match args.get(1).map(|arg| &arg.kind) {
        Some(Kind::Vector(selector)) => selector.matchers.clone(),
        _ => vec![Matcher::equal(METRIC_NAME, "target_info")],
    };
    let (names, data): (Vec<Matcher>, Vec<Matcher>) =
        matchers.into_iter().partition(|matcher| matcher.name == METRIC_NAME);
    let names = effective(names);
    let ignored: HashSet<Rc<Labels>> = base
        .iter()
        .filter(|row| names.iter().all(|matcher| matcher.matches(row.labels.metric_name())))
        .map(|row| Rc::clone(&row.labels))
        .collect();
    let mut wanted: BTreeMap<&str, HashSet<String>> = BTreeMap::new();
    for row in base.iter().filter(|row| !ignored.contains(&row.labels)) {
        for name in IDENTIFYING {
            if let Some(value) = row.labels.get(name) {
                wanted.entry(name).or_default().insert(value.to_owned());
            }
        }
    }
    let mut found = Vec::new();
    if !wanted.is_empty() {
        let all: Vec<&Matcher> = data.iter().chain(&names).collect();
        let series = evaluator.cx.data.series.iter().filter(|(labels, _)| {
            let value = |name: &str| labels.get(name).unwrap_or("");
            all.iter().all(|matcher| matcher.matches(value(&matcher.name)))
                && wanted.iter().all(|(name, values)| values.contains(value(name)))
        });
        found = series.collect();
    }
    let info = evaluator.lookups(&found, false, offset, at, true)?;
    let combined = Combined { ignored: &ignored, data: &data };
    evaluator.series_of_steps(|ts| {
        let (base, _) = Evaluator::gather(&base, ts);
        let (info, _) = Evaluator::gather(&info, ts);
        combined.step(base, info)
    })
}

/// `@` and offset of the first selector, as seen from outside of the subqueries around it.
fn reference_time<'n>(node: &'n Node, path: &mut Vec<&'n super::tree::Time>) -> Option<(Option<i64>, i64)> {
    match &node.kind {
        Kind::Vector(selector) | Kind::Matrix { selector, .. } => {
            let (mut at, mut offset) = (selector.time.timestamp, selector.time.original_offset);
            for outer in path.iter().rev() {
                if at.is_none() {
                    offset += outer.original_offset;
                    at = outer.timestamp;
                }
            }
            Some((at, offset))
        }
        Kind::Subquery(subquery) => {
            path.push(&subquery.time);
            let found = reference_time(&subquery.expr, path);
            path.pop();
            found
        }
        _ => node.children().into_iter().find_map(|child| reference_time(child, path)),
    }
}

/// The matchers of the name that select info metrics.
fn effective(matchers: Vec<Matcher>) -> Vec<Matcher> {
    if matchers.iter().any(|matcher| matches!(matcher.op, MatchOp::Equal | MatchOp::Regex)) {
        return matchers;
    }
    if matchers.is_empty() {
        return vec![Matcher::equal(METRIC_NAME, "target_info")];
    }
    let any = Matcher::new(MatchOp::Regex, METRIC_NAME, ".+_info").expect("the pattern is fine");
    std::iter::once(any).chain(matchers).collect()
}

struct Combined<'a> {
    ignored: &'a HashSet<Rc<Labels>>,
    data: &'a [Matcher],
}

impl Combined<'_> {
    fn step(&self, base: Vec<Sample>, info: Vec<Sample>) -> Result<Vec<Sample>, String> {
        if base.is_empty() {
            return Ok(Vec::new());
        }
        let identity = |labels: &Labels| IDENTIFYING.map(|name| labels.get(name).unwrap_or("").to_owned());
        // By name of the info metric and identity.
        let mut newest: BTreeMap<(String, [String; 2]), Sample> = BTreeMap::new();
        for sample in info {
            let key = (sample.labels.metric_name().to_owned(), identity(&sample.labels));
            let time = |sample: &Sample| sample.float().unwrap_or(0.0) as i64;
            match newest.get(&key) {
                Some(other) if time(other) > time(&sample) => {}
                Some(other) if time(other) == time(&sample) => {
                    return Err(format!(
                        "found duplicate series for info metric: existing {} @ {}, new {} @ {}",
                        other.labels,
                        time(other),
                        sample.labels,
                        time(&sample)
                    ));
                }
                _ => {
                    newest.insert(key, sample);
                }
            }
        }
        let mut out = Vec::new();
        for sample in base {
            if self.ignored.contains(&sample.labels) {
                out.push(sample);
                continue;
            }
            let own = identity(&sample.labels);
            let mut added: BTreeMap<&str, &str> = BTreeMap::new();
            let mut met = false;
            for ((_, _), info) in newest.iter().filter(|((_, identity), _)| *identity == own) {
                met = true;
                for (name, value) in info.labels.iter() {
                    if name == METRIC_NAME
                        || (!self.data.is_empty() && !self.data.iter().any(|matcher| matcher.name == name))
                    {
                        continue;
                    }
                    if added.get(name).is_some_and(|other| *other != value) {
                        return Err(format!("conflicting label: {name}"));
                    }
                    if sample.labels.get(name).is_none() {
                        added.insert(name, value);
                    }
                }
            }
            if !met && self.data.iter().any(|matcher| !matcher.matches("")) {
                continue;
            }
            let mut builder = sample.labels.to_builder();
            for (name, value) in added {
                builder.set(name, value);
            }
            let value: SampleValue = sample.value.clone();
            out.push(Sample { labels: Rc::new(builder.build()), value, ..sample });
        }
        Ok(out)
    }
}
