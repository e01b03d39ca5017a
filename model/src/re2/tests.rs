//! What Go accepts, refuses and matches.

use super::*;
use proptest::prelude::*;

#[test]
fn small_patterns_are_kept_and_a_few_of_them() {
    let is_kept = |pattern: &str| KNOWN.lock().contains_key(pattern);
    for round in 0..2 {
        assert!(Re2::anchored("kept.*").unwrap().is_match("kept well"), "{round}");
        assert!(!Re2::anchored("kept.*").unwrap().is_match("not kept"), "{round}");
        // Its program is larger than what is kept, its strings are longer, it is no pattern.
        assert!(Re2::anchored(r"\pL{100}x").unwrap().is_match(&("\u{e9}".repeat(100) + "x")), "{round}");
        assert!(Re2::anchored("(a{60}|b{60}){10}").unwrap().literals().is_some(), "{round}");
        assert!(Re2::anchored("kept(").is_err(), "{round}");
    }
    assert!(!is_kept(r"\pL{100}x") && !is_kept("(a{60}|b{60}){10}") && !is_kept("kept("));
    for n in 0..3 * MAX_KNOWN {
        Re2::anchored(&format!("many{n}.*")).unwrap();
    }
    // Other tests compile patterns at the same time.
    assert!((1..=MAX_KNOWN).contains(&KNOWN.lock().len()));
}

#[test]
fn patterns_match_what_go_matches() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("", &[""], &["a"]),
        ("a|b", &["a", "b"], &["ab", "", "xa"]),
        ("foo.*", &["foo", "foobar", "foo\nbar"], &["xfoo", "fo"]),
        (r"\d+", &["123"], &["", "\u{663}"]),
        (r"\w+", &["az_09"], &["\u{e9}"]),
        (r"\s", &[" ", "\t", "\n", "\r", "\u{c}"], &["\u{a0}", "\u{b}"]),
        (r"[\d\-x]+", &["1-x"], &["y"]),
        (r"[a&&b]+", &["a&b"], &["c"]),
        (r"[[a]+", &["[a"], &["b"]),
        (r"[]a]+", &["]a"], &["b"]),
        (r"[^]a]", &["b"], &["]", "a"]),
        (r"[a-]+", &["a-"], &["b"]),
        (r"[~~&-]+", &["~-&"], &["a"]),
        (r"[[:alpha:]]+", &["ab"], &["1"]),
        (r"[[:^alpha:]]+", &["12"], &["a"]),
        (r"\Qa.b*\E+", &["a.b*", "a.b**"], &["axb"]),
        (r"\Qa.b", &["a.b"], &["axb"]),
        (r"a{,2}", &["a{,2}"], &["aa"]),
        (r"a{2}", &["aa"], &["a", "a{2}"]),
        (r"{a}", &["{a}"], &[]),
        (r"\<a\>", &["<a>"], &["a"]),
        (r"\101\x42\x{43}", &["ABC"], &[]),
        (r"(?i)abc", &["ABC", "abc"], &["abd"]),
        (r"(?i:a)b", &["Ab"], &["AB"]),
        (r"(?m)a$\nb", &["a\nb"], &["ab"]),
        (r"(?-s)a.b", &["axb"], &["a\nb"]),
        (r"a\bb|a\b-", &["a-"], &["ab"]),
        (r"a\Bb", &["ab"], &["a-b"]),
        (r"\pL\p{Greek}\p{^Greek}\PL", &["a\u{3b1}b1"], &["a\u{3b1}\u{3b1}1"]),
        (r"(?P<x>a)(?<y>b)", &["ab"], &["a"]),
        (r"#\ ", &["# "], &["#"]),
        ("a.c", &["a\u{e9}c"], &["a\u{e9}\u{e9}c"]),
        (r"a|b$|^c", &["a", "b", "c"], &["ab"]),
        ("(?)a", &["a"], &["b"]),
        // Flags are no piece of the pattern: what stands before them is repeated.
        ("a(?i)?", &["a", ""], &["A"]),
        ("a(?i)*b", &["aaB", "b"], &["AB"]),
        ("a(?s)(?i){2}B??", &["aa", "aab"], &["a"]),
        ("a*(?i)*B", &["aab"], &["Ab"]),
        ("(?P<n>a)(?P<n>b)", &["ab"], &["a"]),
    ];
    for (pattern, matching, other) in cases {
        let re = Re2::anchored(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for text in *matching {
            assert!(re.is_match(text), "{pattern:?} should match {text:?}");
        }
        for text in *other {
            assert!(!re.is_match(text), "{pattern:?} should not match {text:?}");
        }
    }
}

#[test]
fn what_go_refuses_is_refused_in_its_words() {
    let cases = [
        ("(a", "missing closing ): `(a`"),
        ("a)", "unexpected ): `a)`"),
        ("[a", "missing closing ]: `[a`"),
        ("*", "missing argument to repetition operator: `*`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a+*", "invalid nested repetition operator: `+*`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        ("[b-a]", "invalid character class range: `b-a`"),
        (r"\y", r"invalid escape sequence: `\y`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"\Z", r"invalid escape sequence: `\Z`"),
        (r"\C", r"invalid escape sequence: `\C`"),
        ("a\\", "trailing backslash at end of expression: ``"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
        (r"\p{Nope}", r"invalid character class range: `\p{Nope}`"),
        ("(?i)+", "missing argument to repetition operator: `+`"),
        ("(?P<a-b>a)", "invalid named capture: `(?P<a-b>`"),
        ("(?P<", "invalid or unsupported Perl syntax: `(?P`"),
        ("[[:nope:]]", "invalid character class range: `[:nope:]`"),
        (r"[a-\d]", r"invalid escape sequence: `\d`"),
        (r"\x1g", r"invalid escape sequence: `\x1g`"),
        (r"\xg-", r"invalid escape sequence: `\xg-`"),
        (r"\x{1g}", r"invalid escape sequence: `\x{1g`"),
        (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
    ];
    for (pattern, expected) in cases {
        let error = Re2::anchored(pattern).expect_err(pattern);
        assert_eq!(error.to_string(), format!("error parsing regexp: {expected}"));
    }
}

#[test]
fn flags_may_be_repeated_and_the_last_counts() {
    let matches = |pattern: &str, text: &str| Re2::anchored(pattern).unwrap().is_match(text);
    assert!(matches("(?ii)a", "A"));
    assert!(!matches("(?i-i)a", "A"));
    assert!(matches("(?is-s:a)(?:b)(?)", "Ab"));
    assert!(!matches("(?s-s:.)", "\n"));
    assert!(matches("(?P<1>a)", "a"));
}

#[test]
fn choices_of_strings_become_literals() {
    let literals = |pattern: &str| Re2::anchored(pattern).unwrap().literals().map(<[String]>::to_vec);
    assert_eq!(literals("b|a"), Some(vec!["a".into(), "b".into()]));
    assert_eq!(literals("node-(1|2)"), Some(vec!["node-1".into(), "node-2".into()]));
    assert_eq!(literals("a?"), Some(vec![String::new(), "a".into()]));
    assert_eq!(literals("a.*"), None);
    assert_eq!(literals(r"a\bb"), None);
    assert_eq!(Re2::anchored("foo-[0-9]+").unwrap().prefix(), "foo-");
    assert_eq!(Re2::anchored("foo|fab.*").unwrap().prefix(), "f");
}

#[test]
fn templates_expand_as_in_go() {
    let re = Re2::anchored(r"(\w+)-(?P<n>\d+)").unwrap();
    let cases = [
        ("$1", "node"),
        ("${1}x", "nodex"),
        ("$1x", ""),
        ("$n:$2", "7:7"),
        ("$$1", "$1"),
        ("$", "$"),
        ("a$9b", "a"),
    ];
    for (template, expected) in cases {
        assert_eq!(re.expand("node-7", template).as_deref(), Some(expected), "{template}");
    }
    assert_eq!(re.expand("node", "$1"), None);
    for (template, expected) in
        [("${1", "${1"), ("${}", "${}"), ("$ü", ""), ("$01", ""), ("${n}$$${2}", "7$7")]
    {
        assert_eq!(re.expand("node-7", template).as_deref(), Some(expected), "{template}");
    }
    let re = Re2::anchored("(?P<n>a)|(?P<n>b)").unwrap();
    assert_eq!(re.expand("b", "<$n>").as_deref(), Some("<b>"));
}

#[test]
fn huge_programs_are_refused() {
    assert!(Re2::anchored(r"((\pL{1000}){1000}){1000}").is_err());
}

proptest! {
    #[test]
    fn no_pattern_panics(pattern in r"[\\\[\](){}|*+?.^$a-c0-9QEpPxdwsi:<>=!&~-]{0,24}", text in "[a-c0-9]{0,8}") {
        if let Ok(re) = Re2::anchored(&pattern) {
            let matched = re.is_match(&text);
            prop_assert_eq!(matched, re.regex.is_match(text.as_bytes()), "{}", pattern);
        }
    }
}
