//! Finding counter resets between histograms.
//!
//! Source: Prometheus v3.14, `model/histogram/float_histogram.go`, `DetectReset`.

use super::arithmetic::custom_bounds_match;
use super::bounds::exponential_bound;
use super::buckets::{indexed, target_index};
use super::{CounterResetHint, FloatHistogram, Span, is_custom};

impl FloatHistogram {
    /// Whether a counter reset lies between `previous` and this histogram: a count has fallen or a
    /// populated bucket is gone, or the resolution has risen, or the zero bucket has shrunk or now cuts
    /// through a populated bucket. A hint that says so decides; gauges are compared like counters.
    pub fn detect_reset(&self, previous: &Self) -> bool {
        match self.counter_reset_hint {
            CounterResetHint::Reset => return true,
            CounterResetHint::NotReset => return false,
            CounterResetHint::Unknown | CounterResetHint::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        if is_custom(self.schema) {
            if !is_custom(previous.schema) {
                return true;
            }
            if !custom_bounds_match(self.custom_bounds(), previous.custom_bounds()) {
                return self.detect_reset_of_custom_bounds(previous);
            }
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        if is_custom(previous.schema) != is_custom(self.schema) {
            // Custom buckets came before and exponential ones follow: the schema number is greater, so
            // the test above has answered; this only guards the arithmetic below.
            return true;
        }
        let (zero_count, threshold, _) = previous.zero_count_for_larger_threshold(self.zero_threshold, None);
        if threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        let side = |spans: &[Span], counts: &[f64], schema: i32| {
            side_of_schema(spans, counts, schema, self.schema, self.zero_threshold)
        };
        lost(
            &side(&self.positive_spans, &self.positive_buckets, self.schema),
            &side(&previous.positive_spans, &previous.positive_buckets, previous.schema),
        ) || lost(
            &side(&self.negative_spans, &self.negative_buckets, self.schema),
            &side(&previous.negative_spans, &previous.negative_buckets, previous.schema),
        )
    }

    /// Compares the cumulated counts at the bounds that both histograms have.
    fn detect_reset_of_custom_bounds(&self, previous: &Self) -> bool {
        let mut now = Rollup::new(self);
        let mut before = Rollup::new(previous);
        let (a, b) = (self.custom_bounds(), previous.custom_bounds());
        let (mut i, mut j) = (0, 0);
        while i <= a.len() && j <= b.len() {
            let bound_a = a.get(i).copied().unwrap_or(f64::INFINITY);
            let bound_b = b.get(j).copied().unwrap_or(f64::INFINITY);
            if bound_a == bound_b {
                if now.up_to(bound_a) < before.up_to(bound_a) {
                    return true;
                }
                i += 1;
                j += 1;
            } else if bound_a < bound_b {
                i += 1;
            } else {
                j += 1;
            }
        }
        false
    }
}

/// Sums of the buckets between one bound and the next.
struct Rollup {
    buckets: Vec<(f64, f64)>,
    at: usize,
}

impl Rollup {
    fn new(histogram: &FloatHistogram) -> Self {
        let buckets = histogram.positive_bucket_iter().map(|bucket| (bucket.upper, bucket.count)).collect();
        Self { buckets, at: 0 }
    }

    fn up_to(&mut self, bound: f64) -> f64 {
        let mut sum = 0.0;
        while let Some(&(upper, count)) = self.buckets.get(self.at)
            && upper <= bound
        {
            sum += count;
            self.at += 1;
        }
        sum
    }
}

/// Buckets of one side merged to `target`, without those that lie within the zero threshold.
fn side_of_schema(
    spans: &[Span],
    counts: &[f64],
    origin: i32,
    target: i32,
    zero_threshold: f64,
) -> Vec<(i32, f64)> {
    let mut side: Vec<(i32, f64)> = Vec::with_capacity(counts.len());
    for (index, count) in indexed(spans, counts) {
        let index = if origin == target { index } else { target_index(index, origin, target) };
        match side.last_mut() {
            Some(last) if last.0 == index => last.1 += count,
            _ => side.push((index, count)),
        }
    }
    if zero_threshold != 0.0 && !is_custom(target) {
        let inside = side.partition_point(|&(index, _)| exponential_bound(index, target) <= zero_threshold);
        side.drain(..inside);
    }
    side
}

/// Whether a bucket of `before` is missing or has fallen in `now`.
fn lost(now: &[(i32, f64)], before: &[(i32, f64)]) -> bool {
    let mut at = 0;
    before.iter().any(|&(index, count)| {
        while at < now.len() && now[at].0 < index {
            at += 1;
        }
        match now.get(at) {
            Some(&(found, current)) if found == index => current < count,
            _ => count != 0.0,
        }
    })
}
