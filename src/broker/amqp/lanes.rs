//! The tasks in this worker's memory, and the actors that wait for them.
//!
//! Invariant: what waits here is bounded; what is taken or let go of keeps its delivery's token until it is
//! done. Tokens are let go of outside the lock.

use super::consume::Source;
use super::run::Run;
use super::token::{Held, Token};
use crate::broker::Pool;
use crate::model::Queue;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Dir tasks of a job that stay here. The walk goes depth first, so more are seldom needed.
const DIR_TASKS: usize = 256;
/// Weight of the batches of a job that stay here, in bytes, as in the embedded broker.
const FILES_BYTES: usize = 4 << 20;
/// How long a dir actor waits for file actors to make room before its batch goes to the broker.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
/// A backlog of so many tasks is shared with workers that have nothing to do.
const WORTH_SHARING: usize = 2;

/// What a task is taken to need, before it is known.
const TURN: Duration = Duration::from_micros(100);

/// A delivery that nobody has looked into.
pub(super) struct Arrived {
    pub source: Source,
    pub redelivered: bool,
    /// How often the broker delivered it before; a classic queue does not count.
    pub count: u32,
    pub token: Arc<Token>,
}

/// What an actor takes.
pub(super) enum Taken {
    Task(Held),
    Message(Arrived),
}

struct Lane {
    run: Arc<Run>,
    dirs: VecDeque<Held>,
    files: VecDeque<Held>,
    files_bytes: usize,
    arrived: [VecDeque<Arrived>; 2],
    /// No actor gets anything from here, and nothing stays here.
    paused: bool,
    /// Time that actors spent on the job, divided by its weight.
    used: Duration,
}

impl Lane {
    fn has_work(&self, pool: Pool) -> bool {
        let may_begin = |a: &Arrived| a.source != Source::Suspects || !self.run.has_suspect();
        self.local(pool) > 0 || self.arrived[pool as usize].iter().any(may_begin)
    }

    fn local(&self, pool: Pool) -> usize {
        if pool == Pool::Dirs { self.dirs.len() } else { self.files.len() }
    }

    fn pop(&mut self, pool: Pool) -> Option<Taken> {
        // A suspect is not to be held for long: its worker may be lost for another reason.
        let waiting = &mut self.arrived[pool as usize];
        let suspect = waiting.iter().position(|a| a.source == Source::Suspects);
        if let Some(at) = suspect.filter(|_| !self.run.has_suspect()) {
            return waiting.remove(at).map(Taken::Message);
        }
        let other = waiting.iter().position(|a| a.source != Source::Suspects);
        if self.paused {
            return None;
        }
        let held = if pool == Pool::Dirs { self.dirs.pop_back() } else { self.pop_file() };
        let arrived = &mut self.arrived[pool as usize];
        held.map(Taken::Task).or_else(|| arrived.remove(other?).map(Taken::Message))
    }

    fn pop_file(&mut self) -> Option<Held> {
        let held = self.files.pop_front()?;
        self.files_bytes -= held.task.weight_bytes();
        Some(held)
    }

    fn push(&mut self, held: Held, next: bool) {
        if held.task.queue() == Queue::Dirs {
            return self.dirs.push_back(held);
        }
        self.files_bytes += held.task.weight_bytes();
        if next { self.files.push_front(held) } else { self.files.push_back(held) }
    }
}

#[derive(Default)]
struct State {
    lanes: Vec<Lane>,
    waiting: [u32; 2],
    /// Actors of other workers that wait, as far as the leader knows.
    others_wait: [bool; 2],
    draining: bool,
    /// Pools without any actor: their tasks are for other workers.
    unserved: [bool; 2],
}

impl State {
    fn lane(&mut self, run: &Arc<Run>) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|l| Arc::ptr_eq(&l.run, run))
    }

    /// The job that has had the least of its share comes first.
    fn pop(&mut self, pool: Pool) -> Option<Taken> {
        let lane = self.lanes.iter_mut().filter(|l| l.has_work(pool)).min_by_key(|l| l.used)?;
        // Until it is known how long this takes: others come first meanwhile.
        lane.used += TURN / lane.run.weight;
        lane.pop(pool)
    }
}

/// All jobs of this worker.
#[derive(Default)]
pub(super) struct Lanes {
    state: Mutex<State>,
    work: [Condvar; 2],
    room: Condvar,
}

fn pool_of(queue: Queue) -> Pool {
    if queue == Queue::Dirs { Pool::Dirs } else { Pool::Files }
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a job.
    pub fn open(&self, run: &Arc<Run>) {
        let mut state = self.lock();
        // A job that comes later has no claim on what others had before.
        let used = state.lanes.iter().map(|l| l.used).min().unwrap_or_default();
        state.lanes.push(Lane {
            run: Arc::clone(run),
            used,
            dirs: VecDeque::new(),
            files: VecDeque::new(),
            files_bytes: 0,
            arrived: Default::default(),
            paused: false,
        });
    }

    /// An actor spent so long on a task of a job.
    pub fn charge(&self, run: &Arc<Run>, time: Duration) {
        if let Some(lane) = self.lock().lane(run) {
            lane.used += time / run.weight;
        }
    }

    /// From now on no actor gets a task of a job, and none of it stays here; or they do again. What waits already
    /// is left to [`Lanes::clear`].
    pub fn pause(&self, run: &Arc<Run>, paused: bool) {
        let mut state = self.lock();
        let before = state.lane(run).map(|lane| std::mem::replace(&mut lane.paused, paused));
        drop(state);
        if before == Some(paused) {
            return;
        }
        self.room.notify_all();
        self.work.iter().for_each(Condvar::notify_all);
    }

    /// Forgets a job with everything that waits.
    pub fn close(&self, run: &Arc<Run>) {
        let mut state = self.lock();
        let (closed, kept) = std::mem::take(&mut state.lanes).into_iter().partition(|l| Arc::ptr_eq(&l.run, run));
        state.lanes = kept;
        drop(state);
        self.room.notify_all();
        drop::<Vec<Lane>>(closed);
    }

    /// Empties a job's lane: tasks that were begun somewhere, and deliveries that nobody looked into.
    pub fn clear(&self, run: &Arc<Run>) -> (Vec<Held>, Vec<Arrived>) {
        let mut state = self.lock();
        let Some(lane) = state.lane(run) else { return Default::default() };
        let held = lane.dirs.drain(..).chain(lane.files.drain(..)).collect();
        let arrived = lane.arrived.iter_mut().flat_map(|a| a.drain(..)).collect();
        lane.files_bytes = 0;
        drop(state);
        self.room.notify_all();
        (held, arrived)
    }

    /// Says which pools have actors here; nothing is kept for the others.
    pub fn set_served(&self, served: [bool; 2]) {
        self.lock().unserved = served.map(|served| !served);
    }

    /// From now on no actor gets a task, and nothing stays here.
    pub fn drain(&self) {
        self.lock().draining = true;
        self.work.iter().for_each(Condvar::notify_all);
        self.room.notify_all();
    }

    /// A delivery came.
    pub fn arrive(&self, arrived: Arrived) {
        let pool = match arrived.source {
            Source::Tasks(queue) => pool_of(queue),
            Source::Suspects | Source::Hold => Pool::Files,
        };
        let mut state = self.lock();
        let run = Arc::clone(&arrived.token.run);
        if let Some(lane) = state.lane(&run) {
            lane.arrived[pool as usize].push_back(arrived);
            drop(state);
            self.work[pool as usize].notify_one();
        }
    }

    /// Waits for work; `idle` is called when there is none at once.
    pub fn take(&self, pool: Pool, patience: Duration, idle: impl Fn(&Run)) -> Option<Taken> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if state.draining {
                return None;
            }
            if let Some(taken) = state.pop(pool) {
                drop(state);
                if pool == Pool::Files {
                    self.room.notify_all();
                }
                return Some(taken);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            state.lanes.iter().for_each(|l| idle(&l.run));
            state.waiting[pool as usize] += 1;
            state = self.work[pool as usize].wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting[pool as usize] -= 1;
        }
    }

    /// Keeps a task that was just posted, if that is good; what comes back is for the broker.
    pub fn keep(&self, held: Held, may_wait: bool) -> Option<Held> {
        let pool = pool_of(held.task.queue());
        let run = Arc::clone(&held.token.run);
        let mut state = self.lock();
        let deadline = Instant::now() + ROOM_PATIENCE;
        loop {
            let others = state.others_wait[pool as usize] && state.waiting[pool as usize] == 0;
            if state.draining || state.unserved[pool as usize] {
                return Some(held);
            }
            let Some(lane) = state.lane(&run).filter(|l| !l.paused) else { return Some(held) };
            let full = pool == Pool::Files && lane.files_bytes >= FILES_BYTES;
            if others && lane.local(pool) >= WORTH_SHARING {
                return Some(held);
            }
            if !full {
                lane.push(held, false);
                // The oldest directory is nearest to the root, so it is the one to give away.
                let extra = if lane.dirs.len() > DIR_TASKS { lane.dirs.pop_front() } else { None };
                drop(state);
                self.work[pool as usize].notify_one();
                return extra;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !may_wait || left.is_zero() || run.is_over() {
                return Some(held);
            }
            state = self.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Puts back tasks that come next; gives back what cannot stay.
    pub fn put_back(&self, tasks: Vec<Held>) -> Vec<Held> {
        let mut state = self.lock();
        let mut homeless = Vec::new();
        for held in tasks.into_iter().rev() {
            let run = Arc::clone(&held.token.run);
            let draining = state.draining;
            match state.lane(&run) {
                Some(lane) if !draining && !lane.paused => lane.push(held, true),
                _ => homeless.push(held),
            }
        }
        drop(state);
        self.work.iter().for_each(Condvar::notify_all);
        homeless
    }

    /// Takes out what belongs to deliveries that are open for longer than `age`.
    pub fn take_old(&self, run: &Arc<Run>, age: Duration) -> (Vec<Held>, Vec<Arrived>) {
        let mut state = self.lock();
        let Some(lane) = state.lane(run) else { return Default::default() };
        let is_old = |token: &Token| token.age() > age;
        let mut old = Vec::new();
        for local in [&mut lane.dirs, &mut lane.files] {
            let (aged, young): (VecDeque<_>, _) = std::mem::take(local).into_iter().partition(|h| is_old(&h.token));
            *local = young;
            old.extend(aged);
        }
        lane.files_bytes = lane.files.iter().map(|h| h.task.weight_bytes()).sum();
        let mut arrived = Vec::new();
        for waiting in &mut lane.arrived {
            let (aged, young): (VecDeque<_>, _) = std::mem::take(waiting).into_iter().partition(|a| is_old(&a.token));
            *waiting = young;
            arrived.extend(aged);
        }
        drop(state);
        self.room.notify_all();
        (old, arrived)
    }

    /// Hears which pools of other workers wait, and takes out half of what they could do.
    pub fn share(&self, run: &Arc<Run>, others_wait: [bool; 2]) -> Vec<Held> {
        let mut state = self.lock();
        state.others_wait = others_wait;
        let waiting = state.waiting;
        let Some(lane) = state.lane(run) else { return Vec::new() };
        let mut shared = Vec::new();
        for pool in [Pool::Dirs, Pool::Files] {
            let backlog = lane.local(pool);
            if others_wait[pool as usize] && waiting[pool as usize] == 0 && backlog >= WORTH_SHARING {
                for _ in 0..backlog / 2 {
                    shared.extend(if pool == Pool::Dirs { lane.dirs.pop_front() } else { lane.pop_file() });
                }
            }
        }
        shared
    }

    /// Would an actor, here or elsewhere, be glad of more?
    pub fn is_hungry(&self, run: &Arc<Run>, queue: Queue) -> bool {
        let pool = pool_of(queue);
        let mut state = self.lock();
        let waits = state.waiting[pool as usize] > 0 || state.others_wait[pool as usize];
        waits && state.lane(run).is_none_or(|l| !l.paused && l.local(pool) == 0)
    }

    /// Actors that wait for more, by pool; none while nothing may be taken.
    pub fn idle(&self) -> [u32; 2] {
        let state = self.lock();
        let paused = !state.lanes.is_empty() && state.lanes.iter().all(|l| l.paused);
        if paused { [0; 2] } else { state.waiting }
    }
}
