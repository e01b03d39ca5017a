//! Reads ahead after a start, before anybody asks: dashboards and alerts want the newest data, and Prometheus
//! has it in memory once it has replayed its head.
//!
//! A thread of low priority reads what finds series in blocks (into RocksDB's cache), lists names, decodes timestamp columns, and
//! reads tiles (into their cache), the newest first each time, up to a bound. It begins when the server is ready and ends between two
//! records when the store closes. It reads one block at a time, and holds no other.

use super::Inner;
use super::version::Block;
use crate::block::header::SLICE_MS;
use crate::error::{StorageError, error_chain};
use crate::kv::keys::BlockId;
use crate::part::Take;
use chronolith_model::METRIC_NAME;
use chronolith_model::queryable::{LabelQuery, ReadError, Unlimited};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// How much less of a processor the thread gets where others want it, too: a tenth, as `nice` counts. With less, locks
/// of caches that it holds for an instant would keep queries waiting on a machine that is never idle.
const NICENESS: i32 = 10;

/// Timestamp columns take at most this part of what is left for samples: with many targets for their series they are as large
/// as the values.
const COLUMNS_SHARE: usize = 8;

/// What may still be read.
struct Allowance<'i> {
    inner: &'i Inner,
    left_bytes: usize,
    read_bytes: usize,
}

impl<'i> Allowance<'i> {
    fn new(inner: &'i Inner, left_bytes: usize) -> Self {
        Self { inner, left_bytes, read_bytes: 0 }
    }

    /// Counts what was read and says whether to go on.
    fn take(&mut self, size_bytes: usize) -> ControlFlow<()> {
        self.read_bytes += size_bytes;
        self.left_bytes = self.left_bytes.saturating_sub(size_bytes);
        if self.is_used_up() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn is_used_up(&self) -> bool {
        self.left_bytes == 0 || self.inner.interrupts.is_stopped()
    }
}

/// Starts the thread, which does `then` at its end, unless the store closes before.
pub(crate) fn start(
    inner: &Arc<Inner>,
    then: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let inner = Arc::clone(inner);
    let work = move || {
        inner.run_ahead();
        if !inner.interrupts.is_stopped() {
            then();
        }
    };
    std::thread::Builder::new().name("read-ahead".to_owned()).spawn(work)
}

impl Inner {
    /// The work of the thread.
    fn run_ahead(&self) {
        // On Linux this is the thread's. Where it is not allowed, nothing is lost.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let begun = Instant::now();
        let (index_bytes, tile_bytes) = self.read_ahead();
        if index_bytes + tile_bytes > 0 {
            tracing::info!(index_bytes, tile_bytes, duration = ?begun.elapsed(), "Newest data read ahead");
        }
    }

    /// Reads what [`Options::read_ahead_bytes`](crate::Options::read_ahead_bytes) allows; returns the bytes of
    /// index records and of tiles.
    pub fn read_ahead(&self) -> (usize, usize) {
        let bytes = self.options.read_ahead_bytes;
        // A full cache drops what came first, and that is the newest here.
        let mut allowance = Allowance::new(self, bytes.min(self.options.block_cache_bytes() / 2));
        let mut blocks: Vec<_> =
            self.version.load().blocks.iter().map(|block| (block.header.maxt, block.id())).collect();
        blocks.sort_unstable_by(|a, b| b.cmp(a));
        for &(_, id) in &blocks {
            self.read_block_ahead(id, &mut allowance, |block, take| block.part.read_index_ahead(take));
        }
        let index_bytes = allowance.read_bytes;
        if index_bytes > 0
            && let Err(error) = self.list_ahead()
        {
            tracing::warn!(error = error_chain(&error), "cannot read ahead");
        }
        let left_bytes = bytes.saturating_sub(index_bytes);
        let mut allowance = Allowance::new(self, left_bytes / COLUMNS_SHARE);
        for (_, id) in blocks {
            self.read_block_ahead(id, &mut allowance, |block, take| {
                block.part.read_columns_ahead(&block.uncached(&self.store), take)
            });
        }
        let left_bytes = left_bytes.saturating_sub(allowance.read_bytes);
        let mut allowance = Allowance::new(self, left_bytes.min(self.options.tile_cache_bytes() / 2));
        for (id, slice) in self.newest_days() {
            self.read_block_ahead(id, &mut allowance, |block, take| {
                block.part.read_tiles_ahead(&block.uncached(&self.store), slice, take)
            });
        }
        (index_bytes, allowance.read_bytes)
    }

    /// Looks up the names of labels and metrics, which are kept from then on: what a dashboard asks for first.
    fn list_ahead(&self) -> Result<(), ReadError> {
        let all = LabelQuery { matcher_sets: &[], mint: i64::MIN, maxt: i64::MAX, limit: 0 };
        let (snapshot, cx) = (self.pin()?, Unlimited::default());
        snapshot.label_names(&all, &cx)?;
        snapshot.label_values(METRIC_NAME, &all, &cx)?;
        Ok(())
    }

    /// Reads of a block that is still there, as far as bytes are left. Damage is told and passed over.
    fn read_block_ahead(
        &self,
        id: BlockId,
        allowance: &mut Allowance<'_>,
        read: impl FnOnce(&Block, &mut Take<'_>) -> Result<(), StorageError>,
    ) {
        if allowance.is_used_up() {
            return;
        }
        // Files of blocks that were merged meanwhile are not kept for this.
        let Some(block) = self.version.load().get(id).cloned() else { return };
        if let Err(error) = read(&block, &mut |size_bytes| allowance.take(size_bytes)) {
            tracing::warn!(block = %id, error = error_chain(&error), "cannot read ahead");
        }
    }

    /// The days of all blocks, those with the latest timestamps first.
    fn newest_days(&self) -> Vec<(BlockId, u16)> {
        let mut days = Vec::new();
        for block in &self.version.load().blocks {
            let header = &block.header;
            for day in header.mint.div_euclid(SLICE_MS)..=header.maxt.div_euclid(SLICE_MS) {
                let newest = header.maxt.min(day.saturating_add(1).saturating_mul(SLICE_MS) - 1);
                let slice = u16::try_from(day - header.first_slice());
                days.extend(slice.map(|slice| (newest, block.id(), slice)));
            }
        }
        days.sort_unstable_by(|a, b| b.cmp(a));
        days.into_iter().map(|(_, id, slice)| (id, slice)).collect()
    }
}
