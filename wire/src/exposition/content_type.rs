//! Which format a body is in, by the header that came with it.
//!
//! Source: Prometheus v3.14, `model/textparse/interface.go`, `extractMediaType`.

/// A format of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The Prometheus text format, versions 0.0.4 and 1.0.0.
    Text,
    /// OpenMetrics text, versions 0.0.1 and 1.0.0.
    OpenMetrics,
    /// Protobuf messages with their lengths, see [`super::protobuf`].
    Protobuf,
}

/// Why the format is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentTypeError {
    /// No header at all.
    #[error(
        "non-compliant scrape target sending blank Content-Type and no fallback_scrape_protocol specified for target"
    )]
    Blank,
    /// A header that does not follow its grammar.
    #[error("cannot parse Content-Type {0:?} and no fallback_scrape_protocol for target")]
    Malformed(String),
    /// A media type that is no format of metrics.
    #[error("received unsupported Content-Type {0:?} and no fallback_scrape_protocol specified for target")]
    Unsupported(String),
}

impl Format {
    /// The format that a `Content-Type` header names; `fallback`, if there is one, wherever that
    /// would be an error.
    ///
    /// # Errors
    /// [`ContentTypeError`] without a usable header and without a fallback.
    pub fn from_content_type(header: &str, fallback: Option<Self>) -> Result<Self, ContentTypeError> {
        Self::named_by(header).or_else(|error| fallback.ok_or(error))
    }

    fn named_by(header: &str) -> Result<Self, ContentTypeError> {
        if header.is_empty() {
            return Err(ContentTypeError::Blank);
        }
        let (media_type, parameters) = header.split_once(';').unwrap_or((header, ""));
        let media_type = media_type.trim().to_ascii_lowercase();
        if media_type.is_empty() || !are_parameters(parameters) {
            return Err(ContentTypeError::Malformed(header.to_owned()));
        }
        match media_type.as_str() {
            "text/plain" => Ok(Self::Text),
            "application/openmetrics-text" => Ok(Self::OpenMetrics),
            "application/vnd.google.protobuf" => Ok(Self::Protobuf),
            _ => Err(ContentTypeError::Unsupported(header.to_owned())),
        }
    }
}

/// Whether `text` is `name=value` pairs between semicolons; values may be quoted.
fn are_parameters(text: &str) -> bool {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((name, after)) = rest.split_once('=') else { return false };
        if !is_token(name.trim()) {
            return false;
        }
        rest = if let Some(quoted) = after.strip_prefix('"') {
            match quoted.split_once('"') {
                Some((_, after)) => after.trim_start(),
                None => return false,
            }
        } else {
            let end = after.find(';').unwrap_or(after.len());
            if !is_token(after[..end].trim_end()) {
                return false;
            }
            &after[end..]
        };
        rest = match rest.strip_prefix(';') {
            Some(after) => after.trim_start(),
            None if rest.is_empty() => rest,
            None => return false,
        };
    }
    true
}

/// A token of RFC 7230.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_formats() {
        let check = |header, expected| {
            assert_eq!(Format::from_content_type(header, None).ok(), expected, "{header:?}");
        };
        check("text/plain", Some(Format::Text));
        check("text/plain; version=0.0.4; charset=utf-8", Some(Format::Text));
        check("Text/Plain;version=1.0.0;escaping=allow-utf-8", Some(Format::Text));
        check("text/plain; charset=\"utf-8\";", Some(Format::Text));
        check("application/openmetrics-text; version=1.0.0; charset=utf-8", Some(Format::OpenMetrics));
        check("application/json", None);
        check("text/html", None);
        check("", None);
        check("text/plain; version", None);
    }

    #[test]
    fn a_fallback_is_used_where_the_header_is_of_no_use() {
        for header in ["", "text/html", "text/plain; version"] {
            let format = Format::from_content_type(header, Some(Format::Text));
            assert_eq!(format, Ok(Format::Text), "{header:?}");
        }
        let format = Format::from_content_type("application/openmetrics-text", Some(Format::Text));
        assert_eq!(format, Ok(Format::OpenMetrics));
    }
}
