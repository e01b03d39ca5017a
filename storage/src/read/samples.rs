//! The samples of one series from its runs, as the columns that queries read.

use super::columns::{Plan, Segment};
use super::hints::Hints;
use crate::part::{Run, RunBuffer, RunValues};
use chronolith_model::queryable::{BitSet, Floats, SampleBatch, SeriesSamples, Stop};
use chronolith_model::sample::{is_stale, stale_nan};
use std::ops::Range;
use std::sync::Arc;

/// A run and the buffer its values are in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'b> {
    /// The part it is of.
    pub(super) part: u32,
    /// The run.
    pub(super) run: &'b Run,
    /// Its values.
    pub(super) buffer: &'b RunBuffer,
}

impl Piece<'_> {
    fn is_histogram(&self) -> bool {
        matches!(self.run.values, RunValues::Histograms(_))
    }
}

/// What of the samples is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) values: bool,
    pub(super) start_timestamps: bool,
}

/// Appends the samples that `plan` keeps of `pieces`.
///
/// # Errors
/// [`Stop`] if the batch would hold more than 2^32 values.
pub(super) fn append_series(
    pieces: &[Piece<'_>],
    plan: &Plan,
    wanted: Wanted,
    hints: &mut Hints,
    out: &mut SampleBatch,
) -> Result<(), Stop> {
    let piece = |segment: &Segment| &pieces[segment.run as usize];
    let has_histograms = plan.segments.iter().any(|segment| piece(segment).is_histogram());
    let has_floats = plan.segments.iter().any(|segment| !piece(segment).is_histogram());
    let floats = match has_floats {
        true => append_floats(pieces, plan, wanted, &mut out.values)?,
        false => Floats::None,
    };
    let histograms = match has_histograms {
        true => Some(append_histograms(pieces, plan, hints, &mut out.histograms)?),
        false => None,
    };
    out.series.push(SeriesSamples {
        timestamps: Arc::clone(&plan.timestamps),
        floats,
        histograms,
        stale: stale_positions(pieces, plan),
        start_timestamps: if wanted.start_timestamps { start_timestamps(pieces, plan) } else { None },
    });
    Ok(())
}

/// The values of a segment of floats.
enum Values<'b> {
    Constant(f64),
    Slice(&'b [f64]),
    Histograms,
}

fn values_of<'b>(pieces: &[Piece<'b>], segment: &Segment) -> Values<'b> {
    let Piece { run, buffer, .. } = pieces[segment.run as usize];
    match &run.values {
        RunValues::Constant(value) => Values::Constant(*value),
        RunValues::Floats(range) => Values::Slice(&buffer.values[within(range, segment)]),
        RunValues::Histograms(_) => Values::Histograms,
    }
}

/// The part of a run's `range` of values that a segment keeps.
fn within(range: &Range<usize>, segment: &Segment) -> Range<usize> {
    let start = range.start + segment.from as usize;
    let kept = start..start + segment.count as usize;
    assert!(kept.end <= range.end);
    kept
}

fn append_floats(
    pieces: &[Piece<'_>],
    plan: &Plan,
    wanted: Wanted,
    out: &mut Vec<f64>,
) -> Result<Floats, Stop> {
    if !wanted.values {
        return Ok(Floats::Constant(0.0));
    }
    if let Some(value) = constant(pieces, plan) {
        return Ok(Floats::Constant(value));
    }
    let start = out.len();
    for segment in &plan.segments {
        match values_of(pieces, segment) {
            Values::Constant(value) => out.extend(std::iter::repeat_n(value, segment.count as usize)),
            Values::Slice(values) => out.extend_from_slice(values),
            Values::Histograms => {}
        }
    }
    Ok(Floats::Values(short_range(start, out.len())?))
}

/// The value that all floats have but staleness markers. Usually the second value tells.
fn constant(pieces: &[Piece<'_>], plan: &Plan) -> Option<f64> {
    let mut found: Option<f64> = None;
    let mut agrees = |value: f64| {
        let value_found = *found.get_or_insert(value);
        value_found.to_bits() == value.to_bits()
    };
    for segment in &plan.segments {
        let all_agree = match values_of(pieces, segment) {
            Values::Constant(value) => is_stale(value) || agrees(value),
            Values::Slice(values) => values.iter().all(|&value| is_stale(value) || agrees(value)),
            Values::Histograms => true,
        };
        if !all_agree {
            return None;
        }
    }
    Some(found.unwrap_or(stale_nan()))
}

fn append_histograms(
    pieces: &[Piece<'_>],
    plan: &Plan,
    hints: &mut Hints,
    out: &mut Vec<Arc<chronolith_model::histogram::FloatHistogram>>,
) -> Result<(Range<u32>, BitSet), Stop> {
    let start = out.len();
    let mut which = BitSet::new(plan.timestamps.times.len());
    let mut position = 0;
    let mut before: Option<&Segment> = None;
    hints.begin_series();
    for segment in &plan.segments {
        if !before.is_some_and(|before| follows(pieces, before, segment)) {
            hints.interrupt();
        }
        let piece = &pieces[segment.run as usize];
        if let RunValues::Histograms(range) = &piece.run.values {
            for histogram in &piece.buffer.histograms[within(range, segment)] {
                out.push(hints.next(plan.timestamps.times[position], histogram));
                which.insert(position);
                position += 1;
            }
        } else {
            position += segment.count as usize;
        }
        before = Some(segment);
    }
    Ok((short_range(start, out.len())?, which))
}

/// Whether the first sample of `segment` comes right behind the last one of `before` in the history of
/// one part, both histograms.
fn follows(pieces: &[Piece<'_>], before: &Segment, segment: &Segment) -> bool {
    let (old, new) = (&pieces[before.run as usize], &pieces[segment.run as usize]);
    segment.run == before.run + 1
        && old.part == new.part
        && old.is_histogram()
        && before.from + before.count == old.run.times.count
        && segment.from == 0
        && !new.run.first_of_chunk
}

fn stale_positions(pieces: &[Piece<'_>], plan: &Plan) -> Vec<u32> {
    let mut stale = Vec::new();
    let mut position = 0u32;
    for segment in &plan.segments {
        let piece = &pieces[segment.run as usize];
        let positions = position..position + segment.count;
        match (values_of(pieces, segment), &piece.run.values) {
            (Values::Constant(value), _) if is_stale(value) => stale.extend(positions),
            (Values::Slice(values), _) if any_stale(values) => {
                stale.extend(positions.zip(values).filter(|(_, value)| is_stale(**value)).map(|(at, _)| at));
            }
            (Values::Histograms, RunValues::Histograms(range)) => {
                let histograms = &piece.buffer.histograms[within(range, segment)];
                stale.extend(positions.zip(histograms).filter(|(_, h)| h.is_stale()).map(|(at, _)| at));
            }
            _ => {}
        }
        position += segment.count;
    }
    stale
}

/// Whether a marker is among them: pieces without a way out in between, which are compared several at a time.
fn any_stale(values: &[f64]) -> bool {
    values.chunks(64).any(|values| values.iter().fold(false, |any, &value| any | is_stale(value)))
}

fn start_timestamps(pieces: &[Piece<'_>], plan: &Plan) -> Option<Arc<[i64]>> {
    let known = |segment: &Segment| pieces[segment.run as usize].run.start_timestamps.as_deref();
    if plan.segments.iter().all(|segment| known(segment).is_none()) {
        return None;
    }
    let mut all = Vec::with_capacity(plan.timestamps.times.len());
    for segment in &plan.segments {
        match known(segment) {
            Some(times) => all.extend_from_slice(&times[segment.from as usize..][..segment.count as usize]),
            None => all.extend(std::iter::repeat_n(0, segment.count as usize)),
        }
    }
    Some(all.into())
}

fn short_range(start: usize, end: usize) -> Result<Range<u32>, Stop> {
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) => Ok(start..end),
        _ => Err(Stop::OverBudget(
            "more than 2^32 samples were read at once: read fewer series at a time".to_owned(),
        )),
    }
}
