//! Exemplars of a shard of a table: the newest ones, up to a limit.

use super::shard::Placed;
use chronolith_model::append::Exemplar;
use hashbrown::HashMap;
use std::collections::VecDeque;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// A ring of exemplars with the numbers of their series.
pub struct ExemplarRing {
    ring: VecDeque<(u32, Exemplar)>,
    /// Newest of each series.
    newest: HashMap<u32, Exemplar, Xxh3DefaultBuilder>,
    limit: usize,
    size_bytes: usize,
}

impl ExemplarRing {
    /// A ring of at most `limit` exemplars.
    pub fn new(limit: usize) -> Self {
        Self { ring: VecDeque::new(), newest: HashMap::default(), limit, size_bytes: 0 }
    }

    /// Adds an exemplar that is newer than those of its series; `Same` if it is the newest one again,
    /// `Conflict` if it is older.
    pub fn add(&mut self, ordinal: u32, exemplar: &Exemplar) -> Placed {
        if self.limit == 0 {
            return Placed::Same;
        }
        if let Some(newest) = self.newest.get(&ordinal) {
            let same_value = newest.value.to_bits() == exemplar.value.to_bits();
            if newest.timestamp == exemplar.timestamp && same_value && newest.labels == exemplar.labels {
                return Placed::Same;
            }
            if newest.timestamp > exemplar.timestamp {
                return Placed::Conflict;
            }
        }
        self.put(ordinal, exemplar);
        Placed::Newest
    }

    /// Adds an exemplar of any age: from the log, or from another table.
    pub fn put(&mut self, ordinal: u32, exemplar: &Exemplar) {
        if self.limit == 0 {
            return;
        }
        if self.ring.len() >= self.limit
            && let Some((_, oldest)) = self.ring.pop_front()
        {
            self.size_bytes -= heap_bytes(&oldest);
        }
        // In the ring and, for the time being, as the newest of its series.
        self.size_bytes += heap_bytes(exemplar);
        self.ring.push_back((ordinal, exemplar.clone()));
        if self.newest.get(&ordinal).is_none_or(|newest| newest.timestamp <= exemplar.timestamp) {
            self.newest.insert(ordinal, exemplar.clone());
        }
    }

    /// Series number and exemplar, in the order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Exemplar)> {
        self.ring.iter().map(|(ordinal, exemplar)| (*ordinal, exemplar))
    }

    /// How many there are.
    pub fn n_exemplars(&self) -> usize {
        self.ring.len()
    }

    /// Estimated heap size.
    pub const fn size_bytes(&self) -> usize {
        2 * self.size_bytes
    }
}

fn heap_bytes(exemplar: &Exemplar) -> usize {
    let labels: usize = exemplar.labels.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
    size_of::<(u32, Exemplar)>() + labels
}
