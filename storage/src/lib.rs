//! Chronolith's time-series engine: an LSM whose runs are *blocks*, immutable, time-partitioned sets
//! of chunks with their own inverted index, held in RocksDB. See ARCHITECTURE.md for the life of a
//! sample and docs/format.md for every byte on disk.
//!
//! Without the feature `engine` only the formats and the open tables remain, which need no RocksDB.

pub mod block;
pub mod cache;
pub mod chunk;
#[cfg(feature = "engine")]
pub mod db;
pub mod error;
#[cfg(test)]
mod format_examples;
pub mod index;
pub mod kv;
mod lock;
pub mod log;
mod lookups;
pub mod metrics;
pub mod options;
pub mod part;
mod prefetch;
mod query_symbols;
pub mod read;
pub mod table;

pub use error::{AppendError, StorageError};
pub use options::Options;
