//! For tests: a filesystem on which chosen operations fail on chosen paths, until it is repaired.

use super::super::{
    Dir, Edit, Filesystem, FsError, Locked, Made, New, NewEntry, PartFile, Result, SourceFile, Traits, Usage, Xattrs,
};
use crate::model::fleet::Space;
use crate::model::{Layout, Metadata, Operation, Project, RelPath, RootIdentity, Timestamp, task::Entry};
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What fails: every operation of this kind on this path. Attributes of directories and files are set by
/// [`Operation::SetTimes`], extended ones are read by [`Operation::ListXattrs`].
pub type Fault = (Operation, &'static str, i32);

/// What a part file is called in the path of a fault, since its name is made up.
const PART: &[u8] = b"PART";

/// The faults of one filesystem.
pub struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    /// Nothing fails any more.
    pub fn repair(&self) {
        self.0.lock().unwrap().clear();
    }

    fn meet(&self, operation: Operation, path: &[u8]) -> Result<()> {
        let faults = self.0.lock().unwrap();
        let fault = faults.iter().find(|(o, at, _)| *o == operation && at.as_bytes() == path);
        fault.map_or(Ok(()), |(_, _, errno)| Err(FsError { operation, errno: *errno }))
    }
}

/// A filesystem that has these faults.
pub fn faulty(inner: Arc<dyn Filesystem>, faults: Vec<Fault>) -> (Arc<dyn Filesystem>, Arc<Faults>) {
    let faults = Arc::new(Faults(Mutex::new(faults)));
    (Arc::new(FaultyFs { inner, faults: Arc::clone(&faults) }), faults)
}

struct FaultyFs {
    inner: Arc<dyn Filesystem>,
    faults: Arc<Faults>,
}

impl Filesystem for FaultyFs {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn open_dir(&self, path: &RelPath) -> Result<Box<dyn Dir>> {
        self.faults.meet(Operation::OpenDirectory, path.as_bytes())?;
        let inner = self.inner.open_dir(path)?;
        Ok(Box::new(Faulty { inner, path: path.as_bytes().to_vec(), faults: Arc::clone(&self.faults) }))
    }

    fn identity(&self) -> Result<RootIdentity> {
        self.inner.identity()
    }

    fn usage(&self) -> Option<Usage> {
        self.inner.usage()
    }

    fn barrier(&self, scratch: &dyn Dir) -> Result<()> {
        self.faults.meet(Operation::Flush, b"")?;
        self.inner.barrier(scratch)
    }

    fn space(&self) -> Option<Space> {
        self.inner.space()
    }
}

struct Faulty<T: ?Sized> {
    inner: Box<T>,
    path: Vec<u8>,
    faults: Arc<Faults>,
}

impl Faulty<dyn Dir> {
    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// The directory, unless the operation is to fail on a child.
    fn on(&self, operation: Operation, name: &[u8]) -> Result<&dyn Dir> {
        self.faults.meet(operation, &self.path_of(name))?;
        Ok(self.inner.as_ref())
    }

    /// The directory, unless the operation is to fail on it.
    fn on_self(&self, operation: Operation) -> Result<&dyn Dir> {
        self.faults.meet(operation, &self.path)?;
        Ok(self.inner.as_ref())
    }
}

impl Dir for Faulty<dyn Dir> {
    fn metadata(&self) -> Result<Metadata> {
        self.inner.metadata()
    }

    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
        self.on_self(Operation::List)?.list(each)
    }

    fn stat(&self, name: &[u8]) -> Result<Metadata> {
        self.on(Operation::Stat, name)?.stat(name)
    }

    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>> {
        let inner = self.on(Operation::OpenDirectory, name)?.open_dir(name)?;
        Ok(Box::new(Faulty { inner, path: self.path_of(name), faults: Arc::clone(&self.faults) }))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>> {
        let inner = self.on(Operation::Open, name)?.open_file(name)?;
        Ok(Box::new(Faulty { inner, path: self.path_of(name), faults: Arc::clone(&self.faults) }))
    }

    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.on(Operation::ReadLink, name)?.read_link(name)
    }

    fn xattrs(&self, name: &[u8]) -> Result<Xattrs> {
        self.on(Operation::ListXattrs, name)?.xattrs(name)
    }

    fn xattrs_self(&self) -> Result<Xattrs> {
        self.on_self(Operation::ListXattrs)?.xattrs_self()
    }

    fn make_dir(&self, name: &[u8]) -> Result<Made> {
        self.on(Operation::MakeDirectory, name)?.make_dir(name)
    }

    fn make_new_dir(&self, name: &[u8]) -> Result<Made> {
        self.on(Operation::MakeDirectory, name)?.make_new_dir(name)
    }

    fn create(&self, name: &[u8], what: New<'_>, direct: bool) -> Result<Box<dyn NewEntry>> {
        let inner = self.on(Operation::Create, name)?.create(name, what, direct)?;
        Ok(Box::new(Faulty { inner, path: self.path_of(name), faults: Arc::clone(&self.faults) }))
    }

    fn edit(&self, name: &[u8]) -> Result<Box<dyn Edit>> {
        self.on(Operation::SetTimes, name)?.edit(name)
    }

    fn edit_self(&self) -> Result<Box<dyn Edit>> {
        self.on_self(Operation::SetTimes)?.edit_self()
    }

    fn link(&self, name: &[u8], from: &dyn Dir, from_name: &[u8], replace: bool) -> Result<()> {
        self.on(Operation::Link, name)?.link(name, from, from_name, replace)
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        self.on(Operation::Remove, name)?.remove(name)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.on(Operation::Remove, name)?.unlink(name)
    }

    fn remove_empty_dir(&self, name: &[u8]) -> Result<bool> {
        self.on(Operation::Remove, name)?.remove_empty_dir(name)
    }

    fn move_to(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> Result<Made> {
        self.on(Operation::Rename, name)?.move_to(name, to, to_name)
    }

    fn make_part(&self, name: &[u8], size: u64, layout: Option<&Layout>) -> Result<Box<dyn PartFile>> {
        let inner = self.inner.make_part(name, size, layout)?;
        Ok(Box::new(Faulty { inner, path: self.path_of(PART), faults: Arc::clone(&self.faults) }))
    }

    fn open_part(&self, name: &[u8]) -> Result<Box<dyn PartFile>> {
        let inner = self.inner.open_part(name)?;
        Ok(Box::new(Faulty { inner, path: self.path_of(PART), faults: Arc::clone(&self.faults) }))
    }

    fn lock(&self, exclusive: bool) -> Result<Option<Box<dyn Send + Sync>>> {
        self.inner.lock(exclusive)
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}

impl SourceFile for Faulty<dyn SourceFile> {
    fn metadata(&self) -> Result<Metadata> {
        self.inner.metadata()
    }

    fn at_open(&self) -> Result<Metadata> {
        self.inner.at_open()
    }

    fn xattrs(&self) -> Result<Xattrs> {
        self.inner.xattrs()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.faults.meet(Operation::Read, &self.path)?;
        self.inner.read_at(offset, buf)
    }

    fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
        self.inner.next_data(offset, size)
    }

    fn drop_cache(&self, offset: u64, bytes: u64) -> Result<()> {
        self.inner.drop_cache(offset, bytes)
    }
}

impl<T: Edit + ?Sized> Edit for Faulty<T> {
    fn metadata(&self) -> Result<Metadata> {
        self.inner.metadata()
    }

    fn xattrs(&self) -> Result<Xattrs> {
        self.inner.xattrs()
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.inner.set_owner(uid, gid)
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        self.inner.set_mode(mode)
    }

    fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.inner.set_times(atime, mtime)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.inner.set_xattr(name, value)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.inner.remove_xattr(name)
    }

    fn set_project(&self, project: Project) -> Result<()> {
        self.inner.set_project(project)
    }
}

impl NewEntry for Faulty<dyn NewEntry> {
    fn share_with(&mut self, source: &dyn SourceFile) -> bool {
        self.inner.share_with(source)
    }

    fn has_layout(&self) -> bool {
        self.inner.has_layout()
    }

    fn sync(&mut self) -> Result<()> {
        self.faults.meet(Operation::Flush, &self.path)?;
        self.inner.sync()
    }

    fn is_owned_by(&self, uid: u32, gid: u32) -> bool {
        self.inner.is_owned_by(uid, gid)
    }

    fn fill_from(&mut self, source: &dyn SourceFile, holes: bool, written: &dyn Fn(u64)) -> Result<u64> {
        self.inner.fill_from(source, holes, written)
    }

    fn seal(&mut self) -> Result<()> {
        self.inner.seal()
    }

    fn publish(self: Box<Self>, replace: bool) -> Result<Made> {
        self.inner.publish(replace)
    }
}

impl PartFile for Faulty<dyn PartFile> {
    fn lock(&self, start: u64, len: u64, patience: Duration) -> Result<Option<Box<dyn Locked + '_>>> {
        self.inner.lock(start, len, patience)
    }

    fn fill_range(
        &self,
        source: &dyn SourceFile,
        range: std::ops::Range<u64>,
        holes: bool,
        written: &dyn Fn(u64),
    ) -> Result<bool> {
        self.inner.fill_range(source, range, holes, written)
    }

    fn has_layout(&self) -> bool {
        self.inner.has_layout()
    }

    fn seal(&self) -> Result<()> {
        self.inner.seal()
    }

    fn sync(&self) -> Result<()> {
        self.faults.meet(Operation::Flush, &self.path)?;
        self.inner.sync()
    }

    fn publish(&self, name: &[u8]) -> Result<()> {
        self.inner.publish(name)
    }
}
