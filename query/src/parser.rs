//! PromQL text to syntax tree and back.

pub mod ast;
pub mod signatures;

pub use ast::{Expr, ExprKind, Span, ValueType};
pub use signatures::{Function, Signature};
