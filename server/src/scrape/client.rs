//! The HTTP side of a scrape: the request, its credentials and limits, and the body as it comes.
//!
//! Source: Prometheus v3.14, `scrape/scrape.go`, `targetScraper`; `prometheus/common`, `config/http_config.go`.

use super::error::ScrapeError;
use crate::build::USER_AGENT;
use crate::config::{ScrapeConfig, ScrapeProtocol};
use crate::http_client::{HttpClient, HttpError};
use chronolith_storage::error::error_chain;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::path::Path;
use std::time::Duration;

/// No body of metrics is larger, compressed or not; `body_size_limit` may ask for less.
const MAX_BODY_BYTES: u64 = 1 << 30;

/// Fetches the bodies of one pool's targets.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: HttpClient,
    accept: HeaderValue,
    accept_encoding: HeaderValue,
    body_limit_bytes: u64,
}

/// A body as it came.
#[derive(Debug)]
pub(super) struct Fetched {
    pub body: Vec<u8>,
    pub is_gzip: bool,
    pub content_type: String,
}

impl Client {
    /// A client as the configuration of a job asks for it; for a target behind a Unix socket one of
    /// its own.
    ///
    /// # Errors
    /// What of the configuration cannot be used, with files that are named there.
    pub fn new(config: &ScrapeConfig, unix_socket: Option<&str>) -> Result<Self, String> {
        let http = HttpClient::new(&config.http, unix_socket.map(Path::new));
        Ok(Self {
            http: http.map_err(|error| error_chain(&error))?,
            accept: HeaderValue::from_str(&accept_header(config))
                .expect("media types and escaping schemes are plain ASCII"),
            accept_encoding: HeaderValue::from_static(if config.enable_compression {
                "gzip"
            } else {
                "identity"
            }),
            body_limit_bytes: body_limit(config),
        })
    }

    /// Fetches a body.
    ///
    /// # Errors
    /// [`ScrapeError::Request`], [`ScrapeError::Status`], [`ScrapeError::BodySizeLimit`].
    pub async fn fetch(&self, url: &str, timeout: Duration) -> Result<Fetched, ScrapeError> {
        let failed = |reason: String| ScrapeError::Request { url: url.to_owned(), reason };
        match tokio::time::timeout(timeout, self.fetch_unbounded(url, timeout)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }

    async fn fetch_unbounded(&self, url: &str, timeout: Duration) -> Result<Fetched, ScrapeError> {
        let failed =
            |error: HttpError| ScrapeError::Request { url: url.to_owned(), reason: error_chain(&error) };
        let mut response = self.http.get(url, self.headers(timeout)).await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(ScrapeError::Status(response.status()));
        }
        let text = |name: HeaderName| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let is_gzip = text(header::CONTENT_ENCODING) == "gzip";
        let content_type = text(header::CONTENT_TYPE);
        // A compressed body that is larger than what it may decompress to is refused as well.
        let mut body = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| failed(error.into()))?;
            // Trailers say nothing that a scrape needs.
            let Ok(chunk) = frame.into_data() else { continue };
            if (body.len() + chunk.len()) as u64 >= self.body_limit_bytes {
                return Err(ScrapeError::BodySizeLimit);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Fetched { body, is_gzip, content_type })
    }

    fn headers(&self, timeout: Duration) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, self.accept.clone());
        headers.insert(header::ACCEPT_ENCODING, self.accept_encoding.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let seconds = HeaderValue::from_str(&timeout.as_secs_f64().to_string());
        let seconds = seconds.expect("a number is plain ASCII");
        headers.insert(HeaderName::from_static("x-prometheus-scrape-timeout-seconds"), seconds);
        headers
    }
}

/// The limit of a decompressed body. As upstream, a body of just this size is over it.
pub(super) fn body_limit(config: &ScrapeConfig) -> u64 {
    match config.limits.body_size_bytes {
        0 => MAX_BODY_BYTES,
        limit => limit.min(MAX_BODY_BYTES),
    }
}

/// Media types from the most wanted to the least, as RFC 9110 weighs them.
fn accept_header(config: &ScrapeConfig) -> String {
    let mut header = String::new();
    let mut weight = ScrapeProtocol::ALL.len() + 1;
    for protocol in &config.scrape_protocols {
        header.push_str(protocol.header());
        if matches!(protocol, ScrapeProtocol::PrometheusText1_0_0 | ScrapeProtocol::OpenMetricsText1_0_0) {
            header.push_str(&format!(";escaping={}", config.name_escaping.as_str()));
        }
        header.push_str(&format!(";q=0.{weight},"));
        weight -= 1;
    }
    header + &format!("*/*;q=0.{weight}")
}

/// What of a configuration is valid but not possible in this version; targets say so when scraped.
pub(super) fn unsupported(config: &ScrapeConfig) -> Option<String> {
    let needs_jwt = config.http.oauth2.as_ref().is_some_and(|oauth2| oauth2.needs_jwt);
    needs_jwt.then(|| {
        "oauth2.grant_type jwt-bearer is not supported in this version; client_credentials is".to_owned()
    })
}
