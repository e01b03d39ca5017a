//! Large answers on their way to clients.
//!
//! What a query takes is bounded while it runs; its answer still lies in memory until the client has
//! read it. Large answers are therefore counted together, refused when they would take more than
//! running queries may, and given up when their client reads nothing for a while.

use super::error::ApiError;
use crate::state::State as ServerState;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chronolith_query::QueryError;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Smaller answers are not counted: connections are limited, too.
const LARGE_BYTES: usize = 256 << 10;
/// What is handed to a connection at once, as a copy: a slice would keep the whole answer.
const PIECE_BYTES: usize = 128 << 10;
/// A client that has read nothing for so long gets no more.
const STALLED: Duration = Duration::from_secs(60);

/// Bytes of large answers that have not been read yet.
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

/// What is left of an answer.
struct Rest {
    bytes: Bytes,
    at: usize,
    _held: Held,
}

/// An answer in pieces. The rest is shared with the task that watches over it.
struct Pieces {
    rest: Arc<Mutex<Option<Rest>>>,
    left: u64,
}

/// The client did not read on.
#[derive(Debug, thiserror::Error)]
#[error("the client read nothing for {} seconds", STALLED.as_secs())]
struct GaveUp;

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = GaveUp;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GaveUp>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = {
            let mut slot = self.rest.lock();
            let Some(rest) = slot.as_mut() else { return Poll::Ready(Some(Err(GaveUp))) };
            let end = rest.bytes.len().min(rest.at + PIECE_BYTES);
            let piece = Bytes::copy_from_slice(&rest.bytes[rest.at..end]);
            rest.at = end;
            if end == rest.bytes.len() {
                *slot = None;
            }
            piece
        };
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Ends when the answer was read or its client went away; takes it away from a client that stalls.
async fn watch(rest: std::sync::Weak<Mutex<Option<Rest>>>, stalled: Duration) {
    let mut before = None;
    loop {
        tokio::time::sleep(stalled).await;
        let Some(rest) = rest.upgrade() else { return };
        let mut slot = rest.lock();
        let at = slot.as_ref().map(|rest| rest.at);
        if at.is_none() {
            return;
        }
        if at == before {
            tracing::debug!("a client stopped reading its answer");
            *slot = None;
            return;
        }
        before = at;
    }
}

/// Bounds the memory of large answers. Lies inside compression, where answers have a known size.
pub async fn bound(State(state): State<Arc<ServerState>>, request: Request, next: Next) -> Response {
    let limit = state.settings.total_query_memory_bytes;
    bound_response(next.run(request).await, &state.sending, limit, STALLED).await
}

async fn bound_response(
    response: Response,
    sending: &Arc<Sending>,
    limit: usize,
    stalled: Duration,
) -> Response {
    let size = response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok());
    let Some(size_bytes) = size.filter(|size| *size > LARGE_BYTES) else { return response };
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
    let left = bytes.len() as u64;
    let rest = Arc::new(Mutex::new(Some(Rest { bytes, at: 0, _held: held })));
    tokio::spawn(watch(Arc::downgrade(&rest), stalled));
    Response::from_parts(parts, Body::new(Pieces { rest, left }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(sending: &Arc<Sending>, size: usize, limit: usize, stalled: Duration) -> Response {
        bound_response(Response::new(Body::from(vec![b'x'; size])), sending, limit, stalled).await
    }

    #[tokio::test]
    async fn large_answers_arrive_whole_and_are_counted_until_then() {
        let sending = Arc::<Sending>::default();
        let minute = Duration::from_secs(60);
        let response = answer(&sending, 1 << 20, 2 << 20, minute).await;
        assert_eq!(sending.0.load(Ordering::Relaxed), 1 << 20);
        assert_eq!(response.body().size_hint().exact(), Some(1 << 20));
        // A second one fits, a third does not.
        let second = answer(&sending, 1 << 20, 2 << 20, minute).await;
        assert_eq!(answer(&sending, 1 << 20, 2 << 20, minute).await.status(), 422);
        assert_eq!(answer(&sending, 1000, 2 << 20, minute).await.status(), 200);
        drop(second);
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!((bytes.len(), bytes.iter().all(|byte| *byte == b'x')), (1 << 20, true));
        assert_eq!(sending.0.load(Ordering::Relaxed), 0);
        // Alone it goes, however large.
        assert_eq!(answer(&sending, 3 << 20, 2 << 20, minute).await.status(), 200);
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
}
