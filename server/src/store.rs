//! The storage engine as the server uses it. A trait, so that handlers are tested against stores that
//! fail in ways a real one seldom does.

use chronolith_model::append::{AppendBatch, AppendOutcome, Exemplar, Metadata};
use chronolith_model::queryable::{Queryable, ReadError, Snapshot};
use chronolith_model::{Labels, Matcher};
use chronolith_storage::db::Db;
use chronolith_storage::error::error_chain;
use chronolith_storage::metrics::{Cardinality, DbStatus, StorageMetrics};
use chronolith_storage::{AppendError, StorageError};
use parking_lot::RwLock;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What the server asks of the engine. All calls block.
pub trait Store: Queryable {
    /// See `Db::append`.
    ///
    /// # Errors
    /// [`AppendError`] if nothing was taken.
    fn append(&self, batch: &AppendBatch<'_>, want_refs: bool) -> Result<AppendOutcome, AppendError>;
    /// Deletes what matches any of the sets in `[mint, maxt]`.
    ///
    /// # Errors
    /// [`StorageError`]
    fn delete(&self, matcher_sets: &[Vec<Matcher>], mint: i64, maxt: i64) -> Result<(), StorageError>;
    /// Returns the space of what was deleted.
    ///
    /// # Errors
    /// [`StorageError`]
    fn clean_tombstones(&self) -> Result<(), StorageError>;
    /// Makes a copy of hard links in the folder `into`.
    ///
    /// # Errors
    /// [`StorageError`]
    fn snapshot(&self, into: &Path, skip_head: bool) -> Result<(), StorageError>;
    /// Exemplars of the series that match any of the sets, in `[mint, maxt]`.
    ///
    /// # Errors
    /// [`StorageError`]
    fn exemplars(
        &self,
        matcher_sets: &[Vec<Matcher>],
        mint: i64,
        maxt: i64,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>;
    /// What is known about metric families, by name.
    fn metadata(&self, metric: Option<&str>) -> Vec<(String, Vec<Metadata>)>;
    /// State of the store.
    fn status(&self) -> DbStatus;
    /// Where the series are; at most `limit` entries a list.
    ///
    /// # Errors
    /// [`ReadError`] if an index cannot be read.
    fn cardinality(&self, limit: usize) -> Result<Cardinality, ReadError>;
    /// Counters.
    fn metrics(&self) -> StorageMetrics;
    /// Begins to read the newest data ahead; see `Db::start_read_ahead`.
    fn start_read_ahead(&self, _then: Box<dyn FnOnce() + Send>) {}
    /// Changes how long and how much is kept; 0 means no limit.
    fn set_retention(&self, time_ms: i64, size_bytes: u64);
    /// Flushes and closes; waits a bounded time for those who still read.
    ///
    /// # Errors
    /// [`StorageError`] if something could not be made durable.
    fn close(&self) -> Result<(), StorageError>;
}

/// How long a close waits for calls that are still running, deletions and copies above all.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The engine, until it is closed: calls after that hear that it is.
pub struct OpenDb(RwLock<Option<Db>>);

impl OpenDb {
    /// Wraps an open engine.
    pub fn new(db: Db) -> Self {
        Self(RwLock::new(Some(db)))
    }

    fn with<T>(&self, call: impl FnOnce(&Db) -> T) -> Option<T> {
        self.0.read().as_ref().map(call)
    }
}

impl Queryable for OpenDb {
    fn pin(&self) -> Result<Arc<dyn Snapshot>, ReadError> {
        self.with(Db::pin).unwrap_or_else(|| Err(StorageError::Closed.into()))
    }

    fn version(&self) -> Option<u64> {
        self.with(Db::version).flatten()
    }

    fn unchanged_since(&self, version: u64) -> Range<i64> {
        self.with(|db| db.unchanged_since(version)).unwrap_or_default()
    }
}

impl Store for OpenDb {
    fn append(&self, batch: &AppendBatch<'_>, want_refs: bool) -> Result<AppendOutcome, AppendError> {
        self.with(|db| db.append(batch, want_refs)).unwrap_or(Err(AppendError::Closed))
    }

    fn delete(&self, matcher_sets: &[Vec<Matcher>], mint: i64, maxt: i64) -> Result<(), StorageError> {
        self.with(|db| db.delete(matcher_sets, mint, maxt)).unwrap_or(Err(StorageError::Closed))
    }

    fn clean_tombstones(&self) -> Result<(), StorageError> {
        self.with(Db::clean_tombstones).unwrap_or(Err(StorageError::Closed))
    }

    fn snapshot(&self, into: &Path, skip_head: bool) -> Result<(), StorageError> {
        self.with(|db| db.snapshot(into, skip_head)).unwrap_or(Err(StorageError::Closed))
    }

    fn exemplars(
        &self,
        matcher_sets: &[Vec<Matcher>],
        mint: i64,
        maxt: i64,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, StorageError> {
        self.with(|db| db.exemplars(matcher_sets, mint, maxt)).unwrap_or(Err(StorageError::Closed))
    }

    fn metadata(&self, metric: Option<&str>) -> Vec<(String, Vec<Metadata>)> {
        self.with(|db| db.metadata(metric)).unwrap_or_default()
    }

    fn status(&self) -> DbStatus {
        self.with(Db::status).unwrap_or_default()
    }

    fn cardinality(&self, limit: usize) -> Result<Cardinality, ReadError> {
        self.with(|db| db.cardinality(limit)).unwrap_or_else(|| Err(StorageError::Closed.into()))
    }

    fn metrics(&self) -> StorageMetrics {
        self.with(Db::metrics).unwrap_or_default()
    }

    fn start_read_ahead(&self, then: Box<dyn FnOnce() + Send>) {
        self.with(|db| db.start_read_ahead(then));
    }

    fn set_retention(&self, time_ms: i64, size_bytes: u64) {
        self.with(|db| db.set_retention(time_ms, size_bytes));
    }

    fn close(&self) -> Result<(), StorageError> {
        let Some(mut slot) = self.0.try_write_for(CLOSE_WAIT) else {
            tracing::warn!(
                "the store was still at work when the time for closing was up; its log is complete"
            );
            return Ok(());
        };
        slot.take().map_or(Ok(()), Db::close)
    }
}

/// Why the store does not open, and what to do about it, in one text.
pub fn explain(error: &StorageError, path: &Path) -> String {
    let reason = error_chain(error);
    let path = path.display();
    match error {
        StorageError::Locked { .. } => {
            format!("{reason}: stop that process, or give another --storage.tsdb.path")
        }
        // It says what to do.
        StorageError::Version { .. } => reason,
        StorageError::Io { source, .. } if is_no_directory(source) => {
            format!("--storage.tsdb.path: {path} is not a directory, or lies in something that is none")
        }
        StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            format!("{reason}: the user that runs this program must own the data directory {path}")
        }
        _ => format!("cannot open the data directory {path}: {reason}"),
    }
}

fn is_no_directory(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_storage::Options;

    fn refusal(path: &Path) -> String {
        match Db::open(path, Options { background: false, ..Options::default() }) {
            Ok(_) => panic!("{} opens", path.display()),
            Err(error) => explain(&error, path),
        }
    }

    #[test]
    fn a_data_directory_that_cannot_be_used_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("x")] {
            let expected = format!("--storage.tsdb.path: {} is not a directory", path.display());
            assert!(refusal(&path).starts_with(&expected), "{}", refusal(&path));
        }
        let other = folder.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("VERSION"), "chronolith 7\n").unwrap();
        let text = refusal(&other);
        assert!(
            text.contains("has format 7, this program reads format 1: start the newer version"),
            "{text}"
        );
        let held = folder.path().join("held");
        let _db = Db::open(&held, Options { background: false, ..Options::default() }).unwrap();
        let text = refusal(&held);
        assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
        assert!(text.ends_with("stop that process, or give another --storage.tsdb.path"), "{text}");
    }
}
