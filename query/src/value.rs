//! What a query returns.

use chronolith_model::{FloatHistogram, Labels};
use std::sync::Arc;

/// The value of an expression.
#[derive(Clone, Debug)]
pub enum Value {
    /// One number.
    Scalar {
        /// Evaluation time in milliseconds.
        timestamp: i64,
        /// The number.
        value: f64,
    },
    /// A literal string; the bytes need not be UTF-8.
    String {
        /// Evaluation time in milliseconds.
        timestamp: i64,
        /// The bytes.
        value: Vec<u8>,
    },
    /// Samples at one time, in the order of evaluation (sorted only where the query says so).
    Vector(Vec<InstantSample>),
    /// Series of samples, sorted by labels in the API's order.
    Matrix(Vec<RangeSeries>),
}

/// The value of a sample.
#[derive(Clone, Debug)]
pub enum SampleValue {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<FloatHistogram>),
}

/// A sample of an instant vector.
#[derive(Clone, Debug)]
pub struct InstantSample {
    /// Labels of the series.
    pub labels: Labels,
    /// Evaluation time in milliseconds, not the time of the stored sample.
    pub timestamp: i64,
    /// The value.
    pub value: SampleValue,
}

/// A series of a matrix. No timestamp is in both lists.
#[derive(Clone, Debug, Default)]
pub struct RangeSeries {
    /// Labels of the series.
    pub labels: Labels,
    /// Timestamps in milliseconds, ascending, and values.
    pub floats: Vec<(i64, f64)>,
    /// Timestamps in milliseconds, ascending, and native histograms.
    pub histograms: Vec<(i64, Arc<FloatHistogram>)>,
}
