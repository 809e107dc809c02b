//! Attributes of what a descriptor holds.

use super::super::{Edit, FsError, Result, Xattrs};
use super::dir::{STATX, kind_of};
use super::{Shared, project, sys, xattr};
use crate::model::{Kind, Metadata, Operation, Project, Timestamp};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, StatxTimestamp, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Attributes by name, or of the descriptor itself with an empty name and `AT_EMPTY_PATH`.
pub(super) fn metadata_of(at: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<Metadata> {
    let fail = |e: Errno| FsError::new(Operation::Stat, e);
    let s = rustix::fs::statx(at, name, flags, STATX).map_err(fail)?;
    let mode = u32::from(s.stx_mode);
    let kind = kind_of(FileType::from_raw_mode(mode)).ok_or_else(|| fail(Errno::IO))?;
    let time = |t: StatxTimestamp| Timestamp { sec: t.tv_sec, ns: t.tv_nsec };
    Ok(Metadata {
        kind,
        mode: mode & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        size: s.stx_size,
        blocks_512: s.stx_blocks,
        nlink: s.stx_nlink,
        dev: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        rdev: rustix::fs::makedev(s.stx_rdev_major, s.stx_rdev_minor),
        atime: time(s.stx_atime),
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
    })
}

/// Times as the kernel takes them.
pub(super) fn timestamps(atime: Timestamp, mtime: Timestamp) -> Timestamps {
    let spec = |t: Timestamp| Timespec { tv_sec: t.sec, tv_nsec: i64::from(t.ns) };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

/// An entry held by a descriptor: a real one, or `O_PATH`, which any kind of entry has without being opened.
pub(super) struct Node {
    fd: OwnedFd,
    is_path: bool,
    /// Directory and name, where a call needs them (Lustre).
    named: Option<(Arc<OwnedFd>, Vec<u8>)>,
}

impl Node {
    pub(super) fn open(fd: OwnedFd) -> Self {
        Node { fd, is_path: false, named: None }
    }

    pub(super) fn path(fd: OwnedFd) -> Self {
        Node { fd, is_path: true, named: None }
    }

    /// An `O_PATH` descriptor of what lies here under this name.
    pub(super) fn path_at(fd: OwnedFd, dir: &Arc<OwnedFd>, name: &[u8], shared: &Shared) -> Self {
        let named = shared.lustre.as_ref().map(|_| (Arc::clone(dir), name.to_vec()));
        Node { named, ..Node::path(fd) }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.fd
    }

    /// `/proc/self/fd/N`, which leads to exactly this inode, a symlink's own included.
    fn proc(&self, operation: Operation) -> Result<std::ffi::CString> {
        sys::proc_path(self.fd.as_fd(), None).map_err(|e| FsError::new(operation, e))
    }
}

impl Edit for Node {
    fn metadata(&self) -> Result<Metadata> {
        metadata_of(self.fd.as_fd(), b"", AtFlags::EMPTY_PATH)
    }

    fn xattrs(&self) -> Result<Xattrs> {
        if self.is_path { xattr::of_path_descriptor(self.fd.as_fd()) } else { xattr::of_descriptor(self.fd.as_fd()) }
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        let done = if self.is_path {
            rustix::fs::chownat(&self.fd, "", uid, gid, AtFlags::EMPTY_PATH)
        } else {
            rustix::fs::fchown(&self.fd, uid, gid)
        };
        done.map_err(|e| FsError::new(Operation::SetOwner, e))
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        let fail = |e: Errno| FsError::new(Operation::SetMode, e);
        let bits = Mode::from_raw_mode(mode);
        if !self.is_path {
            return rustix::fs::fchmod(&self.fd, bits).map_err(fail);
        }
        if self.metadata()?.kind == Kind::Symlink {
            return Ok(()); // Linux keeps no mode for a symlink
        }
        rustix::fs::chmodat(CWD, self.proc(Operation::SetMode)?, bits, AtFlags::empty()).map_err(fail)
    }

    fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        let times = timestamps(atime, mtime);
        let done = if self.is_path {
            rustix::fs::utimensat(CWD, self.proc(Operation::SetTimes)?, &times, AtFlags::empty())
        } else {
            rustix::fs::futimens(&self.fd, &times)
        };
        done.map_err(|e| FsError::new(Operation::SetTimes, e))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        let done = if self.is_path {
            rustix::fs::setxattr(self.proc(Operation::SetXattr)?, name, value, XattrFlags::empty())
        } else {
            rustix::fs::fsetxattr(&self.fd, name, value, XattrFlags::empty())
        };
        done.map_err(|e| FsError::new(Operation::SetXattr, e))
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        let done = if self.is_path {
            rustix::fs::removexattr(self.proc(Operation::RemoveXattr)?, name)
        } else {
            rustix::fs::fremovexattr(&self.fd, name)
        };
        match done {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(e) => Err(FsError::new(Operation::RemoveXattr, e)),
        }
    }

    fn set_project(&self, project: Project) -> Result<()> {
        let named = self.named.as_ref().map(|(dir, name)| (&**dir, &name[..]));
        if self.is_path {
            project::set_by_path(self.fd.as_fd(), named, project)
        } else {
            project::set(self.fd.as_fd(), project)
        }
    }
}
