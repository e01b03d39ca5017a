//! The envelope of answers.

use super::json;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;

/// The text of the warning about a cut list.
pub const TRUNCATED: &str = "results truncated due to limit";

/// A successful answer; `write` writes the data.
pub fn success(write: impl FnOnce(&mut Vec<u8>)) -> Response {
    success_with(&[], &[], write)
}

/// A successful answer with warnings and infos.
pub fn success_with(warnings: &[String], infos: &[String], write: impl FnOnce(&mut Vec<u8>)) -> Response {
    from_bytes(success_bytes(warnings, infos, write))
}

/// The body of a successful answer: at most ten warnings and ten infos.
pub fn success_bytes(warnings: &[String], infos: &[String], write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::with_capacity(1024);
    body.extend_from_slice(b"{\"status\":\"success\",\"data\":");
    write(&mut body);
    write_end(&mut body, warnings, infos);
    body
}

/// What follows the data of a successful answer.
pub fn write_end(body: &mut Vec<u8>, warnings: &[String], infos: &[String]) {
    for (key, texts) in [("warnings", warnings), ("infos", infos)] {
        if !texts.is_empty() {
            body.extend_from_slice(format!(",\"{key}\":").as_bytes());
            json::strings(body, texts.iter().map(String::as_str));
        }
    }
    body.push(b'}');
}

/// An answer of JSON as it stands.
pub fn from_bytes(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer of plain text.
pub fn text(status: axum::http::StatusCode, text: impl Into<String>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
