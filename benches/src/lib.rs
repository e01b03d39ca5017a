//! Shared parts of the load generator and the endurance runs: a small HTTP client, processes under
//! test, recorded streams, and made-up series. Criterion benches are in `benches/`.

pub mod classes;
pub mod fleet;
pub mod grid;
pub mod http;
pub mod process;
pub mod recording;
