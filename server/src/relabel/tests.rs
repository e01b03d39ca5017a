//! Cases of Prometheus v3.14, `model/relabel/relabel_test.go`, `TestRelabel`.

use super::*;
use crate::config::NameValidation;
use chronolith_model::Labels;
use chronolith_model::re2::Re2;

fn rule(action: RelabelAction) -> RelabelConfig {
    RelabelConfig {
        source_labels: vec![],
        separator: ";".to_owned(),
        regex: Re2::anchored("(.*)").unwrap(),
        regex_text: "(.*)".to_owned(),
        modulus: 0,
        target_label: String::new(),
        replacement: "$1".to_owned(),
        action,
        name_validation: NameValidation::Utf8,
    }
}

fn matching(action: RelabelAction, sources: &[&str], regex: &str) -> RelabelConfig {
    RelabelConfig {
        source_labels: sources.iter().map(|&name| name.to_owned()).collect(),
        regex: Re2::anchored(regex).unwrap(),
        regex_text: regex.to_owned(),
        ..rule(action)
    }
}

fn replacing(sources: &[&str], regex: &str, target: &str, replacement: &str) -> RelabelConfig {
    RelabelConfig {
        target_label: target.to_owned(),
        replacement: replacement.to_owned(),
        ..matching(RelabelAction::Replace, sources, regex)
    }
}

fn targeting(action: RelabelAction, source: &str, target: &str) -> RelabelConfig {
    RelabelConfig { target_label: target.to_owned(), ..matching(action, &[source], "(.*)") }
}

/// `expected` is `None` where the label set is dropped.
#[track_caller]
fn check(input: &[(&str, &str)], rules: &[RelabelConfig], expected: Option<&[(&str, &str)]>) {
    let mut labels = Labels::from_pairs(input.iter().copied()).unwrap().to_builder();
    let kept = apply(rules, &mut labels);
    let expected = expected.map(|pairs| Labels::from_pairs(pairs.iter().copied()).unwrap());
    assert_eq!(kept.then(|| labels.build()), expected);
}

#[test]
fn replace_sets_what_the_pattern_captures() {
    let abc = [("a", "foo"), ("b", "bar"), ("c", "baz")];
    let rules = [replacing(&["a"], "f(.*)", "d", "ch${1}-ch${1}")];
    check(&abc, &rules, Some(&[("a", "foo"), ("b", "bar"), ("c", "baz"), ("d", "choo-choo")]));
    let rules = [
        replacing(&["a", "b"], "f(.*);(.*)r", "a", "b${1}${2}m"),
        replacing(&["c", "a"], "(b).*b(.*)ba(.*)", "d", "$1$2$2$3"),
    ];
    check(&abc, &rules, Some(&[("a", "boobam"), ("b", "bar"), ("c", "baz"), ("d", "boooom")]));
    check(&[("a", "abc")], &[replacing(&["a"], ".*(b).*", "d", "$1")], Some(&[("a", "abc"), ("d", "b")]));
    check(&[("a", "boo")], &[replacing(&["a"], "f", "b", "bar")], Some(&[("a", "boo")]));
    check(&[], &[replacing(&[], "(.*)", "b", "bar")], Some(&[("b", "bar")]));
    let lines = [("a", "line1\nline2")];
    let rules = [replacing(&["a"], "line1.*line2", "utf-8.label${1}", "match${1}")];
    check(&lines, &rules, Some(&[("a", "line1\nline2"), ("utf-8.label", "match")]));
    let rules = [replacing(&["a"], "(line1).*(?<second>line2)", "label1_$1", "val_$second")];
    check(&lines, &rules, Some(&[("a", "line1\nline2"), ("label1_line1", "val_line2")]));
}

#[test]
fn an_empty_replacement_removes_the_label() {
    let input = [("a", "foo"), ("f", "baz")];
    check(&input, &[replacing(&["a"], "(f).*", "$1", "$2")], Some(&[("a", "foo")]));
    let input = [("a", "some-name-value")];
    let pattern = "some-([^-]+)-([^,]+)";
    let rules = [replacing(&["a"], pattern, "${1}", "${2}")];
    check(&input, &rules, Some(&[("a", "some-name-value"), ("name", "value")]));
    check(&input, &[replacing(&["a"], pattern, "${1}", "${3}")], Some(&input));
}

#[test]
fn a_target_that_is_no_label_name_is_left_alone() {
    let input = [("a", "some-name-0")];
    check(&input, &[replacing(&["a"], "some-([^-]+)-([^,]+)", "${3}", "${1}")], Some(&input));
    let mut legacy = replacing(&["a"], "some-([^-]+)(-[^,]+)", "${2}", "${1}");
    check(&input, &[legacy.clone()], Some(&[("a", "some-name-0"), ("-0", "name")]));
    legacy.name_validation = NameValidation::Legacy;
    check(&input, &[legacy], Some(&input));
}

#[test]
fn keep_and_drop_look_at_the_whole_value() {
    use RelabelAction::{Drop, Keep};
    let input = [("a", "foo")];
    check(&input, &[matching(Drop, &["a"], ".*o.*")], None);
    check(&input, &[matching(Drop, &["a"], "f|o")], Some(&input));
    check(&input, &[matching(Keep, &["a"], "no-match")], None);
    check(&input, &[matching(Keep, &["a"], "f.*")], Some(&input));
    let rules = [matching(Drop, &["a"], ".*o.*"), replacing(&["a"], "f(.*)", "d", "ch$1")];
    check(&input, &rules, None);
}

#[test]
fn keepequal_and_dropequal_compare_with_the_target() {
    use RelabelAction::{DropEqual, KeepEqual};
    let input = [("__tmp_port", "1234"), ("__port1", "1234"), ("__port2", "5678")];
    check(&input, &[targeting(KeepEqual, "__tmp_port", "__port1")], Some(&input));
    check(&input, &[targeting(DropEqual, "__tmp_port", "__port1")], None);
    check(&input, &[targeting(DropEqual, "__tmp_port", "__port2")], Some(&input));
    check(&input, &[targeting(KeepEqual, "__tmp_port", "__port2")], None);
}

#[test]
fn hashmod_is_that_of_prometheus() {
    let hash =
        |source: &str| RelabelConfig { modulus: 1000, ..targeting(RelabelAction::HashMod, source, "d") };
    check(&[("c", "baz")], &[hash("c")], Some(&[("c", "baz"), ("d", "976")]));
    check(&[("a", "foo\nbar")], &[hash("a")], Some(&[("a", "foo\nbar"), ("d", "734")]));
}

#[test]
fn labels_are_mapped_dropped_and_kept_by_name() {
    use RelabelAction::{LabelDrop, LabelKeep, LabelMap};
    let input = [("a", "foo"), ("b1", "bar"), ("b2", "baz")];
    let map = RelabelConfig { replacement: "bar_${1}".to_owned(), ..matching(LabelMap, &[], "(b.*)") };
    let expected = [("a", "foo"), ("b1", "bar"), ("b2", "baz"), ("bar_b1", "bar"), ("bar_b2", "baz")];
    check(&input, &[map], Some(&expected));
    check(&input, &[matching(LabelKeep, &[], "(b.*)")], Some(&[("b1", "bar"), ("b2", "baz")]));
    check(&input, &[matching(LabelDrop, &[], "(b.*)")], Some(&[("a", "foo")]));
}

#[test]
fn letters_change_case_one_by_one() {
    use RelabelAction::{Lowercase, Uppercase};
    let rules = [targeting(Uppercase, "foo", "up"), targeting(Lowercase, "foo", "low")];
    check(&[("foo", "bAr1")], &rules, Some(&[("foo", "bAr1"), ("up", "BAR1"), ("low", "bar1")]));
    check(&[("foo", "ßΣ")], &rules, Some(&[("foo", "ßΣ"), ("up", "ßΣ"), ("low", "ßσ")]));
}
