//! From the hash of a series as it stood on the wire to its handle. One series may have many aliases;
//! an alias that no longer fits (its series left) is noticed by the generation in the handle.
//!
//! Aliases stand in the order in which they came, and senders repeat theirs: where one was found, the next one
//! asked for usually follows, so most look-ups read memory from front to back instead of missing every cache.
//!
//! Bounded: a part that would grow beyond its share is emptied and fills again from what is sent.

use super::hasher::Hash128;
use crate::lock::{RwLock, RwLockReadGuard};
use crate::prefetch::prefetch;
use crate::table::reserve_tight;
use chronolith_model::append::SeriesRef;
use std::hint::black_box;

/// Parts with a lock each, by the top bits of the hash: growing one stops only its look-ups.
const N_PARTS: usize = 16;
/// Aliases looked up together, so that the cache misses of those that do not follow each other overlap.
const GROUP: usize = 16;
/// So many entries of a part are asked for before they are compared.
const AHEAD: usize = 6;
/// Entries of a part before it may be emptied, whatever the number of series.
const MIN_LIMIT: usize = 1 << 14;
/// A place holds the position of an entry + 1 in its low bits and bits of the hash above, so that few
/// entries are read in vain.
const POSITION_BITS: u32 = 24;
/// Positions have to fit; a part of so many is emptied, at 400 million series.
const MAX_LIMIT: usize = (1 << POSITION_BITS) - 1;

/// All aliases.
#[derive(Default)]
pub struct Aliases {
    parts: [RwLock<Part>; N_PARTS],
}

/// Entries, and open addressing with linear probing over their positions; from 64 to 80 % full, where a
/// look-up meets two places on average.
#[derive(Default)]
struct Part {
    /// In the order in which they came.
    entries: Vec<Entry>,
    /// 0 is empty.
    places: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Entry {
    hash: Hash128,
    slot: u32,
    generation: u32,
}

impl Entry {
    const fn handle(&self) -> SeriesRef {
        SeriesRef { slot: self.slot, generation: self.generation }
    }
}

impl Aliases {
    /// Looks up all `keys`; `None` in a key gives `None`. Appends one result per key to `out`.
    pub fn resolve(&self, keys: &[Option<Hash128>], out: &mut Vec<Option<SeriesRef>>) {
        let parts: [RwLockReadGuard<'_, Part>; N_PARTS] = std::array::from_fn(|i| self.parts[i].read());
        // Position of the entry of each part that follows the one found last.
        let mut next = [u32::MAX; N_PARTS];
        out.reserve(keys.len());
        for group in keys.chunks(GROUP) {
            let start = out.len();
            let mut missed = 0u32;
            for (at, key) in group.iter().enumerate() {
                let Some(hash) = key else {
                    out.push(None);
                    continue;
                };
                let number = part_of(hash);
                let entries = &parts[number].entries;
                if let Some(ahead) = entries.get(next[number] as usize + AHEAD) {
                    prefetch(ahead);
                }
                let entry = entries.get(next[number] as usize);
                let entry = entry.filter(|entry| entry.hash == *hash);
                next[number] = next[number].wrapping_add(u32::from(entry.is_some()));
                missed |= u32::from(entry.is_none()) << at;
                out.push(entry.map(Entry::handle));
            }
            if missed == 0 {
                continue;
            }
            // Touch the places of all of them, then their entries: neither waits for the others.
            let rest = || group.iter().enumerate().filter(|(at, _)| missed >> at & 1 != 0);
            let mut places = [0; GROUP];
            for (at, hash) in rest().filter_map(|(at, key)| Some((at, key.as_ref()?))) {
                places[at] = parts[part_of(hash)].first_place(hash);
            }
            for (at, hash) in rest().filter_map(|(at, key)| Some((at, key.as_ref()?))) {
                black_box(parts[part_of(hash)].entry_of(places[at]));
            }
            for (at, hash) in rest().filter_map(|(at, key)| Some((at, key.as_ref()?))) {
                let number = part_of(hash);
                if let Some(position) = parts[number].find(hash) {
                    out[start + at] = Some(parts[number].entries[position].handle());
                    next[number] = position as u32 + 1;
                }
            }
        }
    }

    /// Adds or replaces aliases, in their order. `n_series` sets the bound: twice as many aliases as series.
    pub fn insert(&self, new: &[(Hash128, SeriesRef)], n_series: usize) {
        let limit = (2 * n_series / N_PARTS).clamp(MIN_LIMIT, MAX_LIMIT);
        // What one request brings stays together, whatever others bring at the same time.
        for (number, part) in self.parts.iter().enumerate() {
            let mut of_part = new.iter().filter(|(hash, _)| part_of(hash) == number).peekable();
            if of_part.peek().is_some() {
                let mut part = part.write();
                of_part.for_each(|(hash, series)| part.insert(*hash, *series, limit));
            }
        }
    }

    /// Heap size.
    pub fn size_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.read().size_bytes()).sum()
    }
}

fn part_of(hash: &Hash128) -> usize {
    (hash[1] >> 60) as usize % N_PARTS
}

/// The bits of a place above the position.
fn tag_of(hash: &Hash128) -> u32 {
    (hash[0] as u32) << POSITION_BITS
}

const POSITION_MASK: u32 = (1 << POSITION_BITS) - 1;

impl Part {
    fn size_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.places.len() * size_of::<u32>()
    }

    fn place(&self, hash: &Hash128) -> usize {
        // The hash as a fraction of 2^64: any number of places will do, so that growing need not double.
        ((u128::from(hash[0]) * self.places.len() as u128) >> 64) as usize
    }

    fn next(&self, place: usize) -> usize {
        if place + 1 == self.places.len() { 0 } else { place + 1 }
    }

    fn first_place(&self, hash: &Hash128) -> u32 {
        self.places.get(self.place(hash)).copied().unwrap_or(0)
    }

    fn entry_of(&self, place: u32) -> u32 {
        let position = (place & POSITION_MASK) as usize;
        self.entries.get(position.wrapping_sub(1)).map_or(0, |entry| entry.slot)
    }

    /// The position of a hash.
    fn find(&self, hash: &Hash128) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let mut at = self.place(hash);
        loop {
            let place = self.places[at];
            let position = (place & POSITION_MASK) as usize;
            if position == 0 {
                return None;
            }
            if place & !POSITION_MASK == tag_of(hash) && self.entries[position - 1].hash == *hash {
                return Some(position - 1);
            }
            at = self.next(at);
        }
    }

    fn insert(&mut self, hash: Hash128, series: SeriesRef, limit: usize) {
        let SeriesRef { slot, generation } = series;
        if let Some(position) = self.find(&hash) {
            self.entries[position] = Entry { hash, slot, generation };
            return;
        }
        if self.entries.len() >= limit {
            self.entries.clear();
            self.places.fill(0);
        }
        if (self.entries.len() + 1) * 5 > self.places.len() * 4 {
            let size = (self.places.len() * 5 / 4).max(64);
            self.places = Vec::new();
            self.places.resize(size, 0);
            for position in 0..self.entries.len() {
                self.link(position);
            }
        }
        reserve_tight(&mut self.entries, 1);
        self.entries.push(Entry { hash, slot, generation });
        self.link(self.entries.len() - 1);
    }

    /// Enters the position of an entry at the first free place for its hash.
    fn link(&mut self, position: usize) {
        let hash = self.entries[position].hash;
        let mut at = self.place(&hash);
        while self.places[at] != 0 {
            at = self.next(at);
        }
        self.places[at] = tag_of(&hash) | (position as u32 + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u64) -> Hash128 {
        let hash = xxhash_rust::xxh3::xxh3_128(&i.to_le_bytes());
        [hash as u64, (hash >> 64) as u64]
    }

    #[test]
    fn aliases_are_found_and_replaced() {
        let aliases = Aliases::default();
        let new: Vec<_> =
            (0..10_000).map(|i| (key(i), SeriesRef { slot: i as u32, generation: 1 })).collect();
        new.chunks(300).for_each(|part| aliases.insert(part, 10_000));
        aliases.insert(&[(key(7), SeriesRef { slot: 7, generation: 2 })], 10_000);
        let keys: Vec<_> = (0..10_001).map(|i| Some(key(i))).chain([None]).collect();
        let mut found = Vec::new();
        aliases.resolve(&keys, &mut found);
        assert_eq!(found[7], Some(SeriesRef { slot: 7, generation: 2 }));
        assert_eq!(found[9_999], Some(SeriesRef { slot: 9_999, generation: 1 }));
        assert_eq!(found[10_000..], [None, None]);
    }

    #[test]
    fn aliases_beyond_the_bound_are_dropped_not_kept() {
        let aliases = Aliases::default();
        for i in 0..1_000_000 {
            aliases.insert(&[(key(i), SeriesRef { slot: i as u32, generation: 1 })], 1);
        }
        assert!(aliases.size_bytes() <= N_PARTS * 2 * 2 * MIN_LIMIT * size_of::<Entry>());
        let mut found = Vec::new();
        aliases.resolve(&[Some(key(999_999))], &mut found);
        assert!(found[0].is_some());
    }

    #[test]
    fn any_order_and_any_gaps_find_the_same() {
        let aliases = Aliases::default();
        let series = |i: u64| SeriesRef { slot: i as u32, generation: 3 };
        let new: Vec<_> = (0..5_000).map(|i| (key(i), series(i))).collect();
        aliases.insert(&new, 5_000);
        let check = |order: &mut dyn Iterator<Item = u64>| {
            let asked: Vec<u64> = order.collect();
            let keys: Vec<_> = asked.iter().map(|&i| (i % 7 != 6).then(|| key(i))).collect();
            let mut found = vec![None];
            aliases.resolve(&keys, &mut found);
            let expected = asked.iter().map(|&i| (i % 7 != 6 && i < 5_000).then(|| series(i)));
            assert!(found[1..].iter().copied().eq(expected));
        };
        check(&mut (0..5_000));
        check(&mut (0..6_000).rev());
        check(&mut (0..5_000).map(|i| i * 37 % 5_003));
        check(&mut (0..3_000).flat_map(|i| [i, i, i / 2]));
    }
}
