//! Series of a table in block order: metric name, then all labels as bytes.
//!
//! Sorting a million label sets takes a third of a second, so the order of one table is kept: the series of the next
//! one are mostly the same, and only the others are sorted and merged in. It is found when a table is sealed, and
//! ahead of queries once the series of an open one have come.

use super::numbers::NumberMap;
use super::open::Table;
use super::registry::Registry;
use chronolith_model::append::SeriesRef;
use chronolith_model::labels::METRIC_NAME;
use std::cmp::Ordering;
use std::sync::Arc;

type Map<V> = NumberMap<u32, V>;

/// As long as only one in so many series has no known place, the others are merged in.
const FEW: usize = 16;

/// Positions in block order of the series of a table, by slot.
#[derive(Default)]
pub struct Ranks {
    /// Generation (0 without a position) and position.
    by_slot: Vec<(u32, u32)>,
}

impl Ranks {
    fn get(&self, series: SeriesRef) -> Option<u32> {
        let (generation, rank) = *self.by_slot.get(series.slot as usize)?;
        (generation == series.generation).then_some(rank)
    }

    /// Those of sorted series.
    fn of(sorted: &[Unsorted]) -> Self {
        let n_slots = sorted.iter().map(|one| one.series.slot as usize + 1).max().unwrap_or(0);
        let mut by_slot = vec![(0, 0); n_slots];
        for (rank, one) in sorted.iter().enumerate() {
            by_slot[one.series.slot as usize] = (one.series.generation, rank as u32);
        }
        Self { by_slot }
    }

    /// How many series have a place.
    pub(super) fn len(&self) -> usize {
        self.by_slot.iter().filter(|(generation, _)| *generation != 0).count()
    }
}

/// A series of a table to be sorted.
#[derive(Clone, Copy, Debug)]
pub struct Unsorted {
    /// Shard of the table.
    pub shard: u32,
    /// Number in the shard.
    pub ordinal: u32,
    /// Its handle.
    pub series: SeriesRef,
    /// Whatever the caller finds it by.
    pub index: u32,
}

/// Puts series of a table into block order. The table holds them all while this runs, so their
/// handles and label numbers stay.
pub fn sort(registry: &Registry, ranks: &Ranks, series: Vec<Unsorted>) -> Vec<Unsorted> {
    let mut ranked = Vec::with_capacity(series.len());
    let mut unknown = Vec::new();
    for one in series {
        match ranks.get(one.series) {
            Some(rank) => ranked.push((rank, one)),
            None => unknown.push(one),
        }
    }
    ranked.sort_unstable_by_key(|(rank, _)| *rank);
    let known: Vec<Unsorted> = ranked.into_iter().map(|(_, one)| one).collect();
    if unknown.is_empty() {
        return known;
    }
    if known.len() / FEW < unknown.len() {
        let all: Vec<Unsorted> = known.into_iter().chain(unknown).collect();
        return sort_by_labels(registry, all);
    }
    merge(registry, known, sort_by_labels(registry, unknown))
}

fn sort_by_labels(registry: &Registry, series: Vec<Unsorted>) -> Vec<Unsorted> {
    let mut keys = Vec::new();
    let mut ends = Vec::with_capacity(series.len());
    let mut symbols = SymbolOrder::default();
    for one in &series {
        let (shard_index, slot) = registry.split(one.series.slot);
        for (name, value) in registry.shards[shard_index].read().labels(slot) {
            keys.extend([name, value]);
        }
        ends.push(keys.len());
    }
    symbols.sort(registry, keys.iter().copied());
    keys.iter_mut().for_each(|symbol| *symbol = symbols.order[symbol]);
    let name = symbols.metric_name;
    let key = |index: usize| {
        let start = if index == 0 { 0 } else { ends[index - 1] };
        &keys[start..ends[index]]
    };
    let metric = |labels: &[u32]| {
        let pair = labels.as_chunks::<2>().0.iter().find(|pair| Some(pair[0]) == name);
        pair.map_or(u32::MAX, |pair| pair[1])
    };
    // Most comparisons end at the metric name, which is kept beside the position.
    let mut order: Vec<(u32, u32)> = (0..series.len()).map(|i| (metric(key(i)), i as u32)).collect();
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key(a.1 as usize).cmp(key(b.1 as usize))));
    order.into_iter().map(|(_, index)| series[index as usize]).collect()
}

fn merge(registry: &Registry, known: Vec<Unsorted>, new: Vec<Unsorted>) -> Vec<Unsorted> {
    let mut all = Vec::with_capacity(known.len() + new.len());
    let mut from = 0;
    for one in new {
        let labels = LabelTexts::of(registry, one.series);
        let before = |other: &Unsorted| labels.compare(registry, other.series).is_gt();
        let at = from + known[from..].partition_point(before);
        all.extend_from_slice(&known[from..at]);
        all.push(one);
        from = at;
    }
    all.extend_from_slice(&known[from..]);
    all
}

/// Labels as text.
struct LabelTexts {
    metric_name: String,
    labels: Vec<(String, String)>,
}

impl LabelTexts {
    fn of(registry: &Registry, series: SeriesRef) -> Self {
        let (shard_index, slot) = registry.split(series.slot);
        let shard = registry.shards[shard_index].read();
        let interner = registry.interner.read();
        let text = |symbol| interner.resolve(symbol).to_owned();
        let labels: Vec<(String, String)> =
            shard.labels(slot).map(|(name, value)| (text(name), text(value))).collect();
        let name = labels.iter().find(|(name, _)| name == METRIC_NAME);
        let metric_name = name.map_or_else(String::new, |(_, value)| value.clone());
        Self { metric_name, labels }
    }

    /// Where these labels are beside those of a series, as blocks are ordered.
    fn compare(&self, registry: &Registry, series: SeriesRef) -> Ordering {
        let (shard_index, slot) = registry.split(series.slot);
        let shard = registry.shards[shard_index].read();
        let interner = registry.interner.read();
        let others =
            || shard.labels(slot).map(|(name, value)| (interner.resolve(name), interner.resolve(value)));
        let metric_name = others().find(|(name, _)| *name == METRIC_NAME).map_or("", |(_, value)| value);
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        (*self.metric_name).cmp(metric_name).then_with(|| labels.cmp(others()))
    }
}

/// Strings that labels use, sorted, and the position of each number of the interner among them.
#[derive(Default)]
pub struct SymbolOrder {
    /// Sorted as bytes, each once.
    pub strings: Vec<Box<str>>,
    /// Position by number.
    pub order: Map<u32>,
    metric_name: Option<u32>,
}

impl SymbolOrder {
    /// Sorts the strings of these numbers, which repeat.
    pub fn sort(&mut self, registry: &Registry, symbols: impl Iterator<Item = u32>) {
        let mut used: Map<()> = Map::default();
        symbols.for_each(|symbol| {
            used.insert(symbol, ());
        });
        let interner = registry.interner.read();
        let mut strings: Vec<(Box<str>, u32)> =
            used.keys().map(|&symbol| (interner.resolve(symbol).into(), symbol)).collect();
        drop(interner);
        strings.sort_unstable();
        self.order = strings.iter().enumerate().map(|(at, (_, symbol))| (*symbol, at as u32)).collect();
        self.strings = strings.into_iter().map(|(text, _)| text).collect();
        let at = self.strings.binary_search_by(|text| (**text).cmp(METRIC_NAME));
        self.metric_name = at.ok().map(|at| at as u32);
    }
}

/// All series of a frozen table in block order; found once and kept with it. `ranks` become those of
/// this table.
pub(super) fn of_table(table: &Table, ranks: &arc_swap::ArcSwap<Ranks>) -> Arc<Vec<(u32, u32)>> {
    if let Some(order) = table.order.get() {
        return Arc::clone(order);
    }
    let sorted = sort(&table.registry, &ranks.load(), all_series(table));
    keep(&sorted, ranks);
    let order: Arc<Vec<(u32, u32)>> = Arc::new(sorted.iter().map(|one| (one.shard, one.ordinal)).collect());
    Arc::clone(table.order.get_or_init(|| order))
}

/// Makes the places of sorted series the known ones. A table of late samples knows few series; the order of more is
/// worth more.
fn keep(sorted: &[Unsorted], ranks: &arc_swap::ArcSwap<Ranks>) {
    if sorted.len() * 2 >= ranks.load().len() {
        ranks.store(Arc::new(Ranks::of(sorted)));
    }
}

/// What was seen of the open table with most series, to find their order once they have come.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Number of the table, `None` before the first.
    table: Option<u64>,
    /// Its series at the last look.
    n_series: usize,
    /// Its series when their places were last looked up.
    n_ranked: usize,
}

/// Finds the order of the series of an open table before a query needs it: once few have come since the last look, and
/// the places of more than few are not known. Called each second or so.
pub(super) fn rank_ahead(table: &Table, watched: &mut Watched, ranks: &arc_swap::ArcSwap<Ranks>) {
    let n_series = table.n_series();
    if watched.table != Some(table.number) {
        // After a start the series have come with the log.
        let n_before = if watched.table.is_none() { n_series } else { 0 };
        *watched = Watched { table: Some(table.number), n_series: n_before, n_ranked: 0 };
    }
    let n_come = n_series.saturating_sub(std::mem::replace(&mut watched.n_series, n_series));
    let is_few = |n: usize| n * FEW <= n_series;
    if !is_few(n_come) || is_few(n_series - watched.n_ranked) {
        return;
    }
    watched.n_ranked = n_series;
    let known = ranks.load();
    let series = all_series(table);
    let n_unknown = series.iter().filter(|one| known.get(one.series).is_none()).count();
    if !is_few(n_unknown) {
        keep(&sort(&table.registry, &known, series), ranks);
    }
}

/// All series of a table, in no order.
fn all_series(table: &Table) -> Vec<Unsorted> {
    let registry = &table.registry;
    let mut series = Vec::with_capacity(table.n_series());
    for (shard_index, shard) in table.shards.iter().enumerate() {
        let registry_shard = registry.shards[shard_index].read();
        for (ordinal, one) in shard.read().series().iter().enumerate() {
            let series_ref = registry.handle(shard_index, one.slot, &registry_shard);
            let (shard, ordinal, index) = (shard_index as u32, ordinal as u32, series.len() as u32);
            series.push(Unsorted { shard, ordinal, series: series_ref, index });
        }
    }
    series
}
