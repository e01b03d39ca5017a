//! Made-up series by class of data, the same at every run: what codecs are measured on where no recorded
//! scrapes are at hand.

/// A class of values: a name, and `count` values of one series.
pub struct Class {
    /// As tables name it.
    pub name: &'static str,
    /// Makes the values of the series with this number.
    pub values: fn(count: usize, series: u64) -> Vec<f64>,
}

/// All classes. Real exporters are two thirds constant series; see [`mixture`].
pub const CLASSES: [Class; 12] = [
    Class { name: "constant", values: |count, series| vec![series as f64; count] },
    Class { name: "counter, small steps", values: |count, series| counter(count, series, 40) },
    Class { name: "counter, large steps", values: |count, series| counter(count, series, 100_000) },
    Class { name: "counter, idle", values: idle },
    Class { name: "counter with resets", values: resets },
    Class { name: "pages of 4,096 bytes", values: pages },
    Class { name: "gauge, two decimals", values: |count, series| gauge(count, series, 100.0) },
    Class { name: "ratio, four decimals", values: ratio },
    Class { name: "seconds of CPU", values: cpu_seconds },
    Class { name: "full precision", values: full },
    Class { name: "sum of floats", values: sum },
    Class { name: "NaN, -0 and Inf among integers", values: special },
];

/// Values of series as real exporters mix them, after the share of samples measured on recorded scrapes:
/// 68 % constant, 24 % integers, 6 % decimals, 2 % full precision.
pub fn mixture(count: usize, series: u64) -> Vec<f64> {
    let class = match series % 50 {
        0..34 => 0,
        34..38 => 1,
        38..41 => 2,
        41..44 => 3,
        44 => 4,
        45 => 5,
        46 => 6,
        47 => 7,
        48 => 8,
        _ => 9,
    };
    (CLASSES[class].values)(count, series)
}

/// A generator without a dependency: xorshift64*.
struct Random(u64);

impl Random {
    const fn new(series: u64) -> Self {
        Self((series + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn walk(count: usize, series: u64, mut step: impl FnMut(&mut Random) -> f64) -> Vec<f64> {
    let mut random = Random::new(series);
    (0..count).map(|_| step(&mut random)).collect()
}

fn counter(count: usize, series: u64, limit: u64) -> Vec<f64> {
    let mut total = 1e6;
    walk(count, series, |random| {
        total += random.below(limit) as f64;
        total
    })
}

fn idle(count: usize, series: u64) -> Vec<f64> {
    let mut total = 500.0;
    walk(count, series, |random| {
        total += f64::from(u8::from(random.below(40) == 0));
        total
    })
}

fn resets(count: usize, series: u64) -> Vec<f64> {
    let mut total = 0.0;
    walk(count, series, |random| {
        total = if random.below(200) == 0 { 0.0 } else { total + random.below(40) as f64 };
        total
    })
}

fn pages(count: usize, series: u64) -> Vec<f64> {
    let mut level = 60_000.0;
    walk(count, series, |random| {
        level += random.below(64) as f64 - 31.5;
        level.floor() * 4096.0
    })
}

fn gauge(count: usize, series: u64, scale: f64) -> Vec<f64> {
    let mut level = 40.0;
    walk(count, series, |random| {
        level += random.unit() - 0.5;
        (level * scale).round() / scale
    })
}

fn ratio(count: usize, series: u64) -> Vec<f64> {
    walk(count, series, |random| (random.unit() * 1000.0).round() / 10_000.0)
}

fn cpu_seconds(count: usize, series: u64) -> Vec<f64> {
    let mut centiseconds = 1_234_567.0;
    walk(count, series, |random| {
        centiseconds += 1400.0 + random.below(90) as f64;
        centiseconds / 100.0
    })
}

fn full(count: usize, series: u64) -> Vec<f64> {
    walk(count, series, |random| random.unit() * 100.0)
}

fn sum(count: usize, series: u64) -> Vec<f64> {
    let mut total = 0.0;
    walk(count, series, |random| {
        total += random.unit();
        total
    })
}

fn special(count: usize, series: u64) -> Vec<f64> {
    let mut total = 0.0;
    walk(count, series, |random| {
        total += random.below(40) as f64;
        match random.below(30) {
            0 => f64::NAN,
            1 => -0.0,
            2 => f64::INFINITY,
            _ => total,
        }
    })
}
