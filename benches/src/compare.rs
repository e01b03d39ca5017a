//! Comparing servers: each is started, fed the same source, killed, started again, asked whether everything is
//! there and how fast it answers, and stopped; what that cost it is read from `/proc` and from its folder.

pub mod queries;
pub mod report;
pub mod servers;

use crate::expect::Expected;
use crate::process::{Process, Usage, data_bytes, resident_bytes, settle, usage};
use crate::sender::{self, SendOptions, SendReport};
use crate::source::Source;
use crate::verify::{Verified, lost, verify};
use queries::{Load, QueryTimes};
use servers::{Kind, Server, Started, data_dir};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A server has to stop within.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Memory is noted so often while samples are sent.
const N_MEMORY_POINTS: u64 = 20;

/// What to do to each server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections of the sender.
    pub connections: u32,
    /// Times the natural rate, 0 for full speed.
    pub speed: f64,
    /// CPUs of the server, as `taskset -c` takes them.
    pub server_cpus: Option<String>,
    /// Connections that send queries while samples are sent.
    pub query_connections: u32,
    /// A server has so long to seal and compact before its folder is measured.
    pub settle: Duration,
    /// Repetitions of each query.
    pub query_rounds: u32,
    /// Data of servers go below this folder.
    pub dir: PathBuf,
    /// Data stay there.
    pub keep: bool,
}

/// What became of one server.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// As the table names it.
    pub name: String,
    /// What it says of itself.
    pub version: String,
    /// How it was started.
    pub command: String,
    /// How it was written to.
    pub format: &'static str,
    /// How sending went.
    pub sending: SendReport,
    /// What that cost; nothing about servers that run elsewhere.
    pub process: Option<Costs>,
    /// Queries while samples were sent.
    pub queries_beside: Option<Load>,
    /// Acknowledged samples that were gone after the kill.
    pub lost: u64,
    /// Whether everything came back, after the kill.
    pub verified: Verified,
    /// Times of queries.
    pub queries: Vec<QueryTimes>,
}

/// What a server took.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Costs {
    /// CPU time until the last answer.
    pub cpu_seconds: f64,
    /// The same by sample.
    pub cpu_microseconds_per_sample: f64,
    /// Greatest resident memory until the last answer.
    pub peak_resident_bytes: u64,
    /// Resident memory at equal steps of the way.
    pub resident_bytes: Vec<u64>,
    /// Bytes and files of the data folder at these steps, without ballast.
    pub folder: Vec<(u64, u64)>,
    /// First start to answering.
    pub start_seconds: f64,
    /// From the start after `kill -9` to answering.
    pub restart_seconds: f64,
    /// CPU time of that.
    pub restart_cpu_seconds: f64,
    /// Greatest resident memory of the second life, before queries.
    pub restart_peak_resident_bytes: u64,
    /// Handed to write calls, both lives.
    pub written_bytes: u64,
    /// Sent to the block device, both lives.
    pub device_written_bytes: u64,
    /// CPU time after the restart and beside queries: sealing and compaction that were put off.
    pub settle_cpu_seconds: f64,
    /// Of the data folder after a clean stop, without ballast.
    pub disk_bytes: u64,
    /// Files in it.
    pub n_files: u64,
    /// Ballast, which is given back when the disk is full.
    pub ballast_bytes: u64,
    /// How long the clean stop took.
    pub stop_seconds: f64,
}

/// Runs a server through everything.
///
/// # Errors
/// If the server does not start, or breaks.
pub fn run(
    server: &Server,
    source: &Source,
    expected: &Expected,
    options: &Options,
) -> Result<Outcome, String> {
    let dir = options.dir.join(server.name.replace(['@', '/'], "-"));
    if matches!(server.kind, Kind::Running(_)) {
        return run_started(server, source, expected, options, &dir);
    }
    if dir.exists() {
        return Err(format!("{} is there already", dir.display()));
    }
    let outcome = run_started(server, source, expected, options, &dir);
    if !options.keep && outcome.is_ok() {
        std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    outcome
}

fn run_started(
    server: &Server,
    source: &Source,
    expected: &Expected,
    options: &Options,
    dir: &Path,
) -> Result<Outcome, String> {
    let name = &server.name;
    let mut started = server.start(dir, options.server_cpus.as_deref())?;
    let mut costs = Costs { start_seconds: started.start.as_secs_f64(), ..Costs::default() };
    let (sending, beside) = feed(server, source, expected, options, &started, (&data_dir(dir), &mut costs))?;
    if let Some(mut process) = started.process.take() {
        let used = usage(process.pid()).map_err(|e| format!("{name} ended: {e}"))?;
        costs.first_life(&used, sending.samples);
        process.kill();
        started = server.start(dir, options.server_cpus.as_deref())?;
        costs.restart_seconds = started.start.as_secs_f64();
        eprintln!("{name}: killed, and ready again after {:.2} s", costs.restart_seconds);
    }
    let usage_of = |started: &Started| {
        let process = started.process.as_ref();
        process.and_then(|process| usage(process.pid()).ok()).unwrap_or_default()
    };
    let after_start = usage_of(&started);
    costs.restart_peak_resident_bytes = after_start.peak_resident_bytes;
    costs.restart_cpu_seconds = after_start.cpu_seconds;
    let verified = verify(&started.url, expected, &format!("{name}: counting"))?;
    let lost = lost(&verified, server.keeps_nans());
    if lost > 0 && started.process.is_some() {
        // Size and queries are to be those of everything.
        eprintln!("{name}: {lost} samples were lost, so they are sent again to an empty one");
        drop(started);
        std::fs::remove_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        started = server.start(dir, options.server_cpus.as_deref())?;
        feed(server, source, expected, options, &started, (&data_dir(dir), &mut Costs::default()))?;
    }
    let before_settle = usage_of(&started);
    if let Some(process) = &started.process {
        settle(process.pid(), &data_dir(dir), options.settle);
    }
    costs.settle_cpu_seconds = usage_of(&started).cpu_seconds - before_settle.cpu_seconds;
    let queries = queries::measure(&started.url, expected, options.query_rounds)?;
    let has_process = started.process.is_some();
    if let Some(mut process) = started.process.take() {
        let used = usage(process.pid()).map_err(|e| format!("{name} ended: {e}"))?;
        costs.second_life(&used, &mut process, &data_dir(dir));
    }
    Ok(Outcome {
        name: name.clone(),
        version: server.version(),
        command: server.command_line(),
        format: server.format.title(),
        sending,
        process: has_process.then_some(costs),
        queries_beside: beside,
        lost,
        verified,
        queries,
    })
}

fn feed(
    server: &Server,
    source: &Source,
    expected: &Expected,
    options: &Options,
    started: &Started,
    (data, costs): (&Path, &mut Costs),
) -> Result<(SendReport, Option<Load>), String> {
    let send_options = SendOptions {
        url: started.write_url(server.format),
        format: server.format,
        connections: options.connections,
        speed: options.speed,
    };
    let pid = started.process.as_ref().map(Process::pid);
    let n_samples = source.n_samples().max(1);
    let step = (n_samples / N_MEMORY_POINTS).max(1);
    // How far the samples are that the server has by now.
    let clock = AtomicI64::new(expected.begin);
    let mut watch = |sent: u64| {
        let part = sent as f64 / n_samples as f64;
        let time = expected.begin + ((expected.maxt - expected.begin) as f64 * part) as i64;
        clock.store(time.min(expected.maxt), Ordering::Relaxed);
        if let Some(pid) = pid.filter(|_| costs.resident_bytes.len() as u64 <= sent / step) {
            costs.resident_bytes.push(resident_bytes(pid));
            let (bytes, files, _) = data_bytes(data);
            costs.folder.push((bytes, files));
        }
    };
    let title = format!("{}: sending by {}", server.name, server.format.title());
    queries::beside(&started.url, expected, &clock, options.query_connections, || {
        sender::send(source, &send_options, &title, &mut watch)
    })
}

impl Costs {
    fn first_life(&mut self, used: &Usage, samples: u64) {
        self.cpu_seconds = used.cpu_seconds;
        self.cpu_microseconds_per_sample = used.cpu_seconds * 1e6 / samples.max(1) as f64;
        self.peak_resident_bytes = used.peak_resident_bytes;
        self.written_bytes = used.written_bytes;
        self.device_written_bytes = used.device_written_bytes;
    }

    fn second_life(&mut self, used: &Usage, process: &mut Process, data: &Path) {
        self.written_bytes += used.written_bytes;
        self.device_written_bytes += used.device_written_bytes;
        self.stop_seconds = process.terminate(STOP_LIMIT).unwrap_or(STOP_LIMIT).as_secs_f64();
        (self.disk_bytes, self.n_files, self.ballast_bytes) = data_bytes(data);
    }
}
