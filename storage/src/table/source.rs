//! Frozen tables on their way into blocks.

use super::TableSet;
use super::columns::CopiedColumns;
use super::open::Table;
use super::order::{SymbolOrder, of_table};
use super::runs::{Wanted, append_runs};
use super::shard::TableShard;
use crate::block::source::{BlockSource, SourceSeries};
use crate::error::StorageError;
use chronolith_model::append::{Exemplar, Metadata};
use hashbrown::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// A table that takes no more appends and has none in it, waiting to be sealed.
pub struct FrozenTable {
    table: Arc<Table>,
    seq: u64,
    order: Arc<Vec<(u32, u32)>>,
}

impl TableSet {
    /// A number so that every table which ranks below it is in blocks, in those of a version that is
    /// loaded afterwards, or holds nothing. Not to be asked before the log is replayed.
    pub fn settled_below(&self) -> u64 {
        // Under the lock no table is between its number and its place among the frozen ones.
        let _guard = self.structure.lock();
        let unsealed = self.tables.load().frozen.iter().filter_map(|table| table.seq()).min();
        unsealed.unwrap_or_else(|| self.next_number.load(Ordering::Acquire))
    }

    /// Frozen tables that can be sealed now, ascending by seq.
    pub fn frozen(&self) -> Vec<FrozenTable> {
        let tables = self.tables.load_full();
        let drained = tables.frozen.iter().filter(|table| table.gate.is_drained() && table.n_samples() > 0);
        drained
            .filter_map(|table| {
                let seq = table.seq()?;
                Some(FrozenTable { table: Arc::clone(table), seq, order: of_table(table, &self.ranks) })
            })
            .collect()
    }
}

impl FrozenTable {
    /// Its number: what [`TableSet::sealed`] takes, and what a block names to cover its log.
    pub fn number(&self) -> u64 {
        self.table.number
    }

    /// Its place among blocks: the lower one wins for equal timestamps.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Start of its window, `None` for late samples.
    pub fn window(&self) -> Option<i64> {
        self.table.window
    }

    /// First and last timestamp.
    pub fn time_range(&self) -> (i64, i64) {
        self.table.time_range().expect("frozen tables without samples are dropped")
    }

    /// How many samples.
    pub fn n_samples(&self) -> u64 {
        self.table.n_samples()
    }

    /// What blocks are written from: one source for each of the ranges (ends included, ascending,
    /// disjoint) that holds samples.
    pub fn sources(&self, boundaries: &[(i64, i64)]) -> Vec<((i64, i64), TableSource)> {
        assert!(boundaries.windows(2).all(|pair| pair[0].1 < pair[1].0), "ranges are ascending and disjoint");
        let registry = &self.table.registry;
        let mut symbols = SymbolOrder::default();
        let mut numbers = Vec::new();
        let mut used: Vec<bool> = vec![false; boundaries.len()];
        let mut exemplars: HashMap<(u32, u32), Vec<(usize, Exemplar)>, Xxh3DefaultBuilder> =
            HashMap::default();
        for (shard_index, shard) in self.table.shards.iter().enumerate() {
            let registry_shard = registry.shards[shard_index].read();
            let shard = shard.read();
            for (ordinal, series) in shard.series().iter().enumerate() {
                numbers.extend(registry_shard.labels(series.slot).flat_map(|(name, value)| [name, value]));
                let Some((mint, maxt)) = shard.time_range(ordinal as u32) else { continue };
                for (range, used) in boundaries.iter().zip(&mut used) {
                    *used |= mint <= range.1 && maxt >= range.0;
                }
            }
            numbers.sort_unstable();
            numbers.dedup();
            for (ordinal, exemplar) in shard.exemplars().iter() {
                if let Some(range) = home(&shard, ordinal, exemplar.timestamp, boundaries) {
                    let all = exemplars.entry((shard_index as u32, ordinal)).or_default();
                    all.push((range, exemplar.clone()));
                }
            }
        }
        exemplars.values_mut().for_each(|all| {
            all.sort_by_key(|(_, exemplar)| exemplar.timestamp);
            all.dedup();
        });
        symbols.sort(registry, numbers.into_iter());
        let shared = Arc::new(Shared {
            table: Arc::clone(&self.table),
            order: Arc::clone(&self.order),
            symbols,
            exemplars,
        });
        boundaries
            .iter()
            .zip(used)
            .enumerate()
            .filter(|(_, (_, used))| *used)
            .map(|(index, (&range, _))| {
                let columns = CopiedColumns::default();
                (range, TableSource { shared: Arc::clone(&shared), range, index, next: 0, columns })
            })
            .collect()
    }
}

/// The range into whose block an exemplar goes: its own, or where the newest sample of its series lies if
/// the series has none in that. `None` if it has no sample at all.
fn home(shard: &TableShard, ordinal: u32, timestamp: i64, boundaries: &[(i64, i64)]) -> Option<usize> {
    let of = |time: i64| {
        let at = boundaries.partition_point(|range| range.1 < time);
        boundaries.get(at).filter(|range| range.0 <= time).map(|&range| (at, range))
    };
    let own = of(timestamp).filter(|&(_, (mint, maxt))| shard.has_samples_in(ordinal, mint, maxt));
    own.or_else(|| of(shard.time_range(ordinal)?.1)).map(|(at, _)| at)
}

struct Shared {
    table: Arc<Table>,
    order: Arc<Vec<(u32, u32)>>,
    symbols: SymbolOrder,
    /// By shard and number; each with the index of the range it goes to.
    exemplars: HashMap<(u32, u32), Vec<(usize, Exemplar)>, Xxh3DefaultBuilder>,
}

/// The samples of a table in a range of time.
pub struct TableSource {
    shared: Arc<Shared>,
    range: (i64, i64),
    /// Of the range among all.
    index: usize,
    next: usize,
    columns: CopiedColumns,
}

impl BlockSource for TableSource {
    fn symbols(&mut self) -> Result<Vec<Box<str>>, StorageError> {
        Ok(self.shared.symbols.strings.clone())
    }

    fn next_series(&mut self, series: &mut SourceSeries) -> Result<bool, StorageError> {
        let Shared { table, order, symbols, exemplars } = &*self.shared;
        let (mint, maxt) = self.range;
        while let Some(&(shard_index, ordinal)) = order.get(self.next) {
            self.next += 1;
            let shard = table.shards[shard_index as usize].read();
            if shard.time_range(ordinal).is_none_or(|(first, last)| first > maxt || last < mint) {
                continue;
            }
            series.clear();
            let mut wanted = Wanted {
                series: 0,
                mint,
                maxt,
                lookups: None,
                start_timestamps: true,
                histogram_before: false,
                charge: &mut |_| Ok(()),
            };
            // Not a copy: of a series with many late samples each block would take them all.
            let held = shard.held(ordinal);
            append_runs(held, shard_index, &shard, &mut self.columns, &mut wanted, &mut series.samples)?;
            if series.samples.runs.is_empty() {
                continue;
            }
            let slot = shard.series()[ordinal as usize].slot;
            drop(shard);
            let registry = table.registry.shards[shard_index as usize].read();
            let labels = registry.labels(slot);
            series.labels.extend(labels.map(|(name, value)| (symbols.order[&name], symbols.order[&value])));
            if let Some(all) = exemplars.get(&(shard_index, ordinal)) {
                let here = all.iter().filter(|(index, _)| *index == self.index);
                series.exemplars.extend(here.map(|(_, exemplar)| exemplar.clone()));
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn metadata(&mut self) -> Result<Vec<(String, Vec<Metadata>)>, StorageError> {
        Ok(self.shared.table.metadata().into_iter().collect())
    }
}
