//! Queries over a small store in memory.

use super::*;
use crate::limits::NoControl;
use crate::value::SampleValue;
use chronolith_model::queryable::{
    Estimate, Floats, LabelQuery, QueryContext, ReadError, SampleBatch, Select, SelectedSeries,
    SeriesSamples, Snapshot, TimestampColumn,
};
use chronolith_model::symbols::Symbol;
use chronolith_model::{Labels, Matcher, is_stale};
use std::ops::Range;

/// Series with one sample every ten seconds from time 0; `NaN` in the list leaves a gap.
#[derive(Clone, Default)]
struct Store {
    series: Vec<(Labels, Vec<f64>)>,
}

struct Selected {
    labels: Vec<Vec<(Symbol, Symbol)>>,
    samples: Vec<(Arc<TimestampColumn>, Vec<f64>, Vec<u32>)>,
    partitions: Vec<Range<u32>>,
}

const STEP_MS: i64 = 10_000;

impl Store {
    fn new(series: &[(&str, &[f64])]) -> Self {
        let mut series: Vec<_> = series
            .iter()
            .map(|(name, values)| (parser::parse_metric(name).unwrap(), values.to_vec()))
            .collect();
        series.sort_by(|a, b| chronolith_model::labels::block_order(&a.0, &b.0));
        Self { series }
    }
}

impl Queryable for Store {
    fn pin(&self) -> Result<Arc<dyn Snapshot>, ReadError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Snapshot for Store {
    fn estimate(&self, _select: &Select<'_>) -> Result<Estimate, ReadError> {
        Ok(Estimate::default())
    }

    fn select(
        &self,
        select: &Select<'_>,
        cx: &dyn QueryContext,
    ) -> Result<Arc<dyn SelectedSeries>, ReadError> {
        let fits =
            |labels: &Labels, matcher: &Matcher| matcher.matches(labels.get(&matcher.name).unwrap_or(""));
        let mut selected = Selected { labels: vec![], samples: vec![], partitions: vec![] };
        let mut columns: Vec<Arc<TimestampColumn>> = Vec::new();
        for (labels, values) in &self.series {
            if !select.matchers.iter().all(|matcher| fits(labels, matcher)) {
                continue;
            }
            let kept = || values.iter().enumerate().filter(|(_, v)| !v.is_nan() || is_stale(**v));
            let times: Vec<i64> = kept().map(|(i, _)| i as i64 * STEP_MS).collect();
            let floats: Vec<f64> = kept().map(|(_, &value)| value).collect();
            let stale = (0..floats.len()).filter(|&i| is_stale(floats[i])).map(|i| i as u32).collect();
            let column = match columns.iter().find(|column| column.times == times) {
                Some(column) => Arc::clone(column),
                None => {
                    columns.push(Arc::new(TimestampColumn { times }));
                    Arc::clone(&columns[columns.len() - 1])
                }
            };
            selected.samples.push((column, floats, stale));
            let symbols = cx.symbols();
            let pairs = labels.iter().map(|(name, value)| (symbols.intern(name), symbols.intern(value)));
            selected.labels.push(pairs.collect());
        }
        let n = selected.labels.len() as u32;
        selected.partitions = (0..n).step_by(3).map(|start| start..n.min(start + 3)).collect();
        Ok(Arc::new(selected))
    }

    fn label_names(&self, _: &LabelQuery<'_>, _: &dyn QueryContext) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }

    fn label_values(
        &self,
        _: &str,
        _: &LabelQuery<'_>,
        _: &dyn QueryContext,
    ) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        None
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

impl SelectedSeries for Selected {
    fn len(&self) -> u32 {
        self.labels.len() as u32
    }

    fn labels(&self, index: u32) -> &[(Symbol, Symbol)] {
        &self.labels[index as usize]
    }

    fn partitions(&self) -> &[Range<u32>] {
        &self.partitions
    }

    fn read(&self, range: Range<u32>, out: &mut SampleBatch, _: &dyn QueryContext) -> Result<(), ReadError> {
        for index in range {
            let (column, floats, stale) = &self.samples[index as usize];
            let constant = floats.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits());
            let start = out.values.len() as u32;
            let floats = if constant && stale.is_empty() && !floats.is_empty() {
                Floats::Constant(floats[0])
            } else {
                out.values.extend(floats);
                Floats::Values(start..out.values.len() as u32)
            };
            out.series.push(SeriesSamples {
                timestamps: Arc::clone(column),
                floats,
                histograms: None,
                stale: stale.clone(),
                start_timestamps: None,
            });
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

fn store() -> Store {
    let up: Vec<f64> = (0..60).map(f64::from).collect();
    let falling: Vec<f64> = (0..60).map(|i| f64::from(i % 7) * 1.5).collect();
    let gaps: Vec<f64> = (0..60).map(|i| if i % 3 == 0 { f64::NAN } else { f64::from(i) / 3.0 }).collect();
    let ended: Vec<f64> = (0..60)
        .map(|i| {
            if i == 20 {
                chronolith_model::stale_nan()
            } else if i > 20 {
                f64::NAN
            } else {
                2.0
            }
        })
        .collect();
    Store::new(&[
        ("requests_total{job=\"a\", code=\"200\"}", &up),
        ("requests_total{job=\"a\", code=\"500\"}", &falling),
        ("requests_total{job=\"b\", code=\"200\"}", &gaps),
        ("requests_total{job=\"b\", code=\"500\"}", &ended),
        ("limit{job=\"a\"}", &[10.0; 60]),
        ("limit{job=\"b\"}", &[20.0; 60]),
        ("lag{job=\"b\", le=\"1\"}", &[3.0; 60]),
        ("lag{job=\"b\", le=\"2\"}", &[5.0; 60]),
        ("lag{job=\"b\", le=\"+Inf\"}", &[6.0; 60]),
    ])
}

fn engine(threads: usize, batch_rows: Option<usize>, features: Features) -> Engine {
    Engine::new(EngineOptions { threads, batch_rows, features, ..EngineOptions::default() })
}

fn run(engine: &Engine, text: &str, range: Option<(i64, i64, i64)>) -> Result<String, QueryError> {
    let (start, end, interval_ms) = range.unwrap_or((300_000, 300_000, 1));
    let request =
        QueryRequest { text, start, end, interval_ms, range: range.is_some(), lookback_delta_ms: None };
    let output = engine.execute(&store(), &request, &NoControl)?;
    let number = |value: f64| format!("{:016x}", value.to_bits());
    Ok(match output.value {
        Value::Scalar { value, .. } => number(value),
        Value::String { value, .. } => String::from_utf8(value).unwrap(),
        Value::Vector(samples) => samples
            .iter()
            .map(|sample| format!("{} {}\n", sample.labels, number(sample.value.as_float().unwrap())))
            .collect(),
        Value::Matrix(series) => series
            .iter()
            .map(|series| {
                let points: Vec<String> =
                    series.floats.iter().map(|&(t, v)| format!("{t}:{}", number(v))).collect();
                format!("{} {}\n", series.labels, points.join(" "))
            })
            .collect(),
    })
}

/// An instant query at 300 s; samples in order as `labels value`.
fn instant(text: &str) -> Vec<String> {
    let engine = engine(1, None, Features::default());
    let request = QueryRequest {
        text,
        start: 300_000,
        end: 300_000,
        interval_ms: 0,
        range: false,
        lookback_delta_ms: None,
    };
    let output = engine.execute(&store(), &request, &NoControl).unwrap();
    match output.value {
        Value::Vector(samples) => samples
            .iter()
            .map(|sample| match &sample.value {
                SampleValue::Float(value) => format!("{} {value}", sample.labels),
                SampleValue::Histogram(h) => format!("{} {h}", sample.labels),
            })
            .collect(),
        Value::Scalar { value, .. } => vec![value.to_string()],
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn instant_queries_give_what_prometheus_gives() {
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(instant(text), expected, "{text}");
    };
    check("1 + 2 * 3", &["7"]);
    check("limit", &[r#"{__name__="limit", job="a"} 10"#, r#"{__name__="limit", job="b"} 20"#]);
    check("limit * 2", &[r#"{job="a"} 20"#, r#"{job="b"} 40"#]);
    check("limit > 15", &[r#"{__name__="limit", job="b"} 20"#]);
    check("15 > bool limit", &[r#"{job="a"} 1"#, r#"{job="b"} 0"#]);
    check(
        "rate(requests_total{job=\"a\"}[1m])",
        &[r#"{code="200", job="a"} 0.1"#, r#"{code="500", job="a"} 0.12"#],
    );
    check("sum(requests_total)", &["{} 42.666666666666664"]);
    check("sum by (job) (requests_total)", &[r#"{job="a"} 33"#, r#"{job="b"} 9.666666666666666"#]);
    check("count without (job) (requests_total)", &[r#"{code="200"} 2"#, r#"{code="500"} 1"#]);
    check("topk(1, requests_total)", &[r#"{__name__="requests_total", code="200", job="a"} 30"#]);
    check(
        "requests_total / on (job) group_left limit",
        &[
            r#"{code="200", job="a"} 3"#,
            r#"{code="200", job="b"} 0.4833333333333333"#,
            r#"{code="500", job="a"} 0.3"#,
        ],
    );
    check("limit and on (job) requests_total{code=\"500\"}", &[r#"{__name__="limit", job="a"} 10"#]);
    check("limit unless on (job) requests_total{code=\"500\"}", &[r#"{__name__="limit", job="b"} 20"#]);
    check("histogram_quantile(0.5, lag)", &[r#"{job="b"} 1"#]);
    check("absent(nothing{job=\"x\", code=~\"y\"})", &[r#"{job="x"} 1"#]);
    check("max_over_time(limit[1m:10s])", &[r#"{job="a"} 10"#, r#"{job="b"} 20"#]);
    check(
        "label_replace(limit, \"x\", \"$1!\", \"job\", \"(.)\") * 1",
        &[r#"{job="a", x="a!"} 10"#, r#"{job="b", x="b!"} 20"#],
    );
    check("sort_desc(limit)", &[r#"{__name__="limit", job="b"} 20"#, r#"{__name__="limit", job="a"} 10"#]);
    check(
        "requests_total{code=\"500\", job=\"b\"} @ 100",
        &[r#"{__name__="requests_total", code="500", job="b"} 2"#],
    );
    check("count_values(\"v\", limit)", &[r#"{v="10"} 1"#, r#"{v="20"} 1"#]);
    check("scalar(limit{job=\"a\"})", &["10"]);
    check("timestamp(limit{job=\"a\"} offset 5s)", &[r#"{job="a"} 290"#]);
}

/// Queries of every kind of operator.
const QUERIES: &[&str] = &[
    "requests_total",
    "requests_total offset 15s",
    "rate(requests_total[1m])",
    "increase(requests_total[45s])",
    "sum by (code) (rate(requests_total[2m]))",
    "avg(requests_total)",
    "stddev without (code) (requests_total)",
    "quantile by (job) (0.3, requests_total)",
    "topk by (job) (1, requests_total)",
    "bottomk(2, requests_total)",
    "limitk(2, requests_total)",
    "limit_ratio(0.5, requests_total)",
    "count_values(\"v\", requests_total > 3)",
    "requests_total * on (job) group_left limit",
    "requests_total{code=\"200\"} - ignoring (code) requests_total{code=\"500\"}",
    "requests_total > 4 and on (job) limit or lag",
    "requests_total unless requests_total > 5",
    "max_over_time(rate(requests_total[1m])[2m:15s])",
    "quantile_over_time(0.7, requests_total[1m])",
    "avg_over_time(requests_total[50s])",
    "changes(requests_total[1m]) + resets(requests_total[1m])",
    "histogram_quantile(0.9, lag)",
    "absent(requests_total{job=\"b\", code=\"500\"})",
    "absent_over_time(requests_total{job=\"b\", code=\"500\"}[1m])",
    "scalar(requests_total{job=\"a\", code=\"200\"}) * limit",
    "sum(requests_total @ 200) + time()",
    "deriv(requests_total[1m])",
    "predict_linear(requests_total[1m], 60)",
    "label_replace(requests_total, \"kind\", \"x\", \"job\", \"a\") * 0 < 0 or vector(1)",
    "-limit",
    "clamp(requests_total, 3, 10)",
    "round(requests_total / 7, 0.5)",
];

#[test]
fn threads_and_batches_do_not_change_a_bit() {
    for features in [Features { experimental_functions: true, ..Features::default() }, Features::scripts()] {
        let reference = engine(1, None, features);
        let others = [engine(4, None, features), engine(1, Some(1), features), engine(3, Some(2), features)];
        for text in QUERIES {
            // With so many steps the last shares few series among the threads.
            let long = (text.contains("requests_total")).then_some((0, 700_000, 50));
            for range in [None, Some((0, 700_000, 7_000)), Some((100_000, 100_000, 1_000)), long] {
                let expected = run(&reference, text, range);
                for other in &others {
                    assert_eq!(run(other, text, range), expected, "{text} over {range:?}");
                }
            }
        }
    }
}

#[test]
fn each_step_of_a_range_is_the_instant_query_at_that_time() {
    let engine = engine(1, None, Features { experimental_functions: true, ..Features::default() });
    for text in QUERIES {
        let whole = run(&engine, text, Some((0, 600_000, 50_000))).unwrap();
        for step in 0..=12 {
            let t = step * 50_000;
            let single = run(&engine, text, Some((t, t, 1_000))).unwrap();
            for line in single.lines() {
                let (labels, point) = line.rsplit_once(' ').unwrap();
                let found = whole.lines().any(|line| {
                    line.starts_with(&format!("{labels} ")) && line.split(' ').any(|part| part == point)
                });
                assert!(found, "{text} at {t}: {line} not in\n{whole}");
            }
        }
    }
}

#[test]
fn errors_are_those_of_prometheus() {
    let engine = engine(1, None, Features::default());
    let check = |text: &str, expected: &str| {
        assert_eq!(run(&engine, text, None).unwrap_err().to_string(), expected, "{text}");
    };
    check("sum(", "1:5: parse error: unclosed left parenthesis");
    check(
        "{__name__=~\"limit|lag\", le!=\"1\"} * 0 * on () group_left () vector(1) + on (job) limit",
        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
    );
    check(
        "limit * on () requests_total{job=\"a\"}",
        "found duplicate series for the match group {} on the right hand-side of the operation: \
         [{__name__=\"requests_total\", code=\"200\", job=\"a\"}, \
         {__name__=\"requests_total\", code=\"500\", job=\"a\"}];\
         many-to-many matching not allowed: matching labels must be unique on one side",
    );
    check(
        "rate({__name__=~\"limit|lag\", job=\"b\", le!~\"2|.*Inf\"}[1m]) and ignoring (le) vector(1) or label_replace(limit, \"job\", \"\", \"job\", \".*\")",
        "vector cannot contain metrics with the same labelset",
    );
    check("count_values(\"\\xff\", limit)", "invalid label name \"\\xff\"");
    check("topk(NaN, limit)", "Parameter value is NaN");
    check("topk(1e100, limit)", "Scalar value 1e+100 overflows int64");
}

#[test]
fn samples_held_at_once_and_time_are_limited() {
    let engine = Engine::new(EngineOptions { max_samples: 3, ..EngineOptions::default() });
    assert!(run(&engine, "limit", None).is_ok());
    assert_eq!(run(&engine, "requests_total", Some((0, 100_000, 10_000))), Err(QueryError::TooManySamples));

    struct Late;
    impl Control for Late {
        fn check(&self) -> Result<(), chronolith_model::queryable::Stop> {
            Err(chronolith_model::queryable::Stop::TimedOut)
        }
    }
    let request = QueryRequest {
        text: "limit",
        start: 0,
        end: 0,
        interval_ms: 0,
        range: false,
        lookback_delta_ms: None,
    };
    let error = engine.execute(&store(), &request, &Late).unwrap_err();
    assert_eq!(error.to_string(), "query timed out in expression evaluation");
}

#[test]
fn statistics_count_windows_whole_and_invariant_parts_at_each_step() {
    let engine = engine(1, None, Features::default());
    let check = |text: &str, (start, end, interval_ms): (i64, i64, i64), expected: (u64, u64)| {
        let request = QueryRequest { text, start, end, interval_ms, range: true, lookback_delta_ms: None };
        let stats = engine.execute(&store(), &request, &NoControl).unwrap().stats;
        assert_eq!((stats.total_queryable_samples, stats.samples_read), expected, "{text}");
    };
    check("limit{job=\"a\"}", (100_000, 200_000, 10_000), (11, 11));
    check("max_over_time(limit{job=\"a\"}[60s])", (200_000, 220_000, 10_000), (18, 8));
    check("max_over_time(limit{job=\"a\"}[60s] @ 100)", (200_000, 220_000, 10_000), (18, 6));
    check("sum(limit)", (200_000, 220_000, 10_000), (6, 6));
}

#[test]
fn grids_with_more_steps_than_samples_are_allowed_are_refused_before_memory_is_taken() {
    let engine = engine(1, None, Features::default());
    for text in ["sum_over_time(vector(1)[100y:1ms])", "max_over_time(nothing[100y:1ms])"] {
        assert_eq!(run(&engine, text, None), Err(QueryError::TooManySamples), "{text}");
    }
    let engine = Engine::new(EngineOptions { memory_limit_bytes: 1 << 20, ..EngineOptions::default() });
    let error = run(&engine, "sum_over_time(vector(time())[1d:1s])", None).unwrap_err();
    assert!(matches!(&error, QueryError::OverBudget(text) if text.contains("--query.max-memory")), "{error}");
}

#[test]
fn long_chains_and_deep_nesting_fit_a_small_stack() {
    let chains = [
        vec!["limit"; 1_900].join(" or "),
        vec!["1"; 20_000].join(" + "),
        format!("{}limit{}", "abs(".repeat(400), ")".repeat(400)),
        format!("{}limit{}", "-(".repeat(240), ")".repeat(240)),
    ];
    let small_stack = std::thread::Builder::new().stack_size(2 << 20);
    let thread = small_stack.spawn(move || {
        let engine = engine(1, None, Features::default());
        for text in &chains {
            run(&engine, text, None).unwrap();
        }
        let too_long = vec!["limit"; 5_000].join(" or ");
        let error = run(&engine, &too_long, None).unwrap_err();
        assert_eq!(error.to_string(), "expression is too long to be evaluated");
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn far_times_do_not_overflow() {
    let engine = engine(1, None, Features::default());
    let far = crate::limits::MAX_TIME_MS;
    for text in [
        "limit offset -290y",
        "rate(limit[290y] offset 290y)",
        "limit @ -1e15",
        "max_over_time(limit[2m:1m] @ 1e15)",
    ] {
        for time in [-far, 0, far] {
            assert!(run(&engine, text, Some((time, time, 1))).is_ok(), "{text} at {time}");
        }
    }
    assert!(run(&engine, "limit", Some((i64::MIN, i64::MAX, 1))).is_err());
}

#[test]
fn range_selectors_give_what_is_stored_and_extended_ones_their_edges() {
    let engine = engine(1, None, Features { extended_range_selectors: true, ..Features::default() });
    let check = |text: &str, expected: &[(i64, f64)]| {
        let request = QueryRequest {
            text,
            start: 55_000,
            end: 55_000,
            interval_ms: 0,
            range: false,
            lookback_delta_ms: None,
        };
        let output = engine.execute(&store(), &request, &NoControl).unwrap();
        let Value::Matrix(series) = output.value else { panic!("{text} is no matrix") };
        assert_eq!(series.len(), 1);
        assert_eq!(series[0].floats, expected, "{text}");
    };
    let up = "requests_total{job=\"a\", code=\"200\"}";
    check(&format!("{up}[20s]"), &[(40_000, 4.0), (50_000, 5.0)]);
    check(&format!("{up}[20s] anchored"), &[(35_000, 3.0), (40_000, 4.0), (50_000, 5.0), (55_000, 5.0)]);
    check(&format!("{up}[20s] smoothed"), &[(35_000, 3.5), (40_000, 4.0), (50_000, 5.0), (55_000, 5.5)]);
    check(&format!("{up}[20s:10s]"), &[(40_000, 4.0), (50_000, 5.0)]);
}
