//! Row-wise steps: math, clamping, negation, operators with a scalar, values out of histograms.

use super::batch::{Batch, Grid, HistogramColumn, Rows, bits, clear_bit, set_bit};
use super::{ColumnMap, Cx, Kept, Operator};
use crate::annotations::{Annotation, Annotations};
use crate::error::QueryError;
use crate::functions::math;
use crate::parser::Span;
use crate::parser::ast::BinaryOp;
use chronolith_model::FloatHistogram;
use chronolith_model::histogram::Trim;
use std::sync::Arc;

/// `f` of every float; histograms drop out.
pub(crate) struct FloatMap<F>(pub(crate) F);

impl<F: Fn(f64) -> f64 + Send + Sync> ColumnMap for FloatMap<F> {
    fn apply(&self, _cx: &Cx<'_>, batch: &mut Batch, _notes: &mut Annotations) -> Result<(), QueryError> {
        batch.histograms.clear();
        for row in 0..batch.rows {
            let out = batch.row_mut(row);
            if *out.constant {
                let value = self.0(out.values[0]);
                out.values.fill(value);
            } else if *out.dense {
                for value in out.values.iter_mut() {
                    *value = self.0(*value);
                }
            } else {
                for step in bits(out.present) {
                    out.values[step] = self.0(out.values[step]);
                }
            }
        }
        Ok(())
    }
}

/// `f` of step and value of every float, `None` for no result; histograms drop out.
pub(crate) struct StepMap<F>(pub(crate) F);

impl<F: Fn(usize, f64) -> Option<f64> + Send + Sync> ColumnMap for StepMap<F> {
    fn apply(&self, _cx: &Cx<'_>, batch: &mut Batch, _notes: &mut Annotations) -> Result<(), QueryError> {
        batch.histograms.clear();
        for row in 0..batch.rows {
            let mut out = batch.row_mut(row);
            for step in 0..out.values.len() {
                if out.present[step / 64] >> (step % 64) & 1 == 0 {
                    continue;
                }
                match self.0(step, out.values[step]) {
                    Some(value) => out.values[step] = value,
                    None => clear_bit(out.present, step),
                }
            }
            out.finish();
        }
        Ok(())
    }
}

/// `f` of the step for every sample of either kind.
pub(crate) struct SampleMap<F>(pub(crate) F);

impl<F: Fn(usize) -> f64 + Send + Sync> ColumnMap for SampleMap<F> {
    fn apply(&self, _cx: &Cx<'_>, batch: &mut Batch, _notes: &mut Annotations) -> Result<(), QueryError> {
        let histograms = std::mem::take(&mut batch.histograms);
        for (row, column) in &histograms {
            let out = batch.row_mut(*row);
            for &step in &column.steps {
                set_bit(out.present, step as usize);
            }
        }
        for row in 0..batch.rows {
            let mut out = batch.row_mut(row);
            for step in bits(out.present) {
                out.values[step] = self.0(step);
            }
            out.finish();
        }
        Ok(())
    }
}

/// `f` of every histogram; floats drop out.
pub(crate) struct HistogramMap(pub(crate) fn(&FloatHistogram) -> f64);

impl ColumnMap for HistogramMap {
    fn apply(&self, _cx: &Cx<'_>, batch: &mut Batch, _notes: &mut Annotations) -> Result<(), QueryError> {
        let histograms = std::mem::take(&mut batch.histograms);
        batch.present.fill(0);
        batch.dense.fill(false);
        batch.constant.fill(false);
        for (row, column) in &histograms {
            let mut out = batch.row_mut(*row);
            for (step, h) in column.iter() {
                out.set(step, self.0(h));
            }
            out.finish();
        }
        Ok(())
    }
}

/// Unary minus.
pub(crate) struct Negate;

impl ColumnMap for Negate {
    fn apply(&self, _cx: &Cx<'_>, batch: &mut Batch, _notes: &mut Annotations) -> Result<(), QueryError> {
        for value in &mut batch.values {
            *value = -*value;
        }
        for (_, column) in &mut batch.histograms {
            for h in &mut column.values {
                Arc::make_mut(h).mul(-1.0);
            }
        }
        Ok(())
    }
}

/// An operator between a vector and a scalar.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `VectorscalarBinop`.
pub(crate) struct WithScalar {
    pub(crate) op: BinaryOp,
    /// By step.
    pub(crate) scalar: Vec<f64>,
    /// Whether the scalar stands on the left.
    pub(crate) scalar_left: bool,
    pub(crate) return_bool: bool,
    /// Where the operation stands.
    pub(crate) span: Span,
}

impl ColumnMap for WithScalar {
    fn apply(&self, _cx: &Cx<'_>, batch: &mut Batch, notes: &mut Annotations) -> Result<(), QueryError> {
        if !batch.histograms.is_empty() {
            let columns = std::mem::take(&mut batch.histograms);
            for (row, column) in columns {
                let column = self.histograms(column, notes);
                batch.set_histograms(row, column);
            }
        }
        debug_assert!(!(self.is_trim() && self.scalar_left), "left to `trim_scalars`");
        if self.is_trim() {
            if batch.present.iter().any(|&word| word != 0) {
                notes.add(incompatible("float", self.op, "float"), self.span);
            }
            batch.present.fill(0);
            batch.dense.fill(false);
            batch.constant.fill(false);
            return Ok(());
        }
        let same = self.scalar.iter().all(|value| value.to_bits() == self.scalar[0].to_bits());
        for row in 0..batch.rows {
            let mut out = batch.row_mut(row);
            if self.op.is_comparison() {
                self.compare(&mut out);
                continue;
            }
            if *out.constant && same {
                let value = self.arithmetic(out.values[0], self.scalar[0]);
                out.values.fill(value);
                continue;
            }
            *out.constant = false;
            // The common operators get loops of their own, which the compiler turns into vector code.
            let cells = out.values.iter_mut().zip(&self.scalar);
            match (self.op, self.scalar_left) {
                (BinaryOp::Add, _) => cells.for_each(|(v, s)| *v += s),
                (BinaryOp::Mul, _) => cells.for_each(|(v, s)| *v *= s),
                (BinaryOp::Sub, false) => cells.for_each(|(v, s)| *v -= s),
                (BinaryOp::Sub, true) => cells.for_each(|(v, s)| *v = s - *v),
                (BinaryOp::Div, false) => cells.for_each(|(v, s)| *v /= s),
                (BinaryOp::Div, true) => cells.for_each(|(v, s)| *v = s / *v),
                _ => {
                    for step in bits(out.present) {
                        out.values[step] = self.arithmetic(out.values[step], self.scalar[step]);
                    }
                }
            }
        }
        Ok(())
    }
}

/// A scalar cannot be trimmed. Of what there is to note of a step, that of the last sample stays.
pub(crate) fn trim_scalars(
    cx: &Cx<'_>,
    mut inner: Box<dyn Operator>,
    grid: Grid,
    op: BinaryOp,
    span: Span,
) -> Result<Kept, QueryError> {
    let mut last: Vec<Option<&'static str>> = vec![None; grid.n_steps];
    let mut batch = Batch::default();
    while inner.next(cx, &mut batch)? {
        for row in 0..batch.rows {
            let row = batch.row(row);
            row.float_steps().for_each(|step| last[step] = Some("float"));
            let histograms = row.histograms.into_iter().flat_map(|column| column.iter());
            histograms.for_each(|(step, _)| last[step] = Some("histogram"));
        }
    }
    let mut notes = inner.finish();
    last.into_iter().flatten().for_each(|kind| notes.add(incompatible("float", op, kind), span));
    Ok(Kept { grid, series: Vec::new(), rows: Rows::default(), at: 0, notes })
}

impl WithScalar {
    fn is_trim(&self) -> bool {
        matches!(self.op, BinaryOp::TrimLower | BinaryOp::TrimUpper)
    }

    fn arithmetic(&self, value: f64, scalar: f64) -> f64 {
        if self.scalar_left { arithmetic(self.op, scalar, value) } else { arithmetic(self.op, value, scalar) }
    }

    /// A comparison keeps the vector's value, whichever side it is on, or gives 0 and 1.
    fn compare(&self, out: &mut super::batch::RowMut<'_>) {
        for step in 0..out.values.len() {
            if out.present[step / 64] >> (step % 64) & 1 == 0 {
                continue;
            }
            let (value, scalar) = (out.values[step], self.scalar[step]);
            let holds = match self.scalar_left {
                true => compare(self.op, scalar, value),
                false => compare(self.op, value, scalar),
            };
            if self.return_bool {
                out.values[step] = f64::from(u8::from(holds));
            } else if !holds {
                clear_bit(out.present, step);
            }
        }
        out.finish();
    }

    fn histograms(&self, mut column: HistogramColumn, notes: &mut Annotations) -> HistogramColumn {
        let supported = match self.op {
            BinaryOp::Mul => true,
            BinaryOp::Div | BinaryOp::TrimLower | BinaryOp::TrimUpper => !self.scalar_left,
            _ => false,
        };
        if !supported {
            let note = match self.scalar_left {
                true => incompatible("float", self.op, "histogram"),
                false => incompatible("histogram", self.op, "float"),
            };
            notes.add(note, self.span);
            return HistogramColumn::default();
        }
        for (&step, h) in column.steps.iter().zip(&mut column.values) {
            let scalar = self.scalar[step as usize];
            scale(self.op, Arc::make_mut(h), scalar);
        }
        column
    }
}

/// A histogram and a number.
pub(crate) fn scale(op: BinaryOp, h: &mut FloatHistogram, number: f64) {
    match op {
        BinaryOp::Mul => {
            h.mul(number);
            h.compact();
        }
        BinaryOp::Div => {
            h.div(number);
            h.compact();
        }
        BinaryOp::TrimLower => h.trim(number, Trim::Lower),
        BinaryOp::TrimUpper => h.trim(number, Trim::Upper),
        _ => unreachable!("other operators do not take a histogram and a number"),
    }
}

pub(crate) fn incompatible(lhs: &'static str, op: BinaryOp, rhs: &'static str) -> Annotation {
    Annotation::IncompatibleTypesInBinOp { lhs, op: op.as_str(), rhs }
}

/// Whether a comparison holds.
pub(crate) fn compare(op: BinaryOp, lhs: f64, rhs: f64) -> bool {
    math::compare(op, lhs, rhs).unwrap_or(false)
}

/// An arithmetic operator.
pub(crate) fn arithmetic(op: BinaryOp, lhs: f64, rhs: f64) -> f64 {
    math::arithmetic(op, lhs, rhs).unwrap_or(f64::NAN)
}

/// An operator between two scalars; comparisons give 0 or 1.
pub(crate) fn scalar_binary(op: BinaryOp, lhs: f64, rhs: f64) -> f64 {
    if op.is_comparison() {
        return f64::from(u8::from(compare(op, lhs, rhs)));
    }
    arithmetic(op, lhs, rhs)
}
