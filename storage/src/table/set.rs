//! Which tables are open: the two newest windows and one table for everything older. Tables are
//! opened when a sample needs them and frozen by size, age, idleness or on demand.

use super::open::{MetadataMap, Table, add_metadata};
use super::order::rank_ahead;
use super::{TableSet, TableStats};
use crate::error::{AppendError, StorageError, error_chain};
use crate::log::frame::FileHeader;
use crate::log::writer::TableLog;
use chronolith_model::Matcher;
use chronolith_model::append::{AppendOutcome, Metadata};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Samples per series at which a table is frozen, if that is more than `Options::table_samples`: a
/// window at 15 s is four runs, which bounds memory and restart.
const SAMPLES_PER_SERIES: u64 = 120;
/// Samples per series of the current window's table after which that of the window before is frozen: four minutes
/// at 15 s, in which stragglers come. It holds up to [`SAMPLES_PER_SERIES`], and with it memory and the longest
/// start would be twice as large for as long as the other one is filled.
const SAMPLES_BEHIND_EDGE: u64 = 16;
/// Retry-After while the log is broken or memory is full: seals are tried every few seconds.
const RETRY_AFTER_S: u64 = 5;

/// What a table is for; also its position in [`Tables::open`].
pub(super) const CURRENT: usize = 0;
pub(super) const PREVIOUS: usize = 1;
pub(super) const LATE: usize = 2;

/// One version of the set.
#[derive(Clone, Default)]
pub(super) struct Tables {
    /// Start of the newest window seen, `None` before the first sample.
    pub(super) current_window: Option<i64>,
    pub(super) open: [Option<Arc<Table>>; 3],
    /// Frozen and not sealed, ascending by seq.
    pub(super) frozen: Vec<Arc<Table>>,
}

/// The tables an append works on; they are left when this is dropped.
pub(super) struct Entered {
    current_window: i64,
    window_ms: i64,
    tables: [Option<Arc<Table>>; 3],
}

impl Entered {
    /// One table whose gate has been entered. No sample is to be routed by it.
    pub(super) fn only(role: usize, table: Arc<Table>) -> Self {
        let mut tables = [None, None, None];
        tables[role] = Some(table);
        Self { current_window: i64::MAX, window_ms: 0, tables }
    }

    /// Which table a timestamp belongs to.
    #[inline]
    pub(super) fn role(&self, timestamp: i64) -> usize {
        if timestamp >= self.current_window {
            CURRENT
        } else if timestamp >= self.current_window - self.window_ms {
            PREVIOUS
        } else {
            LATE
        }
    }

    /// The role of the table, if only one was entered.
    pub(super) fn only_role(&self) -> Option<usize> {
        let mut roles = (0..self.tables.len()).filter(|&role| self.tables[role].is_some());
        roles.next().filter(|_| roles.next().is_none())
    }

    pub(super) fn table(&self, role: usize) -> Option<&Table> {
        self.tables[role].as_deref()
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter_map(Option::as_deref)
    }

    pub(super) fn newest(&self) -> Option<&Table> {
        self.tables().next()
    }

    pub(super) fn holds(&self, number: u64) -> bool {
        self.tables().any(|table| table.number == number)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.tables.iter().flatten().for_each(|table| table.gate.leave());
    }
}

impl TableSet {
    pub(super) fn check_writable(&self) -> Result<(), AppendError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AppendError::Closed);
        }
        if let Some(reason) = self.log.broken.get() {
            self.n_unavailable.increment();
            return Err(AppendError::Unavailable { reason, retry_after_s: RETRY_AFTER_S });
        }
        let tables = self.tables.load();
        let all = tables.open.iter().flatten().chain(&tables.frozen);
        let size_bytes: usize = all.map(|table| table.size_bytes()).sum();
        if size_bytes > self.options.memory_budget_bytes {
            self.n_unavailable.increment();
            let reason = format!(
                "{size_bytes} bytes wait to be sealed, the memory budget is {}",
                self.options.memory_budget_bytes
            );
            return Err(AppendError::Unavailable { reason, retry_after_s: RETRY_AFTER_S });
        }
        Ok(())
    }

    pub(super) fn unavailable(&self, error: &StorageError) -> AppendError {
        self.n_unavailable.increment();
        AppendError::Unavailable { reason: error_chain(error), retry_after_s: RETRY_AFTER_S }
    }

    /// Goes into the tables of these windows (starts, ascending), opening them if need be.
    pub(super) fn enter(&self, windows: &[i64]) -> Result<Entered, AppendError> {
        let window_ms = self.options.window_ms;
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(AppendError::Closed);
            }
            let tables = self.tables.load_full();
            let newest = windows.last().copied();
            let Some(current_window) = tables.current_window.max(newest) else {
                return Ok(Entered { current_window: 0, window_ms, tables: [None, None, None] });
            };
            let mut entered = Entered { current_window, window_ms, tables: [None, None, None] };
            let mut needed = [false; 3];
            windows.iter().for_each(|&window| needed[entered.role(window)] = true);
            let is_missing = (0..3).any(|role| needed[role] && tables.open[role].is_none());
            if tables.current_window != Some(current_window) || is_missing {
                self.open_tables(current_window, needed).map_err(|error| self.unavailable(&error))?;
                continue;
            }
            let mut all_open = true;
            for role in (0..3).filter(|&role| needed[role]) {
                let table = tables.open[role].as_ref().expect("checked above");
                if table.gate.enter() {
                    entered.tables[role] = Some(Arc::clone(table));
                } else {
                    all_open = false;
                }
            }
            if all_open {
                let now_ms = self.options.clock.now_ms();
                entered.tables().for_each(|table| table.last_append_ms.store(now_ms, Ordering::Relaxed));
                return Ok(entered);
            }
            // Frozen between the look at the set and the gate: the next version has another table.
            drop(entered);
            std::thread::yield_now();
        }
    }

    /// Moves the set to `current_window` and opens the tables that are needed and missing.
    fn open_tables(&self, current_window: i64, needed: [bool; 3]) -> Result<(), StorageError> {
        let _guard = self.structure.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(StorageError::Closed);
        }
        let mut tables = (*self.tables.load_full()).clone();
        let before = tables.current_window.unwrap_or(current_window);
        if before > current_window {
            // Somebody else moved further; the caller looks again.
            return Ok(());
        }
        if before < current_window {
            let steps = (current_window - before) / self.options.window_ms;
            let current = tables.open[CURRENT].take();
            let previous = tables.open[PREVIOUS].take();
            let behind = if steps == 1 {
                tables.open[PREVIOUS] = current;
                [previous, None]
            } else {
                [previous, current]
            };
            for table in behind.into_iter().flatten() {
                self.freeze_table(&mut tables, table);
            }
        }
        tables.current_window = Some(current_window);
        // The new version is stored even if a table cannot be opened: others are frozen by then.
        let mut result = Ok(());
        for role in (0..3).filter(|&role| needed[role]) {
            if tables.open[role].is_none() && result.is_ok() {
                let window = match role {
                    CURRENT => Some(current_window),
                    PREVIOUS => Some(current_window - self.options.window_ms),
                    _ => None,
                };
                match self.new_table(window) {
                    Ok(table) => tables.open[role] = Some(table),
                    Err(error) => result = Err(error),
                }
            }
        }
        self.tables.store(Arc::new(tables));
        result
    }

    pub(super) fn new_table(&self, window: Option<i64>) -> Result<Arc<Table>, StorageError> {
        if let Some(reason) = self.log.broken.get() {
            let source = std::io::Error::other(reason);
            return Err(StorageError::Io { operation: "open a log in", path: self.log.dir.clone(), source });
        }
        let number = self.take_number();
        let header = FileHeader {
            window_start: window,
            window_ms: self.options.window_ms,
            n_shards: self.registry.n_shards() as u32,
            segment: 0,
        };
        let log = TableLog::open(Arc::clone(&self.log), number, header, None)?;
        Ok(Arc::new(Table::new(
            number,
            window,
            Arc::clone(&self.registry),
            log,
            Arc::clone(&self.options.clock),
            self.options.max_exemplars,
        )))
    }

    pub(super) fn take_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::AcqRel)
    }

    /// Freezes a table that was taken out of `tables.open`. The structure lock is held.
    fn freeze_table(&self, tables: &mut Tables, table: Arc<Table>) {
        let seq = self.take_number();
        table.freeze(seq);
        self.n_frozen.increment();
        tracing::debug!(table = table.number, seq, n_samples = table.n_samples(), "table frozen");
        tables.frozen.push(table);
    }

    /// Freezes the open tables for which `is_due` holds; returns them.
    fn freeze_where(&self, mut is_due: impl FnMut(&Table) -> bool) -> Vec<Arc<Table>> {
        // Most calls come for nothing, on the append path.
        if !self.tables.load().open.iter().flatten().any(|table| is_due(table)) {
            return Vec::new();
        }
        let _guard = self.structure.lock();
        let mut tables = (*self.tables.load_full()).clone();
        let mut frozen = Vec::new();
        // Oldest first: late samples repeat what earlier runs hold rather than the other way round.
        for role in [LATE, PREVIOUS, CURRENT] {
            if let Some(table) = tables.open[role].take_if(|table| is_due(table)) {
                frozen.push(Arc::clone(&table));
                self.freeze_table(&mut tables, table);
            }
        }
        self.tables.store(Arc::new(tables));
        frozen
    }

    /// Freezes what holds too many samples or bytes.
    pub(super) fn freeze_full(&self) {
        let limit = self.options.table_samples;
        self.freeze_where(|table| {
            let n_samples = table.n_samples();
            n_samples >= limit
                && n_samples >= SAMPLES_PER_SERIES * table.n_series() as u64
                && !self.is_nearly_through(table)
        });
        self.freeze_behind_edge();
        let largest = {
            let tables = self.tables.load();
            let open = tables.open.iter().flatten();
            let size_bytes: usize = open.clone().map(|table| table.size_bytes()).sum();
            if size_bytes <= self.options.tables_bytes() {
                return;
            }
            open.max_by_key(|table| table.size_bytes()).map(|table| table.number)
        };
        self.freeze_where(|table| Some(table.number) == largest);
    }

    /// Whether little more is to come for a full table, at the rate at which it was filled. After a freeze that
    /// would be a block of its own: a few samples a series, which take several times as much a sample.
    fn is_nearly_through(&self, table: &Table) -> bool {
        let (Some(window), Some((mint, maxt))) = (table.window, table.time_range()) else { return false };
        let (behind_ms, ahead_ms) = (maxt - mint, window + self.options.window_ms - maxt);
        let most = self.options.table_samples / 8;
        let n_expected = u128::from(table.n_samples()) * ahead_ms.max(0) as u128 / behind_ms.max(1) as u128;
        table.n_samples() < self.options.table_samples + most && n_expected <= u128::from(most)
    }

    /// Freezes the table of the window before the current one once that has gone on for a while: with about as many
    /// series, of which it holds some samples each. What comes for the earlier window then goes into another table,
    /// which stays.
    fn freeze_behind_edge(&self) {
        let behind = {
            let tables = self.tables.load();
            let (Some(current), Some(previous)) = (&tables.open[CURRENT], &tables.open[PREVIOUS]) else {
                return;
            };
            let n_series = current.n_series() as u64;
            // The table that was the current one has the lower number.
            let is_behind = n_series > 0
                && previous.number < current.number
                && 2 * n_series >= previous.n_series() as u64
                && current.n_samples() >= SAMPLES_BEHIND_EDGE * n_series;
            is_behind.then_some(previous.number)
        };
        if let Some(number) = behind {
            self.freeze_where(|table| table.number == number);
        }
    }

    /// Freezes what has to be: too large, too many bytes, or idle. Lets series go that no table holds.
    /// Call it about each second; whether a table waits to be sealed.
    pub fn due(&self) -> bool {
        let now_ms = self.options.clock.now_ms();
        self.freeze_full();
        // A table without samples would only make place for another one of the same content.
        self.freeze_where(|table| {
            let idle_ms = now_ms - table.last_append_ms.load(Ordering::Relaxed);
            idle_ms >= self.options.idle_freeze_ms && table.n_samples() > 0
        });
        self.registry.purge(now_ms);
        self.drop_empty();
        self.retire_waiting();
        !self.tables.load().frozen.is_empty()
    }

    /// Freezes all open tables and waits for the appends in them; the numbers of all that wait to be
    /// sealed.
    pub fn freeze_all(&self) -> Vec<u64> {
        self.freeze_and_wait(|_| true)
    }

    /// Freezes open tables with samples in `[mint, maxt]` that hold series of any of the sets, and waits for the
    /// appends in them; the numbers of all such frozen tables that wait to be sealed.
    ///
    /// For deletions: samples that will be gone are no longer held against what is written later, so
    /// the newest sample of a series may be written again.
    pub fn freeze_overlapping(&self, matcher_sets: &[Vec<Matcher>], mint: i64, maxt: i64) -> Vec<u64> {
        // Looked up before any lock that appends may wait for; what comes after is not to be deleted.
        let mut meant = Vec::new();
        for table in self.all_tables() {
            let overlaps = table.time_range().is_some_and(|(a, b)| a <= maxt && b >= mint);
            if overlaps && table.holds_any(matcher_sets) {
                meant.push(table.number);
            }
        }
        let numbers = self.freeze_and_wait(|table| meant.contains(&table.number));
        self.registry.forget_newest(mint, maxt);
        numbers
    }

    fn freeze_and_wait(&self, mut is_meant: impl FnMut(&Table) -> bool) -> Vec<u64> {
        self.freeze_where(&mut is_meant);
        let tables = self.tables.load_full();
        tables.frozen.iter().for_each(|table| table.gate.wait_drained());
        self.drop_empty();
        let tables = self.tables.load();
        tables.frozen.iter().filter(|table| is_meant(table)).map(|table| table.number).collect()
    }

    /// Forgets frozen tables that no sample reached.
    fn drop_empty(&self) {
        let tables = self.tables.load();
        let is_empty = |table: &Table| table.gate.is_drained() && table.n_samples() == 0;
        let empty: Vec<u64> =
            tables.frozen.iter().filter(|table| is_empty(table)).map(|table| table.number).collect();
        drop(tables);
        for number in empty {
            self.sealed(number);
        }
    }

    /// The table is in blocks: forgets it and deletes its log, once what is not in blocks has moved on.
    /// Queries that hold it go on.
    pub fn sealed(&self, number: u64) {
        let guard = self.structure.lock();
        let mut tables = (*self.tables.load_full()).clone();
        let at = tables.frozen.iter().position(|table| table.number == number);
        let table = at.map(|at| tables.frozen.remove(at));
        self.tables.store(Arc::new(tables));
        drop(guard);
        if let Some(table) = table {
            self.retire(table);
        }
    }

    /// Why appends are refused, if the log has failed.
    pub fn broken(&self) -> Option<String> {
        self.log.broken.get()
    }

    /// Takes appends again after a failure of the log, with new logs.
    ///
    /// # Errors
    /// [`StorageError::Io`] while a table is not sealed: memory holds what no log has.
    pub fn reopen(&self) -> Result<(), StorageError> {
        let guard = self.structure.lock();
        let tables = self.tables.load();
        if tables.open.iter().any(Option::is_some) || !tables.frozen.is_empty() {
            let source = std::io::Error::other("tables are not sealed yet");
            return Err(StorageError::Io {
                operation: "reopen the log in",
                path: self.log.dir.clone(),
                source,
            });
        }
        self.log.broken.clear();
        drop(guard);
        self.retire_waiting();
        Ok(())
    }

    /// Open and frozen tables.
    /// Finds the block order of series that have come since the last call. To be called each second or so.
    pub fn rank_ahead(&self) {
        let tables = self.tables.load();
        if let Some(table) = tables.open.iter().flatten().max_by_key(|table| table.n_series()) {
            rank_ahead(table, &mut self.watched.lock(), &self.ranks);
        }
    }

    pub(super) fn all_tables(&self) -> Vec<Arc<Table>> {
        let tables = self.tables.load();
        tables.frozen.iter().chain(tables.open.iter().flatten()).cloned().collect()
    }

    /// Metadata of all metric families that any table of this process held.
    pub fn metadata(&self) -> Vec<(String, Vec<Metadata>)> {
        let mut all: MetadataMap = self.known_metadata.lock().clone();
        for (name, list) in self.all_tables().iter().flat_map(|table| table.metadata()) {
            list.iter().for_each(|one| {
                add_metadata(&mut all, &name, one);
            });
        }
        all.into_iter().collect()
    }

    /// Samples older than this are refused, if there is a limit.
    pub fn oldest_kept(&self) -> Option<i64> {
        let retention_ms = self.retention_ms.load(Ordering::Relaxed);
        let newest = self.newest.load(Ordering::Relaxed);
        (retention_ms > 0 && newest > i64::MIN).then(|| newest.saturating_sub(retention_ms))
    }

    /// Changes how far back samples are taken, from the newest one stored; 0 sets no limit.
    pub fn set_retention(&self, retention_ms: i64) {
        self.retention_ms.store(retention_ms, Ordering::Relaxed);
    }

    pub(super) fn count(&self, outcome: &AppendOutcome) {
        self.counters.add(outcome);
        if let Some(maxt) = self
            .tables
            .load()
            .open
            .iter()
            .flatten()
            .filter_map(|t| t.time_range())
            .map(|(_, maxt)| maxt)
            .max()
        {
            self.newest.fetch_max(maxt, Ordering::Relaxed);
        }
    }

    /// State and counters.
    pub fn stats(&self) -> TableStats {
        let mut stats = TableStats::default();
        self.counters.fill(&mut stats);
        stats.series_created = self.registry.created.get();
        stats.series_removed = self.registry.removed.get();
        stats.n_series = self.registry.len() as u64;
        stats.registry_bytes = self.registry.size_bytes() as u64;
        stats.tables_frozen = self.n_frozen.get();
        stats.unavailable = self.n_unavailable.get();
        stats.log_bytes_written = self.log.bytes_written.get();
        stats.log_failures = self.log.failures.get();
        stats.sync_durations = self.log.sync_durations.snapshot();
        for table in self.all_tables() {
            stats.n_samples += table.n_samples();
            stats.tables_bytes += table.size_bytes() as u64;
            stats.log_size_bytes += table.log.size_bytes();
            if let Some((mint, maxt)) = table.time_range() {
                stats.mint = Some(stats.mint.map_or(mint, |before| before.min(mint)));
                stats.maxt = Some(stats.maxt.map_or(maxt, |before| before.max(maxt)));
            }
            for shard in &table.shards {
                let shard = shard.read();
                stats.n_exemplars += shard.exemplars().n_exemplars() as u64;
                stats.n_chunks += shard.series().len() as u64;
                stats.n_label_pairs += shard.index().n_pairs() as u64;
            }
        }
        stats
    }
}
