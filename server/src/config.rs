//! `prometheus.yml`: its whole schema, read strictly. Every error says file, line and reason, and a
//! misspelt key which key was probably meant.

mod types;

pub use types::*;
