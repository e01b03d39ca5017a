//! Adding, subtracting, scaling and comparing histograms.
//!
//! Source: Prometheus v3.14, `model/histogram/float_histogram.go` and `util/kahansum`.

use super::bounds::exponential_bound;
use super::buckets::{SideBuilder, indexed, target_index};
use super::{CounterResetHint, FloatHistogram, Span, is_custom};
use std::cmp::Ordering;
use std::sync::Arc;

/// One step of compensated (Neumaier) summation: adds `increment` to `sum` with the running
/// compensation `c`; the compensation is dropped once the sum is infinite.
// Never inlined into callers that multiply: a fused multiply-add would change the rounding.
#[inline]
pub fn kahan_increment(increment: f64, sum: f64, c: f64) -> (f64, f64) {
    let total = sum + increment;
    let c = if total.is_infinite() {
        0.0
    } else if sum.abs() >= increment.abs() {
        c + ((sum - total) + increment)
    } else {
        c + ((increment - total) + sum)
    };
    (total, c)
}

/// Exponential and custom buckets met in one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply this operation on histograms with a mix of exponential and custom bucket schemas")]
pub struct IncompatibleSchema;

/// What an addition or subtraction had to do that a user should hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// One side said "reset", the other "not reset"; the result says "unknown".
    pub counter_reset_collision: bool,
    /// Custom bounds differed and were reduced to those both have.
    pub custom_bounds: bool,
}

/// Counts of one side with their compensation terms; spans are shared.
struct Side {
    spans: Vec<Span>,
    counts: Vec<f64>,
    compensation: Vec<f64>,
}

impl FloatHistogram {
    /// Adds `other`: buckets that only `other` has are inserted, zero thresholds and schemas are
    /// reconciled to the coarser one. Empty buckets may remain: see [`FloatHistogram::compact`].
    ///
    /// # Errors
    /// [`IncompatibleSchema`] if one side has exponential and the other custom buckets.
    pub fn add(&mut self, other: &Self) -> Result<Reconciled, IncompatibleSchema> {
        self.combine(other, None, false)
    }

    /// As [`FloatHistogram::add`], but subtracts. For the operator `-` the caller sets the hint to gauge.
    ///
    /// # Errors
    /// [`IncompatibleSchema`] if one side has exponential and the other custom buckets.
    pub fn sub(&mut self, other: &Self) -> Result<Reconciled, IncompatibleSchema> {
        self.combine(other, None, true)
    }

    /// As [`FloatHistogram::add`] with compensated summation; `compensation` holds the terms and is made
    /// by [`FloatHistogram::new_compensation`].
    ///
    /// # Errors
    /// [`IncompatibleSchema`] if one side has exponential and the other custom buckets.
    pub fn kahan_add(
        &mut self,
        other: &Self,
        compensation: &mut Self,
    ) -> Result<Reconciled, IncompatibleSchema> {
        self.combine(other, Some(compensation), false)
    }

    /// A histogram of the same layout with zeros, to hold compensation terms.
    #[must_use]
    pub fn new_compensation(&self) -> Self {
        Self {
            counter_reset_hint: self.counter_reset_hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: 0.0,
            count: 0.0,
            sum: 0.0,
            positive_spans: self.positive_spans.clone(),
            negative_spans: self.negative_spans.clone(),
            positive_buckets: vec![0.0; self.positive_buckets.len()],
            negative_buckets: vec![0.0; self.negative_buckets.len()],
            custom_values: self.custom_values.clone(),
        }
    }

    fn combine(
        &mut self,
        other: &Self,
        mut compensation: Option<&mut Self>,
        negative: bool,
    ) -> Result<Reconciled, IncompatibleSchema> {
        if is_custom(self.schema) != is_custom(other.schema) {
            return Err(IncompatibleSchema);
        }
        let sign = if negative { -1.0 } else { 1.0 };
        let counter_reset_collision = self.adjust_counter_reset(other.counter_reset_hint);
        if !is_custom(self.schema) {
            let (zero_count, zero_compensation) =
                self.reconcile_zero_buckets(other, compensation.as_deref_mut());
            match compensation.as_deref_mut() {
                Some(c) => {
                    (self.zero_count, c.zero_count) =
                        kahan_increment(zero_count, self.zero_count, c.zero_count);
                    (self.zero_count, c.zero_count) =
                        kahan_increment(zero_compensation, self.zero_count, c.zero_count);
                }
                None => self.zero_count += sign * zero_count,
            }
        }
        match compensation.as_deref_mut() {
            Some(c) => {
                (self.count, c.count) = kahan_increment(other.count, self.count, c.count);
                (self.sum, c.sum) = kahan_increment(other.sum, self.sum, c.sum);
            }
            None => {
                self.count += sign * other.count;
                self.sum += sign * other.sum;
            }
        }
        let custom_bounds = if is_custom(self.schema) {
            self.combine_custom(other, compensation, negative)
        } else {
            self.combine_exponential(other, compensation, negative);
            false
        };
        Ok(Reconciled { counter_reset_collision, custom_bounds })
    }

    fn combine_exponential(&mut self, other: &Self, mut compensation: Option<&mut Self>, negative: bool) {
        let schema = self.schema.min(other.schema);
        let threshold = self.zero_threshold;
        let ignored = |span: &Span| exponential_bound(span.offset, schema) <= threshold;
        let starts = [other.positive_spans.first(), other.negative_spans.first()];
        if self.schema == other.schema
            && !starts.into_iter().flatten().any(ignored)
            && self.add_aligned(other, compensation.as_deref_mut(), negative)
        {
            if let Some(c) = compensation {
                c.schema = schema;
                c.zero_threshold = threshold;
            }
            return;
        }
        let compensated = compensation.is_some();
        let (c_positive, c_negative) = match &compensation {
            Some(c) => (c.positive_buckets.clone(), c.negative_buckets.clone()),
            None => (Vec::new(), Vec::new()),
        };
        let combine = |spans: &[Span], counts: &[f64], c: Vec<f64>, b_spans: &[Span], b_counts: &[f64]| {
            let a = reduce_side(spans, counts, c, self.schema, schema, compensated);
            let b = reduce_side(b_spans, b_counts, Vec::new(), other.schema, schema, compensated);
            add_sides(&a, &b, negative, compensated, |index| exponential_bound(index, schema) <= threshold)
        };
        let positive = combine(
            &self.positive_spans,
            &self.positive_buckets,
            c_positive,
            &other.positive_spans,
            &other.positive_buckets,
        );
        let negative = combine(
            &self.negative_spans,
            &self.negative_buckets,
            c_negative,
            &other.negative_spans,
            &other.negative_buckets,
        );
        self.schema = schema;
        if let Some(c) = compensation {
            c.schema = schema;
            c.zero_threshold = self.zero_threshold;
            c.positive_spans = positive.spans.clone();
            c.negative_spans = negative.spans.clone();
            c.positive_buckets = positive.compensation;
            c.negative_buckets = negative.compensation;
        }
        self.positive_spans = positive.spans;
        self.positive_buckets = positive.counts;
        self.negative_spans = negative.spans;
        self.negative_buckets = negative.counts;
    }

    /// Adds buckets where they are if those of both, and of the compensation, lie at the same places; else does nothing
    /// and returns false. Bucket by bucket it is the sum of [`add_sides`], which would make the same spans.
    fn add_aligned(&mut self, other: &Self, compensation: Option<&mut Self>, negative: bool) -> bool {
        let aligned = |with: &Self| {
            are_aligned(
                (&self.positive_spans, &self.positive_buckets),
                (&with.positive_spans, &with.positive_buckets),
            ) && are_aligned(
                (&self.negative_spans, &self.negative_buckets),
                (&with.negative_spans, &with.negative_buckets),
            )
        };
        if !aligned(other) || !compensation.as_deref().is_none_or(aligned) {
            return false;
        }
        let sign = if negative { -1.0 } else { 1.0 };
        let counts = self.positive_buckets.iter_mut().chain(&mut self.negative_buckets);
        let cells = counts.zip(other.positive_buckets.iter().chain(&other.negative_buckets));
        match compensation {
            Some(c) => {
                let terms = c.positive_buckets.iter_mut().chain(&mut c.negative_buckets);
                cells.zip(terms).for_each(|((count, other), term)| {
                    (*count, *term) = kahan_increment(sign * other, *count, *term);
                });
            }
            None => cells.for_each(|(count, other)| *count += sign * other),
        }
        true
    }

    /// Returns whether the bounds had to be reconciled.
    fn combine_custom(&mut self, other: &Self, mut compensation: Option<&mut Self>, negative: bool) -> bool {
        let compensated = compensation.is_some();
        let reconciled = !custom_bounds_match(self.custom_bounds(), other.custom_bounds());
        if !reconciled
            && self.negative_buckets.is_empty()
            && self.add_aligned(other, compensation.as_deref_mut(), negative)
        {
            if let Some(c) = compensation {
                c.custom_values = self.custom_values.clone();
            }
            return false;
        }
        let c_counts = compensation.as_ref().map_or_else(Vec::new, |c| c.positive_buckets.clone());
        let side = if reconciled {
            let bounds = intersect_bounds(self.custom_bounds(), other.custom_bounds());
            let side = add_to_intersection(self, &c_counts, other, negative, &bounds);
            self.custom_values = (!bounds.is_empty()).then(|| Arc::from(bounds));
            side
        } else {
            let a = reduce_side(&self.positive_spans, &self.positive_buckets, c_counts, 0, 0, compensated);
            let b =
                reduce_side(&other.positive_spans, &other.positive_buckets, Vec::new(), 0, 0, compensated);
            add_sides(&a, &b, negative, compensated, |_| false)
        };
        if let Some(c) = compensation {
            c.positive_spans = side.spans.clone();
            c.positive_buckets = side.compensation;
            c.custom_values = self.custom_values.clone();
        }
        self.positive_spans = side.spans;
        self.positive_buckets = side.counts;
        reconciled
    }

    /// Sets the hint of a sum or difference. True if "reset" met "not reset".
    fn adjust_counter_reset(&mut self, other: CounterResetHint) -> bool {
        use CounterResetHint::{Gauge, Unknown};
        match (self.counter_reset_hint, other) {
            (a, b) if a == b => false,
            (Gauge, _) => false,
            (_, Gauge) => {
                self.counter_reset_hint = Gauge;
                false
            }
            (Unknown, _) => false,
            (_, Unknown) => {
                self.counter_reset_hint = Unknown;
                false
            }
            _ => {
                self.counter_reset_hint = Unknown;
                true
            }
        }
    }

    /// Multiplies everything that is counted. A negative factor makes a gauge.
    pub fn mul(&mut self, factor: f64) {
        self.scale(|value| value * factor);
        if factor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
    }

    /// Divides everything that is counted. Division by zero leaves no bucket; a negative divisor makes a
    /// gauge.
    pub fn div(&mut self, divisor: f64) {
        self.scale(|value| value / divisor);
        if divisor == 0.0 {
            self.positive_buckets.clear();
            self.negative_buckets.clear();
            self.positive_spans.clear();
            self.negative_spans.clear();
            return;
        }
        if divisor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
    }

    fn scale(&mut self, scale: impl Fn(f64) -> f64) {
        self.zero_count = scale(self.zero_count);
        self.count = scale(self.count);
        self.sum = scale(self.sum);
        for count in self.positive_buckets.iter_mut().chain(&mut self.negative_buckets) {
            *count = scale(*count);
        }
    }

    /// Removes empty buckets, and merges spans that touch. The result is the same as that of
    /// Prometheus's `Compact(0)`.
    pub fn compact(&mut self) {
        compact_side(&mut self.positive_spans, &mut self.positive_buckets);
        compact_side(&mut self.negative_spans, &mut self.negative_buckets);
    }

    /// A copy of lower resolution.
    ///
    /// # Panics
    /// If the histogram has custom buckets or `schema` is finer than its own.
    #[must_use]
    pub fn to_schema(&self, schema: i32) -> Self {
        assert!(!is_custom(self.schema), "custom buckets have no resolution to reduce");
        assert!(schema <= self.schema, "a resolution can only be reduced");
        let mut copy = self.clone();
        copy.reduce_resolution(schema);
        copy
    }

    /// Merges buckets to a coarser schema; nothing happens if the schema is not coarser.
    pub fn reduce_resolution(&mut self, schema: i32) {
        if is_custom(self.schema) || schema >= self.schema {
            return;
        }
        let reduce = |spans: &[Span], counts: &[f64]| {
            let side = reduce_side(spans, counts, Vec::new(), self.schema, schema, false);
            (side.spans, side.counts)
        };
        let positive = reduce(&self.positive_spans, &self.positive_buckets);
        let negative = reduce(&self.negative_spans, &self.negative_buckets);
        (self.positive_spans, self.positive_buckets) = positive;
        (self.negative_spans, self.negative_buckets) = negative;
        self.schema = schema;
    }

    /// Finds a zero bucket that covers both and cuts through no populated bucket of either, gives it
    /// to `self`, and returns the zero count `other` would have with it, and its compensation.
    fn reconcile_zero_buckets(&mut self, other: &Self, mut compensation: Option<&mut Self>) -> (f64, f64) {
        let mut count = other.zero_count;
        let mut threshold = other.zero_threshold;
        let mut count_compensation = 0.0;
        while threshold != self.zero_threshold {
            if self.zero_threshold > threshold {
                (count, threshold, count_compensation) =
                    other.zero_count_for_larger_threshold(self.zero_threshold, None);
            }
            if threshold > self.zero_threshold {
                let c = compensation.as_deref();
                let (zero_count, zero_threshold, c_zero_count) =
                    self.zero_count_for_larger_threshold(threshold, c);
                self.zero_count = zero_count;
                self.zero_threshold = zero_threshold;
                if let Some(c) = compensation.as_deref_mut() {
                    c.zero_count = c_zero_count;
                }
                self.trim_buckets_in_zero_bucket(compensation.as_deref_mut());
            }
            if threshold.is_nan() || self.zero_threshold.is_nan() {
                break;
            }
        }
        (count, count_compensation)
    }

    /// The zero count with a larger threshold, which moves up further if it would cut through a
    /// populated bucket: count, threshold, compensation.
    pub(super) fn zero_count_for_larger_threshold(
        &self,
        mut threshold: f64,
        compensation: Option<&Self>,
    ) -> (f64, f64, f64) {
        let c_start = compensation.map_or(0.0, |c| c.zero_count);
        if threshold == self.zero_threshold {
            return (self.zero_count, threshold, c_start);
        }
        let mut c = c_start;
        'again: loop {
            let mut count = self.zero_count;
            for (i, bucket) in self.positive_bucket_iter().enumerate() {
                if bucket.lower >= threshold {
                    break;
                }
                (count, c) = kahan_increment(bucket.count, count, c);
                if let Some(&term) = compensation.and_then(|c| c.positive_buckets.get(i)) {
                    (count, c) = kahan_increment(term, count, c);
                }
                if bucket.upper > threshold {
                    if bucket.count != 0.0 {
                        threshold = bucket.upper;
                    }
                    break;
                }
            }
            for (i, bucket) in self.negative_bucket_iter().enumerate() {
                if bucket.upper <= -threshold {
                    break;
                }
                (count, c) = kahan_increment(bucket.count, count, c);
                if let Some(&term) = compensation.and_then(|c| c.negative_buckets.get(i)) {
                    (count, c) = kahan_increment(term, count, c);
                }
                if bucket.lower < -threshold {
                    if bucket.count != 0.0 {
                        threshold = -bucket.lower;
                        continue 'again;
                    }
                    break;
                }
            }
            return (count, threshold, c);
        }
    }

    /// Removes the buckets that now lie within the zero bucket.
    fn trim_buckets_in_zero_bucket(&mut self, compensation: Option<&mut Self>) {
        let threshold = self.zero_threshold;
        let n_positive = self.positive_bucket_iter().take_while(|bucket| bucket.lower < threshold).count();
        let n_negative = self.negative_bucket_iter().take_while(|bucket| bucket.upper > -threshold).count();
        let cut = |spans: &[Span], counts: &[f64], c_counts: Option<&Vec<f64>>, n: usize| {
            let mut side = SideBuilder::default();
            let mut c_side = Vec::new();
            for (i, (index, count)) in indexed(spans, counts).enumerate() {
                let term = c_counts.map_or(0.0, |c| c.get(i).copied().unwrap_or(0.0));
                if i >= n && (count != 0.0 || term != 0.0) {
                    side.push(index, count);
                    c_side.push(term);
                }
            }
            (side.spans, side.counts, c_side)
        };
        let (c_positive, c_negative) = match &compensation {
            Some(c) => (Some(&c.positive_buckets), Some(&c.negative_buckets)),
            None => (None, None),
        };
        let positive = cut(&self.positive_spans, &self.positive_buckets, c_positive, n_positive);
        let negative = cut(&self.negative_spans, &self.negative_buckets, c_negative, n_negative);
        if let Some(c) = compensation {
            c.positive_spans = positive.0.clone();
            c.negative_spans = negative.0.clone();
            c.positive_buckets = positive.2;
            c.negative_buckets = negative.2;
        }
        (self.positive_spans, self.positive_buckets) = (positive.0, positive.1);
        (self.negative_spans, self.negative_buckets) = (negative.0, negative.1);
    }

    /// Whether any field is infinite.
    pub fn has_overflow(&self) -> bool {
        [self.zero_count, self.count, self.sum]
            .iter()
            .chain(&self.positive_buckets)
            .chain(&self.negative_buckets)
            .chain(self.custom_bounds())
            .any(|value| value.is_infinite())
    }

    /// Whether layout and all counts are the same, bit for bit. Empty spans are ignored, and so is the
    /// hint.
    pub fn same_data(&self, other: &Self) -> bool {
        let layout = |spans: &[Span], n: usize| {
            indexed(spans, &vec![0.0; n]).map(|(index, _)| index).collect::<Vec<_>>()
        };
        let same_bits = |a: &[f64], b: &[f64]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
        };
        self.schema == other.schema
            && self.count.to_bits() == other.count.to_bits()
            && self.sum.to_bits() == other.sum.to_bits()
            && (!is_custom(self.schema) || custom_bounds_match(self.custom_bounds(), other.custom_bounds()))
            && self.zero_threshold == other.zero_threshold
            && self.zero_count.to_bits() == other.zero_count.to_bits()
            && same_bits(&self.positive_buckets, &other.positive_buckets)
            && same_bits(&self.negative_buckets, &other.negative_buckets)
            && layout(&self.positive_spans, self.positive_buckets.len())
                == layout(&other.positive_spans, other.positive_buckets.len())
            && layout(&self.negative_spans, self.negative_buckets.len())
                == layout(&other.negative_spans, other.negative_buckets.len())
    }
}

/// Whether two sets of custom bounds are equal.
pub fn custom_bounds_match(a: &[f64], b: &[f64]) -> bool {
    a == b
}

/// The bounds that both sets have.
fn intersect_bounds(a: &[f64], b: &[f64]) -> Vec<f64> {
    let (mut i, mut j) = (0, 0);
    let mut both = Vec::new();
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            both.push(a[i]);
            i += 1;
            j += 1;
        } else if a[i] < b[j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    both
}

fn compact_side(spans: &mut Vec<Span>, counts: &mut Vec<f64>) {
    let full = counts.iter().all(|&count| count != 0.0);
    if full && spans.iter().enumerate().all(|(i, span)| span.length > 0 && (i == 0 || span.offset > 0)) {
        return;
    }
    let mut side = SideBuilder::default();
    for (index, count) in indexed(spans, counts) {
        if count != 0.0 {
            side.push(index, count);
        }
    }
    *spans = side.spans;
    *counts = side.counts;
}

/// Merges the buckets of one side to a coarser schema (or copies them if the schemas are equal), with
/// compensated sums if `compensated`; missing compensation terms are zero.
fn reduce_side(
    spans: &[Span],
    counts: &[f64],
    c_counts: Vec<f64>,
    origin: i32,
    target: i32,
    compensated: bool,
) -> Side {
    let mut side = SideBuilder::with_capacity(counts.len());
    let mut compensation: Vec<f64> = Vec::with_capacity(counts.len());
    let mut last_index = None;
    for (i, (index, count)) in indexed(spans, counts).enumerate() {
        let index = if origin == target { index } else { target_index(index, origin, target) };
        let term = c_counts.get(i).copied().unwrap_or(0.0);
        if last_index != Some(index) {
            side.push(index, count);
            compensation.push(term);
            last_index = Some(index);
            continue;
        }
        let sum = side.counts.last_mut().expect("a bucket was pushed for this number");
        let c = compensation.last_mut().expect("a term was pushed with each bucket");
        if compensated {
            (*sum, *c) = kahan_increment(count, *sum, *c);
            (*sum, *c) = kahan_increment(term, *sum, *c);
        } else {
            *sum += count;
        }
    }
    Side { spans: side.spans, counts: side.counts, compensation }
}

/// Whether the buckets of two sides lie at the same places, told by spans as [`SideBuilder`] makes them: none is empty,
/// none follows the one before without a gap.
fn are_aligned((spans, counts): (&[Span], &[f64]), (other_spans, other_counts): (&[Span], &[f64])) -> bool {
    let is_plain = |(i, span): (usize, &Span)| span.length > 0 && (i == 0 || span.offset > 0);
    spans == other_spans
        && counts.len() == other_counts.len()
        && spans.iter().map(|span| u64::from(span.length)).sum::<u64>() == counts.len() as u64
        && spans.iter().enumerate().all(is_plain)
}

/// Buckets that a sum of two layouts gets room for beyond those of the larger one.
const SPARE_BUCKETS: usize = 4;

/// The union of the buckets of `a` and `b` with their counts added. Buckets of `b` from the start on
/// are left out while `ignored` says so (they are in the zero bucket).
fn add_sides(a: &Side, b: &Side, negative: bool, compensated: bool, ignored: impl Fn(i32) -> bool) -> Side {
    let n = a.counts.len().max(b.counts.len()) + SPARE_BUCKETS;
    let mut side = SideBuilder::with_capacity(n);
    let mut compensation = Vec::with_capacity(n);
    let with_terms = |side: &Side| {
        let mut terms: Vec<(i32, f64, f64)> = Vec::with_capacity(side.counts.len());
        let compensation = |i: usize| side.compensation.get(i).copied().unwrap_or(0.0);
        let cells = indexed(&side.spans, &side.counts).enumerate();
        terms.extend(cells.map(|(i, (index, count))| (index, count, compensation(i))));
        terms
    };
    let a = with_terms(a);
    let mut b: &[(i32, f64, f64)] = &with_terms(b);
    while let Some((first, rest)) = b.split_first()
        && ignored(first.0)
    {
        b = rest;
    }
    let sign = if negative { -1.0 } else { 1.0 };
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let order = match (a.get(i), b.get(j)) {
            (Some(a), Some(b)) => a.0.cmp(&b.0),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        let (index, count, term) = match order {
            Ordering::Less => a[i],
            Ordering::Greater => (b[j].0, sign * b[j].1, sign * b[j].2),
            Ordering::Equal if compensated => {
                let (sum, c) = kahan_increment(sign * b[j].1, a[i].1, a[i].2);
                let (sum, c) = if b[j].2 == 0.0 { (sum, c) } else { kahan_increment(sign * b[j].2, sum, c) };
                (a[i].0, sum, c)
            }
            Ordering::Equal => (a[i].0, a[i].1 + sign * b[j].1, 0.0),
        };
        side.push(index, count);
        compensation.push(term);
        i += usize::from(order != Ordering::Greater);
        j += usize::from(order != Ordering::Less);
    }
    Side { spans: side.spans, counts: side.counts, compensation }
}

/// Adds the custom buckets of both histograms on the bounds that both have.
///
/// Source: Prometheus v3.14, `addCustomBucketsWithMismatches`.
fn add_to_intersection(
    a: &FloatHistogram,
    a_compensation: &[f64],
    b: &FloatHistogram,
    negative: bool,
    bounds: &[f64],
) -> Side {
    let mut sums = vec![(0.0, 0.0); bounds.len() + 1];
    let mut map = |histogram: &FloatHistogram, sign: f64, terms: &[f64]| {
        let origin = histogram.custom_bounds();
        for (i, (index, count)) in indexed(&histogram.positive_spans, &histogram.positive_buckets).enumerate()
        {
            let target = match usize::try_from(index).ok().and_then(|index| origin.get(index)) {
                Some(bound) => bounds.partition_point(|candidate| candidate < bound),
                None => bounds.len(),
            };
            let (sum, c) = sums[target];
            sums[target] = kahan_increment(sign * count, sum, c);
            if let Some(&term) = terms.get(i) {
                let (sum, c) = sums[target];
                sums[target] = kahan_increment(term, sum, c);
            }
        }
    };
    map(a, 1.0, a_compensation);
    map(b, if negative { -1.0 } else { 1.0 }, &[]);
    let mut side = SideBuilder::default();
    let mut compensation = Vec::new();
    for (index, &(sum, c)) in (0i32..).zip(&sums) {
        if sum != 0.0 || c != 0.0 {
            side.push(index, sum);
            compensation.push(c);
        }
    }
    Side { spans: side.spans, counts: side.counts, compensation }
}
