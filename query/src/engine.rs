//! The query engine: from text and times to a value.

use crate::annotations::Annotations;
use crate::cost::{self, CostLimits};
use crate::error::QueryError;
use crate::eval::batch::Grid;
use crate::eval::build::{Builder, Place, subquery_grid};
use crate::eval::labels::LabelSets;
use crate::eval::output::Held;
use crate::eval::shared::SharedParts;
use crate::eval::{Cx, Names, Node, Operator, output};
use crate::explain::{Analysis, Clock, Explanation};
use crate::limits::{
    Budget, Charge, Control, MAX_DEPTH, MAX_TIME_MS, MemoryAccount, SharedMemory, StoreContext, Usage,
};
use crate::parser::{self, Expr, ParserOptions, ValueType};
use crate::plan::{self, Plan, PlanKind, Times};
use crate::stats::{QueryStats, Scope};
use crate::value::Value;
use chronolith_model::queryable::{Queryable, Snapshot};
use chronolith_model::symbols::SymbolTable;
use parking_lot::Mutex;
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
    /// What all selectors of a query may read together, by an estimate before it is evaluated.
    pub cost: CostLimits,
    /// Parts of the language that are switched on.
    pub features: Features,
    /// Called by each of the engine's threads when it starts, for what the system knows of threads: their priority.
    pub on_thread_start: Option<fn()>,
    /// Rows of a batch, instead of as many as fit a cache. Tests set 1: results must not depend on it.
    pub batch_rows: Option<usize>,
    /// Whether equal parts of a query are evaluated once. Off for tests: results must not depend on it.
    pub sharing: bool,
    /// Whether selectors read no more than what is above them needs, and do row-wise work themselves. Off for tests:
    /// results must not depend on it.
    pub pushdown: bool,
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
    /// `promql-per-step-stats`: statistics are kept by step as well.
    pub per_step_stats: bool,
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
            per_step_stats: false,
        }
    }

    /// The feature that a name given to `--enable-feature` stands for.
    pub fn by_flag(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "promql-experimental-functions" => &mut self.experimental_functions,
            "promql-duration-expr" => &mut self.duration_expressions,
            "promql-extended-range-selectors" => &mut self.extended_range_selectors,
            "promql-binop-fill-modifiers" => &mut self.fill_modifiers,
            "promql-delayed-name-removal" => &mut self.delayed_name_removal,
            "type-and-unit-labels" => &mut self.type_and_unit_labels,
            "use-start-timestamps" => &mut self.start_timestamps,
            "promql-per-step-stats" => &mut self.per_step_stats,
            _ => return None,
        })
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
            cost: CostLimits::default(),
            features: Features::default(),
            on_thread_start: None,
            batch_rows: None,
            sharing: true,
            pushdown: true,
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
    /// Instead of [`EngineOptions::lookback_delta_ms`], if positive.
    pub lookback_delta_ms: Option<i64>,
}

/// A value and what there is to say about it.
#[derive(Debug)]
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
    /// The memory of the value, charged to the engine until this is dropped: keep it as long as the value.
    pub held: Charge,
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
            .start_handler(move |_| {
                if let Some(start) = options.on_thread_start {
                    start();
                }
            })
            .build()
            .expect("threads are there when the process starts");
        let memory = Arc::new(SharedMemory::new(options.total_memory_limit_bytes));
        Self { options, pool, memory }
    }

    /// An account for the memory of a request that is no query, under the limits of queries.
    pub fn memory_account(&self) -> MemoryAccount {
        MemoryAccount::new(self.options.memory_limit_bytes, Arc::clone(&self.memory))
    }

    /// What all queries and accounts hold now, results that are being sent included.
    pub fn memory_bytes(&self) -> usize {
        self.memory.used_bytes()
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
        let expr = self.parse(request.text)?;
        self.evaluate(store, &expr, request, control)
    }

    /// What a query would do, and with a clock also what it does: it is evaluated then, under the limits of any query,
    /// and its value thrown away.
    ///
    /// # Errors
    /// As [`Engine::execute`].
    pub fn explain(
        &self,
        store: &dyn Queryable,
        request: &QueryRequest<'_>,
        control: &dyn Control,
        clock: Option<Arc<dyn Clock>>,
    ) -> Result<Explanation, QueryError> {
        control.check()?;
        let expr = self.parse(request.text)?;
        on_stack_for(&expr, || {
            let budget = self.budget(control);
            let mut prepared = self.prepare(&budget, store, &expr, request, control, clock.clone())?;
            let Prepared { plan, cx, grid, .. } = &prepared;
            let estimates = cost::by_selector(&*cx.snapshot, &cx.store, plan, *grid, cx.lookback_ms)?;
            let Some(clock) = clock else {
                return Ok(Explanation::new(request.text, plan, &estimates, self.options.sharing, None));
            };
            let started = clock.now();
            let output = self.run(&mut prepared, request.text)?;
            let total = clock.now().saturating_sub(started);
            let Prepared { plan, cx, .. } = &prepared;
            let analysis = cx.analysis.as_deref();
            let mut explanation =
                Explanation::new(request.text, plan, &estimates, self.options.sharing, analysis);
            explanation.set_outcome(output, total, budget.peak_bytes());
            Ok(explanation)
        })
    }

    /// Parses a query with the parts of the language that are switched on.
    ///
    /// # Errors
    /// [`QueryError::Parse`]
    pub fn parse(&self, text: &str) -> Result<Expr, QueryError> {
        let Features {
            experimental_functions,
            duration_expressions,
            extended_range_selectors,
            fill_modifiers,
            ..
        } = self.options.features;
        let options = ParserOptions {
            experimental_functions,
            duration_expressions,
            extended_range_selectors,
            fill_modifiers,
        };
        parser::parse_expr(text, options).map_err(|error| QueryError::Parse(error.to_string()))
    }

    /// An account for one query; `control` can look at it from now on.
    pub(crate) fn budget(&self, control: &dyn Control) -> Arc<Budget> {
        let Self { options, memory, .. } = self;
        let budget = Budget::new(options.memory_limit_bytes, options.max_samples, Arc::clone(memory));
        let budget = Arc::new(budget);
        control.started(Usage(Arc::clone(&budget)));
        budget
    }

    /// How far back an instant selector of a query looks, in milliseconds.
    pub(crate) fn lookback_ms(&self, request: &QueryRequest<'_>) -> i64 {
        let asked = request.lookback_delta_ms.filter(|&lookback_ms| lookback_ms > 0);
        asked.unwrap_or(self.options.lookback_delta_ms).clamp(0, MAX_TIME_MS)
    }

    /// The times of a query that its plan depends on.
    pub(crate) fn times(&self, request: &QueryRequest<'_>) -> Times {
        Times {
            start: request.start,
            end: if request.range { request.end } else { request.start },
            interval_ms: if request.range { request.interval_ms } else { 0 },
            default_subquery_step_ms: self.options.default_subquery_step_ms,
        }
    }

    /// As [`Engine::execute`], for an expression that is parsed already. Positions in annotations refer to
    /// `request.text`.
    ///
    /// # Errors
    /// [`QueryError`]; its kind tells the status code.
    pub fn evaluate(
        &self,
        store: &dyn Queryable,
        expr: &Expr,
        request: &QueryRequest<'_>,
        control: &dyn Control,
    ) -> Result<QueryOutput, QueryError> {
        self.evaluate_within(&self.budget(control), store, expr, request, control)
    }

    /// As [`Engine::evaluate`], for a part of a query that has a budget already.
    pub(crate) fn evaluate_within(
        &self,
        budget: &Arc<Budget>,
        store: &dyn Queryable,
        expr: &Expr,
        request: &QueryRequest<'_>,
        control: &dyn Control,
    ) -> Result<QueryOutput, QueryError> {
        on_stack_for(expr, || {
            let mut prepared = self.prepare(budget, store, expr, request, control, None)?;
            self.run(&mut prepared, request.text)
        })
    }

    /// Plans a query and pins what it reads. With a clock, what its parts take will be counted.
    fn prepare<'q>(
        &'q self,
        budget: &Arc<Budget>,
        store: &dyn Queryable,
        expr: &Expr,
        request: &QueryRequest<'_>,
        control: &'q dyn Control,
        clock: Option<Arc<dyn Clock>>,
    ) -> Result<Prepared<'q>, QueryError> {
        let value_type = expr.value_type();
        if request.range && !matches!(value_type, ValueType::Scalar | ValueType::Vector) {
            let found = value_type.documented();
            return Err(QueryError::Parse(format!(
                "invalid expression type \"{found}\" for range query, must be Scalar or instant Vector"
            )));
        }
        if [request.start, request.end].iter().any(|time| !(-MAX_TIME_MS..=MAX_TIME_MS).contains(time)) {
            return Err(QueryError::Parse("time is out of the range that can be evaluated".into()));
        }
        if request.end < request.start || (request.range && request.interval_ms <= 0) {
            return Err(QueryError::Parse("a query needs a positive step and an end after its start".into()));
        }
        let grid = match request.range {
            true => Grid::new(request.start, request.end, request.interval_ms),
            false => Grid::instant(request.start),
        };
        let plan = Box::new(plan::plan(expr, &self.times(request))?);
        let analysis = clock.map(|clock| Arc::new(Analysis::new(&plan, clock)));

        let cx = self.cx(budget, store.pin()?, control, self.lookback_ms(request), analysis)?;
        Ok(Prepared { plan, cx, grid, range: request.range, budget: Arc::clone(budget) })
    }

    /// What the parts of a query share, before anything is evaluated.
    fn cx<'q>(
        &'q self,
        budget: &Arc<Budget>,
        snapshot: Arc<dyn Snapshot>,
        control: &'q dyn Control,
        lookback_ms: i64,
        analysis: Option<Arc<Analysis>>,
    ) -> Result<Cx<'q>, QueryError> {
        let store = StoreContext { control, budget: Arc::clone(budget), symbols: SymbolTable::new() };
        Ok(Cx {
            names: Names::new(&store),
            labels_charge: Mutex::new((0, budget.take(0, 0)?)),
            store,
            snapshot,
            label_sets: LabelSets::new(),
            pool: &self.pool,
            features: self.options.features,
            lookback_ms,
            batch_rows: self.options.batch_rows,
            pushdown: self.options.pushdown,
            max_samples: self.options.max_samples,
            analysis,
        })
    }

    fn run<'q>(&'q self, prepared: &mut Prepared<'q>, text: &str) -> Result<QueryOutput, QueryError> {
        let Prepared { plan, cx, grid, .. } = &*prepared;
        cost::check(&self.options.cost, &*cx.snapshot, &cx.store, plan, *grid, cx.lookback_ms)?;
        let shared = if self.options.sharing { SharedParts::new(plan) } else { SharedParts::default() };
        let (result, kept_rows) = self.attempt(prepared, text, shared);
        match result {
            // What was kept for later places may have been too much.
            Err(QueryError::OverBudget(_) | QueryError::TooManySamples) if kept_rows => {
                let Cx { store, snapshot, lookback_ms, analysis, .. } = &prepared.cx;
                if let Some(analysis) = analysis {
                    analysis.start_over();
                }
                let (snapshot, analysis) = (Arc::clone(snapshot), analysis.clone());
                prepared.cx = self.cx(&prepared.budget, snapshot, store.control, *lookback_ms, analysis)?;
                self.attempt(prepared, text, SharedParts::default()).0
            }
            result => result,
        }
    }

    /// Evaluates a query, and says whether rows of repeated parts were kept for it.
    fn attempt(
        &self,
        prepared: &Prepared<'_>,
        text: &str,
        shared: SharedParts,
    ) -> (Result<QueryOutput, QueryError>, bool) {
        let Prepared { plan, cx, grid, range, budget } = prepared;
        let charge = match budget.take(0, 0) {
            Ok(charge) => charge,
            Err(error) => return (Err(error), false),
        };
        let per_step = self.options.features.per_step_stats;
        let mut run = Run {
            builder: Builder {
                cx,
                notes: Annotations::default(),
                store_warnings: cx.snapshot.warnings(),
                charge,
                shared,
            },
            grid: *grid,
            range: *range,
            scope: Scope::new(grid.n_steps, per_step),
        };
        let result = run.value(plan).map(|(value, held)| {
            run.builder.shared.count_samples(0);
            let (mut warnings, infos) = run.builder.notes.render(text, MAX_ANNOTATIONS, MAX_ANNOTATIONS);
            warnings.append(&mut run.builder.store_warnings);
            let stats = run.scope.stats(grid, budget.peak_samples() as u64, per_step);
            QueryOutput { value, warnings, infos, stats, held }
        });
        (result, run.builder.shared.used())
    }
}

/// Larger queries get a thread with a stack of their own: the callers of a server may have 2 MiB.
const NODES_ON_CALLER: usize = 128;
/// Measured without optimisation: under 10 KiB a level, of planning, evaluating or dropping.
const STACK_BYTES_PER_NODE: usize = 32 << 10;

/// Runs what walks an expression, on a thread with a larger stack if the expression is large.
fn on_stack_for<T: Send>(
    expr: &Expr,
    work: impl FnOnce() -> Result<T, QueryError> + Send,
) -> Result<T, QueryError> {
    let mut n_nodes = 0;
    expr.walk(|_| {
        n_nodes += 1;
        true
    });
    if n_nodes <= NODES_ON_CALLER {
        return work();
    }
    // Operators call each other as deep as the query is nested or its chains are long.
    let stack_bytes = n_nodes.min(MAX_DEPTH) * STACK_BYTES_PER_NODE;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("query-deep".to_owned())
            .stack_size(stack_bytes)
            .spawn_scoped(scope, work)
            .map_err(|error| QueryError::execution(format!("failed to start a thread: {error}")))?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A query that is planned and may be evaluated.
struct Prepared<'q> {
    // Boxed: counters go by the addresses of its parts.
    plan: Box<Plan>,
    cx: Cx<'q>,
    grid: Grid,
    range: bool,
    budget: Arc<Budget>,
}

/// How many warnings, and how many infos, the API shows.
const MAX_ANNOTATIONS: usize = 10;

/// One query that is being evaluated.
struct Run<'b, 'q> {
    builder: Builder<'b, 'q>,
    grid: Grid,
    range: bool,
    scope: Scope,
}

impl Run<'_, '_> {
    fn value(&mut self, plan: &Plan) -> Result<Held<Value>, QueryError> {
        let grid = self.grid;
        let timestamp = grid.start;
        match &plan.kind {
            PlanKind::Range { selector, range_ms } => {
                let end = selector.time.at(timestamp);
                let window = (end.saturating_sub(*range_ms), end);
                let (series, held) = output::raw_matrix(&mut self.builder, selector, window, &self.scope)?;
                return Ok((Value::Matrix(series), held));
            }
            PlanKind::Subquery { inner, range_ms, step_ms, time } => {
                let inner_grid = subquery_grid(&grid, *time, *range_ms, *step_ms);
                let operator = self.builder.subquery(inner, inner_grid, self.scope.whole_subquery())?;
                return self.matrix(operator, inner_grid);
            }
            _ => {}
        }
        let place = Place { grid, scope: self.scope.clone() };
        let few = |value| Ok((value, self.builder.cx.store.budget.take(0, 0)?));
        match self.builder.build(plan, &place)? {
            Node::Text(value) => few(Value::String { timestamp, value }),
            Node::Scalar(scalar) if self.range => {
                self.builder.notes.merge(scalar.notes);
                few(Value::Matrix(output::scalar_matrix(&scalar.values, &grid)))
            }
            Node::Scalar(scalar) => {
                self.builder.notes.merge(scalar.notes);
                let value = scalar.values.first().copied().unwrap_or(f64::NAN);
                few(Value::Scalar { timestamp, value })
            }
            Node::Vector(operator) if self.range => self.matrix(operator, grid),
            Node::Vector(operator) => {
                let mut operator = self.named(operator);
                let (samples, held) = output::vector(self.builder.cx, &mut *operator, timestamp)?;
                self.builder.notes.merge(operator.finish());
                Ok((Value::Vector(samples), held))
            }
        }
    }

    fn matrix(&mut self, operator: Box<dyn Operator>, grid: Grid) -> Result<Held<Value>, QueryError> {
        let mut operator = self.named(operator);
        let (series, held) = output::matrix(self.builder.cx, &mut *operator, &grid)?;
        self.builder.notes.merge(operator.finish());
        Ok((Value::Matrix(series), held))
    }

    /// Drops the names whose removal was delayed.
    fn named(&self, mut operator: Box<dyn Operator>) -> Box<dyn Operator> {
        let cx = self.builder.cx;
        if cx.features.delayed_name_removal {
            output::drop_delayed_names(cx, &mut *operator);
        }
        operator
    }
}

#[cfg(test)]
mod tests;
