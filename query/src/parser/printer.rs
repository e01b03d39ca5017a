//! The tree as text, as Prometheus's `String()` writes it. What is printed parses to the same tree.
//!
//! Source: Prometheus v3.14, `promql/parser/printer.go`.

use super::ast::*;
use crate::go_format::{format_fixed, format_float, format_general, quote_bytes};
use chronolith_model::duration::format_duration;
use chronolith_model::labels::{is_legacy_label_name, write_quoted};
use chronolith_model::{METRIC_NAME, MatchOp, Matcher};
use std::fmt::{self, Display, Formatter, Write};

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Aggregate(aggregate) => {
                write!(f, "{}(", AggregateHead(aggregate))?;
                if let Some(param) = &aggregate.param {
                    write!(f, "{param}, ")?;
                }
                write!(f, "{})", aggregate.expr)
            }
            ExprKind::Binary(binary) => {
                let (chain, first) = binary.spine();
                first.fmt(f)?;
                chain.iter().rev().try_for_each(|link| write!(f, " {} {}", BinaryHead(link), link.rhs))
            }
            ExprKind::Call(call) => {
                write!(f, "{}(", call.function.name)?;
                for (i, arg) in call.args.iter().enumerate() {
                    f.write_str(if i > 0 { ", " } else { "" })?;
                    arg.fmt(f)?;
                }
                f.write_char(')')
            }
            ExprKind::Matrix(matrix) => matrix.fmt(f),
            ExprKind::Number(literal) => literal.fmt(f),
            ExprKind::Paren(inner) => write!(f, "({inner})"),
            ExprKind::String(bytes) => f.write_str(&quote_bytes(bytes)),
            ExprKind::Subquery(subquery) => write!(f, "{}{}", subquery.expr, SubqueryTail(subquery)),
            ExprKind::Unary(unary) => write!(f, "{}{}", sign(unary.negate), unary.expr),
            ExprKind::Vector(selector) => selector.fmt(f),
        }
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}: {self}", self.span.start, self.span.end)
    }
}

pub(super) const fn sign(negate: bool) -> &'static str {
    if negate { "-" } else { "+" }
}

impl Display for NumberLiteral {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.is_duration {
            f.write_str(&format_duration((self.value * 1e9) as i64 / 1_000_000))
        } else {
            f.write_str(&format_float(self.value))
        }
    }
}

/// An aggregation without its arguments: `sum by (a) `.
pub(super) struct AggregateHead<'e>(pub &'e Aggregate);

impl Display for AggregateHead<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Aggregate { op, grouping, without, .. } = self.0;
        f.write_str(op.as_str())?;
        if *without {
            write!(f, " without ({}) ", Names(grouping))
        } else if !grouping.is_empty() {
            write!(f, " by ({}) ", Names(grouping))
        } else {
            Ok(())
        }
    }
}

/// An operator with its modifiers: `+ on (a) group_left (b)`.
pub(super) struct BinaryHead<'e>(pub &'e Binary);

impl Display for BinaryHead<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.op.as_str())?;
        if self.0.return_bool {
            f.write_str(" bool")?;
        }
        let Some(matching) = &self.0.matching else { return Ok(()) };
        let group = match matching.cardinality {
            Cardinality::ManyToOne => Some("left"),
            Cardinality::OneToMany => Some("right"),
            Cardinality::OneToOne | Cardinality::ManyToMany => None,
        };
        if !matching.labels.is_empty() || matching.on || group.is_some() {
            let how = if matching.on { "on" } else { "ignoring" };
            write!(f, " {how} ({})", Names(&matching.labels))?;
        }
        if let Some(side) = group {
            write!(f, " group_{side} ({})", Names(&matching.include))?;
        }
        match (matching.fill_lhs, matching.fill_rhs) {
            (Some(lhs), Some(rhs)) if lhs == rhs => write!(f, " fill ({})", format_general(lhs)),
            (lhs, rhs) => {
                if let Some(lhs) = lhs {
                    write!(f, " fill_left ({})", format_general(lhs))?;
                }
                if let Some(rhs) = rhs {
                    write!(f, " fill_right ({})", format_general(rhs))?;
                }
                Ok(())
            }
        }
    }
}

/// Label names, quoted where they have to be.
struct Names<'e>(&'e [String]);

impl Display for Names<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            if is_legacy_label_name(name) {
                f.write_str(name)?;
            } else {
                write_quoted(f, name)?;
            }
        }
        Ok(())
    }
}

impl Display for DurationExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.wrapped {
            f.write_char('(')?;
        }
        match &self.kind {
            DurationKind::Number(literal) => literal.fmt(f)?,
            DurationKind::Step => f.write_str("step()")?,
            DurationKind::Range => f.write_str("range()")?,
            DurationKind::Unary { negate: true, operand } => write!(f, "-{operand}")?,
            DurationKind::Unary { negate: false, operand } => operand.fmt(f)?,
            DurationKind::Binary { op, lhs, rhs } => match op {
                DurationOp::MinOf => write!(f, "min_of({lhs}, {rhs})")?,
                DurationOp::MaxOf => write!(f, "max_of({lhs}, {rhs})")?,
                DurationOp::Add => write!(f, "{lhs} + {rhs}")?,
                DurationOp::Sub => write!(f, "{lhs} - {rhs}")?,
                DurationOp::Mul => write!(f, "{lhs} * {rhs}")?,
                DurationOp::Div => write!(f, "{lhs} / {rhs}")?,
                DurationOp::Mod => write!(f, "{lhs} % {rhs}")?,
                DurationOp::Pow => write!(f, "{lhs} ^ {rhs}")?,
            },
        }
        if self.wrapped {
            f.write_char(')')?;
        }
        Ok(())
    }
}

impl Display for Extent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Millis(ms) => f.write_str(&format_duration(*ms)),
            Self::Expr(expr) => expr.fmt(f),
        }
    }
}

/// ` @ ...`, or nothing.
struct AtModifier(At);

impl Display for AtModifier {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            At::None => Ok(()),
            At::Time(ms) => write!(f, " @ {}", format_fixed(ms as f64 / 1000.0, 3)),
            At::Start => f.write_str(" @ start()"),
            At::End => f.write_str(" @ end()"),
        }
    }
}

/// ` offset ...`, or nothing.
struct OffsetModifier<'e>(&'e Extent);

impl Display for OffsetModifier<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_none() { Ok(()) } else { write!(f, " offset {}", self.0) }
    }
}

/// The range and modifiers of a subquery: `[5m:1m] @ 1.000 offset 1m`.
pub(super) struct SubqueryTail<'e>(pub &'e Subquery);

impl Display for SubqueryTail<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Subquery { range, step, offset, at, .. } = self.0;
        write!(f, "[{range}:")?;
        if !step.is_none() {
            step.fmt(f)?;
        }
        write!(f, "]{}{}", AtModifier(*at), OffsetModifier(offset))
    }
}

fn extended(selector: &VectorSelector) -> &'static str {
    match (selector.anchored, selector.smoothed) {
        (true, _) => " anchored",
        (false, true) => " smoothed",
        (false, false) => "",
    }
}

impl Display for VectorSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}{}{}",
            SelectorHead(self),
            AtModifier(self.at),
            extended(self),
            OffsetModifier(&self.offset)
        )
    }
}

impl Display for MatrixSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { selector, range, .. } = self;
        write!(
            f,
            "{}[{range}]{}{}{}",
            SelectorHead(selector),
            extended(selector),
            AtModifier(selector.at),
            OffsetModifier(&selector.offset)
        )
    }
}

/// Name and matchers. The matchers are sorted as text.
struct SelectorHead<'e>(&'e VectorSelector);

impl Display for SelectorHead<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let VectorSelector { name, matchers, .. } = self.0;
        f.write_str(name)?;
        let is_name = |matcher: &Matcher| {
            matcher.name == METRIC_NAME
                && matcher.op == MatchOp::Equal
                && matcher.value == *name
                && !matcher.value.is_empty()
        };
        let mut texts: Vec<String> =
            matchers.iter().filter(|matcher| !is_name(matcher)).map(ToString::to_string).collect();
        if texts.is_empty() {
            return Ok(());
        }
        texts.sort_unstable();
        write!(f, "{{{}}}", texts.join(","))
    }
}
