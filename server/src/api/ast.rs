//! Syntax trees as JSON, for `parse_query`. Keys are sorted, as Go sorts those of maps.
//!
//! Source: Prometheus v3.14, `web/api/v1/translate_ast.go`.

use super::json::{self, Object};
use chronolith_model::Matcher;
use chronolith_query::go_format::format_float;
use chronolith_query::parser::ast::{
    At, Binary, DurationExpr, DurationKind, DurationOp, Extent, NumberLiteral, VectorMatching, VectorSelector,
};
use chronolith_query::parser::{Expr, ExprKind};

/// Writes an expression.
pub fn expression(out: &mut Vec<u8>, expr: &Expr) {
    let mut object = match &expr.kind {
        ExprKind::Binary(binary) => return chain(out, binary),
        _ => Object::new(out),
    };
    match &expr.kind {
        ExprKind::Binary(_) => unreachable!("returned above"),
        ExprKind::Aggregate(aggregate) => {
            expression(object.key("expr"), &aggregate.expr);
            texts(object.key("grouping"), &aggregate.grouping);
            object.string("op", aggregate.op.as_str());
            match &aggregate.param {
                Some(param) => expression(object.key("param"), param),
                None => null(object.key("param")),
            }
            object.string("type", "aggregation").boolean("without", aggregate.without);
        }
        ExprKind::Call(call) => {
            json::array(object.key("args"), &call.args, expression);
            let mut function = Object::new(object.key("func"));
            let types = call.function.arg_types.iter().map(|kind| kind.as_str());
            json::strings(function.key("argTypes"), types);
            function
                .string("name", call.function.name)
                .string("returnType", call.function.return_type.as_str())
                .integer("variadic", i64::from(call.function.variadic));
            function.end();
            object.string("type", "call");
        }
        ExprKind::Matrix(matrix) => {
            selector_head(&mut object, &matrix.selector);
            extent(&mut object, "range", "rangeExpr", &matrix.range);
            selector_tail(&mut object, &matrix.selector, "matrixSelector");
        }
        ExprKind::Vector(selector) => {
            selector_head(&mut object, selector);
            selector_tail(&mut object, selector, "vectorSelector");
        }
        ExprKind::Number(number) => {
            object.string("type", "numberLiteral").string("val", &format_float(number.value));
        }
        ExprKind::Paren(inner) => {
            expression(object.key("expr"), inner);
            object.string("type", "parenExpr");
        }
        ExprKind::String(bytes) => {
            object.string("type", "stringLiteral").string("val", &String::from_utf8_lossy(bytes));
        }
        ExprKind::Subquery(subquery) => {
            expression(object.key("expr"), &subquery.expr);
            extent(&mut object, "offset", "offsetExpr", &subquery.offset);
            extent(&mut object, "range", "rangeExpr", &subquery.range);
            start_or_end(&mut object, subquery.at);
            extent(&mut object, "step", "stepExpr", &subquery.step);
            timestamp(&mut object, subquery.at);
            object.string("type", "subquery");
        }
        ExprKind::Unary(unary) => {
            expression(object.key("expr"), &unary.expr);
            object.string("op", if unary.negate { "-" } else { "+" }).string("type", "unaryExpr");
        }
    }
    object.end();
}

/// Chains of operators may be longer than the stack is deep: they are written link by link.
fn chain(out: &mut Vec<u8>, binary: &Binary) {
    let (links, first) = binary.spine();
    for link in &links {
        out.extend_from_slice(format!("{{\"bool\":{},\"lhs\":", link.return_bool).as_bytes());
    }
    expression(out, first);
    for link in links.iter().rev() {
        out.extend_from_slice(b",\"matching\":");
        match &link.matching {
            Some(found) => matching(out, found),
            None => null(out),
        }
        out.extend_from_slice(b",\"op\":");
        json::string(out, link.op.as_str());
        out.extend_from_slice(b",\"rhs\":");
        expression(out, &link.rhs);
        out.extend_from_slice(b",\"type\":\"binaryExpr\"}");
    }
}

fn matching(out: &mut Vec<u8>, matching: &VectorMatching) {
    let mut object = Object::new(out);
    object.string("card", matching.cardinality.as_str());
    let mut fill = Object::new(object.key("fillValues"));
    for (key, value) in [("lhs", matching.fill_lhs), ("rhs", matching.fill_rhs)] {
        match value {
            Some(value) => json::number(fill.key(key), value),
            None => null(fill.key(key)),
        }
    }
    fill.end();
    texts(object.key("include"), &matching.include);
    texts(object.key("labels"), &matching.labels);
    object.boolean("on", matching.on);
    object.end();
}

fn selector_head(object: &mut Object<'_>, selector: &VectorSelector) {
    object.boolean("anchored", selector.anchored);
    json::array(object.key("matchers"), &selector.matchers, matcher);
    object.string("name", &selector.name);
    extent(object, "offset", "offsetExpr", &selector.offset);
}

fn selector_tail(object: &mut Object<'_>, selector: &VectorSelector, kind: &str) {
    object.boolean("smoothed", selector.smoothed);
    start_or_end(object, selector.at);
    timestamp(object, selector.at);
    object.string("type", kind);
}

fn matcher(out: &mut Vec<u8>, matcher: &Matcher) {
    let mut object = Object::new(out);
    object
        .string("name", &matcher.name)
        .string("type", matcher.op.as_str())
        .string("value", &String::from_utf8_lossy(matcher.written()));
    object.end();
}

fn extent(object: &mut Object<'_>, key: &str, expr_key: &str, extent: &Extent) {
    match extent {
        Extent::Millis(ms) => {
            object.integer(key, *ms);
            null(object.key(expr_key));
        }
        Extent::Expr(expr) => {
            object.integer(key, 0);
            duration(object.key(expr_key), expr);
        }
    }
}

fn duration(out: &mut Vec<u8>, expr: &DurationExpr) {
    let (op, lhs, rhs) = match &expr.kind {
        DurationKind::Number(number) => return number_literal(out, number),
        DurationKind::Step => ("step", None, None),
        DurationKind::Range => ("range", None, None),
        DurationKind::Unary { negate, operand } => (if *negate { "-" } else { "+" }, None, Some(operand)),
        DurationKind::Binary { op, lhs, rhs } => (duration_op(*op), Some(lhs), Some(rhs)),
    };
    let mut object = Object::new(out);
    match lhs {
        Some(lhs) => duration(object.key("lhs"), lhs),
        None => null(object.key("lhs")),
    }
    object.string("op", op);
    match rhs {
        Some(rhs) => duration(object.key("rhs"), rhs),
        None => null(object.key("rhs")),
    }
    object.string("type", "durationExpr").boolean("wrapped", expr.wrapped);
    object.end();
}

const fn duration_op(op: DurationOp) -> &'static str {
    match op {
        DurationOp::Add => "+",
        DurationOp::Sub => "-",
        DurationOp::Mul => "*",
        DurationOp::Div => "/",
        DurationOp::Mod => "%",
        DurationOp::Pow => "^",
        DurationOp::MinOf => "min_of",
        DurationOp::MaxOf => "max_of",
    }
}

fn number_literal(out: &mut Vec<u8>, number: &NumberLiteral) {
    let mut object = Object::new(out);
    object
        .boolean("duration", number.is_duration)
        .string("type", "numberLiteral")
        .string("val", &format_float(number.value));
    object.end();
}

fn timestamp(object: &mut Object<'_>, at: At) {
    match at {
        At::Time(ms) => drop(object.integer("timestamp", ms)),
        At::None | At::Start | At::End => null(object.key("timestamp")),
    }
}

fn start_or_end(object: &mut Object<'_>, at: At) {
    match at {
        At::Start => drop(object.string("startOrEnd", "start")),
        At::End => drop(object.string("startOrEnd", "end")),
        At::None | At::Time(_) => null(object.key("startOrEnd")),
    }
}

fn texts(out: &mut Vec<u8>, texts: &[String]) {
    json::strings(out, texts.iter().map(String::as_str));
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_query::parser::{ParserOptions, parse_expr, prettify};

    /// What Prometheus 3.14 answers to `parse_query` and `format_query`, written down by a program that
    /// calls its `translateAST` and `Pretty`: lines of three words each, `query`, `ast` and `format`.
    const EXPECTED: &str = include_str!("testdata/ast.txt");

    #[test]
    fn trees_and_formatted_texts_are_those_of_prometheus() {
        let mut n_queries = 0;
        for entry in EXPECTED.split_terminator("\n\n") {
            let field = |name: &str| {
                let line = entry.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("no {name} in {entry}"))
            };
            let query = field("query  ");
            let expr =
                parse_expr(query, ParserOptions::ALL).unwrap_or_else(|error| panic!("{query}: {error}"));
            let mut out = Vec::new();
            expression(&mut out, &expr);
            assert_eq!(String::from_utf8(out).unwrap(), field("ast    "), "{query}");
            let mut out = Vec::new();
            json::string(&mut out, &prettify(&expr));
            assert_eq!(String::from_utf8(out).unwrap(), field("format "), "{query}");
            n_queries += 1;
        }
        assert_eq!(n_queries, 75);
    }

    #[test]
    fn long_chains_do_not_overflow_the_stack() {
        let text = vec!["1"; 20_000].join("+");
        let mut out = Vec::new();
        expression(&mut out, &parse_expr(&text, ParserOptions::ALL).unwrap());
        assert!(out.ends_with(b"\"type\":\"binaryExpr\"}"));
    }
}
