//! From plan to operators: labels are worked out here, samples are read later (except where labels depend on
//! values).

use super::absent::{absent, absent_labels, scalar};
use super::batch::{Batch, Grid};
use super::buckets::{Histograms, Question, labelled_quantiles};
use super::fold::{Fold, group};
use super::info::info;
use super::join::{Join, Operation, first_failure};
use super::labels::NO_LABELS;
use super::leaf::{Leaf, PlanCache};
use super::lookup::{Lookup, Wanted};
use super::maps::{
    FloatMap, HistogramMap, Negate, SampleMap, StepMap, WithScalar, scalar_binary, trim_scalars,
};
use super::merge::{Collision, merged};
use super::rank::{Parameter, Spans, choose, count_values};
use super::sets::SetOperator;
use super::shared::SharedParts;
use super::smooth::Smoothed;
use super::sort::{Order, sort};
use super::spread::Spread;
use super::subquery::SubqueryWindows;
use super::window::{WindowCall, Windows};
use super::{ColumnMap, Cx, Kept, Node, Operator, OutSeries, Rows, Scalar, with_map, with_notes};
use crate::annotations::{Annotation, Annotations};
use crate::error::QueryError;
use crate::functions::label::{LabelJoin, LabelReplace};
use crate::functions::{Extension, histogram, math, time, window_function};
use crate::limits::Charge;
use crate::parser::ast::{AggregateOp, BinaryOp};
use crate::parser::{Function, Span, ValueType};
use crate::plan::{DataTime, Plan, PlanKind, Selector};
use crate::stats::Scope;
use chronolith_model::METRIC_NAME;
use chronolith_model::queryable::{HistogramNeed, Lookups, Projection, Select, SelectedSeries};
use chronolith_model::symbols::Symbol;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Builds the operators of a query.
pub(crate) struct Builder<'b, 'q> {
    pub(crate) cx: &'b Cx<'q>,
    /// What parts noted that were evaluated while building.
    pub(crate) notes: Annotations,
    /// What the store could not serve.
    pub(crate) store_warnings: Vec<String>,
    /// For scalars and other columns of one value a step.
    pub(crate) charge: Charge,
    /// Parts that occur more than once.
    pub(crate) shared: SharedParts,
}

/// What a node takes for each step, whatever the number of its series: a scalar, bounds, presence words.
const STEP_BYTES: usize = 32;

/// Which steps a part is evaluated at, and how its samples count.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) grid: Grid,
    pub(crate) scope: Scope,
}

/// A range vector argument.
enum Ranged<'p> {
    Selector { selector: &'p Selector, range_ms: i64 },
    Subquery { inner: &'p Plan, range_ms: i64, step_ms: i64, time: DataTime },
}

/// A new label value out of the values of others; `None` to leave the series alone.
type LabelValue<'s> = Box<dyn Fn(&[Symbol]) -> Result<Option<Symbol>, QueryError> + 's>;

type Built = Result<Box<dyn Operator>, QueryError>;

impl Builder<'_, '_> {
    /// The operators of a plan.
    pub(crate) fn build(&mut self, plan: &Plan, place: &Place) -> Result<Node, QueryError> {
        match &self.cx.analysis {
            Some(analysis) => analysis.build(plan, || self.build_once(plan, place)),
            None => self.build_once(plan, place),
        }
    }

    /// As [`Builder::build`], but a part that stands elsewhere too is evaluated only once.
    fn build_once(&mut self, plan: &Plan, place: &Place) -> Result<Node, QueryError> {
        match self.shared(plan, place)? {
            Some(node) => Ok(node),
            None => self.build_node(plan, place),
        }
    }

    /// The operators of a plan, wherever else it stands.
    pub(super) fn build_node(&mut self, plan: &Plan, place: &Place) -> Result<Node, QueryError> {
        self.cx.check()?;
        let grid = place.grid;
        if grid.n_steps > self.cx.max_samples {
            return Err(QueryError::TooManySamples);
        }
        self.charge.add_bytes(grid.n_steps.saturating_mul(STEP_BYTES))?;
        match &plan.kind {
            PlanKind::Number(value) => Ok(Node::Scalar(vec![*value; grid.n_steps].into())),
            PlanKind::Text(text) => Ok(Node::Text(text.clone())),
            PlanKind::Select(selector) => {
                self.select_instant(selector, place, Wanted::Value).map(Node::Vector)
            }
            PlanKind::Range { .. } | PlanKind::Subquery { .. } => {
                Err(QueryError::execution("a range vector can only be an argument of a function"))
            }
            PlanKind::Call { function, args } => self.call(plan, *function, args, place),
            PlanKind::Aggregate { op, inner, param, grouping, without } => self
                .aggregate(plan, *op, inner, param.as_deref(), (grouping, *without), place)
                .map(Node::Vector),
            PlanKind::Binary { .. } => self.binary(plan, place),
            PlanKind::Negate(inner) => self.negate(inner, place),
            PlanKind::Plus(inner) => self.build(inner, place),
            PlanKind::Invariant(inner) => self.invariant(inner, place),
        }
    }

    pub(super) fn vector(&mut self, plan: &Plan, place: &Place) -> Built {
        match self.build(plan, place)? {
            Node::Vector(operator) => Ok(operator),
            Node::Scalar(_) | Node::Text(_) => Err(QueryError::execution("expected an instant vector")),
        }
    }

    fn scalar(&mut self, plan: &Plan, place: &Place) -> Result<Scalar, QueryError> {
        match self.build(plan, place)? {
            Node::Scalar(scalar) => Ok(scalar),
            Node::Vector(_) | Node::Text(_) => Err(QueryError::execution("expected a scalar")),
        }
    }

    fn invariant(&mut self, inner: &Plan, place: &Place) -> Result<Node, QueryError> {
        if place.grid.instant {
            return self.build(inner, place);
        }
        let once =
            Place { grid: Grid::instant(place.grid.start), scope: place.scope.invariant(place.grid.n_steps) };
        Ok(match self.build(inner, &once)? {
            Node::Vector(operator) => Node::Vector(Box::new(Spread::new(operator, place.grid))),
            Node::Scalar(Scalar { values, notes }) => {
                let value = values.first().copied().unwrap_or(f64::NAN);
                Node::Scalar(Scalar { values: vec![value; place.grid.n_steps], notes })
            }
            text @ Node::Text(_) => text,
        })
    }

    fn negate(&mut self, inner: &Plan, place: &Place) -> Result<Node, QueryError> {
        match self.build(inner, place)? {
            Node::Scalar(mut scalar) => {
                scalar.values.iter_mut().for_each(|value| *value = -*value);
                Ok(Node::Scalar(scalar))
            }
            Node::Vector(operator) => {
                self.map_and_drop_name(operator, Arc::new(Negate), place.grid).map(Node::Vector)
            }
            Node::Text(_) => Err(QueryError::execution("expected a number or an instant vector")),
        }
    }

    /// Adds a row-wise step that makes another metric of each series.
    fn map_and_drop_name(&self, operator: Box<dyn Operator>, map: Arc<dyn ColumnMap>, grid: Grid) -> Built {
        let mut operator = with_map(self.cx, operator, map);
        for series in operator.series_mut() {
            self.cx.remove_name(series);
        }
        self.met_at_step(operator, grid)
    }

    /// Merges series whose labels became equal, as Prometheus does after each step. With delayed name removal a
    /// single step is left alone: the end of the query looks at it.
    fn met_at_step(&self, operator: Box<dyn Operator>, grid: Grid) -> Built {
        if self.cx.features.delayed_name_removal && grid.instant {
            return Ok(operator);
        }
        merged(self.cx, operator, grid, Collision::AtStep)
    }

    fn select(&mut self, select: &Select<'_>) -> Result<Arc<dyn SelectedSeries>, QueryError> {
        let cx = self.cx;
        let selected = match &cx.analysis {
            Some(analysis) => analysis.select(select.matchers.as_ptr().addr(), &cx.store, |counted| {
                cx.snapshot.select(select, counted)
            })?,
            None => cx.snapshot.select(select, &cx.store)?,
        };
        for warning in selected.warnings() {
            if !self.store_warnings.contains(&warning) {
                self.store_warnings.push(warning);
            }
        }
        Ok(selected)
    }

    pub(super) fn select_instant(&mut self, selector: &Selector, place: &Place, wanted: Wanted) -> Built {
        let (cx, grid) = (self.cx, place.grid);
        let smoothed = selector.extension == Extension::Smoothed && wanted == Wanted::Value;
        let time = match (wanted, selector.at) {
            // With `@`, timestamp() forgets the offset; what was read knows it.
            (Wanted::Timestamp | Wanted::StartTimestamp, Some(at)) => DataTime::Fixed(at),
            _ => selector.time,
        };
        let lookback = cx.lookback_ms;
        let n_steps = if matches!(time, DataTime::Fixed(_)) { 1 } else { grid.n_steps as u32 };
        let lookups = Lookups { start: time.at(grid.start), interval: grid.interval, n_steps, lookback };
        let select = Select {
            matchers: &selector.matchers,
            mint: selector.time.at(grid.start) - lookback + 1,
            maxt: selector.time.at(grid.end()) + if smoothed { lookback } else { 0 },
            lookups: (!smoothed && time == selector.time && cx.pushdown).then_some(lookups),
            values: wanted == Wanted::Value && !(selector.presence && cx.pushdown),
            histograms: match (wanted, selector.histogram_stats) {
                (Wanted::Value, false) => HistogramNeed::Full,
                (Wanted::Value, true) => HistogramNeed::Stats,
                (Wanted::Timestamp | Wanted::StartTimestamp | Wanted::InfoTimestamp, _) => {
                    HistogramNeed::None
                }
            },
            start_timestamps: wanted == Wanted::StartTimestamp,
            labels: if cx.pushdown { selector.labels.projection() } else { Projection::All },
        };
        let selected = self.select(&select)?;
        let series = self.series_of(&*selected)?;
        if smoothed {
            let source = Smoothed { grid, time, lookback_ms: lookback, span: selector.span };
            return Ok(Box::new(Leaf::new(cx, selected, source, grid, series)));
        }
        let scope = place.scope.clone();
        let read = selector.time;
        let plans = PlanCache::default();
        let presence =
            select.lookups.is_some() && !select.values && wanted == Wanted::Value && grid.n_steps == 1;
        let source = Lookup { grid, time, read, lookback_ms: lookback, wanted, presence, scope, plans };
        Ok(Box::new(Leaf::new(cx, selected, source, grid, series)))
    }

    fn series_of(&mut self, selected: &dyn SelectedSeries) -> Result<Vec<OutSeries>, QueryError> {
        self.charge.add_bytes(selected.len() as usize * size_of::<OutSeries>())?;
        let mut series = Vec::with_capacity(selected.len() as usize);
        self.cx.label_sets.reserve(selected.len() as usize);
        for start in (0..selected.len()).step_by(1000) {
            let part = start..selected.len().min(start + 1000);
            let labels = self.cx.label_sets.intern_all(part.map(|index| selected.labels(index)));
            series.extend(labels.into_iter().map(|labels| OutSeries { labels, drop_name: false }));
            self.cx.charge_labels()?;
        }
        Ok(series)
    }

    fn aggregate(
        &mut self,
        plan: &Plan,
        op: AggregateOp,
        inner: &Plan,
        param: Option<&Plan>,
        (grouping, without): (&[String], bool),
        place: &Place,
    ) -> Built {
        let (cx, grid) = (self.cx, place.grid);
        let param_span = param.map_or(plan.span, |param| param.span);
        if op == AggregateOp::CountValues {
            let label = match param.map(|param| &param.kind) {
                Some(PlanKind::Text(text)) => text.as_slice(),
                _ => &[],
            };
            let Some(label) = std::str::from_utf8(label).ok().filter(|label| !label.is_empty()) else {
                let quoted = crate::go_format::quote_bytes(label);
                return Err(QueryError::execution(format!("invalid label name {quoted}")));
            };
            let operator = self.vector(inner, place)?;
            let counted = count_values(cx, operator, grid, label, grouping, without)?;
            return self.met_at_step(counted, grid);
        }
        let Scalar { values, notes } = match param {
            Some(param) => self.scalar(param, place)?,
            None => Scalar::default(),
        };
        let operator = with_notes(self.vector(inner, place)?, notes, Annotations::default());
        let groups = group(cx, operator.series(), grouping, without)?;
        let parameter = Parameter::new(values);
        match op {
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
                let spans = Spans { whole: plan.span, param: param_span };
                choose(cx, operator, grid, op, &groups, &parameter, spans)
            }
            _ => {
                let mut notes = Annotations::default();
                let quantiles = match op {
                    AggregateOp::Quantile => parameter.quantiles(param_span, &mut notes),
                    _ => Vec::new(),
                };
                let fold = Fold::new(cx, operator, grid, op, groups, quantiles, inner.span)?;
                Ok(with_notes(Box::new(fold), Annotations::default(), notes))
            }
        }
    }

    /// A binary operation, down its left side in a loop.
    fn binary(&mut self, plan: &Plan, place: &Place) -> Result<Node, QueryError> {
        let mut chain = vec![plan];
        let mut first = plan;
        while let PlanKind::Binary { lhs, .. } = &first.kind {
            first = lhs;
            chain.push(first);
            if self.shared.contains(first) {
                // The rest of the chain is that of another place, or will be.
                break;
            }
        }
        chain.pop();
        let mut left = self.build(first, place)?;
        for link in chain.into_iter().rev() {
            left = match &self.cx.analysis {
                Some(analysis) if !std::ptr::eq(link, plan) => {
                    analysis.build(link, || self.combine(link, left, place))?
                }
                _ => self.combine(link, left, place)?,
            };
        }
        Ok(left)
    }

    fn combine(&mut self, plan: &Plan, left: Node, place: &Place) -> Result<Node, QueryError> {
        let PlanKind::Binary { op, rhs, matching, return_bool, .. } = &plan.kind else {
            return Ok(left);
        };
        let (cx, grid, op, return_bool) = (self.cx, place.grid, *op, *return_bool);
        let right = match (self.build(rhs, place), left) {
            (Ok(right), left) => (left, right),
            // Parts that are evaluated while building must not hide what goes wrong before them.
            (Err(error), Node::Vector(mut left)) => return Err(first_failure(cx, &mut *left, error)),
            (Err(error), _) => return Err(error),
        };
        let (left, right) = right;
        let with_scalar = |operator, Scalar { values: scalar, notes }: Scalar, scalar_left| {
            let nothing = Annotations::default();
            let operator = match scalar_left {
                true => with_notes(operator, notes, nothing),
                false => with_notes(operator, nothing, notes),
            };
            if scalar_left && matches!(op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
                return Ok(Node::Vector(Box::new(trim_scalars(cx, operator, grid, op, plan.span)?)));
            }
            let map = WithScalar { op, scalar, scalar_left, return_bool, span: plan.span };
            let map: Arc<dyn ColumnMap> = Arc::new(map);
            if op.is_comparison() && !return_bool || matches!(op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
                return Ok(Node::Vector(with_map(cx, operator, map)));
            }
            self.map_and_drop_name(operator, map, grid).map(Node::Vector)
        };
        match (left, right) {
            (Node::Scalar(a), Node::Scalar(b)) => {
                Ok(Node::Scalar(both(a, b, |a, b| scalar_binary(op, a, b))))
            }
            (Node::Vector(operator), Node::Scalar(scalar)) => with_scalar(operator, scalar, false),
            (Node::Scalar(scalar), Node::Vector(operator)) => with_scalar(operator, scalar, true),
            (Node::Vector(lhs), Node::Vector(rhs)) => {
                let matching = matching.clone().unwrap_or_default();
                let operator: Box<dyn Operator> = if op.is_set() {
                    Box::new(SetOperator::new(cx, op, grid, (lhs, rhs), &matching)?)
                } else {
                    let operation = Operation { op, return_bool, matching, span: plan.span };
                    Box::new(Join::new(cx, operation, grid, (lhs, rhs))?)
                };
                self.met_at_step(operator, grid).map(Node::Vector)
            }
            _ => Err(QueryError::execution("a string cannot be an operand")),
        }
    }

    fn call(
        &mut self,
        plan: &Plan,
        function: Function,
        args: &[Plan],
        place: &Place,
    ) -> Result<Node, QueryError> {
        let (cx, grid) = (self.cx, place.grid);
        if args.iter().any(|arg| arg.value_type == ValueType::Matrix) {
            return self.window_call(function, args, place).map(Node::Vector);
        }
        if let Some(f) = math::unary(function) {
            let operator = self.vector(&args[0], place)?;
            return self.map_and_drop_name(operator, Arc::new(FloatMap(f)), grid).map(Node::Vector);
        }
        if let Some(f) = time::calendar(function) {
            return self.calendar(f, args, place).map(Node::Vector);
        }
        if let Some(f) = histogram::simple(function) {
            let operator = self.vector(&args[0], place)?;
            let mut operator = with_map(cx, operator, Arc::new(HistogramMap(f)));
            for series in operator.series_mut() {
                if !cx.features.delayed_name_removal {
                    series.labels = cx.label_sets.without(series.labels, &[cx.names.metric]);
                }
                series.drop_name = true;
            }
            return self.met_at_step(operator, grid).map(Node::Vector);
        }
        match function {
            Function::Time => {
                let times: Vec<f64> = grid.times().map(|t| t as f64 / 1000.0).collect();
                Ok(Node::Scalar(times.into()))
            }
            Function::Pi => Ok(Node::Scalar(vec![std::f64::consts::PI; grid.n_steps].into())),
            Function::MaxOf | Function::MinOf => {
                let f = if function == Function::MaxOf { math::max } else { math::min };
                let (a, b) = (self.scalar(&args[0], place)?, self.scalar(&args[1], place)?);
                Ok(Node::Scalar(both(a, b, f)))
            }
            Function::Scalar => {
                let operator = self.vector(&args[0], place)?;
                Ok(Node::Scalar(scalar(cx, operator, grid)?))
            }
            Function::Vector => {
                let Scalar { values, notes } = self.scalar(&args[0], place)?;
                let row = self.single_row(&values, grid)?;
                Ok(Node::Vector(with_notes(row, notes, Annotations::default())))
            }
            Function::Absent => {
                let labels = absent_labels(cx, &args[0]);
                let operator = self.vector(&args[0], place)?;
                absent(cx, operator, grid, OutSeries { labels, drop_name: false }).map(Node::Vector)
            }
            Function::Clamp | Function::ClampMax | Function::ClampMin | Function::Round => {
                self.bounded(function, args, place).map(Node::Vector)
            }
            Function::Timestamp | Function::StartTimestamp => {
                self.timestamp(function, &args[0], place).map(Node::Vector)
            }
            Function::Sort | Function::SortDesc | Function::SortByLabel | Function::SortByLabelDesc => {
                self.sort(plan.span, function, args, place).map(Node::Vector)
            }
            Function::LabelReplace | Function::LabelJoin => {
                self.relabel(function, args, place).map(Node::Vector)
            }
            Function::HistogramQuantile | Function::HistogramQuantiles | Function::HistogramFraction => {
                self.histograms(function, args, place).map(Node::Vector)
            }
            Function::Info => info(self, args, place).map(Node::Vector),
            _ => Err(QueryError::execution(format!("function {:?} is not supported yet", function.name()))),
        }
    }

    /// One row without labels that has a value at every step.
    fn single_row(&self, values: &[f64], grid: Grid) -> Built {
        let mut batch = Batch::new(self.cx, &grid, 0, 1)?;
        let mut row = batch.row_mut(0);
        for (step, &value) in values.iter().enumerate() {
            row.set(step, value);
        }
        row.finish();
        let mut rows = Rows::default();
        rows.push(batch);
        let series = vec![OutSeries { labels: NO_LABELS, drop_name: false }];
        Ok(Box::new(Kept { grid, series, rows, at: 0, notes: Annotations::default() }))
    }

    fn calendar(&mut self, f: fn(i64) -> f64, args: &[Plan], place: &Place) -> Built {
        let grid = place.grid;
        let Some(argument) = args.first() else {
            let values: Vec<f64> = grid.times().map(|t| f(t / 1000)).collect();
            return self.single_row(&values, grid);
        };
        let operator = self.vector(argument, place)?;
        let map = FloatMap(move |value| f(math::go_i64(value)));
        self.map_and_drop_name(operator, Arc::new(map), grid)
    }

    fn bounded(&mut self, function: Function, args: &[Plan], place: &Place) -> Built {
        let grid = place.grid;
        let operator = self.vector(&args[0], place)?;
        let (mut operator, mut scalars, mut notes) = (operator, Vec::new(), Annotations::default());
        for argument in &args[1..] {
            match self.scalar(argument, place) {
                Ok(scalar) => {
                    scalars.push(scalar.values);
                    notes.merge(scalar.notes);
                }
                Err(error) => return Err(first_failure(self.cx, &mut *operator, error)),
            }
        }
        let operator = with_notes(operator, Annotations::default(), notes);
        let map: Arc<dyn ColumnMap> = if function == Function::Round {
            let nearest = scalars.pop().unwrap_or_else(|| vec![1.0; grid.n_steps]);
            Arc::new(StepMap(move |step: usize, value| Some(math::round(value, nearest[step]))))
        } else {
            let all = |value: f64| vec![value; grid.n_steps];
            let last = scalars.pop().unwrap_or_default();
            let (low, high) = match function {
                Function::ClampMax => (all(f64::NEG_INFINITY), last),
                Function::ClampMin => (last, all(f64::INFINITY)),
                _ => (scalars.pop().unwrap_or_default(), last),
            };
            Arc::new(StepMap(move |step: usize, value| {
                let (low, high) = (low[step], high[step]);
                // A bound that is NaN makes the value NaN; it does not make the bounds cross.
                if high < low { None } else { Some(math::clamp(value, low, high)) }
            }))
        };
        self.map_and_drop_name(operator, map, grid)
    }

    fn timestamp(&mut self, function: Function, argument: &Plan, place: &Place) -> Built {
        let (cx, grid) = (self.cx, place.grid);
        let wanted = match function {
            Function::Timestamp => Wanted::Timestamp,
            _ => Wanted::StartTimestamp,
        };
        let unknown = wanted == Wanted::StartTimestamp && !cx.features.start_timestamps;
        if let PlanKind::Select(selector) = &argument.kind {
            let mut operator = self.select_instant(selector, place, wanted)?;
            if unknown {
                operator = with_map(cx, operator, Arc::new(StepMap(|_, _| None)));
            }
            for series in operator.series_mut() {
                cx.remove_name(series);
            }
            return self.met_at_step(operator, grid);
        }
        let operator = self.vector(argument, place)?;
        let map: Arc<dyn ColumnMap> = match wanted {
            Wanted::StartTimestamp => Arc::new(StepMap(|_, _| None)),
            Wanted::Value | Wanted::Timestamp | Wanted::InfoTimestamp => {
                Arc::new(SampleMap(move |step| grid.time(step) as f64 / 1000.0))
            }
        };
        self.map_and_drop_name(operator, map, grid)
    }

    fn sort(&mut self, span: Span, function: Function, args: &[Plan], place: &Place) -> Built {
        let grid = place.grid;
        let order = match function {
            Function::Sort | Function::SortDesc => {
                Order::Value { descending: function == Function::SortDesc }
            }
            _ => Order::Labels {
                names: args[1..].iter().map(|arg| String::from_utf8_lossy(text(arg)).into_owned()).collect(),
                descending: function == Function::SortByLabelDesc,
            },
        };
        let operator = self.vector(&args[0], place)?;
        let mut sorted = sort(self.cx, operator, grid, &order)?;
        if !grid.instant && grid.n_steps > 0 {
            sorted.notes.add(Annotation::SortInRangeQuery, span);
        }
        Ok(Box::new(sorted))
    }

    fn relabel(&mut self, function: Function, args: &[Plan], place: &Place) -> Built {
        let cx = self.cx;
        let texts: Vec<&[u8]> = args[1..].iter().map(text).collect();
        let symbols = &cx.store.symbols;
        let mut cache: HashMap<Vec<Symbol>, Option<Symbol>> = HashMap::new();
        let (destination, sources, value): (_, Vec<Symbol>, LabelValue<'_>) =
            if function == Function::LabelReplace {
                let [destination, replacement, source, regex] = texts[..] else {
                    return Err(QueryError::execution("label_replace() takes four strings"));
                };
                let replace = LabelReplace::new(destination, replacement, source, regex)
                    .map_err(QueryError::execution)?;
                let sources = vec![symbols.intern(replace.source())];
                let destination = replace.destination().to_owned();
                let value = move |values: &[Symbol]| {
                    let source = symbols.resolve(values[0]);
                    cx.intern_made(replace.longest(source.len()), || replace.value(&source))
                };
                (destination, sources, Box::new(value))
            } else {
                let [destination, separator, sources @ ..] = &texts[..] else {
                    return Err(QueryError::execution("label_join() takes two strings at least"));
                };
                let join = LabelJoin::new(destination, separator, sources).map_err(QueryError::execution)?;
                let sources = cx.intern_names(join.sources());
                let destination = join.destination().to_owned();
                let value = move |values: &[Symbol]| {
                    let texts: Vec<_> = values.iter().map(|&value| symbols.resolve(value)).collect();
                    let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
                    let source_bytes = texts.iter().map(|text| text.len()).sum();
                    cx.intern_made(join.length(source_bytes), || Some(join.value(&texts)))
                };
                (destination, sources, Box::new(value))
            };
        let is_name = destination == METRIC_NAME;
        let destination = symbols.intern(&destination);
        let mut operator = self.vector(&args[0], place)?;
        for (at, series) in operator.series_mut().iter_mut().enumerate() {
            if at % 1000 == 999 {
                cx.charge_labels()?;
            }
            let labels = cx.label_sets.get(series.labels);
            let values: Vec<Symbol> =
                sources.iter().map(|&source| super::labels::value_of(&labels, source)).collect();
            let new = match cache.entry(values) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(vacant) => {
                    let new = value(vacant.key())?;
                    *vacant.insert(new)
                }
            };
            let Some(new) = new else { continue };
            series.labels = cx.label_sets.with(symbols, series.labels, destination, new);
            if is_name {
                series.drop_name = false;
            }
        }
        merged(cx, operator, place.grid, Collision::Relabelled)
    }

    fn histograms(&mut self, function: Function, args: &[Plan], place: &Place) -> Built {
        let (cx, grid) = (self.cx, place.grid);
        // Of the scalars before the vector and behind it, and of the quantiles themselves.
        let (mut before, mut behind, mut own) = <(Annotations, Annotations, Annotations)>::default();
        let (question, vector) = match function {
            Function::HistogramFraction => {
                let (lower, upper) = (self.scalar(&args[0], place)?, self.scalar(&args[1], place)?);
                before.merge(lower.notes);
                before.merge(upper.notes);
                (Question::Fraction { lower: lower.values, upper: upper.values }, &args[2])
            }
            Function::HistogramQuantile => {
                let quantiles = self.scalar(&args[0], place)?;
                before.merge(quantiles.notes);
                note_quantiles(&[(&quantiles.values, args[0].span)], &mut own);
                (Question::Quantile(quantiles.values), &args[1])
            }
            _ => {
                let mut columns = Vec::new();
                for argument in &args[2..] {
                    let column = self.scalar(argument, place)?;
                    behind.merge(column.notes);
                    columns.push((column.values, argument.span));
                }
                let spanned: Vec<_> = columns.iter().map(|(values, span)| (&values[..], *span)).collect();
                note_quantiles(&spanned, &mut own);
                let quantiles = columns.iter().flat_map(|(values, _)| labelled_quantiles(cx, values));
                let quantiles = quantiles.collect();
                let label = cx.store.symbols.intern(&String::from_utf8_lossy(text(&args[1])));
                (Question::Quantiles { label, quantiles }, &args[0])
            }
        };
        let operator = with_notes(self.vector(vector, place)?, before, behind);
        let histograms = Histograms::new(cx, operator, grid, question, vector.span)?;
        let answered = with_notes(Box::new(histograms.answered(cx)?), Annotations::default(), own);
        self.met_at_step(answered, grid)
    }

    fn window_call(&mut self, function: Function, args: &[Plan], place: &Place) -> Built {
        let (cx, grid) = (self.cx, place.grid);
        let unsupported =
            || QueryError::execution(format!("function {:?} is not supported yet", function.name()));
        let at = args.iter().position(|arg| arg.value_type == ValueType::Matrix).ok_or_else(unsupported)?;
        let ranged = match &args[at].kind {
            PlanKind::Range { selector, range_ms } => Ranged::Selector { selector, range_ms: *range_ms },
            PlanKind::Subquery { inner, range_ms, step_ms, time } => {
                Ranged::Subquery { inner, range_ms: *range_ms, step_ms: *step_ms, time: *time }
            }
            _ => return Err(unsupported()),
        };
        let (mut scalars, mut notes) = (Vec::new(), Annotations::default());
        for (i, argument) in args.iter().enumerate() {
            if i != at {
                let scalar = self.scalar(argument, place)?;
                scalars.push(scalar.values);
                notes.merge(scalar.notes);
            }
        }
        let mut spans: Vec<Span> = args.iter().map(|arg| arg.span).collect();
        if matches!(ranged, Ranged::Subquery { .. }) {
            // Prometheus evaluates a subquery before it looks at the call, and loses its place.
            spans[at] = Span::default();
        }
        let span = spans[at];
        let window_function = window_function(function, scalars, &spans).ok_or_else(unsupported)?;
        let call = WindowCall {
            grid,
            time: DataTime::Fixed(0),
            range_ms: 0,
            extension: Extension::None,
            lookback_ms: cx.lookback_ms,
            function: window_function,
            span,
            scope: place.scope.clone(),
            counts_reads: true,
        };
        let operator: Box<dyn Operator> = match ranged {
            Ranged::Selector { selector, range_ms } => {
                check_extension(function, selector.extension)?;
                let call =
                    WindowCall { time: selector.time, range_ms, extension: selector.extension, ..call };
                with_notes(self.range_windows(function, selector, call)?, notes, Annotations::default())
            }
            Ranged::Subquery { inner, range_ms, step_ms, time } => {
                let call = WindowCall { time, range_ms, counts_reads: false, ..call };
                let inner_grid = subquery_grid(&grid, time, range_ms, step_ms);
                let scope = match time {
                    DataTime::Step { offset_ms } => {
                        place.scope.subquery(&grid, &inner_grid, offset_ms, range_ms)
                    }
                    // The first step reads what all steps look at.
                    DataTime::Fixed(_) => place.scope.invariant(grid.n_steps).inside_subquery(),
                };
                // It is evaluated before the other arguments, wherever it stands.
                let operator = self.subquery(inner, inner_grid, scope)?;
                let operator = with_notes(operator, Annotations::default(), notes);
                let mut series = operator.series().to_vec();
                drop_names(cx, function, &mut series);
                Box::new(SubqueryWindows::new(operator, inner_grid, call, series))
            }
        };
        if function == Function::AbsentOverTime {
            let labels = absent_labels(cx, &args[at]);
            return absent(cx, operator, grid, OutSeries { labels, drop_name: true });
        }
        if cx.features.delayed_name_removal {
            return Ok(operator);
        }
        merged(cx, operator, grid, Collision::Ever)
    }

    fn range_windows(&mut self, function: Function, selector: &Selector, call: WindowCall) -> Built {
        let (cx, grid) = (self.cx, call.grid);
        let (before, after) = match call.extension {
            Extension::None => (0, 0),
            Extension::Anchored => (call.lookback_ms, 0),
            Extension::Smoothed => (call.lookback_ms, call.lookback_ms),
        };
        let start_timestamps = cx.features.start_timestamps
            && matches!(function, Function::Rate | Function::Irate | Function::Increase | Function::Resets);
        let select = Select {
            values: !(counts_only(function) && cx.pushdown),
            histograms: if selector.histogram_stats { HistogramNeed::Stats } else { HistogramNeed::Full },
            start_timestamps,
            ..Select::whole(
                &selector.matchers,
                (call.time.at(grid.start) - call.range_ms - before).saturating_add(1),
                call.time.at(grid.end()).saturating_add(after),
            )
        };
        let selected = self.select(&select)?;
        let mut series = self.series_of(&*selected)?;
        drop_names(cx, function, &mut series);
        let source = Windows { call, plans: PlanCache::default(), start_timestamps };
        Ok(Box::new(Leaf::new(cx, selected, source, grid, series)))
    }

    /// The operators below a subquery.
    pub(crate) fn subquery(&mut self, inner: &Plan, grid: Grid, scope: Scope) -> Built {
        if grid.n_steps == 0 {
            let (series, rows) = (Vec::new(), Rows::default());
            return Ok(Box::new(Kept { grid, series, rows, at: 0, notes: Annotations::default() }));
        }
        self.vector(inner, &Place { grid, scope })
    }

    /// The series of a range selector, for a query that asks for nothing else.
    pub(crate) fn select_range(
        &mut self,
        selector: &Selector,
        mint: i64,
        maxt: i64,
    ) -> Result<(Arc<dyn SelectedSeries>, Vec<OutSeries>), QueryError> {
        let select = Select::whole(&selector.matchers, mint, maxt);
        let selected = self.select(&select)?;
        let series = self.series_of(&*selected)?;
        Ok((selected, series))
    }
}

/// The steps at which a subquery is evaluated: multiples of its step, from after the first window's start to the
/// last window's end.
///
/// Source: Prometheus v3.14, `promql/engine.go`, `subqueryTimeRange`.
pub(crate) fn subquery_grid(outer: &Grid, time: DataTime, range_ms: i64, step_ms: i64) -> Grid {
    let before = time.at(outer.start) - range_ms;
    let mut start = step_ms * (before / step_ms);
    if start <= before {
        start += step_ms;
    }
    Grid::new(start, time.at(outer.end()), step_ms)
}

/// Window functions that do not look at values.
pub(crate) const fn counts_only(function: Function) -> bool {
    matches!(
        function,
        Function::CountOverTime
            | Function::PresentOverTime
            | Function::AbsentOverTime
            | Function::TsOfFirstOverTime
            | Function::TsOfLastOverTime
    )
}

/// A scalar out of two.
fn both(mut a: Scalar, b: Scalar, f: impl Fn(f64, f64) -> f64) -> Scalar {
    a.values.iter_mut().zip(b.values).for_each(|(a, b)| *a = f(*a, b));
    a.notes.merge(b.notes);
    a
}

/// Notes quantiles out of range, step by step.
fn note_quantiles(columns: &[(&[f64], Span)], notes: &mut Annotations) {
    // A single column mostly repeats itself.
    let mut noted: Option<u64> = None;
    for step in 0..columns.first().map_or(0, |(values, _)| values.len()) {
        for (values, span) in columns {
            let q = values[step];
            let repeated = columns.len() == 1 && noted == Some(q.to_bits());
            if (q.is_nan() || !(0.0..=1.0).contains(&q)) && !repeated {
                notes.add(Annotation::InvalidQuantile(q), *span);
                noted = Some(q.to_bits());
            }
        }
    }
}

/// The text of a string argument.
fn text(plan: &Plan) -> &[u8] {
    match &plan.kind {
        PlanKind::Text(text) => text,
        _ => &[],
    }
}

/// Window functions make another metric of a series, except those that act like an offset.
fn drop_names(cx: &Cx<'_>, function: Function, series: &mut [OutSeries]) {
    if matches!(function, Function::FirstOverTime | Function::LastOverTime) {
        series.iter_mut().filter(|series| series.drop_name).for_each(|series| cx.remove_name(series));
    } else {
        cx.remove_names(series);
    }
}

/// Not every function can do with samples from outside of its range.
fn check_extension(function: Function, extension: Extension) -> Result<(), QueryError> {
    let (modifier, allowed, names) = match extension {
        Extension::None => return Ok(()),
        Extension::Anchored => (
            "anchored",
            &[Function::Changes, Function::Delta, Function::Increase, Function::Rate, Function::Resets][..],
            "changes, delta, increase, rate, resets",
        ),
        Extension::Smoothed => {
            ("smoothed", &[Function::Delta, Function::Increase, Function::Rate][..], "delta, increase, rate")
        }
    };
    if allowed.contains(&function) {
        return Ok(());
    }
    let name = function.name();
    Err(QueryError::execution(format!(
        "{modifier} modifier can only be used with: {names} - not with {name}"
    )))
}
