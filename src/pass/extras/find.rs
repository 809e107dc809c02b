//! Finding what only the target has, entry by entry, and counting it.

use super::seen::{SealedNames, SeenNames, is_ours};
use super::{Extras, fail};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError};
use crate::model::task::{Entry, MAX_TASK_ENTRIES, Names, tag};
use crate::model::{Finding, Kind, Operation, Phase, RelPath, Task, Totals, check_name};
use crate::pass::Run;

/// Sibling directories in one task: few messages, yet enough tasks to share out.
const GROUP: usize = 32;
/// Findings that are held before they are told.
const TELL_FINDINGS: usize = 256;

/// A directory that both sides have, held open.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Where.
    pub path: &'a RelPath,
    /// In the source.
    pub source: &'a dyn Dir,
    /// In the target.
    pub target: &'a dyn Dir,
}

/// Hears of entries of the target that stay since the source has them.
pub type Kept<'a> = dyn FnMut(&[u8], Kind, &mut Run<'_>) -> Result<(), Stopped> + 'a;

/// What was met beside extras.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// There are working files, perhaps of dead jobs.
    pub working_files: bool,
}

/// Extras of one directory that have not been posted yet.
pub(super) struct Outbox<'a> {
    path: &'a RelPath,
    entries: Names,
    dirs: Names,
    /// Entries that were posted, or wait for it.
    pub(super) posted: u64,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(path: &'a RelPath) -> Self {
        Outbox { path, entries: Names::default(), dirs: Names::default(), posted: 0 }
    }

    pub(super) fn add_entry(&mut self, bits: u8, name: &[u8], run: &mut Run<'_>) -> Result<(), Stopped> {
        let _ = self.entries.push(bits, name); // was checked before
        self.posted += 1;
        if self.entries.len() >= MAX_TASK_ENTRIES { self.post_entries(run) } else { Ok(()) }
    }

    fn add_dir(&mut self, name: &[u8], run: &mut Run<'_>) -> Result<(), Stopped> {
        let _ = self.dirs.push(tag::EXTRA, name); // was checked before
        self.posted += 1;
        if self.dirs.len() >= GROUP { self.post_dirs(run) } else { Ok(()) }
    }

    fn post_entries(&mut self, run: &mut Run<'_>) -> Result<(), Stopped> {
        if self.entries.is_empty() {
            return Ok(());
        }
        run.ticket.post(Task::Remove { dir: self.path.clone(), names: std::mem::take(&mut self.entries) })
    }

    fn post_dirs(&mut self, run: &mut Run<'_>) -> Result<(), Stopped> {
        if self.dirs.is_empty() {
            return Ok(());
        }
        run.ticket.post(Task::Dirs { parent: self.path.clone(), names: std::mem::take(&mut self.dirs) })
    }

    pub(super) fn post_all(&mut self, run: &mut Run<'_>) -> Result<(), Stopped> {
        self.post_entries(run)?;
        self.post_dirs(run)
    }
}

/// What lists a directory of the target: the names of its source directory, or nothing if there is none.
pub(super) struct Side<'a> {
    pub(super) source: Option<(&'a dyn Dir, &'a SealedNames)>,
    pub(super) target: &'a dyn Dir,
}

/// What was met in a directory of the target.
#[derive(Default)]
pub(super) struct Met {
    pub(super) working_files: bool,
    /// Something in it stays.
    pub(super) stays: bool,
}

impl Extras {
    /// Finds what only the target has in a directory that both have. `names` are those of a complete listing of the
    /// source's, taken before. With those of the target's from a listing of the same time, a directory without
    /// extras costs nothing more.
    ///
    /// # Errors
    /// [`Stopped`]. What goes wrong with an entry is recorded, and the entry stays.
    pub fn find(
        &self,
        place: Place<'_>,
        names: &SealedNames,
        target_names: Option<&SealedNames>,
        run: &mut Run<'_>,
        kept: &mut Kept<'_>,
    ) -> Result<Found, Stopped> {
        if let Some(theirs) = target_names {
            run.report.totals.target_found += theirs.count();
            if !self.policy.excluded && names.covers(theirs) {
                return Ok(Found::default());
            }
        }
        match self.is_apart(place.target) {
            Ok(true) => {}
            Ok(false) => return Ok(Found::default()),
            Err(e) => {
                fail_shared(place.path, e, run);
                return Ok(Found::default());
            }
        }
        let side = Side { source: Some((place.source, names)), target: place.target };
        let counted = target_names.is_some();
        let mut out = Outbox::new(place.path);
        let (met, listed) = self.list(&side, &mut out, counted, run, kept)?;
        if let Err(e) = listed {
            fail_shared(place.path, e, run);
        }
        out.post_all(run)?;
        Ok(Found { working_files: met.working_files })
    }

    /// As [`find`](Extras::find), for entries that were named instead of listed. `source` is none if the source lacks
    /// the directory.
    ///
    /// # Errors
    /// As [`find`](Extras::find).
    pub fn find_named(
        &self,
        path: &RelPath,
        source: Option<&dyn Dir>,
        wanted: &Names,
        run: &mut Run<'_>,
        kept: &mut Kept<'_>,
    ) -> Result<(), Stopped> {
        let target = match self.roots.target.open_dir(path) {
            Ok(target) => target,
            // There is nothing that could be too much.
            Err(e) if matches!(e.class(), Class::Vanished | Class::OtherKind) => return Ok(()),
            Err(e) => {
                run.report.totals.found += wanted.len() as u64;
                wanted.iter().for_each(|(_, name)| fail(path.display_join(name), e, run));
                return Ok(());
            }
        };
        let none = SeenNames::of(path).seal();
        let side = Side { source: source.map(|source| (source, &none)), target: target.as_ref() };
        let mut out = Outbox::new(path);
        for (bits, name) in wanted.iter().filter(|(_, name)| !is_ours(path, name)) {
            let kind = match target.stat(name) {
                Ok(m) => Some(m.kind),
                Err(e) if e.is_absent() => continue,
                Err(_) => None, // is met again, and reported
            };
            run.report.totals.target_found += u64::from(bits & tag::COUNTED == 0);
            self.look(&side, &Entry { name, kind, metadata: None }, &mut out, run, kept)?;
        }
        out.post_all(run)
    }

    /// Is this directory of the target this job's business? Not the trash, and not the source, bound in by a mount.
    pub(super) fn is_apart(&self, target: &dyn Dir) -> Result<bool, FsError> {
        let m = target.metadata()?;
        if (m.dev, m.ino) == self.guard.id() {
            return Err(FsError { operation: Operation::OpenDirectory, errno: libc::EDEADLK });
        }
        Ok(!self.trash.as_ref().is_some_and(|trash| trash.is(&m)))
    }

    pub(super) fn list(
        &self,
        side: &Side<'_>,
        out: &mut Outbox<'_>,
        counted: bool,
        run: &mut Run<'_>,
        kept: &mut Kept<'_>,
    ) -> Result<(Met, Result<(), FsError>), Stopped> {
        let mut met = Met::default();
        let mut stopped = Ok(());
        let listed = side.target.list(&mut |entry| {
            if stopped.is_err() {
                return;
            }
            if is_ours(out.path, entry.name) {
                met.working_files = true;
                return;
            }
            run.report.totals.target_found += u64::from(!counted);
            stopped = self.look(side, &entry, out, run, kept).map(|extra| met.stays |= !extra);
        });
        stopped.map(|()| (met, listed))
    }

    /// Looks at one entry of the target. True if it is an extra.
    fn look(
        &self,
        side: &Side<'_>,
        entry: &Entry<'_>,
        out: &mut Outbox<'_>,
        run: &mut Run<'_>,
        kept: &mut Kept<'_>,
    ) -> Result<bool, Stopped> {
        let name = entry.name;
        let kind = match self.judge(side, out.path, entry) {
            Ok(Verdict::Extra(kind)) => kind,
            Ok(Verdict::Kept(kind)) => return kept(name, kind, run).map(|()| false),
            Ok(Verdict::Protected) => {
                run.report.totals.found += 1;
                run.report.totals.filtered += 1;
                return Ok(false);
            }
            Ok(Verdict::Gone) => return Ok(true),
            Err(e) => {
                run.report.totals.found += 1;
                // That it was looked at is counted before.
                let looked_at = Totals { target_found: 1, ..Totals::default() };
                run.fail(crate::pass::copy::failure(out.path.display_join(name), e), Phase::Walk, looked_at);
                return Ok(false);
            }
        };
        if kind == Kind::Directory {
            return out.add_dir(name, run).map(|()| true); // counted when it has been listed
        }
        self.count(out.path.display_join(name), kind, run);
        if self.dry_run { Ok(true) } else { out.add_entry(0, name, run).map(|()| true) }
    }

    fn judge(&self, side: &Side<'_>, path: &RelPath, entry: &Entry<'_>) -> Result<Verdict, FsError> {
        let name = entry.name;
        if check_name(name).is_err() {
            return Err(FsError { operation: Operation::List, errno: libc::ENAMETOOLONG });
        }
        let kind = match entry.kind {
            Some(kind) => kind,
            None => match side.target.stat(name) {
                Ok(m) => m.kind,
                Err(e) if e.is_absent() => return Ok(Verdict::Gone),
                Err(e) => return Err(e),
            },
        };
        if self.policy.excluded && self.is_excluded(path, side, name, kind)? {
            return Ok(Verdict::Extra(kind));
        }
        if let Some((_, names)) = side.source
            && names.holds(name) == Some(true)
        {
            return Ok(Verdict::Kept(kind));
        }
        if let Some((source, _)) = side.source {
            match source.stat(name) {
                Ok(_) => return Ok(Verdict::Kept(kind)),
                Err(e) if e.is_absent() => {}
                Err(e) => return Err(FsError { operation: Operation::Lookup, ..e }),
            }
        }
        match self.is_protected(path, side, name, kind) {
            Ok(true) => Ok(Verdict::Protected),
            Ok(false) => Ok(Verdict::Extra(kind)),
            Err(e) if e.is_absent() => Ok(Verdict::Gone),
            Err(e) => Err(e),
        }
    }

    /// Is it to go because a filter leaves it out?
    fn is_excluded(&self, path: &RelPath, side: &Side<'_>, name: &[u8], kind: Kind) -> Result<bool, FsError> {
        match self.protects(path, side.source.map(|(source, _)| source), side.target, name, kind) {
            Err(e) if e.is_absent() => Ok(false),
            other => other,
        }
    }

    /// Does it stay, although only the target has it? What lies too deep is nobody's business here.
    fn is_protected(&self, path: &RelPath, side: &Side<'_>, name: &[u8], kind: Kind) -> Result<bool, FsError> {
        let by_filter = !self.policy.excluded && self.protects(path, None, side.target, name, kind)?;
        let too_deep = kind == Kind::Directory && path.join(name).is_ok_and(|path| !self.matcher.enters(&path));
        Ok(by_filter || too_deep)
    }

    /// Counts an extra; a dry run tells of it.
    pub(super) fn count(&self, path: Vec<u8>, kind: Kind, run: &mut Run<'_>) {
        run.report.totals.found += 1;
        run.report.totals.extra += 1;
        if self.dry_run {
            let finding =
                Finding { path, what: "would delete".into(), expected: String::new(), found: kind.noun().into() };
            run.report.findings.push(finding);
            if run.report.findings.len() >= TELL_FINDINGS {
                let told = std::mem::take(&mut run.report);
                run.tell(told);
            }
        }
    }
}

/// A directory that both have, and that is counted as one although the target's cannot be compared.
fn fail_shared(path: &RelPath, error: FsError, run: &mut Run<'_>) {
    let counted = Totals { directories: 1, ..Totals::default() };
    run.fail(crate::pass::copy::failure(path.as_bytes().to_vec(), error), Phase::Walk, counted);
}

/// What becomes of an entry of the target.
enum Verdict {
    /// Only the target has it.
    Extra(Kind),
    /// The source has it.
    Kept(Kind),
    /// A filter keeps it.
    Protected,
    /// It is not there any more.
    Gone,
}
