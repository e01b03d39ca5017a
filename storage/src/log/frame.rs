//! Frames: what one `write` puts into a file of the log, with a checksum over all of it.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic `CLg1` |
//! | 4 | CRC32C of everything behind it, body included |
//! | 4 | length of the body as stored |
//! | 4 | kind: 0 file header, 1 samples, 2 definitions |
//! | 8 | table number |
//! | 8 | frame counter of the table, from 1, over all segments; 0 in file headers |
//! | 4 | segment up to which the log is known to be synced |
//! | 4 | offset in that segment up to which it is known to be synced |
//!
//! All integers are little-endian. The body of kinds 1 and 2 is a snappy block.

use crate::error::StorageError;

/// Bytes of a frame before its body.
pub const HEADER_BYTES: usize = 40;
/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"CLg1";
/// No body decompresses to more. Requests are bounded long before; the writer checks.
pub const MAX_RAW_BYTES: usize = 1 << 30;
/// No stored body is longer (snappy adds a sixth at worst): a length beyond it is damage.
pub const MAX_BODY_BYTES: usize = MAX_RAW_BYTES + MAX_RAW_BYTES / 4;
/// No element of snappy makes more than 64 bytes of three: a length beyond it is a lie, and is not
/// allocated.
const MAX_RATIO: usize = 22;

const CRC_AT: usize = 4;
const LENGTH_AT: usize = 8;
const KIND_AT: usize = 12;
const TABLE_AT: usize = 16;
const COUNTER_AT: usize = 24;
const SYNCED_SEGMENT_AT: usize = 32;
const SYNCED_OFFSET_AT: usize = 36;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FrameKind {
    /// The first frame of a file.
    FileHeader = 0,
    /// Samples and what comes with them.
    Samples = 1,
    /// Series definitions.
    Definitions = 2,
}

/// The fields of a frame that are not about its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it holds.
    pub kind: FrameKind,
    /// The table it belongs to.
    pub table: u64,
    /// Counts the frames of the table.
    pub counter: u64,
    /// How much of the log was known to be synced when the frame was written.
    pub synced: SyncedUpTo,
}

/// A place in the log; everything before it was synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncedUpTo {
    /// Segment number.
    pub segment: u32,
    /// Offset in the segment.
    pub offset: u32,
}

/// Appends a frame to `out`. `body` is stored as it is.
pub fn write_frame(header: FrameHeader, body: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    let length = u32::try_from(body.len()).expect("a frame is shorter than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(header.kind as u32).to_le_bytes());
    out.extend_from_slice(&header.table.to_le_bytes());
    out.extend_from_slice(&header.counter.to_le_bytes());
    out.extend_from_slice(&header.synced.segment.to_le_bytes());
    out.extend_from_slice(&header.synced.offset.to_le_bytes());
    assert_eq!(out.len() - start, HEADER_BYTES);
    out.extend_from_slice(body);
    let crc = crc32c::crc32c(&out[start + LENGTH_AT..]);
    out[start + CRC_AT..start + LENGTH_AT].copy_from_slice(&crc.to_le_bytes());
}

/// What stands at a place of a file.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// A frame with a good checksum.
    Frame {
        /// Its header.
        header: FrameHeader,
        /// Its body, as stored.
        body: &'a [u8],
        /// Bytes up to the next frame.
        length: usize,
    },
    /// The file may go on: this many bytes from the start of the frame are needed.
    NeedBytes(usize),
    /// No frame.
    Bad(&'static str),
}

/// Reads the frame at the start of `bytes`.
pub fn parse_frame(bytes: &[u8]) -> Parsed<'_> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Parsed::NeedBytes(HEADER_BYTES);
    };
    if header[..4] != MAGIC {
        return Parsed::Bad("no frame begins here");
    }
    let body_bytes = u32_at(header, LENGTH_AT) as usize;
    if body_bytes > MAX_BODY_BYTES {
        return Parsed::Bad("length of the frame is out of bounds");
    }
    let length = HEADER_BYTES + body_bytes;
    if bytes.len() < length {
        return Parsed::NeedBytes(length);
    }
    if crc32c::crc32c(&bytes[LENGTH_AT..length]) != u32_at(header, CRC_AT) {
        return Parsed::Bad("checksum of the frame does not fit");
    }
    let kind = match u32_at(header, KIND_AT) {
        0 => FrameKind::FileHeader,
        1 => FrameKind::Samples,
        2 => FrameKind::Definitions,
        _ => return Parsed::Bad("kind of the frame is unknown"),
    };
    let header = FrameHeader {
        kind,
        table: u64_at(header, TABLE_AT),
        counter: u64_at(header, COUNTER_AT),
        synced: SyncedUpTo {
            segment: u32_at(header, SYNCED_SEGMENT_AT),
            offset: u32_at(header, SYNCED_OFFSET_AT),
        },
    };
    Parsed::Frame { header, body: &bytes[HEADER_BYTES..length], length }
}

/// Decompresses the body of a frame.
///
/// # Errors
/// What is wrong with it.
pub fn decompress(body: &[u8]) -> Result<Vec<u8>, &'static str> {
    let length = snap::raw::decompress_len(body).map_err(|_| "body of the frame is not snappy")?;
    if length > MAX_RAW_BYTES.min(body.len().saturating_mul(MAX_RATIO)) {
        return Err("body of the frame is too large");
    }
    snap::raw::Decoder::new().decompress_vec(body).map_err(|_| "body of the frame is not snappy")
}

/// What the first frame of a file says; it is the same in all files of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Start of the window in milliseconds, or `None` for the table of late samples.
    pub window_start: Option<i64>,
    /// Length of windows in milliseconds.
    pub window_ms: i64,
    /// Shards that series are numbered in.
    pub n_shards: u32,
    /// Number of the segment, 0 in the file of definitions.
    pub segment: u32,
}

/// Version of everything behind the file header.
pub const LOG_VERSION: u32 = 1;
const FILE_HEADER_BYTES: usize = 32;

impl FileHeader {
    /// The body of the first frame: version u32, is late u32, window start i64, window length i64,
    /// shards u32, segment u32.
    pub fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut out = [0; FILE_HEADER_BYTES];
        out[0..4].copy_from_slice(&LOG_VERSION.to_le_bytes());
        out[4..8].copy_from_slice(&u32::from(self.window_start.is_none()).to_le_bytes());
        out[8..16].copy_from_slice(&self.window_start.unwrap_or(0).to_le_bytes());
        out[16..24].copy_from_slice(&self.window_ms.to_le_bytes());
        out[24..28].copy_from_slice(&self.n_shards.to_le_bytes());
        out[28..32].copy_from_slice(&self.segment.to_le_bytes());
        out
    }

    /// Reads the body of the first frame.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] about `file` if it is none of this version.
    pub fn decode(body: &[u8], file: &str) -> Result<Self, StorageError> {
        let bytes: &[u8; FILE_HEADER_BYTES] =
            body.try_into().map_err(|_| StorageError::corrupt(file, "file header has another length"))?;
        let version = u32_at(bytes, 0);
        if version != LOG_VERSION {
            let reason = format!("log version {version}, this program reads {LOG_VERSION}");
            return Err(StorageError::corrupt(file, reason));
        }
        let is_late = u32_at(bytes, 4) != 0;
        Ok(Self {
            window_start: (!is_late).then_some(u64_at(bytes, 8) as i64),
            window_ms: u64_at(bytes, 16) as i64,
            n_shards: u32_at(bytes, 24),
            segment: u32_at(bytes, 28),
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_shows_the_header_of_a_file() {
        let header =
            FileHeader { window_start: Some(7_200_000), window_ms: 7_200_000, n_shards: 4, segment: 1 };
        let kind = FrameKind::FileHeader;
        let frame = FrameHeader { kind, table: 5, counter: 0, synced: SyncedUpTo::default() };
        let mut bytes = Vec::new();
        write_frame(frame, &header.encode(), &mut bytes);
        assert_eq!(crate::format_examples::example("log file header").0, bytes);
        let Parsed::Frame { header: found, body, length } = parse_frame(&bytes) else {
            panic!("the frame does not parse");
        };
        assert_eq!((found, length), (frame, bytes.len()));
        assert_eq!(FileHeader::decode(body, "a file").unwrap(), header);
    }

    #[test]
    fn a_body_that_claims_more_than_snappy_can_make_is_not_allocated_for() {
        // The length of a gigabyte, then nothing.
        assert_eq!(decompress(&[0x80, 0x80, 0x80, 0x80, 0x04]), Err("body of the frame is too large"));
        for raw in [vec![7; 1 << 20], Vec::new(), vec![1], (0..=255).collect()] {
            let body = snap::raw::Encoder::new().compress_vec(&raw).unwrap();
            assert_eq!(decompress(&body).unwrap(), raw);
        }
    }

    #[test]
    fn a_file_of_another_version_is_refused_by_name() {
        let mut body = FileHeader { window_start: None, window_ms: 1, n_shards: 1, segment: 0 }.encode();
        body[0] = 2;
        let error = FileHeader::decode(&body, "defs").unwrap_err();
        assert_eq!(error.to_string(), "corrupt defs: log version 2, this program reads 1");
    }
}
