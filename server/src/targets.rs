//! What scraping reports about its targets: the API shows it, scraping fills it in.

use crate::config::Config;
use chronolith_model::Labels;
use chronolith_model::append::Metadata;
use std::collections::BTreeMap;
use std::pin::Pin;

/// The targets of one scrape config.
#[derive(Clone, Debug, Default)]
pub struct PoolStatus {
    /// `job_name`
    pub name: String,
    /// Targets that are scraped, in the order in which they were discovered.
    pub active: Vec<TargetStatus>,
    /// Targets that relabelling dropped, as many as are remembered.
    pub dropped: Vec<DroppedTarget>,
    /// How many relabelling dropped.
    pub n_dropped: usize,
    /// The scrape config as YAML, secrets hidden.
    pub yaml: String,
}

/// A target that is scraped.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    /// Labels before relabelling.
    pub discovered_labels: BTreeMap<String, String>,
    /// Labels that its series get.
    pub labels: Labels,
    /// What is fetched.
    pub scrape_url: String,
    /// Why the last scrape failed; empty if it did not.
    pub last_error: String,
    /// When the last scrape began, milliseconds since the epoch; 0 if there was none.
    pub last_scrape_ms: i64,
    /// How long it took.
    pub last_scrape_duration_s: f64,
    /// How the last scrape went.
    pub health: Health,
    /// Time between scrapes.
    pub interval_ms: i64,
    /// Longest time of a scrape.
    pub timeout_ms: i64,
    /// What the target tells about its metrics, by family name.
    pub metadata: Vec<(String, Metadata)>,
}

/// A target that relabelling dropped.
#[derive(Clone, Debug, Default)]
pub struct DroppedTarget {
    /// Labels before relabelling.
    pub discovered_labels: BTreeMap<String, String>,
}

/// How the last scrape went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Not scraped yet.
    #[default]
    Unknown,
    /// Well.
    Up,
    /// It failed.
    Down,
}

impl Health {
    /// The word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Scraping, as the rest of the server sees it.
pub trait Scraping: Send + Sync {
    /// Takes a configuration, all or nothing.
    ///
    /// # Errors
    /// Why it cannot be taken; the one before stays in force.
    fn apply(&self, config: &Config) -> Result<(), String>;
    /// The targets of all scrape pools, sorted by job name.
    fn pools(&self) -> Vec<PoolStatus>;
    /// Stops scraping; done when no scrape runs any more.
    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}
