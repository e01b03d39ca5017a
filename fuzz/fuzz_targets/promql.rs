//! PromQL text: parsing ends in a tree or an error with a position, and what a tree prints as, plainly or
//! prettily, parses to the same tree.
#![no_main]

use chronolith_query::parser::ast::{DurationExpr, DurationKind, ExprKind, Extent, VectorSelector};
use chronolith_query::parser::{
    Expr, ParserOptions, parse_expr, parse_metric_selector, parse_series_desc, prettify,
};
use libfuzzer_sys::fuzz_target;

/// Kind, type and text of every node, without the places in the text.
fn shape(expr: &Expr) -> Vec<String> {
    let mut nodes = Vec::new();
    expr.walk(|node| {
        // The text of each node holds those below it: long chains would take the square of their length.
        if nodes.len() < 200 {
            let kind = std::mem::discriminant(&node.kind);
            nodes.push(format!("{kind:?} {:?} {node}", node.value_type()));
        }
        true
    });
    nodes
}

/// Prometheus's printer, and so ours, leaves out `{}` as the second argument of `info`, and the second sign before a
/// sum that is an offset, which only signs make one: what is printed then is another expression, or none.
fn prints_as_another(expr: &Expr) -> bool {
    let mut found = false;
    expr.walk(|node| {
        let (offset, is_empty) = match &node.kind {
            ExprKind::Vector(selector) => (&selector.offset, is_empty(selector)),
            ExprKind::Matrix(matrix) => (&matrix.selector.offset, is_empty(&matrix.selector)),
            ExprKind::Subquery(subquery) => (&subquery.offset, false),
            _ => return true,
        };
        found |= is_empty || matches!(offset, Extent::Expr(offset) if is_open(offset));
        true
    });
    found
}

fn is_empty(selector: &VectorSelector) -> bool {
    selector.name.is_empty() && selector.matchers.is_empty()
}

/// Whether there is an operator outside of all parentheses.
fn is_open(offset: &DurationExpr) -> bool {
    let is_open = match &offset.kind {
        DurationKind::Unary { operand, .. } => is_open(operand),
        DurationKind::Binary { .. } => true,
        _ => false,
    };
    is_open && !offset.wrapped
}

fuzz_target!(|text: &str| {
    let _ = parse_metric_selector(text);
    let _ = parse_series_desc(text);
    for options in [ParserOptions::default(), ParserOptions::ALL] {
        let expr = match parse_expr(text, options) {
            Ok(expr) => expr,
            Err(error) => {
                assert!(error.span.start <= error.span.end);
                assert!(error.span.end as usize <= text.len() + 1);
                continue;
            }
        };
        if prints_as_another(&expr) {
            continue;
        }
        let printed = expr.to_string();
        let again = parse_expr(&printed, options).unwrap_or_else(|error| panic!("{printed}: {error}"));
        assert_eq!(again.to_string(), printed);
        let pretty = prettify(&expr);
        let again_pretty = parse_expr(&pretty, options).unwrap_or_else(|error| panic!("{pretty}: {error}"));
        assert_eq!(again_pretty.to_string(), printed);
        assert_eq!(shape(&again), shape(&expr), "{text}");
        assert_eq!(shape(&again_pretty), shape(&expr), "{text}");
    }
});
