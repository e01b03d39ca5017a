//! What stores of time series find hard, each case with what it took: a year that is backfilled in random order,
//! an agent that is hours late all day, labels of many cold blocks, a tenth of a million series deleted, and the
//! start of a store of ten thousand files.
//!
//! `cargo run --release -p chronolith-benches --bin awkward -- --help`

mod bed;
mod cases;

use bed::{Bed, Step};
use chronolith_benches::compare::report;
use chronolith_benches::compare::servers::Server;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Does to a server what stores of time series find hard, and says what that took")]
struct Args {
    /// The server, as `loadgen compare` takes it: `chronolith`, `victoria-metrics@v2=PROGRAM ARGS`.
    #[arg(long, default_value = "chronolith")]
    server: String,
    /// The cases; all of them, if none is given.
    #[arg(long = "case", value_enum)]
    cases: Vec<Case>,
    /// Series, or blocks, are so many times as many.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Folder for the data; a temporary one that goes away, if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes what was measured there, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// A year of 1,000 series every five minutes; its hours arrive in random order.
    Backfill,
    /// A day of 20 agents of 500 series every 15 s; one of them is three hours late throughout.
    Late,
    /// Label values, names and series over 25 blocks of 100,000 series, nothing of them in memory.
    Labels,
    /// A million series; a tenth is deleted, and labels are looked up before and after.
    Delete,
    /// 2,000 blocks of 31 days, which are 10,000 files, are opened.
    Files,
}

impl Case {
    const fn title(self) -> &'static str {
        match self {
            Self::Backfill => "a year backfilled in random order",
            Self::Late => "one agent three hours late for a day",
            Self::Labels => "labels cold over 25 blocks",
            Self::Delete => "a tenth of a million series deleted",
            Self::Files => "a store of 10,000 files",
        }
    }

    /// What the server needs to be told.
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Backfill | Self::Late => &["--storage.tsdb.retention.time=3y"],
            // A tenth of the retention is the longest block, so that days stay apart.
            Self::Labels => &["--storage.tsdb.retention.time=27d", "--storage.tsdb.min-block-duration=1d"],
            Self::Delete => &["--web.enable-admin-api"],
            Self::Files => &["--storage.tsdb.retention.time=0s", "--storage.tsdb.min-block-duration=31d"],
        }
    }

    fn run(self, bed: &mut Bed, scale: f64) -> Result<(), String> {
        match self {
            Self::Backfill => cases::backfill(bed, scale),
            Self::Late => cases::late(bed, scale),
            Self::Labels => cases::labels(bed, scale),
            Self::Delete => cases::delete(bed, scale),
            Self::Files => cases::files(bed, scale),
        }
    }
}

#[derive(serde::Serialize)]
struct Report {
    machine: String,
    load: String,
    server: String,
    scale: f64,
    cases: Vec<(&'static str, Vec<Step>)>,
}

fn main() -> Result<(), String> {
    let args = Args::parse();
    let server = Server::parse(&args.server)?;
    let temporary = tempfile::tempdir().map_err(|e| e.to_string())?;
    let root = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let cases = if args.cases.is_empty() { Case::value_variants() } else { &args.cases };
    std::fs::create_dir_all(&root).map_err(|e| format!("{}: {e}", root.display()))?;
    let mut report = Report {
        machine: report::machine(&root),
        load: report::load(),
        server: server.version(),
        scale: args.scale,
        cases: Vec::new(),
    };
    println!("{}; load {}; {}\n", report.machine, report.load, report.server);
    println!(
        "| | samples | wall | CPU | peak memory | written | on disk | files |\n|---|---|---|---|---|---|---|---|"
    );
    for case in cases {
        let dir = root.join(format!("{case:?}").to_lowercase());
        if dir.exists() {
            return Err(format!("{} is there already", dir.display()));
        }
        println!("| **{}** | | | | | | | |", case.title());
        let mut bed = Bed::start(&server, case.arguments(), &dir)?;
        case.run(&mut bed, args.scale)?;
        report.cases.push((case.title(), bed.end()?));
        std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
        std::fs::write(path, json).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}
