//! Columns: the grid of steps, batches of rows that travel between operators, and rows that are kept.

use super::Cx;
use crate::error::QueryError;
use crate::limits::Charge;
use crate::stats::histogram_samples;
use crate::value::SampleValue;
use chronolith_model::FloatHistogram;
use std::sync::Arc;

/// The steps of an expression: step `k` is at `start + k * interval` milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) start: i64,
    /// Positive; of no meaning for a single step.
    pub(crate) interval: i64,
    /// Zero only for the grid of a subquery that covers no step.
    pub(crate) n_steps: usize,
    /// Whether the range ends where it starts. Prometheus treats such a range as an instant, but not one that
    /// is too short for a second step.
    pub(crate) instant: bool,
}

impl Grid {
    /// All steps from `start` to `end`; the range ends at the last whole step.
    pub(crate) fn new(start: i64, end: i64, interval: i64) -> Self {
        let n_steps = if end < start { 0 } else { (end - start) / interval + 1 };
        let n_steps = usize::try_from(n_steps).expect("a count is not negative");
        Self { start, interval, n_steps, instant: start == end }
    }

    /// A single step.
    pub(crate) const fn instant(start: i64) -> Self {
        Self { start, interval: 1, n_steps: 1, instant: true }
    }

    pub(crate) fn time(&self, step: usize) -> i64 {
        self.start + self.interval * i64::try_from(step).expect("steps are few")
    }

    /// The last step; the first one if there is none.
    pub(crate) fn end(&self) -> i64 {
        self.time(self.n_steps.saturating_sub(1))
    }

    /// Words of a presence bit set over all steps.
    pub(crate) fn n_words(&self) -> usize {
        self.n_steps.div_ceil(64)
    }

    pub(crate) fn times(&self) -> impl Iterator<Item = i64> + '_ {
        let (start, interval) = (self.start, self.interval);
        (0..self.n_steps as i64).map(move |step| start + interval * step)
    }
}

/// The histograms of one row, by ascending step.
#[derive(Clone, Debug, Default)]
pub(crate) struct HistogramColumn {
    pub(crate) steps: Vec<u32>,
    pub(crate) values: Vec<Arc<FloatHistogram>>,
}

impl HistogramColumn {
    /// Adds the histogram of a later step.
    pub(crate) fn push(&mut self, step: usize, value: Arc<FloatHistogram>) {
        debug_assert!(self.steps.last().is_none_or(|&last| (last as usize) < step));
        self.steps.push(step as u32);
        self.values.push(value);
    }

    pub(crate) fn get(&self, step: usize) -> Option<&Arc<FloatHistogram>> {
        self.steps.binary_search(&(step as u32)).ok().map(|at| &self.values[at])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Arc<FloatHistogram>)> {
        self.steps.iter().map(|&step| step as usize).zip(&self.values)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Keeps the histograms for which `keep(step, histogram)` holds.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize, &Arc<FloatHistogram>) -> bool) {
        let mut kept = Self::default();
        for (step, value) in std::mem::take(&mut self.steps).into_iter().zip(std::mem::take(&mut self.values))
        {
            if keep(step as usize, &value) {
                kept.push(step as usize, value);
            }
        }
        *self = kept;
    }
}

/// Consecutive rows of one operator. Row-major: one allocation a batch, never one a series.
// Invariants: `values` holds rows * n_steps, `present` rows * n_words with zeros behind the last step;
// `dense` only if every step holds a float; `constant` only if dense and all values have the same bits;
// `histograms` ascending by row, none empty, at steps that are not present.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Which of the operator's series the first row is.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) n_steps: usize,
    /// Meaningless where not present.
    pub(crate) values: Vec<f64>,
    pub(crate) present: Vec<u64>,
    pub(crate) dense: Vec<bool>,
    pub(crate) constant: Vec<bool>,
    pub(crate) histograms: Vec<(usize, HistogramColumn)>,
    charge: Option<Charge>,
}

/// One row to read.
#[derive(Clone, Copy)]
pub(crate) struct Row<'b> {
    pub(crate) values: &'b [f64],
    pub(crate) present: &'b [u64],
    pub(crate) dense: bool,
    pub(crate) constant: bool,
    pub(crate) histograms: Option<&'b HistogramColumn>,
}

/// One row to fill. [`RowMut::finish`] must be called once its floats are set.
pub(crate) struct RowMut<'b> {
    pub(crate) values: &'b mut [f64],
    pub(crate) present: &'b mut [u64],
    pub(crate) dense: &'b mut bool,
    pub(crate) constant: &'b mut bool,
}

impl Batch {
    /// Floats and histograms that are there.
    pub(crate) fn n_samples(&self) -> usize {
        let floats: usize = self.present.iter().map(|word| word.count_ones() as usize).sum();
        floats + self.histograms.iter().map(|(_, column)| column.steps.len()).sum::<usize>()
    }

    /// A batch of empty rows, charged to the query.
    pub(crate) fn new(cx: &Cx<'_>, grid: &Grid, first: usize, rows: usize) -> Result<Self, QueryError> {
        let mut batch = Self::default();
        batch.reset(cx, grid, first, rows)?;
        Ok(batch)
    }

    /// Makes this a batch of empty rows, with the same buffers.
    pub(crate) fn reset(
        &mut self,
        cx: &Cx<'_>,
        grid: &Grid,
        first: usize,
        rows: usize,
    ) -> Result<(), QueryError> {
        self.charge = None;
        let size_bytes = rows.saturating_mul(grid.n_steps * 8 + grid.n_words() * 8 + 2);
        self.charge = Some(cx.store.budget.take(size_bytes, 0)?);
        self.first = first;
        self.rows = rows;
        self.n_steps = grid.n_steps;
        let n_cells = rows * grid.n_steps;
        if self.values.capacity() < n_cells {
            // Growing would copy what is not needed any more.
            self.values = Vec::new();
        }
        self.values.clear();
        self.values.resize(n_cells, 0.0);
        self.present.clear();
        self.present.resize(rows * grid.n_words(), 0);
        self.dense.clear();
        self.dense.resize(rows, false);
        self.constant.clear();
        self.constant.resize(rows, false);
        self.histograms.clear();
        Ok(())
    }

    fn n_words(&self) -> usize {
        self.n_steps.div_ceil(64)
    }

    pub(crate) fn row(&self, row: usize) -> Row<'_> {
        let (steps, words) = (self.n_steps, self.n_words());
        Row {
            values: &self.values[row * steps..(row + 1) * steps],
            present: &self.present[row * words..(row + 1) * words],
            dense: self.dense[row],
            constant: self.constant[row],
            histograms: self.histogram_row(row),
        }
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> RowMut<'_> {
        let (steps, words) = (self.n_steps, self.n_words());
        RowMut {
            values: &mut self.values[row * steps..(row + 1) * steps],
            present: &mut self.present[row * words..(row + 1) * words],
            dense: &mut self.dense[row],
            constant: &mut self.constant[row],
        }
    }

    pub(crate) fn histogram_row(&self, row: usize) -> Option<&HistogramColumn> {
        let at = self.histograms.binary_search_by_key(&row, |(row, _)| *row).ok()?;
        Some(&self.histograms[at].1)
    }

    /// Takes the histograms of a row out.
    pub(crate) fn take_histograms(&mut self, row: usize) -> Option<HistogramColumn> {
        let at = self.histograms.binary_search_by_key(&row, |(row, _)| *row).ok()?;
        Some(self.histograms.remove(at).1)
    }

    /// Sets the histograms of a row that has none.
    pub(crate) fn set_histograms(&mut self, row: usize, column: HistogramColumn) {
        if column.is_empty() {
            return;
        }
        match self.histograms.last() {
            Some((last, _)) if *last >= row => {
                let at = self.histograms.partition_point(|(r, _)| *r < row);
                self.histograms.insert(at, (row, column));
            }
            _ => self.histograms.push((row, column)),
        }
    }

    /// Copies a row; a row that is constant stays so.
    pub(crate) fn copy_row(&mut self, row: usize, source: Row<'_>) {
        let target = self.row_mut(row);
        target.values.copy_from_slice(source.values);
        target.present.copy_from_slice(source.present);
        *target.dense = source.dense;
        *target.constant = source.constant;
        if let Some(column) = source.histograms {
            self.set_histograms(row, column.clone());
        }
    }

    /// Gives back what the samples were charged with: they are about to be counted elsewhere.
    pub(crate) fn release(&mut self) {
        self.charge = None;
    }

    /// Charges what is kept for a later place in the query: with the histograms that would be gone otherwise, but not as
    /// samples, for Prometheus evaluates them when it comes to that place.
    pub(crate) fn charge_kept(&mut self) -> Result<(), QueryError> {
        let mut size_bytes = 0;
        for (_, column) in &self.histograms {
            // Look-back repeats them.
            let mut before = std::ptr::null();
            for h in &column.values {
                if Arc::as_ptr(h) != before {
                    size_bytes += h.go_size_bytes();
                }
                before = Arc::as_ptr(h);
            }
        }
        if let Some(charge) = &mut self.charge {
            charge.release_samples();
            charge.add_bytes(size_bytes)?;
        }
        Ok(())
    }

    /// Charges the samples that are in the batch.
    pub(crate) fn charge_samples(&mut self) -> Result<(), QueryError> {
        let floats: usize = self.present.iter().map(|word| word.count_ones() as usize).sum();
        let mut samples = floats as u64;
        let mut size_bytes = 0;
        for (_, column) in &self.histograms {
            samples += column.values.iter().map(|h| histogram_samples(h)).sum::<u64>();
            size_bytes += column.values.len() * 16;
        }
        if let Some(charge) = &mut self.charge {
            charge.add_bytes(size_bytes)?;
            charge.add_samples(samples as usize)?;
        }
        Ok(())
    }
}

impl Row<'_> {
    pub(crate) fn has(&self, step: usize) -> bool {
        self.present[step / 64] >> (step % 64) & 1 == 1
    }

    /// The float or histogram at a step.
    pub(crate) fn get(&self, step: usize) -> Option<SampleValue> {
        if self.has(step) {
            return Some(SampleValue::Float(self.values[step]));
        }
        let column = self.histograms?;
        column.get(step).map(|h| SampleValue::Histogram(Arc::clone(h)))
    }

    /// Steps that hold a float, ascending.
    pub(crate) fn float_steps(&self) -> impl Iterator<Item = usize> + '_ {
        bits(self.present)
    }

    /// Whether there is no sample at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.histograms.is_none_or(HistogramColumn::is_empty) && self.present.iter().all(|&word| word == 0)
    }

    /// Sets the bits of all steps with a sample of either kind.
    pub(crate) fn mark_any(&self, words: &mut [u64]) {
        for (word, present) in words.iter_mut().zip(self.present) {
            *word |= present;
        }
        for &step in self.histograms.iter().flat_map(|column| &column.steps) {
            set_bit(words, step as usize);
        }
    }
}

impl RowMut<'_> {
    /// Sets a float.
    pub(crate) fn set(&mut self, step: usize, value: f64) {
        self.values[step] = value;
        set_bit(self.present, step);
    }

    /// The same float at every step.
    pub(crate) fn fill(&mut self, value: f64) {
        self.values.fill(value);
        fill_bits(self.present, self.values.len());
        *self.dense = true;
        *self.constant = true;
    }

    /// Works out whether the row is dense, after its floats were set. It is not taken for constant.
    pub(crate) fn finish(&mut self) {
        *self.dense = count_bits(self.present) == self.values.len();
        *self.constant = false;
    }
}

/// The set bits, ascending.
pub(crate) fn bits(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(at, &word)| {
        std::iter::successors((word != 0).then_some(word), |rest| {
            let next = rest & (rest - 1);
            (next != 0).then_some(next)
        })
        .map(move |rest| at * 64 + rest.trailing_zeros() as usize)
    })
}

pub(crate) fn count_bits(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

pub(crate) fn get_bit(words: &[u64], at: usize) -> bool {
    words[at / 64] >> (at % 64) & 1 == 1
}

pub(crate) fn set_bit(words: &mut [u64], at: usize) {
    words[at / 64] |= 1 << (at % 64);
}

pub(crate) fn clear_bit(words: &mut [u64], at: usize) {
    words[at / 64] &= !(1 << (at % 64));
}

/// Sets the first `n` bits.
pub(crate) fn fill_bits(words: &mut [u64], n: usize) {
    words.fill(!0);
    if !n.is_multiple_of(64)
        && let Some(last) = words.last_mut()
    {
        *last = (1 << (n % 64)) - 1;
    }
}

/// Batches that are kept until all of them are there.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    batches: Vec<Batch>,
    /// By series: the batch and the row in it.
    places: Vec<(u32, u32)>,
}

impl Rows {
    /// Adds the next batch.
    pub(crate) fn push(&mut self, batch: Batch) {
        let at = self.batches.len() as u32;
        self.places.extend((0..batch.rows as u32).map(|row| (at, row)));
        self.batches.push(batch);
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn row(&self, series: usize) -> Row<'_> {
        let (batch, row) = self.places[series];
        self.batches[batch as usize].row(row as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_at_its_last_whole_step() {
        assert_eq!(Grid::new(0, 25, 10).n_steps, 3);
        assert_eq!(Grid::new(0, 25, 10).end(), 20);
        assert_eq!(Grid::new(5, 5, 10).n_steps, 1);
        assert_eq!(Grid::new(5, 4, 10).n_steps, 0);
    }

    #[test]
    fn bits_behind_the_last_step_stay_clear() {
        for n in [1, 63, 64, 65, 130] {
            let mut words = vec![0; usize::div_ceil(n, 64)];
            fill_bits(&mut words, n);
            assert_eq!(count_bits(&words), n);
            assert_eq!(bits(&words).last(), Some(n - 1));
        }
    }
}
