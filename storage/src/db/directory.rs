//! The data directory: lock, format version, secret, and the names of what is in it.
//!
//! ```text
//! data/
//!   LOCK         locked while a process has the store open; holds its process id
//!   VERSION      "chronolith 1\n": the format
//!   SECRET       32 random bytes, mode 0600: key of the series hash in memory
//!   BALLAST      space that is given back when the disk is full
//!   blocks/      RocksDB; receives whole SST files only
//!   staging/     SST files on their way in, a folder per purpose; emptied at every start
//!   log/         one folder per table that is not in blocks yet
//!   quarantine/  what was found damaged, and report.tsv, which says what it was
//! ```

use crate::error::StorageError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// First word of the VERSION file.
const VERSION_WORD: &str = "chronolith";

/// Every name that the store makes directly under the data directory.
pub const OWN_ENTRIES: [&str; 10] = [
    "LOCK",
    "VERSION",
    "SECRET",
    "BALLAST",
    "blocks",
    "staging",
    "log",
    "quarantine",
    "blocks.rebuilding",
    "blocks.rebuilt",
];

/// Bytes of the secret.
pub const SECRET_BYTES: usize = 32;

/// What SST files are written for. Each has a folder of its own in `staging/`, so that what is left after
/// a crash tells what it came into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Tables that become blocks.
    Seal,
    /// Blocks that are merged.
    Merge,
    /// Deletions that are recorded for blocks.
    Delete,
}

/// A data directory that this process has locked.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    secret: [u8; SECRET_BYTES],
    // Closing the file releases the lock.
    _lock: File,
}

impl DataDirectory {
    /// Locks the directory, making it if it is not there, and checks its format.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if another process has it, [`StorageError::Version`] if it is of another
    /// format, [`StorageError::Io`] if it cannot be read or written. Nothing in it was changed then.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        std::fs::create_dir_all(path).map_err(|error| StorageError::io("create", path, error))?;
        let lock = lock(path)?;
        check_version(path)?;
        for folder in [Self::STAGING, Self::LOG, Self::QUARANTINE] {
            let folder = path.join(folder);
            std::fs::create_dir_all(&folder).map_err(|error| StorageError::io("create", &folder, error))?;
        }
        empty(&path.join(Self::STAGING))?;
        let secret = secret(path)?;
        Ok(Self { path: path.to_owned(), secret, _lock: lock })
    }

    const BLOCKS: &'static str = "blocks";
    const STAGING: &'static str = "staging";
    const LOG: &'static str = "log";
    const QUARANTINE: &'static str = "quarantine";

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// RocksDB's folder.
    pub fn blocks(&self) -> PathBuf {
        self.path.join(Self::BLOCKS)
    }

    /// Where SST files are written.
    pub fn staging(&self) -> PathBuf {
        self.path.join(Self::STAGING)
    }

    /// Where SST files are written for a purpose.
    pub fn staging_for(&self, purpose: Purpose) -> PathBuf {
        self.staging().join(match purpose {
            Purpose::Seal => "seal",
            Purpose::Merge => "merge",
            Purpose::Delete => "delete",
        })
    }

    /// Folders of the log tables.
    pub fn log(&self) -> PathBuf {
        self.path.join(Self::LOG)
    }

    /// Folder of the log of one table: its number as 16 hexadecimal digits.
    pub fn log_of(&self, table: u64) -> PathBuf {
        self.log().join(format!("{table:016x}"))
    }

    /// Where damaged files go.
    pub fn quarantine(&self) -> PathBuf {
        self.path.join(Self::QUARANTINE)
    }

    /// The ballast file.
    pub fn ballast(&self) -> PathBuf {
        self.path.join("BALLAST")
    }

    /// The key of the series hash: random, never sent anywhere. Losing it loses nothing, because the
    /// hash never reaches the disk.
    pub fn secret(&self) -> [u8; SECRET_BYTES] {
        self.secret
    }
}

/// Makes a data directory at `into` whose blocks `write_blocks` writes to the path it is given.
///
/// # Errors
/// [`StorageError`] if it exists or cannot be written. What was written of it stays then.
pub fn create_copy(
    into: &Path,
    write_blocks: impl FnOnce(&Path) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    if let Some(parent) = into.parent() {
        std::fs::create_dir_all(parent).map_err(|error| StorageError::io("create", parent, error))?;
    }
    std::fs::create_dir(into).map_err(|error| StorageError::io("create", into, error))?;
    write_blocks(&into.join(DataDirectory::BLOCKS))?;
    // Last, so that a copy without it can be told from a whole one.
    check_version(into)
}

fn lock(directory: &Path) -> Result<File, StorageError> {
    let path = directory.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| StorageError::io("open", &path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
            let mut holder = String::new();
            // The holder may be writing its id just now; the message then says less.
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => "(unknown)".to_owned(),
                holder => holder.to_owned(),
            };
            return Err(StorageError::Locked { path: directory.to_owned(), holder });
        }
        Err(error) => return Err(StorageError::io("lock", &path, error.into())),
    }
    // The id only serves the message above: a full disk must not keep us from starting.
    let write = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    if let Err(error) = write {
        tracing::warn!(path = %path.display(), %error, "cannot note the process id in the lock file");
    }
    Ok(file)
}

fn check_version(directory: &Path) -> Result<(), StorageError> {
    let path = directory.join("VERSION");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        // Not UTF-8: as damaged as a wrong word.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => "?".to_owned(),
        Err(error) => return Err(StorageError::io("read", &path, error)),
    };
    let number = text.trim().strip_prefix(VERSION_WORD).and_then(|rest| rest.trim().parse::<u32>().ok());
    match number {
        Some(FORMAT_VERSION) => Ok(()),
        Some(found) => Err(StorageError::Version {
            path: directory.to_owned(),
            found,
            expected: FORMAT_VERSION,
            advice: if found > FORMAT_VERSION {
                "start the newer version that wrote it, or give another --storage.tsdb.path"
            } else {
                "start the older version that wrote it, or give another --storage.tsdb.path"
            },
        }),
        None => {
            // New, or the file is damaged: what is on disk names its format in every block header and
            // every log segment too, so nothing is misread.
            if !text.is_empty() {
                tracing::error!(path = %path.display(), "VERSION file is damaged, writing it anew");
            }
            write_synced(&path, format!("{VERSION_WORD} {FORMAT_VERSION}\n").as_bytes(), 0o644)
        }
    }
}

fn secret(directory: &Path) -> Result<[u8; SECRET_BYTES], StorageError> {
    let path = directory.join("SECRET");
    match std::fs::read(&path) {
        Ok(bytes) => match bytes.try_into() {
            Ok(secret) => return Ok(secret),
            Err(_) => tracing::warn!(path = %path.display(), "SECRET file is damaged, making a new one"),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(StorageError::io("read", &path, error)),
    }
    let mut secret = [0; SECRET_BYTES];
    let random = Path::new("/dev/urandom");
    File::open(random)
        .and_then(|mut file| file.read_exact(&mut secret))
        .map_err(|error| StorageError::io("read", random, error))?;
    write_synced(&path, &secret, 0o600)?;
    Ok(secret)
}

/// Writes a file so that it is there whole or not at all.
fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StorageError> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_directory(path.parent().unwrap_or(Path::new(".")))
    };
    write().map_err(|error| StorageError::io("write", path, error))
}

/// Makes renames and removals in a folder durable.
///
/// # Errors
/// If the folder cannot be opened or synced.
pub fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes everything in a folder.
fn empty(folder: &Path) -> Result<(), StorageError> {
    let remove = || -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(|error| StorageError::io("empty", folder, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_opener_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDirectory::open(dir.path()).unwrap();
        let error = DataDirectory::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(held);
        DataDirectory::open(dir.path()).unwrap();
    }

    #[test]
    fn another_version_is_refused_with_advice_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("VERSION"), "chronolith 99\n").unwrap();
        let error = DataDirectory::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("has format 99, this program reads format 1"), "{error}");
        assert!(error.contains("newer version"), "{error}");
        assert!(!dir.path().join("SECRET").exists());
    }

    #[test]
    fn the_secret_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDirectory::open(dir.path()).unwrap().secret();
        assert_ne!(first, [0; SECRET_BYTES]);
        assert_eq!(DataDirectory::open(dir.path()).unwrap().secret(), first);
        let mode = std::fs::metadata(dir.path().join("SECRET")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damaged_small_files_do_not_keep_the_directory_closed() {
        let dir = tempfile::tempdir().unwrap();
        DataDirectory::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("VERSION"), [0xff, 0xfe]).unwrap();
        std::fs::write(dir.path().join("SECRET"), "short").unwrap();
        std::fs::write(dir.path().join("staging/left.sst"), "x").unwrap();
        DataDirectory::open(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
        assert_eq!(std::fs::read(dir.path().join("VERSION")).unwrap(), b"chronolith 1\n");
    }
}
