//! Round trips of histogram chunks, and damage.

use super::*;
use chronolith_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use chronolith_model::sample::STALE_NAN_BITS;
use proptest::prelude::*;

/// Equal to the bit, NaN sums included.
fn same(a: &Histogram, b: &Histogram) -> bool {
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let rest = match (a, b) {
        (Histogram::Int(a), Histogram::Int(b)) => {
            (
                a.counter_reset_hint,
                a.zero_count,
                a.count,
                a.sum.to_bits(),
                &a.positive_deltas,
                &a.negative_deltas,
            ) == (
                b.counter_reset_hint,
                b.zero_count,
                b.count,
                b.sum.to_bits(),
                &b.positive_deltas,
                &b.negative_deltas,
            )
        }
        (Histogram::Float(a), Histogram::Float(b)) => {
            a.counter_reset_hint == b.counter_reset_hint
                && bits(&[a.zero_count, a.count, a.sum]) == bits(&[b.zero_count, b.count, b.sum])
                && bits(&a.positive_buckets) == bits(&b.positive_buckets)
                && bits(&a.negative_buckets) == bits(&b.negative_buckets)
        }
        _ => false,
    };
    rest && same_layout(a, b)
}

fn check(histograms: Vec<Histogram>) -> usize {
    let histograms: Vec<Arc<Histogram>> = histograms.into_iter().map(Arc::new).collect();
    let mut sizes = [0; 2];
    for (size, effort) in sizes.iter_mut().zip([Effort::Seal, Effort::Compact]) {
        let mut bytes = Vec::new();
        encode(&histograms, effort, &mut bytes);
        let mut decoded = Vec::new();
        let kind = kind(&histograms[0]);
        decode(&bytes, kind, Rows::all(histograms.len()), HistogramNeed::Full, &mut decoded)
            .expect("as encoded");
        assert_eq!(decoded.len(), histograms.len());
        assert!(decoded.iter().zip(&histograms).all(|(a, b)| same(a, b)));
        decoded.clear();
        decode(&bytes, kind, Rows::all(histograms.len()), HistogramNeed::None, &mut decoded)
            .expect("as encoded");
        assert_eq!(decoded.len(), histograms.len());
        assert!(decoded.iter().zip(&histograms).all(|(a, b)| a.is_stale() == b.is_stale()));
        for step in [1, 2, 50, histograms.len()] {
            let positions: Vec<u32> = (0..histograms.len() as u32).skip(step / 2).step_by(step).collect();
            let rows = Rows { count: histograms.len(), positions: Some(&positions) };
            decoded.clear();
            decode(&bytes, kind, rows, HistogramNeed::Full, &mut decoded).expect("as encoded");
            assert_eq!(decoded.len(), positions.len());
            let is_same =
                |(histogram, &at): (&Arc<Histogram>, &u32)| same(histogram, &histograms[at as usize]);
            assert!(decoded.iter().zip(&positions).all(is_same), "every {step}");
        }
        *size = bytes.len();
    }
    sizes[0]
}

fn example(n_samples: u64) -> Vec<IntHistogram> {
    (0..n_samples)
        .map(|i| IntHistogram {
            counter_reset_hint: if i == 0 { CounterResetHint::Unknown } else { CounterResetHint::NotReset },
            schema: 3,
            zero_threshold: f64::from_bits(DEFAULT_THRESHOLD_BITS),
            zero_count: i,
            count: 20 * i,
            sum: 0.125 * i as f64,
            positive_spans: vec![Span { offset: -4, length: 3 }, Span { offset: 2, length: 1 }],
            negative_spans: vec![Span { offset: 0, length: 2 }],
            positive_deltas: vec![3 * i as i64, -2, i as i64, 5],
            negative_deltas: vec![i as i64 / 4, 0],
            custom_values: None,
        })
        .collect()
}

#[test]
fn whole_number_histograms_come_back_as_they_were() {
    for n_samples in [1, 2, 120] {
        check(example(n_samples).into_iter().map(Histogram::Int).collect());
    }
    let mut stale = IntHistogram { sum: f64::from_bits(STALE_NAN_BITS), ..IntHistogram::default() };
    check(vec![Histogram::Int(stale.clone())]);
    stale.counter_reset_hint = CounterResetHint::Gauge;
    check(vec![Histogram::Int(stale)]);
}

#[test]
fn float_histograms_with_custom_bounds_come_back_as_they_were() {
    for bounds in [vec![], vec![0.005, 0.01, 0.1, 1.0], vec![f64::NEG_INFINITY, -0.0, 1e300]] {
        let bounds: Arc<[f64]> = bounds.into();
        let histograms = (0..50).map(|i| {
            Histogram::Float(FloatHistogram {
                counter_reset_hint: CounterResetHint::Gauge,
                schema: CUSTOM_BUCKETS_SCHEMA,
                zero_threshold: 0.0,
                count: f64::from(i) * 1.5,
                sum: -1.0 / f64::from(i),
                positive_spans: vec![Span { offset: 0, length: 2 }],
                positive_buckets: vec![f64::from(i), f64::from(i) / 3.0],
                custom_values: Some(Arc::clone(&bounds)),
                ..FloatHistogram::default()
            })
        });
        check(histograms.collect());
    }
}

#[test]
fn buckets_that_do_not_fit_their_spans_still_come_back() {
    let odd = IntHistogram { positive_deltas: vec![i64::MIN, i64::MAX, -1], ..IntHistogram::default() };
    check(vec![Histogram::Int(odd)]);
}

#[test]
fn a_quiet_bucket_costs_three_bytes_a_chunk() {
    let quiet = IntHistogram {
        positive_spans: vec![Span { offset: 0, length: 100 }],
        positive_deltas: vec![0; 100],
        ..IntHistogram::default()
    };
    let size_bytes = check(vec![Histogram::Int(quiet); 120]);
    assert!(size_bytes <= 100 * 3 + 30, "{size_bytes}");
}

#[test]
fn another_layout_or_form_is_told_apart() {
    let base = example(2).remove(1);
    let int = Histogram::Int(base.clone());
    let others = [
        IntHistogram { schema: 4, ..base.clone() },
        IntHistogram { zero_threshold: 0.1, ..base.clone() },
        IntHistogram { positive_spans: vec![], ..base.clone() },
        IntHistogram { custom_values: Some(Arc::from([])), ..base.clone() },
    ];
    assert!(others.into_iter().all(|other| !same_layout(&int, &Histogram::Int(other))));
    assert!(same_layout(&int, &Histogram::Int(IntHistogram { sum: 9.0, ..base })));
    assert!(!same_layout(
        &Histogram::Int(IntHistogram::default()),
        &Histogram::Float(FloatHistogram::default())
    ));
}

#[test]
fn spans_that_every_sample_would_repeat_are_bounded() {
    // 30,000 spans are 60 KB as stored, and a gigabyte in 4,096 decoded histograms.
    let spans = vec![Span { offset: 0, length: 0 }; 30_000];
    let many = IntHistogram { positive_spans: spans, ..IntHistogram::default() };
    let many = Histogram::Int(many);
    assert_eq!(max_samples(&many), 34);
    assert!(check(vec![many.clone(); 34]) > 0);
    let mut bytes = Vec::new();
    let many = Arc::new(many);
    let all: Vec<_> = (0..MAX_SAMPLES).map(|_| Arc::clone(&many)).collect();
    encode(&all, Effort::Seal, &mut bytes);
    let mut decoded = Vec::new();
    let result =
        decode(&bytes, ChunkKind::IntHistogram, Rows::all(MAX_SAMPLES), HistogramNeed::Full, &mut decoded);
    assert_eq!(result, Err(ChunkError("a histogram chunk with too many buckets or spans")));
}

#[test]
fn damaged_chunks_are_errors_or_other_histograms_but_never_a_panic() {
    let histograms: Vec<Arc<Histogram>> =
        example(9).into_iter().map(|h| Arc::new(Histogram::Int(h))).collect();
    let mut bytes = Vec::new();
    encode(&histograms, Effort::Seal, &mut bytes);
    let mut out = Vec::new();
    for kind in [ChunkKind::IntHistogram, ChunkKind::FloatHistogram] {
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&damaged, kind, Rows::all(9), HistogramNeed::Full, &mut out);
        }
    }
    for length in 0..bytes.len() {
        assert!(
            decode(&bytes[..length], ChunkKind::IntHistogram, Rows::all(9), HistogramNeed::Full, &mut out)
                .is_err()
        );
    }
}

proptest! {
    #[test]
    fn any_histograms_round_trip(
        is_int in any::<bool>(),
        hints in prop::collection::vec(0u8..4, 1..40),
        schema in -53i32..9,
        zero_threshold in any::<u64>(),
        spans in prop::collection::vec((any::<i32>(), any::<u32>()), 0..4),
        n_buckets in 0usize..6,
        bounds in prop::option::of(prop::collection::vec(any::<u64>(), 0..6)),
        seed in any::<u64>(),
    ) {
        let mut random = crate::chunk::column::tests::Random(seed | 1);
        let spans: Vec<Span> = spans.iter().map(|&(offset, length)| Span { offset, length }).collect();
        let custom_values: Option<Arc<[f64]>> = bounds.map(|bounds| bounds.into_iter().map(f64::from_bits).collect());
        let hint = |number: u8| match number {
            0 => CounterResetHint::Unknown,
            1 => CounterResetHint::Reset,
            2 => CounterResetHint::NotReset,
            _ => CounterResetHint::Gauge,
        };
        let zero_threshold = f64::from_bits(zero_threshold);
        let histograms = hints.iter().map(|&number| {
            if is_int {
                Histogram::Int(IntHistogram {
                    counter_reset_hint: hint(number),
                    schema,
                    zero_threshold,
                    zero_count: random.next() >> random.below(64),
                    count: random.next() >> random.below(64),
                    sum: f64::from_bits(random.next()),
                    positive_spans: spans.clone(),
                    negative_spans: Vec::new(),
                    positive_deltas: (0..n_buckets).map(|_| random.next() as i64 >> random.below(64)).collect(),
                    negative_deltas: (0..n_buckets / 2).map(|_| random.below(9) as i64).collect(),
                    custom_values: custom_values.clone(),
                })
            } else {
                Histogram::Float(FloatHistogram {
                    counter_reset_hint: hint(number),
                    schema,
                    zero_threshold,
                    zero_count: random.unit(),
                    count: f64::from_bits(random.next()),
                    sum: random.unit(),
                    positive_spans: Vec::new(),
                    negative_spans: spans.clone(),
                    positive_buckets: (0..n_buckets).map(|_| random.unit()).collect(),
                    negative_buckets: (0..n_buckets).map(|_| random.below(100) as f64).collect(),
                    custom_values: custom_values.clone(),
                })
            }
        }).collect();
        check(histograms);
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0usize..50) {
        for kind in [ChunkKind::IntHistogram, ChunkKind::FloatHistogram] {
            let _ = decode(&bytes, kind, Rows::all(count), HistogramNeed::Full, &mut Vec::new());
        }
    }
}
