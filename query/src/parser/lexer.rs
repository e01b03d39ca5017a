//! Text to tokens.
//!
//! The scanner is a state machine: what a character means depends on the braces, brackets and histogram
//! descriptions that are open. Its quirks are Prometheus's, since they decide which texts are errors and with
//! which words.
//!
//! Source: Prometheus v3.14, `promql/parser/lex.go`.

use super::ast::{AggregateOp, Span};
use chronolith_model::labels::{is_go_printable, write_quoted};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Eof,
    Comma,
    Colon,
    Eql,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    LeftParen,
    RightParen,
    OpenHistogram,
    CloseHistogram,
    Blank,
    Times,
    Space,
    Duration,
    Number,
    String,
    Identifier,
    MetricIdentifier,
    HistogramKey(HistogramKey),
    ResetHint(ResetHint),
    Aggregator(AggregateOp),
    Operator(Operator),
    Keyword(Keyword),
    Preprocessor(Preprocessor),
}

/// Operators, between expressions and in matchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eqlc,
    Neq,
    Lss,
    Lte,
    Gtr,
    Gte,
    TrimUpper,
    TrimLower,
    EqlRegex,
    NeqRegex,
    And,
    Or,
    Unless,
    At,
}

/// Words with a meaning of their own. Most may also be metric names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Offset,
    Smoothed,
    Anchored,
    By,
    Without,
    On,
    Ignoring,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Bool,
}

/// Functions that also stand in durations or behind `@`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preprocessor {
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

/// The keys of a histogram in a series description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HistogramKey {
    Sum,
    Count,
    Schema,
    Offset,
    NegativeOffset,
    Buckets,
    NegativeBuckets,
    ZeroBucket,
    ZeroBucketWidth,
    CustomValues,
    CounterResetHint,
}

/// The reset hints of a histogram in a series description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetHint {
    Unknown,
    Reset,
    NotReset,
    Gauge,
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub span: Span,
}

/// What the scanner does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LexError {
    pub start: u32,
    pub message: String,
}

/// Where the scanner is.
#[derive(Clone, Copy, Debug)]
enum State {
    Statements,
    InsideBraces,
    DurationExpr,
    ValueSequence,
    Histogram,
    Buckets,
    End,
}

/// What follows a histogram description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HistogramState {
    None,
    Open,
    Operator,
}

/// The scanner.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    state: State,
    pos: usize,
    start: usize,
    paren_depth: u32,
    brace_open: bool,
    bracket_open: bool,
    got_colon: bool,
    got_duration: bool,
    series_desc: bool,
    histogram: HistogramState,
    token: Option<Token>,
}

type Step = Result<State, LexError>;

impl<'t> Lexer<'t> {
    /// A scanner of an expression, or of a series description: a metric and a sequence of values.
    ///
    /// The text is shorter than 4 GiB; the parser has checked that.
    pub fn new(text: &'t str, series_desc: bool) -> Self {
        Self {
            text,
            state: State::Statements,
            pos: 0,
            start: 0,
            paren_depth: 0,
            brace_open: false,
            bracket_open: false,
            got_colon: false,
            got_duration: false,
            series_desc,
            histogram: HistogramState::None,
            token: None,
        }
    }

    /// The next token; comments are left out. After the end there are only more ends.
    pub fn next_token(&mut self) -> Result<Token, LexError> {
        loop {
            self.state = match self.state {
                State::Statements => self.statements()?,
                State::InsideBraces => self.inside_braces()?,
                State::DurationExpr => self.duration_expr()?,
                State::ValueSequence => self.value_sequence()?,
                State::Histogram => self.histogram()?,
                State::Buckets => self.buckets()?,
                State::End => {
                    self.emit(TokenKind::Eof);
                    State::End
                }
            };
            if let Some(token) = self.token.take() {
                return Ok(token);
            }
        }
    }

    /// The text of a token.
    pub fn text_of(&self, token: Token) -> &'t str {
        &self.text[token.span.start as usize..token.span.end as usize]
    }

    fn peek(&self) -> Option<char> {
        self.text[self.pos..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        Some(c)
    }

    fn is(&self, set: &str) -> bool {
        self.peek().is_some_and(|c| set.contains(c))
    }

    fn accept(&mut self, set: &str) -> bool {
        let found = self.is(set);
        if found {
            self.next();
        }
        found
    }

    fn accept_while(&mut self, accepts: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&accepts) {
            self.next();
        }
    }

    fn skip_spaces(&mut self) {
        self.accept_while(is_space);
        self.start = self.pos;
    }

    fn word(&self) -> &'t str {
        &self.text[self.start..self.pos]
    }

    fn emit(&mut self, kind: TokenKind) {
        let at = |pos: usize| u32::try_from(pos).expect("the text is shorter than 4 GiB");
        self.token = Some(Token { kind, span: Span { start: at(self.start), end: at(self.pos) } });
        self.start = self.pos;
    }

    fn emit_operator(&mut self, operator: Operator) {
        self.emit(TokenKind::Operator(operator));
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, LexError> {
        let start = u32::try_from(self.start).expect("the text is shorter than 4 GiB");
        Err(LexError { start, message: message.into() })
    }

    fn comment(&mut self) {
        self.accept_while(|c| c != '\n' && c != '\r');
        self.start = self.pos;
    }

    fn statements(&mut self) -> Step {
        if self.histogram != HistogramState::None {
            return Ok(State::Histogram);
        }
        if self.brace_open {
            return Ok(State::InsideBraces);
        }
        let Some(c) = self.next() else {
            if self.paren_depth != 0 {
                return self.fail("unclosed left parenthesis");
            }
            if self.bracket_open {
                return self.fail("unclosed left bracket");
            }
            self.emit(TokenKind::Eof);
            return Ok(State::End);
        };
        match c {
            '#' => self.comment(),
            ',' => self.emit(TokenKind::Comma),
            c if is_space(c) => self.skip_spaces(),
            '*' => self.emit_operator(Operator::Mul),
            '/' => self.emit_operator(Operator::Div),
            '%' => self.emit_operator(Operator::Mod),
            '+' => self.emit_operator(Operator::Add),
            '-' => self.emit_operator(Operator::Sub),
            '^' => self.emit_operator(Operator::Pow),
            '@' => self.emit_operator(Operator::At),
            '=' => match self.peek() {
                Some('=') => self.emit_two(Operator::Eqlc),
                Some('~') => return self.fail("unexpected character after '=': '~'"),
                _ => self.emit(TokenKind::Eql),
            },
            '!' => match self.next() {
                Some('=') => self.emit_operator(Operator::Neq),
                other => {
                    return self.fail(format!("unexpected character after '!': {}", quote_char(other)));
                }
            },
            '<' => match self.peek() {
                Some('=') => self.emit_two(Operator::Lte),
                Some('/') => self.emit_two(Operator::TrimUpper),
                _ => self.emit_operator(Operator::Lss),
            },
            '>' => match self.peek() {
                Some('=') => self.emit_two(Operator::Gte),
                Some('/') => self.emit_two(Operator::TrimLower),
                _ => self.emit_operator(Operator::Gtr),
            },
            c if c.is_ascii_digit() || c == '.' && self.peek().is_some_and(|d| d.is_ascii_digit()) => {
                self.pos -= 1;
                self.number_or_duration()?;
            }
            '"' | '\'' => self.string(c)?,
            '`' => self.raw_string()?,
            c if is_alpha(c) || c == ':' => return self.word_or_colon(c),
            '(' => {
                self.emit(TokenKind::LeftParen);
                self.paren_depth += 1;
            }
            ')' => self.right_paren()?,
            '{' => {
                self.emit(TokenKind::LeftBrace);
                self.brace_open = true;
                return Ok(State::InsideBraces);
            }
            '[' => {
                if self.bracket_open {
                    return self.fail("unexpected left bracket '['");
                }
                self.got_colon = false;
                self.emit(TokenKind::LeftBracket);
                self.skip_spaces();
                self.bracket_open = true;
                return Ok(State::DurationExpr);
            }
            ']' => {
                if !self.bracket_open {
                    return self.fail("unexpected right bracket ']'");
                }
                self.emit(TokenKind::RightBracket);
                self.bracket_open = false;
            }
            c => return self.fail(format!("unexpected character: {}", quote_char(Some(c)))),
        }
        Ok(State::Statements)
    }

    fn emit_two(&mut self, operator: Operator) {
        self.next();
        self.emit_operator(operator);
    }

    fn right_paren(&mut self) -> Result<(), LexError> {
        self.emit(TokenKind::RightParen);
        match self.paren_depth.checked_sub(1) {
            Some(depth) => {
                self.paren_depth = depth;
                Ok(())
            }
            None => self.fail("unexpected right parenthesis ')'"),
        }
    }

    /// A letter or a colon outside braces; inside brackets only `:`, `step`, `range` and the like may stand.
    fn word_or_colon(&mut self, c: char) -> Step {
        if !self.bracket_open {
            self.pos -= 1;
            return Ok(self.keyword_or_identifier());
        }
        if c == ':' {
            if self.got_colon {
                return self.fail("unexpected colon ':'");
            }
            self.emit(TokenKind::Colon);
            self.got_colon = true;
            return Ok(State::Statements);
        }
        if self.duration_keyword(c) {
            return Ok(State::Statements);
        }
        self.fail(format!("unexpected character: {}, expected ':'", quote_char(Some(c))))
    }

    /// Scans the rest of `step`, `range`, `min_of` or `max_of`; `c` has been read. False if it is none of them.
    fn duration_keyword(&mut self, c: char) -> bool {
        if !matches!(c.to_ascii_lowercase(), 's' | 'r' | 'm') {
            return false;
        }
        self.accept_while(is_alpha);
        let preprocessor = match self.word().to_ascii_lowercase().as_str() {
            "step" => Preprocessor::Step,
            "range" => Preprocessor::Range,
            "max_of" => Preprocessor::MaxOf,
            "min_of" => Preprocessor::MinOf,
            _ => return false,
        };
        self.emit(TokenKind::Preprocessor(preprocessor));
        true
    }

    /// The inside of brackets, up to the first number.
    fn duration_expr(&mut self) -> Step {
        let Some(c) = self.next() else {
            return self.fail("unexpected end of input in duration expression");
        };
        match c {
            ']' => {
                self.emit(TokenKind::RightBracket);
                self.bracket_open = false;
                self.got_colon = false;
                return Ok(State::Statements);
            }
            ':' => {
                self.emit(TokenKind::Colon);
                if !self.got_duration {
                    return self.fail("unexpected colon before duration in duration expression");
                }
                if self.got_colon {
                    return self.fail("unexpected repeated colon in duration expression");
                }
                self.got_colon = true;
            }
            '(' => {
                self.emit(TokenKind::LeftParen);
                self.paren_depth += 1;
            }
            ')' => self.right_paren()?,
            c if is_space(c) => self.skip_spaces(),
            '+' => self.emit_operator(Operator::Add),
            '-' => self.emit_operator(Operator::Sub),
            '*' => self.emit_operator(Operator::Mul),
            '/' => self.emit_operator(Operator::Div),
            '%' => self.emit_operator(Operator::Mod),
            '^' => self.emit_operator(Operator::Pow),
            ',' => self.emit(TokenKind::Comma),
            c if matches!(c.to_ascii_lowercase(), 's' | 'r' | 'm') => {
                if !self.duration_keyword(c) {
                    return self.fail(format!(
                        "unexpected character in duration expression: {}",
                        quote_char(Some(c))
                    ));
                }
            }
            c if c.is_ascii_digit() || c == '.' && self.peek().is_some_and(|d| d.is_ascii_digit()) => {
                self.pos -= 1;
                self.got_duration = true;
                self.number_or_duration()?;
                return Ok(State::Statements);
            }
            c => {
                return self
                    .fail(format!("unexpected character in duration expression: {}", quote_char(Some(c))));
            }
        }
        Ok(State::DurationExpr)
    }

    /// The inside of a selector's braces; there are no keywords there.
    fn inside_braces(&mut self) -> Step {
        let Some(c) = self.next() else {
            return self.fail("unexpected end of input inside braces");
        };
        match c {
            '#' => self.comment(),
            c if is_space(c) => self.skip_spaces(),
            c if is_alpha(c) => {
                self.accept_while(is_alphanumeric);
                self.emit(TokenKind::Identifier);
            }
            ',' => self.emit(TokenKind::Comma),
            '"' | '\'' => self.string(c)?,
            '`' => self.raw_string()?,
            '=' if self.peek() == Some('~') => self.emit_two(Operator::EqlRegex),
            '=' => self.emit(TokenKind::Eql),
            '!' => match self.next() {
                Some('~') => self.emit_operator(Operator::NeqRegex),
                Some('=') => self.emit_operator(Operator::Neq),
                other => {
                    return self.fail(format!(
                        "unexpected character after '!' inside braces: {}",
                        quote_char(other)
                    ));
                }
            },
            '{' => return self.fail("unexpected left brace '{'"),
            '}' => {
                self.emit(TokenKind::RightBrace);
                self.brace_open = false;
                return Ok(if self.series_desc { State::ValueSequence } else { State::Statements });
            }
            c => {
                return self.fail(format!("unexpected character inside braces: {}", quote_char(Some(c))));
            }
        }
        Ok(State::Statements)
    }

    /// The values of a series description.
    fn value_sequence(&mut self) -> Step {
        if self.histogram != HistogramState::None {
            return Ok(State::Histogram);
        }
        let Some(c) = self.next() else {
            return Ok(State::Statements);
        };
        match c {
            '{' if self.peek() == Some('{') => {
                self.histogram = HistogramState::Open;
                self.next();
                self.emit(TokenKind::OpenHistogram);
                return Ok(State::Histogram);
            }
            c if is_space(c) => {
                self.emit(TokenKind::Space);
                self.skip_spaces();
            }
            '+' => self.emit_operator(Operator::Add),
            '-' => self.emit_operator(Operator::Sub),
            'x' => self.emit(TokenKind::Times),
            '_' => self.emit(TokenKind::Blank),
            c if c.is_ascii_digit() || c == '.' && self.peek().is_some_and(|d| d.is_ascii_digit()) => {
                self.pos -= 1;
                self.number()?;
            }
            c if is_alpha(c) => {
                self.pos -= 1;
                return Ok(self.keyword_or_identifier());
            }
            c => {
                return self
                    .fail(format!("unexpected character in series sequence: {}", quote_char(Some(c))));
            }
        }
        Ok(State::ValueSequence)
    }

    /// The inside of `{{ }}`, or the operator behind it.
    fn histogram(&mut self) -> Step {
        if self.histogram == HistogramState::Operator {
            self.histogram = HistogramState::None;
            match self.next() {
                Some('x') => self.emit(TokenKind::Times),
                Some('+') => self.emit_operator(Operator::Add),
                _ => self.emit_operator(Operator::Sub),
            }
            return Ok(State::ValueSequence);
        }
        if self.bracket_open {
            return Ok(State::Buckets);
        }
        match self.next() {
            Some(c) if is_space(c) => {
                self.emit(TokenKind::Space);
                self.skip_spaces();
            }
            Some(c) if is_alpha(c) => self.histogram_word()?,
            Some(':') => self.emit(TokenKind::Colon),
            Some('-') => self.emit_operator(Operator::Sub),
            Some(c) if c.is_ascii_digit() => {
                self.pos -= 1;
                self.number()?;
            }
            Some('[') => {
                self.bracket_open = true;
                self.emit(TokenKind::LeftBracket);
                return Ok(State::Buckets);
            }
            Some('}') if self.peek() == Some('}') => {
                self.next();
                self.emit(TokenKind::CloseHistogram);
                if self.is("x+-") {
                    self.histogram = HistogramState::Operator;
                    return Ok(State::Histogram);
                }
                self.histogram = HistogramState::None;
                return Ok(State::ValueSequence);
            }
            other => {
                return self
                    .fail(format!("histogram description incomplete unexpected: {}", quote_char(other)));
            }
        }
        Ok(State::Histogram)
    }

    fn histogram_word(&mut self) -> Result<(), LexError> {
        self.accept_while(is_alpha);
        let word = self.word().to_ascii_lowercase();
        let key = match word.as_str() {
            "sum" => Some(HistogramKey::Sum),
            "count" => Some(HistogramKey::Count),
            "schema" => Some(HistogramKey::Schema),
            "offset" => Some(HistogramKey::Offset),
            "n_offset" => Some(HistogramKey::NegativeOffset),
            "buckets" => Some(HistogramKey::Buckets),
            "n_buckets" => Some(HistogramKey::NegativeBuckets),
            "z_bucket" => Some(HistogramKey::ZeroBucket),
            "z_bucket_w" => Some(HistogramKey::ZeroBucketWidth),
            "custom_values" => Some(HistogramKey::CustomValues),
            "counter_reset_hint" => Some(HistogramKey::CounterResetHint),
            _ => None,
        };
        if let Some(key) = key {
            if self.peek() != Some(':') {
                return self.fail("missing `:` for histogram descriptor");
            }
            self.emit(TokenKind::HistogramKey(key));
            return Ok(());
        }
        let kind = match word.as_str() {
            "inf" | "nan" => TokenKind::Number,
            "unknown" => TokenKind::ResetHint(ResetHint::Unknown),
            "reset" => TokenKind::ResetHint(ResetHint::Reset),
            "not_reset" => TokenKind::ResetHint(ResetHint::NotReset),
            "gauge" => TokenKind::ResetHint(ResetHint::Gauge),
            _ => return self.fail(format!("bad histogram descriptor found: {}", quote(self.word()))),
        };
        self.emit(kind);
        Ok(())
    }

    /// The numbers in the brackets of a histogram description.
    fn buckets(&mut self) -> Step {
        match self.next() {
            Some(c) if is_space(c) => {
                self.emit(TokenKind::Space);
                self.skip_spaces();
            }
            Some('-') => self.emit_operator(Operator::Sub),
            Some(c) if c.is_ascii_digit() => {
                self.pos -= 1;
                self.number()?;
            }
            Some(']') => {
                self.bracket_open = false;
                self.emit(TokenKind::RightBracket);
                return Ok(State::Histogram);
            }
            Some(c) if is_alpha(c) => {
                let word = self.word();
                if word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("nan") {
                    self.emit(TokenKind::Number);
                }
            }
            other => {
                return self.fail(format!("invalid character in buckets description: {}", quote_char(other)));
            }
        }
        Ok(State::Buckets)
    }

    /// A quoted string, of which the opening quote has been read. Escapes are checked here and resolved by
    /// [`unquote`].
    fn string(&mut self, quote: char) -> Result<(), LexError> {
        loop {
            match self.next() {
                Some('\\') => self.escape(quote)?,
                Some(char::REPLACEMENT_CHARACTER) => return self.fail("invalid UTF-8 rune"),
                None | Some('\n') => return self.fail("unterminated quoted string"),
                Some(c) if c == quote => break,
                Some(_) => {}
            }
        }
        self.emit(TokenKind::String);
        Ok(())
    }

    fn escape(&mut self, quote: char) -> Result<(), LexError> {
        let (first, n_digits, radix, max) = match self.next() {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => return Ok(()),
            Some(c) if c == quote => return Ok(()),
            Some(c @ '0'..='7') => (Some(c), 3, 8, 255),
            Some('x') => (self.next(), 2, 16, 255),
            Some('u') => (self.next(), 4, 16, 0x0010_ffff),
            Some('U') => (self.next(), 8, 16, 0x0010_ffff),
            None => return self.fail("escape sequence not terminated"),
            Some(c) => return self.fail(format!("unknown escape sequence {}", unicode_name(c))),
        };
        let mut value = 0u32;
        let mut digit = first;
        for i in 0..n_digits {
            let Some(c) = digit else { return self.fail("escape sequence not terminated") };
            let Some(d) = c.to_digit(radix) else {
                return self.fail(format!("illegal character {} in escape sequence", unicode_name(c)));
            };
            value = value.wrapping_mul(radix).wrapping_add(d);
            if i + 1 < n_digits {
                digit = self.next();
            }
        }
        if value > max || (0xd800..0xe000).contains(&value) {
            return self.fail("escape sequence is an invalid Unicode code point");
        }
        Ok(())
    }

    fn raw_string(&mut self) -> Result<(), LexError> {
        loop {
            match self.next() {
                Some(char::REPLACEMENT_CHARACTER) => return self.fail("invalid UTF-8 rune"),
                None => return self.fail("unterminated raw string"),
                Some('`') => break,
                Some(_) => {}
            }
        }
        self.emit(TokenKind::String);
        Ok(())
    }

    fn number(&mut self) -> Result<(), LexError> {
        if !self.scan_number() {
            return self.fail(format!("bad number syntax: {}", quote(self.word())));
        }
        self.emit(TokenKind::Number);
        Ok(())
    }

    fn number_or_duration(&mut self) -> Result<(), LexError> {
        if self.scan_number() {
            self.emit(TokenKind::Number);
            return Ok(());
        }
        if self.scan_rest_of_duration() {
            self.emit(TokenKind::Duration);
            return Ok(());
        }
        self.fail(format!("bad number or duration syntax: {}", quote(self.word())))
    }

    /// Units and further numbers behind a first number. What follows must not be a letter or digit; it is read
    /// if it is, for the error text.
    fn scan_rest_of_duration(&mut self) -> bool {
        if !self.accept("smhdwy") {
            return false;
        }
        // For `ms`; wrong units such as `hs` are found when the duration is parsed.
        self.accept("s");
        while self.accept("0123456789") {
            self.accept_while(|c| c.is_ascii_digit());
            // Years always come first, so `y` is not in this list.
            if !self.accept("smhdw") {
                return false;
            }
            self.accept("s");
        }
        if self.peek().is_some_and(is_alphanumeric) {
            self.next();
            return false;
        }
        true
    }

    /// Scans what looks like a number; whether it is one the parser finds out.
    fn scan_number(&mut self) -> bool {
        let first = self.pos;
        let mut digits = "0123456789";
        // Hexadecimal numbers would be ambiguous in series descriptions.
        if !self.series_desc && self.accept("0") && self.accept("xX") {
            self.accept("_");
            digits = "0123456789abcdefABCDEF";
        }
        let hexadecimal = digits.len() > 10;
        self.accept(".");
        self.accept(digits);
        let (mut dot, mut exponent) = (false, false);
        while self.peek().is_some_and(|c| digits.contains(c) || "._eE".contains(c)) {
            if self.is(".") && dot {
                self.next();
                return false;
            }
            if self.is("eE") && exponent {
                self.next();
                return false;
            }
            if self.accept(".") {
                dot = true;
                if self.accept("_.") || hexadecimal {
                    return false;
                }
            } else if self.accept("eE") {
                exponent = true;
                self.accept("+-");
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else if self.accept("_") {
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else {
                self.accept_while(|c| digits.contains(c));
            }
        }
        if self.pos == first {
            return false;
        }
        match self.peek() {
            Some('x') if self.series_desc => true,
            Some(c) => !is_alphanumeric(c),
            None => true,
        }
    }

    fn keyword_or_identifier(&mut self) -> State {
        self.accept_while(|c| is_alphanumeric(c) || c == ':');
        let word = self.word();
        let kind = match keyword(word) {
            // These may be metric names that somebody uses already, so they need their parenthesis.
            Some(TokenKind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight))
                if !self.text[self.pos..].trim_start_matches(is_space).starts_with('(') =>
            {
                TokenKind::Identifier
            }
            Some(kind) => kind,
            None if word.contains(':') => TokenKind::MetricIdentifier,
            None => TokenKind::Identifier,
        };
        self.emit(kind);
        if self.series_desc && self.peek() != Some('{') { State::ValueSequence } else { State::Statements }
    }
}

fn keyword(word: &str) -> Option<TokenKind> {
    use TokenKind::{Aggregator, Keyword as Key, Operator as Op, Preprocessor as Pre};
    Some(match word.to_ascii_lowercase().as_str() {
        "and" => Op(Operator::And),
        "or" => Op(Operator::Or),
        "unless" => Op(Operator::Unless),
        "atan2" => Op(Operator::Atan2),
        "sum" => Aggregator(AggregateOp::Sum),
        "avg" => Aggregator(AggregateOp::Avg),
        "count" => Aggregator(AggregateOp::Count),
        "min" => Aggregator(AggregateOp::Min),
        "max" => Aggregator(AggregateOp::Max),
        "group" => Aggregator(AggregateOp::Group),
        "stddev" => Aggregator(AggregateOp::Stddev),
        "stdvar" => Aggregator(AggregateOp::Stdvar),
        "topk" => Aggregator(AggregateOp::Topk),
        "bottomk" => Aggregator(AggregateOp::Bottomk),
        "count_values" => Aggregator(AggregateOp::CountValues),
        "quantile" => Aggregator(AggregateOp::Quantile),
        "limitk" => Aggregator(AggregateOp::Limitk),
        "limit_ratio" => Aggregator(AggregateOp::LimitRatio),
        "offset" => Key(Keyword::Offset),
        "smoothed" => Key(Keyword::Smoothed),
        "anchored" => Key(Keyword::Anchored),
        "by" => Key(Keyword::By),
        "without" => Key(Keyword::Without),
        "on" => Key(Keyword::On),
        "ignoring" => Key(Keyword::Ignoring),
        "group_left" => Key(Keyword::GroupLeft),
        "group_right" => Key(Keyword::GroupRight),
        "fill" => Key(Keyword::Fill),
        "fill_left" => Key(Keyword::FillLeft),
        "fill_right" => Key(Keyword::FillRight),
        "bool" => Key(Keyword::Bool),
        "start" => Pre(Preprocessor::Start),
        "end" => Pre(Preprocessor::End),
        "step" => Pre(Preprocessor::Step),
        "range" => Pre(Preprocessor::Range),
        "max_of" => Pre(Preprocessor::MaxOf),
        "min_of" => Pre(Preprocessor::MinOf),
        "inf" | "nan" => TokenKind::Number,
        _ => return None,
    })
}

/// The token in the words of an error message.
pub(super) fn describe(kind: TokenKind, text: &str) -> String {
    let quoted = || {
        if text.len() > 10 {
            let cut: String = text.chars().take(10).collect();
            format!("{}...", quote(&cut))
        } else {
            quote(text)
        }
    };
    match kind {
        TokenKind::Eof => "end of input".to_owned(),
        TokenKind::Identifier => format!("identifier {}", quote(text)),
        TokenKind::MetricIdentifier => format!("metric identifier {}", quote(text)),
        TokenKind::String => format!("string {}", quoted()),
        TokenKind::Number => format!("number {}", quoted()),
        TokenKind::Duration => format!("duration {}", quoted()),
        TokenKind::Keyword(_) => format!("<{text}>"),
        TokenKind::Operator(_) => format!("<op:{text}>"),
        TokenKind::Aggregator(_) => format!("<aggr:{text}>"),
        _ => quoted(),
    }
}

/// The bytes that a string token stands for: quotes off, escapes resolved. `None` if the token is no string.
pub(crate) fn unquote(token: &str) -> Option<Vec<u8>> {
    let quote = token.chars().next()?;
    let inner = token.strip_prefix(quote)?.strip_suffix(quote)?;
    if quote == '`' {
        return Some(inner.as_bytes().to_vec());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    let number = |first: Option<char>, chars: &mut std::str::Chars<'_>, n_digits: u32, radix: u32| {
        let mut value = first.map_or(Some(0), |c| c.to_digit(radix))?;
        for _ in 0..n_digits {
            value = value.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?)?;
        }
        Some(value)
    };
    while let Some(c) = chars.next() {
        let c = if c == '\\' {
            chars.next()?
        } else {
            push_char(&mut bytes, c);
            continue;
        };
        match c {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            '0'..='7' => bytes.push(u8::try_from(number(Some(c), &mut chars, 2, 8)?).ok()?),
            'x' => bytes.push(u8::try_from(number(None, &mut chars, 2, 16)?).ok()?),
            'u' => push_char(&mut bytes, char::from_u32(number(None, &mut chars, 4, 16)?)?),
            'U' => push_char(&mut bytes, char::from_u32(number(None, &mut chars, 8, 16)?)?),
            '\\' | '"' | '\'' => push_char(&mut bytes, c),
            _ => return None,
        }
    }
    Some(bytes)
}

fn push_char(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Text in double quotes with Go's escapes (`%q`).
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    write_quoted(&mut quoted, text).expect("writing to a string cannot fail");
    quoted
}

/// A character in single quotes as Go's `%q`; the end of the text is shown as the replacement character.
fn quote_char(c: Option<char>) -> String {
    match c.unwrap_or(char::REPLACEMENT_CHARACTER) {
        '\'' => "'\\''".to_owned(),
        '"' => "'\"'".to_owned(),
        c => {
            let quoted = quote(c.encode_utf8(&mut [0; 4]));
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

/// A character as Go's `%#U`.
fn unicode_name(c: char) -> String {
    if is_go_printable(c) { format!("U+{:04X} '{c}'", c as u32) } else { format!("U+{:04X}", c as u32) }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}
