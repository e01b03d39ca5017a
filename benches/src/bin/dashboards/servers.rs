//! The servers under test: how each is started, filled, and made to forget what it has read.

use chronolith_benches::fleet::{Fleet, Schedule};
use chronolith_benches::http::Client;
use chronolith_benches::process::{CpuClock, Process, free_port};
use chronolith_wire::remote_write::{compress, v1};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Which program.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Chronolith,
    Prometheus,
    VictoriaMetrics,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chronolith => "chronolith",
            Self::Prometheus => "prometheus",
            Self::VictoriaMetrics => "victoria-metrics",
        })
    }
}

/// A program with a data directory, running or not.
pub struct Server {
    kind: Kind,
    program: String,
    dir: PathBuf,
    process: Option<Process>,
}

/// Connections that load.
const CONNECTIONS: u32 = 4;
const START_LIMIT: Duration = Duration::from_secs(300);

impl Server {
    pub fn new(kind: Kind, program: &str, dir: &Path) -> Self {
        Self { kind, program: program.to_owned(), dir: dir.to_owned(), process: None }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join(self.kind.to_string())
    }

    /// Starts the program and waits until it answers.
    pub fn start(&mut self) -> Result<(), String> {
        let authority = format!("127.0.0.1:{}", free_port());
        let config = self.dir.join("empty.yml");
        std::fs::write(&config, "global: {}\n").map_err(|e| e.to_string())?;
        let data_dir = self.data_dir();
        let (args, ready) = match self.kind {
            Kind::Chronolith | Kind::Prometheus => {
                let mut args = vec![
                    format!("--config.file={}", config.display()),
                    format!("--storage.tsdb.path={}", data_dir.display()),
                    format!("--web.listen-address={authority}"),
                ];
                if self.kind == Kind::Prometheus {
                    args.push("--web.enable-remote-write-receiver".to_owned());
                    args.push("--enable-feature=native-histograms".to_owned());
                }
                (args, "/-/ready")
            }
            Kind::VictoriaMetrics => (
                vec![
                    format!("-storageDataPath={}", data_dir.display()),
                    format!("-httpListenAddr={authority}"),
                    // Otherwise the newest samples are left out, or all asked series refused.
                    "-search.latencyOffset=0s".to_owned(),
                    "-search.maxSeries=1000000".to_owned(),
                    "-search.maxUniqueTimeseries=10000000".to_owned(),
                ],
                "/health",
            ),
        };
        let log = self.dir.join(format!("{}.log", self.kind));
        let mut process = Process::start(&self.program, &args, authority, &log).map_err(|e| e.to_string())?;
        process.wait_until_ready(ready, START_LIMIT)?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends the program in good order.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate(START_LIMIT);
        }
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Result<u32, String> {
        self.process.as_ref().map(Process::pid).ok_or_else(|| format!("{} does not run", self.kind))
    }

    /// A client of the running program.
    pub fn client(&self) -> Result<Client, String> {
        let process = self.process.as_ref().ok_or_else(|| format!("{} does not run", self.kind))?;
        Ok(Client::new(process.authority.clone(), Duration::from_secs(300)))
    }

    /// Waits until the program has ended what it does by itself after a start, but not for ever.
    pub fn wait_until_quiet(&self) -> Result<(), String> {
        const PAUSE: Duration = Duration::from_millis(100);
        let clock = CpuClock::new(self.pid()?);
        let begin = Instant::now();
        let mut quiet = 0;
        while quiet < 3 && begin.elapsed() < Duration::from_secs(30) {
            let before = clock.read().map_err(|e| e.to_string())?;
            std::thread::sleep(PAUSE);
            let used = before.until(&clock.read().map_err(|e| e.to_string())?);
            quiet = if used < 0.02 * PAUSE.as_secs_f64() { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    /// Sends the whole stream by remote write.
    pub fn load(&self, fleet: &Fleet, schedule: &Schedule) -> Result<(), String> {
        std::thread::scope(|scope| {
            let senders: Vec<_> = (0..CONNECTIONS)
                .map(|connection| {
                    scope.spawn(move || {
                        let mut client = self.client()?;
                        let mut message = Vec::new();
                        fleet.requests(schedule, (connection, CONNECTIONS), &mut |batch| {
                            message.clear();
                            v1::encode(batch, &mut message).map_err(|e| e.to_string())?;
                            send(&mut client, &compress(&message))
                        })
                    })
                })
                .collect();
            senders
                .into_iter()
                .try_for_each(|sender| sender.join().map_err(|_| "a sender panicked".to_owned())?)
        })?;
        if self.kind == Kind::VictoriaMetrics {
            self.client()?.get("/internal/force_flush").map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

fn send(client: &mut Client, body: &[u8]) -> Result<(), String> {
    let headers = [
        ("Content-Type", "application/x-protobuf"),
        ("Content-Encoding", "snappy"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ];
    loop {
        let response = client.post("/api/v1/write", &headers, body).map_err(|e| e.to_string())?;
        match response.status {
            200..=299 => return Ok(()),
            429 | 503 => std::thread::sleep(Duration::from_millis(50)),
            status => return Err(format!("status {status}: {}", response.text())),
        }
    }
}
