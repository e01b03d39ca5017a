//! Batches as request bodies.

use chronolith_model::append::{AppendBatch, SeriesKey};
use chronolith_wire::remote_write::{compress, v1, v2};
use std::io::Write as _;

/// How samples travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Remote write 1.0.
    V1,
    /// Remote write 2.0.
    V2,
    /// Exposition text with timestamps, as VictoriaMetrics imports it.
    Import,
}

impl Format {
    /// By its name on the command line.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "v1" => Self::V1,
            "v2" => Self::V2,
            "import" => Self::Import,
            _ => return None,
        })
    }

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Import => "import",
        }
    }

    /// For readers.
    pub const fn title(self) -> &'static str {
        match self {
            Self::V1 => "remote write 1.0",
            Self::V2 => "remote write 2.0",
            Self::Import => "text import",
        }
    }

    /// Where servers usually take it.
    pub const fn path(self) -> &'static str {
        match self {
            Self::V1 | Self::V2 => "/api/v1/write",
            Self::Import => "/api/v1/import/prometheus",
        }
    }

    /// Headers of a request.
    pub const fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::V1 => &[
                ("Content-Type", "application/x-protobuf"),
                ("Content-Encoding", "snappy"),
                ("X-Prometheus-Remote-Write-Version", "0.1.0"),
            ],
            Self::V2 => &[
                ("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
                ("Content-Encoding", "snappy"),
                ("X-Prometheus-Remote-Write-Version", "2.0.0"),
            ],
            Self::Import => &[("Content-Type", "text/plain")],
        }
    }
}

/// Makes bodies; keeps its buffers.
#[derive(Debug)]
pub struct Encoder {
    format: Format,
    message: Vec<u8>,
    body: Vec<u8>,
}

impl Encoder {
    /// An encoder for a format.
    pub const fn new(format: Format) -> Self {
        Self { format, message: Vec::new(), body: Vec::new() }
    }

    /// The body of a request.
    ///
    /// # Errors
    /// If labels do not decode, or the format has no place for native histograms.
    pub fn encode(&mut self, batch: &AppendBatch<'_>) -> Result<&[u8], String> {
        self.message.clear();
        match self.format {
            Format::V1 => v1_message(batch, &mut self.message)?,
            Format::V2 => v2::encode(batch, &mut self.message).map_err(|e| e.to_string())?,
            Format::Import => {
                text(batch, &mut self.message)?;
                return Ok(&self.message);
            }
        }
        self.body = compress(&self.message);
        Ok(&self.body)
    }
}

/// Like [`v1::encode`]; labels that are encoded already are copied instead of read and written again: the
/// sender shares the machine with the server that it measures.
fn v1_message(batch: &AppendBatch<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let plain = batch.histograms.is_empty() && batch.exemplars.is_empty() && batch.metadata.is_empty();
    if !plain || batch.series.iter().any(|series| !matches!(series.key, SeriesKey::Encoded(_))) {
        return v1::encode(batch, out).map_err(|e| e.to_string());
    }
    let mut samples = Vec::new();
    for series in &batch.series {
        let SeriesKey::Encoded(key) = series.key else { unreachable!("checked above") };
        samples.clear();
        for sample in &batch.samples[series.samples.start as usize..series.samples.end as usize] {
            let at = samples.len();
            // Field 2, whose fields are 1, a double, and 2, a varint of at most ten bytes.
            samples.extend_from_slice(&[0x12, 0, 0x09]);
            samples.extend_from_slice(&sample.value.to_le_bytes());
            samples.push(0x10);
            put_varint(&mut samples, sample.timestamp.cast_unsigned());
            samples[at + 1] = (samples.len() - at - 2) as u8;
        }
        out.push(0x0a);
        put_varint(out, (key.len() + samples.len()) as u64);
        out.extend_from_slice(key);
        out.extend_from_slice(&samples);
    }
    Ok(())
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn text(batch: &AppendBatch<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    if !batch.histograms.is_empty() {
        return Err("text import has no place for native histograms".to_owned());
    }
    let mut pairs = Vec::new();
    for series in &batch.series {
        let SeriesKey::Encoded(key) = series.key else { return Err("series are not encoded".to_owned()) };
        pairs.clear();
        (batch.decode)(key, &mut pairs).map_err(|e| e.to_string())?;
        let mut head = Vec::new();
        let name = pairs.iter().find(|(name, _)| *name == "__name__").map_or("", |(_, name)| name);
        head.extend_from_slice(name.as_bytes());
        for (at, (name, value)) in pairs.iter().filter(|(name, _)| *name != "__name__").enumerate() {
            head.push(if at == 0 { b'{' } else { b',' });
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b"=\"");
            head.extend_from_slice(escaped(value).as_bytes());
            head.push(b'"');
        }
        if pairs.len() > 1 {
            head.push(b'}');
        }
        for sample in &batch.samples[series.samples.start as usize..series.samples.end as usize] {
            out.extend_from_slice(&head);
            // Writing to a vector cannot fail.
            let _ = writeln!(out, " {} {}", number(sample.value), sample.timestamp);
        }
    }
    Ok(())
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_model::append::{BatchSeries, Sample};
    use chronolith_wire::exposition::{Entry, Format as TextFormat, Parser};

    fn batch<'a>(key: &'a [u8], samples: &[(i64, f64)]) -> AppendBatch<'a> {
        let samples: Vec<Sample> = samples
            .iter()
            .map(|&(timestamp, value)| Sample { timestamp, value, start_timestamp: 0 })
            .collect();
        let series = BatchSeries {
            key: SeriesKey::Encoded(key),
            samples: 0..samples.len() as u32,
            histograms: 0..0,
            exemplars: 0..0,
        };
        AppendBatch { series: vec![series], samples, decode: v1::decode_labels, ..AppendBatch::default() }
    }

    fn key() -> Vec<u8> {
        let mut key = Vec::new();
        v1::put_labels(&mut key, [("__name__", "a"), ("b", "quo\"te\\\n")].into_iter());
        key
    }

    #[test]
    fn the_quick_message_means_what_the_plain_one_means() {
        let key = key();
        let batch = batch(&key, &[(1, 2.5), (-3, f64::NAN), (i64::MAX, -0.0)]);
        let mut message = Vec::new();
        v1_message(&batch, &mut message).unwrap();
        let mut decoded = AppendBatch::default();
        assert!(v1::decode(&message, &mut decoded).unwrap().is_empty());
        let bits = |batch: &AppendBatch<'_>| {
            batch.samples.iter().map(|s| (s.timestamp, s.value.to_bits())).collect::<Vec<_>>()
        };
        assert_eq!(bits(&decoded), bits(&batch));
        let SeriesKey::Encoded(found) = decoded.series[0].key else { panic!("encoded") };
        assert_eq!(found, key);
    }

    #[test]
    fn text_reads_back() {
        let key = key();
        let mut out = Vec::new();
        text(&batch(&key, &[(5, 1e300), (6, f64::NEG_INFINITY)]), &mut out).unwrap();
        let mut parser = Parser::new(&out, TextFormat::Text);
        let mut found = Vec::new();
        while let Some(entry) = parser.next_entry().unwrap() {
            let Entry::Series(series) = entry else { continue };
            assert_eq!(series.labels().unwrap().get("b"), Some("quo\"te\\\n"));
            found.push((series.timestamp, series.value));
        }
        assert_eq!(found, [(Some(5), 1e300), (Some(6), f64::NEG_INFINITY)]);
    }
}
