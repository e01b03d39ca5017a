//! Go's RE2 syntax on Rust's regex engine.

/// A fully anchored pattern in which the dot matches newlines, as matchers and relabelling use.
#[derive(Clone, Debug)]
pub struct Re2 {
    regex: regex::Regex,
}

/// The pattern is not RE2 syntax, or its program would be too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {reason}")]
pub struct Re2Error {
    /// What is wrong, in Go's words where there is a counterpart.
    pub reason: String,
}

impl Re2 {
    /// Compiles `^(?s:pattern)$`.
    ///
    /// # Errors
    /// [`Re2Error`] if the pattern is not RE2 syntax or its program would be too large.
    pub fn anchored(pattern: &str) -> Result<Self, Re2Error> {
        let regex = regex::Regex::new(&format!("^(?s:{pattern})$"))
            .map_err(|error| Re2Error { reason: error.to_string() })?;
        Ok(Self { regex })
    }

    /// Whether the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}
