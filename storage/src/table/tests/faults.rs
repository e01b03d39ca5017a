//! File operations that fail: the N-th one, for every N until a run meets no failure.

use super::*;
use crate::error::AppendError;
use crate::log::fs::{LogFile, LogFs};
use std::io;
use std::sync::atomic::AtomicUsize;

/// The file system, until the N-th operation of a kind.
#[derive(Clone)]
struct FaultyFs {
    state: Arc<FaultState>,
}

struct FaultState {
    kind: Fault,
    left: AtomicUsize,
    errno: i32,
    /// Whether the failed file descriptor was synced again, which never helps.
    synced_again: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Write,
    Sync,
    Allocate,
    Create,
    Open,
    Read,
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

impl FaultyFs {
    fn new(kind: Fault, n: usize, errno: i32) -> Self {
        let state =
            FaultState { kind, left: AtomicUsize::new(n), errno, synced_again: AtomicBool::new(false) };
        Self { state: Arc::new(state) }
    }

    fn has_failed(&self) -> bool {
        self.state.left.load(Ordering::SeqCst) == 0
    }
}

impl FaultState {
    fn check(&self, kind: Fault) -> io::Result<()> {
        if kind != self.kind {
            return Ok(());
        }
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if before == Ok(1) { Err(io::Error::from_raw_os_error(self.errno)) } else { Ok(()) }
    }
}

struct FaultyFile {
    file: Box<dyn LogFile>,
    state: Arc<FaultState>,
    sync_failed: AtomicBool,
}

impl LogFile for FaultyFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.state.check(Fault::Write) {
            // Part of the bytes got through.
            self.file.append(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.append(bytes)
    }
    fn allocate(&self, size_bytes: u64) -> io::Result<()> {
        self.state.check(Fault::Allocate)?;
        self.file.allocate(size_bytes)
    }
    fn sync(&self) -> io::Result<()> {
        if self.sync_failed.load(Ordering::SeqCst) {
            self.state.synced_again.store(true, Ordering::SeqCst);
        }
        let result = self.state.check(Fault::Sync);
        if result.is_err() {
            self.sync_failed.store(true, Ordering::SeqCst);
        }
        result
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.state.check(Fault::Read)?;
        self.file.read_at(buffer, offset)
    }
    fn size_bytes(&self) -> io::Result<u64> {
        self.file.size_bytes()
    }
    fn truncate(&self, size_bytes: u64) -> io::Result<()> {
        self.file.truncate(size_bytes)
    }
}

impl FaultyFs {
    fn wrap(&self, file: Box<dyn LogFile>) -> Box<dyn LogFile> {
        let state = Arc::clone(&self.state);
        Box::new(FaultyFile { file, state, sync_failed: AtomicBool::new(false) })
    }
}

impl LogFs for FaultyFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealFs.list(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.state.check(Fault::Create)?;
        Ok(self.wrap(RealFs.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.state.check(Fault::Open)?;
        Ok(self.wrap(RealFs.open(path)?))
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir(path)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.link(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.sync_dir(path)
    }
}

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
    assert!(!fs.state.synced_again.load(Ordering::SeqCst), "a descriptor was synced after it failed");
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
