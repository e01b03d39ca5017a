//! Asking the engine, in several ways, and the oracle, and comparing the answers.

use chronolith_model::FloatHistogram;
use chronolith_query::oracle::generate::{Question, World};
use chronolith_query::oracle::{Data, Oracle};
use chronolith_query::script::{MemoryStore, ScriptStore};
use chronolith_query::{
    Engine, EngineOptions, Features, NoControl, QueryError, QueryOutput, QueryRequest, RangeSeries,
    SampleValue, Value,
};
use std::collections::HashMap;

/// A query over series.
#[derive(Clone)]
pub struct Case {
    pub world: World,
    pub features: Features,
    pub question: Question,
}

/// An answer, or why there is none.
pub type Answer = Result<QueryOutput, QueryError>;

/// One thread and large batches, two and three threads and batches of one row or a few; with and without what is done
/// to read and evaluate less.
type Engines = [Engine; 4];

/// The two that compete, and how it goes.
pub struct Contest {
    engines: HashMap<(bool, bool, bool), Engines>,
    pub n_queries: u64,
    pub n_filled: u64,
    pub n_errors: u64,
}

impl Contest {
    pub fn new() -> Self {
        Self { engines: HashMap::new(), n_queries: 0, n_filled: 0, n_errors: 0 }
    }

    fn engines(&mut self, features: Features) -> &Engines {
        let key = (features.delayed_name_removal, features.type_and_unit_labels, features.start_timestamps);
        self.engines.entry(key).or_insert_with(|| {
            let engine = |threads, batch_rows, less| {
                let options = EngineOptions { features, threads, batch_rows, ..EngineOptions::default() };
                Engine::new(EngineOptions { sharing: less, pushdown: less, ..options })
            };
            [
                engine(1, None, true),
                engine(2, Some(1), false),
                engine(3, Some(7), true),
                engine(1, None, false),
            ]
        })
    }

    /// The questions that are answered differently.
    pub fn differences<'q>(
        &mut self,
        world: &World,
        features: Features,
        questions: &'q [Question],
    ) -> Vec<&'q Question> {
        let mut stores = [MemoryStore::new(), MemoryStore::with_partition_rows(3)];
        for store in &mut stores {
            store.load(&world.series).expect("memory takes everything");
        }
        let data = Data::read(&stores[0]).expect("memory can be read");
        let oracle = Oracle::new(EngineOptions { features, ..EngineOptions::default() });
        let (mut n_queries, mut n_filled, mut n_errors) = (0, 0, 0);
        let engines = self.engines(features);
        let different = questions.iter().filter(|question| {
            let request = request(world, question);
            let expected = match oracle.execute(&data, &request) {
                // What does not parse is the parser's business.
                Err(QueryError::Parse(_)) => return false,
                answer => answer,
            };
            n_queries += 1;
            n_filled += u64::from(expected.as_ref().is_ok_and(is_filled));
            n_errors += u64::from(expected.is_err());
            // Two of the four in turns: each has something of its own.
            let first = 2 * (n_queries % 2) as usize;
            engines[first..].iter().take(2).zip(&stores).any(|(engine, store)| {
                let found = engine.execute(store, &request, &NoControl);
                difference(&expected, &found).is_some()
            })
        });
        let different = different.collect();
        self.n_queries += n_queries;
        self.n_filled += n_filled;
        self.n_errors += n_errors;
        different
    }

    /// The answer of the oracle, and how that of the engine differs.
    pub fn ask(&mut self, case: &Case) -> (Answer, Option<String>) {
        let Case { world, features, question } = case;
        let mut stores = [MemoryStore::new(), MemoryStore::with_partition_rows(3)];
        for store in &mut stores {
            store.load(&world.series).expect("memory takes everything");
        }
        let data = Data::read(&stores[0]).expect("memory can be read");
        let request = request(world, question);
        let options = EngineOptions { features: *features, ..EngineOptions::default() };
        let expected = Oracle::new(options).execute(&data, &request);
        let difference =
            self.engines(*features).iter().zip(stores.iter().cycle()).find_map(|(engine, store)| {
                difference(&expected, &engine.execute(store, &request, &NoControl))
            });
        (expected, difference)
    }
}

fn request<'q>(world: &World, question: &'q Question) -> QueryRequest<'q> {
    QueryRequest {
        text: &question.text,
        start: question.start,
        end: question.end,
        interval_ms: question.interval_ms,
        range: question.range,
        lookback_delta_ms: Some(world.lookback_ms),
    }
}

fn is_filled(output: &QueryOutput) -> bool {
    match &output.value {
        Value::Scalar { .. } | Value::String { .. } => true,
        Value::Vector(samples) => !samples.is_empty(),
        Value::Matrix(series) => !series.is_empty(),
    }
}

/// What is different, in words.
pub fn difference(expected: &Answer, found: &Answer) -> Option<String> {
    let (expected, found) = match (expected, found) {
        (Ok(expected), Ok(found)) => (expected, found),
        (Err(expected), Err(found)) => {
            let same = expected.to_string() == found.to_string();
            return (!same).then(|| format!("expected the error {expected}, got {found}"));
        }
        (Err(expected), Ok(found)) => {
            return Some(format!("expected the error {expected}, got {:?}", found.value));
        }
        (Ok(_), Err(found)) => return Some(format!("expected no error, got {found}")),
    };
    if !same_value(&expected.value, &found.value) {
        return Some(format!("expected {:?}\ngot {:?}", expected.value, found.value));
    }
    if (&expected.warnings, &expected.infos) != (&found.warnings, &found.infos) {
        return Some(format!(
            "expected the annotations {:?} {:?}, got {:?} {:?}",
            expected.warnings, expected.infos, found.warnings, found.infos
        ));
    }
    let samples = |output: &QueryOutput| (output.stats.total_queryable_samples, output.stats.samples_read);
    (samples(expected) != samples(found)).then(|| {
        format!(
            "expected totalQueryableSamples and samplesRead {:?}, got {:?}",
            samples(expected),
            samples(found)
        )
    })
}

fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Scalar { timestamp: t, value: x }, Value::Scalar { timestamp: u, value: y }) => {
            t == u && same_float(*x, *y)
        }
        (Value::String { timestamp: t, value: x }, Value::String { timestamp: u, value: y }) => {
            t == u && x == y
        }
        (Value::Vector(x), Value::Vector(y)) => {
            x.len() == y.len()
                && x.iter().zip(y).all(|(x, y)| {
                    x.labels == y.labels && x.timestamp == y.timestamp && same_sample(&x.value, &y.value)
                })
        }
        (Value::Matrix(x), Value::Matrix(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same_series(x, y))
        }
        _ => false,
    }
}

fn same_series(a: &RangeSeries, b: &RangeSeries) -> bool {
    a.labels == b.labels
        && a.floats.len() == b.floats.len()
        && a.histograms.len() == b.histograms.len()
        && a.floats.iter().zip(&b.floats).all(|(a, b)| a.0 == b.0 && same_float(a.1, b.1))
        && a.histograms.iter().zip(&b.histograms).all(|(a, b)| a.0 == b.0 && same_histogram(&a.1, &b.1))
}

fn same_sample(a: &SampleValue, b: &SampleValue) -> bool {
    match (a, b) {
        (SampleValue::Float(a), SampleValue::Float(b)) => same_float(*a, *b),
        (SampleValue::Histogram(a), SampleValue::Histogram(b)) => same_histogram(a, b),
        _ => false,
    }
}

/// The same bits; of NaNs only the staleness marker is told apart.
fn same_float(a: f64, b: f64) -> bool {
    let is_stale = chronolith_model::is_stale;
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan() && is_stale(a) == is_stale(b))
}

fn same_floats(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_float(*a, *b))
}

fn same_histogram(a: &FloatHistogram, b: &FloatHistogram) -> bool {
    a.counter_reset_hint == b.counter_reset_hint
        && a.schema == b.schema
        && same_float(a.zero_threshold, b.zero_threshold)
        && same_float(a.zero_count, b.zero_count)
        && same_float(a.count, b.count)
        && same_float(a.sum, b.sum)
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && same_floats(&a.positive_buckets, &b.positive_buckets)
        && same_floats(&a.negative_buckets, &b.negative_buckets)
        && same_floats(a.custom_bounds(), b.custom_bounds())
}
