//! Reads the samples of a block: tiles (kind 6) and the timestamp columns that their chunks share
//! (kind 5). Which ranks are wanted, and what of them is deleted, is the caller's business.

use super::header::{BlockHeader, SLICE_MS};
use crate::cache::{Caches, Group, GroupKey, RANKS_PER_GROUP};
use crate::chunk::bytes::Reader;
use crate::chunk::histogram::Rows;
use crate::chunk::tile::{Entry, Tile, TileTimes};
use crate::chunk::{ChunkError, ChunkKind, MAX_SAMPLES, column, histogram, timestamps};
use crate::error::StorageError;
use crate::kv::KvRead;
use crate::kv::keys::{BlockId, Kind, PREFIX_BYTES, key, kind_range};
use crate::lookups;
use crate::part::{
    ColumnSlice, KnownColumns, LastFloat, PartRead, Run, RunBuffer, RunValues, Stretch, Take, make_room,
};
use chronolith_model::histogram::Histogram;
use chronolith_model::queryable::{HistogramNeed, Lookups, QueryContext, ReadStats};
use chronolith_model::sample::is_stale;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::{ControlFlow, Range, RangeInclusive};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// A tile holds neighbouring ranks with the same quotient by this number: ranges that are cheap to read
/// whole are known without looking. Above it nothing is gained in size.
pub const RANKS_PER_TILE: u32 = RANKS_PER_GROUP;
/// The query is asked whether to go on after this many samples.
const CHECK_SAMPLES: usize = 64 * 1024;

/// `block | 6 | slice u16 | first rank u32`, and for tiles that continue a series `| part u16`.
pub(super) fn tile_key(block: BlockId, slice: u16, first_rank: u32, part: u16) -> Vec<u8> {
    let mut rest = [0; 8];
    rest[..2].copy_from_slice(&slice.to_be_bytes());
    rest[2..6].copy_from_slice(&first_rank.to_be_bytes());
    rest[6..].copy_from_slice(&part.to_be_bytes());
    key(block, Kind::Tiles, if part == 0 { &rest[..6] } else { &rest })
}

/// `block | 5 | column u32`.
pub(super) fn column_key(block: BlockId, column: u32) -> Vec<u8> {
    key(block, Kind::Timestamps, &column.to_be_bytes())
}

/// The ranges of time of a series that are deleted: both ends inclusive, ascending, disjoint; empty for
/// most.
pub type Deleted<'d> = dyn Fn(u32) -> &'d [(i64, i64)] + 'd;

/// A group is read whole, whatever is wanted of it, where groups have this many tiles on average or fewer.
const TILES_TO_READ_WHOLE: u64 = 2;

/// Reads chunks of one block.
pub struct TileReader {
    kv: Arc<dyn KvRead>,
    header: Arc<BlockHeader>,
    columns: Mutex<ColumnCache>,
    caches: Option<Arc<Caches>>,
}

/// Decoded timestamp columns by number.
#[derive(Default)]
struct ColumnCache {
    columns: HashMap<u32, Arc<Vec<i64>>, Xxh3DefaultBuilder>,
    size_bytes: usize,
    limit_bytes: usize,
}

/// A column with its number.
type NumberedColumn = (u32, Arc<Vec<i64>>);

/// Where a wanted chunk is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    /// Position among the wanted ranks.
    series: u32,
    /// Tiles are in the order of slices, then of keys.
    tile: u32,
    entry: u32,
    /// Only what look-ups want of it is decoded.
    in_part: bool,
}

/// The tiles that hold the chunks of some neighbouring ranks of a group.
#[derive(Debug)]
pub struct TileGroup {
    /// All tiles with chunks of these ranks are here.
    ranks: RangeInclusive<u32>,
    /// In the order of their keys.
    tiles: Vec<Tile>,
}

impl TileGroup {
    fn covers(&self, ranks: &RangeInclusive<u32>) -> bool {
        self.ranks.contains(ranks.start()) && self.ranks.contains(ranks.end())
    }
}

impl Group for TileGroup {
    fn size_bytes(&self) -> usize {
        self.tiles.iter().map(Tile::size_bytes).sum::<usize>() + 128
    }
}

/// A tile that is being read.
struct OpenTile<'t> {
    /// What its errors are about.
    slice: u16,
    tile: &'t Tile,
    /// Times by [`Entry::times_of`].
    times: Vec<Option<ColumnSlice>>,
    /// What look-ups want of the chunk that is read.
    positions: Vec<u32>,
}

impl TileReader {
    /// A reader of the block with this header. At most `column_cache_bytes` of decoded timestamp columns
    /// are kept; tiles in `caches`, if that is given.
    pub fn new(
        kv: Arc<dyn KvRead>,
        header: Arc<BlockHeader>,
        column_cache_bytes: usize,
        caches: Option<Arc<Caches>>,
    ) -> Self {
        let columns = ColumnCache { limit_bytes: column_cache_bytes, ..ColumnCache::default() };
        Self { kv, header, columns: Mutex::new(columns), caches }
    }

    /// Appends the samples of some series, given by rank, ascending, each once: runs by series, then by
    /// time, [`Run::series`] being the position in `ranks`. Whole chunks come back, so a run may reach
    /// beyond the range asked for; deleted ranges are cut out. Every tile is read once.
    ///
    /// # Errors
    /// [`StorageError`] if the query has to stop, or bytes cannot be read or do not decode; `out` is then
    /// left with some of the runs.
    pub fn read<'d>(
        &self,
        ranks: &[u32],
        deleted: &Deleted<'d>,
        read: &PartRead,
        out: &mut RunBuffer,
        cx: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        let mint = read.mint.max(self.header.mint);
        let maxt = read.maxt.min(self.header.maxt);
        if mint > maxt {
            return Ok(());
        }
        let mut at = 0;
        for group in ranks.chunk_by(|a, b| a / RANKS_PER_TILE == b / RANKS_PER_TILE) {
            let wanted = Wanted { ranks: group, first_series: at, mint, maxt };
            self.read_group(&wanted, deleted, read, out, cx)?;
            at += u32::try_from(group.len()).expect("a group has at most as many ranks as a tile");
        }
        Ok(())
    }

    fn read_group<'d>(
        &self,
        wanted: &Wanted<'_>,
        deleted: &Deleted<'d>,
        read: &PartRead,
        out: &mut RunBuffer,
        cx: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        let groups = self.groups(wanted, read.lookups.as_ref(), cx)?;
        let size_bytes = groups.iter().map(|(_, group)| group.size_bytes()).sum();
        cx.charge(size_bytes)?;
        let result = self.read_tiles(&groups, wanted, deleted, read, out, cx);
        cx.release(size_bytes);
        result
    }

    /// The last float in range of each of `ranks`, of which nothing is deleted; false if a histogram is the last
    /// sample of one. What a count asks for: no sample is put anywhere, and of shared times each stretch is searched
    /// once.
    ///
    /// # Errors
    /// As [`TileReader::read`].
    pub fn last_floats(
        &self,
        ranks: &[u32],
        read: &PartRead,
        known: &mut KnownColumns,
        out: &mut Vec<Option<LastFloat>>,
        cx: &dyn QueryContext,
    ) -> Result<bool, StorageError> {
        let mint = read.mint.max(self.header.mint);
        let maxt = read.maxt.min(self.header.maxt);
        let first = out.len();
        out.resize(first + ranks.len(), None);
        if mint > maxt {
            return Ok(true);
        }
        let mut at = 0;
        for group in ranks.chunk_by(|a, b| a / RANKS_PER_TILE == b / RANKS_PER_TILE) {
            let wanted = Wanted { ranks: group, first_series: at, mint, maxt };
            let groups = self.groups(&wanted, read.lookups.as_ref(), cx)?;
            let size_bytes = groups.iter().map(|(_, group)| group.size_bytes()).sum();
            cx.charge(size_bytes)?;
            let mut found = vec![None; group.len()];
            for tile in groups.iter().flat_map(|(_, group)| &group.tiles) {
                wanted.find_last(tile, &mut found);
            }
            let at_end = first + at as usize;
            let out = &mut out[at_end..at_end + group.len()];
            let are_floats = self.last_of_chunks(&found, &wanted, known, out, cx);
            cx.release(size_bytes);
            if !are_floats? {
                return Ok(false);
            }
            at += group.len() as u32;
        }
        Ok(true)
    }

    /// The last floats in range of some chunks.
    fn last_of_chunks(
        &self,
        found: &[Option<(&Tile, u32)>],
        wanted: &Wanted<'_>,
        known: &mut KnownColumns,
        out: &mut [Option<LastFloat>],
        cx: &dyn QueryContext,
    ) -> Result<bool, StorageError> {
        let entries = found.iter().flatten().map(|&(tile, entry)| &tile.entries()[entry as usize]);
        let is_unknown = |entry: &&Entry| entry.stretch().is_none_or(|stretch| known.get(&stretch).is_none());
        let unknown = entries.filter(is_unknown).filter_map(Entry::column);
        let columns = self.columns(unknown.collect(), cx)?;
        let mut values = Vec::new();
        for ((last, found), &rank) in out.iter_mut().zip(found).zip(wanted.ranks) {
            let &Some((tile, entry)) = found else { continue };
            let entry = &tile.entries()[entry as usize];
            if entry.kind != ChunkKind::Float {
                return Ok(false);
            }
            let corrupt = |error: ChunkError| {
                let what = format!("chunk of series {rank} of block {}", self.header.block_id());
                StorageError::corrupt(what, error.to_string())
            };
            let position = match entry.stretch().and_then(|stretch| known.get(&stretch)) {
                Some(position) => position,
                None => {
                    let column = match entry.column() {
                        // Another stretch may have taken its place since.
                        Some(number) if find_column(&columns, number).is_none() => {
                            self.columns(vec![number], cx)?.pop().map(|column| column.1)
                        }
                        number => number.and_then(|number| find_column(&columns, number)).cloned(),
                    };
                    let times =
                        tile.times(entry, column.as_ref().map(|column| &column[..])).map_err(corrupt)?;
                    let at = times.partition_point(|&time| time <= wanted.maxt).checked_sub(1);
                    let position = at.map(|at| (at as u32, times[at])).filter(|last| last.1 >= wanted.mint);
                    if let Some(stretch) = entry.stretch() {
                        known.insert(stretch, position);
                    }
                    position
                }
            };
            let Some((at, time)) = position else { continue };
            values.clear();
            let count = entry.count as usize;
            let value =
                read_floats(tile.values(entry), count, Some(&[at]), false, &mut values).map_err(corrupt)?;
            let is_stale = match value {
                RunValues::Constant(value) => is_stale(value),
                _ => values.first().is_some_and(|&value| is_stale(value)),
            };
            *last = Some(LastFloat { time, is_stale });
        }
        Ok(true)
    }

    /// The groups of tiles of all slices that look-ups see.
    fn groups(
        &self,
        wanted: &Wanted<'_>,
        lookups: Option<&Lookups>,
        cx: &dyn QueryContext,
    ) -> Result<Vec<(u16, Arc<TileGroup>)>, StorageError> {
        let mut groups = Vec::new();
        let slice = |time: i64| u16::try_from(time.div_euclid(SLICE_MS) - self.header.first_slice());
        let not_numbered =
            |_| StorageError::corrupt(self.name(), "its range has more slices than keys number");
        let slices = slice(wanted.mint).map_err(not_numbered)?..=slice(wanted.maxt).map_err(not_numbered)?;
        for slice in slices {
            cx.check()?;
            let start = (i64::from(slice) + self.header.first_slice()) * SLICE_MS;
            // The first hint of a slice hangs on the one before, wanted or not.
            let is_skipped = |lookups| {
                self.header.n_histograms == 0 && !lookups::is_seen(lookups, start, start + SLICE_MS - 1)
            };
            if lookups.is_some_and(is_skipped) {
                continue;
            }
            groups.push((slice, self.group(slice, wanted.ranks, cx)?));
        }
        Ok(groups)
    }

    /// The tiles of a slice that may hold chunks of these ranks, which are of one group.
    fn group(
        &self,
        slice: u16,
        ranks: &[u32],
        cx: &dyn QueryContext,
    ) -> Result<Arc<TileGroup>, StorageError> {
        let wanted = ranks[0]..=ranks[ranks.len() - 1];
        let count_fetched = |group: &TileGroup| {
            if let Some(stats) = cx.read_stats() {
                ReadStats::add(&stats.size_bytes, group.tiles.iter().map(Tile::size_bytes).sum());
                ReadStats::add(&stats.n_tiles, group.tiles.len());
                ReadStats::add(&stats.cache_misses, 1);
            }
        };
        let Some(caches) = &self.caches else {
            let group = self.fetch(slice, wanted)?;
            count_fetched(&group);
            return Ok(Arc::new(group));
        };
        let number = ranks[0] / RANKS_PER_TILE;
        let key = GroupKey { block: self.header.block_id(), slice, number };
        let known = caches.tiles.get(&key);
        let whole = number * RANKS_PER_TILE..=number * RANKS_PER_TILE + (RANKS_PER_TILE - 1);
        let more = match known {
            Some(group) if group.covers(&wanted) => {
                if let Some(stats) = cx.read_stats() {
                    ReadStats::add(&stats.cache_hits, 1);
                }
                return Ok(group);
            }
            _ if self.has_small_groups() => whole,
            Some(group) => *wanted.start().min(group.ranks.start())..=*wanted.end().max(group.ranks.end()),
            None => wanted.clone(),
        };
        let fetched = match self.fetch(slice, more.clone()) {
            // A neighbour that is damaged is not missed.
            Err(_) if more != wanted => self.fetch(slice, wanted),
            fetched => fetched,
        };
        let group = Arc::new(fetched?);
        count_fetched(&group);
        caches.tiles.insert(key, &group);
        Ok(group)
    }

    fn has_small_groups(&self) -> bool {
        let slice = |time: i64| time.div_euclid(SLICE_MS);
        let n_slices = (slice(self.header.maxt) - slice(self.header.mint)).unsigned_abs() + 1;
        let n_groups = u64::from(self.header.n_series.div_ceil(RANKS_PER_TILE)).saturating_mul(n_slices);
        self.header.n_keys[Kind::Tiles as usize] <= n_groups.saturating_mul(TILES_TO_READ_WHOLE)
    }

    /// Reads the tiles of a slice that may hold chunks of these ranks, which are of one group.
    fn fetch(&self, slice: u16, ranks: RangeInclusive<u32>) -> Result<TileGroup, StorageError> {
        let (first, last) = (*ranks.start(), *ranks.end());
        let block = self.header.block_id();
        let mut tiles = Vec::new();
        let mut from = tile_key(block, slice, first, 0);
        if !first.is_multiple_of(RANKS_PER_TILE) {
            let group = tile_key(block, slice, first / RANKS_PER_TILE * RANKS_PER_TILE, 0);
            if let Some((key, value)) = self.kv.last_at_or_before(&group, &from)? {
                tiles.push(self.open(&key, value)?);
            }
            // Behind the key just looked at.
            from.push(0);
        }
        // Up to the last key of the last rank.
        let to = tile_key(block, slice, last, u16::MAX);
        let mut damage = None;
        self.kv.scan(&from, &to, &mut |key, value| match self.open(key, value.to_vec()) {
            Ok(tile) => {
                tiles.push(tile);
                ControlFlow::Continue(())
            }
            Err(error) => {
                damage = Some(error);
                ControlFlow::Break(())
            }
        })?;
        damage.map_or(Ok(TileGroup { ranks, tiles }), Err)
    }

    /// Reads the tiles of a slice from `files` into the cache, in their order, as long as `take` lets it.
    ///
    /// # Errors
    /// [`StorageError`] if one cannot be read or does not decode; groups before it are kept.
    pub fn read_ahead(
        &self,
        files: &dyn KvRead,
        slice: u16,
        take: &mut Take<'_>,
    ) -> Result<(), StorageError> {
        let Some(caches) = &self.caches else { return Ok(()) };
        let block = self.header.block_id();
        let keep = |number: u32, tiles: &mut Vec<Tile>| {
            if !tiles.is_empty() {
                let first = number * RANKS_PER_TILE;
                let ranks = first..=first + (RANKS_PER_TILE - 1);
                let group = Arc::new(TileGroup { ranks, tiles: std::mem::take(tiles) });
                caches.tiles.insert(GroupKey { block, slice, number }, &group);
            }
        };
        let (mut number, mut tiles) = (0, Vec::new());
        let mut stopped = Ok(false);
        let (from, to) = (tile_key(block, slice, 0, 0), tile_key(block, slice, u32::MAX, u16::MAX));
        files.scan(&from, &to, &mut |key, value| {
            let tile = match self.open(key, value.to_vec()) {
                Ok(tile) => tile,
                Err(error) => {
                    stopped = Err(error);
                    return ControlFlow::Break(());
                }
            };
            // The key is long enough, else the tile had not been opened.
            let first_rank = key[PREFIX_BYTES + 2..].first_chunk().copied().map_or(0, u32::from_be_bytes);
            let group = first_rank / RANKS_PER_TILE;
            if group != number {
                keep(number, &mut tiles);
                number = group;
            }
            let flow = take(tile.size_bytes());
            stopped = Ok(flow.is_break());
            tiles.push(tile);
            flow
        })?;
        // Where it was stopped more tiles of the group may follow.
        if !stopped? {
            keep(number, &mut tiles);
        }
        Ok(())
    }

    /// Reads timestamp columns from `files` and keeps them decoded, the first ones, as long as `take` lets it and
    /// half of their cache is free.
    ///
    /// # Errors
    /// [`StorageError`] if one cannot be read or does not decode; those before it are kept.
    pub fn read_columns_ahead(&self, files: &dyn KvRead, take: &mut Take<'_>) -> Result<(), StorageError> {
        let (from, to) = kind_range(self.header.block_id(), Kind::Timestamps);
        let mut result = Ok(());
        files.scan(&from, &to, &mut |key, value| {
            let Ok(number) = <[u8; 4]>::try_from(&key[PREFIX_BYTES..]) else {
                return ControlFlow::Continue(());
            };
            let number = u32::from_be_bytes(number);
            let times = match self.decode_column(number, Some(value.to_vec())) {
                Ok(times) => times,
                Err(error) => {
                    result = Err(error);
                    return ControlFlow::Break(());
                }
            };
            let flow = take(size_of_val(&times[..]));
            let mut columns = self.columns.lock();
            columns.insert(number, times);
            if columns.size_bytes < columns.limit_bytes / 2 { flow } else { ControlFlow::Break(()) }
        })?;
        result
    }

    fn read_tiles<'d>(
        &self,
        groups: &[(u16, Arc<TileGroup>)],
        wanted: &Wanted<'_>,
        deleted: &Deleted<'d>,
        read: &PartRead,
        out: &mut RunBuffer,
        cx: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        let mut tiles: Vec<OpenTile<'_>> = Vec::new();
        let mut found = Vec::new();
        for (slice, group) in groups {
            for tile in &group.tiles {
                wanted.find(tile, tiles.len() as u32, &mut found);
                tiles.push(OpenTile { slice: *slice, tile, times: Vec::new(), positions: Vec::new() });
            }
        }
        found.sort_unstable();
        if let Some(lookups) = &read.lookups {
            narrow(&mut found, &tiles, lookups, read.histograms, |chunk| {
                deleted(wanted.ranks[(chunk.series - wanted.first_series) as usize]).is_empty()
            });
        }
        let columns = found.iter().filter_map(|chunk| tiles[chunk.tile as usize].entry(*chunk).column());
        let columns = self.columns(columns.collect(), cx)?;
        let n_before = out.runs.len();
        out.runs.reserve(found.len());
        if read.values {
            let n_steps = read.lookups.map_or(usize::MAX, |lookups| lookups.n_steps as usize);
            let n_values = |chunk: &Found| {
                let entry = tiles[chunk.tile as usize].entry(*chunk);
                match (entry.kind, chunk.in_part) {
                    (ChunkKind::Float, false) => entry.count as usize,
                    (ChunkKind::Float, true) => n_steps.min(entry.count as usize),
                    _ => 0,
                }
            };
            // Growing while they are decoded would copy them again and again.
            make_room(&mut out.values, found.iter().map(n_values).sum());
        }
        let mut n_unchecked = 0;
        for chunk in found {
            let open = &mut tiles[chunk.tile as usize];
            let rank = wanted.ranks[(chunk.series - wanted.first_series) as usize];
            n_unchecked += open.read_chunk(chunk, deleted(rank), read, &columns, out).map_err(|error| {
                let what = format!(
                    "chunk of series {rank} in slice {} of block {}",
                    open.slice,
                    self.header.block_id()
                );
                StorageError::corrupt(what, error.to_string())
            })?;
            if n_unchecked >= CHECK_SAMPLES {
                cx.check()?;
                n_unchecked = 0;
            }
        }
        self.check_order(&out.runs[n_before..])
    }

    /// Chunks of a series follow each other in time, which every reader relies on.
    fn check_order(&self, runs: &[Run]) -> Result<(), StorageError> {
        let overlap = |pair: &&[Run]| {
            pair[0].series == pair[1].series && pair[0].times.times().last() >= pair[1].times.times().first()
        };
        match runs.windows(2).find(overlap) {
            Some(_) => Err(StorageError::corrupt(self.name(), "chunks of a series overlap in time")),
            None => Ok(()),
        }
    }

    fn open(&self, key: &[u8], value: Vec<u8>) -> Result<Tile, StorageError> {
        let rest = key.get(PREFIX_BYTES..).and_then(|rest| rest.split_first_chunk::<2>());
        let place = rest.and_then(|(slice, rest)| Some((*slice, *rest.first_chunk::<4>()?)));
        let (slice, first_rank) =
            place.ok_or_else(|| StorageError::corrupt(self.name(), "the key of a tile is too short"))?;
        let (slice, first_rank) = (u16::from_be_bytes(slice), u32::from_be_bytes(first_rank));
        Tile::open(first_rank, value).map_err(|error| {
            let what = format!("tile {slice}/{first_rank} of block {}", self.header.block_id());
            StorageError::corrupt(what, error.to_string())
        })
    }

    /// Shared columns, by number, from the cache or read together.
    fn columns(
        &self,
        mut numbers: Vec<u32>,
        cx: &dyn QueryContext,
    ) -> Result<Vec<NumberedColumn>, StorageError> {
        numbers.dedup();
        numbers.sort_unstable();
        numbers.dedup();
        let mut columns = Vec::with_capacity(numbers.len());
        {
            let cache = self.columns.lock();
            numbers.retain(|number| match cache.columns.get(number) {
                Some(column) => {
                    columns.push((*number, Arc::clone(column)));
                    false
                }
                None => true,
            });
        }
        if let Some(stats) = cx.read_stats() {
            ReadStats::add(&stats.cache_hits, columns.len());
            ReadStats::add(&stats.cache_misses, numbers.len());
        }
        if numbers.is_empty() {
            return Ok(columns);
        }
        let keys: Vec<Vec<u8>> =
            numbers.iter().map(|&number| column_key(self.header.block_id(), number)).collect();
        let values = self.kv.multi_get(&keys)?;
        if let Some(stats) = cx.read_stats() {
            ReadStats::add(&stats.size_bytes, values.iter().flatten().map(Vec::len).sum());
        }
        for (number, value) in numbers.into_iter().zip(values) {
            let column = self.decode_column(number, value)?;
            columns.push((number, self.columns.lock().insert(number, column)));
        }
        columns.sort_unstable_by_key(|column| column.0);
        Ok(columns)
    }

    fn decode_column(&self, number: u32, value: Option<Vec<u8>>) -> Result<Vec<i64>, StorageError> {
        let decode = |value: &[u8]| {
            let mut reader = Reader::new(value);
            let count = reader.length(MAX_SAMPLES)?;
            let mut times = Vec::new();
            timestamps::decode(reader.rest(), count, &mut times)?;
            Ok(times)
        };
        value.ok_or(ChunkError("it is missing")).and_then(|value| decode(&value)).map_err(|error| {
            let what = format!("timestamp column {number} of block {}", self.header.block_id());
            StorageError::corrupt(what, error.to_string())
        })
    }

    fn name(&self) -> String {
        format!("tiles of block {}", self.header.block_id())
    }
}

impl std::fmt::Debug for TileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TileReader").field("block", &self.header.block_id()).finish_non_exhaustive()
    }
}

impl ColumnCache {
    /// Keeps a column. Another reader may have been faster: all get the same `Arc`.
    fn insert(&mut self, number: u32, times: Vec<i64>) -> Arc<Vec<i64>> {
        if let Some(known) = self.columns.get(&number) {
            return Arc::clone(known);
        }
        let bytes_of = |times: &Vec<i64>| size_of_val(times.as_slice()) + 64;
        if self.size_bytes + bytes_of(&times) > self.limit_bytes {
            // What somebody holds takes its memory anyway, and is likely to be asked for again.
            self.columns.retain(|_, column| Arc::strong_count(column) > 1);
            self.size_bytes = self.columns.values().map(|column| bytes_of(column)).sum();
            if self.size_bytes + bytes_of(&times) > self.limit_bytes {
                self.columns.clear();
                self.size_bytes = 0;
            }
        }
        self.size_bytes += bytes_of(&times);
        let column = Arc::new(times);
        self.columns.insert(number, Arc::clone(&column));
        column
    }
}

impl Entry {
    fn column(&self) -> Option<u32> {
        match self.times {
            TileTimes::Shared { column, .. } | TileTimes::Masked { column, .. } => Some(column),
            TileTimes::Inline(_) => None,
        }
    }

    /// Whose times the chunk has, where they are neighbours in a shared column.
    fn stretch(&self) -> Option<Stretch> {
        match self.times {
            TileTimes::Shared { column, first } => {
                Some(Stretch { column, first, count: self.count, mint: self.mint })
            }
            TileTimes::Inline(_) | TileTimes::Masked { .. } => None,
        }
    }
}

fn find_column(columns: &[NumberedColumn], number: u32) -> Option<&Arc<Vec<i64>>> {
    columns.binary_search_by_key(&number, |column| column.0).ok().map(|at| &columns[at].1)
}

/// Ranks of one group and the time wanted of them.
struct Wanted<'a> {
    ranks: &'a [u32],
    /// Position of the first of them among all that were asked for.
    first_series: u32,
    mint: i64,
    maxt: i64,
}

impl Wanted<'_> {
    /// The chunks of a tile that may hold wanted samples.
    fn find(&self, tile: &Tile, number: u32, found: &mut Vec<Found>) {
        let entries = tile.entries();
        let mut at = 0;
        for (series, &rank) in (self.first_series..).zip(self.ranks) {
            at += match entries.get(at) {
                None => return,
                Some(entry) if entry.rank >= rank => 0,
                Some(_) => entries[at..].partition_point(|entry| entry.rank < rank),
            };
            while entries.get(at).is_some_and(|entry| entry.rank == rank) {
                let entry = &entries[at];
                // A chunk ends before the next one of its series begins.
                let next = entries.get(at + 1).filter(|next| next.rank == rank);
                let is_before = next.is_some_and(|next| next.mint <= self.mint);
                if !is_before && entry.mint <= self.maxt {
                    found.push(Found { series, tile: number, entry: at as u32, in_part: false });
                }
                at += 1;
            }
        }
    }
}

impl Wanted<'_> {
    /// Makes `found` the last chunks of a tile that begin in time, where it has some.
    fn find_last<'t>(&self, tile: &'t Tile, found: &mut [Option<(&'t Tile, u32)>]) {
        let entries = tile.entries();
        let mut at = 0;
        for (found, &rank) in found.iter_mut().zip(self.ranks) {
            if entries.get(at).is_some_and(|entry| entry.rank < rank) {
                at += entries[at..].partition_point(|entry| entry.rank < rank);
            }
            while let Some(entry) = entries.get(at).filter(|entry| entry.rank == rank) {
                if entry.mint <= self.maxt {
                    *found = Some((tile, at as u32));
                }
                at += 1;
            }
        }
    }
}

impl OpenTile<'_> {
    fn entry(&self, chunk: Found) -> &Entry {
        &self.tile.entries()[chunk.entry as usize]
    }

    /// Appends a chunk; gives the number of its samples.
    fn read_chunk(
        &mut self,
        chunk: Found,
        deleted: &[(i64, i64)],
        read: &PartRead,
        columns: &[NumberedColumn],
        out: &mut RunBuffer,
    ) -> Result<usize, ChunkError> {
        let times = self.times(chunk, columns)?;
        let entry = &self.tile.entries()[chunk.entry as usize];
        let positions = &mut self.positions;
        let count = entry.count as usize;
        if deleted.iter().any(|&(mint, maxt)| {
            let times = times.times();
            mint <= times[0] && times[count - 1] <= maxt
        }) {
            return Ok(0);
        }
        let bytes = self.tile.values(entry);
        let is_picked = |lookups| chunk.in_part && lookups::pick(lookups, times.times(), positions);
        let is_picked = read.lookups.as_ref().is_some_and(is_picked);
        if is_picked && entry.kind != ChunkKind::Float && read.histograms != HistogramNeed::None {
            with_those_before(positions, entry.count);
        }
        let mut picked = is_picked.then_some(&positions[..]);
        let values = match entry.kind {
            ChunkKind::Float => read_floats(bytes, count, picked, read.values, &mut out.values)?,
            kind => {
                let start = out.histograms.len();
                let mut rows = Rows { count, positions: picked };
                histogram::decode(bytes, kind, rows, read.histograms, &mut out.histograms)?;
                let is_stale = |histogram: &Arc<Histogram>| histogram.is_stale();
                if picked.is_some()
                    && read.histograms == HistogramNeed::Stats
                    && out.histograms[start..].iter().any(is_stale)
                {
                    // Statistics are compared with the last one that is no marker, however far back.
                    out.histograms.truncate(start);
                    (picked, rows.positions) = (None, None);
                    histogram::decode(bytes, kind, rows, read.histograms, &mut out.histograms)?;
                }
                RunValues::Histograms(start..out.histograms.len())
            }
        };
        let start_timestamps = match self.tile.starts(entry) {
            Some(bytes) if read.start_timestamps => {
                let mut starts = Vec::new();
                timestamps::decode_starts(bytes, count, &mut starts)?;
                Some(Arc::from(starts))
            }
            _ => None,
        };
        let run = Run {
            series: chunk.series,
            times,
            values,
            start_timestamps,
            first_of_chunk: entry.first_of_history,
        };
        match picked {
            Some(positions) => run.pick(positions, &mut out.runs),
            None => push_kept(run, deleted, &mut out.runs),
        }
        Ok(count)
    }

    /// The times of a chunk; chunks with the same ones get the same slice.
    fn times(&mut self, chunk: Found, columns: &[NumberedColumn]) -> Result<ColumnSlice, ChunkError> {
        let entry = &self.tile.entries()[chunk.entry as usize];
        let times_of = entry.times_of as usize;
        if self.times.is_empty() {
            self.times.resize(self.tile.entries().len(), None);
        }
        if let Some(times) = &self.times[times_of] {
            return Ok(times.clone());
        }
        let shared = entry.column().and_then(|number| find_column(columns, number));
        let times = match (&entry.times, shared) {
            (&TileTimes::Shared { first, .. }, Some(column)) => {
                let stretch = column.get(first as usize..first as usize + entry.count as usize);
                if stretch.is_none_or(|times| times[0] != entry.mint) {
                    return Err(ChunkError("a chunk refers to times that its column does not have"));
                }
                ColumnSlice { column: Arc::clone(column), first, count: entry.count }
            }
            (_, shared) => ColumnSlice::private(self.tile.times(entry, shared.map(|column| &column[..]))?),
        };
        self.times[times_of] = Some(times.clone());
        Ok(times)
    }
}

/// Decides which chunks are read in part for look-ups, and leaves out those that a single look-up does not
/// need. `is_whole` says that nothing of a chunk's series is deleted: a deleted sample may be the one that is
/// looked for, so the ones before it have to be there.
fn narrow(
    found: &mut Vec<Found>,
    tiles: &[OpenTile<'_>],
    lookups: &Lookups,
    need: HistogramNeed,
    is_whole: impl Fn(&Found) -> bool,
) {
    let is_single = lookups.n_steps == 1;
    let kind = |chunk: &Found| tiles[chunk.tile as usize].entry(*chunk).kind;
    let (mut kept, mut from) = (0, 0);
    while from < found.len() {
        let series = found[from].series;
        let to = from + found[from..].iter().take_while(|chunk| chunk.series == series).count();
        let of_series = &mut found[from..to];
        if is_whole(&of_series[0]) {
            // Hints of histograms hang on what comes before them, which may be a float or another chunk.
            let plain = need == HistogramNeed::None || of_series.iter().all(|c| kind(c) == ChunkKind::Float);
            let histograms = is_single && of_series.iter().all(|chunk| kind(chunk) != ChunkKind::Float);
            of_series.iter_mut().for_each(|chunk| chunk.in_part = plain || histograms);
            if plain && is_single {
                // The last one begins at or before the only step.
                from = to - 1;
            }
        }
        found.copy_within(from..to, kept);
        kept += to - from;
        from = to;
    }
    found.truncate(kept);
}

/// Adds to positions of histograms what their hints hang on, the one before each, and the last of the chunk, on
/// which the first of the next chunk does.
fn with_those_before(positions: &mut Vec<u32>, count: u32) {
    let before: Vec<u32> = positions.iter().filter_map(|position| position.checked_sub(1)).collect();
    positions.extend(before);
    positions.push(count - 1);
    positions.sort_unstable();
    positions.dedup();
}

/// The values of a chunk of floats, or those at some positions.
fn read_floats(
    bytes: &[u8],
    count: usize,
    positions: Option<&[u32]>,
    wants_values: bool,
    out: &mut Vec<f64>,
) -> Result<RunValues, ChunkError> {
    if !wants_values && !column::may_be_stale(bytes) {
        return Ok(RunValues::Constant(0.0));
    }
    if let Some(value) = column::constant(bytes) {
        return Ok(RunValues::Constant(value));
    }
    let start = out.len();
    match positions {
        Some(positions) => column::decode_at(bytes, count, positions, out)?,
        None if wants_values => column::decode(bytes, count, out)?,
        None => {
            column::decode_staleness(bytes, count, out)?;
            if out.len() == start {
                return Ok(RunValues::Constant(0.0));
            }
        }
    }
    Ok(RunValues::Floats(start..out.len()))
}

/// Appends what deleted ranges leave of a run.
fn push_kept(run: Run, deleted: &[(i64, i64)], runs: &mut Vec<Run>) {
    if deleted.is_empty() {
        return runs.push(run);
    }
    let times = run.times.times();
    let mut start = 0;
    let mut kept = Vec::new();
    for &(mint, maxt) in deleted {
        kept.push(start..times.partition_point(|&time| time < mint).max(start));
        start = times.partition_point(|&time| time <= maxt).max(start);
    }
    kept.push(start..times.len());
    for range in kept.into_iter().filter(|range| !range.is_empty()) {
        runs.push(cut(&run, range));
    }
}

/// Some samples of a run. If the sample before them is deleted, hints of the first do not hold.
fn cut(run: &Run, range: Range<usize>) -> Run {
    let within = |whole: &Range<usize>| whole.start + range.start..whole.start + range.end;
    Run {
        series: run.series,
        times: run.times.slice(range.start as u32, range.len() as u32),
        values: match &run.values {
            RunValues::Constant(value) => RunValues::Constant(*value),
            RunValues::Floats(whole) => RunValues::Floats(within(whole)),
            RunValues::Histograms(whole) => RunValues::Histograms(within(whole)),
        },
        start_timestamps: run.start_timestamps.as_ref().map(|starts| Arc::from(&starts[range.clone()])),
        first_of_chunk: run.first_of_chunk || range.start > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_tiles_sort_by_slice_rank_and_part() {
        let key = |slice, rank, part| tile_key(BlockId(1), slice, rank, part);
        let keys = [
            key(0, 0, 0),
            key(0, 5, 0),
            key(0, 5, 1),
            key(0, 5, 2),
            key(0, 6, 0),
            key(0, 256, 0),
            key(1, 0, 0),
        ];
        assert!(keys.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn deleted_ranges_are_cut_out_of_runs() {
        let run = Run {
            series: 3,
            times: ColumnSlice::private(vec![10, 20, 30, 40, 50]),
            values: RunValues::Floats(100..105),
            start_timestamps: Some(Arc::from([1, 2, 3, 4, 5])),
            first_of_chunk: false,
        };
        let kept = |deleted: &[(i64, i64)]| {
            let mut runs = Vec::new();
            push_kept(run.clone(), deleted, &mut runs);
            runs.iter()
                .map(|run| {
                    let RunValues::Floats(values) = &run.values else { panic!("floats stay floats") };
                    assert_eq!(run.start_timestamps.as_ref().map(|starts| starts.len()), Some(values.len()));
                    assert_eq!(run.first_of_chunk, values.start > 100);
                    (run.times.times().to_vec(), values.clone())
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&[]), [(vec![10, 20, 30, 40, 50], 100..105)]);
        assert_eq!(kept(&[(20, 30)]), [(vec![10], 100..101), (vec![40, 50], 103..105)]);
        assert_eq!(kept(&[(i64::MIN, 10), (45, 60)]), [(vec![20, 30, 40], 101..104)]);
        assert_eq!(kept(&[(31, 39)]), [(vec![10, 20, 30], 100..103), (vec![40, 50], 103..105)]);
        assert_eq!(kept(&[(0, 100)]), []);
    }

    #[test]
    fn the_column_cache_forgets_what_nobody_holds() {
        let mut cache = ColumnCache { limit_bytes: 1000, ..ColumnCache::default() };
        let held = cache.insert(0, vec![1; 50]);
        cache.insert(1, vec![2; 50]);
        cache.insert(2, vec![3; 50]);
        assert!(Arc::ptr_eq(&held, &cache.insert(0, vec![1; 50])));
        assert!(!cache.columns.contains_key(&1));
        assert!(cache.size_bytes <= 1000);
    }
}
