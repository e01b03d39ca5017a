//! Scraping: fetching what targets expose, on a schedule, and appending it.
//!
//! The [`ScrapeManager`] keeps one pool for each job of the configuration, a pool one loop for each
//! target. A loop fetches a body, turns it into one batch (samples, staleness markers of series that
//! are gone, and the samples about the scrape itself) and appends it in one go, so that no query sees
//! half a scrape. Storage is behind [`Appender`]; where targets come from is left to
//! [`crate::discovery`].
//!
//! Source: Prometheus v3.14, `scrape/manager.go`, `scrape/scrape.go`, `scrape/target.go`.

mod cache;
mod classic;
mod client;
mod error;
mod failure_log;
mod manager;
mod metrics;
mod pool;
mod process;
mod schedule;
mod scrape_loop;
mod target;

#[cfg(test)]
mod tests;

pub use error::ScrapeError;
pub use manager::{ScrapeManager, ScrapeOptions};

use chronolith_model::append::{AppendBatch, AppendOutcome};
use chronolith_storage::AppendError;

/// Where scrapes go: the part of [`Store`](crate::store::Store) that scraping needs.
pub(crate) trait Appender: Send + Sync {
    /// Appends a batch; may block. With `want_refs` the outcome has a handle for each series.
    ///
    /// # Errors
    /// [`AppendError`] if nothing of the batch was written.
    fn append(&self, batch: &AppendBatch<'_>, want_refs: bool) -> Result<AppendOutcome, AppendError>;
}
