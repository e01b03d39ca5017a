//! Quantiles, fractions and simple statistics of classic and native histograms.
//!
//! Source: Prometheus v3.14, `promql/quantile.go`; `promql/functions.go`, `histogramVariance`.

use crate::annotations::{Annotation, Annotations};
use crate::parser::{Function, Span};
use chronolith_model::FloatHistogram;
use chronolith_model::histogram::{Bucket as NativeBucket, kahan_increment};
use std::sync::Arc;

/// Relative differences between neighboring classic buckets up to this are taken for rounding errors and
/// leveled without a word. One observation more shows up to 10^12 observations in a bucket.
const SMALL_DELTA_TOLERANCE: f64 = 1e-12;

/// The function of one native histogram that `function` applies to every sample, if it is one of those.
pub fn simple(function: Function) -> Option<fn(&FloatHistogram) -> f64> {
    Some(match function {
        Function::HistogramCount => |h| h.count,
        Function::HistogramSum => |h| h.sum,
        Function::HistogramAvg => |h| h.sum / h.count,
        Function::HistogramStddev => |h| variance(h).sqrt(),
        Function::HistogramStdvar => variance,
        _ => return None,
    })
}

/// The estimated variance: every observation counts as the middle of its bucket.
fn variance(h: &FloatHistogram) -> f64 {
    let mean = h.sum / h.count;
    let (mut sum, mut compensation) = (0.0, 0.0);
    for bucket in h.all_buckets() {
        if bucket.count == 0.0 {
            continue;
        }
        let middle = if h.uses_custom_buckets() {
            (bucket.upper + bucket.lower) / 2.0
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            let geometric = (bucket.upper * bucket.lower).sqrt();
            if bucket.upper < 0.0 { -geometric } else { geometric }
        };
        let delta = middle - mean;
        (sum, compensation) = kahan_increment(bucket.count * delta * delta, sum, compensation);
    }
    (sum + compensation) / h.count
}

/// The quantile `q` of a native histogram.
///
/// NaN for an empty histogram or `q` NaN, infinite for `q` outside of 0 to 1. Custom buckets and the zero bucket
/// are interpolated linearly, exponential ones on the logarithm. `name` and `span` go into annotations about
/// observations that were NaN.
///
/// Source: `HistogramQuantile`.
pub fn histogram_quantile(
    q: f64,
    h: &FloatHistogram,
    name: &Arc<str>,
    span: Span,
    notes: &mut Annotations,
) -> f64 {
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if h.count == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    // NaN observations are in the count but in no bucket, as if they lay above all: count from below then.
    let forward = h.sum.is_nan() || q < 0.5;
    let mut rank = if forward { q * h.count } else { (1.0 - q) * h.count };
    let mut buckets = h.all_buckets();
    if !forward {
        buckets.reverse();
    }
    let mut buckets = buckets.into_iter();
    let mut bucket = NO_BUCKET;
    let mut count = 0.0;
    for next in buckets.by_ref() {
        bucket = next;
        if bucket.count == 0.0 {
            continue;
        }
        count += bucket.count;
        if count >= rank {
            break;
        }
    }
    if h.uses_custom_buckets() {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return bucket.upper;
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return bucket.lower;
        }
    } else if bucket.lower < 0.0 && bucket.upper > 0.0 {
        bound_zero_bucket(h, &mut bucket);
    }
    // Sums of buckets can be a little above the count by rounding.
    count = count.min(h.count);
    if count < rank {
        if h.sum.is_nan() {
            notes.add(Annotation::NativeHistogramQuantileNanResult(Arc::clone(name)), span);
            return f64::NAN;
        }
        return bucket.upper;
    }
    rank = if forward { rank - (count - bucket.count) } else { count - rank };
    let found = bucket;
    if h.sum.is_nan() {
        for rest in buckets {
            count += rest.count;
            bucket = rest;
        }
        if count < h.count {
            notes.add(Annotation::NativeHistogramQuantileNanSkew(Arc::clone(name)), span);
        }
    }
    // Upstream interpolates in the last bucket it looked at, which here is not the one that holds the quantile.
    let bucket = if h.sum.is_nan() { bucket } else { found };
    let fraction = rank / bucket.count;
    if h.uses_custom_buckets() || bucket.lower <= 0.0 && bucket.upper >= 0.0 {
        return bucket.lower + (bucket.upper - bucket.lower) * fraction;
    }
    let log_lower = bucket.lower.abs().log2();
    let log_upper = bucket.upper.abs().log2();
    if bucket.lower > 0.0 {
        (log_lower + (log_upper - log_lower) * fraction).exp2()
    } else {
        -(log_upper + (log_lower - log_upper) * (1.0 - fraction)).exp2()
    }
}

/// What a histogram without any bucket looks at.
const NO_BUCKET: NativeBucket = NativeBucket {
    lower: 0.0,
    upper: 0.0,
    lower_inclusive: false,
    upper_inclusive: false,
    count: 0.0,
    index: 0,
};

/// The zero bucket of a histogram with buckets on one side only ends at zero on the other.
fn bound_zero_bucket(h: &FloatHistogram, bucket: &mut NativeBucket) {
    match (h.negative_buckets.is_empty(), h.positive_buckets.is_empty()) {
        (true, false) => bucket.lower = 0.0,
        (false, true) => bucket.upper = 0.0,
        _ => {}
    }
}

/// Ranks of the two bounds of a fraction while the buckets go by.
#[derive(Default)]
struct Ranks {
    lower: Option<f64>,
    upper: Option<f64>,
}

impl Ranks {
    /// Looks at one bucket with `rank` observations below it; true once both ranks are known.
    fn visit(
        &mut self,
        (lower, upper): (f64, f64),
        (bucket_lower, bucket_upper): (f64, f64),
        rank: f64,
        interpolate: impl Fn(f64) -> f64,
    ) -> bool {
        for (bound, found) in [(lower, &mut self.lower), (upper, &mut self.upper)] {
            if found.is_none() && bucket_lower >= bound {
                *found = Some(rank);
            }
        }
        if self.lower.is_some() && self.upper.is_some() {
            return true;
        }
        for (bound, found) in [(lower, &mut self.lower), (upper, &mut self.upper)] {
            if found.is_none() && bucket_lower < bound && bucket_upper > bound {
                *found = Some(interpolate(bound));
            }
        }
        self.lower.is_some() && self.upper.is_some()
    }

    /// The observations between the bounds, of `count` in all.
    fn between(&self, count: f64) -> f64 {
        let rank = |found: Option<f64>| found.map_or(count, |rank| if rank > count { count } else { rank });
        rank(self.upper) - rank(self.lower)
    }
}

/// The share of observations of a native histogram between two bounds.
///
/// NaN for an empty histogram or bounds that are NaN, 0 for `lower >= upper`. Observations that are NaN count as
/// outside, with an annotation.
///
/// Source: `HistogramFraction`.
pub fn histogram_fraction(
    lower: f64,
    upper: f64,
    h: &FloatHistogram,
    name: &Arc<str>,
    span: Span,
    notes: &mut Annotations,
) -> f64 {
    if h.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let (mut count, mut rank) = (0.0, 0.0);
    let mut ranks = Ranks::default();
    let mut buckets = h.all_buckets().into_iter();
    for mut bucket in buckets.by_ref() {
        count += bucket.count;
        let zero_bucket = bucket.lower <= 0.0 && bucket.upper >= 0.0;
        if zero_bucket {
            bound_zero_bucket(h, &mut bucket);
        }
        let linear = h.uses_custom_buckets() || zero_bucket;
        let interpolate = |bound: f64| {
            // A bucket without a lower end cannot be interpolated: its observations are below every bound.
            if linear && bucket.lower == f64::NEG_INFINITY {
                return bucket.count;
            }
            rank + bucket.count * bucket.fraction_below(bound, linear)
        };
        if ranks.visit((lower, upper), (bucket.lower, bucket.upper), rank, interpolate) {
            break;
        }
        rank += bucket.count;
    }
    if h.sum.is_nan() {
        count = buckets.fold(count, |count, bucket| count + bucket.count);
        if count < h.count {
            notes.add(Annotation::NativeHistogramFractionNans(Arc::clone(name)), span);
        }
    } else {
        count = h.count;
    }
    ranks.between(count) / h.count
}

/// A bucket of a classic histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// The `le` label.
    pub upper_bound: f64,
    /// Observations up to `upper_bound`, that is cumulative.
    pub count: f64,
}

/// A quantile of a classic histogram, and what had to be mended for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketQuantile {
    /// The quantile.
    pub value: f64,
    /// Whether counts fell with the upper bound and were raised.
    pub forced_monotonicity: bool,
    /// Upper bound of the first bucket that was raised.
    pub min_bucket: f64,
    /// Upper bound of the last bucket that was raised.
    pub max_bucket: f64,
    /// The most that a bucket was raised by.
    pub max_diff: f64,
}

/// The quantile `q` of a classic histogram. `buckets` is not empty and in any order; it is sorted, buckets with
/// the same bound are merged, and counts that fall are raised.
///
/// NaN for `q` NaN, without a +Inf bucket, with fewer than two buckets or no observations; infinite for `q`
/// outside of 0 to 1.
///
/// Source: `BucketQuantile`.
pub fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>) -> BucketQuantile {
    let unforced = |value| BucketQuantile {
        value,
        forced_monotonicity: false,
        min_bucket: 0.0,
        max_bucket: 0.0,
        max_diff: 0.0,
    };
    if q.is_nan() {
        return unforced(f64::NAN);
    }
    if q < 0.0 {
        return unforced(f64::NEG_INFINITY);
    }
    if q > 1.0 {
        return unforced(f64::INFINITY);
    }
    if !sort_and_coalesce(buckets) {
        return unforced(f64::NAN);
    }
    let mut found = make_monotonic(buckets);
    if buckets.len() < 2 {
        return found;
    }
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if observations == 0.0 {
        return found;
    }
    let mut rank = q * observations;
    // Not `<`: a rank or count that is NaN has to fall through to the last bucket.
    let reaches = |bucket: &Bucket| bucket.count >= rank;
    let at = buckets[..last].partition_point(|bucket| !reaches(bucket));
    found.value = if at == last {
        buckets[last - 1].upper_bound
    } else if at == 0 && buckets[0].upper_bound <= 0.0 {
        buckets[0].upper_bound
    } else {
        let Bucket { upper_bound: end, mut count } = buckets[at];
        let mut start = 0.0;
        if at > 0 {
            start = buckets[at - 1].upper_bound;
            count -= buckets[at - 1].count;
            rank -= buckets[at - 1].count;
        }
        start + (end - start) * (rank / count)
    };
    found
}

/// The share of observations of a classic histogram between two bounds. `buckets` as for [`bucket_quantile`].
///
/// Source: `BucketFraction`.
pub fn bucket_fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !sort_and_coalesce(buckets) {
        return f64::NAN;
    }
    let count = buckets[buckets.len() - 1].count;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut ranks = Ranks::default();
    let mut rank = 0.0;
    // Histograms begin at 0 unless they have buckets below.
    let mut bucket_lower = if buckets[0].upper_bound <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    for bucket in buckets.iter() {
        let interpolate = |bound: f64| {
            if bucket_lower == f64::NEG_INFINITY {
                return bucket.count;
            }
            rank + (bucket.count - rank) * (bound - bucket_lower) / (bucket.upper_bound - bucket_lower)
        };
        if ranks.visit((lower, upper), (bucket_lower, bucket.upper_bound), rank, interpolate) {
            break;
        }
        rank = bucket.count;
        bucket_lower = bucket.upper_bound;
    }
    ranks.between(count) / count
}

/// Sorts by bound and merges equal bounds; false if the last bound is not +Inf.
fn sort_and_coalesce(buckets: &mut Vec<Bucket>) -> bool {
    if buckets.iter().any(|bucket| bucket.upper_bound.is_nan()) {
        insertion_sort(buckets);
    } else {
        buckets.sort_by(|a, b| a.upper_bound.total_cmp(&b.upper_bound));
    }
    if buckets.last().is_none_or(|bucket| bucket.upper_bound != f64::INFINITY) {
        return false;
    }
    buckets.dedup_by(|next, kept| {
        let equal = next.upper_bound == kept.upper_bound;
        if equal {
            kept.count += next.count;
        }
        equal
    });
    true
}

/// What Go's sort does to up to twelve elements. NaN is neither below nor above any bound and stays where it is.
fn insertion_sort(buckets: &mut [Bucket]) {
    for end in 1..buckets.len() {
        let mut at = end;
        while at > 0 && buckets[at].upper_bound < buckets[at - 1].upper_bound {
            buckets.swap(at, at - 1);
            at -= 1;
        }
    }
}

/// Levels differences that are too small to mean anything, and raises counts that fall. The value is left NaN.
///
/// Source: `ensureMonotonicAndIgnoreSmallDeltas`.
fn make_monotonic(buckets: &mut [Bucket]) -> BucketQuantile {
    let mut found = BucketQuantile {
        value: f64::NAN,
        forced_monotonicity: false,
        min_bucket: f64::INFINITY,
        max_bucket: f64::NEG_INFINITY,
        max_diff: 0.0,
    };
    let mut before = buckets[0].count;
    for bucket in &mut buckets[1..] {
        let count = bucket.count;
        if count == before {
            continue;
        }
        if almost_equal(before, count, SMALL_DELTA_TOLERANCE) {
            bucket.count = before;
        } else if count < before {
            bucket.count = before;
            found.forced_monotonicity = true;
            found.min_bucket = found.min_bucket.min(bucket.upper_bound);
            found.max_bucket = found.max_bucket.max(bucket.upper_bound);
            found.max_diff = found.max_diff.max(before - count);
        } else {
            before = count;
        }
    }
    found
}

/// Whether two floats differ by at most `epsilon` of their sum. NaNs are equal but for staleness markers, which
/// only equal themselves.
///
/// Source: Prometheus v3.14, `util/almost/almost.go`, `Equal`.
pub fn almost_equal(a: f64, b: f64, epsilon: f64) -> bool {
    if chronolith_model::is_stale(a) || chronolith_model::is_stale(b) {
        return chronolith_model::is_stale(a) && chronolith_model::is_stale(b);
    }
    if a.is_nan() && b.is_nan() || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < epsilon * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < epsilon
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
        pairs.iter().map(|&(upper_bound, count)| Bucket { upper_bound, count }).collect()
    }

    #[test]
    fn classic_quantiles_interpolate_within_a_bucket() {
        let all = [(f64::INFINITY, 10.0), (1.0, 2.0), (2.0, 6.0), (4.0, 8.0)];
        let cases = [
            (0.5, 1.75),
            (0.1, 0.5),
            (0.8, 4.0),
            (1.0, 4.0),
            (-1.0, f64::NEG_INFINITY),
            (2.0, f64::INFINITY),
        ];
        for (q, value) in cases {
            assert_eq!(bucket_quantile(q, &mut buckets(&all)).value, value, "{q}");
        }
        assert!(bucket_quantile(f64::NAN, &mut buckets(&all)).value.is_nan());
        assert!(bucket_quantile(0.5, &mut buckets(&[(1.0, 1.0), (2.0, 1.0)])).value.is_nan());
        assert!(bucket_quantile(0.5, &mut buckets(&[(f64::INFINITY, 1.0)])).value.is_nan());
    }

    #[test]
    fn falling_counts_are_raised_and_told() {
        let found =
            bucket_quantile(0.5, &mut buckets(&[(1.0, 10.0), (2.0, 8.0), (3.0, 9.0), (f64::INFINITY, 20.0)]));
        assert!(found.forced_monotonicity);
        assert_eq!((found.min_bucket, found.max_bucket, found.max_diff), (2.0, 3.0, 2.0));
        let tiny = bucket_quantile(0.5, &mut buckets(&[(1.0, 10.0), (f64::INFINITY, 10.0 - 1e-14)]));
        assert!(!tiny.forced_monotonicity);
    }

    #[test]
    fn classic_fractions_invert_quantiles() {
        let all = [(1.0, 2.0), (2.0, 6.0), (4.0, 8.0), (f64::INFINITY, 10.0)];
        assert_eq!(bucket_fraction(f64::NEG_INFINITY, 1.75, &mut buckets(&all)), 0.5);
        assert_eq!(bucket_fraction(1.0, 2.0, &mut buckets(&all)), 0.4);
        assert_eq!(bucket_fraction(2.0, 1.0, &mut buckets(&all)), 0.0);
        assert!(bucket_fraction(f64::NAN, 1.0, &mut buckets(&all)).is_nan());
    }

    #[test]
    fn almost_equal_knows_markers_zero_and_infinity() {
        assert!(almost_equal(1.0, 1.0 + 1e-13, 1e-12));
        assert!(!almost_equal(1.0, 1.1, 1e-6));
        assert!(!almost_equal(0.0, 1e-10, 1e-6));
        assert!(almost_equal(f64::NAN, -f64::NAN, 1e-6));
        assert!(!almost_equal(f64::NAN, chronolith_model::stale_nan(), 1e-6));
        assert!(!almost_equal(f64::INFINITY, 1.0, 1e-6));
    }
}
