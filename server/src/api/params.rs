//! Parameters of requests: where they are found, and times, durations and limits as Prometheus reads
//! them.

use super::error::ApiError;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{Method, header};
use chronolith_model::Matcher;
use chronolith_query::parser::parse_metric_selector;

/// A form larger than this is refused; the longest queries of dashboards are a hundredth of it.
pub const MAX_FORM_BYTES: usize = 10 << 20;

/// `MinTime` of Prometheus in milliseconds: the start of a range that is not given.
pub const MIN_TIME_MS: i64 = (i64::MIN / 1000 + 62_135_596_801) * 1000;
/// `MaxTime` of Prometheus in milliseconds: the end of a range that is not given.
pub const MAX_TIME_MS: i64 = (i64::MAX / 1000 - 62_135_596_801) * 1000 + 999;

/// Parameters of the URL and, for POST and PUT, of the form in the body, which come first.
#[derive(Clone, Debug, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
}

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let mut pairs = Vec::new();
        let is_form =
            parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(
                |value| {
                    value.split(';').next().is_some_and(|media| {
                        media.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
                    })
                },
            );
        if is_form && matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
            let bytes = read_body(body).await?;
            decode_pairs(&bytes, &mut pairs)?;
        }
        decode_pairs(parts.uri.query().unwrap_or("").as_bytes(), &mut pairs)?;
        Ok(Self { pairs })
    }
}

async fn read_body(body: Body) -> Result<axum::body::Bytes, ApiError> {
    to_bytes(body, MAX_FORM_BYTES)
        .await
        .map_err(|error| ApiError::BadData(format!("error parsing form values: {error}")))
}

fn decode_pairs(text: &[u8], pairs: &mut Vec<(String, String)>) -> Result<(), ApiError> {
    for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let value = pair.get(at + 1..).unwrap_or(b"");
        pairs.push((decode_component(&pair[..at])?, decode_component(value)?));
    }
    Ok(())
}

fn decode_component(text: &[u8]) -> Result<String, ApiError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
                let value =
                    hex.filter(|hex| !hex.starts_with('+')).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                let Some(value) = value else {
                    let shown = String::from_utf8_lossy(&text[text.len() - tail.len() - 1..]);
                    let shown: String = shown.chars().take(3).collect();
                    return Err(ApiError::BadData(format!(
                        "error parsing form values: invalid URL escape {shown:?}"
                    )));
                };
                out.push(value);
                rest = &tail[2..];
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).map_err(|_| ApiError::BadData("error parsing form values: not UTF-8".to_owned()))
}

impl Params {
    /// Parameters from pairs, for tests and inner calls.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        Self { pairs: pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect() }
    }

    /// The first value of a parameter; empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub fn all<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> + 'p {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A time in milliseconds, `default` where there is none.
    ///
    /// # Errors
    /// `bad_data` that names the parameter.
    pub fn time(&self, name: &str, default: i64) -> Result<i64, ApiError> {
        match self.get(name) {
            "" => Ok(default),
            text => parse_time(text).map_err(|reason| {
                ApiError::parameter(name, format!("invalid time value for '{name}': {reason}"))
            }),
        }
    }

    /// A time in milliseconds that must be there.
    ///
    /// # Errors
    /// `bad_data` that names the parameter.
    pub fn required_time(&self, name: &str) -> Result<i64, ApiError> {
        parse_time(self.get(name)).map_err(|reason| ApiError::parameter(name, reason))
    }

    /// A duration in nanoseconds, `None` where there is none.
    ///
    /// # Errors
    /// `bad_data` that names the parameter.
    pub fn duration_ns(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => parse_duration_ns(text).map(Some).map_err(|reason| ApiError::parameter(name, reason)),
        }
    }

    /// The parameter `limit`; 0 for none.
    ///
    /// # Errors
    /// `bad_data` that names the parameter.
    pub fn limit(&self) -> Result<usize, ApiError> {
        match self.get("limit") {
            "" => Ok(0),
            text => {
                let limit = parse_go_int(text).map_err(|reason| ApiError::parameter("limit", reason))?;
                usize::try_from(limit).map_err(|_| ApiError::parameter("limit", "limit must be non-negative"))
            }
        }
    }

    /// The `match[]` parameters, each with a matcher that does not match the empty text.
    ///
    /// # Errors
    /// `bad_data` with what is wrong.
    pub fn matcher_sets(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let mut sets = Vec::new();
        for text in self.all("match[]") {
            sets.push(parse_metric_selector(text).map_err(|error| ApiError::BadData(error.to_string()))?);
        }
        if sets.iter().any(|set| set.iter().all(Matcher::matches_empty)) {
            return Err(ApiError::BadData("match[] must contain at least one non-empty matcher".to_owned()));
        }
        Ok(sets)
    }

    /// A number as Go's `strconv.Atoi` reads it.
    ///
    /// # Errors
    /// Go's words.
    pub fn integer(&self, name: &str) -> Option<Result<i64, String>> {
        match self.get(name) {
            "" => None,
            text => Some(parse_go_int(text)),
        }
    }
}

/// `strconv.Atoi`, with its errors.
fn parse_go_int(text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|error| {
        let why = match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.Atoi: parsing {text:?}: {why}")
    })
}

/// Reads Unix seconds with a fraction, or RFC 3339, as milliseconds.
///
/// Source: Prometheus v3.14, `web/api/v1/api.go`, `parseTime`.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let invalid = || format!("cannot parse {text:?} to a valid timestamp");
    if let Some(seconds) = parse_go_float(text) {
        if !seconds.is_finite() {
            return Err(invalid());
        }
        let whole = seconds.trunc();
        let fraction = (seconds.fract() * 1000.0).round();
        if whole.abs() > 9.2e15 {
            return Err(invalid());
        }
        return Ok(whole as i64 * 1000 + fraction as i64);
    }
    match text {
        "-292273086-05-16T16:47:06Z" => return Ok(MIN_TIME_MS),
        "+292277025-08-18T07:12:54.999999999Z" | "292277025-08-18T07:12:54.999999999Z" => {
            return Ok(MAX_TIME_MS);
        }
        _ => {}
    }
    // Go wants the T and a zone; jiff is laxer.
    let is_rfc3339 = text.len() >= 20 && text.as_bytes()[10] == b'T' && text.as_bytes()[4] == b'-';
    if !is_rfc3339 {
        return Err(invalid());
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| invalid())?;
    Ok(time.as_nanosecond().div_euclid(1_000_000) as i64)
}

/// Reads seconds with a fraction, or `1h30m`, as nanoseconds.
///
/// Source: Prometheus v3.14, `web/api/v1/api.go`, `parseDuration`.
pub fn parse_duration_ns(text: &str) -> Result<i64, String> {
    if let Some(seconds) = parse_go_float(text) {
        let ns = seconds * 1e9;
        if ns.is_nan() || ns > i64::MAX as f64 || ns < i64::MIN as f64 {
            return Err(format!("cannot parse {text:?} to a valid duration. It overflows int64"));
        }
        return Ok(ns as i64);
    }
    chronolith_model::duration::parse_duration(text)
        .ok()
        .and_then(|ms| ms.checked_mul(1_000_000))
        .ok_or_else(|| format!("cannot parse {text:?} to a valid duration"))
}

/// `strconv.ParseFloat` for the decimal forms people write.
fn parse_go_float(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || digits.eq_ignore_ascii_case("inf")
        || digits.eq_ignore_ascii_case("infinity")
        || digits.eq_ignore_ascii_case("nan");
    if is_number { text.parse().ok() } else { None }
}

/// Turns `U__` names of path segments back: `__` is `_`, `_hex_` a code point.
///
/// Source: Prometheus common, `model/metric.go`, `UnescapeName` with value encoding.
pub fn unescape_label_name(name: &str) -> String {
    let Some(escaped) = name.strip_prefix("U__") else { return name.to_owned() };
    let mut out = String::new();
    let mut rest = escaped;
    while let Some(at) = rest.find('_') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('_') {
            out.push('_');
            rest = tail;
            continue;
        }
        // What is not an escape makes the whole name stand as it is.
        let Some((hex, tail)) = after.split_once('_') else { return name.to_owned() };
        let c =
            (hex.len() <= 6).then(|| u32::from_str_radix(hex, 16).ok()).flatten().and_then(char::from_u32);
        let Some(c) = c else { return name.to_owned() };
        out.push(c);
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_rfc3339() {
        for (text, ms) in [
            ("0", 0),
            ("123", 123_000),
            ("123.4", 123_400),
            ("1543578564.705", 1_543_578_564_705),
            ("123.123456", 123_123),
            ("-1.5", -1500),
            ("1e3", 1_000_000),
            ("2015-06-03T13:21:58.555Z", 1_433_337_718_555),
            ("2015-06-03T14:21:58.555+01:00", 1_433_337_718_555),
            ("2015-06-03T13:21:58Z", 1_433_337_718_000),
        ] {
            assert_eq!(parse_time(text), Ok(ms), "{text}");
        }
        for text in ["", "abc", "30s", "2015-06-03T13:21:58", "2015-06-03", "NaN", "1e300", "Inf"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_seconds_or_units() {
        for (text, ns) in
            [("123", 123e9 as i64), ("0.5", 500_000_000), ("5m", 300e9 as i64), ("1h30m", 5400e9 as i64)]
        {
            assert_eq!(parse_duration_ns(text), Ok(ns), "{text}");
        }
        for text in ["", "abc", "1x", "1e300", "148966367200.372"] {
            assert!(parse_duration_ns(text).is_err(), "{text}");
        }
    }

    #[test]
    fn forms_decode_percent_and_plus() {
        let mut pairs = Vec::new();
        decode_pairs(b"a=1+2&b%5B%5D=%C3%A9&c&&d=x=y", &mut pairs).unwrap();
        let expected = [("a", "1 2"), ("b[]", "é"), ("c", ""), ("d", "x=y")];
        assert_eq!(pairs, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        for bad in [&b"a=%"[..], b"a=%zz", b"a=%+1", b"a=%ff"] {
            assert!(decode_pairs(bad, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn escaped_label_names_turn_back() {
        assert_eq!(unescape_label_name("job"), "job");
        assert_eq!(unescape_label_name("U__http_2e_status__code"), "http.status_code");
        assert_eq!(unescape_label_name("U__bad_zz"), "U__bad_zz");
    }

    #[test]
    fn limits_are_not_negative() {
        let limit = |text| Params::from_pairs(&[("limit", text)]).limit().map_err(|error| error.to_string());
        assert_eq!(limit(""), Ok(0));
        assert_eq!(limit("7"), Ok(7));
        assert_eq!(limit("-1").unwrap_err(), "invalid parameter \"limit\": limit must be non-negative");
        assert_eq!(
            limit("x").unwrap_err(),
            "invalid parameter \"limit\": strconv.Atoi: parsing \"x\": invalid syntax"
        );
    }
}
