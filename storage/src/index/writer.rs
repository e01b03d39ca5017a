//! Writes the index of a block (kinds symbols, values, series, postings) while its series arrive.

use super::postings::PostingsEncoder;
use super::series::SeriesWriter;
use super::symbols::{SymbolPart, write_symbols};
use super::values::write_values;
use crate::error::StorageError;
use crate::kv::KvWrite;
use crate::kv::keys::{self, BlockId, Kind};
use std::collections::HashMap;

/// In the place of a value in a postings key: the series that have the label, whatever its value.
pub const ANY_VALUE: u32 = u32::MAX;

/// What the block's header keeps of its index.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct IndexSummary {
    /// Series; ranks are below this.
    pub n_series: u32,
    /// Strings; their numbers are below this.
    pub n_symbols: u32,
    /// Label names.
    pub n_names: u32,
    /// Distinct pairs of name and value.
    pub n_pairs: u32,
    /// Bytes of the records of kinds symbols, values, series and postings, before compression.
    pub size_bytes: [u64; 4],
    /// Where the parts of the strings begin.
    pub symbol_parts: Vec<SymbolPart>,
}

/// Collects the index of one block. Symbols and series records go out at once; what stays in memory
/// is the postings, some two bytes per run and 64 bytes per label pair.
#[derive(Debug)]
pub struct IndexWriter {
    block: BlockId,
    summary: IndexSummary,
    series: SeriesWriter,
    postings: HashMap<(u32, u32), PostingsEncoder, xxhash_rust::xxh3::Xxh3DefaultBuilder>,
}

impl IndexWriter {
    /// Writes the strings. `symbols` are sorted as bytes, each once; labels refer to them by position.
    ///
    /// # Errors
    /// [`StorageError`] if a record cannot be written, or the strings are not sorted or too many.
    pub fn new(block: BlockId, symbols: &[Box<str>], out: &mut dyn KvWrite) -> Result<Self, StorageError> {
        let n_symbols = u32::try_from(symbols.len())
            .ok()
            .filter(|&count| count < ANY_VALUE)
            .ok_or_else(|| StorageError::corrupt(format!("symbols of block {block}"), "too many strings"))?;
        let (symbol_parts, size_bytes) = write_symbols(block, symbols, out)?;
        let summary =
            IndexSummary { n_symbols, symbol_parts, size_bytes: [size_bytes, 0, 0, 0], ..Default::default() };
        Ok(Self { block, summary, series: SeriesWriter::new(block), postings: HashMap::default() })
    }

    /// Adds the next series in block order and returns its rank. `labels` are numbers of name and
    /// value, sorted by name; `mint` and `maxt` the times of its first and last sample.
    ///
    /// # Errors
    /// [`StorageError`] if a record cannot be written, a number is no string's, or names repeat.
    pub fn add_series(
        &mut self,
        labels: &[(u32, u32)],
        mint: i64,
        maxt: i64,
        out: &mut dyn KvWrite,
    ) -> Result<u32, StorageError> {
        assert!(mint <= maxt);
        let n_symbols = self.summary.n_symbols;
        let in_range = labels.iter().all(|&(name, value)| name < n_symbols && value < n_symbols);
        if !in_range || labels.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(StorageError::corrupt(
                format!("source of block {}", self.block),
                format!("labels of series {} are out of order or range", self.series.n_series()),
            ));
        }
        let rank = self.series.add(labels, mint, maxt, out)?;
        for &(name, value) in labels {
            self.postings.entry((name, value)).or_default().push(rank);
            self.postings.entry((name, ANY_VALUE)).or_default().push(rank);
        }
        Ok(rank)
    }

    /// Writes values and postings.
    ///
    /// # Errors
    /// [`StorageError`] if a record cannot be written.
    pub fn finish(mut self, out: &mut dyn KvWrite) -> Result<IndexSummary, StorageError> {
        let mut summary = self.summary;
        summary.n_series = self.series.n_series();
        summary.size_bytes[2] = self.series.finish(out)?;
        let mut pairs: Vec<(u32, u32)> = self.postings.keys().copied().collect();
        pairs.sort_unstable();
        for of_name in pairs.chunk_by(|a, b| a.0 == b.0) {
            let name = of_name[0].0;
            let values = of_name.iter().map(|&(_, value)| value).filter(|&value| value != ANY_VALUE);
            summary.size_bytes[1] += write_values(self.block, name, values, out)?;
            summary.n_names += 1;
            summary.n_pairs += of_name.len() as u32 - 1;
        }
        let mut bytes = Vec::new();
        for pair in pairs {
            let encoder = self.postings.remove(&pair).expect("every key is in the map once");
            bytes.clear();
            encoder.finish(&mut bytes);
            out.put(Kind::Postings, &postings_key(self.block, pair.0, pair.1), &bytes)?;
            summary.size_bytes[3] += bytes.len() as u64;
        }
        Ok(summary)
    }
}

/// The key of the series with this label.
pub(crate) fn postings_key(block: BlockId, name: u32, value: u32) -> Vec<u8> {
    let mut rest = [0; 8];
    rest[..4].copy_from_slice(&name.to_be_bytes());
    rest[4..].copy_from_slice(&value.to_be_bytes());
    keys::key(block, Kind::Postings, &rest)
}

/// The value in such a key; `None` if it is not as long as one.
pub(crate) fn postings_value(key: &[u8]) -> Option<u32> {
    let value = key.get(keys::PREFIX_BYTES + 4..)?;
    Some(u32::from_be_bytes(value.try_into().ok()?))
}
