//! Why a query gave no result, in the words Prometheus uses.

use chronolith_model::queryable::{ReadError, Stop};

/// What a query was doing when it had to stop; the end of the texts about stopping.
pub(crate) const IN_EVALUATION: &str = "expression evaluation";
/// As [`IN_EVALUATION`], in the text about too many samples.
pub(crate) const IN_EXECUTION: &str = "query execution";

/// Why a query gave no result. `Display` is the text Prometheus's API shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The text is not PromQL, or asks for a feature that is switched off. Ready to print, with line and
    /// column. Status 400.
    #[error("{0}")]
    Parse(String),
    /// The query is PromQL but cannot be evaluated over this data. Status 422.
    #[error("{0}")]
    Execution(String),
    /// More samples would be held at once than the limit allows. Status 422.
    #[error("query processing would load too many samples into memory in {IN_EXECUTION}")]
    TooManySamples,
    /// More memory would be taken, or more be read, than a limit allows; the text names it and its flag. Status 422.
    #[error("{0}")]
    OverBudget(String),
    /// The deadline has passed. Carries what was going on. Status 503.
    #[error("query timed out in {0}")]
    Timeout(String),
    /// The client went away or the server is stopping. Carries what was going on. Status 499.
    #[error("query was canceled in {0}")]
    Cancelled(String),
    /// The store could not be read. Status 500.
    #[error("expanding series: {0}")]
    Storage(String),
}

impl QueryError {
    /// An error of evaluation.
    pub(crate) fn execution(text: impl Into<String>) -> Self {
        Self::Execution(text.into())
    }

    /// The error of series that meet after their names were removed.
    pub(crate) fn same_labelset() -> Self {
        Self::execution("vector cannot contain metrics with the same labelset")
    }
}

impl From<Stop> for QueryError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Cancelled => Self::Cancelled(IN_EVALUATION.to_owned()),
            Stop::TimedOut => Self::Timeout(IN_EVALUATION.to_owned()),
            Stop::OverBudget(text) => Self::OverBudget(text),
            Stop::Revoked => Self::Storage(stop.to_string()),
        }
    }
}

impl From<ReadError> for QueryError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stop(stop) => stop.into(),
            ReadError::Corrupt(_) | ReadError::Io(_) => Self::Storage(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_prometheus() {
        let check = |error: QueryError, text: &str| assert_eq!(error.to_string(), text);
        check(Stop::TimedOut.into(), "query timed out in expression evaluation");
        check(Stop::Cancelled.into(), "query was canceled in expression evaluation");
        check(
            QueryError::TooManySamples,
            "query processing would load too many samples into memory in query execution",
        );
        check(ReadError::Io("x".into()).into(), "expanding series: failed to read: x");
    }
}
