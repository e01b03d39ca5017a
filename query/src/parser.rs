//! PromQL text to syntax tree and back: lexer, grammar, type check, printer and prettifier.
//!
//! Texts are bounded before any work is done, and so is the nesting of what comes out, so that code which walks
//! trees may recurse (but see [`ast`] for chains of operators).

pub mod ast;
mod check;
pub mod durations;
mod grammar;
mod lexer;
mod prettier;
mod printer;
mod series;
pub mod signatures;

#[cfg(test)]
mod tests;

pub use ast::{Expr, ExprKind, Span, ValueType};
pub(crate) use lexer::unquote;
pub use prettier::prettify;
pub use series::{SeriesDescription, SeriesValue, parse_metric, parse_series_desc};
pub use signatures::{Function, Signature};

use chronolith_model::Matcher;
use grammar::Parser;

/// Longer texts are refused. The longest queries of dashboards that we have seen have some 20 KiB.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// Deeper trees are refused, so that code that walks them may recurse. People nest some ten levels.
pub const MAX_NESTING: u32 = 500;

/// Larger trees are refused: each node costs some hundred bytes here and a buffer in the engine.
pub const MAX_NODES: u32 = 100_000;

/// Parts of the language that are off unless asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParserOptions {
    /// Functions and aggregations marked as experimental.
    pub experimental_functions: bool,
    /// Arithmetic in durations: `[step() * 2]`.
    pub duration_expressions: bool,
    /// The modifiers `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// The modifiers `fill`, `fill_left` and `fill_right`.
    pub fill_modifiers: bool,
}

impl ParserOptions {
    /// Everything on.
    pub const ALL: Self = Self {
        experimental_functions: true,
        duration_expressions: true,
        extended_range_selectors: true,
        fill_modifiers: true,
    };
}

/// Why a text is not PromQL. Only the first mistake is reported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: parse error: {message}")]
pub struct ParseError {
    /// `line:column` of [`ParseError::span`].
    pub position: String,
    /// What is wrong, in Prometheus's words.
    pub message: String,
    /// Where.
    pub span: Span,
}

impl ParseError {
    pub(crate) fn new(text: &str, span: Span, message: impl Into<String>) -> Self {
        Self { position: span.position(text), message: message.into(), span }
    }
}

/// Parses and type-checks an expression.
///
/// # Errors
/// [`ParseError`] if the text is not an expression, its types do not fit, or it is over a limit.
pub fn parse_expr(text: &str, options: ParserOptions) -> Result<Expr, ParseError> {
    let parse = || {
        let mut expr = Parser::new(text, options, false)?.whole_expression()?;
        check::check(text, &mut expr)?;
        Ok(expr)
    };
    parse().map_err(|error: Box<ParseError>| *error)
}

/// Parses a selector without modifiers, as the `match[]` parameters of the API have it. Matchers may all match
/// the empty string; callers that do not want that check it.
///
/// # Errors
/// [`ParseError`] if the text is not such a selector.
pub fn parse_metric_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let parser = Parser::new(text, ParserOptions::default(), false);
    parser.and_then(Parser::whole_selector).map_err(|error| *error)
}
