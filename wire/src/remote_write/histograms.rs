//! The histogram message, which remote write 1.0 and 2.0 share but for the start timestamp.
//!
//! Source: Prometheus v3.14, `prompb/types.proto`, `prompb/codec.go` and
//! `storage/remote/write_handler.go` (`remoteWriteAppender.AppendHistogram`).

use super::protobuf::{
    self, DecodeError, DecodeErrorKind, Reader, Tag, put_double, put_integer, put_message,
};
use chronolith_model::append::HistogramSample;
use chronolith_model::histogram::{
    CUSTOM_BUCKETS_SCHEMA, CounterResetHint, FloatHistogram, Histogram, IntHistogram, InvalidHistogram,
    MAX_EXPONENTIAL_SCHEMA, Span,
};
use std::sync::Arc;

/// A histogram with nothing but its timestamp takes 11 bytes on the wire and 250 in a batch. One that is
/// shorter cannot be meant, and many of them would turn a small body into gigabytes.
const MAX_EXPANSION: usize = 32;

/// Exponential schemas above what is stored that a sender may use: their buckets are merged.
const REDUCIBLE_SCHEMAS: std::ops::RangeInclusive<i32> = MAX_EXPONENTIAL_SCHEMA + 1..=52;

/// Reads histograms of one request. Custom bounds that repeat, as they do for all samples of a
/// family, are kept once.
#[derive(Debug)]
pub(super) struct HistogramDecoder {
    left: usize,
    last_custom_values: Option<Arc<[f64]>>,
}

/// The message as it stands.
#[derive(Debug, Default)]
struct Fields {
    count_int: u64,
    count_float: Option<f64>,
    sum: f64,
    schema: i32,
    zero_threshold: f64,
    zero_count_int: u64,
    zero_count_float: f64,
    negative_spans: Vec<Span>,
    negative_deltas: Vec<i64>,
    negative_counts: Vec<f64>,
    positive_spans: Vec<Span>,
    positive_deltas: Vec<i64>,
    positive_counts: Vec<f64>,
    reset_hint: u64,
    timestamp: i64,
    custom_values: Vec<f64>,
    start_timestamp: i64,
}

impl HistogramDecoder {
    /// For a request of `body_bytes`, which bounds how many histograms it can hold.
    pub fn new(body_bytes: usize) -> Self {
        let left = body_bytes.saturating_mul(MAX_EXPANSION) / size_of::<HistogramSample>() + 1;
        Self { left, last_custom_values: None }
    }

    pub fn decode(&mut self, mut reader: Reader<'_>) -> Result<HistogramSample, DecodeError> {
        self.left = self.left.checked_sub(1).ok_or_else(|| reader.error(DecodeErrorKind::TooMany))?;
        let mut fields = Fields::default();
        while let Some(tag) = reader.tag()? {
            fields.read(tag, &mut reader)?;
        }
        Ok(self.finish(fields))
    }

    fn finish(&mut self, fields: Fields) -> HistogramSample {
        let custom_values = self.share(fields.schema, fields.custom_values);
        let counter_reset_hint = match fields.reset_hint {
            1 => CounterResetHint::Reset,
            2 => CounterResetHint::NotReset,
            3 => CounterResetHint::Gauge,
            _ => CounterResetHint::Unknown,
        };
        let histogram = match fields.count_float {
            Some(count) => Histogram::Float(FloatHistogram {
                counter_reset_hint,
                schema: fields.schema,
                zero_threshold: fields.zero_threshold,
                zero_count: fields.zero_count_float,
                count,
                sum: fields.sum,
                positive_spans: fields.positive_spans,
                negative_spans: fields.negative_spans,
                positive_buckets: fields.positive_counts,
                negative_buckets: fields.negative_counts,
                custom_values,
            }),
            None => Histogram::Int(IntHistogram {
                counter_reset_hint,
                schema: fields.schema,
                zero_threshold: fields.zero_threshold,
                zero_count: fields.zero_count_int,
                count: fields.count_int,
                sum: fields.sum,
                positive_spans: fields.positive_spans,
                negative_spans: fields.negative_spans,
                positive_deltas: fields.positive_deltas,
                negative_deltas: fields.negative_deltas,
                custom_values,
            }),
        };
        HistogramSample { timestamp: fields.timestamp, start_timestamp: fields.start_timestamp, histogram }
    }

    fn share(&mut self, schema: i32, values: Vec<f64>) -> Option<Arc<[f64]>> {
        if schema != CUSTOM_BUCKETS_SCHEMA && values.is_empty() {
            return None;
        }
        let same = |last: &Arc<[f64]>| {
            last.len() == values.len() && last.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits())
        };
        if !self.last_custom_values.as_ref().is_some_and(same) {
            self.last_custom_values = Some(values.into());
        }
        self.last_custom_values.clone()
    }
}

impl Fields {
    fn read(&mut self, tag: Tag, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        match tag.number {
            1 => {
                self.count_int = reader.integer(tag, "histograms.count_int")?;
                self.count_float = None;
            }
            2 => self.count_float = Some(reader.double(tag, "histograms.count_float")?),
            3 => self.sum = reader.double(tag, "histograms.sum")?,
            4 => self.schema = reader.signed(tag, "histograms.schema")? as i32,
            5 => self.zero_threshold = reader.double(tag, "histograms.zero_threshold")?,
            6 => {
                self.zero_count_int = reader.integer(tag, "histograms.zero_count_int")?;
                self.zero_count_float = 0.0;
            }
            7 => {
                self.zero_count_float = reader.double(tag, "histograms.zero_count_float")?;
                self.zero_count_int = 0;
            }
            8 => self.negative_spans.push(span(reader.message(tag, "histograms.negative_spans")?)?),
            9 => {
                let field = "histograms.negative_deltas";
                reader.integers(tag, field, &mut self.negative_deltas, protobuf::unzigzag)?;
            }
            10 => reader.doubles(tag, "histograms.negative_counts", &mut self.negative_counts)?,
            11 => self.positive_spans.push(span(reader.message(tag, "histograms.positive_spans")?)?),
            12 => {
                let field = "histograms.positive_deltas";
                reader.integers(tag, field, &mut self.positive_deltas, protobuf::unzigzag)?;
            }
            13 => reader.doubles(tag, "histograms.positive_counts", &mut self.positive_counts)?,
            14 => self.reset_hint = reader.integer(tag, "histograms.reset_hint")?,
            15 => self.timestamp = reader.integer(tag, "histograms.timestamp")? as i64,
            16 => reader.doubles(tag, "histograms.custom_values", &mut self.custom_values)?,
            17 => self.start_timestamp = reader.integer(tag, "histograms.start_timestamp")? as i64,
            _ => reader.skip(tag)?,
        }
        Ok(())
    }
}

/// Keeps of the histograms from `first` on those that make sense, at a resolution that is stored, and
/// hands the reasons against the others to `refuse`.
pub(super) fn retain_valid(
    histograms: &mut Vec<HistogramSample>,
    first: usize,
    mut refuse: impl FnMut(InvalidHistogram),
) {
    let mut kept = first;
    for i in first..histograms.len() {
        match prepare(&mut histograms[i].histogram) {
            Ok(()) => {
                histograms.swap(kept, i);
                kept += 1;
            }
            Err(reason) => refuse(reason),
        }
    }
    histograms.truncate(kept);
}

/// Checks a histogram and brings it to a resolution that is stored.
pub(crate) fn prepare(histogram: &mut Histogram) -> Result<(), InvalidHistogram> {
    let schema = histogram.schema();
    if !REDUCIBLE_SCHEMAS.contains(&schema) {
        return histogram.validate();
    }
    // Spans and counts are checked before buckets are merged by them, under a schema that passes.
    set_schema(histogram, MAX_EXPONENTIAL_SCHEMA);
    histogram.validate()?;
    set_schema(histogram, schema);
    histogram.reduce_resolution(MAX_EXPONENTIAL_SCHEMA);
    // Numbers of buckets beyond 32 bits pass as spans but not in order.
    histogram.validate()
}

fn set_schema(histogram: &mut Histogram, schema: i32) {
    match histogram {
        Histogram::Int(histogram) => histogram.schema = schema,
        Histogram::Float(histogram) => histogram.schema = schema,
    }
}

fn span(mut reader: Reader<'_>) -> Result<Span, DecodeError> {
    let mut span = Span::default();
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => span.offset = reader.signed(tag, "histograms.spans.offset")? as i32,
            2 => span.length = reader.integer(tag, "histograms.spans.length")? as u32,
            _ => reader.skip(tag)?,
        }
    }
    Ok(span)
}

/// Writes the fields of the message, without tag and length of the message itself.
pub(super) fn put_histogram(out: &mut Vec<u8>, sample: &HistogramSample, with_start_timestamp: bool) {
    match &sample.histogram {
        Histogram::Int(histogram) => {
            put_oneof_integer(out, 1, histogram.count);
            put_double(out, 3, histogram.sum);
            put_integer(out, 4, protobuf::zigzag(histogram.schema.into()));
            put_double(out, 5, histogram.zero_threshold);
            put_oneof_integer(out, 6, histogram.zero_count);
            put_spans(out, 8, &histogram.negative_spans);
            let deltas = histogram.negative_deltas.iter();
            protobuf::put_packed(out, 9, deltas.map(|&delta| protobuf::zigzag(delta)));
            put_spans(out, 11, &histogram.positive_spans);
            let deltas = histogram.positive_deltas.iter();
            protobuf::put_packed(out, 12, deltas.map(|&delta| protobuf::zigzag(delta)));
            put_integer(out, 14, histogram.counter_reset_hint as u64);
        }
        Histogram::Float(histogram) => {
            put_oneof_double(out, 2, histogram.count);
            put_double(out, 3, histogram.sum);
            put_integer(out, 4, protobuf::zigzag(histogram.schema.into()));
            put_double(out, 5, histogram.zero_threshold);
            put_oneof_double(out, 7, histogram.zero_count);
            put_spans(out, 8, &histogram.negative_spans);
            protobuf::put_packed_doubles(out, 10, &histogram.negative_buckets);
            put_spans(out, 11, &histogram.positive_spans);
            protobuf::put_packed_doubles(out, 13, &histogram.positive_buckets);
            put_integer(out, 14, histogram.counter_reset_hint as u64);
        }
    }
    put_integer(out, 15, sample.timestamp as u64);
    let custom_values = match &sample.histogram {
        Histogram::Int(histogram) => &histogram.custom_values,
        Histogram::Float(histogram) => &histogram.custom_values,
    };
    protobuf::put_packed_doubles(out, 16, custom_values.as_deref().unwrap_or_default());
    if with_start_timestamp {
        put_integer(out, 17, sample.start_timestamp as u64);
    }
}

/// Members of a oneof are written even if zero: they say which one it is.
fn put_oneof_integer(out: &mut Vec<u8>, number: u32, value: u64) {
    protobuf::put_tag(out, number, protobuf::VARINT);
    protobuf::put_varint(out, value);
}

fn put_oneof_double(out: &mut Vec<u8>, number: u32, value: f64) {
    protobuf::put_tag(out, number, protobuf::FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_spans(out: &mut Vec<u8>, number: u32, spans: &[Span]) {
    for span in spans {
        put_message(out, number, |out| {
            put_integer(out, 1, protobuf::zigzag(span.offset.into()));
            put_integer(out, 2, span.length.into());
        });
    }
}
