//! Finding what only the target has, and counting it.

use super::seen::{SealedNames, is_ours};
use super::{Extras, fail};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError};
use crate::model::task::{Entry, MAX_TASK_ENTRIES, Names, tag};
use crate::model::{Finding, Kind, Operation, Queue, RelPath, Task, check_name};
use crate::pass::Run;
use crate::pass::copy::work::Work;

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
struct Outbox<'a> {
    path: &'a RelPath,
    entries: Names,
    dirs: Names,
    posted: u64,
}

impl<'a> Outbox<'a> {
    fn new(path: &'a RelPath) -> Self {
        Outbox { path, entries: Names::default(), dirs: Names::default(), posted: 0 }
    }

    fn add_entry(&mut self, bits: u8, name: &[u8], run: &mut Run<'_>) -> Result<(), Stopped> {
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

    fn post_all(&mut self, run: &mut Run<'_>) -> Result<(), Stopped> {
        self.post_entries(run)?;
        self.post_dirs(run)
    }
}

/// What lists a directory of the target: the names of its source directory, or nothing if there is none.
struct Side<'a> {
    source: Option<(&'a dyn Dir, &'a SealedNames)>,
    target: &'a dyn Dir,
}

/// What was met in a directory of the target.
#[derive(Default)]
struct Met {
    working_files: bool,
    /// Something in it stays.
    stays: bool,
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
                fail(place.path.as_bytes().to_vec(), e, run);
                return Ok(Found::default());
            }
        }
        let side = Side { source: Some((place.source, names)), target: place.target };
        let counted = target_names.is_some();
        let mut out = Outbox::new(place.path);
        let (met, listed) = self.list(&side, &mut out, counted, run, kept)?;
        if let Err(e) = listed {
            fail(place.path.as_bytes().to_vec(), e, run);
        }
        out.post_all(run)?;
        Ok(Found { working_files: met.working_files })
    }

    /// Is this directory of the target this job's business? Not the trash, and not the source, bound in by a mount.
    fn is_apart(&self, target: &dyn Dir) -> Result<bool, FsError> {
        let m = target.metadata()?;
        if (m.dev, m.ino) == self.guard.id() {
            return Err(FsError { operation: Operation::OpenDirectory, errno: libc::EDEADLK });
        }
        Ok(!self.trash.as_ref().is_some_and(|trash| trash.is(&m)))
    }

    fn list(
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
                fail(out.path.display_join(name), e, run);
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
        if self.policy.excluded && self.is_excluded(path, side.target, name, kind)? {
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
        match self.is_protected(path, side.target, name, kind) {
            Ok(true) => Ok(Verdict::Protected),
            Ok(false) => Ok(Verdict::Extra(kind)),
            Err(e) if e.is_absent() => Ok(Verdict::Gone),
            Err(e) => Err(e),
        }
    }

    /// Is it to go because a filter leaves it out?
    fn is_excluded(&self, path: &RelPath, holder: &dyn Dir, name: &[u8], kind: Kind) -> Result<bool, FsError> {
        match self.protects(path, holder, name, kind) {
            Err(e) if e.is_absent() => Ok(false),
            other => other,
        }
    }

    /// Does it stay, although only the target has it? What lies too deep is nobody's business here.
    fn is_protected(&self, path: &RelPath, holder: &dyn Dir, name: &[u8], kind: Kind) -> Result<bool, FsError> {
        let by_filter = !self.policy.excluded && self.protects(path, holder, name, kind)?;
        let too_deep = kind == Kind::Directory && path.join(name).is_ok_and(|path| !self.matcher.enters(&path));
        Ok(by_filter || too_deep)
    }

    /// Counts an extra; a dry run tells of it.
    fn count(&self, path: Vec<u8>, kind: Kind, run: &mut Run<'_>) {
        run.report.totals.found += 1;
        run.report.totals.extra += 1;
        if self.dry_run {
            let finding =
                Finding { path, what: "would delete".into(), expected: String::new(), found: kind.noun().into() };
            run.report.findings.push(finding);
            if run.report.findings.len() >= TELL_FINDINGS {
                run.ticket.report(std::mem::take(&mut run.report));
            }
        }
    }

    /// Goes through sibling directories that only the target has, and posts what is in them.
    ///
    /// # Errors
    /// [`Stopped`]. What goes wrong with a directory is recorded, and it stays.
    pub fn walk(&self, parent: &RelPath, names: &Names, work: &Work, run: &mut Run<'_>) -> Result<(), Stopped> {
        let holder = match self.roots.target.open_dir(parent) {
            Ok(holder) => holder,
            // Somebody else removed it with all that was in it.
            Err(e) if e.is_absent() => return Ok(()),
            Err(e) => {
                for (_, name) in names.iter() {
                    run.report.totals.found += 1;
                    fail(parent.display_join(name), e, run);
                }
                return Ok(());
            }
        };
        let mut empty = Outbox::new(parent);
        let mut rest = names.iter().enumerate();
        while let Some((i, (bits, name))) = rest.next() {
            if i > 0 && run.ticket.is_hungry(Queue::Dirs) {
                let mut given = Names::default();
                for (bits, name) in std::iter::once((bits, name)).chain(rest.by_ref().map(|(_, n)| n)) {
                    let _ = given.push(bits, name); // was checked when it got here
                }
                run.ticket.post(Task::Dirs { parent: parent.clone(), names: given })?;
                break;
            }
            match self.walk_child(parent, holder.as_ref(), name, work, run)? {
                Ok(true) => empty.add_entry(tag::DIRECTORY, name, run)?,
                Ok(false) => {}
                // It went, or became something else: the next pass sees it.
                Err(e) if matches!(e.class(), Class::Vanished | Class::OtherKind) => {}
                Err(e) => {
                    run.report.totals.found += 1;
                    fail(parent.display_join(name), e, run);
                }
            }
        }
        empty.post_all(run)
    }

    /// One of them. True if nothing is in it, so that it is to be removed itself.
    fn walk_child(
        &self,
        parent: &RelPath,
        holder: &dyn Dir,
        name: &[u8],
        work: &Work,
        run: &mut Run<'_>,
    ) -> Result<Result<bool, FsError>, Stopped> {
        let Ok(path) = parent.join(name) else {
            return Ok(Err(FsError { operation: Operation::OpenDirectory, errno: libc::ENAMETOOLONG }));
        };
        let opened = holder.open_dir(name).and_then(|dir| {
            let (apart, m) = (self.is_apart(dir.as_ref())?, dir.metadata()?);
            Ok((dir, apart, m))
        });
        let (dir, m) = match opened {
            Ok((dir, true, m)) => (dir, m),
            Ok((_, false, _)) => return Ok(Ok(false)),
            Err(e) => return Ok(Err(e)),
        };
        if self.matcher.one_file_system() && m.dev != self.target_dev {
            run.report.totals.found += 1;
            run.report.totals.filtered += 1;
            return Ok(Ok(false));
        }
        let side = Side { source: None, target: dir.as_ref() };
        let mut out = Outbox::new(&path);
        let (met, listed) = self.list(&side, &mut out, false, run, &mut |_, _, _| Ok(()))?;
        out.post_all(run)?;
        let swept = if met.working_files && !self.dry_run {
            work.sweep(dir.as_ref(), false, &mut run.report.totals).map(drop)
        } else {
            Ok(())
        };
        if let Err(e) = listed.and(swept) {
            return Ok(Err(e));
        }
        if self.trash.as_ref().is_some_and(|trash| trash.is_below(&m)) {
            return Ok(Ok(false)); // it stays, since the trash is in it
        }
        if met.stays {
            run.report.totals.found += 1;
            run.report.totals.unchanged += 1;
            return Ok(Ok(false));
        }
        self.count(path.as_bytes().to_vec(), Kind::Directory, run);
        Ok(Ok(out.posted == 0 && !self.dry_run))
    }
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
