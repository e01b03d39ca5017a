//! Each format that was released has a small store under `fixtures/`, which must go on opening with
//! every sample, deletion and exemplar in it.

#![cfg(feature = "engine")]

#[path = "support/store.rs"]
mod support;

use chronolith_model::append::{AppendBatch, BatchSeries, Exemplar, Metadata, MetricType, Sample, SeriesKey};
use chronolith_model::{Labels, Matcher};
use chronolith_storage::db::Db;
use chronolith_storage::options::ManualClock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{Content, Value, WINDOW_MS};

const START_MS: i64 = 1_700_000_000_000;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START_MS + 10 * WINDOW_MS))
}

fn series(n: i64) -> Labels {
    support::labels(&[("__name__", "fixture"), ("A", "before the name"), ("n", &n.to_string())])
}

/// Everything that is appended: constants, integers, decimals, full floats, histograms, staleness.
fn content() -> Content {
    let mut content = Content::new();
    for window in 0..3 {
        for at in 0..30 {
            let timestamp = START_MS + window * WINDOW_MS + at * 300;
            let x = (window * 30 + at) as f64;
            let floats = [1.0, x, x * 0.25, (x + 0.1).sqrt(), -0.0];
            for (n, value) in (0..).zip(floats) {
                let is_end = n == 1 && at == 29;
                let value = if is_end { Value::Stale } else { Value::Float(value.to_bits()) };
                content.entry(series(n)).or_default().insert(timestamp, value);
            }
            content.entry(series(5)).or_default().insert(timestamp, Value::Histogram(x as u64));
        }
    }
    content
}

fn deleted() -> (Vec<Matcher>, i64, i64) {
    (vec![Matcher::equal("n", "2")], START_MS + 1_000, START_MS + 2_000)
}

#[test]
fn format_1_opens_with_everything_in_it() {
    let copy = tempfile::tempdir().unwrap();
    support::copy_directory(&fixture(), copy.path());
    let db = Db::open(copy.path(), support::options(&clock())).unwrap();
    assert_eq!(db.status().lost, []);
    assert_eq!(db.status().blocks.len(), 2);
    let mut expected = content();
    let (_, mint, maxt) = deleted();
    expected.get_mut(&series(2)).unwrap().retain(|timestamp, _| !(mint..=maxt).contains(timestamp));
    let found = support::read(&db, &[], i64::MIN, i64::MAX).unwrap();
    assert_eq!(support::difference(&found, &expected), None);
    let exemplars = db.exemplars(&[vec![Matcher::equal("n", "0")]], START_MS, START_MS).unwrap();
    assert_eq!(exemplars[0].1[0].labels, support::labels(&[("trace_id", "abc")]));
    assert_eq!(db.metadata(Some("fixture"))[0].1[0].unit, "seconds");
    db.flush().unwrap();
    let found = support::read(&db, &[], i64::MIN, i64::MAX).unwrap();
    assert_eq!(support::difference(&found, &expected), None);
}

#[test]
#[ignore = "writes the fixture"]
fn write_the_fixture() {
    let path = fixture();
    let _ = std::fs::remove_dir_all(&path);
    let db = Db::open(&path, support::options(&clock())).unwrap();
    let labels = series(0);
    let batch = AppendBatch {
        series: vec![BatchSeries {
            key: SeriesKey::Labels(&labels),
            samples: 0..1,
            histograms: 0..0,
            exemplars: 0..1,
        }],
        samples: vec![Sample { timestamp: START_MS, value: 1.0, start_timestamp: 0 }],
        exemplars: vec![Exemplar {
            labels: support::labels(&[("trace_id", "abc")]),
            value: 0.5,
            timestamp: START_MS,
        }],
        metadata: vec![(
            "fixture",
            Metadata { metric_type: MetricType::Gauge, unit: "seconds".into(), help: "A fixture.".into() },
        )],
        ..AppendBatch::default()
    };
    assert_eq!(db.append(&batch, false).unwrap().refused, 0);
    for window in 0..3 {
        let (mint, maxt) = (START_MS + window * WINDOW_MS, START_MS + (window + 1) * WINDOW_MS - 1);
        let mut samples: Vec<(i64, Labels, Value)> = Vec::new();
        for (labels, in_range) in support::filter(&content(), &[], mint, maxt) {
            samples.extend(in_range.into_iter().map(|(timestamp, value)| (timestamp, labels.clone(), value)));
        }
        samples.sort_by_key(|sample| sample.0);
        let samples: Vec<_> =
            samples.into_iter().map(|(timestamp, labels, value)| (labels, timestamp, value)).collect();
        assert_eq!(support::append(&db, &samples).refused, 0);
        if window < 2 {
            db.flush().unwrap();
        }
    }
    let (matchers, mint, maxt) = deleted();
    // Overlaps the first window only, so that the last one stays in the log.
    db.delete(&[matchers], mint, maxt).unwrap();
    db.close().unwrap();
    for name in ["LOCK", "SECRET", "BALLAST", "blocks/LOCK"] {
        let _ = std::fs::remove_file(path.join(name));
    }
    for entry in std::fs::read_dir(path.join("blocks")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("LOG") || name.starts_with("OPTIONS") || name.ends_with(".log") {
            std::fs::remove_file(file).unwrap();
        }
    }
}
