//! The cases, each a sequence of steps.

use crate::bed::Bed;
use chronolith_benches::progress::Bar;
use chronolith_benches::random::mix;
use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey};
use chronolith_wire::remote_write::v1;
use std::time::{SystemTime, UNIX_EPOCH};

/// Samples of a request, as an agent sends them.
const REQUEST_SAMPLES: usize = 2000;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Series of hosts, their labels as remote write sends them.
struct Fleet {
    keys: Vec<Vec<u8>>,
}

impl Fleet {
    /// `metric_NNN_total{instance,job}` on `hosts` hosts.
    fn new(hosts: usize, metrics: usize) -> Self {
        let mut keys = Vec::with_capacity(hosts * metrics);
        for host in 0..hosts {
            let instance = format!("10.{}.{}.{}:9100", host >> 16, (host >> 8) & 255, host & 255);
            for metric in 0..metrics {
                let name = format!("metric_{metric:03}_total");
                let labels = [("__name__", name.as_str()), ("instance", &instance), ("job", "node")];
                let mut key = Vec::new();
                v1::put_labels(&mut key, labels.into_iter());
                keys.push(key);
            }
        }
        Self { keys }
    }

    /// Sends the samples of some series at some times, series by series, in requests of an agent's size.
    fn send(
        &self,
        bed: &mut Bed,
        series: std::ops::Range<usize>,
        times: impl Iterator<Item = i64> + Clone,
    ) -> Result<(), String> {
        let per_series = times.clone().count().max(1);
        let numbers: Vec<usize> = series.collect();
        for part in numbers.chunks((REQUEST_SAMPLES / per_series).max(1)) {
            let mut batch = AppendBatch { decode: v1::decode_labels, ..AppendBatch::default() };
            for &number in part {
                let from = batch.samples.len() as u32;
                let sample =
                    |timestamp| Sample { timestamp, value: value(number, timestamp), start_timestamp: 0 };
                batch.samples.extend(times.clone().map(sample));
                batch.series.push(BatchSeries {
                    key: SeriesKey::Encoded(&self.keys[number]),
                    samples: from..batch.samples.len() as u32,
                    histograms: 0..0,
                    exemplars: 0..0,
                });
            }
            bed.send(&batch)?;
        }
        Ok(())
    }
}

/// Two of three series never change; the others count.
fn value(series: usize, timestamp: i64) -> f64 {
    match series % 3 {
        0 => (timestamp / 1000 * (1 + series as i64 % 7)) as f64,
        _ => series as f64,
    }
}

/// The last whole day that is over.
fn last_midnight() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    now - now % DAY_MS
}

fn scaled(number: usize, scale: f64) -> usize {
    ((number as f64 * scale) as usize).max(1)
}

/// Counts all samples, which have to be those that were sent, name by name: `count_over_time` takes names away.
fn count(bed: &mut Bed, from: i64, to: i64) -> Result<(), String> {
    let mut found = 0.0;
    let names =
        bed.get("label/__name__/values", &[("match[]", "{job=\"node\"}"), ("start", &seconds(from))])?;
    for name in names.as_array().into_iter().flatten().filter_map(|name| name.as_str()) {
        found += bed.number(&format!("sum(count_over_time({name}[{}ms]))", to - from + 1), to)?;
    }
    let sent = bed.n_sent();
    if found as u64 == sent { Ok(()) } else { Err(format!("{found} samples came back of {sent}")) }
}

fn seconds(time: i64) -> String {
    (time as f64 / 1000.0).to_string()
}

pub fn backfill(bed: &mut Bed, scale: f64) -> Result<(), String> {
    const HOURS: i64 = 365 * 24;
    let fleet = Fleet::new(scaled(10, scale), 100);
    let end = last_midnight();
    let begin = end - HOURS * HOUR_MS;
    let mut hours: Vec<i64> = (0..HOURS).collect();
    hours.sort_by_key(|hour| mix(hour.cast_unsigned()));
    bed.step("sent", |bed| {
        let mut bar = Bar::new("backfilling", HOURS as u64);
        for (done, hour) in hours.iter().enumerate() {
            bar.show(done as u64);
            let from = begin + hour * HOUR_MS;
            fleet.send(bed, 0..fleet.keys.len(), (0..12).map(|at| from + at * 5 * MINUTE_MS))?;
        }
        bar.finish(HOURS as u64);
        Ok(())
    })?;
    bed.step("sealed and merged", Bed::settle)?;
    bed.step("every sample counted", |bed| count(bed, begin, end))?;
    bed.restart_cold("started again, cold")?;
    bed.step("a rate over the year, a point a day", |bed| {
        let query = "sum by (instance) (rate(metric_000_total[1d]))";
        let (start, end) = (seconds(begin), seconds(end));
        bed.get("query_range", &[("query", query), ("start", &start), ("end", &end), ("step", "1d")])
            .map(|_| ())
    })
}

pub fn late(bed: &mut Bed, scale: f64) -> Result<(), String> {
    const SCRAPES: i64 = 24 * 240;
    const INTERVAL_MS: i64 = 15_000;
    const METRICS: usize = 500;
    let hosts = scaled(20, scale);
    let fleet = Fleet::new(hosts, METRICS);
    let begin = last_midnight() - 2 * DAY_MS;
    let day = |bed: &mut Bed, title: &str, from: i64, late_ms: i64| {
        bed.step(title, |bed| {
            let mut bar = Bar::new("a day", SCRAPES as u64);
            for scrape in 0..SCRAPES {
                bar.show(scrape as u64);
                for host in 0..hosts {
                    let late = if host + 1 == hosts { late_ms } else { 0 };
                    let time = from + scrape * INTERVAL_MS - late;
                    fleet.send(bed, host * METRICS..(host + 1) * METRICS, std::iter::once(time))?;
                }
            }
            bar.finish(SCRAPES as u64);
            Ok(())
        })
    };
    day(bed, "a day on time", begin, 0)?;
    // The late agent begins where it was on time before.
    day(bed, "a day, one agent three hours late", begin + DAY_MS + 3 * HOUR_MS, 3 * HOUR_MS)?;
    bed.step("sealed and merged", Bed::settle)?;
    bed.step("every sample counted", |bed| count(bed, begin, begin + 3 * DAY_MS))
}

pub fn labels(bed: &mut Bed, scale: f64) -> Result<(), String> {
    const DAYS: i64 = 25;
    let hosts = scaled(1000, scale);
    let fleet = Fleet::new(hosts, 100);
    let begin = last_midnight() - (DAYS + 2) * DAY_MS;
    bed.step("sent: two samples a day", |bed| {
        for day in 0..DAYS {
            let noon = begin + day * DAY_MS + 12 * HOUR_MS;
            fleet.send(bed, 0..fleet.keys.len(), [noon, noon + 15_000].into_iter())?;
        }
        // What is two windows older than the newest sample becomes a block.
        (DAYS..DAYS + 2).try_for_each(|day| fleet.send(bed, 0..1, std::iter::once(begin + day * DAY_MS)))
    })?;
    bed.step("sealed and merged", Bed::settle)?;
    bed.restart_cold("started again, cold")?;
    for temperature in ["cold", "again"] {
        let ask = |bed: &mut Bed, what: &str, endpoint: &str, matcher: Option<&str>, n: usize| {
            bed.step(&format!("{what}, {temperature}"), |bed| {
                let (start, end) = (seconds(begin), seconds(begin + DAYS * DAY_MS));
                let mut parameters = vec![("start", start.as_str()), ("end", end.as_str())];
                parameters.extend(matcher.map(|matcher| ("match[]", matcher)));
                expect_entries(&bed.get(endpoint, &parameters)?, n)
            })
        };
        ask(bed, "values of `instance`", "label/instance/values", None, hosts)?;
        ask(bed, "metric names", "label/__name__/values", None, 100)?;
        ask(
            bed,
            "metric names of a host",
            "label/__name__/values",
            Some("{instance=\"10.0.0.7:9100\"}"),
            100,
        )?;
        ask(bed, "series of a host", "series", Some("{instance=\"10.0.0.7:9100\"}"), 100)?;
    }
    Ok(())
}

fn expect_entries(data: &serde_json::Value, n: usize) -> Result<(), String> {
    let found = data.as_array().map_or(0, Vec::len);
    if found == n { Ok(()) } else { Err(format!("{found} entries instead of {n}")) }
}

pub fn delete(bed: &mut Bed, scale: f64) -> Result<(), String> {
    // Hosts 10.0.0.0 to 10.0.3.255 go.
    const DELETED: usize = 1024;
    let hosts = scaled(10 * DELETED, scale);
    if hosts <= DELETED {
        return Err(format!("more than {DELETED} hosts are needed: use a greater scale"));
    }
    let fleet = Fleet::new(hosts, 100);
    let begin = last_midnight() - DAY_MS;
    bed.step("sent: eight samples", |bed| {
        let mut bar = Bar::new("sending", 8);
        for scrape in 0..8 {
            bar.show(scrape);
            fleet.send(bed, 0..fleet.keys.len(), std::iter::once(begin + scrape as i64 * 15_000))?;
        }
        bar.finish(8);
        // What is two windows older than the newest sample becomes a block.
        [6, 12]
            .into_iter()
            .try_for_each(|hours| fleet.send(bed, 0..1, std::iter::once(begin + hours * HOUR_MS)))
    })?;
    bed.step("sealed", Bed::settle)?;
    bed.restart_cold("started again, cold")?;
    let look = |bed: &mut Bed, when: &str, n_hosts: usize, n_deleted: usize| {
        bed.step(&format!("{when}: values of `instance`"), |bed| {
            expect_entries(&bed.get("label/instance/values", &[("start", &seconds(begin))])?, n_hosts)
        })?;
        bed.step(&format!("{when}: metric names of a deleted host"), |bed| {
            let of_host = [("match[]", "{instance=\"10.0.1.7:9100\"}"), ("start", &*seconds(begin))];
            expect_entries(&bed.get("label/__name__/values", &of_host)?, n_deleted)
        })?;
        bed.step(&format!("{when}: series counted"), |bed| {
            let found = bed.number("count({job=\"node\"})", begin + 8 * 15_000)?;
            let expected = (n_hosts * 100) as f64;
            if found == expected { Ok(()) } else { Err(format!("{found} series instead of {expected}")) }
        })
    };
    look(bed, "before", hosts, 100)?;
    bed.step("a tenth deleted", |bed| {
        bed.administer("delete_series?match[]=%7Binstance%3D~%2210%5C%5C.0%5C%5C.%5B0-3%5D%5C%5C..*%22%7D")
    })?;
    look(bed, "after", hosts - DELETED, 0)?;
    bed.step("cleaned of what was deleted", |bed| bed.administer("clean_tombstones"))?;
    bed.step("merged", Bed::settle)?;
    look(bed, "cleaned", hosts - DELETED, 0)
}

pub fn files(bed: &mut Bed, scale: f64) -> Result<(), String> {
    const BLOCK_MS: i64 = 31 * DAY_MS;
    let blocks = scaled(2000, scale) as i64;
    let fleet = Fleet::new(1, 10);
    let end = last_midnight();
    let begin = end - blocks * BLOCK_MS;
    bed.step("a sample a block of ten series", |bed| {
        let mut bar = Bar::new("blocks", blocks.cast_unsigned());
        for block in 0..blocks {
            bar.show(block.cast_unsigned());
            fleet.send(bed, 0..10, std::iter::once(begin + block * BLOCK_MS))?;
        }
        bar.finish(blocks.cast_unsigned());
        Ok(())
    })?;
    bed.step("sealed", Bed::settle)?;
    bed.restart_cold("started again, cold")?;
    bed.step("every sample counted", |bed| count(bed, begin, end))?;
    bed.restart_cold("and again")?;
    bed.step("one series, now", |bed| bed.number("metric_000_total", end).map(|_| ()))
}
