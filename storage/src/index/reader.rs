//! The index of an open block, read from its records when asked.

use super::matching::{IndexReader, PatternCache, Visit};
use super::postings::{Postings, PostingsError};
use super::series::{SeriesGroup, VisitSeries, read_group, visit_series};
use super::symbols::{SymbolPart, Symbols};
use super::values::{read_names, read_values};
use super::writer::{ANY_VALUE, postings_key};
use crate::cache::{Caches, GroupKey, RANKS_PER_GROUP};
use crate::error::StorageError;
use crate::kv::KvRead;
use crate::kv::keys::BlockId;
use chronolith_model::queryable::QueryContext;
use parking_lot::Mutex;
use std::sync::Arc;

/// Groups of series between two looks at whether the query goes on.
const GROUPS_PER_CHECK: u32 = 8;

/// Receives the ranks that are wanted of a group, and the group if all of it can be read.
type VisitGroup<'v> = dyn FnMut(&[u32], Option<&SeriesGroup>) -> Result<(), StorageError> + 'v;

/// Receives the number of a value and its posting list as it is stored.
type VisitList<'v> = dyn FnMut(u32, &[u8]) -> Result<(), StorageError> + 'v;

/// Posting lists fetched by one read.
const LISTS_PER_READ: usize = 256;

/// The index of a block. Keeps some decoded strings and results of patterns; all else is left to the
/// cache of the store.
pub struct BlockIndex {
    kv: Arc<dyn KvRead>,
    block: BlockId,
    n_series: u32,
    symbols: Symbols,
    patterns: PatternCache,
    names: Mutex<Option<Arc<[u32]>>>,
    caches: Option<Arc<Caches>>,
}

impl BlockIndex {
    /// The index of a block whose header says `n_series`, `n_symbols` and `parts`. Reads nothing. Decoded series
    /// are kept in `caches`, if that is given.
    pub fn new(
        kv: Arc<dyn KvRead>,
        block: BlockId,
        n_series: u32,
        n_symbols: u32,
        parts: Arc<[SymbolPart]>,
        caches: Option<Arc<Caches>>,
    ) -> Self {
        Self {
            kv,
            block,
            n_series,
            symbols: Symbols::new(block, n_symbols, parts),
            patterns: PatternCache::default(),
            names: Mutex::default(),
            caches,
        }
    }

    /// How many strings there are: numbers are below this.
    pub const fn n_symbols(&self) -> u32 {
        self.symbols.len()
    }

    /// Visits the strings with these numbers (ascending).
    ///
    /// # Errors
    /// [`StorageError`] if they cannot be read or there is no such number, or what `visit` returns.
    pub fn visit_strings(
        &self,
        numbers: impl IntoIterator<Item = u32>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        self.symbols.visit(&*self.kv, numbers, visit)
    }

    /// Visits the series with these ranks, ascending.
    ///
    /// # Errors
    /// [`StorageError`] if the query has to stop or they cannot be read, or what `visit` returns.
    pub fn visit_series(
        &self,
        ranks: &Postings,
        cx: &dyn QueryContext,
        visit: &mut VisitSeries<'_>,
    ) -> Result<(), StorageError> {
        let Some(caches) = &self.caches else { return self.visit_records(ranks, cx, visit) };
        self.visit_groups(caches, ranks, cx, &mut |of_group, group| {
            let Some(group) = group else {
                return self.visit_records(&Postings::from_sorted(of_group.to_vec()), cx, visit);
            };
            of_group.iter().try_for_each(|&rank| visit(rank, group.get(rank)))
        })
    }

    /// Those of `ranks` that may have a sample in a range of time, both ends included.
    ///
    /// # Errors
    /// As [`BlockIndex::visit_series`].
    pub fn in_range(
        &self,
        ranks: Arc<Postings>,
        (mint, maxt): (i64, i64),
        cx: &dyn QueryContext,
    ) -> Result<Arc<Postings>, StorageError> {
        let mut kept = Vec::new();
        let from_records = |ranks: &Postings, kept: &mut Vec<u32>| {
            self.visit_records(ranks, cx, &mut |rank, series| {
                if series.mint <= maxt && mint <= series.maxt {
                    kept.push(rank);
                }
                Ok(())
            })
        };
        match &self.caches {
            None => from_records(&ranks, &mut kept)?,
            Some(caches) => self.visit_groups(caches, &ranks, cx, &mut |of_group, group| match group {
                None => from_records(&Postings::from_sorted(of_group.to_vec()), &mut kept),
                Some(group) => {
                    kept.extend(of_group.iter().filter(|&&rank| group.is_in_range(rank, mint, maxt)));
                    Ok(())
                }
            })?,
        }
        Ok(if kept.len() == ranks.len() as usize { ranks } else { Arc::new(Postings::from_sorted(kept)) })
    }

    /// When the last of `ranks` begins and when the first of them ends: what reaches over both has a time of
    /// each.
    ///
    /// # Errors
    /// As [`BlockIndex::visit_series`].
    pub fn all_live(&self, ranks: &Postings, cx: &dyn QueryContext) -> Result<(i64, i64), StorageError> {
        let mut all = (i64::MIN, i64::MAX);
        let mut add = |(mint, maxt): (i64, i64)| all = (all.0.max(mint), all.1.min(maxt));
        match &self.caches {
            None => self.visit_records(ranks, cx, &mut |_, series| {
                add((series.mint, series.maxt));
                Ok(())
            })?,
            Some(caches) => self.visit_groups(caches, ranks, cx, &mut |of_group, group| match group {
                None => {
                    self.visit_records(&Postings::from_sorted(of_group.to_vec()), cx, &mut |_, series| {
                        add((series.mint, series.maxt));
                        Ok(())
                    })
                }
                Some(group) => {
                    of_group.iter().for_each(|&rank| add(group.times(rank)));
                    Ok(())
                }
            })?,
        }
        Ok(all)
    }

    fn visit_records(
        &self,
        ranks: &Postings,
        cx: &dyn QueryContext,
        visit: &mut VisitSeries<'_>,
    ) -> Result<(), StorageError> {
        let check = &mut || Ok(cx.check()?);
        visit_series(&*self.kv, self.block, self.symbols.len(), ranks, check, visit)
    }

    /// Calls `visit` with the ranks of each group, and with the group. Without it where some of it cannot be
    /// read: what is wanted of it may be whole.
    fn visit_groups(
        &self,
        caches: &Caches,
        ranks: &Postings,
        cx: &dyn QueryContext,
        visit: &mut VisitGroup<'_>,
    ) -> Result<(), StorageError> {
        let mut ranks = ranks.iter().peekable();
        let mut of_group: Vec<u32> = Vec::with_capacity(RANKS_PER_GROUP as usize);
        let mut n_groups = 0u32;
        while let Some(&first) = ranks.peek() {
            if n_groups.is_multiple_of(GROUPS_PER_CHECK) {
                cx.check()?;
            }
            n_groups += 1;
            let number = first / RANKS_PER_GROUP;
            of_group.clear();
            of_group.extend(std::iter::from_fn(|| ranks.next_if(|rank| rank / RANKS_PER_GROUP == number)));
            let key = GroupKey { block: self.block, slice: 0, number };
            let group = caches.series.get(&key).or_else(|| {
                let first = number * RANKS_PER_GROUP;
                let ranks = first..self.n_series.min(first.saturating_add(RANKS_PER_GROUP));
                let group = Arc::new(read_group(&*self.kv, self.block, self.symbols.len(), ranks).ok()?);
                caches.series.insert(key, &group);
                Some(group)
            });
            visit(&of_group, group.as_deref())?;
        }
        Ok(())
    }

    /// Numbers of the values of a label name.
    ///
    /// # Errors
    /// [`StorageError`] if they cannot be read.
    pub fn value_numbers(&self, name: u32) -> Result<Postings, StorageError> {
        read_values(&*self.kv, self.block, name, self.symbols.len())
    }

    /// Numbers of the values that the series of `matched` have for a label, ascending.
    ///
    /// Series that lie side by side differ in labels of many values, so the labels of the first ones
    /// tell most of the values. Of the others it is proven that they are none: if they are many by
    /// counting, as the series of the known values may be all that have the label, else by their own lists.
    ///
    /// # Errors
    /// As [`BlockIndex::visit_series`].
    pub fn values_of(
        &self,
        name: u32,
        matched: &Postings,
        cx: &dyn QueryContext,
    ) -> Result<Vec<u32>, StorageError> {
        let values = self.value_numbers(name)?;
        // The record of a series costs about as much as a list.
        let mut known = self.values_of_series(name, &matched.first(values.len()), cx)?;
        if matched.len() <= values.len() {
            return Ok(known);
        }
        let others: Vec<u32> =
            values.subtract(&Postings::from_sorted(known.iter().copied())).iter().collect();
        if known.len() < others.len() {
            let count = |values: &[u32]| {
                let mut n_series = 0;
                self.visit_lists(name, values, &mut |value, list| {
                    cx.check()?;
                    let counted = matched.count_in_stored(list, self.n_series);
                    n_series += counted.map_err(|error| self.undecodable(name, value, &error))?;
                    Ok(())
                })?;
                Ok::<_, StorageError>(n_series)
            };
            if count(&known)? == count(&[ANY_VALUE])? {
                return Ok(known);
            }
        }
        self.visit_lists(name, &others, &mut |value, list| {
            cx.check()?;
            let intersects = matched.intersects_stored(list, self.n_series);
            if intersects.map_err(|error| self.undecodable(name, value, &error))? {
                known.push(value);
            }
            Ok(())
        })?;
        known.sort_unstable();
        Ok(known)
    }

    /// Whether a series of `matched` that has this value for a label (any, if it is [`ANY_VALUE`]) may have a sample in a range of
    /// time. Looks at the series one after the other, up to the first: mostly that is the first of all.
    fn has_in_range(
        &self,
        (name, value): (u32, u32),
        matched: &Postings,
        range: (i64, i64),
        cx: &dyn QueryContext,
    ) -> Result<bool, StorageError> {
        let mut found = Ok(false);
        self.visit_lists(name, &[value], &mut |value, list| {
            let visited = matched.overlaps_with_stored(list, self.n_series, |overlap| {
                // More at once the longer it takes.
                let mut start = overlap.start;
                let mut count = 1;
                while start < overlap.end && matches!(found, Ok(false)) {
                    let ranks = start..overlap.end.min(start.saturating_add(count));
                    (start, count) = (ranks.end, count.saturating_mul(2));
                    let living = self.in_range(Arc::new(Postings::range(ranks)), range, cx);
                    found = living.map(|living| !living.is_empty());
                }
                matches!(found, Ok(false))
            });
            visited.map_err(|error| self.undecodable(name, value, &error))
        })?;
        found
    }

    /// Gives `sink` the names of the labels of those series of `matched` that may have a sample in a range of time.
    ///
    /// # Errors
    /// As [`BlockIndex::visit_series`].
    pub fn names_in_range(
        &self,
        matched: &Postings,
        range: (i64, i64),
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        self.names(&mut |number, text| {
            if self.has_in_range((number, ANY_VALUE), matched, range, cx)? {
                sink(text);
            }
            Ok(())
        })
    }

    /// Gives `sink` the values that those series of `matched` have for a label that may have a sample in a range of time.
    ///
    /// # Errors
    /// As [`BlockIndex::visit_series`].
    pub fn values_in_range(
        &self,
        name: u32,
        matched: &Postings,
        range: (i64, i64),
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        self.values(name, "", &mut |number, text| {
            if self.has_in_range((name, number), matched, range, cx)? {
                sink(text);
            }
            Ok(())
        })
    }

    /// Numbers of the values that series have for a label, by their own labels, ascending.
    fn values_of_series(
        &self,
        name: u32,
        series: &Postings,
        cx: &dyn QueryContext,
    ) -> Result<Vec<u32>, StorageError> {
        let mut values = Vec::new();
        self.visit_series(series, cx, &mut |_, series| {
            if let Ok(at) = series.labels.binary_search_by_key(&name, |label| label.0) {
                values.push(series.labels[at].1);
            }
            Ok(())
        })?;
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    /// Visits the stored posting lists of some values of a label.
    fn visit_lists(&self, name: u32, values: &[u32], visit: &mut VisitList<'_>) -> Result<(), StorageError> {
        for values in values.chunks(LISTS_PER_READ) {
            let keys: Vec<Vec<u8>> =
                values.iter().map(|&value| postings_key(self.block, name, value)).collect();
            for (&value, list) in values.iter().zip(self.kv.multi_get(&keys)?) {
                if let Some(list) = list {
                    visit(value, &list)?;
                }
            }
        }
        Ok(())
    }

    /// What to say of a posting list that does not decode.
    fn undecodable(&self, name: u32, value: u32, error: &PostingsError) -> StorageError {
        let key = postings_key(self.block, name, value);
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        StorageError::corrupt(format!("postings of block {}, key {hex}", self.block), error.to_string())
    }

    fn name_numbers(&self) -> Result<Arc<[u32]>, StorageError> {
        if let Some(names) = &*self.names.lock() {
            return Ok(Arc::clone(names));
        }
        let names: Arc<[u32]> = read_names(&*self.kv, self.block)?.into();
        *self.names.lock() = Some(Arc::clone(&names));
        Ok(names)
    }
}

impl IndexReader for BlockIndex {
    fn n_series(&self) -> u32 {
        self.n_series
    }

    fn symbol(&self, text: &str) -> Result<Option<u32>, StorageError> {
        self.symbols.find(&*self.kv, text)
    }

    fn names(&self, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let names = self.name_numbers()?;
        self.symbols.visit(&*self.kv, names.iter().copied(), visit)
    }

    fn values(&self, name: u32, prefix: &str, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let values = self.value_numbers(name)?;
        let values = match prefix.is_empty() {
            true => values,
            false => {
                let range = self.symbols.prefix_range(&*self.kv, prefix)?;
                values.intersect(&Postings::range(range))
            }
        };
        self.symbols.visit(&*self.kv, values.iter(), visit)
    }

    fn postings(&self, name: u32, values: &[u32]) -> Result<Postings, StorageError> {
        let mut sets = Vec::with_capacity(values.len());
        self.visit_lists(name, values, &mut |value, list| {
            let decoded = Postings::decode(list, self.n_series);
            sets.push(decoded.map_err(|error| self.undecodable(name, value, &error))?);
            Ok(())
        })?;
        Ok(match sets.len() {
            1 => sets.swap_remove(0),
            _ => Postings::union(&sets),
        })
    }

    fn postings_of_name(&self, name: u32) -> Result<Postings, StorageError> {
        self.postings(name, &[ANY_VALUE])
    }

    fn pattern_cache(&self) -> Option<&PatternCache> {
        Some(&self.patterns)
    }
}

impl std::fmt::Debug for BlockIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockIndex")
            .field("block", &self.block)
            .field("n_series", &self.n_series)
            .finish_non_exhaustive()
    }
}
