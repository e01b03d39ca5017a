//! The file operations of the log, behind traits so that tests can fail any of them.

use rustix::fs::{Advice, FallocateFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A folder tree.
pub trait LogFs: Send + Sync {
    /// Makes a folder, and those above it, unless it is there.
    ///
    /// # Errors
    /// What the system says; so for all that follow.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Creates a file that must not be there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// Opens a file for reading and appending.
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// Removes a folder and what is in it.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names of a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// An open file.
pub trait LogFile: Send + Sync {
    /// Appends all of `bytes`, in one `write` if the system takes them at once.
    ///
    /// # Errors
    /// What the system says; part of the bytes may be in the file then. So for all that follow.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Sets space aside from the start of the file, without changing its length.
    fn allocate(&self, size_bytes: u64) -> io::Result<()>;
    /// Has the system begin to write back so many bytes from `offset` on, and waits for nothing. A hint.
    fn start_writeback(&self, _offset: u64, _size_bytes: u64) {}
    /// Makes the bytes of the file durable. After an error nothing is known, and calling again does
    /// not help.
    fn sync(&self) -> io::Result<()>;
    /// Reads into `buffer`; fewer bytes only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Length of the file.
    fn size_bytes(&self) -> io::Result<u64>;
    /// Cuts the file.
    fn truncate(&self, size_bytes: u64) -> io::Result<()>;
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl LogFs for RealFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
        // A name that is no UTF-8 is none of ours.
        Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().filter_map(|n| n.into_string().ok()).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(OpenOptions::new().read(true).append(true).create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(OpenOptions::new().read(true).append(true).open(path)?))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl LogFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self;
        file.write_all(bytes)
    }

    fn allocate(&self, size_bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::KEEP_SIZE, 0, size_bytes) {
            // A file system without it fails in the write instead, which is handled as well.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            result => Ok(result?),
        }
    }

    fn start_writeback(&self, offset: u64, size_bytes: u64) {
        // Linux begins to write pages that are not wanted in memory any more, and then lets go of those
        // that are written: `sync_file_range` without its `unsafe`. Nobody reads the log but a start.
        let _ = rustix::fs::fadvise(self, offset, NonZeroU64::new(size_bytes), Advice::DontNeed);
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn truncate(&self, size_bytes: u64) -> io::Result<()> {
        self.set_len(size_bytes)
    }
}
