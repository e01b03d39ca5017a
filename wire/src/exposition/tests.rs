//! Bodies good and bad. Cases of Prometheus's own parsers are marked with the test they come from.

use super::*;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// An entry as one line of text.
fn describe(entry: &Entry<'_>) -> String {
    match entry {
        Entry::Type { name, metric_type } => format!("TYPE {name} {}", metric_type.as_str()),
        Entry::Help { name, text } => format!("HELP {name} {text:?}"),
        Entry::Unit { name, unit } => format!("UNIT {name} {unit}"),
        Entry::Comment => "comment".to_owned(),
        Entry::Series(series) => {
            let labels = series.labels().map_or_else(|error| error.to_string(), |labels| labels.to_string());
            let timestamp = series.timestamp.map_or(String::new(), |timestamp| format!(" @{timestamp}"));
            let exemplar = series.exemplar(-1).map_or(String::new(), |exemplar| {
                let exemplar = exemplar.unwrap();
                format!(" # {} {} @{}", exemplar.labels, exemplar.value, exemplar.timestamp)
            });
            format!("{labels} {}{timestamp}{exemplar}", series.value)
        }
    }
}

fn parse(body: &[u8], format: Format) -> Result<Vec<String>, ParseError> {
    Parser::new(body, format).map(|entry| entry.map(|entry| describe(&entry))).collect()
}

/// Source: Prometheus v3.14, `model/textparse/promparse_test.go`, `TestPromParse`.
#[test]
fn the_text_format_is_read_as_prometheus_reads_it() {
    let body = "# HELP go_gc_duration_seconds A summary of the GC invocation durations.
# \tTYPE go_gc_duration_seconds summary
go_gc_duration_seconds{quantile=\"0\"} 4.9351e-05
go_gc_duration_seconds{quantile=\"0.25\",} 7.424100000000001e-05
go_gc_duration_seconds{ quantile=\"0.9\", a=\"b\"} 8.3835e-05
# TYPE h histogram
h_bucket{le=\"1\"} 423
h_bucket{le=\"+Inf\"} 1423
# Hrandom comment starting with prefix of HELP
#
# HELP nohelp1
# HELP nohelp2 
go { quantile = \"2.0\" a = \"b\" } 8.3835e-05
some:aggregate:rate5m{a_b=\"c\"}\t1
# TYPE go_goroutines gauge

go_goroutines 33  \t123123
testmetric{label=\"\\\"bar\\\"\"} NaN
# HELP metric foo\\n\\\\x00bar
null_byte_metric{a=\"abc\x00\"} -Inf";
    let expected = [
        r#"HELP go_gc_duration_seconds "A summary of the GC invocation durations.""#,
        "TYPE go_gc_duration_seconds summary",
        r#"{__name__="go_gc_duration_seconds", quantile="0.0"} 0.000049351"#,
        r#"{__name__="go_gc_duration_seconds", quantile="0.25"} 0.00007424100000000001"#,
        r#"{__name__="go_gc_duration_seconds", a="b", quantile="0.9"} 0.000083835"#,
        "TYPE h histogram",
        r#"{__name__="h_bucket", le="1.0"} 423"#,
        r#"{__name__="h_bucket", le="+Inf"} 1423"#,
        "comment",
        "comment",
        r#"HELP nohelp1 """#,
        r#"HELP nohelp2 """#,
        r#"{__name__="go", a="b", quantile="2.0"} 0.000083835"#,
        r#"{__name__="some:aggregate:rate5m", a_b="c"} 1"#,
        "TYPE go_goroutines gauge",
        r#"{__name__="go_goroutines"} 33 @123123"#,
        r#"{__name__="testmetric", label="\"bar\""} NaN"#,
        r#"HELP metric "foo\n\\x00bar""#,
        r#"{__name__="null_byte_metric", a="abc\x00"} -inf"#,
    ];
    assert_eq!(parse(body.as_bytes(), Format::Text).unwrap(), expected);
}

/// Source: Prometheus v3.14, `model/textparse/promparse_test.go`, `TestUTF8PromParse`.
#[test]
fn names_in_quotes_may_be_any_utf8() {
    let body = r#"# TYPE "go.gc_duration_seconds" summary
{"go.gc_duration_seconds",quantile="0"} 1
{ "go.gc_duration_seconds", quantile= "1.0", a= "b", } 2
{quantile="1.0","last"} 3
{"go.gc_duration_seconds_count"} 99
{"Heizölrückstoßabdämpfung 10€ metric with \"interesting\" {character\nchoices}","strange©™"="6"} 10.0"#;
    let expected = [
        "TYPE go.gc_duration_seconds summary",
        r#"{__name__="go.gc_duration_seconds", quantile="0.0"} 1"#,
        r#"{__name__="go.gc_duration_seconds", a="b", quantile="1.0"} 2"#,
        r#"{__name__="last", quantile="1.0"} 3"#,
        r#"{__name__="go.gc_duration_seconds_count"} 99"#,
        r#"{__name__="Heizölrückstoßabdämpfung 10€ metric with \"interesting\" {character\nchoices}", "strange©™"="6"} 10"#,
    ];
    assert_eq!(parse(body.as_bytes(), Format::Text).unwrap(), expected);
    let body =
        body.replace(' ', "").replace("TYPE", " TYPE ").replace("summary", " summary").replace('}', "} ");
    let body = body.replace("choices} ", "choices}").replace("character", "") + "\n# EOF\n";
    let entries = parse(body.as_bytes(), Format::OpenMetrics).unwrap();
    assert_eq!(entries.len(), 6);
    assert_eq!(entries[..5], expected[..5]);
}

/// Source: Prometheus v3.14, `promparse_test.go`, `TestPromParseErrors` and `TestPromNullByteHandling`.
#[test]
fn bad_text_is_refused_with_line_and_reason() {
    let check = |body: &[u8], expected: &str| {
        let error = parse(body, Format::Text).unwrap_err();
        assert_eq!(error.to_string(), expected, "{:?}", String::from_utf8_lossy(body));
    };
    check(b"a", r#"line 1: expected value after metric, at "a""#);
    check(b"ok 1\n\na{b='c'} 1\n", r#"line 3: expected label value in quotes, at "a{b='""#);
    check(b"a{b=\n", r#"line 1: expected label value in quotes, at "a{b=\n""#);
    check(b"a{\xff=\"foo\"} 1\n", "line 1: expected label name, at \"a{\u{fffd}\"");
    check(b"a{b=\"\xff\"} 1\n", "line 1: invalid UTF-8 in label value, at \"a{b=\\\"\u{fffd}\\\"}\"");
    check(br#"{"a", "b = "c"}"#, r#"line 1: expected equal sign after label name, at "{\"a\", \"b = \"c""#);
    check(br#"{"a",b\nc="d"} 1"#, r#"line 1: expected equal sign after label name, at "{\"a\",b\\""#);
    check(b"a true\n", r#"line 1: "true" is not a number that can be read, at "a true\n""#);
    check(
        b"something_weird{problem=\"",
        r#"line 1: expected label value in quotes, at "something_weird{problem=\"""#,
    );
    check(b"empty_label_name{=\"\"} 0", r#"line 1: expected label name, at "empty_label_name{=""#);
    check(b"{A}0", r#"line 1: expected equal sign after label name, at "{A}""#);
    check(b"foo 1_2\n", r#"line 1: "1_2" is not a number that can be read, at "foo 1_2\n""#);
    check(b"foo 0x1p-3\n", r#"line 1: "0x1p-3" is not a number that can be read, at "foo 0x1p-3\n""#);
    check(b"foo 0 1_2\n", r#"line 1: expected end of line after timestamp, at "foo 0 1_""#);
    check(b"foo 0 -1\n", r#"line 1: expected timestamp or end of line after value, at "foo 0 -""#);
    check(
        b"foo 0 99999999999999999999\n",
        r#"line 1: "99999999999999999999" is not a number that can be read, at "foo 0 99999999999999999999\n""#,
    );
    check(br#"{a="ok"} 1"#, r#"line 1: metric name missing, at "{a=\"ok\"} ""#);
    check(br#"x{"y"} 1"#, r#"line 1: metric name given twice, at "x{\"y\"}""#);
    check(b"# TYPE #\n#EOF\n", r##"line 1: expected metric name after HELP, TYPE or UNIT, at "# TYPE #""##);
    check(b"# TYPE a  counter\n", r##"line 1: invalid metric type " counter", at "# TYPE a  counter\n""##);
    check(b"# HELP a \xff\n", "line 1: invalid UTF-8 in help text, at \"# HELP a \u{fffd}\\n\"");
    check(b"a{b=\x00\"ssss\"} 1\n", r#"line 1: expected label value in quotes, at "a{b=\0""#);
    check(b"a{b\x00=\"hiih\"}\t1", r#"line 1: expected equal sign after label name, at "a{b\0""#);
    check(b"a 0 1\x00", r#"line 1: expected end of line after timestamp, at "a 0 1\0""#);
    check(b"\x00", r#"line 1: expected a valid start of a line, at "\0""#);
}

#[test]
fn openmetrics_is_read_as_prometheus_reads_it() {
    let body = r#"# HELP foo_seconds Help with \"quotes\".
# TYPE foo_seconds counter
# UNIT foo_seconds seconds
foo_seconds_total{a="b"} 17.0 1520879607.789 # {id="counter-test"} 5
foo_seconds_created{a="b"} 1520872607.123
# TYPE hh histogram
hh_bucket{le="1"} 3 # {trace="x\"y",n="1"} 0.5 1520879607.789
hh_bucket{le="+Inf"} NaN
# TYPE s stateset
s{s="a",} 1 -1.5
# EOF
"#;
    let expected = [
        r#"HELP foo_seconds "Help with \"quotes\".""#,
        "TYPE foo_seconds counter",
        "UNIT foo_seconds seconds",
        r#"{__name__="foo_seconds_total", a="b"} 17 @1520879607789 # {id="counter-test"} 5 @-1"#,
        r#"{__name__="foo_seconds_created", a="b"} 1520872607.123"#,
        "TYPE hh histogram",
        r#"{__name__="hh_bucket", le="1.0"} 3 # {n="1", trace="x\"y"} 0.5 @1520879607789"#,
        r#"{__name__="hh_bucket", le="+Inf"} NaN"#,
        "TYPE s stateset",
        r#"{__name__="s", s="a"} 1 @-1500"#,
    ];
    assert_eq!(parse(body.as_bytes(), Format::OpenMetrics).unwrap(), expected);
}

/// Source: Prometheus v3.14, `openmetricsparse_test.go`, `TestOpenMetricsParseErrors`.
#[test]
fn bad_openmetrics_is_refused() {
    let check = |body: &[u8], expected: &str| {
        let error = parse(body, Format::OpenMetrics).expect_err(&String::from_utf8_lossy(body));
        assert_eq!(error.reason.to_string(), expected, "{:?}", String::from_utf8_lossy(body));
    };
    for body in ["", "metric 1", "metric 1\n", "metric", "metric_total 1 # {aa=\"bb\"} 4", "a{b=\"c\"}"] {
        check(body.as_bytes(), "data does not end with # EOF");
    }
    for body in ["# EOF\na 1", "# EOF\n\n", "# EOFa 1"] {
        check(body.as_bytes(), "unexpected data after # EOF");
    }
    for body in
        ["\n", "\n\n#EOF\n", " a 1\n# EOF\n", "9\n# EOF\n", " # EOF\n", "#\tTYPE c counter\n", "#", "#EOF\n"]
    {
        check(body.as_bytes(), "expected a valid start of a line");
    }
    for body in ["#  TYPE c counter\n", "# H", "# hello\n"] {
        check(body.as_bytes(), "expected HELP, TYPE, UNIT or EOF after #");
    }
    check(b"# TYPE u untyped\n", r#"invalid metric type "untyped""#);
    check(b"# TYPE c counter \n", r#"invalid metric type "counter ""#);
    check(b"# TYPE c  counter\n", r#"invalid metric type " counter""#);
    for body in ["# TYPE \n", "# UNIT \n", "# HELP \n"] {
        check(body.as_bytes(), "expected metric name after HELP, TYPE or UNIT");
    }
    for body in ["# TYPE m\n", "# UNIT m\n", "# HELP m\n"] {
        check(body.as_bytes(), "expected text after metric name");
    }
    check(b"# UNIT metricsuffix suffix\n", r#"unit "suffix" is not a suffix of metric "metricsuffix""#);
    check(b"# UNIT suffix suffix\n", r#"unit "suffix" is not a suffix of metric "suffix""#);
    for body in ["a\n# EOF\n", "a\t1\n# EOF\n", "a{b=\"c\"}\n"] {
        check(body.as_bytes(), "expected value after metric");
    }
    check(b"a 1\t2\n", r#""1\t2" is not a number that can be read"#);
    check(b"a 1 \n", "expected timestamp");
    check(b"a 1 2 \n", "expected end of line");
    check(b"a 1 2 #\n", "expected end of line");
    check(b"a 1 1 1\n", "expected end of line");
    check(b"a 1 1z\n", r#""1z" is not a number that can be read"#);
    check(b"a{b='c'} 1\n", "expected label value in quotes");
    check(b"a{b=\"c\nd\"} 1\n", "expected label value in quotes");
    for body in ["a{,b=\"c\"} 1\n", "a{b=\"c\",,d=\"e\"} 1\n", "a{ b=\"c\"} 1\n", "a{=\"\"} 0\n"] {
        check(body.as_bytes(), "expected label name");
    }
    check(b"a{b=\"c\"d=\"e\"} 1\n", "expected comma or closing brace after label value");
    check(b"a{b=\"\xff\"} 1\n# EOF\n", "invalid UTF-8 in label value");
    check(b"{b=\"c\",} 1", "metric name missing");
    for body in ["a 1 NaN\n", "a 1 -Inf\n", "h 1 # {aa=\"bb\"} 4 NaN\n"] {
        check(body.as_bytes(), "timestamp is not finite");
    }
    check(b"c 1 # {aa=bb}\n", "expected label value in quotes");
    check(b"c 1 # {aa=\"bb\"}\n", "expected value after exemplar labels");
    check(b"c 1 # {bb}\n", "expected equal sign after label name");
    check(b"c 1 # {\"bb\"}\n", "expected equal sign after label name");
    check(b"c 1 # {aa=\"bb\",,cc=\"dd\"} 1\n", "expected label name");
    check(b"c 1 # {aa=\"bb\"} 1_2\n", r#""1_2" is not a number that can be read"#);
    assert_eq!(parse(b"# EOF", Format::OpenMetrics), Ok(vec![]));
}

#[test]
fn labels_that_cannot_be_stored_are_named() {
    let labels = |body: &'static [u8]| match Parser::new(body, Format::Text).next_entry() {
        Ok(Some(Entry::Series(series))) => series.labels().unwrap_err().to_string(),
        other => panic!("no series: {other:?}"),
    };
    assert_eq!(labels(b"a{b=\"1\",b=\"2\"} 1"), "label \"b\" occurs twice");
    assert_eq!(labels(b"a{\"\"=\"1\"} 1"), "invalid metric name or label name in \"a{\\\"\\\"=\\\"1\\\"}\"");
    assert_eq!(labels(b"{\"\"} 1"), "invalid metric name or label name in \"{\\\"\\\"}\"");
}

#[test]
fn the_raw_bytes_of_a_series_are_its_name_and_braces() {
    let raw = |body: &'static [u8], format| match Parser::new(body, format).next_entry() {
        Ok(Some(Entry::Series(series))) => series.raw,
        other => panic!("no series: {other:?}"),
    };
    assert_eq!(raw(b"  a 1", Format::Text), b"a");
    assert_eq!(raw(b"a {b=\"c\"}  1 2", Format::Text), b"a {b=\"c\"}");
    assert_eq!(raw(b"{\"a\"} 1", Format::Text), b"{\"a\"}");
    assert_eq!(raw(b"a{b=\"c\"} 1 # {d=\"e\"} 1\n", Format::OpenMetrics), b"a{b=\"c\"}");
}

/// The conformance data, or `None`, with a word about it, where it is not.
fn conformance(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance").join(folder);
    if !path.is_dir() {
        eprintln!("skipped: no conformance data at {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn recorded_bodies_are_read_to_their_end() {
    let Some(folder) = conformance("exposition") else { return };
    let check = |name: &str, format, n_series: usize| {
        let body = std::fs::read(folder.join(name)).unwrap();
        let mut found = 0;
        for entry in Parser::new(&body, format) {
            if let Entry::Series(series) = entry.unwrap_or_else(|error| panic!("{name}: {error}")) {
                series.labels().unwrap_or_else(|error| panic!("{name}: {error}"));
                found += 1;
            }
        }
        let lines = String::from_utf8(body).unwrap();
        let expected = lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert_eq!(found, expected, "{name}");
        assert!(found >= n_series, "{name}: {found}");
    };
    check("alltypes.237mfs.nometa.prom.txt", Format::Text, 1000);
    check("alltypes.237mfs.prom.txt", Format::Text, 1000);
    check("alltypes.5mfs.om.txt", Format::OpenMetrics, 30);
    check("1histogram.om.txt", Format::OpenMetrics, 10);
}

/// What OpenMetrics forbids and Prometheus's parser accepts, because it knows lines but not families:
/// the beginning of the case's name, how many such cases, and what is wrong with them.
const LAXER_THAN_OPENMETRICS: &[(&str, usize, &str)] = &[
    ("bad_clashing_names_", 3, "a family declared twice, or a name that a family implies"),
    ("bad_counter_values_", 20, "counters that are negative or not a number"),
    ("bad_exemplar_complex_chars", 1, "exemplar labels of more than 128 characters"),
    ("bad_exemplars_6", 1, "exemplar labels of more than 128 characters"),
    ("bad_exemplars_on_unallowed_metric_types_", 3, "exemplars of gauges, infos and state sets"),
    ("bad_exemplars_on_unallowed_samples_", 4, "exemplars of sums and creation times"),
    ("bad_grouping_or_ordering_", 10, "samples of a family not together, or times that go back"),
    ("bad_histograms_", 13, "buckets, counts and sums that do not go together"),
    ("bad_info_and_stateset_values_", 2, "an info or a state that is neither 0 nor 1"),
    ("bad_invalid_labels_2", 1, "a label name twice: refused when the labels are read"),
    ("bad_invalid_labels_5", 1, "a label name twice: refused when the labels are read"),
    ("bad_metadata_in_wrong_place_", 3, "metadata behind samples"),
    ("bad_missing_or_extra_commas_2", 1, "a comma behind the last label"),
    ("bad_missing_or_invalid_labels_for_a_type_", 8, "no le or quantile, or a senseless one"),
    ("bad_repeated_metadata_", 3, "the same metadata twice"),
    ("bad_stateset_info_values_", 4, "an info or a state that is neither 0 nor 1"),
    ("bad_unit_6", 1, "a unit of an info"),
    ("bad_unit_7", 1, "a unit of a state set"),
];

#[test]
fn openmetrics_cases_are_accepted_and_refused() {
    let Some(folder) = conformance("openmetrics") else { return };
    let mut laxer = Vec::new();
    let mut n_cases = 0;
    for case in std::fs::read_dir(folder).unwrap() {
        let case = case.unwrap();
        let name = case.file_name().into_string().unwrap();
        let body = std::fs::read(case.path().join("metrics")).unwrap();
        let expected = std::fs::read_to_string(case.path().join("test.json")).unwrap();
        let should_parse = expected.contains("\"shouldParse\": true");
        let result: Result<Vec<_>, _> = Parser::new(&body, Format::OpenMetrics).collect();
        n_cases += 1;
        match result {
            Err(error) => assert!(!should_parse, "{name}: {error}"),
            Ok(_) if !should_parse => laxer.push(name),
            Ok(_) => {}
        }
    }
    assert!(n_cases > 100, "{n_cases}");
    for (prefix, n_known, why) in LAXER_THAN_OPENMETRICS {
        let before = laxer.len();
        laxer.retain(|name| !name.starts_with(prefix));
        assert_eq!(before - laxer.len(), *n_known, "{prefix}: {why}");
    }
    assert_eq!(laxer, [""; 0]);
}

proptest! {
    #[test]
    fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = parse(&body, Format::Text);
        let _ = parse(&body, Format::OpenMetrics);
    }

    /// Pieces of the grammar in any order get further than noise.
    #[test]
    fn bodies_of_fragments_never_panic(
        pieces in proptest::collection::vec(
            prop::sample::select(vec![
                "a", "{", "}", "\"", "=", ",", " ", "\n", "\\", "1", "# ", "HELP ", "TYPE ", "UNIT ", "EOF",
                "counter", "\"x\"", "le=\"1\"", " # {", "\t", "é", "\0", "NaN", "_a",
            ]),
            0..30,
        )
    ) {
        let body = pieces.concat();
        let _ = parse(body.as_bytes(), Format::Text);
        let _ = parse(body.as_bytes(), Format::OpenMetrics);
    }

    #[test]
    fn label_values_come_back(value in "[^\0]{1,12}", name in "[a-z.é]{1,4}") {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        for format in [Format::Text, Format::OpenMetrics] {
            let body = format!("m{{\"{name}\"=\"{escaped}\"}} 1\n# EOF\n");
            let Ok(Some(Entry::Series(series))) = Parser::new(body.as_bytes(), format).next_entry() else {
                panic!("no series in {body:?}");
            };
            let labels = series.labels().unwrap();
            prop_assert_eq!(labels.get(&name), Some(&*value));
        }
    }
}
