//! The set against a plain model: what is acknowledged is what is read, also after a restart.

use super::*;
use crate::block::source::{BlockSource, SourceSeries};
use crate::log::fs::RealFs;
use crate::options::ManualClock;
use crate::part::{Part, PartRead, PartSelect, RunBuffer, RunValues};
use chronolith_model::append::{
    AppendBatch, BatchSeries, Exemplar, HistogramSample, Metadata, MetricType, Refusal, Sample, SeriesKey,
};
use chronolith_model::histogram::{Histogram, IntHistogram, Span};
use chronolith_model::matcher::MatchOp;
use chronolith_model::queryable::{HistogramNeed, Projection, QueryContext, Unlimited};
use chronolith_model::sample::stale_nan;
use chronolith_model::{Labels, Matcher};
use std::collections::BTreeMap;
use std::path::Path;

mod carry;
mod crash;
mod faults;
mod measure;
mod model;

const WINDOW_MS: i64 = 1000;

fn options(clock: &Arc<ManualClock>) -> Options {
    Options {
        clock: Arc::clone(clock) as Arc<dyn crate::options::Clock>,
        window_ms: WINDOW_MS,
        shards: 4,
        threads: 2,
        retention_time_ms: 0,
        ..Options::default()
    }
}

fn setup(dir: &Path, options: Options) -> TableSetup {
    TableSetup {
        options,
        log_dir: dir.to_owned(),
        fs: Arc::new(RealFs),
        secret: [3; 32],
        next_number: 1,
        newest: None,
    }
}

fn open(dir: &Path) -> Arc<TableSet> {
    let clock = Arc::new(ManualClock::new(1 << 40));
    let (set, report) = TableSet::open(setup(dir, options(&clock)), &[]).unwrap();
    assert!(report.quarantined.is_empty(), "{report:?}");
    set
}

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').map(|pair| pair.split_once('=').unwrap());
    Labels::from_pairs(pairs).unwrap()
}

/// A float or a histogram that is told by one number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Datum {
    Float(u64),
    Histogram(u64),
}

fn histogram(count: u64) -> Histogram {
    Histogram::Int(IntHistogram {
        schema: 1,
        count,
        sum: count as f64 / 2.0,
        positive_spans: vec![Span { offset: 0, length: 1 + (count % 2) as u32 }],
        positive_deltas: vec![count as i64; 1 + (count % 2) as usize],
        ..IntHistogram::default()
    })
}

/// What series hold, by labels as text and time: value and start timestamp.
type Contents = BTreeMap<String, BTreeMap<i64, (Datum, i64)>>;

fn append(
    set: &TableSet,
    series: &Labels,
    samples: &[(i64, Datum, i64)],
) -> Result<AppendOutcome, crate::AppendError> {
    let mut batch = AppendBatch::default();
    for &(timestamp, datum, start_timestamp) in samples {
        match datum {
            Datum::Float(bits) => {
                batch.samples.push(Sample { timestamp, value: f64::from_bits(bits), start_timestamp });
            }
            Datum::Histogram(count) => {
                let histogram = histogram(count);
                batch.histograms.push(HistogramSample { timestamp, start_timestamp, histogram });
            }
        }
    }
    batch.series.push(BatchSeries {
        key: SeriesKey::Labels(series),
        samples: 0..batch.samples.len() as u32,
        histograms: 0..batch.histograms.len() as u32,
        exemplars: 0..0,
    });
    set.append(&batch, false)
}

fn float(timestamp: i64, value: f64) -> (i64, Datum, i64) {
    (timestamp, Datum::Float(value.to_bits()), 0)
}

fn take_runs(runs: &RunBuffer, series: u32, into: &mut BTreeMap<i64, (Datum, i64)>) {
    let mut last = i64::MIN;
    for run in runs.runs.iter().filter(|run| run.series == series) {
        for (index, &time) in run.times.times().iter().enumerate() {
            assert!(time > last, "runs of a series ascend");
            last = time;
            let datum = match &run.values {
                RunValues::Constant(value) => Datum::Float(value.to_bits()),
                RunValues::Floats(range) => Datum::Float(runs.values[range.clone()][index].to_bits()),
                RunValues::Histograms(range) => match &*runs.histograms[range.clone()][index] {
                    Histogram::Int(int) => Datum::Histogram(int.count),
                    Histogram::Float(_) => panic!("no float histogram was appended"),
                },
            };
            let start = run.start_timestamps.as_ref().map_or(0, |starts| starts[index]);
            into.entry(time).or_insert((datum, start));
        }
    }
}

/// Everything readers see; the part with the lower precedence wins.
fn contents(set: &TableSet) -> Contents {
    let mut parts = set.pins();
    parts.sort_by_key(|part| part.precedence());
    let mut all = Contents::new();
    for part in parts {
        read_part(&*part, &[], i64::MIN, i64::MAX, &mut all);
    }
    all
}

fn read_part(part: &dyn Part, matchers: &[Matcher], mint: i64, maxt: i64, all: &mut Contents) {
    let cx = Unlimited::default();
    let series = part.select(&PartSelect { matchers, mint, maxt, labels: Projection::All }, &cx).unwrap();
    let mut runs = RunBuffer::default();
    let read = PartRead {
        mint,
        maxt,
        lookups: None,
        values: true,
        histograms: HistogramNeed::Full,
        start_timestamps: true,
    };
    series.read(0..series.len(), &read, &mut runs, &cx).unwrap();
    let mut before: Option<Labels> = None;
    for index in 0..series.len() {
        let pairs = series.labels(index).iter();
        let texts = pairs.map(|&(n, v)| (cx.symbols().resolve(n), cx.symbols().resolve(v)));
        let labels = Labels::from_pairs(texts.map(|(n, v)| (n.to_string(), v.to_string()))).unwrap();
        if let Some(before) = before {
            assert!(chronolith_model::labels::block_order(&before, &labels).is_lt());
        }
        take_runs(&runs, index, all.entry(labels.to_string()).or_default());
        before = Some(labels);
    }
}

/// What blocks would be written from.
fn source_contents(set: &TableSet, boundaries: &[(i64, i64)]) -> Contents {
    let mut all = Contents::new();
    for table in set.frozen() {
        for (range, mut source) in table.sources(boundaries) {
            let symbols = source.symbols().unwrap();
            assert!(symbols.is_sorted());
            let mut series = SourceSeries::default();
            let mut before: Option<Labels> = None;
            while source.next_series(&mut series).unwrap() {
                let text = |number: u32| symbols[number as usize].to_string();
                let pairs = series.labels.iter().map(|&(name, value)| (text(name), text(value)));
                let labels = Labels::from_pairs(pairs).unwrap();
                if let Some(before) = before {
                    assert!(chronolith_model::labels::block_order(&before, &labels).is_lt());
                }
                let into = all.entry(labels.to_string()).or_default();
                take_runs(&series.samples, 0, into);
                assert!(
                    series.samples.runs.iter().all(|run| {
                        run.times.times().iter().all(|time| (range.0..=range.1).contains(time))
                    })
                );
                before = Some(labels);
            }
        }
    }
    all
}

#[test]
fn a_full_table_is_frozen_unless_its_window_is_nearly_over() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1 << 40));
    let options = Options { table_samples: 160, ..options(&clock) };
    let (set, _) = TableSet::open(setup(dir.path(), options), &[]).unwrap();
    let series = labels("__name__=up");
    let append = |times: &mut dyn Iterator<Item = i64>| {
        let samples: Vec<_> = times.map(|time| float(time, time as f64)).collect();
        append(&set, &series, &samples).unwrap();
        set.frozen().len()
    };
    // At 3 ms, the half of the window is still to come.
    assert_eq!(append(&mut (0..159).map(|n| n * 3)), 0);
    assert_eq!(append(&mut [477].into_iter()), 1);
    // At 6 ms, a few samples. More than an eighth does not go in, whatever the rate was.
    assert_eq!(append(&mut (0..160).map(|n| WINDOW_MS + n * 6)), 1);
    assert_eq!(append(&mut (0..19).map(|n| WINDOW_MS + 955 + n)), 1);
    assert_eq!(append(&mut [WINDOW_MS + 980].into_iter()), 2);
}

#[test]
fn the_rules_for_equal_timestamps_hold() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let series = labels("__name__=up,job=a");
    let check = |samples: &[(i64, Datum, i64)], written: u64, duplicate: u64, late: u64| {
        let outcome = append(&set, &series, samples).unwrap();
        let taken = outcome.samples_written + outcome.histograms_written;
        assert_eq!((taken, outcome.refused_duplicate, outcome.out_of_order), (written, duplicate, late));
        outcome
    };
    check(&[float(10, 1.0), float(20, 2.0)], 2, 0, 0);
    check(&[float(20, 2.0)], 1, 0, 0);
    let outcome = check(&[float(20, 3.0)], 0, 1, 0);
    assert_eq!(outcome.first_refused.unwrap(), (series.to_string(), 20, Refusal::Duplicate));
    check(&[float(15, 1.5)], 1, 0, 1);
    check(&[float(15, 1.5), float(10, 1.0)], 2, 0, 0);
    check(&[float(15, 1.6), float(10, 1.1)], 0, 2, 0);
    check(&[(20, Datum::Histogram(2), 0)], 0, 1, 0);
    check(&[(30, Datum::Histogram(2), 0), (30, Datum::Histogram(2), 0)], 2, 0, 0);
    check(&[(30, Datum::Histogram(3), 0), float(30, 1.0)], 0, 2, 0);
    check(&[(25, Datum::Histogram(9), 7)], 1, 0, 1);
    check(&[float(40, stale_nan())], 1, 0, 0);
    check(&[float(40, f64::NAN)], 0, 1, 0);
    let expected = [
        float(10, 1.0),
        float(15, 1.5),
        float(20, 2.0),
        (25, Datum::Histogram(9), 7),
        (30, Datum::Histogram(2), 0),
        float(40, stale_nan()),
    ];
    let expected = expected.map(|(time, datum, start)| (time, (datum, start)));
    assert_eq!(contents(&set)[&series.to_string()], BTreeMap::from(expected));
}

#[test]
fn a_retry_after_the_freeze_is_recognised_and_another_value_refused() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let series = labels("__name__=up");
    append(&set, &series, &[float(10, 1.0)]).unwrap();
    for number in set.freeze_all() {
        set.sealed(number);
    }
    assert!(set.pins().is_empty());
    assert_eq!(append(&set, &series, &[float(10, 1.0)]).unwrap().samples_written, 1);
    assert_eq!(append(&set, &series, &[float(10, 2.0)]).unwrap().refused_duplicate, 1);
    assert_eq!(set.stats().n_samples, 0);
}

#[test]
fn samples_outside_of_the_limits_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1_000_000));
    let options = Options { retention_time_ms: 5_000, max_ahead_ms: 100, ..options(&clock) };
    let (set, _) = TableSet::open(setup(dir.path(), options), &[]).unwrap();
    let series = labels("__name__=up");
    let check = |timestamp: i64, expected: Option<Refusal>| {
        let outcome = append(&set, &series, &[float(timestamp, 1.0)]).unwrap();
        assert_eq!(outcome.first_refused.map(|(_, _, refusal)| refusal), expected);
    };
    check(1_000_101, Some(Refusal::TooNew { newest: 1_000_100 }));
    check(1_000_100, None);
    check(995_100, None);
    check(995_099, Some(Refusal::TooOld { oldest: 995_100 }));
    check((1 << 53) + 1, Some(Refusal::OutOfRange));
    check(i64::MIN, Some(Refusal::OutOfRange));
}

#[test]
fn windows_that_fall_behind_are_frozen_and_what_is_older_goes_to_the_late_table() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let series = labels("__name__=up");
    append(&set, &series, &[float(500, 1.0), float(1500, 2.0)]).unwrap();
    assert!(set.frozen().is_empty());
    append(&set, &series, &[float(2500, 3.0)]).unwrap();
    let frozen = set.frozen();
    assert_eq!(frozen.iter().map(FrozenTable::window).collect::<Vec<_>>(), [Some(0)]);
    append(&set, &series, &[float(-5000, 4.0), float(1999, 5.0), float(700, 6.0)]).unwrap();
    append(&set, &series, &[float(9000, 7.0)]).unwrap();
    let windows: Vec<_> = set.frozen().iter().map(FrozenTable::window).collect();
    assert_eq!(windows, [Some(0), Some(1000), Some(2000)]);
    set.freeze_all();
    let late = set.frozen().into_iter().find(|table| table.window().is_none()).unwrap();
    let ranges: Vec<_> =
        late.sources(&[(-6000, -5000), (-4999, 0), (1, 999)]).into_iter().map(|(range, _)| range).collect();
    assert_eq!(ranges, [(-6000, -5000), (-4999, 0), (1, 999)]);
}

#[test]
fn the_table_of_the_window_before_is_frozen_once_the_current_one_has_gone_on() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let (a, b) = (labels("__name__=a"), labels("__name__=b"));
    for time in 0..30 {
        append(&set, &a, &[float(time, 1.0)]).unwrap();
        append(&set, &b, &[float(time, 1.0)]).unwrap();
    }
    // Stragglers still find it open.
    for time in 0..15 {
        append(&set, &a, &[float(WINDOW_MS + time, 1.0)]).unwrap();
        append(&set, &b, &[float(WINDOW_MS + time, 1.0), float(900 + time, 2.0)]).unwrap();
    }
    assert_eq!(set.frozen().len(), 0);
    append(&set, &a, &[float(WINDOW_MS + 15, 1.0)]).unwrap();
    append(&set, &b, &[float(WINDOW_MS + 15, 1.0)]).unwrap();
    assert_eq!(set.frozen().iter().map(|table| table.n_samples()).collect::<Vec<_>>(), [75]);
    // What comes later still has a table of its own, which stays: it is not sealed at each request.
    for time in 0..30 {
        append(&set, &b, &[float(950 + time, 3.0), float(WINDOW_MS + 50 + time, 1.0)]).unwrap();
    }
    assert_eq!(set.frozen().len(), 1);
    assert_eq!(contents(&set)[&b.to_string()].len(), 30 + 15 + 16 + 30 + 30);
}

#[test]
fn matchers_select_from_tables_and_labels_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    for (text, time) in [("__name__=up,job=a", 10), ("__name__=up,job=b", 20), ("__name__=down,job=b", 30)] {
        append(&set, &labels(text), &[float(time, 1.0)]).unwrap();
    }
    let part = set.pins().remove(0);
    let mut found = Contents::new();
    read_part(&*part, &[Matcher::equal("job", "b"), Matcher::equal("__name__", "up")], 0, 100, &mut found);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["{__name__=\"up\", job=\"b\"}"]);
    let mut found = Contents::new();
    read_part(&*part, &[], 21, 100, &mut found);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["{__name__=\"down\", job=\"b\"}"]);
    let cx = Unlimited::default();
    let values = |matchers: &[Matcher]| {
        let mut values = Vec::new();
        let select = PartSelect { matchers, mint: 0, maxt: 100, labels: Projection::All };
        part.label_values("job", &select, &cx, &mut |value| values.push(value.to_owned())).unwrap();
        values.sort();
        values.dedup();
        values
    };
    assert_eq!(values(&[]), ["a", "b"]);
    assert_eq!(values(&[Matcher::equal("__name__", "down")]), ["b"]);
    let mut names = Vec::new();
    let select = PartSelect { matchers: &[], mint: 0, maxt: 100, labels: Projection::All };
    part.label_names(&select, &cx, &mut |name| names.push(name.to_owned())).unwrap();
    names.sort();
    names.dedup();
    assert_eq!(names, ["__name__", "job"]);
    for (kept, n_labels) in [(Projection::Only(&names[1..]), 1), (Projection::Without(&names), 0)] {
        let series = part.select(&PartSelect { labels: kept, ..select }, &cx).unwrap();
        assert!((0..series.len()).all(|at| series.labels(at).len() == n_labels), "{kept:?}");
    }
}

#[test]
fn the_order_of_series_is_known_before_a_query_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let add = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            // In no order, and a metric name that is not the first label.
            let (name, zone) = (number * 7919 % 31, number * 31 % 97);
            let text = format!("A=zone-{zone},__name__=metric_{name},job=job-{number}");
            append(&set, &labels(&text), &[float(1, f64::from(number))]).unwrap();
        }
    };
    // That what is read is in order is checked by the reader.
    let check = |n_series: usize, n_ranked: usize| {
        assert_eq!(contents(&set).len(), n_series);
        assert_eq!(set.ranks.load().len(), n_ranked);
    };
    add(0..200);
    check(200, 0);
    set.rank_ahead();
    check(200, 200);
    add(200..210);
    set.rank_ahead();
    check(210, 200);
    add(210..400);
    // They are still coming.
    set.rank_ahead();
    check(400, 200);
    set.rank_ahead();
    check(400, 400);
}

#[test]
fn the_last_float_is_found_without_reading_the_series() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let floats = |count: i64, step: i64, value: fn(i64) -> f64| -> Vec<(i64, Datum, i64)> {
        (0..count).map(|n| float(n * step, value(n))).collect()
    };
    let marker = |n| if n < 300 { 1.0 } else { stale_nan() };
    append(&set, &labels("__name__=constant"), &floats(600, 1, |_| 2.0)).unwrap();
    append(&set, &labels("__name__=changing"), &floats(600, 1, |n| n as f64 / 3.0)).unwrap();
    append(&set, &labels("__name__=ended"), &floats(301, 1, marker)).unwrap();
    append(&set, &labels("__name__=resumed"), &floats(600, 1, |n| if n == 480 { stale_nan() } else { 1.0 }))
        .unwrap();
    for time in floats(40, 7, |n| n as f64) {
        append(&set, &labels("__name__=alone"), &[time]).unwrap();
    }
    let part = set.pins().remove(0);
    let cx = Unlimited::default();
    let last = |mint, maxt| {
        let (matchers, labels) = (&[][..], Projection::All);
        let series = part.select(&PartSelect { matchers, mint: 0, maxt: 999, labels }, &cx).unwrap();
        let (lookups, values, histograms) = (None, false, HistogramNeed::Full);
        let read = PartRead { mint, maxt, lookups, values, histograms, start_timestamps: false };
        let mut found = Vec::new();
        let known = &mut crate::part::KnownColumns::default();
        let is_known = series.last_floats(0..series.len(), &read, known, &mut found, &cx).unwrap();
        let mut runs = RunBuffer::default();
        series.read(0..series.len(), &read, &mut runs, &cx).unwrap();
        let mut expected = Vec::new();
        assert_eq!(is_known, runs.last_floats(series.len() as usize, (mint, maxt), &mut expected));
        (is_known, found, expected)
    };
    for range in
        [(0, 999), (0, 599), (0, 598), (0, 480), (0, 479), (0, 300), (200, 299), (301, 400), (600, 900)]
    {
        let (is_known, found, expected) = last(range.0, range.1);
        assert!(is_known);
        assert_eq!(found, expected, "{range:?}");
    }
    append(&set, &labels("__name__=histogram"), &[(1, Datum::Histogram(1), 0)]).unwrap();
    assert!(!last(0, 999).0);
}

#[test]
fn the_histogram_before_the_range_comes_too_if_nothing_lies_between() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let count = |at: i64, count| (at, Datum::Histogram(count), 0);
    for sample in [count(0, 1), count(10, 2), float(20, 1.0), count(30, 3), count(40, 4)] {
        append(&set, &labels("__name__=a"), &[sample]).unwrap();
    }
    let times_from = |mint: i64| {
        let mut all = Contents::new();
        set.pins().iter().for_each(|part| read_part(&**part, &[], mint, 100, &mut all));
        all.into_values().flat_map(BTreeMap::into_keys).collect::<Vec<i64>>()
    };
    assert_eq!(times_from(5), [0, 10, 20, 30, 40]);
    assert_eq!(times_from(15), [20, 30, 40], "a float comes first");
    assert_eq!(times_from(25), [30, 40], "a float lies between");
    assert_eq!(times_from(35), [30, 40]);
}

#[test]
fn exemplars_and_metadata_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let series = labels("__name__=up");
    let exemplar = |timestamp| Exemplar { labels: labels("trace_id=x"), value: 0.5, timestamp };
    let metadata = Metadata { metric_type: MetricType::Gauge, unit: String::new(), help: "h".into() };
    {
        let set = open(dir.path());
        let mut batch = AppendBatch::default();
        batch.samples.push(Sample { timestamp: 10, value: 1.0, start_timestamp: 0 });
        batch.exemplars = vec![exemplar(10), exemplar(10), exemplar(9), exemplar(11)];
        batch.metadata.push(("up", metadata.clone()));
        batch.series.push(BatchSeries {
            key: SeriesKey::Labels(&series),
            samples: 0..1,
            histograms: 0..0,
            exemplars: 0..4,
        });
        let outcome = set.append(&batch, true).unwrap();
        assert_eq!((outcome.exemplars_written, outcome.refused), (3, 1));
        assert!(outcome.refs[0].is_some());
    }
    let set = open(dir.path());
    assert_eq!(set.metadata(), [("up".to_owned(), vec![metadata])]);
    let mut found = Vec::new();
    let select = PartSelect { matchers: &[], mint: 0, maxt: 100, labels: Projection::All };
    let part = set.pins().remove(0);
    part.exemplars(&select, &Unlimited::default(), &mut |_, all| found.extend_from_slice(all)).unwrap();
    assert_eq!(found, [exemplar(10), exemplar(11)]);
}

#[test]
fn handles_of_a_batch_are_good_for_the_next_and_expire_with_the_series() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1_000_000));
    let (set, _) = TableSet::open(setup(dir.path(), options(&clock)), &[]).unwrap();
    let series = labels("__name__=up");
    let append = |key: SeriesKey<'_>, timestamp| {
        let mut batch = AppendBatch::default();
        batch.samples.push(Sample { timestamp, value: 1.0, start_timestamp: 0 });
        batch.series.push(BatchSeries { key, samples: 0..1, histograms: 0..0, exemplars: 0..0 });
        let outcome = set.append(&batch, true).unwrap();
        assert_eq!((outcome.samples_written + outcome.expired, outcome.refused), (1, 0));
        (outcome.refs[0].unwrap(), outcome.series_created, outcome.expired)
    };
    let (handle, ..) = append(SeriesKey::Labels(&series), 10);
    assert_eq!(append(SeriesKey::Ref(handle, &series), 20), (handle, 0, 0));
    assert_eq!(append(SeriesKey::Handle(handle), 25), (handle, 0, 0));
    for number in set.freeze_all() {
        set.sealed(number);
    }
    clock.set(10_000_000);
    set.due();
    assert_eq!(set.stats().n_series, 0);
    assert_eq!(append(SeriesKey::Handle(handle), 30), (handle, 0, 1));
    let (other, created, _) = append(SeriesKey::Ref(handle, &series), 30);
    assert_ne!(other, handle);
    assert_eq!(created, 1);
    assert_eq!(append(SeriesKey::Handle(handle), 40).2, 1, "the slot is in use again, by another generation");
}

#[test]
fn a_deleted_newest_sample_may_be_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let series = labels("__name__=up");
    append(&set, &series, &[float(10, 1.0)]).unwrap();
    let matching = |value: &str| [vec![Matcher::new(MatchOp::Equal, "__name__", value).unwrap()]];
    assert_eq!(set.freeze_overlapping(&matching("down"), 5, 15), [], "no series of it is deleted");
    assert_eq!(set.freeze_overlapping(&matching("up"), 20, 30), [], "nor is any sample");
    let frozen = set.freeze_overlapping(&matching("up"), 5, 15);
    assert_eq!(frozen.len(), 1);
    for number in frozen {
        set.sealed(number);
    }
    let outcome = append(&set, &series, &[float(10, 2.0)]).unwrap();
    assert_eq!((outcome.samples_written, outcome.refused), (1, 0));
    assert_eq!(set.stats().n_samples, 1);
}

#[test]
fn markers_for_the_newest_only_are_passed_over_when_they_are_late() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let series = labels("__name__=up");
    append(&set, &series, &[float(10, 1.0)]).unwrap();
    for (timestamp, n_samples) in [(9, 1), (10, 1), (11, 2)] {
        let mut batch = AppendBatch { newest_only_from: 0, ..AppendBatch::default() };
        batch.samples.push(Sample { timestamp, value: stale_nan(), start_timestamp: 0 });
        let key = SeriesKey::Labels(&series);
        batch.series.push(BatchSeries { key, samples: 0..1, histograms: 0..0, exemplars: 0..0 });
        assert_eq!(set.append(&batch, false).unwrap().refused, 0);
        assert_eq!(set.stats().n_samples, n_samples);
    }
}
