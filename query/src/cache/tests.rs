use super::*;
use crate::engine::EngineOptions;
use crate::limits::NoControl;
use crate::oracle::generate::{Mix, Rng, Series, World};
use crate::script::{MemoryStore, Sample, ScriptStore};
use crate::value::SampleValue;
use chronolith_model::Labels;
use chronolith_model::changes::Changes;
use std::ops::Range as Times;

/// A store in memory that tells what changes.
#[derive(Default)]
struct Told {
    store: MemoryStore,
    changes: Changes,
}

impl Queryable for Told {
    fn pin(&self) -> Result<Arc<dyn Snapshot>, ReadError> {
        self.store.pin()
    }

    fn version(&self) -> Option<u64> {
        Some(self.changes.version())
    }

    fn unchanged_since(&self, version: u64) -> Times<i64> {
        self.changes.gone_below()..self.changes.lowest_since(version)
    }
}

impl Told {
    fn load(&mut self, series: &[Series]) {
        self.store.load(series).expect("memory takes everything");
        let times = series.iter().flat_map(|(_, samples)| samples.iter().map(|(time, _)| *time));
        if let Some(lowest) = times.min() {
            self.changes.note(lowest);
        }
    }

    fn append(&mut self, name: &str, time: i64, value: f64) {
        let labels = Labels::from_pairs([("__name__", name)]).unwrap();
        let sample = Sample { value: SampleValue::Float(value), start_timestamp: 0 };
        self.load(&[(labels, vec![(time, sample)])]);
    }

    /// Drops what `rest` has not, all of it before a time.
    fn drop_before(&mut self, rest: &[Series], time: i64) {
        self.store.clear();
        self.store.load(rest).expect("memory takes everything");
        self.changes.note_gone(time);
    }

    /// Deletes what `rest` has not, none of it before a time.
    fn replace(&mut self, rest: &[Series], lowest_deleted: i64) {
        self.store.clear();
        self.store.load(rest).expect("memory takes everything");
        self.changes.note(lowest_deleted);
    }
}

fn range(text: &str, start: i64, end: i64, interval_ms: i64) -> QueryRequest<'_> {
    QueryRequest { text, start, end, interval_ms, range: true, lookback_delta_ms: Some(300_000) }
}

fn engine() -> Engine {
    Engine::new(EngineOptions { threads: 1, ..EngineOptions::default() })
}

/// What there is to see of an answer; floats by their bits.
fn shown(answer: &Result<QueryOutput, QueryError>) -> String {
    let output = match answer {
        Ok(output) => output,
        Err(error) => return format!("{error:?}"),
    };
    let Value::Matrix(series) = &output.value else { return format!("{:?}", output.value) };
    let bits = |series: &RangeSeries| {
        let floats: Vec<_> = series.floats.iter().map(|(time, value)| (*time, value.to_bits())).collect();
        format!("{:?} {floats:?} {:?}\n", series.labels, series.histograms)
    };
    series.iter().map(bits).collect()
}

/// How many steps a query was spared.
fn asked(cache: &ResultCache, engine: &Engine, store: &Told, request: &QueryRequest<'_>) -> u64 {
    let before = cache.stats().steps_kept;
    let found = cache.execute(engine, store, request, &NoControl);
    let expected = engine.execute(store, request, &NoControl);
    assert_eq!(shown(&found), shown(&expected), "{request:?}");
    cache.stats().steps_kept - before
}

#[test]
fn steps_are_evaluated_once_unless_their_samples_change() {
    let (cache, engine, mut store) = (ResultCache::new(1 << 20), engine(), Told::default());
    for k in 0..60 {
        store.append("a", k * 10_000, k as f64);
    }
    let ask = |store: &Told, start, end| asked(&cache, &engine, store, &range("sum(a)", start, end, 10_000));
    assert_eq!(ask(&store, 400_000, 590_000), 0);
    assert_eq!(ask(&store, 400_000, 590_000), 20);
    // The window moves, and there are new samples.
    store.append("a", 600_000, 60.0);
    store.append("a", 610_000, 61.0);
    assert_eq!(ask(&store, 420_000, 610_000), 18);
    // Steps before those that are known.
    assert_eq!(ask(&store, 300_000, 610_000), 20);
    // Other steps are another query.
    assert_eq!(ask(&store, 300_005, 610_000), 0);
    // A late sample: what comes after it is evaluated again.
    store.append("b", 555_000, 1.0);
    assert_eq!(ask(&store, 300_000, 610_000), 26);
    store.append("a", 1, 1.0);
    assert_eq!(ask(&store, 300_000, 610_000), 0);
    // Samples may be gone: steps that look back so far are evaluated again.
    store.changes.note_gone(20_000);
    assert_eq!(ask(&store, 300_000, 610_000), 30);
}

#[test]
fn offsets_move_what_a_step_depends_on() {
    let (cache, engine, mut store) = (ResultCache::new(1 << 20), engine(), Told::default());
    for k in 0..60 {
        store.append("a", k * 10_000, k as f64);
    }
    let behind = range("sum(a offset 100s)", 400_000, 590_000, 10_000);
    let ahead = range("sum(a offset -100s)", 200_000, 590_000, 10_000);
    for request in [&behind, &ahead] {
        assert_eq!(asked(&cache, &engine, &store, request), 0);
    }
    store.append("b", 450_000, 1.0);
    store.append("a", 455_000, 1.0);
    assert_eq!(asked(&cache, &engine, &store, &behind), 15, "steps before 550 s");
    assert_eq!(asked(&cache, &engine, &store, &ahead), 15, "steps before 350 s");
    // A step looks back from 100 s before it, or 100 s after it.
    store.drop_before(&[], 150_000);
    let kept = |request| {
        let before = cache.stats().steps_kept;
        cache.execute(&engine, &store, request, &NoControl).unwrap();
        cache.stats().steps_kept - before
    };
    assert_eq!(kept(&behind), 5, "steps from 550 s on");
    assert_eq!(kept(&ahead), 25, "steps from 350 s on");
}

#[test]
fn what_cannot_be_kept_is_evaluated_whole() {
    let (cache, engine, mut store) = (ResultCache::new(1 << 20), engine(), Told::default());
    for k in 10..14 {
        store.append("a", k * 10_000, 1.0);
    }
    // A rate of `a` has an annotation: it might not be a counter.
    for text in ["a @ end()", "{x=\"\",__name__!=\"\"}", "rate(a[5m])", "topk(scalar(a), a)"] {
        for _ in 0..2 {
            assert_eq!(asked(&cache, &engine, &store, &range(text, 0, 200_000, 10_000)), 0, "{text}");
        }
    }
    assert_eq!(cache.stats().n_entries, 0);
    let cache = ResultCache::new(1 << 20);
    // A store that cannot tell what changes.
    let request = range("a", 0, 200_000, 10_000);
    for _ in 0..2 {
        cache.execute(&engine, &store.store, &request, &NoControl).unwrap();
    }
    // An instant query, and a cache without memory.
    cache.execute(&engine, &store, &QueryRequest { range: false, ..request }, &NoControl).unwrap();
    assert_eq!(cache.stats(), CacheStats::default());
    let none = ResultCache::new(0);
    none.execute(&engine, &store, &request, &NoControl).unwrap();
    assert_eq!(none.stats(), CacheStats::default());
}

#[test]
fn memory_is_bounded_and_the_oldest_goes_first() {
    let (cache, engine, mut store) = (ResultCache::new(20_000), engine(), Told::default());
    store.append("a", 0, 1.0);
    let ask = |k: i64| asked(&cache, &engine, &store, &range("a", k, 200_000 + k, 1000));
    for k in 0..10 {
        assert_eq!(ask(k), 0);
        assert!(cache.stats().size_bytes <= 20_000, "{:?}", cache.stats());
        assert_eq!(ask(0), 201, "what is used stays");
    }
    assert_eq!(ask(9), 201);
    assert_eq!(ask(1), 0);
    let CacheStats { n_entries, evictions, .. } = cache.stats();
    assert!(n_entries > 2 && evictions > 2, "{:?}", cache.stats());
    // One that would push everything else out is not kept.
    let stats = cache.stats();
    assert_eq!(asked(&cache, &engine, &store, &range("a", 0, 290_000, 500)), 0);
    assert_eq!(cache.stats().n_entries, stats.n_entries);
}

/// Random queries over random series, while samples come in order, late, or go.
#[test]
fn random_queries_give_the_same_as_without_the_cache() {
    let engine = engine();
    let mut spared = 0;
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let mix = Mix { experimental: false, start_timestamps: false, ..Mix::ALL };
        let world = World::new(&mut rng, mix);
        let cache = ResultCache::new(1 << 24);
        let mut store = Told::default();
        let mut loaded: Vec<Series> = Vec::new();
        let mut hidden = world.series.clone();
        let mut questions: Vec<_> = std::iter::repeat_with(|| world.question(&mut rng, mix))
            .filter(|question| question.range)
            .take(20)
            .collect();
        for round in 0..6 {
            // Some of what is hidden comes: the next times, or any.
            let until = world.last_ms / 6 * (round + 1);
            let mut new = Vec::new();
            for (labels, samples) in &mut hidden {
                let (now, later): (Vec<_>, Vec<_>) = samples
                    .drain(..)
                    .partition(|(time, _)| if rng.chance(97) { *time <= until } else { rng.chance(50) });
                *samples = later;
                new.push((labels.clone(), now));
            }
            store.load(&new);
            for ((_, all), (_, some)) in std::iter::zip(&mut new, &mut loaded) {
                some.append(all);
            }
            if loaded.is_empty() {
                loaded = new;
            }
            if rng.chance(10) {
                // Retention passes: everything before is gone.
                let from = i64::try_from(rng.below(until as usize + 1)).unwrap();
                for (_, samples) in &mut loaded {
                    samples.retain(|(time, _)| *time >= from);
                }
                store.drop_before(&loaded, from);
            }
            if rng.chance(20) {
                let series = rng.below(loaded.len());
                let from = i64::try_from(rng.below(world.last_ms as usize + 1)).unwrap();
                loaded[series].1.retain(|(time, _)| *time < from);
                store.replace(&loaded, from);
            }
            for question in &mut questions {
                let request = QueryRequest {
                    text: &question.text,
                    start: question.start,
                    end: question.end,
                    interval_ms: question.interval_ms,
                    range: true,
                    lookback_delta_ms: Some(world.lookback_ms),
                };
                spared += asked(&cache, &engine, &store, &request);
                question.start += question.interval_ms * i64::try_from(rng.below(3)).unwrap();
                question.end += question.interval_ms * i64::try_from(rng.below(4)).unwrap();
            }
        }
    }
    assert!(spared > 10_000, "{spared}");
}
