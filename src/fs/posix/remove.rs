//! Removing an entry, if asked with all that is in it, however deep, with two descriptors; and moving one out of the
//! way instead.

use super::super::{FsError, Made, Result};
use super::edit::metadata_of;
use super::{Shared, open_child};
use crate::model::{Kind, Operation};
use rustix::fs::{AtFlags, FileType, Mode, RawDir, RenameFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Removes a child that is no directory. POSIX lets a filesystem say `EPERM` of a directory; Linux's say `EISDIR`.
pub(super) fn unlink(at: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let done = rustix::fs::unlinkat(at, name, AtFlags::empty());
    done.map_err(|e| FsError::new(Operation::Remove, e))
}

/// Gives a child that is no directory another name, if nothing has that.
pub(super) fn move_to(at: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, to_name: &[u8]) -> Result<Made> {
    let fail = |e| FsError::new(Operation::Rename, e);
    if metadata_of(at, name, AtFlags::SYMLINK_NOFOLLOW)?.kind == Kind::Directory {
        return Err(fail(Errno::ISDIR));
    }
    match rustix::fs::renameat_with(at, name, to, to_name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(Made::New),
        Err(Errno::EXIST) => return Ok(Made::Existed),
        // No such rename on this filesystem: a second name is exclusive everywhere.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        Err(e) => return Err(fail(e)),
    }
    match rustix::fs::linkat(at, name, to, to_name, AtFlags::empty()) {
        Ok(()) => {}
        // It may have got that name by an earlier try that was killed here.
        Err(Errno::EXIST) if is_same(at, name, to, to_name)? => {}
        Err(Errno::EXIST) => return Ok(Made::Existed),
        // A directory that took the entry's place cannot have two names.
        Err(e) => return Err(fail(e)),
    }
    unlink(at, name).map(|()| Made::New)
}

/// Are both names of one inode?
fn is_same(at: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, to_name: &[u8]) -> Result<bool> {
    let id = |at, name| metadata_of(at, name, AtFlags::SYMLINK_NOFOLLOW).map(|m| (m.dev, m.ino));
    Ok(id(at, name)? == id(to, to_name)?)
}

/// Removes a child of any kind. Absent is an error (`ENOENT`).
pub(super) fn remove(at: BorrowedFd<'_>, name: &[u8], shared: &Shared) -> Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => remove_tree(at, name, shared),
        other => other.map_err(|e| FsError::new(Operation::Remove, e)),
    }
}

/// Removes a directory tree. A directory that is not empty is moved up beside its root under a working name and
/// emptied there, so neither depth nor path length matters; what a kill leaves is found by its name.
fn remove_tree(at: BorrowedFd<'_>, name: &[u8], shared: &Shared) -> Result<()> {
    let fail = |e| FsError::new(Operation::Remove, e);
    let mut pending = vec![name.to_vec()];
    while let Some(next) = pending.pop() {
        match rustix::fs::unlinkat(at, &next[..], AtFlags::REMOVEDIR) {
            Ok(()) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(fail(e)),
        }
        let fd = open_private(at, &next).map_err(fail)?;
        empty(at, &fd, &mut pending, shared).map_err(fail)?;
        rustix::fs::unlinkat(at, &next[..], AtFlags::REMOVEDIR).map_err(fail)?;
    }
    Ok(())
}

/// Opens a directory that is to be emptied; its owner may have to be let in first.
fn open_private(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let fd = open_child(at, name)?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // Only where this is allowed; root does not need it.
        let _ = rustix::fs::fchmod(&fd, Mode::RWXU);
    }
    Ok(fd)
}

fn empty(at: BorrowedFd<'_>, dir: &OwnedFd, pending: &mut Vec<Vec<u8>>, shared: &Shared) -> rustix::io::Result<()> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut listing = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(e) => return Err(e),
            }
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let up = shared.aside();
                rustix::fs::renameat(dir.as_fd(), name, at, &up[..])?;
                pending.push(up);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
