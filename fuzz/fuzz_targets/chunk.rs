//! Chunk bytes: columns, histogram chunks and tiles. Decoding anything neither panics nor takes more than
//! the count allows, and whatever bits the values have, encoding and decoding gives them back.
//!
//! The first byte selects what is tried, the next two are a count of samples.
#![no_main]

use chronolith_model::histogram::{CounterResetHint, FloatHistogram, Histogram, IntHistogram, Span};
use chronolith_model::queryable::HistogramNeed;
use chronolith_storage::chunk::tile::{NewEntry, Tile, TileBuilder, TileTimes};
use chronolith_storage::chunk::{ChunkKind, Effort, column, histogram, timestamps};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    let Some((&selector, rest)) = data.split_first() else { return };
    let Some((count, bytes)) = rest.split_first_chunk::<2>() else { return };
    let count = usize::from(u16::from_le_bytes(*count)) % 4097;
    match selector % 8 {
        0 => {
            let mut values = Vec::new();
            let is_column = column::decode(bytes, count, &mut values).is_ok();
            let positions: Vec<u32> = (0..count as u32).step_by(1 + count / 7).collect();
            let mut some = Vec::new();
            let is_some = column::decode_at(bytes, count, &positions, &mut some).is_ok();
            if is_column {
                assert_eq!(values.len(), count);
                assert!(is_some);
                let is_same = |(&at, value): (&u32, &f64)| values[at as usize].to_bits() == value.to_bits();
                assert!(positions.iter().zip(&some).all(is_same));
            }
            let _ = column::decode_staleness(bytes, count, &mut Vec::new());
            if let Some(constant) = column::constant(bytes)
                && column::decode(bytes, count, { values.clear(); &mut values }).is_ok()
            {
                assert!(values.iter().all(|value| value.to_bits() == constant.to_bits()));
            }
        }
        1 => {
            let mut times = Vec::new();
            if timestamps::decode(bytes, count, &mut times).is_ok() {
                assert_eq!(times.len(), count);
            }
        }
        2 => {
            let values: Vec<f64> =
                bytes.chunks_exact(8).take(4096).map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes"))).collect();
            if values.is_empty() {
                return;
            }
            for effort in [Effort::Seal, Effort::Compact] {
                let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
                column::encode(&values, effort, &mut encoded);
                column::decode(&encoded, values.len(), &mut decoded).expect("own encoding decodes");
                let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&decoded), bits(&values));
            }
        }
        3 => {
            let mut times: Vec<i64> = bytes
                .chunks_exact(8)
                .take(4096)
                .map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) >> 10)
                .collect();
            times.sort_unstable();
            times.dedup();
            if times.is_empty() {
                return;
            }
            let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
            timestamps::encode(&times, Effort::Seal, &mut encoded);
            timestamps::decode(&encoded, times.len(), &mut decoded).expect("own encoding decodes");
            assert_eq!(decoded, times);
        }
        4 => any_histograms(bytes, count),
        5 => histograms_come_back(bytes, count),
        6 => any_tile(bytes, count as u32),
        _ => tile_comes_back(bytes, count as u32),
    }
});

/// What a chunk may hold decoded: cells of eight bytes, or a few times its own bytes for one sample.
fn any_histograms(bytes: &[u8], count: usize) {
    for kind in [ChunkKind::Float, ChunkKind::IntHistogram, ChunkKind::FloatHistogram] {
        for need in [HistogramNeed::None, HistogramNeed::Full] {
            let mut histograms = Vec::new();
            if histogram::decode(bytes, kind, histogram::Rows::all(count), need, &mut histograms).is_err() {
                continue;
            }
            assert_eq!(histograms.len(), count);
            let n_cells: usize = histograms.iter().map(|histogram| n_cells(histogram)).sum();
            assert!(n_cells <= histogram::MAX_CELLS.max(bytes.len()));
            if need == HistogramNeed::Full {
                check_histograms(&histograms);
            }
        }
    }
}

/// Spans and bucket counts.
fn n_cells(histogram: &Histogram) -> usize {
    match histogram {
        Histogram::Int(h) => {
            let n_spans = h.positive_spans.len() + h.negative_spans.len();
            n_spans + h.positive_deltas.len() + h.negative_deltas.len()
        }
        Histogram::Float(h) => {
            let n_spans = h.positive_spans.len() + h.negative_spans.len();
            n_spans + h.positive_buckets.len() + h.negative_buckets.len()
        }
    }
}

/// Equal bytes are equal histograms, hints and the bits of NaNs included.
fn logged(histograms: &[Arc<Histogram>]) -> Vec<Vec<u8>> {
    let log = |histogram: &Arc<Histogram>| {
        let mut out = Vec::new();
        chronolith_storage::log::histogram::encode(histogram, &mut out);
        out
    };
    histograms.iter().map(log).collect()
}

fn check_histograms(histograms: &[Arc<Histogram>]) {
    assert!(histograms.len() <= histogram::max_samples(&histograms[0]));
    for effort in [Effort::Seal, Effort::Compact] {
        let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
        histogram::encode(histograms, effort, &mut encoded);
        let kind = histogram::kind(&histograms[0]);
        histogram::decode(&encoded, kind, histogram::Rows::all(histograms.len()), HistogramNeed::Full, &mut decoded)
            .expect("own encoding decodes");
        assert_eq!(logged(&decoded), logged(histograms));
    }
}

fn histograms_come_back(bytes: &[u8], count: usize) {
    let mut bytes = bytes.iter().copied();
    let mut next = || bytes.next().unwrap_or_default();
    let is_float = next() % 2 == 1;
    let schema = i32::from(next() as i8);
    let zero_threshold = f64::from(next());
    let mut spans = || -> Vec<Span> {
        let n_spans = next() % 3;
        (0..n_spans).map(|_| Span { offset: i32::from(next() as i8), length: u32::from(next()) }).collect()
    };
    let (positive_spans, negative_spans) = (spans(), spans());
    let n_positive = next() as usize % 6;
    let n_negative = next() as usize % 3;
    let n_bounds = next() % 4;
    let custom_values: Option<Arc<[f64]>> =
        (n_bounds > 0).then(|| (1..n_bounds).map(|_| f64::from(next())).collect());
    let mut number = |bits: u8| -> u64 {
        match next() % 8 {
            7 => (0..8).fold(0, |number, _| number << 8 | u64::from(next())),
            6 => u64::MAX,
            _ => u64::from(next()) >> (bits % 8),
        }
    };
    let mut float = || match number(0) {
        small @ 0..=255 => small as f64 / 4.0,
        bits => f64::from_bits(bits),
    };
    let mut histograms = Vec::new();
    for _ in 0..1 + count % 40 {
        let sum = float();
        let counter_reset_hint = match sum as i64 {
            1 => CounterResetHint::Reset,
            2 => CounterResetHint::NotReset,
            3 => CounterResetHint::Gauge,
            _ => CounterResetHint::Unknown,
        };
        let (zero, all) = (float(), float());
        let positive: Vec<f64> = (0..n_positive).map(|_| float()).collect();
        let negative: Vec<f64> = (0..n_negative).map(|_| float()).collect();
        let (positive_spans, negative_spans) = (positive_spans.clone(), negative_spans.clone());
        let custom_values = custom_values.clone();
        histograms.push(Arc::new(if is_float {
            Histogram::Float(FloatHistogram {
                counter_reset_hint,
                schema,
                zero_threshold,
                zero_count: zero,
                count: all,
                sum,
                positive_spans,
                negative_spans,
                positive_buckets: positive,
                negative_buckets: negative,
                custom_values,
            })
        } else {
            let whole = |values: Vec<f64>| values.into_iter().map(|value| value.to_bits() as i64).collect();
            Histogram::Int(IntHistogram {
                counter_reset_hint,
                schema,
                zero_threshold,
                zero_count: zero.to_bits(),
                count: all as u64,
                sum,
                positive_spans,
                negative_spans,
                positive_deltas: whole(positive),
                negative_deltas: whole(negative),
                custom_values,
            })
        }));
    }
    check_histograms(&histograms);
}

fn any_tile(bytes: &[u8], first_rank: u32) {
    let Ok(tile) = Tile::open(first_rank, bytes.to_vec()) else { return };
    // Three bytes of the directory make an entry at least.
    assert!(tile.entries().len() <= bytes.len() / 3);
    assert!(tile.entries().is_sorted_by_key(|entry| entry.rank));
    let shared: Vec<i64> = (0..1 << 13).map(|at| at * 15_000).collect();
    for (at, entry) in tile.entries().iter().enumerate().take(64) {
        assert!(entry.rank >= first_rank && entry.times_of as usize <= at);
        assert!(tile.entries_of(entry.rank..entry.rank.saturating_add(1)).contains(&at) || entry.rank == u32::MAX);
        for shared in [None, Some(&shared[..]), Some(&[])] {
            if let Ok(times) = tile.times(entry, shared) {
                assert_eq!((times.len(), times[0]), (entry.count as usize, entry.mint));
            }
        }
        let mut starts = Vec::new();
        if let Some(bytes) = tile.starts(entry)
            && timestamps::decode_starts(bytes, entry.count as usize, &mut starts).is_ok()
        {
            assert_eq!(starts.len(), entry.count as usize);
        }
        let mut values = Vec::new();
        if column::decode(tile.values(entry), entry.count as usize, &mut values).is_ok() {
            assert_eq!(values.len(), entry.count as usize);
        }
    }
}

/// A tile whose entries are told by five bytes each.
fn tile_comes_back(bytes: &[u8], first_rank: u32) {
    const BASE: i64 = 1_700_000_000_000;
    let shared: Vec<i64> = (0..1024).map(|at| BASE + at * 15_000).collect();
    let mut builder = TileBuilder::new(first_rank, BASE);
    let mut expected: Vec<(u32, Vec<i64>, Vec<u8>)> = Vec::new();
    let mut rank = first_rank;
    for told in bytes.chunks_exact(5).take(128) {
        let [gap, form, count, first, value] = *told else { return };
        if !(expected.is_empty() && gap % 2 == 0) {
            rank += u32::from(if gap >= 250 { gap - 248 } else { gap % 2 });
        }
        let count = u32::from(count) + 1;
        let at = usize::from(first);
        let (mut inline, mut bitmap) = (Vec::new(), Vec::new());
        let (times, stored) = match form % 4 {
            0 if !expected.is_empty() => (expected[expected.len() - 1].1.clone(), None),
            1 => {
                let times: Vec<i64> = (0..i64::from(count)).map(|n| BASE - n * 7 + i64::from(first) * n * n).collect();
                let mut times = times;
                times.sort_unstable();
                times.dedup();
                timestamps::encode(&times, Effort::Seal, &mut inline);
                (times, Some(TileTimes::Inline(&inline[..])))
            }
            2 if count > 8 => {
                // Every ninth of the stretch is missing.
                let is_there = |n: &usize| n % 9 != 4;
                let stretch = count as usize + count as usize / 9;
                bitmap.resize(stretch.div_ceil(8), 0);
                (0..stretch).filter(is_there).for_each(|n| bitmap[n / 8] |= 1 << (n % 8));
                let times: Vec<i64> = (0..stretch).filter(is_there).map(|n| shared[at + n]).collect();
                let (first, stretch) = (at as u32, stretch as u32);
                (times, Some(TileTimes::Masked { column: 3, first, stretch, bitmap: &bitmap[..] }))
            }
            _ => {
                let times = shared[at..at + count as usize].to_vec();
                (times, Some(TileTimes::Shared { column: u32::from(form), first: at as u32 }))
            }
        };
        // No column is empty.
        let values = vec![value; 1 + usize::from(value) % 5];
        builder.push(&NewEntry {
            rank,
            kind: [ChunkKind::Float, ChunkKind::IntHistogram, ChunkKind::FloatHistogram][usize::from(value) % 3],
            first_of_history: form >= 128,
            count: times.len() as u32,
            mint: times[0],
            times: stored,
            starts: &values[..values.len() / 2],
            values: &values,
        });
        expected.push((rank, times, values));
    }
    let mut bytes = Vec::new();
    builder.finish(&mut bytes);
    let tile = Tile::open(first_rank, bytes).expect("an own tile opens");
    assert_eq!(tile.entries().len(), expected.len());
    for (entry, (rank, times, values)) in tile.entries().iter().zip(&expected) {
        assert_eq!((entry.rank, tile.values(entry)), (*rank, &values[..]));
        assert_eq!(tile.starts(entry).unwrap_or_default(), &values[..values.len() / 2]);
        assert_eq!(&tile.times(entry, Some(&shared)).expect("own times decode"), times);
    }
}
