//! POSIX filesystems as the kernel mounts them, Lustre and NFS mounts among them.
//!
//! Invariant: a path given by the user is resolved once, when the root is opened. After that everything is
//! an `*at` call with one name on a held descriptor, or `openat2` beneath the root's; no symlink is followed.

mod contents;
mod dir;
mod edit;
mod facts;
mod file;
mod identity;
mod mounts;
mod new;
mod overlap;
mod part;
mod placing;
mod probe;
mod project;
mod remove;
mod sys;
mod trial;
mod xattr;

pub use facts::{Facts, facts, is_empty};
pub use mounts::Mount;
pub use overlap::{RootKind, ancestors, check_roots, kind_of};
pub use sys::{be_nice, outlive_file_limits};
pub use trial::{Outcome, Trials, Tried, Weight, try_out};

use self::dir::PosixDir;
use self::placing::OnLustre;
use super::{Dir, Filesystem, FsError, Options, Result, RootError, Side, Traits, Usage, lustre};
use crate::model::fleet::Space;
use crate::model::{JobId, Operation, RelPath, RootIdentity, Servers};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How directories are opened: for listing, never through a symlink, access time left alone.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NOATIME);

/// What all handles of one root share.
struct Shared {
    job: JobId,
    /// Set if the root is Lustre.
    lustre: Option<OnLustre>,
    /// Owner and group that new entries get: this process's, or what an NFS server or mount makes of them.
    uid: AtomicU32,
    gid: AtomicU32,
    /// Each is set until the filesystem says that it cannot.
    tmpfile: AtomicBool,
    /// It can rename without replacing, as far as it was tried.
    renames_new: AtomicBool,
    reflink: AtomicBool,
    copy_range: AtomicBool,
}

impl Shared {
    /// For trials: where it is does not matter.
    fn new(job: JobId) -> Arc<Self> {
        Self::with(job, None)
    }

    /// For a root.
    fn of(root: BorrowedFd<'_>, options: &Options) -> Arc<Self> {
        Self::with(options.job, lustre::is_lustre(root).then(|| OnLustre::new(options.recall)))
    }

    fn with(job: JobId, lustre: Option<OnLustre>) -> Arc<Self> {
        Arc::new(Shared {
            job,
            lustre,
            uid: AtomicU32::new(rustix::process::geteuid().as_raw()),
            gid: AtomicU32::new(rustix::process::getegid().as_raw()),
            tmpfile: AtomicBool::new(true),
            renames_new: AtomicBool::new(true),
            reflink: AtomicBool::new(true),
            copy_range: AtomicBool::new(true),
        })
    }

    fn aside(&self) -> Vec<u8> {
        super::aside::aside_name(self.job)
    }
}

/// A root that is held open.
pub struct PosixFs {
    root: Arc<OwnedFd>,
    shared: Arc<Shared>,
    traits: Traits,
}

/// Opens a directory as a root. A target that does not exist is made, its parent is not.
///
/// # Errors
/// [`RootError`] with the path and what to do.
pub fn open(path: &[u8], side: Side, options: &Options) -> std::result::Result<Arc<dyn Filesystem>, RootError> {
    let fail = |error| RootError::Fs { path: path.to_vec(), error };
    if rustix::fs::stat("/proc/self/fd").is_err() {
        return Err(RootError::BadUrl("/proc is not mounted, and treehaul needs it: mount -t proc proc /proc".into()));
    }
    let os_path = OsStr::from_bytes(path);
    if side == Side::Target {
        match rustix::fs::mkdirat(CWD, os_path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(fail(FsError::new(Operation::MakeDirectory, e))),
        }
    }
    let flags = DIRECTORY.difference(OFlags::NOFOLLOW).difference(OFlags::NOATIME);
    let root = rustix::fs::openat(CWD, os_path, flags, Mode::empty())
        .map_err(|e| fail(FsError::new(Operation::OpenRoot, e)))?;
    let shared = Shared::of(root.as_fd(), options);
    let traits = match side {
        Side::Source => probe::traits_unwritten(root.as_fd()),
        Side::Target => probe::traits(root.as_fd(), &shared),
        Side::Trial => probe::traits_unseen(root.as_fd(), &shared),
    };
    Ok(Arc::new(PosixFs { root: Arc::new(root), shared, traits }))
}

impl Filesystem for PosixFs {
    fn traits(&self) -> Traits {
        self.traits
    }

    fn open_dir(&self, path: &RelPath) -> Result<Box<dyn Dir>> {
        let fail = |e: Errno| FsError::new(Operation::OpenDirectory, e);
        let mut fd: Option<OwnedFd> = None;
        for piece in path.pieces() {
            let at = fd.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            fd = Some(open_beneath(at, piece).map_err(fail)?);
        }
        let fd = match fd {
            Some(fd) => fd,
            // A description of its own: two listings of the root must not share an offset.
            None => open_child(self.root.as_fd(), b".").map_err(fail)?,
        };
        Ok(Box::new(PosixDir::new(fd, Arc::clone(&self.shared))))
    }

    fn identity(&self) -> Result<RootIdentity> {
        identity::of(self.root.as_fd())
    }

    fn servers(&self) -> Option<Servers> {
        self.shared.lustre.as_ref().map(|on_lustre| on_lustre.servers(self.root.as_fd()))
    }

    fn barrier(&self, scratch: &dyn Dir) -> Result<()> {
        let fail = |e: Errno| FsError::new(Operation::Flush, e);
        let Some(on_lustre) = &self.shared.lustre else {
            return rustix::fs::syncfs(&self.root).map_err(fail);
        };
        let scratch = scratch.as_any().downcast_ref::<PosixDir>().ok_or_else(|| fail(Errno::XDEV))?;
        placing::barrier(self.root.as_fd(), scratch, on_lustre)
    }

    fn usage(&self) -> Option<Usage> {
        let s = rustix::fs::fstatvfs(&self.root).ok()?;
        let here = rustix::fs::fstat(&self.root).ok()?;
        let above = rustix::fs::statat(&self.root, "..", rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(Usage {
            entries: s.f_files.saturating_sub(s.f_ffree),
            bytes: s.f_blocks.saturating_sub(s.f_bfree).saturating_mul(s.f_frsize),
            whole: here.st_dev != above.st_dev,
        })
    }

    fn space(&self) -> Option<Space> {
        let s = rustix::fs::fstatvfs(&self.root).ok()?;
        Some(Space {
            bytes: s.f_blocks.saturating_mul(s.f_frsize),
            free_bytes: s.f_bavail.saturating_mul(s.f_frsize),
            inodes: s.f_files,
            free_inodes: s.f_ffree,
        })
    }
}

/// Opens a directory with the access time left alone where that is allowed (owner or `CAP_FOWNER`).
fn with_noatime(open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    match open(flags) {
        Err(Errno::PERM) => open(flags.difference(OFlags::NOATIME)),
        other => other,
    }
}

fn open_child(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    with_noatime(|flags| rustix::fs::openat(at, name, flags, Mode::empty()), DIRECTORY)
}

/// Opens a path of at most `PATH_MAX` beneath a directory, without symlinks.
fn open_beneath(at: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    static HAS_OPENAT2: AtomicBool = AtomicBool::new(true);
    if !path.contains(&b'/') {
        return open_child(at, path);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    while HAS_OPENAT2.load(Ordering::Relaxed) {
        let open = |flags| rustix::fs::openat2(at, path, flags, Mode::empty(), resolve);
        match with_noatime(open, DIRECTORY) {
            Err(Errno::AGAIN) => {} // somebody renamed a directory meanwhile: the kernel asks to try again
            // A seccomp filter that does not know the call says EPERM.
            Err(Errno::NOSYS | Errno::PERM) => HAS_OPENAT2.store(false, Ordering::Relaxed),
            other => return other,
        }
    }
    let mut fd: Option<OwnedFd> = None;
    for name in path.split(|b| *b == b'/') {
        fd = Some(open_child(fd.as_ref().map_or(at, AsFd::as_fd), name)?);
    }
    fd.ok_or(Errno::NOENT)
}
