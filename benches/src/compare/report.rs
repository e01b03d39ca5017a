//! What a comparison found, as a table in Markdown and as JSON.

use super::Outcome;
use crate::progress::short;
use std::fmt::Write as _;
use std::path::Path;

/// Everything about a run.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// What it ran on.
    pub machine: String,
    /// When, and beside how much other work.
    pub conditions: String,
    /// The command line.
    pub command: String,
    /// What was sent.
    pub source: String,
    /// One for each server.
    pub servers: Vec<Outcome>,
}

/// Describes this machine: processor, cores, memory, system, file system of a folder.
pub fn machine(dir: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let cpus = read("/proc/cpuinfo");
    let model = field(&cpus, "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let n_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kib: f64 = memory.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let release = kernel.trim().split('-').next().unwrap_or("");
    let system = read("/etc/os-release");
    let system = system
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux")
        .trim_matches('"');
    let cores = if n_cpus == 1 { "core" } else { "cores" };
    format!(
        "{n_cpus} {cores} of {model}, {:.0} GiB, {}, {system}, Linux {release}",
        kib / f64::from(1 << 20),
        file_system(dir)
    )
}

/// Type of the file system that holds a folder.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len());
    mount.map_or("unknown file system", |(_, kind)| kind).to_owned()
}

/// Runnable processes over the last minute.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

type Row = (&'static str, fn(&Outcome) -> String);

const ROWS: [Row; 22] = [
    ("format", |o| o.format.to_owned()),
    ("server CPU per sample", |o| cost(o, |c, _| format!("{:.3} us", c.cpu_microseconds_per_sample))),
    ("CPU after that start: sealing, compaction", |o| {
        cost(o, |c, n| format!("{:.3} us a sample", c.settle_cpu_seconds * 1e6 / n))
    }),
    ("samples a second, sender included", |o| short(o.sending.samples as f64 / o.sending.wall_seconds)),
    ("request: median", |o| ms(o.sending.latency_ms.p50)),
    ("request: p99", |o| ms(o.sending.latency_ms.p99)),
    ("request: p99.9", |o| ms(o.sending.latency_ms.p999)),
    ("request: greatest", |o| ms(o.sending.latency_ms.max)),
    ("requests refused for now / samples refused for good", |o| {
        format!("{} / {}", o.sending.retries, o.sending.samples_refused)
    }),
    ("peak resident memory", |o| cost(o, |c, _| mb(c.peak_resident_bytes))),
    ("resident at 25, 50, 75, 100 %", |o| cost(o, |c, _| format!("{} MB", megabytes(&c.resident_bytes)))),
    ("folder at 25, 50, 75, 100 %, and files", |o| {
        cost(o, |c, _| {
            let bytes: Vec<u64> = c.folder.iter().map(|(bytes, _)| *bytes).collect();
            let files = quarters(&c.folder.iter().map(|(_, files)| *files).collect::<Vec<_>>());
            format!("{} MB; {}", megabytes(&bytes), files.map(|n| n.to_string()).join(", "))
        })
    }),
    ("handed to write calls", |o| cost(o, |c, n| per_sample(c.written_bytes, n))),
    ("sent to the device", |o| cost(o, |c, n| per_sample(c.device_written_bytes, n))),
    ("on disk after a clean stop", |o| cost(o, |c, n| per_sample(c.disk_bytes, n))),
    ("files", |o| cost(o, |c, _| c.n_files.to_string())),
    ("ready after kill -9, and CPU of that", |o| {
        cost(o, |c, _| format!("{:.2} s, {:.2} s", c.restart_seconds, c.restart_cpu_seconds))
    }),
    ("peak resident memory of that start", |o| cost(o, |c, _| mb(c.restart_peak_resident_bytes))),
    ("acknowledged samples lost by the kill", |o| o.lost.to_string()),
    ("samples compared / different", |o| {
        let v = &o.verified;
        format!("{} / {}", v.checked, v.missing + v.different + v.invented)
    }),
    ("queries beside the sender: answered, p99", |o| {
        let load = o.queries_beside.as_ref();
        load.map_or_else(String::new, |load| {
            let failed = if load.failed > 0 { format!(" ({} failed)", load.failed) } else { String::new() };
            format!("{}{failed}, {}", load.answered, ms(load.latency_ms.p99))
        })
    }),
    ("clean stop", |o| cost(o, |c, _| format!("{:.2} s", c.stop_seconds))),
];

fn cost(outcome: &Outcome, text: impl Fn(&super::Costs, f64) -> String) -> String {
    let n = outcome.sending.samples.max(1) as f64;
    outcome.process.as_ref().map_or_else(String::new, |costs| text(costs, n))
}

/// What was noted at the ends of the four quarters.
fn quarters(all: &[u64]) -> [u64; 4] {
    [1, 2, 3, 4].map(|quarter| all.get((all.len() * quarter / 4).max(1) - 1).copied().unwrap_or(0))
}

fn megabytes(bytes: &[u64]) -> String {
    quarters(bytes).map(|bytes| (bytes / 1_000_000).to_string()).join(", ")
}

fn ms(time: f64) -> String {
    match time {
        100.0.. => format!("{time:.0} ms"),
        10.0.. => format!("{time:.1} ms"),
        _ => format!("{time:.2} ms"),
    }
}

fn mb(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

fn per_sample(bytes: u64, n: f64) -> String {
    format!("{:.1} MB: {:.3} B a sample", bytes as f64 / 1e6, bytes as f64 / n)
}

impl Report {
    /// The table and what stands above it.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let mut line = |text: &str| {
            out.push_str(text);
            out.push('\n');
        };
        line(&format!("{}. {}.\n", self.machine, self.conditions));
        line(&format!("Sent: {}.\n", self.source));
        line(&format!("    {}\n", self.command));
        for server in &self.servers {
            line(&format!("- **{}**: {}; `{}`", server.name, server.version, server.command));
        }
        line("");
        let columns = |cell: &dyn Fn(&Outcome) -> String| self.servers.iter().map(cell).collect::<Vec<_>>();
        let row = |title: &str, cells: &[String]| format!("| {title} | {} |", cells.join(" | "));
        line(&row("", &columns(&|server| server.name.clone())));
        line(&format!("|---{}|", "|---".repeat(self.servers.len())));
        for (title, cell) in ROWS {
            let cells = columns(&|server| cell(server));
            if cells.iter().any(|cell| !cell.is_empty()) {
                line(&row(title, &cells));
            }
        }
        let first = self.servers.first().map_or(&[][..], |server| &server.queries);
        for (at, query) in first.iter().enumerate() {
            let cells = columns(&|server| {
                server.queries.get(at).map_or_else(String::new, |times| match &times.error {
                    Some(_) => "refused".to_owned(),
                    None => format!("{} / {}", ms(times.first_ms), ms(times.median_ms)),
                })
            });
            line(&row(&format!("query, first / median: {}", query.title), &cells));
        }
        out
    }
}

/// Replaces what stands between `<!-- loadgen: SECTION -->` and `<!-- /loadgen: SECTION -->`.
///
/// # Errors
/// If the text has no such marks.
pub fn put_between_marks(text: &str, section: &str, table: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- loadgen: {section} -->"), format!("<!-- /loadgen: {section} -->"));
    let missing = || format!("no marks {begin} and {end}");
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    let mut out = String::new();
    write!(out, "{before}{begin}\n\n{}\n\n{end}{after}", table.trim()).expect("a string takes any text");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Costs;
    use crate::compare::queries::QueryTimes;
    use crate::sender::SendReport;
    use crate::verify::Verified;

    #[test]
    fn a_table_replaces_the_one_before() {
        let text = "a\n<!-- loadgen: x -->\nold\n<!-- /loadgen: x -->\nb\n";
        let new = put_between_marks(text, "x", "| new |\n").unwrap();
        assert_eq!(new, "a\n<!-- loadgen: x -->\n\n| new |\n\n<!-- /loadgen: x -->\nb\n");
        assert_eq!(put_between_marks(&new, "x", "| new |").unwrap(), new);
        assert!(put_between_marks(text, "y", "").is_err());
    }

    #[test]
    fn rows_have_a_cell_for_each_server_and_empty_rows_go() {
        let sending = SendReport { samples: 1000, wall_seconds: 0.5, ..SendReport::default() };
        let query = QueryTimes {
            title: "one series",
            query: "up".into(),
            first_ms: 1.0,
            median_ms: 0.5,
            answer_bytes: 10,
            error: None,
        };
        let server = |name: &str, process| Outcome {
            name: name.into(),
            version: "1".into(),
            command: "x".into(),
            format: "remote write 1.0",
            sending: sending.clone(),
            process,
            queries_beside: None,
            lost: 0,
            verified: Verified::default(),
            queries: vec![query.clone()],
        };
        let costs = Costs {
            cpu_microseconds_per_sample: 0.25,
            disk_bytes: 200,
            folder: (1..=20).map(|step| (step * 1_000_000, step)).collect(),
            ..Costs::default()
        };
        let report = Report {
            machine: "m".into(),
            conditions: "c".into(),
            command: "loadgen".into(),
            source: "s".into(),
            servers: vec![server("a", Some(costs)), server("b", None)],
        };
        let text = report.markdown();
        assert!(text.contains("| server CPU per sample | 0.250 us |  |"), "{text}");
        assert!(text.contains("| on disk after a clean stop | 0.0 MB: 0.200 B a sample |  |"), "{text}");
        assert!(text.contains("| 5, 10, 15, 20 MB; 5, 10, 15, 20 |  |"), "{text}");
        assert!(
            text.contains("| query, first / median: one series | 1.00 ms / 0.50 ms | 1.00 ms / 0.50 ms |")
        );
        assert!(!text.contains("beside the sender"), "{text}");
        let table: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(table.iter().all(|line| line.matches('|').count() == 4), "{text}");
    }
}
