//! The broker in RabbitMQ: tasks of many jobs, shared by many workers.
//!
//! Invariants:
//!
//! - A delivery is acknowledged only when every task derived from it is done, every message published for
//!   it is confirmed, and the report of what was done is confirmed. Until then the broker keeps it.
//! - All that belongs to one connection is forgotten with it: the broker delivers again what was not
//!   acknowledged, and nothing else needs to be remembered.
//! - A message is decoded within bounds; what cannot be understood goes to the job's dead letters with a
//!   reason, and never comes back.
//!
//! What a task posts stays in the worker's memory while that keeps its actors busy (`lanes`); the broker
//! gets it when others are idle, when the backlog grows past its bounds, or when it gets old. A message may
//! carry several small tasks. `token` ties all of it to the delivery it came from; `settle` reports and
//! acknowledges. [`Leader`] follows a job, knows when it is over (`quiescence`) and clears up.
//!
//! Totals can count a task twice only if its worker dies or loses the broker after the task's report was
//! confirmed and before its delivery was acknowledged: a moment, or the age of a delivery that is reported
//! early because it takes longer than a second.

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
mod worker;

pub use config::{Access, AmqpConfig, Identity, QueueType, split_urls};
pub use envelope::Seal;
pub use error::AmqpError;
pub use follow::{Followed, Follower, replay};
pub use jobs::JobState;
pub use office::{Answers, Office, QueueDepth};
pub use stranger::Stranger;
pub use submit::{Retry, forget, jobs, reopen, submit};
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
