//! The targets of one job, and a loop for each of them.
//!
//! Source: Prometheus v3.14, `scrape/scrape.go`, `scrapePool`.

use super::Appender;
use super::client::{self, Client};
use super::failure_log::FailureLog;
use super::metrics::ScrapeMetrics;
use super::scrape_loop::{self, LoopContext, LoopHandle, PoolSettings};
use super::target::{Populated, Target};
use crate::config::ScrapeConfig;
use crate::discovery::{self, Group};
use crate::targets::{DroppedTarget, PoolStatus};
use arc_swap::ArcSwap;
use chronolith_model::Labels;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// What all pools share.
#[derive(Clone)]
pub(super) struct Shared {
    pub appender: Arc<dyn Appender>,
    pub metrics: ScrapeMetrics,
    pub offset_seed: u64,
    pub shutdown: watch::Receiver<bool>,
    pub alive: mpsc::Sender<()>,
}

/// A pool that is ready to run; making one may fail, running it does not.
pub(super) struct PreparedPool {
    config: Arc<ScrapeConfig>,
    client: Client,
    failure_log: Option<Arc<FailureLog>>,
}

impl PreparedPool {
    /// # Errors
    /// What of the configuration cannot be used.
    pub fn new(config: Arc<ScrapeConfig>) -> Result<Self, String> {
        let client = Client::new(&config, None)
            .map_err(|reason| format!("scrape config of job {:?}: {reason}", config.job_name))?;
        let failure_log = match &config.scrape_failure_log_file {
            Some(path) => Some(Arc::new(FailureLog::open(path, &config.job_name)?)),
            None => None,
        };
        Ok(Self { config, client, failure_log })
    }

    pub fn job_name(&self) -> &str {
        &self.config.job_name
    }
}

pub(super) struct Pool {
    settings: Arc<ArcSwap<PoolSettings>>,
    /// By all labels of the target.
    loops: HashMap<Labels, LoopHandle>,
    dropped: Vec<BTreeMap<String, String>>,
    n_dropped: usize,
}

impl Pool {
    /// A pool with its loops running.
    pub fn start(prepared: PreparedPool, shared: &Shared) -> Self {
        let settings = PoolSettings {
            refusal: client::unsupported(&prepared.config),
            config: prepared.config,
            client: prepared.client,
            failure_log: prepared.failure_log,
            rules: 0,
        };
        let mut pool = Self {
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            loops: HashMap::new(),
            dropped: Vec::new(),
            n_dropped: 0,
        };
        pool.sync(shared);
        pool
    }

    /// Goes on under another configuration: targets that stay keep their loops.
    pub fn reload(&mut self, prepared: PreparedPool, shared: &Shared) {
        let before = self.settings.load_full();
        let is_changed = rules_of(&before.config) != rules_of(&prepared.config);
        self.settings.store(Arc::new(PoolSettings {
            refusal: client::unsupported(&prepared.config),
            config: prepared.config,
            client: prepared.client,
            failure_log: prepared.failure_log,
            rules: before.rules + u64::from(is_changed),
        }));
        self.sync(shared);
    }

    fn sync(&mut self, shared: &Shared) {
        let settings = self.settings.load_full();
        let config = &settings.config;
        let Found { active, dropped, n_dropped } = find(config, &discovery::static_groups(config));
        (self.dropped, self.n_dropped) = (dropped, n_dropped);
        self.refuse_if_too_many(&settings, active.len(), shared);
        let n_discovered = active.len() + n_dropped;
        self.loops.retain(|labels, _| active.contains_key(labels));
        for (labels, target) in active {
            if let Some(running) = self.loops.get(&labels) {
                running.target.rediscovered(&target);
                continue;
            }
            let context = LoopContext {
                target: Arc::new(target),
                settings: Arc::clone(&self.settings),
                appender: Arc::clone(&shared.appender),
                metrics: shared.metrics.clone(),
                offset_seed: shared.offset_seed,
                shutdown: shared.shutdown.clone(),
                alive: shared.alive.clone(),
            };
            self.loops.insert(labels, scrape_loop::start(context));
        }
        shared.metrics.pool_targets(&config.job_name).set(self.loops.len() as f64);
        shared.metrics.discovered_targets(&config.job_name).set(n_discovered as f64);
    }

    fn refuse_if_too_many(&self, settings: &PoolSettings, n_targets: usize, shared: &Shared) {
        let limit = settings.config.limits.targets;
        if limit == 0 || n_targets as u64 <= limit {
            return;
        }
        shared.metrics.exceeded_target_limit.inc();
        let reason = format!("target_limit exceeded (number of targets: {n_targets}, limit: {limit})");
        self.settings.rcu(|settings| PoolSettings {
            config: Arc::clone(&settings.config),
            client: settings.client.clone(),
            failure_log: settings.failure_log.clone(),
            rules: settings.rules,
            refusal: Some(reason.clone()),
        });
    }

    pub fn status(&self) -> PoolStatus {
        let config = &self.settings.load().config;
        let mut active: Vec<_> = self.loops.values().map(|running| running.target.status()).collect();
        active.sort_by(|a, b| a.scrape_url.cmp(&b.scrape_url).then_with(|| a.labels.cmp(&b.labels)));
        let dropped = self.dropped.iter().cloned();
        PoolStatus {
            name: config.job_name.clone(),
            active,
            dropped: dropped.map(|discovered_labels| DroppedTarget { discovered_labels }).collect(),
            n_dropped: self.n_dropped,
            yaml: config.yaml.clone(),
        }
    }
}

/// What labels a body's series get: if this changes, what a cache knows is void.
fn rules_of(config: &ScrapeConfig) -> String {
    format!(
        "{} {:?} {:?} {} {} {} {:?}",
        config.honor_labels,
        config.metric_relabel_configs,
        config.name_validation,
        config.limits.labels,
        config.limits.label_name_length,
        config.limits.label_value_length,
        config.name_escaping,
    )
}

/// What discovery and relabelling come to.
struct Found {
    active: HashMap<Labels, Target>,
    dropped: Vec<BTreeMap<String, String>>,
    n_dropped: usize,
}

fn find(config: &ScrapeConfig, groups: &[Group]) -> Found {
    let mut found = Found { active: HashMap::new(), dropped: Vec::new(), n_dropped: 0 };
    let n_kept = match config.limits.dropped_targets_kept {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    for group in groups {
        for (i, labels) in group.targets.iter().enumerate() {
            match Target::populate(config, labels, &group.labels) {
                Ok(Populated::Active(target)) => {
                    found.active.insert(target.labels.clone(), *target);
                }
                Ok(Populated::Dropped(labels)) => {
                    found.n_dropped += 1;
                    if found.dropped.len() < n_kept {
                        found.dropped.push(labels);
                    }
                }
                Err(error) => tracing::error!(
                    scrape_pool = config.job_name,
                    %error,
                    "Creating target failed: instance {i} in group {}",
                    group.source
                ),
            }
        }
    }
    found
}
