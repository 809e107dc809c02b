//! For tests: a directory that pretends to lie on several metadata servers and to keep times in whole seconds.

use super::super::{
    Dir, Edit, Filesystem, FsError, Made, New, NewEntry, PartFile, Placing, Result, SourceFile, Traits, Usage, Xattrs,
};
use crate::model::{Layout, Metadata, Operation, RelPath, RootIdentity, Servers, lustre::Mdt, task::Entry};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// One second, in nanoseconds.
pub const STEP_NS: u32 = 1_000_000_000;

/// Metadata servers, and what lies on which.
pub struct Mdts {
    indices: Vec<u32>,
    /// Path of each directory that was made; what is not in it lies on the first.
    table: Mutex<BTreeMap<Vec<u8>, u32>>,
    refusing: Mutex<Vec<u32>>,
    /// Paths that were asked for on an MDT, in that order.
    asked: Mutex<Vec<Vec<u8>>>,
}

impl Mdts {
    /// Those with these indices.
    pub fn new(indices: &[u32]) -> Arc<Self> {
        Arc::new(Mdts {
            indices: indices.to_vec(),
            table: Mutex::default(),
            refusing: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    /// These make no directories from now on.
    pub fn refuse(&self, mdts: &[u32]) {
        *self.refusing.lock().unwrap() = mdts.to_vec();
    }

    /// What was asked for on an MDT since the last time.
    pub fn asked(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Where what was made lies, by path.
    pub fn table(&self) -> BTreeMap<Vec<u8>, u32> {
        self.table.lock().unwrap().clone()
    }

    fn of(&self, path: &[u8]) -> u32 {
        self.table.lock().unwrap().get(path).copied().unwrap_or(self.indices[0])
    }

    fn put(&self, path: Vec<u8>, mdt: u32) {
        self.table.lock().unwrap().insert(path, mdt);
    }
}

/// A filesystem over another one.
pub fn over(inner: Arc<dyn Filesystem>, mdts: &Arc<Mdts>) -> Arc<dyn Filesystem> {
    Arc::new(Pretended { inner, mdts: Arc::clone(mdts) })
}

fn whole_seconds(m: Metadata) -> Metadata {
    let [atime, mtime, ctime] = [m.atime, m.mtime, m.ctime].map(|t| t.truncated(STEP_NS));
    Metadata { atime, mtime, ctime, ..m }
}

struct Pretended {
    inner: Arc<dyn Filesystem>,
    mdts: Arc<Mdts>,
}

impl Filesystem for Pretended {
    fn traits(&self) -> Traits {
        Traits { time_granularity_ns: STEP_NS, ..self.inner.traits() }
    }

    fn open_dir(&self, path: &RelPath) -> Result<Box<dyn Dir>> {
        let inner = self.inner.open_dir(path)?;
        Ok(Box::new(PretendedDir { inner, path: path.clone(), mdts: Arc::clone(&self.mdts) }))
    }

    fn identity(&self) -> Result<RootIdentity> {
        self.inner.identity()
    }

    fn usage(&self) -> Option<Usage> {
        self.inner.usage()
    }

    fn servers(&self) -> Option<Servers> {
        let mdt = |index: &u32| Mdt { index: *index, active: true, inodes: 100, free_inodes: 50, ..Mdt::default() };
        Some(Servers { mdts: self.mdts.indices.iter().map(mdt).collect(), ..Servers::default() })
    }
}

struct PretendedDir {
    inner: Box<dyn Dir>,
    path: RelPath,
    mdts: Arc<Mdts>,
}

impl PretendedDir {
    fn made_on(&self, name: &[u8], mdt: u32, made: Made) -> Made {
        if made == Made::New {
            self.mdts.put(self.path.display_join(name), mdt);
        }
        made
    }
}

impl Placing for PretendedDir {
    fn make_dir_on(&self, name: &[u8], mdts: &[u32]) -> Result<(Made, u32)> {
        self.mdts.asked.lock().unwrap().push(self.path.display_join(name));
        let refusing = self.mdts.refusing.lock().unwrap();
        let Some(mdt) = mdts.iter().find(|mdt| !refusing.contains(mdt)) else {
            return Err(FsError { operation: Operation::MakeDirectory, errno: libc::EIO });
        };
        let made = self.made_on(name, *mdt, self.inner.make_dir(name)?);
        Ok((made, self.mdts.of(&self.path.display_join(name))))
    }

    fn mdt(&self) -> Result<u32> {
        Ok(self.mdts.of(self.path.as_bytes()))
    }

    fn mdt_of(&self, name: &[u8]) -> Result<u32> {
        Ok(self.mdts.of(&self.path.display_join(name)))
    }

    fn layout(&self, _name: &[u8]) -> Result<Option<Layout>> {
        Ok(None)
    }

    fn default_layout(&self) -> Result<Option<Layout>> {
        Ok(None)
    }

    fn set_default_layout(&self, _layout: Option<&Layout>) -> Result<()> {
        Err(FsError { operation: Operation::SetXattr, errno: libc::EOPNOTSUPP })
    }
}

impl Dir for PretendedDir {
    fn metadata(&self) -> Result<Metadata> {
        self.inner.metadata().map(whole_seconds)
    }

    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
        self.inner.list(&mut |entry| each(Entry { metadata: entry.metadata.map(whole_seconds), ..entry }))
    }

    fn stat(&self, name: &[u8]) -> Result<Metadata> {
        self.inner.stat(name).map(whole_seconds)
    }

    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>> {
        let inner = self.inner.open_dir(name)?;
        let path = RelPath::parse(self.path.display_join(name)).unwrap();
        Ok(Box::new(PretendedDir { inner, path, mdts: Arc::clone(&self.mdts) }))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>> {
        self.inner.open_file(name)
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

    /// On the MDT of the directory above.
    fn make_dir(&self, name: &[u8]) -> Result<Made> {
        Ok(self.made_on(name, self.mdt()?, self.inner.make_dir(name)?))
    }

    fn make_new_dir(&self, name: &[u8]) -> Result<Made> {
        Ok(self.made_on(name, self.mdt()?, self.inner.make_new_dir(name)?))
    }

    fn create(&self, name: &[u8], what: New<'_>, direct: bool) -> Result<Box<dyn NewEntry>> {
        self.inner.create(name, what, direct)
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
        self.inner.make_part(name, size, layout)
    }

    fn open_part(&self, name: &[u8]) -> Result<Box<dyn PartFile>> {
        self.inner.open_part(name)
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
