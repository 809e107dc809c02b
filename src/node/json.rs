//! What is known of a fleet, its jobs and their failures, for machines.
//!
//! Invariant: no text in it can steer a terminal or a page: names are escaped, and words from elsewhere lose their controls.

use crate::broker::amqp::{Answers, Stranger};
use crate::model::fleet::{Activity, NodeInfo};
use crate::model::{Failure, Finding, escaped};
use serde_json::{Value, json};

/// A failure for machines. `path` is escaped; `path_bytes` is there when that is not the name itself.
pub fn failure_json(failure: &Failure) -> Value {
    with_path(
        &failure.path,
        json!({
            "operation": failure.operation.words(),
            "errno": failure.errno,
            "error": escaped(failure.message.as_bytes()),
        }),
    )
}

/// A finding for machines, as [`failure_json`].
pub fn finding_json(finding: &Finding) -> Value {
    with_path(
        &finding.path,
        json!({
            "what": finding.what,
            "expected": escaped_once(&finding.expected),
            "found": escaped_once(&finding.found),
        }),
    )
}

fn with_path(path: &[u8], mut object: Value) -> Value {
    let shown = escaped(path);
    if shown.as_bytes() != path {
        object["path_bytes"] = path.into();
    }
    object["path"] = shown.into();
    object
}

/// What a worker is doing as a whole.
pub fn state_of(info: &NodeInfo) -> &'static str {
    match (info.stopping, info.paused) {
        (true, _) => "stopping",
        (false, true) => "paused",
        (false, false) if info.busy == [0; 2] => "idle",
        _ => "works",
    }
}

/// The load of a host as it is usually written.
pub fn load_of(info: &NodeInfo) -> String {
    format!("{}.{:02}", info.load_milli / 1000, info.load_milli % 1000 / 10)
}

/// A worker as JSON.
pub fn node_json(name: &str, info: &NodeInfo) -> Value {
    let jobs = info.jobs.iter().map(|job| {
        json!({
            "job": job.job.to_string(),
            "refused": job.refused.as_ref().map(|why| escaped(why.as_bytes())),
            "unacknowledged": job.unsettled,
            "leads": job.leads,
            "target": job.target.map(|space| json!({
                "bytes": space.bytes,
                "free_bytes": space.free_bytes,
                "inodes": space.inodes,
                "free_inodes": space.free_inodes,
            })),
        })
    });
    json!({
        "node": name,
        "version": escaped(info.version.as_bytes()),
        "host": escaped(info.host.as_bytes()),
        "pid": info.pid,
        "started": info.started.sec,
        "state": state_of(info),
        "paused": info.paused,
        "actors": { "dirs": info.actors[0], "files": info.actors[1] },
        "busy": { "dirs": info.busy[0], "files": info.busy[1] },
        "bwlimit": info.limits.bytes_per_second,
        "ops_limit": info.limits.operations_per_second,
        "load": f64::from(info.load_milli) / 1000.0,
        "rss_bytes": info.rss_bytes,
        "queue_wait_seconds": info.queue_wait_us as f64 / 1e6,
        "broker_blocked": info.blocked,
        "jobs": jobs.collect::<Vec<_>>(),
    })
}

/// What an actor does, as JSON.
pub fn activity_json(name: &str, activity: &Activity) -> Value {
    json!({
        "node": name,
        "actor": escaped(activity.actor.as_bytes()),
        "job": activity.job.to_string(),
        "task": escaped(activity.task.as_bytes()),
        "path": escaped(&activity.path),
        "seconds": activity.age_ms as f64 / 1000.0,
        "bytes": activity.bytes,
    })
}

/// Who did not answer, or not so that it could be understood.
pub fn missing_json(answers: &Answers) -> Value {
    json!({ "strangers": answers.strangers.iter().map(stranger_json).collect::<Vec<_>>(), "silent": answers.silent })
}

fn stranger_json(stranger: &Stranger) -> Value {
    json!({
        "node": escaped(stranger.name.as_bytes()),
        "version": escaped(stranger.version.as_bytes()),
        "wire": stranger.wire,
        "why": stranger.why(),
    })
}

/// Messages hold names that are escaped already; what is left of controls, in words from elsewhere, is taken out.
pub fn escaped_once(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
