//! Texts and what becomes of them; see `cases.rs` for the long tables.

mod cases;

use super::*;

fn parse(text: &str) -> Result<Expr, ParseError> {
    parse_expr(text, ParserOptions::ALL)
}

/// Puts every operation into brackets, so that the tree is seen.
fn bracketed(expr: &Expr) -> String {
    match &expr.kind {
        ExprKind::Binary(binary) => {
            format!("<{} {} {}>", bracketed(&binary.lhs), binary.op.as_str(), bracketed(&binary.rhs))
        }
        ExprKind::Unary(unary) => format!("<-{}>", bracketed(&unary.expr)),
        ExprKind::Paren(inner) => format!("({})", bracketed(inner)),
        _ => expr.to_string(),
    }
}

#[test]
fn operators_bind_as_in_prometheus() {
    let cases = [
        ("a + b * c", "<a + <b * c>>"),
        ("a * b + c", "<<a * b> + c>"),
        ("a - b - c", "<<a - b> - c>"),
        ("a ^ b ^ c", "<a ^ <b ^ c>>"),
        ("-a ^ b", "<-<a ^ b>>"),
        ("-a * b", "<<-a> * b>"),
        ("a ^ -b * c", "<<a ^ <-b>> * c>"),
        ("a ^ -b ^ c", "<a ^ <-<b ^ c>>>"),
        ("-1 ^ a", "<-<1 ^ a>>"),
        ("a or b and c unless d", "<a or <<b and c> unless d>>"),
        ("a == b + c", "<a == <b + c>>"),
        ("a </ 1 > b", "<<a </ 1> > b>"),
        ("a atan2 b * c % d", "<<<a atan2 b> * c> % d>"),
        ("a offset -2 ^ 2", "<a offset -2s ^ 2>"),
        ("a offset 5m + 3", "<a offset 5m + 3>"),
        ("a offset (5m) + 3", "a offset (5m) + 3"),
        ("a offset -(5m) + 3", "<a offset -(5m) + 3>"),
        ("a offset step() + 3", "<a offset step() + 3>"),
        ("-a offset 5m", "<-a offset 5m>"),
        ("a + b @ 1 offset 2m", "<a + b @ 1.000 offset 2m>"),
    ];
    for (text, tree) in cases {
        match parse(text) {
            Ok(expr) => assert_eq!(bracketed(&expr), tree, "{text}"),
            Err(error) => panic!("{text}: {error}"),
        }
    }
}

#[test]
fn odd_offsets_and_characters_are_treated_as_in_prometheus() {
    assert_eq!(parse("a offset -97e8").unwrap_err().to_string(), "1:10: parse error: duration out of range");
    assert_eq!(parse("a[-97e8]").unwrap_err().to_string(), "1:4: parse error: duration out of range");
    // Go turns NaN into the smallest integer.
    assert_eq!(parse("a offset NaN").unwrap().to_string(), "a offset -106751d23h47m16s854ms");
    let unassigned = parse("{\u{378}=\"\"}").unwrap_err().message;
    assert_eq!(unassigned, "unexpected character inside braces: '\\u0378'");
}

#[test]
fn an_info_selector_without_matchers_is_left_out_as_in_prometheus() {
    // What Prometheus prints here cannot be parsed again.
    let printed = |text: &str| parse(text).unwrap().to_string();
    assert_eq!(printed("info(a, {})"), "info(a, )");
    assert_eq!(printed("info(a, {} offset 5m)"), "info(a,  offset 5m)");
    assert_eq!(printed("info(a, {b=\"\"})"), "info(a, {b=\"\"})");
    assert_eq!(
        parse("info(a, )").unwrap_err().to_string(),
        "1:7: parse error: trailing commas not allowed in function call args"
    );
    assert!(parse("sum({})").is_err());
}

#[test]
fn keywords_are_names_where_nothing_else_fits() {
    for text in ["sum", "by", "offset", "start + end", "fill + fill_left", "and and and", "step{range=\"1\"}"]
    {
        let expr = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expr.to_string(), text);
    }
    assert!(parse("on").is_err());
    assert!(parse("bool").is_err());
}

#[test]
fn features_are_off_unless_asked_for() {
    let cases = [
        (
            "limitk(1, a)",
            "limitk() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
        ),
        ("mad_over_time(a[5m])", "function \"mad_over_time\" is not enabled"),
        ("a[5m + 1]", "experimental duration expression is not enabled"),
        ("a[5m] anchored", "anchored modifier is experimental and not enabled"),
        ("a + fill(1) b", "binop fill modifiers are experimental and not enabled"),
    ];
    for (text, message) in cases {
        assert!(parse(text).is_ok(), "{text}");
        assert_eq!(parse_expr(text, ParserOptions::default()).unwrap_err().message, message, "{text}");
    }
}

#[test]
fn refused_duration_expressions_are_placed_at_their_sign() {
    let cases = [
        ("a offset -step()", "1:10"),
        ("a offset +range()", "1:10"),
        ("a offset -min_of(1, 2)", "1:10"),
        ("a offset step()", "1:10"),
        ("a offset -min_of(1 + 1, 2)", "1:18"),
        ("a offset min_of(1, 2)", "1:17"),
        ("a[-step()]", "1:4"),
    ];
    for (text, position) in cases {
        let error = parse_expr(text, ParserOptions::default()).unwrap_err();
        assert_eq!(error.message, "experimental duration expression is not enabled", "{text}");
        assert_eq!(error.position, position, "{text}");
    }
}

#[test]
fn a_selector_ends_behind_its_offset() {
    for text in ["a offset (5m)", "a offset -(5m)", "a offset min_of(1, 2)", "a[1m] offset -(step())"] {
        assert_eq!(parse(text).unwrap().span.end as usize, text.len(), "{text}");
    }
}

#[test]
fn limits_hold_without_overflowing_the_stack() {
    // Without optimization frames are several times as large; servers' threads have 2 MiB.
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(check_limits).unwrap();
    thread.join().unwrap();
}

fn check_limits() {
    let nested = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
    assert!(parse(&nested(490)).is_ok());
    for text in [
        nested(600),
        "-".repeat(100_000) + "a",
        "sum(".repeat(100_000),
        format!("a{}", "[1m:1m]".repeat(10_000)),
        format!("a[{}1{}]", "(".repeat(10_000), ")".repeat(10_000)),
        format!("a[1{}]", "+1".repeat(10_000)),
        format!("2{}", "^2".repeat(10_000)),
    ] {
        assert!(parse(&text).is_err());
    }
    let chain = format!("a{}", " + a".repeat(45_000));
    let expr = parse(&chain).unwrap();
    assert_eq!(expr.to_string(), chain);
    assert_eq!(expr.clone().to_string(), chain);
    assert!(prettify(&expr).lines().count() > 45_000);
    let message = parse(&format!("a{}", " + a".repeat(60_000))).unwrap_err().message;
    assert_eq!(message, "expression has more than 100000 parts");
    let message = parse(&" ".repeat(MAX_TEXT_BYTES + 1)).unwrap_err().message;
    assert_eq!(message, "query text has 1048577 bytes, the limit is 1048576");
}

#[test]
fn selectors_of_the_api_may_match_everything_but_have_no_modifiers() {
    assert_eq!(parse_metric_selector("up{a=~\"b\"}").unwrap().len(), 2);
    assert_eq!(parse_metric_selector("{}").unwrap().len(), 0);
    for text in ["", "up[5m]", "up offset 5m", "1", "sum(up)"] {
        assert!(parse_metric_selector(text).is_err(), "{text}");
    }
}

#[test]
fn series_descriptions_expand() {
    let floats = |text: &str| -> Vec<f64> {
        let description = parse_series_desc(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let float = |value: &SeriesValue| match value {
            SeriesValue::Omitted => -1.0,
            SeriesValue::Float(value) => *value,
            SeriesValue::Histogram { histogram, .. } => histogram.count,
        };
        description.values.iter().map(float).collect()
    };
    assert_eq!(floats("a 1 2 3"), [1.0, 2.0, 3.0]);
    assert_eq!(
        floats("a{b=\"c\"} 1+2x2 _ _x2 4x1 5-1x1"),
        [1.0, 3.0, 5.0, -1.0, -1.0, -1.0, 4.0, 4.0, 5.0, 4.0]
    );
    assert_eq!(floats("{} -1.5e3 Inf")[1], f64::INFINITY);
    assert!(chronolith_model::is_stale(floats("a stale")[0]));
    assert_eq!(
        floats("a {{schema:1 count:4 buckets:[1 3]}}+{{schema:1 count:1 buckets:[0 1]}}x2"),
        [4.0, 5.0, 6.0]
    );
    assert_eq!(floats("a {{}}x1 {{count:NaN}}").len(), 3);
    for text in
        ["a 1 b", "a 1x", "a {{count:1 count:2}}", "a {{what:1}}", "a {{count:1", "a 1x99999999999", "a{b} 1"]
    {
        assert!(parse_series_desc(text).is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-c(){}\\[\\]0-9 :,@+*^%/<>=!~\"'`.-]{0,40}|\\PC{0,40}") {
        if let Ok(expr) = parse(&text)
            && !text.contains("info")
        {
            let printed = expr.to_string();
            proptest::prop_assert_eq!(parse(&printed).map(|again| again.to_string()), Ok(printed));
        }
        let _ = (parse_series_desc(&text), parse_metric(&text), parse_metric_selector(&text));
    }
}
