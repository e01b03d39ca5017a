//! histogram_quantile, histogram_quantiles and histogram_fraction: over classic histograms, whose buckets are
//! series of one group, and over native ones.
//!
//! Source: Prometheus v3.14, `promql/functions.go`, `funcHistogramQuantile`, and `promql/engine.go`,
//! `resetHistograms`.

use super::batch::{Batch, Grid, Row};
use super::labels::LabelSetId;
use super::sort::in_order;
use super::{Cx, Kept, Operator, OutSeries};
use crate::annotations::{Annotation, Annotations};
use crate::error::QueryError;
use crate::functions::histogram::{
    Bucket, bucket_fraction, bucket_quantile, histogram_fraction, histogram_quantile,
};
use crate::parser::Span;
use chronolith_model::FloatHistogram;
use chronolith_model::symbols::{EMPTY, Symbol};
use std::collections::HashMap;
use std::sync::Arc;

/// What is asked of the histograms. Scalars are one value a step.
pub(crate) enum Question {
    Quantile(Vec<f64>),
    /// A row for each quantile, told apart by the value of a label.
    Quantiles {
        label: Symbol,
        quantiles: Vec<LabelledQuantile>,
    },
    Fraction {
        lower: Vec<f64>,
        upper: Vec<f64>,
    },
}

/// A value that a quantile argument has at some steps.
pub(crate) struct LabelledQuantile {
    pub(crate) value: f64,
    pub(crate) text: Symbol,
    pub(crate) steps: Vec<bool>,
}

impl Question {
    /// Rows for each histogram.
    fn n_rows(&self) -> usize {
        match self {
            Self::Quantiles { quantiles, .. } => quantiles.len(),
            Self::Quantile(_) | Self::Fraction { .. } => 1,
        }
    }
}

pub(crate) struct Histograms {
    inner: Box<dyn Operator>,
    grid: Grid,
    question: Question,
    /// Where the vector stands.
    span: Span,
    /// By input series: the group, and the upper bound of its bucket.
    group_of: Vec<u32>,
    bounds: Vec<Option<f64>>,
    groups: Vec<Group>,
    series: Vec<OutSeries>,
    /// Rows with native histograms whose series has the label of a bucket. They belong to no group: an answer keeps
    /// the label.
    natives_with_le: Vec<(usize, Batch)>,
    /// Rows of groups that are not complete.
    open: HashMap<u32, Vec<(usize, Batch)>>,
    emitted: usize,
    /// By output row: what it is ordered by; `None` where it has no sample.
    places: Vec<Option<Place>>,
    notes: Annotations,
}

/// Question, whether the histogram is a classic one, and its first series with a sample. Prometheus answers one
/// question after the other, for native histograms first; in a range query the order has no meaning.
type Place = (usize, bool, usize);

struct Group {
    /// Name of the metric, as annotations print it.
    name: Arc<str>,
    last: usize,
}

impl Histograms {
    pub(crate) fn new(
        cx: &Cx<'_>,
        inner: Box<dyn Operator>,
        grid: Grid,
        question: Question,
        span: Span,
    ) -> Result<Self, QueryError> {
        let le = cx.names.le;
        let mut numbers: HashMap<LabelSetId, u32> = HashMap::new();
        let (mut group_of, mut bounds) = (Vec::new(), Vec::new());
        let mut groups: Vec<Group> = Vec::new();
        let mut labels = Vec::new();
        for (at, series) in inner.series().iter().enumerate() {
            let without = cx.label_sets.without(series.labels, &[le]);
            let next = groups.len() as u32;
            let number = *numbers.entry(without).or_insert(next);
            if number == next {
                let name = match cx.features.delayed_name_removal {
                    true => cx.label_text(without, cx.names.metric),
                    false => Arc::from(""),
                };
                groups.push(Group { name, last: at });
                labels.push(without);
            }
            groups[number as usize].last = at;
            group_of.push(number);
            bounds.push(cx.label_text(series.labels, le).parse().ok());
        }
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by_key(|&group| groups[group].last);
        let mut series = Vec::with_capacity(groups.len() * question.n_rows());
        for group in order {
            add_series(cx, &question, labels[group], &mut series);
        }
        cx.charge_labels()?;
        Ok(Self {
            inner,
            grid,
            question,
            span,
            group_of,
            bounds,
            groups,
            series,
            natives_with_le: Vec::new(),
            open: HashMap::new(),
            emitted: 0,
            places: Vec::new(),
            notes: Annotations::default(),
        })
    }

    /// All answers, in the order of [`Place`].
    pub(crate) fn answered(mut self, cx: &Cx<'_>) -> Result<Kept, QueryError> {
        let rows = cx.drain(&mut self)?;
        let mut places: Vec<(Place, usize)> =
            self.places.iter().enumerate().filter_map(|(at, place)| Some(((*place)?, at))).collect();
        places.sort_unstable();
        let indices: Vec<usize> = places.into_iter().map(|(_, at)| at).collect();
        let grid = self.grid;
        let rows = in_order(cx, &grid, &rows, &indices, false)?;
        let series = indices.iter().map(|&at| self.series[at]).collect();
        Ok(Kept { grid, series, rows, at: 0, notes: Box::new(self).finish() })
    }

    /// Fills the rows of one complete group, starting at `first` of `out`; or those of a single series whose native
    /// histograms are no part of its group.
    fn fill(
        &mut self,
        cx: &Cx<'_>,
        group: u32,
        members: &[(usize, Row<'_>)],
        native_with_le: bool,
        out: &mut Batch,
        first: usize,
    ) {
        let has_le: Vec<bool> = members.iter().map(|(series, _)| self.has_le(cx, *series)).collect();
        let name = Arc::clone(&self.groups[group as usize].name);
        let mut buckets: Vec<Bucket> = Vec::with_capacity(members.len());
        let mut place: Option<(bool, usize)> = None;
        for step in 0..self.grid.n_steps {
            buckets.clear();
            let mut native = None;
            let mut first_series = usize::MAX;
            for ((series, row), &has_le) in members.iter().zip(&has_le) {
                if row.has(step) && !native_with_le {
                    if let Some(upper_bound) = self.bounds[*series] {
                        buckets.push(Bucket { upper_bound, count: row.values[step] });
                        first_series = first_series.min(*series);
                    }
                } else if native_with_le == has_le
                    && let Some(h) = row.histograms.and_then(|column| column.get(step))
                {
                    native = Some(h);
                    first_series = first_series.min(*series);
                }
            }
            if native.is_some() && !buckets.is_empty() {
                let note = Annotation::MixedClassicNativeHistograms(Arc::clone(&name));
                self.notes.add(note, self.span);
                continue;
            }
            if native.is_none() && buckets.is_empty() {
                continue;
            }
            let found = (self.grid.instant && native.is_none(), first_series);
            place = Some(place.map_or(found, |place| place.min(found)));
            self.answer(step, native.map(|h| &**h), &mut buckets, &name, out, first);
        }
        for row in 0..self.question.n_rows() {
            out.row_mut(first + row).finish();
            let place = place.map(|(classic, series)| (row, classic, series));
            self.places.push(place.filter(|_| !out.row(first + row).is_empty()));
        }
    }

    fn answer(
        &mut self,
        step: usize,
        native: Option<&FloatHistogram>,
        buckets: &mut Vec<Bucket>,
        name: &Arc<str>,
        out: &mut Batch,
        first: usize,
    ) {
        let (span, timestamp) = (self.span, self.grid.time(step));
        let notes = &mut self.notes;
        let mut quantile = |q: f64| match native {
            Some(h) => histogram_quantile(q, h, name, span, notes),
            None => {
                let found = bucket_quantile(q, buckets);
                if found.forced_monotonicity {
                    let note = Annotation::HistogramQuantileForcedMonotonicity {
                        name: Arc::clone(name),
                        timestamp,
                        min_bucket: found.min_bucket,
                        max_bucket: found.max_bucket,
                        max_diff: found.max_diff,
                    };
                    notes.add(note, span);
                }
                found.value
            }
        };
        match &self.question {
            Question::Quantile(quantiles) => out.row_mut(first).set(step, quantile(quantiles[step])),
            Question::Quantiles { quantiles, .. } => {
                for (row, entry) in quantiles.iter().enumerate().filter(|(_, entry)| entry.steps[step]) {
                    out.row_mut(first + row).set(step, quantile(entry.value));
                }
            }
            Question::Fraction { lower, upper } => {
                let (lower, upper) = (lower[step], upper[step]);
                let value = match native {
                    Some(h) => histogram_fraction(lower, upper, h, name, span, &mut self.notes),
                    None => bucket_fraction(lower, upper, buckets),
                };
                out.row_mut(first).set(step, value);
            }
        }
    }

    fn has_le(&self, cx: &Cx<'_>, series: usize) -> bool {
        cx.label_sets.value(self.inner.series()[series].labels, cx.names.le) != EMPTY
    }

    /// The rows that belong to no group, once all others are there: which they are is known only now.
    fn fill_natives_with_le(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        let natives = std::mem::take(&mut self.natives_with_le);
        if natives.is_empty() {
            return Ok(false);
        }
        let n_rows = self.question.n_rows();
        out.reset(cx, &self.grid, self.emitted, natives.len() * n_rows)?;
        for (at, (series, batch)) in natives.iter().enumerate() {
            cx.check()?;
            let labels = self.inner.series()[*series].labels;
            add_series(cx, &self.question, labels, &mut self.series);
            let group = self.group_of[*series];
            self.fill(cx, group, &[(*series, batch.row(0))], true, out, at * n_rows);
        }
        self.emitted += natives.len() * n_rows;
        out.charge_samples()?;
        cx.charge_labels()?;
        Ok(true)
    }

    /// Notes a series of floats that is no bucket.
    fn note_bad_bound(&mut self, cx: &Cx<'_>, series: usize) {
        let label = cx.label_text(self.inner.series()[series].labels, cx.names.le);
        let name = Arc::clone(&self.groups[self.group_of[series] as usize].name);
        self.notes.add(Annotation::BadBucketLabel { name, label }, self.span);
    }
}

impl Operator for Histograms {
    fn series(&self) -> &[OutSeries] {
        &self.series
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        &mut self.series
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        let n_rows = self.question.n_rows();
        loop {
            let mut batch = Batch::default();
            if !self.inner.next(cx, &mut batch)? {
                return self.fill_natives_with_le(cx, out);
            }
            cx.check()?;
            let is_last = |series: usize| self.groups[self.group_of[series] as usize].last == series;
            let range = batch.first..batch.first + batch.rows;
            let n_complete = range.clone().filter(|&series| is_last(series)).count();
            out.reset(cx, &self.grid, self.emitted, n_complete * n_rows)?;
            let mut at = 0;
            for series in range {
                let row = batch.row(series - batch.first);
                if self.bounds[series].is_none() && row.present.iter().any(|&word| word != 0) {
                    self.note_bad_bound(cx, series);
                }
                if row.histograms.is_some() && self.has_le(cx, series) {
                    let mut kept = Batch::new(cx, &self.grid, 0, 1)?;
                    kept.copy_row(0, row);
                    self.natives_with_le.push((series, kept));
                }
                let group = self.group_of[series];
                if self.groups[group as usize].last != series {
                    let mut kept = Batch::new(cx, &self.grid, 0, 1)?;
                    kept.copy_row(0, row);
                    self.open.entry(group).or_default().push((series, kept));
                    continue;
                }
                let kept = self.open.remove(&group).unwrap_or_default();
                let mut members: Vec<_> =
                    kept.iter().map(|(series, batch)| (*series, batch.row(0))).collect();
                members.push((series, row));
                self.fill(cx, group, &members, false, out, at);
                at += n_rows;
            }
            if at > 0 {
                self.emitted += at;
                out.charge_samples()?;
                return Ok(true);
            }
        }
    }

    fn finish(self: Box<Self>) -> Annotations {
        let mut notes = self.inner.finish();
        notes.merge(self.notes);
        notes
    }
}

/// Adds the series of the answers for a histogram with these labels.
fn add_series(cx: &Cx<'_>, question: &Question, labels: LabelSetId, series: &mut Vec<OutSeries>) {
    let mut out = OutSeries { labels, drop_name: false };
    cx.remove_name(&mut out);
    match question {
        Question::Quantiles { label, quantiles } => series.extend(quantiles.iter().map(|quantile| {
            let labels = cx.label_sets.with(&cx.store.symbols, out.labels, *label, quantile.text);
            OutSeries { labels, ..out }
        })),
        Question::Quantile(_) | Question::Fraction { .. } => series.push(out),
    }
}

/// The values a quantile argument takes, each with its steps.
pub(crate) fn labelled_quantiles(cx: &Cx<'_>, values: &[f64]) -> Vec<LabelledQuantile> {
    let mut quantiles: Vec<LabelledQuantile> = Vec::new();
    for (step, &value) in values.iter().enumerate() {
        let known = quantiles.iter_mut().find(|known| known.value.to_bits() == value.to_bits());
        match known {
            Some(known) => known.steps[step] = true,
            None => {
                let mut steps = vec![false; values.len()];
                steps[step] = true;
                let text = cx.store.symbols.intern(&open_metrics_float(value));
                debug_assert!(text != EMPTY);
                quantiles.push(LabelledQuantile { value, text, steps });
            }
        }
    }
    quantiles
}

/// A float that is seen to be one: `1.0`.
///
/// Source: Prometheus v3.14, `model/labels/float.go`, `FormatOpenMetricsFloat`.
fn open_metrics_float(value: f64) -> String {
    if value == 0.0 {
        return "0.0".to_owned();
    }
    let text = crate::go_format::format_general(value);
    if value.is_finite() && !text.contains(['e', '.']) { text + ".0" } else { text }
}
