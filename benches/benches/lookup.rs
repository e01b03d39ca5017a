//! The last sample at or before a time, for many series: what an instant query and a range query with a
//! coarse step read. Every look-up stands beside the same read without the hint, in which whole chunks are
//! decoded.
//!
//! Data: 250 targets of 200 series (50,000), a scrape each 15 s for six and a half hours: three sealed
//! blocks of two hours, and half an hour in open tables; read often, so from caches. `sealed` looks at
//! a time in the middle of the last block, `open` at the newest sample, `steps` at seven steps of an hour,
//! each with and without values. `select` is the label side alone, `query` whole queries.
//!
//! ```sh
//! cargo bench --workspace --bench lookup
//! ```

use chronolith_benches::grid::{Grid, INTERVAL_MS, START_MS, fill, open};
use chronolith_model::queryable::{Lookups, Queryable, SampleBatch, Select, SelectedSeries, Unlimited};
use chronolith_query::{Engine, EngineOptions, NoControl, QueryRequest};
use chronolith_storage::db::Db;
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;

const N_SCRAPES: i64 = 1560;
const LOOKBACK_MS: i64 = 300_000;
/// Series that are read at once, as the query engine does.
const ROWS: u32 = 1024;

/// Selects every series.
fn select(db: &Db, lookups: Lookups, hinted: bool, values: bool) -> Arc<dyn SelectedSeries> {
    let last = lookups.start + i64::from(lookups.n_steps - 1) * lookups.interval;
    let select = Select {
        lookups: hinted.then_some(lookups),
        values,
        ..Select::whole(&[], lookups.start - lookups.lookback + 1, last)
    };
    db.pin().expect("it can be read").select(&select, &Unlimited::default()).expect("it reads")
}

/// Reads every series; gives the number of samples that came back.
fn read(selected: &dyn SelectedSeries) -> usize {
    let cx = Unlimited::default();
    let mut batch = SampleBatch::default();
    let mut n_samples = 0;
    let mut at = 0;
    while at < selected.len() {
        let end = (at + ROWS).min(selected.len());
        batch.clear();
        selected.read(at..end, &mut batch, &cx).expect("it reads");
        n_samples += batch.series.iter().map(|series| series.timestamps.times.len()).sum::<usize>();
        at = end;
    }
    n_samples
}

fn looking_up(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let db = open(folder.path());
    fill(&db, &Grid::new(250, 200, 0), 0..N_SCRAPES);
    let at = |scrape: i64| START_MS + scrape * INTERVAL_MS;
    let instant = |time: i64| Lookups { start: time, interval: 0, n_steps: 1, lookback: LOOKBACK_MS };
    let hourly = Lookups { start: at(60), interval: 3_600_000, n_steps: 7, lookback: LOOKBACK_MS };
    let sealed = instant(at(1200) + 7_000);
    let newest = instant(at(N_SCRAPES - 1) + 7_000);

    let mut group = c.benchmark_group("lookup");
    group.sample_size(10);
    for (name, lookups) in [("sealed", sealed), ("open", newest), ("steps", hourly)] {
        group.bench_function(format!("select_{name}"), |b| {
            b.iter(|| black_box(select(&db, lookups, true, true).len()));
        });
        for (how, hinted, values) in
            [("whole", false, true), ("last", true, true), ("last_no_values", true, false)]
        {
            let selected = select(&db, lookups, hinted, values);
            group.bench_function(format!("read_{name}_{how}"), |b| b.iter(|| black_box(read(&*selected))));
        }
    }

    let engine = Engine::new(EngineOptions { threads: 2, ..EngineOptions::default() });
    for (name, text) in [
        ("raw", r#"{job=~".+"}"#),
        ("sum_by_job", r#"sum by (job) ({job=~".+"})"#),
        ("count", r#"count({job=~".+"})"#),
        ("count_one_metric", "count(metric_107_total)"),
    ] {
        for (place, time) in [("sealed", sealed.start), ("open", newest.start)] {
            let request = QueryRequest {
                text,
                start: time,
                end: time,
                interval_ms: 0,
                range: false,
                lookback_delta_ms: None,
            };
            group.bench_function(format!("query_{name}_{place}"), |b| {
                b.iter(|| {
                    engine.execute(&db, &request, &NoControl).expect("it is answered").stats.samples_read
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, looking_up);
criterion_main!(benches);
