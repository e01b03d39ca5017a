//! The keyed hash behind series identity: 128 bits, so that two label sets never share a number in
//! practice, and keyed, so that nobody who sends labels can make them.

use xxhash_rust::xxh3::{xxh3_128_with_secret, xxh3_128_with_seed};

/// What xxh3 takes as a secret; its own default has this size.
const SECRET_BYTES: usize = 192;

/// A 128-bit hash as two words: half the alignment of `u128`, so tables stay dense.
pub type Hash128 = [u64; 2];

/// Hashes labels with the secret of the data directory. The hash never identifies anything on disk.
pub struct SeriesHasher {
    secret: [u8; SECRET_BYTES],
}

impl SeriesHasher {
    /// A hasher for a 256-bit key, which is stretched to xxh3's secret.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut secret = [0; SECRET_BYTES];
        for (index, part) in secret.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            *part = xxh3_128_with_seed(key, index as u64 + 1).to_le_bytes();
        }
        // The plain key goes in too: stretching must not lose any of its bits.
        for (byte, key_byte) in secret.iter_mut().zip(key) {
            *byte ^= key_byte;
        }
        Self { secret }
    }

    /// The hash of bytes as they stand: an encoded label set, or one string.
    #[inline]
    pub fn bytes(&self, bytes: &[u8]) -> Hash128 {
        let hash = xxh3_128_with_secret(bytes, &self.secret);
        [hash as u64, (hash >> 64) as u64]
    }

    /// A number that stands for a sequence of hashes of this hasher, in their order: two polynomials over them, at
    /// odd points that are 3 modulo 8. The hashes are as good as random and known to nobody, so two sequences
    /// meet in both with a probability below 2^-100.
    #[inline]
    pub fn combine(hashes: impl ExactSizeIterator<Item = Hash128>) -> Hash128 {
        const POINTS: Hash128 = [0x9e37_79b9_7f4a_7c13, 0xd6e8_feb8_6659_fd93];
        const { assert!(POINTS[0] % 8 == 3 && POINTS[1] % 8 == 3) };
        let length = hashes.len() as u64 + 1;
        hashes.fold([length, length], |sum, hash| {
            [
                sum[0].wrapping_mul(POINTS[0]).wrapping_add(hash[0]),
                sum[1].wrapping_mul(POINTS[1]).wrapping_add(hash[1]),
            ]
        })
    }

    /// The hash of a sequence of hashes, in their order. `scratch` is any buffer.
    #[inline]
    pub fn fold(&self, hashes: impl Iterator<Item = Hash128>, scratch: &mut Vec<u8>) -> Hash128 {
        scratch.clear();
        for hash in hashes {
            scratch.extend_from_slice(&hash[0].to_le_bytes());
            scratch.extend_from_slice(&hash[1].to_le_bytes());
        }
        self.bytes(scratch)
    }
}
