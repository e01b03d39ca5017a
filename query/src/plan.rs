//! The plan of a query: what the text asks for, with times, literals and parts that do not depend on the step
//! worked out. One can look at it: `Display` prints it, a line a node.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `PreprocessExpr` and `setOffsetForAtModifier`.

mod explain;
pub(crate) mod reach;
pub(crate) mod repeats;

use crate::error::QueryError;
use crate::functions::Extension;
use crate::limits::{MAX_DEPTH, MAX_TIME_MS};
use crate::parser::ast::{
    Aggregate, AggregateOp, At, Binary, BinaryOp, Call, Extent, MatrixSelector, Subquery, VectorMatching,
    VectorSelector,
};
use crate::parser::durations::DurationScope;
use crate::parser::{Expr, ExprKind, Function, Span, ValueType};
use chronolith_model::queryable::Projection;
use chronolith_model::{METRIC_NAME, Matcher};

/// Times that are fixed for a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Zero for an instant query.
    pub(crate) interval_ms: i64,
    pub(crate) default_subquery_step_ms: i64,
}

/// Where the data of a selector lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataTime {
    /// At the step less an offset.
    Step { offset_ms: i64 },
    /// At one time for all steps: `@`, the offset taken off.
    Fixed(i64),
}

impl DataTime {
    /// The time of the data that the step at `time` looks at.
    pub(crate) fn at(self, time: i64) -> i64 {
        match self {
            Self::Step { offset_ms } => time.saturating_sub(offset_ms),
            Self::Fixed(at) => at,
        }
    }
}

/// A part of a query.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Where it stands, without parentheses around it.
    pub(crate) span: Span,
    pub(crate) value_type: ValueType,
    pub(crate) kind: PlanKind,
}

#[derive(Clone)]
pub(crate) enum PlanKind {
    Number(f64),
    Text(Vec<u8>),
    /// An instant selector.
    Select(Selector),
    /// A range selector.
    Range {
        selector: Selector,
        range_ms: i64,
    },
    Subquery {
        inner: Box<Plan>,
        range_ms: i64,
        step_ms: i64,
        time: DataTime,
    },
    Call {
        function: Function,
        args: Vec<Plan>,
    },
    Aggregate {
        op: AggregateOp,
        inner: Box<Plan>,
        param: Option<Box<Plan>>,
        grouping: Vec<String>,
        without: bool,
    },
    Binary {
        op: BinaryOp,
        lhs: Box<Plan>,
        rhs: Box<Plan>,
        matching: Option<VectorMatching>,
        return_bool: bool,
    },
    Negate(Box<Plan>),
    /// Changes nothing, but has a place of its own, and what is below it is no selector to what is above.
    Plus(Box<Plan>),
    /// The same at every step: evaluated at the first one.
    Invariant(Box<Plan>),
}

impl Plan {
    /// The selector, if this is one.
    pub(crate) fn selector(&self) -> Option<&Selector> {
        match &self.kind {
            PlanKind::Select(selector) | PlanKind::Range { selector, .. } => Some(selector),
            PlanKind::Invariant(inner) => inner.selector(),
            _ => None,
        }
    }

    /// Notes that what is above does not look at values. Only selectors gain; their histograms are read all the
    /// same, because statistics count their size.
    fn want_presence(&mut self) {
        if let PlanKind::Select(selector) = &mut self.kind {
            selector.presence = selector.extension == Extension::None;
        }
    }

    /// Notes that what is above only counts series, by some of their labels. Each series still is a row of its own, and
    /// nothing else is asked of them: rows of an instant selector need no labels to be found, cannot become equal, and
    /// give no annotation that names a metric.
    fn want_labels(&mut self, grouping: &[String], without: bool) {
        if let PlanKind::Select(selector) = &mut self.kind
            && selector.presence
        {
            selector.labels = match without {
                true => {
                    LabelNeed::Without(grouping.iter().cloned().chain([METRIC_NAME.to_owned()]).collect())
                }
                false => LabelNeed::Only(grouping.to_vec()),
            };
        }
    }
}

/// Which samples a selector reads.
#[derive(Clone)]
pub(crate) struct Selector {
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) time: DataTime,
    /// What `@` says, without the offset.
    pub(crate) at: Option<i64>,
    pub(crate) extension: Extension,
    /// Where the selector stands.
    pub(crate) span: Span,
    /// Whether count, sum and hints of histograms are enough.
    pub(crate) histogram_stats: bool,
    /// Whether it is enough to know that there is a sample, whatever its value.
    pub(crate) presence: bool,
    pub(crate) labels: LabelNeed,
}

/// The labels that are looked at of the series of a selector.
#[derive(Clone, Debug, Default)]
pub(crate) enum LabelNeed {
    #[default]
    All,
    /// Those of these names.
    Only(Vec<String>),
    /// All but those.
    Without(Vec<String>),
}

impl LabelNeed {
    pub(crate) fn projection(&self) -> Projection<'_> {
        match self {
            Self::All => Projection::All,
            Self::Only(names) => Projection::Only(names),
            Self::Without(names) => Projection::Without(names),
        }
    }
}

/// A plan and how it may be wrapped.
struct Prepared {
    plan: Plan,
    /// It is the same at every step.
    invariant: bool,
    /// It gains from being evaluated once: not literals and ranges.
    wrap: bool,
}

impl Prepared {
    fn wrapped(self) -> Plan {
        if self.wrap { invariant(self.plan) } else { self.plan }
    }
}

fn invariant(plan: Plan) -> Plan {
    Plan { span: plan.span, value_type: plan.value_type, kind: PlanKind::Invariant(Box::new(plan)) }
}

/// The plan of an expression.
///
/// # Errors
/// [`QueryError::Parse`] if a duration expression has no value that can be used, [`QueryError::Execution`] if
/// nesting is too deep.
pub(crate) fn plan(expr: &Expr, times: &Times) -> Result<Plan, QueryError> {
    let planner = Planner { times };
    Ok(planner.prepare(expr, Path::default())?.wrapped())
}

/// What lies above an expression.
#[derive(Clone, Copy, Default)]
struct Path {
    depth: usize,
    /// A function that needs only count and sum of histograms.
    histogram_stats: bool,
    /// Something that needs whole histograms: a quantile, a trim, a subquery.
    histogram_buckets: bool,
}

struct Planner<'p> {
    times: &'p Times,
}

impl Planner<'_> {
    fn prepare(&self, expr: &Expr, mut path: Path) -> Result<Prepared, QueryError> {
        path.depth += 1;
        if path.depth > MAX_DEPTH {
            return Err(QueryError::execution("expression is nested too deeply to be evaluated"));
        }
        let leaf = |kind, invariant, wrap| {
            let plan = Plan { span: expr.span, value_type: expr.value_type(), kind };
            Ok(Prepared { plan, invariant, wrap })
        };
        match &expr.kind {
            ExprKind::Number(number) => leaf(PlanKind::Number(number.value), true, false),
            ExprKind::String(text) => leaf(PlanKind::Text(text.clone()), true, false),
            ExprKind::Paren(inner) => self.prepare(inner, path),
            ExprKind::Vector(selector) => {
                let fixed = selector.at != At::None;
                leaf(PlanKind::Select(self.selector(selector, expr.span, path)?), fixed, fixed)
            }
            ExprKind::Matrix(matrix) => {
                let fixed = matrix.selector.at != At::None;
                leaf(self.range(matrix, path)?, fixed, false)
            }
            ExprKind::Subquery(subquery) => {
                leaf(self.subquery(subquery, path)?, subquery.at != At::None, false)
            }
            ExprKind::Unary(unary) => {
                let inner = self.prepare(&unary.expr, path)?;
                let Prepared { plan, invariant, wrap } = inner;
                let value_type = plan.value_type;
                let kind = match (plan.kind, unary.negate) {
                    (PlanKind::Number(value), true) => PlanKind::Number(-value),
                    (PlanKind::Number(value), false) => PlanKind::Number(value),
                    (kind, true) => PlanKind::Negate(Box::new(Plan { kind, ..plan })),
                    (kind, false) => PlanKind::Plus(Box::new(Plan { kind, ..plan })),
                };
                Ok(Prepared { plan: Plan { span: expr.span, value_type, kind }, invariant, wrap })
            }
            ExprKind::Aggregate(aggregate) => self.aggregate(expr, aggregate, path),
            ExprKind::Call(call) => self.call(expr, call, path),
            ExprKind::Binary(binary) => self.binary(expr, binary, path),
        }
    }

    fn aggregate(&self, expr: &Expr, aggregate: &Aggregate, path: Path) -> Result<Prepared, QueryError> {
        let Prepared { plan: mut inner, invariant, wrap } = self.prepare(&aggregate.expr, path)?;
        if matches!(aggregate.op, AggregateOp::Count | AggregateOp::Group) {
            inner.want_presence();
            inner.want_labels(&aggregate.grouping, aggregate.without);
        }
        // Whether the whole is invariant is asked of its vector alone.
        let param = match &aggregate.param {
            Some(param) => Some(Box::new(self.prepare(param, path)?.plan)),
            None => None,
        };
        let kind = PlanKind::Aggregate {
            op: aggregate.op,
            inner: Box::new(inner),
            param,
            grouping: aggregate.grouping.clone(),
            without: aggregate.without,
        };
        Ok(Prepared { plan: Plan { span: expr.span, value_type: ValueType::Vector, kind }, invariant, wrap })
    }

    fn call(&self, expr: &Expr, call: &Call, mut path: Path) -> Result<Prepared, QueryError> {
        let function = call.function.function;
        let value_type = call.function.return_type;
        if let Some(value) = self.literal(function) {
            let plan = Plan { span: expr.span, value_type, kind: PlanKind::Number(value) };
            return Ok(Prepared { plan, invariant: true, wrap: false });
        }
        match function {
            Function::HistogramCount | Function::HistogramSum | Function::HistogramAvg => {
                path.histogram_stats = true;
            }
            Function::HistogramQuantile | Function::HistogramQuantiles | Function::HistogramFraction => {
                path.histogram_buckets = true;
            }
            _ => {}
        }
        let mut args: Vec<Prepared> =
            call.args.iter().map(|arg| self.prepare(arg, path)).collect::<Result<_, _>>()?;
        if function == Function::Absent {
            args.iter_mut().for_each(|arg| arg.plan.want_presence());
        }
        let all_invariant = args.iter().all(|arg| arg.invariant);
        let timestamp_of_selector = function == Function::Timestamp
            && args.iter().all(|arg| matches!(arg.plan.kind, PlanKind::Select(_)));
        let invariant = all_invariant && (!function.depends_on_time() || timestamp_of_selector);
        let args = args.into_iter().map(|arg| if invariant { arg.plan } else { arg.wrapped() }).collect();
        let plan = Plan { span: expr.span, value_type, kind: PlanKind::Call { function, args } };
        Ok(Prepared { plan, invariant, wrap: invariant })
    }

    /// The value of functions of the query's own times.
    ///
    /// Source: Prometheus v3.14, `promql/engine.go`, `foldQueryContextFunctions`.
    fn literal(&self, function: Function) -> Option<f64> {
        let Times { start, end, interval_ms, .. } = *self.times;
        match function {
            Function::Start => Some(start as f64 / 1000.0),
            Function::End => Some(end as f64 / 1000.0),
            Function::Range => Some(crate::functions::seconds(end - start)),
            Function::Step if start == end => Some(0.0),
            Function::Step => Some(crate::functions::seconds(interval_ms)),
            _ => None,
        }
    }

    /// A chain of operators, from the left in a loop: it may be long.
    fn binary(&self, expr: &Expr, binary: &Binary, path: Path) -> Result<Prepared, QueryError> {
        let (chain, first) = binary.spine();
        if path.depth + chain.len() > MAX_DEPTH {
            return self.long_chain(&chain, first, expr);
        }
        // A trim anywhere above needs whole histograms; operators further down the chain are below.
        let mut paths = Vec::with_capacity(chain.len());
        let mut below = path;
        for link in &chain {
            below.depth += 1;
            below.histogram_buckets |= matches!(link.op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
            paths.push(below);
        }
        let mut left = self.prepare(first, below)?;
        for (at, link) in chain.iter().enumerate().rev() {
            let span = if at == 0 { expr.span } else { chain[at - 1].lhs.span };
            let right = self.prepare(&link.rhs, paths[at])?;
            left = combine(span, link, left, right);
        }
        Ok(left)
    }

    /// A chain that is too long to be evaluated operator by operator: only numbers can be folded at once.
    fn long_chain(&self, chain: &[&Binary], first: &Expr, expr: &Expr) -> Result<Prepared, QueryError> {
        let mut left = self.prepare(first, Path::default())?;
        for link in chain.iter().rev() {
            let right = self.prepare(&link.rhs, Path::default())?;
            left = combine(expr.span, link, left, right);
            if !matches!(left.plan.kind, PlanKind::Number(_)) {
                return Err(QueryError::execution("expression is too long to be evaluated"));
            }
        }
        Ok(left)
    }

    fn time(&self, at: At, offset: &Extent) -> Result<DataTime, QueryError> {
        let offset_ms = self.millis(offset, true)?;
        Ok(match self.fixed(at) {
            None => DataTime::Step { offset_ms },
            Some(at) => DataTime::Fixed(at.saturating_sub(offset_ms)),
        })
    }

    /// The time that `@` says.
    fn fixed(&self, at: At) -> Option<i64> {
        match at {
            At::None => None,
            // There is no data beyond, so nothing changes by coming nearer.
            At::Time(at) => Some(at.clamp(-MAX_TIME_MS, MAX_TIME_MS)),
            At::Start => Some(self.times.start),
            At::End => Some(self.times.end),
        }
    }

    fn millis(&self, extent: &Extent, may_be_negative: bool) -> Result<i64, QueryError> {
        let Times { start, end, interval_ms, .. } = *self.times;
        let scope = DurationScope { step_ms: interval_ms, range_ms: end - start };
        extent.resolve(scope, may_be_negative).map_err(QueryError::Parse)
    }

    fn selector(&self, selector: &VectorSelector, span: Span, path: Path) -> Result<Selector, QueryError> {
        Ok(Selector {
            matchers: selector.matchers.clone(),
            time: self.time(selector.at, &selector.offset)?,
            at: self.fixed(selector.at),
            span,
            extension: match (selector.anchored, selector.smoothed) {
                (true, _) => Extension::Anchored,
                (_, true) => Extension::Smoothed,
                (false, false) => Extension::None,
            },
            histogram_stats: path.histogram_stats && !path.histogram_buckets,
            presence: false,
            labels: LabelNeed::All,
        })
    }

    fn range(&self, matrix: &MatrixSelector, path: Path) -> Result<PlanKind, QueryError> {
        let selector = self.selector(&matrix.selector, matrix.selector_span, path)?;
        Ok(PlanKind::Range { selector, range_ms: self.millis(&matrix.range, false)? })
    }

    fn subquery(&self, subquery: &Subquery, mut path: Path) -> Result<PlanKind, QueryError> {
        path.histogram_buckets = true;
        let inner = self.prepare(&subquery.expr, path)?;
        let inner = if inner.invariant { invariant(inner.plan) } else { inner.plan };
        let step_ms = match self.millis(&subquery.step, false)? {
            0 => self.times.default_subquery_step_ms,
            step_ms => step_ms,
        };
        Ok(PlanKind::Subquery {
            inner: Box::new(inner),
            range_ms: self.millis(&subquery.range, false)?,
            step_ms: step_ms.max(1),
            time: self.time(subquery.at, &subquery.offset)?,
        })
    }
}

fn combine(span: Span, link: &Binary, lhs: Prepared, mut rhs: Prepared) -> Prepared {
    if matches!(link.op, BinaryOp::And | BinaryOp::Unless) {
        rhs.plan.want_presence();
    }
    let scalar = lhs.plan.value_type == ValueType::Scalar && rhs.plan.value_type == ValueType::Scalar;
    let value_type = if scalar { ValueType::Scalar } else { ValueType::Vector };
    if let (&PlanKind::Number(a), &PlanKind::Number(b)) = (&lhs.plan.kind, &rhs.plan.kind) {
        let kind = PlanKind::Number(crate::eval::maps::scalar_binary(link.op, a, b));
        return Prepared { plan: Plan { span, value_type, kind }, invariant: true, wrap: false };
    }
    let invariant = lhs.invariant && rhs.invariant;
    let side = |side: Prepared| Box::new(if invariant { side.plan } else { side.wrapped() });
    let kind = PlanKind::Binary {
        op: link.op,
        lhs: side(lhs),
        rhs: side(rhs),
        matching: link.matching.clone(),
        return_bool: link.return_bool,
    };
    Prepared { plan: Plan { span, value_type, kind }, invariant, wrap: invariant }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_is_enough_where_values_are_not_looked_at() {
        let times = Times { start: 0, end: 60_000, interval_ms: 15_000, default_subquery_step_ms: 60_000 };
        let selectors = |text: &str| -> Vec<bool> {
            let expr = crate::parser::parse_expr(text, crate::parser::ParserOptions::ALL).expect("it parses");
            let plan = plan(&expr, &times).expect("it can be planned").to_string();
            let lines = plan.lines().filter(|line| line.contains("select "));
            lines.map(|line| line.ends_with(" presence")).collect()
        };
        for text in ["count(a)", "group by (x) (a @ 5)", "count((a))", "absent(a)", "absent(a @ end())"] {
            assert_eq!(selectors(text), [true], "{text}");
        }
        for text in ["sum(a)", "count(-a)", "count(a > 0)", "count_values(\"x\", a)", "a", "limitk(1, a)"] {
            assert_eq!(selectors(text), [false], "{text}");
        }
        assert_eq!(selectors("a and b unless on() c"), [false, true, true]);
        assert_eq!(selectors("a or b"), [false, false]);
        assert_eq!(selectors("a and (b > 0)"), [false, false]);
    }

    #[test]
    fn labels_are_dropped_only_where_series_are_counted() {
        let times = Times { start: 0, end: 60_000, interval_ms: 15_000, default_subquery_step_ms: 60_000 };
        let needs = |text: &str| -> Vec<String> {
            let expr = crate::parser::parse_expr(text, crate::parser::ParserOptions::ALL).expect("it parses");
            let plan = plan(&expr, &times).expect("it can be planned");
            let mut needs = Vec::new();
            plan.walk(&mut |part| needs.extend(part.own_selector().map(|s| format!("{:?}", s.labels))));
            needs
        };
        assert_eq!(needs("count(a)"), ["Only([])"]);
        assert_eq!(needs("group by (x, y) (a @ 5)"), ["Only([\"x\", \"y\"])"]);
        assert_eq!(needs("count without (x) (a)"), ["Without([\"x\", \"__name__\"])"]);
        for text in ["sum(a)", "count(-a)", "count(a smoothed)", "a and b", "absent(a)", "topk(1, a)"] {
            assert!(needs(text).iter().all(|need| need == "All"), "{text}");
        }
    }
}
