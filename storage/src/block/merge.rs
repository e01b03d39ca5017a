//! Merges blocks (or any parts) into the source of one block.
//!
//! Series are compared by symbol number: the strings of all parts are sorted once. Parts are walked
//! metric by metric, so that the labels in memory are those of one metric. Where two parts hold a
//! timestamp of a series, the part that was acknowledged first wins. Timestamp columns that series
//! shared in the parts are shared in the result.

mod columns;
mod series;

use super::source::{BlockSource, SourceSeries};
use crate::error::StorageError;
use crate::part::{Part, PartRead, PartSelect, PartSeries, Run, RunBuffer};
use chronolith_model::Matcher;
use chronolith_model::append::{Exemplar, Metadata};
use chronolith_model::labels::METRIC_NAME;
use chronolith_model::queryable::{HistogramNeed, Projection, QueryContext, Stop};
use chronolith_model::symbols::{Symbol, SymbolTable};
use columns::ColumnCache;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Samples that are decoded at once per part: 16 MB.
const READ_SAMPLES: u64 = 1 << 20;

/// What a merge is made of.
#[derive(Clone)]
pub struct MergeInput {
    /// The part; ranks by its precedence.
    pub part: Arc<dyn Part>,
    /// Samples of a series on average: bounds how many series are decoded at once.
    pub samples_per_series: u64,
}

/// The merge of several parts.
pub struct MergeSource {
    inputs: Vec<MergeInput>,
    context: MergeContext,
    /// Number in the result by symbol of the context's table.
    numbers: Vec<u32>,
    metrics: std::collections::btree_set::IntoIter<String>,
    cursors: Vec<Cursor>,
    exemplars: HashMap<Vec<(u32, u32)>, Vec<Exemplar>>,
    columns: ColumnCache,
    /// Samples that lost against another value of the same timestamp.
    pub n_conflicts: u64,
    /// Samples that came out.
    pub n_samples: u64,
}

/// A walk over the series of one metric in one part.
struct Cursor {
    series: Box<dyn PartSeries>,
    position: u32,
    /// Labels at `position`, in numbers of the result.
    labels: Vec<(u32, u32)>,
    /// What is decoded.
    decoded: Range<u32>,
    buffer: RunBuffer,
    next_run: usize,
    partitions: Vec<Range<u32>>,
    step: u32,
}

impl MergeSource {
    /// A merge of these parts.
    ///
    /// # Errors
    /// [`StorageError`] if labels cannot be read.
    pub fn new(mut inputs: Vec<MergeInput>, interrupts: Interrupts) -> Result<Self, StorageError> {
        inputs.sort_by_key(|input| input.part.precedence());
        let context = MergeContext { symbols: SymbolTable::new(), interrupts };
        let metrics = intern_labels(&inputs, &context)?;
        Ok(Self {
            inputs,
            context,
            numbers: Vec::new(),
            metrics: metrics.into_iter(),
            cursors: Vec::new(),
            exemplars: HashMap::new(),
            columns: ColumnCache::default(),
            n_conflicts: 0,
            n_samples: 0,
        })
    }

    /// Moves on to the next metric; false if there is none.
    fn next_metric(&mut self) -> Result<bool, StorageError> {
        let Some(metric) = self.metrics.next() else { return Ok(false) };
        let matchers = [Matcher::equal(METRIC_NAME, metric)];
        let select =
            PartSelect { matchers: &matchers, mint: i64::MIN, maxt: i64::MAX, labels: Projection::All };
        self.cursors.clear();
        self.exemplars.clear();
        for input in &self.inputs {
            let series = input.part.select(&select, &self.context)?;
            self.cursors.push(Cursor::new(series, input.samples_per_series, &self.numbers)?);
            let exemplars = &mut self.exemplars;
            let (context, numbers) = (&self.context, &self.numbers);
            input.part.exemplars(&select, context, &mut |labels, found| {
                let mut key: Vec<(u32, u32)> = labels
                    .iter()
                    .filter_map(|(name, value)| {
                        Some((
                            number(numbers, context.symbols.get(name)?),
                            number(numbers, context.symbols.get(value)?),
                        ))
                    })
                    .collect();
                key.sort_unstable();
                exemplars.entry(key).or_default().extend_from_slice(found);
            })?;
        }
        Ok(true)
    }

    /// The series that comes first among the cursors, merged; false at the end of the metric.
    fn merge_next(&mut self, out: &mut SourceSeries) -> Result<bool, StorageError> {
        let mut first: Option<&Cursor> = None;
        for cursor in self.cursors.iter().filter(|cursor| !cursor.is_done()) {
            if first.is_none_or(|first| cursor.labels < first.labels) {
                first = Some(cursor);
            }
        }
        let Some(first) = first else { return Ok(false) };
        out.labels.extend_from_slice(&first.labels);
        let mut inputs = Vec::new();
        for (at, cursor) in self.cursors.iter_mut().enumerate() {
            if !cursor.is_done() && cursor.labels == out.labels {
                inputs.push((at, cursor.read(&self.context)?));
            }
        }
        let inputs: Vec<series::Input<'_>> = inputs
            .into_iter()
            .map(|(at, runs)| {
                let buffer = &self.cursors[at].buffer;
                series::Input { runs: &buffer.runs[runs], buffer }
            })
            .collect();
        self.n_conflicts += series::merge(&inputs, &mut out.samples, &mut self.columns);
        if let Some(mut exemplars) = self.exemplars.remove(&out.labels) {
            // Stable: of several with the same time, the one of the first part stays.
            exemplars.sort_by_key(|exemplar| exemplar.timestamp);
            exemplars.dedup_by_key(|exemplar| exemplar.timestamp);
            out.exemplars = exemplars;
        }
        for cursor in &mut self.cursors {
            if !cursor.is_done() && cursor.labels == out.labels {
                cursor.advance(&self.numbers)?;
            }
        }
        Ok(true)
    }
}

impl BlockSource for MergeSource {
    fn symbols(&mut self) -> Result<Vec<Box<str>>, StorageError> {
        let strings = self.context.symbols.strings();
        let mut order: Vec<u32> = (0..u32::try_from(strings.len()).expect("symbols are u32")).collect();
        order.sort_unstable_by(|&a, &b| strings[a as usize].cmp(&strings[b as usize]));
        self.numbers = vec![0; strings.len()];
        for (number, &symbol) in (0u32..).zip(&order) {
            self.numbers[symbol as usize] = number;
        }
        Ok(order.iter().map(|&symbol| Box::from(&*strings[symbol as usize])).collect())
    }

    fn next_series(&mut self, series: &mut SourceSeries) -> Result<bool, StorageError> {
        loop {
            series.clear();
            if !self.merge_next(series)? {
                self.context.check()?;
                if !self.next_metric()? {
                    return Ok(false);
                }
                continue;
            }
            // Nothing is left of a series whose samples were all deleted.
            if !series.samples.runs.is_empty() {
                self.n_samples +=
                    series.samples.runs.iter().map(|run| u64::from(run.times.count)).sum::<u64>();
                return Ok(true);
            }
        }
    }

    fn metadata(&mut self) -> Result<Vec<(String, Vec<Metadata>)>, StorageError> {
        let mut families: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
        for input in &self.inputs {
            input.part.metadata(&mut |name, metadata| {
                let known = families.entry(name.to_owned()).or_default();
                if !known.contains(metadata) {
                    known.push(metadata.clone());
                }
            })?;
        }
        Ok(families.into_iter().collect())
    }
}

/// Puts all label names and values of the parts into the symbol table and gives the metric names in
/// order. Series without a name come under the empty one.
fn intern_labels(inputs: &[MergeInput], context: &MergeContext) -> Result<BTreeSet<String>, StorageError> {
    let all = PartSelect { matchers: &[], mint: i64::MIN, maxt: i64::MAX, labels: Projection::All };
    let mut names = BTreeSet::new();
    let mut metrics = BTreeSet::from([String::new()]);
    for input in inputs {
        input.part.label_names(&all, context, &mut |name| {
            names.insert(name.to_owned());
        })?;
    }
    for name in &names {
        context.symbols.intern(name);
        for input in inputs {
            input.part.label_values(name, &all, context, &mut |value| {
                context.symbols.intern(value);
                if name == METRIC_NAME {
                    metrics.insert(value.to_owned());
                }
            })?;
        }
    }
    Ok(metrics)
}

fn number(numbers: &[u32], symbol: Symbol) -> u32 {
    numbers.get(symbol.0 as usize).copied().unwrap_or(u32::MAX)
}

impl Cursor {
    fn new(
        series: Box<dyn PartSeries>,
        samples_per_series: u64,
        numbers: &[u32],
    ) -> Result<Self, StorageError> {
        let step = (READ_SAMPLES / samples_per_series.max(1)).clamp(1, u64::from(u32::MAX));
        let mut partitions = series.partitions();
        partitions.reverse();
        let mut cursor = Self {
            series,
            position: 0,
            labels: Vec::new(),
            decoded: 0..0,
            buffer: RunBuffer::default(),
            next_run: 0,
            partitions,
            step: u32::try_from(step).expect("the step was clamped"),
        };
        cursor.load_labels(numbers)?;
        Ok(cursor)
    }

    fn is_done(&self) -> bool {
        self.position >= self.series.len()
    }

    fn load_labels(&mut self, numbers: &[u32]) -> Result<(), StorageError> {
        self.labels.clear();
        if !self.is_done() {
            let labels = self.series.labels(self.position);
            self.labels
                .extend(labels.iter().map(|&(name, value)| (number(numbers, name), number(numbers, value))));
            if self.labels.iter().any(|&(name, value)| name == u32::MAX || value == u32::MAX) {
                return Err(StorageError::corrupt("index", "a series has labels that its label index lacks"));
            }
        }
        Ok(())
    }

    fn advance(&mut self, numbers: &[u32]) -> Result<(), StorageError> {
        self.position += 1;
        self.load_labels(numbers)
    }

    /// Decodes the series at `position` if it is not yet, and gives its runs in the buffer.
    fn read(&mut self, context: &MergeContext) -> Result<Range<usize>, StorageError> {
        if !self.decoded.contains(&self.position) {
            while self.partitions.last().is_some_and(|partition| partition.end <= self.position) {
                self.partitions.pop();
            }
            let partition_end = self.partitions.last().map_or(self.series.len(), |partition| partition.end);
            let end = partition_end.min(self.position.saturating_add(self.step)).max(self.position + 1);
            self.decoded = self.position..end;
            let read = PartRead {
                mint: i64::MIN,
                maxt: i64::MAX,
                lookups: None,
                values: true,
                histograms: HistogramNeed::Full,
                start_timestamps: true,
            };
            self.buffer.clear();
            self.next_run = 0;
            self.series.read(self.decoded.clone(), &read, &mut self.buffer, context)?;
        }
        let wanted = self.position - self.decoded.start;
        let runs: &[Run] = &self.buffer.runs;
        while runs.get(self.next_run).is_some_and(|run| run.series < wanted) {
            self.next_run += 1;
        }
        let start = self.next_run;
        while runs.get(self.next_run).is_some_and(|run| run.series == wanted) {
            self.next_run += 1;
        }
        Ok(start..self.next_run)
    }
}

/// Lets parts intern labels, and interrupts them.
struct MergeContext {
    symbols: SymbolTable,
    interrupts: Interrupts,
}

impl QueryContext for MergeContext {
    fn check(&self) -> Result<(), Stop> {
        self.interrupts.check()
    }
    fn charge(&self, _size_bytes: usize) -> Result<(), Stop> {
        Ok(())
    }
    fn release(&self, _size_bytes: usize) {}
    fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }
}

/// How a merge is ended when the store closes, and held while something more urgent needs the
/// machine. Clones are the same switches.
#[derive(Clone, Debug, Default)]
pub struct Interrupts {
    stopped: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
}

/// A hold is over after so many waits (4 s), whatever holds: a merge must not starve.
const MAX_WAITS: u32 = 200;
const WAIT: Duration = Duration::from_millis(20);

impl Interrupts {
    /// Ends merges with [`Stop::Cancelled`].
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Whether [`Interrupts::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Lets merges wait.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// Lets merges go on.
    pub fn resume(&self) {
        self.held.store(false, Ordering::Relaxed);
    }

    /// Waits while merges are held.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] once they are stopped.
    pub fn check(&self) -> Result<(), Stop> {
        for _ in 0..MAX_WAITS {
            if self.is_stopped() {
                return Err(Stop::Cancelled);
            }
            if !self.held.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(WAIT);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
