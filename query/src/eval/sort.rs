//! sort, sort_desc, sort_by_label, sort_by_label_desc: the order of an instant vector.

use super::batch::{Batch, Grid};
use super::{Cx, Kept, Operator, Rows};
use crate::error::QueryError;
use crate::functions::label::natural_less;
use chronolith_model::Labels;
use std::cmp::Ordering;

/// What an instant vector is sorted by.
pub(crate) enum Order {
    /// By value, NaN last; histograms drop out.
    Value { descending: bool },
    /// By the values of these labels in natural order, then by all labels.
    Labels { names: Vec<String>, descending: bool },
}

/// The rows in order. Only the first step is looked at: results over several are ordered by labels anyway.
pub(crate) fn sort(
    cx: &Cx<'_>,
    mut inner: Box<dyn Operator>,
    grid: Grid,
    order: &Order,
) -> Result<Kept, QueryError> {
    let rows = cx.drain(&mut *inner)?;
    let series = inner.series().to_vec();
    let mut indices: Vec<usize> = (0..series.len()).filter(|&at| !rows.row(at).is_empty()).collect();
    let keep_histograms = matches!(order, Order::Labels { .. });
    if grid.instant {
        match order {
            Order::Value { descending } => {
                indices.retain(|&at| rows.row(at).has(0));
                let value = |at: usize| rows.row(at).values[0];
                // Go's insertion sort turns NaNs around.
                if indices.len() <= 12 {
                    indices.reverse();
                    indices.sort_by_key(|&at| !value(at).is_nan());
                    let n_nan = indices.iter().filter(|&&at| value(at).is_nan()).count();
                    indices[n_nan..].reverse();
                }
                indices.sort_by(|&a, &b| by_value(value(a), value(b), *descending));
            }
            Order::Labels { names, descending } => {
                let labels: Vec<Labels> = series
                    .iter()
                    .map(|series| cx.label_sets.to_labels(&cx.store.symbols, series.labels))
                    .collect();
                indices.sort_by(|&a, &b| {
                    let order = by_labels(&labels[a], &labels[b], names);
                    if *descending { order.reverse() } else { order }
                });
            }
        }
    }
    let series = indices.iter().map(|&at| series[at]).collect();
    let rows = in_order(cx, &grid, &rows, &indices, keep_histograms)?;
    Ok(Kept { grid, series, rows, at: 0, notes: inner.finish() })
}

/// Copies of some rows, in their order.
pub(crate) fn in_order(
    cx: &Cx<'_>,
    grid: &Grid,
    rows: &Rows,
    indices: &[usize],
    keep_histograms: bool,
) -> Result<Rows, QueryError> {
    let mut sorted = Rows::default();
    let per_batch = cx.rows_per_batch(grid);
    for (chunk_at, chunk) in indices.chunks(per_batch).enumerate() {
        let mut batch = Batch::new(cx, grid, chunk_at * per_batch, chunk.len())?;
        for (row, &at) in chunk.iter().enumerate() {
            let mut source = rows.row(at);
            if !keep_histograms {
                source.histograms = None;
            }
            batch.copy_row(row, source);
        }
        sorted.push(batch);
    }
    Ok(sorted)
}

/// NaN goes last either way.
fn by_value(a: f64, b: f64, descending: bool) -> Ordering {
    match a.partial_cmp(&b) {
        Some(order) if descending => order.reverse(),
        Some(order) => order,
        None => a.is_nan().cmp(&b.is_nan()),
    }
}

fn by_labels(a: &Labels, b: &Labels, names: &[String]) -> Ordering {
    for name in names {
        let (x, y) = (a.get(name).unwrap_or(""), b.get(name).unwrap_or(""));
        if x != y {
            return if natural_less(x, y) { Ordering::Less } else { Ordering::Greater };
        }
    }
    a.cmp(b)
}
