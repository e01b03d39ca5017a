//! Shared parts of the load generator and the endurance runs. Criterion benches are in `benches/`.
//!
//! The load generator, from what is sent to what is told about it: `recording`, `fleet` and `stream` make a
//! `source`, `sender` sends it, `expect` and `verify` say whether it came back, `compare` does all of it to
//! several servers. `process` and `http` serve every run; `grid` and `classes` are the data of the benches.

pub mod classes;
pub mod compare;
pub mod expect;
pub mod fleet;
pub mod grid;
pub mod http;
pub mod process;
pub mod progress;
pub mod random;
pub mod recording;
pub mod sender;
pub mod source;
pub mod stream;
pub mod verify;
