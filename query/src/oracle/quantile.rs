//! Quantiles and fractions of floats, classic and native histograms.
//!
//! Source: Prometheus v3.14, `promql/quantile.go`.

use super::notes::Notes;
use crate::annotations::Annotation;
use crate::parser::Span;
use chronolith_model::FloatHistogram;
use std::cmp::Ordering;

/// A cumulative bucket of a classic histogram.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    pub(super) upper: f64,
    pub(super) count: f64,
}

/// The quantile of floats, which are sorted; NaN goes first.
pub(super) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan())));
    let n = values.len() as f64;
    let rank = q * (n - 1.0);
    let lower = super::go_max(0.0, rank.floor());
    let upper = super::go_min(n - 1.0, lower + 1.0);
    let weight = rank - rank.floor();
    values[lower as usize] * (1.0 - weight) + values[upper as usize] * weight
}

/// Sorted by bound, equal bounds added up.
fn sort(buckets: &mut Vec<Bucket>) -> Option<()> {
    // As Go sorts up to 12 items: with a bound that is NaN the outcome depends on the algorithm.
    for i in 1..buckets.len() {
        let mut j = i;
        while j > 0 && buckets[j].upper < buckets[j - 1].upper {
            buckets.swap(j, j - 1);
            j -= 1;
        }
    }
    if buckets.last()?.upper != f64::INFINITY {
        return None;
    }
    let mut coalesced: Vec<Bucket> = Vec::new();
    for bucket in buckets.drain(..) {
        match coalesced.last_mut() {
            Some(last) if last.upper == bucket.upper => last.count += bucket.count,
            _ => coalesced.push(bucket),
        }
    }
    *buckets = coalesced;
    Some(())
}

/// The quantile, and, if counts had to be raised, from and to which bound, and by how much at most. They stay
/// raised.
pub(super) fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, Option<(f64, f64, f64)>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if sort(buckets).is_none() {
        return (f64::NAN, None);
    }
    let forced = make_monotonic(buckets);
    if buckets.len() < 2 {
        return (f64::NAN, forced);
    }
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if observations == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    // Go's binary search, which need not find the first where counts are NaN.
    let (mut at, mut end) = (0, last);
    while at < end {
        let middle = usize::midpoint(at, end);
        if buckets[middle].count >= rank {
            end = middle;
        } else {
            at = middle + 1;
        }
    }
    if at == last {
        return (buckets[last - 1].upper, forced);
    }
    if at == 0 && buckets[0].upper <= 0.0 {
        return (buckets[0].upper, forced);
    }
    let (mut start, mut count) = (0.0, buckets[at].count);
    if at > 0 {
        start = buckets[at - 1].upper;
        count -= buckets[at - 1].count;
        rank -= buckets[at - 1].count;
    }
    (start + (buckets[at].upper - start) * (rank / count), forced)
}

fn make_monotonic(buckets: &mut [Bucket]) -> Option<(f64, f64, f64)> {
    let (mut min, mut max, mut max_diff) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    let mut forced = false;
    let mut previous = buckets[0].count;
    for bucket in &mut buckets[1..] {
        let current = bucket.count;
        if current == previous {
            continue;
        }
        if crate::functions::histogram::almost_equal(previous, current, 1e-12) {
            bucket.count = previous;
            continue;
        }
        if current < previous {
            bucket.count = previous;
            forced = true;
            if bucket.upper < min {
                min = bucket.upper;
            }
            if bucket.upper > max {
                max = bucket.upper;
            }
            if previous - current > max_diff {
                max_diff = previous - current;
            }
            continue;
        }
        previous = current;
    }
    forced.then_some((min, max, max_diff))
}

pub(super) fn bucket_fraction(lower: f64, upper: f64, mut buckets: Vec<Bucket>) -> f64 {
    if sort(&mut buckets).is_none() {
        return f64::NAN;
    }
    let count = buckets[buckets.len() - 1].count;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut rank = 0.0;
    let (mut lower_rank, mut upper_rank) = (None, None);
    let mut from = if buckets[0].upper <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    for (i, bucket) in buckets.iter().enumerate() {
        if i > 0 {
            from = buckets[i - 1].upper;
        }
        let to = bucket.upper;
        let interpolate = |value: f64| match from == f64::NEG_INFINITY {
            true => bucket.count,
            false => rank + (bucket.count - rank) * (value - from) / (to - from),
        };
        if find_ranks((lower, upper), (from, to), rank, (&mut lower_rank, &mut upper_rank), interpolate) {
            break;
        }
        rank = bucket.count;
    }
    let clipped = |rank: Option<f64>| match rank {
        Some(rank) if rank.partial_cmp(&count) != Some(Ordering::Greater) => rank,
        _ => count,
    };
    (clipped(upper_rank) - clipped(lower_rank)) / count
}

/// Sets the ranks that a bucket decides; true if both are known.
fn find_ranks(
    (lower, upper): (f64, f64),
    (from, to): (f64, f64),
    rank: f64,
    (lower_rank, upper_rank): (&mut Option<f64>, &mut Option<f64>),
    interpolate: impl Fn(f64) -> f64,
) -> bool {
    if lower_rank.is_none() && from >= lower {
        *lower_rank = Some(rank);
    }
    if upper_rank.is_none() && from >= upper {
        *upper_rank = Some(rank);
    }
    if lower_rank.is_some() && upper_rank.is_some() {
        return true;
    }
    if lower_rank.is_none() && from < lower && to > lower {
        *lower_rank = Some(interpolate(lower));
    }
    if upper_rank.is_none() && from < upper && to > upper {
        *upper_rank = Some(interpolate(upper));
    }
    lower_rank.is_some() && upper_rank.is_some()
}

pub(super) fn histogram_quantile(
    q: f64,
    h: &FloatHistogram,
    name: &str,
    span: Span,
    notes: &mut Notes,
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
    let custom = h.uses_custom_buckets();
    let forward = h.sum.is_nan() || q < 0.5;
    let mut buckets = h.all_buckets();
    if !forward {
        buckets.reverse();
    }
    let mut rank = if forward { q * h.count } else { (1.0 - q) * h.count };
    let mut rest = buckets.into_iter();
    let mut count = 0.0;
    let mut bucket = None;
    for next in rest.by_ref() {
        bucket = Some(next);
        if next.count == 0.0 {
            continue;
        }
        count += next.count;
        if count >= rank {
            break;
        }
    }
    let (mut lower, mut upper, bucket_count) =
        bucket.map_or((0.0, 0.0, 0.0), |bucket| (bucket.lower, bucket.upper, bucket.count));
    if !custom && lower < 0.0 && upper > 0.0 {
        if h.negative_buckets.is_empty() && !h.positive_buckets.is_empty() {
            lower = 0.0;
        } else if h.positive_buckets.is_empty() && !h.negative_buckets.is_empty() {
            upper = 0.0;
        }
    } else if custom {
        if lower == f64::NEG_INFINITY {
            if upper <= 0.0 {
                return upper;
            }
            lower = 0.0;
        } else if upper == f64::INFINITY {
            return lower;
        }
    }
    if count > h.count {
        count = h.count;
    }
    if count < rank {
        if h.sum.is_nan() {
            notes.add(Annotation::NativeHistogramQuantileNanResult(name.into()), span);
            return f64::NAN;
        }
        return upper;
    }
    if forward {
        rank -= count - bucket_count;
    } else {
        rank = count - rank;
    }
    let mut bucket_count = bucket_count;
    if h.sum.is_nan() {
        // The last bucket takes the place of the one that was found: that is what upstream does.
        for next in rest {
            count += next.count;
            (lower, upper, bucket_count) = (next.lower, next.upper, next.count);
        }
        if count < h.count {
            notes.add(Annotation::NativeHistogramQuantileNanSkew(name.into()), span);
        }
    }
    let fraction = rank / bucket_count;
    if custom || (lower <= 0.0 && upper >= 0.0) {
        return lower + (upper - lower) * fraction;
    }
    let (log_lower, log_upper) = (lower.abs().log2(), upper.abs().log2());
    if lower > 0.0 {
        return (log_lower + (log_upper - log_lower) * fraction).exp2();
    }
    -(log_upper + (log_lower - log_upper) * (1.0 - fraction)).exp2()
}

pub(super) fn histogram_fraction(
    lower: f64,
    upper: f64,
    h: &FloatHistogram,
    name: &str,
    span: Span,
    notes: &mut Notes,
) -> f64 {
    if h.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let (mut count, mut rank) = (0.0, 0.0);
    let (mut lower_rank, mut upper_rank) = (None, None);
    let mut rest = h.all_buckets().into_iter();
    for mut bucket in rest.by_ref() {
        count += bucket.count;
        let zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
        if zero {
            if h.negative_buckets.is_empty() && !h.positive_buckets.is_empty() {
                bucket.lower = 0.0;
            } else if h.positive_buckets.is_empty() && !h.negative_buckets.is_empty() {
                bucket.upper = 0.0;
            }
        }
        let linear = h.uses_custom_buckets() || zero;
        let interpolate = |value: f64| match linear && bucket.lower == f64::NEG_INFINITY {
            true => bucket.count,
            false => rank + bucket.count * bucket.fraction_below(value, linear),
        };
        let bounds = (bucket.lower, bucket.upper);
        if find_ranks((lower, upper), bounds, rank, (&mut lower_rank, &mut upper_rank), interpolate) {
            break;
        }
        rank += bucket.count;
    }
    if h.sum.is_nan() {
        for bucket in rest {
            count += bucket.count;
        }
        if count < h.count {
            notes.add(Annotation::NativeHistogramFractionNans(name.into()), span);
        }
    } else {
        count = h.count;
    }
    let clipped = |rank: Option<f64>| match rank {
        Some(rank) if rank.partial_cmp(&count) != Some(Ordering::Greater) => rank,
        _ => count,
    };
    (clipped(upper_rank) - clipped(lower_rank)) / h.count
}
