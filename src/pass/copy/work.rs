//! The hidden directory at the target's root, and what killed jobs left behind.
//!
//! `.treehaul/<job>/` holds the rendezvous of hard links. A process that works on a job holds a shared lock
//! on its folder, so a folder that can be locked exclusively belongs to a dead job. `.treehaul/parts/` holds the
//! records of large files at work; they outlive their job, so that the next one goes on with what is there.

use super::large::{Claim, Record};
use crate::fs::aside::{WORK_DIR, job_of, part_of};
use crate::fs::{Class, Dir, Filesystem, FsError};
use crate::model::{Failure, JobId, Operation, Phase, Project, Report, Totals};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Another job can take the folder away between its making and its locking so often.
const MAX_HOLDS: u32 = 5;

/// Holds the records of large files.
const PARTS_DIR: &[u8] = b"parts";

/// The working area of a job in a target.
pub struct Work {
    job: JobId,
    root: Box<dyn Dir>,
    /// Other jobs that were found dead. Whoever is not among them is looked at anew.
    dead: Mutex<HashSet<JobId>>,
    own: Mutex<Option<Own>>,
    announced: AtomicBool,
    walked: AtomicBool,
    /// Others go on with what this node marks as done: it has to be on stable storage first.
    synced: bool,
    /// Why large files cannot be copied, where even that could not be written to the target.
    unwritten: Mutex<HashMap<u128, FsError>>,
}

struct Own {
    dir: Arc<dyn Dir>,
    _lock: Option<Box<dyn Send + Sync>>,
}

impl Work {
    /// The leader removes the folders of dead jobs.
    pub fn open(job: JobId, root: Box<dyn Dir>, leads: bool) -> Result<Self, FsError> {
        let (announced, walked) = (AtomicBool::new(false), AtomicBool::new(false));
        let (dead, own, unwritten) = (Mutex::default(), Mutex::new(None), Mutex::default());
        let work = Work { job, root, dead, own, announced, walked, synced: !leads, unwritten };
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
            let own = dir.metadata()?;
            if make
                && let Ok(Some(project)) = dir.project(b"")
                && project.inherit
            {
                // Names of files of any project meet here, which a directory that hands one down would not take.
                let _ = dir.edit_self().and_then(|edit| edit.set_project(Project { inherit: false, ..project }));
            }
            check_private(area.as_ref(), dir.as_ref())?;
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
        // Another job may remove the area, empty by then, while it is looked at.
        absent_is_fine(area.list(&mut |e| found.extend(JobId::parse(e.name).filter(|id| *id != self.job))))?;
        for job in found.into_iter().filter(|job| self.is_dead(*job)) {
            absent_is_fine(area.remove(job.to_string().as_bytes()))?;
        }
        Ok(())
    }

    /// Is nobody at work on another job? Its folder is gone, or not locked. Where that cannot be told it is not
    /// taken for dead.
    pub(super) fn is_dead(&self, job: JobId) -> bool {
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

    /// The id of the job.
    pub(super) fn job(&self) -> JobId {
        self.job
    }

    /// Everything has been found and worked on: what no record's job needs is needed by nobody.
    pub fn set_walked(&self) {
        self.walked.store(true, Ordering::Relaxed);
    }

    /// The folder of all records. Nobody else may have prepared it: what lies there is trusted.
    fn parts(&self, make: bool) -> Result<Box<dyn Dir>, FsError> {
        if make {
            self.folder()?;
        }
        let area = self.root.open_dir(WORK_DIR)?;
        if make {
            area.make_dir(PARTS_DIR)?;
        }
        let parts = area.open_dir(PARTS_DIR)?;
        check_private(area.as_ref(), parts.as_ref())?;
        Ok(parts)
    }

    /// The record of a large file at work.
    ///
    /// # Errors
    /// `ENOENT` if there is none and none shall be made.
    pub(super) fn record(&self, key: u128, make: bool) -> Result<Record, FsError> {
        let parts = self.parts(make)?;
        let name = record_name(key);
        if make {
            parts.make_dir(&name)?;
        }
        let dir = parts.open_dir(&name)?;
        check_private(parts.as_ref(), dir.as_ref())?;
        Ok(Record::new(self.job, dir, self.synced))
    }

    /// Notes why a large file cannot be copied; the first reason stays.
    pub(super) fn put_failure(&self, key: u128, record: &Record, why: FsError) {
        if let Err(e) = record.put_failure(why) {
            tracing::debug!(error = %e, "the reason of a failure cannot be written");
            self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(why);
        }
    }

    /// Removes a record that nothing is in any more. False if something is.
    pub(super) fn remove_record(&self, key: u128) -> Result<bool, FsError> {
        match self.parts(false)?.remove_empty_dir(&record_name(key)) {
            Err(e) if e.is_absent() => Ok(true),
            other => other,
        }
    }

    /// At the end of the walk: what this job began and could not end has failed, and stays for the next one; what
    /// only dead jobs claim is removed with its data.
    pub(super) fn end_parts(&self, target: &dyn Filesystem, report: &mut Report) -> Result<(), FsError> {
        let parts = match self.parts(false) {
            Ok(parts) => parts,
            Err(e) if e.is_absent() => return Ok(()),
            Err(e) => return Err(e),
        };
        if self.walked.load(Ordering::Relaxed) {
            self.end_records(parts.as_ref(), target, report)?;
        }
        // What is in it is the next job's start.
        absent_is_fine(self.root.open_dir(WORK_DIR).and_then(|area| area.remove_empty_dir(PARTS_DIR)).map(drop))
    }

    fn end_records(&self, parts: &dyn Dir, target: &dyn Filesystem, report: &mut Report) -> Result<(), FsError> {
        let mut keys = Vec::new();
        // Another job may remove it, empty by then, while it is looked at.
        absent_is_fine(parts.list(&mut |e| {
            keys.extend(std::str::from_utf8(e.name).ok().and_then(|text| u128::from_str_radix(text, 16).ok()));
        }))?;
        for key in keys {
            let record = match self.record(key, false) {
                Ok(record) => record,
                Err(e) if e.is_absent() => continue,
                Err(e) => return Err(e),
            };
            if let Some(claim) = record.claim()? {
                let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
                fail_unfinished(&record, &claim, unwritten, report)?;
                continue;
            }
            let claims = record.other_claims()?;
            if claims.iter().all(|(job, _)| self.is_dead(*job)) {
                for claim in claims.into_iter().filter_map(|(_, claim)| claim) {
                    remove_part(target, &claim, &mut report.totals)?;
                }
                absent_is_fine(parts.remove(&record_name(key)))?;
            }
        }
        Ok(())
    }

    /// Does a record's claim name this part file?
    fn is_claimed(&self, key: u128, part: &[u8]) -> Result<bool, FsError> {
        let record = match self.record(key, false) {
            Ok(record) => record,
            Err(e) if e.is_absent() => return Ok(false),
            Err(e) => return Err(e),
        };
        if record.claim()?.is_some_and(|claim| claim.part == part) {
            return Ok(true);
        }
        Ok(record.other_claims()?.iter().any(|(_, claim)| claim.as_ref().is_none_or(|c| c.part == part)))
    }

    /// Is it a working file that nobody needs?
    fn is_leftover(&self, name: &[u8], own: bool) -> bool {
        let is_over = |job: JobId| if job == self.job { own } else { self.is_dead(job) };
        match (job_of(name), part_of(name)) {
            (Some(job), _) => is_over(job),
            // Where it cannot be told, it stays.
            (None, Some((key, job))) => is_over(job) && !self.is_claimed(key, name).unwrap_or(true),
            (None, None) => false,
        }
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
            if self.is_leftover(e.name, own) {
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

fn record_name(key: u128) -> Vec<u8> {
    format!("{key:032x}").into_bytes()
}

/// Is a directory this user's alone, as the one above it?
fn check_private(above: &dyn Dir, dir: &dyn Dir) -> Result<(), FsError> {
    let (above, own) = (above.metadata()?, dir.metadata()?);
    if above.uid != own.uid || (above.mode | own.mode) & 0o077 != 0 {
        return Err(FsError { operation: Operation::OpenDirectory, errno: libc::EPERM });
    }
    Ok(())
}

/// Lists a large file that was not finished, and the names that waited for it, among the failures.
fn fail_unfinished(
    record: &Record,
    claim: &Claim,
    unwritten: Option<FsError>,
    report: &mut Report,
) -> Result<(), FsError> {
    let why = record.failure().or(unwritten);
    let waiting = record.waiting()?;
    for path in std::iter::once(&claim.path).chain(waiting.iter().map(|(_, path)| path)) {
        let path = path.as_bytes().to_vec();
        let failure = match why {
            Some(e) => super::failure(path, e),
            None => {
                let message = "a chunk was not finished, and why could not be noted; run it again".to_owned();
                Failure::new(path, Operation::Write, None, message)
            }
        };
        report.fail(failure, Phase::Walk, Totals::default());
    }
    Ok(())
}

/// Removes the data of a large file that nobody works on.
fn remove_part(target: &dyn Filesystem, claim: &Claim, totals: &mut Totals) -> Result<(), FsError> {
    let dir = match target.open_dir(&claim.path.split_last().0) {
        Ok(dir) => dir,
        // A directory that was moved or removed took it along.
        Err(e) if matches!(e.class(), Class::Vanished | Class::OtherKind) => return Ok(()),
        Err(e) => return Err(e),
    };
    totals.leftovers_removed += u64::from(remove_quietly(dir.as_ref(), &claim.part)?);
    Ok(())
}

/// Removes a working file from a directory that nobody may look at again in this job, so its times must stay as they
/// are. False if there is none.
pub(super) fn remove_quietly(dir: &dyn Dir, name: &[u8]) -> Result<bool, FsError> {
    let before = dir.metadata()?;
    match dir.remove(name) {
        Ok(()) => {}
        Err(e) if e.is_absent() => return Ok(false),
        Err(e) => return Err(e),
    }
    // Who does not own the directory cannot.
    let _ = dir.edit_self().and_then(|dir| dir.set_times(before.atime, before.mtime));
    Ok(true)
}

pub(super) fn absent_is_fine(done: Result<(), FsError>) -> Result<(), FsError> {
    match done {
        Err(e) if e.is_absent() => Ok(()),
        other => other,
    }
}
