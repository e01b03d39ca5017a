//! The functions of PromQL, one file per family. They work on values; what series they are applied to, and under
//! which labels the results stand, is decided by the operators.

pub mod histogram;
pub mod label;
pub mod math;
pub mod time;
