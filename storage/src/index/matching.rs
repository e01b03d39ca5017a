//! From matchers to the set of series that satisfy all of them.
//!
//! An absent label has the value "" (Prometheus), so a matcher that "" satisfies also selects series
//! without the label. Each matcher becomes one set of series to keep or one to take away:
//!
//! | the matcher's positive form (`=`, `=~`) | `=`, `=~` | `!=`, `!~` |
//! |---|---|---|
//! | is not satisfied by "" | keep M | take away M |
//! | is satisfied by "" | take away (any - M) | keep (any - M) |
//!
//! where M is the series whose value, not empty, satisfies the positive form, and `any` those that
//! have the label at all. Nothing is ever counted from "all series" but the start value, one run.
//!
//! Source of the semantics: Prometheus v3.14, tsdb/querier.go, `PostingsForMatchers`.

use super::postings::Postings;
use crate::error::StorageError;
use chronolith_model::matcher::{MatchOp, Matcher};
use chronolith_model::queryable::QueryContext;
use chronolith_model::re2::Re2;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// An index of label pairs: of a block, or of an open table. Strings have numbers, which say nothing
/// outside their reader; series are ranks (or slots) below `n_series`.
pub trait IndexReader {
    /// Ranks are below this.
    fn n_series(&self) -> u32;

    /// The number of a label name or value, `None` if no series uses it.
    ///
    /// # Errors
    /// [`StorageError`] if the index cannot be read; so for all that follow.
    fn symbol(&self, text: &str) -> Result<Option<u32>, StorageError>;

    /// Visits all label names with their numbers, in any order.
    ///
    /// # Errors
    /// As [`IndexReader::symbol`], or what `visit` returns.
    fn names(&self, visit: &mut Visit<'_>) -> Result<(), StorageError>;

    /// Visits the values of label `name` that begin with `prefix`, with their numbers, in any order.
    ///
    /// # Errors
    /// As [`IndexReader::symbol`], or what `visit` returns.
    fn values(&self, name: u32, prefix: &str, visit: &mut Visit<'_>) -> Result<(), StorageError>;

    /// Series with one of these values (ascending) of label `name`; numbers that are no value of it
    /// add nothing.
    ///
    /// # Errors
    /// As [`IndexReader::symbol`].
    fn postings(&self, name: u32, values: &[u32]) -> Result<Postings, StorageError>;

    /// Series that have label `name`.
    ///
    /// # Errors
    /// As [`IndexReader::symbol`].
    fn postings_of_name(&self, name: u32) -> Result<Postings, StorageError>;

    /// Where results of patterns are kept; only for readers whose dictionary never changes.
    fn pattern_cache(&self) -> Option<&PatternCache> {
        None
    }
}

/// Receives the number and the text of a string.
pub type Visit<'v> = dyn FnMut(u32, &str) -> Result<(), StorageError> + 'v;

/// Strings that are visited between two looks at the query's [`QueryContext::check`].
pub const STRINGS_PER_CHECK: u32 = 1_000;

/// The series that satisfy all matchers; all series if there is none.
///
/// # Errors
/// [`StorageError`] if the query has to stop or the index cannot be read.
pub fn resolve(
    reader: &dyn IndexReader,
    matchers: &[Matcher],
    cx: &dyn QueryContext,
) -> Result<Postings, StorageError> {
    cx.check()?;
    let mut ordered: Vec<&Matcher> = matchers.iter().collect();
    ordered.sort_by_key(|matcher| cost(matcher));
    let mut kept: Option<Postings> = None;
    let mut taken: Vec<Postings> = Vec::new();
    for matcher in ordered {
        match side(reader, matcher, cx)? {
            Side::All => {}
            Side::Keep(set) => {
                let set = match &kept {
                    Some(kept) => kept.intersect(&set),
                    None => set,
                };
                if set.is_empty() {
                    return Ok(set);
                }
                kept = Some(set);
            }
            Side::TakeAway(set) => taken.push(set),
        }
    }
    let kept = kept.unwrap_or_else(|| Postings::all(reader.n_series()));
    Ok(taken.iter().fold(kept, |kept, set| kept.subtract(set)))
}

/// Appends a text that tells lists of matchers apart, in their order.
pub fn write_key(matchers: &[Matcher], key: &mut String) {
    for matcher in matchers {
        let Matcher { name, value, op, .. } = matcher;
        // Lengths first: names and values may hold anything.
        let _ = write!(key, "{} {op:?} {} {name}{value}", name.len(), value.len());
    }
}

/// Cheap and narrow conditions first: an empty result ends the work.
fn cost(matcher: &Matcher) -> u8 {
    match matcher.op {
        MatchOp::Equal if !matcher.value.is_empty() => 0,
        MatchOp::Equal | MatchOp::NotEqual => 1,
        MatchOp::Regex | MatchOp::NotRegex if literals(matcher).is_some() => 2,
        MatchOp::Regex | MatchOp::NotRegex if !prefix(matcher).is_empty() => 3,
        MatchOp::Regex | MatchOp::NotRegex => 4,
    }
}

/// What a matcher asks of the result.
enum Side {
    All,
    Keep(Postings),
    TakeAway(Postings),
}

fn side(reader: &dyn IndexReader, matcher: &Matcher, cx: &dyn QueryContext) -> Result<Side, StorageError> {
    let negative = matches!(matcher.op, MatchOp::NotEqual | MatchOp::NotRegex);
    // Whether the positive form is satisfied by "".
    let or_absent = matcher.matches_empty() != negative;
    let is_pattern = matches!(matcher.op, MatchOp::Regex | MatchOp::NotRegex);
    if is_pattern && matcher.value == ".*" {
        return Ok(if negative { Side::Keep(Postings::empty()) } else { Side::All });
    }
    let Some(name) = reader.symbol(&matcher.name)? else {
        // Every series lacks the label.
        return Ok(if matcher.matches_empty() { Side::All } else { Side::Keep(Postings::empty()) });
    };
    let matched = match is_pattern && matcher.value == ".+" {
        true => reader.postings_of_name(name)?,
        false => positive(reader, name, matcher, cx)?,
    };
    let set = match or_absent {
        true => reader.postings_of_name(name)?.subtract(&matched),
        false => matched,
    };
    Ok(if negative != or_absent { Side::TakeAway(set) } else { Side::Keep(set) })
}

/// Series whose value of `name`, not empty, satisfies the positive form of the matcher.
fn positive(
    reader: &dyn IndexReader,
    name: u32,
    matcher: &Matcher,
    cx: &dyn QueryContext,
) -> Result<Postings, StorageError> {
    let negative = match matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => {
            return match matcher.exact_value() {
                Some(_) => points(reader, name, std::slice::from_ref(&matcher.value)),
                None => Ok(Postings::empty()),
            };
        }
        MatchOp::Regex => false,
        MatchOp::NotRegex => true,
    };
    if let Some(literals) = literals(matcher) {
        return points(reader, name, literals);
    }
    if let Some(known) = reader.pattern_cache().and_then(|cache| cache.get(name, &matcher.value)) {
        return known.postings(reader, name);
    }
    let prefix = prefix(matcher);
    let mut values = Vec::new();
    let mut n_seen = 0u32;
    reader.values(name, prefix, &mut |number, text| {
        n_seen += 1;
        if n_seen.is_multiple_of(STRINGS_PER_CHECK) {
            cx.check()?;
        }
        if !text.is_empty() && matcher.matches(text) != negative {
            values.push(number);
        }
        Ok(())
    })?;
    values.sort_unstable();
    let matched = match prefix.is_empty() && values.len() == n_seen as usize {
        true => MatchedValues::Any,
        false => MatchedValues::These(values.into()),
    };
    if let Some(cache) = reader.pattern_cache() {
        cache.insert(name, &matcher.value, matched.clone());
    }
    matched.postings(reader, name)
}

/// Series with one of these values, the empty one left out.
fn points(reader: &dyn IndexReader, name: u32, values: &[String]) -> Result<Postings, StorageError> {
    let mut numbers = Vec::with_capacity(values.len());
    for value in values.iter().filter(|value| !value.is_empty()) {
        numbers.extend(reader.symbol(value)?);
    }
    numbers.sort_unstable();
    numbers.dedup();
    reader.postings(name, &numbers)
}

/// The strings a pattern stands for, if it is a set of them.
fn literals(matcher: &Matcher) -> Option<&[String]> {
    matcher.regex()?.literals()
}

/// What every string begins with that the pattern matches.
fn prefix(matcher: &Matcher) -> &str {
    matcher.regex().map_or("", Re2::prefix)
}

/// Which values of a label a pattern matches.
#[derive(Clone, Debug)]
enum MatchedValues {
    /// All of them.
    Any,
    /// These, ascending.
    These(Arc<[u32]>),
}

impl MatchedValues {
    fn postings(&self, reader: &dyn IndexReader, name: u32) -> Result<Postings, StorageError> {
        match self {
            Self::Any => reader.postings_of_name(name),
            Self::These(values) => reader.postings(name, values),
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::These(values) => size_of_val(values.as_ref()),
        }
    }
}

/// Bytes of results a [`PatternCache`] keeps: dashboards repeat the same few dozen patterns.
const PATTERN_CACHE_BYTES: usize = 256 << 10;

/// Results of patterns over the values of one label, for a dictionary that never changes.
#[derive(Debug, Default)]
pub struct PatternCache {
    inner: Mutex<PatternCacheInner>,
}

#[derive(Debug, Default)]
struct PatternCacheInner {
    results: HashMap<(u32, String), MatchedValues>,
    size_bytes: usize,
}

impl PatternCache {
    fn get(&self, name: u32, pattern: &str) -> Option<MatchedValues> {
        self.inner.lock().results.get(&(name, pattern.to_owned())).cloned()
    }

    fn insert(&self, name: u32, pattern: &str, values: MatchedValues) {
        let size_bytes = pattern.len() + values.size_bytes() + 96;
        if size_bytes > PATTERN_CACHE_BYTES / 4 {
            return;
        }
        let mut inner = self.inner.lock();
        if inner.size_bytes + size_bytes > PATTERN_CACHE_BYTES {
            inner.results.clear();
            inner.size_bytes = 0;
        }
        if inner.results.insert((name, pattern.to_owned()), values).is_none() {
            inner.size_bytes += size_bytes;
        }
    }
}

/// Gives `sink` the names of the labels of the series of `matched`, with their numbers.
///
/// # Errors
/// As [`resolve`].
pub fn label_names(
    reader: &dyn IndexReader,
    matched: &Postings,
    cx: &dyn QueryContext,
    sink: &mut dyn FnMut(u32, &str),
) -> Result<(), StorageError> {
    let everything = matched.len() == reader.n_series();
    let mut n_seen = 0u32;
    reader.names(&mut |number, text| {
        n_seen += 1;
        if n_seen.is_multiple_of(STRINGS_PER_CHECK) {
            cx.check()?;
        }
        if everything || reader.postings_of_name(number)?.intersects(matched) {
            sink(number, text);
        }
        Ok(())
    })
}

/// Gives `sink` the values of the label `name` of the series of `matched`, with their numbers.
///
/// # Errors
/// As [`resolve`].
pub fn label_values(
    reader: &dyn IndexReader,
    name: &str,
    matched: &Postings,
    cx: &dyn QueryContext,
    sink: &mut dyn FnMut(u32, &str),
) -> Result<(), StorageError> {
    let Some(name) = reader.symbol(name)? else { return Ok(()) };
    let everything = matched.len() == reader.n_series();
    if !everything && !reader.postings_of_name(name)?.intersects(matched) {
        return Ok(());
    }
    let mut n_seen = 0u32;
    reader.values(name, "", &mut |number, text| {
        n_seen += 1;
        if n_seen.is_multiple_of(STRINGS_PER_CHECK) {
            cx.check()?;
        }
        if everything || reader.postings(name, &[number])?.intersects(matched) {
            sink(number, text);
        }
        Ok(())
    })
}

/// Gives `sink` every label pair with the number of its series. One posting list is read for each.
///
/// # Errors
/// As [`resolve`].
pub fn pair_counts(
    reader: &dyn IndexReader,
    cx: &dyn QueryContext,
    sink: &mut dyn FnMut(&str, &str, u64),
) -> Result<(), StorageError> {
    let mut n_seen = 0u32;
    reader.names(&mut |name, name_text| {
        reader.values(name, "", &mut |value, value_text| {
            n_seen += 1;
            if n_seen.is_multiple_of(STRINGS_PER_CHECK) {
                cx.check()?;
            }
            let n_series = reader.postings(name, &[value])?.len();
            if n_series > 0 {
                sink(name_text, value_text, u64::from(n_series));
            }
            Ok(())
        })
    })
}
