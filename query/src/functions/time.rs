//! What the calendar says of a time in unix seconds, in UTC.
//!
//! Source: Prometheus v3.14, `promql/functions.go`, `dateWrapper`.

use crate::calendar::{date_of, days_in_month};
use crate::parser::Function;

/// The function of unix seconds that `function` stands for, if it is one of the calendar.
pub fn calendar(function: Function) -> Option<fn(i64) -> f64> {
    Some(match function {
        Function::Minute => |seconds| (seconds.rem_euclid(3600) / 60) as f64,
        Function::Hour => |seconds| (seconds.rem_euclid(86_400) / 3600) as f64,
        Function::DayOfWeek => |seconds| f64::from(date(seconds).weekday),
        Function::DayOfMonth => |seconds| f64::from(date(seconds).day),
        Function::DayOfYear => |seconds| f64::from(date(seconds).day_of_year),
        Function::DaysInMonth => |seconds| {
            let date = date(seconds);
            f64::from(days_in_month(date.year, date.month))
        },
        Function::Month => |seconds| f64::from(date(seconds).month),
        Function::Year => |seconds| date(seconds).year as f64,
        _ => return None,
    })
}

fn date(seconds: i64) -> crate::calendar::Date {
    date_of(seconds.div_euclid(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_time_has_known_parts() {
        // 2008-12-31T23:59:59Z, a Wednesday.
        let seconds = 1_230_767_999;
        let cases = [
            (Function::Minute, 59.0),
            (Function::Hour, 23.0),
            (Function::DayOfWeek, 3.0),
            (Function::DayOfMonth, 31.0),
            (Function::DayOfYear, 366.0),
            (Function::DaysInMonth, 31.0),
            (Function::Month, 12.0),
            (Function::Year, 2008.0),
        ];
        for (function, value) in cases {
            assert_eq!(calendar(function).unwrap()(seconds), value, "{}", function.name());
        }
    }

    #[test]
    fn times_before_the_epoch_and_extreme_times_have_parts_too() {
        assert_eq!(calendar(Function::Hour).unwrap()(-1), 23.0);
        assert_eq!(calendar(Function::Year).unwrap()(-1), 1969.0);
        for function in [Function::Year, Function::DayOfYear, Function::DaysInMonth, Function::Minute] {
            for seconds in [i64::MIN, i64::MAX] {
                assert!(calendar(function).unwrap()(seconds).is_finite());
            }
        }
    }
}
