//! Prometheus's durations: `1h30m`, `15s`, `7d`.
//!
//! Source: prometheus/common, `model/time.go`, `ParseDuration` and `Duration.String`.

/// Units from the largest to the smallest, with their length in milliseconds. A year has 365 days.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Prometheus counts in nanoseconds in 64 signed bits; what does not fit there (292 years) is refused here too.
const MAX_MS: u64 = i64::MAX as u64 / 1_000_000;

/// The text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing there.
    #[error("empty duration string")]
    Empty,
    /// Not numbers with units, or the units are not in order from the largest to the smallest.
    #[error("not a valid duration string: {0:?}")]
    Invalid(String),
    /// A unit nobody knows.
    #[error("unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// More than 292 years.
    #[error("duration out of range")]
    OutOfRange,
}

/// Milliseconds of a duration such as `1h30m`; `0` needs no unit. The result is never negative.
///
/// # Errors
/// [`DurationError`] if the text is no duration.
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    match text {
        "0" => return Ok(0),
        "" => return Err(DurationError::Empty),
        _ => {}
    }
    let invalid = || DurationError::Invalid(text.to_owned());
    let mut rest = text;
    let mut total_ms = 0u64;
    let mut units_left = &UNITS[..];
    while !rest.is_empty() {
        let n_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = rest.split_at(n_digits);
        let count: u64 = digits.parse().map_err(|_| invalid())?;
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if unit.is_empty() {
            return Err(invalid());
        }
        let Some(&(_, unit_ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
        };
        let at = units_left.iter().position(|(name, _)| *name == unit).ok_or_else(invalid)?;
        units_left = &units_left[at + 1..];
        total_ms = count
            .checked_mul(unit_ms)
            .and_then(|ms| total_ms.checked_add(ms))
            .filter(|&ms| ms <= MAX_MS)
            .ok_or(DurationError::OutOfRange)?;
        rest = after;
    }
    Ok(i64::try_from(total_ms).expect("at most MAX_MS"))
}

/// Milliseconds as a duration: `1h30m`; years and weeks only where nothing remains (`90d`, but `2w`). Negative
/// ones have a sign in front; zero is `0s`.
pub fn format_duration(ms: i64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    if ms < 0 {
        text.push('-');
    }
    let mut rest = ms.unsigned_abs();
    for (unit, unit_ms) in UNITS {
        let exact_only = unit == "y" || unit == "w";
        if rest < unit_ms || exact_only && !rest.is_multiple_of(unit_ms) {
            continue;
        }
        text.push_str(&(rest / unit_ms).to_string());
        text.push_str(unit);
        rest %= unit_ms;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_and_print() {
        let cases = [
            ("0", 0, "0s"),
            ("0w", 0, "0s"),
            ("0s", 0, "0s"),
            ("324ms", 324, "324ms"),
            ("3s", 3_000, "3s"),
            ("5m", 300_000, "5m"),
            ("1h", 3_600_000, "1h"),
            ("4d", 345_600_000, "4d"),
            ("4d1h", 349_200_000, "4d1h"),
            ("14d", 1_209_600_000, "2w"),
            ("3w", 1_814_400_000, "3w"),
            ("3w2d1h", 1_990_800_000, "23d1h"),
            ("10y", 315_360_000_000, "10y"),
            ("90m", 5_400_000, "1h30m"),
            ("1h30m15s20ms", 5_415_020, "1h30m15s20ms"),
        ];
        for (text, ms, printed) in cases {
            assert_eq!(parse_duration(text), Ok(ms), "{text}");
            assert_eq!(format_duration(ms), printed, "{text}");
        }
        assert_eq!(format_duration(-90_000), "-1m30s");
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        let cases = [
            ("", "empty duration string"),
            ("1", "not a valid duration string: \"1\""),
            ("1y1m1d", "not a valid duration string: \"1y1m1d\""),
            ("-1w", "not a valid duration string: \"-1w\""),
            ("1.5d", "unknown unit \".\" in duration \"1.5d\""),
            ("d", "not a valid duration string: \"d\""),
            ("294y", "duration out of range"),
            ("200y10400w", "duration out of range"),
            ("107675d", "duration out of range"),
            ("99999999999999999999s", "not a valid duration string: \"99999999999999999999s\""),
            ("1h1h", "not a valid duration string: \"1h1h\""),
            ("1µ", "unknown unit \"µ\" in duration \"1µ\""),
        ];
        for (text, message) in cases {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn printing_and_parsing_give_the_same_back(ms in 0..=i64::try_from(MAX_MS).unwrap()) {
            proptest::prop_assert_eq!(parse_duration(&format_duration(ms)), Ok(ms));
        }
    }
}
