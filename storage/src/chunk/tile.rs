//! Tiles: the value under one key, which holds the chunks of up to 128 neighbouring ranks in one day
//! slice. A directory comes first, so that a chunk is found without touching the others.
//!
//! ```text
//! tile      = n_entries | base | entry ... | payload ...
//! entry     = flags | rank gap? | times? | mint | length of start timestamps? | length of values
//! payload   = inline times? | presence bitmap? | start timestamps? | values, entry by entry
//! ```
//!
//! docs/format.md has every byte. Tiles know nothing of blocks: columns are numbers to them.

use super::bytes::{Reader, put_signed, put_varint};
use super::{ChunkError, ChunkKind, MAX_SAMPLES, timestamps};
use std::ops::Range;

const KIND_MASK: u8 = 0x03;
const TIMES_SHIFT: u32 = 2;
const TIMES_MASK: u8 = 0x03;
const TIMES_AS_BEFORE: u8 = 0;
const TIMES_SHARED: u8 = 1;
const TIMES_INLINE: u8 = 2;
const TIMES_MASKED: u8 = 3;
const HAS_STARTS: u8 = 0x10;
const SAME_RANK: u8 = 0x20;
const RANK_GAP: u8 = 0x40;
const FIRST_OF_HISTORY: u8 = 0x80;

/// A stretch of a shared column may be this long: a chunk's samples and an eighth that are missing.
const MAX_STRETCH: usize = MAX_SAMPLES + MAX_SAMPLES / 8;
/// Flags, a length and a byte of values: no entry takes less of a tile.
const MIN_ENTRY_BYTES: usize = 3;

/// Where the times of a chunk are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TileTimes<T> {
    /// `count` times from `first` on of a shared column.
    Shared {
        /// Number of the column in the block.
        column: u32,
        /// Position of the chunk's first time.
        first: u32,
    },
    /// A timestamp column in the tile.
    Inline(T),
    /// Those of the `stretch` times from `first` on of a shared column whose bits are set, lowest bit of
    /// the first byte first.
    Masked {
        /// Number of the column in the block.
        column: u32,
        /// Position of the stretch.
        first: u32,
        /// Its length.
        stretch: u32,
        /// A bit for each time.
        bitmap: T,
    },
}

/// A chunk on its way into a tile.
#[derive(Clone, Debug)]
pub struct NewEntry<'a> {
    /// Not below that of the entry before.
    pub rank: u32,
    /// What the samples are.
    pub kind: ChunkKind,
    /// Whether the sample before the chunk's first is unknown to the block.
    pub first_of_history: bool,
    /// How many samples.
    pub count: u32,
    /// Time of the first.
    pub mint: i64,
    /// Where their times are; `None`: as the entry before.
    pub times: Option<TileTimes<&'a [u8]>>,
    /// Column of start timestamps, empty if unknown.
    pub starts: &'a [u8],
    /// Column of values, or histogram chunk.
    pub values: &'a [u8],
}

/// Puts chunks together.
#[derive(Debug)]
pub struct TileBuilder {
    directory: Vec<u8>,
    payload: Vec<u8>,
    n_entries: u64,
    last: Last,
}

/// What numbers in the directory are relative to.
#[derive(Clone, Copy, Debug)]
struct Last {
    /// One below the tile's first rank at first.
    rank: i64,
    mint: i64,
    column: i64,
    count: i64,
}

impl Last {
    const fn new(first_rank: u32, base: i64) -> Self {
        Self { rank: first_rank as i64 - 1, mint: base, column: 0, count: 0 }
    }
}

impl TileBuilder {
    /// A tile whose key says `first_rank`. Times are stored as differences, from `base` on.
    pub fn new(first_rank: u32, base: i64) -> Self {
        let mut directory = Vec::new();
        put_signed(&mut directory, base);
        Self { directory, payload: Vec::new(), n_entries: 0, last: Last::new(first_rank, base) }
    }

    /// Adds a chunk.
    ///
    /// # Panics
    /// If its rank is below the one before, or it is the first and has no times.
    pub fn push(&mut self, entry: &NewEntry<'_>) {
        let rank = i64::from(entry.rank);
        assert!(rank >= self.last.rank);
        assert!(entry.times.is_some() || self.n_entries > 0);
        let gap = rank - self.last.rank;
        let mut flags = entry.kind as u8;
        flags |= match gap {
            0 => SAME_RANK,
            1 => 0,
            _ => RANK_GAP,
        };
        if entry.first_of_history {
            flags |= FIRST_OF_HISTORY;
        }
        if !entry.starts.is_empty() {
            flags |= HAS_STARTS;
        }
        let times = match entry.times {
            None => TIMES_AS_BEFORE,
            Some(TileTimes::Shared { .. }) => TIMES_SHARED,
            Some(TileTimes::Inline(_)) => TIMES_INLINE,
            Some(TileTimes::Masked { .. }) => TIMES_MASKED,
        };
        flags |= times << TIMES_SHIFT;
        let directory = &mut self.directory;
        directory.push(flags);
        if gap > 1 {
            put_varint(directory, gap as u64);
        }
        if let Some(times) = &entry.times {
            put_signed(directory, i64::from(entry.count) - self.last.count);
            put_signed(directory, entry.mint.wrapping_sub(self.last.mint));
            let mut put_column = |column: u32, first: u32| {
                put_signed(directory, i64::from(column) - self.last.column);
                put_varint(directory, first.into());
                self.last.column = column.into();
            };
            match times {
                TileTimes::Shared { column, first } => put_column(*column, *first),
                TileTimes::Inline(bytes) => {
                    put_varint(directory, bytes.len() as u64);
                    self.payload.extend_from_slice(bytes);
                }
                TileTimes::Masked { column, first, stretch, bitmap } => {
                    put_column(*column, *first);
                    put_varint(directory, u64::from(stretch - entry.count));
                    self.payload.extend_from_slice(bitmap);
                }
            }
        }
        if !entry.starts.is_empty() {
            put_varint(directory, entry.starts.len() as u64);
            self.payload.extend_from_slice(entry.starts);
        }
        put_varint(directory, entry.values.len() as u64);
        self.payload.extend_from_slice(entry.values);
        self.n_entries += 1;
        self.last = Last { rank, mint: entry.mint, column: self.last.column, count: i64::from(entry.count) };
    }

    /// Appends the tile to `out`.
    pub fn finish(self, out: &mut Vec<u8>) {
        put_varint(out, self.n_entries);
        out.extend_from_slice(&self.directory);
        out.extend_from_slice(&self.payload);
    }
}

/// The directory entry of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Rank of the series.
    pub rank: u32,
    /// What the samples are.
    pub kind: ChunkKind,
    /// Whether the sample before the chunk's first is unknown to the block.
    pub first_of_history: bool,
    /// How many samples: 1 to [`MAX_SAMPLES`].
    pub count: u32,
    /// Time of the first.
    pub mint: i64,
    /// Where their times are. Entries with the same [`Entry::times_of`] have the same.
    pub times: TileTimes<Range<u32>>,
    /// Position of the entry that says where the times are: its own, or that of one before it.
    pub times_of: u32,
    starts: Range<u32>,
    values: Range<u32>,
}

/// An opened tile.
#[derive(Debug)]
pub struct Tile {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Tile {
    /// Reads the directory of the tile whose key says `first_rank`.
    ///
    /// # Errors
    /// [`ChunkError`] if the bytes are no tile.
    pub fn open(first_rank: u32, bytes: Vec<u8>) -> Result<Self, ChunkError> {
        let entries = read_directory(first_rank, &bytes)?;
        Ok(Self { bytes, entries })
    }

    /// What it takes in memory.
    pub fn size_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    fn stored(&self, place: &Range<u32>) -> &[u8] {
        &self.bytes[place.start as usize..place.end as usize]
    }

    /// All chunks, by rank, then by time.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Positions of the chunks of these ranks.
    pub fn entries_of(&self, ranks: Range<u32>) -> Range<usize> {
        let start = self.entries.partition_point(|entry| entry.rank < ranks.start);
        start..start + self.entries[start..].partition_point(|entry| entry.rank < ranks.end)
    }

    /// The value column or histogram chunk of an entry of this tile.
    pub fn values(&self, entry: &Entry) -> &[u8] {
        self.stored(&entry.values)
    }

    /// The column of start timestamps of an entry, if they are known.
    pub fn starts(&self, entry: &Entry) -> Option<&[u8]> {
        (!entry.starts.is_empty()).then(|| self.stored(&entry.starts))
    }

    /// The times of an entry, where those of a shared column, whole, are given.
    ///
    /// # Errors
    /// [`ChunkError`] if they do not decode, or are not in the column.
    pub fn times(&self, entry: &Entry, shared: Option<&[i64]>) -> Result<Vec<i64>, ChunkError> {
        const MISSING: ChunkError = ChunkError("a stretch is outside of its timestamp column");
        let stretch = |first: u32, length: u32| {
            let first = first as usize;
            shared.and_then(|times| times.get(first..first + length as usize)).ok_or(MISSING)
        };
        let times = match &entry.times {
            TileTimes::Shared { first, .. } => stretch(*first, entry.count)?.to_vec(),
            TileTimes::Inline(bytes) => {
                let mut times = Vec::new();
                timestamps::decode(self.stored(bytes), entry.count as usize, &mut times)?;
                times
            }
            TileTimes::Masked { first, stretch: length, bitmap, .. } => {
                let bitmap = self.stored(bitmap);
                let is_set = |at: usize| bitmap[at / 8] >> (at % 8) & 1 == 1;
                let all = stretch(*first, *length)?.iter().enumerate();
                all.filter(|&(at, _)| is_set(at)).map(|(_, &time)| time).collect()
            }
        };
        if times.len() != entry.count as usize || times[0] != entry.mint {
            return Err(ChunkError("the times of a chunk are not those its directory promises"));
        }
        Ok(times)
    }
}

fn read_directory(first_rank: u32, bytes: &[u8]) -> Result<Vec<Entry>, ChunkError> {
    let mut reader = Reader::new(bytes);
    let n_entries = reader.length(bytes.len() / MIN_ENTRY_BYTES)?;
    if u32::try_from(bytes.len()).is_err() {
        return Err(ChunkError("a tile of 4 GiB or more"));
    }
    let base = reader.signed()?;
    let mut last = Last::new(first_rank, base);
    let mut entries: Vec<Entry> = Vec::with_capacity(n_entries);
    // Lengths are added up first; they become places when the directory's own length is known.
    let mut at = 0usize;
    for _ in 0..n_entries {
        let entry = read_entry(&mut reader, &mut last, &mut at, &entries)?;
        entries.push(entry);
    }
    let payload = (bytes.len() - reader.rest().len()) as u32;
    if at != reader.rest().len() {
        return Err(ChunkError("the chunks of a tile do not add up to its length"));
    }
    let shift = |range: &mut Range<u32>| *range = range.start + payload..range.end + payload;
    for entry in &mut entries {
        shift(&mut entry.values);
        shift(&mut entry.starts);
        if let TileTimes::Inline(bytes) | TileTimes::Masked { bitmap: bytes, .. } = &mut entry.times {
            shift(bytes);
        }
    }
    Ok(entries)
}

fn read_entry(
    reader: &mut Reader<'_>,
    last: &mut Last,
    at: &mut usize,
    before: &[Entry],
) -> Result<Entry, ChunkError> {
    const OUT_OF_RANGE: ChunkError = ChunkError("a number in a tile's directory is out of range");
    let flags = reader.u8()?;
    let kind = match flags & KIND_MASK {
        0 => ChunkKind::Float,
        1 => ChunkKind::IntHistogram,
        2 => ChunkKind::FloatHistogram,
        _ => return Err(ChunkError("unknown kind of chunk")),
    };
    let gap = match flags & (SAME_RANK | RANK_GAP) {
        SAME_RANK if !before.is_empty() => 0,
        0 => 1,
        // A gap below two has its own flags; before the first entry it would be a rank of the tile before.
        RANK_GAP => i64::try_from(reader.varint()?).ok().filter(|&gap| gap > 1).ok_or(OUT_OF_RANGE)?,
        _ => return Err(OUT_OF_RANGE),
    };
    let rank = last.rank.checked_add(gap).and_then(|rank| u32::try_from(rank).ok()).ok_or(OUT_OF_RANGE)?;
    // No sum of the lengths exceeds what there is, so none overflows.
    let limit = reader.rest().len();
    let mut place = |length: usize| {
        let start = *at;
        *at = start.checked_add(length).filter(|&end| end <= limit).ok_or(OUT_OF_RANGE)?;
        Ok::<_, ChunkError>(start as u32..*at as u32)
    };
    let times_kind = flags >> TIMES_SHIFT & TIMES_MASK;
    let (count, mint, times, times_of);
    if times_kind == TIMES_AS_BEFORE {
        let model = before.last().ok_or(ChunkError("the first chunk of a tile has no times"))?;
        (count, mint) = (model.count, model.mint);
        (times, times_of) = (model.times.clone(), model.times_of);
    } else {
        count = last
            .count
            .checked_add(reader.signed()?)
            .and_then(|count| u32::try_from(count).ok())
            .filter(|&count| count > 0 && count as usize <= MAX_SAMPLES)
            .ok_or(OUT_OF_RANGE)?;
        mint = last.mint.wrapping_add(reader.signed()?);
        let mut column = |reader: &mut Reader<'_>| {
            let number = last.column.checked_add(reader.signed()?).ok_or(OUT_OF_RANGE)?;
            last.column = number;
            let first = u32::try_from(reader.varint()?).map_err(|_| OUT_OF_RANGE)?;
            Ok::<_, ChunkError>((u32::try_from(number).map_err(|_| OUT_OF_RANGE)?, first))
        };
        times = match times_kind {
            TIMES_SHARED => {
                let (column, first) = column(reader)?;
                TileTimes::Shared { column, first }
            }
            TIMES_INLINE => TileTimes::Inline(place(reader.length(limit)?)?),
            _ => {
                let (column, first) = column(reader)?;
                let stretch = count as usize + reader.length(MAX_STRETCH - count as usize)?;
                let bitmap = place(stretch.div_ceil(8))?;
                TileTimes::Masked { column, first, stretch: stretch as u32, bitmap }
            }
        };
        times_of = before.len() as u32;
    }
    let starts = if flags & HAS_STARTS == 0 { 0..0 } else { place(reader.length(limit)?)? };
    let values = place(reader.length(limit)?)?;
    *last = Last { rank: rank.into(), mint, column: last.column, count: count.into() };
    let first_of_history = flags & FIRST_OF_HISTORY != 0;
    Ok(Entry { rank, kind, first_of_history, count, mint, times, times_of, starts, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Effort, column};

    const DAY: i64 = 1_700_006_400_000;

    fn float(rank: u32, count: u32, times: Option<TileTimes<&'static [u8]>>) -> NewEntry<'static> {
        NewEntry {
            rank,
            kind: ChunkKind::Float,
            first_of_history: true,
            count,
            mint: DAY,
            times,
            starts: &[],
            values: &[0x86, 2],
        }
    }

    fn build(first_rank: u32, entries: &[NewEntry<'_>]) -> Vec<u8> {
        let mut builder = TileBuilder::new(first_rank, DAY);
        entries.iter().for_each(|entry| builder.push(entry));
        let mut bytes = Vec::new();
        builder.finish(&mut bytes);
        bytes
    }

    /// Of every kind of entry one.
    fn mixed(inline: &[u8]) -> Vec<u8> {
        let shared = TileTimes::Shared { column: 7, first: 2 };
        let masked = TileTimes::Masked { column: 8, first: 0, stretch: 5, bitmap: &[0b11011][..] };
        build(
            128,
            &[
                float(128, 3, Some(shared)),
                NewEntry { first_of_history: false, starts: &[6, 0], ..float(129, 3, None) },
                NewEntry { kind: ChunkKind::IntHistogram, ..float(129, 4, Some(masked)) },
                NewEntry { times: Some(TileTimes::Inline(inline)), mint: DAY + 5, ..float(200, 2, None) },
            ],
        )
    }

    #[test]
    fn a_tile_gives_back_its_chunks() {
        let mut inline = Vec::new();
        timestamps::encode(&[DAY + 5, DAY + 9], Effort::Seal, &mut inline);
        let tile = Tile::open(128, mixed(&inline)).expect("as built");
        let ranks: Vec<u32> = tile.entries().iter().map(|entry| entry.rank).collect();
        assert_eq!(ranks, [128, 129, 129, 200]);
        assert_eq!(tile.entries_of(129..200), 1..3);
        assert_eq!(tile.entries_of(130..131), 3..3);
        let [first, second, masked, private] = tile.entries() else { panic!("four entries") };
        assert_eq!((second.times_of, second.count, &second.times), (0, 3, &first.times));
        assert_eq!(tile.starts(first), None);
        assert_eq!(tile.starts(second), Some(&[6, 0][..]));
        assert_eq!(column::constant(tile.values(private)), Some(1.0));
        let shared: Vec<i64> = (0..5).map(|i| DAY + (i - 2) * 1000).collect();
        assert_eq!(tile.times(first, Some(&shared)), Ok(vec![DAY, DAY + 1000, DAY + 2000]));
        assert!(tile.times(first, Some(&shared[1..])).is_err());
        assert!(tile.times(first, None).is_err());
        let shared: Vec<i64> = (0..5).map(|i| DAY + i * 1000).collect();
        assert_eq!(tile.times(masked, Some(&shared)), Ok(vec![DAY, DAY + 1000, DAY + 3000, DAY + 4000]));
        assert_eq!(tile.times(private, None), Ok(vec![DAY + 5, DAY + 9]));
        assert_eq!((masked.kind, second.first_of_history), (ChunkKind::IntHistogram, false));
    }

    #[test]
    fn neighbours_of_one_scrape_cost_two_bytes_of_directory() {
        let shared = TileTimes::Shared { column: 0, first: 0 };
        let entries: Vec<NewEntry<'_>> =
            (0..128).map(|rank| float(rank, 480, (rank == 0).then(|| shared.clone()))).collect();
        assert!(build(0, &entries).len() <= 128 * 4 + 20);
    }

    #[test]
    fn damaged_tiles_are_errors_or_other_tiles_but_never_a_panic() {
        let mut inline = Vec::new();
        timestamps::encode(&[DAY + 5, DAY + 9], Effort::Seal, &mut inline);
        let bytes = mixed(&inline);
        let shared: Vec<i64> = (0..20).map(|i| DAY + i * 1000).collect();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let Ok(tile) = Tile::open(128, damaged) else { continue };
            for entry in tile.entries() {
                let _ = tile.times(entry, Some(&shared));
                let _ = (tile.values(entry), tile.starts(entry));
            }
        }
        for length in 0..bytes.len() {
            assert!(Tile::open(128, bytes[..length].to_vec()).is_err());
        }
        assert!(Tile::open(u32::MAX, bytes).is_err());
    }

    #[test]
    fn a_stored_gap_of_ranks_is_two_or_more() {
        let bytes = build(200, &[float(202, 1, Some(TileTimes::Inline(&[0])))]);
        let mut before = Vec::new();
        put_signed(&mut before, DAY);
        // The number of entries is before the base, the flags behind it.
        let at = before.len() + 2;
        assert_eq!(bytes[at], 3);
        let with_gap = |gap: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = gap;
            Tile::open(200, bytes)
        };
        assert_eq!(with_gap(2).expect("a gap").entries()[0].rank, 201);
        assert!(with_gap(1).is_err());
        assert!(with_gap(0).is_err(), "a rank of the tile before");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_open_without_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
            let _ = Tile::open(0, bytes);
        }
    }
}
