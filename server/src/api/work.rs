//! Running what blocks: on threads apart from those that serve connections, with a deadline, stopped
//! when the client goes away.

use super::error::ApiError;
use chronolith_model::queryable::{QueryContext, Stop};
use chronolith_model::symbols::SymbolTable;
use chronolith_query::{Control, Engine, MemoryAccount, QueryError, Usage};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// Tells a running query whether to go on, and others what it holds.
#[derive(Debug)]
pub struct Deadline {
    until: Instant,
    cancelled: AtomicBool,
    told: Notify,
    usage: OnceLock<Usage>,
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

    fn started(&self, usage: Usage) {
        // A deadline is that of one query.
        let _ = self.usage.set(usage);
    }
}

impl Deadline {
    /// A deadline that is `timeout` away.
    pub fn after(timeout: Duration) -> Arc<Self> {
        let now = Instant::now();
        let until = now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365));
        let (told, usage) = (Notify::new(), OnceLock::new());
        Arc::new(Self { until, cancelled: AtomicBool::new(false), told, usage })
    }

    /// When the time is up.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// What the query holds, once it runs.
    pub fn usage(&self) -> Option<&Usage> {
        self.usage.get()
    }

    /// Ends the work, whether it waits, runs or is being sent.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    /// Returns once the work was cancelled.
    pub async fn cancelled(&self) {
        let told = self.told.notified();
        tokio::pin!(told);
        // From here on a notification is not missed.
        told.as_mut().enable();
        if !self.cancelled.load(Ordering::Relaxed) {
            told.await;
        }
    }
}

/// Cancels the work when the future that holds this is dropped: the client went away.
struct CancelOnDrop(Option<Arc<Deadline>>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(deadline) = self.0.take() {
            deadline.cancel();
        }
    }
}

/// Threads for what blocks. Those of connections, scrapes and writes come first: a server that is asked more
/// than it can answer still takes samples and says that it is well.
static THREADS: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("api-work")
        .on_thread_start(give_way)
        .enable_time()
        .build()
        .expect("the system gives threads to a process that just started")
});

/// How much less of a processor a thread that answers queries gets where others want it, too: an eighth, as
/// `nice` counts.
const NICENESS: i32 = 9;

/// Lowers the priority of the calling thread: others get more of the processors, and it does not take one from them when
/// it wakes up.
pub fn give_way() {
    // On Linux both are the thread's, not the process's. Where they are not allowed, nothing is lost.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    #[cfg(target_os = "linux")]
    {
        let priority = libc::sched_param { sched_priority: 0 };
        // SAFETY: the call reads one `sched_param`, which lives until it returns, and 0 is the calling thread.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) };
    }
}

/// Runs `work` on a thread that may block, apart from those of connections; the client going away cancels `deadline`.
///
/// # Errors
/// What `work` fails with, or [`ApiError::Internal`] if it panics.
pub async fn blocking<T: Send + 'static>(
    deadline: Arc<Deadline>,
    work: impl FnOnce(&Deadline) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let mut guard = CancelOnDrop(Some(Arc::clone(&deadline)));
    let result = THREADS.spawn_blocking(move || work(&deadline)).await;
    // The answer may still have a way to go.
    guard.0 = None;
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
    let queue = || "query queue".to_owned();
    let until = tokio::time::Instant::from_std(deadline.until());
    tokio::select! {
        biased;
        () = deadline.cancelled() => Err(QueryError::Cancelled(queue()).into()),
        entered = tokio::time::timeout_at(until, Arc::clone(gate).acquire_owned()) => match entered {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(QueryError::Cancelled(queue()).into()),
            Err(_) => Err(QueryError::Timeout(queue()).into()),
        },
    }
}

/// The context of a label look-up: a deadline, and memory under the limits of queries.
#[derive(Debug)]
pub struct LookupContext<'d> {
    deadline: &'d Deadline,
    memory: MemoryAccount,
    symbols: SymbolTable,
}

impl<'d> LookupContext<'d> {
    /// A context with an account of its own.
    pub fn new(deadline: &'d Deadline, engine: &Engine) -> Self {
        Self { deadline, memory: engine.memory_account(), symbols: SymbolTable::new() }
    }

    /// The account, for the result to keep.
    pub fn into_memory(self) -> MemoryAccount {
        self.memory
    }
}

impl QueryContext for LookupContext<'_> {
    fn check(&self) -> Result<(), Stop> {
        self.deadline.check()
    }

    fn charge(&self, size_bytes: usize) -> Result<(), Stop> {
        self.memory.charge(size_bytes)
    }

    fn release(&self, size_bytes: usize) {
        self.memory.release(size_bytes);
    }

    fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }
}
