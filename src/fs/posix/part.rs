//! Part files: a large file's data in the making, written by several handles at once.
//!
//! Invariant: only a file that this user made here and nobody else has a name for is ever opened for writing.

use super::super::{Edit, FsError, Locked, PartFile, Result, SourceFile, Xattrs};
use super::dir::Inherits;
use super::edit::Node;
use super::new::{PRIVATE, put_over};
use super::{Shared, contents, placing, sys, xattr};
use crate::model::{Kind, Layout, Metadata, Operation, Project, Timestamp};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What opens neither a symlink nor waits for a fifo's reader.
const WRITE: OFlags = OFlags::WRONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);
/// Between two looks at a lock that is held: first, and at most.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(200);

pub(super) struct PosixPart {
    dir: Arc<OwnedFd>,
    shared: Arc<Shared>,
    name: Vec<u8>,
    node: Node,
    has_layout: bool,
}

impl PosixPart {
    pub(super) fn make(
        dir: &Arc<OwnedFd>,
        inherits: Inherits,
        shared: Arc<Shared>,
        name: &[u8],
        size: u64,
        layout: Option<&Layout>,
    ) -> Result<Self> {
        let flags = WRITE | OFlags::CREATE | OFlags::EXCL;
        let (fd, has_layout) = match layout {
            Some(layout) if shared.lustre.is_some() => placing::create(dir.as_fd(), name, flags, layout)?,
            _ => {
                let made = rustix::fs::openat(dir, name, flags, PRIVATE);
                (made.map_err(|e| FsError::new(Operation::Create, e))?, layout.is_none())
            }
        };
        let node = Node::open(fd);
        let part = PosixPart { dir: Arc::clone(dir), shared, name: name.to_vec(), node, has_layout };
        let prepared = part.prepare(inherits, size);
        if prepared.is_err() {
            // Best effort: a part file that no record names is removed by the next run.
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
        prepared.map(|()| part)
    }

    fn prepare(&self, inherits: Inherits, size: u64) -> Result<()> {
        if inherits.acl {
            self.remove_xattr(xattr::ACL_ACCESS)?;
        }
        rustix::fs::ftruncate(self.fd(), size).map_err(|e| FsError::new(Operation::Truncate, e))
    }

    pub(super) fn open(dir: &Arc<OwnedFd>, shared: Arc<Shared>, name: &[u8]) -> Result<Self> {
        let fail = |e| FsError::new(Operation::Open, e);
        let fd = rustix::fs::openat(dir, name, WRITE, Mode::empty()).map_err(fail)?;
        let node = Node::open(fd);
        let part = PosixPart { dir: Arc::clone(dir), shared, name: name.to_vec(), node, has_layout: true };
        let m = part.metadata()?;
        let own = m.uid == part.shared.uid.load(Ordering::Relaxed) && m.nlink == 1 && m.mode == 0o600;
        if !own || m.kind != Kind::File {
            return Err(fail(rustix::io::Errno::STALE));
        }
        Ok(part)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.node.descriptor()
    }
}

/// A range of one open file description.
struct Guard<'a> {
    fd: BorrowedFd<'a>,
    start: u64,
    len: u64,
}

impl Locked for Guard<'_> {}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // It ends with the descriptor at the latest.
        let _ = sys::lock_range(self.fd, self.start, self.len, false);
    }
}

impl PartFile for PosixPart {
    fn lock(&self, start: u64, len: u64, patience: Duration) -> Result<Option<Box<dyn Locked + '_>>> {
        let began = Instant::now();
        let mut pause = LOOK_FIRST;
        while !sys::lock_range(self.fd(), start, len, true).map_err(|e| FsError::new(Operation::Lock, e))? {
            if began.elapsed() >= patience {
                return Ok(None);
            }
            // The kernel's own waiting has no end, and a stopped process would hold up everybody.
            std::thread::sleep(pause);
            pause = (2 * pause).min(LOOK_LAST);
        }
        Ok(Some(Box::new(Guard { fd: self.fd(), start, len })))
    }

    fn fill_range(
        &self,
        source: &dyn SourceFile,
        range: Range<u64>,
        holes: bool,
        written: &dyn Fn(u64),
    ) -> Result<bool> {
        contents::fill_range(self.fd(), source, range, holes, written, &self.shared)
    }

    fn seal(&self) -> Result<()> {
        // Closing a duplicate makes the filesystem flush all the same, and the locks stay.
        let duplicate = rustix::io::fcntl_dupfd_cloexec(self.fd().as_fd(), 0);
        let duplicate = duplicate.map_err(|e| FsError::new(Operation::Close, e))?;
        sys::checked_close(duplicate).map_err(|e| FsError::new(Operation::Close, e))
    }

    fn has_layout(&self) -> bool {
        self.has_layout
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::fsync(self.fd()).map_err(|e| FsError::new(Operation::Flush, e))
    }

    fn publish(&self, name: &[u8]) -> Result<()> {
        put_over(self.dir.as_fd(), &self.name, name, &self.shared)
    }
}

impl Edit for PosixPart {
    fn metadata(&self) -> Result<Metadata> {
        self.node.metadata()
    }
    fn xattrs(&self) -> Result<Xattrs> {
        self.node.xattrs()
    }
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.node.set_owner(uid, gid)
    }
    fn set_mode(&self, mode: u32) -> Result<()> {
        self.node.set_mode(mode)
    }
    fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.node.set_times(atime, mtime)
    }
    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.node.set_xattr(name, value)
    }
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.node.remove_xattr(name)
    }
    fn set_project(&self, project: Project) -> Result<()> {
        self.node.set_project(project)
    }
}
