//! Label matchers with Prometheus's semantics: a label that is absent has the value "".

use crate::re2::{self, Re2, Re2Error};
use std::fmt;

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, fully anchored
    Regex,
    /// `!~`, fully anchored
    NotRegex,
}

impl MatchOp {
    /// The operator as PromQL writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// One condition on one label.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// Label name.
    pub name: String,
    /// How `value` is compared.
    pub op: MatchOp,
    /// The value or the pattern. Where what was written is not UTF-8 (see [`Matcher::written`]), a value has the
    /// replacement character instead, and a pattern says the same in other words.
    pub value: String,
    regex: Option<Re2>,
    /// What was written, if that is not UTF-8. Label values are, so none is equal to it.
    not_utf8: Option<Box<[u8]>>,
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op
            && self.name == other.name
            && self.value == other.value
            && self.not_utf8 == other.not_utf8
    }
}

impl Matcher {
    /// A matcher; compiles the pattern of a regex matcher.
    ///
    /// # Errors
    /// [`Re2Error`] if the pattern is not RE2 syntax or its program would be too large.
    pub fn new(op: MatchOp, name: impl Into<String>, value: impl Into<String>) -> Result<Self, Re2Error> {
        let value = value.into();
        let regex = match op {
            MatchOp::Regex | MatchOp::NotRegex => Some(Re2::anchored(&value)?),
            MatchOp::Equal | MatchOp::NotEqual => None,
        };
        Ok(Self { name: name.into(), op, value, regex, not_utf8: None })
    }

    /// As [`Matcher::new`], of a value that need not be UTF-8: strings of PromQL are bytes.
    ///
    /// # Errors
    /// As [`Matcher::new`]. Patterns that are more than a choice of strings have to be UTF-8.
    pub fn from_bytes(op: MatchOp, name: impl Into<String>, value: Vec<u8>) -> Result<Self, Re2Error> {
        let value = match String::from_utf8(value) {
            Ok(value) => return Self::new(op, name, value),
            Err(error) => error.into_bytes(),
        };
        let effective = match op {
            MatchOp::Regex | MatchOp::NotRegex => re2::utf8_part(&value)?,
            MatchOp::Equal | MatchOp::NotEqual => String::from_utf8_lossy(&value).into_owned(),
        };
        Ok(Self { not_utf8: Some(value.into()), ..Self::new(op, name, effective)? })
    }

    /// `name="value"`
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None, not_utf8: None }
    }

    /// Whether a label with this value (empty: absent) satisfies the matcher.
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.regex) {
            (MatchOp::Equal, _) => self.exact_value() == Some(value),
            (MatchOp::NotEqual, _) => self.exact_value() != Some(value),
            (MatchOp::Regex, Some(regex)) => regex.is_match(value),
            (MatchOp::NotRegex, Some(regex)) => !regex.is_match(value),
            (MatchOp::Regex | MatchOp::NotRegex, None) => unreachable!("regex matchers hold a program"),
        }
    }

    /// Whether series without the label satisfy the matcher.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The value of `=` or `!=`, or the text of a pattern; `None` if no label can have this value.
    pub fn exact_value(&self) -> Option<&str> {
        let pattern = self.regex.is_some();
        (pattern || self.not_utf8.is_none()).then_some(self.value.as_str())
    }

    /// The value or the pattern to the byte.
    pub fn written(&self) -> &[u8] {
        self.not_utf8.as_deref().unwrap_or(self.value.as_bytes())
    }

    /// The compiled pattern of a regex matcher.
    pub fn regex(&self) -> Option<&Re2> {
        self.regex.as_ref()
    }

    /// The same condition turned around.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let op = match self.op {
            MatchOp::Equal => MatchOp::NotEqual,
            MatchOp::NotEqual => MatchOp::Equal,
            MatchOp::Regex => MatchOp::NotRegex,
            MatchOp::NotRegex => MatchOp::Regex,
        };
        Self { op, ..self.clone() }
    }
}

/// As PromQL writes it; names that are not legacy names are quoted.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if crate::labels::is_legacy_label_name(&self.name) {
            f.write_str(&self.name)?;
        } else {
            crate::labels::write_quoted(f, &self.name)?;
        }
        f.write_str(self.op.as_str())?;
        crate::labels::write_quoted_bytes(f, self.written())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regex_is_anchored_and_empty_means_absent() {
        let matcher = Matcher::new(MatchOp::Regex, "a", "b.*").unwrap();
        assert!(matcher.matches("bar\nx"));
        assert!(!matcher.matches("abar"));
        assert!(!matcher.matches_empty());
        assert!(matcher.inverse().matches_empty());
    }

    #[test]
    fn a_value_that_is_not_utf8_equals_no_label() {
        let matcher = |op, value: &[u8]| Matcher::from_bytes(op, "a", value.to_vec()).unwrap();
        for value in ["", "x", "\u{fffd}", "\u{ff}"] {
            assert!(!matcher(MatchOp::Equal, b"\xff").matches(value));
            assert!(matcher(MatchOp::NotEqual, b"\xff").matches(value));
            assert!(!matcher(MatchOp::Regex, b"\xff").matches(value));
            assert!(matcher(MatchOp::NotRegex, b"\xff").matches(value));
            assert_eq!(matcher(MatchOp::Regex, b"\xff|x|y\xfe").matches(value), value == "x");
            assert_eq!(matcher(MatchOp::NotRegex, b"|\xff").matches(value), !value.is_empty());
        }
        assert_eq!(matcher(MatchOp::Equal, b"\xff").to_string(), r#"a="\xff""#);
        assert_eq!(matcher(MatchOp::Regex, b"x|\xc3\xa9\xff").to_string(), r#"a=~"x|é\xff""#);
        assert_eq!(matcher(MatchOp::Equal, b"\xff").exact_value(), None);
        assert_ne!(matcher(MatchOp::Equal, b"\xff"), Matcher::equal("a", "\u{fffd}"));
    }

    #[test]
    fn patterns_that_are_not_utf8_are_refused_where_go_meets_them() {
        let cases: [(&[u8], &str); 7] = [
            (b"(x\xff", "invalid UTF-8: `\u{fffd}`"),
            (b"x.\xff-", "invalid UTF-8: `\u{fffd}-`"),
            (b"x)\xff", "unexpected ): `x)\u{fffd}`"),
            (b"x[\xff", "invalid UTF-8: `\u{fffd}`"),
            (b"\\Qx\xff", "invalid UTF-8: `\u{fffd}`"),
            (b"\\x1\xff", "invalid UTF-8: `\u{fffd}`"),
            (b"x{2}{3}\xff", "invalid nested repetition operator: `{2}{3}`"),
        ];
        for (pattern, reason) in cases {
            let error = Matcher::from_bytes(MatchOp::Regex, "a", pattern.to_vec()).unwrap_err();
            assert_eq!(error.reason, reason);
        }
    }
}
