//! Blocks on their way in: SST files in a staging directory, one per kind.

use super::KvWrite;
use super::keys::{BlockId, Kind};
use super::store::{file_options, kv_error};
use crate::error::StorageError;
use rocksdb::SstFileWriter;
use std::path::{Path, PathBuf};

/// A block that is being written. Its files are removed when it is dropped; ingesting moves them away
/// before.
pub struct StagedBlock {
    id: BlockId,
    directory: PathBuf,
    files: Vec<StagedFile>,
}

struct StagedFile {
    kind: Kind,
    path: PathBuf,
    writer: SstFileWriter<'static>,
    finished: bool,
}

impl StagedBlock {
    /// A block without records. The staging directory must be on the file system of the store, so
    /// that its files can be moved in.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the directory cannot be made.
    pub fn create(directory: &Path, id: BlockId) -> Result<Self, StorageError> {
        std::fs::create_dir_all(directory).map_err(|error| StorageError::io("create", directory, error))?;
        Ok(Self { id, directory: directory.to_owned(), files: Vec::new() })
    }

    /// Its id.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// Bytes written so far, as far as RocksDB has put them into files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.writer.file_size()).sum()
    }

    /// Completes and syncs the files and gives their paths.
    ///
    /// # Errors
    /// [`StorageError::Kv`] if a file cannot be written.
    pub(super) fn finish(&mut self) -> Result<Vec<PathBuf>, StorageError> {
        for file in self.files.iter_mut().filter(|file| !file.finished) {
            file.writer
                .finish()
                .map_err(|error| kv_error(format!("finish {}", file.path.display()), &error))?;
            file.finished = true;
        }
        Ok(self.files.iter().map(|file| file.path.clone()).collect())
    }

    fn file(&mut self, kind: Kind) -> Result<&mut StagedFile, StorageError> {
        if let Some(at) = self.files.iter().position(|file| file.kind == kind) {
            return Ok(&mut self.files[at]);
        }
        let path = self.directory.join(format!("{}-{}.sst", self.id, kind as u8));
        let writer = SstFileWriter::create(file_options(kind));
        writer.open(&path).map_err(|error| kv_error(format!("create {}", path.display()), &error))?;
        self.files.push(StagedFile { kind, path, writer, finished: false });
        Ok(self.files.last_mut().expect("a file was just added"))
    }
}

impl KvWrite for StagedBlock {
    fn put(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let file = self.file(kind)?;
        file.writer
            .put(key, value)
            .map_err(|error| kv_error(format!("write {}", file.path.display()), &error))
    }
}

impl Drop for StagedBlock {
    fn drop(&mut self) {
        for file in self.files.drain(..) {
            drop(file.writer);
            // Gone already where it was ingested.
            match std::fs::remove_file(&file.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %file.path.display(), %error, "cannot remove a staged file");
                }
                _ => {}
            }
        }
    }
}
