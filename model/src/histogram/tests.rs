//! Cases taken from what Prometheus's own tests say about histograms.

mod arithmetic;

use super::*;

fn spans(pairs: &[(i32, u32)]) -> Vec<Span> {
    pairs.iter().map(|&(offset, length)| Span { offset, length }).collect()
}

fn exponential(schema: i32, positive: &[(i32, u32)], counts: &[f64]) -> FloatHistogram {
    FloatHistogram {
        schema,
        count: counts.iter().sum(),
        positive_spans: spans(positive),
        positive_buckets: counts.to_vec(),
        ..FloatHistogram::default()
    }
}

fn custom(bounds: &[f64], positive: &[(i32, u32)], counts: &[f64]) -> FloatHistogram {
    FloatHistogram {
        custom_values: Some(Arc::from(bounds)),
        ..exponential(CUSTOM_BUCKETS_SCHEMA, positive, counts)
    }
}

#[test]
fn printing_is_that_of_prometheus() {
    let histogram = FloatHistogram {
        schema: 1,
        zero_threshold: 0.01,
        zero_count: 5.5,
        count: 3493.3,
        sum: 2349209.324,
        positive_spans: spans(&[(-2, 1), (2, 3)]),
        positive_buckets: vec![1.0, 3.3, 4.2, 0.1],
        negative_spans: spans(&[(3, 2), (3, 2)]),
        negative_buckets: vec![3.1, 3.0, 1.234e5, 1000.0],
        ..FloatHistogram::default()
    };
    assert_eq!(
        histogram.to_string(),
        "{count:3493.3, sum:2.349209324e+06, [-22.62741699796952,-16):1000, [-16,-11.31370849898476):123400, \
         [-4,-2.82842712474619):3, [-2.82842712474619,-2):3.1, [-0.01,0.01]:5.5, \
         (0.35355339059327373,0.5]:1, (1,1.414213562373095]:3.3, (1.414213562373095,2]:4.2, \
         (2,2.82842712474619]:0.1}"
    );
    let histogram = custom(&[1.0, 2.0, 5.0], &[(0, 4)], &[1.0, 2.0, 0.0, 4.0]);
    assert_eq!(histogram.to_string(), "{count:7, sum:0, [-Inf,1]:1, (1,2]:2, (5,+Inf]:4}");
}

#[test]
fn adding_inserts_missing_buckets() {
    let mut a = exponential(0, &[(-2, 2), (1, 3)], &[1.0, 0.0, 3.0, 4.0, 7.0]);
    let b = exponential(0, &[(0, 2), (3, 2)], &[5.0, 4.0, 2.0, 3.0]);
    assert_eq!(a.add(&b), Ok(Reconciled::default()));
    assert_eq!(a.positive_spans, spans(&[(-2, 6), (1, 2)]));
    assert_eq!(a.positive_buckets, [1.0, 0.0, 5.0, 7.0, 4.0, 7.0, 2.0, 3.0]);
    assert_eq!(a.count, 29.0);
}

#[test]
fn adding_a_coarser_histogram_reduces_the_resolution() {
    let mut fine = exponential(1, &[(1, 4)], &[1.0, 2.0, 3.0, 4.0]);
    let coarse = exponential(0, &[(1, 2)], &[10.0, 20.0]);
    fine.add(&coarse).unwrap();
    assert_eq!(fine.schema, 0);
    assert_eq!(fine.positive_spans, spans(&[(1, 2)]));
    assert_eq!(fine.positive_buckets, [13.0, 27.0]);
}

#[test]
fn zero_buckets_are_reconciled_to_the_larger_threshold() {
    let mut narrow = FloatHistogram {
        zero_threshold: 0.01,
        zero_count: 11.0,
        ..exponential(0, &[(-2, 2), (2, 1)], &[1.0, 2.0, 5.0])
    };
    let wide = FloatHistogram { zero_threshold: 1.0, zero_count: 8.0, ..exponential(0, &[(2, 1)], &[3.0]) };
    narrow.add(&wide).unwrap();
    assert_eq!(narrow.zero_threshold, 1.0);
    assert_eq!(narrow.zero_count, 22.0);
    assert_eq!(narrow.positive_spans, spans(&[(2, 1)]));
    assert_eq!(narrow.positive_buckets, [8.0]);
}

#[test]
fn hints_combine_gauge_before_unknown_before_equal() {
    use CounterResetHint::{Gauge, NotReset, Reset, Unknown};
    let cases = [
        (Reset, Reset, Reset, false),
        (Gauge, Reset, Gauge, false),
        (NotReset, Gauge, Gauge, false),
        (Unknown, Reset, Unknown, false),
        (NotReset, Unknown, Unknown, false),
        (NotReset, Reset, Unknown, true),
    ];
    for (a, b, expected, collision) in cases {
        let mut sum = FloatHistogram { counter_reset_hint: a, ..FloatHistogram::default() };
        let other = FloatHistogram { counter_reset_hint: b, ..FloatHistogram::default() };
        let reconciled = sum.add(&other).unwrap();
        assert_eq!((sum.counter_reset_hint, reconciled.counter_reset_collision), (expected, collision));
    }
}

#[test]
fn custom_bounds_are_reconciled_to_their_intersection() {
    let mut a = custom(&[1.0, 2.0, 3.0, 4.0, 5.0], &[(0, 6)], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = custom(&[2.0, 4.0, 6.0], &[(0, 4)], &[10.0, 20.0, 30.0, 40.0]);
    let reconciled = a.add(&b).unwrap();
    assert!(reconciled.custom_bounds);
    assert_eq!(a.custom_bounds(), [2.0, 4.0]);
    assert_eq!(a.positive_buckets, [13.0, 27.0, 81.0]);
}

#[test]
fn exponential_and_custom_do_not_mix() {
    let mut a = custom(&[1.0], &[(0, 1)], &[1.0]);
    assert_eq!(a.add(&exponential(0, &[], &[])), Err(IncompatibleSchema));
}

#[test]
fn compaction_removes_empty_buckets_and_merges_spans() {
    let mut histogram = exponential(0, &[(-2, 3), (0, 2), (1, 1), (5, 0)], &[0.0, 1.0, 0.0, 2.0, 3.0, 0.0]);
    histogram.compact();
    assert_eq!(histogram.positive_spans, spans(&[(-1, 1), (1, 2)]));
    assert_eq!(histogram.positive_buckets, [1.0, 2.0, 3.0]);
}

#[test]
fn resets_are_found() {
    let before = FloatHistogram {
        zero_count: 1.0,
        zero_threshold: 0.001,
        ..exponential(1, &[(0, 3)], &[1.0, 2.0, 3.0])
    };
    let grown = FloatHistogram { count: 99.0, ..before.clone() };
    assert!(!grown.detect_reset(&before));
    let mut fallen = grown.clone();
    fallen.positive_buckets[1] = 1.0;
    assert!(fallen.detect_reset(&before));
    let mut lost = grown.clone();
    lost.positive_spans = spans(&[(0, 2)]);
    lost.positive_buckets = vec![9.0, 9.0];
    assert!(lost.detect_reset(&before));
    let finer = FloatHistogram { schema: 2, ..grown.clone() };
    assert!(finer.detect_reset(&before));
    let coarser = FloatHistogram {
        count: 99.0,
        zero_count: 1.0,
        zero_threshold: 0.001,
        ..exponential(0, &[(0, 2)], &[1.0, 5.0])
    };
    let coarser = FloatHistogram { count: 99.0, ..coarser };
    assert!(!coarser.detect_reset(&before));
    let hinted = FloatHistogram { counter_reset_hint: CounterResetHint::Reset, ..grown };
    assert!(hinted.detect_reset(&before));
}

#[test]
fn resets_of_custom_buckets_are_found_on_common_bounds() {
    let before = custom(&[1.0, 2.0, 3.0], &[(0, 4)], &[1.0, 1.0, 1.0, 1.0]);
    let mut now = custom(&[2.0, 3.0], &[(0, 3)], &[2.0, 1.0, 1.0]);
    now.count = 9.0;
    assert!(!now.detect_reset(&before));
    now.positive_buckets[0] = 1.5;
    assert!(now.detect_reset(&before));
}

#[test]
fn whole_numbers_become_floats_and_lose_resolution_alike() {
    let mut int = IntHistogram {
        schema: 1,
        count: 10,
        positive_spans: spans(&[(1, 4)]),
        positive_deltas: vec![1, 1, 1, 1],
        ..IntHistogram::default()
    };
    assert_eq!(int.to_float().positive_buckets, [1.0, 2.0, 3.0, 4.0]);
    let mut float = int.to_float();
    float.reduce_resolution(0);
    int.reduce_resolution(0);
    assert_eq!(int.positive_deltas, [3, 4]);
    assert!(int.to_float().same_data(&float));
}

#[test]
fn contradictions_are_named() {
    let mut histogram = IntHistogram {
        count: 3,
        positive_spans: spans(&[(0, 2)]),
        positive_deltas: vec![1, 1],
        ..IntHistogram::default()
    };
    assert_eq!(histogram.validate(), Ok(()));
    histogram.count = 4;
    assert!(
        histogram
            .validate()
            .unwrap_err()
            .to_string()
            .starts_with("3 observations found in buckets, but the Count field is 4")
    );
    histogram.positive_deltas.push(1);
    assert_eq!(
        histogram.validate().unwrap_err().to_string(),
        "positive side: spans need 2 buckets, have 3 buckets: histogram spans specify different number of buckets than provided"
    );
    let bad = FloatHistogram { schema: 9, ..FloatHistogram::default() };
    assert!(bad.validate().unwrap_err().to_string().contains("got schema 9"));
    let bad = custom(&[2.0, 1.0], &[(0, 1)], &[1.0]);
    assert!(bad.validate().unwrap_err().to_string().contains("strictly increasing"));
}

#[test]
fn trimming_interpolates_and_estimates_the_totals_anew() {
    let mut histogram = custom(&[5.0, 10.0], &[(0, 3)], &[2.0, 4.0, 6.0]);
    histogram.trim(7.5, Trim::Upper);
    assert_eq!(histogram.positive_buckets, [2.0, 2.0]);
    assert_eq!(histogram.count, 4.0);
    assert_eq!(histogram.sum, 2.0 * 2.5 + 2.0 * 6.25);
}

#[test]
fn compensated_sums_keep_what_plain_ones_lose() {
    let big = FloatHistogram { sum: 1e100, count: 1.0, ..FloatHistogram::default() };
    let one = FloatHistogram { sum: 1.0, count: 1.0, ..FloatHistogram::default() };
    let minus = FloatHistogram { sum: -1e100, count: 1.0, ..FloatHistogram::default() };
    let mut total = big.clone();
    let mut c = total.new_compensation();
    total.kahan_add(&one, &mut c).unwrap();
    total.kahan_add(&minus, &mut c).unwrap();
    assert_eq!(total.sum + c.sum, 1.0);
}

/// The same buckets under spans that nobody makes, so that they are added by the general way.
fn with_cut_spans(h: &FloatHistogram) -> FloatHistogram {
    let cut = |spans: &[Span]| -> Vec<Span> {
        spans.iter().flat_map(|span| [*span, Span { offset: 0, length: 0 }]).collect()
    };
    FloatHistogram {
        positive_spans: cut(&h.positive_spans),
        negative_spans: cut(&h.negative_spans),
        ..h.clone()
    }
}

proptest::proptest! {
    #[test]
    fn buckets_at_the_same_places_are_added_as_any_others(
        counts in proptest::collection::vec(proptest::collection::vec(-1e18..1e18f64, 14), 1..5),
        first in -20..20i32,
        zero_threshold in proptest::prelude::prop_oneof![
            proptest::prelude::Just(0.0),
            proptest::prelude::Just(2.0f64.powi(-40)),
            0.0..4.0f64,
        ],
        is_custom in proptest::prelude::any::<bool>(),
    ) {
        let histograms: Vec<FloatHistogram> = counts.iter().map(|counts| match is_custom {
            true => custom(&[1.0, 2.0, 3.0, 4.0, 5.0], &[(0, 2), (1, 3)], &counts[..5]),
            false => FloatHistogram {
                zero_threshold,
                zero_count: counts[13],
                sum: counts[12],
                negative_spans: spans(&[(first, 3), (4, 1)]),
                negative_buckets: counts[6..10].to_vec(),
                ..exponential(1, &[(first + 1, 2), (2, 4)], &counts[..6])
            },
        }).collect();
        let (mut sum, mut general) = (histograms[0].clone(), with_cut_spans(&histograms[0]));
        let (mut c, mut general_c) = (sum.new_compensation(), general.new_compensation());
        for h in &histograms {
            let reconciled = sum.kahan_add(h, &mut c);
            assert_eq!(reconciled, general.kahan_add(&with_cut_spans(h), &mut general_c));
            assert_eq!(format!("{sum:?} {c:?}"), format!("{general:?} {general_c:?}"));
            assert_eq!(sum.add(h), general.add(&with_cut_spans(h)));
            assert_eq!(sum.sub(h), general.sub(&with_cut_spans(h)));
            assert_eq!(format!("{sum:?}"), format!("{general:?}"));
        }
    }
}
