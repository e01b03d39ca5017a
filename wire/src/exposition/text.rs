//! The Prometheus text format, 0.0.4 and 1.0.0 (names in quotes).
//!
//! Source: Prometheus v3.14, `model/textparse/promparse.go` and `promlex.l`.

use super::cursor::{Cursor, Dialect, HELP_ESCAPES, not_a_number, unescape};
use super::{Entry, Format, MetricType, Reason, Series};
use std::borrow::Cow;

/// Reads the next entry. The last line need not end in a line feed.
pub(super) fn entry<'a>(
    cursor: &mut Cursor<'a>,
    metric_type: &mut MetricType,
) -> Result<Option<Entry<'a>>, Reason> {
    loop {
        cursor.take_blanks();
        match cursor.peek() {
            None => return Ok(None),
            Some(b'\n') => {
                cursor.take(b"\n");
            }
            Some(b'#') => return comment(cursor, metric_type).map(Some),
            Some(_) => return series(cursor, *metric_type).map(Some),
        }
    }
}

fn comment<'a>(cursor: &mut Cursor<'a>, metric_type: &mut MetricType) -> Result<Entry<'a>, Reason> {
    cursor.take(b"#");
    let keyword_can_follow = cursor.take_blanks() > 0;
    let start = cursor.clone();
    if keyword_can_follow && cursor.take(b"HELP") && cursor.take_blanks() > 0 {
        let (name, text) = name_and_text(cursor)?;
        let text = unescape(text, HELP_ESCAPES).ok_or(Reason::NotUtf8("help text"))?;
        return Ok(Entry::Help { name, text });
    }
    *cursor = start.clone();
    if keyword_can_follow && cursor.take(b"TYPE") && cursor.take_blanks() > 0 {
        let (name, text) = name_and_text(cursor)?;
        *metric_type = match text {
            b"counter" => MetricType::Counter,
            b"gauge" => MetricType::Gauge,
            b"histogram" => MetricType::Histogram,
            b"summary" => MetricType::Summary,
            b"untyped" => MetricType::Unknown,
            _ => return Err(Reason::MetricType(String::from_utf8_lossy(text).into_owned())),
        };
        return Ok(Entry::Type { name, metric_type: *metric_type });
    }
    *cursor = start;
    let (Ok(_) | Err(_)) = cursor.take_line();
    Ok(Entry::Comment)
}

/// A family's name and the rest of the line behind the blank that follows it.
fn name_and_text<'a>(cursor: &mut Cursor<'a>) -> Result<(Cow<'a, str>, &'a [u8]), Reason> {
    let name = cursor.family_name()?;
    let (Ok(line) | Err(line)) = cursor.take_line();
    Ok((name, line.get(1..).unwrap_or_default()))
}

fn series<'a>(cursor: &mut Cursor<'a>, metric_type: MetricType) -> Result<Entry<'a>, Reason> {
    let start = cursor.at();
    cursor.series(Dialect::Text, |_| ())?;
    let raw = cursor.since(start);
    cursor.take_blanks();
    let value = cursor.number(|byte| !matches!(byte, b'{' | b' ' | b'\t' | b'\n'), "value after metric")?;
    cursor.take_blanks();
    let digits = cursor.take_while(|byte| byte.is_ascii_digit());
    let timestamp = match digits {
        b"" => None,
        digits => Some(parse_timestamp(digits).ok_or_else(|| not_a_number(digits))?),
    };
    cursor.take_blanks();
    if !cursor.take(b"\n") && !cursor.is_at_end() {
        return Err(Reason::Expected(match timestamp {
            None => "timestamp or end of line after value",
            Some(_) => "end of line after timestamp",
        }));
    }
    let format = Format::Text;
    Ok(Entry::Series(Series { raw, value, timestamp, exemplar: None, metric_type, format }))
}

fn parse_timestamp(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0i64, |value, digit| value.checked_mul(10)?.checked_add(i64::from(digit - b'0')))
}
