//! RocksDB, reduced to four calls: ingest blocks, drop a block, read, checkpoint.
//!
//! RocksDB receives finished SST files and nothing else: never a write of a record, never a range
//! tombstone, never a snapshot, no automatic compaction, one (the default) column family. Each of the
//! others was found to lose data, to wedge on a full disk or to rewrite files; a test at the foot of
//! this file keeps them out. Nothing outside of this folder calls RocksDB.

use super::keys::{BlockId, Kind, split};
use super::staged::StagedBlock;
use super::{KvRead, Visit};
use crate::error::StorageError;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, ErrorKind,
    IngestExternalFileOptions, Options, ReadOptions,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The MANIFEST is preallocated in steps of this size, so that a full disk can still commit ingests.
const MANIFEST_PREALLOCATION_BYTES: usize = 16 << 20;

/// Files that are opened before they are read: each takes some kilobytes of memory.
const MAX_OPENED_AHEAD: usize = 2_048;

/// How long a reopening waits for reads that are under way.
const REOPEN_WAIT: Duration = Duration::from_secs(2);

/// Keys up to this many bytes behind the block id belong to the block.
const LAST_KEY_TAIL: [u8; 16] = [0xff; 16];

/// The RocksDB database of a data directory.
pub struct Store {
    path: PathBuf,
    cache: Cache,
    /// `None` while it is being reopened, or after a reopening failed.
    database: ArcSwapOption<Database>,
    reopening: Mutex<()>,
    /// How often all files were listed to drop blocks.
    n_listings: AtomicU64,
}

struct Database {
    rocks: DB,
    cached: ReadOptions,
    uncached: ReadOptions,
}

impl Drop for Database {
    fn drop(&mut self) {
        self.rocks.cancel_all_background_work(true);
    }
}

/// One SST file of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveFile {
    /// Its path.
    pub path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// Its level; ingested files are at the last one.
    pub level: i32,
    /// First key.
    pub first_key: Vec<u8>,
    /// Last key.
    pub last_key: Vec<u8>,
    /// Records in it.
    pub n_records: u64,
}

/// How thorough RocksDB is when it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Any damage that it sees keeps it from opening.
    Strict,
    /// Damaged or missing SST files do not keep it from opening; reading them fails.
    Tolerant,
}

/// Why RocksDB did not open, as far as it matters for what is tried next.
#[derive(Debug)]
pub enum OpenFailure {
    /// Stored bytes are damaged or missing.
    Damaged(String),
    /// The disk is full.
    DiskFull(String),
    /// Something else, which repairing would not cure (permissions, too many open files).
    Other(StorageError),
}

impl Store {
    /// Opens the database at `path`, creating it if it is not there.
    ///
    /// # Errors
    /// [`OpenFailure`] tells what to try next.
    pub fn open(path: &Path, cache_bytes: usize, strictness: Strictness) -> Result<Self, OpenFailure> {
        let cache = Cache::new_lru_cache(cache_bytes);
        let database = open_database(path, &cache, strictness).map_err(|error| classify(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            cache,
            database: ArcSwapOption::from_pointee(database),
            reopening: Mutex::new(()),
            n_listings: AtomicU64::new(0),
        })
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that the block cache holds.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }

    /// Commits blocks: all their files become visible and durable at once, or none does. The files
    /// are gone from the staging directory afterwards, also if it failed. Gives the bytes of each block.
    ///
    /// # Errors
    /// [`StorageError::Kv`] if a file cannot be finished or RocksDB refuses them; nothing is visible
    /// then.
    pub fn ingest_blocks(&self, blocks: Vec<StagedBlock>) -> Result<Vec<u64>, StorageError> {
        let names = blocks.iter().map(|block| block.id().to_string()).collect::<Vec<_>>().join(", ");
        let operation = || format!("ingest block {names}");
        let mut paths = Vec::new();
        // Held until the end: dropping a staged block removes what is left of its files.
        let mut blocks = blocks;
        for block in &mut blocks {
            paths.extend(block.finish()?);
        }
        let sizes = blocks.iter().map(StagedBlock::size_bytes).collect();
        if paths.is_empty() {
            return Ok(sizes);
        }
        self.with(|database| {
            database
                .rocks
                .ingest_external_file_opts(&ingest_options(), paths)
                .map_err(|error| kv_error(operation(), &error))
        })?;
        Ok(sizes)
    }

    /// Links finished SST files of another database in, one by one, and tells which were refused.
    /// For rebuilding a store whose manifest is damaged.
    ///
    /// # Errors
    /// [`StorageError`] if the database is not open.
    pub fn adopt_files(&self, files: &[PathBuf]) -> Result<Vec<(PathBuf, String)>, StorageError> {
        self.with(|database| {
            let mut refused = Vec::new();
            for file in files {
                let result = database.rocks.ingest_external_file_opts(&ingest_options(), vec![file]);
                if let Err(error) = result {
                    refused.push((file.clone(), error.into_string()));
                }
            }
            Ok(refused)
        })
    }

    /// Removes all files of a block, see [`Store::drop_blocks`].
    ///
    /// # Errors
    /// As [`Store::drop_blocks`].
    pub fn drop_block(&self, id: BlockId) -> Result<(), StorageError> {
        self.drop_blocks(&[id])
    }

    /// Removes all files of blocks. The caller makes sure that nobody reads them any more. The files of
    /// the store are listed once, and blocks between which there is no other one go in one edit of the
    /// manifest; so dropping many at once is much cheaper than one by one.
    ///
    /// # Errors
    /// [`StorageError::Kv`] if RocksDB fails or files of the blocks remain; some may be gone then.
    /// Calling again is safe.
    pub fn drop_blocks(&self, ids: &[BlockId]) -> Result<(), StorageError> {
        let ids: BTreeSet<BlockId> = ids.iter().copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.with(|database| {
            let files = live_files(database, &self.path)?;
            self.n_listings.fetch_add(1, Ordering::Relaxed);
            let is_dropped = |key: &[u8]| split(key).is_some_and(|(id, _, _)| ids.contains(&id));
            let kept = files.iter().flat_map(|file| [&file.first_key, &file.last_key]);
            let kept: BTreeSet<&[u8]> = kept.map(Vec::as_slice).filter(|key| !is_dropped(key)).collect();
            for range in ranges(&ids, &kept) {
                drop_range(database, range)?;
            }
            let mut dropped: Vec<LiveFile> = files
                .into_iter()
                .filter(|file| is_dropped(&file.first_key) && is_dropped(&file.last_key))
                .collect();
            unlink_header_first(&mut dropped);
            Ok(())
        })
    }

    /// A consistent copy of the database by hard links.
    ///
    /// # Errors
    /// [`StorageError::Kv`] if `into` exists or cannot be written.
    pub fn checkpoint(&self, into: &Path) -> Result<(), StorageError> {
        let operation = || format!("write checkpoint {}", into.display());
        self.with(|database| {
            let checkpoint =
                Checkpoint::new(&database.rocks).map_err(|error| kv_error(operation(), &error))?;
            checkpoint.create_checkpoint(into).map_err(|error| kv_error(operation(), &error))
        })
    }

    /// All SST files by first key.
    ///
    /// # Errors
    /// [`StorageError::Kv`] if the database is not open.
    pub fn live_files(&self) -> Result<Vec<LiveFile>, StorageError> {
        self.with(|database| live_files(database, &self.path))
    }

    /// The files of each block; files that hold no key of ours are under `None`.
    ///
    /// # Errors
    /// As [`Store::live_files`].
    pub fn blocks(&self) -> Result<BTreeMap<Option<BlockId>, Vec<LiveFile>>, StorageError> {
        let mut blocks: BTreeMap<Option<BlockId>, Vec<LiveFile>> = BTreeMap::new();
        for file in self.live_files()? {
            let first = split(&file.first_key).map(|(id, _, _)| id);
            let last = split(&file.last_key).map(|(id, _, _)| id);
            blocks.entry(first.filter(|_| first == last)).or_default().push(file);
        }
        Ok(blocks)
    }

    /// Has RocksDB open files that nobody has read yet, those of the newest blocks first, while `go_on` says so.
    /// Where the process may not have all files open it opens them when they are read, and a query after a start
    /// would wait for each. What cannot be read shows when it is wanted.
    pub fn open_files(&self, go_on: &dyn Fn() -> bool) {
        let mut files = self.live_files().unwrap_or_default();
        files.retain(|file| split(&file.first_key).is_some_and(|(_, kind, _)| kind != Kind::Header));
        for file in files.iter().rev().take(MAX_OPENED_AHEAD) {
            if !go_on() {
                return;
            }
            let opened = self.with(|database| {
                let value = database.rocks.get_pinned_opt(&file.first_key, &database.uncached);
                value.map(|_| ()).map_err(|error| read_error(&file.first_key, &error))
            });
            if let Err(error) = opened {
                tracing::debug!(file = %file.path.display(), %error, "cannot read a file ahead");
            }
        }
    }

    /// Closes RocksDB and opens it again: the cure after an error that it does not recover from by
    /// itself. Reads that come meanwhile wait.
    ///
    /// # Errors
    /// [`StorageError`] if reads do not end in time (the old one stays in use) or it cannot be opened
    /// (every call fails until a later reopening succeeds).
    pub fn reopen(&self) -> Result<(), StorageError> {
        let operation = || format!("reopen {}", self.path.display());
        let _reopening = self.reopening.lock();
        if let Some(database) = self.database.swap(None) {
            let deadline = Instant::now() + REOPEN_WAIT;
            while Arc::strong_count(&database) > 1 {
                if Instant::now() > deadline {
                    self.database.store(Some(database));
                    return Err(StorageError::Kv {
                        operation: operation(),
                        reason: "reads do not end".into(),
                    });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let database = open_database(&self.path, &self.cache, Strictness::Tolerant)
            .map_err(|error| kv_error(operation(), &error))?;
        self.database.store(Some(Arc::new(database)));
        Ok(())
    }

    fn with<R>(&self, run: impl FnOnce(&Database) -> Result<R, StorageError>) -> Result<R, StorageError> {
        let database = self.database.load();
        if let Some(database) = database.as_ref() {
            return run(database);
        }
        drop(self.reopening.lock());
        let database = self.database.load();
        match database.as_ref() {
            Some(database) => run(database),
            None => Err(StorageError::Kv {
                operation: format!("use {}", self.path.display()),
                reason: "it could not be reopened".into(),
            }),
        }
    }
}

/// Reads of one block. While any of them exists the block's files stay: see [`super::pins`].
#[derive(Clone)]
pub struct StoreRead {
    store: Arc<Store>,
    fill_cache: bool,
    _pin: Arc<super::pins::BlockPin>,
}

impl StoreRead {
    /// Reads that pin a block. `fill_cache` is false for readers of whole blocks, which would push
    /// everything else out of the cache.
    pub fn new(store: Arc<Store>, pin: Arc<super::pins::BlockPin>, fill_cache: bool) -> Self {
        Self { store, fill_cache, _pin: pin }
    }

    fn options<'d>(&self, database: &'d Database) -> &'d ReadOptions {
        if self.fill_cache { &database.cached } else { &database.uncached }
    }
}

impl KvRead for StoreRead {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.store.with(|database| {
            let value = database.rocks.get_opt(key, self.options(database));
            value.map_err(|error| read_error(key, &error))
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        self.store.with(|database| {
            let mut options = read_options(self.fill_cache);
            options.set_iterate_upper_bound(to);
            let mut iterator = database.rocks.raw_iterator_opt(options);
            iterator.seek(from);
            while let Some((key, value)) = iterator.item() {
                if visit(key, value).is_break() {
                    return Ok(());
                }
                iterator.next();
            }
            iterator.status().map_err(|error| read_error(from, &error))
        })
    }

    fn last_at_or_before(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, StorageError> {
        self.store.with(|database| {
            let mut options = read_options(self.fill_cache);
            options.set_iterate_lower_bound(from);
            let mut iterator = database.rocks.raw_iterator_opt(options);
            iterator.seek_for_prev(to);
            match iterator.item() {
                Some((key, value)) => Ok(Some((key.to_vec(), value.to_vec()))),
                None => iterator.status().map(|()| None).map_err(|error| read_error(to, &error)),
            }
        })
    }
}

/// Removes the names of dropped blocks' files. RocksDB removes them as well, but only once no thread
/// holds an older version; after a kill they would come back as files that the manifest lacks. Without
/// its header (headers go first) what is left of a block is known to be nothing.
fn unlink_header_first(files: &mut [LiveFile]) {
    let is_rest = |file: &LiveFile| split(&file.first_key).is_none_or(|(_, kind, _)| kind != Kind::Header);
    files.sort_by_cached_key(|file| (is_rest(file), file.first_key.clone()));
    for file in files {
        if let Err(error) = std::fs::remove_file(&file.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.path.display(), %error, "cannot remove a file of a dropped block");
        }
    }
}

/// Ranges of keys, both ends included, that hold all keys of these blocks and none that is kept.
fn ranges(ids: &BTreeSet<BlockId>, kept: &BTreeSet<&[u8]>) -> Vec<(BlockId, BlockId)> {
    let mut ranges: Vec<(BlockId, BlockId)> = Vec::new();
    for &id in ids {
        let follows = |last: &BlockId| {
            let (from, to) = (last.0.to_be_bytes(), id.0.to_be_bytes());
            kept.range::<[u8], _>((Bound::Included(&from[..]), Bound::Included(&to[..]))).next().is_none()
        };
        match ranges.last_mut().filter(|(_, last)| follows(last)) {
            Some((_, last)) => *last = id,
            None => ranges.push((id, id)),
        }
    }
    ranges
}

/// Drops all files of a range of blocks and makes sure that none remains.
fn drop_range(database: &Database, (first, last): (BlockId, BlockId)) -> Result<(), StorageError> {
    let operation = || format!("drop blocks {first} to {last}");
    let from = first.0.to_be_bytes().to_vec();
    // The end is included, so the first key of the next block must not be named here.
    let mut to = last.0.to_be_bytes().to_vec();
    to.extend_from_slice(&LAST_KEY_TAIL);
    for attempt in 0..3 {
        database.rocks.delete_file_in_range(&from, &to).map_err(|error| kv_error(operation(), &error))?;
        // A file that remains has a key, whatever its level; an error means that one remains too.
        let mut options = read_options(false);
        options.set_iterate_upper_bound(to.as_slice());
        let mut iterator = database.rocks.raw_iterator_opt(options);
        iterator.seek(&from);
        if !iterator.valid() && iterator.status().is_ok() {
            return Ok(());
        }
        drop(iterator);
        // What remains is at level 0 or was being moved: push it down and try again.
        tracing::warn!(%first, %last, attempt, "files of dropped blocks remain, moving them down");
        database.rocks.compact_range(Some(&from), Some(&to));
    }
    Err(StorageError::Kv { operation: operation(), reason: "files of the blocks remain".into() })
}

fn live_files(database: &Database, path: &Path) -> Result<Vec<LiveFile>, StorageError> {
    let files = database
        .rocks
        .live_files()
        .map_err(|error| kv_error(format!("list the files of {}", path.display()), &error))?;
    let mut files: Vec<LiveFile> = files
        .into_iter()
        .map(|file| LiveFile {
            path: path.join(file.name.trim_start_matches('/')),
            size_bytes: file.size as u64,
            level: file.level,
            first_key: file.start_key.unwrap_or_default(),
            last_key: file.end_key.unwrap_or_default(),
            n_records: file.num_entries,
        })
        .collect();
    files.sort_by(|a, b| a.first_key.cmp(&b.first_key));
    Ok(files)
}

fn open_database(path: &Path, cache: &Cache, strictness: Strictness) -> Result<Database, rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_paranoid_checks(strictness == Strictness::Strict);
    options.set_disable_auto_compactions(true);
    options.set_max_open_files(max_open_files());
    options.set_skip_stats_update_on_db_open(true);
    // Tiles are read in their order: without this the system would not read ahead.
    options.set_advise_random_on_open(false);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 << 20);
    options.set_max_background_jobs(1);
    options.set_write_buffer_size(64 << 10);
    options.set_manifest_preallocation_size(MANIFEST_PREALLOCATION_BYTES);
    let mut table = table_options(Kind::Tiles);
    table.set_block_cache(cache);
    options.set_block_based_table_factory(&table);
    let rocks = DB::open(&options, path)?;
    Ok(Database { rocks, cached: read_options(true), uncached: read_options(false) })
}

fn read_options(fill_cache: bool) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(fill_cache);
    options.set_verify_checksums(true);
    options
}

fn ingest_options() -> IngestExternalFileOptions {
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    // Keys never overlap, so a file that would need a sequence number is one that must not come in.
    options.set_allow_global_seqno(false);
    options.set_allow_blocking_flush(false);
    options.set_snapshot_consistency(false);
    options
}

/// Table options of the files of a kind.
fn table_options(kind: Kind) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    // A tile is about as large as a data block, so that reading one decompresses little else.
    table.set_block_size(if kind == Kind::Tiles { 8 << 10 } else { 4 << 10 });
    table
}

/// Options to write the files of a kind with.
pub(super) fn file_options(kind: Kind) -> &'static Options {
    static OPTIONS: OnceLock<Vec<Options>> = OnceLock::new();
    let all = OPTIONS.get_or_init(|| Kind::ALL.iter().map(|&kind| make_file_options(kind)).collect());
    &all[kind as usize]
}

fn make_file_options(kind: Kind) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&table_options(kind));
    match kind {
        // One record each, read at every start.
        Kind::Header | Kind::Tombstones => options.set_compression_type(DBCompressionType::None),
        _ => {
            options.set_compression_type(DBCompressionType::Zstd);
            // Level 1; higher ones gain 2 to 4 % (measured). The window of -14 is zlib's, unused here.
            options.set_compression_options(-14, 1, 0, 0);
        }
    }
    options
}

pub(super) fn kv_error(operation: impl Into<String>, error: &rocksdb::Error) -> StorageError {
    StorageError::Kv { operation: operation.into(), reason: error.to_string() }
}

fn read_error(key: &[u8], error: &rocksdb::Error) -> StorageError {
    let what = match split(key) {
        Some((block, kind, rest)) => format!("block {block} {kind:?} {}", hex(rest)),
        None => format!("key {}", hex(key)),
    };
    match error.kind() {
        ErrorKind::Corruption => StorageError::corrupt(what, error.to_string()),
        _ if is_missing(error) => StorageError::corrupt(what, error.to_string()),
        _ => StorageError::Kv { operation: format!("read {what}"), reason: error.to_string() },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_missing(error: &rocksdb::Error) -> bool {
    let text: &str = error.as_ref();
    text.contains("No such file") || text.contains("Input/output error")
}

fn classify(path: &Path, error: &rocksdb::Error) -> OpenFailure {
    let text = error.to_string();
    if text.contains("No space left") {
        return OpenFailure::DiskFull(text);
    }
    match error.kind() {
        ErrorKind::IOError if !is_missing(error) => {
            OpenFailure::Other(kv_error(format!("open {}", path.display()), error))
        }
        _ => OpenFailure::Damaged(text),
    }
}

/// How many files RocksDB keeps open: all of them where the process may have that many, else three
/// quarters of what it may have. The rest are opened when they are read.
fn max_open_files() -> i32 {
    /// More than any store has files: about seven for each block.
    const PLENTY: u64 = 1 << 20;
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(limit) if limit < PLENTY => i32::try_from(limit / 4 * 3).unwrap_or(i32::MAX).max(64),
        _ => -1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KvWrite;
    use crate::kv::keys::key;
    use crate::kv::pins::{BlockPin, DropQueue};
    use std::ops::ControlFlow;

    fn open(path: &Path) -> Arc<Store> {
        match Store::open(&path.join("blocks"), 8 << 20, Strictness::Strict) {
            Ok(store) => Arc::new(store),
            Err(failure) => panic!("{failure:?}"),
        }
    }

    fn staged(path: &Path, id: u64) -> StagedBlock {
        let mut block = StagedBlock::create(&path.join("staging"), BlockId(id)).unwrap();
        for kind in [Kind::Header, Kind::Symbols, Kind::Tiles] {
            for rest in 0..3u32 {
                let key = key(BlockId(id), kind, &rest.to_be_bytes());
                block.put(kind, &key, &[id as u8; 100]).unwrap();
            }
        }
        block
    }

    fn reader(store: &Arc<Store>, id: u64) -> StoreRead {
        let pin = BlockPin::new(BlockId(id), Arc::new(DropQueue::default()));
        StoreRead::new(Arc::clone(store), pin, true)
    }

    #[test]
    fn dropping_a_block_leaves_its_neighbours_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.ingest_blocks((1..=4).map(|id| staged(dir.path(), id)).collect()).unwrap();
        store.drop_block(BlockId(2)).unwrap();
        let blocks: Vec<_> =
            store.blocks().unwrap().into_iter().map(|(id, files)| (id, files.len())).collect();
        assert_eq!(blocks, [(Some(BlockId(1)), 3), (Some(BlockId(3)), 3), (Some(BlockId(4)), 3)]);
        assert!(store.live_files().unwrap().iter().all(|file| file.level == 6));
        assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
        store.drop_block(BlockId(2)).unwrap();
    }

    /// Each drop of a block listed all files of the store, twice: after thousands of blocks a start took
    /// most of a minute.
    #[test]
    fn dropping_many_blocks_lists_the_files_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.ingest_blocks((1..=40).map(|id| staged(dir.path(), id)).collect()).unwrap();
        let dropped: Vec<BlockId> = (1..=40).filter(|id| id % 10 != 3).map(BlockId).collect();
        store.drop_blocks(&dropped).unwrap();
        assert_eq!(store.n_listings.load(Ordering::Relaxed), 1);
        let left: Vec<_> = store.blocks().unwrap().into_iter().map(|(id, files)| (id, files.len())).collect();
        assert_eq!(left, [3, 13, 23, 33].map(|id| (Some(BlockId(id)), 3)));
        let on_disk = std::fs::read_dir(store.path()).unwrap();
        let n_files =
            on_disk.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("sst".as_ref()));
        assert_eq!(n_files.count(), 12);
        for id in [3, 13, 23, 33] {
            let key = key(BlockId(id), Kind::Tiles, &2u32.to_be_bytes());
            assert!(reader(&store, id).get(&key).unwrap().is_some());
        }
    }

    #[test]
    fn ranges_of_dropped_blocks_leave_out_what_is_kept() {
        let ids: BTreeSet<BlockId> = [1, 2, 5, 6, 9].map(BlockId).into();
        assert_eq!(ranges(&ids, &BTreeSet::new()), [(BlockId(1), BlockId(9))]);
        let between = key(BlockId(3), Kind::Header, &[]);
        assert_eq!(
            ranges(&ids, &[&between[..]].into()),
            [(BlockId(1), BlockId(2)), (BlockId(5), BlockId(9))]
        );
    }

    #[test]
    fn reads_see_what_was_ingested_also_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.ingest_blocks(vec![staged(dir.path(), 7)]).unwrap();
        store.reopen().unwrap();
        let read = reader(&store, 7);
        let at = |kind, n: u32| key(BlockId(7), kind, &n.to_be_bytes());
        assert_eq!(read.get(&at(Kind::Tiles, 1)).unwrap(), Some(vec![7; 100]));
        assert_eq!(read.get(&at(Kind::Tiles, 9)).unwrap(), None);
        let last = read.last_at_or_before(&at(Kind::Tiles, 0), &at(Kind::Tiles, 9)).unwrap();
        assert_eq!(last.unwrap().0, at(Kind::Tiles, 2));
        assert_eq!(read.last_at_or_before(&at(Kind::Values, 0), &at(Kind::Values, 9)).unwrap(), None);
        let mut keys = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        };
        read.scan(&at(Kind::Symbols, 1), &at(Kind::Tiles, 1), &mut visit).unwrap();
        assert_eq!(keys, [at(Kind::Symbols, 1), at(Kind::Symbols, 2), at(Kind::Tiles, 0)]);
    }

    #[test]
    fn a_staged_block_that_is_not_ingested_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        drop(staged(dir.path(), 1));
        assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn a_checkpoint_holds_the_same_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.ingest_blocks(vec![staged(dir.path(), 1)]).unwrap();
        let copy = tempfile::tempdir().unwrap();
        store.checkpoint(&copy.path().join("blocks")).unwrap();
        store.drop_block(BlockId(1)).unwrap();
        assert_eq!(open(copy.path()).blocks().unwrap().len(), 1);
    }

    #[test]
    fn rocksdb_is_called_by_this_folder_only_and_never_written_to() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![root.clone()];
        let mut n_files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                n_files += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                // Put together here, so that this test does not find itself.
                for call in ["put", "put_cf", "put_opt", "write", "write_opt", "merge", "delete", "snapshot"]
                {
                    let call = format!("rocks.{call}(");
                    assert!(!text.contains(&call), "{} calls {call}", path.display());
                }
                for word in [["delete", "range"].join("_"), ["Write", "Batch"].concat()] {
                    assert!(!text.contains(&word), "{} names {word}", path.display());
                }
                if !path.starts_with(root.join("kv")) {
                    let word = ["rocksdb", ""].join("::");
                    assert!(!text.contains(&word), "{} uses RocksDB", path.display());
                }
            }
        }
        assert!(n_files > 5);
    }
}
