//! Retention: drops whole blocks that are too old, or the oldest ones while the store is too large.

use super::Inner;
use super::version::Block;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Inner {
    /// Applies both limits. Age is measured from the greatest stored timestamp, not from the clock, so
    /// that recorded and simulated streams keep what they hold.
    pub fn enforce_retention(&self) {
        {
            let _commit = self.commit.lock();
            let version = self.version.load_full();
            let old = self.too_old(&version.blocks);
            let mut kept = version.blocks.clone();
            kept.retain(|block| !old.iter().any(|dropped| dropped.id() == block.id()));
            let excess = self.too_large(&kept);
            if old.is_empty() && excess.is_empty() {
                return;
            }
            for (blocks, reason) in [(&old, "age"), (&excess, "size")] {
                for block in blocks {
                    let (mint, maxt) = (block.header.mint, block.header.maxt);
                    tracing::info!(block = %block.id(), mint, maxt, reason, "retention drops a block");
                }
            }
            self.counters.retention_time_drops.add(old.len() as u64);
            self.counters.retention_size_drops.add(excess.len() as u64);
            self.replace(&[old, excess].concat(), None);
        }
        self.reap();
    }

    fn too_old(&self, blocks: &[Arc<Block>]) -> Vec<Arc<Block>> {
        let retention = self.retention_time_ms.load(Ordering::Relaxed);
        let newest = self.time_range().map(|range| range.1);
        let Some(newest) = newest.filter(|_| retention > 0) else { return Vec::new() };
        let oldest = newest.saturating_sub(retention);
        blocks.iter().filter(|block| block.header.maxt < oldest).cloned().collect()
    }

    fn too_large(&self, blocks: &[Arc<Block>]) -> Vec<Arc<Block>> {
        let limit = self.retention_size_bytes.load(Ordering::Relaxed);
        let mut size = blocks.iter().map(|block| block.size_bytes).sum::<u64>();
        if limit == 0 {
            return Vec::new();
        }
        size += self.tables.stats().log_size_bytes;
        let mut by_age = blocks.to_vec();
        by_age.sort_by_key(|block| (block.header.maxt, block.id()));
        let mut excess = Vec::new();
        for block in by_age {
            if size <= limit {
                break;
            }
            size = size.saturating_sub(block.size_bytes);
            excess.push(block);
        }
        excess
    }
}
