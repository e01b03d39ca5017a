//! File patterns, as Go's `path/filepath` has them: `*`, `?`, `[a-z]`, `[^a-z]` and `\` within one part
//! of a path.
//!
//! Source: Go, `path/filepath`, `Match` and `Glob`.

use std::path::{Path, PathBuf};

/// The files that a pattern means, sorted; none if it is malformed.
pub(crate) fn expand(pattern: &Path) -> Vec<PathBuf> {
    let Some(name) = pattern.file_name().map(|name| name.to_string_lossy().into_owned()) else {
        return Vec::new();
    };
    if !has_meta(&pattern.to_string_lossy()) {
        return if pattern.exists() { vec![pattern.to_owned()] } else { Vec::new() };
    }
    let parent = pattern.parent().unwrap_or(Path::new(""));
    let folders = if has_meta(&parent.to_string_lossy()) { expand(parent) } else { vec![parent.to_owned()] };
    let mut files = Vec::new();
    for folder in folders {
        let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        let Ok(entries) = std::fs::read_dir(listed) else { continue };
        let names = entries.filter_map(Result::ok).map(|entry| entry.file_name());
        files.extend(
            names.filter(|file| matches(&name, &file.to_string_lossy())).map(|file| folder.join(file)),
        );
    }
    files.sort();
    files
}

/// Whether the pattern is one.
pub(crate) fn is_valid(pattern: &str) -> bool {
    pattern.split('/').all(|part| parse(part).is_some())
}

fn has_meta(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some(tokens) = parse(pattern) else { return false };
    let name: Vec<char> = name.chars().collect();
    // Which places of the name the tokens so far may end at.
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for token in &tokens {
        let mut next = vec![false; name.len() + 1];
        for at in (0..=name.len()).filter(|at| reached[*at]) {
            match token {
                Token::Any => next[at..].fill(true),
                token => {
                    if name.get(at).is_some_and(|found| token.takes(*found)) {
                        next[at + 1] = true;
                    }
                }
            }
        }
        reached = next;
    }
    reached[name.len()]
}

enum Token {
    Any,
    One,
    Char(char),
    Class { is_negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn takes(&self, found: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Char(wanted) => *wanted == found,
            Self::Class { is_negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&found)) != *is_negated
            }
        }
    }
}

/// The tokens of one part of a path; `None` if it is malformed.
fn parse(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Char(chars.next()?),
            '[' => {
                let is_negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                    let mut bound = || match chars.next()? {
                        '-' | ']' => None,
                        '\\' => chars.next(),
                        char => Some(char),
                    };
                    let low = bound()?;
                    let high = if chars.next_if_eq(&'-').is_some() {
                        match chars.next()? {
                            '-' | ']' => return None,
                            '\\' => chars.next()?,
                            char => char,
                        }
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                Token::Class { is_negated, ranges }
            }
            char => Token::Char(char),
        });
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        // From Go's match_test.go, those without a slash.
        for (pattern, name, expected) in [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "x", Some(true)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[-x]", "x", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("[^bc", "a", None),
            ("a[", "a", None),
            ("*x", "xxx", Some(true)),
            ("\\", "a", None),
        ] {
            let found = is_valid(pattern).then(|| matches(pattern, name));
            assert_eq!(found, expected, "{pattern:?} and {name:?}");
        }
    }

    #[test]
    fn files_are_found_in_folders_that_match_too() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a1/x.yml", "a2/y.yml", "a2/z.txt", "b1/x.yml"] {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let found = |pattern: &str| {
            let files = expand(&folder.path().join(pattern));
            let names =
                files.iter().map(|file| file.strip_prefix(folder.path()).unwrap().display().to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(found("a[12]/*.yml"), ["a1/x.yml", "a2/y.yml"]);
        assert_eq!(found("?1/x.yml"), ["a1/x.yml", "b1/x.yml"]);
        assert_eq!(found("a1/x.yml"), ["a1/x.yml"]);
        assert!(found("none/*.yml").is_empty());
    }
}
