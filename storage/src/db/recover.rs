//! Opening the blocks, whatever has happened to them: a ladder of three rungs.
//!
//! 1. RocksDB opens strictly.
//! 2. It does not, because of damage: it opens tolerantly, and every file of every block is tried.
//! 3. Its manifest is damaged: a new database is made, into which every SST file that reads is linked.
//!
//! Blocks describe themselves, so on each rung the headers say what is complete. What is not is moved
//! to quarantine and reported. Nothing is deleted because something else does not mention it.

use super::ballast::Ballast;
use super::directory::{DataDirectory, sync_directory};
use crate::block::header::BlockHeader;
use crate::block::quarantine::Quarantine;
use crate::error::{StorageError, error_chain};
use crate::kv::KvRead;
use crate::kv::keys::{BlockId, Kind, key, split};
use crate::kv::pins::{BlockPin, DropQueue};
use crate::kv::store::{LiveFile, OpenFailure, Store, StoreRead, Strictness};
use crate::metrics::LostRange;
use crate::options::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The store as it was found.
pub struct Found {
    /// The open database.
    pub store: Arc<Store>,
    /// Complete blocks by id. Parents of others may be among them.
    pub blocks: BTreeMap<BlockId, FoundBlock>,
    /// The greatest id of all blocks, damaged ones included.
    pub greatest_id: Option<BlockId>,
}

/// A complete block.
pub struct FoundBlock {
    /// Its header.
    pub header: Arc<BlockHeader>,
    /// Bytes of its files.
    pub size_bytes: u64,
}

/// How the database came to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    Strict,
    Tolerant,
    Rebuilt,
}

/// Blocks of files that the manifest did not name.
struct Adopted {
    blocks: BTreeSet<BlockId>,
    /// Every file could be taken back.
    is_clean: bool,
}

/// What recovery works with.
pub struct Recovery<'a> {
    /// The locked data directory.
    pub directory: &'a DataDirectory,
    /// Where damage goes.
    pub quarantine: &'a Quarantine,
    /// Freed if the disk is full.
    pub ballast: &'a Ballast,
    /// RocksDB's block cache.
    pub cache_bytes: usize,
    /// For the dates of reports.
    pub clock: &'a dyn Clock,
}

impl Recovery<'_> {
    /// Opens the blocks.
    ///
    /// # Errors
    /// [`StorageError`] for what repairing would not cure: permissions, a full disk without ballast,
    /// too many open files. Damage is no error.
    pub fn open(&self) -> Result<Found, StorageError> {
        self.finish_rebuild()?;
        // RocksDB removes every file that its manifest does not name. A manifest whose end is cut off
        // opens without an error and names too few.
        let links = self.link_files();
        let (store, rung) = self.open_store()?;
        let store = Arc::new(store);
        let adopted = self.adopt_orphans(&store, &links)?;
        let is_suspect = rung != Rung::Strict;
        let mut found = Found { store: Arc::clone(&store), blocks: BTreeMap::new(), greatest_id: None };
        let mut damaged = Vec::new();
        for (id, files) in store.blocks()? {
            let Some(id) = id else {
                for file in &files {
                    self.report_file(&file.path, "it holds no block");
                }
                continue;
            };
            found.greatest_id = found.greatest_id.max(Some(id));
            match inspect(&store, id, &files, is_suspect) {
                Ok(header) => {
                    let size_bytes = files.iter().map(|file| file.size_bytes).sum();
                    found.blocks.insert(id, FoundBlock { header: Arc::new(header), size_bytes });
                }
                Err((header, reason)) => damaged.push((id, files, header, reason)),
            }
        }
        self.drop_unneeded(&mut found, &adopted.blocks, rung)?;
        for (id, files, header, reason) in damaged {
            let came_back = adopted.is_clean && adopted.blocks.contains(&id);
            if came_back && header.as_ref().is_none_or(|header| self.is_superseded(header, &found)) {
                // The end came while its files were moved in, and nobody was told that it is there; or
                // while the files of a dropped block were removed, and some were gone already.
                tracing::info!(block = %id, "what is left of an unfinished or dropped block is removed");
                store.drop_block(id)?;
                continue;
            }
            // What an unfinished merge was made of is still there: nothing is lost then.
            let has_parents = header.as_ref().is_some_and(|header| {
                !header.parents.is_empty()
                    && header.parents.iter().all(|&parent| found.blocks.contains_key(&BlockId(parent)))
            });
            let range = header.as_ref().map(|header| (header.mint, header.maxt));
            self.quarantine_block(&store, id, &files, range, &reason, !has_parents);
        }
        Ok(found)
    }

    /// Moves a block aside. If that fails (a full disk) it stays where it is and is not served.
    pub fn quarantine_block(
        &self,
        store: &Store,
        id: BlockId,
        files: &[LiveFile],
        range: Option<(i64, i64)>,
        reason: &str,
        is_lost: bool,
    ) {
        let keep = || -> Result<PathBuf, StorageError> {
            let folder = self.quarantine.folder(&format!("block-{id}"))?;
            for file in files {
                self.quarantine.keep(&file.path, &folder)?;
            }
            sync_directory(&folder).map_err(|error| StorageError::io("sync", &folder, error))?;
            store.drop_block(id)?;
            Ok(folder)
        };
        let kept_at = match keep() {
            Ok(folder) => Some(folder),
            Err(error) => {
                tracing::error!(block = %id, error = error_chain(&error), "cannot move a damaged block aside");
                None
            }
        };
        if is_lost {
            self.quarantine.report(LostRange {
                what: format!("block {id}"),
                range,
                reason: reason.to_owned(),
                kept_at,
                found_at: self.clock.now_ms(),
            });
        } else {
            tracing::warn!(block = %id, reason, ?kept_at, "an unfinished merge was moved aside, its inputs are kept");
        }
    }

    fn open_store(&self) -> Result<(Store, Rung), StorageError> {
        let path = self.directory.blocks();
        let open = |strictness| match Store::open(&path, self.cache_bytes, strictness) {
            Err(OpenFailure::DiskFull(reason)) if self.ballast.free() => {
                tracing::warn!(reason, "the disk is full, gave the ballast back");
                Store::open(&path, self.cache_bytes, strictness)
            }
            result => result,
        };
        let full = |reason| StorageError::Kv { operation: format!("open {}", path.display()), reason };
        match open(Strictness::Strict) {
            Ok(store) => return Ok((store, Rung::Strict)),
            Err(OpenFailure::Damaged(reason)) => {
                tracing::error!(reason, "the database is damaged, opening it tolerantly");
            }
            Err(OpenFailure::DiskFull(reason)) => return Err(full(reason)),
            Err(OpenFailure::Other(error)) => return Err(error),
        }
        match open(Strictness::Tolerant) {
            Ok(store) => Ok((store, Rung::Tolerant)),
            Err(OpenFailure::Damaged(reason)) => {
                tracing::error!(
                    reason,
                    "the database's manifest is damaged, building a new one from its files"
                );
                self.rebuild()?;
                match open(Strictness::Tolerant) {
                    Ok(store) => Ok((store, Rung::Rebuilt)),
                    Err(OpenFailure::Damaged(reason) | OpenFailure::DiskFull(reason)) => Err(full(reason)),
                    Err(OpenFailure::Other(error)) => Err(error),
                }
            }
            Err(OpenFailure::DiskFull(reason)) => Err(full(reason)),
            Err(OpenFailure::Other(error)) => Err(error),
        }
    }

    /// Second names for all SST files.
    fn link_files(&self) -> Vec<PathBuf> {
        let folder = self.directory.staging().join("before-opening");
        let link = || -> Result<Vec<PathBuf>, StorageError> {
            remove_folder(&folder)?;
            std::fs::create_dir(&folder).map_err(|error| StorageError::io("create", &folder, error))?;
            let mut links = Vec::new();
            if self.directory.blocks().exists() {
                for file in sst_files(&self.directory.blocks())? {
                    let link = folder.join(file.file_name().expect("a file of a folder has a name"));
                    std::fs::hard_link(&file, &link)
                        .map_err(|error| StorageError::io("link", &file, error))?;
                    links.push(link);
                }
            }
            Ok(links)
        };
        link().unwrap_or_else(|error| {
            tracing::warn!(error = error_chain(&error), "cannot link files before opening");
            Vec::new()
        })
    }

    /// Takes files back that RocksDB's manifest does not name, and tells of which blocks they are. Those
    /// of a block that was just being dropped come back too; it is dropped again for the same reason.
    fn adopt_orphans(&self, store: &Store, links: &[PathBuf]) -> Result<Adopted, StorageError> {
        let live = store.live_files()?;
        let known: BTreeSet<u64> = live.iter().filter_map(|file| inode(&file.path)).collect();
        let is_orphan = |link: &&PathBuf| inode(link).is_some_and(|inode| !known.contains(&inode));
        let orphans: Vec<PathBuf> = links.iter().filter(is_orphan).cloned().collect();
        if !orphans.is_empty() {
            tracing::warn!(n_files = orphans.len(), "the manifest lacks files, taking them back");
        }
        let refused = store.adopt_files(&orphans)?;
        let is_clean = refused.is_empty();
        for (link, reason) in refused {
            // What a merge of files within RocksDB has rewritten is there already.
            if !reason.contains("seqno is required") {
                let kept_at = self.quarantine.folder("orphans").and_then(|folder| {
                    self.quarantine.keep(&link, &folder)?;
                    Ok(folder)
                });
                tracing::error!(file = %link.display(), reason, ?kept_at, "a file cannot be taken back");
            }
        }
        remove_folder(&self.directory.staging().join("before-opening"))?;
        let before: BTreeSet<PathBuf> = live.into_iter().map(|file| file.path).collect();
        let now = store.live_files()?.into_iter().filter(|file| !before.contains(&file.path));
        let blocks = now.filter_map(|file| split(&file.first_key).map(|(id, _, _)| id)).collect();
        Ok(Adopted { blocks, is_clean })
    }

    /// Drops blocks that came back and are not needed. What a block was made from is the better source
    /// while all of it is there: the ingestion of this block and of others of the same table may never
    /// have ended. And a block may have been merged into another one, which is there.
    fn drop_unneeded(
        &self,
        found: &mut Found,
        adopted: &BTreeSet<BlockId>,
        rung: Rung,
    ) -> Result<(), StorageError> {
        let headers: Vec<Arc<BlockHeader>> =
            found.blocks.values().map(|block| Arc::clone(&block.header)).collect();
        // A rebuilt database has taken every file.
        let came_back = |id: BlockId| rung == Rung::Rebuilt || adopted.contains(&id);
        for header in headers.iter().filter(|header| came_back(header.block_id())) {
            let has_sources = self.has_sources(header, found);
            // A direct parent waits until its heir has been verified.
            let is_heir =
                |heir: &&Arc<BlockHeader>| is_within(header, heir) && !heir.parents.contains(&header.id);
            if has_sources || headers.iter().any(|heir| is_heir(&heir)) {
                tracing::info!(block = %header.block_id(), has_sources, "a block that came back is not needed");
                found.store.drop_block(header.block_id())?;
                found.blocks.remove(&header.block_id());
            }
        }
        Ok(())
    }

    /// Whether everything that a block was made from is there.
    fn has_sources(&self, header: &BlockHeader, found: &Found) -> bool {
        match header.parents.as_slice() {
            [] => {
                let has_log = |&table: &u64| self.directory.log_of(table).exists();
                !header.tables.is_empty() && header.tables.iter().all(has_log)
            }
            parents => parents.iter().all(|&parent| found.blocks.contains_key(&BlockId(parent))),
        }
    }

    /// Whether an incomplete block that came back lacks nothing that is not elsewhere: in what it was
    /// made from, or in a block that it was merged into. Inputs of a merge are dropped only after its
    /// result was verified, so an input that lacks files has a verified heir.
    fn is_superseded(&self, header: &BlockHeader, found: &Found) -> bool {
        self.has_sources(header, found)
            || found
                .blocks
                .values()
                .any(|heir| heir.header.parents.contains(&header.id) || is_within(header, &heir.header))
    }

    fn rebuilding(&self) -> PathBuf {
        self.directory.path().join("blocks.rebuilding")
    }

    fn rebuilt(&self) -> PathBuf {
        self.directory.path().join("blocks.rebuilt")
    }

    /// Rung 3. The new database gets its final name only when it is whole, so that a crash at any point
    /// starts over or goes on.
    fn rebuild(&self) -> Result<(), StorageError> {
        let (old, new) = (self.directory.blocks(), self.rebuilding());
        remove_folder(&new)?;
        let store =
            Store::open(&new, self.cache_bytes, Strictness::Strict).map_err(|failure| StorageError::Kv {
                operation: format!("create {}", new.display()),
                reason: format!("{failure:?}"),
            })?;
        let mut links = Vec::new();
        for file in sst_files(&old)? {
            let name = file.file_name().expect("a file of a folder has a name");
            let link = self.directory.staging().join(name);
            std::fs::hard_link(&file, &link).map_err(|error| StorageError::io("link", &file, error))?;
            links.push(link);
        }
        let refused = store.adopt_files(&links)?;
        for (link, reason) in &refused {
            tracing::error!(file = %link.display(), reason, "a file cannot be taken over");
            std::fs::remove_file(link).map_err(|error| StorageError::io("remove", link, error))?;
        }
        drop(store);
        rename(&new, &self.rebuilt())?;
        self.finish_rebuild()?;
        // Reported last: the names of the blocks that miss these files follow from their headers.
        for (link, reason) in refused {
            self.report_file(&link, &reason);
        }
        Ok(())
    }

    /// Puts a rebuilt database in the place of the damaged one, which goes to quarantine without the
    /// files that were taken over.
    fn finish_rebuild(&self) -> Result<(), StorageError> {
        let (old, rebuilt) = (self.directory.blocks(), self.rebuilt());
        if !rebuilt.exists() {
            return remove_folder(&self.rebuilding());
        }
        if old.exists() {
            let folder = self.quarantine.folder(&format!("rocksdb-{}", self.clock.now_ms()))?;
            let taken: Vec<u64> = sst_files(&rebuilt)?.iter().filter_map(|file| inode(file)).collect();
            for file in sst_files(&old)? {
                if inode(&file).is_some_and(|inode| taken.contains(&inode)) {
                    std::fs::remove_file(&file).map_err(|error| StorageError::io("remove", &file, error))?;
                }
            }
            rename(&old, &folder.join("blocks"))?;
        }
        rename(&rebuilt, &old)
    }

    fn report_file(&self, file: &Path, reason: &str) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        self.quarantine.report(LostRange {
            what: format!("file {name}"),
            range: None,
            reason: reason.to_owned(),
            kept_at: None,
            found_at: self.clock.now_ms(),
        });
    }
}

/// Whether the samples of a block are all in another one, the result of a merge: by order, tables and
/// times. Merges of late blocks among themselves keep their level.
fn is_within(a: &BlockHeader, b: &BlockHeader) -> bool {
    (a.id < b.id && a.level <= b.level && !b.parents.is_empty())
        && (b.seq_min <= a.seq_min && a.seq_max <= b.seq_max)
        && (b.mint <= a.mint && a.maxt <= b.maxt)
}

/// The header of a complete block, or what is wrong with it and the header as far as it reads.
fn inspect(
    store: &Arc<Store>,
    id: BlockId,
    files: &[LiveFile],
    is_suspect: bool,
) -> Result<BlockHeader, (Option<Box<BlockHeader>>, String)> {
    let pin = BlockPin::new(id, Arc::new(DropQueue::default()));
    let read = StoreRead::new(Arc::clone(store), pin, false);
    let value = match read.get(&key(id, Kind::Header, &[])) {
        Ok(Some(value)) => value,
        Ok(None) => return Err((None, "it has no header".to_owned())),
        Err(error) => return Err((None, error_chain(&error))),
    };
    let header = BlockHeader::decode(id, &value).map_err(|error| (None, error_chain(&error)))?;
    for kind in Kind::ALL {
        let n_keys = header.n_keys[kind as usize];
        let of_kind = |file: &&LiveFile| split(&file.first_key).is_some_and(|(_, first, _)| first == kind);
        if kind != Kind::Tombstones && n_keys > 0 && !files.iter().any(|file| of_kind(&file)) {
            return Err((Some(Box::new(header)), format!("its file of {kind:?} is missing")));
        }
    }
    for file in files.iter().filter(|_| is_suspect) {
        for key in [&file.first_key, &file.last_key] {
            match read.get(key) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    return Err((Some(Box::new(header)), format!("{} lacks a key", file.path.display())));
                }
                Err(error) => return Err((Some(Box::new(header)), error_chain(&error))),
            }
        }
    }
    Ok(header)
}

/// SST files of a folder in the order of their numbers.
fn sst_files(folder: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let entries = std::fs::read_dir(folder).map_err(|error| StorageError::io("list", folder, error))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .collect();
    files.sort();
    Ok(files)
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

fn remove_folder(path: &Path) -> Result<(), StorageError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    std::fs::rename(from, to).map_err(|error| StorageError::io("rename", from, error))?;
    for path in [from, to] {
        let parent = path.parent().unwrap_or(Path::new("."));
        sync_directory(parent).map_err(|error| StorageError::io("sync", parent, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KvWrite;
    use crate::kv::staged::StagedBlock;
    use crate::options::ManualClock;

    fn header(id: u64) -> BlockHeader {
        BlockHeader {
            id,
            mint: 10,
            maxt: 20,
            range_mint: 0,
            range_maxt: 99,
            level: 0,
            seq_min: 1,
            seq_max: 1,
            tables: vec![id],
            parents: vec![],
            n_keys: [1, 1, 0, 0, 0, 0, 3, 0, 0, 0],
            n_series: 1,
            n_chunks: 1,
            n_floats: 1,
            n_histograms: 0,
            content_hash: 0,
            n_symbols: 0,
            symbol_parts: vec![],
        }
    }

    fn put_block(store: &Store, directory: &DataDirectory, id: u64, leave_out: Option<Kind>) {
        put_block_of(store, directory, &header(id), leave_out);
    }

    fn put_block_of(store: &Store, directory: &DataDirectory, header: &BlockHeader, leave_out: Option<Kind>) {
        let id = header.id;
        let mut block = StagedBlock::create(&directory.staging(), BlockId(id)).unwrap();
        let (header_key, value) = header.encode().unwrap();
        block.put(Kind::Header, &header_key, &value).unwrap();
        for (kind, n) in [(Kind::Symbols, 1u8), (Kind::Tiles, 3)] {
            for rest in (0..n).filter(|_| Some(kind) != leave_out) {
                block.put(kind, &key(BlockId(id), kind, &[rest]), &[id as u8; 5_000]).unwrap();
            }
        }
        store.ingest_blocks(vec![block]).unwrap();
    }

    /// A store of blocks 1 to 3, damaged by `damage`, and what is found then.
    fn found_after(damage: impl Fn(&Path)) -> (Vec<u64>, Vec<LostRange>) {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(dir.path()).unwrap();
        let store = Store::open(&directory.blocks(), 8 << 20, Strictness::Strict).ok().unwrap();
        (1..=3).for_each(|id| put_block(&store, &directory, id, None));
        drop(store);
        damage(&directory.blocks());
        let found = recover(&directory);
        // A second start finds the same.
        assert_eq!(recover(&directory).0, found.0);
        found
    }

    fn recover(directory: &DataDirectory) -> (Vec<u64>, Vec<LostRange>) {
        let quarantine = Quarantine::open(directory.quarantine());
        let ballast = Ballast::new(directory.ballast(), Some(0));
        let clock = ManualClock::new(1_000);
        let recovery = Recovery {
            directory,
            quarantine: &quarantine,
            ballast: &ballast,
            cache_bytes: 8 << 20,
            clock: &clock,
        };
        let found = recovery.open().unwrap();
        let lost = quarantine.lost();
        (found.blocks.keys().map(|id| id.0).collect(), lost)
    }

    fn files(blocks: &Path, extension: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(blocks).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.to_string_lossy().contains(extension));
        files.sort();
        files
    }

    fn flip(path: &Path, at_from_end: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.len() - at_from_end;
        bytes[at] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn an_undamaged_store_opens_whole() {
        let (blocks, lost) = found_after(|_| {});
        assert_eq!(blocks, [1, 2, 3]);
        assert_eq!(lost, []);
    }

    #[test]
    fn a_damaged_footer_costs_its_block_only_and_names_its_range() {
        // The tiles of the second block: files are numbered in the order of their ingestion.
        let (blocks, lost) = found_after(|blocks| flip(&files(blocks, ".sst")[5], 10));
        assert_eq!(blocks, [1, 3]);
        assert_eq!(lost.len(), 1);
        assert_eq!(lost[0].what, "block 0000000000000002");
        assert_eq!(lost[0].range, Some((10, 20)));
        assert!(lost[0].kept_at.as_ref().unwrap().starts_with("/"));
    }

    #[test]
    fn a_missing_file_costs_its_block_only() {
        let (blocks, lost) = found_after(|blocks| std::fs::remove_file(&files(blocks, ".sst")[0]).unwrap());
        assert_eq!(blocks.len(), 2);
        assert_eq!(lost.len(), 1);
    }

    #[test]
    fn a_damaged_manifest_costs_nothing() {
        for from_end in [5, 100] {
            let (blocks, lost) = found_after(|blocks| {
                let manifest = files(blocks, "MANIFEST").pop().unwrap();
                let used = std::fs::read(&manifest).unwrap().iter().rposition(|&byte| byte != 0).unwrap();
                let from_end = std::fs::metadata(&manifest).unwrap().len() as usize - used + from_end;
                flip(&manifest, from_end);
            });
            assert_eq!(blocks, [1, 2, 3], "{from_end}");
            assert_eq!(lost, []);
        }
    }

    #[test]
    fn a_manifest_that_lost_its_end_costs_nothing() {
        for kept in [1, 5, 10] {
            let (blocks, lost) = found_after(|blocks| {
                let manifest = files(blocks, "MANIFEST").pop().unwrap();
                let bytes = std::fs::read(&manifest).unwrap();
                std::fs::write(&manifest, &bytes[..bytes.len() * kept / 11]).unwrap();
            });
            assert_eq!(blocks, [1, 2, 3], "{kept} of 11");
            assert_eq!(lost, []);
        }
    }

    #[test]
    fn a_block_that_came_back_yields_to_the_log_it_was_made_from() {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(dir.path()).unwrap();
        let store = Store::open(&directory.blocks(), 8 << 20, Strictness::Strict).ok().unwrap();
        put_block(&store, &directory, 1, None);
        put_block(&store, &directory, 2, None);
        drop(store);
        std::fs::create_dir(directory.log_of(2)).unwrap();
        let manifest = files(&directory.blocks(), "MANIFEST").pop().unwrap();
        let bytes = std::fs::read(&manifest).unwrap();
        std::fs::write(&manifest, &bytes[..bytes.len() / 10]).unwrap();
        assert_eq!(recover(&directory), (vec![1], vec![]));
    }

    #[test]
    fn a_lost_current_file_and_a_damaged_sst_together_cost_one_block() {
        let (blocks, lost) = found_after(|blocks| {
            std::fs::write(blocks.join("CURRENT"), "garbage").unwrap();
            flip(&files(blocks, ".sst")[5], 10);
        });
        assert_eq!(blocks, [1, 3]);
        assert!(lost.iter().any(|loss| loss.what.starts_with("block")), "{lost:?}");
    }

    /// A kill while the files of a merged block were being removed left a store that warned of loss.
    #[test]
    fn what_is_left_of_a_merged_block_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(dir.path()).unwrap();
        let store = Store::open(&directory.blocks(), 8 << 20, Strictness::Strict).ok().unwrap();
        put_block(&store, &directory, 1, None);
        let files: Vec<_> = store.live_files().unwrap().into_iter().map(|file| file.path).collect();
        let kept: Vec<_> = files.iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect();
        // A merge of late blocks keeps their level.
        let heir = BlockHeader { parents: vec![1], tables: vec![], ..header(2) };
        put_block_of(&store, &directory, &heir, None);
        store.drop_block(BlockId(1)).unwrap();
        assert!(files.iter().all(|file| !file.exists()), "the names of a dropped block's files are gone");
        drop(store);
        for left_out in 0..kept.len() {
            for (_, (file, bytes)) in kept.iter().enumerate().filter(|(i, _)| *i != left_out) {
                std::fs::write(file, bytes).unwrap();
            }
            assert_eq!(recover(&directory), (vec![2], vec![]), "without {left_out}");
        }
    }

    #[test]
    fn a_block_without_one_of_its_files_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(dir.path()).unwrap();
        let store = Store::open(&directory.blocks(), 8 << 20, Strictness::Strict).ok().unwrap();
        put_block(&store, &directory, 1, Some(Kind::Tiles));
        put_block(&store, &directory, 2, None);
        drop(store);
        let (blocks, lost) = recover(&directory);
        assert_eq!(blocks, [2]);
        assert!(lost[0].reason.contains("Tiles is missing"), "{lost:?}");
    }

    #[test]
    fn a_rebuild_that_was_interrupted_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(dir.path()).unwrap();
        let store = Store::open(&directory.blocks(), 8 << 20, Strictness::Strict).ok().unwrap();
        put_block(&store, &directory, 1, None);
        drop(store);
        std::fs::create_dir(dir.path().join("blocks.rebuilding")).unwrap();
        std::fs::rename(directory.blocks(), dir.path().join("blocks.rebuilt")).unwrap();
        assert_eq!(recover(&directory).0, [1]);
        assert!(
            !dir.path().join("blocks.rebuilding").exists() || !dir.path().join("blocks.rebuilt").exists()
        );
    }
}
