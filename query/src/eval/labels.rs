//! Label sets as numbers: grouping and matching compare integers, not strings.

use chronolith_model::Labels;
use chronolith_model::symbols::{EMPTY, Symbol, SymbolTable};
use parking_lot::RwLock;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// The number of a label set in the [`LabelSets`] of one query. Equal numbers, equal labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LabelSetId(u32);

/// The label set without labels.
pub(crate) const NO_LABELS: LabelSetId = LabelSetId(0);

/// Name and value of each label, sorted by name as text.
pub(crate) type SymbolPairs = [(Symbol, Symbol)];

/// The label sets of one query, each once.
pub(crate) struct LabelSets {
    inner: RwLock<Inner>,
    hasher: xxhash_rust::xxh3::Xxh3DefaultBuilder,
}

struct Inner {
    sets: Vec<Arc<SymbolPairs>>,
    numbers: hashbrown::HashTable<u32>,
    size_bytes: usize,
}

impl LabelSets {
    pub(crate) fn new() -> Self {
        let sets = Self {
            inner: RwLock::new(Inner {
                sets: Vec::new(),
                numbers: hashbrown::HashTable::new(),
                size_bytes: 0,
            }),
            hasher: xxhash_rust::xxh3::Xxh3DefaultBuilder::new(),
        };
        assert_eq!(sets.intern(&[]), NO_LABELS);
        sets
    }

    /// The number of a label set. `pairs` are sorted by name as text, without empty values.
    pub(crate) fn intern(&self, pairs: &SymbolPairs) -> LabelSetId {
        let hash = hash_pairs(&self.hasher, pairs);
        let inner = &mut *self.inner.write();
        let found = inner.numbers.find(hash, |&number| *inner.sets[number as usize] == *pairs);
        if let Some(&number) = found {
            return LabelSetId(number);
        }
        let number = u32::try_from(inner.sets.len()).expect("fewer than 2^32 label sets in one query");
        inner.sets.push(Arc::from(pairs));
        let Inner { sets, numbers, size_bytes } = inner;
        numbers.insert_unique(hash, number, |&number| hash_pairs(&self.hasher, &sets[number as usize]));
        // Pairs, the header of the Arc, the pointer to it, and the entry of the table.
        *size_bytes += pairs.len() * 8 + 16 + 16 + 8;
        LabelSetId(number)
    }

    pub(crate) fn get(&self, id: LabelSetId) -> Arc<SymbolPairs> {
        Arc::clone(&self.inner.read().sets[id.0 as usize])
    }

    /// The value of the label `name`; the empty string if it is not there.
    pub(crate) fn value(&self, id: LabelSetId, name: Symbol) -> Symbol {
        value_of(&self.inner.read().sets[id.0 as usize], name)
    }

    /// Without the labels of these names.
    pub(crate) fn without(&self, id: LabelSetId, names: &[Symbol]) -> LabelSetId {
        self.retain(id, |name| !names.contains(&name))
    }

    /// Only the labels of these names.
    pub(crate) fn only(&self, id: LabelSetId, names: &[Symbol]) -> LabelSetId {
        self.retain(id, |name| names.contains(&name))
    }

    fn retain(&self, id: LabelSetId, keep: impl Fn(Symbol) -> bool) -> LabelSetId {
        let pairs = self.get(id);
        if pairs.iter().all(|&(name, _)| keep(name)) {
            return id;
        }
        let kept: Vec<_> = pairs.iter().copied().filter(|&(name, _)| keep(name)).collect();
        self.intern(&kept)
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
        self.inner.read().size_bytes
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

fn hash_pairs(hasher: &xxhash_rust::xxh3::Xxh3DefaultBuilder, pairs: &SymbolPairs) -> u64 {
    let mut state = hasher.build_hasher();
    for (name, value) in pairs {
        state.write_u64(u64::from(name.0) << 32 | u64::from(value.0));
    }
    state.finish()
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
