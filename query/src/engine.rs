//! The query engine: from text and times to a value.

use crate::error::QueryError;
use crate::limits::{Control, SharedMemory};
use crate::stats::QueryStats;
use crate::value::Value;
use chronolith_model::queryable::Queryable;
use std::sync::Arc;

/// Settings of an [`Engine`]. `Default` gives those of a Prometheus server without feature flags.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How far an instant selector looks back, in milliseconds.
    pub lookback_delta_ms: i64,
    /// Most samples a query may hold at once (`--query.max-samples`).
    pub max_samples: usize,
    /// Step of subqueries that name none, in milliseconds: the global evaluation interval.
    pub default_subquery_step_ms: i64,
    /// Threads that read and decode series; 0 means one per core. All queries share them.
    pub threads: usize,
    /// Memory one query may take.
    pub memory_limit_bytes: usize,
    /// Memory all running queries together may take.
    pub total_memory_limit_bytes: usize,
    /// Parts of the language that are switched on.
    pub features: Features,
    /// Rows of a batch, instead of as many as fit a cache. Tests set 1: results must not depend on it.
    pub batch_rows: Option<usize>,
}

/// Parts of the language that Prometheus keeps behind feature flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `promql-experimental-functions`
    pub experimental_functions: bool,
    /// `promql-duration-expr`
    pub duration_expressions: bool,
    /// `promql-extended-range-selectors`: `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// `promql-binop-fill-modifiers`
    pub fill_modifiers: bool,
    /// `promql-delayed-name-removal`: metric names are dropped at the end of a query.
    pub delayed_name_removal: bool,
    /// `type-and-unit-labels`: whether a metric is a counter is told by `__type__`, not by its name.
    pub type_and_unit_labels: bool,
    /// `use-start-timestamps`: start timestamps of samples tell counter resets.
    pub start_timestamps: bool,
}

impl Features {
    /// Everything switched on but type and unit labels: what Prometheus's own test scripts assume.
    pub const fn scripts() -> Self {
        Self {
            experimental_functions: true,
            duration_expressions: true,
            extended_range_selectors: true,
            fill_modifiers: true,
            delayed_name_removal: true,
            type_and_unit_labels: false,
            start_timestamps: true,
        }
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            lookback_delta_ms: 300_000,
            max_samples: 50_000_000,
            default_subquery_step_ms: 60_000,
            threads: 0,
            memory_limit_bytes: 2 << 30,
            total_memory_limit_bytes: 4 << 30,
            features: Features::default(),
            batch_rows: None,
        }
    }
}

/// One query. `start == end` with `range == false` is an instant query; `interval_ms` has no meaning then.
#[derive(Clone, Copy, Debug)]
pub struct QueryRequest<'a> {
    /// PromQL.
    pub text: &'a str,
    /// First step, in milliseconds.
    pub start: i64,
    /// Last step at the latest, in milliseconds; not before `start`.
    pub end: i64,
    /// Between steps of a range query, in milliseconds; positive.
    pub interval_ms: i64,
    /// Whether a matrix is wanted (`query_range`), even for a single step.
    pub range: bool,
    /// Instead of [`EngineOptions::lookback_delta_ms`].
    pub lookback_delta_ms: Option<i64>,
}

/// A value and what there is to say about it.
#[derive(Clone, Debug)]
pub struct QueryOutput {
    /// The value; always a matrix for a range query.
    pub value: Value,
    /// Warnings, as the API shows them: at most ten, then how many were left out; then what the store could
    /// not serve.
    pub warnings: Vec<String>,
    /// Infos, as the API shows them.
    pub infos: Vec<String>,
    /// What was read and held.
    pub stats: QueryStats,
}

/// Evaluates queries. One engine serves all queries of a process: it owns the threads and the common memory
/// budget.
pub struct Engine {
    options: EngineOptions,
    pool: rayon::ThreadPool,
    memory: Arc<SharedMemory>,
}

impl Engine {
    /// An engine with threads of its own.
    ///
    /// # Panics
    /// If the system gives no threads.
    pub fn new(options: EngineOptions) -> Self {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|i| format!("query-{i}"))
            .build()
            .expect("threads are there when the process starts");
        let memory = Arc::new(SharedMemory::new(options.total_memory_limit_bytes));
        Self { options, pool, memory }
    }

    /// The settings.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Evaluates a query over the present version of `store`. Blocks the calling thread, which should not be
    /// one that serves requests.
    ///
    /// # Errors
    /// [`QueryError`]; its kind tells the status code.
    pub fn execute(
        &self,
        store: &dyn Queryable,
        request: &QueryRequest<'_>,
        control: &dyn Control,
    ) -> Result<QueryOutput, QueryError> {
        control.check()?;
        let _ = (store, request, &self.pool, &self.memory);
        Err(QueryError::execution("the query engine is not connected yet"))
    }
}
