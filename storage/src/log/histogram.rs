//! Histograms as bytes of the log: every field as it was sent, so that a replayed histogram is the
//! one that was acknowledged, bit for bit. Equal bytes also define "the same histogram again".

use crate::index::varint::{Bytes, put_varint, put_zigzag};
use chronolith_model::histogram::{CounterResetHint, FloatHistogram, Histogram, IntHistogram, Span};
use std::sync::Arc;

const FORM_INT: u8 = 0;
const FORM_FLOAT: u8 = 1;

/// Appends a histogram.
pub fn encode(histogram: &Histogram, out: &mut Vec<u8>) {
    match histogram {
        Histogram::Int(int) => {
            out.extend([FORM_INT, int.counter_reset_hint as u8]);
            put_zigzag(out, i64::from(int.schema));
            put_float(out, int.zero_threshold);
            put_varint(out, int.zero_count);
            put_varint(out, int.count);
            put_float(out, int.sum);
            put_spans(out, &int.positive_spans);
            put_spans(out, &int.negative_spans);
            for deltas in [&int.positive_deltas, &int.negative_deltas] {
                put_varint(out, deltas.len() as u64);
                deltas.iter().for_each(|&delta| put_zigzag(out, delta));
            }
            put_custom(out, int.custom_values.as_deref());
        }
        Histogram::Float(float) => {
            out.extend([FORM_FLOAT, float.counter_reset_hint as u8]);
            put_zigzag(out, i64::from(float.schema));
            put_float(out, float.zero_threshold);
            put_float(out, float.zero_count);
            put_float(out, float.count);
            put_float(out, float.sum);
            put_spans(out, &float.positive_spans);
            put_spans(out, &float.negative_spans);
            put_floats(out, &float.positive_buckets);
            put_floats(out, &float.negative_buckets);
            put_custom(out, float.custom_values.as_deref());
        }
    }
}

fn put_float(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

fn put_floats(out: &mut Vec<u8>, values: &[f64]) {
    put_varint(out, values.len() as u64);
    values.iter().for_each(|&value| put_float(out, value));
}

fn put_spans(out: &mut Vec<u8>, spans: &[Span]) {
    put_varint(out, spans.len() as u64);
    for span in spans {
        put_zigzag(out, i64::from(span.offset));
        put_varint(out, u64::from(span.length));
    }
}

fn put_custom(out: &mut Vec<u8>, values: Option<&[f64]>) {
    match values {
        None => out.push(0),
        Some(values) => {
            out.push(1);
            put_floats(out, values);
        }
    }
}

/// The histogram that [`encode`] gave these bytes.
///
/// # Panics
/// If they are others.
pub(crate) fn restore(bytes: &[u8]) -> Histogram {
    decode(&mut Bytes(bytes)).expect("an encoded histogram decodes")
}

/// Reads a histogram; `None` if the bytes are none. Counts are checked against the bytes that are
/// left before anything is allocated.
pub(crate) fn decode(bytes: &mut Bytes<'_>) -> Option<Histogram> {
    let form = bytes.u8()?;
    let counter_reset_hint = match bytes.u8()? {
        0 => CounterResetHint::Unknown,
        1 => CounterResetHint::Reset,
        2 => CounterResetHint::NotReset,
        3 => CounterResetHint::Gauge,
        _ => return None,
    };
    let schema = i32::try_from(bytes.zigzag()?).ok()?;
    let zero_threshold = take_float(bytes)?;
    match form {
        FORM_INT => Some(Histogram::Int(IntHistogram {
            counter_reset_hint,
            schema,
            zero_threshold,
            zero_count: bytes.varint()?,
            count: bytes.varint()?,
            sum: take_float(bytes)?,
            positive_spans: take_spans(bytes)?,
            negative_spans: take_spans(bytes)?,
            positive_deltas: take_list(bytes, 1, |bytes| bytes.zigzag())?,
            negative_deltas: take_list(bytes, 1, |bytes| bytes.zigzag())?,
            custom_values: take_custom(bytes)?,
        })),
        FORM_FLOAT => Some(Histogram::Float(FloatHistogram {
            counter_reset_hint,
            schema,
            zero_threshold,
            zero_count: take_float(bytes)?,
            count: take_float(bytes)?,
            sum: take_float(bytes)?,
            positive_spans: take_spans(bytes)?,
            negative_spans: take_spans(bytes)?,
            positive_buckets: take_list(bytes, 8, take_float)?,
            negative_buckets: take_list(bytes, 8, take_float)?,
            custom_values: take_custom(bytes)?,
        })),
        _ => None,
    }
}

pub(super) fn take_float(bytes: &mut Bytes<'_>) -> Option<f64> {
    let raw: [u8; 8] = bytes.take(8)?.try_into().ok()?;
    Some(f64::from_bits(u64::from_le_bytes(raw)))
}

fn take_list<T>(
    bytes: &mut Bytes<'_>,
    min_bytes: usize,
    mut take: impl FnMut(&mut Bytes<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let count = usize::try_from(bytes.varint()?).ok()?;
    if count > bytes.len() / min_bytes {
        return None;
    }
    (0..count).map(|_| take(bytes)).collect()
}

fn take_spans(bytes: &mut Bytes<'_>) -> Option<Vec<Span>> {
    take_list(bytes, 2, |bytes| {
        Some(Span { offset: i32::try_from(bytes.zigzag()?).ok()?, length: bytes.varint_u32()? })
    })
}

fn take_custom(bytes: &mut Bytes<'_>) -> Option<Option<Arc<[f64]>>> {
    match bytes.u8()? {
        0 => Some(None),
        1 => Some(Some(take_list(bytes, 8, take_float)?.into())),
        _ => None,
    }
}
