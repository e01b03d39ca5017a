//! Aggregations.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `rangeEvalAgg`, `aggregation`, `aggregationK`,
//! `aggregationCountValues`, `handleAggregationError`; `promql/value.go`, `newFParams`.

use super::evaluate::{Evaluator, Matrix, Sample, Series};
use super::notes::Notes;
use super::tree::{Kind, Node};
use super::{go_max, go_min, kahan};
use crate::annotations::{Annotation, HistogramOperation};
use crate::go_format::{format_float, format_general};
use crate::parser::Span;
use crate::parser::ast::AggregateOp;
use crate::value::SampleValue;
use chronolith_model::{CounterResetHint, FloatHistogram, Labels, METRIC_NAME};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

pub(super) fn eval(evaluator: &mut Evaluator<'_>, node: &Node, notes: &mut Notes) -> Result<Matrix, String> {
    let Kind::Aggregate { op, expr, param, grouping, without } = &node.kind else {
        unreachable!("called for aggregations only")
    };
    let by = Grouping { names: grouping.clone(), without: *without };
    if *op == AggregateOp::CountValues {
        return count_values(evaluator, expr, param.as_deref(), by, notes);
    }
    let params = match param {
        Some(param) => Params::new(evaluator, param, notes)?,
        None => Params::default(),
    };
    let input = evaluator.eval(expr, notes)?;
    let spans =
        Spans { whole: node.span, expr: expr.span, param: param.as_ref().map_or(node.span, |p| p.span) };
    let mut group_of = Vec::new();
    let mut numbers: HashMap<Labels, usize> = HashMap::new();
    let mut output = Matrix::new();
    for row in &input {
        let labels = by.labels(&row.labels);
        let number = *numbers.entry(labels.clone()).or_insert(output.len());
        if number == output.len() {
            output.push(Series::new(&Rc::new(labels), false));
        }
        group_of.push(number);
    }
    let aggregation = Aggregation { op: *op, spans, input: &input, group_of: &group_of };
    match op {
        AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
            if !params.check(*op, &spans, notes)? {
                return Ok(Matrix::new());
            }
            let n_groups = output.len();
            let mut step = 0;
            evaluator.series_of(|ts| {
                step += 1;
                Ok(aggregation.choose(params.at(step - 1), ts, n_groups, notes))
            })
        }
        _ => {
            params.check(*op, &spans, notes)?;
            for (step, ts) in evaluator.steps().enumerate() {
                aggregation.fold(params.at(step), ts, &mut output, notes);
            }
            output.retain(|row| row.len() > 0);
            Ok(output)
        }
    }
}

/// `by` or `without`.
struct Grouping {
    names: Vec<String>,
    without: bool,
}

impl Grouping {
    /// The labels of the group that a series belongs to.
    fn labels(&self, labels: &Labels) -> Labels {
        let mut builder = labels.to_builder();
        builder.retain(|name, _| {
            let listed = self.names.iter().any(|label| label == name);
            if self.without { !listed && name != METRIC_NAME } else { listed }
        });
        builder.build()
    }
}

#[derive(Clone, Copy)]
struct Spans {
    whole: Span,
    expr: Span,
    param: Span,
}

/// The parameter, by step.
#[derive(Default)]
struct Params {
    values: Vec<f64>,
    min: f64,
    max: f64,
    any_nan: bool,
}

impl Params {
    fn new(evaluator: &mut Evaluator<'_>, param: &Node, notes: &mut Notes) -> Result<Self, String> {
        let matrix = evaluator.eval(param, notes)?;
        let Some(row) = matrix.first() else { return Ok(Self::default()) };
        let values: Vec<f64> = row.floats.iter().map(|(_, value)| *value).collect();
        let any_nan = values.iter().any(|value| value.is_nan());
        let (mut min, mut max) = (f64::MAX, f64::MIN);
        if let Kind::Number(value) = param.kind {
            (min, max) = (value, value);
        } else {
            for &value in &values {
                (min, max) = (go_min(min, value), go_max(max, value));
            }
        }
        Ok(Self { values, min, max, any_nan })
    }

    fn at(&self, step: usize) -> f64 {
        self.values.get(step).copied().unwrap_or(0.0)
    }

    /// Notes odd values; false if nothing can be chosen at any step.
    fn check(&self, op: AggregateOp, spans: &Spans, notes: &mut Notes) -> Result<bool, String> {
        match op {
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk => {
                if self.max < 1.0 {
                    return Ok(false);
                }
                if self.any_nan {
                    return Err("Parameter value is NaN".to_owned());
                }
                if self.min <= -9_223_372_036_854_775_808.0 {
                    return Err(format!("Scalar value {} underflows int64", format_general(self.min)));
                }
                // The largest float below 2^63, see `maxInt64`.
                if self.max >= 9_223_372_036_854_774_784.0 {
                    return Err(format!("Scalar value {} overflows int64", format_general(self.max)));
                }
            }
            AggregateOp::LimitRatio => {
                if self.max == 0.0 && self.min == 0.0 {
                    return Ok(false);
                }
                if self.any_nan {
                    return Err("Ratio value is NaN".to_owned());
                }
                if self.max > 1.0 {
                    notes.add(Annotation::InvalidRatio { ratio: self.max, to: 1.0 }, spans.param);
                }
                if self.min < -1.0 {
                    notes.add(Annotation::InvalidRatio { ratio: self.min, to: -1.0 }, spans.param);
                }
            }
            AggregateOp::Quantile => {
                if self.any_nan {
                    notes.add(Annotation::InvalidQuantile(f64::NAN), spans.param);
                }
                if self.max > 1.0 {
                    notes.add(Annotation::InvalidQuantile(self.max), spans.param);
                }
                if self.min < 0.0 {
                    notes.add(Annotation::InvalidQuantile(self.min), spans.param);
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

struct Aggregation<'a> {
    op: AggregateOp,
    spans: Spans,
    input: &'a Matrix,
    group_of: &'a [usize],
}

/// What a group has seen at a step.
struct Group {
    value: f64,
    mean: f64,
    c: f64,
    count: f64,
    values: Vec<f64>,
    histogram: Option<FloatHistogram>,
    histogram_mean: Option<FloatHistogram>,
    histogram_c: Option<FloatHistogram>,
    has_float: bool,
    has_histogram: bool,
    incompatible: bool,
    incremental: bool,
    histogram_incremental: bool,
    reset_seen: bool,
    no_reset_seen: bool,
    drop_name: bool,
}

impl Group {
    fn hint(&mut self, histogram: &FloatHistogram) {
        self.reset_seen |= histogram.counter_reset_hint == CounterResetHint::Reset;
        self.no_reset_seen |= histogram.counter_reset_hint == CounterResetHint::NotReset;
    }
}

impl Aggregation<'_> {
    fn fold(&self, param: f64, ts: i64, output: &mut Matrix, notes: &mut Notes) {
        let mut groups: Vec<Option<Group>> = output.iter().map(|_| None).collect();
        for (row, &number) in self.input.iter().zip(self.group_of) {
            let Some(value) = row.at(ts) else { continue };
            let slot = &mut groups[number];
            match slot {
                None => *slot = self.first(&value, row.drop_name, notes),
                Some(group) if group.incompatible => {}
                Some(group) => {
                    group.drop_name |= row.drop_name;
                    self.next(group, &value, row, notes);
                }
            }
        }
        for (number, group) in groups.into_iter().enumerate() {
            let Some(mut group) = group else { continue };
            if let Some(value) = self.result(&mut group, param, notes) {
                if group.reset_seen && group.no_reset_seen {
                    let note = Annotation::HistogramCounterResetCollision(HistogramOperation::Aggregation);
                    notes.add(note, self.spans.expr);
                }
                output[number].push(ts, value);
                output[number].drop_name = group.drop_name;
            }
        }
    }

    fn ignored(&self, notes: &mut Notes) {
        notes.add(Annotation::HistogramIgnoredInAggregation(self.op.as_str()), self.spans.expr);
    }

    /// A group with its first sample; nothing if that is a histogram of no use.
    fn first(&self, value: &SampleValue, drop_name: bool, notes: &mut Notes) -> Option<Group> {
        let float = value.as_float().unwrap_or(0.0);
        let mut group = Group {
            value: float,
            mean: float,
            c: 0.0,
            count: 1.0,
            values: vec![float],
            histogram: None,
            histogram_mean: None,
            histogram_c: None,
            has_float: false,
            has_histogram: false,
            incompatible: false,
            incremental: false,
            histogram_incremental: false,
            reset_seen: false,
            no_reset_seen: false,
            drop_name,
        };
        match (self.op, value) {
            (AggregateOp::Avg | AggregateOp::Sum, SampleValue::Float(_)) => group.has_float = true,
            (AggregateOp::Avg | AggregateOp::Sum, SampleValue::Histogram(histogram)) => {
                group.has_histogram = true;
                group.hint(histogram);
                group.histogram = Some((**histogram).clone());
            }
            (
                AggregateOp::Stdvar
                | AggregateOp::Stddev
                | AggregateOp::Quantile
                | AggregateOp::Min
                | AggregateOp::Max,
                SampleValue::Histogram(_),
            ) => {
                self.ignored(notes);
                return None;
            }
            (AggregateOp::Stdvar | AggregateOp::Stddev, SampleValue::Float(value)) => {
                group.value = if value.is_finite() { 0.0 } else { f64::NAN };
            }
            (AggregateOp::Group, _) => group.value = 1.0,
            _ => {}
        }
        Some(group)
    }

    fn next(&self, group: &mut Group, value: &SampleValue, row: &Series, notes: &mut Notes) {
        match (self.op, value) {
            (AggregateOp::Sum, SampleValue::Histogram(histogram)) => {
                group.has_histogram = true;
                if group.histogram.is_some() {
                    group.hint(histogram);
                    self.add_histogram(group, histogram, row, notes);
                }
            }
            (AggregateOp::Sum, SampleValue::Float(value)) => {
                group.has_float = true;
                (group.value, group.c) = kahan(*value, group.value, group.c);
            }
            (AggregateOp::Avg, SampleValue::Histogram(histogram)) => {
                group.count += 1.0;
                group.has_histogram = true;
                if group.histogram.is_some() {
                    group.hint(histogram);
                    self.average_histogram(group, histogram, row, notes);
                }
            }
            (AggregateOp::Avg, SampleValue::Float(value)) => {
                group.count += 1.0;
                group.has_float = true;
                if !group.incremental {
                    let (sum, c) = kahan(*value, group.value, group.c);
                    if !sum.is_infinite() {
                        (group.value, group.c) = (sum, c);
                        return;
                    }
                    group.incremental = true;
                    group.mean = group.value / (group.count - 1.0);
                    group.c /= group.count - 1.0;
                }
                let q = (group.count - 1.0) / group.count;
                (group.mean, group.c) = kahan(value / group.count, q * group.mean, q * group.c);
            }
            (
                AggregateOp::Min
                | AggregateOp::Max
                | AggregateOp::Stdvar
                | AggregateOp::Stddev
                | AggregateOp::Quantile,
                SampleValue::Histogram(_),
            ) => self.ignored(notes),
            (AggregateOp::Max, SampleValue::Float(value)) if group.value < *value || group.value.is_nan() => {
                group.value = *value;
            }
            (AggregateOp::Min, SampleValue::Float(value)) if group.value > *value || group.value.is_nan() => {
                group.value = *value;
            }
            (AggregateOp::Count, _) => group.count += 1.0,
            (AggregateOp::Stdvar | AggregateOp::Stddev, SampleValue::Float(value)) => {
                group.count += 1.0;
                let delta = value - group.mean;
                group.mean += delta / group.count;
                group.value += delta * (value - group.mean);
            }
            (AggregateOp::Quantile, SampleValue::Float(value)) => group.values.push(*value),
            _ => {}
        }
    }

    fn add_histogram(&self, group: &mut Group, other: &FloatHistogram, row: &Series, notes: &mut Notes) {
        let sum = group.histogram.as_mut().expect("the caller looked");
        let mut c = group.histogram_c.take().unwrap_or_else(|| sum.new_compensation());
        match sum.kahan_add(other, &mut c) {
            Ok(reconciled) => {
                group.histogram_c = Some(c);
                self.note_bounds(reconciled.custom_bounds, notes);
            }
            Err(_) => self.incompatible(group, row, notes),
        }
    }

    fn note_bounds(&self, reconciled: bool, notes: &mut Notes) {
        if reconciled {
            let note = Annotation::MismatchedCustomBuckets(HistogramOperation::Aggregation);
            notes.add(note, self.spans.expr);
        }
    }

    fn incompatible(&self, group: &mut Group, row: &Series, notes: &mut Notes) {
        let note = Annotation::MixedExponentialCustomHistograms(row.labels.metric_name().into());
        notes.add(note, self.spans.expr);
        group.incompatible = true;
    }

    fn average_histogram(&self, group: &mut Group, other: &FloatHistogram, row: &Series, notes: &mut Notes) {
        if !group.histogram_incremental {
            let mut sum = group.histogram.clone().expect("the caller looked");
            let mut c = group.histogram_c.clone().unwrap_or_else(|| sum.new_compensation());
            let Ok(reconciled) = sum.kahan_add(other, &mut c) else {
                return self.incompatible(group, row, notes);
            };
            self.note_bounds(reconciled.custom_bounds, notes);
            if !sum.has_overflow() {
                (group.histogram, group.histogram_c) = (Some(sum), Some(c));
                return;
            }
            group.histogram_incremental = true;
            let mut mean = group.histogram.clone().expect("the caller looked");
            mean.div(group.count - 1.0);
            group.histogram_mean = Some(mean);
            if let Some(c) = &mut group.histogram_c {
                c.div(group.count - 1.0);
            }
        }
        let q = (group.count - 1.0) / group.count;
        let mut addend = other.clone();
        addend.div(group.count);
        let mean = group.histogram_mean.as_mut().expect("set when the mean became incremental");
        if let Some(c) = &mut group.histogram_c {
            c.mul(q);
        }
        mean.mul(q);
        let mut c = group.histogram_c.take().unwrap_or_else(|| mean.new_compensation());
        match mean.kahan_add(&addend, &mut c) {
            Ok(reconciled) => {
                group.histogram_c = Some(c);
                self.note_bounds(reconciled.custom_bounds, notes);
            }
            Err(_) => self.incompatible(group, row, notes),
        }
    }

    fn result(&self, group: &mut Group, param: f64, notes: &mut Notes) -> Option<SampleValue> {
        let value = match self.op {
            AggregateOp::Avg | AggregateOp::Sum => {
                if group.has_float && group.has_histogram {
                    notes.add(Annotation::MixedFloatsHistogramsAgg, self.spans.expr);
                    return None;
                }
                if group.incompatible {
                    return None;
                }
                if group.has_histogram {
                    return Some(SampleValue::Histogram(Arc::new(self.histogram_result(group))));
                }
                match (self.op, group.incremental) {
                    (AggregateOp::Sum, _) => group.value + group.c,
                    (_, true) => group.mean + group.c,
                    (_, false) => group.value / group.count + group.c / group.count,
                }
            }
            AggregateOp::Count => group.count,
            AggregateOp::Stdvar => group.value / group.count,
            AggregateOp::Stddev => (group.value / group.count).sqrt(),
            AggregateOp::Quantile => super::quantile::quantile(param, &mut group.values),
            _ => group.value,
        };
        Some(SampleValue::Float(value))
    }

    fn histogram_result(&self, group: &mut Group) -> FloatHistogram {
        let c = group.histogram_c.take();
        let mut result = match (self.op, group.histogram_incremental) {
            (AggregateOp::Avg, true) => group.histogram_mean.take(),
            _ => group.histogram.take(),
        }
        .expect("a group with histograms has one");
        let divides = self.op == AggregateOp::Avg && !group.histogram_incremental;
        if divides {
            result.div(group.count);
        }
        if let Some(mut c) = c {
            if divides {
                c.div(group.count);
            }
            // The layouts are the same.
            let _ = result.add(&c);
        }
        result.compact();
        result
    }

    /// The samples chosen at a step, by group. For a range query their order has no meaning: that of the input.
    fn choose(&self, param: f64, ts: i64, n_groups: usize, notes: &mut Notes) -> Vec<Sample> {
        let mut heaps: Vec<Heap> = Vec::new();
        heaps.resize_with(n_groups, || Heap { reverse: self.op == AggregateOp::Bottomk, items: Vec::new() });
        for (at, (row, &number)) in self.input.iter().zip(self.group_of).enumerate() {
            let Some(value) = row.at(ts) else { continue };
            let heap = &mut heaps[number];
            let sample = Sample {
                labels: Rc::clone(&row.labels),
                t: ts,
                value,
                drop_name: row.drop_name,
                order: at as u64,
            };
            if self.op == AggregateOp::LimitRatio {
                if param == 0.0 {
                    return Vec::new();
                }
                let ratio = param.clamp(-1.0, 1.0);
                let offset = super::hash(&row.labels) as f64 / u64::MAX as f64;
                if (ratio >= 0.0 && offset < ratio) || (ratio < 0.0 && offset >= 1.0 + ratio) {
                    heap.push(sample);
                }
                continue;
            }
            let k = super::go_int64(param).min(self.input.len() as i64);
            if k < 1 {
                return Vec::new();
            }
            if self.op == AggregateOp::Limitk {
                if (heap.items.len() as i64) < k {
                    heap.push(sample);
                }
                continue;
            }
            let Some(value) = sample.float() else {
                notes.add(Annotation::HistogramIgnoredInAggregation(self.op.as_str()), self.spans.whole);
                continue;
            };
            if (heap.items.len() as i64) < k {
                heap.push(sample);
            } else if heap.is_improved_by(value) {
                heap.items[0] = sample;
                heap.fix();
            }
        }
        let sorts = matches!(self.op, AggregateOp::Topk | AggregateOp::Bottomk);
        heaps.into_iter().flat_map(|heap| if sorts { heap.sorted() } else { heap.items }).collect()
    }
}

/// Go's `container/heap`, with the worst sample on top. NaN is worst; a histogram counts as 0.
struct Heap {
    reverse: bool,
    items: Vec<Sample>,
}

impl Heap {
    fn less(&self, a: usize, b: usize) -> bool {
        let value = |at: usize| self.items[at].float().unwrap_or(0.0);
        let (a, b) = (value(a), value(b));
        a.is_nan() || if self.reverse { a > b } else { a < b }
    }

    fn is_improved_by(&self, value: f64) -> bool {
        let top = self.items[0].float().unwrap_or(0.0);
        let better = if self.reverse { top > value } else { top < value };
        better || (top.is_nan() && !value.is_nan())
    }

    fn push(&mut self, sample: Sample) {
        self.items.push(sample);
        let mut j = self.items.len() - 1;
        while j > 0 {
            let i = (j - 1) / 2;
            if !self.less(j, i) {
                break;
            }
            self.items.swap(i, j);
            j = i;
        }
    }

    fn fix(&mut self) {
        let n = self.items.len();
        let mut i = 0;
        loop {
            let mut j = 2 * i + 1;
            if j >= n {
                return;
            }
            if j + 1 < n && self.less(j + 1, j) {
                j += 1;
            }
            if !self.less(j, i) {
                return;
            }
            self.items.swap(i, j);
            i = j;
        }
    }

    /// Best first.
    fn sorted(mut self) -> Vec<Sample> {
        super::functions::go_sort(&mut self.items, self.reverse);
        self.items
    }
}

fn count_values(
    evaluator: &mut Evaluator<'_>,
    expr: &Node,
    param: Option<&Node>,
    mut by: Grouping,
    notes: &mut Notes,
) -> Result<Matrix, String> {
    let Some(Kind::String(bytes)) = param.map(|param| &param.kind) else {
        return Err("count_values needs a label name".to_owned());
    };
    let label = match std::str::from_utf8(bytes) {
        Ok(label) if !label.is_empty() => label.to_owned(),
        _ => return Err(format!("invalid label name {}", crate::go_format::quote_bytes(bytes))),
    };
    if !by.without {
        by.names.push(label.clone());
    }
    let start = evaluator.start;
    let interval = evaluator.interval;
    evaluator.steps_of(None, &[expr], notes, |vectors, _, ts, _| {
        let mut counts: Vec<Sample> = Vec::new();
        let mut numbers: HashMap<Labels, usize> = HashMap::new();
        for sample in &vectors[0] {
            let text = match &sample.value {
                SampleValue::Float(value) => format_float(*value),
                SampleValue::Histogram(histogram) => histogram.to_string(),
            };
            let mut builder = sample.labels.to_builder();
            builder.set(&label, &text);
            let labels = by.labels(&builder.build());
            let number = *numbers.entry(labels.clone()).or_insert(counts.len());
            if number == counts.len() {
                let step = ((ts - start) / interval) as u64;
                let (labels, order) = (Rc::new(labels), (sample.order << 32) + step);
                counts.push(Sample { labels, order, drop_name: false, ..super::evaluate::bare(0.0) });
            }
            if let SampleValue::Float(count) = &mut counts[number].value {
                *count += 1.0;
            }
        }
        Ok(counts)
    })
}
