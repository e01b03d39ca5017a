//! Figures of all queries and servers: ratios, geometric means, tables.

use crate::measure::{count, median};
use crate::queries::Query;
use crate::servers::Kind;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What one query took on one server.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub cpu_ms: f64,
    /// Until the last byte was read.
    pub wall_ms: f64,
    pub n_series: usize,
    pub n_points: usize,
    pub size_bytes: usize,
}

impl Measured {
    pub fn new(cpu_ms: f64, wall_ms: f64, answer: &[u8]) -> Self {
        let (n_series, n_points) = count(answer);
        Self { cpu_ms, wall_ms, n_series, n_points, size_bytes: answer.len() }
    }

    /// Medians of several runs of one query; `None` if there is none.
    pub fn median(runs: &[Self]) -> Option<Self> {
        let of = |figure: fn(&Self) -> f64| median(&mut runs.iter().map(figure).collect::<Vec<_>>());
        let first = *runs.first()?;
        Some(Self { cpu_ms: of(|run| run.cpu_ms), wall_ms: of(|run| run.wall_ms), ..first })
    }
}

/// What a server did before a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It answered the same query.
    Warm,
    /// It was started cold, and answered other queries.
    FirstRuns,
    /// It was started cold, and nothing was asked.
    Alone,
}

impl State {
    const ALL: [Self; 3] = [Self::Warm, Self::FirstRuns, Self::Alone];

    const fn title(self) -> &'static str {
        match self {
            Self::Warm => "Warm",
            Self::FirstRuns => "Cold, first runs",
            Self::Alone => "Cold, alone",
        }
    }
}

/// One line of the tables.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    query: String,
    text: String,
    server: Kind,
    state: State,
    #[serde(flatten)]
    measured: Measured,
}

/// All figures of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    hosts: u32,
    scrapes: u32,
    servers: Vec<Kind>,
    lines: Vec<Line>,
}

/// Ours may be slower than a peer by so much.
const SLACK: f64 = 1.1;
const SLACK_MS: f64 = 0.5;

impl Report {
    pub fn new(hosts: u32, scrapes: u32, servers: Vec<Kind>) -> Self {
        Self { hosts, scrapes, servers, lines: Vec::new() }
    }

    pub fn add(&mut self, query: &Query, server: Kind, state: State, measured: Measured) {
        eprintln!("{:<17} {:<17} {:<28} {measured}", state.title(), server.to_string(), query.name);
        let line = Line { query: query.name.to_owned(), text: query.describe(), server, state, measured };
        self.lines.push(line);
    }

    /// Adds what an earlier run found of servers that this one did not measure.
    pub fn merge(&mut self, earlier: Self) {
        let new = earlier.lines.into_iter().filter(|line| !self.servers.contains(&line.server));
        self.lines.extend(new);
        let new = earlier.servers.into_iter().filter(|server| !self.servers.contains(server));
        self.servers.extend(new.collect::<Vec<_>>());
    }

    fn find(&self, query: &str, server: Kind, state: State) -> Option<&Measured> {
        let line = self.lines.iter().find(|l| l.query == query && l.server == server && l.state == state)?;
        Some(&line.measured)
    }

    /// Names of the queries, in order.
    fn queries(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for line in &self.lines {
            if !names.contains(&line.query.as_str()) {
                names.push(&line.query);
            }
        }
        names
    }

    /// Tables, and what they come to.
    pub fn markdown(&self) -> String {
        let mut out = format!("{} hosts, {} scrapes\n", self.hosts, self.scrapes);
        for state in State::ALL {
            if self.lines.iter().any(|line| line.state == state) {
                self.table(&mut out, state);
            }
        }
        out.push_str(&self.disagreements());
        out
    }

    fn table(&self, out: &mut String, state: State) {
        let peers: Vec<Kind> =
            self.servers.iter().copied().filter(|&kind| kind != Kind::Chronolith).collect();
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{}: CPU ms / last byte ms\n\n| query | series | Chronolith |", state.title());
        for peer in &peers {
            let _ = write!(out, " {peer} | ratio |");
        }
        let _ = writeln!(out, "\n|---|---|---|{}", "---|---|".repeat(peers.len()));
        let mut ratios = vec![Ratios::default(); peers.len()];
        for query in self.queries() {
            let Some(ours) = self.find(query, Kind::Chronolith, state) else { continue };
            let _ = write!(out, "| {query} | {} | {:.2} / {:.2} |", ours.n_series, ours.cpu_ms, ours.wall_ms);
            for (peer, ratios) in peers.iter().zip(&mut ratios) {
                match self.find(query, *peer, state) {
                    Some(theirs) => {
                        ratios.add(query, ours, theirs);
                        let (cpu, wall) = (theirs.cpu_ms / ours.cpu_ms, theirs.wall_ms / ours.wall_ms);
                        let _ = write!(
                            out,
                            " {:.2} / {:.2} | {cpu:.1} / {wall:.1} |",
                            theirs.cpu_ms, theirs.wall_ms
                        );
                    }
                    None => out.push_str(" | |"),
                }
            }
            out.push('\n');
        }
        out.push('\n');
        for (peer, ratios) in peers.iter().zip(&ratios) {
            let _ = writeln!(out, "{}", ratios.summary(*peer));
        }
    }

    /// Where servers did not give the same number of series or points.
    fn disagreements(&self) -> String {
        let mut out = String::new();
        for query in self.queries() {
            let sizes: Vec<(Kind, usize, usize)> = self
                .lines
                .iter()
                .filter(|line| line.query == query && line.state == State::Warm)
                .map(|line| (line.server, line.measured.n_series, line.measured.n_points))
                .collect();
            if sizes.windows(2).any(|pair| (pair[0].1, pair[0].2) != (pair[1].1, pair[1].2)) {
                let sizes: Vec<String> = sizes
                    .iter()
                    .map(|(server, series, points)| format!("{server} {series} series, {points} points"))
                    .collect();
                let _ = writeln!(out, "\nAnswers differ in size: {query}: {}", sizes.join("; "));
            }
        }
        out
    }
}

/// Theirs over ours, over all queries.
#[derive(Clone, Debug, Default)]
struct Ratios {
    cpu: Vec<f64>,
    wall: Vec<f64>,
    worst: Option<(f64, String)>,
    slower: Vec<String>,
}

impl Ratios {
    fn add(&mut self, query: &str, ours: &Measured, theirs: &Measured) {
        self.cpu.push(theirs.cpu_ms / ours.cpu_ms);
        let wall = theirs.wall_ms / ours.wall_ms;
        self.wall.push(wall);
        if self.worst.as_ref().is_none_or(|(worst, _)| wall < *worst) {
            self.worst = Some((wall, query.to_owned()));
        }
        if ours.wall_ms > (theirs.wall_ms * SLACK).max(theirs.wall_ms + SLACK_MS) {
            self.slower.push(query.to_owned());
        }
    }

    fn summary(&self, peer: Kind) -> String {
        let (worst, query) = self.worst.clone().unwrap_or((f64::NAN, String::new()));
        let slower = if self.slower.is_empty() { "none".to_owned() } else { self.slower.join(", ") };
        format!(
            "{peer}: {:.2} times our CPU, {:.2} times our time by geometric mean; worst ratio of times {worst:.2} ({query}); slower than it: {slower}.",
            geometric_mean(&self.cpu),
            geometric_mean(&self.wall),
        )
    }
}

fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queries::Ask;

    fn measured(cpu_ms: f64, wall_ms: f64, n_series: usize) -> Measured {
        Measured { cpu_ms, wall_ms, n_series, n_points: n_series, size_bytes: 1 }
    }

    #[test]
    fn the_median_of_runs_is_that_of_each_figure() {
        let runs = [(1.0, 30.0), (3.0, 10.0), (2.0, 20.0)].map(|(cpu, wall)| measured(cpu, wall, 4));
        assert_eq!(Measured::median(&runs), Some(measured(2.0, 20.0, 4)));
        assert_eq!(Measured::median(&[]), None);
    }

    #[test]
    fn tables_tell_ratios_means_and_who_is_slower() {
        let mut report = Report::new(1, 2, vec![Kind::Chronolith, Kind::Prometheus]);
        let query = |name| Query { name, ask: Ask::Instant("up") };
        for (name, ours, theirs, n) in [("a", 1.0, 4.0, 3), ("b", 2.0, 2.0, 3), ("c", 9.0, 2.25, 5)] {
            report.add(&query(name), Kind::Chronolith, State::Warm, measured(ours, ours, n));
            report.add(&query(name), Kind::Prometheus, State::Warm, measured(theirs, theirs, 3));
        }
        let text = report.markdown();
        assert!(text.contains("| a | 3 | 1.00 / 1.00 | 4.00 / 4.00 | 4.0 / 4.0 |"), "{text}");
        assert!(text.contains("prometheus: 1.00 times our CPU, 1.00 times our time"), "{text}");
        assert!(text.contains("worst ratio of times 0.25 (c); slower than it: c."), "{text}");
        assert!(text.contains("differ in size: c: chronolith 5 series"), "{text}");
        assert!(!text.contains("Cold"), "{text}");

        let mut ours = Report::new(1, 2, vec![Kind::Chronolith]);
        ours.add(&query("a"), Kind::Chronolith, State::Warm, measured(2.0, 2.0, 3));
        ours.merge(serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap());
        assert!(ours.markdown().contains("| a | 3 | 2.00 / 2.00 | 4.00 / 4.00 | 2.0 / 2.0 |"));
    }
}
