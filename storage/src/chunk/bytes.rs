//! Numbers in bytes: LEB128 variable-length integers (7 bits a byte, lowest first, high bit set on all
//! but the last), zigzag for signed ones, and a reader that never goes beyond its end.

use super::ChunkError;

/// A reader over stored bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

const CUT_OFF: ChunkError = ChunkError("bytes end too early");

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What has not been read.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ChunkError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(CUT_OFF)?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ChunkError> {
        Ok(self.take(1)?[0])
    }

    /// Eight bytes, big-endian.
    pub(crate) fn u64(&mut self) -> Result<u64, ChunkError> {
        let (word, rest) = self.bytes.split_first_chunk().ok_or(CUT_OFF)?;
        self.bytes = rest;
        Ok(u64::from_be_bytes(*word))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, ChunkError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ChunkError("variable-length integer exceeds 64 bits"))
    }

    pub(crate) fn signed(&mut self) -> Result<i64, ChunkError> {
        self.varint().map(unzigzag)
    }

    /// A count or length that has to be at most `limit`.
    pub(crate) fn length(&mut self, limit: usize) -> Result<usize, ChunkError> {
        usize::try_from(self.varint()?)
            .ok()
            .filter(|&length| length <= limit)
            .ok_or(ChunkError("a length exceeds what is there"))
    }

    /// Bytes behind a length.
    pub(crate) fn prefixed(&mut self) -> Result<&'a [u8], ChunkError> {
        let length = self.length(self.bytes.len())?;
        self.take(length)
    }

    /// # Errors
    /// If bytes are left.
    pub(crate) const fn end(&self) -> Result<(), ChunkError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(ChunkError("bytes behind the end")) }
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_varint(out, zigzag(number));
}

pub(crate) fn put_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// 0, -1, 1, -2, 2 ... as 0, 1, 2, 3, 4 ...
#[inline]
pub(crate) const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

#[inline]
pub(crate) const fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back_and_overlong_ones_are_errors() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            put_signed(&mut bytes, number as i64);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint(), Ok(number));
            assert_eq!(reader.signed(), Ok(number as i64));
            assert_eq!(reader.end(), Ok(()));
        }
        assert!(Reader::new(&[0xff; 10]).varint().is_err());
        assert!(Reader::new(&[0x80; 4]).varint().is_err());
        assert!(Reader::new(&[5, 1, 2]).prefixed().is_err());
    }
}
