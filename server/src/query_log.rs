//! The query log (`global.query_log_file`): a line of JSON for each query that was evaluated or waited.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `exec`, `util/logging/file.go`, and `log/slog` of Go.

use crate::api::json::{self, Object};
use crate::queries::Asked;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

/// The log that is in force, if there is one.
#[derive(Debug, Default)]
pub struct QueryLog(ArcSwapOption<LogFile>);

/// An open log.
#[derive(Debug)]
pub struct LogFile(Mutex<Output>);

#[derive(Debug)]
struct Output {
    file: File,
    /// Whether the last line could be written: only the first failure in a row is told.
    is_well: bool,
}

impl LogFile {
    /// Opens a log for appending; made if it is not there.
    ///
    /// # Errors
    /// What is wrong with the file, in words for the log.
    pub fn open(path: &Path) -> Result<Self, String> {
        match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => Ok(Self(Mutex::new(Output { file, is_well: true }))),
            Err(error) => Err(format!("can't create json log file: open {}: {error}", path.display())),
        }
    }
}

impl QueryLog {
    /// From here on queries go to this file, or nowhere.
    pub fn set(&self, file: Option<LogFile>) {
        self.0.store(file.map(Arc::new));
    }

    /// Writes the line of a query; `stats` writes its statistics.
    pub fn write(&self, asked: &Asked, error: Option<&str>, stats: impl FnOnce(&mut Vec<u8>)) {
        let Some(log) = &*self.0.load() else { return };
        if asked.origin.is_rehearsed {
            return;
        }
        let line = line(&rfc3339_nanos(), asked, error, stats);
        let mut output = log.0.lock();
        // One write a line, so that lines stay whole whoever else appends.
        let result = output.file.write_all(&line);
        if let (Err(error), true) = (&result, output.is_well) {
            tracing::error!(err = %error, "can't log query");
        }
        output.is_well = result.is_ok();
    }
}

/// File and line of the statement that logs, which Prometheus's log has, too.
const SOURCE: &str = concat!("query_log.rs:", line!());

fn line(time: &str, asked: &Asked, error: Option<&str>, stats: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + asked.text.len());
    let mut object = Object::new(&mut out);
    object
        .string("time", time)
        .string("level", "INFO")
        .string("source", SOURCE)
        .string("msg", "promql query logged");
    let mut params = Object::new(object.key("params"));
    params.string("end", &date(asked.end));
    json::raw_string(params.key("query"), &asked.text);
    params.string("start", &date(asked.start)).integer("step", asked.step_ms / 1000);
    params.end();
    if let Some(error) = error {
        json::raw_string(object.key("error"), error);
    }
    stats(object.key("stats"));
    // There are no traces, which Prometheus says with zeros.
    object.string("spanID", &"0".repeat(16)).string("traceID", &"0".repeat(32));
    let mut request = Object::new(object.key("httpRequest"));
    let client = asked.origin.client.map(|client| client.to_string()).unwrap_or_default();
    request.string("clientIP", &client).string("method", &asked.origin.method);
    json::raw_string(request.key("path"), &asked.origin.path);
    request.end();
    object.end();
    out.push(b'\n');
    out
}

/// The time now, as Go's RFC3339Nano.
fn rfc3339_nanos() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.fZ").to_string()
}

/// Milliseconds since the epoch as `2006-01-02T15:04:05.000Z`.
fn date(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        // Beyond the years that the calendar knows.
        Err(_) => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queries::Origin;

    #[test]
    fn a_line_has_the_keys_of_prometheus_in_their_order() {
        let asked = Asked {
            text: "up > 0".to_owned(),
            start: 1_700_000_000_000,
            end: 1_700_000_060_050,
            step_ms: 15_000,
            origin: Origin {
                client: Some([127, 0, 0, 1].into()),
                method: "GET".to_owned(),
                path: "/api/v1/query_range".to_owned(),
                is_rehearsed: false,
            },
        };
        let stats = |out: &mut Vec<u8>| out.extend_from_slice(b"{}");
        let text =
            String::from_utf8(line("T", &asked, Some("a < b"), stats)).unwrap().replace(SOURCE, "SOURCE");
        assert_eq!(
            text,
            "{\"time\":\"T\",\"level\":\"INFO\",\"source\":\"SOURCE\",\"msg\":\"promql query logged\",\"params\":{\"end\":\"2023-11-14T22:14:20.050Z\",\"query\":\"up > 0\",\"start\":\"2023-11-14T22:13:20.000Z\",\"step\":15},\"error\":\"a < b\",\"stats\":{},\"spanID\":\"0000000000000000\",\"traceID\":\"00000000000000000000000000000000\",\"httpRequest\":{\"clientIP\":\"127.0.0.1\",\"method\":\"GET\",\"path\":\"/api/v1/query_range\"}}\n"
        );
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = LogFile::open(Path::new("/does/not/exist.log")).unwrap_err();
        assert!(error.starts_with("can't create json log file: open /does/not/exist.log: "), "{error}");
    }
}
