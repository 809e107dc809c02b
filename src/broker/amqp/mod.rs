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
mod envelope;
mod error;
mod intervals;
mod joblog;
mod lanes;
mod lead;
mod leader;
mod link;
mod messages;
#[cfg(test)]
mod model_test;
mod patience;
mod publish;
mod quiescence;
mod run;
mod session;
mod settle;
mod stale;
#[cfg(test)]
mod tests;
mod ticket;
mod token;
mod topology;
mod worker;

pub use config::{AmqpConfig, QueueType};
pub use envelope::Seal;
pub use error::AmqpError;
pub use leader::{Ended, Fleet, Leader, Member, Outcome};
pub use stale::check;
pub use worker::{JobGate, Worker};
