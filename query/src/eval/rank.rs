//! Aggregations that choose among their input: topk, bottomk, limitk, limit_ratio; and count_values.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `aggregationK` and `aggregationCountValues`.

use super::batch::{Batch, Grid, HistogramColumn, Rows};
use super::fold::Groups;
use super::join::first_failure;
use super::labels::{LabelSetId, prometheus_hash};
use super::{Cx, Kept, Operator, OutSeries};
use crate::annotations::{Annotation, Annotations};
use crate::error::QueryError;
use crate::functions::math;
use crate::go_format;
use crate::limits::Charge;
use crate::parser::Span;
use crate::parser::ast::AggregateOp;
use crate::value::SampleValue;
use std::collections::BTreeMap;

/// The parameter of an aggregation: one value a step, and what is known of all.
pub(crate) struct Parameter {
    values: Vec<f64>,
    max: f64,
    min: f64,
    any_nan: bool,
}

impl Parameter {
    pub(crate) fn new(values: Vec<f64>) -> Self {
        let max = values.iter().copied().reduce(math::max).unwrap_or(0.0);
        let min = values.iter().copied().reduce(math::min).unwrap_or(0.0);
        let any_nan = values.iter().any(|value| value.is_nan());
        Self { values, max, min, any_nan }
    }

    /// Notes quantiles out of range and gives the values.
    pub(crate) fn quantiles(self, span: Span, notes: &mut Annotations) -> Vec<f64> {
        if self.any_nan {
            notes.add(Annotation::InvalidQuantile(f64::NAN), span);
        }
        if self.max > 1.0 {
            notes.add(Annotation::InvalidQuantile(self.max), span);
        }
        if self.min < 0.0 {
            notes.add(Annotation::InvalidQuantile(self.min), span);
        }
        self.values
    }

    /// Checks the number of series to choose; false if nothing can be chosen at any step.
    fn check_counts(&self) -> Result<bool, QueryError> {
        /// Between these, Go's conversion to int64 is exact.
        const MIN: f64 = i64::MIN as f64;
        const MAX: f64 = 9_223_372_036_854_774_784.0;
        if self.max < 1.0 {
            return Ok(false);
        }
        if self.any_nan {
            return Err(QueryError::execution("Parameter value is NaN"));
        }
        let text = go_format::format_general;
        if self.min <= MIN {
            let text = format!("Scalar value {} underflows int64", text(self.min));
            return Err(QueryError::execution(text));
        }
        if self.max >= MAX {
            return Err(QueryError::execution(format!("Scalar value {} overflows int64", text(self.max))));
        }
        Ok(true)
    }

    /// Checks the ratio of series to choose; false if nothing can be chosen at any step.
    fn check_ratios(&self, span: Span, notes: &mut Annotations) -> Result<bool, QueryError> {
        if self.max == 0.0 && self.min == 0.0 {
            return Ok(false);
        }
        if self.any_nan {
            return Err(QueryError::execution("Ratio value is NaN"));
        }
        if self.max > 1.0 {
            notes.add(Annotation::InvalidRatio { ratio: self.max, to: 1.0 }, span);
        }
        if self.min < -1.0 {
            notes.add(Annotation::InvalidRatio { ratio: self.min, to: -1.0 }, span);
        }
        Ok(true)
    }
}

/// Where parts of an aggregation stand.
#[derive(Clone, Copy)]
pub(crate) struct Spans {
    pub(crate) whole: Span,
    pub(crate) param: Span,
}

/// Evaluates an aggregation that chooses. At a single step the rows come out group by group in the order of
/// choice, otherwise in the order of the input.
pub(crate) fn choose(
    cx: &Cx<'_>,
    mut inner: Box<dyn Operator>,
    grid: Grid,
    op: AggregateOp,
    groups: &Groups,
    parameter: &Parameter,
    spans: Spans,
) -> Result<Box<dyn Operator>, QueryError> {
    let mut notes = Annotations::default();
    let possible = match op {
        AggregateOp::LimitRatio => parameter.check_ratios(spans.param, &mut notes),
        _ => parameter.check_counts(),
    };
    // Prometheus evaluates the vector before it looks at the parameter.
    let possible = possible.map_err(|error| first_failure(cx, &mut *inner, error))?;
    let mut chooser = Chooser::new(cx, op, &grid, groups, parameter, &*inner)?;
    inner.for_each(cx, &mut |_, batch| {
        if possible {
            for at in 0..batch.rows {
                chooser.offer(batch.first + at, batch.row(at))?;
            }
        }
        cx.check()
    })?;
    if chooser.histograms_ignored {
        notes.add(Annotation::HistogramIgnoredInAggregation(op.as_str()), spans.whole);
    }
    let (series, rows) = chooser.rows(cx, inner.series())?;
    let mut all = inner.finish();
    all.merge(notes);
    Ok(Box::new(Kept { grid, series, rows, at: 0, notes: all }))
}

struct Chooser<'g> {
    op: AggregateOp,
    grid: Grid,
    group_of: &'g [u32],
    /// How many to choose, by step.
    counts: Vec<usize>,
    /// Which part to choose, by step.
    ratios: Vec<f64>,
    /// `limit_ratio`: where each series falls, from 0 to 1.
    offsets: Vec<f64>,
    /// `topk`, `bottomk`: by group and step.
    heaps: Vec<Heap>,
    /// `limitk`: how many were chosen, by group and step.
    chosen: Vec<usize>,
    cells: Vec<(usize, usize, SampleValue)>,
    histograms_ignored: bool,
    /// Groups in the order of their first series with a sample, and which these are.
    order: Vec<usize>,
    seen: Vec<bool>,
    charge: Charge,
}

impl<'g> Chooser<'g> {
    fn new(
        cx: &Cx<'_>,
        op: AggregateOp,
        grid: &Grid,
        groups: &'g Groups,
        parameter: &Parameter,
        inner: &dyn Operator,
    ) -> Result<Self, QueryError> {
        let n_cells = groups.labels.len() * grid.n_steps;
        let n_series = inner.series().len();
        let counts =
            parameter.values.iter().map(|&k| if k < 1.0 { 0 } else { (k as usize).min(n_series) }).collect();
        // For an instant the order of all results is that of Go's heap.
        let uses_heaps = grid.instant || matches!(op, AggregateOp::Topk | AggregateOp::Bottomk);
        let mut offsets = Vec::new();
        if op == AggregateOp::LimitRatio {
            for series in inner.series() {
                let labels = cx.label_sets.to_labels(&cx.store.symbols, series.labels);
                offsets.push(prometheus_hash(&labels) as f64 / u64::MAX as f64);
            }
        }
        let charge = cx.store.budget.take(n_cells * size_of::<Heap>(), 0)?;
        Ok(Self {
            op,
            grid: *grid,
            group_of: &groups.group_of,
            counts,
            ratios: parameter.values.iter().map(|ratio| ratio.clamp(-1.0, 1.0)).collect(),
            offsets,
            heaps: vec![
                Heap { reverse: op == AggregateOp::Bottomk, items: Vec::new() };
                if uses_heaps { n_cells } else { 0 }
            ],
            chosen: vec![0; if op == AggregateOp::Limitk { n_cells } else { 0 }],
            cells: Vec::new(),
            histograms_ignored: false,
            order: Vec::new(),
            seen: vec![false; groups.labels.len()],
            charge,
        })
    }

    fn offer(&mut self, series: usize, row: super::batch::Row<'_>) -> Result<(), QueryError> {
        let group = self.group_of[series] as usize;
        let first_cell = group * self.grid.n_steps;
        if !row.is_empty() && !std::mem::replace(&mut self.seen[group], true) {
            self.order.push(group);
        }
        if !self.heaps.is_empty() && matches!(self.op, AggregateOp::Topk | AggregateOp::Bottomk) {
            self.histograms_ignored |=
                row.histograms.is_some_and(|column| column.iter().any(|(step, _)| self.counts[step] > 0));
            let mut n_new = 0;
            for step in row.float_steps() {
                let heap = &mut self.heaps[first_cell + step];
                n_new += usize::from(heap.offer(self.counts[step], (row.values[step], series)));
            }
            self.charge.add_bytes(n_new * size_of::<(f64, usize)>())?;
            return self.charge.add_samples(n_new);
        }
        let before = self.cells.len();
        let mut any = vec![0; row.present.len()];
        row.mark_any(&mut any);
        for step in super::batch::bits(&any) {
            let take = match self.op {
                AggregateOp::LimitRatio => {
                    let (ratio, offset) = (self.ratios[step], self.offsets[series]);
                    (ratio >= 0.0 && offset < ratio) || (ratio < 0.0 && offset >= 1.0 + ratio)
                }
                _ => {
                    let chosen = &mut self.chosen[first_cell + step];
                    let take = *chosen < self.counts[step];
                    *chosen += usize::from(take);
                    take
                }
            };
            if take && let Some(value) = row.get(step) {
                if let Some(heap) = self.heaps.get_mut(first_cell + step) {
                    heap.push((value.as_float().unwrap_or(0.0), series));
                }
                self.cells.push((series, step, value));
            }
        }
        let n_new = self.cells.len() - before;
        self.charge.add_bytes(n_new * size_of::<(usize, usize, SampleValue)>())?;
        self.charge.add_samples(n_new)
    }

    fn rows(mut self, cx: &Cx<'_>, series: &[OutSeries]) -> Result<(Vec<OutSeries>, Rows), QueryError> {
        let n_steps = self.grid.n_steps;
        let mut order: Vec<usize> = Vec::new();
        let sorts = matches!(self.op, AggregateOp::Topk | AggregateOp::Bottomk);
        for &group in if self.heaps.is_empty() { &[][..] } else { &self.order } {
            for step in 0..n_steps {
                let heap = std::mem::take(&mut self.heaps[group * n_steps + step]);
                if !sorts {
                    order.extend(heap.items.into_iter().map(|(_, series)| series));
                    continue;
                }
                for (value, series) in heap.into_sorted() {
                    self.cells.push((series, step, SampleValue::Float(value)));
                    order.push(series);
                }
            }
        }
        if !self.grid.instant {
            order = self.cells.iter().map(|&(series, ..)| series).collect();
            order.sort_unstable();
            order.dedup();
        }
        let mut by_series: BTreeMap<usize, Vec<(usize, SampleValue)>> = BTreeMap::new();
        for (series, step, value) in self.cells {
            by_series.entry(series).or_default().push((step, value));
        }
        let rows =
            build_rows(cx, &self.grid, order.iter().map(|at| by_series.remove(at).unwrap_or_default()))?;
        Ok((order.into_iter().map(|at| series[at]).collect(), rows))
    }
}

/// Batches of rows from their samples.
fn build_rows(
    cx: &Cx<'_>,
    grid: &Grid,
    samples: impl ExactSizeIterator<Item = Vec<(usize, SampleValue)>>,
) -> Result<Rows, QueryError> {
    let per_batch = cx.rows_per_batch(grid);
    let mut rows = Rows::default();
    let n_rows = samples.len();
    let mut batch = Batch::default();
    for (at, mut cells) in samples.enumerate() {
        let row = at % per_batch;
        if row == 0 {
            batch = Batch::new(cx, grid, at, per_batch.min(n_rows - at))?;
        }
        cells.sort_by_key(|(step, _)| *step);
        let mut histograms = HistogramColumn::default();
        let mut out = batch.row_mut(row);
        for (step, value) in cells {
            match value {
                SampleValue::Float(value) => out.set(step, value),
                SampleValue::Histogram(h) => histograms.push(step, h),
            }
        }
        out.finish();
        batch.set_histograms(row, histograms);
        if row + 1 == batch.rows {
            rows.push(std::mem::take(&mut batch));
        }
    }
    Ok(rows)
}

/// The best few values so far with the worst of them on top, as Go's `container/heap` keeps them: the order of
/// equal values depends on it.
#[derive(Clone, Default)]
struct Heap {
    /// Small values are the best ones.
    reverse: bool,
    items: Vec<(f64, usize)>,
}

impl Heap {
    /// Whether item `a` is worse than item `b`. NaN is worse than anything.
    fn less(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.items[a].0, self.items[b].0);
        a.is_nan() || if self.reverse { a > b } else { a < b }
    }

    /// Takes an item if it is among the best `k`; whether the heap grew.
    fn offer(&mut self, k: usize, item: (f64, usize)) -> bool {
        if self.items.len() < k {
            self.push(item);
            return true;
        }
        let Some(&(worst, _)) = self.items.first() else {
            return false;
        };
        let better = if self.reverse { worst > item.0 } else { worst < item.0 };
        if better || (worst.is_nan() && !item.0.is_nan()) {
            self.items[0] = item;
            self.down();
        }
        false
    }

    fn push(&mut self, item: (f64, usize)) {
        self.items.push(item);
        self.up(self.items.len() - 1);
    }

    fn up(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.less(at, parent) {
                break;
            }
            self.items.swap(at, parent);
            at = parent;
        }
    }

    fn down(&mut self) {
        let mut at = 0;
        loop {
            let left = 2 * at + 1;
            if left >= self.items.len() {
                break;
            }
            let mut child = left;
            if left + 1 < self.items.len() && self.less(left + 1, left) {
                child = left + 1;
            }
            if !self.less(child, at) {
                break;
            }
            self.items.swap(at, child);
            at = child;
        }
    }

    /// Best first: the insertion sort that Go uses for up to 12 items, a stable sort beyond, where Go's order
    /// of equal values is anybody's guess.
    fn into_sorted(mut self) -> Vec<(f64, usize)> {
        if self.items.len() <= 12 {
            for i in 1..self.items.len() {
                let mut j = i;
                while j > 0 && self.less(j - 1, j) {
                    self.items.swap(j, j - 1);
                    j -= 1;
                }
            }
            return self.items;
        }
        let reverse = self.reverse;
        self.items.sort_by(|(a, _), (b, _)| match a.partial_cmp(b) {
            Some(order) if reverse => order,
            Some(order) => order.reverse(),
            None => a.is_nan().cmp(&b.is_nan()),
        });
        self.items
    }
}

/// What a distinct value takes at least in `count_values`, whatever the length of its text: its series in two maps,
/// its counts.
const VALUE_BYTES: usize = 128;
/// Texts and label sets that `count_values` makes before they are charged.
const VALUES_PER_CHARGE_BYTES: usize = 256 << 10;

/// `count_values`: a series for each distinct value of each group.
pub(crate) fn count_values(
    cx: &Cx<'_>,
    mut inner: Box<dyn Operator>,
    grid: Grid,
    label: &str,
    grouping: &[String],
    without: bool,
) -> Result<Box<dyn Operator>, QueryError> {
    let symbols = &cx.store.symbols;
    let label = symbols.intern(label);
    let mut names = cx.intern_names(grouping);
    names.push(if without { cx.names.metric } else { label });
    let mut numbers: BTreeMap<LabelSetId, usize> = BTreeMap::new();
    let mut counts: Vec<(LabelSetId, BTreeMap<usize, f64>)> = Vec::new();
    let mut charge = cx.store.budget.take(0, 0)?;
    let mut batch = Batch::default();
    let mut uncharged_bytes = 0;
    while inner.next(cx, &mut batch)? {
        for at in 0..batch.rows {
            let labels = inner.series()[batch.first + at].labels;
            let row = batch.row(at);
            let mut any = vec![0; row.present.len()];
            row.mark_any(&mut any);
            for step in super::batch::bits(&any) {
                let text = match row.get(step) {
                    Some(SampleValue::Float(value)) => go_format::format_float(value),
                    Some(SampleValue::Histogram(h)) => h.to_string(),
                    None => continue,
                };
                uncharged_bytes += text.len() + VALUE_BYTES;
                if uncharged_bytes > VALUES_PER_CHARGE_BYTES {
                    cx.charge_labels()?;
                    uncharged_bytes = 0;
                }
                let with_value = cx.label_sets.with(symbols, labels, label, symbols.intern(&text));
                let group = match without {
                    true => cx.label_sets.without(with_value, &names),
                    false => cx.label_sets.only(with_value, &names),
                };
                let next = counts.len();
                let number = *numbers.entry(group).or_insert(next);
                if number == next {
                    charge.add_bytes(VALUE_BYTES)?;
                    counts.push((group, BTreeMap::new()));
                }
                let count = counts[number].1.entry(step).or_insert(0.0);
                if *count == 0.0 {
                    charge.add_bytes(2 * size_of::<(usize, f64)>())?;
                    charge.add_samples(1)?;
                }
                *count += 1.0;
            }
            cx.charge_labels()?;
        }
    }
    let series = counts.iter().map(|&(labels, _)| OutSeries { labels, drop_name: false }).collect();
    let samples = counts
        .into_iter()
        .map(|(_, steps)| steps.into_iter().map(|(step, count)| (step, SampleValue::Float(count))).collect());
    let rows = build_rows(cx, &grid, samples.collect::<Vec<Vec<_>>>().into_iter())?;
    Ok(Box::new(Kept { grid, series, rows, at: 0, notes: inner.finish() }))
}
