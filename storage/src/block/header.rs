//! Block headers: what a block says of itself. One record of kind 0, under the key `block | 0`.
//!
//! The only file that uses bincode: a format version (u16, big-endian), then the fields of
//! [`BlockHeader`] in their order in bincode 2's fixed-width big-endian form (docs/format.md). The
//! struct is frozen with the format version; another set of fields is another version.

use crate::error::StorageError;
use crate::index::symbols::SymbolPart;
use crate::kv::keys::{BlockId, Kind, key};
use bincode::config::{BigEndian, Configuration, Fixint, Limit};

/// The version of everything inside blocks.
pub const FORMAT_VERSION: u16 = 1;
/// No header is larger. The largest part is a separator per 4 KB of symbols, so this stands for
/// some gigabytes of distinct label values.
pub const MAX_HEADER_BYTES: usize = 64 << 20;
/// Milliseconds of a day slice. Slice `n` holds the timestamps `t` with `t.div_euclid(SLICE_MS) == n`.
pub const SLICE_MS: i64 = 86_400_000;

const CONFIG: Configuration<BigEndian, Fixint, Limit<MAX_HEADER_BYTES>> =
    bincode::config::standard().with_big_endian().with_fixed_int_encoding().with_limit::<MAX_HEADER_BYTES>();

/// What a block is. Opening the store needs nothing else.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct BlockHeader {
    /// Identifies the block; the key says the same.
    pub id: u64,
    /// First timestamp of a sample.
    pub mint: i64,
    /// Last timestamp of a sample.
    pub maxt: i64,
    /// First millisecond of the range that the block stands for, at or below `mint`. Series records
    /// and tile keys count from it: its day slice is slice 0.
    pub range_mint: i64,
    /// Last millisecond of that range, at or above `maxt`.
    pub range_maxt: i64,
    /// How often its samples were compacted: 0 for a sealed table.
    pub level: u8,
    /// First of the freeze numbers whose samples it holds.
    pub seq_min: u64,
    /// Last of them. Where two blocks hold a timestamp of a series, the lower number wins.
    pub seq_max: u64,
    /// Log tables that it covers: their directories may go.
    pub tables: Vec<u64>,
    /// Blocks that it replaces.
    pub parents: Vec<u64>,
    /// Keys of each kind, by the number of the kind; tombstones, which come later, are not counted.
    /// A kind with keys is a file.
    pub n_keys: [u64; 10],
    /// Series, which have the ranks from 0 on.
    pub n_series: u32,
    /// Chunks.
    pub n_chunks: u64,
    /// Float samples.
    pub n_floats: u64,
    /// Histogram samples.
    pub n_histograms: u64,
    /// Order-independent sum over all samples, see [`ContentHash`](super::content::ContentHash).
    pub content_hash: u64,
    /// Symbols of the block.
    pub n_symbols: u32,
    /// Where the parts of the symbols begin, ascending.
    pub symbol_parts: Vec<SymbolPart>,
}

impl BlockHeader {
    /// The identity as the type that keys are made of.
    pub const fn block_id(&self) -> BlockId {
        BlockId(self.id)
    }

    /// Number of the day slice that tile keys call 0.
    pub const fn first_slice(&self) -> i64 {
        self.range_mint.div_euclid(SLICE_MS)
    }

    /// Float and histogram samples.
    pub const fn n_samples(&self) -> u64 {
        self.n_floats + self.n_histograms
    }

    /// The record: key and value.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it exceeds [`MAX_HEADER_BYTES`].
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<u8>), StorageError> {
        let mut value = FORMAT_VERSION.to_be_bytes().to_vec();
        let body = bincode::encode_to_vec(self, CONFIG).map_err(|error| self.invalid(error.to_string()))?;
        if body.len() + value.len() > MAX_HEADER_BYTES {
            return Err(self.invalid(format!("{} bytes exceed {MAX_HEADER_BYTES}", body.len())));
        }
        value.extend_from_slice(&body);
        Ok((key(self.block_id(), Kind::Header, &[]), value))
    }

    /// The header of a record of `block`.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if the bytes are no header of this version, or of another block, or
    /// contradict themselves.
    pub fn decode(block: BlockId, value: &[u8]) -> Result<Self, StorageError> {
        let invalid = |reason: String| StorageError::corrupt(format!("header of block {block}"), reason);
        let (version, body) = value.split_first_chunk().ok_or_else(|| invalid("too short".to_owned()))?;
        let version = u16::from_be_bytes(*version);
        if version != FORMAT_VERSION {
            return Err(invalid(format!("format {version}, this program reads format {FORMAT_VERSION}")));
        }
        let (header, used): (Self, usize) =
            bincode::decode_from_slice(body, CONFIG).map_err(|error| invalid(error.to_string()))?;
        if used != body.len() {
            return Err(invalid(format!("{} bytes behind its end", body.len() - used)));
        }
        header.check(block).map_err(|reason| invalid(reason.to_owned()))?;
        Ok(header)
    }

    fn check(&self, block: BlockId) -> Result<(), &'static str> {
        if self.id != block.0 {
            return Err("it names another block");
        }
        if self.mint > self.maxt {
            return Err("it ends before it begins");
        }
        if self.mint < self.range_mint || self.maxt > self.range_maxt {
            return Err("its samples are not in its range");
        }
        // The difference of two quotients by a day cannot overflow.
        if self.range_maxt.div_euclid(SLICE_MS) - self.first_slice() > i64::from(u16::MAX) {
            return Err("it spans more slices than keys can number");
        }
        if self.seq_min > self.seq_max {
            return Err("its freeze numbers are out of order");
        }
        let parts = &self.symbol_parts;
        if !parts.is_sorted_by(|a, b| a.separator <= b.separator && a.first < b.first) {
            return Err("its symbol parts are out of order");
        }
        if parts.first().is_some_and(|part| part.first != 0) {
            return Err("its first symbol part does not begin with the first symbol");
        }
        if parts.last().is_some_and(|part| part.first >= self.n_symbols) {
            return Err("it has more symbol parts than symbols");
        }
        Ok(())
    }

    fn invalid(&self, reason: String) -> StorageError {
        StorageError::corrupt(format!("header of block {}", self.block_id()), reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn example() -> BlockHeader {
        BlockHeader {
            id: 0x0102_0304_0506_0708,
            mint: 1_700_000_000_000,
            maxt: 1_700_007_199_000,
            range_mint: 1_700_000_000_000,
            range_maxt: 1_700_007_199_999,
            level: 2,
            seq_min: 3,
            seq_max: 9,
            tables: vec![11],
            parents: vec![5, 6],
            n_keys: [1, 1, 1, 1, 2, 0, 1, 0, 0, 0],
            n_series: 2,
            n_chunks: 2,
            n_floats: 960,
            n_histograms: 0,
            content_hash: 77,
            n_symbols: 4,
            symbol_parts: vec![SymbolPart { separator: b"__name__".to_vec(), first: 0 }],
        }
    }

    #[test]
    fn headers_come_back_as_written() {
        let header = example();
        let (key, value) = header.encode().expect("it is small");
        assert_eq!(key, [1, 2, 3, 4, 5, 6, 7, 8, 0]);
        assert_eq!(BlockHeader::decode(header.block_id(), &value).expect("as written"), header);
        assert!(BlockHeader::decode(BlockId(1), &value).is_err());
    }

    #[test]
    fn damaged_headers_are_errors_or_other_headers_but_never_a_panic() {
        let (_, value) = example().encode().expect("it is small");
        let decode = |bytes: &[u8]| BlockHeader::decode(BlockId(0x0102_0304_0506_0708), bytes);
        for length in 0..value.len() {
            assert!(decode(&value[..length]).is_err());
        }
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = decode(&damaged) {
                assert_ne!(other, example());
            }
        }
        assert!(decode(&[&value[..], &[0]].concat()).is_err());
        assert!(decode(&[0xff; 300]).is_err());
    }
}
