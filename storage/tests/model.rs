//! Random sequences of everything the store does, against a plain map. Every query must give the same
//! answer before and after sealing, merging, retention, deletion, snapshot and restart.
//!
//! `CHRONOLITH_MODEL_SEEDS=1000` runs more sequences, `CHRONOLITH_MODEL_SEED=7` runs one again.

#![cfg(feature = "engine")]

#[path = "support/store.rs"]
mod support;

use chronolith_model::append::Refusal;
use chronolith_model::matcher::MatchOp;
use chronolith_model::queryable::{HistogramNeed, Lookups, Queryable, Select};
use chronolith_model::{Labels, Matcher};
use chronolith_storage::db::Db;
use chronolith_storage::options::ManualClock;
use std::path::Path;
use std::sync::Arc;
use support::{Content, RETENTION_MS, Random, Value, WINDOW_MS};

const START_MS: i64 = 1_700_000_000_000;
const N_SERIES: u64 = 8;
const N_STEPS: usize = 60;

struct Run {
    random: Random,
    clock: Arc<ManualClock>,
    now: i64,
    db: Option<Db>,
    model: Content,
    /// What deletions took: the store may still know the newest sample of a series.
    deleted: Content,
    /// The greatest timestamp ever taken in.
    newest: i64,
    /// The limit of retention when it was the latest: older blocks may have been dropped since.
    certain: i64,
    history: Vec<String>,
}

#[test]
fn random_sequences_answer_as_the_model_does() {
    if let Ok(seed) = std::env::var("CHRONOLITH_MODEL_SEED") {
        return run(seed.parse().expect("a seed is a number"));
    }
    let n_seeds = std::env::var("CHRONOLITH_MODEL_SEEDS").map_or(4, |n| n.parse().expect("a count"));
    (0..n_seeds).for_each(run);
}

fn run(seed: u64) {
    let folder = tempfile::tempdir().expect("a test folder can be made");
    let path = folder.path().join("data");
    let clock = Arc::new(ManualClock::new(START_MS));
    let db = support::open(&path, &clock);
    let mut run = Run {
        random: Random(seed),
        clock,
        now: START_MS,
        db: Some(db),
        model: Content::new(),
        deleted: Content::new(),
        newest: i64::MIN,
        certain: i64::MIN,
        history: Vec::new(),
    };
    for step in 0..N_STEPS {
        let done = run.step(&path);
        run.history.push(done);
        if let Err(difference) = run.check() {
            panic!("seed {seed}, step {step}: {difference}\n{}", run.history.join("\n"));
        }
    }
}

impl Run {
    fn db(&self) -> &Db {
        self.db.as_ref().expect("the store is open between steps")
    }

    fn step(&mut self, path: &Path) -> String {
        match self.random.below(100) {
            0..55 => self.append(),
            55..62 => {
                // Seldom so far that much of what is stored gets too old.
                let most = if self.random.chance(10) { RETENTION_MS } else { 3 * WINDOW_MS };
                let ahead = self.random.below(most as u64) as i64;
                self.now += ahead;
                self.clock.set(self.now);
                assert!(self.db().tick());
                format!("tick after {ahead} ms")
            }
            62..70 => {
                self.db().flush().expect("it can seal");
                "flush".to_owned()
            }
            70..78 => {
                self.db().compact().expect("it can merge");
                "compact".to_owned()
            }
            78..81 => {
                self.db().enforce_retention();
                "retention".to_owned()
            }
            81..87 => self.delete(),
            87..89 => {
                self.db().clean_tombstones().expect("it can rewrite");
                "clean tombstones".to_owned()
            }
            89..92 => self.snapshot(),
            92..96 => {
                self.db.take().expect("the store is open").close().expect("it can close");
                self.db = Some(support::open(path, &self.clock));
                "restart".to_owned()
            }
            96..98 => {
                drop(self.db.take());
                self.db = Some(support::open(path, &self.clock));
                "restart without a clean stop".to_owned()
            }
            _ => self.copy(path),
        }
    }

    fn append(&mut self) -> String {
        let mut text = "append".to_owned();
        for _ in 0..self.random.below(60) + 1 {
            let series = self.series();
            let timestamp = match self.random.below(20) {
                0..14 => {
                    self.now += self.random.below(400) as i64;
                    self.now
                }
                14..17 => self.now - self.random.below(2 * WINDOW_MS as u64) as i64,
                17 => self.now - self.random.below(RETENTION_MS as u64) as i64,
                // On a coarse grid, so that duplicates are common.
                _ => (self.now - self.random.below(WINDOW_MS as u64) as i64) / 1_000 * 1_000,
            };
            self.clock.set(self.now);
            let value = match self.random.below(20) {
                0 => Value::Stale,
                1..4 => Value::Histogram(self.random.below(5)),
                4..8 => Value::Float((self.random.below(1_000) as f64 * 0.1).to_bits()),
                8 => Value::Float(f64::from_bits(0x7ff8_0000_0000_0001 + self.random.below(2)).to_bits()),
                _ => Value::Float((self.random.below(3) as f64).to_bits()),
            };
            self.append_one(&series, timestamp, value);
            text.push_str(&format!(" {series}@{timestamp}={value:?}"));
        }
        text
    }

    fn append_one(&mut self, series: &Labels, timestamp: i64, value: Value) {
        let outcome = support::append(self.db(), &[(series.clone(), timestamp, value)]);
        let known = self.model.get(series).and_then(|samples| samples.get(&timestamp)).copied();
        match outcome.first_refused {
            None => {
                self.newest = self.newest.max(timestamp);
                // The first acknowledged value stays, also where the store cannot see it at once.
                self.model.entry(series.clone()).or_default().entry(timestamp).or_insert(value);
            }
            Some((_, _, Refusal::Duplicate)) => {
                let deleted = self.deleted.get(series).and_then(|samples| samples.get(&timestamp)).copied();
                assert!(
                    known.or(deleted).is_some_and(|known| known != value),
                    "{series}@{timestamp}={value:?}"
                );
            }
            Some((_, _, Refusal::TooOld { .. })) => assert!(timestamp < self.newest - RETENTION_MS + 1),
            Some((_, _, refusal)) => panic!("{refusal}"),
        }
    }

    fn series(&mut self) -> Labels {
        let n = self.random.below(N_SERIES);
        let (metric, job) = (format!("metric_{}", n % 3), format!("job_{}", n / 3));
        support::labels(&[("__name__", &metric), ("job", &job), ("A", "upper")])
    }

    fn matchers(&mut self) -> Vec<Matcher> {
        let n = self.random.below(3);
        let matcher = |op, name: &str, value: String| Matcher::new(op, name, value).expect("it compiles");
        match self.random.below(5) {
            0 => vec![matcher(MatchOp::Equal, "__name__", format!("metric_{n}"))],
            1 => vec![matcher(MatchOp::NotEqual, "job", format!("job_{n}"))],
            2 => vec![matcher(MatchOp::Regex, "job", format!("job_[0{n}]")), Matcher::equal("A", "upper")],
            3 => vec![matcher(MatchOp::NotRegex, "__name__", format!("metric_{n}|x"))],
            _ => vec![Matcher::equal("absent", "")],
        }
    }

    fn range(&mut self) -> (i64, i64) {
        let mint = self.now - self.random.below(8 * WINDOW_MS as u64) as i64;
        (mint, mint + self.random.below(4 * WINDOW_MS as u64) as i64)
    }

    fn delete(&mut self) -> String {
        let matchers = self.matchers();
        let (mint, maxt) = if self.random.chance(20) { (i64::MIN, i64::MAX) } else { self.range() };
        self.db().delete(std::slice::from_ref(&matchers), mint, maxt).expect("it can delete");
        for (labels, samples) in support::filter(&self.model, &matchers, mint, maxt) {
            let kept = self.model.get_mut(&labels).expect("it was just found");
            kept.retain(|timestamp, _| !samples.contains_key(timestamp));
            self.deleted.entry(labels).or_default().extend(samples);
        }
        format!("delete {matchers:?} {mint} to {maxt}")
    }

    fn snapshot(&mut self) -> String {
        let folder = tempfile::tempdir().expect("a test folder can be made");
        let path = folder.path().join("snapshot");
        self.db().snapshot(&path, false).expect("it can write a snapshot");
        self.check_copy(&path);
        "snapshot".to_owned()
    }

    /// What a killed process leaves: the files as they are now.
    fn copy(&mut self, path: &Path) -> String {
        let folder = tempfile::tempdir().expect("a test folder can be made");
        support::copy_directory(path, folder.path());
        self.check_copy(folder.path());
        "copy".to_owned()
    }

    fn check_copy(&self, path: &Path) {
        let copy = support::open(path, &self.clock);
        assert_eq!(copy.status().lost, []);
        if let Some(difference) = self.difference(&copy, &[], i64::MIN, i64::MAX) {
            panic!("a copy differs: {difference}\n{}", self.history.join("\n"));
        }
    }

    fn check(&mut self) -> Result<(), String> {
        let matchers = self.matchers();
        let (mint, maxt) = self.range();
        for (matchers, mint, maxt) in [(vec![], i64::MIN, i64::MAX), (matchers, mint, maxt)] {
            if let Some(difference) = self.difference(self.db(), &matchers, mint, maxt) {
                return Err(format!("{matchers:?} {mint} to {maxt}: {difference}"));
            }
        }
        for _ in 0..4 {
            self.check_look_ups()?;
        }
        self.certain = self.certain.max(self.oldest(self.db()));
        let jobs = support::label_values(self.db(), "job");
        let expected = support::filter(&self.model, &[], self.certain, i64::MAX);
        if let Some(labels) = expected.keys().find(|labels| !jobs.contains(labels.get("job").unwrap_or(""))) {
            return Err(format!("label values lack the job of {labels}"));
        }
        Ok(())
    }

    /// Reads that ask for less see at each step what a read of everything sees, to the bit.
    fn check_look_ups(&mut self) -> Result<(), String> {
        let matchers = self.matchers();
        let n_steps = if self.random.chance(50) { 1 } else { self.random.below(30) as u32 + 1 };
        let interval = self.random.below(2 * WINDOW_MS as u64) as i64 + 1;
        let lookback = self.random.below(3 * WINDOW_MS as u64) as i64 + 1;
        let start = self.now - self.random.below(6 * WINDOW_MS as u64) as i64;
        let steps = Lookups { start, interval, n_steps, lookback };
        let need =
            [HistogramNeed::None, HistogramNeed::Stats, HistogramNeed::Full][self.random.below(3) as usize];
        let less = Select {
            lookups: self.random.chance(80).then_some(steps),
            values: self.random.chance(60),
            histograms: need,
            ..Select::whole(&matchers, start - lookback + 1, start + i64::from(n_steps - 1) * interval)
        };
        // Statistics have hints of their own.
        let histograms = if need == HistogramNeed::None { HistogramNeed::Full } else { need };
        let all = Select { lookups: None, values: true, histograms, ..less.clone() };
        let snapshot = self.db().pin().map_err(|error| error.to_string())?;
        let see =
            |select| support::look_up(&*snapshot, select, &steps, &less).map_err(|error| error.to_string());
        let (found, expected) = (see(&less)?, see(&all)?);
        if found == expected {
            return Ok(());
        }
        Err(format!("{less:?}: steps see {found:#?}, not {expected:#?}"))
    }

    /// The limit of retention, from the greatest timestamp that `db` stores. It goes back if that is deleted
    /// for good, and nobody but the store knows when.
    fn oldest(&self, db: &Db) -> i64 {
        let stored = db.status().time_range.map_or(i64::MIN, |range| range.1);
        let live = self.model.values().filter_map(|samples| samples.last_key_value()).map(|(&time, _)| time);
        assert!(live.max().unwrap_or(i64::MIN) <= stored);
        assert!(stored <= self.newest);
        stored.saturating_sub(RETENTION_MS)
    }

    /// From the limit of retention on a query finds exactly what the model holds, and nothing before it.
    fn difference(&self, db: &Db, matchers: &[Matcher], mint: i64, maxt: i64) -> Option<String> {
        let found = match support::read(db, matchers, mint, maxt) {
            Ok(found) => found,
            Err(error) => return Some(error.to_string()),
        };
        let oldest = self.oldest(db);
        let mut expected = support::filter(&self.model, matchers, mint.max(oldest), maxt);
        for (labels, samples) in &mut expected {
            let found = found.get(labels);
            let is_found = |timestamp: &i64| found.is_some_and(|found| found.contains_key(timestamp));
            // The limit has gone back; what was older than it once may be dropped.
            samples.retain(|timestamp, _| *timestamp >= self.certain || is_found(timestamp));
        }
        support::difference(&found, &expected)
    }
}
