//! A case as a test script.

use super::compare::{Case, Contest};
use chronolith_model::{CounterResetHint, FloatHistogram, Labels, Span, is_stale};
use chronolith_query::{QueryOutput, SampleValue, Value};
use std::fmt::Write;

/// The script, with what the oracle expects, and what is different.
pub fn print(contest: &mut Contest, case: &Case) -> String {
    let (expected, difference) = contest.ask(case);
    let mut text = String::new();
    for line in difference.unwrap_or_default().lines() {
        let _ = writeln!(text, "# {line}");
    }
    let features = case.features;
    if !features.delayed_name_removal {
        text.push_str("# feature promql-delayed-name-removal off\n");
    }
    if features.type_and_unit_labels {
        text.push_str("# feature type-and-unit-labels on\n");
    }
    if !features.start_timestamps {
        text.push_str("# feature use-start-timestamps off\n");
    }
    if case.world.lookback_ms != 300_000 {
        let _ = writeln!(text, "# look-back {} ms", case.world.lookback_ms);
    }
    let interval = interval(case);
    let _ = writeln!(text, "\nload {interval}ms");
    for (labels, samples) in &case.world.series {
        series(&mut text, labels, samples, interval);
    }
    let question = &case.question;
    let _ = match question.range {
        true => writeln!(
            text,
            "\neval range from {}ms to {}ms step {}ms {}",
            question.start, question.end, question.interval_ms, question.text
        ),
        false => writeln!(text, "\neval instant at {}ms {}", question.start, question.text),
    };
    match expected {
        Ok(output) => output_lines(&mut text, case, &output),
        Err(error) => {
            let _ = writeln!(text, "  expect fail msg: {error}");
        }
    }
    text
}

/// Divides all times.
fn interval(case: &Case) -> i64 {
    let times = case.world.series.iter().flat_map(|(_, samples)| samples.iter().map(|(time, _)| *time));
    let divisor = times.fold(0, |a, b| {
        let (mut a, mut b) = (a, b);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    });
    divisor.max(1)
}

fn series(text: &mut String, labels: &Labels, samples: &[Sample], interval: i64) {
    if samples.is_empty() {
        return;
    }
    if samples.iter().any(|(_, sample)| sample.start_timestamp != 0) {
        // The labels have to be one word there.
        let _ = write!(text, "  {}@st", labels.to_string().replace(", ", ","));
        points(text, samples, interval, |(time, sample)| match sample.start_timestamp {
            0 => "_".to_owned(),
            start => format!("{}ms", start - time),
        });
        text.push('\n');
    }
    let _ = write!(text, "  {labels}");
    points(text, samples, interval, |(_, sample)| value(&sample.value));
    text.push('\n');
}

type Sample = (i64, chronolith_query::script::Sample);

fn points(text: &mut String, samples: &[Sample], interval: i64, print: impl Fn(&Sample) -> String) {
    let mut next = 0;
    for sample in samples {
        let at = sample.0 / interval;
        match at - next {
            0 => {}
            1 => text.push_str(" _"),
            n => drop(write!(text, " _x{n}")),
        }
        let _ = write!(text, " {}", print(sample));
        next = at + 1;
    }
}

fn value(value: &SampleValue) -> String {
    match value {
        SampleValue::Float(value) if is_stale(*value) => "stale".to_owned(),
        SampleValue::Float(value) => float(*value),
        SampleValue::Histogram(histogram) => self::histogram(histogram),
    }
}

fn float(value: f64) -> String {
    match value {
        f64::INFINITY => "Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ if value.is_nan() => "NaN".to_owned(),
        _ if value != 0.0 && (value.abs() < 1e-6 || value.abs() > 1e15) => format!("{value:e}"),
        _ => value.to_string(),
    }
}

/// One span a side: gaps become empty buckets.
fn histogram(histogram: &FloatHistogram) -> String {
    let mut text = format!(
        "{{{{schema:{} count:{} sum:{}",
        histogram.schema,
        float(histogram.count),
        float(histogram.sum)
    );
    if histogram.zero_count != 0.0 {
        let _ = write!(text, " z_bucket:{}", float(histogram.zero_count));
    }
    if histogram.zero_threshold != 0.0 {
        let _ = write!(text, " z_bucket_w:{}", float(histogram.zero_threshold));
    }
    if histogram.uses_custom_buckets() {
        let _ = write!(text, " custom_values:[{}]", list(histogram.custom_bounds()));
    }
    side(&mut text, ["offset", "buckets"], &histogram.positive_spans, &histogram.positive_buckets);
    side(&mut text, ["n_offset", "n_buckets"], &histogram.negative_spans, &histogram.negative_buckets);
    text.push_str(match histogram.counter_reset_hint {
        CounterResetHint::Unknown => "}}",
        CounterResetHint::Reset => " counter_reset_hint:reset}}",
        CounterResetHint::NotReset => " counter_reset_hint:not_reset}}",
        CounterResetHint::Gauge => " counter_reset_hint:gauge}}",
    });
    text
}

fn list(values: &[f64]) -> String {
    values.iter().map(|value| float(*value)).collect::<Vec<_>>().join(" ")
}

fn side(text: &mut String, [offset, buckets]: [&str; 2], spans: &[Span], counts: &[f64]) {
    let Some(first) = spans.first() else { return };
    if first.offset != 0 {
        let _ = write!(text, " {offset}:{}", first.offset);
    }
    let mut counts = counts.iter();
    let mut all = Vec::new();
    for (i, span) in spans.iter().enumerate() {
        let gap = if i == 0 { 0 } else { span.offset.max(0) as usize };
        all.resize(all.len() + gap, 0.0);
        all.extend(counts.by_ref().take(span.length as usize));
    }
    let _ = write!(text, " {buckets}:[{}]", list(&all));
}

fn output_lines(text: &mut String, case: &Case, output: &QueryOutput) {
    for (word, notes) in [("warn", &output.warnings), ("info", &output.infos)] {
        for note in notes {
            let _ = writeln!(text, "  expect {word} msg: {note}");
        }
        if notes.is_empty() {
            let _ = writeln!(text, "  expect no_{word}");
        }
    }
    match &output.value {
        Value::Scalar { value, .. } => drop(writeln!(text, "  {}", float(*value))),
        Value::String { value, .. } => {
            let _ = writeln!(text, "  expect string {:?}", String::from_utf8_lossy(value));
        }
        Value::Vector(samples) => {
            for sample in samples {
                let _ = writeln!(text, "  {} {}", sample.labels, value(&sample.value));
            }
        }
        Value::Matrix(matrix) => {
            for series in matrix {
                let mut samples: Vec<(i64, SampleValue)> =
                    series.floats.iter().map(|(time, value)| (*time, SampleValue::Float(*value))).collect();
                let histograms = series.histograms.iter().cloned();
                samples.extend(histograms.map(|(time, h)| (time, SampleValue::Histogram(h))));
                samples.sort_by_key(|(time, _)| *time);
                let _ = write!(text, "  {}", series.labels);
                let mut next = case.question.start;
                for (time, sample) in samples {
                    while case.question.range && next < time {
                        text.push_str(" _");
                        next += case.question.interval_ms;
                    }
                    let _ = write!(text, " {}", value(&sample));
                    next += case.question.interval_ms;
                }
                text.push('\n');
            }
        }
    }
}
