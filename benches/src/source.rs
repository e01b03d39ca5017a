//! What is sent: a fleet that is made up or replayed on the way, or a stream file.

use crate::fleet::{Fleet, Schedule};
use crate::stream::StreamFile;
use chronolith_model::append::AppendBatch;

/// Requests in the order of time, the same at every reading.
#[derive(Debug)]
pub enum Source {
    /// Made on the way.
    Fleet(Fleet, Schedule),
    /// From a file.
    Stream(StreamFile),
}

impl Source {
    /// The requests that connection `connection` of `connections` sends.
    ///
    /// # Errors
    /// If the source is broken, or the first error of `send`.
    pub fn requests(
        &self,
        part: (u32, u32),
        send: &mut dyn FnMut(&AppendBatch<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        match self {
            Self::Fleet(fleet, schedule) => fleet.requests(schedule, part, send),
            Self::Stream(stream) => stream.requests(part, send),
        }
    }

    /// About how many samples, for bars.
    pub fn n_samples(&self) -> u64 {
        match self {
            Self::Fleet(fleet, schedule) => fleet.n_series() as u64 * u64::from(schedule.scrapes),
            Self::Stream(stream) => stream.n_samples,
        }
    }

    /// Between scrapes, milliseconds.
    pub const fn interval(&self) -> i64 {
        match self {
            Self::Fleet(_, schedule) => schedule.interval,
            Self::Stream(stream) => stream.interval,
        }
    }
}
