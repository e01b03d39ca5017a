//! Queries that suit any source: one series, one metric over all instances, everything. Timed one by one after
//! samples were sent, or by several connections at once beside the sender.

use crate::expect::Expected;
use crate::http::Url;
use crate::sender::Quantiles;
use crate::verify::{Api, seconds};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Between the queries of a connection beside the sender.
const PAUSE: Duration = Duration::from_millis(100);
/// Points of a range query at most.
const MAX_POINTS: i64 = 300;

/// Times of one query.
#[derive(Clone, Debug, serde::Serialize)]
pub struct QueryTimes {
    /// What it asks, for readers.
    pub title: &'static str,
    /// Its text, or the endpoint.
    pub query: String,
    /// The first time, milliseconds.
    pub first_ms: f64,
    /// Median of all times.
    pub median_ms: f64,
    /// Bytes of the answer.
    pub answer_bytes: u64,
    /// What the server said if it refused.
    pub error: Option<String>,
}

/// Queries beside the sender.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Load {
    /// How many were answered.
    pub answered: u64,
    /// How many were not.
    pub failed: u64,
    /// Of those answered.
    pub latency_ms: Quantiles,
}

struct Query {
    title: &'static str,
    endpoint: &'static str,
    text: String,
    parameters: Vec<(&'static str, String)>,
}

/// The queries over what was sent up to `maxt`.
fn queries(expected: &Expected, maxt: i64) -> Vec<Query> {
    let (name, end) = (&expected.common_name, seconds(maxt));
    let series = &expected.series.first().map_or("up", |series| series.selector.as_str());
    let instant = |title, text: String| {
        let parameters = vec![("query", text.clone()), ("time", end.clone()), ("nocache", "1".to_owned())];
        Query { title, endpoint: "query", text, parameters }
    };
    let range = |title, text: String, length: i64| {
        let length = length.min(maxt - expected.begin).max(60_000);
        let step = (length / MAX_POINTS).max(15_000);
        let parameters = vec![
            ("query", text.clone()),
            ("start", seconds(maxt - length)),
            ("end", end.clone()),
            ("step", seconds(step)),
            ("nocache", "1".to_owned()),
        ];
        Query { title, endpoint: "query_range", text, parameters }
    };
    let mut all = vec![
        instant("one series, now", (*series).to_string()),
        range("rate of one series, an hour", format!("rate({series}[5m])"), 3_600_000),
        instant("a metric by instance, now", format!("sum by (instance) ({name})")),
        range(
            "rate of a metric by instance, an hour",
            format!("sum by (instance) (rate({name}[5m]))"),
            3_600_000,
        ),
        range("rate of a metric, all of the time", format!("sum(rate({name}[5m]))"), i64::MAX / 4),
        instant("names with most series, now", "topk(5, count by (__name__) ({__name__!=\"\"}))".to_owned()),
    ];
    let parameters = vec![("start", seconds(expected.begin)), ("end", end.clone())];
    let text = "label/instance/values".to_owned();
    all.push(Query { title: "values of a label", endpoint: "label/instance/values", text, parameters });
    all
}

fn ask(api: &mut Api, query: &Query) -> Result<(f64, u64), String> {
    let parameters: Vec<(&str, &str)> =
        query.parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let begin = Instant::now();
    let answer = api.raw(query.endpoint, &parameters)?;
    Ok((begin.elapsed().as_secs_f64() * 1000.0, answer.len() as u64))
}

/// Times each query `rounds` times.
///
/// # Errors
/// None at present: a refused query is part of the result.
pub fn measure(url: &Url, expected: &Expected, rounds: u32) -> Result<Vec<QueryTimes>, String> {
    let mut api = Api::new(url);
    let mut all = Vec::new();
    for query in queries(expected, expected.maxt) {
        let mut times = Vec::new();
        let mut result = QueryTimes {
            title: query.title,
            query: query.text.clone(),
            first_ms: 0.0,
            median_ms: 0.0,
            answer_bytes: 0,
            error: None,
        };
        for _ in 0..rounds {
            match ask(&mut api, &query) {
                Ok((time, bytes)) => {
                    times.push(time as f32);
                    result.answer_bytes = bytes;
                }
                Err(error) => {
                    result.error = Some(error);
                    break;
                }
            }
        }
        result.first_ms = times.first().copied().map_or(0.0, f64::from);
        result.median_ms = Quantiles::of(times).p50;
        all.push(result);
    }
    Ok(all)
}

/// Does `work` while `connections` connections send queries, if there are any, about the time that `clock` tells.
///
/// # Errors
/// Of `work`.
pub fn beside<T>(
    url: &Url,
    expected: &Expected,
    clock: &AtomicI64,
    connections: u32,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<(T, Option<Load>), String> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|number| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut api = Api::new(url);
                    let (mut times, mut failed) = (Vec::new(), 0u64);
                    let mut turn = number as usize;
                    while !stop.load(Ordering::Relaxed) {
                        let all = queries(expected, clock.load(Ordering::Relaxed));
                        turn += 1;
                        match ask(&mut api, &all[turn % all.len()]) {
                            Ok((time, _)) => times.push(time as f32),
                            Err(_) => failed += 1,
                        }
                        std::thread::sleep(PAUSE);
                    }
                    (times, failed)
                })
            })
            .collect();
        let result = work();
        stop.store(true, Ordering::Relaxed);
        let (mut times, mut failed) = (Vec::new(), 0);
        for client in clients {
            let (of_client, n_failed) = client.join().map_err(|_| "a client panicked".to_owned())?;
            times.extend(of_client);
            failed += n_failed;
        }
        let load = Load { answered: times.len() as u64, failed, latency_ms: Quantiles::of(times) };
        Ok((result?, (connections > 0).then_some(load)))
    })
}
