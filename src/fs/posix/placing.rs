//! What a directory of a Lustre root can do beyond POSIX: where things lie, and telling it where to put them.
//!
//! Invariant: everything is relative to held descriptors; no path is resolved anew, and no library is needed.

use super::super::{Dir, FsError, Made, Placing, Result};
use super::dir::PosixDir;
use super::edit::metadata_of;
use super::new::{PRIVATE, WRITE_NEW};
use super::{open_child, sys, xattr};
use crate::fs::lustre::{self, sys as calls};
use crate::model::lustre::Mdt;
use crate::model::{Kind, Layout, Operation, Servers};
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

/// The layout, without what belongs to one client.
const LAYOUT: &[u8] = b"lustre.lov";
/// The same as it lies on the server: a directory lists it only if it has one of its own.
const OWN_LAYOUT: &[u8] = b"trusted.lov";
/// Most bytes of a layout.
const MAX_BYTES: usize = 64 << 10;

/// What a root on Lustre knows.
pub(super) struct OnLustre {
    /// Files whose data are only in an archive may be opened.
    pub(super) recall: bool,
    /// The whole filesystem's default layout, which the client tells of directories that have none: looked up when it
    /// is first needed. If that failed, it is not known, and nobody asks again.
    common_default: OnceLock<Result<Option<Vec<u8>>>>,
    /// MDTs that answered when the root was first asked.
    answered: OnceLock<Vec<u32>>,
}

impl OnLustre {
    pub(super) fn new(recall: bool) -> Self {
        OnLustre { recall, common_default: OnceLock::new(), answered: OnceLock::new() }
    }

    /// What the root's filesystem is made of.
    pub(super) fn servers(&self, root: BorrowedFd<'_>) -> Servers {
        let servers = lustre::servers(root);
        self.answered.get_or_init(|| answering(&servers.mdts));
        servers
    }

    /// MDTs to wait for, of those that there are now.
    fn awaited(&self, mdts: &[Mdt]) -> Result<Vec<u32>> {
        let fail = |e: Errno| Err(FsError::new(Operation::Flush, e));
        let now = answering(mdts);
        // What was made on one that is lost since may be lost, too.
        let is_lost = |index: &u32| !now.contains(index);
        if self.answered.get().is_some_and(|before| before.iter().any(is_lost)) {
            return fail(Errno::NOTCONN);
        }
        if now.is_empty() { fail(Errno::NODEV) } else { Ok(now) }
    }
}

/// MDTs that answer. One that takes nothing new (full) does, too.
fn answering(mdts: &[Mdt]) -> Vec<u32> {
    mdts.iter().filter(|mdt| mdt.active || mdt.inodes > 0).map(|mdt| mdt.index).collect()
}

/// A layout's bytes; none if there is none.
fn blob(get: impl Fn(&mut [u8]) -> io::Result<usize>) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; 512];
    loop {
        match get(&mut bytes) {
            Ok(0) => return Ok(None),
            Ok(n) => {
                bytes.truncate(n);
                return Ok(Some(bytes));
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::ERANGE | libc::EOVERFLOW) if bytes.len() < MAX_BYTES => bytes.resize(MAX_BYTES, 0),
                Some(libc::ENODATA | libc::EOPNOTSUPP) => return Ok(None),
                _ => return Err(FsError::new(Operation::GetLayout, e)),
            },
        }
    }
}

fn parsed(bytes: Option<Vec<u8>>) -> Result<Option<Layout>> {
    let wrong = |e| {
        tracing::debug!(error = %e, "a layout cannot be read");
        FsError::new(Operation::GetLayout, Errno::PROTO)
    };
    bytes.map(|bytes| Layout::parse(&bytes).map_err(wrong)).transpose()
}

/// How an open file is striped.
pub(super) fn layout_of(fd: BorrowedFd<'_>) -> Result<Option<Layout>> {
    parsed(blob(|buf| rustix::fs::fgetxattr(fd, LAYOUT, buf).map_err(Into::into))?)
}

/// Are the data of an open file only in an archive? Nothing can be released while it is open, so this holds on.
pub(super) fn is_released(fd: BorrowedFd<'_>, size: u64, blocks_512: u64) -> Result<bool> {
    // What cannot be read is not a layout that HSM makes.
    if layout_of(fd).ok().flatten().is_some_and(|layout| layout.is_released()) {
        return Ok(true);
    }
    // A released file shows one block. If this client remembers its layout from before, the server knows better.
    if size == 0 || blocks_512 > 1 {
        return Ok(false);
    }
    calls::is_released(fd).or_else(|e| match e.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOTTY) => Ok(false),
        _ => Err(FsError::new(Operation::Recall, e)),
    })
}

/// Makes a file that has a layout before it has anything else; false if the server does not take that, and it is as any
/// other then.
pub(super) fn create(at: BorrowedFd<'_>, name: &[u8], flags: OFlags, layout: &Layout) -> Result<(OwnedFd, bool)> {
    let fail = |e: Errno| FsError::new(Operation::Create, e);
    let later = OFlags::from_bits_retain(calls::O_LOV_DELAY_CREATE);
    let fd = rustix::fs::openat(at, name, flags | later, PRIVATE).map_err(fail)?;
    let set = rustix::fs::fsetxattr(&fd, LAYOUT, &layout.to_blob(), XattrFlags::empty());
    let Err(e) = set else { return Ok((fd, true)) };
    drop(fd);
    rustix::fs::unlinkat(at, name, AtFlags::empty()).map_err(fail)?;
    if !is_refused(e) {
        return Err(FsError::new(Operation::SetLayout, e));
    }
    tracing::debug!(error = %e, "a layout is refused");
    let fd = rustix::fs::openat(at, name, flags, PRIVATE).map_err(fail)?;
    Ok((fd, false))
}

/// Is it the layout's fault, and not the moment's?
fn is_refused(e: Errno) -> bool {
    !matches!(
        e,
        Errno::NOSPC
            | Errno::DQUOT
            | Errno::IO
            | Errno::ROFS
            | Errno::NOMEM
            | Errno::INTR
            | Errno::STALE
            | Errno::TIMEDOUT
            | Errno::NOTCONN
            | Errno::SHUTDOWN
            | Errno::NOENT
            | Errno::AGAIN
            | Errno::BUSY
            | Errno::PROTO
    )
}

/// Is it this MDT's fault, so that another one may take the directory?
fn is_elsewhere(errno: i32) -> bool {
    const HERE: [i32; 12] = [
        libc::ENODEV,
        libc::EINVAL,
        libc::ENOTCONN,
        libc::ESHUTDOWN,
        libc::EIO,
        libc::ETIMEDOUT,
        libc::ENOSPC,
        libc::EDQUOT,
        libc::EOPNOTSUPP,
        libc::EREMOTE,
        libc::EREMOTEIO,
        libc::EAGAIN,
    ];
    HERE.contains(&errno)
}

impl PosixDir {
    /// Makes a directory on this MDT, unless the name is taken.
    fn make_new_dir_on(&self, name: &[u8], index: u32) -> Result<Made> {
        let fail = |e| FsError::new(Operation::MakeDirectory, e);
        match calls::make_dir_on(self.at(), name, Mode::RWXU.as_raw_mode(), index) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => return Ok(Made::Existed),
            Err(e) => return Err(fail(e)),
        }
        let child = self.edit(name)?;
        // The call gives no descriptor: somebody else may have put something else under the name.
        let made = child.metadata()?;
        if made.kind != Kind::Directory || made.uid != self.shared.uid.load(Ordering::Relaxed) {
            return Err(FsError::new(Operation::Open, Errno::STALE));
        }
        self.drop_inherited(&*child)?;
        // The umask applies, or a default ACL's mask.
        if made.mode != Mode::RWXU.as_raw_mode() {
            child.set_mode(Mode::RWXU.as_raw_mode())?;
        }
        Ok(Made::New)
    }

    /// As [`Dir::make_dir`], on this MDT and no other.
    fn make_dir_on_one(&self, name: &[u8], index: u32) -> Result<Made> {
        if self.make_new_dir_on(name, index)? == Made::New {
            return Ok(Made::New);
        }
        if self.stat(name)?.kind == Kind::Directory {
            return Ok(Made::Existed);
        }
        self.make_dir_over(name, &|aside| self.make_new_dir_on(aside, index).map(drop))
    }

    /// MDT of a directory that is there. That it cannot be told does no harm: it most likely is this one's.
    fn mdt_of_made(&self, name: &[u8], mdts: &[u32]) -> u32 {
        let told = self.mdt_of(name).or_else(|_| self.mdt());
        told.unwrap_or_else(|_| mdts.first().copied().unwrap_or_default())
    }

    fn own_default(&self) -> Result<Option<Vec<u8>>> {
        let own = blob(|buf| rustix::fs::fgetxattr(&self.fd, LAYOUT, buf).map_err(Into::into))?;
        let Some(own) = own else { return Ok(None) };
        let is_own = match xattr::lists(self.at(), OWN_LAYOUT)? {
            Some(is_own) => is_own,
            // Who may not see the server's attributes can only compare, if there is something to compare with.
            None => self.common_default().is_ok_and(|common| common.as_ref() != Some(&own)),
        };
        Ok(is_own.then_some(own))
    }

    /// The whole filesystem's.
    fn common_default(&self) -> Result<Option<Vec<u8>>> {
        let Some(on_lustre) = &self.shared.lustre else { return Ok(None) };
        let found = on_lustre.common_default.get_or_init(|| {
            let found = default_of_top(self.at());
            if let Err(e) = &found {
                tracing::debug!(error = %e, "the filesystem's default layout is not known");
            }
            found
        });
        found.clone()
    }
}

/// Default layout of the uppermost directory of a mount.
fn default_of_top(at: BorrowedFd<'_>) -> Result<Option<Vec<u8>>> {
    let top = top_of(at).map_err(|e| FsError::new(Operation::GetLayout, e))?;
    let path = sys::proc_path(top.as_fd(), None).map_err(|e| FsError::new(Operation::GetLayout, e))?;
    blob(|buf| rustix::fs::getxattr(&path, LAYOUT, buf).map_err(Into::into))
}

/// The uppermost directory of a mount, not opened: the way up need not be readable.
fn top_of(at: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut top = rustix::fs::openat(at, ".", flags, Mode::empty())?;
    loop {
        let up = rustix::fs::openat(&top, "..", flags, Mode::empty())?;
        let (here, above) = (rustix::fs::fstat(&top)?, rustix::fs::fstat(&up)?);
        if here.st_dev != above.st_dev || here.st_ino == above.st_ino {
            return Ok(top);
        }
        top = up;
    }
}

impl Placing for PosixDir {
    fn make_dir_on(&self, name: &[u8], mdts: &[u32]) -> Result<(Made, u32)> {
        let mut last = FsError::new(Operation::MakeDirectory, Errno::NODEV);
        for &index in mdts {
            match self.make_dir_on_one(name, index) {
                Ok(Made::New) => return Ok((Made::New, index)),
                Ok(Made::Existed) => return Ok((Made::Existed, self.mdt_of_made(name, mdts))),
                // Where the administrator does not let users choose, the server chooses.
                Err(e) if matches!(e.errno, libc::EPERM | libc::ENOTTY) => {
                    let made = self.make_dir(name)?;
                    return Ok((made, self.mdt_of_made(name, mdts)));
                }
                Err(e) if is_elsewhere(e.errno) => last = e,
                Err(e) => return Err(e),
            }
        }
        // An MDT that cannot be reached does not say that the name is taken.
        match self.stat(name) {
            Ok(m) if m.kind == Kind::Directory => Ok((Made::Existed, self.mdt_of_made(name, mdts))),
            Err(e) if !e.is_absent() => Err(last),
            _ if mdts.is_empty() => Err(last),
            // Anywhere is better than nowhere.
            _ => {
                let made = self.make_dir(name).map_err(|_| last)?;
                Ok((made, self.mdt_of_made(name, mdts)))
            }
        }
    }

    fn mdt(&self) -> Result<u32> {
        calls::mdt(self.at()).map_err(|e| FsError::new(Operation::GetMdt, e))
    }

    fn mdt_of(&self, name: &[u8]) -> Result<u32> {
        let e = match calls::mdt_at(self.at(), name) {
            Ok(index) => return Ok(index),
            Err(e) => e,
        };
        if e.raw_os_error() == Some(libc::ENOENT) {
            return Err(FsError::new(Operation::GetMdt, e));
        }
        // A client that gives no handles: what can be opened without harm is asked itself.
        match metadata_of(self.at(), name, AtFlags::SYMLINK_NOFOLLOW)?.kind {
            Kind::File => super::file::PosixFile::open(self.at(), name, true)?.mdt(),
            Kind::Directory => {
                let fd = open_child(self.at(), name).map_err(|e| FsError::new(Operation::GetMdt, e))?;
                calls::mdt(fd.as_fd()).map_err(|e| FsError::new(Operation::GetMdt, e))
            }
            _ => self.mdt(),
        }
    }

    fn layout(&self, name: &[u8]) -> Result<Option<Layout>> {
        parsed(blob(|buf| sys::get_xattr_at(self.at(), name, LAYOUT, buf))?)
    }

    fn default_layout(&self) -> Result<Option<Layout>> {
        parsed(self.own_default()?)
    }

    fn set_default_layout(&self, layout: Option<&Layout>) -> Result<()> {
        let blob = layout.map_or_else(no_default, Layout::to_blob);
        rustix::fs::fsetxattr(&self.fd, LAYOUT, &blob, XattrFlags::empty())
            .map_err(|e| FsError::new(Operation::SetLayout, e))
    }
}

/// What removes a directory's default: no pattern, no size, no stripes, any OST.
fn no_default() -> Vec<u8> {
    let mut blob = vec![0; 32];
    blob[..4].copy_from_slice(&calls::LOV_USER_MAGIC_V1.to_le_bytes());
    blob[30..].copy_from_slice(&(calls::LOV_OFFSET_DEFAULT as u16).to_le_bytes());
    blob
}

/// Has everything that was done on any MDT written out: a new file that is synced takes with it what its MDT did before.
pub(super) fn barrier(root: BorrowedFd<'_>, scratch: &PosixDir, on_lustre: &OnLustre) -> Result<()> {
    // Of one that never answered nothing is known, but then nothing was made there either.
    let awaited = on_lustre.awaited(&on_lustre.servers(root).mdts)?;
    let here = sync_file(scratch.at(), &scratch.shared.aside())?;
    awaited.into_iter().filter(|index| Some(*index) != here).try_for_each(|index| sync_mdt(scratch, index))
}

fn sync_mdt(scratch: &PosixDir, index: u32) -> Result<()> {
    let name = scratch.shared.aside();
    match calls::make_dir_on(scratch.at(), &name, Mode::RWXU.as_raw_mode(), index) {
        Ok(()) => {}
        Err(e) if is_forbidden(&e) => return unawaited(index, e, rustix::process::geteuid().is_root()),
        Err(e) => return Err(FsError::new(Operation::MakeDirectory, e)),
    }
    let dir = open_child(scratch.at(), &name).map_err(|e| FsError::new(Operation::Flush, e));
    let synced = dir.and_then(|dir| sync_file(dir.as_fd(), b"barrier"));
    let removed = rustix::fs::unlinkat(scratch.at(), &name[..], AtFlags::REMOVEDIR);
    synced?;
    removed.map_err(|e| FsError::new(Operation::Remove, e))
}

/// May this process not choose where directories lie?
fn is_forbidden(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EOPNOTSUPP))
}

/// An MDT that cannot be waited for. Users who may never do that are told, and do without.
fn unawaited(index: u32, error: io::Error, is_root: bool) -> Result<()> {
    if is_root {
        return Err(FsError::new(Operation::Flush, error));
    }
    tracing::warn!(mdt = index, %error, "only root can wait until this MDT has written out what was done there");
    Ok(())
}

/// Makes a file, syncs it and removes it. Returns its MDT, if that can be told: it need not be the directory's.
fn sync_file(at: BorrowedFd<'_>, name: &[u8]) -> Result<Option<u32>> {
    let fail = |e: Errno| FsError::new(Operation::Flush, e);
    let file = rustix::fs::openat(at, name, WRITE_NEW, PRIVATE).map_err(fail)?;
    let synced = rustix::fs::fsync(&file);
    let mdt = calls::mdt(file.as_fd()).ok();
    let removed = rustix::fs::unlinkat(at, name, AtFlags::empty());
    synced.and(removed).map_err(fail)?;
    Ok(mdt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layouts_bytes_are_read_however_many_they_are() {
        let of = |n: usize| {
            move |buf: &mut [u8]| if buf.len() < n { Err(io::Error::from_raw_os_error(libc::ERANGE)) } else { Ok(n) }
        };
        for n in [1, 512, 513, MAX_BYTES] {
            assert_eq!(blob(of(n)).unwrap().map(|b| b.len()), Some(n));
        }
        assert_eq!(blob(of(MAX_BYTES + 1)).unwrap_err().errno, libc::ERANGE);
        for none in [libc::ENODATA, libc::EOPNOTSUPP] {
            assert_eq!(blob(|_| Err(io::Error::from_raw_os_error(none))).unwrap(), None);
        }
        assert_eq!(blob(|_| Err(io::Error::from_raw_os_error(libc::EIO))).unwrap_err().errno, libc::EIO);
    }

    #[test]
    fn what_removes_a_default_is_a_layout_of_nothing() {
        let blob = no_default();
        assert_eq!((blob.len(), &blob[..4], &blob[4..30]), (32, &[0xd0, 0x0b, 0xd1, 0x0b][..], &[0; 26][..]));
        assert_eq!(blob[30..], [0xff, 0xff]);
    }

    #[test]
    fn full_disks_and_lost_servers_are_not_a_layouts_fault() {
        assert!(is_refused(Errno::INVAL) && is_refused(Errno::RANGE) && is_refused(Errno::OPNOTSUPP));
        for passing in [Errno::NOSPC, Errno::IO, Errno::AGAIN, Errno::BUSY, Errno::PROTO] {
            assert!(!is_refused(passing), "{passing}");
        }
    }

    #[test]
    fn an_mdt_that_answered_once_is_not_passed_over() {
        let mdt = |index, active, inodes| Mdt { index, active, inodes, ..Mdt::default() };
        let on_lustre = OnLustre::new(false);
        let errno = |mdts: &[Mdt]| on_lustre.awaited(mdts).map_err(|e| (e.operation, e.errno));
        let first = [mdt(0, true, 9), mdt(1, false, 9), mdt(2, false, 0)];
        assert_eq!(errno(&first), Ok(vec![0, 1]), "a full one answers");
        assert_eq!(errno(&[mdt(2, false, 0)]), Err((Operation::Flush, libc::ENODEV)));
        on_lustre.answered.set(answering(&first)).unwrap();
        assert_eq!(errno(&first), Ok(vec![0, 1]));
        assert_eq!(errno(&[mdt(0, true, 9), mdt(2, true, 9), mdt(1, true, 9)]), Ok(vec![0, 2, 1]));
        for lost in [&[mdt(0, true, 9), mdt(1, false, 0)][..], &[mdt(1, true, 9)], &[]] {
            assert_eq!(errno(lost), Err((Operation::Flush, libc::ENOTCONN)));
        }
    }

    #[test]
    fn an_mdt_that_cannot_be_waited_for_is_an_error_for_root_alone() {
        for errno in [libc::EPERM, libc::EACCES, libc::EOPNOTSUPP] {
            let error = || io::Error::from_raw_os_error(errno);
            assert!(is_forbidden(&error()));
            assert_eq!(unawaited(1, error(), true), Err(FsError { operation: Operation::Flush, errno }));
            assert_eq!(unawaited(1, error(), false), Ok(()));
        }
        assert!(!is_forbidden(&io::Error::from_raw_os_error(libc::EIO)));
    }

    #[test]
    fn the_way_up_ends_where_the_mount_does() {
        let dir = std::fs::File::open("/proc/self/fd").unwrap();
        let top = rustix::fs::fstat(top_of(dir.as_fd()).unwrap()).unwrap();
        let proc = rustix::fs::stat("/proc").unwrap();
        assert_eq!((top.st_dev, top.st_ino), (proc.st_dev, proc.st_ino));
        assert_eq!(default_of_top(dir.as_fd()), Ok(None));
    }

    #[test]
    fn a_barriers_file_is_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(sync_file(fd.as_fd(), b"barrier"), Ok(None), "no MDT elsewhere than on Lustre");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
