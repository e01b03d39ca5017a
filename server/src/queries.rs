//! The queries that are being worked on: to be listed, to be ended, and to be told after a kill.

pub mod active_file;

use crate::api::work::Deadline;
use active_file::{ActiveFile, Slot};
use chronolith_query::QueryRequest;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

/// Where a request came from and went to.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Address of the client, where it is known.
    pub client: Option<IpAddr>,
    /// `GET` or `POST`.
    pub method: String,
    /// Path of the request, with the route prefix.
    pub path: String,
    /// Whether the server asks itself: such queries are not in the query log.
    pub is_rehearsed: bool,
}

/// Marks requests of the server itself, in their extensions.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsed;

/// What a query asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// PromQL.
    pub text: String,
    /// First step, in milliseconds.
    pub start: i64,
    /// Last step, in milliseconds.
    pub end: i64,
    /// Between steps, in milliseconds; 0 for an instant query.
    pub step_ms: i64,
    /// Who asked.
    pub origin: Origin,
}

impl Asked {
    /// The same for the engine.
    pub fn request(&self, range: bool, lookback_delta_ms: Option<i64>) -> QueryRequest<'_> {
        let Self { text, start, end, step_ms, .. } = self;
        QueryRequest { text, start: *start, end: *end, interval_ms: *step_ms, range, lookback_delta_ms }
    }
}

/// How far a query is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// It waits for others (`--query.max-concurrency`).
    Queued,
    /// It is evaluated.
    Running,
    /// Its answer is read by the client.
    Sending,
}

impl Stage {
    /// As the API calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Sending => "sending",
        }
    }
}

/// A query that is being worked on.
#[derive(Debug)]
pub struct ActiveQuery {
    /// Given out in the order of arrival, from 1 on.
    pub id: u64,
    /// What it asks for.
    pub asked: Asked,
    /// When it came.
    pub started_at: SystemTime,
    /// When it came, for durations.
    pub started: Instant,
    /// Ends it, and knows what it holds.
    pub deadline: Arc<Deadline>,
    stage: AtomicU8,
}

impl ActiveQuery {
    /// How far it is.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Queued,
            1 => Stage::Running,
            _ => Stage::Sending,
        }
    }
}

/// All queries that are being worked on.
#[derive(Debug, Default)]
pub struct ActiveQueries {
    last: AtomicU64,
    queries: Mutex<BTreeMap<u64, Arc<ActiveQuery>>>,
    file: OnceLock<Arc<ActiveFile>>,
}

impl ActiveQueries {
    /// From here on what runs is written to `file`, too.
    pub fn keep_in(&self, file: Arc<ActiveFile>) {
        // A server opens one store, and with it one file.
        let _ = self.file.set(file);
    }

    /// Puts a query on the list; it stays there as long as what comes back lives.
    pub fn register(self: &Arc<Self>, asked: Asked, deadline: Arc<Deadline>) -> Registered {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let query = Arc::new(ActiveQuery {
            id,
            asked,
            started_at: SystemTime::now(),
            started: Instant::now(),
            deadline,
            stage: AtomicU8::new(Stage::Queued as u8),
        });
        self.queries.lock().insert(id, Arc::clone(&query));
        Registered { queries: Arc::clone(self), query, slot: Mutex::default() }
    }

    /// All of them, by arrival.
    pub fn list(&self) -> Vec<Arc<ActiveQuery>> {
        self.queries.lock().values().cloned().collect()
    }

    /// Ends a query; false if there is none of this number.
    pub fn cancel(&self, id: u64) -> bool {
        let query = self.queries.lock().get(&id).cloned();
        if let Some(query) = &query {
            query.deadline.cancel();
        }
        query.is_some()
    }
}

/// A query's place on the list.
#[derive(Debug)]
pub struct Registered {
    queries: Arc<ActiveQueries>,
    query: Arc<ActiveQuery>,
    /// Its slot in the file, as long as it runs.
    slot: Mutex<Option<Slot>>,
}

impl Registered {
    /// Tells how far the query is. A query that runs leaves that stage before its permit to run goes to another,
    /// so that there is a slot of the file for each.
    pub fn enter(&self, stage: Stage) {
        self.query.stage.store(stage as u8, Ordering::Relaxed);
        *self.slot.lock() = match (stage, self.queries.file.get()) {
            (Stage::Running, Some(file)) => file.enter(&self.query.asked.text, SystemTime::now()),
            _ => None,
        };
    }

    /// The query.
    pub fn query(&self) -> &ActiveQuery {
        &self.query
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.queries.queries.lock().remove(&self.query.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_query::Control as _;
    use std::time::Duration;

    #[test]
    fn queries_are_listed_while_they_live_and_end_when_told() {
        let queries = Arc::<ActiveQueries>::default();
        let asked = |text: &str| Asked {
            text: text.to_owned(),
            start: 0,
            end: 0,
            step_ms: 0,
            origin: Origin {
                client: None,
                method: "GET".to_owned(),
                path: String::new(),
                is_rehearsed: false,
            },
        };
        let deadline = || Deadline::after(Duration::from_secs(60));
        let first = queries.register(asked("a"), deadline());
        let second = queries.register(asked("b"), deadline());
        second.enter(Stage::Running);
        let listed: Vec<_> =
            queries.list().iter().map(|query| (query.id, query.asked.text.clone(), query.stage())).collect();
        assert_eq!(listed, [(1, "a".to_owned(), Stage::Queued), (2, "b".to_owned(), Stage::Running)]);
        assert!(queries.cancel(2));
        assert!(second.query().deadline.check().is_err());
        assert!(first.query().deadline.check().is_ok());
        drop(second);
        assert!(!queries.cancel(2));
        assert_eq!(queries.list().len(), 1);
    }
}
