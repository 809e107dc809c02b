//! On what terms a worker takes tasks at the moment.

use crate::model::JobId;
use std::collections::HashSet;

/// What holds for all jobs of a worker.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    /// Deliveries at a time, for dir actors and for file actors; 0 means that there are no such actors.
    pub prefetch: [u16; 2],
    /// It takes no task at all.
    pub paused: bool,
    /// Jobs of which nobody takes a task.
    pub paused_jobs: HashSet<JobId>,
}

/// What holds for one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// As in [`Terms`].
    pub prefetch: [u16; 2],
    /// No task of it is taken, and none is kept.
    pub paused: bool,
}

impl Terms {
    /// What holds for a job.
    pub fn of(&self, job: JobId) -> Share {
        Share { prefetch: self.prefetch, paused: self.paused || self.paused_jobs.contains(&job) }
    }
}
