//! A second opinion for tests: queries at random, and what goes with them.
//!
//! [`generate`] makes series and well-typed queries over them from a seed.

pub mod generate;
