//! Duration expressions: `offset (1h / 2)`, `[step() * 2]`. They are computed once the step and the range of the
//! query are known.
//!
//! Source: Prometheus v3.14, `promql/durations.go`.

use super::ast::{DurationExpr, DurationKind, DurationOp, Extent};
use crate::functions::seconds;

/// What duration expressions may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurationScope {
    /// `step()`: milliseconds between steps, 0 for an instant query.
    pub step_ms: i64,
    /// `range()`: milliseconds from the first to the last step.
    pub range_ms: i64,
}

impl Extent {
    /// Milliseconds of this extent. Ranges and subquery steps that were written as an expression must be
    /// positive; offsets may be `allow_negative`.
    ///
    /// # Errors
    /// What Prometheus says, with byte offsets in front (`7:12: duration must be greater than 0`).
    pub fn resolve(&self, scope: DurationScope, allow_negative: bool) -> Result<i64, String> {
        match self {
            Self::Millis(ms) => Ok(*ms),
            Self::Expr(expr) => expr.resolve(scope, allow_negative),
        }
    }
}

impl DurationExpr {
    /// Milliseconds, cut.
    ///
    /// # Errors
    /// As [`Extent::resolve`].
    pub fn resolve(&self, scope: DurationScope, allow_negative: bool) -> Result<i64, String> {
        let seconds = self.seconds(scope)?;
        if !seconds.is_finite() {
            return self.fail("duration is NaN or infinite");
        }
        if seconds <= 0.0 && !allow_negative {
            return self.fail("duration must be greater than 0");
        }
        // Prometheus counts nanoseconds in 64 bits.
        let bound = 2f64.powi(63) / 1e9;
        if seconds > bound || seconds < -bound {
            return self.fail("duration is out of range");
        }
        Ok((seconds * 1000.0) as i64)
    }

    fn fail<T>(&self, message: &str) -> Result<T, String> {
        Err(format!("{}:{}: {message}", self.span.start, self.span.end))
    }

    /// Seconds. Recursion is bounded by the parser, which counts each operator as a level.
    fn seconds(&self, scope: DurationScope) -> Result<f64, String> {
        Ok(match &self.kind {
            DurationKind::Number(literal) => literal.value,
            DurationKind::Step => seconds(scope.step_ms),
            DurationKind::Range => seconds(scope.range_ms),
            DurationKind::Unary { negate, operand } => {
                let value = operand.seconds(scope)?;
                if *negate { -value } else { value }
            }
            DurationKind::Binary { op, lhs, rhs } => {
                let (lhs, rhs) = (lhs.seconds(scope)?, rhs.seconds(scope)?);
                match op {
                    DurationOp::Add => lhs + rhs,
                    DurationOp::Sub => lhs - rhs,
                    DurationOp::Mul => lhs * rhs,
                    DurationOp::Div if rhs == 0.0 => return self.fail("division by zero"),
                    DurationOp::Div => lhs / rhs,
                    DurationOp::Mod if rhs == 0.0 => return self.fail("modulo by zero"),
                    DurationOp::Mod => lhs % rhs,
                    DurationOp::Pow => lhs.powf(rhs),
                    // Go's Min and Max carry NaN, Rust's do not.
                    _ if lhs.is_nan() || rhs.is_nan() => f64::NAN,
                    DurationOp::MinOf => lhs.min(rhs),
                    DurationOp::MaxOf => lhs.max(rhs),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::ast::ExprKind;
    use crate::parser::{ParserOptions, parse_expr};

    fn range_of(text: &str) -> Result<i64, String> {
        let expr = parse_expr(text, ParserOptions::ALL).unwrap();
        let scope = DurationScope { step_ms: 60_000, range_ms: 3_600_000 };
        match &expr.kind {
            ExprKind::Matrix(matrix) => matrix.range.resolve(scope, false),
            ExprKind::Vector(selector) => selector.offset.resolve(scope, true),
            _ => panic!("not a selector: {text}"),
        }
    }

    #[test]
    fn durations_are_computed_in_seconds_and_cut_to_milliseconds() {
        let cases = [
            ("a[1h + 30m]", 5_400_000),
            ("a[2 ^ 3 ^ 2 / 8]", 64_000),
            ("a[step() * 2]", 120_000),
            ("a[range() % 1000]", 600_000),
            ("a[min_of(1m, step() + 1)]", 60_000),
            ("a[max_of(1m, step() + 1)]", 61_000),
            ("a[0.0015 * 1]", 1),
            ("a offset (5m - 10m)", -300_000),
            ("a offset -(5m)", -300_000),
            ("a offset -step()", -60_000),
        ];
        for (text, ms) in cases {
            assert_eq!(range_of(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn mistakes_carry_byte_offsets() {
        assert_eq!(range_of("a[5m - 10m]").unwrap_err(), "2:10: duration must be greater than 0");
        assert_eq!(range_of("a[5m / (1 - 1)]").unwrap_err(), "2:13: division by zero");
        assert_eq!(range_of("a[1e9 * 1e9]").unwrap_err(), "2:11: duration is out of range");
    }
}
