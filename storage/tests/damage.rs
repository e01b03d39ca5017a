//! Bit flips and truncations over every kind of file of a small store. Whatever is damaged: the store
//! opens, and answers rightly or with an error; what is missing is reported; nothing is invented and
//! nothing that was deleted comes back.
//!
//! `CHRONOLITH_DAMAGE_STEP=1` tries every byte; by default some of each file are tried.

#![cfg(feature = "engine")]

#[path = "support/store.rs"]
mod support;

use chronolith_model::Matcher;
use chronolith_storage::options::ManualClock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{Content, Value, WINDOW_MS};

const START_MS: i64 = 1_700_000_000_000;

/// Tries per file unless the step is set.
const N_TRIES: usize = 5;

/// A store with two sealed blocks, one of them with a deletion, and samples in the log.
fn build(path: &Path) -> (Content, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(START_MS + 3 * WINDOW_MS));
    let db = support::open(path, &clock);
    for window in 0..3 {
        let mut samples = Vec::new();
        for n in 0..20i64 {
            for series in 0..5 {
                let labels = support::labels(&[("__name__", "m"), ("series", &format!("s{series}"))]);
                let value = match series {
                    0 => Value::Histogram(n as u64),
                    1 => Value::Float((n as f64 * 0.37).to_bits()),
                    _ => Value::Float((n as f64).to_bits()),
                };
                samples.push((labels, START_MS + window * WINDOW_MS + n * 400, value));
            }
        }
        assert_eq!(support::append(&db, &samples).refused, 0);
        if window < 2 {
            db.flush().expect("it can seal");
        }
        if window == 0 {
            db.delete(&[vec![Matcher::equal("series", "s2")]], START_MS, START_MS + 2_000)
                .expect("it can delete");
        }
    }
    let content = support::read(&db, &[], i64::MIN, i64::MAX).expect("it reads");
    assert_eq!(content.len(), 5);
    db.close().expect("it closes");
    (content, clock)
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder reads").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.file_name().is_some_and(|name| name != "LOCK") {
            found.push(path);
        }
    }
}

/// Damages one file of a copy and checks what the store says then.
fn check(
    original: &Path,
    file: &Path,
    expected: &Content,
    clock: &Arc<ManualClock>,
    damage: &dyn Fn(&mut Vec<u8>),
) -> bool {
    let copy = tempfile::tempdir().expect("a test folder can be made");
    support::copy_directory(original, copy.path());
    let target = copy.path().join(file);
    let mut bytes = std::fs::read(&target).expect("the file was copied");
    damage(&mut bytes);
    std::fs::write(&target, bytes).expect("it can be written");

    let db = match chronolith_storage::db::Db::open(copy.path(), support::options(clock)) {
        Ok(db) => db,
        // The version is the one thing that must be right: another one is refused, with its number.
        Err(error @ chronolith_storage::StorageError::Version { .. }) if file.ends_with("VERSION") => {
            assert!(error.to_string().contains("has format"), "{error}");
            return true;
        }
        Err(error) => panic!("{}: refused to open: {error}", file.display()),
    };
    let mut is_noticed = !db.status().lost.is_empty();
    for series in 0..5 {
        if series == 2 {
            // What is damaged is passed over, and what is kept of the rest is as it was.
            db.read_ahead();
        }
        let matchers = [Matcher::equal("series", format!("s{series}"))];
        let Ok(found) = support::read(&db, &matchers, i64::MIN, i64::MAX) else {
            is_noticed = true;
            continue;
        };
        let expected = support::filter(expected, &matchers, i64::MIN, i64::MAX);
        for (labels, samples) in &found {
            for (timestamp, value) in samples {
                let right = expected.get(labels).and_then(|samples| samples.get(timestamp));
                assert_eq!(right, Some(value), "{}: {labels} at {timestamp}", file.display());
            }
        }
        // The end of the log may look like a write that a power loss cut off.
        let may_be_cut = file.starts_with("log");
        if found != expected && !may_be_cut {
            let lost = db.status().lost;
            assert!(!lost.is_empty(), "{}: samples are missing and nothing is reported", file.display());
            let snapshot = chronolith_model::queryable::Queryable::pin(&db).expect("it is open");
            assert!(!snapshot.warnings().is_empty());
        }
    }
    is_noticed
}

#[test]
fn damage_is_noticed_and_never_answered_wrongly() {
    let folder = tempfile::tempdir().expect("a test folder can be made");
    let (expected, clock) = build(folder.path());
    let mut all = Vec::new();
    files(folder.path(), &mut all);
    all.sort();
    assert!(all.len() > 15, "{all:?}");
    let step: Option<usize> =
        std::env::var("CHRONOLITH_DAMAGE_STEP").ok().map(|step| step.parse().expect("a number of bytes"));
    let mut n_noticed = 0;
    let mut n_tries = 0;
    for path in all {
        let file = path.strip_prefix(folder.path()).expect("it is in the folder").to_owned();
        let size = std::fs::metadata(&path).expect("it is there").len() as usize;
        let step = step.unwrap_or((size / N_TRIES).max(1));
        for at in (0..size).rev().step_by(step) {
            let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (at % 8);
            let cut = |bytes: &mut Vec<u8>| bytes.truncate(at);
            for damage in [&flip as &dyn Fn(&mut Vec<u8>), &cut] {
                n_noticed += usize::from(check(folder.path(), &file, &expected, &clock, damage));
                n_tries += 1;
            }
        }
        println!("{}: {size} bytes, each {step}", file.display());
    }
    // Text logs, unused options and the like do not matter; most of the rest must.
    assert!(n_noticed * 4 > n_tries, "only {n_noticed} of {n_tries} were noticed");
}

#[test]
fn a_file_that_is_gone_is_noticed_and_the_rest_is_served() {
    let folder = tempfile::tempdir().expect("a test folder can be made");
    let (expected, clock) = build(folder.path());
    let mut all = Vec::new();
    files(folder.path(), &mut all);
    for path in all {
        let copy = tempfile::tempdir().expect("a test folder can be made");
        support::copy_directory(folder.path(), copy.path());
        let file = path.strip_prefix(folder.path()).expect("it is in the folder");
        std::fs::remove_file(copy.path().join(file)).expect("it was copied");
        let db = support::open(copy.path(), &clock);
        let found = support::read(&db, &[], i64::MIN, i64::MAX).expect("what is there reads");
        for (labels, samples) in &found {
            for (timestamp, value) in samples {
                let right = expected.get(labels).and_then(|samples| samples.get(timestamp));
                assert_eq!(right, Some(value), "{}: {labels} at {timestamp}", file.display());
            }
        }
        if file.extension().is_some_and(|extension| extension == "sst") {
            assert!(!db.status().lost.is_empty(), "{} is gone and nothing is reported", file.display());
            assert!(!found.is_empty());
        }
    }
}
