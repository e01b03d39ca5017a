//! Bodies of remote write 1.0 and 2.0, compressed and not: no panic, bounded work, and labels that
//! decode do so the same way twice.
#![no_main]

use chronolith_model::append::{AppendBatch, SeriesKey};
use chronolith_wire::remote_write::{decompress, v1, v2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut decompressed = Vec::new();
    if decompress(data, 1 << 20, &mut decompressed).is_ok() {
        assert!(decompressed.len() <= 1 << 20);
        decode(&decompressed);
    }
    decode(data);
});

fn decode(body: &[u8]) {
    let mut batch = AppendBatch::default();
    if v1::decode(body, &mut batch).is_ok() {
        check(&batch);
        // What was decoded can be sent on, unless the labels of a series are no labels.
        let mut encoded = Vec::new();
        let _ = v1::encode(&batch, &mut encoded);
    }
    let mut refs = Vec::new();
    let mut batch = AppendBatch::default();
    if v2::decode(body, &mut refs, &mut batch).is_ok() {
        check(&batch);
        let mut encoded = Vec::new();
        let _ = v2::encode(&batch, &mut encoded);
    }
}

fn check(batch: &AppendBatch<'_>) {
    for series in &batch.series {
        assert!(series.samples.start <= series.samples.end);
        assert!(series.samples.end as usize <= batch.samples.len());
        assert!(series.histograms.end as usize <= batch.histograms.len());
        assert!(series.exemplars.end as usize <= batch.exemplars.len());
        if let SeriesKey::Encoded(bytes) = series.key {
            let (mut once, mut twice) = (Vec::new(), Vec::new());
            assert_eq!((batch.decode)(bytes, &mut once).is_ok(), (batch.decode)(bytes, &mut twice).is_ok());
            assert_eq!(once, twice);
        }
    }
}
