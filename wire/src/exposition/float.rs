//! Numbers as Go reads and writes them.

/// Reads a number as Prometheus does: Go's `strconv.ParseFloat` without the forms that came with Go
/// 1.13 (hexadecimal, underscores). `None` if it is none, or if a decimal is beyond the range.
///
/// Source: Prometheus v3.14, `model/textparse/promparse.go`, `parseFloat`; Go, `strconv/atof.go`.
pub fn parse_float(text: &[u8]) -> Option<f64> {
    if let Some(value) = parse_short_integer(text) {
        return Some(value);
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let is_word = || text.last().is_some_and(|last| !last.is_ascii_digit() && *last != b'.');
    // Rust takes a signed NaN, and a decimal beyond the range for infinite; Go refuses both.
    let refused = if value.is_nan() {
        matches!(text.first(), Some(b'+' | b'-'))
    } else {
        value.is_infinite() && !is_word()
    };
    (!refused).then_some(value)
}

/// The fast way for what most samples are. Up to 15 digits are exact in a float.
#[inline]
fn parse_short_integer(text: &[u8]) -> Option<f64> {
    if text.is_empty() || text.len() > 15 {
        return None;
    }
    let mut value = 0u64;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    Some(value as f64)
}

/// Writes a number as OpenMetrics wants it in `le` and `quantile`: shortest, with a point or an
/// exponent.
///
/// Source: Prometheus v3.14, `model/labels/float.go`, `FormatOpenMetricsFloat`; Go, `strconv/ftoa.go`,
/// format `g` with shortest precision.
pub fn format_openmetrics_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 {
        return "0.0".to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("scientific notation has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    // Without a precision Go goes over to exponents at the seventh digit.
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_go() {
        let check = |text: &str, expected: Option<f64>| {
            let value = parse_float(text.as_bytes());
            assert_eq!(value.map(f64::to_bits), expected.map(f64::to_bits), "{text:?}");
        };
        check("0", Some(0.0));
        check("-0", Some(-0.0));
        check("+1.5e3", Some(1500.0));
        check("1.", Some(1.0));
        check(".5", Some(0.5));
        check("123456789012345", Some(123_456_789_012_345.0));
        check("12345678901234567890", Some(12_345_678_901_234_567_890.0));
        check("4.9406564584124654e-324", Some(5e-324));
        check("1e-400", Some(0.0));
        check("Inf", Some(f64::INFINITY));
        check("+infinity", Some(f64::INFINITY));
        check("-INF", Some(f64::NEG_INFINITY));
        assert!(parse_float(b"nan").is_some_and(f64::is_nan));
        for text in
            ["", "-", ".", "e5", "1e", "1_000", "0x1p3", "0x10", "+nan", "-NaN", "1e400", "-1e999", "1 "]
        {
            check(text, None);
        }
    }

    #[test]
    fn bounds_are_written_as_openmetrics_wants_them() {
        let check = |value, expected| assert_eq!(format_openmetrics_float(value), expected);
        check(1.0, "1.0");
        check(-0.0, "0.0");
        check(0.005, "0.005");
        check(0.00001, "1e-05");
        check(100_000.0, "100000.0");
        check(1_000_000.0, "1e+06");
        check(1_048_576.0, "1.048576e+06");
        check(f64::INFINITY, "+Inf");
        check(f64::NAN, "NaN");
        check(1e100, "1e+100");
    }
}
