//! What can be told of a directory and its filesystem without writing: a handful of system calls.

use super::super::{FsError, RootError};
use super::mounts::{Mount, mount_of};
use super::probe::usual_granularity_ns;
use super::xattr::ACL_ACCESS;
use super::{DIRECTORY, sys, with_noatime};
use crate::model::root::filesystem_name;
use crate::model::{Operation, Timestamp};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatVfsMountFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Filesystems whose names do not tell case apart unless they were told to.
const CASELESS: [u64; 6] = [0x4d44, 0x2011_bab0, 0xff53_4d42, 0xfe53_4d42, 0x482b, 0x5346_544e];
/// Filesystems where an inode has one name.
const SINGLE_NAMES: [u64; 2] = [0x4d44, 0x2011_bab0];

/// Lustre's magic number.
const LUSTRE: u64 = 0x0bd0_0bd0;

/// A directory and its filesystem.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Type of the filesystem: a name, or its magic number.
    pub filesystem: String,
    /// Mounted so that nothing can be written.
    pub read_only: bool,
    /// The directory is the whole filesystem, so what is in use is its own.
    pub whole: bool,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that this process may still use.
    pub free_bytes: u64,
    /// Inodes in use; 0 where nobody counts.
    pub used_inodes: u64,
    /// Inodes that are left; none where nobody counts.
    pub free_inodes: Option<u64>,
    /// Longest name in bytes, by its own account.
    pub longest_name: u64,
    /// Names that differ only in case are one, as far as the type tells.
    pub caseless: bool,
    /// An inode can have several names, as far as the type tells.
    pub hard_links: bool,
    /// Granularity of times that this type is known for, in ns.
    pub granularity_ns: u32,
    /// `user.*` extended attributes can be had.
    pub user_xattrs: bool,
    /// POSIX ACLs can be had.
    pub acls: bool,
    /// The directory has an NFSv4 ACL.
    pub has_nfs4_acl: bool,
    /// Quota project of the directory; 0 is none.
    pub project: u32,
    /// Change time of the directory.
    pub changed: Timestamp,
    /// Device that holds it.
    pub device: u64,
    /// Where a Lustre filesystem is mounted, and how; none of others.
    pub lustre: Option<Mount>,
}

/// Looks at a directory; the user's own symlink is followed.
///
/// # Errors
/// [`RootError::Fs`], if it cannot be opened.
pub fn facts(path: &[u8]) -> Result<Facts, RootError> {
    let fail = |e: Errno| RootError::Fs { path: path.to_vec(), error: FsError::new(Operation::OpenRoot, e) };
    open(path).and_then(|fd| of_descriptor(&fd)).map_err(fail)
}

/// Is nothing in a directory, as far as the first entry tells? Also where there is no directory.
pub fn is_empty(path: &[u8]) -> bool {
    let Ok(fd) = open(path) else { return true };
    let mut buffer = Vec::with_capacity(1 << 10);
    let mut listing = RawDir::new(&fd, buffer.spare_capacity_mut());
    while let Some(Ok(entry)) = listing.next() {
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return false;
        }
    }
    true
}

fn open(path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let open = |flags| rustix::fs::openat(CWD, OsStr::from_bytes(path), flags, Mode::empty());
    with_noatime(open, DIRECTORY.difference(OFlags::NOFOLLOW))
}

fn of_descriptor(fd: &OwnedFd) -> rustix::io::Result<Facts> {
    let vfs = rustix::fs::fstatvfs(fd)?;
    let magic = rustix::fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff;
    let own = rustix::fs::fstat(fd)?;
    let above = rustix::fs::statat(fd, "..", AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Facts {
        filesystem: filesystem_name(magic),
        read_only: vfs.f_flag.contains(StatVfsMountFlags::RDONLY),
        whole: own.st_dev != above.st_dev || own.st_ino == above.st_ino,
        used_bytes: vfs.f_blocks.saturating_sub(vfs.f_bfree).saturating_mul(vfs.f_frsize),
        free_bytes: vfs.f_bavail.saturating_mul(vfs.f_frsize),
        used_inodes: vfs.f_files.saturating_sub(vfs.f_ffree),
        free_inodes: (vfs.f_files > 0).then_some(vfs.f_favail),
        longest_name: vfs.f_namemax,
        caseless: CASELESS.contains(&magic),
        hard_links: !SINGLE_NAMES.contains(&magic),
        granularity_ns: usual_granularity_ns(magic),
        user_xattrs: is_known(fd, b"user.treehaul"),
        acls: is_known(fd, ACL_ACCESS),
        has_nfs4_acl: rustix::fs::fgetxattr(fd, &b"system.nfs4_acl"[..], &mut [0_u8; 0][..]).is_ok_and(|n| n > 0),
        project: sys::project_of(fd.as_fd()).unwrap_or(0),
        changed: Timestamp { sec: own.st_ctime, ns: u32::try_from(own.st_ctime_nsec).unwrap_or(0) },
        device: own.st_dev,
        lustre: if magic == LUSTRE { mount_of(fd.as_fd()).ok().flatten() } else { None },
    })
}

/// Could the directory have such an attribute?
fn is_known(fd: &OwnedFd, name: &[u8]) -> bool {
    !matches!(rustix::fs::fgetxattr(fd, name, &mut [0_u8; 0][..]), Err(Errno::OPNOTSUPP))
}
