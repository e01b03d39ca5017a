//! The monitoring server: HTTP API, scraping, remote protocols and command line over the engine of
//! `chronolith-storage` and the PromQL of `chronolith-query`.

pub mod cli;
pub mod config;
pub mod discovery;
pub mod relabel;
