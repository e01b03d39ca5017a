//! Merges the runs of one series from several parts.

use super::columns::ColumnCache;
use crate::chunk::histogram::same_layout;
use crate::part::{ColumnSlice, Run, RunBuffer, RunValues};
use chronolith_model::histogram::{CounterResetHint, FloatHistogram, Histogram, IntHistogram};
use std::sync::Arc;

/// What one part has of the series. Inputs are given in order of precedence: the first one wins.
pub struct Input<'a> {
    /// Runs of this series only, in time order.
    pub runs: &'a [Run],
    /// What they index.
    pub buffer: &'a RunBuffer,
}

/// A run and the input it is of.
#[derive(Clone, Copy)]
struct Piece<'a> {
    run: &'a Run,
    buffer: &'a RunBuffer,
}

/// Appends the merged runs to `out`, as series 0, neighbours of one kind and layout joined. Gives the
/// number of samples that lost against another value of their timestamp.
pub fn merge(inputs: &[Input<'_>], out: &mut RunBuffer, columns: &mut ColumnCache) -> u64 {
    let mut pieces: Vec<Piece<'_>> = inputs
        .iter()
        .flat_map(|input| input.runs.iter().map(|run| Piece { run, buffer: input.buffer }))
        .filter(|piece| piece.run.times.count > 0)
        .collect();
    // Stable: what has the same start stays in order of precedence, and then overlaps anyway.
    pieces.sort_by_key(|piece| piece.run.times.times()[0]);
    let overlap = pieces.windows(2).any(|pair| last_time(pair[0].run) >= pair[1].run.times.times()[0]);
    if overlap { interleave(inputs, out, columns) } else { concatenate(&pieces, out, columns) }
}

fn last_time(run: &Run) -> i64 {
    *run.times.times().last().expect("empty runs were left out")
}

/// Pieces one behind the other in time.
fn concatenate(pieces: &[Piece<'_>], out: &mut RunBuffer, columns: &mut ColumnCache) -> u64 {
    let mut rest = pieces;
    while let Some(first) = rest.first() {
        let n_joined = 1 + rest[1..].iter().take_while(|piece| joinable(first, piece)).count();
        let (joined, behind) = rest.split_at(n_joined);
        append_joined(joined, out, columns);
        rest = behind;
    }
    0
}

fn append_joined(pieces: &[Piece<'_>], out: &mut RunBuffer, columns: &mut ColumnCache) {
    let slices: Vec<&ColumnSlice> = pieces.iter().map(|piece| &piece.run.times).collect();
    let times = columns.join(&slices);
    let values = match constant(pieces) {
        Some(value) => RunValues::Constant(value),
        None if is_histogram(pieces[0].run) => {
            let start = out.histograms.len();
            for piece in pieces {
                let RunValues::Histograms(range) = &piece.run.values else {
                    unreachable!("pieces are of one kind")
                };
                let from = out.histograms.len();
                out.histograms.extend_from_slice(&piece.buffer.histograms[range.clone()]);
                if piece.run.first_of_chunk {
                    forget_hint(&mut out.histograms[from]);
                }
            }
            RunValues::Histograms(start..out.histograms.len())
        }
        None => {
            let start = out.values.len();
            for piece in pieces {
                match &piece.run.values {
                    RunValues::Constant(value) => {
                        out.values.extend(std::iter::repeat_n(*value, piece.run.times.count as usize));
                    }
                    RunValues::Floats(range) => {
                        out.values.extend_from_slice(&piece.buffer.values[range.clone()])
                    }
                    RunValues::Histograms(_) => unreachable!("pieces are of one kind"),
                }
            }
            RunValues::Floats(start..out.values.len())
        }
    };
    let start_timestamps = pieces.iter().any(|piece| piece.run.start_timestamps.is_some()).then(|| {
        let mut all = Vec::with_capacity(times.count as usize);
        for piece in pieces {
            match &piece.run.start_timestamps {
                Some(starts) => all.extend_from_slice(starts),
                None => all.resize(all.len() + piece.run.times.count as usize, 0),
            }
        }
        Arc::from(all)
    });
    let first_of_chunk = out.runs.is_empty();
    out.runs.push(Run { series: 0, times, values, start_timestamps, first_of_chunk });
}

/// The value that all samples have, if they are floats and all have one.
fn constant(pieces: &[Piece<'_>]) -> Option<f64> {
    let mut bits = None;
    for piece in pieces {
        let RunValues::Constant(value) = piece.run.values else { return None };
        if *bits.get_or_insert(value.to_bits()) != value.to_bits() {
            return None;
        }
    }
    bits.map(f64::from_bits)
}

fn is_histogram(run: &Run) -> bool {
    matches!(run.values, RunValues::Histograms(_))
}

/// Whether both may be in one run: floats, or histograms of one form and layout.
fn joinable(a: &Piece<'_>, b: &Piece<'_>) -> bool {
    match (&a.run.values, &b.run.values) {
        (RunValues::Histograms(x), RunValues::Histograms(y)) => {
            same_layout(&a.buffer.histograms[x.start], &b.buffer.histograms[y.start])
        }
        (RunValues::Histograms(_), _) | (_, RunValues::Histograms(_)) => false,
        _ => true,
    }
}

/// One sample of an overlap.
struct Sample<'a> {
    timestamp: i64,
    rank: usize,
    value: Value<'a>,
    start_timestamp: i64,
    /// Place in its part: two samples that follow each other in the result and did so in the part keep
    /// their reset hint.
    place: usize,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Float(f64),
    Histogram(&'a Arc<Histogram>),
}

/// Pieces that overlap: sample by sample. Late samples are few, so this is the rare path.
fn interleave(inputs: &[Input<'_>], out: &mut RunBuffer, columns: &mut ColumnCache) -> u64 {
    let mut samples = Vec::new();
    for (rank, input) in inputs.iter().enumerate() {
        let mut place = 0;
        for run in input.runs {
            // A gap in the numbers where the part does not know the predecessor.
            place += usize::from(run.first_of_chunk);
            for (at, &timestamp) in run.times.times().iter().enumerate() {
                let value = match &run.values {
                    RunValues::Constant(value) => Value::Float(*value),
                    RunValues::Floats(range) => Value::Float(input.buffer.values[range.start + at]),
                    RunValues::Histograms(range) => {
                        Value::Histogram(&input.buffer.histograms[range.start + at])
                    }
                };
                let start_timestamp = run.start_timestamps.as_ref().map_or(0, |starts| starts[at]);
                samples.push(Sample { timestamp, rank, value, start_timestamp, place });
                place += 1;
            }
        }
    }
    samples.sort_by_key(|sample| (sample.timestamp, sample.rank));
    let mut n_conflicts = 0;
    samples.dedup_by(|next, kept| {
        let twice = next.timestamp == kept.timestamp;
        n_conflicts += u64::from(twice && !same_value(next.value, kept.value));
        twice
    });
    append_samples(&samples, out, columns);
    n_conflicts
}

fn append_samples(samples: &[Sample<'_>], out: &mut RunBuffer, columns: &mut ColumnCache) {
    let whole = columns.intern(samples.iter().map(|sample| sample.timestamp).collect());
    let mut start = 0;
    while start < samples.len() {
        let end = start
            + samples[start..]
                .iter()
                .take_while(|sample| same_run(samples[start].value, sample.value))
                .count();
        let run = &samples[start..end];
        let values = match run[0].value {
            Value::Float(_) => {
                let from = out.values.len();
                out.values.extend(run.iter().filter_map(|sample| match sample.value {
                    Value::Float(value) => Some(value),
                    Value::Histogram(_) => None,
                }));
                RunValues::Floats(from..out.values.len())
            }
            Value::Histogram(_) => {
                let from = out.histograms.len();
                for (at, sample) in (start..).zip(run) {
                    let Value::Histogram(histogram) = sample.value else { continue };
                    out.histograms.push(Arc::clone(histogram));
                    let follows = at > 0
                        && samples[at - 1].rank == sample.rank
                        && samples[at - 1].place + 1 == sample.place;
                    if !follows {
                        forget_hint(out.histograms.last_mut().expect("one was just pushed"));
                    }
                }
                RunValues::Histograms(from..out.histograms.len())
            }
        };
        let known = run.iter().any(|sample| sample.start_timestamp != 0);
        let start_timestamps = known.then(|| run.iter().map(|sample| sample.start_timestamp).collect());
        let bound = |n: usize| u32::try_from(n).expect("a series of a block has fewer than 2^32 samples");
        let times =
            ColumnSlice { column: Arc::clone(&whole), first: bound(start), count: bound(end - start) };
        let first_of_chunk = out.runs.is_empty();
        out.runs.push(Run { series: 0, times, values, start_timestamps, first_of_chunk });
        start = end;
    }
}

fn same_run(a: Value<'_>, b: Value<'_>) -> bool {
    match (a, b) {
        (Value::Float(_), Value::Float(_)) => true,
        (Value::Histogram(a), Value::Histogram(b)) => same_layout(a, b),
        _ => false,
    }
}

/// What was known about a reset holds no longer behind another predecessor. That a series is a gauge
/// holds whatever its predecessor.
fn forget_hint(histogram: &mut Arc<Histogram>) {
    let hint = match &**histogram {
        Histogram::Int(h) => h.counter_reset_hint,
        Histogram::Float(h) => h.counter_reset_hint,
    };
    if matches!(hint, CounterResetHint::Reset | CounterResetHint::NotReset) {
        match Arc::make_mut(histogram) {
            Histogram::Int(h) => h.counter_reset_hint = CounterResetHint::Unknown,
            Histogram::Float(h) => h.counter_reset_hint = CounterResetHint::Unknown,
        }
    }
}

/// Whether both are the same to the bit; reset hints aside, which depend on the neighbours.
fn same_value(a: Value<'_>, b: Value<'_>) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::Histogram(a), Value::Histogram(b)) => same_layout(a, b) && same_counts(a, b),
        _ => false,
    }
}

fn same_counts(a: &Histogram, b: &Histogram) -> bool {
    fn int(h: &IntHistogram) -> (u64, u64, u64, &[i64], &[i64]) {
        (h.zero_count, h.count, h.sum.to_bits(), &h.positive_deltas, &h.negative_deltas)
    }
    fn float(h: &FloatHistogram) -> Vec<u64> {
        let parts = [&[h.zero_count, h.count, h.sum][..], &h.positive_buckets, &h.negative_buckets];
        parts.iter().flat_map(|part| part.iter().map(|value| value.to_bits())).collect()
    }
    match (a, b) {
        (Histogram::Int(a), Histogram::Int(b)) => int(a) == int(b),
        (Histogram::Float(a), Histogram::Float(b)) => float(a) == float(b),
        _ => false,
    }
}
