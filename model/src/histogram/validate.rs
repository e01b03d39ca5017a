//! Whether a histogram that somebody sent contradicts itself. Texts are Prometheus's.
//!
//! Source: Prometheus v3.14, `model/histogram/{generic,histogram,float_histogram}.go`, `Validate`.

use super::format::GoFloat;
use super::{
    CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Histogram, IntHistogram, MAX_EXPONENTIAL_SCHEMA,
    MIN_EXPONENTIAL_SCHEMA, Span, is_custom,
};

/// What contradicts itself.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidHistogram {
    /// Schema number of no meaning.
    #[error(
        "histogram has an invalid schema, which must be between {MIN_EXPONENTIAL_SCHEMA} and \
         {MAX_EXPONENTIAL_SCHEMA} for exponential buckets, or {CUSTOM_BUCKETS_SCHEMA} for custom buckets, \
         got schema {0}"
    )]
    Schema(i32),
    /// A problem of one side.
    #[error("{side}: {reason}")]
    Side {
        /// "positive side", "negative side" or "custom buckets".
        side: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Histogram {
    /// Checks spans, counts, bounds and totals against each other.
    ///
    /// # Errors
    /// [`InvalidHistogram`] says what contradicts what.
    pub fn validate(&self) -> Result<(), InvalidHistogram> {
        match self {
            Self::Int(histogram) => histogram.validate(),
            Self::Float(histogram) => histogram.validate(),
        }
    }
}

impl FloatHistogram {
    /// As [`Histogram::validate`]. The total may be below the sum of the buckets: float sums round.
    ///
    /// # Errors
    /// [`InvalidHistogram`] says what contradicts what.
    pub fn validate(&self) -> Result<(), InvalidHistogram> {
        if is_custom(self.schema) {
            let bounds = self.custom_bounds();
            side("custom buckets", check_custom(bounds, &self.positive_spans, self.positive_buckets.len()))?;
            check_no_zero_or_negative(
                self.zero_count != 0.0,
                self.zero_threshold != 0.0,
                !self.negative_spans.is_empty(),
                !self.negative_buckets.is_empty(),
            )?;
        } else {
            check_schema(self.schema)?;
            side("positive side", check_spans(&self.positive_spans, self.positive_buckets.len()))?;
            side("negative side", check_spans(&self.negative_spans, self.negative_buckets.len()))?;
            side("negative side", check_float_counts(&self.negative_buckets))?;
            if self.zero_count < 0.0 {
                return Err(InvalidHistogram::Other(format!(
                    "zero bucket has observation count of {}: histogram has a bucket whose observation \
                     count is negative",
                    GoFloat(self.zero_count)
                )));
            }
            check_no_custom_bounds(self.custom_values.is_some())?;
        }
        if self.count < 0.0 {
            return Err(InvalidHistogram::Other(format!(
                "observation count is  {}: histogram's observation count is negative",
                GoFloat(self.count)
            )));
        }
        side("positive side", check_float_counts(&self.positive_buckets))
    }
}

impl IntHistogram {
    /// As [`Histogram::validate`].
    ///
    /// # Errors
    /// [`InvalidHistogram`] says what contradicts what.
    pub fn validate(&self) -> Result<(), InvalidHistogram> {
        let mut in_buckets = self.zero_count;
        if is_custom(self.schema) {
            let bounds = self.custom_values.as_deref().unwrap_or(&[]);
            side("custom buckets", check_custom(bounds, &self.positive_spans, self.positive_deltas.len()))?;
            check_no_zero_or_negative(
                self.zero_count != 0,
                self.zero_threshold != 0.0,
                !self.negative_spans.is_empty(),
                !self.negative_deltas.is_empty(),
            )?;
        } else {
            check_schema(self.schema)?;
            side("positive side", check_spans(&self.positive_spans, self.positive_deltas.len()))?;
            side("negative side", check_spans(&self.negative_spans, self.negative_deltas.len()))?;
            side("negative side", check_deltas(&self.negative_deltas, &mut in_buckets))?;
            check_no_custom_bounds(self.custom_values.is_some())?;
        }
        side("positive side", check_deltas(&self.positive_deltas, &mut in_buckets))?;
        let (wrong, text) = if self.sum.is_nan() {
            (
                in_buckets > self.count,
                "histogram's observation count should be at least the number of observations found in the buckets",
            )
        } else {
            (
                in_buckets != self.count,
                "histogram's observation count should equal the number of observations found in the buckets (in absence of NaN)",
            )
        };
        if wrong {
            return Err(InvalidHistogram::Other(format!(
                "{in_buckets} observations found in buckets, but the Count field is {}: {text}",
                self.count
            )));
        }
        Ok(())
    }
}

fn side(side: &'static str, checked: Result<(), String>) -> Result<(), InvalidHistogram> {
    checked.map_err(|reason| InvalidHistogram::Side { side, reason })
}

fn check_schema(schema: i32) -> Result<(), InvalidHistogram> {
    if !(MIN_EXPONENTIAL_SCHEMA..=MAX_EXPONENTIAL_SCHEMA).contains(&schema) {
        return Err(InvalidHistogram::Schema(schema));
    }
    Ok(())
}

fn check_no_custom_bounds(has_custom_bounds: bool) -> Result<(), InvalidHistogram> {
    if has_custom_bounds {
        let text = "histogram with exponential schema must not have custom bounds";
        return Err(InvalidHistogram::Other(text.to_owned()));
    }
    Ok(())
}

fn check_no_zero_or_negative(
    zero_count: bool,
    zero_threshold: bool,
    negative_spans: bool,
    negative_buckets: bool,
) -> Result<(), InvalidHistogram> {
    let text = if zero_count {
        "custom buckets: must have zero count of 0"
    } else if zero_threshold {
        "custom buckets: must have zero threshold of 0"
    } else if negative_spans {
        "custom buckets: must not have negative spans"
    } else if negative_buckets {
        "custom buckets: must not have negative buckets"
    } else {
        return Ok(());
    };
    Err(InvalidHistogram::Other(text.to_owned()))
}

fn check_spans(spans: &[Span], n_buckets: usize) -> Result<(), String> {
    let mut length = 0usize;
    for (i, span) in spans.iter().enumerate() {
        if i > 0 && span.offset < 0 {
            return Err(format!(
                "span number {} with offset {}: histogram has a span whose offset is negative",
                i + 1,
                span.offset
            ));
        }
        length = length.saturating_add(span.length as usize);
    }
    if length != n_buckets {
        return Err(format!(
            "spans need {length} buckets, have {n_buckets} buckets: histogram spans specify different \
             number of buckets than provided"
        ));
    }
    Ok(())
}

fn check_custom(bounds: &[f64], spans: &[Span], n_buckets: usize) -> Result<(), String> {
    let mut previous = None;
    for &bound in bounds {
        if bound.is_nan() {
            return Err("histogram custom bounds must not be NaN".to_owned());
        }
        if let Some(previous) = previous
            && bound <= previous
        {
            return Err(format!(
                "previous bound is {} and current is {}: histogram custom bounds must be in strictly \
                 increasing order",
                fixed(previous),
                fixed(bound)
            ));
        }
        previous = Some(bound);
    }
    if bounds.last() == Some(&f64::INFINITY) {
        let text = "last +Inf bound must not be explicitly defined: histogram custom bounds must be finite";
        return Err(text.to_owned());
    }
    if let Some((i, span)) = spans.iter().enumerate().find(|(_, span)| span.offset < 0) {
        return Err(format!(
            "span number {} with offset {}: histogram has a span whose offset is negative",
            i + 1,
            span.offset
        ));
    }
    check_spans(spans, n_buckets)?;
    let reach: u64 =
        spans.iter().map(|span| u64::from(span.length) + u64::from(span.offset.unsigned_abs())).sum();
    if bounds.len() as u64 + 1 < reach {
        return Err(format!(
            "only {} custom bounds defined which is insufficient to cover total span length of {reach}: \
             histogram custom bounds are too few",
            bounds.len()
        ));
    }
    Ok(())
}

/// As Go's `%f`.
fn fixed(value: f64) -> String {
    if value.is_finite() { format!("{value:.6}") } else { GoFloat(value).to_string() }
}

fn check_float_counts(counts: &[f64]) -> Result<(), String> {
    match counts.iter().position(|&count| count < 0.0) {
        Some(at) => Err(format!(
            "bucket number {} has observation count of {}: histogram has a bucket whose observation count \
             is negative",
            at + 1,
            GoFloat(counts[at])
        )),
        None => Ok(()),
    }
}

fn check_deltas(deltas: &[i64], total: &mut u64) -> Result<(), String> {
    let mut count = 0i64;
    for (i, &delta) in deltas.iter().enumerate() {
        count = count.wrapping_add(delta);
        if count < 0 {
            return Err(format!(
                "bucket number {} has observation count of {count}: histogram has a bucket whose \
                 observation count is negative",
                i + 1
            ));
        }
        *total = total.wrapping_add(count.unsigned_abs());
    }
    Ok(())
}
