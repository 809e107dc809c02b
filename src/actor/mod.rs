//! Thin actix shells around passes: dir actors and file actors on threads of their own, in pools.
//!
//! Invariant: an actor holds one task at a time; whatever ends it - retirement, a panic - the task is either
//! finished or given back, and its pool hears of it.

mod pool;
mod roster;
mod slow;
mod worker;

pub use pool::{Drain, IsAlive, MAX_ACTORS, PoolSupervisor, Resize};
pub use roster::Roster;

use crate::model::JobId;
use crate::pass::Pass;
use std::sync::Arc;

/// Finds the pass of a job that a task belongs to.
pub trait Jobs: Send + Sync {
    /// The pass, prepared on this node; none if the job is not, or no longer, known here.
    fn pass(&self, job: JobId) -> Option<Arc<dyn Pass>>;
}
