//! A target: its labels before and after relabelling, its address, and how it is doing.
//!
//! Source: Prometheus v3.14, `scrape/target.go`.

use crate::config::ScrapeConfig;
use crate::discovery::ADDRESS_LABEL;
use crate::relabel;
use crate::targets::{Health, TargetStatus};
use chronolith_model::Labels;
use chronolith_model::append::{Metadata, MetricType};
use chronolith_model::duration::{format_duration, parse_duration};
use chronolith_model::labels::LabelsBuilder;
use chronolith_wire::exposition::protobuf::Histograms;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use xxhash_rust::xxh3::xxh3_64;

const SCHEME_LABEL: &str = "__scheme__";
const METRICS_PATH_LABEL: &str = "__metrics_path__";
const INTERVAL_LABEL: &str = "__scrape_interval__";
const TIMEOUT_LABEL: &str = "__scrape_timeout__";
const UNIX_SOCKET_LABEL: &str = "__unix_socket__";
const PARAM_PREFIX: &str = "__param_";
const META_PREFIX: &str = "__meta_";
const RESERVED_PREFIX: &str = "__";
const BOOLEAN_LABELS: [(&str, &str); 3] = [
    ("__convert_classic_histograms_to_nhcb__", "convert classic histograms to nhcb"),
    ("__always_scrape_classic_histograms__", "always scrape classic histograms"),
    ("__scrape_native_histograms__", "scrape native histograms"),
];

/// Metadata of a family that is no longer exposed is kept for this many scrapes.
const METADATA_SCRAPES: u64 = 10;

/// What [`Target::populate`] makes of a discovered target.
#[derive(Debug)]
pub(super) enum Populated {
    Active(Box<Target>),
    /// Relabelling drops it; its labels before that.
    Dropped(BTreeMap<String, String>),
}

/// One address that is scraped.
#[derive(Debug)]
pub(super) struct Target {
    /// All labels after relabelling, internal ones included. They tell targets apart.
    pub labels: Labels,
    /// The labels that series get: those that do not begin with `__`.
    pub public_labels: Labels,
    pub url: String,
    pub interval_ms: i64,
    pub timeout_ms: i64,
    pub unix_socket: Option<String>,
    /// What is made of its histograms.
    pub histograms: Histograms,
    state: Mutex<State>,
    metadata: Mutex<HashMap<String, MetadataEntry>>,
}

#[derive(Debug)]
struct State {
    discovered_labels: BTreeMap<String, String>,
    health: Health,
    last_error: String,
    last_scrape_ms: i64,
    last_scrape_duration_s: f64,
}

#[derive(Debug, Default)]
struct MetadataEntry {
    metadata: Metadata,
    last_seen: u64,
    /// Since it was last handed to storage.
    is_changed: bool,
}

impl Target {
    /// Relabels a discovered target and checks what comes out.
    ///
    /// # Errors
    /// Why it cannot be scraped, in words for the log.
    pub fn populate(
        config: &ScrapeConfig,
        target_labels: &BTreeMap<String, String>,
        group_labels: &BTreeMap<String, String>,
    ) -> Result<Populated, String> {
        let discovered = discovered_labels(config, target_labels, group_labels);
        let mut labels = LabelsBuilder::new();
        for (name, value) in &discovered {
            labels.set(name, value);
        }
        if !relabel::apply(&config.relabel_configs, &mut labels) {
            return Ok(Populated::Dropped(discovered));
        }
        let value = |name| labels.get(name).unwrap_or("").to_owned();
        let unix_socket = Some(value(UNIX_SOCKET_LABEL)).filter(|path| !path.is_empty());
        let address = value(ADDRESS_LABEL);
        if address.is_empty() {
            return Err("no address".to_owned());
        }
        if address.contains('/') {
            return Err(format!("{address:?} is not a valid hostname"));
        }
        let interval_ms = duration(&value(INTERVAL_LABEL), "scrape interval")?;
        let timeout_ms = duration(&value(TIMEOUT_LABEL), "scrape timeout")?;
        if timeout_ms > interval_ms {
            return Err(format!(
                "scrape timeout cannot be greater than scrape interval ({:?} > {:?})",
                value(TIMEOUT_LABEL),
                value(INTERVAL_LABEL)
            ));
        }
        let mut booleans = [None; BOOLEAN_LABELS.len()];
        for ((name, what), boolean) in BOOLEAN_LABELS.into_iter().zip(&mut booleans) {
            let text = value(name);
            *boolean = parse_boolean(&text);
            if !text.is_empty() && boolean.is_none() {
                return Err(format!("error parsing {what}: {text:?} is neither true nor false"));
            }
        }
        labels.retain(|name, _| !name.starts_with(META_PREFIX));
        if labels.get("instance").is_none() {
            labels.set("instance", &address);
        }
        let labels = labels.build();
        let mut public_labels = labels.to_builder();
        public_labels.retain(|name, _| !name.starts_with(RESERVED_PREFIX));
        let state = State {
            discovered_labels: discovered,
            health: Health::Unknown,
            last_error: String::new(),
            last_scrape_ms: 0,
            last_scrape_duration_s: 0.0,
        };
        Ok(Populated::Active(Box::new(Self {
            url: url(config, &labels),
            public_labels: public_labels.build(),
            labels,
            interval_ms,
            timeout_ms,
            unix_socket,
            histograms: Histograms {
                convert_classic: booleans[0].unwrap_or(config.convert_classic_histograms_to_nhcb),
                classic_too: booleans[1].unwrap_or(config.always_scrape_classic_histograms),
                native: booleans[2].unwrap_or(config.scrape_native_histograms),
            },
            state: Mutex::new(state),
            metadata: Mutex::default(),
        })))
    }

    /// A number that is the same for the same target at any time.
    pub fn hash(&self) -> u64 {
        xxh3_64(format!("{}\n{}", self.labels, self.url).as_bytes())
    }

    /// Takes over what discovery now says about a target that is otherwise the same.
    pub fn rediscovered(&self, other: &Self) {
        let discovered_labels = other.state.lock().discovered_labels.clone();
        self.state.lock().discovered_labels = discovered_labels;
    }

    /// Notes how a scrape went.
    pub fn report(&self, last_scrape_ms: i64, duration_s: f64, error: Option<String>) {
        let mut state = self.state.lock();
        state.health = if error.is_none() { Health::Up } else { Health::Down };
        state.last_error = error.unwrap_or_default();
        state.last_scrape_ms = last_scrape_ms;
        state.last_scrape_duration_s = duration_s;
    }

    pub fn status(&self) -> TargetStatus {
        let state = self.state.lock();
        TargetStatus {
            discovered_labels: state.discovered_labels.clone(),
            labels: self.public_labels.clone(),
            scrape_url: self.url.clone(),
            last_error: state.last_error.clone(),
            last_scrape_ms: state.last_scrape_ms,
            last_scrape_duration_s: state.last_scrape_duration_s,
            health: state.health,
            interval_ms: self.interval_ms,
            timeout_ms: self.timeout_ms,
            metadata: self.metadata(),
        }
    }

    /// Notes the type of a family, seen in scrape number `iteration`.
    pub fn see_type(&self, family: &str, metric_type: MetricType, iteration: u64) {
        self.see(family, iteration, |metadata| {
            std::mem::replace(&mut metadata.metric_type, metric_type) != metric_type
        });
    }

    /// Notes the help text of a family.
    pub fn see_help(&self, family: &str, help: &str, iteration: u64) {
        self.see(family, iteration, |metadata| replace_text(&mut metadata.help, help));
    }

    /// Notes the unit of a family.
    pub fn see_unit(&self, family: &str, unit: &str, iteration: u64) {
        self.see(family, iteration, |metadata| replace_text(&mut metadata.unit, unit));
    }

    fn see(&self, family: &str, iteration: u64, update: impl FnOnce(&mut Metadata) -> bool) {
        let mut families = self.metadata.lock();
        if !families.contains_key(family) {
            families.insert(family.to_owned(), MetadataEntry { is_changed: true, ..Default::default() });
        }
        let entry = families.get_mut(family).expect("the family was put there if it was missing");
        entry.last_seen = iteration;
        entry.is_changed |= update(&mut entry.metadata);
    }

    /// Metadata that storage has not got yet, which it now gets.
    pub fn take_changed_metadata(&self) -> Vec<(String, Metadata)> {
        let mut families = self.metadata.lock();
        let changed = families.iter_mut().filter_map(|(family, entry)| {
            std::mem::take(&mut entry.is_changed).then(|| (family.clone(), entry.metadata.clone()))
        });
        changed.collect()
    }

    /// Storage did not take it: it gets all of it again.
    pub fn give_back_metadata(&self) {
        self.metadata.lock().values_mut().for_each(|entry| entry.is_changed = true);
    }

    /// Forgets families that have not been exposed for a while.
    pub fn sweep_metadata(&self, iteration: u64) {
        self.metadata.lock().retain(|_, entry| iteration.saturating_sub(entry.last_seen) <= METADATA_SCRAPES);
    }

    /// All metadata of the target, sorted by family.
    pub fn metadata(&self) -> Vec<(String, Metadata)> {
        let families = self.metadata.lock();
        let all = families.iter().map(|(family, entry)| (family.clone(), entry.metadata.clone()));
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

fn replace_text(field: &mut String, text: &str) -> bool {
    if field == text {
        return false;
    }
    text.clone_into(field);
    true
}

fn duration(text: &str, what: &str) -> Result<i64, String> {
    match parse_duration(text) {
        Ok(0) => Err(format!("{what} cannot be 0")),
        Ok(ms) => Ok(ms),
        Err(error) => Err(format!("error parsing {what}: {error}")),
    }
}

/// What Go's `strconv.ParseBool` takes.
fn parse_boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Labels before relabelling: of the target, of its group, and what the configuration says.
fn discovered_labels(
    config: &ScrapeConfig,
    target_labels: &BTreeMap<String, String>,
    group_labels: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut labels = target_labels.clone();
    for (name, value) in group_labels {
        labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    labels.retain(|_, value| !value.is_empty());
    let defaults = [
        ("job", config.job_name.clone()),
        (INTERVAL_LABEL, format_duration(config.scrape_interval_ms)),
        (TIMEOUT_LABEL, format_duration(config.scrape_timeout_ms)),
        (METRICS_PATH_LABEL, config.metrics_path.clone()),
        (SCHEME_LABEL, config.scheme.clone()),
        (BOOLEAN_LABELS[0].0, config.convert_classic_histograms_to_nhcb.to_string()),
        (BOOLEAN_LABELS[1].0, config.always_scrape_classic_histograms.to_string()),
        (BOOLEAN_LABELS[2].0, config.scrape_native_histograms.to_string()),
    ];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value));
    let parameters = config
        .params
        .iter()
        .filter_map(|(name, values)| Some((format!("{PARAM_PREFIX}{name}"), values.first()?.clone())));
    for (name, value) in defaults.into_iter().chain(parameters) {
        if !value.is_empty() {
            labels.entry(name).or_insert(value);
        }
    }
    labels
}

/// What is fetched. `__param_<name>` labels replace the first value of a parameter.
fn url(config: &ScrapeConfig, labels: &Labels) -> String {
    let mut parameters = config.params.clone();
    for (label, value) in labels.iter() {
        if let Some(name) = label.strip_prefix(PARAM_PREFIX) {
            let values = parameters.entry(name.to_owned()).or_default();
            match values.first_mut() {
                Some(first) => value.clone_into(first),
                None => values.push(value.to_owned()),
            }
        }
    }
    let label = |name| labels.get(name).unwrap_or("");
    let mut url = format!("{}://{}", label(SCHEME_LABEL), label(ADDRESS_LABEL));
    let path = label(METRICS_PATH_LABEL);
    if !path.is_empty() && !path.starts_with('/') {
        url.push('/');
    }
    // What Go leaves as it is in the path of a URL.
    escape(&mut url, path, b"-_.~/$&+,:;=@");
    let mut separator = '?';
    for (name, values) in &parameters {
        for value in values {
            url.push(separator);
            escape(&mut url, name, b"-_.~ ");
            url.push('=');
            escape(&mut url, value, b"-_.~ ");
            separator = '&';
        }
    }
    url
}

/// Percent-encodes all but letters, digits and `plain`; a space that is plain becomes `+`.
fn escape(out: &mut String, text: &str, plain: &[u8]) {
    for byte in text.bytes() {
        match byte {
            b' ' if plain.contains(&b' ') => out.push('+'),
            _ if byte.is_ascii_alphanumeric() || plain.contains(&byte) => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a string does not fail"),
        }
    }
}
