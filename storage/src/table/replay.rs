//! Filling tables from their logs.
//!
//! Tables that were frozen come first. If what has been read takes more than the share of the open tables
//! in the memory budget, it is sealed before the next table is read; so a log of any length fits.
//!
//! One thread reads and decompresses frames; workers, each with its own shards, apply them. What a log
//! lost is named in the report; the rest is taken.

use super::TableSet;
use super::open::{ShardTotals, Table};
use super::registry::LastSample;
use super::set::{CURRENT, LATE, PREVIOUS, Tables};
use super::shard::{TableShard, Value};
use crate::error::{StorageError, error_chain};
use crate::log::frame::{FileHeader, FrameKind, SyncedUpTo};
use crate::log::histogram as histogram_bytes;
use crate::log::reader::{LogReader, Next};
use crate::log::record::{RecordSink, Section, definitions, sections};
use crate::log::writer::{DEFINITIONS_NAME, FROZEN_PREFIX, Resume, TableLog, segment_name};
use chronolith_model::append::Exemplar;
use chronolith_model::histogram::Histogram;
use parking_lot::RwLockWriteGuard;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use xxhash_rust::xxh3::xxh3_64;

/// Frames that wait for a worker: some megabytes.
const FRAMES_IN_FLIGHT: usize = 8;
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

/// Where the series of a shard of the log are in the table: shard and number.
type Targets = Vec<Option<(u32, u32)>>;

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
    restore_last(set, &table);
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
        mut reader: LogReader,
        table: &Table,
        report: &mut ReplayReport,
    ) -> Option<(Vec<Targets>, bool)> {
        let n_shards = self.header.n_shards as usize;
        let mut goes_on = n_shards == table.registry.n_shards();
        let mut targets: Vec<Targets> = vec![Vec::new(); n_shards.min(u16::MAX as usize)];
        let path = self.dir.path.join(DEFINITIONS_NAME);
        self.size_bytes += reader.size_bytes();
        loop {
            match reader.next_frame() {
                Next::Frame(frame, body) if frame.kind == FrameKind::Definitions => {
                    self.counter = self.counter.max(frame.counter);
                    self.synced = self.synced.max(frame.synced);
                    match definitions(&body) {
                        Ok(all) => {
                            for group in all {
                                goes_on &= define(table, &mut targets, &group);
                            }
                        }
                        Err(reason) => {
                            goes_on = false;
                            let mut damage = self.damage_at(&path, &reader, reader.offset(), reason.into());
                            damage.from = damage.from.min(damage.to);
                            report.quarantined.push(damage);
                        }
                    }
                }
                Next::Frame(..) => {}
                Next::End => break,
                Next::Bad(reason) => {
                    let mut damage = self.damage_at(&path, &reader, reader.size_bytes(), reason);
                    // Definitions say their own numbers, so what follows can be used.
                    let mut at = match LogReader::open(&*self.set.log.fs, &path) {
                        Ok(at) => at,
                        Err(error) => {
                            goes_on = false;
                            damage.reason = format!("{}; {}", damage.reason, error_chain(&error));
                            report.quarantined.push(damage);
                            break;
                        }
                    };
                    at.seek(damage.from);
                    let followed_by_frames = reader.skip_to_frame();
                    damage.to = if followed_by_frames { reader.offset() } else { damage.to };
                    goes_on &= !followed_by_frames;
                    self.damage.push(Damage { reader: at, segment: None, damage, followed_by_frames });
                    if !followed_by_frames {
                        break;
                    }
                }
                Next::Unreadable(error) => {
                    let reason = format!("cannot be read: {error}");
                    let damage = self.damage_at(&path, &reader, reader.size_bytes(), reason);
                    tracing::error!(path = %path.display(), reason = damage.reason, "a log cannot be read");
                    report.quarantined.push(damage);
                    return None;
                }
            }
        }
        report.n_series += targets.iter().map(|shard| shard.iter().flatten().count() as u64).sum::<u64>();
        // A hole would be filled by a series of another number.
        goes_on &= targets.iter().enumerate().all(|(shard, all)| {
            let own = |(at, target): (usize, &Option<(u32, u32)>)| *target == Some((shard as u32, at as u32));
            all.iter().enumerate().all(own)
        });
        Some((targets, goes_on))
    }

    /// Reads all segments and has workers apply them; whether all samples had a series.
    fn segments(&mut self, table: &Table, targets: &[Targets], report: &mut ReplayReport) -> bool {
        let n_workers = self.set.options.n_threads().min(targets.len()).max(1);
        let results = std::thread::scope(|scope| {
            let mut senders = Vec::new();
            let mut workers = Vec::new();
            for worker in 0..n_workers {
                let (sender, receiver) = sync_channel(FRAMES_IN_FLIGHT);
                senders.push(sender);
                let own = move |shard: usize| shard % n_workers == worker;
                workers.push(scope.spawn(move || work(table, targets, own, &receiver)));
            }
            for &segment in &self.dir.segments {
                self.segment(segment, report, &mut |body| {
                    for sender in &senders {
                        // A worker ends before its sender only by a panic, which is raised below.
                        let _sent = sender.send((segment, Arc::clone(&body)));
                    }
                });
                self.set.options.progress.current.fetch_add(1, Ordering::Relaxed);
            }
            drop(senders);
            let join = |worker: std::thread::ScopedJoinHandle<'_, WorkerResult>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect::<Vec<_>>()
        });
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

    fn segment(&mut self, segment: u32, report: &mut ReplayReport, send: &mut dyn FnMut(Arc<Vec<u8>>)) {
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
                        send(Arc::new(body));
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

/// Takes in consecutive series; whether each got the number it has in the log.
fn define(table: &Table, targets: &mut [Targets], group: &crate::log::record::Definitions<'_>) -> bool {
    let Some(shard_targets) = targets.get_mut(group.shard as usize) else { return false };
    let mut same = true;
    for (index, labels) in group.series.iter().enumerate() {
        let number = group.first as usize + index;
        // Numbers are dense when they are written; a gap is what a damaged frame took.
        if number > shard_targets.len() + (1 << 24) {
            return false;
        }
        if shard_targets.len() <= number {
            shard_targets.resize(number + 1, None);
        }
        let target = take_in(table, labels);
        same &= target == Some((u32::from(group.shard), number as u32));
        shard_targets[number] = target;
    }
    same
}

fn take_in(table: &Table, labels: &[(&str, &str)]) -> Option<(u32, u32)> {
    let registry = &table.registry;
    let (handle, _) = registry.resolve_pairs(labels.to_vec()).ok()?;
    let (shard_index, slot) = registry.split(handle.slot);
    let mut registry_shard = registry.shards[shard_index].write();
    let mut shard = table.shards[shard_index].write();
    let number = shard.ordinal(slot).unwrap_or_else(|| {
        registry_shard.entry_mut(slot).add_use();
        let before = ShardTotals::of(&shard);
        let texts: Option<std::iter::Empty<(&str, &str)>> = None;
        let number = shard.add_series(slot, registry_shard.labels(slot), texts);
        table.account(before, &shard);
        number
    });
    Some((shard_index as u32, number))
}

#[derive(Default)]
struct WorkerResult {
    n_samples: u64,
    n_undefined: u64,
    damage: Vec<(u32, &'static str)>,
}

/// Applies the sections of a worker's shards.
fn work(
    table: &Table,
    targets: &[Targets],
    own: impl Fn(usize) -> bool,
    frames: &Receiver<(u32, Arc<Vec<u8>>)>,
) -> WorkerResult {
    let mut result = WorkerResult::default();
    let mut shards: Vec<ShardReplay<'_>> = targets.iter().map(|all| ShardReplay::new(table, all)).collect();
    let mut bad_segment = vec![0; targets.len()];
    for (segment, body) in frames {
        let sections = match sections(&body) {
            Ok(sections) => sections,
            Err(reason) => {
                if own(0) {
                    result.damage.push((segment, reason));
                }
                continue;
            }
        };
        for section in sections {
            match section {
                Section::Metadata(entries) if own(0) => {
                    entries.iter().for_each(|(name, metadata)| table.replay_metadata(name, metadata));
                }
                Section::Metadata(_) => {}
                Section::Samples(samples) => {
                    let index = samples.shard as usize;
                    if !own(index) || bad_segment.get(index) == Some(&segment) {
                        continue;
                    }
                    let Some(shard) = shards.get_mut(index) else {
                        result.damage.push((segment, "samples of a shard that is not there"));
                        continue;
                    };
                    shard.begin(segment);
                    if let Err(reason) = samples.replay(shard) {
                        // Differences to what did not decode would be wrong.
                        bad_segment[index] = segment;
                        result.damage.push((segment, reason));
                    }
                    shard.release();
                }
            }
        }
    }
    for shard in shards {
        result.n_samples += shard.n_samples;
        result.n_undefined += shard.n_undefined;
    }
    result
}

/// A shard of the log on its way into the table.
struct ShardReplay<'t> {
    table: &'t Table,
    targets: &'t Targets,
    logged: Vec<u64>,
    segment: u32,
    /// The shard that is locked now, what it held before, and the lock.
    locked: Option<(u32, ShardTotals, RwLockWriteGuard<'t, TableShard>)>,
    n_samples: u64,
    n_undefined: u64,
}

impl<'t> ShardReplay<'t> {
    fn new(table: &'t Table, targets: &'t Targets) -> Self {
        Self { table, targets, logged: Vec::new(), segment: 0, locked: None, n_samples: 0, n_undefined: 0 }
    }

    fn begin(&mut self, segment: u32) {
        if self.segment != segment {
            self.segment = segment;
            self.logged.clear();
            self.logged.resize(self.targets.len(), 0);
        }
    }

    fn shard(&mut self, number: u32) -> Option<(&mut TableShard, u32)> {
        let (shard_index, own_number) = (*self.targets.get(number as usize)?)?;
        if self.locked.as_ref().is_none_or(|(locked, ..)| *locked != shard_index) {
            self.release();
            let guard = self.table.shards[shard_index as usize].write();
            self.locked = Some((shard_index, ShardTotals::of(&guard), guard));
        }
        self.n_samples += 1;
        self.locked.as_mut().map(|(.., guard)| (&mut **guard, own_number))
    }

    fn release(&mut self) {
        if let Some((_, before, guard)) = self.locked.take() {
            self.table.account(before, &guard);
        }
    }
}

impl RecordSink for ShardReplay<'_> {
    fn logged(&mut self, ordinal: u32) -> Option<&mut u64> {
        if self.targets.get(ordinal as usize).copied().flatten().is_none() {
            self.n_undefined += 1;
            return None;
        }
        self.logged.get_mut(ordinal as usize)
    }

    fn float(&mut self, ordinal: u32, timestamp: i64, bits: u64, start_timestamp: i64) {
        if let Some((shard, number)) = self.shard(ordinal) {
            shard.place_float(number, timestamp, bits, start_timestamp);
        }
    }

    fn histogram(&mut self, ordinal: u32, timestamp: i64, start_timestamp: i64, histogram: Histogram) {
        if let Some((shard, number)) = self.shard(ordinal) {
            let mut encoded = Vec::new();
            histogram_bytes::encode(&histogram, &mut encoded);
            shard.place_histogram(number, timestamp, start_timestamp, &encoded);
        }
    }

    fn exemplar(&mut self, ordinal: u32, exemplar: Exemplar) {
        if let Some((shard, number)) = self.shard(ordinal) {
            shard.place_exemplar(number, &exemplar);
        }
    }
}

/// Tells the registry the newest sample of each series.
fn restore_last(set: &TableSet, table: &Table) {
    for (shard_index, shard) in table.shards.iter().enumerate() {
        let mut registry = set.registry.shards[shard_index].write();
        let shard = shard.read();
        for (number, series) in shard.series().iter().enumerate() {
            let Some((timestamp, value)) = shard.last_sample(number as u32) else { continue };
            let entry = registry.entry_mut(series.slot);
            if timestamp <= entry.last().timestamp {
                continue;
            }
            entry.set_last(match value {
                Value::Float(bits) => LastSample { timestamp, bits, is_histogram: false },
                Value::Histogram(bytes) => {
                    LastSample { timestamp, bits: xxh3_64(&bytes), is_histogram: true }
                }
            });
        }
    }
}

/// Puts replayed tables where they belong: open, or frozen in the order they had.
#[derive(Default)]
struct TakeOver {
    /// Those that were not frozen.
    open: Vec<Replayed>,
    /// Start of the newest window among them.
    current_window: Option<i64>,
}

impl TakeOver {
    fn add(&mut self, set: &TableSet, replayed: Replayed, report: &mut ReplayReport) {
        let Replayed { table, header, frozen, .. } = &replayed;
        report.n_tables += u64::from(table.n_samples() > 0);
        if let Some((_, maxt)) = table.time_range() {
            set.newest.fetch_max(maxt, Ordering::Relaxed);
        }
        if let Some(seq) = *frozen {
            table.freeze_as_marked(seq);
            push_frozen(set, [replayed.table]);
            return;
        }
        if header.window_ms == set.options.window_ms {
            self.current_window = self.current_window.max(header.window_start);
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
        let mut tables = Tables { current_window: self.current_window, ..Tables::default() };
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
