//! Label sets and the two orders they are kept in.
//!
//! The engine identifies series by *canonical* labels: sorted by name, each name once, labels with
//! an empty value left out (to Prometheus an empty value means that the label is absent).

use std::cmp::Ordering;
use std::fmt;

/// The label that holds the metric name.
pub const METRIC_NAME: &str = "__name__";

/// One label: a name and a value that is not empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// UTF-8, not empty.
    pub name: String,
    /// UTF-8, not empty.
    pub value: String,
}

/// A canonical label set: sorted by name (as bytes), each name once, no empty value.
///
/// `Ord` is [`api_order`], the order of Prometheus's `labels.Compare`.
// Invariant: sorted by name, no duplicate names, no empty values.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Vec<Label>);

/// The same label name twice in one label set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("label {name:?} occurs twice")]
pub struct DuplicateLabel {
    /// The name in question.
    pub name: String,
}

impl Labels {
    /// The empty label set.
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// Canonical labels from pairs in any order; pairs with an empty value are dropped.
    ///
    /// # Errors
    /// [`DuplicateLabel`] if a name occurs twice among the pairs that are kept.
    pub fn from_pairs<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, DuplicateLabel>
    where
        N: Into<String>,
        V: Into<String>,
    {
        let mut labels: Vec<Label> = pairs
            .into_iter()
            .map(|(name, value)| Label { name: name.into(), value: value.into() })
            .filter(|label| !label.value.is_empty())
            .collect();
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        match labels.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(DuplicateLabel { name: pair[0].name.clone() }),
            None => Ok(Self(labels)),
        }
    }

    /// The value of `name`, if the label is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .binary_search_by(|label| label.name.as_str().cmp(name))
            .ok()
            .map(|at| self.0[at].value.as_str())
    }

    /// The value of `__name__`, or the empty string.
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME).unwrap_or("")
    }

    /// Name and value of each label, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|label| (label.name.as_str(), label.value.as_str()))
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A builder that starts from these labels.
    pub fn to_builder(&self) -> LabelsBuilder {
        LabelsBuilder { labels: self.0.clone() }
    }
}

/// As [`write_labels`]: `{__name__="up", a="b"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_labels(f, self.iter())
    }
}

/// Writes a label set as Prometheus's `labels.Labels.String` does: every label, `__name__` included,
/// in braces; names that are not legacy names quoted.
pub fn write_labels<'a>(
    f: &mut impl fmt::Write,
    labels: impl Iterator<Item = (&'a str, &'a str)>,
) -> fmt::Result {
    f.write_char('{')?;
    for (i, (name, value)) in labels.enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        if is_legacy_label_name(name) {
            f.write_str(name)?;
        } else {
            write_quoted(f, name)?;
        }
        f.write_char('=')?;
        write_quoted(f, value)?;
    }
    f.write_char('}')
}

/// Writes `text` between double quotes with Go's `strconv.Quote` escapes.
pub fn write_quoted(f: &mut impl fmt::Write, text: &str) -> fmt::Result {
    write_quoted_bytes(f, text.as_bytes())
}

/// As [`write_quoted`]; bytes that are not UTF-8 become `\xff`.
pub fn write_quoted_bytes(f: &mut impl fmt::Write, text: &[u8]) -> fmt::Result {
    f.write_char('"')?;
    for chunk in text.utf8_chunks() {
        write_escaped(f, chunk.valid())?;
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    f.write_char('"')
}

fn write_escaped(f: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\u{7}' => f.write_str("\\a")?,
            '\u{8}' => f.write_str("\\b")?,
            '\u{b}' => f.write_str("\\v")?,
            '\u{c}' => f.write_str("\\f")?,
            c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(f, "\\x{:02x}", c as u32)?,
            c if is_go_printable(c) => f.write_char(c)?,
            c if (c as u32) < 0x1_0000 => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "\\U{:08x}", c as u32)?,
        }
    }
    Ok(())
}

/// Go's `strconv.IsPrint`: letters, marks, numbers, punctuation, symbols, and of the spaces only the ordinary
/// one.
pub fn is_go_printable(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    // Rust escapes the same classes, and marks only where they stand first.
    ['a', c].iter().collect::<String>().escape_debug().nth(1) == Some(c)
}

/// Whether `name` matches `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_legacy_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether `name` matches `[a-zA-Z_:][a-zA-Z0-9_:]*`.
pub fn is_legacy_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || b == b':')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// The order in which the API lists series: Prometheus's `labels.Compare`.
pub fn api_order(a: &Labels, b: &Labels) -> Ordering {
    a.cmp(b)
}

/// The order in which tables and blocks number series: metric name first, then all labels one by
/// one as bytes. It differs from [`api_order`] where a label name sorts before `__name__`.
pub fn block_order(a: &Labels, b: &Labels) -> Ordering {
    a.metric_name().cmp(b.metric_name()).then_with(|| a.cmp(b))
}

/// Builds a label set by setting and removing labels.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    labels: Vec<Label>,
}

impl LabelsBuilder {
    /// A builder without labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a label; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        match self.labels.binary_search_by(|label| label.name.as_str().cmp(name)) {
            Ok(at) if value.is_empty() => {
                self.labels.remove(at);
            }
            Ok(at) => value.clone_into(&mut self.labels[at].value),
            Err(_) if value.is_empty() => {}
            Err(at) => self.labels.insert(at, Label { name: name.to_owned(), value: value.to_owned() }),
        }
        self
    }

    /// Removes a label.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.set(name, "")
    }

    /// Keeps the labels for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) -> &mut Self {
        self.labels.retain(|label| keep(&label.name, &label.value));
        self
    }

    /// The value of `name`, if the label is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|label| label.name.as_str().cmp(name)).ok()?;
        Some(&self.labels[at].value)
    }

    /// Name and value of each label, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|label| (label.name.as_str(), label.value.as_str()))
    }

    /// The finished label set.
    pub fn build(self) -> Labels {
        Labels(self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_sorted_and_empty_values_dropped() {
        let labels = Labels::from_pairs([("z", "1"), ("a", ""), (METRIC_NAME, "up")]).unwrap();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [(METRIC_NAME, "up"), ("z", "1")]);
        assert_eq!(labels.metric_name(), "up");
        assert_eq!(labels.get("a"), None);
    }

    #[test]
    fn duplicate_names_are_refused() {
        let error = Labels::from_pairs([("a", "1"), ("a", "2")]).unwrap_err();
        assert_eq!(error.to_string(), "label \"a\" occurs twice");
    }

    #[test]
    fn the_two_orders_differ_for_upper_case_names() {
        let a = Labels::from_pairs([("A", "1"), (METRIC_NAME, "z")]).unwrap();
        let b = Labels::from_pairs([(METRIC_NAME, "b"), ("x", "1")]).unwrap();
        assert_eq!(api_order(&a, &b), Ordering::Less);
        assert_eq!(block_order(&a, &b), Ordering::Greater);
    }

    #[test]
    fn printing_quotes_what_needs_quotes() {
        let labels = Labels::from_pairs([("a.b", "x\"y\n"), (METRIC_NAME, "up")]).unwrap();
        assert_eq!(labels.to_string(), "{__name__=\"up\", \"a.b\"=\"x\\\"y\\n\"}");
    }

    #[test]
    fn what_go_does_not_print_is_escaped() {
        let mut quoted = String::new();
        write_quoted(&mut quoted, "ä☺e\u{301}\u{a0}\u{200b}\u{378}\u{e0001}\u{1f600}\u{7f}").unwrap();
        assert_eq!(quoted, "\"ä☺e\u{301}\\u00a0\\u200b\\u0378\\U000e0001\u{1f600}\\x7f\"");
    }
}
