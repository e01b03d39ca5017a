//! Types: what may stand where.
//!
//! Runs once the whole text has been parsed; the first error counts. Also settles what depends on types: set
//! operators match many to many, and only operations between two vectors match at all.
//!
//! Source: Prometheus v3.14, `promql/parser/parse.go`, `checkAST`.

use super::ast::*;
use super::lexer::quote;
use super::{Function, ParseError};
use crate::go_format::quote_bytes;
use chronolith_model::METRIC_NAME;

/// Checks `expr`, which was parsed from `text`, and returns its type.
///
/// # Errors
/// [`ParseError`] for the first place where types do not fit.
pub(super) fn check(text: &str, expr: &mut Expr) -> Result<ValueType, Box<ParseError>> {
    let checker = Checker { text };
    checker.expr(expr)
}

struct Checker<'t> {
    text: &'t str,
}

impl Checker<'_> {
    fn fail<T>(&self, span: Span, message: impl Into<String>) -> Result<T, Box<ParseError>> {
        Err(Box::new(ParseError::new(self.text, span, message)))
    }

    fn expr(&self, expr: &mut Expr) -> Result<ValueType, Box<ParseError>> {
        let span = expr.span;
        match &mut expr.kind {
            ExprKind::Number(_) => Ok(ValueType::Scalar),
            ExprKind::String(_) => Ok(ValueType::String),
            ExprKind::Vector(selector) => {
                self.selector(span, selector, true)?;
                Ok(ValueType::Vector)
            }
            ExprKind::Matrix(matrix) => {
                self.selector(matrix.selector_span, &matrix.selector, true)?;
                Ok(ValueType::Matrix)
            }
            ExprKind::Paren(inner) => self.expr(inner),
            ExprKind::Unary(unary) => match self.expr(&mut unary.expr)? {
                found @ (ValueType::Scalar | ValueType::Vector) => Ok(found),
                found => self.fail(
                    span,
                    format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got \"{}\"",
                        found.documented()
                    ),
                ),
            },
            ExprKind::Subquery(subquery) => match self.expr(&mut subquery.expr)? {
                ValueType::Vector => Ok(ValueType::Matrix),
                found => self.fail(
                    span,
                    format!("subquery is only allowed on instant vector, got {} instead", found.as_str()),
                ),
            },
            ExprKind::Aggregate(aggregate) => {
                self.expect(&mut aggregate.expr, ValueType::Vector, "aggregation expression")?;
                let wanted = match aggregate.op {
                    AggregateOp::CountValues => ValueType::String,
                    _ => ValueType::Scalar,
                };
                if let Some(param) = &mut aggregate.param {
                    self.expect(param, wanted, "aggregation parameter")?;
                }
                Ok(ValueType::Vector)
            }
            ExprKind::Call(call) => self.call(span, call),
            ExprKind::Binary(_) => self.binary_chain(expr),
        }
    }

    fn expect(&self, expr: &mut Expr, wanted: ValueType, context: &str) -> Result<(), Box<ParseError>> {
        let found = self.expr(expr)?;
        if found == wanted {
            return Ok(());
        }
        self.fail(
            expr.span,
            format!("expected type {} in {context}, got {}", wanted.documented(), found.documented()),
        )
    }

    fn selector(
        &self,
        span: Span,
        selector: &VectorSelector,
        needs_matcher: bool,
    ) -> Result<(), Box<ParseError>> {
        if !selector.name.is_empty() {
            // The last matcher is the one for the name outside the braces.
            let inside = &selector.matchers[..selector.matchers.len() - 1];
            if let Some(matcher) = inside.iter().find(|matcher| matcher.name == METRIC_NAME) {
                return self.fail(
                    span,
                    format!(
                        "metric name must not be set twice: {} or {}",
                        quote(&selector.name),
                        quote_bytes(matcher.written())
                    ),
                );
            }
            return Ok(());
        }
        if needs_matcher && selector.matchers.iter().all(|matcher| matcher.matches_empty()) {
            return self.fail(span, "vector selector must contain at least one non-empty matcher");
        }
        Ok(())
    }

    fn call(&self, span: Span, call: &mut Call) -> Result<ValueType, Box<ParseError>> {
        let signature = call.function;
        let (n_args, n_types) = (call.args.len(), signature.arg_types.len());
        let wrong_count = |bound: &str, wanted: usize| {
            self.fail(
                span,
                format!(
                    "expected {bound}{wanted} argument(s) in call to \"{}\", got {n_args}",
                    signature.name
                ),
            )
        };
        if signature.variadic == 0 {
            if n_args != n_types {
                return wrong_count("", n_types);
            }
        } else {
            let n_least = n_types - 1;
            if n_args < n_least {
                return wrong_count("at least ", n_least);
            }
            if let Ok(variadic) = usize::try_from(signature.variadic)
                && n_args > n_least + variadic
            {
                return wrong_count("at most ", n_least + variadic);
            }
        }
        let is_info = signature.function == Function::Info;
        if let (true, Some(selector)) = (is_info, call.args.get(1)) {
            self.info_selector(span, selector)?;
        }
        for (index, arg) in call.args.iter_mut().enumerate() {
            let wanted = signature.arg_types[index.min(n_types - 1)];
            let found = match &arg.kind {
                // The selector of info() may match everything.
                ExprKind::Vector(selector) if is_info && index == 1 => {
                    self.selector(arg.span, selector, false)?;
                    ValueType::Vector
                }
                _ => self.expr(arg)?,
            };
            if found != wanted {
                return self.fail(
                    arg.span,
                    format!(
                        "expected type {} in call to function \"{}\", got {}",
                        wanted.documented(),
                        signature.name,
                        found.documented()
                    ),
                );
            }
        }
        Ok(signature.return_type)
    }

    fn info_selector(&self, span: Span, arg: &Expr) -> Result<(), Box<ParseError>> {
        let found = arg.value_type();
        if found != ValueType::Vector {
            return self.fail(
                span,
                format!(
                    "expected type instant vector in call to function \"info\", got {}",
                    found.documented()
                ),
            );
        }
        match &arg.kind {
            ExprKind::Vector(selector) if selector.name.is_empty() => Ok(()),
            ExprKind::Vector(_) => {
                self.fail(arg.span, "expected label selectors only, got vector selector instead")
            }
            _ => self.fail(arg.span, "expected label selectors only"),
        }
    }

    /// A chain of operators, leftmost operand first. The links are taken apart and put together again, since a
    /// chain may be far longer than the stack is deep.
    fn binary_chain(&self, expr: &mut Expr) -> Result<ValueType, Box<ParseError>> {
        let mut links = Vec::new();
        let mut lhs = expr.take();
        while let ExprKind::Binary(binary) = &mut lhs.kind {
            let next = binary.lhs.take();
            links.push(std::mem::replace(&mut lhs, next));
        }
        let mut found = self.expr(&mut lhs)?;
        while let Some(mut link) = links.pop() {
            let span = link.span;
            if let ExprKind::Binary(binary) = &mut link.kind {
                binary.lhs = lhs;
                found = self.binary(span, binary, found)?;
            }
            lhs = link;
        }
        *expr = lhs;
        Ok(found)
    }

    fn binary(&self, span: Span, binary: &mut Binary, lhs: ValueType) -> Result<ValueType, Box<ParseError>> {
        let rhs = self.expr(&mut binary.rhs)?;
        let op = binary.op;
        let both = |wanted| lhs == wanted && rhs == wanted;
        let op_span = || self.operator_span(binary);
        if binary.return_bool && !op.is_comparison() {
            return self.fail(op_span(), "bool modifier can only be used on comparison operators");
        }
        if op.is_comparison() && !binary.return_bool && both(ValueType::Scalar) {
            return self.fail(op_span(), "comparisons between scalars must use BOOL modifier");
        }
        let mut matching = binary.matching.clone().unwrap_or_default();
        if op.is_set() && matching.cardinality == Cardinality::OneToOne {
            matching.cardinality = Cardinality::ManyToMany;
        }
        if matching.on
            && let Some(label) = matching.labels.iter().find(|label| matching.include.contains(label))
        {
            return self.fail(
                op_span(),
                format!("label {} must not occur in ON and GROUP clause at once", quote(label)),
            );
        }
        for (operand_type, operand) in [(lhs, &binary.lhs), (rhs, &binary.rhs)] {
            if operand_type != ValueType::Scalar && operand_type != ValueType::Vector {
                return self.fail(
                    operand.span,
                    "binary expression must contain only scalar and instant vector types",
                );
            }
        }
        let filled = matching.fill_lhs.is_some() || matching.fill_rhs.is_some();
        if !both(ValueType::Vector) {
            if !matching.labels.is_empty() {
                return self.fail(span, "vector matching only allowed between instant vectors");
            }
            if filled {
                return self.fail(span, "filling in missing series only allowed between instant vectors");
            }
        } else if op.is_set() {
            if matching.cardinality != Cardinality::ManyToMany {
                return self.fail(span, format!("no grouping allowed for \"{}\" operation", op.as_str()));
            }
            if filled {
                return self.fail(span, "filling in missing series not allowed for set operators");
            }
        }
        if op.is_set() && !both(ValueType::Vector) {
            return self.fail(
                span,
                format!("set operator \"{}\" not allowed in binary scalar expression", op.as_str()),
            );
        }
        binary.matching = both(ValueType::Vector).then_some(matching);
        Ok(if both(ValueType::Scalar) { ValueType::Scalar } else { ValueType::Vector })
    }

    /// The operator with its modifiers: what lies between the operands, without spaces.
    fn operator_span(&self, binary: &Binary) -> Span {
        let (start, end) = (binary.lhs.span.end, binary.rhs.span.start);
        let between = self.text.get(start as usize..end as usize).unwrap_or("");
        let n_spaces = between.len() - between.trim_start_matches([' ', '\t', '\n', '\r']).len();
        Span { start: start + u32::try_from(n_spaces).unwrap_or(0), end }
    }
}
