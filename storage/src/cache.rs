//! What queries come back to, decoded: opened tiles, and series with their labels as numbers, of all blocks.
//!
//! RocksDB's cache holds blocks of a file: to get at a chunk or a series again takes a walk through its index,
//! an iterator, a copy and another look at a directory. Here groups of ranks lie as they are read, under one
//! look-up.

use crate::block::tiles::TileGroup;
use crate::index::series::SeriesGroup;
use crate::kv::keys::BlockId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// Ranks of a group of series, and of tiles: tiles end at multiples of it at the latest.
pub const RANKS_PER_GROUP: u32 = 128;

/// The caches of a store.
#[derive(Debug)]
pub struct Caches {
    /// Opened tiles.
    pub tiles: GroupCache<TileGroup>,
    /// Labels and times of series.
    pub series: GroupCache<SeriesGroup>,
}

impl Caches {
    /// Caches of at most so many bytes each.
    pub fn new(tiles_bytes: usize, series_bytes: usize) -> Self {
        Self { tiles: GroupCache::new(tiles_bytes), series: GroupCache::new(series_bytes) }
    }

    /// Bytes they hold.
    pub fn size_bytes(&self) -> usize {
        self.tiles.size_bytes() + self.series.size_bytes()
    }
}

/// Parts with a lock each, so that workers seldom meet. A power of two.
const SHARDS: usize = 8;

/// Where a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// The block.
    pub block: BlockId,
    /// Day slice in the block, for tiles.
    pub slice: u16,
    /// Number of the group: its ranks divided by [`RANKS_PER_GROUP`].
    pub number: u32,
}

/// What is decoded of neighbouring ranks.
pub trait Group {
    /// What it takes in memory.
    fn size_bytes(&self) -> usize;
}

/// A cache of groups with a limit in bytes.
///
/// What is used goes into the young half. Once that is full it becomes the old one, and what nobody asked
/// for since the last time goes: nearly the least recently used, without a list to keep in order.
#[derive(Debug)]
pub struct GroupCache<G> {
    shards: Vec<Mutex<Shard<G>>>,
    half_bytes: usize,
}

type Groups<G> = HashMap<GroupKey, Arc<G>, Xxh3DefaultBuilder>;

#[derive(Debug)]
struct Shard<G> {
    young: Groups<G>,
    old: Groups<G>,
    young_bytes: usize,
    old_bytes: usize,
}

impl<G> Default for Shard<G> {
    fn default() -> Self {
        Self { young: Groups::default(), old: Groups::default(), young_bytes: 0, old_bytes: 0 }
    }
}

impl<G: Group> GroupCache<G> {
    /// A cache of at most `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { shards, half_bytes: limit_bytes / SHARDS / 2 }
    }

    /// What is known of a group.
    pub fn get(&self, key: &GroupKey) -> Option<Arc<G>> {
        let mut shard = self.shard(key).lock();
        if let Some(group) = shard.young.get(key) {
            return Some(Arc::clone(group));
        }
        let group = shard.old.remove(key)?;
        shard.old_bytes -= group.size_bytes();
        shard.insert(*key, Arc::clone(&group), self.half_bytes);
        Some(group)
    }

    /// Keeps a group, in place of what was known of it. One that is large beside the cache is not kept.
    pub fn insert(&self, key: GroupKey, group: &Arc<G>) {
        if group.size_bytes() <= self.half_bytes / 2 {
            self.shard(&key).lock().insert(key, Arc::clone(group), self.half_bytes);
        }
    }

    /// Bytes it holds.
    pub fn size_bytes(&self) -> usize {
        let held = |shard: &Mutex<Shard<G>>| {
            let shard = shard.lock();
            shard.young_bytes + shard.old_bytes
        };
        self.shards.iter().map(held).sum()
    }

    fn shard(&self, key: &GroupKey) -> &Mutex<Shard<G>> {
        // Neighbouring groups are read by several workers at once.
        &self.shards[key.number as usize % SHARDS]
    }
}

impl<G: Group> Shard<G> {
    fn insert(&mut self, key: GroupKey, group: Arc<G>, half_bytes: usize) {
        if let Some(before) = self.old.remove(&key) {
            self.old_bytes -= before.size_bytes();
        }
        let size_bytes = group.size_bytes();
        if self.young_bytes + size_bytes > half_bytes {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
        self.young_bytes += size_bytes;
        if let Some(before) = self.young.insert(key, group) {
            self.young_bytes -= before.size_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Text(&'static str);

    impl Group for Text {
        fn size_bytes(&self) -> usize {
            self.0.len()
        }
    }

    fn key(number: u32) -> GroupKey {
        GroupKey { block: BlockId(1), slice: 0, number }
    }

    #[test]
    fn a_group_replaces_what_was_known_of_it() {
        let cache = GroupCache::new(1 << 10);
        let text = || cache.get(&key(0)).map(|text: Arc<Text>| text.0);
        assert_eq!(text(), None);
        cache.insert(key(0), &Arc::new(Text("some")));
        assert_eq!(text(), Some("some"));
        cache.insert(key(0), &Arc::new(Text("more")));
        assert_eq!((text(), cache.size_bytes()), (Some("more"), 4));
        assert!(cache.get(&GroupKey { block: BlockId(2), ..key(0) }).is_none());
        assert!(cache.get(&GroupKey { slice: 1, ..key(0) }).is_none());
    }

    #[test]
    fn what_nobody_asks_for_goes_and_the_limit_holds() {
        let ten_bytes = Arc::new(Text("0123456789"));
        let limit_bytes = 100 * SHARDS;
        let cache = GroupCache::new(limit_bytes);
        for number in 0..50 {
            cache.insert(key(number * SHARDS as u32), &ten_bytes);
            assert!(cache.get(&key(0)).is_some(), "asked for each time");
            assert!(cache.size_bytes() <= limit_bytes / SHARDS);
        }
        assert!(cache.get(&key(SHARDS as u32)).is_none());
        assert!(cache.get(&key(49 * SHARDS as u32)).is_some());
        let shard = cache.shards[0].lock();
        let counted = shard.young.len() + shard.old.len();
        assert_eq!(shard.young_bytes + shard.old_bytes, counted * ten_bytes.size_bytes());
    }

    #[test]
    fn what_is_large_beside_the_cache_is_not_kept() {
        let cache = GroupCache::new(20 * SHARDS);
        cache.insert(key(0), &Arc::new(Text("0123456789")));
        assert!(cache.get(&key(0)).is_none());
    }
}
