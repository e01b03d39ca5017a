//! The server in process, over a store in a temporary folder; answers compared whole.

mod explain;
mod limits;

use super::*;
use crate::config::{Config, Environment};
use crate::front::Front;
use crate::remote::direct::Direct;
use crate::remote::known::Seen;
use crate::store::OpenDb;
use crate::telemetry::Registry;
use crate::telemetry::metrics::TextFormat;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request};
use chronolith_model::Labels;
use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey, SeriesRef};
use chronolith_storage::Options;
use chronolith_storage::db::Db;
use chronolith_storage::options::ManualClock;
use chronolith_wire::remote_write;
use serde_json::{Value as Json, json};
use std::path::Path;

/// The clock of the store: 2023-11-14T22:13:20Z.
const NOW_S: i64 = 1_700_000_000;
const NOW_MS: i64 = NOW_S * 1000;

struct Server {
    front: Front,
    state: Arc<ServerState>,
    _folder: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    fn check(&self, status: u16, expected: Json) {
        let json: Json = serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()));
        assert_eq!((self.status, json), (status, expected));
    }
}

/// The state of a server without a store, and its folder.
pub fn starting_state(flags: &[&str]) -> (Arc<ServerState>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("--storage.tsdb.path={}", folder.path().display());
    let args = ["chronolith", &path].into_iter().chain(flags.iter().copied()).map(str::to_owned);
    let settings = crate::cli::parse(args).unwrap_or_else(|error| panic!("{error:?}"));
    let config = Config::from_text(
        "global: {external_labels: {zone: z}}",
        Path::new("prometheus.yml"),
        &Environment(&|_| None),
    )
    .unwrap();
    let (reloads, _) = tokio::sync::mpsc::channel(1);
    (Arc::new(ServerState::new(settings, config, Arc::new(Registry::new()), reloads)), folder)
}

impl Server {
    fn starting(flags: &[&str]) -> Self {
        let (state, folder) = starting_state(flags);
        Self { front: Front::new(Arc::clone(&state)), state, _folder: folder }
    }

    fn new(flags: &[&str]) -> Self {
        Self::at(NOW_MS, flags)
    }

    /// A server whose store's clock stands at `now_ms`.
    fn at(now_ms: i64, flags: &[&str]) -> Self {
        let server = Self::starting(flags);
        let options = Options {
            background: false,
            clock: Arc::new(ManualClock::new(now_ms)),
            shards: 2,
            memory_budget_bytes: 64 << 20,
            ..Options::default()
        };
        let db = Db::open(&server.state.settings.storage_path, options).unwrap();
        server.state.set_store(Arc::new(OpenDb::new(db)));
        server
    }

    async fn send(&self, request: axum::http::Request<Body>) -> Answer {
        let response = self.front.answer(request).await;
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[], Vec::new()).await
    }

    async fn post_form(&self, path: &str, form: &str) -> Answer {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.request(Method::POST, path, &headers, form.into()).await
    }

    async fn write(&self, message: &str, body: Vec<u8>) -> Answer {
        let content_type = format!("application/x-protobuf;proto={message}");
        let headers = [("content-type", content_type.as_str()), ("content-encoding", "snappy")];
        self.request(Method::POST, "/api/v1/write", &headers, body).await
    }

    /// A server with `up` and `http.requests` of two instances, a sample every 15 s for 5 minutes.
    async fn with_samples(flags: &[&str]) -> Self {
        let server = Self::new(flags);
        let series: Vec<(Labels, Vec<(i64, f64)>)> = ["a", "b"]
            .iter()
            .flat_map(|instance| {
                let labels = |name: &str| {
                    Labels::from_pairs([("__name__", name), ("instance", instance), ("job", "<j>")]).unwrap()
                };
                let samples = |value: fn(i64) -> f64| {
                    (0..=20).map(|i| (NOW_MS - (20 - i) * 15_000, value(i))).collect::<Vec<_>>()
                };
                [(labels("up"), samples(|_| 1.0)), (labels("http.requests"), samples(|i| i as f64 / 10.0))]
            })
            .collect();
        let answer = server.write("prometheus.WriteRequest", v1_body(&series)).await;
        assert_eq!((answer.status, answer.text()), (204, ""));
        server
    }
}

fn batch<'a>(series: &'a [(Labels, Vec<(i64, f64)>)]) -> AppendBatch<'a> {
    let mut batch = AppendBatch::default();
    for (labels, samples) in series {
        let start = batch.samples.len() as u32;
        batch.samples.extend(samples.iter().map(|&(timestamp, value)| Sample {
            timestamp,
            value,
            start_timestamp: 0,
        }));
        let end = batch.samples.len() as u32;
        batch.series.push(BatchSeries {
            key: SeriesKey::Labels(labels),
            samples: start..end,
            histograms: 0..0,
            exemplars: 0..0,
        });
    }
    batch
}

fn v1_body(series: &[(Labels, Vec<(i64, f64)>)]) -> Vec<u8> {
    let mut message = Vec::new();
    remote_write::v1::encode(&batch(series), &mut message).unwrap();
    remote_write::compress(&message)
}

fn v2_body(series: &[(Labels, Vec<(i64, f64)>)]) -> Vec<u8> {
    let mut message = Vec::new();
    remote_write::v2::encode(&batch(series), &mut message).unwrap();
    remote_write::compress(&message)
}

#[tokio::test]
async fn before_the_store_is_open_gated_routes_say_so() {
    let server = Server::starting(&[]);
    for path in ["/api/v1/query?query=1", "/-/ready", "/api/v1/status/config", "/federate"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.text()), (503, "Service Unavailable"), "{path}");
        assert_eq!(answer.header("x-prometheus-stopping"), "false");
    }
    assert_eq!(server.get("/-/healthy").await.status, 200);
    assert_eq!(server.get("/metrics").await.status, 200);
    server
        .get("/api/v1/status/walreplay")
        .await
        .check(200, json!({"status": "success", "data": {"min": 0, "max": 0, "current": 0}}));
    server.state.set_stopping();
    assert_eq!(server.get("/-/ready").await.header("x-prometheus-stopping"), "true");
}

#[tokio::test]
async fn instant_queries_answer_to_the_digit() {
    let server = Server::with_samples(&[]).await;
    let answer = server.get(&format!("/api/v1/query?query=up%7Binstance=%22a%22%7D&time={NOW_S}.5")).await;
    assert_eq!(
        answer.text(),
        "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[{\"metric\":{\"__name__\":\"up\",\"instance\":\"a\",\"job\":\"<j>\"},\"value\":[1700000000.500,\"1\"]}]}}"
    );
    assert_eq!(answer.header("content-type"), "application/json");
    let answer = server.post_form("/api/v1/query", &format!("query=sum(up)&time={NOW_S}")).await;
    answer.check(
        200,
        json!({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [NOW_S, "2"]}]}}),
    );
    let answer = server.get("/api/v1/query?query=1e-7&time=1.05").await;
    assert_eq!(
        answer.text(),
        "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1.05,\"0.0000001\"]}}"
    );
    let answer = server.get(&format!("/api/v1/query?query=up&time={NOW_S}&limit=1")).await;
    let json: Json = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(json["data"]["result"].as_array().unwrap().len(), 1);
    assert_eq!(json["warnings"], json!(["results truncated due to limit"]));
    let answer = server.get(&format!("/api/v1/query?query=up&time={NOW_S}&stats=all")).await;
    let json: Json = serde_json::from_slice(&answer.body).unwrap();
    assert!(json["data"]["stats"]["timings"]["execTotalTime"].is_number());
    assert_eq!(json["data"]["stats"]["samples"]["totalQueryableSamples"], 2);
    assert_eq!(json["data"]["stats"]["samples"]["totalQueryableSamplesPerStep"], Json::Null);
}

#[tokio::test]
async fn statistics_by_step_need_the_feature_and_the_parameter() {
    let server = Server::with_samples(&["--enable-feature=promql-per-step-stats"]).await;
    let path = format!(
        "/api/v1/query_range?query=max_over_time(up%5B30s%5D)&start={}&end={NOW_S}&step=15",
        NOW_S - 30
    );
    let answer = server.get(&format!("{path}&stats=all")).await;
    let json: Json = serde_json::from_slice(&answer.body).unwrap();
    let samples = &json["data"]["stats"]["samples"];
    let by_step = |a: u64, b: u64, c: u64| json!([[NOW_S - 30, a], [NOW_S - 15, b], [NOW_S, c]]);
    assert_eq!(samples["totalQueryableSamplesPerStep"], by_step(4, 4, 4));
    assert_eq!(samples["samplesReadPerStep"], by_step(4, 2, 2));
    assert_eq!((&samples["totalQueryableSamples"], &samples["samplesRead"]), (&json!(12), &json!(8)));
    let answer = server.get(&format!("{path}&stats=true")).await;
    let json: Json = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(json["data"]["stats"]["samples"]["samplesReadPerStep"], Json::Null);
}

#[tokio::test]
async fn range_queries_answer_to_the_digit() {
    let server = Server::with_samples(&[]).await;
    let path = format!(
        "/api/v1/query_range?query=%7B%22http.requests%22,instance=%22b%22%7D&start={}&end={NOW_S}&step=15",
        NOW_S - 30
    );
    server.get(&path).await.check(
        200,
        json!({"status": "success", "data": {"resultType": "matrix", "result": [{
            "metric": {"__name__": "http.requests", "instance": "b", "job": "<j>"},
            "values": [[NOW_S - 30, "1.8"], [NOW_S - 15, "1.9"], [NOW_S, "2"]],
        }]}}),
    );
}

#[tokio::test]
async fn wrong_parameters_are_told_in_prometheus_words() {
    let server = Server::new(&[]);
    let error = |text: &str| json!({"status": "error", "errorType": "bad_data", "error": text});
    for (path, text) in [
        (
            "query?query=up&time=x",
            "invalid parameter \"time\": invalid time value for 'time': cannot parse \"x\" to a valid timestamp",
        ),
        ("query?query=up&limit=-1", "invalid parameter \"limit\": limit must be non-negative"),
        ("query?query=up&timeout=x", "invalid parameter \"timeout\": cannot parse \"x\" to a valid duration"),
        (
            "query_range?query=up&start=2&end=1&step=1",
            "invalid parameter \"end\": end timestamp must not be before start time",
        ),
        (
            "query_range?query=up&start=1&end=2&step=0",
            "invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer",
        ),
        (
            "query_range?query=up&start=0&end=11002&step=1",
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ),
        (
            "query_range?query=up&end=2&step=1",
            "invalid parameter \"start\": cannot parse \"\" to a valid timestamp",
        ),
        ("series", "no match[] parameter provided"),
        (
            "series?match[]=%7Ba=%22%22%7D",
            "invalid parameter \"match[]\": match[] must contain at least one non-empty matcher",
        ),
        ("labels?match[]=%7Ba=%22%22%7D", "match[] must contain at least one non-empty matcher"),
        ("metadata?limit=x", "limit must be a number"),
        ("status/tsdb?limit=0", "limit must be a positive number"),
        ("rules?type=x", "invalid parameter \"type\": not supported value \"x\""),
        ("scrape_pools/config", "no scrapePool parameter provided"),
    ] {
        let answer = server.get(&format!("/api/v1/{path}")).await;
        answer.check(400, error(text));
    }
    let answer = server.get("/api/v1/query?query=up%20%2B").await;
    assert_eq!(answer.status, 400);
    assert!(
        answer.text().contains("invalid parameter \\\"query\\\": 1:5: parse error: "),
        "{}",
        answer.text()
    );
    assert_eq!(server.get("/api/v1/nothing").await.status, 404);
}

#[tokio::test]
async fn labels_values_and_series_are_listed() {
    let server = Server::with_samples(&[]).await;
    let data = |data: Json| json!({"status": "success", "data": data});
    server.get("/api/v1/labels").await.check(200, data(json!(["__name__", "instance", "job"])));
    server.get("/api/v1/label/instance/values").await.check(200, data(json!(["a", "b"])));
    server.get("/api/v1/label/U______name____/values").await.check(200, data(json!(["http.requests", "up"])));
    server.get("/api/v1/label/instance/values?limit=1").await.check(
        200,
        json!({"status": "success", "data": ["a"], "warnings": ["results truncated due to limit"]}),
    );
    server
        .get("/api/v1/label/instance/values?match[]=up%7Binstance!=%22a%22%7D")
        .await
        .check(200, data(json!(["b"])));
    server.get("/api/v1/label/nothing/values").await.check(200, data(json!([])));
    let up = |instance: &str| json!({"__name__": "up", "instance": instance, "job": "<j>"});
    server.get("/api/v1/series?match[]=up").await.check(200, data(json!([up("a"), up("b")])));
    server.post_form("/api/v1/series", "match[]=up&match[]=up%7Binstance=%22a%22%7D&limit=1").await.check(
        200,
        json!({"status": "success", "data": [up("a")], "warnings": ["results truncated due to limit"]}),
    );
    server.get("/api/v1/series?match[]=up&end=1").await.check(200, data(json!([])));
}

#[tokio::test]
async fn remote_write_negotiates_and_keeps_good_samples() {
    let server = Server::new(&["--remote-write.max-request-size=10KB"]);
    let series = |value: f64| {
        let labels = Labels::from_pairs([("__name__", "m")]).unwrap();
        vec![(labels, vec![(NOW_MS - 1000, value), (NOW_MS, value)])]
    };
    for (content_type, encoding, status) in [
        ("application/json", "snappy", 415),
        ("application/x-protobuf;proto=other", "snappy", 415),
        ("application/x-protobuf", "gzip", 415),
        ("application/x-protobuf", "snappy", 204),
    ] {
        let headers = [("content-type", content_type), ("content-encoding", encoding)];
        let answer = server.request(Method::POST, "/api/v1/write", &headers, v1_body(&series(1.0))).await;
        assert_eq!(answer.status, status, "{content_type} {encoding}: {}", answer.text());
    }
    // A repeated request changes nothing.
    let v2 = "io.prometheus.write.v2.Request";
    let answer = server.write(v2, v2_body(&series(1.0))).await;
    assert_eq!((answer.status, answer.text()), (204, ""));
    assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), "2");
    assert_eq!(answer.header("x-prometheus-remote-write-histograms-written"), "0");
    // The second sample is another value for its timestamp, the third is new.
    let labels = Labels::from_pairs([("__name__", "m")]).unwrap();
    let mixed = vec![(labels, vec![(NOW_MS, 2.0), (NOW_MS + 1000, 3.0)])];
    let answer = server.write(v2, v2_body(&mixed)).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), "1");
    assert!(answer.text().contains("{__name__=\"m\"}"), "{}", answer.text());
    assert!(answer.text().contains(&NOW_MS.to_string()), "{}", answer.text());

    let answer = server.write("prometheus.WriteRequest", b"not snappy".to_vec()).await;
    assert_eq!(answer.status, 400);
    let answer = server.write("prometheus.WriteRequest", vec![0; 11 << 10]).await;
    assert_eq!(answer.status, 413);
    let answer = server.get(&format!("/api/v1/query?query=m&time={}", NOW_S + 1)).await;
    assert!(answer.text().contains("[1700000001,\"3\"]"), "{}", answer.text());

    let off = Server::new(&["--no-web.enable-remote-write-receiver"]);
    assert_eq!(off.write("prometheus.WriteRequest", v1_body(&series(1.0))).await.status, 404);
}

#[tokio::test]
async fn remote_write_is_answered_alike_by_the_router_and_without_it() {
    let labels = Labels::from_pairs([("__name__", "m")]).unwrap();
    let body = v2_body(&[(labels, vec![(NOW_MS, 1.0)])]);
    let starting = Server::starting(&["--web.route-prefix=/here"]);
    let open = Server::new(&["--remote-write.max-request-size=10KB"]);
    let off = Server::new(&["--no-web.enable-remote-write-receiver"]);
    let v2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    for (server, path, content_type, body, status) in [
        (&starting, "/here/api/v1/write", v2, body.clone(), 503),
        (&off, "/api/v1/write", v2, body.clone(), 404),
        (&open, "/api/v1/write?a=b", v2, body.clone(), 204),
        (&open, "/api/v1/write", "text/plain", body.clone(), 415),
        (&open, "/api/v1/write", v2, b"not snappy".to_vec(), 400),
        (&open, "/api/v1/write", v2, vec![0; 11 << 10], 413),
    ] {
        let request = || {
            let request = Request::post(path).header("content-type", content_type);
            request.body(Body::from(body.clone())).unwrap()
        };
        let direct = Direct::new(Arc::clone(&server.state));
        assert!(direct.takes(&request()));
        let (short, long) = (direct.answer(request()).await, server.front.routed(request()).await);
        let statuses = [short.status().as_u16(), long.status().as_u16()];
        assert_eq!(statuses, [status, status], "{content_type}");
        let body =
            async |response: Response| axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(body(short).await, body(long).await);
        let counted = server.state.registry.render(TextFormat::Prometheus);
        let expected =
            format!("prometheus_http_requests_total{{handler=\"/api/v1/write\",code=\"{status}\"}} 2");
        assert!(counted.contains(&expected), "{counted}");
    }
    let direct = Direct::new(Arc::clone(&open.state));
    let of_a_browser = Request::post("/api/v1/write").header("origin", "http://here").body(()).unwrap();
    assert!(!direct.takes(&of_a_browser));
    assert!(!direct.takes(&Request::get("/api/v1/write").body(()).unwrap()));
    assert!(!direct.takes(&Request::post("/api/v1/query").body(()).unwrap()));
}

#[tokio::test]
async fn a_request_that_came_before_is_known_by_its_outline() {
    let server = Server::new(&[]);
    let series = |names: &[&str], time: i64, value: f64| -> Vec<(Labels, Vec<(i64, f64)>)> {
        let labels = |name: &&str| Labels::from_pairs([("__name__", *name), ("job", "j")]).unwrap();
        names.iter().map(|name| (labels(name), vec![(NOW_MS + time, value)])).collect()
    };
    let v2 = "io.prometheus.write.v2.Request";
    let known = |series: &[(Labels, Vec<(i64, f64)>)]| {
        let mut message = Vec::new();
        remote_write::decompress(&v2_body(series), 1 << 20, &mut message).unwrap();
        (server.state.known_requests.look_up(&message), message)
    };
    for time in 0..4 {
        let answer = server.write(v2, v2_body(&series(&["a", "b"], time, time as f64))).await;
        assert_eq!((answer.status, answer.text()), (204, ""));
        assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), "2");
    }
    assert!(matches!(known(&series(&["a", "b"], 9, 9.0)).0, Seen::Known(..)));
    // Refusals are told as those of any other request.
    let answer = server.write(v2, v2_body(&series(&["a", "b"], 3, 7.0))).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("first refused: series {__name__=\"a\", job=\"j\"} at 1700000000003 ms"));
    assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), "0");
    // Other series under the same symbols.
    let answer = server.write(v2, v2_body(&series(&["a", "b", "a"], 4, 4.0))).await;
    assert_eq!((answer.status, answer.text()), (204, ""));
    // A handle that is no longer valid.
    let Seen::Nothing = known(&series(&["c"], 5, 5.0)).0 else { panic!("it comes for the first time") };
    let (Seen::Again(hash), message) = known(&series(&["c"], 5, 5.0)) else { panic!("it came once") };
    let expired = SeriesRef { slot: 1 << 20, generation: 1 };
    server.state.known_requests.learn(hash, &message, Some(vec![expired]));
    let answer = server.write(v2, v2_body(&series(&["c"], 5, 5.0))).await;
    assert_eq!((answer.status, answer.text()), (204, ""));
    assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), "1");
    for (query, expected) in [("a", 4.0), ("b", 4.0), ("c", 5.0), ("sum_over_time(b[10s])", 10.0)] {
        let answer = server.get(&format!("/api/v1/query?query={query}&time={}", NOW_S + 1)).await;
        assert!(answer.text().contains(&format!(",\"{expected}\"]")), "{query}: {}", answer.text());
    }
}

#[tokio::test]
async fn requests_over_the_limit_in_flight_are_asked_to_come_back() {
    let server = Server::new(&["--remote-write.max-in-flight=1"]);
    let _held = server.state.remote_write_gate.clone().try_acquire_owned().unwrap();
    let answer = server.write("prometheus.WriteRequest", v1_body(&[])).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn administration_has_to_be_allowed() {
    let server = Server::with_samples(&[]).await;
    let answer = server.post_form("/api/v1/admin/tsdb/delete_series", "match[]=up").await;
    answer.check(500, json!({"status": "error", "errorType": "unavailable", "error": "admin APIs disabled"}));
    assert_eq!(server.post_form("/-/reload", "").await.status, 403);
    let answer = server.get("/-/quit").await;
    assert_eq!((answer.status, answer.text()), (405, "Only POST or PUT requests allowed"));

    let server = Server::with_samples(&["--web.enable-admin-api", "--web.enable-lifecycle"]).await;
    let form = "match[]=up%7Binstance=%22a%22%7D";
    let answer = server.post_form("/api/v1/admin/tsdb/delete_series", form).await;
    assert_eq!((answer.status, answer.text()), (204, ""));
    server
        .get("/api/v1/label/instance/values?match[]=up")
        .await
        .check(200, json!({"status": "success", "data": ["b"]}));
    assert_eq!(server.post_form("/api/v1/admin/tsdb/clean_tombstones", "").await.status, 204);
    let answer = server.post_form("/api/v1/admin/tsdb/snapshot", "").await;
    let json: Json = serde_json::from_slice(&answer.body).unwrap();
    let name = json["data"]["name"].as_str().unwrap();
    assert!(server.state.settings.storage_path.join("snapshots").join(name).is_dir());
    assert_eq!(server.post_form("/-/quit", "").await.status, 200);
}

#[tokio::test]
async fn federation_serves_the_last_samples_as_text() {
    let now = jiff::Timestamp::now().as_millisecond();
    let server = Server::at(now, &[]);
    let answer = server.get("/federate?match[]=up").await;
    assert_eq!((answer.status, answer.text()), (200, ""));
    assert_eq!(
        answer.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
    );
    assert_eq!(server.get("/federate?match[]=up%7B").await.status, 400);
    let series = |pairs: &[(&str, &str)], samples: &[(i64, f64)]| {
        let samples = samples.iter().map(|(ago, value)| (now - ago, *value)).collect::<Vec<_>>();
        (Labels::from_pairs(pairs.iter().copied()).unwrap(), samples)
    };
    let stale = f64::from_bits(chronolith_model::sample::STALE_NAN_BITS);
    let body = v1_body(&[
        series(&[("__name__", "up"), ("instance", "b")], &[(60_000, 1.0), (30_000, 0.5)]),
        series(&[("__name__", "up"), ("a", "x"), ("instance", "a")], &[(30_000, 3.0)]),
        series(&[("__name__", "up"), ("instance", "ended")], &[(60_000, 1.0), (30_000, stale)]),
        series(&[("__name__", "up"), ("instance", "old")], &[(400_000, 1.0)]),
        series(&[("__name__", "a.b"), ("job", "j")], &[(30_000, 2.0)]),
    ]);
    assert_eq!(server.write("prometheus.WriteRequest", body).await.status, 204);
    // Each series once, whatever selects it.
    let path = "/federate?match[]=up&match[]=%7B__name__=~%22up%7Ca.b%22%7D";
    let at = now - 30_000;
    assert_eq!(
        server.get(path).await.text(),
        format!(
            "# TYPE a_b untyped\na_b{{job=\"j\",instance=\"\",zone=\"z\"}} 2 {at}\n# TYPE up untyped\nup{{a=\"x\",instance=\"a\",zone=\"z\"}} 3 {at}\nup{{instance=\"b\",zone=\"z\"}} 0.5 {at}\n"
        )
    );
    assert_eq!(server.get("/federate?match[]=%7B%7D").await.text(), "");
    let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8";
    let answer = server.request(Method::GET, path, &[("accept", accept)], Vec::new()).await;
    assert!(answer.header("content-type").starts_with("application/vnd.google.protobuf; proto=io."));
    // The length of the family, its name and its type.
    assert_eq!(answer.body[1..8], *b"\x0a\x03a.b\x18\x03");
}

#[tokio::test]
async fn status_pages_have_their_shapes() {
    let server = Server::with_samples(&["--query.timeout=1m"]).await;
    let get = async |path: &str| {
        let answer = server.get(&format!("/api/v1/{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let json: Json = serde_json::from_slice(&answer.body).unwrap();
        json["data"].clone()
    };
    assert_eq!(get("status/buildinfo").await["version"], PROMETHEUS_VERSION);
    let version = server.get("/version").await;
    let version: Json = serde_json::from_slice(&version.body).unwrap();
    assert_eq!(version, get("status/buildinfo").await);
    assert_eq!(version["chronolithVersion"], env!("CARGO_PKG_VERSION"));
    for field in ["revision", "branch", "buildUser", "buildDate", "goVersion"] {
        assert!(version[field].is_string(), "{field} in {version}");
    }
    assert!(version["goVersion"].as_str().unwrap().starts_with("rustc "));
    assert_eq!(server.get("/api/v1/label//values").await.status, 404);
    assert_eq!(get("status/flags").await["query.timeout"], "1m");
    assert!(get("status/config").await["yaml"].as_str().unwrap().contains("zone: z"));
    assert_eq!(get("status/runtimeinfo").await["storageRetention"], "15d");
    let tsdb = get("status/tsdb?limit=1").await;
    assert_eq!(tsdb["headStats"]["numSeries"], 4);
    assert_eq!(tsdb["seriesCountByMetricName"], json!([{"name": "http.requests", "value": 2}]));
    assert_eq!(get("status/tsdb/blocks").await, json!({"blocks": []}));
    assert_eq!(get("rules").await, json!({"groups": []}));
    assert_eq!(get("alerts").await, json!({"alerts": []}));
    assert_eq!(get("alertmanagers").await, json!({"activeAlertmanagers": [], "droppedAlertmanagers": []}));
    assert_eq!(
        get("targets").await,
        json!({"activeTargets": [], "droppedTargets": [], "droppedTargetCounts": {}})
    );
    assert_eq!(get("scrape_pools").await, json!({"scrapePools": []}));
    assert_eq!(get("metadata").await, json!({}));
    assert_eq!(get("features").await["api"]["remote_write_receiver"], true);
    assert_eq!(get("format_query?query=sum(up)by(job)").await, "sum by (job) (up)");
    assert_eq!(get("parse_query?query=1").await, json!({"type": "numberLiteral", "val": "1"}));
    assert_eq!(get("query_exemplars?query=up").await, json!([]));
    assert_eq!(server.get("/api/v1/query_exemplars?query=1").await.status, 204);
}

#[tokio::test]
async fn browsers_and_proxies_are_served() {
    let server = Server::new(&["--web.external-url=http://x.y/pro/m/", "--web.cors.origin=https?://good"]);
    assert_eq!(server.get("/").await.status, 302);
    assert_eq!(server.get("/").await.header("location"), "/pro/m/");
    assert_eq!(server.get("/pro/m/").await.status, 200);
    assert_eq!(server.get("/pro/m/-/ready").await.status, 200);
    assert_eq!(server.get("/-/ready").await.status, 404);
    let cors = async |origin: &str| {
        let headers = [("origin", origin)];
        let answer = server.request(Method::OPTIONS, "/pro/m/api/v1/query", &headers, Vec::new()).await;
        (answer.status, answer.header("access-control-allow-origin").to_owned())
    };
    assert_eq!(cors("https://good").await, (204, "https://good".to_owned()));
    assert_eq!(cors("https://good.evil").await, (204, String::new()));
    let headers = [("accept-encoding", "gzip")];
    let answer = server.request(Method::GET, "/pro/m/api/v1/status/flags", &headers, Vec::new()).await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    let metrics = server.get("/pro/m/metrics").await;
    assert!(
        metrics
            .text()
            .contains("prometheus_http_requests_total{handler=\"/api/v1/status/flags\",code=\"200\"} 1"),
        "{}",
        metrics.text()
    );
}

#[tokio::test]
async fn a_query_ends_at_its_timeout_also_while_it_waits() {
    let server = Server::new(&["--query.max-concurrency=1"]);
    let _held = server.state.query_gate.clone().try_acquire_owned().unwrap();
    server.get("/api/v1/query?query=1&timeout=0.01").await.check(
        503,
        json!({"status": "error", "errorType": "timeout", "error": "query timed out in query queue"}),
    );
}

#[tokio::test]
async fn a_rehearsal_is_answered_and_leaves_the_query_log_alone() {
    let empty = Server::new(&[]);
    assert_eq!(crate::rehearsal::rehearse(&empty.state, &empty.front).await, 0, "nothing is stored");
    let server = Server::with_samples(&[]).await;
    let log = server.state.settings.storage_path.join("query.log");
    server.state.query_log.set(Some(crate::query_log::LogFile::open(&log).unwrap()));
    let expected = crate::rehearsal::N_REQUESTS;
    assert_eq!(crate::rehearsal::rehearse(&server.state, &server.front).await, expected);
    assert_eq!(std::fs::read(&log).unwrap(), b"");
    server.get("/api/v1/query?query=1").await;
    assert_ne!(std::fs::read(&log).unwrap(), b"");
    server.state.set_stopping();
    assert_eq!(crate::rehearsal::rehearse(&server.state, &server.front).await, 0, "the server stops");
}

#[tokio::test]
async fn of_a_store_without_small_metrics_one_instance_is_rehearsed() {
    let series = |of_instance: u32| {
        let labels = (0..400).map(|at| {
            let (instance, part) = (at / of_instance, at % of_instance);
            [("__name__", "m".to_owned()), ("instance", instance.to_string()), ("part", part.to_string())]
        });
        let samples: Vec<(i64, f64)> = (0..4).map(|at| (NOW_MS - at * 15_000, 1.0)).rev().collect();
        labels.map(|labels| (Labels::from_pairs(labels).unwrap(), samples.clone())).collect::<Vec<_>>()
    };
    for (of_instance, expected) in [(100, crate::rehearsal::N_REQUESTS), (200, 0)] {
        let server = Server::new(&[]);
        assert_eq!(server.write("prometheus.WriteRequest", v1_body(&series(of_instance))).await.status, 204);
        assert_eq!(crate::rehearsal::rehearse(&server.state, &server.front).await, expected, "{of_instance}");
    }
}
