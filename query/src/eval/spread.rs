//! Parts that are the same at every step: evaluated at the first one, spread over all.

use super::batch::{Batch, Grid, HistogramColumn};
use super::{Cx, Operator, OutSeries};
use crate::annotations::Annotations;
use crate::error::QueryError;
use std::sync::Arc;

/// Repeats the rows of a one-step operator over a grid.
pub(crate) struct Spread {
    inner: Box<dyn Operator>,
    series: Vec<OutSeries>,
    grid: Grid,
    /// The batch that is being spread, and how many of its rows are done.
    batch: Batch,
    done: usize,
}

impl Spread {
    pub(crate) fn new(inner: Box<dyn Operator>, grid: Grid) -> Self {
        let series = inner.series().to_vec();
        Self { inner, series, grid, batch: Batch::default(), done: 0 }
    }
}

impl Operator for Spread {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        while self.done == self.batch.rows {
            if !self.inner.next(cx, &mut self.batch)? {
                return Ok(false);
            }
            self.done = 0;
        }
        let n = cx.rows_per_batch(&self.grid).min(self.batch.rows - self.done);
        out.reset(cx, &self.grid, self.batch.first + self.done, n)?;
        for row in 0..n {
            let source = self.batch.row(self.done + row);
            if source.has(0) {
                out.row_mut(row).fill(source.values[0]);
            } else if let Some(h) = source.histograms.and_then(|column| column.get(0)) {
                let n_steps = self.grid.n_steps as u32;
                out.set_histograms(
                    row,
                    HistogramColumn {
                        steps: (0..n_steps).collect(),
                        values: vec![Arc::clone(h); self.grid.n_steps],
                    },
                );
            }
        }
        out.charge_samples()?;
        self.done += n;
        Ok(true)
    }

    fn finish(self: Box<Self>) -> Annotations {
        self.inner.finish()
    }
}
