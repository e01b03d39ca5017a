//! Why a scrape failed.

use chronolith_wire::exposition::protobuf::ProtobufError;
use chronolith_wire::exposition::{ContentTypeError, LabelsError, ParseError};

/// Why a scrape failed. The text is the target's `lastError`.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// No answer came: connecting, sending or reading failed.
    #[error("Get {url:?}: {reason}")]
    Request {
        /// What was asked for.
        url: String,
        /// The error and its causes.
        reason: String,
    },
    /// The answer was another one than 200.
    #[error("server returned HTTP status {0}")]
    Status(hyper::StatusCode),
    /// Over `body_size_limit`, after decompression.
    #[error("body size limit exceeded")]
    BodySizeLimit,
    /// The body is said to be gzip and is not.
    #[error("cannot decompress the body: {0}")]
    Gzip(std::io::Error),
    /// The format of the body is not known.
    #[error(transparent)]
    ContentType(#[from] ContentTypeError),
    /// The body is not in its format.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The body is no such protobuf messages.
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
    /// Over `native_histogram_bucket_limit`, and not to be merged into fewer buckets.
    #[error("histogram bucket limit exceeded")]
    BucketLimit,
    /// A series of the body has labels that cannot be stored.
    #[error("series {series}: {source}")]
    Labels {
        /// The series as it stands in the body.
        series: String,
        /// What is wrong with its labels.
        source: LabelsError,
    },
    /// Labels are not valid after relabelling.
    #[error("invalid metric name or label names: {0}")]
    InvalidNames(String),
    /// Over `sample_limit`, after relabelling.
    #[error("sample limit exceeded")]
    SampleLimit,
    /// Over one of the label limits.
    #[error("{0}")]
    LabelLimit(String),
    /// Something about the pool keeps its targets from being scraped.
    #[error("{0}")]
    Pool(String),
}
