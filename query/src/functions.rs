//! The functions of PromQL, one file per family, and the interface of those that work on windows.
//!
//! Math, time, label and histogram functions are plain functions of values; operators around them are in
//! [`crate::eval`].

pub(crate) mod histogram;
pub(crate) mod label;
pub(crate) mod math;
pub(crate) mod over_time;
pub(crate) mod rate;
pub(crate) mod time;

use crate::annotations::{Annotation, Annotations};
use crate::error::QueryError;
use crate::eval::batch::RowMut;
use crate::limits::SAMPLES_PER_CHECK;
use crate::parser::{Function, Span};
use crate::value::SampleValue;
use chronolith_model::FloatHistogram;
use chronolith_model::symbols::{Symbol, SymbolTable};
use std::sync::Arc;

/// A function of the samples in a window.
pub(crate) trait WindowFunction: Send + Sync {
    /// The value for one window, which holds at least one sample; `None` for no result.
    fn window(
        &self,
        window: &Window<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<Option<SampleValue>, QueryError>;

    /// All windows of a series of floats at once, where there is a faster way; false if there is none for
    /// this series. Must give the same bits as [`WindowFunction::window`].
    fn column(
        &self,
        column: &FloatColumn<'_>,
        row: &mut RowMut<'_>,
        notes: &mut SeriesNotes<'_>,
    ) -> Result<bool, QueryError> {
        let _ = (column, row, notes);
        Ok(false)
    }

    /// How much more work a window is than that of a rate, which takes 5 to 10 ns: functions that look at all of its
    /// samples take 90 to 300.
    fn weight(&self) -> usize {
        8
    }

    /// Whether [`FloatColumn::geometry`] is needed.
    fn needs_geometry(&self) -> bool {
        false
    }

    /// What the windows of a timestamp column have in common, whatever the values: worked out once for all series of
    /// the column and handed back as [`FloatColumn::factors`]. Only asked for with [`FloatColumn::geometry`].
    fn factors(&self, low: &[u32], high: &[u32], geometry: &[[f64; 3]], range_s: f64) -> Vec<f64> {
        let _ = (low, high, geometry, range_s);
        Vec::new()
    }

    /// Whether a result for a metric whose name does not look like a counter's is worth a note.
    fn expects_counter(&self) -> bool {
        false
    }
}

/// How far a window reaches beyond its range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Extension {
    /// Not at all.
    #[default]
    None,
    /// To the last sample before it: `anchored`.
    Anchored,
    /// To the samples on both sides: `smoothed`.
    Smoothed,
}

impl Extension {
    /// The modifier as PromQL writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Anchored => "anchored",
            Self::Smoothed => "smoothed",
        }
    }
}

/// The floats of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FloatPoints<'a> {
    pub(crate) times: &'a [i64],
    pub(crate) values: &'a [f64],
    /// Start timestamps; empty if they are not used.
    pub(crate) starts: &'a [i64],
}

/// The histograms of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HistogramPoints<'a> {
    pub(crate) times: &'a [i64],
    pub(crate) values: &'a [Arc<FloatHistogram>],
    /// Start timestamps; empty if they are not used.
    pub(crate) starts: &'a [i64],
}

/// The samples of one series in one window, staleness markers removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    /// Number of the step.
    pub(crate) step: usize,
    /// Time of the step, in milliseconds.
    pub(crate) time: i64,
    /// The range is `(start, end]`; an extended window holds samples beyond it.
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Length of the range.
    pub(crate) range_s: f64,
    pub(crate) extension: Extension,
    pub(crate) floats: FloatPoints<'a>,
    pub(crate) histograms: HistogramPoints<'a>,
}

/// The values of a float series.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ColumnValues<'a> {
    /// The same at every timestamp.
    Constant(f64),
    /// One a timestamp.
    Each(&'a [f64]),
}

/// All windows of a series that holds only floats, none of them stale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatColumn<'a> {
    pub(crate) times: &'a [i64],
    pub(crate) values: ColumnValues<'a>,
    /// Start timestamps; empty if they are not used.
    pub(crate) starts: &'a [i64],
    /// By step: the window is `low..high` of the samples.
    pub(crate) low: &'a [u32],
    pub(crate) high: &'a [u32],
    /// By step, if asked for: seconds from first to last sample, from the start of the range to the first
    /// sample, from the last sample to the end of the range.
    pub(crate) geometry: &'a [[f64; 3]],
    /// By step, if the function has [`WindowFunction::factors`].
    pub(crate) factors: &'a [f64],
    /// The steps whose windows hold a sample, as bits.
    pub(crate) filled: &'a [u64],
    /// The steps whose windows hold two samples or more, as bits.
    pub(crate) pairs: &'a [u64],
    pub(crate) range_s: f64,
    pub(crate) extension: Extension,
}

impl FloatColumn<'_> {
    /// Whether windows can be folded in a few milliseconds, without a look at whether the query goes on.
    pub(crate) fn is_short(&self) -> bool {
        self.windows(1).map(|(_, low, high)| high - low).sum::<usize>() < 64 * SAMPLES_PER_CHECK
    }

    /// The windows with at least `n` samples: step, first sample, one past the last sample.
    pub(crate) fn windows(&self, n: u32) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let bounds = self.low.iter().zip(self.high).enumerate();
        bounds
            .filter(move |&(_, (&low, &high))| high - low >= n.max(1))
            .map(|(step, (&low, &high))| (step, low as usize, high as usize))
    }
}

/// Where a window function notes what a user should hear of.
pub(crate) struct SeriesNotes<'a> {
    pub(crate) annotations: &'a mut Annotations,
    pub(crate) symbols: &'a SymbolTable,
    /// The metric name of the series.
    pub(crate) name: Symbol,
    /// Where the range vector stands.
    pub(crate) span: Span,
}

impl SeriesNotes<'_> {
    /// Notes something about this metric.
    pub(crate) fn named(&mut self, note: impl FnOnce(Arc<str>) -> Annotation) {
        let note = note(self.symbols.resolve(self.name));
        self.annotations.add(note, self.span);
    }

    /// Notes something.
    pub(crate) fn add(&mut self, note: Annotation) {
        self.annotations.add(note, self.span);
    }
}

/// The window function called `function`, with its scalar arguments (each one value a step) and the places of
/// all arguments; `None` if `function` does not work on windows.
pub(crate) fn window_function(
    function: Function,
    scalars: Vec<Vec<f64>>,
    spans: &[Span],
) -> Option<Box<dyn WindowFunction>> {
    rate::find(function).or_else(|| over_time::find(function, scalars, spans))
}

/// Seconds in a length of milliseconds, rounded as Go's `Duration.Seconds` does.
pub(crate) fn seconds(millis: i64) -> f64 {
    (millis / 1000) as f64 + (millis % 1000 * 1_000_000) as f64 / 1e9
}
