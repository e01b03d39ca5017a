//! The store as a whole: what survives a restart, what deletion and snapshots do, how it stops.

#![cfg(feature = "engine")]

#[path = "support/store.rs"]
mod support;

use chronolith_model::append::{AppendBatch, BatchSeries, Exemplar, Metadata, MetricType, Sample, SeriesKey};
use chronolith_model::queryable::{
    LabelQuery, QueryContext, Queryable, ReadStats, SampleBatch, Select, Stop, Unlimited,
};
use chronolith_model::symbols::SymbolTable;
use chronolith_model::{Labels, Matcher};
use chronolith_storage::db::Db;
use chronolith_storage::options::{ManualClock, WalSync};
use chronolith_storage::{Options, StorageError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::{Content, RETENTION_MS, Value, WINDOW_MS};

const START_MS: i64 = 1_700_000_000_000;

fn series(n: usize) -> Labels {
    support::labels(&[("__name__", "m"), ("n", &n.to_string())])
}

fn float(value: f64) -> Value {
    Value::Float(value.to_bits())
}

/// Appends `n_samples` of each of `n_series`, a second apart.
fn fill(db: &Db, start: i64, n_series: usize, n_samples: i64) {
    for at in 0..n_samples {
        let samples: Vec<_> =
            (0..n_series).map(|n| (series(n), start + at * 1_000, float((n as i64 * at) as f64))).collect();
        assert_eq!(support::append(db, &samples).refused, 0);
    }
}

fn all(db: &Db) -> Content {
    support::read(db, &[], i64::MIN, i64::MAX).expect("it reads")
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START_MS + 100 * WINDOW_MS))
}

#[test]
fn a_restart_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let db = support::open(folder.path(), &clock);
    fill(&db, START_MS, 5, 25);
    db.flush().unwrap();
    fill(&db, START_MS + 25_000, 7, 4);
    let before = all(&db);
    assert_eq!(before.len(), 7);
    db.close().unwrap();
    let db = support::open(folder.path(), &clock);
    assert_eq!(all(&db), before);
    // Without a clean stop.
    fill(&db, START_MS + 40_000, 2, 3);
    let before = all(&db);
    drop(db);
    let db = support::open(folder.path(), &clock);
    assert_eq!(all(&db), before);
    db.flush().unwrap();
    assert_eq!(all(&db), before);
    assert_eq!(db.status().lost, []);
}

#[test]
fn compaction_keeps_every_answer_and_leaves_few_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let db = support::open(folder.path(), &clock());
    for window in 0..8 {
        for part in 0..3 {
            fill(&db, START_MS + window * WINDOW_MS + part * 3_000, 4, 3);
            db.flush().unwrap();
        }
    }
    let before = all(&db);
    assert_eq!(db.status().blocks.len(), 24);
    db.compact().unwrap();
    assert_eq!(all(&db), before);
    let blocks = db.status().blocks;
    // The runs of the last two windows, two windows, and a range of four.
    assert!(blocks.len() <= 9, "{blocks:#?}");
    assert!(blocks.iter().any(|block| block.level == 2));
    assert!(db.metrics().compactions > 0);
    assert_eq!(db.metrics().compaction_conflicts, 0);
    let sst_files = |path: &Path| {
        let names = std::fs::read_dir(path.join("blocks")).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).count()
    };
    let n_files = sst_files(folder.path());
    drop(db);
    let db = support::open(folder.path(), &clock());
    assert_eq!(all(&db), before);
    assert!(sst_files(folder.path()) <= n_files);
}

/// A server that was killed each second, with deletions and late samples, had thousands of blocks after some
/// minutes: each late table became a block for every range it touched, none could be merged, and
/// compaction never had its turn. Sealing alone keeps them few, in whatever lives there are.
#[test]
fn a_loop_of_crashes_leaves_few_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let mut most = 0;
    let mut before = Content::new();
    for life in 0..80i64 {
        let db = support::open(folder.path(), &clock);
        assert_eq!(all(&db), before, "life {life}");
        most = most.max(db.status().blocks.len());
        let now = START_MS + life * 3_000;
        fill(&db, now, 3, 3);
        let late = |n: i64| {
            let back = 25_000 + (life * 7_919 + n * 104_729) % 300_000;
            (series(n as usize % 3), now - back, float(n as f64))
        };
        let late: Vec<_> = (0..12).map(late).collect();
        assert_eq!(support::append(&db, &late).refused, 0);
        let matcher = vec![Matcher::equal("n", "1")];
        db.delete(&[matcher], now - 200_000, now + 1_000).unwrap();
        fill(&db, now + 1_500, 3, 2);
        before = all(&db);
        drop(db);
    }
    assert!(most < 250, "{most} blocks");
    let db = support::open(folder.path(), &clock);
    db.compact().unwrap();
    assert_eq!(all(&db), before);
    assert_eq!(db.status().lost, []);
    assert!(db.status().blocks.len() < 100, "{}", db.status().blocks.len());
}

/// Each table was an ingest of its own: a start after a crash loop sealed a hundred one by one.
#[test]
fn tables_that_wait_are_sealed_together() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let db = support::open(folder.path(), &clock);
    for window in 0..20 {
        fill(&db, START_MS + window * WINDOW_MS, 2, 3);
    }
    let before = all(&db);
    drop(db);
    let db = support::open(folder.path(), &clock);
    assert_eq!(all(&db), before);
    assert!(db.status().head.n_frozen >= 15, "{:?}", db.status().head);
    assert!(db.tick());
    assert_eq!(db.status().head.n_frozen, 0);
    assert_eq!(db.metrics().seal_durations.count(), 1);
    assert_eq!(all(&db), before);
}

#[test]
fn a_reader_keeps_its_version_while_blocks_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let db = support::open(folder.path(), &clock());
    for window in 0..4 {
        fill(&db, START_MS / WINDOW_MS * WINDOW_MS + window * WINDOW_MS, 3, 8);
        db.flush().unwrap();
    }
    fill(&db, START_MS + 10 * WINDOW_MS, 1, 1);
    let before = all(&db);
    let pinned = db.pin().unwrap();
    db.compact().unwrap();
    db.delete(&[vec![]], i64::MIN, i64::MAX).unwrap();
    db.clean_tombstones().unwrap();
    assert_eq!(all(&db), Content::new());
    assert_eq!(support::read_snapshot(&*pinned, &[], i64::MIN, i64::MAX).unwrap(), before);
    drop(pinned);
    assert!(db.tick());
    assert_eq!(db.status().blocks, []);
}

#[test]
fn a_deletion_is_seen_at_once_and_does_not_touch_later_writes() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let db = support::open(folder.path(), &clock);
    fill(&db, START_MS, 3, 10);
    db.flush().unwrap();
    fill(&db, START_MS + 10_000, 3, 10);
    let deleted = [Matcher::equal("n", "1")];
    db.delete(&[deleted.to_vec()], i64::MIN, i64::MAX).unwrap();
    assert_eq!(support::read(&db, &deleted, i64::MIN, i64::MAX).unwrap(), Content::new());
    assert_eq!(support::label_values(&db, "n").into_iter().collect::<Vec<_>>(), ["0", "2"]);
    // Inside the deleted range, and again at the time of its newest sample.
    for timestamp in [START_MS + 500, START_MS + 19_000] {
        assert_eq!(support::append(&db, &[(series(1), timestamp, float(5.0))]).refused, 0);
    }
    let after = all(&db);
    assert_eq!(after[&series(1)].len(), 2, "{:?}", after[&series(1)]);
    db.flush().unwrap();
    db.compact().unwrap();
    db.clean_tombstones().unwrap();
    assert_eq!(all(&db), after);
    drop(db);
    assert_eq!(all(&support::open(folder.path(), &clock)), after);
}

#[test]
fn lists_of_values_follow_what_changes_however_often_they_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let db = support::open(folder.path(), &clock());
    let start = START_MS / WINDOW_MS * WINDOW_MS;
    for window in 0..3 {
        fill(&db, start + window * WINDOW_MS, 3, 8);
        db.flush().unwrap();
    }
    let all_values = |mint: i64, matcher: &[Matcher]| {
        let sets = if matcher.is_empty() { Vec::new() } else { vec![matcher.to_vec()] };
        let query = LabelQuery { matcher_sets: &sets, mint, maxt: i64::MAX, limit: 0 };
        let once = || {
            let snapshot = db.pin().unwrap();
            snapshot.label_values("n", &query, &Unlimited::default()).unwrap()
        };
        let values = once();
        assert_eq!(once(), values, "asked for again");
        let two = LabelQuery { limit: 1, ..query };
        let two = db.pin().unwrap().label_values("n", &two, &Unlimited::default()).unwrap();
        assert_eq!(two[..], values[..values.len().min(2)], "two of them");
        values.join(",")
    };
    let values = |mint: i64| all_values(mint, &[]);
    let is_m = [Matcher::equal("__name__", "m")];
    // Whole blocks, then one that is cut where all its series live, and where none does any more.
    for mint in [i64::MIN, start, start + 3_000, start + WINDOW_MS + 1] {
        assert_eq!(
            (values(mint), all_values(mint, &is_m)),
            ("0,1,2".to_owned(), "0,1,2".to_owned()),
            "{mint}"
        );
    }
    assert_eq!(values(start + 3 * WINDOW_MS), "");

    // Late, in memory, then in a block.
    support::append(&db, &[(series(7), start + 500, float(1.0))]);
    for _ in 0..2 {
        assert_eq!((values(i64::MIN), values(start)), ("0,1,2,7".to_owned(), "0,1,2,7".to_owned()));
        assert_eq!(values(start + 1_000), "0,1,2", "it ends before");
        db.flush().unwrap();
    }
    db.delete(&[vec![Matcher::equal("n", "1")]], i64::MIN, i64::MAX).unwrap();
    for _ in 0..2 {
        assert_eq!((values(i64::MIN), values(start + 3_000)), ("0,2,7".to_owned(), "0,2".to_owned()));
        assert_eq!(all_values(i64::MIN, &is_m), "0,2,7");
        db.clean_tombstones().unwrap();
    }
    db.compact().unwrap();
    assert_eq!((values(i64::MIN), values(start + 1_000)), ("0,2,7".to_owned(), "0,2".to_owned()));
    // Again after its deletion, and then only what retention leaves.
    support::append(&db, &[(series(1), start + WINDOW_MS + 9_500, float(1.0))]);
    assert_eq!(values(i64::MIN), "0,1,2,7");
    db.set_retention(2 * WINDOW_MS, 0);
    assert_eq!(values(i64::MIN), "0,1,2");
}

/// A context that counts what is fetched.
#[derive(Default)]
struct Counting {
    unlimited: Unlimited,
    stats: ReadStats,
}

impl QueryContext for Counting {
    fn check(&self) -> Result<(), Stop> {
        Ok(())
    }
    fn charge(&self, _size_bytes: usize) -> Result<(), Stop> {
        Ok(())
    }
    fn release(&self, _size_bytes: usize) {}
    fn read_stats(&self) -> Option<&ReadStats> {
        Some(&self.stats)
    }
    fn symbols(&self) -> &SymbolTable {
        self.unlimited.symbols()
    }
}

/// Tiles that are fetched to read everything of a range.
fn n_fetched(db: &Db, mint: i64, maxt: i64) -> u64 {
    let counting = Counting::default();
    let selected = db.pin().unwrap().select(&Select::whole(&[], mint, maxt), &counting).unwrap();
    for range in selected.partitions() {
        selected.read(range.clone(), &mut SampleBatch::default(), &counting).unwrap();
    }
    counting.stats.n_tiles.load(Ordering::Relaxed)
}

#[test]
fn what_is_read_ahead_is_there_for_the_first_query_newest_first() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let db = support::open(folder.path(), &clock);
    for window in 0..3 {
        // More than one group of tiles.
        fill(&db, START_MS + window * WINDOW_MS, 300, 8);
        db.flush().unwrap();
    }
    let expected = all(&db);
    db.close().unwrap();
    let open = |read_ahead_bytes| {
        let options = Options { read_ahead_bytes, ..support::options(&clock) };
        Db::open(folder.path(), options).unwrap_or_else(|error| panic!("{error}"))
    };
    let fetched_of = |db: &Db, window: i64| {
        let start = START_MS + window * WINDOW_MS;
        n_fetched(db, start, start + WINDOW_MS - 1)
    };

    let db = open(0);
    assert_eq!(db.read_ahead(), (0, 0));
    assert!((0..3).all(|window| fetched_of(&db, window) > 0));
    drop(db);

    let db = open(32 << 20);
    let (index_bytes, tile_bytes) = db.read_ahead();
    assert!(index_bytes > 0 && tile_bytes > 0);
    assert_eq!(n_fetched(&db, i64::MIN, i64::MAX), 0);
    assert_eq!(all(&db), expected);
    drop(db);

    // What ends within the second newest block leaves the oldest one alone.
    let bound = index_bytes + tile_bytes / 2;
    let db = open(bound);
    let (of_index, of_tiles) = db.read_ahead();
    assert_eq!(of_index, index_bytes);
    assert!((tile_bytes / 2..tile_bytes).contains(&of_tiles), "{of_tiles} of {tile_bytes}");
    assert_eq!(fetched_of(&db, 2), 0);
    assert!(fetched_of(&db, 0) > 0);
    assert_eq!(all(&db), expected);
}

#[test]
fn a_store_that_reads_ahead_closes_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let db = support::open(folder.path(), &clock);
    fill(&db, START_MS, 300, 8);
    db.flush().unwrap();
    let expected = all(&db);
    drop(db);
    for _ in 0..20 {
        let options = Options { background: true, ..support::options(&clock) };
        let db = Db::open(folder.path(), options).unwrap();
        db.start_read_ahead(|| ());
        let closing = Instant::now();
        db.close().unwrap();
        assert!(closing.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(all(&support::open(folder.path(), &clock)), expected);
}

#[test]
fn a_range_is_cut_out_of_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let db = support::open(folder.path(), &clock());
    fill(&db, START_MS, 2, 20);
    db.delete(&[vec![Matcher::equal("n", "0")]], START_MS + 5_000, START_MS + 7_000).unwrap();
    let content = all(&db);
    assert_eq!(content[&series(0)].len(), 17);
    assert_eq!(content[&series(1)].len(), 20);
    db.clean_tombstones().unwrap();
    assert_eq!(all(&db), content);
}

#[test]
fn retention_drops_whole_blocks_by_age_and_by_size() {
    let folder = tempfile::tempdir().unwrap();
    let db = support::open(folder.path(), &clock());
    for window in 0..4 {
        fill(&db, START_MS + window * WINDOW_MS, 3, 5);
        db.flush().unwrap();
    }
    db.enforce_retention();
    assert_eq!(db.status().blocks.len(), 4);
    fill(&db, START_MS + WINDOW_MS + 5_000 + RETENTION_MS, 1, 1);
    db.enforce_retention();
    assert_eq!(db.status().blocks.len(), 2);
    assert_eq!(db.metrics().retention_time_drops, 2);
    db.flush().unwrap();
    db.set_retention(RETENTION_MS, 1);
    db.enforce_retention();
    assert_eq!(db.status().blocks, []);
    assert_eq!(db.metrics().retention_size_drops, 3);
}

#[test]
fn a_snapshot_is_a_store_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let db = support::open(&folder.path().join("data"), &clock);
    fill(&db, START_MS, 3, 10);
    db.flush().unwrap();
    let sealed = all(&db);
    fill(&db, START_MS + 10_000, 3, 3);
    let (head, whole) = (folder.path().join("head"), folder.path().join("whole"));
    db.snapshot(&head, true).unwrap();
    db.snapshot(&whole, false).unwrap();
    assert!(db.snapshot(&whole, false).is_err());
    let everything = all(&db);
    db.delete(&[vec![]], i64::MIN, i64::MAX).unwrap();
    assert_eq!(all(&support::open(&head, &clock)), sealed);
    assert_eq!(all(&support::open(&whole, &clock)), everything);
}

#[test]
fn exemplars_and_metadata_survive_sealing_merging_and_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let db = support::open(folder.path(), &clock);
    let labels = series(0);
    for n in 0..3i64 {
        let timestamp = START_MS + n * 1_000;
        let exemplar =
            Exemplar { labels: support::labels(&[("trace_id", &n.to_string())]), value: n as f64, timestamp };
        let batch = AppendBatch {
            series: vec![BatchSeries {
                key: SeriesKey::Labels(&labels),
                samples: 0..1,
                histograms: 0..0,
                exemplars: 0..1,
            }],
            samples: vec![Sample { timestamp, value: 1.0, start_timestamp: 0 }],
            exemplars: vec![exemplar],
            metadata: vec![(
                "m",
                Metadata { metric_type: MetricType::Gauge, unit: String::new(), help: "h".into() },
            )],
            ..AppendBatch::default()
        };
        assert_eq!(db.append(&batch, false).unwrap().exemplars_written, 1);
        if n < 2 {
            db.flush().unwrap();
        }
    }
    let check = |db: &Db| {
        let found =
            db.exemplars(&[vec![Matcher::equal("__name__", "m")]], START_MS, START_MS + 1_500).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, labels);
        assert_eq!(found[0].1.iter().map(|exemplar| exemplar.value).collect::<Vec<_>>(), [0.0, 1.0]);
        let metadata = db.metadata(Some("m"));
        assert_eq!(metadata[0].1[0].help, "h");
        assert_eq!(db.metadata(Some("other")), []);
    };
    check(&db);
    fill(&db, START_MS + 5 * WINDOW_MS, 1, 1);
    assert!(db.tick());
    db.compact().unwrap();
    assert_eq!(db.metrics().compactions, 1);
    check(&db);
    drop(db);
    check(&support::open(folder.path(), &clock));
}

#[test]
fn a_second_process_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let db = support::open(folder.path(), &clock);
    let error = Db::open(folder.path(), support::options(&clock)).err().expect("it is locked");
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    db.close().unwrap();
    Db::open(folder.path(), support::options(&clock)).unwrap();
}

#[test]
fn a_clean_stop_seals_when_it_is_worth_it() {
    for (limit, n_blocks) in [(1_000, 0), (10, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let clock = clock();
        let mut options = support::options(&clock);
        options.seal_on_close_samples = limit;
        options.wal_sync = WalSync::Always;
        let db = Db::open(folder.path(), options).unwrap();
        fill(&db, START_MS / WINDOW_MS * WINDOW_MS, 3, 9);
        db.close().unwrap();
        let db = support::open(folder.path(), &clock);
        assert_eq!(db.status().blocks.len(), n_blocks);
        assert_eq!(all(&db).len(), 3);
    }
}

#[test]
fn backfilled_days_become_few_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let db = support::open(folder.path(), &clock());
    let start = START_MS / (4 * WINDOW_MS) * (4 * WINDOW_MS);
    fill(&db, start + 40 * WINDOW_MS, 1, 1);
    let late: Vec<_> =
        (0..32).map(|n| (series(0), start + 8 * WINDOW_MS + n * WINDOW_MS / 2, float(n as f64))).collect();
    assert_eq!(support::append(&db, &late).refused, 0);
    db.flush().unwrap();
    assert_eq!(db.status().blocks.len(), 5);
    assert_eq!(all(&db)[&series(0)].len(), 33);
}

#[test]
fn status_and_cardinality_tell_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let db = support::open(folder.path(), &clock());
    fill(&db, START_MS, 3, 5);
    let status = db.status();
    assert_eq!(status.head.n_series, 3);
    assert_eq!(status.head.mint, Some(START_MS));
    assert_eq!(status.time_range, Some((START_MS, START_MS + 4_000)));
    assert_eq!(status.unavailable, None);
    let cardinality = db.cardinality(10).unwrap();
    assert_eq!(cardinality.series_by_metric, [("m".to_owned(), 3)]);
    assert_eq!(cardinality.values_by_label[0], ("n".to_owned(), 3));
    assert_eq!(db.metrics().samples_appended, 15);
    db.flush().unwrap();
    let blocks = db.status().blocks;
    assert_eq!(blocks.iter().map(|block| block.n_samples).sum::<u64>(), 15);
    assert!(blocks.iter().all(|block| block.size_bytes > 0));
}
