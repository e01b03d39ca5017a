//! From what a shard holds of a series to runs, the form in which readers and block writers take
//! samples.

use super::columns::{CopiedColumns, Position};
use super::shard::{Extra, Held, TableShard, Value};
use crate::chunk::histogram::same_layout;
use crate::chunk::open::OpenChunk;
use crate::log::histogram as histogram_bytes;
use crate::lookups;
use crate::part::{ColumnSlice, LastFloat, Run, RunBuffer, RunValues};
use chronolith_model::histogram::Histogram;
use chronolith_model::queryable::{Lookups, Stop};
use chronolith_model::sample::is_stale;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// What of a series is wanted, and whom to ask for memory.
pub struct Wanted<'w> {
    /// Number of the series in the buffer.
    pub series: u32,
    /// First millisecond.
    pub mint: i64,
    /// Last millisecond.
    pub maxt: i64,
    /// Set if only the last sample at or before each step is wanted.
    pub lookups: Option<Lookups>,
    /// Whether start timestamps are wanted.
    pub start_timestamps: bool,
    /// Whether a histogram that comes first brings the one before it along: what a reader knows of the
    /// first depends on it. A block is given what its range holds.
    pub histogram_before: bool,
    /// Called before memory is taken.
    pub charge: &'w mut dyn FnMut(usize) -> Result<(), Stop>,
}

/// Appends the samples of a series in `[mint, maxt]`, and perhaps one histogram before.
///
/// # Errors
/// What `charge` says when there are too many.
pub fn append_runs(
    held: Held<'_>,
    shard_index: u32,
    shard: &TableShard,
    columns: &mut CopiedColumns,
    wanted: &mut Wanted<'_>,
    out: &mut RunBuffer,
) -> Result<(), Stop> {
    match held.extra {
        None => append_chunks(&[], held.open, None, shard_index, shard, columns, wanted, out),
        Some(extra) if extra.late.is_empty() && extra.histograms.is_empty() => {
            append_chunks(&extra.closed, held.open, Some(extra), shard_index, shard, columns, wanted, out)
        }
        Some(extra) => append_mixed(extra, held.open, shard, wanted, out),
    }
}

/// Chunks of floats in order: neighbours in one column become one run.
#[expect(clippy::too_many_arguments, reason = "the pieces of one call, which only the parent makes")]
fn append_chunks(
    closed: &[(OpenChunk, Position)],
    open: (OpenChunk, Position),
    extra: Option<&Extra>,
    shard_index: u32,
    shard: &TableShard,
    columns: &mut CopiedColumns,
    wanted: &mut Wanted<'_>,
    out: &mut RunBuffer,
) -> Result<(), Stop> {
    let first_run = out.runs.len();
    let mut positions = Vec::new();
    for (chunk, position) in closed.iter().copied().chain([open]).filter(|(chunk, _)| !chunk.is_empty()) {
        let times = shard.columns().times(position);
        if times.last().is_none_or(|&last| last < wanted.mint) {
            continue;
        }
        if times.first().is_none_or(|&first| first > wanted.maxt) {
            break;
        }
        if let Some(lookups) = &wanted.lookups
            && lookups::pick(lookups, &times, &mut positions)
        {
            if positions.is_empty() {
                continue;
            }
            let times = match times {
                Cow::Borrowed(_) => {
                    let column = columns.get(shard_index, shard.columns(), position, wanted.charge)?;
                    ColumnSlice { column, first: position.first, count: position.count.into() }
                }
                // Nobody shares them, and they have just been decoded.
                Cow::Owned(times) => ColumnSlice::private(times),
            };
            let values = match chunk.constant() {
                Some(value) => RunValues::Constant(value),
                None => {
                    let start = out.values.len();
                    chunk.decode_at(shard.arena(), &positions, &mut out.values);
                    RunValues::Floats(start..out.values.len())
                }
            };
            let run =
                Run { series: wanted.series, times, values, start_timestamps: None, first_of_chunk: true };
            run.pick(&positions, &mut out.runs);
            continue;
        }
        let column = columns.get(shard_index, shard.columns(), position, wanted.charge)?;
        let slice = ColumnSlice { column, first: position.first, count: position.count.into() };
        if let Some(value) = chunk.constant() {
            out.runs.push(Run {
                series: wanted.series,
                times: slice,
                values: RunValues::Constant(value),
                start_timestamps: None,
                first_of_chunk: out.runs.len() == first_run,
            });
            continue;
        }
        (wanted.charge)(chunk.len() * 8)?;
        let start = out.values.len();
        chunk.decode(shard.arena(), &mut out.values);
        let values = start..out.values.len();
        if out.runs.len() > first_run
            && let Some(run) = out.runs.last_mut()
            && extend(run, &slice, &values)
        {
            continue;
        }
        out.runs.push(Run {
            series: wanted.series,
            times: slice,
            values: RunValues::Floats(values),
            start_timestamps: None,
            first_of_chunk: out.runs.len() == first_run,
        });
    }
    cut(out, first_run, wanted.mint, wanted.maxt);
    let starts = extra.map_or(&[][..], |extra| &extra.starts);
    if wanted.start_timestamps && !starts.is_empty() {
        for run in &mut out.runs[first_run..] {
            run.start_timestamps =
                Some(run.times.times().iter().map(|&time| start_at(starts, time)).collect());
        }
    }
    Ok(())
}

/// The last float of a series in a range of time, if there is one. `None` if that takes more than a look: where there are
/// late samples or histograms. `values` is any buffer.
pub fn last_float(
    held: Held<'_>,
    shard: &TableShard,
    (mint, maxt): (i64, i64),
    values: &mut Vec<f64>,
) -> Option<Option<LastFloat>> {
    let closed = match held.extra {
        None => &[][..],
        Some(extra) if extra.late.is_empty() && extra.histograms.is_empty() => &extra.closed,
        Some(_) => return None,
    };
    let newest_first = std::iter::once(&held.open).chain(closed.iter().rev());
    for (chunk, position) in newest_first.filter(|(chunk, _)| !chunk.is_empty()) {
        let columns = shard.columns();
        let found = match columns.last_time(*position).filter(|&last| last <= maxt) {
            Some(last) => Some((chunk.len() - 1, last)),
            None => {
                let times = columns.times(*position);
                times.partition_point(|&time| time <= maxt).checked_sub(1).map(|at| (at, times[at]))
            }
        };
        let Some((at, time)) = found else { continue };
        if time < mint {
            return Some(None);
        }
        let value = match chunk.constant().or_else(|| chunk.last().filter(|_| at + 1 == chunk.len())) {
            Some(value) => value,
            None => {
                values.clear();
                chunk.decode_at(shard.arena(), &[at as u32], values);
                values[0]
            }
        };
        return Some(Some(LastFloat { time, is_stale: is_stale(value) }));
    }
    Some(None)
}

fn extend(run: &mut Run, slice: &ColumnSlice, values: &Range<usize>) -> bool {
    let RunValues::Floats(before) = &mut run.values else { return false };
    let times = &mut run.times;
    let follows = Arc::ptr_eq(&times.column, &slice.column)
        && times.first + times.count == slice.first
        && before.end == values.start;
    if follows {
        times.count += slice.count;
        before.end = values.end;
    }
    follows
}

/// Cuts runs from `first_run` on to `[mint, maxt]`.
pub fn cut(out: &mut RunBuffer, first_run: usize, mint: i64, maxt: i64) {
    for run in &mut out.runs[first_run..] {
        let times = run.times.times();
        let from = times.partition_point(|&time| time < mint);
        let to = times.partition_point(|&time| time <= maxt).max(from);
        if to - from == times.len() {
            continue;
        }
        run.times = run.times.slice(from as u32, (to - from) as u32);
        if let RunValues::Floats(range) | RunValues::Histograms(range) = &mut run.values {
            *range = range.start + from..range.start + to;
        }
        run.start_timestamps = run.start_timestamps.take().map(|starts| starts[from..to].into());
    }
    // Only these: a pass over all of them for each series would be quadratic.
    let mut kept = first_run;
    for index in first_run..out.runs.len() {
        if out.runs[index].times.count > 0 {
            out.runs.swap(kept, index);
            kept += 1;
        }
    }
    out.runs.truncate(kept);
}

fn start_at(starts: &[(i64, i64)], time: i64) -> i64 {
    let at = starts.partition_point(|&(from, _)| from <= time);
    if at == 0 { 0 } else { starts[at - 1].1 }
}

/// A sample of a series that holds more than floats in order.
struct Point {
    time: i64,
    start_timestamp: i64,
    value: PointValue,
    /// Whether it came late: what was known of the sample before it no longer holds.
    late: bool,
}

enum PointValue {
    Float(u64),
    Histogram(Arc<Histogram>),
}

impl PointValue {
    fn new(value: &Value) -> Self {
        match value {
            Value::Float(bits) => Self::Float(*bits),
            Value::Histogram(bytes) => Self::Histogram(Arc::new(histogram_bytes::restore(bytes))),
        }
    }
}

/// Floats, histograms and late samples merged by time, cut into runs of one kind and layout.
fn append_mixed(
    extra: &Extra,
    open: (OpenChunk, Position),
    shard: &TableShard,
    wanted: &mut Wanted<'_>,
    out: &mut RunBuffer,
) -> Result<(), Stop> {
    let points = points_of(extra, open, shard, wanted)?;
    let mut run = OpenRun::default();
    let mut before: Option<&Point> = None;
    for point in &points {
        let late = point.late || before.is_some_and(|before| before.late);
        let goes_on = before.is_some_and(|before| match (&before.value, &point.value) {
            (PointValue::Float(_), PointValue::Float(_)) => true,
            (PointValue::Histogram(a), PointValue::Histogram(b)) => !late && same_layout(a, b),
            _ => false,
        });
        if !goes_on {
            run.finish(wanted, out);
            // A late sample stands between two that were sent one after the other: what their hints
            // say of each other no longer holds. Nor does it for the first, which follows another part.
            run.first_of_chunk = late || before.is_none();
        }
        run.points.push(point);
        before = Some(point);
    }
    run.finish(wanted, out);
    Ok(())
}

fn points_of(
    extra: &Extra,
    open: (OpenChunk, Position),
    shard: &TableShard,
    wanted: &mut Wanted<'_>,
) -> Result<Vec<Point>, Stop> {
    let (mint, maxt) = (wanted.mint, wanted.maxt);
    let mut points = Vec::new();
    let mut values = Vec::new();
    for (chunk, position) in extra.closed.iter().copied().chain([open]) {
        let times = shard.columns().times(position);
        if times.last().is_none_or(|&last| last < mint) || times[0] > maxt {
            continue;
        }
        (wanted.charge)(chunk.len() * (8 + size_of::<Point>()))?;
        values.clear();
        chunk.decode(shard.arena(), &mut values);
        let floats = times.iter().zip(&values).filter(|(time, _)| (mint..=maxt).contains(*time));
        points.extend(floats.map(|(&time, value)| Point {
            time,
            start_timestamp: start_at(&extra.starts, time),
            value: PointValue::Float(value.to_bits()),
            late: false,
        }));
    }
    let histograms = extra.histograms.iter().filter(|point| (mint..=maxt).contains(&point.timestamp));
    for point in histograms {
        (wanted.charge)(size_of::<Point>() + restored_bytes(&point.value))?;
        points.push(Point {
            time: point.timestamp,
            start_timestamp: point.start_timestamp,
            value: PointValue::new(&point.value),
            late: false,
        });
    }
    if mint <= maxt {
        for (time, sample) in extra.late.range(mint..=maxt) {
            (wanted.charge)(size_of::<Point>() + restored_bytes(&sample.value))?;
            points.push(Point {
                time,
                start_timestamp: sample.start_timestamp,
                value: PointValue::new(&sample.value),
                late: true,
            });
        }
    }
    points.sort_by_key(|point| point.time);
    let histogram_first = points.first().is_some_and(|first| matches!(first.value, PointValue::Histogram(_)));
    if wanted.histogram_before && histogram_first {
        points.splice(0..0, histogram_before(extra, open, shard, mint));
    }
    Ok(points)
}

/// What a histogram takes once it is read, about: a byte may stand for a bucket of eight.
fn restored_bytes(value: &Value) -> usize {
    match value {
        Value::Float(_) => 0,
        Value::Histogram(bytes) => size_of::<Histogram>() + 8 * bytes.len(),
    }
}

/// The sample before `mint`, if it is a histogram.
fn histogram_before(
    extra: &Extra,
    open: (OpenChunk, Position),
    shard: &TableShard,
    mint: i64,
) -> Option<Point> {
    let sent = extra.histograms.iter().filter(|point| point.timestamp < mint);
    let sent = sent.max_by_key(|point| point.timestamp).map(|point| Point {
        time: point.timestamp,
        start_timestamp: point.start_timestamp,
        value: PointValue::new(&point.value),
        late: false,
    });
    let late = extra.late.last_before(mint).map(|(time, sample)| Point {
        time,
        start_timestamp: sample.start_timestamp,
        value: PointValue::new(&sample.value),
        late: true,
    });
    let before = sent.into_iter().chain(late).max_by_key(|point| point.time)?;
    let is_next = |(_, position): &(OpenChunk, Position)| {
        let times = shard.columns().times(*position);
        times.partition_point(|&time| time < mint) <= times.partition_point(|&time| time <= before.time)
    };
    let is_last = extra.closed.iter().chain([&open]).all(is_next);
    (is_last && matches!(before.value, PointValue::Histogram(_))).then_some(before)
}

/// Points of one kind and layout that follow each other.
#[derive(Default)]
struct OpenRun<'p> {
    points: Vec<&'p Point>,
    first_of_chunk: bool,
}

impl OpenRun<'_> {
    fn finish(&mut self, wanted: &Wanted<'_>, out: &mut RunBuffer) {
        let Some(first) = self.points.first() else { return };
        let values = match first.value {
            PointValue::Float(_) => {
                let start = out.values.len();
                out.values.extend(self.points.iter().filter_map(|point| match point.value {
                    PointValue::Float(bits) => Some(f64::from_bits(bits)),
                    PointValue::Histogram(_) => None,
                }));
                RunValues::Floats(start..out.values.len())
            }
            PointValue::Histogram(_) => {
                let start = out.histograms.len();
                out.histograms.extend(self.points.iter().filter_map(|point| match &point.value {
                    PointValue::Histogram(histogram) => Some(Arc::clone(histogram)),
                    PointValue::Float(_) => None,
                }));
                RunValues::Histograms(start..out.histograms.len())
            }
        };
        let has_starts =
            wanted.start_timestamps && self.points.iter().any(|point| point.start_timestamp != 0);
        let starts = || self.points.iter().map(|point| point.start_timestamp).collect();
        out.runs.push(Run {
            series: wanted.series,
            times: ColumnSlice::private(self.points.iter().map(|point| point.time).collect()),
            values,
            start_timestamps: has_starts.then(starts),
            first_of_chunk: self.first_of_chunk,
        });
        self.points.clear();
    }
}
