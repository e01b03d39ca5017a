//! Remote write past the router and the layers of the other routes. These take a tenth of what a request of
//! 2,000 samples takes, and do nothing for it: its answer is small, no browser asks for it, and what may
//! panic is caught.

use crate::api::{self, Ready};
use crate::remote::receiver;
use crate::state::State;
use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::http::{Method, Request, header};
use axum::response::Response;
use std::sync::Arc;
use std::time::Instant;

const PATH: &str = "/api/v1/write";

/// Answers the requests that [`Direct::takes`] as the router would.
pub struct Direct {
    state: Arc<State>,
    path: String,
}

impl Direct {
    /// For the path below the prefix of all routes.
    pub fn new(state: Arc<State>) -> Self {
        let path = format!("{}{PATH}", state.settings.route_prefix);
        Self { state, path }
    }

    /// Whether it is for [`Direct::answer`]: a browser's, which names where it comes from, goes through the
    /// router, as whatever is not usual.
    pub fn takes<B>(&self, request: &Request<B>) -> bool {
        request.method() == Method::POST
            && request.uri().path() == self.path
            && !request.headers().contains_key(header::ORIGIN)
    }

    /// Takes the samples.
    pub async fn answer(&self, request: Request<Body>) -> Response {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let response = match Ready::from_request_parts(&mut parts, &self.state).await {
            Ok(ready) => receiver::write(ready, Request::from_parts(parts, body)).await,
            Err(refusal) => refusal,
        };
        api::record(&self.state.registry, PATH, started, &response);
        response
    }
}
