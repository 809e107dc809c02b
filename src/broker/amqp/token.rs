//! What holds a delivery open.
//!
//! Invariant: while one task derived from a delivery is not done, or one message published for it is not
//! confirmed, somebody holds its token. When the last holder lets go, the delivery is settled.

use super::run::Run;
use crate::model::{Queue, Report, Task};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A delivery that takes longer reports what it did so far before it is settled: somebody watches.
const REPORT_EARLY: Duration = Duration::from_secs(1);

/// One unacknowledged delivery.
pub(super) struct Token {
    pub run: Arc<Run>,
    queue: Queue,
    tag: u64,
    arrived: Instant,
    begun: OnceLock<Instant>,
    report: Mutex<Report>,
    forsaken: AtomicBool,
}

/// A delivery that nobody needs any more.
pub(super) struct Settled {
    pub queue: Queue,
    pub tag: u64,
    pub report: Report,
}

impl Token {
    /// For a delivery that has just arrived; counts it.
    pub fn new(run: &Arc<Run>, queue: Queue, tag: u64) -> Arc<Self> {
        run.delivered(queue);
        Arc::new(Token {
            run: Arc::clone(run),
            queue,
            tag,
            arrived: Instant::now(),
            begun: OnceLock::new(),
            report: Mutex::default(),
            forsaken: AtomicBool::new(false),
        })
    }

    /// Work on it begins now.
    pub fn begin(&self) {
        let _ = self.begun.set(Instant::now());
    }

    /// How long it has been worked on, or has waited for that.
    pub fn age(&self) -> Duration {
        self.begun.get().unwrap_or(&self.arrived).elapsed()
    }

    /// Adds to what is told when the delivery is settled, or sooner if that takes long.
    pub fn report(&self, report: Report) {
        let urgent = report.abort.is_some();
        if urgent || self.age() > REPORT_EARLY {
            let mut all = self.take_report();
            merge(&mut all, report);
            self.run.report_early(all);
        } else {
            merge(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner), report);
        }
    }

    fn take_report(&self) -> Report {
        std::mem::take(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves the delivery to the broker, which gives it to somebody else when the connection ends.
    pub fn forsake(&self) {
        if !self.forsaken.swap(true, SeqCst) {
            self.run.forsaken();
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !*self.forsaken.get_mut() {
            let report = self.take_report();
            self.run.settle(Settled { queue: self.queue, tag: self.tag, report });
        }
    }
}

/// Adds one report to another.
pub(super) fn merge(all: &mut Report, more: Report) {
    all.add(more);
}

/// A task in this worker's memory, and the delivery it came from.
pub(super) struct Held {
    pub task: Arc<Task>,
    /// How often it killed its actor.
    pub attempts: u32,
    /// Somebody may have worked on it before.
    pub again: bool,
    pub token: Arc<Token>,
}
