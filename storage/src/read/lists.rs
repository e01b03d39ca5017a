//! Label names and values of sets of blocks, kept for look-ups to come.
//!
//! Dashboards ask for the same lists again and again, and blocks change a few times an hour. A list is found by
//! the question and by the numbers of the blocks that it is the union of. Only blocks are in it whose part of the
//! answer is what was written (`Part::written_as`); a number is never used again, so no list is ever wrong:
//! what changes asks for another one. What is not in such blocks is asked for each time.

use super::labels::Wanted;
use crate::index::matching::write_key;
use crate::kv::keys::BlockId;
use crate::part::Grown;
use chronolith_model::Matcher;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// Bytes of all lists: some dozens of the lengths that dashboards show.
const LISTS_BYTES: usize = 2 << 20;

/// Of what a list is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    text: String,
    blocks: Vec<BlockId>,
}

impl Question {
    pub(super) fn new(wanted: Wanted<'_>, sets: &[Vec<Matcher>], blocks: Vec<BlockId>) -> Self {
        let mut text = match wanted {
            Wanted::Names => "names".to_owned(),
            // A length first: labels may be called anything.
            Wanted::Values(name) => format!("{} {name}", name.len()),
        };
        for matchers in sets {
            text.push(';');
            write_key(matchers, &mut text);
        }
        Self { text, blocks }
    }

    fn size_bytes(&self) -> usize {
        self.text.len() + size_of_val(self.blocks.as_slice()) + 128
    }
}

/// A list that is kept.
#[derive(Debug)]
pub(super) struct List {
    /// Sorted, each once.
    pub(super) strings: Box<[Box<str>]>,
    /// Other blocks that have no string beside these, whatever the time: as true as the list is.
    within: Mutex<Vec<BlockId>>,
    /// Tables that had none when they had grown so far.
    tables: Mutex<Vec<Grown>>,
}

/// Blocks and tables that a list remembers, each.
const MAX_WITHIN: usize = 64;

impl List {
    /// Whether a block is known to have no other string.
    pub(super) fn has_all_of(&self, block: BlockId) -> bool {
        self.within.lock().contains(&block)
    }

    /// Remembers that a block has no other string.
    pub(super) fn add_within(&self, block: BlockId) {
        let mut within = self.within.lock();
        if within.len() == MAX_WITHIN {
            within.clear();
        }
        within.push(block);
    }

    /// Whether a table is known to have no other string.
    pub(super) fn has_all_of_table(&self, grown: Grown) -> bool {
        self.tables.lock().contains(&grown)
    }

    /// Remembers that a table had no other string before it had grown so far.
    pub(super) fn add_table(&self, grown: Grown) {
        let mut tables = self.tables.lock();
        tables.retain(|known| known.table != grown.table);
        if tables.len() == MAX_WITHIN {
            tables.clear();
        }
        tables.push(grown);
    }
}

/// The lists that are kept.
#[derive(Debug, Default)]
pub struct Lists {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lists: HashMap<Question, Arc<List>, Xxh3DefaultBuilder>,
    size_bytes: usize,
}

impl Lists {
    pub(super) fn get(&self, question: &Question) -> Option<Arc<List>> {
        self.kept.lock().lists.get(question).cloned()
    }

    /// How many are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept.lock().lists.len()
    }

    /// Keeps a list. One that is large beside the bound is not kept, and all others go when it is reached: what
    /// is asked for again comes back.
    pub(super) fn insert(&self, question: Question, strings: &[Box<str>]) {
        let texts: usize = strings.iter().map(|text| text.len() + size_of::<Box<str>>() + 16).sum();
        let size_bytes = question.size_bytes() + texts;
        if size_bytes > LISTS_BYTES / 4 {
            return;
        }
        let list =
            Arc::new(List { strings: strings.into(), within: Mutex::default(), tables: Mutex::default() });
        let mut kept = self.kept.lock();
        if kept.size_bytes + size_bytes > LISTS_BYTES {
            *kept = Kept::default();
        }
        if kept.lists.insert(question, list).is_none() {
            kept.size_bytes += size_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_model::MatchOp;

    fn matcher(name: &str, value: &str) -> Matcher {
        Matcher::new(MatchOp::Equal, name, value).unwrap()
    }

    #[test]
    fn questions_differ_by_label_matchers_and_blocks() {
        let blocks = || vec![BlockId(1), BlockId(2)];
        let one = |name: &str, value: &str| vec![matcher(name, value)];
        let questions = [
            Question::new(Wanted::Names, &[], blocks()),
            Question::new(Wanted::Names, &[], vec![BlockId(1)]),
            Question::new(Wanted::Names, &[Vec::new()], blocks()),
            Question::new(Wanted::Values("names"), &[], blocks()),
            Question::new(Wanted::Values("a"), &[], blocks()),
            Question::new(Wanted::Values("a"), &[one("b", "c")], blocks()),
            Question::new(Wanted::Values("a"), &[one("bc", "")], blocks()),
            Question::new(Wanted::Values("a"), &[one("b", "c"), one("b", "d")], blocks()),
            Question::new(Wanted::Values("a"), &[[one("b", "c"), one("b", "d")].concat()], blocks()),
        ];
        let lists = Lists::default();
        for (at, question) in questions.iter().enumerate() {
            assert!(lists.get(question).is_none(), "{at}");
            lists.insert(question.clone(), &[at.to_string().into()]);
        }
        for (at, question) in questions.iter().enumerate() {
            assert_eq!(lists.get(question).unwrap().strings[..], [at.to_string().into()]);
        }
    }

    #[test]
    fn lists_are_bounded() {
        let lists = Lists::default();
        let question = |number| Question::new(Wanted::Names, &[], vec![BlockId(number)]);
        let long: Vec<Box<str>> = (0..LISTS_BYTES / 64).map(|at| format!("{at:032}").into()).collect();
        lists.insert(question(0), &long);
        assert!(lists.get(&question(0)).is_none(), "too long");
        for number in 1..1000 {
            lists.insert(question(number), &long[..100]);
            assert!(lists.get(&question(number)).is_some());
            assert!(lists.kept.lock().size_bytes <= LISTS_BYTES);
        }
        assert!(lists.get(&question(1)).is_none());
    }
}
