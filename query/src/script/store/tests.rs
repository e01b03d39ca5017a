//! The contract of the store, item by item.

use super::*;
use crate::parser::{SeriesValue, parse_series_desc};
use chronolith_model::queryable::Unlimited;

fn store(lines: &[&str]) -> MemoryStore {
    let mut store = MemoryStore::new();
    for line in lines {
        let description = parse_series_desc(line).unwrap();
        for (i, value) in description.values.into_iter().enumerate() {
            let value = match value {
                SeriesValue::Omitted => continue,
                SeriesValue::Float(value) => SampleValue::Float(value),
                SeriesValue::Histogram { histogram, .. } => SampleValue::Histogram(histogram),
            };
            store.append(&description.labels, 1000 * i as i64, Sample { value, start_timestamp: 0 });
        }
    }
    store
}

fn all(matchers: &[Matcher], maxt: i64, histograms: HistogramNeed) -> Select<'_> {
    Select { histograms, start_timestamps: true, ..Select::whole(matchers, 0, maxt) }
}

fn read(store: &MemoryStore, selector: &str, histograms: HistogramNeed) -> SampleBatch {
    let matchers = crate::parser::parse_metric_selector(selector).unwrap();
    let cx = Unlimited::default();
    let selected = store.pin().unwrap().select(&all(&matchers, 1_000_000, histograms), &cx).unwrap();
    let mut batch = SampleBatch::default();
    for partition in selected.partitions() {
        selected.read(partition.clone(), &mut batch, &cx).unwrap();
    }
    assert_eq!(batch.series.len(), selected.len() as usize);
    batch
}

#[test]
fn series_with_the_same_times_share_their_column() {
    let store = store(&["a{x=\"1\"} 1 2 3", "a{x=\"2\"} 4 4 4", "a{x=\"3\"} 1 _ 3"]);
    let batch = read(&store, "a", HistogramNeed::Full);
    assert!(Arc::ptr_eq(&batch.series[0].timestamps, &batch.series[1].timestamps));
    assert!(!Arc::ptr_eq(&batch.series[0].timestamps, &batch.series[2].timestamps));
    assert_eq!(batch.series[1].floats, Floats::Constant(4.0));
    assert_eq!(batch.series[2].timestamps.times, [0, 2000]);
}

#[test]
fn markers_stay_in_place() {
    let batch = read(&store(&["a 1 stale 3"]), "a", HistogramNeed::Full);
    assert_eq!(batch.series[0].stale, [1]);
    assert_eq!(batch.series[0].timestamps.times, [0, 1000, 2000]);
}

#[test]
fn hints_on_read_say_what_a_chunk_knows() {
    use CounterResetHint::{Gauge, NotReset, Unknown};
    let check = |values: &[&str], expected: &[CounterResetHint]| {
        let batch = read(&store(&[&format!("a {}", values.join(" "))]), "a", HistogramNeed::Full);
        let hints: Vec<_> = batch.histograms.iter().map(|h| h.counter_reset_hint).collect();
        assert_eq!(hints, expected, "{values:?}");
    };
    let [one, two, three] =
        [1, 2, 3].map(|count| format!("{{{{schema:0 count:{count} sum:1 buckets:[{count}]}}}}"));
    let gauge = "{{schema:0 count:1 sum:1 counter_reset_hint:gauge buckets:[1]}}";
    check(&[&one, &two, &three], &[Unknown, NotReset, NotReset]);
    check(&[&three, &one, &two], &[Unknown, Unknown, NotReset]);
    check(&[&one, "stale", &two], &[Unknown, Unknown]);
    check(&[&one, "5", &two], &[Unknown, Unknown]);
    check(&[gauge, gauge, &one], &[Gauge, Gauge, Unknown]);
}

#[test]
fn the_view_without_buckets_knows_resets() {
    use CounterResetHint::{NotReset, Reset, Unknown};
    let [one, two, three] =
        [1, 2, 3].map(|count| format!("{{{{schema:0 count:{count} sum:1 buckets:[{count}]}}}}"));
    let batch = read(&store(&[&format!("a {three} {one} {two}")]), "a", HistogramNeed::Stats);
    let hints: Vec<_> = batch.histograms.iter().map(|h| h.counter_reset_hint).collect();
    assert_eq!(hints, [Unknown, Reset, NotReset]);
    assert!(batch.histograms.iter().all(|h| h.positive_buckets.is_empty()));
}

#[test]
fn series_come_in_block_order_and_only_with_samples_in_range() {
    let store = store(&["b 1", "a{A=\"1\"} 1", "a 1", "late _ _ 1"]);
    let matchers = [Matcher::new(chronolith_model::MatchOp::Regex, "__name__", ".+").unwrap()];
    let cx = Unlimited::default();
    let selected = store.pin().unwrap().select(&all(&matchers, 1000, HistogramNeed::Full), &cx).unwrap();
    let text = |symbol| cx.symbols().resolve(symbol);
    let names: Vec<String> = (0..selected.len())
        .map(|index| {
            let pairs = selected.labels(index).iter();
            pairs.map(|&(name, value)| format!("{}={} ", text(name), text(value))).collect()
        })
        .collect();
    assert_eq!(names, ["A=1 __name__=a ", "__name__=a ", "__name__=b "]);
}

#[test]
fn label_look_ups_are_sorted_and_limited() {
    let store = store(&["a{x=\"1\", y=\"2\"} 1", "b{x=\"3\"} 1"]);
    let pinned = store.pin().unwrap();
    let cx = Unlimited::default();
    let query = LabelQuery { matcher_sets: &[], mint: 0, maxt: 0, limit: 0 };
    assert_eq!(pinned.label_names(&query, &cx).unwrap(), ["__name__", "x", "y"]);
    assert_eq!(pinned.label_values("x", &query, &cx).unwrap(), ["1", "3"]);
    let one = LabelQuery { limit: 1, ..query };
    assert_eq!(pinned.label_names(&one, &cx).unwrap().len(), 2);
    assert_eq!(pinned.time_range(), Some((0, 0)));
}
