//! Functions of instant vectors and scalars.
//!
//! Source: Prometheus v3.14, `promql/functions.go`; facette/natsort.

use super::evaluate::{Cx, Evaluator, Matrix, Sample, bare, merge_same_labels};
use super::notes::Notes;
use super::quantile::{self, Bucket};
use super::tree::{Kind, Node};
use super::{go_int64, go_max, go_min, kahan};
use crate::annotations::Annotation;
use crate::calendar::{Date, date_of, days_in_month};
use crate::functions::math::unary as elementary;
use crate::parser::Function;
use crate::value::SampleValue;
use chronolith_model::re2::Re2;
use chronolith_model::{FloatHistogram, Labels, METRIC_NAME};
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

/// Calls a function with the samples of one step.
pub(super) fn call(
    cx: &Cx<'_>,
    function: Function,
    args: &[Node],
    vectors: &[Vec<Sample>],
    ts: i64,
    notes: &mut Notes,
) -> Result<Vec<Sample>, String> {
    let scalar = |at: usize| vectors.get(at)?.first()?.float();
    let math = |f: &dyn Fn(f64) -> f64| Ok(floats(cx, &vectors[0], f));
    match function {
        Function::Abs => math(&f64::abs),
        Function::Ceil => math(&f64::ceil),
        Function::Floor => math(&f64::floor),
        // Elementary functions are not what is compared: last digits depend on the library.
        Function::Exp
        | Function::Ln
        | Function::Log2
        | Function::Log10
        | Function::Sin
        | Function::Cos
        | Function::Tan
        | Function::Asin
        | Function::Acos
        | Function::Atan
        | Function::Sinh
        | Function::Cosh
        | Function::Tanh
        | Function::Asinh
        | Function::Acosh
        | Function::Atanh => {
            let f = elementary(function).ok_or("no elementary function")?;
            math(&f)
        }
        Function::Sqrt => math(&f64::sqrt),
        Function::Rad => math(&|v| v * std::f64::consts::PI / 180.0),
        Function::Deg => math(&|v| v * 180.0 / std::f64::consts::PI),
        Function::Sgn => math(&|v| {
            if v < 0.0 {
                -1.0
            } else if v > 0.0 {
                1.0
            } else {
                v
            }
        }),
        Function::Round => {
            let inverse = 1.0 / scalar(1).unwrap_or(1.0);
            math(&|v| (v * inverse + 0.5).floor() / inverse)
        }
        Function::Clamp | Function::ClampMin | Function::ClampMax => {
            let (min, max) = match function {
                Function::Clamp => (scalar(1), scalar(2)),
                Function::ClampMin => (scalar(1), Some(f64::INFINITY)),
                _ => (Some(f64::NEG_INFINITY), scalar(1)),
            };
            let (min, max) = (min.unwrap_or(f64::NAN), max.unwrap_or(f64::NAN));
            if max < min {
                return Ok(Vec::new());
            }
            math(&|v| go_max(min, go_min(max, v)))
        }
        Function::Time => Ok(vec![bare(ts as f64 / 1000.0)]),
        Function::Pi => Ok(vec![bare(std::f64::consts::PI)]),
        Function::MaxOf | Function::MinOf => {
            let (a, b) = (scalar(0).unwrap_or(f64::NAN), scalar(1).unwrap_or(f64::NAN));
            Ok(vec![bare(if function == Function::MaxOf { go_max(a, b) } else { go_min(a, b) })])
        }
        Function::Scalar => {
            let mut found = vectors[0].iter().filter_map(Sample::float);
            let value = match (found.next(), found.next()) {
                (Some(value), None) => value,
                _ => f64::NAN,
            };
            Ok(vec![bare(value)])
        }
        Function::Vector => Ok(vec![bare(scalar(0).unwrap_or(f64::NAN))]),
        Function::Absent => match vectors[0].is_empty() {
            true => Ok(vec![Sample { labels: Rc::new(absent_labels(&args[0])), ..bare(1.0) }]),
            false => Ok(Vec::new()),
        },
        Function::Sort | Function::SortDesc => {
            let mut samples: Vec<Sample> =
                vectors[0].iter().filter(|sample| sample.float().is_some()).cloned().collect();
            go_sort(&mut samples, function == Function::Sort);
            Ok(samples)
        }
        Function::SortByLabel | Function::SortByLabelDesc => {
            Ok(sort_by_label(&vectors[0], &args[1..], function == Function::SortByLabelDesc))
        }
        Function::Timestamp => {
            let time = |sample: &Sample| {
                let labels = cx.nameless(&sample.labels);
                let value = SampleValue::Float(sample.t as f64 / 1000.0);
                Sample { labels, value, drop_name: true, ..sample.clone() }
            };
            Ok(vectors[0].iter().map(time).collect())
        }
        Function::StartTimestamp => Ok(Vec::new()),
        Function::HistogramCount => Ok(histograms(cx, &vectors[0], |h| h.count)),
        Function::HistogramSum => Ok(histograms(cx, &vectors[0], |h| h.sum)),
        Function::HistogramAvg => Ok(histograms(cx, &vectors[0], |h| h.sum / h.count)),
        Function::HistogramStdvar => Ok(histograms(cx, &vectors[0], variance)),
        Function::HistogramStddev => Ok(histograms(cx, &vectors[0], |h| variance(h).sqrt())),
        Function::HistogramQuantile => {
            let q = scalar(0).unwrap_or(f64::NAN);
            validate_quantile(q, &args[0], notes);
            let mut split = split(cx, &vectors[1], &args[1], notes);
            Ok(quantiles(cx, &mut split, q, None, &args[1], ts, notes))
        }
        Function::HistogramQuantiles => {
            let Kind::String(label) = &args[1].kind else {
                return Err("histogram_quantiles needs a label name".to_owned());
            };
            let label = String::from_utf8_lossy(label).into_owned();
            let qs: Vec<f64> = (2..args.len()).map(|at| scalar(at).unwrap_or(f64::NAN)).collect();
            for (q, arg) in qs.iter().zip(&args[2..]) {
                validate_quantile(*q, arg, notes);
            }
            let mut split = split(cx, &vectors[0], &args[0], notes);
            let mut out = Vec::new();
            for (at, q) in qs.into_iter().enumerate() {
                let found = quantiles(cx, &mut split, q, Some(&label), &args[0], ts, notes);
                let place = (at as u64) << 44;
                out.extend(found.into_iter().map(|sample| Sample { order: sample.order + place, ..sample }));
            }
            Ok(out)
        }
        Function::HistogramFraction => {
            let (lower, upper) = (scalar(0).unwrap_or(f64::NAN), scalar(1).unwrap_or(f64::NAN));
            let split = split(cx, &vectors[2], &args[2], notes);
            let mut out = Vec::new();
            for (sample, histogram) in &split.native {
                let name = sample.labels.metric_name();
                let labels = cx.nameless(&sample.labels);
                let name = if cx.delayed { name } else { "" };
                let value = quantile::histogram_fraction(lower, upper, histogram, name, args[2].span, notes);
                let value = SampleValue::Float(value);
                out.push(Sample { labels, value, drop_name: true, ..sample.clone() });
            }
            for (labels, order, buckets) in split.classic {
                let value = SampleValue::Float(quantile::bucket_fraction(lower, upper, buckets));
                let labels = cx.nameless(&labels);
                out.push(Sample { labels, value, drop_name: true, order, ..bare(0.0) });
            }
            Ok(out)
        }
        Function::DayOfMonth
        | Function::DayOfWeek
        | Function::DayOfYear
        | Function::DaysInMonth
        | Function::Hour
        | Function::Minute
        | Function::Month
        | Function::Year => {
            if vectors.is_empty() {
                return Ok(vec![bare(date(function, ts / 1000))]);
            }
            Ok(floats(cx, &vectors[0], |v| date(function, go_int64(v))))
        }
        // A window function whose window is hidden by parentheses in a parameter.
        _ => Ok(Vec::new()),
    }
}

fn floats(cx: &Cx<'_>, vector: &[Sample], f: impl Fn(f64) -> f64) -> Vec<Sample> {
    let result = |sample: &Sample| {
        let value = SampleValue::Float(f(sample.float()?));
        Some(Sample { labels: cx.nameless(&sample.labels), value, drop_name: true, ..sample.clone() })
    };
    vector.iter().filter_map(result).collect()
}

/// Of type and unit labels, only the name goes here.
fn histograms(cx: &Cx<'_>, vector: &[Sample], f: impl Fn(&FloatHistogram) -> f64) -> Vec<Sample> {
    let result = |sample: &Sample| {
        let SampleValue::Histogram(histogram) = &sample.value else { return None };
        let value = SampleValue::Float(f(histogram));
        let labels = match cx.delayed {
            true => Rc::clone(&sample.labels),
            false => {
                let mut builder = sample.labels.to_builder();
                builder.remove(METRIC_NAME);
                Rc::new(builder.build())
            }
        };
        Some(Sample { labels, value, drop_name: true, ..sample.clone() })
    };
    vector.iter().filter_map(result).collect()
}

fn variance(histogram: &FloatHistogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let (mut variance, mut c) = (0.0, 0.0);
    for bucket in histogram.all_buckets() {
        if bucket.count == 0.0 {
            continue;
        }
        let middle = if histogram.uses_custom_buckets() {
            (bucket.upper + bucket.lower) / 2.0
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            let middle = (bucket.upper * bucket.lower).sqrt();
            if bucket.upper < 0.0 { -middle } else { middle }
        };
        let delta = middle - mean;
        (variance, c) = kahan(bucket.count * delta * delta, variance, c);
    }
    (variance + c) / histogram.count
}

/// Source: Go 1.24, `sort.Sort` up to 12 items: insertion sort. With more, the order of equal values is not
/// defined; ours is stable.
pub(super) fn go_sort(samples: &mut [Sample], ascending: bool) {
    let value = |sample: &Sample| sample.float().unwrap_or(0.0);
    // `Less` of the heap of the other direction, with its arguments reversed.
    let less = |a: f64, b: f64| b.is_nan() || if ascending { b > a } else { b < a };
    if samples.len() <= 12 {
        for i in 1..samples.len() {
            let mut j = i;
            while j > 0 && less(value(&samples[j]), value(&samples[j - 1])) {
                samples.swap(j, j - 1);
                j -= 1;
            }
        }
        return;
    }
    samples.sort_by(|a, b| match value(a).partial_cmp(&value(b)) {
        Some(order) if ascending => order,
        Some(order) => order.reverse(),
        None => value(a).is_nan().cmp(&value(b).is_nan()),
    });
}

fn sort_by_label(vector: &[Sample], names: &[Node], descending: bool) -> Vec<Sample> {
    let names: Vec<String> = names.iter().map(string).collect();
    let mut samples = vector.to_vec();
    samples.sort_by(|a, b| {
        for name in &names {
            let (x, y) = (a.labels.get(name).unwrap_or(""), b.labels.get(name).unwrap_or(""));
            if x != y {
                return if natural_less(x, y) != descending { Ordering::Less } else { Ordering::Greater };
            }
        }
        let order = a.labels.cmp(&b.labels);
        if descending { order.reverse() } else { order }
    });
    samples
}

/// Source: facette/natsort, `Compare`.
fn natural_less(a: &str, b: &str) -> bool {
    crate::functions::label::natural_less(a, b)
}

fn date(function: Function, seconds: i64) -> f64 {
    // Go's calendar begins this many days before 1970 and counts unsigned seconds from there.
    let beginning = 106_751_991_073_400;
    let absolute = seconds.wrapping_add(beginning * 86_400) as u64;
    let (day, second) = ((absolute / 86_400) as i64 - beginning, absolute % 86_400);
    let Date { year, month, day, weekday, day_of_year } = date_of(day);
    match function {
        Function::DayOfMonth => f64::from(day),
        Function::DayOfWeek => f64::from(weekday),
        Function::DayOfYear => f64::from(day_of_year),
        Function::DaysInMonth => f64::from(days_in_month(year, month)),
        Function::Hour => (second / 3600) as f64,
        Function::Minute => (second / 60 % 60) as f64,
        Function::Month => f64::from(month),
        _ => year as f64,
    }
}

/// Labels that are matched exactly and once.
pub(super) fn absent_labels(arg: &Node) -> Labels {
    let matchers = match &arg.kind {
        Kind::Vector(selector) | Kind::Matrix { selector, .. } => &selector.matchers,
        _ => return Labels::empty(),
    };
    let mut builder = Labels::empty().to_builder();
    let mut seen = Vec::new();
    for matcher in matchers.iter().filter(|matcher| matcher.name != METRIC_NAME) {
        if matcher.op == chronolith_model::MatchOp::Equal && !seen.contains(&&matcher.name) {
            builder.set(&matcher.name, &matcher.value);
            seen.push(&matcher.name);
        } else {
            builder.remove(&matcher.name);
        }
    }
    builder.build()
}

fn validate_quantile(q: f64, arg: &Node, notes: &mut Notes) {
    if q.is_nan() || !(0.0..=1.0).contains(&q) {
        notes.add(Annotation::InvalidQuantile(q), arg.span);
    }
}

/// A vector split into native and classic histograms.
struct Split {
    native: Vec<(Sample, Arc<FloatHistogram>)>,
    classic: Vec<(Rc<Labels>, u64, Vec<Bucket>)>,
}

/// Source: Prometheus v3.14, `promql/engine.go`, `resetHistograms`.
fn split(cx: &Cx<'_>, vector: &[Sample], arg: &Node, notes: &mut Notes) -> Split {
    let mut split = Split { native: Vec::new(), classic: Vec::new() };
    let shown = |sample: &Sample| -> Arc<str> {
        if cx.delayed { sample.labels.metric_name().into() } else { "".into() }
    };
    let mut native = Vec::new();
    for sample in vector {
        if let SampleValue::Histogram(histogram) = &sample.value {
            native.push((sample.clone(), Arc::clone(histogram)));
            continue;
        }
        let bound = sample.labels.get("le").unwrap_or("");
        let Some(upper) = parse_float(bound) else {
            let note = Annotation::BadBucketLabel { name: shown(sample), label: bound.into() };
            notes.add(note, arg.span);
            continue;
        };
        let mut builder = sample.labels.to_builder();
        builder.remove("le");
        let labels = builder.build();
        let bucket = Bucket { upper, count: sample.float().unwrap_or(0.0) };
        match split.classic.iter_mut().find(|(found, ..)| **found == labels) {
            Some((_, _, buckets)) => buckets.push(bucket),
            None => split.classic.push((Rc::new(labels), sample.order, vec![bucket])),
        }
    }
    for (sample, histogram) in native {
        let at = split.classic.iter().position(|(labels, ..)| *labels == sample.labels);
        match at {
            Some(at) => {
                notes.add(Annotation::MixedClassicNativeHistograms(shown(&sample)), arg.span);
                split.classic.remove(at);
            }
            None => split.native.push((sample, histogram)),
        }
    }
    split
}

fn quantiles(
    cx: &Cx<'_>,
    split: &mut Split,
    q: f64,
    label: Option<&str>,
    arg: &Node,
    ts: i64,
    notes: &mut Notes,
) -> Vec<Sample> {
    let named = |labels: &Rc<Labels>| {
        let labels = cx.nameless(labels);
        let Some(label) = label else { return labels };
        let mut builder = labels.to_builder();
        builder.set(label, &open_metrics_float(q));
        Rc::new(builder.build())
    };
    let mut out = Vec::new();
    for (sample, histogram) in &split.native {
        let name = if cx.delayed { sample.labels.metric_name() } else { "" };
        let value = SampleValue::Float(quantile::histogram_quantile(q, histogram, name, arg.span, notes));
        out.push(Sample { labels: named(&sample.labels), value, drop_name: true, ..sample.clone() });
    }
    for (labels, order, buckets) in &mut split.classic {
        let (value, forced) = quantile::bucket_quantile(q, buckets);
        if let Some((min_bucket, max_bucket, max_diff)) = forced {
            let name = if cx.delayed { labels.metric_name() } else { "" }.into();
            let note = Annotation::HistogramQuantileForcedMonotonicity {
                name,
                timestamp: ts,
                min_bucket,
                max_bucket,
                max_diff,
            };
            notes.add(note, arg.span);
        }
        let value = SampleValue::Float(value);
        out.push(Sample { labels: named(labels), value, drop_name: true, order: *order, ..bare(0.0) });
    }
    out
}

/// Source: Prometheus v3.14, `model/labels/float.go`, `FormatOpenMetricsFloat`.
fn open_metrics_float(value: f64) -> String {
    let text = crate::go_format::format_general(if value == 0.0 { 0.0 } else { value });
    match value.is_finite() && !text.contains(['e', '.']) {
        true => format!("{text}.0"),
        false => text,
    }
}

/// Go's `strconv.ParseFloat`, but for hexadecimal numbers and underscores.
fn parse_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let value: f64 = text.parse().ok()?;
    (value.is_finite() || !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')).then_some(value)
}

/// The bytes of a string argument as text.
fn string(node: &Node) -> String {
    match &node.kind {
        Kind::String(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

/// The text of a string argument if it may be a label name.
fn label_name(node: &Node, what: &str, function: &str) -> Result<String, String> {
    match &node.kind {
        Kind::String(bytes) if !bytes.is_empty() && std::str::from_utf8(bytes).is_ok() => Ok(string(node)),
        _ => Err(format!("invalid {what} label name in {function}(): {}", string(node))),
    }
}

pub(super) fn label_replace(
    evaluator: &mut Evaluator<'_>,
    args: &[Node],
    notes: &mut Notes,
) -> Result<Matrix, String> {
    let (replacement, source, pattern) = (string(&args[2]), string(&args[3]), string(&args[4]));
    let Ok(regex) = Re2::anchored(&pattern) else {
        return Err(format!("invalid regular expression in label_replace(): {pattern}"));
    };
    let target = label_name(&args[1], "destination", "label_replace")?;
    let mut matrix = evaluator.eval(&args[0], notes)?;
    for row in &mut matrix {
        let Some(value) = regex.expand(row.labels.get(&source).unwrap_or(""), &replacement) else { continue };
        let mut builder = row.labels.to_builder();
        builder.set(&target, &value);
        row.labels = Rc::new(builder.build());
        row.drop_name &= target != METRIC_NAME;
    }
    merge_same_labels(matrix)
}

pub(super) fn label_join(
    evaluator: &mut Evaluator<'_>,
    args: &[Node],
    notes: &mut Notes,
) -> Result<Matrix, String> {
    let separator = string(&args[2]);
    let sources: Vec<String> =
        args[3..].iter().map(|arg| label_name(arg, "source", "label_join")).collect::<Result<_, _>>()?;
    let target = label_name(&args[1], "destination", "label_join")?;
    let mut matrix = evaluator.eval(&args[0], notes)?;
    for row in &mut matrix {
        let values: Vec<&str> = sources.iter().map(|source| row.labels.get(source).unwrap_or("")).collect();
        let mut builder = row.labels.to_builder();
        builder.set(&target, &values.join(&separator));
        row.labels = Rc::new(builder.build());
        row.drop_name &= target != METRIC_NAME;
    }
    merge_same_labels(matrix)
}
