use super::*;
use chronolith_model::histogram::{FloatHistogram, IntHistogram, Span};
use chronolith_model::sample::stale_nan;
use proptest::prelude::*;

#[derive(Debug, Default)]
struct Collected {
    logged: Vec<u64>,
    floats: Vec<(u32, i64, u64, i64)>,
    histograms: Vec<(u32, i64, i64, Vec<u8>)>,
    exemplars: Vec<(u32, Exemplar)>,
}

impl RecordSink for Collected {
    fn logged(&mut self, ordinal: u32) -> Option<&mut u64> {
        self.logged.get_mut(ordinal as usize)
    }
    fn float(&mut self, ordinal: u32, timestamp: i64, bits: u64, start_timestamp: i64) {
        self.floats.push((ordinal, timestamp, bits, start_timestamp));
    }
    fn histogram(&mut self, ordinal: u32, timestamp: i64, start_timestamp: i64, histogram: Histogram) {
        let mut bytes = Vec::new();
        crate::log::histogram::encode(&histogram, &mut bytes);
        self.histograms.push((ordinal, timestamp, start_timestamp, bytes));
    }
    fn exemplar(&mut self, ordinal: u32, exemplar: Exemplar) {
        self.exemplars.push((ordinal, exemplar));
    }
}

fn replay(body: &[u8], n_series: usize) -> Result<Collected, &'static str> {
    let mut collected = Collected { logged: vec![0; n_series], ..Collected::default() };
    for section in sections(body)? {
        if let Section::Samples(samples) = section {
            samples.replay(&mut collected)?;
        }
    }
    Ok(collected)
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (-1000i64..1000).prop_map(|v| (v as f64).to_bits()),
        (-1000i64..1000).prop_map(|v| (v as f64 / 10.0).to_bits()),
        prop::sample::select(vec![
            stale_nan().to_bits(),
            (-0.0f64).to_bits(),
            f64::INFINITY.to_bits(),
            9_007_199_254_740_992.0f64.to_bits(),
            (-9_007_199_254_740_992.0f64).to_bits(),
        ]),
    ]
}

proptest! {
    #[test]
    fn floats_come_back_bit_for_bit(
        samples in prop::collection::vec((0u32..20, -5i64..1 << 53, value(), prop_oneof![Just(0i64), any::<i64>()]), 0..200),
    ) {
        let mut builder = SectionBuilder::default();
        let mut logged = [0u64; 20];
        for &(ordinal, t, bits, start) in &samples {
            builder.push_float(ordinal, t, logged[ordinal as usize], bits, start);
            logged[ordinal as usize] = bits;
        }
        let mut body = Vec::new();
        builder.finish(3, &mut body);
        prop_assert!(builder.is_empty());
        let collected = replay(&body, 20).unwrap();
        prop_assert_eq!(collected.floats, samples);
    }

    #[test]
    fn any_bytes_are_refused_or_decode(body: Vec<u8>) {
        let _ = replay(&body, 3);
        let _ = definitions(&body, |_| true);
        let _ = definitions(&body, |shard| shard % 2 == 0);
        if let Some(histogram) = crate::log::histogram::decode(&mut Bytes(&body)) {
            let mut bytes = Vec::new();
            crate::log::histogram::encode(&histogram, &mut bytes);
        }
    }

    #[test]
    fn damaged_sections_never_panic(at in 0usize..300, byte: u8) {
        let mut builder = SectionBuilder::default();
        for i in 0..40 {
            builder.push_float(i % 7, 1000 + i64::from(i / 7), 0, u64::from(i) << 40, i64::from(i % 3));
        }
        let mut body = Vec::new();
        builder.finish(0, &mut body);
        let at = at % body.len();
        body[at] = byte;
        let _ = replay(&body, 7);
    }
}

#[test]
fn values_of_unknown_series_are_stepped_over() {
    let mut builder = SectionBuilder::default();
    builder.push_float(9, 1, 0, 0.1f64.to_bits(), 0);
    builder.push_float(9, 2, 0, 5f64.to_bits(), 0);
    builder.push_float(0, 1, 0, 7f64.to_bits(), 0);
    let mut body = Vec::new();
    builder.finish(0, &mut body);
    assert_eq!(replay(&body, 1).unwrap().floats, [(0, 1, 7f64.to_bits(), 0)]);
}

#[test]
fn histograms_and_exemplars_come_back() {
    let spans = vec![Span { offset: -3, length: 2 }, Span { offset: 5, length: 1 }];
    let int = Histogram::Int(IntHistogram {
        schema: -4,
        zero_threshold: 1e-128,
        zero_count: 3,
        count: 12,
        sum: stale_nan(),
        positive_spans: spans.clone(),
        positive_deltas: vec![1, 2, -3],
        ..IntHistogram::default()
    });
    let float = Histogram::Float(FloatHistogram {
        schema: -53,
        count: 1.5,
        sum: -0.0,
        positive_spans: spans,
        positive_buckets: vec![0.5, 0.25, 0.75],
        custom_values: Some([1.0, 2.0].into()),
        ..FloatHistogram::default()
    });
    let exemplar =
        Exemplar { labels: Labels::from_pairs([("trace_id", "ä")]).unwrap(), value: 0.25, timestamp: -7 };
    let mut builder = SectionBuilder::default();
    let mut encoded = Vec::new();
    for (index, histogram) in [&int, &float].into_iter().enumerate() {
        let mut bytes = Vec::new();
        crate::log::histogram::encode(histogram, &mut bytes);
        builder.push_histogram(1, 10 + index as i64, 5, &bytes);
        encoded.push((1, 10 + index as i64, 5, bytes));
    }
    builder.push_exemplar(0, &exemplar);
    let mut body = Vec::new();
    builder.finish(1, &mut body);
    let collected = replay(&body, 2).unwrap();
    assert_eq!(collected.histograms, encoded);
    assert_eq!(collected.exemplars, [(0, exemplar)]);
}

#[test]
fn metadata_and_definitions_come_back() {
    let metadata =
        Metadata { metric_type: MetricType::StateSet, unit: "s".into(), help: "what \n it is".into() };
    let mut body = Vec::new();
    put_metadata([("up", &metadata)].into_iter(), &mut body);
    let found = sections(&body).unwrap();
    assert!(matches!(&found[..], [Section::Metadata(entries)] if entries[..] == [("up", metadata)]));

    let mut builder = DefinitionsBuilder::default();
    builder.push(4, [("__name__", "up"), ("job", "a")].into_iter());
    builder.push(5, [("__name__", "down")].into_iter());
    let mut body = Vec::new();
    builder.finish(2, &mut body);
    builder.push(0, [("__name__", "left")].into_iter());
    builder.finish(3, &mut body);
    let found = definitions(&body, |shard| shard == 2).unwrap();
    assert_eq!((found[0].shard, found[0].first, found.len()), (2, 4, 1));
    let series: Vec<_> = found[0].series().collect();
    assert_eq!(series, [&[("__name__", "up"), ("job", "a")][..], &[("__name__", "down")]]);
    let found = definitions(&body, |shard| shard == 3).unwrap();
    assert_eq!((found.len(), found[0].series().next().unwrap()), (1, &[("__name__", "left")][..]));
}

#[test]
fn the_document_shows_what_is_written() {
    let mut builder = DefinitionsBuilder::default();
    builder.push(0, [("__name__", "up"), ("job", "a")].into_iter());
    builder.push(1, [("__name__", "down")].into_iter());
    let mut body = Vec::new();
    builder.finish(0, &mut body);
    assert_eq!(crate::format_examples::example("log definitions").0, body);

    let mut builder = SectionBuilder::default();
    let mut logged = [0u64; 2];
    for (ordinal, time, value) in [(0, 1000, 5.0f64), (1, 1000, 0.5), (0, 1015, 7.0), (1, 1015, 0.5)] {
        let before = std::mem::replace(&mut logged[ordinal as usize], value.to_bits());
        builder.push_float(ordinal, time, before, value.to_bits(), 0);
    }
    let mut body = Vec::new();
    builder.finish(0, &mut body);
    assert_eq!(crate::format_examples::example("log samples").0, body);
}

#[test]
fn a_step_between_series_numbers_that_overflows_is_an_error() {
    let mut builder = SectionBuilder::default();
    builder.push_float(1, 1000, 0, 5.0f64.to_bits(), 0);
    builder.push_float(0, 1000, 0, 5.0f64.to_bits(), 0);
    let mut good = Vec::new();
    builder.finish(0, &mut good);
    assert_eq!(replay(&good, 2).unwrap().floats.len(), 2);
    for step in [i64::MAX, i64::MIN] {
        // The second run's step is the third byte of the refs, behind the header.
        let mut refs = good[SECTION_HEADER_BYTES..SECTION_HEADER_BYTES + 2].to_vec();
        put_zigzag(&mut refs, step);
        put_varint(&mut refs, 0);
        let mut body = good[..16].to_vec();
        body.extend_from_slice(&(refs.len() as u32).to_le_bytes());
        body.extend_from_slice(&good[20..SECTION_HEADER_BYTES]);
        body.extend_from_slice(&refs);
        body.extend_from_slice(&good[SECTION_HEADER_BYTES + 4..]);
        assert_eq!(replay(&body, 2).unwrap_err(), "series number out of range");
    }
}
