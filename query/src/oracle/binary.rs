//! Operators between two values.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `VectorAnd`, `VectorOr`, `VectorUnless`, `VectorBinop`,
//! `VectorscalarBinop`, `scalarBinop`, `vectorElemBinop`, `resultMetric`.

use super::evaluate::{Evaluator, Matrix, Sample, bare, is_metadata};
use super::notes::Notes;
use super::tree::Node;
use crate::annotations::{Annotation, HistogramOperation, Severity};
use crate::parser::ast::{BinaryOp, Cardinality, VectorMatching};
use crate::parser::{Span, ValueType};
use crate::value::SampleValue;
use chronolith_model::histogram::Trim;
use chronolith_model::{CounterResetHint, FloatHistogram, Labels, METRIC_NAME};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

#[derive(Clone, Copy)]
pub(super) struct Operation {
    pub(super) op: BinaryOp,
    pub(super) return_bool: bool,
    pub(super) span: Span,
}

pub(super) fn eval(
    evaluator: &mut Evaluator<'_>,
    op: Operation,
    lhs: &Node,
    rhs: &Node,
    matching: Option<&VectorMatching>,
    notes: &mut Notes,
) -> Result<Matrix, String> {
    let delayed = evaluator.cx.delayed;
    let cx = evaluator.cx;
    match (lhs.value_type, rhs.value_type) {
        (ValueType::Scalar, ValueType::Scalar) => {
            evaluator.steps_of(None, &[lhs, rhs], notes, |vectors, _, _, _| {
                let value = |at: usize| vectors[at][0].float().expect("scalars are floats");
                Ok(vec![bare(scalar(op.op, value(0), value(1)))])
            })
        }
        (ValueType::Scalar, _) | (_, ValueType::Scalar) => {
            let swap = lhs.value_type == ValueType::Scalar;
            evaluator.steps_of(None, &[lhs, rhs], notes, |vectors, _, _, notes| {
                let (vector, scalar) = if swap { (1, 0) } else { (0, 1) };
                let scalar = vectors[scalar][0].float().expect("scalars are floats");
                let mut last = None;
                let mut out = Vec::new();
                for sample in &vectors[vector] {
                    out.extend(with_scalar(op, sample, scalar, swap, &mut last).map(|mut sample| {
                        if sample.drop_name && changes_schema(op) && !delayed {
                            sample.labels = cx.nameless(&sample.labels);
                        }
                        sample
                    }));
                }
                add_last(last, notes, op.span);
                Ok(out)
            })
        }
        _ => {
            let matching = matching.cloned().unwrap_or_default();
            evaluator.steps_of(Some(&matching), &[lhs, rhs], notes, |vectors, signatures, _, notes| {
                let (lhs, rhs) =
                    ((&vectors[0][..], &signatures[0][..]), (&vectors[1][..], &signatures[1][..]));
                match op.op {
                    BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => Ok(set(op.op, lhs, rhs)),
                    _ => {
                        let mut join = Join { op, matching: &matching, delayed, last: None, out: Vec::new() };
                        join.run(lhs, rhs)?;
                        add_last(join.last, notes, op.span);
                        Ok(join.out)
                    }
                }
            })
        }
    }
}

/// Whether the result is no longer the metric it was.
const fn changes_schema(op: Operation) -> bool {
    op.return_bool || is_arithmetic(op.op)
}

const fn is_arithmetic(op: BinaryOp) -> bool {
    matches!(
        op,
        BinaryOp::Add
            | BinaryOp::Sub
            | BinaryOp::Div
            | BinaryOp::Mul
            | BinaryOp::Pow
            | BinaryOp::Mod
            | BinaryOp::Atan2
    )
}

fn add_last(last: Option<Annotation>, notes: &mut Notes, span: Span) {
    if let Some(annotation) = last {
        notes.add(annotation, span);
    }
}

/// A vector and the numbers of its join signatures.
type Side<'v> = (&'v [Sample], &'v [usize]);

fn set(op: BinaryOp, lhs: Side<'_>, rhs: Side<'_>) -> Vec<Sample> {
    let left: HashSet<usize> = lhs.1.iter().copied().collect();
    let right: HashSet<usize> = rhs.1.iter().copied().collect();
    let of = |side: Side<'_>, keep: &dyn Fn(usize) -> bool| -> Vec<Sample> {
        side.0
            .iter()
            .zip(side.1)
            .filter(|(_, number)| keep(**number))
            .map(|(sample, _)| sample.clone())
            .collect()
    };
    match op {
        BinaryOp::And => of(lhs, &|number| right.contains(&number)),
        BinaryOp::Unless => of(lhs, &|number| !right.contains(&number)),
        _ => {
            let mut out = lhs.0.to_vec();
            let added = of(rhs, &|number| !left.contains(&number));
            out.extend(added.into_iter().map(|sample| Sample { order: sample.order + RIGHT, ..sample }));
            out
        }
    }
}

/// Rows that come from the right side only stand behind all others.
const RIGHT: u64 = 1 << 40;

fn scalar(op: BinaryOp, lhs: f64, rhs: f64) -> f64 {
    match elements(op, &SampleValue::Float(lhs), &SampleValue::Float(rhs)) {
        Ok(Element { value: SampleValue::Float(value), .. }) if is_arithmetic(op) => value,
        Ok(element) => f64::from(u8::from(element.keep)),
        Err(_) => f64::NAN,
    }
}

/// The result for two samples.
struct Element {
    value: SampleValue,
    keep: bool,
    note: Option<Annotation>,
}

fn float(value: f64) -> Result<Element, Annotation> {
    Ok(Element { value: SampleValue::Float(value), keep: true, note: None })
}

fn histogram(histogram: FloatHistogram) -> Result<Element, Annotation> {
    Ok(Element { value: SampleValue::Histogram(Arc::new(histogram)), keep: true, note: None })
}

fn elements(op: BinaryOp, lhs: &SampleValue, rhs: &SampleValue) -> Result<Element, Annotation> {
    use SampleValue::{Float, Histogram};
    let kept = |keep: bool| Ok(Element { value: lhs.clone(), keep, note: None });
    let incompatible = |lhs, rhs| Err(Annotation::IncompatibleTypesInBinOp { lhs, op: op.as_str(), rhs });
    match (lhs, rhs) {
        (&Float(a), &Float(b)) => match op {
            BinaryOp::Add => float(a + b),
            BinaryOp::Sub => float(a - b),
            BinaryOp::Mul => float(a * b),
            BinaryOp::Div => float(a / b),
            BinaryOp::Pow => float(a.powf(b)),
            BinaryOp::Mod => float(a % b),
            BinaryOp::Atan2 => float(a.atan2(b)),
            BinaryOp::Eql => kept(a == b),
            BinaryOp::Neq => kept(a != b),
            BinaryOp::Gtr => kept(a > b),
            BinaryOp::Lss => kept(a < b),
            BinaryOp::Gte => kept(a >= b),
            BinaryOp::Lte => kept(a <= b),
            _ => incompatible("float", "float"),
        },
        (&Float(a), Histogram(b)) => match op {
            BinaryOp::Mul => histogram(scaled(b, |b| b.mul(a))),
            _ => incompatible("float", "histogram"),
        },
        (Histogram(a), &Float(b)) => match op {
            BinaryOp::Mul => histogram(scaled(a, |a| a.mul(b))),
            BinaryOp::Div => histogram(scaled(a, |a| a.div(b))),
            BinaryOp::TrimUpper | BinaryOp::TrimLower => {
                let mut a = (**a).clone();
                a.trim(b, if op == BinaryOp::TrimUpper { Trim::Upper } else { Trim::Lower });
                histogram(a)
            }
            _ => incompatible("histogram", "float"),
        },
        (Histogram(a), Histogram(b)) => match op {
            BinaryOp::Add | BinaryOp::Sub => sum(op, a, b),
            BinaryOp::Eql => kept(a.same_data(b)),
            BinaryOp::Neq => kept(!a.same_data(b)),
            _ => incompatible("histogram", "histogram"),
        },
    }
}

fn scaled(h: &FloatHistogram, scale: impl FnOnce(&mut FloatHistogram)) -> FloatHistogram {
    let mut h = h.clone();
    scale(&mut h);
    h.compact();
    h
}

fn sum(op: BinaryOp, a: &FloatHistogram, b: &FloatHistogram) -> Result<Element, Annotation> {
    let mut result = a.clone();
    let (reconciled, operation) = match op {
        BinaryOp::Add => (result.add(b), HistogramOperation::Add),
        _ => (result.sub(b), HistogramOperation::Sub),
    };
    let Ok(reconciled) = reconciled else {
        return Err(Annotation::IncompatibleBucketLayoutInBinOp(op.as_str()));
    };
    if op == BinaryOp::Sub {
        result.counter_reset_hint = CounterResetHint::Gauge;
    }
    result.compact();
    if reconciled.counter_reset_collision {
        // A warning, but the result goes with it.
        return Err(Annotation::HistogramCounterResetCollision(operation));
    }
    let note = reconciled.custom_bounds.then_some(Annotation::MismatchedCustomBuckets(operation));
    Ok(Element { value: SampleValue::Histogram(Arc::new(result)), keep: true, note })
}

fn with_scalar(
    op: Operation,
    sample: &Sample,
    scalar: f64,
    swap: bool,
    last: &mut Option<Annotation>,
) -> Option<Sample> {
    let scalar = SampleValue::Float(scalar);
    let (lhs, rhs) = if swap { (&scalar, &sample.value) } else { (&sample.value, &scalar) };
    let element = match elements(op.op, lhs, rhs) {
        Ok(element) => element,
        Err(note) => {
            debug_assert_eq!(note.severity(), Severity::Info, "with a scalar there are no other notes");
            *last = Some(note);
            return None;
        }
    };
    let value = match op.op.is_comparison() && swap {
        true => sample.value.clone(),
        false => element.value,
    };
    let (value, keep) = match op.return_bool {
        true => (SampleValue::Float(f64::from(u8::from(element.keep))), true),
        false => (value, element.keep),
    };
    let drop_name = sample.drop_name || changes_schema(op);
    keep.then(|| Sample { value, drop_name, ..sample.clone() })
}

/// A join of two vectors at one step.
struct Join<'m> {
    op: Operation,
    matching: &'m VectorMatching,
    delayed: bool,
    last: Option<Annotation>,
    out: Vec<Sample>,
}

impl Join<'_> {
    fn run(&mut self, lhs: Side<'_>, rhs: Side<'_>) -> Result<(), String> {
        let matching = self.matching;
        let no_fill = matching.fill_lhs.is_none() && matching.fill_rhs.is_none();
        if (lhs.0.is_empty() && rhs.0.is_empty()) || ((lhs.0.is_empty() || rhs.0.is_empty()) && no_fill) {
            return Ok(());
        }
        let swapped = matching.cardinality == Cardinality::OneToMany;
        let (many, one) = if swapped { (rhs, lhs) } else { (lhs, rhs) };
        let mut ones: HashMap<usize, &Sample> = HashMap::new();
        for (sample, &number) in one.0.iter().zip(one.1) {
            if let Some(other) = ones.insert(number, sample) {
                let side = if swapped { "left" } else { "right" };
                let group = self.match_labels(&sample.labels);
                let mut both = [sample.labels.to_string(), other.labels.to_string()];
                both.sort();
                return Err(format!(
                    "found duplicate series for the match group {group} on the {side} hand-side of the operation: \
                     [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
                    both[0], both[1]
                ));
            }
        }
        let mut met: HashMap<usize, HashSet<Labels>> = HashMap::new();
        for (sample, &number) in many.0.iter().zip(many.1) {
            match (ones.get(&number), matching.fill_rhs) {
                (Some(one), _) => self.pair(sample, one, number, sample.order, &mut met)?,
                (None, Some(fill)) => {
                    let filled = self.filled(sample, fill);
                    self.pair(sample, &filled, number, sample.order, &mut met)?;
                }
                (None, None) => {}
            }
        }
        let Some(fill) = matching.fill_lhs else { return Ok(()) };
        for (sample, &number) in one.0.iter().zip(one.1) {
            if !met.contains_key(&number) {
                let filled = self.filled(sample, fill);
                self.pair(&filled, sample, number, sample.order + RIGHT, &mut met)?;
            }
        }
        Ok(())
    }

    fn filled(&self, sample: &Sample, fill: f64) -> Sample {
        Sample { labels: Rc::new(self.match_labels(&sample.labels)), ..bare(fill) }
    }

    /// The labels that two series met by.
    fn match_labels(&self, labels: &Labels) -> Labels {
        let mut builder = labels.to_builder();
        builder.retain(|name, _| {
            let listed = self.matching.labels.iter().any(|label| label == name);
            if self.matching.on { listed } else { !listed && name != METRIC_NAME }
        });
        builder.build()
    }

    fn pair(
        &mut self,
        many: &Sample,
        one: &Sample,
        number: usize,
        order: u64,
        met: &mut HashMap<usize, HashSet<Labels>>,
    ) -> Result<(), String> {
        let swapped = self.matching.cardinality == Cardinality::OneToMany;
        let (lhs, rhs) = if swapped { (&one.value, &many.value) } else { (&many.value, &one.value) };
        let element = match elements(self.op.op, lhs, rhs) {
            Ok(element) => element,
            Err(note) => {
                self.last = Some(note);
                return Ok(());
            }
        };
        if element.note.is_some() {
            self.last = element.note;
        }
        let value = match self.op.return_bool {
            true => SampleValue::Float(f64::from(u8::from(element.keep))),
            false => element.value,
        };
        let labels = self.result_labels(&many.labels, &one.labels);
        let inserted = met.entry(number).or_default();
        if self.matching.cardinality == Cardinality::OneToOne {
            if !inserted.is_empty() {
                let text = "multiple matches for labels: many-to-one matching must be explicit \
                            (group_left/group_right)";
                return Err(text.to_owned());
            }
            inserted.insert(labels.clone());
        } else if !inserted.insert(labels.clone()) {
            return Err("multiple matches for labels: grouping labels must ensure unique matches".to_owned());
        }
        if element.keep || self.op.return_bool {
            let (labels, drop_name) = (Rc::new(labels), self.op.return_bool);
            self.out.push(Sample { labels, t: many.t, value, drop_name, order });
        }
        Ok(())
    }

    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let mut builder = many.to_builder();
        if is_arithmetic(self.op.op) || (!self.delayed && self.op.return_bool) {
            builder.retain(|name, _| !is_metadata(name));
        }
        if self.matching.cardinality == Cardinality::OneToOne {
            builder
                .retain(|name, _| self.matching.labels.iter().any(|label| label == name) == self.matching.on);
        }
        for name in &self.matching.include {
            builder.set(name, one.get(name).unwrap_or(""));
        }
        builder.build()
    }
}
