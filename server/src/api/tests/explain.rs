//! `explain`, over a store that holds two series.

use super::*;

fn data(answer: &Answer) -> Json {
    let json: Json = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()));
    assert_eq!((answer.status, &json["status"]), (200, &json!("success")), "{json}");
    json["data"].clone()
}

#[tokio::test]
async fn a_plan_is_shown_without_being_evaluated() {
    let server = Server::with_samples(&[]).await;
    let answer = server.get(&format!("/api/v1/explain?query=sum(up)&time={NOW_S}")).await;
    let data = data(&answer);
    assert_eq!(data["analyzed"], json!(false));
    assert_eq!(data["nodes"][0]["operator"], json!("sum by ()"));
    assert_eq!(data["nodes"][0]["parent"], json!(null));
    let select = &data["nodes"][1];
    assert_eq!(select["parent"], json!(0));
    assert_eq!(select["operator"], json!("select {__name__=\"up\"}"));
    assert_eq!(select["text"], json!("up"));
    assert_eq!(select["estimate"]["series"], json!(2));
    assert_eq!(select["measured"], json!(null));
    assert_eq!(data["result"], json!(null));
}

#[tokio::test]
async fn an_analysis_counts_series_samples_and_time() {
    let server = Server::with_samples(&[]).await;
    let start = NOW_S - 60;
    let path =
        format!("/api/v1/explain?analyze=true&query=sum(rate(up[1m]))&start={start}&end={NOW_S}&step=15");
    let data = data(&server.get(&path).await);
    assert_eq!(data["analyzed"], json!(true));
    let nodes = data["nodes"].as_array().unwrap();
    let counts = |node: &Json| (node["measured"]["series"].clone(), node["measured"]["samples"].clone());
    assert_eq!(counts(&nodes[0]), (json!(1), json!(5)));
    assert_eq!(counts(&nodes[1]), (json!(2), json!(10)));
    assert_eq!(nodes[2]["operator"], json!("range 1m {__name__=\"up\"}"));
    assert_eq!(nodes[2]["measured"]["read"]["series"], json!(2));
    assert!(nodes[2]["measured"]["read"]["samples"].as_u64().unwrap() >= 16);
    let total = |node: &Json| node["measured"]["totalSeconds"].as_f64().unwrap();
    assert!(total(&nodes[0]) >= total(&nodes[1]));
    assert_eq!(data["result"]["series"], json!(1));
    assert_eq!(data["result"]["samples"], json!(5));
    assert!(data["result"]["peakMemoryBytes"].as_u64().unwrap() > 0);
    assert!(server.get("/api/v1/status/active_queries").await.text().ends_with("\"data\":[]}"));
}

#[tokio::test]
async fn a_plan_can_be_read_as_text() {
    let server = Server::with_samples(&[]).await;
    let answer = server.get(&format!("/api/v1/explain?format=text&query=count(up)&time={NOW_S}")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/plain"));
    let lines: Vec<&str> = answer.text().lines().collect();
    assert_eq!(lines[..2], ["count by ()", "  select {__name__=\"up\"} presence"]);
    assert!(answer.text().contains("values: not read, count by () asks only for presence"));
}

#[tokio::test]
async fn mistakes_and_limits_are_those_of_queries() {
    let server = Server::with_samples(&["--query.max-samples=3"]).await;
    for (path, message) in [
        ("query=up%7B", "1:4: parse error: unexpected end of input inside braces"),
        ("query=up&format=xml", "\"xml\" is neither json nor text"),
        ("query=up&analyze=maybe", "\"maybe\" is neither true nor false"),
        ("query=up&start=1&end=2", "step"),
    ] {
        let answer = server.get(&format!("/api/v1/explain?{path}")).await;
        assert_eq!(answer.status, 400, "{path}");
        let json: Json = serde_json::from_slice(&answer.body).unwrap();
        assert!(json["error"].as_str().unwrap().contains(message), "{json}");
    }
    let path = format!("query=up&start={}&end={NOW_S}&step=15", NOW_S - 60);
    assert_eq!(server.get(&format!("/api/v1/explain?{path}")).await.status, 200);
    let answer = server.get(&format!("/api/v1/explain?analyze=true&{path}")).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("too many samples"), "{}", answer.text());
}
