//! Entries that are being made: invisible (`O_TMPFILE`) where the filesystem can, else under a working name.

use super::super::{Edit, FsError, Made, New, NewEntry, Result, SourceFile, Xattrs};
use super::dir::{Inherits, kind_of, rename_new};
use super::edit::{Node, metadata_of};
use super::{Shared, contents, mounts, placing, project, remove, sys, xattr};
use crate::model::{Kind, Metadata, Operation, Project, Timestamp};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Readable and writable by the maker alone until the final mode is set.
pub(super) const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
const WRITE: OFlags = OFlags::WRONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
pub(super) const WRITE_NEW: OFlags = WRITE.union(OFlags::CREATE).union(OFlags::EXCL);

/// Where the entry is while it is being made.
enum Place {
    /// It has no name: the kernel removes it when nobody holds it.
    Nameless,
    /// Under a working name, or, made directly, under its final one.
    Named(Vec<u8>),
    /// Published, or gone.
    Settled,
}

pub(super) struct PosixNew {
    dir: Arc<OwnedFd>,
    shared: Arc<Shared>,
    name: Vec<u8>,
    /// None after the checked close.
    node: Option<Node>,
    place: Place,
    direct: bool,
    own_group: bool,
    has_layout: bool,
}

impl PosixNew {
    pub(super) fn create(
        dir: &Arc<OwnedFd>,
        inherits: Inherits,
        shared: Arc<Shared>,
        name: &[u8],
        what: New<'_>,
        direct: bool,
    ) -> Result<Self> {
        let mut has_layout = true;
        let final_name = direct.then_some(name);
        let (node, place) = match what {
            New::LaidOut(layout) if shared.lustre.is_some() => {
                let name = final_name.map_or_else(|| shared.aside(), <[u8]>::to_vec);
                let (fd, taken) = placing::create(dir.as_fd(), &name, WRITE_NEW, layout)?;
                has_layout = taken;
                (Node::open(fd), Place::Named(name))
            }
            New::File => create_file(dir.as_fd(), &shared, final_name)?,
            New::LaidOut(_) => {
                has_layout = false;
                create_file(dir.as_fd(), &shared, final_name)?
            }
            New::Symlink(target) => create_symlink(dir, &shared, final_name, target)?,
            New::Node(kind, rdev) => create_node(dir, &shared, final_name, kind, rdev)?,
        };
        let own_group = inherits.own_group;
        let dir = Arc::clone(dir);
        let new = PosixNew { dir, shared, name: name.to_vec(), node: Some(node), place, direct, own_group, has_layout };
        if inherits.acl && !matches!(what, New::Symlink(_)) {
            new.remove_xattr(xattr::ACL_ACCESS)?;
        }
        Ok(new)
    }

    /// Can the filesystem keep quota projects? Tried out on this file.
    pub(super) fn keeps_projects(&self) -> bool {
        self.node(Operation::GetProject).is_ok_and(|node| project::are_kept(node.descriptor()))
    }

    fn node(&self, operation: Operation) -> Result<&Node> {
        self.node.as_ref().ok_or_else(|| FsError::new(operation, Errno::BADF))
    }

    /// Gives a file without a name this one.
    fn link_nameless(&self, name: &[u8]) -> Result<()> {
        let fail = |e: Errno| FsError::new(Operation::Link, e);
        let fd = self.node(Operation::Link)?.descriptor();
        match rustix::fs::linkat(fd, "", &self.dir, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH an empty path is refused with ENOENT; the way through /proc is not.
            Err(Errno::NOENT) => {
                let path = sys::proc_path(fd, None).map_err(|e| FsError::new(Operation::Link, e))?;
                rustix::fs::linkat(CWD, path, &self.dir, name, AtFlags::SYMLINK_FOLLOW).map_err(fail)
            }
            other => other.map_err(fail),
        }
    }

    /// Gives what has a working name its own. The guard forgets the working name if it is gone.
    fn publish_named(&mut self, aside: &[u8], replace: bool) -> Result<Made> {
        let at = self.dir.as_fd();
        match self.rename_new(aside) {
            Ok(()) => {}
            Err(Errno::EXIST) if !replace => return Ok(Made::Existed),
            // No such rename on this filesystem: a second name is exclusive everywhere.
            Err(Errno::INVAL | Errno::NOSYS) if !replace => {
                match rustix::fs::linkat(at, aside, at, &self.name[..], AtFlags::empty()) {
                    // The working name goes with the guard.
                    Ok(()) => return Ok(Made::New),
                    Err(Errno::EXIST) => return Ok(Made::Existed),
                    Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
                        if self.publish_unlinkable(aside)? == Made::Existed {
                            return Ok(Made::Existed);
                        }
                    }
                    Err(e) => return Err(FsError::new(Operation::Rename, e)),
                }
            }
            Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => put_over(at, aside, &self.name, &self.shared)?,
            Err(e) => return Err(FsError::new(Operation::Rename, e)),
        }
        self.place = Place::Settled;
        Ok(Made::New)
    }

    /// Renames if the name is free. Where that was seen to be impossible, nobody is asked again: each time costs a look
    /// at both names.
    fn rename_new(&self, aside: &[u8]) -> rustix::io::Result<()> {
        if !self.shared.renames_new.load(Ordering::Relaxed) {
            return Err(Errno::INVAL);
        }
        let renamed = rename_new(self.dir.as_fd(), aside, &self.name);
        if matches!(renamed, Err(Errno::INVAL | Errno::NOSYS)) {
            self.shared.renames_new.store(false, Ordering::Relaxed);
        }
        renamed
    }

    /// On a filesystem with neither exclusive rename nor hard links: look, then rename.
    fn publish_unlinkable(&self, aside: &[u8]) -> Result<Made> {
        match metadata_of(self.dir.as_fd(), &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(Made::Existed),
            Err(e) if e.is_absent() => {
                put_over(self.dir.as_fd(), aside, &self.name, &self.shared)?;
                Ok(Made::New)
            }
            Err(e) => Err(e),
        }
    }
}

impl Drop for PosixNew {
    fn drop(&mut self) {
        if let Place::Named(name) = &self.place {
            // Best effort: a working file that stays is found and removed by the next run.
            let _ = rustix::fs::unlinkat(&self.dir, &name[..], AtFlags::empty());
        }
    }
}

fn create_file(at: BorrowedFd<'_>, shared: &Shared, name: Option<&[u8]>) -> Result<(Node, Place)> {
    let fail = |e| FsError::new(Operation::Create, e);
    if name.is_none() && shared.tmpfile.load(Ordering::Relaxed) {
        match rustix::fs::openat(at, ".", OFlags::WRONLY | OFlags::CLOEXEC | OFlags::TMPFILE, PRIVATE) {
            Ok(fd) => return Ok((Node::open(fd), Place::Nameless)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                shared.tmpfile.store(false, Ordering::Relaxed);
            }
            Err(e) => return Err(fail(e)),
        }
    }
    let name = name.map_or_else(|| shared.aside(), <[u8]>::to_vec);
    let fd = rustix::fs::openat(at, &name[..], WRITE_NEW, PRIVATE).map_err(fail)?;
    Ok((Node::open(fd), Place::Named(name)))
}

fn create_symlink(at: &Arc<OwnedFd>, shared: &Shared, name: Option<&[u8]>, target: &[u8]) -> Result<(Node, Place)> {
    let name = name.map_or_else(|| shared.aside(), <[u8]>::to_vec);
    rustix::fs::symlinkat(target, at, &name[..]).map_err(|e| FsError::new(Operation::MakeSymlink, e))?;
    hold(at, name, Kind::Symlink, shared)
}

fn create_node(
    at: &Arc<OwnedFd>,
    shared: &Shared,
    name: Option<&[u8]>,
    kind: Kind,
    rdev: u64,
) -> Result<(Node, Place)> {
    let fail = |e| FsError::new(Operation::MakeNode, e);
    let file_type = match kind {
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::File | Kind::Directory | Kind::Symlink => return Err(fail(Errno::INVAL)),
    };
    let name = name.map_or_else(|| shared.aside(), <[u8]>::to_vec);
    rustix::fs::mknodat(at, &name[..], file_type, PRIVATE, rdev).map_err(fail)?;
    hold(at, name, kind, shared)
}

/// Takes hold of what was just made under a name, and makes sure that nobody put something else there:
/// attributes must not be set on a file that an attacker links into place.
fn hold(at: &Arc<OwnedFd>, name: Vec<u8>, kind: Kind, shared: &Shared) -> Result<(Node, Place)> {
    let held = try_hold(at, &name, kind, shared);
    if held.is_err() {
        // Best effort, as for any working file.
        let _ = rustix::fs::unlinkat(at, &name[..], AtFlags::empty());
    }
    held.map(|node| (node, Place::Named(name)))
}

fn try_hold(at: &Arc<OwnedFd>, name: &[u8], kind: Kind, shared: &Shared) -> Result<Node> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|e| FsError::new(Operation::Open, e))?;
    let found = rustix::fs::fstat(&fd).map_err(|e| FsError::new(Operation::Stat, e))?;
    let own = found.st_uid == shared.uid.load(Ordering::Relaxed) && found.st_nlink == 1;
    if !own || kind_of(FileType::from_raw_mode(found.st_mode)) != Some(kind) {
        return Err(FsError::new(Operation::Open, Errno::STALE));
    }
    Ok(Node::path_at(fd, at, name, shared))
}

/// Renames `aside` to `name`, whatever stands there; a directory is moved out of the way and then removed.
pub(super) fn put_over(at: BorrowedFd<'_>, aside: &[u8], name: &[u8], shared: &Shared) -> Result<()> {
    match rustix::fs::renameat(at, aside, at, name) {
        Ok(()) => Ok(()),
        Err(Errno::ISDIR | Errno::NOTDIR | Errno::EXIST | Errno::NOTEMPTY) => swap_in(at, aside, name, shared),
        Err(e) => Err(FsError::new(Operation::Rename, e)),
    }
}

/// Puts `aside` in the place of an entry of another kind, and then removes that one.
pub(super) fn swap_in(at: BorrowedFd<'_>, aside: &[u8], name: &[u8], shared: &Shared) -> Result<()> {
    let fail = |e| FsError::new(Operation::Rename, e);
    // A directory with a mount in it can be moved, and then not be removed: it would stay, hidden.
    if mounts::is_any_below(at, name).map_err(|e| FsError::new(Operation::Remove, e))? {
        return Err(FsError::new(Operation::Remove, Errno::BUSY));
    }
    match rustix::fs::renameat_with(at, aside, at, name, RenameFlags::EXCHANGE) {
        Ok(()) => remove::remove(at, aside, shared),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOENT) => {
            let old = shared.aside();
            match rustix::fs::renameat(at, name, at, &old[..]) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(fail(e)),
            }
            rustix::fs::renameat(at, aside, at, name).map_err(fail)?;
            match remove::remove(at, &old, shared) {
                Err(e) if e.is_absent() => Ok(()),
                other => other,
            }
        }
        Err(e) => Err(fail(e)),
    }
}

impl Edit for PosixNew {
    fn metadata(&self) -> Result<Metadata> {
        self.node(Operation::Stat)?.metadata()
    }
    fn xattrs(&self) -> Result<Xattrs> {
        self.node(Operation::ListXattrs)?.xattrs()
    }
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.node(Operation::SetOwner)?.set_owner(uid, gid)
    }
    fn set_mode(&self, mode: u32) -> Result<()> {
        self.node(Operation::SetMode)?.set_mode(mode)
    }
    fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.node(Operation::SetTimes)?.set_times(atime, mtime)
    }
    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.node(Operation::SetXattr)?.set_xattr(name, value)
    }
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.node(Operation::RemoveXattr)?.remove_xattr(name)
    }
    fn set_project(&self, project: Project) -> Result<()> {
        self.node(Operation::SetProject)?.set_project(project)
    }
}

impl NewEntry for PosixNew {
    fn is_owned_by(&self, uid: u32, gid: u32) -> bool {
        let (made_uid, made_gid) = (self.shared.uid.load(Ordering::Relaxed), self.shared.gid.load(Ordering::Relaxed));
        uid == made_uid && gid == made_gid && self.own_group
    }

    fn sync(&mut self) -> Result<()> {
        let fd = self.node(Operation::Flush)?.descriptor();
        rustix::fs::fsync(fd).map_err(|e| FsError::new(Operation::Flush, e))
    }

    fn has_layout(&self) -> bool {
        self.has_layout
    }

    fn share_with(&mut self, source: &dyn SourceFile) -> bool {
        self.node(Operation::Write).is_ok_and(|node| contents::share(node.descriptor(), source, &self.shared))
    }

    fn fill_from(&mut self, source: &dyn SourceFile, holes: bool, written: &dyn Fn(u64)) -> Result<u64> {
        let target = self.node(Operation::Write)?.descriptor();
        contents::fill(target, source, holes, written, &self.shared)
    }

    fn seal(&mut self) -> Result<()> {
        let fail = |e| FsError::new(Operation::Close, e);
        let closing = match self.place {
            // Still needed to give it a name; closing a duplicate makes the filesystem flush all the same.
            Place::Nameless => {
                let fd = self.node(Operation::Close)?.descriptor();
                Some(rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(|e| FsError::new(Operation::Close, e))?)
            }
            _ => self.node.take().map(Node::into_descriptor),
        };
        closing.map_or(Ok(()), |fd| sys::checked_close(fd).map_err(fail))
    }

    fn publish(mut self: Box<Self>, replace: bool) -> Result<Made> {
        if self.direct {
            self.place = Place::Settled;
            return Ok(Made::New);
        }
        if let Place::Nameless = self.place {
            match self.link_nameless(&self.name) {
                Ok(()) => return Ok(Made::New),
                Err(e) if e.errno == libc::EEXIST && !replace => return Ok(Made::Existed),
                Err(e) if e.errno == libc::EEXIST => {
                    let aside = self.shared.aside();
                    self.link_nameless(&aside)?;
                    self.place = Place::Named(aside);
                }
                Err(e) => return Err(e),
            }
        }
        let Place::Named(aside) = &self.place else { return Err(FsError::new(Operation::Rename, Errno::BADF)) };
        let aside = aside.clone();
        self.publish_named(&aside, replace)
    }
}
