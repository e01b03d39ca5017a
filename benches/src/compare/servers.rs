//! The servers that a comparison knows how to start, and any URL.

use crate::http::Url;
use crate::process::{Process, free_port};
use crate::sender::encode::Format;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest start.
const START_LIMIT: Duration = Duration::from_secs(600);

/// Counting goes over all samples of a name at once.
const MAX_SAMPLES: &str = "--query.max-samples=500000000";

/// What a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This project's.
    Chronolith,
    /// Prometheus, as a receiver.
    Prometheus,
    /// VictoriaMetrics, one node.
    VictoriaMetrics,
    /// Runs already, somewhere.
    Running(Url),
}

/// A server of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// What it is.
    pub kind: Kind,
    /// As the table names it.
    pub name: String,
    /// How it is written to.
    pub format: Format,
    /// Program to start.
    pub program: String,
    /// Arguments beside those that it needs.
    pub arguments: Vec<String>,
}

impl Server {
    /// Reads `KIND[@FORMAT][=PROGRAM]`, with more arguments of the program behind blanks, or
    /// `NAME[@FORMAT]=http://host:port`.
    ///
    /// # Errors
    /// A text that says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (head, target) = text.split_once('=').map_or((text, None), |(head, rest)| (head, Some(rest)));
        let (name, format) = head.split_once('@').unwrap_or((head, "v1"));
        let format = Format::parse(format)
            .ok_or_else(|| format!("{text}: {format} is no format; v1, v2 and import are"))?;
        let title = format!("{name}{}", if format == Format::V1 { "" } else { &head[name.len()..] });
        if let Some(url) = target.filter(|target| target.contains("://")) {
            let kind = Kind::Running(Url::parse(url)?);
            return Ok(Self { kind, name: title, format, program: String::new(), arguments: Vec::new() });
        }
        let (kind, usual) = match name {
            "chronolith" => (Kind::Chronolith, "chronolith"),
            "prometheus" => (Kind::Prometheus, "prometheus"),
            "victoria-metrics" => (Kind::VictoriaMetrics, "victoria-metrics"),
            _ => {
                return Err(format!(
                    "{text}: expected chronolith, prometheus or victoria-metrics, with =PROGRAM where it is not \
                     in the path, or NAME=http://host:port"
                ));
            }
        };
        if format == Format::Import && kind != Kind::VictoriaMetrics {
            return Err(format!("{text}: {name} takes no text import"));
        }
        let mut words = target.unwrap_or("").split_whitespace().map(str::to_owned).peekable();
        let program = match words.next_if(|word| !word.starts_with('-')) {
            Some(program) => program,
            None if kind == Kind::Chronolith => beside_this_program(usual),
            None => usual.to_owned(),
        };
        Ok(Self { kind, name: title, format, program, arguments: words.collect() })
    }

    /// Whether the program is there.
    pub fn is_installed(&self) -> bool {
        match self.kind {
            Kind::Running(_) => true,
            _ => Command::new(&self.program).arg("--version").output().is_ok(),
        }
    }

    /// Whether a NaN that is sent is kept.
    pub fn keeps_nans(&self) -> bool {
        self.kind != Kind::VictoriaMetrics
    }

    /// What the program says of its version, or what the package does.
    pub fn version(&self) -> String {
        let first_line = |command: &mut Command| {
            let output = command.output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            let line = text.lines().map(str::trim).find(|line| !line.is_empty())?.to_owned();
            output.status.success().then_some(line)
        };
        let own = match self.kind {
            Kind::Running(_) => return String::new(),
            _ => first_line(Command::new(&self.program).arg("--version")),
        };
        let package = || {
            first_line(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}", &self.program]))
        };
        own.or_else(package).unwrap_or_else(|| "version not known".to_owned())
    }

    /// Arguments on a port and a folder, and what goes into the configuration file they name.
    fn arguments(&self, authority: &str, dir: &Path) -> Vec<String> {
        let config = dir.join("empty.yml").display().to_string();
        let data = data_dir(dir).display().to_string();
        let mut arguments = match self.kind {
            Kind::Chronolith => vec![
                format!("--config.file={config}"),
                format!("--storage.tsdb.path={data}"),
                format!("--web.listen-address={authority}"),
                MAX_SAMPLES.to_owned(),
            ],
            Kind::Prometheus => vec![
                format!("--config.file={config}"),
                format!("--storage.tsdb.path={data}"),
                format!("--web.listen-address={authority}"),
                "--web.enable-remote-write-receiver".to_owned(),
                MAX_SAMPLES.to_owned(),
            ],
            Kind::VictoriaMetrics => vec![
                format!("-storageDataPath={data}"),
                format!("-httpListenAddr={authority}"),
                "-retentionPeriod=10y".to_owned(),
                // These two and MAX_SAMPLES are for counting what came back.
                "-search.latencyOffset=0s".to_owned(),
                "-search.maxUniqueTimeseries=3000000".to_owned(),
            ],
            Kind::Running(_) => Vec::new(),
        };
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }

    /// The command line, for readers.
    pub fn command_line(&self) -> String {
        if let Kind::Running(url) = &self.kind {
            return format!("http://{}{}", url.authority, url.path);
        }
        let program = Path::new(&self.program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let arguments = self.arguments("127.0.0.1:PORT", Path::new("DIR"));
        format!("{program} {}", arguments.join(" "))
    }

    /// Starts it on a free port with its data in `dir`; on these CPUs only, as `taskset -c` takes them.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(&self, dir: &Path, cpus: Option<&str>) -> Result<Started, String> {
        if let Kind::Running(url) = &self.kind {
            return Ok(Started { process: None, url: url.clone(), start: Duration::ZERO });
        }
        std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        std::fs::write(dir.join("empty.yml"), "").map_err(|e| e.to_string())?;
        let authority = format!("127.0.0.1:{}", free_port());
        let mut arguments = self.arguments(&authority, dir);
        let mut program = self.program.as_str();
        if let Some(cpus) = cpus {
            // `taskset` becomes the program, so the process id stays.
            let mut all = vec!["-c".to_owned(), cpus.to_owned(), program.to_owned()];
            all.append(&mut arguments);
            (program, arguments) = ("taskset", all);
        }
        let log = dir.join("log");
        let mut process =
            Process::start(program, &arguments, authority.clone(), &log).map_err(|e| e.to_string())?;
        let path = if self.kind == Kind::VictoriaMetrics { "/health" } else { "/-/ready" };
        let start = process.wait_until_ready(path, START_LIMIT)?;
        let url = Url { authority, path: "/".to_owned() };
        Ok(Started { process: Some(process), url, start })
    }
}

/// A server that answers.
#[derive(Debug)]
pub struct Started {
    /// The process, if it was started here.
    pub process: Option<Process>,
    /// Where it listens.
    pub url: Url,
    /// How long it took to answer.
    pub start: Duration,
}

impl Started {
    /// Where samples go.
    pub fn write_url(&self, format: Format) -> Url {
        let prefix = self.url.path.trim_end_matches('/');
        Url { authority: self.url.authority.clone(), path: format!("{prefix}{}", format.path()) }
    }
}

/// Where a server that was started here keeps its data.
pub fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// Our server is usually built beside this program.
fn beside_this_program(name: &str) -> String {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name(name));
    beside.filter(|path| path.exists()).map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_kind_format_program_and_arguments() {
        let server = Server::parse("victoria-metrics@import=/opt/vm -memory.allowedPercent=10").unwrap();
        assert_eq!((server.kind, server.format), (Kind::VictoriaMetrics, Format::Import));
        assert_eq!((server.name.as_str(), server.program.as_str()), ("victoria-metrics@import", "/opt/vm"));
        assert_eq!(server.arguments, ["-memory.allowedPercent=10"]);

        let server = Server::parse("prometheus=--storage.tsdb.wal-compression").unwrap();
        assert_eq!((server.program.as_str(), server.arguments.len()), ("prometheus", 1));
        assert!(server.command_line().ends_with(" --storage.tsdb.wal-compression"));

        let server = Server::parse("mine@v2=http://host:9090/prefix").unwrap();
        assert_eq!((server.name.as_str(), server.format), ("mine@v2", Format::V2));
        let url = Url { authority: "host:9090".into(), path: "/prefix".into() };
        assert_eq!(server.kind, Kind::Running(url.clone()));
        let started = Started { process: None, url, start: Duration::ZERO };
        assert_eq!(started.write_url(Format::V2).path, "/prefix/api/v1/write");

        for wrong in ["thanos", "prometheus@v3", "chronolith@import", "mine=ftp://host", "mine"] {
            assert!(Server::parse(wrong).is_err(), "{wrong}");
        }
    }
}
