//! Pins of blocks: a block that was replaced or is too old is dropped only when nobody reads it.

use super::keys::BlockId;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Held by everything that may read a block. When the last one goes and the block was doomed, the
/// block is queued to be dropped.
#[derive(Debug)]
pub struct BlockPin {
    id: BlockId,
    doomed: AtomicBool,
    queue: Arc<DropQueue>,
}

impl BlockPin {
    /// The first pin of a block that was just ingested or found.
    pub fn new(id: BlockId, queue: Arc<DropQueue>) -> Arc<Self> {
        Arc::new(Self { id, doomed: AtomicBool::new(false), queue })
    }

    /// The block.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// Whether the block is dropped when the last pin goes.
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }

    /// Has the block dropped when the last pin goes.
    pub fn doom(&self) {
        self.doomed.store(true, Ordering::SeqCst);
    }
}

impl Drop for BlockPin {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::SeqCst) {
            self.queue.push(self.id);
        }
    }
}

/// Blocks that nobody reads any more.
#[derive(Debug, Default)]
pub struct DropQueue {
    ready: Mutex<Vec<BlockId>>,
    changed: Condvar,
}

impl DropQueue {
    /// Adds a block.
    pub fn push(&self, id: BlockId) {
        self.ready.lock().push(id);
        self.changed.notify_all();
    }

    /// Takes all blocks.
    pub fn take(&self) -> Vec<BlockId> {
        std::mem::take(&mut self.ready.lock())
    }

    /// Waits until there is a block, at most `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut ready = self.ready.lock();
        if ready.is_empty() {
            self.changed.wait_for(&mut ready, timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doomed_block_waits_for_its_last_reader() {
        let queue = Arc::new(DropQueue::default());
        let pin = BlockPin::new(BlockId(3), Arc::clone(&queue));
        let reader = Arc::clone(&pin);
        pin.doom();
        drop(pin);
        assert_eq!(queue.take(), []);
        drop(reader);
        assert_eq!(queue.take(), [BlockId(3)]);
    }

    #[test]
    fn a_block_that_is_not_doomed_stays() {
        let queue = Arc::new(DropQueue::default());
        drop(BlockPin::new(BlockId(3), Arc::clone(&queue)));
        assert_eq!(queue.take(), []);
    }
}
