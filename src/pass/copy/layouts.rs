//! How files and directories of a target with several servers are laid out.
//!
//! Invariant: a file has its layout before its first byte. What cannot be done about a layout is a loss that is counted
//! once, with the file or directory, and never a reason not to copy it. The target's root keeps its own default layout.

use super::entry::Job;
use super::{CopyPass, Pair, Trouble};
use crate::fs::{Dir, FsError, New, PartFile};
use crate::model::lustre::Layouts;
use crate::model::outcome::LOST_POOL;
use crate::model::policy::CHUNK_ALIGN_BYTES;
use crate::model::{Finding, JobSpec, Kind, Layout, Metadata, RelPath, Report, Totals, escaped};
use crate::pass::{OpenError, Roots};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Chunks are not made longer than this only to end with a stripe, in bytes.
const MAX_ALIGN_BYTES: u64 = 1 << 30;
/// Names of pools that are told; a filesystem has few, and what it says of itself is not trusted.
const MAX_TOLD_POOLS: usize = 100;

/// Decides on layouts in one target.
pub(super) struct LayOut {
    layouts: Layouts,
    /// Existing files get the layout that is wanted, too.
    relayout: bool,
    mirrors: bool,
    /// Default layout of the target's root: directories have it by inheritance.
    root: Option<Layout>,
    /// Pools that were told to be missing.
    told: Mutex<BTreeSet<String>>,
}

impl LayOut {
    /// None for a target that has no layouts, or a pass that makes no files.
    ///
    /// # Errors
    /// [`OpenError::Refused`], if the policy cannot be understood.
    pub fn open(spec: &JobSpec, roots: &Roots, target: &dyn Dir) -> Result<Option<Self>, OpenError> {
        if !matches!(spec.pass.as_str(), "copy" | "sync") {
            return Ok(None);
        }
        let Some(servers) = roots.target.servers() else { return Ok(None) };
        let policy = &spec.policy.lustre;
        let layouts = Layouts::new(policy, servers.pools).map_err(OpenError::Refused)?;
        let layouts = layouts.with_osts(servers.osts.len());
        let root = target.placing().and_then(|root| root.default_layout().unwrap_or(None));
        let (relayout, mirrors, told) = (policy.relayout, policy.mirrors, Mutex::default());
        Ok(Some(LayOut { layouts, relayout, mirrors, root, told }))
    }

    /// The first file here that lost a pool tells its name.
    fn is_news(&self, pool: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MAX_TOLD_POOLS && told.insert(pool.to_owned())
    }

    /// The default layout that a directory of the target should get, and whether it lost a pool; none if it is right.
    #[allow(clippy::type_complexity)]
    fn default_change(&self, source: &dyn Dir, target: &dyn Dir) -> Result<Option<(Option<Layout>, bool)>, FsError> {
        let (Some(theirs), Some(ours)) = (source.placing(), target.placing()) else { return Ok(None) };
        let theirs = theirs.default_layout()?;
        let (want, dropped) = self.layouts.of_directory(theirs.as_ref());
        if theirs.is_some() && want.is_none() {
            return Ok(None); // nothing of it can be carried
        }
        let have = ours.default_layout()?.map(|have| have.carried(self.mirrors));
        // One that has the root's got it when it was made: who prepared the root wanted it so.
        let is_inherited = || have == self.root.as_ref().map(|root| root.carried(self.mirrors));
        let is_right = have == want || want.is_none() && is_inherited();
        Ok((!is_right).then_some((want, !dropped.is_empty())))
    }
}

/// How a new file is to be laid out.
#[derive(Debug, Default)]
pub(super) struct Plan {
    layout: Option<Layout>,
    /// The source's could not be understood.
    lost: bool,
    /// Pools that it should be in and that the target has not.
    dropped: Vec<String>,
}

impl Plan {
    /// The layout to ask for; none if the target decides.
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// What is to be made.
    pub fn new_file(&self) -> New<'_> {
        self.layout.as_ref().map_or(New::File, New::LaidOut)
    }
}

impl CopyPass {
    /// How a file of this size is to be laid out. Its layout in the source is asked for only where that matters.
    pub(super) fn plan(
        &self,
        pair: &Pair,
        name: &[u8],
        size: u64,
        source: impl FnOnce() -> Result<Option<Layout>, FsError>,
    ) -> Plan {
        let Some(lay_out) = &self.lay_out else { return Plan::default() };
        let theirs = if lay_out.layouts.needs_source() { source() } else { Ok(None) };
        if let Err(e) = &theirs {
            tracing::debug!(error = %e, "a layout cannot be read");
        }
        let lost = theirs.is_err();
        let path = pair.path.display_join(name);
        let (layout, dropped) = lay_out.layouts.of_file(&path, size, theirs.unwrap_or(None).as_ref());
        // One that is given to it all the same makes up for the source's.
        Plan { lost: lost && layout.is_none(), layout, dropped }
    }

    /// Counts what a file lost that was made as planned, and has the layout or not.
    pub(super) fn count_layout(&self, plan: &Plan, has_layout: bool, at: (&RelPath, &[u8]), report: &mut Report) {
        report.totals.lost_layouts += u64::from(plan.lost || plan.layout.is_some() && !has_layout);
        report.totals.lost_pools += u64::from(!plan.dropped.is_empty());
        let is_news = |pool: &&String| self.lay_out.as_ref().is_some_and(|lay_out| lay_out.is_news(pool));
        for pool in plan.dropped.iter().filter(is_news) {
            let (what, expected, found) = (LOST_POOL.into(), escaped(pool.as_bytes()), "none".into());
            report.findings.push(Finding { path: at.0.display_join(at.1), what, expected, found });
        }
    }

    /// As [`plan`](Self::plan), of a file that is not open.
    fn plan_closed(&self, pair: &Pair, name: &[u8], size: u64) -> Plan {
        self.plan(pair, name, size, || pair.source.placing().map_or(Ok(None), |dir| dir.layout(name)))
    }

    /// As [`plan`](Self::plan), of a large file.
    pub(super) fn plan_large(&self, pair: &Pair, path: &RelPath, source: &Metadata) -> Plan {
        self.plan_closed(pair, path.split_last().1.unwrap_or_default(), source.size)
    }

    /// Is a file of the target laid out as planned? Where that cannot be told it is.
    pub(super) fn is_as_planned(&self, plan: &Plan, target: &dyn Dir, name: &[u8]) -> bool {
        let Some(wanted) = &plan.layout else { return true };
        let Some(have) = target.placing().map(|dir| dir.layout(name)) else { return true };
        have.map_or(true, |have| have.is_some_and(|have| have.is_as(wanted)))
    }

    /// Has an existing file the layout that it should have? Nobody looks unless that was asked for.
    pub(super) fn is_laid_out(&self, job: &Job<'_, '_, '_>, source: &Metadata) -> Result<bool, Trouble> {
        if source.kind != Kind::File || !self.lay_out.as_ref().is_some_and(|lay_out| lay_out.relayout) {
            return Ok(true);
        }
        let plan = self.plan_closed(job.pair, job.names.source, source.size);
        Ok(self.is_as_planned(&plan, job.pair.target.as_ref(), job.names.target))
    }

    /// Counts what a large file lost that was just published: who made its part file may be long gone.
    pub(super) fn count_large_layout(&self, pair: &Pair, name: &[u8], source: &Metadata, report: &mut Report) {
        if self.lay_out.is_some() {
            let plan = self.plan_closed(pair, name, source.size);
            let has_layout = self.is_as_planned(&plan, pair.target.as_ref(), name);
            self.count_layout(&plan, has_layout, (&pair.path, name), report);
        }
    }

    /// Has a directory of the target another default layout than it should have?
    pub(super) fn default_layout_differs(&self, pair: &Pair) -> bool {
        let Some(lay_out) = self.lay_out.as_ref().filter(|l| l.layouts.carries_directories()) else { return false };
        // What cannot be read is counted when it is to be set.
        !pair.path.is_root()
            && lay_out.default_change(pair.source.as_ref(), pair.target.as_ref()).is_ok_and(|change| change.is_some())
    }

    /// Gives a directory of the target the default layout that it should have. True if it was set.
    pub(super) fn carry_default_layout(
        &self,
        source: &dyn Dir,
        target: &dyn Dir,
        name: &[u8],
        totals: &mut Totals,
    ) -> bool {
        let Some(lay_out) = self.lay_out.as_ref().filter(|l| l.layouts.carries_directories()) else { return false };
        if source.placing().is_none() || target.placing().is_none() {
            return false;
        }
        let set = || {
            let (source, target) = (source.open_dir(name)?, target.open_dir(name)?);
            let Some((layout, lost_pool)) = lay_out.default_change(source.as_ref(), target.as_ref())? else {
                return Ok(None);
            };
            target.placing().map_or(Ok(()), |dir| dir.set_default_layout(layout.as_ref()))?;
            Ok(Some(lost_pool))
        };
        match set() {
            Ok(lost_pool) => {
                totals.lost_pools += u64::from(lost_pool == Some(true));
                lost_pool.is_some()
            }
            Err(e) => {
                let e: FsError = e;
                tracing::debug!(error = %e, "a default layout cannot be kept");
                // Of what is gone, or is no directory any more, whoever looks at it next says so.
                let is_there = !matches!(e.class(), crate::fs::Class::Vanished | crate::fs::Class::OtherKind);
                totals.lost_layouts += u64::from(is_there);
                false
            }
        }
    }
}

/// Stripe size of a part file that was just made, in bytes.
pub(super) fn stripe_bytes(plan: &Plan, part: &dyn PartFile, dir: &dyn Dir, name: &[u8]) -> u64 {
    // What the plan leaves open the target has decided.
    let made = dir.placing().and_then(|dir| dir.layout(name).unwrap_or(None));
    let planned = plan.layout.as_ref().filter(|_| part.has_layout());
    made.as_ref().or(planned).map_or(1, Layout::stripe_bytes)
}

/// The next length of chunks whose borders are borders of stripes, too; unless that would be too long.
pub(super) fn aligned(chunk_bytes: u64, stripe_bytes: u64) -> u64 {
    let (mut common, mut rest) = (stripe_bytes.max(1), CHUNK_ALIGN_BYTES);
    while rest > 0 {
        (common, rest) = (rest, common % rest);
    }
    match (stripe_bytes.max(1) / common).checked_mul(CHUNK_ALIGN_BYTES) {
        Some(align) if align <= MAX_ALIGN_BYTES => chunk_bytes.next_multiple_of(align),
        _ => chunk_bytes,
    }
}

#[cfg(test)]
mod tests;
