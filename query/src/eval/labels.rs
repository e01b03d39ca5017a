//! Label sets as numbers: grouping and matching compare integers, not strings.

use chronolith_model::Labels;
use chronolith_model::symbols::{EMPTY, Symbol, SymbolTable};
use parking_lot::RwLock;
use std::sync::Arc;

/// The number of a label set in the [`LabelSets`] of one query. Equal numbers, equal labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LabelSetId(u32);

impl LabelSetId {
    /// Below [`LabelSets::len`].
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The label set without labels.
pub(crate) const NO_LABELS: LabelSetId = LabelSetId(0);

/// Name and value of each label, sorted by name as text.
pub(crate) type SymbolPairs = [(Symbol, Symbol)];

/// The label sets of one query, each once.
pub(crate) struct LabelSets {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The pairs of all sets, one after another.
    pairs: Vec<(Symbol, Symbol)>,
    /// Where those of each set end.
    ends: Vec<u32>,
    numbers: hashbrown::HashTable<u32>,
    /// Room for the pairs of a set that is made.
    made: Vec<(Symbol, Symbol)>,
}

impl Inner {
    fn get(&self, number: u32) -> &SymbolPairs {
        pairs_of(&self.pairs, &self.ends, number)
    }

    fn intern(&mut self, pairs: &SymbolPairs) -> LabelSetId {
        let Self { pairs: all, ends, numbers, .. } = self;
        let hash = hash_pairs(pairs);
        if let Some(&number) = numbers.find(hash, |&number| pairs_of(all, ends, number) == pairs) {
            return LabelSetId(number);
        }
        let number = u32::try_from(ends.len()).expect("fewer than 2^32 label sets in one query");
        all.extend_from_slice(pairs);
        ends.push(u32::try_from(all.len()).expect("fewer than 2^32 labels in one query"));
        numbers.insert_unique(hash, number, |&number| hash_pairs(pairs_of(all, ends, number)));
        LabelSetId(number)
    }

    /// Only the labels of these names, or all but those: perhaps the set `likely`.
    fn select(&mut self, id: LabelSetId, names: &[Symbol], keep: bool, likely: LabelSetId) -> LabelSetId {
        let mut made = std::mem::take(&mut self.made);
        let pairs = self.get(id.0);
        made.clear();
        made.extend(pairs.iter().filter(|(name, _)| names.contains(name) == keep));
        let selected = match made.len() == pairs.len() {
            true => id,
            false if *made == *self.get(likely.0) => likely,
            false => self.intern(&made),
        };
        self.made = made;
        selected
    }
}

fn pairs_of<'p>(all: &'p SymbolPairs, ends: &[u32], number: u32) -> &'p SymbolPairs {
    let at = number as usize;
    let start = if at == 0 { 0 } else { ends[at - 1] };
    &all[start as usize..ends[at] as usize]
}

impl LabelSets {
    pub(crate) fn new() -> Self {
        let sets = Self { inner: RwLock::default() };
        assert_eq!(sets.intern(&[]), NO_LABELS);
        sets
    }

    /// How many there are. Their numbers are below it.
    pub(crate) fn len(&self) -> usize {
        self.inner.read().ends.len()
    }

    /// The number of a label set. `pairs` are sorted by name as text, without empty values.
    pub(crate) fn intern(&self, pairs: &SymbolPairs) -> LabelSetId {
        self.inner.write().intern(pairs)
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&self, n_sets: usize) {
        let Inner { pairs, ends, numbers, .. } = &mut *self.inner.write();
        ends.reserve(n_sets);
        numbers.reserve(n_sets, |&number| hash_pairs(pairs_of(pairs, ends, number)));
    }

    /// The numbers of several label sets.
    pub(crate) fn intern_all<'p>(
        &self,
        sets: impl ExactSizeIterator<Item = &'p SymbolPairs>,
    ) -> Vec<LabelSetId> {
        let inner = &mut *self.inner.write();
        let mut last = NO_LABELS;
        let intern = |set: &SymbolPairs| {
            // Of some of their labels neighbours often have the same.
            if *set != *inner.get(last.0) {
                last = inner.intern(set);
            }
            last
        };
        sets.map(intern).collect()
    }

    pub(crate) fn get(&self, id: LabelSetId) -> Arc<SymbolPairs> {
        Arc::from(self.inner.read().get(id.0))
    }

    /// The value of the label `name`; the empty string if it is not there.
    pub(crate) fn value(&self, id: LabelSetId, name: Symbol) -> Symbol {
        value_of(self.inner.read().get(id.0), name)
    }

    /// Without the labels of these names.
    pub(crate) fn without(&self, id: LabelSetId, names: &[Symbol]) -> LabelSetId {
        self.inner.write().select(id, names, false, NO_LABELS)
    }

    /// Only the labels of these names.
    pub(crate) fn only(&self, id: LabelSetId, names: &[Symbol]) -> LabelSetId {
        self.inner.write().select(id, names, true, NO_LABELS)
    }

    /// Of each label set only the labels of these names, or all but those.
    pub(crate) fn select(
        &self,
        ids: impl IntoIterator<Item = LabelSetId>,
        names: &[Symbol],
        keep: bool,
    ) -> Vec<LabelSetId> {
        let inner = &mut *self.inner.write();
        let mut last = NO_LABELS;
        let select = |id| {
            // Neighbours are often of one group.
            last = inner.select(id, names, keep, last);
            last
        };
        ids.into_iter().map(select).collect()
    }

    /// With one label set; an empty value removes it.
    pub(crate) fn with(
        &self,
        symbols: &SymbolTable,
        id: LabelSetId,
        name: Symbol,
        value: Symbol,
    ) -> LabelSetId {
        let old = self.get(id);
        let mut pairs = old.to_vec();
        match pairs.iter().position(|&(n, _)| n == name) {
            Some(at) if value == EMPTY => {
                pairs.remove(at);
            }
            Some(at) => pairs[at].1 = value,
            None if value == EMPTY => return id,
            None => {
                let at = symbols.with_strings(|strings| {
                    let text = &strings[name.0 as usize];
                    pairs.partition_point(|(n, _)| strings[n.0 as usize] < *text)
                });
                pairs.insert(at, (name, value));
            }
        }
        self.intern(&pairs)
    }

    /// As strings.
    pub(crate) fn to_labels(&self, symbols: &SymbolTable, id: LabelSetId) -> Labels {
        let pairs = self.get(id);
        symbols.with_strings(|strings| labels_of(strings, &pairs))
    }

    /// Memory taken so far, strings not counted.
    pub(crate) fn size_bytes(&self) -> usize {
        // Lists and tables grow by doubling.
        let inner = self.inner.read();
        inner.pairs.len() * 12 + inner.ends.len() * (6 + 8)
    }
}

/// The value of the label `name` among pairs; the empty string if it is not there.
pub(crate) fn value_of(pairs: &SymbolPairs, name: Symbol) -> Symbol {
    pairs.iter().find(|&&(n, _)| n == name).map_or(EMPTY, |&(_, value)| value)
}

/// Strings behind pairs.
pub(crate) fn labels_of(strings: &[Arc<str>], pairs: &SymbolPairs) -> Labels {
    let text = |symbol: Symbol| strings[symbol.0 as usize].to_string();
    Labels::from_pairs(pairs.iter().map(|&(name, value)| (text(name), text(value))))
        .expect("label sets hold each name once")
}

/// Folded products: symbols are numbers of our own, which nobody chooses to collide.
fn hash_pairs(pairs: &SymbolPairs) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    pairs.iter().fold(0x2545_f491_4f6c_dd1d, |hash, (name, value)| {
        let pair = u64::from(name.0) << 32 | u64::from(value.0);
        let product = u128::from(hash ^ pair) * u128::from(FACTOR);
        product as u64 ^ (product >> 64) as u64
    })
}

/// Prometheus's `Labels.Hash`, on which `limit_ratio` rests: xxh64 of every string with its length in front.
///
/// Source: Prometheus v3.14, `model/labels/labels_stringlabels.go`, `Hash` and `appendSize`.
pub(crate) fn prometheus_hash(labels: &Labels) -> u64 {
    let mut bytes = Vec::new();
    let mut append = |text: &str| {
        match u8::try_from(text.len()) {
            Ok(length) if length < 255 => bytes.push(length),
            _ => {
                bytes.push(255);
                bytes.extend_from_slice(&(text.len() as u32).to_le_bytes()[..3]);
            }
        }
        bytes.extend_from_slice(text.as_bytes());
    };
    for (name, value) in labels.iter() {
        append(name);
        append(value);
    }
    xxhash_rust::xxh64::xxh64(&bytes, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_are_numbers_and_stay_sorted_by_text() {
        let symbols = SymbolTable::new();
        let sets = LabelSets::new();
        let [z, a, one, two] = ["z", "a", "1", "2"].map(|text| symbols.intern(text));
        let id = sets.intern(&[(z, one)]);
        let both = sets.with(&symbols, id, a, two);
        assert_eq!(sets.to_labels(&symbols, both).to_string(), "{a=\"2\", z=\"1\"}");
        assert_eq!(sets.without(both, &[a]), id);
        assert_eq!(sets.only(both, &[z]), id);
        assert_eq!(sets.with(&symbols, both, a, EMPTY), id);
        assert_eq!(sets.value(both, a), two);
        assert_eq!(sets.without(both, &[a, z]), NO_LABELS);
    }
}
