//! A made-up fleet for the benches of the engine: metrics times targets, scraped on a grid, values as
//! real exporters mix them. The labels are encoded once, as remote write 1.0 sends them.

use crate::classes::mixture;
use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey};
use chronolith_storage::db::Db;
use chronolith_storage::options::{ManualClock, Options};
use chronolith_wire::remote_write::v1;
use std::path::Path;
use std::sync::Arc;

/// Time of the first scrape: the start of a window.
pub const START_MS: i64 = 1_699_999_200_000;
/// Between scrapes.
pub const INTERVAL_MS: i64 = 15_000;
/// Samples of a request.
pub const REQUEST_SAMPLES: usize = 2_000;

/// Series by target, then metric: `metric_NNN_total{instance,job,zone}`, and where asked for a classic
/// histogram of eleven buckets beside the metrics.
#[derive(Debug)]
pub struct Grid {
    series: Vec<Vec<u8>>,
    /// Values of each series, used round and round.
    values: Vec<Vec<f64>>,
}

impl Grid {
    /// `targets` targets with `metrics` counters and gauges each, and `histograms` histograms.
    pub fn new(targets: u32, metrics: u32, histograms: u32) -> Self {
        const BOUNDS: [&str; 11] =
            ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "+Inf"];
        const N_VALUES: usize = 480;
        let (mut series, mut values) = (Vec::new(), Vec::new());
        for target in 0..targets {
            let instance = format!("10.0.{}.{}:9100", target / 250, target % 250);
            let job = format!("job-{}", target % 10);
            let zone = format!("zone-{}", target % 2);
            let rest = [("instance", instance.as_str()), ("job", &job), ("zone", &zone)];
            let mut add = |name: &str, le: Option<&str>, of: Vec<f64>| {
                let mut labels = vec![("__name__", name)];
                labels.extend(rest[..2].iter().copied());
                labels.extend(le.map(|le| ("le", le)));
                labels.push(rest[2]);
                let mut encoded = Vec::new();
                v1::put_labels(&mut encoded, labels.into_iter());
                series.push(encoded);
                values.push(of);
            };
            for metric in 0..metrics {
                let of = mixture(N_VALUES, u64::from(target * metrics + metric));
                add(&format!("metric_{metric:03}_total"), None, of);
            }
            for histogram in 0..histograms {
                for (bucket, le) in (1..).zip(BOUNDS) {
                    let step = f64::from(bucket * (1 + target % 7));
                    let of = (0..N_VALUES).map(|at| at as f64 * step).collect();
                    add(&format!("seconds_{histogram}_bucket"), Some(le), of);
                }
            }
        }
        Self { series, values }
    }

    /// How many series.
    pub fn n_series(&self) -> usize {
        self.series.len()
    }

    /// The requests of scrape number `scrape`, which all series answer at once.
    pub fn requests(&self, scrape: i64) -> Vec<AppendBatch<'_>> {
        let timestamp = START_MS + scrape * INTERVAL_MS;
        let all: Vec<(&Vec<u8>, &Vec<f64>)> = self.series.iter().zip(&self.values).collect();
        let request = |part: &[(&'_ Vec<u8>, &Vec<f64>)]| {
            let value = |of: &Vec<f64>| of[scrape as usize % of.len()];
            let samples =
                part.iter().map(|(_, of)| Sample { timestamp, value: value(of), start_timestamp: 0 });
            samples.collect::<Vec<_>>()
        };
        all.chunks(REQUEST_SAMPLES)
            .map(|part| AppendBatch {
                series: (0..).zip(part).map(|(at, (key, _))| one_sample(key, at)).collect(),
                samples: request(part),
                decode: v1::decode_labels,
                ..AppendBatch::default()
            })
            .collect()
    }
}

/// A series with the sample at this place of the batch.
fn one_sample(key: &[u8], at: u32) -> BatchSeries<'_> {
    BatchSeries { key: SeriesKey::Encoded(key), samples: at..at + 1, histograms: 0..0, exemplars: 0..0 }
}

/// A store in `path` that seals and compacts only when told to, in a time far behind all samples.
///
/// # Panics
/// If it cannot be opened.
pub fn open(path: &Path) -> Db {
    let options = Options {
        background: false,
        ballast_bytes: Some(0),
        retention_time_ms: 0,
        table_samples: u64::MAX,
        clock: Arc::new(ManualClock::new(START_MS + (1 << 40))),
        ..Options::default()
    };
    Db::open(path, options).expect("a store opens in a new folder")
}

/// Appends `scrapes` and seals after every two hours of them.
///
/// # Panics
/// If the store refuses anything.
pub fn fill(db: &Db, grid: &Grid, scrapes: std::ops::Range<i64>) {
    for scrape in scrapes {
        for request in grid.requests(scrape) {
            let outcome = db.append(&request, false).expect("a sample can be appended");
            assert_eq!(outcome.refused, 0);
        }
        if (scrape + 1) % 480 == 0 {
            db.flush().expect("a table can be sealed");
        }
    }
}
