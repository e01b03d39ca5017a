//! Which blocks are merged next, and where late data is cut. Pure arithmetic over block headers; the
//! merge itself is [`super::merge`], its commit is the store's.
//!
//! A block sealed from a table has level 0. Level 1 merges the runs of a window, level 2 four windows
//! (8 h), level 3 twelve (1 d), each further one four times the one before, up to the longest block
//! that the options allow. Ranges of a level are aligned, so ranges of different levels nest. A window of two
//! runs waits for level 2: to write all of it again would spare one block.
//!
//! Levels wait until a range is complete, and a block that reaches out of a range or ranks between
//! others can keep them from it. So that the number of blocks is bounded whatever is sealed (deletions
//! and restarts each second, late samples everywhere), small blocks that become a crowd are merged by
//! precedence, whatever their times: neighbours in the order of their freezes can always be merged.

use crate::kv::keys::BlockId;
use std::collections::BTreeMap;

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
    /// It stays as it is: it cannot be read whole, or a table that ranks before it is not sealed yet.
    pub stays: bool,
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

/// More small blocks in one range of the highest level are a crowd. Levels leave about 16: three of each
/// level that wait for their range, and some late ones.
const CROWD: usize = 32;

/// Where many ranges hold small blocks, fewer of them are a crowd, so that all have no more than this
/// together; down to [`LEAST_CROWD`].
const ALL_CROWDS: usize = 192;
const LEAST_CROWD: usize = 8;

/// A block with fewer samples is small: a twelfth of a full table. How many larger ones there can be follows
/// from how much is stored.
const SMALL_SAMPLES: u64 = 1 << 20;

/// Samples that a merge of a crowd takes at most. Of each input the samples of some hundred series are
/// decoded at once; with so few series in all that would be everything, 64 MB.
const MAX_CROWD_SAMPLES: u64 = 4 << 20;

/// Blocks that a merge of a crowd takes at most. Each has some eight files, which take about a tenth of a
/// millisecond each to open, read and drop: such a merge ends within the second that a server lives in
/// a loop of crashes.
const MAX_CROWD_INPUTS: usize = 96;

/// What a merge pays for a block besides its samples, in samples.
const BLOCK_COST_SAMPLES: u64 = 20_000;

/// Runs of a crowd that are looked at for one that can be merged.
const MAX_CROWD_TRIES: usize = 256;

/// A sealed table is cut into so many blocks whatever its size ...
const FREE_CUTS: u64 = 4;
/// ... and into more only if each holds so many samples on average: two full chunks.
const MIN_SAMPLES_PER_CUT: u64 = 8_192;

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
///
/// A few late samples all over the store would so become a block for each of its ranges. With fewer
/// samples than that is worth (`n_samples`) ranges of a higher level are taken.
pub fn boundaries(
    blocks: &[BlockInfo],
    levels: &Levels,
    (mint, maxt): (i64, i64),
    n_samples: u64,
) -> Vec<(i64, i64)> {
    let most = FREE_CUTS.max(n_samples / MIN_SAMPLES_PER_CUT);
    let mut cuts = Vec::new();
    for &length in &levels.lengths_ms {
        cuts = cut(blocks, levels, (mint, maxt), length);
        if cuts.len() as u64 <= most {
            break;
        }
    }
    cuts
}

/// The cuts at the bounds of blocks, each taken as no shorter than `shortest`.
fn cut(blocks: &[BlockInfo], levels: &Levels, (mint, maxt): (i64, i64), shortest: i64) -> Vec<(i64, i64)> {
    let range_of = |block: &BlockInfo| {
        let (start, end) = levels.range_of(block.mint, block.maxt);
        let longer = aligned(start, shortest);
        if longer.1 >= end { longer } else { (start, end) }
    };
    let mut present: Vec<(i64, i64)> = blocks.iter().map(range_of).collect();
    // Aligned ranges nest: keep those that lie in no other one.
    present.sort_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
    present.dedup_by(|next, kept| next.1 <= kept.1);
    let mut cuts = Vec::new();
    let mut start = mint;
    let mut at = 0;
    loop {
        while present.get(at).is_some_and(|range| range.1 < start) {
            at += 1;
        }
        let end = match present.get(at) {
            Some(&(begin, end)) if begin <= start => end,
            next => levels.longest_range(start).1.min(next.map_or(i64::MAX, |next| next.0 - 1)),
        };
        cuts.push((start, end.min(maxt)));
        if end >= maxt {
            return cuts;
        }
        start = end + 1;
    }
}

/// The next merge: of a crowd if there is one, else of the lowest level and oldest range; `None` if there
/// is nothing to do. Samples up to `horizon` (inclusive) are all in blocks but for late ones: only
/// levels of ranges that end by then are merged.
pub fn plan(blocks: &[BlockInfo], levels: &Levels, horizon: i64) -> Option<Plan> {
    plan_crowd(blocks, levels).or_else(|| plan_level(blocks, levels, horizon))
}

/// A merge of small blocks that stand too close: those neighbours in precedence that cost least for each
/// block that goes. Large ones among them are left alone unless they rank between and overlap.
pub fn plan_crowd(blocks: &[BlockInfo], levels: &Levels) -> Option<Plan> {
    let mut crowds: BTreeMap<i64, Vec<&BlockInfo>> = BTreeMap::new();
    for block in blocks.iter().filter(|block| !block.stays && block.n_samples < SMALL_SAMPLES) {
        let range = levels.longest_range(block.mint);
        if block.maxt <= range.1 {
            crowds.entry(range.0).or_default().push(block);
        }
    }
    let limit = (ALL_CROWDS / crowds.len().max(1)).clamp(LEAST_CROWD, CROWD);
    crowds.retain(|_, crowd| crowd.len() > limit);
    let mut crowds: Vec<Vec<&BlockInfo>> = crowds.into_values().collect();
    crowds.sort_by_key(|crowd| std::cmp::Reverse(crowd.len()));
    crowds.iter().find_map(|crowd| cheapest_run(blocks, crowd, levels.longest_range(crowd[0].mint)))
}

fn cheapest_run(blocks: &[BlockInfo], crowd: &[&BlockInfo], range: (i64, i64)) -> Option<Plan> {
    let mut crowd = crowd.to_vec();
    crowd.sort_by_key(|block| (block.seq, block.id));
    let mut samples_before = vec![0u64];
    for block in &crowd {
        samples_before.push(samples_before[samples_before.len() - 1].saturating_add(block.n_samples));
    }
    let mut runs = Vec::new();
    // Not two or three, which would be merged again at once.
    let mut n_blocks = MAX_CROWD_INPUTS.min(crowd.len());
    while n_blocks >= LEAST_CROWD / 2 {
        for start in 0..=crowd.len() - n_blocks {
            let n_samples = samples_before[start + n_blocks] - samples_before[start];
            if n_samples > MAX_CROWD_SAMPLES {
                continue;
            }
            let cost = n_samples.saturating_add(BLOCK_COST_SAMPLES * n_blocks as u64);
            runs.push((cost / (n_blocks as u64 - 1), start..start + n_blocks));
        }
        n_blocks /= 2;
    }
    runs.sort_by_key(|(cost, run)| (*cost, run.start));
    runs.into_iter().take(MAX_CROWD_TRIES).find_map(|(_, run)| {
        let inputs = with_interfering(blocks, &crowd[run])?;
        // A block longer than retention allows would keep what it holds too long.
        if inputs.iter().any(|block| block.mint < range.0 || range.1 < block.maxt) {
            return None;
        }
        let level = inputs.iter().map(|block| block.level).max()?;
        merge(blocks, &inputs, level)
    })
}

/// A run of a crowd with all that overlaps it and ranks between; `None` if that is too much, or cannot be
/// merged.
fn with_interfering<'b>(blocks: &'b [BlockInfo], run: &[&'b BlockInfo]) -> Option<Vec<&'b BlockInfo>> {
    let of_run: u64 = run.iter().map(|block| block.n_samples).sum();
    // Not a large block for the sake of a few samples.
    let most_samples = SMALL_SAMPLES.max(of_run.saturating_mul(8)).min(MAX_CROWD_SAMPLES);
    let mut inputs = run.to_vec();
    loop {
        let hull = Hull::of(&inputs)?;
        let is_missing =
            |block: &&BlockInfo| hull.interferes(block) && !inputs.iter().any(|input| input.id == block.id);
        let missing: Vec<&BlockInfo> = blocks.iter().filter(is_missing).collect();
        if missing.is_empty() {
            return Some(inputs);
        }
        inputs.extend(missing);
        let n_samples: u64 = inputs.iter().map(|block| block.n_samples).sum();
        let is_too_much = inputs.len() > 2 * MAX_CROWD_INPUTS || n_samples - of_run > most_samples;
        if is_too_much || inputs.iter().any(|block| block.stays) {
            return None;
        }
    }
}

/// Times and precedences of several blocks, the first and the last.
struct Hull {
    mint: i64,
    maxt: i64,
    seq: (u64, u64),
}

impl Hull {
    fn of(blocks: &[&BlockInfo]) -> Option<Self> {
        Some(Self {
            mint: blocks.iter().map(|block| block.mint).min()?,
            maxt: blocks.iter().map(|block| block.maxt).max()?,
            seq: (
                blocks.iter().map(|block| block.seq.0).min()?,
                blocks.iter().map(|block| block.seq.1).max()?,
            ),
        })
    }

    /// Whether a block overlaps in time and does not rank before or behind all.
    fn interferes(&self, block: &BlockInfo) -> bool {
        let overlaps = block.mint <= self.maxt && self.mint <= block.maxt;
        overlaps && block.seq.0 <= self.seq.1 && self.seq.0 <= block.seq.1
    }
}

fn plan_level(blocks: &[BlockInfo], levels: &Levels, horizon: i64) -> Option<Plan> {
    for (index, &length) in levels.lengths_ms.iter().enumerate() {
        let level = u8::try_from(index + 1).expect("there are few levels");
        let mut starts: Vec<i64> = blocks.iter().map(|block| aligned(block.mint, length).0).collect();
        starts.sort_unstable();
        starts.dedup();
        for start in starts {
            let range = (start, start + length - 1);
            if range.1 <= horizon
                && let Some(plan) = plan_range(blocks, range, level)
                && (plan.inputs.len() > 2 || index > 0 || levels.lengths_ms.len() == 1)
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
    let hull = Hull::of(inputs)?;
    let is_input = |block: &BlockInfo| inputs.iter().any(|input| input.id == block.id);
    if inputs.iter().any(|block| block.stays)
        || blocks.iter().any(|block| hull.interferes(block) && !is_input(block))
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
        BlockInfo { id: BlockId(id), mint, maxt, level, seq: (id, id), n_samples, stays: false }
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
        let blocks = [block(1, 0, 50, 0, 10), block(2, 51, 70, 0, 10), block(3, 71, 99, 0, 10)];
        assert_eq!(plan(&blocks, &levels(), 98), None);
        let all = vec![BlockId(1), BlockId(2), BlockId(3)];
        assert_eq!(plan(&blocks, &levels(), 99), Some(Plan { inputs: all, level: 1 }));
    }

    #[test]
    fn two_runs_of_a_window_wait_for_a_longer_range_if_there_is_one() {
        let blocks = [block(1, 0, 50, 0, 10), block(2, 51, 99, 0, 10)];
        assert_eq!(plan(&blocks, &levels(), 398), None);
        assert_eq!(plan(&blocks, &levels(), 399).unwrap().level, 2);
        assert_eq!(plan(&blocks, &Levels::new(W, W), 99).unwrap().level, 1);
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
        blocks[0].stays = true;
        assert_eq!(plan(&blocks, &levels(), 10_000), None);
    }

    #[test]
    fn late_samples_are_cut_where_blocks_are() {
        let blocks = [block(1, 0, 399, 2, 1), block(2, 0, 99, 0, 1), block(3, 500, 580, 1, 1)];
        let cuts = boundaries(&blocks, &levels(), (10, 700), 100);
        assert_eq!(cuts, [(10, 399), (400, 499), (500, 599), (600, 700)]);
        assert_eq!(boundaries(&[], &levels(), (-5, 4_900), 100), [(-5, -1), (0, 4_799), (4_800, 4_900)]);
        assert_eq!(boundaries(&[], &levels(), (7, 7), 1), [(7, 7)]);
    }

    #[test]
    fn a_few_late_samples_are_not_cut_at_every_block() {
        let blocks: Vec<_> = (0..48).map(|n| block(n as u64, n * W, n * W + 99, 1, 10)).collect();
        let cuts = |n_samples| boundaries(&blocks, &levels(), (50, 4_750), n_samples).len();
        assert_eq!(cuts(48 * MIN_SAMPLES_PER_CUT), 48);
        assert_eq!(cuts(12 * MIN_SAMPLES_PER_CUT), 12);
        assert_eq!(cuts(30), 4);
        assert_eq!(boundaries(&blocks, &levels(), (50, 99), 30), [(50, 99)]);
    }

    /// Blocks with what is in them: by timestamp, the precedence of the table whose sample is served.
    #[derive(Default)]
    struct Model {
        blocks: Vec<(BlockInfo, BTreeMap<i64, u64>)>,
        next_id: u64,
        next_seq: u64,
    }

    impl Model {
        fn infos(&self) -> Vec<BlockInfo> {
            self.blocks.iter().map(|(info, _)| info.clone()).collect()
        }

        /// Seals a table of samples at these times.
        fn seal(&mut self, times: &[i64]) {
            let (mint, maxt) = (*times.iter().min().unwrap(), *times.iter().max().unwrap());
            for (from, to) in boundaries(&self.infos(), &levels(), (mint, maxt), times.len() as u64) {
                let times = times.iter().filter(|time| (from..=to).contains(*time));
                self.add(0, (self.next_seq, self.next_seq), times.map(|&t| (t, self.next_seq)).collect());
            }
            self.next_seq += 1;
        }

        fn add(&mut self, level: u8, seq: (u64, u64), samples: BTreeMap<i64, u64>) {
            let (Some((&mint, _)), Some((&maxt, _))) = (samples.first_key_value(), samples.last_key_value())
            else {
                return;
            };
            self.next_id += 1;
            let (id, n_samples) = (BlockId(self.next_id), samples.len() as u64);
            self.blocks.push((BlockInfo { id, mint, maxt, level, seq, n_samples, stays: false }, samples));
        }

        fn merge(&mut self, plan: &Plan) {
            assert!(plan.inputs.len() >= 2);
            let is_input = |(info, _): &(BlockInfo, _)| plan.inputs.contains(&info.id);
            let (mut taken, rest): (Vec<_>, Vec<_>) = self.blocks.drain(..).partition(is_input);
            self.blocks = rest;
            taken.sort_by_key(|(info, _)| info.seq.0);
            let seq = (
                taken.iter().map(|(info, _)| info.seq.0).min().unwrap(),
                taken.iter().map(|(info, _)| info.seq.1).max().unwrap(),
            );
            let mut samples = BTreeMap::new();
            for (_, of_input) in taken {
                for (time, from) in of_input {
                    samples.entry(time).or_insert(from);
                }
            }
            self.add(plan.level, seq, samples);
        }

        /// What is served at each time: the sample of the block that ranks first.
        fn served(&self) -> BTreeMap<i64, u64> {
            let mut blocks: Vec<_> = self.blocks.iter().collect();
            blocks.sort_by_key(|(info, _)| info.seq.0);
            let mut served = BTreeMap::new();
            for (time, from) in blocks.iter().flat_map(|(_, samples)| samples) {
                served.entry(*time).or_insert(*from);
            }
            served
        }
    }

    /// A run of 200 kills left 6,000 blocks: each deletion sealed a table of late samples into a block
    /// for each range, and these kept each other from being merged.
    #[test]
    fn deletions_and_late_samples_each_second_leave_few_blocks() {
        let mut model = Model { next_seq: 1, ..Model::default() };
        let mut most = 0;
        for step in 0..2_000i64 {
            let now = 100_000 + step * 30;
            model.seal(&[now, now + 10, now + 20]);
            let late: Vec<i64> = (0..12).map(|n| now - 150 - (step * 7919 + n * 104_729) % 20_000).collect();
            model.seal(&late);
            let horizon = now.div_euclid(W) * W - W - 1;
            // Half as many merges as seals.
            if let Some(plan) = plan(&model.infos(), &levels(), horizon) {
                model.merge(&plan);
            }
            most = most.max(model.blocks.len());
        }
        assert!(most < 250, "{most}");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn no_merge_changes_which_sample_is_served(
            tables in proptest::collection::vec(proptest::collection::vec(0i64..6_000, 1..12), 40..200),
            n_merges in proptest::collection::vec(0usize..2, 200),
        ) {
            let mut model = Model { next_seq: 1, ..Model::default() };
            let mut expected = BTreeMap::new();
            for (seq, (times, &n_merges)) in (1u64..).zip(tables.iter().zip(&n_merges)) {
                model.seal(times);
                times.iter().for_each(|time| { expected.entry(*time).or_insert(seq); });
                for _ in 0..n_merges {
                    let Some(plan) = plan(&model.infos(), &levels(), 2_999) else { break };
                    model.merge(&plan);
                }
                proptest::prop_assert_eq!(&model.served(), &expected);
            }
            while let Some(plan) = plan(&model.infos(), &levels(), i64::MAX) {
                model.merge(&plan);
                proptest::prop_assert_eq!(&model.served(), &expected);
            }
        }
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
                stays: false,
            });
            next_id += 1;
            blocks = rest;
        }
        assert!(blocks.len() < 60, "{}", blocks.len());
    }
}
