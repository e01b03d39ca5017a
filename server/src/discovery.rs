//! Where targets come from. In this version: from `static_configs`.

use crate::config::ScrapeConfig;
use std::collections::BTreeMap;

/// The label that holds a target's address, `host:port`.
pub const ADDRESS_LABEL: &str = "__address__";

/// Targets that were found together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Names the group in errors.
    pub source: String,
    /// Labels of each target; they take precedence over those of the group.
    pub targets: Vec<BTreeMap<String, String>>,
    /// Labels of all targets.
    pub labels: BTreeMap<String, String>,
}

/// The groups of `static_configs`.
pub fn static_groups(config: &ScrapeConfig) -> Vec<Group> {
    let group = |(i, group): (usize, &crate::config::TargetGroup)| Group {
        source: i.to_string(),
        targets: group
            .targets
            .iter()
            .map(|address| BTreeMap::from([(ADDRESS_LABEL.to_owned(), address.clone())]))
            .collect(),
        labels: group.labels.clone(),
    };
    config.static_configs.iter().enumerate().map(group).collect()
}
