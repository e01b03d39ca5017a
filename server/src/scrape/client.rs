//! The HTTP side of a scrape: the request, its credentials and limits, and the body as it comes.
//!
//! Source: Prometheus v3.14, `scrape/scrape.go`, `targetScraper`; `prometheus/common`, `config/http_config.go`.

use super::error::ScrapeError;
use crate::config::{BasicAuth, HttpClientConfig, ScrapeConfig, ScrapeProtocol, TlsConfig, TlsVersion};
use chronolith_storage::error::error_chain;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::path::Path;
use std::time::Duration;

/// Exporters that look at the name expect this one; the version is that of the protocol spoken.
const USER_AGENT: &str = concat!("Prometheus/3.14.0 (Chronolith/", env!("CARGO_PKG_VERSION"), ")");

/// No body of metrics is larger, compressed or not; `body_size_limit` may ask for less.
const MAX_BODY_BYTES: u64 = 1 << 30;

/// How many redirects are followed, as many as Go follows.
const MAX_REDIRECTS: usize = 10;

/// Fetches the bodies of one pool's targets.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    config: HttpClientConfig,
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
        let http = build(&config.http, unix_socket)?;
        Ok(Self {
            http,
            config: config.http.clone(),
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
        let failed = |reason: String| ScrapeError::Request { url: url.to_owned(), reason };
        let headers = self.headers(timeout).map_err(failed)?;
        let sent = self.http.get(url).headers(headers).send().await;
        // The URL stands in our own text already.
        let mut response = sent.map_err(|error| failed(error_chain(&error.without_url())))?;
        if response.status() != reqwest::StatusCode::OK {
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
        loop {
            let chunk = response.chunk().await;
            let Some(chunk) = chunk.map_err(|error| failed(error_chain(&error.without_url())))? else {
                break;
            };
            if (body.len() + chunk.len()) as u64 >= self.body_limit_bytes {
                return Err(ScrapeError::BodySizeLimit);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Fetched { body, is_gzip, content_type })
    }

    fn headers(&self, timeout: Duration) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, self.accept.clone());
        headers.insert(header::ACCEPT_ENCODING, self.accept_encoding.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let seconds = header_value(&timeout.as_secs_f64().to_string())?;
        headers.insert(HeaderName::from_static("x-prometheus-scrape-timeout-seconds"), seconds);
        for (name, header) in &self.config.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
            for value in &header.values {
                headers.append(&name, header_value(value)?);
            }
            for secret in &header.secrets {
                headers.append(&name, secret_value(secret.expose())?);
            }
            for file in &header.files {
                headers.append(&name, secret_value(&read_secret(file)?)?);
            }
        }
        if let Some(auth) = &self.config.basic_auth {
            let value = secret_value(&basic_credentials(auth)?)?;
            headers.insert(header::AUTHORIZATION, value);
        }
        if let Some(auth) = &self.config.authorization {
            let credentials = match &auth.credentials_file {
                Some(file) => read_secret(file)?,
                None => auth.credentials.expose().to_owned(),
            };
            let value = secret_value(&format!("{} {credentials}", auth.scheme))?;
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(headers)
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
    // Bodies are read as text; to ask for protobuf first would get what cannot be read.
    let protocols = config.scrape_protocols.iter().filter(|p| **p != ScrapeProtocol::PrometheusProto);
    let mut header = String::new();
    let mut weight = ScrapeProtocol::ALL.len() + 1;
    for protocol in protocols {
        header.push_str(protocol.header());
        if matches!(protocol, ScrapeProtocol::PrometheusText1_0_0 | ScrapeProtocol::OpenMetricsText1_0_0) {
            header.push_str(&format!(";escaping={}", config.name_escaping.as_str()));
        }
        header.push_str(&format!(";q=0.{weight},"));
        weight -= 1;
    }
    header + &format!("*/*;q=0.{weight}")
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "a header value has characters that cannot be sent".to_owned())
}

fn secret_value(text: &str) -> Result<HeaderValue, String> {
    let mut value = header_value(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A secret out of a file, without the line feed at its end.
fn read_secret(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("unable to read file {}: {error}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn basic_credentials(auth: &BasicAuth) -> Result<String, String> {
    let username = match &auth.username_file {
        Some(file) => read_secret(file)?,
        None => auth.username.clone(),
    };
    let password = match &auth.password_file {
        Some(file) => read_secret(file)?,
        None => auth.password.expose().to_owned(),
    };
    Ok(format!("Basic {}", base64(format!("{username}:{password}").as_bytes())))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn build(config: &HttpClientConfig, unix_socket: Option<&str>) -> Result<reqwest::Client, String> {
    // The first of several callers decides, and all of them mean the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redirects = if config.follow_redirects {
        reqwest::redirect::Policy::limited(MAX_REDIRECTS)
    } else {
        reqwest::redirect::Policy::none()
    };
    // Scrapes come at an interval: a connection is worth keeping for one and a half of the usual ones.
    let mut builder = reqwest::Client::builder()
        .redirect(redirects)
        .referer(false)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(Duration::from_secs(300));
    if !config.enable_http2 {
        builder = builder.http1_only();
    }
    if let Some(url) = &config.proxy_url {
        let proxy =
            reqwest::Proxy::all(url).map_err(|error| format!("proxy_url: {}", error_chain(&error)))?;
        builder = builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_string(&config.no_proxy)));
    } else if !config.proxy_from_environment {
        builder = builder.no_proxy();
    }
    if let Some(path) = unix_socket {
        builder = builder.unix_socket(path);
    }
    builder = tls(builder, &config.tls)?;
    builder.build().map_err(|error| format!("cannot create HTTP client: {}", error_chain(&error)))
}

fn tls(mut builder: reqwest::ClientBuilder, config: &TlsConfig) -> Result<reqwest::ClientBuilder, String> {
    let pem = |text: Option<&str>, file: Option<&Path>, what: &str| match (text, file) {
        (Some(text), _) => Ok(Some(text.as_bytes().to_vec())),
        (None, Some(file)) => std::fs::read(file)
            .map(Some)
            .map_err(|error| format!("unable to read {what} file {}: {error}", file.display())),
        (None, None) => Ok(None),
    };
    if let Some(ca) = pem(config.ca.as_deref(), config.ca_file.as_deref(), "CA")? {
        let certificates = reqwest::Certificate::from_pem_bundle(&ca)
            .map_err(|error| format!("tls_config: CA: {}", error_chain(&error)))?;
        builder = builder.tls_certs_only(certificates);
    }
    let certificate = pem(config.cert.as_deref(), config.cert_file.as_deref(), "certificate")?;
    let key = pem(config.key.as_ref().map(|key| key.expose()), config.key_file.as_deref(), "key")?;
    if let (Some(mut identity), Some(key)) = (certificate, key) {
        identity.push(b'\n');
        identity.extend_from_slice(&key);
        let identity = reqwest::Identity::from_pem(&identity)
            .map_err(|error| format!("tls_config: certificate and key: {}", error_chain(&error)))?;
        builder = builder.identity(identity);
    }
    if config.insecure_skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    let version = |version| match version {
        TlsVersion::Tls10 | TlsVersion::Tls11 | TlsVersion::Tls12 => reqwest::tls::Version::TLS_1_2,
        TlsVersion::Tls13 => reqwest::tls::Version::TLS_1_3,
    };
    if let Some(min) = config.min_version {
        builder = builder.tls_version_min(version(min));
    }
    if let Some(max) = config.max_version {
        if max < TlsVersion::Tls12 {
            return Err("tls_config: max_version below TLS12 is not supported".to_owned());
        }
        builder = builder.tls_version_max(version(max));
    }
    Ok(builder)
}

/// What of a configuration is valid but not possible in this version; targets say so when scraped.
pub(super) fn unsupported(config: &ScrapeConfig) -> Option<String> {
    let what = if config.http.oauth2 {
        "oauth2"
    } else if !config.http.tls.server_name.is_empty() {
        "tls_config.server_name"
    } else if !config.http.proxy_connect_header.is_empty() {
        "proxy_connect_header"
    } else {
        return None;
    };
    Some(format!("{what} is not supported for scraping in this version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foo"), "Zm9v");
        assert_eq!(base64(b"Aladdin:open sesame"), "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
