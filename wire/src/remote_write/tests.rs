//! Remote write against messages that prost encodes, round trips, and bytes that are no messages.

use super::*;
use chronolith_model::append::{
    AppendBatch, BatchSeries, HistogramSample, InvalidLabels, Metadata, MetricType, Sample, SeriesKey,
};
use chronolith_model::histogram::{
    CUSTOM_BUCKETS_SCHEMA, CounterResetHint, FloatHistogram, Histogram, IntHistogram, Span,
};
use proptest::prelude::*;
use prost::Message;
use std::sync::Arc;

/// The messages as prost derives them, field by field from the `.proto` files.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub timeseries: Vec<TimeSeries>,
        #[prost(message, repeated, tag = "3")]
        pub metadata: Vec<MetricMetadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricMetadata {
        #[prost(int32, tag = "1")]
        pub kind: i32,
        #[prost(string, tag = "2")]
        pub metric_family_name: String,
        #[prost(string, tag = "4")]
        pub help: String,
        #[prost(string, tag = "5")]
        pub unit: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub exemplars: Vec<Exemplar>,
        #[prost(message, repeated, tag = "4")]
        pub histograms: Vec<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(double, tag = "1")]
        pub value: f64,
        #[prost(int64, tag = "2")]
        pub timestamp: i64,
        #[prost(int64, tag = "3")]
        pub start_timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Exemplar {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(double, tag = "2")]
        pub value: f64,
        #[prost(int64, tag = "3")]
        pub timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Histogram {
        #[prost(uint64, optional, tag = "1")]
        pub count_int: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub count_float: Option<f64>,
        #[prost(double, tag = "3")]
        pub sum: f64,
        #[prost(sint32, tag = "4")]
        pub schema: i32,
        #[prost(double, tag = "5")]
        pub zero_threshold: f64,
        #[prost(uint64, optional, tag = "6")]
        pub zero_count_int: Option<u64>,
        #[prost(double, optional, tag = "7")]
        pub zero_count_float: Option<f64>,
        #[prost(message, repeated, tag = "8")]
        pub negative_spans: Vec<BucketSpan>,
        #[prost(sint64, repeated, tag = "9")]
        pub negative_deltas: Vec<i64>,
        #[prost(double, repeated, tag = "10")]
        pub negative_counts: Vec<f64>,
        #[prost(message, repeated, tag = "11")]
        pub positive_spans: Vec<BucketSpan>,
        #[prost(sint64, repeated, packed = "false", tag = "12")]
        pub positive_deltas: Vec<i64>,
        #[prost(double, repeated, packed = "false", tag = "13")]
        pub positive_counts: Vec<f64>,
        #[prost(int32, tag = "14")]
        pub reset_hint: i32,
        #[prost(int64, tag = "15")]
        pub timestamp: i64,
        #[prost(double, repeated, tag = "16")]
        pub custom_values: Vec<f64>,
        #[prost(int64, tag = "17")]
        pub start_timestamp: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct BucketSpan {
        #[prost(sint32, tag = "1")]
        pub offset: i32,
        #[prost(uint32, tag = "2")]
        pub length: u32,
    }

    pub mod v2 {
        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Request {
            #[prost(bytes = "vec", repeated, tag = "4")]
            pub symbols: Vec<Vec<u8>>,
            #[prost(message, repeated, tag = "5")]
            pub timeseries: Vec<TimeSeries>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct TimeSeries {
            #[prost(uint32, repeated, tag = "1")]
            pub labels_refs: Vec<u32>,
            #[prost(message, repeated, tag = "2")]
            pub samples: Vec<super::Sample>,
            #[prost(message, repeated, tag = "3")]
            pub histograms: Vec<super::Histogram>,
            #[prost(message, repeated, tag = "4")]
            pub exemplars: Vec<Exemplar>,
            #[prost(message, optional, tag = "5")]
            pub metadata: Option<Metadata>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Exemplar {
            #[prost(uint32, repeated, tag = "1")]
            pub labels_refs: Vec<u32>,
            #[prost(double, tag = "2")]
            pub value: f64,
            #[prost(int64, tag = "3")]
            pub timestamp: i64,
        }

        #[derive(Clone, Copy, PartialEq, prost::Message)]
        pub struct Metadata {
            #[prost(int32, tag = "1")]
            pub kind: i32,
            #[prost(uint32, tag = "3")]
            pub help_ref: u32,
            #[prost(uint32, tag = "4")]
            pub unit_ref: u32,
        }
    }
}

/// A batch resolved to owned parts, so that batches of different keys compare.
#[derive(Debug, PartialEq)]
struct Resolved {
    series: Vec<ResolvedSeries>,
    metadata: Vec<(String, Metadata)>,
}

#[derive(Debug, PartialEq)]
struct ResolvedSeries {
    labels: Vec<(String, String)>,
    samples: Vec<(i64, u64, i64)>,
    /// Debug text tells -0.0 from 0.0 and takes NaN as equal to itself.
    histograms: Vec<String>,
    exemplars: Vec<Exemplar>,
}

fn resolve(batch: &AppendBatch<'_>) -> Resolved {
    let series = |series: &BatchSeries<'_>| {
        let mut pairs = Vec::new();
        v1::batch_labels(batch, &series.key, &mut pairs).unwrap();
        let range = |range: &std::ops::Range<u32>| range.start as usize..range.end as usize;
        let samples = batch.samples[range(&series.samples)].iter();
        let histograms = batch.histograms[range(&series.histograms)].iter();
        ResolvedSeries {
            labels: pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            samples: samples.map(|s| (s.timestamp, s.value.to_bits(), s.start_timestamp)).collect(),
            histograms: histograms.map(|histogram| format!("{histogram:?}")).collect(),
            exemplars: batch.exemplars[range(&series.exemplars)].to_vec(),
        }
    };
    Resolved {
        series: batch.series.iter().map(series).collect(),
        metadata: batch.metadata.iter().map(|(name, m)| (name.to_string(), m.clone())).collect(),
    }
}

fn label(name: &str, value: &str) -> proto::Label {
    proto::Label { name: name.into(), value: value.into() }
}

fn sample(value: f64, timestamp: i64) -> proto::Sample {
    proto::Sample { value, timestamp, start_timestamp: 0 }
}

fn int_histogram() -> proto::Histogram {
    proto::Histogram {
        count_int: Some(6),
        sum: 12.5,
        schema: 3,
        zero_threshold: 1e-128,
        zero_count_int: Some(1),
        positive_spans: vec![
            proto::BucketSpan { offset: -2, length: 2 },
            proto::BucketSpan { offset: 1, length: 1 },
        ],
        positive_deltas: vec![1, 1, -1],
        negative_spans: vec![proto::BucketSpan { offset: 0, length: 1 }],
        negative_deltas: vec![1],
        reset_hint: 2,
        timestamp: 1_700_000_000_000,
        ..Default::default()
    }
}

#[test]
fn v1_reads_what_prost_writes() {
    let request = proto::WriteRequest {
        timeseries: vec![
            proto::TimeSeries {
                labels: vec![label("__name__", "up"), label("job", "node")],
                samples: vec![sample(1.5, -7), sample(f64::from_bits(0x7ff0_0000_0000_0002), 8)],
                exemplars: vec![proto::Exemplar {
                    labels: vec![label("trace_id", "abc")],
                    value: 2.0,
                    timestamp: 9,
                }],
                histograms: vec![],
            },
            proto::TimeSeries {
                labels: vec![label("__name__", "h")],
                histograms: vec![
                    int_histogram(),
                    proto::Histogram {
                        count_float: Some(3.5),
                        zero_count_float: Some(0.0),
                        schema: CUSTOM_BUCKETS_SCHEMA,
                        positive_spans: vec![proto::BucketSpan { offset: 0, length: 2 }],
                        positive_counts: vec![1.0, 2.0],
                        custom_values: vec![0.1, 0.2],
                        reset_hint: 3,
                        timestamp: 5,
                        ..Default::default()
                    },
                ],
                ..Default::default()
            },
            proto::TimeSeries { labels: vec![label("__name__", "empty")], ..Default::default() },
        ],
        metadata: vec![proto::MetricMetadata {
            kind: 1,
            metric_family_name: "requests".into(),
            help: "Requests.".into(),
            unit: "requests".into(),
        }],
    };
    let body = request.encode_to_vec();
    let mut batch = AppendBatch::default();
    let rejected = v1::decode(&body, &mut batch).unwrap();
    assert_eq!(rejected, Rejected::default());
    assert_eq!(batch.series.len(), 2);
    assert_eq!(batch.samples.len(), 2);
    assert_eq!((batch.samples[0].timestamp, batch.samples[0].value), (-7, 1.5));
    assert!(chronolith_model::sample::is_stale(batch.samples[1].value));
    assert_eq!(batch.exemplars[0].labels.get("trace_id"), Some("abc"));
    let Histogram::Int(int) = &batch.histograms[0].histogram else { panic!("an integer histogram") };
    let expected = IntHistogram {
        counter_reset_hint: CounterResetHint::NotReset,
        schema: 3,
        zero_threshold: 1e-128,
        zero_count: 1,
        count: 6,
        sum: 12.5,
        positive_spans: vec![Span { offset: -2, length: 2 }, Span { offset: 1, length: 1 }],
        negative_spans: vec![Span { offset: 0, length: 1 }],
        positive_deltas: vec![1, 1, -1],
        negative_deltas: vec![1],
        custom_values: None,
    };
    assert_eq!(*int, expected);
    let Histogram::Float(float) = &batch.histograms[1].histogram else { panic!("a float histogram") };
    assert_eq!((float.count, float.zero_count), (3.5, 0.0));
    assert_eq!(float.custom_values.as_deref(), Some(&[0.1, 0.2][..]));
    assert_eq!(float.counter_reset_hint, CounterResetHint::Gauge);
    assert_eq!(batch.metadata[0].0, "requests");
    assert_eq!(batch.metadata[0].1.metric_type, MetricType::Counter);
    let mut pairs = Vec::new();
    let SeriesKey::Encoded(key) = batch.series[0].key else { panic!("encoded labels") };
    v1::decode_labels(key, &mut pairs).unwrap();
    assert_eq!(pairs, [("__name__", "up"), ("job", "node")]);
}

#[test]
fn v1_prost_reads_what_we_write() {
    let histogram = Histogram::Float(FloatHistogram {
        count: 0.0,
        sum: -0.0,
        schema: CUSTOM_BUCKETS_SCHEMA,
        custom_values: Some(Arc::from([1.0, 2.0])),
        positive_spans: vec![Span { offset: 1, length: 1 }],
        positive_buckets: vec![4.0],
        ..FloatHistogram::default()
    });
    let labels = Labels::from_pairs([("__name__", "up"), ("z", "ü")]).unwrap();
    let batch = AppendBatch {
        series: vec![BatchSeries {
            key: SeriesKey::Labels(&labels),
            samples: 0..1,
            histograms: 0..1,
            exemplars: 0..0,
        }],
        samples: vec![Sample { timestamp: 1_700_000_000_000, value: 0.5, start_timestamp: 0 }],
        histograms: vec![HistogramSample { timestamp: 4, start_timestamp: 0, histogram }],
        ..AppendBatch::default()
    };
    let mut body = Vec::new();
    v1::encode(&batch, &mut body).unwrap();
    let request = proto::WriteRequest::decode(&body[..]).unwrap();
    assert_eq!(request.timeseries[0].labels, [label("__name__", "up"), label("z", "ü")]);
    assert_eq!(request.timeseries[0].samples, [sample(0.5, 1_700_000_000_000)]);
    let histogram = &request.timeseries[0].histograms[0];
    assert_eq!(histogram.count_float, Some(0.0));
    assert_eq!(histogram.sum.to_bits(), (-0.0f64).to_bits());
    assert_eq!(histogram.custom_values, [1.0, 2.0]);
    assert_eq!(histogram.positive_counts, [4.0]);
}

#[test]
fn v1_labels_in_several_pieces_mean_the_same() {
    let mut body = Vec::new();
    protobuf::put_message(&mut body, 1, |out| {
        v1::put_labels(out, [("__name__", "up")].into_iter());
        protobuf::put_message(out, 2, |out| protobuf::put_integer(out, 2, 5));
        v1::put_labels(out, [("job", "node")].into_iter());
    });
    let mut batch = AppendBatch::default();
    v1::decode(&body, &mut batch).unwrap();
    let mut pairs = Vec::new();
    v1::batch_labels(&batch, &batch.series[0].key, &mut pairs).unwrap();
    assert_eq!(pairs, [("__name__", "up"), ("job", "node")]);
}

#[test]
fn v1_labels_that_are_not_utf8_are_named_so() {
    let mut bytes = Vec::new();
    protobuf::put_message(&mut bytes, 1, |out| protobuf::put_bytes(out, 1, &[0xff]));
    assert_eq!(v1::decode_labels(&bytes, &mut Vec::new()), Err(InvalidLabels::NotUtf8));
}

#[test]
fn v1_an_exemplar_with_a_name_twice_is_left_out() {
    let request = proto::WriteRequest {
        timeseries: vec![proto::TimeSeries {
            labels: vec![label("__name__", "up")],
            samples: vec![sample(1.0, 1)],
            exemplars: vec![proto::Exemplar {
                labels: vec![label("a", "1"), label("a", "2")],
                ..Default::default()
            }],
            ..Default::default()
        }],
        metadata: vec![],
    };
    let body = request.encode_to_vec();
    let mut batch = AppendBatch::default();
    let rejected = v1::decode(&body, &mut batch).unwrap();
    assert_eq!((rejected.exemplars, batch.samples.len(), batch.exemplars.len()), (1, 1, 0));
    assert_eq!(rejected.reasons, [r#"exemplar {a="1", a="2"}: label "a" occurs twice"#]);
}

#[test]
fn hollow_histograms_do_not_blow_up() {
    let request = proto::WriteRequest {
        timeseries: vec![proto::TimeSeries {
            histograms: vec![proto::Histogram::default(); 100_000],
            ..Default::default()
        }],
        metadata: vec![],
    };
    let error = v1::decode(&request.encode_to_vec(), &mut AppendBatch::default()).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::TooMany);
}

fn v2_request(symbols: &[&str], timeseries: Vec<proto::v2::TimeSeries>) -> Vec<u8> {
    let symbols = symbols.iter().map(|symbol| symbol.as_bytes().to_vec()).collect();
    proto::v2::Request { symbols, timeseries }.encode_to_vec()
}

#[test]
fn v2_reads_what_prost_writes() {
    let body = v2_request(
        &["", "__name__", "http_bucket", "le", "1", "Requests.", "trace"],
        vec![proto::v2::TimeSeries {
            labels_refs: vec![1, 2, 3, 4],
            samples: vec![proto::Sample { value: 3.0, timestamp: 10, start_timestamp: 2 }],
            histograms: vec![proto::Histogram { start_timestamp: 3, ..int_histogram() }],
            exemplars: vec![proto::v2::Exemplar { labels_refs: vec![6, 4], value: 1.0, timestamp: 7 }],
            metadata: Some(proto::v2::Metadata { kind: 3, help_ref: 5, unit_ref: 0 }),
        }],
    );
    let mut refs = Vec::new();
    let mut batch = AppendBatch::default();
    let rejected = v2::decode(&body, &mut refs, &mut batch).unwrap();
    assert_eq!(rejected, Rejected::default());
    let SeriesKey::Symbols(numbers) = batch.series[0].key else { panic!("symbols") };
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_eq!(batch.samples, [Sample { timestamp: 10, value: 3.0, start_timestamp: 2 }]);
    assert_eq!(batch.histograms[0].start_timestamp, 3);
    assert_eq!(batch.exemplars[0].labels.get("trace"), Some("1"));
    let help = Metadata { metric_type: MetricType::Histogram, unit: String::new(), help: "Requests.".into() };
    assert_eq!(batch.metadata, [("http", help)]);
}

#[test]
fn v2_series_that_make_no_sense_are_left_out_and_named() {
    let samples = vec![sample(1.0, 1), sample(2.0, 2)];
    let series = |labels_refs: Vec<u32>| proto::v2::TimeSeries {
        labels_refs,
        samples: samples.clone(),
        ..Default::default()
    };
    let body = v2_request(
        &["", "__name__", "up"],
        vec![
            series(vec![1, 2]),
            series(vec![1, 3]),
            series(vec![1]),
            proto::v2::TimeSeries { labels_refs: vec![1, 2], ..Default::default() },
            proto::v2::TimeSeries {
                metadata: Some(proto::v2::Metadata { kind: 1, help_ref: 9, unit_ref: 0 }),
                ..series(vec![1, 2])
            },
        ],
    );
    let mut refs = Vec::new();
    let mut batch = AppendBatch::default();
    let rejected = v2::decode(&body, &mut refs, &mut batch).unwrap();
    assert_eq!((batch.series.len(), batch.samples.len()), (1, 2));
    assert_eq!((rejected.series, rejected.samples), (4, 6));
    let expected = [
        "parsing labels for series [1, 3]: labelRefs 0 (value) = 3 outside of symbols table (size 3)",
        "parsing labels for series [1]: invalid labelRefs length 1",
        "TimeSeries must contain at least one sample or histogram for series {__name__=\"up\"}",
        "parsing metadata for series [1, 2]: metadata help_ref 9 outside of symbols table (size 3)",
    ];
    assert_eq!(rejected.reasons, expected);
}

#[test]
fn v2_series_in_their_usual_form_are_read_as_in_any_form() {
    // Numbers of one, two and three bytes, many, few, an odd count and one too large; values that are left out.
    let symbols: Vec<String> =
        (0..20_000).map(|i| if i == 0 { String::new() } else { format!("s{i}") }).collect();
    let symbols: Vec<&str> = symbols.iter().map(String::as_str).collect();
    let refs = [
        vec![1, 2],
        vec![127, 128, 16_383, 1, 300, 2],
        vec![5, 16_400, 3, 17_000],
        (100..200).collect(),
        vec![1],
        vec![1, 20_000],
        vec![],
    ];
    let samples = [
        vec![],
        vec![sample(1.5, 1_700_000_000_000)],
        vec![sample(0.0, 1_700_000_000_000), sample(-0.0, 1)],
        vec![sample(f64::NAN, -1)],
        vec![sample(2.0, 0)],
        vec![sample(1.0, 1_700_000_000_000), proto::Sample { start_timestamp: 9, ..sample(1.0, 10) }],
    ];
    let all: Vec<proto::v2::TimeSeries> = refs
        .iter()
        .flat_map(|refs| samples.iter().map(move |samples| (refs.clone(), samples.clone())))
        .map(|(labels_refs, samples)| proto::v2::TimeSeries { labels_refs, samples, ..Default::default() })
        .collect();
    let usual = v2_request(&symbols, all.clone());
    // A field in front that nobody knows makes each series unusual.
    let mut unusual = v2_request(&symbols, vec![]);
    for series in &all {
        let content = [&[15 << 3, 1][..], &series.encode_to_vec()].concat();
        unusual.push(5 << 3 | 2);
        prost::encoding::encode_varint(content.len() as u64, &mut unusual);
        unusual.extend_from_slice(&content);
    }
    let decoded = [usual, unusual].map(|body| {
        let mut refs = Vec::new();
        let mut batch = AppendBatch::default();
        let rejected = v2::decode(&body, &mut refs, &mut batch).unwrap();
        let keys: Vec<Vec<u32>> = batch
            .series
            .iter()
            .map(|series| match series.key {
                SeriesKey::Symbols(numbers) => numbers.to_vec(),
                _ => panic!("symbols"),
            })
            .collect();
        let ranges: Vec<_> = batch.series.iter().map(|series| series.samples.clone()).collect();
        let samples: Vec<_> =
            batch.samples.iter().map(|s| (s.timestamp, s.value.to_bits(), s.start_timestamp)).collect();
        (keys, ranges, samples, rejected)
    });
    assert_eq!(decoded[0], decoded[1]);
    assert_eq!((decoded[0].0.len(), decoded[0].3.series), (25, 17));
}

/// Labels by number, whether an empty field of metadata follows, and samples.
type UsualSeries = (Vec<u32>, bool, Vec<(f64, i64)>);

fn usual_request(series: &[UsualSeries]) -> Vec<u8> {
    let symbols: Vec<String> = (0..200).map(|i| "s".repeat(i)).collect();
    let symbols: Vec<&str> = symbols.iter().map(String::as_str).collect();
    let series = series.iter().map(|(refs, has_metadata, samples)| proto::v2::TimeSeries {
        labels_refs: refs.iter().map(|number| number / 2).flat_map(|number| [number, number]).collect(),
        samples: samples.iter().map(|&(value, timestamp)| sample(value, timestamp)).collect(),
        metadata: has_metadata.then(proto::v2::Metadata::default),
        ..Default::default()
    });
    v2_request(&symbols, series.collect())
}

/// Where the samples of each series are, and all of them with their bits.
type RangesAndSamples = (Vec<std::ops::Range<u32>>, Vec<(i64, u64, i64)>);
/// What a request decodes to: symbols, numbers of each series, and the samples.
type Decoded = (Vec<String>, Vec<Vec<u32>>, RangesAndSamples);

fn decoded(body: &[u8]) -> Option<Decoded> {
    let mut refs = Vec::new();
    let mut batch = AppendBatch::default();
    if !v2::decode(body, &mut refs, &mut batch).ok()?.is_empty() {
        return None;
    }
    let numbers = |series: &BatchSeries<'_>| match series.key {
        SeriesKey::Symbols(numbers) => numbers.to_vec(),
        _ => panic!("symbols"),
    };
    let keys = batch.series.iter().map(numbers).collect();
    let symbols = batch.symbols.iter().map(|&symbol| symbol.to_owned()).collect();
    Some((symbols, keys, ranges_and_samples(&batch)))
}

fn ranges_and_samples(batch: &AppendBatch<'_>) -> RangesAndSamples {
    let sample = |sample: &Sample| (sample.timestamp, sample.value.to_bits(), sample.start_timestamp);
    let ranges = batch.series.iter().map(|series| series.samples.clone()).collect();
    (ranges, batch.samples.iter().map(sample).collect())
}

proptest! {
    #[test]
    fn requests_of_the_same_symbols_and_labels_are_about_the_same_series(
        series in prop::collection::vec(
            (
                prop::collection::vec(0u32..400, 1..8),
                any::<bool>(),
                prop::collection::vec((prop_oneof![Just(0.0), any::<f64>()], 1i64..1 << 55), 1..3),
            ),
            1..12,
        ),
        new_samples in prop::collection::vec((any::<f64>(), 1i64..1 << 55), 1..12),
        changed: prop::sample::Index,
        at: prop::sample::Index,
        byte: u8,
    ) {
        let first = usual_request(&series);
        let mut labels = Vec::new();
        prop_assert!(samples(&first, &mut AppendBatch::default(), &mut labels), "it has the usual form");
        let (first_symbols, first_keys, ..) = decoded(&first).unwrap();
        let mut again = series.clone();
        for (one, sample) in again.iter_mut().zip(&new_samples) {
            one.1 = !one.1;
            one.2 = vec![*sample];
        }
        let again_body = usual_request(&again);
        let mut damaged = again_body.clone();
        *at.get_mut(&mut damaged) = byte;
        let mut other = again.clone();
        changed.get_mut(&mut other).0.push(7);
        let mut fewer = again.clone();
        fewer.remove(changed.index(again.len()));
        let mut more = again.clone();
        more.insert(changed.index(again.len()), again[0].clone());
        let behind = [&again_body[..], &usual_request(&[])].concat();
        let bodies =
            [again_body, damaged, usual_request(&other), usual_request(&fewer), usual_request(&more), behind];
        for (number, body) in bodies.iter().enumerate() {
            let mut batch = AppendBatch::default();
            let mut found = Vec::new();
            let is_same =
                samples(body, &mut batch, &mut found) && found == labels && symbols(body) == symbols(&first);
            prop_assert!(is_same || number > 0, "only samples differ");
            prop_assert!(!is_same || number < 2, "{number}");
            if is_same {
                let expected = (first_symbols.clone(), first_keys.clone(), ranges_and_samples(&batch));
                prop_assert_eq!(decoded(body), Some(expected));
            }
        }
    }
}

#[test]
fn requests_with_more_than_samples_are_left_to_the_general_way() {
    let usual = proto::v2::TimeSeries {
        labels_refs: vec![1, 2],
        samples: vec![sample(1.0, 10)],
        ..Default::default()
    };
    let metadata = proto::v2::Metadata { kind: 1, help_ref: 0, unit_ref: 0 };
    let exemplar = proto::v2::Exemplar { labels_refs: vec![], value: 1.0, timestamp: 1 };
    let unusual = [
        proto::v2::TimeSeries { samples: vec![], ..usual.clone() },
        proto::v2::TimeSeries { metadata: Some(metadata), ..usual.clone() },
        proto::v2::TimeSeries { exemplars: vec![exemplar], ..usual.clone() },
        proto::v2::TimeSeries { histograms: vec![int_histogram()], ..usual.clone() },
        proto::v2::TimeSeries {
            samples: vec![proto::Sample { start_timestamp: 9, ..sample(1.0, 10) }],
            ..usual.clone()
        },
    ];
    let request = |series| v2_request(&["", "__name__", "m"], vec![usual.clone(), series]);
    let is_usual = |body: &[u8]| samples(body, &mut AppendBatch::default(), &mut Vec::new());
    assert!(is_usual(&request(usual.clone())));
    for series in unusual {
        assert!(!is_usual(&request(series)));
    }
}

#[test]
fn a_request_under_the_name_of_the_other_version_is_refused_not_passed_over() {
    // One empty series in field 1.
    let v1_body = [0x0a, 0x00];
    let error = v2::decode(&v1_body, &mut Vec::new(), &mut AppendBatch::default()).unwrap_err();
    assert!(error.to_string().contains("remote write 1.0"), "{error}");
    let v2_body = v2_request(&["", "__name__", "up"], vec![proto::v2::TimeSeries::default()]);
    let error = v1::decode(&v2_body, &mut AppendBatch::default()).unwrap_err();
    assert!(error.to_string().contains("remote write 2.0"), "{error}");
}

#[test]
fn v2_symbols_must_start_with_the_empty_string() {
    let body = v2_request(&["a", ""], vec![]);
    let error = v2::decode(&body, &mut Vec::new(), &mut AppendBatch::default()).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::FirstSymbol);
}

#[test]
fn v2_a_symbol_that_is_not_utf8_costs_only_the_series_that_use_it() {
    let series = |refs| proto::v2::TimeSeries {
        labels_refs: refs,
        samples: vec![sample(1.0, 1)],
        ..Default::default()
    };
    let body = proto::v2::Request {
        symbols: vec![b"".to_vec(), b"__name__".to_vec(), b"up".to_vec(), vec![0xff]],
        timeseries: vec![series(vec![1, 2]), series(vec![1, 3])],
    }
    .encode_to_vec();
    let mut refs = Vec::new();
    let mut batch = AppendBatch::default();
    let rejected = v2::decode(&body, &mut refs, &mut batch).unwrap();
    assert_eq!((batch.series.len(), rejected.series), (1, 1));
    assert_eq!(rejected.reasons, ["parsing labels for series [1, 3]: label value is not UTF-8"]);
}

#[test]
fn a_declared_length_is_checked_before_memory_is_taken() {
    let mut out = Vec::new();
    let compressed = compress(&vec![7; 100_000]);
    let error = decompress(&compressed, 99_999, &mut out).unwrap_err();
    assert_eq!(error, DecompressError::TooLarge { declared: 100_000, limit: 99_999 });
    decompress(&compressed, 100_000, &mut out).unwrap();
    assert_eq!(out, vec![7; 100_000]);
    // 2^31 - 1 bytes declared, two bytes there.
    let liar = [0xff, 0xff, 0xff, 0xff, 0x07, 0x00, 0x00];
    let error = decompress(&liar, usize::MAX, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("cannot stand for"), "{error}");
    assert!(matches!(decompress(&[], 10, &mut out), Err(DecompressError::Corrupt(_))));
}

#[test]
fn histograms_are_reduced_or_refused() {
    let mut fine = int_histogram();
    fine.schema = 10;
    let mut contradictory = int_histogram();
    contradictory.count_int = Some(7);
    let mut unknown = int_histogram();
    unknown.schema = 77;
    let request = proto::WriteRequest {
        timeseries: vec![proto::TimeSeries {
            labels: vec![label("__name__", "h")],
            samples: vec![sample(1.0, 1)],
            histograms: vec![contradictory, fine, unknown],
            ..Default::default()
        }],
        metadata: vec![],
    };
    let body = request.encode_to_vec();
    let mut batch = AppendBatch::default();
    let rejected = v1::decode(&body, &mut batch).unwrap();
    assert_eq!((batch.samples.len(), batch.histograms.len(), rejected.histograms), (1, 1, 2));
    assert_eq!(batch.series[0].histograms, 0..1);
    // Buckets -2, -1 and 1 of schema 10 lie in buckets 0, 0 and 1 of schema 8.
    let Histogram::Int(reduced) = &batch.histograms[0].histogram else { panic!("an integer histogram") };
    assert_eq!(reduced.schema, 8);
    assert_eq!(reduced.positive_spans, [Span { offset: 0, length: 2 }]);
    assert_eq!(reduced.positive_deltas, [3, -2]);
    assert!(rejected.reasons[0].ends_with("for series {__name__=\"h\"}"), "{}", rejected.reasons[0]);
    assert!(rejected.reasons[1].contains("invalid schema"), "{}", rejected.reasons[1]);
}

/// Shifting bucket numbers by 32 and more once overflowed.
#[test]
fn a_histogram_of_schema_40_is_reduced() {
    let mut histogram = int_histogram();
    histogram.schema = 40;
    let series = proto::TimeSeries { histograms: vec![histogram], ..Default::default() };
    let body = proto::WriteRequest { timeseries: vec![series], metadata: vec![] }.encode_to_vec();
    let mut batch = AppendBatch::default();
    assert!(v1::decode(&body, &mut batch).unwrap().is_empty());
    assert_eq!(batch.histograms[0].histogram.schema(), 8);
}

/// Histograms that pass validation: one run of buckets, counts that add up.
fn any_histogram() -> impl Strategy<Value = HistogramSample> {
    let counts = proptest::collection::vec(0..1000i64, 0..5);
    (counts, any::<i32>(), any::<f64>(), any::<i64>(), -4..=8, 0..4u8, any::<bool>(), any::<bool>()).prop_map(
        |(counts, offset, sum, timestamp, schema, hint, float, custom)| {
            let counter_reset_hint = match hint {
                1 => CounterResetHint::Reset,
                2 => CounterResetHint::NotReset,
                3 => CounterResetHint::Gauge,
                _ => CounterResetHint::Unknown,
            };
            let custom_values = custom.then(|| (0..counts.len()).map(|bound| bound as f64).collect());
            let schema = if custom { CUSTOM_BUCKETS_SCHEMA } else { schema };
            let offset = if custom { 0 } else { offset };
            let spans = vec![Span { offset, length: counts.len() as u32 }];
            let total: i64 = counts.iter().sum();
            let histogram = if float {
                Histogram::Float(FloatHistogram {
                    counter_reset_hint,
                    schema,
                    count: total as f64,
                    sum,
                    positive_spans: spans,
                    positive_buckets: counts.iter().map(|&count| count as f64).collect(),
                    custom_values,
                    ..FloatHistogram::default()
                })
            } else {
                let before = std::iter::once(0).chain(counts.iter().copied());
                Histogram::Int(IntHistogram {
                    counter_reset_hint,
                    schema,
                    count: total as u64,
                    sum,
                    positive_spans: spans,
                    positive_deltas: counts
                        .iter()
                        .zip(before)
                        .map(|(count, before)| count - before)
                        .collect(),
                    custom_values,
                    ..IntHistogram::default()
                })
            };
            HistogramSample { timestamp, start_timestamp: 0, histogram }
        },
    )
}

/// The parts of a batch; the series share them out by turns.
type Parts = (Vec<Labels>, Vec<Sample>, Vec<HistogramSample>, Vec<Exemplar>);

fn any_parts() -> impl Strategy<Value = Parts> {
    let labels = proptest::collection::btree_map("[a-zü]{1,3}", "[a-z]{1,3}", 0..4)
        .prop_map(|map| Labels::from_pairs(map).expect("keys of a map are unique"))
        .boxed();
    let sample = (any::<i64>(), any::<u64>()).prop_map(|(timestamp, bits)| Sample {
        timestamp,
        value: f64::from_bits(bits),
        start_timestamp: 0,
    });
    let exemplar = (labels.clone(), any::<i64>(), -1e9..1e9)
        .prop_map(|(labels, timestamp, value)| Exemplar { labels, value, timestamp });
    (
        proptest::collection::vec(labels, 1..5),
        proptest::collection::vec(sample, 8..20),
        proptest::collection::vec(any_histogram(), 0..4),
        proptest::collection::vec(exemplar, 0..4),
    )
}

fn batch_of((labels, samples, histograms, exemplars): &Parts) -> AppendBatch<'_> {
    let n = labels.len();
    let share = |i: usize, total: usize| (i * total / n) as u32..((i + 1) * total / n) as u32;
    let series = |(i, labels)| BatchSeries {
        key: SeriesKey::Labels(labels),
        samples: share(i, samples.len()),
        histograms: share(i, histograms.len()),
        exemplars: share(i, exemplars.len()),
    };
    AppendBatch {
        series: labels.iter().enumerate().map(series).collect(),
        samples: samples.clone(),
        histograms: histograms.clone(),
        exemplars: exemplars.clone(),
        ..AppendBatch::default()
    }
}

proptest! {
    #[test]
    fn v1_round_trip(parts in any_parts()) {
        let batch = batch_of(&parts);
        let mut body = Vec::new();
        v1::encode(&batch, &mut body).unwrap();
        let mut plain = Vec::new();
        decompress(&compress(&body), body.len(), &mut plain).unwrap();
        prop_assert_eq!(&plain, &body);
        let mut decoded = AppendBatch::default();
        let rejected = v1::decode(&plain, &mut decoded).unwrap();
        prop_assert!(rejected.is_empty());
        prop_assert_eq!(resolve(&decoded), resolve(&batch));
        proto::WriteRequest::decode(&body[..]).unwrap();
    }

    #[test]
    fn v2_round_trip(mut parts in any_parts(), start_timestamp in any::<i64>()) {
        for sample in &mut parts.1 {
            sample.start_timestamp = start_timestamp;
        }
        for histogram in &mut parts.2 {
            histogram.start_timestamp = start_timestamp;
        }
        let batch = batch_of(&parts);
        let mut body = Vec::new();
        v2::encode(&batch, &mut body).unwrap();
        let (mut refs, mut decoded) = (Vec::new(), AppendBatch::default());
        let rejected = v2::decode(&body, &mut refs, &mut decoded).unwrap();
        prop_assert!(rejected.is_empty());
        prop_assert_eq!(resolve(&decoded), resolve(&batch));
        proto::v2::Request::decode(&body[..]).unwrap();
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = v1::decode(&bytes, &mut AppendBatch::default());
        let _ = v2::decode(&bytes, &mut Vec::new(), &mut AppendBatch::default());
        let _ = v1::decode_labels(&bytes, &mut Vec::new());
        let _ = decompress(&bytes, 1 << 20, &mut Vec::new());
    }

    #[test]
    fn absurd_histograms_never_panic(
        spans in proptest::collection::vec((any::<i32>(), 0..4u32), 0..4),
        schema in -60..60i32,
        count in any::<u64>(),
        fitting: bool,
    ) {
        let spans: Vec<_> =
            spans.into_iter().map(|(offset, length)| proto::BucketSpan { offset, length }).collect();
        let n = if fitting { spans.iter().map(|span| span.length as usize).sum() } else { 3 };
        let histogram = proto::Histogram {
            count_int: Some(count),
            schema,
            sum: f64::NAN,
            positive_spans: spans,
            positive_deltas: vec![0; n],
            ..Default::default()
        };
        let series = proto::TimeSeries { histograms: vec![histogram], ..Default::default() };
        let body = proto::WriteRequest { timeseries: vec![series], metadata: vec![] }.encode_to_vec();
        let mut batch = AppendBatch::default();
        v1::decode(&body, &mut batch).unwrap();
        for sample in &batch.histograms {
            prop_assert!(sample.histogram.validate().is_ok());
        }
    }

    /// Near misses get further than noise.
    #[test]
    fn damaged_requests_never_panic(parts in any_parts(), at in any::<prop::sample::Index>(), byte: u8) {
        let batch = batch_of(&parts);
        for encode in [v1::encode, v2::encode] {
            let mut body = Vec::new();
            encode(&batch, &mut body).unwrap();
            let at = at.index(body.len());
            body[at] = byte;
            let mut decoded = AppendBatch::default();
            if v1::decode(&body, &mut decoded).is_ok() {
                for series in &decoded.series {
                    let _ = v1::batch_labels(&decoded, &series.key, &mut Vec::new());
                }
            }
            let (mut refs, mut decoded) = (Vec::new(), AppendBatch::default());
            if v2::decode(&body, &mut refs, &mut decoded).is_ok() {
                resolve(&decoded);
            }
        }
    }
}
