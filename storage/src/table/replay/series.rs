//! Taking in the series that a log defines.
//!
//! Neighbouring series have most of their labels in common: each name and value of a group is hashed and looked up
//! where it occurs first. Locks are taken once a group.

use super::feed::Frames;
use crate::index::varint::put_varint;
use crate::log::record::{Definitions, definitions};
use crate::table::open::{ShardTotals, Table};
use crate::table::registry::hasher::Hash128;
use crate::table::registry::identity::{canonicalise, is_canonical};
use std::ops::Range;

/// A step in the numbers of series beyond this is no gap that a damaged frame left.
const MAX_GAP: usize = 1 << 24;

/// Where the series of a shard of the log are in the table.
#[derive(Default)]
pub(super) struct Targets {
    /// Shard and number, by the number in the log.
    places: Vec<Option<(u32, u32)>>,
    /// All places are the shard of this number, and the numbers those of the log.
    same_in: Option<u32>,
}

impl Targets {
    /// Numbers of the log are below this.
    pub const fn len(&self) -> usize {
        self.places.len()
    }

    /// Shard and number of a series.
    #[inline]
    pub fn get(&self, number: u32) -> Option<(u32, u32)> {
        match self.same_in {
            Some(shard) if (number as usize) < self.places.len() => Some((shard, number)),
            _ => *self.places.get(number as usize)?,
        }
    }

    /// The shard of all series, if they have the same numbers there.
    #[inline]
    pub const fn same_in(&self) -> Option<u32> {
        self.same_in
    }

    /// Series that are defined.
    pub fn n_series(&self) -> u64 {
        self.places.iter().flatten().count() as u64
    }

    /// Notes that all is read; whether every number of the log has its series, in this shard under the same
    /// number.
    pub fn settle(&mut self, shard: u32) -> bool {
        let own = |(at, place): (usize, &Option<(u32, u32)>)| *place == Some((shard, at as u32));
        let is_same = self.places.iter().enumerate().all(own);
        self.same_in = is_same.then_some(shard);
        is_same
    }
}

/// What a worker has taken in.
pub(super) struct Defined {
    /// By shard of the log; those of other workers are empty.
    pub targets: Vec<Targets>,
    /// Whether each series got the number it has in the log.
    pub is_same: bool,
    /// Frames that do not decode: where they were, and why.
    pub damage: Vec<(u64, &'static str)>,
}

/// Takes in the series of every shard whose number is `worker` modulo `n_workers`.
pub(super) fn work(
    table: &Table,
    n_shards: usize,
    worker: usize,
    n_workers: usize,
    frames: Frames,
) -> Defined {
    let mut defined = Defined { targets: Vec::new(), is_same: true, damage: Vec::new() };
    defined.targets.resize_with(n_shards.min(u16::MAX as usize), Targets::default);
    for batch in frames {
        for frame in &*batch {
            match definitions(&frame.body, |shard| shard as usize % n_workers == worker) {
                Ok(groups) => {
                    for group in groups {
                        defined.is_same &= define(table, &mut defined.targets, &group);
                    }
                }
                Err(reason) => defined.damage.push((frame.at, reason)),
            }
        }
    }
    defined
}

/// Takes in consecutive series; whether each got the number it has in the log.
fn define(table: &Table, targets: &mut [Targets], group: &Definitions<'_>) -> bool {
    let Some(Targets { places, .. }) = targets.get_mut(group.shard as usize) else { return false };
    let first = group.first as usize;
    // Numbers are dense when they are written; a gap is what a damaged frame took.
    if first > places.len() + MAX_GAP {
        return false;
    }
    let group_places = take_in(table, group);
    if places.len() < first + group_places.len() {
        places.resize(first + group_places.len(), None);
    }
    let mut is_same = true;
    for (index, place) in group_places.into_iter().enumerate() {
        is_same &= place == Some((u32::from(group.shard), (first + index) as u32));
        places[first + index] = place;
    }
    is_same
}

/// A name or value that occurs in a group.
struct Text<'a> {
    text: &'a str,
    hash: Hash128,
    /// Of the interner, once a series needed it.
    symbol: Option<u32>,
}

/// The series of a group, with their labels as indices of texts.
struct Group<'a> {
    texts: Vec<Text<'a>>,
    /// Name and value.
    labels: Vec<(u32, u32)>,
    series: Vec<Series>,
}

struct Series {
    /// Position in the group.
    index: usize,
    labels: Range<usize>,
    hash: Hash128,
    shard: usize,
    /// Slot in the registry's shard, once known.
    slot: Option<u32>,
}

/// Where the series of a group are in the table; `None` if the labels are none of a series.
fn take_in(table: &Table, definitions: &Definitions<'_>) -> Vec<Option<(u32, u32)>> {
    let mut group = Group { texts: Vec::new(), labels: Vec::new(), series: Vec::new() };
    let mut n_series = 0;
    let mut scratch = Vec::new();
    for (index, labels) in definitions.series().enumerate() {
        n_series = index + 1;
        if is_canonical(labels) {
            group.add(table, index, labels, &mut scratch);
            continue;
        }
        let mut canonical = labels.to_vec();
        if canonicalise(&mut canonical).is_ok() {
            group.add(table, index, &canonical, &mut scratch);
        }
    }
    let mut places = vec![None; n_series];
    let Group { mut texts, labels, mut series } = group;
    // One run, unless the number of shards has changed.
    for run in series.chunk_by_mut(|a, b| a.shard == b.shard) {
        place(table, &mut texts, &labels, run, &mut places);
    }
    places
}

impl<'a> Group<'a> {
    /// Adds a series with canonical labels.
    fn add(&mut self, table: &Table, index: usize, labels: &[(&'a str, &'a str)], scratch: &mut Vec<u8>) {
        let registry = &table.registry;
        let mut before = self.series.last().map_or(0..0, |series| series.labels.clone());
        let start = self.labels.len();
        for &(name, value) in labels {
            while let Some(&(known, _)) = self.labels.get(before.start)
                && before.start < before.end
                && self.texts[known as usize].text < name
            {
                before.start += 1;
            }
            let same_name = self.labels[before.clone()].first().copied();
            let same_name = same_name.filter(|&(known, _)| self.texts[known as usize].text == name);
            let mut number = |text: &'a str, known: Option<u32>| {
                if let Some(known) = known.filter(|&known| self.texts[known as usize].text == text) {
                    return known;
                }
                self.texts.push(Text { text, hash: registry.hash_text(text), symbol: None });
                (self.texts.len() - 1) as u32
            };
            let label = (
                number(name, same_name.map(|(name, _)| name)),
                number(value, same_name.map(|(_, value)| value)),
            );
            self.labels.push(label);
        }
        let labels = start..self.labels.len();
        let hashed = self.labels[labels.clone()].iter().map(|&(name, value)| {
            let (name, value) = (&self.texts[name as usize], &self.texts[value as usize]);
            (name.text, name.hash, value.hash)
        });
        let (hash, shard) = registry.place(hashed, scratch);
        self.series.push(Series { index, labels, hash, shard, slot: None });
    }
}

/// Puts series of one shard into registry and table.
fn place(
    table: &Table,
    texts: &mut [Text<'_>],
    labels: &[(u32, u32)],
    run: &mut [Series],
    places: &mut [Option<(u32, u32)>],
) {
    let registry = &table.registry;
    let shard_index = run[0].shard;
    let mut registry_shard = registry.shards[shard_index].write();
    let mut shard = table.shards[shard_index].write();
    let before = ShardTotals::of(&shard);
    run.iter_mut().for_each(|series| series.slot = registry_shard.find(&series.hash));
    let mut interner = registry.interner.write();
    for series in run.iter().filter(|series| series.slot.is_none()) {
        for &(name, value) in &labels[series.labels.clone()] {
            for text in [name, value] {
                let text = &mut texts[text as usize];
                match text.symbol {
                    Some(symbol) => interner.add_use(symbol),
                    None => text.symbol = Some(interner.acquire(text.text)),
                }
            }
        }
    }
    drop(interner);
    let symbols = |series: &Series| {
        let pairs = labels[series.labels.clone()].iter();
        let symbol = |text: u32| texts[text as usize].symbol.expect("set above");
        pairs.map(move |&(name, value)| (symbol(name), symbol(value)))
    };
    let mut n_created = 0;
    let mut encoded = Vec::new();
    for series in run {
        // A series may be defined twice in a group, though none of ours are.
        let found = series.slot.or_else(|| {
            let found = registry_shard.find(&series.hash);
            if found.is_some() {
                let mut interner = registry.interner.write();
                symbols(series).for_each(|(name, value)| {
                    interner.release(name);
                    interner.release(value);
                });
            }
            found
        });
        let slot = match found {
            Some(slot) => slot,
            None => {
                encoded.clear();
                symbols(series).for_each(|(name, value)| {
                    put_varint(&mut encoded, u64::from(name));
                    put_varint(&mut encoded, u64::from(value));
                });
                let Ok(slot) = registry_shard.create(series.hash, &encoded) else { continue };
                n_created += 1;
                slot
            }
        };
        let number = shard.ordinal(slot).unwrap_or_else(|| {
            registry_shard.entry_mut(slot).add_use();
            let texts: Option<std::iter::Empty<(&str, &str)>> = None;
            shard.add_series(slot, registry_shard.labels(slot), texts)
        });
        places[series.index] = Some((shard_index as u32, number));
    }
    registry.count_created(n_created);
    table.account(before, &shard);
}
