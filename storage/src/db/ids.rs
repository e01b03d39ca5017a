//! Block ids: always rising, also when the clock goes back, and never reused.

use crate::kv::keys::BlockId;
use crate::options::Clock;
use parking_lot::Mutex;

/// Low bits that count blocks of the same millisecond.
const COUNTER_BITS: u32 = 20;

/// Gives out block ids.
#[derive(Debug, Default)]
pub struct BlockIds {
    last: Mutex<u64>,
}

impl BlockIds {
    /// Ids above `greatest`, the greatest one ever seen in the store.
    pub fn after(greatest: Option<BlockId>) -> Self {
        Self { last: Mutex::new(greatest.map_or(0, |id| id.0)) }
    }

    /// Never gives out an id that is not above `id`.
    pub fn seen(&self, id: BlockId) {
        let mut last = self.last.lock();
        *last = (*last).max(id.0);
    }

    /// The next id.
    pub fn next(&self, clock: &dyn Clock) -> BlockId {
        let now = u64::try_from(clock.now_ms()).unwrap_or(0).min(u64::MAX >> (COUNTER_BITS + 1));
        let mut last = self.last.lock();
        *last = (now << COUNTER_BITS).max(*last + 1);
        BlockId(*last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ManualClock;

    #[test]
    fn ids_rise_when_the_clock_goes_back() {
        let clock = ManualClock::new(1_000);
        let ids = BlockIds::after(Some(BlockId(7)));
        let first = ids.next(&clock);
        assert_eq!(first, BlockId(1_000 << 20));
        clock.set(500);
        assert_eq!(ids.next(&clock), BlockId((1_000 << 20) + 1));
        clock.set(-5);
        assert_eq!(ids.next(&clock), BlockId((1_000 << 20) + 2));
        clock.set(2_000);
        assert_eq!(ids.next(&clock), BlockId(2_000 << 20));
    }
}
