//! File operations of the log that fail when a test wants it, and power losses that take everything
//! which was not synced.

use super::fs::{LogFile, LogFs, RealFs};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub const ENOSPC: i32 = 28;
pub const EIO: i32 = 5;

/// Which operations count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    Write,
    Sync,
    Allocate,
    Create,
    Open,
    Read,
}

/// The file system, until the N-th operation of a kind.
#[derive(Clone)]
pub struct FaultyFs {
    state: Arc<FaultState>,
}

struct FaultState {
    kind: Fault,
    left: AtomicUsize,
    errno: i32,
    /// Whether the failed file descriptor was synced again, which never helps.
    synced_again: AtomicBool,
    /// What would be there after a power loss: files that were created, by how much of them was synced.
    synced: Mutex<BTreeMap<PathBuf, u64>>,
    /// Files and folders whose names were not synced yet.
    unnamed: Mutex<BTreeSet<PathBuf>>,
}

impl FaultyFs {
    /// Fails the `n`-th operation of a kind.
    pub fn new(kind: Fault, n: usize, errno: i32) -> Self {
        let state = FaultState {
            kind,
            left: AtomicUsize::new(n),
            errno,
            synced_again: AtomicBool::new(false),
            synced: Mutex::default(),
            unnamed: Mutex::default(),
        };
        Self { state: Arc::new(state) }
    }

    /// Whether the operation has come.
    pub fn has_failed(&self) -> bool {
        self.state.left.load(Ordering::SeqCst) == 0
    }

    /// Whether a descriptor was synced after a sync of it had failed.
    pub fn synced_again(&self) -> bool {
        self.state.synced_again.load(Ordering::SeqCst)
    }

    /// Takes from the disk what was never synced. No file may be open.
    pub fn lose_power(&self) {
        for path in std::mem::take(&mut *self.state.unnamed.lock()) {
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            assert!(removed.is_ok() || !path.exists());
        }
        for (path, &size_bytes) in &*self.state.synced.lock() {
            if let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) {
                file.set_len(size_bytes).expect("a file of a test can be cut");
            }
        }
    }

    fn wrap(&self, file: Box<dyn LogFile>, path: &Path) -> Box<dyn LogFile> {
        let (state, path) = (Arc::clone(&self.state), path.to_owned());
        Box::new(FaultyFile { file, path, state, sync_failed: AtomicBool::new(false) })
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
    path: PathBuf,
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
        let size_bytes = self.file.size_bytes()?;
        if let Err(error) = self.state.check(Fault::Sync) {
            self.sync_failed.store(true, Ordering::SeqCst);
            return Err(error);
        }
        self.state.synced.lock().insert(self.path.clone(), size_bytes);
        Ok(())
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

impl LogFs for FaultyFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if !path.exists() {
            self.state.check(Fault::Create)?;
            self.state.unnamed.lock().insert(path.to_owned());
        }
        RealFs.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealFs.list(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.state.check(Fault::Create)?;
        let file = RealFs.create(path)?;
        self.state.unnamed.lock().insert(path.to_owned());
        self.state.synced.lock().insert(path.to_owned(), 0);
        Ok(self.wrap(file, path))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.state.check(Fault::Open)?;
        Ok(self.wrap(RealFs.open(path)?, path))
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir(path)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.link(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.state.check(Fault::Sync)?;
        self.state.unnamed.lock().retain(|unnamed| unnamed.parent() != Some(path));
        Ok(())
    }
}
