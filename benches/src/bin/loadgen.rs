//! Drives any remote-write server with recorded pages and says what that cost the server.
//!
//! `loadgen record --target node=http://127.0.0.1:9100/metrics --count 1440 --interval-s 15 stream.rec`
//! `loadgen send --url http://127.0.0.1:9090/api/v1/write --hosts 30 --pid 4711 --data-dir ./data stream.rec`

use chronolith_benches::fleet::{Fleet, Schedule};
use chronolith_benches::http::{Client, Url};
use chronolith_benches::process::{Usage, folder_bytes, usage};
use chronolith_benches::recording::{self, Recording};
use chronolith_wire::remote_write::{compress, v1, v2};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Parser)]
#[command(name = "loadgen", about = "Replays recorded scrapes as remote write against any server")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Records /metrics pages into a file.
    Record {
        /// `job=http://host:port/metrics`; may be given more than once.
        #[arg(long, required = true)]
        target: Vec<String>,
        /// Seconds between scrapes.
        #[arg(long, default_value_t = 15.0)]
        interval_s: f64,
        /// How many scrapes.
        #[arg(long)]
        count: u32,
        /// The file to write.
        file: PathBuf,
    },
    /// Sends a recording, replicated over hosts, by remote write.
    Send(Send),
}

#[derive(clap::Args)]
struct Send {
    /// Where to send to.
    #[arg(long)]
    url: String,
    /// Copies of each recorded target.
    #[arg(long, default_value_t = 1)]
    hosts: u32,
    /// Scrapes to send; all recorded pages if not given. Pages repeat if there are fewer.
    #[arg(long)]
    scrapes: Option<u32>,
    /// Seconds between scrapes, as the samples say.
    #[arg(long, default_value_t = 15.0)]
    interval_s: f64,
    /// Time of the first scrape in seconds since the epoch; so that the last one is now, if not given.
    #[arg(long)]
    start: Option<i64>,
    /// Samples in a request.
    #[arg(long, default_value_t = 2000)]
    samples_per_request: usize,
    /// Connections, each with hosts of its own.
    #[arg(long, default_value_t = 4)]
    connections: u32,
    /// Remote write 1.0 or 2.0.
    #[arg(long, value_enum, default_value_t = Protocol::V1)]
    protocol: Protocol,
    /// Process whose CPU, memory and writes are reported.
    #[arg(long)]
    pid: Option<u32>,
    /// Folder whose size is reported.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The recording.
    file: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    V1,
    V2,
}

/// What a run cost, as JSON on standard output.
#[derive(serde::Serialize)]
struct Report {
    series: usize,
    samples: u64,
    requests: u64,
    retries: u64,
    wall_seconds: f64,
    samples_per_second: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
    latency_ms_max: f64,
    server: Option<ServerReport>,
    data_dir_bytes: Option<u64>,
}

#[derive(serde::Serialize)]
struct ServerReport {
    cpu_seconds: f64,
    cpu_microseconds_per_sample: f64,
    peak_resident_bytes: u64,
    written_bytes: u64,
    device_written_bytes: u64,
}

fn main() -> Result<(), String> {
    match Args::parse().command {
        Command::Record { target, interval_s, count, file } => {
            let targets = target.iter().map(|text| named_url(text)).collect::<Result<Vec<_>, _>>()?;
            recording::record(&targets, Duration::from_secs_f64(interval_s), count, &file)
        }
        Command::Send(send) => run(&send),
    }
}

fn named_url(text: &str) -> Result<(String, Url), String> {
    let (job, url) =
        text.split_once('=').ok_or_else(|| format!("{text}: expected job=http://host:port/path"))?;
    Ok((job.to_owned(), Url::parse(url)?))
}

fn run(args: &Send) -> Result<(), String> {
    let recording = Recording::open(&args.file).map_err(|e| format!("{}: {e}", args.file.display()))?;
    let fleet = Fleet::load(&recording, args.hosts)?;
    let scrapes = args.scrapes.unwrap_or(u32::try_from(fleet.n_pages()).unwrap_or(u32::MAX));
    let interval = (args.interval_s * 1000.0) as i64;
    if interval <= 0 || args.connections == 0 || args.samples_per_request == 0 {
        return Err("interval, connections and samples per request have to be positive".to_owned());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_millis() as i64;
    let start = args.start.map_or(now - i64::from(scrapes) * interval, |seconds| seconds * 1000);
    let schedule = Schedule { start, interval, scrapes, samples_per_request: args.samples_per_request };
    let url = Url::parse(&args.url)?;
    let before = args.pid.map(usage).transpose().map_err(|e| format!("process: {e}"))?;
    let progress = Arc::new(Progress::default());
    let begin = Instant::now();
    let mut latencies = Vec::new();
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..args.connections)
            .map(|connection| {
                let (fleet, schedule, url, progress) = (&fleet, &schedule, &url, &progress);
                scope.spawn(move || {
                    send_part(fleet, schedule, (connection, args.connections), url, args.protocol, progress)
                })
            })
            .collect();
        while senders.iter().any(|sender| !sender.is_finished()) {
            std::thread::sleep(Duration::from_millis(200));
            let sent = progress.samples.load(Ordering::Relaxed);
            let total = fleet.n_series() as u64 * u64::from(scrapes);
            eprint!(
                "\r{sent} of about {total} samples, {:.0}/s  ",
                sent as f64 / begin.elapsed().as_secs_f64()
            );
        }
        eprintln!();
        for sender in senders {
            latencies.extend(sender.join().map_err(|_| "a sender panicked".to_owned())??);
        }
        Ok::<(), String>(())
    })?;
    let wall_seconds = begin.elapsed().as_secs_f64();
    let after = args.pid.map(usage).transpose().map_err(|e| format!("process: {e}"))?;
    latencies.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = (latencies.len() as f64 * q) as usize;
        latencies.get(at.min(latencies.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    let samples = progress.samples.load(Ordering::Relaxed);
    let report = Report {
        series: fleet.n_series(),
        samples,
        requests: progress.requests.load(Ordering::Relaxed),
        retries: progress.retries.load(Ordering::Relaxed),
        wall_seconds,
        samples_per_second: samples as f64 / wall_seconds,
        latency_ms_p50: quantile(0.5),
        latency_ms_p99: quantile(0.99),
        latency_ms_max: quantile(1.0),
        server: before.zip(after).map(|(before, after)| server_report(&before, &after, samples)),
        data_dir_bytes: args.data_dir.as_deref().map(folder_bytes),
    };
    println!("{}", serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?);
    Ok(())
}

fn server_report(before: &Usage, after: &Usage, samples: u64) -> ServerReport {
    let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
    ServerReport {
        cpu_seconds,
        cpu_microseconds_per_sample: cpu_seconds * 1e6 / samples.max(1) as f64,
        peak_resident_bytes: after.peak_resident_bytes,
        written_bytes: after.written_bytes - before.written_bytes,
        device_written_bytes: after.device_written_bytes - before.device_written_bytes,
    }
}

#[derive(Default)]
struct Progress {
    samples: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
    /// The first few refusals are printed.
    complaints: Mutex<u32>,
}

/// Sends one connection's part; the latency of each request in milliseconds.
fn send_part(
    fleet: &Fleet,
    schedule: &Schedule,
    part: (u32, u32),
    url: &Url,
    protocol: Protocol,
    progress: &Progress,
) -> Result<Vec<f64>, String> {
    let mut client = Client::new(url.authority.clone(), Duration::from_secs(60));
    let headers: &[(&str, &str)] = match protocol {
        Protocol::V1 => &[
            ("Content-Type", "application/x-protobuf"),
            ("Content-Encoding", "snappy"),
            ("X-Prometheus-Remote-Write-Version", "0.1.0"),
        ],
        Protocol::V2 => &[
            ("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
            ("Content-Encoding", "snappy"),
            ("X-Prometheus-Remote-Write-Version", "2.0.0"),
        ],
    };
    let mut latencies = Vec::new();
    let mut message = Vec::new();
    fleet.requests(schedule, part, &mut |batch| {
        message.clear();
        match protocol {
            Protocol::V1 => v1::encode(batch, &mut message),
            Protocol::V2 => v2::encode(batch, &mut message),
        }
        .map_err(|e| e.to_string())?;
        let body = compress(&message);
        loop {
            let begin = Instant::now();
            let response =
                client.post(&url.path, headers, &body).map_err(|e| format!("{}: {e}", url.authority))?;
            latencies.push(begin.elapsed().as_secs_f64() * 1000.0);
            match response.status {
                200..=299 => break,
                429 | 503 => {
                    progress.retries.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(50));
                }
                status => {
                    let mut complaints = progress.complaints.lock().expect("no sender panicked");
                    if *complaints < 3 {
                        eprintln!("\nstatus {status}: {}", response.text());
                        *complaints += 1;
                    }
                    break;
                }
            }
        }
        progress.requests.fetch_add(1, Ordering::Relaxed);
        progress.samples.fetch_add(batch.samples.len() as u64, Ordering::Relaxed);
        Ok(())
    })?;
    Ok(latencies)
}
