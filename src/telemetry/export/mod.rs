//! What is exported: one cycle's facts, and what they are called by those who take them.
//!
//! Invariant: [`COUNTERS`](super::counts::COUNTERS), [`NODE_GAUGES`], [`JOB_GAUGES`] and [`FLEET_GAUGES`] are the one
//! description of what there is; paths, families and ops/metrics.md agree with them.

mod carry;
mod gauges;
mod graphite;
mod lines;
mod page;
mod prometheus;
mod state;
mod statsd;

pub use carry::Carry;
pub use gauges::{FLEET_GAUGES, Fold, Gauge, JOB_GAUGES, NODE_GAUGES};
pub use graphite::Graphite;
pub use lines::{lines, metrics_of_parts};
pub use page::Page;
pub use prometheus::{Labels, Text, render, render_sums};
pub use state::{Changes, State, StateError};
pub use statsd::Statsd;

use crate::model::JobId;
use crate::model::fleet::Space;
use crate::model::latency::{Call, Histogram};
use crate::telemetry::counts::COUNTED;
use std::time::Duration;

/// What was seen in one cycle.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cycle {
    /// When, in seconds since 1970.
    pub at: u64,
    /// How long it took to look.
    pub took: Duration,
    /// Which life of the memcached the counters are from; none if it was not read.
    pub epoch: Option<String>,
    /// There were more of them than are read.
    pub is_cut: bool,
    /// What nodes counted.
    pub parts: Vec<Part>,
    /// Nodes, also those that were there lately.
    pub nodes: Vec<NodeFacts>,
    /// Jobs that are under way, or were lately.
    pub jobs: Vec<JobFacts>,
    /// Of workers.
    pub fleet: FleetFacts,
}

/// What a node counted for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The job.
    pub job: JobId,
    /// The node, as it is in paths.
    pub node: String,
    /// Its actors.
    pub actors: Vec<Actor>,
    /// How long calls took.
    pub calls: Vec<(Call, Histogram)>,
}

/// What an actor counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// "dirs" or "files".
    pub pool: &'static str,
    /// Its number there.
    pub number: u64,
    /// By [`COUNTERS`](super::counts::COUNTERS).
    pub values: [u64; COUNTED],
}

/// A node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeFacts {
    /// Its name, as it is in paths.
    pub node: String,
    /// Which version runs there; empty if that is not known.
    pub version: String,
    /// It is there now.
    pub is_up: bool,
    /// When it was last heard of, in seconds since 1970.
    pub seen: u64,
    /// What it does; none of one that is not there.
    pub doing: Option<Doing>,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Doing {
    /// Actors: dirs, files.
    pub actors: [u32; 2],
    /// Those with a task in hand.
    pub busy: [u32; 2],
    /// Deliveries that it holds.
    pub in_flight: u64,
    /// How long tasks had waited.
    pub queue_wait_us: u64,
    /// The broker takes nothing from it.
    pub is_blocked: bool,
    /// Memory of the process.
    pub rss_bytes: u64,
    /// Load of the host, in thousandths, where it is known.
    pub load_milli: Option<u32>,
    /// It takes no tasks, where it is known.
    pub is_paused: Option<bool>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFacts {
    /// Its name.
    pub job: JobId,
    /// How full its target is.
    pub space: Option<Space>,
    /// What the broker knows.
    pub told: Option<JobTold>,
}

/// A job, as the broker and its leader tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobTold {
    /// Its pass.
    pub pass: String,
    /// Its source, escaped.
    pub source: String,
    /// Its target, escaped.
    pub target: String,
    /// How it stands.
    pub standing: String,
    /// It is not over.
    pub is_running: bool,
    /// Nobody takes a task of it.
    pub is_paused: bool,
    /// Exact totals, if the leader told them or it is over: found, done, failed, bytes.
    pub totals: Option<[u64; 4]>,
    /// Since it was submitted.
    pub elapsed_ms: Option<u64>,
    /// Nodes that take no task of it.
    pub refusing: u64,
    /// Its queues: name, messages that wait, consumers.
    pub queues: Vec<(&'static str, u32, u32)>,
    /// Deliveries that nodes hold.
    pub unacknowledged: u64,
}

/// The fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FleetFacts {
    /// Workers that are there; none if nobody answered.
    pub nodes: Option<u32>,
    /// Workers that the broker knows and that did not answer; none if it was not asked.
    pub silent: Option<u32>,
    /// Workers of another version or key; none if nobody was asked.
    pub strangers: Option<u32>,
    /// The broker answered; none if there is none.
    pub broker_up: Option<bool>,
    /// The memcached answered; none if there is none.
    pub memcached_up: Option<bool>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn job(text: &str) -> JobId {
        JobId::parse(text.as_bytes()).unwrap()
    }

    /// Two nodes with two actors each; every counter is 10 times the actor's number and 1 for it.
    pub fn cycle() -> Cycle {
        let mut times = Histogram::default();
        times.counts[3] = 4;
        times.counts[27] = 1;
        times.sum_ns = 1_500_000_000;
        let actor = |pool, number| Actor { pool, number, values: [10 * number + 1; COUNTED] };
        let part = |node: &str| Part {
            job: job("0000000000001"),
            node: node.into(),
            actors: vec![actor("dirs", 0), actor("files", 0), actor("files", 1)],
            calls: vec![(Call::Open, times)],
        };
        let node = |name: &str, is_up: bool| NodeFacts {
            node: name.into(),
            version: "1.0".into(),
            is_up,
            seen: 1_800_000_000,
            doing: is_up.then(|| Doing { actors: [3, 4], busy: [1, 2], queue_wait_us: 1500, ..Doing::default() }),
        };
        let told = JobTold {
            pass: "copy".into(),
            source: "/s\\n\"".into(),
            totals: Some([5, 4, 3, 2]),
            queues: vec![("dirs", 7, 2), ("dead", 1, 0)],
            ..JobTold::default()
        };
        let space = Some(Space { bytes: 100, free_bytes: 50, inodes: 10, free_inodes: 5 });
        Cycle {
            at: 1_800_000_000,
            took: Duration::from_millis(1500),
            epoch: Some("1-2-3".into()),
            is_cut: false,
            parts: vec![part("a"), part("b")],
            nodes: vec![node("a", true), node("b", true), node("gone", false)],
            jobs: vec![JobFacts { job: job("0000000000001"), space, told: Some(told) }],
            fleet: FleetFacts { nodes: Some(2), silent: Some(1), broker_up: Some(true), ..FleetFacts::default() },
        }
    }
}
