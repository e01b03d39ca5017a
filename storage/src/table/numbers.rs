//! Maps by numbers that this program gives out itself: no sender chooses them, so the hash need not be keyed, and a
//! multiplication does.

use hashbrown::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by numbers of strings, series or slots.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Both halves of the product with an odd constant: each bit of it depends on all bits of the number or on the
/// low ones, and successive numbers never meet.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0.rotate_left(32) ^ number) * u128::from(FACTOR);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_spread_over_places_and_tags() {
        let hash = |number: u32| {
            let mut hasher = NumberHasher::default();
            hasher.write_u32(number);
            hasher.finish()
        };
        for step in [1, 4, 1024, 1 << 20] {
            let numbers = (0..4096u32).map(|n| n.wrapping_mul(step));
            // Low bits choose a place, the high seven are compared before the key is.
            let mut places = vec![0; 1024];
            let mut tags = vec![0; 128];
            numbers.for_each(|number| {
                places[hash(number) as usize % 1024] += 1;
                tags[(hash(number) >> 57) as usize] += 1;
            });
            assert!(places.iter().all(|&count| count < 24), "step {step}: {:?}", places.iter().max());
            assert!(tags.iter().all(|&count| count < 160), "step {step}: {:?}", tags.iter().max());
        }
    }
}
