//! Writing metric families, as `/federate` sends them: with every field that Prometheus's encoder sets, zeros too.
//!
//! Source: Prometheus v3.14, `web/federate.go`, `makeNativeHistogram` and `makeClassicHistogram`.

use crate::protobuf::{FIXED64, VARINT, put_bytes, put_message, put_tag, put_varint, zigzag};
use chronolith_model::histogram::{FloatHistogram, Span};

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FamilyType {
    /// Numbers of whatever kind.
    Untyped = 3,
    /// Histograms that count up.
    Histogram = 4,
    /// Histograms that do not.
    GaugeHistogram = 5,
}

/// The value of a metric.
#[derive(Clone, Copy, Debug)]
pub enum MetricValue<'a> {
    /// A number.
    Untyped(f64),
    /// A histogram with exponential buckets.
    Native(&'a FloatHistogram),
    /// A histogram with custom buckets, as the classic one it comes from: bounds, the infinite one left out, with
    /// the counts up to them.
    Classic(&'a FloatHistogram),
}

/// Appends a family of `metrics`, which [`put_metric`] wrote, with its length before it.
pub fn put_family(out: &mut Vec<u8>, name: &str, family_type: FamilyType, metrics: &[u8]) {
    let mut head = Vec::with_capacity(name.len() + 16);
    put_bytes(&mut head, 1, name.as_bytes());
    put_tag(&mut head, 3, VARINT);
    put_varint(&mut head, family_type as u64);
    put_varint(out, (head.len() + metrics.len()) as u64);
    out.extend_from_slice(&head);
    out.extend_from_slice(metrics);
}

/// Appends a metric of a family, dated in milliseconds.
pub fn put_metric<'a>(
    out: &mut Vec<u8>,
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    value: MetricValue<'_>,
    timestamp: i64,
) {
    put_message(out, 4, |out| {
        for (name, value) in labels {
            put_message(out, 1, |out| {
                put_bytes(out, 1, name.as_bytes());
                put_bytes(out, 2, value.as_bytes());
            });
        }
        if let MetricValue::Untyped(value) = value {
            put_message(out, 5, |out| put_number(out, 1, value));
        }
        put_tag(out, 6, VARINT);
        put_varint(out, timestamp as u64);
        match value {
            MetricValue::Untyped(_) => {}
            MetricValue::Native(histogram) => put_message(out, 7, |out| put_native(out, histogram)),
            MetricValue::Classic(histogram) => put_message(out, 7, |out| put_classic(out, histogram)),
        }
    });
}

fn put_native(out: &mut Vec<u8>, histogram: &FloatHistogram) {
    put_number(out, 2, histogram.sum);
    put_number(out, 4, histogram.count);
    put_tag(out, 5, VARINT);
    put_varint(out, zigzag(i64::from(histogram.schema)));
    put_number(out, 6, histogram.zero_threshold);
    put_number(out, 8, histogram.zero_count);
    put_side(out, 9, &histogram.negative_spans, 11, &histogram.negative_buckets);
    put_side(out, 12, &histogram.positive_spans, 14, &histogram.positive_buckets);
}

fn put_side(out: &mut Vec<u8>, spans_number: u32, spans: &[Span], counts_number: u32, counts: &[f64]) {
    for span in spans {
        put_message(out, spans_number, |out| {
            put_tag(out, 1, VARINT);
            put_varint(out, zigzag(i64::from(span.offset)));
            put_tag(out, 2, VARINT);
            put_varint(out, u64::from(span.length));
        });
    }
    // Not packed: the message is one of proto2.
    counts.iter().for_each(|count| put_number(out, counts_number, *count));
}

fn put_classic(out: &mut Vec<u8>, histogram: &FloatHistogram) {
    put_number(out, 2, histogram.sum);
    for (bound, count) in classic_buckets(histogram) {
        put_message(out, 3, |out| {
            put_number(out, 2, bound);
            put_number(out, 4, count);
        });
    }
    put_number(out, 4, histogram.count);
}

/// The finite bounds of a histogram with custom buckets and the counts up to them, empty buckets included.
pub fn classic_buckets(histogram: &FloatHistogram) -> impl Iterator<Item = (f64, f64)> + '_ {
    let mut buckets = histogram.positive_bucket_iter().peekable();
    let mut total = 0.0;
    histogram.custom_bounds().iter().zip(0..).map(move |(bound, index)| {
        while let Some(bucket) = buckets.next_if(|bucket| bucket.index <= index) {
            if bucket.index == index {
                total += bucket.count;
            }
        }
        (*bound, total)
    })
}

/// A double field, present if zero.
fn put_number(out: &mut Vec<u8>, number: u32, value: f64) {
    put_tag(out, number, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::protobuf::{
        Family, Histograms, Point, PointValue, ProtobufError, Sink, decode, labels,
    };
    use chronolith_model::histogram::Histogram;
    use std::sync::Arc;

    #[derive(Default)]
    struct Lines(Vec<String>);

    impl Sink for Lines {
        type Error = ProtobufError;

        fn family(&mut self, family: &Family<'_>) -> Result<(), ProtobufError> {
            self.0.push(format!("{} {}", family.name, family.metric_type.as_str()));
            Ok(())
        }

        fn point(&mut self, _: &Family<'_>, point: Point<'_>) -> Result<(), ProtobufError> {
            let value = match point.value {
                PointValue::Float(value) => value.to_string(),
                PointValue::Histogram(Histogram::Int(histogram)) => histogram.to_float().to_string(),
                PointValue::Histogram(Histogram::Float(histogram)) => histogram.to_string(),
            };
            self.0.push(format!("{} {value} {:?}", labels(point.raw).unwrap(), point.timestamp));
            Ok(())
        }
    }

    #[test]
    fn a_scraper_reads_what_is_written() {
        let span = |offset, length| Span { offset, length };
        let native = FloatHistogram {
            schema: 0,
            zero_threshold: 0.25,
            zero_count: 0.5,
            count: 4.0,
            sum: 7.0,
            positive_spans: vec![span(-1, 1), span(1, 2)],
            positive_buckets: vec![1.0, 0.0, 2.0],
            negative_spans: vec![span(2, 1)],
            negative_buckets: vec![0.5],
            ..FloatHistogram::default()
        };
        let custom = FloatHistogram {
            schema: -53,
            count: 6.0,
            sum: 0.0,
            positive_spans: vec![span(1, 1), span(1, 1)],
            positive_buckets: vec![2.0, 4.0],
            custom_values: Some(Arc::new([0.0, 1.0, 2.5])),
            ..FloatHistogram::default()
        };
        let mut body = Vec::new();
        let mut metrics = Vec::new();
        put_metric(&mut metrics, [("a", "b"), ("instance", "")].into_iter(), MetricValue::Untyped(0.0), 5);
        put_metric(&mut metrics, std::iter::empty(), MetricValue::Untyped(-1.5), -6);
        put_family(&mut body, "x", FamilyType::Untyped, &metrics);
        metrics.clear();
        put_metric(&mut metrics, [("a", "b")].into_iter(), MetricValue::Native(&native), 7);
        put_family(&mut body, "h", FamilyType::GaugeHistogram, &metrics);
        metrics.clear();
        put_metric(&mut metrics, std::iter::empty(), MetricValue::Classic(&custom), 8);
        put_family(&mut body, "c", FamilyType::Histogram, &metrics);

        let mut lines = Lines::default();
        let histograms = Histograms { native: true, classic_too: false, convert_classic: false };
        decode(&body, histograms, &mut lines).unwrap();
        assert_eq!(
            lines.0,
            [
                "x unknown",
                "{__name__=\"x\", a=\"b\"} 0 Some(5)",
                "{__name__=\"x\"} -1.5 Some(-6)",
                "h gaugehistogram",
                &format!("{{__name__=\"h\", a=\"b\"}} {native} Some(7)"),
                "c histogram",
                "{__name__=\"c_count\"} 6 Some(8)",
                "{__name__=\"c_sum\"} 0 Some(8)",
                "{__name__=\"c_bucket\", le=\"0.0\"} 0 Some(8)",
                "{__name__=\"c_bucket\", le=\"1.0\"} 2 Some(8)",
                "{__name__=\"c_bucket\", le=\"2.5\"} 2 Some(8)",
                "{__name__=\"c_bucket\", le=\"+Inf\"} 6 Some(8)",
            ]
        );
    }
}
