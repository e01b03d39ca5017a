//! Versions: the blocks that readers pin.

use crate::block::compaction::BlockInfo;
use crate::block::header::BlockHeader;
use crate::block::reader::BlockPart;
use crate::cache::Caches;
use crate::error::StorageError;
use crate::kv::keys::BlockId;
use crate::kv::pins::{BlockPin, DropQueue};
use crate::kv::store::{Store, StoreRead};
use crate::part::Part;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A block of the running store. Whoever holds it, or its part, keeps its files.
pub(crate) struct Block {
    pub header: Arc<BlockHeader>,
    pub part: Arc<BlockPart>,
    pub size_bytes: u64,
    pin: Arc<BlockPin>,
    /// Shared by all states of the block (it gets a new one with each deletion).
    damaged: Arc<AtomicBool>,
}

impl Block {
    /// Opens a block that was ingested or found.
    pub fn open(
        store: &Arc<Store>,
        drops: &Arc<DropQueue>,
        caches: &Arc<Caches>,
        header: Arc<BlockHeader>,
        size_bytes: u64,
    ) -> Result<Self, StorageError> {
        let pin = BlockPin::new(header.block_id(), Arc::clone(drops));
        let read = StoreRead::new(Arc::clone(store), Arc::clone(&pin), true);
        let caches = Some(Arc::clone(caches));
        let part = Arc::new(BlockPart::open_with(Arc::new(read), Arc::clone(&header), caches)?);
        Ok(Self { header, part, size_bytes, pin, damaged: Arc::default() })
    }

    /// A second view of the block for reading all of it, which leaves the block cache alone.
    pub fn bulk_part(&self, store: &Arc<Store>) -> Result<BlockPart, StorageError> {
        BlockPart::open(Arc::new(self.uncached(store)), Arc::clone(&self.header))
    }

    /// The block's records, past the block cache.
    pub fn uncached(&self, store: &Arc<Store>) -> StoreRead {
        StoreRead::new(Arc::clone(store), Arc::clone(&self.pin), false)
    }

    /// The same block behind another part.
    pub fn with_part(&self, part: BlockPart) -> Self {
        Self {
            header: Arc::clone(&self.header),
            part: Arc::new(part),
            size_bytes: self.size_bytes,
            pin: Arc::clone(&self.pin),
            damaged: Arc::clone(&self.damaged),
        }
    }

    pub fn id(&self) -> BlockId {
        self.header.block_id()
    }

    /// Drops the block's files once nobody reads it any more.
    pub fn doom(&self) {
        self.pin.doom();
    }

    /// Keeps the block out of merges.
    pub fn set_damaged(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Whether it cannot be read whole.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    pub fn info(&self) -> BlockInfo {
        BlockInfo {
            id: self.id(),
            mint: self.header.mint,
            maxt: self.header.maxt,
            level: self.header.level,
            seq: (self.header.seq_min, self.header.seq_max),
            n_samples: self.header.n_samples(),
            stays: self.is_damaged(),
        }
    }

    pub fn overlaps(&self, mint: i64, maxt: i64) -> bool {
        self.header.mint <= maxt && mint <= self.header.maxt
    }
}

/// The blocks at one moment, by first timestamp.
#[derive(Default)]
pub(crate) struct Version {
    pub blocks: Vec<Arc<Block>>,
}

impl Version {
    pub fn new(mut blocks: Vec<Arc<Block>>) -> Self {
        blocks.sort_by_key(|block| (block.header.mint, block.id()));
        Self { blocks }
    }

    /// This version without some blocks and with others.
    pub fn changed(&self, without: &[BlockId], with: impl IntoIterator<Item = Arc<Block>>) -> Self {
        let without: HashSet<BlockId> = without.iter().copied().collect();
        let kept = self.blocks.iter().filter(|block| !without.contains(&block.id())).cloned();
        Self::new(kept.chain(with).collect())
    }

    pub fn get(&self, id: BlockId) -> Option<&Arc<Block>> {
        self.blocks.iter().find(|block| block.id() == id)
    }

    pub fn infos(&self) -> Vec<BlockInfo> {
        self.blocks.iter().map(|block| block.info()).collect()
    }

    pub fn parts(&self) -> impl Iterator<Item = Arc<dyn Part>> + '_ {
        self.blocks.iter().map(|block| Arc::clone(&block.part) as Arc<dyn Part>)
    }

    pub fn pins(&self) -> impl Iterator<Item = Arc<BlockPin>> + '_ {
        self.blocks.iter().map(|block| Arc::clone(&block.pin))
    }

    pub fn size_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.size_bytes).sum()
    }

    /// First and last timestamp in blocks.
    pub fn time_range(&self) -> Option<(i64, i64)> {
        let mint = self.blocks.iter().map(|block| block.header.mint).min()?;
        let maxt = self.blocks.iter().map(|block| block.header.maxt).max()?;
        Some((mint, maxt))
    }
}
