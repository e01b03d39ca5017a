//! Appending: what a request of 2,000 samples costs the open tables and their log, its body decoded
//! already. Times are per request; criterion prints samples per second too.
//!
//! Data: 100 targets of 500 series in 10 jobs, a scrape each 15 s, values as real exporters mix them,
//! labels as remote write 1.0 has them. `known`: every series is there already, samples in order.
//! `new`: no series of the request is known. The log is written, not synced.
//!
//! ```sh
//! cargo bench --workspace --bench append
//! ```

use chronolith_benches::grid::{Grid, REQUEST_SAMPLES, START_MS, fill, open};
use chronolith_model::append::AppendBatch;
use chronolith_storage::log::fs::RealFs;
use chronolith_storage::options::{ManualClock, Options};
use chronolith_storage::table::{TableSet, TableSetup};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::path::Path;
use std::sync::Arc;

fn tables(path: &Path) -> Arc<TableSet> {
    let setup = TableSetup {
        options: Options {
            retention_time_ms: 0,
            table_samples: u64::MAX,
            clock: Arc::new(ManualClock::new(START_MS + (1 << 40))),
            ..Options::default()
        },
        log_dir: path.to_owned(),
        fs: Arc::new(RealFs),
        secret: [3; 32],
        next_number: 1,
        newest: None,
    };
    TableSet::open(setup, &[]).expect("tables open in a new folder").0
}

/// The requests of scrape after scrape; what was appended is sealed away, or dropped, every 480 scrapes.
struct Scrapes<'g> {
    grid: &'g Grid,
    scrape: i64,
    waiting: Vec<AppendBatch<'g>>,
}

impl<'g> Scrapes<'g> {
    fn next(&mut self, at_window: &mut dyn FnMut()) -> AppendBatch<'g> {
        if self.waiting.is_empty() {
            if self.scrape % 480 == 0 {
                at_window();
            }
            self.waiting = self.grid.requests(self.scrape);
            self.waiting.reverse();
            self.scrape += 1;
        }
        self.waiting.pop().expect("a scrape is a request at least")
    }
}

fn known(c: &mut Criterion) {
    let grid = Grid::new(100, 500, 0);
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(REQUEST_SAMPLES as u64));

    let folder = tempfile::tempdir().expect("a folder can be made");
    let set = tables(folder.path());
    for request in grid.requests(0) {
        set.append(&request, false).expect("a sample can be appended");
    }
    let mut scrapes = Scrapes { grid: &grid, scrape: 1, waiting: Vec::new() };
    // Sealing has no part in this: tables are dropped as if their block were there.
    let mut drop_tables = || set.freeze_all().into_iter().for_each(|number| set.sealed(number));
    group.bench_function("tables_known", |b| {
        b.iter_batched(
            || scrapes.next(&mut drop_tables),
            |request| set.append(&request, false).expect("a sample can be appended").samples_written,
            BatchSize::PerIteration,
        );
    });

    let folder = tempfile::tempdir().expect("a folder can be made");
    let db = open(folder.path());
    fill(&db, &grid, 0..1);
    let mut scrapes = Scrapes { grid: &grid, scrape: 1, waiting: Vec::new() };
    let mut seal = || db.flush().expect("a table can be sealed");
    group.bench_function("db_known", |b| {
        b.iter_batched(
            || scrapes.next(&mut seal),
            |request| db.append(&request, false).expect("a sample can be appended").samples_written,
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn new_series(c: &mut Criterion) {
    let grid = Grid::new(100, 500, 0);
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(REQUEST_SAMPLES as u64)).sample_size(20);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut n_stores = 0;
    let mut requests = Vec::new();
    let mut newest: Option<Arc<TableSet>> = None;
    group.bench_function("tables_new", |b| {
        b.iter_batched(
            || {
                if requests.is_empty() {
                    // All series are known now: on to tables that know none.
                    n_stores += 1;
                    newest = Some(tables(&folder.path().join(n_stores.to_string())));
                    requests = grid.requests(0);
                }
                (newest.clone().expect("made above"), requests.pop().expect("filled above"))
            },
            |(set, request)| set.append(&request, false).expect("a sample can be appended").series_created,
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, known, new_series);
criterion_main!(benches);
