//! A server under test, and what each step with it takes.

use chronolith_benches::compare::servers::{Server, Started, data_dir};
use chronolith_benches::http::{Client, encode_component};
use chronolith_benches::process::{Process, data_bytes, drop_from_page_cache, resident_bytes, settle, usage};
use chronolith_benches::progress::short;
use chronolith_benches::sender::encode::Encoder;
use chronolith_model::append::AppendBatch;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A request may take so long.
const TIMEOUT: Duration = Duration::from_secs(600);
/// A server has to stop within.
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// A server may seal and compact so long.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);

/// What a step took.
#[derive(Debug, serde::Serialize)]
pub struct Step {
    title: String,
    samples: u64,
    wall_seconds: f64,
    cpu_seconds: f64,
    peak_resident_bytes: u64,
    device_written_bytes: u64,
    disk_bytes: u64,
    n_files: u64,
}

/// The server, and the steps so far.
#[derive(Debug)]
pub struct Bed {
    server: Server,
    dir: PathBuf,
    started: Started,
    client: Client,
    encoder: Encoder,
    n_sent: u64,
    steps: Vec<Step>,
}

/// Where a step began.
struct Mark {
    begin: Instant,
    n_sent: u64,
    cpu_seconds: f64,
    written_bytes: u64,
}

impl Bed {
    /// Starts the server with more arguments and an empty folder.
    pub fn start(server: &Server, arguments: &[&str], dir: &Path) -> Result<Self, String> {
        let mut server = server.clone();
        server.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let started = server.start(dir, None)?;
        Ok(Self {
            client: Client::new(started.url.authority.clone(), TIMEOUT),
            encoder: Encoder::new(server.format),
            dir: dir.to_owned(),
            n_sent: 0,
            steps: Vec::new(),
            server,
            started,
        })
    }

    /// Does something and notes what it took.
    pub fn step<T>(
        &mut self,
        title: &str,
        work: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        let mark = self.mark()?;
        let result = work(self).map_err(|error| format!("{title}: {error}"))?;
        self.note(title, &mark)?;
        Ok(result)
    }

    fn pid(&self) -> Result<u32, String> {
        self.started
            .process
            .as_ref()
            .map(Process::pid)
            .ok_or_else(|| "the server is not ours to watch".to_owned())
    }

    fn mark(&self) -> Result<Mark, String> {
        let pid = self.pid()?;
        // Sets the greatest resident memory back; where that is not permitted it counts from the start.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
        let used = usage(pid).map_err(|e| e.to_string())?;
        Ok(Mark {
            begin: Instant::now(),
            n_sent: self.n_sent,
            cpu_seconds: used.cpu_seconds,
            written_bytes: used.device_written_bytes,
        })
    }

    fn note(&mut self, title: &str, mark: &Mark) -> Result<(), String> {
        let wall = mark.begin.elapsed();
        let pid = self.pid()?;
        let used = usage(pid).map_err(|e| format!("the server ended: {e}"))?;
        let (disk_bytes, n_files, _) = data_bytes(&data_dir(&self.dir));
        let step = Step {
            title: title.to_owned(),
            samples: self.n_sent - mark.n_sent,
            wall_seconds: wall.as_secs_f64(),
            cpu_seconds: used.cpu_seconds - mark.cpu_seconds,
            peak_resident_bytes: used.peak_resident_bytes.max(resident_bytes(pid)),
            device_written_bytes: used.device_written_bytes.saturating_sub(mark.written_bytes),
            disk_bytes,
            n_files,
        };
        let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        println!(
            "| {title} | {} | {} | {:.2} s | {} | {} | {} | {n_files} |",
            if step.samples > 0 { short(step.samples as f64) } else { String::new() },
            match step.wall_seconds {
                0.1.. => format!("{:.2} s", step.wall_seconds),
                _ => format!("{:.2} ms", step.wall_seconds * 1e3),
            },
            step.cpu_seconds,
            mb(step.peak_resident_bytes),
            mb(step.device_written_bytes),
            mb(step.disk_bytes),
        );
        self.steps.push(step);
        Ok(())
    }

    /// Sends a batch until it is taken.
    pub fn send(&mut self, batch: &AppendBatch<'_>) -> Result<(), String> {
        let format = self.server.format;
        let body = self.encoder.encode(batch)?;
        loop {
            let response =
                self.client.post(format.path(), format.headers(), body).map_err(|e| e.to_string())?;
            match response.status {
                200..=299 => break,
                429 | 503 => std::thread::sleep(Duration::from_millis(20)),
                status => return Err(format!("status {status}: {}", response.text())),
            }
        }
        self.n_sent += batch.samples.len() as u64;
        Ok(())
    }

    /// Samples sent so far.
    pub const fn n_sent(&self) -> u64 {
        self.n_sent
    }

    /// The field `data` of what an endpoint below `/api/v1/` answers.
    pub fn get(&mut self, endpoint: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let parameters: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", encode_component(value))).collect();
        let path = format!("/api/v1/{endpoint}?{}", parameters.join("&"));
        let response = self.client.get(&path).map_err(|e| format!("{path}: {e}"))?;
        if response.status != 200 {
            return Err(format!("{path}: status {}: {}", response.status, response.text()));
        }
        let mut answer: Value = serde_json::from_slice(&response.body).map_err(|e| format!("{path}: {e}"))?;
        Ok(answer["data"].take())
    }

    /// The number that an instant query gives, 0 if nothing.
    pub fn number(&mut self, query: &str, time: i64) -> Result<f64, String> {
        let time = (time as f64 / 1000.0).to_string();
        let data = self.get("query", &[("query", query), ("time", &time), ("nocache", "1")])?;
        let text = data["result"][0]["value"][1].as_str().unwrap_or("0");
        text.parse().map_err(|_| format!("{query}: {text}"))
    }

    /// Posts to an endpoint of administration, whose answer is empty.
    pub fn administer(&mut self, path_and_query: &str) -> Result<(), String> {
        let path = format!("/api/v1/admin/tsdb/{path_and_query}");
        let response = self.client.post(&path, &[], &[]).map_err(|e| e.to_string())?;
        match response.status {
            204 => Ok(()),
            status => Err(format!("{path}: status {status}: {}", response.text())),
        }
    }

    /// Waits until the server rests.
    pub fn settle(&mut self) -> Result<(), String> {
        settle(self.pid()?, &data_dir(&self.dir), SETTLE_LIMIT);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), String> {
        let stopped = self.started.process.as_mut().and_then(|process| process.terminate(STOP_LIMIT));
        stopped.map(|_| ()).ok_or_else(|| "the server did not stop".to_owned())
    }

    /// Stops the server cleanly, has the system forget its files, and starts it again.
    pub fn restart_cold(&mut self, title: &str) -> Result<(), String> {
        self.stop()?;
        drop_from_page_cache(&data_dir(&self.dir));
        self.started = self.server.start(&self.dir, None)?;
        self.client = Client::new(self.started.url.authority.clone(), TIMEOUT);
        let begin = Instant::now().checked_sub(self.started.start).unwrap_or_else(Instant::now);
        self.note(title, &Mark { begin, n_sent: self.n_sent, cpu_seconds: 0.0, written_bytes: 0 })
    }

    /// Stops the server; what was noted.
    pub fn end(mut self) -> Result<Vec<Step>, String> {
        self.stop()?;
        Ok(self.steps)
    }
}
