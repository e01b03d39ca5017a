//! `status/active_queries`: the queries that are being worked on; `admin/queries/<id>/cancel` ends one.

use super::admin::require_admin;
use super::error::ApiError;
use super::json::{self, Object};
use super::response::success;
use crate::queries::ActiveQuery;
use crate::state::State as ServerState;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// `GET /api/v1/status/active_queries`: also while the server is not ready, when there are none.
pub async fn list(State(state): State<Arc<ServerState>>) -> Response {
    let queries = state.queries.list();
    success(|out| json::array(out, &queries, |out, query| write(out, query)))
}

fn write(out: &mut Vec<u8>, query: &ActiveQuery) {
    let asked = &query.asked;
    let since_epoch = query.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut object = Object::new(out);
    object.string("id", &query.id.to_string()).string("state", query.stage().as_str());
    json::raw_string(object.key("query"), &asked.text);
    json::timestamp(object.key("start"), asked.start);
    json::timestamp(object.key("end"), asked.end);
    json::timestamp(object.key("step"), asked.step_ms);
    json::timestamp(object.key("startedAt"), i64::try_from(since_epoch.as_millis()).unwrap_or(0));
    object.number("durationSeconds", query.started.elapsed().as_secs_f64());
    let client = asked.origin.client.map(|client| client.to_string()).unwrap_or_default();
    object.string("client", &client).string("method", &asked.origin.method);
    json::raw_string(object.key("path"), &asked.origin.path);
    let usage = query.deadline.usage();
    let count = |value: Option<usize>| value.unwrap_or(0) as u64;
    object
        .count("memoryBytes", count(usage.map(|usage| usage.memory_bytes())))
        .count("peakMemoryBytes", count(usage.map(|usage| usage.peak_memory_bytes())))
        .count("samples", count(usage.map(|usage| usage.samples())))
        .count("peakSamples", count(usage.map(|usage| usage.peak_samples())));
    object.end();
}

/// `POST, PUT /api/v1/admin/queries/<id>/cancel`
pub async fn cancel(
    State(state): State<Arc<ServerState>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    require_admin(&state)?;
    let number: u64 = id
        .parse()
        .map_err(|_| ApiError::BadData(format!("{id:?} is not the id of a query: ids are numbers")))?;
    if state.queries.cancel(number) {
        tracing::info!(id = number, "a query was cancelled over the API");
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(ApiError::NotFound(format!("there is no active query with the id {number}")))
}
