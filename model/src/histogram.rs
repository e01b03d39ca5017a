//! Native histograms: exponential and custom buckets, as floats.
//!
//! Integer histograms exist only where they are stored and on the wire; queries see floats.

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
