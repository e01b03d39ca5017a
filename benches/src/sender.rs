//! Sending a source to a server over several connections: full speed or a stated one, every request until it
//! is answered for good.

pub mod encode;

use crate::http::{Client, Url};
use crate::progress::Bar;
use crate::source::Source;
use crate::stream::first_timestamp;
use encode::{Encoder, Format};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A connection waits for the slowest once it is ahead by so many scrapes, as agents on one clock would:
/// otherwise the scheduler of a busy machine decides what arrives out of order.
const MAX_LEAD_SCRAPES: i64 = 10;
/// After a refusal that may be repeated.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// A server that answers nothing for so long is given up.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Why a connection ends if another one fails.
const STOPPED: &str = "another connection failed";
/// Refusals that are told word by word.
const MAX_COMPLAINTS: usize = 3;

/// How to send.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// Where to.
    pub url: Url,
    /// As what.
    pub format: Format,
    /// How many connections.
    pub connections: u32,
    /// Times the natural rate; 0 is as fast as the server takes it.
    pub speed: f64,
}

/// What sending was like.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct SendReport {
    /// Samples in requests that were answered with 2xx.
    pub samples: u64,
    /// Samples in requests that were refused for good.
    pub samples_refused: u64,
    /// Requests.
    pub requests: u64,
    /// Refusals that were repeated (429, 503).
    pub retries: u64,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// From the first request to the last answer.
    pub wall_seconds: f64,
    /// Of answered requests.
    pub latency_ms: Quantiles,
    /// The first refusals.
    pub complaints: Vec<String>,
}

/// Quantiles of times in milliseconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// One in a hundred is above.
    pub p99: f64,
    /// One in a thousand is above.
    pub p999: f64,
    /// The greatest.
    pub max: f64,
}

impl Quantiles {
    /// Of unsorted times.
    pub fn of(mut times: Vec<f32>) -> Self {
        times.sort_unstable_by(f32::total_cmp);
        let at = |q: f64| {
            let rank = (times.len() as f64 * q).ceil() as usize;
            times.get(rank.clamp(1, times.len().max(1)) - 1).map_or(0.0, |time| f64::from(*time))
        };
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}

/// Counts that grow while requests are sent, for bars and for whoever watches.
#[derive(Debug, Default)]
pub struct Sent {
    samples: AtomicU64,
    refused: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
    body_bytes: AtomicU64,
    complaints: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Sends a source. `watch` is called a few times a second with the samples sent so far.
///
/// # Errors
/// If the server cannot be reached or the source is broken. Refused requests are counted instead.
pub fn send(
    source: &Source,
    options: &SendOptions,
    title: &str,
    watch: &mut dyn FnMut(u64),
) -> Result<SendReport, String> {
    let sent = Sent::default();
    let clocks: Vec<AtomicI64> = (0..options.connections).map(|_| AtomicI64::new(i64::MIN)).collect();
    let pace = Pace {
        clocks,
        lead: MAX_LEAD_SCRAPES * source.interval(),
        speed: options.speed,
        begin: Instant::now(),
    };
    let mut bar = Bar::new(title, source.n_samples());
    let mut latencies = Vec::new();
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..options.connections)
            .map(|connection| {
                let (sent, pace) = (&sent, &pace);
                scope.spawn(move || {
                    let result = send_part(source, options, connection, pace, sent);
                    pace.clocks[connection as usize].store(i64::MAX, Ordering::Relaxed);
                    if result.is_err() {
                        sent.stop.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        while senders.iter().any(|sender| !sender.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
            let samples = sent.samples.load(Ordering::Relaxed);
            bar.show(samples);
            watch(samples);
        }
        let mut first_error = None;
        for sender in senders {
            match sender.join().map_err(|_| "a sender panicked".to_owned()).flatten() {
                Ok(times) => latencies.extend(times),
                // Of several the cause.
                Err(error) if first_error.as_ref().is_none_or(|first| first == STOPPED) => {
                    first_error = Some(error);
                }
                Err(_) => {}
            }
        }
        first_error.map_or(Ok(()), Err)
    })?;
    let wall_seconds = pace.begin.elapsed().as_secs_f64();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    bar.finish(count(&sent.samples));
    Ok(SendReport {
        samples: count(&sent.samples),
        samples_refused: count(&sent.refused),
        requests: count(&sent.requests),
        retries: count(&sent.retries),
        body_bytes: count(&sent.body_bytes),
        wall_seconds,
        latency_ms: Quantiles::of(latencies),
        complaints: sent.complaints.into_inner().map_err(|_| "a sender panicked".to_owned())?,
    })
}

/// When the next request of a connection may go.
struct Pace {
    /// Time of the samples that each connection sends now; the greatest once it is done.
    clocks: Vec<AtomicI64>,
    lead: i64,
    speed: f64,
    begin: Instant,
}

impl Pace {
    fn wait(&self, connection: u32, first: i64, timestamp: i64, stop: &AtomicBool) {
        self.clocks[connection as usize].store(timestamp, Ordering::Relaxed);
        if self.speed > 0.0 {
            let due = Duration::from_secs_f64((timestamp - first).max(0) as f64 / 1000.0 / self.speed);
            std::thread::sleep(due.saturating_sub(self.begin.elapsed()));
        }
        let slowest =
            || self.clocks.iter().map(|clock| clock.load(Ordering::Relaxed)).min().unwrap_or(i64::MAX);
        while timestamp.saturating_sub(self.lead) > slowest() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

/// Sends one connection's part; the time of each request in milliseconds.
fn send_part(
    source: &Source,
    options: &SendOptions,
    connection: u32,
    pace: &Pace,
    sent: &Sent,
) -> Result<Vec<f32>, String> {
    let mut client = Client::new(options.url.authority.clone(), TIMEOUT);
    let mut encoder = Encoder::new(options.format);
    let mut latencies = Vec::new();
    let mut first = None;
    source.requests((connection, options.connections), &mut |batch| {
        if sent.stop.load(Ordering::Relaxed) {
            return Err(STOPPED.to_owned());
        }
        let timestamp = first_timestamp(batch);
        pace.wait(connection, *first.get_or_insert(timestamp), timestamp, &sent.stop);
        let body = encoder.encode(batch)?;
        let n_samples = (batch.samples.len() + batch.histograms.len()) as u64;
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        loop {
            let begin = Instant::now();
            let response = client
                .post(&options.url.path, options.format.headers(), body)
                .map_err(|e| format!("{}{}: {e}", options.url.authority, options.url.path))?;
            latencies.push(begin.elapsed().as_secs_f32() * 1000.0);
            match response.status {
                200..=299 => {
                    add(&sent.samples, n_samples);
                    break;
                }
                429 | 503 => {
                    add(&sent.retries, 1);
                    std::thread::sleep(RETRY_AFTER);
                }
                status => {
                    add(&sent.refused, n_samples);
                    let mut complaints = sent.complaints.lock().expect("no sender panicked");
                    if complaints.len() < MAX_COMPLAINTS {
                        complaints.push(format!("status {status}: {}", response.text().trim_end()));
                    }
                    break;
                }
            }
        }
        add(&sent.requests, 1);
        add(&sent.body_bytes, body.len() as u64);
        Ok(())
    })?;
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_least_time_that_enough_requests_meet() {
        let quantiles = Quantiles::of((1..=1000).rev().map(|time| time as f32).collect());
        assert_eq!(
            (quantiles.p50, quantiles.p99, quantiles.p999, quantiles.max),
            (500.0, 990.0, 999.0, 1000.0)
        );
        let one = Quantiles::of(vec![7.0]);
        assert_eq!((one.p50, one.max), (7.0, 7.0));
        assert_eq!(Quantiles::of(Vec::new()).max, 0.0);
    }

    #[test]
    fn nobody_waits_for_connections_that_are_done() {
        let clocks = vec![AtomicI64::new(i64::MIN), AtomicI64::new(i64::MAX)];
        let pace = Pace { clocks, lead: 10, speed: 0.0, begin: Instant::now() };
        pace.wait(0, 0, 1 << 40, &AtomicBool::new(false));
    }
}
