//! Cutting a histogram at a value: the operators `</` and `>/`.
//!
//! Source: Prometheus v3.14, `model/histogram/float_histogram.go`, `TrimBuckets`.

use super::buckets::Bucket;
use super::{FloatHistogram, is_custom};

/// Which observations stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// Those below the value: `</`.
    Upper,
    /// Those above the value: `>/`.
    Lower,
}

impl FloatHistogram {
    /// Removes the observations above or below `value`, with interpolation inside the bucket that holds
    /// it. Count and sum are estimated anew if anything was removed.
    pub fn trim(&mut self, value: f64, trim: Trim) {
        let custom = is_custom(self.schema);
        let mut totals = Totals::default();
        let positive: Vec<Bucket> = self.positive_bucket_iter().collect();
        let negative: Vec<Bucket> = self.negative_bucket_iter().collect();
        let has_positive = positive.iter().any(|bucket| bucket.count != 0.0);
        let has_negative = negative.iter().any(|bucket| bucket.count != 0.0);
        for (count, bucket) in self.positive_buckets.iter_mut().zip(&positive) {
            totals.keep(count, bucket, value, trim, true, custom);
        }
        for (count, bucket) in self.negative_buckets.iter_mut().zip(&negative) {
            totals.keep(count, bucket, value, trim, false, custom);
        }
        if self.zero_count > 0.0 {
            let (kept, midpoint) =
                trim_zero_bucket(&self.zero_bucket(), value, has_negative, has_positive, trim);
            totals.trimmed |= self.zero_count != kept;
            self.zero_count = kept;
            totals.sum += midpoint * kept;
            totals.count += kept;
        }
        if totals.trimmed {
            self.count = totals.count;
            self.sum = totals.sum;
            self.compact();
        }
    }
}

#[derive(Default)]
struct Totals {
    count: f64,
    sum: f64,
    trimmed: bool,
}

impl Totals {
    fn keep(
        &mut self,
        count: &mut f64,
        bucket: &Bucket,
        value: f64,
        trim: Trim,
        positive: bool,
        custom: bool,
    ) {
        if bucket.count == 0.0 {
            return;
        }
        let (whole, cut) = match trim {
            Trim::Upper => (bucket.upper <= value, bucket.lower < value),
            Trim::Lower => (bucket.lower >= value, bucket.upper > value),
        };
        if whole {
            self.count += bucket.count;
            self.sum += midpoint(bucket.lower, bucket.upper, positive, custom) * bucket.count;
        } else if cut {
            let (kept, middle) = trim_bucket(bucket, value, trim, positive, custom);
            self.count += kept;
            self.sum += middle * kept;
            self.trimmed |= *count != kept;
            *count = kept;
        } else {
            *count = 0.0;
            self.trimmed = true;
        }
    }
}

/// What stays of a bucket that holds the value, and where it is taken to lie.
fn trim_bucket(bucket: &Bucket, value: f64, trim: Trim, positive: bool, linear: bool) -> (f64, f64) {
    if bucket.lower == f64::NEG_INFINITY || bucket.upper == f64::INFINITY {
        return trim_infinite_bucket(bucket, value, trim);
    }
    let below = if value <= bucket.lower {
        0.0
    } else if value >= bucket.upper {
        bucket.count
    } else {
        bucket.count * bucket.fraction_below(value, linear)
    };
    match trim {
        Trim::Upper => (below, midpoint(bucket.lower, value, positive, linear)),
        Trim::Lower => (bucket.count - below, midpoint(value, bucket.upper, positive, linear)),
    }
}

fn trim_infinite_bucket(bucket: &Bucket, value: f64, trim: Trim) -> (f64, f64) {
    let finite = |bound: f64| if bound.is_infinite() { 0.0 } else { bound };
    if bucket.lower == f64::NEG_INFINITY {
        return match trim {
            Trim::Upper if value >= bucket.upper => (bucket.count, 0.0),
            // A positive upper bound: the bucket is taken to begin at zero. Custom buckets only.
            Trim::Upper if value > 0.0 && bucket.upper > 0.0 && bucket.upper != f64::INFINITY => {
                (bucket.count * value / bucket.upper, value / 2.0)
            }
            Trim::Upper if bucket.upper <= 0.0 => (bucket.count, value),
            Trim::Upper => (0.0, finite(bucket.upper)),
            Trim::Lower if value <= bucket.lower => (bucket.count, 0.0),
            Trim::Lower if value >= 0.0 && bucket.upper > value && bucket.upper != f64::INFINITY => {
                (bucket.count * (1.0 - value / bucket.upper), (value + bucket.upper) / 2.0)
            }
            Trim::Lower => (0.0, finite(bucket.upper)),
        };
    }
    match trim {
        Trim::Lower if value >= bucket.lower => (bucket.count, value),
        Trim::Upper | Trim::Lower => (0.0, finite(bucket.lower)),
    }
}

fn trim_zero_bucket(
    bucket: &Bucket,
    value: f64,
    has_negative: bool,
    has_positive: bool,
    trim: Trim,
) -> (f64, f64) {
    let upper = if has_negative && !has_positive { 0.0 } else { bucket.upper };
    let lower = if has_positive && !has_negative { 0.0 } else { bucket.lower };
    let middle = (lower + upper) / 2.0;
    match trim {
        Trim::Upper if value <= lower => (0.0, 0.0),
        Trim::Upper if value >= upper => (bucket.count, middle),
        Trim::Upper => (bucket.count * ((value - lower) / (upper - lower)), (lower + value) / 2.0),
        Trim::Lower if value <= lower => (bucket.count, middle),
        Trim::Lower if value >= upper => (0.0, 0.0),
        Trim::Lower => (bucket.count * ((upper - value) / (upper - lower)), (value + upper) / 2.0),
    }
}

fn midpoint(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        (false, false) if linear => (lower + upper) / 2.0,
        (false, false) => {
            let mean = (lower * upper).abs().sqrt();
            if positive { mean } else { -mean }
        }
    }
}
