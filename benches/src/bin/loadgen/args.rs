//! The command line.

use chronolith_benches::expect::Expected;
use chronolith_benches::fleet::synthetic::Mixture;
use chronolith_benches::fleet::{Fleet, Schedule};
use chronolith_benches::recording::Recording;
use chronolith_benches::source::Source;
use chronolith_benches::stream::{self, StreamFile};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

const EXAMPLES: &str = "\
Examples:
  Which server takes more? Each is started on a free port, fed, killed, asked and stopped:
    loadgen compare --hosts 50 --series 1000 --scrapes 240
  What does mine take?
    loadgen send --url http://localhost:9090 --hosts 100 --series 500 --scrapes 100
    loadgen verify --url http://localhost:9090 --hosts 100 --series 500 --scrapes 100 --start SECONDS
  Real pages instead of made-up ones:
    loadgen record --target node=http://localhost:9100/metrics --interval-s 15 --count 240 pages.rec
    loadgen compare --source pages.rec --hosts 30
  The same bytes every time:
    loadgen generate --hosts 10 --native-share 0.1 --churn-per-hour 0.01 --scrapes 960 day.stream
    loadgen send --url http://localhost:9090 --source day.stream";

#[derive(Parser)]
#[command(
    name = "loadgen",
    about = "Measures what servers of metrics take: makes fleets, sends them, and compares servers",
    after_help = EXAMPLES
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Records /metrics pages of real targets into a file.
    Record(RecordArgs),
    /// Writes a fleet's requests into a stream file, to be sent again and again.
    Generate(GenerateArgs),
    /// Sends a fleet or a stream to a server.
    Send(SendArgs),
    /// Counts what came back, and compares samples; takes the arguments that were given to send.
    Verify(VerifyArgs),
    /// Starts servers one after the other, feeds each the same, and prints a table of what it cost them.
    Compare(CompareArgs),
}

#[derive(Args)]
pub struct RecordArgs {
    /// `job=http://host:port/metrics`; may be given more than once.
    #[arg(long, required = true)]
    pub target: Vec<String>,
    /// Seconds between scrapes.
    #[arg(long, default_value_t = 15.0)]
    pub interval_s: f64,
    /// How many scrapes.
    #[arg(long)]
    pub count: u32,
    /// The file to write.
    pub file: PathBuf,
}

#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Parts that can be sent beside each other.
    #[arg(long, default_value_t = 16)]
    pub lanes: u32,
    /// The file to write.
    pub file: PathBuf,
}

/// What is sent.
#[derive(Args, Clone)]
#[command(next_help_heading = "What is sent")]
pub struct SourceArgs {
    /// A recording (of `record`), whose targets stand on every host, or a stream (of `generate`), which is sent
    /// as it is. Made up without it.
    #[arg(long)]
    pub source: Option<PathBuf>,
    /// Hosts of the fleet.
    #[arg(long, default_value_t = 10)]
    pub hosts: u32,
    /// Series of a made-up host.
    #[arg(long, default_value_t = 1000)]
    pub series: usize,
    /// Part of the made-up series that are buckets, counts and sums of classic histograms.
    #[arg(long, default_value_t = 0.25)]
    pub histogram_share: f64,
    /// Part of the made-up series that are native histograms. Text import cannot carry them.
    #[arg(long, default_value_t = 0.0)]
    pub native_share: f64,
    /// Part of the targets that are replaced each hour: all their series end and new ones begin.
    #[arg(long, default_value_t = 0.0)]
    pub churn_per_hour: f64,
    /// Scrapes of each target. All recorded pages, or 240, if not given; pages repeat if there are fewer.
    #[arg(long)]
    pub scrapes: Option<u32>,
    /// Seconds between scrapes, as the samples say.
    #[arg(long, default_value_t = 15.0)]
    pub interval_s: f64,
    /// Scrapes are late by up to so many milliseconds, at random.
    #[arg(long, default_value_t = 0)]
    pub jitter_ms: u32,
    /// Time of the first scrape in seconds since the epoch; so that the last one was a minute ago, if not given.
    #[arg(long)]
    pub start: Option<i64>,
    /// Samples in a request.
    #[arg(long, default_value_t = 2000)]
    pub samples_per_request: usize,
}

impl SourceArgs {
    pub fn open(&self) -> Result<Source, String> {
        let told = |path: &PathBuf, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let fleet = match &self.source {
            None => {
                let mixture = Mixture {
                    series: self.series,
                    histogram_share: self.histogram_share,
                    native_share: self.native_share,
                };
                Fleet::synthetic(&mixture, self.hosts)
            }
            Some(path) => {
                let mut magic = [0; 8];
                let file = std::fs::File::open(path).map_err(|e| told(path, &e))?;
                // What is shorter is no recording either, as opening it says.
                let _ = file.take(8).read(&mut magic);
                if &magic == stream::MAGIC {
                    return StreamFile::open(path).map(Source::Stream).map_err(|e| told(path, &e));
                }
                let recording = Recording::open(path).map_err(|e| told(path, &e))?;
                Fleet::recorded(&recording, self.hosts).map_err(|e| told(path, &e))?
            }
        };
        let schedule = self.schedule(&fleet)?;
        Ok(Source::Fleet(fleet, schedule))
    }

    fn schedule(&self, fleet: &Fleet) -> Result<Schedule, String> {
        let pages = fleet.n_pages().map_or(240, |pages| u32::try_from(pages).unwrap_or(u32::MAX));
        let scrapes = self.scrapes.unwrap_or(pages);
        let interval = (self.interval_s * 1000.0) as i64;
        let jitter = i64::from(self.jitter_ms);
        if interval <= 0 || self.samples_per_request == 0 || fleet.n_series() == 0 {
            return Err("interval, samples of a request, hosts and series have to be positive".to_owned());
        }
        if jitter >= interval {
            return Err(
                "jitter has to be less than the interval, or scrapes would overtake each other".to_owned()
            );
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_secs() as i64;
        let length = i64::from(scrapes) * interval;
        let start = self.start.map_or(now * 1000 - 60_000 - length, |seconds| seconds * 1000);
        Ok(Schedule {
            start,
            interval,
            jitter,
            scrapes,
            churn_per_hour: self.churn_per_hour,
            samples_per_request: self.samples_per_request,
        })
    }

    /// In words, for the report.
    pub fn describe(&self, source: &Source) -> String {
        match source {
            Source::Stream(stream) => format!("a stream of {} samples", stream.n_samples),
            Source::Fleet(fleet, schedule) => {
                let what = match &self.source {
                    Some(_) => "recorded pages".to_owned(),
                    None => format!(
                        "made-up series, {:.0} % of them of classic and {:.0} % native histograms",
                        self.histogram_share * 100.0,
                        self.native_share * 100.0
                    ),
                };
                let mut text = format!(
                    "{} series on {} hosts, {what}, {} scrapes {} s apart, {} series a request",
                    fleet.n_series(),
                    self.hosts,
                    schedule.scrapes,
                    self.interval_s,
                    self.samples_per_request
                );
                if self.jitter_ms > 0 {
                    text += &format!(", up to {} ms late", self.jitter_ms);
                }
                if self.churn_per_hour > 0.0 {
                    text +=
                        &format!(", {:.1} % of the targets replaced each hour", self.churn_per_hour * 100.0);
                }
                text
            }
        }
    }
}

#[derive(Args)]
pub struct SendArgs {
    /// Where to: the base URL of a server, or the whole URL of its write endpoint.
    #[arg(long)]
    pub url: String,
    /// How samples travel.
    #[arg(long, value_enum, default_value_t = FormatArg::V1)]
    pub format: FormatArg,
    #[command(flatten)]
    pub pace: PaceArgs,
    /// Process whose CPU, memory and writes are reported.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Folder whose size is reported.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Count and compare what came back at once; the URL has to be a base URL.
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Args)]
pub struct PaceArgs {
    /// Connections, each with hosts of its own.
    #[arg(long, default_value_t = 4)]
    pub connections: u32,
    /// Times the natural rate: 1 sends as agents would, 24 a day in an hour, 0 as fast as the server takes it.
    #[arg(long, default_value_t = 0.0)]
    pub speed: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Remote write 1.0.
    V1,
    /// Remote write 2.0.
    V2,
    /// Exposition text to /api/v1/import/prometheus, as VictoriaMetrics takes it.
    Import,
}

#[derive(Args)]
pub struct ExpectArgs {
    /// Series whose samples are compared one by one.
    #[arg(long, default_value_t = 100)]
    pub checked_series: usize,
    /// Count and compare the samples of so many last seconds only, of servers whose retention is shorter than
    /// what is sent.
    #[arg(long)]
    pub newest_s: Option<u32>,
}

impl ExpectArgs {
    pub fn of(&self, source: &Source) -> Result<Expected, String> {
        Expected::of(source, self.checked_series, self.newest_s.map(|seconds| i64::from(seconds) * 1000))
    }
}

#[derive(Args)]
pub struct VerifyArgs {
    /// Base URL of the server.
    #[arg(long)]
    pub url: String,
    #[command(flatten)]
    pub expect: ExpectArgs,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Args)]
pub struct CompareArgs {
    /// `chronolith`, `prometheus` or `victoria-metrics`, written to by `@v1`, `@v2` or `@import`, with `=PROGRAM ARGS`
    /// where needed (`chronolith@v2=--storage.wal-sync=always`), or `NAME=http://host:port` for one that runs
    /// already. Those of the default that are not installed are left out.
    #[arg(long = "server")]
    pub servers: Vec<String>,
    #[command(flatten)]
    pub pace: PaceArgs,
    /// CPUs of the servers, as `taskset -c` takes them.
    #[arg(long)]
    pub server_cpus: Option<String>,
    /// Connections that send queries while samples are sent.
    #[arg(long, default_value_t = 0)]
    pub query_connections: u32,
    /// Repetitions of each query afterwards.
    #[arg(long, default_value_t = 5)]
    pub query_rounds: u32,
    #[command(flatten)]
    pub expect: ExpectArgs,
    /// At most so long a server may seal and compact before its folder is measured.
    #[arg(long, default_value_t = 60)]
    pub settle_s: u64,
    /// Folder for the data of servers; a temporary one that goes away, if not given.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Writes the JSON there.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Writes the table into this document, between its marks `<!-- loadgen: SECTION -->` and
    /// `<!-- /loadgen: SECTION -->`.
    #[arg(long)]
    pub update: Option<PathBuf>,
    /// The section of the document.
    #[arg(long, default_value = "small")]
    pub section: String,
    #[command(flatten)]
    pub source: SourceArgs,
}
