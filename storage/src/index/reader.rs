//! The index of an open block, read from its records when asked.

use super::matching::{IndexReader, PatternCache, Visit};
use super::postings::{Postings, PostingsError, RankBits};
use super::series::{SeriesGroup, VisitSeries, read_group, visit_series};
use super::symbols::{SymbolPart, Symbols};
use super::values::{read_names, read_values};
use super::writer::{ANY_VALUE, postings_key, postings_value};
use crate::cache::{Caches, GroupKey, RANKS_PER_GROUP};
use crate::error::StorageError;
use crate::kv::KvRead;
use crate::kv::keys::BlockId;
use chronolith_model::queryable::QueryContext;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Groups of series between two looks at whether the query goes on.
const GROUPS_PER_CHECK: u32 = 8;

/// Receives the ranks that are wanted of a group, and the group if all of it can be read.
type VisitGroup<'v> = dyn FnMut(&[u32], Option<&SeriesGroup>) -> Result<(), StorageError> + 'v;

/// Receives the number of a value and its posting list as it is stored.
type VisitList<'v> = dyn FnMut(u32, &[u8]) -> Result<(), StorageError> + 'v;

/// Posting lists fetched by one read.
const LISTS_PER_READ: usize = 256;

/// Lists that a scan passes by in the time that one is read by its key.
const LISTS_SCANNED_PER_READ: usize = 8;

/// Of so many series of a list that lie side by side, the one that lives longest says when the list is in range.
const LIVES_AT_FIRST: u32 = 8;

/// Looks at a list by records of series; whoever looks further decodes groups, which are kept.
const RECORDS_AT_FIRST: u32 = 2;

/// Whether any series of a list is in a range of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// No series is wanted.
    None,
    /// Those that are wanted are not in range.
    Outside,
    /// One is: its first and last timestamp.
    Within((i64, i64)),
}

impl Life {
    const fn of(times: (i64, i64), range: (i64, i64)) -> Self {
        if overlap(times, range) { Self::Within(times) } else { Self::Outside }
    }

    /// What is in range is longer than what is not, however short it is.
    const fn length(self) -> Option<i64> {
        match self {
            Self::Within((mint, maxt)) => Some(maxt.saturating_sub(mint)),
            Self::None | Self::Outside => None,
        }
    }

    /// Calls `within` if there is a sample in range, and takes part in what is known of the lives of all lists.
    fn add_to(self, all: &mut Option<(i64, i64)>, within: impl FnOnce()) {
        match self {
            Self::None => {}
            Self::Outside => *all = None,
            Self::Within(times) => {
                *all = all.map(|all| both(all, times));
                within();
            }
        }
    }
}

/// As [`BlockIndex::all_live`], of no series.
const EVER: (i64, i64) = (i64::MIN, i64::MAX);

/// When both have begun, and when one has ended.
fn both(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    (a.0.max(b.0), a.1.min(b.1))
}

/// Whether two ranges of time have a time in common.
const fn overlap(a: (i64, i64), b: (i64, i64)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

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
                if overlap((series.mint, series.maxt), (mint, maxt)) {
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
        let mut all = EVER;
        self.visit_times(ranks, cx, &mut |_, times| all = both(all, times))?;
        Ok(all)
    }

    /// Calls `visit` with each rank and the times of its first and last sample.
    fn visit_times(
        &self,
        ranks: &Postings,
        cx: &dyn QueryContext,
        visit: &mut dyn FnMut(u32, (i64, i64)),
    ) -> Result<(), StorageError> {
        let from_records = |ranks: &Postings, visit: &mut dyn FnMut(u32, (i64, i64))| {
            self.visit_records(ranks, cx, &mut |rank, series| {
                visit(rank, (series.mint, series.maxt));
                Ok(())
            })
        };
        let Some(caches) = &self.caches else { return from_records(ranks, visit) };
        self.visit_groups(caches, ranks, cx, &mut |of_group, group| match group {
            None => from_records(&Postings::from_sorted(of_group.to_vec()), visit),
            Some(group) => {
                of_group.iter().for_each(|&rank| visit(rank, group.times(rank)));
                Ok(())
            }
        })
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
            let key = self.group_key(first);
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

    const fn group_key(&self, rank: u32) -> GroupKey {
        GroupKey { block: self.block, slice: 0, number: rank / RANKS_PER_GROUP }
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
    /// # Errors
    /// As [`BlockIndex::visit_series`].
    pub fn values_of(
        &self,
        name: u32,
        matched: &Postings,
        cx: &dyn QueryContext,
    ) -> Result<Vec<u32>, StorageError> {
        Ok(self.values_with_lives(name, matched, EVER, cx)?.into_iter().map(|(value, _)| value).collect())
    }

    /// Numbers of the values that the series of `matched` have for a label, ascending; each with the longest life in a
    /// range of time of those of its series that were looked at.
    ///
    /// Series that lie side by side differ in labels of many values, so the labels of the first ones
    /// tell most of the values. Of the others it is proven that they are none: if they are many by
    /// counting, as the series of the known values may be all that have the label, else by their own lists.
    fn values_with_lives(
        &self,
        name: u32,
        matched: &Postings,
        range: (i64, i64),
        cx: &dyn QueryContext,
    ) -> Result<Vec<(u32, Life)>, StorageError> {
        let values = self.value_numbers(name)?;
        // The record of a series costs about as much as a list.
        let mut known = self.values_of_series(name, &matched.first(values.len()), range, cx)?;
        if matched.len() <= values.len() {
            return Ok(known);
        }
        let size_bytes = RankBits::size_bytes(self.n_series);
        cx.charge(size_bytes)?;
        let bits = RankBits::new(matched, self.n_series);
        let more = self.values_beside(name, &values, &known, &bits, cx);
        cx.release(size_bytes);
        known.extend(more?.into_iter().map(|value| (value, Life::None)));
        known.sort_unstable_by_key(|&(value, _)| value);
        Ok(known)
    }

    /// Those of `values` beside the known ones of which a series is in `matched`.
    fn values_beside(
        &self,
        name: u32,
        values: &Postings,
        known: &[(u32, Life)],
        matched: &RankBits,
        cx: &dyn QueryContext,
    ) -> Result<Vec<u32>, StorageError> {
        let known: Vec<u32> = known.iter().map(|&(value, _)| value).collect();
        let others: Vec<u32> =
            values.subtract(&Postings::from_sorted(known.iter().copied())).iter().collect();
        if known.len() < others.len() {
            let count = |values: &[u32]| {
                let mut n_series = 0;
                self.visit_lists(name, values, &mut |value, list| {
                    cx.check()?;
                    let counted = matched.count_in_stored(list);
                    n_series += counted.map_err(|error| self.undecodable(name, value, &error))?;
                    Ok(())
                })?;
                Ok::<_, StorageError>(n_series)
            };
            if count(&known)? == count(&[ANY_VALUE])? {
                return Ok(Vec::new());
            }
        }
        let mut more = Vec::new();
        self.visit_lists(name, &others, &mut |value, list| {
            cx.check()?;
            if matched.intersects_stored(list).map_err(|error| self.undecodable(name, value, &error))? {
                more.push(value);
            }
            Ok(())
        })?;
        Ok(more)
    }

    /// The life of a series of `matched` that is in a stored list and may have a sample in a range of time. Looks at some series
    /// after the others, up to one: mostly it is among the first.
    fn life_in_list(
        &self,
        list: &[u8],
        matched: &Postings,
        range: (i64, i64),
        cx: &dyn QueryContext,
    ) -> Result<Result<Life, StorageError>, PostingsError> {
        let mut life = Ok(Life::None);
        let mut n_looks = 0u32;
        matched.overlaps_with_stored(list, self.n_series, |overlap| {
            // More at once the longer it takes.
            let mut start = overlap.start;
            let mut count = LIVES_AT_FIRST;
            while start < overlap.end && matches!(life, Ok(Life::None | Life::Outside)) {
                let ranks = start..overlap.end.min(start.saturating_add(count));
                life =
                    self.longest_life(&Postings::range(ranks.clone()), n_looks < RECORDS_AT_FIRST, range, cx);
                (start, count) = (ranks.end, count.saturating_mul(2));
                n_looks += 1;
            }
            matches!(life, Ok(Life::None | Life::Outside))
        })?;
        Ok(life)
    }

    /// The longest life of `ranks` in a range of time; by their records, if they are few to look at (`are_few`).
    fn longest_life(
        &self,
        ranks: &Postings,
        are_few: bool,
        range: (i64, i64),
        cx: &dyn QueryContext,
    ) -> Result<Life, StorageError> {
        let mut longest = Life::Outside;
        let mut add = |times| {
            let life = Life::of(times, range);
            if longest.length() < life.length() {
                longest = life;
            }
        };
        let is_in_cache = |caches: &Arc<Caches>| {
            ranks.last().is_some_and(|last| caches.series.get(&self.group_key(last)).is_some())
        };
        if are_few && !self.caches.as_ref().is_some_and(is_in_cache) {
            self.visit_records(ranks, cx, &mut |_, series| {
                add((series.mint, series.maxt));
                Ok(())
            })?;
        } else {
            self.visit_times(ranks, cx, &mut |_, times| add(times))?;
        }
        Ok(longest)
    }

    /// Puts lives of series of `matched` beside those values of a label for which none is known to be in range.
    fn complete_lives(
        &self,
        name: u32,
        lives: &mut [(u32, Life)],
        matched: &Postings,
        range: (i64, i64),
        cx: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        let is_unknown = |&&(_, life): &&(u32, Life)| !matches!(life, Life::Within(_));
        let values: Vec<u32> = lives.iter().filter(is_unknown).map(|&(value, _)| value).collect();
        let mut unknown = lives.iter_mut().filter(|(_, life)| !matches!(life, Life::Within(_)));
        self.visit_lists(name, &values, &mut |value, list| {
            cx.check()?;
            let life = self.life_in_list(list, matched, range, cx);
            let life = life.map_err(|error| self.undecodable(name, value, &error))??;
            if let Some((_, known)) = unknown.find(|(of, _)| *of == value) {
                *known = life;
            }
            Ok(())
        })
    }

    /// Gives `sink` the names of the labels of those series of `matched` that may have a sample in a range of time.
    /// If those are all names of `matched`, returns a time not before which, and one not after which, a range has to
    /// end and begin to have them all.
    ///
    /// # Errors
    /// As [`BlockIndex::visit_series`].
    pub fn names_in_range(
        &self,
        matched: &Postings,
        range: (i64, i64),
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<Option<(i64, i64)>, StorageError> {
        let mut all = Some(EVER);
        self.names(&mut |name, text| {
            let mut life = [(ANY_VALUE, Life::None)];
            self.complete_lives(name, &mut life, matched, range, cx)?;
            life[0].1.add_to(&mut all, || sink(text));
            Ok(())
        })?;
        Ok(all)
    }

    /// Gives `sink` the values that those series of `matched` have for a label that may have a sample in a range of time.
    /// Returns what [`BlockIndex::names_in_range`] does.
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
    ) -> Result<Option<(i64, i64)>, StorageError> {
        let mut values: Vec<(u32, Life)> = match matched.len() == self.n_series {
            true => self.value_numbers(name)?.iter().map(|value| (value, Life::None)).collect(),
            false => self.values_with_lives(name, matched, range, cx)?,
        };
        self.complete_lives(name, &mut values, matched, range, cx)?;
        let mut all = Some(EVER);
        let mut lives = values.iter().map(|&(_, life)| life);
        self.visit_strings(values.iter().map(|&(value, _)| value), &mut |_, text| {
            let life = lives.next().unwrap_or(Life::None);
            life.add_to(&mut all, || sink(text));
            Ok(())
        })?;
        Ok(all)
    }

    /// Numbers of the values that series have for a label, by their own labels, ascending; each with the longest life in
    /// a range of time.
    fn values_of_series(
        &self,
        name: u32,
        series: &Postings,
        range: (i64, i64),
        cx: &dyn QueryContext,
    ) -> Result<Vec<(u32, Life)>, StorageError> {
        let mut values = Vec::new();
        self.visit_series(series, cx, &mut |_, series| {
            if let Ok(at) = series.labels.binary_search_by_key(&name, |label| label.0) {
                values.push((series.labels[at].1, Life::of((series.mint, series.maxt), range)));
            }
            Ok(())
        })?;
        values.sort_unstable_by_key(|&(value, life)| (value, Reverse(life.length())));
        values.dedup_by_key(|&mut (value, _)| value);
        Ok(values)
    }

    /// Visits the stored posting lists of some values of a label, ascending: each by itself, or by a scan if they are not few
    /// of all values that the label has.
    fn visit_lists(&self, name: u32, values: &[u32], visit: &mut VisitList<'_>) -> Result<(), StorageError> {
        let [first, .., last] = *values else { return self.visit_lists_by_key(name, values, visit) };
        let span = self.value_numbers(name)?.intersect(&Postings::range(first..last + 1));
        if values.len() < span.len() as usize / LISTS_SCANNED_PER_READ {
            return self.visit_lists_by_key(name, values, visit);
        }
        let mut values = values.iter().copied().peekable();
        let mut visited = Ok(());
        let (from, to) = (postings_key(self.block, name, first), postings_key(self.block, name, last + 1));
        self.kv.scan(&from, &to, &mut |key, list| {
            let Some(value) = postings_value(key) else { return ControlFlow::Continue(()) };
            while values.next_if(|&wanted| wanted < value).is_some() {}
            if values.next_if_eq(&value).is_some() {
                visited = visit(value, list);
            }
            if visited.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        visited
    }

    fn visit_lists_by_key(
        &self,
        name: u32,
        values: &[u32],
        visit: &mut VisitList<'_>,
    ) -> Result<(), StorageError> {
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
