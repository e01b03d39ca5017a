//! Blocks written and read back.

use super::*;
use crate::block::side;
use crate::block::tiles::{RANKS_PER_TILE, TileReader};
use crate::kv::{KvRead, MemoryKv};
use crate::part::{ColumnSlice, PartRead};
use chronolith_model::Labels;
use chronolith_model::append::{Exemplar, Metadata};
use chronolith_model::histogram::{CounterResetHint, FloatHistogram, Histogram, IntHistogram};
use chronolith_model::queryable::{HistogramNeed, Unlimited};
use proptest::prelude::*;
use std::sync::Arc;

/// 2023-11-15, 00:00 UTC.
const DAY: i64 = 1_700_006_400_000;

/// One run of a test series.
#[derive(Clone, Debug)]
enum Values {
    Floats(Vec<f64>),
    Constant(f64),
    Histograms(Vec<Histogram>),
}

#[derive(Clone, Debug)]
struct TestRun {
    times: ColumnSlice,
    values: Values,
    starts: Option<Vec<i64>>,
}

/// Series named by their position, each of some runs.
#[derive(Clone, Debug, Default)]
struct TestSource {
    series: Vec<Vec<TestRun>>,
    next: usize,
    names: Vec<Box<str>>,
}

impl TestSource {
    fn new(series: Vec<Vec<TestRun>>) -> Self {
        let mut names: Vec<Box<str>> = (0..series.len()).map(|i| format!("m{i:06}").into()).collect();
        names.insert(0, "__name__".into());
        Self { series, next: 0, names }
    }
}

impl BlockSource for TestSource {
    fn symbols(&mut self) -> Result<Vec<Box<str>>, StorageError> {
        Ok(self.names.clone())
    }

    fn next_series(&mut self, series: &mut SourceSeries) -> Result<bool, StorageError> {
        let Some(runs) = self.series.get(self.next) else { return Ok(false) };
        self.next += 1;
        series.labels.push((0, self.next as u32));
        let samples = &mut series.samples;
        for run in runs {
            let values = match &run.values {
                Values::Constant(value) => RunValues::Constant(*value),
                Values::Floats(values) => {
                    let start = samples.values.len();
                    samples.values.extend_from_slice(values);
                    RunValues::Floats(start..samples.values.len())
                }
                Values::Histograms(histograms) => {
                    let start = samples.histograms.len();
                    samples.histograms.extend(histograms.iter().cloned().map(Arc::new));
                    RunValues::Histograms(start..samples.histograms.len())
                }
            };
            samples.runs.push(Run {
                series: 0,
                times: run.times.clone(),
                values,
                start_timestamps: run.starts.clone().map(Arc::from),
                first_of_chunk: false,
            });
        }
        if self.next == 1 {
            let labels = Labels::from_pairs([("trace_id", "7")]).expect("one name");
            series.exemplars.push(Exemplar { labels, value: 0.5, timestamp: DAY });
        }
        Ok(true)
    }

    fn metadata(&mut self) -> Result<Vec<(String, Vec<Metadata>)>, StorageError> {
        Ok(vec![("m000000".to_owned(), vec![Metadata::default()])])
    }
}

fn meta(mint: i64, maxt: i64) -> BlockMeta {
    BlockMeta {
        id: BlockId(77),
        mint,
        maxt,
        level: 1,
        seq_min: 3,
        seq_max: 5,
        tables: vec![9],
        parents: vec![1, 2],
        effort: Effort::Seal,
        spill_dir: None,
    }
}

fn write(meta: BlockMeta, series: Vec<Vec<TestRun>>) -> (BlockHeader, Arc<MemoryKv>) {
    let mut kv = MemoryKv::default();
    let header = write_block(meta, &mut TestSource::new(series), &mut kv).expect("the source is in order");
    (header, Arc::new(kv))
}

const ALL: PartRead = PartRead {
    mint: i64::MIN,
    maxt: i64::MAX,
    lookups: None,
    values: true,
    histograms: HistogramNeed::Full,
    start_timestamps: true,
};

fn reader(header: &BlockHeader, kv: &Arc<MemoryKv>) -> TileReader {
    let kv: Arc<dyn KvRead> = Arc::clone(kv) as _;
    TileReader::new(kv, Arc::new(header.clone()), 1 << 20, None)
}

fn read(header: &BlockHeader, kv: &Arc<MemoryKv>, ranks: &[u32], read: &PartRead) -> RunBuffer {
    let mut out = RunBuffer::default();
    reader(header, kv).read(ranks, &|_| &[], read, &mut out, &Unlimited::default()).expect("as written");
    out
}

/// Every sample as (series, time, value bits or histogram text, start), in order.
fn samples(buffer: &RunBuffer) -> Vec<(u32, i64, String, i64)> {
    let mut all = Vec::new();
    for run in &buffer.runs {
        for (at, &time) in run.times.times().iter().enumerate() {
            let value = match &run.values {
                RunValues::Constant(value) => format!("{:x}", value.to_bits()),
                RunValues::Floats(range) => format!("{:x}", buffer.values[range.start + at].to_bits()),
                RunValues::Histograms(range) => format!("{:?}", buffer.histograms[range.start + at]),
            };
            all.push((run.series, time, value, run.start_timestamps.as_ref().map_or(0, |starts| starts[at])));
        }
    }
    all
}

fn expected(series: &[Vec<TestRun>]) -> Vec<(u32, i64, String, i64)> {
    let mut all = Vec::new();
    for (number, runs) in (0u32..).zip(series) {
        for run in runs {
            for (at, &time) in run.times.times().iter().enumerate() {
                let value = match &run.values {
                    Values::Constant(value) => format!("{:x}", value.to_bits()),
                    Values::Floats(values) => format!("{:x}", values[at].to_bits()),
                    Values::Histograms(histograms) => format!("{:?}", histograms[at]),
                };
                all.push((number, time, value, run.starts.as_ref().map_or(0, |starts| starts[at])));
            }
        }
    }
    all
}

/// Writes, reads everything back and compares, header included.
fn check(meta: BlockMeta, series: Vec<Vec<TestRun>>) -> (BlockHeader, Arc<MemoryKv>) {
    let (header, kv) = write(meta, series.clone());
    let ranks: Vec<u32> = (0..header.n_series).collect();
    let buffer = read(&header, &kv, &ranks, &ALL);
    assert_eq!(samples(&buffer), expected(&series));
    let stored = kv.records.get(&crate::kv::keys::key(BlockId(77), Kind::Header, &[])).expect("a header");
    assert_eq!(BlockHeader::decode(BlockId(77), stored).expect("as written"), header);
    for kind in Kind::ALL {
        let (from, to) = crate::kv::keys::kind_range(BlockId(77), kind);
        assert_eq!(kv.records.range(from..to).count() as u64, header.n_keys[kind as usize], "{kind:?}");
    }
    let mut content = ContentHash::default();
    for run in &buffer.runs {
        let name = format!("m{:06}", run.series);
        content.add_run(ContentHash::series([("__name__", &*name)]), run, &buffer);
    }
    let ContentHash { sum, n_floats, n_histograms } = content;
    assert_eq!((sum, n_floats, n_histograms), (header.content_hash, header.n_floats, header.n_histograms));
    (header, kv)
}

fn grid(start: i64, step: i64, count: i64) -> Arc<Vec<i64>> {
    Arc::new((0..count).map(|i| start + i * step).collect())
}

fn jittered(start: i64, count: i64, seed: i64) -> Arc<Vec<i64>> {
    Arc::new((0..count).map(|i| start + i * 15_000 + (i * i * 7919 + seed * 31) % 13).collect())
}

fn whole(column: &Arc<Vec<i64>>) -> ColumnSlice {
    part(column, 0, column.len())
}

fn part(column: &Arc<Vec<i64>>, first: usize, count: usize) -> ColumnSlice {
    ColumnSlice { column: Arc::clone(column), first: first as u32, count: count as u32 }
}

fn floats(times: ColumnSlice, seed: usize) -> TestRun {
    let values = (0..times.count as usize).map(|i| (i * i % (seed + 2)) as f64 + seed as f64).collect();
    TestRun { times, values: Values::Floats(values), starts: None }
}

fn n_keys(header: &BlockHeader, kind: Kind) -> u64 {
    header.n_keys[kind as usize]
}

#[test]
fn series_of_one_scrape_share_one_timestamp_column() {
    let column = jittered(DAY, 480, 1);
    let mut series: Vec<Vec<TestRun>> = (0..300).map(|i| vec![floats(whole(&column), i)]).collect();
    // Begins late, ends early, and equal times in another place.
    series[3] = vec![floats(part(&column, 100, 380), 3)];
    series[4] = vec![floats(part(&column, 0, 90), 4)];
    series[5] = vec![floats(whole(&Arc::new(column.to_vec())), 5)];
    let (header, kv) = check(meta(DAY, DAY + 7_200_000), series);
    assert_eq!((header.n_series, header.n_chunks, header.n_floats), (300, 300, 300 * 480 - 100 - 390));
    assert_eq!((header.mint, header.maxt), (column[0], column[479]));
    assert_eq!(n_keys(&header, Kind::Timestamps), 1);
    assert!(n_keys(&header, Kind::Tiles) >= 300 / u64::from(RANKS_PER_TILE));
    let buffer = read(&header, &kv, &[0, 7, 200], &ALL);
    assert!(buffer.runs[0].times.same(&buffer.runs[1].times));
    assert!(buffer.runs[0].times.same(&buffer.runs[2].times));
}

#[test]
fn a_column_of_one_series_is_in_its_tile_and_one_with_holes_is_a_bitmap() {
    let series: Vec<Vec<TestRun>> = (0..13).map(|i| vec![floats(whole(&jittered(DAY, 200, i)), 1)]).collect();
    let (header, _) = check(meta(DAY, DAY + 7_200_000), series);
    assert_eq!(n_keys(&header, Kind::Timestamps), 0);

    let column = jittered(DAY, 480, 1);
    let mut series: Vec<Vec<TestRun>> = (0..5).map(|i| vec![floats(whole(&column), i)]).collect();
    let holes: Vec<i64> =
        column.iter().enumerate().filter(|(i, _)| i % 10 != 3).map(|(_, &time)| time).collect();
    let plain = write(meta(DAY, DAY + 7_200_000), series.clone()).1;
    series.push(vec![TestRun {
        times: ColumnSlice::private(holes),
        values: Values::Constant(1.0),
        starts: None,
    }]);
    let (_, kv) = check(meta(DAY, DAY + 7_200_000), series);
    let tile_bytes = |kv: &MemoryKv| -> usize {
        let (from, to) = crate::kv::keys::kind_range(BlockId(77), Kind::Tiles);
        kv.records.range(from..to).map(|(_, value)| value.len()).sum()
    };
    assert!(tile_bytes(&kv) <= tile_bytes(&plain) + 480 / 8 + 20);
}

#[test]
fn metric_after_metric_of_many_targets_uses_the_columns_of_the_targets() {
    let targets: Vec<Arc<Vec<i64>>> =
        (0..50).map(|target| jittered(DAY + target * 300, 120, target)).collect();
    let series = (0..400).map(|i| vec![floats(whole(&targets[i % 50]), i)]).collect();
    let (header, _) = check(meta(DAY, DAY + 7_200_000), series);
    assert_eq!(n_keys(&header, Kind::Timestamps), 50);
}

#[test]
fn blocks_of_several_days_cut_chunks_at_midnight() {
    let column = grid(DAY - 3_600_000, 60_000, 3 * 1440);
    let series: Vec<Vec<TestRun>> = (0..200).map(|i| vec![floats(whole(&column), i)]).collect();
    let maxt = *column.last().expect("not empty");
    let (header, kv) = check(meta(DAY - 7_200_000, maxt), series.clone());
    assert_eq!(header.n_chunks, 200 * 4);
    // A day out of the middle.
    let day = PartRead { mint: DAY + 86_400_000, maxt: DAY + 2 * 86_400_000 - 1, ..ALL };
    let buffer = read(&header, &kv, &[150], &day);
    assert_eq!(buffer.runs.len(), 1);
    assert_eq!(buffer.runs[0].times.times().len(), 1440);
    assert!(!buffer.runs[0].first_of_chunk);
}

#[test]
fn tiles_that_do_not_fit_into_memory_wait_in_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let column = grid(DAY, 8_640_000, 40);
    let mut random = 1u64;
    let series: Vec<Vec<TestRun>> = (0..700)
        .map(|_| {
            let noise = (0..40).map(|_| {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                f64::from_bits(random)
            });
            vec![TestRun { times: whole(&column), values: Values::Floats(noise.collect()), starts: None }]
        })
        .collect();
    let spilling = BlockMeta { spill_dir: Some(folder.path().to_owned()), ..meta(DAY, DAY + 40 * 8_640_000) };
    let (header, kv) = check(spilling, series.clone());
    let (other, in_memory) = write(meta(DAY, DAY + 40 * 8_640_000), series);
    assert_eq!(header, other);
    assert_eq!(kv.records, in_memory.records);
    assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 0);
}

#[test]
fn long_series_become_several_chunks_and_tiles() {
    let column = grid(DAY, 10, 900_000);
    let noise: Vec<f64> =
        (0..900_000u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 30) as f64).collect();
    let run = TestRun { times: whole(&column), values: Values::Floats(noise), starts: None };
    let short = vec![floats(part(&column, 0, 10), 1)];
    let series = vec![short.clone(), vec![run], short.clone(), short];
    let (header, kv) = check(meta(DAY, DAY + 86_399_999), series);
    assert!(header.n_chunks >= 220);
    assert!(n_keys(&header, Kind::Tiles) >= 3);
    let late = PartRead { mint: DAY + 8_000_000, maxt: DAY + 8_000_100, ..ALL };
    let buffer = read(&header, &kv, &[0, 1, 2], &late);
    let of_long = buffer.runs.iter().filter(|run| run.series == 1);
    assert!(of_long.map(|run| run.times.count).sum::<u32>() <= 2 * 4096);
}

fn int(schema: i32, count: u64, hint: CounterResetHint) -> Histogram {
    Histogram::Int(IntHistogram { schema, count, counter_reset_hint: hint, ..IntHistogram::default() })
}

#[test]
fn floats_and_histograms_of_several_layouts_alternate_in_a_series() {
    let column = grid(DAY, 1000, 100);
    let histograms =
        |times, histograms| TestRun { times, values: Values::Histograms(histograms), starts: None };
    let float = Histogram::Float(FloatHistogram { count: 1.5, ..FloatHistogram::default() });
    let mixed: Vec<Histogram> = (0..20)
        .map(|i| if i < 12 { int(i / 5, i as u64, CounterResetHint::Unknown) } else { float.clone() })
        .collect();
    let series = vec![vec![
        floats(part(&column, 0, 10), 1),
        histograms(part(&column, 10, 20), mixed),
        floats(part(&column, 30, 5), 2),
    ]];
    let (header, _) = check(meta(DAY, DAY + 100_000), series);
    assert_eq!((header.n_chunks, header.n_floats, header.n_histograms), (1 + 4 + 1, 15, 20));
}

#[test]
fn the_first_histogram_of_a_block_forgets_its_reset_hint() {
    let column = grid(DAY, 1000, 3);
    let of = |hint| (0..3).map(|i| int(1, i, hint)).collect::<Vec<_>>();
    let run =
        |hint| vec![TestRun { times: whole(&column), values: Values::Histograms(of(hint)), starts: None }];
    let hints = [CounterResetHint::NotReset, CounterResetHint::Reset, CounterResetHint::Gauge];
    let (header, kv) = write(meta(DAY, DAY + 10_000), hints.map(run).to_vec());
    let buffer = read(&header, &kv, &[0, 1, 2], &ALL);
    let read_hints: Vec<CounterResetHint> = buffer
        .histograms
        .iter()
        .map(|histogram| match &**histogram {
            Histogram::Int(histogram) => histogram.counter_reset_hint,
            Histogram::Float(_) => panic!("whole numbers stay whole numbers"),
        })
        .collect();
    use CounterResetHint::{Gauge, NotReset, Reset, Unknown};
    assert_eq!(read_hints, [Unknown, NotReset, NotReset, Unknown, Reset, Reset, Gauge, Gauge, Gauge]);
}

#[test]
fn start_timestamps_come_back_where_they_are_known() {
    let column = grid(DAY, 1000, 50);
    let known = TestRun { starts: Some(vec![DAY - 5; 50]), ..floats(whole(&column), 1) };
    let unknown = TestRun { starts: Some(vec![0; 50]), ..floats(whole(&column), 1) };
    let (header, kv) = check(meta(DAY, DAY + 50_000), vec![vec![known], vec![unknown]]);
    let without = PartRead { start_timestamps: false, ..ALL };
    let buffer = read(&header, &kv, &[0, 1], &without);
    assert!(buffer.runs.iter().all(|run| run.start_timestamps.is_none()));
}

#[test]
fn deleted_ranges_and_presence_reads() {
    let column = grid(DAY, 1000, 100);
    let mut values: Vec<f64> = (0..100).map(f64::from).collect();
    let plain = TestRun { times: whole(&column), values: Values::Floats(values.clone()), starts: None };
    values[50] = chronolith_model::sample::stale_nan();
    let stale = TestRun { times: whole(&column), values: Values::Floats(values), starts: None };
    let (header, kv) = write(meta(DAY, DAY + 100_000), vec![vec![plain.clone()], vec![stale], vec![plain]]);
    let mut out = RunBuffer::default();
    let gone = [(DAY + 10_000, DAY + 19_999), (DAY + 90_000, i64::MAX)];
    let everything = [(i64::MIN, i64::MAX)];
    let deleted = |rank: u32| match rank {
        0 => &gone[..],
        2 => &everything[..],
        _ => &[],
    };
    reader(&header, &kv)
        .read(&[0, 1, 2], &deleted, &PartRead { values: false, ..ALL }, &mut out, &Unlimited::default())
        .expect("as written");
    let of = |series: u32| samples(&out).into_iter().filter(|sample| sample.0 == series).collect::<Vec<_>>();
    assert_eq!(of(0).len(), 80);
    assert!(of(0).iter().all(|&(_, time, ..)| !(DAY + 10_000..DAY + 20_000).contains(&time)));
    assert!(matches!(out.runs[0].values, RunValues::Constant(_)));
    assert_eq!(of(1)[50].2, format!("{:x}", chronolith_model::sample::STALE_NAN_BITS));
    assert!(of(2).is_empty());
}

#[test]
fn exemplars_and_metadata_are_written() {
    let (header, kv) = write(meta(DAY, DAY + 10_000), vec![vec![floats(whole(&grid(DAY, 1000, 3)), 1)]]);
    let exemplars = side::exemplars(&*kv, BlockId(77), 0).expect("as written");
    assert_eq!(exemplars.len(), 1);
    assert!(side::exemplars(&*kv, BlockId(77), 1).expect("there is none").is_empty());
    let mut families = Vec::new();
    side::metadata(&*kv, BlockId(77), &mut |name, _| families.push(name.to_owned())).expect("as written");
    assert_eq!(families, ["m000000"]);
    assert_eq!((header.tables, header.parents, header.level), (vec![9], vec![1, 2], 1));
}

#[test]
fn a_source_without_samples_writes_nothing() {
    let (header, kv) = write(meta(DAY, DAY + 10), vec![]);
    assert_eq!(header.n_series, 0);
    assert!(kv.records.is_empty());
    let empty = TestRun { times: part(&grid(DAY, 1, 3), 1, 0), values: Values::Constant(1.0), starts: None };
    let (header, kv) = write(meta(DAY, DAY + 10), vec![vec![], vec![empty]]);
    assert_eq!((header.n_series, kv.records.len()), (0, 0));
}

#[test]
fn sources_that_break_their_promises_are_refused() {
    let column = grid(DAY, 1000, 10);
    let refused = |meta, runs: Vec<TestRun>| {
        write_block(meta, &mut TestSource::new(vec![runs]), &mut MemoryKv::default()).is_err()
    };
    let run = || floats(whole(&column), 1);
    assert!(!refused(meta(DAY, DAY + 9000), vec![run()]));
    assert!(refused(meta(DAY, DAY + 8999), vec![run()]));
    assert!(refused(meta(DAY + 1, DAY + 9000), vec![run()]));
    assert!(refused(meta(DAY, DAY + 9000), vec![run(), run()]));
    let unsorted = Arc::new(vec![DAY, DAY + 5, DAY + 5]);
    assert!(refused(meta(DAY, DAY + 9000), vec![floats(whole(&unsorted), 1)]));
    let short = TestRun { times: whole(&column), values: Values::Floats(vec![1.0; 9]), starts: None };
    assert!(refused(meta(DAY, DAY + 9000), vec![short]));
    assert!(refused(meta(i64::MIN, i64::MAX), vec![run()]));
}

#[test]
fn damaged_tiles_and_columns_are_errors_or_other_samples_but_never_a_panic() {
    let column = jittered(DAY, 30, 1);
    let series: Vec<Vec<TestRun>> = (0..3).map(|i| vec![floats(whole(&column), i)]).collect();
    let (header, kv) = write(meta(DAY, DAY + 7_200_000), series);
    for kind in [Kind::Tiles, Kind::Timestamps] {
        let (from, to) = crate::kv::keys::kind_range(BlockId(77), kind);
        for (key, value) in kv.records.range(from..to) {
            for bit in 0..value.len() * 8 {
                let mut damaged = (*kv).clone();
                damaged.records.get_mut(key).expect("the key is there")[bit / 8] ^= 1 << (bit % 8);
                let mut out = RunBuffer::default();
                let _ = reader(&header, &Arc::new(damaged)).read(
                    &[0, 1, 2],
                    &|_| &[],
                    &ALL,
                    &mut out,
                    &Unlimited::default(),
                );
            }
            let mut missing = (*kv).clone();
            missing.records.remove(key);
            let result = reader(&header, &Arc::new(missing)).read(
                &[0],
                &|_| &[],
                &ALL,
                &mut RunBuffer::default(),
                &Unlimited::default(),
            );
            assert_eq!(result.is_err(), kind == Kind::Timestamps);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_runs_come_back(
        shapes in prop::collection::vec(prop::collection::vec((0usize..4, 0usize..200, 1usize..400, 0usize..5), 0..3), 1..200),
        step in 1i64..2_000_000,
    ) {
        let columns: Vec<Arc<Vec<i64>>> =
            (0..4).map(|i| Arc::new((0..600).map(|j| DAY + j * step + i * 7 + j % (i + 1)).collect())).collect();
        let series: Vec<Vec<TestRun>> = shapes.iter().map(|runs| {
            let mut used = 0;
            runs.iter().filter_map(|&(column, gap, count, class)| {
                let (first, count) = (used + gap, count.min(600usize.saturating_sub(used + gap)));
                if count == 0 || used > 0 && first == used {
                    return None;
                }
                used = first + count + 1;
                let times = part(&columns[column], first, count);
                Some(match class {
                    0 => TestRun { times, values: Values::Constant(gap as f64), starts: None },
                    1 => TestRun { starts: Some(vec![gap as i64; count]), ..floats(times, gap) },
                    2 => TestRun {
                        times,
                        values: Values::Histograms((0..count).map(|i| int((i / 50) as i32, i as u64, CounterResetHint::Gauge)).collect()),
                        starts: None,
                    },
                    _ => floats(times, class + gap),
                })
            }).collect::<Vec<_>>()
        }).filter(|runs: &Vec<TestRun>| !runs.is_empty()).collect();
        prop_assume!(!series.is_empty());
        let ascending = series.iter().all(|runs| runs.windows(2).all(|pair| {
            pair[0].times.times().last() < pair[1].times.times().first()
        }));
        prop_assume!(ascending);
        check(meta(DAY, DAY + 620 * step + 100), series);
    }
}
