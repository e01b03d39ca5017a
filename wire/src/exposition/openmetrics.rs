//! OpenMetrics text, 0.0.1 and 1.0.0.
//!
//! Single spaces where the format has them, no blank lines, and `# EOF` at the end. What families,
//! suffixes and values go together is not checked, as Prometheus does not. `_created` samples are
//! samples like others.
//!
//! Source: Prometheus v3.14, `model/textparse/openmetricsparse.go` and `openmetricslex.l`.

use super::cursor::{Cursor, Dialect, LABEL_ESCAPES, unescape};
use super::{Entry, Format, MetricType, RawExemplar, Reason, Series};

/// Reads the next entry; `None` after `# EOF`.
pub(super) fn entry<'a>(
    cursor: &mut Cursor<'a>,
    metric_type: &mut MetricType,
) -> Result<Option<Entry<'a>>, Reason> {
    if cursor.is_at_end() {
        return Err(Reason::NoEof);
    }
    if !cursor.take(b"# ") {
        return series(cursor, *metric_type).map(Some);
    }
    if cursor.take(b"EOF") {
        cursor.take(b"\n");
        return if cursor.is_at_end() { Ok(None) } else { Err(Reason::AfterEof) };
    }
    if cursor.take(b"HELP ") {
        let name = cursor.family_name()?;
        let text = unescape(text(cursor)?, LABEL_ESCAPES).ok_or(Reason::NotUtf8("help text"))?;
        return Ok(Some(Entry::Help { name, text }));
    }
    if cursor.take(b"TYPE ") {
        let name = cursor.family_name()?;
        *metric_type = match text(cursor)? {
            b"counter" => MetricType::Counter,
            b"gauge" => MetricType::Gauge,
            b"histogram" => MetricType::Histogram,
            b"gaugehistogram" => MetricType::GaugeHistogram,
            b"summary" => MetricType::Summary,
            b"info" => MetricType::Info,
            b"stateset" => MetricType::StateSet,
            b"unknown" => MetricType::Unknown,
            text => return Err(Reason::MetricType(String::from_utf8_lossy(text).into_owned())),
        };
        return Ok(Some(Entry::Type { name, metric_type: *metric_type }));
    }
    if cursor.take(b"UNIT ") {
        let name = cursor.family_name()?;
        let text = text(cursor)?;
        let unit = cursor.utf8(text, "unit")?;
        let is_suffix = name.strip_suffix(unit).is_some_and(|before| before.ends_with('_'));
        if !unit.is_empty() && !is_suffix {
            return Err(Reason::Unit { unit: unit.to_owned(), name: name.into_owned() });
        }
        return Ok(Some(Entry::Unit { name, unit }));
    }
    Err(Reason::Expected("HELP, TYPE, UNIT or EOF after #"))
}

/// The text behind a family's name: a space and the rest of the line.
fn text<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Reason> {
    if !cursor.take(b" ") {
        return Err(Reason::Expected("text after metric name"));
    }
    cursor.take_line().map_err(|_| Reason::Expected("end of line"))
}

fn series<'a>(cursor: &mut Cursor<'a>, metric_type: MetricType) -> Result<Entry<'a>, Reason> {
    let start = cursor.at();
    cursor.series(Dialect::OpenMetrics, |_| ())?;
    let raw = cursor.since(start);
    let value = number(cursor, "value after metric")?;
    let mut timestamp = None;
    let mut exemplar = None;
    if !is_exemplar_next(cursor) && cursor.peek() == Some(b' ') {
        timestamp = Some(milliseconds(number(cursor, "timestamp")?)?);
    }
    if is_exemplar_next(cursor) {
        cursor.take(b" # ");
        exemplar = Some(read_exemplar(cursor)?);
    }
    end_of_line(cursor)?;
    let format = Format::OpenMetrics;
    Ok(Entry::Series(Series { raw, value, timestamp, exemplar, metric_type, format }))
}

fn is_exemplar_next(cursor: &Cursor<'_>) -> bool {
    cursor.clone().take(b" # {")
}

fn read_exemplar<'a>(cursor: &mut Cursor<'a>) -> Result<RawExemplar<'a>, Reason> {
    let start = cursor.at();
    cursor.series(Dialect::Exemplar, |_| ())?;
    let raw = cursor.since(start);
    let value = number(cursor, "value after exemplar labels")?;
    let timestamp = match cursor.peek() {
        Some(b' ') => Some(milliseconds(number(cursor, "exemplar timestamp")?)?),
        _ => None,
    };
    Ok(RawExemplar { raw, value, timestamp })
}

fn number(cursor: &mut Cursor<'_>, what: &'static str) -> Result<f64, Reason> {
    if !cursor.take(b" ") {
        return Err(if cursor.is_at_end() { Reason::NoEof } else { Reason::Expected(what) });
    }
    cursor.number(|byte| byte != b' ' && byte != b'\n', what)
}

fn end_of_line(cursor: &mut Cursor<'_>) -> Result<(), Reason> {
    if cursor.take(b"\n") {
        return Ok(());
    }
    Err(if cursor.is_at_end() { Reason::NoEof } else { Reason::Expected("end of line") })
}

/// Seconds to milliseconds, towards zero.
fn milliseconds(seconds: f64) -> Result<i64, Reason> {
    if seconds.is_finite() { Ok((seconds * 1000.0) as i64) } else { Err(Reason::Timestamp) }
}
