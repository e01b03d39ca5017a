//! `/federate`: the last sample of each series, as text.
//!
//! Source: Prometheus v3.14, `web/federate.go`.

use super::Ready;
use super::error::ApiError;
use super::params::Params;
use super::response::text;
use super::work::{Deadline, LookupContext, blocking};
use crate::telemetry::metrics::push_escaped;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use chronolith_model::labels::{is_legacy_label_name, is_legacy_metric_name};
use chronolith_model::queryable::{Floats, SampleBatch, Select, Snapshot};
use chronolith_model::{FloatHistogram, Labels, METRIC_NAME, Matcher};
use chronolith_query::go_format::format_general;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a series ends in.
enum Last {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

struct Sample {
    labels: Labels,
    timestamp: i64,
    value: Last,
}

/// `GET /federate`
pub async fn federate(ready: Ready, headers: HeaderMap, params: Params) -> Response {
    let mut sets = Vec::new();
    for selector in params.all("match[]") {
        match chronolith_query::parser::parse_metric_selector(selector) {
            Ok(matchers) => sets.push(matchers),
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let utf8 = accept.split(',').any(|clause| {
        clause.trim_start().starts_with("text/plain") && clause.contains("escaping=allow-utf-8")
    });
    let state = Arc::clone(&ready.state);
    let deadline = Deadline::after(state.settings.query_timeout);
    let body = blocking(deadline, move |deadline| {
        let now = jiff::Timestamp::now().as_millisecond();
        let mint = now - state.settings.lookback_delta_ms;
        let cx = LookupContext::new(deadline, &state.engine);
        let snapshot = ready.store.pin()?;
        let mut samples: BTreeMap<Labels, Sample> = BTreeMap::new();
        for matchers in &sets {
            collect(&*snapshot, matchers, mint, now, &cx, &mut samples)?;
        }
        let mut samples: Vec<Sample> = samples.into_values().collect();
        samples.sort_by(|a, b| a.labels.metric_name().cmp(b.labels.metric_name()));
        let external = external_labels(&state.config.load().global.external_labels);
        Ok(render(&samples, &external, utf8))
    })
    .await;
    match body {
        Ok(body) => {
            let mut response = Response::new(Body::from(body));
            let content_type = if utf8 {
                "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
            } else {
                "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
            };
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn collect(
    snapshot: &dyn Snapshot,
    matchers: &[Matcher],
    mint: i64,
    maxt: i64,
    cx: &LookupContext<'_>,
    samples: &mut BTreeMap<Labels, Sample>,
) -> Result<(), ApiError> {
    let select = Select::whole(matchers, mint, maxt);
    let selected = snapshot.select(&select, cx)?;
    let mut batch = SampleBatch::default();
    for range in selected.partitions() {
        batch.clear();
        selected.read(range.clone(), &mut batch, cx)?;
        for (index, series) in range.clone().zip(&batch.series) {
            let times = &series.timestamps.times;
            let Some(at) = times.partition_point(|&time| time <= maxt).checked_sub(1) else { continue };
            // Text has no staleness markers: a series that has ended is left out.
            if times[at] < mint || series.stale.binary_search(&(at as u32)).is_ok() {
                continue;
            }
            let before = |at: usize| {
                series.histograms.as_ref().map_or(0, |(_, set)| set.iter().take_while(|&i| i < at).count())
            };
            let value = match &series.histograms {
                Some((histograms, set)) if set.contains(at) => {
                    let value = &batch.histograms[histograms.start as usize + before(at)];
                    Last::Histogram(Arc::clone(value))
                }
                _ => match &series.floats {
                    Floats::None => continue,
                    Floats::Constant(value) => Last::Float(*value),
                    Floats::Values(values) => {
                        Last::Float(batch.values[values.start as usize + at - before(at)])
                    }
                },
            };
            let labels = super::labels::resolve(selected.labels(index), cx)?;
            let sample = Sample { labels: labels.clone(), timestamp: times[at], value };
            samples.insert(labels, sample);
        }
    }
    Ok(())
}

/// The external labels, and an empty `instance` so that the scraper does not put its own.
fn external_labels(labels: &Labels) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    all.entry("instance".to_owned()).or_default();
    all
}

fn render(samples: &[Sample], external: &BTreeMap<String, String>, utf8: bool) -> String {
    let mut out = String::new();
    let mut last: Option<(&str, bool)> = None;
    for sample in samples {
        let name = sample.labels.metric_name();
        let is_histogram = matches!(&sample.value, Last::Histogram(_));
        if name.is_empty() {
            continue;
        }
        if let Last::Histogram(histogram) = &sample.value
            && !histogram.uses_custom_buckets()
        {
            // Text has no native histograms.
            continue;
        }
        if last != Some((name, is_histogram)) {
            out.push_str("# TYPE ");
            push_name(&mut out, name, utf8, is_legacy_metric_name(name));
            out.push_str(if is_histogram { " histogram\n" } else { " untyped\n" });
            last = Some((name, is_histogram));
        }
        let mut labels: Vec<(&str, &str)> =
            sample.labels.iter().filter(|(name, _)| *name != METRIC_NAME).collect();
        for (name, value) in external {
            if sample.labels.get(name).is_none() {
                labels.push((name, value));
            }
        }
        match &sample.value {
            Last::Float(value) => line(&mut out, name, &labels, *value, sample.timestamp, utf8),
            Last::Histogram(histogram) => classic(&mut out, name, &labels, histogram, sample.timestamp, utf8),
        }
    }
    out
}

/// A histogram with custom buckets, as the classic series it came from.
fn classic(
    out: &mut String,
    name: &str,
    labels: &[(&str, &str)],
    histogram: &FloatHistogram,
    timestamp: i64,
    utf8: bool,
) {
    let mut total = 0.0;
    let mut buckets: Vec<(String, f64)> = Vec::new();
    for bucket in histogram.all_buckets() {
        total += bucket.count;
        if bucket.upper.is_finite() {
            buckets.push((format_general(bucket.upper), total));
        }
    }
    buckets.push(("+Inf".to_owned(), histogram.count));
    for (le, count) in &buckets {
        let mut with_le = labels.to_vec();
        with_le.push(("le", le));
        line(out, &format!("{name}_bucket"), &with_le, *count, timestamp, utf8);
    }
    line(out, &format!("{name}_sum"), labels, histogram.sum, timestamp, utf8);
    line(out, &format!("{name}_count"), labels, histogram.count, timestamp, utf8);
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64, timestamp: i64, utf8: bool) {
    let legacy = is_legacy_metric_name(name);
    let inside = utf8 && !legacy;
    if !inside {
        push_name(out, name, utf8, legacy);
    }
    if inside || !labels.is_empty() {
        out.push('{');
        if inside {
            push_name(out, name, utf8, legacy);
        }
        for (i, (label, value)) in labels.iter().enumerate() {
            if i > 0 || inside {
                out.push(',');
            }
            push_name(out, label, utf8, is_legacy_label_name(label));
            out.push_str("=\"");
            push_escaped(out, value);
            out.push('"');
        }
        out.push('}');
    }
    out.push_str(&format!(" {} {timestamp}\n", format_general(value)));
}

/// A name as it is, in quotes, or with `_` for what the classic format does not allow.
fn push_name(out: &mut String, name: &str, utf8: bool, legacy: bool) {
    if legacy {
        out.push_str(name);
    } else if utf8 {
        out.push('"');
        push_escaped(out, name);
        out.push('"');
    } else {
        for (i, c) in name.chars().enumerate() {
            let fits = c.is_ascii_alphabetic() || c == '_' || c == ':' || (i > 0 && c.is_ascii_digit());
            out.push(if fits { c } else { '_' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_grouped_by_name_with_external_labels() {
        let sample = |pairs: &[(&str, &str)], value| Sample {
            labels: Labels::from_pairs(pairs.iter().copied()).unwrap(),
            timestamp: 7,
            value: Last::Float(value),
        };
        let samples = [
            sample(&[("__name__", "a"), ("x", "1\"")], 1.0),
            sample(&[("__name__", "a"), ("instance", "i")], 1e9),
            sample(&[("__name__", "b.c")], f64::NAN),
        ];
        let external = external_labels(&Labels::from_pairs([("zone", "z")]).unwrap());
        assert_eq!(
            render(&samples, &external, false),
            "# TYPE a untyped\na{x=\"1\\\"\",instance=\"\",zone=\"z\"} 1 7\na{instance=\"i\",zone=\"z\"} 1e+09 7\n# TYPE b_c untyped\nb_c{instance=\"\",zone=\"z\"} NaN 7\n"
        );
        assert!(render(&samples, &external, true).contains("{\"b.c\",instance=\"\",zone=\"z\"} NaN 7"));
    }
}
