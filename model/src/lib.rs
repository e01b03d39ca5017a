//! Words that every Chronolith crate shares: labels, matchers, samples, histograms, staleness, and
//! the trait through which queries read series. No I/O happens here and no clock is read, so the
//! query layer builds and is tested without the storage engine.

pub mod append;
pub mod changes;
pub mod duration;
pub mod histogram;
pub mod labels;
pub mod matcher;
pub mod queryable;
pub mod re2;
pub mod sample;
pub mod symbols;

pub use histogram::{CounterResetHint, FloatHistogram, Span};
pub use labels::{Label, Labels, LabelsBuilder, METRIC_NAME};
pub use matcher::{MatchOp, Matcher};
pub use sample::{STALE_NAN_BITS, is_stale, stale_nan};
pub use symbols::{Symbol, SymbolTable};
