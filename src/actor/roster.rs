//! What the actors of a pool do at the moment, for those who ask.
//!
//! Invariant: an actor pays for being looked at with a lock of its own that nobody else holds for long; nothing is
//! written down before somebody asks.

use crate::broker::Pool;
use crate::fs::layers::metered;
use crate::model::fleet::Activity;
use crate::model::{JobId, Task};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The actors of one pool.
#[derive(Debug)]
pub struct Roster {
    pool: Pool,
    slots: Mutex<BTreeMap<u64, Arc<Slot>>>,
}

/// One actor's place.
#[derive(Debug)]
struct Slot {
    doing: Mutex<Option<Doing>>,
    /// Bytes that its thread moved since it began.
    moved: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
struct Doing {
    job: JobId,
    task: Arc<Task>,
    since: Instant,
    /// What the thread had moved when it began with the task.
    moved_before: u64,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Doing>> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}

impl Roster {
    /// Of a pool without actors.
    pub fn new(pool: Pool) -> Arc<Self> {
        Arc::new(Roster { pool, slots: Mutex::default() })
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An actor joins, on its own thread; its place is free again when what comes back is dropped.
    pub(super) fn join(self: &Arc<Self>, id: u64) -> Place {
        let slot = Arc::new(Slot { doing: Mutex::default(), moved: metered::odometer() });
        self.slots().insert(id, Arc::clone(&slot));
        Place { id, slot, roster: Arc::clone(self) }
    }

    /// How many actors there are, and how many have a task in hand.
    pub fn count(&self) -> (u32, u32) {
        let slots = self.slots();
        let busy = slots.values().filter(|slot| slot.lock().is_some()).count();
        (u32::try_from(slots.len()).unwrap_or(u32::MAX), u32::try_from(busy).unwrap_or(u32::MAX))
    }

    /// What those do that have a task in hand.
    pub fn active(&self) -> Vec<Activity> {
        let slots: Vec<_> = self.slots().iter().map(|(id, slot)| (*id, Arc::clone(slot))).collect();
        slots.into_iter().filter_map(|(id, slot)| self.activity(id, &slot)).collect()
    }

    fn activity(&self, id: u64, slot: &Slot) -> Option<Activity> {
        let doing = slot.lock();
        let Doing { job, task, since, moved_before } = doing.clone()?;
        // It cannot go on to another task meanwhile.
        let bytes = slot.moved().wrapping_sub(moved_before);
        drop(doing);
        let age_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (actor, path) = (format!("{}-{id}", self.pool.noun()), place_of(&task));
        Some(Activity { actor, job, task: task.noun().to_owned(), path, age_ms, bytes })
    }
}

/// The directory of a task, and the name if it is about one alone.
fn place_of(task: &Task) -> Vec<u8> {
    let mut path = task.directory().as_bytes().to_vec();
    let only = match task {
        Task::Dirs { names, .. }
        | Task::Pick { names, .. }
        | Task::Chunk { name: names, .. }
        | Task::Finish { names, .. }
        | Task::Remove { names, .. } => names.iter().next().filter(|_| names.len() == 1).map(|(_, name)| name),
        Task::Batch { entries, .. } => entries.iter().next().filter(|_| entries.len() == 1).map(|entry| entry.name),
    };
    if let Some(name) = only {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    path
}

/// An actor's place in its roster.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    slot: Arc<Slot>,
    roster: Arc<Roster>,
}

impl Place {
    /// The actor has a task in hand until what comes back is dropped.
    pub fn begin(&self, job: JobId, task: &Arc<Task>) -> Busy<'_> {
        let (task, since, moved_before) = (Arc::clone(task), Instant::now(), self.slot.moved());
        *self.slot.lock() = Some(Doing { job, task, since, moved_before });
        Busy(&self.slot)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.roster.slots().remove(&self.id);
    }
}

/// An actor with a task in hand.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a Slot);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RelPath, task::Names};

    #[test]
    fn who_works_is_seen_and_who_is_gone_is_not() {
        let roster = Roster::new(Pool::Files);
        let (one, two) = (roster.join(3), roster.join(4));
        let job = JobId::random();
        let mut names = Names::default();
        names.push(0, b"x\xff").unwrap();
        let task = Arc::new(Task::Finish { parent: RelPath::parse(b"a/b".to_vec()).unwrap(), names });
        let busy = two.begin(job, &task);
        assert_eq!(roster.count(), (2, 1));
        let active = roster.active();
        assert_eq!(active.len(), 1);
        let Activity { actor, job: of, task, path, .. } = &active[0];
        assert_eq!((actor.as_str(), *of, task.as_str(), &path[..]), ("files-4", job, "finish", &b"a/b/x\xff"[..]));
        drop(busy);
        assert!(roster.active().is_empty());
        drop(one);
        drop(two);
        assert_eq!(roster.count(), (0, 0));
    }
}
