//! Query statistics, counted as Prometheus counts them: in whole and by step, with and without telling steps
//! apart, on one thread and on several.

use chronolith_query::script::parse::CommandKind;
use chronolith_query::script::run::store_load;
use chronolith_query::script::{MemoryStore, Script};
use chronolith_query::{Engine, EngineOptions, Features, NoControl, QueryRequest, QueryStats};

const LOAD: &str = "load 10s
  one 1+1x100
  three{a=\"1\",b=\"1\"} 1+1x100
  three{a=\"2\",b=\"2\"} 1+1x100
  three{a=\"3\",b=\"2\"} 1+1x100
  histogram {{schema:1 count:5 sum:20 buckets:[1 2 1 1]}}+{{schema:1 count:10 sum:5 buckets:[1 2 3 4]}}x100
  mixed 1x30 {{schema:1 count:5 sum:20 buckets:[1 2 1 1]}}x30 2x30
  gappy 1 2 3 _x30 4 5 stale _x20 6 stale 7 _x10 8
";

/// One line of the table.
struct Case {
    text: String,
    start: i64,
    end: i64,
    interval: i64,
    total: Vec<u64>,
    read: Vec<u64>,
}

fn cases() -> Vec<Case> {
    let lines = include_str!("testdata/statistics.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let columns: Vec<&str> = line.rsplitn(5, " | ").collect();
            let [read_steps, read, total_steps, total, query] = columns[..] else {
                panic!("five columns in {line:?}")
            };
            let words: Vec<&str> = query.splitn(4, ' ').collect();
            let seconds = |at: usize| words[at].parse::<i64>().expect("a number of seconds");
            let case = Case {
                text: words[3].to_owned(),
                start: seconds(0) * 1000,
                end: seconds(1) * 1000,
                interval: seconds(2) * 1000,
                total: counts(total_steps),
                read: counts(read_steps),
            };
            let sum = |counts: &[u64]| counts.iter().sum::<u64>().to_string();
            assert_eq!((sum(&case.total), sum(&case.read)), (total.to_owned(), read.to_owned()), "{line}");
            case
        })
        .collect()
}

/// `3 0x2` is 3, 0, 0.
fn counts(text: &str) -> Vec<u64> {
    let number = |text: &str| text.parse::<u64>().expect("a count");
    text.split_whitespace()
        .flat_map(|word| match word.split_once('x') {
            Some((value, times)) => vec![number(value); number(times) as usize],
            None => vec![number(word)],
        })
        .collect()
}

fn engine(per_step_stats: bool, threads: usize) -> Engine {
    let features = Features { per_step_stats, ..Features::scripts() };
    let batch_rows = (threads > 1).then_some(1);
    Engine::new(EngineOptions { features, threads, batch_rows, ..EngineOptions::default() })
}

#[test]
fn statistics_count_as_prometheus_counts() {
    let mut store = MemoryStore::with_partition_rows(1);
    for command in Script::parse(LOAD).expect("a script").commands {
        let CommandKind::Load(load) = command.kind else { panic!("only loads here") };
        store_load(&load, &mut store).expect("the series load");
    }
    let (plain, by_step, on_threads) = (engine(false, 1), engine(true, 1), engine(true, 3));
    let mut wrong = Vec::new();
    for case in cases() {
        let request = QueryRequest {
            text: &case.text,
            start: case.start,
            end: case.end,
            interval_ms: case.interval,
            range: case.interval > 0,
            lookback_delta_ms: None,
        };
        let stats = |engine: &Engine| -> QueryStats {
            let output = engine.execute(&store, &request, &NoControl);
            output.unwrap_or_else(|error| panic!("{}: {error}", case.text)).stats
        };
        let context = format!("{} from {} to {} step {}", case.text, case.start, case.end, case.interval);
        let expected = (case.total.iter().sum(), case.read.iter().sum());
        let found = stats(&plain);
        if (found.total_queryable_samples, found.samples_read) != expected {
            wrong.push(format!("{context}: {found:?}, expected {expected:?}"));
        }
        assert_eq!(found.per_step, None);
        for engine in [&by_step, &on_threads] {
            let found = stats(engine).per_step.expect("the feature is on");
            if (&found.total_queryable_samples, &found.samples_read) != (&case.total, &case.read) {
                wrong.push(format!("{context}: {found:?}, expected {:?} and {:?}", case.total, case.read));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
