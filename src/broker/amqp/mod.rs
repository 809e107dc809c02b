//! The broker in RabbitMQ: tasks of many jobs, shared by many workers.
//!
//! Invariants:
//!
//! - A delivery is acknowledged only when every task derived from it is done, every message published for
//!   it is confirmed, and the report of what was done is confirmed. Until then the broker keeps it.
//! - All that belongs to one connection is forgotten with it: the broker delivers again what was not
//!   acknowledged, and nothing else needs to be remembered.
//! - A message is decoded within bounds and only if it carries the fleet's keyed hash; what cannot be understood goes to
//!   the job's dead letters with a reason, and never comes back.
//! - Every fact about a job lies in two streams: the log of all jobs (`joblog`, `jobs`) and the job's own (`story`). Who
//!   reads them from their beginning knows how it stands, so a leader may die at any moment, and a follower come and go.
//! - Totals are exact, whatever died: each message is counted once, by the first report in the stream (`accounts`).
//!
//! What a task posts stays in the worker's memory while that keeps its actors busy (`lanes`); the broker
//! gets it when others are idle, when the backlog grows past its bounds, or when it gets old. `token` ties all of it to
//! the delivery it came from; `settle` reports and acknowledges. A delivery whose task takes longer than seconds is moved
//! to a queue of the worker's own, from where it comes back at once under a new tag (`session`), so that no time-out of the
//! broker can bite. Which worker leads a job is decided by a baton (`lead`); when its phases are over by `quiescence`.

mod accounts;
#[cfg(test)]
mod accounts_test;
mod config;
mod connection;
mod consume;
mod control;
#[cfg(test)]
mod control_tests;
mod envelope;
mod error;
mod follow;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod hostile_tests;
mod intervals;
mod joblog;
mod jobs;
mod lanes;
mod lead;
mod link;
mod messages;
#[cfg(test)]
mod model_test;
mod nameplate;
mod office;
mod patience;
mod publish;
mod quiescence;
mod run;
mod session;
mod settle;
mod story;
mod stranger;
mod submit;
mod terms;
#[cfg(test)]
mod tests;
mod ticket;
mod token;
mod topology;
mod waits;
mod worker;

pub use config::{Access, AmqpConfig, Identity, QueueType, split_urls};
pub use envelope::Seal;
pub use error::AmqpError;
pub use follow::{Followed, Follower, replay};
pub use jobs::JobState;
pub use office::{Answers, Office, QueueDepth};
pub use stranger::Stranger;
pub use submit::{Reads, Retry, forget, jobs, reopen, submit};
pub use worker::{JobGate, Worker};

/// Said while the broker has an alarm.
const BLOCKED: &str =
    "the broker is blocked: it has a memory or disk alarm and takes no messages; it goes on when that is over";

/// A runtime for calls that block.
fn blocking() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("broker").enable_all().build()
}

/// A number that nobody else has, for all practical purposes; never 0.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish().max(1)
}
