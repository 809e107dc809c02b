//! Directories' own attributes, once nothing is put into them any more.

use super::attributes::{self, Have, Wanted, apply};
use super::walk::count_directory;
use super::{CopyPass, Trouble, failure};
use crate::broker::Stopped;
use crate::fs::{Dir, FsError};
use crate::model::task::{Names, tag};
use crate::model::{Kind, Operation, Phase, RelPath, Report, Task, Totals};
use crate::pass::{Run, names_from};

impl CopyPass {
    /// Finishes sibling directories. Source attributes are read now: the walk may have been hours ago.
    pub(in crate::pass) fn finish(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        let pair = match self.open_pair(parent) {
            Ok(pair) => pair,
            Err(trouble) if trouble.is_vanished() => return Ok(()),
            Err(trouble) if names.is_empty() => {
                return self.fail_in(Phase::Finish, Vec::new(), trouble, Totals::default(), run);
            }
            Err(trouble) => {
                return names.iter().try_for_each(|(bits, name)| {
                    let phase = phase_of(bits);
                    self.fail_in(phase, parent.display_join(name), trouble, Totals::default(), run)
                });
            }
        };
        if names.is_empty() {
            // The root itself: its attributes come last of all, only working files are looked for here.
            if let Err(e) = self.work.sweep(pair.target.as_ref(), true, &mut run.report.totals) {
                let path = parent.as_bytes().to_vec();
                return self.fail_in(Phase::Finish, path, Trouble::Target(e), Totals::default(), run);
            }
            return Ok(());
        }
        for (i, (bits, name)) in names.iter().enumerate() {
            if i > 0 && run.turn.is_over() {
                return run.ticket.post(Task::Finish { parent: parent.clone(), names: names_from(names, i) });
            }
            let before = run.begin();
            let done = self.finish_one(
                pair.source.as_ref(),
                pair.target.as_ref(),
                name,
                bits & tag::SWEEP != 0,
                &mut run.report.totals,
            );
            match done {
                Ok(changed) if bits & tag::UNCOUNTED != 0 => count_directory(false, changed, run),
                Ok(_) => {}
                Err(trouble) if trouble.is_vanished() => {
                    run.report.totals.vanished += u64::from(bits & tag::UNCOUNTED != 0);
                }
                Err(trouble) => {
                    let counted = run.since(&before);
                    self.fail_in(phase_of(bits), parent.display_join(name), trouble, counted, run)?;
                }
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
    ) -> Result<bool, Trouble> {
        if sweep && source.stat(name).map_err(Trouble::Source)?.kind == Kind::Directory {
            let dir = target.open_dir(name).map_err(Trouble::Target)?;
            self.work.sweep(dir.as_ref(), true, totals).map_err(Trouble::Target)?;
        }
        match self.finish_child(source, target, name, totals) {
            // It became something else: the next pass sees it.
            Err(trouble) if trouble.error().errno == libc::ENOTDIR => Ok(false),
            other => other,
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
        let laid_out = self.carry_default_layout(source, target, name, totals);
        let edit = target.edit(name).map_err(Trouble::Target)?;
        let metadata = edit.metadata().map_err(Trouble::Target)?;
        if metadata.kind != Kind::Directory {
            return Err(Trouble::Target(other_kind));
        }
        let (want, have) = self.projects_of((source, name), (target, name), Kind::Directory)?;
        let have = Have { metadata: &metadata, xattrs: &edit.xattrs().map_err(Trouble::Target)?, project: have };
        let want = Wanted { metadata: &wanted, xattrs: &xattrs, project: want };
        Ok(apply(edit.as_ref(), &want, &have, &self.policy, &self.target, totals)? || laid_out)
    }

    /// The root's attributes: after everything else, the clearing up included.
    pub(in crate::pass) fn finish_root(&self, report: &mut Report) {
        let mut totals = Totals::default();
        let finished = self.try_finish_root(&mut totals);
        report.totals.add(&totals);
        if let Err(trouble) = finished {
            report.fail(failure(Vec::new(), trouble.error()), Phase::Finish, totals);
        }
    }

    /// As [`finish_child`](Self::finish_child), of the root. Its default layout is whoever prepared it's business.
    pub(in crate::pass) fn try_finish_root(&self, totals: &mut Totals) -> Result<bool, Trouble> {
        let pair = self.open_pair(&RelPath::root())?;
        let wanted = pair.source.metadata().map_err(Trouble::Source)?;
        let xattrs = self.own_xattrs(pair.source.as_ref()).map_err(Trouble::Source)?;
        let (wanted, xattrs) = attributes::wanted(wanted, xattrs, &self.policy);
        let edit = pair.target.edit_self().map_err(Trouble::Target)?;
        let metadata = edit.metadata().map_err(Trouble::Target)?;
        let (source, target) = (pair.source.as_ref(), pair.target.as_ref());
        let (want, have) = self.projects_of((source, b""), (target, b""), Kind::Directory)?;
        let have = Have { metadata: &metadata, xattrs: &edit.xattrs().map_err(Trouble::Target)?, project: have };
        let want = Wanted { metadata: &wanted, xattrs: &xattrs, project: want };
        apply(edit.as_ref(), &want, &have, &self.policy, &self.target, totals)
    }
}

/// Has a directory been counted by the walk, before it is finished?
fn phase_of(bits: u8) -> Phase {
    if bits & tag::UNCOUNTED != 0 { Phase::Dress } else { Phase::Finish }
}
