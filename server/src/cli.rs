//! The command line: Prometheus's flags, ours beside them, and what a mistake is answered with.

mod table;

use crate::build;
use crate::config::units::{format_duration, parse_duration, parse_size};
use chronolith_query::CostLimits;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use table::{Effect, FLAGS, Flag, Kind};

/// What the process ends with when the command line is wrong.
pub const EXIT_USAGE: u8 = 2;

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--config.file`
    pub config_file: PathBuf,
    /// `--config.auto-reload-interval`, if `--config.auto-reload` is set.
    pub auto_reload: Option<Duration>,
    /// `--web.listen-address`
    pub listen_addresses: Vec<String>,
    /// `--web.read-timeout`
    pub read_timeout: Duration,
    /// `--web.max-connections`
    pub max_connections: usize,
    /// `--web.external-url` without a slash at its end; empty if not given.
    pub external_url: String,
    /// Starts with a slash and does not end with one; empty for none.
    pub route_prefix: String,
    /// `--web.enable-lifecycle`
    pub enable_lifecycle: bool,
    /// `--web.enable-admin-api`
    pub enable_admin_api: bool,
    /// `--web.enable-remote-write-receiver`
    pub enable_remote_write: bool,
    /// Remote-write 1.0 is accepted.
    pub accept_remote_write_v1: bool,
    /// Remote-write 2.0 is accepted.
    pub accept_remote_write_v2: bool,
    /// `--web.page-title`
    pub page_title: String,
    /// `--web.cors.origin`
    pub cors_origin: String,
    /// `--storage.tsdb.path`
    pub storage_path: PathBuf,
    /// `--storage.tsdb.retention.time`, where given; 0 keeps all.
    pub retention_time_ms: Option<i64>,
    /// `--storage.tsdb.retention.size`, where given; 0 sets no limit.
    pub retention_size_bytes: Option<u64>,
    /// `--storage.tsdb.min-block-duration`
    pub window_ms: i64,
    /// `--query.lookback-delta`
    pub lookback_delta_ms: i64,
    /// `--query.timeout`
    pub query_timeout: Duration,
    /// `--query.max-concurrency`
    pub max_concurrent_queries: usize,
    /// `--query.max-samples`
    pub max_query_samples: usize,
    /// `--enable-feature`
    pub features: Vec<String>,
    /// `--log.level`
    pub log_level: tracing::Level,
    /// `--log.format=json`
    pub log_json: bool,
    /// `--storage.wal-sync=always`
    pub wal_sync_always: bool,
    /// `--storage.wal-sync-window`
    pub wal_sync_window_ms: u64,
    /// `--storage.memory-budget`
    pub memory_budget_bytes: usize,
    /// `--storage.read-ahead`
    pub read_ahead_bytes: usize,
    /// `--storage.max-ahead`
    pub max_ahead_ms: i64,
    /// `--limits.max-labels-per-series`
    pub max_labels_per_series: usize,
    /// `--limits.max-label-name-length`
    pub max_label_name_bytes: usize,
    /// `--limits.max-label-value-length`
    pub max_label_value_bytes: usize,
    /// `--remote-write.max-request-size`
    pub remote_write_max_body_bytes: usize,
    /// `--remote-write.max-decoded-size`
    pub remote_write_max_decoded_bytes: usize,
    /// `--remote-write.max-in-flight`
    pub remote_write_max_in_flight: usize,
    /// `--query.max-memory`
    pub query_memory_bytes: usize,
    /// `--query.max-total-memory`
    pub total_query_memory_bytes: usize,
    /// `--query.result-cache-size`
    pub result_cache_bytes: usize,
    /// `--query.max-series-read`, `--query.max-samples-read`, `--query.max-bytes-read`
    pub query_cost: CostLimits,
    /// `--query.threads`
    pub query_threads: usize,
    /// `--web.shutdown-timeout`
    pub shutdown_timeout: Duration,
    /// Every flag with its value, for the API.
    pub flags: BTreeMap<&'static str, String>,
    /// Flags that were given and do nothing here, with the reason.
    pub without_effect: Vec<(&'static str, &'static str)>,
}

/// Why a run does not start.
#[derive(Debug)]
pub enum CliError {
    /// Help or version was asked for: print it and end well.
    Info(String),
    /// A flag is wrong: print it and end with [`EXIT_USAGE`].
    Usage(String),
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// [`CliError`] with the text to print.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Settings, CliError> {
    let matches = command().try_get_matches_from(args).map_err(|error| {
        use clap::error::ErrorKind;
        match error.kind() {
            ErrorKind::DisplayHelp => CliError::Info(with_negations(&error.to_string())),
            ErrorKind::DisplayVersion => CliError::Info(version_text()),
            _ => CliError::Usage(error.render().to_string()),
        }
    })?;
    Reader { matches }.settings().map_err(|error| CliError::Usage(format!("error: {error}\n")))
}

fn command() -> Command {
    let inert: Vec<String> = FLAGS
        .iter()
        .filter(|flag| matches!(flag.effect, Effect::None(_)))
        .map(|flag| format!("--{}", flag.name))
        .collect();
    let mut command = Command::new("chronolith")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A Prometheus-compatible monitoring server that keeps metrics for years.")
        .after_help(format!(
            "Durations are written 1h30m, sizes 512MB.\n\n\
             chronolith explain --help: how a server evaluates a query.\n\n\
             Accepted from Prometheus without effect here:\n  {}",
            inert.join(", ")
        ))
        .max_term_width(110)
        .next_line_help(true);
    for flag in FLAGS {
        let mut arg = Arg::new(flag.name).long(flag.name).help(help_text(flag));
        if flag.effect != Effect::Works {
            arg = arg.hide(true);
        }
        arg = match flag.kind {
            Kind::Boolean => {
                command = command.arg(
                    Arg::new(negated(flag.name))
                        .long(negated(flag.name))
                        .action(ArgAction::SetTrue)
                        .overrides_with(flag.name)
                        .hide(true),
                );
                arg.action(ArgAction::Set)
                    .num_args(0..=1)
                    .require_equals(true)
                    .value_name("BOOL")
                    .default_missing_value("true")
                    .value_parser(PossibleValuesParser::new(["true", "false"]))
                    .hide_possible_values(true)
                    .overrides_with(negated(flag.name))
            }
            Kind::Texts => arg.action(ArgAction::Append).value_name("TEXT"),
            kind => arg.action(ArgAction::Set).value_name(match kind {
                Kind::Duration => "DURATION",
                Kind::Size => "SIZE",
                Kind::Count | Kind::Number => "NUMBER",
                _ => "TEXT",
            }),
        };
        command = command.arg(arg);
    }
    command
}

/// Booleans as Prometheus shows them: `--[no-]web.enable-lifecycle`.
fn with_negations(help: &str) -> String {
    FLAGS.iter().filter(|flag| flag.kind == Kind::Boolean).fold(help.to_owned(), |help, flag| {
        help.replace(&format!("--{}[=<BOOL>]", flag.name), &format!("--[no-]{}", flag.name))
    })
}

/// What `--version` prints, in the layout of Prometheus's.
fn version_text() -> String {
    format!(
        "chronolith, version {} (branch: {}, revision: {})\n  build user:       {}\n  build date:       {}\n  \
         compiler:         {}\n  platform:         {}/{}\n  compatible with:  Prometheus {}\n",
        build::VERSION,
        build::BRANCH,
        build::REVISION,
        build::USER,
        build::date(),
        build::COMPILER,
        std::env::consts::OS,
        std::env::consts::ARCH,
        build::PROMETHEUS_VERSION,
    )
}

fn negated(name: &'static str) -> &'static str {
    // One string per boolean flag and run of the program: the table is small and parsed once.
    Box::leak(format!("no-{name}").into_boxed_str())
}

fn help_text(flag: &Flag) -> String {
    match flag.default {
        "" | "false" => flag.help.to_owned(),
        default => format!("{} [default: {default}]", flag.help),
    }
}

struct Reader {
    matches: ArgMatches,
}

impl Reader {
    fn settings(&self) -> Result<Settings, String> {
        self.refuse()?;
        self.check_kinds()?;
        let external_url = self.text("web.external-url").trim_end_matches('/').to_owned();
        let route_prefix = self.route_prefix(&external_url)?;
        let messages = self.list("web.remote-write-receiver.accepted-protobuf-messages");
        let known = ["prometheus.WriteRequest", "io.prometheus.write.v2.Request"];
        if let Some(other) = messages.iter().find(|message| !known.contains(&message.as_str())) {
            return Err(format!(
                "--web.remote-write-receiver.accepted-protobuf-messages: unknown message {other:?}, supported: {}",
                known.join(", ")
            ));
        }
        let cors_origin = self.text("web.cors.origin");
        chronolith_model::re2::Re2::anchored(&cors_origin)
            .map_err(|error| format!("--web.cors.origin: {error}"))?;
        let listen_addresses = self.texts("web.listen-address");
        for address in &listen_addresses {
            check_address(address)?;
        }
        for name in ["config.file", "storage.tsdb.path"] {
            if self.text(name).is_empty() {
                return Err(format!("--{name}: must not be empty"));
            }
        }
        Ok(Settings {
            config_file: self.text("config.file").into(),
            auto_reload: self
                .boolean("config.auto-reload")
                .then(|| self.duration("config.auto-reload-interval")),
            listen_addresses,
            read_timeout: self.duration("web.read-timeout"),
            max_connections: self.positive("web.max-connections")?,
            external_url,
            route_prefix,
            enable_lifecycle: self.boolean("web.enable-lifecycle"),
            enable_admin_api: self.boolean("web.enable-admin-api"),
            enable_remote_write: self.boolean("web.enable-remote-write-receiver"),
            accept_remote_write_v1: messages.iter().any(|message| message == known[0]),
            accept_remote_write_v2: messages.iter().any(|message| message == known[1]),
            page_title: self.text("web.page-title"),
            cors_origin,
            storage_path: self.text("storage.tsdb.path").into(),
            retention_time_ms: self.given_ms("storage.tsdb.retention.time"),
            retention_size_bytes: match self.text("storage.tsdb.retention.size").as_str() {
                "" => None,
                text => Some(parse_size(text).unwrap_or(0).unsigned_abs()),
            },
            window_ms: positive_ms(
                "storage.tsdb.min-block-duration",
                self.ms("storage.tsdb.min-block-duration"),
            )?,
            lookback_delta_ms: positive_ms("query.lookback-delta", self.ms("query.lookback-delta"))?,
            query_timeout: Duration::from_millis(
                positive_ms("query.timeout", self.ms("query.timeout"))?.unsigned_abs(),
            ),
            max_concurrent_queries: self.positive("query.max-concurrency")?,
            max_query_samples: self.positive("query.max-samples")?,
            features: self.list("enable-feature"),
            log_level: self.choice(
                "log.level",
                &[
                    ("debug", tracing::Level::DEBUG),
                    ("info", tracing::Level::INFO),
                    ("warn", tracing::Level::WARN),
                    ("error", tracing::Level::ERROR),
                ],
            )?,
            log_json: self.choice("log.format", &[("logfmt", false), ("json", true)])?,
            wal_sync_always: self.choice("storage.wal-sync", &[("grouped", false), ("always", true)])?,
            wal_sync_window_ms: positive_ms("storage.wal-sync-window", self.ms("storage.wal-sync-window"))?
                .unsigned_abs(),
            memory_budget_bytes: self.memory_budget()?,
            read_ahead_bytes: self.size("storage.read-ahead"),
            max_ahead_ms: self.ms("storage.max-ahead"),
            max_labels_per_series: self.positive("limits.max-labels-per-series")?,
            max_label_name_bytes: self.positive_size("limits.max-label-name-length")?,
            max_label_value_bytes: self.positive_size("limits.max-label-value-length")?,
            remote_write_max_body_bytes: self.positive_size("remote-write.max-request-size")?,
            remote_write_max_decoded_bytes: self.positive_size("remote-write.max-decoded-size")?,
            remote_write_max_in_flight: self.positive("remote-write.max-in-flight")?,
            query_memory_bytes: self.positive_size("query.max-memory")?,
            total_query_memory_bytes: self.positive_size("query.max-total-memory")?,
            result_cache_bytes: self.size("query.result-cache-size"),
            query_cost: CostLimits {
                series: self.count("query.max-series-read") as u64,
                samples: self.count("query.max-samples-read") as u64,
                size_bytes: self.size("query.max-bytes-read") as u64,
            },
            query_threads: self.query_threads()?,
            shutdown_timeout: self.duration("web.shutdown-timeout"),
            flags: FLAGS.iter().map(|flag| (flag.name, self.shown(flag))).collect(),
            without_effect: FLAGS.iter().filter_map(|flag| self.inert(flag)).collect(),
        })
    }

    /// Flags that must not be ignored; off is what happens anyway.
    fn refuse(&self) -> Result<(), String> {
        for flag in FLAGS {
            let Effect::Refused(why) = flag.effect else { continue };
            let wanted = match flag.kind {
                Kind::Boolean => self.boolean(flag.name),
                _ => self.is_given(flag),
            };
            if wanted {
                return Err(format!("--{}: {why}", flag.name));
            }
        }
        Ok(())
    }

    fn inert(&self, flag: &Flag) -> Option<(&'static str, &'static str)> {
        match flag.effect {
            Effect::None(why) if self.is_given(flag) => Some((flag.name, why)),
            _ => None,
        }
    }

    /// Every value has the form its flag asks for, those without effect included.
    fn check_kinds(&self) -> Result<(), String> {
        for flag in FLAGS {
            for text in self.texts(flag.name) {
                if text.is_empty() {
                    continue;
                }
                let checked = match flag.kind {
                    Kind::Duration => parse_duration(&text).map(drop),
                    Kind::Size => parse_size(&text).and_then(|bytes| match bytes {
                        0.. => Ok(()),
                        _ => Err("must not be negative".to_owned()),
                    }),
                    Kind::Count => {
                        text.parse::<u64>().map(drop).map_err(|_| format!("not a whole number: {text:?}"))
                    }
                    Kind::Number => {
                        text.parse::<f64>().map(drop).map_err(|_| format!("not a number: {text:?}"))
                    }
                    Kind::Boolean | Kind::Text | Kind::Texts => Ok(()),
                };
                checked.map_err(|reason| format!("--{}: {reason}", flag.name))?;
            }
        }
        Ok(())
    }

    fn is_given(&self, flag: &Flag) -> bool {
        self.matches.contains_id(flag.name)
            || (flag.kind == Kind::Boolean && self.matches.get_flag(&format!("no-{}", flag.name)))
    }

    fn flag(&self, name: &str) -> &'static Flag {
        FLAGS.iter().find(|flag| flag.name == name).expect("every name asked for is in the table")
    }

    fn texts(&self, name: &str) -> Vec<String> {
        match self.matches.get_many::<String>(name) {
            Some(values) => values.cloned().collect(),
            None => vec![self.flag(name).default.to_owned()],
        }
    }

    fn text(&self, name: &str) -> String {
        self.texts(name).pop().unwrap_or_default()
    }

    /// Values of a repeatable flag that are also lists themselves.
    fn list(&self, name: &str) -> Vec<String> {
        let texts = self.texts(name);
        let items = texts.iter().flat_map(|text| text.split(',')).map(|item| item.trim().to_owned());
        items.filter(|item| !item.is_empty()).collect()
    }

    fn boolean(&self, name: &str) -> bool {
        !self.matches.get_flag(&format!("no-{name}")) && self.text(name) == "true"
    }

    // The forms were checked before, so the fallbacks below are never reached.

    fn ms(&self, name: &str) -> i64 {
        parse_duration(&self.text(name)).unwrap_or(0)
    }

    fn given_ms(&self, name: &str) -> Option<i64> {
        let text = self.text(name);
        if text.is_empty() { None } else { parse_duration(&text).ok() }
    }

    fn duration(&self, name: &str) -> Duration {
        Duration::from_millis(self.ms(name).unsigned_abs())
    }

    fn size(&self, name: &str) -> usize {
        let bytes = parse_size(&self.text(name)).unwrap_or(0);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    fn positive_size(&self, name: &str) -> Result<usize, String> {
        match self.size(name) {
            0 => Err(format!("--{name}: must be more than 0")),
            bytes => Ok(bytes),
        }
    }

    /// With less than a few tables take, every other write would be turned away.
    fn memory_budget(&self) -> Result<usize, String> {
        match self.size("storage.memory-budget") {
            bytes @ MIN_MEMORY_BUDGET_BYTES.. => Ok(bytes),
            _ => {
                Err(format!("--storage.memory-budget: must be at least {}MB", MIN_MEMORY_BUDGET_BYTES >> 20))
            }
        }
    }

    fn count(&self, name: &str) -> usize {
        self.text(name).parse().unwrap_or(usize::MAX)
    }

    /// Each takes a stack, and more than there are cores only wait for each other.
    fn query_threads(&self) -> Result<usize, String> {
        match self.count("query.threads") {
            n @ 0..=MAX_QUERY_THREADS => Ok(n),
            n => Err(format!("--query.threads: {n} is more than the {MAX_QUERY_THREADS} that are of use")),
        }
    }

    fn positive(&self, name: &str) -> Result<usize, String> {
        match self.count(name) {
            0 => Err(format!("--{name}: must be at least 1")),
            n => Ok(n),
        }
    }

    fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, String> {
        let text = self.text(name);
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let hint = nearest(&text, words.iter().copied())
            .map(|meant| format!("; did you mean {meant:?}?"))
            .unwrap_or_default();
        Err(format!("--{name}: {text:?} is none of {}{hint}", words.join(", ")))
    }

    /// The prefix of all routes, from its flag or from the path of the external URL.
    fn route_prefix(&self, external_url: &str) -> Result<String, String> {
        let path = match external_url.split_once("://") {
            Some((scheme, rest)) => {
                if !matches!(scheme, "http" | "https") {
                    return Err(format!("--web.external-url: scheme {scheme:?} is neither http nor https"));
                }
                if rest.is_empty() || rest.starts_with('/') {
                    return Err(format!("--web.external-url: {external_url:?} has no host"));
                }
                rest.split_once('/').map_or("", |(_, path)| path)
            }
            None if external_url.is_empty() || external_url.starts_with('/') => external_url,
            None => {
                return Err(format!(
                    "--web.external-url: {external_url:?} starts with neither http:// nor https://"
                ));
            }
        };
        let prefix = match self.text("web.route-prefix") {
            text if text.is_empty() => path.to_owned(),
            text => text,
        };
        let trimmed = prefix.trim_matches('/');
        if trimmed.contains(['{', '}', '?', '#', ' ']) {
            return Err(format!("--web.route-prefix: {prefix:?} is not a path"));
        }
        Ok(if trimmed.is_empty() { String::new() } else { format!("/{trimmed}") })
    }

    fn shown(&self, flag: &Flag) -> String {
        match flag.kind {
            Kind::Boolean => self.boolean(flag.name).to_string(),
            Kind::Duration => match self.given_ms(flag.name) {
                Some(ms) => format_duration(ms),
                None => "0s".to_owned(),
            },
            _ => self.texts(flag.name).join(","),
        }
    }
}

/// The most that `--query.threads` may be.
const MAX_QUERY_THREADS: usize = 1024;

/// The least that `--storage.memory-budget` may be.
const MIN_MEMORY_BUDGET_BYTES: usize = 16 << 20;

fn positive_ms(name: &str, ms: i64) -> Result<i64, String> {
    if ms > 0 { Ok(ms) } else { Err(format!("--{name}: must be more than 0")) }
}

fn check_address(address: &str) -> Result<(), String> {
    let full = full_address(address);
    let port = full.rsplit_once(':').and_then(|(host, port)| {
        // A host that is not an address is looked up when the server listens.
        (!host.is_empty() && (full.parse::<SocketAddr>().is_ok() || !host.contains(':'))).then_some(port)
    });
    match port.map(str::parse::<u16>) {
        Some(Ok(_)) => Ok(()),
        _ => Err(format!("--web.listen-address: {address:?} is not host:port")),
    }
}

/// `:9090` means every interface.
pub fn full_address(address: &str) -> String {
    if address.starts_with(':') { format!("[::]{address}") } else { address.to_owned() }
}

/// The candidate that `word` was probably meant to be: at most a third of its letters differ.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let limit = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, remove, replace or swap with their neighbor (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Settings, String> {
        let args = ["chronolith"].iter().chain(args).map(|arg| (*arg).to_owned());
        parse(args).map_err(|error| match error {
            CliError::Usage(text) => text,
            CliError::Info(info) => info,
        })
    }

    #[test]
    fn defaults_are_prometheus_defaults_but_for_receiving() {
        let settings = run(&[]).unwrap();
        assert_eq!(settings.config_file, PathBuf::from("prometheus.yml"));
        assert_eq!(settings.listen_addresses, ["0.0.0.0:9090"]);
        assert_eq!(settings.query_timeout, Duration::from_secs(120));
        assert!(settings.enable_remote_write);
        assert!(!settings.enable_lifecycle);
        assert_eq!(settings.flags["query.lookback-delta"], "5m");
        assert!(settings.without_effect.is_empty());
    }

    #[test]
    fn booleans_have_their_negation() {
        assert!(run(&["--web.enable-lifecycle"]).unwrap().enable_lifecycle);
        assert!(!run(&["--no-web.enable-remote-write-receiver"]).unwrap().enable_remote_write);
        assert!(!run(&["--web.enable-lifecycle", "--no-web.enable-lifecycle"]).unwrap().enable_lifecycle);
    }

    #[test]
    fn help_shows_booleans_with_their_negation_and_the_others_with_their_values() {
        let help = run(&["--help"]).unwrap_err();
        assert!(help.contains("  --[no-]web.enable-lifecycle\n"), "{help}");
        assert!(help.contains("  --[no-]web.enable-remote-write-receiver\n"), "{help}");
        assert!(help.contains("  --web.listen-address <TEXT>\n"), "{help}");
        assert!(!help.contains("BOOL"), "{help}");
        // Flags without effect are listed by name.
        assert!(help.contains("--rules.alert.resend-delay"), "{help}");
    }

    #[test]
    fn the_version_names_revision_and_compiler() {
        let text = run(&["--version"]).unwrap_err();
        let start = format!("chronolith, version {} (branch: ", env!("CARGO_PKG_VERSION"));
        assert!(text.starts_with(&start), "{text}");
        assert!(text.contains("compiler:         rustc "), "{text}");
    }

    #[test]
    fn several_addresses_may_be_given() {
        let settings = run(&["--web.listen-address=127.0.0.1:1", "--web.listen-address", "[::1]:2"]).unwrap();
        assert_eq!(settings.listen_addresses, ["127.0.0.1:1", "[::1]:2"]);
        let text = run(&["--web.listen-address=127.0.0.1:1", "--web.listen-address=x"]).unwrap_err();
        assert!(text.contains("\"x\" is not host:port"), "{text}");
    }

    #[test]
    fn a_misspelt_flag_says_what_was_meant() {
        let text = run(&["--storge.tsdb.path=x"]).unwrap_err();
        assert!(text.contains("--storage.tsdb.path"), "{text}");
        let text = run(&["--log.level=inof"]).unwrap_err();
        assert!(text.contains("did you mean \"info\""), "{text}");
    }

    #[test]
    fn values_with_which_nothing_would_work_are_refused() {
        for (flag, reason) in [
            ("--storage.tsdb.path=", "must not be empty"),
            ("--config.file=", "must not be empty"),
            ("--storage.memory-budget=1KB", "must be at least 16MB"),
            ("--remote-write.max-request-size=0", "must be more than 0"),
            ("--query.max-memory=0", "must be more than 0"),
            ("--query.threads=100000", "100000 is more than the 1024"),
            ("--query.max-concurrency=0", "must be at least 1"),
            ("--query.timeout=0s", "must be more than 0"),
        ] {
            let text = run(&[flag]).unwrap_err();
            assert!(text.contains(reason), "{flag}: {text}");
        }
    }

    #[test]
    fn values_are_checked_for_flags_without_effect_too() {
        assert!(run(&["--rules.alert.resend-delay=soon"]).unwrap_err().contains("soon"));
        let settings = run(&["--rules.alert.resend-delay=5m"]).unwrap();
        assert_eq!(
            settings.without_effect,
            [("rules.alert.resend-delay", "this version evaluates no rules")]
        );
    }

    #[test]
    fn what_must_not_be_ignored_is_refused() {
        assert!(run(&["--web.config.file=web.yml"]).unwrap_err().contains("TLS"));
        assert!(run(&["--agent"]).is_err());
        assert!(run(&["--no-agent"]).is_ok());
    }

    #[test]
    fn the_route_prefix_comes_from_the_external_url() {
        let prefix = |args: &[&str]| run(args).map(|settings| settings.route_prefix);
        assert_eq!(prefix(&["--web.external-url=https://x.y/a/b/"]).as_deref(), Ok("/a/b"));
        assert_eq!(prefix(&["--web.external-url=https://x.y/a", "--web.route-prefix=/"]).as_deref(), Ok(""));
        assert_eq!(prefix(&["--web.route-prefix=prom/"]).as_deref(), Ok("/prom"));
        assert!(prefix(&["--web.external-url=ftp://x"]).is_err());
    }

    #[test]
    fn addresses_need_a_port() {
        for good in ["127.0.0.1:9090", ":9090", "[::1]:0", "localhost:80"] {
            assert!(run(&[&format!("--web.listen-address={good}")]).is_ok(), "{good}");
        }
        for bad in ["127.0.0.1", "x:y", "1:2:3", "[::1]"] {
            assert!(run(&[&format!("--web.listen-address={bad}")]).is_err(), "{bad}");
        }
    }

    #[test]
    fn nearest_tolerates_few_mistakes_only() {
        assert_eq!(nearest("scrape_intervall", ["scrape_interval", "scheme"]), Some("scrape_interval"));
        assert_eq!(nearest("consult_sd_configs", ["consul_sd_configs"]), Some("consul_sd_configs"));
        assert_eq!(nearest("tariff", ["scheme"]), None);
    }
}
