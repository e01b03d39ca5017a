//! What queries may take, and how they are listed and ended.

use super::*;
use crate::listen;
use crate::query_log::LogFile;
use chronolith_query::go_format::format_general;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Some minutes of work for one thread: windows of 100,000 values are sorted at 11,000 steps.
const ENDLESS: &str =
    "/api/v1/query_range?start=0&end=11000&step=1&query=quantile_over_time(0.5,vector(time())[100000s:1s])";

/// One series of 11,000 points: some 250 KB; with this many the answer is a megabyte.
const LARGE: &str = "/api/v1/query_range?start=1699989000&end=1700000000&step=1&query=vector(time())%20or%20label_replace(vector(time()),%22a%22,%22b%22,%22%22,%22%22)%20or%20label_replace(vector(time()),%22a%22,%22c%22,%22%22,%22%22)%20or%20label_replace(vector(time()),%22a%22,%22d%22,%22%22,%22%22)";

impl Server {
    /// Serves on a port of its own until the sender is dropped.
    async fn listen(&self) -> (SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = listen::Limits {
            max_connections: 10,
            read_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(1),
        };
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(listen::serve(vec![listener], self.front.clone(), limits, stopped));
        (address, stop)
    }

    async fn active(&self) -> Vec<Json> {
        let answer = self.get("/api/v1/status/active_queries").await;
        let json: Json = serde_json::from_slice(&answer.body).unwrap();
        json["data"].as_array().unwrap().clone()
    }

    /// Waits until the list of active queries looks as wanted, and says how long that took.
    async fn wait(&self, wanted: impl Fn(&[Json]) -> bool) -> Duration {
        let started = Instant::now();
        loop {
            let active = self.active().await;
            if wanted(&active) {
                return started.elapsed();
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{active:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn send(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

fn is_in(state: &str) -> impl Fn(&[Json]) -> bool {
    move |active| active.len() == 1 && active[0]["state"] == state
}

/// What ends a query does so within 100 ms. On a machine that others use too, one try may be kept waiting.
const N_TRIES: usize = 3;

fn is_at_once(took: &Duration) -> bool {
    *took < Duration::from_millis(100)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_ends_at_once_when_its_client_goes_away() {
    let server = Server::new(&[]);
    let (address, _stop) = server.listen().await;
    let mut took = Vec::new();
    while took.len() < N_TRIES && !took.iter().any(is_at_once) {
        let stream = send(address, ENDLESS).await;
        server.wait(is_in("running")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(stream);
        took.push(server.wait(<[Json]>::is_empty).await);
    }
    assert!(took.iter().any(is_at_once), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_listed_and_ended_over_the_api() {
    let server = Server::new(&["--web.enable-admin-api", "--query.max-concurrency=1"]);
    let (address, _stop) = server.listen().await;
    let mut running = send(address, ENDLESS).await;
    server.wait(is_in("running")).await;
    let mut waiting = send(address, "/api/v1/query?query=up").await;
    server.wait(|active| active.len() == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;

    let active = server.active().await;
    assert_eq!(active[0]["id"], "1");
    assert_eq!(active[0]["query"], "quantile_over_time(0.5,vector(time())[100000s:1s])");
    assert_eq!(
        (&active[0]["start"], &active[0]["end"], &active[0]["step"]),
        (&json!(0), &json!(11000), &json!(1))
    );
    assert_eq!((&active[0]["client"], &active[0]["method"]), (&json!("127.0.0.1"), &json!("GET")));
    assert_eq!(active[0]["path"], "/api/v1/query_range");
    assert!(active[0]["durationSeconds"].as_f64().unwrap() > 0.1);
    assert!(active[0]["memoryBytes"].as_u64().unwrap() > 100_000, "{active:?}");
    assert!(active[0]["peakSamples"].as_u64().unwrap() > 0, "{active:?}");
    assert_eq!((&active[1]["state"], &active[1]["memoryBytes"]), (&json!("queued"), &json!(0)));

    let post = async |path: &str| server.request(Method::POST, path, &[], Vec::new()).await;
    let cancelled = |place: &str| json!({"status": "error", "errorType": "canceled", "error": format!("query was canceled in {place}")});
    // The one that waits first, then the one that runs.
    assert_eq!(post("/api/v1/admin/queries/2/cancel").await.status, 204);
    assert_eq!(read_error(&mut waiting).await, (499, cancelled("query queue")));
    let mut took = Vec::new();
    for id in 1..=N_TRIES {
        if id > 1 {
            // The second one is that which waited.
            running = send(address, ENDLESS).await;
            server.wait(is_in("running")).await;
        }
        let path = format!("/api/v1/admin/queries/{}/cancel", if id == 1 { 1 } else { id + 1 });
        let started = Instant::now();
        assert_eq!(post(&path).await.status, 204);
        assert_eq!(read_error(&mut running).await, (499, cancelled("expression evaluation")));
        took.push(started.elapsed());
    }
    assert!(took.iter().any(is_at_once), "{took:?}");
    post("/api/v1/admin/queries/1/cancel").await.check(
        404,
        json!({"status": "error", "errorType": "not_found", "error": "there is no active query with the id 1"}),
    );
    assert_eq!(post("/api/v1/admin/queries/x/cancel").await.status, 400);
    let closed = Server::new(&[]);
    let answer = closed.request(Method::POST, "/api/v1/admin/queries/1/cancel", &[], Vec::new()).await;
    assert_eq!(answer.status, 500, "the admin API is off by default");
}

/// Status and JSON of an answer with a known length.
async fn read_error(stream: &mut TcpStream) -> (u16, Json) {
    let mut text = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        text.extend_from_slice(&buffer[..n]);
        let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        if let Ok(json) = serde_json::from_slice(&text[at + 4..]) {
            let status = std::str::from_utf8(&text[9..12]).unwrap().parse().unwrap();
            return (status, json);
        }
        assert!(n > 0, "{}", String::from_utf8_lossy(&text));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_reads_stays_charged_until_its_client_goes() {
    let server = Server::new(&["--web.enable-admin-api"]);
    let whole = server.get(LARGE).await;
    assert_eq!(whole.status, 200);
    assert!(whole.body.len() > 1_000_000, "{}", whole.body.len());
    let json: Json = serde_json::from_slice(&whole.body).unwrap();
    assert_eq!(json["data"]["result"].as_array().unwrap().len(), 4);
    assert!(server.active().await.is_empty());

    // The router hands the answer over and nobody reads it.
    let ask = async || {
        let request = axum::http::Request::builder().uri(LARGE).body(Body::empty()).unwrap();
        server.front.answer(request).await
    };
    let unread = ask().await;
    assert_eq!(unread.status(), 200);
    server.wait(is_in("sending")).await;
    let held = server.active().await[0]["memoryBytes"].as_u64().unwrap();
    assert!(held >= 4 * 11_000 * 16, "{held}");
    drop(unread);
    server.wait(<[Json]>::is_empty).await;

    let unread = ask().await;
    let id = server.active().await[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/admin/queries/{id}/cancel");
    assert_eq!(server.request(Method::POST, &path, &[], Vec::new()).await.status, 204);
    server.wait(<[Json]>::is_empty).await;
    assert!(axum::body::to_bytes(unread.into_body(), usize::MAX).await.is_err());
}

#[tokio::test]
async fn answers_that_nobody_reads_keep_to_the_memory_of_queries() {
    let server = Server::new(&["--query.max-total-memory=16MB"]);
    let mut unread = Vec::new();
    let refused = loop {
        let request = axum::http::Request::builder().uri(LARGE).body(Body::empty()).unwrap();
        let response = server.front.answer(request).await;
        if response.status() != 200 {
            break axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        }
        unread.push(response);
        assert!(unread.len() < 50);
    };
    assert!(!unread.is_empty());
    let text = String::from_utf8(refused.to_vec()).unwrap();
    assert!(text.contains("--query.max-total-memory"), "{text}");
    drop(unread);
    server.wait(<[Json]>::is_empty).await;
    assert_eq!(server.get(LARGE).await.status, 200);
}

#[tokio::test]
async fn strings_that_a_query_makes_are_charged_before_they_are_made() {
    let server = Server::with_samples(&["--query.max-memory=64MB"]).await;
    let nested = |n: usize, width: usize| {
        let mut text = format!("label_replace(up, \"a\", \"{}\", \"\", \"\")", "x".repeat(width));
        for _ in 0..n {
            text = format!("label_replace({text}, \"a\", \"$1$1\", \"a\", \"(.*)\")");
        }
        text
    };
    let ask = async |text: &str| {
        let answer =
            server.post_form("/api/v1/query", &format!("time=1700000000&query={}", escape(text))).await;
        (answer.status, answer.text().to_owned())
    };
    assert_eq!(ask(&nested(10, 8)).await.0, 200);
    let (status, text) = ask(&nested(60, 8)).await;
    assert_eq!(status, 422);
    assert!(text.contains("--query.max-memory") || text.contains("a label value would be"), "{text}");
    let (status, text) = ask("count_values(\"v\", time() + up)").await;
    assert_eq!(status, 200, "{text}");
}

fn escape(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_are_logged_with_their_client() {
    let server = Server::with_samples(&[]).await;
    let path = server.state.settings.storage_path.join("query.log");
    server.state.query_log.set(Some(LogFile::open(&path).unwrap()));
    let (address, _stop) = server.listen().await;
    let mut stream =
        send(address, "/api/v1/query_range?query=up&start=1700000000&end=1700000060&step=30").await;
    let mut buffer = [0; 1024];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    assert_eq!(server.get("/api/v1/query?query=up%20%2B%20on()%20up&time=1700000000").await.status, 422);
    assert_eq!(server.get("/api/v1/query?query=up%20%2B").await.status, 400);
    // A plan evaluates nothing, an analysis does.
    let explain = "/api/v1/explain?query=sum(up)&time=1700000000";
    assert_eq!(server.get(explain).await.status, 200);
    assert_eq!(server.get(&format!("{explain}&analyze=true")).await.status, 200);
    let path_of_failure = "/api/v1/explain?analyze=true&query=up%20%2B%20on()%20up&time=1700000000";
    assert_eq!(server.get(path_of_failure).await.status, 422);
    server.state.query_log.set(None);
    assert_eq!(server.get("/api/v1/query?query=up").await.status, 200);

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(
        (&lines[2]["params"]["query"], &lines[2]["httpRequest"]["path"]),
        (&json!("sum(up)"), &json!("/api/v1/explain"))
    );
    assert_eq!(lines[2]["stats"]["samples"]["samplesRead"], 2);
    assert!(lines[3]["error"].as_str().unwrap().contains("many-to-many"), "{text}");
    assert_eq!(
        lines[0]["params"],
        json!({"query": "up", "start": "2023-11-14T22:13:20.000Z", "end": "2023-11-14T22:14:20.000Z", "step": 30})
    );
    let request = json!({"clientIP": "127.0.0.1", "method": "GET", "path": "/api/v1/query_range"});
    assert_eq!(lines[0]["httpRequest"], request);
    assert_eq!(lines[0]["stats"]["samples"]["samplesRead"], 6);
    assert!(lines[0]["stats"]["timings"]["execTotalTime"].as_f64().unwrap() > 0.0);
    assert!(lines[0].get("error").is_none());
    assert!(lines[1]["error"].as_str().unwrap().contains("found duplicate series"), "{}", lines[1]);
}

#[tokio::test]
async fn a_query_that_would_read_too_much_is_refused_before_it_runs() {
    let ask = async |flag: &str, query: &str| {
        let server = Server::with_samples(&[flag]).await;
        let path = format!("/api/v1/query?time=1700000000&query={}", escape(query));
        let json: Json = serde_json::from_slice(&server.get(&path).await.body).unwrap();
        (json["errorType"].as_str().unwrap_or("").to_owned(), json["error"].as_str().unwrap_or("").to_owned())
    };
    let fine = (String::new(), String::new());
    // Two series of four.
    assert_eq!(ask("--query.max-series-read=3", "up").await, fine);
    assert_eq!(ask("--query.max-series-read=4", "up + up").await, fine);
    let (kind, text) = ask("--query.max-series-read=3", "up + up").await;
    assert_eq!(kind, "execution");
    assert_eq!(
        text,
        "the query would read an estimated 4 series, which is more than the limit of 3 (--query.max-series-read)"
    );
    assert_eq!(ask("--query.max-samples-read=50", "rate(up[5m])").await, fine);
    assert!(ask("--query.max-samples-read=30", "rate(up[5m])").await.1.contains("--query.max-samples-read"));
    assert!(ask("--query.max-bytes-read=10B", "{job=~\".+\"}").await.1.contains("--query.max-bytes-read"));
    assert_eq!(ask("--query.max-bytes-read=0B", "{job=~\".+\"}").await, fine);
}

#[tokio::test]
async fn limits_end_queries_in_the_words_of_prometheus() {
    let server = Server::with_samples(&["--query.max-samples=10", "--query.lookback-delta=10s"]).await;
    let error = |kind: &str, text: &str| json!({"status": "error", "errorType": kind, "error": text});
    server.get("/api/v1/query?time=1700000000&query=up%5B5m%5D").await.check(
        422,
        error("execution", "query processing would load too many samples into memory in query execution"),
    );
    server
        .get("/api/v1/query?time=1700000000&query=quantile_over_time(0.5,vector(time())%5B100000s:1s%5D)")
        .await
        .check(
            422,
            error("execution", "query processing would load too many samples into memory in query execution"),
        );
    let patient = Server::new(&[]);
    let timed_out = error("timeout", "query timed out in expression evaluation");
    let started = Instant::now();
    patient
        .get(&format!("{}&timeout=100ms", ENDLESS.replace('[', "%5B").replace(']', "%5D")))
        .await
        .check(503, timed_out.clone());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let hurried = Server::new(&["--query.timeout=100ms"]);
    hurried
        .get(&format!("{}&timeout=1h", ENDLESS.replace('[', "%5B").replace(']', "%5D")))
        .await
        .check(503, timed_out);

    let n_found = async |path: &str| {
        let json: Json = serde_json::from_slice(&server.get(path).await.body).unwrap();
        json["data"]["result"].as_array().unwrap().len()
    };
    // The last sample is at 1700000000.
    assert_eq!(n_found("/api/v1/query?query=up&time=1700000009").await, 2);
    assert_eq!(n_found("/api/v1/query?query=up&time=1700000010").await, 0);
    assert_eq!(n_found("/api/v1/query?query=up&time=1700000010&lookback_delta=1m").await, 2);
}

#[tokio::test]
async fn results_are_kept_unless_one_asks_not_to() {
    let server = Server::with_samples(&[]).await;
    let path = |more: &str| {
        format!("/api/v1/query_range?query=sum(up)&start={}&end={}&step=15{more}", NOW_S - 150, NOW_S)
    };
    let steps_kept = async |more: &str| {
        let before = server.state.results.stats().steps_kept;
        let answer = server.get(&path(more)).await;
        assert_eq!(answer.status, 200);
        (answer.text().to_owned(), server.state.results.stats().steps_kept - before)
    };
    let (first, kept) = steps_kept("&nocache=1").await;
    assert_eq!((kept, server.state.results.stats().n_entries), (0, 0));
    assert_eq!(steps_kept("").await, (first.clone(), 0));
    assert_eq!(steps_kept("&nocache=0").await, (first.clone(), 11));
    assert_eq!(steps_kept("&nocache=1").await, (first.clone(), 0));
    assert_eq!(steps_kept("&stats=true").await.1, 0);
    // A late sample counts at once.
    let labels = Labels::from_pairs([("__name__", "up"), ("instance", "late")]).unwrap();
    let answer =
        server.write("prometheus.WriteRequest", v1_body(&[(labels, vec![(NOW_MS - 60_000, 5.0)])])).await;
    assert_eq!(answer.status, 204);
    let (second, kept) = steps_kept("").await;
    assert_eq!(kept, 6);
    assert_ne!(second, first);
    assert_eq!(steps_kept("&nocache=1").await.0, second);

    let without = Server::with_samples(&["--query.result-cache-size=0B"]).await;
    for _ in 0..2 {
        assert_eq!(without.get(&path("")).await.text(), first);
    }
    assert_eq!(without.state.results.stats(), chronolith_query::CacheStats::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_federation_is_written_as_it_is_read_from_charged_memory() {
    const N_SERIES: i64 = 20_000;
    let now = jiff::Timestamp::now().as_millisecond();
    let server = Server::at(now, &["--query.max-memory=8MB"]);
    // Texts that the answer repeats for each series lie in memory once.
    let long = "x".repeat(500);
    let labels = |i: i64| Labels::from_pairs([("__name__", "m"), ("i", &format!("{i:05}")), ("long", &long)]);
    for start in (0..N_SERIES).step_by(5000) {
        let series: Vec<_> =
            (start..start + 5000).map(|i| (labels(i).unwrap(), vec![(now - 1000, i as f64)])).collect();
        assert_eq!(server.write("prometheus.WriteRequest", v1_body(&series)).await.status, 204);
    }
    let federate = async || {
        let request = axum::http::Request::get("/federate?match[]=m").body(Body::empty()).unwrap();
        server.front.answer(request).await
    };
    let mut response = federate().await;
    assert_eq!(response.status(), 200);
    // Neither its length is known nor any piece of it long: it is not there yet.
    assert_eq!(response.body().size_hint().exact(), None);
    let mut text = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        let piece = frame.unwrap().into_data().unwrap();
        assert!(piece.len() < 512 << 10, "{}", piece.len());
        text.extend_from_slice(&piece);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.len() > 10 << 20, "{}", text.len());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len() as i64, lines[0]), (N_SERIES + 1, "# TYPE m untyped"));
    for (i, line) in lines[1..].iter().enumerate() {
        assert_eq!(
            *line,
            format!(
                "m{{i=\"{i:05}\",long=\"{long}\",instance=\"\",zone=\"z\"}} {} {}",
                format_general(i as f64),
                now - 1000
            )
        );
    }

    // A client that goes away frees what is left; until then it counts.
    let charged = || server.state.engine.memory_bytes();
    assert_eq!(charged(), 0);
    let response = federate().await;
    let held = charged();
    assert!(held > 1 << 20 && held < 8 << 20, "{held}");
    drop(response);
    let since = Instant::now();
    while charged() != 0 {
        assert!(since.elapsed() < Duration::from_secs(30), "{}", charged());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_federation_that_takes_too_much_memory_is_refused() {
    let now = jiff::Timestamp::now().as_millisecond();
    let server = Server::at(now, &["--query.max-memory=100KB"]);
    let labels = |i: i64| Labels::from_pairs([("__name__", "m"), ("i", &format!("{i:05}"))]).unwrap();
    let series: Vec<_> = (0..5000).map(|i| (labels(i), vec![(now - 1000, 1.0)])).collect();
    assert_eq!(server.write("prometheus.WriteRequest", v1_body(&series)).await.status, 204);
    let answer = server.get("/federate?match[]=m").await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("--query.max-memory"), "{}", answer.text());
    let metrics = server.get("/metrics").await;
    assert!(metrics.text().contains("\nprometheus_web_federation_errors_total 1\n"));
}
