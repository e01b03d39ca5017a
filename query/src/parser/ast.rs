//! The syntax tree: what a PromQL expression says, with the place of every node in the text.
//!
//! The tree is plain data. Types are checked before it leaves the parser, so a tree from
//! [`crate::parser::parse_expr`] is well typed. Nesting is bounded by the parser (500), with one exception:
//! chains of binary operators lean to the left and may be as long as the text allows, so whatever walks a tree
//! follows `lhs` in a loop ([`Binary::spine`]) and recurses into everything else.

use super::signatures::Signature;
use chronolith_model::Matcher;

/// Bytes `start..end` of the query text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// From the start of one span to the end of another.
    pub fn to(self, last: Self) -> Self {
        Self { start: self.start, end: last.end }
    }

    /// `line:column` of the start in `text`: lines from 1, columns in bytes from 1, as in Prometheus's errors.
    pub fn position(self, text: &str) -> String {
        if text.is_empty() {
            return "unknown position".to_owned();
        }
        let Some(before) = text.as_bytes().get(..self.start as usize) else {
            return "invalid position".to_owned();
        };
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        let column = match before.iter().rposition(|&b| b == b'\n') {
            Some(line_break) => before.len() - line_break,
            None => before.len() + 1,
        };
        format!("{line}:{column}")
    }
}

/// The type of an expression or argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// One float a step.
    Scalar,
    /// Series with at most one sample a step.
    Vector,
    /// Series with a window of samples a step.
    Matrix,
    /// A literal string.
    String,
}

impl ValueType {
    /// The name the HTTP API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "vector",
            Self::Matrix => "matrix",
            Self::String => "string",
        }
    }

    /// The name the documentation and most errors use.
    pub const fn documented(self) -> &'static str {
        match self {
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            Self::Scalar | Self::String => self.as_str(),
        }
    }
}

/// An expression: what it is and where it stands.
///
/// `Debug` and `Display` both give the text (see the printer).
#[derive(Clone)]
pub struct Expr {
    /// The bytes of the text it was parsed from; modifiers are included.
    pub span: Span,
    /// What it is.
    pub kind: ExprKind,
}

/// The kinds of expressions.
#[derive(Clone)]
pub enum ExprKind {
    /// `sum by (a) (b)`
    Aggregate(Box<Aggregate>),
    /// `a + b`
    Binary(Box<Binary>),
    /// `rate(a[5m])`
    Call(Box<Call>),
    /// `a[5m]`
    Matrix(Box<MatrixSelector>),
    /// `1.5`, `5m`
    Number(NumberLiteral),
    /// `(a)`
    Paren(Box<Expr>),
    /// `"text"`; the bytes need not be UTF-8
    String(Vec<u8>),
    /// `a[1h:5m]`
    Subquery(Box<Subquery>),
    /// `-a`, `+a`; signs of number literals are part of the number
    Unary(Box<Unary>),
    /// `a{b="c"}`
    Vector(Box<VectorSelector>),
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NumberLiteral {
    /// The value; a duration in seconds.
    pub value: f64,
    /// Whether it was written as a duration, and so is printed as one.
    pub is_duration: bool,
}

/// Aggregation operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateOp {
    /// `avg`
    Avg,
    /// `bottomk`
    Bottomk,
    /// `count`
    Count,
    /// `count_values`
    CountValues,
    /// `group`
    Group,
    /// `limitk`
    Limitk,
    /// `limit_ratio`
    LimitRatio,
    /// `max`
    Max,
    /// `min`
    Min,
    /// `quantile`
    Quantile,
    /// `stddev`
    Stddev,
    /// `stdvar`
    Stdvar,
    /// `sum`
    Sum,
    /// `topk`
    Topk,
}

impl AggregateOp {
    /// The operator as PromQL writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Avg => "avg",
            Self::Bottomk => "bottomk",
            Self::Count => "count",
            Self::CountValues => "count_values",
            Self::Group => "group",
            Self::Limitk => "limitk",
            Self::LimitRatio => "limit_ratio",
            Self::Max => "max",
            Self::Min => "min",
            Self::Quantile => "quantile",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::Sum => "sum",
            Self::Topk => "topk",
        }
    }

    /// Whether it takes a parameter before the vector.
    pub const fn takes_parameter(self) -> bool {
        matches!(
            self,
            Self::Bottomk | Self::CountValues | Self::Limitk | Self::LimitRatio | Self::Quantile | Self::Topk
        )
    }

    /// Whether it needs the feature of experimental functions.
    pub const fn is_experimental(self) -> bool {
        matches!(self, Self::Limitk | Self::LimitRatio)
    }
}

/// An aggregation over series.
#[derive(Clone)]
pub struct Aggregate {
    /// The operator.
    pub op: AggregateOp,
    /// What is aggregated: an instant vector.
    pub expr: Expr,
    /// The parameter; there if and only if [`AggregateOp::takes_parameter`]. A string for `count_values`, a
    /// scalar for the others.
    pub param: Option<Expr>,
    /// Label names of `by` or `without`, in the order written.
    pub grouping: Vec<String>,
    /// Whether `grouping` lists the labels to leave out.
    pub without: bool,
}

/// Operators between two expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `^`
    Pow,
    /// `atan2`
    Atan2,
    /// `==`
    Eql,
    /// `!=`
    Neq,
    /// `<`
    Lss,
    /// `<=`
    Lte,
    /// `>`
    Gtr,
    /// `>=`
    Gte,
    /// `</`: keeps the buckets below a bound
    TrimUpper,
    /// `>/`: keeps the buckets above a bound
    TrimLower,
    /// `and`
    And,
    /// `or`
    Or,
    /// `unless`
    Unless,
}

impl BinaryOp {
    /// The operator as PromQL writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Eql => "==",
            Self::Neq => "!=",
            Self::Lss => "<",
            Self::Lte => "<=",
            Self::Gtr => ">",
            Self::Gte => ">=",
            Self::TrimUpper => "</",
            Self::TrimLower => ">/",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }

    /// `==`, `!=`, `<`, `<=`, `>`, `>=`
    pub const fn is_comparison(self) -> bool {
        matches!(self, Self::Eql | Self::Neq | Self::Lss | Self::Lte | Self::Gtr | Self::Gte)
    }

    /// `and`, `or`, `unless`
    pub const fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

/// A binary operation.
pub struct Binary {
    /// The operator.
    pub op: BinaryOp,
    /// Left operand. May begin a very long chain; see [`Binary::spine`].
    pub lhs: Expr,
    /// Right operand.
    pub rhs: Expr,
    /// How series are matched; there if and only if both sides are instant vectors.
    pub matching: Option<VectorMatching>,
    /// Comparison that gives 0 or 1 instead of filtering.
    pub return_bool: bool,
}

impl Binary {
    /// This operation and the operations down its left side, outermost first, and the leftmost operand.
    pub fn spine(&self) -> (Vec<&Self>, &Expr) {
        let mut chain = vec![self];
        let mut first = &self.lhs;
        while let ExprKind::Binary(binary) = &first.kind {
            chain.push(binary);
            first = &binary.lhs;
        }
        (chain, first)
    }
}

/// Copies a chain of operators in a loop.
impl Clone for Binary {
    fn clone(&self) -> Self {
        let (chain, first) = self.spine();
        let mut lhs = first.clone();
        for (depth, link) in chain.iter().enumerate().rev() {
            let copy = Self {
                op: link.op,
                lhs,
                rhs: link.rhs.clone(),
                matching: link.matching.clone(),
                return_bool: link.return_bool,
            };
            if depth == 0 {
                return copy;
            }
            lhs = Expr { span: chain[depth - 1].lhs.span, kind: ExprKind::Binary(Box::new(copy)) };
        }
        unreachable!("a chain has at least one link")
    }
}

/// Frees a chain of operators in a loop.
impl Drop for Binary {
    fn drop(&mut self) {
        let mut next = self.lhs.take();
        while let ExprKind::Binary(binary) = &mut next.kind {
            let lhs = binary.lhs.take();
            next = lhs;
        }
    }
}

/// How many series of one side a series of the other side may meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cardinality {
    /// One on each side.
    #[default]
    OneToOne,
    /// Several on the left: `group_left`.
    ManyToOne,
    /// Several on the right: `group_right`.
    OneToMany,
    /// Set operators.
    ManyToMany,
}

impl Cardinality {
    /// As error texts write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneToOne => "one-to-one",
            Self::ManyToOne => "many-to-one",
            Self::OneToMany => "one-to-many",
            Self::ManyToMany => "many-to-many",
        }
    }
}

/// How the series of two vectors find each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VectorMatching {
    /// How many may meet.
    pub cardinality: Cardinality,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// Whether `labels` must be equal (`on`), or are left out of the comparison (`ignoring`, or none given).
    pub on: bool,
    /// Labels taken from the side with fewer series.
    pub include: Vec<String>,
    /// Value for left series that are missing.
    pub fill_lhs: Option<f64>,
    /// Value for right series that are missing.
    pub fill_rhs: Option<f64>,
}

/// A call of a function.
#[derive(Clone)]
pub struct Call {
    /// The function.
    pub function: &'static Signature,
    /// Arguments as written; optional ones may be missing.
    pub args: Vec<Expr>,
}

/// A sign before an expression that is no number literal.
#[derive(Clone)]
pub struct Unary {
    /// Whether the sign is a minus.
    pub negate: bool,
    /// The operand: a scalar or an instant vector.
    pub expr: Expr,
}

/// What `@` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum At {
    /// No modifier.
    #[default]
    None,
    /// Milliseconds since the epoch.
    Time(i64),
    /// `@ start()`
    Start,
    /// `@ end()`
    End,
}

/// A length of time in a selector: known, or an expression to be computed once the step is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Extent {
    /// Milliseconds (cut, after rounding to nanoseconds). An offset of zero means that there is none, a
    /// subquery step of zero that the default is to be taken.
    Millis(i64),
    /// To be evaluated with [`DurationExpr::evaluate`].
    Expr(Box<DurationExpr>),
}

impl Default for Extent {
    fn default() -> Self {
        Self::Millis(0)
    }
}

impl Extent {
    /// Whether nothing was written.
    pub fn is_none(&self) -> bool {
        *self == Self::Millis(0)
    }

    /// Whether it depends on the times of the query.
    pub fn is_computed(&self) -> bool {
        matches!(self, Self::Expr(_))
    }
}

/// `name{matchers}` with its modifiers.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSelector {
    /// The name before the braces, or empty.
    pub name: String,
    /// All matchers in the order written, the one for `name` last.
    pub matchers: Vec<Matcher>,
    /// `offset`; negative looks forward.
    pub offset: Extent,
    /// `@`
    pub at: At,
    /// The extended range modifier `anchored`.
    pub anchored: bool,
    /// The extended range modifier `smoothed`.
    pub smoothed: bool,
}

/// `selector[range]`. Offset, `@` and extended modifiers are those of the selector.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSelector {
    /// The selector.
    pub selector: VectorSelector,
    /// Where the selector stands, without range and modifiers.
    pub selector_span: Span,
    /// Length of the window.
    pub range: Extent,
}

/// `expr[range:step]` with its modifiers.
#[derive(Clone)]
pub struct Subquery {
    /// What is evaluated: an instant vector.
    pub expr: Expr,
    /// Length of the window.
    pub range: Extent,
    /// Between evaluations; zero for the default.
    pub step: Extent,
    /// `offset`
    pub offset: Extent,
    /// `@`
    pub at: At,
}

/// An expression in place of a duration: `offset (1h / 2)`, `[step() * 2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DurationExpr {
    /// Where it stands.
    pub span: Span,
    /// Whether it stands in parentheses of its own.
    pub wrapped: bool,
    /// What it is.
    pub kind: DurationKind,
}

/// The kinds of duration expressions. All values are seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum DurationKind {
    /// A number or duration.
    Number(NumberLiteral),
    /// `step()`
    Step,
    /// `range()`
    Range,
    /// A sign; plus stands only for parentheses around a number.
    Unary {
        /// Whether the sign is a minus.
        negate: bool,
        /// The operand.
        operand: Box<DurationExpr>,
    },
    /// Two operands.
    Binary {
        /// The operator.
        op: DurationOp,
        /// Left operand.
        lhs: Box<DurationExpr>,
        /// Right operand.
        rhs: Box<DurationExpr>,
    },
}

/// Operators and functions of two durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DurationOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `^`
    Pow,
    /// `min_of(a, b)`
    MinOf,
    /// `max_of(a, b)`
    MaxOf,
}

impl Expr {
    /// The type of the value.
    pub fn value_type(&self) -> ValueType {
        match &self.kind {
            ExprKind::Aggregate(_) | ExprKind::Vector(_) => ValueType::Vector,
            ExprKind::Matrix(_) | ExprKind::Subquery(_) => ValueType::Matrix,
            ExprKind::Number(_) => ValueType::Scalar,
            ExprKind::String(_) => ValueType::String,
            ExprKind::Call(call) => call.function.return_type,
            ExprKind::Paren(inner) => inner.value_type(),
            ExprKind::Unary(unary) => unary.expr.value_type(),
            ExprKind::Binary(binary) => {
                let (chain, first) = binary.spine();
                let scalar = chain.iter().all(|link| link.rhs.value_type() == ValueType::Scalar)
                    && first.value_type() == ValueType::Scalar;
                if scalar { ValueType::Scalar } else { ValueType::Vector }
            }
        }
    }

    /// The expression inside all parentheses around it.
    pub fn unparen(&self) -> &Self {
        let mut expr = self;
        while let ExprKind::Paren(inner) = &expr.kind {
            expr = inner;
        }
        expr
    }

    /// The direct sub-expressions in Prometheus's order: an aggregation's vector goes before its parameter.
    pub fn children(&self) -> Vec<&Self> {
        match &self.kind {
            ExprKind::Aggregate(aggregate) => {
                std::iter::once(&aggregate.expr).chain(&aggregate.param).collect()
            }
            ExprKind::Binary(binary) => vec![&binary.lhs, &binary.rhs],
            ExprKind::Call(call) => call.args.iter().collect(),
            ExprKind::Paren(inner) => vec![inner],
            ExprKind::Subquery(subquery) => vec![&subquery.expr],
            ExprKind::Unary(unary) => vec![&unary.expr],
            ExprKind::Matrix(_) | ExprKind::Number(_) | ExprKind::String(_) | ExprKind::Vector(_) => vec![],
        }
    }

    /// As [`Expr::children`], to change them.
    pub fn children_mut(&mut self) -> Vec<&mut Self> {
        match &mut self.kind {
            ExprKind::Aggregate(aggregate) => {
                std::iter::once(&mut aggregate.expr).chain(&mut aggregate.param).collect()
            }
            ExprKind::Binary(binary) => {
                let Binary { lhs, rhs, .. } = &mut **binary;
                vec![lhs, rhs]
            }
            ExprKind::Call(call) => call.args.iter_mut().collect(),
            ExprKind::Paren(inner) => vec![inner],
            ExprKind::Subquery(subquery) => vec![&mut subquery.expr],
            ExprKind::Unary(unary) => vec![&mut unary.expr],
            ExprKind::Matrix(_) | ExprKind::Number(_) | ExprKind::String(_) | ExprKind::Vector(_) => vec![],
        }
    }

    /// Calls `visit` with this expression and all below it, parents first, in the order of the text; where it
    /// returns false, what is below is left out. Uses no recursion.
    pub fn walk<'e>(&'e self, mut visit: impl FnMut(&'e Self) -> bool) {
        let mut pending = vec![self];
        while let Some(expr) = pending.pop() {
            if visit(expr) {
                pending.extend(expr.children().into_iter().rev());
            }
        }
    }

    /// As [`Expr::walk`], to change what is visited. `visit` may replace the expression; what is below the
    /// replacement is visited next.
    pub fn walk_mut(&mut self, mut visit: impl FnMut(&mut Self) -> bool) {
        let mut pending = vec![self];
        while let Some(expr) = pending.pop() {
            if visit(expr) {
                pending.extend(expr.children_mut().into_iter().rev());
            }
        }
    }

    /// The matchers of every selector, in the order of the text.
    pub fn selectors(&self) -> Vec<&VectorSelector> {
        let mut found = Vec::new();
        self.walk(|expr| {
            match &expr.kind {
                ExprKind::Vector(selector) => found.push(&**selector),
                ExprKind::Matrix(matrix) => found.push(&matrix.selector),
                _ => {}
            }
            true
        });
        found
    }

    /// Takes the expression out and leaves a literal behind.
    pub(crate) fn take(&mut self) -> Self {
        let literal = ExprKind::Number(NumberLiteral { value: 0.0, is_duration: false });
        std::mem::replace(self, Self { span: self.span, kind: literal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_bytes_from_one() {
        assert_eq!(Span { start: 0, end: 1 }.position("abc"), "1:1");
        assert_eq!(Span { start: 4, end: 5 }.position("a\nbcd"), "2:3");
        assert_eq!(Span { start: 1, end: 2 }.position("a\nbcd"), "1:2");
        assert_eq!(Span { start: 9, end: 9 }.position("abc"), "invalid position");
        assert_eq!(Span::default().position(""), "unknown position");
    }

    #[test]
    fn a_long_chain_is_copied_and_dropped_without_recursion() {
        let number = |value| Expr {
            span: Span::default(),
            kind: ExprKind::Number(NumberLiteral { value, is_duration: false }),
        };
        let mut expr = number(0.0);
        for i in 0..200_000 {
            let binary = Binary {
                op: BinaryOp::Add,
                lhs: expr,
                rhs: number(f64::from(i)),
                matching: None,
                return_bool: false,
            };
            expr = Expr { span: Span::default(), kind: ExprKind::Binary(Box::new(binary)) };
        }
        assert_eq!(expr.value_type(), ValueType::Scalar);
        let copy = expr.clone();
        drop(expr);
        let mut n_nodes = 0;
        copy.walk(|_| {
            n_nodes += 1;
            true
        });
        assert_eq!(n_nodes, 400_001);
    }
}
