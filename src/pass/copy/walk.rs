//! Listing directories and routing what is in them.

use super::attributes::{Wanted, differs};
use super::{CopyPass, Pair, Trouble, reopen_dir};
use crate::broker::Stopped;
use crate::fs::{Dir, FsError, Made, aside};
use crate::model::task::{Entries, Entry, MAX_TASK_ENTRIES, Names, tag};
use crate::model::{Kind, Metadata, Operation, Queue, RelPath, Task, check_name};
use crate::pass::Run;

/// Sibling directories in one task: few messages, yet enough tasks to share out.
const GROUP: usize = 32;
/// Bytes of files in one batch where the listing tells sizes: so that batches take equal time.
const BATCH_BYTES: u64 = 64 << 20;

/// What an existing target directory is like.
#[derive(Debug, Clone, Copy)]
struct Looked {
    /// Its attributes must be set at the end.
    changed: bool,
    /// There is nothing in it, so nothing needs to be compared.
    empty: bool,
}

/// What has been listed and not been posted yet.
struct Outbox<'a> {
    path: &'a RelPath,
    fresh: bool,
    dirs: Names,
    made: Names,
    entries: Entries,
    entries_bytes: u64,
    made_any: bool,
    posted_entries: bool,
}

impl Outbox<'_> {
    fn post_dirs(&mut self, run: &mut Run<'_>) -> Result<(), Stopped> {
        if self.dirs.is_empty() {
            return Ok(());
        }
        run.ticket.post(Task::Dirs { parent: self.path.clone(), names: std::mem::take(&mut self.dirs) })
    }

    fn post_made(&mut self, run: &mut Run<'_>) -> Result<(), Stopped> {
        if self.made.is_empty() {
            return Ok(());
        }
        run.ticket.post(Task::Finish { parent: self.path.clone(), names: std::mem::take(&mut self.made) })
    }

    fn post_entries(&mut self, run: &mut Run<'_>) -> Result<(), Stopped> {
        if self.entries.is_empty() {
            return Ok(());
        }
        self.entries_bytes = 0;
        self.posted_entries = true;
        let entries = std::mem::take(&mut self.entries);
        run.ticket.post(Task::Batch { dir: self.path.clone(), entries, tag: if self.fresh { tag::FRESH } else { 0 } })
    }
}

impl CopyPass {
    /// Lists sibling directories one after the other; what is left goes back when another actor has nothing to do.
    pub(super) fn walk(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        let pair = match self.open_pair(parent) {
            Ok(pair) => pair,
            Err(trouble) => return self.walk_failed(parent, names, trouble, run),
        };
        if names.is_empty() {
            run.report.totals.found += 1;
            match self.list(&pair, false, run)? {
                Ok(changed) => count_directory(false, changed, run),
                Err(trouble) => self.fail(Vec::new(), trouble, run)?,
            }
            if run.redelivered {
                run.ticket.post(Task::Finish { parent: parent.clone(), names: Names::default() })?;
            }
            return Ok(());
        }
        let mut finish = Names::default();
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
            match self.walk_child(&pair, name, bits & tag::FRESH != 0 && !run.redelivered, run)? {
                Ok(changed) => {
                    if changed || run.redelivered {
                        let _ = finish.push(if run.redelivered { tag::SWEEP } else { 0 }, name);
                    }
                }
                Err(trouble) => self.fail(parent.display_join(name), trouble, run)?,
            }
        }
        if finish.is_empty() { Ok(()) } else { run.ticket.post(Task::Finish { parent: parent.clone(), names: finish }) }
    }

    fn walk_failed(&self, parent: &RelPath, names: &Names, trouble: Trouble, run: &mut Run<'_>) -> Result<(), Stopped> {
        if names.is_empty() {
            return self.fail(parent.as_bytes().to_vec(), trouble, run);
        }
        names.iter().try_for_each(|(_, name)| self.fail(parent.display_join(name), trouble, run))
    }

    /// One child directory. True if its attributes must be set at the end and nobody has seen to that yet.
    fn walk_child(
        &self,
        parent: &Pair,
        name: &[u8],
        fresh: bool,
        run: &mut Run<'_>,
    ) -> Result<Result<bool, Trouble>, Stopped> {
        let path = match parent.path.join(name) {
            Ok(path) => path,
            Err(_) => {
                return Ok(Err(Trouble::Source(FsError {
                    operation: Operation::OpenDirectory,
                    errno: libc::ENAMETOOLONG,
                })));
            }
        };
        let source = match parent.source.open_dir(name) {
            Ok(source) => source,
            // It became something else since it was listed: it is worked on as what it is.
            Err(e) if e.class() == crate::fs::Class::OtherKind => {
                let mut entries = Entries::default();
                let _ = entries.push(&Entry { name, kind: None, metadata: None });
                run.ticket.post(Task::Batch { dir: parent.path.clone(), entries, tag: 0 })?;
                return Ok(Ok(true));
            }
            Err(e) => return Ok(Err(Trouble::Source(e))),
        };
        let (target, made) = match reopen_dir(parent.target.as_ref(), name) {
            Ok(opened) => opened,
            Err(e) => return Ok(Err(Trouble::Target(e))),
        };
        let pair = Pair { path, source, target };
        let fresh = fresh || made == Made::New;
        Ok(self.list(&pair, fresh, run)?.map(|changed| {
            count_directory(fresh, changed, run);
            changed || made == Made::New
        }))
    }

    /// Lists one directory and posts what is in it. True if an existing target directory must be finished.
    /// What goes wrong with the directory itself does not keep what is in it from being worked on.
    fn list(&self, pair: &Pair, fresh: bool, run: &mut Run<'_>) -> Result<Result<bool, Trouble>, Stopped> {
        let looked = self.source_apart(pair).and_then(|source| {
            if fresh { Ok(Looked { changed: false, empty: true }) } else { self.look_at_dirs(pair, source, run) }
        });
        if let Err(Trouble::Source(e)) = looked
            && e.errno == libc::EDEADLK
        {
            return Ok(Err(Trouble::Source(e)));
        }
        let mut out = Outbox {
            path: &pair.path,
            fresh: matches!(looked, Ok(Looked { empty: true, .. })),
            dirs: Names::default(),
            made: Names::default(),
            entries: Entries::default(),
            entries_bytes: 0,
            made_any: false,
            posted_entries: false,
        };
        let mut stopped = Ok(());
        let listed = pair.source.list(&mut |entry| {
            if stopped.is_ok() {
                stopped = self.route(pair, &entry, &mut out, run);
            }
        });
        stopped?;
        out.post_entries(run)?;
        out.post_made(run)?;
        out.post_dirs(run)?;
        // In a directory that was made by its parent's listing, that has seen to its end already.
        let changed = !fresh && (out.made_any || out.posted_entries && out.fresh);
        Ok(listed.map_err(Trouble::Source).and(looked).map(|looked| looked.changed || changed))
    }

    /// Looks at both directories themselves: is the target's in need of attributes, of cleaning?
    fn look_at_dirs(&self, pair: &Pair, source: Metadata, run: &mut Run<'_>) -> Result<Looked, Trouble> {
        let totals = &mut run.report.totals;
        let empty = self.work.sweep(pair.target.as_ref(), false, totals).map_err(Trouble::Target)? == 0;
        let target = pair.target.metadata().map_err(Trouble::Target)?;
        if target.mode & 0o700 != 0o700 && target.uid == rustix::process::geteuid().as_raw() && target.uid != 0 {
            // A normal user must be able to write into their own directory; its mode is set again at the end.
            let opened = pair.target.edit_self().and_then(|e| e.set_mode(target.mode | 0o700));
            return opened.map(|()| Looked { changed: true, empty }).map_err(Trouble::Target);
        }
        let xattrs = self.own_xattrs(pair.source.as_ref()).map_err(Trouble::Source)?;
        let (source, xattrs) = super::attributes::wanted(source, xattrs, &self.policy);
        let have = pair.target.xattrs_self().map_err(Trouble::Target)?;
        let want = Wanted { metadata: &source, xattrs: &xattrs };
        Ok(Looked { changed: differs(&want, &target, &have, &self.policy, &self.target), empty })
    }

    /// The source directory's attributes, if it is not the target's root, seen through a bind mount, say: walking
    /// on would never end.
    fn source_apart(&self, pair: &Pair) -> Result<Metadata, Trouble> {
        let source = pair.source.metadata().map_err(Trouble::Source)?;
        if (source.dev, source.ino) == self.target_root && !self.target.forgets {
            return Err(Trouble::Source(FsError { operation: Operation::OpenDirectory, errno: libc::EDEADLK }));
        }
        Ok(source)
    }

    fn route(&self, pair: &Pair, entry: &Entry<'_>, out: &mut Outbox<'_>, run: &mut Run<'_>) -> Result<(), Stopped> {
        run.report.totals.found += 1;
        if aside::job_of(entry.name).is_some() || (pair.path.is_root() && entry.name == aside::WORK_DIR) {
            // The source was a target once: working files are nobody's data.
            run.report.totals.filtered += 1;
            return Ok(());
        }
        if check_name(entry.name).is_err() {
            let error = FsError { operation: Operation::List, errno: libc::ENAMETOOLONG };
            return self.fail(pair.path.display_join(entry.name), Trouble::Source(error), run);
        }
        let kind = match entry.kind {
            Some(kind) => kind,
            None => match pair.source.stat(entry.name) {
                Ok(m) => m.kind,
                Err(e) => return self.fail(pair.path.display_join(entry.name), Trouble::Source(e), run),
            },
        };
        if kind == Kind::Directory { self.route_dir(pair, entry.name, out, run) } else { route_entry(entry, out, run) }
    }

    fn route_dir(&self, pair: &Pair, name: &[u8], out: &mut Outbox<'_>, run: &mut Run<'_>) -> Result<(), Stopped> {
        let made = match pair.target.make_dir(name) {
            Ok(made) => made,
            Err(e) => return self.fail(pair.path.display_join(name), Trouble::Target(e), run),
        };
        let is_new = made == Made::New;
        let _ = out.dirs.push(if is_new { tag::FRESH } else { 0 }, name); // was checked above
        if is_new {
            out.made_any = true;
            let _ = out.made.push(0, name);
            if out.made.len() >= MAX_TASK_ENTRIES {
                out.post_made(run)?;
            }
        }
        if out.dirs.len() >= GROUP { out.post_dirs(run) } else { Ok(()) }
    }

    /// A directory's own extended attributes, if the policy has use for them.
    pub(super) fn own_xattrs(&self, dir: &dyn Dir) -> Result<crate::fs::Xattrs, FsError> {
        if super::attributes::reads_xattrs(&self.policy) { dir.xattrs_self() } else { Ok(Vec::new()) }
    }
}

fn route_entry(entry: &Entry<'_>, out: &mut Outbox<'_>, run: &mut Run<'_>) -> Result<(), Stopped> {
    let _ = out.entries.push(entry); // was checked above
    out.entries_bytes += entry.metadata.map_or(0, |m| m.size);
    if out.entries.len() >= MAX_TASK_ENTRIES || out.entries_bytes >= BATCH_BYTES {
        out.post_entries(run)
    } else {
        Ok(())
    }
}

fn count_directory(fresh: bool, changed: bool, run: &mut Run<'_>) {
    let totals = &mut run.report.totals;
    totals.directories += 1;
    *(if fresh {
        &mut totals.copied
    } else if changed {
        &mut totals.updated
    } else {
        &mut totals.unchanged
    }) += 1;
}
