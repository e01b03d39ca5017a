//! The thread that makes the log durable, so that no append waits for a sync.
//!
//! It syncs once a window. In between it looks how much was written and has the system begin with that,
//! megabyte by megabyte. Neither is done under a lock that an append needs: the files are shared with
//! appends, and the kernel lets one thread write to a file that another one syncs.

use crate::table::TableSet;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Looks between two syncs.
const LOOKS_PER_WINDOW: u32 = 10;

/// Runs until it is stopped or dropped.
pub struct Syncer {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread: a sync at least each `window`.
    ///
    /// # Errors
    /// What the system says when it has no more threads.
    pub fn start(set: Arc<TableSet>, window: Duration) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("log-sync".to_owned())
            .spawn(move || run(&set, window, &stopped))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops the thread and waits for it.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that syncs the log has panicked");
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(set: &TableSet, window: Duration, (stop, wake): &(Mutex<bool>, Condvar)) {
    let mut synced_at = Instant::now();
    let mut stopped = stop.lock();
    while !*stopped {
        wake.wait_for(&mut stopped, window / LOOKS_PER_WINDOW);
        let is_due = synced_at.elapsed() + window / LOOKS_PER_WINDOW >= window;
        parking_lot::MutexGuard::unlocked(&mut stopped, || {
            if !is_due {
                set.start_writeback();
                return;
            }
            synced_at = Instant::now();
            // A failure has marked the log as broken, which refuses appends and wakes the sealer.
            if let Err(error) = set.sync_now() {
                tracing::error!(error = crate::error::error_chain(&error), "failed to sync the log");
            }
        });
    }
}
