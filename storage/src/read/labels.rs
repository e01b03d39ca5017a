//! Label names and values over all parts: sorted, each once, cut at the limit.

use super::lists::{List, Lists, Question};
use super::overlapping;
use crate::error::StorageError;
use crate::kv::keys::BlockId;
use crate::part::{Part, PartSelect};
use chronolith_model::Matcher;
use chronolith_model::queryable::{LabelQuery, Projection, QueryContext, ReadError};
use std::sync::Arc;

/// What a string costs besides its text.
const STRING_BYTES: usize = 48;
/// At least so many new strings wait before they are merged.
const MIN_WAITING: usize = 1024;

/// What a look-up asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'q> {
    /// Names of labels.
    Names,
    /// Values of this label.
    Values(&'q str),
}

impl<'q> Wanted<'q> {
    /// The label whose values are asked for.
    const fn label(self) -> Option<&'q str> {
        match self {
            Self::Names => None,
            Self::Values(name) => Some(name),
        }
    }

    fn of_part(
        self,
        part: &dyn Part,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        match self {
            Self::Names => part.label_names(select, cx, sink),
            Self::Values(name) => part.label_values(name, select, cx, sink),
        }
    }
}

/// The distinct strings of all parts, sorted; with a limit the first `limit + 1` of them, so memory follows the
/// limit. The union of those of blocks is kept in `lists`, where it is what was written.
pub(super) fn collect(
    parts: &[Arc<dyn Part>],
    wanted: Wanted<'_>,
    query: &LabelQuery<'_>,
    lists: &Lists,
    cx: &dyn QueryContext,
) -> Result<Vec<String>, ReadError> {
    let most = match query.limit {
        0 => usize::MAX,
        limit => limit.saturating_add(1),
    };
    let mut collector = Collector { wanted, query, cx, strings: Union::new(most), listed: None, charged: 0 };
    let collected = collector.collect(parts, lists);
    cx.release(collector.charged);
    collected?;
    Ok(collector.strings.sorted.into_iter().map(String::from).collect())
}

struct Collector<'c, 'q> {
    wanted: Wanted<'c>,
    query: &'c LabelQuery<'q>,
    cx: &'c dyn QueryContext,
    strings: Union,
    /// The list that the first of the strings are of.
    listed: Option<Arc<List>>,
    charged: usize,
}

impl Collector<'_, '_> {
    fn collect(&mut self, parts: &[Arc<dyn Part>], lists: &Lists) -> Result<(), StorageError> {
        let (mut written, mut others) = (Vec::new(), Vec::new());
        let mut blocks = Vec::new();
        for part in overlapping(parts, self.query.mint, self.query.maxt) {
            let mut of_sets =
                selects(self.query).map(|select| part.written_as(self.wanted.label(), &select, self.cx));
            let first = of_sets.next().transpose()?.flatten();
            // All sets or none: the parts are asked one by one for the strings of any set.
            let all = of_sets.try_fold(first, |all, block| Ok::<_, StorageError>(block?.and(all)))?;
            match all {
                Some(block) => {
                    blocks.push(block);
                    written.push(part);
                }
                None => others.push(part),
            }
        }
        // First, so that a part which the range cuts is asked for what is new only.
        if !written.is_empty() {
            self.add_written(&written, blocks, lists)?;
        }
        for part in others {
            // Before it is asked: what comes meanwhile is asked for the next time.
            let grown = part.grown();
            let is_listed = |list: &Arc<List>| grown.is_some_and(|grown| list.has_all_of_table(grown));
            if self.listed.as_ref().is_some_and(is_listed) || !self.has_more(part, lists)? {
                continue;
            }
            self.add(part)?;
            if let Some((list, grown)) = self.listed.as_ref().zip(grown)
                && self.is_list(list)
            {
                list.add_table(grown);
            }
        }
        Ok(())
    }

    /// Whether the union is this list, of which it began: then what was added to it since has nothing else, which holds for
    /// all of it unless a limit cut it.
    fn is_list(&self, list: &List) -> bool {
        self.strings.sorted.len() == list.strings.len() && self.strings.sorted.len() < self.strings.most
    }

    /// Whether a part may have strings that are not known yet. What it has over all its time says so for less than
    /// its series, which the range cuts: without matchers its own list, with them one that is kept.
    fn has_more(&mut self, part: &dyn Part, lists: &Lists) -> Result<bool, StorageError> {
        if self.strings.sorted.is_empty() {
            return Ok(true);
        }
        let query = LabelQuery { mint: i64::MIN, maxt: i64::MAX, limit: 0, ..*self.query };
        let block = selects(&query)
            .next()
            .map(|select| part.written_as(self.wanted.label(), &select, self.cx))
            .transpose()?;
        let block = block.flatten();
        let listed = self.listed.clone();
        if listed.as_ref().zip(block).is_some_and(|(list, block)| list.has_all_of(block)) {
            return Ok(false);
        }
        let has_more = self.has_more_than_union(part, &query, block, lists)?;
        // Otherwise the union may know a string from another part.
        if let Some((list, block)) = listed.zip(block)
            && !has_more
            && self.is_list(&list)
        {
            list.add_within(block);
        }
        Ok(has_more)
    }

    /// Whether a part, which `block` is if it is one as it was written, has strings over all its time, which is that
    /// of `query`, that are not known yet.
    fn has_more_than_union(
        &mut self,
        part: &dyn Part,
        query: &LabelQuery<'_>,
        block: Option<BlockId>,
        lists: &Lists,
    ) -> Result<bool, StorageError> {
        if !self.query.matcher_sets.is_empty() {
            let Some(block) = block else { return Ok(true) };
            let (wanted, cx) = (self.wanted, self.cx);
            let strings = Union::new(usize::MAX);
            let mut ever = Collector { wanted, query, cx, strings, listed: None, charged: 0 };
            let listed = ever.add_written(&[part], vec![block], lists);
            cx.release(ever.charged);
            listed?;
            let has_more = ever.strings.sorted.iter().any(|text| self.strings.is_new(text));
            self.strings.next = 0;
            return Ok(has_more);
        }
        let has_more = part.has_more(self.wanted.label(), self.cx, &mut |text| !self.strings.is_new(text));
        self.strings.next = 0;
        has_more
    }

    /// Adds the strings of blocks, to which none has been added.
    fn add_written(
        &mut self,
        parts: &[&dyn Part],
        blocks: Vec<BlockId>,
        lists: &Lists,
    ) -> Result<(), StorageError> {
        let question = Question::new(self.wanted, self.query.matcher_sets, blocks);
        if let Some(list) = lists.get(&question) {
            let kept = &list.strings[..list.strings.len().min(self.strings.most)];
            self.charge(kept.iter().map(|text| text.len() + STRING_BYTES).sum())?;
            self.strings.sorted = kept.to_vec();
            self.listed = Some(list);
            return Ok(());
        }
        parts.iter().try_for_each(|part| self.add(*part))?;
        if self.strings.sorted.len() < self.strings.most {
            lists.insert(question, &self.strings.sorted);
        }
        Ok(())
    }

    fn add(&mut self, part: &dyn Part) -> Result<(), StorageError> {
        let Self { wanted, query, cx, strings, charged, .. } = self;
        for select in selects(query) {
            cx.check()?;
            let mut refused = None;
            wanted.of_part(part, &select, *cx, &mut |text| {
                if refused.is_some() || !strings.is_new(text) {
                    return;
                }
                let size_bytes = text.len() + STRING_BYTES;
                if let Err(stop) = cx.charge(size_bytes) {
                    refused = Some(stop);
                    return;
                }
                *charged += size_bytes;
                strings.add(text);
            })?;
            strings.merge();
            if let Some(stop) = refused {
                return Err(stop.into());
            }
        }
        Ok(())
    }

    fn charge(&mut self, size_bytes: usize) -> Result<(), StorageError> {
        self.cx.charge(size_bytes)?;
        self.charged += size_bytes;
        Ok(())
    }
}

/// A sorted set of strings that grows by lists, most of which are sorted and hold what is there already: parts of a
/// store have nearly the same names and values.
struct Union {
    sorted: Vec<Box<str>>,
    /// Where the next string of a sorted list is expected.
    next: usize,
    /// Strings that are not in `sorted`, and may be there twice.
    waiting: Vec<Box<str>>,
    /// How many of the first strings are kept.
    most: usize,
}

impl Union {
    fn new(most: usize) -> Self {
        Self { sorted: Vec::new(), next: 0, waiting: Vec::new(), most }
    }

    /// Whether a string is wanted and not known yet.
    fn is_new(&mut self, text: &str) -> bool {
        if self.sorted.get(self.next).is_some_and(|next| **next == *text) {
            self.next += 1;
            return false;
        }
        if self.sorted.len() >= self.most && self.sorted.last().is_some_and(|last| **last <= *text) {
            return false;
        }
        match self.sorted.binary_search_by(|known| (**known).cmp(text)) {
            Ok(found) => {
                self.next = found + 1;
                false
            }
            Err(place) => {
                self.next = place;
                self.waiting.last().is_none_or(|last| **last != *text)
            }
        }
    }

    fn add(&mut self, text: &str) {
        self.waiting.push(text.into());
        if self.waiting.len() >= self.sorted.len().max(MIN_WAITING) {
            self.merge();
        }
    }

    /// Takes in what waits.
    fn merge(&mut self) {
        self.next = 0;
        if self.waiting.is_empty() {
            return;
        }
        self.waiting.sort_unstable();
        self.sorted.append(&mut self.waiting);
        // Two ascending runs, which this sort finds and merges.
        self.sorted.sort();
        self.sorted.dedup();
        self.sorted.truncate(self.most);
    }
}

/// The sets; an empty one, which every series satisfies, if there is none.
pub(super) fn sets(sets: &[Vec<Matcher>]) -> &[Vec<Matcher>] {
    const EVERYTHING: &[Vec<Matcher>] = &[Vec::new()];
    if sets.is_empty() { EVERYTHING } else { sets }
}

/// What is selected from a part for a look-up.
fn selects<'q>(query: &LabelQuery<'q>) -> impl Iterator<Item = PartSelect<'q>> {
    let LabelQuery { mint, maxt, .. } = *query;
    sets(query.matcher_sets).iter().map(move |matchers| PartSelect {
        matchers,
        mint,
        maxt,
        labels: Projection::All,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The union of lists, and how many strings were taken for new.
    fn union(most: usize, lists: &[Vec<String>]) -> (Vec<String>, usize) {
        let mut union = Union::new(most);
        let mut n_new = 0;
        for list in lists {
            for text in list {
                if union.is_new(text) {
                    n_new += 1;
                    union.add(text);
                }
            }
            union.merge();
        }
        (union.sorted.into_iter().map(String::from).collect(), n_new)
    }

    #[test]
    fn lists_in_any_order_become_one_sorted_set() {
        let list = |numbers: &[u32]| numbers.iter().map(|n| format!("{n:05}")).collect::<Vec<_>>();
        let scattered: Vec<u32> = (0..5000).map(|n| n * 7919 % 3001).collect();
        let lists = [
            list(&[5, 7, 9]),
            list(&[5, 6, 7, 9, 11]),
            list(&[11, 1, 5, 1, 1]),
            list(&scattered),
            Vec::new(),
        ];
        let expected: BTreeSet<String> = lists.iter().flatten().cloned().collect();
        for most in [1, 2, 3, 100, 2000, usize::MAX] {
            let (found, _) = union(most, &lists);
            assert_eq!(found, expected.iter().take(most).cloned().collect::<Vec<_>>(), "{most}");
        }
    }

    #[test]
    fn known_strings_of_sorted_lists_take_no_memory() {
        let list: Vec<String> = (0..3000).map(|n| format!("{n:05}")).collect();
        let (found, n_new) = union(usize::MAX, &[list.clone(), list.clone(), list.clone()]);
        assert_eq!((found.len(), n_new), (3000, 3000));
        let (found, n_new) = union(10, &[list.clone(), list]);
        assert_eq!(found.len(), 10);
        assert!(n_new <= MIN_WAITING, "{n_new}");
    }
}
