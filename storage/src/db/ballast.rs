//! The ballast: a file that does nothing but take space, given back when the disk is full so that
//! what is in memory can still be sealed into blocks.

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// The least ballast: a seal of the largest table (8 M samples, some 3 MB) with much to spare.
const MIN_BYTES: u64 = 64 << 20;

/// The ballast of a data directory.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    wanted: Option<u64>,
}

impl Ballast {
    /// Ballast at `path` of a stated size, or of a size that suits the file system.
    pub fn new(path: PathBuf, wanted: Option<u64>) -> Self {
        Self { path, wanted }
    }

    /// Takes the space, if it is not taken yet and the disk has plenty. Failing is no error: the store
    /// works without ballast, it only recovers later from a full disk.
    pub fn take(&self) {
        let Ok(space) = statvfs(self.folder()) else { return };
        let total = space.f_blocks.saturating_mul(space.f_frsize);
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let size = self.wanted.unwrap_or_else(|| MIN_BYTES.max(total / 100).min(free / 4));
        let present = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        // Twice the size must be free, so that taking it back does not fill the disk again at once.
        if size == 0 || present > 0 || free < size.saturating_mul(2) {
            return;
        }
        let result = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&self.path)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, size)?));
        if let Err(error) = result {
            tracing::warn!(path = %self.path.display(), %error, "cannot set ballast aside");
            self.free();
        }
    }

    /// Bytes free on the file system; `None` if it does not tell.
    pub fn free_bytes(&self) -> Option<u64> {
        let space = statvfs(self.folder()).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Gives the space back. True if there was any.
    pub fn free(&self) -> bool {
        std::fs::remove_file(&self.path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballast_takes_space_once_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path().join("BALLAST"), Some(1 << 20));
        ballast.take();
        ballast.take();
        assert_eq!(std::fs::metadata(dir.path().join("BALLAST")).unwrap().len(), 1 << 20);
        assert!(ballast.free());
        assert!(!ballast.free());
    }
}
