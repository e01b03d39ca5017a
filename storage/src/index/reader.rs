//! The index of an open block, read from its records when asked.

use super::matching::{IndexReader, PatternCache, Visit};
use super::postings::Postings;
use super::series::{IndexedSeries, visit_series};
use super::symbols::{SymbolPart, Symbols};
use super::values::{read_names, read_values};
use super::writer::{ANY_VALUE, postings_key};
use crate::error::StorageError;
use crate::kv::KvRead;
use crate::kv::keys::BlockId;
use chronolith_model::queryable::QueryContext;
use parking_lot::Mutex;
use std::sync::Arc;

/// Posting lists fetched by one read.
const LISTS_PER_READ: usize = 256;

/// The index of a block. Keeps some decoded strings and results of patterns; all else is left to the
/// cache of the store.
pub struct BlockIndex {
    kv: Arc<dyn KvRead>,
    block: BlockId,
    n_series: u32,
    symbols: Symbols,
    patterns: PatternCache,
    names: Mutex<Option<Arc<[u32]>>>,
}

impl BlockIndex {
    /// The index of a block whose header says `n_series`, `n_symbols` and `parts`. Reads nothing.
    pub fn new(
        kv: Arc<dyn KvRead>,
        block: BlockId,
        n_series: u32,
        n_symbols: u32,
        parts: Arc<[SymbolPart]>,
    ) -> Self {
        Self {
            kv,
            block,
            n_series,
            symbols: Symbols::new(block, n_symbols, parts),
            patterns: PatternCache::default(),
            names: Mutex::default(),
        }
    }

    /// How many strings there are: numbers are below this.
    pub const fn n_symbols(&self) -> u32 {
        self.symbols.len()
    }

    /// Visits the strings with these numbers (ascending).
    ///
    /// # Errors
    /// [`StorageError`] if they cannot be read or there is no such number, or what `visit` returns.
    pub fn visit_strings(
        &self,
        numbers: impl IntoIterator<Item = u32>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        self.symbols.visit(&*self.kv, numbers, visit)
    }

    /// Visits the series with these ranks, ascending.
    ///
    /// # Errors
    /// [`StorageError`] if the query has to stop or they cannot be read, or what `visit` returns.
    pub fn visit_series(
        &self,
        ranks: &Postings,
        cx: &dyn QueryContext,
        visit: &mut dyn FnMut(u32, &IndexedSeries) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let check = &mut || Ok(cx.check()?);
        visit_series(&*self.kv, self.block, self.symbols.len(), ranks, check, visit)
    }

    /// Numbers of the values of a label name.
    ///
    /// # Errors
    /// [`StorageError`] if they cannot be read.
    pub fn value_numbers(&self, name: u32) -> Result<Postings, StorageError> {
        read_values(&*self.kv, self.block, name, self.symbols.len())
    }

    fn name_numbers(&self) -> Result<Arc<[u32]>, StorageError> {
        if let Some(names) = &*self.names.lock() {
            return Ok(Arc::clone(names));
        }
        let names: Arc<[u32]> = read_names(&*self.kv, self.block)?.into();
        *self.names.lock() = Some(Arc::clone(&names));
        Ok(names)
    }

    fn decode(&self, key: &[u8], bytes: &[u8]) -> Result<Postings, StorageError> {
        Postings::decode(bytes, self.n_series).map_err(|error| {
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            StorageError::corrupt(format!("postings of block {}, key {hex}", self.block), error.to_string())
        })
    }
}

impl IndexReader for BlockIndex {
    fn n_series(&self) -> u32 {
        self.n_series
    }

    fn symbol(&self, text: &str) -> Result<Option<u32>, StorageError> {
        self.symbols.find(&*self.kv, text)
    }

    fn names(&self, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let names = self.name_numbers()?;
        self.symbols.visit(&*self.kv, names.iter().copied(), visit)
    }

    fn values(&self, name: u32, prefix: &str, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let values = self.value_numbers(name)?;
        let values = match prefix.is_empty() {
            true => values,
            false => {
                let range = self.symbols.prefix_range(&*self.kv, prefix)?;
                values.intersect(&Postings::range(range))
            }
        };
        self.symbols.visit(&*self.kv, values.iter(), visit)
    }

    fn postings(&self, name: u32, values: &[u32]) -> Result<Postings, StorageError> {
        let mut sets = Vec::with_capacity(values.len());
        for values in values.chunks(LISTS_PER_READ) {
            let keys: Vec<Vec<u8>> =
                values.iter().map(|&value| postings_key(self.block, name, value)).collect();
            for (key, bytes) in keys.iter().zip(self.kv.multi_get(&keys)?) {
                if let Some(bytes) = bytes {
                    sets.push(self.decode(key, &bytes)?);
                }
            }
        }
        Ok(match sets.len() {
            1 => sets.swap_remove(0),
            _ => Postings::union(&sets),
        })
    }

    fn postings_of_name(&self, name: u32) -> Result<Postings, StorageError> {
        self.postings(name, &[ANY_VALUE])
    }

    fn pattern_cache(&self) -> Option<&PatternCache> {
        Some(&self.patterns)
    }
}

impl std::fmt::Debug for BlockIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockIndex")
            .field("block", &self.block)
            .field("n_series", &self.n_series)
            .finish_non_exhaustive()
    }
}
