//! Series of several parts as one sorted list in which each label set occurs once.

use crate::error::StorageError;
use crate::part::PartSeries;
use chronolith_model::labels::METRIC_NAME;
use chronolith_model::queryable::{QueryContext, Stop};
use chronolith_model::symbols::Symbol;
use std::cmp::Ordering;
use std::sync::Arc;

/// Series merged between two looks at whether the query goes on.
const SERIES_PER_CHECK: usize = 16 << 10;

/// A series of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which part.
    pub part: u32,
    /// Its index there.
    pub index: u32,
}

/// Which series of which parts have the same labels, in block order.
// Invariant: `ends` ascends, its last entry is `sources.len()`; the sources of a series ascend by part.
#[derive(Debug, Default)]
pub struct Merged {
    sources: Vec<Source>,
    ends: Vec<u32>,
}

impl Merged {
    /// How many label sets.
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Where the samples of series `at` are: the parts that win come first.
    pub fn sources(&self, at: usize) -> &[Source] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.sources[start..self.ends[at] as usize]
    }

    /// Bytes on the heap.
    pub const fn size_bytes(&self) -> usize {
        self.sources.capacity() * size_of::<Source>() + self.ends.capacity() * 4
    }

    fn push(&mut self, groups: [&[Source]; 2]) {
        for sources in groups {
            self.sources.extend_from_slice(sources);
        }
        self.ends.push(self.sources.len() as u32);
    }
}

/// Merges the series of all parts, which are in block order each.
///
/// Lists are merged two by two. Where parts hold the same series, which is the rule, each step
/// compares two arrays of numbers; strings are looked at only where they differ.
///
/// # Errors
/// [`StorageError`] if the query has to stop, or there are 2^32 series or more.
pub fn merge(parts: &[Box<dyn PartSeries>], cx: &dyn QueryContext) -> Result<Merged, StorageError> {
    let total: u64 = parts.iter().map(|part| u64::from(part.len())).sum();
    if u32::try_from(total).is_err() {
        return Err(StorageError::Stop(Stop::OverBudget(format!(
            "the selector matches {total} series, counted in each block: narrow its time range or labels"
        ))));
    }
    let metric_name = cx.symbols().intern(METRIC_NAME);
    cx.symbols().with_strings(|strings| merge_range(parts, 0, &Order { strings, metric_name }, cx))
}

/// What block order needs to know of symbols.
struct Order<'s> {
    strings: &'s [Arc<str>],
    metric_name: Symbol,
}

impl Order<'_> {
    fn compare(&self, a: &[(Symbol, Symbol)], b: &[(Symbol, Symbol)]) -> Ordering {
        if a == b {
            return Ordering::Equal;
        }
        let (a_metric, b_metric) = (self.metric(a), self.metric(b));
        if a_metric != b_metric {
            return a_metric.cmp(b_metric);
        }
        let shared = a.iter().zip(b).take_while(|(x, y)| x == y).count();
        match (a.get(shared), b.get(shared)) {
            (Some(&(a_name, a_value)), Some(&(b_name, b_value))) => self
                .text(a_name)
                .cmp(self.text(b_name))
                .then_with(|| self.text(a_value).cmp(self.text(b_value))),
            (a, b) => a.is_some().cmp(&b.is_some()),
        }
    }

    fn metric(&self, labels: &[(Symbol, Symbol)]) -> &str {
        labels.iter().find(|label| label.0 == self.metric_name).map_or("", |label| self.text(label.1))
    }

    fn text(&self, symbol: Symbol) -> &str {
        &self.strings[symbol.0 as usize]
    }
}

fn merge_range(
    parts: &[Box<dyn PartSeries>],
    first: u32,
    order: &Order<'_>,
    cx: &dyn QueryContext,
) -> Result<Merged, StorageError> {
    match parts {
        [] => Ok(Merged::default()),
        [part] => Ok(Merged {
            sources: (0..part.len()).map(|index| Source { part: first, index }).collect(),
            ends: (1..=part.len()).collect(),
        }),
        parts => {
            let (left, right) = parts.split_at(parts.len() / 2);
            let middle = first + left.len() as u32;
            let a = merge_range(left, first, order, cx)?;
            let b = merge_range(right, middle, order, cx)?;
            merge_two(&a, &b, order, cx, &|source| {
                let at = (source.part - first) as usize;
                parts[at].labels(source.index)
            })
        }
    }
}

fn merge_two<'p>(
    a: &Merged,
    b: &Merged,
    order: &Order<'_>,
    cx: &dyn QueryContext,
    labels: &dyn Fn(Source) -> &'p [(Symbol, Symbol)],
) -> Result<Merged, StorageError> {
    let mut merged = Merged {
        sources: Vec::with_capacity(a.sources.len() + b.sources.len()),
        ends: Vec::with_capacity(a.len().max(b.len())),
    };
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if merged.len().is_multiple_of(SERIES_PER_CHECK) {
            cx.check()?;
        }
        let ordering = match (i < a.len(), j < b.len()) {
            (true, true) => order.compare(labels(a.sources(i)[0]), labels(b.sources(j)[0])),
            (true, false) => Ordering::Less,
            _ => Ordering::Greater,
        };
        let from_a: &[Source] = if ordering.is_le() { a.sources(i) } else { &[] };
        let from_b: &[Source] = if ordering.is_ge() { b.sources(j) } else { &[] };
        merged.push([from_a, from_b]);
        i += usize::from(ordering.is_le());
        j += usize::from(ordering.is_ge());
    }
    Ok(merged)
}
