//! Ends of the process at any byte, and bytes that change on disk.

use super::*;
use std::path::PathBuf;

/// The files of all tables below a folder.
fn log_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for table in std::fs::read_dir(dir).unwrap() {
        let table = table.unwrap().path();
        if table.is_dir() {
            files.extend(std::fs::read_dir(table).unwrap().map(|file| file.unwrap().path()));
        }
    }
    files.sort();
    files
}

fn copy_dir(from: &Path, to: &Path) {
    for file in log_files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, &target).unwrap();
    }
}

fn segment(dir: &Path) -> PathBuf {
    log_files(dir).into_iter().find(|file| file.extension().is_some_and(|name| name == "seg")).unwrap()
}

/// Appends one request each; the length of the segment after each.
fn write_requests(dir: &Path, n_requests: i64) -> (Vec<u64>, Vec<Contents>) {
    let set = open(dir);
    let mut lengths = Vec::new();
    let mut states = vec![Contents::new()];
    for request in 0..n_requests {
        for name in ["a", "b"] {
            let series = labels(&format!("__name__={name}"));
            append(&set, &series, &[float(request, request as f64 + 0.1)]).unwrap();
            lengths.push(std::fs::metadata(segment(dir)).unwrap().len());
            states.push(contents(&set));
        }
    }
    (lengths, states)
}

#[test]
fn a_log_cut_at_any_byte_gives_the_requests_that_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (lengths, states) = write_requests(dir.path(), 4);
    let header_bytes = 72;
    for length in header_bytes..=*lengths.last().unwrap() {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let file = std::fs::OpenOptions::new().write(true).open(segment(copy.path())).unwrap();
        file.set_len(length).unwrap();
        let n_whole = lengths.iter().filter(|&&end| end <= length).count();
        let set = open(copy.path());
        let mut found = contents(&set);
        found.retain(|_, samples| !samples.is_empty());
        assert_eq!(found, states[n_whole], "cut at {length}");
        // What goes on behind the cut is there after the next restart as well.
        append(&set, &labels("__name__=b"), &[float(99, 9.0)]).unwrap();
        let expected = contents(&set);
        drop(set);
        assert_eq!(contents(&open(copy.path())), expected, "second restart after a cut at {length}");
    }
}

#[test]
fn definitions_cut_at_any_byte_lose_their_series_only() {
    let dir = tempfile::tempdir().unwrap();
    let (_, states) = write_requests(dir.path(), 2);
    let whole = states.last().unwrap();
    let definitions = log_files(dir.path()).into_iter().find(|file| file.ends_with("defs")).unwrap();
    let length = std::fs::metadata(&definitions).unwrap().len();
    for cut in 72..length {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let copied = copy.path().join(definitions.strip_prefix(dir.path()).unwrap());
        std::fs::OpenOptions::new().write(true).open(copied).unwrap().set_len(cut).unwrap();
        let clock = Arc::new(ManualClock::new(1 << 40));
        let (set, report) = TableSet::open(setup(copy.path(), options(&clock)), &[]).unwrap();
        let found = contents(&set);
        assert!(found.iter().all(|(series, samples)| whole[series] == *samples));
        assert!(report.n_undefined > 0);
        // Numbers of series are used up: a new one must not take over the samples of a lost one.
        append(&set, &labels("__name__=new"), &[float(500, 1.0)]).unwrap();
        drop(set);
        let (set, _) = TableSet::open(setup(copy.path(), options(&clock)), &[]).unwrap();
        let again = contents(&set);
        assert_eq!(again["{__name__=\"new\"}"].len(), 1, "cut at {cut}");
        assert_eq!(again.len(), found.len() + 1);
    }
}

#[test]
fn any_flipped_bit_is_noticed_and_nothing_is_invented() {
    let dir = tempfile::tempdir().unwrap();
    let (_, states) = write_requests(dir.path(), 3);
    let whole = states.last().unwrap();
    for file in log_files(dir.path()) {
        let bytes = std::fs::read(&file).unwrap();
        for at in 0..bytes.len() {
            let copy = tempfile::tempdir().unwrap();
            copy_dir(dir.path(), copy.path());
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(copy.path().join(file.strip_prefix(dir.path()).unwrap()), damaged).unwrap();
            let clock = Arc::new(ManualClock::new(1 << 40));
            let (set, report) = TableSet::open(setup(copy.path(), options(&clock)), &[]).unwrap();
            let found = contents(&set);
            for (series, samples) in &found {
                for (time, value) in samples {
                    assert_eq!(whole[series].get(time), Some(value), "flip in {} at {at}", file.display());
                }
            }
            let is_named = !report.torn.is_empty() || !report.quarantined.is_empty();
            assert!(is_named || found == *whole, "flip in {} at {at} went unnoticed", file.display());
        }
    }
}

#[test]
fn damage_in_one_segment_leaves_the_next_one_whole() {
    let dir = tempfile::tempdir().unwrap();
    let series = labels("__name__=a");
    for run in 0..3 {
        // Each restart begins a segment.
        let set = open(dir.path());
        for index in 0..10 {
            let time = run * 100 + index;
            append(&set, &series, &[float(time, time as f64)]).unwrap();
        }
        set.sync_now().unwrap();
    }
    let segments: Vec<_> =
        log_files(dir.path()).into_iter().filter(|file| file.extension().is_some()).collect();
    assert_eq!(segments.len(), 3);
    let mut bytes = std::fs::read(&segments[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&segments[1], bytes).unwrap();
    let clock = Arc::new(ManualClock::new(1 << 40));
    let (set, report) = TableSet::open(setup(dir.path(), options(&clock)), &[]).unwrap();
    assert_eq!(report.torn.len() + report.quarantined.len(), 1);
    let found = &contents(&set)[&series.to_string()];
    assert!((0..10).chain(200..210).all(|time| found.contains_key(&time)));
    assert!(found.iter().all(|(&time, &(datum, _))| datum == Datum::Float((time as f64).to_bits())));
    assert!(found.len() < 30);
}

#[test]
fn logs_of_sealed_tables_are_deleted_and_numbers_never_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    append(&set, &labels("__name__=a"), &[float(1, 1.0)]).unwrap();
    let numbers = set.freeze_all();
    drop(set);
    let clock = Arc::new(ManualClock::new(1 << 40));
    let (set, report) = TableSet::open(setup(dir.path(), options(&clock)), &numbers).unwrap();
    assert_eq!(report.n_samples, 0);
    assert!(log_files(dir.path()).is_empty());
    append(&set, &labels("__name__=a"), &[float(1, 1.0)]).unwrap();
    assert!(set.freeze_all()[0] > numbers[0]);
}

#[test]
fn a_frozen_table_stays_frozen_with_its_place_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let series = labels("__name__=a");
    let set = open(dir.path());
    append(&set, &series, &[float(1, 1.0), float(2, 2.0)]).unwrap();
    set.freeze_all();
    // The frozen table cannot be looked into, so this is taken; readers see the first one.
    append(&set, &series, &[float(1, 5.0)]).unwrap();
    let before = contents(&set);
    assert_eq!(before[&series.to_string()][&1].0, Datum::Float(1f64.to_bits()));
    drop(set);
    let set = open(dir.path());
    assert_eq!(contents(&set), before);
    assert_eq!(set.frozen().len(), 1);
}

/// With the newest windows frozen or in blocks, and a table of late samples open, windows began anew after a
/// restart: what was late before went to a table of its own, and its value stood beside the first one.
#[test]
fn late_samples_stay_late_over_a_restart() {
    let late = labels("__name__=late");
    for is_sealed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let set = open(dir.path());
        append(&set, &labels("__name__=a"), &[float(5 * WINDOW_MS, 1.0)]).unwrap();
        let mut numbers = set.freeze_all();
        append(&set, &late, &[float(1, 1.0), float(2, 2.0), float(3, 3.0)]).unwrap();
        drop(set);
        let clock = Arc::new(ManualClock::new(1 << 40));
        let mut setup = setup(dir.path(), options(&clock));
        if is_sealed {
            setup.newest = Some(5 * WINDOW_MS);
        } else {
            numbers.clear();
        }
        let (set, _) = TableSet::open(setup, &numbers).unwrap();
        assert_eq!(append(&set, &late, &[float(2, 9.0)]).unwrap().refused_duplicate, 1, "{is_sealed}");
        assert_eq!(contents(&set)[&late.to_string()][&2].0, Datum::Float(2f64.to_bits()), "{is_sealed}");
    }
}

#[test]
fn another_number_of_shards_replays_and_freezes_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    for index in 0..50 {
        append(&set, &labels(&format!("__name__=a,job=j{index}")), &[float(index, 1.0)]).unwrap();
    }
    let before = contents(&set);
    drop(set);
    let clock = Arc::new(ManualClock::new(1 << 40));
    let options = Options { shards: 8, ..options(&clock) };
    let (set, _) = TableSet::open(setup(dir.path(), options), &[]).unwrap();
    assert_eq!(contents(&set), before);
    assert_eq!(set.frozen().len(), 1);
}

#[test]
fn segments_follow_each_other_and_differences_begin_anew_in_each() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1 << 40));
    let open = || {
        let set = TableSet::create_with(setup(dir.path(), options(&clock)), 500);
        let report = set.replay(&[], &mut || {}).unwrap();
        (set, report)
    };
    let (set, _) = open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let set = &set;
            scope.spawn(move || {
                let series = labels(&format!("__name__=a,job=j{thread}"));
                for time in 0..300 {
                    append(set, &series, &[float(time, time as f64 / 3.0)]).unwrap();
                }
            });
        }
    });
    let before = contents(&set);
    drop(set);
    let n_segments = log_files(dir.path()).iter().filter(|file| file.extension().is_some()).count();
    assert!(n_segments > 10, "{n_segments} segments");
    let (set, report) = open();
    assert_eq!((report.n_samples, report.torn.len(), report.quarantined.len()), (1200, 0, 0));
    assert_eq!(contents(&set), before);
}

#[test]
fn a_log_larger_than_the_memory_budget_is_sealed_while_it_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path());
    for window in 0..20 {
        for series in 0..100 {
            let series = labels(&format!("__name__=a,series=s{series}"));
            append(&set, &series, &[float(window * WINDOW_MS, window as f64)]).unwrap();
        }
    }
    let whole = contents(&set);
    let largest = set.all_tables().iter().map(|table| table.size_bytes()).max().unwrap();
    drop(set);
    let clock = Arc::new(ManualClock::new(1 << 40));
    let options = Options { memory_budget_bytes: largest * 6, ..options(&clock) };
    let limit = options.tables_bytes() + largest * 2;
    let set = TableSet::create(setup(dir.path(), options));
    let mut blocks = Contents::new();
    let mut n_calls = 0;
    set.replay(&[], &mut || {
        n_calls += 1;
        let size_bytes: usize = set.all_tables().iter().map(|table| table.size_bytes()).sum();
        assert!(size_bytes <= limit, "{size_bytes} bytes in memory");
        for (series, samples) in source_contents(&set, &[(i64::MIN, i64::MAX)]) {
            blocks.entry(series).or_default().extend(samples);
        }
        set.frozen().iter().for_each(|table| set.sealed(table.number()));
    })
    .unwrap();
    assert!(n_calls > 3, "{n_calls}");
    assert!(set.stats().tables_bytes as usize <= limit);
    for (series, samples) in contents(&set) {
        blocks.entry(series).or_default().extend(samples);
    }
    assert_eq!(blocks, whole);
    assert_eq!(append(&set, &labels("__name__=b"), &[float(20_000, 1.0)]).unwrap().samples_written, 1);
}
