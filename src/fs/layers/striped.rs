//! For tests: a filesystem of several servers, as far as layouts and archives go, around a real one.
//!
//! Invariant: layouts belong to inodes, as on the servers; whatever is done to the names in the real one, they stay.

use super::super::{
    Dir, Edit, Filesystem, FsError, Locked, Made, New, NewEntry, PartFile, Placing, Result, SourceFile, Traits, Usage,
    Xattrs,
};
use crate::model::{Layout, Metadata, Operation, RelPath, RootIdentity, Servers, Timestamp, task::Entry};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the servers know, by inode number; and what was asked of them.
#[derive(Default)]
pub struct Known {
    /// Layouts of files.
    pub layouts: HashMap<u64, Layout>,
    /// Default layouts of directories.
    pub defaults: HashMap<u64, Layout>,
    /// Files whose data are in an archive.
    pub released: HashSet<u64>,
    /// Files into which data were written, and whether they had a layout that was asked for.
    pub written: Vec<(u64, bool)>,
    /// Files whose layout was asked for.
    pub asked: u64,
    /// No layout is taken.
    pub refuses: bool,
    /// Pools.
    pub pools: Vec<String>,
}

/// Handle on [`Known`].
pub type Servants = Arc<Mutex<Known>>;

/// The filesystem with servers around it.
pub fn striped(inner: Arc<dyn Filesystem>) -> (Arc<dyn Filesystem>, Servants) {
    let servants = Servants::default();
    (Arc::new(StripedFs { inner, servants: Arc::clone(&servants) }), servants)
}

/// A plain layout with so many stripes of so many bytes, read from a blob as a server gives it.
pub fn plain(stripes: u16, bytes: u32, pool: Option<&str>) -> Layout {
    let mut blob = vec![0; if pool.is_some() { 48 } else { 32 }];
    blob[0..4].copy_from_slice(&(if pool.is_some() { 0x0BD3_0BD0_u32 } else { 0x0BD1_0BD0 }).to_le_bytes());
    blob[4..8].copy_from_slice(&1_u32.to_le_bytes());
    blob[24..28].copy_from_slice(&bytes.to_le_bytes());
    blob[28..30].copy_from_slice(&stripes.to_le_bytes());
    blob[30..32].copy_from_slice(&u16::MAX.to_le_bytes());
    if let Some(pool) = pool {
        blob[32..32 + pool.len()].copy_from_slice(pool.as_bytes());
    }
    Layout::parse(&blob).unwrap()
}

struct StripedFs {
    inner: Arc<dyn Filesystem>,
    servants: Servants,
}

impl Filesystem for StripedFs {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn open_dir(&self, path: &RelPath) -> Result<Box<dyn Dir>> {
        Ok(Box::new(Striped { inner: self.inner.open_dir(path)?, ino: 0, servants: Arc::clone(&self.servants) }))
    }

    fn identity(&self) -> Result<RootIdentity> {
        self.inner.identity()
    }

    fn usage(&self) -> Option<Usage> {
        None
    }

    fn servers(&self) -> Option<Servers> {
        Some(Servers { pools: Some(self.servants.lock().unwrap().pools.clone()), ..Servers::default() })
    }
}

struct Striped<T: ?Sized> {
    inner: Box<T>,
    /// Of a file.
    ino: u64,
    servants: Servants,
}

impl<T: ?Sized> Striped<T> {
    fn of<U: ?Sized>(&self, inner: Box<U>, ino: u64) -> Box<Striped<U>> {
        Box::new(Striped { inner, ino, servants: Arc::clone(&self.servants) })
    }

    /// A file was made: an inode number may be another's from before.
    fn made(&self, ino: u64, layout: Option<&Layout>) {
        let mut known = self.servants.lock().unwrap();
        known.released.remove(&ino);
        match layout.filter(|_| !known.refuses) {
            Some(layout) => known.layouts.insert(ino, layout.clone()),
            None => known.layouts.remove(&ino),
        };
    }

    fn has_wanted(&self) -> bool {
        self.servants.lock().unwrap().layouts.contains_key(&self.ino)
    }

    fn wrote(&self) {
        let had = self.has_wanted();
        self.servants.lock().unwrap().written.push((self.ino, had));
    }
}

impl Dir for Striped<dyn Dir> {
    fn metadata(&self) -> Result<Metadata> {
        self.inner.metadata()
    }
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
        self.inner.list(each)
    }
    fn stat(&self, name: &[u8]) -> Result<Metadata> {
        self.inner.stat(name)
    }
    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>> {
        Ok(self.of(self.inner.open_dir(name)?, 0))
    }
    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>> {
        let ino = self.inner.stat(name)?.ino;
        if self.servants.lock().unwrap().released.contains(&ino) {
            return Err(FsError { operation: Operation::Recall, errno: libc::ENODATA });
        }
        Ok(self.of(self.inner.open_file(name)?, ino))
    }
    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.inner.read_link(name)
    }
    fn xattrs(&self, name: &[u8]) -> Result<Xattrs> {
        self.inner.xattrs(name)
    }
    fn xattrs_self(&self) -> Result<Xattrs> {
        self.inner.xattrs_self()
    }
    fn make_dir(&self, name: &[u8]) -> Result<Made> {
        self.inner.make_dir(name)
    }
    fn make_new_dir(&self, name: &[u8]) -> Result<Made> {
        self.inner.make_new_dir(name)
    }
    fn create(&self, name: &[u8], what: New<'_>, direct: bool) -> Result<Box<dyn NewEntry>> {
        let (what, layout) = match what {
            New::LaidOut(layout) => (New::File, Some(layout)),
            other => (other, None),
        };
        let new = self.inner.create(name, what, direct)?;
        let ino = new.metadata()?.ino;
        self.made(ino, layout);
        Ok(self.of(new, ino))
    }
    fn edit(&self, name: &[u8]) -> Result<Box<dyn Edit>> {
        self.inner.edit(name)
    }
    fn edit_self(&self) -> Result<Box<dyn Edit>> {
        self.inner.edit_self()
    }
    fn link(&self, name: &[u8], from: &dyn Dir, from_name: &[u8], replace: bool) -> Result<()> {
        self.inner.link(name, from, from_name, replace)
    }
    fn remove(&self, name: &[u8]) -> Result<()> {
        self.inner.remove(name)
    }
    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.inner.unlink(name)
    }
    fn remove_empty_dir(&self, name: &[u8]) -> Result<bool> {
        self.inner.remove_empty_dir(name)
    }
    fn move_to(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> Result<Made> {
        self.inner.move_to(name, to, to_name)
    }
    fn make_part(&self, name: &[u8], size: u64, layout: Option<&Layout>) -> Result<Box<dyn PartFile>> {
        let part = self.inner.make_part(name, size, None)?;
        let ino = part.metadata()?.ino;
        self.made(ino, layout);
        Ok(self.of(part, ino))
    }
    fn open_part(&self, name: &[u8]) -> Result<Box<dyn PartFile>> {
        let part = self.inner.open_part(name)?;
        let ino = part.metadata()?.ino;
        Ok(self.of(part, ino))
    }
    fn lock(&self, exclusive: bool) -> Result<Option<Box<dyn Send + Sync>>> {
        self.inner.lock(exclusive)
    }
    fn placing(&self) -> Option<&dyn Placing> {
        Some(self)
    }
    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}

impl Placing for Striped<dyn Dir> {
    fn make_dir_on(&self, name: &[u8], _: &[u32]) -> Result<(Made, u32)> {
        Ok((self.inner.make_dir(name)?, 0))
    }
    fn mdt(&self) -> Result<u32> {
        Ok(0)
    }
    fn mdt_of(&self, _: &[u8]) -> Result<u32> {
        Ok(0)
    }
    fn layout(&self, name: &[u8]) -> Result<Option<Layout>> {
        let ino = self.inner.stat(name)?.ino;
        let mut known = self.servants.lock().unwrap();
        known.asked += 1;
        Ok(known.layouts.get(&ino).cloned())
    }
    fn default_layout(&self) -> Result<Option<Layout>> {
        let ino = self.inner.metadata()?.ino;
        Ok(self.servants.lock().unwrap().defaults.get(&ino).cloned())
    }
    fn set_default_layout(&self, layout: Option<&Layout>) -> Result<()> {
        let ino = self.inner.metadata()?.ino;
        let mut known = self.servants.lock().unwrap();
        if known.refuses {
            return Err(FsError { operation: Operation::SetLayout, errno: libc::EINVAL });
        }
        match layout {
            Some(layout) => known.defaults.insert(ino, layout.clone()),
            None => known.defaults.remove(&ino),
        };
        Ok(())
    }
}

impl SourceFile for Striped<dyn SourceFile> {
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
        self.inner.read_at(offset, buf)
    }
    fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
        self.inner.next_data(offset, size)
    }
    fn drop_cache(&self, offset: u64, bytes: u64) -> Result<()> {
        self.inner.drop_cache(offset, bytes)
    }
    fn layout(&self) -> Result<Option<Layout>> {
        let mut known = self.servants.lock().unwrap();
        known.asked += 1;
        Ok(known.layouts.get(&self.ino).cloned())
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor()
    }
}

impl<T: Edit + ?Sized> Edit for Striped<T> {
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
}

impl NewEntry for Striped<dyn NewEntry> {
    fn has_layout(&self) -> bool {
        self.has_wanted()
    }
    fn sync(&mut self) -> Result<()> {
        self.inner.sync()
    }
    fn is_owned_by(&self, uid: u32, gid: u32) -> bool {
        self.inner.is_owned_by(uid, gid)
    }
    fn fill_from(&mut self, source: &dyn SourceFile, holes: bool, written: &dyn Fn(u64)) -> Result<u64> {
        self.wrote();
        self.inner.fill_from(source, holes, written)
    }
    fn seal(&mut self) -> Result<()> {
        self.inner.seal()
    }
    fn publish(self: Box<Self>, replace: bool) -> Result<Made> {
        self.inner.publish(replace)
    }
}

impl PartFile for Striped<dyn PartFile> {
    fn has_layout(&self) -> bool {
        self.has_wanted()
    }
    fn lock(&self, start: u64, len: u64, patience: Duration) -> Result<Option<Box<dyn Locked + '_>>> {
        self.inner.lock(start, len, patience)
    }
    fn fill_range(
        &self,
        source: &dyn SourceFile,
        range: Range<u64>,
        holes: bool,
        written: &dyn Fn(u64),
    ) -> Result<bool> {
        self.wrote();
        self.inner.fill_range(source, range, holes, written)
    }
    fn seal(&self) -> Result<()> {
        self.inner.seal()
    }
    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
    fn publish(&self, name: &[u8]) -> Result<()> {
        self.inner.publish(name)
    }
}
