//! Series descriptions of test scripts and rule tests: `metric{a="b"} 1+2x5 _ stale {{schema:1 count:4}}`.
//!
//! Source: Prometheus v3.14, `promql/parser/generated_parser.y`, `series_description`, and `parse.go`,
//! `buildHistogramFromMap`.

use super::ParseError;
use super::ast::Span;
use super::grammar::{Context, NO_CONTEXT, Parser, is_metric_identifier};
use super::lexer::{self, HistogramKey, Operator, ResetHint, TokenKind};
use super::{MAX_NODES, ParserOptions};
use chronolith_model::{
    CounterResetHint, FloatHistogram, Labels, LabelsBuilder, METRIC_NAME, Span as BucketSpan, stale_nan,
};
use std::sync::Arc;

/// More values in one series are refused: `1x9999999999` is a slip of the keyboard.
const MAX_VALUES: usize = 10_000_000;

/// One point of a described series.
#[derive(Clone, Debug)]
pub enum SeriesValue {
    /// `_`
    Omitted,
    /// A float; `stale` is the staleness marker.
    Float(f64),
    /// A histogram.
    Histogram {
        /// The histogram.
        histogram: Arc<FloatHistogram>,
        /// Whether the description named the reset hint.
        hint_given: bool,
    },
}

/// A metric and its points.
#[derive(Clone, Debug)]
pub struct SeriesDescription {
    /// The labels.
    pub labels: Labels,
    /// One point per interval.
    pub values: Vec<SeriesValue>,
}

/// Parses a metric and its points.
///
/// # Errors
/// [`ParseError`] if the text is none, or has too many points.
pub fn parse_series_desc(text: &str) -> Result<SeriesDescription, ParseError> {
    let mut parser = Parser::new(text, ParserOptions::default(), true).map_err(|error| *error)?;
    let labels = parser.metric().map_err(|error| *error)?;
    let values = parser.series_values().map_err(|error| *error)?;
    Ok(SeriesDescription { labels, values })
}

/// Parses a metric: `name{a="b"}`.
///
/// # Errors
/// [`ParseError`] if the text is none.
pub fn parse_metric(text: &str) -> Result<Labels, ParseError> {
    let mut parser = Parser::new(text, ParserOptions::default(), false).map_err(|error| *error)?;
    let labels = parser.metric().map_err(|error| *error)?;
    parser.end().map_err(|error| *error)?;
    Ok(labels)
}

const VALUES: Context = ("series values", "");
const DESCRIPTION: Context = ("histogram description", "histogram description key, e.g. buckets:[5 10 7]");

/// A histogram as it is described.
#[derive(Default)]
struct Description {
    histogram: FloatHistogram,
    hint_given: bool,
    offset: i32,
    negative_offset: i32,
    seen: Vec<HistogramKey>,
}

impl Parser<'_> {
    fn metric(&mut self) -> Result<Labels, Box<ParseError>> {
        let mut labels = LabelsBuilder::new();
        let mut name = None;
        if is_metric_identifier(self.peek()?.kind) {
            let token = self.bump()?;
            name = Some(self.text_of(token));
        }
        if self.accept(TokenKind::LeftBrace)?.is_some() {
            self.label_set(&mut labels)?;
        }
        if let Some(name) = name {
            labels.set(METRIC_NAME, name);
        }
        Ok(labels.build())
    }

    fn label_set(&mut self, labels: &mut LabelsBuilder) -> Result<(), Box<ParseError>> {
        while self.accept(TokenKind::RightBrace)?.is_none() {
            let token = self.peek()?;
            let (name, quoted) = match token.kind {
                TokenKind::Identifier => (self.text_of(token).to_owned(), false),
                TokenKind::String => (self.unquoted_text(token)?, true),
                _ => return self.unexpected(("label set", "identifier or \"}\"")),
            };
            self.bump()?;
            if self.accept(TokenKind::Eql)?.is_some() {
                let Some(value) = self.accept(TokenKind::String)? else {
                    return self.unexpected(("label set", "string"));
                };
                labels.set(&name, &self.unquoted_text(value)?);
            } else if quoted {
                labels.set(METRIC_NAME, &name);
            } else {
                return self.unexpected(("label set", "\"=\""));
            }
            if self.accept(TokenKind::Comma)?.is_none() && self.peek()?.kind != TokenKind::RightBrace {
                return self.unexpected(("label set", "\",\" or \"}\""));
            }
        }
        Ok(())
    }

    fn series_values(&mut self) -> Result<Vec<SeriesValue>, Box<ParseError>> {
        let mut values = Vec::new();
        let mut context = VALUES;
        loop {
            match self.peek()?.kind {
                TokenKind::Eof => return Ok(values),
                TokenKind::Space => {
                    self.bump()?;
                    context = NO_CONTEXT;
                    if !matches!(self.peek()?.kind, TokenKind::Eof | TokenKind::Space) {
                        self.series_item(&mut values)?;
                    }
                }
                _ => return self.unexpected(context),
            }
        }
    }

    fn series_item(&mut self, values: &mut Vec<SeriesValue>) -> Result<(), Box<ParseError>> {
        let token = self.peek()?;
        match token.kind {
            TokenKind::Blank => {
                self.bump()?;
                let n_values = self.repetitions()?.unwrap_or(1);
                self.extend(values, token.span, n_values, |_| Ok(SeriesValue::Omitted))
            }
            TokenKind::OpenHistogram => self.histogram_item(values),
            TokenKind::Identifier => {
                if self.text_of(token) != "stale" {
                    return self.unexpected(("series values", "number or \"stale\""));
                }
                self.bump()?;
                self.float_item(values, stale_nan())
            }
            kind => match self.signed_number()? {
                Some((value, _)) => self.float_item(values, value),
                None if matches!(kind, TokenKind::Operator(Operator::Add | Operator::Sub)) => {
                    self.unexpected(VALUES)
                }
                None => self.unexpected(NO_CONTEXT),
            },
        }
    }

    /// `1`, `1x3` or `1+2x3`, of which the first number has been read.
    fn float_item(&mut self, values: &mut Vec<SeriesValue>, first: f64) -> Result<(), Box<ParseError>> {
        let span = self.peek()?.span;
        let mut increment = None;
        if let TokenKind::Operator(Operator::Add | Operator::Sub) = self.peek()?.kind {
            increment = match self.signed_number()? {
                Some((value, _)) => Some(value),
                None => return self.unexpected(VALUES),
            };
        }
        let n_more = match self.repetitions()? {
            Some(n_more) => n_more,
            None if increment.is_some() => return self.unexpected(VALUES),
            None => 0,
        };
        let mut value = first;
        self.extend(values, span, n_more.saturating_add(1), |_| {
            let this = value;
            if let Some(increment) = increment {
                value += increment;
            }
            Ok(SeriesValue::Float(this))
        })
    }

    /// `{{...}}`, `{{...}}x3` or `{{...}}+{{...}}x3`.
    fn histogram_item(&mut self, values: &mut Vec<SeriesValue>) -> Result<(), Box<ParseError>> {
        let first = self.histogram()?;
        let mut hint_given = first.hint_given;
        let mut combined = None;
        if let TokenKind::Operator(operator @ (Operator::Add | Operator::Sub)) = self.peek()?.kind {
            self.bump()?;
            if self.peek()?.kind != TokenKind::OpenHistogram {
                return self.unexpected(VALUES);
            }
            let increment = self.histogram()?;
            // Upstream keeps one flag, which the increment was the last to set.
            hint_given = increment.hint_given;
            combined = Some((operator, increment.histogram));
        }
        let n_more = match self.repetitions()? {
            Some(n_more) => n_more,
            None if combined.is_some() => return self.unexpected(VALUES),
            None => 0,
        };
        let span = self.last();
        let mut current = first.histogram;
        let mut shared = Arc::new(current.clone());
        self.extend(values, span, n_more.saturating_add(1), |index| {
            if let (true, Some((operator, increment))) = (index > 0, &combined) {
                if current.schema > increment.schema {
                    return Err(format!(
                        "error combining histograms: cannot merge from schema {} to {}",
                        increment.schema, current.schema
                    ));
                }
                let result = match operator {
                    Operator::Add => current.add(increment),
                    _ => current.sub(increment),
                };
                result.map_err(|error| error.to_string())?;
                shared = Arc::new(current.clone());
            }
            Ok(SeriesValue::Histogram { histogram: Arc::clone(&shared), hint_given })
        })
    }

    fn extend(
        &self,
        values: &mut Vec<SeriesValue>,
        span: Span,
        n_values: u64,
        mut next: impl FnMut(u64) -> Result<SeriesValue, String>,
    ) -> Result<(), Box<ParseError>> {
        if n_values > (MAX_VALUES - values.len().min(MAX_VALUES)) as u64 {
            return self.fail(span, format!("series has more than {MAX_VALUES} values"));
        }
        for index in 0..n_values {
            match next(index) {
                Ok(value) => values.push(value),
                Err(message) => return self.fail(span, message),
            }
        }
        Ok(())
    }

    /// `x5`, if it is there.
    fn repetitions(&mut self) -> Result<Option<u64>, Box<ParseError>> {
        if self.accept(TokenKind::Times)?.is_none() {
            return Ok(None);
        }
        self.whole_number().map(Some)
    }

    fn whole_number(&mut self) -> Result<u64, Box<ParseError>> {
        let Some(token) = self.accept(TokenKind::Number)? else {
            return self.unexpected(VALUES);
        };
        let text = self.text_of(token);
        match text.parse() {
            Ok(number) => Ok(number),
            Err(_) => self.fail(
                token.span,
                format!(
                    "invalid repetition in series values: strconv.ParseUint: parsing {}: invalid syntax",
                    lexer::quote(text)
                ),
            ),
        }
    }

    fn histogram(&mut self) -> Result<Description, Box<ParseError>> {
        self.bump()?;
        let mut description = Description::default();
        self.accept(TokenKind::Space)?;
        while self.accept(TokenKind::CloseHistogram)?.is_none() {
            self.histogram_entry(&mut description)?;
            if self.accept(TokenKind::Space)?.is_none() && self.peek()?.kind != TokenKind::CloseHistogram {
                return self.unexpected(DESCRIPTION);
            }
        }
        let spans = |offset: i32, n_buckets: usize| match n_buckets {
            0 => Vec::new(),
            _ => vec![BucketSpan { offset, length: u32::try_from(n_buckets).unwrap_or(u32::MAX) }],
        };
        let Description { histogram, offset, negative_offset, .. } = &mut description;
        histogram.positive_spans = spans(*offset, histogram.positive_buckets.len());
        histogram.negative_spans = spans(*negative_offset, histogram.negative_buckets.len());
        Ok(description)
    }

    fn histogram_entry(&mut self, description: &mut Description) -> Result<(), Box<ParseError>> {
        let token = self.peek()?;
        let TokenKind::HistogramKey(key) = token.kind else {
            return self.unexpected(DESCRIPTION);
        };
        self.bump()?;
        if description.seen.contains(&key) {
            let text = self.text_of(token);
            return self.fail(Span::default(), format!("duplicate key \"{text}\" in histogram"));
        }
        description.seen.push(key);
        if self.accept(TokenKind::Colon)?.is_none() {
            return self.unexpected(VALUES);
        }
        let histogram = &mut description.histogram;
        match key {
            HistogramKey::Sum => histogram.sum = self.entry_number()?,
            HistogramKey::Count => histogram.count = self.entry_number()?,
            HistogramKey::ZeroBucket => histogram.zero_count = self.entry_number()?,
            HistogramKey::ZeroBucketWidth => histogram.zero_threshold = self.entry_number()?,
            HistogramKey::Schema => histogram.schema = self.entry_integer()?,
            HistogramKey::Offset => description.offset = self.entry_integer()?,
            HistogramKey::NegativeOffset => description.negative_offset = self.entry_integer()?,
            HistogramKey::Buckets => histogram.positive_buckets = self.entry_list()?,
            HistogramKey::NegativeBuckets => histogram.negative_buckets = self.entry_list()?,
            HistogramKey::CustomValues => histogram.custom_values = Some(self.entry_list()?.into()),
            HistogramKey::CounterResetHint => {
                let TokenKind::ResetHint(hint) = self.peek()?.kind else {
                    return self.unexpected(VALUES);
                };
                self.bump()?;
                description.hint_given = true;
                histogram.counter_reset_hint = match hint {
                    ResetHint::Unknown => CounterResetHint::Unknown,
                    ResetHint::Reset => CounterResetHint::Reset,
                    ResetHint::NotReset => CounterResetHint::NotReset,
                    ResetHint::Gauge => CounterResetHint::Gauge,
                };
            }
        }
        Ok(())
    }

    fn entry_number(&mut self) -> Result<f64, Box<ParseError>> {
        match self.signed_number()? {
            Some((value, _)) => Ok(value),
            None => self.unexpected(VALUES),
        }
    }

    fn entry_integer(&mut self) -> Result<i32, Box<ParseError>> {
        let span = self.peek()?.span;
        let negative = self.accept(TokenKind::Operator(Operator::Sub))?.is_some();
        let number = i64::try_from(self.whole_number()?).unwrap_or(i64::MAX);
        match i32::try_from(if negative { -number } else { number }) {
            Ok(number) => Ok(number),
            Err(_) => self.fail(span, "number out of range in histogram description"),
        }
    }

    /// `[1 2 3]`
    fn entry_list(&mut self) -> Result<Vec<f64>, Box<ParseError>> {
        if self.accept(TokenKind::LeftBracket)?.is_none() {
            return self.unexpected(VALUES);
        }
        let mut numbers = vec![self.entry_number()?];
        while self.accept(TokenKind::RightBracket)?.is_none() {
            let space = self.accept(TokenKind::Space)?;
            if space.is_some() && self.peek()?.kind == TokenKind::RightBracket {
                continue;
            }
            if space.is_none() || numbers.len() as u64 >= u64::from(MAX_NODES) {
                return self.unexpected(VALUES);
            }
            numbers.push(self.entry_number()?);
        }
        Ok(numbers)
    }
}
