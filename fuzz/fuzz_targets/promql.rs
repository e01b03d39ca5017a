//! PromQL text: parsing ends in a tree or an error with a position, and what a tree prints as parses
//! and prints the same again.
#![no_main]

use chronolith_query::parser::{ParserOptions, parse_expr, parse_metric_selector, parse_series_desc, prettify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = parse_metric_selector(text);
    let _ = parse_series_desc(text);
    for options in [ParserOptions::default(), ParserOptions::ALL] {
        let expr = match parse_expr(text, options) {
            Ok(expr) => expr,
            Err(error) => {
                assert!(error.span.end as usize <= text.len() + 1);
                continue;
            }
        };
        let printed = expr.to_string();
        let again = parse_expr(&printed, options).unwrap_or_else(|error| panic!("{printed}: {error}"));
        assert_eq!(again.to_string(), printed);
        let pretty = prettify(&expr);
        let again = parse_expr(&pretty, options).unwrap_or_else(|error| panic!("{pretty}: {error}"));
        assert_eq!(again.to_string(), printed);
    }
});
