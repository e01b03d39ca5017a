//! Series at random: counters, gauges, odd numbers, classic and native histograms, info metrics, with resets,
//! gaps and staleness markers.

use super::histograms::{self, Shape};
use super::{Mix, Rng, Series, World};
use crate::script::Sample;
use crate::value::SampleValue;
use chronolith_model::{Labels, stale_nan};

/// What the samples of a metric look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rises, apart from resets.
    Counter,
    /// Goes up and down.
    Gauge,
    /// NaN, infinities, huge and tiny numbers among others.
    Odd,
    /// One number throughout.
    Constant,
    /// Native histograms.
    Histogram(Shape),
    /// Floats and native histograms by turns.
    Mixed(Shape),
}

/// Metrics by name. Labels are added to each.
pub(super) const METRICS: [(&str, Kind); 19] = [
    ("jobs_total", Kind::Counter),
    ("http_total", Kind::Counter),
    ("errors_total", Kind::Counter),
    ("temp", Kind::Gauge),
    ("load", Kind::Gauge),
    ("odd", Kind::Odd),
    ("odd_total", Kind::Odd),
    ("fixed", Kind::Constant),
    ("my.metric", Kind::Gauge),
    ("target_info", Kind::Constant),
    ("build_info", Kind::Constant),
    ("typed", Kind::Counter),
    ("lat_bucket", Kind::Counter),
    ("nh", Kind::Histogram(Shape::Counter)),
    ("nh_total", Kind::Histogram(Shape::Counter)),
    ("nhg", Kind::Histogram(Shape::Gauge)),
    ("nhcb", Kind::Histogram(Shape::Custom)),
    ("wild", Kind::Histogram(Shape::Wild)),
    ("mixed", Kind::Mixed(Shape::Wild)),
];

/// Values of `le`: several ways to write a number, and some that are none.
const BOUNDS: [&str; 12] = ["0.1", "0.5", "1", "1.0", "2.5", "1e1", "10", "+Inf", "Inf", "-1", "NaN", "much"];

pub(super) fn world(rng: &mut Rng, mix: Mix) -> World {
    let interval_ms = match rng.below(20) {
        0..6 => 60_000,
        6..9 => 15_000,
        9..12 => 30_000,
        12..14 => 10_000,
        14 => 300_000,
        15 => 7_000,
        16 => 1_000,
        17 => 3_600_000,
        18 => 86_400_000,
        _ => 10 * 86_400_000,
    };
    let n_points = match rng.below(10) {
        0 => 1 + rng.below(3),
        1..8 => 4 + rng.below(16),
        8 => 20 + rng.below(40),
        _ => 60 + rng.below(60),
    };
    let lookback_ms = match interval_ms {
        _ if rng.chance(5) => interval_ms / 2,
        60_001.. => 2 * interval_ms + 1,
        _ if rng.chance(20) => interval_ms,
        _ => 300_000,
    };
    let mut world = World { series: Vec::new(), interval_ms, last_ms: 0, lookback_ms };
    let clock = Clock::new(rng, mix, interval_ms, n_points);
    for (name, kind) in METRICS {
        let wanted = match kind {
            Kind::Histogram(_) | Kind::Mixed(_) if !mix.histograms => false,
            _ => rng.chance(if matches!(kind, Kind::Counter) { 80 } else { 60 }),
        };
        if wanted {
            metric(rng, mix, &clock, name, kind, &mut world.series);
        }
    }
    if world.series.is_empty() {
        metric(rng, mix, &clock, "jobs_total", Kind::Counter, &mut world.series);
    }
    world.series.sort_by(|a, b| a.0.cmp(&b.0));
    world.series.dedup_by(|a, b| a.0 == b.0);
    let times = world.series.iter().filter_map(|(_, samples)| samples.last()).map(|(time, _)| *time);
    world.last_ms = times.max().unwrap_or(0).max(interval_ms);
    world
}

/// When samples are taken.
struct Clock {
    interval_ms: i64,
    n_points: usize,
    first_ms: i64,
    /// Samples are late by less than this.
    jitter_ms: i64,
    gap_percent: usize,
    stale_percent: usize,
}

impl Clock {
    fn new(rng: &mut Rng, mix: Mix, interval_ms: i64, n_points: usize) -> Self {
        let jitter_ms = if rng.chance(30) { interval_ms / 2 } else { 0 };
        let first_ms = if rng.chance(60) { 0 } else { rng.below(interval_ms as usize) as i64 };
        let gap_percent = rng.pick(&[0, 0, 5, 20, 50]);
        let stale_percent = rng.pick(&[0, 0, 3, 10]);
        let jitter_ms = if mix.off_grid { jitter_ms.max(900) } else { jitter_ms };
        Self { interval_ms, n_points, first_ms, jitter_ms, gap_percent, stale_percent }
    }

    fn times(&self, rng: &mut Rng, mix: Mix) -> Vec<i64> {
        let mut times: Vec<i64> = Vec::with_capacity(self.n_points);
        let jitter_ms = if mix.off_grid || rng.chance(50) { self.jitter_ms } else { 0 };
        let dense = rng.chance(50);
        for i in 0..self.n_points {
            if !dense && rng.chance(self.gap_percent) {
                continue;
            }
            let late = if jitter_ms == 0 { 0 } else { rng.below(jitter_ms as usize) as i64 };
            let mut time = self.first_ms + i as i64 * self.interval_ms + late;
            if mix.off_grid && time % 1000 == 0 {
                time += 1;
            }
            if times.last().is_none_or(|&before| before < time) {
                times.push(time);
            }
        }
        times
    }
}

/// The series of one metric.
fn metric(rng: &mut Rng, mix: Mix, clock: &Clock, name: &str, kind: Kind, out: &mut Vec<Series>) {
    for job in ["a", "b"] {
        for instance in ["0", "1", "2"] {
            if instance == "2" && !rng.chance(20) || rng.chance(10) {
                continue;
            }
            let mut pairs = vec![("__name__", name), ("job", job), ("instance", instance)];
            match name {
                "errors_total" => pairs.push(("code", rng.pick(&["200", "404", "500", "10", "9"]))),
                "target_info" => pairs.push(("version", rng.pick(&["1", "2", "2.10"]))),
                "build_info" => pairs.extend([("build", rng.pick(&["x", "y"])), ("version", "3")]),
                "my.metric" => pairs.push(("a.b", rng.pick(&["ü", "1", "\"q\"", "two\nlines"]))),
                "typed" => pairs.extend([
                    ("__type__", rng.pick(&["counter", "gauge", "histogram"])),
                    ("__unit__", rng.pick(&["", "seconds"])),
                ]),
                _ => {}
            }
            if rng.chance(15) {
                pairs.push(("env", rng.pick(&["p", "q", " ", "A"])));
            }
            if rng.chance(3) {
                // Sorts before the name.
                pairs.push(("Zone", "z"));
            }
            if name == "lat_bucket" {
                buckets(rng, mix, clock, &pairs, out);
                continue;
            }
            let times = clock.times(rng, mix);
            out.push((labels(&pairs), samples(rng, mix, clock, kind, &times)));
            if name == "target_info" && rng.chance(20) {
                pairs.retain(|(name, _)| *name != "version");
                pairs.push(("version", "4"));
                let times = clock.times(rng, mix);
                out.push((labels(&pairs), samples(rng, mix, clock, kind, &times)));
            }
        }
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).expect("each name is pushed once")
}

/// A classic histogram: cumulative counters, with mistakes now and then.
fn buckets(rng: &mut Rng, mix: Mix, clock: &Clock, pairs: &[(&str, &str)], out: &mut Vec<Series>) {
    let times = clock.times(rng, mix);
    let mut bounds: Vec<&str> = match rng.chance(70) {
        true => vec!["0.1", "1", "10", "+Inf"],
        false => (0..1 + rng.below(6)).map(|_| rng.pick(&BOUNDS)).collect(),
    };
    bounds.sort_unstable();
    bounds.dedup();
    if rng.chance(70) {
        bounds.sort_by(|a, b| {
            let number = |text: &str| text.parse::<f64>().unwrap_or(0.0);
            number(a).total_cmp(&number(b))
        });
    }
    let mut below = vec![0.0; times.len()];
    for bound in bounds {
        let own = samples(rng, mix, clock, Kind::Counter, &times);
        let series = own
            .into_iter()
            .zip(&mut below)
            .map(|((time, sample), below)| {
                let SampleValue::Float(own) = sample.value else { return (time, sample) };
                if !own.is_nan() {
                    *below += if rng.chance(3) { -own } else { own };
                }
                let value = if own.is_nan() { own } else { *below };
                (time, Sample { value: SampleValue::Float(value), ..sample })
            })
            .collect();
        let mut pairs = pairs.to_vec();
        pairs.push(("le", bound));
        out.push((labels(&pairs), series));
    }
    if mix.histograms && rng.chance(15) {
        let times = clock.times(rng, mix);
        out.push((labels(pairs), samples(rng, mix, clock, Kind::Histogram(Shape::Counter), &times)));
    }
}

fn samples(rng: &mut Rng, mix: Mix, clock: &Clock, kind: Kind, times: &[i64]) -> Vec<(i64, Sample)> {
    let mut floats = Floats::new(rng, kind);
    let mut histograms = match kind {
        Kind::Histogram(shape) | Kind::Mixed(shape) => Some(histograms::Source::new(rng, shape)),
        _ => None,
    };
    let with_start = mix.start_timestamps && rng.chance(30);
    let mut began = match times.first() {
        Some(first) if with_start => first - rng.below(clock.interval_ms as usize) as i64,
        _ => 0,
    };
    let mut samples: Vec<(i64, Sample)> = Vec::with_capacity(times.len());
    for &time in times {
        let stale = rng.chance(clock.stale_percent) && clock.stale_percent > 0;
        let as_histogram = !matches!(kind, Kind::Mixed(_)) || rng.chance(60);
        let (value, reset) = match &mut histograms {
            _ if stale => (SampleValue::Float(stale_nan()), false),
            Some(source) if as_histogram => {
                let (histogram, reset) = source.next(rng);
                (SampleValue::Histogram(histogram), reset)
            }
            _ => {
                let (value, reset) = floats.next(rng);
                (SampleValue::Float(value), reset)
            }
        };
        let start_timestamp = if with_start {
            let before = samples.last().map_or(began, |(time, _)| *time);
            if reset || rng.chance(10) {
                began = match rng.below(5) {
                    0 => time,
                    1 => before,
                    2 => before - 1,
                    _ => before + rng.below((time - before).max(1) as usize) as i64,
                };
            }
            if rng.chance(5) { 0 } else { began }
        } else {
            0
        };
        samples.push((time, Sample { value, start_timestamp }));
    }
    samples
}

/// Floats of one series.
struct Floats {
    kind: Kind,
    value: f64,
    whole: bool,
}

impl Floats {
    fn new(rng: &mut Rng, kind: Kind) -> Self {
        let whole = rng.chance(60);
        let value = match kind {
            Kind::Constant if rng.chance(80) => 1.0,
            _ => rng.below(20) as f64,
        };
        Self { kind, value, whole }
    }

    /// A value and whether a counter was reset before it.
    fn next(&mut self, rng: &mut Rng) -> (f64, bool) {
        let amount = if self.whole { rng.below(10) as f64 } else { rng.unit() * 10.0 };
        match self.kind {
            Kind::Counter if rng.chance(6) => {
                self.value = if rng.chance(60) { 0.0 } else { amount };
                return (self.value, true);
            }
            Kind::Counter => self.value += amount,
            Kind::Constant => {}
            Kind::Odd if rng.chance(30) => {
                let odd = [
                    f64::NAN,
                    f64::INFINITY,
                    f64::NEG_INFINITY,
                    -0.0,
                    0.0,
                    1.7e308,
                    -1.7e308,
                    5e-324,
                    1e-7,
                    1e21,
                    123_456_789.123,
                    9_007_199_254_740_993.0,
                ];
                return (rng.pick(&odd), false);
            }
            _ if rng.chance(20) => {}
            _ => self.value += if rng.chance(50) { amount } else { -amount },
        }
        (self.value, false)
    }
}
