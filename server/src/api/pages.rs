//! What is not JSON: the start page and the server's own metrics.

use super::response::text;
use crate::state::State as ServerState;
use crate::telemetry::metrics::TextFormat;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use std::sync::Arc;

/// `GET /metrics`
pub async fn metrics(State(state): State<Arc<ServerState>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let format = TextFormat::negotiate(accept);
    let registry = Arc::clone(&state.registry);
    // Collectors ask the storage engine, which takes locks.
    let Ok(body) = tokio::task::spawn_blocking(move || registry.render(format)).await else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "collecting metrics failed\n");
    };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response
}

/// `GET /`: where to look.
pub async fn start(State(state): State<Arc<ServerState>>) -> Response {
    let prefix = &state.settings.route_prefix;
    let title = escape_html(&state.settings.page_title);
    let ready = if state.store().is_some() { "ready" } else { "starting: the log is being replayed" };
    let links: String = [
        ("/api/v1/targets", "Scrape targets"),
        ("/api/v1/query?query=up", "A query: up"),
        ("/api/v1/status/tsdb", "Series and their labels"),
        ("/api/v1/status/config", "Configuration"),
        ("/api/v1/status/flags", "Flags"),
        ("/api/v1/status/runtimeinfo", "State of the store"),
        ("/metrics", "Metrics of this server"),
    ]
    .iter()
    .map(|(path, what)| format!("<li><a href=\"{prefix}{path}\">{what}</a></li>\n"))
    .collect();
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>body{{font:16px/1.5 sans-serif;max-width:42em;margin:3em auto;padding:0 1em}}</style></head>\n\
         <body><h1>{title}</h1>\n<p>Chronolith {version} is {ready}.</p>\n\
         <p>It speaks Prometheus's HTTP API: point Grafana's Prometheus data source at this address, and\n\
         other servers' <code>remote_write</code> at <code>{prefix}/api/v1/write</code>.</p>\n<ul>\n{links}</ul></body></html>\n",
        version = env!("CARGO_PKG_VERSION"),
    );
    let mut response = Response::new(Body::from(page));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
