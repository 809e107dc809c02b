//! The trash: where entries go instead of being removed, under the path that they had.
//!
//! Invariant: nothing that lies in the trash is replaced; what comes to a name that is taken gets `name.~1~`,
//! `name.~2~` and so on. Its directories have the attributes that the target's had before anything was taken out of
//! them; when several nodes work on one at the same time, its times may be those of that moment instead.

use crate::fs::{Class, Dir, Filesystem, FsError, Made, Options, Side, Traits, posix};
use crate::model::path::MAX_NAME_BYTES;
use crate::model::{JobSpec, Metadata, Operation, Policy, RelPath, Totals, escaped};
use crate::pass::OpenError;
use crate::pass::copy::attributes::{Have, Wanted, apply};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Numbers grow one by one so far, and faster after that: each costs a system call.
const SINGLE_STEPS: u64 = 1000;
/// The highest number that is tried.
const MAX_NUMBER: u64 = 100_000_000;

/// An open trash directory.
pub struct Trash {
    fs: Arc<dyn Filesystem>,
    id: (u64, u64),
    /// Directories that hold it.
    above: Vec<(u64, u64)>,
    /// Directories in it that entries come into just now, by device and inode.
    busy: Mutex<HashMap<(u64, u64), Busy>>,
}

struct Busy {
    users: u32,
    /// Its attributes before anything came into it.
    before: Metadata,
}

/// A directory of the trash while entries come into it.
pub struct Folder {
    /// The directory.
    pub dir: Box<dyn Dir>,
    id: (u64, u64),
}

impl Trash {
    /// Opens it and makes sure that entries of the target can be moved there.
    ///
    /// # Errors
    /// [`OpenError::Refused`] with the way out.
    pub fn open(path: &[u8], spec: &JobSpec, source: (u64, u64), target: &Metadata) -> Result<Self, OpenError> {
        let refuse = |why: &str| OpenError::Refused(format!("trash {}{why}", escaped(path)));
        if !path.starts_with(b"/") {
            return Err(refuse(": give an absolute path"));
        }
        match posix::kind_of(path) {
            Ok(posix::RootKind::Directory) => {}
            Ok(posix::RootKind::Absent) => return Err(refuse(": no such directory; make it first: mkdir -p")),
            Ok(posix::RootKind::Other(kind)) => return Err(refuse(&format!(" is a {}, no directory", kind.noun()))),
            Err(e) => return Err(OpenError::Refused(format!("trash {e}"))),
        }
        // As a source, since then nothing is made and nothing is tried out in it.
        let fs = crate::fs::open(path, Side::Source, &Options::new(spec.id));
        let fs = fs.map_err(|e| OpenError::Refused(format!("trash {e}")))?;
        let own = fs.open_dir(&RelPath::root())?.metadata()?;
        let (id, root) = ((own.dev, own.ino), (target.dev, target.ino));
        if own.dev != target.dev {
            return Err(refuse(
                " is not on the target's filesystem, so nothing can be moved there; choose one that is",
            ));
        }
        if id == root {
            return Err(refuse(" is the target itself; choose a directory in it or beside it"));
        }
        let above = posix::ancestors(path);
        if above.contains(&source) {
            return Err(refuse(
                " lies inside the source, which is only read; choose a directory in the target or beside it",
            ));
        }
        Ok(Trash { fs, id, above, busy: Mutex::default() })
    }

    /// Is this directory the trash?
    pub fn is(&self, dir: &Metadata) -> bool {
        (dir.dev, dir.ino) == self.id
    }

    /// Does this directory hold the trash, at whatever depth?
    pub fn is_below(&self, dir: &Metadata) -> bool {
        !self.is(dir) && self.above.contains(&(dir.dev, dir.ino))
    }

    /// The trash's directory for what is in `path`, made with those above it where they are missing; each gets the
    /// attributes of the target's. [`Trash::leave`] must follow.
    ///
    /// # Errors
    /// The trash's.
    pub fn enter(&self, target: &dyn Filesystem, path: &RelPath) -> Result<Folder, FsError> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.make(target, path, &busy)?;
        let before = dir.metadata()?;
        let id = (before.dev, before.ino);
        busy.entry(id).or_insert(Busy { users: 0, before }).users += 1;
        Ok(Folder { dir, id })
    }

    /// Sets a directory's times back after entries came into it. The trash itself has its own times.
    pub fn leave(&self, folder: &Folder) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(used) = busy.get_mut(&folder.id) else { return };
        if folder.id != self.id {
            restore_times(folder.dir.as_ref(), &used.before);
        }
        used.users -= 1;
        if used.users == 0 {
            busy.remove(&folder.id);
        }
    }

    /// Makes sure that the trash has a directory for what is in `path`.
    ///
    /// # Errors
    /// The trash's.
    pub fn prepare(&self, target: &dyn Filesystem, path: &RelPath) -> Result<(), FsError> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        self.make(target, path, &busy).map(drop)
    }

    fn make(
        &self,
        target: &dyn Filesystem,
        path: &RelPath,
        busy: &HashMap<(u64, u64), Busy>,
    ) -> Result<Box<dyn Dir>, FsError> {
        match self.fs.open_dir(path) {
            Err(e) if matches!(e.class(), Class::Vanished | Class::OtherKind) => {}
            other => return other,
        }
        let mut at = self.fs.open_dir(&RelPath::root())?;
        let mut original = target.open_dir(&RelPath::root()).ok();
        for name in path.as_bytes().split(|b| *b == b'/') {
            original = original.and_then(|dir| dir.open_dir(name).ok());
            let now = at.metadata()?;
            let id = (now.dev, now.ino);
            let child = child(at.as_ref(), name, original.as_deref())?;
            if id != self.id {
                restore_times(at.as_ref(), busy.get(&id).map_or(&now, |used| &used.before));
            }
            at = child;
        }
        Ok(at)
    }
}

/// Moves an entry that is no directory into a directory of the trash.
///
/// # Errors
/// As [`Dir::move_to`].
pub fn take(from: &dyn Dir, name: &[u8], folder: &dyn Dir) -> Result<(), FsError> {
    for free in numbered(name) {
        if from.move_to(name, folder, &free)? == Made::New {
            return Ok(());
        }
    }
    Err(FsError { operation: Operation::Trash, errno: libc::EEXIST })
}

/// Sets a directory's times back. Best effort: who does not own it cannot.
fn restore_times(dir: &dyn Dir, before: &Metadata) {
    if let Err(e) = dir.edit_self().and_then(|edit| edit.set_times(before.atime, before.mtime)) {
        tracing::debug!(error = %e, "times of a directory in the trash are lost");
    }
}

/// A child directory in the trash, made if need be; under a number if something else has the name.
fn child(at: &dyn Dir, name: &[u8], original: Option<&dyn Dir>) -> Result<Box<dyn Dir>, FsError> {
    for free in numbered(name) {
        let made = match at.open_dir(&free) {
            Ok(dir) => return Ok(dir),
            Err(e) if e.class() == Class::OtherKind => continue,
            Err(e) if e.is_absent() => at.make_new_dir(&free)?,
            Err(e) => return Err(e),
        };
        match at.open_dir(&free) {
            Ok(dir) => {
                if let (Made::New, Some(original)) = (made, original)
                    && let Err(e) = dress(dir.as_ref(), original)
                {
                    tracing::debug!(error = %e, "attributes of a directory in the trash are lost");
                }
                return Ok(dir);
            }
            Err(e) if e.class() == Class::OtherKind => {}
            Err(e) => return Err(e),
        }
    }
    Err(FsError { operation: Operation::Trash, errno: libc::EEXIST })
}

/// Gives a new directory of the trash the attributes of the target's. What cannot be kept is not: it is trash.
fn dress(dir: &dyn Dir, original: &dyn Dir) -> Result<(), FsError> {
    let (mut metadata, xattrs) = (original.metadata()?, original.xattrs_self()?);
    if !rustix::process::geteuid().is_root() {
        metadata.mode |= 0o700; // more is to come into it
    }
    let edit = dir.edit_self()?;
    let have = Have { metadata: &edit.metadata()?, xattrs: &edit.xattrs()?, project: None };
    let want = Wanted { metadata: &metadata, xattrs: &xattrs, project: None };
    let mut losses = Totals::default();
    let applied = apply(edit.as_ref(), &want, &have, &Policy::default(), &Traits::default(), &mut losses);
    applied.map(drop).map_err(|trouble| trouble.error())
}

/// The name itself, then with numbers; shortened where the number would not fit.
fn numbered(name: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let numbers = std::iter::successors(Some(1_u64), |n| Some(n + (n / SINGLE_STEPS).max(1)));
    let with_number = move |n: u64| {
        let suffix = format!(".~{n}~").into_bytes();
        let mut end = name.len().min(MAX_NAME_BYTES - suffix.len());
        // Not within a character, if the name is of characters.
        while end < name.len() && end > MAX_NAME_BYTES / 2 && name[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        [&name[..end], &suffix].concat()
    };
    std::iter::once(name.to_vec()).chain(numbers.take_while(|n| *n <= MAX_NUMBER).map(with_number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::check_name;

    #[test]
    fn numbers_follow_the_name_and_always_fit() {
        let first: Vec<_> = numbered(b"f").take(3).collect();
        assert_eq!(first, [b"f".to_vec(), b"f.~1~".to_vec(), b"f.~2~".to_vec()]);
        for name in ["x".repeat(255), "\u{e9}".repeat(127), "\u{1f600}".repeat(63)] {
            for n in numbered(name.as_bytes()).take(1200) {
                assert!(check_name(&n).is_ok() && std::str::from_utf8(&n).is_ok(), "{n:?}");
            }
        }
        assert!(numbered(b"f").count() < 20_000, "there is an end");
    }
}
