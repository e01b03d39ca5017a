//! What an append costs: 51,200 known series of 96 targets, 2,000 samples a request, one thread, log
//! included, in CPU time of that thread (so that other load on the machine counts less). Counters, gauges and constants in the shares that exporters send.
//!
//! `cargo test --release -p chronolith-storage --no-default-features -- --ignored --nocapture measure`

use super::*;
use std::time::{Duration, Instant};

const N_SERIES: usize = 51_200;
const PER_REQUEST: usize = 2_000;
const ROUNDS: i64 = 120;

/// Name and value of each label, with a length before each: stands for remote write 1.0.
fn encode(labels: &Labels) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        bytes.push(text.len() as u8);
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn decode<'a>(
    mut bytes: &'a [u8],
    out: &mut Vec<(&'a str, &'a str)>,
) -> Result<(), chronolith_model::append::InvalidLabels> {
    fn text<'a>(bytes: &mut &'a [u8]) -> &'a str {
        let (text, rest) = bytes[1..].split_at(bytes[0] as usize);
        *bytes = rest;
        std::str::from_utf8(text).unwrap()
    }
    while !bytes.is_empty() {
        out.push((text(&mut bytes), text(&mut bytes)));
    }
    Ok(())
}

/// CPU time of this thread so far.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn value(series: usize, round: i64) -> f64 {
    match series % 10 {
        0..=5 => series as f64,
        6 | 7 => (round * (series as i64 % 50 + 1)) as f64,
        8 => (round * 7 % 100 + series as i64 % 10) as f64 / 10.0,
        _ => 1.0 / (round as f64 + series as f64),
    }
}

/// Bytes per series, by what takes them.
fn print_memory(set: &TableSet) {
    let mut parts: Vec<(&str, usize)> = set.registry.memory().to_vec();
    let mut n_used = 0;
    for table in set.all_tables() {
        for shard in &table.shards {
            let shard = shard.read();
            n_used += shard.series().iter().map(|series| series.arena_bytes()).sum::<usize>();
            for (name, bytes) in shard.memory() {
                match parts.iter_mut().find(|part| part.0 == name) {
                    Some(part) => part.1 += bytes,
                    None => parts.push((name, bytes)),
                }
            }
        }
    }
    parts.push(("(used of values)", n_used));
    for (name, bytes) in parts {
        println!("  {name}: {:.1} B/series", bytes as f64 / N_SERIES as f64);
    }
}

/// What a table takes when no two series have a time in common: the values are constant, so it is the
/// times that count.
fn measure_times_of_their_own(options: &Options) {
    const N_SERIES: i64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let (set, _) = TableSet::open(setup(dir.path(), options.clone()), &[]).unwrap();
    let all: Vec<Labels> = (0..N_SERIES).map(|i| labels(&format!("__name__=own,series=s{i}"))).collect();
    for round in 0..ROUNDS {
        for (index, series) in all.iter().enumerate() {
            append(&set, series, &[float(round * 15_000 + index as i64, 1.0)]).unwrap();
        }
    }
    println!("tables, own times: {:.0} B/series", set.stats().tables_bytes as f64 / N_SERIES as f64);
}

#[test]
#[ignore = "a measurement: run it alone and in release"]
fn measure_append_of_known_series() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1 << 40));
    let options = Options { window_ms: crate::options::DEFAULT_WINDOW_MS, ..options(&clock) };
    let (set, _) = TableSet::open(setup(dir.path(), options.clone()), &[]).unwrap();
    let keys: Vec<Vec<u8>> = (0..N_SERIES)
        .map(|series| {
            let target = series / (N_SERIES / 96 + 1);
            encode(&labels(&format!(
                "__name__=some_exporter_metric_{},instance=host-{target}:9100,job=node,mode=m{},device=d{}",
                series % 320,
                series % 7,
                series % 3 + series / 320 % 2 * 10,
            )))
        })
        .collect();
    let mut seconds = 0.0;
    for round in 0..ROUNDS {
        for (first, part) in keys.chunks(PER_REQUEST).enumerate().map(|(i, part)| (i * PER_REQUEST, part)) {
            let mut batch = AppendBatch { decode, ..AppendBatch::default() };
            for (index, key) in part.iter().enumerate() {
                let series = first + index;
                let timestamp = round * 15_000 + (series / (N_SERIES / 96 + 1)) as i64 * 150;
                batch.samples.push(Sample { timestamp, value: value(series, round), start_timestamp: 0 });
                let samples = index as u32..index as u32 + 1;
                let key = SeriesKey::Encoded(key);
                batch.series.push(BatchSeries { key, samples, histograms: 0..0, exemplars: 0..0 });
            }
            let started = cpu_time();
            set.append(&batch, false).unwrap();
            if round > 0 {
                seconds += (cpu_time() - started).as_secs_f64();
            }
        }
    }
    let n_samples = N_SERIES as f64 * (ROUNDS - 1) as f64;
    let stats = set.stats();
    println!("append: {:.0} ns/sample", seconds * 1e9 / n_samples);
    println!("log: {:.2} B/sample", stats.log_bytes_written as f64 / stats.n_samples as f64);
    println!("tables: {:.0} B/series", stats.tables_bytes as f64 / N_SERIES as f64);
    println!("registry: {:.0} B/series", stats.registry_bytes as f64 / N_SERIES as f64);
    print_memory(&set);
    drop(set);
    measure_times_of_their_own(&options);
    let started = Instant::now();
    let (set, report) = TableSet::open(setup(dir.path(), options), &[]).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!("replay: {:.0} ns/sample (wall clock, all threads)", seconds * 1e9 / report.n_samples as f64);
    let started = cpu_time();
    set.freeze_all();
    let frozen = set.frozen();
    println!("order: {:.0} ns/series", (cpu_time() - started).as_secs_f64() * 1e9 / N_SERIES as f64);
    let started = cpu_time();
    let mut n_read = 0;
    for table in &frozen {
        for (_, mut source) in table.sources(&[table.time_range()]) {
            let mut series = SourceSeries::default();
            while source.next_series(&mut series).unwrap() {
                n_read += series.samples.values.len();
            }
        }
    }
    println!("source: {:.0} ns/sample", (cpu_time() - started).as_secs_f64() * 1e9 / n_read as f64);
}

/// How long the log of a store takes to be replayed: the folder in `REPLAY_LOG`, which should be a copy.
#[test]
#[ignore = "a measurement: run it alone and in release"]
fn measure_replay_of_a_folder() {
    let Some(folder) = std::env::var_os("REPLAY_LOG") else {
        println!("skipped: REPLAY_LOG names no folder");
        return;
    };
    let clock = Arc::new(ManualClock::new(1 << 42));
    let window_ms = crate::options::DEFAULT_WINDOW_MS;
    let options =
        Options { window_ms, shards: 0, threads: 0, memory_budget_bytes: 4 << 30, ..options(&clock) };
    let begun = Instant::now();
    let (set, report) = TableSet::open(setup(Path::new(&folder), options), &[]).unwrap();
    println!("replay: {:?}, {} series, {} samples", begun.elapsed(), report.n_series, report.n_samples);
    drop(set);
}

/// What single appends take while the log is synced behind them: 200 requests a second of 2,000 values that
/// do not compress (3 MB of log a second), for a minute, on the file system of `TMPDIR`.
#[test]
#[ignore = "a measurement: run it alone and in release"]
fn measure_latency_beside_syncs() {
    const REQUESTS: usize = 12_000;
    const EVERY: Duration = Duration::from_millis(5);
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1 << 40));
    let options = Options {
        window_ms: crate::options::DEFAULT_WINDOW_MS,
        table_samples: u64::MAX,
        memory_budget_bytes: 4 << 30,
        ..options(&clock)
    };
    let (set, _) = TableSet::open(setup(dir.path(), options), &[]).unwrap();
    let syncer = set.start_syncer().unwrap();
    let keys: Vec<Vec<u8>> =
        (0..PER_REQUEST).map(|series| encode(&labels(&format!("__name__=m,series=s{series}")))).collect();
    let mut bits = 1u64;
    let mut latencies = Vec::with_capacity(REQUESTS);
    let started = Instant::now();
    for request in 0..REQUESTS {
        let mut batch = AppendBatch { decode, ..AppendBatch::default() };
        for (index, key) in (0u32..).zip(&keys) {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = 1.0 + (bits >> 11) as f64;
            batch.samples.push(Sample { timestamp: request as i64 * 500, value, start_timestamp: 0 });
            let key = SeriesKey::Encoded(key);
            batch.series.push(BatchSeries {
                key,
                samples: index..index + 1,
                histograms: 0..0,
                exemplars: 0..0,
            });
        }
        std::thread::sleep((started + EVERY * request as u32).saturating_duration_since(Instant::now()));
        let begun = Instant::now();
        set.append(&batch, false).unwrap();
        latencies.push(begun.elapsed());
    }
    drop(syncer);
    latencies.sort_unstable();
    let at = |share: f64| latencies[((REQUESTS - 1) as f64 * share) as usize];
    println!("append: p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}", at(0.5), at(0.99), at(0.999), at(1.0));
    println!("log: {} bytes, syncs: {:?}", set.stats().log_bytes_written, set.stats().sync_durations);
}
