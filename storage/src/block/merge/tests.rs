//! Merges of parts made up here.

use super::*;
use crate::part::{ColumnSlice, ExemplarSink, Precedence, RunValues};
use chronolith_model::Labels;
use chronolith_model::histogram::{CounterResetHint, Histogram, IntHistogram, Span};
use chronolith_model::labels::block_order;
use chronolith_model::queryable::Estimate;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A part that holds its series as lists of samples.
struct Listed {
    precedence: Precedence,
    series: Vec<(Labels, Vec<(i64, Value)>)>,
    exemplars: Vec<(Labels, Exemplar)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Float(f64),
    /// Count and reset hint.
    Histogram(u64, CounterResetHint),
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).unwrap()
}

fn histogram(count: u64, hint: CounterResetHint) -> Arc<Histogram> {
    Arc::new(Histogram::Int(IntHistogram {
        counter_reset_hint: hint,
        count,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_deltas: vec![count as i64],
        ..IntHistogram::default()
    }))
}

impl Listed {
    fn new(precedence: Precedence, mut series: Vec<(Labels, Vec<(i64, Value)>)>) -> Arc<Self> {
        series.sort_by(|a, b| block_order(&a.0, &b.0));
        Arc::new(Self { precedence, series, exemplars: Vec::new() })
    }

    fn selected(&self, select: &PartSelect<'_>) -> Vec<&(Labels, Vec<(i64, Value)>)> {
        let holds =
            |labels: &Labels| select.matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or("")));
        self.series.iter().filter(|(labels, _)| holds(labels)).collect()
    }
}

impl Part for Listed {
    fn precedence(&self) -> Precedence {
        self.precedence
    }
    fn time_range(&self) -> Option<(i64, i64)> {
        None
    }
    fn estimate(&self, _: &PartSelect<'_>) -> Result<Estimate, StorageError> {
        Ok(Estimate::default())
    }
    fn select(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Box<dyn PartSeries>, StorageError> {
        let intern = |labels: &Labels| {
            labels.iter().map(|(n, v)| (cx.symbols().intern(n), cx.symbols().intern(v))).collect()
        };
        let series =
            self.selected(select).into_iter().map(|(l, samples)| (intern(l), samples.clone())).collect();
        Ok(Box::new(ListedSeries { series }))
    }
    fn label_names(
        &self,
        _: &PartSelect<'_>,
        _: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        self.series.iter().flat_map(|(labels, _)| labels.iter()).for_each(|(name, _)| sink(name));
        Ok(())
    }
    fn label_values(
        &self,
        name: &str,
        _: &PartSelect<'_>,
        _: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        self.series.iter().filter_map(|(labels, _)| labels.get(name)).for_each(sink);
        Ok(())
    }
    fn exemplars(
        &self,
        select: &PartSelect<'_>,
        _: &dyn QueryContext,
        sink: &mut ExemplarSink<'_>,
    ) -> Result<(), StorageError> {
        let series = self.selected(select);
        for (labels, exemplar) in &self.exemplars {
            if series.iter().any(|(selected, _)| selected == labels) {
                sink(&labels.iter().collect::<Vec<_>>(), std::slice::from_ref(exemplar));
            }
        }
        Ok(())
    }
    fn metadata(&self, sink: &mut dyn FnMut(&str, &Metadata)) -> Result<(), StorageError> {
        sink("m", &Metadata { help: format!("of {}", self.precedence % 2), ..Metadata::default() });
        Ok(())
    }
}

type ListedOne = (Vec<(Symbol, Symbol)>, Vec<(i64, Value)>);

struct ListedSeries {
    series: Vec<ListedOne>,
}

impl PartSeries for ListedSeries {
    fn len(&self) -> u32 {
        self.series.len() as u32
    }
    fn labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        &self.series[index as usize].0
    }
    fn read(
        &self,
        range: Range<u32>,
        _: &PartRead,
        out: &mut RunBuffer,
        _: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        for index in range.clone() {
            let samples = &self.series[index as usize].1;
            let is_float = |sample: &(i64, Value)| matches!(sample.1, Value::Float(_));
            for (at, run) in samples.chunk_by(|a, b| is_float(a) == is_float(b)).enumerate() {
                let values = if is_float(&run[0]) {
                    let from = out.values.len();
                    out.values.extend(run.iter().map(|s| if let Value::Float(v) = s.1 { v } else { 0.0 }));
                    RunValues::Floats(from..out.values.len())
                } else {
                    let from = out.histograms.len();
                    out.histograms.extend(run.iter().map(|s| match s.1 {
                        Value::Histogram(count, hint) => histogram(count, hint),
                        Value::Float(_) => unreachable!(),
                    }));
                    RunValues::Histograms(from..out.histograms.len())
                };
                out.runs.push(Run {
                    series: index - range.start,
                    times: ColumnSlice::private(run.iter().map(|s| s.0).collect()),
                    values,
                    start_timestamps: None,
                    first_of_chunk: at == 0,
                });
            }
        }
        Ok(())
    }
    fn partitions(&self) -> Vec<Range<u32>> {
        (0..self.len()).step_by(2).map(|start| start..(start + 2).min(self.len())).collect()
    }
}

type Merged = Vec<(Labels, Vec<(i64, Value)>)>;

fn merge(parts: &[Arc<Listed>]) -> (Merged, u64, MergeSource) {
    let inputs = parts
        .iter()
        .map(|part| MergeInput { part: Arc::clone(part) as Arc<dyn Part>, samples_per_series: 400_000 })
        .collect();
    let mut source = MergeSource::new(inputs, Interrupts::default()).unwrap();
    let symbols = source.symbols().unwrap();
    assert!(symbols.is_sorted());
    let mut series = SourceSeries::default();
    let mut merged: Merged = Vec::new();
    while source.next_series(&mut series).unwrap() {
        let pairs = series.labels.iter().map(|&(n, v)| (&*symbols[n as usize], &*symbols[v as usize]));
        let labels = Labels::from_pairs(pairs).unwrap();
        let mut samples = Vec::new();
        for run in &series.samples.runs {
            for (at, &t) in run.times.times().iter().enumerate() {
                samples.push((
                    t,
                    match &run.values {
                        RunValues::Constant(value) => Value::Float(*value),
                        RunValues::Floats(range) => Value::Float(series.samples.values[range.start + at]),
                        RunValues::Histograms(range) => match &*series.samples.histograms[range.start + at] {
                            Histogram::Int(h) => Value::Histogram(h.count, h.counter_reset_hint),
                            Histogram::Float(_) => unreachable!(),
                        },
                    },
                ));
            }
        }
        assert!(samples.is_sorted_by(|a, b| a.0 < b.0));
        merged.push((labels, samples));
    }
    let n_conflicts = source.n_conflicts;
    (merged, n_conflicts, source)
}

#[test]
fn the_first_acknowledged_value_of_a_timestamp_stays() {
    let a = labels(&[(METRIC_NAME, "m"), ("a", "1")]);
    let floats = |list: &[(i64, f64)]| list.iter().map(|&(t, v)| (t, Value::Float(v))).collect::<Vec<_>>();
    let first = Listed::new(1, vec![(a.clone(), floats(&[(10, 1.0), (20, 2.0)]))]);
    let second = Listed::new(2, vec![(a.clone(), floats(&[(10, 1.0), (20, 9.0), (30, 3.0)]))]);
    let (merged, n_conflicts, _) = merge(&[second, first]);
    assert_eq!(merged, [(a, floats(&[(10, 1.0), (20, 2.0), (30, 3.0)]))]);
    assert_eq!(n_conflicts, 1);
}

#[test]
fn reset_hints_are_forgotten_behind_another_predecessor() {
    use CounterResetHint::{NotReset, Reset, Unknown};
    let a = labels(&[(METRIC_NAME, "m")]);
    let part = |precedence, times: &[i64]| {
        let samples = times
            .iter()
            .map(|&t| (t, Value::Histogram(t as u64, if t % 20 == 0 { Reset } else { NotReset })));
        Listed::new(precedence, vec![(a.clone(), samples.collect())])
    };
    let hints = |merged: Merged| {
        merged[0]
            .1
            .iter()
            .map(|s| if let Value::Histogram(_, hint) = s.1 { hint } else { unreachable!() })
            .collect::<Vec<_>>()
    };
    let (merged, ..) = merge(&[part(1, &[10, 20]), part(2, &[30, 40])]);
    assert_eq!(hints(merged), [Unknown, Reset, Unknown, Reset]);
    let (merged, ..) = merge(&[part(1, &[10, 20, 40]), part(2, &[30])]);
    assert_eq!(hints(merged), [Unknown, Reset, Unknown, Unknown]);
}

#[test]
fn exemplars_and_metadata_of_all_parts_are_kept_once() {
    let a = labels(&[(METRIC_NAME, "m"), ("a", "1")]);
    let exemplar = |timestamp| Exemplar { labels: labels(&[("trace_id", "x")]), value: 1.0, timestamp };
    let part = |precedence, times: &[i64]| {
        let mut part =
            Arc::into_inner(Listed::new(precedence, vec![(a.clone(), vec![(1, Value::Float(0.0))])]))
                .unwrap();
        part.exemplars = times.iter().map(|&t| (a.clone(), exemplar(t))).collect();
        Arc::new(part)
    };
    let inputs = [part(1, &[1, 2]), part(2, &[2, 3]), part(3, &[])]
        .map(|part| MergeInput { part, samples_per_series: 1 });
    let mut source = MergeSource::new(inputs.to_vec(), Interrupts::default()).unwrap();
    source.symbols().unwrap();
    let mut series = SourceSeries::default();
    assert!(source.next_series(&mut series).unwrap());
    assert_eq!(series.exemplars.iter().map(|exemplar| exemplar.timestamp).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(!source.next_series(&mut series).unwrap());
    let metadata = source.metadata().unwrap();
    assert_eq!(metadata.len(), 1);
    assert_eq!(metadata[0].1.len(), 2);
}

#[test]
fn a_merge_ends_when_the_store_closes() {
    let part = Listed::new(1, vec![(labels(&[(METRIC_NAME, "m")]), vec![(1, Value::Float(0.0))])]);
    let stop = Interrupts::default();
    let mut source =
        MergeSource::new(vec![MergeInput { part, samples_per_series: 1 }], stop.clone()).unwrap();
    source.symbols().unwrap();
    stop.stop();
    let error = source.next_series(&mut SourceSeries::default()).unwrap_err();
    assert!(matches!(error, StorageError::Stop(Stop::Cancelled)));
}

proptest! {
    #[test]
    fn a_merge_equals_the_union_with_the_first_value_kept(
        parts in prop::collection::vec(
            prop::collection::btree_map((0usize..4, 0usize..3), prop::collection::btree_map(0i64..40, 0u8..4, 0..20), 0..6),
            1..5,
        ),
    ) {
        let metric = ["a", "b", "up", "z"];
        let key = |(m, v): (usize, usize)| {
            let mut pairs = vec![(METRIC_NAME, metric[m]), ("A", "x")];
            if v > 0 {
                pairs.push(("job", if v == 1 { "p" } else { "q" }));
            }
            labels(&pairs)
        };
        let value = |v: u8| if v == 3 { Value::Histogram(7, CounterResetHint::Unknown) } else { Value::Float(f64::from(v)) };
        let mut expected: BTreeMap<Labels, BTreeMap<i64, Value>> = BTreeMap::new();
        let mut listed = Vec::new();
        for (precedence, part) in parts.iter().enumerate() {
            let mut series = Vec::new();
            for (&id, samples) in part {
                let samples: Vec<_> = samples.iter().map(|(&t, &v)| (t, value(v))).collect();
                for &(t, v) in &samples {
                    expected.entry(key(id)).or_default().entry(t).or_insert(v);
                }
                series.push((key(id), samples));
            }
            listed.push(Listed::new(precedence as u64, series));
        }
        let mut expected: Merged = expected.into_iter().map(|(l, s)| (l, s.into_iter().collect())).collect();
        expected.sort_by(|a, b| block_order(&a.0, &b.0));
        let (merged, _, source) = merge(&listed);
        prop_assert_eq!(source.n_samples, expected.iter().map(|(_, s)| s.len() as u64).sum::<u64>());
        prop_assert_eq!(merged, expected);
    }
}
