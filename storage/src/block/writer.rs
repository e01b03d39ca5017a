//! Writes a block from its series in one pass, in rank order.
//!
//! Runs are cut into chunks (one kind, one layout, one day slice, at most [`MAX_SAMPLES`] samples) and
//! collected into one open tile per day slice. Keys of tiles ascend by slice first, so only the tiles of
//! the first slice go out at once; those of later slices (blocks of several days) wait in memory and,
//! beyond some megabytes, in a file of the staging folder that has no name any more
//! ([`TileQueue`](tiles::TileQueue)). The alternative, a pass over the source per slice, would decode a
//! month 31 times.
//!
//! Timestamp columns are shared by equality ([`columns`]): what a second series uses becomes a record
//! of its own, what only one uses stays in its tile.

mod chunks;
mod columns;
mod tiles;

use super::content::ContentHash;
use super::header::{BlockHeader, SLICE_MS};
use super::side::{encode_exemplars, encode_metadata, exemplars_key, metadata_key};
use super::source::{BlockSource, SourceSeries};
use crate::chunk::{Effort, MAX_SAMPLES};
use crate::error::StorageError;
use crate::index::writer::IndexWriter;
use crate::kv::KvWrite;
use crate::kv::keys::{BlockId, Kind};
use crate::part::{Run, RunBuffer, RunValues};
use chunks::ChunkWriter;
use std::path::PathBuf;

/// What the writer is told about a block.
#[derive(Clone, Debug)]
pub struct BlockMeta {
    /// Its identity.
    pub id: BlockId,
    /// First millisecond of the range that it stands for. Every sample lies in the range.
    pub mint: i64,
    /// Last millisecond of that range.
    pub maxt: i64,
    /// How often its samples were compacted: 0 for a sealed table.
    pub level: u8,
    /// First of the freeze numbers whose samples it holds.
    pub seq_min: u64,
    /// Last of them.
    pub seq_max: u64,
    /// Log tables that it covers.
    pub tables: Vec<u64>,
    /// Blocks that it replaces.
    pub parents: Vec<u64>,
    /// How hard to try to make it small.
    pub effort: Effort,
    /// Folder for what does not fit into memory, on the way of blocks of several days; without it all
    /// of it stays in memory.
    pub spill_dir: Option<PathBuf>,
}

/// Writes a block: every kind but tombstones, the header last. A source without any sample writes
/// nothing; its header has `n_series` 0.
///
/// # Errors
/// [`StorageError`] if the source cannot be read, a record cannot be written, or the source breaks its
/// promises (order, range). What was written until then is no block: it has no header.
pub fn write_block(
    meta: BlockMeta,
    source: &mut dyn BlockSource,
    out: &mut dyn KvWrite,
) -> Result<BlockHeader, StorageError> {
    let n_slices =
        i128::from(meta.maxt.div_euclid(SLICE_MS)) - i128::from(meta.mint.div_euclid(SLICE_MS)) + 1;
    if meta.mint > meta.maxt || n_slices > i128::from(u16::MAX) {
        return Err(invalid(meta.id, format!("a range of {n_slices} days")));
    }
    let mut out = Counting { out, n_keys: [0; 10] };
    let mut writer = Writer::new(&meta, source.symbols()?);
    let mut series = SourceSeries::default();
    loop {
        series.clear();
        if !source.next_series(&mut series)? {
            break;
        }
        if series.samples.runs.iter().any(|run| run.times.count > 0) {
            writer.add_series(&series, &mut out)?;
        }
    }
    let mut header = writer.finish(&mut out)?;
    if header.n_series == 0 {
        return Ok(header);
    }
    for (family, metadata) in source.metadata()? {
        out.put(Kind::Metadata, &metadata_key(meta.id, &family), &encode_metadata(&metadata))?;
    }
    header.n_keys = out.n_keys;
    header.n_keys[Kind::Header as usize] = 1;
    let (key, value) = header.encode()?;
    out.put(Kind::Header, &key, &value)?;
    Ok(header)
}

/// Counts the keys of each kind on their way.
struct Counting<'a> {
    out: &'a mut dyn KvWrite,
    n_keys: [u64; 10],
}

impl KvWrite for Counting<'_> {
    fn put(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.n_keys[kind as usize] += 1;
        self.out.put(kind, key, value)
    }
}

struct Writer<'a> {
    meta: &'a BlockMeta,
    symbols: Vec<Box<str>>,
    /// Made for the first series, because it writes the symbols at once.
    index: Option<IndexWriter>,
    chunks: ChunkWriter,
    content: ContentHash,
    /// First and last time of all samples.
    range: Option<(i64, i64)>,
}

impl<'a> Writer<'a> {
    fn new(meta: &'a BlockMeta, symbols: Vec<Box<str>>) -> Self {
        let chunks =
            ChunkWriter::new(meta.id, meta.mint.div_euclid(SLICE_MS), meta.effort, meta.spill_dir.clone());
        Self { meta, symbols, index: None, chunks, content: ContentHash::default(), range: None }
    }

    fn add_series(&mut self, series: &SourceSeries, out: &mut dyn KvWrite) -> Result<(), StorageError> {
        let (mint, maxt) = self.check(&series.samples)?;
        let index = match &mut self.index {
            Some(index) => index,
            none => none.insert(IndexWriter::new(self.meta.id, &self.symbols, out)?),
        };
        let rank = index.add_series(&series.labels, mint, maxt, out)?;
        // The index has checked that these are numbers of symbols.
        let symbol = |number: u32| &*self.symbols[number as usize];
        let series_hash =
            ContentHash::series(series.labels.iter().map(|&(name, value)| (symbol(name), symbol(value))));
        for run in series.samples.runs.iter().filter(|run| run.times.count > 0) {
            self.content.add_run(series_hash, run, &series.samples);
            self.chunks.add_run(rank, run, &series.samples, out)?;
        }
        if !series.exemplars.is_empty() {
            let key = exemplars_key(self.meta.id, rank);
            out.put(Kind::Exemplars, &key, &encode_exemplars(&series.exemplars))?;
        }
        let (first, last) = self.range.unwrap_or((mint, maxt));
        self.range = Some((first.min(mint), last.max(maxt)));
        Ok(())
    }

    /// First and last time of the runs of a series that keep what [`BlockSource`] promises.
    fn check(&self, samples: &RunBuffer) -> Result<(i64, i64), StorageError> {
        let mut range: Option<(i64, i64)> = None;
        for run in samples.runs.iter().filter(|run| run.times.count > 0) {
            let times = run.times.times();
            let last = range.map(|(_, last)| last);
            if !times.is_sorted_by(|a, b| a < b) || last.is_some_and(|last| times[0] <= last) {
                return Err(invalid(self.meta.id, "samples are not ascending".to_owned()));
            }
            let (first, last) = (times[0], times[times.len() - 1]);
            if first < self.meta.mint || last > self.meta.maxt {
                return Err(invalid(
                    self.meta.id,
                    format!("samples from {first} to {last} are not in its range"),
                ));
            }
            if !is_consistent(run, samples) {
                return Err(invalid(self.meta.id, "a run has not as many values as times".to_owned()));
            }
            range = Some((range.map_or(first, |(first, _)| first), last));
        }
        range.ok_or_else(|| invalid(self.meta.id, "a series has no samples".to_owned()))
    }

    fn finish(self, out: &mut dyn KvWrite) -> Result<BlockHeader, StorageError> {
        let meta = self.meta;
        let n_chunks = self.chunks.finish(out)?;
        let index = self.index.map(|index| index.finish(out)).transpose()?.unwrap_or_default();
        let (mint, maxt) = self.range.unwrap_or((meta.mint, meta.mint));
        Ok(BlockHeader {
            id: meta.id.0,
            mint,
            maxt,
            range_mint: meta.mint,
            range_maxt: meta.maxt,
            level: meta.level,
            seq_min: meta.seq_min,
            seq_max: meta.seq_max,
            tables: meta.tables.clone(),
            parents: meta.parents.clone(),
            n_keys: [0; 10],
            n_series: index.n_series,
            n_chunks,
            n_floats: self.content.n_floats,
            n_histograms: self.content.n_histograms,
            content_hash: self.content.sum,
            n_symbols: index.n_symbols,
            symbol_parts: index.symbol_parts,
        })
    }
}

fn is_consistent(run: &Run, samples: &RunBuffer) -> bool {
    let count = run.times.count as usize;
    let fits = |range: &std::ops::Range<usize>, len: usize| range.len() == count && range.end <= len;
    let starts_fit = run.start_timestamps.as_ref().is_none_or(|starts| starts.len() == count);
    starts_fit
        && match &run.values {
            RunValues::Constant(_) => true,
            RunValues::Floats(range) => fits(range, samples.values.len()),
            RunValues::Histograms(range) => fits(range, samples.histograms.len()),
        }
}

fn invalid(block: BlockId, reason: String) -> StorageError {
    StorageError::corrupt(format!("source of block {block}"), reason)
}

const _: () = assert!(MAX_SAMPLES.is_power_of_two());

#[cfg(test)]
mod example;
#[cfg(test)]
mod tests;
