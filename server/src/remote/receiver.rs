//! Receiving remote write 1.0 and 2.0.
//!
//! Limits come before work: requests in flight, size as sent, size as declared by the compressed
//! body. A request is never rolled back: good samples stay, and the answer names the first refused
//! one, so that a repeated request changes nothing.

use crate::api::Ready;
use crate::api::response::text;
use crate::remote::known::Seen;
use crate::state::State as ServerState;
use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chronolith_model::append::{AppendBatch, AppendOutcome};
use chronolith_storage::AppendError;
use chronolith_wire::remote_write::{self, DecompressError, Rejected};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use tokio::sync::SemaphorePermit;

/// Larger requests, over some 10,000 samples, go to a thread of their own.
const AT_ONCE_BODY_BYTES: usize = 256 << 10;
/// Buffers that grew beyond this for a large request are given back after it.
const KEPT_BUFFER_BYTES: usize = 8 << 20;
/// Seconds after which a sender that met the limit of requests in flight comes back.
const BUSY_RETRY_S: u64 = 1;

/// Of a request that is too large, as many times the limit is read before the connection is cut.
const PASSED_OVER: usize = 8;
/// Longest description of what was refused, in bytes: labels may be huge.
const MAX_REASON_BYTES: usize = 2048;

/// The two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    V1,
    V2,
}

impl Message {
    const fn name(self) -> &'static str {
        match self {
            Self::V1 => "prometheus.WriteRequest",
            Self::V2 => "io.prometheus.write.v2.Request",
        }
    }
}

/// `POST /api/v1/write`
pub async fn write(ready: Ready, request: Request) -> Response {
    if !ready.state.settings.enable_remote_write {
        let reason = "remote write receiver needs to be enabled with --web.enable-remote-write-receiver\n";
        return text(StatusCode::NOT_FOUND, reason);
    }
    let message = match negotiate(request.headers(), &ready.state) {
        Ok(message) => message,
        Err(reason) => return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason + "\n"),
    };
    let Ok(permit) = ready.state.remote_write_gate.clone().try_acquire_owned() else {
        let reason = "too many remote-write requests at once (--remote-write.max-in-flight)";
        return finish(message, retry_later(reason, BUSY_RETRY_S), &AppendOutcome::default());
    };
    let body = match read_body(request.into_body(), &ready.state).await {
        Ok(body) => body,
        Err(refusal) => return finish(message, refusal, &AppendOutcome::default()),
    };
    let body_bytes = body.len();
    let work = move |ready: &Ready| {
        let _permit = permit;
        BUFFERS.with_borrow_mut(|buffers| take(ready, message, &body, buffers))
    };
    let turn = take_turn(&ready, body_bytes);
    let (response, outcome) = if turn.is_some() {
        // What a panic leaves behind is what it leaves behind on another thread too.
        let taken = catch_unwind(AssertUnwindSafe(|| work(&ready)));
        drop(turn);
        taken.unwrap_or_else(|_| panicked())
    } else {
        drop(turn);
        tokio::task::spawn_blocking(move || work(&ready)).await.unwrap_or_else(|_| panicked())
    };
    finish(message, response, &outcome)
}

/// Whether a request may be taken by this thread of the runtime. Handing it to another one and back takes two
/// wake-ups, a tenth of what 2,000 samples take; but a thread that waits for the disk serves nobody else, so
/// only some may be so busy, with requests of a usual size, and none where the log is synced at each.
fn take_turn(ready: &Ready, body_bytes: usize) -> Option<SemaphorePermit<'_>> {
    let gate = &ready.state.at_once;
    (body_bytes <= AT_ONCE_BODY_BYTES).then(|| gate.try_acquire().ok()).flatten()
}

/// The hook of panics has logged what happened.
fn panicked() -> (Response, AppendOutcome) {
    let response = text(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the server's log says more\n");
    (response, AppendOutcome::default())
}

/// Adds the counts that remote write 2.0 asks for.
fn finish(message: Message, mut response: Response, outcome: &AppendOutcome) -> Response {
    if message == Message::V2 {
        let headers = response.headers_mut();
        for (name, count) in [
            ("x-prometheus-remote-write-samples-written", outcome.samples_written),
            ("x-prometheus-remote-write-histograms-written", outcome.histograms_written),
            ("x-prometheus-remote-write-exemplars-written", outcome.exemplars_written),
        ] {
            headers.insert(name, HeaderValue::from(count));
        }
    }
    response
}

fn retry_later(reason: &str, seconds: u64) -> Response {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

/// Source: remote-write specification 2.0, "Content types"; a sender of 1.0 may leave them out.
fn negotiate(headers: &HeaderMap, state: &ServerState) -> Result<Message, String> {
    let header = |name| headers.get(name).map_or("", |value| value.to_str().unwrap_or("not ASCII"));
    let content_type = header(header::CONTENT_TYPE);
    let message = parse_content_type(content_type)?;
    let accepted = [
        (Message::V1, state.settings.accept_remote_write_v1),
        (Message::V2, state.settings.accept_remote_write_v2),
    ];
    if !accepted.contains(&(message, true)) {
        let names: Vec<&str> =
            accepted.iter().filter(|(_, accepted)| *accepted).map(|(message, _)| message.name()).collect();
        return Err(format!(
            "{} protobuf message is not accepted by this server; only accepts {}",
            message.name(),
            names.join(", ")
        ));
    }
    match header(header::CONTENT_ENCODING) {
        "" | "snappy" => Ok(message),
        other => Err(format!(
            "{other} encoding (compression) is not accepted by this server; only snappy is acceptable"
        )),
    }
}

fn parse_content_type(content_type: &str) -> Result<Message, String> {
    if content_type.is_empty() {
        return Ok(Message::V1);
    }
    let mut parts = content_type.split(';').map(str::trim);
    let media = parts.next().unwrap_or("");
    if !media.eq_ignore_ascii_case("application/x-protobuf") {
        return Err(format!(
            "expected application/x-protobuf as the first (media) part, got {content_type} content-type"
        ));
    }
    for part in parts.filter(|part| !part.is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return Err(format!(
                "as per https://www.rfc-editor.org/rfc/rfc9110#parameter expected parameters to be key-values, got {part} in {content_type} content-type"
            ));
        };
        if key.trim().eq_ignore_ascii_case("proto") {
            return match value.trim().trim_matches('"') {
                "prometheus.WriteRequest" => Ok(Message::V1),
                "io.prometheus.write.v2.Request" => Ok(Message::V2),
                other => Err(format!(
                    "got {content_type} content type; unknown type for remote write protobuf message {other}, supported: {}, {}",
                    Message::V1.name(),
                    Message::V2.name()
                )),
            };
        }
    }
    Ok(Message::V1)
}

async fn read_body(body: Body, state: &ServerState) -> Result<Vec<u8>, Response> {
    let limit = state.settings.remote_write_max_body_bytes;
    let too_large = || {
        let reason = format!("request is larger than {limit} bytes (--remote-write.max-request-size)\n");
        text(StatusCode::PAYLOAD_TOO_LARGE, reason)
    };
    match tokio::time::timeout(state.settings.read_timeout, collect(body, limit)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(error)) => {
            Err(text(StatusCode::BAD_REQUEST, format!("reading the request failed: {error}\n")))
        }
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time\n")),
    }
}

/// The body, or `None` if it is larger than `limit`. What is too large is read on without being kept:
/// a sender that is cut off while it writes sees a broken connection instead of the answer, and
/// repeats the request for ever.
async fn collect(mut body: Body, limit: usize) -> Result<Option<Vec<u8>>, axum::Error> {
    let declared = body.size_hint().lower();
    let mut too_large = declared > limit as u64;
    let room = if too_large { 0 } else { usize::try_from(declared).unwrap_or(0) };
    let mut bytes = Vec::with_capacity(room);
    let mut n_passed = 0_usize;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(data) = frame?.into_data() else { continue };
        if too_large || bytes.len() + data.len() > limit {
            too_large = true;
            bytes = Vec::new();
            n_passed = n_passed.saturating_add(data.len());
            if n_passed > limit.saturating_mul(PASSED_OVER) {
                break;
            }
        } else {
            bytes.extend_from_slice(&data);
        }
    }
    Ok((!too_large).then_some(bytes))
}

#[derive(Default)]
struct Buffers {
    decompressed: Vec<u8>,
    symbols: Vec<u32>,
    labels: Vec<u8>,
}

thread_local! {
    /// Kept from request to request: the threads that work on requests are few and stay.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

fn take(ready: &Ready, message: Message, body: &[u8], buffers: &mut Buffers) -> (Response, AppendOutcome) {
    let taken = take_inner(ready, message, body, buffers);
    // Its bytes stay for the next request, which then need not be zeroed before they are written.
    if buffers.decompressed.capacity() > KEPT_BUFFER_BYTES {
        buffers.decompressed.truncate(KEPT_BUFFER_BYTES);
        buffers.decompressed.shrink_to(KEPT_BUFFER_BYTES);
    }
    if buffers.symbols.capacity() > KEPT_BUFFER_BYTES / size_of::<u32>() {
        buffers.symbols.truncate(KEPT_BUFFER_BYTES / size_of::<u32>());
        buffers.symbols.shrink_to(KEPT_BUFFER_BYTES / size_of::<u32>());
    }
    buffers.labels.clear();
    buffers.labels.shrink_to(KEPT_BUFFER_BYTES);
    taken
}

fn take_inner(
    ready: &Ready,
    message: Message,
    body: &[u8],
    buffers: &mut Buffers,
) -> (Response, AppendOutcome) {
    let nothing = AppendOutcome::default();
    let limit = ready.state.settings.remote_write_max_decoded_bytes;
    if let Err(error) = remote_write::decompress(body, limit, &mut buffers.decompressed) {
        let status = match error {
            DecompressError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            DecompressError::Corrupt(_) => StatusCode::BAD_REQUEST,
        };
        return (text(status, format!("{error}\n")), nothing);
    }
    let known_requests = &ready.state.known_requests;
    let seen = match message {
        Message::V1 => Seen::Nothing,
        Message::V2 => known_requests.look_up(&buffers.decompressed),
    };
    if let Seen::Known(hash, known) = &seen {
        let mut batch = AppendBatch::default();
        if known_requests.decode(known, &buffers.decompressed, &mut batch, &mut buffers.labels) {
            match ready.store.append(&batch, false) {
                // Series have left memory. What was taken by then is there already when it comes again below.
                Ok(outcome) if outcome.expired > 0 => {}
                result => return conclude(ready, message, &batch, &Rejected::default(), result),
            }
        }
        known_requests.forget(*hash);
    }
    let mut batch = AppendBatch::default();
    let decoded = match message {
        Message::V1 => remote_write::v1::decode(&buffers.decompressed, &mut batch),
        Message::V2 => remote_write::v2::decode(&buffers.decompressed, &mut buffers.symbols, &mut batch),
    };
    let rejected = match decoded {
        Ok(rejected) => rejected,
        // Nothing of a message that does not decode is taken.
        Err(error) => return (text(StatusCode::BAD_REQUEST, format!("{error}\n")), nothing),
    };
    let mut result = ready.store.append(&batch, matches!(seen, Seen::Again(_)));
    if let (Seen::Again(hash), Ok(outcome)) = (seen, &mut result) {
        let handles = std::mem::take(&mut outcome.refs).into_iter().collect();
        let is_whole = rejected.is_empty() && outcome.refused == 0 && batch.metadata.is_empty();
        known_requests.learn(hash, &buffers.decompressed, if is_whole { handles } else { None });
    }
    conclude(ready, message, &batch, &rejected, result)
}

/// What is answered once a batch was appended, or could not be.
fn conclude(
    ready: &Ready,
    message: Message,
    batch: &AppendBatch<'_>,
    rejected: &Rejected,
    result: Result<AppendOutcome, AppendError>,
) -> (Response, AppendOutcome) {
    let nothing = AppendOutcome::default();
    match result {
        Ok(outcome) => {
            count_refusals(&ready.state, &outcome);
            (answer(message, batch, rejected, &outcome), outcome)
        }
        Err(AppendError::Unavailable { reason, retry_after_s }) => {
            let reason = format!("the store cannot take samples now: {reason}");
            (retry_later(&reason, retry_after_s), nothing)
        }
        Err(AppendError::Closed) => (retry_later("the server is stopping", 5), nothing),
    }
}

fn count_refusals(state: &ServerState, outcome: &AppendOutcome) {
    if outcome.refused_labels > 0 {
        state
            .registry
            .counter(
                "prometheus_api_remote_write_invalid_labels_samples_total",
                "The total number of received remote write samples and histogram samples which were rejected due to invalid labels.",
                &[],
            )
            .add(outcome.refused_labels);
    }
}

/// 204 if everything was taken, else 400 with the first reasons: a sender must not repeat the request.
fn answer(
    message: Message,
    batch: &AppendBatch<'_>,
    rejected: &Rejected,
    outcome: &AppendOutcome,
) -> Response {
    let sent = (batch.samples.len() + batch.histograms.len()) as u64;
    let kept = outcome.samples_written + outcome.histograms_written;
    let mut n_refused = sent.saturating_sub(kept) + rejected.samples + rejected.histograms;
    if message == Message::V2 {
        // Exemplars do not fail a request of 1.0, as upstream.
        n_refused +=
            (batch.exemplars.len() as u64).saturating_sub(outcome.exemplars_written) + rejected.exemplars;
    }
    let fails = n_refused > 0 || rejected.series > 0 || outcome.refused_labels > 0;
    if !fails {
        return StatusCode::NO_CONTENT.into_response();
    }
    let mut reason = format!("{n_refused} samples refused, {kept} written");
    if let Some((labels, timestamp, refusal)) = &outcome.first_refused {
        // Writing to a string cannot fail.
        let _ = write!(reason, "; first refused: series {} at {timestamp} ms: {refusal}", shortened(labels));
    }
    for text in &rejected.reasons {
        reason.push_str("; ");
        reason.push_str(&shortened(text));
    }
    reason.push('\n');
    tracing::debug!(err = reason.trim_end(), "remote-write request was not taken whole");
    text(StatusCode::BAD_REQUEST, reason)
}

fn shortened(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= MAX_REASON_BYTES {
        return text.into();
    }
    format!("{}... ({} bytes)", &text[..text.floor_char_boundary(MAX_REASON_BYTES)], text.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_labels_are_shortened_in_errors() {
        assert_eq!(shortened("{a=\"b\"}"), "{a=\"b\"}");
        let long = shortened(&"\u{e4}".repeat(5000)).into_owned();
        assert!(long.len() < MAX_REASON_BYTES + 30 && long.ends_with("... (10000 bytes)"), "{}", long.len());
    }

    #[tokio::test]
    async fn bodies_over_the_limit_are_read_to_their_end_without_being_kept() {
        assert_eq!(collect(Body::from("abc"), 3).await.unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(collect(Body::from("abcd"), 3).await.unwrap(), None);
        assert_eq!(collect(Body::from(vec![0; 100]), 3).await.unwrap(), None);
    }

    #[test]
    fn content_types_name_the_message() {
        for (content_type, expected) in [
            ("", Some(Message::V1)),
            ("application/x-protobuf", Some(Message::V1)),
            ("application/x-protobuf;proto=prometheus.WriteRequest", Some(Message::V1)),
            ("application/x-protobuf; proto=io.prometheus.write.v2.Request", Some(Message::V2)),
            ("application/x-protobuf;charset=utf-8", Some(Message::V1)),
            ("application/x-protobuf;proto=io.prometheus.write.v3.Request", None),
            ("application/x-protobuf;proto", None),
            ("application/json", None),
            ("text/plain", None),
        ] {
            assert_eq!(parse_content_type(content_type).ok(), expected, "{content_type}");
        }
    }
}
