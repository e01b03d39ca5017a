//! Patched bit-packing of unsigned integers in blocks of 128.
//!
//! A block is: head (width 0 to 64, high bit: patched); if patched, the number of patches and the width
//! of what they add; the low bits of all values; if patched, positions and high bits of the patches.
//! Full blocks of at most 32 bits are in the four-lane layout of the crate bitpacking, which unpacks
//! several values per nanosecond; a shorter last block, and wider ones, are one stream of bits, lowest
//! first, so that 119 deltas of a usual chunk are not padded to 128.

use super::ChunkError;
use super::bytes::Reader;
use bitpacking::{BitPacker, BitPacker4x};

/// Values of a full block.
pub const BLOCK_LEN: usize = BitPacker4x::BLOCK_LEN;
const PATCHED: u8 = 0x80;
/// Head, number of patches and their width.
const PATCH_HEAD_BITS: u32 = 16;
const POSITION_BITS: u32 = 8;

/// How a block is packed.
#[derive(Clone, Copy)]
struct Shape {
    width: u32,
    n_patches: u32,
    high_width: u32,
    size_bits: u32,
}

impl Shape {
    /// The smallest: every width is tried on the histogram of bit lengths.
    fn of(block: &[u64]) -> Self {
        let mut by_length = [0u32; 65];
        for &value in block {
            by_length[(64 - value.leading_zeros()) as usize] += 1;
        }
        let longest = (0..=64u32).rev().find(|&length| by_length[length as usize] > 0).unwrap_or(0);
        let count = block.len() as u32;
        let mut best = Self { width: longest, n_patches: 0, high_width: 0, size_bits: count * longest };
        let mut n_patches = 0;
        for width in (0..longest).rev() {
            n_patches += by_length[width as usize + 1];
            let high_width = longest - width;
            let size_bits = count * width + PATCH_HEAD_BITS + n_patches * (POSITION_BITS + high_width);
            if size_bits < best.size_bits {
                best = Self { width, n_patches, high_width, size_bits };
            }
        }
        best
    }
}

/// Bits that [`pack`] takes for these values, but for rounding to bytes.
pub(crate) fn packed_bits(values: &[u64]) -> u64 {
    values.chunks(BLOCK_LEN).map(|block| u64::from(Shape::of(block).size_bits) + 8).sum()
}

/// Appends packed `values`. Their number is not part of it.
pub fn pack(values: &[u64], out: &mut Vec<u8>) {
    values.chunks(BLOCK_LEN).for_each(|block| pack_block(block, out));
}

fn pack_block(block: &[u64], out: &mut Vec<u8>) {
    let Shape { width, n_patches, high_width, .. } = Shape::of(block);
    let low = |value: u64| value & low_mask(width);
    out.push(width as u8 | if n_patches > 0 { PATCHED } else { 0 });
    if n_patches > 0 {
        out.extend_from_slice(&[n_patches as u8, high_width as u8]);
    }
    if block.len() == BLOCK_LEN && width <= 32 {
        let mut words = [0u32; BLOCK_LEN];
        for (word, &value) in words.iter_mut().zip(block) {
            *word = low(value) as u32;
        }
        let at = out.len();
        out.resize(at + BitPacker4x::compressed_block_size(width as u8), 0);
        BitPacker4x::new().compress(&words, &mut out[at..], width as u8);
    } else {
        pack_stream(block.iter().map(|&value| low(value)), width, out);
    }
    if n_patches > 0 {
        let patches = || block.iter().enumerate().filter(|&(_, &value)| value > low_mask(width));
        out.extend(patches().map(|(position, _)| position as u8));
        // A patched block is narrower than 64 bits.
        pack_stream(patches().map(|(_, &value)| value >> width), high_width, out);
    }
}

/// Appends values of `width` bits as one stream, lowest bit first, filled up to a byte.
fn pack_stream(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut pending, mut n_pending) = (0u128, 0);
    for value in values {
        pending |= u128::from(value) << n_pending;
        n_pending += width;
        if n_pending >= 64 {
            out.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            n_pending -= 64;
        }
    }
    out.extend_from_slice(&pending.to_le_bytes()[..n_pending.div_ceil(8) as usize]);
}

/// Unpacks `count` values block by block and hands each block to `sink`.
pub(crate) fn unpack(
    reader: &mut Reader<'_>,
    count: usize,
    mut sink: impl FnMut(&[u64]),
) -> Result<(), ChunkError> {
    let mut block = [0u64; BLOCK_LEN];
    let mut left = count;
    while left > 0 {
        let block = &mut block[..left.min(BLOCK_LEN)];
        unpack_block(reader, block)?;
        sink(block);
        left -= block.len();
    }
    Ok(())
}

/// Passes over a whole block without unpacking it.
pub(crate) fn skip_block(reader: &mut Reader<'_>) -> Result<(), ChunkError> {
    let (width, n_patches, high_width) = read_head(reader)?;
    // A full block takes as many bytes in lanes as in one stream.
    let patch_bytes = n_patches + (n_patches * high_width as usize).div_ceil(8);
    reader.take(BLOCK_LEN * width as usize / 8 + patch_bytes).map(|_| ())
}

/// Width of the low bits, number of patches and width of what they add.
fn read_head(reader: &mut Reader<'_>) -> Result<(u32, usize, u32), ChunkError> {
    let head = reader.u8()?;
    let width = u32::from(head & !PATCHED);
    let (n_patches, high_width) =
        if head & PATCHED == 0 { (0, 0) } else { (usize::from(reader.u8()?), u32::from(reader.u8()?)) };
    if width + high_width > 64 {
        return Err(ChunkError("packed integers of more than 64 bits"));
    }
    Ok((width, n_patches, high_width))
}

/// Unpacks one block, as many values as there are.
pub(crate) fn unpack_block(reader: &mut Reader<'_>, block: &mut [u64]) -> Result<(), ChunkError> {
    let (width, n_patches, high_width) = read_head(reader)?;
    if block.len() == BLOCK_LEN && width <= 32 {
        let bytes = reader.take(BitPacker4x::compressed_block_size(width as u8))?;
        let mut words = [0u32; BLOCK_LEN];
        BitPacker4x::new().decompress(bytes, &mut words, width as u8);
        for (value, &word) in block.iter_mut().zip(&words) {
            *value = u64::from(word);
        }
    } else {
        unpack_stream(reader, width, block)?;
    }
    if n_patches > 0 {
        let positions = reader.take(n_patches)?;
        let mut high = [0u64; u8::MAX as usize];
        unpack_stream(reader, high_width, &mut high[..n_patches])?;
        for (&position, &high) in positions.iter().zip(&high) {
            let value =
                block.get_mut(usize::from(position)).ok_or(ChunkError("a patch is outside of its block"))?;
            *value |= high.checked_shl(width).unwrap_or(0);
        }
    }
    Ok(())
}

fn unpack_stream(reader: &mut Reader<'_>, width: u32, values: &mut [u64]) -> Result<(), ChunkError> {
    let bytes = reader.take((values.len() * width as usize).div_ceil(8))?;
    if width == 0 {
        values.fill(0);
        return Ok(());
    }
    let mask = low_mask(width);
    // A value of up to 57 bits lies within the eight bytes from its first on; near the end of the stream, within
    // the last eight.
    if let Some(last) = bytes.len().checked_sub(8).filter(|_| width <= 57) {
        let mut position = 0;
        for value in values {
            let at = (position / 8).min(last);
            let word: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
            *value = u64::from_le_bytes(word) >> (position - at * 8) & mask;
            position += width as usize;
        }
        return Ok(());
    }
    let mut position = 0;
    for value in values {
        *value = read_bits(bytes, position, width) & mask;
        position += width as usize;
    }
    Ok(())
}

/// At least `width` bits from bit `position` on; what lies behind the end of `bytes` is zero.
#[inline]
fn read_bits(bytes: &[u8], position: usize, width: u32) -> u64 {
    let (at, shift) = (position / 8, (position % 8) as u32);
    let Some(word) = bytes[at..].first_chunk() else {
        let mut word = [0; 16];
        word[..bytes.len() - at].copy_from_slice(&bytes[at..]);
        return (u128::from_le_bytes(word) >> shift) as u64;
    };
    let low = u64::from_le_bytes(*word) >> shift;
    if shift + width <= 64 { low } else { low | u64::from(bytes[at + 8]) << (64 - shift) }
}

const fn low_mask(width: u32) -> u64 {
    if width >= 64 { u64::MAX } else { (1 << width) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(values: &[u64]) -> usize {
        let mut bytes = Vec::new();
        pack(values, &mut bytes);
        let mut reader = Reader::new(&bytes);
        let mut unpacked = Vec::new();
        unpack(&mut reader, values.len(), |block| unpacked.extend_from_slice(block)).expect("as packed");
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(unpacked, values);
        let (mut skipped, mut unpacked) = (Reader::new(&bytes), Reader::new(&bytes));
        for _ in 0..values.len() / BLOCK_LEN {
            skip_block(&mut skipped).expect("as packed");
            unpack_block(&mut unpacked, &mut [0; BLOCK_LEN]).expect("as packed");
            assert_eq!(skipped.rest(), unpacked.rest());
        }
        let n_blocks = values.len().div_ceil(BLOCK_LEN) as u64;
        assert!(bytes.len() as u64 * 8 <= packed_bits(values) + n_blocks * 24);
        bytes.len()
    }

    #[test]
    fn every_width_and_length_round_trips() {
        for width in 0..=64 {
            for count in [0, 1, 2, 7, 119, 127, 128, 129, 256, 300] {
                let values: Vec<u64> = (0..count)
                    .map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & low_mask(width))
                    .collect();
                check(&values);
            }
        }
    }

    #[test]
    fn few_large_values_are_patched() {
        let mut values = vec![3; 119];
        values[17] = u64::MAX;
        values[118] = 1 << 40;
        assert!(check(&values) < 55);
        assert_eq!(check(&[0; 128]), 1);
    }

    #[test]
    fn damaged_bytes_never_panic() {
        for count in [5usize, 128, 131] {
            let mut values: Vec<u64> = (0..count as u64).map(|i| i % 7).collect();
            values[3] = 1 << 50;
            let mut bytes = Vec::new();
            pack(&values, &mut bytes);
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let _ = unpack(&mut Reader::new(&damaged), count, |_| ());
            }
            for length in 0..bytes.len() {
                assert!(unpack(&mut Reader::new(&bytes[..length]), count, |_| ()).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn any_values_round_trip(values in prop::collection::vec((any::<u64>(), 0u32..64), 0..400)) {
            check(&values.iter().map(|&(value, shift)| value >> shift).collect::<Vec<_>>());
        }
    }
}
