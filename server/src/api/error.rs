//! Errors of the API: one exhaustive match from what went wrong to status and `errorType`.

use super::json::Object;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chronolith_model::queryable::{ReadError, Stop};
use chronolith_query::QueryError;
use chronolith_storage::StorageError;
use chronolith_storage::error::error_chain;

/// Why a request of the API failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request is wrong.
    #[error("{0}")]
    BadData(String),
    /// The query failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store refused an operation.
    #[error("{}", error_chain(.0))]
    Storage(#[from] StorageError),
    /// What is asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// Switched off.
    #[error("{0}")]
    Unavailable(&'static str),
    /// Our own failure.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    /// `invalid parameter "name": reason`
    pub fn parameter(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::BadData(format!("invalid parameter {name:?}: {reason}"))
    }

    /// The status code and the word in `errorType`.
    ///
    /// Source: Prometheus v3.14, `web/api/v1/api.go`, `getDefaultErrorCode` and `returnAPIError`.
    pub fn kind(&self) -> (StatusCode, &'static str) {
        // 499 is nginx's "client closed request".
        let cancelled = (StatusCode::from_u16(499).expect("499 is a status code"), "canceled");
        let bad_data = (StatusCode::BAD_REQUEST, "bad_data");
        let execution = (StatusCode::UNPROCESSABLE_ENTITY, "execution");
        let timeout = (StatusCode::SERVICE_UNAVAILABLE, "timeout");
        let internal = (StatusCode::INTERNAL_SERVER_ERROR, "internal");
        // Upstream's own documents say 503; its code says 500, and clients see the code.
        let unavailable = (StatusCode::INTERNAL_SERVER_ERROR, "unavailable");
        match self {
            Self::BadData(_) => bad_data,
            Self::Query(error) => match error {
                QueryError::Parse(_) => bad_data,
                QueryError::Execution(_) | QueryError::TooManySamples | QueryError::OverBudget(_) => {
                    execution
                }
                QueryError::Timeout(_) => timeout,
                QueryError::Cancelled(_) => cancelled,
                QueryError::Storage(_) => internal,
            },
            Self::Read(error) => match error {
                ReadError::Stop(Stop::Cancelled) => cancelled,
                ReadError::Stop(Stop::TimedOut) => timeout,
                ReadError::Stop(Stop::OverBudget(_)) => execution,
                ReadError::Stop(Stop::Revoked) => unavailable,
                ReadError::Corrupt(_) | ReadError::Io(_) => internal,
            },
            Self::Storage(error) => match error {
                StorageError::Stop(Stop::Cancelled) => cancelled,
                StorageError::Stop(Stop::TimedOut) => timeout,
                StorageError::Stop(Stop::OverBudget(_)) => execution,
                StorageError::Stop(Stop::Revoked) | StorageError::Closed => unavailable,
                _ => internal,
            },
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Unavailable(_) => unavailable,
            Self::Internal(_) => internal,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind) = self.kind();
        let text = match &self {
            // Upstream names the parameter where the text is not PromQL.
            Self::Query(QueryError::Parse(text)) => format!("invalid parameter \"query\": {text}"),
            other => other.to_string(),
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR && kind == "internal" {
            tracing::error!(err = text, "API request failed");
        }
        let mut body = Vec::new();
        let mut object = Object::new(&mut body);
        object.string("status", "error").string("errorType", kind).string("error", &text);
        object.end();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_codes_of_prometheus() {
        let check = |error: ApiError, code: u16, kind: &str| {
            let (status, word) = error.kind();
            assert_eq!((status.as_u16(), word), (code, kind), "{error:?}");
        };
        check(ApiError::BadData(String::new()), 400, "bad_data");
        check(QueryError::Parse(String::new()).into(), 400, "bad_data");
        check(QueryError::Execution(String::new()).into(), 422, "execution");
        check(QueryError::TooManySamples.into(), 422, "execution");
        check(QueryError::Timeout(String::new()).into(), 503, "timeout");
        check(QueryError::Cancelled(String::new()).into(), 499, "canceled");
        check(QueryError::Storage(String::new()).into(), 500, "internal");
        check(ApiError::Unavailable("off"), 500, "unavailable");
        check(ApiError::NotFound(String::new()), 404, "not_found");
    }
}
