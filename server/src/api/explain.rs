//! `explain`: the plan of a query and, with `analyze`, what its parts took.

use super::Ready;
use super::error::ApiError;
use super::json::{self, Object};
use super::params::Params;
use super::query::{self, Admitted, Timings};
use super::response::{success_with, text};
use super::work::blocking;
use crate::queries::{Origin, Stage};
use axum::http::StatusCode;
use axum::response::Response;
use chronolith_query::explain::{ExplainedNode, Measured, MeasuredRead, Outcome};
use chronolith_query::{Clock, Explanation, QueryError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time since the request was begun.
struct Stopwatch(Instant);

impl Clock for Stopwatch {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// `GET, POST /api/v1/explain`: of a range query if `start`, `end` or `step` is given, of an instant query at `time`
/// otherwise. Under the limits of queries, and on the list of running ones; an analysis is in the query log, as it
/// evaluates the query.
pub async fn explain(ready: Ready, origin: Origin, params: Params) -> Result<Response, ApiError> {
    let analyze = flag(&params, "analyze")?;
    let as_text = match params.get("format") {
        "" | "json" => false,
        "text" => true,
        other => return Err(ApiError::parameter("format", format!("{other:?} is neither json nor text"))),
    };
    let range = ["start", "end", "step"].iter().any(|name| !params.get(name).is_empty());
    let asked =
        if range { query::asked_range(&params, origin)? } else { query::asked_instant(&params, origin)? };
    let deadline = query::deadline(&ready.state, &params)?;
    let lookback_delta_ms = query::lookback_delta(&params)?;
    let Admitted { metrics, registered, queued, held } =
        query::admit(&ready.state, asked, &deadline, analyze).await?;
    blocking(deadline, move |deadline| {
        registered.enter(Stage::Running);
        let request = registered.query().asked.request(range, lookback_delta_ms);
        let clock = analyze.then(|| Arc::new(Stopwatch(Instant::now())) as Arc<dyn Clock>);
        let started = Instant::now();
        let explained = ready.state.engine.explain(&*ready.store, &request, deadline, clock);
        let timings = Timings { queued, executed: started.elapsed() };
        registered.enter(Stage::Sending);
        drop(held);
        let explanation = match explained {
            Ok(explanation) => explanation,
            Err(error) => {
                if analyze && !matches!(error, QueryError::Parse(_)) {
                    query::log_failure(&ready.state, &registered, &error.to_string(), timings);
                }
                return Err(error.into());
            }
        };
        if let Some(outcome) = &explanation.outcome {
            query::log(&ready.state, &registered, None, &outcome.stats, timings, false);
            metrics.evaluated(&outcome.stats, timings.executed);
        }
        if as_text {
            return Ok(text(StatusCode::OK, explanation.to_string()));
        }
        let (warnings, infos) = match &explanation.outcome {
            Some(outcome) => (outcome.warnings.as_slice(), outcome.infos.as_slice()),
            None => (&[][..], &[][..]),
        };
        Ok(success_with(warnings, infos, |out| write(out, &explanation)))
    })
    .await
}

fn flag(params: &Params, name: &str) -> Result<bool, ApiError> {
    match params.get(name) {
        "" | "false" | "0" => Ok(false),
        "true" | "1" => Ok(true),
        other => Err(ApiError::parameter(name, format!("{other:?} is neither true nor false"))),
    }
}

fn write(out: &mut Vec<u8>, explanation: &Explanation) {
    let mut object = Object::new(out);
    object.boolean("analyzed", explanation.outcome.is_some());
    let nodes: Vec<(usize, &ExplainedNode)> = explanation.nodes.iter().enumerate().collect();
    json::array(object.key("nodes"), &nodes, |out, (id, node)| write_node(out, *id, node));
    object.count("nodesLeftOut", explanation.n_left_out as u64);
    if let Some(outcome) = &explanation.outcome {
        write_outcome(object.key("result"), outcome);
    }
    object.end();
}

fn write_node(out: &mut Vec<u8>, id: usize, node: &ExplainedNode) {
    let mut object = Object::new(out);
    object.count("id", id as u64);
    match node.parent {
        Some(parent) => object.count("parent", parent as u64),
        None => object.raw("parent", "null"),
    };
    object.count("depth", node.depth as u64);
    json::raw_string(object.key("operator"), &node.operator);
    json::raw_string(object.key("text"), &node.text);
    json::strings(object.key("remarks"), node.remarks.iter().map(String::as_str));
    if let Some(estimate) = &node.estimate {
        let mut inner = Object::new(object.key("estimate"));
        inner
            .count("series", estimate.n_series)
            .count("samples", estimate.n_samples)
            .count("bytes", estimate.size_bytes);
        inner.end();
    }
    if let Some(measured) = &node.measured {
        write_measured(object.key("measured"), measured);
    }
    object.end();
}

fn write_measured(out: &mut Vec<u8>, measured: &Measured) {
    let mut object = Object::new(out);
    object
        .count("series", measured.n_series)
        .count("samples", measured.n_samples)
        .number("totalSeconds", measured.total.as_secs_f64())
        .number("ownSeconds", measured.own.as_secs_f64());
    if let Some(pushed) = measured.pushed {
        object.number("pushedSeconds", pushed.as_secs_f64());
    }
    if let Some(read) = &measured.read {
        write_read(object.key("read"), read);
    }
    object.end();
}

fn write_read(out: &mut Vec<u8>, read: &MeasuredRead) {
    let mut object = Object::new(out);
    object
        .count("series", read.n_series)
        .count("constantSeries", read.n_constant_series)
        .count("samples", read.n_samples)
        .count("bytes", read.size_bytes)
        .count("tiles", read.n_tiles)
        .count("cacheHits", read.cache_hits)
        .count("cacheMisses", read.cache_misses)
        .number("indexSeconds", read.index.as_secs_f64())
        .number("decodeSeconds", read.decode.as_secs_f64());
    object.end();
}

fn write_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    let mut object = Object::new(out);
    object
        .count("series", outcome.n_series as u64)
        .count("samples", outcome.n_samples as u64)
        .number("totalSeconds", outcome.total.as_secs_f64())
        .count("peakMemoryBytes", outcome.peak_memory_bytes as u64)
        .count("totalQueryableSamples", outcome.stats.total_queryable_samples)
        .count("samplesRead", outcome.stats.samples_read)
        .count("peakSamples", outcome.stats.peak_samples);
    object.end();
}
