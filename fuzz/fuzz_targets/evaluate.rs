//! Evaluation of any query text over a few made-up stores under small limits: it ends in a value or an error, and
//! gives back all memory it was charged for.
//!
//! The first five bytes choose the store, the features and the steps; with the highest bit of the first one, the
//! rest is the seed of a random query, otherwise it is its text.
#![no_main]

use chronolith_model::queryable::Stop;
use chronolith_query::oracle::generate::{Mix, Question, Rng, World};
use chronolith_query::script::{MemoryStore, ScriptStore};
use chronolith_query::{Control, Engine, EngineOptions, Features, QueryRequest};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Stores that are made once.
const N_WORLDS: usize = 32;

/// Looks at the clock after which a query is stopped, so that none goes on for long.
const MAX_CHECKS: usize = 20_000;

/// Stops a query that looks too often.
struct Patience(AtomicUsize);

impl Control for Patience {
    fn check(&self) -> Result<(), Stop> {
        match self.0.fetch_add(1, Ordering::Relaxed) < MAX_CHECKS {
            true => Ok(()),
            false => Err(Stop::Cancelled),
        }
    }
}

struct Bench {
    worlds: Vec<(World, MemoryStore)>,
    engines: Vec<Engine>,
}

fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        let worlds = (0..N_WORLDS)
            .map(|seed| {
                let world = World::new(&mut Rng::new(seed as u64), Mix::ALL);
                let mut store = MemoryStore::with_partition_rows(1 + seed as u32 % 5);
                store.load(&world.series).expect("random series load");
                (world, store)
            })
            .collect();
        let engine = |features, threads, max_samples, memory_limit_bytes, batch_rows| {
            Engine::new(EngineOptions {
                features,
                threads,
                max_samples,
                memory_limit_bytes,
                total_memory_limit_bytes: memory_limit_bytes,
                batch_rows,
                ..EngineOptions::default()
            })
        };
        let immediate = Features { delayed_name_removal: false, per_step_stats: true, ..Features::scripts() };
        let typed = Features { type_and_unit_labels: true, ..Features::scripts() };
        let engines = vec![
            engine(Features::scripts(), 1, 50_000, 16 << 20, None),
            engine(immediate, 1, 50_000, 16 << 20, None),
            engine(typed, 2, 5_000, 1 << 20, Some(1)),
            engine(Features::scripts(), 1, 200, 64 << 10, Some(3)),
        ];
        Bench { worlds, engines }
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, start, interval, n_steps, more], rest)) = data.split_first_chunk() else { return };
    let Bench { worlds, engines } = bench();
    let (world, store) = &worlds[usize::from(choice) % N_WORLDS];
    let engine = &engines[usize::from(more) % engines.len()];
    let question = if choice & 0x80 != 0 {
        let seed = rest.iter().fold(0_u64, |seed, &byte| seed.wrapping_mul(257).wrapping_add(u64::from(byte)));
        world.question(&mut Rng::new(seed), Mix::ALL)
    } else {
        let Ok(text) = std::str::from_utf8(rest) else { return };
        let start = (i64::from(start) - 32) * world.last_ms / 128;
        let interval_ms = (i64::from(interval) * world.interval_ms / 16).max(1);
        let (n_steps, range) = (i64::from(n_steps % 100), n_steps & 0x80 != 0);
        let end = if range { start + n_steps * interval_ms } else { start };
        Question { text: text.to_owned(), start, end, interval_ms, range }
    };
    let request = QueryRequest {
        text: &question.text,
        start: question.start,
        end: question.end,
        interval_ms: question.interval_ms,
        range: question.range,
        lookback_delta_ms: Some(world.lookback_ms),
    };
    let patience = Patience(AtomicUsize::new(0));
    let first = engine.execute(store, &request, &patience);
    // What one query leaves behind must not matter to the next.
    let patience = Patience(AtomicUsize::new(0));
    let second = engine.execute(store, &request, &patience);
    if let (Ok(first), Ok(second)) = (first, second) {
        assert_eq!(format!("{:?}", first.value), format!("{:?}", second.value), "{}", question.text);
        assert_eq!((first.warnings, first.infos), (second.warnings, second.infos), "{}", question.text);
    }
});
