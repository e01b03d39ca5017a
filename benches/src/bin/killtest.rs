//! `kill -9` in a loop while many writers send: nothing acknowledged is lost, nothing is invented.
//!
//! Every write is *ok* (204), *failed* (nothing reached the server) or *indeterminate* (anything else).
//! After each kill the server is started again with other options and every series is read back: all
//! samples of ok writes are there with their values, and no sample is there that was not sent. The same
//! holds for deletions: what an acknowledged deletion removed stays away.
//!
//! Writers append in order, out of order, in duplicate, histories of their own, and staleness markers;
//! small windows and budgets keep sealing, compaction and deletion under way all the time. At the end it
//! says how many kills came into which of these.
//!
//! `cargo run --release -p chronolith-benches --bin killtest -- --server target/release/chronolith --kills 200`

use chronolith_benches::http::{Client, encode_component};
use chronolith_benches::process::{Process, folder_bytes, free_port};
use chronolith_model::Labels;
use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey};
use chronolith_model::sample::{is_stale, stale_nan};
use chronolith_wire::remote_write;
use clap::Parser;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Parser)]
#[command(
    about = "Kills a server in a loop while writers send, and checks that nothing acknowledged is lost"
)]
struct Args {
    /// The server's binary.
    #[arg(long)]
    server: String,
    /// How often to kill it.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Writers, each with series of its own.
    #[arg(long, default_value_t = 8)]
    writers: u32,
    /// Series per writer.
    #[arg(long, default_value_t = 20)]
    series: u32,
    /// Longest life of a server, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    life_ms: u64,
    /// Seed of everything that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after this many seconds, whatever has been done by then.
    #[arg(long, default_value_t = 1800)]
    limit_s: u64,
    /// Where the store lives; a temporary folder if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What is known of one timestamp of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    /// Bits of the value that was sent first.
    bits: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Acknowledged: has to be there.
    Stored,
    /// Sent, no answer: may be there.
    Indeterminate,
    /// Acknowledged and then deleted by an acknowledged deletion: must not be there.
    Deleted,
}

type Oracle = BTreeMap<i64, Known>;

/// What all threads share.
struct Shared {
    authority: Mutex<String>,
    stop: AtomicBool,
    /// Per writer and series.
    oracles: Vec<Mutex<Vec<Oracle>>>,
    ok: AtomicU64,
    failed: AtomicU64,
    indeterminate: AtomicU64,
    refused: AtomicU64,
    /// Data time: runs faster than the clock so that windows pass quickly.
    base: i64,
    ticks: AtomicI64,
    deletions: AtomicU64,
    /// Deletions sent and not answered yet.
    deleting: AtomicU64,
}

/// What the kills came into, as the data directory and the senders tell.
#[derive(Debug, Default)]
struct Phases {
    /// Files of blocks that were being written from tables.
    writing_blocks: u32,
    /// Tables that were frozen and not in blocks yet; the number counts files that mark them.
    frozen_tables: u32,
    /// Files of a merge.
    merging: u32,
    /// Files of records of a deletion.
    recording_deletion: u32,
    /// Deletions that nobody had answered.
    unanswered_deletion: u32,
    /// Log folders at most, and blocks after a start.
    most_logs: usize,
    most_blocks: u64,
    last_blocks: u64,
}

/// xorshift64*: repeatable, and good enough to choose actions.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

const METRIC: &str = "kill_test_total";
/// Between samples, in milliseconds of data time.
const STEP_MS: i64 = 500;

fn main() -> Result<(), String> {
    let args = Args::parse();
    let temporary = tempfile::tempdir().map_err(|e| e.to_string())?;
    let root = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&root).map_err(|e| e.to_string())?;
    let config = root.join("empty.yml");
    std::fs::write(&config, "global:\n  scrape_interval: 1m\n").map_err(|e| e.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_millis() as i64;
    let shared = Arc::new(Shared {
        authority: Mutex::new(String::new()),
        stop: AtomicBool::new(false),
        oracles: (0..args.writers).map(|_| Mutex::new(vec![Oracle::new(); args.series as usize])).collect(),
        ok: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        indeterminate: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        // Three days back, so that data time never overtakes the clock.
        base: now - 3 * 86_400_000,
        ticks: AtomicI64::new(0),
        deletions: AtomicU64::new(0),
        deleting: AtomicU64::new(0),
    });
    let mut random = Random(args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let start = Instant::now();
    let mut server = start_server(&args, &root, &mut random, &shared)?;
    let writers: Vec<_> = (0..args.writers)
        .map(|writer| {
            let shared = Arc::clone(&shared);
            let seed = random.next();
            std::thread::spawn(move || write_forever(&shared, writer, args.series, Random(seed | 1)))
        })
        .collect();
    let mut slowest_ready = Duration::ZERO;
    let mut phases = Phases::default();
    let mut done = 0;
    let mut outcome = Ok(());
    while done < args.kills && start.elapsed() < Duration::from_secs(args.limit_s) {
        std::thread::sleep(Duration::from_millis(30 + random.below(args.life_ms)));
        let is_deleting = shared.deleting.load(Ordering::SeqCst) > 0;
        server.kill();
        phases.look(&root.join("data"), is_deleting);
        done += 1;
        let before = Instant::now();
        match start_server(&args, &root, &mut random, &shared) {
            Ok(next) => server = next,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
        slowest_ready = slowest_ready.max(before.elapsed());
        phases.count_blocks(&shared)?;
        // Everything is compared now and then, the newest part after each kill.
        let whole = done % 20 == 0 || done == args.kills;
        if let Err(error) = verify(&shared, &args, whole) {
            outcome = Err(format!("after kill {done}: {error}"));
            break;
        }
        eprint!(
            "\rkills {done}/{} blocks {} ok {} failed {} indeterminate {} deletions {} slowest start {slowest_ready:?}   ",
            args.kills,
            phases.last_blocks,
            shared.ok.load(Ordering::Relaxed),
            shared.failed.load(Ordering::Relaxed),
            shared.indeterminate.load(Ordering::Relaxed),
            shared.deletions.load(Ordering::Relaxed),
        );
    }
    eprintln!();
    shared.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().map_err(|_| "a writer panicked".to_owned())?;
    }
    if outcome.is_ok() {
        outcome = verify(&shared, &args, true);
    }
    server.terminate(Duration::from_secs(20));
    let samples: usize = shared
        .oracles
        .iter()
        .map(|o| o.lock().expect("no writer panicked").iter().map(BTreeMap::len).sum::<usize>())
        .sum();
    phases.print(&root);
    println!(
        "{done} kills in {:.0} s, {} requests ok, {} failed, {} indeterminate, {} refused, {} deletions, {samples} samples known, \
         {} bytes on disk, slowest start {slowest_ready:?}",
        start.elapsed().as_secs_f64(),
        shared.ok.load(Ordering::Relaxed),
        shared.failed.load(Ordering::Relaxed),
        shared.indeterminate.load(Ordering::Relaxed),
        shared.refused.load(Ordering::Relaxed),
        shared.deletions.load(Ordering::Relaxed),
        folder_bytes(&root).0,
    );
    if outcome.is_err() && args.dir.is_none() {
        let kept = temporary.keep();
        println!("the store is kept in {}", kept.display());
    }
    outcome
}

impl Phases {
    /// Looks at the data directory of a server that was just killed.
    fn look(&mut self, data: &Path, is_deleting: bool) {
        let staged = |purpose: &str| u32::from(!names(&data.join("staging").join(purpose)).is_empty());
        self.writing_blocks += staged("seal");
        self.merging += staged("merge");
        self.recording_deletion += staged("delete");
        self.unanswered_deletion += u32::from(is_deleting);
        let logs = names(&data.join("log"));
        let is_frozen =
            |log: &String| names(&data.join("log").join(log)).iter().any(|name| name.starts_with("frozen-"));
        self.frozen_tables += u32::from(logs.iter().any(is_frozen));
        self.most_logs = self.most_logs.max(logs.len());
    }

    /// Asks the server how many blocks it has.
    fn count_blocks(&mut self, shared: &Shared) -> Result<(), String> {
        let authority = shared.authority.lock().expect("no writer panicked").clone();
        let mut client = Client::new(authority, Duration::from_secs(20));
        let metrics = client.get("/metrics").map_err(|e| format!("metrics: {e}"))?.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("prometheus_tsdb_blocks_loaded "));
        let count = line.and_then(|count| count.trim().parse::<f64>().ok());
        self.last_blocks = count.ok_or("the server does not tell how many blocks it has")? as u64;
        self.most_blocks = self.most_blocks.max(self.last_blocks);
        Ok(())
    }

    fn print(&self, root: &Path) {
        let log = std::fs::read_to_string(root.join("server.log")).unwrap_or_default();
        let starts_that = |message: &str| log.lines().filter(|line| line.contains(message)).count();
        println!(
            "kills while blocks were written from tables: {}; while frozen tables waited: {}; between the \
             commit of blocks and the end of their logs: {}",
            self.writing_blocks,
            self.frozen_tables,
            starts_that("logs of tables that are in blocks"),
        );
        println!(
            "kills while a merge was written: {}; between its commit and the end of its inputs: {}",
            self.merging,
            starts_that("a merge is finished"),
        );
        println!(
            "kills while a deletion was recorded: {}; while one was not answered: {}",
            self.recording_deletion, self.unanswered_deletion
        );
        println!(
            "at most {} blocks after a start, {} after the last, at most {} tables with a log",
            self.most_blocks, self.last_blocks, self.most_logs
        );
    }
}

/// Names in a folder; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Starts the server with options drawn by chance.
fn start_server(args: &Args, root: &Path, random: &mut Random, shared: &Shared) -> Result<Process, String> {
    let authority = format!("127.0.0.1:{}", free_port());
    let sync = if random.below(4) == 0 { "always" } else { "grouped" };
    let window = "2m";
    let budget = ["64MB", "128MB", "256MB"][random.below(3) as usize];
    let arguments: Vec<String> = [
        format!("--config.file={}", root.join("empty.yml").display()),
        format!("--storage.tsdb.path={}", root.join("data").display()),
        "--storage.tsdb.retention.time=30d".to_owned(),
        format!("--storage.tsdb.min-block-duration={window}"),
        format!("--storage.wal-sync={sync}"),
        format!("--storage.memory-budget={budget}"),
        format!("--web.listen-address={authority}"),
        "--web.enable-admin-api".to_owned(),
        "--web.enable-lifecycle".to_owned(),
    ]
    .into();
    let mut process = Process::start(&args.server, &arguments, authority.clone(), &root.join("server.log"))
        .map_err(|e| e.to_string())?;
    process.wait_until_ready("/-/ready", Duration::from_secs(180))?;
    *shared.authority.lock().expect("no writer panicked") = authority;
    Ok(process)
}

fn labels_of(writer: u32, series: u32) -> Labels {
    Labels::from_pairs([
        ("__name__", METRIC.to_owned()),
        ("instance", format!("host-{}:9100", writer % 3)),
        ("job", "kill".to_owned()),
        ("series", series.to_string()),
        ("writer", writer.to_string()),
    ])
    .expect("the names differ")
}

fn value_of(writer: u32, series: u32, timestamp: i64) -> f64 {
    match (writer ^ series) % 4 {
        0 => (timestamp / STEP_MS) as f64,
        1 => f64::from(series),
        2 => (timestamp % 1000) as f64 * 0.001 + f64::from(writer),
        _ => ((timestamp as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12) as f64 * 1e-7,
    }
}

/// One request of a writer: samples of some of its series.
struct Request {
    /// Series, timestamp and bits of the value.
    samples: Vec<(u32, i64, u64)>,
}

fn write_forever(shared: &Shared, writer: u32, n_series: u32, mut random: Random) {
    let labels: Vec<Labels> = (0..n_series).map(|series| labels_of(writer, series)).collect();
    let mut client: Option<(String, Client)> = None;
    let mut last: Option<Request> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let authority = shared.authority.lock().expect("no thread panicked").clone();
        if client.as_ref().is_none_or(|(of, _)| *of != authority) {
            client = Some((authority.clone(), Client::new(authority, Duration::from_secs(20))));
        }
        let (_, connection) = client.as_mut().expect("a client was just made");
        let action = random.below(100);
        if action < 2 && writer % 4 == 1 {
            delete(shared, connection, writer, &mut random);
        } else {
            let request = match (action, last.take()) {
                // The same request again: a retry changes nothing.
                (2..10, Some(request)) => request,
                (10..25, _) => out_of_order(shared, n_series, &mut random, writer),
                _ => in_order(shared, n_series, &mut random, writer),
            };
            send(shared, connection, writer, &labels, &request);
            last = Some(request);
        }
        std::thread::sleep(Duration::from_micros(500 + random.below(4000)));
    }
}

fn in_order(shared: &Shared, n_series: u32, random: &mut Random, writer: u32) -> Request {
    let tick = shared.ticks.fetch_add(1, Ordering::Relaxed);
    let timestamp = shared.base + tick * STEP_MS + i64::from(writer);
    let stale = random.below(200) == 0;
    let samples = (0..n_series)
        .filter(|_| random.below(8) > 0)
        .map(|series| {
            let value = if stale { stale_nan() } else { value_of(writer, series, timestamp) };
            (series, timestamp, value.to_bits())
        })
        .collect();
    Request { samples }
}

fn out_of_order(shared: &Shared, n_series: u32, random: &mut Random, writer: u32) -> Request {
    let newest = shared.ticks.load(Ordering::Relaxed);
    let samples = (0..1 + random.below(30))
        .map(|_| {
            let series = random.below(u64::from(n_series)) as u32;
            let reach = if random.below(4) == 0 { 100_000 } else { 500 };
            let back = random.below(reach) as i64;
            // An odd offset keeps these apart from the samples in order.
            let timestamp = shared.base + (newest - back) * STEP_MS + 100 + i64::from(writer);
            (series, timestamp, value_of(writer, series, timestamp).to_bits())
        })
        .collect();
    Request { samples }
}

fn send(shared: &Shared, client: &mut Client, writer: u32, labels: &[Labels], request: &Request) {
    let mut batch = AppendBatch::default();
    for &(series, timestamp, bits) in &request.samples {
        let at = batch.samples.len() as u32;
        batch.samples.push(Sample { timestamp, value: f64::from_bits(bits), start_timestamp: 0 });
        let key = SeriesKey::Labels(&labels[series as usize]);
        batch.series.push(BatchSeries { key, samples: at..at + 1, histograms: 0..0, exemplars: 0..0 });
    }
    let mut message = Vec::new();
    remote_write::v1::encode(&batch, &mut message).expect("labels are canonical");
    let headers = [
        ("Content-Type", "application/x-protobuf"),
        ("Content-Encoding", "snappy"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ];
    // Registered as indeterminate before it is sent: the check after a kill must know of it.
    {
        let mut oracles = shared.oracles[writer as usize].lock().expect("no thread panicked");
        for &(series, timestamp, bits) in &request.samples {
            oracles[series as usize].entry(timestamp).or_insert(Known { bits, state: State::Indeterminate });
        }
    }
    match client.post("/api/v1/write", &headers, &remote_write::compress(&message)) {
        Ok(response) if response.status == 204 => {
            shared.ok.fetch_add(1, Ordering::Relaxed);
            let mut oracles = shared.oracles[writer as usize].lock().expect("no thread panicked");
            for &(series, timestamp, _) in &request.samples {
                let known = oracles[series as usize].get_mut(&timestamp).expect("registered above");
                known.state = State::Stored;
            }
        }
        Ok(response) => {
            if shared.refused.fetch_add(1, Ordering::Relaxed) < 3 {
                eprintln!("\nrefused with {}: {}", response.status, response.text());
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            shared.failed.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(_) => {
            shared.indeterminate.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Deletes a stretch of one series of this writer. Its own writes wait meanwhile, so an acknowledged
/// deletion is certain; after one without an answer everything in the stretch may be gone or there.
fn delete(shared: &Shared, client: &mut Client, writer: u32, random: &mut Random) {
    let mut oracles = shared.oracles[writer as usize].lock().expect("no thread panicked");
    let series = random.below(oracles.len() as u64) as usize;
    let newest = shared.ticks.load(Ordering::Relaxed);
    let from = shared.base + (newest - random.below(2_000) as i64) * STEP_MS;
    let to = from + random.below(60_000) as i64;
    let affected: Vec<i64> = oracles[series].range(from..=to).map(|(&t, _)| t).collect();
    let selector = format!("{METRIC}{{writer=\"{writer}\",series=\"{series}\"}}");
    let path = format!(
        "/api/v1/admin/tsdb/delete_series?match[]={}&start={}&end={}",
        encode_component(&selector),
        seconds(from),
        seconds(to)
    );
    shared.deleting.fetch_add(1, Ordering::SeqCst);
    let answer = client.post(&path, &[], &[]);
    shared.deleting.fetch_sub(1, Ordering::SeqCst);
    let state = match answer {
        Ok(response) if response.status == 204 => State::Deleted,
        Ok(response) => {
            eprintln!("\ndeletion refused with {}: {}", response.status, response.text());
            return;
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
        Err(_) => State::Indeterminate,
    };
    shared.deletions.fetch_add(1, Ordering::Relaxed);
    for timestamp in affected {
        oracles[series].get_mut(&timestamp).expect("the lock was held").state = state;
    }
}

fn seconds(timestamp: i64) -> String {
    format!("{}.{:03}", timestamp.div_euclid(1000), timestamp.rem_euclid(1000))
}

/// Reads every series back and compares it with what is known.
fn verify(shared: &Shared, args: &Args, whole: bool) -> Result<(), String> {
    let authority = shared.authority.lock().expect("no thread panicked").clone();
    let mut client = Client::new(authority, Duration::from_secs(60));
    for writer in 0..args.writers {
        // Writers of this number wait while their series are compared.
        let oracles = shared.oracles[writer as usize].lock().expect("no thread panicked");
        let newest = shared.base + shared.ticks.load(Ordering::Relaxed) * STEP_MS + 60_000;
        let from = if whole { shared.base - 200_000 * STEP_MS } else { newest - 1_200_000 };
        let stored = read_back(&mut client, writer, from, newest)?;
        for (series, oracle) in oracles.iter().enumerate() {
            let empty = BTreeMap::new();
            let stored = stored.get(&(series as u32)).unwrap_or(&empty);
            compare(writer, series, oracle, stored, from, newest)?;
        }
    }
    Ok(())
}

fn compare(
    writer: u32,
    series: usize,
    oracle: &Oracle,
    stored: &BTreeMap<i64, u64>,
    from: i64,
    to: i64,
) -> Result<(), String> {
    for (timestamp, known) in oracle.range(from + 1..=to) {
        // Raw reads leave staleness markers out.
        if is_stale(f64::from_bits(known.bits)) {
            continue;
        }
        match (stored.get(timestamp), known.state) {
            (Some(bits), State::Stored | State::Indeterminate) if *bits == known.bits => {}
            (None, State::Indeterminate | State::Deleted) => {}
            (found, state) => {
                return Err(format!(
                    "writer {writer} series {series} at {timestamp}: {state:?} {} but found {:?}",
                    f64::from_bits(known.bits),
                    found.map(|&bits| f64::from_bits(bits))
                ));
            }
        }
    }
    match stored.keys().find(|timestamp| !oracle.contains_key(timestamp)) {
        Some(timestamp) => Err(format!("writer {writer} series {series} at {timestamp}: invented")),
        None => Ok(()),
    }
}

/// Samples of all series of a writer in `(from, to]`.
fn read_back(
    client: &mut Client,
    writer: u32,
    from: i64,
    to: i64,
) -> Result<BTreeMap<u32, BTreeMap<i64, u64>>, String> {
    let query = format!("{METRIC}{{writer=\"{writer}\"}}[{}ms]", to - from);
    let path = format!("/api/v1/query?time={}&query={}", seconds(to), encode_component(&query));
    let response = client.get(&path).map_err(|e| format!("query: {e}"))?;
    if response.status != 200 {
        return Err(format!("query answered {}: {}", response.status, response.text()));
    }
    let answer: serde_json::Value = serde_json::from_slice(&response.body).map_err(|e| e.to_string())?;
    if let Some(warnings) = answer.get("warnings") {
        return Err(format!("query warned: {warnings}"));
    }
    let result = answer["data"]["result"].as_array().ok_or("the answer has no result")?;
    let mut all = BTreeMap::new();
    for series in result {
        let number =
            series["metric"]["series"].as_str().and_then(|s| s.parse().ok()).ok_or("no series label")?;
        let mut samples = BTreeMap::new();
        for point in series["values"].as_array().into_iter().flatten() {
            let timestamp = (point[0].as_f64().ok_or("no timestamp")? * 1000.0).round() as i64;
            let value: f64 = point[1].as_str().and_then(|s| s.parse().ok()).ok_or("no value")?;
            samples.insert(timestamp, value.to_bits());
        }
        all.insert(number, samples);
    }
    Ok(all)
}
