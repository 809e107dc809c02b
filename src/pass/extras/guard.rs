//! The source's root is still the one that the job began with, and something is in it.
//!
//! Invariant: a source that was unmounted, removed or emptied is told from one that lacks an entry: nothing is removed
//! on the word of such a source.

use crate::fs::{Dir, Filesystem, FsError};
use crate::model::{RelPath, RootIdentity};
use crate::pass::OpenError;
use std::sync::{Mutex, PoisonError};

/// Watches over the source's root.
pub struct SourceGuard {
    root: Box<dyn Dir>,
    id: (u64, u64),
    /// Some filesystems say 0 from the beginning.
    counts_names: bool,
    may_be_empty: bool,
    /// A name that was in the root when it was last looked for.
    witness: Mutex<Vec<u8>>,
}

impl SourceGuard {
    /// Takes hold of the root, which must be the `submitted` one. What is held stays the same filesystem, so that its
    /// device and inode are enough to look at later.
    ///
    /// # Errors
    /// [`OpenError::Refused`] if it is another, or if the source is empty and that was not allowed.
    pub fn open(source: &dyn Filesystem, submitted: &RootIdentity, may_be_empty: bool) -> Result<Self, OpenError> {
        if let Some(why) = source.identity()?.differs(submitted) {
            return Err(OpenError::Refused(format!("the source {why}")));
        }
        let root = source.open_dir(&RelPath::root())?;
        let m = root.metadata()?;
        let (id, counts_names) = ((m.dev, m.ino), m.nlink > 0);
        let witness = any_entry(root.as_ref())?;
        if witness.is_none() && !may_be_empty {
            return Err(OpenError::Refused(
                "the source is empty, so everything in the target would be removed; check that it is mounted, or say \
                 --allow-empty-source if that is what you want"
                    .into(),
            ));
        }
        let witness = Mutex::new(witness.unwrap_or_default());
        Ok(SourceGuard { root, id, counts_names, may_be_empty, witness })
    }

    /// Device and inode of the source's root.
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Asked after an entry was seen to be absent, and before anything is removed for that.
    ///
    /// # Errors
    /// Why the source must not be believed.
    pub fn check(&self) -> Result<(), String> {
        let cannot = |e: FsError| format!("the source's root cannot be looked at any more ({e}): nothing is removed");
        let m = self.root.metadata().map_err(cannot)?;
        if (m.dev, m.ino) != self.id || (self.counts_names && m.nlink == 0) {
            return Err("the source's root was replaced or removed while the job ran: nothing is removed".into());
        }
        if self.may_be_empty {
            return Ok(());
        }
        let mut witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner);
        match self.root.stat(&witness) {
            Ok(_) => return Ok(()),
            Err(e) if e.is_absent() => {}
            Err(e) => return Err(cannot(e)),
        }
        match any_entry(self.root.as_ref()).map_err(cannot)? {
            Some(name) => *witness = name,
            None => return Err("the source became empty while the job ran: nothing is removed".into()),
        }
        Ok(())
    }
}

fn any_entry(root: &dyn Dir) -> Result<Option<Vec<u8>>, FsError> {
    root.any_name(&|name| !super::is_ours(&RelPath::root(), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{self, Options, Side};
    use crate::model::JobId;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    fn guard(at: &Path, may_be_empty: bool) -> Result<SourceGuard, OpenError> {
        let options = Options::new(JobId::random());
        let source = fs::open(at.as_os_str().as_bytes(), Side::Source, &options).unwrap();
        let submitted = source.identity().unwrap();
        SourceGuard::open(source.as_ref(), &submitted, may_be_empty)
    }

    #[test]
    fn a_source_that_is_not_the_submitted_one_is_not_even_begun_with() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        let path = dir.path().as_os_str().as_bytes();
        let source = fs::open(path, Side::Source, &Options::new(JobId::random())).unwrap();
        let mut submitted = source.identity().unwrap();
        submitted.ino += 1;
        let refused = SourceGuard::open(source.as_ref(), &submitted, false).err();
        assert!(matches!(refused, Some(OpenError::Refused(why)) if why.contains("is another directory here")));
    }

    #[test]
    fn a_source_that_becomes_empty_is_not_believed_and_one_that_changes_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        let guard = guard(dir.path(), false).unwrap();
        std::fs::write(dir.path().join("b"), "").unwrap();
        std::fs::remove_file(dir.path().join("a")).unwrap();
        assert_eq!(guard.check(), Ok(()), "another entry is there");
        std::fs::create_dir(dir.path().join(".treehaul")).unwrap();
        std::fs::remove_file(dir.path().join("b")).unwrap();
        assert!(guard.check().is_err_and(|why| why.contains("became empty")), "a working area is no entry");
    }

    #[test]
    fn a_source_that_is_removed_is_not_believed_even_if_it_may_be_empty() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        assert!(matches!(guard(&source, false), Err(OpenError::Refused(_))));
        let guard = guard(&source, true).unwrap();
        assert_eq!(guard.check(), Ok(()));
        std::fs::remove_dir(&source).unwrap();
        std::fs::create_dir(&source).unwrap();
        assert!(guard.check().is_err_and(|why| why.contains("replaced or removed")));
    }
}
