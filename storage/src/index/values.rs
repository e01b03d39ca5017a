//! Which values each label name has: one record a name, so that listing the values of a label does
//! not visit a million posting lists.

use super::postings::{Postings, PostingsEncoder};
use super::varint::Bytes;
use crate::error::StorageError;
use crate::kv::keys::{self, BlockId, Kind};
use crate::kv::{KvRead, KvWrite};
use std::ops::ControlFlow;

/// Writes the record of `name`: the numbers of its values (ascending, each once) as a set in the form
/// of postings. Returns its size.
///
/// # Errors
/// [`StorageError`] if it cannot be written.
pub fn write_values(
    block: BlockId,
    name: u32,
    values: impl IntoIterator<Item = u32>,
    out: &mut dyn KvWrite,
) -> Result<u64, StorageError> {
    let mut encoder = PostingsEncoder::default();
    for value in values {
        encoder.push(value);
    }
    let mut bytes = Vec::new();
    encoder.finish(&mut bytes);
    out.put(Kind::Values, &key(block, name), &bytes)?;
    Ok(bytes.len() as u64)
}

fn key(block: BlockId, name: u32) -> Vec<u8> {
    keys::key(block, Kind::Values, &name.to_be_bytes())
}

/// The numbers of the values of `name`; none if it is no label name.
///
/// # Errors
/// [`StorageError`] if the record cannot be read or does not decode.
pub fn read_values(
    kv: &dyn KvRead,
    block: BlockId,
    name: u32,
    n_symbols: u32,
) -> Result<Postings, StorageError> {
    match kv.get(&key(block, name))? {
        Some(bytes) => Postings::decode(&bytes, n_symbols).map_err(|error| {
            StorageError::corrupt(format!("values of block {block}, name {name}"), error.to_string())
        }),
        None => Ok(Postings::empty()),
    }
}

/// The numbers of all label names, ascending.
///
/// # Errors
/// As [`read_values`].
pub fn read_names(kv: &dyn KvRead, block: BlockId) -> Result<Vec<u32>, StorageError> {
    let (from, to) = keys::kind_range(block, Kind::Values);
    let mut names = Vec::new();
    let mut corrupt = false;
    kv.scan(&from, &to, &mut |key, _| {
        match Bytes(&key[keys::PREFIX_BYTES.min(key.len())..]).0.try_into() {
            Ok(name) => names.push(u32::from_be_bytes(name)),
            Err(_) => corrupt = true,
        }
        match corrupt {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    match corrupt {
        true => Err(StorageError::corrupt(format!("values of block {block}"), "a key is not 13 bytes long")),
        false => Ok(names),
    }
}
