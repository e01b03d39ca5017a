//! Reloading the configuration, all or nothing: by signal, by request, or when its files change.

use crate::config::{Config, ConfigError, Environment};
use crate::query_log::LogFile;
use crate::state::{LastReload, State};
use chronolith_storage::error::error_chain;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Reads the configuration file with this process's environment.
///
/// # Errors
/// File, line and reason in one text.
pub fn load(file: &std::path::Path) -> Result<Config, String> {
    let env = |name: &str| std::env::var(name).ok();
    Config::load(file, &Environment(&env)).map_err(|error| match &error {
        ConfigError::Unreadable { file: missing, source }
            if missing == file && source.kind() == std::io::ErrorKind::NotFound =>
        {
            let hint = "name the configuration with --config.file=FILE; an empty file is one, too";
            format!("{}: {hint}", error_chain(&error))
        }
        _ => error_chain(&error),
    })
}

/// Says in the log which sections have no effect.
pub fn warn_without_effect(config: &Config) {
    for what in &config.without_effect {
        tracing::warn!("configuration without effect: {what}");
    }
}

/// Opens the query log that a configuration asks for.
///
/// # Errors
/// What is wrong with the file.
pub fn open_query_log(config: &Config) -> Result<Option<LogFile>, String> {
    config.global.query_log_file.as_deref().map(LogFile::open).transpose()
}

/// Retention that is in force: the file's, else the flags', else 15 days unless a size is set.
pub fn retention(state: &State, config: &Config) -> (i64, u64) {
    let settings = &state.settings;
    retention_of(
        (config.storage.retention_time_ms, config.storage.retention_size_bytes),
        (settings.retention_time_ms, settings.retention_size_bytes),
    )
}

/// As [`retention`], of the file's and the flags' time and size.
pub fn retention_of(file: (Option<i64>, Option<u64>), flags: (Option<i64>, Option<u64>)) -> (i64, u64) {
    let size = file.1.or(flags.1).unwrap_or(0);
    let default = if size == 0 { chronolith_storage::options::DEFAULT_RETENTION_MS } else { 0 };
    (file.0.or(flags.0).unwrap_or(default), size)
}

/// Serves requests for reloads, SIGHUP among them, until the sender is gone.
pub async fn run(state: Arc<State>, mut requests: mpsc::Receiver<oneshot::Sender<Result<(), String>>>) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => Some(hangups),
        Err(error) => {
            tracing::error!(err = %error, "cannot listen for SIGHUP");
            None
        }
    };
    let mut files = Fingerprints::of(&state).await;
    let mut ticks = tokio::time::interval(state.settings.auto_reload.unwrap_or(Duration::from_secs(3600)));
    ticks.tick().await;
    loop {
        let answer = tokio::select! {
            request = requests.recv() => match request {
                Some(answer) => Some(answer),
                None => return,
            },
            () = next_hangup(&mut hangups) => None,
            _ = ticks.tick() => {
                if state.settings.auto_reload.is_none() {
                    continue;
                }
                let now = Fingerprints::of(&state).await;
                if now == files {
                    continue;
                }
                tracing::info!("configuration files changed");
                None
            }
        };
        let result = reload(&state).await;
        files = Fingerprints::of(&state).await;
        if let Some(answer) = answer {
            // Whoever asked may have gone away meanwhile.
            let _ = answer.send(result);
        }
    }
}

async fn next_hangup(hangups: &mut Option<tokio::signal::unix::Signal>) {
    match hangups {
        Some(hangups) => drop(hangups.recv().await),
        None => std::future::pending().await,
    }
}

async fn reload(state: &Arc<State>) -> Result<(), String> {
    let started = std::time::Instant::now();
    let file = state.settings.config_file.clone();
    let loaded = tokio::task::spawn_blocking(move || load(&file))
        .await
        .unwrap_or_else(|error| Err(format!("reading the configuration panicked: {error}")));
    // The log is opened anew even if its path is the same: it may have been moved away. Nothing is changed
    // before all that may refuse have agreed, scraping last.
    let opened = loaded.and_then(|config| Ok((open_query_log(&config)?, config)));
    let result = opened.and_then(|(log, config)| match state.scraping.get() {
        Some(scraping) => scraping.apply(&config).map(|()| (log, config)),
        None => Ok((log, config)),
    });
    let mut last = state.last_reload.lock();
    match result {
        Ok((log, config)) => {
            state.query_log.set(log);
            warn_without_effect(&config);
            if let Some(store) = state.store() {
                let (time_ms, size_bytes) = retention(state, &config);
                store.set_retention(time_ms, size_bytes);
            }
            state.config.store(Arc::new(config));
            *last = LastReload { successful: true, at: SystemTime::now() };
            tracing::info!(
                filename = %state.settings.config_file.display(),
                totalDuration = ?started.elapsed(),
                "Completed loading of configuration file"
            );
            Ok(())
        }
        Err(reason) => {
            last.successful = false;
            tracing::error!(err = reason, "Error reloading config; the one before stays in force");
            Err(reason)
        }
    }
}

/// What tells that configuration files changed.
#[derive(PartialEq)]
struct Fingerprints(Vec<(PathBuf, Option<u64>)>);

impl Fingerprints {
    async fn of(state: &Arc<State>) -> Self {
        if state.settings.auto_reload.is_none() {
            return Self(Vec::new());
        }
        let file = state.settings.config_file.clone();
        let hashes = tokio::task::spawn_blocking(move || {
            crate::config::files_of(&file)
                .into_iter()
                .map(|file| {
                    let hash = std::fs::read(&file).ok().map(|bytes| xxhash_rust::xxh3::xxh3_64(&bytes));
                    (file, hash)
                })
                .collect()
        })
        .await;
        Self(hashes.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_overrides_the_flags_and_a_size_switches_the_default_off() {
        assert_eq!(retention_of((None, None), (None, None)), (15 * 86_400_000, 0));
        assert_eq!(retention_of((None, None), (None, Some(7))), (0, 7));
        assert_eq!(retention_of((Some(5), None), (Some(6), Some(7))), (5, 7));
        assert_eq!(retention_of((None, None), (Some(0), None)), (0, 0));
    }

    #[test]
    fn a_missing_configuration_says_how_to_name_one() {
        let text = load(std::path::Path::new("/nonexistent/prometheus.yml")).map(drop).unwrap_err();
        assert!(text.starts_with("cannot read /nonexistent/prometheus.yml: No such file"), "{text}");
        assert!(text.ends_with("--config.file=FILE; an empty file is one, too"), "{text}");
    }

    /// A server with automatic reloads, and the file that it looks at.
    async fn watched(interval: &str, text: &str) -> (tempfile::TempDir, PathBuf, Arc<State>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, text).unwrap();
        let args = [
            "chronolith".to_owned(),
            format!("--config.file={}", file.display()),
            "--config.auto-reload".to_owned(),
            format!("--config.auto-reload-interval={interval}"),
        ];
        let settings = crate::cli::parse(args).unwrap_or_else(|error| panic!("{error:?}"));
        let (requests, reloads) = mpsc::channel(1);
        let registry = Arc::new(crate::telemetry::Registry::new());
        let state = Arc::new(State::new(settings, load(&file).unwrap(), registry, requests));
        tokio::spawn(run(Arc::clone(&state), reloads));
        (folder, file, state)
    }

    async fn until(what: &str, is_true: impl Fn() -> bool) {
        let wait = async {
            while !is_true() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .unwrap_or_else(|_| panic!("not in 30 s: {what}"));
    }

    #[tokio::test]
    async fn changed_files_are_loaded_and_bad_ones_are_not() {
        let (_folder, file, state) = watched("20ms", "global: {scrape_interval: 1s}\n").await;
        let interval = || state.config.load().global.scrape_interval_ms;
        // The first look at the file is not a change, so it comes before the change that is.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(interval(), 1000);
        std::fs::write(&file, "global: {scrape_interval: 2s}\n").unwrap();
        until("the new interval", || interval() == 2000).await;
        std::fs::write(&file, "global: {scrape_intervall: 3s}\n").unwrap();
        until("the failure", || !state.last_reload.lock().successful).await;
        assert_eq!(interval(), 2000, "the one before stays in force");
        std::fs::write(&file, "global: {scrape_interval: 4s}\n").unwrap();
        until("the mended file", || interval() == 4000 && state.last_reload.lock().successful).await;
    }

    #[tokio::test]
    async fn the_query_log_is_opened_anew_by_reloads() {
        use crate::queries::{Asked, Origin};
        let (folder, file, state) = watched("1h", "").await;
        let path = |name: &str| folder.path().join(name);
        let configure =
            |log: &str| std::fs::write(&file, format!("global: {{query_log_file: {log}}}\n")).unwrap();
        let reload = || async {
            let (answer, answered) = oneshot::channel();
            state.reload.send(answer).await.unwrap();
            answered.await.unwrap()
        };
        let log = |text: &str| {
            let origin =
                Origin { client: None, method: "GET".to_owned(), path: "/".to_owned(), is_rehearsed: false };
            let asked = Asked { text: text.to_owned(), start: 0, end: 0, step_ms: 0, origin };
            state.query_log.write(&asked, None, |out| out.extend_from_slice(b"{}"));
        };
        let queries = |name: &str| -> Vec<String> {
            let text = std::fs::read_to_string(path(name)).unwrap();
            let query = |line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["params"]["query"].as_str().unwrap().to_owned()
            };
            text.lines().map(query).collect()
        };
        log("nowhere");
        configure("a.log");
        reload().await.unwrap();
        log("first");
        configure("b.log");
        reload().await.unwrap();
        log("second");
        // The same file again: what is there stays.
        reload().await.unwrap();
        log("third");
        // Moved away, as log rotation does: the open file is written until SIGHUP.
        std::fs::rename(path("b.log"), path("b.log.1")).unwrap();
        log("fourth");
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        until("the new file", || path("b.log").exists() && state.last_reload.lock().successful).await;
        // The file is made before it is put in force; this reload comes after that one.
        reload().await.unwrap();
        log("fifth");
        // A log that cannot be opened leaves all as it was.
        configure("no/such/folder.log");
        let error = reload().await.unwrap_err();
        assert!(error.starts_with("can't create json log file: open "), "{error}");
        log("sixth");
        std::fs::write(&file, "").unwrap();
        reload().await.unwrap();
        log("nowhere");
        assert_eq!(queries("a.log"), ["first"]);
        assert_eq!(queries("b.log.1"), ["second", "third", "fourth"]);
        assert_eq!(queries("b.log"), ["fifth", "sixth"]);
    }
}
