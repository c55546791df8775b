//! Times as events carry them: RFC 3339 in UTC.
use jiff::{Timestamp, fmt::temporal::DateTimeParser};

/// Reads RFC 3339 with an offset or `Z`. The result prints with as many fractional digits as needed (up to nanoseconds).
pub fn parse_time(text: &str) -> Option<Timestamp> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    // jiff also takes a bracketed time zone and bare dates, which RFC 3339 does not have.
    let plausible = (20..=40).contains(&text.len()) && text.as_bytes()[4] == b'-' && !text.ends_with(']');
    if !plausible {
        return None;
    }
    PARSER.parse_timestamp(text).ok()
}

/// RFC 3339 in UTC with nine digits of a second: of one length, so that the order of texts is the order of times.
pub(crate) fn canonical(time: Timestamp) -> String {
    format!("{time:.9}")
}

/// The same of a time that [`format_millis`] wrote.
pub fn lengthened(millis: &str) -> String {
    millis.strip_suffix('Z').map_or_else(|| millis.to_owned(), |text| format!("{text}000000Z"))
}

/// Seconds or milliseconds since 1970, told apart by size: below 10^11 (the year 5138) they are seconds.
pub(crate) fn from_number(number: f64) -> Option<Timestamp> {
    if !(0.0..1e14).contains(&number) {
        return None;
    }
    let micros = if number < 1e11 { number * 1e6 } else { number * 1e3 };
    Timestamp::from_microsecond(micros.round() as i64).ok()
}

/// RFC 3339 with milliseconds, of milliseconds since 1970: what the sidecar writes itself.
pub fn format_millis(millis: u64) -> String {
    // The civil date of a day number: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let (days, rest) = ((millis / 86_400_000) as i64 + 719_468, millis % 86_400_000);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, digits: usize, mut number: u64| {
        for place in (at..at + digits).rev() {
            out[place] = b'0' + (number % 10) as u8;
            number /= 10;
        }
    };
    put(0, 4, year.unsigned_abs());
    put(5, 2, month.unsigned_abs());
    put(8, 2, day.unsigned_abs());
    put(11, 2, rest / 3_600_000);
    put(14, 2, rest / 60_000 % 60);
    put(17, 2, rest / 1000 % 60);
    put(20, 3, rest % 1000);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_told_from_what_only_looks_like_one() {
        for (text, shown) in [
            ("2026-03-01T10:00:00Z", "2026-03-01T10:00:00Z"),
            ("2026-03-01T12:00:00.120+02:00", "2026-03-01T10:00:00.12Z"),
            ("2026-03-01t10:00:00.123456789z", "2026-03-01T10:00:00.123456789Z"),
        ] {
            assert_eq!(parse_time(text).unwrap().to_string(), shown);
        }
        for text in
            ["", "2026-03-01", "yesterday at some time", "2026-13-01T10:00:00Z", "2026-03-01T10:00:00", "10:00:00Z2026-03-01xx"]
        {
            assert!(parse_time(text).is_none(), "{text}");
        }
    }

    #[test]
    fn numbers_are_seconds_or_milliseconds() {
        assert_eq!(from_number(1_772_359_200.5).unwrap().to_string(), "2026-03-01T10:00:00.5Z");
        assert_eq!(from_number(1_772_359_200_123.0).unwrap().to_string(), "2026-03-01T10:00:00.123Z");
        assert!(from_number(-1.0).is_none() && from_number(1e15).is_none());
    }

    proptest! {
        #[test]
        fn what_the_sidecar_writes_is_the_time_it_was_given(millis in 0u64..253_402_300_799_999) {
            let shown = format_millis(millis);
            prop_assert_eq!(parse_time(&shown).unwrap().as_millisecond(), millis as i64);
            prop_assert_eq!(shown.len(), 24);
        }
    }
}
