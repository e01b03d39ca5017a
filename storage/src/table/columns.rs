//! Timestamps of a shard of a table, shared by equality: series whose samples have the same times
//! refer to stretches of one column. Nobody says which series belong together; whoever appends the
//! same times shares.
//!
//! A series that nobody shares times with keeps them as varint differences of differences: one byte
//! instead of eight for scrapes at a steady pace.

use crate::index::varint::{Bytes, put_zigzag};
use chronolith_model::queryable::Stop;
use hashbrown::HashMap;
use std::borrow::Cow;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// A series that was the only one to lengthen its column so often is no longer offered to others.
const PUSHES_ALONE: u8 = 16;
const NO_COLUMN: u32 = u32::MAX;
/// The longest varint.
const MAX_STEP_BYTES: usize = 10;

/// All columns of a shard.
#[derive(Default)]
pub struct Columns {
    columns: Vec<Column>,
    /// The column that ends with a time, for those that others may join.
    by_last: HashMap<i64, u32, Xxh3DefaultBuilder>,
    n_times: usize,
    times_bytes: usize,
}

struct Column {
    times: Times,
    users: u32,
}

enum Times {
    /// Others may join.
    Shared(Vec<i64>),
    /// One series has it for itself.
    Private(Deltas),
}

/// Ascending times: by how much each step differs from the one before.
struct Deltas {
    first: i64,
    last: i64,
    step: i64,
    /// Of all times but the first.
    bytes: Vec<u8>,
}

impl Deltas {
    /// Times that ascend, at least one.
    fn new(times: &[i64]) -> Self {
        let mut deltas = Self { first: times[0], last: times[0], step: 0, bytes: Vec::new() };
        times[1..].iter().for_each(|&time| deltas.push(time));
        deltas
    }

    #[inline]
    fn push(&mut self, time: i64) {
        let step = time.wrapping_sub(self.last);
        // Room by the eighth: half of what doubling takes would stay empty, in each of these series.
        if self.bytes.capacity() - self.bytes.len() < MAX_STEP_BYTES {
            self.bytes.reserve_exact(MAX_STEP_BYTES + self.bytes.len() / 8);
        }
        put_zigzag(&mut self.bytes, step.wrapping_sub(self.step));
        (self.last, self.step) = (time, step);
    }

    fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        let mut rest = Bytes(&self.bytes);
        let (mut time, mut step) = (self.first, 0i64);
        let more = std::iter::from_fn(move || {
            step = step.wrapping_add(rest.zigzag()?);
            time = time.wrapping_add(step);
            Some(time)
        });
        std::iter::once(self.first).chain(more)
    }
}

impl Times {
    /// Heap size.
    fn size_bytes(&self) -> usize {
        match self {
            Self::Shared(times) => times.capacity() * 8,
            Self::Private(deltas) => deltas.bytes.capacity(),
        }
    }
}

/// The times of the open or a closed chunk of a series: a stretch of a column.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Which column.
    pub column: u32,
    /// Where the stretch begins.
    pub first: u32,
    /// How long it is.
    pub count: u16,
    alone: u8,
}

const _: () = assert!(size_of::<Position>() == 12);

impl Position {
    /// Of a series without samples.
    pub const EMPTY: Self = Self { column: NO_COLUMN, first: 0, count: 0, alone: 0 };

    /// Begins a new chunk behind this one, in the same column.
    pub const fn next_chunk(self) -> Self {
        Self { first: self.first + self.count as u32, count: 0, ..self }
    }
}

impl Columns {
    /// The times of a stretch.
    pub fn times(&self, position: Position) -> Cow<'_, [i64]> {
        let (first, count) = (position.first as usize, position.count as usize);
        match self.columns.get(position.column as usize).map(|column| &column.times) {
            Some(Times::Shared(times)) => Cow::Borrowed(&times[first..][..count]),
            Some(Times::Private(deltas)) => deltas.iter().skip(first).take(count).collect(),
            None => Cow::Borrowed(&[]),
        }
    }

    /// Where in a stretch a time is, if it is there.
    pub fn find(&self, position: Position, time: i64) -> Option<usize> {
        let (first, count) = (position.first as usize, position.count as usize);
        match &self.columns.get(position.column as usize)?.times {
            Times::Shared(times) => times[first..][..count].binary_search(&time).ok(),
            Times::Private(deltas) => {
                let (at, found) =
                    deltas.iter().skip(first).take(count).enumerate().find(|&(_, found)| found >= time)?;
                (found == time).then_some(at)
            }
        }
    }

    /// The first time of a stretch.
    pub fn first_time(&self, position: Position) -> Option<i64> {
        if position.count == 0 {
            return None;
        }
        match &self.columns.get(position.column as usize)?.times {
            Times::Shared(times) => times.get(position.first as usize).copied(),
            Times::Private(deltas) => deltas.iter().nth(position.first as usize),
        }
    }

    /// The last time of a stretch.
    pub fn last_time(&self, position: Position) -> Option<i64> {
        let last = (position.first as usize + usize::from(position.count)).checked_sub(1)?;
        match &self.columns.get(position.column as usize)?.times {
            Times::Shared(times) => times.get(last).copied(),
            Times::Private(deltas) => deltas.iter().nth(last),
        }
    }

    /// Lengthens the stretch of a series by `timestamp`, which is newer than all of it.
    #[inline]
    pub fn append(&mut self, position: &mut Position, timestamp: i64) {
        let next = position.first as usize + usize::from(position.count);
        match self.columns.get_mut(position.column as usize).map(|column| &mut column.times) {
            Some(Times::Shared(times)) => match times.get(next) {
                Some(&time) if time == timestamp => {
                    position.count += 1;
                    position.alone = 0;
                    return;
                }
                None if times.last().is_none_or(|&last| last < timestamp) => {
                    self.push_shared(position, timestamp);
                    return;
                }
                _ => {}
            },
            // Its series stands at its end: there is no other, and what is appended is newer.
            Some(Times::Private(deltas)) => {
                let before = deltas.bytes.capacity();
                deltas.push(timestamp);
                self.times_bytes += deltas.bytes.capacity() - before;
                self.n_times += 1;
                position.count += 1;
                return;
            }
            None => {}
        }
        self.change_column(position, timestamp);
    }

    fn push_shared(&mut self, position: &mut Position, timestamp: i64) {
        let number = position.column;
        let column = &mut self.columns[number as usize];
        let Times::Shared(times) = &mut column.times else { unreachable!("the caller has seen it shared") };
        let before = times.last().copied();
        let capacity = times.capacity();
        times.push(timestamp);
        self.times_bytes += 8 * (times.capacity() - capacity);
        self.n_times += 1;
        position.count += 1;
        if let Some(before) = before
            && self.by_last.get(&before) == Some(&number)
        {
            self.by_last.remove(&before);
        }
        position.alone = if column.users == 1 { position.alone + 1 } else { 0 };
        if position.alone < PUSHES_ALONE {
            self.by_last.insert(timestamp, number);
            return;
        }
        let private = Times::Private(Deltas::new(times));
        self.times_bytes += private.size_bytes();
        self.times_bytes -= column.times.size_bytes();
        column.times = private;
    }

    /// The series went another way than its column: it joins one that went the same way, or gets a
    /// copy of its stretch.
    #[cold]
    fn change_column(&mut self, position: &mut Position, timestamp: i64) {
        let own = self.times(*position);
        let join = self.by_last.get(&timestamp).copied().filter(|&other| {
            let Times::Shared(times) = &self.columns[other as usize].times else { return false };
            let (_, before) = times.split_last().expect("columns hold times");
            other != position.column && before.ends_with(&own)
        });
        let mut times = Vec::new();
        if join.is_none() {
            times.reserve_exact(own.len() + 8);
            times.extend_from_slice(&own);
            times.push(timestamp);
        }
        drop(own);
        if let Some(old) = self.columns.get_mut(position.column as usize) {
            old.users -= 1;
        }
        if let Some(number) = join {
            let column = &mut self.columns[number as usize];
            let Times::Shared(times) = &column.times else { unreachable!("only shared ones are joined") };
            column.users += 1;
            position.column = number;
            position.count += 1;
            position.first = times.len() as u32 - u32::from(position.count);
            position.alone = 0;
            return;
        }
        self.n_times += times.len();
        self.times_bytes += times.capacity() * 8;
        let number = u32::try_from(self.columns.len()).expect("fewer columns than series in a shard");
        super::reserve_tight(&mut self.columns, 1);
        self.columns.push(Column { times: Times::Shared(times), users: 1 });
        self.by_last.insert(timestamp, number);
        *position = Position { column: number, first: 0, count: position.count + 1, alone: 0 };
    }

    /// A copy of a column that readers share.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn copy(&self, column: u32) -> Arc<Vec<i64>> {
        Arc::new(match &self.columns[column as usize].times {
            Times::Shared(times) => times.clone(),
            Times::Private(deltas) => deltas.iter().collect(),
        })
    }

    /// Whether only one series uses the column, now and later.
    fn is_private(&self, column: u32) -> bool {
        matches!(self.columns[column as usize].times, Times::Private(_))
    }

    /// How many columns there are.
    pub fn n_columns(&self) -> usize {
        self.columns.len()
    }

    /// How many times all columns hold together.
    pub const fn n_times(&self) -> usize {
        self.n_times
    }

    /// Estimated heap size.
    pub fn size_bytes(&self) -> usize {
        self.times_bytes + self.columns.capacity() * size_of::<Column>() + self.by_last.capacity() * 17
    }
}

/// Shard and column.
type ColumnKey = (u32, u32);

/// Columns that a reader has copied; every series that shares one gets the same `Arc`.
#[derive(Default)]
pub struct CopiedColumns {
    shared: HashMap<ColumnKey, Arc<Vec<i64>>, Xxh3DefaultBuilder>,
    /// The last one of a single series, which may have more chunks in it. Nobody else asks for it, and
    /// all of them together would take more than the table.
    private: Option<(ColumnKey, Arc<Vec<i64>>)>,
    /// What was charged for copies.
    charged_bytes: usize,
}

impl CopiedColumns {
    /// What was charged for copies so far.
    pub const fn charged_bytes(&self) -> usize {
        self.charged_bytes
    }

    /// The copy of a column of a shard, made if it is the first time or the copy is too short.
    ///
    /// # Errors
    /// What `charge` says when the copy is too large for the query.
    pub fn get(
        &mut self,
        shard: u32,
        columns: &Columns,
        position: Position,
        charge: &mut dyn FnMut(usize) -> Result<(), Stop>,
    ) -> Result<Arc<Vec<i64>>, Stop> {
        let key = (shard, position.column);
        let needed = position.first as usize + usize::from(position.count);
        let known = match &self.private {
            Some((private, copy)) if *private == key => Some(copy),
            _ => self.shared.get(&key),
        };
        if let Some(copy) = known.filter(|copy| copy.len() >= needed) {
            return Ok(Arc::clone(copy));
        }
        charge(needed * 8)?;
        self.charged_bytes += needed * 8;
        let copy = columns.copy(position.column);
        if columns.is_private(position.column) {
            self.private = Some((key, Arc::clone(&copy)));
        } else {
            self.shared.insert(key, Arc::clone(&copy));
        }
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_with_equal_times_share_and_part_when_they_differ() {
        let mut columns = Columns::default();
        let mut series = [Position::EMPTY; 10];
        for t in 1..=100 {
            for (index, position) in series.iter_mut().enumerate() {
                // The last two miss every tenth scrape, both the same.
                if index < 8 || t % 10 != 0 {
                    columns.append(position, t * 15);
                }
            }
        }
        for position in &series[..8] {
            assert_eq!(columns.times(*position), (1..=100).map(|t| t * 15).collect::<Vec<_>>());
        }
        for position in &series[8..] {
            let expected: Vec<i64> = (1..=100).filter(|t| t % 10 != 0).map(|t| t * 15).collect();
            assert_eq!(columns.times(*position), expected);
        }
        assert_eq!(columns.n_columns(), 2);
        assert_eq!(columns.n_times(), 190);
    }

    #[test]
    fn a_series_alone_goes_private_and_keeps_its_times() {
        let mut columns = Columns::default();
        let (mut a, mut b) = (Position::EMPTY, Position::EMPTY);
        for t in 0..100 {
            columns.append(&mut a, t * 10);
            columns.append(&mut b, t * 10 + 1);
        }
        assert!(columns.by_last.is_empty());
        assert_eq!(columns.times(a)[99], 990);
        assert_eq!(columns.times(b)[99], 991);
        assert_eq!((columns.first_time(a), columns.first_time(b)), (Some(0), Some(1)));
        // A byte for each step of a steady pace, where shared times take eight.
        assert!(columns.times_bytes < 100 * 2 + 2 * 32, "{} bytes", columns.times_bytes);
        let second = a.next_chunk();
        a = second;
        columns.append(&mut a, 5000);
        assert_eq!((&*columns.times(a), columns.first_time(a)), (&[5000][..], Some(5000)));
        // A newcomer cannot join a private column, and begins its own.
        let mut c = Position::EMPTY;
        columns.append(&mut c, 990);
        assert_eq!(columns.n_columns(), 3);
    }

    #[test]
    fn a_new_chunk_goes_on_in_the_column_of_the_one_before() {
        let mut columns = Columns::default();
        let (mut a, mut b) = (Position::EMPTY, Position::EMPTY);
        columns.append(&mut a, 1);
        columns.append(&mut b, 1);
        a = a.next_chunk();
        columns.append(&mut b, 2);
        columns.append(&mut a, 2);
        assert_eq!((&*columns.times(a), &*columns.times(b)), (&[2][..], &[1, 2][..]));
        assert_eq!(columns.n_columns(), 1);
    }
}
