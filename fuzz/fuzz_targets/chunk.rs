//! Chunk bytes: decoding anything neither panics nor takes more than the count allows, and whatever
//! bits the values have, encoding and decoding gives them back.
#![no_main]

use chronolith_storage::chunk::{Effort, column, timestamps};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&selector, rest)) = data.split_first() else { return };
    let Some((count, bytes)) = rest.split_first_chunk::<2>() else { return };
    let count = usize::from(u16::from_le_bytes(*count)) % 4097;
    match selector % 4 {
        0 => {
            let mut values = Vec::new();
            if column::decode(bytes, count, &mut values).is_ok() {
                assert_eq!(values.len(), count);
            }
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
        _ => {
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
    }
});
