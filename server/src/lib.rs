//! The monitoring server: HTTP API, scraping, remote protocols and command line over the engine of
//! `chronolith-storage` and the PromQL of `chronolith-query`.

pub mod api;
pub mod build;
pub mod cli;
pub mod config;
pub mod discovery;
pub mod explain;
pub mod foreign;
pub mod front;
mod http_client;
pub mod listen;
pub mod queries;
pub mod query_log;
pub mod query_memory;
pub mod rehearsal;
pub mod relabel;
pub mod reload;
pub mod remote;
pub mod scrape;
pub mod shutdown;
pub mod state;
pub mod store;
pub mod targets;
pub mod telemetry;
