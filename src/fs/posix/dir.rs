//! A directory that is held open.

use super::super::{Dir, Edit, FsError, Made, New, NewEntry, PartFile, Placing, Result, SourceFile, Xattrs};
use super::edit::{Node, metadata_of};
use super::file::PosixFile;
use super::part::PosixPart;
use super::{Shared, new, open_child, project, remove, xattr};
use crate::model::{Kind, Layout, Metadata, Operation, Project, task::Entry};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RawDir, RenameFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;
use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// The file by which a directory is locked.
const LOCK_NAME: &str = ".lock";
/// Bytes asked of one `getdents64`.
const LIST_BYTES: usize = 64 << 10;

pub(super) struct PosixDir {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) shared: Arc<Shared>,
    /// Does it hand down ACLs, and its group? Asked once.
    inherits: OnceLock<Inherits>,
}

#[derive(Clone, Copy)]
pub(super) struct Inherits {
    pub(super) acl: bool,
    /// The group that new children get is surely this process's own.
    pub(super) own_group: bool,
}

pub(super) fn kind_of(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::Unknown => return None,
    })
}

impl PosixDir {
    pub(super) fn new(fd: OwnedFd, shared: Arc<Shared>) -> Self {
        PosixDir { fd: Arc::new(fd), shared, inherits: OnceLock::new() }
    }

    pub(super) fn at(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn inherits(&self) -> Inherits {
        *self.inherits.get_or_init(|| {
            let own = metadata_of(self.at(), b"", AtFlags::EMPTY_PATH);
            // A setgid directory, or a filesystem mounted with grpid, hands its own group down.
            let own_group = own.is_ok_and(|m| m.gid == self.shared.gid.load(Ordering::Relaxed));
            Inherits { acl: xattr::has_default_acl(self.at()), own_group }
        })
    }

    /// Lists until `each` says no.
    fn list_while(&self, each: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        let fail = |e| FsError::new(Operation::List, e);
        rustix::fs::seek(&self.fd, SeekFrom::Start(0)).map_err(fail)?;
        let mut buffer = Vec::with_capacity(LIST_BYTES);
        let mut listing = RawDir::new(&self.fd, buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            let is_child = name != b"." && name != b"..";
            if is_child && !each(Entry { name, kind: kind_of(entry.file_type()), metadata: None }) {
                break;
            }
        }
        Ok(())
    }

    /// Takes from a new directory what it inherited.
    pub(super) fn drop_inherited(&self, child: &dyn Edit) -> Result<()> {
        if self.inherits().acl {
            child.remove_xattr(xattr::ACL_DEFAULT)?;
            child.remove_xattr(xattr::ACL_ACCESS)?;
        }
        Ok(())
    }

    /// Puts a new directory, made by `make`, where something else stands.
    pub(super) fn make_dir_over(&self, name: &[u8], make: &dyn Fn(&[u8]) -> Result<()>) -> Result<Made> {
        let aside = self.shared.aside();
        make(&aside)?;
        let swapped = new::swap_in(self.at(), &aside, name, &self.shared);
        if let Err(e) = swapped {
            // The error that counts is the first one; the empty directory is a leftover at worst.
            let _ = rustix::fs::unlinkat(self.at(), &aside[..], AtFlags::REMOVEDIR);
            return Err(e);
        }
        Ok(Made::New)
    }
}

impl Dir for PosixDir {
    fn metadata(&self) -> Result<Metadata> {
        metadata_of(self.at(), b"", AtFlags::EMPTY_PATH)
    }

    fn mount_id(&self) -> Result<u64> {
        // Never given twice since Linux 6.8 (STATX_MNT_ID_UNIQUE, include/uapi/linux/stat.h); before, when it is free.
        let unique = StatxFlags::from_bits_retain(0x4000);
        let found = rustix::fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID | unique);
        Ok(found.map_err(|e| FsError::new(Operation::Stat, e))?.stx_mnt_id)
    }

    fn is_mount_point(&self) -> Result<bool> {
        let found = rustix::fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, STATX);
        let found = found.map_err(|e| FsError::new(Operation::Stat, e))?;
        Ok(found.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
    }

    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
        self.list_while(&mut |entry| {
            each(entry);
            true
        })
    }

    fn any_name(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        self.list_while(&mut |entry| {
            found = wanted(entry.name).then(|| entry.name.to_vec());
            found.is_none()
        })?;
        Ok(found)
    }

    fn stat(&self, name: &[u8]) -> Result<Metadata> {
        metadata_of(self.at(), name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>> {
        let fd = open_child(self.at(), name).map_err(|e| FsError::new(Operation::OpenDirectory, e))?;
        Ok(Box::new(PosixDir::new(fd, Arc::clone(&self.shared))))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>> {
        let file = PosixFile::open(self.at(), name, self.shared.lustre.is_some())?;
        // Reading it would have it recalled, and whoever reads wait for that.
        if self.shared.lustre.as_ref().is_some_and(|on_lustre| !on_lustre.recall) && file.is_released()? {
            return Err(FsError::new(Operation::Recall, Errno::NODATA));
        }
        Ok(Box::new(file))
    }

    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new());
        target.map(std::ffi::CString::into_bytes).map_err(|e| FsError::new(Operation::ReadLink, e))
    }

    fn xattrs(&self, name: &[u8]) -> Result<Xattrs> {
        xattr::of_child(self.at(), name)
    }

    fn xattrs_self(&self) -> Result<Xattrs> {
        xattr::of_descriptor(self.at())
    }

    fn make_dir(&self, name: &[u8]) -> Result<Made> {
        if self.make_new_dir(name)? == Made::New {
            return Ok(Made::New);
        }
        match self.stat(name) {
            Ok(m) if m.kind == Kind::Directory => Ok(Made::Existed),
            Ok(_) => self.make_dir_over(name, &|aside| {
                let made = rustix::fs::mkdirat(self.at(), aside, Mode::RWXU);
                made.map_err(|e| FsError::new(Operation::MakeDirectory, e))
            }),
            Err(e) => Err(e),
        }
    }

    fn make_new_dir(&self, name: &[u8]) -> Result<Made> {
        match rustix::fs::mkdirat(self.at(), name, Mode::RWXU) {
            Ok(()) => {
                if self.inherits().acl {
                    self.drop_inherited(&*self.edit(name)?)?;
                }
                Ok(Made::New)
            }
            Err(Errno::EXIST) => Ok(Made::Existed),
            Err(e) => Err(FsError::new(Operation::MakeDirectory, e)),
        }
    }

    fn create(&self, name: &[u8], what: New<'_>, direct: bool) -> Result<Box<dyn NewEntry>> {
        let entry = new::PosixNew::create(&self.fd, self.inherits(), Arc::clone(&self.shared), name, what, direct)?;
        Ok(Box::new(entry))
    }

    fn edit(&self, name: &[u8]) -> Result<Box<dyn Edit>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty());
        let fd = fd.map_err(|e| FsError::new(Operation::Open, e))?;
        Ok(Box::new(Node::path_at(fd, &self.fd, name, &self.shared)))
    }

    fn edit_self(&self) -> Result<Box<dyn Edit>> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(|e| FsError::new(Operation::Open, e))?;
        Ok(Box::new(Node::open(fd)))
    }

    fn link(&self, name: &[u8], from: &dyn Dir, from_name: &[u8], replace: bool) -> Result<()> {
        let fail = |e: Errno| FsError::new(Operation::Link, e);
        let from = from.as_any().downcast_ref::<PosixDir>().ok_or_else(|| fail(Errno::XDEV))?;
        match rustix::fs::linkat(&from.fd, from_name, &self.fd, name, AtFlags::empty()) {
            Err(Errno::EXIST) if replace => {}
            other => return other.map_err(fail),
        }
        let aside = self.shared.aside();
        rustix::fs::linkat(&from.fd, from_name, &self.fd, &aside[..], AtFlags::empty()).map_err(fail)?;
        new::put_over(self.at(), &aside, name, &self.shared)?;
        // rename(2) does nothing when both names are of one inode already; then the aside name is still there.
        match rustix::fs::unlinkat(&self.fd, &aside[..], AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(FsError::new(Operation::Remove, e)),
        }
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        remove::remove(self.at(), name, &self.shared)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        remove::unlink(self.at(), name)
    }

    fn remove_empty_dir(&self, name: &[u8]) -> Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(e) => Err(FsError::new(Operation::Remove, e)),
        }
    }

    fn move_to(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> Result<Made> {
        let to = to.as_any().downcast_ref::<PosixDir>();
        let to = to.ok_or_else(|| FsError::new(Operation::Rename, Errno::XDEV))?;
        remove::move_to(self.at(), name, to.at(), to_name)
    }

    fn make_part(&self, name: &[u8], size: u64, layout: Option<&Layout>) -> Result<Box<dyn PartFile>> {
        let part = PosixPart::make(&self.fd, self.inherits(), Arc::clone(&self.shared), name, size, layout)?;
        Ok(Box::new(part))
    }

    fn open_part(&self, name: &[u8]) -> Result<Box<dyn PartFile>> {
        Ok(Box::new(PosixPart::open(&self.fd, Arc::clone(&self.shared), name)?))
    }

    fn lock(&self, exclusive: bool) -> Result<Option<Box<dyn Send + Sync>>> {
        let fail = |e| FsError::new(Operation::Lock, e);
        let how =
            if exclusive { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
        // A lock belongs to an open file description, so each gets one of its own.
        let dir = open_child(self.at(), b".").map_err(fail)?;
        if rustix::fs::flock(&dir, how) == Err(Errno::WOULDBLOCK) {
            return Ok(None);
        }
        // Of a directory's lock other nodes know nothing on Lustre, and NFS has none: of a file's they do.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, LOCK_NAME, flags, new::PRIVATE).map_err(fail)?;
        match rustix::fs::flock(&file, how) {
            Ok(()) => Ok(Some(Box::new((dir, file)))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(fail(e)),
        }
    }

    fn project(&self, name: &[u8]) -> Result<Option<Project>> {
        if !name.is_empty() {
            return project::of_child(self.at(), name, self.shared.lustre.is_some());
        }
        if self.shared.lustre.is_some() {
            // The client answers from what it remembers: this has it look.
            self.metadata()?;
        }
        project::of_descriptor(self.at())
    }

    fn placing(&self) -> Option<&dyn Placing> {
        self.shared.lustre.is_some().then_some(self as &dyn Placing)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Renames without replacing; `EINVAL` or `ENOSYS` where the filesystem cannot (Lustre, old NFS).
pub(super) fn rename_new(at: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(at, from, at, to, RenameFlags::NOREPLACE)
}

/// What `statx` is asked for.
pub(super) const STATX: StatxFlags = StatxFlags::BASIC_STATS;
