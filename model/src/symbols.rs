//! Interned strings: queries compare labels as numbers.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::RwLock;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The number of a string in one [`SymbolTable`]. Numbers say nothing about the order of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub u32);

/// The empty string has this number in every table.
pub const EMPTY: Symbol = Symbol(0);

/// An append-only string interner, shared by all parts of one query.
#[derive(Debug)]
pub struct SymbolTable {
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    numbers: HashTable<u32>,
    strings: Vec<Arc<str>>,
    size_bytes: usize,
}

/// Room for so many strings from the start, for queries of few series: a kilobyte and a half.
const N_AT_FIRST: usize = 56;

impl Default for SymbolTable {
    fn default() -> Self {
        let (numbers, strings) = (HashTable::with_capacity(N_AT_FIRST), Vec::with_capacity(N_AT_FIRST));
        let table = Self { inner: RwLock::new(Inner { numbers, strings, size_bytes: 0 }) };
        assert_eq!(table.intern(""), EMPTY);
        table
    }
}

impl SymbolTable {
    /// A table that holds the empty string only.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of `text`, given out now if it has none yet.
    ///
    /// # Panics
    /// With more than 2^32 strings; queries are refused by their memory budget long before.
    pub fn intern(&self, text: &str) -> Symbol {
        if let Some(symbol) = self.get(text) {
            return symbol;
        }
        self.inner.write().intern(text)
    }

    /// The numbers of several strings under one lock, appended to `out`.
    pub fn intern_all<'a>(&self, texts: impl IntoIterator<Item = &'a str>, out: &mut Vec<Symbol>) {
        let mut inner = self.inner.write();
        out.extend(texts.into_iter().map(|text| inner.intern(text)));
    }

    /// The number of `text`, if it has one.
    pub fn get(&self, text: &str) -> Option<Symbol> {
        let Inner { numbers, strings, .. } = &*self.inner.read();
        numbers.find(hash(text), |&number| *strings[number as usize] == *text).copied().map(Symbol)
    }

    /// The string behind a number of this table.
    ///
    /// # Panics
    /// If the symbol is of another table and out of range here.
    pub fn resolve(&self, symbol: Symbol) -> Arc<str> {
        Arc::clone(&self.inner.read().strings[symbol.0 as usize])
    }

    /// All strings so far, by number: a cheap way to resolve many symbols without a lock each.
    pub fn strings(&self) -> Vec<Arc<str>> {
        self.inner.read().strings.clone()
    }

    /// Runs `read` with all strings by number, under the read lock.
    pub fn with_strings<R>(&self, read: impl FnOnce(&[Arc<str>]) -> R) -> R {
        read(&self.inner.read().strings)
    }

    /// Estimated heap size, for memory accounts.
    pub fn size_bytes(&self) -> usize {
        self.inner.read().size_bytes
    }
}

impl Inner {
    fn intern(&mut self, text: &str) -> Symbol {
        let Self { numbers, strings, size_bytes } = self;
        let is_it = |&number: &u32| *strings[number as usize] == *text;
        let entry = numbers.entry(hash(text), is_it, |&number| hash(&strings[number as usize]));
        let place = match entry {
            Entry::Occupied(known) => return Symbol(*known.get()),
            Entry::Vacant(place) => place,
        };
        let number = u32::try_from(strings.len()).expect("fewer than 2^32 symbols in one query");
        place.insert(number);
        strings.push(Arc::from(text));
        // String, its Arc header, the entry of the table and of the list.
        *size_bytes += text.len() + 16 + 32 + 16;
        Symbol(number)
    }
}

fn hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_keeps_its_number() {
        let table = SymbolTable::new();
        let a = table.intern("a");
        assert_eq!(table.intern("a"), a);
        assert_ne!(table.intern("b"), a);
        assert_eq!(table.intern(""), EMPTY);
        assert_eq!(&*table.resolve(a), "a");
        assert_eq!(table.get("c"), None);
    }
}
