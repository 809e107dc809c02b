//! A large file whose chunks are all there: attributes, checked close, a last look at the source, its name.

use super::super::attributes::{Have, Wanted, apply_part, reads_xattrs, wanted};
use super::super::entry::{End, Outcome, marked};
use super::super::{CopyPass, Trouble};
use super::chunk::{Flow, no_lock};
use super::{Chunked, LOCK_PATIENCE};
use crate::fs::{PartFile, SourceFile, Xattrs};
use crate::model::{Kind, Metadata, Project};
use crate::pass::Run;

impl CopyPass {
    /// Finalises a file under the lock on all of it, which waits for every writer and keeps late ones out.
    pub(super) fn finalise(
        &self,
        at: &Chunked<'_>,
        source: &dyn SourceFile,
        file: &dyn PartFile,
        run: &mut Run<'_>,
    ) -> Result<Flow, End> {
        let _lock = match file.lock(0, 0, LOCK_PATIENCE) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Ok(Flow::Lost),
            Err(e) => no_lock(e),
        };
        if !self.is_current(at)? {
            return Ok(Flow::Over);
        }
        if (at.record.marked(at.claim.number).map_err(Trouble::Target)?.len() as u64) < at.chunks() {
            return Ok(Flow::On);
        }
        let before = source.metadata().map_err(Trouble::Source)?;
        if at.is_steady() && !at.part.is_of(&before) {
            return Ok(Flow::Changed);
        }
        match self.dress_and_publish(at, source, file, &before, run) {
            Ok(Flow::On) => {}
            other => {
                // As a part file has to be, for the next one who tries; unless it got its name before that went wrong.
                if at.pair.target.stat(&at.claim.part).is_ok_and(|m| m.ino == at.claim.ino) {
                    let _ = file.set_owner(Some(rustix::process::geteuid().as_raw()), None);
                    let _ = file.set_mode(0o600);
                }
                return other;
            }
        }
        self.settle(at, &before, run)?;
        Ok(Flow::On)
    }

    fn dress_and_publish(
        &self,
        at: &Chunked<'_>,
        source: &dyn SourceFile,
        file: &dyn PartFile,
        before: &Metadata,
        run: &mut Run<'_>,
    ) -> Result<Flow, End> {
        let project = self.new_project(at.pair, Kind::File, || source.project())?;
        let for_name = self.project_for_name(at.pair, &project)?;
        self.dress(at, source, file, before, for_name, run)?;
        let seen = project.seen(file)?;
        if self.policy.fsync {
            // All of it, whoever wrote it on this node; other nodes synced what they marked.
            file.sync().map_err(Trouble::Target)?;
        }
        file.seal().map_err(Trouble::Target)?;
        if at.is_steady() && !before.same_moment(&source.metadata().map_err(Trouble::Source)?) {
            return Ok(Flow::Changed);
        }
        file.publish(at.name).map_err(Trouble::Target)?;
        project.set_late(at.pair.target.as_ref(), at.name, seen, &mut run.report.totals)?;
        Ok(Flow::On)
    }

    fn dress(
        &self,
        at: &Chunked<'_>,
        source: &dyn SourceFile,
        file: &dyn PartFile,
        before: &Metadata,
        project: Option<Project>,
        run: &mut Run<'_>,
    ) -> Result<(), Trouble> {
        let metadata = if at.is_steady() { *before } else { marked(*before) };
        let xattrs = if reads_xattrs(&self.policy) { source.xattrs().map_err(Trouble::Source)? } else { Xattrs::new() };
        let (metadata, xattrs) = wanted(metadata, xattrs, &self.policy);
        let want = Wanted { metadata: &metadata, xattrs: &xattrs, project };
        let have = file.metadata().map_err(Trouble::Target)?;
        let project = match project {
            Some(_) => self.project_of(at.pair.target.as_ref(), &at.claim.part, Kind::File).map_err(Trouble::Target)?,
            None => None,
        };
        let have = Have { metadata: &have, xattrs: &Xattrs::new(), project };
        let totals = &mut run.report.totals;
        apply_part(file, &have, &want, &self.policy, &self.target, totals)
    }

    /// After a file was published: its other names find it, whoever takes the claim back counts it, and the record goes.
    pub(super) fn settle(&self, at: &Chunked<'_>, source: &Metadata, run: &mut Run<'_>) -> Result<(), End> {
        let is_linked = source.nlink > 1 && self.policy.hard_links;
        let met = !is_linked || self.meet_at(at.pair, at.name, source, run);
        if !met {
            self.post_again(&at.claim.path, run)?;
        }
        if at.record.drop_claim().map_err(Trouble::Target)? && met {
            let outcome = if at.is_steady() { Outcome::Copied } else { Outcome::ChangedWhileCopying };
            outcome.count(&mut run.report.totals);
            self.count_large_layout(at.pair, at.name, source, &mut run.report);
            run.report.totals.count_kind(source, self.submitted);
        }
        self.release(at.part.key, at.record, at.claim.number, run)
    }
}
