//! All scrape pools, and how they follow the configuration.
//!
//! Source: Prometheus v3.14, `scrape/manager.go`.

use super::Appender;
use super::metrics::ScrapeMetrics;
use super::pool::{Pool, PreparedPool, Shared};
use crate::config::Config;
use crate::store::Store;
use crate::targets::{PoolStatus, Scraping};
use crate::telemetry::metrics::Registry;
use chronolith_model::append::{AppendBatch, AppendOutcome};
use chronolith_storage::AppendError;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// What a manager needs to know apart from the configuration.
#[derive(Clone, Debug, Default)]
pub struct ScrapeOptions {
    /// Spreads the scrapes of several servers that scrape the same targets; any number that differs
    /// between them and stays the same when one restarts, such as a hash of the host name.
    pub offset_seed: u64,
}

/// Scrapes the targets of the configuration that was applied last.
pub struct ScrapeManager {
    metrics: ScrapeMetrics,
    state: Mutex<State>,
    shutdown: watch::Sender<bool>,
    /// Yields `None` once nobody can append any more.
    all_done: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

struct State {
    /// `None` after [`ScrapeManager::shutdown`].
    shared: Option<Shared>,
    pools: BTreeMap<String, Pool>,
}

impl ScrapeManager {
    /// A manager without targets; [`Scraping::apply`] gives it some.
    pub fn new(store: Arc<dyn Store>, registry: &Arc<Registry>, options: ScrapeOptions) -> Arc<Self> {
        Self::with_appender(Arc::new(ToStore(store)), registry, options)
    }

    pub(super) fn with_appender(
        appender: Arc<dyn Appender>,
        registry: &Arc<Registry>,
        options: ScrapeOptions,
    ) -> Arc<Self> {
        let (shutdown, is_shutdown) = watch::channel(false);
        let (alive, all_done) = mpsc::channel(1);
        let metrics = ScrapeMetrics::new(registry);
        let shared = Shared {
            appender,
            metrics: metrics.clone(),
            offset_seed: options.offset_seed,
            shutdown: is_shutdown,
            alive,
        };
        Arc::new(Self {
            metrics,
            state: Mutex::new(State { shared: Some(shared), pools: BTreeMap::new() }),
            shutdown,
            all_done: tokio::sync::Mutex::new(all_done),
        })
    }
}

struct ToStore(Arc<dyn Store>);

impl Appender for ToStore {
    fn append(&self, batch: &AppendBatch<'_>, want_refs: bool) -> Result<AppendOutcome, AppendError> {
        self.0.append(batch, want_refs)
    }
}

impl Scraping for ScrapeManager {
    /// Scrapes by this configuration from now on. Targets that stay go on undisturbed; series of
    /// targets that are gone are marked stale. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What of the configuration cannot be used; everything is then as it was before.
    fn apply(&self, config: &Config) -> Result<(), String> {
        self.metrics.reloads.inc();
        let prepared: Result<Vec<_>, String> =
            config.scrape_configs.iter().map(|config| PreparedPool::new(Arc::clone(config))).collect();
        let prepared = prepared.inspect_err(|_| self.metrics.reloads_failed.inc())?;
        let mut state = self.state.lock();
        let State { shared: Some(shared), pools } = &mut *state else { return Ok(()) };
        pools.retain(|name, _| {
            let stays = prepared.iter().any(|prepared| prepared.job_name() == name);
            if !stays {
                self.metrics.remove_pool(name);
            }
            stays
        });
        for prepared in prepared {
            let name = prepared.job_name().to_owned();
            match pools.get_mut(&name) {
                Some(pool) => pool.reload(prepared, shared),
                None => {
                    pools.insert(name, Pool::start(prepared, shared));
                }
            }
        }
        self.metrics.pools.set(pools.len() as f64);
        Ok(())
    }

    /// All pools, by job name.
    fn pools(&self) -> Vec<PoolStatus> {
        self.state.lock().pools.values().map(Pool::status).collect()
    }

    /// Stops scraping and waits for appends that have begun. No staleness markers are written: after a
    /// restart the targets are most likely scraped on.
    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.shutdown.send_replace(true);
        {
            let mut state = self.state.lock();
            state.pools.clear();
            state.shared = None;
        }
        Box::pin(async {
            let mut all_done = self.all_done.lock().await;
            while all_done.recv().await.is_some() {}
        })
    }
}
