//! Directories' own attributes, once nothing is put into them any more.

use super::attributes::{self, Have, Wanted, apply};
use super::{CopyPass, Trouble, failure};
use crate::broker::Stopped;
use crate::fs::{Dir, FsError};
use crate::model::task::{Names, tag};
use crate::model::{Kind, Operation, RelPath, Report, Totals};
use crate::pass::Run;

impl CopyPass {
    /// Finishes sibling directories. Source attributes are read now: the walk may have been hours ago.
    pub(super) fn finish(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        let pair = match self.open_pair(parent) {
            Ok(pair) => pair,
            Err(trouble) if trouble.is_vanished() => return Ok(()),
            Err(trouble) => return self.fail(parent.as_bytes().to_vec(), trouble, run),
        };
        if names.is_empty() {
            // The root itself: its attributes come last of all, only working files are looked for here.
            if let Err(e) = self.work.sweep(pair.target.as_ref(), true, &mut run.report.totals) {
                return self.fail(parent.as_bytes().to_vec(), Trouble::Target(e), run);
            }
            return Ok(());
        }
        for (bits, name) in names.iter() {
            let done = self.finish_one(
                pair.source.as_ref(),
                pair.target.as_ref(),
                name,
                bits & tag::SWEEP != 0,
                &mut run.report.totals,
            );
            match done {
                Ok(()) => {}
                Err(trouble) if trouble.is_vanished() => {}
                Err(trouble) => self.fail(parent.display_join(name), trouble, run)?,
            }
        }
        Ok(())
    }

    fn finish_one(
        &self,
        source: &dyn Dir,
        target: &dyn Dir,
        name: &[u8],
        sweep: bool,
        totals: &mut Totals,
    ) -> Result<(), Trouble> {
        if sweep && source.stat(name).map_err(Trouble::Source)?.kind == Kind::Directory {
            let dir = target.open_dir(name).map_err(Trouble::Target)?;
            self.work.sweep(dir.as_ref(), true, totals).map_err(Trouble::Target)?;
        }
        match self.finish_child(source, target, name, totals) {
            // It became something else: the next pass sees it.
            Err(trouble) if trouble.error().errno == libc::ENOTDIR => Ok(()),
            other => other.map(drop),
        }
    }

    /// Gives one target directory the attributes of its source. True if any was set.
    ///
    /// # Errors
    /// `ENOTDIR` of the side on which it is something else.
    pub(in crate::pass) fn finish_child(
        &self,
        source: &dyn Dir,
        target: &dyn Dir,
        name: &[u8],
        totals: &mut Totals,
    ) -> Result<bool, Trouble> {
        let other_kind = FsError { operation: Operation::OpenDirectory, errno: libc::ENOTDIR };
        let wanted = source.stat(name).map_err(Trouble::Source)?;
        if wanted.kind != Kind::Directory {
            return Err(Trouble::Source(other_kind));
        }
        let xattrs = self.xattrs_of(source, name).map_err(Trouble::Source)?;
        let (wanted, xattrs) = attributes::wanted(wanted, xattrs, &self.policy);
        let edit = target.edit(name).map_err(Trouble::Target)?;
        let metadata = edit.metadata().map_err(Trouble::Target)?;
        if metadata.kind != Kind::Directory {
            return Err(Trouble::Target(other_kind));
        }
        let have = Have { metadata: &metadata, xattrs: &edit.xattrs().map_err(Trouble::Target)? };
        let want = Wanted { metadata: &wanted, xattrs: &xattrs };
        apply(edit.as_ref(), &want, &have, &self.policy, &self.target, totals)
    }

    /// The root's attributes: after everything else, the clearing up included.
    pub(super) fn finish_root(&self, report: &mut Report) {
        if let Err(trouble) = self.try_finish_root(&mut report.totals) {
            report.totals.failed += 1;
            report.failures.push(failure(Vec::new(), trouble.error()));
        }
    }

    /// As [`finish_child`](Self::finish_child), of the root.
    pub(in crate::pass) fn try_finish_root(&self, totals: &mut Totals) -> Result<bool, Trouble> {
        let pair = self.open_pair(&RelPath::root())?;
        let wanted = pair.source.metadata().map_err(Trouble::Source)?;
        let xattrs = self.own_xattrs(pair.source.as_ref()).map_err(Trouble::Source)?;
        let (wanted, xattrs) = attributes::wanted(wanted, xattrs, &self.policy);
        let edit = pair.target.edit_self().map_err(Trouble::Target)?;
        let metadata = edit.metadata().map_err(Trouble::Target)?;
        let have = Have { metadata: &metadata, xattrs: &edit.xattrs().map_err(Trouble::Target)? };
        let want = Wanted { metadata: &wanted, xattrs: &xattrs };
        apply(edit.as_ref(), &want, &have, &self.policy, &self.target, totals)
    }
}
