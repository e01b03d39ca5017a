//! Query statistics with the meaning they have in Prometheus's API.
//!
//! A leaf counts the samples of each of its steps into its [`Scope`], which knows at which steps of the whole
//! query they count: a part that does not depend on the step counts at every one, a subquery at the steps whose
//! windows hold its samples.
//!
//! Source: Prometheus v3.14, `util/stats/query_stats.go`.

use crate::eval::batch::Grid;
use chronolith_model::FloatHistogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a query read and held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Samples looked at over all steps: a window counts whole at every step, a part of the query that does
    /// not depend on the step counts at every step. A histogram counts by its size.
    pub total_queryable_samples: u64,
    /// Samples read, each counted once a selector; those of a subquery that lie in no window do not count.
    pub samples_read: u64,
    /// Most samples held at once: samples in columns between operators, in groups and in the result. Our
    /// columns hold fewer than Prometheus's matrices, so this is at most what Prometheus shows.
    pub peak_samples: u64,
    /// The first two by step, if [`Features::per_step_stats`](crate::Features::per_step_stats) is on.
    pub per_step: Option<PerStepStats>,
}

/// [`QueryStats`] by step: one entry each, the first at `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerStepStats {
    /// First step, in milliseconds.
    pub start: i64,
    /// Between steps, in milliseconds.
    pub interval_ms: i64,
    /// Samples looked at.
    pub total_queryable_samples: Vec<u64>,
    /// Samples read.
    pub samples_read: Vec<u64>,
}

/// Counts what the leaves of one part of a query look at; they add to it from several threads.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    counters: Arc<Counters>,
    total: Total,
    read: Read,
}

/// Samples that were counted apart, to be counted where they belong as often as they are used.
#[derive(Debug)]
pub(crate) struct Apart(Arc<Counters>);

/// Where samples that are looked at count, among the steps of the whole query.
#[derive(Clone, Copy, Debug)]
enum Total {
    /// Inside a subquery: its result is counted instead.
    Nowhere,
    /// The steps of this part are those of the query.
    Same,
    /// Each step of the part counts at each step of the query.
    Everywhere,
    /// All steps of the part count at the first of the query, so many times.
    First { times: u64 },
}

/// Where samples that are read count.
#[derive(Clone, Debug)]
enum Read {
    /// The steps of this part are those of the query.
    Same,
    /// All at this step of the query; [`DROPPED`] for none.
    At(u32),
    /// By step of the part, the step of the query; [`DROPPED`] for none.
    Table(Arc<[u32]>),
}

/// In no window of any step.
const DROPPED: u32 = u32::MAX;

/// By step of the query; a single entry if steps are not told apart.
#[derive(Debug)]
struct Counters {
    total: Vec<AtomicU64>,
    read: Vec<AtomicU64>,
    n_steps: usize,
}

impl Counters {
    fn tells_steps(&self) -> bool {
        self.total.len() > 1
    }
}

impl Scope {
    /// The whole query.
    pub(crate) fn new(n_steps: usize, per_step: bool) -> Self {
        let n = if per_step { n_steps.max(1) } else { 1 };
        let zeros = || (0..n).map(|_| AtomicU64::new(0)).collect();
        let counters = Counters { total: zeros(), read: zeros(), n_steps };
        Self { counters: Arc::new(counters), total: Total::Same, read: Read::Same }
    }

    /// The same steps, but counted apart until [`Scope::absorb`].
    pub(crate) fn apart(&self) -> (Self, Apart) {
        let zeros = |counters: &[AtomicU64]| counters.iter().map(|_| AtomicU64::new(0)).collect();
        let Counters { total, read, n_steps } = &*self.counters;
        let counters = Arc::new(Counters { total: zeros(total), read: zeros(read), n_steps: *n_steps });
        (Self { counters: Arc::clone(&counters), ..self.clone() }, Apart(counters))
    }

    /// Counts here what was counted apart.
    pub(crate) fn absorb(&self, apart: &Apart) {
        let add = |ours: &[AtomicU64], theirs: &[AtomicU64]| {
            for (ours, theirs) in ours.iter().zip(theirs) {
                ours.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        };
        add(&self.counters.total, &apart.0.total);
        add(&self.counters.read, &apart.0.read);
    }

    /// A part that is evaluated once for the `n_steps` steps of this one: looked at by each, read by the first.
    pub(crate) fn invariant(&self, n_steps: usize) -> Self {
        let total = match self.total {
            Total::Same => Total::Everywhere,
            Total::First { times } => Total::First { times: times * n_steps as u64 },
            Total::Nowhere | Total::Everywhere => self.total,
        };
        Self { counters: Arc::clone(&self.counters), total, read: Read::At(self.read_step(0)) }
    }

    /// A subquery whose result is the result of the query.
    pub(crate) fn whole_subquery(&self) -> Self {
        let read = Read::At(self.read_step(0));
        Self { counters: Arc::clone(&self.counters), total: Total::First { times: 1 }, read }
    }

    /// A subquery at the steps of `inner`, over which windows of `range_ms` slide at the steps of `outer`, which
    /// is the grid of this part. Its offset is `offset_ms`.
    ///
    /// Source: Prometheus v3.14, `util/stats/query_stats.go`, `MergeSamplesReadFromSubquery`.
    pub(crate) fn subquery(&self, outer: &Grid, inner: &Grid, offset_ms: i64, range_ms: i64) -> Self {
        let gaps = outer.interval > range_ms;
        let apart = match self.read {
            Read::Same => self.counters.tells_steps(),
            Read::At(_) => false,
            Read::Table(_) => true,
        };
        let read = if outer.n_steps > 1 && (gaps || apart) {
            Read::Table(inner.times().map(|t| self.outer_step(outer, t + offset_ms, range_ms)).collect())
        } else {
            Read::At(self.read_step(0))
        };
        Self { counters: Arc::clone(&self.counters), total: Total::Nowhere, read }
    }

    /// A subquery at times that do not move with the steps, below [`Scope::invariant`].
    pub(crate) fn inside_subquery(self) -> Self {
        Self { total: Total::Nowhere, ..self }
    }

    /// The step of the query at which a sample of a subquery counts that is used as of time `t`.
    fn outer_step(&self, outer: &Grid, t: i64, range_ms: i64) -> u32 {
        let step = if t > outer.start {
            let step = (t - outer.start + outer.interval - 1) / outer.interval;
            (step as usize).min(outer.n_steps - 1)
        } else {
            0
        };
        if t <= outer.time(step) - range_ms { DROPPED } else { self.read_step(step) }
    }

    /// Whether samples have to be counted by [`Scope::add_step`].
    pub(crate) fn tells_steps(&self) -> bool {
        self.counters.tells_steps() || matches!(self.read, Read::Table(_))
    }

    /// Counts samples of all steps, if they are not told apart.
    pub(crate) fn add(&self, total: u64, read: u64) {
        debug_assert!(!self.tells_steps(), "samples of one step each");
        self.add_total(0, total);
        self.add_read(0, read);
    }

    /// Counts samples of one step of this part.
    pub(crate) fn add_step(&self, step: usize, total: u64, read: u64) {
        self.add_total(step, total);
        self.add_read(step, read);
    }

    fn add_total(&self, step: usize, n: u64) {
        let (counters, n_steps) = (&self.counters.total, self.counters.n_steps as u64);
        if n == 0 {
            return;
        }
        let add = |at: usize, n: u64| {
            if let Some(counter) = counters.get(at) {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        };
        match self.total {
            Total::Nowhere => {}
            Total::First { times } => add(0, n * times),
            Total::Same if self.counters.tells_steps() => add(step, n),
            Total::Same => add(0, n),
            Total::Everywhere if self.counters.tells_steps() => (0..counters.len()).for_each(|at| add(at, n)),
            Total::Everywhere => add(0, n * n_steps),
        }
    }

    fn add_read(&self, step: usize, n: u64) {
        let at = self.read_step(step);
        if n > 0
            && at != DROPPED
            && let Some(counter) = self.counters.read.get(at as usize)
        {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    fn read_step(&self, step: usize) -> u32 {
        match &self.read {
            Read::Same if self.counters.tells_steps() => step as u32,
            Read::Same => 0,
            Read::At(at) => *at,
            Read::Table(table) => table.get(step).copied().unwrap_or(DROPPED),
        }
    }

    /// Everything counted so far, over all parts.
    pub(crate) fn stats(&self, grid: &Grid, peak_samples: u64, per_step: bool) -> QueryStats {
        let values = |counters: &[AtomicU64]| -> Vec<u64> {
            counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
        };
        let (total, read) = (values(&self.counters.total), values(&self.counters.read));
        QueryStats {
            total_queryable_samples: total.iter().sum(),
            samples_read: read.iter().sum(),
            peak_samples,
            per_step: per_step.then_some(PerStepStats {
                start: grid.start,
                interval_ms: grid.interval,
                total_queryable_samples: total,
                samples_read: read,
            }),
        }
    }
}

/// How many float samples a histogram counts for: its size with a timestamp, in units of a float sample.
///
/// Source: Prometheus v3.14, `promql/value.go`, `HPoint.size`.
pub(crate) fn histogram_samples(h: &FloatHistogram) -> u64 {
    ((h.go_size_bytes() + 8) / 16) as u64
}
