//! Leases: what lets the store end queries whose blocks it must drop to get space back.
//!
//! A block that retention drops or a merge replaces keeps its files while a query reads it. That is
//! right until the disk is full: then the space is wanted more than the answer, and the store takes
//! back leases of such blocks, the oldest first. A query meets that at its next look at its context.

use crate::kv::pins::BlockPin;
use chronolith_model::queryable::{QueryContext, ReadStats, Stop};
use chronolith_model::symbols::SymbolTable;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// All leases that are held.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    // Ascending numbers: the oldest is the first.
    leases: BTreeMap<u64, Weak<Lease>>,
    next: u64,
}

/// The right to read some blocks, until it is taken back.
#[derive(Debug)]
pub struct Lease {
    number: u64,
    pins: Vec<Arc<BlockPin>>,
    is_revoked: AtomicBool,
    leases: Weak<Leases>,
}

impl Leases {
    /// Gives a lease of blocks.
    pub fn grant(self: &Arc<Self>, pins: Vec<Arc<BlockPin>>) -> Arc<Lease> {
        let mut held = self.held.lock();
        let number = held.next;
        held.next += 1;
        let lease = Arc::new(Lease {
            number,
            pins,
            is_revoked: AtomicBool::new(false),
            leases: Arc::downgrade(self),
        });
        held.leases.insert(number, Arc::downgrade(&lease));
        lease
    }

    /// Takes back the oldest lease of a block that waits to be dropped. False if there is none.
    pub fn revoke_oldest(&self) -> bool {
        // Collected first: a lease that goes takes the lock.
        let leases: Vec<Arc<Lease>> = self.held.lock().leases.values().filter_map(Weak::upgrade).collect();
        let oldest = leases.iter().find(|lease| lease.is_in_the_way());
        if let Some(lease) = oldest {
            lease.is_revoked.store(true, Ordering::Relaxed);
        }
        oldest.is_some()
    }
}

impl Lease {
    /// Whether it still holds.
    ///
    /// # Errors
    /// [`Stop::Revoked`] once it was taken back.
    pub fn check(&self) -> Result<(), Stop> {
        if self.is_revoked.load(Ordering::Relaxed) { Err(Stop::Revoked) } else { Ok(()) }
    }

    fn is_in_the_way(&self) -> bool {
        self.check().is_ok() && self.pins.iter().any(|pin| pin.is_doomed())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(leases) = self.leases.upgrade() {
            leases.held.lock().leases.remove(&self.number);
        }
    }
}

/// The context of a query that reads under a lease.
pub(super) struct Leased<'q> {
    lease: Option<&'q Lease>,
    cx: &'q dyn QueryContext,
}

impl<'q> Leased<'q> {
    pub(super) const fn new(lease: Option<&'q Lease>, cx: &'q dyn QueryContext) -> Self {
        Self { lease, cx }
    }
}

impl QueryContext for Leased<'_> {
    fn check(&self) -> Result<(), Stop> {
        self.lease.map_or(Ok(()), Lease::check)?;
        self.cx.check()
    }

    fn charge(&self, size_bytes: usize) -> Result<(), Stop> {
        self.cx.charge(size_bytes)
    }

    fn read_stats(&self) -> Option<&ReadStats> {
        self.cx.read_stats()
    }

    fn release(&self, size_bytes: usize) {
        self.cx.release(size_bytes);
    }

    fn symbols(&self) -> &SymbolTable {
        self.cx.symbols()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::keys::BlockId;
    use crate::kv::pins::DropQueue;

    #[test]
    fn leases_of_doomed_blocks_are_taken_back_oldest_first() {
        let drops = Arc::new(DropQueue::default());
        let pin = |id| BlockPin::new(BlockId(id), Arc::clone(&drops));
        let (old, new) = (pin(1), pin(2));
        let leases = Arc::new(Leases::default());
        let both = || vec![Arc::clone(&old), Arc::clone(&new)];
        let (first, newer_only, second) =
            (leases.grant(both()), leases.grant(vec![Arc::clone(&new)]), leases.grant(both()));
        let ended = || [&first, &newer_only, &second].map(|lease| lease.check().is_err());
        assert!(!leases.revoke_oldest(), "no block waits");
        old.doom();
        assert!(leases.revoke_oldest());
        assert_eq!(ended(), [true, false, false]);
        assert!(leases.revoke_oldest());
        assert_eq!(ended(), [true, false, true], "blocks that stay are no reason");
        assert!(!leases.revoke_oldest());
        drop(old);
        drop(first);
        assert_eq!(drops.take(), []);
        drop(second);
        assert_eq!(drops.take(), [BlockId(1)]);
        assert_eq!(leases.held.lock().leases.len(), 1);
    }
}
