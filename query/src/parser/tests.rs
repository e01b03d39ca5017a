//! Tables of texts and what becomes of them.
//!
//! Cases: Prometheus v3.14, `promql/parser/parse_test.go`, `printer_test.go` and `prettier_test.go`, rewritten.

use super::*;

fn parse(text: &str) -> Result<Expr, ParseError> {
    parse_expr(text, ParserOptions::ALL)
}

#[test]
fn what_is_promql_parses_and_prints_to_itself() {
    for text in VALID {
        let expr = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(expr.span.end as usize <= text.len(), "{text}");
        let printed = expr.to_string();
        let again = parse(&printed).unwrap_or_else(|error| panic!("{text} as {printed}: {error}"));
        assert_eq!(again.to_string(), printed, "{text}");
    }
}

#[test]
fn mistakes_are_told_where_and_how_prometheus_does() {
    for (text, start, message) in INVALID {
        let error = match parse(text) {
            Ok(expr) => panic!("{text} parsed as {expr}"),
            Err(error) => error,
        };
        assert_eq!((error.message.as_str(), error.span.start), (*message, *start), "{text}");
    }
}

#[test]
fn printing_gives_the_normal_form() {
    for (text, printed) in PRINTED {
        assert_eq!(parse(text).unwrap().to_string(), *printed, "{text}");
    }
}

#[test]
fn long_expressions_are_split() {
    for (text, pretty) in PRETTY {
        let expr = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(prettier::prettify_to(&expr, 10), *pretty, "{text}");
    }
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

const VALID: &[&str] = &[
    "1",
    "+Inf",
    "-Inf",
    ".5",
    "5.",
    "123.4567",
    "5e-3",
    "5e3",
    "0xc",
    "0755",
    "+5.5e-3",
    "-0755",
    "1 + 1",
    "1 - 1",
    "1 * 1",
    "1 % 1",
    "1 / 1",
    "1 == bool 1",
    "1 != bool 1",
    "1 > bool 1",
    "1 >= bool 1",
    "1 < bool 1",
    "1 <= bool 1",
    "-1^2",
    "-1*2",
    "-1+2",
    "-1^-2",
    "+1 + -2 * 1",
    "1 + 2/(3*1)",
    "1 < bool 2 - 1 * 2",
    "-some_metric",
    "+some_metric",
    " +some_metric",
    r#" +{"some_metric"}"#,
    r#"offset{step="1s"}[5m]"#,
    r#"step{offset="1s"}[5m]"#,
    r#"anchored{job="test"}"#,
    r#"smoothed{job="test"}"#,
    "foo * bar",
    "foo * sum",
    "foo == 1",
    "foo == bool 1",
    "2.5 / bar",
    "foo and bar",
    "foo or bar",
    "foo unless bar",
    "foo + bar or bla and blub",
    "foo and bar unless baz or qux",
    "bar + on(foo) bla / on(baz, buz) group_right(test) blub",
    "foo * on(test,blub) bar",
    "foo * on(test,blub) group_left bar",
    "foo and on(test,blub) bar",
    "foo and on() bar",
    "foo and ignoring(test,blub) bar",
    "foo and ignoring() bar",
    "foo unless on(bar) baz",
    "foo / on(test,blub) group_left(bar) bar",
    "foo / ignoring(test,blub) group_left(blub) bar",
    "foo / ignoring(test,blub) group_left(bar) bar",
    "foo - on(test,blub) group_right(bar,foo) bar",
    "foo - ignoring(test,blub) group_right(bar,foo) bar",
    "foo",
    "min",
    "foo offset 5m",
    "foo offset -7m",
    "foo offset +(5)",
    "foo offset -(5)",
    "foo offset (5)",
    "foo[(5s)]",
    "foo OFFSET 1h30m",
    "foo OFFSET 1m30ms",
    "foo @ 1603774568",
    "foo @ -100",
    "foo @ .3",
    "foo @ 3.",
    "foo @ 3.33",
    "foo @ 3e2",
    "foo @ 3e-1",
    "foo @ 0xA",
    "foo @ -3.3e1",
    r#"foo:bar{a="bc"}"#,
    r#"{"foo"}"#,
    r#"{'foo\'bar', 'a\\dos\\path'='boo\\urns'}"#,
    r#"{'foo\'bar', `a\dos\path`="boo"}"#,
    r#"{"foo", a="bc"}"#,
    "foo{NaN='bc'}",
    "foo{bar='}'}",
    r#"foo{a="b", foo!="bar", test=~"test", bar!~"baz"}"#,
    r#"{a="b", foo!="bar", "foo", test=~"test", bar!~"baz"}"#,
    r#"foo{a="b", foo!="bar", test=~"test", bar!~"baz",}"#,
    r#"{__name__=~"bar", __name__!~"baz"}"#,
    r#"{__name__="bar", __name__="baz"}"#,
    r#"{"bar", __name__="baz"}"#,
    "test[1000ms]",
    "test[1001ms]",
    "test[1002ms]",
    "test[5s]",
    "test[5m]",
    "foo[5m30s]",
    "test[5h] OFFSET 5m",
    "test[5d] OFFSET 10s",
    "test[5w] offset 2w",
    r#"test{a="b"}[5y] OFFSET 3d"#,
    r#"test{a="b"}[5m] OFFSET 3600"#,
    "foo[3ms] @ 2.345",
    "foo[4s180ms] @ 2.345",
    "foo[4.18] @ 2.345",
    "foo[4s18ms] @ 2.345",
    "foo[4.018] @ 2.345",
    r#"test{a="b"}[5y] @ 1603774699"#,
    "test[5]",
    "some_metric[5m] @ 1m",
    "sum by (foo)(some_metric)",
    "sum by (anchored)(some_metric)",
    "sum by (smoothed)(some_metric)",
    r#"sum by ("foo bar")({"some.metric"})"#,
    r#"sum by ("foo", bar, 'baz')({"some.metric"})"#,
    "avg by (foo)(some_metric)",
    "max by (foo)(some_metric)",
    "sum without (foo) (some_metric)",
    "sum (some_metric) without (foo)",
    "stddev(some_metric)",
    "stdvar by (foo)(some_metric)",
    "sum by ()(some_metric)",
    "sum by (foo,bar,)(some_metric)",
    "sum by (foo,)(some_metric)",
    "topk(5, some_metric)",
    r#"count_values("value", some_metric)"#,
    "sum without(and, by, avg, count, alert, annotations)(some_metric)",
    "time()",
    r#"floor(some_metric{foo!="bar"})"#,
    "rate(some_metric[5m])",
    "round(some_metric)",
    "round(some_metric, 5)",
    "sum(sum)",
    "a + sum",
    r#""double-quoted string \" with escaped quote""#,
    r#"'single-quoted string \' with escaped quote'"#,
    "`backtick-quoted string`",
    r#""\a\b\f\n\r\t\v\\\" - \xFF\377\u1234\U00010111\U0001011111☺""#,
    r#"'\a\b\f\n\r\t\v\\\' - \xFF\377\u1234\U00010111\U0001011111☺'"#,
    r#"foo{bar="baz"}[10m:6s]"#,
    r#"foo{bar="baz"}[10m5s:1h6ms]"#,
    "foo[10m:]",
    r#"min_over_time(rate(foo{bar="baz"}[2s])[5m:5s])"#,
    r#"min_over_time(rate(foo{bar="baz"}[2s])[5m:])[4m:3s]"#,
    r#"min_over_time(rate(foo{bar="baz"}[2s])[5m:] offset 4m)[4m:3s]"#,
    r#"min_over_time(rate(foo{bar="baz"}[2s])[5m:] @ 1603775091)[4m:3s]"#,
    r#"min_over_time(rate(foo{bar="baz"}[2s])[5m:] @ -160377509)[4m:3s]"#,
    "sum without(and, by, avg, count, alert, annotations)(some_metric) [30m:10s]",
    "some_metric OFFSET 1m [10m:5s]",
    "some_metric @ 123 [10m:5s]",
    "some_metric @ 123 offset 1m [10m:5s]",
    "some_metric offset 1m @ 123 [10m:5s]",
    "some_metric[10m:5s] offset 1m @ 123",
    r#"(foo + bar{nm="val"})[5m:]"#,
    r#"(foo + bar{nm="val"})[5m:] offset 10m"#,
    r#"(foo + bar{nm="val"} @ 1234)[5m:] @ 1603775019"#,
    "foo @ start()",
    "foo @ end()",
    "test[5y] @ start()",
    "test[5y] @ end()",
    "foo[10m:6s] @ start()",
    "foo[10m:6s] @ end()",
    "start()",
    "end()",
    "start",
    "end",
    r#"start{end="foo"}"#,
    r#"end{start="foo"}"#,
    "foo unless on(start) bar",
    "foo unless on(end) bar",
    "info(rate(http_request_counter_total{}[5m]))",
    r#"info(http_request_counter_total{namespace="zzz"}, {foo="bar", bar="baz"})"#,
    "foo[11s+10s-5*2^2]",
    "foo[-(10s-5s)+20s]",
    "foo[-10s+15s]",
    "foo[step()]",
    "foo[  -  step  (  )  ]",
    "foo[   step  (  )  ]",
    "foo[-step()]",
    "foo offset step()",
    "foo offset -step()",
    "foo[max_of(step(),5s)]",
    "foo offset max_of(step(),5s)",
    "foo offset -min_of(5s,step()+8s)",
    "foo[range()]",
    "foo[2m/range()]",
    "foo[-range()]",
    "foo offset range()",
    "foo offset -range()",
    "foo[max_of(range(),5s)]",
    "foo[4s+4s:1s*2] offset (5s-8)",
    "foo offset 5s-8",
    "rate(foo[2m+2m])",
    "foo offset -1^1",
    "foo offset -(1^2)",
    "foo offset (-1^2)",
    "foo[-2^2]",
    "foo[0+-2^2]",
    "(sum(foo))",
    "(sum(foo) )",
    "(sum(foo) by (bar))",
    "(sum by (bar) (foo))",
    "sum by (job)(rate(http_requests_total[30m]))",
];

const INVALID: &[(&str, u32, &str)] = &[
    ("", 0, "no expression found in input"),
    ("# just a comment\n\n", 0, "no expression found in input"),
    ("1+", 2, "unexpected end of input"),
    (".", 0, "unexpected character: '.'"),
    ("2.5.", 0, r#"bad number or duration syntax: "2.5.""#),
    ("100..4", 0, r#"bad number or duration syntax: "100..""#),
    ("0deadbeef", 0, r#"bad number or duration syntax: "0de""#),
    ("1 /", 3, "unexpected end of input"),
    ("*1", 0, "unexpected <op:*>"),
    ("(1))", 4, "unexpected right parenthesis ')'"),
    ("((1)", 4, "unclosed left parenthesis"),
    (
        "999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999",
        0,
        r#"error parsing number: strconv.ParseFloat: parsing "999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999": value out of range"#,
    ),
    ("(", 1, "unclosed left parenthesis"),
    ("1 and 1", 0, r#"set operator "and" not allowed in binary scalar expression"#),
    ("1 == 1", 2, "comparisons between scalars must use BOOL modifier"),
    ("1 or 1", 0, r#"set operator "or" not allowed in binary scalar expression"#),
    ("1 unless 1", 0, r#"set operator "unless" not allowed in binary scalar expression"#),
    ("1 !~ 1", 2, "unexpected character after '!': '~'"),
    ("1 =~ 1", 2, "unexpected character after '=': '~'"),
    (
        r#"-"string""#,
        0,
        r#"unary expression only allowed on expressions of type scalar or instant vector, got "string""#,
    ),
    (
        "-test[5m]",
        0,
        r#"unary expression only allowed on expressions of type scalar or instant vector, got "range vector""#,
    ),
    ("*test", 0, "unexpected <op:*>"),
    ("@@", 0, "unexpected <op:@>"),
    (
        "1 offset 1d",
        0,
        "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
    ),
    ("foo offset 1s offset 2s", 0, "offset may not be set multiple times"),
    ("a - on(b) ignoring(c) d", 10, "unexpected <ignoring>"),
    ("foo and 1", 0, r#"set operator "and" not allowed in binary scalar expression"#),
    ("1 and foo", 0, r#"set operator "and" not allowed in binary scalar expression"#),
    ("foo or 1", 0, r#"set operator "or" not allowed in binary scalar expression"#),
    ("1 or foo", 0, r#"set operator "or" not allowed in binary scalar expression"#),
    ("foo unless 1", 0, r#"set operator "unless" not allowed in binary scalar expression"#),
    ("1 unless foo", 0, r#"set operator "unless" not allowed in binary scalar expression"#),
    ("1 or on(bar) foo", 0, "vector matching only allowed between instant vectors"),
    ("foo == on(bar) 10", 0, "vector matching only allowed between instant vectors"),
    ("foo + group_left(baz) bar", 6, "unexpected <group_left>"),
    ("foo and on(bar) group_left(baz) bar", 0, r#"no grouping allowed for "and" operation"#),
    ("foo and on(bar) group_right(baz) bar", 0, r#"no grouping allowed for "and" operation"#),
    ("foo or on(bar) group_left(baz) bar", 0, r#"no grouping allowed for "or" operation"#),
    ("foo or on(bar) group_right(baz) bar", 0, r#"no grouping allowed for "or" operation"#),
    ("foo unless on(bar) group_left(baz) bar", 0, r#"no grouping allowed for "unless" operation"#),
    ("foo unless on(bar) group_right(baz) bar", 0, r#"no grouping allowed for "unless" operation"#),
    (
        r#"http_requests{group="production"} + on(instance) group_left(job,instance) cpu_count{type="smp"}"#,
        34,
        r#"label "instance" must not occur in ON and GROUP clause at once"#,
    ),
    ("foo + bool bar", 4, "bool modifier can only be used on comparison operators"),
    ("foo + bool 10", 4, "bool modifier can only be used on comparison operators"),
    ("foo and bool 10", 4, "bool modifier can only be used on comparison operators"),
    ("foo @ +Inf", 0, "timestamp out of bounds for @ modifier: +Inf"),
    ("foo @ -Inf", 0, "timestamp out of bounds for @ modifier: -Inf"),
    ("foo @ NaN", 0, "timestamp out of bounds for @ modifier: NaN"),
    ("{", 1, "unexpected end of input inside braces"),
    ("}", 0, "unexpected character: '}'"),
    ("some{", 5, "unexpected end of input inside braces"),
    ("some}", 4, "unexpected character: '}'"),
    ("some_metric{a=b}", 14, r#"unexpected identifier "b" in label matching, expected string"#),
    (r#"some_metric{a:b="b"}"#, 13, "unexpected character inside braces: ':'"),
    (r#"foo{a*"b"}"#, 5, "unexpected character inside braces: '*'"),
    (r#"foo{a>="b"}"#, 5, "unexpected character inside braces: '>'"),
    ("foo{gibberish}", 13, r#"unexpected "}" in label matching, expected label matching operator"#),
    ("foo{1}", 4, "unexpected character inside braces: '1'"),
    ("{}", 0, "vector selector must contain at least one non-empty matcher"),
    (r#"{x=""}"#, 0, "vector selector must contain at least one non-empty matcher"),
    (r#"{x=~".*"}"#, 0, "vector selector must contain at least one non-empty matcher"),
    (r#"{x!~".+"}"#, 0, "vector selector must contain at least one non-empty matcher"),
    (r#"{x!="a"}"#, 0, "vector selector must contain at least one non-empty matcher"),
    (r#"foo{__name__="bar"}"#, 0, r#"metric name must not be set twice: "foo" or "bar""#),
    ("foo{__name__= =}", 14, r#"unexpected "=" in label matching, expected string"#),
    ("foo{,}", 4, r#"unexpected "," in label matching, expected identifier or "}""#),
    (r#"foo{__name__ == "bar"}"#, 14, r#"unexpected "=" in label matching, expected string"#),
    (
        r#"foo{__name__="bar" lol}"#,
        19,
        r#"unexpected identifier "lol" in label matching, expected "," or "}""#,
    ),
    (r#"foo{"a"=}"#, 8, r#"unexpected "}" in label matching, expected string"#),
    ("foo[5mm]", 4, r#"bad number or duration syntax: "5mm""#),
    ("foo[5m1]", 4, r#"bad number or duration syntax: "5m1""#),
    ("foo[5m:1m1]", 7, r#"bad number or duration syntax: "1m1""#),
    ("foo[5y1hs]", 4, r#"unknown unit "hs" in duration "5y1hs""#),
    ("foo[5m1h]", 4, r#"not a valid duration string: "5m1h""#),
    ("foo[5m1m]", 4, r#"not a valid duration string: "5m1m""#),
    ("foo[0m]", 4, "duration must be greater than 0"),
    (r#"foo["5m"]"#, 4, r#"unexpected character in duration expression: '"'"#),
    (
        "foo[]",
        4,
        r#"unexpected "]" in subquery or range selector, expected number, duration, step(), or range()"#,
    ),
    ("foo[-1]", 4, "duration must be greater than 0"),
    ("some_metric[5m] OFFSET 1mm", 23, r#"bad number or duration syntax: "1mm""#),
    (
        "some_metric[5m] OFFSET",
        22,
        "unexpected end of input in offset, expected number, duration, step(), or range()",
    ),
    ("some_metric OFFSET 1m[5m]", 21, "no offset modifiers allowed before range"),
    ("some_metric[5m] @", 17, "unexpected end of input in @, expected timestamp"),
    ("some_metric @ 1234 [5m]", 19, "no @ modifiers allowed before range"),
    ("some_metric @ start() [5m]", 22, "no @ modifiers allowed before range"),
    ("some_metric @ end()[5m]", 19, "no @ modifiers allowed before range"),
    ("some_metric offset step()[5m]", 25, "no offset modifiers allowed before range"),
    ("(foo + bar)[5m]", 11, "ranges only allowed for vector selectors"),
    (r#"sum by ("foo)(some_metric{})"#, 8, "unterminated quoted string"),
    ("sum without(==)(some_metric)", 12, "unexpected <op:==> in grouping opts, expected label"),
    ("sum without(,)(some_metric)", 12, r#"unexpected "," in grouping opts, expected label"#),
    ("sum without(foo,,)(some_metric)", 16, r#"unexpected "," in grouping opts, expected label"#),
    ("sum some_metric by (test)", 4, r#"unexpected identifier "some_metric""#),
    ("sum (some_metric) by test", 21, r#"unexpected identifier "test" in grouping opts, expected "(""#),
    ("sum () by (test)", 0, "no arguments for aggregate expression provided"),
    ("MIN keep_common (some_metric)", 4, r#"unexpected identifier "keep_common""#),
    ("MIN (some_metric) keep_common", 18, r#"unexpected identifier "keep_common""#),
    ("sum (some_metric) without (test) by (test)", 33, "unexpected <by>"),
    ("sum without (test) (some_metric) by (test)", 33, "unexpected <by>"),
    (
        "topk(some_metric)",
        0,
        "wrong number of arguments for aggregate expression provided, expected 2, got 1",
    ),
    ("topk(some_metric,)", 16, "trailing commas not allowed in function call args"),
    (
        "topk(some_metric, other_metric)",
        5,
        "expected type scalar in aggregation parameter, got instant vector",
    ),
    ("count_values(5, other_metric)", 13, "expected type string in aggregation parameter, got scalar"),
    (
        "rate(some_metric[5m]) @ 1234",
        0,
        "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery",
    ),
    ("floor()", 0, r#"expected 1 argument(s) in call to "floor", got 0"#),
    ("floor(some_metric, other_metric)", 0, r#"expected 1 argument(s) in call to "floor", got 2"#),
    ("floor(some_metric, 1)", 0, r#"expected 1 argument(s) in call to "floor", got 2"#),
    ("floor(1)", 6, r#"expected type instant vector in call to function "floor", got scalar"#),
    (
        "hour(some_metric, some_metric, some_metric)",
        0,
        r#"expected at most 1 argument(s) in call to "hour", got 3"#,
    ),
    ("time(some_metric)", 0, r#"expected 0 argument(s) in call to "time", got 1"#),
    ("non_existent_function_far_bar()", 0, r#"unknown function with name "non_existent_function_far_bar""#),
    ("rate(some_metric)", 5, r#"expected type range vector in call to function "rate", got instant vector"#),
    ("-=", 1, r#"unexpected "=""#),
    ("++-++-+-+-<", 10, "unexpected <op:<>"),
    ("e-+=/(0)", 3, r#"unexpected "=""#),
    ("a>b()", 2, r#"unknown function with name "b""#),
    ("rate(avg)", 5, r#"expected type range vector in call to function "rate", got instant vector"#),
    (r#"`\``"#, 3, "unterminated raw string"),
    (r#""\"#, 0, "escape sequence not terminated"),
    (r#""\c""#, 0, "unknown escape sequence U+0063 'c'"),
    (r#""\x.""#, 0, "illegal character U+002E '.' in escape sequence"),
    (r#"foo{bar="baz"}["#, 15, "unexpected end of input in duration expression"),
    ("test[5d] OFFSET 10s [10m:5s]", 0, "subquery is only allowed on instant vector, got matrix instead"),
    (
        r#"(foo + bar{nm="val"})[5m:][10m:5s]"#,
        0,
        "subquery is only allowed on instant vector, got matrix instead",
    ),
    ("rate(food[1m])[1h] offset 1h", 14, "ranges only allowed for vector selectors"),
    ("rate(food[1m])[1h] @ 100", 14, "ranges only allowed for vector selectors"),
    (
        r#"info(rate(http_request_counter_total{}[5m]), target_info{foo="bar"})"#,
        45,
        "expected label selectors only, got vector selector instead",
    ),
    (
        r#"info(http_request_counter_total{namespace="zzz"}, {foo="bar"} == 1)"#,
        50,
        "expected label selectors only",
    ),
    (
        "foo[step]",
        8,
        r#"unexpected "]" in subquery or range selector, expected number, duration, step(), or range()"#,
    ),
    ("foo[step()/0d]", 10, "division by zero"),
    ("foo[5s/0d]", 6, "division by zero"),
    ("foo offset (4d/0)", 14, "division by zero"),
    ("foo[5s%0d]", 6, "modulo by zero"),
    ("foo offset 9.5e10", 11, "duration out of range"),
    ("foo[9.5e10]", 4, "duration out of range"),
    ("sum(", 4, "unclosed left parenthesis"),
    ("sum(rate(", 9, "unclosed left parenthesis"),
    ("foo[5s x 5s]", 7, "unexpected character: 'x', expected ':'"),
    ("foo[5s s 5s]", 7, "unexpected character: 's', expected ':'"),
    ("1[5m] smoothed", 1, "ranges only allowed for vector selectors"),
    ("1[5m] anchored", 1, "ranges only allowed for vector selectors"),
];

const PRINTED: &[(&str, &str)] = &[
    (r#"sum by() (task:errors:rate10s{job="s"})"#, r#"sum(task:errors:rate10s{job="s"})"#),
    (r#"sum by(code) (task:errors:rate10s{job="s"})"#, r#"sum by (code) (task:errors:rate10s{job="s"})"#),
    (r#"sum without() (task:errors:rate10s{job="s"})"#, r#"sum without () (task:errors:rate10s{job="s"})"#),
    (
        r#"sum without(instance) (task:errors:rate10s{job="s"})"#,
        r#"sum without (instance) (task:errors:rate10s{job="s"})"#,
    ),
    (
        r#"sum by("foo.bar") (task:errors:rate10s{job="s"})"#,
        r#"sum by ("foo.bar") (task:errors:rate10s{job="s"})"#,
    ),
    (
        r#"sum without("foo.bar") (task:errors:rate10s{job="s"})"#,
        r#"sum without ("foo.bar") (task:errors:rate10s{job="s"})"#,
    ),
    (r#"topk(5, task:errors:rate10s{job="s"})"#, r#"topk(5, task:errors:rate10s{job="s"})"#),
    (
        r#"count_values("value", task:errors:rate10s{job="s"})"#,
        r#"count_values("value", task:errors:rate10s{job="s"})"#,
    ),
    ("a - on() c", "a - on () c"),
    ("a - on(b) c", "a - on (b) c"),
    ("a - on(b) group_left(x) c", "a - on (b) group_left (x) c"),
    ("a - on(b) group_left(x, y) c", "a - on (b) group_left (x, y) c"),
    ("a - on(b) group_left c", "a - on (b) group_left () c"),
    ("a - on(b) group_left() (c)", "a - on (b) group_left () (c)"),
    ("a - ignoring(b) c", "a - ignoring (b) c"),
    ("a - ignoring() c", "a - c"),
    ("a - ignoring() group_left c", "a - ignoring () group_left () c"),
    ("a + fill(-23) b", "a + fill (-23) b"),
    ("a + fill_left(-23) b", "a + fill_left (-23) b"),
    ("a + fill_right(42) b", "a + fill_right (42) b"),
    ("a + fill_left(-23) fill_right(42) b", "a + fill_left (-23) fill_right (42) b"),
    ("a + fill_left(5) fill_right(5) b", "a + fill (5) b"),
    ("a + on(b) group_left fill(-23) c", "a + on (b) group_left () fill (-23) c"),
    ("up > bool 0", "up > bool 0"),
    ("a offset 1m", "a offset 1m"),
    ("a offset -7m", "a offset -7m"),
    (r#"a{c="d"}[5m] offset 1m"#, r#"a{c="d"}[5m] offset 1m"#),
    ("a[5m] offset 1m", "a[5m] offset 1m"),
    ("a[12m] offset -3m", "a[12m] offset -3m"),
    ("a[1h:5m] offset 1m", "a[1h:5m] offset 1m"),
    ("a anchored", "a anchored"),
    ("a[5m] anchored", "a[5m] anchored"),
    (r#"a{b="c"}[5m] anchored"#, r#"a{b="c"}[5m] anchored"#),
    (r#"a{b="c"}[5m] anchored offset 1m"#, r#"a{b="c"}[5m] anchored offset 1m"#),
    (r#"a{b="c"}[5m] anchored @ start() offset 1m"#, r#"a{b="c"}[5m] anchored @ start() offset 1m"#),
    ("a smoothed", "a smoothed"),
    ("a[5m] smoothed", "a[5m] smoothed"),
    (r#"a{b="c"}[5m] smoothed"#, r#"a{b="c"}[5m] smoothed"#),
    (r#"a{b="c"}[5m] smoothed offset 1m"#, r#"a{b="c"}[5m] smoothed offset 1m"#),
    (r#"a{b="c"}[5m] smoothed @ start() offset 1m"#, r#"a{b="c"}[5m] smoothed @ start() offset 1m"#),
    (r#"{__name__="a"}"#, r#"{__name__="a"}"#),
    (r#"a{b!="c"}[1m]"#, r#"a{b!="c"}[1m]"#),
    (r#"a{b=~"c"}[1m]"#, r#"a{b=~"c"}[1m]"#),
    (r#"a{b!~"c"}[1m]"#, r#"a{b!~"c"}[1m]"#),
    ("a @ 10", "a @ 10.000"),
    ("a[1m] @ 10", "a[1m] @ 10.000"),
    ("a @ start()", "a @ start()"),
    ("a @ end()", "a @ end()"),
    ("a[1m] @ start()", "a[1m] @ start()"),
    ("a[1m] @ end()", "a[1m] @ end()"),
    (r#"{__name__="",a="x"}"#, r#"{__name__="",a="x"}"#),
    (r#"{"a.b"="c"}"#, r#"{"a.b"="c"}"#),
    (r#"{"0"="1"}"#, r#"{"0"="1"}"#),
    (r#"{"_0"="1"}"#, r#"{_0="1"}"#),
    (r#"{""="0"}"#, r#"{""="0"}"#),
    (r#"{``="0"}"#, r#"{""="0"}"#),
    ("1048576", "1048576"),
    ("foo[step()]", "foo[step()]"),
    ("foo[-step()]", "foo[-step()]"),
    ("foo[(step())]", "foo[(step())]"),
    ("foo[-(step())]", "foo[-(step())]"),
    ("foo offset step()", "foo offset step()"),
    ("foo offset -step()", "foo offset -step()"),
    ("foo offset (step())", "foo offset (step())"),
    ("foo offset -(step())", "foo offset -(step())"),
    ("foo offset +(5)", "foo offset (5)"),
    ("foo offset -(5)", "foo offset -(5)"),
    ("foo offset (5)", "foo offset (5)"),
    ("foo offset (5m)", "foo offset (5m)"),
    ("foo[(5s)]", "foo[(5s)]"),
    ("foo[(5m):(1m)]", "foo[(5m):(1m)]"),
    ("foo offset +min_of(10s, 20s)", "foo offset min_of(10s, 20s)"),
    ("foo offset -min_of(10s, 20s)", "foo offset -min_of(10s, 20s)"),
    ("foo offset -min_of(10s, +max_of(step() ^ 2, 2))", "foo offset -min_of(10s, max_of(step() ^ 2, 2))"),
    ("foo[200-min_of(-step()^+step(),1)]", "foo[200 - min_of(-step() ^ step(), 1)]"),
    (
        "foo[200 - min_of(step() + 10s, -max_of(step() ^ 2, 3))]",
        "foo[200 - min_of(step() + 10s, -max_of(step() ^ 2, 3))]",
    ),
    ("foo[range()]", "foo[range()]"),
    ("foo[-range()]", "foo[-range()]"),
    ("foo offset range()", "foo offset range()"),
    ("foo offset -range()", "foo offset -range()"),
    ("foo[max_of(range(), 5s)]", "foo[max_of(range(), 5s)]"),
    ("predict_linear(foo[1h], 3000)", "predict_linear(foo[1h], 3000)"),
    (r#"sum by("üüü") (foo)"#, r#"sum by ("üüü") (foo)"#),
    (r#"sum without("äää") (foo)"#, r#"sum without ("äää") (foo)"#),
    (r#"count by("ööö", job) (foo)"#, r#"count by ("ööö", job) (foo)"#),
];

/// With lines of ten bytes.
const PRETTY: &[(&str, &str)] = &[
    ("sum(foo)", "sum(foo)"),
    (r#"sum by() (task:errors:rate10s{job="s"})"#, "sum(\n  task:errors:rate10s{job=\"s\"}\n)"),
    (
        r#"sum without(job,foo) (task:errors:rate10s{job="s"})"#,
        "sum without (job, foo) (\n  task:errors:rate10s{job=\"s\"}\n)",
    ),
    (
        r#"sum(task:errors:rate10s{job="s"}) without(job,foo)"#,
        "sum without (job, foo) (\n  task:errors:rate10s{job=\"s\"}\n)",
    ),
    (
        r#"sum by(job,foo) (task:errors:rate10s{job="s"})"#,
        "sum by (job, foo) (\n  task:errors:rate10s{job=\"s\"}\n)",
    ),
    (
        r#"sum (task:errors:rate10s{job="s"}) by(job,foo)"#,
        "sum by (job, foo) (\n  task:errors:rate10s{job=\"s\"}\n)",
    ),
    (r#"topk(10, ask:errors:rate10s{job="s"})"#, "topk(\n  10,\n  ask:errors:rate10s{job=\"s\"}\n)"),
    (
        r#"sum by(job,foo) (sum by(job,foo) (task:errors:rate10s{job="s"}))"#,
        "sum by (job, foo) (\n  sum by (job, foo) (\n    task:errors:rate10s{job=\"s\"}\n  )\n)",
    ),
    (
        r#"sum by(job,foo) (sum by(job,foo) (sum by(job,foo) (task:errors:rate10s{job="s"})))"#,
        "sum by (job, foo) (\n  sum by (job, foo) (\n    sum by (job, foo) (\n      task:errors:rate10s{job=\"s\"}\n    )\n  )\n)",
    ),
    (
        "sum by(job,foo)\n(sum by(job,foo) (task:errors:rate10s{job=\"s\"}))",
        "sum by (job, foo) (\n  sum by (job, foo) (\n    task:errors:rate10s{job=\"s\"}\n  )\n)",
    ),
    (
        "sum by(job,foo)\n(sum(task:errors:rate10s{job=\"s\"}) without(job,foo))",
        "sum by (job, foo) (\n  sum without (job, foo) (\n    task:errors:rate10s{job=\"s\"}\n  )\n)",
    ),
    (
        "sum by(job,foo) # Comment 1.\n(sum by(job,foo) ( # Comment 2.\ntask:errors:rate10s{job=\"s\"}))",
        "sum by (job, foo) (\n  sum by (job, foo) (\n    task:errors:rate10s{job=\"s\"}\n  )\n)",
    ),
    ("a+b", "a + b"),
    ("a == bool 1", "  a\n== bool\n  1"),
    ("a + ignoring(job) b", "  a\n+ ignoring (job)\n  b"),
    ("foo_1 + foo_2", "  foo_1\n+\n  foo_2"),
    ("foo_1 + foo_2 + foo_3", "    foo_1\n  +\n    foo_2\n+\n  foo_3"),
    ("foo + baar + foo_3", "  foo + baar\n+\n  foo_3"),
    ("foo_1 + foo_2 + foo_3 + foo_4", "      foo_1\n    +\n      foo_2\n  +\n    foo_3\n+\n  foo_4"),
    (
        "foo_1 + ignoring(foo) foo_2 + ignoring(job) group_left foo_3 + on(instance) group_right foo_4",
        "      foo_1\n    + ignoring (foo)\n      foo_2\n  + ignoring (job) group_left ()\n    foo_3\n+ on (instance) group_right ()\n  foo_4",
    ),
    ("rate(foo[1m])", "rate(\n  foo[1m]\n)"),
    ("sum_over_time(foo[1m])", "sum_over_time(\n  foo[1m]\n)"),
    (
        "rate(long_vector_selector[10m:1m] @ start() offset 1m)",
        "rate(\n  long_vector_selector[10m:1m] @ start() offset 1m\n)",
    ),
    ("histogram_quantile(0.9, rate(foo[1m]))", "histogram_quantile(\n  0.9,\n  rate(\n    foo[1m]\n  )\n)"),
    (
        "max_over_time(rate(demo_api_request_duration_seconds_count[1m])[1m:] @ start() offset 1m)",
        "max_over_time(\n  rate(\n    demo_api_request_duration_seconds_count[1m]\n  )[1m:] @ start() offset 1m\n)",
    ),
    (
        r#"label_replace(up{job="api-server",service="a:c"}, "foo", "$1", "service", "(.*):.*")"#,
        "label_replace(\n  up{job=\"api-server\",service=\"a:c\"},\n  \"foo\",\n  \"$1\",\n  \"service\",\n  \"(.*):.*\"\n)",
    ),
    (
        r#"label_replace(label_replace(up{job="api-server",service="a:c"}, "foo", "$1", "service", "(.*):.*"), "foo", "$1", "service", "(.*):.*")"#,
        "label_replace(\n  label_replace(\n    up{job=\"api-server\",service=\"a:c\"},\n    \"foo\",\n    \"$1\",\n    \"service\",\n    \"(.*):.*\"\n  ),\n  \"foo\",\n  \"$1\",\n  \"service\",\n  \"(.*):.*\"\n)",
    ),
    ("(foo)", "(foo)"),
    ("(_foo_long_)", "(\n  _foo_long_\n)"),
    ("((foo_long))", "(\n  (foo_long)\n)"),
    ("((_foo_long_))", "(\n  (\n    _foo_long_\n  )\n)"),
    ("(((foo_long)))", "(\n  (\n    (foo_long)\n  )\n)"),
    ("a @ 1", "a @ 1.000"),
    ("a @ start()", "a @ start()"),
    ("vector_selector @ start()", "vector_selector @ start()"),
    ("(1 + 2)", "(1 + 2)"),
    ("(foo + bar)", "(\n  foo + bar\n)"),
    ("(foo_long + bar_long)", "(\n    foo_long\n  +\n    bar_long\n)"),
    (
        "(foo_long + bar_long + bar_2_long)",
        "(\n      foo_long\n    +\n      bar_long\n  +\n    bar_2_long\n)",
    ),
    (
        "((foo_long + bar_long) + bar_2_long)",
        "(\n    (\n        foo_long\n      +\n        bar_long\n    )\n  +\n    bar_2_long\n)",
    ),
    ("(1111 + 2222)", "(\n    1111\n  +\n    2222\n)"),
    ("(sum_over_time(foo[1m]))", "(\n  sum_over_time(\n    foo[1m]\n  )\n)"),
    (
        "histogram_quantile(0.9, rate(foo[1m] @ start()))",
        "histogram_quantile(\n  0.9,\n  rate(\n    foo[1m] @ start()\n  )\n)",
    ),
    (
        r#"(label_replace(up{job="api-server",service="a:c"}, "foo", "$1", "service", "(.*):.*"))"#,
        "(\n  label_replace(\n    up{job=\"api-server\",service=\"a:c\"},\n    \"foo\",\n    \"$1\",\n    \"service\",\n    \"(.*):.*\"\n  )\n)",
    ),
    (
        r#"(label_replace(label_replace(up{job="api-server",service="a:c"}, "foo", "$1", "service", "(.*):.*"), "foo", "$1", "service", "(.*):.*"))"#,
        "(\n  label_replace(\n    label_replace(\n      up{job=\"api-server\",service=\"a:c\"},\n      \"foo\",\n      \"$1\",\n      \"service\",\n      \"(.*):.*\"\n    ),\n    \"foo\",\n    \"$1\",\n    \"service\",\n    \"(.*):.*\"\n  )\n)",
    ),
    (
        r#"(label_replace(label_replace((up{job="api-server",service="a:c"}), "foo", "$1", "service", "(.*):.*"), "foo", "$1", "service", "(.*):.*"))"#,
        "(\n  label_replace(\n    label_replace(\n      (\n        up{job=\"api-server\",service=\"a:c\"}\n      ),\n      \"foo\",\n      \"$1\",\n      \"service\",\n      \"(.*):.*\"\n    ),\n    \"foo\",\n    \"$1\",\n    \"service\",\n    \"(.*):.*\"\n  )\n)",
    ),
    (
        r#"(node_filesystem_avail_bytes{job="node",fstype!=""} / node_filesystem_size_bytes{job="node",fstype!=""} * 100 < 40 and predict_linear(node_filesystem_avail_bytes{job="node",fstype!=""}[6h], 24*60*60) < 0 and node_filesystem_readonly{job="node",fstype!=""} == 0)"#,
        "(\n            node_filesystem_avail_bytes{fstype!=\"\",job=\"node\"}\n          /\n            node_filesystem_size_bytes{fstype!=\"\",job=\"node\"}\n        *\n          100\n      <\n        40\n    and\n        predict_linear(\n          node_filesystem_avail_bytes{fstype!=\"\",job=\"node\"}[6h],\n            24 * 60\n          *\n            60\n        )\n      <\n        0\n  and\n      node_filesystem_readonly{fstype!=\"\",job=\"node\"}\n    ==\n      0\n)",
    ),
    (
        r#"(node_filesystem_avail_bytes{job="node",fstype!=""} / node_filesystem_size_bytes{job="node",fstype!=""} * 100 < 20 and predict_linear(node_filesystem_avail_bytes{job="node",fstype!=""}[6h], 4*60*60) < 0 and node_filesystem_readonly{job="node",fstype!=""} == 0)"#,
        "(\n            node_filesystem_avail_bytes{fstype!=\"\",job=\"node\"}\n          /\n            node_filesystem_size_bytes{fstype!=\"\",job=\"node\"}\n        *\n          100\n      <\n        20\n    and\n        predict_linear(\n          node_filesystem_avail_bytes{fstype!=\"\",job=\"node\"}[6h],\n            4 * 60\n          *\n            60\n        )\n      <\n        0\n  and\n      node_filesystem_readonly{fstype!=\"\",job=\"node\"}\n    ==\n      0\n)",
    ),
    (
        "(node_timex_offset_seconds > 0.05 and deriv(node_timex_offset_seconds[5m]) >= 0) or (node_timex_offset_seconds < -0.05 and deriv(node_timex_offset_seconds[5m]) <= 0)",
        "  (\n        node_timex_offset_seconds\n      >\n        0.05\n    and\n        deriv(\n          node_timex_offset_seconds[5m]\n        )\n      >=\n        0\n  )\nor\n  (\n        node_timex_offset_seconds\n      <\n        -0.05\n    and\n        deriv(\n          node_timex_offset_seconds[5m]\n        )\n      <=\n        0\n  )",
    ),
    (
        r#"1 - ((node_memory_MemAvailable_bytes{job="node"} or (node_memory_Buffers_bytes{job="node"} + node_memory_Cached_bytes{job="node"} + node_memory_MemFree_bytes{job="node"} + node_memory_Slab_bytes{job="node"}) ) / node_memory_MemTotal_bytes{job="node"})"#,
        "  1\n-\n  (\n      (\n          node_memory_MemAvailable_bytes{job=\"node\"}\n        or\n          (\n                  node_memory_Buffers_bytes{job=\"node\"}\n                +\n                  node_memory_Cached_bytes{job=\"node\"}\n              +\n                node_memory_MemFree_bytes{job=\"node\"}\n            +\n              node_memory_Slab_bytes{job=\"node\"}\n          )\n      )\n    /\n      node_memory_MemTotal_bytes{job=\"node\"}\n  )",
    ),
    (
        r#"min by (job, integration) (rate(alertmanager_notifications_failed_total{job="alertmanager", integration=~".*"}[5m]) / rate(alertmanager_notifications_total{job="alertmanager", integration="~.*"}[5m])) > 0.01"#,
        "  min by (job, integration) (\n      rate(\n        alertmanager_notifications_failed_total{integration=~\".*\",job=\"alertmanager\"}[5m]\n      )\n    /\n      rate(\n        alertmanager_notifications_total{integration=\"~.*\",job=\"alertmanager\"}[5m]\n      )\n  )\n>\n  0.01",
    ),
    (
        r#"(count by (job) (changes(process_start_time_seconds{job="alertmanager"}[10m]) > 4) / count by (job) (up{job="alertmanager"})) >= 0.5"#,
        "  (\n      count by (job) (\n          changes(\n            process_start_time_seconds{job=\"alertmanager\"}[10m]\n          )\n        >\n          4\n      )\n    /\n      count by (job) (\n        up{job=\"alertmanager\"}\n      )\n  )\n>=\n  0.5",
    ),
    ("-1", "-1"),
    ("-vector_selector", "-vector_selector"),
    ("(-vector_selector)", "(\n  -vector_selector\n)"),
    ("-histogram_quantile(0.9,rate(foo[1m]))", "-histogram_quantile(\n  0.9,\n  rate(\n    foo[1m]\n  )\n)"),
    (
        "-histogram_quantile(0.99, sum by (le) (rate(foo[1m])))",
        "-histogram_quantile(\n  0.99,\n  sum by (le) (\n    rate(\n      foo[1m]\n    )\n  )\n)",
    ),
    (
        "-histogram_quantile(0.9, -rate(foo[1m] @ start()))",
        "-histogram_quantile(\n  0.9,\n  -rate(\n    foo[1m] @ start()\n  )\n)",
    ),
    (
        "(-histogram_quantile(0.9, -rate(foo[1m] @ start())))",
        "(\n  -histogram_quantile(\n    0.9,\n    -rate(\n      foo[1m] @ start()\n    )\n  )\n)",
    ),
    ("rate(foo[2*1h])", "rate(\n  foo[2 * 1h]\n)"),
    ("rate(foo[-5m+35m])", "rate(\n  foo[-5m + 35m]\n)"),
];
