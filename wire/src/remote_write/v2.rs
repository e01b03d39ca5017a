//! `io.prometheus.write.v2.Request`, the message of remote write 2.0.
//!
//! Strings are sent once, as symbols, and named by number. Whether the numbers of a series make sense
//! is checked here, series by series; what its labels mean is left to the storage engine.
//!
//! Source: Prometheus v3.14, `prompb/io/prometheus/write/v2/types.proto` and
//! `storage/remote/write_handler.go` (`appendV2`).

use super::histograms::{HistogramDecoder, put_histogram, retain_valid};
use super::outline::take_samples;
use super::protobuf::{
    BYTES, DecodeError, DecodeErrorKind, Reader, put_bytes, put_double, put_integer, put_message, put_packed,
    short_numbers,
};
use super::v1::{batch_labels, metric_type_of};
use super::{Rejected, exemplar, series_text};
use chronolith_model::append::{
    AppendBatch, BatchSeries, InvalidLabels, Metadata, MetricType, Sample, SeriesKey,
};
use chronolith_model::labels::METRIC_NAME;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Bytes of a series with few labels and one sample, its part of the symbols included: room for so many is made
/// at once.
const USUAL_SERIES_BYTES: usize = 40;

/// Decodes a decompressed request into an empty batch. `refs` receives the symbol numbers of all
/// series, which the keys of the batch borrow; it can be reused for the next request as it is.
///
/// Series come in the order of the request. Those whose numbers reach beyond the symbols, that have an
/// odd count of them, use text that is not UTF-8, or have neither sample nor histogram, are left out
/// and reported. Metadata is told once for each family: of a histogram or summary its series' name
/// without `_bucket`, `_count` and `_sum`. Histograms are validated, and those finer than schema 8 reduced
/// to it; those that contradict themselves are left out and reported.
///
/// # Errors
/// [`DecodeError`] if the bytes are no such message, or if the symbols do not start with the empty
/// string; the batch is then of no use.
pub fn decode<'a>(
    body: &'a [u8],
    refs: &'a mut Vec<u32>,
    batch: &mut AppendBatch<'a>,
) -> Result<Rejected, DecodeError> {
    *batch = AppendBatch::default();
    let invalid_symbols = symbols(body, &mut batch.symbols)?;
    let mut decoder = Decoder {
        batch,
        refs: Numbers { room: refs, len: 0 },
        key_ranges: Vec::new(),
        invalid_symbols,
        known_metadata: HashSet::new(),
        rejected: Rejected::default(),
        histograms: HistogramDecoder::new(body.len()),
        scratch: Vec::new(),
    };
    let mut reader = Reader::new(body, "request");
    let room = body.len() / USUAL_SERIES_BYTES;
    decoder.batch.series.reserve(room);
    decoder.batch.samples.reserve(room);
    decoder.key_ranges.reserve(room);
    loop {
        decoder.usual_series(&mut reader);
        let Some(tag) = reader.tag()? else { break };
        match tag.number {
            5 => decoder.series(reader.message(tag, "timeseries")?)?,
            // The fields of 1.0, which 2.0 leaves free so that this can be told.
            1 | 3 => return Err(reader.error(DecodeErrorKind::OtherVersion("1.0"))),
            _ => {
                reader.skip(tag)?;
                reader.skip_short_fields(4 << 3 | BYTES);
            }
        }
    }
    let Decoder { batch, refs, key_ranges, rejected, .. } = decoder;
    // The keys can be lent out only now that the list has stopped growing.
    let refs: &'a [u32] = refs.room;
    for (series, range) in batch.series.iter_mut().zip(key_ranges) {
        series.key = SeriesKey::Symbols(&refs[range]);
    }
    Ok(rejected)
}

/// Reads the symbols, which nothing says come before the series. Returns the numbers of those that
/// are not UTF-8; they stand as empty strings in `symbols`.
fn symbols<'a>(body: &'a [u8], symbols: &mut Vec<&'a str>) -> Result<HashSet<u32>, DecodeError> {
    let mut invalid = HashSet::new();
    let mut reader = Reader::new(body, "request");
    if u32::try_from(body.len()).is_err() {
        return Err(reader.error(DecodeErrorKind::TooMany));
    }
    let mut is_text = true;
    loop {
        reader.skip_short_fields(5 << 3 | BYTES);
        // The first one is looked at below. What is not UTF-8 is found one by one, and not looked for again.
        if !symbols.is_empty() && is_text {
            is_text = reader.short_texts(4 << 3 | BYTES, symbols);
        }
        let Some(tag) = reader.tag()? else { break };
        if tag.number != 4 {
            reader.skip(tag)?;
            continue;
        }
        let text = std::str::from_utf8(reader.bytes(tag, "symbols")?).unwrap_or_else(|_| {
            invalid.insert(symbols.len() as u32);
            ""
        });
        if symbols.is_empty() && (!text.is_empty() || !invalid.is_empty()) {
            let offset = reader.at();
            return Err(DecodeError { field: "symbols", offset, kind: DecodeErrorKind::FirstSymbol });
        }
        symbols.push(text);
    }
    Ok(invalid)
}

struct Decoder<'b, 'a> {
    batch: &'b mut AppendBatch<'a>,
    refs: Numbers<'a>,
    /// For each series of the batch, its part of `refs`.
    key_ranges: Vec<Range<usize>>,
    invalid_symbols: HashSet<u32>,
    /// What `batch.metadata` holds, by family name, type, help and unit as numbers.
    known_metadata: HashSet<(&'a str, RawMetadata)>,
    rejected: Rejected,
    histograms: HistogramDecoder,
    /// Numbers of the series that is being read.
    scratch: Vec<u32>,
}

/// A list that grows within room that is kept from request to request, and so is cleared but once.
struct Numbers<'a> {
    room: &'a mut Vec<u32>,
    len: usize,
}

impl Numbers<'_> {
    /// Those from a position on.
    fn since(&self, start: usize) -> &[u32] {
        &self.room[start..self.len]
    }

    /// Places for so many more.
    #[inline]
    fn places(&mut self, count: usize) -> &mut [u32] {
        let end = self.len + count;
        if end > self.room.len() {
            self.room.resize(end.max(2 * self.room.len()), 0);
        }
        &mut self.room[self.len..end]
    }

    fn extend(&mut self, numbers: &[u32]) {
        self.places(numbers.len()).copy_from_slice(numbers);
        self.len += numbers.len();
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct RawMetadata {
    metric_type: u64,
    help: u32,
    unit: u32,
}

/// Where the arrays stood before a series.
struct Mark {
    refs: usize,
    samples: usize,
    histograms: usize,
    exemplars: usize,
}

impl<'a> Decoder<'_, 'a> {
    /// Takes series as long as they have the form in which nearly all are written; any other is left to [`Self::series`].
    fn usual_series(&mut self, reader: &mut Reader<'a>) {
        while let Some((content, next)) = reader.peek_short(5 << 3 | BYTES) {
            if self.usual(content).is_none() {
                break;
            }
            reader.pass_to(next);
        }
    }

    /// Takes a series of labels, then samples without a start timestamp and no more than an empty field of metadata, in
    /// short fields and without a fault. `None`, and nothing is taken, if it is anything else.
    #[inline]
    fn usual(&mut self, content: &[u8]) -> Option<()> {
        let [tag, length, rest @ ..] = content else { return None };
        if *tag != 1 << 3 | BYTES || *length >= 0x80 || !self.invalid_symbols.is_empty() {
            return None;
        }
        let (packed, rest) = rest.split_at_checked(usize::from(*length))?;
        let (count, greatest) = short_numbers(packed, self.refs.places(packed.len()))?;
        if !count.is_multiple_of(2) || greatest as usize >= self.batch.symbols.len() {
            return None;
        }
        let first = self.batch.samples.len();
        if take_samples(rest, &mut self.batch.samples).is_none() {
            self.batch.samples.truncate(first);
            return None;
        }
        let last = self.batch.samples.len();
        let n_histograms = self.batch.histograms.len() as u32;
        let n_exemplars = self.batch.exemplars.len() as u32;
        self.key_ranges.push(self.refs.len..self.refs.len + count);
        self.refs.len += count;
        self.batch.series.push(BatchSeries {
            key: SeriesKey::Symbols(&[]),
            samples: first as u32..last as u32,
            histograms: n_histograms..n_histograms,
            exemplars: n_exemplars..n_exemplars,
        });
        Some(())
    }

    fn series(&mut self, mut reader: Reader<'a>) -> Result<(), DecodeError> {
        let mark = Mark {
            refs: self.refs.len,
            samples: self.batch.samples.len(),
            histograms: self.batch.histograms.len(),
            exemplars: self.batch.exemplars.len(),
        };
        let mut metadata = RawMetadata::default();
        self.scratch.clear();
        while let Some(tag) = reader.tag()? {
            match tag.number {
                1 => reader
                    .integers(tag, "timeseries.labels_refs", &mut self.scratch, |number| number as u32)?,
                2 => {
                    let sample = sample(reader.message(tag, "timeseries.samples")?)?;
                    self.batch.samples.push(sample);
                }
                3 => {
                    let inner = reader.message(tag, "timeseries.histograms")?;
                    self.batch.histograms.push(self.histograms.decode(inner)?);
                }
                4 => self.exemplar(reader.message(tag, "timeseries.exemplars")?)?,
                5 => metadata.read(reader.message(tag, "timeseries.metadata")?)?,
                _ => reader.skip(tag)?,
            }
        }
        self.refs.extend(&self.scratch);
        if let Err(reason) = self.check(&mark, metadata) {
            self.reject(&mark, reason);
            return Ok(());
        }
        self.metadata(&mark, metadata);
        self.check_histograms(&mark);
        self.key_ranges.push(mark.refs..self.refs.len);
        self.batch.series.push(BatchSeries {
            key: SeriesKey::Symbols(&[]),
            samples: mark.samples as u32..self.batch.samples.len() as u32,
            histograms: mark.histograms as u32..self.batch.histograms.len() as u32,
            exemplars: mark.exemplars as u32..self.batch.exemplars.len() as u32,
        });
        Ok(())
    }

    /// Whether the numbers of a series make sense and there is something to store.
    fn check(&self, mark: &Mark, metadata: RawMetadata) -> Result<(), String> {
        let refs = self.refs.since(mark.refs);
        let n_symbols = self.batch.symbols.len();
        self.check_refs(refs).map_err(|reason| format!("parsing labels for series {refs:?}: {reason}"))?;
        for (what, number) in [("unit_ref", metadata.unit), ("help_ref", metadata.help)] {
            if number as usize >= n_symbols {
                return Err(format!(
                    "parsing metadata for series {refs:?}: metadata {what} {number} outside of symbols table (size {n_symbols})"
                ));
            }
        }
        if self.batch.samples.len() == mark.samples && self.batch.histograms.len() == mark.histograms {
            return Err(format!(
                "TimeSeries must contain at least one sample or histogram for series {}",
                series_text(&self.pairs(refs))
            ));
        }
        Ok(())
    }

    fn check_histograms(&mut self, mark: &Mark) {
        if self.batch.histograms.len() == mark.histograms {
            return;
        }
        let mut reasons = Vec::new();
        retain_valid(&mut self.batch.histograms, mark.histograms, |reason| reasons.push(reason));
        self.rejected.histograms += reasons.len() as u64;
        for reason in reasons {
            let pairs = self.pairs(self.refs.since(mark.refs));
            self.rejected.because(|| format!("{reason} for series {}", series_text(&pairs)));
        }
    }

    fn check_refs(&self, refs: &[u32]) -> Result<(), String> {
        if !refs.len().is_multiple_of(2) {
            return Err(format!("invalid labelRefs length {}", refs.len()));
        }
        let n_symbols = self.batch.symbols.len();
        for (i, &number) in refs.iter().enumerate() {
            let what = if i % 2 == 0 { "name" } else { "value" };
            if number as usize >= n_symbols {
                return Err(format!(
                    "labelRefs {} ({what}) = {number} outside of symbols table (size {n_symbols})",
                    i / 2 * 2
                ));
            }
            if !self.invalid_symbols.is_empty() && self.invalid_symbols.contains(&number) {
                return Err(format!("label {what} is not UTF-8"));
            }
        }
        Ok(())
    }

    /// Takes a series back, arrays and all.
    fn reject(&mut self, mark: &Mark, reason: String) {
        self.rejected.series += 1;
        self.rejected.samples += (self.batch.samples.len() - mark.samples) as u64;
        self.rejected.histograms += (self.batch.histograms.len() - mark.histograms) as u64;
        self.rejected.exemplars += (self.batch.exemplars.len() - mark.exemplars) as u64;
        self.rejected.because(|| reason);
        self.refs.len = mark.refs;
        self.batch.samples.truncate(mark.samples);
        self.batch.histograms.truncate(mark.histograms);
        self.batch.exemplars.truncate(mark.exemplars);
    }

    /// The pairs of numbers that were checked.
    fn pairs(&self, refs: &[u32]) -> Vec<(&'a str, &'a str)> {
        let symbol = |number: u32| self.batch.symbols[number as usize];
        refs.chunks_exact(2).map(|pair| (symbol(pair[0]), symbol(pair[1]))).collect()
    }

    fn exemplar(&mut self, mut reader: Reader<'a>) -> Result<(), DecodeError> {
        let mut refs = Vec::new();
        let (mut value, mut timestamp) = (0.0, 0);
        while let Some(tag) = reader.tag()? {
            match tag.number {
                1 => reader.integers(tag, "exemplars.labels_refs", &mut refs, |number| number as u32)?,
                2 => value = reader.double(tag, "exemplars.value")?,
                3 => timestamp = reader.integer(tag, "exemplars.timestamp")? as i64,
                _ => reader.skip(tag)?,
            }
        }
        match self.check_refs(&refs).and_then(|()| exemplar(&self.pairs(&refs), value, timestamp)) {
            Ok(exemplar) => self.batch.exemplars.push(exemplar),
            Err(reason) => {
                self.rejected.exemplars += 1;
                self.rejected.because(|| format!("parsing exemplar labels {refs:?}: {reason}"));
            }
        }
        Ok(())
    }

    fn metadata(&mut self, mark: &Mark, metadata: RawMetadata) {
        if metadata == RawMetadata::default() {
            return;
        }
        let refs = self.refs.since(mark.refs);
        let name = refs
            .chunks_exact(2)
            .find(|pair| self.batch.symbols[pair[0] as usize] == METRIC_NAME)
            .map(|pair| self.batch.symbols[pair[1] as usize]);
        let Some(name) = name.filter(|name| !name.is_empty()) else { return };
        let metric_type = metric_type_of(metadata.metric_type);
        let name = family_name(name, metric_type);
        if self.known_metadata.insert((name, metadata)) {
            let text = |number: u32| self.batch.symbols[number as usize].to_owned();
            let metadata = Metadata { metric_type, unit: text(metadata.unit), help: text(metadata.help) };
            self.batch.metadata.push((name, metadata));
        }
    }
}

impl RawMetadata {
    fn read(&mut self, mut reader: Reader<'_>) -> Result<(), DecodeError> {
        while let Some(tag) = reader.tag()? {
            match tag.number {
                1 => self.metric_type = reader.integer(tag, "metadata.type")?,
                3 => self.help = reader.integer(tag, "metadata.help_ref")? as u32,
                4 => self.unit = reader.integer(tag, "metadata.unit_ref")? as u32,
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
    }
}

/// The family a series belongs to, as far as its name and type tell.
fn family_name(name: &str, metric_type: MetricType) -> &str {
    let suffixes: &[&str] = match metric_type {
        MetricType::Histogram => &["_bucket", "_count", "_sum"],
        MetricType::GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
        MetricType::Summary => &["_count", "_sum"],
        _ => &[],
    };
    suffixes
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .filter(|family| !family.is_empty())
        .unwrap_or(name)
}

#[inline]
fn sample(mut reader: Reader<'_>) -> Result<Sample, DecodeError> {
    let mut sample = Sample { timestamp: 0, value: 0.0, start_timestamp: 0 };
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => sample.value = reader.double(tag, "samples.value")?,
            2 => sample.timestamp = reader.integer(tag, "samples.timestamp")? as i64,
            3 => sample.start_timestamp = reader.integer(tag, "samples.start_timestamp")? as i64,
            _ => reader.skip(tag)?,
        }
    }
    Ok(sample)
}

/// Appends the message of a batch to `out`, not compressed. Metadata goes with the series of its
/// family; that of families without a series in the batch is not sent.
///
/// # Errors
/// [`InvalidLabels`] if a series of the batch cannot be resolved to labels.
///
/// # Panics
/// If a range of the batch reaches beyond its array.
pub fn encode(batch: &AppendBatch<'_>, out: &mut Vec<u8>) -> Result<(), InvalidLabels> {
    let mut table = Table { numbers: HashMap::from([("", 0)]), symbols: vec![""] };
    let families: HashMap<&str, &Metadata> =
        batch.metadata.iter().map(|(name, metadata)| (*name, metadata)).collect();
    let mut all_series = Vec::new();
    let mut pairs = Vec::new();
    for series in &batch.series {
        pairs.clear();
        batch_labels(batch, &series.key, &mut pairs)?;
        let refs = table.numbers(pairs.iter().copied());
        let metadata = pairs.iter().find(|(name, _)| *name == METRIC_NAME).and_then(|&(_, name)| {
            families.get(name).copied().or_else(|| {
                let by_family = |kind| families.get(family_name(name, kind)).copied();
                [MetricType::Histogram, MetricType::GaugeHistogram, MetricType::Summary]
                    .into_iter()
                    .find_map(|kind| by_family(kind).filter(|found| found.metric_type == kind))
            })
        });
        put_message(&mut all_series, 5, |out| put_series(out, batch, series, &refs, metadata, &mut table));
    }
    // Receivers that decode as they read want the symbols first.
    for symbol in table.symbols {
        put_bytes(out, 4, symbol.as_bytes());
    }
    out.append(&mut all_series);
    Ok(())
}

/// The symbols of a message that is being written.
struct Table<'a> {
    numbers: HashMap<&'a str, u32>,
    symbols: Vec<&'a str>,
}

impl<'a> Table<'a> {
    fn number(&mut self, text: &'a str) -> u32 {
        *self.numbers.entry(text).or_insert_with(|| {
            self.symbols.push(text);
            self.symbols.len() as u32 - 1
        })
    }

    fn numbers(&mut self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u32> {
        pairs.flat_map(|(name, value)| [self.number(name), self.number(value)]).collect()
    }
}

fn put_series<'a>(
    out: &mut Vec<u8>,
    batch: &'a AppendBatch<'_>,
    series: &BatchSeries<'_>,
    refs: &[u32],
    metadata: Option<&'a Metadata>,
    table: &mut Table<'a>,
) {
    put_packed(out, 1, refs.iter().map(|&number| number.into()));
    for sample in &batch.samples[series.samples.start as usize..series.samples.end as usize] {
        // At most 31 bytes, so the length is one byte and is known when they are there.
        let at = out.len();
        out.extend_from_slice(&[2 << 3 | BYTES, 0]);
        put_double(out, 1, sample.value);
        put_integer(out, 2, sample.timestamp as u64);
        put_integer(out, 3, sample.start_timestamp as u64);
        out[at + 1] = (out.len() - at - 2) as u8;
    }
    for histogram in &batch.histograms[series.histograms.start as usize..series.histograms.end as usize] {
        put_message(out, 3, |out| put_histogram(out, histogram, true));
    }
    for exemplar in &batch.exemplars[series.exemplars.start as usize..series.exemplars.end as usize] {
        let refs = table.numbers(exemplar.labels.iter());
        put_message(out, 4, |out| {
            put_packed(out, 1, refs.iter().map(|&number| number.into()));
            put_double(out, 2, exemplar.value);
            put_integer(out, 3, exemplar.timestamp as u64);
        });
    }
    if let Some(metadata) = metadata {
        let (help, unit) = (table.number(&metadata.help), table.number(&metadata.unit));
        put_message(out, 5, |out| {
            put_integer(out, 1, metadata.metric_type as u64);
            put_integer(out, 3, help.into());
            put_integer(out, 4, unit.into());
        });
    }
}
