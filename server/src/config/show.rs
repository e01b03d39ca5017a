//! The configuration as the API shows it: defaults filled in, secrets hidden.

use super::types::{GlobalConfig, ScrapeConfig, ScrapeLimits, StorageConfig};
use super::units::{format_duration, format_size};
use super::yaml::{self, Node, Value};
use std::sync::Arc;

/// What stands in place of a secret.
const HIDDEN: &str = "<secret>";

/// Keys whose text is hidden wherever they stand. `key` is the PEM text in `tls_config`.
const SECRET_KEYS: [&str; 18] = [
    "access_key_secret",
    "application_credential_secret",
    "application_secret",
    "auth_token",
    "bearer_token",
    "client_certificate_key",
    "client_secret",
    "consumer_key",
    "credentials",
    "key",
    "key_passphrase",
    "password",
    "private_key",
    "proxy_connect_header",
    "secret_key",
    "secrets",
    "service_account_key",
    "token",
];

/// The whole configuration.
pub(crate) fn config(
    root: &Node,
    global: &GlobalConfig,
    scrape_configs: &[Arc<ScrapeConfig>],
    storage: &StorageConfig,
) -> String {
    let source = hide(root);
    let mut out = vec![entry("global", global_node(global))];
    let mut given = match source.value {
        Value::Mapping(entries) => entries,
        _ => Vec::new(),
    };
    let mut take = |key: &str| {
        let at = given.iter().position(|(name, _)| is_key(name, key))?;
        Some(given.swap_remove(at).1).filter(|node| !node.is_null())
    };
    let runtime = take("runtime").unwrap_or_else(|| mapping(vec![entry("gogc", Node::text("75"))]));
    out.push(entry("runtime", runtime));
    for key in ["alerting", "rule_files", "scrape_config_files"] {
        out.extend(take(key).map(|node| entry(key, node)));
    }
    if !scrape_configs.is_empty()
        && let Some(node) = take("scrape_configs")
        && let Value::Sequence(items) = node.value
    {
        let nodes = items.into_iter().zip(scrape_configs).map(|(item, config)| scrape_node(&item, config));
        out.push(entry("scrape_configs", Node::new(Value::Sequence(nodes.collect()))));
    }
    out.push(entry("storage", storage_node(take("storage"), storage)));
    for key in ["tracing", "remote_write", "remote_read", "otlp"] {
        out.extend(take(key).map(|node| entry(key, node)));
    }
    yaml::write(&mapping(out))
}

/// One scrape config.
pub(crate) fn scrape_config(node: &Node, config: &ScrapeConfig) -> String {
    yaml::write(&scrape_node(&hide(node), config))
}

fn mapping(entries: Vec<(Node, Node)>) -> Node {
    Node::new(Value::Mapping(entries))
}

fn entry(key: &str, value: Node) -> (Node, Node) {
    (Node::text(key), value)
}

fn quoted(text: &str) -> Node {
    Node::new(Value::Scalar { text: text.to_owned(), plain: false })
}

fn is_key(node: &Node, key: &str) -> bool {
    matches!(&node.value, Value::Scalar { text, .. } if text == key)
}

/// A copy without secrets: values of secret keys, and passwords inside of URLs.
fn hide(node: &Node) -> Node {
    let value = match &node.value {
        Value::Mapping(entries) => Value::Mapping(
            entries
                .iter()
                .map(|(key, value)| {
                    let secret = SECRET_KEYS.iter().any(|name| is_key(key, name));
                    (key.clone(), if secret { hide_all(value) } else { hide(value) })
                })
                .collect(),
        ),
        Value::Sequence(items) => Value::Sequence(items.iter().map(hide).collect()),
        Value::Scalar { text, plain } => Value::Scalar { text: hide_url_password(text), plain: *plain },
        other => other.clone(),
    };
    Node { line: node.line, value }
}

fn hide_all(node: &Node) -> Node {
    let value = match &node.value {
        Value::Mapping(entries) => {
            Value::Mapping(entries.iter().map(|(key, value)| (key.clone(), hide_all(value))).collect())
        }
        Value::Sequence(items) => Value::Sequence(items.iter().map(hide_all).collect()),
        Value::Null => Value::Null,
        Value::Scalar { text, .. } if text.is_empty() => Value::Null,
        Value::Scalar { .. } | Value::Binary(_) => Value::Scalar { text: HIDDEN.to_owned(), plain: true },
    };
    Node { line: node.line, value }
}

/// `http://user:word@host` with the word replaced by `xxxxx`, as Go's `URL.Redacted` does.
pub(crate) fn hide_url_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{scheme}://{name}:xxxxx@{host}{tail}"),
            None => text.to_owned(),
        },
        None => text.to_owned(),
    }
}

fn duration(key: &str, ms: i64) -> (Node, Node) {
    entry(key, Node::text(format_duration(ms)))
}

fn push_limits(out: &mut Vec<(Node, Node)>, limits: &ScrapeLimits) {
    if limits.body_size_bytes != 0 {
        out.push(entry("body_size_limit", Node::text(format_size(limits.body_size_bytes))));
    }
    for (key, limit) in [
        ("sample_limit", limits.samples),
        ("target_limit", limits.targets),
        ("label_limit", limits.labels),
        ("label_name_length_limit", limits.label_name_length),
        ("label_value_length_limit", limits.label_value_length),
        ("keep_dropped_targets", limits.dropped_targets_kept),
    ] {
        if limit != 0 {
            out.push(entry(key, Node::text(limit.to_string())));
        }
    }
}

fn boolean(key: &str, value: bool) -> (Node, Node) {
    entry(key, Node::text(value.to_string()))
}

fn global_node(global: &GlobalConfig) -> Node {
    let mut out = vec![
        duration("scrape_interval", global.scrape_interval_ms),
        duration("scrape_timeout", global.scrape_timeout_ms),
    ];
    if let Some(protocols) = &global.scrape_protocols {
        let names = protocols.iter().map(|protocol| Node::text(protocol.as_str())).collect();
        out.push(entry("scrape_protocols", Node::new(Value::Sequence(names))));
    }
    out.push(duration("evaluation_interval", global.evaluation_interval_ms));
    if global.rule_query_offset_ms != 0 {
        out.push(duration("rule_query_offset", global.rule_query_offset_ms));
    }
    for (key, file) in [
        ("query_log_file", &global.query_log_file),
        ("scrape_failure_log_file", &global.scrape_failure_log_file),
    ] {
        out.extend(file.as_ref().map(|file| entry(key, quoted(&file.display().to_string()))));
    }
    if !global.external_labels.is_empty() {
        let labels = global.external_labels.iter().map(|(name, value)| (quoted(name), quoted(value)));
        out.push(entry("external_labels", mapping(labels.collect())));
    }
    push_limits(&mut out, &global.limits);
    out.push(entry("metric_name_validation_scheme", Node::text(global.name_validation.as_str())));
    if let Some(escaping) = global.name_escaping {
        out.push(entry("metric_name_escaping_scheme", Node::text(escaping.as_str())));
    }
    out.push(boolean("scrape_native_histograms", global.scrape_native_histograms));
    for (key, value) in [
        ("convert_classic_histograms_to_nhcb", global.convert_classic_histograms_to_nhcb),
        ("always_scrape_classic_histograms", global.always_scrape_classic_histograms),
    ] {
        if value {
            out.push(boolean(key, value));
        }
    }
    out.push(boolean("extra_scrape_metrics", global.extra_scrape_metrics));
    mapping(out)
}

/// What was given, in the order of Prometheus's own output, with the defaults that it shows.
fn scrape_node(node: &Node, config: &ScrapeConfig) -> Node {
    let mut out = vec![entry("job_name", quoted(&config.job_name))];
    if config.honor_labels {
        out.push(boolean("honor_labels", true));
    }
    out.push(boolean("honor_timestamps", config.honor_timestamps));
    out.push(boolean("track_timestamps_staleness", config.track_timestamps_staleness));
    if !config.params.is_empty() {
        let params = config.params.iter().map(|(name, values)| {
            let values = values.iter().map(|value| quoted(value)).collect();
            (quoted(name), Node::new(Value::Sequence(values)))
        });
        out.push(entry("params", mapping(params.collect())));
    }
    out.push(duration("scrape_interval", config.scrape_interval_ms));
    out.push(duration("scrape_timeout", config.scrape_timeout_ms));
    let names = config.scrape_protocols.iter().map(|protocol| Node::text(protocol.as_str())).collect();
    out.push(entry("scrape_protocols", Node::new(Value::Sequence(names))));
    if let Some(protocol) = config.fallback_scrape_protocol {
        out.push(entry("fallback_scrape_protocol", Node::text(protocol.as_str())));
    }
    for (key, value) in [
        ("scrape_native_histograms", config.scrape_native_histograms),
        ("always_scrape_classic_histograms", config.always_scrape_classic_histograms),
        ("convert_classic_histograms_to_nhcb", config.convert_classic_histograms_to_nhcb),
    ] {
        out.push(boolean(key, value));
    }
    if let Some(file) = &config.scrape_failure_log_file {
        out.push(entry("scrape_failure_log_file", quoted(&file.display().to_string())));
    }
    out.push(entry("metrics_path", quoted(&config.metrics_path)));
    out.push(entry("scheme", Node::text(config.scheme.as_str())));
    out.push(boolean("enable_compression", config.enable_compression));
    push_limits(&mut out, &config.limits);
    out.push(entry("metric_name_validation_scheme", Node::text(config.name_validation.as_str())));
    out.push(entry("metric_name_escaping_scheme", Node::text(config.name_escaping.as_str())));
    out.push(boolean("extra_scrape_metrics", config.extra_scrape_metrics));
    out.push(boolean("follow_redirects", config.http.follow_redirects));
    out.push(boolean("enable_http2", config.http.enable_http2));
    if let Value::Mapping(given) = &node.value {
        for (key, value) in given {
            let shown = out.iter().any(|(name, _)| name.value_text() == key.value_text());
            if !shown && !value.is_null() {
                out.push((key.clone(), value.clone()));
            }
        }
    }
    mapping(out)
}

fn storage_node(given: Option<Node>, storage: &StorageConfig) -> Node {
    let mut entries = match given.map(|node| node.value) {
        Some(Value::Mapping(entries)) => entries,
        _ => Vec::new(),
    };
    if !entries.iter().any(|(key, _)| is_key(key, "exemplars")) {
        let max = Node::text(storage.max_exemplars.to_string());
        entries.push(entry("exemplars", mapping(vec![entry("max_exemplars", max)])));
    }
    mapping(entries)
}

impl Node {
    fn value_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden() {
        assert_eq!(hide_url_password("http://u:p@h/x"), "http://u:xxxxx@h/x");
        assert_eq!(hide_url_password("http://h/a:b@c"), "http://h/a:b@c");
    }
}
