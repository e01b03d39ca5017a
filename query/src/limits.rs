//! What a query may take: memory, samples held at once, and time.
//!
//! Memory is charged before it is taken. A query that would pass its own limit, or the limit over all queries,
//! is the one that is refused; the others go on.

use crate::error::QueryError;
use chronolith_model::queryable::{QueryContext, Stop};
use chronolith_model::symbols::SymbolTable;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Deepest nesting of operators that is evaluated. The parser allows 500; chains of binary operators lean to
/// the left and are folded in loops.
pub const MAX_DEPTH: usize = 2_000;
/// Samples between two looks at the clock: a few milliseconds of work.
pub(crate) const SAMPLES_PER_CHECK: usize = 64 * 1024;
/// Cells a batch holds unless a row is longer: large enough to forget the cost of a batch, small enough for the
/// second-level cache (512 KiB of values).
pub(crate) const CELLS_PER_BATCH: usize = 64 * 1024;
/// Rows a batch holds at most.
pub(crate) const ROWS_PER_BATCH: usize = 4096;
/// Longest label value that a query may make. Prometheus cannot hold a longer one either.
///
/// Source: Prometheus v3.14, `model/labels/labels_stringlabels.go`, `sizeWhenEncoded`.
pub(crate) const MAX_LABEL_VALUE_BYTES: usize = 1 << 24;
/// Label values that a query makes are charged one by one from this length on, shorter ones by the thousand.
pub(crate) const LONG_TEXT_BYTES: usize = 1024;

/// Latest and, negated, earliest time of a query, in milliseconds: a quarter of what 64 bits hold, 73 million years
/// to either side of 1970, so that no sum of time, offset, window and look-back overflows.
pub const MAX_TIME_MS: i64 = i64::MAX / 4;

/// How the server stops a query: the client went away, or the deadline has passed. The query layer reads no
/// clock itself.
pub trait Control: Send + Sync {
    /// Whether to go on. Cheap: it is called every few thousand samples, from several threads.
    ///
    /// # Errors
    /// [`Stop`] once the query has to end.
    fn check(&self) -> Result<(), Stop>;

    /// Called once, before anything is read: from now on `usage` tells what the query holds.
    fn started(&self, usage: Usage) {
        let _ = usage;
    }
}

/// A control that never stops a query, for tools and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoControl;

impl Control for NoControl {
    fn check(&self) -> Result<(), Stop> {
        Ok(())
    }
}

/// Memory of all running queries together.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
}

impl SharedMemory {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, used_bytes: AtomicUsize::new(0) }
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

/// The account of one query. Whatever is still charged when it is dropped is given back.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
    peak_bytes: AtomicUsize,
    shared: Arc<SharedMemory>,
    max_samples: usize,
    samples: AtomicUsize,
    peak_samples: AtomicUsize,
    /// Whether native histograms were read.
    histograms: AtomicBool,
}

impl Budget {
    pub(crate) fn new(limit_bytes: usize, max_samples: usize, shared: Arc<SharedMemory>) -> Self {
        Self {
            limit_bytes,
            used_bytes: AtomicUsize::new(0),
            peak_bytes: AtomicUsize::new(0),
            shared,
            max_samples,
            samples: AtomicUsize::new(0),
            peak_samples: AtomicUsize::new(0),
            histograms: AtomicBool::new(false),
        }
    }

    /// Notes that native histograms were read.
    pub(crate) fn note_histograms(&self) {
        self.histograms.store(true, Ordering::Relaxed);
    }

    /// Whether native histograms were read.
    pub(crate) fn read_histograms(&self) -> bool {
        self.histograms.load(Ordering::Relaxed)
    }

    fn charge_bytes(&self, size_bytes: usize) -> Result<(), Stop> {
        let used = self.used_bytes.fetch_add(size_bytes, Ordering::Relaxed).saturating_add(size_bytes);
        if used > self.limit_bytes {
            self.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(Stop::OverBudget(format!(
                "query processing would take more memory than the limit of {} bytes for one query (--query.max-memory)",
                self.limit_bytes
            )));
        }
        let all = self.shared.used_bytes.fetch_add(size_bytes, Ordering::Relaxed).saturating_add(size_bytes);
        if all > self.shared.limit_bytes {
            self.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            self.shared.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(Stop::OverBudget(format!(
                "query processing would take more memory than the limit of {} bytes for all queries together (--query.max-total-memory)",
                self.shared.limit_bytes
            )));
        }
        self.peak_bytes.fetch_max(used, Ordering::Relaxed);
        Ok(())
    }

    fn release_bytes(&self, size_bytes: usize) {
        self.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
        self.shared.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
    }

    /// The most that the query may take.
    pub(crate) const fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Charges memory and samples, given back when the result is dropped.
    pub(crate) fn take(self: &Arc<Self>, size_bytes: usize, samples: usize) -> Result<Charge, QueryError> {
        self.charge_bytes(size_bytes)?;
        let mut charge = Charge::on(Arc::clone(self));
        charge.size_bytes = size_bytes;
        charge.add_samples(samples)?;
        Ok(charge)
    }

    /// Most memory charged at once so far.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    /// Most samples held at once so far.
    pub(crate) fn peak_samples(&self) -> usize {
        self.peak_samples.load(Ordering::Relaxed)
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.shared.used_bytes.fetch_sub(*self.used_bytes.get_mut(), Ordering::Relaxed);
    }
}

/// Memory and samples that are charged to a query as long as this lives.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    size_bytes: usize,
    samples: usize,
}

impl Charge {
    /// A charge to no query, for values that no engine has made.
    pub fn nothing() -> Self {
        let shared = Arc::new(SharedMemory::new(usize::MAX));
        Self::on(Arc::new(Budget::new(usize::MAX, usize::MAX, shared)))
    }

    const fn on(budget: Arc<Budget>) -> Self {
        Self { budget, size_bytes: 0, samples: 0 }
    }

    /// Charges further memory.
    ///
    /// # Errors
    /// [`QueryError::OverBudget`] if a limit does not allow it; nothing is charged then.
    pub fn add_bytes(&mut self, size_bytes: usize) -> Result<(), QueryError> {
        self.budget.charge_bytes(size_bytes)?;
        self.size_bytes += size_bytes;
        Ok(())
    }

    /// Charges further samples.
    pub(crate) fn add_samples(&mut self, samples: usize) -> Result<(), QueryError> {
        let held = self.budget.samples.fetch_add(samples, Ordering::Relaxed).saturating_add(samples);
        self.samples += samples;
        if held > self.budget.max_samples {
            return Err(QueryError::TooManySamples);
        }
        self.budget.peak_samples.fetch_max(held, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the samples back, but not the memory.
    pub(crate) fn release_samples(&mut self) {
        self.budget.samples.fetch_sub(std::mem::take(&mut self.samples), Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.release_bytes(self.size_bytes);
        self.budget.samples.fetch_sub(self.samples, Ordering::Relaxed);
    }
}

/// Memory of one request that is no query (a label look-up), under the limits of queries: those of one, and those
/// of all together. What is still charged when it is dropped is given back.
#[derive(Debug)]
pub struct MemoryAccount(Arc<Budget>);

impl MemoryAccount {
    pub(crate) fn new(limit_bytes: usize, shared: Arc<SharedMemory>) -> Self {
        Self(Arc::new(Budget::new(limit_bytes, usize::MAX, shared)))
    }

    /// Charges memory before it is taken.
    ///
    /// # Errors
    /// [`Stop::OverBudget`] if a limit does not allow it; nothing is charged then.
    pub fn charge(&self, size_bytes: usize) -> Result<(), Stop> {
        self.0.charge_bytes(size_bytes)
    }

    /// Gives back what was charged.
    pub fn release(&self, size_bytes: usize) {
        self.0.release_bytes(size_bytes);
    }
}

/// What a query holds, to look at from outside while it runs.
#[derive(Clone, Debug)]
pub struct Usage(pub(crate) Arc<Budget>);

impl Usage {
    /// Memory charged now.
    pub fn memory_bytes(&self) -> usize {
        self.0.used_bytes.load(Ordering::Relaxed)
    }

    /// Most memory charged at once so far.
    pub fn peak_memory_bytes(&self) -> usize {
        self.0.peak_bytes.load(Ordering::Relaxed)
    }

    /// Samples held now.
    pub fn samples(&self) -> usize {
        self.0.samples.load(Ordering::Relaxed)
    }

    /// Most samples held at once so far.
    pub fn peak_samples(&self) -> usize {
        self.0.peak_samples()
    }
}

/// What the store sees of a query.
pub(crate) struct StoreContext<'q> {
    pub(crate) control: &'q dyn Control,
    pub(crate) budget: Arc<Budget>,
    pub(crate) symbols: SymbolTable,
}

impl QueryContext for StoreContext<'_> {
    fn check(&self) -> Result<(), Stop> {
        self.control.check()
    }

    fn charge(&self, size_bytes: usize) -> Result<(), Stop> {
        self.budget.charge_bytes(size_bytes)
    }

    fn release(&self, size_bytes: usize) {
        self.budget.release_bytes(size_bytes);
    }

    fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_charged_and_what_is_dropped_is_given_back() {
        let shared = Arc::new(SharedMemory::new(150));
        let one = Arc::new(Budget::new(100, 10, Arc::clone(&shared)));
        let two = Arc::new(Budget::new(100, 10, Arc::clone(&shared)));
        let held = one.take(90, 8).unwrap();
        assert!(matches!(one.take(20, 0), Err(QueryError::OverBudget(text)) if text.contains("one query")));
        assert!(matches!(two.take(70, 0), Err(QueryError::OverBudget(text)) if text.contains("all queries")));
        assert!(two.take(60, 0).is_ok());
        assert_eq!(one.take(1, 3).unwrap_err(), QueryError::TooManySamples);
        assert!(one.take(1, 2).is_ok());
        assert_eq!(one.peak_samples(), 10);
        drop(held);
        assert!(two.take(100, 0).is_ok());
        assert_eq!(shared.used_bytes.load(Ordering::Relaxed), 0);
    }
}
