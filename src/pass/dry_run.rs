//! Around any pass: what a dry run would do is told with the reports of its tasks, so that it is listed wherever the
//! job was submitted.
//!
//! Invariant: findings are told on the thread that made them, before it goes on to another task, and do not pile up
//! within one.

use super::turn::Turn;
use super::{Pass, Roots, Run};
use crate::broker::{Stopped, Ticket};
use crate::fs::FsError;
use crate::fs::layers::dry_run;
use crate::model::{Finding, Queue, Report, Task, Totals};

/// A pass whose target is a [`dry_run`] layer.
pub struct DryRun {
    inner: Box<dyn Pass>,
    /// The target does not exist, and a real run would make it.
    makes_root: bool,
}

impl DryRun {
    /// Around a pass over these roots.
    pub fn new(inner: Box<dyn Pass>, roots: &Roots) -> Self {
        DryRun { inner, makes_root: dry_run::is_nowhere(roots.target.as_ref()) }
    }
}

impl Pass for DryRun {
    fn run(&self, task: &Task, run: &mut Run<'_>) -> Result<(), Stopped> {
        drop(dry_run::take()); // of a task that panicked
        let mut ticket = Telling(&mut *run.ticket);
        let report = std::mem::take(&mut run.report);
        let turn = std::mem::replace(&mut run.turn, Turn::begin());
        let (redelivered, early) = (run.redelivered, run.early);
        let mut inner = Run { ticket: &mut ticket, report, redelivered, turn, told: None, early };
        let done = self.inner.run(task, &mut inner);
        let (report, early) = (inner.report, inner.early);
        (run.report, run.early) = (report, early);
        run.report.findings.append(&mut dry_run::take());
        done
    }

    fn may_finish(&self, totals: &Totals) -> Result<(), String> {
        self.inner.may_finish(totals)
    }

    /// Nothing is written, so there is no mark.
    fn mark(&self) -> Result<(), FsError> {
        Ok(())
    }

    fn conclude(&self, report: &mut Report) {
        self.inner.conclude(report);
        report.findings.append(&mut dry_run::take());
        if self.makes_root {
            let what = "would make directory".to_owned();
            report.findings.push(Finding {
                path: Vec::new(),
                what,
                expected: "directory".into(),
                found: String::new(),
            });
        }
    }
}

/// Tells what has gathered whenever the task posts: a directory of millions must not be held back as a whole.
struct Telling<'a>(&'a mut dyn Ticket);

impl Ticket for Telling<'_> {
    fn post(&mut self, task: Task) -> Result<(), Stopped> {
        let findings = dry_run::take();
        if !findings.is_empty() {
            self.0.report(Report { findings, ..Report::default() });
        }
        self.0.post(task)
    }

    fn is_hungry(&self, queue: Queue) -> bool {
        self.0.is_hungry(queue)
    }

    fn report(&mut self, report: Report) {
        self.0.report(report);
    }

    /// The task's own ticket is settled by its actor.
    fn finish(self: Box<Self>) {}

    fn give_back(self: Box<Self>, _why: &str) {}
}
