//! Sealed columns of floats: self-describing bytes, lossless to the bit.
//!
//! Most metrics are whole numbers, or decimals that came from text or from a division by a power of ten.
//! Such a column is stored as integers ([`ints`]) with the scale that gives back exactly the same bits,
//! found by trying; what does not fit (NaN payloads, -0.0, infinities, stray values) is kept verbatim
//! beside it. Full-precision floats go to pcodec.
//!
//! | first byte | column |
//! |---|---|
//! | `0x00` | all values have the 8 bytes that follow (big-endian bits) |
//! | `0x01` | 8 bytes per value |
//! | `0x02` | pcodec |
//! | `0x80` and above | integers: bits 0-3 as in [`ints`], bit 5: a scale follows, bit 6: exceptions follow |

use super::bytes::{Reader, put_varint};
use super::{ChunkError, Effort, ints, pcodec};
use chronolith_model::sample::STALE_NAN_BITS;

const CONSTANT: u8 = 0x00;
const VERBATIM: u8 = 0x01;
const PCO: u8 = 0x02;
const INTEGERS: u8 = 0x80;
const SCALED: u8 = 0x20;
const EXCEPTIONS: u8 = 0x40;

/// Bytes of a constant that is no short decimal.
const CONSTANT_BYTES: usize = 9;

/// Lower two bits of an exception's gap: what the value is.
const EXCEPTION_VERBATIM: u64 = 0;
const EXCEPTION_STALE: u64 = 1;
const EXCEPTION_REPEATED: u64 = 2;

/// Beyond this not every whole number is a float.
const MAX_WHOLE: u64 = 1 << 53;
/// The largest exponent of a scale. 10^18 is a float without rounding.
const MAX_EXPONENT: u8 = 18;
/// Scales finer than this are tried otherwise too: `0.001 * n` has up to 17 digits, as a quotient.
const PLAIN_EXPONENT: u8 = 9;
/// Below this pcodec's head outweighs what it gains.
const MIN_PCO_LEN: usize = 12;

const POWERS: [f64; 19] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];
const INVERSE_POWERS: [f64; 19] = [
    1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15,
    1e-16, 1e-17, 1e-18,
];

/// How a float is made from an integer. The byte is `mode << 6 | exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    /// `n`
    One,
    /// `n / 10^e`: what parsing a decimal gives.
    Divided(u8),
    /// `n * 10^-e`: node_exporter's milliseconds.
    Multiplied(u8),
    /// `n / 1000 / 10^(e-3)`: its pressure metrics.
    DividedTwice(u8),
}

impl Scale {
    const fn byte(self) -> u8 {
        match self {
            Self::One => 0,
            Self::Divided(exponent) => exponent,
            Self::Multiplied(exponent) => 0x40 | exponent,
            Self::DividedTwice(exponent) => 0x80 | exponent,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match (byte >> 6, byte & 0x3f) {
            (0, 0) => Some(Self::One),
            (0, exponent @ 1..=MAX_EXPONENT) => Some(Self::Divided(exponent)),
            (1, exponent @ 1..=MAX_EXPONENT) => Some(Self::Multiplied(exponent)),
            (2, exponent @ 3..=MAX_EXPONENT) => Some(Self::DividedTwice(exponent)),
            _ => None,
        }
    }

    #[inline]
    fn apply(self, number: i64) -> f64 {
        let number = number as f64;
        match self {
            Self::One => number,
            Self::Divided(exponent) => number / POWERS[exponent as usize],
            Self::Multiplied(exponent) => number * INVERSE_POWERS[exponent as usize],
            Self::DividedTwice(exponent) => number / 1e3 / POWERS[exponent as usize - 3],
        }
    }

    /// The integer that gives `value` bit for bit.
    #[inline]
    fn integer(self, value: f64) -> Option<i64> {
        let scaled = value * POWERS[usize::from(self.byte() & 0x3f)];
        let number = (scaled + 0.5f64.copysign(scaled)) as i64;
        (self.apply(number).to_bits() == value.to_bits() && number.unsigned_abs() < MAX_WHOLE)
            .then_some(number)
    }
}

/// Appends a column of `values`.
///
/// # Panics
/// If there is none.
pub fn encode(values: &[f64], effort: Effort, out: &mut Vec<u8>) {
    if values[1..].iter().all(|value| value.to_bits() == values[0].to_bits()) {
        return encode_constant(values[0], out);
    }
    let at = out.len();
    let scales = candidate_scales(values);
    for (index, &scale) in scales.iter().enumerate() {
        let before = out.len();
        encode_integers(values, scale, effort, out);
        // The smallest column yet is at `at`; this candidate lies behind it.
        if index > 0 {
            let size_bytes = out.len() - before;
            if size_bytes < before - at {
                out.drain(at..before);
            } else {
                out.truncate(before);
            }
        }
    }
    let limit = if scales.is_empty() { usize::MAX } else { out.len() - at };
    let try_pco = scales.is_empty() || worth_pco(effort, limit, values.len());
    if try_pco
        && values.len() >= MIN_PCO_LEN
        && let Some(pco) = pcodec::encode(values, effort)
        && is_tenth_smaller(pco.len() + 1, limit)
    {
        out.truncate(at);
        out.push(PCO);
        out.extend_from_slice(&pco);
    }
    let size_bytes = out.len() - at;
    if size_bytes == 0 || size_bytes > values.len() * 8 + 1 {
        out.truncate(at);
        out.push(VERBATIM);
        values.iter().for_each(|value| out.extend_from_slice(&value.to_bits().to_be_bytes()));
    }
}

/// Appends a column of which every value has the bits of `value`.
pub fn encode_constant(value: f64, out: &mut Vec<u8>) {
    let at = out.len();
    if let Some(scale) = plain_scales().find(|scale| scale.integer(value).is_some()) {
        encode_integers(&[value], scale, Effort::Seal, out);
        if out.len() - at <= CONSTANT_BYTES {
            return;
        }
        out.truncate(at);
    }
    out.push(CONSTANT);
    out.extend_from_slice(&value.to_bits().to_be_bytes());
}

/// Integers of four bytes and more per value may be floats in disguise.
fn worth_pco(effort: Effort, size_bytes: usize, count: usize) -> bool {
    effort == Effort::Compact && size_bytes >= count * 4
}

fn is_tenth_smaller(size_bytes: usize, limit: usize) -> bool {
    limit == usize::MAX || size_bytes * 10 <= limit * 9
}

fn plain_scales() -> impl Iterator<Item = Scale> {
    std::iter::once(Scale::One).chain((1..=PLAIN_EXPONENT).map(Scale::Divided))
}

/// Scales worth trying, none if too many values fit no scale.
fn candidate_scales(values: &[f64]) -> Vec<Scale> {
    if values.iter().all(|&value| Scale::One.integer(value).is_some()) {
        return vec![Scale::One];
    }
    let limit = (values.len() / 8).max(2);
    let (mut scales, n_left_over) = quotient_scales(values, limit);
    let is_plain = matches!(scales[..], [.., Scale::One | Scale::Divided(0..=PLAIN_EXPONENT)]);
    if !is_plain || n_left_over > 0 {
        let odd_scales = [3, 6, 9, 1, 2, 4, 5, 7, 8].into_iter().flat_map(|exponent| {
            let twice = (exponent > 3).then_some(Scale::DividedTwice(exponent));
            [Some(Scale::Multiplied(exponent)), twice].into_iter().flatten()
        });
        scales.extend(odd_scales.into_iter().find(|&scale| n_misses(values, scale, limit) <= limit));
    }
    scales
}

/// The scale `n / 10^e` that takes all values but those that none takes, and a coarser one if that
/// takes enough of them; finest last. Also how many none takes; no scale if those are above `limit`.
fn quotient_scales(values: &[f64], limit: usize) -> (Vec<Scale>, usize) {
    let divided = |exponent: u8| if exponent == 0 { Scale::One } else { Scale::Divided(exponent) };
    let fits = |exponent: u8, value: f64| divided(exponent).integer(value).is_some();
    let mut by_exponent = [0usize; MAX_EXPONENT as usize + 1];
    let (mut exponent, mut n_misses, mut before) = (0u8, 0, None);
    for &value in values {
        if value.to_bits() == STALE_NAN_BITS || before == Some(value.to_bits()) {
            continue;
        }
        before = Some(value.to_bits());
        // A value that an exponent takes, the next ones take as well, as long as the integer stays below
        // 2^53: both quotients are the same real number, rounded once. So start at the last answer.
        if fits(exponent, value) {
            while exponent > 0 && fits(exponent - 1, value) {
                exponent -= 1;
            }
        } else if let Some(found) = (exponent + 1..=MAX_EXPONENT).chain(0..exponent).find(|&e| fits(e, value))
        {
            exponent = found;
        } else {
            n_misses += 1;
            if n_misses > limit {
                return (Vec::new(), n_misses);
            }
            continue;
        }
        by_exponent[usize::from(exponent)] += 1;
    }
    let Some(finest) = by_exponent.iter().rposition(|&count| count > 0) else {
        return (Vec::new(), n_misses);
    };
    let mut scales = vec![divided(finest as u8)];
    let (mut coarser, mut n_finer) = (finest, 0);
    while coarser > 0 && n_misses + n_finer + by_exponent[coarser] <= limit {
        n_finer += by_exponent[coarser];
        coarser -= 1;
    }
    if coarser < finest {
        scales.insert(0, divided(coarser as u8));
    }
    (scales, n_misses)
}

/// Values that do not fit, counted up to just above `limit`.
fn n_misses(values: &[f64], scale: Scale, limit: usize) -> usize {
    let misses =
        values.iter().filter(|value| value.to_bits() != STALE_NAN_BITS && scale.integer(**value).is_none());
    misses.take(limit + 1).count()
}

fn encode_integers(values: &[f64], scale: Scale, effort: Effort, out: &mut Vec<u8>) {
    let at = out.len();
    let mut head = INTEGERS;
    out.push(head);
    if scale != Scale::One {
        head |= SCALED;
        out.push(scale.byte());
    }
    let mut numbers = Vec::with_capacity(values.len());
    let mut exceptions = Vec::new();
    for (position, &value) in values.iter().enumerate() {
        match scale.integer(value) {
            Some(number) => numbers.push(number),
            None => exceptions.push((position, value.to_bits())),
        }
    }
    if numbers.is_empty() {
        // Only exceptions: an integer column has at least one value.
        out.truncate(at);
        out.push(VERBATIM);
        values.iter().for_each(|value| out.extend_from_slice(&value.to_bits().to_be_bytes()));
        return;
    }
    if !exceptions.is_empty() {
        head |= EXCEPTIONS;
        put_exceptions(&exceptions, out);
    }
    out[at] = head | ints::encode_body(&numbers, effort, out);
}

/// Their number, then for each the gap to the one before and what it is, and its bits if need be.
fn put_exceptions(exceptions: &[(usize, u64)], out: &mut Vec<u8>) {
    put_varint(out, exceptions.len() as u64);
    let (mut next, mut last) = (0, None);
    for &(position, bits) in exceptions {
        let what = match bits {
            STALE_NAN_BITS => EXCEPTION_STALE,
            bits if last == Some(bits) => EXCEPTION_REPEATED,
            _ => EXCEPTION_VERBATIM,
        };
        put_varint(out, ((position - next) as u64) << 2 | what);
        if what == EXCEPTION_VERBATIM {
            out.extend_from_slice(&bits.to_be_bytes());
            last = Some(bits);
        }
        next = position + 1;
    }
}

/// Appends the `count` values of a column to `out`. `bytes` hold the column and nothing else.
///
/// # Errors
/// [`ChunkError`] if they do not; `out` is then as before.
pub fn decode(bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Result<(), ChunkError> {
    let at = out.len();
    let result = decode_column(bytes, count, out);
    if result.is_err() {
        out.truncate(at);
    }
    result
}

fn decode_column(bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Result<(), ChunkError> {
    let mut reader = Reader::new(bytes);
    let head = reader.u8()?;
    match head {
        CONSTANT => {
            let value = f64::from_bits(reader.u64()?);
            reader.end()?;
            out.extend(std::iter::repeat_n(value, count));
            Ok(())
        }
        VERBATIM => {
            let words = reader.take(count * 8)?.chunks_exact(8);
            reader.end()?;
            out.extend(words.map(|word| f64::from_be_bytes(word.try_into().expect("chunks of eight"))));
            Ok(())
        }
        PCO => pcodec::decode(reader.rest(), count, out),
        head if head & INTEGERS != 0 => decode_integers(reader, head, count, out),
        _ => Err(ChunkError("unknown value column")),
    }
}

fn decode_integers(
    mut reader: Reader<'_>,
    head: u8,
    count: usize,
    out: &mut Vec<f64>,
) -> Result<(), ChunkError> {
    let scale = read_scale(&mut reader, head)?;
    let exceptions = if head & EXCEPTIONS == 0 { Vec::new() } else { read_exceptions(&mut reader, count)? };
    let at = out.len();
    let n = count - exceptions.len();
    match scale {
        Scale::One => ints::decode_body(&mut reader, head, n, |number| number as f64, out)?,
        Scale::Divided(exponent) => {
            let power = POWERS[usize::from(exponent)];
            ints::decode_body(&mut reader, head, n, |number| number as f64 / power, out)?;
        }
        Scale::Multiplied(exponent) => {
            let power = INVERSE_POWERS[usize::from(exponent)];
            ints::decode_body(&mut reader, head, n, |number| number as f64 * power, out)?;
        }
        Scale::DividedTwice(exponent) => {
            let power = POWERS[usize::from(exponent) - 3];
            ints::decode_body(&mut reader, head, n, |number| number as f64 / 1e3 / power, out)?;
        }
    }
    insert_exceptions(&exceptions, at, out);
    Ok(())
}

/// Appends the values at some positions of a column of `count`, ascending and below it; what lies behind the
/// last of them is not looked at.
///
/// # Errors
/// [`ChunkError`] if `bytes` hold no such column; `out` is then as before.
pub fn decode_at(
    bytes: &[u8],
    count: usize,
    positions: &[u32],
    out: &mut Vec<f64>,
) -> Result<(), ChunkError> {
    let at = out.len();
    let result = decode_column_at(bytes, count, positions, out);
    if result.is_err() {
        out.truncate(at);
    }
    result
}

fn decode_column_at(
    bytes: &[u8],
    count: usize,
    positions: &[u32],
    out: &mut Vec<f64>,
) -> Result<(), ChunkError> {
    let mut reader = Reader::new(bytes);
    let head = reader.u8()?;
    match head {
        CONSTANT => {
            let value = f64::from_bits(reader.u64()?);
            out.extend(positions.iter().map(|_| value));
            Ok(())
        }
        VERBATIM => {
            let (words, _) = reader.take(count * 8)?.as_chunks::<8>();
            out.extend(positions.iter().map(|&at| f64::from_be_bytes(words[at as usize])));
            Ok(())
        }
        head if head & INTEGERS != 0 => decode_integers_at(reader, head, count, positions, out),
        _ => {
            let mut all = Vec::new();
            decode_column(bytes, count, &mut all)?;
            out.extend(positions.iter().map(|&at| all[at as usize]));
            Ok(())
        }
    }
}

fn decode_integers_at(
    mut reader: Reader<'_>,
    head: u8,
    count: usize,
    positions: &[u32],
    out: &mut Vec<f64>,
) -> Result<(), ChunkError> {
    let scale = read_scale(&mut reader, head)?;
    let map = |number| scale.apply(number);
    if head & EXCEPTIONS == 0 {
        return ints::decode_body_at(&mut reader, head, count, positions, map, out);
    }
    let exceptions = read_exceptions(&mut reader, count)?;
    // Integers are numbered without the exceptions among them.
    let (mut integers, mut wanted) = (Vec::with_capacity(positions.len()), Vec::new());
    let mut n_before = 0;
    for (index, &at) in positions.iter().enumerate() {
        while exceptions.get(n_before).is_some_and(|&(position, _)| position < at as usize) {
            n_before += 1;
        }
        match exceptions.get(n_before) {
            Some(&(position, bits)) if position == at as usize => wanted.push((index, bits)),
            _ => integers.push(at - n_before as u32),
        }
    }
    let at = out.len();
    ints::decode_body_at(&mut reader, head, count - exceptions.len(), &integers, map, out)?;
    insert_exceptions(&wanted, at, out);
    Ok(())
}

/// Appends zeros with the staleness markers of a column of `count` among them, for readers that want no
/// values, or all values where they have to be looked at. Nothing is appended if there is no marker.
///
/// # Errors
/// [`ChunkError`] if `bytes` hold no such column; `out` is then as before.
pub fn decode_staleness(bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Result<(), ChunkError> {
    let mut reader = Reader::new(bytes);
    let head = reader.u8()?;
    if head & INTEGERS == 0 {
        return decode(bytes, count, out);
    }
    read_scale(&mut reader, head)?;
    let exceptions = if head & EXCEPTIONS == 0 { Vec::new() } else { read_exceptions(&mut reader, count)? };
    let mut stale = exceptions.iter().filter(|(_, bits)| *bits == STALE_NAN_BITS).peekable();
    if stale.peek().is_none() {
        return Ok(());
    }
    let at = out.len();
    out.resize(at + count, 0.0);
    stale.for_each(|&(position, bits)| out[at + position] = f64::from_bits(bits));
    Ok(())
}

fn read_scale(reader: &mut Reader<'_>, head: u8) -> Result<Scale, ChunkError> {
    if head & SCALED == 0 {
        return Ok(Scale::One);
    }
    Scale::from_byte(reader.u8()?).ok_or(ChunkError("unknown scale of a value column"))
}

/// Positions (ascending, below `count`) and bits; fewer than `count`.
fn read_exceptions(reader: &mut Reader<'_>, count: usize) -> Result<Vec<(usize, u64)>, ChunkError> {
    // Each takes a byte at least, so the list is no longer than the bytes.
    let n_exceptions = reader.length(count.saturating_sub(1).min(reader.rest().len()))?;
    let mut exceptions = Vec::with_capacity(n_exceptions);
    let (mut next, mut last) = (0, STALE_NAN_BITS);
    for _ in 0..n_exceptions {
        let number = reader.varint()?;
        let bits = match number & 3 {
            EXCEPTION_VERBATIM => {
                last = reader.u64()?;
                last
            }
            EXCEPTION_STALE => STALE_NAN_BITS,
            EXCEPTION_REPEATED => last,
            _ => return Err(ChunkError("unknown exception of a value column")),
        };
        let position = usize::try_from(number >> 2)
            .ok()
            .and_then(|gap| gap.checked_add(next))
            .filter(|&position| position < count)
            .ok_or(ChunkError("an exception is outside of its column"))?;
        exceptions.push((position, bits));
        next = position + 1;
    }
    Ok(exceptions)
}

/// Makes room for the exceptions among the values from `at` on, from behind.
fn insert_exceptions(exceptions: &[(usize, u64)], at: usize, out: &mut Vec<f64>) {
    let mut source = out.len();
    out.resize(out.len() + exceptions.len(), 0.0);
    let mut target = out.len();
    for &(position, bits) in exceptions.iter().rev() {
        let n_behind = target - (at + position + 1);
        out.copy_within(source - n_behind..source, target - n_behind);
        source -= n_behind;
        target -= n_behind + 1;
        out[target] = f64::from_bits(bits);
    }
}

/// The value that all samples of a column have, if its head says so; not every column whose values are
/// equal, and `None` for damaged ones.
pub fn constant(bytes: &[u8]) -> Option<f64> {
    let mut reader = Reader::new(bytes);
    let head = reader.u8().ok()?;
    let value = match head {
        CONSTANT => f64::from_bits(reader.u64().ok()?),
        head if head & INTEGERS != 0 && head & EXCEPTIONS == 0 => {
            let scale = read_scale(&mut reader, head).ok()?;
            scale.apply(ints::constant_body(&mut reader, head)?)
        }
        _ => return None,
    };
    reader.is_empty().then_some(value)
}

/// Whether a staleness marker may be among the values: false is certain.
pub fn may_be_stale(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|head| head & INTEGERS == 0 || head & EXCEPTIONS != 0)
}

#[cfg(test)]
pub(super) mod tests;
