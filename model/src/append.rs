//! What a writer hands to the storage engine, and what it hears back.
//!
//! A batch is arrays, borrowed from the request it came in, so that a known series costs no
//! allocation. A batch is never rolled back: good samples stay, the outcome tells about the others.

use crate::histogram::Histogram;
use crate::labels::{DuplicateLabel, Labels};
use std::ops::Range;

/// A handle to a series that an earlier append resolved. It stays valid until the series leaves
/// memory; a handle that is no longer valid is refused as [`SeriesKey`] resolution, never mistaken
/// for another series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesRef {
    /// Slot in the registry.
    pub slot: u32,
    /// How often the slot had been given out when this handle was made.
    pub generation: u32,
}

/// How a batch names a series.
#[derive(Clone, Copy, Debug)]
pub enum SeriesKey<'a> {
    /// Bytes that mean these labels in the batch's [`AppendBatch::decode`]: the label fields of a
    /// remote-write 1.0 series as they stand in the request. Equal bytes always mean equal labels.
    Encoded(&'a [u8]),
    /// Name and value numbers, alternating, into [`AppendBatch::symbols`] (remote write 2.0).
    Symbols(&'a [u32]),
    /// Canonical labels.
    Labels(&'a Labels),
    /// A handle from an earlier append, and the labels to fall back on when it is no longer valid.
    Ref(SeriesRef, &'a Labels),
    /// A handle from an earlier append alone: the series is left out when it is no longer valid, and counted.
    Handle(SeriesRef),
}

/// Turns [`SeriesKey::Encoded`] bytes into label pairs, appended to the list in wire order.
pub type DecodeLabels = for<'a> fn(&'a [u8], &mut Vec<(&'a str, &'a str)>) -> Result<(), InvalidLabels>;

/// Why labels were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabels {
    /// The bytes are no labels.
    #[error("labels do not decode: {0}")]
    Encoding(&'static str),
    /// A symbol number beyond the request's table.
    #[error("label refers to symbol {number} of {n_symbols}")]
    SymbolOutOfRange {
        /// The number.
        number: u32,
        /// Size of the table.
        n_symbols: usize,
    },
    /// A name or value that is not UTF-8.
    #[error("label name or value is not UTF-8")]
    NotUtf8,
    /// A handle without labels, which is no longer valid or whose labels are asked for.
    #[error("series is not in memory any more")]
    HandleAlone,
    /// A label without a name.
    #[error("label with an empty name")]
    EmptyName,
    /// No `__name__`, or an empty one.
    #[error("series has no metric name")]
    NoMetricName,
    /// A name twice.
    #[error(transparent)]
    Duplicate(#[from] DuplicateLabel),
    /// Over `limits.max_labels_per_series`.
    #[error("series has {count} labels, the limit is {limit}")]
    TooMany {
        /// Labels of the series.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// Over `limits.max_label_name_bytes` or `limits.max_label_value_bytes`.
    #[error("label {what} of {size_bytes} bytes, the limit is {limit}")]
    TooLong {
        /// "name" or "value".
        what: &'static str,
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// A float sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// Any bits; the staleness marker is a value like others.
    pub value: f64,
    /// Start timestamp in milliseconds, 0 if unknown.
    pub start_timestamp: i64,
}

/// A histogram sample.
#[derive(Clone, Debug)]
pub struct HistogramSample {
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// Start timestamp in milliseconds, 0 if unknown.
    pub start_timestamp: i64,
    /// The histogram, validated by the receiver.
    pub histogram: Histogram,
}

/// An exemplar.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Usually `trace_id` and the like.
    pub labels: Labels,
    /// Value of the exemplar.
    pub value: f64,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
}

/// The type of a metric, as exposition formats and remote write name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MetricType {
    /// Not known ("untyped" in the text format).
    #[default]
    Unknown = 0,
    /// Only rises, but for resets.
    Counter = 1,
    /// Goes up and down.
    Gauge = 2,
    /// Classic or native histogram.
    Histogram = 3,
    /// Histogram whose counts go up and down.
    GaugeHistogram = 4,
    /// Quantiles, count and sum.
    Summary = 5,
    /// Labels with the value 1.
    Info = 6,
    /// One series per state, 0 or 1.
    StateSet = 7,
}

impl MetricType {
    /// The lower-case word that the metadata API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
        }
    }
}

/// What is known about a metric family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Metadata {
    /// Type of the metric.
    pub metric_type: MetricType,
    /// Unit, or empty.
    pub unit: String,
    /// Help text, or empty.
    pub help: String,
}

/// Many samples of many series, in the order in which they are applied.
#[derive(Debug)]
pub struct AppendBatch<'a> {
    /// The series; the same series may occur more than once.
    pub series: Vec<BatchSeries<'a>>,
    /// Samples of all series.
    pub samples: Vec<Sample>,
    /// Histograms of all series.
    pub histograms: Vec<HistogramSample>,
    /// Exemplars of all series.
    pub exemplars: Vec<Exemplar>,
    /// Metadata by metric family name.
    pub metadata: Vec<(&'a str, Metadata)>,
    /// What [`SeriesKey::Symbols`] counts in.
    pub symbols: Vec<&'a str>,
    /// How [`SeriesKey::Encoded`] bytes are read.
    pub decode: DecodeLabels,
    /// From this position in `series` on, samples that are not newer than the newest of their series
    /// are passed over, neither written nor counted as refused. A scrape puts its staleness markers
    /// there: a series that vanished from one target may live on at another.
    pub newest_only_from: usize,
}

impl AppendBatch<'_> {
    /// The lowest timestamp of all samples and histograms.
    pub fn lowest_timestamp(&self) -> Option<i64> {
        let floats = self.samples.iter().map(|sample| sample.timestamp).min();
        let histograms = self.histograms.iter().map(|sample| sample.timestamp).min();
        floats.into_iter().chain(histograms).min()
    }
}

/// One series of a batch. Ranges index the arrays of the batch.
#[derive(Clone, Debug)]
pub struct BatchSeries<'a> {
    /// Which series.
    pub key: SeriesKey<'a>,
    /// Its samples.
    pub samples: Range<u32>,
    /// Its histograms.
    pub histograms: Range<u32>,
    /// Its exemplars.
    pub exemplars: Range<u32>,
}

impl Default for AppendBatch<'_> {
    fn default() -> Self {
        Self {
            series: Vec::new(),
            samples: Vec::new(),
            histograms: Vec::new(),
            exemplars: Vec::new(),
            metadata: Vec::new(),
            symbols: Vec::new(),
            decode: |_, _| Err(InvalidLabels::Encoding("this batch has no encoded series")),
            newest_only_from: usize::MAX,
        }
    }
}

/// Why a sample was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The labels of its series.
    #[error(transparent)]
    Labels(#[from] InvalidLabels),
    /// The same timestamp with another value was acknowledged before; that one stays.
    #[error("duplicate sample for timestamp: another value was stored before")]
    Duplicate,
    /// Older than retention keeps.
    #[error("too old: retention keeps samples from {oldest} ms on")]
    TooOld {
        /// Oldest timestamp that is accepted.
        oldest: i64,
    },
    /// Further ahead of the clock than allowed.
    #[error("too far in the future: the limit is {newest} ms")]
    TooNew {
        /// Newest timestamp that is accepted.
        newest: i64,
    },
    /// Outside of +-2^53 ms, where JSON clients would lose digits.
    #[error("timestamp out of range")]
    OutOfRange,
    /// The histogram contradicts itself.
    #[error("invalid histogram: {0}")]
    Histogram(String),
    /// An exemplar not newer than the last one of its series.
    #[error("out of order exemplar")]
    ExemplarOutOfOrder,
}

/// What became of a batch. Everything counted as written is in the log.
#[derive(Clone, Debug, Default)]
pub struct AppendOutcome {
    /// Float samples in the log, identical ones that were there before included.
    pub samples_written: u64,
    /// Likewise histograms.
    pub histograms_written: u64,
    /// Likewise exemplars.
    pub exemplars_written: u64,
    /// How many samples, histograms and exemplars were refused.
    pub refused: u64,
    /// How many of those refused were duplicates with another value.
    pub refused_duplicate: u64,
    /// Too old.
    pub refused_too_old: u64,
    /// Too new, or out of range.
    pub refused_too_new: u64,
    /// Series named by a [`SeriesKey::Handle`] that is no longer valid. Their samples were neither written nor refused.
    pub expired: u64,
    /// Series with invalid labels (their samples count in `refused`).
    pub refused_labels: u64,
    /// Samples that arrived before the newest of their series and were written.
    pub out_of_order: u64,
    /// The first refusal: labels of the series as text, timestamp, reason.
    pub first_refused: Option<(String, i64, Refusal)>,
    /// Handle of each series of the batch in order; `None` where labels were refused. Filled only
    /// when asked for.
    pub refs: Vec<Option<SeriesRef>>,
    /// Series the batch created.
    pub series_created: u64,
}
