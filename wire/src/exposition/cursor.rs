//! A place in a body, and what both formats are made of: names, strings, label sets, numbers.

use super::{Reason, canonical, parse_float};
use std::borrow::Cow;

/// How much of a line an error shows.
const EXCERPT_BYTES: usize = 120;

/// Which rules a label set follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Spaces and tabs anywhere, commas may be missing, values may contain line feeds.
    Text,
    /// No spaces; values of one line.
    OpenMetrics,
    /// As OpenMetrics, and without a metric name.
    Exemplar,
}

/// What a label set consists of; escapes are not resolved.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    MetricName(&'a [u8]),
    Label { name: &'a [u8], value: &'a [u8] },
}

/// Escapes of label values, and of names in quotes.
pub(super) const LABEL_ESCAPES: &[(u8, char)] = &[(b'"', '"'), (b'\\', '\\'), (b'n', '\n')];
/// Escapes of help texts in the Prometheus text format.
pub(super) const HELP_ESCAPES: &[(u8, char)] = &[(b'\\', '\\'), (b'n', '\n')];

/// Where in a body a parser is.
// Invariant: at <= body.len().
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
    /// All of the body is UTF-8, so that no part of it need be checked.
    is_utf8: bool,
}

impl<'a> Cursor<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0, is_utf8: std::str::from_utf8(body).is_ok() }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.body.len()
    }

    pub fn since(&self, start: usize) -> &'a [u8] {
        &self.body[start..self.at]
    }

    pub fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    /// Passes over `expected` if it comes next.
    pub fn take(&mut self, expected: &[u8]) -> bool {
        let is_next = self.body[self.at..].starts_with(expected);
        if is_next {
            self.at += expected.len();
        }
        is_next
    }

    /// Passes over the bytes for which `wanted` holds.
    #[inline]
    pub fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.body[self.at..];
        let length = rest.iter().position(|&byte| !wanted(byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    pub fn take_blanks(&mut self) -> usize {
        self.take_while(|byte| byte == b' ' || byte == b'\t').len()
    }

    /// The rest of the line, without the line feed, which is passed over. `None` if the body ends
    /// before a line feed; all of it is then passed over.
    pub fn take_line(&mut self) -> Result<&'a [u8], &'a [u8]> {
        let line = self.take_while(|byte| byte != b'\n');
        if self.take(b"\n") { Ok(line) } else { Err(line) }
    }

    /// Bytes as text, where they must be.
    pub fn utf8(&self, bytes: &'a [u8], what: &'static str) -> Result<&'a str, Reason> {
        std::str::from_utf8(bytes).map_err(|_| Reason::NotUtf8(what))
    }

    /// A metric name or, within braces, a label name that needs no quotes.
    #[inline]
    fn plain_name(&mut self, with_colon: bool) -> &'a [u8] {
        match self.peek() {
            Some(b) if b.is_ascii_alphabetic() || b == b'_' || (with_colon && b == b':') => {
                self.take_while(|b| b.is_ascii_alphanumeric() || b == b'_' || (with_colon && b == b':'))
            }
            _ => b"",
        }
    }

    /// A string in quotes: what is between them, escapes not resolved. `None`, and nothing passed
    /// over, if there is no quote or the string does not end.
    #[inline]
    fn quoted(&mut self, across_lines: bool) -> Option<&'a [u8]> {
        let body = &self.body[self.at..];
        if body.first() != Some(&b'"') {
            return None;
        }
        let mut i = 1;
        loop {
            match *body.get(i)? {
                b'"' => break,
                b'\n' if !across_lines => return None,
                b'\\' if *body.get(i + 1)? == b'\n' => return None,
                b'\\' => i += 2,
                _ => i += 1,
            }
        }
        self.at += i + 1;
        Some(&body[1..i])
    }

    /// The name after `HELP`, `TYPE` or `UNIT`, quoted or not, as text without escapes.
    pub fn family_name(&mut self) -> Result<Cow<'a, str>, Reason> {
        let name = match self.quoted(true) {
            Some(name) => name,
            None => self.plain_name(true),
        };
        if name.is_empty() {
            return Err(Reason::Expected("metric name after HELP, TYPE or UNIT"));
        }
        unescape(name, LABEL_ESCAPES).ok_or(Reason::NotUtf8("metric name"))
    }

    /// Name and labels of a series, or the labels of an exemplar: `name`, `name{...}` or `{...}`.
    #[inline]
    pub fn series(&mut self, dialect: Dialect, mut visit: impl FnMut(Part<'a>)) -> Result<(), Reason> {
        let name = if dialect == Dialect::Exemplar { b"" } else { self.plain_name(true) };
        if name.is_empty() {
            if !self.take(b"{") {
                return Err(Reason::Expected("a valid start of a line"));
            }
            let has_name = self.label_set(dialect, false, &mut visit)?;
            return if has_name || dialect == Dialect::Exemplar { Ok(()) } else { Err(Reason::NameMissing) };
        }
        visit(Part::MetricName(name));
        let end = self.at;
        if dialect == Dialect::Text {
            self.take_blanks();
        }
        if self.take(b"{") {
            self.label_set(dialect, true, &mut visit)?;
        } else {
            self.at = end;
        }
        Ok(())
    }

    /// What follows an opening brace, to the closing one. Returns whether there is a metric name.
    #[inline]
    fn label_set(
        &mut self,
        dialect: Dialect,
        mut has_name: bool,
        visit: &mut impl FnMut(Part<'a>),
    ) -> Result<bool, Reason> {
        let is_text = dialect == Dialect::Text;
        loop {
            if is_text {
                self.take_blanks();
            }
            if self.take(b"}") {
                return Ok(has_name);
            }
            let quoted = self.quoted(dialect != Dialect::Exemplar);
            let name = match quoted {
                Some(name) => name,
                None => self.plain_name(false),
            };
            if quoted.is_none() && name.is_empty() {
                return Err(Reason::Expected("label name"));
            }
            if !self.is_utf8 {
                self.utf8(name, "label name")?;
            }
            if is_text {
                self.take_blanks();
            }
            if quoted.is_some() && dialect != Dialect::Exemplar && matches!(self.peek(), Some(b',' | b'}')) {
                if has_name {
                    return Err(Reason::NameTwice);
                }
                has_name = true;
                visit(Part::MetricName(name));
                self.take(b",");
                continue;
            }
            if !self.take(b"=") {
                return Err(Reason::Expected("equal sign after label name"));
            }
            if is_text {
                self.take_blanks();
            }
            let value = self.quoted(is_text).ok_or(Reason::Expected("label value in quotes"))?;
            if !self.is_utf8 {
                self.utf8(value, "label value")?;
            }
            visit(Part::Label { name, value });
            if is_text {
                self.take_blanks();
                self.take(b",");
            } else if !self.take(b",") && self.peek() != Some(b'}') {
                return Err(Reason::Expected("comma or closing brace after label value"));
            }
        }
    }

    /// A number out of the bytes for which `wanted` holds.
    #[inline]
    pub fn number(&mut self, wanted: impl Fn(u8) -> bool, what: &'static str) -> Result<f64, Reason> {
        let text = self.take_while(wanted);
        if text.is_empty() {
            return Err(Reason::Expected(what));
        }
        parse_float(text).map(canonical).ok_or_else(|| not_a_number(text))
    }

    /// The first offset from `start` on that is no line feed.
    pub fn skip_blank_lines(&self, start: usize) -> usize {
        let blank = self.body[start..].iter().take_while(|&&byte| byte == b'\n').count();
        if start + blank > self.at { start } else { start + blank }
    }

    /// The number of the line at `start`, and the text from there to a little beyond the cursor.
    pub fn locate(&self, start: usize) -> (usize, String) {
        let line = 1 + self.body[..start].iter().filter(|&&byte| byte == b'\n').count();
        let from = start.max(self.at.saturating_sub(EXCERPT_BYTES));
        let end = (self.at + 1).min(self.body.len()).max(from);
        (line, String::from_utf8_lossy(&self.body[from..end]).into_owned())
    }
}

#[cold]
pub(super) fn not_a_number(text: &[u8]) -> Reason {
    Reason::Number(String::from_utf8_lossy(&text[..text.len().min(EXCERPT_BYTES)]).into_owned())
}

/// Text with its escapes resolved; a backslash before anything else stays. `None` if it is not UTF-8.
pub(super) fn unescape<'a>(bytes: &'a [u8], escapes: &[(u8, char)]) -> Option<Cow<'a, str>> {
    let text = std::str::from_utf8(bytes).ok()?;
    if !bytes.contains(&b'\\') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let next = after.as_bytes().first();
        match escapes.iter().find(|(byte, _)| Some(byte) == next) {
            Some(&(_, meaning)) => {
                out.push(meaning);
                rest = &after[1..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}
