//! Recorded `/metrics` pages: the file format, recording, and reading.
//!
//! A file is the 8 bytes `CHRREC01`, then records: length of the job name (u16), time of the scrape in
//! milliseconds (i64), length of the page (u32), all big-endian, then name and page.

use crate::http::{Client, Url};
use memmap2::Mmap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const MAGIC: &[u8; 8] = b"CHRREC01";

/// One recorded page.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Name given when recording.
    pub job: &'a str,
    /// When it was scraped, milliseconds since the epoch.
    pub timestamp: i64,
    /// The page as it was served.
    pub body: &'a [u8],
}

/// A recording, mapped.
#[derive(Debug)]
pub struct Recording {
    map: Mmap,
}

impl Recording {
    /// Opens a recording.
    ///
    /// # Errors
    /// If the file cannot be read or is no recording.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: a recording is a finished file that nobody writes while it is replayed.
        let map = unsafe { Mmap::map(&file)? };
        if !map.starts_with(MAGIC) {
            let text = format!("{} is not a recording of this program", path.display());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
        }
        Ok(Self { map })
    }

    /// The pages in the order of recording; ends at the first record that is cut.
    pub fn pages(&self) -> impl Iterator<Item = Page<'_>> {
        let mut rest = &self.map[MAGIC.len()..];
        std::iter::from_fn(move || {
            let (name_length, after) = rest.split_first_chunk::<2>()?;
            let (timestamp, after) = after.split_first_chunk::<8>()?;
            let (body_length, after) = after.split_first_chunk::<4>()?;
            let (name, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*name_length)))?;
            let (body, after) = after.split_at_checked(u32::from_be_bytes(*body_length) as usize)?;
            rest = after;
            let job = std::str::from_utf8(name).ok()?;
            Some(Page { job, timestamp: i64::from_be_bytes(*timestamp), body })
        })
    }
}

/// Records pages of several targets, `count` times.
///
/// # Errors
/// If a target does not answer or the file cannot be written.
pub fn record(targets: &[(String, Url)], interval: Duration, count: u32, path: &Path) -> Result<(), String> {
    let mut out = BufWriter::new(File::create(path).map_err(|e| format!("{}: {e}", path.display()))?);
    let write = |out: &mut BufWriter<File>, bytes: &[u8]| out.write_all(bytes).map_err(|e| e.to_string());
    write(&mut out, MAGIC)?;
    let mut clients: Vec<Client> =
        targets.iter().map(|(_, url)| Client::new(url.authority.clone(), Duration::from_secs(10))).collect();
    let start = Instant::now();
    for i in 0..count {
        std::thread::sleep((start + interval * i).saturating_duration_since(Instant::now()));
        for ((job, url), client) in targets.iter().zip(&mut clients) {
            let response = client.get(&url.path).map_err(|e| format!("{}: {e}", url.authority))?;
            if response.status != 200 {
                return Err(format!("{}: status {}", url.authority, response.status));
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?;
            let name_length = u16::try_from(job.len()).map_err(|_| format!("job name {job} is too long"))?;
            let body_length = u32::try_from(response.body.len()).map_err(|_| "page over 4 GiB".to_owned())?;
            write(&mut out, &name_length.to_be_bytes())?;
            write(&mut out, &(now.as_millis() as i64).to_be_bytes())?;
            write(&mut out, &body_length.to_be_bytes())?;
            write(&mut out, job.as_bytes())?;
            write(&mut out, &response.body)?;
        }
        eprint!("\rrecorded {} of {count}", i + 1);
    }
    eprintln!();
    out.flush().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_recording_ends_before_the_cut() {
        let mut bytes = MAGIC.to_vec();
        for (job, body) in [("a", "x 1\n"), ("b", "y 2\n")] {
            bytes.extend((job.len() as u16).to_be_bytes());
            bytes.extend(7i64.to_be_bytes());
            bytes.extend((body.len() as u32).to_be_bytes());
            bytes.extend(job.bytes().chain(body.bytes()));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Recording::open(&path).unwrap().pages().count(), 2);
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let recording = Recording::open(&path).unwrap();
        let pages: Vec<_> = recording.pages().collect();
        assert_eq!(pages.len(), 1);
        assert_eq!((pages[0].job, pages[0].timestamp, pages[0].body), ("a", 7, &b"x 1\n"[..]));
        std::fs::write(&path, b"something else").unwrap();
        assert!(Recording::open(&path).is_err());
    }
}
