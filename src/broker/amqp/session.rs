//! One connection of a worker, from its opening to its loss.

use super::connection;
use super::consume::{self, Consumption};
use super::control::Ear;
use super::envelope::Seal;
use super::joblog::{Next, Reader};
use super::lanes::{Arrived, Lanes};
use super::messages::JobEvent;
use super::patience::Patience;
use super::publish::{self, Publisher};
use super::run::Run;
use super::settle::{self, Desk};
use super::terms::Share;
use super::token::Held;
use super::topology;
use super::worker::{Core, Stage};
use crate::model::fleet::NodeJob;
use crate::model::{JobId, JobSpec, Queue};
use lapin::{Channel, Connection};
use std::collections::{HashMap, hash_map::Entry};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Deliveries that are open for longer are finished by publishing what is left of them, so that no
/// consumer time-out of the broker can bite and everybody gets a part of an old backlog.
const MAX_AGE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// How often a node that refused a job is asked again: its roots may be mounted by then.
const ADMIT_AGAIN: Duration = Duration::from_secs(5);
/// The job log is read up to its end when nothing came for so long.
const REPLAY_QUIET: Duration = Duration::from_millis(5);

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Walking,
    Finishing,
    Stopping,
}

/// What is known of a job.
struct Known {
    phase: watch::Sender<Phase>,
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

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// Serves jobs until the connection fails, or the worker is closed.
pub(super) async fn serve(core: &Arc<Core>, connection: Connection) -> lapin::Result<()> {
    let (publisher, inbox) = Publisher::new();
    let session = Arc::new(Session {
        id: random(),
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
async fn wait(pause: Duration, phases: &mut watch::Receiver<Phase>) {
    let removed = async { while phases.changed().await.is_ok() {} };
    // It is over either way.
    let _ = tokio::time::timeout(pause, removed).await;
}

impl Session {
    async fn set_up(&self) -> lapin::Result<(Reader, Ear, Channel)> {
        let channel = self.connection.create_channel().await?;
        topology::declare_shared(&channel).await?;
        let out = connection::confirmed_channel(&self.connection).await?;
        let ear = Ear::open(&self.connection, self.id).await?;
        Ok((Reader::open(&self.connection, self.seal()).await?, ear, out))
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

    fn set_standing(&self, job: JobId, standing: Option<Result<(Arc<Run>, Channel), String>>) {
        if let Some(known) = self.jobs().get_mut(&job) {
            known.standing = standing;
        }
    }

    /// Reads the job log. Jobs begin when it is quiet, so that those long gone are passed over in one go.
    async fn follow(self: &Arc<Self>, mut log: Reader, tasks: &mut JoinSet<()>) -> lapin::Result<()> {
        let mut fresh: Vec<(JobSpec, watch::Receiver<Phase>)> = Vec::new();
        loop {
            let quiet = if fresh.is_empty() { Duration::MAX } else { REPLAY_QUIET };
            match log.next(quiet).await? {
                Some(Next::Event(event)) => fresh.extend(self.take_in(event)),
                Some(Next::Quiet) => {
                    while tasks.try_join_next().is_some() {}
                    for (spec, phases) in fresh.drain(..) {
                        if phases.has_changed().is_ok() {
                            tasks.spawn(Arc::clone(self).work(spec, phases));
                        } else {
                            // It may have ended while this worker had lost the broker.
                            self.core.retire(spec.id).await;
                        }
                    }
                }
                None => return Ok(()),
            }
        }
    }

    /// Takes note of an event; gives back a job that begins.
    fn take_in(&self, event: JobEvent) -> Option<(JobSpec, watch::Receiver<Phase>)> {
        let mut jobs = self.jobs();
        let (job, phase) = match event {
            JobEvent::Submitted(spec) => {
                let Entry::Vacant(place) = jobs.entry(spec.id) else { return None };
                let (phase, phases) = watch::channel(Phase::Walking);
                place.insert(Known { phase, standing: None });
                return Some((*spec, phases));
            }
            JobEvent::Removed(job) => {
                // Its task hears that the sender is gone.
                jobs.remove(&job);
                self.core.pause_job(job, false);
                return None;
            }
            JobEvent::Finishing(job) => (job, Phase::Finishing),
            JobEvent::Stopping(job) => (job, Phase::Stopping),
            JobEvent::Paused(job) => {
                self.core.pause_job(job, true);
                return None;
            }
            JobEvent::Resumed(job) => {
                self.core.pause_job(job, false);
                return None;
            }
            _ => return None,
        };
        if let Some(known) = jobs.get(&job) {
            known.phase.send_if_modified(|now| phase > std::mem::replace(now, phase.max(*now)));
        }
        None
    }

    /// Takes part in one job until it is removed.
    async fn work(self: Arc<Self>, spec: JobSpec, mut phases: watch::Receiver<Phase>) {
        let job = spec.id;
        if !self.is_gone(job, &phases).await && self.be_admitted(spec, &mut phases).await {
            self.take_part_to_the_end(job, &mut phases).await;
        }
        // The session's owner sees it as well, and comes back with a new connection.
        if self.connection.status().connected() {
            self.jobs().remove(&job);
            self.core.retire(job).await;
        }
    }

    /// Asks the node until it admits the job; false if the job was gone first.
    async fn be_admitted(&self, spec: JobSpec, phases: &mut watch::Receiver<Phase>) -> bool {
        let job = spec.id;
        let mut said = None;
        while let Err(reason) = self.core.admit(spec.clone()).await {
            if said.as_ref() != Some(&reason) {
                tracing::error!(%job, reason, "this worker takes no task of the job; it looks again now and then");
                said = Some(reason.clone());
            }
            self.set_standing(job, Some(Err(reason)));
            wait(ADMIT_AGAIN, phases).await;
            if self.is_gone(job, phases).await {
                return false;
            }
        }
        true
    }

    /// Takes part through one channel after the other until the job or the connection is gone.
    async fn take_part_to_the_end(&self, job: JobId, phases: &mut watch::Receiver<Phase>) {
        let mut patience = Patience::new();
        loop {
            let began = Instant::now();
            let ended = self.take_part(job, phases).await;
            self.set_standing(job, None);
            if !self.connection.status().connected() || self.is_gone(job, phases).await {
                return;
            }
            let why = ended.err().map_or_else(|| "a queue of it is missing".to_owned(), |e| e.to_string());
            tracing::warn!(%job, why, "lost the job's channel; opening another");
            patience.lived(began.elapsed());
            wait(patience.pause(), phases).await;
        }
    }

    /// Is there nothing left of the job? Those long gone are in the log, too: they have no queues any more. One
    /// that somebody deleted does not end a job.
    async fn is_gone(&self, job: JobId, phases: &watch::Receiver<Phase>) -> bool {
        if phases.has_changed().is_err() {
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
    async fn take_part(&self, job: JobId, phases: &mut watch::Receiver<Phase>) -> lapin::Result<()> {
        // Each run counts from zero, so it has a number of its own.
        let run = Run::new(job, random(), Arc::clone(&self.publisher), self.seal().clone());
        let channel = self.connection.create_channel().await?;
        let reports = connection::confirmed_channel(&self.connection).await?;
        self.lanes().open(&run);
        self.core.add_run(&run);
        self.set_standing(job, Some(Ok((Arc::clone(&run), channel.clone()))));
        let desk = Desk::new(channel.clone(), reports);
        let ended = tokio::select! {
            ended = settle::serve(&run, self.lanes(), desk) => ended,
            ended = self.attend(&run, channel.clone(), phases) => ended,
        };
        run.set_gone();
        self.lanes().close(&run);
        // Whatever is not acknowledged goes to others now. It may be closed already.
        drop(channel.close(200, "done".into()).await);
        ended
    }

    /// Starts and ends consumers as the job goes on, and keeps deliveries from getting old.
    async fn attend(&self, run: &Arc<Run>, channel: Channel, phases: &mut watch::Receiver<Phase>) -> lapin::Result<()> {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let mut consumption = Consumption::new(run, self.lanes(), channel, ended);
        let mut stage = self.core.stage.subscribe();
        let mut terms = self.core.terms.subscribe();
        let mut share = terms.borrow().of(run.job);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let (phase, now) = (*phases.borrow_and_update(), *stage.borrow_and_update());
            let before = std::mem::replace(&mut share, terms.borrow_and_update().of(run.job));
            if before.prefetch != share.prefetch {
                consumption.cancel().await?;
            }
            self.arrange(run, &mut consumption, phase, now, share).await?;
            tokio::select! {
                changed = terms.changed() => if changed.is_err() { return Ok(()) },
                changed = phases.changed() => if changed.is_err() { return Ok(()) },
                changed = stage.changed() => if changed.is_err() { return Ok(()) },
                end = ends.recv(), if !run.is_over() && now == Stage::Open => {
                    let gone = || std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into();
                    return Err(end.flatten().unwrap_or_else(gone));
                }
                _ = sweep.tick() => self.sweep(run),
            }
        }
    }

    async fn arrange(
        &self,
        run: &Arc<Run>,
        consumption: &mut Consumption,
        phase: Phase,
        stage: Stage,
        share: Share,
    ) -> lapin::Result<()> {
        let [dirs, files] = share.prefetch;
        self.lanes().pause(run, share.paused && phase < Phase::Stopping && stage == Stage::Open);
        if phase >= Phase::Stopping {
            run.set_stopping();
            // What waits is dropped; the leader empties the queues.
            drop(self.lanes().clear(run));
            consumption.cancel().await?;
            drop(self.lanes().clear(run));
        } else if stage != Stage::Open {
            consumption.cancel().await?;
            let (begun, untouched) = self.lanes().clear(run);
            for arrived in &untouched {
                arrived.token.forsake();
            }
            if publish::post(begun, false).is_err() {
                tracing::debug!("the connection is gone; the broker delivers again by itself");
            }
        } else if share.paused {
            consumption.cancel().await?;
            let (begun, untouched) = self.lanes().clear(run);
            give_away(begun, untouched);
        } else {
            if phase == Phase::Finishing {
                consumption.start(Queue::Finish, files).await?;
            }
            consumption.start(Queue::Dirs, dirs).await?;
            consumption.start(Queue::Files, files).await?;
        }
        Ok(())
    }

    fn sweep(&self, run: &Arc<Run>) {
        let (old, untouched) = self.lanes().take_old(run, MAX_AGE);
        give_away(old, untouched);
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
            all.push(NodeJob { job: *job, refused, unsettled, leads: self.core.leads(*job) });
        }
        all.sort_by_key(|known| known.job);
        all
    }
}

/// Publishes what waits, so that its deliveries need not stay open for it.
fn give_away(mut held: Vec<Held>, untouched: Vec<Arrived>) {
    held.extend(untouched.into_iter().filter_map(|a| consume::look_into(a, false)).flatten());
    if publish::post(held, false).is_err() {
        tracing::debug!("the connection is gone; the broker delivers again by itself");
    }
}
