//! How a job comes onto the broker, once and again; and what is known of jobs that are there.

use super::connection::{self, Published};
use super::envelope::Seal;
use super::joblog::{self, Next, Reader};
use super::messages::{Baton, JobEvent, Origin, TasksRef, What};
use super::topology::{self, JOB_LOG};
use super::{AmqpConfig, AmqpError};
use crate::model::fleet::{JobEnd, JobPhase};
use crate::model::{JobId, JobSpec, Task, Totals};
use lapin::{Channel, Connection};
use std::collections::BTreeMap;
use std::time::Duration;

/// Weight of the first tasks in one message, in bytes.
const FIRST_BYTES: usize = 64 << 10;
/// A log that says nothing for so long has been read to its end.
const END_OF_LOG: Duration = Duration::from_millis(150);
/// Numbers of messages that are posted together; more than anybody names.
const SERIES: u64 = 1 << 40;

/// Makes the queues of a job, posts its first tasks and tells the fleet. When it returns the job goes on without its
/// submitter. Blocks; must not be called from an async context.
///
/// # Errors
/// Any [`AmqpError`]. What was made is removed again, as far as that is possible.
pub fn submit(config: &AmqpConfig, spec: &JobSpec, first: impl IntoIterator<Item = Task>) -> Result<(), AmqpError> {
    super::blocking()?.block_on(async {
        let opened = connection::open(config, "submitter").await?;
        let submitted = put(&opened, config, spec, first.into_iter(), None).await;
        if submitted.is_err() {
            let mut names = topology::work_queues(spec.id);
            names.extend([topology::dead(spec.id), topology::results(spec.id), topology::lead(spec.id)]);
            if let Err(e) = topology::delete(&opened, names).await {
                tracing::debug!(error = %e, "queues of a job that was not submitted are left");
            }
        }
        connection::close(&opened).await;
        submitted
    })
}

/// Some of what failed in a job that is over.
#[derive(Debug, Clone, Default)]
pub struct Retry {
    /// What is to be done again.
    pub tasks: Vec<Task>,
    /// What that counted before.
    pub back: Totals,
    /// Numbers of the failures, from 1 in the order in which they were told.
    pub failures: Vec<u64>,
    /// How often that was done before.
    pub before: u64,
}

/// Puts a job that is over back onto the broker, to do some of it again. Blocks.
///
/// # Errors
/// As [`submit`].
pub fn reopen(config: &AmqpConfig, spec: &JobSpec, retry: Retry) -> Result<(), AmqpError> {
    super::blocking()?.block_on(async {
        let opened = connection::open(config, "submitter").await?;
        let tasks = retry.tasks.clone();
        let submitted = put(&opened, config, spec, tasks.into_iter(), Some(retry)).await;
        connection::close(&opened).await;
        submitted
    })
}

async fn put(
    connection: &Connection,
    config: &AmqpConfig,
    spec: &JobSpec,
    first: impl Iterator<Item = Task>,
    retry: Option<Retry>,
) -> Result<(), AmqpError> {
    let using = |e| AmqpError::using(config, &e);
    let mut first = first.peekable();
    if let Some(task) = first.peek() {
        // What cannot be sent is found out before anything is made.
        seal_first(&config.seal, spec.id, 1, std::slice::from_ref(task))?;
    }
    let channel = connection.create_channel().await.map_err(using)?;
    let shared = topology::declare_shared(&channel);
    let own = topology::declare_job(connection, spec.id, config.queue_type);
    tokio::try_join!(shared, own).map_err(using)?;
    let out = connection::confirmed_channel(connection).await.map_err(using)?;
    let series = retry.as_ref().map_or(0, |r| r.before + 1) * SERIES;
    let posted = post_first(&out, config, spec.id, series, first).await?;
    let seal = &config.seal;
    let (event, what) = match retry {
        None => (JobEvent::Submitted(Box::new(spec.clone())), What::Posted(posted)),
        Some(Retry { back, failures, .. }) => {
            (JobEvent::Reopened(spec.id), What::Retried { posted, back: Box::new(back), failures })
        }
    };
    let telling = async {
        safe(joblog::record(&out, seal, spec.id, what).await?)?;
        let baton = seal.seal(&Baton { job: spec.id, number: 0 }).map_err(std::io::Error::other)?;
        safe(connection::publish_safely(&out, &topology::lead(spec.id), &baton).await?)?;
        joblog::append(&out, seal, &event).await
    };
    telling.await.map_err(using)
}

fn safe(published: Published) -> lapin::Result<()> {
    match published {
        Published::Safe => Ok(()),
        Published::NoQueue => Err(std::io::Error::other("a queue of the job is gone").into()),
    }
}

/// Posts the first tasks, several in a message. Tells how many messages, by queue.
async fn post_first(
    out: &Channel,
    config: &AmqpConfig,
    job: JobId,
    series: u64,
    tasks: impl Iterator<Item = Task>,
) -> Result<[u64; 3], AmqpError> {
    let mut tasks = tasks.peekable();
    let mut posted = [0; 3];
    let mut number = series;
    while let Some(task) = tasks.next() {
        let queue = task.queue();
        let (mut bytes, mut group) = (task.weight_bytes(), vec![task]);
        while bytes < FIRST_BYTES
            && let Some(task) = tasks.next_if(|t| t.queue() == queue)
        {
            bytes += task.weight_bytes();
            group.push(task);
        }
        number += 1;
        let body = seal_first(&config.seal, job, number, &group)?;
        let sent = connection::publish_safely(out, &topology::tasks(job, queue), &body).await;
        sent.and_then(safe).map_err(|e| AmqpError::using(config, &e))?;
        posted[queue as usize] += 1;
    }
    Ok(posted)
}

fn seal_first(seal: &Seal, job: JobId, number: u64, tasks: &[Task]) -> Result<Vec<u8>, AmqpError> {
    let origin = Origin { session: 0, number, attempt: 0 };
    let again = number > SERIES;
    Ok(seal.seal_tasks(&TasksRef { job, origin, attempts: 0, again, tasks: tasks.iter().collect() })?)
}

/// A job, as the log tells.
#[derive(Debug, Clone)]
pub struct JobState {
    /// What it is.
    pub spec: JobSpec,
    /// How far it is.
    pub phase: JobPhase,
    /// Nobody takes a task of it.
    pub paused: bool,
    /// The worker that leads it, as far as is known.
    pub leader: Option<String>,
    /// Workers that were taken off it, and why.
    pub quarantined: Vec<(String, String)>,
    /// How it ended, and its totals.
    pub end: Option<(JobEnd, Totals)>,
    /// Nothing is left of it but what the log says.
    pub removed: bool,
}

/// Takes an event into account.
pub(super) fn fold(jobs: &mut BTreeMap<JobId, JobState>, event: JobEvent) {
    let job = match event {
        JobEvent::Submitted(spec) => {
            let fresh = JobState {
                spec: *spec,
                phase: JobPhase::Walking,
                paused: false,
                leader: None,
                quarantined: Vec::new(),
                end: None,
                removed: false,
            };
            return drop(jobs.insert(fresh.spec.id, fresh));
        }
        JobEvent::Finishing(job)
        | JobEvent::Stopping(job)
        | JobEvent::Removed(job)
        | JobEvent::Paused(job)
        | JobEvent::Resumed(job)
        | JobEvent::Reopened(job)
        | JobEvent::Led { job, .. }
        | JobEvent::Cancel { job, .. }
        | JobEvent::Quarantined { job, .. }
        | JobEvent::Finished { job, .. } => job,
    };
    let Some(state) = jobs.get_mut(&job) else { return };
    match event {
        JobEvent::Submitted(_) | JobEvent::Cancel { .. } => {}
        JobEvent::Finishing(_) => state.phase = state.phase.max(JobPhase::Finishing),
        JobEvent::Stopping(_) => state.phase = state.phase.max(JobPhase::Stopping),
        JobEvent::Removed(_) => (state.phase, state.removed) = (JobPhase::Ended, true),
        JobEvent::Paused(_) => state.paused = true,
        JobEvent::Resumed(_) => state.paused = false,
        JobEvent::Reopened(_) => {
            (state.phase, state.paused, state.end) = (JobPhase::Walking, false, None);
            state.quarantined.clear();
        }
        JobEvent::Led { worker, .. } => state.leader = Some(worker),
        JobEvent::Quarantined { worker, why, .. } => state.quarantined.push((worker, why)),
        JobEvent::Finished { end, totals, .. } => {
            state.phase = JobPhase::Ended;
            state.end = Some((end, *totals));
        }
    }
}

/// Reads the log of jobs from its beginning to where it ends now.
pub(super) async fn read_jobs(connection: &Connection, seal: &Seal) -> lapin::Result<BTreeMap<JobId, JobState>> {
    let channel = connection.create_channel().await?;
    topology::declare_shared(&channel).await?;
    let mut reader = Reader::open(connection, seal, JOB_LOG, 0).await?;
    let mut jobs = BTreeMap::new();
    while let Some(Next::Entry(event)) = reader.next(END_OF_LOG).await? {
        fold(&mut jobs, event);
    }
    reader.close().await;
    channel.close(200, "done".into()).await?;
    Ok(jobs)
}

/// Asks the leader of a job to end it. Blocks.
///
/// # Errors
/// Any [`AmqpError`].
pub fn cancel(config: &AmqpConfig, job: JobId, why: &str) -> Result<(), AmqpError> {
    announce(config, &JobEvent::Cancel { job, why: why.to_owned() })
}

/// Lets nobody take a task of a job, or lets it go on. Blocks.
///
/// # Errors
/// Any [`AmqpError`].
pub fn pause(config: &AmqpConfig, job: JobId, pause: bool) -> Result<(), AmqpError> {
    announce(config, &if pause { JobEvent::Paused(job) } else { JobEvent::Resumed(job) })
}

fn announce(config: &AmqpConfig, event: &JobEvent) -> Result<(), AmqpError> {
    super::blocking()?.block_on(async {
        let opened = connection::open(config, "control").await?;
        let telling = async {
            let out = connection::confirmed_channel(&opened).await?;
            topology::declare_shared(&out).await?;
            joblog::append(&out, &config.seal, event).await
        };
        let told = telling.await;
        connection::close(&opened).await;
        told.map_err(|e| AmqpError::using(config, &e))
    })
}

/// All jobs that the log still knows. Blocks.
///
/// # Errors
/// Any [`AmqpError`], which names the broker and the way out.
pub fn jobs(config: &AmqpConfig) -> Result<Vec<JobState>, AmqpError> {
    super::blocking()?.block_on(async {
        let opened = connection::open(config, "control").await?;
        let jobs = read_jobs(&opened, &config.seal).await;
        connection::close(&opened).await;
        Ok(jobs.map_err(|e| AmqpError::using(config, &e))?.into_values().collect())
    })
}
