//! `series`, `labels`, `label/<name>/values`, `metadata`.

use super::Ready;
use super::answer::ListAnswer;
use super::error::ApiError;
use super::json::{self, Object};
use super::params::{MAX_TIME_MS, MIN_TIME_MS, Params, unescape_label_name};
use super::response::{TRUNCATED, success};
use super::sending::respond;
use super::work::{Deadline, LookupContext, blocking, blocking_unless_short, key_of};
use axum::extract::Path;
use axum::response::Response;
use chronolith_model::append::Metadata;
use chronolith_model::queryable::{HistogramNeed, LabelQuery, QueryContext, ReadError, Select, Snapshot};
use chronolith_model::{Matcher, Symbol};
use chronolith_query::ResultLabels;
use std::sync::Arc;

/// A request's range, matchers and limit.
struct Lookup {
    start: i64,
    end: i64,
    sets: Vec<Vec<Matcher>>,
    limit: usize,
}

impl Lookup {
    fn read(params: &Params) -> Result<Self, ApiError> {
        let limit = params.limit()?;
        let start = params.time("start", MIN_TIME_MS)?;
        let end = params.time("end", MAX_TIME_MS)?;
        Ok(Self { start, end, sets: params.matcher_sets()?, limit })
    }

    fn query(&self) -> LabelQuery<'_> {
        LabelQuery { matcher_sets: &self.sets, mint: self.start, maxt: self.end, limit: self.limit }
    }
}

/// Texts, the snapshot's warnings, and one more if the limit cut the list.
fn cut<T>(mut items: Vec<T>, limit: usize, mut warnings: Vec<String>) -> (Vec<T>, Vec<String>) {
    if limit > 0 && items.len() > limit {
        items.truncate(limit);
        warnings.push(TRUNCATED.to_owned());
    }
    (items, warnings)
}

/// `GET, POST /api/v1/labels`
pub async fn names(ready: Ready, params: Params) -> Result<Response, ApiError> {
    let lookup = Lookup::read(&params)?;
    look_up(ready, "", lookup, |snapshot, lookup, cx| Ok(snapshot.label_names(&lookup.query(), cx)?)).await
}

/// `GET /api/v1/label/<name>/values`
pub async fn values(ready: Ready, Path(name): Path<String>, params: Params) -> Result<Response, ApiError> {
    if name.is_empty() {
        // The router upstream knows no path with an empty part.
        return Ok(super::not_found().await);
    }
    let name = unescape_label_name(&name);
    if name.is_empty() {
        return Err(ApiError::BadData(format!("invalid label name: {name:?}")));
    }
    let lookup = Lookup::read(&params)?;
    look_up(ready, &name.clone(), lookup, move |snapshot, lookup, cx| {
        Ok(snapshot.label_values(&name, &lookup.query(), cx)?)
    })
    .await
}

/// Finds strings; `what` tells look-ups apart.
async fn look_up(
    ready: Ready,
    what: &str,
    lookup: Lookup,
    find: impl FnOnce(&dyn Snapshot, &Lookup, &dyn QueryContext) -> Result<Vec<String>, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let deadline = Deadline::after(ready.state.settings.query_timeout);
    let range_ms = lookup.end.wrapping_sub(lookup.start).to_le_bytes();
    let matchers = lookup.sets.iter().flatten();
    let texts = matchers.flat_map(|matcher| [matcher.name.as_bytes(), matcher.value.as_bytes()]);
    let key = key_of([what.as_bytes(), &range_ms].into_iter().chain(texts));
    let state = Arc::clone(&ready.state);
    blocking_unless_short(&state.short_work, &state.at_once, key, deadline, move |deadline| {
        let snapshot = ready.store.pin()?;
        let cx = LookupContext::new(deadline, &ready.state.engine);
        let texts = find(&*snapshot, &lookup, &cx)?;
        let size_bytes = texts.iter().map(|text| text.capacity() + size_of::<String>()).sum();
        cx.charge(size_bytes).map_err(ReadError::from)?;
        let (texts, warnings) = cut(texts, lookup.limit, snapshot.warnings());
        let write = |out: &mut Vec<u8>, text: &String| json::string(out, text);
        Ok(respond(ListAnswer::new(texts, &warnings, write, cx.into_memory()), None))
    })
    .await
}

/// `GET, POST /api/v1/series`
pub async fn series(ready: Ready, params: Params) -> Result<Response, ApiError> {
    if params.all("match[]").next().is_none() {
        return Err(ApiError::BadData("no match[] parameter provided".to_owned()));
    }
    let limit = params.limit()?;
    let start = params.time("start", MIN_TIME_MS)?;
    let end = params.time("end", MAX_TIME_MS)?;
    let sets = params.matcher_sets().map_err(|error| match error {
        ApiError::BadData(reason) => ApiError::parameter("match[]", reason),
        other => other,
    })?;
    let lookup = Lookup { start, end, sets, limit };
    let deadline = Deadline::after(ready.state.settings.query_timeout);
    blocking(deadline, move |deadline| {
        let snapshot = ready.store.pin()?;
        let cx = LookupContext::new(deadline, &ready.state.engine);
        let found = find_series(&*snapshot, &lookup, &cx)?;
        let (found, warnings) = cut(found, lookup.limit, snapshot.warnings());
        Ok(respond(ListAnswer::new(found, &warnings, write_series, cx.into_memory()), None))
    })
    .await
}

fn write_series(out: &mut Vec<u8>, labels: &ResultLabels) {
    json::pairs(out, labels.iter());
}

/// Label sets that match any of the sets, sorted, each once; one more than the limit where there are
/// more.
fn find_series(
    snapshot: &dyn Snapshot,
    lookup: &Lookup,
    cx: &LookupContext<'_>,
) -> Result<Vec<ResultLabels>, ApiError> {
    let mut sets: Vec<Arc<[(Symbol, Symbol)]>> = Vec::new();
    for matchers in &lookup.sets {
        let select = Select {
            values: false,
            histograms: HistogramNeed::None,
            ..Select::whole(matchers, lookup.start, lookup.end)
        };
        let selected = snapshot.select(&select, cx)?;
        for index in 0..selected.len() {
            if index % 4096 == 0 {
                cx.check().map_err(ReadError::from)?;
            }
            if lookup.sets.len() == 1 && lookup.limit > 0 && sets.len() > lookup.limit {
                break;
            }
            let pairs = selected.labels(index);
            cx.charge(size_of_val(pairs) + size_of::<ResultLabels>()).map_err(ReadError::from)?;
            sets.push(pairs.into());
        }
    }
    // The look-up's table of strings goes, its strings stay with the result.
    cx.charge(cx.symbols().size_bytes()).map_err(ReadError::from)?;
    let texts: Arc<[Arc<str>]> = cx.symbols().strings().into();
    let mut found: Vec<ResultLabels> =
        sets.into_iter().map(|pairs| ResultLabels::new(Arc::clone(&texts), pairs)).collect();
    if !found.is_sorted() {
        found.sort();
    }
    found.dedup();
    Ok(found)
}

/// `GET /api/v1/metadata`: what scraping and remote write told about metrics.
pub async fn metadata(ready: Ready, params: Params) -> Result<Response, ApiError> {
    let number = |name| match params.integer(name) {
        None => Ok(None),
        Some(Ok(n)) => Ok(Some(n)),
        Some(Err(_)) => Err(ApiError::BadData(format!("{name} must be a number"))),
    };
    let limit = number("limit")?.and_then(|n| usize::try_from(n).ok());
    let per_metric = number("limit_per_metric")?.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
    let metric = Some(params.get("metric").to_owned()).filter(|metric| !metric.is_empty());
    let deadline = Deadline::after(ready.state.settings.query_timeout);
    let mut found = blocking(deadline, move |_| Ok(ready.store.metadata(metric.as_deref()))).await?;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.truncate(limit.unwrap_or(usize::MAX));
    Ok(success(|out| {
        let mut object = Object::new(out);
        for (name, entries) in &found {
            let entries = entries.iter().take(per_metric.unwrap_or(usize::MAX));
            json::array(object.key(name), entries, write_metadata);
        }
        object.end();
    }))
}

fn write_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    let mut object = Object::new(out);
    object
        .string("type", metadata.metric_type.as_str())
        .string("help", &metadata.help)
        .string("unit", &metadata.unit);
    object.end();
}
