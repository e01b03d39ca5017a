//! Deletions in a block: which ranks lose which time range. A record of kind 9 is added to a block
//! that is already written, and dies with it; samples written later are in other blocks.

use crate::error::StorageError;
use crate::index::varint::{Bytes, put_varint};
use crate::index::{BlockIndex, Postings, resolve};
use crate::kv::KvRead;
use crate::kv::keys::{self, BlockId, Kind};
use chronolith_model::matcher::{MatchOp, Matcher};
use chronolith_model::queryable::QueryContext;
use roaring::RoaringBitmap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// First byte of a record.
const FORMAT: u8 = 1;

/// One deletion, as one block sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tombstone {
    /// Counts the deletions of the block from 0.
    pub number: u64,
    /// What was asked for: series that satisfy all matchers of any set.
    pub matcher_sets: Vec<Vec<Matcher>>,
    /// First millisecond that is gone.
    pub mint: i64,
    /// Last millisecond that is gone.
    pub maxt: i64,
    /// Series that lose samples.
    pub ranks: RoaringBitmap,
    /// Those of them of which nothing is left, this and earlier deletions together.
    pub gone: RoaringBitmap,
}

impl Tombstone {
    /// Key and value of the record.
    pub fn record(&self, block: BlockId) -> (Vec<u8>, Vec<u8>) {
        (keys::key(block, Kind::Tombstones, &self.number.to_be_bytes()), self.encode())
    }

    /// The value of the record: docs/format.md, section tombstones.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.mint.to_be_bytes());
        out.extend_from_slice(&self.maxt.to_be_bytes());
        put_varint(&mut out, self.matcher_sets.len() as u64);
        for matchers in &self.matcher_sets {
            put_varint(&mut out, matchers.len() as u64);
            for matcher in matchers {
                out.push(match matcher.op {
                    MatchOp::Equal => 0,
                    MatchOp::NotEqual => 1,
                    MatchOp::Regex => 2,
                    MatchOp::NotRegex => 3,
                });
                for text in [matcher.name.as_bytes(), matcher.written()] {
                    put_varint(&mut out, text.len() as u64);
                    out.extend_from_slice(text);
                }
            }
        }
        for ranks in [&self.ranks, &self.gone] {
            put_varint(&mut out, ranks.serialized_size() as u64);
            ranks.serialize_into(&mut out).expect("a Vec takes every byte");
        }
        out
    }

    /// Reads the record with this key and value.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if they are no record of a block with `n_series` series.
    pub fn decode(block: BlockId, n_series: u32, key: &[u8], value: &[u8]) -> Result<Self, StorageError> {
        let number = match keys::split(key) {
            Some((found, Kind::Tombstones, rest)) if found == block => {
                rest.try_into().ok().map(u64::from_be_bytes)
            }
            _ => None,
        };
        let Some(number) = number else {
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(StorageError::corrupt(format!("tombstones of block {block}"), format!("key {hex}")));
        };
        Self::decode_value(number, n_series, &mut Bytes(value)).map_err(|reason| {
            StorageError::corrupt(format!("tombstones of block {block}, record {number}"), reason)
        })
    }

    fn decode_value(number: u64, n_series: u32, rest: &mut Bytes<'_>) -> Result<Self, &'static str> {
        const CUT: &str = "the record ends early";
        if rest.u8().ok_or(CUT)? != FORMAT {
            return Err("it is of another format");
        }
        let mint = rest.i64().ok_or(CUT)?;
        let maxt = rest.i64().ok_or(CUT)?;
        if mint > maxt {
            return Err("its range ends before it begins");
        }
        let n_sets = rest.varint().ok_or(CUT)?;
        let mut matcher_sets = Vec::new();
        for _ in 0..n_sets {
            let n_matchers = rest.varint().ok_or(CUT)?;
            let mut matchers = Vec::new();
            for _ in 0..n_matchers {
                let op = match rest.u8().ok_or(CUT)? {
                    0 => MatchOp::Equal,
                    1 => MatchOp::NotEqual,
                    2 => MatchOp::Regex,
                    3 => MatchOp::NotRegex,
                    _ => return Err("an unknown matcher"),
                };
                let name = text(rest).ok_or("a matcher's name is no text")?;
                let value = counted(rest).ok_or("a matcher's value is cut off")?.to_vec();
                matchers
                    .push(Matcher::from_bytes(op, name, value).map_err(|_| "a pattern does not compile")?);
            }
            matcher_sets.push(matchers);
        }
        let mut ranks = || {
            let size = rest.varint().and_then(|size| usize::try_from(size).ok()).ok_or(CUT)?;
            let mut bytes = rest.take(size).ok_or(CUT)?;
            let ranks = RoaringBitmap::deserialize_from(&mut bytes).map_err(|_| "the ranks do not decode")?;
            match bytes.is_empty() && ranks.max().is_none_or(|rank| rank < n_series) {
                true => Ok(ranks),
                false => Err("the ranks are not those of the block"),
            }
        };
        let (ranks, gone) = (ranks()?, ranks()?);
        if !rest.is_empty() {
            return Err("bytes follow its end");
        }
        Ok(Self { number, matcher_sets, mint, maxt, ranks, gone })
    }
}

fn text<'a>(rest: &mut Bytes<'a>) -> Option<&'a str> {
    std::str::from_utf8(counted(rest)?).ok()
}

/// Bytes behind their number.
fn counted<'a>(rest: &mut Bytes<'a>) -> Option<&'a [u8]> {
    let length = usize::try_from(rest.varint()?).ok()?;
    rest.take(length)
}

/// A series by rank, and deleted ranges of it: ascending, disjoint, both ends inclusive.
pub type RankRanges = (u32, Vec<(i64, i64)>);

/// Reads which of some series, ascending, have samples beside the ranges given.
pub type Survivors<'s> = dyn Fn(&[RankRanges]) -> Result<RoaringBitmap, StorageError> + 's;

/// All deletions of a block.
#[derive(Clone, Debug, Default)]
pub struct Tombstones {
    records: Vec<Arc<Tombstone>>,
    gone: Postings,
}

impl Tombstones {
    /// The deletions that these records tell of.
    pub fn new(records: Vec<Arc<Tombstone>>) -> Self {
        let mut gone = RoaringBitmap::new();
        for record in &records {
            gone |= &record.gone;
        }
        Self { records, gone: Postings::from_sorted(&gone) }
    }

    /// Reads all records of a block.
    ///
    /// # Errors
    /// [`StorageError`] if one cannot be read or does not decode.
    pub fn read(kv: &dyn KvRead, block: BlockId, n_series: u32) -> Result<Self, StorageError> {
        let (from, to) = keys::kind_range(block, Kind::Tombstones);
        let mut records = Vec::new();
        let mut failed = None;
        kv.scan(&from, &to, &mut |key, value| match Tombstone::decode(block, n_series, key, value) {
            Ok(record) => {
                records.push(Arc::new(record));
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(Self::new(records)),
        }
    }

    /// By number.
    pub fn records(&self) -> &[Arc<Tombstone>] {
        &self.records
    }

    /// Whether nothing was deleted.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Series of which nothing is left.
    pub const fn gone(&self) -> &Postings {
        &self.gone
    }

    /// Deleted ranges of a series, both ends inclusive: ascending, none touching the next.
    pub fn ranges(&self, rank: u32) -> Vec<(i64, i64)> {
        let hit = |record: &&Arc<Tombstone>| record.ranks.contains(rank);
        joined(self.records.iter().filter(hit).map(|record| (record.mint, record.maxt)).collect())
    }

    /// Those of `ranks` (ascending) that have deleted ranges, with them.
    pub fn ranges_of(&self, ranks: &[u32]) -> Vec<RankRanges> {
        if self.is_empty() {
            return Vec::new();
        }
        let ranges = ranks.iter().map(|&rank| (rank, self.ranges(rank)));
        ranges.filter(|(_, ranges)| !ranges.is_empty()).collect()
    }

    /// Resolves a deletion against a block; `None` if no series of it has a sample in the range. Which of some
    /// series have samples beside their deleted ranges is asked of `survivors`.
    ///
    /// # Errors
    /// [`StorageError`] if the query has to stop, or the index or samples cannot be read.
    pub fn resolve(
        &self,
        index: &BlockIndex,
        survivors: &Survivors<'_>,
        matcher_sets: &[Vec<Matcher>],
        mint: i64,
        maxt: i64,
        cx: &dyn QueryContext,
    ) -> Result<Option<Tombstone>, StorageError> {
        let mut matched = Postings::empty();
        for matchers in matcher_sets {
            matched = Postings::union([&matched, &resolve(index, matchers, cx)?]);
        }
        let matched = matched.subtract(&self.gone);
        let mut ranks = RoaringBitmap::new();
        let mut gone = RoaringBitmap::new();
        // Their first and last samples are deleted, in different ranges.
        let mut in_doubt: Vec<RankRanges> = Vec::new();
        index.visit_series(&matched, cx, &mut |rank, series| {
            if series.mint <= maxt && mint <= series.maxt {
                ranks.insert(rank);
                let mut ranges = self.ranges(rank);
                ranges.push((mint, maxt));
                let ranges = joined(ranges);
                let of = |time: i64| ranges.iter().position(|&(from, to)| from <= time && time <= to);
                match (of(series.mint), of(series.maxt)) {
                    (Some(first), Some(last)) if first == last => _ = gone.insert(rank),
                    (Some(_), Some(_)) => in_doubt.push((rank, ranges)),
                    _ => {}
                }
            }
            Ok(())
        })?;
        if !in_doubt.is_empty() {
            gone.extend(in_doubt.iter().map(|&(rank, _)| rank));
            gone -= survivors(&in_doubt)?;
        }
        if ranks.is_empty() {
            return Ok(None);
        }
        ranks.optimize();
        gone.optimize();
        let number = self.records.iter().map(|record| record.number + 1).max().unwrap_or(0);
        Ok(Some(Tombstone { number, matcher_sets: matcher_sets.to_vec(), mint, maxt, ranks, gone }))
    }
}

/// Sorts ranges and joins those that touch.
fn joined(mut ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    if ranges.len() > 1 {
        ranges.sort_unstable();
        ranges.dedup_by(|next, before| {
            let touches = next.0 <= before.1.saturating_add(1);
            if touches {
                before.1 = before.1.max(next.1);
            }
            touches
        });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    const BLOCK: BlockId = BlockId(7);

    fn tombstones() -> impl Strategy<Value = Tombstone> {
        let ops = prop_oneof![
            Just(MatchOp::Equal),
            Just(MatchOp::NotEqual),
            Just(MatchOp::Regex),
            Just(MatchOp::NotRegex)
        ];
        let values = vec(prop_oneof![8 => b'a'..=b'z', 1 => Just(b'|'), 1 => Just(0xff)], 0..6);
        let matcher = (ops, "[a-z\u{e9}\0]{0,4}", values)
            .prop_map(|(op, name, value)| Matcher::from_bytes(op, name, value).expect("a choice of words"));
        let ranks = || btree_set(0u32..200_000, 0..50).prop_map(RoaringBitmap::from_iter);
        (any::<u64>(), vec(vec(matcher, 0..3), 0..3), any::<[i64; 2]>(), ranks(), ranks()).prop_map(
            |(number, matcher_sets, mut times, ranks, gone)| {
                times.sort_unstable();
                Tombstone { number, matcher_sets, mint: times[0], maxt: times[1], ranks, gone }
            },
        )
    }

    proptest! {
        #[test]
        fn records_come_back(tombstone in tombstones()) {
            let (key, value) = tombstone.record(BLOCK);
            prop_assert_eq!(Tombstone::decode(BLOCK, 200_000, &key, &value).unwrap(), tombstone);
            prop_assert!(Tombstone::decode(BlockId(8), 200_000, &key, &value).is_err());
        }

        #[test]
        fn damaged_records_are_errors_or_other_records_but_never_a_panic(
            tombstone in tombstones(), at: prop::sample::Index, byte: u8, cut: bool,
        ) {
            let (key, mut value) = tombstone.record(BLOCK);
            let at = at.index(value.len());
            value[at] = byte;
            if cut {
                value.truncate(at);
                prop_assert!(Tombstone::decode(BLOCK, 200_000, &key, &value).is_err());
            }
            let _ = Tombstone::decode(BLOCK, 200_000, &key, &value);
        }
    }

    #[test]
    fn the_worked_example_is_what_is_written() {
        let tombstone = Tombstone {
            number: 0,
            matcher_sets: vec![vec![Matcher::equal("job", "b")]],
            mint: 0,
            maxt: 8500,
            ranks: [1, 2].into_iter().collect(),
            gone: [2].into_iter().collect(),
        };
        let block = BlockId(0x0102_0304_0506_0708);
        let (key, value) = crate::format_examples::example("tombstones");
        assert_eq!(tombstone.record(block), (key.clone(), value.clone()));
        assert_eq!(Tombstone::decode(block, 3, &key, &value).unwrap(), tombstone);
    }

    #[test]
    fn ranges_that_touch_are_joined() {
        assert_eq!(joined(vec![(5, 9), (0, 4), (20, 30), (8, 10), (12, 12)]), [(0, 10), (12, 12), (20, 30)]);
        assert_eq!(joined(vec![(i64::MIN, i64::MAX), (3, 4)]), [(i64::MIN, i64::MAX)]);
    }
}
