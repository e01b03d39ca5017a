//! Running what blocks: on threads apart from those that serve connections, with a deadline, stopped
//! when the client goes away.

use super::error::ApiError;
use crate::query_memory;
use chronolith_model::queryable::{QueryContext, Stop};
use chronolith_model::symbols::SymbolTable;
use chronolith_query::{Control, Engine, MemoryAccount, QueryError, Usage};
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore};
use xxhash_rust::xxh3::xxh3_64_with_seed;

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
static THREADS: LazyLock<Runtime> = LazyLock::new(|| threads(&mut Builder::new_multi_thread()));

/// The thread that is asked first: requests that come one after the other find its caches and its part of the
/// allocator's memory warm, where a pool takes another thread for each. It stays from a dashboard's refresh to the next.
static FIRST: LazyLock<Runtime> = LazyLock::new(|| {
    let kept = Duration::from_secs(86_400);
    threads(Builder::new_multi_thread().max_blocking_threads(1).thread_keep_alive(kept))
});

/// Whether that thread has nothing to do.
static IS_FREE: Semaphore = Semaphore::const_new(1);

/// A thread for tasks, which watch over answers, and those that block.
fn threads(builder: &mut Builder) -> Runtime {
    builder
        .worker_threads(1)
        .thread_name("api-work")
        .on_thread_start(start_thread)
        .enable_time()
        .build()
        .expect("the system gives threads to a process that just started")
}

/// How much less of a processor a thread that answers queries gets where others want it, too: an eighth, as
/// `nice` counts.
const NICENESS: i32 = 9;

/// What threads that answer queries begin with: a lower priority, and the memory they share.
pub fn start_thread() {
    give_way();
    query_memory::share();
}

/// Lowers the priority of the calling thread: others get more of the processors, and it does not take one from them when
/// it wakes up.
fn give_way() {
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
    let place = IS_FREE.try_acquire().ok();
    let threads = if place.is_some() { &FIRST } else { &THREADS };
    let result = threads
        .spawn_blocking(move || {
            let _place = place;
            work(&deadline)
        })
        .await;
    // The answer may still have a way to go.
    guard.0 = None;
    result.unwrap_or_else(|error| Err(panicked(&error)))
}

/// Microseconds. Work that took no longer the last time is done where it is: to hand it to another thread and back costs
/// a third of what small alerts and look-ups take, and others wait no longer than a slice of the scheduler.
const IN_PLACE_AT_MOST_US: u16 = 1_000;

/// How long work took when it was done last, for what is asked again and again.
pub struct ShortWork {
    /// The upper 48 bits of a hash of what it is, and microseconds. What falls into the place of something else
    /// replaces it.
    took: [AtomicU64; 1024],
}

impl Default for ShortWork {
    fn default() -> Self {
        Self { took: [const { AtomicU64::new(0) }; 1024] }
    }
}

impl ShortWork {
    fn is_short(&self, key: u64) -> bool {
        let known = self.took[key as usize % self.took.len()].load(Ordering::Relaxed);
        known >> 16 == key >> 16 && known & 0xffff <= u64::from(IN_PLACE_AT_MOST_US)
    }

    fn took(&self, key: u64, time: Duration) {
        let micros = time.as_micros().min(0xffff) as u64;
        self.took[key as usize % self.took.len()].store(key & !0xffff | micros, Ordering::Relaxed);
    }
}

/// A key of work for [`blocking_unless_short`], of what tells it apart.
pub fn key_of<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> u64 {
    parts.into_iter().fold(0, |key, part| xxh3_64_with_seed(part, key))
}

/// As [`blocking`], but what took little time when it was done last is done on this thread, if there are threads left
/// (`at_once`). `key` is [`key_of`] what is done.
///
/// # Errors
/// As [`blocking`].
pub async fn blocking_unless_short<T: Send + 'static>(
    short: &ShortWork,
    at_once: &Semaphore,
    key: u64,
    deadline: Arc<Deadline>,
    work: impl FnOnce(&Deadline) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let timed = move |deadline: &Deadline| {
        let started = Instant::now();
        let result = work(deadline);
        Ok((result, started.elapsed()))
    };
    let place = if short.is_short(key) { at_once.try_acquire().ok() } else { None };
    let done = match place {
        None => blocking(deadline, timed).await,
        Some(_place) => std::panic::catch_unwind(AssertUnwindSafe(|| timed(&deadline)))
            .unwrap_or_else(|_| Err(panicked(&"on a thread of connections"))),
    };
    let (result, took) = done?;
    short.took(key, took);
    result
}

fn panicked(error: &dyn Display) -> ApiError {
    tracing::error!(err = %error, "work for a request panicked");
    ApiError::Internal("internal error; the server's log says more".to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::ThreadId;

    /// Work of which nobody knows that it is short is not done here, whatever the machine does meanwhile.
    const KEY: u64 = 0x1234_5678_0000;

    async fn thread_of(short: &ShortWork, at_once: &Semaphore, key: u64, takes: Duration) -> ThreadId {
        let work = move |_: &Deadline| {
            std::thread::sleep(takes);
            Ok(std::thread::current().id())
        };
        let deadline = Deadline::after(Duration::from_secs(60));
        blocking_unless_short(short, at_once, key, deadline, work).await.unwrap()
    }

    #[tokio::test]
    async fn work_that_was_short_is_done_in_place_until_it_takes_longer() {
        let (short, at_once) = (ShortWork::default(), Semaphore::new(1));
        let here = std::thread::current().id();
        assert_ne!(thread_of(&short, &at_once, KEY, Duration::ZERO).await, here, "it was never done");
        short.took(KEY, Duration::ZERO);
        assert_ne!(
            thread_of(&short, &at_once, KEY + (1 << 32), Duration::ZERO).await,
            here,
            "something else"
        );
        short.took(KEY, Duration::ZERO);
        assert_eq!(thread_of(&short, &at_once, KEY, Duration::from_millis(2)).await, here);
        assert_ne!(thread_of(&short, &at_once, KEY, Duration::ZERO).await, here, "it took long");
        short.took(KEY, Duration::ZERO);
        let place = at_once.acquire().await.unwrap();
        assert_ne!(thread_of(&short, &at_once, KEY, Duration::ZERO).await, here, "no thread is left");
        drop(place);
    }

    #[tokio::test]
    async fn work_behind_long_work_does_not_wait_for_it() {
        let (started, has_started) = tokio::sync::oneshot::channel();
        let (end, ends) = std::sync::mpsc::channel();
        let deadline = Deadline::after(Duration::from_secs(60));
        let long = tokio::spawn(blocking(deadline, move |_| {
            started.send(std::thread::current().id()).unwrap();
            ends.recv().unwrap();
            Ok(())
        }));
        let busy = has_started.await.unwrap();
        let (short, at_once) = (ShortWork::default(), Semaphore::new(1));
        for key in [KEY, KEY + (1 << 32)] {
            assert_ne!(thread_of(&short, &at_once, key, Duration::ZERO).await, busy);
        }
        end.send(()).unwrap();
        long.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn work_in_place_that_panics_is_an_error_and_leaves_its_place() {
        let (short, at_once) = (ShortWork::default(), Semaphore::new(1));
        short.took(KEY, Duration::ZERO);
        let fails = |_: &Deadline| -> Result<(), ApiError> { panic!("for the test") };
        let deadline = Deadline::after(Duration::from_secs(60));
        let failed = blocking_unless_short(&short, &at_once, KEY, deadline, fails).await;
        assert!(matches!(failed, Err(ApiError::Internal(_))));
        assert_eq!(at_once.available_permits(), 1);
    }
}
