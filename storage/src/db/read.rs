//! What the store serves: pinned versions, exemplars and metadata.

use super::Inner;
use crate::error::StorageError;
use crate::kv::pins::BlockPin;
use crate::metrics::Cardinality;
use crate::part::Part;
use crate::read::Bounds;
use chronolith_model::append::{Exemplar, Metadata};
use chronolith_model::queryable::{HistogramNeed, ReadError, Select, Snapshot, Unlimited};
use chronolith_model::symbols::{Symbol, SymbolTable};
use chronolith_model::{Labels, Matcher};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Inner {
    /// All parts there are now, tables first.
    fn parts(&self) -> Vec<Arc<dyn Part>> {
        self.pinned().0
    }

    /// All parts and the blocks among them.
    fn pinned(&self) -> (Vec<Arc<dyn Part>>, Vec<Arc<BlockPin>>) {
        // Tables before blocks: a table that is sealed in between is then seen twice, which reads
        // resolve, and never missed.
        let mut parts = self.tables.pins();
        let version = self.version.load();
        parts.extend(version.parts());
        (parts, version.pins().collect())
    }

    pub fn pin(&self) -> Result<Arc<dyn Snapshot>, ReadError> {
        if self.interrupts.is_stopped() {
            return Err(StorageError::Closed.into());
        }
        let (parts, pins) = self.pinned();
        let lease = self.leases.grant(pins);
        let oldest = self.oldest(&parts);
        self.changes.note_gone(oldest);
        let lists = Arc::clone(&self.lists);
        let bounds = Bounds { oldest, lease: Some(lease), warnings: self.warnings(), lists };
        Ok(crate::read::snapshot(parts, bounds))
    }

    /// What is older than retention allows, measured from the greatest timestamp in `parts`, is not shown:
    /// the block that holds it may go at any time.
    fn oldest(&self, parts: &[Arc<dyn Part>]) -> i64 {
        let retention = self.retention_time_ms.load(Ordering::Relaxed);
        let newest = parts.iter().filter_map(|part| part.time_range()).map(|range| range.1).max();
        match newest {
            Some(newest) if retention > 0 => newest.saturating_sub(retention),
            _ => i64::MIN,
        }
    }

    /// What cannot be served, in words.
    fn warnings(&self) -> Vec<String> {
        let lost = self.quarantine.lost();
        let text = |loss: crate::metrics::LostRange| match loss.range {
            Some((mint, maxt)) => {
                format!("samples from {mint} to {maxt} ms may be missing: {} is damaged", loss.what)
            }
            None => format!("samples may be missing: {} is damaged", loss.what),
        };
        lost.into_iter().map(text).collect()
    }

    /// First and last timestamp stored.
    pub fn time_range(&self) -> Option<(i64, i64)> {
        let ranges = self.tables.pins().into_iter().filter_map(|part| part.time_range());
        ranges.chain(self.version.load().time_range()).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Exemplars of `[mint, maxt]` of series for which all matchers of any set hold, by labels, then by
    /// time; each once.
    pub fn exemplars(
        &self,
        matcher_sets: &[Vec<Matcher>],
        mint: i64,
        maxt: i64,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>, StorageError> {
        let parts = self.parts();
        let mint = mint.max(self.oldest(&parts));
        crate::read::exemplars(&parts, matcher_sets, mint, maxt, &Unlimited::default())
    }

    /// Metadata by metric family name: of all families, or of one. What was written last comes first.
    pub fn metadata(&self, metric: Option<&str>) -> Vec<(String, Vec<Metadata>)> {
        let mut families: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
        let mut add = |name: &str, metadata: &Metadata| {
            if metric.is_none_or(|metric| metric == name) {
                let known = families.entry(name.to_owned()).or_default();
                if !known.contains(metadata) {
                    known.push(metadata.clone());
                }
            }
        };
        for (name, all) in self.tables.metadata() {
            all.iter().for_each(|metadata| add(&name, metadata));
        }
        let mut blocks = self.version.load().blocks.clone();
        blocks.sort_by_key(|block| std::cmp::Reverse(block.header.seq_max));
        for block in blocks {
            // A damaged block does not hide what the others know.
            if let Err(error) = block.part.metadata(&mut add) {
                tracing::warn!(block = %block.id(), %error, "cannot read metadata");
            }
        }
        families.into_iter().collect()
    }

    /// Where the series in memory are; at most `limit` entries a list.
    pub fn cardinality(&self, limit: usize) -> Result<Cardinality, ReadError> {
        let context = Unlimited::default();
        let tables = crate::read::snapshot(self.tables.pins(), Bounds::default());
        let select = Select {
            values: false,
            histograms: HistogramNeed::None,
            ..Select::whole(&[], i64::MIN, i64::MAX)
        };
        let series = tables.select(&select, &context)?;
        let mut pairs: HashMap<(Symbol, Symbol), u64> = HashMap::new();
        for index in 0..series.len() {
            for &pair in series.labels(index) {
                *pairs.entry(pair).or_default() += 1;
            }
        }
        Ok(rank(&pairs, chronolith_model::queryable::QueryContext::symbols(&context), limit))
    }
}

fn rank(pairs: &HashMap<(Symbol, Symbol), u64>, symbols: &SymbolTable, limit: usize) -> Cardinality {
    let metric_name = symbols.get(chronolith_model::labels::METRIC_NAME);
    let mut values: HashMap<Symbol, (u64, u64)> = HashMap::new();
    symbols.with_strings(|strings| {
        let text = |symbol: Symbol| strings[symbol.0 as usize].to_string();
        for &(name, value) in pairs.keys() {
            let entry = values.entry(name).or_default();
            entry.0 += 1;
            entry.1 += strings[value.0 as usize].len() as u64;
        }
        let of_metrics = pairs.iter().filter(|((name, _), _)| Some(*name) == metric_name);
        Cardinality {
            series_by_metric: top(of_metrics.map(|((_, value), &n)| (*value, n)), limit, text),
            values_by_label: top(values.iter().map(|(&name, &(n, _))| (name, n)), limit, text),
            bytes_by_label: top(values.iter().map(|(&name, &(_, bytes))| (name, bytes)), limit, text),
            series_by_pair: top(pairs.iter().map(|(&pair, &n)| (pair, n)), limit, |(name, value)| {
                format!("{}={}", text(name), text(value))
            }),
        }
    })
}

/// The greatest counts, equal ones by text.
fn top<K: Copy>(
    counts: impl Iterator<Item = (K, u64)>,
    limit: usize,
    text: impl Fn(K) -> String,
) -> Vec<(String, u64)> {
    let mut counts: Vec<(K, u64)> = counts.collect();
    counts.sort_unstable_by_key(|&(_, n)| std::cmp::Reverse(n));
    // Texts are made only for what may be among the first, ties included.
    let least = counts.get(limit.saturating_sub(1)).map_or(0, |&(_, n)| n);
    let mut named: Vec<(String, u64)> =
        counts.into_iter().take_while(|&(_, n)| n >= least).map(|(key, n)| (text(key), n)).collect();
    named.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    named.truncate(limit);
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_counts_come_first_and_ties_by_name() {
        let symbols = SymbolTable::new();
        let mut pairs = HashMap::new();
        for (name, value, n) in
            [("__name__", "b", 2), ("__name__", "a", 2), ("__name__", "c", 5), ("job", "longer", 9)]
        {
            pairs.insert((symbols.intern(name), symbols.intern(value)), n);
        }
        let cardinality = rank(&pairs, &symbols, 2);
        assert_eq!(cardinality.series_by_metric, [("c".into(), 5), ("a".into(), 2)]);
        assert_eq!(cardinality.values_by_label, [("__name__".into(), 3), ("job".into(), 1)]);
        assert_eq!(cardinality.bytes_by_label, [("job".into(), 6), ("__name__".into(), 3)]);
        assert_eq!(cardinality.series_by_pair, [("job=longer".into(), 9), ("__name__=c".into(), 5)]);
    }
}
