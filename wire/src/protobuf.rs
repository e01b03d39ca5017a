//! Walking protobuf messages by hand: a reader that knows where it is, and the few writers needed.
//!
//! Source: Protocol Buffers, "Encoding", <https://protobuf.dev/programming-guides/encoding/>.

/// How deep groups (a wire type that proto3 gave up, skipped like any unknown field) may nest.
const MAX_GROUP_DEPTH: u32 = 16;

/// Bytes that are no such message. Retrying cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {offset}: {kind}")]
pub struct DecodeError {
    /// The field in question, such as `timeseries.samples`.
    pub field: &'static str,
    /// Where in the decompressed body.
    pub offset: usize,
    /// What is wrong.
    pub kind: DecodeErrorKind,
}

/// What is wrong with the bytes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// The message ends within the field.
    #[error("ends early")]
    EndsEarly,
    /// A varint of more than ten bytes or 64 bits.
    #[error("varint overflows 64 bits")]
    VarintOverflow,
    /// A length that reaches beyond the message around it.
    #[error("length {0} reaches beyond the message")]
    LengthBeyondMessage(u64),
    /// A tag whose field number is 0 or above 2^29.
    #[error("invalid field number")]
    FieldNumber,
    /// A wire type that does not go with the field, or that does not exist.
    #[error("wire type {0} does not fit the field")]
    WireType(u8),
    /// A group that is not closed, or closed by the wrong number, or nested too deep.
    #[error("unbalanced group")]
    Group,
    /// Packed doubles whose length is no multiple of eight.
    #[error("packed doubles of {0} bytes")]
    PackedLength(u64),
    /// More elements than a batch can number, or than a request of this size can mean.
    #[error("too many elements for the size of the request")]
    TooMany,
    /// A field of the other version's message.
    #[error("this is a request of remote write {0}, sent with the content type of another version")]
    OtherVersion(&'static str),
    /// The symbol table does not start with the empty string.
    #[error("the first symbol must be the empty string")]
    FirstSymbol,
}

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
const GROUP_START: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED32: u8 = 5;

/// A field's number and wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub number: u32,
    pub wire_type: u8,
}

/// Reads one message, which may lie within another; offsets count from the start of the body.
// Invariant: at <= end <= body.len().
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    end: usize,
    field: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(body: &'a [u8], field: &'static str) -> Self {
        Self { body, at: 0, end: body.len(), field }
    }

    /// Where the next byte is read.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The body between two offsets.
    pub fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        &self.body[start..end]
    }

    pub fn is_done(&self) -> bool {
        self.at >= self.end
    }

    #[cold]
    pub fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { field: self.field, offset: self.at, kind }
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.body[self.at..self.end] {
            [first, ..] if first < 0x80 => {
                self.at += 1;
                Ok(u64::from(first))
            }
            // Lengths of series and numbers of symbols mostly take two bytes.
            [first, second, ..] if second < 0x80 => {
                self.at += 2;
                Ok(u64::from(first & 0x7f) | u64::from(second) << 7)
            }
            [] => Err(self.error(DecodeErrorKind::EndsEarly)),
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (i, &byte) in self.body[self.at..self.end].iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                return Err(self.error(DecodeErrorKind::VarintOverflow));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(self.error(DecodeErrorKind::EndsEarly))
    }

    /// The next tag, or `None` at the end of the message.
    #[inline]
    pub fn tag(&mut self) -> Result<Option<Tag>, DecodeError> {
        if self.is_done() {
            return Ok(None);
        }
        let value = self.varint()?;
        let number = value >> 3;
        if number == 0 || number >= 1 << 29 {
            return Err(self.error(DecodeErrorKind::FieldNumber));
        }
        Ok(Some(Tag { number: number as u32, wire_type: (value & 7) as u8 }))
    }

    /// Refuses a field that comes with another wire type than `wanted`.
    #[inline]
    pub fn expect(&self, tag: Tag, wanted: u8, field: &'static str) -> Result<(), DecodeError> {
        if tag.wire_type == wanted {
            return Ok(());
        }
        Err(DecodeError { field, offset: self.at, kind: DecodeErrorKind::WireType(tag.wire_type) })
    }

    pub fn fixed64(&mut self) -> Result<u64, DecodeError> {
        match self.body[self.at..self.end].first_chunk::<8>() {
            Some(bytes) => {
                self.at += 8;
                Ok(u64::from_le_bytes(*bytes))
            }
            None => Err(self.error(DecodeErrorKind::EndsEarly)),
        }
    }

    /// A double field with its tag already read.
    pub fn double(&mut self, tag: Tag, field: &'static str) -> Result<f64, DecodeError> {
        self.expect(tag, FIXED64, field)?;
        Ok(f64::from_bits(self.fixed64()?))
    }

    /// An `int64`, `uint64`, `uint32`, `bool` or enum field with its tag already read.
    pub fn integer(&mut self, tag: Tag, field: &'static str) -> Result<u64, DecodeError> {
        self.expect(tag, VARINT, field)?;
        self.varint()
    }

    /// A `sint32` or `sint64` field with its tag already read.
    pub fn signed(&mut self, tag: Tag, field: &'static str) -> Result<i64, DecodeError> {
        Ok(unzigzag(self.integer(tag, field)?))
    }

    /// A message within this one, with its tag already read.
    #[inline]
    pub fn message(&mut self, tag: Tag, field: &'static str) -> Result<Reader<'a>, DecodeError> {
        self.expect(tag, BYTES, field)?;
        let length = self.varint()?;
        let left = (self.end - self.at) as u64;
        if length > left {
            let kind = DecodeErrorKind::LengthBeyondMessage(length);
            return Err(DecodeError { field, offset: self.at, kind });
        }
        let start = self.at;
        self.at += length as usize;
        Ok(Reader { body: self.body, at: start, end: self.at, field })
    }

    /// A message with its length, but no tag, before it.
    pub fn delimited(&mut self, field: &'static str) -> Result<Reader<'a>, DecodeError> {
        self.message(Tag { number: 0, wire_type: BYTES }, field)
    }

    /// A string or bytes field with its tag already read.
    pub fn bytes(&mut self, tag: Tag, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let inner = self.message(tag, field)?;
        Ok(&self.body[inner.at..inner.end])
    }

    /// Passes over fields that begin with this tag of one byte and a length of one byte, as long as they come.
    #[inline]
    pub fn skip_short_fields(&mut self, tag: u8) {
        let bytes = &self.body[..self.end];
        let mut at = self.at;
        while let Some(&[found, length]) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
            let next = at + 2 + usize::from(length);
            if found != tag || length >= 0x80 || next > bytes.len() {
                break;
            }
            at = next;
        }
        self.at = at;
    }

    /// A field as [`double_and_integer`] takes it; anything else is left where it is.
    #[inline]
    pub fn double_and_integer(&mut self, tag: u8) -> Option<(f64, u64)> {
        let (found, rest) = double_and_integer(&self.body[self.at..self.end], tag)?;
        self.at = self.end - rest.len();
        Some(found)
    }

    /// What a field with this tag of one byte and a length of one or two holds, and where the next one begins. It is
    /// not passed over yet.
    #[inline]
    pub fn peek_short(&self, tag: u8) -> Option<(&'a [u8], usize)> {
        let rest = &self.body[self.at..self.end];
        let (length, start) = match *rest {
            [found, length, ..] if found == tag && length < 0x80 => (usize::from(length), 2),
            [found, low, high, ..] if found == tag && high < 0x80 => {
                (usize::from(low & 0x7f) | usize::from(high) << 7, 3)
            }
            _ => return None,
        };
        let content = rest.get(start..start + length)?;
        Some((content, self.at + start + length))
    }

    /// Goes on where [`Self::peek_short`] said.
    #[inline]
    pub fn pass_to(&mut self, next: usize) {
        debug_assert!((self.at..=self.end).contains(&next));
        self.at = next;
    }

    /// Appends the texts of fields that begin with this tag of one byte and a length of one byte, as long as they
    /// come. Tags and such lengths are ASCII, so that all of it is checked at once. False, and nothing is read, if
    /// it is not UTF-8.
    pub fn short_texts(&mut self, tag: u8, out: &mut Vec<&'a str>) -> bool {
        let start = self.at;
        self.skip_short_fields(tag);
        let Ok(mut rest) = std::str::from_utf8(&self.body[start..self.at]) else {
            self.at = start;
            return false;
        };
        out.reserve(rest.len() / 16);
        while let Some(&[_, length]) = rest.as_bytes().first_chunk::<2>() {
            // An ASCII byte stands on either side of each text.
            let (text, behind) = rest[2..].split_at(usize::from(length));
            out.push(text);
            rest = behind;
        }
        true
    }

    /// A repeated integer, packed or not: appends what `map` makes of each.
    pub fn integers<T>(
        &mut self,
        tag: Tag,
        field: &'static str,
        out: &mut Vec<T>,
        map: impl Fn(u64) -> T,
    ) -> Result<(), DecodeError> {
        if tag.wire_type == VARINT {
            out.push(map(self.varint()?));
            return Ok(());
        }
        let mut packed = self.message(tag, field)?;
        while !packed.is_done() {
            out.push(map(packed.varint()?));
        }
        Ok(())
    }

    /// A repeated double, packed or not.
    pub fn doubles(&mut self, tag: Tag, field: &'static str, out: &mut Vec<f64>) -> Result<(), DecodeError> {
        if tag.wire_type == FIXED64 {
            out.push(f64::from_bits(self.fixed64()?));
            return Ok(());
        }
        let bytes = self.bytes(tag, field)?;
        let (doubles, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            let kind = DecodeErrorKind::PackedLength(bytes.len() as u64);
            return Err(DecodeError { field, offset: self.at, kind });
        }
        out.extend(doubles.iter().map(|bytes| f64::from_le_bytes(*bytes)));
        Ok(())
    }

    /// Passes over a field nobody asked for.
    pub fn skip(&mut self, tag: Tag) -> Result<(), DecodeError> {
        self.skip_nested(tag, 0)
    }

    fn skip_nested(&mut self, tag: Tag, depth: u32) -> Result<(), DecodeError> {
        match tag.wire_type {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            BYTES => self.message(tag, self.field).map(drop),
            FIXED32 if self.end - self.at >= 4 => {
                self.at += 4;
                Ok(())
            }
            FIXED32 => Err(self.error(DecodeErrorKind::EndsEarly)),
            GROUP_START if depth < MAX_GROUP_DEPTH => self.skip_group(tag.number, depth),
            GROUP_START | GROUP_END => Err(self.error(DecodeErrorKind::Group)),
            other => Err(self.error(DecodeErrorKind::WireType(other))),
        }
    }

    fn skip_group(&mut self, number: u32, depth: u32) -> Result<(), DecodeError> {
        while let Some(tag) = self.tag()? {
            if tag.wire_type == GROUP_END {
                if tag.number == number {
                    return Ok(());
                }
                break;
            }
            self.skip_nested(tag, depth + 1)?;
        }
        Err(self.error(DecodeErrorKind::Group))
    }
}

/// The field at the front with this tag that holds a double (1), left out if it is zero, and a varint (2) and nothing
/// else, in the form in which all senders write them; and what follows.
#[inline]
pub(super) fn double_and_integer(bytes: &[u8], tag: u8) -> Option<((f64, u64), &[u8])> {
    const FIRST: u8 = 1 << 3 | FIXED64;
    const SECOND: u8 = 2 << 3 | VARINT;
    let [found, length, first, ..] = *bytes else { return None };
    let (field, rest) = bytes.split_at_checked(2 + usize::from(length))?;
    let (double, n_varint) = match first {
        FIRST => {
            let (double, varint) = field.get(3..)?.split_first_chunk::<8>()?;
            let (second, varint) = varint.split_first()?;
            (f64::from_le_bytes(*double), (*second == SECOND).then_some(varint.len())?)
        }
        SECOND => (0.0, field.len().checked_sub(3)?),
        _ => return None,
    };
    if found != tag || !(1..=8).contains(&n_varint) {
        return None;
    }
    // The last eight bytes of the field, without those before the varint.
    let raw = u64::from_le_bytes(*field.last_chunk::<8>()?) >> (64 - 8 * n_varint);
    Some(((double, varint_of(raw, n_varint)?), rest))
}

/// The value of a varint whose 1 to 8 bytes these are.
#[inline]
fn varint_of(raw: u64, length: usize) -> Option<u64> {
    const MORE: u64 = 0x8080_8080_8080_8080;
    // All bytes but the last say that another one follows.
    if raw & MORE != MORE & ((1 << (8 * (length - 1))) - 1) {
        return None;
    }
    // Seven bits a byte move together: in pairs, in fours, then both halves.
    let x = raw & !MORE;
    let x = (x & 0x007f_007f_007f_007f) | (x & 0x7f00_7f00_7f00_7f00) >> 1;
    let x = (x & 0x0000_3fff_0000_3fff) | (x & 0x3fff_0000_3fff_0000) >> 2;
    Some((x & 0x0fff_ffff) | (x & 0x0fff_ffff_0000_0000) >> 4)
}

/// Packed numbers of one or two bytes each, into at least as many places as there are bytes; how many there are, and the
/// greatest. `None` if one is longer.
#[inline]
pub(super) fn short_numbers(packed: &[u8], out: &mut [u32]) -> Option<(usize, u32)> {
    let (mut at, mut count, mut greatest, mut longer) = (0, 0, 0, 0);
    // Without a branch: which numbers take two bytes differs from series to series.
    while let Some(pair) = packed.get(at..).and_then(<[u8]>::first_chunk) {
        let raw = u32::from(u16::from_le_bytes(*pair));
        let more = raw >> 7 & 1;
        longer |= raw >> 15 & more;
        let number = raw & 0x7f | raw >> 1 & 0x3f80 & more.wrapping_neg();
        *out.get_mut(count)? = number;
        greatest = greatest.max(number);
        count += 1;
        at += 1 + more as usize;
    }
    if let Some(&last) = packed.get(at) {
        longer |= u32::from(last >> 7);
        *out.get_mut(count)? = last.into();
        greatest = greatest.max(last.into());
        count += 1;
    }
    (longer == 0).then_some((count, greatest))
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(super) fn zigzag(value: i64) -> u64 {
    (value << 1) as u64 ^ (value >> 63) as u64
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

/// A varint field; proto3 leaves out zeros.
pub(super) fn put_integer(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_tag(out, number, VARINT);
        put_varint(out, value);
    }
}

/// A double field; proto3 leaves out positive zeros, by their bits.
pub(super) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    if value.to_bits() != 0 {
        put_tag(out, number, FIXED64);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// A string, bytes or message field, present even if empty.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message field that `write` fills.
pub(super) fn put_message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    put_tag(out, number, BYTES);
    let at = out.len();
    // The length goes in front of what it counts. It takes one byte more often than not; otherwise the
    // message makes room.
    out.push(0);
    write(out);
    let mut length = out.len() - at - 1;
    let n_more = (length.max(1).ilog2() / 7) as usize;
    if n_more > 0 {
        let end = out.len();
        out.resize(end + n_more, 0);
        out.copy_within(at + 1..end, at + 1 + n_more);
    }
    for byte in &mut out[at..at + n_more] {
        *byte = length as u8 | 0x80;
        length >>= 7;
    }
    out[at + n_more] = length as u8;
}

/// A packed repeated integer, left out if empty.
pub(super) fn put_packed(out: &mut Vec<u8>, number: u32, values: impl ExactSizeIterator<Item = u64>) {
    if values.len() > 0 {
        put_message(out, number, |out| values.for_each(|value| put_varint(out, value)));
    }
}

/// A packed repeated double, left out if empty.
pub(super) fn put_packed_doubles(out: &mut Vec<u8>, number: u32, values: &[f64]) {
    if !values.is_empty() {
        put_tag(out, number, BYTES);
        put_varint(out, values.len() as u64 * 8);
        values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_need_not_be_minimal() {
        let mut reader = Reader::new(&[0x81, 0x80, 0x00], "test");
        assert_eq!(reader.varint(), Ok(1));
        assert!(reader.is_done());
    }

    #[test]
    fn samples_in_their_usual_form_are_read_as_in_any_form() {
        let numbers =
            (0..56).flat_map(|bits| [1u64 << bits, (2 << bits) - 1, 0x55aa_55aa_55aa_55aa >> (63 - bits)]);
        for number in numbers.filter(|&number| number > 0) {
            for double in [0.0, -0.0, 1.5] {
                let mut body = Vec::new();
                put_message(&mut body, 2, |out| {
                    put_double(out, 1, double);
                    put_integer(out, 2, number);
                });
                let end = body.len();
                body.extend_from_slice(&[0xff; 8]);
                let mut reader = Reader { end, ..Reader::new(&body, "test") };
                let found = reader.double_and_integer(2 << 3 | BYTES);
                // Less than the eight bytes that are read at once is left to the general way.
                if end < 8 {
                    assert_eq!((found, reader.at()), (None, 0));
                    continue;
                }
                let (value, integer) = found.unwrap();
                assert_eq!((value.to_bits(), integer), (f64::to_bits(double), number));
                assert!(reader.is_done());
                // Of a message that ends earlier nothing is read, nor of one of another tag or form.
                for (end, tag) in [(end - 1, 2), (end, 3)] {
                    let mut reader = Reader { end, ..Reader::new(&body, "test") };
                    assert_eq!((reader.double_and_integer(tag << 3 | BYTES), reader.at()), (None, 0));
                }
                body[1] += 1;
                let mut reader = Reader::new(&body, "test");
                assert_eq!(reader.double_and_integer(2 << 3 | BYTES), None);
            }
        }
    }

    #[test]
    fn texts_are_read_together_up_to_a_long_one_and_not_at_all_if_one_is_none() {
        let long = "l".repeat(200);
        let mut body = Vec::new();
        for text in ["a", "", "\u{20ac}uro", "b", &long, "c"] {
            put_bytes(&mut body, 4, text.as_bytes());
        }
        let mut reader = Reader::new(&body, "test");
        let mut texts = Vec::new();
        assert!(reader.short_texts(4 << 3 | BYTES, &mut texts));
        assert_eq!(texts, ["a", "", "\u{20ac}uro", "b"]);
        let tag = reader.tag().unwrap().unwrap();
        assert_eq!(reader.bytes(tag, "test").unwrap(), long.as_bytes());
        assert!(reader.short_texts(4 << 3 | BYTES, &mut texts));
        assert_eq!((texts.len(), reader.is_done()), (5, true));
        // Halves of one character in two texts are no text, though they stand close to each other.
        let mut body = Vec::new();
        put_bytes(&mut body, 4, &[0xc3]);
        put_bytes(&mut body, 4, &[0xa4]);
        let mut reader = Reader::new(&body, "test");
        assert!(!reader.short_texts(4 << 3 | BYTES, &mut texts));
        assert_eq!((texts.len(), reader.at()), (5, 0));
    }

    #[test]
    fn a_varint_of_more_than_64_bits_is_refused() {
        let mut reader = Reader::new(&[0xff; 11], "test");
        assert_eq!(reader.varint().unwrap_err().kind, DecodeErrorKind::VarintOverflow);
        let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "test");
        assert_eq!(reader.varint(), Ok(u64::MAX));
    }

    #[test]
    fn errors_name_field_and_offset() {
        let mut reader = Reader::new(&[0x0a, 0x05, 0x00], "request");
        let tag = reader.tag().unwrap().unwrap();
        let error = reader.message(tag, "timeseries").unwrap_err();
        assert_eq!(error.to_string(), "timeseries at byte 2: length 5 reaches beyond the message");
    }

    #[test]
    fn groups_are_skipped_and_must_balance() {
        let balanced = [0x0b, 0x10, 0x01, 0x0c];
        let mut reader = Reader::new(&balanced, "test");
        let tag = reader.tag().unwrap().unwrap();
        assert_eq!(reader.skip(tag), Ok(()));
        assert!(reader.is_done());
        let crossed = [0x0b, 0x14];
        let mut reader = Reader::new(&crossed, "test");
        let tag = reader.tag().unwrap().unwrap();
        assert_eq!(reader.skip(tag).unwrap_err().kind, DecodeErrorKind::Group);
        let deep = [0x0b; 64];
        let mut reader = Reader::new(&deep, "test");
        let tag = reader.tag().unwrap().unwrap();
        assert_eq!(reader.skip(tag).unwrap_err().kind, DecodeErrorKind::Group);
    }

    #[test]
    fn messages_of_any_length_get_their_length() {
        for length in [0, 1, 127, 128, 129, 16_383, 16_384, 2_097_152] {
            let mut out = vec![9];
            put_message(&mut out, 1, |out| out.resize(out.len() + length, 7));
            let mut reader = Reader::new(&out[1..], "test");
            let tag = reader.tag().unwrap().unwrap();
            let bytes = reader.bytes(tag, "test").unwrap();
            assert_eq!(bytes.len(), length);
            assert!(bytes.iter().all(|&byte| byte == 7));
            assert!(reader.is_done());
        }
    }

    #[test]
    fn zigzag_round_trips() {
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
    }
}
