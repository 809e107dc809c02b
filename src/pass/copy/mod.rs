//! `copy`: makes the target a faithful copy of the source, and touches nothing that is right already.
//!
//! Invariant: an entry appears under its final name only complete, with all its attributes; the names in a
//! directory are worked on through two held descriptors; nothing that only the target has is removed.

pub(super) mod attributes;
mod entry;
mod finish;
mod large;
mod layouts;
mod links;
mod pick;
mod place;
mod project;
mod still;
mod walk;
pub(super) mod work;

pub(in crate::pass) use self::attributes::{
    is_removable, project_differs, project_of_kind, reads_xattrs, wanted, wanted_project,
};
use self::layouts::LayOut;
use self::links::Links;
use self::work::Work;
use super::extras::Extras;
use super::{OpenError, Pass, Roots, Run, filtered};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError, Traits};
use crate::model::filter::Matcher;
use crate::model::lustre::Placer;
use crate::model::task::{Names, tag};
use crate::model::{
    Failure, JobSpec, Operation, Phase, Policy, Project, RelPath, Report, Task, Timestamp, Totals, escaped,
};
use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// So many entries in a row must fail for want of space, with nothing written between, before the target
/// counts as full for good.
const FULL_AFTER: u32 = 64;

/// The copy pass on one node.
pub struct CopyPass {
    roots: Roots,
    policy: Policy,
    target: Traits,
    /// Quota projects are carried: both sides have them.
    projects: bool,
    /// Device and inode of the target's root: never walked into as a part of the source.
    target_root: (u64, u64),
    source_dev: u64,
    /// The source keeps times in steps of so many ns, and it matters.
    source_step_ns: u32,
    /// When the job was submitted.
    submitted: Timestamp,
    /// The same, as the target keeps times: what became right since then became so by the job.
    began: Timestamp,
    matcher: Matcher,
    /// A directory with something in it is never replaced by an entry of another kind.
    keeps_directories: bool,
    /// What only the target has goes.
    extras: Option<Extras>,
    /// Where directories are made, if that is not the target's choice.
    placer: Option<Placer>,
    work: Work,
    links: Links,
    /// How files are striped, where the target has several servers.
    lay_out: Option<LayOut>,
    full: AtomicU32,
}

/// Prepares the pass.
///
/// # Errors
/// A root that cannot be looked at.
pub fn open(spec: &JobSpec, roots: Roots, leads: bool) -> Result<Box<dyn Pass>, OpenError> {
    Ok(Box::new(CopyPass::new(spec, roots, leads)?))
}

/// A directory of the source and its copy.
struct Pair {
    path: RelPath,
    source: Box<dyn Dir>,
    target: Box<dyn Dir>,
    /// Quota project of the target's directory, once somebody asked: on Lustre each name that is made in it has it looked
    /// up anew.
    project: OnceCell<Project>,
}

impl Pair {
    fn new(path: RelPath, source: Box<dyn Dir>, target: Box<dyn Dir>) -> Self {
        Pair { path, source, target, project: OnceCell::new() }
    }

    /// Quota project of the target's directory.
    fn project(&self) -> Result<Project, FsError> {
        if let Some(project) = self.project.get() {
            return Ok(*project);
        }
        let asked = self.target.project(b"")?.unwrap_or_default();
        Ok(*self.project.get_or_init(|| asked))
    }
}

/// Whose error it was: absence means one thing in the source and another in the target.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    /// Of the source.
    Source(FsError),
    /// Of the target.
    Target(FsError),
}

impl Trouble {
    /// The error itself.
    pub(super) fn error(&self) -> FsError {
        match self {
            Trouble::Source(e) | Trouble::Target(e) => *e,
        }
    }

    /// The entry was seen to be absent from the source.
    pub(super) fn is_vanished(&self) -> bool {
        matches!(self, Trouble::Source(e) if e.class() == Class::Vanished)
    }

    /// Sides of an error of [`crate::fs::NewEntry::fill_from`].
    fn of_filling(e: FsError) -> Self {
        match e.operation {
            Operation::Read | Operation::SeekData | Operation::Stat => Trouble::Source(e),
            _ => Trouble::Target(e),
        }
    }
}

impl CopyPass {
    /// As [`open`], with its own type.
    ///
    /// # Errors
    /// A root that cannot be looked at; [`OpenError::Refused`], if what was asked for must not be done.
    pub fn new(spec: &JobSpec, roots: Roots, leads: bool) -> Result<Self, OpenError> {
        let matcher = Matcher::new(&spec.policy.filter).map_err(|e| OpenError::Refused(e.to_string()))?;
        filtered::check(&spec.policy.filter, roots.source.as_ref(), &spec.source).map_err(OpenError::Refused)?;
        let removes = spec.pass == "sync" && spec.policy.delete.is_some();
        let extras = removes.then(|| Extras::new(spec, &roots, matcher.clone())).transpose()?;
        let target = roots.target.open_dir(&RelPath::root())?;
        let root = target.metadata()?;
        let source_dev = roots.source.open_dir(&RelPath::root())?.metadata()?.dev;
        let lay_out = LayOut::open(spec, &roots, target.as_ref())?;
        let work = Work::open(spec.id, target, leads)?;
        let traits = roots.target.traits();
        if !leads && !traits.forgets {
            work.join()?;
        }
        let placer = if spec.policy.dry_run { None } else { placer_of(&spec.policy, &roots) };
        Ok(CopyPass {
            matcher,
            extras,
            keeps_directories: !spec.policy.filter.is_empty()
                || spec.pass == "sync"
                    && spec.policy.delete.as_ref().is_none_or(|d| d.max.is_some() || d.trash.is_some()),
            projects: spec.policy.projects && roots.source.traits().projects && roots.target.traits().projects,
            policy: as_kept(&spec.policy, &roots.source.traits()),
            source_dev,
            source_step_ns: if spec.policy.dry_run { 1 } else { roots.source.traits().time_granularity_ns },
            submitted: spec.submitted,
            began: traits.kept(spec.submitted),
            target: traits,
            placer,
            target_root: (root.dev, root.ino),
            links: Links::new(source_dev),
            lay_out,
            work,
            full: AtomicU32::new(0),
            roots,
        })
    }

    /// Copies one entry that is no directory, under a name of its own choice: what `copy FILE FILE` does.
    pub fn copy_single(&self, name: &[u8], target_name: &[u8], run: &mut Run<'_>) -> Result<(), Stopped> {
        run.report.totals.found += 1;
        match self.open_pair(&RelPath::root()) {
            Ok(pair) => {
                if let Err(e) = self.work.sweep(pair.target.as_ref(), false, &mut run.report.totals) {
                    tracing::debug!(error = %e, "cannot look for working files of killed runs");
                }
                self.entry(&pair, &entry::Names { source: name, target: target_name }, None, false, run).map(drop)
            }
            Err(trouble) => self.fail(name.to_vec(), trouble, run),
        }
    }

    /// Waits until names and attributes are on stable storage, too: each file was before it got its name.
    fn await_storage(&self, report: &mut Report) {
        if !self.policy.fsync || self.target.forgets {
            return;
        }
        // Who may not make the job's folder may do without: only some filesystems need a place for it.
        let root = |_| self.roots.target.open_dir(&RelPath::root()).map(Arc::from);
        let waited = self.work.folder().or_else(root).and_then(|dir| self.roots.target.barrier(dir.as_ref()));
        if let Err(e) = waited {
            let why = crate::fs::errno_text(e.errno);
            let message =
                format!("{why}: what was done may be lost if the target goes down; run the same command again");
            let failure = Failure::new(Vec::new(), e.operation, Some(e.errno), message);
            report.fail(failure, Phase::Whole, Totals::default());
        }
    }

    /// Removes what the job needed only while it ran.
    pub fn clear_up(&self, report: &mut Report) {
        self.await_storage(report);
        let parts = self.work.end_parts(self.roots.target.as_ref(), report);
        if let Err(e) = parts.and_then(|()| self.work.remove()) {
            report.fail(failure(crate::fs::aside::WORK_DIR.to_vec(), e), Phase::Whole, Totals::default());
        }
    }

    fn open_pair(&self, path: &RelPath) -> Result<Pair, Trouble> {
        let source = self.roots.source.open_dir(path).map_err(Trouble::Source)?;
        let target = self.roots.target.open_dir(path).map_err(Trouble::Target)?;
        Ok(Pair::new(path.clone(), source, target))
    }

    /// Directories that both sides have, and those that only the target has.
    fn dirs(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        let Some(extras) = self.extras.as_ref().filter(|_| names.iter().any(|(bits, _)| bits & tag::EXTRA != 0)) else {
            return self.walk(parent, names, run);
        };
        extras.walk(parent, names, &self.work, run)
    }

    /// Removes what only the target has; the directory that lost something gets its attributes back.
    fn remove(&self, dir: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        let Some(extras) = &self.extras else { return Ok(()) };
        let Some(changed) = extras.remove(dir, names, run)? else { return Ok(()) };
        let (parent, name) = changed.split_last();
        let Some(name) = name else { return Ok(()) }; // the root comes last of all
        let mut names = Names::default();
        let _ = names.push(0, name); // part of a path
        self.finish(&parent, &names, run)
    }

    /// Records what became of an entry that could not be worked on, and of which nothing is counted but that it was
    /// found. Ends the job if the target is full for good.
    fn fail(&self, path: Vec<u8>, trouble: Trouble, run: &mut Run<'_>) -> Result<(), Stopped> {
        self.fail_in(Phase::Walk, path, trouble, Totals::default(), run)
    }

    /// As [`fail`](Self::fail), of an entry that has `besides` counted something itself.
    fn fail_in(
        &self,
        phase: Phase,
        path: Vec<u8>,
        trouble: Trouble,
        besides: Totals,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        if trouble.is_vanished() {
            run.report.totals.vanished += 1;
            return Ok(());
        }
        let error = trouble.error();
        run.fail(failure(path, error), phase, besides);
        if matches!(trouble, Trouble::Target(_))
            && error.class() == Class::Full
            && error.operation != Operation::SetXattr
        {
            let in_a_row = self.full.fetch_add(1, Ordering::Relaxed) + 1;
            if in_a_row >= FULL_AFTER {
                let why = crate::fs::errno_text(error.errno);
                run.report.abort = Some(format!(
                    "the target is full ({why}): {in_a_row} entries in a row could not be written; make room and run \
                     the same command again, it goes on where it stopped"
                ));
                return Err(Stopped);
            }
        }
        Ok(())
    }

    fn wrote(&self, bytes: u64) {
        if bytes > 0 && self.full.load(Ordering::Relaxed) > 0 {
            self.full.store(0, Ordering::Relaxed);
        }
    }
}

/// What decides where directories are made; none if the target does.
fn placer_of(policy: &Policy, roots: &Roots) -> Option<Placer> {
    roots.target.servers().and_then(|servers| Placer::new(&policy.lustre, &servers.mdts))
}

/// The policy, with moments as this source keeps times: what changed within a step of its clock may have changed
/// after the moment.
fn as_kept(policy: &Policy, source: &Traits) -> Policy {
    let since = policy.since.map(|since| since.truncated(source.time_granularity_ns));
    Policy { since, ..policy.clone() }
}

/// A failure of an entry as it is reported.
pub(super) fn failure(path: Vec<u8>, error: FsError) -> Failure {
    let mut message = error.words();
    if error.is_released() {
        message.push_str(": --hsm copy recalls them, --hsm skip leaves them out");
    }
    tracing::debug!(path = escaped(&path), operation = %error.operation, errno = error.errno, "entry failed");
    Failure::new(path, error.operation, Some(error.errno), message)
}

impl Pass for CopyPass {
    fn run(&self, task: &Task, run: &mut Run<'_>) -> Result<(), Stopped> {
        match task {
            Task::Dirs { parent, names } => self.dirs(parent, names, run),
            Task::Batch { dir, entries, tag } => self.batch(dir, entries, *tag, run),
            Task::Finish { parent, names } => self.finish(parent, names, run),
            Task::Pick { dir, names } => self.pick(dir, names, run),
            Task::Remove { dir, names } => self.remove(dir, names, run),
            Task::Chunk { dir, name, part } => self.chunk(dir, name, part, run),
        }
    }

    fn may_finish(&self, totals: &Totals) -> Result<(), String> {
        self.extras.as_ref().map_or(Ok(()), |extras| extras.may_finish(totals))?;
        self.work.set_walked();
        Ok(())
    }

    fn mark(&self) -> Result<(), FsError> {
        if self.target.forgets { Ok(()) } else { self.work.folder().map(drop) }
    }

    fn conclude(&self, report: &mut Report) {
        if self.policy.fsync && !self.target.forgets {
            // So that what is waited for has them; that they are right at the end is seen to below.
            let _ = self.try_finish_root(&mut Totals::default());
        }
        self.clear_up(report);
        self.finish_root(report);
    }
}
