//! Samples of a series that were older than its newest when they came.

use super::shard::Value;
use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// A sample that came late.
#[derive(Clone, Debug)]
pub struct LateSample {
    /// Float or histogram.
    pub value: Value,
    /// 0 if unknown.
    pub start_timestamp: i64,
}

/// All of a series, by time. What is backfilled in any order is here: 16 bytes an entry, where a [`LateSample`] and its
/// time are 40.
// Invariant: no time is in both.
#[derive(Clone, Debug, Default)]
pub struct Late {
    /// Bits of floats without a start timestamp.
    floats: BTreeMap<i64, u64>,
    others: BTreeMap<i64, LateSample>,
}

impl Late {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.floats.is_empty() && self.others.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.floats.len() + self.others.len()
    }

    /// Adds a sample at a time that has none. Gives what it takes, about.
    pub fn insert(&mut self, time: i64, sample: LateSample) -> usize {
        // A node of a tree holds eleven entries, half of them in use.
        if let LateSample { value: Value::Float(bits), start_timestamp: 0 } = sample {
            self.floats.insert(time, bits);
            return 2 * size_of::<(i64, u64)>();
        }
        let size_bytes = 2 * size_of::<(i64, LateSample)>() + sample.value.size_bytes();
        self.others.insert(time, sample);
        size_bytes
    }

    /// The value at a time.
    pub fn get(&self, time: i64) -> Option<Value> {
        let float = self.floats.get(&time).map(|&bits| Value::Float(bits));
        float.or_else(|| Some(self.others.get(&time)?.value.clone()))
    }

    /// The first time.
    pub fn first_time(&self) -> Option<i64> {
        let float = self.floats.first_key_value().map(|(&time, _)| time);
        let other = self.others.first_key_value().map(|(&time, _)| time);
        float.into_iter().chain(other).min()
    }

    /// The samples of a range of time: those without more than a float first, each kind ascending. The range must not end before
    /// it begins.
    pub fn range(
        &self,
        range: impl RangeBounds<i64> + Clone,
    ) -> impl Iterator<Item = (i64, LateSample)> + '_ {
        let float = |(&time, &bits): (&i64, &u64)| {
            (time, LateSample { value: Value::Float(bits), start_timestamp: 0 })
        };
        let other = |(&time, sample): (&i64, &LateSample)| (time, sample.clone());
        self.floats.range(range.clone()).map(float).chain(self.others.range(range).map(other))
    }

    /// The last sample before a time.
    pub fn last_before(&self, time: i64) -> Option<(i64, LateSample)> {
        let float = self.floats.range(..time).next_back().map(|(&time, _)| time);
        let other = self.others.range(..time).next_back().map(|(&time, _)| time);
        let last = float.into_iter().chain(other).max()?;
        self.range(last..=last).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_both_kinds_are_one_list() {
        let mut late = Late::default();
        assert!(late.is_empty() && late.first_time().is_none() && late.last_before(9).is_none());
        for time in 0..10 {
            let value =
                if time % 3 == 0 { Value::Histogram([1, 2].into()) } else { Value::Float(time as u64) };
            late.insert(time, LateSample { value, start_timestamp: i64::from(time % 3 == 1) });
        }
        assert_eq!((late.len(), late.first_time()), (10, Some(0)));
        let mut found: Vec<_> = late.range(2..=8).collect();
        found.sort_by_key(|(time, _)| *time);
        assert!(found.iter().map(|(time, _)| *time).eq(2..=8));
        for (time, sample) in found {
            assert_eq!(late.get(time), Some(sample.value));
            assert_eq!(sample.start_timestamp, i64::from(time % 3 == 1));
        }
        let before = |time| late.last_before(time).map(|(time, _)| time);
        assert!((0..=10).all(|time| before(time) == (time > 0).then_some(time - 1)));
        assert_eq!(late.get(10), None);
    }
}
