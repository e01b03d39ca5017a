//! How the runs of a series follow each other in time, worked out once for all series whose runs are
//! at the same times.
//!
//! Series of one scrape target share their timestamp columns, so their runs are the same stretches of
//! the same columns, part by part. What to keep of each run, and the resulting column, depends on the
//! stretches and the precedence of their parts only, never on values: one [`Plan`] serves all of them,
//! and they get the same `Arc` of a column, by which queries recognise shared times.

use crate::part::ColumnSlice;
use chronolith_model::queryable::{QueryContext, Stop, TimestampColumn};
use hashbrown::HashTable;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// A part of a run that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which of the runs.
    pub run: u32,
    /// Its first sample that is kept.
    pub from: u32,
    /// How many.
    pub count: u32,
}

/// The order in which runs are read.
#[derive(Debug)]
pub struct Plan {
    /// Times of all samples that are kept.
    pub timestamps: Arc<TimestampColumn>,
    /// What is kept, in time order: as many samples as there are times.
    pub segments: Vec<Segment>,
}

/// Times of one run, and whose run it is.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'r> {
    /// Where two parts hold a timestamp, the lower number stays.
    pub part: u32,
    /// The times, strictly ascending.
    pub times: &'r ColumnSlice,
}

/// Bytes of columns that a selector keeps for series to come. Beyond it all are forgotten: series
/// behind that point share among themselves.
const CACHE_BYTES: usize = 16 << 20;

/// The plans of one selector.
#[derive(Debug, Default)]
pub struct PlanCache {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By [`hash`] of their keys.
    plans: HashTable<Arc<Known>>,
    size_bytes: usize,
}

/// A plan and the columns it was made of: as long as they are held, no other column has their address.
#[derive(Debug)]
struct Known {
    key: Box<[StretchKey]>,
    plan: Plan,
    _columns: Vec<Arc<Vec<i64>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StretchKey {
    column: usize,
    part: u32,
    first: u32,
    count: u32,
}

/// Plans that a worker remembers. A power of two.
const LAST_PLANS: usize = 64;

/// Longer ones are remembered alone: what workers hold is not counted.
const LONG_PLAN: usize = 4 << 10;

/// What a worker remembers between series, to be found without a lock. Series of a metric come by labels, so those of
/// one target, which share their times, are neighbours in some metrics and far apart in others.
#[derive(Debug, Default)]
pub struct LastPlans {
    /// By hash of the stretches; empty before the first.
    slots: Vec<Option<Arc<Known>>>,
    /// Of a series whose times are its own.
    own: Option<Plan>,
    /// Room for a key, so that looking for a plan takes no memory.
    key: Vec<StretchKey>,
}

impl PlanCache {
    /// The plan of a series whose runs have these stretches: ascending by part, those of a part in
    /// time order and without overlap.
    ///
    /// # Errors
    /// [`Stop`] if the memory of the query does not allow it.
    pub fn plan<'l>(
        &self,
        stretches: &[Stretch<'_>],
        last: &'l mut LastPlans,
        cx: &dyn QueryContext,
    ) -> Result<&'l Plan, Stop> {
        let LastPlans { slots, own, key } = last;
        key.clear();
        key.extend(stretches.iter().map(StretchKey::new));
        if slots.is_empty() {
            slots.resize_with(LAST_PLANS, Option::default);
        }
        let hash = hash(key);
        let at = hash as usize % LAST_PLANS;
        if slots[at].as_ref().is_none_or(|known| *known.key != **key) {
            // A column that nothing else holds is a series' own: nobody will ask for it again.
            if stretches.iter().any(|stretch| Arc::strong_count(&stretch.times.column) == 1) {
                return Ok(own.insert(make(stretches)));
            }
            let known = self.shared(stretches, key, hash, cx)?;
            if known.plan.timestamps.times.len() > LONG_PLAN {
                slots.fill(None);
            }
            slots[at] = Some(known);
        }
        Ok(&slots[at].as_ref().expect("it was there or is now").plan)
    }

    fn shared(
        &self,
        stretches: &[Stretch<'_>],
        key: &[StretchKey],
        hash: u64,
        cx: &dyn QueryContext,
    ) -> Result<Arc<Known>, Stop> {
        let is_it = |known: &Arc<Known>| *known.key == *key;
        if let Some(known) = self.inner.lock().plans.find(hash, is_it) {
            return Ok(Arc::clone(known));
        }
        let plan = make(stretches);
        let size_bytes = plan.timestamps.times.len() * 8 + (key.len() + 2) * 64;
        cx.charge(size_bytes)?;
        let mut inner = self.inner.lock();
        // Another worker may have been faster: its column is the one that others hold already.
        if let Some(known) = inner.plans.find(hash, is_it) {
            cx.release(size_bytes);
            return Ok(Arc::clone(known));
        }
        if inner.size_bytes + size_bytes > CACHE_BYTES {
            cx.release(inner.size_bytes);
            inner.plans.clear();
            inner.size_bytes = 0;
        }
        inner.size_bytes += size_bytes;
        let columns = stretches.iter().map(|stretch| Arc::clone(&stretch.times.column)).collect();
        let known = Arc::new(Known { key: key.into(), plan, _columns: columns });
        inner.plans.insert_unique(hash, Arc::clone(&known), |known| self::hash(&known.key));
        Ok(known)
    }
}

/// Folded products: nobody chooses addresses to collide.
fn hash(key: &[StretchKey]) -> u64 {
    key.iter().fold(0, |hash, stretch| {
        let next = stretch.column as u64
            ^ u64::from(stretch.first) << 40
            ^ u64::from(stretch.count) << 20
            ^ u64::from(stretch.part) << 52;
        let product = u128::from(hash ^ next) * 0x9e37_79b9_7f4a_7c15;
        product as u64 ^ (product >> 64) as u64
    })
}

impl StretchKey {
    fn new(stretch: &Stretch<'_>) -> Self {
        Self {
            column: Arc::as_ptr(&stretch.times.column) as usize,
            part: stretch.part,
            first: stretch.times.first,
            count: stretch.times.count,
        }
    }
}

/// Works out what is kept.
fn make(stretches: &[Stretch<'_>]) -> Plan {
    let mut order: Vec<u32> =
        (0..stretches.len() as u32).filter(|&at| stretches[at as usize].times.count > 0).collect();
    order.sort_by_key(|&at| stretches[at as usize].times.times()[0]);
    let apart = order.windows(2).all(|pair| {
        let (a, b) = (stretches[pair[0] as usize].times.times(), stretches[pair[1] as usize].times.times());
        a[a.len() - 1] < b[0]
    });
    let segments = match apart {
        true => order
            .iter()
            .map(|&run| Segment { run, from: 0, count: stretches[run as usize].times.count })
            .collect(),
        false => interleave(stretches),
    };
    let mut times = Vec::with_capacity(segments.iter().map(|segment: &Segment| segment.count as usize).sum());
    for segment in &segments {
        let of_run = stretches[segment.run as usize].times.times();
        times.extend_from_slice(&of_run[segment.from as usize..][..segment.count as usize]);
    }
    debug_assert!(times.is_sorted_by(|a, b| a < b));
    Plan { timestamps: Arc::new(TimestampColumn { times }), segments }
}

/// A merge over parts. Where several hold a timestamp, the first of them stays.
fn interleave(stretches: &[Stretch<'_>]) -> Vec<Segment> {
    struct Head<'s> {
        runs: &'s [Stretch<'s>],
        // Number of `runs[0]` among all.
        run: u32,
        at: usize,
    }
    impl Head<'_> {
        fn time(&self) -> Option<i64> {
            self.runs.first().map(|run| run.times.times()[self.at])
        }
        fn advance(&mut self, count: usize) {
            self.at += count;
            while self.runs.first().is_some_and(|run| self.at >= run.times.count as usize) {
                self.at = 0;
                self.run += 1;
                self.runs = &self.runs[1..];
            }
        }
    }
    let mut heads: Vec<Head<'_>> = Vec::new();
    let mut run = 0;
    for runs in stretches.chunk_by(|a, b| a.part == b.part) {
        let mut head = Head { runs, run, at: 0 };
        head.advance(0);
        heads.push(head);
        run += runs.len() as u32;
    }
    // Heads by their next time. Thousands of parts may hold samples of a series, each a few.
    let mut queue: BinaryHeap<Reverse<(i64, usize)>> =
        heads.iter().enumerate().filter_map(|(at, head)| Some(Reverse((head.time()?, at)))).collect();
    let mut segments: Vec<Segment> = Vec::new();
    while let Some(Reverse((time, at))) = queue.pop() {
        // Of equal times the queue gave the one of the first part; the others lose theirs.
        while let Some(&Reverse((_, loser))) = queue.peek().filter(|Reverse((other, _))| *other == time) {
            queue.pop();
            heads[loser].advance(1);
            queue.extend(heads[loser].time().map(|time| Reverse((time, loser))));
        }
        let head = &mut heads[at];
        let rest = &head.runs[0].times.times()[head.at..];
        // The winner runs freely up to the earliest time of any other head.
        let count = match queue.peek() {
            Some(Reverse((other, _))) => rest.partition_point(|time| time < other),
            None => rest.len(),
        };
        let (run, from) = (head.run, head.at as u32);
        head.advance(count);
        queue.extend(head.time().map(|time| Reverse((time, at))));
        match segments.last_mut() {
            Some(last) if last.run == run && last.from + last.count == from => last.count += count as u32,
            _ => segments.push(Segment { run, from, count: count as u32 }),
        }
    }
    segments
}
