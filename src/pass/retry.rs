//! What failed is tried again, and counts as if it had not failed.
//!
//! Invariant: the totals of a job, less what its failures counted, plus those of the tasks that try them again, are the
//! totals of a job in which they did not fail. Two things are counted anew with a directory that is tried again: what had
//! been found in it before its listing broke off, and bytes that were written before a file failed.

use super::Run;
use crate::model::outcome::Phase;
use crate::model::task::{Names, tag};
use crate::model::{Failure, RelPath, Report, Task, Totals};

/// The task that tries again what failed. None if there is none that would do just that: the whole pass has to be run
/// again.
pub fn again(failure: &Failure) -> Option<Task> {
    let path = RelPath::parse(failure.path.clone()).ok()?;
    let (dir, name) = path.split_last();
    let Some(name) = name else {
        return match failure.phase {
            Phase::Walk => Some(Task::root()),
            // Its own attributes come last in every job: one without any work does it.
            Phase::Finish => Some(Task::Pick { dir, names: Names::default() }),
            Phase::Dress | Phase::Remove | Phase::RemoveDirectory | Phase::Whole => None,
        };
    };
    let names = |bits: u8| {
        let mut names = Names::default();
        names.push(bits, name).ok().map(|()| names)
    };
    // A listing of the target has had it already, or the failure takes that back.
    let is_found = failure.counted.as_ref().is_some_and(|counted| counted.target_found == 0);
    Some(match failure.phase {
        Phase::Walk => Task::Pick { names: names(if is_found { tag::COUNTED } else { 0 })?, dir },
        Phase::Dress => Task::Finish { names: names(tag::UNCOUNTED)?, parent: dir },
        Phase::Finish => Task::Finish { names: names(0)?, parent: dir },
        Phase::Remove => Task::Remove { names: names(0)?, dir },
        Phase::RemoveDirectory => Task::Remove { names: names(tag::DIRECTORY)?, dir },
        Phase::Whole => return None,
    })
}

impl Run<'_> {
    /// Begins with an entry: the totals as they are.
    pub(super) fn begin(&mut self) -> Totals {
        self.told = None;
        self.report.totals
    }

    /// What was counted since then, what was told meanwhile included.
    pub(super) fn since(&self, before: &Totals) -> Totals {
        let mut counted = self.report.totals;
        if let Some(told) = &self.told {
            counted.add(told);
        }
        counted.take_back(before);
        counted
    }

    /// Tells what has been done so far of a task that is not done yet.
    pub(super) fn tell(&mut self, report: Report) {
        self.told.get_or_insert_default().add(&report.totals);
        self.early.add(super::spent_on(&report.totals));
        self.ticket.report(report);
    }

    /// Records the failure of an entry that has `besides` counted something itself.
    pub(super) fn fail(&mut self, failure: Failure, phase: Phase, besides: Totals) {
        self.report.fail(failure, phase, besides);
    }
}

#[cfg(test)]
mod tests;
