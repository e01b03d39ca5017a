//! Interned strings: queries compare labels as numbers.

use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

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
    numbers: HashMap<Arc<str>, u32, xxhash_rust::xxh3::Xxh3DefaultBuilder>,
    strings: Vec<Arc<str>>,
    size_bytes: usize,
}

impl Default for SymbolTable {
    fn default() -> Self {
        let table = Self {
            inner: RwLock::new(Inner { numbers: HashMap::default(), strings: Vec::new(), size_bytes: 0 }),
        };
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
        self.inner.read().numbers.get(text).map(|&number| Symbol(number))
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
        if let Some(&number) = self.numbers.get(text) {
            return Symbol(number);
        }
        let number = u32::try_from(self.strings.len()).expect("fewer than 2^32 symbols in one query");
        let text: Arc<str> = Arc::from(text);
        // String, its Arc header, the entry of the map and of the list.
        self.size_bytes += text.len() + 16 + 32 + 16;
        self.strings.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        Symbol(number)
    }
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
