//! Columns of signed 64-bit integers: what floats become that are exact multiples of a power of ten, and
//! what counts, buckets and timestamps are.
//!
//! A column is `head | divisor? | base | parameter? | residuals`: the head names the predictor, and the
//! residuals are bit-packed ([`pack`](super::pack)) or given to pcodec. All arithmetic wraps, so any
//! integers round-trip. The number of values is not part of the column.

use super::bytes::{Reader, put_signed, put_varint, unzigzag, zigzag};
use super::pack::{BLOCK_LEN, pack, packed_bits, skip_block, unpack, unpack_block};
use super::{ChunkError, Effort, pcodec};

/// Bits 0 to 2 of the head: the predictor.
pub(super) const PREDICTOR_MASK: u8 = 0x07;
/// Bit 3 of the head: all values differ by multiples of a number, which follows.
pub(super) const DIVISOR: u8 = 0x08;

/// What residuals are relative to. The number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Predictor {
    /// The base, which is the least value ("frame of reference").
    Frame = 0,
    /// The value before; zigzag.
    Delta = 1,
    /// The value before and the least difference, the parameter.
    DeltaMin = 2,
    /// The value before and the median difference, the parameter; zigzag.
    DeltaMedian = 3,
    /// The difference before, the first of which is the parameter; zigzag.
    DeltaOfDelta = 4,
    /// Residuals to the base in pcodec's form.
    Pco = 5,
    /// All values are the base.
    Constant = 6,
}

/// Below this many values pcodec's head outweighs what it gains.
const MIN_PCO_LEN: usize = 256;

/// Appends a column of `values`, of which there is at least one.
///
/// # Panics
/// If `values` is empty.
pub fn encode(values: &[i64], effort: Effort, out: &mut Vec<u8>) {
    let at = out.len();
    out.push(0);
    out[at] = encode_body(values, effort, out);
}

/// Appends `count` values of a column to `out`. `bytes` hold the column and nothing else.
///
/// # Errors
/// [`ChunkError`] if they do not.
pub fn decode(bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Result<(), ChunkError> {
    let mut reader = Reader::new(bytes);
    let head = reader.u8()?;
    if head & !(PREDICTOR_MASK | DIVISOR) != 0 {
        return Err(ChunkError("unknown integer column"));
    }
    decode_body(&mut reader, head, count, |value| value, out)
}

/// Appends the values at some positions of a column of `count`, ascending and below it.
///
/// # Errors
/// [`ChunkError`] if `bytes` hold no such column.
pub fn decode_at(
    bytes: &[u8],
    count: usize,
    positions: &[u32],
    out: &mut Vec<i64>,
) -> Result<(), ChunkError> {
    let mut reader = Reader::new(bytes);
    let head = reader.u8()?;
    if head & !(PREDICTOR_MASK | DIVISOR) != 0 {
        return Err(ChunkError("unknown integer column"));
    }
    decode_body_at(&mut reader, head, count, positions, |value| value, out)
}

/// Appends everything behind the head and returns the head.
pub(super) fn encode_body(values: &[i64], effort: Effort, out: &mut Vec<u8>) -> u8 {
    let first = values[0];
    let divisor = common_divisor(values);
    if divisor == 0 {
        put_signed(out, first);
        return Predictor::Constant as u8;
    }
    // Steps from the first value, in units of the divisor.
    let steps: Vec<i64> = match divisor {
        1 => values.iter().map(|value| value.wrapping_sub(first)).collect(),
        _ => values.iter().map(|value| value.wrapping_sub(first) / divisor as i64).collect(),
    };
    let chosen = Choice::best(&steps);
    let at = out.len();
    let mut head = chosen.predictor as u8;
    if divisor > 1 {
        head |= DIVISOR;
        put_varint(out, divisor);
    }
    let after_divisor = out.len();
    put_signed(out, first.wrapping_add(chosen.base.wrapping_mul(divisor as i64)));
    if let Some(parameter) = chosen.parameter {
        put_signed(out, parameter);
    }
    pack(&chosen.residuals, out);

    if effort == Effort::Compact && values.len() >= MIN_PCO_LEN {
        let size_bytes = out.len() - at;
        if let Some(pco) =
            pcodec::encode(&steps, effort).filter(|pco| (pco.len() + 10) * 10 <= size_bytes * 9)
        {
            out.truncate(after_divisor);
            put_signed(out, first);
            out.extend_from_slice(&pco);
            head = head & DIVISOR | Predictor::Pco as u8;
        }
    }
    head
}

/// The greatest number that divides all differences; 0 if there are none.
fn common_divisor(values: &[i64]) -> u64 {
    let mut divisor = 0u64;
    for value in values {
        let step = value.wrapping_sub(values[0]).unsigned_abs();
        if step != 0 && (divisor == 0 || step % divisor != 0) {
            divisor = greatest_common_divisor(step, divisor);
            if divisor == 1 {
                break;
            }
        }
    }
    // i64::MIN alone: its absolute value is no i64 to divide by.
    if divisor > i64::MAX as u64 { 1 } else { divisor }
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A predictor and what it leaves.
struct Choice {
    predictor: Predictor,
    base: i64,
    parameter: Option<i64>,
    residuals: Vec<u64>,
    size_bits: u64,
}

impl Choice {
    fn new(predictor: Predictor, base: i64, parameter: Option<i64>, residuals: Vec<u64>) -> Self {
        let parameter_bits =
            parameter.map_or(0, |parameter| u64::from(64 - zigzag(parameter).leading_zeros()) / 7 * 8 + 8);
        let size_bits = packed_bits(&residuals) + parameter_bits;
        Self { predictor, base, parameter, residuals, size_bits }
    }

    /// The smallest. `steps` start with 0 and hold something else.
    fn best(steps: &[i64]) -> Self {
        let least = steps.iter().copied().min().unwrap_or(0);
        let frame = steps.iter().map(|step| step.wrapping_sub(least) as u64).collect();
        let mut best = Self::new(Predictor::Frame, least, None, frame);
        let mut offer = |choice: Self| {
            if choice.size_bits < best.size_bits {
                best = choice;
            }
        };

        let deltas: Vec<i64> = steps.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        let zigzags = deltas.iter().map(|&delta| zigzag(delta)).collect();
        offer(Self::new(Predictor::Delta, 0, None, zigzags));

        let least = deltas.iter().copied().min().unwrap_or(0);
        let above = deltas.iter().map(|delta| delta.wrapping_sub(least) as u64).collect();
        offer(Self::new(Predictor::DeltaMin, 0, Some(least), above));

        let mut sorted = deltas.clone();
        let (_, &mut median, _) = sorted.select_nth_unstable(deltas.len() / 2);
        // Around 0 it is the plain difference, around the least one the difference above it.
        if median != 0 && median != least {
            let around = deltas.iter().map(|delta| zigzag(delta.wrapping_sub(median))).collect();
            offer(Self::new(Predictor::DeltaMedian, 0, Some(median), around));
        }

        let second = deltas.windows(2).map(|pair| zigzag(pair[1].wrapping_sub(pair[0]))).collect();
        offer(Self::new(Predictor::DeltaOfDelta, 0, Some(deltas[0]), second));
        best
    }
}

/// Appends `count` values, each through `map`, from everything behind the head.
pub(super) fn decode_body<T>(
    reader: &mut Reader<'_>,
    head: u8,
    count: usize,
    map: impl Fn(i64) -> T,
    out: &mut Vec<T>,
) -> Result<(), ChunkError> {
    if count == 0 {
        return Err(ChunkError("a column without values"));
    }
    let divisor = if head & DIVISOR == 0 { 1 } else { reader.varint()? as i64 };
    let base = reader.signed()?;
    let scaled = |residual: i64| residual.wrapping_mul(divisor);
    out.reserve(count);
    match head & PREDICTOR_MASK {
        p if p == Predictor::Constant as u8 => {
            out.extend((0..count).map(|_| map(base)));
        }
        p if p == Predictor::Frame as u8 => {
            unpack(reader, count, |block| {
                out.extend(block.iter().map(|&r| map(base.wrapping_add(scaled(r as i64)))));
            })?;
        }
        p if p == Predictor::Delta as u8 => {
            sum(reader, base, count, |r| scaled(unzigzag(r)), map, out)?;
        }
        p if p == Predictor::DeltaMin as u8 => {
            let least = reader.signed()?;
            sum(reader, base, count, |r| scaled(least.wrapping_add(r as i64)), map, out)?;
        }
        p if p == Predictor::DeltaMedian as u8 => {
            let median = reader.signed()?;
            sum(reader, base, count, |r| scaled(median.wrapping_add(unzigzag(r))), map, out)?;
        }
        p if p == Predictor::DeltaOfDelta as u8 => {
            let mut delta = reader.signed()?;
            let mut value = base;
            out.push(map(value));
            if count > 1 {
                value = value.wrapping_add(scaled(delta));
                out.push(map(value));
            }
            unpack(reader, count.saturating_sub(2), |block| {
                out.extend(block.iter().map(|&r| {
                    delta = delta.wrapping_add(unzigzag(r));
                    value = value.wrapping_add(scaled(delta));
                    map(value)
                }));
            })?;
        }
        p if p == Predictor::Pco as u8 => {
            let mut steps: Vec<i64> = Vec::new();
            pcodec::decode(reader.take(reader.rest().len())?, count, &mut steps)?;
            out.extend(steps.iter().map(|&step| map(base.wrapping_add(scaled(step)))));
        }
        _ => return Err(ChunkError("unknown predictor of an integer column")),
    }
    reader.end()
}

/// The fused loop: unpack a block, add up, map.
#[inline]
fn sum<T>(
    reader: &mut Reader<'_>,
    base: i64,
    count: usize,
    delta: impl Fn(u64) -> i64,
    map: impl Fn(i64) -> T,
    out: &mut Vec<T>,
) -> Result<(), ChunkError> {
    let mut value = base;
    out.push(map(value));
    unpack(reader, count - 1, |block| {
        out.extend(block.iter().map(|&residual| {
            value = value.wrapping_add(delta(residual));
            map(value)
        }));
    })
}

/// Appends the values at some positions, ascending and below `count`, each through `map`, from everything
/// behind the head. What lies behind the last of them is not looked at, what lies before no more than the
/// predictor needs: nothing where values are relative to the base, the sum of the residuals otherwise.
pub(super) fn decode_body_at<T>(
    reader: &mut Reader<'_>,
    head: u8,
    count: usize,
    positions: &[u32],
    map: impl Fn(i64) -> T,
    out: &mut Vec<T>,
) -> Result<(), ChunkError> {
    debug_assert!(positions.is_sorted() && positions.last().is_none_or(|&last| (last as usize) < count));
    if count == 0 {
        return Err(ChunkError("a column without values"));
    }
    let divisor = if head & DIVISOR == 0 { 1 } else { reader.varint()? as i64 };
    let base = reader.signed()?;
    let scaled = |residual: i64| residual.wrapping_mul(divisor);
    match head & PREDICTOR_MASK {
        p if p == Predictor::Constant as u8 => {
            out.extend(positions.iter().map(|_| map(base)));
            Ok(())
        }
        p if p == Predictor::Frame as u8 => {
            let mut at_block = 0;
            for wanted in positions.chunk_by(|a, b| *a as usize / BLOCK_LEN == *b as usize / BLOCK_LEN) {
                let number = wanted[0] as usize / BLOCK_LEN;
                for _ in at_block..number {
                    skip_block(reader)?;
                }
                at_block = number + 1;
                let mut block = [0; BLOCK_LEN];
                unpack_block(reader, &mut block[..(count - number * BLOCK_LEN).min(BLOCK_LEN)])?;
                let residuals = wanted.iter().map(|&at| block[at as usize % BLOCK_LEN] as i64);
                out.extend(residuals.map(|residual| map(base.wrapping_add(scaled(residual)))));
            }
            Ok(())
        }
        p if p == Predictor::Delta as u8 => {
            fold_at(reader, (0, base), count, positions, |r| scaled(unzigzag(r)), map, out)
        }
        p if p == Predictor::DeltaMin as u8 => {
            let least = reader.signed()?;
            let step = |r: u64| scaled(least.wrapping_add(r as i64));
            fold_at(reader, (0, base), count, positions, step, map, out)
        }
        p if p == Predictor::DeltaMedian as u8 => {
            let median = reader.signed()?;
            let step = |r: u64| scaled(median.wrapping_add(unzigzag(r)));
            fold_at(reader, (0, base), count, positions, step, map, out)
        }
        p if p == Predictor::DeltaOfDelta as u8 => {
            // The difference before the first residual; without residuals it is not used.
            let mut delta = reader.signed()?;
            let first = positions.iter().take_while(|&&at| at == 0).count();
            out.extend(positions[..first].iter().map(|_| map(base)));
            let second = base.wrapping_add(scaled(delta));
            let step = |residual: u64| {
                delta = delta.wrapping_add(unzigzag(residual));
                scaled(delta)
            };
            fold_at(reader, (1, second), count, &positions[first..], step, map, out)
        }
        p if p == Predictor::Pco as u8 => {
            let mut steps: Vec<i64> = Vec::new();
            pcodec::decode(reader.take(reader.rest().len())?, count, &mut steps)?;
            out.extend(positions.iter().map(|&at| map(base.wrapping_add(scaled(steps[at as usize])))));
            Ok(())
        }
        _ => Err(ChunkError("unknown predictor of an integer column")),
    }
}

/// Adds up residuals from the value at position `start.0` on and appends the values at `positions`, none of
/// which lies before it. Ends with the last of them.
#[inline]
fn fold_at<T>(
    reader: &mut Reader<'_>,
    start: (usize, i64),
    count: usize,
    positions: &[u32],
    mut step: impl FnMut(u64) -> i64,
    map: impl Fn(i64) -> T,
    out: &mut Vec<T>,
) -> Result<(), ChunkError> {
    let (mut at, mut value) = start;
    let mut rest = positions;
    let mut block = [0; BLOCK_LEN];
    loop {
        // `value` is at position `at`.
        let here = rest.iter().take_while(|&&position| position as usize == at).count();
        out.extend(rest[..here].iter().map(|_| map(value)));
        rest = &rest[here..];
        if rest.is_empty() {
            return Ok(());
        }
        let block = &mut block[..(count - 1 - at).min(BLOCK_LEN)];
        unpack_block(reader, block)?;
        let mut done = 0;
        while let Some(&position) = rest.first()
            && (position as usize) <= at + block.len()
        {
            let upto = position as usize - at;
            value =
                block[done..upto].iter().fold(value, |value, &residual| value.wrapping_add(step(residual)));
            done = upto;
            out.push(map(value));
            rest = &rest[1..];
        }
        if rest.is_empty() {
            return Ok(());
        }
        value = block[done..].iter().fold(value, |value, &residual| value.wrapping_add(step(residual)));
        at += block.len();
    }
}

/// The value that all have, if the head says so.
pub(super) fn constant_body(reader: &mut Reader<'_>, head: u8) -> Option<i64> {
    (head & PREDICTOR_MASK == Predictor::Constant as u8 && head & DIVISOR == 0)
        .then(|| reader.signed().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(values: &[i64]) -> usize {
        let mut size = 0;
        for effort in [Effort::Seal, Effort::Compact] {
            let mut bytes = Vec::new();
            encode(values, effort, &mut bytes);
            let mut decoded = vec![9];
            decode(&bytes, values.len(), &mut decoded).expect("as encoded");
            assert_eq!(&decoded[1..], values);
            check_positions(&bytes, values);
            size = bytes.len();
        }
        size
    }

    /// Some values of a column are those of the whole column, whichever they are.
    fn check_positions(bytes: &[u8], values: &[i64]) {
        let count = values.len() as u32;
        let each = (0..count).map(|at| vec![at]);
        let spread = [1, 2, 3, 100, 127, 128, 129].map(|step| (0..count).step_by(step).collect());
        for positions in each.chain(spread).chain([(0..count).rev().step_by(130).collect::<Vec<_>>()]) {
            let mut positions = positions;
            positions.sort_unstable();
            let mut reader = Reader::new(&bytes[1..]);
            let mut chosen = Vec::new();
            decode_body_at(&mut reader, bytes[0], values.len(), &positions, |value| value, &mut chosen)
                .expect("as encoded");
            let expected: Vec<i64> = positions.iter().map(|&at| values[at as usize]).collect();
            assert_eq!(chosen, expected, "{positions:?}");
        }
    }

    #[test]
    fn each_predictor_is_chosen_where_it_is_the_smallest() {
        let predictor = |values: &[i64]| {
            let mut bytes = Vec::new();
            encode(values, Effort::Seal, &mut bytes);
            check(values);
            bytes[0]
        };
        let noise = |i: i64| ((i * i * i * 7919) >> 3) % 13;
        assert_eq!(predictor(&[5; 100]), Predictor::Constant as u8);
        let head = |next: &dyn Fn(i64) -> i64| predictor(&(0..100).map(next).collect::<Vec<_>>());
        assert_eq!(head(&|i| 1_000_000 + noise(i)), Predictor::Frame as u8);
        assert_eq!(head(&|i| i * 4000 + noise(i)) & PREDICTOR_MASK, Predictor::DeltaMin as u8);
        assert_eq!(head(&|i| i * i * 50 + i) & PREDICTOR_MASK, Predictor::DeltaOfDelta as u8);
        assert_eq!(head(&|i| noise(i) * 4096) & DIVISOR, DIVISOR);
        assert!(check(&(0..120).map(|i| i * 15_000).collect::<Vec<_>>()) <= 8);
    }

    #[test]
    fn extreme_integers_round_trip() {
        check(&[i64::MIN]);
        check(&[i64::MIN, i64::MAX]);
        check(&[0, i64::MIN]);
        check(&[i64::MAX, i64::MIN, 0, -1, 1, i64::MAX]);
        check(&[i64::MIN; 3]);
    }

    proptest! {
        #[test]
        fn any_integers_round_trip(
            values in prop::collection::vec((any::<i64>(), 0u32..64), 1..600),
            factor in 1i64..1000,
        ) {
            let values: Vec<i64> = values.iter().map(|&(v, s)| (v >> s).wrapping_mul(factor)).collect();
            check(&values);
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), count in 0usize..300) {
            let _ = decode(&bytes, count, &mut Vec::new());
            let head = bytes.first().copied().unwrap_or(0);
            let positions: Vec<u32> = (0..count as u32).step_by(3).collect();
            let rest = &mut Reader::new(bytes.get(1..).unwrap_or(&[]));
            let _ = decode_body_at(rest, head, count, &positions, |value| value, &mut Vec::new());
        }
    }
}
