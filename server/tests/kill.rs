//! The program itself, killed while a query runs: the next start says which.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Much work on nothing: no store has to be filled for it.
const LONG_QUERY: &str = "sum_over_time(sum_over_time(vector(1)[1h:1s])[2000h:1s])";
const PATIENCE: Duration = Duration::from_secs(60);

struct Program {
    child: Child,
    log: Receiver<String>,
    address: String,
}

impl Program {
    /// Starts the program over `folder`, and returns what it logged until it was ready.
    fn start(folder: &Path) -> (Self, Vec<String>) {
        let config = folder.join("empty.yml");
        std::fs::write(&config, "").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_chronolith"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--query.max-concurrency=2", "--log.format=json"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut program = Self { child, log, address: String::new() };
        let mut lines = Vec::new();
        loop {
            let line =
                program.log.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error}: {lines:?}"));
            if let Some((_, rest)) = line.split_once("127.0.0.1:") {
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                program.address = format!("127.0.0.1:{port}");
            }
            let is_ready = line.contains("Server is ready to receive web requests.");
            lines.push(line);
            if is_ready {
                return (program, lines);
            }
        }
    }

    fn send(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn get(&self, path: &str) -> String {
        let mut text = String::new();
        self.send(path).read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Program {
    /// SIGKILL, which leaves the program no time for anything.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The queries that a start says did not finish.
fn told(lines: &[String]) -> Option<serde_json::Value> {
    let line = lines.iter().find(|line| line.contains("didn't finish in the last run"))?;
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    Some(serde_json::from_str(line["queries"].as_str().unwrap()).unwrap())
}

#[test]
fn a_query_that_ran_when_the_program_was_killed_is_named_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (program, lines) = Program::start(folder.path());
    assert_eq!(told(&lines), None);
    // This one is over when the program is killed.
    assert!(program.get("/api/v1/query?query=vector(1)").contains("\"success\""));
    let _client = program.send(&format!("/api/v1/query?query={LONG_QUERY}"));
    let since = Instant::now();
    while !program.get("/api/v1/status/active_queries").contains("\"state\":\"running\"") {
        assert!(since.elapsed() < PATIENCE, "the query does not run");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(program);

    let (program, lines) = Program::start(folder.path());
    let queries = told(&lines).unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!((queries.as_array().unwrap().len(), &queries[0]["query"]), (1, &LONG_QUERY.into()));
    drop(program);
    // What was told once is not told again.
    let (_program, lines) = Program::start(folder.path());
    assert_eq!(told(&lines), None);
}
