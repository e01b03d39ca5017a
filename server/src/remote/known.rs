//! Requests of remote write 2.0 that came before with other samples, and the series they were about.
//!
//! Of use with senders that cut their scrapes alike: what fits into a request, or what is sent at the end of a
//! scrape because its time is up. One that cuts at another place each time is told by symbols that never come
//! twice, and pays for one hash of them.

use chronolith_model::append::{AppendBatch, SeriesKey, SeriesRef};
use chronolith_storage::table::registry::hasher::{Hash128, SeriesHasher};
use chronolith_wire::remote_write::{samples, symbols};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

/// What all of them may take. A request of one exporter or a few takes some hundred bytes.
const MAX_BYTES: usize = 8 << 20;
/// What an entry takes besides its series.
const ENTRY_BYTES: usize = 128;

/// Names the requests with the same symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SymbolsHash(Hash128);

/// What is known of a request by its symbols.
pub enum Seen {
    /// They came before, and it is worth to [`KnownRequests::learn`] the request.
    Again(SymbolsHash),
    /// They came before with these series, and most likely do again.
    Known(SymbolsHash, Arc<Known>),
    /// Nothing that helps.
    Nothing,
}

/// The series of a request.
pub struct Known {
    labels: Hash128,
    runs: Box<[Run]>,
}

/// Handles of one generation whose slots are equally far apart: series of a target, as they were created.
struct Run {
    first: SeriesRef,
    step: u32,
    count: u32,
}

/// All requests that are known. Hashes are keyed, so that nobody can make two requests of one hash.
pub struct KnownRequests {
    hasher: SeriesHasher,
    requests: Mutex<Requests>,
}

#[derive(Default)]
struct Requests {
    by_symbols: HashMap<SymbolsHash, State>,
    size_bytes: usize,
}

enum State {
    Once,
    /// Not in the usual form, or not taken whole.
    Unusual,
    Known(Arc<Known>),
}

impl Default for KnownRequests {
    fn default() -> Self {
        let random = RandomState::new();
        let mut key = [0; 32];
        for (index, part) in key.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *part = random.hash_one(index).to_le_bytes();
        }
        Self { hasher: SeriesHasher::new(&key), requests: Mutex::default() }
    }
}

impl KnownRequests {
    /// Looks a request up by its symbols, and remembers them.
    pub fn look_up(&self, body: &[u8]) -> Seen {
        let hash = SymbolsHash(self.hasher.bytes(symbols(body)));
        let mut requests = self.requests.lock();
        match requests.by_symbols.get(&hash) {
            Some(State::Known(known)) => Seen::Known(hash, Arc::clone(known)),
            Some(State::Once) => Seen::Again(hash),
            Some(State::Unusual) => Seen::Nothing,
            None => {
                requests.set(hash, State::Once);
                Seen::Nothing
            }
        }
    }

    /// Decodes a request into an empty batch if it is the one that is known, with other samples. `scratch` is any buffer.
    pub fn decode(
        &self,
        known: &Known,
        body: &[u8],
        batch: &mut AppendBatch<'_>,
        scratch: &mut Vec<u8>,
    ) -> bool {
        if !samples(body, batch, scratch) || self.hasher.bytes(scratch) != known.labels {
            return false;
        }
        for (series, handle) in batch.series.iter_mut().zip(known.handles()) {
            series.key = SeriesKey::Handle(handle);
        }
        true
    }

    /// Keeps the handles of the series of a request. These are `None` where not everything was taken.
    pub fn learn(&self, hash: SymbolsHash, body: &[u8], handles: Option<Vec<SeriesRef>>) {
        let mut labels = Vec::new();
        let is_usual = samples(body, &mut AppendBatch::default(), &mut labels);
        let state = match handles {
            Some(handles) if is_usual => {
                State::Known(Arc::new(Known { labels: self.hasher.bytes(&labels), runs: runs(&handles) }))
            }
            _ => State::Unusual,
        };
        self.requests.lock().set(hash, state);
    }

    /// Forgets a request that is not what it was, or whose series are not.
    pub fn forget(&self, hash: SymbolsHash) {
        self.requests.lock().set(hash, State::Once);
    }
}

impl Known {
    fn handles(&self) -> impl Iterator<Item = SeriesRef> {
        self.runs.iter().flat_map(|run| {
            (0..run.count).map(|index| SeriesRef {
                slot: run.first.slot.wrapping_add(index.wrapping_mul(run.step)),
                generation: run.first.generation,
            })
        })
    }
}

fn runs(handles: &[SeriesRef]) -> Box<[Run]> {
    let mut runs: Vec<Run> = Vec::new();
    for &handle in handles {
        if let Some(run) = runs.last_mut().filter(|run| run.first.generation == handle.generation) {
            let distance = handle.slot.wrapping_sub(run.first.slot);
            if run.count == 1 {
                run.step = distance;
            }
            if distance == run.step.wrapping_mul(run.count) {
                run.count += 1;
                continue;
            }
        }
        runs.push(Run { first: handle, step: 0, count: 1 });
    }
    runs.into()
}

impl State {
    fn size_bytes(&self) -> usize {
        let runs = if let Self::Known(known) = self { size_of_val(&*known.runs) } else { 0 };
        ENTRY_BYTES + runs
    }
}

impl Requests {
    fn set(&mut self, hash: SymbolsHash, state: State) {
        let size_bytes = state.size_bytes();
        if self.size_bytes + size_bytes > MAX_BYTES {
            // What is still sent is soon known again.
            *self = Self::default();
        }
        self.size_bytes += size_bytes;
        let before = self.by_symbols.insert(hash, state);
        self.size_bytes -= before.map_or(0, |before| before.size_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_come_back_from_runs() {
        let handle = |slot, generation| SeriesRef { slot, generation };
        let handles: Vec<SeriesRef> = [3, 7, 11, 15, 15, 15, 2, u32::MAX, 1, 3]
            .into_iter()
            .flat_map(|slot| [handle(slot, 1), handle(slot, 1), handle(slot, slot & 1)])
            .chain((0..100).map(|index| handle(8 * index + 5, 2)))
            .collect();
        for handles in [&handles[..], &handles[30..], &[]] {
            let known = Known { labels: [0; 2], runs: runs(handles) };
            assert!(known.handles().eq(handles.iter().copied()));
        }
        assert_eq!(runs(&handles[30..]).len(), 1);
    }

    #[test]
    fn symbols_that_never_come_again_do_not_pile_up() {
        let requests = KnownRequests::default();
        for number in 0..200_000u32 {
            let body = [&[4 << 3 | 2, 4][..], &number.to_le_bytes()].concat();
            assert!(matches!(requests.look_up(&body), Seen::Nothing));
        }
        let requests = requests.requests.lock();
        assert!(requests.size_bytes <= MAX_BYTES);
        let counted: usize = requests.by_symbols.values().map(State::size_bytes).sum();
        assert_eq!(requests.size_bytes, counted);
        assert!(requests.by_symbols.len() > 1000);
    }
}
