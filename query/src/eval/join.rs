//! Arithmetic and comparison between two vectors: one table from match key to the series of both sides.
//!
//! The side that may have only one series a key at any step is read first and kept; rows of the other side are
//! combined as they pass.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `VectorBinop`.

use super::batch::{Batch, Grid, HistogramColumn, Row, Rows, bits, get_bit, set_bit};
use super::labels::LabelSetId;
use super::maps::{arithmetic, compare, incompatible, scale};
use super::{Cx, Operator, OutSeries};
use crate::annotations::{Annotation, Annotations, HistogramOperation};
use crate::error::QueryError;
use crate::limits::Charge;
use crate::parser::Span;
use crate::parser::ast::{BinaryOp, Cardinality, VectorMatching};
use crate::value::SampleValue;
use chronolith_model::symbols::Symbol;
use chronolith_model::{CounterResetHint, FloatHistogram};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Numbers for the labels that series are matched by.
pub(crate) struct Matcher {
    on: bool,
    names: Vec<Symbol>,
    numbers: HashMap<LabelSetId, u32>,
    labels: Vec<LabelSetId>,
}

impl Matcher {
    pub(crate) fn new(cx: &Cx<'_>, matching: &VectorMatching) -> Self {
        let mut names = cx.intern_names(&matching.labels);
        if !matching.on {
            names.push(cx.names.metric);
        }
        Self { on: matching.on, names, numbers: HashMap::new(), labels: Vec::new() }
    }

    /// The key of each series.
    pub(crate) fn keys(&mut self, cx: &Cx<'_>, series: &[OutSeries]) -> Result<Vec<u32>, QueryError> {
        let mut keys = Vec::with_capacity(series.len());
        for (at, series) in series.iter().enumerate() {
            if at % 1000 == 999 {
                cx.charge_labels()?;
            }
            let labels = match self.on {
                true => cx.label_sets.only(series.labels, &self.names),
                false => cx.label_sets.without(series.labels, &self.names),
            };
            let next = self.labels.len() as u32;
            let key = *self.numbers.entry(labels).or_insert(next);
            if key == next {
                self.labels.push(labels);
            }
            keys.push(key);
        }
        cx.charge_labels()?;
        Ok(keys)
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }
}

/// The right side failed; if the left one fails too, its error comes first.
pub(crate) fn first_failure(cx: &Cx<'_>, lhs: &mut dyn Operator, error: QueryError) -> QueryError {
    let mut batch = Batch::default();
    loop {
        match lhs.next(cx, &mut batch) {
            Ok(true) => {}
            Ok(false) => return error,
            Err(earlier) => return earlier,
        }
    }
}

/// The error Prometheus would have met first: by step, then by what is checked first at a step, then by row.
#[derive(Default)]
struct FirstError {
    at: Option<(usize, u8, usize)>,
    text: String,
}

/// The one side is checked for duplicates before anything is combined.
const PHASE_ONE_SIDE: u8 = 0;
const PHASE_COMBINE: u8 = 1;

impl FirstError {
    fn offer(&mut self, step: usize, phase: u8, row: usize, text: impl FnOnce() -> String) {
        if self.at.is_none_or(|at| (step, phase, row) < at) {
            self.at = Some((step, phase, row));
            self.text = text();
        }
    }
}

/// How the operation is done.
pub(crate) struct Operation {
    pub(crate) op: BinaryOp,
    pub(crate) return_bool: bool,
    pub(crate) matching: VectorMatching,
    /// Where the operation stands.
    pub(crate) span: Span,
}

pub(crate) struct Join {
    operation: Operation,
    grid: Grid,
    many: Box<dyn Operator>,
    one: Box<dyn Operator>,
    many_keys: Vec<u32>,
    keys: Vec<Key>,
    one_rows: Rows,
    /// By row of the many side: its first output row. One more entry at the end.
    first_out: Vec<usize>,
    /// By output row of the many side: the rows of the one side that lead to it, ascending; [`FILL`] for the fill
    /// value, which is the last.
    sources: Vec<Vec<u32>>,
    /// The labels of those output rows as they are combined; what surrounds the operation may remove names later.
    combined: Vec<LabelSetId>,
    /// Rows of the one side that may go unmatched, with a fill value for the other side.
    unmatched: Vec<usize>,
    series: Vec<OutSeries>,
    any_many: Vec<u64>,
    any_one: Vec<u64>,
    /// Duplicates on the one side, by step the first that is met: key and the two rows.
    duplicates: BTreeMap<usize, (u32, usize, usize)>,
    /// Steps at which output with these labels was made for a key.
    matched: HashMap<(u32, Option<LabelSetId>), Vec<u64>>,
    /// At each step only the annotation of the last series survives.
    last_notes: BTreeMap<usize, Annotation>,
    error: FirstError,
    failed_at: Option<usize>,
    state: State,
    batch: Batch,
    /// For presence by key and owners by step.
    charge: Charge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Many,
    Unmatched(usize),
}

/// Pairs of series whose labels are made before they are charged.
const PAIRS_PER_CHECK: usize = 4096;

/// In place of a row of the one side.
const FILL: u32 = u32::MAX;

/// The series that share a match key.
#[derive(Default)]
struct Key {
    labels: Option<LabelSetId>,
    n_many: u32,
    ones: Vec<u32>,
    /// Where several series are on the one side: which of them each step has.
    owners: Option<Vec<u32>>,
}

/// A sample of either kind.
#[derive(Clone, Copy)]
enum Cell<'a> {
    Float(f64),
    Histogram(&'a Arc<FloatHistogram>),
}

impl Join {
    pub(crate) fn new(
        cx: &Cx<'_>,
        operation: Operation,
        grid: Grid,
        (lhs, rhs): (Box<dyn Operator>, Box<dyn Operator>),
    ) -> Result<Self, QueryError> {
        let swapped = operation.matching.cardinality == Cardinality::OneToMany;
        let mut matcher = Matcher::new(cx, &operation.matching);
        let (many, one) = if swapped { (rhs, lhs) } else { (lhs, rhs) };
        let many_keys = matcher.keys(cx, many.series())?;
        let one_keys = matcher.keys(cx, one.series())?;
        let mut keys: Vec<Key> =
            matcher.labels.iter().map(|&labels| Key { labels: Some(labels), ..Key::default() }).collect();
        for &key in &many_keys {
            keys[key as usize].n_many += 1;
        }
        for (row, &key) in one_keys.iter().enumerate() {
            keys[key as usize].ones.push(row as u32);
        }
        let mut join = Self {
            grid,
            many,
            one,
            many_keys,
            keys,
            one_rows: Rows::default(),
            first_out: Vec::new(),
            sources: Vec::new(),
            combined: Vec::new(),
            unmatched: Vec::new(),
            series: Vec::new(),
            any_many: vec![0; grid.n_words()],
            any_one: vec![0; grid.n_words()],
            duplicates: BTreeMap::new(),
            matched: HashMap::new(),
            last_notes: BTreeMap::new(),
            error: FirstError::default(),
            failed_at: None,
            state: State::Start,
            batch: Batch::default(),
            charge: cx.store.budget.take(0, 0)?,
            operation,
        };
        join.find_series(cx, &one_keys)?;
        Ok(join)
    }

    /// Works out which series can come out, and from which pairs.
    fn find_series(&mut self, cx: &Cx<'_>, one_keys: &[u32]) -> Result<(), QueryError> {
        let result = ResultLabels::new(cx, &self.operation);
        let drop_name = self.operation.return_bool;
        let mut unchecked = 0;
        // The output rows of one series of the many side, by their labels.
        let mut places: HashMap<LabelSetId, usize> = HashMap::new();
        for (at, series) in self.many.series().iter().enumerate() {
            if at % 1000 == 999 {
                cx.charge_labels()?;
            }
            self.first_out.push(self.sources.len());
            let key = &self.keys[self.many_keys[at] as usize];
            let fill = self.operation.matching.fill_rhs.map(|_| (FILL, key.labels));
            // Where many series meet many, pairs are what grows.
            self.charge.add_bytes(key.ones.len() * 2 * size_of::<u32>() + 2 * size_of::<Vec<u32>>())?;
            places.clear();
            let ones = key.ones.iter().map(|&one| (one, Some(self.one.series()[one as usize].labels)));
            for (one, one_labels) in ones.chain(fill) {
                let Some(one_labels) = one_labels else { continue };
                unchecked += 1;
                if unchecked > PAIRS_PER_CHECK {
                    cx.charge_labels()?;
                    unchecked = 0;
                }
                let labels = result.labels(cx, series.labels, one_labels);
                match places.entry(labels) {
                    Entry::Occupied(known) => self.sources[*known.get()].push(one),
                    Entry::Vacant(vacant) => {
                        vacant.insert(self.sources.len());
                        self.series.push(OutSeries { labels, drop_name });
                        self.sources.push(vec![one]);
                    }
                }
            }
        }
        self.first_out.push(self.sources.len());
        self.combined = self.series.iter().map(|series| series.labels).collect();
        if self.operation.matching.fill_lhs.is_some() {
            for (one, series) in self.one.series().iter().enumerate() {
                let Some(key) = self.keys[one_keys[one] as usize].labels else { continue };
                let labels = result.labels(cx, key, series.labels);
                self.series.push(OutSeries { labels, drop_name });
                self.unmatched.push(one);
            }
        }
        cx.charge_labels()
    }

    fn is_swapped(&self) -> bool {
        self.operation.matching.cardinality == Cardinality::OneToMany
    }

    fn read_one_side(&mut self, cx: &Cx<'_>) -> Result<(), QueryError> {
        self.one_rows = match cx.drain(&mut *self.one) {
            Ok(rows) => rows,
            Err(error) if self.is_swapped() => return Err(error),
            Err(error) => return Err(first_failure(cx, &mut *self.many, error)),
        };
        for row in 0..self.one_rows.len() {
            self.one_rows.row(row).mark_any(&mut self.any_one);
        }
        let n_steps = self.grid.n_steps;
        let mut any = vec![0; self.grid.n_words()];
        for (number, key) in self.keys.iter_mut().enumerate().filter(|(_, key)| key.ones.len() > 1) {
            self.charge.add_bytes(n_steps * 4)?;
            let mut owners = vec![FILL; n_steps];
            for (at, &one) in key.ones.iter().enumerate() {
                if at % 64 == 0 {
                    cx.check()?;
                }
                any.fill(0);
                self.one_rows.row(one as usize).mark_any(&mut any);
                for step in bits(&any) {
                    if owners[step] != FILL {
                        let (first, second) = (owners[step] as usize, one as usize);
                        let told = self.duplicates.entry(step).or_insert((number as u32, first, second));
                        if second < told.2 {
                            *told = (number as u32, first, second);
                        }
                    }
                    owners[step] = one;
                }
            }
            key.owners = Some(owners);
        }
        Ok(())
    }

    /// Combines a row of the many side with what it meets.
    fn combine_row(
        &mut self,
        row: Row<'_>,
        at: usize,
        out: &mut Batch,
        out_first: usize,
    ) -> Result<(), QueryError> {
        let number = self.many_keys[at];
        let (from, to) = (self.first_out[at], self.first_out[at + 1]);
        if from == to {
            return Ok(());
        }
        let key = &self.keys[number as usize];
        let fill = self.operation.matching.fill_rhs;
        let is_one_to_one = self.operation.matching.cardinality == Cardinality::OneToOne;
        // Only where several rows can meet the same key can they get into each other's way.
        let track = key.n_many > 1 || self.operation.matching.fill_lhs.is_some();
        if track {
            self.charge.add_bytes(2 * self.grid.n_words() * 8)?;
        }
        if let ([one], None, None, None) =
            (&key.ones[..], fill, row.histograms, self.operation.matching.fill_lhs)
        {
            let one_row = self.one_rows.row(*one as usize);
            let met = (number, (!is_one_to_one).then_some(self.combined[from]));
            let is_met = |words: &Vec<u64>| meets(words, row, one_row);
            if one_row.histograms.is_none()
                && !(track && self.matched.get(&met).is_some_and(is_met))
                && self.combine_floats(row, one_row, out, from - out_first)
            {
                if track {
                    // As `mark_matched` for each step at which both have a float, and none was marked.
                    let words = self.matched.entry(met).or_insert_with(|| vec![0; self.grid.n_words()]);
                    for (word, (a, b)) in words.iter_mut().zip(row.present.iter().zip(one_row.present)) {
                        *word |= a & b;
                    }
                }
                return Ok(());
            }
        }
        let mut any = vec![0; self.grid.n_words()];
        row.mark_any(&mut any);
        let mut histograms = vec![HistogramColumn::default(); to - from];
        for step in bits(&any) {
            let Some(many) = cell(&row, step) else { continue };
            let owner = match (&self.keys[number as usize].owners, &self.keys[number as usize].ones[..]) {
                (Some(owners), _) => owners[step],
                (None, [one]) => *one,
                (None, _) => FILL,
            };
            let one_row = (owner != FILL).then(|| self.one_rows.row(owner as usize));
            let one = one_row.as_ref().and_then(|row| cell(row, step));
            let (one, source) = match (one, fill) {
                (Some(one), _) => (one, owner),
                (None, Some(fill)) => (Cell::Float(fill), FILL),
                (None, None) => continue,
            };
            let (lhs, rhs) = if self.is_swapped() { (one, many) } else { (many, one) };
            let (value, note) = self.operation.combine(lhs, rhs);
            if let Some(note) = note {
                self.last_notes.insert(step, note);
            }
            let Some((value, keep)) = value else { continue };
            let slot =
                self.sources[from..to].iter().position(|sources| sources.binary_search(&source).is_ok());
            let Some(slot) = slot else { continue };
            if track {
                let labels = (!is_one_to_one).then_some(self.combined[from + slot]);
                if !self.mark_matched(number, labels, step, at) {
                    continue;
                }
            }
            if !keep {
                continue;
            }
            match value {
                SampleValue::Float(value) => out.row_mut(from - out_first + slot).set(step, value),
                SampleValue::Histogram(h) => histograms[slot].push(step, h),
            }
        }
        for (slot, column) in histograms.into_iter().enumerate() {
            out.row_mut(from - out_first + slot).finish();
            out.set_histograms(from - out_first + slot, column);
        }
        Ok(())
    }

    /// False, and an error, if there is a match at this step already.
    fn mark_matched(&mut self, key: u32, labels: Option<LabelSetId>, step: usize, row: usize) -> bool {
        let n_words = self.grid.n_words();
        let words = self.matched.entry((key, labels)).or_insert_with(|| vec![0; n_words]);
        if get_bit(words, step) {
            let text = match labels {
                None => "many-to-one matching must be explicit (group_left/group_right)",
                Some(_) => "grouping labels must ensure unique matches",
            };
            self.error.offer(step, PHASE_COMBINE, row, || format!("multiple matches for labels: {text}"));
            return false;
        }
        set_bit(words, step);
        if labels.is_some() && self.operation.matching.fill_lhs.is_some() {
            let words = self.matched.entry((key, None)).or_insert_with(|| vec![0; n_words]);
            set_bit(words, step);
        }
        true
    }

    /// Two rows of floats that meet nobody else; false if the operator is not one of floats.
    fn combine_floats(&self, many: Row<'_>, one: Row<'_>, out: &mut Batch, at: usize) -> bool {
        let Operation { op, return_bool, .. } = self.operation;
        if matches!(op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
            return false;
        }
        let (lhs, rhs) = if self.is_swapped() { (one, many) } else { (many, one) };
        let target = out.row_mut(at);
        for (word, (a, b)) in target.present.iter_mut().zip(lhs.present.iter().zip(rhs.present)) {
            *word = a & b;
        }
        let dense = lhs.dense && rhs.dense;
        *target.dense = dense;
        let cells = target.values.iter_mut().zip(lhs.values.iter().zip(rhs.values));
        match op {
            BinaryOp::Add => cells.for_each(|(out, (a, b))| *out = a + b),
            BinaryOp::Sub => cells.for_each(|(out, (a, b))| *out = a - b),
            BinaryOp::Mul => cells.for_each(|(out, (a, b))| *out = a * b),
            BinaryOp::Div => cells.for_each(|(out, (a, b))| *out = a / b),
            _ if op.is_comparison() => {
                let mut target = target;
                for step in 0..target.values.len() {
                    if !get_bit(target.present, step) {
                        continue;
                    }
                    let holds = compare(op, lhs.values[step], rhs.values[step]);
                    if return_bool {
                        target.values[step] = f64::from(u8::from(holds));
                    } else if holds {
                        target.values[step] = lhs.values[step];
                    } else {
                        super::batch::clear_bit(target.present, step);
                    }
                }
                target.finish();
            }
            _ => {
                for step in bits(target.present) {
                    target.values[step] = arithmetic(op, lhs.values[step], rhs.values[step]);
                }
            }
        }
        true
    }

    /// Combines rows of the one side with the fill value where nothing met them.
    fn unmatched_rows(&mut self, cx: &Cx<'_>, from: usize, out: &mut Batch) -> Result<bool, QueryError> {
        let Some(fill) = self.operation.matching.fill_lhs else {
            return Ok(false);
        };
        let n = cx.rows_per_batch(&self.grid).min(self.unmatched.len() - from);
        if n == 0 {
            return Ok(false);
        }
        out.reset(cx, &self.grid, self.sources.len() + from, n)?;
        let key_of: HashMap<u32, u32> = self
            .keys
            .iter()
            .enumerate()
            .flat_map(|(key, entry)| entry.ones.iter().map(move |&one| (one, key as u32)))
            .collect();
        for at in 0..n {
            let one = self.unmatched[from + at];
            let key = key_of[&(one as u32)];
            let row = self.one_rows.row(one);
            let mut any = vec![0; self.grid.n_words()];
            row.mark_any(&mut any);
            if let Some(matched) = self.matched.get(&(key, None)) {
                for (any, matched) in any.iter_mut().zip(matched) {
                    *any &= !matched;
                }
            }
            let mut histograms = HistogramColumn::default();
            for step in bits(&any) {
                let Some(one) = cell(&row, step) else { continue };
                let many = Cell::Float(fill);
                let (lhs, rhs) = match self.operation.matching.cardinality {
                    Cardinality::OneToMany => (one, many),
                    _ => (many, one),
                };
                let (value, note) = self.operation.combine(lhs, rhs);
                if let Some(note) = note {
                    self.last_notes.insert(step, note);
                }
                match value {
                    Some((SampleValue::Float(value), true)) => out.row_mut(at).set(step, value),
                    Some((SampleValue::Histogram(h), true)) => histograms.push(step, h),
                    _ => {}
                }
            }
            out.row_mut(at).finish();
            out.set_histograms(at, histograms);
        }
        out.charge_samples()?;
        Ok(true)
    }

    /// Raises the error of the earliest step, now that both sides are known.
    fn raise(&mut self, cx: &Cx<'_>) -> Result<(), QueryError> {
        let VectorMatching { on: _, fill_lhs, fill_rhs, cardinality, .. } = &self.operation.matching;
        let filled = fill_lhs.is_some() || fill_rhs.is_some();
        for (&step, &(key, first, second)) in &self.duplicates {
            if !filled && !get_bit(&self.any_many, step) {
                continue;
            }
            let side = if *cardinality == Cardinality::OneToMany { "left" } else { "right" };
            let print = |labels: LabelSetId| cx.label_sets.to_labels(&cx.store.symbols, labels).to_string();
            let series = self.one.series();
            self.error.offer(step, PHASE_ONE_SIDE, second, || {
                let group = self.keys[key as usize].labels.map(print).unwrap_or_default();
                let mut two = [print(series[first].labels), print(series[second].labels)];
                two.sort();
                let [a, b] = two;
                format!(
                    "found duplicate series for the match group {group} on the {side} hand-side of the \
                     operation: [{a}, {b}];many-to-many matching not allowed: matching labels must be unique \
                     on one side"
                )
            });
        }
        match self.error.at {
            None => Ok(()),
            Some((step, ..)) => {
                self.failed_at = Some(step);
                Err(QueryError::Execution(std::mem::take(&mut self.error.text)))
            }
        }
    }
}

impl Operator for Join {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        if self.state == State::Start {
            self.read_one_side(cx)?;
            self.state = State::Many;
        }
        while self.state == State::Many {
            let mut batch = std::mem::take(&mut self.batch);
            if !self.many.next(cx, &mut batch)? {
                self.state = State::Unmatched(0);
                break;
            }
            cx.check()?;
            let (first, end) = (self.first_out[batch.first], self.first_out[batch.first + batch.rows]);
            out.reset(cx, &self.grid, first, end - first)?;
            for at in 0..batch.rows {
                let row = batch.row(at);
                row.mark_any(&mut self.any_many);
                self.combine_row(row, batch.first + at, out, first)?;
            }
            self.batch = batch;
            if end > first {
                out.charge_samples()?;
                return Ok(true);
            }
        }
        if let State::Unmatched(from) = self.state
            && self.unmatched_rows(cx, from, out)?
        {
            self.state = State::Unmatched(from + out.rows);
            return Ok(true);
        }
        // Last, when whoever merges series with equal labels knows whether they meet at an earlier step.
        self.raise(cx)?;
        Ok(false)
    }

    fn failed_at(&self) -> Option<usize> {
        self.failed_at
    }

    fn finish(self: Box<Self>) -> Annotations {
        let swapped = self.is_swapped();
        let (many, one) = (self.many.finish(), self.one.finish());
        let (mut notes, later) = if swapped { (one, many) } else { (many, one) };
        notes.merge(later);
        for note in self.last_notes.into_values() {
            notes.add(note, self.operation.span);
        }
        notes
    }
}

/// Whether two rows meet at a step that is set.
fn meets(words: &[u64], a: Row<'_>, b: Row<'_>) -> bool {
    words.iter().zip(a.present.iter().zip(b.present)).any(|(word, (a, b))| word & a & b != 0)
}

fn cell<'r>(row: &Row<'r>, step: usize) -> Option<Cell<'r>> {
    if row.has(step) {
        return Some(Cell::Float(row.values[step]));
    }
    row.histograms.and_then(|column| column.get(step)).map(Cell::Histogram)
}

impl Operation {
    /// The value of an element and whether it stays; and what there is to note. No value if types do not fit.
    ///
    /// Source: Prometheus v3.14, `promql/engine.go`, `vectorElemBinop`.
    fn combine(&self, lhs: Cell<'_>, rhs: Cell<'_>) -> (Option<(SampleValue, bool)>, Option<Annotation>) {
        let (value, keep, note) = match (lhs, rhs) {
            (Cell::Float(a), Cell::Float(b)) => match self.op {
                BinaryOp::TrimLower | BinaryOp::TrimUpper => {
                    return (None, Some(incompatible("float", self.op, "float")));
                }
                op if op.is_comparison() => (SampleValue::Float(a), compare(op, a, b), None),
                op => (SampleValue::Float(arithmetic(op, a, b)), true, None),
            },
            (Cell::Float(a), Cell::Histogram(h)) => match self.op {
                BinaryOp::Mul => (scaled(self.op, h, a), true, None),
                op => return (None, Some(incompatible("float", op, "histogram"))),
            },
            (Cell::Histogram(h), Cell::Float(b)) => match self.op {
                BinaryOp::Mul | BinaryOp::Div | BinaryOp::TrimLower | BinaryOp::TrimUpper => {
                    (scaled(self.op, h, b), true, None)
                }
                op => return (None, Some(incompatible("histogram", op, "float"))),
            },
            (Cell::Histogram(a), Cell::Histogram(b)) => match self.op {
                BinaryOp::Add | BinaryOp::Sub => match self.add(a, b) {
                    Ok((h, note)) => (SampleValue::Histogram(Arc::new(h)), true, note),
                    Err(note) => return (None, Some(note)),
                },
                BinaryOp::Eql => (SampleValue::Histogram(Arc::clone(a)), a.same_data(b), None),
                BinaryOp::Neq => (SampleValue::Histogram(Arc::clone(a)), !a.same_data(b), None),
                op => return (None, Some(incompatible("histogram", op, "histogram"))),
            },
        };
        if self.return_bool {
            return (Some((SampleValue::Float(f64::from(u8::from(keep))), true)), note);
        }
        (Some((value, keep)), note)
    }

    fn add(
        &self,
        a: &FloatHistogram,
        b: &FloatHistogram,
    ) -> Result<(FloatHistogram, Option<Annotation>), Annotation> {
        let subtract = self.op == BinaryOp::Sub;
        let operation = if subtract { HistogramOperation::Sub } else { HistogramOperation::Add };
        let mut result = a.clone();
        let reconciled = if subtract { result.sub(b) } else { result.add(b) };
        let reconciled =
            reconciled.map_err(|_| Annotation::IncompatibleBucketLayoutInBinOp(self.op.as_str()))?;
        if reconciled.counter_reset_collision {
            return Err(Annotation::HistogramCounterResetCollision(operation));
        }
        if subtract {
            result.counter_reset_hint = CounterResetHint::Gauge;
        }
        result.compact();
        Ok((result, reconciled.custom_bounds.then_some(Annotation::MismatchedCustomBuckets(operation))))
    }
}

fn scaled(op: BinaryOp, h: &FloatHistogram, number: f64) -> SampleValue {
    let mut h = h.clone();
    scale(op, &mut h, number);
    SampleValue::Histogram(Arc::new(h))
}

/// The labels of a result.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `resultMetric`.
struct ResultLabels {
    drop_name: bool,
    one_to_one: bool,
    on: bool,
    names: Vec<Symbol>,
    include: Vec<Symbol>,
}

impl ResultLabels {
    fn new(cx: &Cx<'_>, operation: &Operation) -> Self {
        let Operation { op, return_bool, matching, .. } = operation;
        let arithmetic = matches!(
            op,
            BinaryOp::Add
                | BinaryOp::Sub
                | BinaryOp::Mul
                | BinaryOp::Div
                | BinaryOp::Mod
                | BinaryOp::Pow
                | BinaryOp::Atan2
        );
        Self {
            drop_name: arithmetic || (*return_bool && !cx.features.delayed_name_removal),
            one_to_one: matching.cardinality == Cardinality::OneToOne,
            on: matching.on,
            names: cx.intern_names(&matching.labels),
            include: cx.intern_names(&matching.include),
        }
    }

    fn labels(&self, cx: &Cx<'_>, many: LabelSetId, one: LabelSetId) -> LabelSetId {
        let mut labels = many;
        if self.drop_name {
            labels = cx.without_metadata(labels);
        }
        if self.one_to_one {
            labels = match self.on {
                true => cx.label_sets.only(labels, &self.names),
                false => cx.label_sets.without(labels, &self.names),
            };
        }
        for &name in &self.include {
            let value = cx.label_sets.value(one, name);
            labels = cx.label_sets.with(&cx.store.symbols, labels, name, value);
        }
        labels
    }
}
