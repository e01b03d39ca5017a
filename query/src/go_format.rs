//! Numbers, strings and durations as Go prints and reads them: what clients see must be equal to the digit.
//!
//! Go knows these formats of a float: `'f'` (no exponent), `'e'`, and `'g'` (an exponent below 1e-4 and from
//! 1e+06 on). All print the fewest digits that read back as the same float.
//!
//! Source: Go 1.24, `strconv/ftoa.go`, `strconv/quote.go`, `time/time.go`; Prometheus v3.14,
//! `util/jsonutil/marshal.go`.

use chronolith_model::labels::write_quoted_bytes;

/// The shortest decimal digits of a positive finite float: `0.digits * 10^point`.
struct Decimal {
    digits: [u8; 17],
    n_digits: usize,
    point: i32,
}

impl Decimal {
    fn new(value: f64) -> Self {
        let mut decimal = Self { digits: [b'0'; 17], n_digits: 0, point: 0 };
        if value == 0.0 {
            decimal.n_digits = 1;
            decimal.point = 1;
            return decimal;
        }
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(value);
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent: i32 = exponent.parse().expect("exponents are whole numbers");
        decimal.point = whole.len() as i32 + exponent;
        let mut leading = true;
        for digit in whole.bytes().chain(fraction.bytes()) {
            if leading && digit == b'0' {
                decimal.point -= 1;
                continue;
            }
            leading = false;
            if decimal.n_digits < decimal.digits.len() {
                decimal.digits[decimal.n_digits] = digit;
                decimal.n_digits += 1;
            } else {
                debug_assert_eq!(digit, b'0', "a float has at most 17 digits");
            }
        }
        while decimal.n_digits > 1 && decimal.digits[decimal.n_digits - 1] == b'0' {
            decimal.n_digits -= 1;
        }
        decimal
    }

    fn digits(&self) -> &[u8] {
        &self.digits[..self.n_digits]
    }

    fn write_fixed(&self, out: &mut Vec<u8>) {
        let digits = self.digits();
        let n_zeros = |n: i32| std::iter::repeat_n(b'0', usize::try_from(n).unwrap_or(0));
        let n_whole = usize::try_from(self.point).unwrap_or(0);
        if self.point <= 0 {
            out.extend_from_slice(b"0.");
            out.extend(n_zeros(-self.point));
            out.extend_from_slice(digits);
        } else if n_whole >= digits.len() {
            out.extend_from_slice(digits);
            out.extend(n_zeros(self.point - digits.len() as i32));
        } else {
            out.extend_from_slice(&digits[..n_whole]);
            out.push(b'.');
            out.extend_from_slice(&digits[n_whole..]);
        }
    }

    fn write_exponent(&self, out: &mut Vec<u8>) {
        let digits = self.digits();
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        let exponent = self.point - 1;
        out.push(b'e');
        out.push(if exponent < 0 { b'-' } else { b'+' });
        out.extend_from_slice(format!("{:02}", exponent.unsigned_abs()).as_bytes());
    }
}

/// Writes the sign, or all of a value that is not finite; then `finite` writes the digits.
fn write_float(out: &mut Vec<u8>, value: f64, finite: impl FnOnce(&mut Vec<u8>, f64)) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return;
    }
    if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
        return;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    finite(out, value.abs());
}

fn float_to_string(value: f64, finite: impl FnOnce(&mut Vec<u8>, f64)) -> String {
    let mut out = Vec::with_capacity(24);
    write_float(&mut out, value, finite);
    String::from_utf8(out).expect("floats are ASCII")
}

/// `strconv.FormatFloat(value, 'f', -1, 64)`: label values, number literals, scalars.
pub fn format_float(value: f64) -> String {
    float_to_string(value, |out, value| Decimal::new(value).write_fixed(out))
}

/// `strconv.FormatFloat(value, 'e', -1, 64)`.
pub fn format_exponent(value: f64) -> String {
    float_to_string(value, |out, value| Decimal::new(value).write_exponent(out))
}

/// `%g` and `%v`: an exponent below 1e-4 and from 1e+06 on.
pub fn format_general(value: f64) -> String {
    float_to_string(value, |out, value| {
        let decimal = Decimal::new(value);
        let exponent = decimal.point - 1;
        if !(-4..6).contains(&exponent) {
            decimal.write_exponent(out);
        } else {
            decimal.write_fixed(out);
        }
    })
}

/// `%.{precision}g`: that many digits, zeros at the end left out.
pub fn format_general_precision(value: f64, precision: usize) -> String {
    float_to_string(value, |out, value| {
        let rounded: f64 = format!("{value:.*e}", precision.max(1) - 1).parse().unwrap_or(value);
        let decimal = Decimal::new(rounded);
        let precision = precision.max(1) as i32;
        let n_digits = decimal.n_digits as i32;
        let limit = if n_digits < precision && n_digits >= decimal.point { n_digits } else { precision };
        if (-4..limit).contains(&(decimal.point - 1)) {
            decimal.write_fixed(out);
        } else {
            decimal.write_exponent(out);
        }
    })
}

/// `%.{precision}f`.
pub fn format_fixed(value: f64, precision: usize) -> String {
    float_to_string(value, |out, value| out.extend_from_slice(format!("{value:.precision$}").as_bytes()))
}

/// Below it, whole numbers are printed as integers: all of them are exact there.
const WHOLE: f64 = 1e15;
/// Where the shortest digits come without an exponent already, whole numbers with `.0`.
const PLAIN: std::ops::Range<f64> = 1e-5..1e16;

/// Room for the longest text of a sample value, 25 bytes, and to spare.
pub const JSON_FLOAT_ROOM: usize = 32;

/// A sample value as the HTTP API writes it, without quotes: an exponent below 1e-6 and from 1e21.
pub fn write_json_float(out: &mut Vec<u8>, value: f64) {
    let mut room = [0; JSON_FLOAT_ROOM];
    let length = json_float(&mut room, value);
    out.extend_from_slice(&room[..length]);
}

/// As [`write_json_float`], to the start of `room`; how many bytes that are.
pub fn json_float(room: &mut [u8; JSON_FLOAT_ROOM], value: f64) -> usize {
    let magnitude = value.abs();
    if magnitude < WHOLE {
        let whole = value as i64;
        // Not for -0, which has a sign of its own.
        if (whole as f64).to_bits() == value.to_bits() {
            return put(room, itoa::Buffer::new().format(whole).as_bytes());
        }
    }
    if PLAIN.contains(&magnitude) {
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(value).as_bytes();
        return put(room, text.strip_suffix(b".0").unwrap_or(text));
    }
    let mut out = Vec::with_capacity(JSON_FLOAT_ROOM);
    write_float(&mut out, value, |out, value| {
        let decimal = Decimal::new(value);
        if value != 0.0 && !(1e-6..1e21).contains(&value) {
            decimal.write_exponent(out);
        } else {
            decimal.write_fixed(out);
        }
    });
    put(room, &out)
}

/// Copies a short text by two copies of a constant length, which may overlap: a few instructions.
fn put(room: &mut [u8; JSON_FLOAT_ROOM], text: &[u8]) -> usize {
    fn ends<const N: usize>(room: &mut [u8; JSON_FLOAT_ROOM], text: &[u8]) -> bool {
        let (Some(first), Some(last)) = (text.first_chunk::<N>(), text.last_chunk::<N>()) else {
            return false;
        };
        room[..N].copy_from_slice(first);
        room[text.len() - N..text.len()].copy_from_slice(last);
        true
    }
    if !(ends::<16>(room, text) || ends::<8>(room, text) || ends::<4>(room, text)) {
        room[..text.len()].copy_from_slice(text);
    }
    text.len()
}

/// Reads a number literal: Go's integers (decimal, `0x`, `0o`, `0b`, octal with a leading zero, underscores
/// between digits), else a decimal float, `Inf` or `NaN`.
///
/// # Errors
/// Go's words for what is wrong.
pub fn parse_number(text: &str) -> Result<f64, String> {
    if let Some(integer) = parse_integer(text) {
        return Ok(integer as f64);
    }
    let invalid = || format!("strconv.ParseFloat: parsing {}: invalid syntax", quote_bytes(text.as_bytes()));
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let special = ["inf", "infinity", "nan"].iter().any(|word| unsigned.eq_ignore_ascii_case(word));
    if !special && (!underscores_separate_digits(text) || unsigned.starts_with(|c: char| c.is_alphabetic())) {
        return Err(invalid());
    }
    let digits: String = text.chars().filter(|&c| c != '_').collect();
    let value: f64 = digits.parse().map_err(|_| invalid())?;
    if value.is_infinite() && !special {
        return Err(format!(
            "strconv.ParseFloat: parsing {}: value out of range",
            quote_bytes(text.as_bytes())
        ));
    }
    Ok(value)
}

/// `strconv.ParseInt(text, 0, 64)`.
fn parse_integer(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = unsigned.to_ascii_lowercase();
    let (radix, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (8, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.contains('_') && !underscores_separate_digits(unsigned) {
        return None;
    }
    let digits: String = digits.chars().filter(|&c| c != '_').collect();
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from_str_radix(&digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// Whether each underscore stands between digits, or between the prefix of a base and a digit.
fn underscores_separate_digits(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text).to_ascii_lowercase();
    let (based, hexadecimal) =
        (["0x", "0o", "0b"].iter().any(|prefix| text.starts_with(prefix)), text.starts_with("0x"));
    let mut before = if based { b'0' } else { b'^' };
    for byte in text.bytes().skip(if based { 2 } else { 0 }) {
        let digit = byte.is_ascii_digit() || hexadecimal && byte.is_ascii_hexdigit();
        let class = match byte {
            _ if digit => b'0',
            b'_' if before != b'0' => return false,
            b'_' => b'_',
            _ if before == b'_' => return false,
            _ => b'!',
        };
        before = class;
    }
    before != b'_'
}

/// `strconv.Quote` of a string that need not be UTF-8.
pub fn quote_bytes(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    write_quoted_bytes(&mut quoted, bytes).expect("writing to a string cannot fail");
    quoted
}

/// `time.Duration.String`: `1h0m0s`, `1.5s`, `2ms`; zero is `0s`.
pub fn format_go_duration(nanoseconds: i64) -> String {
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let rest = value % unit;
        if rest == 0 {
            return String::new();
        }
        let width = unit.ilog10() as usize;
        format!(".{}", format!("{rest:0width$}").trim_end_matches('0'))
    };
    let text = match total {
        0..1_000 => format!("{total}ns"),
        1_000..1_000_000 => format!("{}{}µs", total / 1_000, fraction(total, 1_000)),
        1_000_000..1_000_000_000 => format!("{}{}ms", total / 1_000_000, fraction(total, 1_000_000)),
        _ => {
            let seconds = total / 1_000_000_000;
            let tail = format!("{}{}s", seconds % 60, fraction(total, 1_000_000_000));
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => tail,
                (0, minutes) => format!("{minutes}m{tail}"),
                (hours, minutes) => format!("{hours}h{minutes}m{tail}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: f64) -> String {
        let mut out = Vec::new();
        write_json_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_print_as_in_go() {
        // value, 'f', 'g', JSON
        let cases = [
            (0.0, "0", "0", "0"),
            (-0.0, "-0", "-0", "-0"),
            (1.0, "1", "1", "1"),
            (-1.5, "-1.5", "-1.5", "-1.5"),
            (100_000.0, "100000", "100000", "100000"),
            (1e6, "1000000", "1e+06", "1000000"),
            (1_234_567.0, "1234567", "1.234567e+06", "1234567"),
            (12_345_678.5, "12345678.5", "1.23456785e+07", "12345678.5"),
            (0.1, "0.1", "0.1", "0.1"),
            (0.0001, "0.0001", "0.0001", "0.0001"),
            (0.00001, "0.00001", "1e-05", "0.00001"),
            (1e-7, "0.0000001", "1e-07", "1e-07"),
            (1.5e-9, "0.0000000015", "1.5e-09", "1.5e-09"),
            (1e20, "100000000000000000000", "1e+20", "100000000000000000000"),
            (1e21, "1000000000000000000000", "1e+21", "1e+21"),
            (1.7976931348623157e308, "", "1.7976931348623157e+308", "1.7976931348623157e+308"),
            (5e-324, "", "5e-324", "5e-324"),
            (0.1 + 0.2, "0.30000000000000004", "0.30000000000000004", "0.30000000000000004"),
            (f64::INFINITY, "+Inf", "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf", "-Inf"),
            (f64::NAN, "NaN", "NaN", "NaN"),
        ];
        for (value, fixed, general, in_json) in cases {
            if !fixed.is_empty() {
                assert_eq!(format_float(value), fixed);
            }
            assert_eq!(format_general(value), general);
            assert_eq!(json(value), in_json);
        }
        assert_eq!(format_exponent(1200.0), "1.2e+03");
        let two = [(3.0, "3"), (30.0, "30"), (300.0, "3e+02"), (0.126, "0.13"), (0.0, "0")];
        for (value, text) in two {
            assert_eq!(format_general_precision(value, 2), text);
        }
        assert_eq!(format_fixed(1.2346, 3), "1.235");
        assert_eq!(format_fixed(f64::NAN, 3), "NaN");
    }

    #[test]
    fn numbers_read_as_in_go() {
        let cases = [
            ("1", 1.0),
            ("017", 15.0),
            ("08", 8.0),
            ("0x1f", 31.0),
            ("0X_1F", 31.0),
            ("0o17", 15.0),
            ("1_000", 1000.0),
            ("1_000.5", 1000.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("5e-3", 0.005),
            ("1e3", 1000.0),
            ("Inf", f64::INFINITY),
            ("9223372036854775808", 9_223_372_036_854_775_808.0),
        ];
        for (text, value) in cases {
            assert_eq!(parse_number(text), Ok(value), "{text}");
        }
        assert!(parse_number("nan").unwrap().is_nan());
        assert_eq!(
            parse_number("1e400").unwrap_err(),
            "strconv.ParseFloat: parsing \"1e400\": value out of range"
        );
        for text in ["", "1__0", "_1", "1_", "1_.5", "0x", "0xffffffffffffffffff", "x"] {
            assert!(parse_number(text).unwrap_err().ends_with("invalid syntax"), "{text}");
        }
    }

    #[test]
    fn strings_are_quoted_as_in_go() {
        assert_eq!(quote_bytes(b"a\"\n\x01\xff\\"), r#""a\"\n\x01\xff\\""#);
        assert_eq!(quote_bytes(b""), "\"\"");
        assert_eq!(quote_bytes(b"\xff\xfe"), r#""\xff\xfe""#);
        assert_eq!(quote_bytes(b"a\xffb\xfec"), r#""a\xffb\xfec""#);
        assert_eq!(quote_bytes("ä\u{a0}\u{feff}".as_bytes()), "\"ä\\u00a0\\ufeff\"");
    }

    #[test]
    fn durations_print_as_in_go() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_001_000_000, "4m5.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_500_000_000, "-1.5s"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(format_go_duration(nanoseconds), text);
        }
    }

    #[test]
    fn short_ways_to_json_end_where_others_begin() {
        for value in [WHOLE, PLAIN.start, PLAIN.end, 1e-6, 1e21] {
            for value in
                [value.next_down(), value, value.next_up(), value / 3.0, -value, (value * 0.7).round()]
            {
                let decimal = Decimal::new(value.abs());
                let mut expected = if value < 0.0 { b"-".to_vec() } else { Vec::new() };
                match (1e-6..1e21).contains(&value.abs()) || value == 0.0 {
                    true => decimal.write_fixed(&mut expected),
                    false => decimal.write_exponent(&mut expected),
                }
                assert_eq!(json(value).as_bytes(), expected, "{value:e}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn printed_floats_read_back_the_same(bits: u64) {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                for text in [format_float(value), format_general(value), format_exponent(value), json(value)] {
                    proptest::prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
                }
            }
        }
    }
}
