//! Keys: `block u64 | kind u8 | rest`, big-endian, so that they sort by block, kind and rest.

/// Identifies a block: milliseconds of the clock << 20 | counter; always rising, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u64);

impl std::fmt::Display for BlockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a record is. The number is the ninth byte of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// One record: what the block is.
    Header = 0,
    /// Parts of the sorted string table.
    Symbols = 1,
    /// Per label name, its values.
    Values = 2,
    /// Labels and time range per series, by rank.
    Series = 3,
    /// Ranks per label pair.
    Postings = 4,
    /// Shared timestamp columns.
    Timestamps = 5,
    /// Chunks of neighbouring series.
    Tiles = 6,
    /// Exemplars by rank.
    Exemplars = 7,
    /// Metadata by metric family.
    Metadata = 8,
    /// Deletions; the only kind that is added to a block after it was written.
    Tombstones = 9,
}

impl Kind {
    /// All kinds, in key order.
    pub const ALL: [Self; 10] = [
        Self::Header,
        Self::Symbols,
        Self::Values,
        Self::Series,
        Self::Postings,
        Self::Timestamps,
        Self::Tiles,
        Self::Exemplars,
        Self::Metadata,
        Self::Tombstones,
    ];

    /// The kind of a number, if there is one.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Bytes of `block | kind`.
pub const PREFIX_BYTES: usize = 9;

/// The key of a record: `rest` is big-endian numbers, see docs/format.md.
pub fn key(block: BlockId, kind: Kind, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_BYTES + rest.len());
    key.extend_from_slice(&block.0.to_be_bytes());
    key.push(kind as u8);
    key.extend_from_slice(rest);
    key
}

/// First key and first key behind all records of a kind of a block.
pub fn kind_range(block: BlockId, kind: Kind) -> (Vec<u8>, Vec<u8>) {
    let mut end = key(block, kind, &[]);
    *end.last_mut().expect("the prefix is not empty") += 1;
    (key(block, kind, &[]), end)
}

/// Block, kind and rest of a key; `None` if it is no key of ours.
pub fn split(key: &[u8]) -> Option<(BlockId, Kind, &[u8])> {
    let (block, rest) = key.split_first_chunk::<8>()?;
    let (&kind, rest) = rest.split_first()?;
    Some((BlockId(u64::from_be_bytes(*block)), Kind::from_u8(kind)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_into_what_they_were_made_of() {
        let key = key(BlockId(7), Kind::Tiles, &[1, 2]);
        assert_eq!(key, [0, 0, 0, 0, 0, 0, 0, 7, 6, 1, 2]);
        assert_eq!(split(&key), Some((BlockId(7), Kind::Tiles, &[1u8, 2][..])));
        assert_eq!(split(&key[..8]), None);
        assert_eq!(split(&[0, 0, 0, 0, 0, 0, 0, 7, 99]), None);
    }

    #[test]
    fn a_kind_range_holds_its_kind_only() {
        let (from, to) = kind_range(BlockId(1), Kind::Series);
        assert!(from <= key(BlockId(1), Kind::Series, &[]));
        assert!(key(BlockId(1), Kind::Series, &[0xff; 9]) < to);
        assert!(to <= key(BlockId(1), Kind::Postings, &[]));
    }
}
