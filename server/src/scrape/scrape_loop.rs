//! One target's loop: wait, fetch, append; and, when the target is gone, staleness markers.
//!
//! Source: Prometheus v3.14, `scrape/scrape.go`, `run`, `scrapeAndReport`, `endOfRunStaleness`.

use super::Appender;
use super::client::Client;
use super::error::ScrapeError;
use super::failure_log::FailureLog;
use super::metrics::ScrapeMetrics;
use super::process::Processor;
use super::schedule::Schedule;
use super::target::Target;
use crate::config::ScrapeConfig;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// What the loops of a pool share. A reload swaps it; loops look at it before each scrape.
#[derive(Debug)]
pub(super) struct PoolSettings {
    pub config: Arc<ScrapeConfig>,
    pub client: Client,
    pub failure_log: Option<Arc<FailureLog>>,
    /// Another number whenever labels may come out differently than before.
    pub rules: u64,
    /// Why targets of this pool are not fetched at all.
    pub refusal: Option<String>,
}

/// What a loop works with.
pub(super) struct LoopContext {
    pub target: Arc<Target>,
    pub settings: Arc<ArcSwap<PoolSettings>>,
    pub appender: Arc<dyn Appender>,
    pub metrics: ScrapeMetrics,
    /// Spreads the targets of several servers.
    pub offset_seed: u64,
    /// Turns true when the process shuts down.
    pub shutdown: watch::Receiver<bool>,
    /// Held as long as the loop may still append.
    pub alive: mpsc::Sender<()>,
}

/// A running loop. To drop it stops scraping; staleness markers follow.
#[derive(Debug)]
pub(super) struct LoopHandle {
    pub target: Arc<Target>,
    _stop: watch::Sender<()>,
}

/// Starts scraping a target. Must be called within a tokio runtime.
pub(super) fn start(context: LoopContext) -> LoopHandle {
    let (stop, stopped) = watch::channel(());
    let target = Arc::clone(&context.target);
    tokio::spawn(run(context, stopped));
    LoopHandle { target, _stop: stop }
}

/// Completes when the handle of the loop is dropped.
async fn closed(stopped: &mut watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

async fn run(context: LoopContext, mut stopped: watch::Receiver<()>) {
    let mut shutdown = context.shutdown.clone();
    let hash = context.target.hash() ^ context.offset_seed;
    let mut schedule = Schedule::new(context.target.interval_ms, hash, now_ns());
    let processor =
        Processor::new(Arc::clone(&context.target), Arc::clone(&context.appender), context.metrics.clone());
    let mut processor = Some(processor);
    let mut last_started: Option<Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(schedule.delay(now_ns())) => {}
            () = closed(&mut stopped) => break,
            _ = shutdown.wait_for(|is_down| *is_down) => return,
        }
        let timestamp = schedule.timestamp_ms(now_ns());
        if let Some(last_started) = last_started.replace(Instant::now()) {
            let length_s = last_started.elapsed().as_secs_f64();
            context.metrics.observe_length(context.target.interval_ms, length_s);
        }
        // A reload lets a scrape finish, only the end of the process cuts it short.
        tokio::select! {
            done = scrape(&context, &mut processor, timestamp) => if !done { return },
            _ = shutdown.wait_for(|is_down| *is_down) => return,
        }
        schedule.advance(now_ns());
    }
    if last_started.is_some() {
        tokio::select! {
            () = end(&context, processor, schedule) => {}
            _ = shutdown.wait_for(|is_down| *is_down) => {}
        }
    }
}

/// One scrape. Returns false if the processor was lost to a panic, which ends the loop.
async fn scrape(context: &LoopContext, processor: &mut Option<Processor>, timestamp: i64) -> bool {
    let started = Instant::now();
    let settings = context.settings.load_full();
    let fetched = fetch(context, &settings).await;
    let Some(mut working) = processor.take() else { return false };
    let alive = context.alive.clone();
    let target = Arc::clone(&context.target);
    let worked = tokio::task::spawn_blocking(move || {
        let failure = working.scrape(&settings.config, settings.rules, fetched, timestamp, started);
        if let (Some(log), Some(reason)) = (&settings.failure_log, failure) {
            log.write(&target.url, &reason);
        }
        drop(alive);
        working
    });
    match worked.await {
        Ok(working) => {
            *processor = Some(working);
            true
        }
        Err(error) => {
            tracing::error!(target_url = %context.target.url, %error, "Scrape loop ended by a panic");
            false
        }
    }
}

async fn fetch(
    context: &LoopContext,
    settings: &PoolSettings,
) -> Result<super::client::Fetched, ScrapeError> {
    if let Some(reason) = &settings.refusal {
        return Err(ScrapeError::Pool(reason.clone()));
    }
    let target = &context.target;
    let timeout = Duration::from_millis(target.timeout_ms.unsigned_abs());
    match &target.unix_socket {
        None => settings.client.fetch(&target.url, timeout).await,
        Some(path) => {
            let client = Client::new(&settings.config, Some(path)).map_err(ScrapeError::Pool)?;
            client.fetch(&target.url, timeout).await
        }
    }
}

/// Waits until the target, should it have come back, has been scraped twice, and marks what is still
/// not newer as stale, dated when the next scrape would have been.
async fn end(context: &LoopContext, processor: Option<Processor>, schedule: Schedule) {
    let Some(mut processor) = processor else { return };
    let delay = schedule.delay(now_ns());
    tokio::time::sleep(delay).await;
    let timestamp = now_ns() / 1_000_000;
    let interval = Duration::from_millis(context.target.interval_ms.unsigned_abs());
    tokio::time::sleep(interval + interval / 10).await;
    let alive = context.alive.clone();
    let ended = tokio::task::spawn_blocking(move || {
        processor.end(timestamp);
        drop(alive);
    });
    if let Err(error) = ended.await {
        tracing::error!(target_url = %context.target.url, %error, "Staleness markers ended by a panic");
    }
}

/// Nanoseconds since the epoch.
fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
