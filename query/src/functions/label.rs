//! Functions that make labels from labels.
//!
//! Source: Prometheus v3.14, `promql/functions.go`, `evalLabelReplace`, `evalLabelJoin`; facette/natsort.

use chronolith_model::re2::Re2;
use std::cmp::Ordering;

/// `label_replace`: where a label matches a pattern, another label becomes the expanded replacement.
#[derive(Debug)]
pub struct LabelReplace {
    destination: String,
    replacement: String,
    source: String,
    regex: Re2,
}

impl LabelReplace {
    /// From the four string arguments, in the order of the call.
    ///
    /// # Errors
    /// The text of the execution error, if the pattern does not compile or the destination is no label name.
    pub fn new(destination: &[u8], replacement: &[u8], source: &[u8], regex: &[u8]) -> Result<Self, String> {
        let Some(compiled) = str::from_utf8(regex).ok().and_then(|pattern| Re2::anchored(pattern).ok())
        else {
            let pattern = String::from_utf8_lossy(regex);
            return Err(format!("invalid regular expression in label_replace(): {pattern}"));
        };
        Ok(Self {
            destination: label_name(destination, "destination", "label_replace")?,
            replacement: String::from_utf8_lossy(replacement).into_owned(),
            source: String::from_utf8_lossy(source).into_owned(),
            regex: compiled,
        })
    }

    /// The label that is written.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// The label that is read.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// No new value is longer, whatever the groups match in `source_bytes` bytes.
    pub fn longest(&self, source_bytes: usize) -> usize {
        let n_groups = self.replacement.bytes().filter(|&byte| byte == b'$').count();
        n_groups.saturating_mul(source_bytes).saturating_add(self.replacement.len())
    }

    /// The new value (empty: no label) if `source_value` matches; a source that is absent has the value "".
    pub fn value(&self, source_value: &str) -> Option<String> {
        self.regex.expand(source_value, &self.replacement)
    }
}

/// `label_join`: a label becomes the values of others with a separator between them.
#[derive(Debug)]
pub struct LabelJoin {
    destination: String,
    separator: String,
    sources: Vec<String>,
}

impl LabelJoin {
    /// From the string arguments, in the order of the call.
    ///
    /// # Errors
    /// The text of the execution error, if one of the names is no label name.
    pub fn new(destination: &[u8], separator: &[u8], sources: &[&[u8]]) -> Result<Self, String> {
        let sources =
            sources.iter().map(|name| label_name(name, "source", "label_join")).collect::<Result<_, _>>()?;
        Ok(Self {
            destination: label_name(destination, "destination", "label_join")?,
            separator: String::from_utf8_lossy(separator).into_owned(),
            sources,
        })
    }

    /// The label that is written.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// The labels that are read, in order.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// How long the new value is, from how long those of the sources are together.
    pub fn length(&self, source_bytes: usize) -> usize {
        self.separator.len().saturating_mul(self.sources.len().saturating_sub(1)).saturating_add(source_bytes)
    }

    /// The new value (empty: no label) from the values of the sources.
    pub fn value(&self, source_values: &[&str]) -> String {
        source_values.join(&self.separator)
    }
}

fn label_name(bytes: &[u8], role: &str, function: &str) -> Result<String, String> {
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(format!("invalid {role} label name in {function}(): {}", String::from_utf8_lossy(bytes))),
    }
}

/// The order of `sort_by_label`: runs of digits as numbers, the rest as bytes.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while !left.is_empty() && !right.is_empty() {
        let (chunk_a, rest_a) = split_chunk(left);
        let (chunk_b, rest_b) = split_chunk(right);
        // Numbers that do not fit are compared as text.
        let order = match (chunk_a.parse::<i64>(), chunk_b.parse::<i64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => chunk_a.cmp(chunk_b),
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (rest_a, rest_b);
    }
    // Equal so far: the shorter first. "01" and "1" are told apart by their bytes, so that the order is total.
    left.len().min(1).cmp(&right.len().min(1)).then_with(|| a.cmp(b))
}

/// Whether `a` sorts before `b` in [`natural_order`].
pub fn natural_less(a: &str, b: &str) -> bool {
    natural_order(a, b) == Ordering::Less
}

/// The first run of digits or of other characters, and the rest.
fn split_chunk(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacement_expands_groups_of_an_anchored_match() {
        let replace = LabelReplace::new(b"dst", b"value-$1", b"src", b"source-value-(.*)").unwrap();
        assert_eq!(replace.value("source-value-10").as_deref(), Some("value-10"));
        assert_eq!(replace.value("xsource-value-10"), None);
        assert_eq!(replace.longest(100), "value-$1".len() + 100);
        let group_name = LabelReplace::new(b"dst", b"$1x", b"src", b"(.*)").unwrap();
        assert_eq!(group_name.value("a").as_deref(), Some(""));
    }

    #[test]
    fn wrong_arguments_are_named() {
        assert_eq!(
            LabelReplace::new(b"dst", b"", b"src", b"(.*").unwrap_err(),
            "invalid regular expression in label_replace(): (.*"
        );
        assert_eq!(
            LabelReplace::new(b"\xff", b"", b"src", b"(.*)").unwrap_err(),
            "invalid destination label name in label_replace(): \u{fffd}"
        );
        assert_eq!(
            LabelJoin::new(b"dst", b"-", &[b""]).unwrap_err(),
            "invalid source label name in label_join(): "
        );
    }

    #[test]
    fn joining_puts_the_separator_between_all_values() {
        let join = LabelJoin::new(b"dst", b"-", &[b"a", b"b", b"c"]).unwrap();
        assert_eq!(join.value(&["x", "", "z"]), "x--z");
        assert_eq!(join.length(2), 4);
    }

    #[test]
    fn natural_order_compares_numbers_as_numbers() {
        let sorted = ["", "1", "2", "4m5", "4m10", "10", "a1", "a1b", "a2", "a10", "b"];
        for pair in sorted.windows(2) {
            assert!(natural_less(pair[0], pair[1]), "{pair:?}");
            assert!(!natural_less(pair[1], pair[0]), "{pair:?}");
        }
    }
}
