//! Long expressions over several lines.
//!
//! An expression whose text has at most 100 bytes stays on its line. A longer one puts its parts on lines of
//! their own, two spaces further in.
//!
//! Source: Prometheus v3.14, `promql/parser/prettier.go`.

use super::ast::*;
use super::printer::{AggregateHead, BinaryHead, SubqueryTail, sign};

const MAX_LINE_BYTES: usize = 100;

/// Chains of operators move in by a level for each link; with no bound a long one would fill memory with spaces.
const MAX_INDENT: usize = 100;

/// The expression as text, split into lines where it is long.
pub fn prettify(expr: &Expr) -> String {
    prettify_to(expr, MAX_LINE_BYTES)
}

/// As [`prettify`], with lines of another length.
pub(super) fn prettify_to(expr: &Expr, max_line_bytes: usize) -> String {
    Prettier { max_line_bytes }.pretty(expr, 0)
}

struct Prettier {
    max_line_bytes: usize,
}

fn indent(level: usize) -> String {
    "  ".repeat(level.min(MAX_INDENT))
}

impl Prettier {
    fn pretty(&self, expr: &Expr, level: usize) -> String {
        match &expr.kind {
            ExprKind::Matrix(_) | ExprKind::Vector(_) | ExprKind::Number(_) | ExprKind::String(_) => {
                return indent(level) + &expr.to_string();
            }
            ExprKind::Unary(unary) => {
                let operand = self.pretty(&unary.expr, level);
                return format!("{}{}{}", indent(level), sign(unary.negate), operand.trim());
            }
            ExprKind::Binary(binary) => return self.pretty_binary(binary, level),
            _ => {}
        }
        let whole = expr.to_string();
        if whole.len() <= self.max_line_bytes {
            // A subquery on one line is not indented; upstream does it so.
            return if matches!(expr.kind, ExprKind::Subquery(_)) { whole } else { indent(level) + &whole };
        }
        let margin = indent(level);
        match &expr.kind {
            ExprKind::Aggregate(aggregate) => {
                let mut text = format!("{margin}{}(\n", AggregateHead(aggregate));
                if let Some(param) = &aggregate.param {
                    text.push_str(&self.pretty(param, level + 1));
                    text.push_str(",\n");
                }
                text + &self.pretty(&aggregate.expr, level + 1) + "\n" + &margin + ")"
            }
            ExprKind::Call(call) => {
                let args: Vec<String> = call.args.iter().map(|arg| self.pretty(arg, level + 1)).collect();
                format!("{margin}{}(\n{}\n{margin})", call.function.name, args.join(",\n"))
            }
            ExprKind::Paren(inner) => format!("{margin}(\n{}\n{margin})", self.pretty(inner, level + 1)),
            ExprKind::Subquery(subquery) => {
                format!("{}{}", self.pretty(&subquery.expr, level), SubqueryTail(subquery))
            }
            _ => unreachable!("the other kinds were answered above"),
        }
    }

    /// A chain of operators. Each link to the left is a level further in, and the text of each is measured; links
    /// are short-circuited from the left, so that a long chain is measured once.
    fn pretty_binary(&self, binary: &Binary, level: usize) -> String {
        let (chain, first) = binary.spine();
        // How long the text is up to and including the right side of each link, outermost first.
        let mut n_bytes = first.to_string().len();
        let mut lengths: Vec<usize> = chain
            .iter()
            .rev()
            .map(|link| {
                n_bytes += format!(" {} {}", BinaryHead(link), link.rhs).len();
                n_bytes
            })
            .collect();
        lengths.reverse();
        // Links from here on fit on one line.
        let n_split = lengths.iter().take_while(|&&length| length > self.max_line_bytes).count();
        let mut text = if n_split == chain.len() {
            self.pretty(first, level + n_split)
        } else {
            let mut line = indent(level + n_split) + &first.to_string();
            for link in chain[n_split..].iter().rev() {
                line.push_str(&format!(" {} {}", BinaryHead(link), link.rhs));
            }
            line
        };
        for (depth, link) in chain[..n_split].iter().enumerate().rev() {
            let at = level + depth;
            text.push_str(&format!(
                "\n{}{}\n{}",
                indent(at),
                BinaryHead(link),
                self.pretty(&link.rhs, at + 1)
            ));
        }
        text
    }
}
