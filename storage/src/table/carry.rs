//! What of a table no block can hold moves on to an open table before its log is deleted: exemplars of
//! series without samples in the table, and metadata of a table without any sample.
//!
//! If it cannot be moved now (the log is broken), the table waits, in memory and with its log.

use super::TableSet;
use super::open::{ShardTotals, Table, add_metadata};
use super::set::{CURRENT, Entered, LATE};
use crate::error::{AppendError, StorageError, error_chain};
use chronolith_model::append::{Exemplar, Metadata};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Shard, slot in the registry and exemplar.
type Orphan = (usize, u32, Exemplar);

impl TableSet {
    /// Goes into the table of the newest window, opening it if need be. Before the first sample that is
    /// the table of late samples: which window comes first is left open.
    pub(super) fn enter_any(&self) -> Result<Entered, AppendError> {
        loop {
            let tables = self.tables.load_full();
            let role = if tables.current_window.is_some() { CURRENT } else { LATE };
            let Some(table) = &tables.open[role] else {
                self.open_role(role).map_err(|error| self.unavailable(&error))?;
                continue;
            };
            if table.gate.enter() {
                return Ok(Entered::only(role, Arc::clone(table)));
            }
            // Frozen between the look at the set and the gate: the next version has another table.
            std::thread::yield_now();
        }
    }

    fn open_role(&self, role: usize) -> Result<(), StorageError> {
        let _guard = self.structure.lock();
        let mut tables = (*self.tables.load_full()).clone();
        if tables.open[role].is_none() {
            let window = tables.current_window.filter(|_| role == CURRENT);
            // A window that came meanwhile has its own table; the caller looks again.
            if role == LATE || window.is_some() {
                tables.open[role] = Some(self.new_table(window)?);
                self.tables.store(Arc::new(tables));
            }
        }
        Ok(())
    }

    /// Deletes the log of a table that is in blocks, once what no block can hold has moved on.
    pub(super) fn retire(&self, table: Arc<Table>) {
        let mut known = self.known_metadata.lock();
        for (name, all) in table.metadata() {
            all.iter().for_each(|one| {
                add_metadata(&mut known, &name, one);
            });
        }
        drop(known);
        self.waiting.lock().push(table);
        self.retire_waiting();
    }

    /// Tries again what [`TableSet::retire`] could not finish.
    pub(super) fn retire_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for table in waiting {
            match self.carry_over(&table) {
                Ok(()) => table.log.remove(),
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(table = table.number, error, "the log of a sealed table is kept for now");
                    self.waiting.lock().push(table);
                }
            }
        }
    }

    fn carry_over(&self, table: &Table) -> Result<(), AppendError> {
        let orphans = self.orphans(table);
        let metadata = if table.n_samples() == 0 { table.metadata() } else { Default::default() };
        if orphans.is_empty() && metadata.is_empty() {
            return Ok(());
        }
        if let Some(reason) = self.log.broken.get() {
            return Err(AppendError::Unavailable { reason, retry_after_s: 0 });
        }
        if self.replaying.load(Ordering::Acquire) {
            let reason = "the log is being replayed".to_owned();
            return Err(AppendError::Unavailable { reason, retry_after_s: 0 });
        }
        let entered = self.enter_any()?;
        let target = entered.newest().expect("a table was entered");
        let entries: Vec<(&str, &Metadata)> =
            metadata.iter().flat_map(|(name, all)| all.iter().map(move |one| (name.as_str(), one))).collect();
        target.add_metadata(entries.into_iter());
        for (shard_index, slot, exemplar) in orphans {
            let mut registry = self.registry.shards[shard_index].write();
            let mut shard = target.shards[shard_index].write();
            let before = ShardTotals::of(&shard);
            let number = self.number_in(&mut shard, slot, &mut registry);
            shard.carry_exemplar(number, &exemplar);
            target.account(before, &shard);
        }
        // The log that goes may be synced already, so the one that takes its place has to be.
        let written = target.flush().and_then(|counter| target.log.sync_to(counter));
        written.map_err(|error| self.unavailable(&error))
    }

    /// Exemplars that no block of the table has, unless retention has passed them.
    fn orphans(&self, table: &Table) -> Vec<Orphan> {
        let oldest = self.oldest_kept().unwrap_or(i64::MIN);
        let mut orphans = Vec::new();
        for (shard_index, shard) in table.shards.iter().enumerate() {
            let shard = shard.read();
            for (ordinal, exemplar) in shard.exemplars().iter() {
                if exemplar.timestamp >= oldest && shard.time_range(ordinal).is_none() {
                    orphans.push((shard_index, shard.series()[ordinal as usize].slot, exemplar.clone()));
                }
            }
        }
        orphans
    }
}
