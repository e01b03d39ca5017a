//! What the parts of a query took: probes around operators, series and row-wise steps, put there only where somebody
//! wants to know.
//!
//! Operators are built and asked on one thread, so the time of a part without that of its parts is told by a stack.
//! Reads and what is pushed into them run on several threads; their times are summed up apart.

use crate::annotations::Annotations;
use crate::error::QueryError;
use crate::eval::batch::Batch;
use crate::eval::{ColumnMap, Cx, Node, Operator, OutSeries};
use crate::plan::Plan;
use chronolith_model::queryable::{
    Floats, QueryContext, ReadError, ReadStats, SampleBatch, SelectedSeries, Stop,
};
use chronolith_model::symbols::{Symbol, SymbolTable};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Time since some moment. The query layer reads no clock itself.
pub trait Clock: Send + Sync {
    /// Never less than before.
    fn now(&self) -> Duration;
}

/// What one part of a plan took.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) built: AtomicBool,
    /// It repeats, but its rows were too many to be kept.
    pub(super) not_kept: AtomicBool,
    pub(super) series: AtomicU64,
    pub(super) samples: AtomicU64,
    pub(super) own_ns: AtomicU64,
    /// Of a step that runs where the rows are read.
    pub(super) pushed: AtomicBool,
    pub(super) pushed_ns: AtomicU64,
    pub(super) reads: Reads,
}

/// What was read for a part.
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub(super) selects: AtomicU64,
    pub(super) series: AtomicU64,
    pub(super) constant_series: AtomicU64,
    pub(super) samples: AtomicU64,
    pub(super) index_ns: AtomicU64,
    pub(super) read_ns: AtomicU64,
    pub(super) stats: ReadStats,
}

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

fn add_time(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// The counters of all parts of a plan.
pub(crate) struct Analysis {
    clock: Arc<dyn Clock>,
    /// By address of the part; plans do not move while they are evaluated.
    parts: HashMap<usize, Arc<Counters>>,
    /// By address of a selector's matchers.
    selectors: HashMap<usize, Arc<Counters>>,
    /// What is being built or asked, the innermost last.
    stack: Mutex<Vec<Frame>>,
    /// Rows that were kept for later places were too much for a limit: everything was evaluated again without.
    started_over: AtomicBool,
}

struct Frame {
    counters: Arc<Counters>,
    started: Duration,
    /// Taken by what was begun and ended meanwhile.
    inner: Duration,
}

impl Analysis {
    /// Counters for `plan` and all below it.
    pub(crate) fn new(plan: &Plan, clock: Arc<dyn Clock>) -> Self {
        let (mut parts, mut selectors) = (HashMap::new(), HashMap::new());
        plan.walk(&mut |part| {
            let counters = Arc::new(Counters::default());
            if let Some(selector) = part.own_selector()
                && !selector.matchers.is_empty()
            {
                selectors.insert(selector.matchers.as_ptr().addr(), Arc::clone(&counters));
            }
            parts.insert(std::ptr::from_ref(part).addr(), counters);
        });
        Self { clock, parts, selectors, stack: Mutex::new(Vec::new()), started_over: AtomicBool::new(false) }
    }

    /// The counters of a part.
    pub(super) fn of(&self, part: &Plan) -> Option<&Arc<Counters>> {
        self.parts.get(&std::ptr::from_ref(part).addr())
    }

    /// Notes that a part that repeats is too large to be kept.
    pub(crate) fn not_kept(&self, part: &Plan) {
        if let Some(counters) = self.of(part) {
            counters.not_kept.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that everything is evaluated again, with nothing kept for later places. The counters go on: what was done
    /// in vain took its time too.
    pub(crate) fn start_over(&self) {
        self.stack.lock().clear();
        self.started_over.store(true, Ordering::Relaxed);
    }

    /// Whether everything was evaluated twice.
    pub(super) fn started_over(&self) -> bool {
        self.started_over.load(Ordering::Relaxed)
    }

    /// From here on time is that of `counters`, until the matching [`Analysis::leave`].
    fn enter(&self, counters: &Arc<Counters>) {
        let frame =
            Frame { counters: Arc::clone(counters), started: self.clock.now(), inner: Duration::ZERO };
        self.stack.lock().push(frame);
    }

    fn leave(&self) {
        let mut stack = self.stack.lock();
        let Some(frame) = stack.pop() else { return };
        let elapsed = self.clock.now().saturating_sub(frame.started);
        add_time(&frame.counters.own_ns, elapsed.saturating_sub(frame.inner));
        if let Some(outer) = stack.last_mut() {
            outer.inner += elapsed;
        }
    }

    fn current(&self) -> Option<Arc<Counters>> {
        self.stack.lock().last().map(|frame| Arc::clone(&frame.counters))
    }

    /// Builds a part and puts a probe around what comes out.
    pub(crate) fn build(
        self: &Arc<Self>,
        part: &Plan,
        build: impl FnOnce() -> Result<Node, QueryError>,
    ) -> Result<Node, QueryError> {
        let Some(counters) = self.of(part) else { return build() };
        self.enter(counters);
        let node = build();
        self.leave();
        let node = node?;
        counters.built.store(true, Ordering::Relaxed);
        Ok(match node {
            Node::Vector(inner) => {
                add(&counters.series, inner.series().len());
                let (analysis, counters) = (Arc::clone(self), Arc::clone(counters));
                Node::Vector(Box::new(Probe { inner, analysis, counters }))
            }
            Node::Scalar(scalar) => {
                add(&counters.samples, scalar.values.len());
                Node::Scalar(scalar)
            }
            text @ Node::Text(_) => text,
        })
    }

    /// Selects the series of a selector and puts a probe around them.
    ///
    /// # Errors
    /// What `select` fails with.
    pub(crate) fn select(
        &self,
        matchers: usize,
        cx: &dyn QueryContext,
        select: impl FnOnce(&dyn QueryContext) -> Result<Arc<dyn SelectedSeries>, ReadError>,
    ) -> Result<Arc<dyn SelectedSeries>, ReadError> {
        // What is not in the text, such as info series, belongs to the part that asks for it.
        let Some(counters) = self.selectors.get(&matchers).cloned().or_else(|| self.current()) else {
            return select(cx);
        };
        let started = self.clock.now();
        let inner = select(&CountedContext { cx, stats: &counters.reads.stats })?;
        let reads = &counters.reads;
        add_time(&reads.index_ns, self.clock.now().saturating_sub(started));
        add(&reads.selects, 1);
        add(&reads.series, inner.len() as usize);
        Ok(Arc::new(Read { inner, clock: Arc::clone(&self.clock), counters }))
    }
}

/// An operator that is watched.
struct Probe {
    inner: Box<dyn Operator>,
    analysis: Arc<Analysis>,
    counters: Arc<Counters>,
}

impl Operator for Probe {
    fn series(&self) -> &[OutSeries] {
        self.inner.series()
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        self.inner.series_mut()
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        self.analysis.enter(&self.counters);
        let more = self.inner.next(cx, out);
        self.analysis.leave();
        if let Ok(true) = more {
            add(&self.counters.samples, out.n_samples());
        }
        more
    }

    fn push_map(&mut self, map: &Arc<dyn ColumnMap>) -> bool {
        // Whoever adds a step is being built.
        let Some(counters) = self.analysis.current() else { return self.inner.push_map(map) };
        let clock = Arc::clone(&self.analysis.clock);
        let step: Arc<dyn ColumnMap> =
            Arc::new(Step { inner: Arc::clone(map), clock, counters: Arc::clone(&counters) });
        let pushed = self.inner.push_map(&step);
        if pushed {
            counters.pushed.store(true, Ordering::Relaxed);
        }
        pushed
    }

    fn failed_at(&self) -> Option<usize> {
        self.inner.failed_at()
    }

    fn finish(self: Box<Self>) -> Annotations {
        self.inner.finish()
    }
}

/// A row-wise step that is watched.
struct Step {
    inner: Arc<dyn ColumnMap>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
}

impl ColumnMap for Step {
    fn apply(&self, cx: &Cx<'_>, batch: &mut Batch, notes: &mut Annotations) -> Result<(), QueryError> {
        let started = self.clock.now();
        let result = self.inner.apply(cx, batch, notes);
        add_time(&self.counters.pushed_ns, self.clock.now().saturating_sub(started));
        result
    }
}

/// Series whose reads are watched.
struct Read {
    inner: Arc<dyn SelectedSeries>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
}

impl SelectedSeries for Read {
    fn len(&self) -> u32 {
        self.inner.len()
    }

    fn labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        self.inner.labels(index)
    }

    fn partitions(&self) -> &[Range<u32>] {
        self.inner.partitions()
    }

    fn read(&self, range: Range<u32>, out: &mut SampleBatch, cx: &dyn QueryContext) -> Result<(), ReadError> {
        let reads = &self.counters.reads;
        let (started, first) = (self.clock.now(), out.series.len());
        self.inner.read(range, out, &CountedContext { cx, stats: &reads.stats })?;
        add_time(&reads.read_ns, self.clock.now().saturating_sub(started));
        let (mut samples, mut constant) = (0, 0);
        for series in &out.series[first..] {
            let histograms = series.histograms.as_ref().map_or(0, |(range, _)| range.len());
            samples += histograms
                + match &series.floats {
                    Floats::None => 0,
                    Floats::Constant(_) => {
                        constant += 1;
                        series.timestamps.times.len() - histograms
                    }
                    Floats::Values(range) => range.len(),
                };
        }
        add(&reads.samples, samples);
        add(&reads.constant_series, constant);
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }
}

/// The context of a query, with counters of one selector for the store.
struct CountedContext<'c> {
    cx: &'c dyn QueryContext,
    stats: &'c ReadStats,
}

impl QueryContext for CountedContext<'_> {
    fn check(&self) -> Result<(), Stop> {
        self.cx.check()
    }

    fn charge(&self, size_bytes: usize) -> Result<(), Stop> {
        self.cx.charge(size_bytes)
    }

    fn release(&self, size_bytes: usize) {
        self.cx.release(size_bytes);
    }

    fn symbols(&self) -> &SymbolTable {
        self.cx.symbols()
    }

    fn read_stats(&self) -> Option<&ReadStats> {
        Some(self.stats)
    }
}
