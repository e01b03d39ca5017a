//! `queries.active`: the queries that run, in a file of the data directory, so that the start after a kill
//! can say what was running then.
//!
//! The file has Prometheus's form: `[`, then a slot of 1,000 bytes for each query that may run at once, with
//! `{"query":..,"timestamp_sec":..}`, zeros and a comma at its end, or zeros alone. Slots are written to the
//! page cache and never synced: that survives the process, which is what it is for, and not the machine.
//! Whole pages are written, so that none has to be read before. Entering and leaving a slot took 1.7 µs together on a file
//! in the page cache, with slots alone. Whatever is wrong with the file, queries run and the server starts.
//!
//! Source: Prometheus v3.14, `promql/query_logger.go`, `ActiveQueryTracker`.

use crate::api::json;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The file, in the data directory.
pub const FILE_NAME: &str = "queries.active";

/// Bytes of a slot; the text of a longer query is cut.
const SLOT_BYTES: usize = 1000;
/// Bytes of a page of the page cache; where pages are larger, one may be read before it is written.
const PAGE_BYTES: usize = 4096;
/// Slots of a file at most, some 10 MB; queries beyond run without one.
const MAX_SLOTS: usize = 10_000;
/// Queries that a start names; of more it tells the number.
const N_NAMED: usize = 100;

/// Where running queries are written to.
#[derive(Debug)]
pub struct ActiveFile {
    file: File,
    /// What is in the file.
    bytes: Mutex<Vec<u8>>,
    /// Slots of no query, the next one last.
    free: Mutex<Vec<u32>>,
    /// Whether slots could not be written: only the first failure is told.
    has_failed: AtomicBool,
}

/// What the server before this one was working on when it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Each as in the file: `{"query":"up","timestamp_sec":1700000000}`.
    pub queries: Vec<String>,
    /// Slots that hold anything else.
    pub n_damaged: usize,
}

impl ActiveFile {
    /// Reads what the last run left in `folder` and begins a file with `n_slots` slots, all free.
    ///
    /// # Errors
    /// The file cannot be made; what was read is lost with it.
    pub fn open(folder: &Path, n_slots: usize) -> io::Result<(Self, Unfinished)> {
        let path = folder.join(FILE_NAME);
        let n_slots = n_slots.clamp(1, MAX_SLOTS);
        let unfinished = match read(&path) {
            Ok(bytes) => parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Unfinished::default(),
            Err(_) => Unfinished { n_damaged: 1, ..Unfinished::default() },
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let file = options.open(&path).or_else(|_| {
            // It may be somebody else's.
            std::fs::remove_file(&path)?;
            options.open(&path)
        })?;
        let mut bytes = vec![0; 1 + n_slots * SLOT_BYTES];
        bytes[0] = b'[';
        file.set_len(bytes.len() as u64)?;
        file.write_all_at(&bytes[..1], 0)?;
        let free = Mutex::new((0..n_slots as u32).rev().collect());
        let has_failed = AtomicBool::new(false);
        Ok((Self { file, bytes: Mutex::new(bytes), free, has_failed }, unfinished))
    }

    /// Writes a query to a free slot, where it stays as long as what comes back lives; nothing if there is
    /// none or it cannot be written.
    pub fn enter(self: &Arc<Self>, text: &str, now: SystemTime) -> Option<Slot> {
        let slot = self.free.lock().pop()?;
        // Dropped, and with that freed, if the entry cannot be written.
        let slot = Slot { file: Arc::clone(self), slot };
        self.write(slot.slot, &entry(text, now)).then_some(slot)
    }

    fn write(&self, slot: u32, entry: &[u8; SLOT_BYTES]) -> bool {
        let at = 1 + slot as usize * SLOT_BYTES;
        let result = {
            let mut bytes = self.bytes.lock();
            bytes[at..at + SLOT_BYTES].copy_from_slice(entry);
            let start = at - at % PAGE_BYTES;
            let end = (at + SLOT_BYTES).next_multiple_of(PAGE_BYTES).min(bytes.len());
            self.file.write_all_at(&bytes[start..end], start as u64)
        };
        if let Err(error) = &result
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(err = %error, file = FILE_NAME, "cannot write down which queries run");
        }
        result.is_ok()
    }
}

/// The slot of a running query.
#[derive(Debug)]
pub struct Slot {
    file: Arc<ActiveFile>,
    slot: u32,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.file.write(self.slot, &[0; SLOT_BYTES]);
        self.file.free.lock().push(self.slot);
    }
}

/// A slot with a query that began at `now`; its text is cut to fit.
fn entry(text: &str, now: SystemTime) -> [u8; SLOT_BYTES] {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let end = format!(",\"timestamp_sec\":{seconds}}}");
    let mut out = Vec::with_capacity(SLOT_BYTES);
    // What may lie before the comma that ends a slot.
    let room = SLOT_BYTES - 1 - end.len();
    let mut text = &text[..text.floor_char_boundary(room)];
    loop {
        out.clear();
        out.extend_from_slice(b"{\"query\":");
        json::string(&mut out, text);
        let Some(excess) = out.len().checked_sub(room + 1) else { break };
        // Each byte that goes takes at least itself and at most six bytes of JSON with it.
        text = &text[..text.floor_char_boundary(text.len() - 1 - excess / 6)];
    }
    out.extend_from_slice(end.as_bytes());
    let mut slot = [0; SLOT_BYTES];
    slot[..out.len()].copy_from_slice(&out);
    slot[SLOT_BYTES - 1] = b',';
    slot
}

/// The bytes of a file, as many as slots may take.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take((1 + MAX_SLOTS * SLOT_BYTES) as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The entries of a file, of whatever number of slots.
fn parse(bytes: &[u8]) -> Unfinished {
    #[derive(serde::Deserialize)]
    struct Entry {
        query: String,
        timestamp_sec: i64,
    }
    let mut found = Unfinished::default();
    let Some((first, slots)) = bytes.split_first() else { return found };
    found.n_damaged += usize::from(*first != b'[');
    for slot in slots.chunks(SLOT_BYTES) {
        let slot = slot.strip_suffix(b",").unwrap_or(slot);
        let n_used = slot.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if n_used == 0 {
            continue;
        }
        match serde_json::from_slice::<Entry>(&slot[..n_used]) {
            Ok(Entry { query, timestamp_sec }) => {
                let mut text = b"{\"query\":".to_vec();
                json::raw_string(&mut text, &query);
                text.extend_from_slice(format!(",\"timestamp_sec\":{timestamp_sec}}}").as_bytes());
                found.queries.push(String::from_utf8_lossy(&text).into_owned());
            }
            Err(_) => found.n_damaged += 1,
        }
    }
    found
}

/// Opens the file of a data directory and logs what it says about the last run.
pub fn begin(folder: &Path, n_slots: usize) -> Option<Arc<ActiveFile>> {
    let path = folder.join(FILE_NAME);
    let (file, unfinished) = match ActiveFile::open(folder, n_slots) {
        Ok(opened) => opened,
        Err(error) => {
            let hint = "running queries are not written down; remove what lies there and start again";
            tracing::warn!(path = %path.display(), err = %error, "{hint}");
            return None;
        }
    };
    if unfinished.n_damaged > 0 {
        let n_entries = unfinished.n_damaged;
        tracing::warn!(path = %path.display(), n_entries, "the file of running queries was damaged; it was replaced");
    }
    if !unfinished.queries.is_empty() {
        let n_queries = unfinished.queries.len();
        let named = unfinished.queries[..n_queries.min(N_NAMED)].join(",");
        tracing::warn!(
            queries = format!("[{named}]"),
            n_queries,
            "These queries didn't finish in the last run:"
        );
    }
    Some(Arc::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const AT: SystemTime = UNIX_EPOCH;

    fn open(folder: &Path, n_slots: usize) -> (Arc<ActiveFile>, Unfinished) {
        let (file, unfinished) = ActiveFile::open(folder, n_slots).unwrap();
        (Arc::new(file), unfinished)
    }

    fn entries(texts: &[&str]) -> Unfinished {
        let entry = |text: &&str| format!("{{\"query\":{text},\"timestamp_sec\":0}}");
        Unfinished { queries: texts.iter().map(entry).collect(), n_damaged: 0 }
    }

    #[test]
    fn what_runs_when_the_process_ends_is_told_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (file, unfinished) = open(folder.path(), 3);
        assert_eq!(unfinished, Unfinished::default());
        let first = file.enter("up", AT).unwrap();
        let second = file.enter("rate(x{a=\"<\u{e9}>\n\"}[5m])", AT).unwrap();
        let third = file.enter("third", AT).unwrap();
        assert!(file.enter("one too many", AT).is_none());
        drop(second);
        let fourth = file.enter("a > b", AT).unwrap();
        drop(first);
        // The bytes are those that Prometheus maps; nothing is written when the process is killed.
        let bytes = std::fs::read(folder.path().join(FILE_NAME)).unwrap();
        assert_eq!(bytes.len(), 1 + 3 * SLOT_BYTES);
        assert_eq!((bytes[0], bytes[1], bytes[1000], bytes[2000]), (b'[', 0, 0, b','));
        let text = b"{\"query\":\"a \\u003e b\",\"timestamp_sec\":0}\0";
        assert_eq!(&bytes[1001..1001 + text.len()], text);
        std::mem::forget((third, fourth));

        // Another number of slots is no obstacle.
        let (file, unfinished) = open(folder.path(), 1);
        assert_eq!(unfinished, entries(&["\"a > b\"", "\"third\""]));
        drop(file);
        assert_eq!(open(folder.path(), 1).1, Unfinished::default());
    }

    #[test]
    fn long_queries_are_cut_where_a_character_ends() {
        let now = AT + Duration::from_secs(1_700_000_000);
        for text in [
            "x".repeat(5000),
            "\u{20ac}".repeat(700),
            "\u{1}<".repeat(500),
            "\"".repeat(1000),
            "\u{1}".repeat(200),
        ] {
            let slot = entry(&text, now);
            assert_eq!(slot[SLOT_BYTES - 1], b',');
            let n_used = slot[..SLOT_BYTES - 1].iter().rposition(|byte| *byte != 0).unwrap() + 1;
            assert!(n_used >= SLOT_BYTES - 7, "{n_used}");
            let found: serde_json::Value = serde_json::from_slice(&slot[..n_used]).unwrap();
            assert!(text.starts_with(found["query"].as_str().unwrap()));
            assert_eq!(found["timestamp_sec"], 1_700_000_000);
        }
    }

    #[test]
    fn damaged_files_are_counted_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let good = |text: &str| entry(text, AT).to_vec();
        let cases: [(Vec<u8>, usize, usize); 7] = [
            (Vec::new(), 0, 0),
            (b"[".to_vec(), 0, 0),
            ([b"x".to_vec(), good("a"), vec![0; 1000]].concat(), 1, 1),
            ([b"[".to_vec(), good("a")[..40].to_vec()].concat(), 1, 0),
            ([b"[".to_vec(), good("a")[..20].to_vec()].concat(), 0, 1),
            ([b"[".to_vec(), vec![0xff; 1700], good("b")].concat(), 0, 2),
            ([b"[".to_vec(), b"{\"query\":7}".to_vec(), vec![0; 989], good("b")].concat(), 1, 1),
        ];
        for (bytes, n_queries, n_damaged) in cases {
            std::fs::write(&path, &bytes).unwrap();
            let (file, found) = open(folder.path(), 2);
            assert_eq!(
                (found.queries.len(), found.n_damaged),
                (n_queries, n_damaged),
                "{} bytes",
                bytes.len()
            );
            assert!(file.enter("up", AT).is_some());
        }
        // Not even a folder in its place ends a start.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(begin(folder.path(), 2).is_none());
    }
}
