//! `--since`: which entries of the source may be taken for unchanged.

use crate::model::{JobId, Policy, Timestamp};
use crate::node::history;
use anyhow::Context;
use clap::Args;

/// Clocks of nodes and servers may differ by so much, in seconds: what changed in this time before is looked at again.
const CLOCK_MARGIN_SECONDS: i64 = 120;

/// The option of passes that may skip what did not change.
#[derive(Debug, Args)]
pub struct SinceArgs {
    /// Look only at what changed in the source since a job was submitted, or a time; the target must be a copy of it
    #[arg(long, value_name = "JOB|TIME", value_parser = parse)]
    since: Option<Since>,
}

/// What was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// When this job was submitted.
    Job(JobId),
    /// This moment.
    Time(Timestamp),
}

impl SinceArgs {
    /// The moment, less [`CLOCK_MARGIN_SECONDS`]; none if the option was not given.
    ///
    /// # Errors
    /// A job that proves nothing about these roots and this policy, or a time that is still to come.
    pub fn resolve(&self, source: &[u8], target: &[u8], policy: &Policy) -> anyhow::Result<Option<Timestamp>> {
        let moment = match self.since {
            None => return Ok(None),
            Some(Since::Job(job)) => history::find(job, source, target, policy).context("--since")?,
            Some(Since::Time(time)) => time,
        };
        anyhow::ensure!(
            moment <= Timestamp::now(),
            "--since is in the future: everything would be skipped; look at the time, or at this node's clock"
        );
        Ok(Some(Timestamp { sec: moment.sec.saturating_sub(CLOCK_MARGIN_SECONDS), ns: moment.ns }))
    }
}

fn parse(text: &str) -> Result<Since, String> {
    if let Some(job) = JobId::parse(text.as_bytes()) {
        return Ok(Since::Job(job));
    }
    let time = text.strip_prefix('@').map_or_else(|| rfc3339(text), seconds);
    time.map(Since::Time).ok_or_else(|| {
        format!("'{text}' is neither a job nor a time: give a job's name, 2026-01-31T12:00:00Z or @SECONDS")
    })
}

fn seconds(text: &str) -> Option<Timestamp> {
    text.parse().ok().map(|sec| Timestamp { sec, ns: 0 })
}

/// `2026-01-31T12:00:00.5+01:00`: date, time and zone; the fraction may be missing (RFC 3339).
fn rfc3339(text: &str) -> Option<Timestamp> {
    let number = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i64>().ok())?
    };
    let is = |at: usize, what: &str| text.get(at..=at).is_some_and(|c| what.contains(c));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let separated = is(4, "-") && is(7, "-") && is(10, "Tt ") && is(13, ":") && is(16, ":");
    let days_of_month = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !separated || !(1..=days_of_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let fraction_end = rest.char_indices().skip(1).find(|(_, c)| !c.is_ascii_digit()).map_or(rest.len(), |(at, _)| at);
    let (ns, zone) = match rest.strip_prefix('.') {
        Some(_) if fraction_end > 1 => {
            let digits: String = rest[1..fraction_end].chars().chain("000000000".chars()).take(9).collect();
            (digits.parse().ok()?, &rest[fraction_end..])
        }
        Some(_) => return None,
        None => (0, rest),
    };
    let sec = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset_seconds(zone)?;
    Some(Timestamp { sec, ns })
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let sign = match zone.get(..1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let two = |s: &str| (s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<i64>().ok())?;
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Days of the Gregorian calendar: years that begin in March put the leap day last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_jobs_are_told_apart() {
        let at = |sec, ns| Ok(Since::Time(Timestamp { sec, ns }));
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", at(0, 0)),
            ("@-5", at(-5, 0)),
            ("2000-02-29T23:59:59.25Z", at(951_868_799, 250_000_000)),
            ("2026-01-31 12:00:00+01:00", at(1_769_857_200, 0)),
            ("1969-12-31T23:59:59-00:00", at(-1, 0)),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        let job = JobId::random();
        assert_eq!(parse(&job.to_string()), Ok(Since::Job(job)));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", "@", "@x", "yesterday", "2026-02-29T00:00:00Z", "2026-01-31T12:00:00", "2026-13-01T00:00:00Z"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in
            ["2026-01-01T24:00:00Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00+1:00", "２026-01-01T00:00:00Z"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_future_is_refused_and_clocks_get_a_margin() {
        let given = |sec| SinceArgs { since: Some(Since::Time(Timestamp { sec, ns: 3 })) };
        let resolve = |args: SinceArgs| args.resolve(b"/a", b"/b", &Policy::default());
        assert!(resolve(given(Timestamp::now().sec + 3600)).is_err());
        assert_eq!(resolve(given(1000)).unwrap(), Some(Timestamp { sec: 880, ns: 3 }));
        assert_eq!(resolve(SinceArgs { since: None }).unwrap(), None);
    }
}
