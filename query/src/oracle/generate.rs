//! Random series and well-typed random queries over them, for comparing evaluators.
//!
//! Everything follows from a seed. The series are such that most queries return something: metrics share their
//! label sets, windows fit the interval between samples, and most steps lie where there are samples. Now and
//! then they do not, on purpose.

mod data;
mod expression;
mod histograms;

use super::generate::expression::Writer;
use crate::script::Sample;
use chronolith_model::Labels;

/// Pseudo-random numbers: SplitMix64, so that a seed means the same everywhere and for ever.
///
/// Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014), figure 17.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Numbers that follow from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0. Years of milliseconds wrap around and come out smaller.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.bits() >> 32).wrapping_mul(n as u64) >> 32) as usize
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`, which is not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// From 0 to less than 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What series and queries are made of.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Native histograms among the samples.
    pub histograms: bool,
    /// Whatever Prometheus keeps behind feature flags: experimental functions and aggregations, duration
    /// expressions, `anchored` and `smoothed`, fill modifiers.
    pub experimental: bool,
    /// Samples with start timestamps.
    pub start_timestamps: bool,
    /// No sample lies on a whole second, and no time of a query anywhere else: whether windows are open or
    /// closed on the left then makes no difference.
    pub off_grid: bool,
}

impl Mix {
    /// Everything there is.
    pub const ALL: Self =
        Self { histograms: true, experimental: true, start_timestamps: true, off_grid: false };

    /// Floats and functions that servers have had for years.
    pub const CLASSIC: Self =
        Self { histograms: false, experimental: false, start_timestamps: false, off_grid: true };
}

/// Labels of a series and its samples, in time order: what a script or a remote write loads.
pub type Series = (Labels, Vec<(i64, Sample)>);

/// Series at random, and what queries have to know of them.
#[derive(Clone, Debug)]
pub struct World {
    /// Each label set once. Times are not negative.
    pub series: Vec<Series>,
    /// Between samples, in milliseconds, where nothing is missing.
    pub interval_ms: i64,
    /// No sample is later.
    pub last_ms: i64,
    /// How far selectors look back; fits the interval.
    pub lookback_ms: i64,
}

/// A query at random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// PromQL.
    pub text: String,
    /// First step, or the only one, in milliseconds; may be negative.
    pub start: i64,
    /// Last step at the latest.
    pub end: i64,
    /// Between steps; 0 for an instant query.
    pub interval_ms: i64,
    /// Whether it is a range query.
    pub range: bool,
}

impl World {
    /// Some series.
    pub fn new(rng: &mut Rng, mix: Mix) -> Self {
        data::world(rng, mix)
    }

    /// A query over these series. Nearly all parse; which do not is for the parser to say.
    pub fn question(&self, rng: &mut Rng, mix: Mix) -> Question {
        let (start, end, interval_ms, range) = self.grid(rng, mix);
        let mut writer = Writer { rng, mix, world: self, written: Vec::new() };
        let text = writer.query(range);
        Question { text, start, end, interval_ms, range }
    }

    /// Start, end, interval, and whether it is a range query.
    fn grid(&self, rng: &mut Rng, mix: Mix) -> (i64, i64, i64, bool) {
        let whole = |time: i64| if mix.off_grid { time / 1000 * 1000 } else { time };
        let at = |rng: &mut Rng, percent_inside: usize| {
            let (from, to) = match rng.chance(percent_inside) {
                true => (0, self.last_ms + self.interval_ms),
                false => (-self.last_ms, 3 * self.last_ms + self.interval_ms),
            };
            let step = if rng.chance(60) { self.interval_ms } else { 1 };
            from + rng.below(((to - from) / step + 1) as usize) as i64 * step
        };
        let start = whole(at(rng, 90));
        if rng.chance(40) {
            return (start, start, 0, false);
        }
        let interval = match rng.below(10) {
            0..4 => self.interval_ms,
            4 => self.interval_ms * 3 / 2,
            5 => self.interval_ms / 3 + 1,
            6 => self.interval_ms * rng.pick(&[2, 3, 5]),
            7 => self.interval_ms * 2 + 1,
            8 => 1 + rng.below(self.last_ms as usize / 4 + 1) as i64,
            _ => self.last_ms + 1,
        };
        let interval = whole(interval).max(if mix.off_grid { 1000 } else { 1 });
        let n_steps = match rng.below(10) {
            0 => 1,
            1..8 => 2 + rng.below(12),
            8 => 2 + rng.below(60),
            _ => 60 + rng.below(80),
        } as i64;
        // The end need not be a step.
        let rest = if rng.chance(70) { 0 } else { rng.below(interval as usize) as i64 };
        (start, start + (n_steps - 1) * interval + whole(rest), interval, true)
    }
}

#[cfg(test)]
mod tests;
