//! A full disk: writes are turned away with 503 and Retry-After, queries go on, and once there is space
//! the server resumes by itself; nothing acknowledged is lost, also not over a restart.
//!
//! Needs the right to mount a small tmpfs, or `--dir` on a small file system of its own.
//!
//! `cargo run --release -p chronolith-benches --bin fulldisk -- --server target/release/chronolith`

use chronolith_benches::http::{Client, encode_component};
use chronolith_benches::process::{Process, free_port};
use chronolith_model::Labels;
use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey};
use chronolith_wire::remote_write;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Parser)]
#[command(about = "Fills the disk under a server and checks that it says so, keeps answering, and resumes")]
struct Args {
    /// The server's binary.
    #[arg(long)]
    server: String,
    /// A folder on a small file system; a tmpfs is mounted if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Size of the tmpfs in MiB.
    #[arg(long, default_value_t = 256)]
    size_mib: u32,
}

/// Series written; each request holds one sample of each.
const N_SERIES: u32 = 1000;
const METRIC: &str = "full_disk_value";
/// How long writes may be refused once there is space again: the server asks the disk five times a second,
/// then seals what is in memory. Busy machines get their share.
const RESUME_WITHIN: Duration = Duration::from_secs(2);

/// A mounted tmpfs, unmounted at the end.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn main() -> Result<(), String> {
    let args = Args::parse();
    let temporary = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (root, _mount) = match &args.dir {
        Some(dir) => (dir.clone(), None),
        None => {
            let dir = temporary.path().join("small");
            std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={}m", args.size_mib), "tmpfs"])
                .arg(&dir)
                .status();
            if !mounted.is_ok_and(|status| status.success()) {
                println!(
                    "SKIPPED: mounting a tmpfs is not permitted here; give --dir on a small file system"
                );
                return Ok(());
            }
            (dir.clone(), Some(Mount(dir)))
        }
    };
    run(&args, &root, temporary.path())
}

fn run(args: &Args, root: &Path, logs: &Path) -> Result<(), String> {
    // A third of the space goes to a file that is deleted later to make room.
    let filler = root.join("filler");
    let filler_bytes = u64::from(args.size_mib) * (1 << 20) / 3;
    std::fs::write(&filler, vec![1u8; filler_bytes as usize]).map_err(|e| format!("filler: {e}"))?;
    std::fs::write(logs.join("empty.yml"), "global:\n  scrape_interval: 1m\n").map_err(|e| e.to_string())?;
    let mut server = start(args, root, logs)?;
    let mut client = Client::new(server.authority.clone(), Duration::from_secs(30));
    let labels: Vec<Labels> = (0..N_SERIES)
        .map(|i| {
            Labels::from_pairs([("__name__", METRIC.to_owned()), ("i", i.to_string())]).expect("names differ")
        })
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_millis() as i64;
    let base = now - 86_400_000;

    let mut acknowledged: Vec<i64> = Vec::new();
    let mut tick = 0i64;
    let begin = Instant::now();
    let retry_after = loop {
        if begin.elapsed() > Duration::from_secs(120) {
            return Err(format!("the disk did not fill up within 120 s ({} requests)", acknowledged.len()));
        }
        tick += 1;
        let timestamp = base + tick * 1000;
        let response =
            client.post("/api/v1/write", &HEADERS, &body(&labels, timestamp)).map_err(|e| e.to_string())?;
        match response.status {
            204 => acknowledged.push(timestamp),
            503 => break response.header("retry-after").map(str::to_owned),
            status => return Err(format!("a full disk answered {status}: {}", response.text())),
        }
    };
    println!("full after {} requests; Retry-After {retry_after:?}", acknowledged.len());
    let retry_after = retry_after.ok_or("503 without Retry-After")?;
    retry_after.parse::<u64>().map_err(|_| format!("Retry-After {retry_after:?} is no number"))?;

    for _ in 0..20 {
        let health = client.get("/-/healthy").map_err(|e| format!("full disk, /-/healthy: {e}"))?;
        if health.status != 200 {
            return Err(format!("/-/healthy answered {} on a full disk", health.status));
        }
        check(&mut client, &acknowledged).map_err(|e| format!("on the full disk: {e}"))?;
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("queries answered on the full disk");

    std::fs::remove_file(&filler).map_err(|e| e.to_string())?;
    let freed = Instant::now();
    loop {
        if freed.elapsed() > Duration::from_secs(30) {
            return Err("writes were still refused 30 s after space was freed".to_owned());
        }
        tick += 1;
        let timestamp = base + tick * 1000;
        let response =
            client.post("/api/v1/write", &HEADERS, &body(&labels, timestamp)).map_err(|e| e.to_string())?;
        if response.status == 204 {
            acknowledged.push(timestamp);
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let resumed = freed.elapsed();
    println!("resumed {resumed:?} after space was freed, without a restart");
    if resumed > RESUME_WITHIN {
        return Err(format!(
            "writes were refused for {resumed:?} after space was freed, not {RESUME_WITHIN:?}"
        ));
    }
    for _ in 0..50 {
        tick += 1;
        let timestamp = base + tick * 1000;
        let response =
            client.post("/api/v1/write", &HEADERS, &body(&labels, timestamp)).map_err(|e| e.to_string())?;
        if response.status == 204 {
            acknowledged.push(timestamp);
        }
    }
    check(&mut client, &acknowledged).map_err(|e| format!("after resuming: {e}"))?;
    server.kill();
    let mut server = start(args, root, logs)?;
    let mut client = Client::new(server.authority.clone(), Duration::from_secs(30));
    check(&mut client, &acknowledged).map_err(|e| format!("after kill -9 and restart: {e}"))?;
    server.terminate(Duration::from_secs(20));
    println!("1 passed, 0 failed");
    Ok(())
}

const HEADERS: [(&str, &str); 3] = [
    ("Content-Type", "application/x-protobuf"),
    ("Content-Encoding", "snappy"),
    ("X-Prometheus-Remote-Write-Version", "0.1.0"),
];

fn start(args: &Args, root: &Path, logs: &Path) -> Result<Process, String> {
    let authority = format!("127.0.0.1:{}", free_port());
    let arguments: Vec<String> = [
        format!("--config.file={}", logs.join("empty.yml").display()),
        format!("--storage.tsdb.path={}", root.join("data").display()),
        "--storage.tsdb.retention.time=30d".to_owned(),
        format!("--web.listen-address={authority}"),
    ]
    .into();
    let mut process = Process::start(&args.server, &arguments, authority, &logs.join("server.log"))
        .map_err(|e| e.to_string())?;
    process.wait_until_ready("/-/ready", Duration::from_secs(60))?;
    Ok(process)
}

/// Values without any pattern, so that the disk fills quickly.
fn value_of(series: u32, timestamp: i64) -> f64 {
    let mixed = (timestamp as u64 ^ (u64::from(series) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    f64::from_bits((mixed ^ (mixed >> 29)) >> 2 | 0x3000_0000_0000_0000)
}

fn body(labels: &[Labels], timestamp: i64) -> Vec<u8> {
    let mut batch = AppendBatch::default();
    for (series, labels) in (0u32..).zip(labels) {
        batch.samples.push(Sample { timestamp, value: value_of(series, timestamp), start_timestamp: 0 });
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
    remote_write::compress(&message)
}

/// Every acknowledged sample of one series is there, with its value, and no other but those of requests
/// without a clear answer.
fn check(client: &mut Client, acknowledged: &[i64]) -> Result<(), String> {
    let (Some(&first), Some(&last)) = (acknowledged.first(), acknowledged.last()) else { return Ok(()) };
    let series = (last / 1000 % i64::from(N_SERIES)) as u32;
    let query = format!("{METRIC}{{i=\"{series}\"}}[{}ms]", last - first + 1000);
    let path = format!("/api/v1/query?query={}&time={}", encode_component(&query), last as f64 / 1000.0);
    let response = client.get(&path).map_err(|e| e.to_string())?;
    if response.status != 200 {
        return Err(format!("query answered {}: {}", response.status, response.text()));
    }
    let answer: serde_json::Value = serde_json::from_slice(&response.body).map_err(|e| e.to_string())?;
    let stored: std::collections::HashMap<i64, f64> = answer["data"]["result"][0]["values"]
        .as_array()
        .ok_or("no values")?
        .iter()
        .filter_map(|point| {
            let timestamp = (point[0].as_f64()? * 1000.0).round() as i64;
            Some((timestamp, point[1].as_str()?.parse().ok()?))
        })
        .collect();
    for &timestamp in acknowledged {
        match stored.get(&timestamp) {
            Some(value) if value.to_bits() == value_of(series, timestamp).to_bits() => {}
            found => return Err(format!("series {series} at {timestamp}: acknowledged, found {found:?}")),
        }
    }
    Ok(())
}
