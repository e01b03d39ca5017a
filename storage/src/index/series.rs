//! The labels and the time range of each series of a block, 16 series a record, each as its
//! difference to the one before. Neighbours in block order share most labels.

use super::postings::Postings;
use super::varint::{Bytes, put_varint, put_zigzag};
use crate::cache::Group;
use crate::error::StorageError;
use crate::kv::keys::{self, BlockId, Kind};
use crate::kv::{KvRead, KvWrite};
use std::ops::{ControlFlow, Range};

/// Series of one record. At 16 a record of the recorded corpus is some 75 bytes and a single look-up
/// decodes 8 series too many on average.
pub const SERIES_PER_RECORD: u32 = 16;

/// Records fetched by one read.
const RECORDS_PER_READ: usize = 128;

/// One series of a block, as its index knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexedSeries {
    /// Numbers of name and value, sorted by name.
    pub labels: Vec<(u32, u32)>,
    /// Time of its first sample.
    pub mint: i64,
    /// Time of its last sample.
    pub maxt: i64,
}

/// An [`IndexedSeries`] where it lies.
#[derive(Clone, Copy, Debug)]
pub struct SeriesView<'s> {
    /// See [`IndexedSeries::labels`].
    pub labels: &'s [(u32, u32)],
    /// Time of its first sample.
    pub mint: i64,
    /// Time of its last sample.
    pub maxt: i64,
}

/// Some neighbouring series, decoded.
#[derive(Debug)]
pub struct SeriesGroup {
    first: u32,
    labels: Box<[(u32, u32)]>,
    // Invariant: ascends, an entry for each series.
    ends: Box<[u32]>,
    // As many.
    times: Box<[(i64, i64)]>,
    /// Every series has begun by then.
    latest_mint: i64,
    /// And none has ended before.
    earliest_maxt: i64,
}

impl SeriesGroup {
    /// The series with this rank, which is of the group.
    pub fn get(&self, rank: u32) -> SeriesView<'_> {
        let at = (rank - self.first) as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        let (mint, maxt) = self.times[at];
        SeriesView { labels: &self.labels[start as usize..self.ends[at] as usize], mint, maxt }
    }

    /// First and last time of the series with this rank, which is of the group.
    pub fn times(&self, rank: u32) -> (i64, i64) {
        self.times[(rank - self.first) as usize]
    }

    /// Whether the series with this rank may have a sample in the range.
    pub fn is_in_range(&self, rank: u32, mint: i64, maxt: i64) -> bool {
        if self.latest_mint <= maxt && mint <= self.earliest_maxt {
            return true;
        }
        let (first, last) = self.times(rank);
        first <= maxt && mint <= last
    }
}

impl Group for SeriesGroup {
    fn size_bytes(&self) -> usize {
        size_of_val(&*self.labels) + size_of_val(&*self.ends) + size_of_val(&*self.times) + 160
    }
}

/// Writes the records while series arrive in the order of their ranks.
#[derive(Debug)]
pub struct SeriesWriter {
    block: BlockId,
    n_series: u32,
    previous: IndexedSeries,
    record: Vec<u8>,
    written_bytes: u64,
}

impl SeriesWriter {
    /// A writer at rank 0.
    pub fn new(block: BlockId) -> Self {
        Self { block, n_series: 0, previous: IndexedSeries::default(), record: Vec::new(), written_bytes: 0 }
    }

    /// Series so far.
    pub const fn n_series(&self) -> u32 {
        self.n_series
    }

    /// Bytes of all records so far, the open one left out.
    pub const fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Adds the next series and returns its rank.
    ///
    /// # Errors
    /// [`StorageError`] if a record cannot be written or there are too many series.
    pub fn add(
        &mut self,
        labels: &[(u32, u32)],
        mint: i64,
        maxt: i64,
        out: &mut dyn KvWrite,
    ) -> Result<u32, StorageError> {
        let rank = self.n_series;
        // The greatest number is no rank: sets end behind their last one.
        if rank == u32::MAX - 1 {
            return Err(StorageError::corrupt(format!("series of block {}", self.block), "too many series"));
        }
        if rank.is_multiple_of(SERIES_PER_RECORD) {
            self.flush(out)?;
        }
        let previous = &mut self.previous;
        let shared = previous.labels.iter().zip(labels).take_while(|(a, b)| a == b).count();
        put_varint(&mut self.record, shared as u64);
        put_varint(&mut self.record, (labels.len() - shared) as u64);
        for (at, &(name, value)) in labels.iter().enumerate().skip(shared) {
            let (old_name, old_value) = previous.labels.get(at).copied().unwrap_or_default();
            put_zigzag(&mut self.record, i64::from(name) - i64::from(old_name));
            put_zigzag(&mut self.record, i64::from(value) - i64::from(old_value));
        }
        put_zigzag(&mut self.record, mint.wrapping_sub(previous.mint));
        put_zigzag(&mut self.record, maxt.wrapping_sub(previous.maxt));
        previous.labels.truncate(shared);
        previous.labels.extend_from_slice(&labels[shared..]);
        previous.mint = mint;
        previous.maxt = maxt;
        self.n_series += 1;
        Ok(rank)
    }

    /// Writes the last record and returns the bytes of all.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be written.
    pub fn finish(mut self, out: &mut dyn KvWrite) -> Result<u64, StorageError> {
        self.flush(out)?;
        Ok(self.written_bytes)
    }

    fn flush(&mut self, out: &mut dyn KvWrite) -> Result<(), StorageError> {
        if !self.record.is_empty() {
            let first = (self.n_series - 1) / SERIES_PER_RECORD * SERIES_PER_RECORD;
            out.put(Kind::Series, &key(self.block, first), &self.record)?;
            self.written_bytes += self.record.len() as u64;
            self.record.clear();
        }
        self.previous.labels.clear();
        self.previous.mint = 0;
        self.previous.maxt = 0;
        Ok(())
    }
}

fn key(block: BlockId, first: u32) -> Vec<u8> {
    keys::key(block, Kind::Series, &first.to_be_bytes())
}

/// Receives series by rank.
pub type VisitSeries<'v> = dyn FnMut(u32, SeriesView<'_>) -> Result<(), StorageError> + 'v;

/// Visits the series of `ranks`, ascending. `check` is called before each read.
///
/// # Errors
/// [`StorageError`] if a record cannot be read or does not decode, or what `check` and `visit` return.
pub fn visit_series(
    kv: &dyn KvRead,
    block: BlockId,
    n_symbols: u32,
    ranks: &Postings,
    check: &mut dyn FnMut() -> Result<(), StorageError>,
    visit: &mut VisitSeries<'_>,
) -> Result<(), StorageError> {
    let mut ranks = ranks.iter().peekable();
    let mut firsts: Vec<u32> = Vec::with_capacity(RECORDS_PER_READ);
    let mut wanted: Vec<u32> = Vec::new();
    let mut series = IndexedSeries::default();
    while ranks.peek().is_some() {
        check()?;
        firsts.clear();
        wanted.clear();
        while let Some(&rank) = ranks.peek() {
            let first = rank / SERIES_PER_RECORD * SERIES_PER_RECORD;
            if firsts.last() != Some(&first) {
                if firsts.len() == RECORDS_PER_READ {
                    break;
                }
                firsts.push(first);
            }
            wanted.push(rank);
            ranks.next();
        }
        let keys: Vec<Vec<u8>> = firsts.iter().map(|&first| key(block, first)).collect();
        let records = kv.multi_get(&keys)?;
        let mut wanted = wanted.iter().copied().peekable();
        for (&first, record) in firsts.iter().zip(records) {
            let what = || format!("series of block {block}, record {first}");
            let record = record.ok_or_else(|| StorageError::corrupt(what(), "the record is missing"))?;
            let mut rest = Bytes(&record);
            series.labels.clear();
            series.mint = 0;
            series.maxt = 0;
            let mut next = first;
            while let Some(rank) = wanted.next_if(|&rank| rank - first < SERIES_PER_RECORD) {
                while next <= rank {
                    decode_next(&mut rest, &mut series, n_symbols)
                        .map_err(|reason| StorageError::corrupt(what(), reason))?;
                    next += 1;
                }
                visit(rank, SeriesView { labels: &series.labels, mint: series.mint, maxt: series.maxt })?;
            }
        }
    }
    Ok(())
}

/// Reads the series of `ranks`, which begin where a record does, by one scan.
///
/// # Errors
/// [`StorageError`] if a record is missing, cannot be read or does not decode.
pub fn read_group(
    kv: &dyn KvRead,
    block: BlockId,
    n_symbols: u32,
    ranks: Range<u32>,
) -> Result<SeriesGroup, StorageError> {
    let n_series = ranks.len();
    let (mut labels, mut ends) = (Vec::with_capacity(n_series * 6), Vec::with_capacity(n_series));
    let mut times = Vec::with_capacity(n_series);
    let mut series = IndexedSeries::default();
    let mut next = ranks.start;
    let mut damage = None;
    kv.scan(&key(block, ranks.start), &key(block, ranks.end), &mut |found, record| {
        let of_record = next..ranks.end.min(next.saturating_add(SERIES_PER_RECORD));
        if found != key(block, next) {
            return ControlFlow::Break(());
        }
        let mut rest = Bytes(record);
        (series.mint, series.maxt) = (0, 0);
        series.labels.clear();
        for _ in of_record {
            if let Err(reason) = decode_next(&mut rest, &mut series, n_symbols) {
                damage = Some(reason);
                return ControlFlow::Break(());
            }
            labels.extend_from_slice(&series.labels);
            ends.push(labels.len() as u32);
            times.push((series.mint, series.maxt));
            next += 1;
        }
        ControlFlow::Continue(())
    })?;
    let missing = (ends.len() < n_series).then_some("a record is missing");
    if let Some(reason) = damage.or(missing) {
        return Err(StorageError::corrupt(format!("series of block {block} from {}", ranks.start), reason));
    }
    Ok(SeriesGroup {
        first: ranks.start,
        labels: labels.into(),
        ends: ends.into(),
        latest_mint: times.iter().map(|times| times.0).max().unwrap_or(i64::MAX),
        earliest_maxt: times.iter().map(|times| times.1).min().unwrap_or(i64::MIN),
        times: times.into(),
    })
}

/// Turns `series` into the one that follows it in the record.
fn decode_next(rest: &mut Bytes<'_>, series: &mut IndexedSeries, n_symbols: u32) -> Result<(), &'static str> {
    const CUT: &str = "the record ends within a series";
    let shared = rest.varint().ok_or(CUT)?;
    let more = rest.varint().ok_or(CUT)?;
    if shared > series.labels.len() as u64 {
        return Err("a series shares more labels than the one before has");
    }
    // A label takes two bytes at least.
    if more > rest.len() as u64 / 2 {
        return Err(CUT);
    }
    let shared = shared as usize;
    let total = shared + more as usize;
    for at in shared..total {
        let (old_name, old_value) = series.labels.get(at).copied().unwrap_or_default();
        let name = moved(old_name, rest.zigzag().ok_or(CUT)?, n_symbols)?;
        let value = moved(old_value, rest.zigzag().ok_or(CUT)?, n_symbols)?;
        if at > 0 && series.labels[at - 1].0 >= name {
            return Err("label names are out of order");
        }
        match series.labels.get_mut(at) {
            Some(label) => *label = (name, value),
            None => series.labels.push((name, value)),
        }
    }
    series.labels.truncate(total);
    series.mint = series.mint.wrapping_add(rest.zigzag().ok_or(CUT)?);
    series.maxt = series.maxt.wrapping_add(rest.zigzag().ok_or(CUT)?);
    Ok(())
}

fn moved(from: u32, by: i64, n_symbols: u32) -> Result<u32, &'static str> {
    i64::from(from)
        .checked_add(by)
        .and_then(|number| u32::try_from(number).ok())
        .filter(|&number| number < n_symbols)
        .ok_or("a symbol is out of range")
}
