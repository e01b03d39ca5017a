//! Classic histograms as native ones with custom buckets (`load_with_nhcb`).
//!
//! Source: Prometheus v3.14, `util/convertnhcb/convertnhcb.go`; `promql/promqltest/test.go`,
//! `appendCustomHistogram`.

use super::store::Sample;
use crate::value::SampleValue;
use chronolith_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use chronolith_model::{FloatHistogram, Labels, METRIC_NAME, Span};
use std::collections::BTreeMap;
use std::sync::Arc;

const BUCKET_LABEL: &str = "le";

/// What the parts of one classic histogram said at one time.
#[derive(Debug, Default)]
struct Parts {
    /// Upper bound and cumulative count, ascending by bound.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

impl Parts {
    fn set_bucket(&mut self, bound: f64, count: f64) -> Result<(), String> {
        if count < 0.0 {
            return Err(format!("bucket count must be non-negative: le={bound}, count={count}"));
        }
        let at = self.buckets.partition_point(|&(other, _)| other < bound);
        if self.buckets.get(at).is_some_and(|&(other, _)| other == bound) {
            return Ok(());
        }
        let below = at.checked_sub(1).map(|before| self.buckets[before].1);
        if let Some(below) = below.filter(|&below| count < below) {
            return Err(format!("count is not cumulative: {count} < {below}"));
        }
        if let Some(&(_, above)) = self.buckets.get(at).filter(|(_, above)| count > *above) {
            return Err(format!("count is not cumulative: {count} > {above}"));
        }
        self.buckets.insert(at, (bound, count));
        Ok(())
    }

    fn set_count(&mut self, count: f64) -> Result<(), String> {
        if count < 0.0 {
            return Err(format!("count must be non-negative: count={count}"));
        }
        self.count = Some(count);
        Ok(())
    }

    fn convert(mut self) -> Result<FloatHistogram, String> {
        let highest = self.buckets.last().copied();
        let count = self.count.or(highest.map(|(_, count)| count)).unwrap_or(0.0);
        if highest.is_none_or(|(bound, _)| bound != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        let &(_, last) = self.buckets.last().expect("the infinite bucket is there");
        if count != last {
            return Err(format!("count mismatch: count={count} != le=+Inf count={last}"));
        }
        let mut before = 0.0;
        let positive_buckets: Vec<f64> = self
            .buckets
            .iter()
            .map(|&(_, cumulative)| cumulative - std::mem::replace(&mut before, cumulative))
            .collect();
        let bounds: Vec<f64> =
            self.buckets.iter().map(|&(bound, _)| bound).filter(|&bound| bound != f64::INFINITY).collect();
        let length = u32::try_from(positive_buckets.len()).map_err(|error| error.to_string())?;
        let mut histogram = FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count,
            sum: self.sum,
            positive_spans: vec![Span { offset: 0, length }],
            positive_buckets,
            custom_values: Some(bounds.into()),
            ..FloatHistogram::default()
        };
        histogram.compact();
        histogram.validate().map_err(|error| error.to_string())?;
        Ok(histogram)
    }
}

/// Series and their samples in time order.
pub type SeriesList = Vec<(Labels, Vec<(i64, Sample)>)>;

/// Histograms with custom buckets from the `_bucket`, `_count` and `_sum` series among `series`, each under the
/// base name and without `le`, in time order. Buckets whose bound is no number are left out.
///
/// # Errors
/// In words, for counts that are negative, not cumulative or do not fit each other, and for a `_bucket` without
/// a bound.
pub fn convert(series: &[(Labels, Vec<(i64, Sample)>)]) -> Result<SeriesList, String> {
    let mut groups: BTreeMap<Labels, BTreeMap<i64, Parts>> = BTreeMap::new();
    for (labels, samples) in series {
        let name = labels.metric_name();
        let Some((base, suffix)) = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| Some((name.strip_suffix(suffix)?, *suffix)))
        else {
            continue;
        };
        let mut bound = f64::NAN;
        if suffix == "_bucket" {
            let Some(text) = labels.get(BUCKET_LABEL) else {
                return Err(format!("expected bucket label in metric {labels}"));
            };
            bound = text.parse().unwrap_or(f64::NAN);
            if bound.is_nan() {
                continue;
            }
        }
        let mut target = labels.to_builder();
        target.set(METRIC_NAME, base).remove(BUCKET_LABEL);
        let group = groups.entry(target.build()).or_default();
        for (timestamp, sample) in samples {
            let SampleValue::Float(value) = sample.value else { continue };
            let parts = group.entry(*timestamp).or_default();
            match suffix {
                "_bucket" => parts.set_bucket(bound, value)?,
                "_count" => parts.set_count(value)?,
                _ => parts.sum = value,
            }
        }
    }
    let sample = |parts: Parts| -> Result<Sample, String> {
        let value = SampleValue::Histogram(Arc::new(parts.convert()?));
        Ok(Sample { value, start_timestamp: 0 })
    };
    groups
        .into_iter()
        .map(|(labels, times)| {
            let samples: Result<Vec<(i64, Sample)>, String> =
                times.into_iter().map(|(timestamp, parts)| Ok((timestamp, sample(parts)?))).collect();
            Ok((labels, samples?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(text: &str, value: f64) -> (Labels, Vec<(i64, Sample)>) {
        let labels = crate::parser::parse_metric(text).unwrap();
        (labels, vec![(0, Sample { value: SampleValue::Float(value), start_timestamp: 0 })])
    }

    #[test]
    fn buckets_become_one_histogram_under_the_base_name() {
        let converted = convert(&[
            series(r#"h_bucket{le="2", a="b"}"#, 5.0),
            series(r#"h_bucket{le="1", a="b"}"#, 2.0),
            series(r#"h_bucket{le="x", a="b"}"#, 9.0),
            series(r#"h_count{a="b"}"#, 6.0),
            series(r#"h_sum{a="b"}"#, 7.5),
            series(r#"other{a="b"}"#, 7.5),
        ])
        .unwrap();
        assert_eq!(converted.len(), 1);
        assert_eq!(converted[0].0.to_string(), r#"{__name__="h", a="b"}"#);
        let SampleValue::Histogram(histogram) = &converted[0].1[0].1.value else { panic!("a float") };
        assert_eq!(histogram.positive_buckets, [2.0, 3.0, 1.0]);
        assert_eq!(histogram.custom_bounds(), [1.0, 2.0]);
        assert_eq!((histogram.count, histogram.sum), (6.0, 7.5));
    }

    #[test]
    fn counts_that_do_not_fit_are_refused() {
        let fails = |series: &[(Labels, Vec<(i64, Sample)>)]| convert(series).unwrap_err();
        let falling = [series(r#"h_bucket{le="1"}"#, 5.0), series(r#"h_bucket{le="2"}"#, 4.0)];
        assert_eq!(fails(&falling), "count is not cumulative: 4 < 5");
        assert_eq!(fails(&[series("h_count", -1.0)]), "count must be non-negative: count=-1");
        let mismatch = [series(r#"h_bucket{le="+Inf"}"#, 5.0), series("h_count", 6.0)];
        assert_eq!(fails(&mismatch), "count mismatch: count=6 != le=+Inf count=5");
    }
}
