//! Chunk encodings: bytes per sample (printed first), time to encode and to decode, by class of data and
//! number of samples; the open form of tables; opening a tile of 128 chunks and reading one of them.
//!
//! Data: the made-up classes of `chronolith_benches::classes`, 16 series each, and their mixture, which has
//! the shares of real exporters. Timestamps: a scrape each 15 s, off by up to 2 ms.
//!
//! ```sh
//! cargo bench -p chronolith-benches --bench chunk
//! cargo bench -p chronolith-benches --bench chunk -- decode
//! ```

use chronolith_benches::classes::{CLASSES, mixture};
use chronolith_storage::chunk::open::{Arena, OpenChunk};
use chronolith_storage::chunk::tile::{NewEntry, Tile, TileBuilder, TileTimes};
use chronolith_storage::chunk::{ChunkKind, Effort, column, timestamps};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const N_SERIES: u64 = 16;
/// A table's run, a window of 2 h, the largest chunk.
const COUNTS: [usize; 3] = [120, 480, 4096];

fn series(values: fn(usize, u64) -> Vec<f64>, count: usize) -> Vec<Vec<f64>> {
    (0..N_SERIES).map(|number| values(count, number)).collect()
}

fn encode_all(series: &[Vec<f64>], effort: Effort) -> Vec<Vec<u8>> {
    let encode = |values: &Vec<f64>| {
        let mut bytes = Vec::new();
        column::encode(values, effort, &mut bytes);
        bytes
    };
    series.iter().map(encode).collect()
}

/// Makes so many values of a class from a seed.
type Make = fn(usize, u64) -> Vec<f64>;

fn classes() -> impl Iterator<Item = (&'static str, Make)> {
    let mixed: fn(usize, u64) -> Vec<f64> = |count, series| mixture(count, series * 3 + 2);
    CLASSES.iter().map(|class| (class.name, class.values)).chain([("mixture", mixed)])
}

/// Not a measurement of time: the table of docs/decisions.
fn print_sizes(_: &mut Criterion) {
    println!("bytes per sample       {:>9} {:>9} {:>9} {:>9} {:>9}", 120, 480, 4096, "480 pco", "4096 pco");
    for (name, values) in classes() {
        let size = |count: usize, effort| {
            let n_series = if name == "mixture" { 50 } else { N_SERIES };
            let all: Vec<Vec<f64>> = (0..n_series).map(|number| values(count, number)).collect();
            encode_all(&all, effort).iter().map(Vec::len).sum::<usize>() as f64
                / (count as u64 * n_series) as f64
        };
        let [a, b, c] = COUNTS.map(|count| size(count, Effort::Seal));
        let [d, e] = [480, 4096].map(|count| size(count, Effort::Compact));
        println!("{name:<32} {a:.3} {b:9.3} {c:9.3} {d:9.3} {e:9.3}");
    }
    for count in COUNTS {
        let times = times(count);
        let mut bytes = Vec::new();
        timestamps::encode(&times, Effort::Seal, &mut bytes);
        println!("timestamps, {count}: {:.3}", bytes.len() as f64 / count as f64);
    }
    let (arena, chunks) = open_chunks(120);
    let used: usize = chunks.iter().map(OpenChunk::arena_bytes).sum();
    println!("open form, mixture, 120: {:.3}", used as f64 / (120 * chunks.len()) as f64);
    drop(arena);
}

fn times(count: usize) -> Vec<i64> {
    (0..count as i64).map(|i| 1_700_006_400_000 + i * 15_000 + (i * i * 7919) % 5 - 2).collect()
}

fn encode(c: &mut Criterion) {
    for effort in [Effort::Seal, Effort::Compact] {
        let mut group = c.benchmark_group(format!("encode {effort:?}"));
        for (name, values) in classes() {
            for count in if effort == Effort::Seal { [120, 480] } else { [480, 4096] } {
                let all = series(values, count);
                group.throughput(Throughput::Elements(count as u64 * N_SERIES));
                group.bench_with_input(BenchmarkId::new(name, count), &all, |b, all| {
                    let mut bytes = Vec::new();
                    b.iter(|| {
                        for values in all {
                            bytes.clear();
                            column::encode(black_box(values), effort, &mut bytes);
                        }
                    });
                });
            }
        }
    }
}

fn decode(c: &mut Criterion) {
    for effort in [Effort::Seal, Effort::Compact] {
        let mut group = c.benchmark_group(format!("decode {effort:?}"));
        for (name, values) in classes() {
            for count in if effort == Effort::Seal { [120, 480] } else { [480, 4096] } {
                let encoded = encode_all(&series(values, count), effort);
                group.throughput(Throughput::Elements(count as u64 * N_SERIES));
                group.bench_with_input(BenchmarkId::new(name, count), &encoded, |b, encoded| {
                    let mut out = Vec::new();
                    b.iter(|| {
                        for bytes in encoded {
                            out.clear();
                            column::decode(black_box(bytes), count, &mut out).expect("as encoded");
                        }
                    });
                });
            }
        }
    }
}

fn open_chunks(count: usize) -> (Arena, Vec<OpenChunk>) {
    let all: Vec<Vec<f64>> = (0..1000).map(|number| mixture(count, number)).collect();
    let (mut arena, mut chunks) = (Arena::new(), vec![OpenChunk::new(); all.len()]);
    for at in 0..count {
        for (chunk, values) in chunks.iter_mut().zip(&all) {
            chunk.push(&mut arena, values[at]);
        }
    }
    (arena, chunks)
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open form, mixture");
    group.throughput(Throughput::Elements(1000 * 120));
    let by_time: Vec<Vec<f64>> = {
        let all: Vec<Vec<f64>> = (0..1000).map(|number| mixture(120, number)).collect();
        (0..120).map(|at| all.iter().map(|values| values[at]).collect()).collect()
    };
    group.bench_function("push, scrape by scrape", |b| {
        b.iter(|| {
            let (mut arena, mut chunks) = (Arena::new(), vec![OpenChunk::new(); 1000]);
            for scrape in &by_time {
                for (chunk, &value) in chunks.iter_mut().zip(scrape) {
                    chunk.push(&mut arena, value);
                }
            }
            chunks
        });
    });
    let (arena, chunks) = open_chunks(120);
    group.bench_function("decode", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            for chunk in &chunks {
                out.clear();
                chunk.decode(&arena, &mut out);
            }
        });
    });
}

fn timestamp_columns(c: &mut Criterion) {
    let mut group = c.benchmark_group("timestamps");
    let times = times(480);
    let mut bytes = Vec::new();
    timestamps::encode(&times, Effort::Seal, &mut bytes);
    group.throughput(Throughput::Elements(480));
    group.bench_function("encode", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            timestamps::encode(black_box(&times), Effort::Seal, &mut out);
        });
    });
    group.bench_function("decode", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            timestamps::decode(black_box(&bytes), 480, &mut out).expect("as encoded");
        });
    });
}

fn tile(c: &mut Criterion) {
    let mut group = c.benchmark_group("tile of 128 chunks of 480");
    let columns: Vec<Vec<u8>> = (0..128)
        .map(|number| {
            let mut bytes = Vec::new();
            column::encode(&mixture(480, number), Effort::Seal, &mut bytes);
            bytes
        })
        .collect();
    let mut builder = TileBuilder::new(0, 0);
    for (rank, values) in (0..).zip(&columns) {
        builder.push(&NewEntry {
            rank,
            kind: ChunkKind::Float,
            first_of_history: true,
            count: 480,
            mint: i64::from(rank),
            times: Some(TileTimes::Shared { column: rank, first: 0 }),
            starts: &[],
            values,
        });
    }
    let mut bytes = Vec::new();
    builder.finish(&mut bytes);
    let mut out = Vec::new();
    group.bench_function("open, read one", |b| {
        b.iter(|| {
            let tile = Tile::open(0, black_box(bytes.clone())).expect("as built");
            let entry = &tile.entries()[tile.entries_of(77..78).start];
            out.clear();
            column::decode(tile.values(entry), 480, &mut out).expect("as encoded");
        });
    });
    group.bench_function("open, read all", |b| {
        b.iter(|| {
            let tile = Tile::open(0, black_box(bytes.clone())).expect("as built");
            for entry in tile.entries() {
                out.clear();
                column::decode(tile.values(entry), 480, &mut out).expect("as encoded");
            }
        });
    });
}

criterion_group!(benches, print_sizes, open, timestamp_columns, tile, decode, encode);
criterion_main!(benches);
