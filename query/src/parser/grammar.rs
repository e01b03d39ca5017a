//! Tokens to syntax tree: a recursive-descent parser with operator precedences.
//!
//! Only the first error is reported, with the words and the place that Prometheus's generated parser gives it.
//! That parser explains an unexpected token by the innermost construct with an error rule; here
//! [`Parser::contexts`] is the stack of those constructs.
//!
//! Source: Prometheus v3.14, `promql/parser/generated_parser.y` and `parse.go`.

use super::ast::*;
use super::lexer::{self, Keyword, Lexer, Operator, Preprocessor, Token, TokenKind, unquote};
use super::signatures::Signature;
use super::{MAX_NESTING, MAX_NODES, MAX_TEXT_BYTES, ParseError, ParserOptions};
use crate::functions::math::go_i64;
use crate::go_format;
use chronolith_model::duration::parse_duration;
use chronolith_model::{METRIC_NAME, MatchOp, Matcher};

/// How tightly the operators bind; all but the last are left-associative.
mod precedence {
    pub const LOWEST: u8 = 1;
    pub const OR: u8 = 1;
    pub const AND: u8 = 2;
    pub const COMPARISON: u8 = 3;
    pub const SUM: u8 = 4;
    pub const PRODUCT: u8 = 5;
    pub const POWER: u8 = 6;
}

/// In which construct an unexpected token was met, and what would have been right there.
pub(super) type Context = (&'static str, &'static str);

pub(super) const NO_CONTEXT: Context = ("", "");
const AGGREGATION: Context = ("aggregation", "");
const OFFSET: Context = ("offset", "number, duration, step(), or range()");
const AT: Context = ("@", "timestamp");
const RANGE: Context = ("subquery or range selector", "number, duration, step(), or range()");
const STEP: Context = ("subquery selector", "number, duration, step(), range(), or \"]\"");

// Errors are boxed here: brackets nest through these functions 500 levels deep, and large results would make
// large frames.

/// Labels of `by` or `without`, whether it is `without`, and the span of the last parenthesis.
type Modifier = (Vec<String>, bool, Span);

/// A tree and how deeply it is nested; links of a chain of operators to the left do not count.
type Parsed = (Expr, u32);

pub(super) struct Parser<'t> {
    pub text: &'t str,
    lexer: Lexer<'t>,
    ahead: Option<Token>,
    last: Span,
    options: ParserOptions,
    contexts: Vec<Context>,
    n_open: u32,
    n_nodes: u32,
}

impl<'t> Parser<'t> {
    /// A parser of an expression or a series description.
    ///
    /// # Errors
    /// [`ParseError`] if the text is too long.
    pub fn new(text: &'t str, options: ParserOptions, series_desc: bool) -> Result<Self, Box<ParseError>> {
        if text.len() > MAX_TEXT_BYTES {
            let message = format!("query text has {} bytes, the limit is {MAX_TEXT_BYTES}", text.len());
            return Err(Box::new(ParseError::new("", Span::default(), message)));
        }
        Ok(Self {
            text,
            lexer: Lexer::new(text, series_desc),
            ahead: None,
            last: Span::default(),
            options,
            contexts: Vec::new(),
            n_open: 0,
            n_nodes: 0,
        })
    }

    /// The whole text as an expression, types not yet checked.
    pub fn whole_expression(mut self) -> Result<Expr, Box<ParseError>> {
        if self.peek()?.kind == TokenKind::Eof {
            return self.fail(Span::default(), "no expression found in input");
        }
        let (expr, _) = self.expression(precedence::LOWEST)?;
        self.end()?;
        Ok(expr)
    }

    /// The whole text as one selector without modifiers.
    pub fn whole_selector(mut self) -> Result<Vec<Matcher>, Box<ParseError>> {
        let token = self.peek()?;
        let expr = if token.kind == TokenKind::LeftBrace {
            self.selector(None)?
        } else if is_metric_identifier(token.kind) {
            self.bump()?;
            self.selector(Some(token))?
        } else {
            return self.unexpected(NO_CONTEXT);
        };
        self.end()?;
        match expr.kind {
            ExprKind::Vector(selector) => Ok(selector.matchers),
            _ => unreachable!("selector() gives a vector selector"),
        }
    }

    pub fn end(&mut self) -> Result<(), Box<ParseError>> {
        match self.peek()?.kind {
            TokenKind::Eof => Ok(()),
            _ => self.unexpected(NO_CONTEXT),
        }
    }

    pub fn fail<T>(&self, span: Span, message: impl Into<String>) -> Result<T, Box<ParseError>> {
        Err(Box::new(ParseError::new(self.text, span, message)))
    }

    /// The next token. It is read no earlier than needed: mistakes in what was read before are reported before
    /// characters that make no token.
    pub fn peek(&mut self) -> Result<Token, Box<ParseError>> {
        if let Some(token) = self.ahead {
            return Ok(token);
        }
        let token = self.lexer.next_token().map_err(|error| {
            let span = Span { start: error.start, end: u32::try_from(self.text.len()).unwrap_or(u32::MAX) };
            Box::new(ParseError::new(self.text, span, error.message))
        })?;
        self.ahead = Some(token);
        Ok(token)
    }

    pub fn bump(&mut self) -> Result<Token, Box<ParseError>> {
        let token = self.peek()?;
        self.ahead = None;
        self.last = token.span;
        Ok(token)
    }

    /// Where the token stands that was consumed last.
    pub fn last(&self) -> Span {
        self.last
    }

    pub fn text_of(&self, token: Token) -> &'t str {
        self.lexer.text_of(token)
    }

    /// The next token is wrong, in the words of `context`.
    pub fn unexpected<T>(&mut self, context: Context) -> Result<T, Box<ParseError>> {
        let token = self.peek()?;
        let mut message = format!("unexpected {}", lexer::describe(token.kind, self.text_of(token)));
        let (place, expected) = context;
        if !place.is_empty() {
            message.push_str(" in ");
            message.push_str(place);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        self.fail(token.span, message)
    }

    /// The next token is wrong, in the words of the innermost construct that has any.
    fn unexpected_here<T>(&mut self) -> Result<T, Box<ParseError>> {
        let context = self.contexts.last().copied().unwrap_or(NO_CONTEXT);
        self.unexpected(context)
    }

    pub fn accept(&mut self, kind: TokenKind) -> Result<Option<Token>, Box<ParseError>> {
        if self.peek()?.kind == kind { self.bump().map(Some) } else { Ok(None) }
    }

    fn expect_here(&mut self, kind: TokenKind) -> Result<Token, Box<ParseError>> {
        match self.accept(kind)? {
            Some(token) => Ok(token),
            None => self.unexpected_here(),
        }
    }

    fn within<T>(
        &mut self,
        context: Context,
        parse: impl FnOnce(&mut Self) -> Result<T, Box<ParseError>>,
    ) -> Result<T, Box<ParseError>> {
        self.contexts.push(context);
        let parsed = parse(self);
        self.contexts.pop();
        parsed
    }

    /// Levels are those of the tree, or of calls here while it grows.
    fn check_nesting(&self, span: Span, depth: u32) -> Result<(), Box<ParseError>> {
        if depth < MAX_NESTING {
            return Ok(());
        }
        self.fail(span, format!("expression is nested more than {MAX_NESTING} levels deep"))
    }

    fn node(&mut self, span: Span, kind: ExprKind) -> Result<Expr, Box<ParseError>> {
        self.count_node(span)?;
        Ok(Expr { span, kind })
    }

    fn count_node(&mut self, span: Span) -> Result<(), Box<ParseError>> {
        self.n_nodes += 1;
        if self.n_nodes > MAX_NODES {
            return self.fail(span, format!("expression has more than {MAX_NODES} parts"));
        }
        Ok(())
    }

    fn expression(&mut self, min_precedence: u8) -> Result<Parsed, Box<ParseError>> {
        let span = self.peek()?.span;
        self.check_nesting(span, self.n_open)?;
        self.n_open += 1;
        let mut lhs = self.operand()?;
        while let Some((op, op_precedence)) = binary_operator(self.peek()?.kind) {
            if op_precedence < min_precedence {
                break;
            }
            self.bump()?;
            lhs = self.binary_rest(lhs, op, op_precedence)?;
        }
        self.n_open -= 1;
        Ok(lhs)
    }

    /// What follows the operator of a binary operation.
    fn binary_rest(
        &mut self,
        (lhs, lhs_depth): Parsed,
        op: BinaryOp,
        op_precedence: u8,
    ) -> Result<Parsed, Box<ParseError>> {
        let (matching, return_bool) = self.binary_modifiers()?;
        let right_associative = op_precedence == precedence::POWER;
        let (rhs, rhs_depth) =
            self.expression(if right_associative { op_precedence } else { op_precedence + 1 })?;
        let span = lhs.span.to(rhs.span);
        if !self.options.fill_modifiers && (matching.fill_lhs.is_some() || matching.fill_rhs.is_some()) {
            return self.fail(span, "binop fill modifiers are experimental and not enabled");
        }
        let depth = lhs_depth.max(rhs_depth + 1);
        self.check_nesting(span, depth)?;
        let binary = Binary { op, lhs, rhs, matching: Some(matching), return_bool };
        Ok((self.node(span, ExprKind::Binary(Box::new(binary)))?, depth))
    }

    fn binary_modifiers(&mut self) -> Result<(VectorMatching, bool), Box<ParseError>> {
        let mut matching = VectorMatching::default();
        let return_bool = self.accept(TokenKind::Keyword(Keyword::Bool))?.is_some();
        if let TokenKind::Keyword(keyword @ (Keyword::On | Keyword::Ignoring)) = self.peek()?.kind {
            self.bump()?;
            matching.on = keyword == Keyword::On;
            matching.labels = self.grouping_labels()?;
            if let TokenKind::Keyword(keyword @ (Keyword::GroupLeft | Keyword::GroupRight)) =
                self.peek()?.kind
            {
                self.bump()?;
                matching.cardinality = match keyword {
                    Keyword::GroupLeft => Cardinality::ManyToOne,
                    _ => Cardinality::OneToMany,
                };
                let next = self.peek()?.kind;
                let fill = matches!(
                    next,
                    TokenKind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight)
                );
                if next == TokenKind::LeftParen || !fill && !starts_expression(next) {
                    matching.include = self.grouping_labels()?;
                }
            }
        }
        match self.peek()?.kind {
            TokenKind::Keyword(Keyword::Fill) => {
                self.bump()?;
                matching.fill_lhs = Some(self.fill_value()?);
                matching.fill_rhs = matching.fill_lhs;
            }
            TokenKind::Keyword(first @ (Keyword::FillLeft | Keyword::FillRight)) => {
                self.bump()?;
                let value = Some(self.fill_value()?);
                let second = if first == Keyword::FillLeft { Keyword::FillRight } else { Keyword::FillLeft };
                let other = match self.accept(TokenKind::Keyword(second))? {
                    Some(_) => Some(self.fill_value()?),
                    None => None,
                };
                (matching.fill_lhs, matching.fill_rhs) =
                    if first == Keyword::FillLeft { (value, other) } else { (other, value) };
            }
            _ => {}
        }
        Ok((matching, return_bool))
    }

    fn fill_value(&mut self) -> Result<f64, Box<ParseError>> {
        self.expect_here(TokenKind::LeftParen)?;
        let value = match self.signed_number()? {
            Some((value, _)) => value,
            None => return self.unexpected_here(),
        };
        self.expect_here(TokenKind::RightParen)?;
        Ok(value)
    }

    /// A number or duration with an optional sign, in seconds, and the span of the number; `None` if something
    /// else stands there (a sign has been read then).
    pub fn signed_number(&mut self) -> Result<Option<(f64, Span)>, Box<ParseError>> {
        let sign = match self.peek()?.kind {
            TokenKind::Operator(Operator::Add) => 1.0,
            TokenKind::Operator(Operator::Sub) => -1.0,
            _ => 0.0,
        };
        if sign != 0.0 {
            self.bump()?;
        }
        let Some((literal, span)) = self.number_literal()? else { return Ok(None) };
        Ok(Some((if sign < 0.0 { -literal.value } else { literal.value }, span)))
    }

    pub fn number_literal(&mut self) -> Result<Option<(NumberLiteral, Span)>, Box<ParseError>> {
        let token = self.peek()?;
        let text = self.text_of(token);
        let literal = match token.kind {
            TokenKind::Number => {
                self.bump()?;
                match go_format::parse_number(text) {
                    Ok(value) => NumberLiteral { value, is_duration: false },
                    Err(error) => return self.fail(token.span, format!("error parsing number: {error}")),
                }
            }
            TokenKind::Duration => {
                self.bump()?;
                match parse_duration(text) {
                    Ok(ms) => NumberLiteral { value: ms as f64 / 1000.0, is_duration: true },
                    Err(error) => return self.fail(token.span, error.to_string()),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some((literal, token.span)))
    }

    /// `(a, b)` behind `by`, `without`, `on`, `ignoring` or `group_*`.
    fn grouping_labels(&mut self) -> Result<Vec<String>, Box<ParseError>> {
        const LABEL: Context = ("grouping opts", "label");
        if self.accept(TokenKind::LeftParen)?.is_none() {
            return self.unexpected(("grouping opts", "\"(\""));
        }
        let mut labels = Vec::new();
        loop {
            if self.accept(TokenKind::RightParen)?.is_some() {
                return Ok(labels);
            }
            let token = self.peek()?;
            let name = match token.kind {
                TokenKind::String => self.unquoted(token)?,
                kind if is_label_name(kind) => self.text_of(token).as_bytes().to_vec(),
                _ => return self.unexpected(LABEL),
            };
            self.bump()?;
            match String::from_utf8(name) {
                Ok(name) if !name.is_empty() => labels.push(name),
                Ok(_) => return self.fail(token.span, "invalid label name for grouping: \"\""),
                Err(error) => {
                    let name = go_format::quote_bytes(error.as_bytes());
                    return self.fail(token.span, format!("invalid label name for grouping: {name}"));
                }
            }
            if self.accept(TokenKind::Comma)?.is_some() {
                continue;
            }
            if self.peek()?.kind != TokenKind::RightParen {
                return self.unexpected(("grouping opts", "\",\" or \")\""));
            }
        }
    }

    pub fn unquoted(&self, token: Token) -> Result<Vec<u8>, Box<ParseError>> {
        let text = self.text_of(token);
        match unquote(text) {
            Some(bytes) => Ok(bytes),
            None => self
                .fail(token.span, format!("error unquoting string {}: invalid syntax", lexer::quote(text))),
        }
    }

    /// A string of a series description. Names and values of labels are UTF-8.
    pub fn unquoted_text(&self, token: Token) -> Result<String, Box<ParseError>> {
        Ok(String::from_utf8_lossy(&self.unquoted(token)?).into_owned())
    }

    /// A primary expression with its sign or its modifiers.
    ///
    /// This and what it calls are kept small, since brackets nest through here 500 levels deep.
    fn operand(&mut self) -> Result<Parsed, Box<ParseError>> {
        if let TokenKind::Operator(Operator::Add | Operator::Sub) = self.peek()?.kind {
            return self.unary();
        }
        let primary = self.primary()?;
        self.modifiers(primary)
    }

    fn primary(&mut self) -> Result<Parsed, Box<ParseError>> {
        let token = self.peek()?;
        match token.kind {
            TokenKind::LeftParen => self.parenthesized(),
            TokenKind::Number | TokenKind::Duration | TokenKind::String => self.literal(token),
            TokenKind::LeftBrace => self.leaf(None),
            TokenKind::Aggregator(op) => {
                self.bump()?;
                match self.peek()?.kind {
                    TokenKind::LeftParen | TokenKind::Keyword(Keyword::By | Keyword::Without) => {
                        self.aggregation(token, op)
                    }
                    _ => self.leaf(Some(token)),
                }
            }
            TokenKind::Identifier | TokenKind::Preprocessor(_) => {
                self.bump()?;
                match self.peek()?.kind {
                    TokenKind::LeftParen => self.call(token),
                    _ => self.leaf(Some(token)),
                }
            }
            kind if is_metric_identifier(kind) => {
                self.bump()?;
                self.leaf(Some(token))
            }
            _ => self.unexpected_here(),
        }
    }

    fn parenthesized(&mut self) -> Result<Parsed, Box<ParseError>> {
        let open = self.bump()?;
        let (inner, depth) = self.expression(precedence::LOWEST)?;
        let close = self.expect_here(TokenKind::RightParen)?;
        Ok((self.node(open.span.to(close.span), ExprKind::Paren(Box::new(inner)))?, depth + 1))
    }

    fn literal(&mut self, token: Token) -> Result<Parsed, Box<ParseError>> {
        let kind = match self.number_literal()? {
            Some((literal, _)) => ExprKind::Number(literal),
            None => {
                self.bump()?;
                ExprKind::String(self.unquoted(token)?)
            }
        };
        Ok((self.node(token.span, kind)?, 1))
    }

    fn leaf(&mut self, name: Option<Token>) -> Result<Parsed, Box<ParseError>> {
        Ok((self.selector(name)?, 1))
    }

    fn unary(&mut self) -> Result<Parsed, Box<ParseError>> {
        let sign = self.bump()?;
        let negate = sign.kind == TokenKind::Operator(Operator::Sub);
        // Binds as a product does, so only powers belong to the operand.
        let (operand, depth) = self.expression(precedence::POWER)?;
        let span = sign.span.to(operand.span);
        if let ExprKind::Number(literal) = operand.kind {
            let value = if negate { -literal.value } else { literal.value };
            return Ok((Expr { span, kind: ExprKind::Number(NumberLiteral { value, ..literal }) }, depth));
        }
        let unary = Unary { negate, expr: operand };
        Ok((self.node(span, ExprKind::Unary(Box::new(unary)))?, depth + 1))
    }

    fn aggregation(&mut self, name: Token, op: AggregateOp) -> Result<Parsed, Box<ParseError>> {
        let (args, mut depth, grouping, without, end) = self.within(AGGREGATION, |parser| {
            let mut modifier = parser.aggregation_modifier()?;
            let (args, depth, mut end) = parser.arguments()?;
            if modifier.is_none() {
                modifier = parser.aggregation_modifier()?;
                end = modifier.as_ref().map_or(end, |(_, _, span)| *span);
            }
            let (grouping, without) =
                modifier.map_or((Vec::new(), false), |(grouping, without, _)| (grouping, without));
            Ok((args, depth, grouping, without, end))
        })?;
        let span = name.span.to(end);
        if args.is_empty() {
            return self.fail(span, "no arguments for aggregate expression provided");
        }
        if op.is_experimental() && !self.options.experimental_functions {
            return self.fail(
                span,
                format!(
                    "{}() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
                    op.as_str()
                ),
            );
        }
        let n_wanted = 1 + usize::from(op.takes_parameter());
        if args.len() != n_wanted {
            return self.fail(
                span,
                format!(
                    "wrong number of arguments for aggregate expression provided, expected {n_wanted}, got {}",
                    args.len()
                ),
            );
        }
        depth += 1;
        let mut args = args.into_iter().rev();
        let expr = args.next().expect("there is at least one argument");
        let aggregate = Aggregate { op, expr, param: args.next(), grouping, without };
        Ok((self.node(span, ExprKind::Aggregate(Box::new(aggregate)))?, depth))
    }

    /// `by (...)` or `without (...)` if it is there, and the span of its last parenthesis.
    fn aggregation_modifier(&mut self) -> Result<Option<Modifier>, Box<ParseError>> {
        let without = match self.peek()?.kind {
            TokenKind::Keyword(Keyword::By) => false,
            TokenKind::Keyword(Keyword::Without) => true,
            _ => return Ok(None),
        };
        self.bump()?;
        let labels = self.grouping_labels()?;
        Ok(Some((labels, without, self.last)))
    }

    fn call(&mut self, name: Token) -> Result<Parsed, Box<ParseError>> {
        let (args, depth, end) = self.arguments()?;
        let function_name = self.text_of(name);
        let Some(function) = Signature::find(function_name) else {
            return self
                .fail(name.span, format!("unknown function with name {}", lexer::quote(function_name)));
        };
        if function.experimental && !self.options.experimental_functions {
            return self.fail(name.span, format!("function {} is not enabled", lexer::quote(function_name)));
        }
        let span = name.span.to(end);
        Ok((self.node(span, ExprKind::Call(Box::new(Call { function, args })))?, depth + 1))
    }

    /// `(a, b)`, how deep the deepest argument is, and the span of the closing parenthesis.
    fn arguments(&mut self) -> Result<(Vec<Expr>, u32, Span), Box<ParseError>> {
        self.expect_here(TokenKind::LeftParen)?;
        let (mut args, mut deepest) = (Vec::new(), 0);
        if let Some(close) = self.accept(TokenKind::RightParen)? {
            return Ok((args, deepest, close.span));
        }
        loop {
            let (arg, depth) = self.expression(precedence::LOWEST)?;
            args.push(arg);
            deepest = deepest.max(depth);
            if let Some(comma) = self.accept(TokenKind::Comma)? {
                if !starts_expression(self.peek()?.kind) {
                    return self.fail(comma.span, "trailing commas not allowed in function call args");
                }
                continue;
            }
            let close = self.expect_here(TokenKind::RightParen)?;
            return Ok((args, deepest, close.span));
        }
    }

    /// A selector with its name read already, if it has one outside the braces.
    fn selector(&mut self, name: Option<Token>) -> Result<Expr, Box<ParseError>> {
        let mut span = name.map(|token| token.span);
        let mut selector = VectorSelector {
            name: name.map_or_else(String::new, |token| self.text_of(token).to_owned()),
            matchers: Vec::new(),
            offset: Extent::default(),
            at: At::None,
            anchored: false,
            smoothed: false,
        };
        if let Some(open) = self.accept(TokenKind::LeftBrace)? {
            let close = self.matchers(&mut selector.matchers)?;
            span = Some(span.unwrap_or(open.span).to(close));
        }
        if name.is_some() {
            selector.matchers.push(Matcher::equal(METRIC_NAME, selector.name.as_str()));
        }
        let span = span.expect("a selector has a name or braces");
        self.node(span, ExprKind::Vector(Box::new(selector)))
    }

    /// The inside of the braces up to the closing one, whose span is returned.
    fn matchers(&mut self, matchers: &mut Vec<Matcher>) -> Result<Span, Box<ParseError>> {
        loop {
            if let Some(close) = self.accept(TokenKind::RightBrace)? {
                return Ok(close.span);
            }
            let name = self.peek()?;
            let matcher = match name.kind {
                TokenKind::Identifier => {
                    self.bump()?;
                    let Some(op) = self.match_operator()? else {
                        return self.unexpected(("label matching", "label matching operator"));
                    };
                    self.matcher(name, self.text_of(name).to_owned(), op)?
                }
                TokenKind::String => {
                    self.bump()?;
                    let label = self.unquoted(name)?;
                    match self.match_operator()? {
                        Some(op) => self.matcher(name, String::from_utf8_lossy(&label).into_owned(), op)?,
                        None => Matcher::from_bytes(MatchOp::Equal, METRIC_NAME, label)
                            .expect("there is no pattern to compile"),
                    }
                }
                _ => return self.unexpected(("label matching", "identifier or \"}\"")),
            };
            matchers.push(matcher);
            self.count_node(name.span)?;
            if self.accept(TokenKind::Comma)?.is_none() && self.peek()?.kind != TokenKind::RightBrace {
                return self.unexpected(("label matching", "\",\" or \"}\""));
            }
        }
    }

    fn match_operator(&mut self) -> Result<Option<MatchOp>, Box<ParseError>> {
        let op = match self.peek()?.kind {
            TokenKind::Eql => MatchOp::Equal,
            TokenKind::Operator(Operator::Neq) => MatchOp::NotEqual,
            TokenKind::Operator(Operator::EqlRegex) => MatchOp::Regex,
            TokenKind::Operator(Operator::NeqRegex) => MatchOp::NotRegex,
            _ => return Ok(None),
        };
        self.bump()?;
        Ok(Some(op))
    }

    fn matcher(&mut self, name: Token, label: String, op: MatchOp) -> Result<Matcher, Box<ParseError>> {
        let Some(value) = self.accept(TokenKind::String)? else {
            return self.unexpected(("label matching", "string"));
        };
        match Matcher::from_bytes(op, label, self.unquoted(value)?) {
            Ok(matcher) => Ok(matcher),
            Err(error) => self.fail(name.span.to(value.span), error.to_string()),
        }
    }

    /// Ranges, offsets and the like behind a primary expression.
    fn modifiers(&mut self, (mut expr, mut depth): Parsed) -> Result<Parsed, Box<ParseError>> {
        loop {
            match self.peek()?.kind {
                TokenKind::LeftBracket => {
                    expr = self.brackets(expr)?;
                    depth += 1;
                    self.check_nesting(expr.span, depth)?;
                }
                TokenKind::Keyword(Keyword::Offset) => {
                    self.bump()?;
                    let offset = self.within(OFFSET, Self::offset_duration)?;
                    self.set_offset(&mut expr, offset)?;
                }
                TokenKind::Keyword(keyword @ (Keyword::Anchored | Keyword::Smoothed)) => {
                    self.bump()?;
                    self.set_extended(&mut expr, keyword)?;
                }
                TokenKind::Operator(Operator::At) => {
                    self.bump()?;
                    self.within(AT, |parser| parser.at(&mut expr))?;
                }
                _ => return Ok((expr, depth)),
            }
        }
    }

    fn brackets(&mut self, expr: Expr) -> Result<Expr, Box<ParseError>> {
        let open = self.bump()?;
        let range = self.within(RANGE, Self::positive_duration)?;
        if let Some(close) = self.accept(TokenKind::RightBracket)? {
            return self.range_selector(expr, open, range, close);
        }
        if self.accept(TokenKind::Colon)?.is_none() {
            return self.unexpected(("subquery or range", "\":\" or \"]\""));
        }
        let (step, close) = match self.accept(TokenKind::RightBracket)? {
            Some(close) => (Extent::default(), close),
            None => {
                let step = self.within(STEP, Self::positive_duration)?;
                match self.accept(TokenKind::RightBracket)? {
                    Some(close) => (extent(step), close),
                    None => return self.unexpected(("subquery selector", "\"]\"")),
                }
            }
        };
        let span = expr.span.to(close.span);
        let subquery = Subquery { expr, range: extent(range), step, offset: Extent::default(), at: At::None };
        self.node(span, ExprKind::Subquery(Box::new(subquery)))
    }

    fn range_selector(
        &mut self,
        expr: Expr,
        open: Token,
        range: DurationExpr,
        close: Token,
    ) -> Result<Expr, Box<ParseError>> {
        let brackets = open.span.to(close.span);
        let ExprKind::Vector(selector) = expr.kind else {
            return self.fail(brackets, "ranges only allowed for vector selectors");
        };
        if !selector.offset.is_none() {
            return self.fail(brackets, "no offset modifiers allowed before range");
        }
        if selector.at != At::None {
            return self.fail(brackets, "no @ modifiers allowed before range");
        }
        let matrix = MatrixSelector { selector: *selector, selector_span: expr.span, range: extent(range) };
        self.node(expr.span.to(close.span), ExprKind::Matrix(Box::new(matrix)))
    }

    fn set_offset(&mut self, expr: &mut Expr, offset: DurationExpr) -> Result<(), Box<ParseError>> {
        let target = match &mut expr.kind {
            ExprKind::Vector(selector) => &mut selector.offset,
            ExprKind::Matrix(matrix) => &mut matrix.selector.offset,
            ExprKind::Subquery(subquery) => &mut subquery.offset,
            _ => {
                return self.fail(
                    expr.span,
                    "offset modifier must be preceded by an instant vector selector or range vector selector \
                     or a subquery",
                );
            }
        };
        if !target.is_none() {
            return self.fail(expr.span, "offset may not be set multiple times");
        }
        *target = extent(offset);
        expr.span.end = self.last.end;
        Ok(())
    }

    fn set_extended(&mut self, expr: &mut Expr, keyword: Keyword) -> Result<(), Box<ParseError>> {
        let name = if keyword == Keyword::Anchored { "anchored" } else { "smoothed" };
        if !self.options.extended_range_selectors {
            return self.fail(expr.span, format!("{name} modifier is experimental and not enabled"));
        }
        let selector = match &mut expr.kind {
            ExprKind::Vector(selector) => &mut **selector,
            ExprKind::Matrix(matrix) => &mut matrix.selector,
            ExprKind::Subquery(_) => {
                return self.fail(expr.span, format!("{name} modifier is not supported for subqueries"));
            }
            _ => return self.fail(expr.span, format!("{name} modifier not implemented")),
        };
        match keyword {
            Keyword::Anchored => selector.anchored = true,
            _ => selector.smoothed = true,
        }
        if selector.anchored && selector.smoothed {
            return self.fail(expr.span, "anchored and smoothed modifiers cannot be used together");
        }
        Ok(())
    }

    /// What follows `@`.
    fn at(&mut self, expr: &mut Expr) -> Result<(), Box<ParseError>> {
        let (at, end) = match self.peek()?.kind {
            TokenKind::Preprocessor(preprocessor @ (Preprocessor::Start | Preprocessor::End)) => {
                self.bump()?;
                self.expect_here(TokenKind::LeftParen)?;
                let close = self.expect_here(TokenKind::RightParen)?;
                let at = if preprocessor == Preprocessor::Start { At::Start } else { At::End };
                (at, close.span)
            }
            _ => {
                let Some((seconds, span)) = self.signed_number()? else {
                    return self.unexpected_here();
                };
                // 2^63 is the first float above the largest integer; NaN is in no range.
                let bound = 2f64.powi(63);
                if !(-bound < seconds && seconds < bound) {
                    return self.fail(
                        expr.span,
                        format!(
                            "timestamp out of bounds for @ modifier: {}",
                            go_format::format_fixed(seconds, 6)
                        ),
                    );
                }
                (At::Time((seconds * 1000.0).round() as i64), span)
            }
        };
        let target = match &mut expr.kind {
            ExprKind::Vector(selector) => &mut selector.at,
            ExprKind::Matrix(matrix) => &mut matrix.selector.at,
            ExprKind::Subquery(subquery) => &mut subquery.at,
            _ => {
                return self.fail(
                    expr.span,
                    "@ modifier must be preceded by an instant vector selector or range vector selector or a \
                     subquery",
                );
            }
        };
        if *target != At::None {
            return self.fail(expr.span, "@ <timestamp> may not be set multiple times");
        }
        *target = at;
        expr.span.end = end.end;
        Ok(())
    }

    fn positive_duration(&mut self) -> Result<DurationExpr, Box<ParseError>> {
        let duration = self.duration(precedence::LOWEST)?;
        match duration.kind {
            DurationKind::Number(literal) if literal.value <= 0.0 => {
                self.fail(duration.span, "duration must be greater than 0")
            }
            _ => Ok(duration),
        }
    }

    /// The duration behind `offset`. A single number, also with a sign, ends there: `a offset -2 ^ 2` is
    /// `(a offset -2) ^ 2`. So does a call; but parentheses may be followed by operators.
    fn offset_duration(&mut self) -> Result<DurationExpr, Box<ParseError>> {
        let first = self.peek()?;
        let TokenKind::Operator(Operator::Add | Operator::Sub) = first.kind else {
            return match first.kind {
                TokenKind::LeftParen => self.duration(precedence::LOWEST),
                _ => self.duration_operand(),
            };
        };
        self.bump()?;
        match self.peek()?.kind {
            TokenKind::Operator(Operator::Add | Operator::Sub) => {
                let operand = self.duration(precedence::POWER)?;
                let signed = self.signed_duration(first, operand, false)?;
                self.duration_operators(signed, precedence::LOWEST)
            }
            TokenKind::LeftParen => {
                self.bump()?;
                let operand = self.duration(precedence::LOWEST)?;
                self.expect_here(TokenKind::RightParen)?;
                self.signed_duration(first, operand, true)
            }
            TokenKind::Number | TokenKind::Duration => {
                // Its range is looked at with the sign, and the sign is named as the place.
                let (literal, span) = self.number_literal()?.expect("the token is a number");
                let operand = DurationExpr { span, wrapped: false, kind: DurationKind::Number(literal) };
                self.signed_duration(first, operand, false)
            }
            _ => {
                let operand = self.duration_call()?;
                let span = first.span.to(self.last);
                self.check_duration_expressions(span)?;
                let kind = DurationKind::Unary {
                    negate: first.kind == TokenKind::Operator(Operator::Sub),
                    operand: Box::new(operand),
                };
                Ok(DurationExpr { span, wrapped: false, kind })
            }
        }
    }

    fn duration(&mut self, min_precedence: u8) -> Result<DurationExpr, Box<ParseError>> {
        let span = self.peek()?.span;
        self.check_nesting(span, self.n_open)?;
        self.n_open += 1;
        let operand = self.duration_operand()?;
        let duration = self.duration_operators(operand, min_precedence)?;
        self.n_open -= 1;
        Ok(duration)
    }

    fn duration_operators(
        &mut self,
        mut lhs: DurationExpr,
        min_precedence: u8,
    ) -> Result<DurationExpr, Box<ParseError>> {
        // Chains to the left nest the tree too, and here nobody needs long ones.
        let n_open = self.n_open;
        loop {
            let token = self.peek()?;
            let (op, op_precedence) = match token.kind {
                TokenKind::Operator(Operator::Add) => (DurationOp::Add, precedence::SUM),
                TokenKind::Operator(Operator::Sub) => (DurationOp::Sub, precedence::SUM),
                TokenKind::Operator(Operator::Mul) => (DurationOp::Mul, precedence::PRODUCT),
                TokenKind::Operator(Operator::Div) => (DurationOp::Div, precedence::PRODUCT),
                TokenKind::Operator(Operator::Mod) => (DurationOp::Mod, precedence::PRODUCT),
                TokenKind::Operator(Operator::Pow) => (DurationOp::Pow, precedence::POWER),
                _ => break,
            };
            if op_precedence < min_precedence {
                break;
            }
            self.bump()?;
            self.check_nesting(token.span, self.n_open)?;
            self.n_open += 1;
            let right_associative = op == DurationOp::Pow;
            let rhs = self.duration(if right_associative { op_precedence } else { op_precedence + 1 })?;
            self.check_duration_expressions(lhs.span)?;
            if matches!(rhs.kind, DurationKind::Number(literal) if literal.value == 0.0) {
                match op {
                    DurationOp::Div => return self.fail(token.span, "division by zero"),
                    DurationOp::Mod => return self.fail(token.span, "modulo by zero"),
                    _ => {}
                }
            }
            lhs = duration_binary(op, lhs, rhs);
        }
        self.n_open = n_open;
        Ok(lhs)
    }

    fn duration_operand(&mut self) -> Result<DurationExpr, Box<ParseError>> {
        let token = self.peek()?;
        self.count_node(token.span)?;
        match token.kind {
            TokenKind::Number | TokenKind::Duration => {
                let (literal, span) = self.number_literal()?.expect("the token is a number");
                self.check_duration_range(span, literal.value)?;
                Ok(DurationExpr { span, wrapped: false, kind: DurationKind::Number(literal) })
            }
            TokenKind::Operator(Operator::Add | Operator::Sub) => {
                self.bump()?;
                let operand = self.duration(precedence::POWER)?;
                self.signed_duration(token, operand, false)
            }
            TokenKind::LeftParen => {
                self.bump()?;
                let inner = self.duration(precedence::LOWEST)?;
                let close = self.expect_here(TokenKind::RightParen)?;
                self.check_duration_expressions(inner.span)?;
                Ok(wrap(inner, token.span.to(close.span)))
            }
            _ => {
                let call = self.duration_call()?;
                self.check_duration_expressions(call.span)?;
                Ok(call)
            }
        }
    }

    /// `step()`, `range()`, `min_of(a, b)` or `max_of(a, b)`.
    fn duration_call(&mut self) -> Result<DurationExpr, Box<ParseError>> {
        let token = self.peek()?;
        let TokenKind::Preprocessor(preprocessor) = token.kind else {
            return self.unexpected_here();
        };
        let op = match preprocessor {
            Preprocessor::Step | Preprocessor::Range => None,
            Preprocessor::MinOf => Some(DurationOp::MinOf),
            Preprocessor::MaxOf => Some(DurationOp::MaxOf),
            Preprocessor::Start | Preprocessor::End => return self.unexpected_here(),
        };
        self.bump()?;
        self.expect_here(TokenKind::LeftParen)?;
        let Some(op) = op else {
            let close = self.expect_here(TokenKind::RightParen)?;
            let kind = match preprocessor {
                Preprocessor::Step => DurationKind::Step,
                _ => DurationKind::Range,
            };
            return Ok(DurationExpr { span: token.span.to(close.span), wrapped: false, kind });
        };
        let lhs = self.duration(precedence::LOWEST)?;
        self.expect_here(TokenKind::Comma)?;
        let rhs = self.duration(precedence::LOWEST)?;
        self.expect_here(TokenKind::RightParen)?;
        Ok(duration_binary(op, lhs, rhs))
    }

    /// A sign before a duration. The sign of a number becomes part of it.
    fn signed_duration(
        &mut self,
        sign: Token,
        mut operand: DurationExpr,
        wrapped: bool,
    ) -> Result<DurationExpr, Box<ParseError>> {
        let negate = sign.kind == TokenKind::Operator(Operator::Sub);
        if wrapped {
            let span = operand.span;
            operand = wrap(operand, span);
        }
        match &mut operand.kind {
            DurationKind::Number(literal) => {
                if negate {
                    literal.value = -literal.value;
                }
                self.check_duration_range(sign.span, literal.value)?;
                operand.span.start = sign.span.start;
                Ok(operand)
            }
            _ if negate => {
                let span = sign.span.to(operand.span);
                let kind = DurationKind::Unary { negate, operand: Box::new(operand) };
                Ok(DurationExpr { span, wrapped: false, kind })
            }
            _ => Ok(operand),
        }
    }

    fn check_duration_expressions(&self, span: Span) -> Result<(), Box<ParseError>> {
        if self.options.duration_expressions {
            return Ok(());
        }
        self.fail(span, "experimental duration expression is not enabled")
    }

    /// Durations are counted in nanoseconds in 64 bits.
    fn check_duration_range(&self, span: Span, seconds: f64) -> Result<(), Box<ParseError>> {
        let bound = 2f64.powi(63) / 1e9;
        if seconds > bound || seconds < -bound {
            return self.fail(span, "duration out of range");
        }
        Ok(())
    }
}

/// Parentheses around a duration. A number has no room for the mark, so a plus that is not printed holds it.
fn wrap(mut inner: DurationExpr, span: Span) -> DurationExpr {
    if !matches!(inner.kind, DurationKind::Number(_)) {
        inner.wrapped = true;
        return inner;
    }
    let span = span.to(inner.span);
    let kind = DurationKind::Unary { negate: false, operand: Box::new(inner) };
    DurationExpr { span, wrapped: true, kind }
}

fn duration_binary(op: DurationOp, lhs: DurationExpr, rhs: DurationExpr) -> DurationExpr {
    let span = lhs.span.to(rhs.span);
    let kind = DurationKind::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs) };
    DurationExpr { span, wrapped: false, kind }
}

fn extent(duration: DurationExpr) -> Extent {
    match duration.kind {
        DurationKind::Number(literal) => Extent::Millis(go_i64((literal.value * 1e9).round()) / 1_000_000),
        _ => Extent::Expr(Box::new(duration)),
    }
}

fn binary_operator(kind: TokenKind) -> Option<(BinaryOp, u8)> {
    let TokenKind::Operator(operator) = kind else { return None };
    Some(match operator {
        Operator::Or => (BinaryOp::Or, precedence::OR),
        Operator::And => (BinaryOp::And, precedence::AND),
        Operator::Unless => (BinaryOp::Unless, precedence::AND),
        Operator::Eqlc => (BinaryOp::Eql, precedence::COMPARISON),
        Operator::Neq => (BinaryOp::Neq, precedence::COMPARISON),
        Operator::Lss => (BinaryOp::Lss, precedence::COMPARISON),
        Operator::Lte => (BinaryOp::Lte, precedence::COMPARISON),
        Operator::Gtr => (BinaryOp::Gtr, precedence::COMPARISON),
        Operator::Gte => (BinaryOp::Gte, precedence::COMPARISON),
        Operator::TrimUpper => (BinaryOp::TrimUpper, precedence::COMPARISON),
        Operator::TrimLower => (BinaryOp::TrimLower, precedence::COMPARISON),
        Operator::Add => (BinaryOp::Add, precedence::SUM),
        Operator::Sub => (BinaryOp::Sub, precedence::SUM),
        Operator::Mul => (BinaryOp::Mul, precedence::PRODUCT),
        Operator::Div => (BinaryOp::Div, precedence::PRODUCT),
        Operator::Mod => (BinaryOp::Mod, precedence::PRODUCT),
        Operator::Atan2 => (BinaryOp::Atan2, precedence::PRODUCT),
        Operator::Pow => (BinaryOp::Pow, precedence::POWER),
        Operator::EqlRegex | Operator::NeqRegex | Operator::At => return None,
    })
}

/// Whether the token may be a metric name; most keywords may.
pub(super) fn is_metric_identifier(kind: TokenKind) -> bool {
    match kind {
        TokenKind::Identifier
        | TokenKind::MetricIdentifier
        | TokenKind::Aggregator(_)
        | TokenKind::Preprocessor(_) => true,
        TokenKind::Operator(operator) => {
            matches!(operator, Operator::And | Operator::Or | Operator::Unless)
        }
        TokenKind::Keyword(keyword) => matches!(
            keyword,
            Keyword::By
                | Keyword::Fill
                | Keyword::FillLeft
                | Keyword::FillRight
                | Keyword::Offset
                | Keyword::Without
                | Keyword::Anchored
                | Keyword::Smoothed
        ),
        _ => false,
    }
}

/// Whether the token may be a label name in a list of labels.
fn is_label_name(kind: TokenKind) -> bool {
    match kind {
        TokenKind::Keyword(keyword) => keyword != Keyword::Without,
        TokenKind::Operator(Operator::Atan2) => true,
        kind => is_metric_identifier(kind),
    }
}

fn starts_expression(kind: TokenKind) -> bool {
    matches!(
        kind,
        TokenKind::Number
            | TokenKind::Duration
            | TokenKind::String
            | TokenKind::LeftParen
            | TokenKind::LeftBrace
            | TokenKind::Operator(Operator::Add | Operator::Sub)
    ) || is_metric_identifier(kind)
}
