//! Numbers for the strings that labels in memory are made of. A number is counted by the label sets
//! that use it and is given out again once none does.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Strings and their numbers.
pub struct Interner {
    seed: u64,
    numbers: HashTable<u32>,
    strings: Vec<Interned>,
    free: Vec<u32>,
    size_bytes: usize,
}

struct Interned {
    text: Box<str>,
    uses: u32,
}

impl Interner {
    /// An interner without strings. The seed keeps senders from choosing colliding ones.
    pub fn new(seed: u64) -> Self {
        Self { seed, numbers: HashTable::new(), strings: Vec::new(), free: Vec::new(), size_bytes: 0 }
    }

    /// Numbers are below this.
    pub fn n_numbers(&self) -> u32 {
        self.strings.len() as u32
    }

    /// The number of `text`, with one use more.
    ///
    /// # Panics
    /// With 2^32 strings in use; memory ends long before.
    pub fn acquire(&mut self, text: &str) -> u32 {
        let hash = xxh3_64_with_seed(text.as_bytes(), self.seed);
        let (strings, seed) = (&mut self.strings, self.seed);
        if let Some(&number) = self.numbers.find(hash, |&number| &*strings[number as usize].text == text) {
            strings[number as usize].uses += 1;
            return number;
        }
        self.size_bytes += text.len() + size_of::<Interned>() + 8;
        let interned = Interned { text: text.into(), uses: 1 };
        let number = if let Some(number) = self.free.pop() {
            strings[number as usize] = interned;
            number
        } else {
            strings.push(interned);
            u32::try_from(strings.len() - 1).expect("fewer than 2^32 strings in use")
        };
        self.numbers.insert_unique(hash, number, |&number| {
            xxh3_64_with_seed(strings[number as usize].text.as_bytes(), seed)
        });
        number
    }

    /// One use more of a number in use.
    ///
    /// # Panics
    /// If the number has none.
    pub fn add_use(&mut self, number: u32) {
        let interned = &mut self.strings[number as usize];
        assert!(interned.uses > 0, "a string that is used again is in use");
        interned.uses += 1;
    }

    /// Takes one use back.
    ///
    /// # Panics
    /// If the number has none.
    pub fn release(&mut self, number: u32) {
        let interned = &mut self.strings[number as usize];
        assert!(interned.uses > 0, "a released string was in use");
        interned.uses -= 1;
        if interned.uses > 0 {
            return;
        }
        let hash = xxh3_64_with_seed(interned.text.as_bytes(), self.seed);
        self.size_bytes -= interned.text.len() + size_of::<Interned>() + 8;
        interned.text = Box::default();
        let entry = self.numbers.find_entry(hash, |&other| other == number);
        entry.expect("a string in use has an entry").remove();
        self.free.push(number);
    }

    /// The number of `text`, if it is in use.
    pub fn get(&self, text: &str) -> Option<u32> {
        let hash = xxh3_64_with_seed(text.as_bytes(), self.seed);
        self.numbers.find(hash, |&number| &*self.strings[number as usize].text == text).copied()
    }

    /// The string of a number.
    ///
    /// # Panics
    /// If the number was never given out.
    pub fn resolve(&self, number: u32) -> &str {
        &self.strings[number as usize].text
    }

    /// Numbers given out so far are below this.
    pub fn bound(&self) -> usize {
        self.strings.len()
    }

    /// Estimated heap size.
    pub const fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_free_when_its_last_use_ends() {
        let mut interner = Interner::new(1);
        let a = interner.acquire("a");
        let b = interner.acquire("b");
        assert_eq!(interner.acquire("a"), a);
        interner.release(a);
        assert_eq!(interner.get("a"), Some(a));
        interner.release(a);
        assert_eq!(interner.get("a"), None);
        assert_eq!(interner.acquire("c"), a);
        assert_eq!((interner.resolve(a), interner.resolve(b)), ("c", "b"));
    }
}
