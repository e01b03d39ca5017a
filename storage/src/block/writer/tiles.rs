//! Finished tiles on their way out. Keys ascend by slice, then by rank, but tiles are finished by rank:
//! those of slice 0 go out at once, the others wait here.

use crate::block::tiles::tile_key;
use crate::error::StorageError;
use crate::kv::KvWrite;
use crate::kv::keys::{BlockId, Kind};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Tiles of later slices that wait in memory before they go to a file; few in tests, so that these get
/// there.
const MEMORY_BYTES: usize = if cfg!(test) { 64 << 10 } else { 32 << 20 };

#[derive(Debug)]
pub(super) struct TileQueue {
    block: BlockId,
    spill_dir: Option<PathBuf>,
    waiting: Vec<Waiting>,
    /// What is not in the file yet.
    memory: Vec<u8>,
    spill: Option<Spill>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    slice: u16,
    part: u16,
    first_rank: u32,
    /// In file and memory, as if they were one.
    offset: u64,
    length: u32,
}

#[derive(Debug)]
struct Spill {
    path: PathBuf,
    file: File,
    length: u64,
}

impl TileQueue {
    pub(super) const fn new(block: BlockId, spill_dir: Option<PathBuf>) -> Self {
        Self { block, spill_dir, waiting: Vec::new(), memory: Vec::new(), spill: None }
    }

    /// Adds a tile; those of one slice come in order.
    pub(super) fn put(
        &mut self,
        slice: u16,
        first_rank: u32,
        part: u16,
        bytes: &[u8],
        out: &mut dyn KvWrite,
    ) -> Result<(), StorageError> {
        if slice == 0 {
            return out.put(Kind::Tiles, &tile_key(self.block, slice, first_rank, part), bytes);
        }
        let offset = self.spill.as_ref().map_or(0, |spill| spill.length) + self.memory.len() as u64;
        let length = u32::try_from(bytes.len()).expect("a tile is closed at some megabytes");
        self.waiting.push(Waiting { slice, part, first_rank, offset, length });
        self.memory.extend_from_slice(bytes);
        if self.memory.len() >= MEMORY_BYTES { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<(), StorageError> {
        let Some(folder) = &self.spill_dir else { return Ok(()) };
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill::create(folder.join(format!("{}.tiles", self.block)))?),
        };
        spill.file.write_all(&self.memory).map_err(|source| StorageError::Io {
            operation: "write tiles to",
            path: spill.path.clone(),
            source,
        })?;
        spill.length += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Writes what waits, in order.
    pub(super) fn finish(mut self, out: &mut dyn KvWrite) -> Result<(), StorageError> {
        // Stable, and those of one slice came in order.
        self.waiting.sort_by_key(|tile| tile.slice);
        let spilled = self.spill.as_ref().map_or(0, |spill| spill.length);
        let mut bytes = Vec::new();
        for tile in &self.waiting {
            bytes.clear();
            match &self.spill {
                Some(spill) if tile.offset < spilled => {
                    bytes.resize(tile.length as usize, 0);
                    spill.file.read_exact_at(&mut bytes, tile.offset).map_err(|source| StorageError::Io {
                        operation: "read tiles from",
                        path: spill.path.clone(),
                        source,
                    })?;
                }
                _ => {
                    let start = (tile.offset - spilled) as usize;
                    bytes.extend_from_slice(&self.memory[start..start + tile.length as usize]);
                }
            }
            out.put(Kind::Tiles, &tile_key(self.block, tile.slice, tile.first_rank, tile.part), &bytes)?;
        }
        Ok(())
    }
}

impl Spill {
    /// A file that is gone when the process is, whatever happens.
    fn create(path: PathBuf) -> Result<Self, StorageError> {
        let failed = |source| StorageError::Io { operation: "create", path: path.clone(), source };
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        Ok(Self { path, file, length: 0 })
    }
}
