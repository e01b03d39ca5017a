//! PromQL: parser, plan and an engine built of columns.

pub mod parser;
