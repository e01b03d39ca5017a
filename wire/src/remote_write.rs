//! Remote write 1.0 and 2.0: what a request body means, and how to make one.
//!
//! A body is a snappy block ([`decompress`]) that holds a protobuf message ([`v1`], [`v2`]). Decoding
//! fills an [`AppendBatch`](chronolith_model::append::AppendBatch) that borrows from the decompressed
//! body, without an allocation per sample. HTTP, and which status code an error becomes, is left to
//! the server.

mod histograms;
mod outline;
pub mod v1;
pub mod v2;

#[cfg(test)]
mod tests;

pub(crate) use histograms::prepare as prepare_histogram;
pub use outline::{samples, symbols};
pub use protobuf::{DecodeError, DecodeErrorKind};

use crate::protobuf;
use chronolith_model::append::Exemplar;
use chronolith_model::labels::{Labels, write_labels};

/// How many reasons [`Rejected`] keeps; the counts go on.
pub const MAX_REASONS: usize = 10;

/// No snappy element of `n` bytes stands for more than `22 n`: the densest is a copy of three bytes
/// that yields 64. A body that declares more is refused before anything is allocated for it.
const MAX_SNAPPY_RATIO: u64 = 22;

/// Parts of a request that were left out of the batch because they make no sense by themselves.
/// The rest of the request is good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Series left out as a whole.
    pub series: u64,
    /// Float samples left out, those of left out series included.
    pub samples: u64,
    /// Likewise histograms.
    pub histograms: u64,
    /// Likewise exemplars.
    pub exemplars: u64,
    /// Metadata left out.
    pub metadata: u64,
    /// The first [`MAX_REASONS`] reasons, each naming its series.
    pub reasons: Vec<String>,
}

impl Rejected {
    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.series == 0
            && self.samples == 0
            && self.histograms == 0
            && self.exemplars == 0
            && self.metadata == 0
    }

    fn because(&mut self, reason: impl FnOnce() -> String) {
        if self.reasons.len() < MAX_REASONS {
            self.reasons.push(reason());
        }
    }
}

/// Why a body could not be decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// It declares more bytes than allowed. Nothing was allocated.
    #[error("request declares {declared} bytes when decompressed, the limit is {limit}")]
    TooLarge {
        /// What the header of the block says.
        declared: u64,
        /// What the caller allows.
        limit: usize,
    },
    /// It is no snappy block.
    #[error("request is no snappy block: {0}")]
    Corrupt(String),
}

/// Decompresses a snappy block into `out`, whose content is replaced and whose memory is reused. What a
/// longer `out` held before need not be cleared first: only bytes beyond its length are zeroed on the way.
///
/// # Errors
/// [`DecompressError`]; `out` then holds no meaningful bytes. The declared length is compared with
/// `limit_bytes`, and with what so short a body can hold at all, before memory is taken.
pub fn decompress(body: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let corrupt = |error: snap::Error| DecompressError::Corrupt(error.to_string());
    let declared = snap::raw::decompress_len(body).map_err(corrupt)?;
    if declared > limit_bytes {
        return Err(DecompressError::TooLarge { declared: declared as u64, limit: limit_bytes });
    }
    if declared as u64 > body.len() as u64 * MAX_SNAPPY_RATIO {
        return Err(DecompressError::Corrupt(format!(
            "{} bytes cannot stand for the {declared} that the header declares",
            body.len()
        )));
    }
    out.resize(declared, 0);
    let written = snap::raw::Decoder::new().decompress(body, out).map_err(corrupt)?;
    out.truncate(written);
    Ok(())
}

/// Compresses a message as a snappy block.
///
/// # Panics
/// With a message of 4 GiB or more, which no snappy block can hold.
pub fn compress(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).expect("message is shorter than 4 GiB")
}

/// The labels of a series as they are named in reasons, in the order of the wire.
fn series_text(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    write_labels(&mut text, pairs.iter().copied()).expect("writing to a string does not fail");
    text
}

/// An exemplar, unless a label name occurs twice in it.
fn exemplar(pairs: &[(&str, &str)], value: f64, timestamp: i64) -> Result<Exemplar, String> {
    let labels = Labels::from_pairs(pairs.iter().copied()).map_err(|error| error.to_string())?;
    Ok(Exemplar { labels, value, timestamp })
}
