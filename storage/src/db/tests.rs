//! The whole store while the N-th operation on its log fails, for N until a run meets no failure: nothing
//! acknowledged is lost, and nothing that failed is acknowledged, also not when it is sent again.

use super::*;
use crate::log::faulty::{EIO, ENOSPC, Fault, FaultyFs};
use crate::options::ManualClock;
use chronolith_model::append::{BatchSeries, Sample, SeriesKey};
use chronolith_model::queryable::{Floats, HistogramNeed, SampleBatch, Select, Unlimited};
use std::collections::BTreeMap;

const WINDOW_MS: i64 = 10_000;
const N_STEPS: i64 = 30;

/// Values by series and time.
type Content = BTreeMap<(String, i64), u64>;

/// One run of the workload.
struct Run {
    folder: tempfile::TempDir,
    fs: FaultyFs,
    wal_sync: WalSync,
    db: Option<Db>,
    acknowledged: Content,
    /// Refused and never sent again: it may be there or not.
    indeterminate: Content,
}

impl Run {
    fn db(&self) -> &Db {
        self.db.as_ref().expect("the store is open between steps")
    }

    /// Opens the store; a failure that comes now does not come again.
    fn open(&mut self) {
        let options = Options {
            window_ms: WINDOW_MS,
            retention_time_ms: 0,
            table_samples: 20,
            shards: 2,
            threads: 2,
            wal_sync: self.wal_sync,
            background: false,
            ballast_bytes: Some(0),
            clock: Arc::new(ManualClock::new(1 << 40)),
            ..Options::default()
        };
        let open =
            || Db::open_with(&self.folder.path().join("data"), options.clone(), Arc::new(self.fs.clone()));
        self.db = Some(open().or_else(|_| open()).expect("the second try meets no failure"));
    }

    fn append(&self, series: &str, timestamp: i64, value: f64) -> Result<(), AppendError> {
        let labels = Labels::from_pairs([("__name__", series)]).unwrap();
        let mut batch = AppendBatch::default();
        batch.samples.push(Sample { timestamp, value, start_timestamp: 0 });
        let key = SeriesKey::Labels(&labels);
        batch.series.push(BatchSeries { key, samples: 0..1, histograms: 0..0, exemplars: 0..0 });
        let outcome = self.db().append(&batch, false)?;
        assert_eq!((outcome.samples_written, outcome.refused), (1, 0));
        Ok(())
    }

    fn step(&mut self, step: i64) {
        for (series, timestamp) in
            [("a", step * 1_000), ("b", step * 1_000), ("late", (N_STEPS - step) * 1_000)]
        {
            self.send(series, timestamp, step as f64 / 8.0);
        }
        match step % 10 {
            2 => {
                let _ = self.db().inner.tables.sync_now();
            }
            4 => {
                let _ = self.db().flush();
            }
            6 => {
                let _ = self.db().compact();
            }
            7 => {
                self.db = None;
                // Without a sync an acknowledged sample survives the end of the process, not of the power.
                if self.wal_sync == WalSync::Always {
                    self.fs.lose_power();
                }
                self.open();
            }
            9 => {
                // A clean stop may fail to sync; what is in the log stays there.
                let _ = self.db.take().expect("the store is open").close();
                self.open();
            }
            _ => {
                self.db().tick();
            }
        }
    }

    fn send(&mut self, series: &str, timestamp: i64, value: f64) {
        let sample = ((series.to_owned(), timestamp), value.to_bits());
        let Err(error) = self.append(series, timestamp, value) else {
            self.acknowledged.extend([sample]);
            return;
        };
        assert!(matches!(error, AppendError::Unavailable { .. }), "{error}");
        // In memory it is already. As long as the log is not whole, that must not make it acknowledged.
        assert!(self.append(series, timestamp, value).is_err());
        if timestamp % 2_000 == 0 {
            self.indeterminate.extend([sample]);
            return;
        }
        let recovered = (0..3).any(|_| self.db().tick());
        assert!(recovered, "the log did not recover");
        self.append(series, timestamp, value).expect("the failure does not come again");
        self.acknowledged.extend([sample]);
    }

    fn content(&self) -> Content {
        let select = Select { histograms: HistogramNeed::None, ..Select::whole(&[], i64::MIN, i64::MAX) };
        let cx = Unlimited::default();
        let symbols = chronolith_model::queryable::QueryContext::symbols(&cx);
        let series = self.db().pin().unwrap().select(&select, &cx).unwrap();
        let mut batch = SampleBatch::default();
        series.read(0..series.len(), &mut batch, &cx).unwrap();
        let mut content = Content::new();
        for (index, samples) in (0u32..).zip(&batch.series) {
            let name = symbols.resolve(series.labels(index)[0].1).to_string();
            for (at, &time) in samples.timestamps.times.iter().enumerate() {
                let value = match &samples.floats {
                    Floats::None => panic!("only floats were appended"),
                    Floats::Constant(value) => *value,
                    Floats::Values(range) => batch.values[range.start as usize + at],
                };
                assert_eq!(content.insert((name.clone(), time), value.to_bits()), None);
            }
        }
        content
    }

    fn check(&self) {
        let found = self.content();
        for (sample, bits) in &self.acknowledged {
            assert_eq!(found.get(sample), Some(bits), "{sample:?} was acknowledged");
        }
        for (sample, bits) in &found {
            let sent = self.acknowledged.get(sample).or_else(|| self.indeterminate.get(sample));
            assert_eq!(sent, Some(bits), "{sample:?} was never sent");
        }
    }
}

/// A folder in memory if there is such: power losses are made up, so that syncs of the disk serve nothing here
/// and take most of the time.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a test folder can be made")
}

/// Runs the workload over a log of which an operation fails. False if it needs fewer operations.
fn run(kind: Fault, n: usize, errno: i32, wal_sync: WalSync) -> bool {
    let mut run = Run {
        folder: folder(),
        fs: FaultyFs::new(kind, n, errno),
        wal_sync,
        db: None,
        acknowledged: Content::new(),
        indeterminate: Content::new(),
    };
    run.open();
    for step in 0..N_STEPS {
        run.step(step);
        run.check();
    }
    run.db = None;
    if wal_sync == WalSync::Always {
        run.fs.lose_power();
    }
    run.open();
    run.check();
    assert!(!run.fs.synced_again(), "a descriptor was synced after it failed");
    assert_eq!(run.db().status().lost, []);
    run.fs.has_failed()
}

/// `CHRONOLITH_FAULT_STEP=1` fails each operation; without it every eleventh.
#[test]
fn the_nth_failure_of_the_log_loses_nothing_acknowledged() {
    let step = std::env::var("CHRONOLITH_FAULT_STEP").map_or(11, |n| n.parse().expect("a number"));
    for wal_sync in [WalSync::Grouped, WalSync::Always] {
        for kind in [Fault::Write, Fault::Sync, Fault::Allocate, Fault::Create] {
            let n_runs = (1usize..)
                .step_by(step)
                .take_while(|&n| run(kind, n, if n % 2 == 0 { ENOSPC } else { EIO }, wal_sync))
                .count();
            assert!(n_runs > 1, "{kind:?} hardly happens");
            println!("{wal_sync:?}, {kind:?}: {n_runs} failures");
        }
    }
}

#[test]
fn nothing_is_read_ahead_once_the_store_closes() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { background: false, ballast_bytes: Some(0), ..Options::default() };
    let db = Db::open(folder.path(), options).unwrap();
    let mut batch = AppendBatch::default();
    let labels = Labels::from_pairs([("__name__", "a")]).unwrap();
    batch.samples.push(Sample { timestamp: 1_000, value: 1.0, start_timestamp: 0 });
    let key = SeriesKey::Labels(&labels);
    batch.series.push(BatchSeries { key, samples: 0..1, histograms: 0..0, exemplars: 0..0 });
    db.append(&batch, false).unwrap();
    db.flush().unwrap();
    assert_eq!(db.inner.lists.len(), 0);
    assert_ne!(db.read_ahead(), (0, 0));
    assert_eq!(db.inner.lists.len(), 2, "names of labels and of metrics");
    background::shut_down(&db.inner);
    assert_eq!(db.read_ahead(), (0, 0));
}
