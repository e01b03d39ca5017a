//! The expression as it is evaluated: durations known, functions of the query's times folded, steady parts
//! marked.
//!
//! Source: Prometheus v3.14, `promql/engine.go`, `PreprocessExpr` and what it calls, `setOffsetForAtModifier`,
//! `detectHistogramStatsDecoding`; `promql/durations.go`.

use crate::parser::ast::{
    AggregateOp, At, BinaryOp, DurationExpr, DurationKind, DurationOp, Extent, VectorMatching,
};
use crate::parser::{Expr, ExprKind, Function, Span, ValueType};
use chronolith_model::Matcher;
use std::cell::Cell;

/// An expression and where it stands.
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value_type: ValueType,
    pub(super) kind: Kind,
}

/// The kinds of expressions.
pub(super) enum Kind {
    Aggregate {
        op: AggregateOp,
        expr: Box<Node>,
        param: Option<Box<Node>>,
        grouping: Vec<String>,
        without: bool,
    },
    Binary {
        op: BinaryOp,
        lhs: Box<Node>,
        rhs: Box<Node>,
        matching: Option<VectorMatching>,
        return_bool: bool,
    },
    Call {
        function: Function,
        args: Vec<Node>,
    },
    Matrix {
        selector: Selector,
        range_ms: i64,
    },
    Number(f64),
    Paren(Box<Node>),
    String(Vec<u8>),
    Subquery(Box<Subquery>),
    Unary {
        negate: bool,
        expr: Box<Node>,
    },
    Vector(Selector),
    /// Evaluated once, at the first step.
    StepInvariant(Box<Node>),
}

/// What an instant or range selector selects.
pub(super) struct Selector {
    pub(super) matchers: Vec<Matcher>,
    pub(super) time: Time,
    pub(super) anchored: bool,
    pub(super) smoothed: bool,
    /// Histograms come without buckets.
    pub(super) skip_buckets: bool,
}

/// `offset` and `@`.
pub(super) struct Time {
    pub(super) original_offset: i64,
    /// Against the times of the evaluator: `@` is part of it.
    pub(super) offset: Cell<i64>,
    pub(super) timestamp: Option<i64>,
    at: At,
}

pub(super) struct Subquery {
    pub(super) expr: Node,
    pub(super) range_ms: i64,
    /// 0 for the default.
    pub(super) step_ms: i64,
    pub(super) time: Time,
}

/// Times of the query, in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) start: i64,
    pub(super) end: i64,
    /// 0 for an instant query.
    pub(super) step: i64,
}

/// Go's `Duration.Seconds`.
pub(super) fn seconds(ms: i64) -> f64 {
    (ms / 1000) as f64 + (ms % 1000 * 1_000_000) as f64 / 1e9
}

/// The expression, ready to be evaluated.
pub(super) fn prepare(expr: &Expr, frame: Frame) -> Result<Node, String> {
    let mut node = Builder { frame }.node(expr, &mut Vec::new())?;
    let (_, wrap) = invariance(&mut node, frame);
    if wrap {
        wrap_invariant(&mut node);
    }
    set_offsets(frame.start, &node);
    Ok(node)
}

struct Builder {
    frame: Frame,
}

/// What stands above a selector, as far as reading histograms is concerned.
#[derive(Clone, Copy)]
enum Above {
    Subquery,
    Statistics,
    Buckets,
}

impl Builder {
    fn node(&self, expr: &Expr, above: &mut Vec<Above>) -> Result<Node, String> {
        let boxed = |expr: &Expr, above: &mut Vec<Above>| self.node(expr, above).map(Box::new);
        let kind = match &expr.kind {
            ExprKind::Aggregate(aggregate) => {
                // The visitor that computes durations sees the vector before the parameter.
                let inner = boxed(&aggregate.expr, above)?;
                let param = aggregate.param.as_ref().map(|param| boxed(param, above)).transpose()?;
                let mut grouping = aggregate.grouping.clone();
                grouping.sort();
                Kind::Aggregate { op: aggregate.op, expr: inner, param, grouping, without: aggregate.without }
            }
            ExprKind::Binary(binary) => {
                let trims = matches!(binary.op, BinaryOp::TrimLower | BinaryOp::TrimUpper);
                if trims {
                    above.push(Above::Buckets);
                }
                let (lhs, rhs) = (boxed(&binary.lhs, above)?, boxed(&binary.rhs, above)?);
                if trims {
                    above.pop();
                }
                let (matching, return_bool) = (binary.matching.clone(), binary.return_bool);
                Kind::Binary { op: binary.op, lhs, rhs, matching, return_bool }
            }
            ExprKind::Call(call) => {
                let Frame { start, end, step } = self.frame;
                match call.function.function {
                    Function::Start => Kind::Number(start as f64 / 1000.0),
                    Function::End => Kind::Number(end as f64 / 1000.0),
                    Function::Range => Kind::Number(seconds(end - start)),
                    Function::Step => Kind::Number(if start == end { 0.0 } else { seconds(step) }),
                    function => {
                        let above_args = match function {
                            Function::HistogramCount | Function::HistogramSum | Function::HistogramAvg => {
                                Some(Above::Statistics)
                            }
                            Function::HistogramQuantile
                            | Function::HistogramQuantiles
                            | Function::HistogramFraction => Some(Above::Buckets),
                            _ => None,
                        };
                        above.extend(above_args);
                        let args =
                            call.args.iter().map(|arg| self.node(arg, above)).collect::<Result<_, _>>()?;
                        if above_args.is_some() {
                            above.pop();
                        }
                        Kind::Call { function, args }
                    }
                }
            }
            ExprKind::Matrix(matrix) => {
                let range_ms = self.extent(&matrix.range, false);
                let selector = self.selector(&matrix.selector, above);
                Kind::Matrix { range_ms: range_ms?, selector: selector? }
            }
            ExprKind::Number(literal) => Kind::Number(literal.value),
            ExprKind::Paren(inner) => Kind::Paren(boxed(inner, above)?),
            ExprKind::String(bytes) => Kind::String(bytes.clone()),
            ExprKind::Subquery(subquery) => {
                let time = self.time(&subquery.offset, subquery.at)?;
                let step_ms = self.extent(&subquery.step, false)?;
                let range_ms = self.extent(&subquery.range, false)?;
                above.push(Above::Subquery);
                let expr = self.node(&subquery.expr, above)?;
                above.pop();
                Kind::Subquery(Box::new(Subquery { expr, range_ms, step_ms, time }))
            }
            ExprKind::Unary(unary) => Kind::Unary { negate: unary.negate, expr: boxed(&unary.expr, above)? },
            ExprKind::Vector(selector) => Kind::Vector(self.selector(selector, above)?),
        };
        Ok(Node { span: expr.span, value_type: expr.value_type(), kind })
    }

    fn selector(
        &self,
        selector: &crate::parser::ast::VectorSelector,
        above: &[Above],
    ) -> Result<Selector, String> {
        let mut skip_buckets = false;
        for above in above.iter().rev() {
            match above {
                Above::Statistics => skip_buckets = true,
                Above::Subquery | Above::Buckets => {
                    skip_buckets = false;
                    break;
                }
            }
        }
        Ok(Selector {
            matchers: selector.matchers.clone(),
            time: self.time(&selector.offset, selector.at)?,
            anchored: selector.anchored,
            smoothed: selector.smoothed,
            skip_buckets,
        })
    }

    fn time(&self, offset: &Extent, at: At) -> Result<Time, String> {
        let original_offset = self.extent(offset, true)?;
        let timestamp = if let At::Time(timestamp) = at { Some(timestamp) } else { None };
        Ok(Time { original_offset, offset: Cell::new(0), timestamp, at })
    }

    fn extent(&self, extent: &Extent, may_be_negative: bool) -> Result<i64, String> {
        let expr = match extent {
            Extent::Millis(ms) => return Ok(*ms),
            Extent::Expr(expr) => expr,
        };
        let seconds = self.duration(expr)?;
        let fail = |text: &str| Err(format!("{}:{}: {text}", expr.span.start, expr.span.end));
        if !seconds.is_finite() {
            return fail("duration is NaN or infinite");
        }
        if seconds <= 0.0 && !may_be_negative {
            return fail("duration must be greater than 0");
        }
        if seconds.abs() > 9_223_372_036.854_775 {
            return fail("duration is out of range");
        }
        Ok((seconds * 1000.0) as i64)
    }

    fn duration(&self, expr: &DurationExpr) -> Result<f64, String> {
        let fail = |text: &str| Err(format!("{}:{}: {text}", expr.span.start, expr.span.end));
        Ok(match &expr.kind {
            DurationKind::Number(literal) => literal.value,
            DurationKind::Step => seconds(self.frame.step),
            DurationKind::Range => seconds(self.frame.end - self.frame.start),
            DurationKind::Unary { negate: true, operand } => -self.duration(operand)?,
            DurationKind::Unary { negate: false, operand } => self.duration(operand)?,
            DurationKind::Binary { op, lhs, rhs } => {
                let (lhs, rhs) = (self.duration(lhs)?, self.duration(rhs)?);
                match op {
                    DurationOp::Add => lhs + rhs,
                    DurationOp::Sub => lhs - rhs,
                    DurationOp::Mul => lhs * rhs,
                    DurationOp::Div if rhs == 0.0 => return fail("division by zero"),
                    DurationOp::Div => lhs / rhs,
                    DurationOp::Mod if rhs == 0.0 => return fail("modulo by zero"),
                    DurationOp::Mod => lhs % rhs,
                    DurationOp::Pow => lhs.powf(rhs),
                    DurationOp::MinOf => super::go_min(lhs, rhs),
                    DurationOp::MaxOf => super::go_max(lhs, rhs),
                }
            }
        })
    }
}

impl Time {
    fn resolve(&mut self, frame: Frame) {
        match self.at {
            At::Start => self.timestamp = Some(frame.start),
            At::End => self.timestamp = Some(frame.end),
            At::None | At::Time(_) => {}
        }
    }
}

fn wrap_invariant(node: &mut Node) {
    let (span, value_type) = (node.span, node.value_type);
    let inner = Node { span, value_type, kind: std::mem::replace(&mut node.kind, Kind::Number(0.0)) };
    node.kind = Kind::StepInvariant(Box::new(inner));
}

fn unwrap_parens(node: &mut Node) {
    while let Kind::Paren(inner) = &mut node.kind {
        let inner = std::mem::replace(
            &mut **inner,
            Node { span: node.span, value_type: node.value_type, kind: Kind::Number(0.0) },
        );
        *node = inner;
    }
}

/// Functions whose value depends on the time of evaluation even if their arguments do not. A list of its own, not the
/// parser's, so that a mistake in one of the two shows.
const fn depends_on_time(function: Function) -> bool {
    matches!(
        function,
        Function::DaysInMonth
            | Function::DayOfMonth
            | Function::DayOfWeek
            | Function::DayOfYear
            | Function::End
            | Function::Hour
            | Function::Minute
            | Function::Month
            | Function::Year
            | Function::PredictLinear
            | Function::Range
            | Function::Start
            | Function::Step
            | Function::Time
            | Function::Timestamp
    )
}

/// Whether the value is the same at every step, and whether the node is to be wrapped as such. Of an aggregation
/// only the vector counts.
fn invariance(node: &mut Node, frame: Frame) -> (bool, bool) {
    match &mut node.kind {
        Kind::Vector(selector) => {
            selector.time.resolve(frame);
            (selector.time.timestamp.is_some(), selector.time.timestamp.is_some())
        }
        Kind::Aggregate { expr, param, .. } => {
            unwrap_parens(expr);
            if let Some(param) = param {
                unwrap_parens(param);
                // Upstream does not look at parameters: `@ start()` means nothing in them, and other fixed
                // times move on with the steps. We do, and evaluate them at every step all the same.
                invariance(param, frame);
            }
            invariance(expr, frame)
        }
        Kind::Binary { lhs, rhs, .. } => {
            let (lhs_invariant, wrap_lhs) = invariance(lhs, frame);
            let (rhs_invariant, wrap_rhs) = invariance(rhs, frame);
            if lhs_invariant && rhs_invariant {
                return (true, true);
            }
            if wrap_lhs {
                wrap_invariant(lhs);
            }
            if wrap_rhs {
                wrap_invariant(rhs);
            }
            (false, false)
        }
        Kind::Call { function, args } => {
            let mut all = !depends_on_time(*function);
            let mut timestamp = *function == Function::Timestamp;
            let mut wrap = Vec::new();
            for arg in args.iter_mut() {
                unwrap_parens(arg);
                let (invariant, wrap_arg) = invariance(arg, frame);
                wrap.push(wrap_arg);
                all &= invariant;
                timestamp &= invariant && matches!(arg.kind, Kind::Vector(_));
            }
            if all || timestamp {
                return (true, true);
            }
            args.iter_mut().zip(wrap).filter(|(_, wrap)| *wrap).for_each(|(arg, _)| wrap_invariant(arg));
            (false, false)
        }
        Kind::Matrix { selector, .. } => {
            selector.time.resolve(frame);
            (selector.time.timestamp.is_some(), false)
        }
        Kind::Subquery(subquery) => {
            let (invariant, _) = invariance(&mut subquery.expr, frame);
            if invariant {
                wrap_invariant(&mut subquery.expr);
            }
            subquery.time.resolve(frame);
            (subquery.time.timestamp.is_some(), false)
        }
        Kind::Paren(inner) | Kind::Unary { expr: inner, .. } => invariance(inner, frame),
        Kind::String(_) | Kind::Number(_) => (true, false),
        Kind::StepInvariant(_) => unreachable!("nothing is wrapped yet"),
    }
}

impl Node {
    /// Direct children, an aggregation's vector before its parameter.
    pub(super) fn children(&self) -> Vec<&Self> {
        match &self.kind {
            Kind::Aggregate { expr, param, .. } => std::iter::once(&**expr).chain(param.as_deref()).collect(),
            Kind::Binary { lhs, rhs, .. } => vec![lhs, rhs],
            Kind::Call { args, .. } => args.iter().collect(),
            Kind::Paren(inner) | Kind::Unary { expr: inner, .. } | Kind::StepInvariant(inner) => vec![inner],
            Kind::Subquery(subquery) => vec![&subquery.expr],
            Kind::Matrix { .. } | Kind::Number(_) | Kind::String(_) | Kind::Vector(_) => Vec::new(),
        }
    }
}

/// Makes offsets of `@`: an evaluator that begins at `eval_time` then finds the times meant.
pub(super) fn set_offsets(eval_time: i64, node: &Node) {
    fn offset(time: &Time, eval_time: i64, path: &[&Subquery]) -> i64 {
        let Some(timestamp) = time.timestamp else { return time.original_offset };
        let (mut subquery_offset, mut subquery_time) = (0, None);
        for subquery in path {
            subquery_offset += subquery.time.original_offset;
            if let Some(timestamp) = subquery.time.timestamp {
                subquery_offset = subquery.time.original_offset;
                subquery_time = Some(timestamp);
            }
        }
        if let Some(timestamp) = subquery_time {
            subquery_offset += eval_time - timestamp;
        }
        time.original_offset + (eval_time - timestamp) - subquery_offset
    }
    fn visit<'n>(node: &'n Node, eval_time: i64, path: &mut Vec<&'n Subquery>) {
        match &node.kind {
            Kind::Vector(selector) | Kind::Matrix { selector, .. } => {
                selector.time.offset.set(offset(&selector.time, eval_time, path));
            }
            Kind::Subquery(subquery) => {
                subquery.time.offset.set(offset(&subquery.time, eval_time, path));
                path.push(subquery);
                visit(&subquery.expr, eval_time, path);
                path.pop();
                return;
            }
            _ => {}
        }
        for child in node.children() {
            visit(child, eval_time, path);
        }
    }
    visit(node, eval_time, &mut Vec::new());
}
