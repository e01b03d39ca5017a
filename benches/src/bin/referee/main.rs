//! A judge for PromQL: the same samples are remote-written to a real Prometheus and to the server, then random
//! and everyday queries are asked of both over HTTP, and the answers must agree.
//!
//! Each round has fresh servers and fresh random series. Samples lie off whole seconds and steps on them, because
//! Prometheus before 3.0 has windows that are closed on the left. Differences that are meant to be are listed in
//! `explained.rs` and `before_3.rs`, one by one, with the reasons in docs/decisions/0021-referee.md; any other one is a failure.
//!
//! `cargo run --release -p chronolith-benches --bin referee -- --server target/release/chronolith`

mod before_3;
mod compare;
mod explained;

use before_3::Case;
use chronolith_benches::http::{Client, encode_component};
use chronolith_benches::process::{Process, free_port};
use chronolith_model::append::{AppendBatch, BatchSeries, HistogramSample, Sample as FloatSample, SeriesKey};
use chronolith_model::histogram::Histogram;
use chronolith_model::{FloatHistogram, Labels, METRIC_NAME, is_stale, stale_nan};
use chronolith_query::SampleValue;
use chronolith_query::oracle::generate::{Mix, Question, Rng, World};
use chronolith_query::script::Sample;
use clap::Parser;
use compare::{Answer, Verdict};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Compares answers to PromQL queries with those of a real Prometheus")]
struct Args {
    /// The server's binary.
    #[arg(long)]
    server: String,
    /// Prometheus. From 3.0 on native histograms and experimental functions take part.
    #[arg(long, default_value = "prometheus")]
    prometheus: String,
    /// Rounds: fresh servers, fresh series.
    #[arg(long, default_value_t = 8)]
    rounds: u64,
    /// Random queries a round.
    #[arg(long, default_value_t = 150)]
    queries: usize,
    /// No new round after this many seconds.
    #[arg(long, default_value_t = 3600)]
    limit_s: u64,
    /// What everything random follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also print differences that are explained.
    #[arg(long)]
    verbose: bool,
    /// Ask this alone, at `--at` in milliseconds, and print both answers.
    #[arg(long)]
    ask: Option<String>,
    /// Time of `--ask`, or the first step.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    at: i64,
    /// Between steps of `--ask`; 0 for an instant query.
    #[arg(long, default_value_t = 0)]
    step: i64,
    /// Last step of `--ask`.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    until: i64,
}

/// Samples sent in one request, in time order over all series.
const SAMPLES_PER_REQUEST: usize = 2000;

/// Features of 3.x that random queries use. Whether names are removed late differs from round to round.
const FEATURES: &str = "promql-experimental-functions,promql-duration-expr,promql-extended-range-selectors,\
                        promql-binop-fill-modifiers,native-histograms";

/// What dashboards and alerts ask, over the metrics of the generator.
const EVERYDAY: [&str; 24] = [
    "jobs_total",
    "sum by (job) (rate(jobs_total[5m]))",
    "sum(increase(http_total[1h])) by (instance)",
    "topk(3, temp)",
    "avg without (instance) (temp)",
    "temp / on (job, instance) load",
    "load * on (job, instance) group_left (version) target_info",
    "histogram_quantile(0.9, sum by (le) (rate(lat_bucket[10m])))",
    "histogram_quantile(0.5, lat_bucket)",
    "max_over_time(temp[30m]) - min_over_time(temp[30m])",
    "absent(jobs_total{job=\"nobody\"})",
    "count by (job) (temp > 3)",
    "deriv(temp[20m])",
    "predict_linear(temp[20m], 3600)",
    "quantile(0.7, load)",
    "changes(fixed[1h])",
    "resets(jobs_total[1h])",
    "label_replace(temp, \"host\", \"$1\", \"instance\", \"(.*)\")",
    "avg_over_time(rate(jobs_total[5m])[30m:1m])",
    "jobs_total offset 10m",
    "errors_total or http_total",
    "jobs_total and on (job) (temp > 0)",
    "clamp_max(sort_desc(load), 5)",
    "sum(jobs_total) by (job) > bool 10",
];

fn main() -> Result<(), String> {
    let args = Args::parse();
    let version = version(&args.prometheus)?;
    println!("{} is {version}", args.prometheus);
    let started = Instant::now();
    let mut total = Tally::default();
    for round in 0..args.rounds {
        if started.elapsed() > Duration::from_secs(args.limit_s) {
            println!("time is up after {round} rounds");
            break;
        }
        let tally = run_round(&args, &version, args.seed.wrapping_add(round))?;
        println!("round {round}: {tally}");
        total.add(tally);
    }
    println!("all: {total} in {:.0} s", started.elapsed().as_secs_f64());
    for (reason, n) in &total.explained {
        println!("  {n:>6} explained: {reason}");
    }
    if total.n_differing > 0 {
        return Err(format!("{} answers differ", total.n_differing));
    }
    if total.n_points == 0 {
        return Err("nothing was compared".into());
    }
    Ok(())
}

/// How the answers compared.
#[derive(Debug, Default)]
struct Tally {
    n_equal: usize,
    /// Both refused the query.
    n_errors: usize,
    n_points: usize,
    n_differing: usize,
    explained: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.n_equal += other.n_equal;
        self.n_errors += other.n_errors;
        self.n_points += other.n_points;
        self.n_differing += other.n_differing;
        for (reason, n) in other.explained {
            *self.explained.entry(reason).or_default() += n;
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n_explained: usize = self.explained.values().sum();
        write!(
            f,
            "{} equal ({} points), {} refused by both, {n_explained} explained, {} DIFFER",
            self.n_equal, self.n_points, self.n_errors, self.n_differing
        )
    }
}

/// `2.42.0`.
fn version(program: &str) -> Result<Version, String> {
    let output = std::process::Command::new(program)
        .arg("--version")
        .output()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let number =
        text.split("version ").nth(1).unwrap_or("").split(['+', ',', ' ', '\n']).next().unwrap_or("");
    let mut parts = number.split('.').map(str::parse::<u32>);
    // A build without its version stamped in comes from newer sources than any release of Debian.
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok(Version { major, minor }),
        _ => Ok(Version { major: 3, minor: 14 }),
    }
}

/// Of a Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prometheus {}.{}", self.major, self.minor)
    }
}

fn run_round(args: &Args, version: &Version, seed: u64) -> Result<Tally, String> {
    let rng = &mut Rng::new(seed);
    let mix = if version.major >= 3 { Mix { start_timestamps: false, ..Mix::ALL } } else { Mix::CLASSIC };
    let world = World::new(rng, mix);
    let delayed = version.major >= 3 && rng.chance(50);
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (mut theirs, mut ours) = start(args, version, &world, delayed, folder.path())?;
    let (their_address, our_address) = (theirs.authority.clone(), ours.authority.clone());
    theirs.wait_until_ready("/-/ready", Duration::from_secs(30))?;
    ours.wait_until_ready("/-/ready", Duration::from_secs(30))?;
    let mut clients = [their_address, our_address].map(|at| Client::new(at, Duration::from_secs(60)));
    write_all(&world, &mut clients)?;

    if let Some(text) = &args.ask {
        let (start, end, interval_ms) = (args.at, args.until.max(args.at), args.step);
        let question = Question { text: text.clone(), start, end, interval_ms, range: interval_ms > 0 };
        for (client, name) in clients.iter_mut().zip(["theirs", "ours"]) {
            println!("{name}: {:#?}", ask(client, &question)?);
        }
        return Ok(Tally::default());
    }
    let mut questions: Vec<Question> = (0..args.queries).map(|_| world.question(rng, mix)).collect();
    for text in EVERYDAY {
        questions.push(Question { text: text.to_owned(), ..world.question(rng, mix) });
    }
    let mut tally = Tally::default();
    let bounds = world.series.iter().filter_map(|(labels, _)| labels.get("le")?.parse::<f64>().ok());
    let has_nan_bounds = { bounds }.any(f64::is_nan);
    for question in &questions {
        let mut answers = Vec::new();
        for client in &mut clients {
            answers.push(ask(client, question)?);
        }
        let [theirs, ours] = &answers[..] else { unreachable!("two clients, two answers") };
        match compare::compare(theirs, ours, *version) {
            Verdict::Equal { n_points } => {
                tally.n_equal += 1;
                tally.n_points += n_points;
            }
            Verdict::BothRefuse => tally.n_errors += 1,
            Verdict::Differ(difference) => {
                let answers = [theirs, ours];
                let mut reason = explained::reason(question, &difference, answers);
                if reason.is_none() && version.major < 3 {
                    let case = Case {
                        question,
                        difference: &difference,
                        answers,
                        has_nan_bounds,
                        version: *version,
                    };
                    let [a, b] = &mut clients;
                    reason = case.reason(&mut |question| Ok([ask(a, question)?, ask(b, question)?]))?;
                }
                let reason = match reason {
                    Some(reason) => Some(reason),
                    None => is_chance(&mut clients[0], question, ours, *version)?.then_some(CHANCE),
                };
                match reason {
                    Some(reason) => *tally.explained.entry(reason).or_default() += 1,
                    None => tally.n_differing += 1,
                }
                if reason.is_none() || args.verbose {
                    let Question { text, start, end, interval_ms, range } = question;
                    println!(
                        "{} seed {seed} late names {delayed}: {text}\n    from {start} to {end} step {interval_ms} \
                         range {range}: {difference}",
                        reason.map_or("DIFFERS".to_owned(), |reason| format!("explained ({reason})"))
                    );
                }
            }
        }
    }
    Ok(tally)
}

/// How often Prometheus is asked again where the answers differ.
const TRIES: usize = 100;

const CHANCE: &str = "the order of series in a map";

/// Whether Prometheus, asked the same again and again, gives our answer as well as its first one: its range queries
/// keep the series of operations in maps, whose order is another one each time.
fn is_chance(
    theirs: &mut Client,
    question: &Question,
    ours: &Answer,
    version: Version,
) -> Result<bool, String> {
    let limits =
        question.range && ["limitk", "topk", "bottomk"].iter().any(|name| question.text.contains(name));
    let mut answers = Vec::new();
    for _ in 0..TRIES {
        let again = ask(theirs, question)?;
        if !matches!(compare::compare(&again, ours, version), Verdict::Differ(_)) {
            return Ok(true);
        }
        if limits {
            answers.push(again);
        }
    }
    // Of many series our choice may never come up: then each part of it must.
    Ok(limits && compare::is_mixture(ours, &answers, version))
}

fn start(
    args: &Args,
    version: &Version,
    world: &World,
    delayed: bool,
    root: &Path,
) -> Result<(Process, Process), String> {
    let config = root.join("config.yml");
    let mut text = String::from("global:\n  scrape_interval: 1m\n");
    if version.major < 3 {
        text.push_str("storage:\n  tsdb:\n    out_of_order_time_window: 0s\n");
    }
    std::fs::write(&config, text).map_err(|e| e.to_string())?;
    let mut features = String::new();
    if version.major >= 3 {
        features = format!("--enable-feature={FEATURES}");
        if delayed {
            features.push_str(",promql-delayed-name-removal");
        }
    }
    let process = |program: &str, name: &str, own: &[String]| -> Result<Process, String> {
        let address = format!("127.0.0.1:{}", free_port());
        let mut flags = vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", root.join(name).display()),
            format!("--web.listen-address={address}"),
            format!("--query.lookback-delta={}ms", world.lookback_ms),
            "--web.enable-remote-write-receiver".to_owned(),
        ];
        flags.extend(own.iter().cloned());
        if !features.is_empty() {
            flags.push(features.clone());
        }
        Process::start(program, &flags, address, &root.join(format!("{name}.log"))).map_err(|e| e.to_string())
    };
    // A head that is compacted forgets series of which only the staleness marker has come, and then sees them in
    // another order; a flag for tests keeps everything in the head.
    let in_head = ["retention.time=100y", "min-block-duration=200y", "max-block-duration=200y"];
    let in_head = in_head.map(|flag| format!("--storage.tsdb.{flag}"));
    let theirs = process(&args.prometheus, "theirs", &in_head)?;
    let ours = process(&args.server, "ours", &["--storage.tsdb.retention.time=0s".to_owned()])?;
    Ok((theirs, ours))
}

/// Sends all samples to both, in time order, so that neither has to accept old ones.
///
/// Before, Prometheus is shown every series in the order of its labels, by a staleness marker from long ago: its
/// queries see series in the order in which they appeared, and ties and the texts of errors follow from that.
fn write_all(world: &World, clients: &mut [Client; 2]) -> Result<(), String> {
    let mut batch = AppendBatch::default();
    // By the name before the other labels, whatever comes before it in the alphabet.
    let mut all: Vec<&Labels> = world.series.iter().map(|(labels, _)| labels).collect();
    all.sort_by_key(|labels| (labels.get(METRIC_NAME), *labels));
    for labels in all {
        let at = batch.samples.len() as u32;
        batch.samples.push(FloatSample { timestamp: LONG_AGO_MS, value: stale_nan(), start_timestamp: 0 });
        batch.series.push(BatchSeries {
            key: SeriesKey::Labels(labels),
            samples: at..at + 1,
            histograms: 0..0,
            exemplars: 0..0,
        });
    }
    send(&batch, &mut clients[0])?;
    let mut order: Vec<(i64, usize, usize)> = Vec::new();
    for (number, (_, samples)) in world.series.iter().enumerate() {
        order.extend(samples.iter().enumerate().map(|(at, (time, _))| (*time, number, at)));
    }
    order.sort_unstable();
    for part in order.chunks(SAMPLES_PER_REQUEST) {
        let mut batch = AppendBatch::default();
        for &(timestamp, number, at) in part {
            let (labels, samples) = &world.series[number];
            let (n_samples, n_histograms) = (batch.samples.len() as u32, batch.histograms.len() as u32);
            match &samples[at].1.value {
                // A series of histograms ends with a histogram, as a sender writes it.
                SampleValue::Float(value) if is_stale(*value) && follows_histogram(samples, at) => {
                    let histogram =
                        Histogram::Float(FloatHistogram { sum: stale_nan(), ..FloatHistogram::default() });
                    batch.histograms.push(HistogramSample { timestamp, start_timestamp: 0, histogram });
                }
                SampleValue::Float(value) => {
                    batch.samples.push(FloatSample { timestamp, value: *value, start_timestamp: 0 });
                }
                SampleValue::Histogram(h) => {
                    let histogram = Histogram::Float((**h).clone());
                    batch.histograms.push(HistogramSample { timestamp, start_timestamp: 0, histogram });
                }
            }
            batch.series.push(BatchSeries {
                key: SeriesKey::Labels(labels),
                samples: n_samples..batch.samples.len() as u32,
                histograms: n_histograms..batch.histograms.len() as u32,
                exemplars: 0..0,
            });
        }
        for client in clients.iter_mut() {
            send(&batch, client)?;
        }
    }
    Ok(())
}

/// Whether the last sample before `at` that is no staleness marker is a histogram.
fn follows_histogram(samples: &[(i64, Sample)], at: usize) -> bool {
    let before = samples[..at].iter().rev().map(|(_, sample)| &sample.value);
    let mut before =
        before.skip_while(|value| matches!(value, SampleValue::Float(value) if is_stale(*value)));
    matches!(before.next(), Some(SampleValue::Histogram(_)))
}

/// Before any window of any query.
const LONG_AGO_MS: i64 = -100 * 365 * 86_400_000;

fn send(batch: &AppendBatch<'_>, client: &mut Client) -> Result<(), String> {
    let mut message = Vec::new();
    chronolith_wire::remote_write::v1::encode(batch, &mut message).map_err(|e| e.to_string())?;
    let body = chronolith_wire::remote_write::compress(&message);
    let headers = [
        ("Content-Encoding", "snappy"),
        ("Content-Type", "application/x-protobuf"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ];
    let response = client.post("/api/v1/write", &headers, &body).map_err(|e| e.to_string())?;
    if response.status >= 300 {
        return Err(format!("samples are refused: {} {}", response.status, response.text()));
    }
    Ok(())
}

fn ask(client: &mut Client, question: &Question) -> Result<Answer, String> {
    let seconds =
        |ms: i64| format!("{}{}.{:03}", if ms < 0 { "-" } else { "" }, ms.abs() / 1000, ms.abs() % 1000);
    let mut form = format!("query={}", encode_component(&question.text));
    let path = if question.range {
        form += &format!(
            "&start={}&end={}&step={}",
            seconds(question.start),
            seconds(question.end),
            seconds(question.interval_ms)
        );
        "/api/v1/query_range"
    } else {
        form += &format!("&time={}", seconds(question.start));
        "/api/v1/query"
    };
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let response =
        client.post(path, &headers, form.as_bytes()).map_err(|e| format!("{}: {e}", question.text))?;
    Answer::read(response.status, &response.body).map_err(|e| format!("{}: {e}", question.text))
}
