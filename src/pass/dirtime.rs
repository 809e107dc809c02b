//! `dirtime`: gives each directory of the target what its source has for attributes, and touches nothing else.
//!
//! Invariant: a directory's attributes are set by what `copy` sets them with; setting one changes neither its parent nor
//! what is in it, so they may be set in any order, and twice.

use super::copy::{CopyPass, Trouble, failure};
use super::{OpenError, Pass, Roots, Run, names_from};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError, aside};
use crate::model::filter::Matcher;
use crate::model::task::Names;
use crate::model::{JobSpec, Kind, Operation, Phase, Queue, RelPath, Report, Task, Totals, check_name};

/// Sibling directories in one task: few messages, yet enough tasks to share out.
const GROUP: usize = 32;

/// The dirtime pass on one node.
pub struct DirtimePass {
    roots: Roots,
    matcher: Matcher,
    copy: CopyPass,
    source_dev: u64,
    /// Device and inode of the target's root: never walked into as a part of the source.
    target_root: (u64, u64),
}

/// Prepares the pass.
///
/// # Errors
/// A root that cannot be looked at.
pub fn open(spec: &JobSpec, roots: Roots, leads: bool) -> Result<Box<dyn Pass>, OpenError> {
    let matcher = Matcher::new(&spec.policy.filter).map_err(|e| OpenError::Refused(e.to_string()))?;
    let target = roots.target.open_dir(&RelPath::root())?.metadata()?;
    let source_dev = roots.source.open_dir(&RelPath::root())?.metadata()?.dev;
    let copy = CopyPass::new(spec, roots.clone(), leads)?;
    Ok(Box::new(DirtimePass { roots, matcher, copy, source_dev, target_root: (target.dev, target.ino) }))
}

impl DirtimePass {
    fn walk(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        let source = match self.roots.source.open_dir(parent) {
            Ok(source) => source,
            Err(e) if names.is_empty() => {
                run.report.totals.found += 1;
                fail(Phase::Walk, Vec::new(), Trouble::Source(e), Totals::default(), run);
                return Ok(());
            }
            Err(e) => {
                names.iter().for_each(|(_, name)| not_found(parent.display_join(name), e, run));
                return Ok(());
            }
        };
        if names.is_empty() {
            run.report.totals.found += 1;
            run.ticket.post(Task::Finish { parent: parent.clone(), names: Names::default() })?;
            if let Err(e) = self.list(parent, source.as_ref(), run)? {
                fail(Phase::Walk, Vec::new(), Trouble::Target(e), Totals::default(), run);
            }
            return Ok(());
        }
        let target = self.roots.target.open_dir(parent);
        for (i, (_, name)) in names.iter().enumerate() {
            if i > 0 && (run.ticket.is_hungry(Queue::Dirs) || run.turn.is_over()) {
                let left = names_from(names, i);
                return run.ticket.post(Task::Dirs { parent: parent.clone(), names: left });
            }
            self.walk_child(parent, source.as_ref(), target.as_deref(), name, run)?;
        }
        Ok(())
    }

    /// One directory of the source: its copy's attributes, then what is below it, whatever became of that.
    fn walk_child(
        &self,
        parent: &RelPath,
        source: &dyn Dir,
        target: Result<&dyn Dir, &FsError>,
        name: &[u8],
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        let before = run.begin();
        let dressed = match target {
            Ok(target) => self.copy.finish_child(source, target, name, &mut run.report.totals),
            Err(e) => Err(Trouble::Target(*e)),
        };
        if let Ok(changed) = dressed {
            count(changed, run);
        }
        let own = run.since(&before);
        let listed = match (parent.join(name), source.open_dir(name)) {
            (Ok(path), Ok(dir)) => self.list(&path, dir.as_ref(), run)?,
            // It went, or became something else: it has been counted.
            (_, Err(e)) if !matches!(e.class(), Class::Vanished | Class::OtherKind) => Err(e),
            _ => Ok(()),
        };
        let path = parent.display_join(name);
        match (dressed, listed) {
            (Ok(_), Ok(())) => {}
            (Ok(_), Err(e)) => fail(Phase::Walk, path, Trouble::Target(e), own, run),
            (Err(trouble), Ok(())) => fail(Phase::Dress, path, trouble, own, run),
            (Err(trouble), Err(_)) => fail(Phase::Walk, path, trouble, own, run),
        }
        Ok(())
    }

    /// Directories that are dressed once more; the root, whose attributes come last of all, is only counted.
    fn finish(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        if !names.is_empty() {
            return self.copy.finish(parent, names, run);
        }
        // Who leads the job finds out again what is lost or wrong, and says it.
        count(self.copy.try_finish_root(&mut Totals::default()).unwrap_or(false), run);
        Ok(())
    }

    /// Directories that were named, and all below them.
    fn pick(&self, dir: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        if !self.matcher.takes_with_parents(dir) {
            return Ok(());
        }
        let source = match self.roots.source.open_dir(dir) {
            Ok(source) => source,
            Err(e) => {
                run.report.totals.found += names.len() as u64;
                names.iter().for_each(|(_, name)| not_found(dir.display_join(name), e, run));
                return Ok(());
            }
        };
        let mut dirs = Names::default();
        for (_, name) in names.iter() {
            self.route(dir, name, source.stat(name).map(|m| m.kind), &mut dirs, run)?;
        }
        if dirs.is_empty() { Ok(()) } else { run.ticket.post(Task::Dirs { parent: dir.clone(), names: dirs }) }
    }

    /// Posts the directories in one of the source.
    fn list(&self, path: &RelPath, source: &dyn Dir, run: &mut Run<'_>) -> Result<Result<(), FsError>, Stopped> {
        match self.is_entered(path, source) {
            Ok(true) => {}
            other => return Ok(other.map(drop)),
        }
        let mut dirs = Names::default();
        let mut stopped = Ok(());
        let listed = source.list(&mut |entry| {
            let kind = entry.kind.map_or_else(|| source.stat(entry.name).map(|m| m.kind), Ok);
            let ours = aside::is_working_file(entry.name) || (path.is_root() && entry.name == aside::WORK_DIR);
            if stopped.is_ok() && !ours {
                stopped = self.route(path, entry.name, kind, &mut dirs, run);
            }
        });
        stopped?;
        if !dirs.is_empty() {
            run.ticket.post(Task::Dirs { parent: path.clone(), names: dirs })?;
        }
        Ok(listed)
    }

    fn route(
        &self,
        path: &RelPath,
        name: &[u8],
        kind: Result<Kind, FsError>,
        dirs: &mut Names,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        match kind {
            Ok(Kind::Directory) => {}
            Ok(_) => return Ok(()),
            Err(e) if e.is_absent() => return Ok(()),
            Err(e) => {
                run.report.totals.found += 1;
                not_found(path.display_join(name), e, run);
                return Ok(());
            }
        }
        run.report.totals.found += 1;
        if check_name(name).is_err() {
            let error = FsError { operation: Operation::List, errno: libc::ENAMETOOLONG };
            not_found(path.display_join(name), error, run);
        } else if !self.matcher.takes(path, name, Kind::Directory) {
            run.report.totals.filtered += 1;
        } else {
            let _ = dirs.push(0, name); // was checked above
            if dirs.len() >= GROUP {
                return run.ticket.post(Task::Dirs { parent: path.clone(), names: std::mem::take(dirs) });
            }
        }
        Ok(())
    }

    /// Is what is in a directory of the source this job's business?
    fn is_entered(&self, path: &RelPath, source: &dyn Dir) -> Result<bool, FsError> {
        let m = source.metadata()?;
        if (m.dev, m.ino) == self.target_root {
            return Err(FsError { operation: Operation::OpenDirectory, errno: libc::EDEADLK });
        }
        Ok(self.matcher.enters(path) && !(self.matcher.one_file_system() && m.dev != self.source_dev))
    }
}

fn count(changed: bool, run: &mut Run<'_>) {
    let totals = &mut run.report.totals;
    totals.directories += 1;
    *(if changed { &mut totals.updated } else { &mut totals.unchanged }) += 1;
}

/// An entry of the source that was found, and could not be looked at.
fn not_found(path: Vec<u8>, error: FsError, run: &mut Run<'_>) {
    fail(Phase::Walk, path, Trouble::Source(error), Totals::default(), run);
}

/// Records what became of a directory that has `besides` counted something itself.
fn fail(phase: Phase, path: Vec<u8>, trouble: Trouble, besides: Totals, run: &mut Run<'_>) {
    if trouble.is_vanished() {
        run.report.totals.vanished += 1;
        return;
    }
    run.fail(failure(path, trouble.error()), phase, besides);
}

impl Pass for DirtimePass {
    fn run(&self, task: &Task, run: &mut Run<'_>) -> Result<(), Stopped> {
        match task {
            Task::Dirs { parent, names } => self.walk(parent, names, run),
            Task::Pick { dir, names } => self.pick(dir, names, run),
            Task::Finish { parent, names } => self.finish(parent, names, run),
            Task::Batch { .. } | Task::Chunk { .. } | Task::Remove { .. } => {
                let error = FsError { operation: Operation::Run, errno: libc::ENOSYS };
                let path = task.directory().as_bytes().to_vec();
                fail(Phase::Whole, path, Trouble::Target(error), Totals::default(), run);
                Ok(())
            }
        }
    }

    fn mark(&self) -> Result<(), FsError> {
        self.copy.mark()
    }

    fn conclude(&self, report: &mut Report) {
        self.copy.clear_up(report);
        self.copy.finish_root(report);
    }
}
