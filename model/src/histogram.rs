//! Native histograms: exponential and custom buckets, as floats.
//!
//! Integer histograms exist only where they are stored and on the wire; queries see floats.

mod arithmetic;
mod bounds;
mod buckets;
mod format;
mod reset;
mod trim;
mod validate;

pub use arithmetic::{IncompatibleSchema, Reconciled, custom_bounds_match, kahan_increment};
pub use bounds::exponential_bound;
pub use buckets::Bucket;
pub use trim::Trim;
pub use validate::InvalidHistogram;

use crate::sample::is_stale;
use std::sync::Arc;

/// Schema number of histograms with custom bucket bounds.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;
/// The finest exponential schema that is stored; finer ones are reduced to it on the way in.
pub const MAX_EXPONENTIAL_SCHEMA: i32 = 8;
/// The coarsest exponential schema.
pub const MIN_EXPONENTIAL_SCHEMA: i32 = -4;

/// What is known about a counter reset between this histogram and the sample before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CounterResetHint {
    /// Nothing is known: compare with the sample before.
    #[default]
    Unknown = 0,
    /// A reset lies between the sample before and this one.
    Reset = 1,
    /// No reset lies between the sample before and this one.
    NotReset = 2,
    /// A gauge histogram: resets have no meaning.
    Gauge = 3,
}

/// A run of consecutive buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Gap to the end of the span before; for the first span the index of its first bucket.
    pub offset: i32,
    /// How many consecutive buckets.
    pub length: u32,
}

/// A histogram sample. Bucket counts are absolute, not deltas and not cumulative.
#[derive(Clone, Debug, Default)]
pub struct FloatHistogram {
    /// What is known about a reset before this sample.
    pub counter_reset_hint: CounterResetHint,
    /// -4 to 8, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations; at least the sum of the buckets, more where some were NaN.
    pub count: f64,
    /// Sum of observations. A staleness marker here marks the whole sample as one.
    pub sum: f64,
    /// Spans of the positive (or custom) buckets.
    pub positive_spans: Vec<Span>,
    /// Spans of the negative buckets.
    pub negative_spans: Vec<Span>,
    /// Counts of the positive (or custom) buckets.
    pub positive_buckets: Vec<f64>,
    /// Counts of the negative buckets.
    pub negative_buckets: Vec<f64>,
    /// Upper bounds of custom buckets, ascending, without +Inf; shared among samples.
    pub custom_values: Option<Arc<[f64]>>,
}

/// An integer histogram as it is stored and sent: counts as whole numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IntHistogram {
    /// What is known about a reset before this sample.
    pub counter_reset_hint: CounterResetHint,
    /// -4 to 8, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: u64,
    /// All observations.
    pub count: u64,
    /// Sum of observations. A staleness marker here marks the whole sample as one.
    pub sum: f64,
    /// Spans of the positive (or custom) buckets.
    pub positive_spans: Vec<Span>,
    /// Spans of the negative buckets.
    pub negative_spans: Vec<Span>,
    /// First count, then the difference of each bucket to the one before, as on the wire.
    pub positive_deltas: Vec<i64>,
    /// As `positive_deltas`.
    pub negative_deltas: Vec<i64>,
    /// Upper bounds of custom buckets, ascending, without +Inf.
    pub custom_values: Option<Arc<[f64]>>,
}

/// A histogram sample as it was sent and is stored: both forms come back as they went in.
#[derive(Clone, Debug)]
pub enum Histogram {
    /// Whole-number counts.
    Int(IntHistogram),
    /// Float counts.
    Float(FloatHistogram),
}

/// Whether a schema number means custom buckets.
pub const fn is_custom(schema: i32) -> bool {
    schema == CUSTOM_BUCKETS_SCHEMA
}

impl FloatHistogram {
    /// Upper bounds of custom buckets; empty for exponential histograms.
    pub fn custom_bounds(&self) -> &[f64] {
        self.custom_values.as_deref().unwrap_or(&[])
    }

    /// Whether this sample is a staleness marker.
    pub fn is_stale(&self) -> bool {
        is_stale(self.sum)
    }

    /// Whether the buckets are custom ones.
    pub fn uses_custom_buckets(&self) -> bool {
        is_custom(self.schema)
    }

    /// What Prometheus counts a histogram as in its sample statistics: bytes of the Go value.
    ///
    /// Source: Prometheus v3.14, `model/histogram/float_histogram.go`, `Size`.
    pub fn go_size_bytes(&self) -> usize {
        /// The Go struct and a pointer to it.
        const STRUCT_BYTES: usize = 168;
        let elements = self.positive_spans.len()
            + self.negative_spans.len()
            + self.positive_buckets.len()
            + self.negative_buckets.len()
            + self.custom_bounds().len();
        STRUCT_BYTES + 8 * elements
    }
}

impl IntHistogram {
    /// Whether this sample is a staleness marker.
    pub fn is_stale(&self) -> bool {
        is_stale(self.sum)
    }

    /// The same histogram with float counts.
    pub fn to_float(&self) -> FloatHistogram {
        let counts = |deltas: &[i64]| {
            deltas
                .iter()
                .scan(0.0, |count, &delta| {
                    *count += delta as f64;
                    Some(*count)
                })
                .collect()
        };
        let custom = is_custom(self.schema);
        FloatHistogram {
            counter_reset_hint: self.counter_reset_hint,
            schema: self.schema,
            zero_threshold: if custom { 0.0 } else { self.zero_threshold },
            zero_count: if custom { 0.0 } else { self.zero_count as f64 },
            count: self.count as f64,
            sum: self.sum,
            positive_spans: self.positive_spans.clone(),
            negative_spans: if custom { Vec::new() } else { self.negative_spans.clone() },
            positive_buckets: counts(&self.positive_deltas),
            negative_buckets: if custom { Vec::new() } else { counts(&self.negative_deltas) },
            custom_values: if custom { self.custom_values.clone() } else { None },
        }
    }

    /// Merges buckets to a coarser exponential schema; nothing happens if the schema is not coarser.
    pub fn reduce_resolution(&mut self, schema: i32) {
        if is_custom(self.schema) || schema >= self.schema {
            return;
        }
        let origin = self.schema;
        let reduce = |spans: &mut Vec<Span>, deltas: &mut Vec<i64>| {
            (*spans, *deltas) = buckets::reduce_deltas(spans, deltas, origin, schema);
        };
        reduce(&mut self.positive_spans, &mut self.positive_deltas);
        reduce(&mut self.negative_spans, &mut self.negative_deltas);
        self.schema = schema;
    }
}

impl Histogram {
    /// The histogram with float counts.
    pub fn to_float(&self) -> FloatHistogram {
        match self {
            Self::Int(histogram) => histogram.to_float(),
            Self::Float(histogram) => histogram.clone(),
        }
    }

    /// Whether this sample is a staleness marker.
    pub fn is_stale(&self) -> bool {
        is_stale(self.sum())
    }

    /// Sum of observations.
    pub fn sum(&self) -> f64 {
        match self {
            Self::Int(histogram) => histogram.sum,
            Self::Float(histogram) => histogram.sum,
        }
    }

    /// What is known about a reset before this sample.
    pub fn counter_reset_hint(&self) -> CounterResetHint {
        match self {
            Self::Int(histogram) => histogram.counter_reset_hint,
            Self::Float(histogram) => histogram.counter_reset_hint,
        }
    }

    /// Schema number.
    pub fn schema(&self) -> i32 {
        match self {
            Self::Int(histogram) => histogram.schema,
            Self::Float(histogram) => histogram.schema,
        }
    }

    /// Merges buckets to a coarser exponential schema; nothing happens if the schema is not coarser.
    pub fn reduce_resolution(&mut self, schema: i32) {
        match self {
            Self::Int(histogram) => histogram.reduce_resolution(schema),
            Self::Float(histogram) => histogram.reduce_resolution(schema),
        }
    }

    /// Whether both are of one form and hold the same data, bit for bit; hints are not compared. This
    /// is what makes a repeated sample a duplicate.
    pub fn same_data(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.same_data(b),
            (Self::Int(a), Self::Int(b)) => a.same_data(b),
            (Self::Int(_), Self::Float(_)) | (Self::Float(_), Self::Int(_)) => false,
        }
    }
}

impl IntHistogram {
    /// As [`Histogram::same_data`].
    pub fn same_data(&self, other: &Self) -> bool {
        self.schema == other.schema
            && self.count == other.count
            && self.zero_count == other.zero_count
            && self.sum.to_bits() == other.sum.to_bits()
            && self.zero_threshold.to_bits() == other.zero_threshold.to_bits()
            && self.positive_spans == other.positive_spans
            && self.negative_spans == other.negative_spans
            && self.positive_deltas == other.positive_deltas
            && self.negative_deltas == other.negative_deltas
            && self.custom_values == other.custom_values
    }
}

#[cfg(test)]
mod tests;
