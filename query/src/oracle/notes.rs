//! A set of annotations.
//!
//! Source: Prometheus v3.14, `util/annotations/annotations.go`. Where upstream's counts grow with every merge
//! of a set into itself, ours say how often something happened.

use crate::annotations::{Annotation, Severity};
use crate::calendar::format_rfc3339;
use crate::go_format::{format_general, format_general_precision};
use crate::parser::Span;
use std::collections::BTreeMap;

/// Annotations by text without position.
#[derive(Default)]
pub(super) struct Notes(BTreeMap<String, Note>);

struct Note {
    severity: Severity,
    span: Span,
    count: u64,
    forced: Option<Forced>,
}

struct Forced {
    times: (i64, i64),
    buckets: (f64, f64),
    max_diff: f64,
}

impl Notes {
    /// Adds one. The place shown is that of the last one, but that of the first for those that are counted.
    pub(super) fn add(&mut self, annotation: Annotation, span: Span) {
        let forced = match annotation {
            Annotation::HistogramQuantileForcedMonotonicity {
                timestamp,
                min_bucket,
                max_bucket,
                max_diff,
                ..
            } => Some(Forced { times: (timestamp, timestamp), buckets: (min_bucket, max_bucket), max_diff }),
            _ => None,
        };
        let text = annotation.text();
        let Some(note) = self.0.get_mut(&text) else {
            let note = Note { severity: annotation.severity(), span, count: 1, forced };
            self.0.insert(text, note);
            return;
        };
        note.count += 1;
        let (Some(old), Some(new)) = (&mut note.forced, forced) else {
            if !matches!(annotation, Annotation::StartTimeOverlap(_)) {
                note.span = span;
            }
            return;
        };
        old.times = (old.times.0.min(new.times.0), old.times.1.max(new.times.1));
        if new.buckets.0 < old.buckets.0 {
            old.buckets.0 = new.buckets.0;
        }
        if new.buckets.1 > old.buckets.1 {
            old.buckets.1 = new.buckets.1;
        }
        if new.max_diff > old.max_diff {
            old.max_diff = new.max_diff;
        }
    }

    /// Warnings and infos with positions, ten of each and how many more there are.
    pub(super) fn render(&self, query: &str) -> (Vec<String>, Vec<String>) {
        let lines = |severity: Severity, word: &str| {
            let notes = self.0.iter().filter(|(_, note)| note.severity == severity);
            let mut lines: Vec<String> = notes.map(|(text, note)| note.render(text, query)).collect();
            if lines.len() > 10 {
                let n_more = lines.len() - 10;
                lines.truncate(10);
                lines.push(format!("{n_more} more {word} annotations omitted"));
            }
            lines
        };
        (lines(Severity::Warning, "warning"), lines(Severity::Info, "info"))
    }
}

impl Note {
    fn render(&self, text: &str, query: &str) -> String {
        let position = self.span.position(query);
        match &self.forced {
            Some(Forced { times, buckets, max_diff }) => format!(
                "{text}, from buckets {} to {}, with a max diff of {}, over {} samples from {} to {} ({position})",
                format_general(buckets.0),
                format_general(buckets.1),
                format_general_precision(*max_diff, 2),
                self.count,
                format_rfc3339(times.0 / 1000),
                format_rfc3339(times.1 / 1000),
            ),
            None if self.count > 1 && text.contains("sample has start time that overlaps") => {
                format!("{text} ({} occurrences) ({position})", self.count)
            }
            None => format!("{text} ({position})"),
        }
    }
}
