//! The threads of the store: one seals, watches the log and enforces retention; one compacts. Both
//! run one loop and end when the store closes.

use super::Inner;
use super::compact::Compacted;
use crate::error::error_chain;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the sealer looks whether a table is due.
const TICK: Duration = Duration::from_secs(1);
/// How often a failed recovery of the log is tried again.
const RETRY: Duration = Duration::from_secs(5);
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

fn run_sealer(inner: &Inner) {
    let mut retention_at = Instant::now();
    let mut retry_at = Instant::now();
    while !inner.interrupts.is_stopped() {
        if Instant::now() >= retry_at && !inner.seal_due() {
            retry_at = Instant::now() + RETRY;
        }
        inner.reap();
        if Instant::now() >= retention_at {
            inner.enforce_retention();
            if inner.unavailable.lock().is_none() {
                inner.ballast.take();
            }
            retention_at = Instant::now() + RETENTION_EVERY;
        }
        inner.sealer.wait(TICK);
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
                tracing::error!(error = error_chain(&error), "cannot take samples yet, trying again in 5 s");
                false
            }
        }
    }
}
