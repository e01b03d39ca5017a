//! Turns the tree of a file into a [`Config`]: the sections, what they inherit and their checks.
//!
//! Source: Prometheus v3.14, `config/config.go`, the `UnmarshalYAML` and `Validate` functions.

use super::http::Base;
use super::types::{
    Config, GlobalConfig, NameEscaping, NameValidation, ScrapeConfig, ScrapeLimits, ScrapeProtocol,
    StorageConfig,
};
use super::yaml::{Node, Problem, Result, Section, Value};
use super::{Environment, discovery, glob, http, others, relabel, show};
use chronolith_model::Labels;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The main file, read but for the files it names.
pub(crate) struct MainFile {
    /// All but the scrape configs of other files.
    pub config: Config,
    /// `scrape_config_files`, joined with the folder of the file.
    pub scrape_config_files: Vec<PathBuf>,
}

/// Reads the main file.
pub(crate) fn main_file(root: &Node, dir: Base<'_>, env: &Environment<'_>) -> Result<MainFile> {
    let section = Section::new(root, "")?;
    let global = match section.get("global") {
        Some(node) => read_global(&Section::new(node, "global")?, dir, env)?,
        None => GlobalConfig::default(),
    };
    section.knows(&[
        "runtime",
        "alerting",
        "rule_files",
        "scrape_config_files",
        "scrape_configs",
        "storage",
        "tracing",
        "remote_write",
        "remote_read",
        "otlp",
    ]);
    section.finish()?;

    let mut without_effect = Vec::new();
    others::read_runtime(&section, &mut without_effect)?;
    let storage = read_storage(&section, &mut without_effect)?;
    let mut scrape_configs: Vec<Arc<ScrapeConfig>> = Vec::new();
    for (line, config) in read_scrape_configs(&section, &global, dir)? {
        if scrape_configs.iter().any(|other| other.job_name == config.job_name) {
            let reason = format!("found multiple scrape configs with job name {:?}", config.job_name);
            return Err(Problem { line, reason });
        }
        scrape_configs.push(Arc::new(config));
    }
    others::read_alerting(&section, global.name_validation, dir, &mut without_effect)?;
    others::read_rule_files(&section, &mut without_effect)?;
    others::read_remote_write(&section, global.name_validation, dir, &mut without_effect)?;
    others::read_remote_read(&section, dir, &mut without_effect)?;
    others::read_tracing(&section, dir, &mut without_effect)?;
    others::read_otlp(&section, global.name_validation, &mut without_effect)?;
    let scrape_config_files = read_globs(&section, "scrape_config_files", "scrape config file")?
        .iter()
        .map(|pattern| http::join(dir, pattern))
        .collect();
    let yaml = show::config(root, &global, &scrape_configs, &storage);
    Ok(MainFile {
        config: Config { global, scrape_configs, storage, without_effect, yaml },
        scrape_config_files,
    })
}

/// Reads one of `scrape_config_files`, each scrape config with its line.
pub(crate) fn scrape_file(
    root: &Node,
    global: &GlobalConfig,
    dir: Base<'_>,
) -> Result<Vec<(usize, ScrapeConfig)>> {
    let section = Section::new(root, "")?;
    section.knows(&["scrape_configs"]);
    section.finish()?;
    read_scrape_configs(&section, global, dir)
}

/// A list of file patterns of which only the last part may hold a `*`.
pub(crate) fn read_globs(section: &Section<'_>, key: &'static str, what: &str) -> Result<Vec<String>> {
    let patterns = section.texts(key)?;
    for pattern in &patterns {
        if pattern.split_once('*').is_some_and(|(_, tail)| tail.contains('/')) {
            return Err(section.problem_at(key, format!("invalid {what} path {pattern:?}")));
        }
        if !glob::is_valid(pattern) {
            let reason = format!("invalid {what} path {pattern:?}: a bracket or a backslash has no end");
            return Err(section.problem_at(key, reason));
        }
    }
    Ok(patterns)
}

fn read_global(section: &Section<'_>, dir: Base<'_>, env: &Environment<'_>) -> Result<GlobalConfig> {
    let defaults = GlobalConfig::default();
    let name_validation = read_validation(section)?.unwrap_or(NameValidation::Utf8);
    let external_labels = section.get("external_labels");
    let interval = section.duration_ms("scrape_interval")?.unwrap_or(0);
    let timeout = section.duration_ms("scrape_timeout")?.unwrap_or(0);
    let evaluation_interval = section.duration_ms("evaluation_interval")?.unwrap_or(0);
    let mut global = GlobalConfig {
        scrape_interval_ms: if interval == 0 { defaults.scrape_interval_ms } else { interval },
        scrape_timeout_ms: timeout,
        scrape_protocols: read_protocols(section)?,
        evaluation_interval_ms: if evaluation_interval == 0 {
            defaults.evaluation_interval_ms
        } else {
            evaluation_interval
        },
        rule_query_offset_ms: section.duration_ms("rule_query_offset")?.unwrap_or(0),
        query_log_file: http::path(section, "query_log_file", dir)?,
        external_labels: Labels::empty(),
        limits: read_limits(section)?,
        scrape_failure_log_file: http::path(section, "scrape_failure_log_file", dir)?,
        name_validation,
        name_escaping: read_escaping(section)?,
        scrape_native_histograms: section.boolean("scrape_native_histograms")?.unwrap_or(false),
        convert_classic_histograms_to_nhcb: section
            .boolean("convert_classic_histograms_to_nhcb")?
            .unwrap_or(false),
        always_scrape_classic_histograms: section
            .boolean("always_scrape_classic_histograms")?
            .unwrap_or(false),
        extra_scrape_metrics: section.boolean("extra_scrape_metrics")?.unwrap_or(false),
    };
    section.finish()?;
    if let Some(node) = external_labels {
        global.external_labels = read_external_labels(node, name_validation, env)?;
    }
    if global.scrape_timeout_ms > global.scrape_interval_ms {
        return Err(
            section.problem_at("scrape_timeout", "global scrape timeout greater than scrape interval")
        );
    }
    if global.scrape_timeout_ms == 0 {
        global.scrape_timeout_ms = defaults.scrape_timeout_ms.min(global.scrape_interval_ms);
    }
    if let Some(protocols) = &global.scrape_protocols {
        check_protocols(protocols).map_err(|reason| {
            section.problem_at("scrape_protocols", format!("{reason} for global config"))
        })?;
    }
    Ok(global)
}

fn read_external_labels(node: &Node, validation: NameValidation, env: &Environment<'_>) -> Result<Labels> {
    let mut pairs = Vec::new();
    for (key, value) in node.as_mapping("global.external_labels")? {
        let name = label_text(key, "name")?;
        if !validation.is_valid_label_name(name) {
            return Err(key.problem(format!("{name:?} is not a valid label name")));
        }
        pairs.push((name.to_owned(), env.expand(label_text(value, "value")?)));
    }
    Labels::from_pairs(pairs).map_err(|error| node.problem(error.to_string()))
}

fn label_text<'n>(node: &'n Node, what: &str) -> Result<&'n str> {
    match &node.value {
        Value::Binary(bytes) => {
            Err(node.problem(format!("{} is not a valid label {what}", super::yaml::quote_bytes(bytes))))
        }
        _ => node.as_text("global.external_labels"),
    }
}

fn read_limits(section: &Section<'_>) -> Result<ScrapeLimits> {
    let count = |key| Ok(section.number::<u64>(key, "a whole number that is not negative")?.unwrap_or(0));
    Ok(ScrapeLimits {
        body_size_bytes: section
            .size_bytes("body_size_limit")?
            .map_or(0, |bytes| u64::try_from(bytes).unwrap_or(0)),
        samples: count("sample_limit")?,
        targets: count("target_limit")?,
        labels: count("label_limit")?,
        label_name_length: count("label_name_length_limit")?,
        label_value_length: count("label_value_length_limit")?,
        dropped_targets_kept: count("keep_dropped_targets")?,
    })
}

fn inherit_limits(own: ScrapeLimits, global: ScrapeLimits) -> ScrapeLimits {
    let or = |own: u64, global: u64| if own == 0 { global } else { own };
    ScrapeLimits {
        body_size_bytes: or(own.body_size_bytes, global.body_size_bytes),
        samples: or(own.samples, global.samples),
        targets: or(own.targets, global.targets),
        labels: or(own.labels, global.labels),
        label_name_length: or(own.label_name_length, global.label_name_length),
        label_value_length: or(own.label_value_length, global.label_value_length),
        dropped_targets_kept: or(own.dropped_targets_kept, global.dropped_targets_kept),
    }
}

fn read_validation(section: &Section<'_>) -> Result<Option<NameValidation>> {
    match section.text("metric_name_validation_scheme")?.as_deref() {
        None | Some("") => Ok(None),
        Some("utf8") => Ok(Some(NameValidation::Utf8)),
        Some("legacy") => Ok(Some(NameValidation::Legacy)),
        Some(other) => Err(section.problem_at(
            "metric_name_validation_scheme",
            format!("unrecognized ValidationScheme: {other:?}; it is 'utf8' or 'legacy'"),
        )),
    }
}

fn read_escaping(section: &Section<'_>) -> Result<Option<NameEscaping>> {
    let Some(text) = section.text("metric_name_escaping_scheme")?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    [NameEscaping::AllowUtf8, NameEscaping::Underscores, NameEscaping::Dots, NameEscaping::Values]
        .into_iter()
        .find(|scheme| scheme.as_str() == text)
        .map(Some)
        .ok_or_else(|| {
            section.problem_at(
                "metric_name_escaping_scheme",
                format!(
                    "unknown name escaping method specified, must be one of 'allow-utf-8', 'underscores', 'dots', or 'values', got {text:?}"
                ),
            )
        })
}

fn parse_protocol(text: &str) -> std::result::Result<ScrapeProtocol, String> {
    ScrapeProtocol::ALL.into_iter().find(|protocol| protocol.as_str() == text).ok_or_else(|| {
        format!(
            "unknown scrape protocol {text}, supported: [{}]",
            ScrapeProtocol::ALL.map(ScrapeProtocol::as_str).join(" ")
        )
    })
}

fn read_protocols(section: &Section<'_>) -> Result<Option<Vec<ScrapeProtocol>>> {
    let job = match section.text("job_name").ok().flatten() {
        Some(job) => format!("scrape config with job name {job:?}"),
        None => "global config".to_owned(),
    };
    if section.get("scrape_protocols").is_none() {
        return Ok(None);
    }
    let texts = section.texts("scrape_protocols")?;
    let protocols = texts.iter().map(|text| {
        parse_protocol(text).map_err(|reason| {
            section.problem_at("scrape_protocols", format!("scrape_protocols: {reason} for {job}"))
        })
    });
    Ok(Some(protocols.collect::<Result<_>>()?))
}

fn check_protocols(protocols: &[ScrapeProtocol]) -> std::result::Result<(), String> {
    if protocols.is_empty() {
        return Err("scrape_protocols cannot be empty".to_owned());
    }
    let twice = protocols.iter().enumerate().any(|(i, protocol)| protocols[..i].contains(protocol));
    if twice {
        let names: Vec<&str> = protocols.iter().map(|protocol| protocol.as_str()).collect();
        return Err(format!("duplicated protocol in scrape_protocols, got [{}]", names.join(" ")));
    }
    Ok(())
}

fn read_scrape_configs(
    section: &Section<'_>,
    global: &GlobalConfig,
    dir: Base<'_>,
) -> Result<Vec<(usize, ScrapeConfig)>> {
    let Some(node) = section.get("scrape_configs") else { return Ok(Vec::new()) };
    let mut configs = Vec::new();
    for (i, item) in node.as_list("scrape_configs")?.iter().enumerate() {
        if item.is_null() {
            return Err(item.problem("empty or null scrape config section"));
        }
        configs.push((item.line, read_scrape_config(item, i, global, dir)?));
    }
    Ok(configs)
}

fn read_scrape_config(
    node: &Node,
    index: usize,
    global: &GlobalConfig,
    dir: Base<'_>,
) -> Result<ScrapeConfig> {
    let at = format!("scrape_configs[{index}]");
    let section = Section::new(node, at)?;
    let job_name = section.text("job_name")?.unwrap_or_default();
    let own_validation = read_validation(&section)?;
    let name_validation = own_validation.unwrap_or(global.name_validation);
    let own_escaping = read_escaping(&section)?;
    let name_escaping = infer_escaping(own_escaping, own_validation, global);
    let interval = section.duration_ms("scrape_interval")?.filter(|ms| *ms != 0);
    let timeout = section.duration_ms("scrape_timeout")?.filter(|ms| *ms != 0);
    let scrape_interval_ms = interval.unwrap_or(global.scrape_interval_ms);
    let native = section.boolean("scrape_native_histograms")?.unwrap_or(global.scrape_native_histograms);
    let default_protocols = match &global.scrape_protocols {
        Some(protocols) => protocols.clone(),
        None if native => ScrapeProtocol::DEFAULT_WITH_PROTO.to_vec(),
        None => ScrapeProtocol::DEFAULT.to_vec(),
    };
    let fallback = section.text("fallback_scrape_protocol")?.filter(|text| !text.is_empty());
    let discovery = discovery::read(&section, dir)?;
    section.knows(&http::KEYS);
    section.knows(&["relabel_configs", "metric_relabel_configs"]);
    let mut config = ScrapeConfig {
        honor_labels: section.boolean("honor_labels")?.unwrap_or(false),
        honor_timestamps: section.boolean("honor_timestamps")?.unwrap_or(true),
        track_timestamps_staleness: section.boolean("track_timestamps_staleness")?.unwrap_or(false),
        params: read_params(&section)?,
        scrape_interval_ms,
        scrape_timeout_ms: timeout.unwrap_or_else(|| global.scrape_timeout_ms.min(scrape_interval_ms)),
        scrape_protocols: read_protocols(&section)?.unwrap_or(default_protocols),
        fallback_scrape_protocol: None,
        scrape_native_histograms: native,
        always_scrape_classic_histograms: section
            .boolean("always_scrape_classic_histograms")?
            .unwrap_or(global.always_scrape_classic_histograms),
        convert_classic_histograms_to_nhcb: section
            .boolean("convert_classic_histograms_to_nhcb")?
            .unwrap_or(global.convert_classic_histograms_to_nhcb),
        scrape_failure_log_file: http::path(&section, "scrape_failure_log_file", dir)?
            .or_else(|| global.scrape_failure_log_file.clone()),
        metrics_path: section
            .text("metrics_path")?
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "/metrics".to_owned()),
        scheme: section.text("scheme")?.filter(|text| !text.is_empty()).unwrap_or_else(|| "http".to_owned()),
        enable_compression: section.boolean("enable_compression")?.unwrap_or(true),
        limits: inherit_limits(read_limits(&section)?, global.limits),
        native_histogram_bucket_limit: section
            .number("native_histogram_bucket_limit", "a whole number")?
            .unwrap_or(0),
        native_histogram_min_bucket_factor: section
            .number("native_histogram_min_bucket_factor", "a number")?
            .unwrap_or(0.0),
        name_validation,
        name_escaping,
        extra_scrape_metrics: section.boolean("extra_scrape_metrics")?.unwrap_or(global.extra_scrape_metrics),
        static_configs: discovery.static_configs,
        other_discovery: discovery.others,
        http: Default::default(),
        relabel_configs: Vec::new(),
        metric_relabel_configs: Vec::new(),
        yaml: String::new(),
        job_name,
    };
    section.finish()?;

    if config.job_name.is_empty() {
        return Err(section.problem(format!("{}: job_name is empty", section.path)));
    }
    let job = format!("for scrape config with job name {:?}", config.job_name);
    config.http = http::read(&section, dir)?;
    config.relabel_configs = relabel::read_list(
        &section,
        "relabel_configs",
        "target relabeling rule in scrape config",
        name_validation,
    )?;
    config.metric_relabel_configs = relabel::read_list(
        &section,
        "metric_relabel_configs",
        "metric relabeling rule in scrape config",
        name_validation,
    )?;
    if config.relabel_configs.is_empty() {
        discovery::check_addresses(&section, &config.static_configs)?;
    }
    if !matches!(config.scheme.as_str(), "http" | "https") {
        let reason = format!("unsupported scheme {:?} {job}: it is http or https", config.scheme);
        return Err(section.problem_at("scheme", reason));
    }
    if config.scrape_timeout_ms > config.scrape_interval_ms {
        return Err(section
            .problem_at("scrape_timeout", format!("scrape timeout greater than scrape interval {job}")));
    }
    check_protocols(&config.scrape_protocols)
        .map_err(|reason| section.problem_at("scrape_protocols", format!("{reason} {job}")))?;
    if let Some(text) = fallback {
        let protocol = parse_protocol(&text).map_err(|reason| {
            let reason = format!("invalid fallback_scrape_protocol {job}: {reason}");
            section.problem_at("fallback_scrape_protocol", reason)
        })?;
        config.fallback_scrape_protocol = Some(protocol);
    }
    if config.name_escaping == NameEscaping::AllowUtf8 && config.name_validation == NameValidation::Legacy {
        return Err(section.problem("utf8 metric names requested but validation scheme is not set to UTF8"));
    }
    config.yaml = show::scrape_config(node, &config);
    Ok(config)
}

/// A scrape config that only asks for legacy names does not inherit the global UTF-8 escaping.
fn infer_escaping(
    own: Option<NameEscaping>,
    own_validation: Option<NameValidation>,
    global: &GlobalConfig,
) -> NameEscaping {
    let of_validation = |validation| match validation {
        NameValidation::Legacy => NameEscaping::Underscores,
        NameValidation::Utf8 => NameEscaping::AllowUtf8,
    };
    match (own, own_validation) {
        (Some(own), _) => own,
        (None, Some(validation)) => of_validation(validation),
        (None, None) => global.name_escaping.unwrap_or_else(|| of_validation(global.name_validation)),
    }
}

fn read_params(section: &Section<'_>) -> Result<BTreeMap<String, Vec<String>>> {
    let at = section.path_of("params");
    let mut params = BTreeMap::new();
    let Some(node) = section.get("params") else { return Ok(params) };
    for (name, values) in node.as_mapping(&at)? {
        let values = values.as_list(&at)?.iter().map(|item| item.as_text(&at).map(str::to_owned));
        params.insert(name.as_text(&at)?.to_owned(), values.collect::<Result<_>>()?);
    }
    Ok(params)
}

fn read_storage(section: &Section<'_>, without_effect: &mut Vec<String>) -> Result<StorageConfig> {
    let mut storage = StorageConfig::default();
    let Some(node) = section.get("storage") else { return Ok(storage) };
    let section = Section::new(node, "storage")?;
    let tsdb = section.get("tsdb");
    let exemplars = section.get("exemplars");
    section.finish()?;
    if let Some(node) = exemplars {
        let section = Section::new(node, "storage.exemplars")?;
        // The section without its key switches exemplars off, as upstream.
        storage.max_exemplars = section.number("max_exemplars", "a whole number")?.unwrap_or(0);
        section.finish()?;
    }
    if let Some(node) = tsdb {
        read_tsdb(&Section::new(node, "storage.tsdb")?, &mut storage, without_effect)?;
    }
    Ok(storage)
}

fn read_tsdb(
    section: &Section<'_>,
    storage: &mut StorageConfig,
    without_effect: &mut Vec<String>,
) -> Result<()> {
    if section.duration_ms("out_of_order_time_window")?.is_some() {
        without_effect.push(
            "storage.tsdb.out_of_order_time_window: samples of any age within retention are always accepted"
                .to_owned(),
        );
    }
    if section.number::<f64>("stale_series_compaction_threshold", "a number")?.is_some() {
        without_effect.push(
            "storage.tsdb.stale_series_compaction_threshold: idle series leave memory by themselves"
                .to_owned(),
        );
    }
    let retention = section.get("retention");
    let encoding = section.get("chunk_encoding");
    section.finish()?;
    if let Some(node) = encoding {
        let section = Section::new(node, "storage.tsdb.chunk_encoding")?;
        let floats = section.text("floats")?.unwrap_or_default();
        section.finish()?;
        if !matches!(floats.as_str(), "" | "xor" | "xor2") {
            return Err(section.problem_at(
                "floats",
                format!("'storage.tsdb.chunk_encoding.floats' must be 'xor' or 'xor2', or the field must be omitted entirely, got {floats:?}"),
            ));
        }
        without_effect
            .push("storage.tsdb.chunk_encoding: encodings are chosen by size, column by column".to_owned());
    }
    let Some(node) = retention else { return Ok(()) };
    let section = Section::new(node, "storage.tsdb.retention")?;
    let time = section.duration_ms("time")?;
    let size = section.size_bytes("size")?;
    let percentage: Option<f64> = section.number("percentage", "a number")?;
    section.finish()?;
    let size = match size {
        Some(bytes) => Some(u64::try_from(bytes).map_err(|_| {
            section.problem_at(
                "size",
                format!("'storage.tsdb.retention.size' must be greater than or equal to 0, got {bytes}B"),
            )
        })?),
        None => None,
    };
    if let Some(percentage) = percentage {
        if !(0.0..=100.0).contains(&percentage) {
            return Err(section.problem_at(
                "percentage",
                format!(
                    "'storage.tsdb.retention.percentage' must be in the range [0, 100], got {percentage}"
                ),
            ));
        }
        without_effect.push("storage.tsdb.retention.percentage: use size instead".to_owned());
    }
    storage.retention_time_ms = time.filter(|ms| *ms != 0);
    storage.retention_size_bytes = size.filter(|bytes| *bytes != 0);
    Ok(())
}
