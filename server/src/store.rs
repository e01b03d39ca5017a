//! The storage engine as the server uses it. A trait, so that handlers are tested against stores that
//! fail in ways a real one seldom does.

use chronolith_model::append::{AppendBatch, AppendOutcome, Exemplar, Metadata};
use chronolith_model::queryable::{Queryable, ReadError};
use chronolith_model::{Labels, Matcher};
use chronolith_storage::metrics::{Cardinality, DbStatus, StorageMetrics};
use chronolith_storage::{AppendError, StorageError};
use std::path::Path;

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
    /// Changes how long and how much is kept; 0 means no limit.
    fn set_retention(&self, time_ms: i64, size_bytes: u64);
    /// Flushes and closes; waits a bounded time for those who still read.
    ///
    /// # Errors
    /// [`StorageError`] if something could not be made durable.
    fn close(&self) -> Result<(), StorageError>;
}
