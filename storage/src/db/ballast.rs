//! The ballast: a file that does nothing but take space, given back when the disk is full so that
//! what is in memory can still be sealed into blocks.

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// The least ballast. A seal of 12 M samples writes some 3 MB, of a million series with 120 samples each
/// some 30 MB: so much is needed before their log can go.
const MIN_BYTES: u64 = 64 << 20;
/// The most. Three tables may wait for their seal at once, each a little larger than the above, and
/// RocksDB's manifest takes 16 MB when it begins a new one: more space serves no seal and only makes the
/// disk full earlier.
const MAX_BYTES: u64 = 256 << 20;

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
        let size = self.wanted.unwrap_or_else(|| suitable_bytes(total, free));
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

/// A hundredth of the file system within [`MIN_BYTES`] and [`MAX_BYTES`], and never more than a quarter of
/// what is free.
fn suitable_bytes(total: u64, free: u64) -> u64 {
    (total / 100).clamp(MIN_BYTES, MAX_BYTES).min(free / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballast_is_a_hundredth_of_the_disk_within_bounds() {
        let gib = 1 << 30;
        assert_eq!(suitable_bytes(250 * gib, 200 * gib), MAX_BYTES);
        assert_eq!(suitable_bytes(10 * gib, 5 * gib), 10 * gib / 100);
        assert_eq!(suitable_bytes(gib, gib), MIN_BYTES);
        // A small file system, and one that is nearly full.
        assert_eq!(suitable_bytes(100 << 20, 80 << 20), 20 << 20);
        assert_eq!(suitable_bytes(250 * gib, 100 << 20), 25 << 20);
    }

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
