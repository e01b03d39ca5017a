//! Folds of several windows at a time, each with the very operations of a fold by itself, in the order of time.
//!
//! A compensated sum is a chain: each addition waits for the one before. Four windows are four chains, which a
//! processor works on at once; with wide registers it is more.

use super::Variance;
use crate::functions::{FloatColumn, FloatPoints};
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

/// So many windows that begin at one sample are folded one after the other, each from where the one before ended.
const MIN_GROWING: usize = 8;

/// How many windows begin at the sample of the first one: they reach back beyond the first sample there is, and grow. 0
/// if they are few.
fn n_growing(column: &FloatColumn<'_>) -> usize {
    let mut windows = column.windows(1);
    let Some((_, first, _)) = windows.next() else { return 0 };
    let n_growing = 1 + windows.take_while(|&(_, low, _)| low == first).count();
    if n_growing < MIN_GROWING { 0 } else { n_growing }
}

/// Hands out windows: four at a time, the rest one by one.
fn in_fours(
    windows: impl Iterator<Item = Bounds>,
    mut four: impl FnMut(&[Bounds; LANES]),
    mut one: impl FnMut(Bounds),
) {
    let mut group = [(0, 0, 0); LANES];
    let mut n_waiting = 0;
    for window in windows {
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
fn shortest(group: &[Bounds]) -> usize {
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
    let n_growing = n_growing(column);
    let mut so_far = None;
    for (step, low, high) in column.windows(1).take(n_growing) {
        let (end, mut sum, mut c) = so_far.unwrap_or((low + 1, values[low], 0.0));
        for &value in &values[end..high] {
            (sum, c) = kahan_increment(value, sum, c);
        }
        so_far = Some((high, sum, c));
        out[step].set(result(sum, c, &values[low..high]));
    }
    in_fours(
        column.windows(1).skip(n_growing),
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

/// The state of [`super::Variance`], of `N` windows.
struct Spread<const N: usize> {
    mean: [f64; N],
    mean_c: [f64; N],
    squares: [f64; N],
    squares_c: [f64; N],
}

/// As [`kahan_increment`], but without a look at which addend is larger or whether a sum is infinite. What an addition
/// cost is a float, which either way of working it out gives exactly, unless something on the way overflows: then the
/// compensation, or the sum, is not finite, and stays so to the end.
#[inline(always)]
fn add_blindly(increment: f64, sum: &mut f64, c: &mut f64) {
    let total = *sum + increment;
    let of_increment = total - *sum;
    *c += (*sum - (total - of_increment)) + (increment - of_increment);
    *sum = total;
}

/// The sums of x, y, xy and xx of a line, each compensated, side by side; `None` where something overflows.
pub(super) fn line_sums(points: FloatPoints<'_>, origin: i64) -> Option<[f64; 4]> {
    let (mut sum, mut c) = ([0.0; 4], [0.0; 4]);
    for (&t, &y) in points.times.iter().zip(points.values) {
        let x = (t - origin) as f64 / 1e3;
        for (lane, increment) in [x, y, x * y, x * x].into_iter().enumerate() {
            add_blindly(increment, &mut sum[lane], &mut c[lane]);
        }
    }
    let totals = std::array::from_fn(|lane| sum[lane] + c[lane]);
    totals.iter().all(|total: &f64| total.is_finite()).then_some(totals)
}

/// Folds samples side by side, as [`super::Variance`] does, by [`add_blindly`].
#[inline(always)]
fn spread<const N: usize>(samples: SideBySide<'_>) -> Spread<N> {
    let zero = [0.0; N];
    let Spread { mut mean, mut mean_c, mut squares, mut squares_c } =
        Spread { mean: zero, mean_c: zero, squares: zero, squares_c: zero };
    let mut count = 0.0;
    for &start in samples.starts {
        let sample = &samples.all[start..start + N];
        count += 1.0;
        for lane in 0..N {
            let delta = sample[lane] - (mean[lane] + mean_c[lane]);
            add_blindly(delta / count, &mut mean[lane], &mut mean_c[lane]);
            let square = delta * (sample[lane] - (mean[lane] + mean_c[lane]));
            add_blindly(square, &mut squares[lane], &mut squares_c[lane]);
        }
    }
    Spread { mean, mean_c, squares, squares_c }
}

/// The samples of windows side by side: those of all windows at `starts[i]` are the i-th of each.
#[derive(Clone, Copy)]
struct SideBySide<'v> {
    all: &'v [f64],
    starts: &'v [usize],
}

/// Samples in another order: of windows that begin every `stride` samples, first those that are multiples of it apart.
/// Then what such windows have at one place lies side by side already.
#[derive(Default)]
struct Phases {
    stride: usize,
    /// Samples of one phase, the last one perhaps beyond the end.
    n: usize,
    values: Vec<f64>,
}

impl Phases {
    /// The first sample of the first window, if windows begin equally far apart.
    fn find(&mut self, group: &[Bounds], values: &[f64]) -> Option<usize> {
        let stride = group[1].1 - group[0].1;
        if stride == 0 || group.windows(2).any(|pair| pair[1].1 - pair[0].1 != stride) {
            return None;
        }
        if self.stride == 0 {
            self.stride = stride;
            self.n = values.len().div_ceil(stride);
            for phase in 0..stride.min(values.len()) {
                self.values.extend(values[phase..].iter().step_by(stride));
                self.values.resize((phase + 1) * self.n, 0.0);
            }
        }
        // Where windows begin anew in another rhythm they are not put in order again.
        (self.stride == stride).then_some(group[0].1)
    }

    /// Where the sample at `at` is.
    fn place(&self, at: usize) -> usize {
        at % self.stride * self.n + at / self.stride
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn spread_avx2(samples: SideBySide<'_>) -> Spread<8> {
    spread(samples)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn spread_avx512(samples: SideBySide<'_>) -> Spread<32> {
    spread(samples)
}

/// Population variances of all windows, as many side by side as keep the processor busy: four registers wait less for
/// each other than two.
pub(super) fn variances(column: &FloatColumn<'_>, values: &[f64], out: &mut [f64]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has what the function was made for.
            return variances_by(column, values, out, |samples| unsafe { spread_avx512(samples) });
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return variances_by(column, values, out, |samples| unsafe { spread_avx2(samples) });
        }
    }
    variances_by(column, values, out, spread::<LANES>);
}

fn variances_by<const N: usize>(
    column: &FloatColumn<'_>,
    values: &[f64],
    out: &mut [f64],
    spread: impl Fn(SideBySide<'_>) -> Spread<N>,
) {
    let n_growing = n_growing(column);
    let mut so_far: Option<(usize, Variance)> = None;
    for (step, low, high) in column.windows(1).take(n_growing) {
        let (end, state) = so_far.unwrap_or((low, Variance::default()));
        let state = state.with(&values[end..high]);
        so_far = Some((high, state));
        out[step] = state.result();
    }
    let mut phases = Phases::default();
    let (mut gathered, mut starts) = (Vec::new(), Vec::new());
    let mut fold = |group: &[Bounds; N]| {
        let n = shortest(group);
        starts.clear();
        let all = match phases.find(group, values) {
            Some(first) => {
                starts.extend((first..first + n).map(|at| phases.place(at)));
                &phases.values
            }
            None => {
                gathered.clear();
                gathered.extend((0..n).flat_map(|at| group.map(|(_, low, _)| values[low + at])));
                starts.extend((0..n).map(|at| at * N));
                &gathered
            }
        };
        let Spread { mean, mean_c, squares, squares_c } = spread(SideBySide { all, starts: &starts });
        for (lane, &(step, low, high)) in group.iter().enumerate() {
            let (mean, squares) = ((mean[lane], mean_c[lane]), (squares[lane], squares_c[lane]));
            let state = Variance { count: n as f64, mean, squares };
            let exact = (mean.0 + mean.1 + squares.0 + squares.1).is_finite();
            out[step] = match exact {
                true => state.with(&values[low + n..high]).result(),
                false => Variance::default().with(&values[low..high]).result(),
            };
        }
    };
    let mut group = [(0, 0, 0); N];
    let mut n_waiting = 0;
    for window in column.windows(1).skip(n_growing) {
        group[n_waiting] = window;
        n_waiting += 1;
        if n_waiting == N {
            fold(&group);
            n_waiting = 0;
        }
    }
    match group[..n_waiting] {
        [] => {}
        [(step, low, high)] => out[step] = super::variance(&values[low..high]),
        [.., last] => {
            // Lanes that are left do what the last one does.
            group[n_waiting..].fill(last);
            fold(&group);
        }
    }
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
        column.windows(2),
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

#[cfg(test)]
mod tests {
    use super::super::{plain_column, sliding, variance};
    use super::*;

    /// Variances by lanes of one width are those of each window by itself.
    fn check<const N: usize>(values: &[f64], spread: impl Fn(SideBySide<'_>) -> Spread<N> + Copy) {
        let times: Vec<i64> = (0..values.len() as i64).collect();
        for (length, stride) in [(40, 1), (120, 4), (7, 11), (300, 300), (1, 1)] {
            let (low, high) = sliding(values.len(), length, stride);
            let column = plain_column(&times, values, &low, &high);
            let mut out = vec![0.0; low.len()];
            variances_by(&column, values, &mut out, spread);
            for (step, low, high) in column.windows(1) {
                let expected = variance(&values[low..high]);
                let same =
                    out[step].to_bits() == expected.to_bits() || out[step].is_nan() && expected.is_nan();
                assert!(same, "{N} lanes, {length} {stride}, step {step}: {} for {expected}", out[step]);
            }
        }
    }

    #[test]
    fn variances_of_any_width_are_those_of_each_window() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 11
        };
        let unit = |bits: u64| bits as f64 / (1u64 << 53) as f64;
        let shapes: [&dyn Fn(u64) -> f64; 7] = [
            &|bits| unit(bits),
            &|bits| (bits % (1 << 30)) as f64 * 4096.0,
            &|bits| unit(bits) * [1e-300, 1.0, 1e150][(bits % 3) as usize],
            &|bits| [f64::MAX, f64::MIN, 1.0, -0.0][(bits % 4) as usize],
            &|bits| if bits % 50 == 0 { f64::MAX } else { unit(bits) },
            &|bits| f64::from_bits(bits % 1000),
            &|bits| {
                [1.0, f64::INFINITY, f64::NAN, f64::NEG_INFINITY][(bits % 100).saturating_sub(96) as usize]
            },
        ];
        for shape in shapes {
            let values: Vec<f64> = (0..700).map(|_| shape(random())).collect();
            check(&values, spread::<LANES>);
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has what the function was made for.
                    check(&values, |samples| unsafe { spread_avx2(samples) });
                }
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: as above.
                    check(&values, |samples| unsafe { spread_avx512(samples) });
                }
            }
        }
    }
}
