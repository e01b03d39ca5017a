//! `status/*`, `features`, `scrape_pools`, `targets`, and the empty states of what this version does
//! not do: rules and alerting.

use super::Ready;
use super::error::ApiError;
use super::json::{self, Object};
use super::params::Params;
use super::response::success;
use super::work::{Deadline, blocking};
use crate::build;
use crate::config::units::format_duration;
use crate::state::State as ServerState;
use crate::targets::{PoolStatus, TargetStatus};
use axum::extract::State;
use axum::response::Response;
use chronolith_storage::metrics::LostRange;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// `GET /api/v1/status/config`
pub async fn config(ready: Ready) -> Response {
    let config = ready.state.config.load();
    success(|out| {
        let mut object = Object::new(out);
        object.string("yaml", &config.yaml);
        object.end();
    })
}

/// `GET /api/v1/status/flags`
pub async fn flags(ready: Ready) -> Response {
    success(|out| {
        let mut object = Object::new(out);
        for (name, value) in &ready.state.settings.flags {
            object.string(name, value);
        }
        object.end();
    })
}

/// `GET /api/v1/status/buildinfo`: `version` is Prometheus's, because clients such as Grafana read from
/// it what they may ask for; `chronolithVersion` is ours.
pub async fn build_info(_: Ready) -> Response {
    success(write_build_info)
}

/// `GET /version`: the same without the envelope.
pub async fn version() -> Response {
    let mut out = Vec::new();
    write_build_info(&mut out);
    out.push(b'\n');
    super::response::from_bytes(out)
}

/// Prometheus's fields with our values (`goVersion` is our compiler), and two of ours.
fn write_build_info(out: &mut Vec<u8>) {
    let mut object = Object::new(out);
    object
        .string("version", build::PROMETHEUS_VERSION)
        .string("revision", build::REVISION)
        .string("branch", build::BRANCH)
        .string("buildUser", build::USER)
        .string("buildDate", &build::date())
        .string("goVersion", build::COMPILER)
        .string("application", "chronolith")
        .string("chronolithVersion", build::VERSION);
    object.end();
}

/// `GET /api/v1/status/runtimeinfo`
pub async fn runtime_info(ready: Ready) -> Result<Response, ApiError> {
    let deadline = Deadline::after(ready.state.settings.query_timeout);
    let state = Arc::clone(&ready.state);
    let (status, metrics) =
        blocking(deadline, move |_| Ok((ready.store.status(), ready.store.metrics()))).await?;
    let reload = *state.last_reload.lock();
    let cwd = std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut retention = Vec::new();
    if metrics.retention_time_ms > 0 {
        retention.push(format_duration(metrics.retention_time_ms));
    }
    if metrics.retention_size_bytes > 0 {
        retention.push(crate::config::units::format_size(metrics.retention_size_bytes));
    }
    Ok(success(|out| {
        let mut object = Object::new(out);
        object
            .string("startTime", &rfc3339(state.started_at))
            .string("CWD", &cwd)
            .string("hostname", hostname.trim())
            .string("serverTime", &rfc3339(SystemTime::now()))
            .boolean("reloadConfigSuccess", reload.successful)
            .string("lastConfigTime", &rfc3339(reload.at))
            .count("corruptionCount", metrics.wal_corruptions + metrics.quarantined)
            .integer("goroutineCount", 0)
            .integer("GOMAXPROCS", i64::try_from(threads).unwrap_or(i64::MAX))
            .integer("GOMEMLIMIT", 0)
            .string("GOGC", "")
            .string("GODEBUG", "")
            .string("storageRetention", &retention.join(" or "))
            .count("walSyncWindowMs", status.wal_sync_window_ms);
        match &status.unavailable {
            Some(reason) => drop(object.string("storageUnavailable", reason)),
            None => drop(object.raw("storageUnavailable", "null")),
        }
        json::array(object.key("lostRanges"), &status.lost, write_lost);
        object.end();
    }))
}

fn write_lost(out: &mut Vec<u8>, lost: &LostRange) {
    let mut object = Object::new(out);
    object.string("what", &lost.what).string("reason", &lost.reason);
    if let Some((mint, maxt)) = lost.range {
        object.integer("minTime", mint).integer("maxTime", maxt);
    }
    if let Some(path) = &lost.kept_at {
        object.string("keptAt", &path.display().to_string());
    }
    object.integer("foundAt", lost.found_at);
    object.end();
}

/// `GET /api/v1/status/tsdb`
pub async fn tsdb(ready: Ready, params: Params) -> Result<Response, ApiError> {
    const MAX_LIMIT: i64 = 10_000;
    let limit = match params.integer("limit") {
        None => 10,
        Some(Ok(n)) if n > MAX_LIMIT => {
            return Err(ApiError::BadData(format!("limit must not exceed {MAX_LIMIT}")));
        }
        Some(Ok(n)) if n >= 1 => n,
        Some(_) => return Err(ApiError::BadData("limit must be a positive number".to_owned())),
    };
    let limit = usize::try_from(limit).unwrap_or(10);
    let deadline = Deadline::after(ready.state.settings.query_timeout);
    let (status, cardinality) =
        blocking(deadline, move |_| Ok((ready.store.status(), ready.store.cardinality(limit)?))).await?;
    Ok(success(|out| {
        let mut object = Object::new(out);
        let mut head = Object::new(object.key("headStats"));
        head.count("numSeries", status.head.n_series)
            .count("numLabelPairs", status.head.n_label_pairs)
            .count("chunkCount", status.head.n_chunks)
            // The values of an empty head of Prometheus.
            .integer("minTime", status.head.mint.unwrap_or(i64::MAX))
            .integer("maxTime", status.head.maxt.unwrap_or(i64::MIN));
        head.end();
        for (key, entries) in [
            ("seriesCountByMetricName", &cardinality.series_by_metric),
            ("labelValueCountByLabelName", &cardinality.values_by_label),
            ("memoryInBytesByLabelName", &cardinality.bytes_by_label),
            ("seriesCountByLabelValuePair", &cardinality.series_by_pair),
        ] {
            json::array(object.key(key), entries.iter().take(limit), |out, (name, value)| {
                let mut object = Object::new(out);
                object.string("name", name).count("value", *value);
                object.end();
            });
        }
        object.end();
    }))
}

/// `GET /api/v1/status/tsdb/blocks`
pub async fn blocks(ready: Ready) -> Result<Response, ApiError> {
    let deadline = Deadline::after(ready.state.settings.query_timeout);
    let status = blocking(deadline, move |_| Ok(ready.store.status())).await?;
    Ok(success(|out| {
        let mut object = Object::new(out);
        json::array(object.key("blocks"), &status.blocks, |out, block| {
            let mut object = Object::new(out);
            object
                .string("ulid", &format!("{:016x}", block.id.0))
                .integer("minTime", block.mint)
                // Prometheus's block ends are exclusive.
                .integer("maxTime", block.maxt.saturating_add(1));
            let mut stats = Object::new(object.key("stats"));
            stats
                .count("numSamples", block.n_samples)
                .count("numSeries", block.n_series)
                .count("numTombstones", block.n_tombstones)
                .count("sizeBytes", block.size_bytes);
            stats.end();
            let mut compaction = Object::new(object.key("compaction"));
            compaction.integer("level", i64::from(block.level) + 1);
            json::strings(compaction.key("sources"), [format!("{:016x}", block.id.0).as_str()]);
            compaction.end();
            object.integer("version", 1);
            object.end();
        });
        object.end();
    }))
}

/// `GET /api/v1/status/walreplay`; answered before the server is ready.
pub async fn wal_replay(State(state): State<Arc<ServerState>>) -> Response {
    let progress = &state.progress;
    success(|out| {
        let mut object = Object::new(out);
        object
            .count("min", progress.min.load(Ordering::Relaxed))
            .count("max", progress.max.load(Ordering::Relaxed))
            .count("current", progress.current.load(Ordering::Relaxed));
        object.end();
    })
}

/// `GET /api/v1/notifications`: there are none.
pub async fn notifications() -> Response {
    success(|out| out.extend_from_slice(b"[]"))
}

/// `GET /api/v1/features`
pub async fn features(ready: Ready) -> Response {
    let features = ready.state.features();
    let settings = &ready.state.settings;
    let categories: [(&str, Vec<(&str, bool)>); 5] = [
        (
            "api",
            vec![
                ("admin", settings.enable_admin_api),
                ("exclude_alerts", true),
                ("label_values_match", true),
                ("lifecycle", settings.enable_lifecycle),
                ("otlp_write_receiver", false),
                ("query_stats", true),
                ("query_warnings", true),
                ("remote_write_receiver", settings.enable_remote_write),
                ("time_range_labels", true),
                ("time_range_series", true),
            ],
        ),
        ("prometheus", vec![("agent_mode", false), ("auto_reload_config", settings.auto_reload.is_some())]),
        (
            "promql",
            vec![
                ("at_modifier", true),
                ("bool", true),
                ("by", true),
                ("delayed_name_removal", features.delayed_name_removal),
                ("duration_expr", features.duration_expressions),
                ("experimental_functions", features.experimental_functions),
                ("extended_range_selectors", features.extended_range_selectors),
                ("fill_modifiers", features.fill_modifiers),
                ("group_left", true),
                ("group_right", true),
                ("ignoring", true),
                ("negative_offset", true),
                ("offset", true),
                ("on", true),
                ("subqueries", true),
                ("type_and_unit_labels", features.type_and_unit_labels),
                ("without", true),
            ],
        ),
        ("rules", vec![]),
        ("tsdb", vec![("exemplars", true), ("native_histograms", true), ("out_of_order", true)]),
    ];
    success(|out| {
        let mut object = Object::new(out);
        for (category, entries) in categories.iter().filter(|(_, entries)| !entries.is_empty()) {
            let mut inner = Object::new(object.key(category));
            for (name, on) in entries {
                inner.boolean(name, *on);
            }
            inner.end();
        }
        object.end();
    })
}

/// `GET /api/v1/scrape_pools`
pub async fn scrape_pools(ready: Ready) -> Response {
    let pools = ready.state.pools();
    success(|out| {
        let mut object = Object::new(out);
        json::strings(object.key("scrapePools"), pools.iter().map(|pool| pool.name.as_str()));
        object.end();
    })
}

/// `GET /api/v1/scrape_pools/config`
pub async fn scrape_pool_config(ready: Ready, params: Params) -> Result<Response, ApiError> {
    let name = params.get("scrapePool");
    if name.is_empty() {
        return Err(ApiError::BadData("no scrapePool parameter provided".to_owned()));
    }
    let pools = ready.state.pools();
    let Some(pool) = pools.iter().find(|pool| pool.name == name) else {
        return Err(ApiError::BadData(format!(
            "error retrieving scrape config: scrape pool {name:?} not found"
        )));
    };
    Ok(success(|out| {
        let mut object = Object::new(out);
        object.string("yaml", &pool.yaml);
        object.end();
    }))
}

/// `GET /api/v1/targets`
pub async fn targets(ready: Ready, params: Params) -> Response {
    let wanted_pool = params.get("scrapePool");
    let state = params.get("state").to_ascii_lowercase();
    let shows = |kind: &str| matches!(state.as_str(), "" | "any") || state == kind;
    let pools: Vec<PoolStatus> = ready
        .state
        .pools()
        .into_iter()
        .filter(|pool| wanted_pool.is_empty() || pool.name == wanted_pool)
        .collect();
    success(|out| {
        let mut object = Object::new(out);
        let active = pools.iter().flat_map(|pool| pool.active.iter().map(move |target| (pool, target)));
        let active = active.filter(|_| shows("active"));
        json::array(object.key("activeTargets"), active, |out, (pool, target)| {
            write_target(out, pool, target, &ready.state);
        });
        let dropped = pools.iter().flat_map(|pool| pool.dropped.iter().map(move |target| (pool, target)));
        let dropped = dropped.filter(|_| shows("dropped"));
        json::array(object.key("droppedTargets"), dropped, |out, (pool, target)| {
            let mut object = Object::new(out);
            let labels = target.discovered_labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            json::pairs(object.key("discoveredLabels"), labels);
            object.string("scrapePool", &pool.name);
            object.end();
        });
        let counts = object.key("droppedTargetCounts");
        if shows("dropped") {
            let mut inner = Object::new(counts);
            for pool in &pools {
                inner.count(&pool.name, pool.n_dropped as u64);
            }
            inner.end();
        } else {
            counts.extend_from_slice(b"null");
        }
        object.end();
    })
}

fn write_target(out: &mut Vec<u8>, pool: &PoolStatus, target: &TargetStatus, state: &ServerState) {
    let mut object = Object::new(out);
    let discovered = target.discovered_labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    json::pairs(object.key("discoveredLabels"), discovered);
    json::labels(object.key("labels"), &target.labels);
    object
        .string("scrapePool", &pool.name)
        .string("scrapeUrl", &target.scrape_url)
        .string("globalUrl", &global_url(&target.scrape_url, state))
        .string("lastError", &target.last_error)
        .string("lastScrape", &rfc3339_ms(target.last_scrape_ms))
        .number("lastScrapeDuration", target.last_scrape_duration_s)
        .string("health", target.health.as_str())
        .string("scrapeInterval", &format_duration(target.interval_ms))
        .string("scrapeTimeout", &format_duration(target.timeout_ms));
    object.end();
}

/// The address of a local target as others see it: this host's name, or that of the external URL.
///
/// Source: Prometheus v3.14, `web/api/v1/api.go`, `getGlobalURL`.
fn global_url(url: &str, state: &ServerState) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    if !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
        return url.to_owned();
    }
    let external = state
        .settings
        .external_url
        .split_once("://")
        .map(|(scheme, rest)| (scheme, rest.split('/').next().unwrap_or(rest)));
    let own_port = state.addresses.lock().first().map(|address| address.port().to_string());
    match external {
        // The target is this server: its whole address is known.
        Some((scheme, outside)) if own_port.as_deref() == Some(port) => format!("{scheme}://{outside}{path}"),
        Some((_, outside)) => {
            let name = outside.rsplit_once(':').map_or(outside, |(name, _)| name);
            if port.is_empty() {
                format!("{scheme}://{name}{path}")
            } else {
                format!("{scheme}://{name}:{port}{path}")
            }
        }
        None => {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let name = name.trim();
            let name = if name.is_empty() { host } else { name };
            if port.is_empty() {
                format!("{scheme}://{name}{path}")
            } else {
                format!("{scheme}://{name}:{port}{path}")
            }
        }
    }
}

/// `GET /api/v1/targets/metadata`
pub async fn target_metadata(ready: Ready, params: Params) -> Result<Response, ApiError> {
    let limit = match params.integer("limit") {
        None => usize::MAX,
        Some(Ok(n)) => usize::try_from(n).unwrap_or(usize::MAX),
        Some(Err(_)) => return Err(ApiError::BadData("limit must be a number".to_owned())),
    };
    let matchers = match params.get("match_target") {
        "" => Vec::new(),
        text => chronolith_query::parser::parse_metric_selector(text)
            .map_err(|error| ApiError::parameter("match_target", error))?,
    };
    let metric = params.get("metric");
    let pools = ready.state.pools();
    let found = pools
        .iter()
        .flat_map(|pool| &pool.active)
        .filter(|target| {
            matchers.iter().all(|matcher| matcher.matches(target.labels.get(&matcher.name).unwrap_or("")))
        })
        .flat_map(|target| target.metadata.iter().map(move |(name, metadata)| (target, name, metadata)))
        .filter(|(_, name, _)| metric.is_empty() || *name == metric)
        .take(limit);
    Ok(success(|out| {
        json::array(out, found, |out, (target, name, metadata)| {
            let mut object = Object::new(out);
            json::labels(object.key("target"), &target.labels);
            if metric.is_empty() {
                object.string("metric", name);
            }
            object
                .string("type", metadata.metric_type.as_str())
                .string("help", &metadata.help)
                .string("unit", &metadata.unit);
            object.end();
        });
    }))
}

/// `GET /api/v1/alertmanagers`: alerts are not sent, so there are none.
pub async fn alertmanagers(_: Ready) -> Response {
    success(|out| out.extend_from_slice(b"{\"activeAlertmanagers\":[],\"droppedAlertmanagers\":[]}"))
}

/// `GET /api/v1/alerts`: rules are not evaluated, so there are none.
pub async fn alerts(_: Ready) -> Response {
    success(|out| out.extend_from_slice(b"{\"alerts\":[]}"))
}

/// `GET /api/v1/rules`: rules are not evaluated, so there are none.
pub async fn rules(_: Ready, params: Params) -> Result<Response, ApiError> {
    let kind = params.get("type").to_ascii_lowercase();
    if !matches!(kind.as_str(), "" | "alert" | "record") {
        return Err(ApiError::parameter("type", format!("not supported value {kind:?}")));
    }
    Ok(success(|out| out.extend_from_slice(b"{\"groups\":[]}")))
}

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}

/// Go's zero time where there is none.
fn rfc3339_ms(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) if ms != 0 => time.to_string(),
        _ => "0001-01-01T00:00:00Z".to_owned(),
    }
}
