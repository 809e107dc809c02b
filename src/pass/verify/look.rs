//! What one tree has under a name, as far as the job compares it.

use super::VerifyPass;
use crate::fs::{Class, Dir, FsError, SourceFile, Xattrs};
use crate::model::fingerprint::Element;
use crate::model::task::Entry;
use crate::model::{Half, Kind, Mark, Metadata, Project, RelPath};
use crate::pass::copy::{is_removable, project_of_kind, reads_xattrs, wanted};

/// One side of an entry.
pub(super) struct Look {
    /// Attributes; the mode narrowed if there is an ACL that is not compared.
    pub metadata: Metadata,
    /// Extended attributes and ACLs that are compared and in the fingerprint.
    pub xattrs: Xattrs,
    /// Labels that systems set by themselves: the target must have the source's, and may have others.
    pub labels: Xattrs,
    /// Target of a symlink.
    pub link: Vec<u8>,
    /// Quota project; none where they are not compared.
    pub project: Option<Project>,
    /// The file, open for its contents.
    pub file: Option<Box<dyn SourceFile>>,
}

impl VerifyPass {
    /// Looks at a child. A file is opened if its contents are to be read.
    pub(super) fn look(&self, dir: &dyn Dir, entry: &Entry<'_>, contents: bool) -> Result<Look, FsError> {
        if contents && entry.kind == Some(Kind::File) {
            match dir.open_file(entry.name) {
                Ok(file) => return self.look_into(file),
                Err(e) if e.class() == Class::OtherKind => {}
                Err(e) => return Err(e),
            }
        }
        let metadata = dir.stat(entry.name)?;
        if contents && metadata.kind == Kind::File {
            return self.look_into(dir.open_file(entry.name)?);
        }
        let xattrs = if reads_xattrs(&self.policy) { dir.xattrs(entry.name)? } else { Xattrs::new() };
        let link = if metadata.kind == Kind::Symlink { dir.read_link(entry.name)? } else { Vec::new() };
        let project = self.project(|| dir.project(entry.name))?;
        Ok(self.seen(metadata, xattrs, project, link, None))
    }

    fn look_into(&self, file: Box<dyn SourceFile>) -> Result<Look, FsError> {
        let xattrs = if reads_xattrs(&self.policy) { file.xattrs()? } else { Xattrs::new() };
        let project = self.project(|| file.project())?;
        Ok(self.seen(file.at_open()?, xattrs, project, Vec::new(), Some(file)))
    }

    /// Looks at a directory itself.
    pub(super) fn look_self(&self, dir: &dyn Dir) -> Result<Look, FsError> {
        let xattrs = if reads_xattrs(&self.policy) { dir.xattrs_self()? } else { Xattrs::new() };
        let project = self.project(|| dir.project(b""))?;
        Ok(self.seen(dir.metadata()?, xattrs, project, Vec::new(), None))
    }

    fn project(&self, ask: impl FnOnce() -> Result<Option<Project>, FsError>) -> Result<Option<Project>, FsError> {
        if self.projects { ask() } else { Ok(None) }
    }

    fn seen(
        &self,
        metadata: Metadata,
        xattrs: Xattrs,
        project: Option<Project>,
        link: Vec<u8>,
        file: Option<Box<dyn SourceFile>>,
    ) -> Look {
        let project = project_of_kind(metadata.kind, project);
        let (metadata, mut xattrs) = wanted(metadata, xattrs, &self.policy);
        let labels = xattrs.extract_if(.., |(name, _)| !is_removable(name, &self.policy)).collect();
        Look { metadata, xattrs, labels, link, project, file }
    }

    /// The element of an entry.
    pub(super) fn element<'a>(&self, dir: &'a RelPath, name: &'a [u8], look: &'a Look) -> Element<'a> {
        let (m, policy) = (&look.metadata, &self.policy);
        let is_device = matches!(m.kind, Kind::BlockDevice | Kind::CharDevice);
        Element {
            dir: dir.as_bytes(),
            name,
            kind: m.kind,
            mode: (policy.mode && m.kind != Kind::Symlink).then_some(m.mode),
            owner: policy.owner.then_some((m.uid, m.gid)),
            size: (m.kind == Kind::File).then_some(m.size),
            mtime: policy.times.then(|| m.mtime.truncated(self.granularity_ns)),
            rdev: is_device.then_some(m.rdev),
            link: (m.kind == Kind::Symlink).then_some(&look.link[..]),
            xattrs: &look.xattrs,
        }
    }

    /// What tells the leader that this name is one of several of an inode, if it is.
    pub(super) fn link_mark(&self, half: Half, m: &Metadata, path: impl FnOnce() -> Vec<u8>) -> Option<Mark> {
        let is_linked = self.policy.hard_links && m.nlink > 1 && m.kind != Kind::Directory;
        is_linked.then(|| Mark::Link { half, dev: m.dev ^ self.devices[half as usize], ino: m.ino, path: path() })
    }
}
