//! Retention: drops whole blocks that are too old, or the oldest ones while the store is too large.

use super::Inner;
use super::version::Block;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A disk with less space counts as full: a seal of two million samples writes some 1 MB, a new manifest of
/// RocksDB 16 MB.
const FULL_BELOW_BYTES: u64 = 32 << 20;

impl Inner {
    /// Applies both limits. Age is measured from the greatest stored timestamp, not from the clock, so
    /// that recorded and simulated streams keep what they hold.
    pub fn enforce_retention(&self) {
        {
            let _commit = self.commit.lock();
            let version = self.version.load_full();
            let old = self.too_old(&version.blocks);
            let mut kept = version.blocks.clone();
            kept.retain(|block| !old.iter().any(|dropped| dropped.id() == block.id()));
            let excess = self.too_large(&kept);
            if old.is_empty() && excess.is_empty() {
                return;
            }
            for (blocks, reason) in [(&old, "age"), (&excess, "size")] {
                for block in blocks {
                    let (mint, maxt) = (block.header.mint, block.header.maxt);
                    tracing::info!(block = %block.id(), mint, maxt, reason, "retention drops a block");
                }
            }
            self.counters.retention_time_drops.add(old.len() as u64);
            self.counters.retention_size_drops.add(excess.len() as u64);
            let dropped = [old, excess].concat();
            self.replace(&dropped, None);
            if let Some(last) = dropped.iter().map(|block| block.header.maxt).max() {
                self.changes.note_gone(last.saturating_add(1));
            }
        }
        self.reap();
    }

    /// Gives back what space there is, after memory could not be sealed: the ballast, and if that was not
    /// enough, blocks that retention no longer keeps, and of those and merged ones what queries still read.
    /// One query is ended a call, the oldest, because that may do; the caller tries again.
    pub fn make_room(&self) {
        self.ballast.free();
        if self.ballast.free_bytes().is_some_and(|free| free < FULL_BELOW_BYTES) {
            self.give_space_back();
        }
    }

    fn give_space_back(&self) {
        self.enforce_retention();
        if self.leases.revoke_oldest() {
            self.counters.revoked_queries.increment();
            tracing::warn!(
                "the disk is full: ended the oldest query that reads blocks which are to be dropped"
            );
        }
        self.reap();
    }

    fn too_old(&self, blocks: &[Arc<Block>]) -> Vec<Arc<Block>> {
        let retention = self.retention_time_ms.load(Ordering::Relaxed);
        let newest = self.time_range().map(|range| range.1);
        let Some(newest) = newest.filter(|_| retention > 0) else { return Vec::new() };
        let oldest = newest.saturating_sub(retention);
        blocks.iter().filter(|block| block.header.maxt < oldest).cloned().collect()
    }

    fn too_large(&self, blocks: &[Arc<Block>]) -> Vec<Arc<Block>> {
        let limit = self.retention_size_bytes.load(Ordering::Relaxed);
        let mut size = blocks.iter().map(|block| block.size_bytes).sum::<u64>();
        if limit == 0 {
            return Vec::new();
        }
        size += self.tables.stats().log_size_bytes;
        let mut by_age = blocks.to_vec();
        by_age.sort_by_key(|block| (block.header.maxt, block.id()));
        let mut excess = Vec::new();
        for block in by_age {
            if size <= limit {
                break;
            }
            size = size.saturating_sub(block.size_bytes);
            excess.push(block);
        }
        excess
    }
}

#[cfg(test)]
mod tests {
    use crate::db::Db;
    use crate::options::{ManualClock, Options};
    use chronolith_model::Labels;
    use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey};
    use chronolith_model::queryable::{Queryable, ReadError, SampleBatch, Select, Snapshot, Stop, Unlimited};
    use std::sync::Arc;

    const WINDOW_MS: i64 = 10_000;

    fn append(db: &Db, timestamp: i64) {
        let labels = Labels::from_pairs([("__name__", "m")]).unwrap();
        let mut batch = AppendBatch::default();
        batch.samples.push(Sample { timestamp, value: 1.0, start_timestamp: 0 });
        let key = SeriesKey::Labels(&labels);
        batch.series.push(BatchSeries { key, samples: 0..1, histograms: 0..0, exemplars: 0..0 });
        assert_eq!(db.append(&batch, false).unwrap().samples_written, 1);
    }

    fn read(snapshot: &dyn Snapshot) -> Result<usize, ReadError> {
        let select = Select::whole(&[], i64::MIN, i64::MAX);
        let cx = Unlimited::default();
        let series = snapshot.select(&select, &cx)?;
        let mut batch = SampleBatch::default();
        series.read(0..series.len(), &mut batch, &cx)?;
        Ok(batch.series.iter().map(|series| series.timestamps.times.len()).sum())
    }

    #[test]
    fn on_a_full_disk_the_oldest_query_of_dropped_blocks_ends_first() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            window_ms: WINDOW_MS,
            retention_time_ms: 0,
            background: false,
            ballast_bytes: Some(0),
            clock: Arc::new(ManualClock::new(5 * WINDOW_MS)),
            ..Options::default()
        };
        let db = Db::open(folder.path(), options).unwrap();
        for window in 0..4 {
            append(&db, window * WINDOW_MS);
            db.flush().unwrap();
        }
        let (first, second) = (db.pin().unwrap(), db.pin().unwrap());
        db.inner.give_space_back();
        assert_eq!(read(&*first).unwrap(), 4, "nothing waits to be dropped");

        db.set_retention(0, 1);
        db.enforce_retention();
        let n_files = || db.inner.store.blocks().unwrap().len();
        assert_eq!(n_files(), 4, "queries hold them");
        let unaffected = db.pin().unwrap();
        db.inner.give_space_back();
        let ended = read(&*first).unwrap_err();
        assert!(matches!(&ended, ReadError::Stop(Stop::Revoked)));
        assert!(ended.to_string().contains("the disk is full"), "{ended}");
        assert_eq!(read(&*second).unwrap(), 4);
        db.inner.give_space_back();
        db.inner.give_space_back();
        assert!(read(&*second).is_err());
        assert_eq!(read(&*unaffected).unwrap(), 0);
        assert_eq!(db.metrics().revoked_queries, 2);
        drop((first, second));
        db.inner.reap();
        assert_eq!(n_files(), 0);
    }

    #[test]
    fn who_keeps_results_learns_what_changes() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            window_ms: WINDOW_MS,
            retention_time_ms: 0,
            background: false,
            ballast_bytes: Some(0),
            clock: Arc::new(ManualClock::new(1 << 40)),
            ..Options::default()
        };
        let db = Db::open(&folder.path().join("data"), options).unwrap();
        for timestamp in [1000, 12_000, 30_000] {
            append(&db, timestamp);
        }
        let version = db.version().unwrap();
        assert_eq!(db.unchanged_since(version), i64::MIN..i64::MAX);
        append(&db, 31_000);
        assert_eq!(db.unchanged_since(version), i64::MIN..31_000);
        // What moves data and leaves it as it is does not count.
        db.flush().unwrap();
        db.compact().unwrap();
        assert_eq!(db.unchanged_since(version), i64::MIN..31_000);
        append(&db, 500);
        assert_eq!(db.unchanged_since(version), i64::MIN..500);
        let version = db.version().unwrap();
        let any = vec![chronolith_model::Matcher::equal("__name__", "m")];
        db.delete(&[any], 12_000, 13_000).unwrap();
        assert_eq!(db.unchanged_since(version), i64::MIN..12_000);
        // Retention hides at once, and drops later.
        db.set_retention(30_000, 0);
        let version = db.version().unwrap();
        db.pin().unwrap();
        assert_eq!(db.unchanged_since(version), 1000..i64::MAX);
        append(&db, 60_000);
        db.flush().unwrap();
        let version = db.version().unwrap();
        db.enforce_retention();
        let unchanged = db.unchanged_since(version);
        assert!(unchanged.start > 1000 && unchanged.end == i64::MAX, "{unchanged:?}");
        // No limit again: what was hidden once may be seen, and was not when results were made.
        db.set_retention(0, 0);
        db.pin().unwrap();
        assert_eq!(db.unchanged_since(version), unchanged);
    }
}
