//! Removing what was found, once everything has been found.

use super::trash::{self, Folder, Trash};
use super::{Extras, is_ours};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError};
use crate::model::task::{Names, tag};
use crate::model::{Kind, Operation, Phase, RelPath, Task, Totals};
use crate::pass::copy::failure;
use crate::pass::{Run, names_from};

/// Does the source have a directory?
enum Presence {
    /// It has, or something else is in its place.
    Has(Option<Box<dyn Dir>>),
    /// It was seen to be absent, or a filter leaves it out and what is left out goes.
    Lacks,
}

/// A directory of the target from which entries are removed.
struct Removal<'a> {
    path: &'a RelPath,
    /// Its source directory; none if the source does not have it.
    source: Option<&'a dyn Dir>,
    target: &'a dyn Dir,
    folder: Option<&'a Folder>,
}

impl Extras {
    /// Removes entries of a directory; and the directory, and those above, if the source lacks them too and nothing is
    /// left in them. Tells which directory that the source has was changed by it, if one was.
    ///
    /// # Errors
    /// [`Stopped`], if the source must not be believed any more. What goes wrong with an entry is recorded.
    pub fn remove(&self, dir: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<Option<RelPath>, Stopped> {
        if self.dry_run {
            return Ok(None);
        }
        let source = match self.presence(dir) {
            Ok(Presence::Lacks) => None,
            Ok(Presence::Has(Some(source))) => Some(source),
            Ok(Presence::Has(None)) => {
                run.report.totals.unchanged += names.len() as u64;
                return Ok(None);
            }
            Err(e) => return Ok(fail_all(dir, names, e, run)),
        };
        self.believe_source(run)?;
        let target = match self.roots.target.open_dir(dir) {
            Ok(target) => target,
            Err(e) if e.is_absent() => {
                names.iter().for_each(|_| count_gone(run));
                return Ok(if source.is_none() { self.climb(dir, run) } else { None });
            }
            Err(e) => return Ok(fail_all(dir, names, e, run)),
        };
        let mode = self.let_in(target.as_ref(), source.is_some());
        let enter = |trash: &Trash| trash.enter(self.roots.target.as_ref(), dir).map_err(trashed);
        let folder = match self.trash.as_ref().map(enter).transpose() {
            Ok(folder) => folder,
            Err(e) => return Ok(fail_all(dir, names, e, run)),
        };
        let at = Removal { path: dir, source: source.as_deref(), target: target.as_ref(), folder: folder.as_ref() };
        let mut changed = false;
        for (i, (bits, name)) in names.iter().enumerate() {
            if i > 0 && run.turn.is_over() {
                run.ticket.post(Task::Remove { dir: dir.clone(), names: names_from(names, i) })?;
                break;
            }
            changed |= self.remove_name(&at, bits, name, run);
        }
        if let (Some(trash), Some(folder)) = (&self.trash, &folder) {
            trash.leave(folder);
        }
        if let Some(mode) = mode
            && let Err(e) = target.edit_self().and_then(|edit| edit.set_mode(mode))
        {
            run.fail(failure(dir.as_bytes().to_vec(), e), Phase::Whole, Totals::default());
        }
        Ok(if source.is_none() { self.climb(dir, run) } else { changed.then(|| dir.clone()) })
    }

    /// The trash must have the directory before the target has not.
    fn prepare_trash(&self, path: &RelPath) -> Result<(), FsError> {
        let Some(trash) = &self.trash else { return Ok(()) };
        trash.prepare(self.roots.target.as_ref(), path).map_err(trashed)
    }

    /// A normal user must be able to write into their own directory. The mode to set again afterwards.
    fn let_in(&self, target: &dyn Dir, stays: bool) -> Option<u32> {
        let user = rustix::process::geteuid();
        if user.is_root() {
            return None;
        }
        let m = target.metadata().ok().filter(|m| m.uid == user.as_raw() && m.mode & 0o300 != 0o300)?;
        target.edit_self().and_then(|edit| edit.set_mode(m.mode | 0o700)).ok()?;
        stays.then_some(m.mode)
    }

    /// True if the directory was changed.
    fn remove_name(&self, at: &Removal<'_>, bits: u8, name: &[u8], run: &mut Run<'_>) -> bool {
        let path = || at.path.display_join(name);
        match self.is_absent(at, bits, name) {
            Ok(true) => {}
            Ok(false) => {
                run.report.totals.unchanged += 1;
                return false;
            }
            Err(e) => {
                fail(path(), bits, FsError { operation: Operation::Lookup, ..e }, run);
                return false;
            }
        }
        match self.try_remove(at, bits, name) {
            Ok(true) => {
                run.report.totals.deleted += 1;
                return true;
            }
            // Something came into it, or it became something else: the next pass sees it.
            Ok(false) => run.report.totals.unchanged += 1,
            Err(e) if e.class() == Class::OtherKind => run.report.totals.unchanged += 1,
            Err(e) if e.is_absent() => count_gone(run),
            Err(e) => fail(path(), bits, e, run),
        }
        false
    }

    fn try_remove(&self, at: &Removal<'_>, bits: u8, name: &[u8]) -> Result<bool, FsError> {
        if bits & tag::DIRECTORY != 0 {
            if let Ok(path) = at.path.join(name) {
                self.prepare_trash(&path)?;
            }
            return at.target.remove_empty_dir(name);
        }
        match at.folder {
            None => at.target.unlink(name)?,
            Some(folder) => trash::take(at.target, name, folder.dir.as_ref()).map_err(trashed)?,
        }
        Ok(true)
    }

    /// Is the source without this entry, now? Or is it to go because a filter leaves it out?
    fn is_absent(&self, at: &Removal<'_>, bits: u8, name: &[u8]) -> Result<bool, FsError> {
        if is_ours(at.path, name) {
            return Ok(false);
        }
        let Some(source) = at.source else { return Ok(true) };
        match source.stat(name) {
            Err(e) if e.is_absent() => Ok(true),
            Err(e) => Err(e),
            Ok(_) if !self.policy.excluded => Ok(false),
            Ok(_) => {
                let directory = bits & tag::DIRECTORY != 0;
                let kind = if directory { Kind::Directory } else { at.target.stat(name)?.kind };
                self.protects(at.path, at.source, at.target, name, kind)
            }
        }
    }

    fn presence(&self, dir: &RelPath) -> Result<Presence, FsError> {
        if self.policy.excluded && !self.matcher.takes_with_parents(dir) {
            return Ok(Presence::Lacks);
        }
        match self.roots.source.open_dir(dir) {
            Ok(source) => Ok(Presence::Has(Some(source))),
            Err(e) if e.is_absent() => Ok(Presence::Lacks),
            Err(e) if e.class() == Class::OtherKind => Ok(Presence::Has(None)),
            Err(e) => Err(FsError { operation: Operation::Lookup, ..e }),
        }
    }

    /// Removes a directory that the source lacks, and those above that it lacks too, as long as they are empty.
    /// The directory that the source has and that one was removed from, if it came to that.
    fn climb(&self, dir: &RelPath, run: &mut Run<'_>) -> Option<RelPath> {
        let mut at = dir.clone();
        loop {
            let (parent, name) = at.split_last();
            let changed = match self.remove_emptied(&parent, name?, &at, run) {
                Ok(removed) => removed?,
                Err(e) => {
                    fail(at.as_bytes().to_vec(), tag::DIRECTORY, e, run);
                    return None;
                }
            };
            match self.presence(&parent) {
                Ok(Presence::Lacks) => at = parent,
                Ok(Presence::Has(_)) => return changed.then_some(parent),
                Err(e) => {
                    fail(parent.as_bytes().to_vec(), tag::DIRECTORY, e, run);
                    return None;
                }
            }
        }
    }

    /// Removes a directory if it is empty. None if there is no use in going on upwards: something is left in it, or
    /// whoever removed it goes on. False if it was gone already.
    fn remove_emptied(
        &self,
        parent: &RelPath,
        name: &[u8],
        path: &RelPath,
        run: &mut Run<'_>,
    ) -> Result<Option<bool>, FsError> {
        let holder = match self.roots.target.open_dir(parent) {
            Ok(holder) => holder,
            Err(e) if e.is_absent() => return Ok(Some(false)),
            Err(e) => return Err(e),
        };
        let mode = self.let_in(holder.as_ref(), true);
        // Its entries made it there; it is made only if they all went by themselves.
        self.prepare_trash(path)?;
        let removed = holder.remove_empty_dir(name);
        if let Some(mode) = mode {
            holder.edit_self().and_then(|edit| edit.set_mode(mode))?;
        }
        match removed {
            Ok(true) => {
                run.report.totals.deleted += 1;
                Ok(Some(true))
            }
            Ok(false) => Ok(None),
            // Who removed it may have died of it before going on; then this is the task that goes on.
            Err(e) if e.is_absent() => Ok(run.redelivered.then_some(false)),
            Err(e) if e.class() == Class::OtherKind => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn trashed(e: FsError) -> FsError {
    FsError { operation: Operation::Trash, ..e }
}

/// An entry that is gone already: if the task was begun before, most likely by that.
fn count_gone(run: &mut Run<'_>) {
    let totals = &mut run.report.totals;
    *(if run.redelivered { &mut totals.deleted } else { &mut totals.vanished }) += 1;
}

/// Records that an entry was not removed. It was counted when it was found.
fn fail(path: Vec<u8>, bits: u8, error: FsError, run: &mut Run<'_>) {
    let phase = if bits & tag::DIRECTORY != 0 { Phase::RemoveDirectory } else { Phase::Remove };
    run.fail(failure(path, error), phase, Totals::default());
}

fn fail_all(dir: &RelPath, names: &Names, error: FsError, run: &mut Run<'_>) -> Option<RelPath> {
    names.iter().for_each(|(bits, name)| fail(dir.display_join(name), bits, error, run));
    None
}
