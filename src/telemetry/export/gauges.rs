//! Gauges, as rows: what they are called, what they mean, how they are read off.

use super::{Cycle, Doing, JobFacts, JobTold, NodeFacts};
use crate::model::fleet::Space;

/// How values become one where a label is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// Their sum.
    Sum,
    /// The greatest.
    Max,
    /// The least.
    Min,
}

/// A gauge.
#[derive(Debug)]
pub struct Gauge<T> {
    /// Its Prometheus family.
    pub metric: &'static str,
    /// Its label `pool`; none if empty.
    pub pool: &'static str,
    /// The last part of its Graphite path; not there if empty.
    pub path: &'static str,
    /// What it says.
    pub help: &'static str,
    /// How several become one.
    pub fold: Fold,
    /// Reads it off.
    pub of: fn(&T) -> Option<f64>,
}

impl<T> Gauge<T> {
    /// Its unit: bytes, seconds or none.
    pub fn unit(&self) -> &'static str {
        ["bytes", "seconds"].into_iter().find(|unit| self.metric.ends_with(&format!("_{unit}"))).unwrap_or("")
    }
}

const fn gauge<T>(
    metric: &'static str,
    path: &'static str,
    fold: Fold,
    help: &'static str,
    of: fn(&T) -> Option<f64>,
) -> Gauge<T> {
    Gauge { metric, pool: "", path, help, fold, of }
}

fn doing(node: &NodeFacts, of: fn(&Doing) -> f64) -> Option<f64> {
    node.doing.as_ref().map(of)
}

fn told(job: &JobFacts, of: fn(&JobTold) -> Option<f64>) -> Option<f64> {
    job.told.as_ref().and_then(of)
}

fn total(job: &JobFacts, at: usize) -> Option<f64> {
    job.told.as_ref()?.totals.map(|totals| totals[at] as f64)
}

fn space(job: &JobFacts, of: fn(&Space) -> u64) -> Option<f64> {
    job.space.as_ref().map(|space| of(space) as f64)
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

const ACTORS: &str = "Actors of a node";
const BUSY: &str = "Actors of a node that have a task in hand";

/// Of a node; `treehaul_node_up` has its version as a label.
#[rustfmt::skip]
pub const NODE_GAUGES: &[Gauge<NodeFacts>] = &[
    gauge("treehaul_node_up", "", Fold::Sum, "1 while the node is there, 0 for an hour after it was lost; gone while nobody can say", |n| Some(flag(n.is_up))),
    gauge("treehaul_node_seen_timestamp_seconds", "", Fold::Max, "When the node was last heard of; gone when it went in peace, or an hour after it was lost", |n| Some(n.seen as f64)),
    Gauge { pool: "dirs", ..gauge("treehaul_node_actors", "actors_dirs", Fold::Sum, ACTORS, |n| doing(n, |d| d.actors[0].into())) },
    Gauge { pool: "files", ..gauge("treehaul_node_actors", "actors_files", Fold::Sum, ACTORS, |n| doing(n, |d| d.actors[1].into())) },
    Gauge { pool: "dirs", ..gauge("treehaul_node_busy_actors", "busy_dirs", Fold::Sum, BUSY, |n| doing(n, |d| d.busy[0].into())) },
    Gauge { pool: "files", ..gauge("treehaul_node_busy_actors", "busy_files", Fold::Sum, BUSY, |n| doing(n, |d| d.busy[1].into())) },
    gauge("treehaul_node_in_flight_tasks", "in_flight", Fold::Sum, "Deliveries that the node holds", |n| doing(n, |d| d.in_flight as f64)),
    gauge("treehaul_node_queue_wait_seconds", "queue_wait_seconds", Fold::Max, "How long tasks that were taken lately had waited, on average", |n| doing(n, |d| d.queue_wait_us as f64 / 1e6)),
    gauge("treehaul_node_broker_blocked", "blocked", Fold::Sum, "1 while the broker takes nothing from the node: it has an alarm", |n| doing(n, |d| flag(d.is_blocked))),
    gauge("treehaul_node_resident_memory_bytes", "rss_bytes", Fold::Sum, "Memory that the worker holds", |n| doing(n, |d| d.rss_bytes as f64)),
    gauge("treehaul_node_load1", "load1", Fold::Max, "Load average of the host over a minute", |n| n.doing.as_ref()?.load_milli.map(|load| f64::from(load) / 1000.0)),
    gauge("treehaul_node_paused", "paused", Fold::Sum, "1 while the node takes no tasks", |n| n.doing.as_ref()?.is_paused.map(flag)),
];

/// Of a job.
#[rustfmt::skip]
pub const JOB_GAUGES: &[Gauge<JobFacts>] = &[
    gauge("treehaul_job_running", "running", Fold::Sum, "1 until the job is over, 0 for an hour after it, of the last 20 jobs", |j| told(j, |t| Some(flag(t.is_running)))),
    gauge("treehaul_job_paused", "paused", Fold::Sum, "1 while nobody takes a task of the job", |j| told(j, |t| Some(flag(t.is_paused)))),
    gauge("treehaul_job_entries_found", "found", Fold::Sum, "Entries found, exactly", |j| total(j, 0)),
    gauge("treehaul_job_entries_done", "done", Fold::Sum, "Entries that are done with, however it went, exactly", |j| total(j, 1)),
    gauge("treehaul_job_entries_failed", "failed", Fold::Sum, "Entries that failed, exactly", |j| total(j, 2)),
    gauge("treehaul_job_copied_bytes", "bytes", Fold::Sum, "Data written, exactly", |j| total(j, 3)),
    gauge("treehaul_job_elapsed_seconds", "elapsed_seconds", Fold::Max, "Since the job was submitted, while it is led", |j| told(j, |t| t.elapsed_ms.map(|ms| ms as f64 / 1000.0))),
    gauge("treehaul_job_refusing_nodes", "refusing_nodes", Fold::Sum, "Nodes that take no task of the job: their roots are not the job's", |j| told(j, |t| Some(t.refusing as f64))),
    gauge("treehaul_target_free_bytes", "target_free_bytes", Fold::Min, "What can still be written to the target", |j| space(j, |s| s.free_bytes)),
    gauge("treehaul_target_size_bytes", "target_size_bytes", Fold::Max, "Size of the target's filesystem", |j| space(j, |s| s.bytes)),
    gauge("treehaul_target_free_inodes", "target_free_inodes", Fold::Min, "Inodes of the target that are free", |j| space(j, |s| s.free_inodes)),
    gauge("treehaul_target_inodes", "target_inodes", Fold::Max, "Inodes of the target; 0 where it does not count them", |j| space(j, |s| s.inodes)),
    gauge("treehaul_unacknowledged_messages", "unacknowledged", Fold::Sum, "Deliveries of the job that nodes hold", |j| told(j, |t| Some(t.unacknowledged as f64))),
    gauge("treehaul_dead_letters", "dead_letters", Fold::Sum, "Messages of the job that were set aside", |j| told(j, |t| t.queues.iter().find(|q| q.0 == "dead").map(|q| q.1.into()))),
];

/// Of all.
#[rustfmt::skip]
pub const FLEET_GAUGES: &[Gauge<Cycle>] = &[
    gauge("treehaul_nodes", "nodes", Fold::Sum, "Nodes that are there; gone while nobody can say", |c| c.fleet.nodes.map(Into::into)),
    gauge("treehaul_silent_nodes", "silent", Fold::Sum, "Workers that the broker knows and that did not answer", |c| c.fleet.silent.map(Into::into)),
    gauge("treehaul_stranger_nodes", "strangers", Fold::Sum, "Workers of another wire version, or with another key", |c| c.fleet.strangers.map(Into::into)),
    gauge("treehaul_broker_up", "broker_up", Fold::Sum, "1 if the broker answered", |c| c.fleet.broker_up.map(flag)),
    gauge("treehaul_memcached_up", "memcached_up", Fold::Sum, "1 if the memcached answered", |c| c.fleet.memcached_up.map(flag)),
    gauge("treehaul_export_cycle_seconds", "", Fold::Sum, "How long the last look took", |c| Some(c.took.as_secs_f64())),
];
