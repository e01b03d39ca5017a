//! Hostile queries, many at once, by clients of whom some never read their answers: `/-/healthy` answers
//! in under a second throughout, memory stays below a limit, samples are taken, and once it is over the
//! server answers as before.
//!
//! `cargo run --release -p chronolith-benches --bin hostile -- --server target/release/chronolith`

use chronolith_benches::http::{Client, encode_component};
use chronolith_benches::process::{Process, free_port};
use chronolith_model::Labels;
use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey};
use chronolith_wire::remote_write;
use clap::Parser;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Parser)]
#[command(about = "Fires hostile queries at a server and checks that it stays well")]
struct Args {
    /// The server's binary.
    #[arg(long)]
    server: String,
    /// How long to fire.
    #[arg(long, default_value_t = 25)]
    seconds: u64,
    /// Series in the store, a multiple of 1000.
    #[arg(long, default_value_t = 100_000)]
    series: u32,
    /// Clients that fire at once.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Largest resident memory of the server in MiB.
    #[arg(long, default_value_t = 1400)]
    limit_mib: u64,
    /// Only the query with this number, to see what it does.
    #[arg(long)]
    only: Option<usize>,
}

/// The server's budgets. What is not in them (the program, its threads, buffers of connections, what the
/// allocator keeps for later) has to fit between their sum and `--limit-mib`.
const BUDGETS: [&str; 5] = [
    "--storage.memory-budget=256MB",
    "--query.max-memory=256MB",
    "--query.max-total-memory=512MB",
    "--query.timeout=10s",
    "--query.max-concurrency=20",
];

/// Health may take this long, the time until the poller runs again included.
const HEALTHY: Duration = Duration::from_secs(1);
const SAMPLE_INTERVAL_MS: i64 = 300_000;
const N_SAMPLES: i64 = 12;
const SERIES_PER_METRIC: u32 = 1000;
/// Clients that send a query for everything and never read.
const N_UNREADING: usize = 8;

/// One query: its text, and for a range query its length and step in seconds.
struct Hostile {
    text: String,
    range: Option<(i64, i64)>,
}

fn corpus() -> Vec<Hostile> {
    const YEAR: i64 = 365 * 86_400;
    let all = "{__name__=~\".+\"}";
    let at = |text: &str| Hostile { text: text.to_owned(), range: None };
    let over =
        |text: &str, length: i64, step: i64| Hostile { text: text.to_owned(), range: Some((length, step)) };
    let nested = |inner: &str, n: usize, wrap: &dyn Fn(&str) -> String| {
        let mut text = inner.to_owned();
        for _ in 0..n {
            text = wrap(&text);
        }
        text
    };
    let doubled = nested("m_1", 60, &|t| format!("label_replace({t}, \"a\", \"$1$1x\", \"a\", \"(.*)\")"));
    let joined = nested("m_1", 40, &|t| {
        format!("label_join({t}, \"a\", \"{}\", \"a\", \"a\", \"instance\")", "-".repeat(50))
    });
    let parentheses = format!("{}1{}", "(".repeat(490), ")".repeat(490));
    let subqueries = nested("m_1", 12, &|t| format!("max_over_time(({t})[1h:1s])"));
    vec![
        at(all),
        at(&format!("{all}[1y]")),
        over(all, YEAR, 3600),
        over(&format!("rate({all}[1d])"), YEAR, 3600),
        over(&format!("{all} * on(instance) group_left(job) {all}"), 3600, 15),
        at(&format!("{all} * on() group_left() {all}")),
        at(&format!("{all} + on() group_right(instance) {all}")),
        at(&format!("{all} and on() {all} or {all} unless {all}")),
        over("m_1 + ignoring(instance) group_left m_2", 3600, 1),
        over(&format!("count_values(\"v\", time() + {all})"), 3600, 15),
        at(&format!("count_values(\"v\", {all})")),
        at(&format!("count_values without() (\"instance\", {all})")),
        at(&doubled),
        over(&doubled, 3600, 15),
        at(&joined),
        at(&parentheses),
        at(&format!("{}m_1", "-".repeat(400))),
        at(&nested("m_1", 200, &|t| format!("abs({t})"))),
        at(&subqueries),
        over("quantile_over_time(0.5, m_1[1h:1s])", YEAR, 3600),
        over("sum_over_time(vector(1)[1y:1s])", 3600, 15),
        at("sum_over_time(vector(1)[50y:1ms])"),
        at(&format!("quantile(0.5, {all})")),
        over(&format!("quantile by (instance) (0.9, {all})"), 11_000, 1),
        over(&format!("topk(100000, {all})"), 11_000, 1),
        over(&format!("sort(limitk(1000000, {all}))"), 11_000, 1),
        at(&format!("{all} @ 0 or {all} @ 9223372036 or {all} @ -9223372036")),
        at(&format!("{all} offset 290y or {all} offset -290y")),
        over(&format!("{all} @ end() - {all} @ start()"), 11_000, 1),
        at("m_1{instance=~\"(a*)*b\"}"),
        at("m_1{instance=~\"(x+x+)+y\"}"),
        at("{__name__=~\"m_.*\", instance=~\"((.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*))+5\"}"),
        at("{__name__=~\"(.{1,200}){1,200}\"}"),
        at(&format!("m_1{{instance=~\"{}\"}}", vec!["i[0-9]+x"; 5000].join("|"))),
        at(&format!("label_replace({all}, \"x\", \"$1\", \"instance\", \"((((.*)*)*)*)\")")),
        at(&vec!["m_1"; 2000].join(" or ")),
        over(&vec!["m_1"; 500].join(" + "), 3600, 15),
        at(&vec!["1"; 300_000].join("+")),
        at(&format!("m_1{{a=\"{}\"}}", "x".repeat(1_000_000))),
        at(&format!("\"{}\"", "<".repeat(1_000_000))),
        at(&"a".repeat(1 << 20)),
        at(&"(".repeat(1 << 20)),
        at(&format!("sort_by_label({all}, \"instance\", \"job\")")),
        at(&format!("absent({all}) or scalar({all}) + {all}")),
        over(&format!("histogram_quantile(0.9, {all})"), 3600, 15),
        over(&format!("holt_winters({all}[1h], 0.5, 0.5)"), 3600, 15),
        over(
            &format!("sum by (instance) (rate({all}[5m])) / ignoring(job) group_left sum({all})"),
            86_400,
            60,
        ),
    ]
}

fn main() -> Result<(), String> {
    let args = Args::parse();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut server = start(&args.server, folder.path())?;
    let cgroup = Cgroup::around(server.pid(), args.limit_mib);
    let begin = now_ms() - N_SAMPLES * SAMPLE_INTERVAL_MS;
    let metrics = args.series / SERIES_PER_METRIC;
    for tick in 0..N_SAMPLES {
        write_all(&server.authority, metrics, begin + tick * SAMPLE_INTERVAL_MS)?;
    }
    println!(
        "{} series, {} samples each; resident {} MiB",
        args.series,
        N_SAMPLES,
        resident_mib(server.pid()).1
    );
    let end_ms = begin + (N_SAMPLES - 1) * SAMPLE_INTERVAL_MS;
    let before = ask_sanity(&server.authority, end_ms, args.series)?;

    let fired = fire(&args, &server.authority, server.pid(), end_ms, metrics)?;
    println!(
        "{} queries: {:?}; health at most {:?} over {} looks; {} writes, at most {:?}; peak resident {} MiB",
        fired.n_queries,
        fired.statuses,
        fired.slowest_health,
        fired.n_health,
        fired.n_writes,
        fired.slowest_write,
        resident_mib(server.pid()).1
    );
    let mut failures = fired.failures;
    if !server.is_running() {
        failures.push("the server is gone".to_owned());
        return report(&failures);
    }
    let (_, peak_mib) = resident_mib(server.pid());
    if peak_mib > args.limit_mib {
        failures.push(format!("the server took {peak_mib} MiB, the limit is {} MiB", args.limit_mib));
    }
    if fired.slowest_health > HEALTHY {
        failures.push(format!("/-/healthy took {:?}", fired.slowest_health));
    }
    wait_until_idle(&server.authority)?;
    let after = ask_sanity(&server.authority, end_ms, args.series)?;
    println!("the same query took {before:?} before and {after:?} after");
    if server.terminate(Duration::from_secs(30)).is_none() {
        failures.push("the server did not stop within 30 s".to_owned());
    }
    drop(cgroup);
    report(&failures)
}

fn report(failures: &[String]) -> Result<(), String> {
    println!("{} passed, {} failed", usize::from(failures.is_empty()), failures.len());
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

struct Fired {
    n_queries: usize,
    statuses: BTreeMap<String, usize>,
    n_health: usize,
    slowest_health: Duration,
    n_writes: usize,
    slowest_write: Duration,
    failures: Vec<String>,
}

fn fire(args: &Args, authority: &str, pid: u32, end_ms: i64, metrics: u32) -> Result<Fired, String> {
    let corpus: Vec<Hostile> = match args.only {
        Some(number) => corpus().into_iter().skip(number).take(1).collect(),
        None => corpus(),
    };
    let paths: Vec<(String, String)> = corpus.iter().map(|query| form(query, end_ms)).collect();
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let statuses = Mutex::new(BTreeMap::<String, usize>::new());
    let failures = Mutex::new(Vec::new());
    let (mut health, mut writes) = ((0, Duration::ZERO), (0, Duration::ZERO));

    let unread: Vec<TcpStream> = (0..N_UNREADING)
        .filter_map(|at| send_and_leave(authority, &paths[at % paths.len().min(4)]))
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..args.clients {
            scope.spawn(|| {
                let mut client = Client::new(authority.to_owned(), Duration::from_secs(30));
                while Instant::now() < until {
                    let number = next.fetch_add(1, Ordering::Relaxed) % paths.len();
                    let (path, body) = &paths[number];
                    let started = Instant::now();
                    let status = match client.post(path, &FORM, body.as_bytes()) {
                        Ok(response) if matches!(response.status, 200 | 400 | 422 | 499 | 503) => {
                            response.status.to_string()
                        }
                        Ok(response) => {
                            let text: String = response.text().chars().take(300).collect();
                            failures
                                .lock()
                                .unwrap()
                                .push(format!("query {number}: {}: {text}", response.status));
                            response.status.to_string()
                        }
                        Err(error) => {
                            // An answer is given up where it would take the memory of others.
                            format!("no answer ({})", error.to_string().chars().take(60).collect::<String>())
                        }
                    };
                    // The timeout is ten seconds; nothing may go on for long after it.
                    if started.elapsed() > Duration::from_secs(20) {
                        failures.lock().unwrap().push(format!("query {number} took {:?}", started.elapsed()));
                    }
                    *statuses.lock().unwrap().entry(status).or_default() += 1;
                }
            });
        }
        let poller = scope.spawn(|| {
            let mut client = Client::new(authority.to_owned(), Duration::from_secs(30));
            let (mut n, mut slowest) = (0, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                let answer = client.get("/-/healthy");
                slowest = slowest.max(started.elapsed());
                n += 1;
                if !answer.is_ok_and(|answer| answer.status == 200) {
                    failures.lock().unwrap().push("/-/healthy failed".to_owned());
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            (n, slowest)
        });
        let writer = scope.spawn(|| {
            let (mut n, mut slowest) = (0, Duration::ZERO);
            let mut timestamp = end_ms;
            while !stop.load(Ordering::Relaxed) {
                timestamp += 1000;
                let started = Instant::now();
                if let Err(error) = write_metrics(authority, 0..metrics.min(10), timestamp) {
                    failures.lock().unwrap().push(format!("a write failed: {error}"));
                    break;
                }
                slowest = slowest.max(started.elapsed());
                n += 1;
                std::thread::sleep(Duration::from_millis(500));
            }
            (n, slowest)
        });
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
            if resident_mib(pid).0 > args.limit_mib {
                failures.lock().unwrap().push(format!("resident memory reached {} MiB", resident_mib(pid).0));
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        health = poller.join().unwrap_or_default();
        writes = writer.join().unwrap_or_default();
    });
    drop(unread);
    Ok(Fired {
        n_queries: next.load(Ordering::Relaxed),
        statuses: statuses.into_inner().unwrap_or_default(),
        n_health: health.0,
        slowest_health: health.1,
        n_writes: writes.0,
        slowest_write: writes.1,
        failures: failures.into_inner().unwrap_or_default(),
    })
}

const FORM: [(&str, &str); 1] = [("Content-Type", "application/x-www-form-urlencoded")];

fn form(query: &Hostile, end_ms: i64) -> (String, String) {
    let text = encode_component(&query.text);
    let end = end_ms / 1000;
    match query.range {
        None => ("/api/v1/query".to_owned(), format!("query={text}&time={end}")),
        Some((length, step)) => {
            let body = format!("query={text}&start={}&end={end}&step={step}", end - length);
            ("/api/v1/query_range".to_owned(), body)
        }
    }
}

/// Sends a query and reads nothing.
fn send_and_leave(authority: &str, (path, body): &(String, String)) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(authority).ok()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    Some(stream)
}

/// A query that reads everything, and how long it took.
fn ask_sanity(authority: &str, end_ms: i64, series: u32) -> Result<Duration, String> {
    let mut client = Client::new(authority.to_owned(), Duration::from_secs(30));
    let query = encode_component("count({job=\"hostile\"})");
    let started = Instant::now();
    let answer = client
        .get(&format!("/api/v1/query?query={query}&time={}", end_ms / 1000))
        .map_err(|e| e.to_string())?;
    let took = started.elapsed();
    let json: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
    let found = json["data"]["result"][0]["value"][1].as_str().unwrap_or("");
    if found != series.to_string() {
        return Err(format!("{series} series were written, the server counts {found:?}: {}", answer.text()));
    }
    Ok(took)
}

/// All clients are gone: soon no query may be left.
fn wait_until_idle(authority: &str) -> Result<(), String> {
    let mut client = Client::new(authority.to_owned(), Duration::from_secs(30));
    let started = Instant::now();
    loop {
        let answer = client.get("/api/v1/status/active_queries").map_err(|e| e.to_string())?;
        let json: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
        if json["data"].as_array().is_some_and(Vec::is_empty) {
            println!("no query left after {:?}", started.elapsed());
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(5) {
            return Err(format!("queries of clients that are gone: {}", json["data"]));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(server: &str, folder: &Path) -> Result<Process, String> {
    let authority = format!("127.0.0.1:{}", free_port());
    let config = folder.join("empty.yml");
    std::fs::write(&config, "global:\n  scrape_interval: 1m\n").map_err(|e| e.to_string())?;
    let mut arguments = vec![
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", folder.join("data").display()),
        format!("--web.listen-address={authority}"),
    ];
    arguments.extend(BUDGETS.map(str::to_owned));
    let mut process = Process::start(server, &arguments, authority, &folder.join("server.log"))
        .map_err(|e| e.to_string())?;
    process.wait_until_ready("/-/ready", Duration::from_secs(60))?;
    Ok(process)
}

fn write_all(authority: &str, metrics: u32, timestamp: i64) -> Result<(), String> {
    for first in (0..metrics).step_by(10) {
        write_metrics(authority, first..metrics.min(first + 10), timestamp)?;
    }
    Ok(())
}

/// One sample of each series of some metrics.
fn write_metrics(authority: &str, metrics: std::ops::Range<u32>, timestamp: i64) -> Result<(), String> {
    let labels: Vec<Labels> = metrics
        .flat_map(|metric| (0..SERIES_PER_METRIC).map(move |instance| (metric, instance)))
        .map(|(metric, instance)| {
            let pairs = [
                ("__name__", format!("m_{metric}")),
                ("instance", format!("i{instance}")),
                ("job", "hostile".to_owned()),
            ];
            Labels::from_pairs(pairs).expect("names differ")
        })
        .collect();
    let mut batch = AppendBatch::default();
    for (series, labels) in (0u32..).zip(&labels) {
        let value = f64::from(series % 977) * 0.25 + (timestamp / 1000 % 100) as f64;
        batch.samples.push(Sample { timestamp, value, start_timestamp: 0 });
        let key = SeriesKey::Labels(labels);
        batch.series.push(BatchSeries {
            key,
            samples: series..series + 1,
            histograms: 0..0,
            exemplars: 0..0,
        });
    }
    let mut message = Vec::new();
    remote_write::v1::encode(&batch, &mut message).expect("labels are canonical");
    let headers = [
        ("Content-Type", "application/x-protobuf"),
        ("Content-Encoding", "snappy"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ];
    let mut client = Client::new(authority.to_owned(), Duration::from_secs(30));
    let answer = client
        .post("/api/v1/write", &headers, &remote_write::compress(&message))
        .map_err(|e| e.to_string())?;
    if answer.status == 204 { Ok(()) } else { Err(format!("{}: {}", answer.status, answer.text())) }
}

/// Resident memory of a process, now and at most so far.
fn resident_mib(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (field("VmRSS:").unwrap_or(0) / 1024, field("VmHWM:").unwrap_or(0) / 1024)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(0)
}

/// A group of the kernel that ends the server if it takes more than the limit, where we may make one.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn around(pid: u32, limit_mib: u64) -> Option<Self> {
        let path = Path::new("/sys/fs/cgroup").join(format!("chronolith-hostile-{pid}"));
        let made = std::fs::create_dir(&path)
            .and_then(|()| std::fs::write(path.join("memory.max"), (limit_mib << 20).to_string()))
            .and_then(|()| std::fs::write(path.join("cgroup.procs"), pid.to_string()));
        let group = Self(path);
        match made {
            Ok(()) => {
                println!("the kernel ends the server at {limit_mib} MiB");
                Some(group)
            }
            Err(error) => {
                println!("no group of the kernel ({error}): memory is measured only");
                None
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Fails as long as the server runs, after an error; an empty group does no harm.
        let _ = std::fs::remove_dir(&self.0);
    }
}
