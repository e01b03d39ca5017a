//! Histograms as queries see them: floats, with counter-reset hints worked out on reading.
//!
//! A *run* of histograms ends at a counter reset (found, or stated by the sender), a change of schema,
//! zero threshold, custom bounds, between whole and float counts or between counter and gauge, at a
//! staleness marker, at a float, and where the sample before is of another part or chunk. The hint is
//! `Gauge` for gauges, `NotReset` within a run, `Unknown` for the first of a run; never `Reset`.
//!
//! Source: Prometheus v3.14, `tsdb/chunkenc/histogram.go`, `appendable` and `counterResetHint`; for the
//! stats view `promql/histogram_stats_iterator.go`.

use chronolith_model::histogram::{CounterResetHint, FloatHistogram, Histogram, custom_bounds_match};
use chronolith_model::queryable::HistogramNeed;
use std::sync::Arc;

/// Turns the stored histograms of one series, in time order, into what queries see.
#[derive(Debug)]
pub(super) struct Hints {
    need: HistogramNeed,
    // Where the reader begins: what a chunk holds before is not compared with in the stats view.
    mint: i64,
    previous: Option<Previous>,
    // The stats view compares with the last histogram it gave that was no staleness marker, also over
    // floats and gaps.
    last_full: Option<Arc<FloatHistogram>>,
    // Stands for every histogram where presence is enough.
    presence: Option<Arc<FloatHistogram>>,
}

/// The sample before.
#[derive(Debug)]
struct Previous {
    histogram: Arc<FloatHistogram>,
    has_floats: bool,
    is_gauge: bool,
}

impl Hints {
    pub(super) fn new(need: HistogramNeed, mint: i64) -> Self {
        let presence = (need == HistogramNeed::None).then(Default::default);
        Self { need, mint, previous: None, last_full: None, presence }
    }

    /// The next series begins.
    pub(super) fn begin_series(&mut self) {
        self.previous = None;
        self.last_full = None;
    }

    /// What comes next does not follow the sample before: a float lies between, or another part does.
    pub(super) fn interrupt(&mut self) {
        self.previous = None;
    }

    /// The next histogram of the series, at `time`.
    pub(super) fn next(&mut self, time: i64, stored: &Histogram) -> Arc<FloatHistogram> {
        if let Some(presence) = &self.presence {
            return Arc::clone(presence);
        }
        let stored_hint = stored.counter_reset_hint();
        let is_gauge = stored_hint == CounterResetHint::Gauge;
        let has_floats = matches!(stored, Histogram::Float(_));
        let mut histogram = stored.to_float();
        histogram.counter_reset_hint = CounterResetHint::Unknown;
        let follows = !is_gauge
            && stored_hint != CounterResetHint::Reset
            && self.previous.as_ref().is_some_and(|previous| {
                !previous.is_gauge
                    && previous.has_floats == has_floats
                    && continues(&previous.histogram, &histogram)
            });
        histogram.counter_reset_hint = match (is_gauge, follows) {
            (true, _) => CounterResetHint::Gauge,
            (false, true) => CounterResetHint::NotReset,
            (false, false) => CounterResetHint::Unknown,
        };
        let histogram = Arc::new(histogram);
        self.previous = Some(Previous { histogram: Arc::clone(&histogram), has_floats, is_gauge });
        match self.need {
            HistogramNeed::Stats => self.stats(time, histogram),
            HistogramNeed::Full | HistogramNeed::None => histogram,
        }
    }

    /// Count and sum, with a hint that is worked out on the buckets before they go.
    fn stats(&mut self, time: i64, histogram: Arc<FloatHistogram>) -> Arc<FloatHistogram> {
        let mut hint = histogram.counter_reset_hint;
        if !histogram.is_stale() {
            if let (CounterResetHint::Unknown, Some(last)) = (hint, &self.last_full) {
                hint = match is_reset(last, &histogram) {
                    true => CounterResetHint::Reset,
                    false => CounterResetHint::NotReset,
                };
            }
            if time >= self.mint {
                self.last_full = Some(Arc::clone(&histogram));
            }
        }
        Arc::new(FloatHistogram {
            counter_reset_hint: hint,
            schema: histogram.schema,
            count: histogram.count,
            sum: histogram.sum,
            ..Default::default()
        })
    }
}

/// Whether both belong to one run of counters; the hint of `current` is not known yet.
fn continues(previous: &FloatHistogram, current: &FloatHistogram) -> bool {
    !previous.is_stale()
        && !current.is_stale()
        && previous.schema == current.schema
        && previous.zero_threshold == current.zero_threshold
        && custom_bounds_match(previous.custom_bounds(), current.custom_bounds())
        && !is_reset(previous, current)
}

/// Whether a counter reset lies between; the hint of `current` is unknown.
fn is_reset(previous: &FloatHistogram, current: &FloatHistogram) -> bool {
    let same_buckets = previous.schema == current.schema
        && previous.zero_threshold == current.zero_threshold
        && previous.positive_spans == current.positive_spans
        && previous.negative_spans == current.negative_spans
        && custom_bounds_match(previous.custom_bounds(), current.custom_bounds());
    if !same_buckets {
        return current.detect_reset(previous);
    }
    let fallen = |previous: &[f64], current: &[f64]| previous.iter().zip(current).any(|(p, c)| c < p);
    current.count < previous.count
        || current.zero_count < previous.zero_count
        || fallen(&previous.positive_buckets, &current.positive_buckets)
        || fallen(&previous.negative_buckets, &current.negative_buckets)
}
