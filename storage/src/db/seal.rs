//! Sealing: frozen tables become blocks, all blocks of a table in one ingest. The ingest's return is
//! the commit point; the table's log goes after it.

use super::Inner;
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

impl Inner {
    /// Seals all frozen tables. After an error what was sealed stays sealed and the rest stays frozen,
    /// readable and in the log; calling again goes on.
    pub fn seal_frozen(&self) -> Result<(), StorageError> {
        let _sealing = self.sealing.lock();
        for table in self.tables.frozen() {
            self.interrupts.hold();
            let result = self.seal_or_make_room(&table);
            self.interrupts.resume();
            if let Err(error) = result {
                self.counters.seals_failed.increment();
                return Err(error);
            }
        }
        self.reap();
        Ok(())
    }

    /// Freezes and seals everything that is in memory now.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.tables.freeze_all();
        self.seal_frozen()
    }

    fn seal_or_make_room(&self, table: &FrozenTable) -> Result<(), StorageError> {
        let Err(error) = self.seal(table) else { return Ok(()) };
        tracing::error!(table = table.number(), error = error_chain(&error), "sealing a table failed");
        if self.ballast.free() {
            tracing::warn!("gave the ballast back, sealing again");
            return self.seal(table);
        }
        Err(error)
    }

    fn seal(&self, table: &FrozenTable) -> Result<(), StorageError> {
        let begun = Instant::now();
        let (mint, maxt) = table.time_range();
        let cuts = boundaries(&self.version.load().infos(), &self.levels(), mint, maxt);
        let mut staged = Vec::new();
        let mut headers = Vec::new();
        for ((mint, maxt), mut source) in table.sources(&cuts) {
            let id = self.ids.next(&*self.options.clock);
            let mut block = StagedBlock::create(&self.directory.staging(), id)?;
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
                spill_dir: Some(self.directory.staging()),
            };
            let header = write_block(meta, &mut source, &mut block)?;
            if header.n_series > 0 {
                staged.push(block);
                headers.push(header);
            }
        }
        let n_blocks = headers.len();
        self.commit_seal(staged, headers)?;
        self.tables.sealed(table.number());
        self.counters.blocks_sealed.add(n_blocks as u64);
        self.counters.seal_durations.record(begun.elapsed());
        tracing::debug!(table = table.number(), n_blocks, "sealed a table");
        Ok(())
    }

    fn commit_seal(&self, staged: Vec<StagedBlock>, headers: Vec<BlockHeader>) -> Result<(), StorageError> {
        let _commit = self.commit.lock();
        self.ingest(staged)?;
        // The blocks are in. An error from here on must not have the table sealed again, into blocks of
        // the same samples; that would be answered rightly too, but it takes space twice.
        let blocks = self.open_ingested(headers)?;
        let version = self.version.load().changed(&[], blocks);
        self.version.store(Arc::new(version));
        Ok(())
    }

    /// Ingests blocks; after an error that is none of ours RocksDB is opened anew, because it may not
    /// recover by itself.
    pub fn ingest(&self, staged: Vec<StagedBlock>) -> Result<(), StorageError> {
        let result = self.store.ingest_blocks(staged);
        if result.is_err() {
            match self.store.reopen() {
                Ok(()) => self.counters.reopened.increment(),
                Err(error) => tracing::error!(error = error_chain(&error), "cannot reopen the database"),
            }
        }
        result
    }

    /// Opens blocks that were just ingested.
    pub fn open_ingested(&self, headers: Vec<BlockHeader>) -> Result<Vec<Arc<Block>>, StorageError> {
        let files = self.store.blocks()?;
        let open = |header: BlockHeader| {
            let files = files.get(&Some(header.block_id()));
            let size_bytes = files.map_or(0, |files| files.iter().map(|file| file.size_bytes).sum());
            Block::open(&self.store, &self.drops, Arc::new(header), size_bytes).map(Arc::new)
        };
        headers.into_iter().map(open).collect()
    }

    /// Drops blocks that nobody reads any more.
    pub fn reap(&self) {
        for id in self.drops.take() {
            if let Err(error) = self.store.drop_block(id) {
                // Its parents or its age say at the next start that it goes.
                tracing::error!(block = %id, error = error_chain(&error), "cannot drop a block");
            }
        }
    }
}
