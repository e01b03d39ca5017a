//! A classic histogram, bucket by bucket, made into a native one with custom buckets.
//!
//! Source: Prometheus v3.14, `util/convertnhcb/convertnhcb.go`.

use chronolith_model::histogram::{
    CUSTOM_BUCKETS_SCHEMA, CounterResetHint, FloatHistogram, Histogram, IntHistogram, InvalidHistogram, Span,
};

/// Why buckets are no histogram.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClassicError {
    /// A bound that is no number.
    #[error("bucket boundary is NaN")]
    NanBound,
    /// A count below zero.
    #[error("bucket count must be non-negative: le={bound}, count={count}")]
    NegativeBucket {
        /// Upper bound of the bucket.
        bound: f64,
        /// What it counts.
        count: f64,
    },
    /// A count of all below zero.
    #[error("count must be non-negative: count={0}")]
    NegativeCount(f64),
    /// A bucket that counts less than the one below it.
    #[error("count is not cumulative: le={bound}, count={count}, but {below} below it")]
    NotCumulative {
        /// Upper bound of the bucket.
        bound: f64,
        /// What it counts.
        count: f64,
        /// What the bucket below it counts.
        below: f64,
    },
    /// The buckets and the count of all do not agree.
    #[error("count mismatch: count={count} != le=+Inf count={last}")]
    Mismatch {
        /// The count of all.
        count: f64,
        /// What the last bucket counts.
        last: f64,
    },
    /// Anything else that no histogram may be.
    #[error(transparent)]
    Invalid(InvalidHistogram),
}

/// What was seen of one classic histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassicHistogram {
    /// Upper bounds and cumulative counts, in any order, bounds possibly twice.
    pub buckets: Vec<(f64, f64)>,
    /// The count of all, where there is one.
    pub count: Option<f64>,
    /// The sum of all observations.
    pub sum: f64,
}

impl ClassicHistogram {
    /// The native histogram: with integers, unless one of the counts is none.
    ///
    /// # Errors
    /// [`ClassicError`] if the buckets contradict each other.
    pub fn to_native(&self, is_gauge: bool) -> Result<Histogram, ClassicError> {
        let histogram = self.convert(is_gauge)?;
        histogram.validate().map_err(ClassicError::Invalid)?;
        Ok(histogram)
    }

    fn convert(&self, is_gauge: bool) -> Result<Histogram, ClassicError> {
        let mut buckets = self.buckets.clone();
        for &(bound, count) in &buckets {
            if bound.is_nan() {
                return Err(ClassicError::NanBound);
            }
            if count < 0.0 {
                return Err(ClassicError::NegativeBucket { bound, count });
            }
        }
        if let Some(count) = self.count.filter(|count| *count < 0.0) {
            return Err(ClassicError::NegativeCount(count));
        }
        // The sort is stable: of a bound that comes twice, the first stays.
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets.dedup_by(|later, first| later.0 == first.0);
        for pair in buckets.windows(2) {
            if pair[1].1 < pair[0].1 {
                let (bound, count) = pair[1];
                return Err(ClassicError::NotCumulative { bound, count, below: pair[0].1 });
            }
        }
        let count = self.count.or(buckets.last().map(|(_, count)| *count)).unwrap_or(0.0);
        if buckets.last().is_none_or(|(bound, _)| *bound != f64::INFINITY) {
            buckets.push((f64::INFINITY, count));
        }
        let last = buckets.last().map_or(0.0, |(_, count)| *count);
        if count != last {
            return Err(ClassicError::Mismatch { count, last });
        }
        let bounds: Vec<f64> = buckets[..buckets.len() - 1].iter().map(|(bound, _)| *bound).collect();
        let hint = if is_gauge { CounterResetHint::Gauge } else { CounterResetHint::Unknown };
        // Counts beyond 2^53 are whole, but not exact any more.
        let is_whole = |value: f64| value.fract() == 0.0 && value <= (1u64 << 53) as f64;
        let below = std::iter::once(0.0).chain(buckets.iter().map(|(_, count)| *count));
        let counts = buckets.iter().zip(below).map(|((_, count), below)| count - below);
        if buckets.iter().any(|(_, count)| !is_whole(*count)) {
            let (spans, counts) = without_empty(counts.map(|count| (count, count == 0.0)));
            return Ok(Histogram::Float(FloatHistogram {
                counter_reset_hint: hint,
                schema: CUSTOM_BUCKETS_SCHEMA,
                zero_threshold: 0.0,
                zero_count: 0.0,
                count,
                sum: self.sum,
                positive_spans: spans,
                negative_spans: Vec::new(),
                positive_buckets: counts,
                negative_buckets: Vec::new(),
                custom_values: Some(bounds.into()),
            }));
        }
        let (spans, counts) = without_empty(counts.map(|count| (count as i64, count == 0.0)));
        let mut before = 0;
        let deltas = counts.iter().map(|count| count - std::mem::replace(&mut before, *count)).collect();
        Ok(Histogram::Int(IntHistogram {
            counter_reset_hint: hint,
            schema: CUSTOM_BUCKETS_SCHEMA,
            zero_threshold: 0.0,
            zero_count: 0,
            count: count as u64,
            sum: self.sum,
            positive_spans: spans,
            negative_spans: Vec::new(),
            positive_deltas: deltas,
            negative_deltas: Vec::new(),
            custom_values: Some(bounds.into()),
        }))
    }
}

/// Spans of the buckets that count something, and what they count.
fn without_empty<T>(buckets: impl Iterator<Item = (T, bool)>) -> (Vec<Span>, Vec<T>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut counts = Vec::new();
    let mut n_empty = 0;
    for (count, is_empty) in buckets {
        if is_empty {
            n_empty += 1;
            continue;
        }
        match spans.last_mut() {
            Some(span) if n_empty == 0 => span.length += 1,
            _ => spans.push(Span { offset: n_empty, length: 1 }),
        }
        n_empty = 0;
        counts.push(count);
    }
    (spans, counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classic(buckets: &[(f64, f64)], count: Option<f64>) -> ClassicHistogram {
        ClassicHistogram { buckets: buckets.to_vec(), count, sum: 1.5 }
    }

    #[test]
    fn counts_become_buckets_of_their_own() {
        let histogram =
            classic(&[(0.5, 1.0), (1.0, 1.0), (2.0, 4.0), (f64::INFINITY, 5.0)], Some(5.0)).to_native(false);
        let Ok(Histogram::Int(histogram)) = histogram else { panic!("{histogram:?}") };
        assert_eq!((histogram.count, histogram.sum), (5, 1.5));
        assert_eq!(histogram.custom_values.as_deref(), Some(&[0.5, 1.0, 2.0][..]));
        assert_eq!(
            histogram.positive_spans,
            [Span { offset: 0, length: 1 }, Span { offset: 1, length: 2 }],
            "an empty bucket is left out"
        );
        assert_eq!(histogram.positive_deltas, [1, 2, -2]);
        assert_eq!(Histogram::Int(histogram).validate(), Ok(()));
    }

    #[test]
    fn order_and_repetition_do_not_matter_and_the_last_bucket_may_be_missing() {
        let sorted = classic(&[(1.0, 2.0), (2.0, 3.0)], Some(4.0)).to_native(true).unwrap();
        let shuffled = classic(&[(2.0, 3.0), (1.0, 2.0), (1.0, 9.0)], Some(4.0)).to_native(true).unwrap();
        assert!(sorted.same_data(&shuffled), "{sorted:?} and {shuffled:?}");
        assert_eq!(sorted.counter_reset_hint(), CounterResetHint::Gauge);
        let without_count = classic(&[(1.0, 2.0), (f64::INFINITY, 3.0)], None).to_native(false).unwrap();
        assert_eq!(without_count.to_float().count, 3.0);
        let empty = classic(&[], None).to_native(false).unwrap();
        assert_eq!((empty.to_float().count, empty.validate()), (0.0, Ok(())));
    }

    #[test]
    fn counts_with_a_fraction_make_floats() {
        let histogram = classic(&[(1.0, 0.5), (f64::INFINITY, 2.0)], Some(2.0)).to_native(false).unwrap();
        let Histogram::Float(histogram) = histogram else { panic!("{histogram:?}") };
        assert_eq!(histogram.positive_buckets, [0.5, 1.5]);
    }

    #[test]
    fn contradictions_are_named() {
        let error = |buckets: &[(f64, f64)], count| classic(buckets, count).to_native(false).unwrap_err();
        assert_eq!(error(&[(f64::NAN, 1.0)], None), ClassicError::NanBound);
        assert_eq!(error(&[], Some(-1.0)), ClassicError::NegativeCount(-1.0));
        assert!(matches!(error(&[(1.0, -1.0)], None), ClassicError::NegativeBucket { .. }));
        assert!(matches!(error(&[(1.0, 2.0), (2.0, 1.0)], None), ClassicError::NotCumulative { .. }));
        let error = error(&[(1.0, 2.0), (f64::INFINITY, 3.0)], Some(4.0));
        assert_eq!(error.to_string(), "count mismatch: count=4 != le=+Inf count=3");
    }
}
