//! A worker: one connection at a time, for ever.

use super::consume;
use super::lanes::{Lanes, Taken};
use super::patience::Patience;
use super::run::Run;
use super::session;
use super::terms::Terms;
use super::ticket::AmqpTicket;
use super::token::Held;
use super::waits::Waits;
use super::{AmqpConfig, AmqpError, connection, nameplate, publish};
use crate::broker::{Broker, Delivery, Pool};
use crate::model::fleet::{Answer, JobProgress, Order, Space};
use crate::model::{JobId, JobSpec, Report, TaskId, Timestamp, Totals};
use crate::telemetry::Board;
use lapin::{Connection, ConnectionStatus};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Why a worker that has just begun is without its broker.
const CONNECTING: &str = "connecting to the broker";
/// Failures and notes of a job that are told to those who look.
const TOLD: usize = 10;

/// What the node decides about jobs. Calls come from threads of their own and may block.
pub trait JobGate: Send + Sync {
    /// A job is known; called again after each reconnection. Opens its roots.
    ///
    /// # Errors
    /// Why this worker takes no task of it: the roots are not there, or not the job's.
    fn admit(&self, spec: &JobSpec) -> Result<(), String>;

    /// The job is over: its roots are not needed any more. A task may still be in some actor's hands.
    fn retire(&self, job: JobId);

    /// Asked where the job is led, once everything has been found and before anything is removed or finished.
    ///
    /// # Errors
    /// Why the job must not go on.
    fn may_finish(&self, _job: JobId, _totals: &Totals) -> Result<(), String> {
        Ok(())
    }

    /// Everything is done: clears up what the job needed only while it ran. Called where the job is led, once or, if its
    /// leader dies, again.
    fn conclude(&self, _job: JobId) -> Report {
        Report::default()
    }

    /// How full the job's target is. Called for a job that was admitted, and answers soon.
    fn target(&self, _job: JobId) -> Option<Space> {
        None
    }

    /// Does what is asked, and says what came of it. What ends the worker is left to [`JobGate::answered`].
    fn order(&self, _order: Order) -> Answer {
        Answer::Refused("this worker takes no orders".to_owned())
    }

    /// The answer to an order is on its way.
    fn answered(&self, _order: &Order) {}
}

/// How far a worker is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    Drain,
    Close,
}

/// What lives as long as the worker.
pub(super) struct Core {
    pub config: AmqpConfig,
    pub name: String,
    pub gate: Arc<dyn JobGate>,
    pub lanes: Arc<Lanes>,
    pub stage: watch::Sender<Stage>,
    pub terms: watch::Sender<Terms>,
    /// Jobs that this worker leads, with when they were submitted, and their boards.
    led: Mutex<HashMap<JobId, (Timestamp, Arc<Board>)>>,
    runs: Mutex<Vec<Arc<Run>>>,
    /// Jobs whose roots the node holds.
    admitted: Mutex<HashSet<JobId>>,
    /// The connection, as it is at the moment.
    pub status: Mutex<Option<ConnectionStatus>>,
    waits: Waits,
    failed: Mutex<Option<String>>,
    /// Why it is not with the broker, if it is not.
    apart: Mutex<Option<String>>,
    /// Tasks that actors took.
    taken: AtomicU64,
}

impl Core {
    fn new(config: &AmqpConfig, name: String, gate: Arc<dyn JobGate>) -> Arc<Self> {
        let lanes = Arc::<Lanes>::default();
        lanes.set_served(config.prefetch.map(|n| n > 0));
        Arc::new(Core {
            config: config.clone(),
            name,
            gate,
            lanes,
            stage: watch::Sender::new(Stage::Open),
            terms: watch::Sender::new(Terms { prefetch: config.prefetch, ..Terms::default() }),
            led: Mutex::default(),
            runs: Mutex::default(),
            admitted: Mutex::default(),
            status: Mutex::default(),
            waits: Waits::default(),
            failed: Mutex::default(),
            apart: Mutex::new(Some(CONNECTING.to_owned())),
            taken: AtomicU64::new(0),
        })
    }

    fn led(&self) -> MutexGuard<'_, HashMap<JobId, (Timestamp, Arc<Board>)>> {
        self.led.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn leads(&self, job: JobId) -> bool {
        self.led().contains_key(&job)
    }

    /// How the jobs stand that this worker leads.
    pub fn leading(&self) -> Vec<JobProgress> {
        let boards: Vec<_> = self.led().iter().map(|(job, (since, board))| (*job, *since, Arc::clone(board))).collect();
        boards.into_iter().map(|(job, since, board)| progress(job, since, &board)).collect()
    }

    fn set_apart(&self, why: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.apart.lock().unwrap_or_else(PoisonError::into_inner), why)
    }

    /// It is with the broker, and what it needs there is there.
    pub fn set_together(&self) {
        if self.set_apart(None).is_some_and(|why| why != CONNECTING) {
            tracing::info!(broker = %self.config, "the broker is back");
        }
    }

    pub fn add_run(&self, run: &Arc<Run>) {
        let mut runs = self.runs();
        runs.retain(|r| !r.is_gone());
        runs.push(Arc::clone(run));
    }

    /// The connection is gone, and all that belongs to it.
    pub fn forget_runs(&self) {
        for run in std::mem::take(&mut *self.runs()) {
            run.set_gone();
            self.lanes.close(&run);
        }
    }

    /// Asks the node whether this worker takes part.
    pub async fn admit(self: &Arc<Self>, spec: JobSpec) -> Result<(), String> {
        let core = Arc::clone(self);
        let job = spec.id;
        let asked = tokio::task::spawn_blocking(move || core.gate.admit(&spec)).await;
        asked.unwrap_or_else(|e| Err(format!("looking at the job's roots failed: {e}")))?;
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner).insert(job);
        Ok(())
    }

    /// Tells the node that a job that it admitted is over.
    pub async fn retire(self: &Arc<Self>, job: JobId) {
        if !self.admitted.lock().unwrap_or_else(PoisonError::into_inner).remove(&job) {
            return;
        }
        let core = Arc::clone(self);
        if let Err(e) = tokio::task::spawn_blocking(move || core.gate.retire(job)).await {
            tracing::error!(%job, error = %e, "leaving the job failed");
        }
    }

    fn runs(&self) -> MutexGuard<'_, Vec<Arc<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_blocked(&self) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.as_ref().is_some_and(ConnectionStatus::blocked)
    }

    fn is_settled(&self) -> bool {
        self.runs().iter().all(|r| r.is_gone() || (r.live() == 0 && !r.has_news()))
    }

    fn is_closing(&self) -> bool {
        *self.stage.borrow() == Stage::Close
    }
}

/// That a worker leads a job, as long as it does.
pub(super) struct Led {
    core: Arc<Core>,
    job: JobId,
}

impl Led {
    pub fn new(core: &Arc<Core>, spec: &JobSpec, board: &Arc<Board>) -> Self {
        core.led().insert(spec.id, (spec.submitted, Arc::clone(board)));
        Led { core: Arc::clone(core), job: spec.id }
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        self.core.led().remove(&self.job);
    }
}

/// What of a board travels.
fn progress(job: JobId, submitted: Timestamp, board: &Board) -> JobProgress {
    let mut now = board.snapshot();
    now.notes.truncate(TOLD);
    let seconds = Timestamp::now().sec.saturating_sub(submitted.sec);
    JobProgress {
        job,
        totals: board.progress(),
        walk_over: now.walk_over,
        elapsed_ms: u64::try_from(seconds).unwrap_or_default().saturating_mul(1000),
        notes: now.notes,
        failures: board.latest_failures(TOLD),
    }
}

/// The broker as the actors of one process see it. It has threads of its own; actors need none.
///
/// It survives the loss of its connection: it comes back when the broker does, and the broker delivers again
/// what was not acknowledged.
pub struct Worker {
    core: Arc<Core>,
    runtime: Mutex<Option<Runtime>>,
    over: Mutex<mpsc::Receiver<()>>,
}

impl Worker {
    /// Joins the fleet of a broker.
    ///
    /// # Errors
    /// Any [`AmqpError`]; only this first connection is not tried again.
    ///
    /// # Blocking
    /// Until the broker answers.
    pub fn connect(config: &AmqpConfig, name: String, gate: Arc<dyn JobGate>) -> Result<Arc<Worker>, AmqpError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("amqp").enable_all().build()?;
        let (opened, first) = mpsc::channel();
        let (end, over) = mpsc::channel();
        let config = config.clone();
        runtime.spawn(async move {
            match connection::open(&config, &format!("worker {name}")).await {
                Ok(connection) => {
                    let name = nameplate::settle(&connection, &name).await;
                    let core = Core::new(&config, name, gate);
                    let _ = opened.send(Ok(Arc::clone(&core)));
                    supervise(&core, connection).await;
                }
                Err(e) => drop(opened.send(Err(e))),
            }
            drop(end);
        });
        // The sender is dropped unused only if the task panicked.
        let ended = |_| AmqpError::Threads(std::io::Error::other("the broker's thread ended"));
        let core = first.recv().map_err(ended)??;
        Ok(Arc::new(Worker { core, runtime: Mutex::new(Some(runtime)), over: Mutex::new(over) }))
    }

    /// What it is called: as it was told, or with its process number if another worker had that name already.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Takes no task any more, or takes them again. What waits goes back to the broker; tasks in actors' hands can be
    /// finished, and what they post goes to the broker, too.
    pub fn pause(&self, paused: bool) {
        self.core.terms.send_if_modified(|terms| std::mem::replace(&mut terms.paused, paused) != paused);
    }

    /// Is it paused by [`Worker::pause`]?
    pub fn is_paused(&self) -> bool {
        self.core.terms.borrow().paused
    }

    /// Is it on its way out?
    pub fn is_ending(&self) -> bool {
        *self.core.stage.borrow() != Stage::Open
    }

    /// Changes how many deliveries may be here at a time, for dir actors and for file actors; 0 leaves the queues of
    /// that pool alone.
    pub fn set_prefetch(&self, prefetch: [u16; 2]) {
        self.core.lanes.set_served(prefetch.map(|n| n > 0));
        self.core.terms.send_if_modified(|terms| std::mem::replace(&mut terms.prefetch, prefetch) != prefetch);
    }

    /// How the jobs stand that it leads.
    pub fn leading(&self) -> Vec<JobProgress> {
        self.core.leading()
    }

    /// Begins to stop: no actor gets another task, the broker sends no more, and what waits goes back to it.
    /// Tasks in actors' hands can be finished.
    pub fn drain(&self) {
        self.core.lanes.drain();
        self.core.stage.send_if_modified(|s| *s == Stage::Open && std::mem::replace(s, Stage::Drain) == Stage::Open);
    }

    /// Ends after [`Worker::drain`]: waits until what the actors finished is reported and acknowledged, then
    /// leaves the broker. Whatever is not by then is delivered to others. True if nothing was left.
    ///
    /// # Blocking
    /// For `patience` at most, and two seconds to say goodbye.
    pub fn close(&self, patience: Duration) -> bool {
        self.drain();
        let deadline = Instant::now() + patience;
        while !self.core.is_settled() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let settled = self.core.is_settled();
        self.core.stage.send_replace(Stage::Close);
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = over.recv_timeout(Duration::from_secs(3));
        drop(over);
        if let Some(runtime) = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
        settled
    }

    /// Does it take tasks?
    ///
    /// # Errors
    /// Why it takes none at the moment: it is on its way out, without the broker, or paused.
    pub fn takes_tasks(&self) -> Result<(), String> {
        if let Some(why) = self.failed() {
            return Err(format!("gave up on the broker: {why}"));
        }
        if self.is_ending() {
            return Err("draining: it finishes what is in hand, and ends".to_owned());
        }
        if let Some(why) = self.core.apart.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Err(why);
        }
        if self.is_paused() { Err("paused".to_owned()) } else { Ok(()) }
    }

    /// Why this worker has given up, if it has: the broker does not let it in any more.
    pub fn failed(&self) -> Option<String> {
        self.core.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long tasks that actors took lately had waited, on average: since they were posted, if they never left this
    /// worker, and else since their message was published, to the second below.
    pub fn queue_wait(&self) -> Duration {
        self.core.waits.lately(Instant::now())
    }

    /// Does the broker take no messages from this worker, since it has an alarm?
    pub fn is_blocked(&self) -> bool {
        self.core.is_blocked()
    }

    /// Deliveries that are not acknowledged.
    pub fn live(&self) -> u64 {
        self.core.runs().iter().map(|r| r.live()).sum()
    }

    fn deliver(&self, held: Held, pool: Pool) -> Delivery {
        let (job, task, redelivered) = (held.token.run.job, Arc::clone(&held.task), held.again);
        let id = TaskId { message: held.token.message(), number: 1 + self.core.taken.fetch_add(1, Relaxed) };
        let (lanes, since) = (Arc::clone(&self.core.lanes), Instant::now());
        self.core.waits.taken(since, since.saturating_duration_since(held.since));
        let ticket = AmqpTicket { lanes, held: Some(held), pool, since };
        Delivery { id, job, task, redelivered, ticket: Box::new(ticket) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }
}

impl Broker for Arc<Worker> {
    fn take(&self, pool: Pool, patience: Duration) -> Option<Delivery> {
        let lanes = &self.core.lanes;
        loop {
            let mut held = match lanes.take(pool, patience, |run| run.wake.notify_one())? {
                Taken::Task(held) => vec![held],
                Taken::Message(arrived) => consume::look_into(arrived, true).unwrap_or_default(),
            };
            if held.is_empty() {
                continue;
            }
            let rest = held.split_off(1);
            if !rest.is_empty() && publish::post(lanes.put_back(rest), true).is_err() {
                tracing::debug!("the connection is gone; the broker delivers again by itself");
            }
            if let Some(held) = held.pop() {
                return Some(self.deliver(held, pool));
            }
        }
    }
}

/// Serves on one connection after the other until the worker is closed or refused for good.
async fn supervise(core: &Arc<Core>, first: Connection) {
    let mut connection = first;
    let mut patience = Patience::new();
    loop {
        let began = Instant::now();
        // It has its name; what it has lost to a connection that is not quite dead is nobody's loss.
        nameplate::claim(&connection, &core.name).await;
        let ended = session::serve(core, connection).await;
        if core.is_closing() {
            return;
        }
        core.set_apart(Some(lost(core, &ended)));
        patience.lived(began.elapsed());
        connection = match come_back(core, ended, &mut patience).await {
            Ok(Some(connection)) => connection,
            Ok(None) => return,
            Err(e) => return give_up(core, &e),
        };
    }
}

/// How a connection ended, in words.
fn lost(core: &Core, ended: &lapin::Result<()>) -> String {
    match ended {
        Ok(()) => "the broker ended the consumers".to_owned(),
        Err(e) => AmqpError::using(&core.config, e).to_string(),
    }
}

fn give_up(core: &Core, error: &AmqpError) {
    tracing::error!(%error, "gave up on the broker");
    *core.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    core.lanes.drain();
}

/// Takes note of how a connection ended, and makes another; none when the worker is closed meanwhile.
async fn come_back(
    core: &Core,
    ended: lapin::Result<()>,
    patience: &mut Patience,
) -> Result<Option<Connection>, AmqpError> {
    let Err(error) = ended else {
        tracing::warn!(broker = %core.config, "the broker ended the consumers; trying to come back");
        return reconnect(core, patience).await;
    };
    let named = AmqpError::using(&core.config, &error);
    tracing::warn!(error = %named, "trying to come back");
    // A shared queue may be missing as long as another node of the broker is down, so that is no refusal.
    if !connection::is_missing(&error) {
        patience.bear(named)?;
    }
    reconnect(core, patience).await
}

/// A new connection; none when the worker is closed meanwhile.
async fn reconnect(core: &Core, patience: &mut Patience) -> Result<Option<Connection>, AmqpError> {
    let mut stage = core.stage.subscribe();
    loop {
        tokio::select! {
            () = tokio::time::sleep(patience.pause()) => {}
            _ = stage.wait_for(|s| *s == Stage::Close) => return Ok(None),
        }
        match connection::open(&core.config, &format!("worker {}", core.name)).await {
            Ok(connection) => return Ok(Some(connection)),
            Err(e) => patience.bear(e)?,
        }
    }
}
