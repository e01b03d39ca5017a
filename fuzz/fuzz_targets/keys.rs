//! Keys and the records of a block beside its samples: postings, header, series, tombstones, exemplars,
//! metadata. Whatever is on disk, reading it is an answer or an error, and what was written reads back.
//!
//! All bytes are read as a key; then the first byte selects as what the others are read.
#![no_main]

use chronolith_model::matcher::{MatchOp, Matcher};
use chronolith_storage::block::header::BlockHeader;
use chronolith_storage::block::side;
use chronolith_storage::block::tombstones::Tombstone;
use chronolith_storage::index::postings::Postings;
use chronolith_storage::index::series::{IndexedSeries, SeriesView, SeriesWriter, visit_series};
use chronolith_storage::kv::MemoryKv;
use chronolith_storage::kv::keys::{BlockId, Kind, key, kind_range, split};
use libfuzzer_sys::fuzz_target;

const BLOCK: BlockId = BlockId(7);
const N_SYMBOLS: u32 = 64;

fuzz_target!(|data: &[u8]| {
    any_key(data);
    let Some((&selector, bytes)) = data.split_first() else { return };
    match selector % 8 {
        0 | 1 => any_postings(bytes),
        2 => any_header(bytes),
        3 => any_series(bytes),
        4 => any_tombstone(bytes),
        5 => {
            if let Ok(exemplars) = side::decode_exemplars(bytes) {
                // Timestamp, value and number of labels.
                assert!(exemplars.len() <= bytes.len() / 10);
                let again =
                    side::decode_exemplars(&side::encode_exemplars(&exemplars)).expect("own exemplars");
                assert_eq!(format!("{again:?}"), format!("{exemplars:?}"));
            }
        }
        6 => {
            if let Ok(metadata) = side::decode_metadata(bytes) {
                assert!(metadata.len() <= bytes.len() / 3);
                let again = side::decode_metadata(&side::encode_metadata(&metadata)).expect("own metadata");
                assert_eq!(again, metadata);
            }
        }
        _ => series_come_back(bytes),
    }
});

fn any_key(bytes: &[u8]) {
    if let Some((block, kind, rest)) = split(bytes) {
        assert_eq!(key(block, kind, rest), bytes);
        let (from, to) = kind_range(block, kind);
        assert!(from.as_slice() <= bytes && bytes < to.as_slice());
    }
}

fn any_postings(bytes: &[u8]) {
    let Some((&n, bytes)) = bytes.split_first() else { return };
    let n_series = u32::from(n) << (n % 24);
    let Ok(postings) = Postings::decode(bytes, n_series) else { return };
    let ranks: Vec<u32> = postings.iter().take(1 << 16).collect();
    assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(ranks.iter().all(|&rank| rank < n_series));
    let mut encoded = Vec::new();
    postings.encode(&mut encoded);
    let again = Postings::decode(&encoded, n_series).expect("own postings");
    assert!(again.iter().take(1 << 16).eq(ranks.iter().copied()));
}

fn any_header(bytes: &[u8]) {
    if let Ok(header) = BlockHeader::decode(BLOCK, bytes) {
        assert_eq!(header.block_id(), BLOCK);
        let (_, value) = header.encode().expect("what was decoded is not too large");
        assert_eq!(BlockHeader::decode(BLOCK, &value).expect("an own header"), header);
    }
}

fn read_series(kv: &MemoryKv, ranks: &Postings) -> Option<Vec<IndexedSeries>> {
    let mut found = Vec::new();
    let mut visit = |_, series: SeriesView<'_>| {
        let SeriesView { labels, mint, maxt } = series;
        found.push(IndexedSeries { labels: labels.to_vec(), mint, maxt });
        Ok(())
    };
    visit_series(kv, BLOCK, N_SYMBOLS, ranks, &mut || Ok(()), &mut visit).ok()?;
    Some(found)
}

fn write_series(all: &[IndexedSeries]) -> MemoryKv {
    let mut kv = MemoryKv::default();
    let mut writer = SeriesWriter::new(BLOCK);
    for series in all {
        writer.add(&series.labels, series.mint, series.maxt, &mut kv).expect("memory takes everything");
    }
    writer.finish(&mut kv).expect("memory takes everything");
    kv
}

/// Any bytes as the record of the first sixteen series.
fn any_series(bytes: &[u8]) {
    let mut kv = MemoryKv::default();
    kv.records.insert(key(BLOCK, Kind::Series, &0u32.to_be_bytes()), bytes.to_vec());
    for count in [1, 5, 16] {
        let ranks = Postings::range(0..count);
        let Some(found) = read_series(&kv, &ranks) else { continue };
        assert_eq!(found.len(), count as usize);
        for series in &found {
            assert!(series.labels.windows(2).all(|pair| pair[0].0 < pair[1].0));
            assert!(series.labels.iter().all(|&(name, value)| name < N_SYMBOLS && value < N_SYMBOLS));
        }
        assert_eq!(read_series(&write_series(&found), &ranks).expect("own series"), found);
    }
}

fn series_come_back(bytes: &[u8]) {
    let number = |byte: u8| u32::from(byte) % N_SYMBOLS;
    let mut all = Vec::new();
    for told in bytes.chunks(8).take(100) {
        let mut labels: Vec<(u32, u32)> =
            told.chunks_exact(2).map(|pair| (number(pair[0]), number(pair[1]))).collect();
        labels.sort_unstable();
        labels.dedup_by_key(|label| label.0);
        let mint =
            told.iter().fold(0i64, |time, &byte| time.wrapping_mul(259).wrapping_add(i64::from(byte) - 128));
        all.push(IndexedSeries { labels, mint, maxt: mint.saturating_add(i64::from(told[0])) });
    }
    let kv = write_series(&all);
    let every = Postings::range(0..all.len() as u32);
    assert_eq!(read_series(&kv, &every).expect("own series"), all);
    let third = Postings::from_sorted((0..all.len() as u32).step_by(3));
    let expected: Vec<IndexedSeries> = all.iter().step_by(3).cloned().collect();
    assert_eq!(read_series(&kv, &third).expect("own series"), expected);
}

fn any_tombstone(bytes: &[u8]) {
    const N_SERIES: u32 = 1 << 20;
    let (record_key, _) = Tombstone {
        number: 3,
        matcher_sets: vec![vec![Matcher::new(MatchOp::Equal, "a", "b").expect("no pattern")]],
        mint: 0,
        maxt: 1,
        ranks: Default::default(),
        gone: Default::default(),
    }
    .record(BLOCK);
    assert!(Tombstone::decode(BLOCK, N_SERIES, bytes, &[]).is_err());
    if let Ok(tombstone) = Tombstone::decode(BLOCK, N_SERIES, &record_key, bytes) {
        assert_eq!(tombstone.number, 3);
        assert!(tombstone.mint <= tombstone.maxt);
        assert!(tombstone.ranks.max().is_none_or(|rank| rank < N_SERIES));
        let again = Tombstone::decode(BLOCK, N_SERIES, &record_key, &tombstone.encode());
        assert_eq!(again.expect("an own tombstone"), tombstone);
    }
}
