//! An open block as a [`Part`] of the store.

use super::header::BlockHeader;
use super::side;
use super::tiles::TileReader;
use super::tombstones::{RankRanges, Tombstone, Tombstones};
use crate::cache::Caches;
use crate::error::StorageError;
use crate::index::matching::{self, IndexReader, STRINGS_PER_CHECK, write_key};
use crate::index::{BlockIndex, Postings, resolve};
use crate::kv::KvRead;
use crate::kv::keys::{self, BlockId, Kind};
use crate::part::{
    ExemplarSink, KeptNames, KnownColumns, LastFloat, Part, PartRead, PartSelect, PartSeries, Precedence,
    RunBuffer, Take,
};
use crate::query_symbols::to_symbols;
use chronolith_model::Matcher;
use chronolith_model::append::Metadata;
use chronolith_model::queryable::{Estimate, HistogramNeed, QueryContext, Unlimited};
use chronolith_model::symbols::Symbol;
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, OnceLock};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// Decoded timestamp columns an open block keeps.
const COLUMN_CACHE_BYTES: usize = 2 << 20;

/// Ranks of one tile: tiles end at multiples of it at the latest.
const RANKS_PER_TILE: u32 = 128;

/// Labels are charged in steps of this many.
const LABELS_PER_CHARGE: usize = 4 << 10;

/// An open block: its header, its deletions, and readers that fetch the rest when asked.
#[derive(Clone)]
pub struct BlockPart {
    shared: Arc<Shared>,
    tombstones: Arc<Tombstones>,
}

/// What does not change when something is deleted.
struct Shared {
    kv: Arc<dyn KvRead>,
    header: Arc<BlockHeader>,
    index: BlockIndex,
    tiles: TileReader,
    resolved: Resolved,
    lives: Lives,
}

/// Bytes of results that a block keeps: those of the selectors of some dashboards.
const RESOLVED_BYTES: usize = 64 << 10;

/// Which series satisfy matchers, deleted ones among them: an index never changes, and a query asks at least
/// twice, what it would cost and then for the series.
#[derive(Default)]
struct Resolved {
    inner: Mutex<ResolvedInner>,
}

#[derive(Default)]
struct ResolvedInner {
    results: HashMap<String, Arc<Matched>, Xxh3DefaultBuilder>,
    size_bytes: usize,
}

/// The series that satisfy some matchers.
#[derive(Default)]
struct Matched {
    series: Arc<Postings>,
    /// When the last of them begins and when the first one ends, once somebody had to look.
    all_live: OnceLock<(i64, i64)>,
}

/// Bytes of what a block knows of lists: those of the look-ups of some dashboards.
const LIVES_BYTES: usize = 16 << 10;

/// When lists of label names and values are what they were when the block was written, though the range cuts the block: some
/// series of each string have begun by the first of two times, and have not ended before the second. Of series
/// that were not deleted, so blocks from which any was do not ask.
#[derive(Default)]
struct Lives {
    inner: Mutex<LivesInner>,
}

#[derive(Default)]
struct LivesInner {
    lists: HashMap<String, (i64, i64), Xxh3DefaultBuilder>,
    size_bytes: usize,
}

impl Lives {
    /// Names the list of the values of `label`, or of label names, of the series that match.
    fn key(label: Option<&str>, matchers: &[Matcher]) -> String {
        let mut key = String::with_capacity(64);
        if let Some(label) = label {
            // A length first: labels may be called anything.
            let _ = write!(key, "{} {label}", label.len());
        }
        key.push(';');
        write_key(matchers, &mut key);
        key
    }

    /// Whether a list is whole over the range of a selection. False where nobody had to look yet.
    fn are_in(&self, label: Option<&str>, select: &PartSelect<'_>) -> bool {
        let lives = self.inner.lock().lists.get(&Self::key(label, select.matchers)).copied();
        lives.is_some_and(|lives| reaches_over(select, lives))
    }

    fn insert(&self, label: Option<&str>, matchers: &[Matcher], lives: (i64, i64)) {
        let key = Self::key(label, matchers);
        let size_bytes = key.len() + 64;
        let mut inner = self.inner.lock();
        if size_bytes > LIVES_BYTES / 4 {
            return;
        }
        if inner.size_bytes + size_bytes > LIVES_BYTES {
            *inner = LivesInner::default();
        }
        if inner.lists.insert(key, lives).is_none() {
            inner.size_bytes += size_bytes;
        }
    }
}

impl Resolved {
    fn get(&self, key: &str) -> Option<Arc<Matched>> {
        self.inner.lock().results.get(key).cloned()
    }

    fn insert(&self, key: String, matched: &Arc<Matched>) {
        let size_bytes = key.len() + matched.series.size_bytes() + 160;
        if size_bytes > RESOLVED_BYTES / 4 {
            return;
        }
        let mut inner = self.inner.lock();
        if inner.size_bytes + size_bytes > RESOLVED_BYTES {
            inner.results.clear();
            inner.size_bytes = 0;
        }
        if inner.results.insert(key, Arc::clone(matched)).is_none() {
            inner.size_bytes += size_bytes;
        }
    }
}

impl BlockPart {
    /// Opens a block by its header; reads its tombstones.
    ///
    /// # Errors
    /// [`StorageError`] if a tombstone cannot be read or does not decode.
    pub fn open(kv: Arc<dyn KvRead>, header: Arc<BlockHeader>) -> Result<Self, StorageError> {
        Self::open_with(kv, header, None)
    }

    /// As [`BlockPart::open`]; what is decoded is kept in `caches`.
    ///
    /// # Errors
    /// As [`BlockPart::open`].
    pub fn open_with(
        kv: Arc<dyn KvRead>,
        header: Arc<BlockHeader>,
        caches: Option<Arc<Caches>>,
    ) -> Result<Self, StorageError> {
        let block = header.block_id();
        let tombstones = Tombstones::read(&*kv, block, header.n_series)?;
        let index = BlockIndex::new(
            Arc::clone(&kv),
            block,
            header.n_series,
            header.n_symbols,
            header.symbol_parts.clone().into(),
            caches.clone(),
        );
        let tiles = TileReader::new(Arc::clone(&kv), Arc::clone(&header), COLUMN_CACHE_BYTES, caches);
        Ok(Self {
            shared: Arc::new(Shared {
                kv,
                header,
                index,
                tiles,
                resolved: Resolved::default(),
                lives: Lives::default(),
            }),
            tombstones: Arc::new(tombstones),
        })
    }

    /// What the block says of itself.
    pub fn header(&self) -> &Arc<BlockHeader> {
        &self.shared.header
    }

    /// The block's index.
    pub fn index(&self) -> &BlockIndex {
        &self.shared.index
    }

    /// Deletions in this block, by number.
    pub fn tombstones(&self) -> &[Arc<Tombstone>] {
        self.tombstones.records()
    }

    /// The same block with more deletions; caches are shared.
    #[must_use]
    pub fn with_tombstones(&self, more: Vec<Arc<Tombstone>>) -> Self {
        let mut records = self.tombstones.records().to_vec();
        records.extend(more);
        Self { shared: Arc::clone(&self.shared), tombstones: Arc::new(Tombstones::new(records)) }
    }

    /// The block as it was written, deleted samples included: what its content hash is of. Caches are
    /// shared.
    #[must_use]
    pub fn without_tombstones(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), tombstones: Arc::default() }
    }

    /// What deleting `[mint, maxt]` from the series that satisfy all matchers of any set means for this
    /// block; `None` if nothing. Nothing is written.
    ///
    /// # Errors
    /// [`StorageError`] if the query has to stop or the index cannot be read.
    pub fn tombstone(
        &self,
        matcher_sets: &[Vec<Matcher>],
        mint: i64,
        maxt: i64,
        cx: &dyn QueryContext,
    ) -> Result<Option<Tombstone>, StorageError> {
        if mint > self.shared.header.maxt || maxt < self.shared.header.mint {
            return Ok(None);
        }
        let survivors = |deleted: &[RankRanges]| self.survivors(deleted, cx);
        self.tombstones.resolve(&self.shared.index, &survivors, matcher_sets, mint, maxt, cx)
    }

    /// Those series that have samples beside the ranges given.
    fn survivors(&self, series: &[RankRanges], cx: &dyn QueryContext) -> Result<RoaringBitmap, StorageError> {
        let read = PartRead {
            mint: i64::MIN,
            maxt: i64::MAX,
            lookups: None,
            values: false,
            histograms: HistogramNeed::None,
            start_timestamps: false,
        };
        let mut found = RoaringBitmap::new();
        let mut out = RunBuffer::default();
        for series in series.chunks(RANKS_PER_TILE as usize) {
            let ranks: Vec<u32> = series.iter().map(|&(rank, _)| rank).collect();
            self.shared.tiles.read(&ranks, &ranges_by_rank(series), &read, &mut out, cx)?;
            found.extend(out.runs.iter().map(|run| ranks[run.series as usize]));
            out.clear();
        }
        Ok(found)
    }

    /// Reads what finds series and their times, once, so that it is in the cache of files. Key and value of each
    /// record are given to `take`.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be read.
    pub fn read_index_ahead(&self, take: &mut Take<'_>) -> Result<(), StorageError> {
        let kinds = [Kind::Symbols, Kind::Values, Kind::Series, Kind::Postings, Kind::Timestamps];
        let mut flow = ControlFlow::Continue(());
        for kind in kinds {
            let (from, to) = keys::kind_range(self.shared.header.block_id(), kind);
            self.shared.kv.scan(&from, &to, &mut |key, value| {
                flow = take(key.len() + value.len());
                flow
            })?;
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Reads timestamp columns from `files` and keeps them decoded.
    ///
    /// # Errors
    /// [`StorageError`] if one cannot be read or does not decode; those before it are kept.
    pub fn read_columns_ahead(&self, files: &dyn KvRead, take: &mut Take<'_>) -> Result<(), StorageError> {
        self.shared.tiles.read_columns_ahead(files, take)
    }

    /// Reads the tiles of a slice from `files`, which leave the cache of files alone, into the cache of tiles.
    ///
    /// # Errors
    /// [`StorageError`] if one cannot be read or does not decode; those before it are kept.
    pub fn read_tiles_ahead(
        &self,
        files: &dyn KvRead,
        slice: u16,
        take: &mut Take<'_>,
    ) -> Result<(), StorageError> {
        self.shared.tiles.read_ahead(files, slice, take)
    }

    /// Series that match, deleted ones among them, whatever their times.
    fn matched(&self, matchers: &[Matcher], cx: &dyn QueryContext) -> Result<Arc<Matched>, StorageError> {
        let mut key = String::with_capacity(64);
        write_key(matchers, &mut key);
        if let Some(known) = self.shared.resolved.get(&key) {
            return Ok(known);
        }
        let series = Arc::new(resolve(&self.shared.index, matchers, cx)?);
        let matched = Arc::new(Matched { series, all_live: OnceLock::new() });
        self.shared.resolved.insert(key, &matched);
        Ok(matched)
    }

    /// Series that match and are not deleted, whatever their times.
    fn matching(&self, matchers: &[Matcher], cx: &dyn QueryContext) -> Result<Arc<Postings>, StorageError> {
        let found = Arc::clone(&self.matched(matchers, cx)?.series);
        let gone = self.tombstones.gone();
        Ok(if gone.is_empty() { found } else { Arc::new(found.subtract(gone)) })
    }

    /// Whether a range has some of the block's time, and not all.
    fn is_cut(&self, select: &PartSelect<'_>) -> bool {
        let header = &self.shared.header;
        let is_apart = select.mint > header.maxt || select.maxt < header.mint;
        !is_apart && (select.mint > header.mint || header.maxt > select.maxt)
    }

    /// Whether nothing was deleted and the list of a label's values (of label names, without one) is known to be the one
    /// that was written.
    fn is_whole(&self, label: Option<&str>, select: &PartSelect<'_>) -> bool {
        self.tombstones.gone().is_empty() && self.shared.lives.are_in(label, select)
    }

    /// Remembers, if nothing was deleted, over which ranges a list is the one that was written.
    fn keep_lives(&self, label: Option<&str>, select: &PartSelect<'_>, lives: Option<(i64, i64)>) {
        if let Some(lives) = lives.filter(|_| self.tombstones.gone().is_empty()) {
            self.shared.lives.insert(label, select.matchers, lives);
        }
    }

    /// The range, if it cuts the block and series that match may have no sample in it.
    fn cut_range(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Option<(i64, i64)>, StorageError> {
        if !self.is_cut(select) {
            return Ok(None);
        }
        let all_live = self.all_live(select.matchers, cx)?;
        Ok((!reaches_over(select, all_live)).then_some((select.mint, select.maxt)))
    }

    /// When the last of the series that match begins and the first one ends; looked up once.
    fn all_live(&self, matchers: &[Matcher], cx: &dyn QueryContext) -> Result<(i64, i64), StorageError> {
        let matched = self.matched(matchers, cx)?;
        if let Some(&all_live) = matched.all_live.get() {
            return Ok(all_live);
        }
        let all_live = self.shared.index.all_live(&matched.series, cx)?;
        Ok(*matched.all_live.get_or_init(|| all_live))
    }

    /// Series that match, are not deleted and may have a sample in range.
    fn matching_in_range(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Arc<Postings>, StorageError> {
        let header = &self.shared.header;
        if select.mint > header.maxt || select.maxt < header.mint {
            return Ok(Arc::default());
        }
        let matching = self.matching(select.matchers, cx)?;
        match self.cut_range(select, cx)? {
            None => Ok(matching),
            Some(range) => self.shared.index.in_range(matching, range, cx),
        }
    }

    /// Series of which a list is made: those in range, or all that match, where that is known to make no difference.
    fn matching_of_list(
        &self,
        label: Option<&str>,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Arc<Postings>, StorageError> {
        match self.is_cut(select) && self.is_whole(label, select) {
            true => self.matching(select.matchers, cx),
            false => self.matching_in_range(select, cx),
        }
    }

    /// Ranks that have exemplars.
    fn ranks_with_exemplars(&self) -> Result<Postings, StorageError> {
        let (from, to) = keys::kind_range(self.shared.header.block_id(), Kind::Exemplars);
        let mut ranks = Vec::new();
        self.shared.kv.scan(&from, &to, &mut |key, _| {
            if let Some(rank) = key.last_chunk::<4>() {
                ranks.push(u32::from_be_bytes(*rank));
            }
            ControlFlow::Continue(())
        })?;
        ranks.dedup();
        Ok(Postings::from_sorted(ranks))
    }
}

/// Whether a range has a time of each of the series of which the last begins and the first ends at these times.
const fn reaches_over(select: &PartSelect<'_>, (begun, ended): (i64, i64)) -> bool {
    begun <= select.maxt && select.mint <= ended
}

/// Series whose times are looked at in the time that a posting list takes to be read.
const SERIES_PER_LIST: u32 = 16;

/// What a float takes with its share of the timestamps, generously: noise that does not compress takes more, what
/// exporters send takes a tenth.
const BYTES_PER_FLOAT: u64 = 2;
/// As [`BYTES_PER_FLOAT`], for a histogram of some ten buckets.
const BYTES_PER_HISTOGRAM: u64 = 32;

impl Part for BlockPart {
    fn precedence(&self) -> Precedence {
        self.shared.header.seq_min
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        let header = &self.shared.header;
        (header.n_series > 0).then_some((header.mint, header.maxt))
    }

    fn estimate(&self, select: &PartSelect<'_>) -> Result<Estimate, StorageError> {
        let header = &self.shared.header;
        let n_series = u64::from(self.matching(select.matchers, &Unlimited::default())?.len());
        let share = |total: u64| {
            let total = u128::from(total) * u128::from(n_series);
            u64::try_from(total.div_ceil(u128::from(header.n_series.max(1)))).unwrap_or(u64::MAX)
        };
        // Of each series the part in range, and a chunk that reaches in at either end.
        let (first, last) = (select.mint.max(header.mint), select.maxt.min(header.maxt));
        let span = |from: i64, to: i64| i128::from(to) - i128::from(from) + 1;
        let in_range = span(first, last).max(0).unsigned_abs();
        let of_all = |total: u64| {
            let part = u128::from(total) * in_range / span(header.mint, header.maxt).max(1).unsigned_abs();
            let chunk = total / header.n_chunks.max(1);
            let part = u64::try_from(part).unwrap_or(u64::MAX);
            share(part).saturating_add(chunk.saturating_mul(2 * n_series)).min(share(total))
        };
        let (floats, histograms) = (of_all(header.n_floats), of_all(header.n_histograms));
        let size_bytes = floats
            .saturating_mul(BYTES_PER_FLOAT)
            .saturating_add(histograms.saturating_mul(BYTES_PER_HISTOGRAM));
        Ok(Estimate { n_series, n_samples: floats.saturating_add(histograms), size_bytes })
    }

    fn select(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Box<dyn PartSeries>, StorageError> {
        let matched = self.matching(select.matchers, cx)?;
        Ok(Box::new(BlockSeries::new(self, &matched, select, cx)?))
    }

    fn written_as(
        &self,
        label: Option<&str>,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Option<BlockId>, StorageError> {
        let header = &self.shared.header;
        let block = Some(header.block_id());
        if !self.tombstones.gone().is_empty() {
            return Ok(None);
        }
        if select.mint <= header.mint && header.maxt <= select.maxt {
            return Ok(block);
        }
        // Nothing is read for this: who asks for the strings will know.
        if self.shared.lives.are_in(label, select) {
            return Ok(block);
        }
        let matched = self.matched(select.matchers, cx)?;
        Ok(block.filter(|_| matched.all_live.get().is_some_and(|&all| reaches_over(select, all))))
    }

    fn has_more(
        &self,
        label: Option<&str>,
        cx: &dyn QueryContext,
        is_known: &mut dyn FnMut(&str) -> bool,
    ) -> Result<bool, StorageError> {
        let index = &self.shared.index;
        let (mut n_seen, mut has_more) = (0u32, false);
        let mut visit = |_, text: &str| {
            n_seen += 1;
            if n_seen.is_multiple_of(STRINGS_PER_CHECK) {
                cx.check()?;
            }
            has_more = has_more || !is_known(text);
            Ok(())
        };
        match label {
            None => index.names(&mut visit)?,
            Some(label) => match index.symbol(label)? {
                Some(number) => index.values(number, "", &mut visit)?,
                None => return Ok(false),
            },
        }
        Ok(has_more)
    }

    fn label_names(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        let index = &self.shared.index;
        if self.is_cut(select) && !self.is_whole(None, select) {
            let matched = self.matching(select.matchers, cx)?;
            let lives = index.names_in_range(&matched, (select.mint, select.maxt), cx, sink)?;
            self.keep_lives(None, select, lives);
            return Ok(());
        }
        let matched = self.matching_of_list(None, select, cx)?;
        if matched.is_empty() {
            return Ok(());
        }
        matching::label_names(index, &matched, cx, &mut |_, text| sink(text))
    }

    fn label_values(
        &self,
        name: &str,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        let index = &self.shared.index;
        let Some(number) = index.symbol(name)? else { return Ok(()) };
        if self.is_cut(select) && !self.is_whole(Some(name), select) {
            let matched = self.matching(select.matchers, cx)?;
            // Otherwise the times of all series cost less than the lists of all values.
            if index.value_numbers(number)?.len() < matched.len() / SERIES_PER_LIST {
                let lives = index.values_in_range(number, &matched, (select.mint, select.maxt), cx, sink)?;
                self.keep_lives(Some(name), select, lives);
                return Ok(());
            }
        }
        let matched = self.matching_of_list(Some(name), select, cx)?;
        if matched.is_empty() {
            return Ok(());
        }
        if matched.len() == index.n_series() {
            return matching::label_values(index, name, &matched, cx, &mut |_, text| sink(text));
        }
        let values = index.values_of(number, &matched, cx)?;
        index.visit_strings(values, &mut |_, text| {
            sink(text);
            Ok(())
        })
    }

    fn exemplars(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
        sink: &mut ExemplarSink<'_>,
    ) -> Result<(), StorageError> {
        let shared = &self.shared;
        if shared.header.n_keys[Kind::Exemplars as usize] == 0 {
            return Ok(());
        }
        let matched = self.ranks_with_exemplars()?.intersect(&*self.matching(select.matchers, cx)?);
        let block = shared.header.block_id();
        shared.index.visit_series(&matched, cx, &mut |rank, series| {
            let mut exemplars = side::exemplars(&*shared.kv, block, rank)?;
            let deleted = self.tombstones.ranges(rank);
            exemplars.retain(|exemplar| {
                (select.mint..=select.maxt).contains(&exemplar.timestamp)
                    && !deleted.iter().any(|&(from, to)| (from..=to).contains(&exemplar.timestamp))
            });
            if exemplars.is_empty() {
                return Ok(());
            }
            let mut texts = Vec::with_capacity(series.labels.len() * 2);
            for &(name, value) in series.labels {
                index_text(&shared.index, name, &mut texts)?;
                index_text(&shared.index, value, &mut texts)?;
            }
            let pairs: Vec<(&str, &str)> =
                texts.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
            sink(&pairs, &exemplars);
            Ok(())
        })
    }

    fn metadata(&self, sink: &mut dyn FnMut(&str, &Metadata)) -> Result<(), StorageError> {
        if self.shared.header.n_keys[Kind::Metadata as usize] == 0 {
            return Ok(());
        }
        side::metadata(&*self.shared.kv, self.shared.header.block_id(), sink)
    }
}

fn index_text(index: &BlockIndex, number: u32, out: &mut Vec<String>) -> Result<(), StorageError> {
    index.visit_strings([number], &mut |_, text| {
        out.push(text.to_owned());
        Ok(())
    })
}

/// Selected series of a block, with their labels in the query's symbols.
struct BlockSeries {
    part: BlockPart,
    // Invariant: ascending; `ends` has an entry for each.
    ranks: Vec<u32>,
    labels: Vec<(Symbol, Symbol)>,
    ends: Vec<u32>,
}

impl BlockSeries {
    fn new(
        part: &BlockPart,
        matched: &Postings,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Self, StorageError> {
        let index = &part.shared.index;
        let kept = KeptNames::new(select.labels, |name| index.symbol(name))?;
        let mut ranks = Vec::with_capacity(matched.len() as usize);
        // Most have that many; how many series are in range is not known yet.
        let mut labels: Vec<(u32, u32)> =
            Vec::with_capacity((matched.len() as usize * 8).min(LABELS_PER_CHARGE));
        let mut ends = Vec::with_capacity(matched.len() as usize);
        let mut charged = 0;
        index.visit_series(matched, cx, &mut |rank, series| {
            if series.mint > select.maxt || series.maxt < select.mint {
                return Ok(());
            }
            // Numbers of strings, then symbols of the query: eight bytes a label each, rounded up to
            // include ranks and ends.
            kept.extend_from_slice(&mut labels, series.labels);
            if labels.len() >= charged + LABELS_PER_CHARGE {
                cx.charge((labels.len() - charged) * 24)?;
                charged = labels.len();
            }
            ranks.push(rank);
            ends.push(u32::try_from(labels.len()).map_err(|_| {
                StorageError::corrupt(
                    format!("series of block {}", part.shared.header.block_id()),
                    "2^32 labels or more",
                )
            })?);
            Ok(())
        })?;
        cx.charge((labels.len() - charged) * 24)?;
        let labels = in_query_symbols(index, &labels, cx)?;
        Ok(Self { part: part.clone(), ranks, labels, ends })
    }
}

/// Labels as numbers of the block to labels as symbols of the query. Strings are decoded in the order of the block.
fn in_query_symbols(
    index: &BlockIndex,
    labels: &[(u32, u32)],
    cx: &dyn QueryContext,
) -> Result<Vec<(Symbol, Symbol)>, StorageError> {
    to_symbols(labels, index.n_symbols(), cx, |used, symbols| {
        used.sort_unstable();
        for numbers in used.chunks(STRINGS_PER_CHECK as usize) {
            cx.check()?;
            let mut texts = String::with_capacity(numbers.len() * 16);
            let mut ends = Vec::with_capacity(numbers.len());
            index.visit_strings(numbers.iter().copied(), &mut |_, text| {
                texts.push_str(text);
                ends.push(texts.len());
                Ok(())
            })?;
            let starts = std::iter::once(0).chain(ends.iter().copied());
            cx.symbols().intern_all(starts.zip(&ends).map(|(start, &end)| &texts[start..end]), symbols);
        }
        Ok(())
    })
}

/// Finds the ranges of a series among those of some, ascending by rank.
fn ranges_by_rank<'s>(series: &'s [RankRanges]) -> impl Fn(u32) -> &'s [(i64, i64)] + 's {
    |rank| match series.binary_search_by_key(&rank, |series| series.0) {
        Ok(at) => &series[at].1,
        Err(_) => &[],
    }
}

impl PartSeries for BlockSeries {
    fn len(&self) -> u32 {
        self.ranks.len() as u32
    }

    fn labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        let at = index as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.labels[start as usize..self.ends[at] as usize]
    }

    fn read(
        &self,
        range: Range<u32>,
        read: &PartRead,
        out: &mut RunBuffer,
        cx: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        let ranks = &self.ranks[range.start as usize..range.end as usize];
        let deleted = self.part.tombstones.ranges_of(ranks);
        self.part.shared.tiles.read(ranks, &ranges_by_rank(&deleted), read, out, cx)
    }

    fn last_floats(
        &self,
        range: Range<u32>,
        read: &PartRead,
        known: &mut KnownColumns,
        out: &mut Vec<Option<LastFloat>>,
        cx: &dyn QueryContext,
    ) -> Result<bool, StorageError> {
        let ranks = &self.ranks[range.start as usize..range.end as usize];
        if !self.part.tombstones.ranges_of(ranks).is_empty() {
            return Ok(false);
        }
        self.part.shared.tiles.last_floats(ranks, read, known, out, cx)
    }

    fn partitions(&self) -> Vec<Range<u32>> {
        let mut partitions = Vec::new();
        let mut start = 0;
        for of_tile in self.ranks.chunk_by(|a, b| a / RANKS_PER_TILE == b / RANKS_PER_TILE) {
            let end = start + of_tile.len() as u32;
            partitions.push(start..end);
            start = end;
        }
        partitions
    }

    fn samples_per_series(&self, mint: i64, maxt: i64) -> u64 {
        let header = &self.part.shared.header;
        let span = |from: i64, to: i64| (i128::from(to) - i128::from(from) + 1).max(0).unsigned_abs();
        let in_range = span(mint.max(header.mint), maxt.min(header.maxt));
        let all = u128::from(header.n_samples() / u64::from(header.n_series.max(1)));
        u64::try_from(all * in_range / span(header.mint, header.maxt).max(1)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
