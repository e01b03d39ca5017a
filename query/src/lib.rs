//! PromQL: parser, plan and an engine built of columns.

pub mod annotations;
pub mod cache;
pub mod calendar;
mod cost;
pub mod engine;
pub mod error;
mod eval;
pub mod explain;
pub mod functions;
pub mod go_format;
pub mod limits;
pub mod oracle;
pub mod parser;

mod plan;
pub mod script;
pub mod stats;
pub mod value;

pub use cache::{CacheStats, ResultCache};
pub use cost::CostLimits;
pub use engine::{Engine, EngineOptions, Features, QueryOutput, QueryRequest};
pub use error::QueryError;
pub use explain::{Clock, Explanation};
pub use limits::{Charge, Control, MemoryAccount, NoControl, Usage};
pub use stats::{PerStepStats, QueryStats};
pub use value::{InstantSample, RangeSeries, ResultLabels, SampleValue, Value};
