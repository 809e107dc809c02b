//! A target that is read and never written: what would be done is noted down instead.
//!
//! Invariant: nothing of the target is changed, and each path that a real run would make or change is noted once. What
//! would have been made is an empty directory to whoever opens it, and absent to whoever looks.
//!
//! A task runs on one thread from its beginning to its end, so what it would do gathers there, until [`take`].

use super::super::{
    Class, Dir, Edit, Filesystem, FsError, Made, New, NewEntry, Result, SourceFile, Traits, Usage, Xattrs, aside,
};
use super::ghost::{GHOST_INO, absent, attributes};
use crate::model::fleet::Space;
use crate::model::{
    Finding, Kind, Metadata, Operation, Project, RelPath, RootIdentity, Servers, Timestamp, task::Entry,
};
use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    static WOULD: RefCell<Vec<Finding>> = const { RefCell::new(Vec::new()) };
}

/// What this thread has noted since it was asked last.
pub fn take() -> Vec<Finding> {
    WOULD.with(RefCell::take)
}

fn note(path: Vec<u8>, what: &str, expected: Kind, found: Option<Kind>) {
    let found = found.map_or("", Kind::noun).to_owned();
    let finding = Finding { path, what: what.to_owned(), expected: expected.noun().to_owned(), found };
    WOULD.with(|would| would.borrow_mut().push(finding));
}

/// A target that is only looked at.
pub fn over(inner: Arc<dyn Filesystem>) -> Arc<dyn Filesystem> {
    Arc::new(DryFs(Some(inner)))
}

/// A target that does not exist yet.
pub fn nowhere() -> Arc<dyn Filesystem> {
    Arc::new(DryFs(None))
}

/// Is it the root of a target that does not exist yet?
pub fn is_nowhere(fs: &dyn Filesystem) -> bool {
    fs.open_dir(&RelPath::root()).and_then(|root| root.metadata()).is_ok_and(|m| m.ino == GHOST_INO)
}

struct DryFs(Option<Arc<dyn Filesystem>>);

impl Filesystem for DryFs {
    /// Nothing that is written can be seen again.
    fn traits(&self) -> Traits {
        let inner = self.0.as_ref().map_or_else(Traits::default, |fs| fs.traits());
        Traits { forgets: true, ..inner }
    }

    fn open_dir(&self, path: &RelPath) -> Result<Box<dyn Dir>> {
        let inner = real(self.0.as_ref().map(|fs| fs.open_dir(path)))?;
        Ok(Box::new(DryDir { inner, path: path.clone(), traits: self.traits() }))
    }

    fn identity(&self) -> Result<RootIdentity> {
        self.0.as_ref().map_or_else(|| Ok(RootIdentity::default()), |fs| fs.identity())
    }

    fn usage(&self) -> Option<Usage> {
        self.0.as_ref().and_then(|fs| fs.usage())
    }

    fn servers(&self) -> Option<Servers> {
        self.0.as_ref().and_then(|fs| fs.servers())
    }

    fn space(&self) -> Option<Space> {
        self.0.as_ref().and_then(|fs| fs.space())
    }
}

/// The directory, if there is one: another kind of entry would have been replaced.
fn real(opened: Option<Result<Box<dyn Dir>>>) -> Result<Option<Arc<dyn Dir>>> {
    match opened {
        Some(Ok(dir)) => Ok(Some(Arc::from(dir))),
        Some(Err(e)) if !matches!(e.class(), Class::Vanished | Class::OtherKind) => Err(e),
        _ => Ok(None),
    }
}

struct DryDir {
    inner: Option<Arc<dyn Dir>>,
    path: RelPath,
    traits: Traits,
}

impl DryDir {
    /// Asks the directory that is there; in one that is not, everything is absent.
    fn ask<T>(&self, operation: Operation, ask: impl FnOnce(&dyn Dir) -> Result<T>) -> Result<T> {
        self.inner.as_ref().map_or_else(|| absent(operation), |dir| ask(dir.as_ref()))
    }

    /// What stands under a name, if anything does.
    fn there(&self, name: &[u8]) -> Result<Option<Metadata>> {
        match self.ask(Operation::Stat, |dir| dir.stat(name)) {
            Ok(m) => Ok(Some(m)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The path that a note about an entry bears; none for working files.
    fn noted(&self, name: &[u8]) -> Option<Vec<u8>> {
        let top = self.path.as_bytes().split(|b| *b == b'/').next().filter(|top| !top.is_empty()).unwrap_or(name);
        let is_work = top == aside::WORK_DIR || aside::is_working_file(name);
        (!is_work).then(|| self.path.display_join(name))
    }

    fn editing(&self, inner: Option<Box<dyn Edit>>, path: Option<Vec<u8>>) -> Box<dyn Edit> {
        Box::new(DryEdit { inner, path: RefCell::new(path), traits: self.traits })
    }
}

impl Dir for DryDir {
    fn metadata(&self) -> Result<Metadata> {
        self.inner.as_ref().map_or_else(|| Ok(attributes(Kind::Directory)), |dir| dir.metadata())
    }

    fn is_mount_point(&self) -> Result<bool> {
        self.inner.as_ref().map_or(Ok(false), |dir| dir.is_mount_point())
    }

    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
        self.inner.as_ref().map_or(Ok(()), |dir| dir.list(each))
    }

    fn stat(&self, name: &[u8]) -> Result<Metadata> {
        self.ask(Operation::Stat, |dir| dir.stat(name))
    }

    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>> {
        let too_long = |_| FsError { operation: Operation::OpenDirectory, errno: libc::ENAMETOOLONG };
        let path = self.path.join(name).map_err(too_long)?;
        let inner = real(self.inner.as_ref().map(|dir| dir.open_dir(name)))?;
        Ok(Box::new(DryDir { inner, path, traits: self.traits }))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>> {
        self.ask(Operation::Open, |dir| dir.open_file(name))
    }

    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.ask(Operation::ReadLink, |dir| dir.read_link(name))
    }

    fn xattrs(&self, name: &[u8]) -> Result<Xattrs> {
        self.ask(Operation::ListXattrs, |dir| dir.xattrs(name))
    }

    fn xattrs_self(&self) -> Result<Xattrs> {
        self.inner.as_ref().map_or_else(|| Ok(Xattrs::new()), |dir| dir.xattrs_self())
    }

    fn make_dir(&self, name: &[u8]) -> Result<Made> {
        let there = self.there(name)?.map(|m| m.kind);
        if there == Some(Kind::Directory) {
            return Ok(Made::Existed);
        }
        if let Some(path) = self.noted(name) {
            note(path, "would make directory", Kind::Directory, there);
        }
        Ok(Made::New)
    }

    fn make_new_dir(&self, name: &[u8]) -> Result<Made> {
        if self.there(name)?.is_some() { Ok(Made::Existed) } else { self.make_dir(name) }
    }

    fn create(&self, name: &[u8], what: New<'_>, direct: bool) -> Result<Box<dyn NewEntry>> {
        let kind = match what {
            New::File | New::LaidOut(_) => Kind::File,
            New::Symlink(_) => Kind::Symlink,
            New::Node(kind, _) => kind,
        };
        if direct && self.there(name)?.is_some() {
            return Err(FsError { operation: Operation::Create, errno: libc::EEXIST });
        }
        let dir = DryDir { inner: self.inner.clone(), path: self.path.clone(), traits: self.traits };
        Ok(Box::new(DryEntry { dir, name: name.to_vec(), kind }))
    }

    fn edit(&self, name: &[u8]) -> Result<Box<dyn Edit>> {
        match self.ask(Operation::Open, |dir| dir.edit(name)) {
            Ok(edit) => Ok(self.editing(Some(edit), self.noted(name))),
            Err(e) if e.is_absent() => Ok(self.editing(None, None)),
            Err(e) => Err(e),
        }
    }

    fn edit_self(&self) -> Result<Box<dyn Edit>> {
        let inner = self.inner.as_ref().map(|dir| dir.edit_self()).transpose()?;
        Ok(self.editing(inner, Some(self.path.as_bytes().to_vec())))
    }

    fn link(&self, name: &[u8], _from: &dyn Dir, _from_name: &[u8], replace: bool) -> Result<()> {
        let there = self.there(name)?.map(|m| m.kind);
        if there.is_some() && !replace {
            return Err(FsError { operation: Operation::Link, errno: libc::EEXIST });
        }
        if let Some(path) = self.noted(name) {
            note(path, "would link", Kind::File, there);
        }
        Ok(())
    }

    /// Nothing is noted: whoever removes what is not a working file says so.
    fn remove(&self, _name: &[u8]) -> Result<()> {
        Ok(())
    }

    fn remove_empty_dir(&self, name: &[u8]) -> Result<bool> {
        let dir = self.ask(Operation::Remove, |dir| dir.open_dir(name))?;
        Ok(dir.any_name(&|_| true)?.is_none())
    }

    fn unlink(&self, _name: &[u8]) -> Result<()> {
        Ok(())
    }

    fn move_to(&self, _name: &[u8], _to: &dyn Dir, _to_name: &[u8]) -> Result<Made> {
        Ok(Made::New)
    }

    fn project(&self, name: &[u8]) -> Result<Option<Project>> {
        match self.ask(Operation::GetProject, |dir| dir.project(name)) {
            Err(e) if e.is_absent() => Ok(None),
            other => other,
        }
    }

    /// A lock that was there would be in nobody's way here, and one that was taken might be in another's.
    fn lock(&self, _exclusive: bool) -> Result<Option<Box<dyn Send + Sync>>> {
        Ok(None)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Attributes that would be set; the first that differs is noted, once.
struct DryEdit {
    inner: Option<Box<dyn Edit>>,
    path: RefCell<Option<Vec<u8>>>,
    traits: Traits,
}

impl DryEdit {
    /// Of what is not there everything would be new, and that has been noted already.
    fn change(&self, differs: impl FnOnce(&dyn Edit) -> Result<bool>) -> Result<()> {
        let Some(edit) = &self.inner else { return Ok(()) };
        if self.path.borrow().is_none() || !differs(edit.as_ref())? {
            return Ok(());
        }
        let kind = edit.metadata()?.kind;
        if let Some(path) = self.path.take() {
            note(path, "would update", kind, Some(kind));
        }
        Ok(())
    }
}

impl Edit for DryEdit {
    fn metadata(&self) -> Result<Metadata> {
        self.inner.as_ref().map_or_else(|| Ok(attributes(Kind::Directory)), |edit| edit.metadata())
    }

    fn xattrs(&self) -> Result<Xattrs> {
        self.inner.as_ref().map_or_else(|| Ok(Xattrs::new()), |edit| edit.xattrs())
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.change(|edit| {
            let m = edit.metadata()?;
            Ok(uid.is_some_and(|uid| uid != m.uid) || gid.is_some_and(|gid| gid != m.gid))
        })
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        self.change(|edit| edit.metadata().map(|m| m.kind != Kind::Symlink && m.mode != mode))
    }

    fn set_times(&self, _atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.change(|edit| edit.metadata().map(|m| self.traits.kept(m.mtime) != self.traits.kept(mtime)))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.change(|edit| edit.xattrs().map(|all| !all.iter().any(|(n, v)| n == name && v == value)))
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.change(|edit| edit.xattrs().map(|all| all.iter().any(|(n, _)| n == name)))
    }

    /// Only what differs is set.
    fn set_project(&self, _project: Project) -> Result<()> {
        self.change(|_| Ok(true))
    }
}

/// An entry that would be made: takes everything, keeps nothing.
struct DryEntry {
    dir: DryDir,
    name: Vec<u8>,
    kind: Kind,
}

impl Edit for DryEntry {
    fn metadata(&self) -> Result<Metadata> {
        Ok(attributes(self.kind))
    }

    fn xattrs(&self) -> Result<Xattrs> {
        Ok(Xattrs::new())
    }

    fn set_owner(&self, _uid: Option<u32>, _gid: Option<u32>) -> Result<()> {
        Ok(())
    }

    fn set_mode(&self, _mode: u32) -> Result<()> {
        Ok(())
    }

    fn set_times(&self, _atime: Timestamp, _mtime: Timestamp) -> Result<()> {
        Ok(())
    }

    fn set_xattr(&self, _name: &[u8], _value: &[u8]) -> Result<()> {
        Ok(())
    }

    fn remove_xattr(&self, _name: &[u8]) -> Result<()> {
        Ok(())
    }

    fn set_project(&self, _project: Project) -> Result<()> {
        Ok(())
    }
}

impl NewEntry for DryEntry {
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn is_owned_by(&self, _uid: u32, _gid: u32) -> bool {
        true
    }

    /// Counts the data that would be written, by what the source says of itself: nothing is read.
    fn fill_from(&mut self, source: &dyn SourceFile, holes: bool, written: &dyn Fn(u64)) -> Result<u64> {
        let m = source.at_open()?;
        let data = if holes { m.size.min(m.blocks_512.saturating_mul(512)) } else { m.size };
        written(data);
        Ok(data)
    }

    fn seal(&mut self) -> Result<()> {
        Ok(())
    }

    fn publish(self: Box<Self>, replace: bool) -> Result<Made> {
        let there = self.dir.there(&self.name)?.map(|m| m.kind);
        if there.is_some() && !replace {
            return Ok(Made::Existed);
        }
        if let Some(path) = self.dir.noted(&self.name) {
            note(path, if there.is_some() { "would replace" } else { "would copy" }, self.kind, there);
        }
        Ok(Made::New)
    }
}
