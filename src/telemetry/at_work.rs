//! Which task a thread works on, so that what is logged meanwhile can tell.
//!
//! Invariant: it costs a few stores a task whatever is logged, and nothing else; a span of `tracing` costs
//! an entry in a shared table, also where no line is ever written within it.

use crate::model::{JobId, TaskId};
use std::cell::Cell;
use std::marker::PhantomData;

/// A task, and its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtWork {
    /// The job.
    pub job: JobId,
    /// The task; none where it is about the job as a whole.
    pub task: Option<TaskId>,
}

thread_local! {
    static NOW: Cell<Option<AtWork>> = const { Cell::new(None) };
}

/// What this thread works on.
pub fn at_work() -> Option<AtWork> {
    NOW.try_with(Cell::get).unwrap_or_default()
}

/// This thread works on a task until what comes back is dropped.
pub fn begin(job: JobId, task: TaskId) -> Working {
    Working { before: NOW.replace(Some(AtWork { job, task: Some(task) })), here: PhantomData }
}

/// What this thread says is about a job, until what comes back is dropped.
pub fn attend(job: JobId) -> Working {
    Working { before: NOW.replace(Some(AtWork { job, task: None })), here: PhantomData }
}

/// A thread at work.
#[derive(Debug)]
#[must_use = "it ends where this is dropped"]
pub struct Working {
    before: Option<AtWork>,
    /// It is about this thread alone.
    here: PhantomData<*const ()>,
}

impl Drop for Working {
    fn drop(&mut self) {
        NOW.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_at_work_until_it_is_not() {
        let (job, task) = (JobId::random(), TaskId { message: None, number: 1 });
        assert_eq!(at_work(), None);
        let working = begin(job, task);
        assert_eq!(at_work(), Some(AtWork { job, task: Some(task) }));
        assert_eq!(std::thread::spawn(at_work).join().unwrap(), None, "another thread is not");
        drop(working);
        assert_eq!(at_work(), None);
        let panicked = std::panic::catch_unwind(|| {
            let _working = begin(job, task);
            panic!("a task may");
        });
        assert!(panicked.is_err() && at_work().is_none());
    }
}
