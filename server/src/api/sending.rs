//! Answers on their way to clients.
//!
//! What a query takes is bounded while it runs; its answer still lies in memory until the client has
//! read it. Large answers of queries and look-ups are therefore written piece by piece while they are
//! read, from results that stay charged to the engine's memory until then. Other large answers are
//! counted together and refused when they would take more than running queries may. All are given up
//! when their client reads nothing for a while.

use super::error::ApiError;
use super::work::Deadline;
use crate::state::State;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chronolith_query::QueryError;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// Smaller answers are written whole and not counted: connections are limited, too.
pub const LARGE_BYTES: usize = 256 << 10;
/// What is handed to a connection at once. Writing it takes less than a millisecond, so the thread that
/// does it is soon there for others.
pub const PIECE_BYTES: usize = 64 << 10;
/// A client that has read nothing for so long gets no more.
const STALLED: Duration = Duration::from_secs(60);

/// An answer that is written piece by piece.
pub trait Render: Send + 'static {
    /// Appends the next piece, some [`PIECE_BYTES`] of it; false once the answer is whole. Cheap, and
    /// cannot fail: what can go wrong has to go wrong before the first piece.
    fn render(&mut self, out: &mut Vec<u8>) -> bool;
}

/// A JSON answer, as [`respond_as`].
pub fn respond(answer: impl Render, deadline: Option<Arc<Deadline>>) -> Response {
    respond_as(answer, deadline, HeaderValue::from_static("application/json"))
}

/// An answer: at once if it is small, else while the client reads it, until `deadline` is cancelled.
/// Called on a thread that may block, inside the runtime.
pub fn respond_as(
    mut answer: impl Render,
    deadline: Option<Arc<Deadline>>,
    content_type: HeaderValue,
) -> Response {
    let mut first = Vec::with_capacity(1024);
    let mut more = true;
    while more && first.len() < LARGE_BYTES {
        more = answer.render(&mut first);
    }
    let body = if more { stream(first, Box::new(answer), deadline, STALLED) } else { Body::from(first) };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Bytes of large answers that lie in memory as they are sent.
#[derive(Debug, Default)]
pub struct Sending(AtomicUsize);

impl Sending {
    /// Counts an answer, unless it makes more than `limit` together with others. One answer alone
    /// always goes.
    fn hold(self: &Arc<Self>, size_bytes: usize, limit: usize) -> Option<Held> {
        let counted = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let sum = used.saturating_add(size_bytes);
            (used == 0 || sum <= limit).then_some(sum)
        });
        counted.ok().map(|_| Held { sending: Arc::clone(self), size_bytes })
    }
}

/// The share of one answer; given back when dropped.
#[derive(Debug)]
struct Held {
    sending: Arc<Sending>,
    size_bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.sending.0.fetch_sub(self.size_bytes, Ordering::Relaxed);
    }
}

/// An answer that is there already, handed out as copies: a slice would keep the whole.
struct Whole {
    bytes: Bytes,
    at: usize,
    _held: Held,
}

impl Render for Whole {
    fn render(&mut self, out: &mut Vec<u8>) -> bool {
        let end = self.bytes.len().min(self.at + PIECE_BYTES);
        out.extend_from_slice(&self.bytes[self.at..end]);
        self.at = end;
        end < self.bytes.len()
    }
}

/// What is left of an answer.
struct Rest {
    answer: Box<dyn Render>,
    n_pieces: u64,
    /// Goes with the rest, and tells the task that watches over it.
    _watched: oneshot::Sender<Infallible>,
}

/// An answer in pieces. The rest is shared with the task that watches over it.
struct Pieces {
    first: Vec<u8>,
    rest: Arc<Mutex<Option<Rest>>>,
    is_whole: bool,
    /// Bytes left, where that is known.
    left: Option<u64>,
}

/// The client did not read on, or somebody ended the query.
#[derive(Debug, thiserror::Error)]
#[error("the rest of the answer was given up")]
struct GaveUp;

fn stream(
    first: Vec<u8>,
    answer: Box<dyn Render>,
    deadline: Option<Arc<Deadline>>,
    stalled: Duration,
) -> Body {
    Body::new(pieces(first, answer, None, deadline, stalled))
}

fn pieces(
    first: Vec<u8>,
    answer: Box<dyn Render>,
    left: Option<u64>,
    deadline: Option<Arc<Deadline>>,
    stalled: Duration,
) -> Pieces {
    let (watched, gone) = oneshot::channel();
    let rest = Arc::new(Mutex::new(Some(Rest { answer, n_pieces: 0, _watched: watched })));
    tokio::spawn(watch(Arc::downgrade(&rest), gone, deadline, stalled));
    Pieces { first, rest, is_whole: false, left }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = GaveUp;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GaveUp>>> {
        let mut piece = std::mem::take(&mut self.first);
        while piece.is_empty() && !self.is_whole {
            let more = {
                let mut slot = self.rest.lock();
                let Some(rest) = slot.as_mut() else { return Poll::Ready(Some(Err(GaveUp))) };
                rest.n_pieces += 1;
                piece.reserve(PIECE_BYTES + PIECE_BYTES / 16);
                let more = rest.answer.render(&mut piece);
                if !more {
                    *slot = None;
                }
                more
            };
            self.is_whole = !more;
        }
        if piece.is_empty() {
            return Poll::Ready(None);
        }
        self.left = self.left.map(|left| left - piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole && self.first.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        give_up(&self.rest);
    }
}

/// Frees what is left of an answer: elsewhere, as it may be millions of allocations.
fn give_up(rest: &Mutex<Option<Rest>>) {
    let Some(rest) = rest.lock().take() else { return };
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(move || drop(rest));
    }
}

/// Takes an answer away from a client that stalls, and when it is cancelled. Ends as soon as the answer is `gone`, because it
/// was read or its client went away: the deadline knows the memory of the query, which stays charged until then.
async fn watch(
    rest: Weak<Mutex<Option<Rest>>>,
    mut gone: oneshot::Receiver<Infallible>,
    deadline: Option<Arc<Deadline>>,
    stalled: Duration,
) {
    let cancelled = async {
        match &deadline {
            Some(deadline) => deadline.cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(cancelled);
    let mut before = None;
    loop {
        let is_cancelled = tokio::select! {
            () = tokio::time::sleep(stalled) => false,
            () = &mut cancelled => true,
            _ = &mut gone => return,
        };
        let Some(rest) = rest.upgrade() else { return };
        let n_pieces = rest.lock().as_ref().map(|rest| rest.n_pieces);
        if n_pieces.is_none() {
            return;
        }
        if is_cancelled || n_pieces == before {
            tracing::debug!(cancelled = is_cancelled, "the rest of an answer was given up");
            give_up(&rest);
            return;
        }
        before = n_pieces;
    }
}

/// Bounds the memory of large answers that are written whole. Lies inside compression, where such
/// answers have a known size.
pub async fn bound(state: &State, response: Response) -> Response {
    let limit = state.settings.total_query_memory_bytes;
    bound_response(response, &state.sending, limit, STALLED).await
}

async fn bound_response(
    response: Response,
    sending: &Arc<Sending>,
    limit: usize,
    stalled: Duration,
) -> Response {
    let size = response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok());
    let Some(size_bytes) = size.filter(|size| *size > LARGE_BYTES + PIECE_BYTES) else { return response };
    let Some(held) = sending.hold(size_bytes, limit) else {
        return ApiError::from(QueryError::OverBudget(format!(
            "answers on their way to clients would take more memory than the limit of {limit} bytes (--query.max-total-memory)"
        )))
        .into_response();
    };
    let (parts, body) = response.into_parts();
    // A body of known size is one piece of memory already; this hands it over.
    let bytes: Bytes = match to_bytes(body, size_bytes).await {
        Ok(bytes) => bytes,
        Err(error) => return ApiError::Internal(error.to_string()).into_response(),
    };
    let left = Some(bytes.len() as u64);
    let whole = Whole { bytes, at: 0, _held: held };
    Response::from_parts(parts, Body::new(pieces(Vec::new(), Box::new(whole), left, None, stalled)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn answer(sending: &Arc<Sending>, size: usize, limit: usize, stalled: Duration) -> Response {
        bound_response(Response::new(Body::from(vec![b'x'; size])), sending, limit, stalled).await
    }

    /// Writes a thousand bytes at a time, and counts how often.
    struct Counting {
        left: usize,
        written: Arc<AtomicUsize>,
    }

    impl Render for Counting {
        fn render(&mut self, out: &mut Vec<u8>) -> bool {
            out.resize(out.len() + 1000, b'x');
            self.written.fetch_add(1000, Ordering::Relaxed);
            self.left -= 1;
            self.left > 0
        }
    }

    #[tokio::test]
    async fn large_answers_arrive_whole_and_are_counted_until_then() {
        let sending = Arc::<Sending>::default();
        let response = answer(&sending, 1 << 20, 2 << 20, MINUTE).await;
        assert_eq!(sending.0.load(Ordering::Relaxed), 1 << 20);
        assert_eq!(response.body().size_hint().exact(), Some(1 << 20));
        // A second one fits, a third does not.
        let second = answer(&sending, 1 << 20, 2 << 20, MINUTE).await;
        assert_eq!(answer(&sending, 1 << 20, 2 << 20, MINUTE).await.status(), 422);
        assert_eq!(answer(&sending, 1000, 2 << 20, MINUTE).await.status(), 200);
        drop(second);
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!((bytes.len(), bytes.iter().all(|byte| *byte == b'x')), (1 << 20, true));
        while sending.0.load(Ordering::Relaxed) != 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Alone it goes, however large.
        assert_eq!(answer(&sending, 3 << 20, 2 << 20, MINUTE).await.status(), 200);
    }

    #[tokio::test]
    async fn answers_are_written_as_they_are_read() {
        let written = Arc::<AtomicUsize>::default();
        let small = respond(Counting { left: 10, written: Arc::clone(&written) }, None);
        assert_eq!(small.body().size_hint().exact(), Some(10_000));
        written.store(0, Ordering::Relaxed);
        let large = respond(Counting { left: 5000, written: Arc::clone(&written) }, None);
        assert_eq!(large.body().size_hint().exact(), None);
        assert!(written.load(Ordering::Relaxed) < LARGE_BYTES + PIECE_BYTES);
        assert_eq!(to_bytes(large.into_body(), usize::MAX).await.unwrap().len(), 5_000_000);
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_loses_its_answer() {
        let sending = Arc::<Sending>::default();
        let response = answer(&sending, 1 << 20, 2 << 20, Duration::from_millis(10)).await;
        for _ in 0..200 {
            if sending.0.load(Ordering::Relaxed) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(sending.0.load(Ordering::Relaxed), 0);
        assert!(to_bytes(response.into_body(), usize::MAX).await.is_err());
    }

    #[tokio::test]
    async fn the_deadline_goes_with_the_answer() {
        for is_read in [true, false] {
            let deadline = Deadline::after(MINUTE);
            let answer = Counting { left: 5000, written: Arc::default() };
            let response = respond(answer, Some(Arc::clone(&deadline)));
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(Arc::strong_count(&deadline) > 1);
            match is_read {
                true => {
                    assert_eq!(to_bytes(response.into_body(), usize::MAX).await.unwrap().len(), 5_000_000)
                }
                false => drop(response),
            }
            let wait = async {
                while Arc::strong_count(&deadline) > 1 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(MINUTE / 6, wait).await.expect("long before a client counts as stalled");
        }
    }

    #[tokio::test]
    async fn what_is_cancelled_is_given_up_at_once() {
        let deadline = Deadline::after(MINUTE);
        let written = Arc::<AtomicUsize>::default();
        let response =
            respond(Counting { left: 5000, written: Arc::clone(&written) }, Some(Arc::clone(&deadline)));
        deadline.cancel();
        while Arc::strong_count(&written) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(to_bytes(response.into_body(), usize::MAX).await.is_err());
    }
}
