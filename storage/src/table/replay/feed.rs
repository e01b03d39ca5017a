//! Frames on their way from the thread that reads them to the workers that apply them. Every worker gets every
//! frame and takes what is of its shards.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Frames travel in batches of so many bytes: to wake a thread takes longer than to apply a small frame.
const BATCH_BYTES: usize = 256 << 10;
/// Batches that wait for a worker.
const BATCHES_IN_FLIGHT: usize = 4;

/// A decompressed frame.
pub(super) struct Frame {
    /// Where it was: the number of its segment, or for definitions the offset behind it.
    pub at: u64,
    /// Its body.
    pub body: Vec<u8>,
}

/// The sending end.
pub(super) struct Feed {
    workers: Vec<SyncSender<Arc<Vec<Frame>>>>,
    batch: Vec<Frame>,
    size_bytes: usize,
}

impl Feed {
    /// Hands a frame to all workers, at once or with the next ones.
    pub fn push(&mut self, at: u64, body: Vec<u8>) {
        self.size_bytes += body.len();
        self.batch.push(Frame { at, body });
        if self.size_bytes >= BATCH_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        self.size_bytes = 0;
        let batch = Arc::new(std::mem::take(&mut self.batch));
        for worker in &self.workers {
            // A worker ends before its sender only by a panic, which is raised when it is joined.
            let _sent = worker.send(Arc::clone(&batch));
        }
    }
}

/// Runs `work` on as many threads as said, each with all frames that `read` feeds, until those are applied.
/// Gives what `read` gave, and what the workers did in their order.
pub(super) fn run_workers<R, W: Send>(
    n_workers: usize,
    work: impl Fn(usize, Frames) -> W + Sync,
    read: impl FnOnce(&mut Feed) -> R,
) -> (R, Vec<W>) {
    std::thread::scope(|scope| {
        let mut feed = Feed { workers: Vec::new(), batch: Vec::new(), size_bytes: 0 };
        let mut workers = Vec::new();
        for worker in 0..n_workers {
            let (sender, receiver) = sync_channel(BATCHES_IN_FLIGHT);
            feed.workers.push(sender);
            let work = &work;
            workers.push(scope.spawn(move || work(worker, Frames(receiver))));
        }
        let result = read(&mut feed);
        feed.send();
        drop(feed);
        let join = |worker: std::thread::ScopedJoinHandle<'_, W>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        (result, workers.into_iter().map(join).collect())
    })
}

/// The receiving end: batches of frames in the order in which they were read.
pub(super) struct Frames(Receiver<Arc<Vec<Frame>>>);

impl Iterator for Frames {
    type Item = Arc<Vec<Frame>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.recv().ok()
    }
}
