//! Chunks: encoded samples of one series. The appending form of open tables, the sealed columns of
//! blocks, and tiles, which hold the chunks of neighbouring series under one key.
//!
//! Nothing here knows of keys, files or indexes. All decoders take bytes that anybody may have
//! damaged: they return errors, never panic, and allocate no more than the sample count asks for.

pub(crate) mod bytes;
pub mod column;
pub mod histogram;
pub mod ints;
pub mod open;
pub mod pack;
mod pcodec;
pub mod tile;
pub mod timestamps;

/// A chunk or a timestamp column holds at most this many samples: one that a short query has to decode
/// whole stays a few microseconds, and beyond a thousand samples encodings hardly gain
/// (docs/decisions/0010-chunk-encodings.md).
pub const MAX_SAMPLES: usize = 4096;

/// What the samples of a chunk are. The number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChunkKind {
    /// Floats.
    Float = 0,
    /// Histograms with whole-number counts, of one bucket layout.
    IntHistogram = 1,
    /// Histograms with float counts, of one bucket layout.
    FloatHistogram = 2,
}

/// How hard an encoder tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// Sealing a table: bit-packing, pcodec for full-precision floats only.
    #[default]
    Seal,
    /// Compacting to long blocks: pcodec wherever it is a tenth smaller.
    Compact,
}

/// Why stored bytes are no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ChunkError(pub &'static str);
