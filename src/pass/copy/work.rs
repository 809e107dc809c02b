//! The hidden directory at the target's root, and what killed jobs left behind.
//!
//! `.treehaul/<job>/` holds the rendezvous of hard links. A process that works on a job holds a shared lock
//! on its folder, so a folder that can be locked exclusively belongs to a dead job.

use crate::fs::aside::{WORK_DIR, job_of};
use crate::fs::{Dir, FsError};
use crate::model::{JobId, Operation, Totals};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Another job can take the folder away between its making and its locking so often.
const MAX_HOLDS: u32 = 5;

/// The working area of a job in a target.
pub struct Work {
    job: JobId,
    root: Box<dyn Dir>,
    /// Other jobs that were found dead. Whoever is not among them is looked at anew.
    dead: Mutex<HashSet<JobId>>,
    own: Mutex<Option<Own>>,
    announced: AtomicBool,
}

struct Own {
    dir: Arc<dyn Dir>,
    _lock: Option<Box<dyn Send + Sync>>,
}

impl Work {
    /// The leader removes the folders of dead jobs.
    pub fn open(job: JobId, root: Box<dyn Dir>, leads: bool) -> Result<Self, FsError> {
        let work = Work { job, root, dead: Mutex::default(), own: Mutex::new(None), announced: AtomicBool::new(false) };
        if leads {
            work.remove_dead()?;
        }
        Ok(work)
    }

    /// The job's folder, made when it is first needed.
    pub fn folder(&self) -> Result<Arc<dyn Dir>, FsError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = &*own {
            return Ok(Arc::clone(&own.dir));
        }
        let before = self.root.metadata()?;
        self.root.make_dir(WORK_DIR)?;
        // The root must not look changed to the walk only because the hidden directory was made in it.
        // Who does not own the root cannot; then its times are set, or counted as lost, at the end.
        let _ = self.root.edit_self().and_then(|root| root.set_times(before.atime, before.mtime));
        let held = self.hold(true)?;
        let dir = Arc::clone(&held.dir);
        *own = Some(held);
        Ok(dir)
    }

    /// Has this process no use for the job's folder so far?
    pub fn is_unused(&self) -> bool {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Takes hold of the folder that the leader made.
    ///
    /// # Errors
    /// `ENOENT`, if this is not the target that the leader saw.
    pub fn join(&self) -> Result<(), FsError> {
        let held = self.hold(false)?;
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Ok(())
    }

    /// Tells other jobs on this target that this one is alive, before it makes a working file. Best effort: who may
    /// not write into the root may still write below it.
    pub fn announce(&self) {
        if !self.announced.swap(true, Ordering::Relaxed)
            && let Err(e) = self.folder()
        {
            tracing::debug!(error = %e, "the job's folder cannot be made");
        }
    }

    /// Opens and locks the job's folder. Nobody else may have prepared it: what lies there is trusted.
    fn hold(&self, make: bool) -> Result<Own, FsError> {
        let name = self.job.to_string().into_bytes();
        let area = self.root.open_dir(WORK_DIR)?;
        for _ in 0..MAX_HOLDS {
            if make {
                area.make_dir(&name)?;
            }
            let dir: Arc<dyn Dir> = Arc::from(area.open_dir(&name)?);
            let (above, own) = (area.metadata()?, dir.metadata()?);
            if above.uid != own.uid || (above.mode | own.mode) & 0o077 != 0 {
                return Err(FsError { operation: Operation::OpenDirectory, errno: libc::EPERM });
            }
            // A filesystem without locks only loses the protection between two jobs on one target.
            let lock = dir.lock(false).unwrap_or(None);
            // Another job may have taken it for dead before it was locked.
            if area.stat(&name).is_ok_and(|m| (m.dev, m.ino) == (own.dev, own.ino)) || !make {
                return Ok(Own { dir, _lock: lock });
            }
        }
        Err(FsError { operation: Operation::Lock, errno: libc::EBUSY })
    }

    /// Removes the job's folder, and the area if nobody else needs it.
    pub fn remove(&self) -> Result<(), FsError> {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let area = match self.root.open_dir(WORK_DIR) {
            Ok(area) => area,
            Err(e) if e.is_absent() => return Ok(()),
            Err(e) => return Err(e),
        };
        absent_is_fine(area.remove(self.job.to_string().as_bytes()))?;
        self.remove_dead()?;
        match self.root.remove_empty_dir(WORK_DIR) {
            Err(e) if !e.is_absent() => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes the folders of jobs that nobody works on any more.
    fn remove_dead(&self) -> Result<(), FsError> {
        let area = match self.root.open_dir(WORK_DIR) {
            Ok(area) => area,
            Err(e) if e.is_absent() => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        area.list(&mut |e| found.extend(JobId::parse(e.name).filter(|id| *id != self.job)))?;
        for job in found.into_iter().filter(|job| self.is_dead(*job)) {
            absent_is_fine(area.remove(job.to_string().as_bytes()))?;
        }
        Ok(())
    }

    /// Is nobody at work on another job? Its folder is gone, or not locked. Where that cannot be told it is not
    /// taken for dead.
    fn is_dead(&self, job: JobId) -> bool {
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        if dead.contains(&job) {
            return true;
        }
        let folder = self.root.open_dir(WORK_DIR).and_then(|area| area.open_dir(job.to_string().as_bytes()));
        let is_dead = match folder {
            Ok(folder) => matches!(folder.lock(true), Ok(Some(_))),
            Err(e) => e.is_absent(),
        };
        if is_dead {
            dead.insert(job);
        }
        is_dead
    }

    /// Removes working files in `dir` of jobs that are dead; with `own` also this job's, which is right only
    /// when nobody works in the directory any more. Returns how many other entries there are.
    pub fn sweep(&self, dir: &dyn Dir, own: bool, totals: &mut Totals) -> Result<u64, FsError> {
        self.sweep_with(dir, own, totals, &mut |_| {})
    }

    /// As [`sweep`](Work::sweep); `each` hears of every name.
    pub fn sweep_with(
        &self,
        dir: &dyn Dir,
        own: bool,
        totals: &mut Totals,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, FsError> {
        let mut leftovers = Vec::new();
        let mut others = 0;
        dir.list(&mut |e| {
            each(e.name);
            others += 1;
            if let Some(job) = job_of(e.name)
                && if job == self.job { own } else { self.is_dead(job) }
            {
                leftovers.push(e.name.to_vec());
            }
        })?;
        for name in leftovers {
            absent_is_fine(dir.remove(&name))?;
            totals.leftovers_removed += 1;
            others -= 1;
        }
        Ok(others)
    }
}

fn absent_is_fine(done: Result<(), FsError>) -> Result<(), FsError> {
    match done {
        Err(e) if e.is_absent() => Ok(()),
        other => other,
    }
}
