//! How histograms print: `{count:3, sum:2, (0.5,1]:3}`, as Prometheus's `String`.

use super::buckets::Bucket;
use super::{FloatHistogram, is_custom};
use std::fmt;

impl fmt::Display for FloatHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", GoFloat(self.count), GoFloat(self.sum))?;
        let mut negative: Vec<Bucket> = self.negative_bucket_iter().collect();
        negative.reverse();
        for bucket in negative.iter().filter(|bucket| bucket.count != 0.0) {
            write!(f, ", {bucket}")?;
        }
        if self.zero_count != 0.0 && !is_custom(self.schema) {
            write!(f, ", {}", self.zero_bucket())?;
        }
        for bucket in self.positive_bucket_iter().filter(|bucket| bucket.count != 0.0) {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{},{}{}:{}",
            if self.lower_inclusive { '[' } else { '(' },
            GoFloat(self.lower),
            GoFloat(self.upper),
            if self.upper_inclusive { ']' } else { ')' },
            GoFloat(self.count)
        )
    }
}

/// Prints as Go's `%g` and `%v` do: shortest digits, with an exponent below 1e-4 and from 1e+06 on.
pub(super) struct GoFloat(pub(super) f64);

impl fmt::Display for GoFloat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value.is_nan() {
            return f.write_str("NaN");
        }
        if value.is_infinite() {
            return f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        }
        if value == 0.0 {
            return f.write_str(if value.is_sign_negative() { "-0" } else { "0" });
        }
        let scientific = format!("{value:e}");
        let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent");
        let exponent: i32 = exponent.parse().expect("the exponent is a number");
        if (-4..6).contains(&exponent) {
            return write!(f, "{value}");
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(f, "{digits}e{sign}{:02}", exponent.abs())
    }
}
