//! Where requests come in: what holds for all of them (panics, CORS, compression, memory of large answers), and who
//! answers them.
//!
//! One function around the router instead of layers of it: a layer lies around each route, and a request clones all that lie
//! around its own, which took as long as a small answer takes.

use crate::api::{self, response, sending};
use crate::remote::direct::Direct;
use crate::state::State;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use chronolith_model::re2::Re2;
use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_http::CompressionLevel;
use tower_http::compression::Compression;
use tower_service::Service;

/// Answers every request.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    state: Arc<State>,
    direct: Direct,
    router: Router,
    cors: Cors,
}

impl Front {
    /// In front of all routes.
    pub fn new(state: Arc<State>) -> Self {
        let router = api::router(Arc::clone(&state));
        Self::with_router(state, router)
    }

    /// In front of these routes.
    pub(crate) fn with_router(state: Arc<State>, router: Router) -> Self {
        let direct = Direct::new(Arc::clone(&state));
        let cors = Cors::new(&state.settings.cors_origin);
        Self(Arc::new(Inner { state, direct, router, cors }))
    }

    /// Remote write directly, all else by the router.
    pub async fn answer(&self, request: Request) -> Response {
        if self.0.direct.takes(&request) {
            return self.0.direct.answer(request).await;
        }
        self.routed(request).await
    }

    /// By the router.
    pub(crate) async fn routed(&self, request: Request) -> Response {
        let mut answer = pin!(self.allowed(request));
        let caught =
            poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
                Ok(poll) => poll.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            });
        caught.await.unwrap_or_else(|panic| after_panic(&*panic))
    }

    /// With what a browser wants to know, if one asks.
    async fn allowed(&self, request: Request) -> Response {
        let origin = request.headers().get(header::ORIGIN).cloned();
        let response = self.compressed(request).await;
        match origin {
            Some(origin) => self.0.cors.allow(origin, response),
            None => response,
        }
    }

    async fn compressed(&self, request: Request) -> Response {
        if !request.headers().contains_key(header::ACCEPT_ENCODING) {
            return self.bounded(request).await;
        }
        let mut service = Compression::new(Uncompressed(self.clone())).quality(CompressionLevel::Fastest);
        let Ok(response) = service.call(request).await;
        response.map(Body::new)
    }

    async fn bounded(&self, request: Request) -> Response {
        let Ok(response) = self.0.router.clone().call(request).await;
        sending::bound(&self.0.state, response).await
    }
}

/// [`Front::bounded`], as the compression wants it.
struct Uncompressed(Front);

impl Service<Request> for Uncompressed {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let front = self.0.clone();
        Box::pin(async move { Ok(front.bounded(request).await) })
    }
}

/// Which origins browsers may call from.
struct Cors {
    any: bool,
    origin: Option<Re2>,
}

impl Cors {
    fn new(pattern: &str) -> Self {
        // The pattern was compiled once when the flags were read.
        Self { any: pattern == ".*", origin: Re2::anchored(pattern).ok() }
    }

    /// Source: Prometheus v3.14, `util/httputil/cors.go`, `SetCORS`.
    fn allow(&self, origin: HeaderValue, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("Accept, Authorization, Content-Type, Origin"),
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date"));
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let is_match = |pattern: &Re2| origin.to_str().is_ok_and(|origin| pattern.is_match(origin));
        if self.any {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else if self.origin.as_ref().is_some_and(is_match) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        response
    }
}

fn after_panic(panic: &(dyn Any + Send)) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("");
    // The panic hook has logged place and stack.
    tracing::error!(err = text, "a request handler panicked");
    response::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the server's log says more\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::starting_state;
    use axum::body::to_bytes;
    use axum::routing::get;

    async fn panics() -> Response {
        panic!("oh")
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_and_the_next_request_has_its_own() {
        let (state, _folder) = starting_state(&["--web.cors.origin=http://here"]);
        let routes =
            Router::new().route("/panics", get(panics)).route("/works", get(|| async { "x".repeat(100) }));
        let front = Front::with_router(state, routes);
        let ask = async |path: &str, headers: &[(&str, &str)]| {
            let mut request = Request::get(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let response = front.answer(request.body(Body::empty()).unwrap()).await;
            let (parts, body) = response.into_parts();
            (parts.status.as_u16(), parts.headers, to_bytes(body, 1000).await.unwrap())
        };
        let (status, _, body) = ask("/panics", &[]).await;
        assert_eq!((status, &body[..]), (500, &b"internal error; the server's log says more\n"[..]));
        let (status, headers, body) = ask("/works", &[]).await;
        assert_eq!((status, body.len(), headers.get("vary")), (200, 100, None));
        let (_, headers, body) =
            ask("/works", &[("accept-encoding", "gzip"), ("origin", "http://here")]).await;
        assert_eq!(headers["content-encoding"], "gzip");
        assert_eq!(headers["access-control-allow-origin"], "http://here");
        assert!(body.len() < 100, "{body:?}");
    }
}
