//! Tables as parts of a version of the store: select, read, label look-ups.
//!
//! A select looks at the shards one after another, each under its lock, and keeps for every series
//! what it held at that moment. Values are decoded later: shards only grow, so what was there stays.

use super::columns::CopiedColumns;
use super::index::ShardIndex;
use super::open::Table;
use super::order::{Ranks, Unsorted, sort};
use super::runs::{Wanted, append_runs, last_float};
use super::shard::{SeriesCopy, TableShard};
use super::{TableSet, registry::RegistryShard};
use crate::error::StorageError;
use crate::index::{Postings, matching, resolve};
use crate::part::{
    ExemplarSink, Grown, KeptNames, KnownColumns, LastFloat, Part, PartRead, PartSelect, PartSeries,
    Precedence, RunBuffer,
};
use crate::query_symbols::to_symbols;
use chronolith_model::Matcher;
use chronolith_model::append::{Exemplar, Metadata};
use chronolith_model::queryable::{Estimate, QueryContext, Stop};
use chronolith_model::symbols::Symbol;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// Series decoded under one lock: an append waits no longer than these take.
const SERIES_PER_LOCK: usize = 256;
/// Series of a partition, what one worker of a query takes at a time.
const PARTITION_SERIES: u32 = 1024;

/// A table, pinned.
struct TablePart {
    table: Arc<Table>,
    precedence: Precedence,
    ranks: Arc<Ranks>,
}

impl TableSet {
    /// All open and frozen tables. Pin them before blocks are pinned: a table that is sealed in
    /// between is then seen twice, and equal samples collapse, rather than not at all.
    pub fn pins(&self) -> Vec<Arc<dyn Part>> {
        let ranks = self.ranks.load_full();
        let pin = |table: Arc<Table>| -> Arc<dyn Part> {
            Arc::new(TablePart { precedence: table.precedence(), table, ranks: Arc::clone(&ranks) })
        };
        self.all_tables().into_iter().map(pin).collect()
    }
}

impl Table {
    /// Whether any series satisfies all matchers of any set.
    pub(super) fn holds_any(&self, matcher_sets: &[Vec<Matcher>]) -> bool {
        let cx = chronolith_model::queryable::Unlimited::default();
        self.shards.iter().any(|shard| {
            let shard = shard.read();
            let interner = self.registry.interner.read();
            let index = ShardIndex { index: shard.index(), interner: &interner };
            // Without limits nothing ends the look-up; if something does, the answer is yes.
            matcher_sets
                .iter()
                .any(|matchers| resolve(&index, matchers, &cx).map_or(true, |found| !found.is_empty()))
        })
    }
}

/// A shard with what labels need, locked.
struct ShardView<'v> {
    index: usize,
    registry: &'v RegistryShard,
    shard: &'v TableShard,
}

impl TablePart {
    /// Calls `visit` with each shard and those of its series that match.
    fn matching(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        visit: impl FnMut(&ShardView<'_>, &Postings) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        if self.table.time_range().is_none_or(|(mint, maxt)| maxt < select.mint || mint > select.maxt) {
            return Ok(());
        }
        self.matching_ever(select.matchers, cx, visit)
    }

    /// As [`TablePart::matching`], whatever the times of the table's samples.
    fn matching_ever(
        &self,
        matchers: &[Matcher],
        cx: &dyn QueryContext,
        mut visit: impl FnMut(&ShardView<'_>, &Postings) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        for (index, shard) in self.table.shards.iter().enumerate() {
            cx.check()?;
            let registry = self.table.registry.shards[index].read();
            let shard = shard.read();
            let postings = {
                let interner = self.table.registry.interner.read();
                resolve(&ShardIndex { index: shard.index(), interner: &interner }, matchers, cx)?
            };
            if !postings.is_empty() {
                visit(&ShardView { index, registry: &registry, shard: &shard }, &postings)?;
            }
        }
        Ok(())
    }
}

impl Part for TablePart {
    fn precedence(&self) -> Precedence {
        self.precedence
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        self.table.time_range()
    }

    fn estimate(&self, select: &PartSelect<'_>) -> Result<Estimate, StorageError> {
        let mut estimate = Estimate::default();
        let cx = chronolith_model::queryable::Unlimited::default();
        self.matching(select, &cx, |view, postings| {
            let n_all = view.shard.series().len().max(1) as u64;
            let n_series = u64::from(postings.len());
            estimate.n_series += n_series;
            // By the shard's mean: an exact count would look at every series.
            estimate.n_samples += (view.shard.n_samples() * n_series).div_ceil(n_all);
            estimate.size_bytes += (view.shard.arena().size_bytes() as u64 * n_series).div_ceil(n_all);
            Ok(())
        })?;
        Ok(estimate)
    }

    fn select(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Box<dyn PartSeries>, StorageError> {
        let mut unsorted: Vec<Unsorted> = Vec::new();
        let mut found: Vec<Option<Selected>> = Vec::new();
        let mut labels: Vec<(u32, u32)> = Vec::new();
        let mut charged = 0;
        let kept = {
            let interner = self.table.registry.interner.read();
            KeptNames::new(select.labels, |name| Ok::<_, StorageError>(interner.get(name)))?
        };
        self.matching(select, cx, |view, postings| {
            let before = (found.len(), labels.len());
            for ordinal in postings.iter() {
                let in_range = |(mint, maxt)| mint <= select.maxt && maxt >= select.mint;
                if !view.shard.time_range(ordinal).is_some_and(in_range) {
                    continue;
                }
                let slot = view.shard.series()[ordinal as usize].slot;
                let series = self.table.registry.handle(view.index, slot, view.registry);
                let start = labels.len();
                kept.extend(&mut labels, view.registry.labels(slot));
                let index = found.len() as u32;
                unsorted.push(Unsorted { shard: view.index as u32, ordinal, series, index });
                found.push(Some(Selected {
                    shard: view.index as u32,
                    labels: start as u32..labels.len() as u32,
                    copy: view.shard.copy(ordinal),
                }));
            }
            let size_bytes = (found.len() - before.0) * (size_of::<Selected>() + size_of::<Unsorted>())
                + (labels.len() - before.1) * size_of::<(Symbol, Symbol)>() * 2;
            cx.charge(size_bytes)?;
            charged += size_bytes;
            Ok(())
        })?;
        let labels = self.query_symbols(&labels, cx)?;
        let order = sort(&self.table.registry, &self.ranks, unsorted);
        let series = order
            .iter()
            .map(|one| found[one.index as usize].take().expect("sorting keeps every series once"));
        Ok(Box::new(TableSeries {
            series: series.collect(),
            labels,
            table: Arc::clone(&self.table),
            columns: Mutex::default(),
        }))
    }

    fn grown(&self) -> Option<Grown> {
        Some(Grown { table: self.table.number, n_series: self.table.n_series() })
    }

    fn label_names(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        let mut seen = Seen::default();
        self.matching(select, cx, |view, postings| {
            let interner = self.table.registry.interner.read();
            let index = ShardIndex { index: view.shard.index(), interner: &interner };
            matching::label_names(&index, postings, cx, &mut seen.once(sink))
        })
    }

    fn label_values(
        &self,
        name: &str,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        let mut seen = Seen::default();
        self.matching(select, cx, |view, postings| {
            let interner = self.table.registry.interner.read();
            let index = ShardIndex { index: view.shard.index(), interner: &interner };
            matching::label_values(&index, name, postings, cx, &mut seen.once(sink))
        })
    }

    fn exemplars(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut ExemplarSink<'_>,
    ) -> Result<(), StorageError> {
        // Exemplars may lie outside of the range of the samples, so the table's range says nothing.
        self.matching_ever(select.matchers, cx, |view, postings| {
            if view.shard.exemplars().n_exemplars() == 0 {
                return Ok(());
            }
            let mut by_series: HashMap<u32, Vec<Exemplar>, Xxh3DefaultBuilder> = HashMap::default();
            for (ordinal, exemplar) in view.shard.exemplars().iter() {
                let in_range = (select.mint..=select.maxt).contains(&exemplar.timestamp);
                if in_range && postings.contains(ordinal) {
                    by_series.entry(ordinal).or_default().push(exemplar.clone());
                }
            }
            let interner = self.table.registry.interner.read();
            for (ordinal, exemplars) in &mut by_series {
                exemplars.sort_by_key(|exemplar| exemplar.timestamp);
                let slot = view.shard.series()[*ordinal as usize].slot;
                let labels: Vec<(&str, &str)> = view
                    .registry
                    .labels(slot)
                    .map(|(name, value)| (interner.resolve(name), interner.resolve(value)))
                    .collect();
                sink(&labels, exemplars);
            }
            Ok(())
        })
    }

    fn metadata(&self, sink: &mut dyn FnMut(&str, &Metadata)) -> Result<(), StorageError> {
        for (name, all) in self.table.metadata() {
            all.iter().for_each(|one| sink(&name, one));
        }
        Ok(())
    }
}

impl TablePart {
    /// Numbers of the interner as symbols of the query, each string looked up once.
    fn query_symbols(
        &self,
        labels: &[(u32, u32)],
        cx: &dyn QueryContext,
    ) -> Result<Vec<(Symbol, Symbol)>, StorageError> {
        let interner = self.table.registry.interner.read();
        to_symbols(labels, interner.n_numbers(), cx, |used, symbols| {
            cx.symbols().intern_all(used.iter().map(|&number| interner.resolve(number)), symbols);
            Ok(())
        })
    }
}

/// Strings that have been found in a shard: most are in all of them, under the same number.
// A bit for each number: they are dense, and so many that hashing them was most of a look-up.
#[derive(Default)]
struct Seen(Vec<u64>);

impl Seen {
    /// Gives `sink` what is found for the first time.
    fn once(&mut self, sink: &mut dyn FnMut(&str)) -> impl FnMut(u32, &str) {
        |number, text| {
            let (word, bit) = (number as usize / 64, 1 << (number % 64));
            if self.0.len() <= word {
                self.0.resize(word + 1, 0);
            }
            if self.0[word] & bit == 0 {
                self.0[word] |= bit;
                sink(text);
            }
        }
    }
}

struct Selected {
    shard: u32,
    labels: Range<u32>,
    copy: SeriesCopy,
}

/// The selected series of a table.
struct TableSeries {
    series: Vec<Selected>,
    labels: Vec<(Symbol, Symbol)>,
    table: Arc<Table>,
    columns: Mutex<CopiedColumns>,
}

/// Memory that is given back when this goes: the caller charges what remains in its buffer.
struct Charged<'q> {
    cx: &'q dyn QueryContext,
    size_bytes: usize,
}

impl Charged<'_> {
    fn charge(&mut self, size_bytes: usize) -> Result<(), Stop> {
        self.cx.charge(size_bytes)?;
        self.size_bytes += size_bytes;
        Ok(())
    }
}

impl Drop for Charged<'_> {
    fn drop(&mut self) {
        self.cx.release(self.size_bytes);
    }
}

impl PartSeries for TableSeries {
    fn len(&self) -> u32 {
        self.series.len() as u32
    }

    fn labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        let range = &self.series[index as usize].labels;
        &self.labels[range.start as usize..range.end as usize]
    }

    fn read(
        &self,
        range: Range<u32>,
        read: &PartRead,
        out: &mut RunBuffer,
        cx: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        let selected = &self.series[range.start as usize..range.end as usize];
        for (piece_index, piece) in selected.chunks(SERIES_PER_LOCK).enumerate() {
            cx.check()?;
            let mut columns = self.columns.lock();
            let copied_bytes = columns.charged_bytes();
            let mut charged = Charged { cx, size_bytes: 0 };
            for (index, one) in piece.iter().enumerate() {
                // Neighbours in block order are of different shards, so the lock is taken for each.
                let shard = self.table.shards[one.shard as usize].read();
                let mut wanted = Wanted {
                    series: (piece_index * SERIES_PER_LOCK + index) as u32,
                    mint: read.mint,
                    maxt: read.maxt,
                    lookups: read.lookups,
                    start_timestamps: read.start_timestamps,
                    histogram_before: true,
                    charge: &mut |size_bytes| charged.charge(size_bytes),
                };
                append_runs(one.copy.held(), one.shard, &shard, &mut columns, &mut wanted, out)?;
            }
            // Copies of columns stay.
            charged.size_bytes -= columns.charged_bytes() - copied_bytes;
        }
        Ok(())
    }

    fn last_floats(
        &self,
        range: Range<u32>,
        read: &PartRead,
        _known: &mut KnownColumns,
        out: &mut Vec<Option<LastFloat>>,
        cx: &dyn QueryContext,
    ) -> Result<bool, StorageError> {
        cx.check()?;
        let mut values = Vec::new();
        for one in &self.series[range.start as usize..range.end as usize] {
            let shard = self.table.shards[one.shard as usize].read();
            match last_float(one.copy.held(), &shard, (read.mint, read.maxt), &mut values) {
                Some(last) => out.push(last),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn partitions(&self) -> Vec<Range<u32>> {
        let len = self.len();
        (0..len)
            .step_by(PARTITION_SERIES as usize)
            .map(|start| start..(start + PARTITION_SERIES).min(len))
            .collect()
    }
}
