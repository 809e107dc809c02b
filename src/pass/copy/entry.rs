//! Entries that are no directories: compare, then copy, update or leave alone.

use super::attributes::{Have, Wanted, apply, apply_new, differs, reads_xattrs, same_mtime, wanted};
use super::project::NewProject;
use super::walk::is_older;
use super::{CopyPass, Pair, Trouble};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError, Made, New, SourceFile, Xattrs};
use crate::model::lustre::HsmPolicy;
use crate::model::task::{Entries, Entry, tag};
use crate::model::{Kind, Metadata, Operation, Phase, RelPath, Report, Task, Timestamp, Totals};
use crate::pass::Run;
use crate::pass::filtered::leaves_out;
use std::cell::{Cell, RefCell};
use xxhash_rust::xxh3::Xxh3;

/// A file that keeps changing is copied so often before it is left as it is.
const MAX_TRIES: u32 = 3;
/// The target's own troubles (a directory replaced meanwhile) are met so often.
const MAX_RETRIES: u32 = 3;
/// From this size on the rest of a batch is given to others before the file is copied, in bytes.
const LARGE_BYTES: u64 = 32 << 20;
/// Progress within a large file is told every so many bytes.
const TELL_BYTES: u64 = 64 << 20;

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Made, or written anew.
    Copied,
    /// Made as a further name of an inode.
    Linked,
    /// Only attributes were set.
    Updated,
    /// Right already.
    Unchanged,
    /// Left out by policy.
    Filtered,
    /// Left out, since its data are only in an archive.
    Released,
    /// Copied, but the source would not hold still.
    ChangedWhileCopying,
    /// A large file that was handed out in chunks, or that waits for one: others count it.
    HandedOut,
}

impl Outcome {
    pub(super) fn count(self, totals: &mut Totals) {
        match self {
            Outcome::Copied => totals.copied += 1,
            Outcome::Linked => {
                totals.copied += 1;
                totals.hard_links += 1;
            }
            Outcome::Updated => totals.updated += 1,
            Outcome::Unchanged => totals.unchanged += 1,
            Outcome::Filtered => totals.filtered += 1,
            Outcome::Released => {
                totals.filtered += 1;
                totals.released += 1;
            }
            Outcome::ChangedWhileCopying => totals.changed_while_copying += 1,
            Outcome::HandedOut => {}
        }
    }
}

fn data_bytes(source: &Metadata) -> u64 {
    if source.kind == Kind::File { source.size } else { 0 }
}

/// Name in the source and name in the target; they differ only when a single file is copied.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// In the source.
    pub source: &'a [u8],
    /// In the target.
    pub target: &'a [u8],
}

/// One entry at work.
pub(super) struct Job<'a, 'b, 'r> {
    pub pair: &'a Pair,
    pub names: Names<'a>,
    /// Nothing is expected under the target's name. A hint.
    pub fresh: bool,
    pub run: &'a RefCell<&'b mut Run<'r>>,
    /// Nobody else takes part, so large files are not cut up.
    pub alone: bool,
    /// Gives the rest of the batch to others, once.
    pub share: &'a dyn Fn() -> Result<(), Stopped>,
}

/// What became of the wish to have a large file copied by everybody.
enum Ask {
    /// As [`CopyPass::copy_file`] would answer.
    Done(Option<Outcome>),
    /// It cannot be handed out here.
    CopyYourself,
}

/// What ends the work on one entry early.
pub(super) enum End {
    Trouble(Trouble),
    Stopped,
}

impl From<Trouble> for End {
    fn from(t: Trouble) -> Self {
        End::Trouble(t)
    }
}

impl From<Stopped> for End {
    fn from(_: Stopped) -> Self {
        End::Stopped
    }
}

impl CopyPass {
    /// Works on the entries of one directory.
    pub(super) fn batch(&self, dir: &RelPath, entries: &Entries, bits: u8, run: &mut Run<'_>) -> Result<(), Stopped> {
        let fresh = bits & tag::FRESH != 0;
        if let Some(since) = self.policy.since
            && bits & tag::ALL == 0
            && !run.redelivered
        {
            let Some(changed) = self.changed_since(dir, entries, bits, since, run)? else { return Ok(()) };
            return self.batch(dir, &changed, bits | tag::ALL, run);
        }
        let pair = match self.open_pair(dir) {
            Ok(pair) => pair,
            Err(trouble) => return entries.iter().try_for_each(|e| self.fail(dir.display_join(e.name), trouble, run)),
        };
        let fresh_now = fresh && !run.redelivered;
        // Whoever gets the rest compares it in full, as it is done here.
        let rest_bits = (bits & !tag::FRESH) | tag::ALL | if fresh_now { tag::FRESH } else { 0 };
        let changed = self.batch_in(&pair, entries, rest_bits, &RefCell::new(&mut *run))?;
        self.finish_later(dir, changed && !fresh, run)
    }

    /// The entries that changed since then, by the source alone; none if that is none of them.
    fn changed_since(
        &self,
        dir: &RelPath,
        entries: &Entries,
        bits: u8,
        since: Timestamp,
        run: &mut Run<'_>,
    ) -> Result<Option<Entries>, Stopped> {
        let source = match self.roots.source.open_dir(dir) {
            Ok(source) => source,
            Err(e) => {
                entries
                    .iter()
                    .try_for_each(|entry| self.fail(dir.display_join(entry.name), Trouble::Source(e), run))?;
                return Ok(None);
            }
        };
        let mut changed = Entries::default();
        for (i, entry) in entries.iter().enumerate() {
            if i > 0 && run.turn.is_over() {
                run.ticket.post(Task::Batch { dir: dir.clone(), entries: entries_from(entries, i), tag: bits })?;
                break;
            }
            let metadata = match entry.metadata {
                Some(m) => Ok(m),
                None => source.stat(entry.name),
            };
            match metadata {
                Ok(m) if m.kind != Kind::Directory && is_older(&m, since) => {
                    match self.is_filtered(source.as_ref(), entry.name, &m) {
                        Ok(is_filtered) => self.count_unchanged(&m, is_filtered, run),
                        Err(e) => self.fail(dir.display_join(entry.name), Trouble::Source(e), run)?,
                    }
                }
                Ok(m) => drop(changed.push(&Entry { metadata: Some(m), kind: Some(m.kind), ..entry })),
                Err(e) => self.fail(dir.display_join(entry.name), Trouble::Source(e), run)?,
            }
        }
        Ok((!changed.is_empty()).then_some(changed))
    }

    fn count_unchanged(&self, source: &Metadata, is_filtered: bool, run: &mut Run<'_>) {
        let totals = &mut run.report.totals;
        if is_filtered {
            totals.filtered += 1;
        } else {
            totals.unchanged += 1;
            totals.count_kind(source, self.submitted);
        }
    }

    /// Is an entry left out, by its attributes or its place in the source?
    fn is_filtered(&self, dir: &dyn Dir, name: &[u8], source: &Metadata) -> Result<bool, FsError> {
        let special = !matches!(source.kind, Kind::File | Kind::Symlink | Kind::Directory);
        if special && !self.policy.specials { Ok(true) } else { leaves_out(&self.matcher, Some(dir), name, source) }
    }

    /// True if the target directory was changed.
    fn batch_in(
        &self,
        pair: &Pair,
        entries: &Entries,
        rest_bits: u8,
        run: &RefCell<&mut Run<'_>>,
    ) -> Result<bool, Stopped> {
        let fresh = rest_bits & tag::FRESH != 0;
        let mut changed = false;
        let next = Cell::new(0);
        let shared = Cell::new(false);
        let share = || {
            if shared.replace(true) || next.get() >= entries.len() {
                return Ok(());
            }
            let rest = entries_from(entries, next.get());
            run.borrow_mut().ticket.post(Task::Batch { dir: pair.path.clone(), entries: rest, tag: rest_bits })
        };
        for (i, e) in entries.iter().enumerate() {
            next.set(i + 1);
            let names = Names { source: e.name, target: e.name };
            let job = Job { pair, names, fresh, run, alone: false, share: &share };
            changed |= self.work_on(&job, &e)?;
            if run.borrow().turn.is_over() {
                share()?;
            }
            if shared.get() {
                break;
            }
        }
        Ok(changed)
    }

    /// The directory was changed, so its times must be set again; or a dead worker may have left files in it.
    pub(super) fn finish_later(&self, dir: &RelPath, changed: bool, run: &mut Run<'_>) -> Result<(), Stopped> {
        if !changed && !run.redelivered {
            return Ok(());
        }
        let mut names = crate::model::task::Names::default();
        let (parent, name) = dir.split_last();
        if let Some(name) = name {
            let _ = names.push(if run.redelivered { tag::SWEEP } else { 0 }, name);
        } else if !run.redelivered {
            return Ok(()); // the root's own attributes are always looked at last
        }
        run.ticket.post(Task::Finish { parent, names })
    }

    /// One entry outside a batch.
    pub(super) fn entry(
        &self,
        pair: &Pair,
        names: &Names<'_>,
        hint: Option<Kind>,
        fresh: bool,
        run: &mut Run<'_>,
    ) -> Result<bool, Stopped> {
        let run = RefCell::new(run);
        let job = Job { pair, names: *names, fresh, run: &run, alone: true, share: &|| Ok(()) };
        self.work_on(&job, &Entry { name: names.source, kind: hint, metadata: None })
    }

    /// True if the target's directory was changed.
    fn work_on(&self, job: &Job<'_, '_, '_>, entry: &Entry<'_>) -> Result<bool, Stopped> {
        let mut retries = 0;
        let mut entry = *entry;
        let before = job.run.borrow_mut().begin();
        let path = || job.pair.path.display_join(job.names.source);
        loop {
            match self.try_entry(job, &entry) {
                Ok(outcome) => {
                    outcome.count(&mut job.run.borrow_mut().report.totals);
                    return Ok(!matches!(outcome, Outcome::Unchanged | Outcome::Updated | Outcome::Filtered));
                }
                Err(End::Stopped) => return Err(Stopped),
                // What was there a moment ago is not: the target is being changed under our hands.
                Err(End::Trouble(Trouble::Target(e))) if e.is_absent() && retries < MAX_RETRIES => retries += 1,
                // Seen as a file, but it is something else by now.
                Err(End::Trouble(Trouble::Source(e))) if e.class() == Class::OtherKind && retries < MAX_RETRIES => {
                    entry = Entry { kind: None, metadata: None, ..entry };
                    retries += 1;
                }
                Err(End::Trouble(trouble)) if self.skips(&trouble.error()) => {
                    Outcome::Released.count(&mut job.run.borrow_mut().report.totals);
                    return Ok(self.keeps_directories); // an empty one may have made room for it
                }
                Err(End::Trouble(trouble)) => {
                    let mut run = job.run.borrow_mut();
                    let counted = run.since(&before);
                    self.fail_in(Phase::Walk, path(), trouble, counted, &mut run)?;
                    return Ok(true);
                }
            }
        }
    }

    /// Is a file left out because its data are only in an archive?
    pub(super) fn skips(&self, e: &FsError) -> bool {
        e.is_released() && self.policy.lustre.hsm == HsmPolicy::Skip
    }

    fn try_entry(&self, job: &Job<'_, '_, '_>, entry: &Entry<'_>) -> Result<Outcome, End> {
        if entry.kind == Some(Kind::File)
            && job.fresh
            && !self.matcher.needs_metadata()
            && let Some(outcome) = self.copy_file(job, false, true)?
        {
            return Ok(outcome);
        }
        let source = match entry.metadata {
            Some(m) => m,
            None => job.pair.source.stat(job.names.source).map_err(Trouble::Source)?,
        };
        if self.is_filtered(job.pair.source.as_ref(), job.names.source, &source).map_err(Trouble::Source)? {
            return Ok(Outcome::Filtered);
        }
        if source.kind == Kind::Directory {
            return self.became_directory(job);
        }
        if source.nlink > 1 && self.policy.hard_links && !self.target.forgets {
            return self.linked_entry(job, &source);
        }
        self.plain_entry(job, &source)
    }

    /// Listed as something else, a directory now: walked as one.
    fn became_directory(&self, job: &Job<'_, '_, '_>) -> Result<Outcome, End> {
        let Pair { path, target, .. } = job.pair;
        let made = self.make_dir(path, target.as_ref(), job.names.target, &mut job.run.borrow_mut());
        made.map_err(Trouble::Target)?;
        let mut names = crate::model::task::Names::default();
        let _ = names.push(tag::ALL, job.names.source);
        job.run.borrow_mut().ticket.post(Task::Dirs { parent: job.pair.path.clone(), names })?;
        // The directory itself is counted when it is listed.
        job.run.borrow_mut().report.totals.found += 1;
        Ok(Outcome::Copied)
    }

    /// An entry that is no hard link: compare with what is there.
    pub(super) fn plain_entry(&self, job: &Job<'_, '_, '_>, source: &Metadata) -> Result<Outcome, End> {
        // A file gets here in a fresh directory only when the hint was found wrong.
        let there = if job.fresh && source.kind != Kind::File { None } else { self.target_of(job)? };
        match there {
            // A target that shares its inode with other names is not this entry's alone.
            Some(target) if target.nlink <= source.nlink && self.same_contents(job, source, &target)? => {
                if let Some(outcome) = self.fix_attributes(job, source, &target)? {
                    self.count_seen(job, source);
                    // A worker that was lost with this task made it, and could not say so any more.
                    if job.run.borrow().redelivered && target.ctime >= self.began {
                        job.run.borrow_mut().report.totals.bytes_copied += data_bytes(source);
                        return Ok(Outcome::Copied);
                    }
                    return Ok(outcome);
                }
                Ok(self.copy_any(job, source, true)?.unwrap_or(Outcome::Copied))
            }
            other => {
                let other = self.out_of_the_way(job, other)?;
                if let Some(outcome) = self.copy_any(job, source, other.is_some())? {
                    return Ok(outcome);
                }
                // Something appeared meanwhile.
                Ok(self.copy_any(job, source, true)?.unwrap_or(Outcome::Copied))
            }
        }
    }

    /// Where nothing may be removed unseen, an entry does not take the place of a directory with something in it.
    /// What is left to be replaced.
    pub(super) fn out_of_the_way(
        &self,
        job: &Job<'_, '_, '_>,
        there: Option<Metadata>,
    ) -> Result<Option<Metadata>, Trouble> {
        let Some(_) = there.filter(|m| m.kind == Kind::Directory && self.keeps_directories) else { return Ok(there) };
        match job.pair.target.remove_empty_dir(job.names.target) {
            Ok(true) => Ok(None),
            Ok(false) => Err(Trouble::Target(FsError { operation: Operation::Remove, errno: libc::ENOTEMPTY })),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(Trouble::Target(e)),
        }
    }

    /// What the target has under the name now.
    pub(super) fn target_of(&self, job: &Job<'_, '_, '_>) -> Result<Option<Metadata>, Trouble> {
        match job.pair.target.stat(job.names.target) {
            Ok(m) => Ok(Some(m)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(Trouble::Target(e)),
        }
    }

    pub(super) fn count_seen(&self, job: &Job<'_, '_, '_>, source: &Metadata) {
        job.run.borrow_mut().report.totals.count_kind(source, self.submitted);
    }

    /// Are kind and contents right, and the layout, where that counts? Times decide for files, unless contents are to
    /// be compared.
    pub(super) fn same_contents(
        &self,
        job: &Job<'_, '_, '_>,
        source: &Metadata,
        target: &Metadata,
    ) -> Result<bool, Trouble> {
        Ok(self.same_data(job, source, target)? && self.is_laid_out(job, source)?)
    }

    fn same_data(&self, job: &Job<'_, '_, '_>, source: &Metadata, target: &Metadata) -> Result<bool, Trouble> {
        if source.kind != target.kind {
            return Ok(false);
        }
        match source.kind {
            Kind::File if source.size != target.size => Ok(false),
            Kind::File if self.policy.checksum => self.same_hash(job),
            // Where times are not kept, the size is all there is to go by.
            Kind::File => Ok(!self.policy.times || same_mtime(source, target, &self.target)),
            Kind::Symlink => {
                let ours = job.pair.source.read_link(job.names.source).map_err(Trouble::Source)?;
                Ok(ours == job.pair.target.read_link(job.names.target).map_err(Trouble::Target)?)
            }
            Kind::BlockDevice | Kind::CharDevice => Ok(source.rdev == target.rdev),
            Kind::Fifo | Kind::Socket | Kind::Directory => Ok(true),
        }
    }

    fn same_hash(&self, job: &Job<'_, '_, '_>) -> Result<bool, Trouble> {
        let ours =
            job.pair.source.open_file(job.names.source).and_then(|f| hash(f.as_ref())).map_err(Trouble::Source)?;
        let theirs = job.pair.target.open_file(job.names.target).and_then(|f| hash(f.as_ref()));
        Ok(ours == theirs.map_err(Trouble::Target)?)
    }

    /// Sets what differs on an entry whose contents are right. None if that cannot be done in place.
    pub(super) fn fix_attributes(
        &self,
        job: &Job<'_, '_, '_>,
        source: &Metadata,
        target: &Metadata,
    ) -> Result<Option<Outcome>, Trouble> {
        let xattrs = self.xattrs_of(job.pair.source.as_ref(), job.names.source).map_err(Trouble::Source)?;
        let (metadata, xattrs) = wanted(*source, xattrs, &self.policy);
        let have_xattrs = self.xattrs_of(job.pair.target.as_ref(), job.names.target).map_err(Trouble::Target)?;
        let sides = ((job.pair.source.as_ref(), job.names.source), (job.pair.target.as_ref(), job.names.target));
        let (want_project, project) = self.projects_of(sides.0, sides.1, source.kind)?;
        let want = Wanted { metadata: &metadata, xattrs: &xattrs, project: want_project };
        let have = Have { metadata: target, xattrs: &have_xattrs, project };
        if !differs(&want, &have, &self.policy, &self.target) {
            return Ok(Some(Outcome::Unchanged));
        }
        if target.nlink > 1 {
            // Another name may be somebody's who must not get these attributes: the entry gets an inode of its own.
            return Ok(None);
        }
        let edit = job.pair.target.edit(job.names.target).map_err(Trouble::Target)?;
        let metadata = edit.metadata().map_err(Trouble::Target)?;
        if (metadata.dev, metadata.ino, metadata.nlink) != (target.dev, target.ino, target.nlink) {
            return Ok(None); // somebody put something else there since it was looked at
        }
        let have = Have { metadata: &metadata, ..have };
        let mut run = job.run.borrow_mut();
        let changed = apply(edit.as_ref(), &want, &have, &self.policy, &self.target, &mut run.report.totals)?;
        Ok(Some(if changed { Outcome::Updated } else { Outcome::Unchanged }))
    }

    /// Makes an entry of any kind. None if something is there and `replace` is not set.
    pub(super) fn copy_any(
        &self,
        job: &Job<'_, '_, '_>,
        source: &Metadata,
        replace: bool,
    ) -> Result<Option<Outcome>, End> {
        match source.kind {
            Kind::File => self.copy_file(job, replace, false),
            Kind::Symlink => {
                let link = job.pair.source.read_link(job.names.source).map_err(Trouble::Source)?;
                self.copy_without_data(job, source, New::Symlink(&link), replace)
            }
            kind => self.copy_without_data(job, source, New::Node(kind, source.rdev), replace),
        }
    }

    fn copy_without_data(
        &self,
        job: &Job<'_, '_, '_>,
        source: &Metadata,
        what: New<'_>,
        replace: bool,
    ) -> Result<Option<Outcome>, End> {
        self.work.announce();
        let xattrs = self.xattrs_of(job.pair.source.as_ref(), job.names.source).map_err(Trouble::Source)?;
        let (metadata, xattrs) = wanted(*source, xattrs, &self.policy);
        let project = self.new_project(job.pair, source.kind, || job.pair.source.project(job.names.source))?;
        let mut new = job.pair.target.create(job.names.target, what, false).map_err(Trouble::Target)?;
        project.set_on(new.as_ref(), &mut job.run.borrow_mut().report.totals)?;
        let want = Wanted { metadata: &metadata, xattrs: &xattrs, project: None };
        apply_new(new.as_ref(), &want, &self.policy, &self.target, &mut job.run.borrow_mut().report.totals)?;
        let seen = project.seen(new.as_ref())?;
        new.seal().map_err(Trouble::Target)?;
        if new.publish(replace).map_err(Trouble::Target)? == Made::Existed {
            return Ok(None);
        }
        self.settle_project(job, &project, seen)?;
        self.count_seen(job, source);
        Ok(Some(Outcome::Copied))
    }

    /// Copies a regular file. None if something is there and `replace` is not set, or if it is a hard link and
    /// those were not asked for (`plain_only`).
    fn copy_file(&self, job: &Job<'_, '_, '_>, replace: bool, plain_only: bool) -> Result<Option<Outcome>, End> {
        let mut tries = 0;
        loop {
            let file = match job.pair.source.open_file(job.names.source) {
                // Its data are in an archive, and perhaps nobody needs them: it is compared first.
                Err(e) if plain_only && e.is_released() => return Ok(None),
                other => other.map_err(Trouble::Source)?,
            };
            let mut before = file.at_open().map_err(Trouble::Source)?;
            if self.outwait(before.mtime) {
                before = file.metadata().map_err(Trouble::Source)?;
            }
            if plain_only && before.nlink > 1 && self.policy.hard_links && !self.target.forgets {
                return Ok(None);
            }
            let mut cut_up = tries == 0 && !job.alone && self.is_large(&before);
            if cut_up && self.lay_out.is_some() {
                // Nothing can be shared there, and a file that is made for nothing costs objects on the servers.
                match self.hand_out_large(job, &before, replace)? {
                    Ask::Done(outcome) => return Ok(outcome),
                    Ask::CopyYourself => cut_up = false,
                }
            }
            if before.size >= LARGE_BYTES && !cut_up {
                (job.share)()?;
            }
            self.work.announce();
            let direct = self.policy.direct && !replace && !cut_up;
            let project = self.new_project(job.pair, Kind::File, || file.project())?;
            let plan = self.plan(job.pair, job.names.source, before.size, || file.layout());
            let mut new = match job.pair.target.create(job.names.target, plan.new_file(), direct) {
                Err(e) if direct && e.errno == libc::EEXIST => return Ok(None),
                other => other.map_err(Trouble::Target)?,
            };
            project.set_on(new.as_ref(), &mut job.run.borrow_mut().report.totals)?;
            let written = if cut_up {
                if self.policy.holes && new.share_with(file.as_ref()) {
                    self.shared_whole(job, before.size)
                } else {
                    match self.hand_out_large(job, &before, replace)? {
                        Ask::Done(outcome) => return Ok(outcome),
                        Ask::CopyYourself => self.fill(job, new.as_mut(), file.as_ref())?,
                    }
                }
            } else {
                self.fill(job, new.as_mut(), file.as_ref())?
            };
            let unsteady = tries == MAX_TRIES;
            let metadata = if unsteady { marked(before) } else { before };
            let xattrs =
                if reads_xattrs(&self.policy) { file.xattrs().map_err(Trouble::Source)? } else { Xattrs::new() };
            let (metadata, xattrs) = wanted(metadata, xattrs, &self.policy);
            let want = Wanted { metadata: &metadata, xattrs: &xattrs, project: None };
            apply_new(new.as_ref(), &want, &self.policy, &self.target, &mut job.run.borrow_mut().report.totals)?;
            let seen = project.seen(new.as_ref())?;
            if self.policy.fsync {
                new.sync().map_err(Trouble::Target)?;
            }
            let has_layout = new.has_layout();
            new.seal().map_err(Trouble::Target)?;
            if !unsteady && !before.same_moment(&file.metadata().map_err(Trouble::Source)?) {
                tries += 1;
                continue;
            }
            if new.publish(replace).map_err(Trouble::Target)? == Made::Existed {
                return Ok(None);
            }
            self.settle_project(job, &project, seen)?;
            self.wrote(written);
            let at = (&job.pair.path, job.names.source);
            self.count_layout(&plan, has_layout, at, &mut job.run.borrow_mut().report);
            self.count_seen(job, &before);
            return Ok(Some(if unsteady { Outcome::ChangedWhileCopying } else { Outcome::Copied }));
        }
    }

    fn settle_project(
        &self,
        job: &Job<'_, '_, '_>,
        project: &NewProject,
        seen: Option<Metadata>,
    ) -> Result<(), Trouble> {
        let totals = &mut job.run.borrow_mut().report.totals;
        project.set_late(job.pair.target.as_ref(), job.names.target, seen, totals)
    }

    fn hand_out_large(&self, job: &Job<'_, '_, '_>, source: &Metadata, replace: bool) -> Result<Ask, End> {
        if !replace && self.target_of(job)?.is_some() {
            return Ok(Ask::Done(None)); // the hint was wrong: it is compared first
        }
        let out = self.hand_out(job.pair, job.names, source, 0, &mut job.run.borrow_mut())?;
        Ok(if out { Ask::Done(Some(Outcome::HandedOut)) } else { Ask::CopyYourself })
    }

    fn shared_whole(&self, job: &Job<'_, '_, '_>, size: u64) -> u64 {
        job.run.borrow_mut().report.totals.bytes_copied += size;
        size
    }

    /// Copies contents, telling progress as it goes.
    fn fill(
        &self,
        job: &Job<'_, '_, '_>,
        new: &mut dyn crate::fs::NewEntry,
        file: &dyn SourceFile,
    ) -> Result<u64, Trouble> {
        let untold = Cell::new(0);
        let written = |n: u64| {
            untold.set(untold.get() + n);
            if untold.get() >= TELL_BYTES {
                let totals = Totals { bytes_copied: untold.take(), ..Totals::default() };
                job.run.borrow_mut().tell(Report { totals, ..Report::default() });
            }
        };
        let filled = new.fill_from(file, self.policy.holes, &written);
        job.run.borrow_mut().report.totals.bytes_copied += untold.get();
        filled.map_err(Trouble::of_filling)
    }

    /// Extended attributes of a child, if the policy has use for them.
    pub(super) fn xattrs_of(&self, dir: &dyn Dir, name: &[u8]) -> Result<Xattrs, FsError> {
        if reads_xattrs(&self.policy) { dir.xattrs(name) } else { Ok(Xattrs::new()) }
    }
}

/// The entries from the `first` on.
fn entries_from(entries: &Entries, first: usize) -> Entries {
    let mut left = Entries::default();
    for entry in entries.iter().skip(first) {
        let _ = left.push(&entry); // was checked when it got here
    }
    left
}

/// Attributes with a modification time that no later pass takes for the source's: two seconds back, which the
/// coarsest filesystem still tells apart.
pub(super) fn marked(metadata: Metadata) -> Metadata {
    Metadata { mtime: Timestamp { sec: metadata.mtime.sec - 2, ..metadata.mtime }, ..metadata }
}

/// xxh3-128 of a file's contents, holes read as zeros.
fn hash(file: &dyn SourceFile) -> Result<u128, FsError> {
    crate::fs::contents::with_buffer(|buf| {
        let mut hasher = Xxh3::new();
        let mut at = 0;
        loop {
            let n = file.read_at(at, buf)?;
            if n == 0 {
                return Ok(hasher.digest128());
            }
            hasher.update(&buf[..n]);
            at += n as u64;
        }
    })
}
