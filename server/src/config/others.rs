//! Sections that are checked like all others but have no effect in this version: rules, alerting,
//! sending and reading remotely, tracing, OTLP. Whoever uses them is told so at the start.

use super::http::Base;
use super::types::NameValidation;
use super::yaml::{Node, Problem, Result, Section};
use super::{discovery, http, read, relabel};

pub(crate) fn read_runtime(section: &Section<'_>, without_effect: &mut Vec<String>) -> Result<()> {
    let Some(node) = section.get("runtime") else { return Ok(()) };
    let runtime = Section::new(node, "runtime")?;
    runtime.number::<i64>("gogc", "a whole number")?;
    runtime.finish()?;
    without_effect.push("runtime: there is no garbage collector to tune".to_owned());
    Ok(())
}

pub(crate) fn read_rule_files(section: &Section<'_>, without_effect: &mut Vec<String>) -> Result<()> {
    if !read::read_globs(section, "rule_files", "rule file")?.is_empty() {
        without_effect.push("rule_files: this version evaluates no rules".to_owned());
    }
    Ok(())
}

/// As upstream, anything that Go reads as a URL will do, one without a scheme included.
fn check_url(section: &Section<'_>, url: &str) -> Result<()> {
    if discovery::is_parsable_url(url) {
        return Ok(());
    }
    let shown = super::show::hide_url_password(url);
    Err(section.problem_at("url", format!("{}: {shown:?} is not a URL", section.path_of("url"))))
}

pub(crate) fn read_alerting(
    parent: &Section<'_>,
    validation: NameValidation,
    dir: Base<'_>,
    without_effect: &mut Vec<String>,
) -> Result<()> {
    let Some(node) = parent.get("alerting") else { return Ok(()) };
    let section = Section::new(node, "alerting")?;
    section.knows(&["alert_relabel_configs", "alertmanagers"]);
    section.finish()?;
    relabel::read_list(&section, "alert_relabel_configs", "alert relabeling rule", validation)?;
    if let Some(node) = section.get("alertmanagers") {
        for (i, item) in node.as_list("alerting.alertmanagers")?.iter().enumerate() {
            read_alertmanager(item, i, validation, dir)?;
        }
    }
    without_effect.push("alerting: this version sends no alerts".to_owned());
    Ok(())
}

fn read_alertmanager(node: &Node, index: usize, validation: NameValidation, dir: Base<'_>) -> Result<()> {
    let section = Section::new(node, format!("alerting.alertmanagers[{index}]"))?;
    section.text("scheme")?;
    section.text("path_prefix")?;
    section.duration_ms("timeout")?;
    let has_sigv4 = read_sigv4(&section)?;
    let discovery = discovery::read(&section, dir)?;
    section.knows(&http::KEYS);
    section.knows(&["relabel_configs", "alert_relabel_configs", "api_version"]);
    section.finish()?;
    match section.text("api_version")?.as_deref() {
        None | Some("v2") => {}
        Some(other) => {
            return Err(section.problem_at(
                "api_version",
                format!("expected Alertmanager api version to be one of [v2] but got {other}"),
            ));
        }
    }
    let client = http::read(&section, dir)?;
    if has_sigv4 && (client.basic_auth.is_some() || client.authorization.is_some() || client.oauth2.is_some())
    {
        return Err(
            section.problem("at most one of basic_auth, authorization, oauth2, & sigv4 must be configured")
        );
    }
    let what = "Alertmanager target relabeling rule";
    let rules = relabel::read_list(&section, "relabel_configs", what, validation)?;
    relabel::read_list(&section, "alert_relabel_configs", "Alertmanager alert relabeling rule", validation)?;
    if rules.is_empty() {
        discovery::check_addresses(&section, &discovery.static_configs)?;
    }
    Ok(())
}

/// Keys of the clouds' own ways to authenticate.
fn read_sigv4(parent: &Section<'_>) -> Result<bool> {
    let Some(node) = parent.node("sigv4") else { return Ok(false) };
    let section = Section::new(node, parent.path_of("sigv4"))?;
    for key in ["region", "access_key", "secret_key", "profile", "role_arn", "external_id", "service_name"] {
        section.text(key)?;
    }
    section.boolean("use_fips_sts_endpoint")?;
    section.finish()?;
    Ok(true)
}

pub(crate) fn read_remote_write(
    parent: &Section<'_>,
    validation: NameValidation,
    dir: Base<'_>,
    without_effect: &mut Vec<String>,
) -> Result<()> {
    let Some(node) = parent.get("remote_write") else { return Ok(()) };
    let mut names: Vec<String> = Vec::new();
    for (i, item) in node.as_list("remote_write")?.iter().enumerate() {
        if item.is_null() {
            return Err(item.problem("empty or null remote write config section"));
        }
        let name = read_remote_write_entry(item, i, validation, dir)?;
        remember_name(item, name, &mut names, "remote write")?;
    }
    if !names.is_empty() {
        without_effect
            .push("remote_write: this version receives remote write but does not send it".to_owned());
    }
    Ok(())
}

fn remember_name(node: &Node, name: String, names: &mut Vec<String>, what: &str) -> Result<()> {
    if !name.is_empty() && names.contains(&name) {
        return Err(node.problem(format!("found multiple {what} configs with job name {name:?}")));
    }
    names.push(name);
    Ok(())
}

fn read_remote_write_entry(
    node: &Node,
    index: usize,
    validation: NameValidation,
    dir: Base<'_>,
) -> Result<String> {
    let section = Section::new(node, format!("remote_write[{index}]"))?;
    let url = section.text("url")?;
    section.duration_ms("remote_timeout")?;
    let name = section.text("name")?.unwrap_or_default();
    for key in ["send_exemplars", "send_native_histograms", "round_robin_dns", "failed_request_logging"] {
        section.boolean(key)?;
    }
    let message = section.text("protobuf_message")?;
    let headers = section.text_map("headers")?;
    let queue = section.get("queue_config");
    let metadata = section.get("metadata_config");
    let has_sigv4 = read_sigv4(&section)?;
    let has_azuread = section.get("azuread").is_some();
    let has_google = section.get("google_iam").is_some();
    section.knows(&http::KEYS);
    section.knows(&["write_relabel_configs"]);
    section.finish()?;

    match url.as_deref() {
        None | Some("") => return Err(section.problem("url for remote_write is empty")),
        Some(url) => check_url(&section, url)?,
    }
    let what = "relabeling rule in remote write config";
    relabel::read_list(&section, "write_relabel_configs", what, validation)?;
    check_headers(
        &section,
        &headers,
        "authorization header must be changed via the basic_auth, authorization, oauth2, sigv4, azuread or google_iam parameter",
    )?;
    match message.as_deref() {
        None | Some("prometheus.WriteRequest" | "io.prometheus.write.v2.Request") => {}
        Some(other) => {
            return Err(section.problem_at("protobuf_message", format!("invalid protobuf_message value: unknown type for remote write protobuf message {other}, supported: prometheus.WriteRequest, io.prometheus.write.v2.Request")));
        }
    }
    let client = http::read(&section, dir)?;
    if let Some(node) = metadata {
        let section = Section::new(node, section.path_of("metadata_config"))?;
        section.boolean("send")?;
        section.duration_ms("send_interval")?;
        section.number::<i64>("max_samples_per_send", "a whole number")?;
        section.finish()?;
    }
    if let Some(node) = queue {
        read_queue(&Section::new(node, section.path_of("queue_config"))?)?;
    }
    let auths: Vec<&str> = [
        ("basic_auth", client.basic_auth.is_some()),
        ("authorization", client.authorization.is_some()),
        ("oauth2", client.oauth2.is_some()),
        ("sigv4", has_sigv4),
        ("azuread", has_azuread),
        ("google_iam", has_google),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    if auths.len() > 1 {
        return Err(section.problem(format!("at most one of basic_auth, authorization, oauth2, sigv4, azuread or google_iam must be configured. Currently configured: [{}]", auths.join(" "))));
    }
    Ok(name)
}

fn read_queue(section: &Section<'_>) -> Result<()> {
    let number = |key| section.number::<i64>(key, "a whole number");
    let capacity = number("capacity")?.unwrap_or(10_000);
    let max_shards = number("max_shards")?.unwrap_or(50);
    let min_shards = number("min_shards")?.unwrap_or(1);
    let max_samples = number("max_samples_per_send")?.unwrap_or(2000);
    section.duration_ms("batch_send_deadline")?;
    let min_backoff = section.duration_ms("min_backoff")?.unwrap_or(30);
    let max_backoff = section.duration_ms("max_backoff")?.unwrap_or(5000);
    section.boolean("retry_on_http_429")?;
    section.duration_ms("sample_age_limit")?;
    section.finish()?;
    for (wrong, key, reason) in [
        (max_shards <= 0, "max_shards", "max_shards must be positive"),
        (min_shards <= 0, "min_shards", "min_shards must be positive"),
        (min_shards > max_shards, "min_shards", "min_shards must not be greater than max_shards"),
        (max_samples <= 0, "max_samples_per_send", "max_samples_per_send must be positive"),
        (capacity <= 0, "capacity", "capacity must be positive"),
        (max_backoff < min_backoff, "max_backoff", "max_backoff must not be less than min_backoff"),
    ] {
        if wrong {
            return Err(section.problem_at(key, format!("remote write queue {reason}")));
        }
    }
    Ok(())
}

pub(crate) fn read_remote_read(
    parent: &Section<'_>,
    dir: Base<'_>,
    without_effect: &mut Vec<String>,
) -> Result<()> {
    let Some(node) = parent.get("remote_read") else { return Ok(()) };
    let mut names: Vec<String> = Vec::new();
    for (i, item) in node.as_list("remote_read")?.iter().enumerate() {
        if item.is_null() {
            return Err(item.problem("empty or null remote read config section"));
        }
        let section = Section::new(item, format!("remote_read[{i}]"))?;
        let url = section.text("url")?;
        section.duration_ms("remote_timeout")?;
        section.number::<u64>("chunked_read_limit", "a whole number")?;
        let headers = section.text_map("headers")?;
        section.boolean("read_recent")?;
        let name = section.text("name")?.unwrap_or_default();
        section.text_map("required_matchers")?;
        section.boolean("filter_external_labels")?;
        section.knows(&http::KEYS);
        section.finish()?;
        match url.as_deref() {
            None | Some("") => return Err(section.problem("url for remote_read is empty")),
            Some(url) => check_url(&section, url)?,
        }
        check_headers(
            &section,
            &headers,
            "authorization header must be changed via the basic_auth, authorization, oauth2, sigv4, azuread or google_iam parameter",
        )?;
        http::read(&section, dir)?;
        remember_name(item, name, &mut names, "remote read")?;
    }
    if !names.is_empty() {
        without_effect.push("remote_read: this version reads its own store only".to_owned());
    }
    Ok(())
}

fn check_headers(section: &Section<'_>, headers: &[(String, String)], authorization: &str) -> Result<()> {
    for (header, _) in headers {
        let lower = header.to_ascii_lowercase();
        if lower == "authorization" {
            return Err(section.problem_at("headers", authorization));
        }
        if http::RESERVED_HEADERS.contains(&lower.as_str()) {
            let reason = format!("{header} is a reserved header. It must not be changed");
            return Err(section.problem_at("headers", reason));
        }
    }
    Ok(())
}

pub(crate) fn read_tracing(
    parent: &Section<'_>,
    dir: Base<'_>,
    without_effect: &mut Vec<String>,
) -> Result<()> {
    let Some(node) = parent.get("tracing") else { return Ok(()) };
    let section = Section::new(node, "tracing")?;
    let client = section.text("client_type")?;
    let endpoint = section.text("endpoint")?.unwrap_or_default();
    section.number::<f64>("sampling_fraction", "a number")?;
    section.boolean("insecure")?;
    if let Some(node) = section.get("tls_config") {
        http::read_tls(node, section.path_of("tls_config"), dir)?;
    }
    let headers = section.text_map("headers")?;
    let compression = section.text("compression")?.unwrap_or_default();
    section.duration_ms("timeout")?;
    section.finish()?;
    if let Some(other) = client
        && other != "http"
        && other != "grpc"
    {
        return Err(section.problem_at(
            "client_type",
            format!("expected tracing client type to be to be http or grpc, but got {other}"),
        ));
    }
    check_headers(&section, &headers, "custom authorization header configuration is not yet supported")?;
    if endpoint.is_empty() {
        return Err(section.problem("tracing endpoint must be set"));
    }
    if !matches!(compression.as_str(), "" | "gzip") {
        return Err(section.problem_at(
            "compression",
            format!("invalid compression type {compression} provided, valid options: gzip"),
        ));
    }
    without_effect.push("tracing: this version sends no traces".to_owned());
    Ok(())
}

pub(crate) fn read_otlp(
    parent: &Section<'_>,
    validation: NameValidation,
    without_effect: &mut Vec<String>,
) -> Result<()> {
    let Some(node) = parent.get("otlp") else { return Ok(()) };
    let section = Section::new(node, "otlp")?;
    let all = section.boolean("promote_all_resource_attributes")?.unwrap_or(false);
    let promoted = section.texts("promote_resource_attributes")?;
    let ignored = section.texts("ignore_resource_attributes")?;
    let strategy = section.text("translation_strategy")?.unwrap_or_default();
    for key in [
        "keep_identifying_resource_attributes",
        "convert_histograms_to_nhcb",
        "promote_scope_metadata",
        "label_name_underscore_sanitization",
        "label_name_preserve_multiple_underscores",
    ] {
        section.boolean(key)?;
    }
    section.finish()?;
    if all && !promoted.is_empty() {
        return Err(section.problem("'promote_all_resource_attributes' and 'promote_resource_attributes' cannot be configured simultaneously"));
    }
    if !all && !ignored.is_empty() {
        return Err(section.problem("'ignore_resource_attributes' cannot be configured unless 'promote_all_resource_attributes' is true"));
    }
    check_attributes(&section, "ignore_resource_attributes", &ignored, "ignored")?;
    check_attributes(&section, "promote_resource_attributes", &promoted, "promoted")?;
    match strategy.as_str() {
        "" | "UnderscoreEscapingWithSuffixes" | "UnderscoreEscapingWithoutSuffixes" => {}
        "NoTranslation" | "NoUTF8EscapingWithSuffixes" => {
            if validation == NameValidation::Legacy {
                return Err(section.problem_at(
                    "translation_strategy",
                    format!("OTLP translation strategy {strategy:?} is not allowed when UTF8 is disabled"),
                ));
            }
        }
        other => {
            return Err(section.problem_at(
                "translation_strategy",
                format!("unsupported OTLP translation strategy {other:?}"),
            ));
        }
    }
    without_effect.push("otlp: this version does not receive OTLP".to_owned());
    Ok(())
}

fn check_attributes(
    section: &Section<'_>,
    key: &'static str,
    attributes: &[String],
    adjective: &str,
) -> Result<()> {
    let mut seen: Vec<&str> = Vec::new();
    for attribute in attributes {
        let attribute = attribute.trim();
        let reason = if attribute.is_empty() {
            format!("empty {adjective} OTel resource attribute")
        } else if seen.contains(&attribute) {
            format!("duplicated {adjective} OTel resource attribute {attribute:?}")
        } else {
            seen.push(attribute);
            continue;
        };
        let Problem { line, reason } = section.problem_at(key, format!("invalid '{key}': {reason}"));
        return Err(Problem { line, reason });
    }
    Ok(())
}
