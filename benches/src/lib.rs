//! Shared parts of the load generator and the endurance runs: a small HTTP client, processes under
//! test, recorded streams. Criterion benches are in `benches/`.

pub mod fleet;
pub mod http;
pub mod process;
pub mod recording;
