//! What a target can keep, tried out for real in a directory of our own that is removed afterwards.
//!
//! Invariant: everything happens below `.treehaul/doctor-*`, nothing else of the target is touched, and its root has
//! its times back at the end. What a killed trial left is removed by the next one.

mod contents;
mod names;
mod rights;

use super::super::{FsError, Result, Traits, aside};
use super::dir::kind_of;
use super::edit::timestamps;
use super::{DIRECTORY, Shared, open_child, probe, remove, with_noatime};
use crate::model::{JobId, Operation, Timestamp};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Names of directories that trials are made in begin so.
const PREFIX: &[u8] = b"doctor-";

/// The hidden directory is taken away under our hands at most so often.
const MAX_TRIES: u32 = 20;

/// What it means if something cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Entries would lose something, or some could not be kept.
    Loss,
    /// It costs time, nothing else.
    Speed,
    /// Nothing can be copied.
    Failure,
}

/// How a trial went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is kept; in words.
    Kept(String),
    /// It is not; in words.
    Missing(String),
    /// It was not tried, and why.
    NotTried(&'static str),
}

/// One thing to try.
struct Trial {
    topic: &'static str,
    weight: Weight,
    /// What follows if it cannot be had, and what to do.
    without: &'static str,
    run: fn(&Bench) -> rustix::io::Result<Outcome>,
}

impl Trial {
    fn on(&self, bench: &Bench) -> Tried {
        let failed = |e: Errno| Outcome::Missing(super::super::errno_text(e.raw_os_error()));
        let outcome = (self.run)(bench).unwrap_or_else(failed);
        Tried { topic: self.topic, weight: self.weight, without: self.without, outcome }
    }
}

/// One thing that was tried.
#[derive(Debug, Clone)]
pub struct Tried {
    /// What it is about.
    pub topic: &'static str,
    /// What it means if it is missing.
    pub weight: Weight,
    /// What follows then, and what to do.
    pub without: &'static str,
    /// How it went.
    pub outcome: Outcome,
}

/// Everything that was found out about a target.
#[derive(Debug, Clone)]
pub struct Trials {
    /// What it keeps of times.
    pub traits: Traits,
    /// The target's clock when a file was made.
    pub clock: Option<Timestamp>,
    /// This node's clock at the same moment.
    pub node_clock: Timestamp,
    /// One by one.
    pub tried: Vec<Tried>,
}

/// The directory that trials are made in.
struct Bench {
    dir: OwnedFd,
    is_root: bool,
    /// A directory of the source, to try what works between the two.
    source: Option<OwnedFd>,
}

impl Bench {
    fn at(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// A new file, open for reading and writing.
    fn file(&self, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)
    }

    fn directory(&self, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        rustix::fs::mkdirat(&self.dir, name, Mode::RWXU)?;
        open_child(self.at(), name)
    }

    fn stat(&self, name: &[u8]) -> rustix::io::Result<rustix::fs::Stat> {
        rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Is an entry there, of the kind that it was made?
    fn is_there(&self, name: &[u8], kind: FileType) -> rustix::io::Result<Outcome> {
        let found = FileType::from_raw_mode(self.stat(name)?.st_mode);
        let noun = || kind_of(found).map_or("something else", |k| k.noun());
        Ok(if found == kind { kept("yes") } else { Outcome::Missing(format!("becomes a {}", noun())) })
    }
}

fn kept(words: impl Into<String>) -> Outcome {
    Outcome::Kept(words.into())
}

fn missing(words: impl Into<String>) -> Outcome {
    Outcome::Missing(words.into())
}

/// Where trials are made, until it is dropped: then they are gone.
struct Scratch {
    root: OwnedFd,
    before: rustix::fs::Stat,
    area: OwnedFd,
    name: Vec<u8>,
    /// Kept locked while it is in use.
    _lock: OwnedFd,
    shared: Arc<Shared>,
}

impl Scratch {
    fn make(path: &[u8]) -> Result<Self> {
        let fail = |operation| move |e: Errno| FsError::new(operation, e);
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW).difference(OFlags::NOATIME);
        let root = rustix::fs::openat(CWD, OsStr::from_bytes(path), flags, Mode::empty());
        let root = root.map_err(fail(Operation::OpenRoot))?;
        let before = rustix::fs::fstat(&root).map_err(fail(Operation::Stat))?;
        let job = JobId::random();
        let name = [PREFIX, job.to_string().as_bytes()].concat();
        let mut prepared = Err(Errno::NOENT);
        for _ in 0..MAX_TRIES {
            prepared = prepare(&root, &name);
            // A job or another trial that ends takes the hidden directory away.
            if !matches!(prepared, Err(Errno::NOENT)) {
                break;
            }
        }
        let (area, lock) = prepared.map_err(|e| {
            leave(&root, &before);
            FsError::new(Operation::MakeDirectory, e)
        })?;
        Ok(Scratch { root, before, area, name, _lock: lock, shared: Shared::new(job) })
    }

    fn open(&self) -> rustix::io::Result<OwnedFd> {
        open_child(self.area.as_fd(), &self.name)
    }

    /// Removes what killed trials left: nobody holds its lock.
    fn remove_dead(&self) -> rustix::io::Result<()> {
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(8 << 10);
        let fd = open_child(self.area.as_fd(), b".")?;
        let mut listing = RawDir::new(&fd, buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name.starts_with(PREFIX) && name != self.name {
                names.push(name);
            }
        }
        for name in names {
            let dead = open_child(self.area.as_fd(), &name)?;
            if rustix::fs::flock(&dead, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = remove::remove(self.area.as_fd(), &name, &self.shared); // another may be at it too
            }
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = self.remove_dead() {
            tracing::debug!(error = %e, "cannot look for what killed trials left");
        }
        if let Err(e) = remove::remove(self.area.as_fd(), &self.name, &self.shared) {
            tracing::warn!(error = %e, "what was tried out on the target could not be removed: .treehaul/doctor-*");
        }
        leave(&self.root, &self.before);
    }
}

/// Makes the directory, and returns the hidden one that holds it, and a lock on it.
fn prepare(root: &OwnedFd, name: &[u8]) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    match rustix::fs::mkdirat(root, aside::WORK_DIR, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let area = open_child(root.as_fd(), aside::WORK_DIR)?;
    rustix::fs::mkdirat(&area, name, Mode::RWXU)?;
    let lock = open_child(area.as_fd(), name)?;
    // Without locks only a trial at the same time could take it away.
    let _ = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
    Ok((area, lock))
}

/// Takes the hidden directory away if nobody else needs it, and gives the root its times back.
fn leave(root: &OwnedFd, before: &rustix::fs::Stat) {
    let _ = rustix::fs::unlinkat(root, aside::WORK_DIR, AtFlags::REMOVEDIR); // a job may be using it
    let time = |sec, ns| Timestamp { sec, ns: u32::try_from(ns).unwrap_or(0) };
    let times = timestamps(time(before.st_atime, before.st_atime_nsec), time(before.st_mtime, before.st_mtime_nsec));
    let _ = rustix::fs::futimens(root, &times); // who does not own it cannot
}

/// Tries out what a directory can keep, with another one as the source of what is tried between the two.
///
/// # Errors
/// Nothing can be written there.
pub fn try_out(target: &[u8], source: Option<&[u8]>) -> Result<Trials> {
    let scratch = Scratch::make(target)?;
    let dir = scratch.open().map_err(|e| FsError::new(Operation::OpenDirectory, e))?;
    let traits = probe::traits(dir.as_fd(), &scratch.shared);
    let open = |path: &[u8]| {
        let open = |flags| rustix::fs::openat(CWD, OsStr::from_bytes(path), flags, Mode::empty());
        with_noatime(open, DIRECTORY.difference(OFlags::NOFOLLOW)).ok()
    };
    let source = source.and_then(open);
    let bench = Bench { dir, is_root: rustix::process::geteuid().is_root(), source };
    let node_clock = Timestamp::now();
    let clock = bench.file(b"clock").and_then(|_| bench.stat(b"clock")).ok();
    let clock = clock.map(|s| Timestamp { sec: s.st_mtime, ns: u32::try_from(s.st_mtime_nsec).unwrap_or(0) });
    let trials = contents::TRIALS.iter().chain(&names::TRIALS).chain(&rights::TRIALS);
    Ok(Trials { traits, clock, node_clock, tried: trials.map(|trial| trial.on(&bench)).collect() })
}
