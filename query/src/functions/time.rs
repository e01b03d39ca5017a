//! What the calendar says of a time in unix seconds, in UTC.
//!
//! Source: Prometheus v3.14, `promql/functions.go`, `dateWrapper`.

use crate::calendar::{date_of, days_in_month};
use crate::parser::Function;

/// The function of unix seconds that `function` stands for, if it is one of the calendar.
pub fn calendar(function: Function) -> Option<fn(i64) -> f64> {
    Some(match function {
        Function::Minute => |seconds| (split(seconds).1 / 60 % 60) as f64,
        Function::Hour => |seconds| (split(seconds).1 / 3600) as f64,
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
    date_of(split(seconds).0)
}

/// Days from the beginning of Go's calendar, some 292 thousand million years ago, to 1970.
const GO_CALENDAR_DAYS: i64 = 106_751_991_073_400;

/// The day, counted from 1970, and the second of the day. Go counts unsigned from the beginning of its calendar,
/// so the smallest integers, which stand for infinity and NaN too, come out at its far end.
fn split(seconds: i64) -> (i64, u64) {
    let since_beginning = seconds.wrapping_add(GO_CALENDAR_DAYS * 86_400) as u64;
    ((since_beginning / 86_400) as i64 - GO_CALENDAR_DAYS, since_beginning % 86_400)
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
        // As Go says of NaN and of infinity.
        assert_eq!(calendar(Function::Hour).unwrap()(i64::MIN), 15.0);
        for function in [Function::Year, Function::DayOfYear, Function::DaysInMonth, Function::Minute] {
            for seconds in [i64::MIN, i64::MAX] {
                assert!(calendar(function).unwrap()(seconds).is_finite());
            }
        }
    }
}
