//! Writing the log of one table.
//!
//! Shards collect what they apply; whoever comes first writes what all shards hold in one frame. A
//! failed operation marks the whole log as broken, for good: what is in memory is then ahead of the
//! log, so nothing may be acknowledged until it is in blocks.

use super::frame::{self, FileHeader, FrameHeader, FrameKind, SyncedUpTo};
use super::fs::{LogFile, LogFs};
use crate::error::StorageError;
use crate::lock::Mutex;
use crate::metrics::{Counter, DurationRecorder};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// A segment is left for a new one once it is so long. Damage ends with its segment, and each is
/// allocated before it is written, so that a full disk shows before samples are taken.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// So much is written before the system is asked to write it back.
pub const WRITEBACK_BYTES: u64 = 1 << 20;

/// Whether any log of the store has failed, and how.
#[derive(Debug, Default)]
pub struct Broken {
    is_set: AtomicBool,
    reason: Mutex<Option<String>>,
}

impl Broken {
    /// Why nothing can be logged, if so.
    pub fn get(&self) -> Option<String> {
        if self.is_set.load(Ordering::Acquire) { self.reason.lock().clone() } else { None }
    }

    /// Whether nothing can be logged.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Marks the log as broken; the first reason stays.
    pub fn set(&self, reason: String) {
        let mut first = self.reason.lock();
        if first.is_none() {
            tracing::error!(reason, "the log cannot be written; appends are refused until tables are sealed");
            *first = Some(reason);
        }
        self.is_set.store(true, Ordering::Release);
    }

    /// Logs are new and may be written again.
    pub fn clear(&self) {
        let mut reason = self.reason.lock();
        *reason = None;
        self.is_set.store(false, Ordering::Release);
    }
}

/// What all logs of a store share.
pub struct LogContext {
    /// Where files are.
    pub fs: Arc<dyn LogFs>,
    /// Folder of all table directories.
    pub dir: PathBuf,
    /// Set by the first failure.
    pub broken: Broken,
    /// Bytes written to any log.
    pub bytes_written: Counter,
    /// Failed operations.
    pub failures: Counter,
    /// How long syncs took.
    pub sync_durations: DurationRecorder,
    /// Segments are so long.
    pub segment_bytes: u64,
}

impl LogContext {
    /// The folder of a table.
    pub fn table_dir(&self, table: u64) -> PathBuf {
        self.dir.join(format!("{table:016x}"))
    }

    /// Counts and notes a failure.
    fn fail(&self, operation: &'static str, path: &Path, source: io::Error) -> StorageError {
        self.failures.increment();
        let error = StorageError::Io { operation, path: path.to_owned(), source };
        self.broken.set(crate::error::error_chain(&error));
        error
    }
}

/// Name of a segment.
pub fn segment_name(segment: u32) -> String {
    format!("{segment:08}.seg")
}

/// Name of the file of definitions.
pub const DEFINITIONS_NAME: &str = "defs";

/// The log of one table.
pub struct TableLog {
    context: Arc<LogContext>,
    table: u64,
    dir: PathBuf,
    header: FileHeader,
    writer: Mutex<Writer>,
    /// Frame counter up to which everything is synced; the lock is held while syncing.
    synced: Mutex<u64>,
    size_bytes: AtomicU64,
}

/// What the flush lock guards.
struct Writer {
    /// `None` after a replay, until something is written.
    files: Option<Files>,
    segment: u32,
    offset: u64,
    /// Up to where the segment is being written back.
    writeback: u64,
    counter: u64,
    /// Segments that were left and are not synced yet.
    left: Vec<Arc<dyn LogFile>>,
    /// The table is in blocks and its files are gone: nothing is left to write or sync.
    removed: bool,
    /// Whether files were created whose names are not synced yet.
    names_changed: bool,
    synced: SyncedUpTo,
    sections: Vec<u8>,
    new_definitions: Vec<u8>,
    compressed: Vec<u8>,
    frame: Vec<u8>,
}

struct Files {
    definitions: Arc<dyn LogFile>,
    segment: Arc<dyn LogFile>,
}

/// Where a log goes on that was replayed.
#[derive(Clone, Copy, Debug)]
pub struct Resume {
    /// Number of the segment to begin.
    pub segment: u32,
    /// Counter of the last frame.
    pub counter: u64,
    /// Bytes of the log so far.
    pub size_bytes: u64,
}

/// Gives what shards hold to the writer.
pub trait Drain {
    /// Moves definitions and sections of all shards to the buffers. If `last_of_segment`, what shards
    /// collect from then on belongs to the next segment.
    fn drain(&self, last_of_segment: bool, definitions: &mut Vec<u8>, sections: &mut Vec<u8>);
}

impl TableLog {
    /// Creates the directory and files of a table, or goes on with them after a replay: then with a
    /// new segment, which is made when it is needed.
    ///
    /// # Errors
    /// [`StorageError::Io`]; the log is broken then.
    pub fn open(
        context: Arc<LogContext>,
        table: u64,
        header: FileHeader,
        resume: Option<Resume>,
    ) -> Result<Self, StorageError> {
        let dir = context.table_dir(table);
        let Resume { segment, counter, size_bytes } =
            resume.unwrap_or(Resume { segment: 1, counter: 0, size_bytes: 0 });
        let writer = Writer {
            files: None,
            segment,
            offset: 0,
            writeback: 0,
            counter,
            left: Vec::new(),
            removed: false,
            names_changed: true,
            synced: SyncedUpTo::default(),
            sections: Vec::new(),
            new_definitions: Vec::new(),
            compressed: Vec::new(),
            frame: Vec::new(),
        };
        let log = Self {
            context,
            table,
            dir,
            header,
            writer: Mutex::new(writer),
            synced: Mutex::new(counter),
            size_bytes: AtomicU64::new(size_bytes),
        };
        if resume.is_none() {
            log.create_definitions()?;
            log.begin_segment(&mut log.writer.lock())?;
        }
        Ok(log)
    }

    fn create_definitions(&self) -> Result<(), StorageError> {
        let LogContext { fs, bytes_written, .. } = &*self.context;
        let fail = |operation| move |error| self.context.fail(operation, &self.dir, error);
        fs.create_dir(&self.dir).map_err(fail("create"))?;
        let file = fs.create(&self.dir.join(DEFINITIONS_NAME)).map_err(fail("create definitions in"))?;
        let bytes = file_header(self.table, self.header, 0);
        file.append(&bytes).map_err(fail("write definitions in"))?;
        bytes_written.add(bytes.len() as u64);
        Ok(())
    }

    /// Creates the segment that `writer` stands at and opens the definitions if they are not.
    fn begin_segment(&self, writer: &mut Writer) -> Result<(), StorageError> {
        let path = self.dir.join(segment_name(writer.segment));
        let LogContext { fs, bytes_written, segment_bytes, .. } = &*self.context;
        let fail = |operation| move |error| (operation, error);
        let create = || {
            let definitions = match &writer.files {
                Some(files) => Arc::clone(&files.definitions),
                None => {
                    let path = self.dir.join(DEFINITIONS_NAME);
                    fs.open(&path).map_err(fail("open the definitions beside"))?.into()
                }
            };
            let segment = fs.create(&path).map_err(fail("create"))?;
            segment.allocate(*segment_bytes).map_err(fail("allocate"))?;
            let bytes = file_header(self.table, self.header, writer.segment);
            segment.append(&bytes).map_err(fail("write"))?;
            Ok((Files { definitions, segment: segment.into() }, bytes.len() as u64))
        };
        let (files, offset) =
            create().map_err(|(operation, error)| self.context.fail(operation, &path, error))?;
        bytes_written.add(offset);
        self.size_bytes.fetch_add(offset, Ordering::Relaxed);
        (writer.offset, writer.writeback) = (offset, 0);
        writer.names_changed = true;
        if let Some(before) = writer.files.replace(files) {
            writer.left.push(before.segment);
        }
        Ok(())
    }

    /// Writes what shards hold now, or waits until somebody else has written it. Once this returns,
    /// everything that was applied before the call is in the log, and the counter of its last frame is
    /// returned.
    ///
    /// # Errors
    /// [`StorageError::Io`] if it could not be written, now or ever before.
    pub fn flush(&self, drain: &dyn Drain) -> Result<u64, StorageError> {
        let mut guard = self.writer.lock();
        let writer = &mut *guard;
        if writer.removed {
            return Ok(writer.counter);
        }
        if self.context.broken.is_set() {
            return Err(self.broken_error());
        }
        // Deltas of the next segment begin anew, so shards learn of it under their own locks, in the
        // same step in which they give away what belongs to this one.
        let last_of_segment = writer.offset >= self.context.segment_bytes;
        writer.sections.clear();
        writer.new_definitions.clear();
        drain.drain(last_of_segment, &mut writer.new_definitions, &mut writer.sections);
        self.write(writer, FrameKind::Definitions)?;
        self.write(writer, FrameKind::Samples)?;
        if last_of_segment {
            writer.segment += 1;
            self.begin_segment(writer)?;
        }
        Ok(writer.counter)
    }

    fn write(&self, writer: &mut Writer, kind: FrameKind) -> Result<(), StorageError> {
        let is_empty = match kind {
            FrameKind::Definitions => writer.new_definitions.is_empty(),
            _ => writer.sections.is_empty(),
        };
        if is_empty {
            return Ok(());
        }
        if writer.files.is_none() {
            self.begin_segment(writer)?;
        }
        let files = writer.files.as_ref().expect("begun above");
        let (raw, file) = match kind {
            FrameKind::Definitions => (&writer.new_definitions, &files.definitions),
            _ => (&writer.sections, &files.segment),
        };
        if raw.len() > frame::MAX_RAW_BYTES {
            let error = io::Error::new(io::ErrorKind::FileTooLarge, "more than a frame can hold");
            return Err(self.context.fail("write to the log in", &self.dir, error));
        }
        // No memset of the part that is written anyway.
        let bound = snap::raw::max_compress_len(raw.len());
        if writer.compressed.len() < bound {
            writer.compressed.resize(bound, 0);
        }
        let compressed = snap::raw::Encoder::new().compress(raw, &mut writer.compressed);
        let length = compressed.expect("the buffer has the size that snappy asks for");
        writer.counter += 1;
        let header = FrameHeader { kind, table: self.table, counter: writer.counter, synced: writer.synced };
        writer.frame.clear();
        frame::write_frame(header, &writer.compressed[..length], &mut writer.frame);
        let written = file.append(&writer.frame);
        written.map_err(|error| self.context.fail("write to the log in", &self.dir, error))?;
        let n_bytes = writer.frame.len() as u64;
        if kind == FrameKind::Samples {
            writer.offset += n_bytes;
        }
        self.context.bytes_written.add(n_bytes);
        self.size_bytes.fetch_add(n_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Has the system begin to write back what is new, if that is a megabyte: the next sync then finds
    /// little left to do, and appends are not throttled for the dirty pages they leave.
    pub fn start_writeback(&self) {
        let mut guard = self.writer.lock();
        let writer = &mut *guard;
        let size_bytes = writer.offset - writer.writeback;
        let Some(files) = writer.files.as_ref().filter(|_| size_bytes >= WRITEBACK_BYTES && !writer.removed)
        else {
            return;
        };
        let segment = Arc::clone(&files.segment);
        let offset = std::mem::replace(&mut writer.writeback, writer.offset);
        drop(guard);
        segment.start_writeback(offset, size_bytes);
    }

    /// Makes everything written up to the frame `counter` durable; one caller syncs for all that
    /// wait.
    ///
    /// # Errors
    /// [`StorageError::Io`] if it could not be synced, now or ever before.
    pub fn sync_to(&self, counter: u64) -> Result<(), StorageError> {
        let mut synced = self.synced.lock();
        if *synced >= counter {
            return Ok(());
        }
        if self.context.broken.is_set() {
            return Err(self.broken_error());
        }
        let mut writer = self.writer.lock();
        let upto = writer.counter;
        if writer.removed {
            return Ok(());
        }
        let place = SyncedUpTo { segment: writer.segment, offset: writer.offset as u32 };
        let left = std::mem::take(&mut writer.left);
        let names_changed = std::mem::take(&mut writer.names_changed);
        // Definitions first: a frame must not outlive what its series are.
        let (definitions, segment) =
            writer.files.as_ref().map(|files| (files.definitions.clone(), files.segment.clone())).unzip();
        drop(writer);
        let started = Instant::now();
        let fail = |error| self.context.fail("sync the log in", &self.dir, error);
        if names_changed {
            self.context.fs.sync_dir(&self.dir).map_err(fail)?;
            self.context.fs.sync_dir(&self.context.dir).map_err(fail)?;
        }
        for file in definitions.into_iter().chain(left).chain(segment) {
            file.sync().map_err(fail)?;
        }
        self.context.sync_durations.record(started.elapsed());
        *synced = upto;
        self.writer.lock().synced = place;
        Ok(())
    }

    /// Sets where a log goes on, once its replay has told. Nothing has been written yet.
    pub fn set_resume(&self, resume: Resume) {
        let mut writer = self.writer.lock();
        assert!(writer.files.is_none(), "a replayed log is not written before its replay ends");
        (writer.segment, writer.counter) = (resume.segment, resume.counter);
        *self.synced.lock() = resume.counter;
        self.size_bytes.store(resume.size_bytes, Ordering::Relaxed);
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// As [`TableLog::sync_to`].
    pub fn sync(&self) -> Result<(), StorageError> {
        let counter = self.writer.lock().counter;
        self.sync_to(counter)
    }

    /// Writes the mark that the table is frozen, with its place among others. The mark serves the
    /// order after a restart only, so a failure is noted and does no harm.
    pub fn mark_frozen(&self, seq: u64) {
        let path = self.dir.join(format!("{FROZEN_PREFIX}{seq:016x}"));
        if let Err(error) = self.context.fs.create(&path) {
            tracing::warn!(path = %path.display(), %error, "failed to mark a table as frozen");
        }
    }

    /// Deletes the log: the table is in blocks.
    pub fn remove(&self) {
        // Whoever syncs now finishes first.
        let _synced = self.synced.lock();
        self.writer.lock().removed = true;
        if let Err(error) = self.context.fs.remove_dir(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "failed to delete the log of a sealed table");
        }
    }

    /// Bytes of the log.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    fn broken_error(&self) -> StorageError {
        StorageError::Io {
            operation: "write to the log in",
            path: self.dir.clone(),
            source: io::Error::other(self.context.broken.get().unwrap_or_default()),
        }
    }
}

/// Prefix of the empty file that marks a frozen table; 16 hex digits of its place follow.
pub const FROZEN_PREFIX: &str = "frozen-";

fn file_header(table: u64, header: FileHeader, segment: u32) -> Vec<u8> {
    let frame = FrameHeader { kind: FrameKind::FileHeader, table, counter: 0, synced: SyncedUpTo::default() };
    let mut bytes = Vec::new();
    frame::write_frame(frame, &FileHeader { segment, ..header }.encode(), &mut bytes);
    bytes
}
