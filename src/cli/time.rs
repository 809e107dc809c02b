//! Points in time as people write them.

use crate::model::{Timestamp, escaped};
use anyhow::Context;

/// Seconds of the units of an age; a month is 30 days and a year 365.
const UNITS: [(&str, i64); 7] =
    [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800), ("M", 30 * 86_400), ("y", 365 * 86_400)];

/// Reads `2026-01-31`, `2026-01-31 12:00[:00]` (local time), `2026-01-31T12:00:00+01:00`, `@SECONDS[.FRACTION]` since 1970, or an
/// age before `now`: `30d`, `1w2d`, `12h`.
///
/// # Errors
/// What was expected instead.
pub fn parse_time(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    let is_age = text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_alphabetic());
    if is_age && let Some(age) = age_seconds(text) {
        let sec = age.and_then(|age| now.sec.checked_sub(age));
        return Ok(Timestamp {
            sec: sec.with_context(|| format!("'{}' is too long ago", escaped(text.as_bytes())))?,
            ..now
        });
    }
    if let Some(seconds) = text.strip_prefix('@') {
        let (sec, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
        let digits = fraction.len() <= 9 && fraction.bytes().all(|b| b.is_ascii_digit());
        let ns = digits.then(|| format!("{fraction:0<9}").parse().ok()).flatten();
        let time = sec.parse().ok().zip(ns).map(|(sec, ns)| Timestamp { sec, ns });
        return time.with_context(|| format!("'{}': no number of seconds", escaped(text.as_bytes())));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(of_jiff(time));
    }
    let local: jiff::civil::DateTime = text.parse().ok().with_context(|| {
        format!(
            "'{}' is no time: write 2026-01-31, '2026-01-31 12:00', 2026-01-31T12:00:00Z, @1769860800 or an age like 30d \
             (s, m for minutes, h, d, w, M for months, y)",
            escaped(text.as_bytes())
        )
    })?;
    let zone =
        jiff::tz::TimeZone::try_system().context("the local time zone is not known: give the time with its offset")?;
    let time = local.to_zoned(zone).with_context(|| format!("'{}'", escaped(text.as_bytes())))?;
    Ok(of_jiff(time.timestamp()))
}

fn of_jiff(time: jiff::Timestamp) -> Timestamp {
    // The fraction of a time before 1970 is negative there.
    let ns = i64::from(time.subsec_nanosecond());
    let below = i64::from(ns < 0);
    Timestamp { sec: time.as_second() - below, ns: u32::try_from(ns + below * 1_000_000_000).unwrap_or_default() }
}

/// The seconds of `1w2d` and the like; the inner none if they are too many, the outer if it is no age.
fn age_seconds(text: &str) -> Option<Option<i64>> {
    let mut rest = text;
    let mut seconds = Some(0_i64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let letters = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[digits..digits + letters])?;
        if digits == 0 {
            return None;
        }
        let count = rest[..digits].parse::<i64>().ok();
        let part = count.and_then(|count| count.checked_mul(*unit));
        seconds = seconds.zip(part).and_then(|(sum, part)| sum.checked_add(part));
        rest = &rest[digits + letters..];
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp { sec: 1_000_000_000, ns: 7 };

    #[test]
    fn ages_count_back_from_now() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("5m", 300),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
            ("1M", 2_592_000),
            ("1y", 31_536_000),
            ("1d12h", 129_600),
        ] {
            assert_eq!(parse_time(text, NOW).unwrap(), Timestamp { sec: NOW.sec - seconds, ns: 7 }, "{text}");
        }
    }

    #[test]
    fn points_in_time_are_exact_also_before_1970() {
        for (text, sec, ns) in [
            ("2026-01-31T12:00:00Z", 1_769_860_800, 0),
            ("2026-01-31T12:00:00.25+01:00", 1_769_857_200, 250_000_000),
            ("1969-12-31T23:59:59.75Z", -1, 750_000_000),
            ("1969-12-31 23:59:58Z", -2, 0),
            ("@1769860800", 1_769_860_800, 0),
            ("@-5", -5, 0),
        ] {
            assert_eq!(parse_time(text, NOW).unwrap(), Timestamp { sec, ns }, "{text}");
        }
    }

    #[test]
    fn without_an_offset_it_is_local_time() {
        let zone = jiff::tz::TimeZone::system();
        let noon =
            jiff::civil::date(2026, 1, 31).at(12, 0, 0, 0).to_zoned(zone.clone()).unwrap().timestamp().as_second();
        for text in ["2026-01-31 12:00", "2026-01-31 12:00:00", "2026-01-31T12:00"] {
            assert_eq!(parse_time(text, NOW).unwrap(), Timestamp { sec: noon, ns: 0 }, "{text}");
        }
        let midnight = jiff::civil::date(2026, 1, 31).at(0, 0, 0, 0).to_zoned(zone).unwrap().timestamp().as_second();
        assert_eq!(parse_time("2026-01-31", NOW).unwrap(), Timestamp { sec: midnight, ns: 0 });
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in
            ["", "30", "d", "30x", "d30", "30dd", "2026-02-30", "2026-01-31 25:00", "yesterday", "@x", "\x1b[31m"]
        {
            let error = parse_time(text, NOW).unwrap_err().to_string();
            assert!(!error.contains('\x1b') && error.contains('\''), "{error}");
        }
        assert!(parse_time("9999999999999999999y", NOW).unwrap_err().to_string().contains("too long ago"));
    }
}
