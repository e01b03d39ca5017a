//! The appending form of float values: what an open table holds per series, at most some hundred
//! samples, in an [`Arena`] of its shard. Nothing of it reaches the disk.
//!
//! Each value is written as its difference to the one before, bit by bit, lowest bit first:
//!
//! | code | meaning | then |
//! |---|---|---|
//! | `0` | the same bits again | |
//! | `10` | whole numbers of the scale: zigzag of the difference | 3 bits width class, the difference |
//! | `110` | XOR with the value before, window as last time | the bits of the window |
//! | `1110` | XOR with a new window | 6 bits leading zeros, 6 bits length - 1, the bits |
//! | `1110` | a new scale, no value | 6 bits of ones, 6 bits scale (1 and more) |
//! | `1111` | the same bits again, several times | 8 bits count - 1 |
//!
//! The scale is how many decimals values are taken with before they count as whole numbers: 0 first, and
//! more as soon as values need them. Seconds and ratios have two or three, and as decimals they take a
//! fifth of what XOR needs. A window with 63 leading zeros has length 1, which leaves the code for it.
//!
//! The value before the first counts as 0.0. Repetitions wait in the [`OpenChunk`] until something else
//! comes, so a constant series (two thirds of what real exporters send) takes no arena at all.
//!
//! The sizes of blocks double from 16 to 128 bytes; each links back to the one before, so that a chunk
//! grows without being copied and an append touches one cache line or two.

use crate::prefetch::prefetch;

/// Bytes of the blocks of a chunk: first, second, third, and all that follow.
const BLOCK_BYTES: [u16; 4] = [16, 32, 64, 128];
/// Each block starts with the place of the block before it.
const LINK_BYTES: u16 = 4;
/// Places count in this unit: 2^32 of them are 64 GiB a shard.
const PLACE_UNIT: usize = 16;
/// Memory is taken from the allocator in pages of this size.
const PAGE_BYTES: usize = 64 * 1024;
/// Bits are written as 64-bit words at any byte, so that a write near the end of a page reaches over.
const PAGE_SLACK_BYTES: usize = 16;
/// Widths of whole-number differences after zigzag. A difference of zero is a repetition, so one bit
/// would only serve -1.
const DELTA_WIDTHS: [u32; 8] = [2, 4, 7, 10, 14, 20, 32, 54];
/// Beyond this not every whole number is a float.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;
/// Powers of ten by scale; all are floats without an error.
const POWERS: [f64; 7] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
/// How often a chunk looks for a scale in vain: full mantissas must not pay for it at every value.
const MAX_MISSES: u8 = 4;
/// Leading zeros that stand for a new scale.
const SCALE_MARK: u32 = 63;

/// Memory of the open chunks of one shard of one table. It is given back as a whole.
#[derive(Debug, Default)]
pub struct Arena {
    pages: Vec<Box<[u8; PAGE_BYTES + PAGE_SLACK_BYTES]>>,
    /// Bytes taken of the last page.
    used: usize,
}

impl Arena {
    /// An arena without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Memory taken from the allocator.
    pub fn size_bytes(&self) -> usize {
        self.pages.len() * (PAGE_BYTES + PAGE_SLACK_BYTES)
    }

    /// A zeroed block; returns its place.
    fn allocate(&mut self, size_bytes: usize) -> u32 {
        if self.pages.is_empty() || self.used + size_bytes > PAGE_BYTES {
            let page = vec![0u8; PAGE_BYTES + PAGE_SLACK_BYTES].into_boxed_slice();
            self.pages.push(page.try_into().expect("the page has this size"));
            self.used = 0;
        }
        let place = ((self.pages.len() - 1) * PAGE_BYTES + self.used) / PLACE_UNIT;
        self.used += size_bytes;
        u32::try_from(place).expect("a shard holds less than 64 GiB of open values")
    }

    /// The bytes from a place to the end of its page.
    fn at(&self, place: u32) -> &[u8] {
        let offset = place as usize * PLACE_UNIT;
        &self.pages[offset / PAGE_BYTES][offset % PAGE_BYTES..]
    }

    fn at_mut(&mut self, place: u32) -> &mut [u8] {
        let offset = place as usize * PLACE_UNIT;
        &mut self.pages[offset / PAGE_BYTES][offset % PAGE_BYTES..]
    }
}

/// What a chunk can hold. Even if each took 64 bits and a new window, the blocks could be counted.
pub const MAX_VALUES: usize = u16::MAX as usize;

/// The open values of one series: 24 bytes, plus blocks in the arena that every call gets.
// Invariant: `bits` counts the bits used of block `n_blocks - 1`, behind its link; blocks are zero
// behind them. `n_pending` repetitions of `last` are not written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenChunk {
    last_bits: u64,
    block: u32,
    n_values: u16,
    n_pending: u16,
    bits: u16,
    n_blocks: u16,
    leading: u8,
    length: u8,
    scale: u8,
    misses: u8,
}

impl Default for OpenChunk {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenChunk {
    /// A chunk without values.
    pub const fn new() -> Self {
        Self {
            last_bits: 0,
            block: 0,
            n_values: 0,
            n_pending: 0,
            bits: 0,
            n_blocks: 0,
            leading: 0,
            length: 0,
            scale: 0,
            misses: 0,
        }
    }

    /// How many values it holds.
    pub const fn len(&self) -> usize {
        self.n_values as usize
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.n_values == 0
    }

    /// Whether no more can be pushed: after [`MAX_VALUES`] of them.
    pub const fn is_full(&self) -> bool {
        self.n_values == u16::MAX
    }

    /// The newest value, bit for bit.
    pub const fn last(&self) -> Option<f64> {
        if self.n_values == 0 { None } else { Some(f64::from_bits(self.last_bits)) }
    }

    /// The one value that all samples have, if it is so (and cheaply known).
    pub const fn constant(&self) -> Option<f64> {
        // Codes are written from the first change on.
        if self.n_values > 0 && self.n_blocks == 0 { Some(f64::from_bits(self.last_bits)) } else { None }
    }

    /// Bytes of the arena that it occupies.
    pub fn arena_bytes(&self) -> usize {
        (0..self.n_blocks).map(|index| usize::from(block_bytes(index))).sum()
    }

    /// Asks for the memory to which these bits are written if they are the next value. Nothing is, for a repetition.
    #[inline]
    pub fn prefetch(&self, arena: &Arena, bits: u64) {
        let offset = self.block as usize * PLACE_UNIT;
        // Without a block it is some other place: to ask for it in vain costs less than to guess.
        if bits != self.last_bits
            && let Some(page) = arena.pages.get(offset / PAGE_BYTES)
        {
            prefetch(&page[offset % PAGE_BYTES + usize::from(LINK_BYTES + self.bits / 8)]);
        }
    }

    /// Appends a value.
    ///
    /// # Panics
    /// If the chunk [`is_full`](Self::is_full), or `arena` is not the one of all calls before.
    #[inline]
    pub fn push(&mut self, arena: &mut Arena, value: f64) {
        let bits = value.to_bits();
        // A first value needs no code: until another one comes, the chunk is a constant.
        if bits == self.last_bits && self.n_values > 0 && !self.is_full() {
            self.n_pending += 1;
            self.n_values += 1;
            return;
        }
        self.push_other(arena, bits);
    }

    fn push_other(&mut self, arena: &mut Arena, bits: u64) {
        assert!(!self.is_full(), "the open chunk is full");
        if self.n_values == 0 {
            self.last_bits = bits;
            self.n_values = 1;
            return;
        }
        if self.n_blocks == 0 {
            // The constant ends here: now its value is written, in front of its repetitions.
            let constant = self.last_bits;
            self.last_bits = 0;
            self.write_difference(arena, constant);
        }
        self.write_pending(arena);
        self.write_difference(arena, bits);
        self.n_values += 1;
    }

    /// Writes what leads from `last_bits` to `bits`.
    fn write_difference(&mut self, arena: &mut Arena, bits: u64) {
        let before = std::mem::replace(&mut self.last_bits, bits);
        if bits == before {
            self.write(arena, 0, 1);
            return;
        }
        if self.write_delta(arena, before, bits, self.scale) {
            return;
        }
        if self.misses < MAX_MISSES {
            for scale in self.scale + 1..POWERS.len() as u8 {
                if scaled(bits, scale).is_some() && scaled(before, scale).is_some() {
                    let mark = 0b0111 | u64::from(SCALE_MARK) << 4 | u64::from(scale) << 10;
                    self.write(arena, mark, 16);
                    self.scale = scale;
                    if self.write_delta(arena, before, bits, scale) {
                        return;
                    }
                    break;
                }
            }
            self.misses += 1;
        }
        let xor = bits ^ before;
        let (leading, trailing) = (xor.leading_zeros() as u8, xor.trailing_zeros() as u8);
        let window_end = self.leading + self.length;
        // A window much wider than needed costs more, over the chunk, than a new one.
        let needed = 64 - leading - trailing;
        if self.length > 0
            && leading >= self.leading
            && 64 - trailing <= window_end
            && self.length <= needed + 12
        {
            self.write(arena, 0b011, 3);
        } else {
            (self.leading, self.length) = (leading, needed);
            let head = 0b0111 | u64::from(leading) << 4 | u64::from(needed - 1) << 10;
            self.write(arena, head, 16);
        }
        self.write(arena, xor >> (64 - self.leading - self.length), u32::from(self.length));
    }

    /// Writes the difference of whole numbers of a scale. False if there is none of these.
    #[inline]
    fn write_delta(&mut self, arena: &mut Arena, before: u64, bits: u64, scale: u8) -> bool {
        let (Some(from), Some(to)) = (scaled(before, scale), scaled(bits, scale)) else { return false };
        let delta = to - from;
        let zigzag = ((delta << 1) ^ (delta >> 63)) as u64;
        let needed = 64 - zigzag.leading_zeros();
        let Some(class) = DELTA_WIDTHS.iter().position(|&width| needed <= width) else { return false };
        self.write(arena, 0b01 | (class as u64) << 2 | zigzag << 5, 5 + DELTA_WIDTHS[class]);
        true
    }

    fn write_pending(&mut self, arena: &mut Arena) {
        while self.n_pending > 0 {
            if self.n_pending > 12 {
                let count = self.n_pending.min(256);
                self.write(arena, 0b1111 | u64::from(count - 1) << 4, 12);
                self.n_pending -= count;
            } else {
                self.write(arena, 0, u32::from(self.n_pending));
                self.n_pending = 0;
            }
        }
    }

    /// Appends the lowest `count` bits of `bits`; those above are zero.
    #[inline]
    fn write(&mut self, arena: &mut Arena, mut bits: u64, mut count: u32) {
        loop {
            let room = if self.n_blocks == 0 { 0 } else { capacity_bits(self.n_blocks - 1) - self.bits };
            let fits = count.min(u32::from(room));
            if fits > 0 {
                let position = usize::from(self.bits);
                let block = &mut arena.at_mut(self.block)[usize::from(LINK_BYTES) + position / 8..];
                or_bits(block, position % 8, bits & low_mask(fits), fits);
                self.bits += fits as u16;
            }
            count -= fits;
            if count == 0 {
                return;
            }
            bits = bits.checked_shr(fits).unwrap_or(0);
            self.grow(arena);
        }
    }

    #[cold]
    fn grow(&mut self, arena: &mut Arena) {
        let place = arena.allocate(usize::from(block_bytes(self.n_blocks)));
        arena.at_mut(place)[..usize::from(LINK_BYTES)].copy_from_slice(&self.block.to_le_bytes());
        self.block = place;
        self.n_blocks += 1;
        self.bits = 0;
    }

    /// Appends all values to `out`, oldest first.
    ///
    /// # Panics
    /// If `arena` is not the one the values were pushed to.
    pub fn decode(&self, arena: &Arena, out: &mut Vec<f64>) {
        out.reserve(self.len());
        if self.n_blocks > 0 {
            let n_written = self.len() - usize::from(self.n_pending);
            let (n, last) = self.decode_written(arena, n_written, |value, count| {
                out.extend(std::iter::repeat_n(f64::from_bits(value), count));
            });
            assert_eq!(n, n_written, "the codes of an open chunk end with its values");
            assert_eq!(last, self.last_bits, "an open chunk decodes to what was pushed");
        }
        let n_left = if self.n_blocks == 0 { self.len() } else { usize::from(self.n_pending) };
        out.extend(std::iter::repeat_n(f64::from_bits(self.last_bits), n_left));
    }

    /// Appends the values at `positions`, ascending and below [`len`](Self::len). The newest value and its
    /// repetitions are known without decoding, and what lies behind the last position is not decoded.
    ///
    /// # Panics
    /// If `arena` is not the one the values were pushed to.
    pub fn decode_at(&self, arena: &Arena, positions: &[u32], out: &mut Vec<f64>) {
        let n_known = if self.n_blocks == 0 { self.len() } else { usize::from(self.n_pending) + 1 };
        let first_known = self.len() - n_known;
        let n_decoded = positions.partition_point(|&position| (position as usize) < first_known);
        let (decoded, known) = positions.split_at(n_decoded);
        if let Some(&newest) = decoded.last() {
            let (mut n, mut rest) = (0, decoded);
            self.decode_written(arena, newest as usize + 1, |value, count| {
                n += count;
                while let Some((_, behind)) =
                    rest.split_first().filter(|(position, _)| (**position as usize) < n)
                {
                    out.push(f64::from_bits(value));
                    rest = behind;
                }
            });
        }
        out.extend(known.iter().map(|_| f64::from_bits(self.last_bits)));
    }

    /// Decodes the first `n_wanted` values that are written, or some more: calls `sink` with bits and how
    /// often they repeat. Gives the number and the bits of the last.
    fn decode_written(
        &self,
        arena: &Arena,
        n_wanted: usize,
        mut sink: impl FnMut(u64, usize),
    ) -> (usize, u64) {
        let mut reader = BitReader::new(self, arena);
        let (mut last, mut leading, mut length, mut scale) = (0u64, 0u32, 0u32, 0u8);
        let mut n = 0;
        while n < n_wanted {
            let mut repeat = 1;
            if reader.bit() {
                if !reader.bit() {
                    let width = DELTA_WIDTHS[reader.bits(3) as usize];
                    let zigzag = reader.bits(width);
                    let delta = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
                    let before =
                        scaled(last, scale).expect("only whole numbers of the scale are differences");
                    last = ((before + delta) as f64 / POWERS[usize::from(scale)]).to_bits();
                } else if !reader.bit() {
                    last ^= reader.bits(length) << (64 - leading - length);
                } else if !reader.bit() {
                    let (head, tail) = (reader.bits(6) as u32, reader.bits(6));
                    if head == SCALE_MARK && tail > 0 {
                        scale = tail as u8;
                        continue;
                    }
                    (leading, length) = (head, tail as u32 + 1);
                    last ^= reader.bits(length) << (64 - leading - length);
                } else {
                    repeat = reader.bits(8) as usize + 1;
                }
            }
            sink(last, repeat);
            n += repeat;
        }
        (n, last)
    }
}

/// Reads the blocks of a chunk as one stream of bits.
struct BitReader<'a> {
    arena: &'a Arena,
    places: Vec<u32>,
    block_index: usize,
    position: u32,
    capacity: u32,
}

impl<'a> BitReader<'a> {
    fn new(chunk: &OpenChunk, arena: &'a Arena) -> Self {
        let mut places = vec![0; usize::from(chunk.n_blocks)];
        let mut place = chunk.block;
        for slot in places.iter_mut().rev() {
            *slot = place;
            let link = arena.at(place).first_chunk().expect("a block holds its link");
            place = u32::from_le_bytes(*link);
        }
        Self { arena, places, block_index: 0, position: 0, capacity: u32::from(capacity_bits(0)) }
    }

    #[inline]
    fn bit(&mut self) -> bool {
        self.bits(1) != 0
    }

    #[inline]
    fn bits(&mut self, count: u32) -> u64 {
        if self.position + count <= self.capacity {
            return self.read(count);
        }
        let n_low = self.capacity - self.position;
        let low = self.read(n_low);
        self.block_index += 1;
        self.position = 0;
        self.capacity = u32::from(capacity_bits(u16::try_from(self.block_index).unwrap_or(u16::MAX)));
        // A code has 64 bits at most and later blocks are larger, so this recurs once.
        low | self.bits(count - n_low).checked_shl(n_low).unwrap_or(0)
    }

    #[inline]
    fn read(&mut self, count: u32) -> u64 {
        if count == 0 {
            return 0;
        }
        let at = usize::from(LINK_BYTES) + self.position as usize / 8;
        let block = &self.arena.at(self.places[self.block_index])[at..];
        let shift = self.position % 8;
        self.position += count;
        let low = u64::from_le_bytes(*block.first_chunk().expect("a page has slack")) >> shift;
        let high = if shift + count > 64 { u64::from(block[8]) << (64 - shift) } else { 0 };
        (low | high) & low_mask(count)
    }
}

/// Sets `count` bits (1 to 64) at bit `shift` of `block`; they are zero before.
#[inline]
fn or_bits(block: &mut [u8], shift: usize, bits: u64, count: u32) {
    let word: &mut [u8; 8] = block.first_chunk_mut().expect("a page has slack");
    *word = (u64::from_le_bytes(*word) | bits << shift).to_le_bytes();
    if shift + count as usize > 64 {
        block[8] |= (bits >> (64 - shift)) as u8;
    }
}

/// The whole number that these are the bits of, if they are: -0.0 is none.
#[inline]
fn whole(bits: u64) -> Option<i64> {
    let value = f64::from_bits(bits);
    let number = value as i64;
    ((number as f64).to_bits() == bits && value.abs() <= MAX_WHOLE).then_some(number)
}

/// The whole number that these are the bits of, times ten to `scale`, if that loses nothing.
#[inline]
fn scaled(bits: u64, scale: u8) -> Option<i64> {
    if scale == 0 {
        return whole(bits);
    }
    let power = POWERS[usize::from(scale)];
    let value = f64::from_bits(bits) * power;
    // Rounds without a call: what it gives is checked, whatever it is.
    let number = (value + 0.5_f64.copysign(value)) as i64;
    ((number as f64 / power).to_bits() == bits && value.abs() <= MAX_WHOLE).then_some(number)
}

const fn block_bytes(index: u16) -> u16 {
    BLOCK_BYTES[if index < 3 { index as usize } else { 3 }]
}

const fn capacity_bits(index: u16) -> u16 {
    (block_bytes(index) - LINK_BYTES) * 8
}

const fn low_mask(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

const _: () = assert!(size_of::<OpenChunk>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_model::sample::{NORMAL_NAN_BITS, stale_nan};
    use proptest::prelude::*;

    fn check(values: &[f64]) -> usize {
        let mut arena = Arena::new();
        // A neighbour grows between the values, as in a table.
        let (mut chunk, mut neighbour) = (OpenChunk::new(), OpenChunk::new());
        for (index, &value) in values.iter().enumerate() {
            chunk.push(&mut arena, value);
            neighbour.push(&mut arena, 1.0 / (index + 1) as f64);
            assert_eq!(chunk.last().map(f64::to_bits), Some(value.to_bits()));
        }
        let mut decoded = vec![42.0];
        chunk.decode(&arena, &mut decoded);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&decoded[1..]), bits(values));
        assert_eq!(chunk.len(), values.len());
        for step in [1, 2, 7, 60, values.len().max(1)] {
            let positions: Vec<u32> = (0..values.len() as u32).rev().step_by(step).collect::<Vec<_>>();
            let positions: Vec<u32> = positions.into_iter().rev().collect();
            let mut some = vec![42.0];
            chunk.decode_at(&arena, &positions, &mut some);
            let expected: Vec<f64> = positions.iter().map(|&at| values[at as usize]).collect();
            assert_eq!(bits(&some[1..]), bits(&expected));
        }
        if let Some(constant) = chunk.constant() {
            assert!(values.iter().all(|value| value.to_bits() == constant.to_bits()));
        }
        chunk.arena_bytes()
    }

    #[test]
    fn values_come_back_bit_for_bit() {
        let odd = [
            0.0,
            -0.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            stale_nan(),
            f64::from_bits(NORMAL_NAN_BITS),
            f64::MAX,
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            MAX_WHOLE,
            -MAX_WHOLE,
            0.1,
            -1.0,
            u64::MAX as f64,
        ];
        check(&[]);
        for &a in &odd {
            check(&[a]);
            for &b in &odd {
                check(&[a, b]);
                check(&[a, a, b, b, a]);
            }
        }
        check(&odd);
    }

    #[test]
    fn a_constant_series_takes_no_arena() {
        assert_eq!(check(&[17.5; 120]), 0);
        assert_eq!(check(&[0.0; 120]), 0);
    }

    #[test]
    fn long_repetitions_before_a_change_stay_small() {
        let mut values = vec![3.0; 1000];
        values.push(4.0);
        assert!(check(&values) <= 48);
        check(&[vec![1.5; 20_000], vec![2.5; 20_000]].concat());
    }

    #[test]
    fn usual_classes_take_what_the_memory_budget_allows() {
        let mut state = 1u64;
        let mut random = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        let mut total = 0.0;
        let counter: Vec<f64> = (0..120)
            .map(|_| {
                total += random(150) as f64;
                total
            })
            .collect();
        assert!(check(&counter) <= 112 + 128, "{}", check(&counter));
        let slow: Vec<f64> = (0..120).map(|i| (i / 15) as f64).collect();
        assert!(check(&slow) <= 48);
        let seconds: Vec<f64> = (0..120).map(|i| (1_234_567 + i * 37) as f64 / 100.0).collect();
        assert!(check(&seconds) <= 112 + 128, "{}", check(&seconds));
        let ratios: Vec<f64> = (0..120).map(|i| f64::from(i * 37 % 100) / 100.0).collect();
        assert!(check(&ratios) <= 112 + 128, "{}", check(&ratios));
    }

    proptest! {
        #[test]
        fn any_bits_round_trip(
            seeds in prop::collection::vec((0u8..8, any::<u64>(), 1usize..20), 0..120)
        ) {
            let mut values = Vec::new();
            for (class, bits, repeat) in seeds {
                let value = match class {
                    0 => f64::from_bits(bits),
                    1 => (bits % 1000) as f64,
                    2 => (bits as i64 >> 20) as f64,
                    3 => (bits % 10_000) as f64 / 100.0,
                    4 => -((bits >> 11) as f64) / POWERS[(bits % 7) as usize],
                    5 => (bits % 100_000_000) as f64 * 1e-7,
                    _ => values.last().copied().unwrap_or(1.0),
                };
                values.extend(std::iter::repeat_n(value, repeat));
            }
            check(&values);
        }
    }
}
