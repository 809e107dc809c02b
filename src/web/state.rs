//! What the page is told, as JSON: a look, with what only a series of looks shows: rates, time left, a history.
//!
//! Invariant: its size does not grow with the fleet's work: lists are cut, and say so.

use super::lost::Lost;
use super::source::Seen;
use crate::model::JobId;
use crate::model::latency::{Call, Histogram};
use crate::node::json::activity_json;
use crate::node::{JobLook, Look};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far plots go back.
const HISTORY: Duration = Duration::from_secs(15 * 60);
/// Rates and times left are those of so long.
const WINDOW: Duration = Duration::from_secs(20);
/// Actors that are shown, those first that have been at it longest.
const ACTIVE_SHOWN: usize = 40;
/// Calls that are shown, the slowest first.
const CALLS_SHOWN: usize = 8;

/// What happened a second, at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    at: Instant,
    unix_ms: u64,
    entries: f64,
    bytes: f64,
}

impl Sample {
    fn json(self) -> Value {
        json!([self.unix_ms, round(self.entries), round(self.bytes)])
    }
}

/// How far a job was at a time.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    done: u64,
    bytes: u64,
}

/// What earlier looks showed.
#[derive(Default)]
pub struct History {
    samples: VecDeque<Sample>,
    jobs: HashMap<JobId, VecDeque<Mark>>,
    at: Option<Instant>,
    lost: Lost,
}

fn round(n: f64) -> f64 {
    (n * 10.0).round() / 10.0
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn mark_of(job: &JobLook, at: Instant) -> Option<Mark> {
    let sealed = || job.state.end.as_ref().map(|(_, totals)| *totals);
    let totals = job.progress.as_ref().map(|progress| progress.totals).or_else(sealed)?;
    Some(Mark { at, done: totals.done(), bytes: totals.bytes_copied.saturating_add(totals.bytes_read) })
}

impl History {
    /// Takes a look into it.
    pub fn take_in(&mut self, look: &Look) {
        let now = look.at;
        self.lost.take_in(look);
        let seconds = self.at.map(|at| now.saturating_duration_since(at).as_secs_f64());
        let (mut entries, mut bytes) = (0u64, 0u64);
        let mut jobs = std::mem::take(&mut self.jobs);
        for job in &look.jobs {
            let mut marks = jobs.remove(&job.state.spec.id).unwrap_or_default();
            if let Some(mark) = mark_of(job, now) {
                // Of a job that is new nobody knows since when it did what it did.
                if let Some(last) = marks.back() {
                    entries = entries.saturating_add(mark.done.saturating_sub(last.done));
                    bytes = bytes.saturating_add(mark.bytes.saturating_sub(last.bytes));
                }
                marks.push_back(mark);
            }
            while marks.len() > 2 && now.saturating_duration_since(marks[1].at) > WINDOW {
                marks.pop_front();
            }
            self.jobs.insert(job.state.spec.id, marks);
        }
        self.at = Some(now);
        if let Some(seconds) = seconds.filter(|seconds| *seconds > 0.0) {
            let (entries, bytes) = (entries as f64 / seconds, bytes as f64 / seconds);
            self.samples.push_back(Sample { at: now, unix_ms: unix_ms(), entries, bytes });
        }
        while self.samples.front().is_some_and(|s| now.saturating_duration_since(s.at) > HISTORY) {
            self.samples.pop_front();
        }
    }

    /// Entries and bytes a second of a job, lately.
    fn rate(&self, job: JobId) -> Option<(f64, f64)> {
        let marks = self.jobs.get(&job)?;
        let (first, last) = (marks.front()?, marks.back()?);
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        let per_second = |a: u64, b: u64| b.saturating_sub(a) as f64 / seconds;
        (seconds > 0.0).then(|| (per_second(first.done, last.done), per_second(first.bytes, last.bytes)))
    }

    /// All samples, for a plot.
    pub fn json(&self) -> Value {
        self.samples.iter().map(|sample| sample.json()).collect()
    }

    /// What was seen, for the page.
    pub fn state(&self, seen: &Seen) -> Value {
        let mut state = seen.look.json();
        if let Some(jobs) = state["jobs"].as_array_mut() {
            for (shown, job) in jobs.iter_mut().zip(&seen.look.jobs) {
                self.complete(shown, job);
            }
        }
        state["sample"] = self.samples.back().map_or(Value::Null, |sample| sample.json());
        state["lost"] = self.lost.json(seen.look.at);
        state["active"] = active_json(seen);
        state["active_total"] = seen.active.len().into();
        state["calls"] = calls_json(seen);
        state
    }

    /// Adds to a job what a single look does not show.
    fn complete(&self, shown: &mut Value, job: &JobLook) {
        let rate = self.rate(job.state.spec.id).filter(|_| !job.state.is_over());
        shown["entries_per_second"] = rate.map(|(entries, _)| round(entries)).into();
        shown["bytes_per_second"] = rate.map(|(_, bytes)| round(bytes)).into();
        let totals = job.progress.as_ref().map(|progress| progress.totals);
        let left = totals.zip(rate).filter(|(_, (entries, _))| *entries > 0.0);
        let left = left.map(|(totals, (entries, _))| totals.found.saturating_sub(totals.done()) as f64 / entries);
        shown["seconds_left"] = left.map(round).into();
        shown["done"] = mark_of(job, Instant::now()).map(|mark| mark.done).into();
    }
}

/// What actors do, the oldest first.
fn active_json(seen: &Seen) -> Value {
    let mut all: Vec<_> = seen.active.iter().collect();
    all.sort_by_key(|(_, activity)| std::cmp::Reverse(activity.age_ms));
    let shown = all.into_iter().take(ACTIVE_SHOWN);
    shown.map(|(node, activity)| activity_json(&crate::model::escaped(node.as_bytes()), activity)).collect()
}

/// Calls of all nodes together, the slowest first.
fn calls_json(seen: &Seen) -> Value {
    let mut sums: BTreeMap<(JobId, Call), Histogram> = BTreeMap::new();
    for (call, times) in seen.latencies.iter().flat_map(|(_, of)| of.calls.iter().map(|(c, t)| ((of.job, *c), t))) {
        sums.entry(call).or_default().add(times);
    }
    let is_over = |id| seen.look.jobs.iter().any(|job| job.state.spec.id == id && job.state.is_over());
    let is_any_under_way = seen.look.jobs.iter().any(|job| !job.state.is_over());
    let mut all: Vec<_> = sums.into_iter().filter(|(_, times)| times.count() > 0).collect();
    // Those of jobs that are over matter no more while another is under way.
    all.retain(|((job, _), _)| !is_any_under_way || !is_over(*job));
    let p99 = |times: &Histogram| times.quantile_seconds(0.99).unwrap_or(0.0);
    all.sort_by(|(_, a), (_, b)| p99(b).total_cmp(&p99(a)).then(b.sum_ns.cmp(&a.sum_ns)));
    let one = |((job, call), times): ((JobId, Call), Histogram)| {
        json!({
            "job": job.to_string(),
            "call": call.word(),
            "count": times.count(),
            "mean_seconds": times.mean_seconds(),
            "p50_seconds": times.quantile_seconds(0.5),
            "p99_seconds": times.quantile_seconds(0.99),
            "sum_seconds": times.sum_ns as f64 / 1e9,
        })
    };
    all.into_iter().take(CALLS_SHOWN).map(one).collect()
}
