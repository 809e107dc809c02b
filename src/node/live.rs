//! What a job that runs alone shows of itself, and how it is steered meanwhile.
//!
//! Invariant: whoever looks or steers holds up no actor; what is in an actor's hands goes on.

use super::orders::{load_milli, rss_bytes};
use super::{JobLook, Look, PoolSizes, Pools};
use crate::actor::{MAX_ACTORS, PoolSupervisor, Resize, Roster};
use crate::broker::amqp::{Answers, JobState, QueueDepth};
use crate::broker::embedded::Embedded;
use crate::broker::{Broker, Delivery, Pool};
use crate::model::fleet::{
    Activity, Answer, JobEnd, JobLatencies, JobPhase, JobProgress, NodeInfo, NodeJob, Order, PoolKind,
};
use crate::model::{JobSpec, Report, Timestamp};
use crate::telemetry::Board;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Orders that wait for their turn.
const WAITING_ORDERS: usize = 16;
/// Failures that one look holds.
const FAILURES: usize = 20;
/// Notes that one look holds.
const NOTES: usize = 50;

/// Says how long calls of the job took so far.
pub type Times = Box<dyn Fn() -> Vec<JobLatencies> + Send + Sync>;

/// A job of this process, for those who look at it.
pub struct Live {
    spec: JobSpec,
    board: Arc<Board>,
    name: String,
    started: Timestamp,
    times: OnceLock<Times>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    cancelled: Option<String>,
    end: Option<JobEnd>,
}

/// What there is while actors work.
struct Running {
    rosters: [Arc<Roster>; 2],
    broker: Arc<Embedded>,
    brake: Arc<Brake>,
    wishes: mpsc::Sender<Wish>,
}

/// An order, and where its answer goes.
pub(super) struct Wish {
    order: Order,
    reply: oneshot::Sender<Answer>,
}

impl Live {
    /// Of a job that has not begun.
    pub fn new(spec: JobSpec, board: Arc<Board>) -> Arc<Self> {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (started, times, state) = (Timestamp::now(), OnceLock::new(), Mutex::default());
        Arc::new(Live { spec, board, name, started, times, state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job.
    pub(super) fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// Its board.
    pub(super) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Calls are timed, and asked for here.
    pub fn set_times(&self, times: Times) {
        let _ = self.times.set(times); // the first one stays
    }

    /// Actors begin to work. They are steered by what comes back.
    pub(super) fn begin(&self, pools: &Pools, sizes: PoolSizes, broker: &Arc<Embedded>, brake: &Arc<Brake>) -> Helm {
        let (wishes, heard) = mpsc::channel(WAITING_ORDERS);
        let (broker, brake) = (Arc::clone(broker), Arc::clone(brake));
        let running =
            Running { rosters: pools.rosters.clone(), broker: Arc::clone(&broker), brake: Arc::clone(&brake), wishes };
        self.lock().running = Some(running);
        Helm {
            wishes: heard,
            pools: [pools.dirs.clone(), pools.files.clone()],
            wanted: [sizes.dirs, sizes.files],
            brake,
        }
    }

    /// No actor works any more.
    pub(super) fn rest(&self) {
        self.lock().running = None;
    }

    /// The job is over.
    pub fn end(&self, end: JobEnd) {
        let mut state = self.lock();
        state.running = None;
        state.end = Some(end);
    }

    /// Ends the job early: what is in hand is finished.
    ///
    /// # Errors
    /// It is over, or has not begun.
    pub fn cancel(&self, why: &str) -> Result<(), String> {
        let mut state = self.lock();
        let running = state.running.as_ref().ok_or("the job does not run")?;
        let broker = Arc::clone(&running.broker);
        state.cancelled = Some(why.to_owned());
        drop(state);
        self.board.absorb(Report { abort: Some(format!("cancelled: {why}")), ..Report::default() });
        broker.stop();
        Ok(())
    }

    /// Does what is asked. Blocks for a moment; not to be called from an async context.
    pub fn obey(&self, order: Order) -> Answer {
        let gone = || Answer::Refused("the job does not run".to_owned());
        let Some(wishes) = self.lock().running.as_ref().map(|running| running.wishes.clone()) else { return gone() };
        let (reply, answer) = oneshot::channel();
        match wishes.try_send(Wish { order, reply }) {
            Ok(()) => answer.blocking_recv().unwrap_or_else(|_| gone()),
            Err(_) => Answer::Refused("too much is asked at once".to_owned()),
        }
    }

    /// One look, as if it were a fleet of one node.
    pub fn look(&self) -> Look {
        let state = self.lock();
        let snapshot = self.board.snapshot();
        let paused = state.running.as_ref().is_some_and(|running| running.brake.is_on());
        let (queues, in_hand) = state.running.as_ref().map_or_else(
            || (Vec::new(), 0),
            |running| (depths(&running.broker, &running.rosters), running.broker.in_flight()),
        );
        let phase = match (&state.end, &state.cancelled, snapshot.walk_over) {
            (Some(_), _, _) => JobPhase::Ended,
            (None, Some(_), _) => JobPhase::Stopping,
            (None, None, true) => JobPhase::Finishing,
            (None, None, false) => JobPhase::Walking,
        };
        let progress = JobProgress {
            job: self.spec.id,
            totals: self.board.progress(),
            walk_over: snapshot.walk_over,
            elapsed_ms: u64::try_from(snapshot.elapsed.as_millis()).unwrap_or(u64::MAX),
            notes: snapshot.notes.into_iter().take(NOTES).collect(),
            failures: self.board.latest_failures(FAILURES),
        };
        let job = JobState {
            spec: self.spec.clone(),
            phase,
            paused,
            leader: None,
            quarantined: Vec::new(),
            cancel: state.cancelled.clone(),
            end: state.end.clone().map(|end| (end, progress.totals)),
            removed: false,
        };
        let node = self.describe(state.running.as_ref(), in_hand);
        Look {
            at: Instant::now(),
            jobs: vec![JobLook { state: job, progress: Some(progress), queues, unsettled: in_hand, leader: None }],
            gone: Vec::new(),
            nodes: vec![(self.name.clone(), node)],
            answers: Answers::default(),
        }
    }

    /// What actors do now.
    pub fn active(&self) -> Vec<(String, Activity)> {
        let rosters = self.lock().running.as_ref().map(|running| running.rosters.clone());
        let all = rosters.into_iter().flatten().flat_map(|roster| roster.active());
        all.map(|activity| (self.name.clone(), activity)).collect()
    }

    /// How long calls took; nothing where nobody times them.
    pub fn latencies(&self) -> Vec<(String, JobLatencies)> {
        let all = self.times.get().map(|times| times()).unwrap_or_default();
        all.into_iter().map(|times| (self.name.clone(), times)).collect()
    }

    fn describe(&self, running: Option<&Running>, in_hand: u64) -> NodeInfo {
        let counts = running.map(|running| [running.rosters[0].count(), running.rosters[1].count()]);
        let [dirs, files] = counts.unwrap_or_default();
        let job = NodeJob { job: self.spec.id, refused: None, unsettled: in_hand, leads: false, target: None };
        NodeInfo {
            version: env!("TREEHAUL_VERSION").to_owned(),
            host: self.name.clone(),
            pid: std::process::id(),
            started: self.started,
            actors: [dirs.0, files.0],
            busy: [dirs.1, files.1],
            paused: running.is_some_and(|running| running.brake.is_on()),
            limits: self.spec.policy.limits,
            load_milli: load_milli().unwrap_or(0),
            rss_bytes: rss_bytes().unwrap_or(0),
            jobs: vec![job],
            ..NodeInfo::default()
        }
    }
}

/// What waits, and how many actors take it.
fn depths(broker: &Embedded, rosters: &[Arc<Roster>; 2]) -> Vec<QueueDepth> {
    let depth = |(queue, ready): (crate::model::Queue, u64)| {
        let pool = if queue == crate::model::Queue::Dirs { Pool::Dirs } else { Pool::Files };
        let ready = u32::try_from(ready).unwrap_or(u32::MAX);
        QueueDepth { name: queue.noun(), ready, consumers: rosters[pool as usize].count().0 }
    };
    broker.depths().into_iter().map(depth).collect()
}

/// Where orders arrive, inside the actors' system.
pub(super) struct Helm {
    wishes: mpsc::Receiver<Wish>,
    pools: [actix::Addr<PoolSupervisor>; 2],
    wanted: [usize; 2],
    brake: Arc<Brake>,
}

impl Helm {
    /// The next order; never, once nobody can give one.
    pub async fn next(&mut self) -> Wish {
        match self.wishes.recv().await {
            Some(wish) => wish,
            None => std::future::pending().await,
        }
    }

    /// Does it, and answers.
    pub async fn obey(&mut self, Wish { order, reply }: Wish) {
        let answer = match order {
            Order::Pause => {
                self.brake.set(true);
                Answer::Done("paused".to_owned())
            }
            Order::Resume => {
                self.brake.set(false);
                Answer::Done("takes tasks".to_owned())
            }
            Order::Grow(kind, by) => self.resize(kind, |n| (n + usize::from(by)).min(MAX_ACTORS)).await,
            Order::Shrink(kind, by) => self.resize(kind, |n| n.saturating_sub(usize::from(by)).max(1)).await,
            _ => Answer::Refused("a job that runs alone does not do that".to_owned()),
        };
        let _ = reply.send(answer); // whoever asked may have gone
    }

    async fn resize(&mut self, kind: Option<PoolKind>, size: impl Fn(usize) -> usize) -> Answer {
        for at in (0..2).filter(|at| kind.is_none_or(|kind| kind as usize == *at)) {
            match self.pools[at].send(Resize(size(self.wanted[at]))).await {
                Ok(now) => self.wanted[at] = now,
                Err(e) => return Answer::Refused(format!("a pool does not answer: {e}")),
            }
        }
        Answer::Done(format!("{} dir actors, {} file actors", self.wanted[0], self.wanted[1]))
    }
}

/// A broker that gives no task while its brake is on.
pub(super) struct Brake {
    /// Looked at without the lock: every task passes here.
    on: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
    broker: Arc<dyn Broker>,
}

impl Brake {
    /// Before a broker; it is off.
    pub fn before(broker: Arc<dyn Broker>) -> Arc<Self> {
        Arc::new(Brake { on: AtomicBool::new(false), lock: Mutex::default(), changed: Condvar::new(), broker })
    }

    fn set(&self, on: bool) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.on.store(on, Ordering::Relaxed);
        drop(lock);
        self.changed.notify_all();
    }

    fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }
}

impl Broker for Brake {
    fn take(&self, pool: Pool, patience: Duration) -> Option<Delivery> {
        if self.is_on() {
            let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = self.changed.wait_timeout_while(lock, patience, |()| self.is_on());
            if self.is_on() {
                return None;
            }
        }
        self.broker.take(pool, patience)
    }
}
