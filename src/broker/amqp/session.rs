//! One connection of a worker, from its opening to its loss.

use super::connection;
use super::consume::{self, Consumption};
use super::control::Ear;
use super::envelope::JobEvent;
use super::joblog::{Next, Reader};
use super::lanes::Lanes;
use super::publish::{self, Publisher};
use super::run::Run;
use super::settle::{self, Desk};
use super::topology;
use super::worker::{Core, Stage};
use crate::model::{JobId, JobSpec, Queue};
use lapin::{Channel, Connection};
use std::collections::{HashMap, hash_map::Entry};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Deliveries that are open for longer are finished by publishing what is left of them, so that no
/// consumer time-out of the broker can bite and everybody gets a part of an old backlog.
const MAX_AGE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Pause before a job whose channel failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

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
        tokio::select! {
            ended = publish::serve(&publisher, &out, inbox) => ended,
            ended = ear.serve(&session) => ended,
            ended = session.follow(log, &mut jobs) => ended,
            _ = stage.wait_for(|s| *s == Stage::Close) => Ok(()),
        }
    };
    let ended = ended.await;
    session.tear_down();
    jobs.shutdown().await;
    connection::close(&session.connection).await;
    ended
}

impl Session {
    async fn set_up(&self) -> lapin::Result<(Reader, Ear, Channel)> {
        let channel = self.connection.create_channel().await?;
        topology::declare_shared(&channel).await?;
        let out = connection::confirmed_channel(&self.connection).await?;
        let ear = Ear::open(&self.connection, self.id).await?;
        Ok((Reader::open(&self.connection).await?, ear, out))
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
                return Some((spec, phases));
            }
            JobEvent::Removed(job) => {
                // Its task hears that the sender is gone.
                jobs.remove(&job);
                return None;
            }
            JobEvent::Finishing(job) => (job, Phase::Finishing),
            JobEvent::Stopping(job) => (job, Phase::Stopping),
        };
        if let Some(known) = jobs.get(&job) {
            known.phase.send_if_modified(|now| phase > std::mem::replace(now, phase.max(*now)));
        }
        None
    }

    /// Takes part in one job until it is removed.
    async fn work(self: Arc<Self>, spec: JobSpec, mut phases: watch::Receiver<Phase>) {
        let job = spec.id;
        if !self.exists(job).await {
            self.jobs().remove(&job);
            return self.core.retire(job).await;
        }
        if let Err(reason) = self.core.admit(spec).await {
            tracing::error!(%job, reason, "this worker takes no task of the job");
            self.set_standing(job, Some(Err(reason)));
            return;
        }
        loop {
            match self.take_part(job, &mut phases).await {
                Ok(()) => break,
                // The session's owner sees it as well, and comes back with a new connection.
                Err(_) if !self.connection.status().connected() => return,
                Err(_) if !self.exists(job).await => break,
                Err(e) => tracing::warn!(%job, error = %e, "lost the job's channel; opening another"),
            }
            tokio::time::sleep(RETRY).await;
        }
        self.set_standing(job, None);
        self.core.retire(job).await;
    }

    /// Jobs long gone are in the log, too: they have no queue any more.
    async fn exists(&self, job: JobId) -> bool {
        let look = async {
            let channel = self.connection.create_channel().await?;
            connection::depth(&channel, &topology::tasks(job, Queue::Dirs)).await
        };
        look.await.map_or_else(|e| !connection::is_missing(&e), |_| true)
    }

    /// Takes part through one channel.
    async fn take_part(&self, job: JobId, phases: &mut watch::Receiver<Phase>) -> lapin::Result<()> {
        // Each run counts from zero, so it has a number of its own.
        let run = Run::new(job, random(), Arc::clone(&self.publisher));
        let channel = self.connection.create_channel().await?;
        let reports = connection::confirmed_channel(&self.connection).await?;
        self.lanes().open(&run);
        self.core.add_run(&run);
        self.set_standing(job, Some(Ok((Arc::clone(&run), channel.clone()))));
        let desk = Desk::new(channel.clone(), reports);
        let ended = tokio::select! {
            ended = settle::serve(&run, self.lanes(), desk) => ended,
            ended = self.attend(&run, channel, phases) => ended,
        };
        run.set_gone();
        self.lanes().close(&run);
        ended
    }

    /// Starts and ends consumers as the job goes on, and keeps deliveries from getting old.
    async fn attend(&self, run: &Arc<Run>, channel: Channel, phases: &mut watch::Receiver<Phase>) -> lapin::Result<()> {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let mut consumption = Consumption::new(run, self.lanes(), channel, ended);
        let mut stage = self.core.stage.subscribe();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let (phase, now) = (*phases.borrow_and_update(), *stage.borrow_and_update());
            self.arrange(run, &mut consumption, phase, now).await?;
            tokio::select! {
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
    ) -> lapin::Result<()> {
        let [dirs, files] = self.core.config.prefetch;
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
        let (mut old, untouched) = self.lanes().take_old(run, MAX_AGE);
        old.extend(untouched.into_iter().filter_map(|a| consume::look_into(a, false)).flatten());
        if publish::post(old, false).is_err() {
            tracing::debug!("the connection is gone; the broker delivers again by itself");
        }
    }
}
