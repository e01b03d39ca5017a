//! The Gregorian calendar in UTC, without limits on the year: sample values may be any second.
//!
//! Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.

/// A day and what a calendar says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year, astronomical: year 0 is 1 BC.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 is Sunday.
    pub weekday: u8,
    /// 1 to 366.
    pub day_of_year: u16,
}

/// Days of an era of 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;
/// From 1 March of year 0 to 1 January 1970.
const EPOCH_DAYS: i64 = 719_468;

/// The date of a day counted from 1 January 1970.
pub fn date_of(days: i64) -> Date {
    let shifted = i128::from(days) + i128::from(EPOCH_DAYS);
    let era = shifted.div_euclid(i128::from(ERA_DAYS)) as i64;
    let day_of_era = shifted.rem_euclid(i128::from(ERA_DAYS)) as i64;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    // Days since 1 March, so that the leap day is the last of its year.
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u8;
    let month = (if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 }) as u8;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let first_of_month: [u16; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_day = u16::from(month > 2 && is_leap_year(year));
    Date {
        year,
        month,
        day,
        weekday: (i128::from(days) + 4).rem_euclid(7) as u8,
        day_of_year: first_of_month[usize::from(month) - 1] + u16::from(day) + leap_day,
    }
}

/// Whether February has 29 days.
pub fn is_leap_year(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// How many days a month (1 to 12) has.
pub fn days_in_month(year: i64, month: u8) -> u8 {
    match month {
        2 if is_leap_year(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Unix seconds as RFC 3339 in UTC: `2009-11-10T23:00:00Z`.
pub fn format_rfc3339(seconds: i64) -> String {
    let Date { year, month, day, .. } = date_of(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days_have_known_dates() {
        let cases = [
            (0, (1970, 1, 1, 4, 1)),
            (-1, (1969, 12, 31, 3, 365)),
            (11_016, (2000, 2, 29, 2, 60)),
            (11_017, (2000, 3, 1, 3, 61)),
            (19_722, (2023, 12, 31, 0, 365)),
            (20_088, (2024, 12, 31, 2, 366)),
            (-719_528, (0, 1, 1, 6, 1)),
            (2_932_897, (10_000, 1, 1, 6, 1)),
        ];
        for (days, (year, month, day, weekday, day_of_year)) in cases {
            assert_eq!(date_of(days), Date { year, month, day, weekday, day_of_year });
        }
        assert_eq!(format_rfc3339(1_257_894_000), "2009-11-10T23:00:00Z");
        assert_eq!(format_rfc3339(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn days_follow_each_other() {
        let mut before = date_of(-800_000);
        for days in -799_999..-790_000 {
            let date = date_of(days);
            assert_eq!(date.weekday, (before.weekday + 1) % 7);
            if date.day == 1 {
                assert_eq!(before.day, days_in_month(before.year, before.month));
            } else {
                assert_eq!(date.day, before.day + 1);
                assert_eq!(date.day_of_year, before.day_of_year + 1);
            }
            before = date;
        }
    }
}
