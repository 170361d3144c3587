//! The only place that reads the machine's clocks, and how times are written.
//!
//! Everything else gets time as an argument. Times are printed in UTC.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time, for the node and for timers.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the monotonic clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A point in time split into calendar fields, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// Year.
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u64,
    /// 0 to 59.
    pub minute: u64,
    /// 0 to 59.
    pub second: u64,
    /// Nanoseconds.
    pub nanos: u32,
}

impl Calendar {
    /// The calendar fields of a time since 1970 (proleptic Gregorian calendar).
    pub fn from_unix(time: Duration) -> Self {
        let secs = time.as_secs();
        let days = i64::try_from(secs / 86_400).expect("seconds of a u64 fit as days");
        // Days are counted from 1 March of year 0, so that the leap day ends the year.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year,
            month: u32::try_from(month).expect("a month"),
            day: u32::try_from(day).expect("a day"),
            hour: secs / 3_600 % 24,
            minute: secs / 60 % 60,
            second: secs % 60,
            nanos: time.subsec_nanos(),
        }
    }

    /// `2026/11/21 22:00:00.123456`, as log lines begin.
    pub fn log_stamp(&self) -> String {
        format!(
            "{:04}/{:02}/{:02} {:02}:{:02}:{:02}.{:06}",
            self.year,
            self.month,
            self.day,
            self.hour,
            self.minute,
            self.second,
            self.nanos / 1_000
        )
    }

    /// `2026-11-21 19:59:57.54 +0000 UTC`, as the original prints times in status texts.
    pub fn status_stamp(&self) -> String {
        format!(
            "{} {}{} +0000 UTC",
            self.date(),
            self.time(),
            self.fraction()
        )
    }

    /// `2026-11-21T19:59:57.54Z`.
    pub fn rfc3339(&self) -> String {
        format!("{}T{}{}Z", self.date(), self.time(), self.fraction())
    }

    fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    fn time(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second)
    }

    /// The fraction of a second without trailing zeros; empty when there is none.
    fn fraction(&self) -> String {
        if self.nanos == 0 {
            return String::new();
        }
        let digits = format!("{:09}", self.nanos);
        format!(".{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_fields_match_known_dates() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_291_197, "2026-11-21T19:59:57Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (secs, expected) in cases {
            let calendar = Calendar::from_unix(Duration::from_secs(secs));
            assert_eq!(calendar.rfc3339(), expected);
        }
    }

    #[test]
    fn stamps_have_the_original_form() {
        let calendar = Calendar::from_unix(Duration::new(1_795_291_197, 540_000_000));
        assert_eq!(calendar.status_stamp(), "2026-11-21 19:59:57.54 +0000 UTC");
        assert_eq!(calendar.log_stamp(), "2026/11/21 19:59:57.540000");
    }
}
