//! Quarantine: damaged blocks and files are moved aside and reported, never deleted.
//!
//! `quarantine/report.tsv` has a line per loss, fields separated by tabs: when it was found, what it
//! is, first and last timestamp that may be missing (`-` if not known), where the bytes are kept (`-`
//! if they are not), what is wrong. It is only ever appended to; a user who has dealt with a loss
//! removes its line or the file.

use crate::error::StorageError;
use crate::metrics::LostRange;
use parking_lot::Mutex;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// More lines than this are not read back; the newest count.
const MAX_REPORTED: usize = 10_000;

/// The quarantine folder of a store and what it reports.
#[derive(Debug)]
pub struct Quarantine {
    path: PathBuf,
    lost: Mutex<Vec<LostRange>>,
}

impl Quarantine {
    /// Opens the folder and reads its report. A damaged report loses lines, nothing else.
    pub fn open(path: PathBuf) -> Self {
        let text = std::fs::read(path.join("report.tsv")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lost: Vec<LostRange> = text.lines().filter_map(parse).collect();
        let excess = lost.len().saturating_sub(MAX_REPORTED);
        lost.drain(..excess);
        Self { path, lost: Mutex::new(lost) }
    }

    /// What was lost since the store exists.
    pub fn lost(&self) -> Vec<LostRange> {
        self.lost.lock().clone()
    }

    /// How many losses.
    pub fn n_lost(&self) -> u64 {
        self.lost.lock().len() as u64
    }

    /// A folder for one case, made now: `quarantine/<name>`, with a number behind it if that is taken.
    ///
    /// # Errors
    /// [`StorageError::Io`] if it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf, StorageError> {
        for n in 0.. {
            let folder = if n == 0 { self.path.join(name) } else { self.path.join(format!("{name}.{n}")) };
            match std::fs::create_dir(&folder) {
                Ok(()) => return Ok(folder),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StorageError::io("create", folder, error)),
            }
        }
        unreachable!("a free number is found before numbers end")
    }

    /// Keeps a second link to a file, or a copy where links do not work. The file itself stays.
    ///
    /// # Errors
    /// [`StorageError::Io`] if neither works; a file that is not there is no error.
    pub fn keep(&self, file: &Path, folder: &Path) -> Result<(), StorageError> {
        let Some(name) = file.file_name() else { return Ok(()) };
        let target = folder.join(name);
        match std::fs::hard_link(file, &target) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(_) => std::fs::copy(file, &target)
                .map(|_| ())
                .map_err(|error| StorageError::io("copy", file, error)),
        }
    }

    /// Notes a loss, in memory and in the report, and says it in the log. The same loss is noted once.
    pub fn report(&self, loss: LostRange) {
        let mut lost = self.lost.lock();
        if lost.iter().any(|known| known.what == loss.what && known.reason == loss.reason) {
            return;
        }
        tracing::error!(
            what = %loss.what, range = ?loss.range, reason = %loss.reason, kept_at = ?loss.kept_at,
            "data is damaged and cannot be served"
        );
        let path = self.path.join("report.tsv");
        let append = OpenOptions::new().append(true).create(true).open(&path).and_then(|mut file| {
            file.write_all(format(&loss).as_bytes())?;
            file.sync_all()
        });
        if let Err(error) = append {
            tracing::error!(path = %path.display(), %error, "cannot write the report of losses");
        }
        lost.push(loss);
    }
}

fn format(loss: &LostRange) -> String {
    let clean = |text: &str| text.replace(['\t', '\n', '\r'], " ");
    let (mint, maxt) = match loss.range {
        Some((mint, maxt)) => (mint.to_string(), maxt.to_string()),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let kept_at = loss.kept_at.as_ref().map_or("-".to_owned(), |path| clean(&path.to_string_lossy()));
    let (what, reason) = (clean(&loss.what), clean(&loss.reason));
    format!("{}\t{what}\t{mint}\t{maxt}\t{kept_at}\t{reason}\n", loss.found_at)
}

fn parse(line: &str) -> Option<LostRange> {
    let mut fields = line.split('\t');
    let found_at = fields.next()?.parse().ok()?;
    let what = fields.next()?.to_owned();
    let mint = fields.next()?.parse().ok();
    let maxt = fields.next()?.parse().ok();
    let kept_at = Some(fields.next()?).filter(|&path| path != "-").map(PathBuf::from);
    let reason = fields.next()?.to_owned();
    Some(LostRange { what, range: mint.zip(maxt), reason, kept_at, found_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(what: &str, range: Option<(i64, i64)>) -> LostRange {
        LostRange {
            what: what.into(),
            range,
            reason: "bad checksum".into(),
            kept_at: range.map(|_| PathBuf::from("/q/x")),
            found_at: 5,
        }
    }

    #[test]
    fn losses_are_still_known_after_a_restart_and_noted_once() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::open(dir.path().to_owned());
        quarantine.report(loss("block 1", Some((-3, 4))));
        quarantine.report(loss("file x", None));
        quarantine.report(loss("file x", None));
        let again = Quarantine::open(dir.path().to_owned());
        assert_eq!(again.lost(), [loss("block 1", Some((-3, 4))), loss("file x", None)]);
    }

    #[test]
    fn a_damaged_report_loses_its_bad_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("report.tsv"),
            b"\xff\xfe\n5\tblock 1\t-3\t4\t/q/x\tbad checksum\n1\t",
        )
        .unwrap();
        assert_eq!(Quarantine::open(dir.path().to_owned()).lost(), [loss("block 1", Some((-3, 4)))]);
    }

    #[test]
    fn folders_of_the_same_name_get_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::open(dir.path().to_owned());
        assert_ne!(quarantine.folder("a").unwrap(), quarantine.folder("a").unwrap());
    }
}
