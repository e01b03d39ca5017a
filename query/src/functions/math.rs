//! Functions and operators of floats, with Go's results where languages differ.
//!
//! Source: Prometheus v3.14, `promql/functions.go` and `promql/engine.go`, `scalarBinop`; Go 1.24, `math`.

use crate::parser::Function;
use crate::parser::ast::BinaryOp;

/// The function of one float that `function` applies to every sample, if it is one of those.
pub fn unary(function: Function) -> Option<fn(f64) -> f64> {
    Some(match function {
        Function::Abs => f64::abs,
        Function::Ceil => f64::ceil,
        Function::Floor => f64::floor,
        Function::Exp => f64::exp,
        Function::Sqrt => f64::sqrt,
        Function::Ln => f64::ln,
        Function::Log2 => f64::log2,
        Function::Log10 => f64::log10,
        Function::Sin => f64::sin,
        Function::Cos => f64::cos,
        Function::Tan => f64::tan,
        Function::Asin => f64::asin,
        Function::Acos => f64::acos,
        Function::Atan => f64::atan,
        Function::Sinh => f64::sinh,
        Function::Cosh => f64::cosh,
        Function::Tanh => f64::tanh,
        Function::Asinh => asinh,
        Function::Acosh => acosh,
        Function::Atanh => atanh,
        Function::Deg => |value| value * 180.0 / std::f64::consts::PI,
        Function::Rad => |value| value * std::f64::consts::PI / 180.0,
        Function::Sgn => sign,
        _ => return None,
    })
}

fn sign(value: f64) -> f64 {
    if value < 0.0 {
        -1.0
    } else if value > 0.0 {
        1.0
    } else {
        value
    }
}

/// From here on the logarithm of twice the value is the whole result, to the last digit.
const LARGE: f64 = (1_u64 << 28) as f64;

/// Finite for every finite value, which `f64::asinh` is not: it squares.
///
/// Source: Go 1.24, `math/asinh.go`.
fn asinh(value: f64) -> f64 {
    let x = value.abs();
    let result = if x > LARGE {
        x.ln() + std::f64::consts::LN_2
    } else if x > 2.0 {
        (2.0 * x + 1.0 / ((x * x + 1.0).sqrt() + x)).ln()
    } else if x < 1.0 / LARGE {
        x
    } else {
        (x + x * x / (1.0 + (1.0 + x * x).sqrt())).ln_1p()
    };
    result.copysign(value)
}

/// Source: Go 1.24, `math/acosh.go`.
fn acosh(x: f64) -> f64 {
    if x >= LARGE {
        x.ln() + std::f64::consts::LN_2
    } else if x > 2.0 {
        (2.0 * x - 1.0 / (x + (x * x - 1.0).sqrt())).ln()
    } else if x >= 1.0 {
        let t = x - 1.0;
        (t + (2.0 * t + t * t).sqrt()).ln_1p()
    } else {
        f64::NAN
    }
}

/// Source: Go 1.24, `math/atanh.go`.
fn atanh(value: f64) -> f64 {
    let x = value.abs();
    let result = if x > 1.0 {
        return f64::NAN;
    } else if x < 1.0 / LARGE {
        x
    } else if x < 0.5 {
        let double = x + x;
        0.5 * (double + double * x / (1.0 - x)).ln_1p()
    } else {
        0.5 * ((x + x) / (1.0 - x)).ln_1p()
    };
    result.copysign(value)
}

/// `+`, `-`, `*`, `/`, `%`, `^` and `atan2`; `None` for the other operators.
pub fn arithmetic(op: BinaryOp, lhs: f64, rhs: f64) -> Option<f64> {
    Some(match op {
        BinaryOp::Add => lhs + rhs,
        BinaryOp::Sub => lhs - rhs,
        BinaryOp::Mul => lhs * rhs,
        BinaryOp::Div => lhs / rhs,
        BinaryOp::Mod => lhs % rhs,
        BinaryOp::Pow => lhs.powf(rhs),
        BinaryOp::Atan2 => lhs.atan2(rhs),
        _ => return None,
    })
}

/// Whether a comparison holds; `None` for the other operators.
pub fn compare(op: BinaryOp, lhs: f64, rhs: f64) -> Option<bool> {
    Some(match op {
        BinaryOp::Eql => lhs == rhs,
        BinaryOp::Neq => lhs != rhs,
        BinaryOp::Lss => lhs < rhs,
        BinaryOp::Lte => lhs <= rhs,
        BinaryOp::Gtr => lhs > rhs,
        BinaryOp::Gte => lhs >= rhs,
        _ => return None,
    })
}

/// Go's `math.Max`: NaN if either is NaN (but +Inf wins), and 0 is above -0.
pub fn max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { b } else { a }
    } else if a > b {
        a
    } else {
        b
    }
}

/// Go's `math.Min`: NaN if either is NaN (but -Inf wins), and -0 is below 0.
pub fn min(a: f64, b: f64) -> f64 {
    -max(-a, -b)
}

/// `value` moved into `min..=max`. With `max < min` there is no such value; the caller drops the series then.
pub fn clamp(value: f64, lowest: f64, highest: f64) -> f64 {
    max(lowest, min(highest, value))
}

/// `value` rounded to a multiple of `to_nearest`, ties upward.
pub fn round(value: f64, to_nearest: f64) -> f64 {
    // Multiplying by the inverse gives fewer odd last digits than dividing.
    let inverse = 1.0 / to_nearest;
    (value * inverse + 0.5).floor() / inverse
}

/// Go's `int64(value)` on amd64: what does not fit, and NaN, gives the smallest integer.
pub fn go_i64(value: f64) -> i64 {
    let bound = 2f64.powi(63);
    if -bound <= value && value < bound { value as i64 } else { i64::MIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_and_min_carry_nan_and_tell_zeros_apart() {
        assert!(max(f64::NAN, 1.0).is_nan());
        assert!(min(1.0, f64::NAN).is_nan());
        assert_eq!(max(f64::NAN, f64::INFINITY), f64::INFINITY);
        assert_eq!(min(f64::NAN, f64::NEG_INFINITY), f64::NEG_INFINITY);
        assert_eq!(max(-0.0, 0.0).to_bits(), 0.0f64.to_bits());
        assert_eq!(min(0.0, -0.0).to_bits(), (-0.0f64).to_bits());
        assert_eq!(max(1.0, 2.0), 2.0);
        assert_eq!(min(1.0, 2.0), 1.0);
    }

    #[test]
    fn clamp_carries_nan_of_the_value_and_of_the_bounds() {
        assert_eq!(clamp(5.0, 0.0, 3.0), 3.0);
        assert_eq!(clamp(-5.0, 0.0, 3.0), 0.0);
        assert!(clamp(f64::NAN, 0.0, 3.0).is_nan());
        assert!(clamp(1.0, f64::NAN, 3.0).is_nan());
    }

    #[test]
    fn rounding_ties_go_up() {
        assert_eq!(round(2.5, 1.0), 3.0);
        assert_eq!(round(-2.5, 1.0), -2.0);
        assert_eq!(round(7.3, 5.0), 5.0);
        assert_eq!(round(1.25, 0.1), 1.3);
    }

    #[test]
    fn integers_that_do_not_fit_are_the_smallest() {
        assert_eq!(go_i64(3.9), 3);
        assert_eq!(go_i64(-3.9), -3);
        assert_eq!(go_i64(f64::NAN), i64::MIN);
        assert_eq!(go_i64(1e19), i64::MIN);
    }

    #[test]
    fn sign_of_zero_and_nan_is_kept() {
        let sgn = unary(Function::Sgn).unwrap();
        assert_eq!(sgn(-0.0).to_bits(), (-0.0f64).to_bits());
        assert!(sgn(f64::NAN).is_nan());
        assert_eq!(sgn(-3.0), -1.0);
        assert!(unary(Function::Rate).is_none());
    }
}
