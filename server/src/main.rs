//! The program: reads the command line, opens the store, serves until it is told to stop.

use chronolith::cli::{self, CliError, EXIT_USAGE, Settings};
use chronolith::config::Config;
use chronolith::front::Front;
use chronolith::queries::active_file;
use chronolith::scrape::{ScrapeManager, ScrapeOptions};
use chronolith::state::{State, n_threads};
use chronolith::store::{self, OpenDb, Store};
use chronolith::targets::Scraping as _;
use chronolith::telemetry::{self, Registry};
use chronolith::{api, build, explain, foreign, listen, query_memory, rehearsal, reload, shutdown};
use chronolith_storage::Options;
use chronolith_storage::db::Db;
use chronolith_storage::error::error_chain;
use chronolith_storage::options::WalSync;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Memory that was freed goes back to the system after a second instead of ten: what a million new series leave
/// behind while tables grow is a quarter of the peak (docs/decisions/0024).
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8; 37] = b"dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("explain") {
        return explain::run(std::env::args().skip(1));
    }
    let settings = match cli::parse(std::env::args()) {
        Ok(settings) => settings,
        Err(CliError::Info(info)) => {
            // Nobody is left to tell if standard output is closed.
            let _ = std::io::stdout().write_all(info.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(CliError::Usage(text)) => {
            eprint!("{text}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    telemetry::start_logging(settings.log_level, settings.log_json);
    std::panic::set_hook(Box::new(log_panic));
    raise_open_files_limit();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(n_threads()).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(err = %error, "cannot start the runtime");
                return ExitCode::FAILURE;
            }
        };
    let result = runtime.block_on(run(settings));
    // Threads that still work on something do not hold up the end: the store is closed.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(()) => {
            tracing::info!("See you next time!");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            tracing::error!(err = reason, "chronolith ends");
            ExitCode::FAILURE
        }
    }
}

fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let text = info.payload_as_str().unwrap_or("");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let stack = std::backtrace::Backtrace::force_capture().to_string();
    tracing::error!(err = text, place, stack, "a thread panicked");
}

async fn run(settings: Settings) -> Result<(), String> {
    tracing::info!(version = build::VERSION, revision = build::REVISION, "Starting Chronolith");
    for (flag, why) in &settings.without_effect {
        tracing::warn!("flag without effect: --{flag}: {why}");
    }
    warn_about_features(&settings);
    let file = settings.config_file.clone();
    let config = reload::load(&file)?;
    reload::warn_without_effect(&config);

    let query_log = reload::open_query_log(&config)?;

    let registry = Arc::new(Registry::new());
    registry.collect(telemetry::process::collect);
    let (reload_requests, reloads) = mpsc::channel(1);
    let state = Arc::new(State::new(settings, config, registry, reload_requests));
    state.query_log.set(query_log);
    register_metrics(&state);

    let listeners = listen::bind(&state.settings.listen_addresses).await?;
    let addresses: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    for address in &addresses {
        tracing::info!(%address, "Listening on");
    }
    *state.addresses.lock() = addresses;
    let limits = listen::Limits {
        max_connections: state.settings.max_connections,
        read_timeout: state.settings.read_timeout,
        shutdown_timeout: state.settings.shutdown_timeout,
    };
    let (stop_serving, stopped) = watch::channel(false);
    let front = Front::new(Arc::clone(&state));
    let serving = tokio::spawn(listen::serve(listeners, front.clone(), limits, stopped));

    // The server answers while the log is replayed: that it is not ready, and how far it has come.
    let mut opening = tokio::task::spawn_blocking({
        let state = Arc::clone(&state);
        move || open(&state)
    });
    let opened = tokio::select! {
        opened = show_progress(&state, &mut opening) => opened,
        () = shutdown::requested(&state) => {
            tracing::info!("Waiting for the store to open before it can be closed");
            state.set_stopping();
            let opened = opening.await.unwrap_or_else(|error| Err(error.to_string()));
            stop_serving.send_replace(true);
            return opened.and_then(|store| store.close().map_err(|error| error_chain(&error)));
        }
    };
    let store = match opened {
        Ok(store) => store,
        Err(reason) => {
            stop_serving.send_replace(true);
            return Err(reason);
        }
    };
    collect_storage(&state, &store);
    state.set_store(Arc::clone(&store));
    start_scraping(&state, Arc::clone(&store))?;
    tokio::spawn(reload::run(Arc::clone(&state), reloads));
    tracing::info!("Server is ready to receive web requests.");
    // A call that may wait for others, if only for an instant.
    let (read_ahead, rehearsal) = oneshot::channel();
    tokio::task::spawn_blocking(move || store.start_read_ahead(Box::new(move || _ = read_ahead.send(()))));
    tokio::spawn(query_memory::give_back());
    tokio::spawn(rehearsal::run(Arc::clone(&state), front, rehearsal));

    shutdown::requested(&state).await;
    shutdown::stop(&state, &stop_serving, serving).await
}

fn start_scraping(state: &Arc<State>, store: Arc<dyn Store>) -> Result<(), String> {
    // Servers that scrape the same targets do so at different times.
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("{hostname}{}", state.config.load().global.external_labels);
    let options = ScrapeOptions { offset_seed: xxhash_rust::xxh3::xxh3_64(name.as_bytes()) };
    let scraping = ScrapeManager::new(store, &state.registry, options);
    scraping.apply(&state.config.load())?;
    // This is the only place that sets it.
    let _ = state.scraping.set(scraping);
    Ok(())
}

/// A store has some seven files for each block and shells often allow 1,024: takes what is allowed at most.
fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(err = %error, current = ?limit.current, "cannot raise the limit of open files");
    }
}

/// Opens the store; its error is ready to be shown.
fn open(state: &State) -> Result<Arc<dyn Store>, String> {
    let settings = &state.settings;
    let config: Arc<Config> = state.config.load_full();
    let (retention_time_ms, retention_size_bytes) = reload::retention(state, &config);
    let options = Options {
        retention_time_ms,
        retention_size_bytes,
        memory_budget_bytes: settings.memory_budget_bytes,
        read_ahead_bytes: settings.read_ahead_bytes,
        wal_sync: if settings.wal_sync_always { WalSync::Always } else { WalSync::Grouped },
        wal_sync_window_ms: settings.wal_sync_window_ms,
        max_ahead_ms: settings.max_ahead_ms,
        window_ms: settings.window_ms,
        max_labels_per_series: settings.max_labels_per_series,
        max_label_name_bytes: settings.max_label_name_bytes,
        max_label_value_bytes: settings.max_label_value_bytes,
        max_exemplars: usize::try_from(config.storage.max_exemplars).unwrap_or(0),
        progress: Arc::clone(&state.progress),
        ..Options::default()
    };
    foreign::warn(&settings.storage_path, &settings.config_file);
    let started = std::time::Instant::now();
    let db = Db::open(&settings.storage_path, options)
        .map_err(|error| store::explain(&error, &settings.storage_path))?;
    tracing::info!(path = %settings.storage_path.display(), duration = ?started.elapsed(), "Store opened");
    for lost in db.status().lost {
        tracing::warn!(what = lost.what, reason = lost.reason, "damaged data was put aside");
    }
    // Only now that the directory is locked: the file may be that of a server that runs.
    if let Some(file) = active_file::begin(&settings.storage_path, settings.max_concurrent_queries) {
        state.queries.keep_in(file);
    }
    Ok(Arc::new(OpenDb::new(db)))
}

/// Waits for the store to open and says every few seconds how far it has come.
async fn show_progress(
    state: &State,
    opening: &mut tokio::task::JoinHandle<Result<Arc<dyn Store>, String>>,
) -> Result<Arc<dyn Store>, String> {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    ticks.tick().await;
    loop {
        tokio::select! {
            opened = &mut *opening => {
                return opened.unwrap_or_else(|error| Err(format!("opening the store panicked: {error}")));
            }
            _ = ticks.tick() => {
                let progress = &state.progress;
                tracing::info!(
                    current = progress.current.load(Ordering::Relaxed),
                    max = progress.max.load(Ordering::Relaxed),
                    "Replaying the log"
                );
            }
        }
    }
}

/// What each feature of Prometheus comes to here; docs/compatibility.md says why.
fn warn_about_features(settings: &Settings) {
    const SWITCHES: [&str; 7] = [
        "promql-experimental-functions",
        "promql-delayed-name-removal",
        "promql-extended-range-selectors",
        "promql-binop-fill-modifiers",
        "promql-per-step-stats",
        "type-and-unit-labels",
        "use-start-timestamps",
    ];
    const ALWAYS_ON: [&str; 6] = [
        "exemplar-storage",
        "metadata-wal-records",
        "native-histograms",
        "ooo-native-histograms",
        "promql-duration-expr",
        "st-storage",
    ];
    const WITHOUT_EFFECT: [&str; 15] = [
        "auto-reload-config",
        "concurrent-rule-eval",
        "created-timestamp-zero-ingestion",
        "delayed-compaction",
        "extra-scrape-metrics",
        "fast-startup",
        "histograms-st-encoding",
        "memory-snapshot-on-shutdown",
        "old-ui",
        "otlp-deltatocumulative",
        "otlp-native-delta-ingestion",
        "search-api",
        "st-synthesis",
        "use-uncached-io",
        "xor2-encoding",
    ];
    for feature in settings.features.iter().map(String::as_str) {
        if ALWAYS_ON.contains(&feature) {
            tracing::info!(feature, "this feature is always on");
        } else if WITHOUT_EFFECT.contains(&feature) {
            tracing::warn!(feature, "this feature of Prometheus has no effect");
        } else if !SWITCHES.contains(&feature) {
            let known = SWITCHES.into_iter().chain(ALWAYS_ON).chain(WITHOUT_EFFECT);
            let hint = cli::nearest(feature, known).map(|meant| format!("; did you mean {meant:?}?"));
            tracing::warn!(feature, "unknown feature{}", hint.unwrap_or_default());
        }
    }
}

fn register_metrics(state: &Arc<State>) {
    use telemetry::metrics::FamilyType::Gauge;
    let weak = Arc::downgrade(state);
    state.registry.collect(move |out| {
        let labels = [
            ("version", api::PROMETHEUS_VERSION),
            ("chronolith_version", build::VERSION),
            ("revision", build::REVISION),
            ("branch", build::BRANCH),
            ("goversion", build::COMPILER),
            ("goos", std::env::consts::OS),
            ("goarch", std::env::consts::ARCH),
        ];
        let help = "A metric with a constant '1' value labeled by version, revision, branch, goversion from which the server was built, and the goos and goarch for the build.";
        out.family("prometheus_build_info", help, Gauge);
        out.sample("prometheus_build_info", &labels, 1.0);
        let Some(state) = weak.upgrade() else { return };
        let reload = *state.last_reload.lock();
        let at = reload.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        out.single(
            "prometheus_config_last_reload_successful",
            "Whether the last configuration reload attempt was successful.",
            Gauge,
            if reload.successful { 1.0 } else { 0.0 },
        );
        out.single(
            "prometheus_config_last_reload_success_timestamp_seconds",
            "Timestamp of the last successful configuration reload.",
            Gauge,
            at.as_secs_f64(),
        );
        let ready = if state.store().is_some() { 1.0 } else { 0.0 };
        out.single(
            "prometheus_ready",
            "Whether startup was fully completed and the server is ready for normal operation.",
            Gauge,
            ready,
        );
        telemetry::results::write(out, &state.results.stats());
    });
}

fn collect_storage(state: &Arc<State>, store: &Arc<dyn Store>) {
    let store = Arc::clone(store);
    state.registry.collect(move |out| telemetry::storage::write(out, &store.metrics()));
}
