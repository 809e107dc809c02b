//! Quota projects: read and set without opening what could not be opened.

use super::super::{FsError, Result};
use super::edit::metadata_of;
use super::file::PosixFile;
use super::{mounts, open_child, sys};
use crate::fs::lustre;
use crate::model::{Kind, Operation, Project};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `FS_XFLAG_PROJINHERIT` (linux/fs.h): what is made in the directory is of its project.
const INHERIT: u32 = 0x200;

fn project(id: u32, flags: u32) -> Project {
    Project { id, inherit: flags & INHERIT != 0 }
}

/// What was read; none where the filesystem, or this kind of entry, has none.
fn read(found: io::Result<(u32, u32)>) -> Result<Option<Project>> {
    match found {
        Ok((id, flags)) => Ok(Some(project(id, flags))),
        Err(e) => match e.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL | libc::ENOSYS) => Ok(None),
            _ => Err(FsError::new(Operation::GetProject, e)),
        },
    }
}

/// Of what a real descriptor holds.
pub(super) fn of_descriptor(fd: BorrowedFd<'_>) -> Result<Option<Project>> {
    read(sys::fsxattr(fd).map(|x| (x.project, x.flags)))
}

/// Of a child that is not followed.
pub(super) fn of_child(dir: BorrowedFd<'_>, name: &[u8], on_lustre: bool) -> Result<Option<Project>> {
    if on_lustre {
        // The client answers from what it remembers: this has it look, unless it holds a lock on that.
        let kind = metadata_of(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.kind;
        let found = match lustre::sys::project_at(dir, name) {
            // Clients before 2.15 have no such call.
            Err(e) if e.raw_os_error() == Some(libc::ENOTTY) => of_opened(dir, name),
            found => read(found),
        }?;
        return Ok(found.map(|p| Project { inherit: p.inherit && kind == Kind::Directory, ..p }));
    }
    match sys::file_attr_at(dir, Some(name)) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => of_opened(dir, name),
        found => read(found.map(|x| (x.project, x.flags()))),
    }
}

/// As [`of_child`] on kernels before 6.17, and of old Lustre clients: what is neither a file nor a directory, or may not
/// be opened, cannot be asked.
fn of_opened(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Project>> {
    match metadata_of(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.kind {
        Kind::File => PosixFile::open(dir, name, false).map_or_else(unopened, |file| of_descriptor(file.fd())),
        Kind::Directory => open_child(dir, name)
            .map_err(|e| FsError::new(Operation::GetProject, e))
            .map_or_else(unopened, |fd| of_descriptor(fd.as_fd())),
        _ => Ok(None),
    }
}

/// What may not be opened, or not while somebody has a lease on it, does not tell.
fn unopened(e: FsError) -> Result<Option<Project>> {
    if matches!(e.errno, libc::EACCES | libc::EPERM | libc::EWOULDBLOCK) { Ok(None) } else { Err(e) }
}

/// XFS keeps projects whether anybody counts by them or not.
const XFS_MAGIC: u32 = 0x5846_5342;

/// Are projects in use where a root lies? Found out without writing: elsewhere no entry need be asked.
pub(super) fn are_used(root: BorrowedFd<'_>) -> bool {
    if lustre::is_lustre(root) {
        return true;
    }
    let Ok(Some(own)) = of_descriptor(root) else { return false };
    // The type of f_type differs between architectures; magic numbers have 32 bits.
    let is_xfs = rustix::fs::fstatfs(root).is_ok_and(|s| s.f_type as u32 == XFS_MAGIC);
    is_xfs || own.id != 0 || mounts::mount_of(root).is_ok_and(|mount| mount.is_some_and(|m| are_counted(&m.options)))
}

/// Does the filesystem count by project? XFS says `pqnoenforce` where it counts and limits nothing.
fn are_counted(options: &[Vec<u8>]) -> bool {
    options.iter().any(|option| matches!(option.as_slice(), b"prjquota" | b"pquota" | b"pqnoenforce"))
}

/// The flags with this project's instead of what they say of one.
fn with(flags: u32, project: Project) -> u32 {
    if project.inherit { flags | INHERIT } else { flags & !INHERIT }
}

/// Sets that of what a real descriptor holds; other flags stay.
pub(super) fn set(fd: BorrowedFd<'_>, project: Project) -> Result<()> {
    let fail = |e: io::Error| FsError::new(Operation::SetProject, unsupported(e));
    let mut found = sys::fsxattr(fd).map_err(fail)?;
    (found.project, found.flags) = (project.id, with(found.flags, project));
    sys::set_fsxattr(fd, &found).map_err(fail)?;
    // Lustre goes on telling the old one until somebody looks.
    let _ = rustix::fs::fstat(fd);
    Ok(())
}

/// No such call: it cannot be kept there.
fn unsupported(e: io::Error) -> io::Error {
    if e.raw_os_error() == Some(libc::ENOTTY) { io::Error::from_raw_os_error(libc::EOPNOTSUPP) } else { e }
}

/// Sets that of what an `O_PATH` descriptor holds. `named` is where it lies, on Lustre.
pub(super) fn set_by_path(fd: BorrowedFd<'_>, named: Option<(&OwnedFd, &[u8])>, project: Project) -> Result<()> {
    let fail = |e: io::Error| FsError::new(Operation::SetProject, e);
    let m = metadata_of(fd, b"", AtFlags::EMPTY_PATH)?;
    let path = sys::proc_path(fd, None).map_err(fail)?;
    if matches!(m.kind, Kind::File | Kind::Directory) {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty());
        return set(opened.map_err(|e| fail(e.into()))?.as_fd(), project);
    }
    let Some((dir, name)) = named else {
        let mut found = sys::file_attr_at(fd, None).map_err(fail)?;
        found.project = project.id;
        found.set_flags(with(found.flags(), project));
        return sys::set_file_attr_at(fd, &found).map_err(|e| fail(unsupported(e)));
    };
    // By name there is a moment in which somebody could put another entry there, of which at most the project is wrong.
    let there = metadata_of(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (there.dev, there.ino) != (m.dev, m.ino) {
        return Err(fail(io::Error::from_raw_os_error(libc::ESTALE)));
    }
    let (_, flags) = lustre::sys::project_at(dir.as_fd(), name).map_err(fail)?;
    lustre::sys::set_project_at(dir.as_fd(), name, project.id, with(flags, project)).map_err(fail)
}

/// Can a target keep them? Tried out on a file of our own.
pub(super) fn are_kept(file: BorrowedFd<'_>) -> bool {
    const TRIAL: u32 = 1;
    let Ok(Some(before)) = of_descriptor(file) else { return false };
    let tried = set(file, Project { id: TRIAL, inherit: false });
    let kept = tried.is_ok() && of_descriptor(file).is_ok_and(|found| found.is_some_and(|p| p.id == TRIAL));
    // The file is gone in a moment; its space is counted where it was.
    let _ = set(file, before);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_used_where_the_mount_says_so() {
        let counted = |options: &str| are_counted(&options.split(',').map(Into::into).collect::<Vec<_>>());
        assert!(counted("rw,attr2,prjquota") && counted("pquota") && counted("rw,pqnoenforce,noquota"));
        assert!(!counted("rw,usrquota,grpquota,noprjquota") && !counted(""));
    }

    #[test]
    fn what_may_not_be_opened_does_not_tell() {
        for errno in [libc::EACCES, libc::EPERM, libc::EWOULDBLOCK] {
            assert_eq!(unopened(FsError { operation: Operation::Open, errno }), Ok(None));
        }
        assert!(unopened(FsError { operation: Operation::Open, errno: libc::ENOENT }).is_err());
    }

    #[test]
    fn a_client_without_the_call_by_name_is_asked_through_the_opened_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(of_child(fd.as_fd(), b"f", true), of_descriptor(file.as_fd()));
    }
}
