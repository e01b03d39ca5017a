//! The main job on real programs: a real Prometheus scrapes a real node_exporter and remote-writes to
//! the server, which scrapes node_exporter and itself as well; then ten dashboard queries over the
//! remote-written series are asked of both, and every point must be equal.
//!
//! Steps lie off the scrape grid, because Prometheus before 3.0 has windows that are closed on the left.
//!
//! `cargo run --release -p chronolith-benches --bin sidebyside -- --server target/release/chronolith`

use chronolith_benches::http::{Client, encode_component};
use chronolith_benches::process::{Process, free_port};
use clap::Parser;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Parser)]
#[command(
    about = "Compares dashboard queries over remote-written series with the Prometheus that wrote them"
)]
struct Args {
    /// The server's binary.
    #[arg(long)]
    server: String,
    /// Prometheus.
    #[arg(long, default_value = "prometheus")]
    prometheus: String,
    /// node_exporter.
    #[arg(long, default_value = "prometheus-node-exporter")]
    node_exporter: String,
    /// How long to collect before comparing.
    #[arg(long, default_value_t = 150)]
    collect_s: u64,
    /// Keep everything in this folder instead of a temporary one.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What dashboards of machines and of Prometheus itself ask.
const QUERIES: [(&str, &str); 12] = [
    ("CPU by mode", r#"sum by (mode) (rate(node_cpu_seconds_total{job="node"}[1m]))"#),
    (
        "CPU busy share",
        r#"100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{job="node",mode="idle"}[1m])))"#,
    ),
    (
        "memory used share",
        r#"(1 - node_memory_MemAvailable_bytes{job="node"} / node_memory_MemTotal_bytes{job="node"}) * 100"#,
    ),
    (
        "disk free share",
        r#"node_filesystem_avail_bytes{job="node"} / on (instance, device, mountpoint) node_filesystem_size_bytes{job="node"}"#,
    ),
    ("disk writes", r#"topk(3, sum by (device) (rate(node_disk_written_bytes_total{job="node"}[1m])))"#),
    ("network", r#"irate(node_network_receive_bytes_total{job="node",device!~"veth.*"}[1m]) * 8"#),
    (
        "latency quantile",
        r#"histogram_quantile(0.9, sum by (le, handler) (rate(prometheus_http_request_duration_seconds_bucket{job="prometheus"}[1m])))"#,
    ),
    (
        "join with machine facts",
        r#"node_load1{job="node"} * on (instance) group_left (nodename, release) node_uname_info{job="node"}"#,
    ),
    (
        "running samples",
        r#"avg_over_time(node_load1{job="node"}[1m]) - min_over_time(node_load1{job="node"}[1m])"#,
    ),
    ("up", r#"count by (job) (up{job=~"node|prometheus"} == 1) or vector(0)"#),
    ("subquery", r#"max_over_time(rate(node_context_switches_total{job="node"}[30s])[1m:10s])"#),
    ("head samples", r#"deriv(prometheus_tsdb_head_samples_appended_total{job="prometheus"}[1m]) > 0"#),
];

fn main() -> Result<(), String> {
    let args = Args::parse();
    let temporary = tempfile::tempdir().map_err(|e| e.to_string())?;
    let root = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&root).map_err(|e| e.to_string())?;
    let address = || format!("127.0.0.1:{}", free_port());
    let (node, prometheus, ours) = (address(), address(), address());

    write(&root.join("ours.yml"), &our_config(&node, &ours))?;
    write(&root.join("prometheus.yml"), &prometheus_config(&node, &prometheus, &ours))?;
    let mut node_exporter = Process::start(
        &args.node_exporter,
        &[format!("--web.listen-address={node}")],
        node.clone(),
        &root.join("node.log"),
    )
    .map_err(|e| e.to_string())?;
    node_exporter.wait_until_ready("/metrics", Duration::from_secs(20))?;
    let mut server = Process::start(
        &args.server,
        &[
            format!("--config.file={}", root.join("ours.yml").display()),
            format!("--storage.tsdb.path={}", root.join("ours").display()),
            format!("--web.listen-address={ours}"),
        ],
        ours.clone(),
        &root.join("ours.log"),
    )
    .map_err(|e| e.to_string())?;
    server.wait_until_ready("/-/ready", Duration::from_secs(30))?;
    let mut peer = Process::start(
        &args.prometheus,
        &[
            format!("--config.file={}", root.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", root.join("prometheus").display()),
            format!("--web.listen-address={prometheus}"),
        ],
        prometheus.clone(),
        &root.join("prometheus.log"),
    )
    .map_err(|e| e.to_string())?;
    peer.wait_until_ready("/-/ready", Duration::from_secs(30))?;
    let begin = now_ms()?;
    println!("collecting for {} s in {}", args.collect_s, root.display());
    std::thread::sleep(Duration::from_secs(args.collect_s));

    let mut ours = Client::new(ours, Duration::from_secs(30));
    let mut theirs = Client::new(prometheus, Duration::from_secs(30));
    // Leave out the newest seconds: the sender batches for up to five.
    let end = now_ms()? - 12_000;
    // 137 ms off any scrape of whole seconds; the first minute has no full window.
    let start = begin.div_euclid(1000) * 1000 + 61_137;
    let mut failures = Vec::new();
    let mut points = 0;
    for (name, query) in QUERIES {
        match compare(&mut ours, &mut theirs, query, start, end) {
            Ok(0) => failures.push(format!("{name}: no points at all")),
            Ok(n) => {
                println!("equal   {n:>6} points  {name}");
                points += n;
            }
            Err(difference) => {
                println!("DIFFERS                {name}: {difference}");
                failures.push(name.to_owned());
            }
        }
    }
    for selector in
        [r#"up{job="direct"} == 1"#, r#"up{job="self"} == 1"#, r#"scrape_series_added{job="direct"}"#]
    {
        let result = query(&mut ours, &instant(selector, end))?;
        if result["data"]["result"].as_array().is_none_or(Vec::is_empty) {
            failures.push(format!("the server's own scrape gave nothing for {selector}"));
        }
    }
    println!(
        "{} passed, {} failed ({points} points compared)",
        QUERIES.len() - failures.len().min(QUERIES.len()),
        failures.len()
    );
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

fn our_config(node: &str, ours: &str) -> String {
    format!(
        "global:\n  scrape_interval: 5s\n  scrape_timeout: 4s\nscrape_configs:\n\
         - job_name: direct\n  static_configs:\n  - targets: ['{node}']\n\
         - job_name: self\n  static_configs:\n  - targets: ['{ours}']\n"
    )
}

fn prometheus_config(node: &str, prometheus: &str, ours: &str) -> String {
    format!(
        "global:\n  scrape_interval: 5s\n  scrape_timeout: 4s\nscrape_configs:\n\
         - job_name: node\n  static_configs:\n  - targets: ['{node}']\n\
         - job_name: prometheus\n  static_configs:\n  - targets: ['{prometheus}']\n\
         remote_write:\n- url: http://{ours}/api/v1/write\n  queue_config:\n    batch_send_deadline: 2s\n"
    )
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn now_ms() -> Result<i64, String> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_millis() as i64)
}

fn instant(text: &str, time: i64) -> String {
    format!("/api/v1/query?query={}&time={}", encode_component(text), time as f64 / 1000.0)
}

fn query(client: &mut Client, path: &str) -> Result<Value, String> {
    let response = client.get(path).map_err(|e| e.to_string())?;
    if response.status != 200 {
        return Err(format!("status {}: {}", response.status, response.text()));
    }
    serde_json::from_slice(&response.body).map_err(|e| e.to_string())
}

type Points = BTreeMap<String, BTreeMap<String, String>>;

/// How many points are equal, or the first difference.
fn compare(
    ours: &mut Client,
    theirs: &mut Client,
    text: &str,
    start: i64,
    end: i64,
) -> Result<usize, String> {
    let path = format!(
        "/api/v1/query_range?query={}&start={}&end={}&step=7",
        encode_component(text),
        start as f64 / 1000.0,
        end as f64 / 1000.0
    );
    let a = points(&query(ours, &path).map_err(|e| format!("ours: {e}"))?)?;
    let b = points(&query(theirs, &path).map_err(|e| format!("theirs: {e}"))?)?;
    if let Some(series) = a.keys().find(|series| !b.contains_key(*series)) {
        return Err(format!("only ours has {series}"));
    }
    let mut n = 0;
    for (series, theirs) in &b {
        let Some(ours) = a.get(series) else { return Err(format!("only theirs has {series}")) };
        let times: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for time in times {
            match (ours.get(time), theirs.get(time)) {
                (Some(a), Some(b)) if same(a, b) => n += 1,
                (a, b) => return Err(format!("{series} at {time}: ours {a:?}, theirs {b:?}")),
            }
        }
    }
    Ok(n)
}

/// Equal to the digit, or within rounding: 2.42 sums without compensation.
fn same(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
        _ => false,
    }
}

fn points(answer: &Value) -> Result<Points, String> {
    let result = answer["data"]["result"].as_array().ok_or("the answer has no result")?;
    let mut all = Points::new();
    for series in result {
        let values = series["values"].as_array().ok_or("a series has no values")?;
        let points = values
            .iter()
            .map(|point| (point[0].to_string(), point[1].as_str().unwrap_or_default().to_owned()))
            .collect();
        let labels: BTreeMap<String, Value> =
            serde_json::from_value(series["metric"].clone()).map_err(|e| e.to_string())?;
        all.insert(format!("{labels:?}"), points);
    }
    Ok(all)
}
