//! The keys that every section has that talks HTTP: authentication, TLS, proxies, headers.
//!
//! Source: Prometheus common, `config/http_config.go`, `HTTPClientConfig.Validate`.

use super::types::{
    Authorization, BasicAuth, HttpClientConfig, HttpHeader, OAuth2, Secret, TlsConfig, TlsVersion,
};
use super::yaml::{Node, Result, Section};
use crate::http_client;
use chronolith_storage::error::error_chain;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a file is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'p> {
    /// The folder of the file, where relative paths start.
    pub dir: &'p Path,
    /// Whether certificates that are named have to be there and to make sense.
    pub checks_files: bool,
}

/// The keys that [`read`] takes from a section.
pub(crate) const KEYS: [&str; 13] = [
    "basic_auth",
    "authorization",
    "oauth2",
    "bearer_token",
    "bearer_token_file",
    "tls_config",
    "follow_redirects",
    "enable_http2",
    "proxy_url",
    "no_proxy",
    "proxy_from_environment",
    "proxy_connect_header",
    "http_headers",
];

/// Headers that a configuration must leave alone.
pub(crate) const RESERVED_HEADERS: [&str; 16] = [
    "host",
    "content-encoding",
    "content-length",
    "content-type",
    "user-agent",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
    "accept-encoding",
    "x-prometheus-remote-write-version",
    "x-prometheus-remote-read-version",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
];

/// What `http_headers` must leave alone besides: it has keys of its own.
const HEADERS_WITH_KEYS: [&str; 2] = ["authorization", "x-prometheus-scrape-timeout-seconds"];

/// Reads and checks the HTTP keys of a section.
pub(crate) fn read(section: &Section<'_>, dir: Base<'_>) -> Result<HttpClientConfig> {
    let basic_auth = section.get("basic_auth").map(|node| read_basic_auth(section, node, dir)).transpose()?;
    let mut authorization =
        section.get("authorization").map(|node| read_authorization(section, node, dir)).transpose()?;
    let oauth2 = section.get("oauth2").map(|node| read_oauth2(section, node, dir)).transpose()?;
    let bearer_token = section.text("bearer_token")?.filter(|text| !text.is_empty());
    let bearer_token_file = path(section, "bearer_token_file", dir)?;
    let mut config = HttpClientConfig {
        tls: match section.get("tls_config") {
            Some(node) => read_tls(node, section.path_of("tls_config"), dir)?,
            None => TlsConfig::default(),
        },
        follow_redirects: section.boolean("follow_redirects")?.unwrap_or(true),
        enable_http2: section.boolean("enable_http2")?.unwrap_or(true),
        headers: read_headers(section, dir)?,
        ..HttpClientConfig::default()
    };
    read_proxy(section, &mut config)?;

    let has_bearer = bearer_token.is_some() || bearer_token_file.is_some();
    if bearer_token.is_some() && bearer_token_file.is_some() {
        return Err(section.problem_at(
            "bearer_token",
            "at most one of bearer_token & bearer_token_file must be configured",
        ));
    }
    if has_bearer && (basic_auth.is_some() || oauth2.is_some()) {
        return Err(section.problem_at(
            "bearer_token",
            "at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured",
        ));
    }
    if has_bearer && authorization.is_some() {
        return Err(section.problem_at(
            "authorization",
            "authorization is not compatible with bearer_token & bearer_token_file",
        ));
    }
    if [basic_auth.is_some(), authorization.is_some(), oauth2.is_some()]
        .iter()
        .filter(|given| **given)
        .count()
        > 1
    {
        return Err(section.problem("at most one of basic_auth, oauth2 & authorization must be configured"));
    }
    if has_bearer {
        authorization = Some(Authorization {
            scheme: "Bearer".to_owned(),
            credentials: Secret::new(bearer_token.unwrap_or_default()),
            credentials_file: bearer_token_file,
        });
    }
    config.basic_auth = basic_auth;
    config.authorization = authorization;
    config.oauth2 = oauth2.map(Box::new);
    Ok(config)
}

/// The keys about proxies, which stand in `oauth2` sections, too.
fn read_proxy(section: &Section<'_>, config: &mut HttpClientConfig) -> Result<()> {
    config.proxy_url = section.text("proxy_url")?.filter(|text| !text.is_empty());
    config.no_proxy = section.text("no_proxy")?.unwrap_or_default();
    config.proxy_from_environment = section.boolean("proxy_from_environment")?.unwrap_or(false);
    config.proxy_connect_header = read_connect_header(section)?;
    if let Some(url) = &config.proxy_url {
        http_client::check_proxy_url(url).map_err(|error| {
            let shown = crate::config::show::hide_url_password(url);
            section.problem_at("proxy_url", format!("{}: {shown:?}: {error}", section.path))
        })?;
    }
    let has_proxy = config.proxy_url.is_some();
    let (key, reason) = if config.proxy_from_environment && has_proxy {
        ("proxy_url", "if proxy_from_environment is configured, proxy_url must not be configured")
    } else if config.proxy_from_environment && !config.no_proxy.is_empty() {
        ("no_proxy", "if proxy_from_environment is configured, no_proxy must not be configured")
    } else if !has_proxy && !config.no_proxy.is_empty() {
        ("no_proxy", "if no_proxy is configured, proxy_url must also be configured")
    } else if !config.proxy_connect_header.is_empty() && !has_proxy && !config.proxy_from_environment {
        (
            "proxy_connect_header",
            "if proxy_connect_header is configured, proxy_url or proxy_from_environment must also be configured",
        )
    } else {
        return Ok(());
    };
    Err(section.problem_at(key, reason))
}

fn read_basic_auth(parent: &Section<'_>, node: &Node, dir: Base<'_>) -> Result<BasicAuth> {
    let section = Section::new(node, parent.path_of("basic_auth"))?;
    let auth = BasicAuth {
        username: section.text("username")?.unwrap_or_default(),
        username_file: path(&section, "username_file", dir)?,
        password: Secret::new(section.text("password")?.unwrap_or_default()),
        password_file: path(&section, "password_file", dir)?,
    };
    section.finish()?;
    if !auth.username.is_empty() && auth.username_file.is_some() {
        return Err(section.problem("at most one of basic_auth username & username_file must be configured"));
    }
    if !auth.password.expose().is_empty() && auth.password_file.is_some() {
        return Err(section.problem("at most one of basic_auth password & password_file must be configured"));
    }
    Ok(auth)
}

fn read_authorization(parent: &Section<'_>, node: &Node, dir: Base<'_>) -> Result<Authorization> {
    let section = Section::new(node, parent.path_of("authorization"))?;
    let scheme = section.text("type")?.unwrap_or_default().trim().to_owned();
    let auth = Authorization {
        scheme: if scheme.is_empty() { "Bearer".to_owned() } else { scheme },
        credentials: Secret::new(section.text("credentials")?.unwrap_or_default()),
        credentials_file: path(&section, "credentials_file", dir)?,
    };
    section.finish()?;
    if !auth.credentials.expose().is_empty() && auth.credentials_file.is_some() {
        return Err(
            section.problem("at most one of authorization credentials & credentials_file must be configured")
        );
    }
    if auth.scheme.eq_ignore_ascii_case("basic") {
        return Err(section.problem_at(
            "type",
            "authorization type cannot be set to \"basic\", use \"basic_auth\" instead",
        ));
    }
    Ok(auth)
}

fn read_oauth2(parent: &Section<'_>, node: &Node, dir: Base<'_>) -> Result<OAuth2> {
    let section = Section::new(node, parent.path_of("oauth2"))?;
    let mut http = HttpClientConfig { follow_redirects: false, ..HttpClientConfig::default() };
    let client_id = section.text("client_id")?.unwrap_or_default();
    let token_url = section.text("token_url")?.unwrap_or_default();
    let client_secret = Secret::new(section.text("client_secret")?.unwrap_or_default());
    let client_secret_file = path(&section, "client_secret_file", dir)?;
    let grant_type = section.text("grant_type")?.unwrap_or_default();
    for key in [
        "client_certificate_key_id",
        "client_certificate_key",
        "client_certificate_key_file",
        "signature_algorithm",
        "iss",
        "audience",
    ] {
        section.text(key)?;
    }
    section.node("claims");
    let scopes = section.texts("scopes")?;
    let endpoint_params = section.text_map("endpoint_params")?.into_iter().collect();
    if let Some(node) = section.get("tls_config") {
        http.tls = read_tls(node, section.path_of("tls_config"), dir)?;
    }
    section.knows(&["proxy_url", "no_proxy", "proxy_from_environment", "proxy_connect_header"]);
    section.finish()?;
    read_proxy(&section, &mut http)?;
    if client_id.is_empty() {
        return Err(section.problem("oauth2 client_id must be configured"));
    }
    if token_url.is_empty() {
        return Err(section.problem("oauth2 token_url must be configured"));
    }
    check_url(&section, "token_url", &token_url)?;
    if !client_secret.expose().is_empty() && client_secret_file.is_some() {
        return Err(
            section.problem("at most one of oauth2 client_secret & client_secret_file must be configured")
        );
    }
    let needs_jwt = match grant_type.as_str() {
        "" | "client_credentials" => false,
        "urn:ietf:params:oauth:grant-type:jwt-bearer" => true,
        other => {
            return Err(section.problem_at("grant_type", format!("unsupported oauth2 grant_type {other:?}")));
        }
    };
    Ok(OAuth2 {
        client_id,
        client_secret,
        client_secret_file,
        scopes,
        token_url,
        endpoint_params,
        needs_jwt,
        http,
    })
}

/// A URL that requests are sent to: `http` or `https`, and a host.
fn check_url(section: &Section<'_>, key: &'static str, url: &str) -> Result<()> {
    let parsed: std::result::Result<hyper::http::Uri, _> = url.parse();
    let reason = match parsed {
        Err(error) => error.to_string(),
        Ok(url) if !matches!(url.scheme_str(), Some("http" | "https")) => {
            "it starts with neither http:// nor https://".to_owned()
        }
        Ok(url) if url.host().is_none_or(str::is_empty) => "it has no host".to_owned(),
        Ok(_) => return Ok(()),
    };
    let shown = crate::config::show::hide_url_password(url);
    Err(section.problem_at(key, format!("{}: {shown:?} is not a URL: {reason}", section.path_of(key))))
}

/// Reads a `tls_config`.
pub(crate) fn read_tls(node: &Node, at: String, dir: Base<'_>) -> Result<TlsConfig> {
    let section = Section::new(node, at)?;
    let text = |key| Ok(section.text(key)?.filter(|text| !text.is_empty()));
    let config = TlsConfig {
        ca: text("ca")?,
        cert: text("cert")?,
        key: text("key")?.map(Secret::new),
        ca_file: path(&section, "ca_file", dir)?,
        cert_file: path(&section, "cert_file", dir)?,
        key_file: path(&section, "key_file", dir)?,
        server_name: text("server_name")?.unwrap_or_default(),
        insecure_skip_verify: section.boolean("insecure_skip_verify")?.unwrap_or(false),
        min_version: read_tls_version(&section, "min_version")?,
        max_version: read_tls_version(&section, "max_version")?,
    };
    section.finish()?;
    for (one, two, both) in [
        (config.ca.is_some(), config.ca_file.is_some(), "at most one of ca and ca_file must be configured"),
        (
            config.cert.is_some(),
            config.cert_file.is_some(),
            "at most one of cert and cert_file must be configured",
        ),
        (
            config.key.is_some(),
            config.key_file.is_some(),
            "at most one of key and key_file must be configured",
        ),
    ] {
        if one && two {
            return Err(section.problem(both));
        }
    }
    let has_cert = config.cert.is_some() || config.cert_file.is_some();
    let has_key = config.key.is_some() || config.key_file.is_some();
    if has_cert && !has_key {
        return Err(section.problem(
            "exactly one of key or key_file must be configured when a client certificate is configured",
        ));
    }
    if has_key && !has_cert {
        return Err(section
            .problem("exactly one of cert or cert_file must be configured when a client key is configured"));
    }
    if let (Some(min), Some(max)) = (config.min_version, config.max_version)
        && max < min
    {
        return Err(section.problem("tls_config.max_version must be greater than or equal to tls_config.min_version if both are specified"));
    }
    if dir.checks_files {
        http_client::check_tls(&config).map_err(|(key, error)| {
            section.problem_at(key, format!("{}: {}", section.path_of(key), error_chain(&error)))
        })?;
    }
    Ok(config)
}

fn read_tls_version(section: &Section<'_>, key: &'static str) -> Result<Option<TlsVersion>> {
    match section.text(key)?.as_deref() {
        None | Some("") => Ok(None),
        Some("TLS10") => Ok(Some(TlsVersion::Tls10)),
        Some("TLS11") => Ok(Some(TlsVersion::Tls11)),
        Some("TLS12") => Ok(Some(TlsVersion::Tls12)),
        Some("TLS13") => Ok(Some(TlsVersion::Tls13)),
        Some(other) => Err(section.problem_at(key, format!("unknown TLS version: {other}"))),
    }
}

fn read_connect_header(section: &Section<'_>) -> Result<BTreeMap<String, Vec<Secret>>> {
    let at = section.path_of("proxy_connect_header");
    let mut headers = BTreeMap::new();
    let Some(node) = section.get("proxy_connect_header") else { return Ok(headers) };
    for (name, values) in node.as_mapping(&at)? {
        let texts =
            values.as_list(&at)?.iter().map(|item| item.as_text(&at).map(|t| Secret::new(t.to_owned())));
        headers.insert(name.as_text(&at)?.to_owned(), texts.collect::<Result<_>>()?);
    }
    Ok(headers)
}

fn read_headers(section: &Section<'_>, dir: Base<'_>) -> Result<BTreeMap<String, HttpHeader>> {
    let at = section.path_of("http_headers");
    let mut headers = BTreeMap::new();
    let Some(node) = section.get("http_headers") else { return Ok(headers) };
    for (name, value) in node.as_mapping(&at)? {
        let name_text = name.as_text(&at)?.to_owned();
        let lower = name_text.to_ascii_lowercase();
        if RESERVED_HEADERS.contains(&lower.as_str()) || HEADERS_WITH_KEYS.contains(&lower.as_str()) {
            return Err(name.problem(format!("setting header {name_text:?} is not allowed")));
        }
        let header = Section::new(value, format!("{at}.{name_text}"))?;
        let entry = HttpHeader {
            values: header.texts("values")?,
            secrets: header.texts("secrets")?.into_iter().map(Secret::new).collect(),
            files: header.texts("files")?.iter().map(|file| join(dir, file)).collect(),
        };
        header.finish()?;
        headers.insert(name_text, entry);
    }
    Ok(headers)
}

/// A path in a section, joined with `dir` where relative; `None` where absent or empty.
pub(crate) fn path(section: &Section<'_>, key: &'static str, dir: Base<'_>) -> Result<Option<PathBuf>> {
    Ok(section.text(key)?.filter(|text| !text.is_empty()).map(|text| join(dir, &text)))
}

/// `file` as seen from the folder of the configuration.
pub(crate) fn join(base: Base<'_>, file: &str) -> PathBuf {
    if file.is_empty() { PathBuf::new() } else { base.dir.join(file) }
}
