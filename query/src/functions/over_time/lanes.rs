//! Folds of four windows at a time, each with the very operations of a fold by itself, in the order of time.
//!
//! A compensated sum is a chain: each addition waits for the one before. Four windows are four chains, which a
//! processor works on at once.

use crate::functions::FloatColumn;
use chronolith_model::histogram::kahan_increment;

/// Windows at a time.
const LANES: usize = 4;

/// One number of each window.
type Lanes = [f64; LANES];

fn lanes(f: impl FnMut(usize) -> f64) -> Lanes {
    std::array::from_fn(f)
}

/// [`kahan_increment`] in each lane.
#[inline(always)]
fn add(increment: &Lanes, sum: &mut Lanes, c: &mut Lanes) {
    for lane in 0..LANES {
        let total = sum[lane] + increment[lane];
        let larger = sum[lane].abs() >= increment[lane].abs();
        let (large, small) = if larger { (sum[lane], increment[lane]) } else { (increment[lane], sum[lane]) };
        let compensated = c[lane] + ((large - total) + small);
        c[lane] = if total.is_infinite() { 0.0 } else { compensated };
        sum[lane] = total;
    }
}

/// A window: step, first sample, one past the last sample.
type Bounds = (usize, usize, usize);

/// Hands out the windows that hold `n` samples or more: four at a time, the rest one by one.
fn in_fours(
    column: &FloatColumn<'_>,
    n: u32,
    mut four: impl FnMut(&[Bounds; LANES]),
    mut one: impl FnMut(Bounds),
) {
    let mut group = [(0, 0, 0); LANES];
    let mut n_waiting = 0;
    for window in column.windows(n) {
        group[n_waiting] = window;
        n_waiting += 1;
        if n_waiting == LANES {
            four(&group);
            n_waiting = 0;
        }
    }
    group[..n_waiting].iter().copied().for_each(&mut one);
}

/// Samples that all windows of a group have at least.
fn shortest(group: &[Bounds; LANES]) -> usize {
    group.iter().map(|&(_, low, high)| high - low).min().unwrap_or(0)
}

/// Calls `add` with the samples of the windows side by side, as far as all have them.
#[inline(always)]
fn side_by_side(group: &[Bounds; LANES], values: &[f64], skip: usize, mut add: impl FnMut(Lanes)) {
    let n = shortest(group);
    let [a, b, c, d] = group.map(|(_, low, _)| &values[low + skip..low + n]);
    for (((&a, &b), &c), &d) in a.iter().zip(b).zip(c).zip(d) {
        add([a, b, c, d]);
    }
}

/// What a group has left of window `lane`.
fn rest<'v>(group: &[Bounds; LANES], values: &'v [f64], lane: usize) -> &'v [f64] {
    let (_, low, high) = group[lane];
    &values[low + shortest(group)..high]
}

/// Writes `result(sum, compensation, window)` of each window; the sum begins with the first sample.
pub(super) fn sums(
    column: &FloatColumn<'_>,
    values: &[f64],
    result: impl Fn(f64, f64, &[f64]) -> f64,
    out: &mut [f64],
) {
    let out = std::cell::Cell::from_mut(out).as_slice_of_cells();
    let finish = |(step, low, high): Bounds, mut sum: f64, mut c: f64, rest: &[f64]| {
        for &value in rest {
            (sum, c) = kahan_increment(value, sum, c);
        }
        out[step].set(result(sum, c, &values[low..high]));
    };
    in_fours(
        column,
        1,
        |group| {
            let (mut sum, mut c) = (lanes(|lane| values[group[lane].1]), [0.0; LANES]);
            side_by_side(group, values, 1, |sample| add(&sample, &mut sum, &mut c));
            for (lane, &window) in group.iter().enumerate() {
                finish(window, sum[lane], c[lane], rest(group, values, lane));
            }
        },
        |window| finish(window, values[window.1], 0.0, &values[window.1 + 1..window.2]),
    );
}

/// The state of [`super::variance`], of each window.
struct Spread {
    count: f64,
    mean: Lanes,
    mean_c: Lanes,
    squares: Lanes,
    squares_c: Lanes,
}

impl Spread {
    #[inline(always)]
    fn add(&mut self, sample: &Lanes) {
        self.count += 1.0;
        let count = self.count;
        let delta = lanes(|lane| sample[lane] - (self.mean[lane] + self.mean_c[lane]));
        add(&lanes(|lane| delta[lane] / count), &mut self.mean, &mut self.mean_c);
        let square = lanes(|lane| delta[lane] * (sample[lane] - (self.mean[lane] + self.mean_c[lane])));
        add(&square, &mut self.squares, &mut self.squares_c);
    }
}

/// Population variances of all windows; those that are not equally long as their neighbours by `one`.
pub(super) fn variances(
    column: &FloatColumn<'_>,
    values: &[f64],
    one: impl Fn(&[f64]) -> f64,
    out: &mut [f64],
) {
    let out = std::cell::Cell::from_mut(out).as_slice_of_cells();
    let alone = |(step, low, high): Bounds| out[step].set(one(&values[low..high]));
    in_fours(
        column,
        1,
        |group| {
            if group.iter().any(|&(_, low, high)| high - low != shortest(group)) {
                return group.iter().copied().for_each(alone);
            }
            let zero = [0.0; LANES];
            let mut spread = Spread { count: 0.0, mean: zero, mean_c: zero, squares: zero, squares_c: zero };
            side_by_side(group, values, 0, |sample| spread.add(&sample));
            for (lane, &(step, ..)) in group.iter().enumerate() {
                out[step].set((spread.squares[lane] + spread.squares_c[lane]) / spread.count);
            }
        },
        alone,
    );
}

/// Slopes of all windows of two samples or more, each from its first sample, as [`super::trend`] works out one;
/// those that are not equally long as their neighbours, or constant, by `one`.
pub(super) fn slopes(
    column: &FloatColumn<'_>,
    values: &[f64],
    one: impl Fn(usize, usize) -> f64,
    out: &mut [f64],
) {
    let out = std::cell::Cell::from_mut(out).as_slice_of_cells();
    let alone = |(step, low, high): Bounds| out[step].set(one(low, high));
    let is_constant = |&(_, low, high): &Bounds| values[low..high].iter().all(|&value| value == values[low]);
    in_fours(
        column,
        2,
        |group| {
            let n = shortest(group);
            if group.iter().any(|&(_, low, high)| high - low != n) || group.iter().any(is_constant) {
                return group.iter().copied().for_each(alone);
            }
            let zero = [0.0; LANES];
            let (mut x_sum, mut y_sum, mut xy_sum, mut xx_sum) =
                ((zero, zero), (zero, zero), (zero, zero), (zero, zero));
            let times = group.map(|(_, low, high)| &column.times[low..high]);
            let mut at = 0;
            side_by_side(group, values, 0, |y| {
                let x = lanes(|lane| (times[lane][at] - times[lane][0]) as f64 / 1e3);
                at += 1;
                add(&x, &mut x_sum.0, &mut x_sum.1);
                add(&y, &mut y_sum.0, &mut y_sum.1);
                add(&lanes(|lane| x[lane] * y[lane]), &mut xy_sum.0, &mut xy_sum.1);
                add(&lanes(|lane| x[lane] * x[lane]), &mut xx_sum.0, &mut xx_sum.1);
            });
            for (lane, &(step, ..)) in group.iter().enumerate() {
                let [x_sum, y_sum, xy_sum, xx_sum] =
                    [&x_sum, &y_sum, &xy_sum, &xx_sum].map(|(sum, c)| sum[lane] + c[lane]);
                let n = n as f64;
                let covariance = xy_sum - x_sum * y_sum / n;
                out[step].set(covariance / (xx_sum - x_sum * x_sum / n));
            }
        },
        alone,
    );
}
