//! What only the target has: finding it, and removing it.
//!
//! Invariant: an entry is removed only if a complete listing of its source directory lacked it and, right before
//! the removal, the source says once more that it is absent (`ENOENT`), by a root that is still the job's and not
//! empty. Directories go only when nothing is left in them. Nothing is removed before everything has been counted.
//!
//! [`Extras::find`] compares two directories, [`Extras::walk`] goes through directories that only the target has, both
//! post [`Task::Remove`](crate::model::Task::Remove), and [`Extras::remove`] works on those when the walk is over. A
//! directory of extras is removed by whoever takes the last entry out of it, and so on upwards.

mod find;
mod guard;
mod remove;
mod seen;
mod trash;
mod walk;

pub use find::{Found, Kept, Place};
pub use seen::{SealedNames, SeenNames, is_ours};

use self::guard::SourceGuard;
use self::trash::Trash;
use super::filtered::{self, leaves_out};
use super::{OpenError, Roots, Run};
use crate::broker::Stopped;
use crate::fs::{Dir, FsError};
use crate::model::filter::Matcher;
use crate::model::{DeletePolicy, JobSpec, Kind, MaxDelete, Operation, Phase, RelPath, Totals};

/// Finds and removes what only the target has, on one node.
pub struct Extras {
    roots: Roots,
    policy: DeletePolicy,
    dry_run: bool,
    matcher: Matcher,
    guard: SourceGuard,
    trash: Option<Trash>,
    target_dev: u64,
}

impl Extras {
    /// Prepares for a job; its policy says how.
    ///
    /// # Errors
    /// [`OpenError::Refused`]: an empty source, a trash that cannot be used. Nothing was touched then.
    pub fn new(spec: &JobSpec, roots: &Roots, matcher: Matcher) -> Result<Self, OpenError> {
        let policy = spec.policy.delete.clone().unwrap_or_default();
        filtered::check(&spec.policy.filter, roots.source.as_ref(), &spec.source).map_err(OpenError::Refused)?;
        let guard = SourceGuard::open(roots.source.as_ref(), &spec.source_root, policy.allow_empty_source)?;
        let target = roots.target.open_dir(&RelPath::root())?.metadata()?;
        let trash = policy.trash.as_ref().map(|path| Trash::open(path, spec, guard.id(), &target)).transpose()?;
        let (roots, dry_run, target_dev) = (roots.clone(), spec.policy.dry_run, target.dev);
        Ok(Extras { roots, policy, dry_run, matcher, guard, trash, target_dev })
    }

    /// Asked once, where the job is led, with the exact totals of the walk.
    ///
    /// # Errors
    /// Why nothing at all may be removed.
    pub fn may_finish(&self, totals: &Totals) -> Result<(), String> {
        let (extra, all) = (totals.extra, totals.target_found);
        if extra == 0 {
            return Ok(());
        }
        let limit = match self.policy.max {
            Some(MaxDelete::Entries(n)) if extra > n => n.to_string(),
            Some(MaxDelete::MilliPercent(p)) if u128::from(extra) * 100_000 > u128::from(p) * u128::from(all) => {
                format!("{}%", f64::from(p) / 1000.0)
            }
            _ => return self.guard.check(),
        };
        if self.dry_run {
            return Err(format!(
                "{extra} of {all} entries of the target would be removed, and --max-delete allows {limit}: a real run \
                 would remove nothing"
            ));
        }
        Err(format!(
            "{extra} of {all} entries of the target would be removed, and --max-delete allows {limit}: nothing was \
             removed; look at them with --dry-run, then raise the limit if they are to go"
        ))
    }

    /// Does a filter leave out an entry of the target? Attributes and place are those of the source's entry, if it has one:
    /// it is that one which a copy would take or leave.
    fn protects(
        &self,
        dir: &RelPath,
        source: Option<&dyn Dir>,
        target: &dyn Dir,
        name: &[u8],
        kind: Kind,
    ) -> Result<bool, FsError> {
        if !self.matcher.takes(dir, name, kind) {
            return Ok(true);
        }
        if kind == Kind::Directory || !self.matcher.needs_metadata() {
            return Ok(false);
        }
        let lookup = |e: FsError| FsError { operation: Operation::Lookup, ..e };
        if let Some(source) = source {
            let looked = source.stat(name).and_then(|m| leaves_out(&self.matcher, Some(source), name, &m));
            match looked {
                Err(e) if e.is_absent() => {}
                other => return other.map_err(lookup),
            }
        }
        leaves_out(&self.matcher, None, name, &target.stat(name)?)
    }

    /// Ends the job if the source's root must not be believed.
    fn believe_source(&self, run: &mut Run<'_>) -> Result<(), Stopped> {
        self.guard.check().map_err(|why| {
            run.report.abort.get_or_insert(why);
            Stopped
        })
    }
}

/// Records the failure of an entry that was found, and of which nothing else is counted.
fn fail(path: Vec<u8>, error: FsError, run: &mut Run<'_>) {
    run.fail(super::copy::failure(path, error), Phase::Walk, Totals::default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_may_be_removed_and_not_one_more() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        let options = crate::fs::Options::new(crate::model::JobId::random());
        let path = std::os::unix::ffi::OsStrExt::as_bytes(dir.path().as_os_str());
        let source = crate::fs::open(path, crate::fs::Side::Source, &options).unwrap();
        let with = |max| Extras {
            guard: SourceGuard::open(source.as_ref(), &source.identity().unwrap(), false).unwrap(),
            roots: Roots { source: source.clone(), target: source.clone() },
            policy: DeletePolicy { max, ..DeletePolicy::default() },
            dry_run: false,
            matcher: Matcher::default(),
            trash: None,
            target_dev: 0,
        };
        let asked = |max, extra, target_found| {
            with(Some(max)).may_finish(&Totals { extra, target_found, ..Totals::default() }).is_ok()
        };
        assert!(asked(MaxDelete::Entries(5), 5, 9) && !asked(MaxDelete::Entries(5), 6, u64::MAX));
        assert!(asked(MaxDelete::MilliPercent(12_500), 1, 8) && !asked(MaxDelete::MilliPercent(12_499), 1, 8));
        assert!(asked(MaxDelete::MilliPercent(100_000), u64::MAX, u64::MAX));
        assert!(asked(MaxDelete::MilliPercent(1), 0, 0));
    }
}
