//! Why the engine refuses or fails.

use chronolith_model::queryable::{ReadError, Stop};
use std::path::PathBuf;

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The query that asked has to end.
    #[error(transparent)]
    Stop(#[from] Stop),
    /// Stored bytes do not decode or contradict each other. Retrying cannot help.
    #[error("corrupt {what}: {reason}")]
    Corrupt {
        /// What and where: block, kind, key; or file and offset.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation failed.
    #[error("failed to {operation} {}", path.display())]
    Io {
        /// "open", "write", "sync" ...
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// RocksDB refused an operation.
    #[error("failed to {operation}: {reason}")]
    Kv {
        /// "ingest block 17" ...
        operation: String,
        /// RocksDB's words.
        reason: String,
    },
    /// The data directory is of another format version.
    #[error("data directory {} has format {found}, this program reads format {expected}: {advice}", path.display())]
    Version {
        /// The data directory.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What this program reads.
        expected: u32,
        /// What the user can do.
        advice: &'static str,
    },
    /// Another process holds the data directory.
    #[error("data directory {} is in use by process {holder}", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Process id and what else its lock file says.
        holder: String,
    },
    /// The store is closed or closing.
    #[error("the store is closed")]
    Closed,
}

impl StorageError {
    /// A failed file operation.
    pub fn io(operation: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { operation, path: path.into(), source }
    }

    /// Corruption, told by the code that met it.
    pub fn corrupt(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), reason: reason.into() }
    }
}

impl From<StorageError> for ReadError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Stop(stop) => Self::Stop(stop),
            StorageError::Corrupt { .. } => Self::Corrupt(error_chain(&error)),
            other => Self::Io(error_chain(&other)),
        }
    }
}

/// Why an append was not taken at all. Nothing of the batch is acknowledged; sending it again is safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The store cannot log now (full disk, failed write or sync) and says so until what is in memory
    /// is in blocks and a new log is open.
    #[error("the store cannot take samples now: {reason}")]
    Unavailable {
        /// What is wrong.
        reason: String,
        /// Seconds after which a sender should try again.
        retry_after_s: u64,
    },
    /// The store is closed or closing.
    #[error("the store is closed")]
    Closed,
}

/// An error and its causes, each said once.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
