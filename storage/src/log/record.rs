//! What a frame of samples holds: one section per shard, with series, times and values in streams of
//! their own, so that each compresses well; and a section of metadata.
//!
//! Values are differences to the value that the series logged before it in the same segment (0.0 at
//! first), in a class of four bits:
//!
//! | class | value | bytes |
//! |---|---|---|
//! | 0 | the same bits | 0 |
//! | 1-7 | whole number: zigzag of the difference to a whole number | class |
//! | 8-14 | XOR of the bits, of which only the low class - 7 bytes are set | class - 7 |
//! | 15 | XOR of the bits: a byte n, then the high n bytes | 1 + n |

use super::histogram;
use crate::index::varint::{Bytes, put_varint, put_zigzag};
use chronolith_model::append::{Exemplar, Metadata, MetricType};
use chronolith_model::histogram::Histogram;
use chronolith_model::labels::{Labels, LabelsBuilder};

/// Shard number of the section of metadata.
pub const METADATA_SHARD: u16 = u16::MAX;
const SECTION_HEADER_BYTES: usize = 40;
const CUT_SHORT: &str = "section is cut short";

/// What the samples of one shard have become since the log was written last.
#[derive(Debug, Default)]
pub struct SectionBuilder {
    n_floats: u32,
    n_histograms: u32,
    n_exemplars: u32,
    run_start: u32,
    run_length: u32,
    runs_end: u32,
    refs: Vec<u8>,
    time: i64,
    times_length: u32,
    time_before: i64,
    times: Vec<u8>,
    classes: Vec<u8>,
    values: Vec<u8>,
    starts_before: u32,
    starts: Vec<u8>,
    histograms: Vec<u8>,
    exemplars: Vec<u8>,
}

impl SectionBuilder {
    /// Whether nothing was pushed.
    pub const fn is_empty(&self) -> bool {
        self.n_floats == 0 && self.n_histograms == 0 && self.n_exemplars == 0
    }

    /// A float of the series with number `ordinal` in its shard; `before` are the bits of the value
    /// that the series logged last in this segment.
    #[inline]
    pub fn push_float(&mut self, ordinal: u32, timestamp: i64, before: u64, bits: u64, start_timestamp: i64) {
        if self.run_length > 0 && ordinal == self.run_start + self.run_length {
            self.run_length += 1;
        } else {
            self.close_run();
            (self.run_start, self.run_length) = (ordinal, 1);
        }
        if self.times_length > 0 && timestamp == self.time {
            self.times_length += 1;
        } else {
            self.close_times();
            (self.time, self.times_length) = (timestamp, 1);
        }
        let class = put_value(before, bits, &mut self.values);
        if self.n_floats.is_multiple_of(2) {
            self.classes.push(class);
        } else {
            *self.classes.last_mut().expect("every other class begins a byte") |= class << 4;
        }
        if start_timestamp != 0 {
            put_varint(&mut self.starts, u64::from(self.n_floats - self.starts_before));
            put_zigzag(&mut self.starts, start_timestamp.wrapping_sub(timestamp));
            self.starts_before = self.n_floats;
        }
        self.n_floats += 1;
    }

    /// A histogram of a series.
    pub fn push_histogram(&mut self, ordinal: u32, timestamp: i64, start_timestamp: i64, encoded: &[u8]) {
        let out = &mut self.histograms;
        put_varint(out, u64::from(ordinal));
        put_zigzag(out, timestamp);
        put_zigzag(out, start_timestamp);
        out.extend_from_slice(encoded);
        self.n_histograms += 1;
    }

    /// An exemplar of a series.
    pub fn push_exemplar(&mut self, ordinal: u32, exemplar: &Exemplar) {
        let out = &mut self.exemplars;
        put_varint(out, u64::from(ordinal));
        put_zigzag(out, exemplar.timestamp);
        out.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
        put_varint(out, exemplar.labels.len() as u64);
        for (name, value) in exemplar.labels.iter() {
            put_text(out, name);
            put_text(out, value);
        }
        self.n_exemplars += 1;
    }

    fn close_run(&mut self) {
        if self.run_length == 0 {
            return;
        }
        put_zigzag(&mut self.refs, i64::from(self.run_start) - i64::from(self.runs_end));
        put_varint(&mut self.refs, u64::from(self.run_length - 1));
        self.runs_end = self.run_start + self.run_length;
    }

    fn close_times(&mut self) {
        if self.times_length == 0 {
            return;
        }
        put_zigzag(&mut self.times, self.time.wrapping_sub(self.time_before));
        put_varint(&mut self.times, u64::from(self.times_length - 1));
        self.time_before = self.time;
    }

    /// Appends the section to `out` and empties the builder, which keeps its buffers.
    pub fn finish(&mut self, shard: u16, out: &mut Vec<u8>) {
        if self.is_empty() {
            return;
        }
        self.close_run();
        self.close_times();
        out.extend_from_slice(&shard.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        for count in [self.n_floats, self.n_histograms, self.n_exemplars] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        let streams = [
            &mut self.refs,
            &mut self.times,
            &mut self.values,
            &mut self.starts,
            &mut self.histograms,
            &mut self.exemplars,
        ];
        for stream in &streams {
            let length = u32::try_from(stream.len()).expect("a section is shorter than 4 GiB");
            out.extend_from_slice(&length.to_le_bytes());
        }
        for stream in streams {
            out.extend_from_slice(stream);
            stream.clear();
        }
        out.extend_from_slice(&self.classes);
        self.classes.clear();
        let Self { refs, times, classes, values, starts, histograms, exemplars, .. } = std::mem::take(self);
        *self = Self { refs, times, classes, values, starts, histograms, exemplars, ..Self::default() };
    }
}

/// Appends the bytes of a value; returns its class.
#[inline]
fn put_value(before: u64, bits: u64, out: &mut Vec<u8>) -> u8 {
    if before == bits {
        return 0;
    }
    if let (Some(from), Some(to)) = (whole(before), whole(bits)) {
        let delta = to - from;
        let zigzag = ((delta << 1) ^ (delta >> 63)) as u64;
        let n_bytes = (64 - zigzag.leading_zeros()).div_ceil(8) as usize;
        if n_bytes <= 7 {
            put_low_bytes(zigzag, n_bytes, out);
            return n_bytes as u8;
        }
    }
    let xor = before ^ bits;
    let n_low = (64 - xor.leading_zeros()).div_ceil(8) as usize;
    let n_high = (64 - xor.trailing_zeros()).div_ceil(8) as usize;
    if n_low <= 7 && n_low <= n_high + 1 {
        put_low_bytes(xor, n_low, out);
        return 7 + n_low as u8;
    }
    out.push(n_high as u8);
    out.extend_from_slice(&xor.to_be_bytes()[..n_high]);
    15
}

/// Appends the low bytes of a number, by a copy of fixed size.
#[inline]
fn put_low_bytes(number: u64, n_bytes: usize, out: &mut Vec<u8>) {
    let end = out.len() + n_bytes;
    out.extend_from_slice(&number.to_le_bytes());
    out.truncate(end);
}

/// The whole number that these are the bits of, if they are; -0.0 is none.
#[inline]
fn whole(bits: u64) -> Option<i64> {
    let value = f64::from_bits(bits);
    let number = value as i64;
    ((number as f64).to_bits() == bits && value.abs() <= 9_007_199_254_740_992.0).then_some(number)
}

#[inline]
fn take_value(class: u8, before: u64, bytes: &mut Bytes<'_>) -> Result<u64, &'static str> {
    match class {
        0 => Ok(before),
        1..=7 => {
            let zigzag = take_low_bytes(bytes, class as usize).ok_or(CUT_SHORT)?;
            let delta = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
            let from = whole(before).ok_or("difference to a value that is no whole number")?;
            Ok(((from + delta) as f64).to_bits())
        }
        8..=14 => Ok(before ^ take_low_bytes(bytes, class as usize - 7).ok_or(CUT_SHORT)?),
        _ => {
            let n_bytes = bytes.u8().ok_or(CUT_SHORT)? as usize;
            if n_bytes > 8 {
                return Err("a value of more than eight bytes");
            }
            let mut raw = [0; 8];
            raw[..n_bytes].copy_from_slice(bytes.take(n_bytes).ok_or(CUT_SHORT)?);
            Ok(before ^ u64::from_be_bytes(raw))
        }
    }
}

/// The number of which the low bytes stand here, 1 to 7, by a copy of fixed size where there are eight.
#[inline]
fn take_low_bytes(bytes: &mut Bytes<'_>, n_bytes: usize) -> Option<u64> {
    if let Some(&raw) = bytes.0.first_chunk::<8>() {
        bytes.0 = &bytes.0[n_bytes..];
        return Some(u64::from_le_bytes(raw) & (u64::MAX >> (64 - 8 * n_bytes)));
    }
    let mut raw = [0; 8];
    raw[..n_bytes].copy_from_slice(bytes.take(n_bytes)?);
    Some(u64::from_le_bytes(raw))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn take_text<'a>(bytes: &mut Bytes<'a>) -> Option<&'a str> {
    let length = usize::try_from(bytes.varint()?).ok()?;
    std::str::from_utf8(bytes.take(length)?).ok()
}

/// Appends the section of metadata.
pub fn put_metadata<'a>(entries: impl ExactSizeIterator<Item = (&'a str, &'a Metadata)>, out: &mut Vec<u8>) {
    if entries.len() == 0 {
        return;
    }
    let mut body = Vec::new();
    put_varint(&mut body, entries.len() as u64);
    for (name, metadata) in entries {
        put_text(&mut body, name);
        body.push(metadata.metric_type as u8);
        put_text(&mut body, &metadata.unit);
        put_text(&mut body, &metadata.help);
    }
    out.extend_from_slice(&METADATA_SHARD.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&u32::try_from(body.len()).expect("metadata is shorter than 4 GiB").to_le_bytes());
    out.extend_from_slice(&body);
}

/// A section of a decompressed frame, its counts checked against its bytes.
#[derive(Debug)]
pub enum Section<'a> {
    /// Samples of a shard.
    Samples(Box<Samples<'a>>),
    /// Metadata by metric family.
    Metadata(Vec<(&'a str, Metadata)>),
}

/// The section of a shard.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    /// The shard in which its series are numbered.
    pub shard: u16,
    n_floats: u32,
    n_histograms: u32,
    n_exemplars: u32,
    refs: Bytes<'a>,
    times: Bytes<'a>,
    values: Bytes<'a>,
    starts: Bytes<'a>,
    histograms: Bytes<'a>,
    exemplars: Bytes<'a>,
    classes: &'a [u8],
}

/// Cuts a decompressed body into sections.
///
/// # Errors
/// What is wrong with it.
pub fn sections(body: &[u8]) -> Result<Vec<Section<'_>>, &'static str> {
    let mut rest = Bytes(body);
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let shard = u16::from_le_bytes(take_array(&mut rest)?);
        take_array::<2>(&mut rest)?;
        if shard == METADATA_SHARD {
            let length = u32::from_le_bytes(take_array(&mut rest)?) as usize;
            let entries = Bytes(rest.take(length).ok_or(CUT_SHORT)?);
            sections.push(Section::Metadata(take_metadata(entries).ok_or("metadata does not decode")?));
            continue;
        }
        let mut numbers = [0; 9];
        for number in &mut numbers {
            *number = u32::from_le_bytes(take_array(&mut rest)?);
        }
        let mut stream = |length: u32| rest.take(length as usize).map(Bytes).ok_or(CUT_SHORT);
        let [n_floats, n_histograms, n_exemplars, lengths @ ..] = numbers;
        let [refs, times, values, starts, histograms, exemplars] = lengths;
        sections.push(Section::Samples(Box::new(Samples {
            shard,
            n_floats,
            n_histograms,
            n_exemplars,
            refs: stream(refs)?,
            times: stream(times)?,
            values: stream(values)?,
            starts: stream(starts)?,
            histograms: stream(histograms)?,
            exemplars: stream(exemplars)?,
            classes: stream(n_floats.div_ceil(2))?.0,
        })));
    }
    Ok(sections)
}

const _: () = assert!(SECTION_HEADER_BYTES == 2 + 2 + 9 * 4);

fn take_array<const N: usize>(bytes: &mut Bytes<'_>) -> Result<[u8; N], &'static str> {
    bytes.take(N).and_then(|bytes| bytes.try_into().ok()).ok_or(CUT_SHORT)
}

fn take_metadata<'a>(mut bytes: Bytes<'a>) -> Option<Vec<(&'a str, Metadata)>> {
    let count = usize::try_from(bytes.varint()?).ok()?;
    let mut entries = Vec::with_capacity(count.min(bytes.len() / 4));
    for _ in 0..count {
        let name = take_text(&mut bytes)?;
        let metric_type = metric_type(bytes.u8()?)?;
        let unit = take_text(&mut bytes)?.to_owned();
        let help = take_text(&mut bytes)?.to_owned();
        entries.push((name, Metadata { metric_type, unit, help }));
    }
    Some(entries)
}

fn metric_type(byte: u8) -> Option<MetricType> {
    Some(match byte {
        0 => MetricType::Unknown,
        1 => MetricType::Counter,
        2 => MetricType::Gauge,
        3 => MetricType::Histogram,
        4 => MetricType::GaugeHistogram,
        5 => MetricType::Summary,
        6 => MetricType::Info,
        7 => MetricType::StateSet,
        _ => return None,
    })
}

/// Receives what a section holds, in the order in which it was appended within each kind.
pub trait RecordSink {
    /// The bits that the series logged last in this segment, to be replaced by those of the next
    /// float; `None` if there is no such series.
    fn logged(&mut self, ordinal: u32) -> Option<&mut u64>;
    /// A float.
    fn float(&mut self, ordinal: u32, timestamp: i64, bits: u64, start_timestamp: i64);
    /// A histogram.
    fn histogram(&mut self, ordinal: u32, timestamp: i64, start_timestamp: i64, histogram: Histogram);
    /// An exemplar.
    fn exemplar(&mut self, ordinal: u32, exemplar: Exemplar);
}

impl Samples<'_> {
    /// Floats, histograms and exemplars together.
    pub const fn len(&self) -> u64 {
        self.n_floats as u64 + self.n_histograms as u64 + self.n_exemplars as u64
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands everything to `sink`.
    ///
    /// # Errors
    /// What is wrong with the section. Everything before the damage has been handed over by then:
    /// the checksum held, so such a section was written wrong rather than damaged later.
    pub fn replay(&self, sink: &mut impl RecordSink) -> Result<(), &'static str> {
        self.replay_floats(sink)?;
        self.replay_histograms(sink).ok_or("histogram does not decode")?;
        self.replay_exemplars(sink).ok_or("exemplar does not decode")
    }

    fn replay_floats(&self, sink: &mut impl RecordSink) -> Result<(), &'static str> {
        let mut streams = *self;
        let (mut ordinal, mut n_refs) = (0u32, 0u64);
        let (mut time, mut n_times) = (0i64, 0u64);
        let mut next_start = streams.take_start(0)?;
        for index in 0..self.n_floats {
            if n_refs == 0 {
                let step = streams.refs.zigzag().ok_or(CUT_SHORT)?;
                let start = i64::from(ordinal).checked_add(step).and_then(|start| u32::try_from(start).ok());
                ordinal = start.ok_or("series number out of range")?;
                n_refs = streams.refs.varint().ok_or(CUT_SHORT)?.saturating_add(1);
            }
            if n_times == 0 {
                time = time.wrapping_add(streams.times.zigzag().ok_or(CUT_SHORT)?);
                n_times = streams.times.varint().ok_or(CUT_SHORT)?.saturating_add(1);
            }
            let class = self.classes[index as usize / 2] >> (index % 2 * 4) & 15;
            let mut start_timestamp = 0;
            if let Some((at, difference)) = next_start
                && at == index
            {
                start_timestamp = time.wrapping_add(difference);
                next_start = streams.take_start(at)?;
            }
            // The value of a series that is not defined still has to be stepped over; its chain is
            // not known, so its bytes are read against zero and dropped.
            match sink.logged(ordinal) {
                Some(logged) => {
                    let bits = take_value(class, *logged, &mut streams.values)?;
                    *logged = bits;
                    sink.float(ordinal, time, bits, start_timestamp);
                }
                None => skip_value(class, &mut streams.values)?,
            }
            ordinal = ordinal.checked_add(1).ok_or("series number out of range")?;
            n_refs -= 1;
            n_times -= 1;
        }
        Ok(())
    }

    fn take_start(&mut self, before: u32) -> Result<Option<(u32, i64)>, &'static str> {
        if self.starts.is_empty() {
            return Ok(None);
        }
        let distance = self.starts.varint_u32().ok_or(CUT_SHORT)?;
        let at = before.checked_add(distance).ok_or("start timestamp out of range")?;
        Ok(Some((at, self.starts.zigzag().ok_or(CUT_SHORT)?)))
    }

    fn replay_histograms(&self, sink: &mut impl RecordSink) -> Option<()> {
        let mut bytes = self.histograms;
        for _ in 0..self.n_histograms {
            let ordinal = bytes.varint_u32()?;
            let timestamp = bytes.zigzag()?;
            let start_timestamp = bytes.zigzag()?;
            let histogram = histogram::decode(&mut bytes)?;
            if sink.logged(ordinal).is_some() {
                sink.histogram(ordinal, timestamp, start_timestamp, histogram);
            }
        }
        Some(())
    }

    fn replay_exemplars(&self, sink: &mut impl RecordSink) -> Option<()> {
        let mut bytes = self.exemplars;
        for _ in 0..self.n_exemplars {
            let ordinal = bytes.varint_u32()?;
            let timestamp = bytes.zigzag()?;
            let value = histogram::take_float(&mut bytes)?;
            let count = bytes.varint()?;
            let mut labels = LabelsBuilder::default();
            for _ in 0..count {
                labels.set(take_text(&mut bytes)?, take_text(&mut bytes)?);
            }
            let labels: Labels = labels.build();
            if sink.logged(ordinal).is_some() {
                sink.exemplar(ordinal, Exemplar { labels, value, timestamp });
            }
        }
        Some(())
    }
}

fn skip_value(class: u8, bytes: &mut Bytes<'_>) -> Result<(), &'static str> {
    let n_bytes = match class {
        0..=7 => class,
        8..=14 => class - 7,
        _ => bytes.u8().ok_or(CUT_SHORT)?,
    };
    bytes.take(n_bytes as usize).map(|_| ()).ok_or(CUT_SHORT)
}

/// Definitions of consecutive series of a shard: what a frame of definitions consists of.
#[derive(Debug)]
pub struct Definitions<'a> {
    /// The shard.
    pub shard: u16,
    /// Number of the first series.
    pub first: u32,
    labels: Vec<(&'a str, &'a str)>,
    /// Behind the labels of each series.
    ends: Vec<u32>,
}

impl<'a> Definitions<'a> {
    /// The labels of each series.
    pub fn series(&self) -> impl Iterator<Item = &[(&'a str, &'a str)]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.labels[start as usize..end as usize])
    }
}

/// Series that a shard has taken in since the log was written last.
#[derive(Debug, Default)]
pub struct DefinitionsBuilder {
    first: u32,
    count: u32,
    bytes: Vec<u8>,
}

impl DefinitionsBuilder {
    /// Whether nothing was pushed.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The next series of the shard; `ordinal` is one above the one before.
    pub fn push<'a>(&mut self, ordinal: u32, labels: impl Iterator<Item = (&'a str, &'a str)> + Clone) {
        if self.count == 0 {
            self.first = ordinal;
        }
        assert_eq!(ordinal, self.first + self.count, "series of a shard are numbered in order");
        put_varint(&mut self.bytes, labels.clone().count() as u64);
        for (name, value) in labels {
            put_text(&mut self.bytes, name);
            put_text(&mut self.bytes, value);
        }
        self.count += 1;
    }

    /// Appends the definitions to `out` and empties the builder.
    pub fn finish(&mut self, shard: u16, out: &mut Vec<u8>) {
        if self.count == 0 {
            return;
        }
        out.extend_from_slice(&shard.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.bytes);
        self.bytes.clear();
        self.count = 0;
    }
}

/// Reads the decompressed body of a frame of definitions: those of the shards for which `is_wanted` holds, the
/// others are passed over.
///
/// # Errors
/// What is wrong with it.
pub fn definitions(
    body: &[u8],
    is_wanted: impl Fn(u16) -> bool,
) -> Result<Vec<Definitions<'_>>, &'static str> {
    const BAD: &str = "definitions do not decode";
    let mut rest = Bytes(body);
    let mut all = Vec::new();
    while !rest.is_empty() {
        let shard = u16::from_le_bytes(take_array(&mut rest)?);
        take_array::<2>(&mut rest)?;
        let first = u32::from_le_bytes(take_array(&mut rest)?);
        let count = u32::from_le_bytes(take_array(&mut rest)?);
        if !is_wanted(shard) {
            skip_definitions(&mut rest, count).ok_or(BAD)?;
            continue;
        }
        let mut group = Definitions { shard, first, labels: Vec::new(), ends: Vec::new() };
        group.ends.reserve((count as usize).min(rest.len()));
        for _ in 0..count {
            for _ in 0..rest.varint().ok_or(BAD)? {
                group.labels.push((take_text(&mut rest).ok_or(BAD)?, take_text(&mut rest).ok_or(BAD)?));
            }
            group.ends.push(u32::try_from(group.labels.len()).map_err(|_| BAD)?);
        }
        all.push(group);
    }
    Ok(all)
}

fn skip_definitions(rest: &mut Bytes<'_>, count: u32) -> Option<()> {
    for _ in 0..count {
        for _ in 0..rest.varint()?.checked_mul(2)? {
            let length = usize::try_from(rest.varint()?).ok()?;
            rest.take(length)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests;
