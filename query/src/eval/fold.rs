//! Aggregations with one result a group: accumulators are columns, filled row by row in series order.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `aggregation`.

use super::batch::{Batch, Grid, HistogramColumn, Row, Rows, count_bits, get_bit, set_bit};
use super::histogram_fold::{FoldedHistogram, HistogramFold};
use super::labels::LabelSetId;
use super::{Cx, Operator, OutSeries};
use crate::annotations::{Annotation, Annotations, HistogramOperation};
use crate::error::QueryError;
use crate::functions::over_time::quantile;
use crate::limits::{Charge, SAMPLES_PER_CHECK};
use crate::parser::Span;
use crate::parser::ast::AggregateOp;
use chronolith_model::histogram::kahan_increment;
use std::collections::HashMap;

/// Series by group.
pub(crate) struct Groups {
    /// By input series.
    pub(crate) group_of: Vec<u32>,
    /// Labels of the groups, in the order of their first series.
    pub(crate) labels: Vec<LabelSetId>,
}

/// Groups series by the labels in `names`, or by all but those and the metric name.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `generateGroupingLabels`.
pub(crate) fn group(
    cx: &Cx<'_>,
    series: &[OutSeries],
    names: &[String],
    without: bool,
) -> Result<Groups, QueryError> {
    let mut symbols = cx.intern_names(names);
    if without {
        symbols.push(cx.names.metric);
    }
    let mut groups = Groups { group_of: Vec::with_capacity(series.len()), labels: Vec::new() };
    // By label set: its group, as soon as it has one.
    let mut numbers: Vec<u32> = Vec::new();
    let mut charge = cx.store.budget.take(0, 0)?;
    for part in series.chunks(SERIES_PER_CHECK) {
        let selected = cx.label_sets.select(part.iter().map(|series| series.labels), &symbols, !without);
        cx.charge_labels()?;
        let n_sets = cx.label_sets.len();
        charge.add_bytes((n_sets - numbers.len()) * 4)?;
        numbers.resize(n_sets, NO_GROUP);
        for labels in selected {
            let number = &mut numbers[labels.index()];
            if *number == NO_GROUP {
                *number = groups.labels.len() as u32;
                groups.labels.push(labels);
            }
            groups.group_of.push(*number);
        }
    }
    Ok(groups)
}

const NO_GROUP: u32 = u32::MAX;
/// Series between two looks at whether the query goes on.
const SERIES_PER_CHECK: usize = 1000;

/// `sum`, `avg`, `min`, `max`, `count`, `group`, `stddev`, `stdvar` and `quantile`.
pub(crate) struct Fold {
    grid: Grid,
    op: AggregateOp,
    group_of: Vec<u32>,
    series: Vec<OutSeries>,
    columns: Columns,
    histograms: HistogramFold,
    /// `quantile`: the parameter by step, all rows, and the rows of each group.
    quantiles: Vec<f64>,
    kept: Rows,
    members: Vec<Vec<u32>>,
    /// Groups that have a sample, in the order of their first series with one.
    order: Vec<usize>,
    emitted: usize,
    /// What was noted below, and here.
    inner_notes: Annotations,
    notes: Annotations,
    /// Where the aggregated vector stands.
    span: Span,
}

/// The accumulators: a cell for each group and step.
#[derive(Default)]
struct Columns {
    /// Groups and steps that have a float (`count` and `group`: a sample of either kind).
    seen: Vec<u64>,
    /// The sum, extreme, or sum of squared distances.
    values: Vec<f64>,
    /// Compensation of the sum, or the mean.
    second: Vec<f64>,
    counts: Vec<f64>,
    /// `avg`: the means of cells whose sum would overflow, from there on incremental.
    means: HashMap<usize, f64>,
    _charge: Option<Charge>,
}

impl Fold {
    pub(crate) fn new(
        cx: &Cx<'_>,
        mut inner: Box<dyn Operator>,
        grid: Grid,
        op: AggregateOp,
        groups: Groups,
        quantiles: Vec<f64>,
        span: Span,
    ) -> Result<Self, QueryError> {
        let n_groups = groups.labels.len();
        let mut flags = vec![None; n_groups];
        let mut mixed = false;
        for (series, &group) in inner.series().iter().zip(&groups.group_of) {
            let flag = &mut flags[group as usize];
            mixed |= flag.is_some_and(|flag| flag != series.drop_name);
            *flag = Some(series.drop_name);
        }
        let series = groups.labels.iter().zip(flags);
        let series =
            series.map(|(&labels, flag)| OutSeries { labels, drop_name: flag.unwrap_or(false) }).collect();
        let columns = Columns::new(cx, &grid, op, n_groups)?;
        let histograms = HistogramFold::new(op == AggregateOp::Avg, span);
        let mut fold = Self {
            grid,
            op,
            group_of: groups.group_of,
            series,
            columns,
            histograms,
            quantiles,
            kept: Rows::default(),
            members: Vec::new(),
            order: Vec::new(),
            emitted: 0,
            inner_notes: Annotations::default(),
            notes: Annotations::default(),
            span,
        };
        // Series that will lose their name in one group with series that will not: the last step decides.
        fold.drain(cx, &mut *inner, mixed && cx.features.delayed_name_removal)?;
        fold.inner_notes = inner.finish();
        fold.series = fold.order.iter().map(|&group| fold.series[group]).collect();
        Ok(fold)
    }

    fn drain(&mut self, cx: &Cx<'_>, inner: &mut dyn Operator, find_flags: bool) -> Result<(), QueryError> {
        let n_words = self.grid.n_words();
        let mut last_step = vec![None; if find_flags { self.series.len() } else { 0 }];
        let mut any = vec![0; n_words];
        let mut seen = vec![false; self.series.len()];
        if self.op == AggregateOp::Quantile {
            self.members = vec![Vec::new(); self.series.len()];
        }
        inner.for_each(cx, &mut |all, batch| {
            for at in 0..batch.rows {
                let series = batch.first + at;
                let group = self.group_of[series] as usize;
                let row = batch.row(at);
                if !seen[group] && !row.is_empty() {
                    seen[group] = true;
                    self.order.push(group);
                }
                if find_flags {
                    any.fill(0);
                    row.mark_any(&mut any);
                    let last = super::batch::bits(&any).last();
                    let drop_name = all[series].drop_name;
                    if last > last_step[group] {
                        last_step[group] = last;
                        self.series[group].drop_name = drop_name;
                    } else if last.is_some() && last == last_step[group] {
                        self.series[group].drop_name |= drop_name;
                    }
                }
                self.fold_row(cx, group, series, all[series].labels, row)?;
            }
            if self.op == AggregateOp::Quantile {
                self.kept.push(std::mem::take(batch));
            }
            cx.check()
        })
    }

    fn fold_row(
        &mut self,
        cx: &Cx<'_>,
        group: usize,
        series: usize,
        labels: LabelSetId,
        row: Row<'_>,
    ) -> Result<(), QueryError> {
        if let Some(column) = row.histograms {
            match self.op {
                AggregateOp::Sum | AggregateOp::Avg => {
                    let (floats, grid, notes) = (&self.columns, &self.grid, &mut self.notes);
                    self.histograms.add(cx, group, column, labels, floats, grid, notes)?;
                }
                AggregateOp::Count | AggregateOp::Group => {}
                _ => {
                    let note = Annotation::HistogramIgnoredInAggregation(self.op.as_str());
                    self.notes.add(note, self.span);
                }
            }
        }
        if self.op == AggregateOp::Quantile {
            self.members[group].push(series as u32);
            return Ok(());
        }
        self.columns.fold(self.op, group, &self.grid, row);
        Ok(())
    }

    fn emit_row(&mut self, cx: &Cx<'_>, group: usize, out: &mut Batch, at: usize) -> Result<(), QueryError> {
        let grid = self.grid;
        if self.op == AggregateOp::Quantile {
            let mut values = Vec::with_capacity(self.members[group].len());
            let mut row = out.row_mut(at);
            let mut n_unchecked = 0;
            for step in 0..grid.n_steps {
                n_unchecked += self.members[group].len();
                if n_unchecked > SAMPLES_PER_CHECK {
                    n_unchecked = 0;
                    cx.check()?;
                }
                values.clear();
                for &member in &self.members[group] {
                    let source = self.kept.row(member as usize);
                    if source.has(step) {
                        values.push(source.values[step]);
                    }
                }
                if !values.is_empty() {
                    row.set(step, quantile(self.quantiles[step], &mut values));
                }
            }
            row.finish();
            return Ok(());
        }
        let histograms = self.histograms.take(group);
        let mut column = HistogramColumn::default();
        let mut row = out.row_mut(at);
        self.columns.emit(self.op, group, &grid, &mut row);
        for (step, result) in histograms {
            let with_floats = get_bit(row.present, step);
            super::batch::clear_bit(row.present, step);
            match result {
                // Floats after histograms that do not fit are not looked at.
                FoldedHistogram::Incompatible { after_float: false } => {}
                _ if with_floats => self.notes.add(Annotation::MixedFloatsHistogramsAgg, self.span),
                FoldedHistogram::Incompatible { after_float: true } | FoldedHistogram::Spoilt => {}
                FoldedHistogram::Value { histogram, collision } => {
                    if collision {
                        let operation = HistogramOperation::Aggregation;
                        self.notes.add(Annotation::HistogramCounterResetCollision(operation), self.span);
                    }
                    column.push(step, histogram);
                }
            }
        }
        row.finish();
        out.set_histograms(at, column);
        Ok(())
    }
}

impl Operator for Fold {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        let n = cx.rows_per_batch(&self.grid).min(self.series.len() - self.emitted);
        if n == 0 {
            return Ok(false);
        }
        out.reset(cx, &self.grid, self.emitted, n)?;
        for at in 0..n {
            self.emit_row(cx, self.order[self.emitted + at], out, at)?;
        }
        cx.check()?;
        out.charge_samples()?;
        self.emitted += n;
        Ok(true)
    }

    fn finish(self: Box<Self>) -> Annotations {
        let mut notes = self.inner_notes;
        notes.merge(self.notes);
        notes
    }
}

impl Columns {
    fn new(cx: &Cx<'_>, grid: &Grid, op: AggregateOp, n_groups: usize) -> Result<Self, QueryError> {
        let cells = n_groups * grid.n_steps;
        let (values, second, counts) = match op {
            AggregateOp::Sum => (true, true, false),
            AggregateOp::Avg | AggregateOp::Stddev | AggregateOp::Stdvar => (true, true, true),
            AggregateOp::Min | AggregateOp::Max => (true, false, false),
            AggregateOp::Count => (false, false, true),
            _ => (false, false, false),
        };
        let n_columns = [values, second, counts].into_iter().filter(|&used| used).count();
        let charge = cx.store.budget.take(cells * 8 * n_columns + n_groups * grid.n_words() * 8, 0)?;
        let column = |used: bool| vec![0.0; if used { cells } else { 0 }];
        Ok(Self {
            seen: vec![0; n_groups * grid.n_words()],
            values: column(values),
            second: column(second),
            counts: column(counts),
            means: HashMap::new(),
            _charge: Some(charge),
        })
    }

    /// Whether a group has a float at a step.
    pub(super) fn has(&self, grid: &Grid, group: usize, step: usize) -> bool {
        get_bit(&self.seen[group * grid.n_words()..], step)
    }

    fn fold(&mut self, op: AggregateOp, group: usize, grid: &Grid, row: Row<'_>) {
        let n = grid.n_steps;
        let seen = &mut self.seen[group * grid.n_words()..(group + 1) * grid.n_words()];
        let cells = group * n..(group + 1) * n;
        match op {
            AggregateOp::Sum => {
                let (sums, cs) = (&mut self.values[cells.clone()], &mut self.second[cells]);
                if row.dense && count_bits(seen) == n {
                    return add_row(row.values, sums, cs);
                }
                fold_cells(&row, seen, |step, value, first| {
                    if first {
                        sums[step] = value;
                    } else {
                        (sums[step], cs[step]) = kahan_increment(value, sums[step], cs[step]);
                    }
                });
            }
            AggregateOp::Avg => {
                let offset = cells.start;
                let (sums, cs) = (&mut self.values[cells.clone()], &mut self.second[cells.clone()]);
                let (counts, means) = (&mut self.counts[cells], &mut self.means);
                let overflows = |(sum, value): (&f64, &f64)| (sum + value).is_infinite();
                let any_overflows =
                    || sums.iter().zip(row.values).fold(false, |any, cell| any | overflows(cell));
                if row.dense && count_bits(seen) == n && means.is_empty() && !any_overflows() {
                    counts.iter_mut().for_each(|count| *count += 1.0);
                    return add_row(row.values, sums, cs);
                }
                fold_cells(&row, seen, |step, value, first| {
                    counts[step] += 1.0;
                    if first {
                        sums[step] = value;
                    } else {
                        let cell = (&mut sums[step], &mut cs[step]);
                        add_to_mean(value, counts[step], cell, means, offset + step);
                    }
                });
            }
            AggregateOp::Min => {
                let values = &mut self.values[cells];
                fold_cells(&row, seen, |step, value, first| {
                    if first || values[step] > value || values[step].is_nan() {
                        values[step] = value;
                    }
                });
            }
            AggregateOp::Max => {
                let values = &mut self.values[cells];
                fold_cells(&row, seen, |step, value, first| {
                    if first || values[step] < value || values[step].is_nan() {
                        values[step] = value;
                    }
                });
            }
            AggregateOp::Stddev | AggregateOp::Stdvar => {
                let (squares, means) = (&mut self.values[cells.clone()], &mut self.second[cells.clone()]);
                let counts = &mut self.counts[cells];
                fold_cells(&row, seen, |step, value, first| {
                    counts[step] += 1.0;
                    if first {
                        means[step] = value;
                        squares[step] = if value.is_finite() { 0.0 } else { f64::NAN };
                    } else {
                        let delta = value - means[step];
                        means[step] += delta / counts[step];
                        squares[step] += delta * (value - means[step]);
                    }
                });
            }
            AggregateOp::Count => {
                let counts = &mut self.counts[cells];
                row.mark_any(seen);
                if row.dense {
                    counts.iter_mut().for_each(|count| *count += 1.0);
                    return;
                }
                let histograms =
                    row.histograms.into_iter().flat_map(|column| column.iter()).map(|(step, _)| step);
                for step in row.float_steps().chain(histograms) {
                    counts[step] += 1.0;
                }
            }
            AggregateOp::Group => row.mark_any(seen),
            _ => unreachable!("other aggregations keep no columns"),
        }
    }

    fn emit(&self, op: AggregateOp, group: usize, grid: &Grid, row: &mut super::batch::RowMut<'_>) {
        let cells = group * grid.n_steps;
        row.present.copy_from_slice(&self.seen[group * grid.n_words()..(group + 1) * grid.n_words()]);
        for step in 0..grid.n_steps {
            let cell = cells + step;
            row.values[step] = match op {
                AggregateOp::Sum => self.values[cell] + self.second[cell],
                AggregateOp::Avg => match self.means.get(&cell) {
                    Some(mean) => mean + self.second[cell],
                    None => self.values[cell] / self.counts[cell] + self.second[cell] / self.counts[cell],
                },
                AggregateOp::Min | AggregateOp::Max => self.values[cell],
                AggregateOp::Stdvar => self.values[cell] / self.counts[cell],
                AggregateOp::Stddev => (self.values[cell] / self.counts[cell]).sqrt(),
                AggregateOp::Count => self.counts[cell],
                _ => 1.0,
            };
        }
    }
}

/// What the histogram accumulator asks of the float columns.
pub(super) trait HasFloat {
    fn has_float(&self, grid: &Grid, group: usize, step: usize) -> bool;
}

impl HasFloat for Columns {
    fn has_float(&self, grid: &Grid, group: usize, step: usize) -> bool {
        self.has(grid, group, step)
    }
}

/// Calls `fold(step, value, first)` for every float of a row; `first` if the group had none at that step.
/// Rows without gaps that meet a group without gaps, or an untouched one, run without looking at bits.
fn fold_cells(row: &Row<'_>, seen: &mut [u64], mut fold: impl FnMut(usize, f64, bool)) {
    let n_seen = count_bits(seen);
    if row.dense && n_seen == row.values.len() {
        for (step, &value) in row.values.iter().enumerate() {
            fold(step, value, false);
        }
        return;
    }
    if row.dense && n_seen == 0 {
        for (step, &value) in row.values.iter().enumerate() {
            fold(step, value, true);
        }
        seen.copy_from_slice(row.present);
        return;
    }
    for step in row.float_steps() {
        fold(step, row.values[step], !get_bit(seen, step));
        set_bit(seen, step);
    }
}

/// [`kahan_increment`] of every cell, without a branch, so that several cells are added at once.
fn add_row(values: &[f64], sums: &mut [f64], cs: &mut [f64]) {
    for ((&value, sum), c) in values.iter().zip(sums).zip(cs) {
        let total = *sum + value;
        let (large, small) = if sum.abs() >= value.abs() { (*sum, value) } else { (value, *sum) };
        let compensated = *c + ((large - total) + small);
        *c = if total.is_infinite() { 0.0 } else { compensated };
        *sum = total;
    }
}

/// One more value of an average: a compensated sum, or an incremental mean once the sum would overflow.
fn add_to_mean(
    value: f64,
    count: f64,
    (sum, c): (&mut f64, &mut f64),
    means: &mut HashMap<usize, f64>,
    cell: usize,
) {
    let before = match means.get(&cell) {
        Some(&mean) => mean,
        None => {
            let (new_sum, new_c) = kahan_increment(value, *sum, *c);
            if !new_sum.is_infinite() {
                (*sum, *c) = (new_sum, new_c);
                return;
            }
            *c /= count - 1.0;
            *sum / (count - 1.0)
        }
    };
    let q = (count - 1.0) / count;
    let (mean, new_c) = kahan_increment(value / count, q * before, q * *c);
    means.insert(cell, mean);
    *c = new_c;
}
