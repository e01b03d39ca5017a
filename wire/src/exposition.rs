//! The formats in which targets expose metrics: Prometheus text, OpenMetrics and, in [`protobuf`], the
//! messages of the client libraries.
//!
//! [`Parser`] walks a body line by line without allocating. A series is given as the bytes that name
//! it ([`Series::raw`]), by which a scrape loop knows it again; [`Series::labels`] reads them when it
//! was not seen before. Both formats are read as Prometheus reads them: OpenMetrics that its
//! specification forbids is accepted wherever Prometheus accepts it.
//!
//! Source: Prometheus v3.14, `model/textparse`.

mod content_type;
mod cursor;
mod float;
pub mod nhcb;
mod openmetrics;
pub mod protobuf;
mod text;

#[cfg(test)]
mod tests;

pub use content_type::{ContentTypeError, Format};
pub use float::{format_openmetrics_float, parse_float};

use chronolith_model::append::{Exemplar, MetricType};
use chronolith_model::labels::{Labels, METRIC_NAME};
use chronolith_model::sample::NORMAL_NAN_BITS;
use cursor::{Cursor, Dialect, Part};
use std::borrow::Cow;

/// What stands in a body, entry by entry.
#[derive(Clone, Debug)]
pub enum Entry<'a> {
    /// `# TYPE`
    Type {
        /// Name of the family.
        name: Cow<'a, str>,
        /// Its type.
        metric_type: MetricType,
    },
    /// `# HELP`
    Help {
        /// Name of the family.
        name: Cow<'a, str>,
        /// The text, escapes resolved.
        text: Cow<'a, str>,
    },
    /// `# UNIT` (OpenMetrics)
    Unit {
        /// Name of the family, which ends in the unit.
        name: Cow<'a, str>,
        /// The unit.
        unit: &'a str,
    },
    /// Any other comment (Prometheus text).
    Comment,
    /// A sample.
    Series(Series<'a>),
}

/// A sample as it stands in the body.
#[derive(Clone, Debug)]
pub struct Series<'a> {
    /// Name and labels as they stand, from the name (or the brace) to the closing brace. Equal bytes
    /// under an equal type mean equal labels.
    pub raw: &'a [u8],
    /// The value. NaNs are all the one NaN that Prometheus stores, never a staleness marker.
    pub value: f64,
    /// Milliseconds since the epoch, where the target gave one.
    pub timestamp: Option<i64>,
    /// The exemplar (OpenMetrics).
    pub exemplar: Option<RawExemplar<'a>>,
    /// The type that the body stated last, `Unknown` before the first.
    pub metric_type: MetricType,
    format: Format,
}

/// An exemplar as it stands in the body.
#[derive(Clone, Copy, Debug)]
pub struct RawExemplar<'a> {
    /// Its labels, braces included.
    raw: &'a [u8],
    /// Value of the exemplar.
    pub value: f64,
    /// Milliseconds since the epoch, where the target gave one.
    pub timestamp: Option<i64>,
}

/// Why a body, or a series in it, cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}, at {excerpt:?}")]
pub struct ParseError {
    /// Line in the body, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: Reason,
    /// The line as far as it was read and a little further.
    pub excerpt: String,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Something else was expected here.
    #[error("expected {0}")]
    Expected(&'static str),
    /// Text that is not UTF-8.
    #[error("invalid UTF-8 in {0}")]
    NotUtf8(&'static str),
    /// A type that the format does not know.
    #[error("invalid metric type {0:?}")]
    MetricType(String),
    /// A value or timestamp that is no number.
    #[error("{0:?} is not a number that can be read")]
    Number(String),
    /// An infinite or not-a-number timestamp.
    #[error("timestamp is not finite")]
    Timestamp,
    /// Two metric names, one before and one within the braces.
    #[error("metric name given twice")]
    NameTwice,
    /// No metric name.
    #[error("metric name missing")]
    NameMissing,
    /// A unit that is not the end of the name.
    #[error("unit {unit:?} is not a suffix of metric {name:?}")]
    Unit {
        /// The unit.
        unit: String,
        /// Name of the family.
        name: String,
    },
    /// The body of an OpenMetrics exposition ends without saying so.
    #[error("data does not end with # EOF")]
    NoEof,
    /// Something after `# EOF`.
    #[error("unexpected data after # EOF")]
    AfterEof,
    /// A body of protobuf messages, which [`protobuf::decode`] reads.
    #[error("the body is not text")]
    NotText,
}

/// Why the name and labels of a series cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// A label name twice.
    #[error(transparent)]
    Duplicate(#[from] chronolith_model::labels::DuplicateLabel),
    /// A label or metric name that is empty or not UTF-8.
    #[error("invalid metric name or label name in {0:?}")]
    Name(String),
}

/// Reads a body from its start to its end.
#[derive(Clone, Debug)]
pub struct Parser<'a> {
    cursor: Cursor<'a>,
    format: Format,
    metric_type: MetricType,
    is_done: bool,
}

impl<'a> Parser<'a> {
    /// A parser at the start of `body`, which is in one of the text formats.
    pub fn new(body: &'a [u8], format: Format) -> Self {
        Self { cursor: Cursor::new(body), format, metric_type: MetricType::Unknown, is_done: false }
    }

    /// The next entry, or `None` at the end. After an error there is nothing more.
    ///
    /// # Errors
    /// [`ParseError`] names the line and what is wrong with it.
    #[inline]
    pub fn next_entry(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        if self.is_done {
            return Ok(None);
        }
        let start = self.cursor.at();
        let entry = match self.format {
            Format::Text => text::entry(&mut self.cursor, &mut self.metric_type),
            Format::OpenMetrics => openmetrics::entry(&mut self.cursor, &mut self.metric_type),
            Format::Protobuf => Err(Reason::NotText),
        };
        match entry {
            Ok(Some(entry)) => Ok(Some(entry)),
            Ok(None) => {
                self.is_done = true;
                Ok(None)
            }
            Err(reason) => {
                self.is_done = true;
                Err(self.error(start, reason))
            }
        }
    }

    #[cold]
    fn error(&self, start: usize, reason: Reason) -> ParseError {
        let start = self.cursor.skip_blank_lines(start);
        let (line, excerpt) = self.cursor.locate(start);
        ParseError { line, reason, excerpt }
    }
}

impl<'a> Iterator for Parser<'a> {
    type Item = Result<Entry<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}

impl Series<'_> {
    /// The labels, with `le` of histograms and `quantile` of summaries written as OpenMetrics writes
    /// numbers, so that both formats name the same series.
    ///
    /// # Errors
    /// [`LabelsError`] if they cannot be stored.
    pub fn labels(&self) -> Result<Labels, LabelsError> {
        let number_label = match self.metric_type {
            MetricType::Histogram => Some("le"),
            MetricType::Summary => Some("quantile"),
            _ => None,
        };
        let dialect = match self.format {
            Format::Text => Dialect::Text,
            Format::OpenMetrics | Format::Protobuf => Dialect::OpenMetrics,
        };
        let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        read_labels(self.raw, dialect, |name, value| {
            let number = if Some(&*name) == number_label { parse_float(value.as_bytes()) } else { None };
            let value = number.map_or(value, |number| Cow::Owned(format_openmetrics_float(number)));
            pairs.push((name, value));
        })?;
        if pairs.iter().all(|(name, value)| name != METRIC_NAME || value.is_empty()) {
            return Err(LabelsError::Name(String::from_utf8_lossy(self.raw).into_owned()));
        }
        Ok(Labels::from_pairs(pairs)?)
    }

    /// The exemplar, dated `timestamp` where the target gave no date.
    ///
    /// # Errors
    /// [`LabelsError`] if its labels cannot be stored.
    pub fn exemplar(&self, timestamp: i64) -> Option<Result<Exemplar, LabelsError>> {
        let raw = self.exemplar?;
        let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        let read = read_labels(raw.raw, Dialect::Exemplar, |name, value| pairs.push((name, value)));
        Some(read.and_then(|()| {
            let labels = Labels::from_pairs(pairs)?;
            Ok(Exemplar { labels, value: raw.value, timestamp: raw.timestamp.unwrap_or(timestamp) })
        }))
    }
}

/// Reads again, with its contents this time, what a parser passed over.
fn read_labels<'a>(
    raw: &'a [u8],
    dialect: Dialect,
    mut visit: impl FnMut(Cow<'a, str>, Cow<'a, str>),
) -> Result<(), LabelsError> {
    let invalid = || LabelsError::Name(String::from_utf8_lossy(raw).into_owned());
    let mut all_valid = true;
    let mut text = |bytes: &'a [u8]| {
        cursor::unescape(bytes, cursor::LABEL_ESCAPES).unwrap_or_else(|| {
            all_valid = false;
            Cow::Borrowed("")
        })
    };
    let mut has_empty_name = false;
    let read = Cursor::new(raw).series(dialect, |part| match part {
        Part::MetricName(name) => visit(Cow::Borrowed(METRIC_NAME), text(name)),
        Part::Label { name, value } => {
            has_empty_name |= name.is_empty();
            visit(text(name), text(value));
        }
    });
    if read.is_err() || !all_valid || has_empty_name {
        return Err(invalid());
    }
    Ok(())
}

/// The one NaN for all NaNs that a body may contain.
fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::from_bits(NORMAL_NAN_BITS) } else { value }
}
