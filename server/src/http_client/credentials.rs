//! Headers and credentials of a configuration, as they are at the time of a request.

use super::HttpError;
use crate::config::{BasicAuth, HttpClientConfig};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::path::Path;

/// Adds `http_headers`, `basic_auth` and `authorization`.
pub(super) async fn add(headers: &mut HeaderMap, config: &HttpClientConfig) -> Result<(), HttpError> {
    for (name, header) in &config.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| HttpError::Header(format!("the header name {name:?}")))?;
        for value in &header.values {
            headers.append(&name, value_of(value, || format!("a value of {name}"))?);
        }
        for secret in &header.secrets {
            headers.append(&name, secret_of(secret.expose(), || format!("a secret of {name}"))?);
        }
        for file in &header.files {
            let secret = read_secret("header", file).await?;
            headers.append(&name, secret_of(&secret, || file.display().to_string())?);
        }
    }
    if let Some(auth) = &config.basic_auth {
        headers.insert(header::AUTHORIZATION, basic_auth(auth).await?);
    }
    if let Some(auth) = &config.authorization {
        let credentials = match &auth.credentials_file {
            Some(file) => read_secret("credentials", file).await?,
            None => auth.credentials.expose().to_owned(),
        };
        let value = format!("{} {credentials}", auth.scheme);
        headers.insert(header::AUTHORIZATION, secret_of(&value, || "authorization".to_owned())?);
    }
    Ok(())
}

async fn basic_auth(auth: &BasicAuth) -> Result<HeaderValue, HttpError> {
    let username = match &auth.username_file {
        Some(file) => read_secret("username", file).await?,
        None => auth.username.clone(),
    };
    let password = match &auth.password_file {
        Some(file) => read_secret("password", file).await?,
        None => auth.password.expose().to_owned(),
    };
    Ok(basic(&username, &password))
}

/// The value of an `Authorization` header for a user.
pub(super) fn basic(username: &str, password: &str) -> HeaderValue {
    let value = format!("Basic {}", base64(format!("{username}:{password}").as_bytes()));
    let mut value = HeaderValue::from_str(&value).expect("base 64 is plain ASCII");
    value.set_sensitive(true);
    value
}

/// A secret out of a file, without the white space around it.
pub(super) async fn read_secret(what: &'static str, file: &Path) -> Result<String, HttpError> {
    let read = tokio::fs::read_to_string(file).await;
    let text = read.map_err(|source| HttpError::File { what, file: file.to_owned(), source })?;
    Ok(text.trim().to_owned())
}

/// A header value that is never shown; `what` names it in the error.
pub(super) fn secret_of(text: &str, what: impl FnOnce() -> String) -> Result<HeaderValue, HttpError> {
    let mut value = value_of(text, what)?;
    value.set_sensitive(true);
    Ok(value)
}

fn value_of(text: &str, what: impl FnOnce() -> String) -> Result<HeaderValue, HttpError> {
    HeaderValue::from_str(text).map_err(|_| HttpError::Header(what()))
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
