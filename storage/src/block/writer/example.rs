//! The worked examples of docs/format.md: written, compared with the document, read back.

use super::*;
use crate::block::side;
use crate::block::tiles::TileReader;
use crate::chunk::{ChunkKind, column, histogram, timestamps};
use crate::format_examples::example;
use crate::kv::MemoryKv;
use crate::part::{ColumnSlice, PartRead};
use chronolith_model::Labels;
use chronolith_model::append::{Exemplar, Metadata, MetricType};
use chronolith_model::histogram::{CounterResetHint, Histogram, IntHistogram, Span};
use chronolith_model::queryable::{HistogramNeed, Unlimited};
use chronolith_model::sample::stale_nan;
use std::sync::Arc;

const BLOCK: BlockId = BlockId(0x0102_0304_0506_0708);

/// The block of the document: three series, the last of which begins late and ends early.
struct Example {
    column: Arc<Vec<i64>>,
    next: u32,
}

fn values(rank: u32) -> Vec<f64> {
    match rank {
        0 => vec![1.0; 9],
        1 => vec![10.0, 12.0, 13.0, 13.0, 16.0, 18.0, 19.0, 21.0, stale_nan()],
        _ => vec![0.25, 0.5, 0.75, 0.5, 0.25, 1.5, 0.25],
    }
}

fn exemplar() -> Exemplar {
    let labels = Labels::from_pairs([("trace_id", "7f")]).expect("one name");
    Exemplar { labels, value: 0.5, timestamp: 3000 }
}

fn metadata() -> Metadata {
    Metadata { metric_type: MetricType::Gauge, unit: String::new(), help: "Is it up?".to_owned() }
}

impl BlockSource for Example {
    fn symbols(&mut self) -> Result<Vec<Box<str>>, StorageError> {
        Ok(["__name__", "a", "b", "job", "up", "zone", "\u{e9}"].map(Box::from).to_vec())
    }

    fn next_series(&mut self, series: &mut SourceSeries) -> Result<bool, StorageError> {
        let labels: &[(u32, u32)] = match self.next {
            0 => &[(0, 4), (3, 1)],
            1 => &[(0, 4), (3, 2)],
            2 => &[(0, 4), (3, 2), (5, 6)],
            _ => return Ok(false),
        };
        series.labels.extend_from_slice(labels);
        series.samples.values = values(self.next);
        let count = series.samples.values.len();
        let column = Arc::clone(&self.column);
        let first = if self.next == 2 { 1 } else { 0 };
        series.samples.runs.push(Run {
            series: 0,
            times: ColumnSlice { column, first, count: count as u32 },
            values: RunValues::Floats(0..count),
            start_timestamps: None,
            first_of_chunk: true,
        });
        if self.next == 0 {
            series.exemplars.push(exemplar());
        }
        self.next += 1;
        Ok(true)
    }

    fn metadata(&mut self) -> Result<Vec<(String, Vec<Metadata>)>, StorageError> {
        Ok(vec![("up".to_owned(), vec![metadata()])])
    }
}

fn write() -> (BlockHeader, MemoryKv) {
    let meta = BlockMeta {
        id: BLOCK,
        mint: 0,
        maxt: 7_199_999,
        level: 0,
        seq_min: 7,
        seq_max: 7,
        tables: vec![7],
        parents: vec![],
        effort: Effort::Seal,
        spill_dir: None,
    };
    let column = Arc::new(vec![1000, 2003, 3001, 4000, 5002, 5999, 7000, 8001, 9000]);
    let mut kv = MemoryKv::default();
    let header =
        write_block(meta, &mut Example { column, next: 0 }, &mut kv).expect("the example is in order");
    (header, kv)
}

/// Compares in hexadecimal, so that a difference can be copied.
fn assert_example(name: &str, key: &[u8], value: &[u8]) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let (documented_key, documented) = example(name);
    assert_eq!(hex(key), hex(&documented_key), "key of {name:?}");
    assert_eq!(hex(value), hex(&documented), "value of {name:?}");
}

#[test]
fn the_block_of_the_document_is_what_is_written() {
    let (_, kv) = write();
    for (name, kind) in [
        ("header", Kind::Header),
        ("timestamps", Kind::Timestamps),
        ("tiles", Kind::Tiles),
        ("exemplars", Kind::Exemplars),
        ("metadata", Kind::Metadata),
    ] {
        let (from, to) = crate::kv::keys::kind_range(BLOCK, kind);
        let mut records = kv.records.range(from..to);
        let (key, value) = records.next().expect("there is one");
        assert_example(name, key, value);
        assert_eq!(records.next(), None);
    }
}

#[test]
fn the_block_of_the_document_is_read() {
    let mut kv = MemoryKv::default();
    for name in ["header", "timestamps", "tiles", "exemplars", "metadata"] {
        let (key, value) = example(name);
        kv.records.insert(key, value);
    }
    let (header, _) = write();
    assert_eq!(BlockHeader::decode(BLOCK, &example("header").1).expect("as documented"), header);
    assert_eq!(side::exemplars(&kv, BLOCK, 0).expect("as documented"), [exemplar()]);
    side::metadata(&kv, BLOCK, &mut |family, entry| {
        assert_eq!((family, entry), ("up", &metadata()));
    })
    .expect("as documented");
    let all = PartRead {
        mint: i64::MIN,
        maxt: i64::MAX,
        lookups: None,
        values: true,
        histograms: HistogramNeed::Full,
        start_timestamps: true,
    };
    let mut out = RunBuffer::default();
    TileReader::new(Arc::new(kv), Arc::new(header), 1 << 20, None)
        .read(&[0, 1, 2], &|_| &[], &all, &mut out, &Unlimited::default())
        .expect("as documented");
    assert_eq!(out.runs.len(), 3);
    assert!(matches!(out.runs[0].values, RunValues::Constant(1.0)));
    assert!(out.runs[0].times.same(&out.runs[1].times));
    assert_eq!(out.runs[2].times.times(), [2003, 3001, 4000, 5002, 5999, 7000, 8001]);
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&out.values), bits(&[values(1), values(2)].concat()));
}

fn histograms() -> Vec<Arc<Histogram>> {
    (0..3u64)
        .map(|i| {
            Arc::new(Histogram::Int(IntHistogram {
                counter_reset_hint: if i == 0 {
                    CounterResetHint::Unknown
                } else {
                    CounterResetHint::NotReset
                },
                schema: 3,
                zero_threshold: 2f64.powi(-128),
                zero_count: 1,
                count: 10 + 5 * i,
                sum: 2.5 + i as f64,
                positive_spans: vec![Span { offset: -2, length: 1 }, Span { offset: 3, length: 1 }],
                negative_spans: vec![],
                positive_deltas: vec![4 + 2 * i as i64, 1 + i as i64],
                negative_deltas: vec![],
                custom_values: None,
            }))
        })
        .collect()
}

#[test]
fn columns_and_chunks_of_the_document_are_what_is_written_and_read() {
    let mut bytes = Vec::new();
    timestamps::encode(&[60_000, 75_000, 90_000, 105_000], Effort::Seal, &mut bytes);
    assert_example("timestamp column on a grid", &[], &bytes);

    // Not the encoder's choice for so few values: what the document shows is read.
    let mut decoded = Vec::new();
    column::decode(&example("patched column").1, 9, &mut decoded).expect("as documented");
    assert_eq!(decoded, [5.0, 6.0, 8.0, 9.0, 12.0, 1012.0, 1013.0, 1015.0, 1016.0]);

    bytes.clear();
    column::encode_constant(0.1 + 0.2, &mut bytes);
    assert_example("constant column of a full-precision value", &[], &bytes);

    bytes.clear();
    histogram::encode(&histograms(), Effort::Seal, &mut bytes);
    assert_example("histogram chunk", &[], &bytes);
    let mut decoded = Vec::new();
    histogram::decode(
        &bytes,
        ChunkKind::IntHistogram,
        histogram::Rows::all(3),
        HistogramNeed::Full,
        &mut decoded,
    )
    .expect("as written");
    assert_eq!(format!("{decoded:?}"), format!("{:?}", histograms()));
}
