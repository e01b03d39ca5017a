//! Trees of a dozen queries over five series, ten minutes at 15 s.

use crate::engine::{Engine, EngineOptions, Features, QueryRequest};
use crate::explain::{Clock, Explanation};
use crate::limits::NoControl;
use crate::script::parse::CommandKind;
use crate::script::run::store_load;
use crate::script::{MemoryStore, Script, ScriptStore as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Goes on by a millisecond each time it is looked at.
#[derive(Default)]
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn explain(text: &str, range: bool, analyze: bool) -> Explanation {
    let script = "load 15s\n  a{x=\"1\"} 0+1x40\n  a{x=\"2\"} 0+2x40\n  b{x=\"1\"} 7x40\n  b{x=\"2\"} 8x40\n  c 1+1x40\n";
    let mut store = MemoryStore::new();
    for command in Script::parse(script).unwrap().commands {
        if let CommandKind::Load(load) = command.kind {
            store_load(&load, &mut store).unwrap();
        }
    }
    let options = EngineOptions { threads: 1, features: Features::scripts(), ..EngineOptions::default() };
    let (start, interval_ms) = if range { (300_000, 60_000) } else { (600_000, 0) };
    let request =
        QueryRequest { text, start, end: 600_000, interval_ms, range, lookback_delta_ms: Some(60_000) };
    let clock = analyze.then(|| Arc::new(Ticks::default()) as Arc<dyn Clock>);
    Engine::new(options)
        .explain(store.queryable(), &request, &NoControl, clock)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The operators, indented, and those remarks that begin with one of `wanted`.
fn outline(text: &str, wanted: &[&str]) -> Vec<String> {
    let explanation = explain(text, true, false);
    let mut lines = Vec::new();
    for node in &explanation.nodes {
        lines.push(format!("{}{}", " ".repeat(node.depth), node.operator));
        let remarks =
            node.remarks.iter().filter(|remark| wanted.iter().any(|begin| remark.starts_with(begin)));
        lines.extend(remarks.map(|remark| format!("{}- {remark}", " ".repeat(node.depth))));
    }
    lines
}

#[test]
fn trees_show_operators_and_why_values_are_read() {
    let cases: [(&str, &[&str]); 12] = [
        ("a", &["select {__name__=\"a\"}", "- values: read, they are the result"]),
        (
            "count(a)",
            &[
                "count by ()",
                " select {__name__=\"a\"} presence",
                " - values: not read, count by () asks only for presence",
            ],
        ),
        (
            "sum by (x) (a)",
            &["sum by (x)", " select {__name__=\"a\"}", " - values: read, sum by (x) needs them"],
        ),
        ("rate(a[5m])", &["rate()", " range 5m {__name__=\"a\"}", " - values: read, rate() needs them"]),
        (
            "count_over_time(a[5m] offset 1m)",
            &[
                "count_over_time()",
                " range 5m {__name__=\"a\"} offset 1m",
                " - values: not read, count_over_time() asks only for times",
            ],
        ),
        (
            "a and on (x) b",
            &[
                "and",
                " select {__name__=\"a\"}",
                " - values: read, and hands them on",
                " select {__name__=\"b\"} presence",
                " - values: not read, and asks only for presence",
            ],
        ),
        (
            "a > bool 1",
            &["> bool", " select {__name__=\"a\"}", " - values: read, > bool needs them", " number 1"],
        ),
        (
            "timestamp(a)",
            &[
                "timestamp()",
                " select {__name__=\"a\"}",
                " - values: not read, timestamp() asks only for times",
            ],
        ),
        (
            "topk(2, -a)",
            &[
                "topk by ()",
                " number 2",
                " negate",
                "  select {__name__=\"a\"}",
                "  - values: read, negate needs them",
            ],
        ),
        (
            "max_over_time(a[4m:1m])",
            &[
                "max_over_time()",
                " subquery 4m every 1m",
                "  select {__name__=\"a\"}",
                "  - values: read, subquery 4m every 1m needs them",
            ],
        ),
        (
            "a @ 100",
            &["once", " select {__name__=\"a\"} at 100", " - values: read, what is above may want them"],
        ),
        (
            "absent(a)",
            &[
                "absent()",
                " select {__name__=\"a\"} presence",
                " - values: not read, absent() asks only for presence",
            ],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(outline(text, &["values: "]), expected, "{text}");
    }
}

#[test]
fn remarks_tell_what_was_pushed_down_and_what_not() {
    let remarks = |text: &str, node: usize| explain(text, true, false).nodes.swap_remove(node).remarks;
    assert_eq!(
        remarks("a", 0),
        [
            "look-ups: the last sample before each step, others are passed over",
            "values: read, they are the result",
            "histograms: whole",
            "labels: all, for equal label sets and annotations are told by all of them",
        ]
    );
    assert_eq!(
        remarks("rate(a[1m]) / rate(a[1m])", 2),
        [
            "look-ups: no, a window needs every sample in it",
            "values: read, rate() needs them",
            "histograms: whole",
            "labels: all, for equal label sets and annotations are told by all of them",
            "shared: with rate() above",
        ]
    );
    assert_eq!(remarks("histogram_count(a)", 1)[2], "histograms: counts and sums, buckets are not kept");
    assert_eq!(remarks("a smoothed", 0)[0], "look-ups: no, smoothed values lie between two samples");
    assert_eq!(remarks("a @ 5", 1)[0], "look-ups: the last sample before one fixed time");
    assert_eq!(remarks("a @ 5", 0), ["evaluated at one step for all: nothing below depends on the step"]);
}

#[test]
fn what_repeats_is_shared_and_what_only_looks_so_says_why_not() {
    let shared = |text: &str| outline(text, &["shared: "]);
    let once = "shared: evaluated once for all places where it stands";
    assert_eq!(
        shared("rate(a[1m]) / (rate(a[1m]) + rate(b[1m]))"),
        [
            "/",
            " rate()",
            &format!(" - {once}"),
            "  range 1m {__name__=\"a\"}",
            "  - shared: with rate() above",
            " +",
            "  rate()",
            &format!("  - {once}"),
            "   range 1m {__name__=\"a\"}",
            "   - shared: with rate() above",
            "  rate()",
            "   range 1m {__name__=\"b\"}",
        ]
    );
    assert_eq!(
        shared("rate(a[1m]) + increase(a[1m])")[3..],
        [
            "  - shared: no, the same windows stand 2 times, but below other functions or at other steps",
            " increase()",
            "  range 1m {__name__=\"a\"}",
            "  - shared: no, the same windows stand 2 times, but below other functions or at other steps",
        ]
    );
    assert_eq!(
        shared("max_over_time(a[4m:1m]) + a")[4..],
        [
            "   - shared: no, it stands 2 times, but at other steps or where something else is asked of it",
            " select {__name__=\"a\"}",
            " - shared: no, it stands 2 times, but at other steps or where something else is asked of it",
        ]
    );
    assert_eq!(
        shared("sum(a) / count(a)")[3..],
        [
            "  - shared: no, its series are read 2 times, but in different ways",
            " count by ()",
            "  select {__name__=\"a\"} presence",
            "  - shared: no, its series are read 2 times, but in different ways",
        ]
    );
}

#[test]
fn an_analysis_shows_what_was_evaluated_once() {
    let explanation = explain("-a + -a", true, true);
    let figures: Vec<_> = explanation
        .nodes
        .iter()
        .map(|node| node.measured.map(|measured| (measured.n_series, measured.n_samples)))
        .collect();
    let some = Some((2, 12));
    assert_eq!(figures, [some, some, some, some, None]);
}

#[test]
fn a_plan_has_estimates_and_places_but_no_measures() {
    let explanation = explain("sum(a) +\n  sum(b{x=\"1\"})", false, false);
    assert!(explanation.outcome.is_none());
    let nodes = &explanation.nodes;
    let parents: Vec<_> = nodes.iter().map(|node| node.parent).collect();
    assert_eq!(parents, [None, Some(0), Some(1), Some(0), Some(3)]);
    let texts: Vec<&str> = nodes.iter().map(|node| node.text.as_str()).collect();
    assert_eq!(texts, ["sum(a) + sum(b{x=\"1\"})", "sum(a)", "a", "sum(b{x=\"1\"})", "b{x=\"1\"}"]);
    let series: Vec<_> = nodes.iter().map(|node| node.estimate.map(|estimate| estimate.n_series)).collect();
    assert_eq!(series, [None, None, Some(2), None, Some(1)]);
    assert!(nodes.iter().all(|node| node.measured.is_none()));
}

#[test]
fn an_analysis_counts_what_comes_out_of_each_part() {
    let explanation = explain("sum by (x) (rate(a[1m])) > 0.1 or -b", true, true);
    let counts: Vec<_> = explanation
        .nodes
        .iter()
        .map(|node| {
            (node.operator.as_str(), node.measured.map(|measured| (measured.n_series, measured.n_samples)))
        })
        .collect();
    assert_eq!(
        counts,
        [
            ("or", Some((4, 12))),
            (">", Some((2, 6))),
            ("sum by (x)", Some((2, 12))),
            ("rate()", Some((2, 12))),
            // Whole columns come back.
            ("range 1m {__name__=\"a\"}", Some((2, 82))),
            ("number 0.1", Some((0, 6))),
            ("negate", Some((2, 12))),
            ("select {__name__=\"b\"}", Some((2, 12))),
        ]
    );
    let outcome = explanation.outcome.as_ref().unwrap();
    assert_eq!((outcome.n_series, outcome.n_samples), (2, 12));
    let findings = |node: usize, begin: &str| {
        explanation.nodes[node].remarks.iter().find(|remark| remark.starts_with(begin)).cloned()
    };
    assert_eq!(findings(6, "row by row").as_deref(), Some("row by row: done by the threads that read"));
    assert_eq!(findings(2, "row by row"), None);
    assert!(findings(7, "constant rows").unwrap().ends_with(" of 2 series came back as a single value"));
}

#[test]
fn times_of_the_parts_add_up() {
    let explanation = explain("sum(rate(a[1m])) / count(b)", true, true);
    let measured = |node: usize| explanation.nodes[node].measured.unwrap();
    let parts: Duration = (0..explanation.nodes.len())
        .filter_map(|node| explanation.nodes[node].measured)
        .map(|measured| measured.own)
        .sum();
    assert_eq!(measured(0).total, parts);
    assert!(parts <= explanation.outcome.as_ref().unwrap().total);
    assert!(measured(1).total >= measured(1).own + measured(2).own);
    let read = measured(3).read.unwrap();
    assert!(read.index > Duration::ZERO);
    assert!(read.decode > Duration::ZERO);
}

#[test]
fn an_analysis_can_be_read() {
    let text = explain("sum(a)", false, true).to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("sum by ()  [1 series, 1 samples, "), "{text}");
    assert!(lines[1].starts_with("  select {__name__=\"a\"}  [2 series, 2 samples, "), "{text}");
    assert_eq!(lines[2], "    . at most 2 series, 82 samples, 1312 bytes by estimate");
    assert!(lines[3].starts_with("    . read 2 series, "), "{text}");
    assert_eq!(lines[4], "    - look-ups: the last sample before each step, others are passed over");
    assert!(lines.last().unwrap().starts_with("result: 1 series, 1 samples in "), "{text}");
}

#[test]
fn long_chains_are_cut() {
    let explanation = explain(&format!("a{}", " + a".repeat(1500)), false, false);
    assert_eq!(explanation.nodes.len() + explanation.n_left_out, 3001);
    assert_eq!(explanation.nodes.len(), 1000);
    assert!(explanation.to_string().ends_with("2001 more parts are left out\n"));
    assert!(explanation.nodes[0].text.chars().count() < 130);
}
