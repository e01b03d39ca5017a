//! Which blocks are merged next, and where late data is cut. Pure arithmetic over block headers; the
//! merge itself is [`super::merge`], its commit is the store's.
//!
//! A block sealed from a table has level 0. Level 1 merges the runs of a window, level 2 four windows
//! (8 h), level 3 twelve (1 d), each further one four times the one before, up to the longest block
//! that the options allow. Ranges of a level are aligned, so ranges of different levels nest.

use crate::kv::keys::BlockId;

/// What planning needs to know of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Its id.
    pub id: BlockId,
    /// First timestamp.
    pub mint: i64,
    /// Last timestamp.
    pub maxt: i64,
    /// 0 for a sealed table.
    pub level: u8,
    /// Precedences of the tables in it, first and last.
    pub seq: (u64, u64),
    /// Samples in it.
    pub n_samples: u64,
    /// It cannot be read whole and stays as it is.
    pub damaged: bool,
}

/// A merge to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The blocks to merge, ascending by first precedence.
    pub inputs: Vec<BlockId>,
    /// Level of the result.
    pub level: u8,
}

/// So many late blocks beside a main block are merged with each other, or with it.
const LATE_BLOCKS: usize = 4;

/// Lengths of the aligned ranges of levels 1, 2 ...
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    lengths_ms: Vec<i64>,
}

impl Levels {
    /// Levels above a window, the longest no longer than `max_block_ms`.
    pub fn new(window_ms: i64, max_block_ms: i64) -> Self {
        let factors = [1, 4, 12, 48, 192, 768];
        let lengths = factors.iter().map(|factor| window_ms.saturating_mul(*factor));
        let mut lengths_ms: Vec<i64> = lengths.take_while(|&length| length <= max_block_ms).collect();
        if lengths_ms.is_empty() {
            lengths_ms.push(window_ms);
        }
        Self { lengths_ms }
    }

    /// The aligned range of the highest level that holds `timestamp`, both ends inclusive.
    fn longest_range(&self, timestamp: i64) -> (i64, i64) {
        aligned(timestamp, *self.lengths_ms.last().expect("there is at least one level"))
    }

    /// The smallest aligned range that holds both times; the times themselves if none does.
    fn range_of(&self, mint: i64, maxt: i64) -> (i64, i64) {
        let ranges = self.lengths_ms.iter().map(|&length| aligned(mint, length));
        ranges.into_iter().find(|range| maxt <= range.1).unwrap_or((mint, maxt))
    }
}

fn aligned(timestamp: i64, length: i64) -> (i64, i64) {
    let start = timestamp.div_euclid(length) * length;
    (start, start + length - 1)
}

/// Where the samples of `[mint, maxt]` are cut into blocks: at the bounds of the blocks that are there,
/// so that no late block reaches over two of them, and else at those of the highest level, so that a
/// backfilled year is a few blocks and not thousands. The ranges ascend, touch and cover `[mint, maxt]`.
pub fn boundaries(blocks: &[BlockInfo], levels: &Levels, mint: i64, maxt: i64) -> Vec<(i64, i64)> {
    let mut present: Vec<(i64, i64)> =
        blocks.iter().map(|block| levels.range_of(block.mint, block.maxt)).collect();
    // Aligned ranges nest: keep those that lie in no other one.
    present.sort_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
    present.dedup_by(|next, kept| next.1 <= kept.1);
    let mut cuts = Vec::new();
    let mut start = mint;
    loop {
        let holder = present.iter().find(|range| range.0 <= start && start <= range.1);
        let end = match holder {
            Some(range) => range.1,
            None => {
                let next = present.iter().map(|range| range.0).filter(|&begin| begin > start).min();
                levels.longest_range(start).1.min(next.map_or(i64::MAX, |begin| begin - 1))
            }
        };
        cuts.push((start, end.min(maxt)));
        if end >= maxt {
            return cuts;
        }
        start = end + 1;
    }
}

/// The next merge, lowest level and oldest range first; `None` if there is nothing to do. Samples up
/// to `horizon` (inclusive) are all in blocks but for late ones: only ranges that end by then count.
pub fn plan(blocks: &[BlockInfo], levels: &Levels, horizon: i64) -> Option<Plan> {
    for (index, &length) in levels.lengths_ms.iter().enumerate() {
        let level = u8::try_from(index + 1).expect("there are few levels");
        let mut starts: Vec<i64> = blocks.iter().map(|block| aligned(block.mint, length).0).collect();
        starts.sort_unstable();
        starts.dedup();
        for start in starts {
            let range = (start, start + length - 1);
            if range.1 <= horizon
                && let Some(plan) = plan_range(blocks, range, level)
            {
                return Some(plan);
            }
        }
    }
    None
}

fn plan_range(blocks: &[BlockInfo], range: (i64, i64), level: u8) -> Option<Plan> {
    let inside: Vec<&BlockInfo> =
        blocks.iter().filter(|block| range.0 <= block.mint && block.maxt <= range.1).collect();
    let (main, late): (Vec<&BlockInfo>, Vec<&BlockInfo>) =
        inside.iter().partition(|block| block.level >= level);
    let n_samples = |blocks: &[&BlockInfo]| blocks.iter().map(|block| block.n_samples).sum::<u64>();
    if late.is_empty() && main.len() < 2 || inside.len() < 2 {
        return None;
    }
    let is_large = n_samples(&late).saturating_mul(10) >= n_samples(&main);
    if main.len() != 1 || is_large {
        return merge(blocks, &inside, level);
    }
    if late.len() < LATE_BLOCKS {
        return None;
    }
    // A lower level, so that the result still counts as late beside the main block.
    let late_level = late.iter().map(|block| block.level).max().unwrap_or(0);
    merge(blocks, &late, late_level).or_else(|| merge(blocks, &inside, level))
}

/// A merge of these blocks, unless it would change which of two values of a timestamp wins: that needs
/// every other block that overlaps them to have been acknowledged before all of them, or after all.
fn merge(blocks: &[BlockInfo], inputs: &[&BlockInfo], level: u8) -> Option<Plan> {
    let mint = inputs.iter().map(|block| block.mint).min()?;
    let maxt = inputs.iter().map(|block| block.maxt).max()?;
    let seq_min = inputs.iter().map(|block| block.seq.0).min()?;
    let seq_max = inputs.iter().map(|block| block.seq.1).max()?;
    let is_input = |block: &BlockInfo| inputs.iter().any(|input| input.id == block.id);
    let interferes = |block: &BlockInfo| {
        let overlaps = block.mint <= maxt && mint <= block.maxt;
        overlaps && block.seq.0 <= seq_max && seq_min <= block.seq.1
    };
    if inputs.iter().any(|block| block.damaged)
        || blocks.iter().any(|block| !is_input(block) && interferes(block))
    {
        return None;
    }
    let mut inputs: Vec<&BlockInfo> = inputs.to_vec();
    inputs.sort_by_key(|block| (block.seq, block.id));
    Some(Plan { inputs: inputs.iter().map(|block| block.id).collect(), level })
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: i64 = 100;

    fn levels() -> Levels {
        Levels::new(W, 48 * W)
    }

    fn block(id: u64, mint: i64, maxt: i64, level: u8, n_samples: u64) -> BlockInfo {
        BlockInfo { id: BlockId(id), mint, maxt, level, seq: (id, id), n_samples, damaged: false }
    }

    fn inputs(plan: Option<Plan>) -> Vec<u64> {
        plan.map_or(Vec::new(), |plan| plan.inputs.iter().map(|id| id.0).collect())
    }

    #[test]
    fn levels_end_at_the_longest_block() {
        assert_eq!(Levels::new(W, 5 * W).lengths_ms, [W, 4 * W]);
        assert_eq!(Levels::new(W, 1).lengths_ms, [W]);
    }

    #[test]
    fn runs_of_a_window_are_merged_once_it_is_closed() {
        let blocks = [block(1, 0, 50, 0, 10), block(2, 51, 99, 0, 10)];
        assert_eq!(plan(&blocks, &levels(), 98), None);
        assert_eq!(
            plan(&blocks, &levels(), 99),
            Some(Plan { inputs: vec![BlockId(1), BlockId(2)], level: 1 })
        );
    }

    #[test]
    fn windows_are_merged_to_the_next_level_when_their_range_is_complete() {
        let blocks: Vec<_> = (0..4).map(|n| block(n as u64, n * W, n * W + 99, 1, 10)).collect();
        assert_eq!(inputs(plan(&blocks, &levels(), 398)), []);
        assert_eq!(plan(&blocks, &levels(), 399).unwrap().level, 2);
        assert_eq!(inputs(plan(&blocks[..3], &levels(), 1_000)), [0, 1, 2]);
    }

    #[test]
    fn late_blocks_wait_beside_a_large_block() {
        let mut blocks = vec![block(1, 0, 399, 2, 1_000)];
        for id in 2..=4 {
            blocks.push(block(id, 10, 90, 0, 5));
            // The window of the late blocks has no main block, so they merge with each other.
            let next = plan(&blocks, &levels(), 1_198);
            assert!(!inputs(next).contains(&1), "{id}");
        }
        blocks.push(block(9, 10, 390, 0, 500));
        let all =
            plan(&blocks[..1].iter().chain(&blocks[4..]).cloned().collect::<Vec<_>>(), &levels(), 1_198);
        assert_eq!(inputs(all), [1, 9]);
    }

    #[test]
    fn a_merge_never_steps_over_a_block_that_ranks_between() {
        // Block 2 overlaps both and ranks between them, but reaches out of the window.
        let blocks = [block(1, 0, 99, 0, 10), block(2, 50, 150, 0, 10), block(3, 0, 99, 0, 10)];
        assert_eq!(inputs(plan(&blocks, &levels(), 199)), []);
        assert_eq!(inputs(plan(&blocks, &levels(), 399)), [1, 2, 3]);
    }

    #[test]
    fn damaged_blocks_stay_as_they_are() {
        let mut blocks = [block(1, 0, 99, 0, 10), block(2, 0, 99, 0, 10)];
        blocks[0].damaged = true;
        assert_eq!(plan(&blocks, &levels(), 10_000), None);
    }

    #[test]
    fn late_samples_are_cut_where_blocks_are() {
        let blocks = [block(1, 0, 399, 2, 1), block(2, 0, 99, 0, 1), block(3, 500, 580, 1, 1)];
        let cuts = boundaries(&blocks, &levels(), 10, 700);
        assert_eq!(cuts, [(10, 399), (400, 499), (500, 599), (600, 700)]);
        assert_eq!(boundaries(&[], &levels(), -5, 4_900), [(-5, -1), (0, 4_799), (4_800, 4_900)]);
        assert_eq!(boundaries(&[], &levels(), 7, 7), [(7, 7)]);
    }

    #[test]
    fn planning_ends_whatever_the_blocks() {
        // Merging what is planned until nothing is planned must end, with fewer blocks each time.
        let mut blocks: Vec<_> = (0..200u64)
            .map(|n| block(n + 1, (n as i64 * 37) % 9_000, (n as i64 * 37) % 9_000 + (n as i64 % 60), 0, n))
            .collect();
        let mut next_id = 1_000;
        while let Some(plan) = plan(&blocks, &levels(), i64::MAX) {
            let (taken, mut rest): (Vec<_>, Vec<_>) =
                blocks.into_iter().partition(|block| plan.inputs.contains(&block.id));
            assert!(taken.len() >= 2);
            rest.push(BlockInfo {
                id: BlockId(next_id),
                mint: taken.iter().map(|block| block.mint).min().unwrap(),
                maxt: taken.iter().map(|block| block.maxt).max().unwrap(),
                level: plan.level,
                seq: (
                    taken.iter().map(|block| block.seq.0).min().unwrap(),
                    taken.iter().map(|block| block.seq.1).max().unwrap(),
                ),
                n_samples: taken.iter().map(|block| block.n_samples).sum(),
                damaged: false,
            });
            next_id += 1;
            blocks = rest;
        }
        assert!(blocks.len() < 60, "{}", blocks.len());
    }
}
