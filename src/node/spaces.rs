//! How full the targets of jobs are.
//!
//! Invariant: a filesystem is asked every few seconds at most, by a thread of its own: one that hangs holds up neither
//! who asks for long, nor what is known of others.

use crate::fs::Filesystem;
use crate::model::JobId;
use crate::model::fleet::Space;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was found holds so long.
const HOLDS: Duration = Duration::from_secs(3);
/// An answer is waited for so long after it was asked for; then the last one has to do.
const PATIENCE: Duration = Duration::from_millis(250);
/// What is older than this is said no more.
const STALE: Duration = Duration::from_secs(60);

/// The targets of the jobs at work.
#[derive(Default)]
pub(super) struct Spaces(Mutex<HashMap<JobId, Arc<Target>>>);

struct Target {
    fs: Arc<dyn Filesystem>,
    state: Mutex<State>,
    looked: Condvar,
}

#[derive(Default)]
struct State {
    found: Option<(Instant, Option<Space>)>,
    /// Since when a thread is looking.
    looking: Option<Instant>,
}

impl Spaces {
    fn targets(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Target>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job's target.
    pub fn insert(&self, job: JobId, fs: Arc<dyn Filesystem>) {
        let target = Target { fs, state: Mutex::default(), looked: Condvar::new() };
        self.targets().insert(job, Arc::new(target));
    }

    /// The job is over.
    pub fn remove(&self, job: JobId) {
        self.targets().remove(&job);
    }

    /// How full a job's target is, if that is known and can be told.
    ///
    /// # Blocking
    /// For a quarter of a second at most.
    pub fn of(&self, job: JobId) -> Option<Space> {
        let target = self.targets().get(&job).cloned()?;
        target.space()
    }

    /// How full all targets are.
    ///
    /// # Blocking
    /// As [`Spaces::of`], for each.
    pub fn all(&self) -> Vec<(JobId, Space)> {
        let targets: Vec<_> = self.targets().iter().map(|(job, target)| (*job, Arc::clone(target))).collect();
        targets.into_iter().filter_map(|(job, target)| Some((job, target.space()?))).collect()
    }
}

impl Target {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn space(self: &Arc<Self>) -> Option<Space> {
        let mut state = self.lock();
        let is_old = |state: &State| state.found.is_none_or(|(at, _)| at.elapsed() >= HOLDS);
        if is_old(&state) {
            if state.looking.is_none() && self.look() {
                state.looking = Some(Instant::now());
            }
            let left = state.looking.map_or(Duration::ZERO, |since| PATIENCE.saturating_sub(since.elapsed()));
            let wait = |state: &mut State| state.looking.is_some() && is_old(state);
            state = self.looked.wait_timeout_while(state, left, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.found.filter(|(at, _)| at.elapsed() < STALE).and_then(|(_, space)| space)
    }

    /// False if there is no thread for it.
    fn look(self: &Arc<Self>) -> bool {
        let target = Arc::clone(self);
        let looking = std::thread::Builder::new().name("space".to_owned()).spawn(move || {
            let space = target.fs.space();
            *target.lock() = State { found: Some((Instant::now(), space)), looking: None };
            target.looked.notify_all();
        });
        looking.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Dir, Result, Traits, Usage};
    use crate::model::{RelPath, RootIdentity};
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    const SPACE: Space = Space { bytes: 4, free_bytes: 3, inodes: 2, free_inodes: 1 };

    /// A target that answers when it is allowed to.
    struct Slow {
        asked: AtomicU64,
        answers: Mutex<()>,
    }

    impl Filesystem for Slow {
        fn traits(&self) -> Traits {
            Traits::default()
        }
        fn open_dir(&self, _: &RelPath) -> Result<Box<dyn Dir>> {
            unreachable!("nobody opens it")
        }
        fn identity(&self) -> Result<RootIdentity> {
            Ok(RootIdentity::default())
        }
        fn usage(&self) -> Option<Usage> {
            None
        }
        fn space(&self) -> Option<Space> {
            self.asked.fetch_add(1, SeqCst);
            drop(self.answers.lock());
            Some(SPACE)
        }
    }

    #[test]
    fn a_target_that_hangs_is_asked_once_and_nobody_waits_long_for_it() {
        let (spaces, jobs) = (Spaces::default(), [JobId::random(), JobId::random()]);
        let fs = [0; 2].map(|_| Arc::new(Slow { asked: AtomicU64::new(0), answers: Mutex::default() }));
        jobs.iter().zip(&fs).for_each(|(job, fs)| spaces.insert(*job, Arc::clone(fs) as Arc<dyn Filesystem>));
        let hangs = fs[0].answers.lock().unwrap();
        let began = Instant::now();
        (0..1000).for_each(|_| assert_eq!(spaces.of(jobs[0]), None));
        assert!(began.elapsed() < 100 * PATIENCE, "only the first waits");
        assert_eq!(spaces.all(), [(jobs[1], SPACE)]);
        drop(hangs);
        let began = Instant::now();
        while spaces.of(jobs[0]) != Some(SPACE) {
            assert!(began.elapsed() < Duration::from_secs(30));
        }
        assert_eq!(fs[0].asked.load(SeqCst), 1, "asked again only after a while");
        spaces.remove(jobs[0]);
        assert_eq!((spaces.of(jobs[0]), spaces.all().len()), (None, 1));
    }
}
