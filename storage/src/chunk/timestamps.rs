//! Timestamp columns. Scrapes come at regular times with independent noise, so a column is a grid,
//! `start + index * step`, and what is left over; where nothing is left over it is two numbers.
//!
//! Column: `tag | start (zigzag) | step | residuals?`. Tag 0: an exact grid. Tag 1: an integer column
//! ([`ints`]) of `time - (start + index * step)` follows. Also columns of start timestamps, which are
//! integer columns as they stand.

use super::bytes::{Reader, put_signed, put_varint};
use super::{ChunkError, Effort, ints};

const GRID: u8 = 0;
const RESIDUALS: u8 = 1;

/// Appends a column of `times`, strictly ascending, at least one.
///
/// # Panics
/// If there is none.
pub fn encode(times: &[i64], effort: Effort, out: &mut Vec<u8>) {
    let start = times[0];
    let n_steps = times.len() as i64 - 1;
    if n_steps == 0 {
        return put_grid(out, GRID, start, 0);
    }
    let regular = times[1].wrapping_sub(start);
    if (1..times.len()).all(|i| times[i] == on_grid(start, regular, i)) {
        return put_grid(out, GRID, start, regular);
    }
    let mut deltas: Vec<i64> = times.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    let middle = deltas.len() / 2;
    let (_, &mut median, _) = deltas.select_nth_unstable(middle);
    let mean = times[n_steps as usize].wrapping_sub(start) / n_steps;
    // Intervals are nearly always whole seconds, and noise moves mean and median off them.
    let mut steps = vec![round_to(mean, 1000), round_to(median, 1000), mean, median];
    steps.dedup();
    let encoded = steps.into_iter().map(|step| {
        let residuals: Vec<i64> =
            (0..times.len()).map(|i| times[i].wrapping_sub(on_grid(start, step, i))).collect();
        let mut bytes = Vec::new();
        put_grid(&mut bytes, RESIDUALS, start, step);
        ints::encode(&residuals, effort, &mut bytes);
        bytes
    });
    out.extend_from_slice(&encoded.min_by_key(Vec::len).expect("there are four candidates at first"));
}

/// Appends `count` times of a column. `bytes` hold the column and nothing else.
///
/// # Errors
/// [`ChunkError`] if they do not, or the times are not strictly ascending.
pub fn decode(bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Result<(), ChunkError> {
    let mut reader = Reader::new(bytes);
    let tag = reader.u8()?;
    let start = reader.signed()?;
    let step = reader.varint()? as i64;
    let at = out.len();
    match tag {
        GRID => {
            reader.end()?;
            out.extend((0..count).map(|i| on_grid(start, step, i)));
        }
        RESIDUALS => {
            ints::decode(reader.rest(), count, out)?;
            for (i, time) in out[at..].iter_mut().enumerate() {
                *time = time.wrapping_add(on_grid(start, step, i));
            }
        }
        _ => return Err(ChunkError("unknown timestamp column")),
    }
    if out[at..].is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        out.truncate(at);
        Err(ChunkError("timestamps are not ascending"))
    }
}

/// Appends a column of start timestamps, 0 where unknown; at least one.
pub fn encode_starts(starts: &[i64], effort: Effort, out: &mut Vec<u8>) {
    ints::encode(starts, effort, out);
}

/// Appends `count` start timestamps.
///
/// # Errors
/// [`ChunkError`] if `bytes` are no such column.
pub fn decode_starts(bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Result<(), ChunkError> {
    ints::decode(bytes, count, out)
}

fn put_grid(out: &mut Vec<u8>, tag: u8, start: i64, step: i64) {
    out.push(tag);
    put_signed(out, start);
    put_varint(out, step as u64);
}

#[inline]
const fn on_grid(start: i64, step: i64, index: usize) -> i64 {
    start.wrapping_add(step.wrapping_mul(index as i64))
}

const fn round_to(number: i64, unit: i64) -> i64 {
    (number.saturating_add(unit / 2)) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(times: &[i64]) -> usize {
        let mut bytes = Vec::new();
        encode(times, Effort::Seal, &mut bytes);
        let mut decoded = Vec::new();
        decode(&bytes, times.len(), &mut decoded).expect("as encoded");
        assert_eq!(decoded, times);
        bytes.len()
    }

    #[test]
    fn an_exact_grid_is_two_numbers() {
        let grid: Vec<i64> = (0..480).map(|i| 1_700_000_000_000 + i * 15_000).collect();
        assert_eq!(check(&grid), 9);
        assert!(check(&[1_700_000_000_000]) <= 8);
    }

    #[test]
    fn noise_gaps_and_extremes_round_trip() {
        let noisy: Vec<i64> = (0..480).map(|i| i * 15_000 + (i * i * 7919) % 5).collect();
        assert!(check(&noisy) < 480 * 3 / 8 + 30);
        let gap: Vec<i64> = (0..480).map(|i| (i + if i > 200 { 40 } else { 0 }) * 15_000).collect();
        assert!(check(&gap) < 60);
        check(&[i64::MIN, i64::MAX]);
        check(&[-5, 7]);
        check(&[i64::MIN, 0, i64::MAX]);
    }

    #[test]
    fn times_that_do_not_ascend_are_errors() {
        for step in [0u64, u64::MAX] {
            let mut bytes = Vec::new();
            put_grid(&mut bytes, GRID, 5, step as i64);
            assert!(decode(&bytes, 2, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn equal_start_timestamps_cost_next_to_nothing() {
        let mut bytes = Vec::new();
        encode_starts(&[1_700_000_000_000; 480], Effort::Seal, &mut bytes);
        assert!(bytes.len() <= 8);
        let mut decoded = Vec::new();
        decode_starts(&bytes, 480, &mut decoded).expect("as encoded");
        assert_eq!(decoded, [1_700_000_000_000; 480]);
    }

    proptest! {
        #[test]
        fn any_ascending_times_round_trip(mut times in prop::collection::vec(any::<i64>(), 1..300), shift in 0u32..50) {
            times.iter_mut().for_each(|time| *time >>= shift);
            times.sort_unstable();
            times.dedup();
            check(&times);
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), count in 0usize..300) {
            let _ = decode(&bytes, count, &mut Vec::new());
        }
    }
}
