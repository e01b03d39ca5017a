//! Measures what servers of metrics take: records pages, makes fleets, sends them by remote write or text
//! import, verifies what came back, and compares servers in one run. `loadgen --help` has examples,
//! docs/loadgen.md says what the figures mean.

mod args;

use args::{Cli, Command, CompareArgs, FormatArg, GenerateArgs, RecordArgs, SendArgs, VerifyArgs};
use chronolith_benches::compare::report::{self, Report};
use chronolith_benches::compare::servers::Server;
use chronolith_benches::compare::{Options, run};
use chronolith_benches::expect::Expected;
use chronolith_benches::http::Url;
use chronolith_benches::process::{folder_bytes, usage};
use chronolith_benches::progress::Bar;
use chronolith_benches::recording;
use chronolith_benches::sender::encode::Format;
use chronolith_benches::sender::{SendOptions, SendReport, send};
use chronolith_benches::stream::StreamWriter;
use chronolith_benches::verify::{Verified, verify};
use clap::Parser;
use std::time::Duration;

/// Servers that are compared if none is named.
const USUAL_SERVERS: [&str; 4] = ["chronolith", "chronolith@v2", "victoria-metrics", "prometheus"];

fn main() -> Result<(), String> {
    match Cli::parse().command {
        Command::Record(args) => record(&args),
        Command::Generate(args) => generate(&args),
        Command::Send(args) => send_to(&args),
        Command::Verify(args) => verify_at(&args),
        Command::Compare(args) => compare(&args),
    }
}

fn record(args: &RecordArgs) -> Result<(), String> {
    let named_url = |text: &String| {
        let (job, url) =
            text.split_once('=').ok_or_else(|| format!("{text}: expected job=http://host:port/path"))?;
        Ok::<_, String>((job.to_owned(), Url::parse(url)?))
    };
    let targets = args.target.iter().map(named_url).collect::<Result<Vec<_>, _>>()?;
    recording::record(&targets, Duration::from_secs_f64(args.interval_s), args.count, &args.file)
}

fn generate(args: &GenerateArgs) -> Result<(), String> {
    let source = args.source.open()?;
    if args.lanes == 0 {
        return Err("a stream has a lane at least".to_owned());
    }
    let mut writer = StreamWriter::create(&args.file, source.interval())?;
    let mut bar = Bar::new("writing", source.n_samples());
    let mut done = 0;
    for lane in 0..args.lanes {
        source.requests((lane, args.lanes), &mut |batch| {
            done += batch.series.len() as u64;
            bar.show(done);
            writer.push(lane, batch)
        })?;
    }
    bar.finish(done);
    writer.finish()
}

/// What sending cost, as JSON on standard output.
#[derive(serde::Serialize)]
struct Sent {
    #[serde(flatten)]
    sending: SendReport,
    samples_per_second: f64,
    server: Option<ServerCosts>,
    data_dir_bytes: Option<u64>,
    verified: Option<Verified>,
}

#[derive(serde::Serialize)]
struct ServerCosts {
    cpu_seconds: f64,
    cpu_microseconds_per_sample: f64,
    peak_resident_bytes: u64,
    written_bytes: u64,
    device_written_bytes: u64,
}

fn send_to(args: &SendArgs) -> Result<(), String> {
    let source = args.source.open()?;
    let format = match args.format {
        FormatArg::V1 => Format::V1,
        FormatArg::V2 => Format::V2,
        FormatArg::Import => Format::Import,
    };
    let mut url = Url::parse(&args.url)?;
    if url.path == "/" {
        url.path = format.path().to_owned();
    }
    let base = Url { authority: url.authority.clone(), path: "/".to_owned() };
    if args.pace.connections == 0 {
        return Err("nothing is sent without a connection".to_owned());
    }
    let options = SendOptions { url, format, connections: args.pace.connections, speed: args.pace.speed };
    let usage = || args.pid.map(usage).transpose().map_err(|e| format!("process: {e}"));
    let before = usage()?;
    let sending = send(&source, &options, "sending", &mut |_| ())?;
    let server = before.zip(usage()?).map(|(before, after)| {
        let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
        ServerCosts {
            cpu_seconds,
            cpu_microseconds_per_sample: cpu_seconds * 1e6 / sending.samples.max(1) as f64,
            peak_resident_bytes: after.peak_resident_bytes,
            written_bytes: after.written_bytes - before.written_bytes,
            device_written_bytes: after.device_written_bytes - before.device_written_bytes,
        }
    });
    let verified = match args.verify {
        true => Some(verify(&base, &Expected::of(&source, 100, None)?, "counting")?),
        false => None,
    };
    let sent = Sent {
        samples_per_second: sending.samples as f64 / sending.wall_seconds,
        server,
        data_dir_bytes: args.data_dir.as_deref().map(|dir| folder_bytes(dir).0),
        verified,
        sending,
    };
    print_json(&sent)
}

fn print_json(value: &impl serde::Serialize) -> Result<(), String> {
    println!("{}", serde_json::to_string_pretty(value).map_err(|e| e.to_string())?);
    Ok(())
}

fn verify_at(args: &VerifyArgs) -> Result<(), String> {
    if args.source.start.is_none() && args.source.source.is_none() {
        return Err(
            "--start is needed: without it, samples end a minute before now, whenever that is".to_owned()
        );
    }
    let expected = args.expect.of(&args.source.open()?)?;
    let verified = verify(&Url::parse(&args.url)?, &expected, "counting")?;
    print_json(&verified)?;
    if verified.is_whole() { Ok(()) } else { Err("not everything came back".to_owned()) }
}

fn compare(args: &CompareArgs) -> Result<(), String> {
    let servers = servers(&args.servers)?;
    let source = args.source.open()?;
    let temporary = tempfile::tempdir().map_err(|e| e.to_string())?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let options = Options {
        connections: args.pace.connections.max(1),
        speed: args.pace.speed,
        server_cpus: args.server_cpus.clone(),
        query_connections: args.query_connections,
        settle: Duration::from_secs(args.settle_s),
        query_rounds: args.query_rounds.max(1),
        keep: args.dir.is_some(),
        dir: dir.clone(),
    };
    eprintln!("sending to {} server(s): {}", servers.len(), args.source.describe(&source));
    let expected = args.expect.of(&source)?;
    let load = report::load();
    let mut report = Report {
        machine: report::machine(&dir),
        conditions: String::new(),
        command: command_line(),
        source: args.source.describe(&source),
        servers: Vec::new(),
    };
    let mut broken = Vec::new();
    for server in &servers {
        let outcome = run(server, &source, &expected, &options)?;
        for complaint in outcome.sending.complaints.iter().chain(&outcome.verified.differences) {
            eprintln!("{}: {complaint}", outcome.name);
        }
        if outcome.sending.samples_refused > 0 || outcome.lost > 0 {
            broken.push(outcome.name.clone());
        }
        report.servers.push(outcome);
    }
    report.conditions = format!(
        "One server after the other, the sender beside it; load {load} before, {} after",
        report::load()
    );
    let markdown = report.markdown();
    println!("{markdown}");
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
        std::fs::write(path, json).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if let Some(path) = &args.update {
        let told = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| told(&e))?;
        let text = report::put_between_marks(&text, &args.section, &markdown).map_err(|e| told(&e))?;
        std::fs::write(path, text).map_err(|e| told(&e))?;
    }
    // Peers may lose what they acknowledged, which the table says; ours may not.
    let ours: Vec<&String> = broken.iter().filter(|name| name.starts_with("chronolith")).collect();
    if ours.is_empty() { Ok(()) } else { Err(format!("{ours:?} refused or lost samples")) }
}

fn servers(named: &[String]) -> Result<Vec<Server>, String> {
    if !named.is_empty() {
        return named.iter().map(|text| Server::parse(text)).collect();
    }
    let all = USUAL_SERVERS.iter().map(|text| Server::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let (there, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(Server::is_installed);
    for server in &missing {
        eprintln!("{} is not installed and left out", server.program);
    }
    Ok(there)
}

/// As it was given, without folders that say nothing to others.
fn command_line() -> String {
    std::env::args().map(|word| shown(&word)).collect::<Vec<_>>().join(" ")
}

fn shown(word: &str) -> String {
    let (head, path) = match word.split_once('=') {
        Some((head, path)) if path.starts_with('/') => (format!("{head}="), path),
        _ if word.starts_with('/') => (String::new(), word),
        _ => (String::new(), word.trim_start_matches("./")),
    };
    // Arguments of the program may follow behind its path.
    let (path, rest) =
        path.split_once(' ').map_or((path, String::new()), |(path, rest)| (path, format!(" {rest}")));
    let is_path = path.starts_with('/');
    let path = if is_path { path.rsplit('/').next().unwrap_or_default() } else { path };
    let word = format!("{head}{path}{rest}");
    if word.contains([' ', '*', '|', '"']) { format!("'{word}'") } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_left_out_of_the_command_line() {
        for (word, expected) in [
            ("/opt/bin/loadgen", "loadgen"),
            ("chronolith@v2=/opt/chronolith", "chronolith@v2=chronolith"),
            (
                "chronolith=/opt/chronolith --storage.wal-sync=always",
                "'chronolith=chronolith --storage.wal-sync=always'",
            ),
            ("mine=http://host/x", "mine=http://host/x"),
            ("docs/benchmarks.md", "docs/benchmarks.md"),
        ] {
            assert_eq!(shown(word), expected);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
