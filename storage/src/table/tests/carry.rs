//! What no block can hold moves on: exemplars of series without samples, metadata without any sample.

use super::*;

fn exemplar(timestamp: i64) -> Exemplar {
    Exemplar { labels: labels("trace_id=x"), value: timestamp as f64, timestamp }
}

fn append_exemplars(set: &TableSet, series: &Labels, timestamps: &[i64]) {
    let mut batch = AppendBatch {
        exemplars: timestamps.iter().copied().map(exemplar).collect(),
        ..AppendBatch::default()
    };
    let exemplars = 0..timestamps.len() as u32;
    batch.series.push(BatchSeries {
        key: SeriesKey::Labels(series),
        samples: 0..0,
        histograms: 0..0,
        exemplars,
    });
    let outcome = set.append(&batch, false).unwrap();
    assert_eq!((outcome.exemplars_written, outcome.refused), (timestamps.len() as u64, 0));
}

fn metadata(help: &str) -> Metadata {
    Metadata { metric_type: MetricType::Gauge, unit: String::new(), help: help.to_owned() }
}

fn append_metadata(set: &TableSet, name: &str, help: &str) {
    let batch = AppendBatch { metadata: vec![(name, metadata(help))], ..AppendBatch::default() };
    set.append(&batch, false).unwrap();
}

/// Timestamps of all exemplars that readers see.
fn exemplars(set: &TableSet) -> Vec<i64> {
    let found = crate::read::exemplars(&set.pins(), &[vec![]], i64::MIN, i64::MAX, &Unlimited::default());
    let mut times: Vec<i64> =
        found.unwrap().iter().flat_map(|(_, all)| all.iter().map(|one| one.timestamp)).collect();
    times.sort_unstable();
    times
}

/// Seals all tables; the timestamps of the exemplars that came into blocks, by range.
fn seal(set: &TableSet, boundaries: &[(i64, i64)]) -> Vec<((i64, i64), Vec<i64>)> {
    set.freeze_all();
    let mut found = Vec::new();
    for table in set.frozen() {
        for (range, mut source) in table.sources(boundaries) {
            let mut series = SourceSeries::default();
            let mut times = Vec::new();
            while source.next_series(&mut series).unwrap() {
                times.extend(series.exemplars.iter().map(|exemplar| exemplar.timestamp));
            }
            if !times.is_empty() {
                found.push((range, times));
            }
        }
        set.sealed(table.number());
    }
    found
}

const EVER: (i64, i64) = (i64::MIN, i64::MAX);

#[test]
fn exemplars_of_a_series_without_samples_wait_for_them_over_seals_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let (bare, sampled) = (labels("__name__=bare"), labels("__name__=sampled"));
    append_exemplars(&set, &bare, &[10, 20]);
    append(&set, &sampled, &[float(10, 1.0)]).unwrap();
    assert_eq!(seal(&set, &[EVER]), []);
    assert_eq!(exemplars(&set), [10, 20]);
    drop(set);
    // The next one holds a newer one of the series before the old ones come.
    let set = open(dir.path());
    append_exemplars(&set, &bare, &[30]);
    assert_eq!(exemplars(&set), [10, 20, 30]);
    assert_eq!(seal(&set, &[EVER]), []);
    drop(set);
    let set = open(dir.path());
    assert_eq!(exemplars(&set), [10, 20, 30]);
    append(&set, &bare, &[float(500, 1.0)]).unwrap();
    assert_eq!(seal(&set, &[EVER]), [(EVER, vec![10, 20, 30])]);
    assert_eq!(exemplars(&set), []);
}

#[test]
fn exemplars_between_the_samples_of_a_late_series_go_to_the_block_of_its_newest_one() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    let series = labels("__name__=a");
    append(&set, &labels("__name__=other"), &[float(9000, 1.0)]).unwrap();
    append(&set, &series, &[float(100, 1.0), float(2100, 2.0)]).unwrap();
    append_exemplars(&set, &series, &[50, 1500, 2500]);
    set.freeze_all();
    let ranges = [(0, 999), (1000, 1999), (2000, 2999), (9000, 9999)];
    assert_eq!(seal(&set, &ranges), [((0, 999), vec![50]), ((2000, 2999), vec![1500, 2500])]);
}

#[test]
fn metadata_alone_survives_the_end_of_the_process_a_freeze_and_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let names = |set: &TableSet| set.metadata().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let set = open(dir.path());
    append_metadata(&set, "first", "before any sample");
    drop(set);
    let set = open(dir.path());
    assert_eq!(names(&set), ["first"]);
    set.freeze_all();
    drop(set);
    let set = open(dir.path());
    assert_eq!(names(&set), ["first"]);
    append(&set, &labels("__name__=a"), &[float(10, 1.0)]).unwrap();
    append_metadata(&set, "second", "beside an open table");
    assert_eq!(set.tables.load().current_window, Some(0), "metadata begins no window");
    drop(set);
    let set = open(dir.path());
    assert_eq!(names(&set), ["first", "second"]);
    // What cannot move on while the log is broken does when it is new.
    append_exemplars(&set, &labels("__name__=b"), &[15]);
    set.log.broken.set("a test".to_owned());
    seal(&set, &[EVER]);
    set.reopen().unwrap();
    assert_eq!(exemplars(&set), [15]);
    drop(set);
    assert_eq!(exemplars(&open(dir.path())), [15]);
}
