//! Results of Prometheus's own arithmetic over random histograms, compared with ours.
//!
//! `arithmetic.txt` was computed with Prometheus 3.14's `float_histogram.go`: a program made histograms at random,
//! ran its methods on them and wrote both down.

use super::*;
use std::str::FromStr;

fn list<T: FromStr>(text: &str) -> Vec<T> {
    if text == "-" {
        return Vec::new();
    }
    text.split(',').map(|part| part.parse().unwrap_or_else(|_| panic!("{part}"))).collect()
}

fn span_list(text: &str) -> Vec<Span> {
    let parts: Vec<String> = list(text);
    let span = |part: &String| {
        let (offset, length) = part.split_once(':').expect("offset:length");
        Span { offset: offset.parse().expect("an offset"), length: length.parse().expect("a length") }
    };
    parts.iter().map(span).collect()
}

fn histogram(text: &str) -> FloatHistogram {
    let words: Vec<&str> = text.split(' ').collect();
    let number = |at: usize| words[at].parse::<f64>().expect("a number");
    let custom: Vec<f64> = list(words[10]);
    FloatHistogram {
        counter_reset_hint: match words[0] {
            "0" => CounterResetHint::Unknown,
            "1" => CounterResetHint::Reset,
            "2" => CounterResetHint::NotReset,
            _ => CounterResetHint::Gauge,
        },
        schema: words[1].parse().expect("a schema"),
        zero_threshold: number(2),
        zero_count: number(3),
        count: number(4),
        sum: number(5),
        positive_spans: span_list(words[6]),
        positive_buckets: list(words[7]),
        negative_spans: span_list(words[8]),
        negative_buckets: list(words[9]),
        custom_values: (!custom.is_empty()).then(|| custom.into()),
    }
}

/// Bits, all NaN being one.
fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| if value.is_nan() { u64::MAX } else { value.to_bits() }).collect()
}

/// Where the buckets are, however their spans are cut.
fn places(spans: &[Span]) -> Vec<i32> {
    let mut next = 0;
    let mut places = Vec::new();
    for span in spans {
        next += span.offset;
        for _ in 0..span.length {
            places.push(next);
            next += 1;
        }
    }
    places
}

#[track_caller]
fn check(case: &str, found: &FloatHistogram, expected: &FloatHistogram) {
    let plain = |h: &FloatHistogram| {
        (
            (h.counter_reset_hint, h.schema, bits(&[h.zero_threshold, h.zero_count, h.count, h.sum])),
            (places(&h.positive_spans), bits(&h.positive_buckets)),
            (places(&h.negative_spans), bits(&h.negative_buckets)),
            bits(h.custom_bounds()),
        )
    };
    assert_eq!(plain(found), plain(expected), "{case}");
}

/// As [`check`], but interpolated counts and what is estimated of them may differ in the last digits: the
/// logarithms of Go's library and of ours round differently.
#[track_caller]
fn check_interpolated(case: &str, found: &mut FloatHistogram, expected: &FloatHistogram) {
    let snap = |found: &mut f64, expected: f64| {
        if (*found - expected).abs() <= 1e-12 * expected.abs() {
            *found = expected;
        }
    };
    snap(&mut found.count, expected.count);
    snap(&mut found.sum, expected.sum);
    for (found, &expected) in found.positive_buckets.iter_mut().zip(&expected.positive_buckets) {
        snap(found, expected);
    }
    for (found, &expected) in found.negative_buckets.iter_mut().zip(&expected.negative_buckets) {
        snap(found, expected);
    }
    check(case, found, expected);
}

#[test]
fn arithmetic_has_the_results_of_prometheus() {
    let mut n_cases = 0;
    for case in include_str!("arithmetic.txt").lines().filter(|line| !line.starts_with('#')) {
        n_cases += 1;
        let parts: Vec<&str> = case.split(" | ").collect();
        let (op, argument) = parts[0].split_once(' ').unwrap_or((parts[0], "0"));
        let argument: f64 = argument.parse().expect("a number");
        let mut h = histogram(parts[1]);
        match op {
            "add" | "sub" => {
                let other = histogram(parts[2]);
                let reconciled = if op == "add" { h.add(&other) } else { h.sub(&other) };
                if parts[3] == "error" {
                    assert!(reconciled.is_err(), "{case}");
                    continue;
                }
                let reconciled = reconciled.unwrap_or_else(|error| panic!("{case}: {error}"));
                check(case, &h, &histogram(parts[3]));
                let told = format!("{} {}", reconciled.counter_reset_collision, reconciled.custom_bounds);
                assert_eq!(told, parts[4], "{case}");
            }
            "kahan" => {
                let mut compensation = h.new_compensation();
                let mut told = Vec::new();
                for other in &parts[2..4] {
                    let reconciled = h.kahan_add(&histogram(other), &mut compensation);
                    let reconciled = reconciled.unwrap_or_else(|error| panic!("{case}: {error}"));
                    told.extend([reconciled.counter_reset_collision, reconciled.custom_bounds]);
                }
                check(case, &h, &histogram(parts[4]));
                // The terms are never shown by themselves, so their hint is nobody's.
                let terms = histogram(parts[5]);
                compensation.counter_reset_hint = terms.counter_reset_hint;
                check(case, &compensation, &terms);
                let told: Vec<String> = told.iter().map(bool::to_string).collect();
                assert_eq!(told.join(" "), parts[6], "{case}");
            }
            "reset" => assert_eq!(h.detect_reset(&histogram(parts[2])).to_string(), parts[3], "{case}"),
            "mul" => {
                h.mul(argument);
                check(case, &h, &histogram(parts[2]));
            }
            "div" => {
                h.div(argument);
                check(case, &h, &histogram(parts[2]));
            }
            "compact" => {
                h.compact();
                check(case, &h, &histogram(parts[2]));
            }
            "schema" => {
                // Prometheus drops the hint of what it copies; whoever copies here sets one.
                let copy = h.to_schema(argument as i32);
                let hint = histogram(parts[2]).counter_reset_hint;
                check(case, &FloatHistogram { counter_reset_hint: hint, ..copy }, &histogram(parts[2]));
            }
            "reduce" => {
                h.reduce_resolution(argument as i32);
                check(case, &h, &histogram(parts[2]));
            }
            "trim_lower" | "trim_upper" => {
                h.trim(argument, if op == "trim_lower" { Trim::Lower } else { Trim::Upper });
                check_interpolated(case, &mut h, &histogram(parts[2]));
            }
            "buckets" => {
                let found: Vec<f64> = h
                    .all_buckets()
                    .iter()
                    .flat_map(|bucket| [bucket.lower, bucket.upper, bucket.count])
                    .collect();
                let expected = parts.get(2).map_or(Vec::new(), |text| {
                    text.split([' ', ':']).map(|word| word.parse().expect("a number")).collect()
                });
                assert_eq!(bits(&found), bits(&expected), "{case}");
            }
            "validate" => {
                let told = h.validate().map_or_else(|error| error.to_string(), |()| "ok".to_owned());
                assert_eq!(told, parts[2], "{case}");
            }
            _ => panic!("{case}"),
        }
    }
    assert!(n_cases > 600);
}
