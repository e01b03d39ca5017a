//! JSON as Prometheus prints it, to the digit.
//!
//! Source: Prometheus v3.14, `web/api/v1/json_codec.go` and `util/jsonutil/marshal.go`.

use chronolith_model::{FloatHistogram, Labels};
use chronolith_query::go_format::write_json_float;

/// A text in quotes, with `<`, `>` and `&` escaped, as Go's JSON does by default.
pub fn string(out: &mut Vec<u8>, text: &str) {
    quoted(out, text, true);
}

/// A text in quotes, `<`, `>` and `&` left alone: label names and values.
pub fn raw_string(out: &mut Vec<u8>, text: &str) {
    quoted(out, text, false);
}

fn quoted(out: &mut Vec<u8>, text: &str, html: bool) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    // Nearly all texts are.
    if is_plain(bytes, html) {
        out.extend_from_slice(bytes);
    } else {
        escaped(out, bytes, html);
    }
    out.push(b'"');
}

/// Whether nothing in a text may need to be escaped. Bytes are looked at sixteen or four at once, the last ones of a text
/// together with some before them: most texts are short.
fn is_plain(bytes: &[u8], html: bool) -> bool {
    fn any_suspect<const N: usize>(bytes: &[u8; N], html: bool) -> bool {
        let suspect = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
        let to_html = |byte: u8| (byte == b'<') | (byte == b'>') | (byte == b'&') | (byte == 0xe2);
        let any = |is: &dyn Fn(u8) -> bool| bytes.iter().fold(0, |found, &byte| found | u8::from(is(byte)));
        any(&suspect) | (u8::from(html) & any(&to_html)) != 0
    }
    fn any_in<const N: usize>(bytes: &[u8], html: bool) -> Option<bool> {
        let last = bytes.last_chunk::<N>()?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Some(chunks.iter().any(|chunk| any_suspect(chunk, html)) || any_suspect(last, html))
    }
    let one_by_one = || bytes.iter().any(|&byte| any_suspect(&[byte], html));
    !any_in::<16>(bytes, html).or_else(|| any_in::<4>(bytes, html)).unwrap_or_else(one_by_one)
}

fn escaped(out: &mut Vec<u8>, bytes: &[u8], html: bool) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut done = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        let needs_care = byte < 0x20
            || byte == b'"'
            || byte == b'\\'
            || (html && matches!(byte, b'<' | b'>' | b'&'))
            // U+2028 and U+2029 are line ends to JavaScript.
            || (html && byte == 0xe2 && matches!(bytes.get(i + 1..i + 3), Some([0x80, 0xa8 | 0xa9])));
        if !needs_care || i < done {
            continue;
        }
        out.extend_from_slice(&bytes[done..i]);
        done = i + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0xe2 => {
                out.extend_from_slice(if bytes[i + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                done = i + 3;
            }
            other => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(other >> 4)]);
                out.push(HEX[usize::from(other & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[done..]);
}

/// A whole number.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds as seconds: whole, or with three digits.
pub fn timestamp(out: &mut Vec<u8>, ms: i64) {
    if ms < 0 {
        out.push(b'-');
    }
    let ms = ms.unsigned_abs();
    out.extend_from_slice(itoa::Buffer::new().format(ms / 1000).as_bytes());
    let fraction = ms % 1000;
    if fraction != 0 {
        let digit = |n: u64| b'0' + (n % 10) as u8;
        out.extend_from_slice(&[b'.', digit(fraction / 100), digit(fraction / 10), digit(fraction)]);
    }
}

/// A sample value in quotes.
pub fn sample_value(out: &mut Vec<u8>, value: f64) {
    out.push(b'"');
    write_json_float(out, value);
    out.push(b'"');
}

/// A number without quotes, as Go's JSON writes a float64; what JSON cannot say becomes null.
pub fn number(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    let start = out.len();
    write_json_float(out, value);
    // Go shortens exponents of one digit here: 1e-07 becomes 1e-7.
    let text = &out[start..];
    if let [.., b'e', b'-', b'0', _] = text {
        let at = out.len() - 2;
        out.remove(at);
    }
}

/// A label set as an object.
pub fn labels(out: &mut Vec<u8>, labels: &Labels) {
    pairs(out, labels.iter());
}

/// Names and values as an object.
pub fn pairs<'a>(out: &mut Vec<u8>, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    out.push(b'{');
    for (i, (name, value)) in pairs.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        raw_string(out, name);
        out.push(b':');
        raw_string(out, value);
    }
    out.push(b'}');
}

/// Items as an array.
pub fn array<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// Texts as an array.
pub fn strings<'a>(out: &mut Vec<u8>, items: impl IntoIterator<Item = &'a str>) {
    array(out, items, string);
}

/// An object, key by key.
#[derive(Debug)]
pub struct Object<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl<'o> Object<'o> {
    /// Opens an object.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    /// A key; its value is written to what comes back.
    pub fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        string(self.out, key);
        self.out.push(b':');
        self.out
    }

    /// A text.
    pub fn string(&mut self, key: &str, value: &str) -> &mut Self {
        string(self.key(key), value);
        self
    }

    /// A whole number.
    pub fn integer(&mut self, key: &str, value: i64) -> &mut Self {
        integer(self.key(key), value);
        self
    }

    /// A number that is not negative.
    pub fn count(&mut self, key: &str, value: u64) -> &mut Self {
        self.key(key).extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self
    }

    /// A number.
    pub fn number(&mut self, key: &str, value: f64) -> &mut Self {
        number(self.key(key), value);
        self
    }

    /// A truth value.
    pub fn boolean(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key).extend_from_slice(if value { b"true" } else { b"false" });
        self
    }

    /// JSON as it stands.
    pub fn raw(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key).extend_from_slice(value.as_bytes());
        self
    }

    /// Closes the object.
    pub fn end(self) {
        self.out.push(b'}');
    }
}

/// A native histogram with its buckets that are not empty.
pub fn histogram(out: &mut Vec<u8>, value: &FloatHistogram) {
    out.extend_from_slice(b"{\"count\":");
    sample_value(out, value.count);
    out.extend_from_slice(b",\"sum\":");
    sample_value(out, value.sum);
    let buckets = value.all_buckets();
    let mut buckets = buckets.iter().filter(|bucket| bucket.count != 0.0).peekable();
    if buckets.peek().is_some() {
        out.extend_from_slice(b",\"buckets\":");
        array(out, buckets, |out, bucket| {
            let bounds = match (bucket.lower_inclusive, bucket.upper_inclusive) {
                (false, true) => b'0',
                (true, false) => b'1',
                (false, false) => b'2',
                (true, true) => b'3',
            };
            out.extend_from_slice(&[b'[', bounds, b',']);
            sample_value(out, bucket.lower);
            out.push(b',');
            sample_value(out, bucket.upper);
            out.push(b',');
            sample_value(out, bucket.count);
            out.push(b']');
        });
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_model::Span;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn timestamps_have_no_digits_or_three() {
        for (ms, expected) in [
            (0, "0"),
            (1, "0.001"),
            (10, "0.010"),
            (100, "0.100"),
            (1001, "1.001"),
            (1010, "1.010"),
            (1100, "1.100"),
            (12_345_678_123, "12345678.123"),
            (-1, "-0.001"),
            (-1000, "-1"),
            (-1100, "-1.100"),
            (i64::MIN, "-9223372036854775.808"),
        ] {
            assert_eq!(text(|out| timestamp(out, ms)), expected);
        }
    }

    #[test]
    fn values_have_go_digits() {
        for (value, expected) in [
            (0.0, "\"0\""),
            (-0.0, "\"-0\""),
            (1.5, "\"1.5\""),
            (1e21, "\"1e+21\""),
            (1e20, "\"100000000000000000000\""),
            (1e-6, "\"0.000001\""),
            (1e-7, "\"1e-07\""),
            (-2.5e-9, "\"-2.5e-09\""),
            (1e300, "\"1e+300\""),
            (0.1 + 0.2, "\"0.30000000000000004\""),
            (f64::NAN, "\"NaN\""),
            (f64::INFINITY, "\"+Inf\""),
            (f64::NEG_INFINITY, "\"-Inf\""),
        ] {
            assert_eq!(text(|out| sample_value(out, value)), expected);
        }
        assert_eq!(text(|out| number(out, 1e-7)), "1e-7");
        assert_eq!(text(|out| number(out, 0.25)), "0.25");
        assert_eq!(text(|out| number(out, f64::NAN)), "null");
    }

    #[test]
    fn texts_are_escaped_as_go_escapes_them() {
        assert_eq!(
            text(|out| string(out, "a<b>&\"\\\n\u{1}\u{2028}é")),
            "\"a\\u003cb\\u003e\\u0026\\\"\\\\\\n\\u0001\\u2028é\""
        );
        assert_eq!(text(|out| raw_string(out, "a<b>&\u{2028}")), "\"a<b>&\u{2028}\"");
    }

    #[test]
    fn what_needs_care_is_found_wherever_it_stands() {
        for length in 0..40 {
            let plain = "x".repeat(length);
            assert_eq!(text(|out| string(out, &plain)), format!("\"{plain}\""));
            for at in 0..length {
                for (care, escaped) in [
                    ("\"", "\\\""),
                    ("\\", "\\\\"),
                    ("\u{1f}", "\\u001f"),
                    ("<", "\\u003c"),
                    (">", "\\u003e"),
                    ("&", "\\u0026"),
                ] {
                    let with = |part: &str| format!("{}{part}{}", &plain[..at], &plain[at + 1..]);
                    assert_eq!(text(|out| string(out, &with(care))), format!("\"{}\"", with(escaped)));
                    let is_html = matches!(care, "<" | ">" | "&");
                    let expected = with(if is_html { care } else { escaped });
                    assert_eq!(text(|out| raw_string(out, &with(care))), format!("\"{expected}\""));
                }
            }
        }
    }

    #[test]
    fn histograms_leave_out_empty_buckets() {
        let value = FloatHistogram {
            zero_threshold: 0.25,
            zero_count: 3.0,
            count: 9.0,
            sum: 4.5,
            positive_spans: vec![Span { offset: 0, length: 3 }],
            positive_buckets: vec![4.0, 0.0, 1.0],
            negative_spans: vec![Span { offset: 0, length: 1 }],
            negative_buckets: vec![1.0],
            ..FloatHistogram::default()
        };
        assert_eq!(
            text(|out| histogram(out, &value)),
            "{\"count\":\"9\",\"sum\":\"4.5\",\"buckets\":[[1,\"-1\",\"-0.5\",\"1\"],[3,\"-0.25\",\"0.25\",\"3\"],[0,\"0.5\",\"1\",\"4\"],[0,\"2\",\"4\",\"1\"]]}"
        );
    }
}
