//! Bytes of the log: reading anything is an answer or an error within the bounds of its length, and
//! what the writer's encoders made reads back equal.
//!
//! The first byte selects what the others are; see the arms of the match.
#![no_main]

use chronolith_model::Labels;
use chronolith_model::append::{Exemplar, Metadata, MetricType};
use chronolith_model::histogram::{CounterResetHint, FloatHistogram, Histogram, IntHistogram, Span};
use chronolith_storage::log::frame::{
    self, FileHeader, FrameHeader, FrameKind, HEADER_BYTES, Parsed, SyncedUpTo, parse_frame, write_frame,
};
use chronolith_storage::log::fs::{LogFile, LogFs};
use chronolith_storage::log::histogram;
use chronolith_storage::log::reader::{LogReader, Next};
use chronolith_storage::log::record::{
    DefinitionsBuilder, RecordSink, Section, SectionBuilder, definitions, put_metadata, sections,
};
use libfuzzer_sys::fuzz_target;
use std::io;
use std::path::Path;
use std::sync::Mutex;

fuzz_target!(|data: &[u8]| {
    let Some((&selector, bytes)) = data.split_first() else { return };
    match selector % 8 {
        0 => any_frame(bytes),
        1 => any_body(bytes),
        2 => any_sections(bytes),
        3 => any_definitions(bytes),
        4 => samples_come_back(bytes),
        5 => definitions_come_back(bytes),
        6 => damaged_file(bytes),
        _ => histograms_come_back(bytes),
    }
});

/// Any bytes as a frame; and the frame with these bytes as its body.
fn any_frame(bytes: &[u8]) {
    match parse_frame(bytes) {
        Parsed::Frame { body, length, .. } => assert_eq!(body.len() + HEADER_BYTES, length),
        Parsed::NeedBytes(count) => assert!(count > bytes.len()),
        Parsed::Bad(_) => {}
    }
    let _ = FileHeader::decode(bytes, "fuzz");
    let mut input = Input(bytes);
    let header = FrameHeader {
        kind: [FrameKind::FileHeader, FrameKind::Samples, FrameKind::Definitions][input.u8() as usize % 3],
        table: input.u64(),
        counter: input.u64(),
        synced: SyncedUpTo { segment: input.u64() as u32, offset: input.u64() as u32 },
    };
    let mut out = Vec::new();
    write_frame(header, input.0, &mut out);
    match parse_frame(&out) {
        Parsed::Frame { header: found, body, length } => {
            assert_eq!((found, body, length), (header, input.0, out.len()));
        }
        other => panic!("an own frame is not read: {other:?}"),
    }
}

/// Any bytes as the stored body of a frame whose checksum holds.
fn any_body(bytes: &[u8]) {
    if let Ok(raw) = frame::decompress(bytes) {
        // No element of snappy makes more than 64 bytes of three.
        assert!(raw.len() <= bytes.len() * 22);
        any_sections(&raw);
        any_definitions(&raw);
    }
}

fn any_sections(raw: &[u8]) {
    let Ok(found) = sections(raw) else { return };
    for section in found {
        match section {
            Section::Samples(samples) => {
                let mut sink = Collected::new(1 << 10);
                let result = samples.replay(&mut sink);
                assert!(sink.n_taken <= samples.len());
                assert!(sink.n_taken as usize <= raw.len() * 2);
                if result.is_ok() && sink.n_asked == sink.n_taken {
                    assert_eq!(sink.n_taken, samples.len());
                }
            }
            Section::Metadata(entries) => {
                let mut out = Vec::new();
                put_metadata(entries.iter().map(|(name, metadata)| (*name, metadata)), &mut out);
                match sections(&out).expect("own metadata is read").as_slice() {
                    [Section::Metadata(again)] => assert_eq!(again, &entries),
                    [] => assert!(entries.is_empty()),
                    other => panic!("own metadata became {other:?}"),
                }
            }
        }
    }
}

fn any_definitions(raw: &[u8]) {
    let Ok(found) = definitions(raw, |_| true) else { return };
    // A series takes a byte at least, a label two.
    assert!(found.iter().map(|definitions| definitions.series().count()).sum::<usize>() <= raw.len());
    // Those of other shards are passed over alike.
    let even = definitions(raw, |shard| shard % 2 == 0).expect("what can be read can be passed over");
    assert_eq!(even.len(), found.iter().filter(|definitions| definitions.shard % 2 == 0).count());
}

/// Receives records of series below a number.
struct Collected {
    logged: Vec<u64>,
    floats: Vec<(u32, i64, u64, i64)>,
    histograms: Vec<(u32, i64, i64, Histogram)>,
    exemplars: Vec<(u32, Exemplar)>,
    n_asked: u64,
    n_taken: u64,
}

impl Collected {
    fn new(n_series: usize) -> Self {
        let (floats, histograms, exemplars) = Default::default();
        Self { logged: vec![0; n_series], floats, histograms, exemplars, n_asked: 0, n_taken: 0 }
    }
}

impl RecordSink for Collected {
    fn logged(&mut self, ordinal: u32) -> Option<&mut u64> {
        self.n_asked += 1;
        self.logged.get_mut(ordinal as usize)
    }

    fn float(&mut self, ordinal: u32, timestamp: i64, bits: u64, start_timestamp: i64) {
        self.n_taken += 1;
        self.floats.push((ordinal, timestamp, bits, start_timestamp));
    }

    fn histogram(&mut self, ordinal: u32, timestamp: i64, start_timestamp: i64, histogram: Histogram) {
        self.n_taken += 1;
        self.histograms.push((ordinal, timestamp, start_timestamp, histogram));
    }

    fn exemplar(&mut self, ordinal: u32, exemplar: Exemplar) {
        self.n_taken += 1;
        self.exemplars.push((ordinal, exemplar));
    }
}

/// Numbers from bytes; zeros when they have run out.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// A number of one to nine bytes, so that small ones and extreme ones are both near.
    fn u64(&mut self) -> u64 {
        let head = self.u8();
        match head % 16 {
            0..12 => u64::from(head / 16),
            12 => u64::from(self.u8()) << 8 | u64::from(head),
            13 => u64::MAX - u64::from(head / 16),
            14 => 1 << (head / 16 * 4 + 3),
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.u8())),
        }
    }

    /// Bits of a float: whole numbers, few digits, anything.
    fn bits(&mut self) -> u64 {
        match self.u8() % 4 {
            0 => (self.u64() as i64 as f64).to_bits(),
            1 => (self.u64() as f64 / 100.0).to_bits(),
            2 => [0x7ff0_0000_0000_0002, f64::NAN.to_bits(), (-0.0f64).to_bits()][self.u8() as usize % 3],
            _ => self.u64(),
        }
    }

    fn text(&mut self) -> &'a str {
        let length = (self.u8() as usize % 20).min(self.0.len());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        std::str::from_utf8(text).unwrap_or("not UTF-8")
    }

    fn labels(&mut self) -> Labels {
        let pairs: Vec<(&str, &str)> = (0..self.u8() % 4).map(|_| (self.text(), self.text())).collect();
        Labels::from_pairs(pairs).unwrap_or_default()
    }

    fn histogram(&mut self) -> Histogram {
        let hints = [
            CounterResetHint::Unknown,
            CounterResetHint::Reset,
            CounterResetHint::NotReset,
            CounterResetHint::Gauge,
        ];
        let counter_reset_hint = hints[self.u8() as usize % 4];
        let schema = self.u64() as i32;
        let spans = |input: &mut Self| -> Vec<Span> {
            let count = input.u8() % 4;
            (0..count).map(|_| Span { offset: input.u64() as i32, length: input.u64() as u32 }).collect()
        };
        let (positive_spans, negative_spans) = (spans(self), spans(self));
        let floats = |input: &mut Self| -> Vec<f64> {
            let count = input.u8() % 6;
            (0..count).map(|_| f64::from_bits(input.bits())).collect()
        };
        let custom_values = (self.u8() % 2 == 1).then(|| floats(self).into());
        let zero_threshold = f64::from_bits(self.bits());
        let sum = f64::from_bits(self.bits());
        if self.u8() % 2 == 0 {
            let deltas = |input: &mut Self| (0..input.u8() % 6).map(|_| input.u64() as i64).collect();
            return Histogram::Int(IntHistogram {
                counter_reset_hint,
                schema,
                zero_threshold,
                zero_count: self.u64(),
                count: self.u64(),
                sum,
                positive_spans,
                negative_spans,
                positive_deltas: deltas(self),
                negative_deltas: deltas(self),
                custom_values,
            });
        }
        Histogram::Float(FloatHistogram {
            counter_reset_hint,
            schema,
            zero_threshold,
            zero_count: f64::from_bits(self.bits()),
            count: f64::from_bits(self.bits()),
            sum,
            positive_spans,
            negative_spans,
            positive_buckets: floats(self),
            negative_buckets: floats(self),
            custom_values,
        })
    }
}

/// A histogram as the log has it; equal bytes are equal histograms.
fn encoded(histogram: &Histogram) -> Vec<u8> {
    let mut out = Vec::new();
    histogram::encode(histogram, &mut out);
    out
}

/// Sections that the builder made, one after the other with one builder, as a segment has them.
fn samples_come_back(bytes: &[u8]) {
    const N_SERIES: usize = 64;
    let mut input = Input(bytes);
    let mut builder = SectionBuilder::default();
    let mut written = Collected::new(N_SERIES);
    let mut read = Collected::new(N_SERIES);
    for shard in 0..1 + u16::from(input.u8() % 3) {
        for _ in 0..input.u8() {
            let ordinal = input.u8() as usize % N_SERIES;
            let (timestamp, start_timestamp) = (input.u64() as i64, input.u64() as i64);
            match input.u8() % 8 {
                0 => {
                    let histogram = input.histogram();
                    let bytes = encoded(&histogram);
                    builder.push_histogram(ordinal as u32, timestamp, start_timestamp, &bytes);
                    written.histogram(ordinal as u32, timestamp, start_timestamp, histogram);
                }
                1 => {
                    let value = f64::from_bits(input.bits());
                    let exemplar = Exemplar { labels: input.labels(), value, timestamp };
                    builder.push_exemplar(ordinal as u32, &exemplar);
                    written.exemplar(ordinal as u32, exemplar);
                }
                _ => {
                    let bits = input.bits();
                    let before = std::mem::replace(&mut written.logged[ordinal], bits);
                    builder.push_float(ordinal as u32, timestamp, before, bits, start_timestamp);
                    written.float(ordinal as u32, timestamp, bits, start_timestamp);
                }
            }
        }
        let mut raw = Vec::new();
        builder.finish(shard, &mut raw);
        for section in sections(&raw).expect("own sections are read") {
            let Section::Samples(samples) = section else { panic!("samples became metadata") };
            assert_eq!(samples.shard, shard);
            samples.replay(&mut read).expect("own samples are read");
        }
    }
    assert_eq!(read.floats, written.floats);
    assert_eq!(read.logged, written.logged);
    assert_eq!(read.histograms.len(), written.histograms.len());
    for (a, b) in read.histograms.iter().zip(&written.histograms) {
        assert_eq!((a.0, a.1, a.2, encoded(&a.3)), (b.0, b.1, b.2, encoded(&b.3)));
    }
    let exemplars = |all: &[(u32, Exemplar)]| -> Vec<(u32, i64, u64, String)> {
        let plain = |(ordinal, one): &(u32, Exemplar)| {
            (*ordinal, one.timestamp, one.value.to_bits(), format!("{:?}", one.labels))
        };
        all.iter().map(plain).collect()
    };
    assert_eq!(exemplars(&read.exemplars), exemplars(&written.exemplars));
}

fn definitions_come_back(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (shard, first) = (u16::from(input.u8()), u32::from(input.u8()));
    let series: Vec<Labels> = (0..input.u8()).map(|_| input.labels()).collect();
    let mut builder = DefinitionsBuilder::default();
    for (ordinal, labels) in (first..).zip(&series) {
        builder.push(ordinal, labels.iter());
    }
    let mut raw = Vec::new();
    builder.finish(shard, &mut raw);
    let found = definitions(&raw, |_| true).expect("own definitions are read");
    if series.is_empty() {
        return assert!(found.is_empty());
    }
    assert_eq!((found.len(), found[0].shard, found[0].first), (1, shard, first));
    let found: Vec<Vec<(&str, &str)>> = found[0].series().map(<[_]>::to_vec).collect();
    assert_eq!(found, series.iter().map(|labels| labels.iter().collect()).collect::<Vec<Vec<_>>>());

    let metadata = Metadata {
        metric_type: MetricType::Summary,
        unit: input.text().to_owned(),
        help: input.text().to_owned(),
    };
    raw.clear();
    put_metadata([("family", &metadata)].into_iter(), &mut raw);
    any_sections(&raw);
}

fn histograms_come_back(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut builder = SectionBuilder::default();
    let written = input.histogram();
    builder.push_histogram(1, 2, 3, &encoded(&written));
    // And any bytes behind it.
    builder.push_histogram(1, 2, 3, input.0);
    let mut raw = Vec::new();
    builder.finish(0, &mut raw);
    let mut sink = Collected::new(2);
    for section in sections(&raw).expect("own sections are read") {
        let Section::Samples(samples) = section else { panic!("samples became metadata") };
        let _ = samples.replay(&mut sink);
    }
    assert_eq!(encoded(&sink.histograms[0].3), encoded(&written));
}

/// A file in memory.
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

impl LogFs for Memory {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn create(&self, _: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(Self(Mutex::default())))
    }
    fn open(&self, _: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(Self(Mutex::new(self.bytes().clone()))))
    }
    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl LogFile for Memory {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.bytes().extend_from_slice(bytes);
        Ok(())
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }
    fn truncate(&self, size_bytes: u64) -> io::Result<()> {
        self.bytes().truncate(size_bytes as usize);
        Ok(())
    }
}

/// A file of frames with a stretch of other bytes in it: every frame outside of the stretch is found,
/// and none that was not written.
fn damaged_file(bytes: &[u8]) {
    let mut input = Input(bytes);
    let n_frames = 1 + u64::from(input.u8() % 6);
    let damage_at = input.u8() as usize * 4 + input.u8() as usize % 4;
    let damage_bytes = input.u8() as usize % 64;
    let mut file = Vec::new();
    let mut ends = Vec::new();
    for counter in 1..=n_frames {
        let header =
            FrameHeader { kind: FrameKind::FileHeader, table: 5, counter, synced: SyncedUpTo::default() };
        let length = (input.u8() as usize).min(input.0.len());
        let (body, rest) = input.0.split_at(length);
        input.0 = rest;
        let start = file.len();
        write_frame(header, body, &mut file);
        ends.push((counter, start..file.len(), body));
    }
    let damage = damage_at.min(file.len())..(damage_at + damage_bytes).min(file.len());
    let mut changed = damage.end..damage.start;
    for at in damage {
        let before = std::mem::replace(&mut file[at], input.u8());
        if file[at] != before {
            changed = changed.start.min(at)..changed.end.max(at + 1);
        }
    }
    let fs = Memory(Mutex::new(file.clone()));
    let mut reader = LogReader::open(&fs, Path::new("fuzz")).expect("memory opens");
    let mut found = Vec::new();
    for _ in 0..=2 * file.len() {
        match reader.next_frame() {
            Next::Frame(header, body) => found.push((header.table, header.counter, body)),
            Next::End => break,
            Next::Unreadable(error) => panic!("memory reads: {error}"),
            Next::Bad(_) => {
                if !reader.skip_to_frame() {
                    break;
                }
            }
        }
    }
    let good = ends.iter().filter(|(_, place, _)| place.end <= changed.start || place.start >= changed.end);
    for (counter, _, body) in good {
        assert!(found.contains(&(5, *counter, body.to_vec())), "frame {counter} is lost");
    }
    assert!(found.len() <= ends.len() + 1);
}
