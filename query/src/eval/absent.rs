//! Folds of a whole vector into one row or one column: absent, absent_over_time, scalar.

use super::batch::{Batch, Grid, bits, count_bits, fill_bits, get_bit, set_bit};
use super::labels::{LabelSetId, NO_LABELS};
use super::{Cx, Kept, Operator, OutSeries, Rows, Scalar};
use crate::error::QueryError;
use crate::plan::Plan;
use chronolith_model::matcher::MatchOp;
use chronolith_model::{LabelsBuilder, METRIC_NAME};

/// One row with 1 at every step at which the vector has no sample; no row if there is no such step.
pub(crate) fn absent(
    cx: &Cx<'_>,
    mut inner: Box<dyn Operator>,
    grid: Grid,
    result: OutSeries,
) -> Result<Box<dyn Operator>, QueryError> {
    let mut any = vec![0; grid.n_words()];
    let mut batch = Batch::default();
    while inner.next(cx, &mut batch)? {
        for row in 0..batch.rows {
            batch.row(row).mark_any(&mut any);
        }
        cx.check()?;
    }
    let mut rows = Rows::default();
    let mut series = Vec::new();
    if count_bits(&any) < grid.n_steps {
        let mut absent = vec![0; grid.n_words()];
        fill_bits(&mut absent, grid.n_steps);
        for (absent, any) in absent.iter_mut().zip(&any) {
            *absent &= !any;
        }
        let mut batch = Batch::new(cx, &grid, 0, 1)?;
        let mut row = batch.row_mut(0);
        for step in bits(&absent) {
            row.set(step, 1.0);
        }
        row.finish();
        rows.push(batch);
        series.push(result);
    }
    Ok(Box::new(Kept { grid, series, rows, at: 0, notes: inner.finish() }))
}

/// Labels that a selector asks for with `=`, each name once; none for anything else.
///
/// Source: Prometheus v3.14, `promql/functions.go`, `createLabelsForAbsentFunction`.
pub(crate) fn absent_labels(cx: &Cx<'_>, argument: &Plan) -> LabelSetId {
    let Some(selector) = argument.selector() else {
        return NO_LABELS;
    };
    let mut labels = LabelsBuilder::new();
    let mut seen: Vec<&str> = Vec::new();
    for matcher in selector.matchers.iter().filter(|matcher| matcher.name != METRIC_NAME) {
        if matcher.op == MatchOp::Equal && !seen.contains(&matcher.name.as_str()) {
            labels.set(&matcher.name, &matcher.value);
            seen.push(&matcher.name);
        } else {
            labels.remove(&matcher.name);
        }
    }
    let symbols = &cx.store.symbols;
    let pairs: Vec<_> =
        labels.iter().map(|(name, value)| (symbols.intern(name), symbols.intern(value))).collect();
    cx.label_sets.intern(&pairs)
}

/// The only float of each step; NaN where there is none, or more than one.
pub(crate) fn scalar(cx: &Cx<'_>, mut inner: Box<dyn Operator>, grid: Grid) -> Result<Scalar, QueryError> {
    let mut values = vec![f64::NAN; grid.n_steps];
    let mut found = vec![0; grid.n_words()];
    let mut batch = Batch::default();
    while inner.next(cx, &mut batch)? {
        for row in 0..batch.rows {
            let row = batch.row(row);
            for step in row.float_steps() {
                values[step] = if get_bit(&found, step) { f64::NAN } else { row.values[step] };
                set_bit(&mut found, step);
            }
        }
        cx.check()?;
    }
    Ok(Scalar { values, notes: inner.finish() })
}
