//! From the keys of a batch to handles: hash all, look all up, and only for those not found decode,
//! check and canonicalise labels.

use super::Registry;
use super::hasher::{Hash128, SeriesHasher};
use chronolith_model::append::{AppendBatch, InvalidLabels, SeriesKey, SeriesRef};
use chronolith_model::labels::{DuplicateLabel, METRIC_NAME, write_labels};

/// What labels of a series may measure.
#[derive(Clone, Copy, Debug)]
pub struct LabelLimits {
    /// Labels with a value.
    pub max_labels: usize,
    /// Bytes of a name.
    pub max_name_bytes: usize,
    /// Bytes of a value.
    pub max_value_bytes: usize,
}

/// Handles of the series of a batch.
#[derive(Default)]
pub struct Resolved {
    /// In the order of the batch; `None` where labels were refused.
    pub series: Vec<Option<SeriesRef>>,
    /// What was refused: position in the batch and why, ascending.
    pub refused: Vec<(usize, InvalidLabels)>,
    /// Series that were created.
    pub n_created: u64,
}

impl Registry {
    /// Handles for all series of a batch. Those of [`SeriesKey::Ref`] and [`SeriesKey::Handle`] are taken as they are: whether
    /// they are still valid shows when they are used.
    pub fn resolve(&self, batch: &AppendBatch<'_>) -> Resolved {
        let handles = batch.series.iter().map(|series| match series.key {
            SeriesKey::Handle(handle) => Some(Some(handle)),
            _ => None,
        });
        if let Some(series) = handles.collect() {
            return Resolved { series, ..Resolved::default() };
        }
        let keys = self.hash_keys(batch);
        let mut resolved = Resolved::default();
        self.aliases.resolve(&keys, &mut resolved.series);
        let mut new = Vec::new();
        for (index, series) in batch.series.iter().enumerate() {
            if resolved.series[index].is_some() {
                continue;
            }
            if let SeriesKey::Ref(handle, _) | SeriesKey::Handle(handle) = series.key {
                resolved.series[index] = Some(handle);
                continue;
            }
            match self.resolve_labels(series.key, batch) {
                Ok((handle, created)) => {
                    resolved.series[index] = Some(handle);
                    resolved.n_created += u64::from(created);
                    new.extend(keys[index].map(|hash| (hash, handle)));
                }
                Err(error) => resolved.refused.push((index, error)),
            }
        }
        if !new.is_empty() {
            self.aliases.insert(&new, self.len());
        }
        resolved
    }

    /// The hash of each key that may have an alias.
    fn hash_keys(&self, batch: &AppendBatch<'_>) -> Vec<Option<Hash128>> {
        let symbols: Vec<Hash128> =
            batch.symbols.iter().map(|text| self.hasher.bytes(text.as_bytes())).collect();
        let hash = |key: SeriesKey<'_>| match key {
            SeriesKey::Encoded(bytes) => Some(self.hasher.bytes(bytes)),
            SeriesKey::Symbols(numbers) => {
                let mut all_known = true;
                let hashes = numbers.iter().map(|&number| {
                    symbols.get(number as usize).copied().unwrap_or_else(|| {
                        all_known = false;
                        [0; 2]
                    })
                });
                // Encoded bytes, which may hold whatever a sender likes, meet none of these but by chance.
                let hash = SeriesHasher::combine(hashes);
                all_known.then_some(hash)
            }
            SeriesKey::Labels(_) | SeriesKey::Ref(..) | SeriesKey::Handle(_) => None,
        };
        batch.series.iter().map(|series| series.key).map(hash).collect()
    }

    /// The handle of a series by its labels, created if need be; whether it was.
    ///
    /// # Errors
    /// [`InvalidLabels`] if the labels are none or over a limit.
    pub fn resolve_labels(
        &self,
        key: SeriesKey<'_>,
        batch: &AppendBatch<'_>,
    ) -> Result<(SeriesRef, bool), InvalidLabels> {
        let mut labels = Vec::new();
        decode(key, batch, &mut labels)?;
        canonicalise(&mut labels)?;
        self.limits.check(&labels)?;
        self.get_or_create(&labels)
    }
}

/// The labels of a key as text, for messages; empty if they do not decode.
pub fn key_text(key: SeriesKey<'_>, batch: &AppendBatch<'_>) -> String {
    let mut labels = Vec::new();
    let mut text = String::new();
    if decode(key, batch, &mut labels).is_ok() {
        write_labels(&mut text, labels.into_iter()).expect("a string takes any text");
    }
    text
}

fn decode<'a>(
    key: SeriesKey<'a>,
    batch: &AppendBatch<'a>,
    labels: &mut Vec<(&'a str, &'a str)>,
) -> Result<(), InvalidLabels> {
    match key {
        SeriesKey::Encoded(bytes) => (batch.decode)(bytes, labels),
        SeriesKey::Symbols(numbers) => {
            let text = |number: u32| {
                let n_symbols = batch.symbols.len();
                let text = batch.symbols.get(number as usize);
                text.copied().ok_or(InvalidLabels::SymbolOutOfRange { number, n_symbols })
            };
            let (pairs, rest) = numbers.as_chunks::<2>();
            if !rest.is_empty() {
                return Err(InvalidLabels::Encoding("an odd number of symbols"));
            }
            for &[name, value] in pairs {
                labels.push((text(name)?, text(value)?));
            }
            Ok(())
        }
        SeriesKey::Labels(canonical) | SeriesKey::Ref(_, canonical) => {
            labels.extend(canonical.iter());
            Ok(())
        }
        SeriesKey::Handle(_) => Err(InvalidLabels::HandleAlone),
    }
}

/// Whether labels are as [`canonicalise`] leaves them.
pub(in crate::table) fn is_canonical(labels: &[(&str, &str)]) -> bool {
    labels.iter().all(|(name, value)| !name.is_empty() && !value.is_empty())
        && labels.windows(2).all(|pair| pair[0].0 < pair[1].0)
        && labels.iter().any(|(name, _)| *name == METRIC_NAME)
}

/// Sorts labels and drops empty ones: to Prometheus a label without a value is absent.
///
/// # Errors
/// [`InvalidLabels`] if they are no labels of a series. Limits are not looked at.
pub(in crate::table) fn canonicalise(labels: &mut Vec<(&str, &str)>) -> Result<(), InvalidLabels> {
    labels.retain(|(_, value)| !value.is_empty());
    if !labels.is_sorted() {
        labels.sort_unstable();
    }
    if let Some(pair) = labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(DuplicateLabel { name: pair[0].0.to_owned() }.into());
    }
    if labels.iter().any(|(name, _)| name.is_empty()) {
        return Err(InvalidLabels::EmptyName);
    }
    if !labels.iter().any(|(name, _)| *name == METRIC_NAME) {
        return Err(InvalidLabels::NoMetricName);
    }
    Ok(())
}

impl LabelLimits {
    fn check(&self, labels: &[(&str, &str)]) -> Result<(), InvalidLabels> {
        if labels.len() > self.max_labels {
            return Err(InvalidLabels::TooMany { count: labels.len(), limit: self.max_labels });
        }
        let check = |what, size_bytes, limit| {
            if size_bytes > limit { Err(InvalidLabels::TooLong { what, size_bytes, limit }) } else { Ok(()) }
        };
        for (name, value) in labels {
            check("name", name.len(), self.max_name_bytes)?;
            check("value", value.len(), self.max_value_bytes)?;
        }
        Ok(())
    }
}
