//! pcodec (crate pco), fenced in: one headed chunk with one page, no dictionaries and no long look-back
//! windows, whose memory the bytes alone would decide.

use super::{ChunkError, Effort};
use pco::data_types::Number;
use pco::metadata::{DeltaEncoding, Mode};
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec};

/// The low four bits of the first byte of a pco chunk name its mode; this one is a dictionary.
const DICTIONARY_MODE: u8 = 4;
const MODE_MASK: u8 = 0x0f;
/// What pco names itself in the errors that reach users.
const NOT_PCO: ChunkError = ChunkError("pcodec column does not decode");

/// Compression levels: above 4 sealing gains less than half a percent for up to twice the time.
const SEAL_LEVEL: usize = 4;
const COMPACT_LEVEL: usize = 8;

/// The smallest of some delta choices, if pco takes the values. Its own choice (`Auto`) takes five times
/// as long as trying two, and is now and then a look-back, which we do not store.
pub(super) fn encode<T: Number>(values: &[T], effort: Effort) -> Option<Vec<u8>> {
    let (level, deltas) = match effort {
        Effort::Seal => (SEAL_LEVEL, &[DeltaSpec::NoOp, DeltaSpec::TryConsecutive(1)][..]),
        Effort::Compact => (
            COMPACT_LEVEL,
            &[DeltaSpec::NoOp, DeltaSpec::TryConsecutive(1), DeltaSpec::TryConsecutive(2)][..],
        ),
    };
    let configs = deltas
        .iter()
        .map(|delta| ChunkConfig::default().with_compression_level(level).with_delta_spec(delta.clone()));
    configs.filter_map(|config| try_encode(values, &config)).min_by_key(Vec::len)
}

fn try_encode<T: Number>(values: &[T], config: &ChunkConfig) -> Option<Vec<u8>> {
    let file = FileCompressor::default();
    let mut chunk = file.chunk_compressor(values, config).ok()?;
    if !is_bounded(&chunk.meta().mode, &chunk.meta().delta_encoding) {
        return None;
    }
    let out = file.write_header(Vec::new()).ok()?;
    let out = chunk.write_meta(out).ok()?;
    chunk.write_page(0, out).ok()
}

/// Appends `count` decoded values to `out`.
pub(super) fn decode<T: Number + Default>(
    bytes: &[u8],
    count: usize,
    out: &mut Vec<T>,
) -> Result<(), ChunkError> {
    let at = out.len();
    // pco checks what it reads, but it is not written to be fed damaged bytes: a panic of it is an error.
    let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let (file, rest) = FileDecompressor::new(bytes).ok()?;
        if rest.first()? & MODE_MASK == DICTIONARY_MODE {
            return None;
        }
        let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).ok()?;
        if !is_bounded(&chunk.meta().mode, &chunk.meta().delta_encoding) {
            return None;
        }
        out.resize(at + count, T::default());
        let mut page = chunk.page_decompressor(rest, count).ok()?;
        let progress = page.read(&mut out[at..]).ok()?;
        (progress.n_processed == count && page.into_src().is_empty()).then_some(())
    }));
    match decoded {
        Ok(Some(())) => Ok(()),
        _ => {
            out.truncate(at);
            Err(NOT_PCO)
        }
    }
}

const fn is_bounded(mode: &Mode, delta: &DeltaEncoding) -> bool {
    !matches!(mode, Mode::Dict(_)) && matches!(delta, DeltaEncoding::NoOp | DeltaEncoding::Consecutive { .. })
}
