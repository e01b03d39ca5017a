//! Asks the server's own questions after a start, once the newest data is read: what runs for the first time reads the
//! program's code into the processor's caches, starts threads, opens series and takes memory from the system, which is most
//! of what a first answer takes. Nothing is kept of the answers.
//!
//! Requests are answered as those of clients are, one after the other, with the same limits, priorities and metrics; the query
//! log leaves them out. They are about one metric of the store, so that they cost some milliseconds each
//! whatever the store holds.

use crate::api::work::{Deadline, blocking};
use crate::front::Front;
use crate::http_client::oauth2::escaped;
use crate::queries::Rehearsed;
use crate::state::State;
use axum::body::Body;
use axum::http::{Request, header};
use chronolith_model::queryable::{HistogramNeed, LabelQuery, ReadError, Select, Snapshot, Unlimited};
use chronolith_model::{METRIC_NAME, Matcher};
use http_body_util::BodyExt as _;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Nothing that is asked here should take a tenth of it.
const TIMEOUT: Duration = Duration::from_secs(2);
const HOUR_MS: i64 = 3_600_000;
/// The range of range queries, and their step: what dashboards show, so that the memory such answers take is there.
const RANGE_MS: i64 = 6 * HOUR_MS;
const STEP_S: i64 = 15;
/// More series in the last hour are not asked for.
const MAX_SERIES: u64 = 128;
/// The label by which one of a metric's series are told from the others, where all metrics have more series.
const INSTANCE: &str = "instance";
/// So many metrics are looked at to find the one.
const MAX_CANDIDATES: usize = 64;
/// Of so many with the most series one instance is looked at, if all have more.
const MAX_LARGE: usize = 8;
/// All series are counted if all blocks and tables together have no more than so many, a series of several counted in each.
const MAX_COUNTED: u64 = 1_000_000;

/// Range queries, `M` being the metric: what dashboards ask for most.
const RANGE_QUERIES: [&str; 14] = [
    "M",
    "sum by (job) (rate(M[5m]))",
    "sum by (instance) (increase(M[1h])) / on (instance) group_left count by (instance) (M) > 0",
    "M - on (job, instance) group_left max by (job, instance) (M offset 5m)",
    "histogram_quantile(0.9, sum by (le) (rate(M[5m])))",
    "topk(3, M)",
    "irate(M[5m])",
    "avg_over_time(M[10m])",
    "max_over_time(M[10m])",
    "quantile_over_time(0.9, M[10m])",
    "stddev_over_time(M[10m])",
    "deriv(M[10m])",
    "quantile by (job) (0.5, M)",
    "max_over_time(sum by (job) (rate(M[5m]))[30m:1m])",
];

/// Instant queries: what alerts ask.
const INSTANT_QUERIES: [&str; 5] = [
    "M == 0",
    "rate(M[5m]) > 0 and on (instance) M > 0",
    "predict_linear(M[1h], 3600) < 0",
    "avg by (instance) (rate(M[5m])) > 0 unless changes(M[1h]) == 0",
    "absent(M)",
];

/// Requests of a rehearsal over a store that is small enough to count its series.
#[cfg(test)]
pub(crate) const N_REQUESTS: usize = RANGE_QUERIES.len() + INSTANT_QUERIES.len() + 7;

/// What the store holds that is worth asking for.
struct Subject {
    /// A metric, or one instance of it.
    selector: String,
    /// The newest timestamp.
    maxt: i64,
    /// Whether there are few series enough to count them.
    is_small: bool,
}

/// Waits until the newest data is read (`read_ahead` says so; nothing is done if that never comes to an end), then asks.
pub async fn run(state: Arc<State>, front: Front, read_ahead: oneshot::Receiver<()>) {
    if read_ahead.await.is_err() {
        return;
    }
    let begun = Instant::now();
    let n_answered = rehearse(&state, &front).await;
    if n_answered > 0 {
        tracing::info!(requests = n_answered, duration = ?begun.elapsed(), "Rehearsed queries");
    }
}

/// Asks, and returns how many requests were answered well; none if nothing is stored.
pub(crate) async fn rehearse(state: &Arc<State>, front: &Front) -> usize {
    let Some(subject) = subject(state).await else { return 0 };
    let mut n_answered = 0;
    for (path, form) in requests(&subject) {
        if state.is_stopping() {
            break;
        }
        let uri = format!("{}{path}", state.settings.route_prefix);
        // Values of labels are asked for by GET alone.
        let request = match path.ends_with("/values") {
            true => Request::get(format!("{uri}?{form}")).body(Body::empty()),
            false => Request::post(uri)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Body::from(form)),
        };
        let mut request = request.expect("paths and headers are valid");
        request.extensions_mut().insert(Rehearsed);
        let response = front.answer(request).await;
        let is_well = response.status().is_success();
        let mut body = response.into_body();
        // Piece by piece, as it would be sent: whole answers are nowhere.
        while let Some(Ok(_)) = body.frame().await {}
        n_answered += usize::from(is_well);
    }
    n_answered
}

/// Paths and forms.
fn requests(subject: &Subject) -> Vec<(&'static str, String)> {
    let Subject { selector, maxt, is_small } = subject;
    let time = |ms: i64| format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000));
    let (start, end) = (time(maxt.saturating_sub(RANGE_MS)), time(*maxt));
    let range = format!("start={start}&end={end}");
    let matching = format!("{range}&match[]={}", escaped(selector));
    let query = |text: &str| format!("nocache=1&query={}", escaped(&text.replace('M', selector)));
    // Ends early, so that it cuts the newest block: that learns over which ranges its lists are whole.
    let cut = format!("start={start}&end={}", time(maxt.saturating_sub(1)));
    let mut requests = vec![("/api/v1/labels", cut.clone()), ("/api/v1/labels", matching.clone())];
    // Twice: what the first learns has the second keep its list.
    requests.extend([cut.clone(), cut].map(|form| ("/api/v1/label/__name__/values", form)));
    requests.push(("/api/v1/label/instance/values", matching.clone()));
    requests.push(("/api/v1/series", matching));
    let ranges = RANGE_QUERIES.map(|text| format!("{range}&step={STEP_S}&{}", query(text)));
    requests.extend(ranges.map(|form| ("/api/v1/query_range", form)));
    let instants = INSTANT_QUERIES.map(|text| format!("time={end}&{}", query(text)));
    requests.extend(instants.map(|form| ("/api/v1/query", form)));
    if *is_small {
        let text = "count by (__name__) ({__name__=~\".+\"})";
        requests.push(("/api/v1/query", format!("time={end}&query={}", escaped(text))));
    }
    requests
}

/// Looks for a metric; `None` if there is none of a fitting size, or nothing can be read: what is wrong with the store is
/// told elsewhere.
async fn subject(state: &State) -> Option<Subject> {
    let store = state.store()?;
    let find = move |_: &Deadline| Ok(find_subject(&*store.pin()?)?);
    blocking(Deadline::after(TIMEOUT), find).await.ok().flatten()
}

fn find_subject(snapshot: &dyn Snapshot) -> Result<Option<Subject>, ReadError> {
    let Some((_, maxt)) = snapshot.time_range() else { return Ok(None) };
    // The list that was read ahead.
    let all = LabelQuery { matcher_sets: &[], mint: i64::MIN, maxt: i64::MAX, limit: 0 };
    let names = snapshot.label_values(METRIC_NAME, &all, &Unlimited::default())?;
    let n_series = |matchers: &[Matcher], mint: i64| {
        let select =
            Select { values: false, histograms: HistogramNeed::None, ..Select::whole(matchers, mint, maxt) };
        Ok::<_, ReadError>(snapshot.estimate(&select)?.n_series)
    };
    let since = maxt.saturating_sub(HOUR_MS);
    let mut metrics = Vec::with_capacity(MAX_CANDIDATES);
    for name in names.iter().step_by(names.len().div_ceil(MAX_CANDIDATES).max(1)) {
        let matchers = vec![Matcher::equal(METRIC_NAME, name)];
        metrics.push((n_series(&matchers, since)?, matchers));
    }
    let fits = |&(n, _): &(u64, Vec<Matcher>)| (1..=MAX_SERIES).contains(&n);
    if !metrics.iter().any(fits) {
        metrics.sort_by_key(|&(n, _)| Reverse(n));
        metrics.truncate(MAX_LARGE);
        for (n, matchers) in &mut metrics {
            let of_metric =
                LabelQuery { matcher_sets: std::slice::from_ref(matchers), mint: since, maxt, limit: 1 };
            let instances = snapshot.label_values(INSTANCE, &of_metric, &Unlimited::default())?;
            matchers.extend(instances.first().map(|instance| Matcher::equal(INSTANCE, instance)));
            *n = n_series(matchers, since)?;
        }
    }
    let best = metrics.into_iter().filter(fits).max_by_key(|&(n, _)| n);
    let Some((_, matchers)) = best else { return Ok(None) };
    let selector = format!("{{{}}}", matchers.iter().map(Matcher::to_string).collect::<Vec<_>>().join(","));
    Ok(Some(Subject { selector, maxt, is_small: n_series(&[], i64::MIN)? <= MAX_COUNTED }))
}
