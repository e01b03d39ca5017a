//! Running test scripts.
//!
//! An instant query is also evaluated with every selector pinned by `@` to its time, at other times, and each of
//! these as the middle step of a range query: all must give what is expected.

use super::nhcb;
use super::parse::{
    Command, CommandKind, Eval, ExpectedSeries, Load, NotesExpected, Script, Times, ValueExpected,
};
use super::store::{MemoryStore, Sample};
use crate::engine::{Engine, QueryOutput, QueryRequest};
use crate::error::QueryError;
use crate::functions::histogram::almost_equal;
use crate::limits::NoControl;
use crate::oracle::{Data, Oracle};
use crate::parser::ast::At;
use crate::parser::{ExprKind, ParserOptions, SeriesValue, parse_expr};
use crate::value::{InstantSample, RangeSeries, ResultLabels, SampleValue, Value};
use chronolith_model::histogram::custom_bounds_match;
use chronolith_model::queryable::Queryable;
use chronolith_model::{FloatHistogram, Labels, Span};

/// How far values may be from what is expected, relative to their sum.
const EPSILON: f64 = 1e-6;

/// Milliseconds between the steps of a range query that checks an instant query.
const STEP_MS: i64 = 60_000;

/// A store that a script fills.
pub trait ScriptStore {
    /// Forgets everything.
    ///
    /// # Errors
    /// In words, if the store cannot.
    fn clear(&mut self) -> Result<(), String>;

    /// Adds samples, those of a series in time order.
    ///
    /// # Errors
    /// In words, if the store refuses a sample.
    fn load(&mut self, series: &[(Labels, Vec<(i64, Sample)>)]) -> Result<(), String>;

    /// What is queried.
    fn queryable(&self) -> &dyn Queryable;
}

impl ScriptStore for MemoryStore {
    fn clear(&mut self) -> Result<(), String> {
        Self::clear(self);
        Ok(())
    }

    fn load(&mut self, series: &[(Labels, Vec<(i64, Sample)>)]) -> Result<(), String> {
        for (labels, samples) in series {
            for (timestamp, sample) in samples {
                self.append(labels, *timestamp, sample.clone());
            }
        }
        Ok(())
    }

    fn queryable(&self) -> &dyn Queryable {
        self
    }
}

/// What evaluates the queries of a script.
pub trait ScriptEngine {
    /// The value of a query over a store.
    ///
    /// # Errors
    /// [`QueryError`], which a script may expect.
    fn execute(&self, store: &dyn Queryable, request: &QueryRequest<'_>) -> Result<QueryOutput, QueryError>;
}

impl ScriptEngine for Engine {
    fn execute(&self, store: &dyn Queryable, request: &QueryRequest<'_>) -> Result<QueryOutput, QueryError> {
        Self::execute(self, store, request, &NoControl)
    }
}

impl ScriptEngine for Oracle {
    fn execute(&self, store: &dyn Queryable, request: &QueryRequest<'_>) -> Result<QueryOutput, QueryError> {
        let data = Data::read(store).map_err(QueryError::Storage)?;
        Self::execute(self, &data, request)
    }
}

/// An evaluation that did not go as expected.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Where the command begins, from 1.
    pub line: usize,
    /// What happened.
    pub message: String,
}

/// How a script went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Evaluations as expected.
    pub passed: usize,
    /// The others.
    pub failures: Vec<Failure>,
}

/// Runs a script from an empty store. A load that fails fails the script there.
pub fn run(script: &Script, engine: &dyn ScriptEngine, store: &mut dyn ScriptStore) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(message) = store.clear() {
        outcome.failures.push(Failure { line: 0, message });
        return outcome;
    }
    for Command { line, kind } in &script.commands {
        let result = match kind {
            CommandKind::Clear => store.clear(),
            CommandKind::Load(load) => store_load(load, store),
            CommandKind::Eval(eval) => {
                let result = Evaluation { eval, engine, store: store.queryable() }.check();
                outcome.passed += usize::from(result.is_ok());
                if let Err(message) = result {
                    outcome.failures.push(Failure { line: *line, message });
                }
                continue;
            }
        };
        if let Err(message) = result {
            outcome.failures.push(Failure { line: *line, message: format!("stopped here: {message}") });
            break;
        }
    }
    outcome
}

/// Adds the series of a `load` command.
///
/// # Errors
/// In words, if classic histograms cannot be converted or the store refuses a sample.
pub fn store_load(load: &Load, store: &mut dyn ScriptStore) -> Result<(), String> {
    let mut all: Vec<(Labels, Vec<(i64, Sample)>)> = load
        .series
        .iter()
        .map(|series| {
            let points = series.values.iter().enumerate().filter_map(|(i, value)| {
                let timestamp = load.start + load.interval_ms * i64::try_from(i).ok()?;
                let value = match value {
                    SeriesValue::Omitted => return None,
                    SeriesValue::Float(value) => SampleValue::Float(*value),
                    SeriesValue::Histogram { histogram, .. } => SampleValue::Histogram(histogram.clone()),
                };
                let offset = series.start_offsets.get(i).copied().flatten();
                let start_timestamp = offset.map_or(0, |offset| timestamp + offset);
                Some((timestamp, Sample { value, start_timestamp }))
            });
            (series.labels.clone(), points.collect())
        })
        .collect();
    if load.with_nhcb {
        let converted = nhcb::convert(&all)?;
        all.extend(converted);
    }
    store.load(&all)
}

/// One `eval` over one store.
struct Evaluation<'a> {
    eval: &'a Eval,
    engine: &'a dyn ScriptEngine,
    store: &'a dyn Queryable,
}

impl Evaluation<'_> {
    fn check(&self) -> Result<(), String> {
        match self.eval.times {
            Times::Range(start, end, step) => {
                let result = self.query(&self.eval.query, start, end, step, true);
                match self.check_failure(result, &self.eval.query)? {
                    Some(output) => self.check_output(&output, &self.eval.query),
                    None => Ok(()),
                }
            }
            Times::Instant(at) => {
                let at = self.eval.range_vector.map_or(at, |(_, end, _)| end);
                self.check_instant(&self.eval.query, at)?;
                let Some(pinned) = pin_selectors(&self.eval.query, at) else { return Ok(()) };
                let times =
                    if at == 0 { vec![-1000, 0, 1000] } else { vec![-10 * at, 0, at / 5, at, 10 * at] };
                times.into_iter().try_for_each(|time| {
                    self.check_instant(&pinned, time)
                        .map_err(|message| format!("{message} (query {pinned} at {time} ms)"))
                })
            }
        }
    }

    fn query(
        &self,
        text: &str,
        start: i64,
        end: i64,
        interval_ms: i64,
        range: bool,
    ) -> Result<QueryOutput, QueryError> {
        let request = QueryRequest { text, start, end, interval_ms, range, lookback_delta_ms: None };
        self.engine.execute(self.store, &request)
    }

    /// The output, if there is one to be looked at.
    fn check_failure(
        &self,
        result: Result<QueryOutput, QueryError>,
        query: &str,
    ) -> Result<Option<QueryOutput>, String> {
        match (result, &self.eval.fail) {
            (Ok(output), None) => Ok(Some(output)),
            (Ok(_), Some(_)) => Err(format!("expected an error of {query}, got none")),
            (Err(error), None) => Err(format!("error: {error}")),
            (Err(error), Some(expected)) if expected.matches(&error.to_string()) => Ok(None),
            (Err(error), Some(expected)) => Err(format!("expected the error {expected:?}, got: {error}")),
        }
    }

    fn check_output(&self, output: &QueryOutput, query: &str) -> Result<(), String> {
        check_notes(&self.eval.warnings, &output.warnings, "warn")?;
        check_notes(&self.eval.infos, &output.infos, "info")?;
        self.check_value(&output.value).map_err(|message| format!("{message} in {query}"))
    }

    fn check_instant(&self, query: &str, at: i64) -> Result<(), String> {
        let result = self.query(query, at, at, 0, false);
        let Some(output) = self.check_failure(result, query)? else { return Ok(()) };
        self.check_output(&output, query)?;
        let depends_on_range =
            ["start()", "end()", "range()", "step()"].iter().any(|function| query.contains(function));
        if self.eval.range_vector.is_some()
            || matches!(self.eval.value, ValueExpected::String(_))
            || depends_on_range
        {
            return Ok(());
        }
        self.check_middle_step(query, at, matches!(output.value, Value::Scalar { .. }))
            .map_err(|message| format!("{message} in range mode"))
    }

    fn check_middle_step(&self, query: &str, at: i64, scalar: bool) -> Result<(), String> {
        let output = self
            .query(query, at - STEP_MS, at + STEP_MS, STEP_MS, true)
            .map_err(|error| format!("error: {error}"))?;
        if self.eval.ordered {
            return Ok(());
        }
        let Value::Matrix(matrix) = output.value else {
            return Err("a range query did not give a matrix".to_owned());
        };
        check_sorted(&matrix)?;
        let middle = matrix.into_iter().filter_map(|series| {
            let float =
                series.floats.iter().find(|(time, _)| *time == at).map(|(_, v)| SampleValue::Float(*v));
            let histogram = || {
                let found = series.histograms.iter().find(|(time, _)| *time == at);
                found.map(|(_, histogram)| SampleValue::Histogram(histogram.clone()))
            };
            let value = float.or_else(histogram)?;
            Some(InstantSample { labels: series.labels, timestamp: at, value })
        });
        let vector: Vec<InstantSample> = middle.collect();
        match (scalar, vector.first()) {
            (false, _) => self.check_value(&Value::Vector(vector)),
            (true, Some(InstantSample { value: SampleValue::Float(value), .. })) => {
                self.check_value(&Value::Scalar { timestamp: at, value: *value })
            }
            (true, _) => Err("no value at the middle step".to_owned()),
        }
    }

    fn check_value(&self, value: &Value) -> Result<(), String> {
        match (value, &self.eval.value) {
            (Value::Matrix(matrix), ValueExpected::Series(expected)) => {
                if self.eval.ordered {
                    return Err("expected an ordered result, got a matrix".to_owned());
                }
                check_sorted(matrix)?;
                let times = self.eval.range_vector.unwrap_or(match self.eval.times {
                    Times::Range(start, end, step) => (start, end, step),
                    Times::Instant(at) => (at, at, 1),
                });
                check_matrix(matrix, expected, times)
            }
            (Value::Vector(vector), ValueExpected::Series(expected)) => {
                check_vector(vector, expected, self.eval.ordered)
            }
            (Value::Scalar { value, .. }, ValueExpected::Scalar(expected)) => {
                if almost_equal(*value, *expected, EPSILON) {
                    return Ok(());
                }
                Err(format!("expected scalar {expected}, got {value}"))
            }
            (Value::String { value, .. }, ValueExpected::String(expected)) => {
                if value == expected {
                    return Ok(());
                }
                Err(format!("expected string {expected:?}, got {value:?}"))
            }
            (value, expected) => Err(format!("expected {}, got {}", kind_expected(expected), kind_of(value))),
        }
    }
}

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Scalar { .. } => "a scalar",
        Value::String { .. } => "a string",
        Value::Vector(_) => "a vector",
        Value::Matrix(_) => "a matrix",
    }
}

const fn kind_expected(expected: &ValueExpected) -> &'static str {
    match expected {
        ValueExpected::Scalar(_) => "a scalar",
        ValueExpected::String(_) => "a string",
        ValueExpected::Series(_) => "series",
    }
}

/// The query with `@ at` on every selector and subquery that has none, but nothing inside a subquery. `None`
/// if it calls a function whose result depends on the time of evaluation all the same.
///
/// Source: Prometheus v3.14, `promqltest/test.go`, `atModifierTestCases`.
fn pin_selectors(query: &str, at: i64) -> Option<String> {
    let mut expr = parse_expr(query, ParserOptions::ALL).ok()?;
    let mut depends_on_time = false;
    let pin = |target: &mut At| {
        if !matches!(target, At::Time(_)) {
            *target = At::Time(at);
        }
    };
    expr.walk_mut(|expr| {
        match &mut expr.kind {
            ExprKind::Vector(selector) => pin(&mut selector.at),
            ExprKind::Matrix(matrix) => pin(&mut matrix.selector.at),
            ExprKind::Subquery(subquery) => {
                pin(&mut subquery.at);
                return false;
            }
            ExprKind::Call(call) => depends_on_time |= call.function.function.depends_on_time(),
            _ => {}
        }
        true
    });
    (!depends_on_time).then(|| expr.to_string())
}

fn check_notes(expected: &NotesExpected, found: &[String], kind: &str) -> Result<(), String> {
    if expected.any && found.is_empty() {
        return Err(format!("expected {kind} annotations, got none"));
    }
    if expected.none && !found.is_empty() {
        return Err(format!("expected no {kind} annotations, got {found:?}"));
    }
    if expected.texts.is_empty() {
        return Ok(());
    }
    if let Some(missing) = expected.texts.iter().find(|text| !found.iter().any(|note| text.matches(note))) {
        return Err(format!("expected a {kind} annotation {missing:?}, got {found:?}"));
    }
    match found.iter().find(|note| !expected.texts.iter().any(|text| text.matches(note))) {
        Some(surplus) => Err(format!("unexpected {kind} annotation {surplus:?}")),
        None => Ok(()),
    }
}

fn check_sorted(matrix: &[RangeSeries]) -> Result<(), String> {
    match matrix.windows(2).find(|pair| pair[0].labels > pair[1].labels) {
        Some(pair) => Err(format!("matrix is not sorted: {} before {}", pair[0].labels, pair[1].labels)),
        None => Ok(()),
    }
}

fn find<'e>(expected: &'e [ExpectedSeries], labels: &ResultLabels) -> Result<&'e ExpectedSeries, String> {
    let found = expected.iter().find(|series| *labels == series.labels);
    found.ok_or_else(|| format!("unexpected series {labels}"))
}

/// Every expected series has been met, and none twice.
fn check_all_met(expected: &[ExpectedSeries], met: &[&Labels]) -> Result<(), String> {
    if let Some(missing) = expected.iter().find(|series| !met.contains(&&series.labels)) {
        return Err(format!("expected series {} not found", missing.labels));
    }
    if met.len() > expected.len() {
        return Err("a label set occurs twice in the result".to_owned());
    }
    Ok(())
}

fn check_vector(vector: &[InstantSample], expected: &[ExpectedSeries], ordered: bool) -> Result<(), String> {
    let mut met = Vec::new();
    for (i, sample) in vector.iter().enumerate() {
        let series = find(expected, &sample.labels)?;
        let context = |message: String| format!("{}: {message}", sample.labels);
        if ordered && series.position != i + 1 {
            return Err(context(format!("expected at position {}, got {}", series.position, i + 1)));
        }
        let value = series.values.first().unwrap_or(&SeriesValue::Omitted);
        check_sample(&sample.value, value).map_err(context)?;
        met.push(&series.labels);
    }
    check_all_met(expected, &met)
}

fn check_sample(found: &SampleValue, expected: &SeriesValue) -> Result<(), String> {
    match (found, expected) {
        (SampleValue::Float(found), SeriesValue::Float(_) | SeriesValue::Omitted) => {
            let expected = if let SeriesValue::Float(expected) = expected { *expected } else { 0.0 };
            if almost_equal(*found, expected, EPSILON) {
                return Ok(());
            }
            Err(format!("expected {expected}, got {found}"))
        }
        (SampleValue::Histogram(found), SeriesValue::Histogram { histogram, hint_given }) => {
            if histograms_match(histogram, found, *hint_given) {
                return Ok(());
            }
            Err(format!("expected histogram {histogram:?}, got {found:?}"))
        }
        (SampleValue::Float(found), SeriesValue::Histogram { .. }) => {
            Err(format!("expected a histogram, got {found}"))
        }
        (SampleValue::Histogram(_), _) => Err("expected a float, got a histogram".to_owned()),
    }
}

fn check_matrix(
    matrix: &[RangeSeries],
    expected: &[ExpectedSeries],
    (start, end, step): (i64, i64, i64),
) -> Result<(), String> {
    let mut met = Vec::new();
    for series in matrix {
        let wanted = find(expected, &series.labels)?;
        let context = |message: String| format!("{}: {message}", series.labels);
        let (mut floats, mut histograms) = (series.floats.iter(), series.histograms.iter());
        for (i, value) in wanted.values.iter().enumerate() {
            let time = start + step * i as i64;
            if time > end {
                return Err(context("more values expected than the query has steps".to_owned()));
            }
            let found = match value {
                SeriesValue::Omitted => continue,
                SeriesValue::Float(_) => floats.next().map(|(at, value)| (*at, SampleValue::Float(*value))),
                SeriesValue::Histogram { .. } => {
                    histograms.next().map(|(at, value)| (*at, SampleValue::Histogram(value.clone())))
                }
            };
            let Some((at, found)) = found else {
                return Err(context(format!("expected a value at {time} ms, got {series:?}")));
            };
            if at != time {
                return Err(context(format!("expected a value at {time} ms, got it at {at} ms")));
            }
            check_sample(&found, value).map_err(|message| context(format!("at {time} ms: {message}")))?;
        }
        if floats.next().is_some() || histograms.next().is_some() {
            return Err(context(format!("more values than expected: {series:?}")));
        }
        met.push(&wanted.labels);
    }
    check_all_met(expected, &met)
}

/// Source: Prometheus v3.14, `promqltest/test.go`, `compareNativeHistogram`.
fn histograms_match(expected: &FloatHistogram, found: &FloatHistogram, with_hint: bool) -> bool {
    let compacted = |histogram: &FloatHistogram| {
        let mut copy = histogram.clone();
        copy.compact();
        copy
    };
    let (expected, found) = (compacted(expected), compacted(found));
    let floats = |a: &[f64], b: &[f64]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| almost_equal(*a, *b, EPSILON))
    };
    expected.schema == found.schema
        && almost_equal(expected.count, found.count, EPSILON)
        && almost_equal(expected.sum, found.sum, EPSILON)
        && (!expected.uses_custom_buckets()
            || custom_bounds_match(expected.custom_bounds(), found.custom_bounds()))
        && expected.zero_threshold == found.zero_threshold
        && almost_equal(expected.zero_count, found.zero_count, EPSILON)
        && without_empty(&expected.negative_spans) == without_empty(&found.negative_spans)
        && without_empty(&expected.positive_spans) == without_empty(&found.positive_spans)
        && floats(&expected.negative_buckets, &found.negative_buckets)
        && floats(&expected.positive_buckets, &found.positive_buckets)
        && (!with_hint || expected.counter_reset_hint == found.counter_reset_hint)
}

/// Spans without those of no length; their offsets go to the next.
fn without_empty(spans: &[Span]) -> Vec<Span> {
    let mut kept = Vec::new();
    let mut offset = 0;
    for span in spans {
        offset += span.offset;
        if span.length > 0 {
            kept.push(Span { offset, length: span.length });
            offset = 0;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineOptions, Features};

    const LOAD: &str = "load 1m\n  a{x=\"1\"} 1 2 3\n  a{x=\"2\"} 4 5 6\n\n";

    fn outcome(evals: &str) -> Outcome {
        let options = EngineOptions { features: Features::scripts(), threads: 1, ..EngineOptions::default() };
        let script = Script::parse(&format!("{LOAD}{evals}")).unwrap();
        run(&script, &Engine::new(options), &mut MemoryStore::new())
    }

    #[test]
    fn what_is_as_expected_passes() {
        for evals in [
            "eval instant at 1m sum(a)\n  {} 7",
            "eval instant at 1m a{x=\"1\"} > 5",
            "eval instant at 1m sort_desc(a)\n  expect ordered\n  a{x=\"2\"} 5\n  a{x=\"1\"} 2",
            "eval instant at 1m 1 + 2\n  3",
            "eval instant at 0 \"a\"\n  expect string \"a\"",
            "eval range from 0 to 2m step 1m sum(a)\n  {} 5 7 9",
            "eval instant at 1m quantile(2, a)\n  expect warn msg: PromQL warning: quantile value should be between 0 and 1, got 2 (1:10)\n  {} Inf",
            "eval instant at 1m label_join(a, \"\", \"\")\n  expect fail regex: ^invalid destination label name",
            "eval instant at 2m a[2m]\n  expect range vector from 1m to 2m step 1m\n  a{x=\"1\"} 2 3\n  a{x=\"2\"} 5 6",
        ] {
            let outcome = outcome(evals);
            assert_eq!((outcome.passed, outcome.failures.len()), (1, 0), "{evals}: {:?}", outcome.failures);
        }
    }

    #[test]
    fn what_is_not_as_expected_fails() {
        for evals in [
            "eval instant at 1m sum(a)\n  {} 7.1",
            "eval instant at 1m sum(a)\n  {x=\"1\"} 7",
            "eval instant at 1m a\n  a{x=\"1\"} 2",
            "eval instant at 1m a{x=\"1\"}\n  a{x=\"1\"} 2\n  a{x=\"2\"} 5",
            "eval instant at 1m sort_desc(a)\n  expect ordered\n  a{x=\"1\"} 2\n  a{x=\"2\"} 5",
            "eval instant at 1m 1 + 2\n  4",
            "eval instant at 1m 1 + 2\n  {} 3",
            "eval instant at 0 \"a\"\n  expect string \"b\"",
            "eval range from 0 to 2m step 1m sum(a)\n  {} 5 7",
            "eval range from 0 to 2m step 1m sum(a)\n  {} 5 7 9 11",
            "eval range from 0 to 2m step 1m sum(a)\n  {} 5 _ 9",
            "eval range from 0 to 2m step 1m sum(a)\n  {} 5 7 {{count:1}}",
            "eval instant at 1m quantile(2, a)\n  expect no_warn\n  {} Inf",
            "eval instant at 1m quantile(2, a)\n  expect warn msg: something else\n  {} Inf",
            "eval instant at 1m sum(a)\n  expect warn\n  {} 7",
            "eval instant at 1m sum(a)\n  expect fail",
            "eval instant at 1m label_join(a, \"\", \"\")\n",
            "eval instant at 1m label_join(a, \"\", \"\")\n  expect fail regex: never",
        ] {
            let outcome = outcome(evals);
            assert_eq!((outcome.passed, outcome.failures.len()), (0, 1), "{evals}");
        }
    }

    #[test]
    fn a_load_that_fails_stops_the_script() {
        let outcome = outcome(
            "load_with_nhcb 1m\n  h_bucket{le=\"1\"} 2\n  h_bucket{le=\"2\"} 1\n\neval instant at 0 1\n  1\n",
        );
        assert_eq!((outcome.passed, outcome.failures.len()), (0, 1));
        assert!(outcome.failures[0].message.contains("not cumulative"), "{:?}", outcome.failures);
    }

    #[test]
    fn selectors_are_pinned_but_not_inside_subqueries() {
        let cases = [
            ("a + rate(b[5m] offset 1m)", Some("a @ 60.000 + rate(b[5m] @ 60.000 offset 1m)")),
            ("sum_over_time(a[5m:1m])", Some("sum_over_time(a[5m:1m] @ 60.000)")),
            ("a @ 5 + a @ end()", Some("a @ 5.000 + a @ 60.000")),
            ("timestamp(a)", None),
        ];
        for (query, pinned) in cases {
            assert_eq!(pin_selectors(query, 60_000).as_deref(), pinned, "{query}");
        }
    }

    #[test]
    fn empty_spans_do_not_count() {
        let span = |offset, length| Span { offset, length };
        assert_eq!(
            without_empty(&[span(1, 2), span(3, 0), span(4, 1), span(5, 0)]),
            [span(1, 2), span(7, 1)]
        );
    }
}
