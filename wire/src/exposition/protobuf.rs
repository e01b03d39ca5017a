//! The protobuf format of scrapes: metric families, each with its length before it.
//!
//! [`decode`] hands out points, as the text formats have samples: a classic histogram is many of them,
//! a native one is one. What names a series comes as bytes of our own making ([`Point::raw`]), by which
//! a scrape loop knows it again; [`labels`] reads them when it was not seen before.
//!
//! Source: Prometheus v3.14, `model/textparse/protobufparse.go`,
//! `prompb/io/prometheus/client/metrics.proto`.

mod write;

pub use write::{FamilyType, MetricValue, classic_buckets, put_family, put_metric};

use super::nhcb::{ClassicError, ClassicHistogram};
use super::{LabelsError, canonical, format_openmetrics_float};
use crate::protobuf::{DecodeError, Reader, Tag, unzigzag};
use crate::remote_write::prepare_histogram;
use chronolith_model::append::MetricType;
use chronolith_model::histogram::{
    CounterResetHint, FloatHistogram, Histogram, IntHistogram, InvalidHistogram, Span,
};
use chronolith_model::labels::{Labels, METRIC_NAME};

/// Between the parts of what names a series; no UTF-8 has this byte.
const SEPARATOR: u8 = 0xff;

/// What to make of histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histograms {
    /// Native histograms are wanted; otherwise only the classic part of each is read.
    pub native: bool,
    /// Classic parts are wanted beside native ones.
    pub classic_too: bool,
    /// Classic histograms become native ones with custom buckets.
    pub convert_classic: bool,
}

/// The head of a metric family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family<'a> {
    /// Its name.
    pub name: &'a str,
    /// Help, possibly empty.
    pub help: &'a str,
    /// Unit, possibly empty.
    pub unit: &'a str,
    /// Its type.
    pub metric_type: MetricType,
}

/// One sample of a series.
#[derive(Clone, Debug)]
pub struct Point<'p> {
    /// Names the series, for [`labels`]. Equal bytes mean equal labels.
    pub raw: &'p [u8],
    /// The value.
    pub value: PointValue,
    /// Milliseconds since the epoch, where the target gave one.
    pub timestamp: Option<i64>,
    /// Exemplars, not dated where the target gave no date.
    pub exemplars: Vec<PointExemplar>,
}

/// A value of either kind. NaNs are all the one NaN that Prometheus stores.
#[derive(Clone, Debug)]
pub enum PointValue {
    /// A number.
    Float(f64),
    /// A native histogram, valid.
    Histogram(Histogram),
}

/// An exemplar.
#[derive(Clone, Debug, PartialEq)]
pub struct PointExemplar {
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
    /// Milliseconds since the epoch, where the target gave one.
    pub timestamp: Option<i64>,
}

/// Why a body cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProtobufError {
    /// The bytes are no such message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A name or help that is empty or not UTF-8.
    #[error("invalid {what} in metric family {family:?}")]
    Text {
        /// What of the family.
        what: &'static str,
        /// Its name, as far as it can be read.
        family: String,
    },
    /// A type that the format does not know.
    #[error("unknown metric type {number} of metric family {family:?}")]
    Type {
        /// Name of the family.
        family: String,
        /// The number of the type.
        number: u64,
    },
    /// A native histogram that contradicts itself.
    #[error("histogram {family:?}: {reason}")]
    Histogram {
        /// Name of the family.
        family: String,
        /// What is wrong with it.
        reason: InvalidHistogram,
    },
    /// A classic histogram that cannot be made into a native one.
    #[error("histogram {family:?}: {reason}")]
    Classic {
        /// Name of the family.
        family: String,
        /// What is wrong with it.
        reason: ClassicError,
    },
}

/// Receives what a body holds, in its order.
pub trait Sink {
    /// What ends the reading early.
    type Error: From<ProtobufError>;

    /// A family begins. Families without metrics do not come.
    ///
    /// # Errors
    /// What is to end the reading.
    fn family(&mut self, family: &Family<'_>) -> Result<(), Self::Error>;

    /// A point of the family that began last.
    ///
    /// # Errors
    /// What is to end the reading.
    fn point(&mut self, family: &Family<'_>, point: Point<'_>) -> Result<(), Self::Error>;
}

/// Reads a body.
///
/// # Errors
/// [`ProtobufError`], or what the sink ends it with.
pub fn decode<S: Sink>(body: &[u8], histograms: Histograms, sink: &mut S) -> Result<(), S::Error> {
    let mut reader = Reader::new(body, "metric family");
    let mut raw = Vec::new();
    while !reader.is_done() {
        let message = reader.delimited("metric family").map_err(ProtobufError::from)?;
        let Some(family) = head(message.clone())? else { continue };
        sink.family(&family)?;
        let mut fields = message;
        while let Some(tag) = fields.tag().map_err(ProtobufError::from)? {
            if tag.number != 4 {
                fields.skip(tag).map_err(ProtobufError::from)?;
                continue;
            }
            let metric = fields.message(tag, "metric").map_err(ProtobufError::from)?;
            let metric = Metric::read(metric, family.metric_type).map_err(ProtobufError::from)?;
            metric.points(&family, histograms, &mut raw, sink)?;
        }
    }
    Ok(())
}

/// The labels that [`Point::raw`] stands for.
///
/// # Errors
/// [`LabelsError`] if they cannot be stored.
pub fn labels(raw: &[u8]) -> Result<Labels, LabelsError> {
    let invalid = || LabelsError::Name(String::from_utf8_lossy(raw).into_owned());
    let text = std::str::from_utf8;
    let mut parts = raw.split(|byte| *byte == SEPARATOR);
    let name = parts.next().and_then(|name| text(name).ok()).ok_or_else(invalid)?;
    let mut pairs = vec![(METRIC_NAME, name)];
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        let (Ok(name), Ok(value)) = (text(name), text(value)) else { return Err(invalid()) };
        if name.is_empty() {
            return Err(invalid());
        }
        pairs.push((name, value));
    }
    Ok(Labels::from_pairs(pairs)?)
}

/// Reads all of a family but its metrics; `None` if it has none.
fn head(mut message: Reader<'_>) -> Result<Option<Family<'_>>, ProtobufError> {
    let (mut name, mut help, mut unit): (&[u8], &[u8], &[u8]) = (b"", b"", b"");
    let mut number = 0;
    let mut has_metrics = false;
    while let Some(tag) = message.tag()? {
        match tag.number {
            1 => name = message.bytes(tag, "family.name")?,
            2 => help = message.bytes(tag, "family.help")?,
            3 => number = message.integer(tag, "family.type")?,
            5 => unit = message.bytes(tag, "family.unit")?,
            other => {
                has_metrics |= other == 4;
                message.skip(tag)?;
            }
        }
    }
    if !has_metrics {
        return Ok(None);
    }
    let family = || String::from_utf8_lossy(name).into_owned();
    let text =
        |bytes, what| std::str::from_utf8(bytes).map_err(|_| ProtobufError::Text { what, family: family() });
    let metric_type = match number {
        0 => MetricType::Counter,
        1 => MetricType::Gauge,
        2 => MetricType::Summary,
        3 => MetricType::Unknown,
        4 => MetricType::Histogram,
        5 => MetricType::GaugeHistogram,
        number => return Err(ProtobufError::Type { family: family(), number }),
    };
    if name.is_empty() {
        return Err(ProtobufError::Text { what: "name", family: family() });
    }
    Ok(Some(Family {
        name: text(name, "name")?,
        help: text(help, "help")?,
        unit: text(unit, "unit")?,
        metric_type,
    }))
}

/// One metric of a family. Of the messages for the types, that of the family's type counts.
#[derive(Default)]
struct Metric<'a> {
    labels: Vec<(&'a [u8], &'a [u8])>,
    /// Zero stands for "not given", as upstream.
    timestamp: i64,
    value: f64,
    exemplar: Option<RawExemplar<'a>>,
    quantiles: Vec<(f64, f64)>,
    count: f64,
    sum: f64,
    histogram: Option<Box<HistogramFields<'a>>>,
}

#[derive(Default)]
struct HistogramFields<'a> {
    count: u64,
    count_float: f64,
    /// Upper bound, cumulative count, exemplar.
    buckets: Vec<(f64, f64, Option<Box<RawExemplar<'a>>>)>,
    exemplars: Vec<RawExemplar<'a>>,
    schema: i32,
    zero_threshold: f64,
    zero_count: u64,
    zero_count_float: f64,
    negative_spans: Vec<Span>,
    negative_deltas: Vec<i64>,
    negative_counts: Vec<f64>,
    positive_spans: Vec<Span>,
    positive_deltas: Vec<i64>,
    positive_counts: Vec<f64>,
}

#[derive(Clone, Default)]
struct RawExemplar<'a> {
    labels: Vec<(&'a [u8], &'a [u8])>,
    value: f64,
    timestamp: Option<i64>,
}

impl<'a> Metric<'a> {
    fn read(mut message: Reader<'a>, metric_type: MetricType) -> Result<Self, DecodeError> {
        let mut metric = Self::default();
        while let Some(tag) = message.tag()? {
            let field = match (tag.number, metric_type) {
                (1, _) => {
                    metric.labels.push(label(message.message(tag, "metric.label")?)?);
                    continue;
                }
                (6, _) => {
                    metric.timestamp = message.integer(tag, "metric.timestamp_ms")? as i64;
                    continue;
                }
                (2, MetricType::Gauge) => "metric.gauge",
                (3, MetricType::Counter) => "metric.counter",
                (4, MetricType::Summary) => "metric.summary",
                (5, MetricType::Unknown) => "metric.untyped",
                (7, MetricType::Histogram | MetricType::GaugeHistogram) => "metric.histogram",
                _ => {
                    message.skip(tag)?;
                    continue;
                }
            };
            let mut inner = message.message(tag, field)?;
            while let Some(tag) = inner.tag()? {
                match metric_type {
                    MetricType::Summary => metric.read_summary(tag, &mut inner)?,
                    MetricType::Histogram | MetricType::GaugeHistogram => {
                        metric.read_histogram(tag, &mut inner)?;
                    }
                    _ => metric.read_simple(tag, &mut inner, metric_type)?,
                }
            }
        }
        Ok(metric)
    }

    fn read_simple(
        &mut self,
        tag: Tag,
        reader: &mut Reader<'a>,
        metric_type: MetricType,
    ) -> Result<(), DecodeError> {
        match (tag.number, metric_type) {
            (1, _) => self.value = reader.double(tag, "metric.value")?,
            (2, MetricType::Counter) => {
                self.exemplar = Some(exemplar(reader.message(tag, "metric.exemplar")?)?);
            }
            _ => reader.skip(tag)?,
        }
        Ok(())
    }

    fn read_summary(&mut self, tag: Tag, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        match tag.number {
            1 => self.count = reader.integer(tag, "summary.sample_count")? as f64,
            2 => self.sum = reader.double(tag, "summary.sample_sum")?,
            3 => {
                let mut inner = reader.message(tag, "summary.quantile")?;
                let mut pair = (0.0, 0.0);
                while let Some(tag) = inner.tag()? {
                    match tag.number {
                        1 => pair.0 = inner.double(tag, "summary.quantile.quantile")?,
                        2 => pair.1 = inner.double(tag, "summary.quantile.value")?,
                        _ => inner.skip(tag)?,
                    }
                }
                self.quantiles.push(pair);
            }
            _ => reader.skip(tag)?,
        }
        Ok(())
    }

    fn read_histogram(&mut self, tag: Tag, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let fields = self.histogram.get_or_insert_default();
        match tag.number {
            1 => fields.count = reader.integer(tag, "histogram.sample_count")?,
            2 => self.sum = reader.double(tag, "histogram.sample_sum")?,
            3 => fields.buckets.push(bucket(reader.message(tag, "histogram.bucket")?)?),
            4 => fields.count_float = reader.double(tag, "histogram.sample_count_float")?,
            5 => fields.schema = reader.signed(tag, "histogram.schema")? as i32,
            6 => fields.zero_threshold = reader.double(tag, "histogram.zero_threshold")?,
            7 => fields.zero_count = reader.integer(tag, "histogram.zero_count")?,
            8 => fields.zero_count_float = reader.double(tag, "histogram.zero_count_float")?,
            9 => fields.negative_spans.push(span(reader.message(tag, "histogram.negative_span")?)?),
            10 => {
                let field = "histogram.negative_delta";
                reader.integers(tag, field, &mut fields.negative_deltas, unzigzag)?;
            }
            11 => reader.doubles(tag, "histogram.negative_count", &mut fields.negative_counts)?,
            12 => fields.positive_spans.push(span(reader.message(tag, "histogram.positive_span")?)?),
            13 => {
                let field = "histogram.positive_delta";
                reader.integers(tag, field, &mut fields.positive_deltas, unzigzag)?;
            }
            14 => reader.doubles(tag, "histogram.positive_count", &mut fields.positive_counts)?,
            16 => fields.exemplars.push(exemplar(reader.message(tag, "histogram.exemplars")?)?),
            _ => reader.skip(tag)?,
        }
        Ok(())
    }

    fn points<S: Sink>(
        self,
        family: &Family<'_>,
        histograms: Histograms,
        raw: &mut Vec<u8>,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let bad_label = || ProtobufError::Text { what: "label", family: family.name.to_owned() };
        let is_text = |(name, value): &(&[u8], &[u8])| {
            std::str::from_utf8(name).is_ok() && std::str::from_utf8(value).is_ok()
        };
        if !self.labels.iter().all(is_text) {
            return Err(bad_label().into());
        }
        let mut out = Points {
            family,
            labels: &self.labels,
            timestamp: Some(self.timestamp).filter(|timestamp| *timestamp != 0),
            raw,
            sink,
        };
        match family.metric_type {
            MetricType::Summary => {
                out.float("_count", None, self.count, Vec::new())?;
                out.float("_sum", None, self.sum, Vec::new())?;
                for (quantile, value) in self.quantiles {
                    out.float("", Some(("quantile", quantile)), value, Vec::new())?;
                }
                Ok(())
            }
            MetricType::Histogram | MetricType::GaugeHistogram => {
                self.histogram.unwrap_or_default().points(self.sum, histograms, &mut out)
            }
            _ => {
                let exemplars = self.exemplar.map(RawExemplar::finish).into_iter().flatten().collect();
                out.float("", None, self.value, exemplars)
            }
        }
    }
}

/// Where the points of one metric go.
struct Points<'p, 'a, S> {
    family: &'p Family<'a>,
    labels: &'p [(&'a [u8], &'a [u8])],
    timestamp: Option<i64>,
    raw: &'p mut Vec<u8>,
    sink: &'p mut S,
}

impl<S: Sink> Points<'_, '_, S> {
    fn float(
        &mut self,
        suffix: &str,
        number_label: Option<(&str, f64)>,
        value: f64,
        exemplars: Vec<PointExemplar>,
    ) -> Result<(), S::Error> {
        self.point(suffix, number_label, PointValue::Float(canonical(value)), exemplars)
    }

    fn point(
        &mut self,
        suffix: &str,
        number_label: Option<(&str, f64)>,
        value: PointValue,
        exemplars: Vec<PointExemplar>,
    ) -> Result<(), S::Error> {
        self.raw.clear();
        self.raw.extend_from_slice(self.family.name.as_bytes());
        self.raw.extend_from_slice(suffix.as_bytes());
        for (name, value) in self.labels {
            push_label(self.raw, name, value);
        }
        if let Some((name, number)) = number_label {
            push_label(self.raw, name.as_bytes(), format_openmetrics_float(number).as_bytes());
        }
        self.sink.point(self.family, Point { raw: self.raw, value, timestamp: self.timestamp, exemplars })
    }
}

fn push_label(raw: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    raw.push(SEPARATOR);
    raw.extend_from_slice(name);
    raw.push(SEPARATOR);
    raw.extend_from_slice(value);
}

impl HistogramFields<'_> {
    /// No spans, no zero bucket: a target that means an empty native histogram adds an empty span.
    fn is_native(&self) -> bool {
        !self.positive_spans.is_empty()
            || !self.negative_spans.is_empty()
            || self.zero_threshold > 0.0
            || self.zero_count > 0
    }

    fn total(&self) -> f64 {
        if self.count_float == 0.0 { self.count as f64 } else { self.count_float }
    }

    fn points<S: Sink>(
        self,
        sum: f64,
        histograms: Histograms,
        out: &mut Points<'_, '_, S>,
    ) -> Result<(), S::Error> {
        let family = || out.family.name.to_owned();
        let is_gauge = out.family.metric_type == MetricType::GaugeHistogram;
        let is_native = histograms.native && self.is_native();
        // As upstream: exemplars of native histograms need a date, those of classic buckets do not.
        let dated = || -> Vec<PointExemplar> {
            let own = self.exemplars.iter();
            let of_buckets = self.buckets.iter().filter_map(|(.., exemplar)| exemplar.as_deref());
            let all: Vec<_> = if self.exemplars.is_empty() { of_buckets.collect() } else { own.collect() };
            let all = all.into_iter().filter(|exemplar| exemplar.timestamp.is_some());
            all.filter_map(|exemplar| exemplar.clone().finish()).collect()
        };
        let native = if is_native {
            let mut histogram = self.native(sum, is_gauge);
            prepare_histogram(&mut histogram)
                .map_err(|reason| ProtobufError::Histogram { family: family(), reason })?;
            Some(histogram)
        } else if histograms.convert_classic {
            let classic = ClassicHistogram {
                buckets: self.buckets.iter().map(|(bound, count, _)| (*bound, *count)).collect(),
                count: Some(self.total()),
                sum,
            };
            let converted = classic.to_native(is_gauge);
            Some(converted.map_err(|reason| ProtobufError::Classic { family: family(), reason })?)
        } else {
            None
        };
        let has_classic = if is_native {
            histograms.classic_too && !self.buckets.is_empty()
        } else {
            histograms.classic_too || !histograms.convert_classic
        };
        if let Some(histogram) = native {
            let exemplars = dated();
            out.point("", None, PointValue::Histogram(histogram), exemplars)?;
        }
        if !has_classic {
            return Ok(());
        }
        let total = self.total();
        out.float("_count", None, total, Vec::new())?;
        out.float("_sum", None, sum, Vec::new())?;
        let mut has_last = false;
        for (bound, count, exemplar) in self.buckets {
            let exemplars = exemplar.and_then(|exemplar| exemplar.finish()).into_iter().collect();
            out.float("_bucket", Some(("le", bound)), count, exemplars)?;
            has_last = bound == f64::INFINITY;
            if has_last {
                break;
            }
        }
        if has_last {
            return Ok(());
        }
        out.float("_bucket", Some(("le", f64::INFINITY)), total, Vec::new())
    }

    fn native(&self, sum: f64, is_gauge: bool) -> Histogram {
        let counter_reset_hint = if is_gauge { CounterResetHint::Gauge } else { CounterResetHint::Unknown };
        let (positive_spans, negative_spans) = (self.positive_spans.clone(), self.negative_spans.clone());
        if self.count_float > 0.0 || self.zero_count_float > 0.0 {
            return Histogram::Float(FloatHistogram {
                counter_reset_hint,
                schema: self.schema,
                zero_threshold: self.zero_threshold,
                zero_count: self.zero_count_float,
                count: self.count_float,
                sum: canonical(sum),
                positive_spans,
                negative_spans,
                positive_buckets: self.positive_counts.clone(),
                negative_buckets: self.negative_counts.clone(),
                custom_values: None,
            });
        }
        Histogram::Int(IntHistogram {
            counter_reset_hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count,
            count: self.count,
            sum: canonical(sum),
            positive_spans,
            negative_spans,
            positive_deltas: self.positive_deltas.clone(),
            negative_deltas: self.negative_deltas.clone(),
            custom_values: None,
        })
    }
}

impl RawExemplar<'_> {
    /// `None` if its labels cannot be stored: the sample is good all the same.
    fn finish(self) -> Option<PointExemplar> {
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let pairs: Option<Vec<_>> =
            self.labels.iter().map(|(name, value)| Some((text(name)?, text(value)?))).collect();
        let labels = Labels::from_pairs(pairs?).ok()?;
        Some(PointExemplar { labels, value: self.value, timestamp: self.timestamp })
    }
}

fn label<'a>(mut message: Reader<'a>) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
    let mut pair: (&'a [u8], &'a [u8]) = (b"", b"");
    while let Some(tag) = message.tag()? {
        match tag.number {
            1 => pair.0 = message.bytes(tag, "label.name")?,
            2 => pair.1 = message.bytes(tag, "label.value")?,
            _ => message.skip(tag)?,
        }
    }
    Ok(pair)
}

fn bucket(mut message: Reader<'_>) -> Result<(f64, f64, Option<Box<RawExemplar<'_>>>), DecodeError> {
    let (mut bound, mut count, mut count_float, mut of_bucket) = (0.0, 0, 0.0, None);
    while let Some(tag) = message.tag()? {
        match tag.number {
            1 => count = message.integer(tag, "bucket.cumulative_count")?,
            2 => bound = message.double(tag, "bucket.upper_bound")?,
            3 => of_bucket = Some(Box::new(exemplar(message.message(tag, "bucket.exemplar")?)?)),
            4 => count_float = message.double(tag, "bucket.cumulative_count_float")?,
            _ => message.skip(tag)?,
        }
    }
    Ok((bound, if count_float == 0.0 { count as f64 } else { count_float }, of_bucket))
}

fn span(mut message: Reader<'_>) -> Result<Span, DecodeError> {
    let mut span = Span::default();
    while let Some(tag) = message.tag()? {
        match tag.number {
            1 => span.offset = message.signed(tag, "span.offset")? as i32,
            2 => span.length = message.integer(tag, "span.length")? as u32,
            _ => message.skip(tag)?,
        }
    }
    Ok(span)
}

fn exemplar(mut message: Reader<'_>) -> Result<RawExemplar<'_>, DecodeError> {
    let mut exemplar = RawExemplar::default();
    while let Some(tag) = message.tag()? {
        match tag.number {
            1 => exemplar.labels.push(label(message.message(tag, "exemplar.label")?)?),
            2 => exemplar.value = message.double(tag, "exemplar.value")?,
            3 => exemplar.timestamp = Some(timestamp(message.message(tag, "exemplar.timestamp")?)?),
            _ => message.skip(tag)?,
        }
    }
    Ok(exemplar)
}

/// `google.protobuf.Timestamp` in milliseconds.
fn timestamp(mut message: Reader<'_>) -> Result<i64, DecodeError> {
    let (mut seconds, mut nanoseconds) = (0, 0);
    while let Some(tag) = message.tag()? {
        match tag.number {
            1 => seconds = message.integer(tag, "timestamp.seconds")? as i64,
            2 => nanoseconds = message.integer(tag, "timestamp.nanos")? as i64,
            _ => message.skip(tag)?,
        }
    }
    Ok(seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::{put_bytes, put_double, put_integer, put_message, put_packed, put_varint, zigzag};

    /// Everything as text, a line each.
    #[derive(Default)]
    struct Lines(Vec<String>);

    impl Sink for Lines {
        type Error = ProtobufError;

        fn family(&mut self, family: &Family<'_>) -> Result<(), ProtobufError> {
            self.0.push(format!(
                "# {} {:?} {:?} {:?}",
                family.name, family.metric_type, family.help, family.unit
            ));
            Ok(())
        }

        fn point(&mut self, _: &Family<'_>, point: Point<'_>) -> Result<(), ProtobufError> {
            let labels =
                labels(point.raw).map_or_else(|error| error.to_string(), |labels| labels.to_string());
            let value = match point.value {
                PointValue::Float(value) => value.to_string(),
                PointValue::Histogram(Histogram::Int(h)) => {
                    format!(
                        "int {} {:?} {:?} {:?}",
                        h.schema,
                        h.positive_spans.len(),
                        h.positive_deltas,
                        h.custom_values
                    )
                }
                PointValue::Histogram(Histogram::Float(h)) => format!("float {:?}", h.positive_buckets),
            };
            let timestamp = point.timestamp.map_or(String::new(), |timestamp| format!(" @{timestamp}"));
            let exemplars = point.exemplars.iter();
            let exemplars = exemplars.map(|e| format!(" # {} {} {:?}", e.labels, e.value, e.timestamp));
            self.0.push(format!("{labels} {value}{timestamp}{}", exemplars.collect::<String>()));
            Ok(())
        }
    }

    /// Writes the fields of a metric.
    type WriteMetric<'m> = &'m dyn Fn(&mut Vec<u8>);

    fn family(name: &str, number: u64, metrics: &[WriteMetric<'_>]) -> Vec<u8> {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, name.as_bytes());
        put_bytes(&mut message, 2, b"Help.");
        put_integer(&mut message, 3, number);
        for metric in metrics {
            put_message(&mut message, 4, metric);
        }
        put_bytes(&mut message, 5, b"seconds");
        let mut body = Vec::new();
        put_varint(&mut body, message.len() as u64);
        body.extend_from_slice(&message);
        body
    }

    fn put_label(out: &mut Vec<u8>, name: &str, value: &str) {
        put_message(out, 1, |out| {
            put_bytes(out, 1, name.as_bytes());
            put_bytes(out, 2, value.as_bytes());
        });
    }

    fn put_exemplar(out: &mut Vec<u8>, number: u32, value: f64, is_dated: bool) {
        put_message(out, number, |out| {
            put_label(out, "id", "x");
            put_double(out, 2, value);
            if is_dated {
                put_message(out, 3, |out| {
                    put_integer(out, 1, 12);
                    put_integer(out, 2, 345_678_901);
                });
            }
        });
    }

    fn check(body: &[u8], histograms: Histograms, expected: &[&str]) {
        let mut lines = Lines::default();
        decode(body, histograms, &mut lines).unwrap();
        assert_eq!(lines.0, expected);
    }

    const CLASSIC: Histograms = Histograms { native: false, classic_too: false, convert_classic: false };
    const NATIVE: Histograms = Histograms { native: true, ..CLASSIC };

    /// One with both parts.
    fn histogram() -> Vec<u8> {
        family(
            "h",
            4,
            &[&|out| {
                put_label(out, "a", "b");
                put_message(out, 7, |out| {
                    put_integer(out, 1, 3);
                    put_double(out, 2, 4.5);
                    for (bound, count) in [(0.5, 1), (2.0, 3)] {
                        put_message(out, 3, |out| {
                            put_integer(out, 1, count);
                            put_double(out, 2, bound);
                            put_exemplar(out, 3, bound, bound > 1.0);
                        });
                    }
                    put_integer(out, 5, zigzag(1));
                    put_double(out, 6, 0.001);
                    put_integer(out, 7, 1);
                    put_message(out, 12, |out| {
                        put_integer(out, 1, zigzag(-1));
                        put_integer(out, 2, 2);
                    });
                    put_packed(out, 13, [1, 0].into_iter().map(zigzag));
                });
            }],
        )
    }

    #[test]
    fn simple_metrics_have_a_point_each() {
        let mut body = family(
            "c_total",
            0,
            &[&|out| {
                put_label(out, "a", "b");
                put_message(out, 3, |out| {
                    put_double(out, 1, 5.0);
                    put_exemplar(out, 2, 0.5, true);
                });
                put_integer(out, 6, 1234);
            }],
        );
        // A gauge is not read where a counter is announced, and the other way round.
        body.extend(family(
            "g",
            1,
            &[&|out| put_message(out, 2, |out| put_double(out, 1, f64::NAN)), &|out| {
                put_message(out, 3, |out| put_double(out, 1, 7.0));
            }],
        ));
        body.extend(family("empty", 1, &[]));
        body.extend(family("u", 3, &[&|out| put_message(out, 5, |out| put_double(out, 1, -1.0))]));
        check(
            &body,
            NATIVE,
            &[
                "# c_total Counter \"Help.\" \"seconds\"",
                "{__name__=\"c_total\", a=\"b\"} 5 @1234 # {id=\"x\"} 0.5 Some(12345)",
                "# g Gauge \"Help.\" \"seconds\"",
                "{__name__=\"g\"} NaN",
                "{__name__=\"g\"} 0",
                "# u Unknown \"Help.\" \"seconds\"",
                "{__name__=\"u\"} -1",
            ],
        );
    }

    #[test]
    fn summaries_have_a_point_for_each_quantile() {
        let body = family(
            "s",
            2,
            &[&|out| {
                put_message(out, 4, |out| {
                    put_integer(out, 1, 4);
                    put_double(out, 2, 2.5);
                    put_message(out, 3, |out| {
                        put_double(out, 1, 0.5);
                        put_double(out, 2, 9.0);
                    });
                });
            }],
        );
        let expected = [
            "# s Summary \"Help.\" \"seconds\"",
            "{__name__=\"s_count\"} 4",
            "{__name__=\"s_sum\"} 2.5",
            "{__name__=\"s\", quantile=\"0.5\"} 9",
        ];
        check(&body, NATIVE, &expected);
    }

    #[test]
    fn histograms_come_native_or_classic_or_both() {
        let head = "# h Histogram \"Help.\" \"seconds\"";
        let native = "{__name__=\"h\", a=\"b\"} int 1 1 [1, 0] None # {id=\"x\"} 2 Some(12345)";
        let classic = [
            "{__name__=\"h_count\", a=\"b\"} 3",
            "{__name__=\"h_sum\", a=\"b\"} 4.5",
            "{__name__=\"h_bucket\", a=\"b\", le=\"0.5\"} 1 # {id=\"x\"} 0.5 None",
            "{__name__=\"h_bucket\", a=\"b\", le=\"2.0\"} 3 # {id=\"x\"} 2 Some(12345)",
            "{__name__=\"h_bucket\", a=\"b\", le=\"+Inf\"} 3",
        ];
        let [count, sum, first, second, last] = classic;
        check(&histogram(), NATIVE, &[head, native]);
        check(&histogram(), CLASSIC, &[head, count, sum, first, second, last]);
        let both = Histograms { classic_too: true, ..NATIVE };
        check(&histogram(), both, &[head, native, count, sum, first, second, last]);
        let convert = Histograms { convert_classic: true, ..CLASSIC };
        let custom = "{__name__=\"h\", a=\"b\"} int -53 1 [1, 1] Some([0.5, 2.0]) # {id=\"x\"} 2 Some(12345)";
        check(&histogram(), convert, &[head, custom]);
        // What is native already is not converted.
        check(&histogram(), Histograms { convert_classic: true, ..NATIVE }, &[head, native]);
    }

    #[test]
    fn bodies_that_make_no_sense_are_refused() {
        let error = |body: &[u8]| decode(body, NATIVE, &mut Lines::default()).unwrap_err().to_string();
        assert_eq!(error(&[5, 0]), "metric family at byte 1: length 5 reaches beyond the message");
        assert_eq!(error(&family("", 0, &[&|_| {}])), "invalid name in metric family \"\"");
        assert_eq!(error(&family("x", 9, &[&|_| {}])), "unknown metric type 9 of metric family \"x\"");
        let bad_label = family(
            "x",
            0,
            &[&|out: &mut Vec<u8>| {
                put_message(out, 1, |out| put_bytes(out, 1, b"\xff"));
            }],
        );
        assert_eq!(error(&bad_label), "invalid label in metric family \"x\"");
        let bad_histogram = family(
            "x",
            4,
            &[&|out: &mut Vec<u8>| {
                put_message(out, 7, |out| put_message(out, 12, |out| put_integer(out, 2, 9)));
            }],
        );
        assert!(error(&bad_histogram).starts_with("histogram \"x\": "), "{}", error(&bad_histogram));
        let whole = histogram();
        for end in 1..whole.len() {
            error(&whole[..end]);
        }
    }

    proptest::proptest! {
        /// Whatever the bytes are, reading ends, and histograms that come out are valid.
        #[test]
        fn no_byte_makes_it_panic(changes in proptest::collection::vec((0usize..120, 0u8..=255), 0..6)) {
            struct Valid;
            impl Sink for Valid {
                type Error = ProtobufError;
                fn family(&mut self, _: &Family<'_>) -> Result<(), ProtobufError> {
                    Ok(())
                }
                fn point(&mut self, _: &Family<'_>, point: Point<'_>) -> Result<(), ProtobufError> {
                    let _ = labels(point.raw);
                    if let PointValue::Histogram(histogram) = point.value {
                        assert_eq!(histogram.validate(), Ok(()));
                    }
                    Ok(())
                }
            }
            let mut body = histogram();
            let n_bytes = body.len();
            for (at, value) in changes {
                body[at % n_bytes] = value;
            }
            for convert_classic in [false, true] {
                for native in [false, true] {
                    let _ = decode(&body, Histograms { native, classic_too: true, convert_classic }, &mut Valid);
                }
            }
        }
    }

    #[test]
    fn labels_that_cannot_be_stored_are_refused_one_by_one() {
        assert!(labels(b"x\xffa\xff1\xffa\xff2").is_err());
        assert!(labels(b"x\xff\xff1").is_err());
        assert_eq!(labels(b"x\xffa\xff").unwrap().to_string(), "{__name__=\"x\"}");
    }
}
