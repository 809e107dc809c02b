//! Keeps a node within its limits: every call waits for its turn, and data are paid for as they move.
//!
//! Invariant: bytes count once, where they are written; where nothing is written from them, where they are read. A
//! call that reaches the filesystem is one operation, a listing one more for each `LIST_STEP` entries.

use super::super::{
    Dir, Edit, Filesystem, Locked, Made, New, NewEntry, PartFile, Placing, Result, SourceFile, Traits, Usage, Xattrs,
    contents,
};
use super::Limiter;
use crate::model::fleet::Space;
use crate::model::{Layout, Metadata, Project, RelPath, RootIdentity, Servers, Timestamp, task::Entry};
use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// Entries of a listing that count as an operation.
const LIST_STEP: u64 = 1024;

/// Limits that hold together: the job's, and those of the node for all its jobs.
type Limiters = Arc<[Arc<Limiter>]>;

/// Keeps a filesystem within limiters; without any it is what it was.
pub fn throttled(fs: Arc<dyn Filesystem>, limiters: &[Arc<Limiter>]) -> Arc<dyn Filesystem> {
    if limiters.is_empty() {
        return fs;
    }
    Arc::new(ThrottledFs { inner: fs, brake: Brake(limiters.into()) })
}

#[derive(Clone)]
struct Brake(Limiters);

impl Brake {
    fn operation(&self) {
        self.operations(1);
    }

    fn operations(&self, n: u64) {
        self.0.iter().for_each(|limiter| limiter.operations(n));
    }

    fn moved(&self, bytes: u64) {
        self.0.iter().for_each(|limiter| limiter.moved(bytes));
    }

    fn dir(&self, inner: Box<dyn Dir>) -> Box<dyn Dir> {
        Box::new(Throttled { inner, brake: self.clone() })
    }
}

thread_local! {
    /// This thread writes what it reads, so reading is paid for already.
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// Marks the thread as writing until it is dropped.
struct Writing;

impl Writing {
    fn start() -> Self {
        WRITING.set(true);
        Writing
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.set(false);
    }
}

struct ThrottledFs {
    inner: Arc<dyn Filesystem>,
    brake: Brake,
}

impl Filesystem for ThrottledFs {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn open_dir(&self, path: &RelPath) -> Result<Box<dyn Dir>> {
        self.brake.operation();
        Ok(self.brake.dir(self.inner.open_dir(path)?))
    }

    fn identity(&self) -> Result<RootIdentity> {
        self.inner.identity()
    }

    fn usage(&self) -> Option<Usage> {
        self.inner.usage()
    }

    fn space(&self) -> Option<Space> {
        self.inner.space()
    }

    fn servers(&self) -> Option<Servers> {
        self.inner.servers()
    }

    fn barrier(&self, scratch: &dyn Dir) -> Result<()> {
        self.inner.barrier(scratch)
    }

    fn bytes_per_second(&self) -> Option<u64> {
        let own = self.brake.0.iter().filter_map(|limiter| limiter.limits().bytes_per_second);
        own.chain(self.inner.bytes_per_second()).min()
    }
}

/// A handle and what slows it down.
struct Throttled<T: ?Sized> {
    inner: Box<T>,
    brake: Brake,
}

impl<T: ?Sized> Throttled<T> {
    /// The handle, when it is its turn.
    fn turn(&self) -> &T {
        self.brake.operation();
        &self.inner
    }
}

impl Dir for Throttled<dyn Dir> {
    fn metadata(&self) -> Result<Metadata> {
        self.turn().metadata()
    }

    fn mount_id(&self) -> Result<u64> {
        self.turn().mount_id()
    }

    fn is_mount_point(&self) -> Result<bool> {
        self.turn().is_mount_point()
    }

    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
        let mut seen = 0;
        self.turn().list(&mut |entry| {
            seen += 1;
            if seen % LIST_STEP == 0 {
                self.brake.operation();
            }
            each(entry);
        })
    }

    fn any_name(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        self.turn().any_name(wanted)
    }

    fn stat(&self, name: &[u8]) -> Result<Metadata> {
        self.turn().stat(name)
    }

    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>> {
        Ok(self.brake.dir(self.turn().open_dir(name)?))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>> {
        Ok(Box::new(Throttled { inner: self.turn().open_file(name)?, brake: self.brake.clone() }))
    }

    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.turn().read_link(name)
    }

    fn xattrs(&self, name: &[u8]) -> Result<Xattrs> {
        self.turn().xattrs(name)
    }

    fn xattrs_self(&self) -> Result<Xattrs> {
        self.turn().xattrs_self()
    }

    fn make_dir(&self, name: &[u8]) -> Result<Made> {
        self.turn().make_dir(name)
    }

    fn make_new_dir(&self, name: &[u8]) -> Result<Made> {
        self.turn().make_new_dir(name)
    }

    fn create(&self, name: &[u8], what: New<'_>, direct: bool) -> Result<Box<dyn NewEntry>> {
        Ok(Box::new(Throttled { inner: self.turn().create(name, what, direct)?, brake: self.brake.clone() }))
    }

    fn edit(&self, name: &[u8]) -> Result<Box<dyn Edit>> {
        Ok(Box::new(Throttled { inner: self.turn().edit(name)?, brake: self.brake.clone() }))
    }

    fn edit_self(&self) -> Result<Box<dyn Edit>> {
        Ok(Box::new(Throttled { inner: self.inner.edit_self()?, brake: self.brake.clone() }))
    }

    fn link(&self, name: &[u8], from: &dyn Dir, from_name: &[u8], replace: bool) -> Result<()> {
        self.turn().link(name, from, from_name, replace)
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        self.turn().remove(name)
    }

    fn remove_empty_dir(&self, name: &[u8]) -> Result<bool> {
        self.turn().remove_empty_dir(name)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.turn().unlink(name)
    }

    fn move_to(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> Result<Made> {
        self.turn().move_to(name, to, to_name)
    }

    fn make_part(&self, name: &[u8], size: u64, layout: Option<&Layout>) -> Result<Box<dyn PartFile>> {
        Ok(Box::new(Throttled { inner: self.turn().make_part(name, size, layout)?, brake: self.brake.clone() }))
    }

    fn open_part(&self, name: &[u8]) -> Result<Box<dyn PartFile>> {
        Ok(Box::new(Throttled { inner: self.turn().open_part(name)?, brake: self.brake.clone() }))
    }

    fn lock(&self, exclusive: bool) -> Result<Option<Box<dyn Send + Sync>>> {
        self.turn().lock(exclusive)
    }

    fn project(&self, name: &[u8]) -> Result<Option<Project>> {
        self.turn().project(name)
    }

    /// The adapter's own: few calls go through it.
    fn placing(&self) -> Option<&dyn Placing> {
        self.inner.placing()
    }

    /// The adapter's own, so that links between two directories of it are made as without limits.
    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}

impl SourceFile for Throttled<dyn SourceFile> {
    fn metadata(&self) -> Result<Metadata> {
        self.turn().metadata()
    }

    fn drop_cache(&self, offset: u64, bytes: u64) -> Result<()> {
        self.turn().drop_cache(offset, bytes)
    }

    fn at_open(&self) -> Result<Metadata> {
        self.inner.at_open()
    }

    fn xattrs(&self) -> Result<Xattrs> {
        self.turn().xattrs()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if WRITING.get() {
            return self.inner.read_at(offset, buf);
        }
        let n = self.turn().read_at(offset, buf)?;
        self.brake.moved(n as u64);
        Ok(n)
    }

    fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
        self.turn().next_data(offset, size)
    }

    fn layout(&self) -> Result<Option<Layout>> {
        self.inner.layout()
    }

    fn project(&self) -> Result<Option<Project>> {
        self.turn().project()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor()
    }
}

impl<T: Edit + ?Sized> Edit for Throttled<T> {
    fn metadata(&self) -> Result<Metadata> {
        self.turn().metadata()
    }

    fn xattrs(&self) -> Result<Xattrs> {
        self.turn().xattrs()
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.turn().set_owner(uid, gid)
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        self.turn().set_mode(mode)
    }

    fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.turn().set_times(atime, mtime)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.turn().set_xattr(name, value)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.turn().remove_xattr(name)
    }

    fn set_project(&self, project: Project) -> Result<()> {
        self.turn().set_project(project)
    }
}

impl PartFile for Throttled<dyn PartFile> {
    fn lock(&self, start: u64, len: u64, patience: Duration) -> Result<Option<Box<dyn Locked + '_>>> {
        self.turn().lock(start, len, patience)
    }

    fn fill_range(
        &self,
        source: &dyn SourceFile,
        range: Range<u64>,
        holes: bool,
        written: &dyn Fn(u64),
    ) -> Result<bool> {
        let _writing = Writing::start();
        self.turn().fill_range(source, range, holes, &|n| {
            written(n);
            self.brake.moved(n);
        })
    }

    fn has_layout(&self) -> bool {
        self.inner.has_layout()
    }

    fn seal(&self) -> Result<()> {
        self.turn().seal()
    }

    fn sync(&self) -> Result<()> {
        self.turn().sync()
    }

    fn publish(&self, name: &[u8]) -> Result<()> {
        self.turn().publish(name)
    }
}

impl NewEntry for Throttled<dyn NewEntry> {
    fn share_with(&mut self, source: &dyn SourceFile) -> bool {
        self.brake.operation();
        self.inner.share_with(source)
    }

    fn has_layout(&self) -> bool {
        self.inner.has_layout()
    }

    fn sync(&mut self) -> Result<()> {
        self.brake.operation();
        self.inner.sync()
    }

    fn is_owned_by(&self, uid: u32, gid: u32) -> bool {
        self.inner.is_owned_by(uid, gid)
    }

    fn fill_from(&mut self, source: &dyn SourceFile, holes: bool, written: &dyn Fn(u64)) -> Result<u64> {
        self.brake.operation();
        let _writing = Writing::start();
        let brake = &self.brake;
        self.inner.fill_from(source, holes, &|n| {
            written(n);
            // More than any one call copies was cloned: the file has its data, but none were moved.
            if n <= contents::LARGEST_PIECE_BYTES {
                brake.moved(n);
            }
        })
    }

    fn seal(&mut self) -> Result<()> {
        self.brake.operation();
        self.inner.seal()
    }

    fn publish(self: Box<Self>, replace: bool) -> Result<Made> {
        self.brake.operation();
        self.inner.publish(replace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::Limits;

    #[test]
    fn the_tightest_limit_is_the_one_that_chunks_are_cut_by() {
        let options = crate::fs::Options::new(crate::model::JobId::random());
        let with = |rates: &[Option<u64>]| {
            let limiter =
                |rate: &Option<u64>| Arc::new(Limiter::new(Limits { bytes_per_second: *rate, ..Limits::default() }));
            let limiters: Vec<_> = rates.iter().map(limiter).collect();
            let fs = crate::fs::open(b"null://", crate::fs::Side::Target, &options).unwrap();
            throttled(fs, &limiters).bytes_per_second()
        };
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[None]), None);
        assert_eq!(with(&[Some(5), None, Some(3)]), Some(3));
    }
}
