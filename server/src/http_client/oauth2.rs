//! OAuth 2 by client credentials (RFC 6749, section 4.4): a token is fetched when it is needed and kept
//! until shortly before it expires.
//!
//! Source: Go, `golang.org/x/oauth2`, `clientcredentials` and `internal/token.go`.

use super::credentials::{basic, read_secret, secret_of};
use super::{HttpClient, HttpError};
use crate::config::OAuth2;
use http_body_util::{BodyExt, Limited};
use hyper::header::{self, HeaderMap, HeaderValue};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// A token is renewed this long before it expires, so that it is still good when it arrives.
const RENEW_BEFORE: Duration = Duration::from_secs(10);

/// No answer with a token is larger.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// How much of an answer an error shows.
const EXCERPT_BYTES: usize = 200;

/// Where tokens of one section come from.
pub(super) struct TokenSource {
    config: OAuth2,
    client: HttpClient,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// What the token endpoint was found to want; `None` before the first token.
    style: Option<Style>,
}

struct Token {
    authorization: HeaderValue,
    renew_at: Option<Instant>,
    /// The secret it was got with: another one wants another token.
    secret: String,
}

/// How the client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Header,
    Form,
}

/// A request that did not give a token.
enum Failure {
    /// The endpoint answered, but not with success.
    Refused(HttpError),
    Other(HttpError),
}

#[derive(serde::Deserialize)]
struct Answer {
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    token_type: String,
    /// Seconds; some endpoints write them as text.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl TokenSource {
    pub fn new(config: &OAuth2) -> Result<Self, HttpError> {
        let client = HttpClient::new(&config.http, None)?;
        Ok(Self { config: config.clone(), client, state: tokio::sync::Mutex::default() })
    }

    /// The value of the `Authorization` header, with a token that is still good. Requests that come while
    /// a token is fetched wait for it.
    pub async fn authorization(&self) -> Result<HeaderValue, HttpError> {
        let secret = match &self.config.client_secret_file {
            Some(file) => read_secret("client secret", file).await?,
            None => self.config.client_secret.expose().to_owned(),
        };
        let mut state = self.state.lock().await;
        if let Some(token) = &state.token
            && token.secret == secret
            && token.renew_at.is_none_or(|renew_at| Instant::now() < renew_at)
        {
            return Ok(token.authorization.clone());
        }
        let (token, style) = self.fetch(&secret, state.style).await?;
        let authorization = token.authorization.clone();
        *state = State { token: Some(token), style: Some(style) };
        Ok(authorization)
    }

    /// As upstream, an endpoint that refuses the header is asked again by form.
    async fn fetch(&self, secret: &str, style: Option<Style>) -> Result<(Token, Style), HttpError> {
        let failed = |source: HttpError| HttpError::Token {
            url: self.config.token_url.clone(),
            source: Box::new(source),
        };
        let first = style.unwrap_or(Style::Header);
        match self.request(secret, first).await {
            Ok(token) => Ok((token, first)),
            Err(Failure::Refused(_)) if style.is_none() => match self.request(secret, Style::Form).await {
                Ok(token) => Ok((token, Style::Form)),
                Err(Failure::Refused(error) | Failure::Other(error)) => Err(failed(error)),
            },
            Err(Failure::Refused(error) | Failure::Other(error)) => Err(failed(error)),
        }
    }

    async fn request(&self, secret: &str, style: Style) -> Result<Token, Failure> {
        let mut form = String::new();
        let mut pairs = vec![("grant_type", "client_credentials".to_owned())];
        if !self.config.scopes.is_empty() {
            pairs.push(("scope", self.config.scopes.join(" ")));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(crate::build::USER_AGENT));
        match style {
            Style::Header => {
                let value = basic(&escaped(&self.config.client_id), &escaped(secret));
                headers.insert(header::AUTHORIZATION, value);
            }
            Style::Form => {
                pairs.push(("client_id", self.config.client_id.clone()));
                pairs.push(("client_secret", secret.to_owned()));
            }
        }
        // A parameter of the configuration replaces one of ours with the same name.
        pairs.retain(|(name, _)| !self.config.endpoint_params.contains_key(*name));
        let parameters = self.config.endpoint_params.iter().map(|(name, value)| (name.as_str(), value));
        for (name, value) in pairs.iter().map(|(name, value)| (*name, value)).chain(parameters) {
            let separator = if form.is_empty() { "" } else { "&" };
            form.push_str(&format!("{separator}{}={}", escaped(name), escaped(value)));
        }
        let asked_at = Instant::now();
        let sent = self.client.post_form(&self.config.token_url, headers, form).await;
        let response = sent.map_err(Failure::Other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body
            .map_err(|error| Failure::Other(HttpError::OAuth2(format!("cannot read the answer: {error}"))))?;
        let body = body.to_bytes();
        let excerpt = || String::from_utf8_lossy(&body[..body.len().min(EXCERPT_BYTES)]).trim().to_owned();
        if !status.is_success() {
            let reason = format!("the endpoint answered {status}: {:?}", excerpt());
            return Err(Failure::Refused(HttpError::OAuth2(reason)));
        }
        let answer: Answer = serde_json::from_slice(&body)
            // The answer may hold a token, so it is not shown.
            .map_err(|error| {
                Failure::Other(HttpError::OAuth2(format!("the answer is not what RFC 6749 says: {error}")))
            })?;
        token(answer, secret, asked_at).map_err(Failure::Other)
    }
}

fn token(answer: Answer, secret: &str, asked_at: Instant) -> Result<Token, HttpError> {
    if answer.access_token.is_empty() {
        return Err(HttpError::OAuth2("the answer has no access_token".to_owned()));
    }
    let scheme = match answer.token_type.to_ascii_lowercase().as_str() {
        "" | "bearer" => "Bearer",
        "mac" => "MAC",
        "basic" => "Basic",
        _ => &answer.token_type,
    };
    let value = format!("{scheme} {}", answer.access_token);
    let seconds = match &answer.expires_in {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let renew_at = seconds.filter(|seconds| *seconds > 0).map(|seconds| {
        let lifetime = Duration::from_secs(seconds.min(u64::from(u32::MAX)));
        asked_at + lifetime.saturating_sub(RENEW_BEFORE)
    });
    Ok(Token {
        authorization: secret_of(&value, || "the token".to_owned())?,
        renew_at,
        secret: secret.to_owned(),
    })
}

/// As `application/x-www-form-urlencoded` has it.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a string does not fail"),
        }
    }
    out
}
