//! The passes: the work itself, free of actors and brokers.
//!
//! A pass is one file or folder here and one row in [`PASSES`]. It promises that running a task twice,
//! even at the same time on two nodes, gives the same result; that one bad entry never costs another; and
//! that it returns only when its effects are done.

pub mod copy;
pub mod delete;
pub mod dirtime;
mod dry_run;
pub mod extras;
pub mod filtered;
pub mod retry;
mod turn;
pub mod verify;

use self::turn::Turn;
use crate::broker::{Stopped, Ticket};
use crate::fs::{Filesystem, Side};
use crate::model::task::Names;
use crate::model::{JobSpec, Report, Spent, Task, Totals};
use std::sync::Arc;

/// What a task's run is given.
pub struct Run<'a> {
    /// Where to post and report.
    pub ticket: &'a mut dyn Ticket,
    /// What has been done and not been reported yet; the actor reports the rest at the end.
    pub report: Report,
    /// Somebody may have worked on this task before and died.
    pub redelivered: bool,
    /// How long it may still be worked on.
    turn: Turn,
    /// What has been reported already, since an entry was begun with.
    told: Option<Box<Totals>>,
    /// Entries and bytes that have been reported already.
    early: Spent,
}

impl<'a> Run<'a> {
    /// One whose turn begins now.
    pub fn new(ticket: &'a mut dyn Ticket, redelivered: bool) -> Self {
        Run { ticket, report: Report::default(), redelivered, turn: Turn::begin(), told: None, early: Spent::default() }
    }

    /// Entries and bytes that were worked on.
    pub fn spent(&self) -> Spent {
        let mut spent = self.early;
        spent.add(spent_on(&self.report.totals));
        spent
    }
}

/// The entries and bytes that were worked on.
fn spent_on(totals: &Totals) -> Spent {
    let bytes = totals.bytes_copied.saturating_add(totals.bytes_read);
    Spent { micros: 0, entries: totals.done(), bytes }
}

/// One kind of work on a tree.
pub trait Pass: Send + Sync {
    /// Works on one task. Failures of entries go into the report.
    ///
    /// # Errors
    /// [`Stopped`], when the job is being ended: the task is not done then.
    fn run(&self, task: &Task, run: &mut Run<'_>) -> Result<(), Stopped>;

    /// Asked where the job is led, once everything has been found and before anything is removed or finished.
    ///
    /// # Errors
    /// Why the job must not go on.
    fn may_finish(&self, _totals: &Totals) -> Result<(), String> {
        Ok(())
    }

    /// Marks the target as the job's, so that a node without the right mount can tell.
    ///
    /// # Errors
    /// The target's.
    fn mark(&self) -> Result<(), crate::fs::FsError>;

    /// After everything is over: clears up and gives the target's root its final attributes. Called once,
    /// by whoever leads the job.
    fn conclude(&self, report: &mut Report);
}

/// The two roots of a job, opened.
#[derive(Clone)]
pub struct Roots {
    /// Read.
    pub source: Arc<dyn Filesystem>,
    /// Written.
    pub target: Arc<dyn Filesystem>,
}

/// Why a pass cannot be prepared. Nothing was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A root cannot be looked at.
    #[error(transparent)]
    Fs(#[from] crate::fs::FsError),
    /// What was asked for must not, or cannot, be done; with the way out.
    #[error("{0}")]
    Refused(String),
}

/// Prepares a pass.
pub type OpenPass = fn(&JobSpec, Roots, leads: bool) -> Result<Box<dyn Pass>, OpenError>;

/// What a pass does with the target's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Makes it, if it is not there, and writes.
    Make,
    /// Writes; it must be there.
    Change,
    /// Only reads; it must be there.
    Read,
    /// Only reads, and there is no source: it is the same root.
    Inspect,
}

impl Access {
    /// How the target's root is opened.
    pub fn side(self) -> Side {
        if matches!(self, Access::Read | Access::Inspect) { Side::Source } else { Side::Target }
    }
}

/// A registry row.
pub struct PassRow {
    /// The verb on the command line and in job specs.
    pub name: &'static str,
    /// Prepares a pass on this node. `leads` is set where the job was submitted; elsewhere the target must be marked.
    pub open: OpenPass,
    /// What it does with the target's root.
    pub access: Access,
}

impl PassRow {
    /// Prepares the pass; one that only says what it would do tells it with its reports.
    ///
    /// # Errors
    /// A root that cannot be looked at, or that is not the job's.
    pub fn prepare(&self, spec: &JobSpec, roots: Roots, leads: bool) -> Result<Box<dyn Pass>, OpenError> {
        let pass = (self.open)(spec, roots.clone(), leads)?;
        if !(spec.policy.dry_run && self.access == Access::Make) {
            return Ok(pass);
        }
        Ok(Box::new(dry_run::DryRun::new(pass, &roots)))
    }
}

/// Every pass.
pub const PASSES: &[PassRow] = &[
    PassRow { name: "copy", open: copy::open, access: Access::Make },
    PassRow { name: "sync", open: copy::open, access: Access::Make },
    PassRow { name: "delete", open: delete::open, access: Access::Change },
    PassRow { name: "dirtime", open: dirtime::open, access: Access::Change },
    PassRow { name: "verify", open: verify::open, access: Access::Read },
    PassRow { name: "fingerprint", open: verify::open_alone, access: Access::Inspect },
];

/// The names from the `first` on: what is left of a task, for others.
fn names_from(names: &Names, first: usize) -> Names {
    let mut left = Names::default();
    for (bits, name) in names.iter().skip(first) {
        let _ = left.push(bits, name); // was checked when it got here
    }
    left
}

/// The pass of a job, by name.
pub fn row(name: &str) -> Option<&'static PassRow> {
    PASSES.iter().find(|p| p.name == name)
}
