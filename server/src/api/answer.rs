//! Results of queries and lists of look-ups as JSON, written while the client reads.
//!
//! Source: Prometheus v3.14, `web/api/v1/json_codec.go`.

use super::json;
pub use super::points::Steps;
use super::points::{Points, TimeTexts};
use super::response::{TRUNCATED, write_end};
use super::sending::{LARGE_BYTES, PIECE_BYTES, Render};
use crate::queries::Registered;
use chronolith_model::FloatHistogram;
use chronolith_query::go_format::format_float;
use chronolith_query::{
    Charge, InstantSample, MemoryAccount, QueryError, QueryOutput, RangeSeries, ResultLabels, SampleValue,
    Value,
};
use std::sync::Arc;
use std::vec::IntoIter;

/// The answer to a query. What it is made of stays charged to the engine, and the query stays in the
/// list of active ones, until this is dropped.
pub struct QueryAnswer {
    head: Vec<u8>,
    items: Items,
    /// Whether an item was written.
    any: bool,
    times: TimeTexts,
    /// What follows the result.
    tail: Vec<u8>,
    _held: Charge,
    _registered: Option<Registered>,
}

/// What is left of a result.
enum Items {
    /// Nothing, or a result that was written with the head.
    None,
    Vector(IntoIter<InstantSample>),
    Matrix {
        series: IntoIter<RangeSeries>,
        open: Option<OpenSeries>,
    },
}

/// A series whose labels are written.
struct OpenSeries {
    floats: IntoIter<(i64, f64)>,
    histograms: IntoIter<(i64, Arc<FloatHistogram>)>,
    list: List,
    points: Points,
}

/// Which list of a series is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    None,
    Floats,
    Histograms,
}

/// Label sets are written in one piece. Longer ones are charged: what is written of them, too.
const LONG_LABELS_BYTES: usize = 1 << 20;
/// A control character takes six characters in JSON.
const LONGEST_ESCAPE: usize = 6;

impl QueryAnswer {
    /// The answer to a query over `steps`, with the JSON of `stats` if there is any.
    ///
    /// # Errors
    /// [`QueryError::OverBudget`] if there is no memory to write it.
    pub fn new(
        output: QueryOutput,
        steps: Steps,
        stats: &[u8],
        registered: Option<Registered>,
    ) -> Result<Self, QueryError> {
        let QueryOutput { value, warnings, infos, mut held, stats: _ } = output;
        let longest = longest_labels(&value);
        if longest > LONG_LABELS_BYTES {
            held.add_bytes(longest.saturating_mul(LONGEST_ESCAPE))?;
        }
        let mut head = b"{\"status\":\"success\",\"data\":{\"resultType\":\"".to_vec();
        let items = begin(&mut head, value);
        let mut tail = Vec::new();
        if !matches!(items, Items::None) {
            tail.push(b']');
        }
        if !stats.is_empty() {
            tail.extend_from_slice(b",\"stats\":");
            tail.extend_from_slice(stats);
        }
        tail.push(b'}');
        write_end(&mut tail, &warnings, &infos);
        let times = TimeTexts::new(steps);
        Ok(Self { head, items, any: false, times, tail, _held: held, _registered: registered })
    }
}

/// Keeps at most `limit` items (0: all of them); a warning tells if there were more.
pub fn cut(output: &mut QueryOutput, limit: usize) {
    let value = &mut output.value;
    let n_before = match value {
        Value::Vector(samples) => samples.len(),
        Value::Matrix(series) => series.len(),
        Value::Scalar { .. } | Value::String { .. } => 0,
    };
    if limit == 0 || n_before <= limit {
        return;
    }
    match value {
        Value::Vector(samples) => samples.truncate(limit),
        Value::Matrix(series) => series.truncate(limit),
        Value::Scalar { .. } | Value::String { .. } => {}
    }
    output.warnings.push(TRUNCATED.to_owned());
}

fn longest_labels(value: &Value) -> usize {
    let size = |labels: &ResultLabels| labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    let longest = match value {
        Value::Vector(samples) => samples.iter().map(|sample| size(&sample.labels)).max(),
        Value::Matrix(series) => series.iter().map(|series| size(&series.labels)).max(),
        Value::Scalar { .. } | Value::String { .. } => None,
    };
    longest.unwrap_or(0)
}

/// The type of the result, and the result itself or the start of its list.
fn begin(out: &mut Vec<u8>, value: Value) -> Items {
    let (kind, items) = match value {
        // A scalar's time and value are written by other code than those of samples: trailing zeros of
        // the time are gone, and the value never has an exponent.
        Value::Scalar { timestamp, value } => {
            out.extend_from_slice(b"scalar\",\"result\":[");
            json::number(out, timestamp as f64 / 1000.0);
            out.extend_from_slice(b",\"");
            out.extend_from_slice(format_float(value).as_bytes());
            out.extend_from_slice(b"\"]");
            return Items::None;
        }
        Value::String { timestamp, value } => {
            out.extend_from_slice(b"string\",\"result\":[");
            json::number(out, timestamp as f64 / 1000.0);
            out.push(b',');
            json::string(out, &String::from_utf8_lossy(&value));
            out.push(b']');
            return Items::None;
        }
        Value::Vector(samples) => ("vector", Items::Vector(samples.into_iter())),
        Value::Matrix(series) => ("matrix", Items::Matrix { series: series.into_iter(), open: None }),
    };
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"result\":[");
    items
}

impl Render for QueryAnswer {
    fn render(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.head.is_empty() {
            out.reserve(self.expected_bytes().min(FIRST_BYTES));
            out.append(&mut self.head);
        }
        let goal = out.len() + PIECE_BYTES;
        while out.len() < goal {
            if !self.write_next(out, goal) {
                out.append(&mut self.tail);
                return false;
            }
        }
        true
    }
}

/// Room that is made at once for the start of an answer: what is written before it is sent.
const FIRST_BYTES: usize = LARGE_BYTES + PIECE_BYTES + PIECE_BYTES / 16;

impl QueryAnswer {
    /// About how long the answer will be.
    fn expected_bytes(&self) -> usize {
        const LABELS_BYTES: usize = 160;
        const POINT_BYTES: usize = 40;
        let items = match &self.items {
            Items::None => 0,
            Items::Vector(samples) => samples.len() * (LABELS_BYTES + POINT_BYTES),
            Items::Matrix { series, .. } => {
                let size = |series: &RangeSeries| LABELS_BYTES + series.floats.len() * POINT_BYTES;
                series.as_slice().iter().map(size).sum()
            }
        };
        self.head.len() + items + self.tail.len()
    }

    /// Writes some of the result; false if there is nothing left.
    fn write_next(&mut self, out: &mut Vec<u8>, goal: usize) -> bool {
        match &mut self.items {
            Items::None => false,
            Items::Vector(samples) => {
                let Some(sample) = samples.next() else { return false };
                separate(out, &mut self.any);
                instant_sample(out, &sample, &mut self.times);
                true
            }
            Items::Matrix { series, open } => {
                if let Some(points) = open {
                    if !points.write(out, goal, &mut self.times) {
                        *open = None;
                    }
                    return true;
                }
                let Some(series) = series.next() else { return false };
                separate(out, &mut self.any);
                out.extend_from_slice(b"{\"metric\":");
                json::pairs(out, series.labels.iter());
                *open = Some(OpenSeries {
                    floats: series.floats.into_iter(),
                    histograms: series.histograms.into_iter(),
                    list: List::None,
                    points: Points::default(),
                });
                true
            }
        }
    }
}

/// A comma, but not before the first item.
fn separate(out: &mut Vec<u8>, any: &mut bool) {
    if *any {
        out.push(b',');
    }
    *any = true;
}

impl OpenSeries {
    /// Writes points until `out` is as long as `goal`; false once the series is whole.
    fn write(&mut self, out: &mut Vec<u8>, goal: usize, times: &mut TimeTexts) -> bool {
        while out.len() < goal {
            if !self.floats.as_slice().is_empty() {
                self.open(out, List::Floats, b",\"values\":[");
                self.points.write(out, &mut self.floats, times);
            } else if let Some((time, value)) = self.histograms.next() {
                self.open(out, List::Histograms, b",\"histograms\":[");
                out.push(b'[');
                json::timestamp(out, time);
                out.push(b',');
                json::histogram(out, &value);
                out.push(b']');
            } else {
                if self.list != List::None {
                    out.push(b']');
                }
                out.push(b'}');
                return false;
            }
        }
        true
    }

    /// Opens a list with its first item and separates its further ones.
    fn open(&mut self, out: &mut Vec<u8>, list: List, start: &[u8]) {
        if self.list == list {
            out.push(b',');
            return;
        }
        if self.list != List::None {
            out.push(b']');
        }
        out.extend_from_slice(start);
        self.list = list;
    }
}

fn instant_sample(out: &mut Vec<u8>, sample: &InstantSample, times: &mut TimeTexts) {
    out.extend_from_slice(b"{\"metric\":");
    json::pairs(out, sample.labels.iter());
    match &sample.value {
        SampleValue::Float(value) => {
            out.extend_from_slice(b",\"value\":");
            Points::default().write(out, &mut std::iter::once((sample.timestamp, *value)), times);
            out.push(b'}');
        }
        SampleValue::Histogram(value) => {
            out.extend_from_slice(b",\"histogram\":[");
            json::timestamp(out, sample.timestamp);
            out.push(b',');
            json::histogram(out, value);
            out.extend_from_slice(b"]}");
        }
    }
}

/// A list of label names, values or series, and the memory it is charged with.
pub struct ListAnswer<T> {
    head: Vec<u8>,
    items: IntoIter<T>,
    write: fn(&mut Vec<u8>, &T),
    any: bool,
    tail: Vec<u8>,
    _held: MemoryAccount,
}

impl<T> ListAnswer<T> {
    /// The list, each item written by `write`.
    pub fn new(items: Vec<T>, warnings: &[String], write: fn(&mut Vec<u8>, &T), held: MemoryAccount) -> Self {
        let mut tail = b"]".to_vec();
        write_end(&mut tail, warnings, &[]);
        let head = b"{\"status\":\"success\",\"data\":[".to_vec();
        Self { head, items: items.into_iter(), write, any: false, tail, _held: held }
    }
}

impl<T: Send + 'static> Render for ListAnswer<T> {
    fn render(&mut self, out: &mut Vec<u8>) -> bool {
        out.append(&mut self.head);
        let goal = out.len() + PIECE_BYTES;
        while out.len() < goal {
            let Some(item) = self.items.next() else {
                out.append(&mut self.tail);
                return false;
            };
            separate(out, &mut self.any);
            (self.write)(out, &item);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_model::Labels;
    use chronolith_query::{Engine, EngineOptions, QueryStats};

    /// Not of all samples of the tests: those of range selectors lie anywhere.
    const STEPS: Steps = Steps { start: 1000, interval: 500, n: 100 };

    fn output(value: Value) -> QueryOutput {
        let held = Charge::nothing();
        QueryOutput { value, warnings: vec![], infos: vec![], stats: QueryStats::default(), held }
    }

    fn rendered(answer: &mut dyn Render) -> (String, usize) {
        let mut text = String::new();
        let mut pieces = 0;
        loop {
            let mut piece = Vec::new();
            let more = answer.render(&mut piece);
            assert!(piece.len() < 2 * PIECE_BYTES, "{}", piece.len());
            text.push_str(std::str::from_utf8(&piece).unwrap());
            pieces += 1;
            if !more {
                return (text, pieces);
            }
        }
    }

    fn check(value: Value, expected: &str) {
        let mut answer = QueryAnswer::new(output(value), STEPS, b"", None).unwrap();
        let expected = format!("{{\"status\":\"success\",\"data\":{{{expected}}}}}");
        assert_eq!(rendered(&mut answer).0, expected);
    }

    #[test]
    fn results_are_written_whole() {
        let labels: ResultLabels = Labels::from_pairs([("__name__", "m"), ("a", "<")]).unwrap().into();
        let value = SampleValue::Float(1.0);
        check(
            Value::Vector(vec![InstantSample { labels: labels.clone(), timestamp: 1050, value }]),
            "\"resultType\":\"vector\",\"result\":[{\"metric\":{\"__name__\":\"m\",\"a\":\"<\"},\"value\":[1.050,\"1\"]}]",
        );
        check(
            Value::Scalar { timestamp: 1050, value: 1e-7 },
            "\"resultType\":\"scalar\",\"result\":[1.05,\"0.0000001\"]",
        );
        check(
            Value::String { timestamp: 0, value: b"<x>".to_vec() },
            "\"resultType\":\"string\",\"result\":[0,\"\\u003cx\\u003e\"]",
        );
        let series = RangeSeries { labels, floats: vec![(1000, 1.0), (2500, f64::NAN)], histograms: vec![] };
        check(
            Value::Matrix(vec![series]),
            "\"resultType\":\"matrix\",\"result\":[{\"metric\":{\"__name__\":\"m\",\"a\":\"<\"},\"values\":[[1,\"1\"],[2.500,\"NaN\"]]}]",
        );
        check(Value::Vector(vec![]), "\"resultType\":\"vector\",\"result\":[]");
        let histogram = Arc::new(FloatHistogram::default());
        let series = RangeSeries {
            labels: ResultLabels::default(),
            floats: vec![(2, 1.0)],
            histograms: vec![(1, Arc::clone(&histogram)), (3, histogram)],
        };
        check(
            Value::Matrix(vec![series.clone(), RangeSeries { floats: vec![], ..series }]),
            "\"resultType\":\"matrix\",\"result\":[{\"metric\":{},\"values\":[[0.002,\"1\"]],\"histograms\":[[0.001,{\"count\":\"0\",\"sum\":\"0\"}],[0.003,{\"count\":\"0\",\"sum\":\"0\"}]]},{\"metric\":{},\"histograms\":[[0.001,{\"count\":\"0\",\"sum\":\"0\"}],[0.003,{\"count\":\"0\",\"sum\":\"0\"}]]}]",
        );
    }

    #[test]
    fn values_that_do_not_change_are_written_at_each_step() {
        let values = [0.0, 0.0, -0.0, 0.1, 0.1, 0.1, f64::NAN, f64::NAN, 0.1];
        let floats: Vec<_> =
            values.iter().cycle().take(40_000).zip(0..).map(|(&v, t)| (t * 500, v)).collect();
        let texts: Vec<String> = floats.iter().map(|&(_, value)| format_float(value)).collect();
        let series = RangeSeries { floats, ..RangeSeries::default() };
        let value = Value::Matrix(vec![series.clone(), series]);
        let (text, _) = rendered(&mut QueryAnswer::new(output(value), STEPS, b"", None).unwrap());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for series in 0..2 {
            let found = json["data"]["result"][series]["values"].as_array().unwrap();
            assert!(found.iter().zip(&texts).all(|(found, text)| found[1] == **text));
            assert_eq!(found.len(), texts.len());
        }
    }

    #[test]
    fn long_results_come_in_pieces_that_make_the_same_text() {
        let series = |n: i64| RangeSeries {
            labels: Labels::from_pairs([("n", n.to_string())]).unwrap().into(),
            floats: (0..n).map(|i| (i * 1000, i as f64)).collect(),
            histograms: (0..n / 2).map(|i| (i, Arc::new(FloatHistogram::default()))).collect(),
        };
        let all: Vec<_> = [20_000, 1, 0, 7000].into_iter().map(series).collect();
        let mut answer = QueryAnswer::new(output(Value::Matrix(all.clone())), STEPS, b"{}", None).unwrap();
        let (text, pieces) = rendered(&mut answer);
        assert!(pieces > 10, "{pieces}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let result = json["data"]["result"].as_array().unwrap();
        assert_eq!(result.len(), all.len());
        for (found, series) in result.iter().zip(&all) {
            assert_eq!(found["values"].as_array().map_or(0, Vec::len), series.floats.len());
            assert_eq!(found["histograms"].as_array().map_or(0, Vec::len), series.histograms.len());
        }
        assert_eq!(json["data"]["stats"], serde_json::json!({}));
        let mut short = output(Value::Matrix(all));
        cut(&mut short, 1);
        let mut short = QueryAnswer::new(short, STEPS, b"", None).unwrap();
        assert!(rendered(&mut short).0.ends_with("\"warnings\":[\"results truncated due to limit\"]}"));
    }

    #[test]
    fn lists_come_in_pieces_too() {
        let engine = Engine::new(EngineOptions { threads: 1, ..EngineOptions::default() });
        let items: Vec<String> = (0..20_000).map(|i| format!("name_{i}")).collect();
        let write = |out: &mut Vec<u8>, text: &String| json::string(out, text);
        let mut answer = ListAnswer::new(items.clone(), &["w".to_owned()], write, engine.memory_account());
        let (text, pieces) = rendered(&mut answer);
        assert!(pieces > 2);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json, serde_json::json!({"status": "success", "data": items, "warnings": ["w"]}));
    }
}
