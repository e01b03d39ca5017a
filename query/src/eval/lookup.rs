//! Instant selectors: the last sample at or before each step.

use super::Cx;
use super::batch::{Batch, Grid, HistogramColumn, Row, count_bits};
use super::labels::SymbolPairs;
use super::leaf::{LastPlans, PlanCache, RowSource};
use super::window::advance;
use crate::annotations::Annotations;
use crate::error::QueryError;
use crate::plan::DataTime;
use crate::stats::{Scope, histogram_samples};
use chronolith_model::queryable::{Floats, SampleBatch, SeriesSamples};
use std::ops::Range;
use std::sync::Arc;

/// Which sample each step sees, for one timestamp column.
pub(crate) struct LookupPlan {
    /// Position in the column by step; [`NOTHING`] where no sample is recent enough.
    positions: Vec<u32>,
    /// The steps that see a sample, as bits, and how many they are.
    seen: Vec<u64>,
    n_seen: usize,
    /// Whether every step sees a sample.
    complete: bool,
}

const NOTHING: u32 = u32::MAX;

impl LookupPlan {
    /// A sample at `t` is seen from `[t, t + lookback_ms)`. Nothing outside the look-back of `read` is there, whatever the store gave.
    fn new(times: &[i64], grid: &Grid, time: DataTime, read: DataTime, lookback_ms: i64) -> Self {
        let mut positions = Vec::with_capacity(grid.n_steps);
        let mut seen = vec![0; grid.n_words()];
        // One past the last sample at or before the step.
        let mut end = times.partition_point(|&t| t < time.at(grid.start).min(read.at(grid.start)));
        let mut stride = 0;
        for (word, seen) in seen.iter_mut().enumerate() {
            for bit in 0..(grid.n_steps - word * 64).min(64) {
                let step = grid.time(word * 64 + bit);
                let (at, read) = (time.at(step), read.at(step));
                let low = at.max(read) - lookback_ms;
                end = advance(times, end, at.min(read), &mut stride);
                let is_seen = end > 0 && times[end - 1] > low;
                positions.push(if is_seen { (end - 1) as u32 } else { NOTHING });
                *seen |= u64::from(is_seen) << bit;
            }
        }
        let n_seen = count_bits(&seen);
        Self { positions, seen, n_seen, complete: n_seen == grid.n_steps }
    }
}

/// What becomes of the sample that is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Its value.
    Value,
    /// Its time, in seconds: `timestamp(selector)`.
    Timestamp,
    /// Its start timestamp, in seconds: `start_timestamp(selector)`.
    StartTimestamp,
    /// Its time in seconds if it is a float; a histogram is handed on: `info(.., selector)`.
    InfoTimestamp,
}

/// Rows of an instant selector.
pub(crate) struct Lookup {
    pub(crate) grid: Grid,
    pub(crate) time: DataTime,
    /// Which time was read for: another one where the offset is forgotten.
    pub(crate) read: DataTime,
    pub(crate) lookback_ms: i64,
    pub(crate) wanted: Wanted,
    /// Whether samples of a single step are looked for, and nothing but their being there matters.
    pub(crate) presence: bool,
    pub(crate) scope: Scope,
    pub(crate) plans: PlanCache<LookupPlan>,
}

impl RowSource for Lookup {
    type Scratch = LastPlans<LookupPlan>;

    fn fill(
        &self,
        cx: &Cx<'_>,
        scratch: &mut Self::Scratch,
        samples: &SampleBatch,
        at: usize,
        _labels: &SymbolPairs,
        batch: &mut Batch,
        row: usize,
        _notes: &mut Annotations,
    ) -> Result<(), QueryError> {
        let series = &samples.series[at];
        let size_bytes = self.grid.n_steps * size_of::<u32>() + self.grid.n_words() * 8;
        let plan = self.plans.get(cx, scratch, &series.timestamps, size_bytes, |times| {
            LookupPlan::new(times, &self.grid, self.time, self.read, self.lookback_ms)
        })?;
        let (n_samples, histograms) = match self.wanted {
            Wanted::Value => self.fill_values(plan, samples, series, batch, row),
            Wanted::InfoTimestamp => self.fill_float_times(plan, samples, series, batch, row),
            Wanted::Timestamp | Wanted::StartTimestamp => {
                (self.fill_times(plan, series, batch, row), HistogramColumn::default())
            }
        };
        batch.set_histograms(row, histograms);
        if self.scope.tells_steps() {
            self.count_steps(&batch.row(row));
        } else {
            self.scope.add(n_samples, n_samples);
        }
        Ok(())
    }

    fn presence(&self) -> Option<&Scope> {
        self.presence.then_some(&self.scope)
    }
}

impl Lookup {
    fn count_steps(&self, row: &Row<'_>) {
        for step in row.float_steps() {
            self.scope.add_step(step, 1, 1);
        }
        for (step, h) in row.histograms.into_iter().flat_map(|column| column.iter()) {
            let n_samples = if self.wanted == Wanted::Value { histogram_samples(h) } else { 1 };
            self.scope.add_step(step, n_samples, n_samples);
        }
    }

    fn fill_values(
        &self,
        plan: &LookupPlan,
        samples: &SampleBatch,
        series: &SeriesSamples,
        batch: &mut Batch,
        row: usize,
    ) -> (u64, HistogramColumn) {
        let mut out = batch.row_mut(row);
        let mut histograms = HistogramColumn::default();
        let plain = series.stale.is_empty() && series.histograms.is_none();
        if plain {
            match &series.floats {
                Floats::None => return (0, histograms),
                Floats::Constant(value) if plan.complete => {
                    out.fill(*value);
                    return (self.grid.n_steps as u64, histograms);
                }
                Floats::Constant(value) => out.values.fill(*value),
                Floats::Values(range) => {
                    let values = floats_of(samples, range);
                    let cells = out.values.iter_mut().zip(&plan.positions);
                    if plan.complete {
                        cells.for_each(|(cell, &position)| *cell = values[position as usize]);
                    } else {
                        // What lies at steps that see nothing has no meaning.
                        cells.for_each(|(cell, &position)| {
                            *cell = values.get(position as usize).copied().unwrap_or(0.0);
                        });
                    }
                }
            }
            out.present.copy_from_slice(&plan.seen);
            out.finish();
            return (plan.n_seen as u64, histograms);
        }

        let kinds = Kinds::new(series);
        let mut n_samples = 0;
        for (step, &position) in plan.positions.iter().enumerate() {
            if position == NOTHING || series.stale.binary_search(&position).is_ok() {
                continue;
            }
            match kinds.find(position as usize) {
                Place::Float(index) => {
                    let value = match &series.floats {
                        Floats::None => continue,
                        Floats::Constant(value) => *value,
                        Floats::Values(range) => floats_of(samples, range)[index],
                    };
                    out.set(step, value);
                    n_samples += 1;
                }
                Place::Histogram(index) => {
                    let h = &samples.histograms[index];
                    n_samples += histogram_samples(h);
                    histograms.push(step, Arc::clone(h));
                }
            }
        }
        out.finish();
        (n_samples, histograms)
    }

    /// The times of floats, and histograms as they are.
    fn fill_float_times(
        &self,
        plan: &LookupPlan,
        samples: &SampleBatch,
        series: &SeriesSamples,
        batch: &mut Batch,
        row: usize,
    ) -> (u64, HistogramColumn) {
        let kinds = Kinds::new(series);
        let mut histograms = HistogramColumn::default();
        let mut out = batch.row_mut(row);
        let mut n_samples = 0;
        for (step, &position) in plan.positions.iter().enumerate() {
            if position == NOTHING || series.stale.binary_search(&position).is_ok() {
                continue;
            }
            n_samples += 1;
            match kinds.find(position as usize) {
                Place::Float(_) => out.set(step, series.timestamps.times[position as usize] as f64 / 1000.0),
                Place::Histogram(index) => histograms.push(step, Arc::clone(&samples.histograms[index])),
            }
        }
        out.finish();
        (n_samples, histograms)
    }

    fn fill_times(&self, plan: &LookupPlan, series: &SeriesSamples, batch: &mut Batch, row: usize) -> u64 {
        let mut out = batch.row_mut(row);
        for (step, &position) in plan.positions.iter().enumerate() {
            if position == NOTHING || series.stale.binary_search(&position).is_ok() {
                continue;
            }
            let time = match self.wanted {
                Wanted::StartTimestamp => {
                    series.start_timestamps.as_ref().map_or(0, |starts| starts[position as usize])
                }
                Wanted::Value | Wanted::Timestamp | Wanted::InfoTimestamp => {
                    series.timestamps.times[position as usize]
                }
            };
            out.set(step, time as f64 / 1000.0);
        }
        out.finish();
        count_bits(out.present) as u64
    }
}

/// The floats of one series.
pub(crate) fn floats_of<'s>(samples: &'s SampleBatch, range: &Range<u32>) -> &'s [f64] {
    &samples.values[range.start as usize..range.end as usize]
}

/// Where the sample at a position of the timestamp column is kept.
pub(crate) enum Place {
    /// Index among the floats of the series.
    Float(usize),
    /// Index in [`SampleBatch::histograms`].
    Histogram(usize),
}

/// Tells floats from histograms in a series that may have both.
pub(crate) struct Kinds<'s> {
    histograms: Option<(usize, &'s chronolith_model::queryable::BitSet)>,
    /// Histograms before each word of the set.
    before: Vec<usize>,
}

impl<'s> Kinds<'s> {
    pub(crate) fn new(series: &'s SeriesSamples) -> Self {
        let Some((range, set)) = &series.histograms else {
            return Self { histograms: None, before: Vec::new() };
        };
        let mut n = 0;
        let before = set
            .words()
            .iter()
            .map(|word| {
                let before = n;
                n += word.count_ones() as usize;
                before
            })
            .collect();
        Self { histograms: Some((range.start as usize, set)), before }
    }

    pub(crate) fn find(&self, position: usize) -> Place {
        let Some((first, set)) = self.histograms else {
            return Place::Float(position);
        };
        let Some(&word) = set.words().get(position / 64) else {
            return Place::Float(position - set.count());
        };
        let below = word & ((1 << (position % 64)) - 1);
        let rank = self.before[position / 64] + below.count_ones() as usize;
        if word >> (position % 64) & 1 == 1 {
            Place::Histogram(first + rank)
        } else {
            Place::Float(position - rank)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_sees_the_last_sample_that_is_younger_than_the_lookback() {
        let grid = Grid::new(0, 40, 10);
        let plan = {
            let time = DataTime::Step { offset_ms: 0 };
            LookupPlan::new(&[5, 20, 21], &grid, time, time, 15)
        };
        assert_eq!(plan.positions, [NOTHING, 0, 1, 2, NOTHING]);
        assert!(!plan.complete);
        let fixed = LookupPlan::new(&[5, 20, 21], &grid, DataTime::Fixed(20), DataTime::Fixed(20), 15);
        assert_eq!(fixed.positions, [1, 1, 1, 1, 1]);
        assert!(fixed.complete);
    }
}
