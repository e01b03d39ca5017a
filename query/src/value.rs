//! What a query returns.

use chronolith_model::labels::write_labels;
use chronolith_model::symbols::Symbol;
use chronolith_model::{FloatHistogram, Labels};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The value of an expression.
#[derive(Clone, Debug)]
pub enum Value {
    /// One number.
    Scalar {
        /// Evaluation time in milliseconds.
        timestamp: i64,
        /// The number.
        value: f64,
    },
    /// A literal string; the bytes need not be UTF-8.
    String {
        /// Evaluation time in milliseconds.
        timestamp: i64,
        /// The bytes.
        value: Vec<u8>,
    },
    /// Samples at one time, in the order of evaluation (sorted only where the query says so).
    Vector(Vec<InstantSample>),
    /// Series of samples, sorted by labels in the API's order.
    Matrix(Vec<RangeSeries>),
}

/// The value of a sample.
#[derive(Clone, Debug)]
pub enum SampleValue {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<FloatHistogram>),
}

/// A sample of an instant vector.
#[derive(Clone, Debug)]
pub struct InstantSample {
    /// Labels of the series.
    pub labels: ResultLabels,
    /// Evaluation time in milliseconds, not the time of the stored sample.
    pub timestamp: i64,
    /// The value.
    pub value: SampleValue,
}

/// A series of a matrix. No timestamp is in both lists.
#[derive(Clone, Debug, Default)]
pub struct RangeSeries {
    /// Labels of the series.
    pub labels: ResultLabels,
    /// Timestamps in milliseconds, ascending, and values.
    pub floats: Vec<(i64, f64)>,
    /// Timestamps in milliseconds, ascending, and native histograms.
    pub histograms: Vec<(i64, Arc<FloatHistogram>)>,
}

/// Labels of a result, sorted by name. All results of a query share their texts: a label set costs no strings.
#[derive(Clone)]
pub struct ResultLabels {
    texts: Arc<[Arc<str>]>,
    /// Name and value of each label, as positions among the texts.
    pairs: Arc<[(Symbol, Symbol)]>,
}

impl ResultLabels {
    /// Labels out of texts by symbol; `pairs` are sorted by name, each name once, all of them among the texts.
    pub const fn new(texts: Arc<[Arc<str>]>, pairs: Arc<[(Symbol, Symbol)]>) -> Self {
        Self { texts, pairs }
    }

    /// Name and value of each label, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.pairs.iter().map(|&(name, value)| (self.text(name), self.text(value)))
    }

    /// Whether there is no label at all.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// With strings of their own.
    pub fn to_labels(&self) -> Labels {
        Labels::from_pairs(self.iter()).expect("each name occurs once")
    }

    fn text(&self, symbol: Symbol) -> &str {
        &self.texts[symbol.0 as usize]
    }
}

impl From<Labels> for ResultLabels {
    fn from(labels: Labels) -> Self {
        let texts = labels.iter().flat_map(|(name, value)| [Arc::from(name), Arc::from(value)]).collect();
        let symbol = |at: usize| Symbol(at as u32);
        Self { texts, pairs: (0..labels.len()).map(|i| (symbol(2 * i), symbol(2 * i + 1))).collect() }
    }
}

impl Default for ResultLabels {
    fn default() -> Self {
        Labels::empty().into()
    }
}

impl PartialEq for ResultLabels {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl PartialEq<Labels> for ResultLabels {
    fn eq(&self, other: &Labels) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ResultLabels {}

impl PartialOrd for ResultLabels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of the API: label by label, name before value.
impl Ord for ResultLabels {
    fn cmp(&self, other: &Self) -> Ordering {
        let shared = match Arc::ptr_eq(&self.texts, &other.texts) {
            true => self.pairs.iter().zip(&*other.pairs).take_while(|(a, b)| a == b).count(),
            false => 0,
        };
        self.iter().skip(shared).cmp(other.iter().skip(shared))
    }
}

impl fmt::Debug for ResultLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As labels print: `{__name__="up", a="b"}`.
impl fmt::Display for ResultLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_labels(f, self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_ordered_alike_whether_they_share_their_texts_or_not() {
        let sets: Vec<Labels> =
            [&[][..], &[("a", "1")], &[("a", "1"), ("b", "0")], &[("a", "2")], &[("b", "0")], &[("b", "1")]]
                .into_iter()
                .map(|pairs| Labels::from_pairs(pairs.iter().copied()).unwrap())
                .collect();
        let texts: Arc<[Arc<str>]> = ["b", "1", "a", "2", "0"].into_iter().map(Arc::from).collect();
        let symbol = |text: &str| Symbol(texts.iter().position(|t| **t == *text).unwrap() as u32);
        let shared = |labels: &Labels| {
            let pairs = labels.iter().map(|(name, value)| (symbol(name), symbol(value))).collect();
            ResultLabels::new(Arc::clone(&texts), pairs)
        };
        for a in &sets {
            for b in &sets {
                assert_eq!(shared(a).cmp(&shared(b)), a.cmp(b), "{a} {b}");
                assert_eq!(ResultLabels::from(a.clone()).cmp(&shared(b)), a.cmp(b), "{a} {b}");
                assert_eq!(shared(a) == *b, a == b);
            }
            assert_eq!(shared(a).to_labels(), *a);
            assert_eq!(shared(a).to_string(), a.to_string());
        }
    }
}
