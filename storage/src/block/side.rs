//! What a block holds beside samples: exemplars by rank (kind 7) and metadata by metric family
//! (kind 8). Written by the block writer, read here.
//!
//! Lengths and counts are LEB128, timestamps zigzag LEB128, values eight bytes big-endian, strings a
//! length and UTF-8 (docs/format.md).

use crate::chunk::ChunkError;
use crate::chunk::bytes::{Reader, put_prefixed, put_signed, put_varint};
use crate::error::StorageError;
use crate::kv::KvRead;
use crate::kv::keys::{BlockId, Kind, PREFIX_BYTES, key, kind_range};
use chronolith_model::Labels;
use chronolith_model::append::{Exemplar, Metadata, MetricType};
use std::ops::ControlFlow;

/// The key of the exemplars of a series.
pub(super) fn exemplars_key(block: BlockId, rank: u32) -> Vec<u8> {
    key(block, Kind::Exemplars, &rank.to_be_bytes())
}

/// The key of the metadata of a metric family.
pub(super) fn metadata_key(block: BlockId, family: &str) -> Vec<u8> {
    key(block, Kind::Metadata, family.as_bytes())
}

/// The record of the exemplars of one series, by time.
pub fn encode_exemplars(exemplars: &[Exemplar]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, exemplars.len() as u64);
    let mut last = 0i64;
    for exemplar in exemplars {
        put_signed(&mut out, exemplar.timestamp.wrapping_sub(last));
        last = exemplar.timestamp;
        out.extend_from_slice(&exemplar.value.to_bits().to_be_bytes());
        put_varint(&mut out, exemplar.labels.len() as u64);
        for (name, value) in exemplar.labels.iter() {
            put_prefixed(&mut out, name.as_bytes());
            put_prefixed(&mut out, value.as_bytes());
        }
    }
    out
}

/// The exemplars of a record.
///
/// # Errors
/// [`ChunkError`] if the bytes are none.
pub fn decode_exemplars(bytes: &[u8]) -> Result<Vec<Exemplar>, ChunkError> {
    /// Timestamp, value and number of labels.
    const MIN_BYTES: usize = 10;
    let mut reader = Reader::new(bytes);
    let count = reader.length(bytes.len() / MIN_BYTES)?;
    let mut exemplars = Vec::with_capacity(count);
    let mut timestamp = 0i64;
    for _ in 0..count {
        timestamp = timestamp.wrapping_add(reader.signed()?);
        let value = f64::from_bits(reader.u64()?);
        let n_labels = reader.length(reader.rest().len() / 2)?;
        let pairs = (0..n_labels)
            .map(|_| Ok((string(&mut reader)?, string(&mut reader)?)))
            .collect::<Result<Vec<_>, _>>()?;
        let labels = Labels::from_pairs(pairs).map_err(|_| ChunkError("an exemplar has a label twice"))?;
        exemplars.push(Exemplar { labels, value, timestamp });
    }
    reader.end()?;
    Ok(exemplars)
}

/// The record of the metadata of one metric family.
pub fn encode_metadata(metadata: &[Metadata]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, metadata.len() as u64);
    for entry in metadata {
        out.push(entry.metric_type as u8);
        put_prefixed(&mut out, entry.unit.as_bytes());
        put_prefixed(&mut out, entry.help.as_bytes());
    }
    out
}

/// The metadata of a record.
///
/// # Errors
/// [`ChunkError`] if the bytes are none.
pub fn decode_metadata(bytes: &[u8]) -> Result<Vec<Metadata>, ChunkError> {
    /// Type and two lengths.
    const MIN_BYTES: usize = 3;
    let mut reader = Reader::new(bytes);
    let count = reader.length(bytes.len() / MIN_BYTES)?;
    let mut metadata = Vec::with_capacity(count);
    for _ in 0..count {
        let metric_type = metric_type(reader.u8()?).ok_or(ChunkError("unknown type of a metric"))?;
        let unit = string(&mut reader)?.to_owned();
        let help = string(&mut reader)?.to_owned();
        metadata.push(Metadata { metric_type, unit, help });
    }
    reader.end()?;
    Ok(metadata)
}

fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ChunkError> {
    std::str::from_utf8(reader.prefixed()?).map_err(|_| ChunkError("a string is not UTF-8"))
}

const fn metric_type(number: u8) -> Option<MetricType> {
    Some(match number {
        0 => MetricType::Unknown,
        1 => MetricType::Counter,
        2 => MetricType::Gauge,
        3 => MetricType::Histogram,
        4 => MetricType::GaugeHistogram,
        5 => MetricType::Summary,
        6 => MetricType::Info,
        7 => MetricType::StateSet,
        _ => return None,
    })
}

/// The exemplars of a series, by time; none if the block has none.
///
/// # Errors
/// [`StorageError`] if the record cannot be read or does not decode.
pub fn exemplars(kv: &dyn KvRead, block: BlockId, rank: u32) -> Result<Vec<Exemplar>, StorageError> {
    let Some(bytes) = kv.get(&exemplars_key(block, rank))? else { return Ok(Vec::new()) };
    decode_exemplars(&bytes).map_err(|error| {
        StorageError::corrupt(format!("exemplars of series {rank} of block {block}"), error.to_string())
    })
}

/// Ranks of the block's series that have exemplars, ascending, with them.
///
/// # Errors
/// As [`exemplars`].
pub fn all_exemplars(
    kv: &dyn KvRead,
    block: BlockId,
    sink: &mut dyn FnMut(u32, Vec<Exemplar>),
) -> Result<(), StorageError> {
    scan(kv, block, Kind::Exemplars, &mut |rest, bytes| {
        let rank = rest.try_into().map(u32::from_be_bytes).map_err(|_| ChunkError("the key is no rank"))?;
        sink(rank, decode_exemplars(bytes)?);
        Ok(())
    })
}

/// Metadata of all metric families of a block, by name.
///
/// # Errors
/// As [`exemplars`].
pub fn metadata(
    kv: &dyn KvRead,
    block: BlockId,
    sink: &mut dyn FnMut(&str, &Metadata),
) -> Result<(), StorageError> {
    scan(kv, block, Kind::Metadata, &mut |rest, bytes| {
        let family = std::str::from_utf8(rest).map_err(|_| ChunkError("a family name is not UTF-8"))?;
        decode_metadata(bytes)?.iter().for_each(|entry| sink(family, entry));
        Ok(())
    })
}

/// Takes the rest of a key and the value.
type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<(), ChunkError> + 'v;

fn scan(kv: &dyn KvRead, block: BlockId, kind: Kind, visit: &mut Visit<'_>) -> Result<(), StorageError> {
    let (from, to) = kind_range(block, kind);
    let mut result = Ok(());
    kv.scan(&from, &to, &mut |key, value| {
        result = visit(key.get(PREFIX_BYTES..).unwrap_or_default(), value);
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    result.map_err(|error| StorageError::corrupt(format!("{kind:?} of block {block}"), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exemplars_and_metadata_come_back_and_damage_never_panics() {
        let exemplar = |timestamp, value| Exemplar {
            labels: Labels::from_pairs([("trace_id", "abc"), ("é", "")]).expect("no name twice"),
            value,
            timestamp,
        };
        let exemplars = vec![exemplar(-5, 0.25), exemplar(1_700_000_000_000, f64::INFINITY)];
        let bytes = encode_exemplars(&exemplars);
        assert_eq!(decode_exemplars(&bytes), Ok(exemplars));
        let metadata: Vec<Metadata> = (0..8)
            .filter_map(metric_type)
            .map(|metric_type| Metadata {
                metric_type,
                unit: "bytes".to_owned(),
                help: "What it is.".to_owned(),
            })
            .collect();
        assert_eq!(metadata.len(), 8);
        let other = encode_metadata(&metadata);
        assert_eq!(decode_metadata(&other), Ok(metadata));
        for bytes in [bytes, other] {
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let _ = (decode_exemplars(&damaged), decode_metadata(&damaged));
            }
            for length in 0..bytes.len() {
                let cut = &bytes[..length];
                assert!(decode_exemplars(cut).is_err() || decode_metadata(cut).is_err());
            }
        }
    }
}
