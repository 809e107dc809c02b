//! The hidden directory at the target's root, and what killed jobs left behind.
//!
//! `.treehaul/<job>/` holds the rendezvous of hard links. A process that works on a job holds a shared lock
//! on its folder, so a folder that can be locked exclusively belongs to a dead job.

use crate::fs::aside::{WORK_DIR, job_of};
use crate::fs::{Dir, FsError};
use crate::model::{JobId, Totals};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The working area of a job in a target.
pub struct Work {
    job: JobId,
    root: Box<dyn Dir>,
    /// Other jobs that are at work in the same target: their files are left alone.
    alive: HashSet<JobId>,
    own: Mutex<Option<Own>>,
}

struct Own {
    dir: Arc<dyn Dir>,
    _lock: Option<Box<dyn Send + Sync>>,
}

impl Own {
    fn hold(area: &dyn Dir, job: JobId) -> Result<Self, FsError> {
        let dir: Arc<dyn Dir> = Arc::from(area.open_dir(job.to_string().as_bytes())?);
        // A filesystem without locks only loses the protection between two jobs on one target.
        let lock = dir.lock(false).unwrap_or(None);
        Ok(Own { dir, _lock: lock })
    }
}

impl Work {
    /// Looks who else is at work. The leader removes what dead jobs left.
    pub fn open(job: JobId, root: Box<dyn Dir>, leads: bool) -> Result<Self, FsError> {
        let alive = match root.open_dir(WORK_DIR) {
            Ok(area) => others(area.as_ref(), job, leads)?,
            Err(_) => HashSet::new(),
        };
        Ok(Work { job, root, alive, own: Mutex::new(None) })
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
        self.root.edit_self()?.set_times(before.atime, before.mtime)?;
        let area = self.root.open_dir(WORK_DIR)?;
        area.make_dir(self.job.to_string().as_bytes())?;
        let held = Own::hold(area.as_ref(), self.job)?;
        let dir = Arc::clone(&held.dir);
        *own = Some(held);
        Ok(dir)
    }

    /// Takes hold of the folder that the leader made.
    ///
    /// # Errors
    /// `ENOENT`, if this is not the target that the leader saw.
    pub fn join(&self) -> Result<(), FsError> {
        let area = self.root.open_dir(WORK_DIR)?;
        let held = Own::hold(area.as_ref(), self.job)?;
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Ok(())
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
        match self.root.remove_empty_dir(WORK_DIR) {
            Err(e) if !e.is_absent() => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes working files in `dir` of jobs that are dead; with `own` also this job's, which is right only
    /// when nobody works in the directory any more. Returns how many other entries there are.
    pub fn sweep(&self, dir: &dyn Dir, own: bool, totals: &mut Totals) -> Result<u64, FsError> {
        let mut leftovers = Vec::new();
        let mut others = 0;
        dir.list(&mut |e| {
            others += 1;
            if let Some(job) = job_of(e.name)
                && if job == self.job { own } else { !self.alive.contains(&job) }
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

/// Other jobs whose folders are locked. Folders of dead jobs are removed if asked.
fn others(area: &dyn Dir, job: JobId, remove: bool) -> Result<HashSet<JobId>, FsError> {
    let mut found = Vec::new();
    area.list(&mut |e| found.extend(JobId::parse(e.name).filter(|id| *id != job)))?;
    let mut alive = HashSet::new();
    for id in found {
        let name = id.to_string().into_bytes();
        let Ok(folder) = area.open_dir(&name) else { continue };
        match folder.lock(true) {
            Ok(Some(_lock)) if remove => absent_is_fine(area.remove(&name))?,
            Ok(Some(_)) => {}
            // Locked by a living process, or no way to know: leave it alone.
            Ok(None) | Err(_) => {
                alive.insert(id);
            }
        }
    }
    Ok(alive)
}
