//! Deletion: freezes what overlaps, then records the deleted series of every block, all blocks in one
//! ingest. What is written later is not touched.

use super::Inner;
use super::directory::Purpose;
use super::version::Block;
use crate::error::StorageError;
use crate::kv::KvWrite;
use crate::kv::keys::Kind;
use crate::kv::staged::StagedBlock;
use chronolith_model::Matcher;
use chronolith_model::queryable::Unlimited;
use std::sync::Arc;

impl Inner {
    /// Deletes the samples of `[mint, maxt]` of series for which all matchers of any set hold. Once it
    /// returns the deletion is durable and every later query, series and label look-up sees it.
    ///
    /// # Errors
    /// [`StorageError`] if the open tables cannot be sealed or the deletion not be written; nothing is
    /// deleted then.
    pub fn delete(&self, matcher_sets: &[Vec<Matcher>], mint: i64, maxt: i64) -> Result<(), StorageError> {
        if matcher_sets.is_empty() || mint > maxt {
            return Ok(());
        }
        self.tables.freeze_overlapping(matcher_sets, mint, maxt);
        self.seal_frozen()?;
        let _commit = self.commit.lock();
        let version = self.version.load_full();
        // Results of merges that are not served yet replace their inputs at the next start.
        let pending: Vec<Arc<Block>> = self.pending.lock().clone();
        let affected = version.blocks.iter().chain(&pending).filter(|block| block.overlaps(mint, maxt));
        let context = Unlimited::default();
        let mut staged = Vec::new();
        let mut changed = Vec::new();
        for block in affected {
            let Some(tombstone) = block.part.tombstone(matcher_sets, mint, maxt, &context)? else { continue };
            let mut file = StagedBlock::create(&self.directory.staging_for(Purpose::Delete), block.id())?;
            let (key, value) = tombstone.record(block.id());
            file.put(Kind::Tombstones, &key, &value)?;
            staged.push(file);
            let part = block.part.with_tombstones(vec![Arc::new(tombstone)]);
            changed.push(Arc::new(block.with_part(part)));
        }
        self.ingest(staged)?;
        let (unserved, served): (Vec<Arc<Block>>, Vec<Arc<Block>>) =
            changed.into_iter().partition(|block| pending.iter().any(|one| one.id() == block.id()));
        {
            let mut pending = self.pending.lock();
            for block in unserved {
                pending.retain(|one| one.id() != block.id());
                pending.push(block);
            }
        }
        let ids: Vec<_> = served.iter().map(|block| block.id()).collect();
        self.version.store(Arc::new(version.changed(&ids, served)));
        self.counters.deletions.increment();
        Ok(())
    }
}
