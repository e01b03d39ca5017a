//! The inverted index and the read path above it, in memory: no RocksDB, no disk.
//!
//! Data: 100 metrics of 500 targets in 10 jobs, 50,000 series, every second target in another zone; per
//! block 60 samples a series, one timestamp column a target. Four blocks hold the same series.
//!
//! `cargo bench -p chronolith-benches --bench index`

use chronolith_model::Matcher;
use chronolith_model::append::Metadata;
use chronolith_model::matcher::MatchOp;
use chronolith_model::queryable::{SampleBatch, Select, SelectedSeries, Snapshot, Unlimited};
use chronolith_storage::StorageError;
use chronolith_storage::block::reader::BlockPart;
use chronolith_storage::block::source::{BlockSource, SourceSeries};
use chronolith_storage::block::writer::{BlockMeta, write_block};
use chronolith_storage::chunk::Effort;
use chronolith_storage::index::{Postings, resolve};
use chronolith_storage::kv::MemoryKv;
use chronolith_storage::kv::keys::BlockId;
use chronolith_storage::part::{ColumnSlice, Part, Run, RunValues};
use chronolith_storage::read::{Bounds, snapshot};
use criterion::{Criterion, criterion_group, criterion_main};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;

const N_METRICS: u32 = 100;
const N_TARGETS: u32 = 500;
const N_SAMPLES: i64 = 60;

/// Label pairs of a series, sorted by name.
fn labels(metric: u32, target: u32) -> [(String, String); 4] {
    [
        ("__name__".to_owned(), format!("metric_{metric:03}_total")),
        ("instance".to_owned(), format!("10.0.{}.{}:9100", target / 250, target % 250)),
        ("job".to_owned(), format!("job-{}", target % 10)),
        ("zone".to_owned(), format!("zone-{}", target % 2)),
    ]
}

/// The series of one block, which begins at `start`.
struct Fleet {
    symbols: Vec<Box<str>>,
    series: Vec<(u32, u32)>,
    columns: Vec<Arc<Vec<i64>>>,
    next: usize,
}

impl Fleet {
    fn new(start: i64) -> Self {
        let all = || (0..N_METRICS).flat_map(|metric| (0..N_TARGETS).map(move |target| (metric, target)));
        let symbols: BTreeSet<String> =
            all().flat_map(|(metric, target)| labels(metric, target)).flat_map(|(n, v)| [n, v]).collect();
        let mut series: Vec<(u32, u32)> = all().collect();
        series.sort_by_key(|&(metric, target)| labels(metric, target));
        let column = |target: i64| Arc::new((0..N_SAMPLES).map(|at| start + target + at * 15_000).collect());
        Self {
            symbols: symbols.into_iter().map(String::into_boxed_str).collect(),
            series,
            columns: (0..i64::from(N_TARGETS)).map(column).collect(),
            next: 0,
        }
    }

    fn number(&self, text: &str) -> u32 {
        self.symbols.binary_search_by(|other| (**other).cmp(text)).expect("every string is a symbol") as u32
    }
}

impl BlockSource for Fleet {
    fn symbols(&mut self) -> Result<Vec<Box<str>>, StorageError> {
        Ok(self.symbols.clone())
    }

    fn next_series(&mut self, series: &mut SourceSeries) -> Result<bool, StorageError> {
        series.clear();
        let Some(&(metric, target)) = self.series.get(self.next) else { return Ok(false) };
        self.next += 1;
        series.labels.extend(labels(metric, target).iter().map(|(n, v)| (self.number(n), self.number(v))));
        series.samples.values.extend((0..N_SAMPLES).map(|at| (at * i64::from(metric % 7)) as f64));
        series.samples.runs.push(Run {
            series: 0,
            times: ColumnSlice {
                column: Arc::clone(&self.columns[target as usize]),
                first: 0,
                count: N_SAMPLES as u32,
            },
            values: RunValues::Floats(0..N_SAMPLES as usize),
            start_timestamps: None,
            first_of_chunk: true,
        });
        Ok(true)
    }

    fn metadata(&mut self) -> Result<Vec<(String, Vec<Metadata>)>, StorageError> {
        Ok(Vec::new())
    }
}

fn block(number: u64) -> BlockPart {
    let start = number as i64 * N_SAMPLES * 15_000;
    let meta = BlockMeta {
        id: BlockId(number),
        mint: start,
        maxt: start + N_SAMPLES * 15_000,
        level: 0,
        seq_min: number,
        seq_max: number,
        tables: Vec::new(),
        parents: Vec::new(),
        effort: Effort::Seal,
        spill_dir: None,
    };
    let mut kv = MemoryKv::default();
    let header = write_block(meta, &mut Fleet::new(start), &mut kv).expect("memory takes everything");
    BlockPart::open(Arc::new(kv), Arc::new(header)).expect("as written")
}

fn select(matchers: &[Matcher]) -> Select<'_> {
    Select::whole(matchers, i64::MIN, i64::MAX)
}

fn postings(c: &mut Criterion) {
    let mut group = c.benchmark_group("postings");
    let metric = Postings::range(250_000..300_000);
    let every_tenth = Postings::from_sorted((0..1_000_000).step_by(10));
    let job = Postings::from_sorted((0..1_000_000).filter(|rank| rank / 50 % 10 == 3));
    let few = Postings::from_sorted([17, 250_010, 999_990]);
    for (name, a, b) in [
        ("run_and_list", &metric, &every_tenth),
        ("runs_and_list", &job, &every_tenth),
        ("few_and_list", &few, &every_tenth),
    ] {
        group.bench_function(format!("intersect_{name}"), |b2| {
            b2.iter(|| black_box(a).intersect(black_box(b)))
        });
    }
    let parts: Vec<Postings> =
        (0..1000).map(|offset| Postings::from_sorted((offset..1_000_000).step_by(1000))).collect();
    group.bench_function("union_of_1000_lists", |b| b.iter(|| Postings::union(black_box(&parts))));
    let mut bytes = Vec::new();
    every_tenth.encode(&mut bytes);
    group.bench_function("decode_100000", |b| b.iter(|| Postings::decode(black_box(&bytes), 1_000_000)));
    group.finish();
}

fn matching(c: &mut Criterion) {
    let part = block(1);
    let cx = Unlimited::default();
    let mut group = c.benchmark_group("matching");
    for (name, matchers) in [
        (
            "name_and_job",
            vec![Matcher::equal("__name__", "metric_007_total"), Matcher::equal("job", "job-3")],
        ),
        ("instance", vec![Matcher::equal("instance", "10.0.1.7:9100")]),
        ("literals", vec![regex("__name__", "metric_007_total|metric_008_total")]),
        ("prefix", vec![regex("__name__", "metric_00.*")]),
        ("suffix_cached", vec![regex("instance", ".*:9100")]),
        ("negative", vec![Matcher::equal("job", "job-3"), regex("instance", "10.0.0.*").inverse()]),
    ] {
        group.bench_function(name, |b| b.iter(|| resolve(part.index(), &matchers, &cx).expect("it reads")));
    }
    group.finish();
}

fn regex(name: &str, pattern: &str) -> Matcher {
    Matcher::new(MatchOp::Regex, name, pattern).expect("it is a pattern")
}

fn selecting(c: &mut Criterion) {
    let parts: Vec<Arc<dyn Part>> = (1..=4).map(|number| Arc::new(block(number)) as Arc<dyn Part>).collect();
    let one: Arc<dyn Snapshot> = snapshot(parts[..1].to_vec(), Bounds::default());
    let four: Arc<dyn Snapshot> = snapshot(parts, Bounds::default());
    let metric = [Matcher::equal("__name__", "metric_007_total")];
    let mut group = c.benchmark_group("select");
    for (name, store, matchers) in [
        ("one_metric_one_block", &one, &metric[..]),
        ("one_metric_four_blocks", &four, &metric[..]),
        ("everything_four_blocks", &four, &[]),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| store.select(&select(matchers), &Unlimited::default()).expect("it reads").len());
        });
    }
    let cx = Unlimited::default();
    let selected: Arc<dyn SelectedSeries> = four.select(&select(&metric), &cx).expect("it reads");
    let mut batch = SampleBatch::default();
    group.bench_function("read_one_metric_four_blocks", |b| {
        b.iter(|| {
            batch.clear();
            selected.read(0..selected.len(), &mut batch, &cx).expect("it reads");
            batch.values.len()
        });
    });
    group.finish();
}

criterion_group!(benches, postings, matching, selecting);
criterion_main!(benches);
