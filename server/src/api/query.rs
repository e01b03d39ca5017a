//! `query`, `query_range`, `query_exemplars`, `format_query`, `parse_query`.

use super::answer::{self, QueryAnswer, Steps};
use super::error::ApiError;
use super::json::{self, Object};
use super::params::{MAX_TIME_MS, MIN_TIME_MS, Params};
use super::response::success;
use super::sending::respond;
use super::work::{Deadline, blocking, blocking_unless_short, enter_gate, key_of};
use super::{Ready, ast};
use crate::queries::{Asked, Origin, Registered, Stage};
use crate::state::State as ServerState;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chronolith_model::append::Exemplar;
use chronolith_model::{Labels, Matcher};
use chronolith_query::parser::{Expr, ParserOptions, parse_expr, prettify};
use chronolith_query::{PerStepStats, QueryError, QueryStats};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// More points per series are refused.
const MAX_POINTS: i64 = 11_000;

/// `GET, POST /api/v1/query`
pub async fn instant(ready: Ready, origin: Origin, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit()?;
    let asked = asked_instant(&params, origin)?;
    let deadline = deadline(&ready.state, &params)?;
    let lookback_delta_ms = lookback_delta(&params)?;
    let stats = params.get("stats").to_owned();
    let wanted = Wanted { range: false, lookback_delta_ms, limit, stats, may_be_kept: false };
    run(ready, asked, wanted, deadline).await
}

/// `GET, POST /api/v1/query_range`
pub async fn range(ready: Ready, origin: Origin, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit()?;
    let asked = asked_range(&params, origin)?;
    let deadline = deadline(&ready.state, &params)?;
    let lookback_delta_ms = lookback_delta(&params)?;
    let stats = params.get("stats").to_owned();
    // Statistics are those of an evaluation of all steps.
    let may_be_kept = stats.is_empty() && matches!(params.get("nocache"), "" | "0" | "false");
    let wanted = Wanted { range: true, lookback_delta_ms, limit, stats, may_be_kept };
    run(ready, asked, wanted, deadline).await
}

/// What an instant query asks for.
pub(super) fn asked_instant(params: &Params, origin: Origin) -> Result<Asked, ApiError> {
    let time = params.time("time", now_ms())?;
    Ok(Asked { text: params.get("query").to_owned(), start: time, end: time, step_ms: 0, origin })
}

/// What a range query asks for.
pub(super) fn asked_range(params: &Params, origin: Origin) -> Result<Asked, ApiError> {
    let start = params.required_time("start")?;
    let end = params.required_time("end")?;
    if end < start {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let step_ns = super::params::parse_duration_ns(params.get("step"))
        .map_err(|reason| ApiError::parameter("step", reason))?;
    if step_ns <= 0 {
        return Err(ApiError::parameter(
            "step",
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    let span_ns = (i128::from(end) - i128::from(start)) * 1_000_000;
    if span_ns / i128::from(step_ns) > i128::from(MAX_POINTS) {
        return Err(ApiError::BadData(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)"
                .to_owned(),
        ));
    }
    // Steps are whole milliseconds, as times are.
    let step_ms = (step_ns / 1_000_000).max(1);
    Ok(Asked { text: params.get("query").to_owned(), start, end, step_ms, origin })
}

/// How the answer is to be.
struct Wanted {
    range: bool,
    lookback_delta_ms: Option<i64>,
    limit: usize,
    stats: String,
    /// Whether steps may come from earlier results, and the result be kept for later ones.
    may_be_kept: bool,
}

/// How long the parts of a query took.
#[derive(Clone, Copy, Default)]
pub(super) struct Timings {
    /// From its arrival until it may run.
    pub(super) queued: Duration,
    /// Running.
    pub(super) executed: Duration,
}

/// A query that may run.
pub(super) struct Admitted {
    pub(super) metrics: QueryMetrics,
    pub(super) registered: Registered,
    /// How long it waited.
    pub(super) queued: Duration,
    /// Its place among those that run, until it has run.
    pub(super) held: (OwnedSemaphorePermit, Running),
}

/// Registers a query and waits until it may run. `logged` queries are in the query log also if they wait in vain.
pub(super) async fn admit(
    state: &ServerState,
    asked: Asked,
    deadline: &Arc<Deadline>,
    logged: bool,
) -> Result<Admitted, ApiError> {
    let metrics = QueryMetrics::new(state);
    let running = metrics.start();
    let registered = state.queries.register(asked, Arc::clone(deadline));
    let entered = enter_gate(&state.query_gate, deadline).await;
    let queued = registered.query().started.elapsed();
    metrics.waited(queued);
    match entered {
        Ok(permit) => Ok(Admitted { metrics, registered, queued, held: (permit, running) }),
        Err(error) => {
            if logged {
                let timings = Timings { queued, ..Timings::default() };
                log_failure(state, &registered, &error.to_string(), timings);
            }
            Err(error)
        }
    }
}

async fn run(
    ready: Ready,
    asked: Asked,
    wanted: Wanted,
    deadline: Arc<Deadline>,
) -> Result<Response, ApiError> {
    let Admitted { metrics, registered, queued, held } = admit(&ready.state, asked, &deadline, true).await?;
    let answer_deadline = Arc::clone(&deadline);
    let asked = &registered.query().asked;
    let range_ms = asked.end.wrapping_sub(asked.start);
    let key = key_of([asked.text.as_bytes(), &range_ms.to_le_bytes(), &asked.step_ms.to_le_bytes()]);
    let state = Arc::clone(&ready.state);
    blocking_unless_short(&state.short_work, &state.at_once, key, deadline, move |deadline| {
        registered.enter(Stage::Running);
        let asked = &registered.query().asked;
        let request = asked.request(wanted.range, wanted.lookback_delta_ms);
        let started = Instant::now();
        let ServerState { engine, results, .. } = &*ready.state;
        let output = match wanted.may_be_kept {
            true => results.execute(engine, &*ready.store, &request, deadline),
            false => engine.execute(&*ready.store, &request, deadline),
        };
        let executed = started.elapsed();
        registered.enter(Stage::Sending);
        drop(held);
        let timings = Timings { queued, executed };
        let mut output = match output {
            Ok(output) => output,
            Err(error) => {
                // What does not parse was never a query to Prometheus's engine, and is not in its log.
                if !matches!(error, QueryError::Parse(_)) {
                    log_failure(&ready.state, &registered, &error.to_string(), timings);
                }
                metrics.evaluated(&QueryStats::default(), executed);
                return Err(error.into());
            }
        };
        let by_step = wanted.stats == "all";
        log(&ready.state, &registered, None, &output.stats, timings, by_step);
        metrics.evaluated(&output.stats, executed);
        answer::cut(&mut output, wanted.limit);
        let mut stats = Vec::new();
        if !wanted.stats.is_empty() {
            write_stats(&mut stats, &output.stats, timings, by_step);
        }
        if !matches!(wanted.stats.as_str(), "" | "true" | "all") {
            output.warnings.push(format!(
                "value {:?} for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\"",
                wanted.stats
            ));
        }
        let steps = Steps {
            start: asked.start,
            interval: asked.step_ms,
            n: if wanted.range { ((asked.end - asked.start) / asked.step_ms) as usize + 1 } else { 1 },
        };
        let answer = QueryAnswer::new(output, steps, &stats, Some(registered))?;
        Ok(respond(answer, Some(answer_deadline)))
    })
    .await
}

/// Writes the query log for a query that failed.
pub(super) fn log_failure(state: &ServerState, registered: &Registered, error: &str, timings: Timings) {
    log(state, registered, Some(error), &QueryStats::default(), timings, false);
}

/// Writes the query log.
pub(super) fn log(
    state: &ServerState,
    registered: &Registered,
    error: Option<&str>,
    stats: &QueryStats,
    timings: Timings,
    by_step: bool,
) {
    let asked = &registered.query().asked;
    state.query_log.write(asked, error, |out| write_stats(out, stats, timings, by_step));
}

/// Source: Prometheus v3.14, `util/stats/query_stats.go`, `QueryStats`. Preparation and sorting are
/// parts of the evaluation here.
fn write_stats(out: &mut Vec<u8>, stats: &QueryStats, timings: Timings, by_step: bool) {
    let executed = timings.executed.as_secs_f64();
    let queued = timings.queued.as_secs_f64();
    let mut object = Object::new(out);
    let mut inner = Object::new(object.key("timings"));
    inner
        .number("evalTotalTime", executed)
        .number("resultSortTime", 0.0)
        .number("queryPreparationTime", 0.0)
        .number("innerEvalTime", executed)
        .number("execQueueTime", queued)
        .number("execTotalTime", executed + queued);
    inner.end();
    let mut inner = Object::new(object.key("samples"));
    let per_step = stats.per_step.as_ref().filter(|_| by_step);
    if let Some(steps) = per_step {
        write_steps(inner.key("totalQueryableSamplesPerStep"), steps, &steps.total_queryable_samples);
    }
    inner.count("totalQueryableSamples", stats.total_queryable_samples);
    if let Some(steps) = per_step {
        write_steps(inner.key("samplesReadPerStep"), steps, &steps.samples_read);
    }
    inner.count("samplesRead", stats.samples_read).count("peakSamples", stats.peak_samples);
    inner.end();
    object.end();
}

/// `[[time in seconds, count], ..]`
fn write_steps(out: &mut Vec<u8>, stats: &PerStepStats, counts: &[u64]) {
    out.push(b'[');
    for (step, count) in counts.iter().enumerate() {
        if step > 0 {
            out.push(b',');
        }
        let time = stats.start + stats.interval_ms * step as i64;
        out.push(b'[');
        json::number(out, time as f64 / 1000.0);
        out.push(b',');
        out.extend_from_slice(itoa::Buffer::new().format(*count).as_bytes());
        out.push(b']');
    }
    out.push(b']');
}

/// Handles of the engine's metrics, under the names of Prometheus.
pub(super) struct QueryMetrics {
    running: crate::telemetry::metrics::Gauge,
    samples: crate::telemetry::metrics::Counter,
    queue_time: crate::telemetry::metrics::Histogram,
    inner_eval: crate::telemetry::metrics::Histogram,
}

impl QueryMetrics {
    pub(super) fn new(state: &ServerState) -> Self {
        const SECONDS: &[f64] = &[0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 120.0];
        let registry = &state.registry;
        let duration = |slice| {
            let help = "Query timings.";
            registry.histogram(
                "prometheus_engine_query_duration_histogram_seconds",
                help,
                &[("slice", slice)],
                SECONDS,
            )
        };
        registry
            .gauge("prometheus_engine_queries_concurrent_max", "The max number of concurrent queries.", &[])
            .set(state.settings.max_concurrent_queries as f64);
        Self {
            running: registry.gauge(
                "prometheus_engine_queries",
                "The current number of queries being executed or waiting.",
                &[],
            ),
            samples: registry.counter(
                "prometheus_engine_query_samples_total",
                "The total number of samples loaded by all queries.",
                &[],
            ),
            queue_time: duration("queue_time"),
            inner_eval: duration("inner_eval"),
        }
    }

    fn start(&self) -> Running {
        self.running.add(1.0);
        Running(self.running.clone())
    }

    /// Counts a query that need not wait any longer.
    fn waited(&self, queued: Duration) {
        self.queue_time.observe(queued.as_secs_f64());
    }

    /// Counts a query that was evaluated.
    pub(super) fn evaluated(&self, stats: &QueryStats, executed: Duration) {
        self.inner_eval.observe(executed.as_secs_f64());
        self.samples.add(stats.samples_read);
    }
}

pub(super) struct Running(crate::telemetry::metrics::Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

/// The time a request may take: its `timeout`, but not more than the server's.
pub(super) fn deadline(state: &ServerState, params: &Params) -> Result<Arc<Deadline>, ApiError> {
    let longest = state.settings.query_timeout;
    let timeout = match params.duration_ns("timeout")? {
        Some(ns) => Duration::from_nanos(u64::try_from(ns).unwrap_or(0)).min(longest),
        None => longest,
    };
    Ok(Deadline::after(timeout))
}

pub(super) fn lookback_delta(params: &Params) -> Result<Option<i64>, ApiError> {
    match params.get("lookback_delta") {
        "" => Ok(None),
        text => match super::params::parse_duration_ns(text) {
            Ok(ns) => Ok(Some(ns / 1_000_000).filter(|ms| *ms > 0)),
            Err(reason) => Err(ApiError::BadData(format!("error parsing lookback delta duration: {reason}"))),
        },
    }
}

/// `GET, POST /api/v1/format_query`
pub async fn format(ready: Ready, params: Params) -> Result<Response, ApiError> {
    let expr = parse(&ready, &params)?;
    Ok(success(|out| json::string(out, &prettify(&expr))))
}

/// `GET, POST /api/v1/parse_query`
pub async fn parse_query(ready: Ready, params: Params) -> Result<Response, ApiError> {
    let expr = parse(&ready, &params)?;
    Ok(success(|out| ast::expression(out, &expr)))
}

fn parse(ready: &Ready, params: &Params) -> Result<Expr, ApiError> {
    parse_expr(params.get("query"), parser_options(&ready.state))
        .map_err(|error| QueryError::Parse(error.to_string()).into())
}

fn parser_options(state: &ServerState) -> ParserOptions {
    let features = state.features();
    ParserOptions {
        experimental_functions: features.experimental_functions,
        duration_expressions: features.duration_expressions,
        extended_range_selectors: features.extended_range_selectors,
        fill_modifiers: features.fill_modifiers,
    }
}

/// `GET, POST /api/v1/query_exemplars`
pub async fn exemplars(ready: Ready, params: Params) -> Result<Response, ApiError> {
    let start = params.time("start", MIN_TIME_MS)?;
    let end = params.time("end", MAX_TIME_MS)?;
    if end < start {
        return Err(ApiError::BadData("end timestamp must not be before start timestamp".to_owned()));
    }
    let expr = parse_expr(params.get("query"), parser_options(&ready.state))
        .map_err(|error| ApiError::BadData(error.to_string()))?;
    let sets: Vec<Vec<Matcher>> = expr.selectors().iter().map(|selector| selector.matchers.clone()).collect();
    if sets.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let deadline = Deadline::after(ready.state.settings.query_timeout);
    let found = blocking(deadline, move |_| Ok(ready.store.exemplars(&sets, start, end)?)).await?;
    Ok(success(|out| json::array(out, &found, write_exemplars)))
}

fn write_exemplars(out: &mut Vec<u8>, (labels, exemplars): &(Labels, Vec<Exemplar>)) {
    let mut object = Object::new(out);
    json::labels(object.key("seriesLabels"), labels);
    json::array(object.key("exemplars"), exemplars, |out, exemplar| {
        let mut object = Object::new(out);
        json::labels(object.key("labels"), &exemplar.labels);
        json::sample_value(object.key("value"), exemplar.value);
        json::timestamp(object.key("timestamp"), exemplar.timestamp);
        object.end();
    });
    object.end();
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
