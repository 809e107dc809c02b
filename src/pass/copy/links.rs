//! Hard links: names of one inode in the source become names of one inode in the target.
//!
//! Names of an inode meet in the job's folder on the target, under a key made of the source's inode number.
//! What stands there is either a further name of the copied inode, or, where the target was right already, a
//! symlink whose text says which inode of the target it is and under which name it was seen - so that a
//! pass that changes nothing touches no inode. Both are made exclusively: the first one wins, the others
//! link from it, and a task that runs twice finds what it made.

use super::entry::{End, Job, Outcome};
use super::{CopyPass, Pair, Trouble};
use crate::fs::{Dir, FsError, Made, New};
use crate::model::{Kind, Metadata, Operation, RelPath};
use crate::pass::Run;

/// Longest text of a record, in bytes: a symlink's target must be shorter than `PATH_MAX`.
const MAX_RECORD_BYTES: usize = 4000;
/// Two workers that meet at one inode go round at most so often.
const MAX_ROUNDS: u32 = 8;

/// How source inodes are named.
pub struct Links {
    source_dev: u64,
}

/// What stands at the rendezvous.
enum Meeting {
    Nothing,
    /// A name of the copied inode.
    Inode(Metadata),
    /// The target's inode number, and where it was seen.
    Record {
        ino: u64,
        path: RelPath,
    },
}

impl Links {
    /// For a source whose root lies on this device.
    pub fn new(source_dev: u64) -> Self {
        Links { source_dev }
    }

    /// The name at which all names of this inode meet. Device numbers differ between nodes, so the root's is left out.
    fn key(&self, source: &Metadata) -> Vec<u8> {
        if source.dev == self.source_dev {
            format!("{:x}", source.ino).into_bytes()
        } else {
            format!("{:x}-{:x}", source.dev, source.ino).into_bytes()
        }
    }
}

impl CopyPass {
    /// Works on one name of an inode that has several.
    pub(super) fn linked_entry(&self, job: &Job<'_, '_, '_>, source: &Metadata) -> Result<Outcome, End> {
        let folder = match self.work.folder() {
            Ok(folder) => folder,
            // No place to meet: a root that this user may not write, that somebody else prepared, or whose mount
            // gives every directory to all. The contents count more than the link.
            Err(e) if matches!(e.errno, libc::EPERM | libc::EACCES | libc::EOPNOTSUPP) => {
                job.run.borrow_mut().report.totals.lost_hard_links += 1;
                return self.plain_entry(job, source);
            }
            Err(e) => return Err(End::Trouble(Trouble::Target(e))),
        };
        let key = self.links.key(source);
        for _ in 0..MAX_ROUNDS {
            let there = self.target_of(job)?;
            let there = self.out_of_the_way(job, there)?;
            match meeting(folder.as_ref(), &key, source.kind).map_err(Trouble::Target)? {
                Meeting::Nothing => {
                    if let Some(outcome) = self.first_of_group(job, source, there.as_ref(), folder.as_ref(), &key)? {
                        return Ok(outcome);
                    }
                }
                Meeting::Inode(first) => {
                    if there.as_ref().is_some_and(|t| (t.dev, t.ino) == (first.dev, first.ino)) {
                        self.count_seen(job, source);
                        // Only this job puts an inode there.
                        return Ok(if job.run.borrow().redelivered { Outcome::Linked } else { Outcome::Unchanged });
                    }
                    if self.is_copy_of(job, source, &first, folder.as_ref(), &key)?
                        && let Some(outcome) = self.join(job, source, folder.as_ref(), &key)?
                    {
                        return Ok(outcome);
                    }
                    return self.renew(job, source, there.as_ref(), folder.as_ref(), &key);
                }
                Meeting::Record { ino, path } => {
                    if let Some(target) = there.as_ref().filter(|t| t.ino == ino)
                        && let Some(outcome) = self.fix_attributes(job, source, target)?
                    {
                        self.count_seen(job, source);
                        return Ok(outcome);
                    }
                    if let Some(outcome) = self.join_recorded(job, source, ino, &path)? {
                        return Ok(outcome);
                    }
                    return self.renew(job, source, there.as_ref(), folder.as_ref(), &key);
                }
            }
        }
        Err(End::Trouble(Trouble::Target(FsError { operation: Operation::Link, errno: libc::EBUSY })))
    }

    /// Nobody was here before: take what is right, or copy, and leave word. None if somebody else was faster.
    fn first_of_group(
        &self,
        job: &Job<'_, '_, '_>,
        source: &Metadata,
        there: Option<&Metadata>,
        folder: &dyn Dir,
        key: &[u8],
    ) -> Result<Option<Outcome>, End> {
        if let Some(target) = there
            && target.nlink <= source.nlink
            && self.same_contents(job, source, target)?
            && let Some(outcome) = self.fix_attributes(job, source, target)?
        {
            let left = self.leave_record(job, target, folder, key).map_err(Trouble::Target)?;
            if left == Made::New {
                self.count_seen(job, source);
                return Ok(Some(outcome));
            }
            return Ok(None);
        }
        let Some(outcome) = self.copy_any(job, source, there.is_some())? else { return Ok(None) };
        if outcome == Outcome::HandedOut {
            return Ok(Some(outcome)); // whoever finishes it leaves word
        }
        match folder.link(key, job.pair.target.as_ref(), job.names.target, false) {
            Ok(()) => Ok(Some(outcome)),
            // Somebody else copied another name meanwhile: this one becomes a name of theirs in the next round.
            Err(e) if e.errno == libc::EEXIST => Ok(None),
            Err(e) => self.unlinkable(job, e, outcome).map(Some),
        }
    }

    /// A target without hard links keeps separate files, which is counted; anything else is an error.
    fn unlinkable(&self, job: &Job<'_, '_, '_>, e: FsError, outcome: Outcome) -> Result<Outcome, End> {
        if !cannot_link(&e) {
            return Err(End::Trouble(Trouble::Target(e)));
        }
        job.run.borrow_mut().report.totals.lost_hard_links += 1;
        Ok(outcome)
    }

    /// Leaves a file that was copied in chunks where its other names meet. False if others met there meanwhile with
    /// what is right: the name has to join them. They are files of their own if there is no place to meet.
    pub(super) fn meet_at(&self, pair: &Pair, name: &[u8], source: &Metadata, run: &mut Run<'_>) -> bool {
        match self.try_meet_at(pair, name, source) {
            Ok(met) => met,
            Err(e) => {
                tracing::debug!(error = %e, "a hard link cannot be kept");
                run.report.totals.lost_hard_links += 1;
                true
            }
        }
    }

    fn try_meet_at(&self, pair: &Pair, name: &[u8], source: &Metadata) -> Result<bool, FsError> {
        let folder = self.work.folder()?;
        let key = self.links.key(source);
        match folder.link(&key, pair.target.as_ref(), name, false) {
            Err(e) if e.errno == libc::EEXIST => {}
            other => return other.map(|()| true),
        }
        let own = pair.target.stat(name)?;
        let is_right = |m: &Metadata| {
            m.size == source.size && (!self.policy.times || super::attributes::same_mtime(source, m, &self.target))
        };
        let others_are_right = match meeting(folder.as_ref(), &key, source.kind)? {
            Meeting::Inode(first) if first.ino == own.ino => return Ok(true),
            Meeting::Inode(first) => is_right(&first),
            Meeting::Record { ino, path } => {
                let (parent, last) = path.split_last();
                let there = self.roots.target.open_dir(&parent).and_then(|d| d.stat(last.unwrap_or_default()));
                there.is_ok_and(|m| m.ino == ino && is_right(&m))
            }
            Meeting::Nothing => false,
        };
        if others_are_right {
            return Ok(false);
        }
        // What they met at is of an older state of the source.
        folder.link(&key, pair.target.as_ref(), name, true).map(|()| true)
    }

    fn leave_record(
        &self,
        job: &Job<'_, '_, '_>,
        target: &Metadata,
        folder: &dyn Dir,
        key: &[u8],
    ) -> Result<Made, FsError> {
        let mut text = format!("{:x}/", target.ino).into_bytes();
        text.extend_from_slice(&job.pair.path.display_join(job.names.target));
        if text.len() <= MAX_RECORD_BYTES && target.kind != Kind::Symlink {
            let mut new = folder.create(key, New::Symlink(&text), true);
            if let Ok(new) = &mut new {
                new.seal()?;
            }
            return match new {
                Ok(new) => new.publish(false),
                Err(e) if e.errno == libc::EEXIST => Ok(Made::Existed),
                // Without symlinks there is no meeting, and every name is looked at by itself.
                Err(e) if cannot_link(&e) => Ok(Made::New),
                Err(e) => Err(e),
            };
        }
        match folder.link(key, job.pair.target.as_ref(), job.names.target, false) {
            Ok(()) => Ok(Made::New),
            Err(e) if e.errno == libc::EEXIST => Ok(Made::Existed),
            Err(e) if cannot_link(&e) => Ok(Made::New),
            Err(e) => Err(e),
        }
    }

    /// Is what stands at the rendezvous still a copy of the source as it is now?
    fn is_copy_of(
        &self,
        job: &Job<'_, '_, '_>,
        source: &Metadata,
        copy: &Metadata,
        folder: &dyn Dir,
        key: &[u8],
    ) -> Result<bool, Trouble> {
        if source.kind == Kind::Symlink && copy.kind == Kind::Symlink {
            let ours = job.pair.source.read_link(job.names.source).map_err(Trouble::Source)?;
            return Ok(folder.read_link(key).map_err(Trouble::Target)? == ours);
        }
        Ok(source.kind == copy.kind
            && (source.kind != Kind::File
                || (source.size == copy.size
                    && (!self.policy.times || super::attributes::same_mtime(source, copy, &self.target)))))
    }

    /// Makes the name a further name of what stands at the rendezvous. None if that cannot have more names.
    fn join(
        &self,
        job: &Job<'_, '_, '_>,
        source: &Metadata,
        from: &dyn Dir,
        name: &[u8],
    ) -> Result<Option<Outcome>, End> {
        match job.pair.target.link(job.names.target, from, name, true) {
            Ok(()) => {
                self.count_seen(job, source);
                Ok(Some(Outcome::Linked))
            }
            Err(e) if cannot_link(&e) => Ok(None),
            Err(e) => Err(End::Trouble(Trouble::Target(e))),
        }
    }

    /// Links from where the record says, if that is still the inode that it says. None if not.
    fn join_recorded(
        &self,
        job: &Job<'_, '_, '_>,
        source: &Metadata,
        ino: u64,
        path: &RelPath,
    ) -> Result<Option<Outcome>, End> {
        let (parent, Some(name)) = path.split_last() else { return Ok(None) };
        let Ok(dir) = self.roots.target.open_dir(&parent) else { return Ok(None) };
        match dir.stat(name) {
            Ok(m) if m.ino == ino => {}
            _ => return Ok(None),
        }
        let Some(outcome) = self.join(job, source, dir.as_ref(), name)? else { return Ok(None) };
        // Somebody may have put another inode there between look and link.
        let linked = job.pair.target.stat(job.names.target).map_err(Trouble::Target)?;
        Ok((linked.ino == ino).then_some(outcome))
    }

    /// The source changed since the rendezvous was made, or that is full of names: copy anew, and meet there from now on.
    fn renew(
        &self,
        job: &Job<'_, '_, '_>,
        source: &Metadata,
        there: Option<&Metadata>,
        folder: &dyn Dir,
        key: &[u8],
    ) -> Result<Outcome, End> {
        // A name that could not become a further name of the inode last time is a file of its own, and may be right.
        if let Some(target) = there.filter(|t| t.nlink == 1)
            && self.same_contents(job, source, target)?
            && let Some(outcome) = self.fix_attributes(job, source, target)?
        {
            self.count_seen(job, source);
            job.run.borrow_mut().report.totals.lost_hard_links += 1;
            return Ok(outcome);
        }
        let replace = there.is_some();
        let outcome = match self.copy_any(job, source, replace)? {
            Some(outcome) => outcome,
            None => self.copy_any(job, source, true)?.unwrap_or(Outcome::Copied),
        };
        if outcome == Outcome::HandedOut {
            return Ok(outcome);
        }
        match folder.link(key, job.pair.target.as_ref(), job.names.target, true) {
            Ok(()) => Ok(outcome),
            Err(e) => self.unlinkable(job, e, outcome),
        }
    }
}

/// The filesystem, or a project quota on it, does not let the inode have this name.
fn cannot_link(e: &FsError) -> bool {
    matches!(e.errno, libc::EMLINK | libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EXDEV)
}

fn meeting(folder: &dyn Dir, key: &[u8], kind: Kind) -> Result<Meeting, FsError> {
    let metadata = match folder.stat(key) {
        Ok(m) => m,
        Err(e) if e.is_absent() => return Ok(Meeting::Nothing),
        Err(e) => return Err(e),
    };
    // Of a symlink with several names no record is ever made: its text is its users', and could imitate one.
    if metadata.kind != Kind::Symlink || kind == Kind::Symlink {
        return Ok(Meeting::Inode(metadata));
    }
    Ok(match parse_record(&folder.read_link(key)?) {
        Some((ino, path)) => Meeting::Record { ino, path },
        None => Meeting::Inode(metadata),
    })
}

fn parse_record(text: &[u8]) -> Option<(u64, RelPath)> {
    let slash = text.iter().position(|b| *b == b'/')?;
    let ino = u64::from_str_radix(std::str::from_utf8(&text[..slash]).ok()?, 16).ok()?;
    Some((ino, RelPath::parse(text[slash + 1..].to_vec()).ok()?))
}
