//! Whether a server holds what it was sent: every sample counted by query, samples of some series compared.

use crate::expect::{Expected, ExpectedSeries};
use crate::http::{Client, Url, encode_component};
use crate::progress::Bar;
use serde_json::Value;
use std::time::Duration;

/// Differences that are told word by word.
const MAX_DIFFERENCES: usize = 5;

/// What came back.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Verified {
    /// Samples sent, NaNs included.
    pub expected: u64,
    /// NaNs among them.
    pub expected_nans: u64,
    /// Samples counted by query.
    pub counted: u64,
    /// Samples of checked series.
    pub checked: u64,
    /// Checked samples that are not there.
    pub missing: u64,
    /// Checked samples that are there with another value.
    pub different: u64,
    /// Samples of checked series that nobody sent.
    pub invented: u64,
    /// The first differences.
    pub differences: Vec<String>,
}

impl Verified {
    /// Whether everything came back to the bit.
    pub fn is_whole(&self) -> bool {
        self.counted == self.expected && self.missing + self.different + self.invented == 0
    }
}

/// Counts and compares.
///
/// # Errors
/// If a query fails.
pub fn verify(url: &Url, expected: &Expected, title: &str) -> Result<Verified, String> {
    let mut api = Api::new(url);
    let total = expected.total();
    let mut verified =
        Verified { expected: total.numbers + total.nans, expected_nans: total.nans, ..Verified::default() };
    let (n_names, n_series) = (expected.counts.len(), expected.series.len());
    let mut bar = Bar::new(title, (n_names + n_series) as u64);
    for (done, name) in expected.counts.keys().enumerate() {
        bar.show(done as u64);
        verified.counted += count(&mut api, expected, name)?;
    }
    for (done, series) in expected.series.iter().enumerate() {
        bar.show((n_names + done) as u64);
        check(&mut api, expected, series, &mut verified)?;
    }
    bar.finish((n_names + n_series) as u64);
    Ok(verified)
}

/// A client of the query API of Prometheus.
#[derive(Debug)]
pub struct Api {
    client: Client,
    prefix: String,
}

impl Api {
    /// For a base URL, such as `http://host:9090`.
    pub fn new(url: &Url) -> Self {
        let prefix = url.path.trim_end_matches('/').to_owned();
        Self { client: Client::new(url.authority.clone(), Duration::from_secs(300)), prefix }
    }

    /// Calls an endpoint below `/api/v1/` with parameters, and gives the field `data` of the answer.
    ///
    /// # Errors
    /// A text with what the server said.
    pub fn call(&mut self, endpoint: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let body = self.raw(endpoint, parameters)?;
        let mut answer: Value = serde_json::from_slice(&body).map_err(|e| format!("{endpoint}: {e}"))?;
        Ok(answer["data"].take())
    }

    /// Like [`Api::call`], the answer as it is.
    ///
    /// # Errors
    /// As there.
    pub fn raw(&mut self, endpoint: &str, parameters: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        let encoded: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", encode_component(value))).collect();
        let path = format!("{}/api/v1/{endpoint}", self.prefix);
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let response = if endpoint.starts_with("label/") {
            self.client.get(&format!("{path}?{}", encoded.join("&")))
        } else {
            self.client.post(&path, &headers, encoded.join("&").as_bytes())
        };
        let response = response.map_err(|e| format!("{path}: {e}"))?;
        if response.status != 200 {
            let text: String = response.text().chars().take(500).collect();
            return Err(format!("{path}: status {}: {text}", response.status));
        }
        Ok(response.body)
    }
}

/// The range that holds all expected samples and none before, as seen from its end, and the end in seconds. It begins
/// behind the millisecond it is counted from, but for Prometheus before 3.0.
fn whole_range(expected: &Expected) -> (String, String) {
    let end = expected.maxt + 1000;
    (format!("{}ms", end - expected.mint + 1), seconds(end))
}

/// Milliseconds as the API takes times.
pub fn seconds(time: i64) -> String {
    format!("{:.3}", time as f64 / 1000.0)
}

/// Series of one name only: `count_over_time` takes the name away, and what is left has to differ.
fn count(api: &mut Api, expected: &Expected, name: &str) -> Result<u64, String> {
    let (range, time) = whole_range(expected);
    let query = format!("sum(count_over_time({{__name__={name:?}}}[{range}]))");
    let data = api.call("query", &[("query", &query), ("time", &time), ("nocache", "1")])?;
    let text = data["result"][0]["value"][1].as_str();
    Ok(text.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) as u64)
}

fn check(
    api: &mut Api,
    expected: &Expected,
    series: &ExpectedSeries,
    verified: &mut Verified,
) -> Result<(), String> {
    let (range, time) = whole_range(expected);
    let query = format!("{}[{range}]", series.selector);
    let data = api.call("query", &[("query", &query), ("time", &time), ("nocache", "1")])?;
    let field = if series.is_histogram { "histograms" } else { "values" };
    let empty = Vec::new();
    let points = data["result"][0][field].as_array().unwrap_or(&empty);
    let found: Vec<(i64, f64)> = points.iter().filter_map(point).collect();
    compare(series, &found, verified);
    Ok(())
}

/// Time and value of a point; of a native histogram its count.
fn point(point: &Value) -> Option<(i64, f64)> {
    let time = (point[0].as_f64()? * 1000.0).round() as i64;
    let text = point[1].as_str().or_else(|| point[1]["count"].as_str())?;
    Some((time, text.parse().ok()?))
}

fn compare(series: &ExpectedSeries, found: &[(i64, f64)], verified: &mut Verified) {
    verified.checked += series.samples.len() as u64;
    let mut found = found.iter().copied().peekable();
    let mut differences = Vec::new();
    for &(time, value) in &series.samples {
        while let Some((extra, _)) = found.next_if(|(t, _)| *t < time) {
            verified.invented += 1;
            differences.push(format!("at {extra}: a sample that nobody sent"));
        }
        match found.next_if(|(t, _)| *t == time) {
            None => {
                verified.missing += 1;
                differences.push(format!("at {time}: {value} is missing"));
            }
            Some((_, got)) if got.to_bits() == value.to_bits() || (got.is_nan() && value.is_nan()) => {}
            Some((_, got)) => {
                verified.different += 1;
                differences.push(format!("at {time}: {got} instead of {value}"));
            }
        }
    }
    verified.invented += found.count() as u64;
    let room = MAX_DIFFERENCES.saturating_sub(verified.differences.len());
    let told = differences.into_iter().take(room).map(|text| format!("{} {text}", series.selector));
    verified.differences.extend(told);
}

/// Samples that a count leaves out; `keeps_nans` is false of servers that never keep NaN.
pub const fn lost(verified: &Verified, keeps_nans: bool) -> u64 {
    let kept = if keeps_nans { verified.expected } else { verified.expected - verified.expected_nans };
    kept.saturating_sub(verified.counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_found() {
        let series = ExpectedSeries {
            selector: "{a=\"b\"}".into(),
            samples: vec![(1, 1.0), (2, f64::NAN), (3, -0.0), (4, 4.0), (5, 5.0)],
            is_histogram: false,
        };
        let check = |found: &[(i64, f64)]| {
            let mut verified = Verified::default();
            compare(&series, found, &mut verified);
            (verified.missing, verified.different, verified.invented)
        };
        assert_eq!(check(&[(1, 1.0), (2, f64::NAN), (3, -0.0), (4, 4.0), (5, 5.0)]), (0, 0, 0));
        assert_eq!(check(&[(1, 1.0), (3, 0.0), (4, 4.0), (5, 5.0)]), (1, 1, 0));
        assert_eq!(check(&[(0, 0.0), (1, 1.0), (2, f64::NAN), (3, -0.0), (4, 4.5), (6, 5.0)]), (1, 1, 2));
        assert_eq!(check(&[]), (5, 0, 0));
    }

    #[test]
    fn lost_samples_are_not_those_that_are_no_numbers() {
        let verified =
            |counted| Verified { expected: 100, expected_nans: 10, counted, ..Verified::default() };
        assert_eq!([100, 90, 95, 80].map(|counted| lost(&verified(counted), true)), [0, 10, 5, 20]);
        assert_eq!([100, 90, 95, 80].map(|counted| lost(&verified(counted), false)), [0, 0, 0, 10]);
    }

    #[test]
    fn times_are_exact() {
        assert_eq!(seconds(1_700_000_000_007), "1700000000.007");
        assert_eq!(seconds(-1), "-0.001");
    }
}
