//! Deleting, cleaning and copying the store; reload, quit, and whether the server is well.

use super::Ready;
use super::error::ApiError;
use super::json::Object;
use super::params::{MAX_TIME_MS, MIN_TIME_MS, Params};
use super::response::{success, text};
use super::work::{Deadline, blocking};
use crate::state::State as ServerState;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use chronolith_query::parser::parse_metric_selector;
use std::sync::Arc;
use std::time::Duration;

/// Deletions and copies are never cancelled halfway by their own deadline.
const LONG: Duration = Duration::from_secs(86_400);

pub(super) fn require_admin(state: &ServerState) -> Result<(), ApiError> {
    if state.settings.enable_admin_api { Ok(()) } else { Err(ApiError::Unavailable("admin APIs disabled")) }
}

/// `POST, PUT /api/v1/admin/tsdb/delete_series`
pub async fn delete_series(ready: Ready, params: Params) -> Result<Response, ApiError> {
    require_admin(&ready.state)?;
    let mut sets = Vec::new();
    for selector in params.all("match[]") {
        sets.push(parse_metric_selector(selector).map_err(|error| ApiError::parameter("match[]", error))?);
    }
    if sets.is_empty() {
        return Err(ApiError::BadData("no match[] parameter provided".to_owned()));
    }
    let start = params.time("start", MIN_TIME_MS)?;
    let end = params.time("end", MAX_TIME_MS)?;
    blocking(Deadline::after(LONG), move |_| Ok(ready.store.delete(&sets, start, end)?)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST, PUT /api/v1/admin/tsdb/clean_tombstones`
pub async fn clean_tombstones(ready: Ready) -> Result<Response, ApiError> {
    require_admin(&ready.state)?;
    blocking(Deadline::after(LONG), move |_| Ok(ready.store.clean_tombstones()?)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST, PUT /api/v1/admin/tsdb/snapshot`
pub async fn snapshot(ready: Ready, params: Params) -> Result<Response, ApiError> {
    require_admin(&ready.state)?;
    let skip_head = match params.get("skip_head") {
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        other => {
            let reason =
                format!("unable to parse boolean: strconv.ParseBool: parsing {other:?}: invalid syntax");
            return Err(ApiError::parameter("skip_head", reason));
        }
    };
    let name = snapshot_name();
    let parent = ready.state.settings.storage_path.join("snapshots");
    let into = parent.join(&name);
    blocking(Deadline::after(LONG), move |_| {
        std::fs::create_dir_all(&parent)
            .map_err(|error| ApiError::Internal(format!("create snapshot directory: {error}")))?;
        Ok(ready.store.snapshot(&into, skip_head)?)
    })
    .await?;
    Ok(success(|out| {
        let mut object = Object::new(out);
        object.string("name", &name);
        object.end();
    }))
}

/// `20060102T150405Z-<16 hex digits>`
fn snapshot_name() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let now = jiff::Timestamp::now();
    // The hasher of a new random state is the standard library's only source of random bits.
    let random = RandomState::new().build_hasher().finish() >> 1;
    format!("{}-{random:016x}", now.strftime("%Y%m%dT%H%M%SZ"))
}

/// `GET, HEAD /-/healthy`
pub async fn healthy() -> Response {
    text(StatusCode::OK, "Chronolith is Healthy.\n")
}

/// `GET, HEAD /-/ready`
pub async fn ready(_: Ready) -> Response {
    text(StatusCode::OK, "Chronolith is Ready.\n")
}

/// Why a request of the lifecycle API is refused, if it is.
fn lifecycle(state: &ServerState, method: &Method) -> Option<Response> {
    if !matches!(*method, Method::POST | Method::PUT) {
        return Some(text(StatusCode::METHOD_NOT_ALLOWED, "Only POST or PUT requests allowed"));
    }
    if !state.settings.enable_lifecycle {
        return Some(text(StatusCode::FORBIDDEN, "Lifecycle API is not enabled."));
    }
    None
}

/// `POST, PUT /-/reload`
pub async fn reload(State(state): State<Arc<ServerState>>, method: Method) -> Response {
    if let Some(refusal) = lifecycle(&state, &method) {
        return refusal;
    }
    let (answer, answered) = tokio::sync::oneshot::channel();
    let result = match state.reload.send(answer).await {
        Ok(()) => answered.await.unwrap_or_else(|_| Err("the server is stopping".to_owned())),
        Err(_) => Err("the server is stopping".to_owned()),
    };
    match result {
        Ok(()) => StatusCode::OK.into_response(),
        Err(reason) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {reason}\n"))
        }
    }
}

/// `POST, PUT /-/quit`
pub async fn quit(State(state): State<Arc<ServerState>>, method: Method) -> Response {
    if let Some(refusal) = lifecycle(&state, &method) {
        return refusal;
    }
    state.quit.notify_one();
    text(StatusCode::OK, "Requesting termination... Goodbye!")
}
