//! `chronolith explain`: asks a server how it evaluates a query, and prints the answer.

use crate::config::HttpClientConfig;
use crate::http_client::HttpClient;
use axum::http::HeaderMap;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use http_body_util::{BodyExt as _, Limited};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

/// Longer answers are refused: a thousand parts of a plan take some hundred kilobytes.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Runs the command; `args` begin with `explain`.
pub fn run(args: impl IntoIterator<Item = String>) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // Help goes to standard output, mistakes to standard error; nobody is left to tell if that is closed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(crate::cli::EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(ask(&url(&matches))) {
        Ok((true, answer)) => {
            let _ = std::io::stdout().write_all(&answer);
            ExitCode::SUCCESS
        }
        Ok((false, answer)) => {
            eprintln!("error: {}", String::from_utf8_lossy(&answer));
            ExitCode::FAILURE
        }
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let text =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help).value_name("TEXT");
    Command::new("chronolith explain")
        .about("How a server evaluates a query: the tree of its plan, what it reads, and why.")
        .arg(
            text("server.url", "The server, with its route prefix if it has one.")
                .default_value("http://localhost:9090"),
        )
        .arg(
            Arg::new("analyze")
                .long("analyze")
                .action(ArgAction::SetTrue)
                .help("Evaluate the query and show what each part took."),
        )
        .arg(text("time", "Of an instant query, as the API takes it; now by default."))
        .arg(text("start", "First step of a range query.").requires_all(["end", "step"]))
        .arg(text("end", "Last step of a range query.").requires("start"))
        .arg(text("step", "Between the steps of a range query.").requires("start"))
        .arg(text("timeout", "Longest time the query may take."))
        .arg(
            text("format", "How the answer is printed.")
                .value_parser(PossibleValuesParser::new(["text", "json"]))
                .default_value("text"),
        )
        .arg(Arg::new("query").required(true).value_name("QUERY").help("PromQL."))
}

fn url(matches: &ArgMatches) -> String {
    let value = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let server = value("server.url").unwrap_or_default().trim_end_matches('/');
    let mut url = format!("{server}/api/v1/explain?analyze={}", matches.get_flag("analyze"));
    for name in ["query", "time", "start", "end", "step", "timeout", "format"] {
        let Some(value) = value(name) else { continue };
        write!(url, "&{name}=").expect("a string takes all");
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => url.push(char::from(byte)),
                _ => write!(url, "%{byte:02X}").expect("a string takes all"),
            }
        }
    }
    url
}

/// Whether the server could answer, and what it said.
async fn ask(url: &str) -> Result<(bool, Vec<u8>), String> {
    let client = HttpClient::new(&HttpClientConfig::default(), None).map_err(|error| error.to_string())?;
    let response = client.get(url, HeaderMap::new()).await.map_err(|error| error.to_string())?;
    let good = response.status().is_success();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| format!("cannot read the answer: {error}"))?.to_bytes();
    Ok((good, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url_of(args: &[&str]) -> String {
        let args = ["explain"].iter().chain(args);
        url(&command().try_get_matches_from(args).unwrap())
    }

    #[test]
    fn arguments_become_parameters() {
        assert_eq!(
            url_of(&["up"]),
            "http://localhost:9090/api/v1/explain?analyze=false&query=up&format=text"
        );
        assert_eq!(
            url_of(&[
                "--server.url=http://h:1/p/",
                "--analyze",
                "--start=1",
                "--end=2",
                "--step=1m",
                "--format=json",
                "a + b"
            ]),
            "http://h:1/p/api/v1/explain?analyze=true&query=a%20%2B%20b&start=1&end=2&step=1m&format=json"
        );
    }

    #[test]
    fn mistakes_are_told() {
        for args in [&["explain"][..], &["explain", "--start=1", "up"], &["explain", "--what", "up"]] {
            assert!(command().try_get_matches_from(args).is_err(), "{args:?}");
        }
        command().debug_assert();
    }
}
