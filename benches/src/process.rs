//! Programs under test: started on free ports, ended by their process id, never anything else.

use crate::http::Client;
use rustix::fs::{Advice, fadvise};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running program. Killed when it goes out of scope.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    /// `127.0.0.1:port` of its HTTP listener.
    pub authority: String,
}

/// A port that was free a moment ago.
///
/// # Panics
/// If the machine has none left.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback interface");
    listener.local_addr().expect("a bound listener has an address").port()
}

impl Process {
    /// Starts a program; its output goes to `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &str, args: &[String], authority: String, log: &Path) -> std::io::Result<Self> {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| std::io::Error::new(error.kind(), format!("cannot start {program}: {error}")))?;
        Ok(Self { child, name: program.to_owned(), authority })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `path` answers 200.
    ///
    /// # Errors
    /// A text that says whether the program ended or the time ran out.
    pub fn wait_until_ready(&mut self, path: &str, limit: Duration) -> Result<Duration, String> {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended while starting: {status}", self.name));
            }
            let mut client = Client::new(self.authority.clone(), Duration::from_secs(2));
            if client.get(path).is_ok_and(|response| response.status == 200) {
                return Ok(start.elapsed());
            }
            if start.elapsed() > limit {
                return Err(format!("{} was not ready within {limit:?}", self.name));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        // An error means that the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then waits; `None` if it had to be killed after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        while start.elapsed() < limit {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Some(start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        None
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Usage {
    /// User and system CPU time.
    pub cpu_seconds: f64,
    /// Greatest resident memory so far.
    pub peak_resident_bytes: u64,
    /// Handed to write calls.
    pub written_bytes: u64,
    /// Sent to the block device.
    pub device_written_bytes: u64,
}

/// Reads what a process has used from `/proc`.
///
/// # Errors
/// If there is no such process.
pub fn usage(pid: u32) -> std::io::Result<Usage> {
    /// Clock ticks per second on Linux, fixed by the ABI.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses and may hold spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let written = |name: &str| {
        let number = io.lines().find_map(|line| line.strip_prefix(name));
        number.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(Usage {
        cpu_seconds: (ticks(11) + ticks(12)) / TICKS,
        peak_resident_bytes: status_bytes(&status, "VmHWM:"),
        written_bytes: written("wchar:"),
        device_written_bytes: written("write_bytes:"),
    })
}

/// Resident memory of a process now; 0 if there is no such process.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status_bytes(&status, "VmRSS:")
}

fn status_bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Bytes of all files below a folder, by length, and how many files.
pub fn folder_bytes(folder: &Path) -> (u64, u64) {
    let Ok(entries) = std::fs::read_dir(folder) else { return (0, 0) };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => (metadata.len(), 1),
            Err(_) => (0, 0),
        })
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// Bytes and files of a data folder, and of the bytes those of Chronolith's ballast file, which are left out of the
/// first number: they are given back when the disk is full.
pub fn data_bytes(data: &Path) -> (u64, u64, u64) {
    let ballast = std::fs::metadata(data.join("BALLAST")).map_or(0, |file| file.len());
    let (bytes, n_files) = folder_bytes(data);
    (bytes.saturating_sub(ballast), n_files, ballast)
}

/// Waits until a server uses next to no CPU and its folder stays as it is, at most `limit`.
pub fn settle(pid: u32, data: &Path, limit: Duration) {
    /// Between looks.
    const PAUSE: Duration = Duration::from_secs(2);
    /// CPU seconds in a pause that are rest.
    const REST: f64 = 0.1;
    let state = || (usage(pid).map_or(0.0, |used| used.cpu_seconds), folder_bytes(data));
    let begin = Instant::now();
    let mut before = state();
    while begin.elapsed() < limit {
        std::thread::sleep(PAUSE);
        let now = state();
        if now.0 - before.0 < REST && now.1 == before.1 {
            break;
        }
        before = now;
    }
}

/// Makes the system forget the files below a folder. Nobody may have them open.
pub fn drop_from_page_cache(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            drop_from_page_cache(&path);
        } else if let Ok(file) = std::fs::File::open(&path) {
            // Only what is on the disk can be forgotten. A file that cannot be synced stays: the run is less cold.
            let _ = file.sync_all();
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
    }
}

/// The CPU time of a process to the nanosecond, where the system tells; [`usage`] counts whole ticks.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock {
    pid: u32,
}

/// A reading of a [`CpuClock`].
#[derive(Clone, Debug, Default)]
pub struct CpuTime {
    /// Nanoseconds of each thread.
    threads: std::collections::HashMap<u32, u64>,
}

impl CpuClock {
    /// The clock of a process.
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// What its threads have used so far.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn read(&self) -> std::io::Result<CpuTime> {
        let mut time = CpuTime::default();
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.pid))?.flatten() {
            let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // A thread may end meanwhile.
            let text = std::fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
            let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
            if let (Some(thread), Some(nanos)) = (thread, nanos) {
                time.threads.insert(thread, nanos);
            }
        }
        Ok(time)
    }
}

impl CpuTime {
    /// Seconds of CPU between two readings. What threads that ended in between used since the first is not in it.
    pub fn until(&self, later: &Self) -> f64 {
        let used = |(thread, &nanos): (&u32, &u64)| {
            let before = self.threads.get(thread).copied().unwrap_or(0);
            nanos.saturating_sub(before)
        };
        later.threads.iter().map(used).sum::<u64>() as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_what_threads_use() {
        let clock = CpuClock::new(std::process::id());
        let before = clock.read().unwrap();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {
            std::hint::black_box(0);
        }
        // Others may run on the same processors.
        assert!(before.until(&clock.read().unwrap()) > 0.0);
        assert!(CpuClock::new(u32::MAX).read().is_err());
    }
}
