//! The queries: what dashboards of machines and of the programs on them ask, and alerting rules.

use crate::servers::Kind;
use chronolith_benches::http::encode_component;

/// One query.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    pub name: &'static str,
    pub ask: Ask,
}

/// What is asked for. Times are minutes before the end of the data.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// `query_range` over so many minutes (at most what there is), with a step in seconds.
    Range { text: &'static str, minutes: i64, step_s: i64 },
    /// `query` at the end of the data.
    Instant(&'static str),
    /// A look-up over all the data: path and parameters, but for times.
    LookUp(&'static str),
}

const HOUR: i64 = 60;
const ALL: i64 = 360;

impl Query {
    /// The request, for data from `start` to `end` (seconds).
    pub fn path(&self, server: Kind, start: i64, end: i64) -> String {
        // Off the grid of scrapes: Prometheus before 3.0 has windows that are closed on the left.
        let end = end as f64 - 0.5;
        // Work is measured, not results that are kept.
        let nocache = if server == Kind::Prometheus { "" } else { "&nocache=1" };
        match self.ask {
            Ask::Range { text, minutes, step_s } => {
                let from = (end - minutes as f64 * 60.0).max(start as f64 + 600.5);
                let text = encode_component(text);
                format!("/api/v1/query_range?query={text}&start={from}&end={end}&step={step_s}{nocache}")
            }
            Ask::Instant(text) => {
                format!("/api/v1/query?query={}&time={end}{nocache}", encode_component(text))
            }
            Ask::LookUp(path) => {
                let separator = if path.contains('?') { '&' } else { '?' };
                format!("/api/v1/{path}{separator}start={start}&end={end}{nocache}")
            }
        }
    }

    /// For tables.
    pub fn describe(&self) -> String {
        match self.ask {
            Ask::Range { text, minutes, step_s } => format!("`{text}` {minutes} min / {step_s} s"),
            Ask::Instant(text) => format!("`{text}` instant"),
            Ask::LookUp(path) => format!("`/api/v1/{path}`"),
        }
    }
}

const fn range(name: &'static str, text: &'static str, minutes: i64, step_s: i64) -> Query {
    Query { name, ask: Ask::Range { text, minutes, step_s } }
}

const fn instant(name: &'static str, text: &'static str) -> Query {
    Query { name, ask: Ask::Instant(text) }
}

const fn look_up(name: &'static str, path: &'static str) -> Query {
    Query { name, ask: Ask::LookUp(path) }
}

/// All queries, over the series of node_exporter, Prometheus, VictoriaMetrics and Alertmanager.
pub fn all() -> Vec<Query> {
    vec![
        range("rate by mode", r#"sum by (mode) (rate(node_cpu_seconds_total[5m]))"#, HOUR, 15),
        range("rate by host", r#"sum by (instance) (rate(node_network_receive_bytes_total[5m]))"#, ALL, 60),
        range("rate, every row", r#"rate(node_cpu_seconds_total[5m])"#, ALL, 60),
        range("rate of many series", r#"sum by (path) (rate(vm_http_requests_total[5m]))"#, HOUR, 15),
        range("averages by name", r#"avg by (__name__) ({job="node"})"#, HOUR, 60),
        range(
            "busy share",
            r#"100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[5m])))"#,
            ALL,
            60,
        ),
        range(
            "memory used share",
            r#"1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"#,
            ALL,
            60,
        ),
        range(
            "error ratio",
            r#"sum by (path) (rate(vm_http_request_errors_total[5m])) / sum by (path) (rate(vm_http_requests_total[5m]))"#,
            ALL,
            60,
        ),
        range(
            "join with machine facts",
            r#"rate(node_disk_written_bytes_total[5m]) * on (instance) group_left (nodename) node_uname_info"#,
            ALL,
            60,
        ),
        range(
            "latency quantile",
            r#"histogram_quantile(0.99, sum by (le, handler) (rate(prometheus_http_request_duration_seconds_bucket[5m])))"#,
            ALL,
            60,
        ),
        range(
            "latency quantile by host",
            r#"histogram_quantile(0.9, sum by (le, instance) (rate(alertmanager_notification_latency_seconds_bucket[5m])))"#,
            ALL,
            60,
        ),
        range(
            "topk",
            r#"topk(5, sum by (instance, device) (rate(node_network_transmit_bytes_total[5m])))"#,
            ALL,
            60,
        ),
        range("avg_over_time", r#"avg_over_time(go_memstats_heap_inuse_bytes[1h])"#, ALL, 60),
        range("max_over_time", r#"max by (job) (max_over_time(go_goroutines[30m]))"#, ALL, 60),
        range("quantile_over_time", r#"quantile_over_time(0.95, node_load1[1h])"#, ALL, 60),
        range("stddev_over_time", r#"stddev_over_time(process_resident_memory_bytes[30m])"#, ALL, 60),
        range("deriv", r#"deriv(process_resident_memory_bytes[30m])"#, ALL, 60),
        range("increase of an hour", r#"sum by (type) (increase(vm_rows_inserted_total[1h]))"#, ALL, 300),
        range("irate", r#"irate(node_network_receive_bytes_total{device!~"lo|veth.*"}[1m]) * 8"#, HOUR, 15),
        range(
            "subquery of a rate",
            r#"max_over_time(rate(node_context_switches_total[5m])[30m:1m])"#,
            ALL,
            60,
        ),
        range(
            "subquery of a sum",
            r#"max_over_time(sum by (instance) (rate(node_cpu_seconds_total{mode!="idle"}[5m]))[1h:1m])"#,
            ALL,
            300,
        ),
        range(
            "regex selectors",
            r#"sum by (instance) ({__name__=~"node_network_(receive|transmit)_bytes_total",device!~"lo|veth.*"})"#,
            ALL,
            60,
        ),
        range("sums by name", r#"sum by (__name__) ({__name__=~"go_memstats_.*"})"#, ALL, 60),
        range(
            "against an hour ago",
            r#"sum by (job) (rate(process_cpu_seconds_total[5m])) / sum by (job) (rate(process_cpu_seconds_total[5m] offset 1h))"#,
            ALL,
            60,
        ),
        range("quantile over hosts", r#"quantile by (job) (0.9, process_resident_memory_bytes)"#, ALL, 60),
        range("raw, 432 series", r#"node_cpu_seconds_total"#, ALL, 60),
        range("raw, many series", r#"{__name__=~"node_memory_.+"}"#, ALL, 60),
        range("raw, fine steps", r#"node_load1"#, ALL, 15),
        instant("raw samples", r#"node_load1[6h]"#),
        instant("count of everything", r#"count({__name__!=""})"#),
        instant("counts by name", r#"count by (__name__) ({__name__!=""})"#),
        instant("counts by job", r#"sum by (job) (count by (job, instance) ({__name__=~".+"}))"#),
        instant("one job, all series", r#"{job="node"}"#),
        instant("alert: disk full soon", r#"predict_linear(node_filesystem_avail_bytes[1h], 4 * 3600) < 0"#),
        instant(
            "alert: disk full",
            r#"node_filesystem_avail_bytes / node_filesystem_size_bytes < 0.1 and node_filesystem_readonly == 0"#,
        ),
        instant("alert: restarts", r#"changes(process_start_time_seconds[1h]) > 2"#),
        instant(
            "alert: errors",
            r#"sum by (job, instance) (rate(promhttp_metric_handler_requests_total{code!="200"}[5m])) / sum by (job, instance) (rate(promhttp_metric_handler_requests_total[5m])) > 0.05"#,
        ),
        instant("alert: absent", r#"absent(node_load1{instance="host-99999.example.org:9100"})"#),
        instant("alert: cpu", r#"avg by (instance) (rate(node_cpu_seconds_total{mode!="idle"}[5m])) > 0.9"#),
        look_up("label names", "labels"),
        look_up("metric names", "label/__name__/values"),
        look_up("hosts of a job", r#"label/instance/values?match[]=%7Bjob%3D%22node%22%7D"#),
        look_up("series of a job", r#"series?match[]=%7Bjob%3D%22alertmanager%22%7D"#),
    ]
}

/// Queries of made-up native histograms.
pub fn native() -> Vec<Query> {
    vec![
        range(
            "native quantile",
            "histogram_quantile(0.99, sum(rate(synthetic_native_0000_seconds[5m])))",
            ALL,
            60,
        ),
        range(
            "native quantile by host",
            "histogram_quantile(0.9, sum by (instance) (rate(synthetic_native_0000_seconds[5m])))",
            ALL,
            60,
        ),
        range(
            "native mean by code",
            "histogram_sum(sum by (code) (rate(synthetic_native_0000_seconds[5m]))) / histogram_count(sum by (code) (rate(synthetic_native_0000_seconds[5m])))",
            ALL,
            60,
        ),
        range(
            "native share below 0.1",
            "histogram_fraction(0, 0.1, sum by (code) (increase(synthetic_native_0000_seconds[1h])))",
            ALL,
            300,
        ),
        range(
            "native requests a second",
            "sum(histogram_count(rate(synthetic_native_0000_seconds[5m])))",
            ALL,
            15,
        ),
        instant("native, now", "synthetic_native_0000_seconds"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn queries_parse_and_have_names_of_their_own() {
        let queries = [all(), native()].concat();
        let names: HashSet<&str> = queries.iter().map(|query| query.name).collect();
        assert_eq!(names.len(), queries.len());
        for query in &queries {
            if let Ask::Range { text, .. } | Ask::Instant(text) = query.ask {
                let parsed = chronolith_query::parser::parse_expr(text, Default::default());
                assert!(parsed.is_ok(), "{text}: {parsed:?}");
            }
        }
    }

    #[test]
    fn ranges_lie_off_the_scrapes_and_within_the_data() {
        let query = range("", "up", ALL, 60);
        let path = query.path(Kind::VictoriaMetrics, 1000, 1000 + 7200);
        assert!(path.ends_with("query=up&start=1600.5&end=8199.5&step=60&nocache=1"), "{path}");
        let path = instant("", "up").path(Kind::Prometheus, 0, 100);
        assert!(path.ends_with("query=up&time=99.5"), "{path}");
        assert_eq!(look_up("", "labels").path(Kind::Prometheus, 0, 100), "/api/v1/labels?start=0&end=99.5");
    }
}
