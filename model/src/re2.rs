//! Go's RE2 syntax on Rust's regex engine: matchers, relabelling and `label_replace` accept what
//! Prometheus accepts and mean what Prometheus means.

mod translate;

use parking_lot::Mutex;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::Hir;
use regex_syntax::hir::literal::{ExtractKind, Extractor};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Largest compiled program. Prometheus has no such bound; a pattern beyond it is refused instead of
/// taking the memory.
const MAX_PROGRAM_BYTES: usize = 16 << 20;
/// Longest pattern that is parsed.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// A pattern that stands for at most this many strings is looked up string by string.
const MAX_LITERALS: usize = 4096;

/// Patterns that are kept compiled: those of dashboards come again and again, and compiling one takes as long as a small
/// query. They are short, and their programs small, so that all of them take some megabytes at most.
static KNOWN: LazyLock<Mutex<HashMap<String, Re2>>> = LazyLock::new(Mutex::default);
const MAX_KNOWN: usize = 64;
const MAX_KNOWN_PATTERN_BYTES: usize = 512;
const MAX_KNOWN_PROGRAM_BYTES: usize = 64 << 10;

/// A fully anchored pattern in which the dot matches newlines, as matchers and relabelling use.
#[derive(Clone, Debug)]
pub struct Re2 {
    regex: Regex,
    /// Names of groups and their numbers; several groups may have one name.
    names: Vec<(String, usize)>,
    literals: Option<Vec<String>>,
    prefix: String,
}

/// The pattern is not RE2 syntax, or its program would be too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {reason}")]
pub struct Re2Error {
    /// What is wrong, in Go's words where there is a counterpart.
    pub reason: String,
}

impl Re2Error {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl Re2 {
    /// Compiles `^(?s:pattern)$`.
    ///
    /// # Errors
    /// [`Re2Error`] if the pattern is not RE2 syntax or its program would be too large.
    pub fn anchored(pattern: &str) -> Result<Self, Re2Error> {
        if pattern.len() > MAX_KNOWN_PATTERN_BYTES {
            return Self::compile(pattern, MAX_PROGRAM_BYTES);
        }
        if let Some(known) = KNOWN.lock().get(pattern) {
            return Ok(known.clone());
        }
        let Ok(new) = Self::compile(pattern, MAX_KNOWN_PROGRAM_BYTES) else {
            return Self::compile(pattern, MAX_PROGRAM_BYTES);
        };
        let literals_bytes: usize = new.literals.iter().flatten().map(String::len).sum();
        if literals_bytes <= MAX_KNOWN_PROGRAM_BYTES {
            let mut known = KNOWN.lock();
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            // What a clone matches with is its own, so the pattern that is kept holds no more than its program.
            known.insert(pattern.to_owned(), new.clone());
        }
        Ok(new)
    }

    fn compile(pattern: &str, max_program_bytes: usize) -> Result<Self, Re2Error> {
        if pattern.len() > MAX_PATTERN_BYTES {
            let reason = format!("pattern of {} bytes, the limit is {MAX_PATTERN_BYTES}", pattern.len());
            return Err(Re2Error::new(reason));
        }
        let translate::Translated { pattern: translated, names } = translate::translate(pattern)?;
        let regex = RegexBuilder::new(&format!("^(?s:{translated})$"))
            .size_limit(max_program_bytes)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(limit) => {
                    Re2Error::new(format!("expression too large: its program takes more than {limit} bytes"))
                }
                other => Re2Error::new(other.to_string()),
            })?;
        let hir = regex_syntax::ParserBuilder::new()
            .utf8(false)
            .dot_matches_new_line(true)
            .build()
            .parse(&translated)
            .map_err(|error| Re2Error::new(error.to_string()))?;
        Ok(Self { regex, names, literals: exact_literals(&hir), prefix: common_prefix(&hir) })
    }

    /// Whether the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        match &self.literals {
            Some(literals) => literals.binary_search_by(|literal| literal.as_str().cmp(text)).is_ok(),
            None => text.starts_with(&self.prefix) && self.regex.is_match(text.as_bytes()),
        }
    }

    /// The strings the pattern stands for, sorted, if it is nothing but a choice of a few strings.
    pub fn literals(&self) -> Option<&[String]> {
        self.literals.as_deref()
    }

    /// What every match begins with; often empty.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// If the whole of `text` matches, `template` with `$1`, `${1}` and `$name` replaced by what the
    /// groups matched. As in Go, `$1x` is the group named `1x`, an unknown group is empty, and of several groups
    /// with one name the first that took part counts.
    ///
    /// Source: Go 1.26, `regexp/regexp.go`, `expand`.
    pub fn expand(&self, text: &str, template: &str) -> Option<String> {
        let captures = self.regex.captures(text.as_bytes())?;
        let mut expanded = Vec::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.extend_from_slice(before.as_bytes());
            if let Some(after) = after.strip_prefix('$') {
                expanded.push(b'$');
                rest = after;
                continue;
            }
            let Some((name, after)) = group_name(after) else {
                expanded.push(b'$');
                rest = after;
                continue;
            };
            let group = match group_number(name) {
                Some(number) => captures.get(number),
                None => {
                    let mut named = self.names.iter().filter(|(known, _)| known == name);
                    named.find_map(|&(_, number)| captures.get(number))
                }
            };
            expanded.extend_from_slice(group.map_or(&[][..], |group| group.as_bytes()));
            rest = after;
        }
        expanded.extend_from_slice(rest.as_bytes());
        Some(
            String::from_utf8(expanded)
                .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
        )
    }
}

/// A pattern for the UTF-8 strings that `pattern`, which is not UTF-8, matches. A choice of strings is cut to those
/// that are UTF-8; anything more is refused, as in Go.
///
/// # Errors
/// [`Re2Error`] at the first byte that is not UTF-8, or what is wrong before it.
pub(crate) fn utf8_part(pattern: &[u8]) -> Result<String, Re2Error> {
    const META: &[u8] = br"\.+*?()[]{}^$";
    /// The other mistakes, at the end of the text, would be none if the text went on.
    const FINAL: [&str; 5] = [
        "unexpected )",
        "invalid nested repetition operator",
        "invalid repeat count",
        "missing argument to repetition operator",
        "expression nests too deeply",
    ];
    if !pattern.iter().any(|byte| META.contains(byte)) {
        let mut choices =
            pattern.split(|&byte| byte == b'|').filter_map(|choice| str::from_utf8(choice).ok());
        let Some(first) = choices.next() else { return Ok(r"[^\x{0}-\x{10FFFF}]".to_owned()) };
        return Ok(choices.fold(first.to_owned(), |pattern, choice| pattern + "|" + choice));
    }
    let n_valid = pattern.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
    let before = String::from_utf8_lossy(&pattern[..n_valid]);
    if let Err(error) = translate::translate(&before) {
        let last = before.chars().next_back().unwrap_or('`');
        let at_end = error.reason.ends_with(&format!("{last}`")) || error.reason.ends_with("``");
        if !at_end || FINAL.iter().any(|mistake| error.reason.starts_with(mistake)) {
            translate::translate(&String::from_utf8_lossy(pattern))?;
        }
    }
    Err(Re2Error::new(format!("invalid UTF-8: `{}`", String::from_utf8_lossy(&pattern[n_valid..]))))
}

/// The name at the start of what follows a `$`, and what follows the name.
fn group_name(text: &str) -> Option<(&str, &str)> {
    let braced = text.strip_prefix('{');
    let inside = braced.unwrap_or(text);
    let end = inside.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(inside.len());
    let (name, rest) = inside.split_at(end);
    if name.is_empty() {
        return None;
    }
    Some((name, if braced.is_some() { rest.strip_prefix('}')? } else { rest }))
}

/// A name that is a number without leading zeros.
fn group_number(name: &str) -> Option<usize> {
    let plain = name.bytes().all(|b| b.is_ascii_digit()) && (name.len() == 1 || !name.starts_with('0'));
    if plain && name.len() <= 9 { name.parse().ok() } else { None }
}

/// The finite set of strings a pattern stands for, if it is small.
fn exact_literals(hir: &Hir) -> Option<Vec<String>> {
    // The extractor sees assertions such as `\b` as empty.
    if !hir.properties().look_set().is_empty() {
        return None;
    }
    let mut extractor = Extractor::new();
    extractor
        .kind(ExtractKind::Prefix)
        .limit_total(MAX_LITERALS)
        .limit_class(64)
        .limit_literal_len(1 << 16)
        .limit_repeat(64);
    let sequence = extractor.extract(hir);
    if !sequence.is_exact() {
        return None;
    }
    let mut literals = sequence
        .literals()?
        .iter()
        .map(|literal| String::from_utf8(literal.as_bytes().to_vec()).ok())
        .collect::<Option<Vec<_>>>()?;
    literals.sort_unstable();
    literals.dedup();
    Some(literals)
}

fn common_prefix(hir: &Hir) -> String {
    let sequence = Extractor::new().kind(ExtractKind::Prefix).extract(hir);
    let prefix = sequence.longest_common_prefix().unwrap_or_default();
    // A prefix cut inside a character is cut back to whole characters.
    match std::str::from_utf8(prefix) {
        Ok(prefix) => prefix.to_owned(),
        Err(error) => String::from_utf8_lossy(&prefix[..error.valid_up_to()]).into_owned(),
    }
}

#[cfg(test)]
mod tests;
