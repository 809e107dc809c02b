//! `delete`: removes what only the target has, and touches nothing else.
//!
//! Invariant: below a directory whose source could not be listed to its end nothing is removed; neither is anything
//! that the source has, be it of another kind. See [`extras`](super::extras) for the rest.

use super::copy::work::Work;
use super::extras::{Extras, Place, SeenNames};
use super::{OpenError, Pass, Roots, Run, names_from};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError, aside};
use crate::model::filter::Matcher;
use crate::model::task::{Names, tag};
use crate::model::{JobSpec, Kind, Operation, Phase, Queue, RelPath, Report, Task, Totals};

/// Sibling directories in one task: few messages, yet enough tasks to share out.
const GROUP: usize = 32;

/// The delete pass on one node.
pub struct DeletePass {
    roots: Roots,
    matcher: Matcher,
    extras: Extras,
    work: Work,
    dry_run: bool,
    source_dev: u64,
    /// Device and inode of the target's root: never walked into as a part of the source.
    target_root: (u64, u64),
}

/// Prepares the pass.
///
/// # Errors
/// A root that cannot be looked at; [`OpenError::Refused`] as [`Extras::new`].
pub fn open(spec: &JobSpec, roots: Roots, leads: bool) -> Result<Box<dyn Pass>, OpenError> {
    let matcher = Matcher::new(&spec.policy.filter).map_err(|e| OpenError::Refused(e.to_string()))?;
    let extras = Extras::new(spec, &roots, matcher.clone())?;
    let target = roots.target.open_dir(&RelPath::root())?;
    let root = target.metadata()?;
    let source_dev = roots.source.open_dir(&RelPath::root())?.metadata()?.dev;
    let dry_run = spec.policy.dry_run;
    // A dry run leaves even the folders of dead jobs alone.
    let work = Work::open(spec.id, target, leads && !dry_run)?;
    if !leads && !roots.target.traits().forgets {
        work.join()?;
    }
    let target_root = (root.dev, root.ino);
    Ok(Box::new(DeletePass { roots, matcher, extras, work, dry_run, source_dev, target_root }))
}

/// What became of a directory that both sides had.
type Walked = Result<(), FsError>;

impl DeletePass {
    /// Walks sibling directories that both sides have; what is left goes back when another actor has nothing to do.
    fn walk(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        let opened = self.roots.source.open_dir(parent).map_err(sourced).and_then(|source| {
            let target = self.roots.target.open_dir(parent)?;
            Ok((source, target))
        });
        let (source, target) = match opened {
            Ok(pair) => pair,
            Err(e) if names.is_empty() => {
                run.report.totals.found += 1;
                settle(Vec::new(), Err(e), run);
                return Ok(());
            }
            Err(e) => {
                names.iter().for_each(|(_, name)| settle(parent.display_join(name), Err(e), run));
                return Ok(());
            }
        };
        if names.is_empty() {
            run.report.totals.found += 1;
            let place = Place { path: parent, source: source.as_ref(), target: target.as_ref() };
            let walked = self.compare(place, run)?;
            settle(Vec::new(), walked, run);
            return Ok(());
        }
        for (i, (_, name)) in names.iter().enumerate() {
            if i > 0 && (run.ticket.is_hungry(Queue::Dirs) || run.turn.is_over()) {
                let left = names_from(names, i);
                return run.ticket.post(Task::Dirs { parent: parent.clone(), names: left });
            }
            let walked = self.walk_child(parent, source.as_ref(), target.as_ref(), name, run)?;
            settle(parent.display_join(name), walked, run);
        }
        Ok(())
    }

    fn walk_child(
        &self,
        parent: &RelPath,
        source: &dyn Dir,
        target: &dyn Dir,
        name: &[u8],
        run: &mut Run<'_>,
    ) -> Result<Walked, Stopped> {
        let Ok(path) = parent.join(name) else {
            return Ok(Err(FsError { operation: Operation::OpenDirectory, errno: libc::ENAMETOOLONG }));
        };
        let opened = source.open_dir(name).map_err(sourced).and_then(|source| Ok((source, target.open_dir(name)?)));
        match opened {
            Ok((source, target)) => {
                self.compare(Place { path: &path, source: source.as_ref(), target: target.as_ref() }, run)
            }
            // It went, or is no directory on one of the sides: a copy sees to that.
            Err(e) if matches!(e.class(), Class::Vanished | Class::OtherKind) => Ok(Ok(())),
            Err(e) => Ok(Err(e)),
        }
    }

    /// Lists a directory of the source, then finds what only the target has, and posts the directories that both have.
    fn compare(&self, place: Place<'_>, run: &mut Run<'_>) -> Result<Walked, Stopped> {
        match self.is_entered(place) {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(())),
            Err(e) => return Ok(Err(e)),
        }
        let mut seen = SeenNames::of(place.path);
        if let Err(e) = place.source.list(&mut |entry| seen.add(entry.name)) {
            return Ok(Err(sourced(e)));
        }
        let mut shared = Names::default();
        let found = self.extras.find(place, &seen.seal(), None, run, &mut |name, kind, run| {
            self.keep(place.path, name, kind, &mut shared, run)
        })?;
        if !shared.is_empty() {
            run.ticket.post(Task::Dirs { parent: place.path.clone(), names: shared })?;
        }
        if found.working_files
            && !self.dry_run
            && let Err(e) = self.work.sweep(place.target, false, &mut run.report.totals)
        {
            // What is in it has been seen to.
            let failure = super::copy::failure(place.path.as_bytes().to_vec(), e);
            run.fail(failure, Phase::Whole, Totals::default());
        }
        Ok(Ok(()))
    }

    /// Is what is in a directory of the source this job's business?
    fn is_entered(&self, place: Place<'_>) -> Result<bool, FsError> {
        let source = place.source.metadata().map_err(sourced)?;
        if (source.dev, source.ino) == self.target_root {
            return Err(FsError { operation: Operation::OpenDirectory, errno: libc::EDEADLK });
        }
        let elsewhere = self.matcher.one_file_system() && source.dev != self.source_dev;
        Ok(self.matcher.enters(place.path) && !elsewhere)
    }

    /// Entries that were named, and everything in those that are directories.
    fn pick(&self, dir: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        if !self.matcher.takes_with_parents(dir) {
            run.report.totals.found += names.len() as u64;
            run.report.totals.filtered += names.len() as u64;
            return Ok(());
        }
        let source = match self.roots.source.open_dir(dir) {
            Ok(source) => Some(source),
            Err(e) if e.is_absent() => None,
            // Something else is in its place: a copy sees to that.
            Err(e) if e.class() == Class::OtherKind => return Ok(()),
            Err(e) => {
                run.report.totals.found += names.len() as u64;
                names.iter().for_each(|(_, name)| settle(dir.display_join(name), Err(sourced(e)), run));
                return Ok(());
            }
        };
        let mut shared = Names::default();
        self.extras.find_named(dir, source.as_deref(), names, run, &mut |name, kind, run| {
            self.keep(dir, name, kind, &mut shared, run)
        })?;
        if shared.is_empty() { Ok(()) } else { run.ticket.post(Task::Dirs { parent: dir.clone(), names: shared }) }
    }

    /// An entry that the source has. Directories are counted when they have been compared.
    fn keep(
        &self,
        dir: &RelPath,
        name: &[u8],
        kind: Kind,
        shared: &mut Names,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        let totals = &mut run.report.totals;
        totals.found += 1;
        if !self.matcher.takes(dir, name, kind) {
            totals.filtered += 1;
        } else if kind == Kind::Directory {
            let _ = shared.push(0, name); // was checked before
            if shared.len() >= GROUP {
                return run.ticket.post(Task::Dirs { parent: dir.clone(), names: std::mem::take(shared) });
            }
        } else {
            totals.unchanged += 1;
        }
        Ok(())
    }

    fn dirs(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        let (mut extra, mut shared) = (Names::default(), Names::default());
        for (bits, name) in names.iter() {
            let list = if bits & tag::EXTRA != 0 { &mut extra } else { &mut shared };
            let _ = list.push(bits, name); // was checked when it got here
        }
        if !extra.is_empty() {
            self.extras.walk(parent, &extra, &self.work, run)?;
        }
        if extra.is_empty() || !shared.is_empty() { self.walk(parent, &shared, run) } else { Ok(()) }
    }

    /// Removes what the job needed only while it ran; the root's times stay as they are.
    fn clear_up(&self) -> Result<(), FsError> {
        let root = self.roots.target.open_dir(&RelPath::root())?;
        match root.stat(aside::WORK_DIR) {
            Err(e) if e.is_absent() => return Ok(()),
            _ => {}
        }
        let before = root.metadata()?;
        self.work.remove()?;
        // Who does not own the root cannot; then its times tell of the hidden directory.
        let _ = root.edit_self().and_then(|edit| edit.set_times(before.atime, before.mtime));
        Ok(())
    }
}

/// An error of the source: why an entry of the target stays.
fn sourced(e: FsError) -> FsError {
    match e.operation {
        Operation::OpenDirectory | Operation::Stat => FsError { operation: Operation::Lookup, ..e },
        _ => e,
    }
}

/// Counts a directory that both sides had.
fn settle(path: Vec<u8>, walked: Walked, run: &mut Run<'_>) {
    let totals = &mut run.report.totals;
    totals.directories += 1;
    match walked {
        Ok(()) => totals.unchanged += 1,
        Err(e) => {
            let counted = Totals { directories: 1, ..Totals::default() };
            run.fail(super::copy::failure(path, e), Phase::Walk, counted);
        }
    }
}

impl Pass for DeletePass {
    fn run(&self, task: &Task, run: &mut Run<'_>) -> Result<(), Stopped> {
        match task {
            Task::Dirs { parent, names } => self.dirs(parent, names, run),
            Task::Remove { dir, names } => self.extras.remove(dir, names, run).map(drop),
            Task::Pick { dir, names } => self.pick(dir, names, run),
            Task::Batch { .. } | Task::Chunk { .. } | Task::Finish { .. } => {
                let error = FsError { operation: Operation::Run, errno: libc::ENOSYS };
                let failure = super::copy::failure(task.directory().as_bytes().to_vec(), error);
                run.fail(failure, Phase::Whole, Totals::default());
                Ok(())
            }
        }
    }

    fn may_finish(&self, totals: &Totals) -> Result<(), String> {
        self.extras.may_finish(totals)
    }

    fn mark(&self) -> Result<(), FsError> {
        if self.roots.target.traits().forgets { Ok(()) } else { self.work.folder().map(drop) }
    }

    fn conclude(&self, report: &mut Report) {
        if self.dry_run && self.work.is_unused() {
            return;
        }
        if let Err(e) = self.clear_up() {
            report.fail(super::copy::failure(aside::WORK_DIR.to_vec(), e), Phase::Whole, Totals::default());
        }
    }
}
