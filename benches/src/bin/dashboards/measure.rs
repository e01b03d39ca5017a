//! One query on one server: CPU time, time to the last byte, and the size of the answer.

use crate::report::Measured;
use crate::servers::Server;
use chronolith_benches::http::Client;
use chronolith_benches::process::CpuClock;
use serde_json::Value;
use std::time::Instant;

/// How much of a warm measurement is enough.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Fewest requests.
    pub repeat: u32,
    /// Least CPU time.
    pub cpu_seconds: f64,
}

/// Requests before the measurement, so that caches hold what they can.
const WARM_UP: u32 = 3;
/// A measurement ends after so many requests, or so many seconds, whatever the CPU time.
const MAX_REQUESTS: u32 = 1000;
const MAX_SECONDS: f64 = 20.0;

/// Repeated requests: mean CPU time, median time to the last byte.
pub fn warm(server: &Server, path: &str, options: &Options) -> Result<Measured, String> {
    let mut client = server.client()?;
    let mut answer = Vec::new();
    for _ in 0..WARM_UP {
        answer = ask(&mut client, path)?.0;
    }
    let clock = CpuClock::new(server.pid()?);
    let read = || clock.read().map_err(|e| e.to_string());
    let (before, begin) = (read()?, Instant::now());
    let mut walls = Vec::new();
    let mut cpu_seconds = 0.0;
    while (walls.len() as u32) < MAX_REQUESTS
        && begin.elapsed().as_secs_f64() < MAX_SECONDS
        && ((walls.len() as u32) < options.repeat || cpu_seconds < options.cpu_seconds)
    {
        walls.push(ask(&mut client, path)?.1);
        cpu_seconds = before.until(&read()?);
    }
    Ok(Measured::new(cpu_seconds * 1000.0 / walls.len() as f64, median(&mut walls), &answer))
}

/// A single request.
pub fn once(server: &Server, client: &mut Client, path: &str) -> Result<Measured, String> {
    let clock = CpuClock::new(server.pid()?);
    let before = clock.read().map_err(|e| e.to_string())?;
    let (answer, wall_ms) = ask(client, path)?;
    let after = clock.read().map_err(|e| e.to_string())?;
    Ok(Measured::new(before.until(&after) * 1000.0, wall_ms, &answer))
}

/// The body, and milliseconds until its last byte.
fn ask(client: &mut Client, path: &str) -> Result<(Vec<u8>, f64), String> {
    let begin = Instant::now();
    let response = client.get(path).map_err(|e| format!("{path}: {e}"))?;
    let wall_ms = begin.elapsed().as_secs_f64() * 1000.0;
    if response.status != 200 {
        return Err(format!("{path}: status {}: {}", response.status, response.text()));
    }
    Ok((response.body, wall_ms))
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Series (items of a list) and points of an answer.
pub fn count(body: &[u8]) -> (usize, usize) {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else { return (0, 0) };
    let data = &answer["data"];
    if let Some(list) = data.as_array() {
        return (list.len(), 0);
    }
    let list = data["result"].as_array().map_or(&[][..], Vec::as_slice);
    let points = |series: &Value| {
        let many = |key: &str| series[key].as_array().map_or(0, Vec::len);
        let one = |key: &str| usize::from(!series[key].is_null());
        many("values") + many("histograms") + one("value") + one("histogram")
    };
    (list.len(), list.iter().map(points).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_and_points_of_all_kinds_of_answers_are_counted() {
        for (body, expected) in [
            (r#"{"data":["a","b"]}"#, (2, 0)),
            (r#"{"data":{"result":[{"metric":{},"value":[1,"2"]}]}}"#, (1, 1)),
            (r#"{"data":{"result":[{"values":[[1,"2"],[2,"2"]]},{"values":[[1,"2"]]}]}}"#, (2, 3)),
            ("no JSON", (0, 0)),
        ] {
            assert_eq!(count(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert!(median(&mut []).is_nan());
    }
}
