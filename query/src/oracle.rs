//! A second opinion for tests: an evaluator that shares nothing with the engine, and queries at random to
//! compare the two by.
//!
//! [`Oracle`] evaluates step by step over plain vectors of samples, as Prometheus does, without plan, columns,
//! sharing, pushdown or threads. Parser, histogram arithmetic and the texts of annotations are the engine's;
//! everything else is a second reading of Prometheus's source. [`generate`] makes series and well-typed queries
//! over them from a seed.
//!
//! Source: Prometheus v3.14, `promql`.

pub mod generate;

mod aggregate;
mod binary;
mod data;
mod evaluate;
mod functions;
mod info;
mod notes;
mod quantile;
mod rate;
mod tree;
mod windows;

pub use data::Data;

use crate::engine::{EngineOptions, QueryOutput, QueryRequest};
use crate::error::QueryError;
use crate::limits::Charge;
use crate::parser::{Expr, ParserOptions, ValueType, parse_expr};
use crate::stats::QueryStats;
use crate::value::{InstantSample, RangeSeries, Value};
use chronolith_model::Labels;
use evaluate::{Cx, Evaluator, Matrix};
use notes::Notes;
use std::rc::Rc;
use tree::{Frame, Kind, Node};

/// Evaluates queries one step after the other. Of the options only those count that change results; there are
/// no limits.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    options: EngineOptions,
}

impl Oracle {
    /// An oracle for what an engine with these options does.
    pub fn new(options: EngineOptions) -> Self {
        Self { options }
    }

    /// Evaluates a query.
    ///
    /// # Errors
    /// [`QueryError::Parse`] and [`QueryError::Execution`].
    pub fn execute(&self, data: &Data, request: &QueryRequest<'_>) -> Result<QueryOutput, QueryError> {
        let features = self.options.features;
        let options = ParserOptions {
            experimental_functions: features.experimental_functions,
            duration_expressions: features.duration_expressions,
            extended_range_selectors: features.extended_range_selectors,
            fill_modifiers: features.fill_modifiers,
        };
        let expr = parse_expr(request.text, options).map_err(|error| QueryError::Parse(error.to_string()))?;
        self.evaluate(data, &expr, request).map_err(QueryError::Execution)
    }

    fn evaluate(&self, data: &Data, expr: &Expr, request: &QueryRequest<'_>) -> Result<QueryOutput, String> {
        let value_type = expr.value_type();
        if request.range && !matches!(value_type, ValueType::Scalar | ValueType::Vector) {
            return Err(format!(
                "invalid expression type \"{}\" for range query, must be Scalar or instant Vector",
                value_type.documented()
            ));
        }
        let frame = match request.range {
            true => Frame { start: request.start, end: request.end, step: request.interval_ms },
            false => Frame { start: request.start, end: request.start, step: 0 },
        };
        let node = tree::prepare(expr, frame)?;
        let features = self.options.features;
        let cx = Cx {
            data,
            lookback: request.lookback_delta_ms.unwrap_or(self.options.lookback_delta_ms),
            default_step: self.options.default_subquery_step_ms,
            delayed: features.delayed_name_removal,
            type_and_unit: features.type_and_unit_labels,
            use_start: features.start_timestamps,
        };
        let interval = if request.range { request.interval_ms } else { 1 };
        let mut evaluator = Evaluator::new(&cx, frame.start, frame.end, interval);
        let mut notes = Notes::default();
        let timestamp = request.start;
        let value = if let Some(bytes) = text(&node) {
            Value::String { timestamp, value: bytes.to_vec() }
        } else {
            let mut matrix = evaluator.eval(&node, &mut notes)?;
            if cx.delayed {
                matrix = evaluate::clean_up(matrix)?;
            }
            match value_type {
                ValueType::Vector if !request.range => Value::Vector(vector(&matrix, timestamp)),
                ValueType::Scalar if !request.range => {
                    Value::Scalar { timestamp, value: matrix[0].floats[0].1 }
                }
                _ => Value::Matrix(sorted(matrix)),
            }
        };
        let (warnings, infos) = notes.render(request.text);
        let stats = QueryStats {
            total_queryable_samples: evaluator.stats.total,
            samples_read: evaluator.stats.read,
            ..QueryStats::default()
        };
        Ok(QueryOutput { value, warnings, infos, stats, held: Charge::nothing() })
    }
}

fn text(node: &Node) -> Option<&[u8]> {
    match &node.kind {
        Kind::String(bytes) => Some(bytes),
        Kind::Paren(inner) | Kind::StepInvariant(inner) => text(inner),
        _ => None,
    }
}

fn vector(matrix: &Matrix, timestamp: i64) -> Vec<InstantSample> {
    let sample = |row: &evaluate::Series| {
        let value = match row.histograms.first() {
            Some((_, histogram)) => crate::SampleValue::Histogram(std::sync::Arc::clone(histogram)),
            None => crate::SampleValue::Float(row.floats[0].1),
        };
        InstantSample { labels: (*row.labels).clone().into(), timestamp, value }
    };
    matrix.iter().map(sample).collect()
}

fn sorted(matrix: Matrix) -> Vec<RangeSeries> {
    let series = |row: evaluate::Series| RangeSeries {
        labels: Rc::unwrap_or_clone(row.labels).into(),
        floats: row.floats,
        histograms: row.histograms,
    };
    let mut matrix: Vec<RangeSeries> = matrix.into_iter().map(series).collect();
    matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
    matrix
}

/// Source: Prometheus v3.14, `util/kahansum`.
fn kahan(increment: f64, sum: f64, c: f64) -> (f64, f64) {
    let total = sum + increment;
    if total.is_infinite() {
        (total, 0.0)
    } else if sum.abs() >= increment.abs() {
        (total, c + ((sum - total) + increment))
    } else {
        (total, c + ((increment - total) + sum))
    }
}

/// Go's `math.Max`.
fn go_max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        return f64::INFINITY;
    }
    if a.is_nan() || b.is_nan() {
        return f64::NAN;
    }
    if a == 0.0 && a == b {
        return if a.is_sign_negative() { b } else { a };
    }
    if a > b { a } else { b }
}

/// Go's `math.Min`.
fn go_min(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY || b == f64::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    if a.is_nan() || b.is_nan() {
        return f64::NAN;
    }
    if a == 0.0 && a == b {
        return if a.is_sign_negative() { a } else { b };
    }
    if a < b { a } else { b }
}

/// Go's `int64(value)` on amd64.
fn go_int64(value: f64) -> i64 {
    match (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) {
        true => value as i64,
        false => i64::MIN,
    }
}

/// The hash of labels.
///
/// Source: Prometheus v3.14, `model/labels/labels_stringlabels.go`, `Hash` and `appendLabelTo`.
fn hash(labels: &Labels) -> u64 {
    let mut data = Vec::new();
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        if text.len() < 255 {
            data.push(text.len() as u8);
        } else {
            data.push(255);
            data.extend((text.len() as u32).to_le_bytes().iter().take(3));
        }
        data.extend(text.bytes());
    }
    xxhash_rust::xxh64::xxh64(&data, 0)
}
