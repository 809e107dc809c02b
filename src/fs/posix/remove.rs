//! Removing an entry with all that is in it, however deep, with two descriptors.

use super::super::{FsError, Result};
use super::{Shared, open_child};
use crate::model::Operation;
use rustix::fs::{AtFlags, FileType, Mode, RawDir};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
