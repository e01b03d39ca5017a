//! Functions over range selectors: windows found once for a timestamp column, used by every series that has it.

use super::Cx;
use super::batch::{Batch, Grid, HistogramColumn, RowMut};
use super::labels::{SymbolPairs, value_of};
use super::leaf::{LastPlans, PlanCache, RowSource};
use super::lookup::{Kinds, Place, floats_of};
use crate::annotations::{Annotation, Annotations};
use crate::error::QueryError;
use crate::functions::{
    ColumnValues, Extension, FloatColumn, FloatPoints, HistogramPoints, SeriesNotes, Window, WindowFunction,
    seconds,
};
use crate::limits::SAMPLES_PER_CHECK;
use crate::parser::Span;
use crate::plan::DataTime;
use crate::stats::{Scope, histogram_samples};
use crate::value::SampleValue;
use chronolith_model::FloatHistogram;
use chronolith_model::queryable::{Floats, SampleBatch};
use chronolith_model::symbols::Symbol;
use std::sync::Arc;

/// Window bounds of one timestamp column: computed once, used by every series that shares the column.
#[derive(Debug, Default)]
pub(crate) struct WindowPlan {
    /// By step: the window is `low..high` of the samples. Both never fall from step to step.
    pub(crate) low: Vec<u32>,
    pub(crate) high: Vec<u32>,
    /// See [`FloatColumn::geometry`]; empty if the function does not need it.
    pub(crate) geometry: Vec<[f64; 3]>,
    /// See [`FloatColumn::factors`].
    pub(crate) factors: Vec<f64>,
    /// See [`FloatColumn::filled`] and [`FloatColumn::pairs`].
    pub(crate) filled: Vec<u64>,
    pub(crate) pairs: Vec<u64>,
    /// Samples in all windows, and samples read for them.
    n_total: u64,
    n_read: u64,
}

/// A window function and where its windows lie.
pub(crate) struct WindowCall {
    pub(crate) grid: Grid,
    /// Where windows end.
    pub(crate) time: DataTime,
    pub(crate) range_ms: i64,
    pub(crate) extension: Extension,
    pub(crate) lookback_ms: i64,
    pub(crate) function: Box<dyn WindowFunction>,
    /// Where the range vector stands.
    pub(crate) span: Span,
    pub(crate) scope: Scope,
    /// Whether samples count as read; those of a subquery were read below it.
    pub(crate) counts_reads: bool,
}

/// What tells whether a metric is a counter: its name and its type.
pub(crate) type NotedMetric = (Symbol, Symbol);

/// What a worker keeps between rows.
#[derive(Default)]
pub(crate) struct WindowScratch {
    last: LastPlans<WindowPlan>,
    values: Vec<f64>,
    /// The metric that was last looked at, whether it is a counter.
    noted: Option<NotedMetric>,
}

/// The samples of one series, apart by kind, staleness markers removed.
#[derive(Default)]
pub(crate) struct SeriesPoints<'a> {
    pub(crate) float_times: &'a [i64],
    pub(crate) floats: Option<ColumnValues<'a>>,
    pub(crate) float_starts: &'a [i64],
    pub(crate) histogram_times: &'a [i64],
    pub(crate) histograms: &'a [Arc<FloatHistogram>],
    pub(crate) histogram_starts: &'a [i64],
}

impl WindowCall {
    /// The times a window may hold samples of: `(low, high]`.
    fn bounds(&self, step: usize) -> (i64, i64) {
        let end = self.time.at(self.grid.time(step));
        let start = end - self.range_ms;
        match self.extension {
            Extension::None => (start, end),
            Extension::Anchored => (start - self.lookback_ms, end),
            Extension::Smoothed => (start - self.lookback_ms, end + self.lookback_ms),
        }
    }

    /// Size of a plan.
    fn plan_bytes(&self) -> usize {
        let step_bytes = if self.function.needs_geometry() { 8 + 24 + 8 } else { 8 };
        self.grid.n_steps * step_bytes + self.grid.n_words() * 16
    }

    pub(crate) fn plan(&self, times: &[i64]) -> WindowPlan {
        let mut plan = WindowPlan::default();
        let n_steps = self.grid.n_steps;
        if n_steps == 0 {
            return plan;
        }
        // From step to step bounds move by the interval, or not at all.
        let (mut start, mut end) = self.bounds(0);
        let interval = if matches!(self.time, DataTime::Fixed(_)) { 0 } else { self.grid.interval };
        let with_geometry = self.function.needs_geometry() && self.extension == Extension::None;
        let first = times.partition_point(|&t| t <= start);
        let (mut low, mut high) = (first, first);
        let (mut low_stride, mut high_stride) = (0, 0);
        (plan.low, plan.high) = (vec![0; n_steps], vec![0; n_steps]);
        for (step_low, step_high) in plan.low.iter_mut().zip(&mut plan.high) {
            let before = high;
            low = advance(times, low, start, &mut low_stride);
            high = advance(times, high.max(low), end, &mut high_stride);
            (*step_low, *step_high) = (low as u32, high as u32);
            plan.n_total += (high - low) as u64;
            plan.n_read += (high - before.max(low)) as u64;
            // Behind the last step it may be anywhere.
            (start, end) = (start.wrapping_add(interval), end.wrapping_add(interval));
        }
        // One thing after the other over all steps: together they need more registers than there are.
        for (low, high) in plan.low.chunks(64).zip(plan.high.chunks(64)) {
            let steps_with = |least: u32| {
                let sizes = low.iter().zip(high).map(|(low, high)| high - low);
                sizes.rev().fold(0, |bits, size| bits << 1 | u64::from(size >= least))
            };
            plan.filled.push(steps_with(1));
            plan.pairs.push(steps_with(2));
        }
        if with_geometry {
            (start, end) = self.bounds(0);
            plan.geometry.extend(plan.low.iter().zip(&plan.high).map(|(&low, &high)| {
                let geometry = match &times[low as usize..high as usize] {
                    [] => [0.0; 3],
                    window => {
                        let (first, last) = (window[0], window[window.len() - 1]);
                        [last - first, first - start, end - last].map(|millis| millis as f64)
                    }
                };
                (start, end) = (start.wrapping_add(interval), end.wrapping_add(interval));
                geometry
            }));
        }
        // Several at a time.
        plan.geometry.as_flattened_mut().iter_mut().for_each(|millis| *millis /= 1000.0);
        if with_geometry {
            let range_s = seconds(self.range_ms);
            plan.factors = self.function.factors(&plan.low, &plan.high, &plan.geometry, range_s);
        }
        plan
    }

    /// The result row of one series.
    #[expect(clippy::too_many_arguments, reason = "one call a row: what it reads, and where it goes")]
    pub(crate) fn fill_row(
        &self,
        cx: &Cx<'_>,
        scratch: &mut Vec<f64>,
        noted: &mut Option<NotedMetric>,
        points: &SeriesPoints<'_>,
        plan: &WindowPlan,
        labels: &SymbolPairs,
        batch: &mut Batch,
        row: usize,
        annotations: &mut Annotations,
    ) -> Result<(), QueryError> {
        let name = value_of(labels, cx.names.metric);
        let mut notes = SeriesNotes { annotations, symbols: &cx.store.symbols, name, span: self.span };
        let mut histograms = HistogramColumn::default();
        let mut out = batch.row_mut(row);
        if points.histograms.is_empty() {
            if let Some(values) = points.floats {
                self.fill_floats(cx, scratch, points, values, plan, &mut out, &mut histograms, &mut notes)?;
            }
            self.count(plan);
        } else {
            let values = match points.floats {
                Some(ColumnValues::Each(values)) => values,
                Some(ColumnValues::Constant(value)) => repeat(scratch, value, points.float_times.len()),
                None => &[],
            };
            self.fill_mixed(cx, points, values, plan, &mut out, &mut histograms, &mut notes)?;
        }
        out.finish();
        let has_floats = out.present.iter().any(|&word| word != 0);
        batch.set_histograms(row, histograms);
        if has_floats && self.function.expects_counter() {
            let metric = (name, value_of(labels, cx.names.kind));
            if *noted != Some(metric) {
                *noted = Some(metric);
                note_non_counter(cx, metric, &mut notes);
            }
        }
        Ok(())
    }

    /// Counts the samples of all windows of a series of floats.
    fn count(&self, plan: &WindowPlan) {
        if !self.scope.tells_steps() {
            self.scope.add(plan.n_total, if self.counts_reads { plan.n_read } else { 0 });
            return;
        }
        let mut before = 0;
        for (step, (&low, &high)) in plan.low.iter().zip(&plan.high).enumerate() {
            self.count_step(step, u64::from(high - low), u64::from(high - low.max(before)));
            before = high;
        }
    }

    fn count_step(&self, step: usize, n_total: u64, n_read: u64) {
        self.scope.add_step(step, n_total, if self.counts_reads { n_read } else { 0 });
    }

    #[expect(clippy::too_many_arguments, reason = "one call a row: what it reads, and where it goes")]
    fn fill_floats(
        &self,
        cx: &Cx<'_>,
        scratch: &mut Vec<f64>,
        points: &SeriesPoints<'_>,
        values: ColumnValues<'_>,
        plan: &WindowPlan,
        out: &mut RowMut<'_>,
        histograms: &mut HistogramColumn,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<(), QueryError> {
        let column = FloatColumn {
            times: points.float_times,
            values,
            starts: points.float_starts,
            low: &plan.low,
            high: &plan.high,
            geometry: &plan.geometry,
            factors: &plan.factors,
            filled: &plan.filled,
            pairs: &plan.pairs,
            range_s: seconds(self.range_ms),
            extension: self.extension,
        };
        if self.function.column(&column, out, notes)? {
            return Ok(());
        }
        let values = match values {
            ColumnValues::Each(values) => values,
            ColumnValues::Constant(value) => repeat(scratch, value, points.float_times.len()),
        };
        let mut n_unchecked = 0;
        for (step, low, high) in column.windows(1) {
            check_work(cx, &mut n_unchecked, high - low)?;
            let floats = float_points(points, values, low, high);
            let window = self.window(step, floats, HistogramPoints::default());
            store(self.function.window(&window, notes)?, step, out, histograms);
        }
        Ok(())
    }

    /// Windows of a series that holds histograms, perhaps besides floats.
    #[expect(clippy::too_many_arguments, reason = "one call a row: what it reads, and where it goes")]
    fn fill_mixed(
        &self,
        cx: &Cx<'_>,
        points: &SeriesPoints<'_>,
        values: &[f64],
        float_plan: &WindowPlan,
        out: &mut RowMut<'_>,
        histograms: &mut HistogramColumn,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<(), QueryError> {
        let plan = self.plan(points.histogram_times);
        // Sizes of all histograms before each.
        let mut sizes = vec![0];
        for h in points.histograms {
            sizes.push(sizes[sizes.len() - 1] + histogram_samples(h));
        }
        let (mut before, mut n_unchecked) = (0, 0);
        for step in 0..self.grid.n_steps {
            let (low, high) = (plan.low[step] as usize, plan.high[step] as usize);
            self.count_step(step, sizes[high] - sizes[low], sizes[high] - sizes[low.max(before)]);
            before = high;
            let (float_low, float_high) = match float_plan.low.get(step) {
                Some(&float_low) => (float_low as usize, float_plan.high[step] as usize),
                None => (0, 0),
            };
            if low == high && float_low == float_high {
                continue;
            }
            check_work(cx, &mut n_unchecked, high - low + float_high - float_low)?;
            let window = self.window(
                step,
                float_points(points, values, float_low, float_high),
                HistogramPoints {
                    times: &points.histogram_times[low..high],
                    values: &points.histograms[low..high],
                    starts: slice_or_empty(points.histogram_starts, low, high),
                },
            );
            store(self.function.window(&window, notes)?, step, out, histograms);
        }
        self.count(float_plan);
        Ok(())
    }

    fn window<'a>(
        &self,
        step: usize,
        floats: FloatPoints<'a>,
        histograms: HistogramPoints<'a>,
    ) -> Window<'a> {
        let time = self.grid.time(step);
        let end = self.time.at(time);
        Window {
            step,
            time,
            start: end - self.range_ms,
            end,
            range_s: seconds(self.range_ms),
            extension: self.extension,
            floats,
            histograms,
        }
    }
}

/// The first position from `from` on of a time after `limit`. Scrapes are regular, so it mostly lies as far on as the last
/// time, which two comparisons tell.
pub(super) fn advance(times: &[i64], from: usize, limit: i64, stride: &mut usize) -> usize {
    let guess = from + *stride;
    let is_before = |at: usize| times.get(at).is_none_or(|&time| time <= limit);
    if guess <= times.len()
        && (guess == from || is_before(guess - 1))
        && (guess == times.len() || !is_before(guess))
    {
        return guess;
    }
    let n = times[from..].iter().take_while(|&&time| time <= limit).count();
    *stride = n;
    from + n
}

/// Looks at the clock every so many samples: one row can hold many long windows.
fn check_work(cx: &Cx<'_>, n_unchecked: &mut usize, n_samples: usize) -> Result<(), QueryError> {
    *n_unchecked += n_samples;
    if *n_unchecked > SAMPLES_PER_CHECK {
        *n_unchecked = 0;
        cx.check()?;
    }
    Ok(())
}

fn repeat(scratch: &mut Vec<f64>, value: f64, n: usize) -> &[f64] {
    scratch.clear();
    scratch.resize(n, value);
    scratch
}

fn slice_or_empty(values: &[i64], low: usize, high: usize) -> &[i64] {
    if values.is_empty() { values } else { &values[low..high] }
}

fn float_points<'a>(
    points: &SeriesPoints<'a>,
    values: &'a [f64],
    low: usize,
    high: usize,
) -> FloatPoints<'a> {
    FloatPoints {
        times: &points.float_times[low..high],
        values: &values[low..high],
        starts: slice_or_empty(points.float_starts, low, high),
    }
}

fn store(value: Option<SampleValue>, step: usize, out: &mut RowMut<'_>, histograms: &mut HistogramColumn) {
    match value {
        None => {}
        Some(SampleValue::Float(value)) => out.set(step, value),
        Some(SampleValue::Histogram(h)) => histograms.push(step, h),
    }
}

/// Notes a metric that does not look like a counter.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `eval`.
fn note_non_counter(cx: &Cx<'_>, (name, kind): NotedMetric, notes: &mut SeriesNotes<'_>) {
    let name = cx.store.symbols.resolve(name);
    if name.is_empty() {
        return;
    }
    if cx.features.type_and_unit_labels {
        let type_label = cx.store.symbols.resolve(kind);
        if &*type_label != "counter" && &*type_label != "histogram" {
            notes.add(Annotation::PossibleNonCounterLabel { name, type_label });
        }
    } else if !["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix)) {
        notes.add(Annotation::PossibleNonCounter(name));
    }
}

/// Rows of a window function over a range selector.
pub(crate) struct Windows {
    pub(crate) call: WindowCall,
    pub(crate) plans: PlanCache<WindowPlan>,
    pub(crate) start_timestamps: bool,
}

impl RowSource for Windows {
    type Scratch = WindowScratch;

    fn weight(&self) -> usize {
        self.call.function.weight()
    }

    fn fill(
        &self,
        cx: &Cx<'_>,
        scratch: &mut Self::Scratch,
        samples: &SampleBatch,
        at: usize,
        labels: &SymbolPairs,
        batch: &mut Batch,
        row: usize,
        notes: &mut Annotations,
    ) -> Result<(), QueryError> {
        let series = &samples.series[at];
        let times = &series.timestamps.times;
        let starts = match &series.start_timestamps {
            Some(starts) if self.start_timestamps => &starts[..],
            _ => &[],
        };
        let WindowScratch { last, values: scratch_values, noted } = scratch;
        if series.stale.is_empty() && series.histograms.is_none() {
            let floats = match &series.floats {
                Floats::None => return Ok(()),
                Floats::Constant(value) => ColumnValues::Constant(*value),
                Floats::Values(range) => ColumnValues::Each(floats_of(samples, range)),
            };
            let size_bytes = self.call.plan_bytes();
            let plan =
                self.plans.get(cx, last, &series.timestamps, size_bytes, |times| self.call.plan(times))?;
            let points = SeriesPoints {
                float_times: times,
                floats: Some(floats),
                float_starts: starts,
                ..SeriesPoints::default()
            };
            return self.call.fill_row(cx, scratch_values, noted, &points, plan, labels, batch, row, notes);
        }
        let owned = OwnedPoints::new(samples, at, starts);
        let plan = self.call.plan(&owned.float_times);
        self.call.fill_row(cx, scratch_values, noted, &owned.view(), &plan, labels, batch, row, notes)
    }
}

/// The samples of a series that cannot be used as they lie: kinds are mixed, or some are stale.
#[derive(Default)]
pub(crate) struct OwnedPoints {
    pub(crate) float_times: Vec<i64>,
    pub(crate) floats: Vec<f64>,
    pub(crate) float_starts: Vec<i64>,
    pub(crate) histogram_times: Vec<i64>,
    pub(crate) histograms: Vec<Arc<FloatHistogram>>,
    pub(crate) histogram_starts: Vec<i64>,
}

impl OwnedPoints {
    /// `starts` is empty if start timestamps are not used.
    pub(crate) fn new(samples: &SampleBatch, at: usize, starts: &[i64]) -> Self {
        let series = &samples.series[at];
        let times = &series.timestamps.times;
        if series.stale.is_empty() && series.histograms.is_none() {
            let floats = match &series.floats {
                Floats::None => return Self::default(),
                Floats::Constant(value) => vec![*value; times.len()],
                Floats::Values(range) => floats_of(samples, range).to_vec(),
            };
            return Self {
                float_times: times.clone(),
                floats,
                float_starts: starts.to_vec(),
                ..Self::default()
            };
        }
        let kinds = Kinds::new(series);
        let mut points = Self::default();
        let mut stale = series.stale.iter().copied().peekable();
        for (position, &time) in times.iter().enumerate() {
            if stale.peek() == Some(&(position as u32)) {
                stale.next();
                continue;
            }
            match kinds.find(position) {
                Place::Float(index) => {
                    let value = match &series.floats {
                        Floats::None => continue,
                        Floats::Constant(value) => *value,
                        Floats::Values(range) => floats_of(samples, range)[index],
                    };
                    points.float_times.push(time);
                    points.floats.push(value);
                    points.float_starts.extend(starts.get(position));
                }
                Place::Histogram(index) => {
                    points.histogram_times.push(time);
                    points.histograms.push(Arc::clone(&samples.histograms[index]));
                    points.histogram_starts.extend(starts.get(position));
                }
            }
        }
        points
    }

    pub(crate) fn view(&self) -> SeriesPoints<'_> {
        SeriesPoints {
            float_times: &self.float_times,
            floats: Some(ColumnValues::Each(&self.floats)),
            float_starts: &self.float_starts,
            histogram_times: &self.histogram_times,
            histograms: &self.histograms,
            histogram_starts: &self.histogram_starts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_found_whatever_the_gaps() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for round in 0..200 {
            let mut time = 0;
            let times: Vec<i64> = (0..random(60))
                .map(|_| {
                    // Mostly regular, with jitter, gaps and bursts.
                    time += [15, 15, 15, 14 + random(3), 1, 90][random(6) as usize] as i64;
                    time
                })
                .collect();
            let (mut limit, interval, mut from, mut stride) = (random(50) as i64, random(80) as i64, 0, 0);
            for _ in 0..40 {
                from = advance(&times, from, limit, &mut stride);
                assert_eq!(
                    from,
                    times.partition_point(|&time| time <= limit),
                    "round {round}: {times:?}, {limit}"
                );
                limit += interval;
            }
        }
    }
}
