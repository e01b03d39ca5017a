//! `and`, `unless`, `or`: which rows of one side survive is a matter of presence words by match key.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `VectorAnd`, `VectorOr`, `VectorUnless`.

use super::batch::{Batch, Grid, get_bit};
use super::join::{Matcher, first_failure};
use super::{Cx, Operator, OutSeries};
use crate::annotations::Annotations;
use crate::error::QueryError;
use crate::limits::Charge;
use crate::parser::ast::{BinaryOp, VectorMatching};

/// A set operator. Rows of the side that may lose samples are cut as they pass.
pub(crate) struct SetOperator {
    op: BinaryOp,
    grid: Grid,
    lhs: Box<dyn Operator>,
    rhs: Box<dyn Operator>,
    lhs_keys: Vec<u32>,
    rhs_keys: Vec<u32>,
    /// By key: the steps at which the side that was read first has a sample.
    seen: Vec<u64>,
    series: Vec<OutSeries>,
    state: State,
    _charge: Charge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Left,
    Right,
}

impl SetOperator {
    pub(crate) fn new(
        cx: &Cx<'_>,
        op: BinaryOp,
        grid: Grid,
        (lhs, rhs): (Box<dyn Operator>, Box<dyn Operator>),
        matching: &VectorMatching,
    ) -> Result<Self, QueryError> {
        // A list of series and a key for each: chains of operators have many of them.
        let n_series = lhs.series().len() + rhs.series().len();
        let mut charge = cx.store.budget.take(n_series * (size_of::<OutSeries>() + size_of::<u32>()), 0)?;
        let mut matcher = Matcher::new(cx, matching);
        let lhs_keys = matcher.keys(cx, lhs.series())?;
        let rhs_keys = matcher.keys(cx, rhs.series())?;
        let mut series = lhs.series().to_vec();
        if op == BinaryOp::Or {
            series.extend_from_slice(rhs.series());
        }
        let n_words = matcher.len() * grid.n_words();
        charge.add_bytes(n_words * 8)?;
        let (seen, state) = (vec![0; n_words], State::Start);
        Ok(Self { op, grid, lhs, rhs, lhs_keys, rhs_keys, seen, series, state, _charge: charge })
    }

    fn read_right(&mut self, cx: &Cx<'_>) -> Result<(), QueryError> {
        let n_words = self.grid.n_words();
        let mut batch = Batch::default();
        while self.rhs.next(cx, &mut batch)? {
            for at in 0..batch.rows {
                let key = self.rhs_keys[batch.first + at] as usize;
                batch.row(at).mark_any(&mut self.seen[key * n_words..(key + 1) * n_words]);
            }
            cx.check()?;
        }
        Ok(())
    }
}

impl Operator for SetOperator {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        let n_words = self.grid.n_words();
        if self.state == State::Start {
            self.state = State::Left;
            if self.op != BinaryOp::Or
                && let Err(error) = self.read_right(cx)
            {
                return Err(first_failure(cx, &mut *self.lhs, error));
            }
        }
        if self.state == State::Left {
            if self.lhs.next(cx, out)? {
                for at in 0..out.rows {
                    let key = self.lhs_keys[out.first + at] as usize;
                    let seen = &mut self.seen[key * n_words..(key + 1) * n_words];
                    match self.op {
                        BinaryOp::Or => out.row(at).mark_any(seen),
                        BinaryOp::And => cut(out, at, seen, true),
                        _ => cut(out, at, seen, false),
                    }
                }
                return Ok(true);
            }
            self.state = State::Right;
        }
        if self.op != BinaryOp::Or || !self.rhs.next(cx, out)? {
            return Ok(false);
        }
        for at in 0..out.rows {
            let key = self.rhs_keys[out.first + at] as usize;
            cut(out, at, &self.seen[key * n_words..(key + 1) * n_words], false);
        }
        out.first += self.lhs_keys.len();
        Ok(true)
    }

    fn finish(self: Box<Self>) -> Annotations {
        let mut notes = self.lhs.finish();
        notes.merge(self.rhs.finish());
        notes
    }
}

/// Keeps the samples of a row at the steps that are in `words`, or at all others.
fn cut(batch: &mut Batch, at: usize, words: &[u64], inside: bool) {
    if let Some(mut column) = batch.take_histograms(at) {
        column.retain(|step, _| get_bit(words, step) == inside);
        batch.set_histograms(at, column);
    }
    let row = batch.row_mut(at);
    let mut lost = false;
    for (present, &word) in row.present.iter_mut().zip(words) {
        let kept = *present & if inside { word } else { !word };
        lost |= kept != *present;
        *present = kept;
    }
    if lost {
        *row.dense = false;
        *row.constant = false;
    }
}
