//! A made-up target: a stated number of series, of which parts are classic and native histograms. A value
//! follows from series and scrape alone, so that any number of series takes no memory for its values.

use super::{Target, Value, Values};
use crate::random::mix;
use chronolith_model::LabelsBuilder;
use chronolith_model::histogram::{Histogram, IntHistogram, Span};

/// Bounds of classic histograms.
const BOUNDS: [&str; 11] = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "+Inf"];
/// Series of a classic histogram.
const CLASSIC_SERIES: usize = BOUNDS.len() + 2;
/// Series that share a metric name, as `cpu` or `code` make them.
const SERIES_OF_A_NAME: usize = 8;
/// Buckets of a native histogram.
const NATIVE_BUCKETS: u32 = 20;
/// Scrapes from one peak of a gauge to the next.
const WAVE: u64 = 240;

/// What a made-up target consists of.
#[derive(Clone, Copy, Debug)]
pub struct Mixture {
    /// Series of the target, native histograms included.
    pub series: usize,
    /// Part of the series that belong to classic histograms.
    pub histogram_share: f64,
    /// Part of the series that are native histograms.
    pub native_share: f64,
}

impl Default for Mixture {
    fn default() -> Self {
        Self { series: 1000, histogram_share: 0.0, native_share: 0.0 }
    }
}

/// How the values of a series run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Always the same.
    Constant,
    /// Rises by up to twice this at a scrape.
    Counter(u64),
    /// Rises by one now and then.
    Idle,
    /// Pages of 4,096 bytes.
    Bytes,
    /// Seconds with two decimals that rise.
    Seconds,
    /// Two decimals that go up and down.
    Gauge,
    /// Full precision.
    Full,
    /// The bucket of a classic histogram with this number.
    Bucket(u64),
    /// The sum of a classic histogram.
    Sum,
    /// A native histogram.
    Native,
}

impl Mixture {
    pub(super) fn target(&self) -> Target {
        let part = |share: f64| (self.series as f64 * share.clamp(0.0, 1.0)).round() as usize;
        let n_native = part(self.native_share);
        let n_classic = part(self.histogram_share).min(self.series - n_native) / CLASSIC_SERIES;
        let n_plain = self.series - n_native - n_classic * CLASSIC_SERIES;
        let mut all = List::default();
        for number in 0..n_plain {
            let kind = plain_kind(number);
            let suffix =
                if matches!(kind, Kind::Counter(_) | Kind::Idle | Kind::Seconds) { "_total" } else { "" };
            let name = format!("synthetic_metric_{:04}{suffix}", number / SERIES_OF_A_NAME);
            all.push(&name, &[("cpu", &(number % SERIES_OF_A_NAME).to_string())], kind);
        }
        for number in 0..n_classic {
            let name = format!("synthetic_{:04}_seconds", number / SERIES_OF_A_NAME);
            let code = (200 + number % SERIES_OF_A_NAME).to_string();
            for (bucket, le) in (1..).zip(BOUNDS) {
                all.push(&format!("{name}_bucket"), &[("code", &code), ("le", le)], Kind::Bucket(bucket));
            }
            all.push(&format!("{name}_count"), &[("code", &code)], Kind::Bucket(BOUNDS.len() as u64));
            all.push(&format!("{name}_sum"), &[("code", &code)], Kind::Sum);
        }
        for number in 0..n_native {
            let name = format!("synthetic_native_{:04}_seconds", number / SERIES_OF_A_NAME);
            all.push(&name, &[("code", &(200 + number % SERIES_OF_A_NAME).to_string())], Kind::Native);
        }
        Target { job: "synthetic".to_owned(), series: all.series, values: Values::Synthetic(all.kinds) }
    }
}

#[derive(Default)]
struct List {
    series: Vec<LabelsBuilder>,
    kinds: Vec<Kind>,
}

impl List {
    fn push(&mut self, name: &str, labels: &[(&str, &str)], kind: Kind) {
        let mut builder = LabelsBuilder::default();
        builder.set("__name__", name);
        for (name, value) in labels {
            builder.set(name, value);
        }
        self.series.push(builder);
        self.kinds.push(kind);
    }
}

/// After the shares of samples measured on recorded scrapes: 68 % constant, 24 % whole numbers, 6 %
/// decimals, 2 % full precision. The series of a name are of one kind.
const fn plain_kind(number: usize) -> Kind {
    match number / SERIES_OF_A_NAME * 7 % 50 {
        0..34 => Kind::Constant,
        34..38 => Kind::Counter(20),
        38..41 => Kind::Counter(50_000),
        41..44 => Kind::Idle,
        44..46 => Kind::Bytes,
        46..48 => Kind::Gauge,
        48 => Kind::Seconds,
        _ => Kind::Full,
    }
}

impl Kind {
    /// The value of the series with this number at a scrape.
    pub fn value(self, series: u64, scrape: u64) -> Value {
        let of_series = mix(series);
        let noise = mix(of_series ^ scrape);
        // Noise below the step keeps a counter rising.
        let counter = |step: u64| of_series % 1_000_000 + scrape * step + noise % step.max(1);
        let number = match self {
            Self::Constant => of_series % 1000,
            Self::Counter(step) => counter(step + of_series % step),
            Self::Idle => (scrape + of_series % 40) / 40,
            Self::Bytes => (50_000 + wave(of_series, scrape) * 20 + noise % 64) * 4096,
            Self::Seconds => return Value::Float(counter(1400) as f64 / 100.0),
            Self::Gauge => {
                return Value::Float((4000 + wave(of_series, scrape) * 10 + noise % 100) as f64 / 100.0);
            }
            Self::Full => return Value::Float((noise >> 11) as f64 / (1u64 << 53) as f64 * 100.0),
            Self::Bucket(bucket) => bucket * scrape * (1 + series % 7),
            Self::Sum => return Value::Float(counter(1000) as f64 / 1024.0),
            Self::Native => return Value::Histogram(Box::new(native(of_series, scrape))),
        };
        Value::Float(number as f64)
    }
}

/// Up and down between 0 and half of [`WAVE`].
const fn wave(of_series: u64, scrape: u64) -> u64 {
    let at = (scrape + of_series % WAVE) % WAVE;
    if at < WAVE / 2 { at } else { WAVE - at }
}

fn native(of_series: u64, scrape: u64) -> Histogram {
    let counts = (0..NATIVE_BUCKETS).map(|bucket| {
        // Most observations in the middle.
        let weight = u64::from(bucket.min(NATIVE_BUCKETS - 1 - bucket)) + 1;
        scrape * weight + mix(of_series ^ scrape << 8 ^ u64::from(bucket)) % weight
    });
    let counts: Vec<i64> = counts.map(u64::cast_signed).collect();
    let deltas = std::iter::once(counts[0]).chain(counts.windows(2).map(|pair| pair[1] - pair[0]));
    let count = counts.iter().sum::<i64>().cast_unsigned();
    Histogram::Int(IntHistogram {
        schema: 3,
        zero_threshold: 1e-128,
        count,
        sum: count as f64 * 0.25,
        positive_spans: vec![Span { offset: -((of_series % 16) as i32), length: NATIVE_BUCKETS }],
        positive_deltas: deltas.collect(),
        ..IntHistogram::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_series_are_distinct() {
        let target = Mixture { series: 1000, histogram_share: 0.26, native_share: 0.05 }.target();
        let Values::Synthetic(kinds) = &target.values else { panic!("values are made up") };
        assert_eq!((target.series.len(), kinds.len()), (1000, 1000));
        let count = |test: fn(&Kind) -> bool| kinds.iter().filter(|kind| test(kind)).count();
        assert_eq!(count(|kind| *kind == Kind::Native), 50);
        assert_eq!(count(|kind| matches!(kind, Kind::Bucket(_) | Kind::Sum)), 260);
        let names: std::collections::HashSet<String> =
            target.series.iter().map(|labels| format!("{:?}", labels.iter().collect::<Vec<_>>())).collect();
        assert_eq!(names.len(), 1000);
    }

    #[test]
    fn counters_and_buckets_only_rise() {
        for kind in [Kind::Counter(20), Kind::Counter(50_000), Kind::Idle, Kind::Seconds, Kind::Bucket(3)] {
            for series in 0..20 {
                let values: Vec<f64> = (0..500)
                    .map(|scrape| match kind.value(series, scrape) {
                        Value::Float(value) => value,
                        Value::Histogram(_) => panic!("a float"),
                    })
                    .collect();
                assert!(values.windows(2).all(|pair| pair[0] <= pair[1]), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_native_histogram_counts_what_its_buckets_hold() {
        let Value::Histogram(histogram) = Kind::Native.value(5, 100) else { panic!("a histogram") };
        let Histogram::Int(histogram) = *histogram else { panic!("whole counts") };
        let mut total = 0;
        let mut at = 0;
        for delta in &histogram.positive_deltas {
            at += delta;
            total += at;
        }
        assert_eq!(total.cast_unsigned(), histogram.count);
    }
}
