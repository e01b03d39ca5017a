//! Applying a batch: series become handles, samples find their tables, shards take them in one after
//! another, and the log is written once. Nothing is rolled back: what is refused is counted and the
//! first refusal named.

use super::TableSet;
use super::open::{ShardTotals, Table};
use super::registry::identity::{Resolved, key_text};
use super::registry::{LastSample, RegistryShard};
use super::set::Entered;
use super::shard::{Placed, TableShard};
use crate::error::AppendError;
use crate::lock::RwLockWriteGuard;
use crate::log::histogram as histogram_bytes;
use crate::options::WalSync;
use chronolith_model::append::{AppendBatch, AppendOutcome, BatchSeries, Refusal, SeriesKey, SeriesRef};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Beyond +-2^53 ms JSON clients would lose digits.
const MAX_TIMESTAMP: i64 = 1 << 53;

/// Memory of a series is asked for in three steps, so many series apart, before it is appended to.
const AHEAD: usize = 8;

/// Timestamps that a batch may have, ends included.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimits {
    pub(super) oldest: i64,
    pub(super) newest: i64,
}

impl TimeLimits {
    #[inline]
    fn check(self, timestamp: i64) -> Result<(), Refusal> {
        if timestamp >= self.oldest && timestamp <= self.newest {
            return Ok(());
        }
        Err(if timestamp.unsigned_abs() > MAX_TIMESTAMP.unsigned_abs() {
            Refusal::OutOfRange
        } else if timestamp < self.oldest {
            Refusal::TooOld { oldest: self.oldest }
        } else {
            Refusal::TooNew { newest: self.newest }
        })
    }
}

impl TableSet {
    /// Applies a batch and returns once what was written is in the log (and synced, if so configured).
    ///
    /// # Errors
    /// [`AppendError`] if nothing can be logged now. What had been applied by then may show in
    /// queries, but is not acknowledged.
    pub fn append(&self, batch: &AppendBatch<'_>, want_refs: bool) -> Result<AppendOutcome, AppendError> {
        self.check_writable()?;
        let limits = self.time_limits();
        let mut resolved = self.registry.resolve(batch);
        let windows = self.windows_of(batch, limits);
        let mut entered = self.enter(&windows)?;
        if entered.newest().is_none() && !batch.metadata.is_empty() {
            entered = self.enter_any()?;
        }
        let mut work = Work {
            set: self,
            batch,
            limits,
            entered: &entered,
            outcome: AppendOutcome::default(),
            first: None,
            repeats_other_table: false,
        };
        work.outcome.series_created = resolved.n_created;
        for (index, error) in std::mem::take(&mut resolved.refused) {
            work.refuse_series(index, error.into());
        }
        work.apply(&mut resolved);
        if let Some(table) = entered.newest() {
            table.add_metadata(batch.metadata.iter().map(|(name, metadata)| (*name, metadata)));
        }
        let repeats_other_table = work.repeats_other_table;
        let (mut outcome, first) = (work.outcome, work.first);
        self.flush(&entered, repeats_other_table)?;
        if let Some(first) = first {
            let text = match batch.series[first.series].key {
                SeriesKey::Handle(handle) => self.registry.labels_text(handle),
                key => key_text(key, batch),
            };
            outcome.first_refused = Some((text, first.timestamp, first.refusal));
        }
        if want_refs {
            outcome.refs = resolved.series;
        }
        drop(entered);
        self.count(&outcome);
        self.freeze_full();
        Ok(outcome)
    }

    fn time_limits(&self) -> TimeLimits {
        let newest = self.options.clock.now_ms().saturating_add(self.options.max_ahead_ms).min(MAX_TIMESTAMP);
        let oldest = self.oldest_kept().unwrap_or(-MAX_TIMESTAMP).max(-MAX_TIMESTAMP);
        TimeLimits { oldest, newest }
    }

    /// Windows that samples of the batch fall into, in no order, few of them twice.
    fn windows_of(&self, batch: &AppendBatch<'_>, limits: TimeLimits) -> Vec<i64> {
        let mut windows: Vec<i64> = Vec::new();
        let mut last: Option<Range<i64>> = None;
        let times = batch
            .samples
            .iter()
            .map(|sample| sample.timestamp)
            .chain(batch.histograms.iter().map(|sample| sample.timestamp))
            .chain(batch.exemplars.iter().map(|exemplar| exemplar.timestamp));
        for time in times {
            if last.as_ref().is_some_and(|window| window.contains(&time)) || limits.check(time).is_err() {
                continue;
            }
            let start = self.options.window_start(time);
            last = Some(start..start + self.options.window_ms);
            if windows.len() < 8 || !windows.contains(&start) {
                windows.push(start);
            }
        }
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    fn flush(&self, entered: &Entered, all: bool) -> Result<(), AppendError> {
        let mut tables: Vec<&Table> = entered.tables().collect();
        let others = if all { self.all_tables() } else { Vec::new() };
        // A sample that another table holds is acknowledged only once that table has logged it.
        tables.extend(others.iter().map(|table| &**table).filter(|table| !entered.holds(table.number)));
        for table in tables {
            let counter = table.flush().map_err(|error| self.unavailable(&error))?;
            if self.options.wal_sync == WalSync::Always {
                table.log.sync_to(counter).map_err(|error| self.unavailable(&error))?;
            }
        }
        Ok(())
    }
}

/// A refusal and where it was.
struct Refused {
    series: usize,
    timestamp: i64,
    refusal: Refusal,
}

/// What a batch is being applied with.
struct Work<'w, 'a> {
    set: &'w TableSet,
    batch: &'w AppendBatch<'a>,
    limits: TimeLimits,
    entered: &'w Entered,
    outcome: AppendOutcome,
    first: Option<Refused>,
    /// A sample repeats the newest one of its series, which may be in a table that was not entered.
    repeats_other_table: bool,
}

/// Shards of the tables that were entered, locked when first needed.
struct Shards<'t> {
    index: usize,
    guards: [Option<(RwLockWriteGuard<'t, TableShard>, ShardTotals)>; 3],
}

impl<'t> Shards<'t> {
    #[inline]
    fn get(&mut self, entered: &'t Entered, role: usize) -> &mut TableShard {
        let guard = self.guards[role].get_or_insert_with(|| {
            let table = entered.table(role).expect("windows of all samples were entered");
            let shard = table.shards[self.index].write();
            let totals = ShardTotals::of(&shard);
            (shard, totals)
        });
        &mut guard.0
    }
}

impl Shards<'_> {
    /// The shard of the newest table that is locked.
    #[inline]
    fn newest(&self) -> Option<&TableShard> {
        self.guards.iter().flatten().next().map(|(shard, _)| &**shard)
    }
}

impl<'w> Work<'w, '_> {
    fn apply(&mut self, resolved: &mut Resolved) {
        let n_shards = self.set.registry.n_shards();
        let shard_of = |handle: &SeriesRef| self.set.registry.split(handle.slot).0;
        let mut ends = vec![0usize; n_shards + 1];
        resolved.series.iter().flatten().for_each(|handle| ends[shard_of(handle) + 1] += 1);
        for shard in 0..n_shards {
            ends[shard + 1] += ends[shard];
        }
        let mut places = ends.clone();
        let mut by_shard = vec![0u32; ends[n_shards]];
        for (index, series) in resolved.series.iter().enumerate() {
            if let Some(handle) = series {
                let place = &mut places[shard_of(handle)];
                by_shard[*place] = index as u32;
                *place += 1;
            }
        }
        let mut expired = Vec::new();
        for shard_index in 0..n_shards {
            let series = &by_shard[ends[shard_index]..ends[shard_index + 1]];
            if !series.is_empty() {
                self.apply_shard(shard_index, series, &resolved.series, &mut expired);
            }
        }
        // Handles whose series left: their labels make a new one. It cannot leave before it was used,
        // unless appends stand still for minutes, and then they are tried again.
        while let Some(index) = expired.pop() {
            let key = self.batch.series[index as usize].key;
            if let SeriesKey::Handle(_) = key {
                self.outcome.expired += 1;
                continue;
            }
            match self.set.registry.resolve_labels(key, self.batch) {
                Ok((handle, created)) => {
                    self.outcome.series_created += u64::from(created);
                    resolved.series[index as usize] = Some(handle);
                    let shard_index = self.set.registry.split(handle.slot).0;
                    self.apply_shard(shard_index, &[index], &resolved.series, &mut expired);
                }
                Err(error) => {
                    resolved.series[index as usize] = None;
                    self.refuse_series(index as usize, error.into());
                }
            }
        }
    }

    fn apply_shard(
        &mut self,
        shard_index: usize,
        indices: &[u32],
        handles: &[Option<SeriesRef>],
        expired: &mut Vec<u32>,
    ) {
        let entered = self.entered;
        let mut registry = self.set.registry.shards[shard_index].write();
        let mut shards = Shards { index: shard_index, guards: [None, None, None] };
        if let Some(role) = entered.only_role() {
            shards.get(entered, role);
        }
        let handle_at = |at: usize| {
            let handle = handles[indices[at] as usize].expect("only resolved series are given to shards");
            (self.set.registry.split(handle.slot).1, handle.generation)
        };
        // Three places of memory a series, each found through the one before. What an append to a series waits
        // for is asked for while those before it are worked on.
        for step in 0..indices.len() + 3 * AHEAD {
            if step < indices.len() {
                registry.prefetch(handle_at(step).0);
            }
            if let Some(shard) = shards.newest() {
                let in_reach = |back: usize| step.checked_sub(back).filter(|at| *at < indices.len());
                if let Some(at) = in_reach(AHEAD) {
                    shard.prefetch(handle_at(at).0);
                }
                if let Some(at) = in_reach(2 * AHEAD) {
                    let samples = self
                        .batch
                        .samples
                        .get(self.batch.series[indices[at] as usize].samples.start as usize);
                    shard
                        .prefetch_values(handle_at(at).0, samples.map_or(0, |sample| sample.value.to_bits()));
                }
            }
            let Some(at) = step.checked_sub(3 * AHEAD) else { continue };
            let (slot, generation) = handle_at(at);
            if registry.get(slot, generation).is_none() {
                expired.push(indices[at]);
            } else {
                self.apply_series(indices[at] as usize, slot, &mut registry, &mut shards);
            }
        }
        for (role, guard) in shards.guards.into_iter().enumerate() {
            if let (Some((shard, before)), Some(table)) = (guard, entered.table(role)) {
                table.account(before, &shard);
            }
        }
    }

    fn apply_series(
        &mut self,
        index: usize,
        slot: u32,
        registry: &mut RegistryShard,
        shards: &mut Shards<'w>,
    ) {
        let BatchSeries { samples, histograms, exemplars, .. } = &self.batch.series[index];
        let newest_only = index >= self.batch.newest_only_from;
        let mut numbers: [Option<u32>; 3] = [None; 3];
        for sample in &self.batch.samples[indices(samples)] {
            let time = sample.timestamp;
            if let Err(refusal) = self.limits.check(time) {
                self.refuse(index, time, refusal);
                continue;
            }
            let new = LastSample { timestamp: time, bits: sample.value.to_bits(), is_histogram: false };
            let last = registry.entry_mut(slot).last();
            if newest_only && time <= last.timestamp {
                continue;
            }
            let placed = if time == last.timestamp {
                self.repeated(last, new)
            } else {
                let role = self.entered.role(time);
                let shard = shards.get(self.entered, role);
                let number = *numbers[role].get_or_insert_with(|| self.set.number_in(shard, slot, registry));
                shard.append_float(number, time, new.bits, sample.start_timestamp)
            };
            if self.settle(index, new, placed, registry, slot) {
                self.outcome.samples_written += 1;
            }
        }
        if histograms.is_empty() && exemplars.is_empty() {
            return;
        }
        let mut encoded = Vec::new();
        for sample in &self.batch.histograms[indices(histograms)] {
            let time = sample.timestamp;
            if let Err(refusal) = self.limits.check(time) {
                self.refuse(index, time, refusal);
                continue;
            }
            encoded.clear();
            histogram_bytes::encode(&sample.histogram, &mut encoded);
            let new = LastSample { timestamp: time, bits: xxh3_64(&encoded), is_histogram: true };
            let last = registry.entry_mut(slot).last();
            let placed = if time == last.timestamp {
                self.repeated(last, new)
            } else {
                let role = self.entered.role(time);
                let shard = shards.get(self.entered, role);
                let number = *numbers[role].get_or_insert_with(|| self.set.number_in(shard, slot, registry));
                shard.append_histogram(number, time, sample.start_timestamp, &encoded)
            };
            if self.settle(index, new, placed, registry, slot) {
                self.outcome.histograms_written += 1;
            }
        }
        for exemplar in &self.batch.exemplars[indices(exemplars)] {
            let time = exemplar.timestamp;
            if let Err(refusal) = self.limits.check(time) {
                self.refuse(index, time, refusal);
                continue;
            }
            let role = self.entered.role(time);
            let shard = shards.get(self.entered, role);
            let number = *numbers[role].get_or_insert_with(|| self.set.number_in(shard, slot, registry));
            match shard.append_exemplar(number, exemplar) {
                Placed::Conflict => self.refuse(index, time, Refusal::ExemplarOutOfOrder),
                _ => self.outcome.exemplars_written += 1,
            }
        }
    }

    /// A sample at the time of the newest one of its series, whichever table has that.
    fn repeated(&mut self, last: LastSample, new: LastSample) -> Placed {
        if last == new {
            self.repeats_other_table = true;
            return Placed::Same;
        }
        Placed::Conflict
    }

    /// Counts what became of a sample; whether it is in the log once that is written.
    #[inline]
    fn settle(
        &mut self,
        index: usize,
        new: LastSample,
        placed: Placed,
        registry: &mut RegistryShard,
        slot: u32,
    ) -> bool {
        match placed {
            Placed::Newest | Placed::Late => {
                let entry = registry.entry_mut(slot);
                if new.timestamp > entry.last().timestamp {
                    entry.set_last(new);
                } else {
                    self.outcome.out_of_order += 1;
                }
                true
            }
            Placed::Same => true,
            Placed::Conflict => {
                self.refuse(index, new.timestamp, Refusal::Duplicate);
                false
            }
        }
    }

    fn refuse_series(&mut self, index: usize, refusal: Refusal) {
        let BatchSeries { samples, histograms, exemplars, .. } = &self.batch.series[index];
        let n_refused = samples.len() + histograms.len() + exemplars.len();
        let first = self.batch.samples.get(samples.start as usize).filter(|_| !samples.is_empty());
        let timestamp = first.map_or(0, |sample| sample.timestamp);
        self.outcome.refused_labels += 1;
        self.outcome.refused += n_refused as u64;
        self.note(Refused { series: index, timestamp, refusal });
    }

    fn refuse(&mut self, index: usize, timestamp: i64, refusal: Refusal) {
        self.outcome.refused += 1;
        match refusal {
            Refusal::Duplicate => self.outcome.refused_duplicate += 1,
            Refusal::TooOld { .. } => self.outcome.refused_too_old += 1,
            Refusal::TooNew { .. } | Refusal::OutOfRange => self.outcome.refused_too_new += 1,
            _ => {}
        }
        self.note(Refused { series: index, timestamp, refusal });
    }

    /// Shards come in their own order; the first refusal is the first of the request.
    fn note(&mut self, refused: Refused) {
        if self.first.as_ref().is_none_or(|first| refused.series < first.series) {
            self.first = Some(refused);
        }
    }
}

fn indices(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

impl TableSet {
    /// The number of a series in a shard of a table; it is taken in if it is not there.
    #[inline]
    pub(super) fn number_in(&self, shard: &mut TableShard, slot: u32, registry: &mut RegistryShard) -> u32 {
        match shard.ordinal(slot) {
            Some(number) => number,
            None => self.take_in(shard, slot, registry),
        }
    }

    #[cold]
    fn take_in(&self, shard: &mut TableShard, slot: u32, registry: &mut RegistryShard) -> u32 {
        registry.entry_mut(slot).add_use();
        let symbols: Vec<(u32, u32)> = registry.labels(slot).collect();
        let interner = self.registry.interner.read();
        let texts = symbols.iter().map(|&(name, value)| (interner.resolve(name), interner.resolve(value)));
        shard.add_series(slot, symbols.iter().copied(), Some(texts))
    }
}
