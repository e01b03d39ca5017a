//! Walking over the buckets of a histogram.

use super::bounds::exponential_bound;
use super::{FloatHistogram, Span, is_custom};

/// One bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Whether an observation equal to `lower` is in the bucket.
    pub lower_inclusive: bool,
    /// Whether an observation equal to `upper` is in the bucket.
    pub upper_inclusive: bool,
    /// Observations.
    pub count: f64,
    /// Number within the schema and sign; of no meaning for the zero bucket.
    pub index: i32,
}

impl Bucket {
    /// The share of the bucket's observations that is assumed to lie below `value`, which is within
    /// the bucket: linear, or linear in the logarithm.
    ///
    /// Source: Prometheus v3.14, `model/histogram/generic.go`, `FractionBelow`.
    pub fn fraction_below(&self, value: f64, linear: bool) -> f64 {
        if linear {
            return (value - self.lower) / (self.upper - self.lower);
        }
        let log_lower = self.lower.abs().log2();
        let log_upper = self.upper.abs().log2();
        let log_value = value.abs().log2();
        if value > 0.0 {
            (log_value - log_lower) / (log_upper - log_lower)
        } else {
            1.0 - (log_value - log_upper) / (log_lower - log_upper)
        }
    }
}

/// Bucket numbers and counts of one side, ascending by number. Never panics, whatever the spans say:
/// it ends with the shorter of spans and counts.
#[derive(Clone, Debug)]
pub(super) struct Indexed<'a> {
    spans: &'a [Span],
    counts: &'a [f64],
    in_span: u32,
    index: i32,
}

pub(super) fn indexed<'a>(spans: &'a [Span], counts: &'a [f64]) -> Indexed<'a> {
    Indexed { spans, counts, in_span: 0, index: spans.first().map_or(0, |span| span.offset) }
}

impl Iterator for Indexed<'_> {
    type Item = (i32, f64);

    fn next(&mut self) -> Option<(i32, f64)> {
        while self.in_span >= self.spans.first()?.length {
            self.spans = &self.spans[1..];
            self.in_span = 0;
            self.index = self.index.wrapping_add(self.spans.first()?.offset);
        }
        let (&count, rest) = self.counts.split_first()?;
        let index = self.index;
        self.counts = rest;
        self.in_span += 1;
        self.index = self.index.wrapping_add(1);
        Some((index, count))
    }
}

/// Collects buckets given in ascending order of their numbers into spans and counts. Numbers that
/// follow each other share a span.
#[derive(Debug, Default)]
pub(super) struct SideBuilder {
    pub(super) spans: Vec<Span>,
    pub(super) counts: Vec<f64>,
    next_index: i32,
}

impl SideBuilder {
    pub(super) fn with_capacity(n_buckets: usize) -> Self {
        Self { spans: Vec::new(), counts: Vec::with_capacity(n_buckets), next_index: 0 }
    }

    pub(super) fn push(&mut self, index: i32, count: f64) {
        match self.spans.last_mut() {
            Some(span) if index == self.next_index => span.length += 1,
            Some(_) => self.spans.push(Span { offset: index.wrapping_sub(self.next_index), length: 1 }),
            None => self.spans.push(Span { offset: index, length: 1 }),
        }
        self.counts.push(count);
        self.next_index = index.wrapping_add(1);
    }
}

/// The number of the bucket of `target` schema that holds the bucket `index` of schema `origin`.
pub(super) fn target_index(index: i32, origin: i32, target: i32) -> i32 {
    // Beyond 31 nothing but the sign is left to shift.
    (index.wrapping_sub(1) >> (origin - target).min(31)).wrapping_add(1)
}

/// Merges integer buckets, given as differences, to a coarser schema.
pub(super) fn reduce_deltas(
    spans: &[Span],
    deltas: &[i64],
    origin: i32,
    target: i32,
) -> (Vec<Span>, Vec<i64>) {
    let counts: Vec<i64> = deltas
        .iter()
        .scan(0i64, |count, &delta| {
            *count = count.wrapping_add(delta);
            Some(*count)
        })
        .collect();
    // The walk needs floats only to count along; the whole numbers are taken by position.
    let positions = vec![0.0; counts.len()];
    let mut side = SideBuilder::default();
    let mut sums: Vec<i64> = Vec::new();
    let mut last_index = None;
    for ((index, _), &count) in indexed(spans, &positions).zip(&counts) {
        let index = target_index(index, origin, target);
        match sums.last_mut() {
            Some(sum) if last_index == Some(index) => *sum = sum.wrapping_add(count),
            _ => {
                side.push(index, 0.0);
                sums.push(count);
                last_index = Some(index);
            }
        }
    }
    let mut before = 0i64;
    for sum in &mut sums {
        let count = *sum;
        *sum = count.wrapping_sub(before);
        before = count;
    }
    (side.spans, sums)
}

impl FloatHistogram {
    /// Bound `index` of this histogram's buckets.
    fn bound(&self, index: i32) -> f64 {
        if !is_custom(self.schema) {
            return exponential_bound(index, self.schema);
        }
        match usize::try_from(index) {
            Err(_) => f64::NEG_INFINITY,
            Ok(index) => self.custom_bounds().get(index).copied().unwrap_or(f64::INFINITY),
        }
    }

    fn positive_bucket(&self, index: i32, count: f64) -> Bucket {
        let (lower, upper) = (self.bound(index.wrapping_sub(1)), self.bound(index));
        let custom = is_custom(self.schema);
        Bucket {
            lower,
            upper,
            lower_inclusive: if custom { index == 0 } else { lower < 0.0 },
            upper_inclusive: custom || upper > 0.0,
            count,
            index,
        }
    }

    fn negative_bucket(&self, index: i32, count: f64) -> Bucket {
        let (lower, upper) = (-self.bound(index), -self.bound(index.wrapping_sub(1)));
        Bucket { lower, upper, lower_inclusive: lower < 0.0, upper_inclusive: upper > 0.0, count, index }
    }

    /// Positive (or custom) buckets in ascending order, empty ones included where a span covers them.
    pub fn positive_bucket_iter(&self) -> impl Iterator<Item = Bucket> + '_ {
        indexed(&self.positive_spans, &self.positive_buckets)
            .map(|(index, count)| self.positive_bucket(index, count))
    }

    /// Negative buckets from the one next to zero downwards.
    pub fn negative_bucket_iter(&self) -> impl Iterator<Item = Bucket> + '_ {
        indexed(&self.negative_spans, &self.negative_buckets)
            .map(|(index, count)| self.negative_bucket(index, count))
    }

    /// The zero bucket of an exponential histogram.
    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
            index: 0,
        }
    }

    /// All buckets in ascending order: negative ones, the zero bucket if it holds observations, and
    /// positive ones. Where a bucket overlaps the zero bucket, its bound is moved to the threshold.
    ///
    /// Source: Prometheus v3.14, `model/histogram/float_histogram.go`, `AllBucketIterator`.
    pub fn all_buckets(&self) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = self.negative_bucket_iter().collect();
        buckets.reverse();
        if self.zero_count > 0.0 {
            buckets.push(self.zero_bucket());
        }
        buckets.extend(self.positive_bucket_iter());
        for bucket in &mut buckets {
            if bucket.upper < 0.0 && bucket.upper > -self.zero_threshold {
                bucket.upper = -self.zero_threshold;
            } else if bucket.lower > 0.0 && bucket.lower < self.zero_threshold {
                bucket.lower = self.zero_threshold;
            }
        }
        buckets
    }
}
