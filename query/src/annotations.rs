//! Warnings and infos that go with a result.
//!
//! They are a set: the same text counts once, wherever in the query it comes from, and the place that is shown
//! is that of the last one added. Two kinds count how often they occurred, and show the place of the first.
//!
//! Source: Prometheus v3.14, `util/annotations/annotations.go`.

use crate::calendar::format_rfc3339;
use crate::go_format::{format_general, format_general_precision, quote_bytes};
use crate::parser::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was done to two histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HistogramOperation {
    /// `addition`
    Add,
    /// `subtraction`
    Sub,
    /// `aggregation`
    Aggregation,
}

impl HistogramOperation {
    /// The word in the text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "addition",
            Self::Sub => "subtraction",
            Self::Aggregation => "aggregation",
        }
    }
}

/// Whether an annotation is a warning or an info.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Something that is fine, but may surprise.
    Info,
    /// Probably a mistake in the query or the data.
    Warning,
}

/// One thing to tell the user. Metric names may be empty where the name is not known.
#[derive(Clone, Debug, PartialEq)]
pub enum Annotation {
    /// A quantile outside of 0 to 1, or NaN.
    InvalidQuantile(f64),
    /// A ratio outside of -1 to 1.
    InvalidRatio {
        /// The ratio given.
        ratio: f64,
        /// The ratio taken.
        to: f64,
    },
    /// The bucket label of a classic histogram is missing or not a number.
    BadBucketLabel {
        /// Metric name.
        name: Arc<str>,
        /// Value of the label.
        label: Arc<str>,
    },
    /// Floats and histograms of one series in a window.
    MixedFloatsHistograms(Arc<str>),
    /// Floats and histograms in one group.
    MixedFloatsHistogramsAgg,
    /// Classic buckets and native histograms of the same labels.
    MixedClassicNativeHistograms(Arc<str>),
    /// A function for counters met a gauge histogram.
    NativeHistogramNotCounter(Arc<str>),
    /// A function for gauges met a counter histogram.
    NativeHistogramNotGauge(Arc<str>),
    /// Exponential and custom buckets in a window or group.
    MixedExponentialCustomHistograms(Arc<str>),
    /// A function for counters met a name without a counter's suffix.
    PossibleNonCounter(Arc<str>),
    /// A function for counters met a `__type__` that is none.
    PossibleNonCounterLabel {
        /// Metric name.
        name: Arc<str>,
        /// The type.
        type_label: Arc<str>,
    },
    /// Bucket counts fell with the upper bound.
    HistogramQuantileForcedMonotonicity {
        /// Metric name.
        name: Arc<str>,
        /// When, in milliseconds.
        timestamp: i64,
        /// Upper bound of the first bucket that was raised.
        min_bucket: f64,
        /// Upper bound of the last bucket that was raised.
        max_bucket: f64,
        /// The most that a bucket was raised by.
        max_diff: f64,
    },
    /// An operator met sample types it has no meaning for.
    IncompatibleTypesInBinOp {
        /// `float` or `histogram`.
        lhs: &'static str,
        /// The operator.
        op: &'static str,
        /// `float` or `histogram`.
        rhs: &'static str,
    },
    /// An aggregation left out a histogram; the name of the aggregation.
    HistogramIgnoredInAggregation(&'static str),
    /// Histograms left out of a window with floats.
    HistogramIgnoredInMixedRange(Arc<str>),
    /// An operator met histograms that cannot be brought to one layout.
    IncompatibleBucketLayoutInBinOp(&'static str),
    /// `sort` in a range query.
    SortInRangeQuery,
    /// `histogram_quantile` fell into observations that are NaN.
    NativeHistogramQuantileNanResult(Arc<str>),
    /// `histogram_quantile` of a histogram with observations that are NaN.
    NativeHistogramQuantileNanSkew(Arc<str>),
    /// `histogram_fraction` of a histogram with observations that are NaN.
    NativeHistogramFractionNans(Arc<str>),
    /// One histogram knows of a reset, another knows of none.
    HistogramCounterResetCollision(HistogramOperation),
    /// Custom bounds differed and were reduced to common ones.
    MismatchedCustomBuckets(HistogramOperation),
    /// A start time lies before the sample before.
    StartTimeOverlap(Arc<str>),
}

impl Annotation {
    /// Warning or info.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::PossibleNonCounter(_)
            | Self::PossibleNonCounterLabel { .. }
            | Self::HistogramQuantileForcedMonotonicity { .. }
            | Self::IncompatibleTypesInBinOp { .. }
            | Self::HistogramIgnoredInAggregation(_)
            | Self::HistogramIgnoredInMixedRange(_)
            | Self::NativeHistogramQuantileNanResult(_)
            | Self::NativeHistogramQuantileNanSkew(_)
            | Self::NativeHistogramFractionNans(_)
            | Self::MismatchedCustomBuckets(_) => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// The text without position and counts: what makes annotations equal.
    pub fn text(&self) -> String {
        let quoted = |name: &str| quote_bytes(name.as_bytes());
        let for_name = |name: &Arc<str>| match &**name {
            "" => String::new(),
            name => format!(" for metric name {}", quoted(name)),
        };
        let text = match self {
            Self::InvalidQuantile(q) => {
                format!("quantile value should be between 0 and 1, got {}", format_general(*q))
            }
            Self::InvalidRatio { ratio, to } => format!(
                "ratio value should be between -1 and 1, got {}, capping to {}",
                format_general(*ratio),
                format_general(*to)
            ),
            Self::BadBucketLabel { name, label } => format!(
                "bucket label \"le\" is missing or has a malformed value of {}{}",
                quoted(label),
                for_name(name)
            ),
            Self::MixedFloatsHistograms(name) => {
                format!("encountered a mix of histograms and floats for metric name {}", quoted(name))
            }
            Self::MixedFloatsHistogramsAgg => {
                "encountered a mix of histograms and floats for aggregation".to_owned()
            }
            Self::MixedClassicNativeHistograms(name) => {
                format!("vector contains a mix of classic and native histograms{}", for_name(name))
            }
            Self::NativeHistogramNotCounter(name) => {
                format!("this native histogram metric is not a counter: {}", quoted(name))
            }
            Self::NativeHistogramNotGauge(name) => {
                format!("this native histogram metric is not a gauge: {}", quoted(name))
            }
            Self::MixedExponentialCustomHistograms(name) => format!(
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {}",
                quoted(name)
            ),
            Self::PossibleNonCounter(name) => format!(
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {}",
                quoted(name)
            ),
            Self::PossibleNonCounterLabel { name, type_label } => format!(
                "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\", got {}: {}",
                quoted(type_label),
                quoted(name)
            ),
            Self::HistogramQuantileForcedMonotonicity { name, .. } => format!(
                "input to histogram_quantile needed to be fixed for monotonicity (see \
                 https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile){}",
                for_name(name)
            ),
            Self::IncompatibleTypesInBinOp { lhs, op, rhs } => format!(
                "incompatible sample types encountered for binary operator \"{op}\": {lhs} {op} {rhs}"
            ),
            Self::HistogramIgnoredInAggregation(aggregation) => {
                format!("ignored histogram in {aggregation} aggregation")
            }
            Self::HistogramIgnoredInMixedRange(name) => format!(
                "ignored histograms in a range containing both floats and histograms for metric name {}",
                quoted(name)
            ),
            Self::IncompatibleBucketLayoutInBinOp(op) => {
                format!("incompatible bucket layout encountered for binary operator {op}")
            }
            Self::SortInRangeQuery => {
                "sort is ineffective for range queries since results are always ordered by labels".to_owned()
            }
            Self::NativeHistogramQuantileNanResult(name) => {
                format!("input to histogram_quantile has NaN observations, result is NaN{}", for_name(name))
            }
            Self::NativeHistogramQuantileNanSkew(name) => format!(
                "input to histogram_quantile has NaN observations, result is skewed higher{}",
                for_name(name)
            ),
            Self::NativeHistogramFractionNans(name) => format!(
                "input to histogram_fraction has NaN observations, which are excluded from all fractions{}",
                for_name(name)
            ),
            Self::HistogramCounterResetCollision(operation) => {
                format!("conflicting counter resets during histogram {}", operation.as_str())
            }
            Self::MismatchedCustomBuckets(operation) => {
                format!("mismatched custom buckets were reconciled during {}", operation.as_str())
            }
            Self::StartTimeOverlap(name) => format!(
                "sample has start time that overlaps with previous sample timestamp for metric {}",
                quoted(name)
            ),
        };
        match self.severity() {
            Severity::Info => format!("PromQL info: {text}"),
            Severity::Warning => format!("PromQL warning: {text}"),
        }
    }
}

/// What annotations with the same text have collected.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    severity: Severity,
    span: Span,
    count: u64,
    /// Whether the count is shown; the place is then that of the first one.
    is_counted: bool,
    forced: Option<Forced>,
}

/// Ranges over all occurrences of forced monotonicity.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Forced {
    mint: i64,
    maxt: i64,
    min_bucket: f64,
    max_bucket: f64,
    max_diff: f64,
}

impl Entry {
    fn absorb(&mut self, later: Self) {
        self.count += later.count;
        if !self.is_counted {
            self.span = later.span;
        }
        if let (Some(ours), Some(theirs)) = (&mut self.forced, later.forced) {
            ours.mint = ours.mint.min(theirs.mint);
            ours.maxt = ours.maxt.max(theirs.maxt);
            ours.min_bucket = ours.min_bucket.min(theirs.min_bucket);
            ours.max_bucket = ours.max_bucket.max(theirs.max_bucket);
            ours.max_diff = ours.max_diff.max(theirs.max_diff);
        }
    }

    fn render(&self, text: &str, query: &str) -> String {
        let position = self.span.position(query);
        if let Some(forced) = self.forced {
            return format!(
                "{text}, from buckets {} to {}, with a max diff of {}, over {} samples from {} to {} ({position})",
                format_general(forced.min_bucket),
                format_general(forced.max_bucket),
                format_general_precision(forced.max_diff, 2),
                self.count,
                format_rfc3339(forced.mint / 1000),
                format_rfc3339(forced.maxt / 1000),
            );
        }
        if self.count > 1 && self.is_counted {
            return format!("{text} ({} occurrences) ({position})", self.count);
        }
        format!("{text} ({position})")
    }
}

/// A set of annotations, by text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    entries: BTreeMap<String, Entry>,
}

impl Annotations {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds one. `span` is shown even if the same text was there before.
    pub fn add(&mut self, annotation: Annotation, span: Span) {
        let is_counted = matches!(
            annotation,
            Annotation::HistogramQuantileForcedMonotonicity { .. } | Annotation::StartTimeOverlap(_)
        );
        let forced = match annotation {
            Annotation::HistogramQuantileForcedMonotonicity {
                timestamp,
                min_bucket,
                max_bucket,
                max_diff,
                ..
            } => Some(Forced { mint: timestamp, maxt: timestamp, min_bucket, max_bucket, max_diff }),
            _ => None,
        };
        let entry = Entry { severity: annotation.severity(), span, count: 1, is_counted, forced };
        self.put(annotation.text(), entry);
    }

    /// Adds all of `later`, whose spans win.
    pub fn merge(&mut self, later: Self) {
        for (text, entry) in later.entries {
            self.put(text, entry);
        }
    }

    /// The same annotations at another place: a sub-expression that occurs twice is evaluated once.
    pub fn with_spans(mut self, mut place: impl FnMut(Span) -> Span) -> Self {
        for entry in self.entries.values_mut() {
            entry.span = place(entry.span);
        }
        self
    }

    fn put(&mut self, text: String, entry: Entry) {
        match self.entries.get_mut(&text) {
            Some(before) => before.absorb(entry),
            None => {
                self.entries.insert(text, entry);
            }
        }
    }

    /// Warnings and infos as text with positions in `query`, sorted. At most `max_warnings` and `max_infos` of
    /// each (0: all), then a line that says how many were left out.
    pub fn render(&self, query: &str, max_warnings: usize, max_infos: usize) -> (Vec<String>, Vec<String>) {
        let collect = |severity: Severity, max: usize, word: &str| {
            let texts = self.entries.iter().filter(|(_, entry)| entry.severity == severity);
            let n_texts = texts.clone().count();
            let n_shown = if max == 0 { n_texts } else { max.min(n_texts) };
            let mut lines: Vec<String> =
                texts.take(n_shown).map(|(text, entry)| entry.render(text, query)).collect();
            if n_shown < n_texts {
                lines.push(format!("{} more {word} annotations omitted", n_texts - n_shown));
            }
            lines
        };
        (collect(Severity::Warning, max_warnings, "warning"), collect(Severity::Info, max_infos, "info"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: u32) -> Span {
        Span { start, end: start + 1 }
    }

    #[test]
    fn the_same_text_counts_once_and_the_later_place_is_shown() {
        let mut notes = Annotations::new();
        notes.add(Annotation::InvalidQuantile(1.5), at(0));
        notes.add(Annotation::PossibleNonCounter("foo".into()), at(5));
        let mut later = Annotations::new();
        later.add(Annotation::InvalidQuantile(1.5), at(3));
        notes.merge(later);
        let (warnings, infos) = notes.render("0123456789", 10, 10);
        assert_eq!(warnings, ["PromQL warning: quantile value should be between 0 and 1, got 1.5 (1:4)"]);
        assert_eq!(
            infos,
            ["PromQL info: metric might not be a counter, name does not end in \
                 _total/_sum/_count/_bucket: \"foo\" (1:6)"]
        );
    }

    #[test]
    fn forced_monotonicity_merges_ranges_and_counts() {
        let note =
            |timestamp, min_bucket, max_bucket, max_diff| Annotation::HistogramQuantileForcedMonotonicity {
                name: "".into(),
                timestamp,
                min_bucket,
                max_bucket,
                max_diff,
            };
        let mut notes = Annotations::new();
        notes.add(note(60_000, 1.0, 2.0, 0.5), at(0));
        notes.add(note(0, 0.5, 1.0, 123.0), at(0));
        let (_, infos) = notes.render("x", 0, 0);
        assert!(
            infos[0].ends_with(
                ", from buckets 0.5 to 2, with a max diff of 1.2e+02, over 2 samples from \
                 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z (1:1)"
            ),
            "{infos:?}"
        );
    }

    #[test]
    fn start_time_overlaps_are_counted() {
        let mut notes = Annotations::new();
        notes.add(Annotation::StartTimeOverlap("a".into()), at(0));
        let text = "PromQL warning: sample has start time that overlaps with previous sample timestamp for \
                    metric \"a\"";
        assert_eq!(notes.render("x", 0, 0).0, [format!("{text} (1:1)")]);
        notes.add(Annotation::StartTimeOverlap("a".into()), at(0));
        assert_eq!(notes.render("x", 0, 0).0, [format!("{text} (2 occurrences) (1:1)")]);
    }

    #[test]
    fn more_than_the_maximum_are_counted_only() {
        let mut notes = Annotations::new();
        for i in 0..12 {
            notes.add(Annotation::InvalidQuantile(f64::from(i) + 2.0), at(0));
        }
        let (warnings, infos) = notes.render("x", 10, 10);
        assert_eq!(warnings.len(), 11);
        assert_eq!(warnings[10], "2 more warning annotations omitted");
        assert!(infos.is_empty());
    }
}
