//! Stream files: requests ready to be sent, so that a run can be repeated to the byte.
//!
//! A file is the 8 bytes `CHRSTR01`, the interval of scrapes in milliseconds (u64), then requests: lane (u32),
//! series in it (u32), time of its first sample in milliseconds (i64), length (u32), all big-endian, then a
//! body of remote write 1.0 as it goes over the wire. Requests of a lane hold the same series and follow
//! each other in time; a connection sends whole lanes.

use chronolith_model::append::AppendBatch;
use chronolith_wire::remote_write::{compress, decompress, v1};
use memmap2::Mmap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// First bytes of a stream file.
pub const MAGIC: &[u8; 8] = b"CHRSTR01";
/// No request of ours is larger.
const MAX_REQUEST_BYTES: usize = 1 << 30;

/// Writes a stream file.
#[derive(Debug)]
pub struct StreamWriter {
    out: BufWriter<File>,
    message: Vec<u8>,
}

impl StreamWriter {
    /// Creates the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path, interval: i64) -> Result<Self, String> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(|e| e.to_string())?);
        out.write_all(MAGIC)
            .and_then(|()| out.write_all(&interval.to_be_bytes()))
            .map_err(|e| e.to_string())?;
        Ok(Self { out, message: Vec::new() })
    }

    /// Appends a request.
    ///
    /// # Errors
    /// If labels do not decode or the file cannot be written.
    pub fn push(&mut self, lane: u32, batch: &AppendBatch<'_>) -> Result<(), String> {
        self.message.clear();
        v1::encode(batch, &mut self.message).map_err(|e| e.to_string())?;
        let body = compress(&self.message);
        let length = u32::try_from(body.len()).map_err(|_| "request over 4 GiB".to_owned())?;
        let mut head = Vec::with_capacity(20);
        head.extend(lane.to_be_bytes());
        head.extend((batch.series.len() as u32).to_be_bytes());
        head.extend(first_timestamp(batch).to_be_bytes());
        head.extend(length.to_be_bytes());
        self.out.write_all(&head).and_then(|()| self.out.write_all(&body)).map_err(|e| e.to_string())
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<(), String> {
        self.out.flush().map_err(|e| e.to_string())
    }
}

/// Time of the first sample of a batch; 0 if it has none.
pub fn first_timestamp(batch: &AppendBatch<'_>) -> i64 {
    let floats = batch.samples.first().map(|sample| sample.timestamp);
    let histograms = batch.histograms.first().map(|sample| sample.timestamp);
    floats.into_iter().chain(histograms).min().unwrap_or(0)
}

/// A stream file, mapped.
#[derive(Debug)]
pub struct StreamFile {
    map: Mmap,
    /// Between scrapes, milliseconds.
    pub interval: i64,
    /// Series of all requests: samples, if each has one.
    pub n_samples: u64,
}

struct Request<'a> {
    lane: u32,
    n_series: u32,
    body: &'a [u8],
}

impl StreamFile {
    /// Opens a stream file.
    ///
    /// # Errors
    /// If it cannot be read or is no stream of this program.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        // SAFETY: a stream is a finished file that nobody writes while it is sent.
        let map = unsafe { Mmap::map(&file).map_err(|e| e.to_string())? };
        let interval = map
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.first_chunk::<8>())
            .map(|bytes| i64::from_be_bytes(*bytes))
            .filter(|interval| *interval > 0)
            .ok_or("not a stream of this program")?;
        let mut stream = Self { map, interval, n_samples: 0 };
        stream.n_samples = stream.records().map(|request| u64::from(request.n_series)).sum();
        Ok(stream)
    }

    /// Requests in order; ends at the first that is cut.
    fn records(&self) -> impl Iterator<Item = Request<'_>> {
        let mut rest = &self.map[MAGIC.len() + 8..];
        std::iter::from_fn(move || {
            let (head, after) = rest.split_first_chunk::<20>()?;
            let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
            let (body, after) = after.split_at_checked(number(16) as usize)?;
            rest = after;
            Some(Request { lane: number(0), n_series: number(4), body })
        })
    }

    /// The requests of the lanes that connection `connection` of `connections` sends.
    ///
    /// # Errors
    /// If a request does not decode, or the first error of `send`.
    pub fn requests(
        &self,
        (connection, connections): (u32, u32),
        send: &mut dyn FnMut(&AppendBatch<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut message = Vec::new();
        for request in self.records().filter(|request| request.lane % connections == connection) {
            decompress(request.body, MAX_REQUEST_BYTES, &mut message).map_err(|e| e.to_string())?;
            let mut batch = AppendBatch::default();
            let rejected = v1::decode(&message, &mut batch).map_err(|e| e.to_string())?;
            if !rejected.is_empty() {
                return Err(format!("the stream holds what makes no sense: {:?}", rejected.reasons));
            }
            send(&batch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Fleet, Schedule, synthetic::Mixture};

    #[test]
    fn a_stream_gives_back_the_requests_of_each_lane_in_order() {
        let fleet = Fleet::synthetic(&Mixture { series: 30, histogram_share: 0.5, native_share: 0.1 }, 5);
        let schedule = Schedule {
            start: 1_000_000,
            interval: 1000,
            jitter: 100,
            scrapes: 3,
            churn_per_hour: 0.0,
            samples_per_request: 20,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream");
        let mut expected = Vec::new();
        let mut writer = StreamWriter::create(&path, 1000).unwrap();
        for lane in 0..4 {
            fleet
                .requests(&schedule, (lane, 4), &mut |batch| {
                    let mut message = Vec::new();
                    v1::encode(batch, &mut message).unwrap();
                    expected.push((lane, message));
                    writer.push(lane, batch)
                })
                .unwrap();
        }
        writer.finish().unwrap();
        let stream = StreamFile::open(&path).unwrap();
        assert_eq!((stream.n_samples, stream.interval), (5 * 30 * 3, 1000));
        for connection in 0..2 {
            let mut found = Vec::new();
            stream
                .requests((connection, 2), &mut |batch| {
                    let mut message = Vec::new();
                    v1::encode(batch, &mut message).unwrap();
                    found.push(message);
                    Ok(())
                })
                .unwrap();
            let of_connection = expected.iter().filter(|(lane, _)| lane % 2 == connection);
            assert_eq!(found, of_connection.map(|(_, message)| message.clone()).collect::<Vec<_>>());
        }
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(StreamFile::open(&path).unwrap().n_samples < 5 * 30 * 3);
        std::fs::write(&path, b"something else").unwrap();
        assert!(StreamFile::open(&path).is_err());
    }
}
