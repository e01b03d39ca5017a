//! Bodies of remote write 1.0 and 2.0, compressed and not: no panic, bounded work, and labels that
//! decode do so the same way twice.
#![no_main]

use chronolith_model::append::{AppendBatch, SeriesKey};
use chronolith_wire::remote_write::{decompress, samples, v1, v2};
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
    if let Ok(rejected) = v2::decode(body, &mut refs, &mut batch) {
        check(&batch);
        let mut usual = AppendBatch::default();
        if rejected.is_empty() && samples(body, &mut usual, &mut Vec::new()) {
            // The short way to the samples of a request is no other one.
            let ranges = |batch: &AppendBatch<'_>| {
                batch.series.iter().map(|series| series.samples.clone()).collect::<Vec<_>>()
            };
            let bits = |batch: &AppendBatch<'_>| {
                let bits = batch.samples.iter().map(|sample| (sample.timestamp, sample.value.to_bits()));
                bits.collect::<Vec<_>>()
            };
            assert_eq!((ranges(&usual), bits(&usual)), (ranges(&batch), bits(&batch)));
        }
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
