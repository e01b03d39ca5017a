//! The key-value store under the blocks. Formats see it through two traits; only the files of this
//! folder that need the feature `engine` call RocksDB.

pub mod keys;
pub mod pins;
#[cfg(feature = "engine")]
pub mod staged;
#[cfg(feature = "engine")]
pub mod store;

use crate::error::StorageError;
use keys::Kind;
use std::ops::ControlFlow;

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// What a scan calls with each key and value, until it breaks.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// One pinned version of the key-value store.
pub trait KvRead: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StorageError`] if the file cannot be read or its checksum does not fit.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// The values of several keys, which are ascending.
    ///
    /// # Errors
    /// As [`KvRead::get`].
    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Visits the keys of `[from, to)` in order until `visit` breaks.
    ///
    /// # Errors
    /// As [`KvRead::get`].
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError>;

    /// The greatest key of `[from, to]` that is not above `to`, with its value: finds the tile or part
    /// that holds a number.
    ///
    /// # Errors
    /// As [`KvRead::get`].
    fn last_at_or_before(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, StorageError>;
}

/// Where a block's records are written: one file per kind.
pub trait KvWrite {
    /// Adds a record. Keys of one kind come in ascending order; kinds may alternate.
    ///
    /// # Errors
    /// [`StorageError`] if the file cannot be written.
    fn put(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> Result<(), StorageError>;
}

/// Both traits over memory, for tests, tools and fuzzing.
#[derive(Clone, Debug, Default)]
pub struct MemoryKv {
    /// All records.
    pub records: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
}

impl KvRead for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.records.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        for (key, value) in self.records.range(from.to_vec()..to.to_vec()) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last_at_or_before(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, StorageError> {
        Ok(self.records.range(from.to_vec()..=to.to_vec()).next_back().map(|(k, v)| (k.clone(), v.clone())))
    }
}

impl KvWrite for MemoryKv {
    fn put(&mut self, _kind: Kind, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.records.insert(key.to_vec(), value.to_vec());
        Ok(())
    }
}
