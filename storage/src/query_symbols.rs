//! Labels as numbers of a block or of the registry to labels as symbols of a query.

use crate::error::StorageError;
use chronolith_model::queryable::QueryContext;
use chronolith_model::symbols::Symbol;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Labels with symbols instead of numbers, which are below `n_numbers`. Each string is interned once: `intern` appends
/// the symbols of the numbers that it is given, each of which comes once, in the order in which it leaves them.
///
/// # Errors
/// [`StorageError`] if the query's memory does not suffice, and what `intern` returns.
pub fn to_symbols(
    labels: &[(u32, u32)],
    n_numbers: u32,
    cx: &dyn QueryContext,
    intern: impl FnOnce(&mut Vec<u32>, &mut Vec<Symbol>) -> Result<(), StorageError>,
) -> Result<Vec<(Symbol, Symbol)>, StorageError> {
    // A map is no larger than the labels, which are charged.
    let is_dense = n_numbers as usize / 16 <= labels.len();
    let size_bytes = if is_dense { n_numbers as usize * size_of::<u32>() } else { 0 };
    cx.charge(size_bytes)?;
    let mut map = match is_dense {
        true => SymbolMap::Dense(vec![UNSEEN; n_numbers as usize]),
        false => SymbolMap::Sparse(HashTable::new()),
    };
    let mut used: Vec<u32> = Vec::new();
    for number in labels.iter().flat_map(|&(name, value)| [name, value]) {
        if map.mark(number) {
            used.push(number);
        }
    }
    let mut symbols = Vec::with_capacity(used.len());
    let interned = intern(&mut used, &mut symbols);
    cx.release(size_bytes);
    interned?;
    for (&number, symbol) in used.iter().zip(symbols) {
        map.set(number, symbol);
    }
    Ok(labels.iter().map(|&(name, value)| (map.get(name), map.get(value))).collect())
}

/// Symbols of the query by numbers: an array where a good part of the numbers is used, otherwise a map, so that few
/// series among millions of strings stay cheap.
enum SymbolMap {
    // `UNSEEN` where the number is not used.
    Dense(Vec<u32>),
    Sparse(HashTable<(u32, u32)>),
}

/// No symbol of a query: its memory ends long before.
const UNSEEN: u32 = u32::MAX;

impl SymbolMap {
    /// Notes that a number is used; true if that is new.
    fn mark(&mut self, number: u32) -> bool {
        match self {
            Self::Dense(symbols) => std::mem::replace(&mut symbols[number as usize], 0) == UNSEEN,
            Self::Sparse(symbols) => {
                let hash = |&(number, _): &(u32, u32)| hash_of(number);
                match symbols.entry(hash_of(number), |known| known.0 == number, hash) {
                    Entry::Occupied(_) => false,
                    Entry::Vacant(place) => {
                        place.insert((number, 0));
                        true
                    }
                }
            }
        }
    }

    /// Gives a number that is marked its symbol.
    fn set(&mut self, number: u32, symbol: Symbol) {
        match self {
            Self::Dense(symbols) => symbols[number as usize] = symbol.0,
            Self::Sparse(symbols) => {
                if let Some(known) = symbols.find_mut(hash_of(number), |known| known.0 == number) {
                    known.1 = symbol.0;
                }
            }
        }
    }

    /// The symbol of a number that is marked.
    fn get(&self, number: u32) -> Symbol {
        Symbol(match self {
            Self::Dense(symbols) => symbols[number as usize],
            Self::Sparse(symbols) => {
                symbols.find(hash_of(number), |known| known.0 == number).map_or(UNSEEN, |known| known.1)
            }
        })
    }
}

/// One product: who writes strings chooses their order at most.
fn hash_of(number: u32) -> u64 {
    u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}
