//! Sealing: frozen tables become blocks, all blocks of several tables in one ingest. The ingest's return
//! is the commit point; the tables' logs go after it.

use super::Inner;
use super::compact::Compacted;
use super::directory::Purpose;
use super::version::Block;
use crate::block::compaction::boundaries;
use crate::block::header::BlockHeader;
use crate::block::writer::{BlockMeta, write_block};
use crate::chunk::Effort;
use crate::error::{StorageError, error_chain};
use crate::kv::staged::StagedBlock;
use crate::table::FrozenTable;
use std::sync::Arc;
use std::time::Instant;

/// More blocks than this are too many: whoever seals merges first. Compaction keeps far below it unless
/// seals come faster than it can follow.
const MANY_BLOCKS: usize = 160;

/// Tables that go into one ingest at most, and samples after which no more are added: as much memory
/// as a batch holds on to until all of it is written.
const MAX_TABLES_PER_INGEST: usize = 32;
const MAX_SAMPLES_PER_INGEST: u64 = 4 << 20;

impl Inner {
    /// Seals all frozen tables. After an error what was sealed stays sealed and the rest stays frozen,
    /// readable and in the log; calling again goes on.
    ///
    /// With very many blocks some are merged first, so that sealing cannot outrun compaction.
    pub fn seal_frozen(&self) -> Result<(), StorageError> {
        let _sealing = self.sealing.lock();
        self.thin_out();
        self.seal_all()
    }

    /// As [`Inner::seal_frozen`] while the log is replayed: some tables are not known yet, so blocks
    /// cannot be merged.
    pub fn seal_replayed(&self) -> Result<(), StorageError> {
        let _sealing = self.sealing.lock();
        self.seal_all()
    }

    fn seal_all(&self) -> Result<(), StorageError> {
        let frozen = self.tables.frozen();
        for tables in batches(&frozen) {
            self.interrupts.hold();
            let result = self.seal_or_make_room(tables);
            self.interrupts.resume();
            if let Err(error) = result {
                self.counters.seals_failed.increment();
                return Err(error);
            }
        }
        self.reap();
        Ok(())
    }

    /// Merges small blocks while there are too many.
    fn thin_out(&self) {
        while self.version.load().blocks.len() > MANY_BLOCKS {
            match self.compact_crowd() {
                Ok(Compacted::Done | Compacted::Overtaken) => {}
                Ok(Compacted::Nothing) => return,
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "cannot merge blocks before sealing more");
                    return;
                }
            }
        }
    }

    /// Freezes and seals everything that is in memory now.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.tables.freeze_all();
        self.seal_frozen()
    }

    fn seal_or_make_room(&self, tables: &[FrozenTable]) -> Result<(), StorageError> {
        let Err(error) = self.seal(tables) else { return Ok(()) };
        let numbers: Vec<u64> = tables.iter().map(FrozenTable::number).collect();
        tracing::error!(tables = ?numbers, error = error_chain(&error), "sealing tables failed");
        if self.ballast.free() {
            tracing::warn!("gave the ballast back, sealing again");
            return self.seal(tables);
        }
        Err(error)
    }

    /// Writes tables as blocks, which become visible and durable together.
    fn seal(&self, tables: &[FrozenTable]) -> Result<(), StorageError> {
        let begun = Instant::now();
        let infos = self.version.load().infos();
        let levels = self.levels();
        let mut staged = Vec::new();
        let mut headers = Vec::new();
        for table in tables {
            let cuts = boundaries(&infos, &levels, table.time_range(), table.n_samples());
            for ((mint, maxt), mut source) in table.sources(&cuts) {
                let id = self.ids.next(&*self.options.clock);
                let mut block = StagedBlock::create(&self.directory.staging_for(Purpose::Seal), id)?;
                let meta = BlockMeta {
                    id,
                    mint,
                    maxt,
                    level: 0,
                    seq_min: table.seq(),
                    seq_max: table.seq(),
                    tables: vec![table.number()],
                    parents: Vec::new(),
                    effort: Effort::Seal,
                    spill_dir: Some(self.directory.staging_for(Purpose::Seal)),
                };
                let header = write_block(meta, &mut source, &mut block)?;
                if header.n_series > 0 {
                    staged.push(block);
                    headers.push(header);
                }
            }
        }
        let n_blocks = headers.len();
        self.commit_seal(staged, headers)?;
        for table in tables {
            self.tables.sealed(table.number());
        }
        self.counters.blocks_sealed.add(n_blocks as u64);
        self.counters.seal_durations.record(begun.elapsed());
        tracing::debug!(n_tables = tables.len(), n_blocks, "sealed tables");
        Ok(())
    }

    fn commit_seal(&self, staged: Vec<StagedBlock>, headers: Vec<BlockHeader>) -> Result<(), StorageError> {
        let _commit = self.commit.lock();
        let sizes = self.ingest(staged)?;
        // The blocks are in. An error from here on must not have the tables sealed again, into blocks of
        // the same samples; that would be answered rightly too, but it takes space twice.
        let blocks = self.open_ingested(headers, sizes)?;
        let version = self.version.load().changed(&[], blocks);
        self.version.store(Arc::new(version));
        Ok(())
    }

    /// Ingests blocks and gives their sizes; after an error that is none of ours RocksDB is opened anew,
    /// because it may not recover by itself.
    pub fn ingest(&self, staged: Vec<StagedBlock>) -> Result<Vec<u64>, StorageError> {
        let result = self.store.ingest_blocks(staged);
        if result.is_err() {
            match self.store.reopen() {
                Ok(()) => self.counters.reopened.increment(),
                Err(error) => tracing::error!(error = error_chain(&error), "cannot reopen the database"),
            }
        }
        result
    }

    /// Opens blocks that were just ingested and have these sizes.
    pub fn open_ingested(
        &self,
        headers: Vec<BlockHeader>,
        sizes: Vec<u64>,
    ) -> Result<Vec<Arc<Block>>, StorageError> {
        let open = |(header, size_bytes): (BlockHeader, u64)| {
            Block::open(&self.store, &self.drops, &self.caches, Arc::new(header), size_bytes).map(Arc::new)
        };
        headers.into_iter().zip(sizes).map(open).collect()
    }

    /// Drops blocks that nobody reads any more.
    pub fn reap(&self) {
        let ids = self.drops.take();
        if let Err(error) = self.store.drop_blocks(&ids) {
            // Their parents or their age say at the next start that they go.
            tracing::error!(blocks = ?ids, error = error_chain(&error), "cannot drop blocks");
        }
    }
}

/// Frozen tables in their order, as many together as one ingest takes: each costs an edit of the
/// manifest and syncs of its files and folders.
fn batches(frozen: &[FrozenTable]) -> impl Iterator<Item = &[FrozenTable]> {
    let mut rest = frozen;
    std::iter::from_fn(move || {
        let mut n_samples = 0;
        let is_in = |table: &&FrozenTable| {
            let has_room = n_samples < MAX_SAMPLES_PER_INGEST;
            n_samples += table.n_samples();
            has_room
        };
        let n_tables = rest.iter().take(MAX_TABLES_PER_INGEST).take_while(is_in).count();
        let (batch, behind) = rest.split_at(n_tables);
        rest = behind;
        (!batch.is_empty()).then_some(batch)
    })
}
