//! The HTTP API: routes, and what holds for all of them (readiness, metrics).

mod active;
mod admin;
pub mod answer;
mod ast;
pub mod error;
mod explain;
mod federate;
pub mod json;
mod labels;
mod pages;
pub mod params;
mod points;
mod query;
pub mod response;
pub mod sending;
mod status;
pub mod work;

#[cfg(test)]
pub mod tests;

pub use crate::build::PROMETHEUS_VERSION;

use crate::listen::Peer;
use crate::queries::{Origin, Rehearsed};
use crate::remote::receiver;
use crate::state::State as ServerState;
use crate::store::Store;
use crate::telemetry::metrics::{REQUEST_SECONDS, RESPONSE_BYTES, Registry};
use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use std::sync::Arc;
use std::time::Instant;

/// The store is open: what handlers of gated routes ask for.
pub struct Ready {
    /// The shared state.
    pub state: Arc<ServerState>,
    /// The store.
    pub store: Arc<dyn Store>,
}

impl FromRequestParts<Arc<ServerState>> for Ready {
    type Rejection = Response;

    async fn from_request_parts(_: &mut Parts, state: &Arc<ServerState>) -> Result<Self, Response> {
        match state.store() {
            Some(store) if !state.is_stopping() => Ok(Self { state: Arc::clone(state), store }),
            _ => {
                let mut response = response::text(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable");
                let stopping = if state.is_stopping() { "true" } else { "false" };
                response.headers_mut().insert("x-prometheus-stopping", HeaderValue::from_static(stopping));
                Err(response)
            }
        }
    }
}

impl FromRequestParts<Arc<ServerState>> for Origin {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<ServerState>) -> Result<Self, Self::Rejection> {
        // Routes of queries have no parameters in their paths; the URI has lost its prefix here.
        let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
        let client = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
        let is_rehearsed = parts.extensions.get::<Rehearsed>().is_some();
        Ok(Self { client, method: parts.method.to_string(), path, is_rehearsed })
    }
}

/// All routes.
pub fn router(state: Arc<ServerState>) -> Router {
    let api = Router::new()
        .route("/query", get(query::instant).post(query::instant))
        .route("/query_range", get(query::range).post(query::range))
        .route("/query_exemplars", get(query::exemplars).post(query::exemplars))
        .route("/format_query", get(query::format).post(query::format))
        .route("/explain", get(explain::explain).post(explain::explain))
        .route("/parse_query", get(query::parse_query).post(query::parse_query))
        .route("/labels", get(labels::names).post(labels::names))
        .route("/label/{name}/values", get(labels::values))
        .route("/series", get(labels::series).post(labels::series))
        .route("/metadata", get(labels::metadata))
        .route("/scrape_pools", get(status::scrape_pools))
        .route("/scrape_pools/config", get(status::scrape_pool_config))
        .route("/targets", get(status::targets))
        .route("/targets/metadata", get(status::target_metadata))
        .route("/alertmanagers", get(status::alertmanagers))
        .route("/alerts", get(status::alerts))
        .route("/rules", get(status::rules))
        .route("/status/config", get(status::config))
        .route("/status/runtimeinfo", get(status::runtime_info))
        .route("/status/buildinfo", get(status::build_info))
        .route("/status/flags", get(status::flags))
        .route("/status/tsdb", get(status::tsdb))
        .route("/status/tsdb/blocks", get(status::blocks))
        .route("/status/walreplay", get(status::wal_replay))
        .route("/status/active_queries", get(active::list))
        .route("/features", get(status::features))
        .route("/notifications", get(status::notifications))
        .route("/admin/tsdb/delete_series", post(admin::delete_series).put(admin::delete_series))
        .route("/admin/tsdb/clean_tombstones", post(admin::clean_tombstones).put(admin::clean_tombstones))
        .route("/admin/tsdb/snapshot", post(admin::snapshot).put(admin::snapshot))
        .route("/admin/queries/{id}/cancel", post(active::cancel).put(active::cancel));
    // Every path of the API answers OPTIONS for browsers.
    let api = api
        .layer(middleware::from_fn_with_state(Arc::clone(&state), options))
        .route("/write", post(receiver::write));
    let routes = Router::new()
        .nest("/api/v1", api)
        .route("/", get(pages::start))
        .route("/metrics", get(pages::metrics))
        .route("/federate", get(federate::federate))
        .route("/version", get(status::version))
        .route("/-/healthy", get(admin::healthy))
        .route("/-/ready", get(admin::ready))
        .route("/-/reload", any(admin::reload))
        .route("/-/quit", any(admin::quit))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&state), measure))
        .fallback(not_found);
    let prefix = state.settings.route_prefix.clone();
    let routes = if prefix.is_empty() {
        routes
    } else {
        Router::new()
            .nest(&prefix, routes)
            .route(&format!("{prefix}/"), get(pages::start))
            .route("/", get(move || async move { redirect(&prefix) }))
            .fallback(not_found)
    };
    routes.with_state(state)
}

async fn not_found() -> Response {
    response::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn redirect(prefix: &str) -> Response {
    let mut response = StatusCode::FOUND.into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("{prefix}/")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

async fn options(State(state): State<Arc<ServerState>>, request: Request, next: Next) -> Response {
    if request.method() != axum::http::Method::OPTIONS {
        return next.run(request).await;
    }
    let (mut parts, _) = request.into_parts();
    match Ready::from_request_parts(&mut parts, &state).await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refusal,
    }
}

/// Counts and times requests by route.
async fn measure(State(state): State<Arc<ServerState>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let path = path.strip_prefix(state.settings.route_prefix.as_str()).unwrap_or(path);
    let handler = path.replace("{name}", ":name");
    let started = Instant::now();
    let response = next.run(request).await;
    record(&state.registry, &handler, started, &response);
    response
}

/// Counts and times a request that was answered.
pub(crate) fn record(registry: &Registry, handler: &str, started: Instant, response: &Response) {
    let labels = [("handler", handler)];
    registry
        .counter(
            "prometheus_http_requests_total",
            "Counter of HTTP requests.",
            &[("handler", handler), ("code", response.status().as_str())],
        )
        .inc();
    registry
        .histogram(
            "prometheus_http_request_duration_seconds",
            "Histogram of latencies for HTTP requests.",
            &labels,
            REQUEST_SECONDS,
        )
        .observe(started.elapsed().as_secs_f64());
    if let Some(size) = response.body().size_hint().exact() {
        registry
            .histogram(
                "prometheus_http_response_size_bytes",
                "Histogram of response size for HTTP requests.",
                &labels,
                RESPONSE_BYTES,
            )
            .observe(size as f64);
    }
}
