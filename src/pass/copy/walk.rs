//! Listing directories and routing what is in them.

use super::attributes::{Have, Wanted, differs};
use super::{CopyPass, Pair, Trouble};
use crate::broker::Stopped;
use crate::fs::{Dir, FsError, Made, aside};
use crate::model::task::{Entries, Entry, MAX_TASK_ENTRIES, Names, tag};
use crate::model::{Kind, Metadata, Operation, Phase, Queue, RelPath, Task, Timestamp, Totals, check_name};
use crate::pass::extras::{Place, SealedNames, SeenNames};
use crate::pass::{Roots, Run, names_from};
use std::cell::OnceCell;

/// Sibling directories in one task: few messages, yet enough tasks to share out.
const GROUP: usize = 32;
/// Bytes of files in one batch where the listing tells sizes: so that batches take equal time.
const BATCH_BYTES: u64 = 64 << 20;

/// What an existing target directory is like.
#[derive(Debug)]
struct Looked {
    /// Its attributes must be set at the end.
    changed: bool,
    /// There is nothing in it, so nothing needs to be compared.
    empty: bool,
    /// What is in it, where what only the target has goes.
    names: Option<SealedNames>,
}

/// What went wrong with a directory, and when it is met again.
#[derive(Debug, Clone, Copy)]
struct Flaw(Trouble, Phase);

impl From<Trouble> for Flaw {
    fn from(trouble: Trouble) -> Self {
        Flaw(trouble, Phase::Walk)
    }
}

/// How a directory is gone through.
#[derive(Debug, Clone, Copy)]
struct View {
    /// The target has nothing here: a hint.
    fresh: bool,
    /// Times in the source say nothing about what the target has.
    all: bool,
}

impl View {
    fn of(bits: u8, redelivered: bool) -> Self {
        // Who worked on it before may have made directories, and died before anything was in them.
        View { fresh: bits & tag::FRESH != 0 && !redelivered, all: bits & tag::ALL != 0 || redelivered }
    }
}

/// What has been listed and not been posted yet.
pub(super) struct Outbox<'a> {
    path: &'a RelPath,
    /// For batches.
    tag: u8,
    /// For child directories.
    child_tag: u8,
    dirs: Names,
    made: Names,
    entries: Entries,
    entries_bytes: u64,
    made_any: bool,
    posted_entries: bool,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(path: &'a RelPath, tag: u8, child_tag: u8) -> Self {
        Outbox {
            path,
            tag,
            child_tag,
            dirs: Names::default(),
            made: Names::default(),
            entries: Entries::default(),
            entries_bytes: 0,
            made_any: false,
            posted_entries: false,
        }
    }

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
        run.ticket.post(Task::Batch { dir: self.path.clone(), entries, tag: self.tag })
    }

    pub(super) fn post_all(&mut self, run: &mut Run<'_>) -> Result<(), Stopped> {
        self.post_entries(run)?;
        self.post_made(run)?;
        self.post_dirs(run)
    }

    /// Was something made in a directory that may have been there before?
    pub(super) fn changed(&self) -> bool {
        self.made_any
    }

    pub(super) fn add_entry(&mut self, entry: &Entry<'_>, run: &mut Run<'_>) -> Result<(), Stopped> {
        let _ = self.entries.push(entry); // was checked before
        self.entries_bytes += entry.metadata.map_or(0, |m| m.size);
        if self.entries.len() >= MAX_TASK_ENTRIES || self.entries_bytes >= BATCH_BYTES {
            self.post_entries(run)
        } else {
            Ok(())
        }
    }

    pub(super) fn add_dir(&mut self, name: &[u8], made: bool, run: &mut Run<'_>) -> Result<(), Stopped> {
        let fresh = if made { tag::FRESH | tag::ALL } else { 0 };
        let _ = self.dirs.push(fresh | self.child_tag, name); // was checked before
        if made {
            self.made_any = true;
            let _ = self.made.push(0, name);
            if self.made.len() >= MAX_TASK_ENTRIES {
                self.post_made(run)?;
            }
        }
        if self.dirs.len() >= GROUP { self.post_dirs(run) } else { Ok(()) }
    }
}

impl CopyPass {
    /// Lists sibling directories one after the other; what is left goes back when another actor has nothing to do.
    pub(super) fn walk(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        if names.is_empty() {
            run.report.totals.found += 1;
        }
        let source = match self.roots.source.open_dir(parent) {
            Ok(source) => source,
            Err(e) => return self.walk_failed(parent, names, Trouble::Source(e), run),
        };
        if names.is_empty() {
            return self.walk_root(source, run);
        }
        let parent = Opened { path: parent, source, target: OnceCell::new(), roots: &self.roots };
        let mut finish = Names::default();
        for (i, (bits, name)) in names.iter().enumerate() {
            if i > 0 && (run.ticket.is_hungry(Queue::Dirs) || run.turn.is_over()) {
                run.ticket.post(Task::Dirs { parent: parent.path.clone(), names: names_from(names, i) })?;
                break;
            }
            match self.walk_child(&parent, name, bits, run)? {
                Ok(changed) => {
                    if changed || run.redelivered {
                        let _ = finish.push(if run.redelivered { tag::SWEEP } else { 0 }, name);
                    }
                }
                Err(Flaw(trouble, phase)) => {
                    self.fail_in(phase, parent.path.display_join(name), trouble, Totals::default(), run)?;
                }
            }
        }
        if finish.is_empty() {
            Ok(())
        } else {
            run.ticket.post(Task::Finish { parent: parent.path.clone(), names: finish })
        }
    }

    fn walk_root(&self, source: Box<dyn Dir>, run: &mut Run<'_>) -> Result<(), Stopped> {
        let path = RelPath::root();
        let view = View::of(0, run.redelivered);
        match self.roots.target.open_dir(&path) {
            Ok(target) => match self.list(&Pair::new(path, source, target), view, run)? {
                Ok(changed) => count_directory(false, changed, run),
                // Its attributes are set last of all.
                Err(Flaw(trouble, Phase::Dress)) => {
                    count_directory(false, true, run);
                    self.fail_in(Phase::Finish, Vec::new(), trouble, Totals::default(), run)?;
                }
                Err(Flaw(trouble, _)) => self.fail(Vec::new(), trouble, run)?,
            },
            Err(e) => return self.fail(Vec::new(), Trouble::Target(e), run),
        }
        if run.redelivered {
            run.ticket.post(Task::Finish { parent: RelPath::root(), names: Names::default() })?;
        }
        Ok(())
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
        parent: &Opened<'_>,
        name: &[u8],
        bits: u8,
        run: &mut Run<'_>,
    ) -> Result<Result<bool, Flaw>, Stopped> {
        let path = match parent.path.join(name) {
            Ok(path) => path,
            Err(_) => {
                let error = FsError { operation: Operation::OpenDirectory, errno: libc::ENAMETOOLONG };
                return Ok(Err(Trouble::Source(error).into()));
            }
        };
        let source = match parent.source.open_dir(name) {
            Ok(source) => source,
            // It became something else since it was listed: it is worked on as what it is.
            Err(e) if e.class() == crate::fs::Class::OtherKind => {
                let mut entries = Entries::default();
                let _ = entries.push(&Entry { name, kind: None, metadata: None });
                run.ticket.post(Task::Batch { dir: parent.path.clone(), entries, tag: tag::ALL })?;
                return Ok(Ok(true));
            }
            Err(e) => return Ok(Err(Trouble::Source(e).into())),
        };
        let mut view = View::of(bits, run.redelivered);
        if !view.all
            && let Some(since) = self.policy.since
        {
            // What was mounted since shows in no time.
            view.all = match source.is_mount_point() {
                Ok(mounted) => mounted,
                Err(e) => return Ok(Err(Trouble::Source(e).into())),
            };
            match source.metadata() {
                Ok(_) if view.all => {}
                Ok(m) if is_older(&m, since) => {
                    let listed = self.list_unchanged(&path, source.as_ref(), &m, run)?;
                    let mdt = || parent.target().ok()?.placing()?.mdt_of(name).ok();
                    listed.is_ok().then(|| self.count_place(parent.path, mdt, run));
                    return Ok(listed);
                }
                // Moved here, perhaps: what is in it may be older than its place.
                Ok(_) => view.all = bits & tag::MOVED != 0,
                Err(e) => return Ok(Err(Trouble::Source(e).into())),
            }
        }
        let target = parent.target().and_then(|target| self.reopen_dir(parent.path, target, name, run));
        let (target, made) = match target {
            Ok(opened) => opened,
            Err(e) => return Ok(Err(Trouble::Target(e).into())),
        };
        let pair = Pair::new(path, source, target);
        view.fresh |= made == Made::New;
        view.all |= view.fresh;
        let listed = self.list(&pair, view, run)?;
        // Else it is counted when it is gone through again.
        if !matches!(listed, Err(Flaw(_, Phase::Walk))) {
            self.count_place(parent.path, || pair.target.placing()?.mdt().ok(), run);
        }
        Ok(listed.map(|changed| {
            count_directory(view.fresh, changed, run);
            changed || made == Made::New
        }))
    }

    /// A directory that did not change since the last pass: the target is not looked at, only what changed of
    /// itself in the source is worked on, and directories below are gone through.
    fn list_unchanged(
        &self,
        path: &RelPath,
        source: &dyn Dir,
        metadata: &Metadata,
        run: &mut Run<'_>,
    ) -> Result<Result<bool, Flaw>, Stopped> {
        let listed = match self.is_entered(path, metadata) {
            Ok(true) => {
                let mut out = Outbox::new(path, 0, 0);
                let route = |entry: &Entry<'_>, run: &mut Run<'_>| match self.kind(path, source, entry, run)? {
                    None => Ok(()),
                    Some(Kind::Directory) => out.add_dir(entry.name, false, run),
                    Some(_) => out.add_entry(entry, run),
                };
                let listed = list_with(source, route, run)?;
                out.post_all(run)?;
                listed
            }
            Ok(false) => Ok(()),
            Err(e) => Err(e),
        };
        Ok(listed.map_err(|e| Trouble::Source(e).into()).map(|()| {
            count_directory(false, false, run);
            false
        }))
    }

    /// Lists one directory and posts what is in it. True if an existing target directory must be finished.
    /// What goes wrong with the directory itself does not keep what is in it from being worked on.
    fn list(&self, pair: &Pair, view: View, run: &mut Run<'_>) -> Result<Result<bool, Flaw>, Stopped> {
        let source = match self.source_apart(pair) {
            Ok(source) => source,
            Err(Trouble::Source(e)) if e.errno == libc::EDEADLK => return Ok(Err(Trouble::Source(e).into())),
            Err(trouble) => return self.list_on(pair, view, Err(trouble), run),
        };
        match self.is_entered(&pair.path, &source) {
            Ok(true) => {}
            Ok(false) if view.fresh => return Ok(Ok(false)),
            Ok(false) => {
                return Ok(self.look_at_dirs(pair, source, run).map(|looked| looked.changed).map_err(Flaw::from));
            }
            Err(e) => return Ok(Err(Trouble::Source(e).into())),
        }
        let looked = if view.fresh {
            Ok(Looked { changed: false, empty: true, names: None })
        } else {
            self.look_at_dirs(pair, source, run)
        };
        self.list_on(pair, view, looked, run)
    }

    fn list_on(
        &self,
        pair: &Pair,
        view: View,
        looked: Result<Looked, Trouble>,
        run: &mut Run<'_>,
    ) -> Result<Result<bool, Flaw>, Stopped> {
        let empty = matches!(looked, Ok(Looked { empty: true, .. }));
        // What is in a directory that changed since the last pass may have been moved here: it is compared in full.
        let child_tag = if view.all { tag::ALL } else { tag::MOVED };
        let mut out = Outbox::new(&pair.path, tag::ALL | if empty { tag::FRESH } else { 0 }, child_tag);
        let mut names = self.extras.as_ref().filter(|_| !empty).map(|_| SeenNames::of(&pair.path));
        let mut gathered = self.gather(pair);
        let listed = list_with(
            pair.source.as_ref(),
            |entry, run| {
                if let Some(names) = &mut names {
                    names.add(entry.name);
                }
                match self.kind(&pair.path, pair.source.as_ref(), entry, run)? {
                    None => Ok(()),
                    Some(Kind::Directory) => match &mut gathered {
                        Some(gathered) => self.gather_dir(gathered, entry.name, &mut out, run),
                        None => self.route_dir(pair, entry.name, &mut out, run),
                    },
                    Some(_) => out.add_entry(entry, run),
                }
            },
            run,
        )?;
        if let Some(mut gathered) = gathered {
            self.make_gathered(&mut gathered, &mut out, run)?;
        }
        out.post_all(run)?;
        if let (Ok(()), Some(extras), Some(names)) = (&listed, &self.extras, names) {
            let place = Place { path: &pair.path, source: pair.source.as_ref(), target: pair.target.as_ref() };
            let theirs = looked.as_ref().ok().and_then(|looked| looked.names.as_ref());
            extras.find(place, &names.seal(), theirs, run, &mut |_, _, _| Ok(()))?;
        }
        // In a directory that was made by its parent's listing, that has seen to its end already.
        let changed = !view.fresh && (out.made_any || out.posted_entries && empty);
        // What is in it has been seen to, so it is not gone through again.
        let looked = looked.map_err(|trouble| Flaw(trouble, Phase::Dress));
        Ok(listed.map_err(|e| Trouble::Source(e).into()).and(looked).map(|looked| looked.changed || changed))
    }

    /// Looks at both directories themselves: is the target's in need of attributes, of cleaning?
    fn look_at_dirs(&self, pair: &Pair, source: Metadata, run: &mut Run<'_>) -> Result<Looked, Trouble> {
        let totals = &mut run.report.totals;
        let mut names = self.extras.as_ref().map(|_| SeenNames::of(&pair.path));
        let swept = self.work.sweep_with(pair.target.as_ref(), false, totals, &mut |name| {
            if let Some(names) = &mut names {
                names.add(name);
            }
        });
        let empty = swept.map_err(Trouble::Target)? == 0;
        let names = names.map(SeenNames::seal);
        let target = pair.target.metadata().map_err(Trouble::Target)?;
        if target.mode & 0o700 != 0o700 && target.uid == rustix::process::geteuid().as_raw() && target.uid != 0 {
            // A normal user must be able to write into their own directory; its mode is set again at the end.
            let opened = pair.target.edit_self().and_then(|e| e.set_mode(target.mode | 0o700));
            return opened.map(|()| Looked { changed: true, empty, names }).map_err(Trouble::Target);
        }
        let xattrs = self.own_xattrs(pair.source.as_ref()).map_err(Trouble::Source)?;
        let (source, xattrs) = super::attributes::wanted(source, xattrs, &self.policy);
        let have_xattrs = pair.target.xattrs_self().map_err(Trouble::Target)?;
        let dirs = ((pair.source.as_ref(), &b""[..]), (pair.target.as_ref(), &b""[..]));
        let (want, have) = self.projects_of(dirs.0, dirs.1, Kind::Directory)?;
        let want = Wanted { metadata: &source, xattrs: &xattrs, project: want };
        let have = Have { metadata: &target, xattrs: &have_xattrs, project: have };
        let changed = differs(&want, &have, &self.policy, &self.target) || self.default_layout_differs(pair);
        Ok(Looked { changed, empty, names })
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

    /// Is what is in a directory of the source this job's business? Not below the deepest level, nor on another
    /// filesystem if there shall be only one.
    fn is_entered(&self, path: &RelPath, source: &Metadata) -> Result<bool, FsError> {
        Ok(self.matcher.enters(path) && !(self.matcher.one_file_system() && source.dev != self.source_dev))
    }

    /// Counts an entry of the source. Its kind, if it takes part.
    pub(super) fn kind(
        &self,
        path: &RelPath,
        source: &dyn Dir,
        entry: &Entry<'_>,
        run: &mut Run<'_>,
    ) -> Result<Option<Kind>, Stopped> {
        run.report.totals.found += 1;
        if aside::is_working_file(entry.name) || (path.is_root() && entry.name == aside::WORK_DIR) {
            // The source was a target once: working files are nobody's data.
            run.report.totals.filtered += 1;
            return Ok(None);
        }
        if check_name(entry.name).is_err() {
            let error = FsError { operation: Operation::List, errno: libc::ENAMETOOLONG };
            self.fail(path.display_join(entry.name), Trouble::Source(error), run)?;
            return Ok(None);
        }
        let kind = match entry.kind {
            Some(kind) => kind,
            None => match source.stat(entry.name) {
                Ok(m) => m.kind,
                Err(e) => {
                    self.fail(path.display_join(entry.name), Trouble::Source(e), run)?;
                    return Ok(None);
                }
            },
        };
        if !self.matcher.takes(path, entry.name, kind) {
            run.report.totals.filtered += 1;
            return Ok(None);
        }
        Ok(Some(kind))
    }

    pub(super) fn route_dir(
        &self,
        pair: &Pair,
        name: &[u8],
        out: &mut Outbox<'_>,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        let made = self.make_dir(&pair.path, pair.target.as_ref(), name, run);
        self.route_made(&pair.path, name, made, out, run)
    }

    /// A directory's own extended attributes, if the policy has use for them.
    pub(super) fn own_xattrs(&self, dir: &dyn Dir) -> Result<crate::fs::Xattrs, FsError> {
        if super::attributes::reads_xattrs(&self.policy) { dir.xattrs_self() } else { Ok(Vec::new()) }
    }
}

/// A directory of the source whose copy is opened when it is needed.
struct Opened<'a> {
    path: &'a RelPath,
    source: Box<dyn Dir>,
    target: OnceCell<Box<dyn Dir>>,
    roots: &'a Roots,
}

impl Opened<'_> {
    fn target(&self) -> Result<&dyn Dir, FsError> {
        if self.target.get().is_none() {
            let _ = self.target.set(self.roots.target.open_dir(self.path)?); // nobody else sets it
        }
        self.target.get().map(AsRef::as_ref).ok_or(FsError { operation: Operation::OpenDirectory, errno: libc::ENOENT })
    }
}

/// Did neither the inode nor its contents change since then? An inode with several names is never taken to be so:
/// one of them may have come here with a directory that was moved.
pub(super) fn is_older(m: &Metadata, since: Timestamp) -> bool {
    m.ctime < since && m.mtime < since && (m.nlink == 1 || m.kind == Kind::Directory)
}

/// Streams a listing through something that may have to stop.
fn list_with(
    dir: &dyn Dir,
    mut each: impl FnMut(&Entry<'_>, &mut Run<'_>) -> Result<(), Stopped>,
    run: &mut Run<'_>,
) -> Result<Result<(), FsError>, Stopped> {
    let mut stopped = Ok(());
    let listed = dir.list(&mut |entry| {
        if stopped.is_ok() {
            stopped = each(&entry, run);
        }
    });
    stopped.map(|()| listed)
}

pub(super) fn count_directory(fresh: bool, changed: bool, run: &mut Run<'_>) {
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
