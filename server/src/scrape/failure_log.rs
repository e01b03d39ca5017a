//! `scrape_failure_log_file`: a line of JSON for each scrape that fails.
//!
//! Source: Prometheus v3.14, `util/logging/file.go` and `scrape/scrape.go`, `setScrapeFailureLogger`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A log that failed scrapes of one job are written to. Several may share a file: each line is one write
/// to its end.
#[derive(Debug)]
pub(super) struct FailureLog {
    path: PathBuf,
    file: File,
    job: String,
}

impl FailureLog {
    /// Opens the file, which is made if it is not there. A reload opens it anew, so that it can be rotated.
    ///
    /// # Errors
    /// Which file cannot be opened, and why.
    pub fn open(path: &Path, job: &str) -> Result<Self, String> {
        let opened = OpenOptions::new().append(true).create(true).open(path);
        let file = opened
            .map_err(|error| format!("cannot open scrape_failure_log_file {}: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), file, job: job.to_owned() })
    }

    /// Writes down that a scrape failed.
    pub fn write(&self, target: &str, reason: &str) {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        let line = serde_json::json!({
            "time": now, "level": "ERROR", "msg": reason, "job_name": self.job, "target": target,
        });
        // A scrape goes on without its line in the log; that the disk is full is told elsewhere.
        if let Err(error) = (&self.file).write_all(format!("{line}\n").as_bytes()) {
            tracing::warn!(path = %self.path.display(), %error, "cannot write to the log of failed scrapes");
        }
    }
}
