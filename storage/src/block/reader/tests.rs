//! Blocks over memory, against plain maps: reading, label look-ups, deletions, damage.

use super::*;
use crate::block::source::{BlockSource, SourceSeries};
use crate::block::writer::{BlockMeta, write_block};
use crate::cache::Caches;
use crate::chunk::Effort;
use crate::kv::MemoryKv;
use crate::kv::keys::BlockId;
use crate::part::{ColumnSlice, Run, RunValues};
use crate::read::{Bounds, snapshot};
use chronolith_model::Labels;
use chronolith_model::append::Exemplar;
use chronolith_model::labels::block_order;
use chronolith_model::matcher::MatchOp;
use chronolith_model::queryable::{Floats, LabelQuery, Projection, SampleBatch, Select, Snapshot};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Samples = BTreeMap<i64, f64>;

/// Series in block order on their way into a block.
struct MapSource {
    symbols: Vec<Box<str>>,
    series: std::vec::IntoIter<(Labels, Samples)>,
}

impl MapSource {
    fn new(series: &BTreeMap<Labels, Samples>) -> Self {
        let symbols: BTreeSet<&str> =
            series.keys().flat_map(|labels| labels.iter()).flat_map(|(n, v)| [n, v]).collect();
        let symbols = symbols.into_iter().map(Box::from).collect();
        let mut series: Vec<(Labels, Samples)> =
            series.iter().map(|(labels, samples)| (labels.clone(), samples.clone())).collect();
        series.sort_by(|a, b| block_order(&a.0, &b.0));
        Self { symbols, series: series.into_iter() }
    }
}

impl BlockSource for MapSource {
    fn symbols(&mut self) -> Result<Vec<Box<str>>, StorageError> {
        Ok(self.symbols.clone())
    }

    fn next_series(&mut self, series: &mut SourceSeries) -> Result<bool, StorageError> {
        series.clear();
        let Some((labels, samples)) = self.series.next() else { return Ok(false) };
        let number = |text: &str| self.symbols.binary_search_by(|other| (**other).cmp(text)).unwrap() as u32;
        series.labels.extend(labels.iter().map(|(n, v)| (number(n), number(v))));
        series.samples.values.extend(samples.values());
        series.samples.runs.push(Run {
            series: 0,
            times: ColumnSlice::private(samples.keys().copied().collect()),
            values: RunValues::Floats(0..samples.len()),
            start_timestamps: None,
            first_of_chunk: true,
        });
        if labels.get("job") == Some("a") {
            let timestamp = *samples.keys().next().unwrap();
            series.exemplars.push(Exemplar { labels: Labels::empty(), value: 1.0, timestamp });
        }
        Ok(true)
    }

    fn metadata(&mut self) -> Result<Vec<(String, Vec<Metadata>)>, StorageError> {
        Ok(Vec::new())
    }
}

/// A block of these series, in memory.
fn written(id: u64, series: &BTreeMap<Labels, Samples>) -> (MemoryKv, Arc<BlockHeader>) {
    let meta = BlockMeta {
        id: BlockId(id),
        mint: 0,
        maxt: 10 * 86_400_000,
        level: 0,
        seq_min: id,
        seq_max: id,
        tables: Vec::new(),
        parents: Vec::new(),
        effort: Effort::Seal,
        spill_dir: None,
    };
    let mut kv = MemoryKv::default();
    let header = write_block(meta, &mut MapSource::new(series), &mut kv).unwrap();
    (kv, Arc::new(header))
}

fn open(kv: MemoryKv, header: &Arc<BlockHeader>) -> BlockPart {
    let caches = Caches::new(1 << 20, 1 << 20);
    BlockPart::open_with(Arc::new(kv), Arc::clone(header), Some(Arc::new(caches))).unwrap()
}

fn series_maps() -> impl Strategy<Value = BTreeMap<Labels, Samples>> {
    let labels = (0u8..5, btree_map("[a-c]|job|Z", "[a-c]{1,2}", 0..4)).prop_map(|(metric, pairs)| {
        let name = ("__name__".to_owned(), format!("m{metric}"));
        Labels::from_pairs(pairs.into_iter().chain([name])).unwrap()
    });
    let grid = (0i64..50, 1i64..60, any::<i8>()).prop_map(|(start, count, value)| {
        (start..start + count).map(|at| (at * 1000, f64::from(value))).collect()
    });
    let scattered = btree_map((0i64..100).prop_map(|t| t * 1000), any::<f64>(), 1..30);
    let days = btree_map((0i64..9 * 24).prop_map(|hour| hour * 3_600_000), any::<f64>(), 1..40);
    btree_map(labels, prop_oneof![grid, scattered, days], 1..40)
}

fn select(matchers: &[Matcher], mint: i64, maxt: i64) -> Select<'_> {
    Select::whole(matchers, mint, maxt)
}

/// Labels and the samples in range of everything selected, series without a sample left out.
fn read_all(
    store: &dyn Snapshot,
    matchers: &[Matcher],
    mint: i64,
    maxt: i64,
) -> Vec<(Labels, Vec<(i64, u64)>)> {
    let cx = Unlimited::default();
    let selected = store.select(&select(matchers, mint, maxt), &cx).unwrap();
    let mut batch = SampleBatch::default();
    selected.read(0..selected.len(), &mut batch, &cx).unwrap();
    let text = |symbol| cx.symbols().resolve(symbol).to_string();
    let mut found = Vec::new();
    for (index, series) in (0u32..).zip(&batch.series) {
        let times = series.timestamps.times.iter().copied();
        let values: Vec<f64> = match &series.floats {
            Floats::None => Vec::new(),
            Floats::Constant(value) => vec![*value; times.len()],
            Floats::Values(range) => batch.values[range.start as usize..range.end as usize].to_vec(),
        };
        let samples: Vec<(i64, u64)> = times
            .zip(values)
            .filter(|(time, _)| (mint..=maxt).contains(time))
            .map(|(time, value)| (time, value.to_bits()))
            .collect();
        if !samples.is_empty() {
            let pairs = selected.labels(index).iter().map(|&(n, v)| (text(n), text(v)));
            found.push((Labels::from_pairs(pairs).unwrap(), samples));
        }
    }
    found
}

/// The same from a map.
fn filtered(
    series: &BTreeMap<Labels, Samples>,
    matchers: &[Matcher],
    mint: i64,
    maxt: i64,
) -> Vec<(Labels, Vec<(i64, u64)>)> {
    let mut found: Vec<_> = series
        .iter()
        .filter(|(labels, _)| matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or(""))))
        .map(|(labels, samples)| {
            let samples = samples.range(mint..=maxt).map(|(&time, value)| (time, value.to_bits()));
            (labels.clone(), samples.collect::<Vec<_>>())
        })
        .filter(|(_, samples)| !samples.is_empty())
        .collect();
    found.sort_by(|a, b| block_order(&a.0, &b.0));
    found
}

fn times() -> impl Strategy<Value = (i64, i64)> {
    prop_oneof![
        Just((i64::MIN, i64::MAX)),
        (0i64..100_000, 0i64..60_000).prop_map(|(mint, length)| (mint, mint + length)),
        // From a sample to a sample, where series have one each second.
        (0i64..100, 0i64..60).prop_map(|(mint, length)| (mint * 1000, (mint + length) * 1000)),
        (0i64..9 * 86_400_000, 0i64..86_400_000).prop_map(|(mint, length)| (mint, mint + length)),
    ]
}

fn matcher_lists() -> impl Strategy<Value = Vec<Matcher>> {
    let matcher = prop_oneof![
        Just(Matcher::new(MatchOp::Regex, "__name__", "m[0-2]").unwrap()),
        Just(Matcher::equal("job", "a")),
        Just(Matcher::equal("Z", "")),
        Just(Matcher::new(MatchOp::NotEqual, "a", "b").unwrap()),
    ];
    vec(matcher, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn blocks_read_back_what_was_written_less_what_was_deleted(
        mut older in series_maps(), newer in series_maps(), queries in vec((matcher_lists(), times()), 1..4),
        deletions in vec((matcher_lists(), times()), 0..4),
    ) {
        let cx = Unlimited::default();
        let (kv, header) = written(1, &older);
        let mut part = open(kv.clone(), &header);
        let mut kv = kv;
        for (matchers, (mint, maxt)) in deletions {
            let tombstone = part.tombstone(std::slice::from_ref(&matchers), mint, maxt, &cx).unwrap();
            let hit = !filtered(&older, &matchers, mint, maxt).is_empty();
            prop_assert!(!hit || tombstone.is_some());
            if let Some(tombstone) = tombstone {
                let (key, value) = tombstone.record(header.block_id());
                kv.records.insert(key, value);
                part = part.with_tombstones(vec![Arc::new(tombstone)]);
            }
            for (labels, samples) in &mut older {
                if matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or(""))) {
                    samples.retain(|time, _| !(mint..=maxt).contains(time));
                }
            }
            older.retain(|_, samples| !samples.is_empty());
        }
        let reopened = open(kv, &header);
        prop_assert_eq!(reopened.tombstones(), part.tombstones());
        let (kv, header) = written(2, &newer);
        let mut merged = newer.clone();
        for (labels, samples) in &older {
            merged.entry(labels.clone()).or_default().extend(samples);
        }
        for part in [part, reopened] {
            let parts: Vec<Arc<dyn Part>> = vec![Arc::new(open(kv.clone(), &header)), Arc::new(part.clone())];
            let store = snapshot(parts, Bounds::default());
            for (matchers, (mint, maxt)) in &queries {
                prop_assert_eq!(
                    read_all(&*store, matchers, *mint, *maxt),
                    filtered(&merged, matchers, *mint, *maxt)
                );
            }
            // A series of which nothing is left is no series.
            let query = LabelQuery { matcher_sets: &[], mint: i64::MIN, maxt: i64::MAX, limit: 0 };
            let names: BTreeSet<&str> = merged.keys().flat_map(|labels| labels.iter().map(|(n, _)| n)).collect();
            prop_assert_eq!(store.label_names(&query, &cx).unwrap(), names.into_iter().collect::<Vec<_>>());
            let values: BTreeSet<&str> = merged.keys().filter_map(|labels| labels.get("job")).collect();
            prop_assert_eq!(store.label_values("job", &query, &cx).unwrap(), values.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn label_look_ups_keep_to_the_times_of_series(
        blocks in vec(series_maps(), 1..4), ranges in vec(times(), 1..4), matchers in matcher_lists(),
    ) {
        let parts = (1u64..).zip(&blocks).map(|(id, series)| {
            let (kv, header) = written(id, series);
            Arc::new(open(kv, &header)) as Arc<dyn Part>
        });
        let store = snapshot(parts.collect(), Bounds::default());
        let cx = Unlimited::default();
        let sets = [matchers.clone()];
        let sets = if matchers.is_empty() { &[] } else { &sets[..] };
        // One after the other, so that what is learnt over one range serves another.
        for (mint, maxt) in ranges {
            let query = LabelQuery { matcher_sets: sets, mint, maxt, limit: 0 };
            // From first to last sample a series is there, whether or not it has one within.
            let alive: Vec<&Labels> = blocks
                .iter()
                .flatten()
                .filter(|(labels, samples)| {
                    let (first, last) = (samples.keys().next().unwrap(), samples.keys().next_back().unwrap());
                    matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or(""))) && *first <= maxt && mint <= *last
                })
                .map(|(labels, _)| labels)
                .collect();
            // Again, from what was kept.
            for name in ["job", "__name__", "none", "job", "__name__", "none"] {
                let values: BTreeSet<&str> = alive.iter().filter_map(|labels| labels.get(name)).collect();
                prop_assert_eq!(store.label_values(name, &query, &cx).unwrap(), values.into_iter().collect::<Vec<_>>());
            }
            let names: BTreeSet<&str> = alive.iter().flat_map(|labels| labels.iter().map(|(n, _)| n)).collect();
            for _ in 0..2 {
                prop_assert_eq!(store.label_names(&query, &cx).unwrap(), names.iter().copied().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn damage_is_an_error_or_other_data_but_never_a_panic(
        series in series_maps(), damage in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: bool, lost in vec(any::<prop::sample::Index>(), 0..2),
    ) {
        let (mut kv, header) = written(1, &series);
        for (record, byte, value) in damage {
            let at = record.index(kv.records.len());
            let bytes = kv.records.values_mut().nth(at).unwrap();
            if !bytes.is_empty() {
                let at = byte.index(bytes.len());
                bytes[at] = value;
                if cut {
                    bytes.truncate(at);
                }
            }
        }
        for lost in lost {
            let key = kv.records.keys().nth(lost.index(kv.records.len())).unwrap().clone();
            kv.records.remove(&key);
        }
        let part: Arc<dyn Part> = Arc::new(open(kv, &header));
        let store = snapshot(vec![Arc::clone(&part)], Bounds::default());
        let cx = Unlimited::default();
        for matchers in [vec![], vec![Matcher::new(MatchOp::Regex, "job", "a.*").unwrap()]] {
            if let Ok(selected) = store.select(&select(&matchers, 0, i64::MAX), &cx) {
                let mut batch = SampleBatch::default();
                let _ = selected.read(0..selected.len(), &mut batch, &cx);
            }
            let sets = [matchers];
            let query = LabelQuery { matcher_sets: &sets, mint: 5_000, maxt: 50_000, limit: 0 };
            let _ = store.label_names(&query, &cx);
            let _ = store.label_values("job", &query, &cx);
            let _ = crate::read::exemplars(std::slice::from_ref(&part), &sets, 0, i64::MAX, &cx);
        }
    }
}

#[test]
fn errors_name_the_block_and_the_record() {
    let labels = Labels::from_pairs([("__name__", "up"), ("job", "a")]).unwrap();
    let (mut kv, header) = written(0xab, &BTreeMap::from([(labels, Samples::from([(1000, 1.0)]))]));
    let key = keys::key(header.block_id(), Kind::Series, &[0; 4]);
    kv.records.insert(key, vec![0xff]);
    let store = snapshot(vec![Arc::new(open(kv, &header))], Bounds::default());
    let error = store.select(&select(&[], 0, i64::MAX), &Unlimited::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "corrupt data: corrupt series of block 00000000000000ab, record 0: the record ends within a series"
    );
}

#[test]
fn exemplars_come_with_labels_and_leave_with_their_samples() {
    let series = |job: &str| {
        (Labels::from_pairs([("__name__", "m"), ("job", job)]).unwrap(), Samples::from([(5000, 1.0)]))
    };
    let (kv, header) = written(1, &BTreeMap::from([series("a"), series("b")]));
    let part = open(kv, &header);
    let cx = Unlimited::default();
    let exemplars =
        |part: &BlockPart| crate::read::exemplars(&[Arc::new(part.clone())], &[], 0, 9000, &cx).unwrap();
    let found = exemplars(&part);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, series("a").0);
    let tombstone = part.tombstone(&[vec![Matcher::equal("job", "a")]], 5000, 5000, &cx).unwrap().unwrap();
    assert!(tombstone.gone.contains(0));
    assert_eq!(exemplars(&part.with_tombstones(vec![Arc::new(tombstone)])), []);
}

#[test]
fn what_is_known_of_a_list_is_forgotten_with_a_deletion() {
    let series = |job: &str, instance: u32, times: [i64; 2]| {
        let labels = [("__name__", "m"), ("instance", &instance.to_string()), ("job", job)];
        (Labels::from_pairs(labels).unwrap(), Samples::from(times.map(|time| (time, 1.0))))
    };
    // Of job b, one series lives all the time and the others end early.
    let mut of_b: BTreeMap<_, _> = (0..40).map(|at| series("b", at, [1000, 2000])).collect();
    of_b.extend([series("b", 40, [1000, 60_000])]);
    let of_a = (0..40).map(|at| series("a", at, [1000, 60_000]));
    let (kv, header) = written(1, &of_a.chain(of_b).collect());
    let part = open(kv, &header);
    let cx = Unlimited::default();
    let look_up = |part: &BlockPart, mint, maxt| {
        let select = PartSelect { matchers: &[], mint, maxt, labels: Projection::All };
        let mut jobs = BTreeSet::new();
        part.label_values("job", &select, &cx, &mut |job| jobs.extend([job.to_owned()])).unwrap();
        let is_known = part.written_as(Some("job"), &select, &cx).unwrap().is_some();
        (jobs.into_iter().collect::<Vec<_>>().join(","), is_known)
    };
    assert_eq!(look_up(&part, 1500, 50_000), ("a,b".to_owned(), true));
    // All of it is known now, wherever a range reaches over the lives of the two that were looked at.
    let select = PartSelect { matchers: &[], mint: 1800, maxt: 1900, labels: Projection::All };
    assert!(part.written_as(Some("job"), &select, &cx).unwrap().is_some());
    assert_eq!(part.written_as(None, &select, &cx).unwrap(), None, "another list");
    assert_eq!(look_up(&part, 50_000, 59_000), ("a,b".to_owned(), true));
    let gone = [vec![Matcher::equal("job", "b"), Matcher::equal("instance", "40")]];
    let tombstone = part.tombstone(&gone, 0, 100_000, &cx).unwrap().unwrap();
    let part = part.with_tombstones(vec![Arc::new(tombstone)]);
    assert_eq!(look_up(&part, 1500, 50_000), ("a,b".to_owned(), false));
    assert_eq!(look_up(&part, 50_000, 59_000), ("a".to_owned(), false));
}

#[test]
fn a_series_deleted_in_pieces_is_gone_with_its_last_sample() {
    let series = |job: &str| {
        let samples = Samples::from([(5000, 1.0), (7000, 2.0), (60_000, 3.0)]);
        (Labels::from_pairs([("__name__", "m"), ("job", job)]).unwrap(), samples)
    };
    let (kv, header) = written(1, &BTreeMap::from([series("a"), series("b")]));
    let mut part = open(kv, &header);
    let cx = Unlimited::default();
    let mut delete = |mint, maxt| {
        let tombstone =
            part.tombstone(&[vec![Matcher::equal("job", "b")]], mint, maxt, &cx).unwrap().unwrap();
        part = part.with_tombstones(vec![Arc::new(tombstone.clone())]);
        tombstone.gone.iter().collect::<Vec<_>>()
    };
    // Neither deletion touches the next, and the first and last sample go before the one between them.
    assert_eq!(delete(0, 5000), []);
    assert_eq!(delete(60_000, 70_000), []);
    assert_eq!(delete(6000, 8000), [1]);
}

#[test]
fn one_series_of_many_is_found_with_its_labels() {
    let labels = |at: u32| Labels::from_pairs([("__name__", "m"), ("pod", &format!("pod-{at}"))]).unwrap();
    let series = (0..500).map(|at| (labels(at), Samples::from([(1000, f64::from(at))]))).collect();
    let (kv, header) = written(1, &series);
    let store = snapshot(vec![Arc::new(open(kv, &header))], Bounds::default());
    let found = read_all(&*store, &[Matcher::equal("pod", "pod-77")], 0, 9000);
    assert_eq!(found, [(labels(77), vec![(1000, 77f64.to_bits())])]);
    let found = read_all(&*store, &[], 0, 9000);
    assert_eq!(found, filtered(&series, &[], 0, 9000));
}

#[test]
fn series_scraped_together_share_their_column_over_blocks() {
    let labels = |at: u32| Labels::from_pairs([("__name__", "m"), ("pod", &format!("pod-{at:03}"))]).unwrap();
    let block = |id: u64, start: i64| {
        let times = |at: u32| (0..20).map(move |i| start + i * 15_000 + i64::from(at % 2));
        let value = |time: i64| time as f64;
        let series =
            (0..300).map(|at| (labels(at), times(at).map(|time| (time, value(time))).collect())).collect();
        let (kv, header) = written(id, &series);
        Arc::new(open(kv, &header)) as Arc<dyn Part>
    };
    let store = snapshot(vec![block(1, 0), block(2, 400_000)], Bounds::default());
    let cx = Unlimited::default();
    let selected = store.select(&select(&[], 0, i64::MAX), &cx).unwrap();
    assert!(selected.partitions().len() > 1);
    let mut batch = SampleBatch::default();
    for range in selected.partitions() {
        selected.read(range.clone(), &mut batch, &cx).unwrap();
    }
    for (at, series) in batch.series.iter().enumerate() {
        assert_eq!(series.timestamps.times.len(), 40);
        assert!(Arc::ptr_eq(&series.timestamps, &batch.series[at % 2].timestamps), "series {at}");
    }
}

#[test]
fn tiles_that_are_read_ahead_up_to_any_place_change_nothing() {
    let labels = |at: u32| Labels::from_pairs([("__name__", "m"), ("pod", &format!("pod-{at:03}"))]).unwrap();
    // Numbers that do not compress, so that a group has many tiles, and two days.
    let value = |at: u32, time: i64| (f64::from(at) * 0.37 + time as f64).sin();
    let times = (0..200).map(|i| i * 15_000).chain((0..200).map(|i| 86_400_000 + i * 15_000));
    let times: Vec<i64> = times.collect();
    let series: BTreeMap<Labels, Samples> = (0..200)
        .map(|at| (labels(at), times.iter().map(|&time| (time, value(at, time))).collect()))
        .collect();
    let (kv, header) = written(1, &series);
    assert!(header.n_keys[Kind::Tiles as usize] > 20);
    let expected = filtered(&series, &[], i64::MIN, i64::MAX);
    let mut whole = 0;
    for most in (0..).step_by(7) {
        let part = BlockPart::open_with(
            Arc::new(kv.clone()),
            Arc::clone(&header),
            Some(Arc::new(Caches::new(64 << 20, 1 << 20))),
        )
        .unwrap();
        let mut n_tiles = 0;
        for slice in [1, 0] {
            part.read_tiles_ahead(&kv, slice, &mut |_| {
                n_tiles += 1;
                if n_tiles < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .unwrap();
        }
        let store = snapshot(vec![Arc::new(part)], Bounds::default());
        assert!(read_all(&*store, &[], i64::MIN, i64::MAX) == expected, "after {most} tiles");
        whole = n_tiles;
        if n_tiles < most {
            break;
        }
    }
    assert_eq!(whole, header.n_keys[Kind::Tiles as usize]);
}

#[test]
fn columns_that_are_read_ahead_are_not_read_again() {
    let labels = |at: u32| Labels::from_pairs([("__name__", "m"), ("pod", &format!("pod-{at:03}"))]).unwrap();
    let times = |at: u32| (0..50).map(move |i| (i * 15_000 + i64::from(at % 3), f64::from(at)));
    let series = (0..60).map(|at| (labels(at), times(at).collect())).collect();
    let (kv, header) = written(1, &series);
    let mut without_columns = kv.clone();
    let (from, to) = keys::kind_range(header.block_id(), Kind::Timestamps);
    without_columns.records.retain(|key, _| *key < from || to <= *key);
    assert_eq!(kv.records.len() - without_columns.records.len(), 3);
    let part = open(without_columns, &header);
    let mut size_bytes = 0;
    part.read_columns_ahead(&kv, &mut |bytes| {
        size_bytes += bytes;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(size_bytes, 3 * 50 * 8);
    let store = snapshot(vec![Arc::new(part)], Bounds::default());
    assert_eq!(read_all(&*store, &[], i64::MIN, i64::MAX), filtered(&series, &[], i64::MIN, i64::MAX));
}

/// Counts what is charged.
#[derive(Default)]
struct Counting {
    symbols: chronolith_model::SymbolTable,
    charged: std::sync::atomic::AtomicUsize,
}

impl QueryContext for Counting {
    fn check(&self) -> Result<(), chronolith_model::queryable::Stop> {
        Ok(())
    }
    fn charge(&self, size_bytes: usize) -> Result<(), chronolith_model::queryable::Stop> {
        self.charged.fetch_add(size_bytes, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
    fn release(&self, _size_bytes: usize) {}
    fn symbols(&self) -> &chronolith_model::SymbolTable {
        &self.symbols
    }
}

#[test]
fn a_block_gives_the_labels_that_are_asked_for() {
    let labels = Labels::from_pairs([("__name__", "up"), ("instance", "x"), ("job", "b")]).unwrap();
    let (kv, header) = written(1, &BTreeMap::from([(labels, Samples::from([(1, 1.0)]))]));
    let block = open(kv, &header);
    let cx = chronolith_model::queryable::Unlimited::default();
    let names = ["job".to_owned(), "unknown".to_owned()];
    let texts = |labels: Projection<'_>| -> Vec<(String, String)> {
        let select = PartSelect { matchers: &[], mint: 0, maxt: 10, labels };
        let series = Part::select(&block, &select, &cx).unwrap();
        let text = |symbol| cx.symbols().resolve(symbol).to_string();
        series.labels(0).iter().map(|&(name, value)| (text(name), text(value))).collect()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(texts(Projection::Only(&names)), [pair("job", "b")]);
    assert_eq!(texts(Projection::Only(&[])), []);
    assert_eq!(texts(Projection::Without(&names)), [pair("__name__", "up"), pair("instance", "x")]);
    assert_eq!(texts(Projection::All).len(), 3);
}

/// Charging a large step for each block at once refused queries over thousands of small blocks.
#[test]
fn a_small_block_charges_little() {
    let labels = Labels::from_pairs([("__name__", "up"), ("job", "b")]).unwrap();
    let (kv, header) = written(1, &BTreeMap::from([(labels, Samples::from([(1, 1.0)]))]));
    let block = open(kv, &header);
    let cx = Counting::default();
    let select =
        PartSelect { matchers: &[Matcher::equal("job", "b")], mint: 0, maxt: 10, labels: Projection::All };
    assert_eq!(Part::select(&block, &select, &cx).unwrap().len(), 1);
    assert!(cx.charged.into_inner() < 1024);
}
