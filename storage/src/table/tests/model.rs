//! Random appends, freezes and restarts against a map.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Append { series: usize, samples: Vec<(i64, Datum, i64)> },
    Freeze,
    Restart,
}

fn datum() -> impl Strategy<Value = Datum> {
    prop_oneof![
        6 => (0u64..4).prop_map(|v| Datum::Float((v as f64).to_bits())),
        2 => Just(Datum::Float(0.1f64.to_bits())),
        1 => Just(Datum::Float(stale_nan().to_bits())),
        1 => (0u64..5).prop_map(Datum::Histogram),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let sample = (-500i64..4000, datum(), prop_oneof![4 => Just(0i64), 1 => 1i64..3]);
    let disordered = prop::collection::vec(sample, 1..12);
    // In order, as scrapes come: the common case has to be reached, too.
    let ordered =
        (0i64..3500, prop::collection::vec((datum(), prop_oneof![4 => Just(0i64), 1 => 1i64..3]), 1..40))
            .prop_map(|(first, data)| {
                let numbered = data.into_iter().zip(0..);
                numbered.map(|((datum, start), index)| (first + index * 15, datum, start)).collect()
            });
    let samples = prop_oneof![disordered, ordered];
    prop_oneof![
        12 => (0usize..6, samples).prop_map(|(series, samples)| Step::Append { series, samples }),
        1 => Just(Step::Freeze),
        1 => Just(Step::Restart),
    ]
}

fn series(index: usize) -> Labels {
    labels(&format!("__name__=m{},job=j{}", index % 3, index % 2))
}

/// What has to be there: the first value acknowledged for each timestamp.
#[derive(Default)]
struct Model {
    first: Contents,
    /// All that was acknowledged. A later table takes another value for a timestamp of an earlier one, which readers
    /// then pass over; for writers it stands, so that even the first value is refused there.
    acknowledged: BTreeMap<(String, i64), Vec<Datum>>,
}

impl Model {
    /// Takes what was acknowledged: a value that is refused must contradict an earlier one.
    fn apply(&mut self, series: &Labels, sample: (i64, Datum, i64), outcome: &AppendOutcome) {
        let (time, datum, start) = sample;
        let there = self.acknowledged.entry((series.to_string(), time)).or_default();
        if outcome.refused > 0 {
            assert!(there.iter().any(|there| *there != datum), "refused without a reason");
        } else {
            there.push(datum);
            self.first.entry(series.to_string()).or_default().entry(time).or_insert((datum, start));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn readers_see_the_first_acknowledged_value(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut set = open(dir.path());
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Append { series: index, samples } => {
                    let series = series(index);
                    // One by one for the model, so that it knows which was refused.
                    for sample in samples {
                        let outcome = append(&set, &series, &[sample]).unwrap();
                        model.apply(&series, sample, &outcome);
                    }
                }
                Step::Freeze => {
                    set.freeze_all();
                }
                Step::Restart => {
                    let before = contents(&set);
                    drop(set);
                    set = open(dir.path());
                    prop_assert_eq!(contents(&set), before);
                }
            }
        }
        prop_assert_eq!(&contents(&set), &model.first);
        let stats = set.stats();
        prop_assert_eq!(stats.mint, model.first.values().filter_map(|all| all.keys().next()).min().copied());
        set.freeze_all();
        prop_assert_eq!(contents(&set), model.first.clone());
        let sources = source_contents(&set, &[(-1000, -1), (0, 999), (1000, 5000)]);
        prop_assert_eq!(sources, model.first);
    }
}

#[test]
fn many_chunks_of_one_series_come_back_and_retries_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let series = series(0);
    // A window of a thousand milliseconds, a sample in each: more than two chunks.
    let samples: Vec<_> = (0..1000).map(|t| float(t, (t / 7) as f64)).collect();
    assert_eq!(append(&set, &series, &samples).unwrap().samples_written, 1000);
    let again = append(&set, &series, &samples).unwrap();
    assert_eq!((again.samples_written, again.out_of_order, again.refused), (1000, 0, 0));
    assert_eq!(set.stats().n_samples, 1000);
    assert_eq!(append(&set, &series, &[float(77, -1.0)]).unwrap().refused_duplicate, 1);
    let expected: BTreeMap<_, _> = samples.iter().map(|&(t, datum, start)| (t, (datum, start))).collect();
    assert_eq!(contents(&set)[&series.to_string()], expected);
    drop(set);
    assert_eq!(contents(&open(dir.path()))[&series.to_string()], expected);
}

#[test]
fn threads_that_append_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..8i64 {
            let set = &set;
            scope.spawn(move || {
                for round in 0..200i64 {
                    let series = labels(&format!("__name__=m{},job=j{}", round % 20, thread % 4));
                    // Two threads share each series, and interleave their times.
                    append(set, &series, &[float(round * 20 + thread, thread as f64)]).unwrap();
                    if round % 50 == thread {
                        set.freeze_all();
                    }
                    if round % 30 == thread {
                        contents(set);
                    }
                }
            });
        }
    });
    let count = |all: &Contents| all.values().map(BTreeMap::len).sum::<usize>();
    let before = contents(&set);
    assert_eq!(count(&before), 1600);
    drop(set);
    assert_eq!(contents(&open(dir.path())), before);
}
