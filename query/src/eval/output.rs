//! From rows to the value of a query.

use super::batch::Grid;
use super::build::Builder;
use super::labels::LabelSetId;
use super::window::OwnedPoints;
use super::{Cx, Operator, OutSeries};
use crate::error::QueryError;
use crate::functions::Extension;
use crate::functions::rate::interpolate;
use crate::limits::Charge;
use crate::plan::Selector;
use crate::stats::{Scope, histogram_samples};
use crate::value::{InstantSample, RangeSeries, ResultLabels, SampleValue};
use chronolith_model::FloatHistogram;
use chronolith_model::queryable::SampleBatch;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Names that were to be dropped at the end.
pub(crate) fn drop_delayed_names(cx: &Cx<'_>, operator: &mut dyn Operator) {
    for series in operator.series_mut() {
        if series.drop_name {
            series.labels = cx.without_metadata(series.labels);
        }
    }
}

/// The labels of results: the texts of all of them are listed once.
#[derive(Default)]
struct Labelled {
    texts: Arc<[Arc<str>]>,
}

impl Labelled {
    fn labels(
        &mut self,
        cx: &Cx<'_>,
        series: &OutSeries,
        charge: &mut Charge,
    ) -> Result<ResultLabels, QueryError> {
        let pairs = cx.label_sets.get(series.labels);
        let n_texts = pairs.iter().map(|(name, value)| name.0.max(value.0) as usize + 1).max().unwrap_or(0);
        if n_texts > self.texts.len() {
            // The query lets go of what it was charged for the texts, and the result keeps them.
            let before = self.texts.len();
            charge.add_bytes(cx.store.symbols.size_bytes())?;
            self.texts = cx.store.symbols.strings().into();
            charge.add_bytes((self.texts.len() - before) * size_of::<Arc<str>>())?;
        }
        charge.add_bytes(size_of_val(&*pairs) + size_of::<ResultLabels>())?;
        Ok(ResultLabels::new(Arc::clone(&self.texts), pairs))
    }
}

/// A value of a query, and what it was charged with.
pub(crate) type Held<T> = (T, Charge);

/// The samples of the only step, in the order of evaluation.
pub(crate) fn vector(
    cx: &Cx<'_>,
    operator: &mut dyn Operator,
    timestamp: i64,
) -> Result<Held<Vec<InstantSample>>, QueryError> {
    let mut samples: Vec<InstantSample> = Vec::new();
    let mut charge = cx.store.budget.take(0, 0)?;
    let mut labelled = Labelled::default();
    // Series that became equal when their names went at the end.
    let mut places: HashMap<LabelSetId, Place> = HashMap::new();
    let mut met = false;
    let merges = cx.features.delayed_name_removal && has_equal_labels(operator.series());
    operator.for_each(cx, &mut |series, batch| {
        cx.check()?;
        batch.release();
        for at in 0..batch.rows {
            let Some(value) = batch.row(at).get(0) else { continue };
            if merges {
                let place = places.entry(series[batch.first + at].labels).or_default();
                let (kinds, known) = match value {
                    SampleValue::Float(_) => (&mut place.float, place.histogram),
                    SampleValue::Histogram(_) => (&mut place.histogram, place.float),
                };
                if std::mem::replace(kinds, true) {
                    // Whatever else goes wrong comes first.
                    met = true;
                    continue;
                }
                if known {
                    if matches!(value, SampleValue::Histogram(_)) {
                        samples[place.at].value = value;
                    }
                    continue;
                }
                place.at = samples.len();
            }
            let labels = labelled.labels(cx, &series[batch.first + at], &mut charge)?;
            charge.add_bytes(size_of::<InstantSample>() + histogram_bytes(&value))?;
            charge.add_samples(1)?;
            samples.push(InstantSample { labels, timestamp, value });
        }
        Ok(())
    })?;
    if met {
        return Err(QueryError::same_labelset());
    }
    Ok((samples, charge))
}

/// All samples, by series in the order of labels.
pub(crate) fn matrix(
    cx: &Cx<'_>,
    operator: &mut dyn Operator,
    grid: &Grid,
) -> Result<Held<Vec<RangeSeries>>, QueryError> {
    let mut all = Vec::new();
    let mut charge = cx.store.budget.take(0, 0)?;
    let mut labelled = Labelled::default();
    operator.for_each(cx, &mut |series, batch| {
        cx.check()?;
        batch.release();
        for at in 0..batch.rows {
            let row = batch.row(at);
            if row.is_empty() {
                continue;
            }
            let n_floats = super::batch::count_bits(row.present);
            let labels = labelled.labels(cx, &series[batch.first + at], &mut charge)?;
            charge.add_bytes(size_of::<RangeSeries>() + n_floats * 16)?;
            charge.add_samples(n_floats)?;
            let floats = match row.dense {
                true => grid.times().zip(row.values.iter().copied()).collect(),
                false => row.float_steps().map(|step| (grid.time(step), row.values[step])).collect(),
            };
            let mut histograms = Vec::new();
            for (step, h) in row.histograms.into_iter().flat_map(|column| column.iter()) {
                charge.add_bytes(16 + h.go_size_bytes())?;
                charge.add_samples(histogram_samples(h) as usize)?;
                histograms.push((grid.time(step), Arc::clone(h)));
            }
            all.push(RangeSeries { labels, floats, histograms });
        }
        Ok(())
    })?;
    sort(&mut all);
    if cx.features.delayed_name_removal && has_equal_labels(operator.series()) {
        all = merge_equal(all)?;
    }
    Ok((all, charge))
}

/// By labels. Series of one metric come in this order already.
fn sort(series: &mut [RangeSeries]) {
    if !series.is_sorted_by(|a, b| a.labels <= b.labels) {
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
    }
}

fn has_equal_labels(series: &[OutSeries]) -> bool {
    let distinct: HashSet<LabelSetId> = series.iter().map(|series| series.labels).collect();
    distinct.len() < series.len()
}

/// Where a series of an instant query is shown, and which kinds of samples were found: two of a kind must not meet; of
/// a float and a histogram the histogram is shown.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `mergeSeriesWithSameLabelset` and `exec`.
#[derive(Default)]
struct Place {
    at: usize,
    float: bool,
    histogram: bool,
}

/// Merges series with equal labels, which are neighbours. Two samples of a kind must not meet; a float and a histogram
/// may, and both are shown.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `mergeSeriesWithSameLabelset`.
fn merge_equal(series: Vec<RangeSeries>) -> Result<Vec<RangeSeries>, QueryError> {
    let mut merged: Vec<RangeSeries> = Vec::with_capacity(series.len());
    for next in series {
        match merged.last_mut().filter(|last| last.labels == next.labels) {
            None => merged.push(next),
            Some(last) => {
                last.floats.extend(next.floats);
                last.histograms.extend(next.histograms);
                last.floats.sort_by_key(|(t, _)| *t);
                last.histograms.sort_by_key(|(t, _)| *t);
                if last.floats.windows(2).any(|pair| pair[0].0 == pair[1].0)
                    || last.histograms.windows(2).any(|pair| pair[0].0 == pair[1].0)
                {
                    return Err(QueryError::same_labelset());
                }
            }
        }
    }
    Ok(merged)
}

/// A histogram may be shared with what has made it, which is gone soon: the result has to pay for it.
fn histogram_bytes(value: &SampleValue) -> usize {
    match value {
        SampleValue::Float(_) => 0,
        SampleValue::Histogram(h) => h.go_size_bytes(),
    }
}

/// The samples of a range selector in `(start, end]`, as they are stored, staleness markers left out.
pub(crate) fn raw_matrix(
    builder: &mut Builder<'_, '_>,
    selector: &Selector,
    (start, end): (i64, i64),
    scope: &Scope,
) -> Result<Held<Vec<RangeSeries>>, QueryError> {
    let cx = builder.cx;
    let (before, after) = match selector.extension {
        Extension::None => (0, 0),
        Extension::Anchored => (cx.lookback_ms, 0),
        Extension::Smoothed => (cx.lookback_ms, cx.lookback_ms),
    };
    let (low, high) = (start - before, end + after);
    let (selected, series) = builder.select_range(selector, low + 1, high)?;
    let mut all = Vec::new();
    let mut charge = cx.store.budget.take(0, 0)?;
    let mut labelled = Labelled::default();
    let mut samples = SampleBatch::default();
    for partition in selected.partitions() {
        cx.check()?;
        samples.clear();
        selected.read(partition.clone(), &mut samples, &cx.store)?;
        for at in 0..samples.series.len() {
            let points = OwnedPoints::new(&samples, at, &[]);
            let inside =
                |times: &[i64]| times.partition_point(|&t| t <= low)..times.partition_point(|&t| t <= high);
            let mut floats: Vec<(i64, f64)> =
                inside(&points.float_times).map(|i| (points.float_times[i], points.floats[i])).collect();
            let histograms: Vec<(i64, Arc<FloatHistogram>)> = inside(&points.histogram_times)
                .map(|i| (points.histogram_times[i], Arc::clone(&points.histograms[i])))
                .collect();
            if selector.extension != Extension::None {
                if !histograms.is_empty() {
                    let name = selector.extension.as_str();
                    let text = format!("{name} modifier is not supported with histograms");
                    return Err(QueryError::Execution(text));
                }
                floats = extend(&floats, start, end, selector.extension == Extension::Smoothed);
            }
            if floats.is_empty() && histograms.is_empty() {
                continue;
            }
            let n_samples =
                floats.len() as u64 + histograms.iter().map(|(_, h)| histogram_samples(h)).sum::<u64>();
            scope.add_step(0, n_samples, n_samples);
            let labels = labelled.labels(cx, &series[partition.start as usize + at], &mut charge)?;
            charge.add_bytes(size_of::<RangeSeries>() + n_samples as usize * 16)?;
            charge.add_samples(n_samples as usize)?;
            all.push(RangeSeries { labels, floats, histograms });
        }
    }
    sort(&mut all);
    Ok((all, charge))
}

/// The floats of an extended window, with values at its very edges: those of the samples next to them, or, if
/// smoothed, on the lines between samples.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `extendFloats`.
fn extend(floats: &[(i64, f64)], start: i64, end: i64, smoothed: bool) -> Vec<(i64, f64)> {
    let Some(mut last) = floats.len().checked_sub(1) else {
        return Vec::new();
    };
    let first = floats[..last].partition_point(|&(t, _)| t <= start).saturating_sub(1);
    if smoothed {
        last = floats[..last].partition_point(|&(t, _)| t < end);
    }
    if floats[last].0 <= start {
        return Vec::new();
    }
    let left = match floats.get(first + 1) {
        Some(&next) if smoothed && floats[first].0 < start => interpolate(floats[first], next, start, false),
        _ => floats[first].1,
    };
    let right = match last.checked_sub(1) {
        Some(before) if smoothed && floats[last].0 > end => {
            interpolate(floats[before], floats[last], end, false)
        }
        _ => floats[last].1,
    };
    let inside = floats[first..=last].iter().copied().filter(|&(t, _)| start < t && t < end);
    std::iter::once((start, left)).chain(inside).chain([(end, right)]).collect()
}

/// The value of a scalar over all steps: a series without labels.
pub(crate) fn scalar_matrix(values: &[f64], grid: &Grid) -> Vec<RangeSeries> {
    let floats: Vec<(i64, f64)> = grid.times().zip(values.iter().copied()).collect();
    vec![RangeSeries { labels: ResultLabels::default(), floats, histograms: Vec::new() }]
}

impl SampleValue {
    /// The float, unless it is a histogram.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Histogram(_) => None,
        }
    }
}
