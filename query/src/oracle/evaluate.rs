//! Evaluation of the tree, step by step over plain vectors.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `eval` and what it calls.

use super::data::{Buffered, Data, Memoized, Point, Window};
use super::notes::Notes;
use super::tree::{Kind, Node, Selector, Subquery, Time, set_offsets};
use super::windows::Call;
use super::{aggregate, binary, functions, info, windows};
use crate::annotations::Annotation;
use crate::parser::ast::VectorMatching;
use crate::parser::{Function, Span, ValueType};
use crate::stats::histogram_samples;
use crate::value::SampleValue;
use chronolith_model::{CounterResetHint, FloatHistogram, Labels, METRIC_NAME};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// The text of the error of series with equal labels.
pub(super) const SAME_LABELSET: &str = "vector cannot contain metrics with the same labelset";

/// A series of results.
#[derive(Clone, Default)]
pub(super) struct Series {
    pub(super) labels: Rc<Labels>,
    pub(super) floats: Vec<(i64, f64)>,
    pub(super) histograms: Vec<(i64, Arc<FloatHistogram>)>,
    /// The name goes at the end of the query.
    pub(super) drop_name: bool,
}

impl Series {
    pub(super) fn new(labels: &Rc<Labels>, drop_name: bool) -> Self {
        Self { labels: Rc::clone(labels), drop_name, ..Self::default() }
    }

    pub(super) fn push(&mut self, t: i64, value: SampleValue) {
        match value {
            SampleValue::Float(value) => self.floats.push((t, value)),
            SampleValue::Histogram(histogram) => self.histograms.push((t, histogram)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.floats.len() + self.histograms.len()
    }

    /// The sample at `t`.
    pub(super) fn at(&self, t: i64) -> Option<SampleValue> {
        if let Ok(at) = self.floats.binary_search_by_key(&t, |(t, _)| *t) {
            return Some(SampleValue::Float(self.floats[at].1));
        }
        let at = self.histograms.binary_search_by_key(&t, |(t, _)| *t).ok()?;
        Some(SampleValue::Histogram(Arc::clone(&self.histograms[at].1)))
    }
}

/// A sample of a step.
#[derive(Clone)]
pub(super) struct Sample {
    pub(super) labels: Rc<Labels>,
    /// The time of the step, or of the stored sample for `timestamp`.
    pub(super) t: i64,
    pub(super) value: SampleValue,
    pub(super) drop_name: bool,
    /// Where its series stands among those of a range query: Prometheus keeps them in a map there, so that any
    /// order is right.
    pub(super) order: u64,
}

impl Sample {
    pub(super) fn float(&self) -> Option<f64> {
        self.value.as_float()
    }
}

/// A scalar, or a sample without labels.
pub(super) fn bare(value: f64) -> Sample {
    Sample { labels: Rc::default(), t: 0, value: SampleValue::Float(value), drop_name: false, order: 0 }
}

pub(super) type Matrix = Vec<Series>;

/// What all parts of a query share.
pub(super) struct Cx<'d> {
    pub(super) data: &'d Data,
    pub(super) lookback: i64,
    pub(super) default_step: i64,
    pub(super) delayed: bool,
    pub(super) type_and_unit: bool,
    pub(super) use_start: bool,
}

impl Cx<'_> {
    /// Labels of a result that has no name, if names go at once.
    pub(super) fn nameless(&self, labels: &Rc<Labels>) -> Rc<Labels> {
        if self.delayed { Rc::clone(labels) } else { without_metadata(labels) }
    }
}

/// Whether a label tells what a metric is.
pub(super) fn is_metadata(name: &str) -> bool {
    matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

pub(super) fn without_metadata(labels: &Rc<Labels>) -> Rc<Labels> {
    if !labels.iter().any(|(name, _)| is_metadata(name)) {
        return Rc::clone(labels);
    }
    let mut builder = labels.to_builder();
    builder.retain(|name, _| !is_metadata(name));
    Rc::new(builder.build())
}

/// Samples looked at and read.
#[derive(Default)]
pub(super) struct Stats {
    pub(super) total: u64,
    pub(super) read: u64,
    /// Samples read by step, inside subqueries.
    read_at: Option<Vec<u64>>,
}

impl Stats {
    fn add_read(&mut self, step: usize, n: u64) {
        self.read += n;
        if let Some(read_at) = &mut self.read_at {
            read_at[step] += n;
        }
    }
}

/// Evaluates over the steps `start, start + interval ..= end`.
pub(super) struct Evaluator<'d> {
    pub(super) cx: &'d Cx<'d>,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) interval: i64,
    pub(super) stats: Stats,
}

impl<'d> Evaluator<'d> {
    pub(super) fn new(cx: &'d Cx<'d>, start: i64, end: i64, interval: i64) -> Self {
        Self { cx, start, end, interval, stats: Stats::default() }
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = i64> + use<> {
        (self.start..=self.end).step_by(self.interval as usize)
    }

    pub(super) fn n_steps(&self) -> usize {
        ((self.end - self.start) / self.interval) as usize + 1
    }

    /// The value of anything but a string.
    pub(super) fn eval(&mut self, node: &Node, notes: &mut Notes) -> Result<Matrix, String> {
        if self.end < self.start {
            return Ok(Matrix::new());
        }
        match &node.kind {
            Kind::Aggregate { .. } => aggregate::eval(self, node, notes),
            Kind::Binary { op, lhs, rhs, matching, return_bool } => {
                let op = binary::Operation { op: *op, return_bool: *return_bool, span: node.span };
                binary::eval(self, op, lhs, rhs, matching.as_ref(), notes)
            }
            Kind::Call { function, args } => self.call(*function, args, node.span, notes),
            Kind::Matrix { selector, range_ms } => self.range_selector(selector, *range_ms),
            Kind::Number(value) => self.steps_of(None, &[], notes, |_, _, _, _| Ok(vec![bare(*value)])),
            Kind::Paren(inner) => self.eval(inner, notes),
            Kind::String(_) => Ok(Matrix::new()),
            Kind::Subquery(subquery) => {
                let (matrix, child) = self.run_subquery(subquery, notes)?;
                self.stats.total += child.stats.total;
                self.merge_read(&child, 0, 0);
                Ok(matrix)
            }
            Kind::Unary { negate, expr } => {
                let matrix = self.eval(expr, notes)?;
                if *negate { self.negated(matrix) } else { Ok(matrix) }
            }
            Kind::Vector(selector) if selector.smoothed => Ok(self.smoothed(selector, node.span, notes)),
            Kind::Vector(selector) => {
                let series: Vec<_> = self.cx.data.select(&selector.matchers).collect();
                let at = selector.time.timestamp.map(|_| self.start);
                self.lookups(&series, selector.skip_buckets, selector.time.offset.get(), at, false)
            }
            Kind::StepInvariant(inner) => self.step_invariant(inner, notes),
        }
    }

    /// Looks back from every step, or from `at` at every step. Samples of `info` metrics become their times.
    pub(super) fn lookups(
        &mut self,
        series: &[&'d (Rc<Labels>, Vec<Point>)],
        skip_buckets: bool,
        offset: i64,
        at: Option<i64>,
        info: bool,
    ) -> Result<Matrix, String> {
        let lookback = self.cx.lookback;
        let mut matrix = Matrix::new();
        for (labels, points) in series {
            let first = at.unwrap_or(self.start) - offset;
            let mut reader = Memoized::new(points, skip_buckets, first - lookback + 1, lookback);
            let mut row = Series::new(labels, false);
            for (step, ts) in self.steps().enumerate() {
                let reference = at.unwrap_or(ts) - offset;
                let Some(point) = reader.lookup(reference, lookback) else { continue };
                let n = match &point.value {
                    SampleValue::Float(_) => 1,
                    SampleValue::Histogram(_) if info => {
                        return Err(format!("this should be an info metric, with float samples: {labels}"));
                    }
                    SampleValue::Histogram(histogram) => histogram_samples(histogram),
                };
                self.stats.total += n;
                self.stats.add_read(step, n);
                let value = if info { SampleValue::Float(point.t as f64) } else { point.value };
                row.push(ts, value);
            }
            if row.len() > 0 {
                matrix.push(row);
            }
        }
        Ok(matrix)
    }

    /// A selector whose samples are joined by lines.
    fn smoothed(&self, selector: &Selector, span: Span, notes: &mut Notes) -> Matrix {
        let (offset, lookback) = (selector.time.offset.get(), self.cx.lookback);
        let mut matrix = Matrix::new();
        for (labels, points) in self.cx.data.select(&selector.matchers) {
            let delta = self.end - self.start + 2 * lookback;
            let mint = self.start - offset - lookback + 1;
            let mut reader = Buffered::new(points, selector.skip_buckets, mint, delta);
            let mut window = Window::default();
            let mut row = Series::new(labels, false);
            for ts in self.steps() {
                let data_time = selector.time.timestamp.map_or(ts, |_| self.start) - offset;
                reader.window(data_time - lookback, data_time + lookback, &mut window);
                let name = labels.metric_name();
                if let Some(value) = windows::smooth(&window, data_time, name, span, notes) {
                    row.push(ts, value);
                }
            }
            if row.len() > 0 {
                matrix.push(row);
            }
        }
        matrix
    }

    /// The samples of a range selector at the only step.
    fn range_selector(&mut self, selector: &Selector, range_ms: i64) -> Result<Matrix, String> {
        if self.start != self.end {
            return Err("cannot do range evaluation of matrix selector".to_owned());
        }
        let end = self.start - selector.time.offset.get();
        let start = end - range_ms;
        let (before, after) = self.extension(selector);
        let mut matrix = Matrix::new();
        for (labels, points) in self.cx.data.select(&selector.matchers) {
            let mut window = Window::default();
            let buffered = range_ms + before + after;
            let mut reader = Buffered::new(points, selector.skip_buckets, start - before + 1, buffered);
            reader.window(start - before, end + after, &mut window);
            let mut row = Series::new(labels, false);
            if selector.anchored || selector.smoothed {
                if !window.histograms.is_empty() {
                    let word = if selector.anchored { "anchored" } else { "smoothed" };
                    return Err(format!("{word} modifier is not supported with histograms"));
                }
                row.floats = windows::extend_floats(&floats_of(&window), start, end, selector.smoothed);
            } else {
                row.floats = floats_of(&window);
                row.histograms = histograms_of(&window);
            }
            let n = samples_in(&row.floats, &row.histograms);
            self.stats.total += n;
            self.stats.add_read(0, n);
            if n > 0 {
                matrix.push(row);
            }
        }
        Ok(matrix)
    }

    /// How far windows reach beyond their range, before and after.
    fn extension(&self, selector: &Selector) -> (i64, i64) {
        let lookback = self.cx.lookback;
        match (selector.anchored, selector.smoothed) {
            (true, _) => (lookback, 0),
            (_, true) => (lookback, lookback),
            _ => (0, 0),
        }
    }

    fn negated(&self, mut matrix: Matrix) -> Result<Matrix, String> {
        for row in &mut matrix {
            row.labels = self.cx.nameless(&row.labels);
            row.drop_name = true;
            row.floats.iter_mut().for_each(|(_, value)| *value = -*value);
            for (_, histogram) in &mut row.histograms {
                Arc::make_mut(histogram).mul(-1.0);
            }
        }
        if self.cx.delayed { Ok(matrix) } else { merge_same_labels(matrix) }
    }

    fn step_invariant(&mut self, inner: &Node, notes: &mut Notes) -> Result<Matrix, String> {
        let mut child = Evaluator::new(self.cx, self.start, self.start, self.interval);
        let mut matrix = child.eval(inner, notes)?;
        self.stats.total += child.stats.total * self.n_steps() as u64;
        self.stats.add_read(0, child.stats.read);
        if matches!(inner.kind, Kind::Matrix { .. } | Kind::Subquery(_)) {
            return Ok(matrix);
        }
        for row in &mut matrix {
            let value = row.at(self.start).expect("one sample at the only step");
            for ts in self.steps().skip(1) {
                row.push(ts, value.clone());
            }
        }
        Ok(matrix)
    }

    /// Start, end and interval of a subquery.
    fn subquery_steps(&self, subquery: &Subquery) -> (i64, i64, i64) {
        let offset = subquery.time.offset.get();
        let parent_end = self.start + (self.end - self.start) / self.interval * self.interval;
        let interval = if subquery.step_ms == 0 { self.cx.default_step } else { subquery.step_ms };
        let from = self.start - offset - subquery.range_ms;
        let mut start = interval * (from / interval);
        if start <= from {
            start += interval;
        }
        let end = match subquery.time.timestamp {
            // Upstream goes on where the parent does, although all its steps look at the first window.
            Some(_) => self.start - offset,
            None => parent_end - offset,
        };
        (start, end, interval)
    }

    fn run_subquery(
        &mut self,
        subquery: &Subquery,
        notes: &mut Notes,
    ) -> Result<(Matrix, Evaluator<'d>), String> {
        let (start, end, interval) = self.subquery_steps(subquery);
        let mut child = Evaluator::new(self.cx, start, end, interval);
        if end >= start {
            child.stats.read_at = Some(vec![0; child.n_steps()]);
        }
        // Upstream does not where both start at the same time, and then reads at another time than `@` says if
        // the subquery has an offset: we do not.
        set_offsets(start, &subquery.expr);
        let matrix = child.eval(&subquery.expr, notes)?;
        Ok((matrix, child))
    }

    /// Takes over the samples that a subquery read, but for those between the windows of this evaluator.
    fn merge_read(&mut self, child: &Evaluator<'_>, outer_offset: i64, outer_range: i64) {
        let n_steps = self.n_steps();
        if n_steps <= 1 {
            self.stats.add_read(0, child.stats.read);
            return;
        }
        for (k, &n) in child.stats.read_at.iter().flatten().enumerate() {
            let t = child.start + k as i64 * child.interval + outer_offset;
            let mut step = 0;
            if t > self.start {
                step = (t - self.start + self.interval - 1) / self.interval;
            }
            let step = step.min(n_steps as i64 - 1);
            if n == 0 || (outer_range > 0 && t <= self.start + step * self.interval - outer_range) {
                continue;
            }
            self.stats.add_read(step as usize, n);
        }
    }

    fn call(
        &mut self,
        function: Function,
        args: &[Node],
        span: Span,
        notes: &mut Notes,
    ) -> Result<Matrix, String> {
        if let (Function::Timestamp | Function::StartTimestamp, Some(Kind::Vector(selector))) =
            (function, args.first().map(|arg| &arg.kind))
        {
            return self.times(function, selector, notes);
        }
        for (at, arg) in args.iter().enumerate() {
            match &arg.kind {
                Kind::Matrix { selector, range_ms } => {
                    let source = Source::Stored(selector);
                    let range_ms = *range_ms;
                    let call = Call { function, args, matrix: at, range_ms, span: arg.span };
                    return self.over_windows(
                        &call,
                        &source,
                        &selector.time,
                        selector.time.offset.get(),
                        notes,
                    );
                }
                Kind::Subquery(subquery) => {
                    let (matrix, child) = self.run_subquery(subquery, notes)?;
                    match subquery.time.timestamp {
                        // Upstream drops what lies before the window of the step, which `@` does not mean.
                        Some(_) => self.stats.add_read(0, child.stats.read),
                        None => self.merge_read(&child, subquery.time.original_offset, subquery.range_ms),
                    }
                    let offset = match subquery.time.timestamp {
                        Some(timestamp) => subquery.time.original_offset + (self.start - timestamp),
                        None => subquery.time.offset.get(),
                    };
                    let series = matrix.into_iter().map(|row| {
                        let points = points_of(&row);
                        (row.labels, points, row.drop_name)
                    });
                    let source = Source::Evaluated(series.collect());
                    let range_ms = subquery.range_ms;
                    // What replaces the subquery stands nowhere.
                    let call = Call { function, args, matrix: at, range_ms, span: Span::default() };
                    return self.over_windows(&call, &source, &subquery.time, offset, notes);
                }
                _ => {}
            }
        }
        match function {
            Function::LabelReplace => return functions::label_replace(self, args, notes),
            Function::LabelJoin => return functions::label_join(self, args, notes),
            Function::Info => return info::eval(self, args, notes),
            _ => {}
        }
        let sorts_range = self.start != self.end
            && matches!(
                function,
                Function::Sort | Function::SortDesc | Function::SortByLabel | Function::SortByLabelDesc
            );
        let inputs: Vec<&Node> = args.iter().collect();
        let cx = self.cx;
        self.steps_of(None, &inputs, notes, |vectors, _, ts, notes| {
            if sorts_range {
                notes.add(Annotation::SortInRangeQuery, span);
            }
            functions::call(cx, function, args, vectors, ts, notes)
        })
    }

    /// `timestamp` and `start_timestamp` of a selector.
    fn times(
        &mut self,
        function: Function,
        selector: &Selector,
        notes: &mut Notes,
    ) -> Result<Matrix, String> {
        let cx = self.cx;
        let mut readers: Vec<(u64, &Rc<Labels>, Memoized<'_>)> = Vec::new();
        for (order, (labels, points)) in cx.data.select(&selector.matchers).enumerate() {
            // What was selected knows the offset that is forgotten below.
            let selected = match selector.time.timestamp {
                Some(timestamp) => {
                    let last = timestamp - selector.time.original_offset;
                    let up_to = |t: i64| points.partition_point(|point| point.t <= t);
                    &points[up_to(last - cx.lookback)..up_to(last)]
                }
                None => &points[..],
            };
            readers.push((order as u64, labels, Memoized::new(selected, false, i64::MIN, cx.lookback - 1)));
        }
        let mut found_at: Vec<u64> = Vec::new();
        let matrix = self.steps_of(None, &[], notes, |_, _, ts, _| {
            let offset =
                selector.time.timestamp.map_or(selector.time.offset.get(), |timestamp| ts - timestamp);
            let mut out = Vec::new();
            found_at.push(0);
            for (order, labels, reader) in &mut readers {
                let Some(point) = reader.lookup(ts - offset, cx.lookback) else { continue };
                *found_at.last_mut().expect("pushed above") += 1;
                let time = match function {
                    Function::Timestamp => point.t,
                    _ if cx.use_start => point.start,
                    _ => continue,
                };
                let value = SampleValue::Float(time as f64 / 1000.0);
                let labels = cx.nameless(labels);
                out.push(Sample { labels, t: ts, value, drop_name: true, order: *order });
            }
            Ok(out)
        });
        for (step, n) in found_at.into_iter().enumerate() {
            self.stats.total += n;
            self.stats.add_read(step, n);
        }
        matrix
    }

    /// Calls a function of a window for every series and step.
    fn over_windows(
        &mut self,
        call: &Call<'_>,
        source: &Source<'_>,
        time: &Time,
        offset: i64,
        notes: &mut Notes,
    ) -> Result<Matrix, String> {
        let cx = self.cx;
        let mut scalars: Vec<Matrix> = Vec::new();
        for (at, arg) in call.args.iter().enumerate() {
            if at != call.matrix {
                scalars.push(self.eval(arg, notes)?);
            }
        }
        let (anchored, smoothed) = match source {
            Source::Stored(selector) => (selector.anchored, selector.smoothed),
            Source::Evaluated(_) => (false, false),
        };
        let name = call.function.name();
        let counters = ["delta", "increase", "rate"];
        if anchored && !counters.contains(&name) && !["changes", "resets"].contains(&name) {
            return Err(format!(
                "anchored modifier can only be used with: changes, delta, increase, rate, resets - not with {name}"
            ));
        }
        if smoothed && !counters.contains(&name) {
            return Err(format!(
                "smoothed modifier can only be used with: delta, increase, rate - not with {name}"
            ));
        }
        let (before, after) = match source {
            Source::Stored(selector) => self.extension(selector),
            Source::Evaluated(_) => (0, 0),
        };
        let buffered = call.range_ms + before + after;
        let uses_start = cx.use_start
            && matches!(
                call.function,
                Function::Rate | Function::Irate | Function::Increase | Function::Resets
            );
        let drops_name = !matches!(call.function, Function::LastOverTime | Function::FirstOverTime);
        let selected: Vec<(&Rc<Labels>, &[Point], bool, bool)> = match source {
            Source::Stored(selector) => cx
                .data
                .select(&selector.matchers)
                .map(|(labels, points)| (labels, &points[..], false, selector.skip_buckets))
                .collect(),
            Source::Evaluated(series) => series
                .iter()
                .map(|(labels, points, drop_name)| (labels, &points[..], *drop_name, false))
                .collect(),
        };
        let mut matrix = Matrix::new();
        for (labels, points, input_drops_name, skip_buckets) in selected {
            let drop_name = drops_name || input_drops_name;
            let out_labels = if drop_name { cx.nameless(labels) } else { Rc::clone(labels) };
            let mut row = Series::new(&out_labels, drop_name);
            let mint = self.start - offset - call.range_ms - before + 1;
            let mut reader = Buffered::new(points, skip_buckets, mint, buffered);
            let mut window = Window::default();
            for (step, ts) in self.steps().enumerate() {
                let params: Vec<f64> = scalars.iter().map(|scalar| scalar[0].floats[step].1).collect();
                let refetch = step == 0 || time.timestamp.is_none();
                // Upstream lets the edges of a window move on where its samples are fixed by `@`, which is
                // seen in parameters of aggregations only: we do not.
                let end = if time.timestamp.is_some() { self.start } else { ts } - offset;
                let maxt = end + after;
                if refetch {
                    reader.window(end - call.range_ms - before, maxt, &mut window);
                }
                if window.floats.is_empty() && window.histograms.is_empty() {
                    continue;
                }
                let frame = windows::Frame {
                    call,
                    labels,
                    ts,
                    start: end - call.range_ms,
                    end,
                    anchored,
                    smoothed,
                    uses_start,
                    params: &params,
                };
                let value = windows::call(&frame, &window, notes)?;
                let all = samples_in(&floats_of(&window), &histograms_of(&window));
                self.stats.total += all;
                if refetch && matches!(source, Source::Stored(_)) {
                    let new =
                        if step == 0 { all } else { window_samples_after(&window, maxt - self.interval) };
                    self.stats.add_read(step, new);
                }
                if let Some(value) = value {
                    row.push(ts, value);
                }
                reader.reduce_delta(buffered.min(self.interval));
            }
            if matches!(call.function, Function::Rate | Function::Increase) && !row.floats.is_empty() {
                windows::note_non_counter(cx.type_and_unit, labels, call.span, notes);
            }
            if row.len() > 0 {
                matrix.push(row);
            }
        }
        if call.function == Function::AbsentOverTime {
            return Ok(self.absent(&matrix, functions::absent_labels(&call.args[call.matrix])));
        }
        if !cx.delayed && has_same_labels(&matrix) {
            return Err(SAME_LABELSET.to_owned());
        }
        Ok(matrix)
    }

    /// A series with 1 where none of `matrix` has a sample.
    fn absent(&self, matrix: &Matrix, labels: Labels) -> Matrix {
        let mut row = Series::new(&Rc::new(labels), true);
        for ts in self.steps() {
            if matrix.iter().all(|series| series.at(ts).is_none()) {
                row.floats.push((ts, 1.0));
            }
        }
        if row.floats.is_empty() { Matrix::new() } else { vec![row] }
    }

    /// The samples of all series of one step.
    pub(super) fn gather(matrix: &Matrix, ts: i64) -> (Vec<Sample>, Vec<usize>) {
        let samples = matrix.iter().enumerate().filter_map(|(at, row)| {
            let (labels, drop_name) = (Rc::clone(&row.labels), row.drop_name);
            Some((Sample { labels, t: ts, value: row.at(ts)?, drop_name, order: at as u64 }, at))
        });
        samples.unzip()
    }

    /// Evaluates the arguments, then calls `call` at every step with their samples (and, for joins, with the
    /// numbers of their join signatures), and makes series of what it returns.
    pub(super) fn steps_of(
        &mut self,
        matching: Option<&VectorMatching>,
        args: &[&Node],
        notes: &mut Notes,
        mut call: impl FnMut(&[Vec<Sample>], &[Vec<usize>], i64, &mut Notes) -> Result<Vec<Sample>, String>,
    ) -> Result<Matrix, String> {
        let mut inputs: Vec<Matrix> = Vec::new();
        for arg in args {
            inputs.push(match arg.value_type {
                ValueType::String => Matrix::new(),
                _ => self.eval(arg, notes)?,
            });
        }
        let mut numbers: HashMap<Labels, usize> = HashMap::new();
        let signatures: Vec<Vec<usize>> = match matching {
            None => vec![Vec::new(); inputs.len()],
            Some(matching) => inputs
                .iter()
                .map(|matrix| {
                    let number = |row: &Series| {
                        let next = numbers.len();
                        *numbers.entry(signature(&row.labels, matching)).or_insert(next)
                    };
                    matrix.iter().map(number).collect()
                })
                .collect(),
        };
        self.series_of(|ts| {
            let mut vectors = Vec::new();
            let mut present = Vec::new();
            for (matrix, signatures) in inputs.iter().zip(&signatures) {
                let (samples, at) = Self::gather(matrix, ts);
                vectors.push(samples);
                present.push(match matching {
                    Some(_) => at.into_iter().map(|at| signatures[at]).collect(),
                    None => Vec::new(),
                });
            }
            call(&vectors, &present, ts, notes)
        })
    }

    /// Makes series of the samples of every step.
    pub(super) fn series_of(
        &self,
        mut samples_at: impl FnMut(i64) -> Result<Vec<Sample>, String>,
    ) -> Result<Matrix, String> {
        if self.start < self.end {
            return self.series_of_steps(samples_at);
        }
        let rows = samples_at(self.start)?.into_iter().map(|sample| {
            let mut row = Series::new(&sample.labels, sample.drop_name);
            row.push(self.start, sample.value);
            row
        });
        let matrix: Matrix = rows.collect();
        if !self.cx.delayed && has_same_labels(&matrix) {
            return Err(SAME_LABELSET.to_owned());
        }
        Ok(matrix)
    }

    /// Like [`Evaluator::series_of`], a single step no other than several: labels must differ even where names are
    /// removed late.
    pub(super) fn series_of_steps(
        &self,
        mut samples_at: impl FnMut(i64) -> Result<Vec<Sample>, String>,
    ) -> Result<Matrix, String> {
        let mut matrix = Matrix::new();
        let mut orders: Vec<u64> = Vec::new();
        let mut by_labels: HashMap<Rc<Labels>, usize> = HashMap::new();
        for ts in self.steps() {
            for sample in samples_at(ts)? {
                let at = *by_labels.entry(Rc::clone(&sample.labels)).or_insert(matrix.len());
                if at == matrix.len() {
                    matrix.push(Series::new(&sample.labels, sample.drop_name));
                    orders.push(sample.order);
                } else if matrix[at].at(ts).is_some() {
                    return Err(SAME_LABELSET.to_owned());
                }
                orders[at] = orders[at].min(sample.order);
                matrix[at].push(ts, sample.value);
            }
        }
        let mut rows: Vec<(u64, Series)> = orders.into_iter().zip(matrix).collect();
        rows.sort_by_key(|(order, _)| *order);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }
}

/// What windows are read from.
enum Source<'n> {
    Stored(&'n Selector),
    Evaluated(Vec<(Rc<Labels>, Vec<Point>, bool)>),
}

/// The labels that must be equal for series to meet.
fn signature(labels: &Labels, matching: &VectorMatching) -> Labels {
    let mut builder = labels.to_builder();
    builder.retain(|name, _| {
        let listed = matching.labels.iter().any(|label| label == name);
        if matching.on { listed } else { !listed && name != METRIC_NAME }
    });
    builder.build()
}

pub(super) fn floats_of(window: &Window) -> Vec<(i64, f64)> {
    window.floats.iter().filter_map(|point| Some((point.t, point.value.as_float()?))).collect()
}

pub(super) fn histograms_of(window: &Window) -> Vec<(i64, Arc<FloatHistogram>)> {
    let histogram = |point: &Point| match &point.value {
        SampleValue::Histogram(histogram) => Some((point.t, Arc::clone(histogram))),
        SampleValue::Float(_) => None,
    };
    window.histograms.iter().filter_map(histogram).collect()
}

fn samples_in(floats: &[(i64, f64)], histograms: &[(i64, Arc<FloatHistogram>)]) -> u64 {
    floats.len() as u64 + histograms.iter().map(|(_, histogram)| histogram_samples(histogram)).sum::<u64>()
}

fn window_samples_after(window: &Window, t: i64) -> u64 {
    let floats = window.floats.iter().filter(|point| point.t > t).count() as u64;
    let histograms = histograms_of(window);
    let histograms = histograms.iter().filter(|(time, _)| *time > t);
    floats + histograms.map(|(_, histogram)| histogram_samples(histogram)).sum::<u64>()
}

/// The samples of a subquery: nothing is known about resets between them.
fn points_of(row: &Series) -> Vec<Point> {
    let float = |&(t, value): &(i64, f64)| Point { t, start: 0, value: SampleValue::Float(value) };
    let histogram = |(t, histogram): &(i64, Arc<FloatHistogram>)| {
        let mut histogram = Arc::clone(histogram);
        if matches!(histogram.counter_reset_hint, CounterResetHint::Reset | CounterResetHint::NotReset) {
            Arc::make_mut(&mut histogram).counter_reset_hint = CounterResetHint::Unknown;
        }
        Point { t: *t, start: 0, value: SampleValue::Histogram(histogram) }
    };
    let mut points: Vec<Point> =
        row.floats.iter().map(float).chain(row.histograms.iter().map(histogram)).collect();
    points.sort_by_key(|point| point.t);
    points
}

pub(super) fn has_same_labels(matrix: &Matrix) -> bool {
    let mut seen = std::collections::HashSet::new();
    !matrix.iter().all(|row| seen.insert(&row.labels))
}

/// Merges series with equal labels, which must not meet. Upstream lets a float and a histogram meet, and both go on;
/// we do not, except where nothing comes behind.
pub(super) fn merge_same_labels(matrix: Matrix) -> Result<Matrix, String> {
    let merged = merge_kinds(matrix)?;
    for row in &merged {
        let mut times: Vec<i64> = row.floats.iter().map(|(t, _)| *t).collect();
        times.extend(row.histograms.iter().map(|(t, _)| *t));
        times.sort_unstable();
        if times.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(SAME_LABELSET.to_owned());
        }
    }
    Ok(merged)
}

/// Merges series with equal labels; a float and a histogram may meet.
fn merge_kinds(matrix: Matrix) -> Result<Matrix, String> {
    if !has_same_labels(&matrix) {
        return Ok(matrix);
    }
    let mut merged = Matrix::new();
    let mut by_labels: HashMap<Rc<Labels>, usize> = HashMap::new();
    for row in matrix {
        let at = *by_labels.entry(Rc::clone(&row.labels)).or_insert(merged.len());
        if at == merged.len() {
            merged.push(row);
            continue;
        }
        merged[at].floats.extend(row.floats);
        merged[at].histograms.extend(row.histograms);
    }
    for row in &mut merged {
        row.floats.sort_by_key(|(t, _)| *t);
        row.histograms.sort_by_key(|(t, _)| *t);
        let floats = row.floats.windows(2).any(|pair| pair[0].0 == pair[1].0);
        if floats || row.histograms.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(SAME_LABELSET.to_owned());
        }
    }
    Ok(merged)
}

/// What is left of the value of a query once the names go whose removal was delayed.
pub(super) fn clean_up(mut matrix: Matrix) -> Result<Matrix, String> {
    for row in matrix.iter_mut().filter(|row| row.drop_name) {
        row.labels = without_metadata(&row.labels);
    }
    merge_kinds(matrix)
}
