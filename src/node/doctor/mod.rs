//! What would be lost, or fail, between a source and a target: looked at before a job, and tried out where it may be.
//!
//! Invariant: the source is only looked at. On the target everything happens in a hidden directory that is gone at
//! the end. What nobody can know without writing to the source is left out, not guessed.

mod look;
mod lustre;
mod services;

pub use look::cheap;

use super::NodeError;
use crate::fs::posix::{Facts, Outcome, RootKind, Trials, Weight, check_roots, facts, is_empty, kind_of, try_out};
use crate::fs::{self, FsError, RootError, Traits};
use crate::model::{Timestamp, escaped};
use serde::Serialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is kept, or it works.
    Ok,
    /// It could not be tried.
    Unknown,
    /// Nothing is lost by it, but somebody should know.
    Note,
    /// It would be lost or changed.
    Lost,
    /// It would fail.
    Fails,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum About {
    /// The source.
    Source,
    /// The target.
    Target,
    /// This node and what it talks to.
    Node,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Which side.
    pub about: About,
    /// Which ability.
    pub topic: String,
    /// What it means.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What follows, and what to do; empty if nothing.
    pub advice: String,
}

impl Row {
    fn new(about: About, topic: &str, verdict: Verdict, found: impl Into<String>, advice: &str) -> Self {
        let advice = if verdict == Verdict::Ok { "" } else { advice };
        Row { about, topic: topic.into(), verdict, found: found.into(), advice: advice.into() }
    }
}

/// What to examine.
#[derive(Debug, Clone)]
pub struct Patient<'a> {
    /// Source root.
    pub source: &'a [u8],
    /// Target root.
    pub target: &'a [u8],
    /// The broker that a job would use.
    pub broker: Option<&'a crate::broker::amqp::AmqpConfig>,
    /// The memcached that counters would go to, as HOST:PORT.
    pub memcached: Option<&'a str>,
    /// Add up the sizes of the source instead of guessing.
    pub size_check: bool,
}

/// Examines both sides, this node, and the services that are named. Blocks.
///
/// # Errors
/// A root that is none, or that cannot be opened.
pub fn examine(patient: &Patient<'_>) -> Result<Vec<Row>, NodeError> {
    let source = directory_of(patient.source, true)?;
    let target = directory_of(patient.target, false)?;
    let mut rows = Vec::new();
    if let (Some(source), Some(target)) = (&source, &target) {
        let (source_path, target_path) = (path_of(patient.source)?, path_of(patient.target)?);
        if source == source_path {
            check_roots(source_path, target_path)?;
        }
        let (from, to) = (facts(source)?, facts(target)?);
        let needs = if patient.size_check { Some(look::measure(patient.source)?) } else { None };
        let (servers_of_source, servers_of_target) = (lustre::look(source, &from), lustre::look(target, &to));
        rows.extend(look::source_rows(&from));
        rows.extend(servers_of_source.iter().flat_map(|side| lustre::rows(About::Source, side)));
        rows.extend(look::target_rows(&from, &to, is_empty(target_path), needs));
        rows.extend(servers_of_target.iter().flat_map(|side| lustre::rows(About::Target, side)));
        rows.extend(servers_of_source.zip(servers_of_target).and_then(|(from, to)| lustre::between(&from, &to)));
        rows.extend(tried_rows(target, Some((source, &from)), &to));
        if from.project != 0 {
            let is_lost = |row: &&mut Row| row.topic == "project ids" && row.verdict == Verdict::Note;
            rows.iter_mut().filter(is_lost).for_each(|row| row.verdict = Verdict::Lost);
        }
    } else {
        if let Some(source) = &source {
            let from = facts(source)?;
            rows.extend(look::source_rows(&from));
            rows.extend(lustre::look(source, &from).iter().flat_map(|side| lustre::rows(About::Source, side)));
        }
        if let Some(target) = &target {
            let to = facts(target)?;
            rows.push(Row::new(About::Target, "filesystem", Verdict::Ok, to.filesystem.as_str(), ""));
            rows.extend(lustre::look(target, &to).iter().flat_map(|side| lustre::rows(About::Target, side)));
            rows.extend(tried_rows(target, None, &to));
        } else {
            rows.push(Row::new(About::Target, "filesystem", Verdict::Ok, "stores nothing, so it loses nothing", ""));
        }
    }
    rows.extend(services::node_rows());
    rows.extend(patient.broker.map(services::broker_row));
    rows.extend(patient.memcached.map(services::memcached_row));
    Ok(rows)
}

fn path_of(root: &[u8]) -> Result<&[u8], RootError> {
    fs::adapter_of(root).map(|(_, path)| path)
}

/// The directory that tells about a root: itself, or what holds it if it is a file or a target that is still to be
/// made. None if it is on no mounted filesystem.
fn directory_of(root: &[u8], is_source: bool) -> Result<Option<Vec<u8>>, RootError> {
    let (adapter, path) = fs::adapter_of(root)?;
    if adapter.scheme != "file" {
        return Ok(None);
    }
    let parent = || {
        let parent = Path::new(OsStr::from_bytes(path)).parent().filter(|p| !p.as_os_str().is_empty());
        parent.unwrap_or(Path::new(".")).as_os_str().as_bytes().to_vec()
    };
    let none = |what: &str| RootError::BadUrl(format!("{what}; check the path and whether it is mounted"));
    match kind_of(path)? {
        RootKind::Directory => Ok(Some(path.to_vec())),
        RootKind::Other(_) => Ok(Some(parent())),
        RootKind::Absent if is_source => Err(none(&format!("source {}: no such file or directory", escaped(root)))),
        RootKind::Absent => match kind_of(&parent())? {
            RootKind::Directory => Ok(Some(parent())),
            _ => Err(none(&format!("target {}: neither it nor its parent is a directory", escaped(root)))),
        },
    }
}

/// Tries the target out; if nothing can be written there, that is what is found.
fn tried_rows(target: &[u8], source: Option<(&[u8], &Facts)>, to: &Facts) -> Vec<Row> {
    let trials = match try_out(target, source.map(|(path, _)| path)) {
        Ok(trials) => trials,
        Err(e) => return vec![unwritable(to, &e)],
    };
    let step_of_source = source.map_or(1, |(_, from)| from.granularity_ns);
    let mut rows = vec![time_row(&trials.traits, step_of_source), clock_row(&trials)];
    rows.extend(trials.tried.iter().map(|tried| {
        let (verdict, found) = match (&tried.outcome, tried.weight) {
            (Outcome::Kept(found), _) => (Verdict::Ok, found.as_str()),
            (Outcome::NotTried(why), _) => (Verdict::Unknown, *why),
            (Outcome::Missing(found), Weight::Loss) => (Verdict::Lost, found.as_str()),
            (Outcome::Missing(found), Weight::Speed) => (Verdict::Note, found.as_str()),
            (Outcome::Missing(found), Weight::Failure) => (Verdict::Fails, found.as_str()),
        };
        let advice = if verdict == Verdict::Unknown { "" } else { tried.without };
        Row::new(About::Target, tried.topic, verdict, found, advice)
    }));
    rows
}

fn unwritable(to: &Facts, e: &FsError) -> Row {
    let advice = match e.errno {
        _ if to.read_only => "mount it writable (mount -o remount,rw), or choose another target",
        libc::EROFS => "mount it writable (mount -o remount,rw), or choose another target",
        libc::EACCES | libc::EPERM => "run as root, or as somebody who may write there",
        libc::ENOSPC | libc::EDQUOT => "make room",
        _ => "look at the mount and at dmesg",
    };
    Row::new(About::Target, "writing", Verdict::Fails, format!("{e}; nothing else was tried"), advice)
}

/// Nothing is lost if the source's times come in steps that are as coarse.
fn time_row(traits: &Traits, step_of_source_ns: u32) -> Row {
    let step = match traits.time_granularity_ns {
        ns if ns < 1000 => format!("{ns} ns"),
        ns if ns < 1_000_000 => format!("{} us", ns / 1000),
        ns if ns < 1_000_000_000 => format!("{} ms", ns / 1_000_000),
        ns => format!("{} s", ns / 1_000_000_000),
    };
    let year = |t: Timestamp| 1970 + t.sec.div_euclid(31_556_952);
    let (first, last) = traits.time_range;
    let range = match (first.sec == i64::MIN, last.sec == i64::MAX) {
        (true, true) => "any year".to_owned(),
        (true, false) => format!("to {}", year(last)),
        (false, true) => format!("from {}", year(first)),
        (false, false) => format!("{} to {}", year(first), year(last)),
    };
    let verdict = if traits.time_granularity_ns <= step_of_source_ns.max(1) { Verdict::Ok } else { Verdict::Lost };
    let advice = "times are cut down to that; later runs compare them as the target keeps them";
    Row::new(About::Target, "times", verdict, format!("steps of {step}, {range}"), advice)
}

/// A clock that is off makes new files look changed, or older than they are.
fn clock_row(trials: &Trials) -> Row {
    const MOST_SECONDS: i64 = 2;
    let Some(clock) = trials.clock else {
        return Row::new(About::Target, "clock", Verdict::Unknown, "no file could be made", "");
    };
    let ahead = clock.sec - trials.node_clock.sec;
    let (verdict, found) = if ahead.abs() > MOST_SECONDS {
        let how = if ahead > 0 { "ahead of" } else { "behind" };
        (Verdict::Note, format!("{} s {how} this node's", ahead.abs()))
    } else {
        (Verdict::Ok, "as this node's".to_owned())
    };
    Row::new(About::Target, "clock", verdict, found, "set the clocks (NTP) before you use --since")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_times_are_lost_only_where_the_source_has_finer_ones() {
        let traits = |time_granularity_ns| Traits { time_granularity_ns, ..Traits::default() };
        let verdict = |target, source| time_row(&traits(target), source).verdict;
        assert_eq!(verdict(1, 1), Verdict::Ok);
        assert_eq!(verdict(1_000_000_000, 1), Verdict::Lost);
        assert_eq!(verdict(1_000_000_000, 1_000_000_000), Verdict::Ok);
        assert_eq!(verdict(100, 1_000_000_000), Verdict::Ok);
    }
}
