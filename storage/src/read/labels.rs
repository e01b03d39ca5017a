//! Label names and values over all parts: sorted, each once, cut at the limit.

use super::overlapping;
use crate::error::StorageError;
use crate::part::{Part, PartSelect};
use chronolith_model::Matcher;
use chronolith_model::queryable::{LabelQuery, Projection, QueryContext, ReadError};
use std::sync::Arc;

/// What a string costs besides its text.
const STRING_BYTES: usize = 48;
/// At least so many new strings wait before they are merged.
const MIN_WAITING: usize = 1024;

/// What gives strings of one part.
type FromPart<'f> =
    dyn FnMut(&dyn Part, &PartSelect<'_>, &mut dyn FnMut(&str)) -> Result<(), StorageError> + 'f;

/// The distinct strings that `from_part` gives, sorted; with a limit the first `limit + 1` of them, so
/// memory follows the limit.
pub(super) fn collect(
    parts: &[Arc<dyn Part>],
    query: &LabelQuery<'_>,
    cx: &dyn QueryContext,
    from_part: &mut FromPart<'_>,
) -> Result<Vec<String>, ReadError> {
    let most = match query.limit {
        0 => usize::MAX,
        limit => limit.saturating_add(1),
    };
    let mut strings = Union::new(most);
    let mut charged = 0;
    let collected = overlapping(parts, query.mint, query.maxt).try_for_each(|part| {
        for_each_set(query.matcher_sets, |matchers| {
            cx.check()?;
            let select = PartSelect { matchers, mint: query.mint, maxt: query.maxt, labels: Projection::All };
            let mut refused = None;
            from_part(part, &select, &mut |text| {
                if refused.is_some() || !strings.is_new(text) {
                    return;
                }
                let size_bytes = text.len() + STRING_BYTES;
                if let Err(stop) = cx.charge(size_bytes) {
                    refused = Some(stop);
                    return;
                }
                charged += size_bytes;
                strings.add(text);
            })?;
            strings.merge();
            refused.map_or(Ok(()), |stop| Err(stop.into()))
        })
    });
    cx.release(charged);
    collected?;
    Ok(strings.sorted.into_iter().map(String::from).collect())
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

/// Calls `visit` with each set; with an empty one, which every series satisfies, if there is none.
pub(super) fn for_each_set(
    sets: &[Vec<Matcher>],
    mut visit: impl FnMut(&[Matcher]) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    match sets {
        [] => visit(&[]),
        sets => sets.iter().try_for_each(|matchers| visit(matchers)),
    }
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
