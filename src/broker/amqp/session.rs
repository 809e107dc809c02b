//! One connection of a worker, from its opening to its loss.

use super::connection;
use super::consume::{self, Consumption, Source};
use super::control::Ear;
use super::envelope::Seal;
use super::joblog::{self, Next, Reader};
use super::lanes::{Arrived, Lanes};
use super::lead;
use super::messages::{JobEvent, What};
use super::patience::Patience;
use super::publish::{self, Publisher};
use super::run::Run;
use super::settle::{self, Desk};
use super::terms::Terms;
use super::token::Held;
use super::topology;
use super::worker::{Core, JobGate, Led, Stage};
use crate::model::fleet::{JobPhase, NodeJob};
use crate::model::{JobId, JobSpec, Queue};
use crate::telemetry::Board;
use lapin::{Channel, Connection};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Deliveries that are open for longer are finished by publishing what is left of them, so that everybody gets a part of
/// an old backlog.
pub(super) const MAX_AGE: Duration = Duration::from_secs(5);
/// One that is open for so long all the same, since its task takes as long, is moved to a queue of this run's own and comes
/// back at once: no consumer time-out of the broker can bite.
const MOVE_AFTER: Duration = Duration::from_secs(8);
/// How often that is looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// How often a node that refused a job is asked again: its roots may be mounted by then.
const ADMIT_AGAIN: Duration = Duration::from_secs(5);
/// The job log is read up to its end when nothing came for so long.
const REPLAY_QUIET: Duration = Duration::from_millis(5);
/// Suspects are worked on one at a time, so that it is known who a worker died with.
const ONE: u16 = 1;
/// As many as there are.
const ALL: u16 = 0;

/// How a job stands, as the log of jobs tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobState {
    pub phase: JobPhase,
    /// Nobody takes a task of it.
    pub paused: bool,
    /// Somebody wants it to end, and why.
    pub cancel: Option<String>,
    /// This worker was taken off it, and why.
    pub quarantined: Option<String>,
}

impl JobState {
    fn new() -> Self {
        JobState { phase: JobPhase::Walking, paused: false, cancel: None, quarantined: None }
    }
}

type States = watch::Receiver<JobState>;
/// What an event does to a job.
type Change = Box<dyn Fn(&mut JobState)>;

/// What is known of a job.
struct Known {
    spec: JobSpec,

    state: watch::Sender<JobState>,
    /// The run and the channel that it consumes on, or why the job is refused.
    standing: Option<Result<(Arc<Run>, Channel), String>>,
}

/// One connection of a worker.
pub(super) struct Session {
    pub id: u64,
    core: Arc<Core>,
    connection: Connection,
    publisher: Arc<Publisher>,
    jobs: Mutex<HashMap<JobId, Known>>,
    said_idle: Mutex<[u32; 2]>,
}

/// Serves jobs until the connection fails, or the worker is closed.
pub(super) async fn serve(core: &Arc<Core>, connection: Connection) -> lapin::Result<()> {
    let (publisher, inbox) = Publisher::new();
    *core.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.status().clone());
    let session = Arc::new(Session {
        id: super::random(),
        core: Arc::clone(core),
        connection,
        publisher: Arc::clone(&publisher),
        jobs: Mutex::default(),
        said_idle: Mutex::default(),
    });
    let mut stage = core.stage.subscribe();
    let mut jobs = JoinSet::new();
    let ended = async {
        let (log, ear, out) = session.set_up().await?;
        core.set_together();
        let torn_down = || session.tear_down();
        let mut publishing = pin!(publish::serve(&publisher, &out, inbox, &torn_down));
        let ended = tokio::select! {
            ended = &mut publishing => ended,
            ended = ear.serve(&session) => ended,
            ended = session.follow(log, &mut jobs) => ended,
            _ = stage.wait_for(|s| *s == Stage::Close) => Ok(()),
        };
        // Before `publishing` lets go of the tokens of what was not confirmed: the jobs' tasks still run, and
        // would acknowledge them.
        session.tear_down();
        ended
    };
    let ended = ended.await;
    jobs.shutdown().await;
    // A job may have begun another run meanwhile.
    session.tear_down();
    connection::close(&session.connection).await;
    ended
}

/// Waits, but not for a job that was removed.
async fn wait(pause: Duration, states: &mut States) {
    let removed = async { while states.changed().await.is_ok() {} };
    // It is over either way.
    let _ = tokio::time::timeout(pause, removed).await;
}

impl Session {
    async fn set_up(&self) -> lapin::Result<(Reader<JobEvent>, Ear, Channel)> {
        let channel = self.connection.create_channel().await?;
        topology::declare_shared(&channel).await?;
        let out = connection::confirmed_channel(&self.connection).await?;
        let ear = Ear::open(&self.connection, self.id).await?;
        Ok((Reader::open(&self.connection, self.seal(), topology::JOB_LOG, 0).await?, ear, out))
    }

    fn tear_down(&self) {
        self.core.forget_runs();
        self.publisher.set_broken();
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Known>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lanes(&self) -> &Arc<Lanes> {
        &self.core.lanes
    }

    pub fn seal(&self) -> &Seal {
        &self.core.config.seal
    }

    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub fn worker_name(&self) -> &str {
        &self.core.name
    }

    /// How this worker stands with a job.
    pub fn standing(&self, job: JobId) -> Option<Result<(Arc<Run>, Channel), String>> {
        self.jobs().get(&job).and_then(|known| known.standing.clone())
    }

    /// Remembers what is said about idle actors; gives what was said before, which the leader's sum holds.
    pub fn swap_said_idle(&self, idle: [u32; 2]) -> [u32; 2] {
        std::mem::replace(&mut *self.said_idle.lock().unwrap_or_else(PoisonError::into_inner), idle)
    }

    /// Is this still about the job as it is, and not about what it was before it began again?
    fn is_current(&self, job: JobId, states: &States) -> bool {
        self.jobs().get(&job).is_none_or(|known| known.state.subscribe().same_channel(states))
    }

    fn set_standing(&self, job: JobId, states: &States, standing: Option<Result<(Arc<Run>, Channel), String>>) {
        if let Some(known) = self.jobs().get_mut(&job).filter(|known| known.state.subscribe().same_channel(states)) {
            known.standing = standing;
        }
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    pub fn gate(&self) -> Arc<dyn JobGate> {
        Arc::clone(&self.core.gate)
    }

    /// For how long a dead worker may go unnoticed by the broker.
    pub fn unnoticed(&self) -> Duration {
        self.core.config.unnoticed()
    }

    /// Returns when the worker is on its way out.
    pub async fn is_leaving(&self) {
        // The sender lives as long as the worker.
        let _ = self.core.stage.subscribe().wait_for(|s| *s != Stage::Open).await;
    }

    /// This worker leads a job from now on, until what is given back is dropped.
    pub fn register_board(&self, spec: &JobSpec, board: &Arc<Board>) -> Led {
        Led::new(&self.core, spec, board)
    }

    /// Reads the job log. Jobs begin when it is quiet, so that those long gone are passed over in one go.
    async fn follow(self: &Arc<Self>, mut log: Reader<JobEvent>, tasks: &mut JoinSet<()>) -> lapin::Result<()> {
        let mut fresh: Vec<JobId> = Vec::new();
        loop {
            let quiet = if fresh.is_empty() { Duration::MAX } else { REPLAY_QUIET };
            match log.next(quiet).await? {
                Some(Next::Entry(event)) => fresh.extend(self.take_in(event).filter(|job| !fresh.contains(job))),
                Some(Next::Passed) => {}
                Some(Next::Quiet) => {
                    while tasks.try_join_next().is_some() {}
                    for job in fresh.drain(..) {
                        let known = self.jobs().get(&job).map(|k| (k.spec.clone(), k.state.subscribe()));
                        match known {
                            Some((spec, states)) => drop(tasks.spawn(Arc::clone(self).work(spec, states))),
                            // It may have ended while this worker had lost the broker.
                            None => self.core.retire(job).await,
                        }
                    }
                }
                None => return Ok(()),
            }
        }
    }

    /// Takes note of an event; gives back a job that begins.
    fn take_in(&self, event: JobEvent) -> Option<JobId> {
        let mut jobs = self.jobs();
        let (job, change): (JobId, Change) = match event {
            JobEvent::Submitted(spec) => {
                let job = spec.id;
                let begins = !jobs.contains_key(&job);
                let (state, standing) = (watch::Sender::new(JobState::new()), None);
                jobs.entry(job).or_insert(Known { spec: *spec, state, standing });
                return begins.then_some(job);
            }
            JobEvent::Removed(job) => {
                // Its task hears that the sender is gone.
                jobs.remove(&job);
                return None;
            }
            JobEvent::Reopened(job) => {
                // Whoever still clears up what was before hears that the sender is gone.
                let known = jobs.get_mut(&job)?;
                known.state = watch::Sender::new(JobState::new());
                known.standing = None;
                return Some(job);
            }
            JobEvent::Led { .. } => return None,
            JobEvent::Finishing(job) => (job, Box::new(|s| s.phase = s.phase.max(JobPhase::Finishing))),
            JobEvent::Stopping(job) => (job, Box::new(|s| s.phase = s.phase.max(JobPhase::Stopping))),
            JobEvent::Finished { job, .. } => (job, Box::new(|s| s.phase = JobPhase::Ended)),
            JobEvent::Paused(job) => (job, Box::new(|s| s.paused = true)),
            JobEvent::Resumed(job) => (job, Box::new(|s| s.paused = false)),
            JobEvent::Cancel { job, why } => (job, Box::new(move |s| s.cancel = Some(why.clone()))),
            JobEvent::Quarantined { job, worker, why } if worker == self.core.name => {
                (job, Box::new(move |s| s.quarantined = Some(why.clone())))
            }
            JobEvent::Quarantined { .. } => return None,
        };
        if let Some(known) = jobs.get(&job) {
            known.state.send_if_modified(|now| {
                let before = now.clone();
                change(now);
                *now != before
            });
        }
        None
    }

    /// Takes part in one job until it is over.
    async fn work(self: Arc<Self>, spec: JobSpec, mut states: States) {
        let job = spec.id;
        if states.borrow().phase == JobPhase::Ended {
            // What is left to do is to clear up, and only if nobody came to that.
            let mut beyond = states.clone();
            tokio::select! {
                ended = lead::serve(&self, &spec, states) => if let Err(e) = ended {
                    tracing::debug!(%job, error = %e, "clearing up after a job was not possible");
                },
                // It is removed, or begins again.
                () = async { while beyond.changed().await.is_ok() {} } => {}
            }
            return;
        }
        if !self.is_gone(job, &states).await && self.be_admitted(&spec, &mut states).await {
            self.take_part_to_the_end(&spec, &mut states).await;
        }
        // The session's owner sees it as well, and comes back with a new connection.
        if self.connection.status().connected() {
            self.set_standing(job, &states, None);
            if self.is_current(job, &states) {
                self.core.retire(job).await;
            }
        }
    }

    /// Asks the node until it admits the job; false if the job was gone first.
    async fn be_admitted(&self, spec: &JobSpec, states: &mut States) -> bool {
        let job = spec.id;
        let mut said = None;
        while let Err(reason) = self.core.admit(spec.clone()).await {
            if said.as_ref() != Some(&reason) {
                tracing::error!(%job, reason, "this worker takes no task of the job; it looks again now and then");
                said = Some(reason.clone());
            }
            self.set_standing(job, states, Some(Err(reason)));
            wait(ADMIT_AGAIN, states).await;
            if self.is_gone(job, states).await {
                return false;
            }
        }
        true
    }

    /// Takes part through one channel after the other until the job or the connection is gone.
    async fn take_part_to_the_end(self: &Arc<Self>, spec: &JobSpec, states: &mut States) {
        let job = spec.id;
        let mut patience = Patience::new();
        loop {
            let began = Instant::now();
            let ended = self.take_part(spec, states).await;
            let reason = states.borrow().quarantined.clone();
            self.set_standing(job, states, reason.map(|why| Err(format!("in quarantine: {why}"))));
            if !self.connection.status().connected() || self.is_gone(job, states).await {
                return;
            }
            match ended {
                Ok(Left::Quarantined) => {
                    let removed = async { while states.changed().await.is_ok() {} };
                    return removed.await;
                }
                Ok(Left::Over) => tracing::debug!(%job, "a queue of the job is missing"),
                Err(e) => tracing::warn!(%job, error = %e, "lost the job's channel; opening another"),
            }
            patience.lived(began.elapsed());
            wait(patience.pause(), states).await;
        }
    }

    /// Is there nothing left of the job? Those long gone are in the log, too: they have no queues any more. One
    /// that somebody deleted does not end a job.
    async fn is_gone(&self, job: JobId, states: &States) -> bool {
        if states.has_changed().is_err() {
            return true;
        }
        for queue in Queue::ALL {
            // Each on a channel of its own: the answer that a queue is missing closes it.
            let look = async {
                let channel = self.connection.create_channel().await?;
                connection::depth(&channel, &topology::tasks(job, queue)).await
            };
            if look.await.map_or_else(|e| !connection::is_missing(&e), |_| true) {
                return false;
            }
        }
        true
    }

    /// Takes part through one channel.
    async fn take_part(self: &Arc<Self>, spec: &JobSpec, states: &mut States) -> lapin::Result<Left> {
        // Each run counts from zero, so it has a number of its own.
        let weight = u32::from(spec.priority).max(1);
        let run = Run::new(spec.id, super::random(), weight, Arc::clone(&self.publisher), self.seal().clone());
        let channel = self.connection.create_channel().await?;
        let reports = connection::confirmed_channel(&self.connection).await?;
        self.lanes().open(&run);
        self.core.add_run(&run);
        self.set_standing(spec.id, states, Some(Ok((Arc::clone(&run), channel.clone()))));
        let desk = Desk::new(channel.clone(), reports.clone(), self.core.name.clone());
        let mut parks = false;
        let leading = states.clone();
        let ended = tokio::select! {
            ended = settle::serve(&run, self.lanes(), desk) => ended.map(|()| Left::Over),
            ended = self.attend(&run, channel.clone(), states, &mut parks) => ended,
            ended = self.lead(spec, leading) => ended.map(|()| Left::Over),
        };
        run.set_gone();
        self.lanes().close(&run);
        // Whatever is not acknowledged goes to others now. They may be closed already.
        drop(channel.close(200, "done".into()).await);
        drop(reports.close(200, "done".into()).await);
        // What is left in its queue of parked deliveries, and the queue, is the leader's business.
        ended
    }

    /// Leads the job whenever it is this worker's turn. What goes wrong with that costs no delivery.
    async fn lead(self: &Arc<Self>, spec: &JobSpec, states: States) -> lapin::Result<()> {
        let mut patience = Patience::new();
        loop {
            let began = Instant::now();
            match lead::serve(self, spec, states.clone()).await {
                Err(e) if self.connection.status().connected() => {
                    tracing::warn!(job = %spec.id, error = %e, "leading the job was interrupted");
                    patience.lived(began.elapsed());
                    tokio::time::sleep(patience.pause()).await;
                }
                ended => return ended,
            }
        }
    }

    /// Starts and ends consumers as the job goes on, and keeps deliveries from getting old.
    async fn attend(
        &self,
        run: &Arc<Run>,
        channel: Channel,
        states: &mut States,
        parks: &mut bool,
    ) -> lapin::Result<Left> {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let mut consumption = Consumption::new(run, self.lanes(), channel.clone(), ended);
        let mut stage = self.core.stage.subscribe();
        let mut terms = self.core.terms.subscribe();
        let mut share = *terms.borrow();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let (state, now) = (states.borrow_and_update().clone(), *stage.borrow_and_update());
            let before = std::mem::replace(&mut share, *terms.borrow_and_update());
            if before.prefetch != share.prefetch && state.phase < JobPhase::Ended {
                consumption.cancel().await?;
            }
            let paused = state.paused || share.paused;
            if state.quarantined.is_some() && run.live() == 0 && !run.has_news() {
                return Ok(Left::Quarantined);
            }
            let takes = now == Stage::Open && !paused && state.quarantined.is_none();
            self.arrange(run, &mut consumption, state.phase, takes, share).await?;
            tokio::select! {
                changed = terms.changed() => if changed.is_err() { return Ok(Left::Over) },
                changed = states.changed() => if changed.is_err() { return Ok(Left::Over) },
                changed = stage.changed() => if changed.is_err() { return Ok(Left::Over) },
                end = ends.recv(), if !run.is_over() && now == Stage::Open => {
                    return end.flatten().map_or(Ok(Left::Over), Err);
                }
                _ = sweep.tick() => {
                    consumption.collect();
                    self.sweep(run);
                    self.move_on(run, &mut consumption, &channel, parks).await?;
                }
            }
        }
    }

    async fn arrange(
        &self,
        run: &Arc<Run>,
        consumption: &mut Consumption,
        phase: JobPhase,
        takes: bool,
        share: Terms,
    ) -> lapin::Result<()> {
        let [dirs, files] = share.prefetch;
        self.lanes().pause(run, !takes);
        if phase >= JobPhase::Stopping {
            run.set_stopping();
            // What waits is dropped; the leader empties the queues.
            abandon(&self.lanes().clear(run));
            // The queues of one that is over are going: the broker ends the consumers itself.
            if phase < JobPhase::Ended {
                consumption.cancel().await?;
                abandon(&self.lanes().clear(run));
            }
        } else if takes {
            let wanted = [
                (Source::Tasks(Queue::Finish), files, phase == JobPhase::Finishing && files > 0),
                (Source::Tasks(Queue::Dirs), dirs, dirs > 0),
                (Source::Tasks(Queue::Files), files, files > 0),
                (Source::Suspects, ONE, files > 0),
            ];
            for (source, prefetch, _) in wanted.into_iter().filter(|(_, _, wanted)| *wanted) {
                consumption.start(source, prefetch).await?;
            }
        } else {
            consumption.cancel().await?;
            // Nothing comes any more: what is here goes back, for others.
            give_away(self.lanes().clear(run));
        }
        Ok(())
    }

    fn sweep(&self, run: &Arc<Run>) {
        give_away(self.lanes().take_old(run, MAX_AGE));
    }

    /// How this worker stands with each job that it knows.
    pub fn node_jobs(&self) -> Vec<NodeJob> {
        let (jobs, mut all) = (self.jobs(), Vec::new());
        for (job, known) in jobs.iter() {
            let (unsettled, refused) = match &known.standing {
                Some(Ok((run, _))) => (run.live(), None),
                Some(Err(why)) => (0, Some(why.clone())),
                None => (0, None),
            };
            all.push(NodeJob { job: *job, refused, unsettled, leads: self.core.leads(*job), target: None });
        }
        all.sort_by_key(|known| known.job);
        all
    }

    /// Moves deliveries that have been open for long to a queue of this run's own, from where they come back at once.
    async fn move_on(
        &self,
        run: &Arc<Run>,
        consumption: &mut Consumption,
        channel: &Channel,
        parks: &mut bool,
    ) -> lapin::Result<()> {
        let old: Vec<_> = run.open_tokens().into_iter().filter(|t| t.must_move(MOVE_AFTER)).collect();
        if !old.is_empty() && !*parks {
            topology::declare_hold(channel, run.job, run.session).await?;
            let out = connection::confirmed_channel(&self.connection).await?;
            // The leader must know where to look when this worker is gone.
            joblog::record(&out, self.seal(), run.job, What::Parks(run.session)).await?;
            out.close(200, "done".into()).await?;
            *parks = true;
        }
        if *parks {
            consumption.start(Source::Hold, ALL).await?;
        }
        for token in old {
            if publish::park(token).is_err() {
                tracing::debug!("the connection is gone; the broker delivers again by itself");
            }
        }
        Ok(())
    }
}

/// Tasks that are left undone.
fn abandon((tasks, _): &(Vec<Held>, Vec<Arrived>)) {
    tasks.iter().for_each(|held| held.token.abandon());
}

/// Gives tasks and deliveries that nobody looked into to the broker, as messages of their own.
fn give_away((mut tasks, untouched): (Vec<Held>, Vec<Arrived>)) {
    tasks.extend(untouched.into_iter().filter_map(|a| consume::look_into(a, false)).flatten());
    if publish::post(tasks, false).is_err() {
        tracing::debug!("the connection is gone; the broker delivers again by itself");
    }
}

/// How a worker left a job.
enum Left {
    /// It is over, or its channel is.
    Over,
    /// This worker was taken off it.
    Quarantined,
}
