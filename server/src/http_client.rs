//! The HTTP client for everything that the configuration gives an `http_config`: TLS, proxies,
//! credentials and redirects as Prometheus has them.
//!
//! Files with secrets and certificates are read again for each request, so that they can be rotated
//! without a reload. Bodies are left to the caller, time limits too.
//!
//! Source: `prometheus/common` v0.70, `config/http_config.go`.

mod connect;
mod credentials;
pub mod oauth2;
mod proxy;
mod tls;

#[cfg(test)]
mod tests;

pub(crate) use proxy::check_url as check_proxy_url;
pub(crate) use tls::check as check_tls;

use crate::config::HttpClientConfig;
use chronolith_storage::error::error_chain;
use connect::Connector;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::Uri;
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use oauth2::TokenSource;
use parking_lot::Mutex;
use proxy::Proxies;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tls::Material;

/// How many redirects are followed, as many as Go follows.
const MAX_REDIRECTS: usize = 10;

/// Requests come at an interval, and most intervals are shorter: their connections are worth keeping.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// What does not follow a redirect to another host.
const SENSITIVE_HEADERS: [HeaderName; 4] =
    [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION, header::WWW_AUTHENTICATE];

/// Why a request failed, or why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("invalid URL")]
    Url(#[from] hyper::http::uri::InvalidUri),
    #[error("unsupported protocol scheme {0:?}")]
    Scheme(String),
    #[error("unable to read {what} file {}", file.display())]
    File { what: &'static str, file: PathBuf, source: std::io::Error },
    #[error("{0} has characters that cannot be sent in a header")]
    Header(String),
    #[error("tls_config: {0}")]
    Tls(String),
    #[error("proxy_url: {0}")]
    Proxy(String),
    #[error("oauth2: {0}")]
    OAuth2(String),
    #[error("oauth2: cannot fetch a token from {url}")]
    Token { url: String, source: Box<HttpError> },
    #[error("stopped after {MAX_REDIRECTS} redirects")]
    Redirects,
    #[error("{0}")]
    Request(String),
    #[error("cannot read the body")]
    Body(#[from] hyper::Error),
}

/// A client as one section of the configuration asks for it. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct HttpClient {
    shared: Arc<Shared>,
}

struct Shared {
    config: HttpClientConfig,
    unix_socket: Option<PathBuf>,
    proxies: Proxies,
    tokens: Option<TokenSource>,
    transport: Mutex<Arc<Transport>>,
}

/// Connections under one set of certificates.
struct Transport {
    material: Material,
    client: Client<Connector, Full<Bytes>>,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl HttpClient {
    /// A client; with `unix_socket` all its connections go there.
    ///
    /// # Errors
    /// [`HttpError`] for certificates and proxies that cannot be used. Blocks to read the files.
    pub fn new(config: &HttpClientConfig, unix_socket: Option<&Path>) -> Result<Self, HttpError> {
        let proxies = Proxies::new(config, &|name| std::env::var(name).ok())?;
        let material = Material::read(&config.tls)?;
        let unix_socket = unix_socket.map(Path::to_owned);
        let transport = Transport::new(config, material, &proxies, unix_socket.as_deref())?;
        let tokens = config.oauth2.as_deref().map(TokenSource::new).transpose()?;
        Ok(Self {
            shared: Arc::new(Shared {
                config: config.clone(),
                unix_socket,
                proxies,
                tokens,
                transport: Mutex::new(Arc::new(transport)),
            }),
        })
    }

    /// Sends a request and waits for the head of its answer, following redirects if the configuration
    /// allows. Headers of the configuration and credentials are added to `headers`.
    ///
    /// # Errors
    /// [`HttpError`]; an answer with any status is none.
    pub async fn get(&self, url: &str, mut headers: HeaderMap) -> Result<Response<Incoming>, HttpError> {
        let shared = &*self.shared;
        let client = shared.current().await?;
        credentials::add(&mut headers, &shared.config).await?;
        if let Some(tokens) = &shared.tokens {
            headers.insert(header::AUTHORIZATION, tokens.authorization().await?);
        }
        let mut target: Uri = url.parse()?;
        let first_host = host_of(&target);
        for _ in 0..=MAX_REDIRECTS {
            let response = shared.exchange(&client, Method::GET, &target, &headers, Bytes::new()).await?;
            let location = response.headers().get(header::LOCATION).filter(|_| {
                shared.config.follow_redirects
                    && matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
            });
            let Some(location) = location else { return Ok(response) };
            target = resolve(&target, location)?;
            // Once it left the host, a chain of redirects gets no secrets any more.
            if !is_same_site(&host_of(&target), &first_host) {
                SENSITIVE_HEADERS.iter().for_each(|name| drop(headers.remove(name)));
            }
        }
        Err(HttpError::Redirects)
    }

    /// Posts a form, without following redirects.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post_form(
        &self,
        url: &str,
        mut headers: HeaderMap,
        form: String,
    ) -> Result<Response<Incoming>, HttpError> {
        let client = self.shared.current().await?;
        let content_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, content_type);
        self.shared.exchange(&client, Method::POST, &url.parse()?, &headers, Bytes::from(form)).await
    }
}

impl Shared {
    /// The connections to use now: others than before if a certificate file has changed.
    async fn current(&self) -> Result<Arc<Transport>, HttpError> {
        let transport = Arc::clone(&self.transport.lock());
        if !self.config.tls.has_files() {
            return Ok(transport);
        }
        let material = Material::read_async(&self.config.tls).await?;
        if material == transport.material {
            return Ok(transport);
        }
        let changed = Transport::new(&self.config, material, &self.proxies, self.unix_socket.as_deref())?;
        let changed = Arc::new(changed);
        *self.transport.lock() = Arc::clone(&changed);
        Ok(changed)
    }

    async fn exchange(
        &self,
        transport: &Transport,
        method: Method,
        url: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        let scheme = url.scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") {
            return Err(HttpError::Scheme(scheme.to_owned()));
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers.clone();
        // Through a proxy in plain, the request itself carries what the proxy asks for.
        if scheme == "http"
            && self.unix_socket.is_none()
            && let Some(authorization) = self.proxies.of(url).and_then(|proxy| proxy.authorization())
        {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
        }
        transport.client.request(request).await.map_err(|error| {
            // What failed to connect says so itself; hyper's own words before it add nothing.
            let cause = std::error::Error::source(&error).filter(|_| error.is_connect());
            HttpError::Request(cause.map_or_else(|| error_chain(&error), error_chain))
        })
    }
}

impl Transport {
    fn new(
        config: &HttpClientConfig,
        material: Material,
        proxies: &Proxies,
        unix_socket: Option<&Path>,
    ) -> Result<Self, HttpError> {
        let connector = Connector::new(config, &material, proxies.clone(), unix_socket)?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(Self { material, client })
    }
}

/// Lower case, brackets of IPv6 addresses taken off.
fn host_of(url: &Uri) -> String {
    url.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase()
}

fn is_same_site(host: &str, first: &str) -> bool {
    host == first || host.strip_suffix(first).is_some_and(|rest| rest.ends_with('.') && !host.contains(':'))
}

/// Where a redirect leads, from where it was met.
fn resolve(base: &Uri, location: &HeaderValue) -> Result<Uri, HttpError> {
    let location = std::str::from_utf8(location.as_bytes()).unwrap_or_default();
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) =
        (base.scheme_str().unwrap_or("http"), base.authority().map_or("", |a| a.as_str()));
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') || location.is_empty() {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    Ok(absolute.parse()?)
}
