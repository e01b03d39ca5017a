//! The threads of the store: one seals, watches the log and enforces retention; one compacts; both
//! run one loop and end when the store closes. A third one reads ahead when it is told to ([`super::ahead`]).

use super::Inner;
use super::compact::Compacted;
use crate::error::error_chain;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the sealer looks whether a table is due.
const TICK: Duration = Duration::from_secs(1);
/// How often a failed seal or recovery of the log is tried again, whatever the disk says.
const RETRY: Duration = Duration::from_secs(5);
/// How often the disk is asked for its free space after a failure: a call of a microsecond.
const WATCH: Duration = Duration::from_millis(200);
/// By how much the free space must have grown since a failure to try again early: far below what a seal
/// writes, above what logs of other programs come and go by.
const GROWN_BYTES: u64 = 1 << 20;
/// How often retention is enforced and the ballast checked.
const RETENTION_EVERY: Duration = Duration::from_secs(60);
/// How long compaction pauses when there is nothing to merge.
const COMPACT_EVERY: Duration = Duration::from_secs(30);
/// How long compaction pauses after a failure.
const COMPACT_RETRY: Duration = Duration::from_secs(300);

/// Wakes a thread before its time.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub fn set(&self) {
        *self.is_set.lock() = true;
        self.changed.notify_all();
    }

    fn wait(&self, timeout: Duration) {
        let mut is_set = self.is_set.lock();
        if !*is_set {
            self.changed.wait_for(&mut is_set, timeout);
        }
        *is_set = false;
    }
}

/// Starts the threads.
pub(crate) fn start(inner: &Arc<Inner>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let spawn = |name: &str, run: fn(&Inner)| {
        let inner = Arc::clone(inner);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&inner))
    };
    Ok(vec![spawn("sealer", run_sealer)?, spawn("compactor", run_compactor)?])
}

/// Asks the threads to end; they do after the step they are in.
pub(crate) fn shut_down(inner: &Inner) {
    inner.interrupts.stop();
    inner.sealer.set();
    inner.compactor.set();
}

/// When sealing failed last, and how much space was free then.
struct Failure {
    at: Instant,
    free_bytes: Option<u64>,
}

impl Failure {
    /// Whether to try again: after some time, or once there is more space. Never sooner than after
    /// [`WATCH`], so that a disk on which space comes and goes does not have everything sealed in vain in a loop.
    fn is_over(&self, now: Instant, free_bytes: impl FnOnce() -> Option<u64>) -> bool {
        let waited = now.saturating_duration_since(self.at);
        let has_grown = || match (self.free_bytes, free_bytes()) {
            (Some(before), Some(free)) => free >= before.saturating_add(GROWN_BYTES),
            _ => false,
        };
        waited >= RETRY || waited >= WATCH && has_grown()
    }
}

fn run_sealer(inner: &Inner) {
    let mut retention_at = Instant::now();
    let mut rank_at = Instant::now();
    let mut failure: Option<Failure> = None;
    while !inner.interrupts.is_stopped() {
        let free_bytes = || inner.ballast.free_bytes();
        if failure.as_ref().is_none_or(|failure| failure.is_over(Instant::now(), free_bytes)) {
            let failed = !inner.seal_due();
            failure = failed.then(|| Failure { at: Instant::now(), free_bytes: free_bytes() });
        }
        inner.reap();
        if Instant::now() >= rank_at {
            inner.tables.rank_ahead();
            rank_at = Instant::now() + TICK;
        }
        if Instant::now() >= retention_at {
            inner.enforce_retention();
            if inner.unavailable.lock().is_none() {
                inner.ballast.take();
            }
            retention_at = Instant::now() + RETENTION_EVERY;
        }
        match failure {
            // Refused appends set the signal, many a second.
            Some(_) => std::thread::sleep(WATCH),
            None => inner.sealer.wait(TICK),
        }
    }
}

fn run_compactor(inner: &Inner) {
    inner.store.open_files(&|| !inner.interrupts.is_stopped());
    while !inner.interrupts.is_stopped() {
        let pause = match inner.compact_once() {
            Ok(Compacted::Done | Compacted::Overtaken) => continue,
            Ok(Compacted::Nothing) => COMPACT_EVERY,
            Err(_) => COMPACT_RETRY,
        };
        inner.compactor.wait(pause);
    }
}

impl Inner {
    /// Seals what is due; with a broken log everything, and opens a new log then. False if that failed
    /// and has to be tried again.
    pub fn seal_due(&self) -> bool {
        if let Some(reason) = self.tables.broken() {
            return self.recover_log(&reason);
        }
        let is_due = self.tables.due();
        let sealed = if is_due { self.seal_frozen() } else { Ok(()) };
        match sealed {
            Ok(()) => {
                *self.unavailable.lock() = None;
                if is_due {
                    self.compactor.set();
                }
                true
            }
            Err(error) => {
                self.make_room();
                tracing::error!(error = error_chain(&error), "sealing failed, trying again");
                false
            }
        }
    }

    /// Memory is never behind the log, so what is in memory is all that was acknowledged: once it is in
    /// blocks, a new log can begin.
    fn recover_log(&self, reason: &str) -> bool {
        let is_new = self.unavailable.lock().replace(reason.to_owned()).is_none();
        if is_new {
            tracing::error!(reason, "the log failed: samples are refused until memory is sealed into blocks");
        }
        let result = self.flush().and_then(|()| self.tables.reopen());
        match result {
            Ok(()) => {
                *self.unavailable.lock() = None;
                tracing::info!("memory is sealed into blocks and a new log is open: samples are taken again");
                true
            }
            Err(error) => {
                self.make_room();
                tracing::error!(error = error_chain(&error), "cannot take samples yet, trying again soon");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_over_after_a_while_or_with_more_space() {
        let at = Instant::now();
        let failure = Failure { at, free_bytes: Some(4096) };
        let free = |bytes| move || Some(bytes);
        assert!(!failure.is_over(at + WATCH, free(4096)));
        assert!(!failure.is_over(at + WATCH, free(GROWN_BYTES)));
        assert!(failure.is_over(at + WATCH, free(GROWN_BYTES + 4096)));
        assert!(!failure.is_over(at + WATCH / 2, free(u64::MAX)));
        assert!(failure.is_over(at + RETRY, free(0)));
        // A file system that does not tell.
        assert!(!failure.is_over(at + WATCH, || None));
        assert!(failure.is_over(at + RETRY, || None));
        assert!(!Failure { at, free_bytes: None }.is_over(at + WATCH, free(1 << 40)));
    }
}
