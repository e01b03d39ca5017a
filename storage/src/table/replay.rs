//! Filling tables from their logs.
//!
//! Tables that were frozen come first. If what has been read takes more than the share of the open tables
//! in the memory budget, it is sealed before the next table is read; so a log of any length fits.
//!
//! One thread reads and decompresses frames; workers, each with its own shards, apply them: [`series`] those of
//! definitions, [`samples`] those of samples. What a log lost is named in the report; the rest is taken.

mod feed;
mod samples;
mod series;

use super::TableSet;
use super::open::Table;
use super::set::{CURRENT, LATE, PREVIOUS, Tables};
use crate::error::{StorageError, error_chain};
use crate::log::frame::{FileHeader, FrameKind, SyncedUpTo};
use crate::log::reader::{LogReader, Next};
use crate::log::writer::{DEFINITIONS_NAME, FROZEN_PREFIX, Resume, TableLog, segment_name};
use feed::{Feed, run_workers};
use series::Targets;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Folder beside the tables' for what could not be read.
const DAMAGED_DIR: &str = "damaged";

/// What a replay found.
#[derive(Debug, Default)]
pub struct ReplayReport {
    /// Tables with samples.
    pub n_tables: u64,
    /// Series defined, counted per table.
    pub n_series: u64,
    /// Samples, histograms and exemplars taken.
    pub n_samples: u64,
    /// Samples whose series is not defined, which happens only where definitions are damaged.
    pub n_undefined: u64,
    /// Ends of files that were never synced and were cut: a request that was being written.
    pub torn: Vec<LogDamage>,
    /// Damage to what was acknowledged and synced; the bytes are kept aside.
    pub quarantined: Vec<LogDamage>,
}

/// A stretch of a file that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDamage {
    /// The file.
    pub path: PathBuf,
    /// First byte dropped.
    pub from: u64,
    /// Behind the last byte dropped.
    pub to: u64,
    /// What is wrong.
    pub reason: String,
    /// The window of the table, ends included; `None` if it holds late samples.
    pub window: Option<(i64, i64)>,
}

/// The files of one table.
struct TableDir {
    number: u64,
    path: PathBuf,
    /// Ascending.
    segments: Vec<u32>,
    frozen: Option<u64>,
}

/// A table after its replay.
struct Replayed {
    table: Arc<Table>,
    header: FileHeader,
    frozen: Option<u64>,
    /// Whether appends may go on in it: series are numbered as in its log.
    goes_on: bool,
}

pub(super) fn replay(
    set: &TableSet,
    covered: &[u64],
    relieve: &mut dyn FnMut(),
) -> Result<ReplayReport, StorageError> {
    let fs = &set.log.fs;
    let dir = &set.log.dir;
    let fail = |operation, source| StorageError::Io { operation, path: dir.clone(), source };
    fs.create_dir(dir).map_err(|error| fail("create", error))?;
    let mut report = ReplayReport::default();
    let mut dirs = Vec::new();
    let mut greatest = covered.iter().copied().max().unwrap_or(0);
    let mut n_covered = 0;
    for name in fs.list(dir).map_err(|error| fail("list", error))? {
        let Some(number) = hex_number(&name) else { continue };
        greatest = greatest.max(number);
        let path = dir.join(&name);
        if covered.contains(&number) {
            fs.remove_dir(&path).map_err(|error| fail("delete the log of a sealed table in", error))?;
            n_covered += 1;
            continue;
        }
        let names = fs.list(&path).map_err(|error| fail("list a table in", error))?;
        let table_dir = TableDir::new(number, path, &names);
        greatest = greatest.max(table_dir.frozen.unwrap_or(0));
        dirs.push(table_dir);
    }
    if n_covered > 0 {
        tracing::info!(n_covered, "deleted logs of tables that are in blocks");
    }
    set.next_number.fetch_max(greatest + 1, Ordering::AcqRel);
    // Frozen ones first, by their places: if memory is short, they can go before others are read.
    dirs.sort_unstable_by_key(|table_dir| (table_dir.frozen.unwrap_or(u64::MAX), table_dir.number));
    let n_segments: usize = dirs.iter().map(|table_dir| table_dir.segments.len()).sum();
    let progress = &set.options.progress;
    progress.max.store(n_segments as u64, Ordering::Relaxed);
    let mut take_over = TakeOver::default();
    for table_dir in &dirs {
        match replay_table(set, table_dir, &mut report) {
            Ok(Some(table)) => {
                take_over.add(set, table, &mut report);
                take_over.make_room(set, relieve);
            }
            Ok(None) => {}
            Err(error) => {
                let reason = error_chain(&error);
                tracing::error!(table = table_dir.number, reason, "a table's log cannot be replayed");
                let path = table_dir.path.clone();
                report.quarantined.push(LogDamage { path, from: 0, to: 0, reason, window: None });
            }
        }
    }
    take_over.finish(set);
    tracing::info!(
        tables = report.n_tables,
        series = report.n_series,
        samples = report.n_samples,
        torn = report.torn.len(),
        quarantined = report.quarantined.len(),
        "log replayed"
    );
    Ok(report)
}

fn hex_number(name: &str) -> Option<u64> {
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok())?
}

impl TableDir {
    fn new(number: u64, path: PathBuf, names: &[String]) -> Self {
        let segment = |name: &String| name.strip_suffix(".seg")?.parse().ok();
        let mut segments: Vec<u32> = names.iter().filter_map(segment).collect();
        segments.sort_unstable();
        let frozen = names.iter().find_map(|name| hex_number(name.strip_prefix(FROZEN_PREFIX)?));
        Self { number, path, segments, frozen }
    }
}

fn replay_table(
    set: &TableSet,
    dir: &TableDir,
    report: &mut ReplayReport,
) -> Result<Option<Replayed>, StorageError> {
    let Some(header) = read_header(set, dir)? else {
        // The process ended while the table was created: nothing was ever acknowledged in it.
        if let Err(error) = set.log.fs.remove_dir(&dir.path) {
            tracing::warn!(path = %dir.path.display(), %error, "failed to delete an empty log");
        }
        return Ok(None);
    };
    let path = dir.path.join(DEFINITIONS_NAME);
    let definitions = match LogReader::open(&*set.log.fs, &path) {
        Ok(reader) => reader,
        Err(error) => {
            // Without definitions no sample has a series. The folder stays as it is: the file may be
            // readable at the next start, or be restored.
            let reason = error_chain(&error);
            tracing::error!(table = dir.number, reason, "the definitions of a log cannot be opened");
            report.quarantined.push(LogDamage { path, from: 0, to: 0, reason, window: window_of(header) });
            return Ok(None);
        }
    };
    // The log goes on in a new segment, whatever became of the others.
    let resume =
        Resume { segment: dir.segments.last().map_or(1, |last| last + 1), counter: 0, size_bytes: 0 };
    let log = TableLog::open(Arc::clone(&set.log), dir.number, header, Some(resume))?;
    let table = Table::new(
        dir.number,
        header.window_start,
        Arc::clone(&set.registry),
        log,
        Arc::clone(&set.options.clock),
        set.options.max_exemplars,
    );
    let mut reading = Reading {
        set,
        dir,
        header,
        damage: Vec::new(),
        synced: SyncedUpTo::default(),
        counter: 0,
        size_bytes: 0,
    };
    // Nor is the table replayed if they end with an error of the system.
    let Some((targets, goes_on)) = reading.definitions(definitions, &table, report) else { return Ok(None) };
    // A series that the log no longer defines has used up its number all the same: a new one of that
    // number would inherit its samples at the next replay.
    let goes_on = goes_on & reading.segments(&table, &targets, report);
    reading.settle(report);
    table.log.set_resume(Resume { counter: reading.counter, size_bytes: reading.size_bytes, ..resume });
    samples::restore_last(set, &table);
    Ok(Some(Replayed { table: Arc::new(table), header, frozen: dir.frozen, goes_on }))
}

/// The header of the first file that has one; `None` if no file holds anything.
fn read_header(set: &TableSet, dir: &TableDir) -> Result<Option<FileHeader>, StorageError> {
    let mut result = Ok(None);
    let names = [DEFINITIONS_NAME.to_owned()].into_iter();
    for name in names.chain(dir.segments.iter().copied().map(segment_name)) {
        let mut reader = match LogReader::open(&*set.log.fs, &dir.path.join(name)) {
            Ok(reader) => reader,
            Err(error) => {
                if !is_absent(&error) {
                    result = Err(error);
                }
                continue;
            }
        };
        match reader.read_file_header() {
            Ok((table, header)) if table == dir.number && header.window_ms > 0 => return Ok(Some(header)),
            Ok(_) => {
                let path = dir.path.display().to_string();
                result = Err(StorageError::corrupt(path, "a file of another table"));
            }
            // A header that was cut short is all the file ever held.
            Err(error)
                if matches!(error, StorageError::Io { .. })
                    || reader.size_bytes() > crate::log::frame::HEADER_BYTES as u64 * 2 =>
            {
                result = Err(error);
            }
            Err(_) => {}
        }
    }
    result
}

/// The window of a table, ends included; `None` if it holds late samples.
fn window_of(header: FileHeader) -> Option<(i64, i64)> {
    header.window_start.map(|start| (start, start.saturating_add(header.window_ms - 1)))
}

/// Whether a file is not there, rather than not readable.
fn is_absent(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// What reading the files of a table has found so far.
struct Reading<'r> {
    set: &'r TableSet,
    dir: &'r TableDir,
    header: FileHeader,
    damage: Vec<Damage>,
    synced: SyncedUpTo,
    counter: u64,
    size_bytes: u64,
}

/// A bad place; whether it is torn shows when all files are read.
struct Damage {
    reader: LogReader,
    /// `None` in the file of definitions.
    segment: Option<u32>,
    damage: LogDamage,
    followed_by_frames: bool,
}

impl Reading<'_> {
    fn window(&self) -> Option<(i64, i64)> {
        window_of(self.header)
    }

    fn damage_at(&self, path: &Path, reader: &LogReader, to: u64, reason: String) -> LogDamage {
        LogDamage { path: path.to_owned(), from: reader.offset(), to, reason, window: self.window() }
    }

    /// Takes in the series of the table; whether they have the numbers of the log. `None` if the system
    /// cannot read them, which the report says.
    fn definitions(
        &mut self,
        reader: LogReader,
        table: &Table,
        report: &mut ReplayReport,
    ) -> Option<(Vec<Targets>, bool)> {
        let n_shards = self.header.n_shards as usize;
        let path = self.dir.path.join(DEFINITIONS_NAME);
        self.size_bytes += reader.size_bytes();
        let n_workers = self.n_workers(n_shards);
        let (is_whole, defined) = run_workers(
            n_workers,
            |worker, frames| series::work(table, n_shards, worker, n_workers, frames),
            |feed| self.read_definitions(reader, &path, report, feed),
        );
        let mut goes_on = is_whole? && n_shards == table.registry.n_shards();
        let mut targets: Vec<Targets> = Vec::new();
        targets.resize_with(n_shards.min(u16::MAX as usize), Targets::default);
        for (worker, defined) in defined.into_iter().enumerate() {
            goes_on &= defined.is_same && defined.damage.is_empty();
            for (shard, own) in defined.targets.into_iter().enumerate() {
                if shard % n_workers == worker {
                    targets[shard] = own;
                }
            }
            for (offset, reason) in defined.damage {
                let (path, reason, window) = (path.clone(), reason.to_owned(), self.window());
                let damage = LogDamage { path, from: offset, to: offset, reason, window };
                if !report.quarantined.contains(&damage) {
                    report.quarantined.push(damage);
                }
            }
        }
        report.n_series += targets.iter().map(Targets::n_series).sum::<u64>();
        // A hole would be filled by a series of another number.
        goes_on &= targets.iter_mut().enumerate().all(|(shard, all)| all.settle(shard as u32));
        Some((targets, goes_on))
    }

    fn n_workers(&self, n_shards: usize) -> usize {
        self.set.options.n_threads().min(n_shards).max(1)
    }

    /// Feeds all frames of definitions; whether there were all of them. `None` if the system cannot read them.
    fn read_definitions(
        &mut self,
        mut reader: LogReader,
        path: &Path,
        report: &mut ReplayReport,
        feed: &mut Feed,
    ) -> Option<bool> {
        let mut is_whole = true;
        loop {
            match reader.next_frame() {
                Next::Frame(frame, body) if frame.kind == FrameKind::Definitions => {
                    self.counter = self.counter.max(frame.counter);
                    self.synced = self.synced.max(frame.synced);
                    feed.push(reader.offset(), body);
                }
                Next::Frame(..) => {}
                Next::End => return Some(is_whole),
                Next::Bad(reason) => {
                    let mut damage = self.damage_at(path, &reader, reader.size_bytes(), reason);
                    // Definitions say their own numbers, so what follows can be used.
                    let mut at = match LogReader::open(&*self.set.log.fs, path) {
                        Ok(at) => at,
                        Err(error) => {
                            damage.reason = format!("{}; {}", damage.reason, error_chain(&error));
                            report.quarantined.push(damage);
                            return Some(false);
                        }
                    };
                    at.seek(damage.from);
                    let followed_by_frames = reader.skip_to_frame();
                    damage.to = if followed_by_frames { reader.offset() } else { damage.to };
                    is_whole &= !followed_by_frames;
                    self.damage.push(Damage { reader: at, segment: None, damage, followed_by_frames });
                    if !followed_by_frames {
                        return Some(is_whole);
                    }
                }
                Next::Unreadable(error) => {
                    let reason = format!("cannot be read: {error}");
                    let damage = self.damage_at(path, &reader, reader.size_bytes(), reason);
                    tracing::error!(path = %path.display(), reason = damage.reason, "a log cannot be read");
                    report.quarantined.push(damage);
                    return None;
                }
            }
        }
    }

    /// Reads all segments and has workers apply them; whether all samples had a series.
    fn segments(&mut self, table: &Table, targets: &[Targets], report: &mut ReplayReport) -> bool {
        let n_workers = self.n_workers(targets.len());
        let base = self.header.window_start;
        let ((), results) = run_workers(
            n_workers,
            |worker, frames| samples::work(table, targets, base, |shard| shard % n_workers == worker, frames),
            |feed| {
                for &segment in &self.dir.segments {
                    self.segment(segment, report, feed);
                    self.set.options.progress.current.fetch_add(1, Ordering::Relaxed);
                }
            },
        );
        let mut all_defined = true;
        for result in results {
            all_defined &= result.n_undefined == 0 && result.damage.is_empty();
            report.n_samples += result.n_samples;
            report.n_undefined += result.n_undefined;
            for (segment, reason) in result.damage {
                let path = self.dir.path.join(segment_name(segment));
                let window = self.window();
                let reason = reason.to_owned();
                report.quarantined.push(LogDamage { path, from: 0, to: 0, reason, window });
            }
        }
        all_defined
    }

    fn segment(&mut self, segment: u32, report: &mut ReplayReport, feed: &mut Feed) {
        let path = self.dir.path.join(segment_name(segment));
        let mut reader = match LogReader::open(&*self.set.log.fs, &path) {
            Ok(reader) => reader,
            Err(error) => {
                let damage =
                    LogDamage { path, from: 0, to: 0, reason: error_chain(&error), window: self.window() };
                self.put_aside(damage, report);
                return;
            }
        };
        self.size_bytes += reader.size_bytes();
        loop {
            match reader.next_frame() {
                Next::Frame(frame, body) if frame.table == self.dir.number => {
                    self.synced = self.synced.max(frame.synced);
                    self.counter = self.counter.max(frame.counter);
                    if frame.kind == FrameKind::Samples {
                        feed.push(u64::from(segment), body);
                    }
                }
                Next::Frame(..) => {
                    // Left over from a file that had this space before.
                    tracing::warn!(path = %path.display(), "a frame of another table ends the segment");
                    return;
                }
                Next::End => return,
                Next::Bad(reason) => {
                    let damage = self.damage_at(&path, &reader, reader.size_bytes(), reason);
                    let followed_by_frames =
                        LogReader::open(&*self.set.log.fs, &path).is_ok_and(|mut ahead| {
                            ahead.seek(damage.from);
                            ahead.skip_to_frame()
                        });
                    self.damage.push(Damage { reader, segment: Some(segment), damage, followed_by_frames });
                    return;
                }
                Next::Unreadable(error) => {
                    // Not a torn end: what was acknowledged may stand there, and is never cut off.
                    let reason = format!("cannot be read: {error}");
                    let damage = self.damage_at(&path, &reader, reader.size_bytes(), reason);
                    self.put_aside(damage, report);
                    return;
                }
            }
        }
    }

    /// Names a file that cannot be read, and links it to where it outlives the log of its table. What
    /// was read of it is still needed where it is.
    fn put_aside(&self, damage: LogDamage, report: &mut ReplayReport) {
        let LogDamage { path, from, .. } = &damage;
        tracing::error!(path = %path.display(), from, reason = damage.reason, "a segment of the log is unreadable");
        let fs = &self.set.log.fs;
        let folder = self.set.log.dir.join(DAMAGED_DIR);
        let target = folder.join(self.name_aside(&damage));
        match fs.create_dir(&folder).and_then(|()| fs.link(path, &target)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                tracing::warn!(path = %target.display(), %error, "failed to keep a damaged file aside");
            }
            _ => {}
        }
        report.quarantined.push(damage);
    }

    fn name_aside(&self, damage: &LogDamage) -> String {
        let file = damage.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{:016x}-{file}-{}", self.dir.number, damage.from)
    }

    /// Tells torn ends from damage, cuts the former and keeps the bytes of the latter aside.
    fn settle(&mut self, report: &mut ReplayReport) {
        for Damage { mut reader, segment, damage, followed_by_frames } in std::mem::take(&mut self.damage) {
            let was_synced = segment.is_some_and(|segment| {
                let offset = u32::try_from(damage.from).unwrap_or(u32::MAX);
                SyncedUpTo { segment, offset } < self.synced
            });
            let may_be_torn = !followed_by_frames || segment.is_some();
            if may_be_torn && !was_synced {
                tracing::warn!(
                    path = %damage.path.display(),
                    from = damage.from,
                    to = damage.to,
                    reason = damage.reason,
                    "torn end of the log cut"
                );
                if followed_by_frames {
                    self.keep_aside(&mut reader, &damage);
                }
                if let Err(error) = reader.cut() {
                    tracing::warn!(path = %damage.path.display(), %error, "failed to cut the log");
                }
                report.torn.push(damage);
                continue;
            }
            tracing::error!(
                path = %damage.path.display(),
                from = damage.from,
                to = damage.to,
                reason = damage.reason,
                "the log is damaged; the rest of the segment is dropped"
            );
            self.keep_aside(&mut reader, &damage);
            report.quarantined.push(damage);
        }
    }

    fn keep_aside(&self, reader: &mut LogReader, damage: &LogDamage) {
        let folder = self.set.log.dir.join(DAMAGED_DIR);
        let target = folder.join(self.name_aside(damage));
        let fs = &self.set.log.fs;
        let result = fs.create_dir(&folder).and_then(|()| {
            let bytes = reader.rest()?;
            fs.create(&target)?.append(&bytes)
        });
        match result {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                tracing::warn!(path = %target.display(), %error, "failed to keep damaged bytes aside");
            }
            _ => {}
        }
    }
}

/// Puts replayed tables where they belong: open, or frozen in the order they had.
#[derive(Default)]
struct TakeOver {
    /// Those that were not frozen.
    open: Vec<Replayed>,
    /// Start of the newest window among all tables that were found.
    current_window: Option<i64>,
}

impl TakeOver {
    fn add(&mut self, set: &TableSet, replayed: Replayed, report: &mut ReplayReport) {
        let Replayed { table, header, frozen, .. } = &replayed;
        report.n_tables += u64::from(table.n_samples() > 0);
        if let Some((_, maxt)) = table.time_range() {
            set.newest.fetch_max(maxt, Ordering::Relaxed);
        }
        if header.window_ms == set.options.window_ms {
            self.current_window = self.current_window.max(header.window_start);
        }
        if let Some(seq) = *frozen {
            table.freeze_as_marked(seq);
            push_frozen(set, [replayed.table]);
            return;
        }
        self.open.push(replayed);
    }

    /// While tables take more than their share of memory: has frozen ones sealed, then freezes the others
    /// and has them sealed too. So there is never more in memory than that share and one table.
    fn make_room(&mut self, set: &TableSet, relieve: &mut dyn FnMut()) {
        let open_bytes = |open: &[Replayed]| open.iter().map(|one| one.table.size_bytes()).sum::<usize>();
        let frozen_bytes = || set.all_tables().iter().map(|table| table.size_bytes()).sum::<usize>();
        let limit = set.options.tables_bytes();
        if open_bytes(&self.open) + frozen_bytes() <= limit {
            return;
        }
        relieve();
        if open_bytes(&self.open) + frozen_bytes() <= limit {
            return;
        }
        freeze(set, self.open.drain(..).map(|one| one.table).collect());
        relieve();
    }

    fn finish(self, set: &TableSet) {
        let window_ms = set.options.window_ms;
        // Windows never go back, or what the table of late samples holds would be taken once more into another
        // one. The newest may be in blocks only.
        let newest = set.newest.load(Ordering::Relaxed);
        let newest = (newest != i64::MIN).then(|| set.options.window_start(newest));
        let current_window = self.current_window.max(newest);
        let mut tables = Tables { current_window, ..Tables::default() };
        let mut to_freeze = Vec::new();
        for Replayed { table, header, goes_on, .. } in self.open {
            let role = match header.window_start {
                None => Some(LATE),
                start if start == tables.current_window => Some(CURRENT),
                Some(start) if Some(start + window_ms) == tables.current_window => Some(PREVIOUS),
                Some(_) => None,
            };
            let role = role.filter(|_| goes_on && header.window_ms == window_ms);
            // Two open tables of one window cannot be, but the newer one would be right.
            let before = match role {
                Some(role) => tables.open[role].replace(table),
                None => Some(table),
            };
            to_freeze.extend(before);
        }
        tables.frozen.clone_from(&set.tables.load().frozen);
        set.tables.store(Arc::new(tables));
        freeze(set, to_freeze);
    }
}

/// Freezes replayed tables that were open, in the order of their numbers, late samples last.
fn freeze(set: &TableSet, mut tables: Vec<Arc<Table>>) {
    tables.sort_by_key(|table| (table.window.is_none(), table.number));
    for table in &tables {
        table.freeze(set.take_number());
    }
    push_frozen(set, tables);
}

fn push_frozen(set: &TableSet, frozen: impl IntoIterator<Item = Arc<Table>>) {
    let _guard = set.structure.lock();
    let mut tables = (*set.tables.load_full()).clone();
    tables.frozen.extend(frozen);
    tables.frozen.sort_by_key(|table| table.seq());
    set.tables.store(Arc::new(tables));
}
