//! The sorted strings of a block, in front-coded parts of about 4 KB. A string's number is its
//! position among all of them, so the values that begin with a prefix are a range of numbers.

use super::varint::{Bytes, put_varint};
use crate::error::StorageError;
use crate::kv::keys::{self, BlockId, Kind};
use crate::kv::{KvRead, KvWrite};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// A part is closed once it holds this much: one block of the file, decoded in some 10 us.
const PART_BYTES: usize = 4 << 10;

/// A part is also closed once its strings take this much decoded: long strings that share all but
/// their ends would make a small record large in memory.
const PART_TEXT_BYTES: usize = 64 << 10;

/// Where the header's copies of strings are cut: long values that differ only at their ends would fill
/// it otherwise.
const MAX_SEPARATOR_BYTES: usize = 256;

/// Decoded parts an open block keeps.
const CACHE_BYTES: usize = 1 << 20;

/// What the header says of one part: enough to find a string's part without reading any.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SymbolPart {
    /// The shortest bytes that are above the last string of the part before and not above the first
    /// string of this one, cut after 256 bytes (then not above the first string is all that holds).
    /// It may end within a character.
    pub separator: Vec<u8>,
    /// Number of the part's first string.
    pub first: u32,
}

/// Writes all parts. `symbols` are sorted as bytes, each once. Returns what the header keeps and the
/// bytes written.
///
/// # Errors
/// [`StorageError`] if a record cannot be written, or the symbols are not sorted.
pub fn write_symbols(
    block: BlockId,
    symbols: &[Box<str>],
    out: &mut dyn KvWrite,
) -> Result<(Vec<SymbolPart>, u64), StorageError> {
    let mut parts: Vec<SymbolPart> = Vec::new();
    let mut bytes = Vec::with_capacity(PART_BYTES * 2);
    let mut text_bytes = 0;
    let mut written = 0u64;
    let mut previous: &str = "";
    for (number, symbol) in symbols.iter().enumerate() {
        if number > 0 && **symbol <= *previous {
            return Err(StorageError::corrupt(
                format!("symbols of block {block}"),
                format!("{symbol:?} comes after {previous:?}"),
            ));
        }
        let number = u32::try_from(number).map_err(|_| {
            StorageError::corrupt(format!("symbols of block {block}"), "2^32 strings or more")
        })?;
        let shared = shared_prefix(previous.as_bytes(), symbol.as_bytes());
        if bytes.is_empty() {
            let end = (shared + 1).min(symbol.len()).min(MAX_SEPARATOR_BYTES);
            parts.push(SymbolPart { separator: symbol.as_bytes()[..end].to_vec(), first: number });
        }
        // The first string of a part is whole.
        let shared = if bytes.is_empty() { 0 } else { shared };
        put_varint(&mut bytes, shared as u64);
        put_varint(&mut bytes, (symbol.len() - shared) as u64);
        bytes.extend_from_slice(&symbol.as_bytes()[shared..]);
        previous = symbol;
        text_bytes += symbol.len();
        let full = bytes.len() >= PART_BYTES || text_bytes >= PART_TEXT_BYTES;
        if full || number as usize + 1 == symbols.len() {
            let part = parts.len() as u32 - 1;
            out.put(Kind::Symbols, &part_key(block, part), &bytes)?;
            written += bytes.len() as u64;
            bytes.clear();
            text_bytes = 0;
        }
    }
    Ok((parts, written))
}

fn part_key(block: BlockId, part: u32) -> Vec<u8> {
    keys::key(block, Kind::Symbols, &part.to_be_bytes())
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// The strings of an open block.
pub struct Symbols {
    block: BlockId,
    n_symbols: u32,
    parts: Arc<[SymbolPart]>,
    cache: Mutex<PartCache>,
}

#[derive(Default)]
struct PartCache {
    parts: HashMap<u32, Arc<DecodedPart>>,
    // Oldest first.
    order: VecDeque<u32>,
    size_bytes: usize,
}

/// One part, decoded.
pub struct DecodedPart {
    first: u32,
    text: Box<str>,
    // End of each string in `text`.
    ends: Box<[u32]>,
}

impl DecodedPart {
    /// Numbers of the part's strings.
    pub fn numbers(&self) -> Range<u32> {
        self.first..self.first + self.ends.len() as u32
    }

    /// The string with this number.
    ///
    /// # Panics
    /// If it is of another part.
    pub fn get(&self, number: u32) -> &str {
        let at = (number - self.first) as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[start as usize..self.ends[at] as usize]
    }

    /// The first number of the part (or the one behind its last) whose string is not below `text`.
    fn lower_bound(&self, text: &str) -> u32 {
        let mut low = self.first;
        let mut high = self.numbers().end;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle) < text {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn size_bytes(&self) -> usize {
        self.text.len() + size_of_val(self.ends.as_ref()) + 96
    }
}

impl Symbols {
    /// The strings of a block whose header names these parts.
    pub fn new(block: BlockId, n_symbols: u32, parts: Arc<[SymbolPart]>) -> Self {
        Self { block, n_symbols, parts, cache: Mutex::default() }
    }

    /// How many strings there are.
    pub const fn len(&self) -> u32 {
        self.n_symbols
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.n_symbols == 0
    }

    /// The number of a string.
    ///
    /// # Errors
    /// [`StorageError`] if the part cannot be read or does not decode; so for all that follow.
    pub fn find(&self, kv: &dyn KvRead, text: &str) -> Result<Option<u32>, StorageError> {
        let number = self.lower_bound(kv, text)?;
        if number >= self.n_symbols {
            return Ok(None);
        }
        let part = self.part_of(kv, number)?;
        Ok((part.get(number) == text).then_some(number))
    }

    /// Numbers of the strings that begin with `prefix`.
    ///
    /// # Errors
    /// As [`Symbols::find`].
    pub fn prefix_range(&self, kv: &dyn KvRead, prefix: &str) -> Result<Range<u32>, StorageError> {
        if prefix.is_empty() {
            return Ok(0..self.n_symbols);
        }
        let start = self.lower_bound(kv, prefix)?;
        // The next prefix of the same length in order; without one (all characters are the greatest)
        // the range is open.
        let mut chars: Vec<char> = prefix.chars().collect();
        while let Some(last) = chars.pop() {
            // The code points of surrogates are no characters.
            let next = if last == '\u{d7ff}' { 0xe000 } else { last as u32 + 1 };
            if let Some(next) = char::from_u32(next) {
                chars.push(next);
                let end: String = chars.into_iter().collect();
                return Ok(start..self.lower_bound(kv, &end)?);
            }
        }
        Ok(start..self.n_symbols)
    }

    /// The string with this number.
    ///
    /// # Errors
    /// As [`Symbols::find`]; also if there is no such number.
    pub fn text(&self, kv: &dyn KvRead, number: u32) -> Result<String, StorageError> {
        Ok(self.part_of(kv, number)?.get(number).to_owned())
    }

    /// Visits the strings of `numbers` (ascending), decoding each part once.
    ///
    /// # Errors
    /// As [`Symbols::text`], or what `visit` returns.
    pub fn visit(
        &self,
        kv: &dyn KvRead,
        numbers: impl IntoIterator<Item = u32>,
        visit: &mut dyn FnMut(u32, &str) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut part: Option<Arc<DecodedPart>> = None;
        for number in numbers {
            let current = match part.take().filter(|part| part.numbers().contains(&number)) {
                Some(part) => part,
                None => self.part_of(kv, number)?,
            };
            visit(number, current.get(number))?;
            part = Some(current);
        }
        Ok(())
    }

    /// The first number whose string is not below `text`.
    fn lower_bound(&self, kv: &dyn KvRead, text: &str) -> Result<u32, StorageError> {
        let at = self.parts.partition_point(|part| part.separator.as_slice() <= text.as_bytes());
        let Some(at) = at.checked_sub(1) else { return Ok(0) };
        let separator = &self.parts[at].separator;
        if separator.len() < MAX_SEPARATOR_BYTES {
            return Ok(self.part(kv, at as u32)?.lower_bound(text));
        }
        // Parts with the same cut separator are told apart by their first strings.
        let mut low = self.parts.partition_point(|part| part.separator < *separator);
        let mut high = at + 1;
        while low < high {
            let middle = low + (high - low) / 2;
            let part = self.part(kv, middle as u32)?;
            if part.get(part.first) <= text {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        match low.checked_sub(1) {
            Some(part) => Ok(self.part(kv, part as u32)?.lower_bound(text)),
            None => Ok(0),
        }
    }

    fn part_of(&self, kv: &dyn KvRead, number: u32) -> Result<Arc<DecodedPart>, StorageError> {
        let at = self.parts.partition_point(|part| part.first <= number);
        match at.checked_sub(1) {
            Some(part) if number < self.n_symbols => self.part(kv, part as u32),
            _ => Err(StorageError::corrupt(
                format!("index of block {}", self.block),
                format!("symbol {number} of {}", self.n_symbols),
            )),
        }
    }

    fn part(&self, kv: &dyn KvRead, part: u32) -> Result<Arc<DecodedPart>, StorageError> {
        if let Some(known) = self.cache.lock().parts.get(&part) {
            return Ok(Arc::clone(known));
        }
        let what = || format!("symbols of block {}, part {part}", self.block);
        let bytes = kv
            .get(&part_key(self.block, part))?
            .ok_or_else(|| StorageError::corrupt(what(), "the record is missing"))?;
        let first = self.parts[part as usize].first;
        let end = self.parts.get(part as usize + 1).map_or(self.n_symbols, |next| next.first);
        let count = end
            .checked_sub(first)
            .ok_or_else(|| StorageError::corrupt(what(), "the header's parts are out of order"))?;
        let decoded = decode_part(&bytes, first, count)
            .map(Arc::new)
            .map_err(|reason| StorageError::corrupt(what(), reason))?;
        let mut cache = self.cache.lock();
        if cache.parts.insert(part, Arc::clone(&decoded)).is_none() {
            cache.order.push_back(part);
            cache.size_bytes += decoded.size_bytes();
        }
        while cache.size_bytes > CACHE_BYTES && cache.order.len() > 1 {
            let oldest = cache.order.pop_front().expect("there are two at least");
            if let Some(gone) = cache.parts.remove(&oldest) {
                cache.size_bytes -= gone.size_bytes();
            }
        }
        Ok(decoded)
    }
}

impl std::fmt::Debug for Symbols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Symbols")
            .field("block", &self.block)
            .field("len", &self.n_symbols)
            .finish_non_exhaustive()
    }
}

/// Decodes a part of `count` strings.
fn decode_part(bytes: &[u8], first: u32, count: u32) -> Result<DecodedPart, &'static str> {
    let mut rest = Bytes(bytes);
    // Every string takes two bytes at least.
    let mut ends = Vec::with_capacity((count as usize).min(bytes.len() / 2));
    let mut text: Vec<u8> = Vec::with_capacity(bytes.len() * 2);
    let mut start = 0;
    while !rest.is_empty() {
        let shared = rest.varint().ok_or("a length is cut off")?;
        let length = rest.varint().ok_or("a length is cut off")?;
        let length = usize::try_from(length).map_err(|_| "a string is too long")?;
        let suffix = rest.take(length).ok_or("a string is cut off")?;
        let shared = usize::try_from(shared)
            .ok()
            .filter(|&shared| shared <= text.len() - start)
            .ok_or("a string shares more than the one before has")?;
        if text.len() + shared + length > MAX_DECODED_BYTES {
            return Err("the strings are too long");
        }
        let previous = start..start + shared;
        start = text.len();
        text.extend_from_within(previous);
        text.extend_from_slice(suffix);
        ends.push(text.len() as u32);
    }
    if ends.len() != count as usize {
        return Err("the number of strings is not the header's");
    }
    let text = String::from_utf8(text).map_err(|_| "not UTF-8")?;
    if ends.iter().any(|&end| !text.is_char_boundary(end as usize)) {
        return Err("not UTF-8");
    }
    Ok(DecodedPart { first, text: text.into_boxed_str(), ends: ends.into() })
}

/// The writer stops at [`PART_TEXT_BYTES`] and one string; no string is as long as this.
const MAX_DECODED_BYTES: usize = 64 << 20;
