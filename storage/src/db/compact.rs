//! Compaction: merges blocks, verifies the result by reading it again, then replaces its inputs.
//!
//! A deletion may come at any time. One that comes while the merge reads makes the merge start over.
//! One that comes while the result is verified is recorded for the result too, because from its
//! ingest on a restart would drop the inputs.

use super::Inner;
use super::directory::Purpose;
use super::version::Block;
use crate::block::compaction::{BlockInfo, Levels, Plan, plan, plan_crowd};
use crate::block::content::ContentHash;
use crate::block::header::BlockHeader;
use crate::block::merge::{MergeInput, MergeSource};
use crate::block::reader::BlockPart;
use crate::block::writer::{BlockMeta, write_block};
use crate::chunk::Effort;
use crate::error::{StorageError, error_chain};
use crate::kv::keys::BlockId;
use crate::kv::staged::StagedBlock;
use crate::metrics::LostRange;
use crate::part::{Part, PartRead, PartSelect, RunBuffer};
use chronolith_model::queryable::{HistogramNeed, Projection, QueryContext, Stop, Unlimited};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Blocks of this level (a day) or higher are encoded with more effort: 25 instead of 9 ns a sample, for
/// a tenth of the space (measured).
const COMPACT_EFFORT_LEVEL: u8 = 3;

/// Free space that a merge leaves to others.
const SPARE_BYTES: u64 = 64 << 20;

/// What became of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compacted {
    /// It replaced its inputs.
    Done,
    /// There was nothing to merge, or no room for it.
    Nothing,
    /// A deletion came in between; trying again will do.
    Overtaken,
}

/// Blocks that a merge works on: no other one takes them until this is dropped.
struct Claim<'m> {
    merging: &'m Mutex<HashSet<BlockId>>,
    ids: Vec<BlockId>,
}

impl<'m> Claim<'m> {
    fn of(merging: &'m Mutex<HashSet<BlockId>>, locked: &mut HashSet<BlockId>, ids: Vec<BlockId>) -> Self {
        locked.extend(ids.iter().copied());
        Self { merging, ids }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut merging = self.merging.lock();
        self.ids.iter().for_each(|id| {
            merging.remove(id);
        });
    }
}

impl Inner {
    /// Levels by the present retention.
    pub fn levels(&self) -> Levels {
        let retention = self.retention_time_ms.load(Ordering::Relaxed);
        Levels::new(self.options.window_ms, self.options.max_block_ms(retention))
    }

    /// Does the next merge that is due.
    pub fn compact_once(&self) -> Result<Compacted, StorageError> {
        let _compacting = self.compacting.lock();
        self.merge_next(|blocks, levels| plan(blocks, levels, self.horizon()))
    }

    /// Merges small blocks that have become a crowd, beside what compaction is doing.
    pub fn compact_crowd(&self) -> Result<Compacted, StorageError> {
        self.merge_next(plan_crowd)
    }

    fn merge_next(
        &self,
        choose: impl FnOnce(&[BlockInfo], &Levels) -> Option<Plan>,
    ) -> Result<Compacted, StorageError> {
        let (plan, inputs, _claim) = {
            let mut merging = self.merging.lock();
            // Before the version: what is sealed later ranks behind it.
            let settled = self.tables.settled_below();
            let version = self.version.load_full();
            let mut infos = version.infos();
            for info in &mut infos {
                info.stays |= info.seq.1 >= settled || merging.contains(&info.id);
            }
            let Some(plan) = choose(&infos, &self.levels()) else { return Ok(Compacted::Nothing) };
            let inputs: Vec<Arc<Block>> =
                plan.inputs.iter().filter_map(|&id| version.get(id).cloned()).collect();
            let claim = Claim::of(&self.merging, &mut merging, plan.inputs.clone());
            (plan, inputs, claim)
        };
        self.merge(&plan, inputs)
    }

    /// Writes blocks with deletions anew, without what was deleted.
    pub fn clean_tombstones(&self) -> Result<(), StorageError> {
        let _compacting = self.compacting.lock();
        let deleted = |block: &&Arc<Block>| !block.part.tombstones().is_empty() && !block.is_damaged();
        let ids: Vec<BlockId> =
            self.version.load().blocks.iter().filter(deleted).map(|block| block.id()).collect();
        for id in ids {
            loop {
                let (block, _claim) = {
                    let mut merging = self.merging.lock();
                    // Merged meanwhile, or just being merged: without what was deleted.
                    let Some(block) = self.version.load().get(id).filter(|_| !merging.contains(&id)).cloned()
                    else {
                        break;
                    };
                    (block, Claim::of(&self.merging, &mut merging, vec![id]))
                };
                let plan = Plan { inputs: vec![id], level: block.header.level };
                if self.merge(&plan, vec![block])? != Compacted::Overtaken {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Samples up to this time are in blocks but for late ones.
    fn horizon(&self) -> i64 {
        let Some((_, newest)) = self.time_range() else { return i64::MIN };
        let closed = self.options.window_start(newest).saturating_sub(self.options.window_ms + 1);
        let frozen = self.tables.frozen();
        let unsealed = frozen.iter().map(|table| table.time_range().0 - 1).min();
        unsealed.map_or(closed, |unsealed| closed.min(unsealed))
    }

    fn merge(&self, plan: &Plan, inputs: Vec<Arc<Block>>) -> Result<Compacted, StorageError> {
        let needed = inputs.iter().map(|block| block.size_bytes).sum::<u64>() + SPARE_BYTES;
        if self.ballast.free_bytes().is_some_and(|free| free < needed) {
            tracing::warn!(needed, "not enough space to merge blocks");
            return Ok(Compacted::Nothing);
        }
        let begun = Instant::now();
        let result = self.try_merge(plan, &inputs);
        match &result {
            Ok(Compacted::Done) => {
                self.counters.compactions.increment();
                self.counters.compaction_durations.record(begun.elapsed());
            }
            Ok(_) | Err(StorageError::Stop(_) | StorageError::Closed) => {}
            Err(error) => {
                self.counters.compactions_failed.increment();
                tracing::error!(inputs = ?plan.inputs, error = error_chain(error), "merging blocks failed");
                if matches!(error, StorageError::Corrupt { .. }) {
                    self.find_damage(&inputs);
                }
            }
        }
        drop(inputs);
        self.reap();
        result
    }

    fn try_merge(&self, plan: &Plan, inputs: &[Arc<Block>]) -> Result<Compacted, StorageError> {
        // Opened together with the count of deletions, so that none falls in between.
        let (parts, n_tombstones) = {
            let _commit = self.commit.lock();
            let parts: Result<Vec<_>, _> = inputs.iter().map(|block| block.bulk_part(&self.store)).collect();
            (parts?, self.count_tombstones(inputs))
        };
        let merge_inputs = parts
            .into_iter()
            .map(|part| {
                let header = part.header();
                let samples_per_series = header.n_samples() / u64::from(header.n_series.max(1));
                MergeInput { part: Arc::new(part), samples_per_series }
            })
            .collect();
        let mut source = MergeSource::new(merge_inputs, self.interrupts.clone())?;
        let id = self.ids.next(&*self.options.clock);
        let mut staged = StagedBlock::create(&self.directory.staging_for(Purpose::Merge), id)?;
        let header = write_block(self.output_meta(plan, inputs, id), &mut source, &mut staged)?;
        let expected = source.n_samples;
        let n_conflicts = source.n_conflicts;
        drop(source);
        if header.n_series == 0 {
            return self.commit_empty(inputs, n_tombstones);
        }
        if header.n_samples() != expected {
            let reason = format!("{expected} samples went in, {} were written", header.n_samples());
            return Err(StorageError::Kv { operation: format!("merge into block {id}"), reason });
        }
        let output = {
            let _commit = self.commit.lock();
            if self.count_tombstones(inputs) != n_tombstones {
                return Ok(Compacted::Overtaken);
            }
            let sizes = self.ingest(vec![staged])?;
            let output = self.open_ingested(vec![header], sizes)?.remove(0);
            self.pending.lock().push(Arc::clone(&output));
            output
        };
        let verified = output
            .bulk_part(&self.store)
            .and_then(|part| verify(&part.without_tombstones(), &output.header, &self.check_stop()));
        let _commit = self.commit.lock();
        // With the deletions that came meanwhile.
        let output = {
            let mut pending = self.pending.lock();
            let at = pending.iter().position(|block| block.id() == id);
            at.map_or(output, |at| pending.swap_remove(at))
        };
        if let Err(error) = verified {
            output.doom();
            return Err(error);
        }
        self.replace(inputs, Some(output));
        self.counters.compaction_conflicts.add(n_conflicts);
        Ok(Compacted::Done)
    }

    fn output_meta(&self, plan: &Plan, inputs: &[Arc<Block>], id: BlockId) -> BlockMeta {
        let headers = || inputs.iter().map(|block| &block.header);
        // Tables whose logs are gone need no mention any more.
        let mut tables: Vec<u64> = headers().flat_map(|header| header.tables.iter().copied()).collect();
        tables.retain(|table| self.directory.log_of(*table).exists());
        tables.sort_unstable();
        tables.dedup();
        BlockMeta {
            id,
            mint: headers().map(|header| header.range_mint).min().unwrap_or(0),
            maxt: headers().map(|header| header.range_maxt).max().unwrap_or(0),
            level: plan.level,
            seq_min: headers().map(|header| header.seq_min).min().unwrap_or(0),
            seq_max: headers().map(|header| header.seq_max).max().unwrap_or(0),
            tables,
            parents: inputs.iter().map(|block| block.id().0).collect(),
            effort: if plan.level >= COMPACT_EFFORT_LEVEL { Effort::Compact } else { Effort::Seal },
            spill_dir: Some(self.directory.staging_for(Purpose::Merge)),
        }
    }

    /// Everything in the inputs was deleted: they go without a successor.
    fn commit_empty(&self, inputs: &[Arc<Block>], n_tombstones: usize) -> Result<Compacted, StorageError> {
        let _commit = self.commit.lock();
        if self.count_tombstones(inputs) != n_tombstones {
            return Ok(Compacted::Overtaken);
        }
        self.replace(inputs, None);
        Ok(Compacted::Done)
    }

    /// Takes blocks out of the version and has them dropped.
    pub fn replace(&self, blocks: &[Arc<Block>], by: Option<Arc<Block>>) {
        let ids: Vec<_> = blocks.iter().map(|block| block.id()).collect();
        let version = self.version.load().changed(&ids, by);
        self.version.store(Arc::new(version));
        blocks.iter().for_each(|block| block.doom());
    }

    fn count_tombstones(&self, blocks: &[Arc<Block>]) -> usize {
        let version = self.version.load();
        let present = blocks.iter().filter_map(|block| version.get(block.id()));
        present.map(|block| block.part.tombstones().len()).sum()
    }

    /// Finds out which block cannot be read whole, reports it and keeps it out of merges.
    fn find_damage(&self, blocks: &[Arc<Block>]) {
        for block in blocks {
            let read = block
                .bulk_part(&self.store)
                .and_then(|part| verify(&part.without_tombstones(), &block.header, &self.check_stop()));
            if let Err(error @ StorageError::Corrupt { .. }) = read {
                block.set_damaged();
                self.quarantine.report(LostRange {
                    what: format!("part of block {}", block.id()),
                    range: Some((block.header.mint, block.header.maxt)),
                    reason: error_chain(&error),
                    kept_at: None,
                    found_at: self.options.clock.now_ms(),
                });
            }
        }
    }

    fn check_stop(&self) -> impl Fn() -> Result<(), Stop> + '_ {
        || self.interrupts.check()
    }
}

/// Reads a whole block, deletions aside, and compares it with what its header says was written.
///
/// # Errors
/// [`StorageError::Corrupt`] if they differ or it does not read.
pub(crate) fn verify(
    part: &BlockPart,
    header: &BlockHeader,
    check: &dyn Fn() -> Result<(), Stop>,
) -> Result<(), StorageError> {
    let context = Unlimited::default();
    let all = PartSelect { matchers: &[], mint: i64::MIN, maxt: i64::MAX, labels: Projection::All };
    let series = part.select(&all, &context)?;
    let read = PartRead {
        mint: i64::MIN,
        maxt: i64::MAX,
        lookups: None,
        values: true,
        histograms: HistogramNeed::Full,
        start_timestamps: false,
    };
    let mut content = ContentHash::default();
    let mut buffer = RunBuffer::default();
    for partition in series.partitions() {
        check()?;
        buffer.clear();
        series.read(partition.clone(), &read, &mut buffer, &context)?;
        for runs in buffer.runs.chunk_by(|a, b| a.series == b.series) {
            let labels = series.labels(partition.start + runs[0].series);
            let hash = context.symbols().with_strings(|strings| {
                let text = |symbol: chronolith_model::symbols::Symbol| &*strings[symbol.0 as usize];
                ContentHash::series(labels.iter().map(|&(name, value)| (text(name), text(value))))
            });
            runs.iter().for_each(|run| content.add_run(hash, run, &buffer));
        }
    }
    let found = (content.sum, content.n_floats, content.n_histograms);
    let expected = (header.content_hash, header.n_floats, header.n_histograms);
    if found != expected || series.len() != header.n_series {
        let reason = format!("it holds (hash, floats, histograms) {found:?}, its header says {expected:?}");
        return Err(StorageError::corrupt(format!("block {}", header.block_id()), reason));
    }
    Ok(())
}
