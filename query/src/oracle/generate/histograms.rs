//! Native histograms at random.

use super::Rng;
use chronolith_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use chronolith_model::{CounterResetHint, FloatHistogram, Span};
use std::sync::Arc;

/// What the histograms of a series have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Exponential buckets that fill.
    Counter,
    /// Exponential buckets that go up and down, marked as a gauge.
    Gauge,
    /// Custom bounds.
    Custom,
    /// Any of these, changing on the way.
    Wild,
}

/// Histograms of one series, one after the other.
pub(super) struct Source {
    shape: Shape,
    last: FloatHistogram,
    whole: bool,
}

const BOUNDS: [&[f64]; 5] =
    [&[0.1, 1.0, 10.0], &[0.1, 0.5, 1.0, 5.0, 10.0], &[1.0], &[-1.0, 0.0, 1.0], &[5.0, 10.0]];

impl Source {
    pub(super) fn new(rng: &mut Rng, shape: Shape) -> Self {
        let whole = rng.chance(70);
        let mut source = Self { shape, last: FloatHistogram::default(), whole };
        source.begin(rng);
        source
    }

    /// An empty histogram of a new layout.
    fn begin(&mut self, rng: &mut Rng) {
        let custom = match self.shape {
            Shape::Counter | Shape::Gauge => false,
            Shape::Custom => true,
            Shape::Wild => rng.chance(30),
        };
        let mut histogram = FloatHistogram::default();
        if custom {
            let bounds = rng.pick(&BOUNDS);
            histogram.schema = CUSTOM_BUCKETS_SCHEMA;
            histogram.custom_values = Some(Arc::from(bounds));
            let offset = rng.below(2);
            let length = (bounds.len() + 1 - offset).min(1 + rng.below(4));
            histogram.positive_spans = vec![Span { offset: offset as i32, length: length as u32 }];
            histogram.positive_buckets = vec![0.0; length];
        } else {
            histogram.schema = rng.pick(&[0, 0, 0, 1, 1, 2, 3, -1, -4, 8]);
            if rng.chance(70) {
                histogram.zero_threshold = rng.pick(&[0.001, 0.001, 0.5, 1e-128]);
            }
            let spans = |rng: &mut Rng, percent: usize| {
                let mut spans = Vec::new();
                if rng.chance(percent) {
                    let (offset, length) = (rng.below(7) as i32 - 3, 1 + rng.below(4) as u32);
                    spans.push(Span { offset, length });
                }
                if !spans.is_empty() && rng.chance(20) {
                    spans.push(Span { offset: rng.below(3) as i32, length: 1 + rng.below(2) as u32 });
                }
                spans
            };
            let n_buckets = |spans: &[Span]| spans.iter().map(|span| span.length as usize).sum();
            histogram.positive_spans = spans(rng, 85);
            histogram.positive_buckets = vec![0.0; n_buckets(&histogram.positive_spans)];
            histogram.negative_spans = spans(rng, 30);
            histogram.negative_buckets = vec![0.0; n_buckets(&histogram.negative_spans)];
        }
        let gauge = self.shape == Shape::Gauge || self.shape == Shape::Wild && rng.chance(20);
        histogram.counter_reset_hint =
            if gauge { CounterResetHint::Gauge } else { CounterResetHint::Unknown };
        self.last = histogram;
        self.fill(rng);
    }

    /// More observations; fewer, now and then, in a gauge.
    fn fill(&mut self, rng: &mut Rng) {
        let whole = self.whole;
        let gauge = self.last.counter_reset_hint == CounterResetHint::Gauge;
        let more = |rng: &mut Rng, count: &mut f64| {
            let amount = match rng.below(4) {
                0 => 0.0,
                _ if whole => rng.below(5) as f64,
                _ => rng.unit() * 5.0,
            };
            *count = if gauge && rng.chance(40) { (*count - amount).max(0.0) } else { *count + amount };
        };
        let last = &mut self.last;
        if last.schema != CUSTOM_BUCKETS_SCHEMA && rng.chance(50) {
            more(rng, &mut last.zero_count);
        }
        for count in last.positive_buckets.iter_mut().chain(&mut last.negative_buckets) {
            more(rng, count);
        }
        let buckets = last.positive_buckets.iter().chain(&last.negative_buckets);
        last.count = last.zero_count + buckets.sum::<f64>();
        last.sum += if whole { rng.below(40) as f64 - 5.0 } else { rng.unit() * 40.0 - 5.0 };
        if rng.chance(2) {
            // Observations that are NaN are in no bucket.
            last.sum = f64::NAN;
            last.count += 1.0;
        }
    }

    /// The next one and whether a counter was reset before it.
    pub(super) fn next(&mut self, rng: &mut Rng) -> (Arc<FloatHistogram>, bool) {
        let reset = match self.shape {
            Shape::Wild => rng.chance(25),
            Shape::Gauge => rng.chance(3),
            Shape::Counter | Shape::Custom => rng.chance(8),
        };
        if reset {
            self.begin(rng);
        } else {
            self.fill(rng);
        }
        let mut histogram = self.last.clone();
        if histogram.counter_reset_hint == CounterResetHint::Unknown {
            histogram.counter_reset_hint = match rng.below(20) {
                0 => CounterResetHint::Reset,
                1 => CounterResetHint::NotReset,
                _ => CounterResetHint::Unknown,
            };
        }
        (Arc::new(histogram), reset)
    }
}
