//! Which series of a block have the same times.
//!
//! A column is cut by day slice and then every [`MAX_SAMPLES`] times, from its own start: all series of
//! one scrape are cut at the same places, also those that begin late or end early, and refer to the same
//! *pieces*. Pieces are the same if their times are. Equality is told by a 128-bit hash under a seed of
//! the moment, so that the times themselves need not be kept: 10^7 different pieces in one block meet
//! with a probability of 10^-25.

use crate::block::header::SLICE_MS;
use crate::chunk::MAX_SAMPLES;
use crate::part::ColumnSlice;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3Default;

/// Pieces that are remembered, 200 MB; then those that only one series used so far are forgotten, which
/// costs space where a second one comes, and nothing else.
const MAX_PIECES: usize = 4 << 20;
/// Addresses of columns that are remembered, so that a piece is hashed once and not once per series.
const MAX_ADDRESSES: usize = 1 << 16;
/// Timestamps that remembered addresses keep in memory: 64 MB.
const MAX_HELD_TIMESTAMPS: usize = 8 << 20;

/// What is known of a piece: who uses it and which record it has become.
#[derive(Debug)]
pub(super) struct PieceState {
    first_rank: u32,
    shared: Cell<bool>,
    /// Number of the record, once it is written.
    pub(super) column: Cell<Option<u32>>,
}

impl PieceState {
    /// Whether several series use the piece, as far as one knows yet.
    pub(super) const fn is_shared(&self) -> bool {
        self.shared.get()
    }
}

/// A piece of a column.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) state: Rc<PieceState>,
    /// The column it is cut from.
    source: Arc<Vec<i64>>,
    range: Range<usize>,
}

impl Piece {
    pub(super) fn times(&self) -> &[i64] {
        &self.source[self.range.clone()]
    }

    /// Position of the piece in the column it is cut from.
    pub(super) const fn start(&self) -> usize {
        self.range.start
    }

    pub(super) const fn end(&self) -> usize {
        self.range.end
    }
}

/// All pieces of a block.
#[derive(Debug)]
pub(super) struct Pieces {
    by_hash: HashMap<u128, Rc<PieceState>>,
    /// By address of the column and start of the piece; holds the column, so that the address stays its.
    by_address: HashMap<(usize, usize), Piece>,
    n_held_timestamps: usize,
    seed: [u8; 8],
}

impl Pieces {
    pub(super) fn new() -> Self {
        let seed = std::hash::RandomState::new().hash_one(0u64).to_le_bytes();
        Self { by_hash: HashMap::new(), by_address: HashMap::new(), n_held_timestamps: 0, seed }
    }

    /// The piece that position `at` of a column lies in, used by the series of this rank.
    pub(super) fn piece_at(&mut self, times: &ColumnSlice, at: usize, rank: u32) -> Piece {
        let range = piece_range(&times.column, at);
        let address = (Arc::as_ptr(&times.column) as usize, range.start);
        let piece = match self.by_address.get(&address) {
            Some(piece) => piece.clone(),
            None => self.remember(address, &times.column, range, rank),
        };
        if piece.state.first_rank != rank {
            piece.state.shared.set(true);
        }
        piece
    }

    fn remember(
        &mut self,
        address: (usize, usize),
        column: &Arc<Vec<i64>>,
        range: Range<usize>,
        rank: u32,
    ) -> Piece {
        let mut hasher = Xxh3Default::new();
        hasher.update(&self.seed);
        for time in &column[range.clone()] {
            hasher.update(&time.to_le_bytes());
        }
        if self.by_hash.len() >= MAX_PIECES {
            self.by_hash.retain(|_, state| state.is_shared());
            if self.by_hash.len() >= MAX_PIECES / 2 {
                self.by_hash.clear();
            }
        }
        let state = self.by_hash.entry(hasher.digest128()).or_insert_with(|| {
            Rc::new(PieceState { first_rank: rank, shared: Cell::new(false), column: Cell::new(None) })
        });
        let piece = Piece { state: Rc::clone(state), source: Arc::clone(column), range };
        // Columns of one series only are not worth an address, but that is not known yet.
        if self.by_address.len() >= MAX_ADDRESSES || self.n_held_timestamps >= MAX_HELD_TIMESTAMPS {
            self.by_address.clear();
            self.n_held_timestamps = 0;
        }
        self.n_held_timestamps += column.len();
        self.by_address.insert(address, piece.clone());
        piece
    }
}

/// Cuts a column by day slices, and these every [`MAX_SAMPLES`] times.
fn piece_range(column: &[i64], at: usize) -> Range<usize> {
    let slice = |time: i64| time.div_euclid(SLICE_MS);
    let own = slice(column[at]);
    let start = match column.first() {
        Some(&first) if slice(first) != own => column[..at].partition_point(|&time| slice(time) < own),
        _ => 0,
    };
    let end = match column.last() {
        Some(&last) if slice(last) != own => at + column[at..].partition_point(|&time| slice(time) <= own),
        _ => column.len(),
    };
    let start = start + (at - start) / MAX_SAMPLES * MAX_SAMPLES;
    start..end.min(start + MAX_SAMPLES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_cut_at_days_and_at_the_longest_chunk() {
        let day: Vec<i64> = (0..10_000).map(|i| SLICE_MS - 5000 + i).collect();
        assert_eq!(piece_range(&day, 0), 0..4096);
        assert_eq!(piece_range(&day, 4095), 0..4096);
        assert_eq!(piece_range(&day, 4999), 4096..5000);
        assert_eq!(piece_range(&day, 5000), 5000..9096);
        assert_eq!(piece_range(&day, 9999), 9096..10_000);
        assert_eq!(piece_range(&[-1, 0], 0), 0..1);
        assert_eq!(piece_range(&[-1, 0], 1), 1..2);
    }

    #[test]
    fn equal_columns_are_one_piece_and_a_second_series_makes_it_shared() {
        let mut pieces = Pieces::new();
        let (a, b) = (ColumnSlice::private(vec![1, 2, 3]), ColumnSlice::private(vec![1, 2, 3]));
        let first = pieces.piece_at(&a, 0, 7);
        assert!(!pieces.piece_at(&a, 2, 7).state.is_shared());
        let second = pieces.piece_at(&b, 1, 8);
        assert!(Rc::ptr_eq(&first.state, &second.state));
        assert!(first.state.is_shared());
        assert!(!pieces.piece_at(&ColumnSlice::private(vec![1, 2]), 0, 8).state.is_shared());
    }
}
