//! What all parts of the running server share.

use crate::api::sending::Sending;
use crate::api::work::ShortWork;
use crate::cli::Settings;
use crate::config::Config;
use crate::queries::ActiveQueries;
use crate::query_log::QueryLog;
use crate::remote::known::KnownRequests;
use crate::store::Store;
use crate::targets::{PoolStatus, Scraping};
use crate::telemetry::Registry;
use arc_swap::{ArcSwap, ArcSwapOption};
use chronolith_query::{Engine, EngineOptions, Features, ResultCache};
use chronolith_storage::options::ReplayProgress;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

/// Shared by handlers and background tasks.
pub struct State {
    /// The command line.
    pub settings: Settings,
    /// The configuration in force.
    pub config: ArcSwap<Config>,
    /// Metrics of the process.
    pub registry: Arc<Registry>,
    /// The query engine.
    pub engine: Engine,
    /// As many permits as queries may run at once.
    pub query_gate: Arc<Semaphore>,
    /// As many permits as remote-write requests may be worked on at once.
    pub remote_write_gate: Arc<Semaphore>,
    /// Remote-write requests and short queries that are worked on where they were read, on threads of the runtime: one
    /// thread fewer than it has, so that one is always left for everybody else.
    pub at_once: Semaphore,
    /// Which queries and look-ups are short.
    pub short_work: ShortWork,
    /// Remote-write requests that came before with other samples.
    pub known_requests: KnownRequests,
    /// Results of range queries.
    pub results: ResultCache,
    /// Large answers that clients have not read yet.
    pub sending: Arc<Sending>,
    /// Queries that wait, run or are being sent.
    pub queries: Arc<ActiveQueries>,
    /// `global.query_log_file`
    pub query_log: QueryLog,
    /// How far replay has come.
    pub progress: Arc<ReplayProgress>,
    /// Asks for a reload; the answer comes back through the sender inside.
    pub reload: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
    /// Asks for an orderly stop.
    pub quit: Notify,
    /// When the process started.
    pub started_at: SystemTime,
    /// How the last reload went.
    pub last_reload: parking_lot::Mutex<LastReload>,
    /// Scraping, once it runs.
    pub scraping: OnceLock<Arc<dyn Scraping>>,
    /// The addresses that are listened on.
    pub addresses: parking_lot::Mutex<Vec<std::net::SocketAddr>>,
    store: ArcSwapOption<StoreHandle>,
    stopping: AtomicBool,
}

/// An `ArcSwap` holds thin pointers only; this makes one of a trait object.
struct StoreHandle(Arc<dyn Store>);

/// How the last reload went.
#[derive(Clone, Copy, Debug)]
pub struct LastReload {
    /// Whether the configuration in force is the one in the file.
    pub successful: bool,
    /// When a configuration was last taken.
    pub at: SystemTime,
}

impl State {
    /// The state at the start: no store yet, so not ready.
    pub fn new(
        settings: Settings,
        config: Config,
        registry: Arc<Registry>,
        reload: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
    ) -> Self {
        let engine = Engine::new(engine_options(&settings, &config));
        let now = SystemTime::now();
        Self {
            query_gate: Arc::new(Semaphore::new(settings.max_concurrent_queries)),
            remote_write_gate: Arc::new(Semaphore::new(settings.remote_write_max_in_flight)),
            short_work: ShortWork::default(),
            at_once: Semaphore::new(if settings.wal_sync_always { 0 } else { n_threads() - 1 }),
            known_requests: KnownRequests::default(),
            config: ArcSwap::from_pointee(config),
            registry,
            engine,
            results: ResultCache::new(settings.result_cache_bytes),
            sending: Arc::default(),
            queries: Arc::default(),
            query_log: QueryLog::default(),
            progress: Arc::default(),
            reload,
            quit: Notify::new(),
            started_at: now,
            last_reload: parking_lot::Mutex::new(LastReload { successful: true, at: now }),
            scraping: OnceLock::new(),
            addresses: parking_lot::Mutex::default(),
            store: ArcSwapOption::empty(),
            stopping: AtomicBool::new(false),
            settings,
        }
    }

    /// The store, once it is open and until the server stops.
    pub fn store(&self) -> Option<Arc<dyn Store>> {
        self.store.load().as_ref().map(|handle| Arc::clone(&handle.0))
    }

    /// From here on the server is ready.
    pub fn set_store(&self, store: Arc<dyn Store>) {
        self.store.store(Some(Arc::new(StoreHandle(store))));
    }

    /// Takes the store away; from here on the server is not ready.
    pub fn take_store(&self) -> Option<Arc<dyn Store>> {
        self.store.swap(None).map(|handle| Arc::clone(&handle.0))
    }

    /// Whether the server is on its way down.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Marks the server as on its way down.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The targets of all scrape pools.
    pub fn pools(&self) -> Vec<PoolStatus> {
        self.scraping.get().map_or(Vec::new(), |scraping| scraping.pools())
    }

    /// The parts of PromQL that are switched on, for the parser.
    pub fn features(&self) -> Features {
        self.engine.options().features
    }
}

/// Threads of the runtime, two at least.
pub fn n_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().max(2))
}

fn engine_options(settings: &Settings, config: &Config) -> EngineOptions {
    let has = |name: &str| settings.features.iter().any(|feature| feature == name);
    EngineOptions {
        lookback_delta_ms: settings.lookback_delta_ms,
        max_samples: settings.max_query_samples,
        default_subquery_step_ms: config.global.evaluation_interval_ms,
        threads: settings.query_threads,
        memory_limit_bytes: settings.query_memory_bytes,
        total_memory_limit_bytes: settings.total_query_memory_bytes,
        cost: settings.query_cost,
        on_thread_start: Some(crate::api::work::start_thread),
        features: Features {
            experimental_functions: has("promql-experimental-functions"),
            // On by default in Prometheus 3.14.
            duration_expressions: true,
            extended_range_selectors: has("promql-extended-range-selectors"),
            fill_modifiers: has("promql-binop-fill-modifiers"),
            delayed_name_removal: has("promql-delayed-name-removal"),
            type_and_unit_labels: has("type-and-unit-labels"),
            start_timestamps: has("use-start-timestamps"),
            per_step_stats: has("promql-per-step-stats"),
        },
        ..EngineOptions::default()
    }
}
