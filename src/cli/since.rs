//! `--since`: which entries of the source may be taken for unchanged.

use super::time::parse_time;
use crate::model::{JobId, Policy, Timestamp};
use crate::node::history;
use anyhow::Context;
use clap::Args;

/// Clocks of nodes and servers may differ by so much, in seconds: what changed in this time before is looked at again.
const CLOCK_MARGIN_SECONDS: u32 = 120;

/// The option of passes that may skip what did not change.
#[derive(Debug, Args)]
pub struct SinceArgs {
    /// Look only at what changed in the source since a job was submitted, or a time; the target must be a copy of it,
    /// and nobody else may have written to it
    #[arg(long, value_name = "JOB|TIME", value_parser = parse)]
    since: Option<Since>,
    /// How much this node's clock and those of the file servers may differ: what changed so long before is looked at too
    #[arg(long, value_name = "SECONDS", requires = "since", default_value_t = CLOCK_MARGIN_SECONDS)]
    since_margin: u32,
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
    /// Was a moment given, and not a job?
    pub fn is_time(&self) -> bool {
        matches!(self.since, Some(Since::Time(_)))
    }

    /// The moment, less the margin; none if the option was not given.
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
        Ok(Some(Timestamp { sec: moment.sec.saturating_sub(self.since_margin.into()), ns: moment.ns }))
    }
}

fn parse(text: &str) -> Result<Since, String> {
    if let Some(job) = JobId::parse(text.as_bytes()) {
        return Ok(Since::Job(job));
    }
    parse_time(text, Timestamp::now()).map(Since::Time).map_err(|e| format!("neither a job's name nor a time: {e:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_jobs_are_told_apart() {
        assert_eq!(parse("2000-02-29T23:59:59.25Z"), Ok(Since::Time(Timestamp { sec: 951_868_799, ns: 250_000_000 })));
        assert_eq!(parse("@-5"), Ok(Since::Time(Timestamp { sec: -5, ns: 0 })));
        let job = JobId::random();
        assert_eq!(parse(&job.to_string()), Ok(Since::Job(job)));
        for text in ["", "@", "@x", "yesterday", "2026-02-30T00:00:00Z"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_future_is_refused_and_clocks_get_a_margin() {
        let given = |sec| SinceArgs { since: Some(Since::Time(Timestamp { sec, ns: 3 })), since_margin: 120 };
        let resolve = |args: SinceArgs| args.resolve(b"/a", b"/b", &Policy::default());
        assert!(resolve(given(Timestamp::now().sec + 3600)).is_err());
        assert_eq!(resolve(given(1000)).unwrap(), Some(Timestamp { sec: 880, ns: 3 }));
        assert_eq!(resolve(SinceArgs { since: None, since_margin: 0 }).unwrap(), None);
    }
}
