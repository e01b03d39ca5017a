//! Running what blocks: on threads apart from those that serve connections, with a deadline, stopped
//! when the client goes away.

use super::error::ApiError;
use chronolith_model::queryable::{QueryContext, Stop};
use chronolith_model::symbols::SymbolTable;
use chronolith_query::{Control, QueryError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Tells a running query whether to go on.
#[derive(Debug)]
pub struct Deadline {
    until: Instant,
    cancelled: AtomicBool,
}

impl Control for Deadline {
    fn check(&self) -> Result<(), Stop> {
        if self.cancelled.load(Ordering::Relaxed) {
            Err(Stop::Cancelled)
        } else if Instant::now() >= self.until {
            Err(Stop::TimedOut)
        } else {
            Ok(())
        }
    }
}

impl Deadline {
    /// A deadline that is `timeout` away.
    pub fn after(timeout: Duration) -> Arc<Self> {
        let now = Instant::now();
        let until = now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365));
        Arc::new(Self { until, cancelled: AtomicBool::new(false) })
    }

    /// When the time is up.
    pub fn until(&self) -> Instant {
        self.until
    }
}

/// Cancels the work when the future that holds this is dropped: the client went away.
struct CancelOnDrop(Arc<Deadline>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a blocking thread; the client going away cancels `deadline`.
///
/// # Errors
/// What `work` fails with, or [`ApiError::Internal`] if it panics.
pub async fn blocking<T: Send + 'static>(
    deadline: Arc<Deadline>,
    work: impl FnOnce(&Deadline) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let guard = CancelOnDrop(Arc::clone(&deadline));
    let result = tokio::task::spawn_blocking(move || work(&deadline)).await;
    drop(guard);
    result.unwrap_or_else(|error| {
        tracing::error!(err = %error, "work for a request panicked");
        Err(ApiError::Internal("internal error; the server's log says more".to_owned()))
    })
}

/// Waits for a permit of the query gate until the deadline.
///
/// # Errors
/// The query's timeout, with Prometheus's words for waiting in the queue.
pub async fn enter_gate(
    gate: &Arc<tokio::sync::Semaphore>,
    deadline: &Deadline,
) -> Result<tokio::sync::OwnedSemaphorePermit, ApiError> {
    let queue = "query queue".to_owned();
    let until = tokio::time::Instant::from_std(deadline.until());
    match tokio::time::timeout_at(until, Arc::clone(gate).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) => Err(QueryError::Cancelled(queue).into()),
        Err(_) => Err(QueryError::Timeout(queue).into()),
    }
}

/// The context of a label look-up: a deadline, and memory up to a limit.
#[derive(Debug)]
pub struct LookupContext<'d> {
    deadline: &'d Deadline,
    limit_bytes: usize,
    used_bytes: AtomicUsize,
    symbols: SymbolTable,
}

impl<'d> LookupContext<'d> {
    /// A context with the memory limit of a query.
    pub fn new(deadline: &'d Deadline, limit_bytes: usize) -> Self {
        Self { deadline, limit_bytes, used_bytes: AtomicUsize::new(0), symbols: SymbolTable::new() }
    }
}

impl QueryContext for LookupContext<'_> {
    fn check(&self) -> Result<(), Stop> {
        self.deadline.check()
    }

    fn charge(&self, size_bytes: usize) -> Result<(), Stop> {
        let used = self.used_bytes.fetch_add(size_bytes, Ordering::Relaxed).saturating_add(size_bytes);
        if used <= self.limit_bytes {
            return Ok(());
        }
        self.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
        Err(Stop::OverBudget(format!(
            "the look-up would take more memory than the limit of {} bytes for one query (--query.max-memory)",
            self.limit_bytes
        )))
    }

    fn release(&self, size_bytes: usize) {
        self.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
    }

    fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }
}
