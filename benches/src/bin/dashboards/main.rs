//! Dashboard and alert queries beside the peers: Chronolith, Prometheus and VictoriaMetrics get the same
//! stream, and answer the same queries warm and cold.
//!
//! For each query and server: CPU time of the server's process and time to the last byte. Warm is the median
//! of repeated requests, without results that are kept. Cold begins with a start with the data files out of the
//! page cache, and is measured in two ways: first runs, where all queries are asked once, one after the other, and
//! alone, where each has a start of its own. What was loaded is kept in the folder, so the next run with the same options
//! starts at once.
//!
//! `cargo run --release --workspace --bin dashboards -- --server target/release/chronolith --dir /tmp/d stream.rec`,
//! or `--native 20` instead of the recording for native histograms.

mod measure;
mod queries;
mod report;
mod servers;

use chronolith_benches::fleet::synthetic::Mixture;
use chronolith_benches::fleet::{Fleet, Schedule};
use chronolith_benches::random::mix;
use chronolith_benches::recording::Recording;
use clap::Parser;
use measure::Options;
use queries::Query;
use report::{Measured, Report, State};
use servers::{Kind, Server};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Parser)]
#[command(about = "Measures dashboard queries on Chronolith, Prometheus and VictoriaMetrics")]
struct Args {
    /// The server's binary.
    #[arg(long)]
    server: String,
    /// Prometheus.
    #[arg(long, default_value = "prometheus")]
    prometheus: String,
    /// VictoriaMetrics.
    #[arg(long, default_value = "victoria-metrics")]
    victoria_metrics: String,
    /// Which servers to measure, by comma.
    #[arg(long, value_delimiter = ',', default_value = "chronolith,prometheus,victoria-metrics")]
    servers: Vec<Kind>,
    /// Data directories and logs. What is there of an earlier run with the same stream is used.
    #[arg(long)]
    dir: PathBuf,
    /// Copies of each recorded target.
    #[arg(long, default_value_t = 4)]
    hosts: u32,
    /// Scrapes, 15 seconds apart.
    #[arg(long, default_value_t = 480)]
    scrapes: u32,
    /// Only queries whose name has this in it.
    #[arg(long)]
    only: Option<String>,
    /// Which states of the servers to measure, by comma.
    #[arg(long, value_delimiter = ',', default_value = "warm,first-runs,alone")]
    states: Vec<State>,
    /// Starts for the medians of first runs. Each asks in another order, the same of all servers.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Fewest requests of a warm measurement.
    #[arg(long, default_value_t = 5)]
    repeat: u32,
    /// Fewest milliseconds of CPU a warm measurement takes, for short queries.
    #[arg(long, default_value_t = 200)]
    cpu_ms: u32,
    /// Write the figures to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Figures of an earlier run (its `--json`) for servers that are not measured now.
    #[arg(long)]
    with: Option<PathBuf>,
    /// Instead of a recording, made-up hosts with so many native histograms each, and queries of these. VictoriaMetrics
    /// takes none.
    #[arg(long, conflicts_with = "file")]
    native: Option<usize>,
    /// The recording (`loadgen record`).
    #[arg(required_unless_present = "native")]
    file: Option<PathBuf>,
}

/// What a folder was filled with.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Loaded {
    hosts: u32,
    scrapes: u32,
    /// Time of the first scrape, in seconds.
    start: i64,
}

const INTERVAL_S: i64 = 15;

fn main() -> Result<(), String> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.dir).map_err(|e| format!("{}: {e}", args.dir.display()))?;
    let dir = args.dir.canonicalize().map_err(|e| e.to_string())?;
    let loaded = start_time(&dir, &args)?;
    let program = |kind| match kind {
        Kind::Chronolith => &args.server,
        Kind::Prometheus => &args.prometheus,
        Kind::VictoriaMetrics => &args.victoria_metrics,
    };
    let kinds = args.servers.iter().filter(|&&kind| args.native.is_none() || kind != Kind::VictoriaMetrics);
    let mut servers: Vec<Server> = kinds.map(|&kind| Server::new(kind, program(kind), &dir)).collect();
    load(&dir, &args, &loaded, &mut servers)?;

    let end = loaded.start + (i64::from(loaded.scrapes) - 1) * INTERVAL_S;
    let queries = if args.native.is_some() { queries::native() } else { queries::all() };
    let queries: Vec<Query> = queries
        .into_iter()
        .filter(|query| args.only.as_ref().is_none_or(|only| query.name.contains(only.as_str())))
        .collect();
    let options = Options { repeat: args.repeat, cpu_seconds: f64::from(args.cpu_ms) / 1000.0 };
    let mut report = Report::new(loaded.hosts, loaded.scrapes, servers.iter().map(Server::kind).collect());
    let run = Run { queries: &queries, options: &options, rounds: args.rounds, times: (loaded.start, end) };
    for state in args.states.iter().copied() {
        for server in &mut servers {
            match state {
                State::Warm => run.warm(server, &mut report)?,
                State::FirstRuns => run.first_runs(server, &mut report)?,
                State::Alone => run.alone(server, &mut report)?,
            }
        }
    }
    if let Some(file) = &args.with {
        let json = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
        report.merge(serde_json::from_slice(&json).map_err(|e| format!("{}: {e}", file.display()))?);
    }
    print!("{}", report.markdown());
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
        std::fs::write(file, json).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(())
}

/// What is measured, and how.
struct Run<'a> {
    queries: &'a [Query],
    options: &'a Options,
    rounds: u32,
    /// Of the first and the last sample, in seconds.
    times: (i64, i64),
}

impl Run<'_> {
    fn path(&self, query: &Query, server: &Server) -> String {
        query.path(server.kind(), self.times.0, self.times.1)
    }

    /// Each query again and again.
    fn warm(&self, server: &mut Server, report: &mut Report) -> Result<(), String> {
        server.start()?;
        server.wait_until_quiet()?;
        for query in self.queries {
            let measured = measure::warm(server, &self.path(query, server), self.options)?;
            report.add(query, server.kind(), State::Warm, measured);
        }
        server.stop();
        Ok(())
    }

    /// Each query once, on one connection, in some order after a cold start; medians of several starts.
    fn first_runs(&self, server: &mut Server, report: &mut Report) -> Result<(), String> {
        let mut runs = vec![Vec::new(); self.queries.len()];
        for round in 0..self.rounds {
            start_cold(server)?;
            let mut client = server.client()?;
            let mut order: Vec<usize> = (0..self.queries.len()).collect();
            order.sort_by_key(|&at| mix(mix(u64::from(round)) ^ at as u64));
            for at in order {
                runs[at].push(measure::once(server, &mut client, &self.path(&self.queries[at], server))?);
            }
            server.stop();
        }
        for (query, runs) in self.queries.iter().zip(&runs) {
            if let Some(measured) = Measured::median(runs) {
                report.add(query, server.kind(), State::FirstRuns, measured);
            }
        }
        Ok(())
    }

    /// Each query after a cold start of its own.
    fn alone(&self, server: &mut Server, report: &mut Report) -> Result<(), String> {
        for query in self.queries {
            start_cold(server)?;
            let measured = measure::once(server, &mut server.client()?, &self.path(query, server))?;
            server.stop();
            report.add(query, server.kind(), State::Alone, measured);
        }
        Ok(())
    }
}

/// Starts a server whose data files are out of the page cache, and waits until it is at rest.
fn start_cold(server: &mut Server) -> Result<(), String> {
    chronolith_benches::process::drop_from_page_cache(&server.data_dir());
    server.start()?;
    server.wait_until_quiet()
}

/// The options and the time of the first scrape: of what lies in the folder, or so that the last scrape is now.
fn start_time(dir: &Path, args: &Args) -> Result<Loaded, String> {
    if let Ok(loaded) = std::fs::read(dir.join("stream.json")) {
        let loaded: Loaded = serde_json::from_slice(&loaded).map_err(|e| format!("stream.json: {e}"))?;
        if (loaded.hosts, loaded.scrapes) != (args.hosts, args.scrapes) {
            return Err(format!(
                "{} holds {} hosts and {} scrapes: choose another folder, or these options",
                dir.display(),
                loaded.hosts,
                loaded.scrapes
            ));
        }
        return Ok(loaded);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_secs() as i64;
    let start = (now - (i64::from(args.scrapes) + 1) * INTERVAL_S) / INTERVAL_S * INTERVAL_S;
    let loaded = Loaded { hosts: args.hosts, scrapes: args.scrapes, start };
    let json = serde_json::to_string(&loaded).map_err(|e| e.to_string())?;
    std::fs::write(dir.join("stream.json"), json).map_err(|e| e.to_string())?;
    Ok(loaded)
}

/// Loads the servers that have no data yet, one after the other.
fn load(dir: &Path, args: &Args, loaded: &Loaded, servers: &mut [Server]) -> Result<(), String> {
    let is_loaded = |kind: Kind| dir.join(format!("{kind}.loaded"));
    if servers.iter().all(|server| is_loaded(server.kind()).exists()) {
        return Ok(());
    }
    let fleet = match &args.file {
        Some(file) => {
            let recording = Recording::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
            Fleet::recorded(&recording, loaded.hosts)?
        }
        None => {
            let series = args.native.unwrap_or_default();
            let mixture = Mixture { series, native_share: 1.0, ..Mixture::default() };
            Fleet::synthetic(&mixture, loaded.hosts)
        }
    };
    let schedule = Schedule {
        start: loaded.start * 1000,
        interval: INTERVAL_S * 1000,
        jitter: 0,
        scrapes: loaded.scrapes,
        churn_per_hour: 0.0,
        samples_per_request: 2000,
    };
    for server in servers {
        if is_loaded(server.kind()).exists() {
            continue;
        }
        server.start()?;
        eprintln!("loading {} series x {} into {}", fleet.n_series(), loaded.scrapes, server.kind());
        server.load(&fleet, &schedule)?;
        server.stop();
        std::fs::write(is_loaded(server.kind()), b"").map_err(|e| e.to_string())?;
    }
    Ok(())
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu_ms, wall_ms, n_series, n_points, size_bytes } = self;
        write!(
            f,
            "CPU {cpu_ms:9.2} ms, last byte {wall_ms:9.2} ms, {n_series} series, {n_points} points, {size_bytes} bytes"
        )
    }
}
