//! `prometheus.WriteRequest`, the message of remote write 1.0.
//!
//! A series is known by the bytes of its label fields as they stand in the request, so that one that
//! was seen before costs a hash and no parsing; [`decode_labels`] reads those bytes when it was not.
//!
//! Source: Prometheus v3.14, `prompb/remote.proto` and `prompb/types.proto`.

use super::histograms::{HistogramDecoder, put_histogram, retain_valid};
use super::protobuf::{
    BYTES, DecodeError, DecodeErrorKind, Reader, Tag, put_bytes, put_double, put_integer, put_message,
};
use super::{Rejected, exemplar, series_text};
use chronolith_model::append::{
    AppendBatch, BatchSeries, Exemplar, InvalidLabels, Metadata, MetricType, Sample, SeriesKey,
};

/// Bytes of a series with few labels and one sample: room for so many is made at once.
const USUAL_SERIES_BYTES: usize = 96;

/// Decodes a decompressed request into an empty batch.
///
/// Series come in the order of the request. A series without samples, histograms and exemplars is
/// left out. Labels are not looked at: what they mean, and whether they mean anything, turns out when
/// the batch's `decode` meets them. Histograms are validated, and those finer than schema 8 reduced to it;
/// those that contradict themselves are left out and reported.
///
/// The batch takes at most about 32 bytes for each byte of the body.
///
/// # Errors
/// [`DecodeError`] if the bytes are no such message; the batch then holds what came before.
pub fn decode<'a>(body: &'a [u8], batch: &mut AppendBatch<'a>) -> Result<Rejected, DecodeError> {
    *batch = AppendBatch { decode: decode_labels, ..AppendBatch::default() };
    let mut decoder =
        Decoder { batch, rejected: Rejected::default(), histograms: HistogramDecoder::new(body.len()) };
    let mut reader = Reader::new(body, "request");
    if u32::try_from(body.len()).is_err() {
        return Err(reader.error(DecodeErrorKind::TooMany));
    }
    decoder.batch.series.reserve(body.len() / USUAL_SERIES_BYTES);
    decoder.batch.samples.reserve(body.len() / USUAL_SERIES_BYTES);
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => decoder.series(reader.message(tag, "timeseries")?)?,
            3 => decoder.metadata(reader.message(tag, "metadata")?)?,
            // The fields of 2.0; passing over them would lose all samples without a word.
            4 | 5 => return Err(reader.error(DecodeErrorKind::OtherVersion("2.0"))),
            _ => reader.skip(tag)?,
        }
    }
    Ok(decoder.rejected)
}

/// Reads the labels of a series from the bytes of its [`SeriesKey::Encoded`].
///
/// The bytes may hold other fields of a series in between, which are passed over.
///
/// # Errors
/// [`InvalidLabels::Encoding`] or [`InvalidLabels::NotUtf8`].
pub fn decode_labels<'a>(bytes: &'a [u8], pairs: &mut Vec<(&'a str, &'a str)>) -> Result<(), InvalidLabels> {
    let broken = |_| InvalidLabels::Encoding("label fields are no protobuf");
    let mut reader = Reader::new(bytes, "timeseries.labels");
    while let Some(tag) = reader.tag().map_err(broken)? {
        if tag.number == 1 {
            pairs.push(label(&mut reader, tag, "timeseries.labels").map_err(broken)?.as_str()?);
        } else {
            reader.skip(tag).map_err(broken)?;
        }
    }
    Ok(())
}

struct RawLabel<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> RawLabel<'a> {
    fn as_str(&self) -> Result<(&'a str, &'a str), InvalidLabels> {
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).map_err(|_| InvalidLabels::NotUtf8);
        Ok((text(self.name)?, text(self.value)?))
    }
}

fn label<'a>(reader: &mut Reader<'a>, tag: Tag, field: &'static str) -> Result<RawLabel<'a>, DecodeError> {
    let mut reader = reader.message(tag, field)?;
    let mut label = RawLabel { name: b"", value: b"" };
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => label.name = reader.bytes(tag, "labels.name")?,
            2 => label.value = reader.bytes(tag, "labels.value")?,
            _ => reader.skip(tag)?,
        }
    }
    Ok(label)
}

struct Decoder<'b, 'a> {
    batch: &'b mut AppendBatch<'a>,
    rejected: Rejected,
    histograms: HistogramDecoder,
}

impl<'a> Decoder<'_, 'a> {
    fn series(&mut self, mut reader: Reader<'a>) -> Result<(), DecodeError> {
        let samples = self.batch.samples.len() as u32;
        let histograms = self.batch.histograms.len() as u32;
        let exemplars = self.batch.exemplars.len() as u32;
        // The key runs from the first label field to the last one. Every sender writes them in one
        // piece; should other fields lie in between, the key is merely longer than it had to be, and
        // equal bytes still mean equal labels.
        let mut key = None;
        // What nearly every series of every sender is: its labels, then its samples.
        let start = reader.at();
        reader.skip_short_fields(1 << 3 | BYTES);
        if reader.at() > start {
            key = Some((start, reader.at()));
        }
        while let Some((value, timestamp)) = reader.double_and_integer(2 << 3 | BYTES) {
            let timestamp = timestamp.cast_signed();
            self.batch.samples.push(Sample { timestamp, value, start_timestamp: 0 });
        }
        loop {
            let start = reader.at();
            let Some(tag) = reader.tag()? else { break };
            match tag.number {
                1 => {
                    reader.message(tag, "timeseries.labels")?;
                    key = Some((key.map_or(start, |(first, _)| first), reader.at()));
                }
                2 => {
                    let sample = sample(reader.message(tag, "timeseries.samples")?)?;
                    self.batch.samples.push(sample);
                }
                3 => self.exemplar(reader.message(tag, "timeseries.exemplars")?)?,
                4 => {
                    let inner = reader.message(tag, "timeseries.histograms")?;
                    self.batch.histograms.push(self.histograms.decode(inner)?);
                }
                _ => reader.skip(tag)?,
            }
        }
        let key = key.map_or(&[][..], |(start, end)| reader.slice(start, end));
        let rejected = &mut self.rejected;
        if self.batch.histograms.len() > histograms as usize {
            retain_valid(&mut self.batch.histograms, histograms as usize, |reason| {
                rejected.histograms += 1;
                rejected.because(|| {
                    let mut pairs = Vec::new();
                    let labels = decode_labels(key, &mut pairs);
                    let text = labels.map_or_else(|error| error.to_string(), |()| series_text(&pairs));
                    format!("{reason} for series {text}")
                });
            });
        }
        let series = BatchSeries {
            key: SeriesKey::Encoded(key),
            samples: samples..self.batch.samples.len() as u32,
            histograms: histograms..self.batch.histograms.len() as u32,
            exemplars: exemplars..self.batch.exemplars.len() as u32,
        };
        if !(series.samples.is_empty() && series.histograms.is_empty() && series.exemplars.is_empty()) {
            self.batch.series.push(series);
        }
        Ok(())
    }

    fn exemplar(&mut self, mut reader: Reader<'a>) -> Result<(), DecodeError> {
        let mut pairs = Vec::new();
        let mut utf8 = Ok(());
        let (mut value, mut timestamp) = (0.0, 0);
        while let Some(tag) = reader.tag()? {
            match tag.number {
                1 => match label(&mut reader, tag, "exemplars.labels")?.as_str() {
                    Ok(pair) => pairs.push(pair),
                    Err(error) => utf8 = Err(error.to_string()),
                },
                2 => value = reader.double(tag, "exemplars.value")?,
                3 => timestamp = reader.integer(tag, "exemplars.timestamp")? as i64,
                _ => reader.skip(tag)?,
            }
        }
        match utf8.and_then(|()| exemplar(&pairs, value, timestamp)) {
            Ok(exemplar) => self.batch.exemplars.push(exemplar),
            Err(reason) => {
                self.rejected.exemplars += 1;
                self.rejected.because(|| format!("exemplar {}: {reason}", series_text(&pairs)));
            }
        }
        Ok(())
    }

    fn metadata(&mut self, mut reader: Reader<'a>) -> Result<(), DecodeError> {
        let (mut name, mut help, mut unit) = (&b""[..], &b""[..], &b""[..]);
        let mut metric_type = 0;
        while let Some(tag) = reader.tag()? {
            match tag.number {
                1 => metric_type = reader.integer(tag, "metadata.type")?,
                2 => name = reader.bytes(tag, "metadata.metric_family_name")?,
                4 => help = reader.bytes(tag, "metadata.help")?,
                5 => unit = reader.bytes(tag, "metadata.unit")?,
                _ => reader.skip(tag)?,
            }
        }
        let text = std::str::from_utf8;
        match (text(name), text(help), text(unit)) {
            (Ok(name), Ok(help), Ok(unit)) if !name.is_empty() => {
                let metric_type = metric_type_of(metric_type);
                let metadata = Metadata { metric_type, unit: unit.to_owned(), help: help.to_owned() };
                self.batch.metadata.push((name, metadata));
            }
            _ => {
                self.rejected.metadata += 1;
                let name = String::from_utf8_lossy(name);
                self.rejected
                    .because(|| format!("metadata of {name:?}: empty name or text that is not UTF-8"));
            }
        }
        Ok(())
    }
}

#[inline]
fn sample(mut reader: Reader<'_>) -> Result<Sample, DecodeError> {
    let mut sample = Sample { timestamp: 0, value: 0.0, start_timestamp: 0 };
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => sample.value = reader.double(tag, "samples.value")?,
            2 => sample.timestamp = reader.integer(tag, "samples.timestamp")? as i64,
            _ => reader.skip(tag)?,
        }
    }
    Ok(sample)
}

/// The metric type by its number in both versions of the protocol; unknown numbers are unknown types.
pub(super) fn metric_type_of(number: u64) -> MetricType {
    match number {
        1 => MetricType::Counter,
        2 => MetricType::Gauge,
        3 => MetricType::Histogram,
        4 => MetricType::GaugeHistogram,
        5 => MetricType::Summary,
        6 => MetricType::Info,
        7 => MetricType::StateSet,
        _ => MetricType::Unknown,
    }
}

/// Appends the message of a batch to `out`, not compressed. Start timestamps have no place in it.
///
/// # Errors
/// [`InvalidLabels`] if a series of the batch cannot be resolved to labels.
///
/// # Panics
/// If a range of the batch reaches beyond its array.
pub fn encode(batch: &AppendBatch<'_>, out: &mut Vec<u8>) -> Result<(), InvalidLabels> {
    let mut pairs = Vec::new();
    for series in &batch.series {
        pairs.clear();
        batch_labels(batch, &series.key, &mut pairs)?;
        put_message(out, 1, |out| put_series(out, batch, series, &pairs));
    }
    for (name, metadata) in &batch.metadata {
        put_message(out, 3, |out| {
            put_integer(out, 1, metadata.metric_type as u64);
            put_bytes(out, 2, name.as_bytes());
            put_bytes(out, 4, metadata.help.as_bytes());
            put_bytes(out, 5, metadata.unit.as_bytes());
        });
    }
    Ok(())
}

/// The labels behind a key of a batch, in wire order, appended to `pairs`.
pub(super) fn batch_labels<'a>(
    batch: &'a AppendBatch<'_>,
    key: &'a SeriesKey<'_>,
    pairs: &mut Vec<(&'a str, &'a str)>,
) -> Result<(), InvalidLabels> {
    match key {
        SeriesKey::Encoded(bytes) => return (batch.decode)(bytes, pairs),
        SeriesKey::Labels(labels) | SeriesKey::Ref(_, labels) => pairs.extend(labels.iter()),
        SeriesKey::Handle(_) => return Err(InvalidLabels::HandleAlone),
        SeriesKey::Symbols(numbers) => {
            let symbol = |number: u32| {
                let n_symbols = batch.symbols.len();
                let out_of_range = InvalidLabels::SymbolOutOfRange { number, n_symbols };
                batch.symbols.get(number as usize).copied().ok_or(out_of_range)
            };
            for pair in numbers.chunks_exact(2) {
                pairs.push((symbol(pair[0])?, symbol(pair[1])?));
            }
        }
    }
    Ok(())
}

fn put_series(out: &mut Vec<u8>, batch: &AppendBatch<'_>, series: &BatchSeries<'_>, pairs: &[(&str, &str)]) {
    put_labels(out, pairs.iter().copied());
    for sample in &batch.samples[series.samples.start as usize..series.samples.end as usize] {
        // At most 1 + 8 + 1 + 10 bytes, so the length is one byte and is known when they are there.
        let at = out.len();
        out.extend_from_slice(&[2 << 3 | BYTES, 0]);
        put_double(out, 1, sample.value);
        put_integer(out, 2, sample.timestamp as u64);
        out[at + 1] = (out.len() - at - 2) as u8;
    }
    for exemplar in &batch.exemplars[series.exemplars.start as usize..series.exemplars.end as usize] {
        put_message(out, 3, |out| put_exemplar(out, exemplar));
    }
    for histogram in &batch.histograms[series.histograms.start as usize..series.histograms.end as usize] {
        put_message(out, 4, |out| put_histogram(out, histogram, false));
    }
}

fn put_exemplar(out: &mut Vec<u8>, exemplar: &Exemplar) {
    put_labels(out, exemplar.labels.iter());
    put_double(out, 2, exemplar.value);
    put_integer(out, 3, exemplar.timestamp as u64);
}

/// Writes label fields (number 1 of a series and of an exemplar): what [`decode_labels`] reads.
pub fn put_labels<'a>(out: &mut Vec<u8>, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    for (name, value) in pairs {
        put_message(out, 1, |out| {
            put_bytes(out, 1, name.as_bytes());
            put_bytes(out, 2, value.as_bytes());
        });
    }
}
