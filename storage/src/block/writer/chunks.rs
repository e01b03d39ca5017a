//! Cuts runs into chunks and collects them into tiles.

use super::columns::{Piece, Pieces};
use super::tiles::TileQueue;
use crate::block::header::SLICE_MS;
use crate::block::tiles::{RANKS_PER_TILE, column_key};
use crate::chunk::bytes::put_varint;
use crate::chunk::tile::{NewEntry, TileBuilder, TileTimes};
use crate::chunk::{ChunkKind, Effort, column, histogram, timestamps};
use crate::error::StorageError;
use crate::kv::KvWrite;
use crate::kv::keys::{BlockId, Kind};
use crate::part::{Run, RunBuffer, RunValues};
use chronolith_model::histogram::{CounterResetHint, Histogram};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A tile is closed when its chunks have this size: opening it to read one of them stays cheap, and
/// nothing is gained by more (docs/decisions/0010-chunk-encodings.md).
const TILE_BYTES: usize = 16 * 1024;
/// A tile is closed within a series beyond this size.
const LARGEST_TILE_BYTES: usize = 1 << 20;
/// An inline column up to this size is a grid or a few times: no bitmap beats it.
const SMALL_INLINE_BYTES: usize = 16;
/// Shared pieces that a column with holes is compared with.
const N_RECENT: usize = 4;

pub(super) struct ChunkWriter {
    block: BlockId,
    first_slice: i64,
    effort: Effort,
    open: BTreeMap<u16, OpenTile>,
    pieces: Pieces,
    queue: TileQueue,
    next_column: u32,
    n_chunks: u64,
    /// The series of the last run, to tell the first chunk of a series.
    last_rank: Option<u32>,
}

/// Chunks that will be one tile. Whether a column is shared is decided when the tile is closed, because
/// neighbours may use it.
struct OpenTile {
    first_rank: u32,
    /// Above 0: the tile continues the series of its first rank.
    part: u16,
    chunks: Vec<PendingChunk>,
    bytes: Vec<u8>,
    recent: VecDeque<Piece>,
}

struct PendingChunk {
    rank: u32,
    kind: ChunkKind,
    first_of_history: bool,
    piece: Piece,
    /// Which times of the piece.
    times: Range<usize>,
    starts: Range<usize>,
    values: Range<usize>,
}

impl PendingChunk {
    fn times(&self) -> &[i64] {
        &self.piece.times()[self.times.clone()]
    }
}

impl ChunkWriter {
    pub(super) fn new(block: BlockId, first_slice: i64, effort: Effort, spill_dir: Option<PathBuf>) -> Self {
        Self {
            block,
            first_slice,
            effort,
            open: BTreeMap::new(),
            pieces: Pieces::new(),
            queue: TileQueue::new(block, spill_dir),
            next_column: 0,
            n_chunks: 0,
            last_rank: None,
        }
    }

    /// Adds a run that is not empty, whose times are in the block's range.
    pub(super) fn add_run(
        &mut self,
        rank: u32,
        run: &Run,
        samples: &RunBuffer,
        out: &mut dyn KvWrite,
    ) -> Result<(), StorageError> {
        let first_of_series = self.last_rank.replace(rank) != Some(rank);
        let first = run.times.first as usize;
        let count = run.times.count as usize;
        let effort = self.effort;
        let mut done = 0;
        while done < count {
            let piece = self.pieces.piece_at(&run.times, first + done, rank);
            let mut n_chunk = (piece.end() - (first + done)).min(count - done);
            if let RunValues::Histograms(range) = &run.values {
                n_chunk = n_histograms(&samples.histograms[range.clone()][done..], n_chunk);
            }
            let first_of_history = done == 0 && (run.first_of_chunk || first_of_series);
            let times = first + done - piece.start()..first + done + n_chunk - piece.start();
            let slice = piece.times()[times.start].div_euclid(SLICE_MS) - self.first_slice;
            let slice = u16::try_from(slice).expect("the range of the block was checked");
            let tile = self.tile_for(slice, rank, out)?;
            let chunk = done..done + n_chunk;
            let before = tile.bytes.len();
            let kind = encode_values(run, samples, chunk.clone(), first_of_history, effort, &mut tile.bytes);
            let values = before..tile.bytes.len();
            if let Some(starts) = run.start_timestamps.as_ref().map(|starts| &starts[chunk])
                && starts.iter().any(|&start| start != 0)
            {
                timestamps::encode_starts(starts, effort, &mut tile.bytes);
            }
            let starts = values.end..tile.bytes.len();
            tile.chunks.push(PendingChunk { rank, kind, first_of_history, piece, times, starts, values });
            self.n_chunks += 1;
            done += n_chunk;
        }
        Ok(())
    }

    /// The open tile of a slice, for a chunk of this rank.
    fn tile_for(
        &mut self,
        slice: u16,
        rank: u32,
        out: &mut dyn KvWrite,
    ) -> Result<&mut OpenTile, StorageError> {
        let mut next = OpenTile::new(rank, 0, VecDeque::new());
        if let Some(tile) = self.open.get(&slice) {
            let same_rank = tile.chunks.last().is_some_and(|chunk| chunk.rank == rank);
            let is_full = if same_rank {
                tile.bytes.len() >= LARGEST_TILE_BYTES
            } else {
                tile.part > 0
                    || tile.bytes.len() >= TILE_BYTES
                    || tile.first_rank / RANKS_PER_TILE != rank / RANKS_PER_TILE
            };
            if is_full {
                let mut tile = self.open.remove(&slice).expect("it was just there");
                self.close(slice, &mut tile, out)?;
                if same_rank {
                    next.part = if tile.first_rank == rank { tile.part + 1 } else { 1 };
                }
                next.recent = tile.recent;
            }
        }
        Ok(self.open.entry(slice).or_insert(next))
    }

    fn close(&mut self, slice: u16, tile: &mut OpenTile, out: &mut dyn KvWrite) -> Result<(), StorageError> {
        let Some(first) = tile.chunks.first() else { return Ok(()) };
        let mut builder = TileBuilder::new(tile.first_rank, first.times()[0]);
        let (mut inline, mut bitmap) = (Vec::new(), Vec::new());
        let mut before: Option<&PendingChunk> = None;
        for chunk in &tile.chunks {
            let as_before = before.is_some_and(|before| {
                std::rc::Rc::ptr_eq(&before.piece.state, &chunk.piece.state) && before.times == chunk.times
            });
            let times = if as_before {
                None
            } else if chunk.piece.state.is_shared() {
                let column = self.shared_column(&chunk.piece, out)?;
                if !tile.recent.iter().any(|known| std::rc::Rc::ptr_eq(&known.state, &chunk.piece.state)) {
                    tile.recent.truncate(N_RECENT - 1);
                    tile.recent.push_front(chunk.piece.clone());
                }
                Some(TileTimes::Shared { column, first: chunk.times.start as u32 })
            } else {
                inline.clear();
                timestamps::encode(chunk.times(), self.effort, &mut inline);
                let masked = (inline.len() > SMALL_INLINE_BYTES)
                    .then(|| mask(chunk.times(), &tile.recent, &mut bitmap))
                    .flatten()
                    .filter(|_| bitmap.len() < inline.len());
                Some(match masked {
                    Some((column, stretch)) => TileTimes::Masked {
                        column,
                        first: stretch.start as u32,
                        stretch: stretch.len() as u32,
                        bitmap: &bitmap[..],
                    },
                    None => TileTimes::Inline(&inline[..]),
                })
            };
            builder.push(&NewEntry {
                rank: chunk.rank,
                kind: chunk.kind,
                first_of_history: chunk.first_of_history,
                count: chunk.times.len() as u32,
                mint: chunk.times()[0],
                times,
                starts: &tile.bytes[chunk.starts.clone()],
                values: &tile.bytes[chunk.values.clone()],
            });
            before = Some(chunk);
        }
        let mut bytes = Vec::with_capacity(tile.bytes.len() + 8 * tile.chunks.len());
        builder.finish(&mut bytes);
        self.queue.put(slice, tile.first_rank, tile.part, &bytes, out)
    }

    /// The number of the record of a shared piece, which is written now if it was not.
    fn shared_column(&mut self, piece: &Piece, out: &mut dyn KvWrite) -> Result<u32, StorageError> {
        if let Some(column) = piece.state.column.get() {
            return Ok(column);
        }
        let column = self.next_column;
        self.next_column = column
            .checked_add(1)
            .ok_or_else(|| super::invalid(self.block, "too many timestamp columns".to_owned()))?;
        piece.state.column.set(Some(column));
        let mut bytes = Vec::new();
        put_varint(&mut bytes, piece.times().len() as u64);
        timestamps::encode(piece.times(), self.effort, &mut bytes);
        out.put(Kind::Timestamps, &column_key(self.block, column), &bytes)?;
        Ok(column)
    }

    /// Writes what is open; gives the number of chunks.
    pub(super) fn finish(mut self, out: &mut dyn KvWrite) -> Result<u64, StorageError> {
        for (slice, mut tile) in std::mem::take(&mut self.open) {
            self.close(slice, &mut tile, out)?;
        }
        self.queue.finish(out)?;
        Ok(self.n_chunks)
    }
}

impl OpenTile {
    const fn new(first_rank: u32, part: u16, recent: VecDeque<Piece>) -> Self {
        Self { first_rank, part, chunks: Vec::new(), bytes: Vec::new(), recent }
    }
}

/// How many of the first `limit` histograms fit into one chunk.
fn n_histograms(histograms: &[Arc<Histogram>], limit: usize) -> usize {
    let first = &histograms[0];
    let limit = limit.min(histogram::max_samples(first));
    1 + histograms[1..limit].iter().take_while(|other| histogram::same_layout(first, other)).count()
}

fn encode_values(
    run: &Run,
    samples: &RunBuffer,
    chunk: Range<usize>,
    first_of_history: bool,
    effort: Effort,
    out: &mut Vec<u8>,
) -> ChunkKind {
    match &run.values {
        RunValues::Constant(value) => {
            column::encode_constant(*value, out);
            ChunkKind::Float
        }
        RunValues::Floats(range) => {
            column::encode(&samples.values[range.clone()][chunk], effort, out);
            ChunkKind::Float
        }
        RunValues::Histograms(range) => {
            let histograms = &samples.histograms[range.clone()][chunk];
            if first_of_history && has_hint(&histograms[0]) {
                // The sample that the hint compares with is in another block, or nowhere.
                let mut histograms = histograms.to_vec();
                forget_hint(Arc::make_mut(&mut histograms[0]));
                histogram::encode(&histograms, effort, out);
            } else {
                histogram::encode(histograms, effort, out);
            }
            histogram::kind(&histograms[0])
        }
    }
}

fn has_hint(histogram: &Histogram) -> bool {
    let hint = match histogram {
        Histogram::Int(histogram) => histogram.counter_reset_hint,
        Histogram::Float(histogram) => histogram.counter_reset_hint,
    };
    matches!(hint, CounterResetHint::Reset | CounterResetHint::NotReset)
}

fn forget_hint(histogram: &mut Histogram) {
    match histogram {
        Histogram::Int(histogram) => histogram.counter_reset_hint = CounterResetHint::Unknown,
        Histogram::Float(histogram) => histogram.counter_reset_hint = CounterResetHint::Unknown,
    }
}

/// Finds a recent shared piece that has all of `times` and at most an eighth more between them. Gives
/// its column and the stretch, and the bits of those that are there.
fn mask(times: &[i64], recent: &VecDeque<Piece>, bitmap: &mut Vec<u8>) -> Option<(u32, Range<usize>)> {
    let (first, last) = (times[0], times[times.len() - 1]);
    recent.iter().find_map(|piece| {
        let column = piece.state.column.get()?;
        let all = piece.times();
        let start = all.binary_search(&first).ok()?;
        let end = all.binary_search(&last).ok()? + 1;
        let stretch = &all[start..end];
        if stretch.len() > times.len() + times.len() / 8 {
            return None;
        }
        bitmap.clear();
        bitmap.resize(stretch.len().div_ceil(8), 0);
        let mut present = times.iter().peekable();
        for (at, time) in stretch.iter().enumerate() {
            if present.next_if_eq(&time).is_some() {
                bitmap[at / 8] |= 1 << (at % 8);
            }
        }
        present.peek().is_none().then_some((column, start..end))
    })
}
