//! `convert_classic_histograms_to_nhcb` for the text formats: series of one classic histogram, as they come
//! one after the other, become a native histogram with custom buckets.
//!
//! Source: Prometheus v3.14, `model/textparse/nhcbparse.go`.

use super::process::is_small;
use chronolith_model::append::{Exemplar, MetricType};
use chronolith_model::histogram::Histogram;
use chronolith_model::labels::METRIC_NAME;
use chronolith_wire::exposition::nhcb::ClassicHistogram;
use chronolith_wire::exposition::{LabelsError, Series, parse_float};

/// Series of the histogram that is being read.
#[derive(Default)]
pub(super) struct ClassicSeries {
    /// Name of the family if it is one of histograms.
    family: Option<String>,
    /// As [`chronolith_wire::exposition::protobuf::Point::raw`] names the series; empty for none.
    raw: Vec<u8>,
    histogram: ClassicHistogram,
    timestamp: Option<i64>,
    exemplars: Vec<Exemplar>,
}

/// What [`ClassicSeries::see`] found.
pub(super) struct Seen {
    /// The series is part of a classic histogram.
    pub is_part: bool,
    /// The histogram before it, if the series is not part of that one.
    pub complete: Option<Converted>,
}

/// A histogram that is complete.
pub(super) struct Converted {
    pub raw: Vec<u8>,
    pub histogram: Histogram,
    pub timestamp: Option<i64>,
    pub exemplars: Vec<Exemplar>,
}

enum Part {
    Bucket(f64),
    Sum,
    Count,
}

impl ClassicSeries {
    /// A family begins, so that the histogram before it is complete.
    pub fn next_family(&mut self, name: &str, metric_type: MetricType) -> Option<Converted> {
        let complete = self.complete();
        self.family = (metric_type == MetricType::Histogram).then(|| name.to_owned());
        complete
    }

    /// Looks at the next series.
    ///
    /// # Errors
    /// [`LabelsError`] if its labels cannot be read.
    pub fn see(&mut self, series: &Series<'_>) -> Result<Seen, LabelsError> {
        let Some(family) = self.family.clone() else { return Ok(Seen { is_part: false, complete: None }) };
        let labels = series.labels()?;
        let bound = labels.get("le").and_then(|bound| parse_float(bound.as_bytes()));
        let part = match (labels.metric_name().strip_prefix(family.as_str()), bound) {
            (Some("_bucket"), Some(bound)) => Part::Bucket(bound),
            (Some("_sum"), _) => Part::Sum,
            (Some("_count"), _) => Part::Count,
            _ => return Ok(Seen { is_part: false, complete: self.complete() }),
        };
        let mut raw = family.into_bytes();
        for (name, value) in labels.iter().filter(|(name, _)| !matches!(*name, METRIC_NAME | "le")) {
            for text in [name, value] {
                raw.push(0xff);
                raw.extend_from_slice(text.as_bytes());
            }
        }
        let complete = if raw == self.raw { None } else { self.complete() };
        self.raw = raw;
        self.timestamp = series.timestamp;
        match part {
            Part::Bucket(bound) => self.histogram.buckets.push((bound, series.value)),
            Part::Sum => self.histogram.sum = series.value,
            Part::Count => self.histogram.count = Some(series.value),
        }
        // As upstream, exemplars of native histograms need a date of their own.
        if let Some(timestamp) = series.exemplar.and_then(|exemplar| exemplar.timestamp)
            && let Some(Ok(exemplar)) = series.exemplar(timestamp)
        {
            self.exemplars.extend(Some(exemplar).filter(is_small));
        }
        Ok(Seen { is_part: true, complete })
    }

    /// The histogram so far, unless its buckets contradict each other.
    pub fn complete(&mut self) -> Option<Converted> {
        let raw = std::mem::take(&mut self.raw);
        let histogram = std::mem::take(&mut self.histogram);
        let exemplars = std::mem::take(&mut self.exemplars);
        let timestamp = self.timestamp.take();
        if raw.is_empty() {
            return None;
        }
        let histogram = histogram.to_native(false).ok()?;
        Some(Converted { raw, histogram, timestamp, exemplars })
    }
}
