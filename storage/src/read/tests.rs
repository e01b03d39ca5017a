//! The read path against a plain map, over random parts in memory.

use super::*;
use crate::kv::keys::BlockId;
use crate::part::{
    ColumnSlice, ExemplarSink, Grown, PartRead, PartSeries, Precedence, Run, RunBuffer, RunValues,
};
use chronolith_model::histogram::{CounterResetHint, FloatHistogram, Histogram, IntHistogram, Span};
use chronolith_model::labels::block_order;
use chronolith_model::queryable::{
    Floats, HistogramNeed, Projection, SampleBatch, SeriesSamples, Stop, Unlimited,
};
use chronolith_model::sample::{is_stale, stale_nan};
use chronolith_model::symbols::{Symbol, SymbolTable};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Debug)]
enum Value {
    Float(f64),
    Histogram(Arc<Histogram>),
}

impl Value {
    fn is_stale(&self) -> bool {
        match self {
            Self::Float(value) => is_stale(*value),
            Self::Histogram(histogram) => histogram.is_stale(),
        }
    }
}

type Samples = BTreeMap<i64, Value>;

/// A part that holds plain samples, cut to runs of `run_length` and at each change of kind. Series
/// with equal times share a column.
#[derive(Clone, Debug)]
struct MemoryPart {
    precedence: Precedence,
    series: Vec<(Labels, Samples)>,
    run_length: usize,
    exemplars: Vec<(Labels, Vec<Exemplar>)>,
    /// It never changes, and its names are known as those of a block are.
    block: Option<BlockId>,
    /// It is a table that has grown so far.
    grown: Option<Grown>,
    /// Look-ups of names that went through the series.
    n_walks: Arc<AtomicUsize>,
    /// How often it was asked whether it has more names.
    n_asked: Arc<AtomicUsize>,
}

impl MemoryPart {
    fn new(precedence: Precedence, mut series: Vec<(Labels, Samples)>, run_length: usize) -> Self {
        series.sort_by(|a, b| block_order(&a.0, &b.0));
        Self {
            precedence,
            series,
            run_length,
            exemplars: Vec::new(),
            block: None,
            grown: None,
            n_walks: Arc::default(),
            n_asked: Arc::default(),
        }
    }

    fn matching(&self, select: &PartSelect<'_>) -> Vec<&(Labels, Samples)> {
        self.series
            .iter()
            .filter(|(labels, samples)| {
                select.matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or("")))
                    && samples.range(select.mint..=select.maxt).next().is_some()
            })
            .collect()
    }
}

impl Part for MemoryPart {
    fn precedence(&self) -> Precedence {
        self.precedence
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        let times = || self.series.iter().flat_map(|(_, samples)| samples.keys().copied());
        Some((times().min()?, times().max()?))
    }

    fn estimate(&self, select: &PartSelect<'_>) -> Result<Estimate, StorageError> {
        Ok(Estimate { n_series: self.matching(select).len() as u64, n_samples: 1, size_bytes: 1 })
    }

    fn select(
        &self,
        select: &PartSelect<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Box<dyn PartSeries>, StorageError> {
        let mut columns: HashMap<Vec<i64>, Arc<Vec<i64>>> = HashMap::new();
        let series = self
            .matching(select)
            .into_iter()
            .map(|(labels, samples)| {
                let symbols = cx.symbols();
                let kept = labels.iter().filter(|(name, _)| select.labels.keeps(name));
                let pairs = kept.map(|(n, v)| (symbols.intern(n), symbols.intern(v))).collect();
                let times: Vec<i64> = samples.keys().copied().collect();
                let column = columns.entry(times.clone()).or_insert_with(|| Arc::new(times));
                (pairs, Arc::clone(column), samples.values().cloned().collect())
            })
            .collect();
        Ok(Box::new(MemorySeries { series, run_length: self.run_length }))
    }

    fn grown(&self) -> Option<Grown> {
        self.grown
    }

    fn written_as(
        &self,
        _label: Option<&str>,
        select: &PartSelect<'_>,
        _cx: &dyn QueryContext,
    ) -> Result<Option<BlockId>, StorageError> {
        let ever = PartSelect { mint: i64::MIN, maxt: i64::MAX, ..*select };
        let is_whole = self.matching(select).len() == self.matching(&ever).len();
        Ok(self.block.filter(|_| is_whole))
    }

    fn has_more(
        &self,
        label: Option<&str>,
        _cx: &dyn QueryContext,
        is_known: &mut dyn FnMut(&str) -> bool,
    ) -> Result<bool, StorageError> {
        self.n_asked.fetch_add(1, Ordering::Relaxed);
        let mut names = self.series.iter().flat_map(|(labels, _)| labels.iter()).map(|(name, _)| name);
        Ok(self.block.is_none() || label.is_some() || !names.all(is_known))
    }

    fn label_names(
        &self,
        select: &PartSelect<'_>,
        _cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        self.n_walks.fetch_add(1, Ordering::Relaxed);
        self.matching(select).iter().flat_map(|(labels, _)| labels.iter()).for_each(|(name, _)| sink(name));
        Ok(())
    }

    fn label_values(
        &self,
        name: &str,
        select: &PartSelect<'_>,
        _cx: &dyn QueryContext,
        sink: &mut dyn FnMut(&str),
    ) -> Result<(), StorageError> {
        self.n_walks.fetch_add(1, Ordering::Relaxed);
        self.matching(select).iter().filter_map(|(labels, _)| labels.get(name)).for_each(sink);
        Ok(())
    }

    fn exemplars(
        &self,
        _select: &PartSelect<'_>,
        _cx: &dyn QueryContext,
        sink: &mut ExemplarSink<'_>,
    ) -> Result<(), StorageError> {
        for (labels, exemplars) in &self.exemplars {
            sink(&labels.iter().collect::<Vec<_>>(), exemplars);
        }
        Ok(())
    }

    fn metadata(&self, _sink: &mut dyn FnMut(&str, &Metadata)) -> Result<(), StorageError> {
        Ok(())
    }
}

type MemoryRow = (Vec<(Symbol, Symbol)>, Arc<Vec<i64>>, Vec<Value>);

struct MemorySeries {
    series: Vec<MemoryRow>,
    run_length: usize,
}

impl PartSeries for MemorySeries {
    fn len(&self) -> u32 {
        self.series.len() as u32
    }

    fn labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        &self.series[index as usize].0
    }

    fn read(
        &self,
        range: Range<u32>,
        _read: &PartRead,
        out: &mut RunBuffer,
        _cx: &dyn QueryContext,
    ) -> Result<(), StorageError> {
        for (series, index) in (0u32..).zip(range) {
            let (_, column, values) = &self.series[index as usize];
            let mut from = 0;
            for run in values.chunk_by(same_kind).flat_map(|run| run.chunks(self.run_length)) {
                let values = match &run[0] {
                    Value::Histogram(_) => {
                        let start = out.histograms.len();
                        out.histograms.extend(run.iter().map(|value| match value {
                            Value::Histogram(histogram) => Arc::clone(histogram),
                            Value::Float(_) => unreachable!("runs are of one kind"),
                        }));
                        RunValues::Histograms(start..out.histograms.len())
                    }
                    Value::Float(first) => {
                        let values: Vec<f64> = run
                            .iter()
                            .map(|value| match value {
                                Value::Float(value) => *value,
                                Value::Histogram(_) => unreachable!("runs are of one kind"),
                            })
                            .collect();
                        if values.iter().all(|value| value.to_bits() == first.to_bits()) {
                            RunValues::Constant(*first)
                        } else {
                            let start = out.values.len();
                            out.values.extend_from_slice(&values);
                            RunValues::Floats(start..out.values.len())
                        }
                    }
                };
                out.runs.push(Run {
                    series,
                    times: ColumnSlice { column: Arc::clone(column), first: from, count: run.len() as u32 },
                    values,
                    start_timestamps: Some(
                        (0..run.len() as i64).map(|at| column[from as usize + at as usize] - 1).collect(),
                    ),
                    first_of_chunk: from == 0,
                });
                from += run.len() as u32;
            }
        }
        Ok(())
    }

    fn partitions(&self) -> Vec<Range<u32>> {
        (0..self.len()).step_by(3).map(|start| start..(start + 3).min(self.len())).collect()
    }
}

fn same_kind(a: &Value, b: &Value) -> bool {
    matches!((a, b), (Value::Float(_), Value::Float(_)))
        || matches!((a, b), (Value::Histogram(x), Value::Histogram(y))
            if matches!((&**x, &**y), (Histogram::Int(_), Histogram::Int(_)) | (Histogram::Float(_), Histogram::Float(_))))
}

fn everything(matchers: &[Matcher]) -> Select<'_> {
    Select { start_timestamps: true, ..Select::whole(matchers, i64::MIN, i64::MAX) }
}

fn labels_of(pairs: &[(Symbol, Symbol)], symbols: &SymbolTable) -> Labels {
    let text = |symbol| symbols.resolve(symbol).to_string();
    Labels::from_pairs(pairs.iter().map(|&(name, value)| (text(name), text(value)))).unwrap()
}

/// The samples of a series as a map again.
fn unpack(series: &SeriesSamples, batch: &SampleBatch) -> BTreeMap<i64, Result<u64, Arc<FloatHistogram>>> {
    let times = &series.timestamps.times;
    let mut histograms = series.histograms.iter().flat_map(|(range, _)| range.clone());
    let mut n_floats = 0;
    let mut floats = |stale: bool| match &series.floats {
        _ if stale => {
            n_floats += 1;
            stale_nan()
        }
        Floats::None => panic!("a float is missing"),
        Floats::Constant(value) => *value,
        Floats::Values(range) => {
            let values = &batch.values[range.start as usize..range.end as usize];
            n_floats += 1;
            values[n_floats - 1]
        }
    };
    (0u32..)
        .zip(times)
        .map(|(at, &time)| {
            let is_histogram =
                series.histograms.as_ref().is_some_and(|(_, which)| which.contains(at as usize));
            let sample = match is_histogram {
                true => Err(Arc::clone(&batch.histograms[histograms.next().unwrap() as usize])),
                false => Ok(floats(series.stale.contains(&at)).to_bits()),
            };
            (time, sample)
        })
        .collect()
}

fn histogram(count: u64) -> IntHistogram {
    IntHistogram {
        count,
        sum: count as f64,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_deltas: vec![count as i64 / 2, 0],
        ..Default::default()
    }
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => Just(Value::Float(1.0)),
        4 => any::<f64>().prop_map(Value::Float),
        1 => Just(Value::Float(stale_nan())),
        1 => (0u64..9).prop_map(|count| Value::Histogram(Arc::new(Histogram::Int(histogram(count))))),
        1 => (0u64..9).prop_map(|count| Value::Histogram(Arc::new(Histogram::Float(histogram(count).to_float())))),
    ]
}

fn sample_sets() -> impl Strategy<Value = Samples> {
    let grid = (0i64..20, 1usize..20, values()).prop_map(|(start, count, value)| {
        (0..count as i64).map(|at| ((start + at) * 10, value.clone())).collect()
    });
    prop_oneof![grid, btree_map((0i64..40).prop_map(|t| t * 10), values(), 1..15)]
}

fn memory_parts() -> impl Strategy<Value = Vec<MemoryPart>> {
    let label_sets = (0u8..4, 0u8..4, any::<bool>()).prop_map(|(metric, a, upper)| {
        let mut pairs = vec![("__name__", format!("m{metric}"))];
        if a > 0 {
            pairs.push(("a", format!("v{a}")));
        }
        if upper {
            pairs.push(("Z", "1".to_owned()));
        }
        Labels::from_pairs(pairs).unwrap()
    });
    let part = (btree_map(label_sets, sample_sets(), 0..10), 1usize..12);
    vec(part, 0..5).prop_map(|parts| {
        let parts = (1u64..).zip(parts);
        parts
            .map(|(seq, (series, length))| MemoryPart::new(seq * 10, series.into_iter().collect(), length))
            .collect()
    })
}

fn shared(parts: &[MemoryPart]) -> Vec<Arc<dyn Part>> {
    // In the wrong order, which must not matter.
    parts.iter().rev().map(|part| Arc::new(part.clone()) as Arc<dyn Part>).collect()
}

/// What all parts hold: where two have a timestamp, the lower precedence stays.
fn model(parts: &[MemoryPart]) -> Vec<(Labels, Samples)> {
    let mut merged: BTreeMap<Labels, Samples> = BTreeMap::new();
    for part in parts {
        for (labels, samples) in &part.series {
            let merged = merged.entry(labels.clone()).or_default();
            for (&time, value) in samples {
                merged.entry(time).or_insert_with(|| value.clone());
            }
        }
    }
    let mut series: Vec<_> = merged.into_iter().collect();
    series.sort_by(|a, b| block_order(&a.0, &b.0));
    series
}

proptest! {
    #[test]
    fn reading_agrees_with_a_map(
        parts in memory_parts(),
        cuts in vec(0u32..40, 0..4),
        oldest in prop_oneof![Just(i64::MIN), -50i64..400],
    ) {
        let mut expected = model(&parts);
        for (_, samples) in &mut expected {
            samples.retain(|&time, _| time >= oldest);
        }
        expected.retain(|(_, samples)| !samples.is_empty());
        let cx = Unlimited::default();
        let bounds = Bounds { oldest, ..Bounds::default() };
        let selected = snapshot(shared(&parts), bounds).select(&everything(&[]), &cx).unwrap();
        prop_assert_eq!(selected.len() as usize, expected.len());
        let mut covered = 0;
        for range in selected.partitions() {
            prop_assert_eq!(range.start, covered);
            prop_assert!(range.end > range.start);
            covered = range.end;
        }
        prop_assert_eq!(covered, selected.len());
        let mut batch = SampleBatch::default();
        let mut borders: Vec<u32> = cuts.into_iter().filter(|&cut| cut < selected.len()).collect();
        borders.extend([0, selected.len()]);
        borders.sort_unstable();
        for range in borders.windows(2) {
            selected.read(range[0]..range[1], &mut batch, &cx).unwrap();
        }
        prop_assert_eq!(batch.series.len(), expected.len());
        for ((index, series), (labels, samples)) in (0u32..).zip(&batch.series).zip(&expected) {
            prop_assert_eq!(&labels_of(selected.labels(index), cx.symbols()), labels);
            let stale: Vec<u32> =
                (0u32..).zip(samples.values()).filter(|(_, value)| value.is_stale()).map(|(at, _)| at).collect();
            prop_assert_eq!(&series.stale, &stale);
            let found = unpack(series, &batch);
            prop_assert_eq!(found.keys().collect::<Vec<_>>(), samples.keys().collect::<Vec<_>>());
            for (found, value) in found.values().zip(samples.values()) {
                match (found, value) {
                    (Ok(bits), Value::Float(value)) => prop_assert_eq!(*bits, value.to_bits()),
                    (Err(found), Value::Histogram(stored)) => {
                        prop_assert!(found.same_data(&stored.to_float()));
                        prop_assert!(found.counter_reset_hint != CounterResetHint::Reset);
                    }
                    _ => prop_assert!(false, "a sample changed its kind"),
                }
            }
            let starts: Vec<i64> = samples.keys().map(|time| time - 1).collect();
            prop_assert_eq!(series.start_timestamps.as_deref(), Some(&starts[..]));
        }
    }

    #[test]
    fn presence_knows_times_and_staleness(parts in memory_parts()) {
        let cx = Unlimited::default();
        let select = Select { values: false, histograms: HistogramNeed::None, ..everything(&[]) };
        let selected = snapshot(shared(&parts), Bounds::default()).select(&select, &cx).unwrap();
        let mut batch = SampleBatch::default();
        selected.read(0..selected.len(), &mut batch, &cx).unwrap();
        prop_assert!(batch.values.is_empty());
        for (series, (_, samples)) in batch.series.iter().zip(model(&parts)) {
            prop_assert_eq!(series.timestamps.times.clone(), samples.keys().copied().collect::<Vec<_>>());
            let stale = samples.values().filter(|value| value.is_stale()).count();
            prop_assert_eq!(series.stale.len(), stale);
            let n_histograms = samples.values().filter(|value| matches!(value, Value::Histogram(_))).count();
            prop_assert_eq!(series.histograms.as_ref().map_or(0, |(_, which)| which.count()), n_histograms);
        }
    }

    #[test]
    fn label_look_ups_are_sorted_and_cut(
        parts in memory_parts(),
        mint in -50i64..400,
        limit in 0usize..6,
        oldest in prop_oneof![Just(i64::MIN), -50i64..400],
    ) {
        let cx = Unlimited::default();
        let sets = [vec![Matcher::equal("__name__", "m1")], vec![Matcher::equal("a", "v2")]];
        let query = LabelQuery { matcher_sets: &sets, mint, maxt: mint + 60, limit };
        let mut values = std::collections::BTreeSet::new();
        for part in &parts {
            for (labels, samples) in &part.series {
                let matches = labels.metric_name() == "m1" || labels.get("a") == Some("v2");
                if matches && samples.range(mint..=mint + 60).any(|(&time, _)| time >= oldest) {
                    values.extend(labels.get("__name__").map(str::to_owned));
                }
            }
        }
        let most = if limit == 0 { usize::MAX } else { limit + 1 };
        let expected: Vec<String> = values.into_iter().take(most).collect();
        let bounds = Bounds { oldest, ..Bounds::default() };
        let found = snapshot(shared(&parts), bounds).label_values("__name__", &query, &cx).unwrap();
        prop_assert_eq!(found, expected);
    }
}

fn float_series(name: &str, instance: &str, times: &[i64]) -> (Labels, Samples) {
    let labels = Labels::from_pairs([("__name__", name), ("instance", instance)]).unwrap();
    (labels, times.iter().map(|&time| (time, Value::Float(time as f64))).collect())
}

#[test]
fn a_block_that_the_range_cuts_is_not_walked_for_names_that_are_known() {
    let block = |id, times: [&[i64]; 2]| {
        let series = vec![float_series("a", "x", times[0]), float_series("b", "y", times[1])];
        MemoryPart { block: Some(BlockId(id)), ..MemoryPart::new(id, series, 100) }
    };
    let cx = Unlimited::default();
    let names = |parts: &[MemoryPart]| {
        let query = LabelQuery { matcher_sets: &[], mint: 0, maxt: 30, limit: 0 };
        snapshot(shared(parts), Bounds::default()).label_names(&query, &cx).unwrap()
    };
    let (cut, whole) = (block(1, [&[30], &[40]]), block(2, [&[10], &[20]]));
    assert_eq!(names(&[cut.clone(), whole.clone()]), ["__name__", "instance"]);
    assert_eq!((cut.n_walks.load(Ordering::Relaxed), whole.n_walks.load(Ordering::Relaxed)), (0, 1));
    assert_eq!(names(std::slice::from_ref(&cut)), ["__name__", "instance"]);
    assert_eq!(cut.n_walks.load(Ordering::Relaxed), 1);
}

#[test]
fn a_block_that_has_no_other_names_is_asked_once_and_a_limit_tells_nothing_of_what_is_behind_it() {
    let block = |id, name: &str, times: [i64; 2]| {
        let series = times.map(|time| {
            let labels = Labels::from_pairs([("__name__", "m"), (name, if time == 40 { "2" } else { "1" })]);
            (labels.unwrap(), Samples::from([(time, Value::Float(1.0))]))
        });
        MemoryPart { block: Some(BlockId(id)), ..MemoryPart::new(id, series.to_vec(), 100) }
    };
    let cx = Unlimited::default();
    let lists = Arc::<Lists>::default();
    let names = |parts: &[&MemoryPart], limit| {
        let query = LabelQuery { matcher_sets: &[], mint: 0, maxt: 30, limit };
        let bounds = Bounds { lists: Arc::clone(&lists), ..Bounds::default() };
        let parts: Vec<MemoryPart> = parts.iter().map(|&part| part.clone()).collect();
        snapshot(shared(&parts), bounds).label_names(&query, &cx).unwrap()
    };
    let whole = block(1, "b", [10, 20]);
    let (same, other) = (block(2, "b", [30, 40]), block(3, "c", [30, 40]));
    assert_eq!(names(&[&whole], 0), ["__name__", "b"]);
    for _ in 0..3 {
        assert_eq!(names(&[&whole, &same], 0), ["__name__", "b"]);
    }
    assert_eq!(same.n_asked.load(Ordering::Relaxed), 1);
    for (limit, expected) in
        [(1, &["__name__", "b"][..]), (0, &["__name__", "b", "c"]), (1, &["__name__", "b"])]
    {
        assert_eq!(names(&[&whole, &other], limit), expected);
    }
    // What one part adds is not the list's.
    let again = block(4, "c", [30, 40]);
    assert_eq!(names(&[&whole, &other, &again], 0), ["__name__", "b", "c"]);
    assert_eq!(names(&[&whole, &again], 0), ["__name__", "b", "c"]);
}

#[test]
fn a_table_is_asked_again_once_it_has_grown() {
    let part = |id, block: Option<u64>, n_series, series: &[(&str, i64)]| {
        let series = series.iter().map(|&(name, time)| float_series(name, "x", &[time]));
        let grown = block.is_none().then_some(Grown { table: id, n_series });
        MemoryPart { block: block.map(BlockId), grown, ..MemoryPart::new(id, series.collect(), 100) }
    };
    let cx = Unlimited::default();
    let lists = Arc::<Lists>::default();
    let names = |parts: &[&MemoryPart], limit| {
        let parts: Vec<MemoryPart> = parts.iter().map(|&part| part.clone()).collect();
        let query = LabelQuery { matcher_sets: &[], mint: 0, maxt: 30, limit };
        let bounds = Bounds { lists: Arc::clone(&lists), ..Bounds::default() };
        snapshot(shared(&parts), bounds).label_values("__name__", &query, &cx).unwrap()
    };
    let block = part(1, Some(1), 0, &[("a", 10), ("b", 20)]);
    let table = part(2, None, 1, &[("b", 25)]);
    let n_walks = |part: &MemoryPart| part.n_walks.load(Ordering::Relaxed);
    for _ in 0..4 {
        assert_eq!(names(&[&block, &table], 0), ["a", "b"]);
    }
    // Once when the list was made, and once beside the list.
    assert_eq!(n_walks(&table), 2);
    let grown = part(2, None, 2, &[("b", 25), ("c", 25)]);
    for n in 1..4 {
        assert_eq!(names(&[&block, &grown], 0), ["a", "b", "c"]);
        assert_eq!(n_walks(&grown), n, "what it adds is asked for each time");
    }
    // A limit cuts strings off that nobody has looked at.
    let other = part(3, None, 1, &[("c", 25)]);
    assert_eq!(names(&[&block, &other], 1), ["a", "b"]);
    assert_eq!(names(&[&block, &other], 0), ["a", "b", "c"]);
}

#[test]
fn what_matches_in_a_block_that_the_range_cuts_is_listed_once_and_asked_for_where_it_is_not_known() {
    let block = |id, series: &[(&str, &str, i64)]| {
        let series = series.iter().map(|&(name, instance, time)| float_series(name, instance, &[time]));
        MemoryPart { block: Some(BlockId(id)), ..MemoryPart::new(id, series.collect(), 100) }
    };
    let cx = Unlimited::default();
    let lists = Arc::<Lists>::default();
    let values = |parts: &[MemoryPart], name: &str| {
        let query = LabelQuery {
            matcher_sets: &[vec![Matcher::equal("__name__", name)]],
            mint: 0,
            maxt: 30,
            limit: 0,
        };
        let bounds = Bounds { lists: Arc::clone(&lists), ..Bounds::default() };
        snapshot(shared(parts), bounds).label_values("instance", &query, &cx).unwrap()
    };
    let whole = block(1, &[("a", "x", 10), ("a", "y", 20)]);
    let cut = block(2, &[("a", "x", 30), ("a", "y", 40)]);
    let n_walks = || (whole.n_walks.load(Ordering::Relaxed), cut.n_walks.load(Ordering::Relaxed));
    for _ in 0..3 {
        assert_eq!(values(&[whole.clone(), cut.clone()], "a"), ["x", "y"]);
        assert_eq!(n_walks(), (1, 1), "both are listed once");
    }
    // What is new may be outside of the range, so its series are looked at.
    let more = block(3, &[("a", "u", 25), ("a", "z", 40)]);
    assert_eq!(values(&[whole.clone(), more.clone()], "a"), ["u", "x", "y"]);
    assert_eq!(more.n_walks.load(Ordering::Relaxed), 2);
}

#[test]
fn series_with_the_same_times_in_all_parts_get_the_same_column() {
    let first = [10, 20, 30];
    let second = [25, 40, 50];
    let series = |times: &[i64]| {
        vec![float_series("a", "x", times), float_series("b", "x", times), float_series("c", "x", times)]
    };
    let mut newer = series(&second);
    newer.push(float_series("d", "x", &second));
    let parts = [MemoryPart::new(1, series(&first), 100), MemoryPart::new(2, newer, 100)];
    let cx = Unlimited::default();
    let selected = snapshot(shared(&parts), Bounds::default()).select(&everything(&[]), &cx).unwrap();
    let mut batch = SampleBatch::default();
    // Two calls, as two workers would make them.
    selected.read(0..2, &mut batch, &cx).unwrap();
    selected.read(2..4, &mut batch, &cx).unwrap();
    assert_eq!(batch.series[0].timestamps.times, [10, 20, 25, 30, 40, 50]);
    assert!(Arc::ptr_eq(&batch.series[0].timestamps, &batch.series[1].timestamps));
    assert!(Arc::ptr_eq(&batch.series[0].timestamps, &batch.series[2].timestamps));
    assert_eq!(batch.series[3].timestamps.times, second);
}

#[test]
fn projection_keeps_or_drops_labels() {
    let parts = [MemoryPart::new(1, vec![float_series("a", "x", &[1]), float_series("b", "y", &[1])], 9)];
    let cx = Unlimited::default();
    let names = ["instance".to_owned(), "unknown".to_owned()];
    let store = snapshot(
        shared(&parts),
        Bounds { warnings: vec!["block 7 is missing".to_owned()], ..Bounds::default() },
    );
    let only = store.select(&Select { labels: Projection::Only(&names), ..everything(&[]) }, &cx).unwrap();
    let without =
        store.select(&Select { labels: Projection::Without(&names), ..everything(&[]) }, &cx).unwrap();
    assert_eq!(labels_of(only.labels(1), cx.symbols()).to_string(), "{instance=\"y\"}");
    assert_eq!(labels_of(without.labels(0), cx.symbols()).to_string(), "{__name__=\"a\"}");
    assert_eq!(only.warnings(), ["block 7 is missing"]);
    assert_eq!(store.time_range(), Some((1, 1)));
}

#[test]
fn series_of_several_parts_are_told_apart_by_labels_that_are_dropped() {
    let parts = [
        MemoryPart::new(1, vec![float_series("a", "x", &[1]), float_series("b", "x", &[1])], 9),
        MemoryPart::new(2, vec![float_series("a", "x", &[2]), float_series("c", "x", &[1])], 9),
    ];
    let cx = Unlimited::default();
    let names = ["instance".to_owned()];
    let projected = Select { labels: Projection::Only(&names), ..everything(&[]) };
    let selected = snapshot(shared(&parts), Bounds::default()).select(&projected, &cx).unwrap();
    assert_eq!(selected.len(), 3);
    for at in 0..3 {
        assert_eq!(labels_of(selected.labels(at), cx.symbols()).to_string(), "{instance=\"x\"}");
    }
}

/// Hints of the histograms of one series that lies in these parts.
fn hints(parts: Vec<Vec<(i64, Value)>>, need: HistogramNeed) -> Vec<CounterResetHint> {
    hints_from(i64::MIN, parts, need)
}

/// As a reader sees them who wants samples from `mint` on.
fn hints_from(mint: i64, parts: Vec<Vec<(i64, Value)>>, need: HistogramNeed) -> Vec<CounterResetHint> {
    let labels = Labels::from_pairs([("__name__", "h")]).unwrap();
    let parts: Vec<MemoryPart> = (1..)
        .zip(parts)
        .map(|(seq, samples)| MemoryPart::new(seq, vec![(labels.clone(), samples.into_iter().collect())], 2))
        .collect();
    let cx = Unlimited::default();
    let everything = everything(&[]);
    let select = Select { histograms: need, mint: mint.max(everything.mint), ..everything };
    let selected = snapshot(shared(&parts), Bounds::default()).select(&select, &cx).unwrap();
    let mut batch = SampleBatch::default();
    selected.read(0..1, &mut batch, &cx).unwrap();
    if need == HistogramNeed::Stats {
        assert!(
            batch.histograms.iter().all(|h| h.positive_buckets.is_empty() && h.positive_spans.is_empty())
        );
    }
    batch.histograms.iter().map(|histogram| histogram.counter_reset_hint).collect()
}

fn int(count: u64) -> Value {
    Value::Histogram(Arc::new(Histogram::Int(histogram(count))))
}

fn changed(count: u64, change: impl FnOnce(&mut IntHistogram)) -> Value {
    let mut histogram = histogram(count);
    change(&mut histogram);
    Value::Histogram(Arc::new(Histogram::Int(histogram)))
}

#[test]
fn hints_follow_the_runs_of_a_series() {
    use CounterResetHint::{Gauge, NotReset, Reset, Unknown};
    // Samples, hints in full, hints of the stats view.
    type Case = (&'static str, Vec<Value>, Vec<CounterResetHint>, Vec<CounterResetHint>);
    let cases: Vec<Case> = vec![
        (
            "growing",
            vec![int(2), int(4), int(4), int(6)],
            vec![Unknown, NotReset, NotReset, NotReset],
            vec![Unknown, NotReset, NotReset, NotReset],
        ),
        (
            "a reset",
            vec![int(4), int(2), int(6)],
            vec![Unknown, Unknown, NotReset],
            vec![Unknown, Reset, NotReset],
        ),
        (
            "a reset the sender names",
            vec![int(2), changed(4, |h| h.counter_reset_hint = Reset)],
            vec![Unknown, Unknown],
            vec![Unknown, NotReset],
        ),
        (
            "a sender's word is checked",
            vec![int(4), changed(2, |h| h.counter_reset_hint = NotReset)],
            vec![Unknown, Unknown],
            vec![Unknown, Reset],
        ),
        (
            "gauges",
            vec![
                int(2),
                changed(1, |h| h.counter_reset_hint = Gauge),
                changed(3, |h| h.counter_reset_hint = Gauge),
                int(4),
            ],
            vec![Unknown, Gauge, Gauge, Unknown],
            vec![Unknown, Gauge, Gauge, NotReset],
        ),
        (
            "another schema",
            vec![changed(2, |h| h.schema = 1), int(4)],
            vec![Unknown, Unknown],
            vec![Unknown, NotReset],
        ),
        (
            "more buckets",
            vec![
                int(2),
                changed(4, |h| {
                    h.positive_spans[0].length = 3;
                    h.positive_deltas.push(0);
                }),
            ],
            vec![Unknown, NotReset],
            vec![Unknown, NotReset],
        ),
        (
            "a staleness marker",
            vec![int(2), changed(2, |h| h.sum = stale_nan()), int(4)],
            vec![Unknown, Unknown, Unknown],
            vec![Unknown, Unknown, NotReset],
        ),
        (
            "a float between",
            vec![int(2), Value::Float(1.0), int(4)],
            vec![Unknown, Unknown],
            vec![Unknown, NotReset],
        ),
        (
            "float counts",
            vec![int(2), Value::Histogram(Arc::new(Histogram::Float(histogram(4).to_float())))],
            vec![Unknown, Unknown],
            vec![Unknown, NotReset],
        ),
    ];
    for (what, samples, full, stats) in cases {
        let part: Vec<(i64, Value)> = (0i64..).zip(samples).collect();
        assert_eq!(hints(vec![part.clone()], HistogramNeed::Full), full, "{what}");
        assert_eq!(hints(vec![part], HistogramNeed::Stats), stats, "{what}, stats");
    }
}

#[test]
fn the_stats_view_compares_with_nothing_before_its_reader_begins() {
    use CounterResetHint::{NotReset, Reset, Unknown};
    let part = vec![(0, int(4)), (10, int(2)), (20, int(3)), (30, int(1))];
    let stats = |mint| hints_from(mint, vec![part.clone()], HistogramNeed::Stats);
    assert_eq!(stats(0), [Unknown, Reset, NotReset, Reset]);
    // The sample before may come too, and is good for the hint that is stored, not for the comparison.
    assert!(stats(10).ends_with(&[Unknown, NotReset, Reset]), "{:?}", stats(10));
    assert!(stats(20).ends_with(&[NotReset, Reset]), "{:?}", stats(20));
}

#[test]
fn hints_are_unknown_where_the_part_changes() {
    use CounterResetHint::{NotReset, Unknown};
    let older = vec![(0, int(2)), (10, int(4)), (30, int(8))];
    let newer = vec![(20, int(6)), (40, int(10)), (50, int(12))];
    let parts = vec![older, newer];
    assert_eq!(
        hints(parts.clone(), HistogramNeed::Full),
        [Unknown, NotReset, Unknown, Unknown, Unknown, NotReset]
    );
    assert_eq!(
        hints(parts, HistogramNeed::Stats),
        [Unknown, NotReset, NotReset, NotReset, NotReset, NotReset]
    );
}

#[test]
fn exemplars_of_several_parts_come_once_and_by_time() {
    let labels = |name: &str| Labels::from_pairs([("__name__", name)]).unwrap();
    let exemplar = |timestamp| Exemplar { labels: Labels::empty(), value: 1.0, timestamp };
    let mut parts = [
        MemoryPart::new(1, vec![float_series("a", "x", &[0, 100])], 9),
        MemoryPart::new(2, vec![float_series("a", "x", &[0, 100])], 9),
    ];
    parts[0].exemplars = vec![(labels("b"), vec![exemplar(5), exemplar(90)])];
    parts[1].exemplars =
        vec![(labels("b"), vec![exemplar(3), exemplar(5)]), (labels("a"), vec![exemplar(60)])];
    let found = exemplars(&shared(&parts), &[], 0, 50, &Unlimited::default()).unwrap();
    assert_eq!(found, [(labels("b"), vec![exemplar(3), exemplar(5)])]);
}

/// A context that stops, or has no memory.
#[derive(Default)]
struct Limited {
    symbols: SymbolTable,
    cancelled: bool,
}

impl QueryContext for Limited {
    fn check(&self) -> Result<(), Stop> {
        if self.cancelled { Err(Stop::Cancelled) } else { Ok(()) }
    }
    fn charge(&self, _size_bytes: usize) -> Result<(), Stop> {
        Err(Stop::OverBudget("nothing is left".to_owned()))
    }
    fn release(&self, _size_bytes: usize) {}
    fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }
}

#[test]
fn queries_stop_when_told_to() {
    let parts = [MemoryPart::new(1, vec![float_series("a", "x", &[1])], 9)];
    let store = snapshot(shared(&parts), Bounds::default());
    let query = LabelQuery { matcher_sets: &[], mint: 0, maxt: 9, limit: 0 };
    for (cancelled, stop) in
        [(true, Stop::Cancelled), (false, Stop::OverBudget("nothing is left".to_owned()))]
    {
        let cx = Limited { cancelled, ..Default::default() };
        assert!(matches!(store.select(&everything(&[]), &cx), Err(ReadError::Stop(found)) if found == stop));
        assert!(matches!(store.label_names(&query, &cx), Err(ReadError::Stop(found)) if found == stop));
    }
}
