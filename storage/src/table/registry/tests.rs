use super::*;
use chronolith_model::Labels;
use chronolith_model::append::{AppendBatch, BatchSeries, SeriesKey};

const LIMITS: LabelLimits = LabelLimits { max_labels: 4, max_name_bytes: 10, max_value_bytes: 10 };

fn registry() -> Registry {
    Registry::new(&[7; 32], 4, LIMITS)
}

fn batch<'a>(symbols: Vec<&'a str>, keys: &[SeriesKey<'a>]) -> AppendBatch<'a> {
    let series =
        keys.iter().map(|&key| BatchSeries { key, samples: 0..0, histograms: 0..0, exemplars: 0..0 });
    AppendBatch { symbols, series: series.collect(), ..AppendBatch::default() }
}

#[test]
fn one_series_has_one_handle_however_it_is_named() {
    let registry = registry();
    let labels = Labels::from_pairs([("__name__", "up"), ("job", "a")]).unwrap();
    let symbols = vec!["", "__name__", "up", "job", "a", "b"];
    let keys = [
        SeriesKey::Labels(&labels),
        SeriesKey::Symbols(&[1, 2, 3, 4]),
        SeriesKey::Symbols(&[3, 4, 1, 2]),
        SeriesKey::Symbols(&[1, 2, 5, 0, 3, 4]),
    ];
    let first = registry.resolve(&batch(symbols.clone(), &keys));
    assert_eq!(first.n_created, 1);
    assert!(first.series.iter().all(|handle| *handle == first.series[0]));
    let second = registry.resolve(&batch(symbols, &keys));
    assert_eq!((second.n_created, second.series), (0, first.series));
}

#[test]
fn bad_labels_are_named_and_create_nothing() {
    let registry = registry();
    let symbols = vec!["", "__name__", "up", "job", "a", "much too long a value", "b", "c", "d"];
    let check = |key: &[u32], expected: &str| {
        let resolved = registry.resolve(&batch(symbols.clone(), &[SeriesKey::Symbols(key)]));
        assert_eq!(resolved.series, [None]);
        assert_eq!(resolved.refused[0].1.to_string(), expected);
    };
    check(&[3, 4], "series has no metric name");
    check(&[1, 0], "series has no metric name");
    check(&[1, 2, 3], "labels do not decode: an odd number of symbols");
    check(&[1, 99], "label refers to symbol 99 of 9");
    check(&[1, 2, 3, 4, 3, 6], "label \"job\" occurs twice");
    check(&[1, 2, 0, 4], "label with an empty name");
    check(&[1, 2, 3, 5], "label value of 21 bytes, the limit is 10");
    check(&[1, 2, 3, 4, 6, 4, 7, 4, 8, 4], "series has 5 labels, the limit is 4");
    assert!(registry.is_empty());
}

#[test]
fn a_series_leaves_when_no_table_holds_it_and_its_handle_ends() {
    let registry = registry();
    let (handle, _) = registry.get_or_create(&[("__name__", "up")]).unwrap();
    let (shard, local) = registry.split(handle.slot);
    registry.shards[shard].write().entry_mut(local).add_use();
    registry.release(shard, &[local], 0);
    registry.purge(GRACE_MS - 1);
    assert_eq!(registry.len(), 1);
    registry.purge(GRACE_MS);
    assert_eq!(registry.len(), 0);
    assert_eq!(registry.interner.read().get("up"), None);
    let (other, created) = registry.get_or_create(&[("__name__", "up")]).unwrap();
    assert!(created);
    assert_ne!(other, handle);
}

#[test]
fn label_sets_survive_compaction_of_their_arena() {
    let registry = registry();
    let names: Vec<String> = (0..60_000).map(|i| format!("m{i}")).collect();
    let handles: Vec<SeriesRef> =
        names.iter().map(|name| registry.get_or_create(&[("__name__", name)]).unwrap().0).collect();
    for (index, &handle) in handles.iter().enumerate() {
        if index % 8 != 0 {
            registry.remove(handle);
        }
    }
    for (index, &handle) in handles.iter().enumerate().step_by(8) {
        assert_eq!(registry.labels_text(handle), format!("{{__name__=\"m{index}\"}}"));
    }
}
