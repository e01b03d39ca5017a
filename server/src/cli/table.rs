//! Every flag in one table: parsing, `--help`, `/api/v1/status/flags` and the words in the log about
//! flags without effect all come from it.

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--x` and `--no-x`; shown as `--[no-]x`.
    Boolean,
    /// Any text.
    Text,
    /// Any text, and the flag may be repeated.
    Texts,
    /// `1h30m`
    Duration,
    /// `512MB`
    Size,
    /// A whole number that is not negative.
    Count,
    /// A number.
    Number,
}

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// What its help says.
    Works,
    /// Nothing, for this reason; accepted, with a word in the log.
    None(&'static str),
    /// It asks for something that must not be ignored; refused for this reason.
    Refused(&'static str),
}

/// One flag.
pub(crate) struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// As it would be written; empty if there is none.
    pub default: &'static str,
    /// What it does here.
    pub effect: Effect,
    /// One sentence.
    pub help: &'static str,
}

const fn works(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, effect: Effect::Works, help }
}

const fn inert(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, kind, default, effect: Effect::None(why), help: "" }
}

const fn refused(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, kind, default, effect: Effect::Refused(why), help: "" }
}

const NO_RULES: &str = "this version evaluates no rules";
const NO_ALERTS: &str = "this version sends no alerts";
const NO_REMOTE_READ: &str = "this version does not serve remote read";
const NO_CONSOLES: &str = "there are no console templates";
const OWN_ENGINE: &str = "the storage engine is another one";
const NO_GO: &str = "there is no Go runtime to tune";
const NO_AGENT: &str = "there is no agent mode";

use Kind::{Boolean, Count, Duration, Number, Size, Text, Texts};

/// All flags, ours after Prometheus's, in the order of `--help`.
pub(crate) const FLAGS: &[Flag] = &[
    works("config.file", Text, "prometheus.yml", "Configuration file."),
    works("config.auto-reload", Boolean, "false", "Reload the configuration when its files change."),
    works("config.auto-reload-interval", Duration, "30s", "How often to look for changed files."),
    works("web.listen-address", Texts, "0.0.0.0:9090", "Address to listen on; may be repeated."),
    inert("auto-gomaxprocs", Boolean, "true", NO_GO),
    inert("auto-gomemlimit", Boolean, "true", NO_GO),
    inert("auto-gomemlimit.ratio", Number, "0.9", NO_GO),
    inert("auto-gomemlimit.refresh-interval", Duration, "0s", NO_GO),
    refused(
        "web.config.file",
        Text,
        "",
        "this version does not serve TLS or ask for passwords; put a proxy in front that does",
    ),
    works(
        "web.read-timeout",
        Duration,
        "5m",
        "Time to read a request, and for which an idle connection stays open.",
    ),
    works("web.max-connections", Count, "512", "Connections at once, over all addresses."),
    inert("web.max-notifications-subscribers", Count, "16", "this version has no live notifications"),
    works(
        "web.external-url",
        Text,
        "",
        "URL under which the server is reached from outside; its path prefixes every route.",
    ),
    works("web.route-prefix", Text, "", "Prefix of all routes; by default the path of --web.external-url."),
    inert("web.user-assets", Text, "", "this version serves no files"),
    works("web.enable-lifecycle", Boolean, "false", "Allow /-/reload and /-/quit."),
    works("web.enable-admin-api", Boolean, "false", "Allow deletion and snapshots over HTTP."),
    works("web.enable-remote-write-receiver", Boolean, "true", "Receive remote write at /api/v1/write."),
    works(
        "web.remote-write-receiver.accepted-protobuf-messages",
        Texts,
        "prometheus.WriteRequest,io.prometheus.write.v2.Request",
        "Remote-write messages to accept: prometheus.WriteRequest (1.0), io.prometheus.write.v2.Request (2.0).",
    ),
    inert("web.enable-otlp-receiver", Boolean, "false", "this version does not receive OTLP"),
    inert("web.console.templates", Text, "consoles", NO_CONSOLES),
    inert("web.console.libraries", Text, "console_libraries", NO_CONSOLES),
    works("web.page-title", Text, "Chronolith", "Title of the start page."),
    works(
        "web.cors.origin",
        Text,
        ".*",
        "Regular expression of origins that browsers may call from, fully anchored.",
    ),
    works("storage.tsdb.path", Text, "data/", "Where samples are stored."),
    works(
        "storage.tsdb.retention.time",
        Duration,
        "",
        "How long to keep samples; 0s keeps all. 15d if neither this nor the size is set. The configuration file overrides it.",
    ),
    works(
        "storage.tsdb.retention.size",
        Size,
        "",
        "Drop the oldest blocks while the store is larger, for example 512MB. The configuration file overrides it.",
    ),
    refused(
        "storage.tsdb.no-lockfile",
        Boolean,
        "false",
        "the lock keeps a second process from destroying the store and cannot be switched off",
    ),
    inert("storage.tsdb.head-chunks-write-queue-size", Count, "0", OWN_ENGINE),
    inert("storage.tsdb.delay-compact-file.path", Text, "", OWN_ENGINE),
    works(
        "storage.tsdb.min-block-duration",
        Duration,
        "2h",
        "Span of time after which recent samples become a block. For tests; a store keeps the one it began with.",
    ),
    inert("storage.tsdb.max-block-duration", Duration, "", OWN_ENGINE),
    inert("storage.tsdb.wal-segment-size", Size, "", OWN_ENGINE),
    inert("storage.tsdb.wal-compression", Boolean, "true", "the log is always compressed"),
    inert("storage.tsdb.wal-compression-type", Text, "snappy", "the log is always compressed"),
    inert("storage.tsdb.max-block-chunk-segment-size", Size, "", OWN_ENGINE),
    inert("storage.tsdb.allow-overlapping-blocks", Boolean, "true", "overlapping blocks are always merged"),
    inert(
        "storage.tsdb.allow-overlapping-compaction",
        Boolean,
        "true",
        "overlapping blocks are always merged",
    ),
    inert("storage.tsdb.samples-per-chunk", Count, "120", OWN_ENGINE),
    inert("storage.tsdb.block-reload-interval", Duration, "1m", OWN_ENGINE),
    inert("storage.remote.flush-deadline", Duration, "1m", "this version does not send remote write"),
    inert("storage.remote.read-sample-limit", Count, "50000000", NO_REMOTE_READ),
    inert("storage.remote.read-concurrent-limit", Count, "10", NO_REMOTE_READ),
    inert("storage.remote.read-max-bytes-in-frame", Count, "1048576", NO_REMOTE_READ),
    inert("web.search.max-limit", Count, "10000", "this version has no search API"),
    inert("rules.alert.for-outage-tolerance", Duration, "1h", NO_RULES),
    inert("rules.alert.for-grace-period", Duration, "10m", NO_RULES),
    inert("rules.alert.resend-delay", Duration, "1m", NO_RULES),
    inert("rules.max-concurrent-evals", Count, "4", NO_RULES),
    inert("alertmanager.notification-queue-capacity", Count, "10000", NO_ALERTS),
    inert("alertmanager.notification-batch-size", Count, "256", NO_ALERTS),
    inert("alertmanager.drain-notification-queue-on-shutdown", Boolean, "true", NO_ALERTS),
    inert("scrape.adjust-timestamps", Boolean, "true", "scrape timestamps are always aligned"),
    inert("scrape.timestamp-tolerance", Duration, "2ms", "scrape timestamps are always aligned"),
    inert(
        "scrape.discovery-reload-interval",
        Duration,
        "5s",
        "static targets change with the configuration only",
    ),
    works("query.lookback-delta", Duration, "5m", "How far an instant selector looks back for a sample."),
    works("query.timeout", Duration, "2m", "Longest time of a query."),
    works("query.max-concurrency", Count, "20", "Queries at once; others wait."),
    works("query.max-samples", Count, "50000000", "Samples that a query may hold in memory at once."),
    works(
        "enable-feature",
        Texts,
        "",
        "Comma-separated features to enable: promql-experimental-functions, promql-delayed-name-removal, promql-extended-range-selectors, promql-binop-fill-modifiers, promql-per-step-stats. Others of Prometheus are accepted.",
    ),
    refused("agent", Boolean, "false", NO_AGENT),
    refused("storage.agent.path", Text, "data-agent/", NO_AGENT),
    refused("storage.agent.wal-compression", Boolean, "false", NO_AGENT),
    refused("storage.agent.retention.min-time", Duration, "", NO_AGENT),
    refused("storage.agent.retention.max-time", Duration, "", NO_AGENT),
    refused("storage.agent.no-lockfile", Boolean, "false", NO_AGENT),
    works("log.level", Text, "info", "Least severe messages to log: debug, info, warn or error."),
    works("log.format", Text, "logfmt", "How to log: logfmt or json."),
    works(
        "storage.wal-sync",
        Text,
        "grouped",
        "When a write is acknowledged. grouped: it survives the end of the process at once and a power loss after --storage.wal-sync-window; always: it survives a power loss.",
    ),
    works(
        "storage.wal-sync-window",
        Duration,
        "1s",
        "Longest time between two syncs of the log with --storage.wal-sync=grouped.",
    ),
    works(
        "storage.memory-budget",
        Size,
        "1GB",
        "Memory for series, recent samples and caches; recent samples go to disk earlier with less.",
    ),
    works(
        "storage.read-ahead",
        Size,
        "64MB",
        "How much of the newest blocks is read after a start, before anybody asks; 0 reads nothing.",
    ),
    works("storage.max-ahead", Duration, "10m", "Samples further in the future are refused."),
    works("limits.max-labels-per-series", Count, "128", "Series with more labels are refused."),
    works("limits.max-label-name-length", Size, "1KB", "Series with a longer label name are refused."),
    works("limits.max-label-value-length", Size, "16KB", "Series with a longer label value are refused."),
    works("remote-write.max-request-size", Size, "32MB", "Largest body of a remote-write request as sent."),
    works(
        "remote-write.max-decoded-size",
        Size,
        "128MB",
        "Largest body of a remote-write request after decompression.",
    ),
    works(
        "remote-write.max-in-flight",
        Count,
        "64",
        "Remote-write requests at once; others are asked to come back later.",
    ),
    works("query.max-memory", Size, "1GB", "Memory that one query may take."),
    works("query.max-total-memory", Size, "2GB", "Memory that all running queries together may take."),
    works(
        "query.max-series-read",
        Count,
        "100000000",
        "Refuse a query whose selectors match more series by the index, counted in each block; 0 sets no limit.",
    ),
    works(
        "query.max-samples-read",
        Count,
        "1000000000000",
        "Refuse a query that would read more samples by an estimate before it runs; 0 sets no limit.",
    ),
    works(
        "query.max-bytes-read",
        Size,
        "0B",
        "Refuse a query that would read more bytes by an estimate before it runs; 0B sets no limit.",
    ),
    works(
        "query.result-cache-size",
        Size,
        "64MB",
        "Memory for results of range queries, kept for when they are asked again; 0B keeps none.",
    ),
    works("query.threads", Count, "0", "Threads that work on queries; 0 means one per core."),
    works("web.shutdown-timeout", Duration, "10s", "How long a stop waits for requests in flight."),
];
