//! A regular file open for reading.

use super::super::{FsError, Result, SourceFile, Xattrs};
use super::edit::metadata_of;
use super::{placing, project, with_noatime, xattr};
use crate::fs::lustre;
use crate::model::{Kind, Layout, Metadata, Operation, Project};
use rustix::fs::{Advice, AtFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Without following, without waiting for a fifo's writer, without becoming a terminal's owner.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::NOATIME)
    .union(OFlags::CLOEXEC);

/// Waits between tries to open a file that somebody has a lease on, two seconds together. Most holders let go within
/// milliseconds; one that does not may keep it for as long as `/proc/sys/fs/lease-break-time` says.
const LEASE_PAUSES_MS: [u64; 8] = [5, 20, 75, 150, 250, 500, 500, 500];

pub(super) struct PosixFile {
    fd: OwnedFd,
    on_lustre: bool,
    at_open: Metadata,
}

impl PosixFile {
    pub(super) fn open(at: BorrowedFd<'_>, name: &[u8], on_lustre: bool) -> Result<Self> {
        let open = |flags| patiently(|| rustix::fs::openat(at, name, flags, Mode::empty()));
        let fd = with_noatime(open, READ).map_err(|e| {
            // A socket, or a device without a driver: it is not a file.
            FsError::new(Operation::Open, if e == Errno::NXIO { Errno::LOOP } else { e })
        })?;
        let at_open = metadata_of(fd.as_fd(), b"", AtFlags::EMPTY_PATH)?;
        if at_open.kind != Kind::File {
            return Err(FsError::new(Operation::Open, Errno::LOOP));
        }
        Ok(PosixFile { fd, on_lustre, at_open })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Are its data only in an archive?
    pub(super) fn is_released(&self) -> Result<bool> {
        placing::is_released(self.fd(), self.at_open.size, self.at_open.blocks_512)
    }

    /// The MDT that it lies on.
    pub(super) fn mdt(&self) -> Result<u32> {
        lustre::sys::mdt(self.fd()).map_err(|e| FsError::new(Operation::GetMdt, e))
    }
}

/// Opens again while somebody has a lease on the file (a Samba oplock, an NFS delegation): the first try, which does
/// not wait, has the kernel ask for it back (fcntl(2), Leases).
fn patiently(open: impl Fn() -> rustix::io::Result<OwnedFd>) -> rustix::io::Result<OwnedFd> {
    let mut pauses = LEASE_PAUSES_MS.into_iter().map(Duration::from_millis);
    loop {
        match (open(), pauses.next()) {
            (Err(Errno::WOULDBLOCK), Some(pause)) => std::thread::sleep(pause),
            (opened, _) => return opened,
        }
    }
}

/// Data and hole borders by `SEEK_DATA` and `SEEK_HOLE`; a filesystem without them shows one run of data.
fn next_data(fd: BorrowedFd<'_>, offset: u64, size: u64) -> rustix::io::Result<Option<(u64, u64)>> {
    if offset >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
        Err(e) => return Err(e),
    };
    if start >= size {
        return Ok(None);
    }
    let end = match rustix::fs::seek(fd, SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        Err(Errno::NXIO) => return Ok(None), // cut short meanwhile
        Err(e) => return Err(e),
    };
    Ok((end > start).then_some((start, end)))
}

impl SourceFile for PosixFile {
    fn metadata(&self) -> Result<Metadata> {
        metadata_of(self.fd.as_fd(), b"", AtFlags::EMPTY_PATH)
    }

    fn at_open(&self) -> Result<Metadata> {
        Ok(self.at_open)
    }

    fn xattrs(&self) -> Result<Xattrs> {
        xattr::of_descriptor(self.fd.as_fd())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(FsError::new(Operation::Read, e)),
            }
        }
        Ok(done)
    }

    fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
        next_data(self.fd.as_fd(), offset, size).map_err(|e| FsError::new(Operation::SeekData, e))
    }

    fn drop_cache(&self, offset: u64, bytes: u64) -> Result<()> {
        match rustix::fs::fdatasync(&self.fd) {
            // A filesystem that writes nothing out keeps nothing back.
            Ok(()) | Err(Errno::INVAL | Errno::ROFS | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(FsError::new(Operation::Flush, e)),
        }
        let advised = rustix::fs::fadvise(&self.fd, offset, NonZeroU64::new(bytes), Advice::DontNeed);
        advised.map_err(|e| FsError::new(Operation::Flush, e))
    }

    fn layout(&self) -> Result<Option<Layout>> {
        if self.on_lustre { placing::layout_of(self.fd()) } else { Ok(None) }
    }

    fn project(&self) -> Result<Option<Project>> {
        // What hands it down is a directory.
        Ok(project::of_descriptor(self.fd())?.map(|project| Project { inherit: false, ..project }))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}
