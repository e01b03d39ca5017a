//! The configuration as the rest of the server reads it: validated, defaults filled in, relative
//! paths joined with the folder of the file. How it gets there is the business of the files beside.
//!
//! Durations are milliseconds, sizes are bytes, and a limit of 0 means that there is none.

use chronolith_model::Labels;
use chronolith_model::re2::Re2;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The whole of `prometheus.yml`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Section `global`.
    pub global: GlobalConfig,
    /// Section `scrape_configs`, and those of `scrape_config_files`; job names are unique.
    pub scrape_configs: Vec<Arc<ScrapeConfig>>,
    /// Section `storage`.
    pub storage: StorageConfig,
    /// Sections that were validated but have no effect in this version, in words for the log.
    pub without_effect: Vec<String>,
    /// The configuration as YAML with defaults filled in and secrets hidden, for the API.
    pub yaml: String,
}

/// Section `global`.
#[derive(Clone, Debug)]
pub struct GlobalConfig {
    /// `scrape_interval`
    pub scrape_interval_ms: i64,
    /// `scrape_timeout`; never more than the interval.
    pub scrape_timeout_ms: i64,
    /// `scrape_protocols`, where given.
    pub scrape_protocols: Option<Vec<ScrapeProtocol>>,
    /// `evaluation_interval`
    pub evaluation_interval_ms: i64,
    /// `rule_query_offset`
    pub rule_query_offset_ms: i64,
    /// `query_log_file`
    pub query_log_file: Option<PathBuf>,
    /// `external_labels`, environment variables expanded.
    pub external_labels: Labels,
    /// Limits that scrape configs inherit.
    pub limits: ScrapeLimits,
    /// `scrape_failure_log_file`
    pub scrape_failure_log_file: Option<PathBuf>,
    /// `metric_name_validation_scheme`
    pub name_validation: NameValidation,
    /// `metric_name_escaping_scheme`, where given.
    pub name_escaping: Option<NameEscaping>,
    /// `scrape_native_histograms`
    pub scrape_native_histograms: bool,
    /// `convert_classic_histograms_to_nhcb`
    pub convert_classic_histograms_to_nhcb: bool,
    /// `always_scrape_classic_histograms`
    pub always_scrape_classic_histograms: bool,
    /// `extra_scrape_metrics`
    pub extra_scrape_metrics: bool,
}

impl Default for GlobalConfig {
    fn default() -> Self {
        Self {
            scrape_interval_ms: 60_000,
            scrape_timeout_ms: 10_000,
            scrape_protocols: None,
            evaluation_interval_ms: 60_000,
            rule_query_offset_ms: 0,
            query_log_file: None,
            external_labels: Labels::empty(),
            limits: ScrapeLimits::default(),
            scrape_failure_log_file: None,
            name_validation: NameValidation::Utf8,
            name_escaping: None,
            scrape_native_histograms: false,
            convert_classic_histograms_to_nhcb: false,
            always_scrape_classic_histograms: false,
            extra_scrape_metrics: false,
        }
    }
}

/// Limits of one scrape, or of one scrape pool. Over one of them the whole scrape fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapeLimits {
    /// `body_size_limit`, uncompressed.
    pub body_size_bytes: u64,
    /// `sample_limit`, after metric relabelling.
    pub samples: u64,
    /// `target_limit`, after target relabelling.
    pub targets: u64,
    /// `label_limit`: labels of one series.
    pub labels: u64,
    /// `label_name_length_limit`
    pub label_name_length: u64,
    /// `label_value_length_limit`
    pub label_value_length: u64,
    /// `keep_dropped_targets`: dropped targets remembered per job.
    pub dropped_targets_kept: u64,
}

/// One entry of `scrape_configs`, with what it inherits from `global` filled in.
#[derive(Clone, Debug)]
pub struct ScrapeConfig {
    /// `job_name`; not empty.
    pub job_name: String,
    /// `honor_labels`
    pub honor_labels: bool,
    /// `honor_timestamps`
    pub honor_timestamps: bool,
    /// `track_timestamps_staleness`
    pub track_timestamps_staleness: bool,
    /// `params`
    pub params: BTreeMap<String, Vec<String>>,
    /// `scrape_interval`
    pub scrape_interval_ms: i64,
    /// `scrape_timeout`; never more than the interval.
    pub scrape_timeout_ms: i64,
    /// `scrape_protocols`, most wanted first.
    pub scrape_protocols: Vec<ScrapeProtocol>,
    /// `fallback_scrape_protocol`
    pub fallback_scrape_protocol: Option<ScrapeProtocol>,
    /// `scrape_native_histograms`
    pub scrape_native_histograms: bool,
    /// `always_scrape_classic_histograms`
    pub always_scrape_classic_histograms: bool,
    /// `convert_classic_histograms_to_nhcb`
    pub convert_classic_histograms_to_nhcb: bool,
    /// `scrape_failure_log_file`
    pub scrape_failure_log_file: Option<PathBuf>,
    /// `metrics_path`
    pub metrics_path: String,
    /// `scheme`: "http" or "https".
    pub scheme: String,
    /// `enable_compression`
    pub enable_compression: bool,
    /// The limits.
    pub limits: ScrapeLimits,
    /// `native_histogram_bucket_limit`
    pub native_histogram_bucket_limit: u64,
    /// `native_histogram_min_bucket_factor`
    pub native_histogram_min_bucket_factor: f64,
    /// `metric_name_validation_scheme`
    pub name_validation: NameValidation,
    /// `metric_name_escaping_scheme`
    pub name_escaping: NameEscaping,
    /// `extra_scrape_metrics`
    pub extra_scrape_metrics: bool,
    /// `static_configs`
    pub static_configs: Vec<TargetGroup>,
    /// Kinds of discovery that were validated but do not run in this version: `consul_sd_configs` ...
    pub other_discovery: Vec<String>,
    /// How to talk to the targets.
    pub http: HttpClientConfig,
    /// `relabel_configs`
    pub relabel_configs: Vec<RelabelConfig>,
    /// `metric_relabel_configs`
    pub metric_relabel_configs: Vec<RelabelConfig>,
    /// This entry as YAML, secrets hidden.
    pub yaml: String,
}

/// A format that a target may answer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScrapeProtocol {
    /// Length-delimited protobuf.
    PrometheusProto,
    /// The text format, classic.
    PrometheusText0_0_4,
    /// The text format with UTF-8 names.
    PrometheusText1_0_0,
    /// OpenMetrics 0.0.1
    OpenMetricsText0_0_1,
    /// OpenMetrics 1.0.0
    OpenMetricsText1_0_0,
}

impl ScrapeProtocol {
    /// All of them, in the order in which error texts list them.
    pub const ALL: [Self; 5] = [
        Self::OpenMetricsText0_0_1,
        Self::OpenMetricsText1_0_0,
        Self::PrometheusProto,
        Self::PrometheusText0_0_4,
        Self::PrometheusText1_0_0,
    ];
    /// What is asked for by default, most wanted first.
    pub const DEFAULT: [Self; 4] = [
        Self::OpenMetricsText1_0_0,
        Self::OpenMetricsText0_0_1,
        Self::PrometheusText1_0_0,
        Self::PrometheusText0_0_4,
    ];
    /// What is asked for by default where native histograms are wanted.
    pub const DEFAULT_WITH_PROTO: [Self; 5] = [
        Self::PrometheusProto,
        Self::OpenMetricsText1_0_0,
        Self::OpenMetricsText0_0_1,
        Self::PrometheusText1_0_0,
        Self::PrometheusText0_0_4,
    ];

    /// The name in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PrometheusProto => "PrometheusProto",
            Self::PrometheusText0_0_4 => "PrometheusText0.0.4",
            Self::PrometheusText1_0_0 => "PrometheusText1.0.0",
            Self::OpenMetricsText0_0_1 => "OpenMetricsText0.0.1",
            Self::OpenMetricsText1_0_0 => "OpenMetricsText1.0.0",
        }
    }

    /// The media type for `Accept` headers.
    pub const fn header(self) -> &'static str {
        match self {
            Self::PrometheusProto => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
            }
            Self::PrometheusText0_0_4 => "text/plain;version=0.0.4",
            Self::PrometheusText1_0_0 => "text/plain;version=1.0.0",
            Self::OpenMetricsText0_0_1 => "application/openmetrics-text;version=0.0.1",
            Self::OpenMetricsText1_0_0 => "application/openmetrics-text;version=1.0.0",
        }
    }
}

/// `metric_name_validation_scheme`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameValidation {
    /// Any UTF-8.
    Utf8,
    /// `[a-zA-Z_:][a-zA-Z0-9_:]*`
    Legacy,
}

impl NameValidation {
    /// The word in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Utf8 => "utf8",
            Self::Legacy => "legacy",
        }
    }

    /// Whether `name` may be a label name.
    pub fn is_valid_label_name(self, name: &str) -> bool {
        match self {
            Self::Utf8 => !name.is_empty(),
            Self::Legacy => chronolith_model::labels::is_legacy_label_name(name),
        }
    }
}

/// `metric_name_escaping_scheme`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameEscaping {
    /// None: names come as they are.
    AllowUtf8,
    /// Other characters become `_`.
    Underscores,
    /// Dots become `_dot_`, and so on.
    Dots,
    /// `U__` with code points.
    Values,
}

impl NameEscaping {
    /// The word in configuration files and `Accept` headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllowUtf8 => "allow-utf-8",
            Self::Underscores => "underscores",
            Self::Dots => "dots",
            Self::Values => "values",
        }
    }
}

/// One entry of `static_configs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// Addresses, each a `host:port` or a host.
    pub targets: Vec<String>,
    /// Labels of all of them; values may be empty.
    pub labels: BTreeMap<String, String>,
}

/// One relabelling rule.
#[derive(Clone, Debug)]
pub struct RelabelConfig {
    /// `source_labels`
    pub source_labels: Vec<String>,
    /// `separator`
    pub separator: String,
    /// `regex`, fully anchored.
    pub regex: Re2,
    /// `regex` as written.
    pub regex_text: String,
    /// `modulus`
    pub modulus: u64,
    /// `target_label`
    pub target_label: String,
    /// `replacement`
    pub replacement: String,
    /// `action`
    pub action: RelabelAction,
    /// Which label names a replacement may make.
    pub name_validation: NameValidation,
}

/// What a relabelling rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelabelAction {
    /// Sets the target label where the pattern matches.
    Replace,
    /// Keeps what matches.
    Keep,
    /// Drops what matches.
    Drop,
    /// Keeps if source and target label are equal.
    KeepEqual,
    /// Drops if source and target label are equal.
    DropEqual,
    /// Sets the target label to a hash modulo `modulus`.
    HashMod,
    /// Copies labels whose name matches to the name that `replacement` makes.
    LabelMap,
    /// Drops labels whose name matches.
    LabelDrop,
    /// Keeps labels whose name matches.
    LabelKeep,
    /// Sets the target label to the source in lower case.
    Lowercase,
    /// Sets the target label to the source in upper case.
    Uppercase,
}

impl RelabelAction {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Replace,
        Self::Keep,
        Self::Drop,
        Self::KeepEqual,
        Self::DropEqual,
        Self::HashMod,
        Self::LabelMap,
        Self::LabelDrop,
        Self::LabelKeep,
        Self::Lowercase,
        Self::Uppercase,
    ];

    /// The word in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::KeepEqual => "keepequal",
            Self::DropEqual => "dropequal",
            Self::HashMod => "hashmod",
            Self::LabelMap => "labelmap",
            Self::LabelDrop => "labeldrop",
            Self::LabelKeep => "labelkeep",
            Self::Lowercase => "lowercase",
            Self::Uppercase => "uppercase",
        }
    }
}

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, to be sent, not shown.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// How to talk HTTP to a target or a service.
#[derive(Clone, Debug)]
pub struct HttpClientConfig {
    /// `basic_auth`
    pub basic_auth: Option<BasicAuth>,
    /// `authorization`, or what the older `bearer_token` keys mean by it.
    pub authorization: Option<Authorization>,
    /// `oauth2`
    pub oauth2: Option<Box<OAuth2>>,
    /// `tls_config`
    pub tls: TlsConfig,
    /// `follow_redirects`
    pub follow_redirects: bool,
    /// `enable_http2`
    pub enable_http2: bool,
    /// `proxy_url`
    pub proxy_url: Option<String>,
    /// `no_proxy`
    pub no_proxy: String,
    /// `proxy_from_environment`
    pub proxy_from_environment: bool,
    /// `proxy_connect_header`
    pub proxy_connect_header: BTreeMap<String, Vec<Secret>>,
    /// `http_headers`
    pub headers: BTreeMap<String, HttpHeader>,
}

impl Default for HttpClientConfig {
    fn default() -> Self {
        Self {
            basic_auth: None,
            authorization: None,
            oauth2: None,
            tls: TlsConfig::default(),
            follow_redirects: true,
            enable_http2: true,
            proxy_url: None,
            no_proxy: String::new(),
            proxy_from_environment: false,
            proxy_connect_header: BTreeMap::new(),
            headers: BTreeMap::new(),
        }
    }
}

/// `basic_auth`: at most one of each pair is set.
#[derive(Clone, Debug, Default)]
pub struct BasicAuth {
    /// `username`
    pub username: String,
    /// `username_file`, read for each request.
    pub username_file: Option<PathBuf>,
    /// `password`
    pub password: Secret,
    /// `password_file`, read for each request.
    pub password_file: Option<PathBuf>,
}

/// `authorization`
#[derive(Clone, Debug)]
pub struct Authorization {
    /// `type`, "Bearer" by default.
    pub scheme: String,
    /// `credentials`
    pub credentials: Secret,
    /// `credentials_file`, read for each request.
    pub credentials_file: Option<PathBuf>,
}

/// `oauth2`: a token by client credentials.
#[derive(Clone, Debug, Default)]
pub struct OAuth2 {
    /// `client_id`
    pub client_id: String,
    /// `client_secret`
    pub client_secret: Secret,
    /// `client_secret_file`, read for each request.
    pub client_secret_file: Option<PathBuf>,
    /// `scopes`
    pub scopes: Vec<String>,
    /// `token_url`
    pub token_url: String,
    /// `endpoint_params`: fields of the form besides those of the standard.
    pub endpoint_params: BTreeMap<String, String>,
    /// `grant_type` asks for a signed assertion, which this version cannot make.
    pub needs_jwt: bool,
    /// `tls_config` and the proxy for the token endpoint; no credentials.
    pub http: HttpClientConfig,
}

/// One entry of `http_headers`: all values together.
#[derive(Clone, Debug, Default)]
pub struct HttpHeader {
    /// `values`
    pub values: Vec<String>,
    /// `secrets`
    pub secrets: Vec<Secret>,
    /// `files`
    pub files: Vec<PathBuf>,
}

/// `tls_config`
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    /// `ca`: PEM text.
    pub ca: Option<String>,
    /// `cert`: PEM text.
    pub cert: Option<String>,
    /// `key`: PEM text.
    pub key: Option<Secret>,
    /// `ca_file`
    pub ca_file: Option<PathBuf>,
    /// `cert_file`
    pub cert_file: Option<PathBuf>,
    /// `key_file`
    pub key_file: Option<PathBuf>,
    /// `server_name`
    pub server_name: String,
    /// `insecure_skip_verify`
    pub insecure_skip_verify: bool,
    /// `min_version`
    pub min_version: Option<TlsVersion>,
    /// `max_version`
    pub max_version: Option<TlsVersion>,
}

impl TlsConfig {
    /// Whether any of it is in files, which may change.
    pub fn has_files(&self) -> bool {
        self.ca_file.is_some() || self.cert_file.is_some() || self.key_file.is_some()
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS10
    Tls10,
    /// TLS11
    Tls11,
    /// TLS12
    Tls12,
    /// TLS13
    Tls13,
}

/// Section `storage`.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageConfig {
    /// `tsdb.retention.time`, where given.
    pub retention_time_ms: Option<i64>,
    /// `tsdb.retention.size`, where given.
    pub retention_size_bytes: Option<u64>,
    /// `exemplars.max_exemplars`
    pub max_exemplars: i64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { retention_time_ms: None, retention_size_bytes: None, max_exemplars: 100_000 }
    }
}
