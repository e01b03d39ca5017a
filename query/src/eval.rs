//! Evaluation: operators that exchange batches of rows over all steps.
//!
//! An operator knows its output series when it is built (label work only, except where labels depend on values:
//! topk, count_values and the like evaluate their input then). [`Operator::next`] hands out rows in the order of
//! the series. Row-wise work travels down to the leaf as [`ColumnMap`]s and runs on worker threads; whatever
//! folds, folds in series order, one batch after the other, so that any number of threads gives the same bits.

pub(crate) mod absent;
pub(crate) mod batch;
pub(crate) mod buckets;
pub(crate) mod build;
pub(crate) mod fold;
pub(crate) mod histogram_fold;
pub(crate) mod info;
pub(crate) mod join;
pub(crate) mod labels;
pub(crate) mod leaf;
pub(crate) mod lookup;
pub(crate) mod maps;
pub(crate) mod merge;
pub(crate) mod output;
pub(crate) mod rank;
pub(crate) mod sets;
pub(crate) mod shared;
pub(crate) mod smooth;
pub(crate) mod sort;
pub(crate) mod spread;
pub(crate) mod subquery;
pub(crate) mod turns;
pub(crate) mod window;

use crate::annotations::Annotations;
use crate::engine::Features;
use crate::error::QueryError;
use crate::explain::Analysis;
use crate::limits::{
    CELLS_PER_BATCH, Charge, LONG_TEXT_BYTES, MAX_LABEL_VALUE_BYTES, ROWS_PER_BATCH, StoreContext,
};
use batch::{Batch, Grid, Rows};
use chronolith_model::METRIC_NAME;
use chronolith_model::queryable::{QueryContext, Snapshot};
use chronolith_model::symbols::Symbol;
use labels::{LabelSetId, LabelSets};
use parking_lot::Mutex;
use std::sync::Arc;

/// What all parts of one query share.
pub(crate) struct Cx<'q> {
    pub(crate) store: StoreContext<'q>,
    pub(crate) snapshot: Arc<dyn Snapshot>,
    pub(crate) label_sets: LabelSets,
    pub(crate) pool: &'q rayon::ThreadPool,
    pub(crate) features: Features,
    pub(crate) lookback_ms: i64,
    pub(crate) batch_rows: Option<usize>,
    /// Whether leaves do the work of what is above them and read no more than it needs.
    pub(crate) pushdown: bool,
    /// Samples that may be held at once.
    pub(crate) max_samples: usize,
    pub(crate) names: Names,
    /// Counters by part of the plan, if somebody wants to know.
    pub(crate) analysis: Option<Arc<Analysis>>,
    /// What the label sets and their strings were charged with so far.
    pub(crate) labels_charge: Mutex<(usize, Charge)>,
}

/// Symbols of the labels the engine knows.
pub(crate) struct Names {
    pub(crate) metric: Symbol,
    pub(crate) kind: Symbol,
    pub(crate) unit: Symbol,
    pub(crate) le: Symbol,
}

impl Names {
    pub(crate) fn new(store: &StoreContext<'_>) -> Self {
        let [metric, kind, unit, le] =
            [METRIC_NAME, "__type__", "__unit__", "le"].map(|name| store.symbols.intern(name));
        Self { metric, kind, unit, le }
    }
}

/// A series an operator may give rows for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutSeries {
    pub(crate) labels: LabelSetId,
    /// With delayed name removal: the name goes at the end of the query.
    pub(crate) drop_name: bool,
}

/// A source of rows over a grid of steps.
pub(crate) trait Operator: Send {
    /// Everything that can come out, in the order of [`Operator::next`]; some rows may turn out empty.
    fn series(&self) -> &[OutSeries];

    /// The series, to change their labels before the first row is asked for.
    fn series_mut(&mut self) -> &mut [OutSeries];

    /// Fills `out` with the next rows; false at the end.
    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError>;

    /// Hands all rows that are left to `sink`, in the order of [`Operator::next`]. On any thread, but one after the
    /// other, so that reading goes on meanwhile.
    fn for_each(&mut self, cx: &Cx<'_>, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let mut batch = Batch::default();
        while self.next(cx, &mut batch)? {
            sink(self.series(), &mut batch)?;
        }
        Ok(())
    }

    /// Takes a row-wise step over, to run it where the rows are made; false if it cannot.
    fn push_map(&mut self, map: &Arc<dyn ColumnMap>) -> bool {
        let _ = map;
        false
    }

    /// After an error: the step at which the operator itself failed; `None` if what is below it did.
    fn failed_at(&self) -> Option<usize> {
        None
    }

    /// What was noted: own annotations after those of the children, which come in the order of the text.
    fn finish(self: Box<Self>) -> Annotations;
}

/// What takes rows: the series of their operator, and a batch, which it may keep.
pub(crate) type Sink<'s> = dyn FnMut(&[OutSeries], &mut Batch) -> Result<(), QueryError> + Send + 's;

/// A step of a pipeline that works row by row and keeps nothing between rows, so every worker can run it.
pub(crate) trait ColumnMap: Send + Sync {
    fn apply(&self, cx: &Cx<'_>, batch: &mut Batch, notes: &mut Annotations) -> Result<(), QueryError>;
}

/// A part of a query over a grid.
pub(crate) enum Node {
    Vector(Box<dyn Operator>),
    Scalar(Scalar),
    /// Strings are bytes: they need not be UTF-8.
    Text(Vec<u8>),
}

/// A scalar: it is evaluated while operators are built.
#[derive(Default)]
pub(crate) struct Scalar {
    /// One value a step.
    pub(crate) values: Vec<f64>,
    /// For whoever uses it, to be put where it stands among its other arguments: of annotations that are equal but
    /// for their place the last is shown.
    pub(crate) notes: Annotations,
}

impl From<Vec<f64>> for Scalar {
    fn from(values: Vec<f64>) -> Self {
        Self { values, notes: Annotations::default() }
    }
}

impl Cx<'_> {
    /// Whether to go on.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        Ok(self.store.control.check()?)
    }

    /// Rows of a full batch.
    pub(crate) fn rows_per_batch(&self, grid: &Grid) -> usize {
        self.batch_rows
            .unwrap_or_else(|| (CELLS_PER_BATCH / grid.n_steps.max(1)).clamp(1, ROWS_PER_BATCH))
            .max(1)
    }

    /// Drops the labels that say which metric a series belongs to, now or, if that is delayed, later.
    pub(crate) fn remove_name(&self, series: &mut OutSeries) {
        if !self.features.delayed_name_removal {
            series.labels = self.without_metadata(series.labels);
        }
        series.drop_name = true;
    }

    /// As [`Cx::remove_name`], for many.
    pub(crate) fn remove_names(&self, series: &mut [OutSeries]) {
        if !self.features.delayed_name_removal {
            let names = [self.names.metric, self.names.kind, self.names.unit];
            let labels = self.label_sets.select(series.iter().map(|series| series.labels), &names, false);
            series.iter_mut().zip(labels).for_each(|(series, labels)| series.labels = labels);
        }
        series.iter_mut().for_each(|series| series.drop_name = true);
    }

    /// Without `__name__`, `__type__` and `__unit__`.
    pub(crate) fn without_metadata(&self, labels: LabelSetId) -> LabelSetId {
        self.label_sets.without(labels, &[self.names.metric, self.names.kind, self.names.unit])
    }

    /// The text of a label's value.
    pub(crate) fn label_text(&self, labels: LabelSetId, name: Symbol) -> Arc<str> {
        self.store.symbols.resolve(self.label_sets.value(labels, name))
    }

    /// Symbols of label names.
    pub(crate) fn intern_names(&self, names: &[String]) -> Vec<Symbol> {
        let mut symbols = Vec::with_capacity(names.len());
        self.store.symbols.intern_all(names.iter().map(String::as_str), &mut symbols);
        symbols
    }

    /// Charges what label sets and strings have grown by. Called wherever labels are made.
    pub(crate) fn charge_labels(&self) -> Result<(), QueryError> {
        let size_bytes = self.label_sets.size_bytes() + self.store.symbols.size_bytes();
        let (charged, charge) = &mut *self.labels_charge.lock();
        if size_bytes > *charged {
            charge.add_bytes(size_bytes - *charged)?;
            *charged = size_bytes;
        }
        Ok(self.store.check()?)
    }

    /// The symbol of a text that the query makes, at most `longest` bytes long. What is long is charged before it is
    /// made: with its copy in the table, and from then on as part of the table.
    pub(crate) fn intern_made(
        &self,
        longest: usize,
        make: impl FnOnce() -> Option<String>,
    ) -> Result<Option<Symbol>, QueryError> {
        if longest < LONG_TEXT_BYTES {
            return Ok(make().map(|text| self.store.symbols.intern(&text)));
        }
        let _while_made = self.store.budget.take(longest.saturating_mul(2), 0)?;
        let Some(text) = make() else { return Ok(None) };
        if text.len() > MAX_LABEL_VALUE_BYTES {
            return Err(QueryError::execution(format!(
                "a label value would be {} bytes long, which is more than the {MAX_LABEL_VALUE_BYTES} bytes it may have",
                text.len()
            )));
        }
        let symbol = self.store.symbols.intern(&text);
        self.charge_labels()?;
        Ok(Some(symbol))
    }

    /// Evaluates all rows of an operator and keeps them.
    pub(crate) fn drain(&self, operator: &mut dyn Operator) -> Result<Rows, QueryError> {
        let mut rows = Rows::default();
        operator.for_each(self, &mut |_, batch| {
            rows.push(std::mem::take(batch));
            self.check()
        })?;
        debug_assert_eq!(rows.len(), operator.series().len());
        Ok(rows)
    }
}

/// Adds a row-wise step to an operator: inside its pipeline where it has one, behind it otherwise.
pub(crate) fn with_map(
    cx: &Cx<'_>,
    mut operator: Box<dyn Operator>,
    map: Arc<dyn ColumnMap>,
) -> Box<dyn Operator> {
    if cx.pushdown && operator.push_map(&map) {
        return operator;
    }
    let series = operator.series().to_vec();
    Box::new(Mapped { inner: operator, series, maps: vec![map], notes: vec![Annotations::default()] })
}

/// An operator together with what was noted before and after it.
pub(crate) fn with_notes(
    inner: Box<dyn Operator>,
    before: Annotations,
    after: Annotations,
) -> Box<dyn Operator> {
    if before.is_empty() && after.is_empty() {
        return inner;
    }
    Box::new(Noted { inner, before, after })
}

struct Noted {
    inner: Box<dyn Operator>,
    before: Annotations,
    after: Annotations,
}

impl Operator for Noted {
    fn series(&self) -> &[OutSeries] {
        self.inner.series()
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        self.inner.series_mut()
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        self.inner.next(cx, out)
    }

    fn for_each(&mut self, cx: &Cx<'_>, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        self.inner.for_each(cx, sink)
    }

    fn failed_at(&self) -> Option<usize> {
        self.inner.failed_at()
    }

    fn finish(self: Box<Self>) -> Annotations {
        let mut notes = self.before;
        notes.merge(self.inner.finish());
        notes.merge(self.after);
        notes
    }
}

/// Row-wise steps behind an operator that has no pipeline of its own.
struct Mapped {
    inner: Box<dyn Operator>,
    series: Vec<OutSeries>,
    maps: Vec<Arc<dyn ColumnMap>>,
    /// By step of the pipeline.
    notes: Vec<Annotations>,
}

impl Operator for Mapped {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        if !self.inner.next(cx, out)? {
            return Ok(false);
        }
        for (map, notes) in self.maps.iter().zip(&mut self.notes) {
            map.apply(cx, out, notes)?;
        }
        Ok(true)
    }

    fn push_map(&mut self, map: &Arc<dyn ColumnMap>) -> bool {
        self.maps.push(Arc::clone(map));
        self.notes.push(Annotations::default());
        true
    }

    fn finish(self: Box<Self>) -> Annotations {
        let mut notes = self.inner.finish();
        self.notes.into_iter().for_each(|later| notes.merge(later));
        notes
    }
}

/// The next batch of rows that are there already; false at the end.
pub(crate) fn copy_rows(
    cx: &Cx<'_>,
    grid: &Grid,
    rows: &Rows,
    at: &mut usize,
    out: &mut Batch,
) -> Result<bool, QueryError> {
    let n = cx.rows_per_batch(grid).min(rows.len() - *at);
    if n == 0 {
        return Ok(false);
    }
    out.reset(cx, grid, *at, n)?;
    for row in 0..n {
        out.copy_row(row, rows.row(*at + row));
    }
    out.charge_samples()?;
    *at += n;
    Ok(true)
}

/// Rows that are there already, handed out in batches.
pub(crate) struct Kept {
    pub(crate) grid: Grid,
    pub(crate) series: Vec<OutSeries>,
    pub(crate) rows: Rows,
    pub(crate) at: usize,
    pub(crate) notes: Annotations,
}

impl Operator for Kept {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        copy_rows(cx, &self.grid, &self.rows, &mut self.at, out)
    }

    fn finish(self: Box<Self>) -> Annotations {
        self.notes
    }
}
