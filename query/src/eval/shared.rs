//! Parts that occur more than once in a query: evaluated once, kept, and handed out to each place.
//!
//! A part is evaluated while operators are built, where it is needed first. Its annotations move to where each
//! occurrence stands, and its samples count once for each of them, as if it had been evaluated there. What is kept is
//! charged as memory, and not kept if it is large; a query that then meets a limit is evaluated again without it.

use super::batch::{Batch, Grid, Rows};
use super::build::{Builder, Place};
use super::{Cx, Node, Operator, OutSeries, copy_rows};
use crate::annotations::Annotations;
use crate::error::QueryError;
use crate::parser::Span;
use crate::plan::Plan;
use crate::plan::repeats::Repeats;
use crate::stats::{Apart, Scope};
use std::collections::HashMap;
use std::sync::Arc;

/// The part of a query's memory that the columns of one repeated part may take.
const BUDGET_SHARE: usize = 4;

/// The repeated parts of a query, and what is known of them by now.
#[derive(Default)]
pub(crate) struct SharedParts {
    repeats: Repeats,
    states: Vec<State>,
    /// Where samples belong that are still counted apart; those of inner parts come first.
    late: Vec<(Scope, Apart)>,
    /// Whether any rows were kept.
    used: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    /// Too large to be kept, or not needed any more: whoever comes evaluates it.
    Unshared,
    Kept {
        part: Arc<Part>,
        n_left: usize,
        samples: Apart,
    },
}

/// A part that was evaluated.
struct Part {
    grid: Grid,
    series: Vec<OutSeries>,
    rows: Rows,
    notes: Annotations,
    /// The places of its nodes where it was evaluated.
    spans: Vec<Span>,
}

impl SharedParts {
    pub(crate) fn new(plan: &Plan) -> Self {
        let repeats = Repeats::find(plan);
        let states = repeats.counts.iter().map(|_| State::Unknown).collect();
        Self { repeats, states, late: Vec::new(), used: false }
    }

    /// Whether a node is a repeated part.
    pub(crate) fn contains(&self, plan: &Plan) -> bool {
        self.repeats.get(plan).is_some()
    }

    /// Whether any rows were kept: a query without them may need less memory.
    pub(crate) fn used(&self) -> bool {
        self.used
    }

    /// Counts the samples of parts that were counted apart, from the `first` of them on, once all rows have passed.
    pub(crate) fn count_samples(&mut self, first: usize) {
        self.late.drain(first..).for_each(|(scope, samples)| scope.absorb(&samples));
    }
}

impl Builder<'_, '_> {
    /// The operators of a repeated part; `None` if this place has to evaluate it.
    pub(super) fn shared(&mut self, plan: &Plan, place: &Place) -> Result<Option<Node>, QueryError> {
        let Some(occurrence) = self.shared.repeats.get(plan) else { return Ok(None) };
        let number = occurrence.part;
        match &mut self.shared.states[number] {
            State::Unshared => Ok(None),
            State::Kept { part, n_left, samples } => {
                debug_assert_eq!(part.grid, place.grid, "equal surroundings have equal steps");
                let notes = moved(&part.notes, &part.spans, &occurrence.spans);
                let part = Arc::clone(part);
                place.scope.absorb(samples);
                *n_left -= 1;
                if *n_left == 0 {
                    self.shared.states[number] = State::Unshared;
                }
                self.again(part, notes).map(Some)
            }
            State::Unknown => {
                let spans = occurrence.spans.clone();
                let n_left = self.shared.repeats.counts[number] - 1;
                self.shared.states[number] = State::Unshared;
                let first_late = self.shared.late.len();
                let (scope, samples) = place.scope.apart();
                let node = self.build_node(plan, &Place { grid: place.grid, scope })?;
                let Node::Vector(operator) = node else {
                    return Err(QueryError::execution("only instant vectors are shared"));
                };
                if !self.may_keep(operator.series().len(), &place.grid) {
                    if let Some(analysis) = &self.cx.analysis {
                        analysis.not_kept(plan);
                    }
                    self.shared.late.push((place.scope.clone(), samples));
                    return Ok(Some(Node::Vector(operator)));
                }
                self.shared.used = true;
                let part = Arc::new(self.keep(operator, place.grid, spans)?);
                self.shared.count_samples(first_late);
                place.scope.absorb(&samples);
                let notes = part.notes.clone();
                self.shared.states[number] = State::Kept { part: Arc::clone(&part), n_left, samples };
                self.again(part, notes).map(Some)
            }
        }
    }

    /// Whether the columns of so many series are small enough to be kept.
    fn may_keep(&self, n_series: usize, grid: &Grid) -> bool {
        let n_cells = n_series.saturating_mul(grid.n_steps);
        n_cells.saturating_mul(size_of::<f64>()) <= self.cx.store.budget.limit_bytes() / BUDGET_SHARE
    }

    /// Evaluates a part.
    fn keep(
        &self,
        mut operator: Box<dyn Operator>,
        grid: Grid,
        spans: Vec<Span>,
    ) -> Result<Part, QueryError> {
        let mut rows = Rows::default();
        operator.for_each(self.cx, &mut |_, batch| {
            self.cx.check()?;
            batch.charge_kept()?;
            rows.push(std::mem::take(batch));
            Ok(())
        })?;
        let series = operator.series().to_vec();
        Ok(Part { grid, series, rows, notes: operator.finish(), spans })
    }

    /// The rows of a part, at one of its places.
    fn again(&mut self, part: Arc<Part>, notes: Annotations) -> Result<Node, QueryError> {
        self.charge.add_bytes(part.series.len().saturating_mul(size_of::<OutSeries>()))?;
        let series = part.series.clone();
        Ok(Node::Vector(Box::new(Again { part, series, at: 0, notes })))
    }
}

/// Annotations of a part whose nodes stood at `from`, as they are where the nodes stand at `to`.
fn moved(notes: &Annotations, from: &[Span], to: &[Span]) -> Annotations {
    if notes.is_empty() {
        return Annotations::default();
    }
    let places: HashMap<Span, Span> = from.iter().copied().zip(to.iter().copied()).collect();
    notes.clone().with_spans(|span| {
        // What comes out of a subquery may have no place at all.
        debug_assert!(span == Span::default() || places.contains_key(&span), "{span:?} is in the part");
        places.get(&span).copied().unwrap_or(span)
    })
}

/// See [`Builder::again`].
struct Again {
    part: Arc<Part>,
    series: Vec<OutSeries>,
    at: usize,
    notes: Annotations,
}

impl Operator for Again {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        copy_rows(cx, &self.part.grid, &self.part.rows, &mut self.at, out)
    }

    fn finish(self: Box<Self>) -> Annotations {
        self.notes
    }
}

#[cfg(test)]
mod tests;
