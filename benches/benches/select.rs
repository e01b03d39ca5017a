//! Selecting and reading through the whole store, RocksDB included: a query's way from matchers to
//! columns of samples. Nothing is evaluated.
//!
//! Data: 50 targets of 200 series (10,000), a scrape each 15 s for six hours, in three sealed blocks of
//! two hours; read often, so from caches.
//!
//! ```sh
//! cargo bench --workspace --bench select
//! ```

use chronolith_benches::grid::{Grid, INTERVAL_MS, START_MS, fill, open};
use chronolith_model::Matcher;
use chronolith_model::queryable::{
    HistogramNeed, LabelQuery, Lookups, Queryable, SampleBatch, Select, Unlimited,
};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

const N_SCRAPES: i64 = 1440;
/// Series that are read at once, as the query engine does.
const ROWS: u32 = 1024;

fn request(matchers: &[Matcher], mint: i64, maxt: i64, lookups: Option<Lookups>) -> Select<'_> {
    let histograms = HistogramNeed::Full;
    Select { lookups, histograms, ..Select::whole(matchers, mint, maxt) }
}

/// Selects and reads; gives the number of values.
fn read(store: &dyn Queryable, select: &Select<'_>) -> usize {
    let cx = Unlimited::default();
    let selected = store.pin().expect("it can be read").select(select, &cx).expect("it reads");
    let mut batch = SampleBatch::default();
    let mut n_values = 0;
    let mut at = 0;
    while at < selected.len() {
        let end = (at + ROWS).min(selected.len());
        batch.clear();
        selected.read(at..end, &mut batch, &cx).expect("it reads");
        n_values += batch.values.len();
        at = end;
    }
    n_values
}

fn selecting(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let db = open(folder.path());
    fill(&db, &Grid::new(50, 200, 0), 0..N_SCRAPES);
    let end = START_MS + (N_SCRAPES - 1) * INTERVAL_MS;
    let metric = [Matcher::equal("__name__", "metric_107_total")];
    let job = [Matcher::equal("__name__", "metric_107_total"), Matcher::equal("job", "job-3")];
    let instance = [Matcher::equal("instance", "10.0.0.7:9100")];
    let instant = Lookups { start: end, interval: 0, n_steps: 1, lookback: 300_000 };
    let hourly = Lookups { start: START_MS + 600_000, interval: 60_000, n_steps: 340, lookback: 300_000 };

    let mut group = c.benchmark_group("db_select");
    group.sample_size(20);
    for (name, matchers) in
        [("one_metric", &metric[..]), ("metric_and_job", &job), ("one_instance", &instance), ("all", &[])]
    {
        let last = request(matchers, end - 300_000, end, Some(instant));
        group.bench_function(format!("instant_{name}"), |b| b.iter(|| black_box(read(&db, &last))));
        let range = request(matchers, START_MS, end, None);
        group.bench_function(format!("range_6h_{name}"), |b| b.iter(|| black_box(read(&db, &range))));
    }
    let steps = request(&metric, START_MS, end, Some(hourly));
    group.bench_function("steps_of_60s_one_metric", |b| b.iter(|| black_box(read(&db, &steps))));

    let sets = [metric.to_vec()];
    let cx = Unlimited::default();
    for (name, matcher_sets) in [("all", &[][..]), ("of_one_metric", &sets)] {
        let query = LabelQuery { matcher_sets, mint: START_MS, maxt: end, limit: usize::MAX };
        group.bench_function(format!("label_values_{name}"), |b| {
            b.iter(|| {
                let snapshot = db.pin().expect("it can be read");
                snapshot.label_values("instance", &query, &cx).expect("it reads").len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, selecting);
criterion_main!(benches);
