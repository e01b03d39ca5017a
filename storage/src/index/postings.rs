//! Sets of series: sorted ranks, held as runs of consecutive ranks where that is shorter and as a
//! list otherwise; their algebra, and the form in which they are stored.
//!
//! "All series" is one run, so a complement (`all` minus a set) holds at most one run more than what
//! was taken away, whatever the number of ranks in it.

use super::varint::{Bytes, put_varint};
use std::fmt;
use std::ops::Range;

/// Consecutive ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankRun {
    /// First rank.
    pub start: u32,
    /// Behind the last rank.
    pub end: u32,
}

impl RankRun {
    /// How many ranks.
    pub const fn count(self) -> u32 {
        self.end - self.start
    }
}

/// A sorted set of ranks below `u32::MAX`.
// Invariant: `List` exactly if it takes fewer bytes than runs, so equal sets are equal values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Postings {
    repr: Repr,
    count: u32,
}

#[derive(Clone, PartialEq, Eq)]
enum Repr {
    // Invariant: no run empty; ascending; a gap of at least one between neighbours.
    Runs(Vec<RankRun>),
    // Invariant: strictly ascending.
    List(Vec<u32>),
}

impl Default for Repr {
    fn default() -> Self {
        Self::Runs(Vec::new())
    }
}

impl Postings {
    /// The empty set.
    pub const fn empty() -> Self {
        Self { repr: Repr::Runs(Vec::new()), count: 0 }
    }

    /// All ranks below `n_series`.
    pub fn all(n_series: u32) -> Self {
        Self::range(0..n_series)
    }

    /// Consecutive ranks.
    pub fn range(ranks: Range<u32>) -> Self {
        let mut builder = PostingsBuilder::default();
        builder.push_run(ranks.start, ranks.end);
        builder.finish()
    }

    /// A set from ascending ranks; repeated ones count once.
    ///
    /// # Panics
    /// If the ranks are not ascending.
    pub fn from_sorted(ranks: impl IntoIterator<Item = u32>) -> Self {
        let mut builder = PostingsBuilder::default();
        for rank in ranks {
            builder.push(rank);
        }
        builder.finish()
    }

    /// How many ranks.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes on the heap.
    pub fn size_bytes(&self) -> usize {
        match &self.repr {
            Repr::Runs(runs) => size_of_val(runs.as_slice()),
            Repr::List(list) => size_of_val(list.as_slice()),
        }
    }

    /// The first `count` ranks of the set, or all of them.
    #[must_use]
    pub fn first(&self, count: u32) -> Self {
        let mut builder = PostingsBuilder::default();
        for run in self.runs() {
            let room = count - builder.count;
            builder.push_run(run.start, run.end.min(run.start.saturating_add(room)));
            if builder.count == count {
                break;
            }
        }
        builder.finish()
    }

    /// Whether `rank` is in the set.
    pub fn contains(&self, rank: u32) -> bool {
        match &self.repr {
            Repr::Runs(runs) => {
                let at = runs.partition_point(|run| run.end <= rank);
                runs.get(at).is_some_and(|run| run.start <= rank)
            }
            Repr::List(list) => list.binary_search(&rank).is_ok(),
        }
    }

    /// The ranks, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs().flat_map(|run| run.start..run.end)
    }

    /// The set as runs, ascending; neighbouring ranks of a list may come as one run each.
    pub fn runs(&self) -> impl Iterator<Item = RankRun> + '_ {
        let (runs, list): (&[RankRun], &[u32]) = match &self.repr {
            Repr::Runs(runs) => (runs, &[]),
            Repr::List(list) => (&[], list),
        };
        runs.iter().copied().chain(list.iter().map(|&rank| RankRun { start: rank, end: rank + 1 }))
    }

    /// The greatest rank.
    pub fn last(&self) -> Option<u32> {
        match &self.repr {
            Repr::Runs(runs) => runs.last().map(|run| run.end - 1),
            Repr::List(list) => list.last().copied(),
        }
    }

    /// Ranks in both sets. Jumps over what one side leaves out, so a small set against a large one
    /// costs about the small one.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let mut builder = PostingsBuilder::default();
        overlaps(self, other, |start, end| {
            builder.push_run(start, end);
            true
        });
        builder.finish()
    }

    /// Whether a rank is in both sets.
    pub fn intersects(&self, other: &Self) -> bool {
        let mut found = false;
        overlaps(self, other, |_, _| {
            found = true;
            false
        });
        found
    }

    /// Ranks of this set that are not in `other`.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        let mut builder = PostingsBuilder::default();
        let mut gone = Cursor::new(other);
        for run in self.runs() {
            let mut start = run.start;
            gone.seek(start);
            while let Some(hole) = gone.current().filter(|hole| hole.start < run.end) {
                if start < hole.start {
                    builder.push_run(start, hole.start);
                }
                start = hole.end.min(run.end);
                if hole.end >= run.end {
                    break;
                }
                gone.advance();
            }
            if start < run.end {
                builder.push_run(start, run.end);
            }
        }
        builder.finish()
    }

    /// Ranks in any of the sets.
    pub fn union<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut runs: Vec<RankRun> = Vec::new();
        let mut n_sets = 0;
        for set in sets.into_iter().filter(|set| !set.is_empty()) {
            n_sets += 1;
            runs.extend(set.runs());
        }
        if n_sets > 1 {
            if let Some(union) = union_by_bits(&runs) {
                return union;
            }
            // The standard sort finds the ascending stretches that the sets are and merges them.
            runs.sort_by_key(|run| run.start);
        }
        let mut builder = PostingsBuilder::default();
        for run in runs {
            builder.push_run(run.start, run.end);
        }
        builder.finish()
    }

    /// The ranks for which `keep` holds; `keep` may fail.
    ///
    /// # Errors
    /// The first error of `keep`.
    pub fn try_filter<E>(&self, mut keep: impl FnMut(u32) -> Result<bool, E>) -> Result<Self, E> {
        let mut builder = PostingsBuilder::default();
        for rank in self.iter() {
            if keep(rank)? {
                builder.push(rank);
            }
        }
        Ok(builder.finish())
    }

    /// Appends the stored form: a varint with the number of ranks, then per run a varint
    /// `gap << 1 | (length > 1)` and, if that bit is set, a varint `length - 2`. `gap` is the number of
    /// ranks left out since the end of the run before, less one for all runs but the first (there is
    /// always one).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut encoder = PostingsEncoder::default();
        for rank_run in self.runs() {
            encoder.push_run(rank_run.start, rank_run.end);
        }
        encoder.finish(out);
    }

    /// Reads the stored form. Ranks are below `n_series`.
    ///
    /// # Errors
    /// [`PostingsError`] if the bytes are not what `encode` writes for such ranks.
    pub fn decode(bytes: &[u8], n_series: u32) -> Result<Self, PostingsError> {
        let stored = StoredRuns::new(bytes, n_series)?;
        let count = stored.count;
        // A run takes a byte at least, so the bytes that are there bound what is allocated.
        let mut runs = Vec::with_capacity(stored.rest.len().min(count as usize));
        for run in stored {
            runs.push(run?);
        }
        Ok(Self::from_runs(runs, count))
    }

    /// Calls `visit` with each stretch that is in this set and in the stored one, ascending, while it returns true.
    pub(super) fn overlaps_with_stored(
        &self,
        bytes: &[u8],
        n_series: u32,
        mut visit: impl FnMut(RankRun) -> bool,
    ) -> Result<(), PostingsError> {
        let mut here = Cursor::new(self);
        for run in StoredRuns::new(bytes, n_series)? {
            let run = run?;
            here.seek(run.start);
            while let Some(own) = here.current().filter(|own| own.start < run.end) {
                let overlap = RankRun { start: own.start.max(run.start), end: own.end.min(run.end) };
                if !visit(overlap) {
                    return Ok(());
                }
                if own.end > run.end {
                    break;
                }
                here.advance();
            }
            if here.current().is_none() {
                break;
            }
        }
        Ok(())
    }

    // `runs` obeys the invariant of `Repr::Runs` and holds `count` ranks.
    fn from_runs(mut runs: Vec<RankRun>, count: u32) -> Self {
        let repr = if u64::from(count) < 2 * runs.len() as u64 {
            Repr::List(runs.iter().flat_map(|run| run.start..run.end).collect())
        } else {
            runs.shrink_to_fit();
            Repr::Runs(runs)
        };
        Self { repr, count }
    }
}

impl fmt::Debug for Postings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs().map(|run| run.start..run.end)).finish()
    }
}

/// The runs of the stored form, ascending; nothing follows an error.
struct StoredRuns<'a> {
    rest: Bytes<'a>,
    n_series: u32,
    // What is announced.
    count: u32,
    // In the runs so far.
    seen: u32,
    // Behind the last run.
    end: u64,
}

impl<'a> StoredRuns<'a> {
    fn new(bytes: &'a [u8], n_series: u32) -> Result<Self, PostingsError> {
        let mut rest = Bytes(bytes);
        let count = rest.varint().ok_or(PostingsError::Truncated)?;
        match u32::try_from(count) {
            Ok(count) if count <= n_series => Ok(Self { rest, n_series, count, seen: 0, end: 0 }),
            _ => Err(PostingsError::TooMany { count, n_series }),
        }
    }

    #[inline]
    fn read(&mut self) -> Result<RankRun, PostingsError> {
        let Self { rest, n_series, seen, end, .. } = self;
        let head = rest.varint().ok_or(PostingsError::Truncated)?;
        let length = match head & 1 {
            0 => 1,
            _ => rest.varint_u32().ok_or(PostingsError::Truncated).map(|more| u64::from(more) + 2)?,
        };
        let start = *end + (head >> 1) + u64::from(*seen > 0);
        *end = start + length;
        match u32::try_from(*end) {
            Ok(end) if end <= *n_series => {
                let run = RankRun { start: start as u32, end };
                *seen += run.count();
                Ok(run)
            }
            _ => Err(PostingsError::Rank { rank: *end - 1, n_series: *n_series }),
        }
    }
}

impl Iterator for StoredRuns<'_> {
    type Item = Result<RankRun, PostingsError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Self { count, seen, .. } = *self;
        let next = match self.rest.is_empty() {
            false => self.read(),
            true if seen == count => return None,
            true => Err(PostingsError::Count { expected: u64::from(count), found: u64::from(seen) }),
        };
        if next.is_err() {
            // The end, without another error.
            (self.rest, self.count) = (Bytes(&[]), self.seen);
        }
        Some(next)
    }
}

/// A set of ranks with a bit for each series of a block, to compare many stored sets with.
#[derive(Clone, Debug)]
pub struct RankBits {
    words: Vec<u64>,
    n_series: u32,
}

impl RankBits {
    /// A set whose ranks are below `n_series`.
    pub fn new(set: &Postings, n_series: u32) -> Self {
        let mut words = vec![0; Self::n_words(n_series)];
        for run in set.runs() {
            Self::visit_words(run, |at, mask| {
                words[at] |= mask;
                true
            });
        }
        Self { words, n_series }
    }

    /// Bytes of a set among `n_series`.
    pub const fn size_bytes(n_series: u32) -> usize {
        Self::n_words(n_series) * size_of::<u64>()
    }

    const fn n_words(n_series: u32) -> usize {
        n_series.div_ceil(u64::BITS) as usize
    }

    /// How many ranks of the stored form are in this set. Nothing is allocated.
    ///
    /// # Errors
    /// As [`Postings::decode`].
    pub fn count_in_stored(&self, bytes: &[u8]) -> Result<u32, PostingsError> {
        let mut count = 0;
        for run in StoredRuns::new(bytes, self.n_series)? {
            Self::visit_words(run?, |at, mask| {
                count += (self.words[at] & mask).count_ones();
                true
            });
        }
        Ok(count)
    }

    /// Whether a rank of the stored form is in this set. Reads up to the first that is.
    ///
    /// # Errors
    /// As [`Postings::decode`].
    pub fn intersects_stored(&self, bytes: &[u8]) -> Result<bool, PostingsError> {
        for run in StoredRuns::new(bytes, self.n_series)? {
            if !Self::visit_words(run?, |at, mask| self.words[at] & mask == 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Calls `visit` with each word that a run reaches into and with its bits there, while it returns true; false if it
    /// did not.
    #[inline]
    fn visit_words(run: RankRun, mut visit: impl FnMut(usize, u64) -> bool) -> bool {
        let mut start = run.start;
        while start < run.end {
            let bit = start % u64::BITS;
            let n_bits = (run.end - start).min(u64::BITS - bit);
            let mask = u64::MAX >> (u64::BITS - n_bits) << bit;
            if !visit((start / u64::BITS) as usize, mask) {
                return false;
            }
            start += n_bits;
        }
        true
    }
}

/// Why stored postings do not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostingsError {
    /// The bytes end within a number, or a number does not fit.
    #[error("postings end within a number")]
    Truncated,
    /// More ranks are announced than there are series.
    #[error("postings of {count} ranks among {n_series} series")]
    TooMany {
        /// What the record says.
        count: u64,
        /// Series of the block.
        n_series: u32,
    },
    /// A rank is no series.
    #[error("rank {rank} among {n_series} series")]
    Rank {
        /// The rank.
        rank: u64,
        /// Series of the block.
        n_series: u32,
    },
    /// The runs hold another number of ranks than announced.
    #[error("postings hold {found} ranks where {expected} are announced")]
    Count {
        /// Announced.
        expected: u64,
        /// In the runs.
        found: u64,
    },
}

/// Collects ascending ranks.
#[derive(Debug, Default)]
pub struct PostingsBuilder {
    runs: Vec<RankRun>,
    count: u32,
}

impl PostingsBuilder {
    /// Adds a rank that is not below any before it.
    ///
    /// # Panics
    /// If it is below the start of the last run.
    pub fn push(&mut self, rank: u32) {
        self.push_run(rank, rank + 1);
    }

    /// Adds `start..end`, where `start` is not below the start of the run before; an empty range adds
    /// nothing.
    ///
    /// # Panics
    /// If `start` is below the start of the last run.
    pub fn push_run(&mut self, start: u32, end: u32) {
        if start >= end {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if start <= last.end => {
                assert!(last.start <= start, "ranks are added in ascending order");
                self.count += end.saturating_sub(last.end);
                last.end = last.end.max(end);
            }
            _ => {
                self.count += end - start;
                self.runs.push(RankRun { start, end });
            }
        }
    }

    /// The set.
    pub fn finish(self) -> Postings {
        Postings::from_runs(self.runs, self.count)
    }
}

/// Writes the stored form while ascending ranks arrive, in a few bytes a run: see
/// [`Postings::encode`].
#[derive(Debug, Default)]
pub struct PostingsEncoder {
    bytes: Vec<u8>,
    // End of the last run in `bytes`.
    written_end: u32,
    // The run that may still grow, not in `bytes` yet.
    open: Option<RankRun>,
    count: u32,
}

impl PostingsEncoder {
    /// Adds a rank above all before it.
    ///
    /// # Panics
    /// If it is not.
    pub fn push(&mut self, rank: u32) {
        self.push_run(rank, rank + 1);
    }

    /// Adds `start..end`, which lies behind all ranks before it.
    ///
    /// # Panics
    /// If it does not.
    pub fn push_run(&mut self, start: u32, end: u32) {
        assert!(start < end);
        match &mut self.open {
            Some(open) if open.end == start => open.end = end,
            Some(open) => {
                assert!(open.end < start, "ranks are added in ascending order");
                let closed = *open;
                *open = RankRun { start, end };
                self.write(closed);
            }
            None => self.open = Some(RankRun { start, end }),
        }
        self.count += end - start;
    }

    /// How many ranks were added.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether none was.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What was added so far, as a set.
    pub fn snapshot(&self) -> Postings {
        let mut builder = PostingsBuilder::default();
        let mut rest = Bytes(&self.bytes);
        let mut end = 0;
        while let Some(head) = rest.varint() {
            let start = end + (head >> 1) as u32 + u32::from(end > 0);
            let length = match head & 1 {
                0 => 1,
                _ => rest.varint_u32().expect("a long run has its length") + 2,
            };
            end = start + length;
            builder.push_run(start, end);
        }
        if let Some(open) = self.open {
            builder.push_run(open.start, open.end);
        }
        builder.finish()
    }

    /// Bytes on the heap.
    pub fn size_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends the stored form to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if let Some(open) = self.open.take() {
            self.write(open);
        }
        put_varint(out, u64::from(self.count));
        out.extend_from_slice(&self.bytes);
    }

    fn write(&mut self, run: RankRun) {
        // Ends are above zero, so zero says that nothing is written yet.
        let gap = match self.written_end {
            0 => run.start,
            end => run.start - end - 1,
        };
        self.written_end = run.end;
        let long = run.count() > 1;
        put_varint(&mut self.bytes, u64::from(gap) << 1 | u64::from(long));
        if long {
            put_varint(&mut self.bytes, u64::from(run.count() - 2));
        }
    }
}

/// The union of many runs in any order as a bitmap, where that takes no more room than the runs: a
/// thousand lists of a thousand ranks in 7 ms (on a busy machine) instead of 33 ms by sorting.
fn union_by_bits(runs: &[RankRun]) -> Option<Postings> {
    let first = runs.iter().map(|run| run.start).min()?;
    let end = runs.iter().map(|run| run.end).max()?;
    let n_words = ((end - first) as usize).div_ceil(64);
    if n_words > runs.len() {
        return None;
    }
    let mut words = vec![0u64; n_words];
    for run in runs {
        let (from, to) = (run.start - first, run.end - 1 - first);
        let (low, high) = ((from / 64) as usize, (to / 64) as usize);
        let from_mask = u64::MAX << (from % 64);
        let to_mask = u64::MAX >> (63 - to % 64);
        if low == high {
            words[low] |= from_mask & to_mask;
        } else {
            words[low] |= from_mask;
            words[low + 1..high].fill(u64::MAX);
            words[high] |= to_mask;
        }
    }
    let mut builder = PostingsBuilder::default();
    for (word, base) in words.into_iter().zip((first..).step_by(64)) {
        let mut rest = word;
        while rest != 0 {
            let start = rest.trailing_zeros();
            let length = (rest >> start).trailing_ones();
            builder.push_run(base + start, base + start + length);
            // All ones from bit 0 on would shift by the whole width.
            rest = match start + length {
                64 => 0,
                end => rest & (u64::MAX << end),
            };
        }
    }
    Some(builder.finish())
}

/// A place in a set that only moves forward.
struct Cursor<'a> {
    set: &'a Repr,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(set: &'a Postings) -> Self {
        Self { set: &set.repr, at: 0 }
    }

    fn current(&self) -> Option<RankRun> {
        match self.set {
            Repr::Runs(runs) => runs.get(self.at).copied(),
            Repr::List(list) => list.get(self.at).map(|&rank| RankRun { start: rank, end: rank + 1 }),
        }
    }

    fn advance(&mut self) {
        self.at += 1;
    }

    /// Moves to the first run that ends behind `rank`.
    fn seek(&mut self, rank: u32) {
        self.at = match self.set {
            Repr::Runs(runs) => gallop(runs, self.at, |run| run.end <= rank),
            Repr::List(list) => gallop(list, self.at, |&other| other < rank),
        };
    }
}

/// The first position from `from` on where `before` does not hold, found in steps that double.
fn gallop<T>(items: &[T], from: usize, before: impl Fn(&T) -> bool) -> usize {
    let mut low = from;
    let mut step = 1;
    while items.get(low + step - 1).is_some_and(&before) {
        low += step;
        step *= 2;
    }
    let high = (low + step - 1).min(items.len());
    low.min(items.len()) + items[low.min(items.len())..high].partition_point(before)
}

/// Calls `visit` with each stretch that is in both sets, ascending, while it returns true.
fn overlaps(a: &Postings, b: &Postings, mut visit: impl FnMut(u32, u32) -> bool) {
    let mut left = Cursor::new(a);
    let mut right = Cursor::new(b);
    while let (Some(x), Some(y)) = (left.current(), right.current()) {
        if x.end <= y.start {
            left.seek(y.start);
        } else if y.end <= x.start {
            right.seek(x.start);
        } else {
            if !visit(x.start.max(y.start), x.end.min(y.end)) {
                return;
            }
            if x.end <= y.end {
                left.advance();
            }
            if y.end <= x.end {
                right.advance();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Sets with runs and holes of all sizes.
    fn sets() -> impl Strategy<Value = BTreeSet<u32>> {
        let runs = vec((0u32..400, 1u32..60), 0..8)
            .prop_map(|runs| runs.into_iter().flat_map(|(start, count)| start..start + count).collect());
        prop_oneof![runs, btree_set(0u32..500, 0..80)]
    }

    fn postings(set: &BTreeSet<u32>) -> Postings {
        Postings::from_sorted(set.iter().copied())
    }

    proptest! {
        #[test]
        fn algebra_agrees_with_sets(a in sets(), b in sets(), c in sets()) {
            let (x, y, z) = (postings(&a), postings(&b), postings(&c));
            prop_assert_eq!(x.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(x.len() as usize, a.len());
            prop_assert_eq!(x.last(), a.last().copied());
            prop_assert_eq!(x.intersect(&y), postings(&(&a & &b)));
            prop_assert_eq!(x.intersects(&y), !a.is_disjoint(&b));
            let mut stored = Vec::new();
            y.encode(&mut stored);
            let bits = RankBits::new(&x, 500);
            prop_assert_eq!(bits.intersects_stored(&stored), Ok(!a.is_disjoint(&b)));
            prop_assert_eq!(bits.count_in_stored(&stored), Ok((&a & &b).len() as u32));
            for count in [0, 1, 30, u32::MAX] {
                let first = a.iter().copied().take(count as usize).collect();
                prop_assert_eq!(x.first(count), postings(&first));
            }
            prop_assert_eq!(x.subtract(&y), postings(&(&a - &b)));
            prop_assert_eq!(Postings::union([&x, &y, &z]), postings(&(&(&a | &b) | &c)));
            for rank in 0..500 {
                prop_assert_eq!(x.contains(rank), a.contains(&rank));
            }
            let all: BTreeSet<u32> = (0..600).collect();
            prop_assert_eq!(Postings::all(600).subtract(&x), postings(&(&all - &a)));
        }

        #[test]
        fn unions_of_many_sets_agree_with_sets(all in vec(sets(), 0..30)) {
            let many: Vec<Postings> = all.iter().map(postings).collect();
            prop_assert_eq!(Postings::union(&many), postings(&all.into_iter().flatten().collect()));
        }

        #[test]
        fn stored_postings_come_back(a in sets()) {
            let set = postings(&a);
            let mut bytes = Vec::new();
            set.encode(&mut bytes);
            prop_assert_eq!(Postings::decode(&bytes, 500), Ok(set));
        }

        #[test]
        fn an_encoder_shows_what_was_added(a in sets()) {
            let mut encoder = PostingsEncoder::default();
            let mut seen = BTreeSet::new();
            for &rank in &a {
                encoder.push(rank);
                seen.insert(rank);
                prop_assert_eq!(encoder.snapshot(), postings(&seen));
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>, n_series in 0u32..1000) {
            if let Ok(set) = Postings::decode(&bytes, n_series) {
                prop_assert!(set.last().is_none_or(|rank| rank < n_series));
                prop_assert_eq!(set.iter().count(), set.len() as usize);
                let all = Postings::all(n_series);
                prop_assert_eq!(RankBits::new(&all, n_series).count_in_stored(&bytes), Ok(set.len()));
            }
        }
    }

    #[test]
    fn a_complement_costs_runs_and_not_ranks() {
        let few = Postings::from_sorted([5, 1_000_000, 3_000_000]);
        let rest = Postings::all(10_000_000).subtract(&few);
        assert_eq!(rest.len(), 9_999_997);
        assert_eq!(rest.size_bytes(), 4 * size_of::<RankRun>());
    }

    #[test]
    fn the_stored_form_is_as_documented() {
        let mut bytes = Vec::new();
        Postings::from_sorted([2, 3, 4, 9, 300]).encode(&mut bytes);
        // Five ranks; gap 2, long, 3 ranks; gap 4, single; gap 290, single.
        assert_eq!(bytes, [5, 2 << 1 | 1, 1, 3 << 1, 0xc2, 0x04]);
    }

    #[test]
    fn announced_counts_and_ranks_are_checked() {
        assert_eq!(Postings::decode(&[], 9), Err(PostingsError::Truncated));
        assert_eq!(Postings::decode(&[2, 0], 9), Err(PostingsError::Count { expected: 2, found: 1 }));
        assert_eq!(Postings::decode(&[1, 18], 9), Err(PostingsError::Rank { rank: 9, n_series: 9 }));
        assert_eq!(Postings::decode(&[10, 0], 9), Err(PostingsError::TooMany { count: 10, n_series: 9 }));
        assert_eq!(Postings::decode(&[2, 1, 0x80], 9), Err(PostingsError::Truncated));
    }
}
