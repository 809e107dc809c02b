//! `verify`: compares two trees, and sums up a fingerprint of each. `fingerprint` is the same work on one tree alone.
//!
//! Invariant: nothing is written to either side. What is in an entry's element of the fingerprint is compared, so two trees
//! without a difference have one fingerprint. Labels that a system sets by itself and quota projects are compared, too,
//! and are not in it: a tree has one fingerprint on whatever filesystem. Contents are in it only of files that both
//! trees have at one size: fingerprints of different trees only tell that they are different.
//!
//! What one task cannot judge goes to the leader as marks (`telemetry::Board::settle`): groups of hard links, and
//! files whose pieces several tasks look at.

mod compare;
mod conclude;
mod contents;
mod differences;
mod entry;
mod look;
mod pieces;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use super::{OpenError, Pass, Roots, Run, filtered};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, Filesystem, FsError};
use crate::model::filter::Matcher;
use crate::model::fingerprint::Sum;
use crate::model::task::{Names, tag};
use crate::model::{
    Evidence, Failure, Finding, Half, JobSpec, Mark, Operation, Phase, Policy, RelPath, Report, State, Task, Timestamp,
    Totals, escaped,
};
use std::sync::Arc;

/// The verify pass on one node.
pub struct VerifyPass {
    /// Source and target.
    roots: [Arc<dyn Filesystem>; 2],
    /// Their devices.
    devices: [u64; 2],
    policy: Policy,
    matcher: Matcher,
    /// Quota projects are compared: both trees have them. Where the source's entry is of none, any will do.
    projects: bool,
    /// Times are cut to it.
    granularity_ns: u32,
    /// There is only a target, and nothing is compared.
    alone: bool,
    /// When the job was submitted: files are as old as they were then.
    submitted: Timestamp,
}

/// Prepares the comparison of two trees.
///
/// # Errors
/// A root that cannot be looked at, or a filter that this version cannot understand.
pub fn open(spec: &JobSpec, roots: Roots, _leads: bool) -> Result<Box<dyn Pass>, OpenError> {
    Ok(Box::new(VerifyPass::new(spec, &roots, false)?))
}

/// Prepares the fingerprint of the target alone.
///
/// # Errors
/// As [`open`].
pub fn open_alone(spec: &JobSpec, roots: Roots, _leads: bool) -> Result<Box<dyn Pass>, OpenError> {
    Ok(Box::new(VerifyPass::new(spec, &roots, true)?))
}

const HALVES: [Half; 2] = [Half::Source, Half::Target];

/// Which trees have an entry, and what has been said about that: bits of [`tag`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scope(u8);

impl Scope {
    const BOTH: Scope = Scope(0);
    const SOURCE: Scope = Scope(tag::MISSING);
    const TARGET: Scope = Scope(tag::EXTRA);

    fn of(half: Half) -> Self {
        if half == Half::Source { Scope::SOURCE } else { Scope::TARGET }
    }

    fn from_bits(bits: u8) -> Self {
        Scope(bits & (tag::MISSING | tag::EXTRA | tag::UNSURE | tag::COUNTED))
    }

    /// With a bit more.
    fn with(self, bit: u8) -> Self {
        Scope(self.0 | bit)
    }

    fn has(self, half: Half) -> bool {
        self.0 & if half == Half::Source { tag::EXTRA } else { tag::MISSING } == 0
    }

    fn is_both(self) -> bool {
        self.0 & (tag::EXTRA | tag::MISSING) == 0
    }

    fn is_unsure(self) -> bool {
        self.0 & tag::UNSURE != 0
    }

    fn is_counted(self) -> bool {
        self.0 & tag::COUNTED != 0
    }

    /// Of what lies in a directory: all of it differs as well, and is counted entry by entry.
    fn below(self) -> Self {
        Scope(self.0 & (tag::EXTRA | tag::MISSING))
    }
}

/// A directory, open in the trees that have it.
struct Pair {
    path: RelPath,
    dirs: [Option<Box<dyn Dir>>; 2],
    scope: Scope,
}

impl Pair {
    fn dir(&self, half: Half) -> Option<&dyn Dir> {
        self.dirs[half as usize].as_deref()
    }
}

/// An error, and in which tree.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    half: Half,
    error: FsError,
}

impl Trouble {
    fn new(half: Half) -> impl Fn(FsError) -> Self {
        move |error| Trouble { half, error }
    }

    /// The entry was seen to be absent.
    fn is_absent(&self) -> bool {
        self.error.class() == Class::Vanished
    }
}

impl VerifyPass {
    fn new(spec: &JobSpec, roots: &Roots, alone: bool) -> Result<Self, OpenError> {
        let roots = [Arc::clone(&roots.source), Arc::clone(&roots.target)];
        let look = |half: Half| roots[half as usize].open_dir(&RelPath::root())?.metadata();
        let [source, target] = [look(Half::Source)?, look(Half::Target)?];
        if spec.policy.verify.target_ino.is_some_and(|ino| ino != target.ino) {
            // Not the one that was submitted: it is not mounted here.
            return Err(FsError { operation: Operation::OpenRoot, errno: libc::ESTALE }.into());
        }
        let matcher = Matcher::new(&spec.policy.filter).map_err(|e| OpenError::Refused(e.to_string()))?;
        filtered::check(&spec.policy.filter, roots[0].as_ref(), &spec.source).map_err(OpenError::Refused)?;
        let projects = !alone && spec.policy.projects && roots.iter().all(|root| root.traits().projects);
        Ok(VerifyPass {
            projects,
            devices: [source.dev, target.dev],
            matcher,
            granularity_ns: spec.policy.verify.granularity_ns.max(1),
            policy: spec.policy.clone(),
            alone,
            submitted: spec.submitted,
            roots,
        })
    }

    /// Whose entries bits of a task mean here.
    fn scope(&self, bits: u8) -> Scope {
        if self.alone { Scope::TARGET } else { Scope::from_bits(bits) }
    }

    fn open_pair(&self, path: &RelPath, scope: Scope) -> Result<Pair, Trouble> {
        let open = |half: Half| match scope.has(half) {
            true => self.roots[half as usize].open_dir(path).map(Some).map_err(Trouble::new(half)),
            false => Ok(None),
        };
        Ok(Pair { path: path.clone(), dirs: [open(Half::Source)?, open(Half::Target)?], scope })
    }

    /// Records what became of an entry that could not be looked at.
    fn fail(&self, path: Vec<u8>, trouble: Trouble, run: &mut Run<'_>) {
        self.fail_in(Phase::Walk, path, trouble, Totals::default(), run);
    }

    /// As [`fail`](Self::fail), of an entry that has `besides` counted something itself.
    fn fail_in(&self, phase: Phase, path: Vec<u8>, trouble: Trouble, besides: Totals, run: &mut Run<'_>) {
        if trouble.is_absent() {
            run.report.totals.vanished += 1;
        } else {
            run.fail(failure(path, trouble), phase, besides);
        }
    }

    /// Nothing but the salt keeps hashes of two jobs apart.
    fn salt(&self) -> &[u8; 32] {
        &self.policy.verify.salt
    }
}

/// Lists an entry that failed, unless it is only gone.
fn list_failure(path: Vec<u8>, trouble: Trouble, report: &mut Report) {
    if !trouble.is_absent() {
        report.failures.push(failure(path, trouble));
    }
}

fn failure(path: Vec<u8>, trouble: Trouble) -> Failure {
    let (FsError { operation, errno }, half) = (trouble.error, trouble.half);
    tracing::debug!(path = escaped(&path), %operation, errno, ?half, "entry failed");
    let words = trouble.error.words();
    let mut message = if half == Half::Source { format!("{words} (source)") } else { format!("{words} (target)") };
    if trouble.error.is_released() {
        message.push_str("; only a recall, or verify without --content, can compare it");
    }
    Failure::new(path, operation, Some(errno), message)
}

fn evidence<'a>(run: &'a mut Run<'_>) -> &'a mut Evidence {
    run.report.evidence.get_or_insert_default()
}

/// Adds an element to the sums of the trees that have it.
fn add_sum(scope: Scope, sum: &Sum, run: &mut Run<'_>) {
    let sums = &mut evidence(run).sums;
    for half in HALVES.into_iter().filter(|h| scope.has(*h)) {
        sums[half as usize].add(sum);
    }
}

fn mark_state(path: Vec<u8>, state: State, run: &mut Run<'_>) {
    evidence(run).marks.push(Mark::State { path, state });
}

/// The task that lists one directory.
fn list_one(parent: &RelPath, name: &[u8], scope: Scope) -> Task {
    let mut names = Names::default();
    let _ = names.push(scope.0, name); // was checked when it got here
    Task::Dirs { parent: parent.clone(), names }
}

impl Pass for VerifyPass {
    fn run(&self, task: &Task, run: &mut Run<'_>) -> Result<(), Stopped> {
        if run.redelivered {
            evidence(run).uncertain = true;
        }
        match task {
            Task::Dirs { parent, names } => self.walk(parent, names, run),
            Task::Batch { dir, entries, tag } => self.batch(dir, entries, self.scope(*tag), run),
            Task::Chunk { dir, name, part } => self.pieces(dir, name, part, run),
            Task::Pick { dir, names } => self.pick(dir, names, run),
            Task::Finish { .. } | Task::Remove { .. } => {
                let error = FsError { operation: Operation::Run, errno: libc::ENOSYS };
                let path = task.directory().as_bytes().to_vec();
                self.fail_in(Phase::Whole, path, Trouble { half: Half::Target, error }, Totals::default(), run);
                Ok(())
            }
        }
    }

    fn mark(&self) -> Result<(), FsError> {
        Ok(()) // nothing is written
    }

    fn conclude(&self, _report: &mut Report) {}
}

/// A difference, ready to be listed.
fn finding(path: Vec<u8>, what: &str, expected: impl Into<String>, found: impl Into<String>) -> Finding {
    Finding { path, what: what.into(), expected: expected.into(), found: found.into() }
}
