//! The broker port: where tasks wait, and who is told that they are done.
//!
//! Promises of every adapter:
//!
//! - **No task is lost.** A delivery stays with the broker until [`Ticket::finish`], and what it posted is
//!   safe before it is forgotten. A ticket that is dropped, or whose process dies, is delivered again.
//! - **A task may be delivered twice**, also at the same time.
//! - [`Queue::Finish`] tasks are held back until the walk is quiescent: no other task is ready or in flight.
//! - Memory is bounded, however much is posted.
//!
//! A new broker is one folder here and one row in [`SCHEMES`]; the suite in `conformance.rs` runs on it.

pub mod amqp;
pub mod codec;
#[cfg(test)]
mod conformance;
pub mod embedded;
mod spill;

use crate::model::{JobId, Queue, Report, Task, TaskId, Totals};
use std::sync::Arc;
use std::time::Duration;

/// URL schemes that `--broker` accepts. Without the option the embedded broker is used.
pub const SCHEMES: &[&str] = &["amqp", "amqps"];

/// Asked once, with the exact totals of the walk, before the tasks of [`Queue::Finish`] are let go. A refusal, with
/// its reason, ends the job: none of them is run.
pub type Gate = Box<dyn Fn(&Totals) -> Result<(), String> + Send + Sync>;

/// Which actors ask for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pool {
    /// Dir actors: [`Queue::Dirs`].
    Dirs,
    /// File actors: [`Queue::Files`], then [`Queue::Finish`].
    Files,
}

impl Pool {
    /// The word in messages and thread names.
    pub fn noun(self) -> &'static str {
        match self {
            Pool::Dirs => "dirs",
            Pool::Files => "files",
        }
    }
}

/// Where actors of a worker get their tasks. Calls come from the actors' own threads and may block.
pub trait Broker: Send + Sync {
    /// The next task for an actor of this pool; none after `patience`, or when the broker is closing.
    fn take(&self, pool: Pool, patience: Duration) -> Option<Delivery>;
}

/// A task in the hands of an actor.
pub struct Delivery {
    /// What it is called in logs.
    pub id: TaskId,
    /// The job it belongs to.
    pub job: JobId,
    /// What to do.
    pub task: Arc<Task>,
    /// It may have been worked on before by somebody who did not finish: working files may be left.
    pub redelivered: bool,
    /// The way back.
    pub ticket: Box<dyn Ticket>,
}

/// The actor's side of one delivery. Dropping it gives the task back.
pub trait Ticket: Send {
    /// Posts a task. Waits while there is no room, unless the actor is one of those who make room.
    ///
    /// # Errors
    /// [`Stopped`]: the job is being ended; the actor returns without finishing.
    fn post(&mut self, task: Task) -> Result<(), Stopped>;

    /// Would another actor be glad of a part of this task?
    fn is_hungry(&self, queue: Queue) -> bool;

    /// Tells what has been done so far, to be added to the job's totals.
    fn report(&mut self, report: Report);

    /// Effects are done: the broker may forget the task once what was posted and reported is safe.
    fn finish(self: Box<Self>);

    /// The task killed or panicked its actor; it is delivered again a bounded number of times, then set aside.
    fn give_back(self: Box<Self>, why: &str);
}

/// The job is being ended; there is no use in going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job is being stopped")]
pub struct Stopped;

/// How often a task may kill its actor before it is set aside.
pub const MAX_ATTEMPTS: u32 = 3;
