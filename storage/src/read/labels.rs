//! Label names and values over all parts: sorted, each once, cut at the limit.

use super::overlapping;
use crate::error::StorageError;
use crate::part::{Part, PartSelect};
use chronolith_model::Matcher;
use chronolith_model::queryable::{LabelQuery, QueryContext, ReadError};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a set node costs besides the text of a string.
const NODE_BYTES: usize = 48;

/// What gives strings of one part.
type FromPart<'f> =
    dyn FnMut(&dyn Part, &PartSelect<'_>, &mut dyn FnMut(&str)) -> Result<(), StorageError> + 'f;

/// The distinct strings that `from_part` gives, sorted; with a limit the first `limit + 1` of them, so
/// memory follows the limit.
pub(super) fn collect(
    parts: &[Arc<dyn Part>],
    query: &LabelQuery<'_>,
    cx: &dyn QueryContext,
    from_part: &mut FromPart<'_>,
) -> Result<Vec<String>, ReadError> {
    let most = match query.limit {
        0 => usize::MAX,
        limit => limit.saturating_add(1),
    };
    let mut strings: BTreeSet<Box<str>> = BTreeSet::new();
    let mut charged = 0;
    let collected = overlapping(parts, query.mint, query.maxt).try_for_each(|part| {
        for_each_set(query.matcher_sets, |matchers| {
            cx.check()?;
            let select = PartSelect { matchers, mint: query.mint, maxt: query.maxt };
            let mut refused = None;
            from_part(part, &select, &mut |text| {
                let beyond = strings.len() >= most && strings.last().is_some_and(|last| **last <= *text);
                if refused.is_some() || beyond || strings.contains(text) {
                    return;
                }
                let size_bytes = text.len() + NODE_BYTES;
                if let Err(stop) = cx.charge(size_bytes) {
                    refused = Some(stop);
                    return;
                }
                charged += size_bytes;
                strings.insert(text.into());
                if strings.len() > most {
                    strings.pop_last();
                }
            })?;
            refused.map_or(Ok(()), |stop| Err(stop.into()))
        })
    });
    cx.release(charged);
    collected?;
    Ok(strings.into_iter().map(String::from).collect())
}

/// Calls `visit` with each set; with an empty one, which every series satisfies, if there is none.
pub(super) fn for_each_set(
    sets: &[Vec<Matcher>],
    mut visit: impl FnMut(&[Matcher]) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    match sets {
        [] => visit(&[]),
        sets => sets.iter().try_for_each(|matchers| visit(matchers)),
    }
}
