//! The broker inside the process: no server, no serialisation, exact counts.
//!
//! Invariant: the job is over exactly when no task waits and none is in hands; both are counted under one
//! lock. The walk goes depth first, so the backlog stays small; what is too much lies on disk.

use super::spill::SpillStack;
use super::{Broker, Delivery, Gate, MAX_ATTEMPTS, Pool, Stopped, Ticket};
use crate::model::{Failure, JobId, Operation, Queue, Report, Task, TaskId};
use crate::telemetry::Board;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Weight of the batches that wait, in bytes, before dir actors have to wait: enough to keep every file
/// actor busy, little enough for any machine.
const FILES_BYTES: usize = 4 << 20;

/// A broker for one job in one process.
pub struct Embedded {
    job: JobId,
    board: Arc<Board>,
    state: Mutex<State>,
    dirs: Condvar,
    files: Condvar,
    room: Condvar,
    gate: Gate,
    on_over: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    dirs: SpillStack,
    files: VecDeque<Task>,
    files_bytes: usize,
    finish: SpillStack,
    again: Vec<(Arc<Task>, u32)>,
    in_flight: u64,
    /// Deliveries so far.
    taken: u64,
    waiting: [usize; 2],
    finishing: bool,
    over: bool,
    stopped: bool,
    broken: Option<String>,
}

impl State {
    fn ready(&self) -> u64 {
        self.dirs.len() + self.files.len() as u64 + self.again.len() as u64
    }

    /// What to say, if the backlog could not be moved to disk.
    fn push(&mut self, task: Task) -> Option<String> {
        let spilled = match task.queue() {
            Queue::Dirs => self.dirs.push(task),
            Queue::Finish => self.finish.push(task),
            Queue::Files => {
                self.files_bytes += task.weight_bytes();
                self.files.push_back(task);
                Ok(())
            }
        };
        // The task is kept in memory; only the bound is not held.
        let e = spilled.err()?;
        Some(format!(
            "cannot move the backlog to the temporary directory ({e}), memory grows: set TMPDIR to one with room"
        ))
    }

    fn pop(&mut self, pool: Pool) -> Option<(Arc<Task>, u32)> {
        let wanted = |t: &Task| (t.queue() == Queue::Dirs) == (pool == Pool::Dirs);
        if let Some(at) = self.again.iter().position(|(t, _)| wanted(t)) {
            return Some(self.again.swap_remove(at));
        }
        let popped = match pool {
            Pool::Dirs => self.dirs.pop(),
            Pool::Files if self.finishing => self.finish.pop(),
            Pool::Files => {
                let task = self.files.pop_front();
                if let Some(t) = &task {
                    self.files_bytes -= t.weight_bytes();
                }
                Ok(task)
            }
        };
        match popped {
            Ok(task) => task.map(|t| (Arc::new(t), 0)),
            Err(e) => {
                self.broken = Some(format!("cannot read the backlog back from the temporary directory: {e}"));
                self.stopped = true;
                None
            }
        }
    }
}

impl Embedded {
    /// A broker for `job` that holds its first tasks, which are for dir actors. `on_over` is called once, from some
    /// actor's thread, when the job is over or stopped.
    pub fn new(
        job: JobId,
        first: impl IntoIterator<Item = Task>,
        board: Arc<Board>,
        gate: Gate,
        on_over: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        let mut state = State::default();
        for task in first {
            if let Some(trouble) = state.push(task) {
                board.note(&trouble);
            }
        }
        let [dirs, files, room] = [Condvar::new(), Condvar::new(), Condvar::new()];
        Arc::new(Embedded { job, board, state: Mutex::new(state), dirs, files, room, gate, on_over })
    }

    /// Ends the job early: actors finish the task in their hands and get no other.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        self.settle(state);
    }

    /// Did everything that was posted get done?
    pub fn is_complete(&self) -> bool {
        let state = self.lock();
        state.over && !state.stopped
    }

    /// How many tasks wait, by queue.
    pub fn depths(&self) -> Vec<(Queue, u64)> {
        let state = self.lock();
        let again = |queue| state.again.iter().filter(|(task, _)| task.queue() == queue).count() as u64;
        let waits = |queue| match queue {
            Queue::Dirs => state.dirs.len(),
            Queue::Files => state.files.len() as u64,
            Queue::Finish => state.finish.len(),
        };
        Queue::ALL.iter().map(|queue| (*queue, waits(*queue) + again(*queue))).collect()
    }

    /// How many tasks are in hands.
    pub fn in_flight(&self) -> u64 {
        self.lock().in_flight
    }

    /// Why the broker itself could not go on, if it could not.
    pub fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether a phase or the job is over, and wakes whom that concerns.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let quiescent = state.in_flight == 0 && (state.stopped || state.ready() == 0);
        if quiescent && !state.finishing && !state.stopped {
            state.finishing = true;
            self.board.set_walk_over();
            if let Err(why) = (self.gate)(&self.board.snapshot().totals) {
                self.board.absorb(Report { abort: Some(why), ..Report::default() });
                state.stopped = true;
            }
            self.files.notify_all();
        }
        let done = quiescent && (state.stopped || state.finish.is_empty());
        let first = done && !state.over;
        state.over |= done;
        let wake = state.over || state.stopped;
        drop(state);
        if wake {
            self.dirs.notify_all();
            self.files.notify_all();
            self.room.notify_all();
        }
        if first {
            (self.on_over)();
        }
    }

    fn post(&self, task: Task, may_wait: bool) -> Result<(), Stopped> {
        let mut state = self.lock();
        let queue = task.queue();
        while may_wait && queue == Queue::Files && state.files_bytes >= FILES_BYTES && !state.stopped {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return Err(Stopped);
        }
        let trouble = state.push(task);
        let [dirs, files] = state.waiting;
        drop(state);
        if let Some(text) = trouble {
            self.board.note(&text);
        }
        match queue {
            Queue::Dirs if dirs > 0 => self.dirs.notify_one(),
            Queue::Files if files > 0 => self.files.notify_one(),
            _ => {}
        }
        Ok(())
    }

    fn absorb(&self, report: Report) {
        let ends = report.abort.is_some();
        self.board.absorb(report);
        if ends {
            self.stop();
        }
    }

    fn done(&self, again: Option<(Arc<Task>, u32)>) {
        let mut state = self.lock();
        state.in_flight -= 1;
        if let Some((task, attempts)) = again {
            state.again.push((task, attempts));
            self.dirs.notify_one();
            self.files.notify_one();
        }
        self.settle(state);
    }
}

impl Broker for Arc<Embedded> {
    fn take(&self, pool: Pool, patience: Duration) -> Option<Delivery> {
        let condvar = if pool == Pool::Dirs { &self.dirs } else { &self.files };
        let mut state = self.lock();
        loop {
            if state.stopped || state.over {
                return None;
            }
            if let Some((task, attempts)) = state.pop(pool) {
                state.in_flight += 1;
                state.taken += 1;
                let id = TaskId { message: None, number: state.taken };
                let has_room = pool == Pool::Files && state.files_bytes < FILES_BYTES;
                drop(state);
                if has_room {
                    self.room.notify_all();
                }
                let ticket = EmbeddedTicket { broker: Arc::clone(self), task: Some(Arc::clone(&task)), attempts, pool };
                let (redelivered, ticket) = (attempts > 0, Box::new(ticket));
                return Some(Delivery { id, job: self.job, task, redelivered, ticket });
            }
            if state.broken.is_some() {
                self.settle(state);
                return None;
            }
            state.waiting[pool as usize] += 1;
            let (guard, timeout) = condvar.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.waiting[pool as usize] -= 1;
            if timeout.timed_out() {
                return None;
            }
        }
    }
}

struct EmbeddedTicket {
    broker: Arc<Embedded>,
    /// Kept so that it can be given back; none once it is settled.
    task: Option<Arc<Task>>,
    attempts: u32,
    pool: Pool,
}

impl Ticket for EmbeddedTicket {
    fn post(&mut self, task: Task) -> Result<(), Stopped> {
        // File actors make the room that dir actors wait for, so they never wait themselves.
        self.broker.post(task, self.pool == Pool::Dirs)
    }

    fn is_hungry(&self, queue: Queue) -> bool {
        let state = self.broker.lock();
        match queue {
            Queue::Dirs => state.waiting[Pool::Dirs as usize] > 0 && state.dirs.is_empty(),
            Queue::Files | Queue::Finish => state.waiting[Pool::Files as usize] > 0 && state.files.is_empty(),
        }
    }

    fn report(&mut self, report: Report) {
        self.broker.absorb(report);
    }

    fn finish(mut self: Box<Self>) {
        self.task = None;
        self.broker.done(None);
    }

    fn give_back(mut self: Box<Self>, why: &str) {
        let Some(task) = self.task.take() else { return };
        let attempts = self.attempts + 1;
        if attempts < MAX_ATTEMPTS {
            self.broker.done(Some((task, attempts)));
            return;
        }
        let mut report = Report::default();
        report.totals.failed = 1;
        let message = format!("gave up after {attempts} attempts: {why}");
        let path = task.directory().as_bytes().to_vec();
        report.failures.push(Failure::new(path, Operation::Run, None, message));
        self.broker.absorb(report);
        self.broker.done(None);
    }
}

impl Drop for EmbeddedTicket {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            self.broker.done(Some((task, self.attempts)));
        }
    }
}
