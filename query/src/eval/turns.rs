//! Work that threads do in any order, and whose results one of them at a time takes in order.
//!
//! Whoever has the result that is next takes it, and all behind it that are there, while the others work on: rows are
//! folded in series order by the worker that has just made them, whose cache still has them. The caller only waits.
//! Nothing is done far ahead of what was taken.

use crate::error::QueryError;
use parking_lot::Mutex;
use rayon::Scope;
use std::collections::VecDeque;

/// Pieces of work for each thread that are under way or wait to be taken.
pub(super) const AHEAD_PER_THREAD: usize = 2;

type Result<T> = std::result::Result<T, QueryError>;
type Work<'t, T> = dyn Fn(usize) -> Result<T> + Sync + 't;
pub(super) type Take<'t, T> = dyn FnMut(Result<T>) -> Result<()> + Send + 't;

/// Does `n` pieces of work on `threads` workers and hands the results to `take` in order, up to the first error, that
/// of a result or of `take` itself.
pub(super) fn in_turn<'t, T: Send + 't>(
    pool: &rayon::ThreadPool,
    threads: usize,
    n: usize,
    work: &'t Work<'t, T>,
    take: &'t mut Take<'t, T>,
) -> Result<()> {
    let state = State {
        n_begun: 0,
        n_taken: 0,
        waiting: VecDeque::new(),
        is_taking: false,
        n_threads: threads,
        error: None,
    };
    let turns = Turns { threads, n, work, take: Mutex::new(take), state: Mutex::new(state) };
    pool.in_place_scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|scope| turns.go_on(scope));
        }
    });
    turns.state.into_inner().error.map_or(Ok(()), Err)
}

struct Turns<'t, T> {
    threads: usize,
    n: usize,
    work: &'t Work<'t, T>,
    /// Locked by the thread that has the turn, so never waited for.
    take: Mutex<&'t mut Take<'t, T>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    n_begun: usize,
    n_taken: usize,
    /// The results behind those that were taken, as far as they are there; the first one stays as an empty place while
    /// it is being taken.
    waiting: VecDeque<Option<Result<T>>>,
    is_taking: bool,
    /// Threads that go on.
    n_threads: usize,
    error: Option<QueryError>,
}

impl<T: Send> Turns<'_, T> {
    /// What one thread does.
    fn go_on<'s>(&'s self, scope: &Scope<'s>) {
        let mut state = self.state.lock();
        loop {
            let is_far_ahead = state.n_begun - state.n_taken >= AHEAD_PER_THREAD * self.threads;
            if state.n_begun == self.n || is_far_ahead || state.error.is_some() {
                state.n_threads -= 1;
                return;
            }
            let at = state.n_begun;
            state.n_begun += 1;
            drop(state);
            let result = (self.work)(at);
            state = self.state.lock();
            let place = at - state.n_taken;
            if state.waiting.len() <= place {
                state.waiting.resize_with(place + 1, || None);
            }
            state.waiting[place] = Some(result);
            // Whoever has the turn sees it afterwards.
            while !state.is_taking
                && let Some(result) = state.waiting.front_mut().and_then(Option::take)
            {
                state.is_taking = true;
                drop(state);
                let taken = (self.take.lock())(result);
                state = self.state.lock();
                state.is_taking = false;
                if let Err(error) = taken {
                    state.error = Some(error);
                    break;
                }
                state.waiting.pop_front();
                state.n_taken += 1;
                // For threads that were too far ahead. One at a time, and not for every result: waking it costs.
                let is_behind = state.waiting.len() <= self.threads && state.n_begun < self.n;
                if is_behind && state.n_threads < self.threads {
                    state.n_threads += 1;
                    scope.spawn(|scope| self.go_on(scope));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn results_are_taken_in_order_and_not_far_behind() {
        for threads in [2, 3, 8] {
            let (begun, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let work = |at: usize| {
                let ahead = begun.fetch_add(1, Ordering::SeqCst) - taken.load(Ordering::SeqCst);
                assert!(ahead < AHEAD_PER_THREAD * threads, "{ahead}");
                if at.is_multiple_of(7) {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Ok(at)
            };
            let mut all = Vec::new();
            let mut take = |result: Result<usize>| {
                if all.len().is_multiple_of(5) {
                    std::thread::sleep(Duration::from_micros(300));
                }
                all.push(result?);
                taken.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            in_turn(&pool(threads), threads, 200, &work, &mut take).unwrap();
            assert_eq!(all, Vec::from_iter(0..200));
        }
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let error = |at: usize| QueryError::execution(format!("{at}"));
        // The later of the two fails first.
        let work = |at: usize| match at {
            20 => {
                std::thread::sleep(Duration::from_millis(5));
                Err(error(20))
            }
            21 => Err(error(21)),
            at => Ok(at),
        };
        for fails_at in [None, Some(0), Some(19)] {
            let mut all = Vec::new();
            let mut take = |result: Result<usize>| {
                let at = result?;
                all.push(at);
                if fails_at == Some(at) { Err(error(at)) } else { Ok(()) }
            };
            let result = in_turn(&pool(3), 3, 100, &work, &mut take);
            assert_eq!(result, Err(error(fails_at.unwrap_or(20))));
            assert_eq!(all, Vec::from_iter(0..fails_at.map_or(20, |at| at + 1)));
        }
    }
}
