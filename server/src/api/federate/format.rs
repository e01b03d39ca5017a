//! What a federating server accepts, and how names look that it may not know.
//!
//! Source: Prometheus's common library v0.70, `expfmt/encode.go`, `Negotiate`, and `model/metric.go`, `EscapeName`.

use axum::http::HeaderValue;
use chronolith_model::labels::is_legacy_metric_name;
use std::borrow::Cow;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// How samples are written.
    pub encoding: Encoding,
    /// What becomes of names that classic readers do not know.
    pub escaping: Escaping,
}

/// How samples are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `text/plain; version=0.0.4`
    Text,
    /// Delimited messages, which have native histograms, too.
    Protobuf,
}

/// What becomes of names that classic readers do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escaping {
    /// Nothing: in quotes.
    AllowUtf8,
    /// `_` for each such character.
    Underscores,
    /// `_dot_` for dots, `__` for others and for underscores.
    Dots,
    /// `U__` in front and the number of each such character.
    Values,
}

impl Escaping {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "allow-utf-8" => Self::AllowUtf8,
            "underscores" => Self::Underscores,
            "dots" => Self::Dots,
            "values" => Self::Values,
            _ => return None,
        })
    }

    /// The name as it is sent.
    pub fn escape(self, name: &str) -> Cow<'_, str> {
        if self == Self::AllowUtf8 || is_legacy_metric_name(name) || name.is_empty() {
            return name.into();
        }
        let fits = |at: usize, c: char| {
            c.is_ascii_alphabetic() || c == '_' || c == ':' || (at > 0 && c.is_ascii_digit())
        };
        let mut out = String::with_capacity(name.len() + 16);
        if self == Self::Values {
            out.push_str("U__");
        }
        for (at, c) in name.char_indices() {
            match (self, c) {
                (Self::Dots | Self::Values, '_') => out.push_str("__"),
                (Self::Dots, '.') => out.push_str("_dot_"),
                _ if fits(at, c) => out.push(c),
                (Self::Dots, _) => out.push_str("__"),
                (Self::Values, _) => out.push_str(&format!("_{:x}_", u32::from(c))),
                (Self::AllowUtf8 | Self::Underscores, _) => out.push('_'),
            }
        }
        out.into()
    }
}

impl Format {
    /// What an `Accept` header asks for; text with underscores unless it knows better.
    pub fn negotiate(accept: &str) -> Self {
        let mut clauses: Vec<Clause<'_>> = accept.split(',').filter_map(Clause::read).collect();
        clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        let mut escaping = Escaping::Underscores;
        for clause in clauses {
            escaping = Escaping::of(clause.param("escaping")).unwrap_or(escaping);
            let is_family = clause.param("proto") == "io.prometheus.client.MetricFamily"
                && clause.param("encoding") == "delimited";
            if clause.media == "application/vnd.google.protobuf" && is_family {
                return Self { encoding: Encoding::Protobuf, escaping };
            }
            if clause.media == "text/plain" && matches!(clause.param("version"), "" | "0.0.4") {
                break;
            }
        }
        Self { encoding: Encoding::Text, escaping }
    }

    /// The content type of the answer.
    pub fn content_type(self) -> HeaderValue {
        let media = match self.encoding {
            Encoding::Text => "text/plain; version=0.0.4; charset=utf-8",
            Encoding::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        };
        let escaping = match self.escaping {
            Escaping::AllowUtf8 => "allow-utf-8",
            Escaping::Underscores => "underscores",
            Escaping::Dots => "dots",
            Escaping::Values => "values",
        };
        HeaderValue::try_from(format!("{media}; escaping={escaping}")).expect("these are ASCII letters")
    }
}

/// A part of the header.
struct Clause<'h> {
    weight: f64,
    media: &'h str,
    params: Vec<(&'h str, &'h str)>,
}

impl<'h> Clause<'h> {
    fn read(text: &'h str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| !media.is_empty())?;
        let params = parts.filter_map(|part| part.split_once('='));
        let params = params.map(|(key, value)| (key.trim(), value.trim())).collect();
        let mut clause = Self { weight: 1.0, media, params };
        match clause.param("q") {
            "" => {}
            weight => clause.weight = weight.parse().unwrap_or(0.0),
        }
        Some(clause)
    }

    /// Empty if it is not there.
    fn param(&self, name: &str) -> &'h str {
        self.params.iter().rfind(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_format_that_is_known_is_taken() {
        let check = |accept: &str, expected: &str| {
            assert_eq!(Format::negotiate(accept).content_type().to_str().unwrap(), expected, "{accept}");
        };
        let text = |escaping: &str| format!("text/plain; version=0.0.4; charset=utf-8; escaping={escaping}");
        let protobuf = |escaping: &str| {
            format!(
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping={escaping}"
            )
        };
        const MESSAGES: &str =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        check("", &text("underscores"));
        check("*/*", &text("underscores"));
        // As a server asks by default: the escaping of the clause it likes best, the format of the first that is served.
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            &text("allow-utf-8"),
        );
        check(&format!("{MESSAGES};escaping=dots;q=0.6,text/plain;q=0.3"), &protobuf("dots"));
        check(&format!("{MESSAGES};q=0.2,text/plain;version=0.0.4;escaping=values;q=0.3"), &text("values"));
        check("application/vnd.google.protobuf;encoding=delimited;escaping=nonsense", &text("underscores"));
    }

    #[test]
    fn names_are_escaped_in_four_ways() {
        use Escaping::{AllowUtf8, Dots, Underscores, Values};
        for (escaping, name, expected) in [
            (Underscores, "http.ok_total", "http_ok_total"),
            (Underscores, "1a\u{e9}", "_a_"),
            (AllowUtf8, "http.ok", "http.ok"),
            (Dots, "http.ok_\u{e9}", "http_dot_ok____"),
            (Dots, "plain_name", "plain_name"),
            (Values, "http.ok_\u{e9}", "U__http_2e_ok___e9_"),
            (Values, "1a", "U___31_a"),
        ] {
            assert_eq!(escaping.escape(name), expected, "{escaping:?} {name}");
        }
    }
}
