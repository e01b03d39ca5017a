//! A full disk: samples are refused, queries go on, and taking in resumes by itself once there is
//! space. Needs root to mount a small file system; says so and passes where that is not allowed.

#![cfg(feature = "engine")]

#[path = "support/store.rs"]
mod support;

use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey};
use chronolith_storage::db::Db;
use chronolith_storage::error::AppendError;
use chronolith_storage::options::ManualClock;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use support::WINDOW_MS;

const START_MS: i64 = 1_700_000_000_000;

/// A small file system, unmounted at the end.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a test folder can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self { folder })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Takes all space that is left but `spare` bytes.
    fn fill(&self, spare: u64) -> PathBuf {
        let filler = self.folder.path().join(format!("filler-{spare}"));
        let space = rustix::fs::statvfs(self.folder.path()).expect("it is mounted");
        let free = (space.f_bavail * space.f_frsize).saturating_sub(spare);
        // Written, not allocated: the last block counts too.
        std::fs::write(&filler, vec![1; usize::try_from(free).expect("it is small")])
            .expect("there was space");
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.folder.path()).status();
    }
}

/// Samples with values that do not compress, so that the log fills.
fn append(db: &Db, batch_number: i64) -> Result<(), AppendError> {
    let mut random = support::Random(batch_number as u64);
    let labels: Vec<_> =
        (0..200).map(|n| support::labels(&[("__name__", "m"), ("n", &n.to_string())])).collect();
    let mut batch = AppendBatch::default();
    for (n, labels) in labels.iter().enumerate() {
        let value = f64::from_bits(random.next() >> 2);
        batch.samples.push(Sample { timestamp: START_MS + batch_number, value, start_timestamp: 0 });
        let at = n as u32;
        batch.series.push(BatchSeries {
            key: SeriesKey::Labels(labels),
            samples: at..at + 1,
            histograms: 0..0,
            exemplars: 0..0,
        });
    }
    db.append(&batch, false).map(|_| ())
}

#[test]
fn a_full_disk_refuses_samples_answers_queries_and_recovers() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("SKIPPED: mounting a small file system is not permitted here");
        return;
    };
    let clock = Arc::new(ManualClock::new(START_MS + WINDOW_MS));
    let mut options = support::options(&clock);
    options.table_samples = 8_000_000;
    options.window_ms = 7_200_000;
    options.ballast_bytes = Some(4 << 20);
    let db = Db::open(&disk.path(), options.clone()).expect("it opens");
    let mut acknowledged = Vec::new();
    for batch in 0..10 {
        append(&db, batch).expect("there is space");
        acknowledged.push(batch);
    }

    // Nothing is left, also not for the seal that would cure it: the ballast is smaller than a log
    // segment, so that the disk stays full.
    let filler = disk.fill(0);
    let mut refusal = None;
    for batch in 10..40_000 {
        match append(&db, batch) {
            Ok(()) => acknowledged.push(batch),
            Err(error) => {
                refusal = Some((batch, error));
                break;
            }
        }
    }
    let (refused, error) = refusal.expect("a full disk refuses samples");
    assert!(matches!(error, AppendError::Unavailable { retry_after_s: 1.., .. }), "{error}");
    let check = |db: &Db, acknowledged: &[i64]| {
        let content = support::read(db, &[], i64::MIN, i64::MAX).expect("queries go on");
        assert_eq!(content.len(), 200);
        for samples in content.values() {
            let found: Vec<i64> = samples.keys().map(|timestamp| timestamp - START_MS).collect();
            // What was refused may be there, as it was never acknowledged; nothing acknowledged is missing.
            let missing: Vec<_> = acknowledged.iter().filter(|batch| !found.contains(batch)).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    };
    check(&db, &acknowledged);
    assert!(db.status().unavailable.is_some());
    assert!(
        append(&db, refused).is_err(),
        "a retry must not turn an unlogged sample into an acknowledged one"
    );

    // Trying to recover on a full disk loses nothing.
    db.tick();
    check(&db, &acknowledged);

    std::fs::remove_file(filler).expect("it was written");
    assert!(db.tick(), "{:?}", db.status().unavailable);
    assert_eq!(db.status().unavailable, None);
    append(&db, refused).expect("it recovered by itself");
    acknowledged.push(refused);
    check(&db, &acknowledged);
    db.close().expect("it closes");
    let db = Db::open(&disk.path(), options).expect("it opens again");
    check(&db, &acknowledged);
    assert_eq!(db.status().lost, []);
}

#[test]
fn a_store_on_a_full_disk_still_opens() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("SKIPPED: mounting a small file system is not permitted here");
        return;
    };
    let clock = Arc::new(ManualClock::new(START_MS + WINDOW_MS));
    let mut options = support::options(&clock);
    options.ballast_bytes = Some(24 << 20);
    let open = |path: &Path| Db::open(path, options.clone());
    let db = open(&disk.path()).expect("it opens");
    for batch in 0..10 {
        append(&db, batch).expect("there is space");
    }
    db.flush().expect("it seals");
    drop(db);
    disk.fill(0);
    let db = open(&disk.path()).expect("it opens with the help of its ballast");
    let content = support::read(&db, &[], i64::MIN, i64::MAX).expect("it reads");
    assert_eq!(content.len(), 200);
}
