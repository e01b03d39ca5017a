//! A hash over all samples of a block that does not depend on their order, so that what a compaction
//! wrote can be compared with what went in, whatever the layout.

use crate::part::{Run, RunBuffer, RunValues};
use chronolith_model::histogram::{Histogram, Span};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Odd constants without a pattern (the fractional bits of the square roots of 2 and 3).
const TIME_KEY: u64 = 0x6a09_e667_f3bc_c909;
const VALUE_KEY: u64 = 0xbb67_ae85_84ca_a73b;

/// Sum over samples of hash(labels, timestamp, value bits), and how many they are. Counter-reset
/// hints and start timestamps are not part of it: merging changes the first and may drop the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentHash {
    /// Wrapping sum of the hashes.
    pub sum: u64,
    /// Float samples.
    pub n_floats: u64,
    /// Histogram samples.
    pub n_histograms: u64,
}

impl ContentHash {
    /// Hash of a label set, given sorted by name.
    pub fn series<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> u64 {
        let mut hasher = Xxh3::new();
        for (name, value) in labels {
            // Lengths keep `ab`, `c` and `a`, `bc` apart.
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value.as_bytes());
        }
        hasher.digest()
    }

    /// Adds the samples of a run of the series with this hash.
    pub fn add_run(&mut self, series_hash: u64, run: &Run, buffer: &RunBuffer) {
        let times = run.times.times();
        let add = |sum: u64, (&timestamp, value): (&i64, u64)| {
            sum.wrapping_add(sample_hash(series_hash, timestamp, value))
        };
        match &run.values {
            RunValues::Constant(value) => {
                self.n_floats += times.len() as u64;
                self.sum = times.iter().map(|timestamp| (timestamp, value.to_bits())).fold(self.sum, add);
            }
            RunValues::Floats(range) => {
                self.n_floats += times.len() as u64;
                let values = buffer.values[range.clone()].iter().map(|value| value.to_bits());
                self.sum = times.iter().zip(values).fold(self.sum, add);
            }
            RunValues::Histograms(range) => {
                self.n_histograms += times.len() as u64;
                let hashes =
                    buffer.histograms[range.clone()].iter().map(|histogram| histogram_hash(histogram));
                self.sum = times.iter().zip(hashes).fold(self.sum, add);
            }
        }
    }
}

/// One multiplication to 128 bits, folded, with the finishing step of murmur3: enough that no likely
/// damage cancels out in a sum.
#[inline]
fn sample_hash(series_hash: u64, timestamp: i64, value: u64) -> u64 {
    let a = series_hash ^ (timestamp as u64).wrapping_mul(TIME_KEY);
    let b = value ^ VALUE_KEY ^ series_hash.rotate_left(32);
    let product = u128::from(a | 1) * u128::from(b | 1);
    let folded = (product as u64) ^ ((product >> 64) as u64) ^ a ^ b.rotate_left(23);
    (folded ^ folded >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

fn histogram_hash(histogram: &Histogram) -> u64 {
    let mut bytes = Vec::with_capacity(256);
    let spans = |bytes: &mut Vec<u8>, spans: &[Span]| {
        bytes.extend_from_slice(&(spans.len() as u64).to_le_bytes());
        for span in spans {
            bytes.extend_from_slice(&span.offset.to_le_bytes());
            bytes.extend_from_slice(&span.length.to_le_bytes());
        }
    };
    let words = |bytes: &mut Vec<u8>, words: &mut dyn Iterator<Item = u64>| {
        words.for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    };
    match histogram {
        Histogram::Int(h) => {
            bytes.push(1);
            bytes.extend_from_slice(&h.schema.to_le_bytes());
            words(
                &mut bytes,
                &mut [h.zero_threshold.to_bits(), h.zero_count, h.count, h.sum.to_bits()].into_iter(),
            );
            spans(&mut bytes, &h.positive_spans);
            spans(&mut bytes, &h.negative_spans);
            words(&mut bytes, &mut h.positive_deltas.iter().chain(&h.negative_deltas).map(|&d| d as u64));
            words(&mut bytes, &mut h.custom_values.iter().flat_map(|v| v.iter()).map(|v| v.to_bits()));
        }
        Histogram::Float(h) => {
            bytes.push(2);
            bytes.extend_from_slice(&h.schema.to_le_bytes());
            let head = [h.zero_threshold, h.zero_count, h.count, h.sum];
            words(&mut bytes, &mut head.into_iter().map(f64::to_bits));
            spans(&mut bytes, &h.positive_spans);
            spans(&mut bytes, &h.negative_spans);
            let buckets = h.positive_buckets.iter().chain(&h.negative_buckets);
            words(&mut bytes, &mut buckets.map(|bucket| bucket.to_bits()));
            words(&mut bytes, &mut h.custom_values.iter().flat_map(|v| v.iter()).map(|v| v.to_bits()));
        }
    }
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::part::ColumnSlice;

    #[test]
    fn the_order_of_series_and_samples_does_not_matter_but_everything_else_does() {
        let buffer = RunBuffer { values: vec![1.0, 2.0, 2.0, 1.0], ..RunBuffer::default() };
        let run = |from: usize, times: &[i64]| Run {
            series: 0,
            times: ColumnSlice::private(times.to_vec()),
            values: RunValues::Floats(from..from + times.len()),
            start_timestamps: None,
            first_of_chunk: true,
        };
        let (a, b) = (ContentHash::series([("a", "b")]), ContentHash::series([("a", "c")]));
        let hash = |runs: &[(u64, Run)]| {
            let mut hash = ContentHash::default();
            runs.iter().for_each(|(series, run)| hash.add_run(*series, run, &buffer));
            hash
        };
        let whole = hash(&[(a, run(0, &[10, 20])), (b, run(1, &[10]))]);
        assert_eq!(whole, hash(&[(b, run(1, &[10])), (a, run(1, &[20])), (a, run(0, &[10]))]));
        assert_ne!(whole, hash(&[(a, run(2, &[10, 20])), (b, run(1, &[10]))]));
        assert_ne!(whole, hash(&[(b, run(0, &[10, 20])), (a, run(1, &[10]))]));
        assert_ne!(whole, hash(&[(a, run(0, &[10, 21])), (b, run(1, &[10]))]));
        let constant = Run { values: RunValues::Constant(2.0), ..run(1, &[10, 20]) };
        assert_eq!(hash(&[(a, constant)]), hash(&[(a, run(1, &[10, 20]))]));
    }
}
