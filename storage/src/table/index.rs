//! The inverted index of a shard of a table, in memory: it grows as series arrive. Series are numbered
//! in the order of their arrival, so the postings of a label pair are appended to and never sorted.

use super::numbers::NumberMap;
use super::registry::interner::Interner;
use crate::error::StorageError;
use crate::index::IndexReader;
use crate::index::matching::Visit;
use crate::index::postings::{Postings, PostingsBuilder};
use crate::index::varint::{Bytes, put_varint};

type Map<V> = NumberMap<u32, V>;

/// Postings by label name and value, both as numbers of the registry's interner.
#[derive(Default)]
pub struct MemoryIndex {
    names: Map<NameIndex>,
    n_series: u32,
    n_pairs: usize,
    postings_bytes: usize,
}

#[derive(Default)]
struct NameIndex {
    all: GrowingPostings,
    values: Map<GrowingPostings>,
}

impl MemoryIndex {
    /// Adds the series that follows those added so far.
    pub fn add(&mut self, labels: impl Iterator<Item = (u32, u32)>) {
        let ordinal = self.n_series;
        for (name, value) in labels {
            let index = self.names.entry(name).or_default();
            self.postings_bytes += index.all.push(ordinal);
            let n_values = index.values.len();
            self.postings_bytes += index.values.entry(value).or_default().push(ordinal);
            self.n_pairs += index.values.len() - n_values;
        }
        self.n_series += 1;
    }

    /// Distinct label pairs.
    pub const fn n_pairs(&self) -> usize {
        self.n_pairs
    }

    /// Estimated heap size.
    pub const fn size_bytes(&self) -> usize {
        // Maps are half to seven eighths full; an entry has a control byte.
        self.n_pairs * (size_of::<GrowingPostings>() + 5) * 3 / 2 + self.postings_bytes
    }

    /// Every label name with how many series have it and its values with theirs.
    pub fn visit_pairs(&self, mut visit: impl FnMut(u32, u32, u32)) {
        for (&name, index) in &self.names {
            for (&value, postings) in &index.values {
                visit(name, value, postings.count());
            }
        }
    }
}

/// Ranks in ascending order, as gaps and runs: two bytes for most ranks.
#[derive(Default)]
struct GrowingPostings {
    /// Closed runs: varint of the distance to the end of the run before, varint of length - 1.
    bytes: Vec<u8>,
    /// End of the last run in `bytes`.
    written_end: u32,
    /// The run that may still grow; empty before the first rank.
    start: u32,
    end: u32,
}

impl GrowingPostings {
    /// Adds a rank above all before it; returns by how many bytes the heap grew.
    fn push(&mut self, rank: u32) -> usize {
        if self.end == rank && self.start < self.end {
            self.end += 1;
            return 0;
        }
        let before = self.bytes.capacity();
        if self.start < self.end {
            put_varint(&mut self.bytes, u64::from(self.start - self.written_end));
            put_varint(&mut self.bytes, u64::from(self.end - self.start - 1));
            self.written_end = self.end;
        }
        (self.start, self.end) = (rank, rank + 1);
        self.bytes.capacity() - before
    }

    fn runs(&self, mut visit: impl FnMut(u32, u32)) {
        let mut rest = Bytes(&self.bytes);
        let mut end = 0;
        while let (Some(gap), Some(more)) = (rest.varint_u32(), rest.varint_u32()) {
            let start = end + gap;
            end = start + more + 1;
            visit(start, end);
        }
        if self.start < self.end {
            visit(self.start, self.end);
        }
    }

    fn count(&self) -> u32 {
        let mut count = 0;
        self.runs(|start, end| count += end - start);
        count
    }

    fn postings(&self) -> Postings {
        let mut builder = PostingsBuilder::default();
        self.runs(|start, end| builder.push_run(start, end));
        builder.finish()
    }
}

/// The index of a shard with the strings of its numbers.
pub struct ShardIndex<'a> {
    /// The numbers.
    pub index: &'a MemoryIndex,
    /// The strings.
    pub interner: &'a Interner,
}

impl IndexReader for ShardIndex<'_> {
    fn n_series(&self) -> u32 {
        self.index.n_series
    }

    fn symbol(&self, text: &str) -> Result<Option<u32>, StorageError> {
        Ok(self.interner.get(text))
    }

    fn names(&self, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        self.index.names.keys().try_for_each(|&name| visit(name, self.interner.resolve(name)))
    }

    fn values(&self, name: u32, prefix: &str, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let Some(index) = self.index.names.get(&name) else { return Ok(()) };
        for &value in index.values.keys() {
            let text = self.interner.resolve(value);
            if text.starts_with(prefix) {
                visit(value, text)?;
            }
        }
        Ok(())
    }

    fn postings(&self, name: u32, values: &[u32]) -> Result<Postings, StorageError> {
        let Some(index) = self.index.names.get(&name) else { return Ok(Postings::empty()) };
        let sets: Vec<Postings> = values
            .iter()
            .filter_map(|value| index.values.get(value))
            .map(GrowingPostings::postings)
            .collect();
        Ok(Postings::union(&sets))
    }

    fn postings_of_name(&self, name: u32) -> Result<Postings, StorageError> {
        let index = self.index.names.get(&name);
        Ok(index.map_or_else(Postings::empty, |index| index.all.postings()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_postings_hold_what_was_pushed() {
        let ranks = [0, 1, 2, 5, 7, 8, 300, 70_000];
        let mut growing = GrowingPostings::default();
        assert!(growing.postings().is_empty());
        for rank in ranks {
            growing.push(rank);
        }
        assert_eq!(growing.postings(), Postings::from_sorted(ranks));
        assert_eq!(growing.count(), 8);
    }
}
