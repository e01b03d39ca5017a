//! Joins timestamp columns so that series which shared them in the inputs share the result.

use crate::part::ColumnSlice;
use std::collections::HashMap;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3Default;

/// The cache is emptied when it holds so many timestamps (32 MB); sharing starts anew then.
const MAX_TIMESTAMPS: usize = 4 << 20;

/// Joined columns by what they were joined from, and by what they hold.
#[derive(Debug, Default)]
pub struct ColumnCache {
    joined: HashMap<Vec<Piece>, Joined>,
    by_content: HashMap<u128, Arc<Vec<i64>>>,
    n_timestamps: usize,
}

/// Address, start and length of an input: (column, 0, whole length) where whole columns are joined.
type Piece = (usize, u32, u32);

#[derive(Debug)]
struct Joined {
    column: Arc<Vec<i64>>,
    /// Keeps the addresses of the key taken.
    _inputs: Vec<Arc<Vec<i64>>>,
}

impl ColumnCache {
    /// One stretch for consecutive ones, which ascend over all of them.
    pub fn join(&mut self, slices: &[&ColumnSlice]) -> ColumnSlice {
        let last = slices.len() - 1;
        let whole = |slice: &ColumnSlice| slice.column.len();
        let reaches_back = |slice: &ColumnSlice| slice.first == 0;
        let reaches_on = |slice: &ColumnSlice| (slice.first + slice.count) as usize == whole(slice);
        // A series that begins late or ends early shares the join of the whole columns with those that
        // do not; only one with a hole at a seam has a column of its own.
        let seamless = slices.iter().enumerate().all(|(at, slice)| {
            (at == 0 || reaches_back(slice))
                && (at == last || reaches_on(slice))
                && (at == last || whole_range(slice).1 < whole_range(slices[at + 1]).0)
        });
        let count = slices.iter().map(|slice| slice.count).sum();
        if seamless {
            let key = slices.iter().map(|slice| (address(slice), 0, len(slice))).collect();
            let column = self.get(key, slices, |slice| &slice.column);
            ColumnSlice { column, first: slices[0].first, count }
        } else {
            let key = slices.iter().map(|slice| (address(slice), slice.first, slice.count)).collect();
            let column = self.get(key, slices, |slice| slice.times());
            ColumnSlice { column, first: 0, count }
        }
    }

    /// A column with these times, shared with equal ones.
    pub fn intern(&mut self, times: Vec<i64>) -> Arc<Vec<i64>> {
        let mut hasher = Xxh3Default::new();
        for time in &times {
            hasher.update(&time.to_le_bytes());
        }
        let hash = hasher.digest128();
        match self.by_content.get(&hash) {
            Some(known) if **known == times => Arc::clone(known),
            _ => {
                self.n_timestamps += times.len();
                let column = Arc::new(times);
                self.by_content.insert(hash, Arc::clone(&column));
                column
            }
        }
    }

    fn get<'s>(
        &mut self,
        key: Vec<Piece>,
        slices: &[&'s ColumnSlice],
        times: impl Fn(&'s ColumnSlice) -> &'s [i64],
    ) -> Arc<Vec<i64>> {
        if let Some(joined) = self.joined.get(&key) {
            return Arc::clone(&joined.column);
        }
        if self.n_timestamps > MAX_TIMESTAMPS {
            *self = Self::default();
        }
        let column = self.intern(slices.iter().flat_map(|&slice| times(slice).iter().copied()).collect());
        let inputs = slices.iter().map(|slice| Arc::clone(&slice.column)).collect();
        self.n_timestamps += key.len();
        self.joined.insert(key, Joined { column: Arc::clone(&column), _inputs: inputs });
        column
    }
}

fn address(slice: &ColumnSlice) -> usize {
    Arc::as_ptr(&slice.column) as usize
}

fn len(slice: &ColumnSlice) -> u32 {
    u32::try_from(slice.column.len()).expect("a column holds fewer than 2^32 timestamps")
}

/// First and last time of the whole column.
fn whole_range(slice: &ColumnSlice) -> (i64, i64) {
    let times = &slice.column;
    (times.first().copied().unwrap_or(i64::MAX), times.last().copied().unwrap_or(i64::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(column: &Arc<Vec<i64>>, first: u32, count: u32) -> ColumnSlice {
        ColumnSlice { column: Arc::clone(column), first, count }
    }

    #[test]
    fn series_that_begin_late_or_end_early_share_the_joined_column() {
        let (a, b) = (Arc::new(vec![1, 2, 3]), Arc::new(vec![4, 5]));
        let mut cache = ColumnCache::default();
        let whole = cache.join(&[&slice(&a, 0, 3), &slice(&b, 0, 2)]);
        let part = cache.join(&[&slice(&a, 1, 2), &slice(&b, 0, 1)]);
        assert_eq!(whole.times(), [1, 2, 3, 4, 5]);
        assert_eq!(part.times(), [2, 3, 4]);
        assert!(Arc::ptr_eq(&whole.column, &part.column));
        let holed = cache.join(&[&slice(&a, 0, 2), &slice(&b, 0, 2)]);
        assert_eq!(holed.times(), [1, 2, 4, 5]);
    }

    #[test]
    fn columns_that_overlap_as_a_whole_are_joined_by_their_stretches() {
        let (a, b) = (Arc::new(vec![1, 2, 9]), Arc::new(vec![0, 5, 6]));
        let mut cache = ColumnCache::default();
        assert_eq!(cache.join(&[&slice(&a, 0, 2), &slice(&b, 1, 2)]).times(), [1, 2, 5, 6]);
    }

    #[test]
    fn equal_columns_become_one() {
        let mut cache = ColumnCache::default();
        assert!(Arc::ptr_eq(&cache.intern(vec![1, 2]), &cache.intern(vec![1, 2])));
    }
}
