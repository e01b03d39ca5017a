//! File operations that fail: the N-th one, for every N until a run meets no failure.

use super::*;
use crate::error::AppendError;
use crate::log::faulty::{EIO, ENOSPC, Fault, FaultyFs};

/// Appends until the end or the first failure; then seals everything to `blocks` and goes on, with
/// retries of what was not acknowledged. Acknowledged samples must be in blocks or log at the end.
fn run(fs: &FaultyFs, wal_sync: crate::options::WalSync) {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1 << 40));
    let options = Options { wal_sync, ..options(&clock) };
    let setup = TableSetup { fs: Arc::new(fs.clone()), ..setup(dir.path(), options.clone()) };
    let (set, _) = TableSet::open(setup, &[]).unwrap();
    let mut acknowledged = Contents::new();
    let mut blocks = Contents::new();
    for step in 0..40i64 {
        let series = labels(&format!("__name__=m{}", step % 3));
        let sample = float(step * 100, step as f64);
        for attempt in 0..3 {
            match append(&set, &series, &[sample]) {
                Ok(outcome) => {
                    assert_eq!(outcome.samples_written, 1);
                    let (time, datum, start) = sample;
                    acknowledged.entry(series.to_string()).or_default().insert(time, (datum, start));
                    break;
                }
                Err(AppendError::Unavailable { .. }) => {
                    assert!(attempt < 2, "the log did not recover");
                    assert!(set.broken().is_some());
                    // As long as it is broken, even what is in memory already is refused.
                    let retry = append(&set, &series, &[sample]);
                    assert!(matches!(retry, Err(AppendError::Unavailable { .. })));
                    seal(&set, &mut blocks);
                    set.reopen().unwrap();
                }
                Err(AppendError::Closed) => panic!("nobody closed the set"),
            }
        }
        if step % 7 == 0 && set.sync_now().is_err() {
            assert!(set.broken().is_some());
            assert!(set.reopen().is_err(), "memory holds what no log has");
        }
    }
    assert!(!fs.synced_again(), "a descriptor was synced after it failed");
    drop(set);
    let (set, report) = TableSet::open(super::setup(dir.path(), options), &[]).unwrap();
    assert!(report.quarantined.is_empty(), "{report:?}");
    let mut found = blocks;
    for (series, samples) in contents(&set) {
        found.entry(series).or_default().extend(samples);
    }
    assert_eq!(found, acknowledged);
}

fn seal(set: &TableSet, blocks: &mut Contents) {
    set.freeze_all();
    for (series, samples) in source_contents(set, &[(i64::MIN, i64::MAX)]) {
        blocks.entry(series).or_default().extend(samples);
    }
    for table in set.frozen() {
        set.sealed(table.number());
    }
}

#[test]
fn the_nth_failure_of_any_operation_loses_nothing_acknowledged() {
    for wal_sync in [crate::options::WalSync::Grouped, crate::options::WalSync::Always] {
        for kind in [Fault::Write, Fault::Sync, Fault::Allocate, Fault::Create] {
            for errno in [ENOSPC, EIO] {
                for n in 1.. {
                    let fs = FaultyFs::new(kind, n, errno);
                    run(&fs, wal_sync);
                    if !fs.has_failed() {
                        break;
                    }
                    assert!(n < 10_000, "{kind:?} never ends to be called");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_read_at_a_start_is_named_and_there_at_the_next() {
    let dir = tempfile::tempdir().unwrap();
    for run in 0..3 {
        // Each restart begins a segment.
        let set = open(dir.path());
        for time in run * 100..run * 100 + 5 {
            append(&set, &labels("__name__=a"), &[float(time, time as f64)]).unwrap();
        }
    }
    let whole = contents(&open(dir.path()));
    for kind in [Fault::Open, Fault::Read] {
        for n in 1.. {
            let fs = FaultyFs::new(kind, n, EIO);
            let clock = Arc::new(ManualClock::new(1 << 40));
            let faulty = TableSetup { fs: Arc::new(fs.clone()), ..setup(dir.path(), options(&clock)) };
            let (set, report) = TableSet::open(faulty, &[]).unwrap();
            assert!(report.torn.is_empty(), "{kind:?} {n}: {report:?}");
            let found = contents(&set);
            assert!(found == whole || !report.quarantined.is_empty(), "{kind:?} {n} went unnoticed");
            drop(set);
            assert_eq!(contents(&open(dir.path())), whole, "after {kind:?} {n}");
            if !fs.has_failed() {
                break;
            }
        }
    }
}
