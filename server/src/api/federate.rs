//! `/federate`: the last sample of each series, as text or protobuf.
//!
//! What is found lies in memory as positions of strings that all series share, charged to the engine's memory; it
//! is written while the client reads it.
//!
//! Source: Prometheus v3.14, `web/federate.go`, and its common library v0.70, `expfmt/text_create.go`.

mod format;

use super::Ready;
use super::error::ApiError;
use super::params::Params;
use super::response::text;
use super::sending::{PIECE_BYTES, Render, respond_as};
use super::work::{Deadline, LookupContext, blocking};
use crate::telemetry::metrics::push_escaped;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use chronolith_model::histogram::CounterResetHint;
use chronolith_model::labels::is_legacy_metric_name;
use chronolith_model::queryable::{
    Floats, Lookups, QueryContext as _, ReadError, SampleBatch, Select, SeriesSamples, Snapshot,
};
use chronolith_model::{FloatHistogram, Labels, METRIC_NAME, Matcher, Symbol};
use chronolith_query::go_format::format_general;
use chronolith_query::{MemoryAccount, ResultLabels};
use chronolith_wire::exposition::protobuf::{
    FamilyType, MetricValue, classic_buckets, put_family, put_metric,
};
use format::{Encoding, Format};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::vec::IntoIter;

/// What a series ends in.
#[derive(Clone, Debug)]
enum Value {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// The last sample of a series.
#[derive(Clone, Debug)]
struct Sample {
    labels: ResultLabels,
    timestamp: i64,
    value: Value,
}

impl Sample {
    /// Empty if there is none.
    fn name(&self) -> &str {
        self.labels.iter().find(|(name, _)| *name == METRIC_NAME).map_or("", |(_, value)| value)
    }

    fn family_type(&self) -> FamilyType {
        match &self.value {
            Value::Float(_) => FamilyType::Untyped,
            Value::Histogram(histogram) if histogram.counter_reset_hint == CounterResetHint::Gauge => {
                FamilyType::GaugeHistogram
            }
            Value::Histogram(_) => FamilyType::Histogram,
        }
    }
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
    let format = Format::negotiate(accept);
    let state = Arc::clone(&ready.state);
    let errors = state.registry.counter(
        "prometheus_web_federation_errors_total",
        "Total number of errors that occurred while sending federation responses.",
        &[],
    );
    let deadline = Deadline::after(state.settings.query_timeout);
    let answer = blocking(deadline, move |deadline| {
        let maxt = jiff::Timestamp::now().as_millisecond();
        let cx = LookupContext::new(deadline, &state.engine);
        let snapshot = ready.store.pin()?;
        let samples = find(&*snapshot, &sets, state.settings.lookback_delta_ms, maxt, &cx)?;
        let external = external_labels(&state.config.load().global.external_labels);
        let answer = Federation::new(samples, external, format, cx.into_memory());
        Ok(respond_as(answer, None, format.content_type()))
    })
    .await;
    answer.unwrap_or_else(|error| {
        errors.add(1);
        text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
    })
}

/// The last samples of the series that match any of the sets, by name and then by their other labels, each series
/// once.
fn find(
    snapshot: &dyn Snapshot,
    sets: &[Vec<Matcher>],
    lookback_ms: i64,
    maxt: i64,
    cx: &LookupContext<'_>,
) -> Result<Vec<Sample>, ApiError> {
    let mut found = Vec::new();
    // `{}` selects nothing, not everything.
    for matchers in sets.iter().filter(|matchers| !matchers.is_empty()) {
        collect(snapshot, matchers, maxt - lookback_ms, maxt, cx, &mut found)?;
    }
    // The look-up's table of strings goes, its strings stay with the result.
    cx.charge(cx.symbols().size_bytes()).map_err(ReadError::from)?;
    let texts: Arc<[Arc<str>]> = cx.symbols().strings().into();
    let mut samples: Vec<Sample> = found
        .into_iter()
        .map(|Found { labels, timestamp, value }| Sample {
            labels: ResultLabels::new(Arc::clone(&texts), labels),
            timestamp,
            value,
        })
        .collect();
    let order = |a: &Sample, b: &Sample| a.name().cmp(b.name()).then_with(|| a.labels.cmp(&b.labels));
    if !samples.is_sorted_by(|a, b| order(a, b).is_lt()) {
        samples.sort_by(order);
        samples.dedup_by(|a, b| a.labels == b.labels);
    }
    Ok(samples)
}

/// A [`Sample`] whose strings are still being collected.
struct Found {
    labels: Arc<[(Symbol, Symbol)]>,
    timestamp: i64,
    value: Value,
}

fn collect(
    snapshot: &dyn Snapshot,
    matchers: &[Matcher],
    mint: i64,
    maxt: i64,
    cx: &LookupContext<'_>,
    found: &mut Vec<Found>,
) -> Result<(), ApiError> {
    // A sample at the first millisecond counts, too, unlike in queries.
    let lookups = Lookups { start: maxt, interval: 1, n_steps: 1, lookback: maxt - mint + 1 };
    let select = Select { lookups: Some(lookups), ..Select::whole(matchers, mint, maxt) };
    let selected = snapshot.select(&select, cx)?;
    let mut batch = SampleBatch::default();
    for range in selected.partitions() {
        batch.clear();
        selected.read(range.clone(), &mut batch, cx)?;
        for (index, series) in range.clone().zip(&batch.series) {
            let Some((timestamp, value)) = last(series, &batch, mint, maxt) else { continue };
            let pairs = selected.labels(index);
            let of_value = match &value {
                Value::Float(_) => 0,
                Value::Histogram(histogram) => histogram.go_size_bytes(),
            };
            // Once as it is found, once as it is sent.
            let of_sample = size_of::<Found>() + size_of::<Sample>();
            cx.charge(size_of_val(pairs) + of_sample + of_value).map_err(ReadError::from)?;
            found.push(Found { labels: pairs.into(), timestamp, value });
        }
    }
    Ok(())
}

/// The last sample of a series between two times, unless the series has ended: text has no staleness markers.
fn last(series: &SeriesSamples, batch: &SampleBatch, mint: i64, maxt: i64) -> Option<(i64, Value)> {
    let times = &series.timestamps.times;
    let at = times.partition_point(|&time| time <= maxt).checked_sub(1)?;
    if times[at] < mint || series.stale.binary_search(&(at as u32)).is_ok() {
        return None;
    }
    let n_histograms =
        series.histograms.as_ref().map_or(0, |(_, set)| set.iter().take_while(|&i| i < at).count());
    let value = match (&series.histograms, &series.floats) {
        (Some((histograms, set)), _) if set.contains(at) => {
            Value::Histogram(Arc::clone(&batch.histograms[histograms.start as usize + n_histograms]))
        }
        (_, Floats::None) => return None,
        (_, Floats::Constant(value)) => Value::Float(*value),
        (_, Floats::Values(values)) => Value::Float(batch.values[values.start as usize + at - n_histograms]),
    };
    Some((times[at], value))
}

/// The external labels, and an empty `instance` so that the scraper does not put its own.
fn external_labels(labels: &Labels) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    all.entry("instance".to_owned()).or_default();
    all
}

/// An answer while it is written. What it is made of stays charged until this is dropped.
struct Federation {
    samples: IntoIter<Sample>,
    external: BTreeMap<String, String>,
    format: Format,
    /// Name, as it is sent, and type of the family that is being written.
    family: Option<(String, FamilyType)>,
    /// Metrics of the family that were not sent yet; protobuf only.
    metrics: Vec<u8>,
    /// Empty between samples; text only.
    text: String,
    _held: MemoryAccount,
}

impl Federation {
    fn new(
        samples: Vec<Sample>,
        external: BTreeMap<String, String>,
        format: Format,
        held: MemoryAccount,
    ) -> Self {
        Self {
            samples: samples.into_iter(),
            external,
            format,
            family: None,
            metrics: Vec::new(),
            text: String::new(),
            _held: held,
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, sample: &Sample) {
        let Format { encoding, escaping } = self.format;
        if sample.name().is_empty() {
            return;
        }
        let value = match &sample.value {
            Value::Float(value) => MetricValue::Untyped(*value),
            Value::Histogram(histogram) if histogram.uses_custom_buckets() => MetricValue::Classic(histogram),
            // Text has no native histograms.
            Value::Histogram(_) if encoding == Encoding::Text => return,
            Value::Histogram(histogram) => MetricValue::Native(histogram),
        };
        let name = escaping.escape(sample.name());
        let family_type = sample.family_type();
        let is_same = self.family.as_ref().is_some_and(|(last, kind)| *last == name && *kind == family_type);
        if !is_same {
            self.send_family(out);
            if encoding == Encoding::Text {
                let kind = if family_type == FamilyType::Untyped { "untyped" } else { "histogram" };
                self.text.push_str("# TYPE ");
                push_name(&mut self.text, &name);
                self.text.push(' ');
                self.text.push_str(kind);
                self.text.push('\n');
            }
            self.family = Some((name.clone().into_owned(), family_type));
        }
        let own = sample.labels.iter().filter(|(name, _)| *name != METRIC_NAME);
        let missing = self
            .external
            .iter()
            .filter(|(name, _)| !sample.labels.iter().any(|(own, _)| own == name.as_str()))
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let labels: Vec<_> = own.chain(missing).map(|(name, value)| (escaping.escape(name), value)).collect();
        let labels = labels.iter().map(|(name, value)| (&**name, *value));
        match encoding {
            Encoding::Protobuf => put_metric(&mut self.metrics, labels, value, sample.timestamp),
            Encoding::Text => {
                push_sample(&mut self.text, &name, labels, value, sample.timestamp);
                out.extend_from_slice(self.text.as_bytes());
                self.text.clear();
            }
        }
    }

    /// Sends what there is of the family: one that is longer than a piece goes in several messages.
    fn send_family(&mut self, out: &mut Vec<u8>) {
        if let (Some((name, kind)), false) = (&self.family, self.metrics.is_empty()) {
            put_family(out, name, *kind, &self.metrics);
            self.metrics.clear();
        }
    }
}

impl Render for Federation {
    fn render(&mut self, out: &mut Vec<u8>) -> bool {
        let goal = out.len() + PIECE_BYTES;
        while out.len() + self.metrics.len() < goal {
            let Some(sample) = self.samples.next() else {
                self.send_family(out);
                return false;
            };
            self.write(out, &sample);
        }
        self.send_family(out);
        true
    }
}

/// The lines of a sample; names are as they are sent.
fn push_sample<'a>(
    out: &mut String,
    name: &str,
    labels: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    value: MetricValue<'_>,
    timestamp: i64,
) {
    match value {
        MetricValue::Untyped(value) => push_line(out, name, labels, None, value, timestamp),
        MetricValue::Classic(histogram) | MetricValue::Native(histogram) => {
            let bucket = format!("{name}_bucket");
            for (bound, count) in classic_buckets(histogram) {
                push_line(out, &bucket, labels.clone(), Some(bound), count, timestamp);
            }
            let infinity = Some(f64::INFINITY);
            push_line(out, &bucket, labels.clone(), infinity, histogram.count, timestamp);
            push_line(out, &format!("{name}_sum"), labels.clone(), None, histogram.sum, timestamp);
            push_line(out, &format!("{name}_count"), labels, None, histogram.count, timestamp);
        }
    }
}

fn push_line<'a>(
    out: &mut String,
    name: &str,
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    bound: Option<f64>,
    value: f64,
    timestamp: i64,
) {
    // A name in quotes stands among the labels.
    let mut separator = '{';
    if !is_legacy_metric_name(name) {
        out.push('{');
        separator = ',';
    }
    push_name(out, name);
    for (label, value) in labels {
        out.push(separator);
        push_name(out, label);
        out.push_str("=\"");
        push_escaped(out, value);
        out.push('"');
        separator = ',';
    }
    if let Some(bound) = bound {
        out.push(separator);
        out.push_str("le=\"");
        out.push_str(&number(bound));
        out.push('"');
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    out.push(' ');
    out.push_str(&number(value));
    out.push(' ');
    out.push_str(itoa::Buffer::new().format(timestamp));
    out.push('\n');
}

/// As Prometheus writes it to text, where zero has no sign.
fn number(value: f64) -> String {
    format_general(if value == 0.0 { 0.0 } else { value })
}

/// A name as it is, or in quotes.
fn push_name(out: &mut String, name: &str) {
    if is_legacy_metric_name(name) {
        out.push_str(name);
    } else {
        out.push('"');
        push_escaped(out, name);
        out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_model::histogram::Span;
    use chronolith_query::{Engine, EngineOptions};
    use format::Escaping;

    fn sample(pairs: &[(&str, &str)], value: Value) -> Sample {
        let labels = Labels::from_pairs(pairs.iter().copied()).unwrap();
        Sample { labels: labels.into(), timestamp: 7, value }
    }

    fn custom(count: f64, gauge: bool) -> Value {
        Value::Histogram(Arc::new(FloatHistogram {
            counter_reset_hint: if gauge { CounterResetHint::Gauge } else { CounterResetHint::Unknown },
            schema: -53,
            count,
            sum: 2.5,
            positive_spans: vec![Span { offset: 1, length: 1 }],
            positive_buckets: vec![count],
            custom_values: Some(Arc::new([-1.0, 0.0, 2.5])),
            ..FloatHistogram::default()
        }))
    }

    fn render(samples: &[Sample], escaping: Escaping) -> String {
        let external = external_labels(&Labels::from_pairs([("zone", "z")]).unwrap());
        let held = Engine::new(EngineOptions::default()).memory_account();
        let format = Format { encoding: Encoding::Text, escaping };
        let mut answer = Federation::new(samples.to_vec(), external, format, held);
        let mut out = Vec::new();
        while answer.render(&mut out) {}
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn samples_are_grouped_by_name_with_external_labels() {
        let samples = [
            sample(&[("__name__", "a"), ("x", "1\"")], Value::Float(1.0)),
            sample(&[("__name__", "a"), ("instance", "i"), ("y.z", "")], Value::Float(1e9)),
            sample(&[("__name__", "b.c")], Value::Float(f64::NAN)),
            sample(&[("no", "name")], Value::Float(1.0)),
            sample(&[("__name__", "b.c"), ("zone", "own")], Value::Float(-0.0)),
        ];
        assert_eq!(
            render(&samples, Escaping::Underscores),
            "# TYPE a untyped\na{x=\"1\\\"\",instance=\"\",zone=\"z\"} 1 7\na{instance=\"i\",zone=\"z\"} 1e+09 7\n# TYPE b_c untyped\nb_c{instance=\"\",zone=\"z\"} NaN 7\nb_c{zone=\"own\",instance=\"\"} 0 7\n"
        );
        assert!(
            render(&samples, Escaping::AllowUtf8)
                .ends_with("# TYPE \"b.c\" untyped\n{\"b.c\",instance=\"\",zone=\"z\"} NaN 7\n{\"b.c\",zone=\"own\",instance=\"\"} 0 7\n")
        );
    }

    #[test]
    fn histograms_with_custom_buckets_are_sent_as_classic_ones_with_all_their_bounds() {
        let native = Value::Histogram(Arc::default());
        let samples = [
            sample(&[("__name__", "h")], Value::Float(1.0)),
            sample(&[("__name__", "h"), ("a", "1")], native),
            sample(&[("__name__", "h"), ("a", "2")], custom(3.0, false)),
            sample(&[("__name__", "h"), ("a", "3")], custom(4.0, true)),
        ];
        let lines = |a: u8, count: u8| {
            let labels = format!("a=\"{a}\",instance=\"\",zone=\"z\"");
            format!(
                "# TYPE h histogram\nh_bucket{{{labels},le=\"-1\"}} 0 7\nh_bucket{{{labels},le=\"0\"}} {count} 7\n\
                 h_bucket{{{labels},le=\"2.5\"}} {count} 7\nh_bucket{{{labels},le=\"+Inf\"}} {count} 7\n\
                 h_sum{{{labels}}} 2.5 7\nh_count{{{labels}}} {count} 7\n"
            )
        };
        assert_eq!(
            render(&samples, Escaping::Values),
            format!("# TYPE h untyped\nh{{instance=\"\",zone=\"z\"}} 1 7\n{}{}", lines(2, 3), lines(3, 4))
        );
    }
}
