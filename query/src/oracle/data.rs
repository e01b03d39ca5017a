//! Stored samples as plain vectors, and the iterators through which Prometheus's engine reads them: what it
//! has read before decides about the reset hints of histograms without buckets.
//!
//! Source: Prometheus v3.14, `storage/buffer.go`, `storage/memoized_iterator.go`,
//! `promql/histogram_stats_iterator.go`.

use crate::value::SampleValue;
use chronolith_model::queryable::{Floats, QueryContext, Queryable, SampleBatch, Select, Unlimited};
use chronolith_model::{CounterResetHint, FloatHistogram, Labels, Matcher, is_stale, stale_nan};
use std::rc::Rc;
use std::sync::Arc;

/// A stored sample.
#[derive(Clone)]
pub(super) struct Point {
    pub(super) t: i64,
    pub(super) start: i64,
    pub(super) value: SampleValue,
}

impl Point {
    fn is_stale(&self) -> bool {
        match &self.value {
            SampleValue::Float(value) => is_stale(*value),
            SampleValue::Histogram(histogram) => histogram.is_stale(),
        }
    }
}

/// All series of a store.
pub struct Data {
    pub(super) series: Vec<(Rc<Labels>, Vec<Point>)>,
}

impl Data {
    /// Reads a whole store.
    ///
    /// # Errors
    /// In words, if it cannot be read.
    pub fn read(store: &dyn Queryable) -> Result<Self, String> {
        let cx = Unlimited::default();
        let text = |error: chronolith_model::queryable::ReadError| error.to_string();
        let snapshot = store.pin().map_err(text)?;
        let select = Select { start_timestamps: true, ..Select::whole(&[], i64::MIN / 4, i64::MAX / 4) };
        let selected = snapshot.select(&select, &cx).map_err(text)?;
        let mut series = Vec::new();
        let mut batch = SampleBatch::default();
        for partition in selected.partitions() {
            batch.clear();
            selected.read(partition.clone(), &mut batch, &cx).map_err(text)?;
            for (at, samples) in partition.clone().zip(&batch.series) {
                let labels: Vec<(String, String)> = selected
                    .labels(at)
                    .iter()
                    .map(|(name, value)| {
                        (cx.symbols().resolve(*name).to_string(), cx.symbols().resolve(*value).to_string())
                    })
                    .collect();
                let labels = Labels::from_pairs(labels).map_err(|error| error.to_string())?;
                let mut histograms = samples.histograms.iter().flat_map(|(range, _)| range.clone());
                let points = samples.timestamps.times.iter().enumerate().map(|(i, &t)| {
                    let start = samples.start_timestamps.as_ref().map_or(0, |starts| starts[i]);
                    let is_histogram =
                        samples.histograms.as_ref().is_some_and(|(_, positions)| positions.contains(i));
                    let histograms_before = match &samples.histograms {
                        Some((_, positions)) => positions.iter().take_while(|&position| position < i).count(),
                        None => 0,
                    };
                    let value = if samples.stale.contains(&(i as u32)) {
                        SampleValue::Float(stale_nan())
                    } else if is_histogram {
                        let at = histograms.next().expect("one for each position");
                        SampleValue::Histogram(Arc::clone(&batch.histograms[at as usize]))
                    } else {
                        SampleValue::Float(match &samples.floats {
                            Floats::None => f64::NAN,
                            Floats::Constant(value) => *value,
                            Floats::Values(range) => {
                                batch.values[range.start as usize + i - histograms_before]
                            }
                        })
                    };
                    Point { t, start, value }
                });
                series.push((Rc::new(labels), points.collect()));
            }
        }
        Ok(Self { series })
    }

    /// The series that match.
    pub(super) fn select<'d>(
        &'d self,
        matchers: &[Matcher],
    ) -> impl Iterator<Item = &'d (Rc<Labels>, Vec<Point>)> + use<'d> {
        let matches = |labels: &Labels| {
            matchers.iter().all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or("")))
        };
        let selected: Vec<_> = self.series.iter().filter(|(labels, _)| matches(labels)).collect();
        selected.into_iter()
    }
}

/// One series, read forward; histograms without their buckets if asked for.
pub(super) struct Reader<'d> {
    points: &'d [Point],
    /// The current sample; the number of samples if there is none.
    at: usize,
    skip_buckets: bool,
    /// The histogram read last, with the hint it was given, and its position.
    last: Option<(FloatHistogram, usize)>,
}

impl<'d> Reader<'d> {
    /// Stands on the first sample from `mint` on.
    fn new(points: &'d [Point], skip_buckets: bool, mint: i64) -> Self {
        let points = &points[points.partition_point(|point| point.t < mint)..];
        Self { points, at: 0, skip_buckets, last: None }
    }

    fn time(&self) -> Option<i64> {
        self.points.get(self.at).map(|point| point.t)
    }

    /// Upstream forgets what it has read where samples are skipped, and then knows less about resets; what
    /// stores promise is a hint for every sample but the first.
    fn seek(&mut self, t: i64) {
        while self.time().is_some_and(|time| time < t) {
            if self.skip_buckets {
                self.read();
            }
            self.at += 1;
        }
    }

    /// The current sample.
    fn read(&mut self) -> Point {
        let point = self.points[self.at].clone();
        let SampleValue::Histogram(histogram) = &point.value else { return point };
        if !self.skip_buckets {
            return point;
        }
        let view = |hint| FloatHistogram {
            counter_reset_hint: hint,
            schema: histogram.schema,
            count: histogram.count,
            sum: histogram.sum,
            ..FloatHistogram::default()
        };
        let hint = match (&self.last, histogram.counter_reset_hint) {
            (Some((last, at)), _) if *at == self.at => last.counter_reset_hint,
            (Some((last, _)), CounterResetHint::Unknown) if histogram.detect_reset(last) => {
                CounterResetHint::Reset
            }
            (Some(_), CounterResetHint::Unknown) => CounterResetHint::NotReset,
            (_, hint) => hint,
        };
        self.last = Some((FloatHistogram { counter_reset_hint: hint, ..(**histogram).clone() }, self.at));
        Point { value: SampleValue::Histogram(Arc::new(view(hint))), ..point }
    }
}

/// Remembers the sample before the current one.
pub(super) struct Memoized<'d> {
    reader: Reader<'d>,
    delta: i64,
    last_time: i64,
    previous: Option<Point>,
}

impl<'d> Memoized<'d> {
    pub(super) fn new(points: &'d [Point], skip_buckets: bool, mint: i64, delta: i64) -> Self {
        Self { reader: Reader::new(points, skip_buckets, mint), delta, last_time: i64::MIN, previous: None }
    }

    /// Moves to the first sample at `t` or later; whether there is one.
    fn seek(&mut self, t: i64) -> bool {
        let from = t - self.delta;
        if self.reader.time().is_some() && from > self.last_time {
            self.previous = None;
            self.reader.seek(from);
            match self.reader.time() {
                Some(time) => self.last_time = time,
                None => return false,
            }
        }
        if self.last_time >= t {
            return self.reader.time().is_some();
        }
        while self.reader.time().is_some() {
            self.previous = Some(self.reader.read());
            self.reader.at += 1;
            if let Some(time) = self.reader.time() {
                self.last_time = time;
                if time >= t {
                    return true;
                }
            }
        }
        false
    }

    /// The sample an instant selector sees at `t`.
    pub(super) fn lookup(&mut self, t: i64, lookback: i64) -> Option<Point> {
        let point = match self.seek(t) {
            true if self.reader.time() == Some(t) => self.reader.read(),
            _ => self.previous.clone().filter(|previous| previous.t > t - lookback)?,
        };
        (!point.is_stale()).then_some(point)
    }
}

/// Keeps the samples of a time before the current one.
pub(super) struct Buffered<'d> {
    reader: Reader<'d>,
    delta: i64,
    last_time: i64,
    buffer: Vec<Point>,
}

impl<'d> Buffered<'d> {
    pub(super) fn new(points: &'d [Point], skip_buckets: bool, mint: i64, delta: i64) -> Self {
        Self {
            reader: Reader::new(points, skip_buckets, mint),
            delta,
            last_time: i64::MIN,
            buffer: Vec::new(),
        }
    }

    pub(super) fn reduce_delta(&mut self, delta: i64) {
        self.delta = self.delta.min(delta);
    }

    fn seek(&mut self, t: i64) -> bool {
        let from = t - self.delta;
        if self.reader.time().is_some() && from > self.last_time {
            self.buffer.clear();
            self.reader.seek(from);
            match self.reader.time() {
                Some(time) => self.last_time = time,
                None => return false,
            }
        }
        if self.last_time >= t {
            return self.reader.time().is_some();
        }
        while self.reader.time().is_some() {
            let point = self.reader.read();
            let newest = point.t;
            self.buffer.push(point);
            self.buffer.retain(|point| point.t >= newest - self.delta);
            self.reader.at += 1;
            if let Some(time) = self.reader.time() {
                self.last_time = time;
                if time >= t {
                    return true;
                }
            }
        }
        false
    }

    /// Brings `window` from an earlier one to `(mint, maxt]`.
    pub(super) fn window(&mut self, mint: i64, maxt: i64, window: &mut Window) {
        let after = |points: &mut Vec<Point>| {
            points.retain(|point| point.t > mint);
            points.last().map_or(mint, |point| point.t)
        };
        let (after_floats, after_histograms) = (after(&mut window.floats), after(&mut window.histograms));
        if mint == maxt {
            return;
        }
        let found = self.seek(maxt);
        let sought = if found && self.reader.time() == Some(maxt) { Some(self.reader.read()) } else { None };
        for point in self.buffer.iter().cloned().chain(sought).filter(|point| !point.is_stale()) {
            match point.value {
                SampleValue::Float(_) if point.t > after_floats => window.floats.push(point),
                SampleValue::Histogram(_) if point.t > after_histograms => window.histograms.push(point),
                _ => {}
            }
        }
    }
}

/// The samples in a window.
#[derive(Default)]
pub(super) struct Window {
    pub(super) floats: Vec<Point>,
    pub(super) histograms: Vec<Point>,
}
