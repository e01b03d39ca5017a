//! Round trips of value columns by class of data, damage, and sizes.

use super::*;
use chronolith_model::sample::{NORMAL_NAN_BITS, stale_nan};
use proptest::prelude::*;

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Bytes of the sealed form.
fn check(values: &[f64]) -> usize {
    let sizes = [Effort::Compact, Effort::Seal].map(|effort| {
        let mut bytes = Vec::new();
        encode(values, effort, &mut bytes);
        let mut decoded = vec![42.0];
        decode(&bytes, values.len(), &mut decoded).expect("as encoded");
        assert_eq!(bits(&decoded[1..]), bits(values));
        for step in [1, 3, 64, 200, values.len()] {
            let positions: Vec<u32> = (0..values.len() as u32).skip(step / 3).step_by(step).collect();
            let mut some = vec![42.0];
            decode_at(&bytes, values.len(), &positions, &mut some).expect("as encoded");
            let expected: Vec<f64> = positions.iter().map(|&at| values[at as usize]).collect();
            assert_eq!(bits(&some[1..]), bits(&expected), "every {step}");
        }
        let mut stale = Vec::new();
        decode_staleness(&bytes, values.len(), &mut stale).expect("as encoded");
        let is_stale =
            |values: &[f64]| values.iter().map(|v| v.to_bits() == STALE_NAN_BITS).collect::<Vec<_>>();
        if stale.is_empty() {
            assert!(!is_stale(values).contains(&true));
        } else {
            assert_eq!(is_stale(&stale), is_stale(values));
        }
        if let Some(value) = constant(&bytes) {
            assert!(values.iter().all(|other| other.to_bits() == value.to_bits()));
        }
        assert!(bytes.len() <= 8 * values.len() + 1);
        bytes.len()
    });
    // pcodec at a higher level is now and then a few bytes larger.
    assert!(sizes[0] <= sizes[1] + sizes[1] / 50 + 2);
    sizes[1]
}

/// A generator without a dependency: xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

const ODD: [u64; 8] = [
    STALE_NAN_BITS,
    NORMAL_NAN_BITS,
    0x7ff8_0000_0000_1234,
    0xfff0_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0x8000_0000_0000_0000,
    0x0000_0000_0000_0001,
    0x7fef_ffff_ffff_ffff,
];

#[test]
fn odd_values_round_trip_alone_and_among_others() {
    for odd in ODD.map(f64::from_bits) {
        for count in [1, 2, 3, 120, 500] {
            check(&vec![odd; count]);
            for position in [0, count / 2, count - 1] {
                for value in [7.0, 0.25, std::f64::consts::PI] {
                    let mut values: Vec<f64> = (0..count).map(|i| value * i as f64).collect();
                    values[position] = odd;
                    check(&values);
                }
            }
        }
    }
    check(&ODD.map(f64::from_bits));
}

/// Found by fuzzing: the absolute value of the least integer overflowed.
#[test]
fn the_least_integer_is_no_scaled_integer() {
    for value in [i64::MIN as f64, f64::NEG_INFINITY, -f64::MAX] {
        assert_eq!(Scale::One.integer(value), None);
        check(&[value; 3]);
        check(&[value, 1.0, 2.0]);
    }
}

#[test]
fn a_constant_is_known_without_decoding_and_takes_a_few_bytes() {
    for (value, size_bytes) in [(0.0, 2), (1.0, 2), (-3.0, 2), (0.25, 4), (1e9, 6), (0.1 + 0.2, 9), (-0.0, 9)]
    {
        let mut bytes = Vec::new();
        encode(&[value; 120], Effort::Seal, &mut bytes);
        assert_eq!(constant(&bytes).map(f64::to_bits), Some(value.to_bits()));
        assert!(bytes.len() <= size_bytes, "{value}: {bytes:?}");
        check(&[value; 120]);
    }
}

#[test]
fn a_column_that_ends_with_a_staleness_marker_costs_three_bytes_more() {
    let mut values: Vec<f64> = (0..120).map(|i| (i * i) as f64).collect();
    let size_bytes = check(&values);
    values.push(stale_nan());
    assert!(check(&values) <= size_bytes + 3);
}

#[test]
fn every_scale_gives_back_the_same_bits() {
    let mut random = Random(7);
    for exponent in 0..=MAX_EXPONENT {
        let scales =
            [Scale::Divided(exponent), Scale::Multiplied(exponent), Scale::DividedTwice(exponent.max(3))];
        for scale in scales {
            let values: Vec<f64> =
                (0..200).map(|i| scale.apply(1000 * i + random.below(900) as i64)).collect();
            let size_bytes = check(&values);
            assert!(size_bytes < 200 * 4, "{scale:?} {size_bytes}");
        }
    }
}

#[test]
fn milliseconds_times_a_thousandth_are_integers() {
    let mut random = Random(3);
    let mut total = 1_000_000;
    let values: Vec<f64> = (0..240)
        .map(|_| {
            total += random.below(4000) as i64;
            total as f64 * 0.001
        })
        .collect();
    assert!(check(&values) < 240 * 13 / 8 + 16);
}

/// Sizes that the budget of a block is made of; docs/decisions has the full table.
#[test]
fn classes_of_data_stay_within_their_sizes() {
    let mut random = Random(11);
    let mut total = 0.0;
    let counter: Vec<f64> = (0..480)
        .map(|_| {
            total += random.below(30) as f64;
            total
        })
        .collect();
    let mut level = 20.0;
    let temperature: Vec<f64> = (0..480)
        .map(|_| {
            level += random.unit() - 0.5;
            (level * 100.0f64).round() / 100.0
        })
        .collect();
    let pages: Vec<f64> = (0..480).map(|_| (50_000 + random.below(64)) as f64 * 4096.0).collect();
    let full: Vec<f64> = (0..480).map(|_| random.unit()).collect();
    for (name, values, limit) in [
        ("counter", counter, 0.68),
        ("temperature", temperature, 0.95),
        ("pages", pages, 0.80),
        ("full", full, 7.0),
    ] {
        let per_sample = check(&values) as f64 / 480.0;
        assert!(per_sample <= limit, "{name}: {per_sample} B/sample");
    }
}

#[test]
fn damaged_columns_are_errors_or_other_values_but_never_a_panic() {
    let mut random = Random(5);
    let mixed: Vec<f64> =
        (0..140).map(|i| if i % 31 == 5 { f64::from_bits(ODD[i % 8]) } else { i as f64 / 8.0 }).collect();
    let full: Vec<f64> = (0..64).map(|_| random.unit()).collect();
    let large: Vec<f64> = (0..300).map(|i| (i * i * 1000 + random.below(900)) as f64).collect();
    for values in [mixed, full, large, vec![1.5; 9]] {
        for effort in [Effort::Seal, Effort::Compact] {
            let mut bytes = Vec::new();
            encode(&values, effort, &mut bytes);
            let mut decoded = Vec::new();
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                decoded.clear();
                match decode(&damaged, values.len(), &mut decoded) {
                    Ok(()) => assert_eq!(decoded.len(), values.len()),
                    Err(_) => assert!(decoded.is_empty()),
                }
                let _ = constant(&damaged);
            }
            for length in 0..bytes.len() {
                assert!(decode(&bytes[..length], values.len(), &mut decoded).is_err());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bits_round_trip(values in prop::collection::vec(any::<u64>(), 1..300)) {
        check(&values.into_iter().map(f64::from_bits).collect::<Vec<_>>());
    }

    #[test]
    fn decimals_with_odd_values_round_trip(
        numbers in prop::collection::vec((-1_000_000i64..1_000_000, 0u8..40), 1..600),
        exponent in 0u8..12,
        start in -1i64 << 50..1i64 << 50,
    ) {
        let mut total = start;
        let values: Vec<f64> = numbers.iter().map(|&(step, odd)| {
            total += step;
            match odd {
                0..8 => f64::from_bits(ODD[usize::from(odd)]),
                _ => total as f64 / POWERS[usize::from(exponent)],
            }
        }).collect();
        check(&values);
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), count in 0usize..300) {
        let _ = decode(&bytes, count, &mut Vec::new());
        let _ = constant(&bytes);
    }
}
