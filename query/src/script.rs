//! Test scripts in Prometheus's language: `load` some series, `eval` some queries, compare.
//!
//! [`parse`] reads a script, [`store`] keeps series in memory behind the same trait as the real engine, and
//! [`run`] puts them together. Rule unit tests and other evaluators use the store too.
//!
//! Source: Prometheus v3.14, `promql/promqltest/test.go`.

pub mod nhcb;
pub mod parse;
pub mod run;
pub mod store;

pub use parse::{Script, ScriptError};
pub use run::{Failure, Outcome, ScriptEngine, ScriptStore, run};
pub use store::{MemoryStore, Sample};
