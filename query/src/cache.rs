//! Results of range queries, kept for the next time the same query is asked over times that overlap: a
//! dashboard that refreshes itself asks for the same steps again and again, and a few new ones.
//!
//! An entry remembers the version of the store it was made from. Steps are taken from it as long as no sample
//! that they depend on was written, deleted or dropped since, however late it came; all other steps are evaluated.
//! What is kept is as exact as what is evaluated, or it is not kept: queries whose value at a step depends on
//! other steps (`@ end()`, `info()`), results with annotations, those of native histograms, and stores that cannot
//! tell what changes are evaluated whole each time.

mod entry;

use crate::engine::{Engine, QueryOutput, QueryRequest};
use crate::error::QueryError;
use crate::limits::{Budget, Control};
use crate::parser::{Expr, ExprKind, Function};
use crate::plan::{self, reach::Reach};
use crate::stats::QueryStats;
use crate::value::{RangeSeries, Value};
use chronolith_model::queryable::{Queryable, ReadError, Snapshot};
use entry::{Entry, Key, Steps};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// No entry takes more than this part of the cache.
const LARGEST_PART: usize = 4;

/// Keeps results of range queries; see the module's text.
#[derive(Debug)]
pub struct ResultCache {
    limit_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Arc<Key>, (u64, Arc<Entry>)>,
    /// By last use.
    order: BTreeMap<u64, Arc<Key>>,
    clock: u64,
    size_bytes: usize,
    stats: CacheStats,
}

/// What a [`ResultCache`] holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Entries now.
    pub n_entries: u64,
    /// Memory of the entries now.
    pub size_bytes: u64,
    /// Steps that were taken from entries.
    pub steps_kept: u64,
    /// Steps that were evaluated, of queries whose results may be kept.
    pub steps_evaluated: u64,
    /// Entries that made room for others.
    pub evictions: u64,
}

/// One version of a store, for all parts of a query.
struct Pinned(Arc<dyn Snapshot>);

impl Queryable for Pinned {
    fn pin(&self) -> Result<Arc<dyn Snapshot>, ReadError> {
        Ok(Arc::clone(&self.0))
    }
}

impl ResultCache {
    /// A cache that takes at most so much memory; with 0 it keeps nothing.
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, kept: Mutex::default() }
    }

    /// What it holds and did.
    pub fn stats(&self) -> CacheStats {
        let kept = self.kept.lock();
        CacheStats { n_entries: kept.entries.len() as u64, size_bytes: kept.size_bytes as u64, ..kept.stats }
    }

    /// As [`Engine::execute`]. Statistics are those of the steps that had to be evaluated.
    ///
    /// # Errors
    /// As [`Engine::execute`].
    pub fn execute(
        &self,
        engine: &Engine,
        store: &dyn Queryable,
        request: &QueryRequest<'_>,
        control: &dyn Control,
    ) -> Result<QueryOutput, QueryError> {
        control.check()?;
        let expr = engine.parse(request.text)?;
        let Some(reach) = self.reach(engine, &expr, request)? else {
            return engine.evaluate(store, &expr, request, control);
        };
        // Before the store is pinned: what is pinned may be newer than the version, never older.
        let Some(version) = store.version() else {
            return engine.evaluate(store, &expr, request, control);
        };
        let store_now = Pinned(store.pin()?);
        let key = Key::new(request, engine.lookback_ms(request));
        let steps = Steps::of(request);
        let known = self.find(&key).and_then(|entry| {
            let still = entry.unchanged(&store.unchanged_since(entry.version), reach)?;
            Some((still.and(steps)?, entry))
        });
        let budget = engine.budget(control);
        let mut output = match &known {
            None => engine.evaluate_within(&budget, &store_now, &expr, request, control)?,
            Some((still, entry)) => {
                let evaluate = |part: Steps| {
                    let request = QueryRequest { start: part.first, end: part.last, ..*request };
                    engine.evaluate_within(&budget, &store_now, &expr, &request, control)
                };
                let before = steps.before(*still).map(evaluate).transpose()?;
                let after = steps.after(*still).map(evaluate).transpose()?;
                joined(&budget, before, entry.cut(*still), after)?
            }
        };
        let n_kept = known.as_ref().map_or(0, |(still, _)| still.count());
        self.count_steps(n_kept, steps.count() - n_kept);
        // What a histogram says of resets, and so whether there is a warning, depends on where reading begins.
        let may_be_kept = output.warnings.is_empty() && output.infos.is_empty() && !budget.read_histograms();
        if let (Value::Matrix(series), true) = (&mut output.value, may_be_kept) {
            self.keep(key, version, steps, series);
        }
        Ok(output)
    }

    /// How far the query looks, if its result may be kept at all.
    fn reach(
        &self,
        engine: &Engine,
        expr: &Expr,
        request: &QueryRequest<'_>,
    ) -> Result<Option<Reach>, QueryError> {
        let may_be_kept = self.limit_bytes > 0
            && request.range
            && request.interval_ms > 0
            && request.start <= request.end
            // A series' name goes if it is to go at its last step, whichever that is.
            && !engine.options().features.delayed_name_removal
            && !names_own_times(expr);
        if !may_be_kept {
            return Ok(None);
        }
        Ok(plan::plan(expr, &engine.times(request))?.reach(engine.lookback_ms(request)))
    }

    fn find(&self, key: &Key) -> Option<Arc<Entry>> {
        let kept = &mut *self.kept.lock();
        kept.clock += 1;
        let (used, entry) = kept.entries.get_mut(key)?;
        let shared = kept.order.remove(used)?;
        *used = kept.clock;
        kept.order.insert(kept.clock, shared);
        Some(Arc::clone(entry))
    }

    fn count_steps(&self, n_kept: u64, n_evaluated: u64) {
        let stats = &mut self.kept.lock().stats;
        stats.steps_kept += n_kept;
        stats.steps_evaluated += n_evaluated;
    }

    fn keep(&self, key: Key, version: u64, steps: Steps, series: &[RangeSeries]) {
        let size_bytes = entry::size_bytes(&key, series);
        if size_bytes > self.limit_bytes / LARGEST_PART {
            return;
        }
        let entry = Arc::new(Entry { version, steps, series: entry::with_own_texts(series), size_bytes });
        let key = Arc::new(key);
        let kept = &mut *self.kept.lock();
        kept.clock += 1;
        if let Some((used, old)) = kept.entries.insert(Arc::clone(&key), (kept.clock, entry)) {
            kept.order.remove(&used);
            kept.size_bytes -= old.size_bytes;
        }
        kept.order.insert(kept.clock, key);
        kept.size_bytes += size_bytes;
        while kept.size_bytes > self.limit_bytes {
            let Some((_, oldest)) = kept.order.pop_first() else { break };
            if let Some((_, entry)) = kept.entries.remove(&oldest) {
                kept.size_bytes -= entry.size_bytes;
                kept.stats.evictions += 1;
            }
        }
    }
}

/// Whether the query asks for its own start, end or range.
fn names_own_times(expr: &Expr) -> bool {
    let mut found = false;
    expr.walk(|part| {
        found |= match &part.kind {
            ExprKind::Call(call) => {
                matches!(call.function.function, Function::Start | Function::End | Function::Range)
            }
            ExprKind::Vector(selector) => selector.offset.is_computed(),
            ExprKind::Matrix(matrix) => matrix.range.is_computed() || matrix.selector.offset.is_computed(),
            ExprKind::Subquery(subquery) => {
                [&subquery.range, &subquery.step, &subquery.offset].iter().any(|extent| extent.is_computed())
            }
            _ => false,
        };
        !found
    });
    found
}

/// A result from its parts, which follow each other in time. All of them are sorted by labels.
fn joined(
    budget: &Arc<Budget>,
    before: Option<QueryOutput>,
    kept: Vec<RangeSeries>,
    after: Option<QueryOutput>,
) -> Result<QueryOutput, QueryError> {
    let mut stats = QueryStats::default();
    let (mut warnings, mut infos) = (Vec::new(), Vec::new());
    let mut matrix = |part: Option<QueryOutput>| {
        let Some(part) = part else { return Vec::new() };
        stats.total_queryable_samples += part.stats.total_queryable_samples;
        stats.samples_read += part.stats.samples_read;
        stats.peak_samples = stats.peak_samples.max(part.stats.peak_samples);
        for (all, new) in [(&mut warnings, part.warnings), (&mut infos, part.infos)] {
            for text in new {
                if !all.contains(&text) {
                    all.push(text);
                }
            }
        }
        match part.value {
            Value::Matrix(series) => series,
            _ => Vec::new(),
        }
    };
    let (before, after) = (matrix(before), matrix(after));
    let series = merged([before, kept, after]);
    let n_samples = series.iter().map(entry::n_samples).sum();
    let held = budget.take(series.iter().map(entry::series_bytes).sum(), n_samples)?;
    Ok(QueryOutput { value: Value::Matrix(series), warnings, infos, stats, held })
}

/// One list of series of several, each sorted by labels; samples in the order of the lists.
fn merged(lists: [Vec<RangeSeries>; 3]) -> Vec<RangeSeries> {
    let mut lists = lists.map(|list| list.into_iter().peekable());
    let mut all: Vec<RangeSeries> = Vec::new();
    loop {
        let heads = lists.iter_mut().enumerate().filter_map(|(at, list)| Some((at, list.peek()?)));
        let Some((at, _)) = heads.reduce(|a, b| if b.1.labels < a.1.labels { b } else { a }) else {
            return all;
        };
        let Some(next) = lists[at].next() else { return all };
        match all.last_mut() {
            Some(last) if last.labels == next.labels => {
                last.floats.extend(next.floats);
                last.histograms.extend(next.histograms);
            }
            _ => all.push(next),
        }
    }
}

#[cfg(test)]
mod tests;
