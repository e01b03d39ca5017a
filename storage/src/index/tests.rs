//! The index of a block against a plain filter over labels.

use super::matching::{label_names, label_values};
use super::*;
use crate::cache::Caches;
use crate::kv::MemoryKv;
use crate::kv::keys::BlockId;
use chronolith_model::labels::{Labels, block_order};
use chronolith_model::matcher::{MatchOp, Matcher};
use chronolith_model::queryable::Unlimited;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const BLOCK: BlockId = BlockId(0x0102_0304_0506_0708);

/// Writes series (sorted in block order here) and returns them with the records and the summary.
fn written(mut series: Vec<Labels>) -> (Vec<Labels>, MemoryKv, IndexSummary) {
    series.sort_by(block_order);
    series.dedup();
    let symbols: BTreeSet<&str> =
        series.iter().flat_map(|labels| labels.iter()).flat_map(|(n, v)| [n, v]).collect();
    let symbols: Vec<Box<str>> = symbols.into_iter().map(Box::from).collect();
    let number = |text: &str| symbols.binary_search_by(|other| (**other).cmp(text)).unwrap() as u32;
    let mut kv = MemoryKv::default();
    let mut writer = IndexWriter::new(BLOCK, &symbols, &mut kv).unwrap();
    for (rank, labels) in series.iter().enumerate() {
        let labels: Vec<(u32, u32)> = labels.iter().map(|(n, v)| (number(n), number(v))).collect();
        let (mint, maxt) = times(rank as u32);
        assert_eq!(writer.add_series(&labels, mint, maxt, &mut kv).unwrap(), rank as u32);
    }
    let summary = writer.finish(&mut kv).unwrap();
    (series, kv, summary)
}

/// Times that jump, so that differences of all signs are written.
fn times(rank: u32) -> (i64, i64) {
    let mint = i64::from(rank.wrapping_mul(0x9e37_79b9) % 7) * 1000 - 3000;
    (mint, mint + i64::from(rank % 3) * 500)
}

fn open(kv: MemoryKv, summary: &IndexSummary) -> BlockIndex {
    BlockIndex::new(
        Arc::new(kv),
        BLOCK,
        summary.n_series,
        summary.n_symbols,
        summary.symbol_parts.clone().into(),
        Some(Arc::new(Caches::new(1 << 20, 1 << 20))),
    )
}

fn label_sets() -> impl Strategy<Value = Vec<Labels>> {
    let names = prop_oneof![Just("__name__"), Just("A"), Just("job"), Just("l\u{e9}\0"), Just("zone")];
    let values = prop_oneof![
        Just("a"),
        Just("b"),
        Just("ab"),
        Just("abc"),
        Just("\u{e9}"),
        Just("x\0y"),
        Just("10"),
        Just("b\n"),
        Just("\u{fffd}"),
    ];
    let pairs = vec((names, values), 0..5).prop_map(|pairs| {
        let mut builder = chronolith_model::labels::LabelsBuilder::new();
        for (name, value) in pairs {
            builder.set(name, value);
        }
        builder.build()
    });
    vec(pairs, 0..60)
}

fn matchers() -> impl Strategy<Value = Vec<Matcher>> {
    let ops = prop_oneof![
        Just(MatchOp::Equal),
        Just(MatchOp::NotEqual),
        Just(MatchOp::Regex),
        Just(MatchOp::NotRegex)
    ];
    let names = prop_oneof![
        Just("__name__"),
        Just("A"),
        Just("job"),
        Just("l\u{e9}\0"),
        Just("zone"),
        Just("missing"),
        Just("a"),
    ];
    let bytes = prop_oneof![Just(&b"\xff"[..]), Just(&b"a|\xff"[..]), Just(&b"\xc3|b"[..])];
    let values = prop_oneof![
        Just(""),
        Just("a"),
        Just("b"),
        Just("nothing"),
        Just("a|b"),
        Just("a|"),
        Just("a.*"),
        Just(".*"),
        Just(".+"),
        Just("ab?"),
        Just("(a|b)c?"),
        Just("\u{e9}"),
        Just("x.y"),
        Just("[^a]*"),
        Just("b."),
        Just("abc|zz|"),
        Just("a.+|"),
        Just("()"),
        Just(".*b.*"),
    ];
    let values = prop_oneof![9 => values.prop_map(|text| text.as_bytes().to_vec()), 1 => bytes.prop_map(<[u8]>::to_vec)];
    vec((ops, names, values), 0..4).prop_map(|matchers| {
        matchers.into_iter().map(|(op, name, value)| Matcher::from_bytes(op, name, value).unwrap()).collect()
    })
}

fn naive(series: &[Labels], matchers: &[Matcher]) -> Postings {
    let matches = |labels: &Labels| matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or("")));
    Postings::from_sorted((0..).zip(series).filter(|(_, labels)| matches(labels)).map(|(rank, _)| rank))
}

/// Few of the many instances are of one job, and the first series tell them: the others are left out by counting,
/// unless a later series has another one, or none.
#[test]
fn values_of_some_series_are_those_of_their_labels() {
    let labels = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied()).unwrap();
    let of = |metric: usize, job: &str, instance: usize| {
        let (metric, instance) = (format!("metric_{metric}"), format!("host-{instance:02}"));
        labels(&[("__name__", &metric), ("instance", &instance), ("job", job)])
    };
    let fleet: Vec<Labels> = (0..6)
        .flat_map(|metric| {
            (0..40).map(move |instance| of(metric, if instance < 10 { "node" } else { "db" }, instance))
        })
        .collect();
    let odd = of(5, "node", 39);
    let without = labels(&[("__name__", "metric_5"), ("job", "node")]);
    for (more, expected) in
        [(vec![], 10), (vec![odd.clone()], 11), (vec![without.clone()], 10), (vec![odd, without], 11)]
    {
        let (series, kv, summary) = written([fleet.clone(), more].concat());
        let index = open(kv, &summary);
        let node = naive(&series, &[Matcher::new(MatchOp::Equal, "job", "node").unwrap()]);
        let instance = index.symbol("instance").unwrap().unwrap();
        let found = index.values_of(instance, &node, &Unlimited::default()).unwrap();
        assert!(node.len() > index.value_numbers(instance).unwrap().len());
        assert_eq!(found.len(), expected);
        assert!(found.is_sorted());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn matching_agrees_with_a_filter_over_labels(series in label_sets(), sets in vec(matchers(), 1..6)) {
        let (series, kv, summary) = written(series);
        let index = open(kv, &summary);
        let cx = Unlimited::default();
        for matchers in &sets {
            let expected = naive(&series, matchers);
            // The second time patterns come from the cache.
            for _ in 0..2 {
                prop_assert_eq!(&resolve(&index, matchers, &cx).unwrap(), &expected, "{:?}", matchers);
            }
            let mut names = BTreeSet::new();
            label_names(&index, &expected, &cx, &mut |_, name| { names.insert(name.to_owned()); }).unwrap();
            let wanted: BTreeSet<String> = expected
                .iter().flat_map(|rank| series[rank as usize].iter().map(|(n, _)| n.to_owned())).collect();
            prop_assert_eq!(names, wanted);
            let mut values = BTreeSet::new();
            label_values(&index, "job", &expected, &cx, &mut |_, value| { values.insert(value.to_owned()); }).unwrap();
            let wanted: BTreeSet<String> =
                expected.iter().filter_map(|rank| series[rank as usize].get("job").map(str::to_owned)).collect();
            prop_assert_eq!(&values, &wanted);
            if let Some(job) = index.symbol("job").unwrap() {
                let numbers = index.values_of(job, &expected, &cx).unwrap();
                let mut values = Vec::new();
                index.visit_strings(numbers, &mut |_, text| { values.push(text.to_owned()); Ok(()) }).unwrap();
                prop_assert_eq!(values, wanted.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn series_in_a_range_of_time_are_those_a_filter_finds(
        series in label_sets(), ranks in btree_set(0u32..60, 0..40), mint in -4000i64..4000, length in 0i64..3000,
    ) {
        let (series, kv, summary) = written(series);
        let uncached = BlockIndex::new(
            Arc::new(kv.clone()), BLOCK, summary.n_series, summary.n_symbols,
            summary.symbol_parts.clone().into(), None,
        );
        let ranks: Vec<u32> = ranks.into_iter().filter(|&rank| rank < summary.n_series).collect();
        let is_in_range = |rank: &u32| times(*rank).0 <= mint + length && mint <= times(*rank).1;
        let expected = Postings::from_sorted(ranks.iter().copied().filter(is_in_range));
        let ranks = Arc::new(Postings::from_sorted(ranks));
        for index in [open(kv, &summary), uncached] {
            // The second time series come from the cache.
            for _ in 0..2 {
                let found = index.in_range(ranks.clone(), (mint, mint + length), &Unlimited::default()).unwrap();
                prop_assert_eq!(&*found, &expected);
                let labels = || expected.iter().flat_map(|rank| series[rank as usize].iter());
                let (range, cx) = ((mint, mint + length), Unlimited::default());
                let mut found = BTreeSet::new();
                let lives =
                    index.names_in_range(&ranks, range, &cx, &mut |name| { found.insert(name.to_owned()); }).unwrap();
                prop_assert_eq!(&found, &labels().map(|(name, _)| name.to_owned()).collect::<BTreeSet<_>>());
                // What just reaches over the lives has the same names, and those are all.
                if let Some((begun, ended)) = lives.filter(|&lives| lives != (i64::MIN, i64::MAX)) {
                    let mut whole = BTreeSet::new();
                    let narrowest = (ended, begun.max(ended));
                    index.names_in_range(&ranks, narrowest, &cx, &mut |name| { whole.insert(name.to_owned()); }).unwrap();
                    let all = ranks.iter().flat_map(|rank| series[rank as usize].iter()).map(|(name, _)| name.to_owned());
                    prop_assert_eq!(&whole, &all.collect::<BTreeSet<_>>());
                    prop_assert_eq!(&found, &whole);
                }
                if let Some(job) = index.symbol("job").unwrap() {
                    let mut found = BTreeSet::new();
                    index.values_in_range(job, &ranks, range, &cx, &mut |value| { found.insert(value.to_owned()); }).unwrap();
                    let jobs = labels().filter(|(name, _)| *name == "job").map(|(_, value)| value.to_owned());
                    prop_assert_eq!(found, jobs.collect::<BTreeSet<_>>());
                }
            }
        }
    }

    #[test]
    fn series_come_back_with_labels_and_times(series in label_sets(), ranks in btree_set(0u32..60, 0..40)) {
        let (series, kv, summary) = written(series);
        let index = open(kv, &summary);
        let ranks = Postings::from_sorted(ranks.into_iter().filter(|&rank| rank < summary.n_series));
        let mut seen = Vec::new();
        index.visit_series(&ranks, &Unlimited::default(), &mut |rank, found| {
            let mut numbers: Vec<u32> = found.labels.iter().flat_map(|&(n, v)| [n, v]).collect();
            let wanted = numbers.clone();
            numbers.sort_unstable();
            let mut texts = std::collections::HashMap::new();
            index.visit_strings(numbers, &mut |number, text| {
                texts.insert(number, text.to_owned());
                Ok(())
            })?;
            let labels: Vec<&str> = wanted.iter().map(|number| texts[number].as_str()).collect();
            let expected: Vec<&str> = series[rank as usize].iter().flat_map(|(n, v)| [n, v]).collect();
            assert_eq!(labels, expected);
            assert_eq!((found.mint, found.maxt), times(rank));
            seen.push(rank);
            Ok(())
        }).unwrap();
        prop_assert_eq!(Postings::from_sorted(seen), ranks);
    }

    #[test]
    fn damaged_records_are_errors_or_other_data_but_never_a_panic(
        series in label_sets(), damage in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..8), cut: bool,
    ) {
        let (_, mut kv, summary) = written(series);
        for (record, byte, value) in damage {
            if kv.records.is_empty() {
                break;
            }
            let at = record.index(kv.records.len());
            let bytes = kv.records.values_mut().nth(at).expect("it is below the length");
            if !bytes.is_empty() {
                let at = byte.index(bytes.len());
                bytes[at] = value;
                if cut {
                    bytes.truncate(at);
                }
            }
        }
        let index = open(kv, &summary);
        let cx = Unlimited::default();
        for pattern in ["a.*", "a|b", ".+", "", "[ab]+"] {
            for op in [MatchOp::Regex, MatchOp::NotRegex, MatchOp::Equal] {
                let _ = resolve(&index, &[Matcher::new(op, "job", pattern).unwrap()], &cx);
            }
        }
        let _ = index.visit_series(&Postings::all(summary.n_series), &cx, &mut |_, _| Ok(()));
        let _ = label_names(&index, &Postings::all(summary.n_series), &cx, &mut |_, _| {});
    }
}

#[test]
fn strings_are_found_over_many_parts() {
    let texts: Vec<String> =
        (0..20_000).map(|i| format!("value-{:05}-{}", i * 3, "x".repeat(i % 40))).collect();
    let symbols: Vec<Box<str>> = texts.iter().map(|text| Box::from(text.as_str())).collect();
    let mut kv = MemoryKv::default();
    let (parts, _) = symbols::write_symbols(BLOCK, &symbols, &mut kv).unwrap();
    assert!(parts.len() > 20);
    assert!(parts.iter().all(|part| part.separator.len() <= 12));
    let strings = symbols::Symbols::new(BLOCK, symbols.len() as u32, parts.into());
    for (number, text) in texts.iter().enumerate() {
        assert_eq!(strings.find(&kv, text).unwrap(), Some(number as u32));
        assert_eq!(strings.text(&kv, number as u32).unwrap(), *text);
        assert_eq!(strings.find(&kv, &format!("{text}y")).unwrap(), None);
    }
    assert_eq!(strings.find(&kv, "").unwrap(), None);
    assert_eq!(strings.find(&kv, "zzz").unwrap(), None);
    assert_eq!(strings.prefix_range(&kv, "value-0000").unwrap(), 0..4);
    assert_eq!(strings.prefix_range(&kv, "value-").unwrap(), 0..20_000);
    assert_eq!(strings.prefix_range(&kv, "value-\u{10ffff}").unwrap(), 20_000..20_000);
    assert_eq!(strings.prefix_range(&kv, "\u{d7ff}").unwrap(), 20_000..20_000);
    assert!(strings.text(&kv, 20_000).is_err());
}

#[test]
fn long_strings_that_differ_at_their_ends_stay_small_in_header_and_memory() {
    let long = |i: u32| format!("{}{i:03}", "y".repeat(if i.is_multiple_of(5) { 70_000 } else { 300 }));
    let mut symbols: Vec<Box<str>> = (0..100).map(|i| long(i).into()).collect();
    symbols.sort();
    let mut kv = MemoryKv::default();
    let (parts, _) = symbols::write_symbols(BLOCK, &symbols, &mut kv).unwrap();
    assert!(parts.len() >= 20);
    assert!(parts.iter().all(|part| part.separator.len() <= 256));
    let strings = symbols::Symbols::new(BLOCK, 100, parts.into());
    for (number, text) in symbols.iter().enumerate() {
        assert_eq!(strings.find(&kv, text).unwrap(), Some(number as u32));
        assert_eq!(strings.find(&kv, &text[..text.len() - 1]).unwrap(), None);
        assert_eq!(strings.find(&kv, &format!("{text}0")).unwrap(), None);
    }
}

#[test]
fn unsorted_strings_and_labels_are_refused() {
    let mut kv = MemoryKv::default();
    assert!(IndexWriter::new(BLOCK, &["b".into(), "a".into()], &mut kv).is_err());
    let mut writer = IndexWriter::new(BLOCK, &["a".into(), "b".into()], &mut kv).unwrap();
    assert!(writer.add_series(&[(1, 0), (0, 0)], 0, 0, &mut kv).is_err());
    assert!(writer.add_series(&[(0, 2)], 0, 0, &mut kv).is_err());
    assert_eq!(writer.add_series(&[(0, 1)], 0, 0, &mut kv).unwrap(), 0);
}

/// The block of docs/format.md.
fn worked_example() -> MemoryKv {
    let labels = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied()).unwrap();
    let series = [
        labels(&[("__name__", "up"), ("job", "a")]),
        labels(&[("__name__", "up"), ("job", "b")]),
        labels(&[("__name__", "up"), ("job", "b"), ("zone", "\u{e9}")]),
    ];
    let symbols: Vec<Box<str>> = ["__name__", "a", "b", "job", "up", "zone", "\u{e9}"].map(Box::from).into();
    let number = |text: &str| symbols.iter().position(|other| **other == *text).unwrap() as u32;
    let mut kv = MemoryKv::default();
    let mut writer = IndexWriter::new(BLOCK, &symbols, &mut kv).unwrap();
    for (labels, (mint, maxt)) in series.iter().zip([(1000, 9000), (1000, 9000), (2000, 8000)]) {
        let labels: Vec<(u32, u32)> = labels.iter().map(|(n, v)| (number(n), number(v))).collect();
        writer.add_series(&labels, mint, maxt, &mut kv).unwrap();
    }
    writer.finish(&mut kv).unwrap();
    kv
}

#[test]
fn the_worked_example_is_what_is_written_and_read() {
    let kv = worked_example();
    let examples = [
        ("symbols", vec![]),
        ("values", vec!["values of job"]),
        ("series", vec![]),
        ("postings", vec!["postings of job=b", "postings of job"]),
    ];
    for (name, more) in examples {
        for name in std::iter::once(name).chain(more) {
            let (key, value) = crate::format_examples::example(name);
            assert_eq!(kv.records.get(&key), Some(&value), "{name}");
        }
    }
    let kv = MemoryKv {
        records: [
            "symbols",
            "values",
            "values of job",
            "series",
            "postings",
            "postings of job=b",
            "postings of job",
        ]
        .map(crate::format_examples::example)
        .into_iter()
        .collect(),
    };
    let part = symbols::SymbolPart { separator: b"_".to_vec(), first: 0 };
    let index = BlockIndex::new(Arc::new(kv), BLOCK, 3, 7, Arc::new([part]), None);
    let cx = Unlimited::default();
    let found = |matcher: Matcher| resolve(&index, &[matcher], &cx).unwrap();
    assert_eq!(found(Matcher::equal("__name__", "up")), Postings::all(3));
    assert_eq!(found(Matcher::equal("job", "b")), Postings::from_sorted([1, 2]));
    assert_eq!(found(Matcher::new(MatchOp::NotRegex, "job", "b.*").unwrap()), Postings::from_sorted([0]));
    let mut times = Vec::new();
    index
        .visit_series(&Postings::all(3), &cx, &mut |_, series| {
            times.push((series.labels.len(), series.mint, series.maxt));
            Ok(())
        })
        .unwrap();
    assert_eq!(times, [(2, 1000, 9000), (2, 1000, 9000), (3, 2000, 8000)]);
}

#[test]
fn a_damaged_record_is_no_reason_to_miss_its_neighbours() {
    let series: Vec<Labels> =
        (0..40).map(|n| Labels::from_pairs([("__name__", format!("m{n:02}"))]).unwrap()).collect();
    let (_, mut kv, summary) = written(series);
    let key = crate::kv::keys::key(BLOCK, crate::kv::keys::Kind::Series, &16u32.to_be_bytes());
    kv.records.insert(key, vec![0xff]);
    let index = open(kv, &summary);
    let visit = |ranks: std::ops::Range<u32>| {
        let mut n_seen = 0;
        let mut count = |_: u32, _: series::SeriesView<'_>| {
            n_seen += 1;
            Ok(())
        };
        index.visit_series(&Postings::range(ranks), &Unlimited::default(), &mut count).map(|()| n_seen)
    };
    assert_eq!(visit(0..16).unwrap(), 16);
    assert_eq!(visit(32..40).unwrap(), 8);
    assert!(visit(10..20).is_err());
}
