//! How a job comes onto the broker, once and again; and what is known of jobs that are there.

use super::connection::{self, Published, Subscription};
use super::consume::what_of;
use super::envelope::Seal;
use super::follow::read_to_now;
use super::joblog::{self, Next, Reader};
use super::jobs::{JobState, fold};
use super::messages::{Baton, JobEvent, Origin, TasksRef, What};
use super::office::{EMPTY_LOG, END_OF_LOG, LOG_PATIENCE};
use super::story::Story;
use super::topology::{self, JOB_LOG};
use super::{AmqpConfig, AmqpError, BLOCKED};
use crate::model::fleet::JobEnd;
use crate::model::outcome::Cause;
use crate::model::{JobId, JobSpec, Task, Totals};
use crate::telemetry::Board;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a submission is looked at whether the broker takes it.
const LOOK: Duration = Duration::from_millis(500);
/// How often the log of jobs is read before that counts as impossible.
const READ_TRIES: u32 = 6;
/// A leader may take so long to clear up.
const CLEAR_UP: Duration = Duration::from_secs(20);
/// A baton that nobody holds comes at once.
const BATON: Duration = Duration::from_secs(2);
/// Weight of the first tasks in one message, in bytes.
const FIRST_BYTES: usize = 64 << 10;
/// Messages of a retry are numbered beyond this; a submission does not count so far.
const SERIES: u64 = 1 << 61;

/// Who will read along with a job.
#[derive(Debug, Clone, Copy)]
pub struct Reads(pub(super) u64);

impl Reads {
    /// Somebody new.
    pub fn new() -> Self {
        Reads(super::random())
    }
}

impl Default for Reads {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes the queues of a job, posts its first tasks and tells the fleet. When it returns the job goes on without its
/// submitter. What keeps it waiting is said. Blocks; must not be called from an async context.
///
/// # Errors
/// Any [`AmqpError`]. What was made is removed again, as far as that is possible.
pub fn submit(
    config: &AmqpConfig,
    spec: &JobSpec,
    first: impl IntoIterator<Item = Task>,
    reader: Option<Reads>,
    say: &dyn Fn(&str),
) -> Result<(), AmqpError> {
    super::blocking()?.block_on(async {
        let opened = connection::open_for_job(config, "submitter", spec.id).await?;
        let putting = put(&opened, config, spec, first.into_iter(), reader, None);
        let submitted = watched(&opened, say, putting).await;
        if submitted.is_err() {
            let mut names = topology::work_queues(spec.id);
            names.extend([topology::dead(spec.id), topology::results(spec.id), topology::lead(spec.id)]);
            let removing = async {
                topology::delete(&opened, names).await?;
                // The log may have it all the same, only unconfirmed; then nobody is to wait for it.
                let out = connection::confirmed_channel(&opened).await?;
                joblog::append(&out, &config.seal, &JobEvent::Removed(spec.id)).await
            };
            if let Err(e) = removing.await {
                tracing::debug!(error = %e, "something of a job that was not submitted is left");
            }
        }
        connection::close(&opened).await;
        submitted
    })
}

/// Waits until whoever led the job has removed what it removes at the end.
async fn cleared_up(connection: &Connection, config: &AmqpConfig, job: JobId) -> Result<(), AmqpError> {
    let until = Instant::now() + CLEAR_UP;
    let lead = topology::lead(job);
    let ready = async || topology::ready(connection, &lead).await.map_err(|e| AmqpError::using(config, &e));
    while ready().await?.is_some_and(|depth| depth.consumers > 0) {
        if Instant::now() > until {
            return Err(AmqpError::Refused {
                broker: config.to_string(),
                why: format!("job {job} is still being cleared up; try again in a moment"),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Some of what failed in a job that is over.
#[derive(Debug, Default)]
pub struct Retry {
    /// What is to be done again.
    pub tasks: Vec<Task>,
    /// What that counted before.
    pub back: Totals,
    /// Numbers of the failures, from 1 in the order in which they were told.
    pub failures: Vec<u64>,
    /// How many there are of each cause.
    pub causes: HashMap<Cause, u64>,
    /// What messages in the dead letters are about that are to be worked on again.
    pub letters: BTreeSet<Vec<u8>>,
    /// The numbers of their failures, their causes, and what they counted.
    pub numbers: BTreeMap<Vec<u8>, Vec<(u64, Cause, Totals)>>,
}

/// Puts a job that is over back onto the broker, to do some of it again. Blocks.
///
/// # Errors
/// As [`submit`].
pub fn reopen(
    config: &AmqpConfig,
    spec: &JobSpec,
    retry: Retry,
    reader: Option<Reads>,
    say: &dyn Fn(&str),
) -> Result<(), AmqpError> {
    super::blocking()?.block_on(async {
        let opened = connection::open_shared(config, "submitter").await?;
        cleared_up(&opened, config, spec.id).await?;
        let declared = topology::declare_job(&opened, spec.id, config.queue_type).await;
        declared.map_err(|e| AmqpError::using(config, &e))?;
        let mut retry = retry;
        let tasks = std::mem::take(&mut retry.tasks);
        let submitted = watched(&opened, say, put(&opened, config, spec, tasks.into_iter(), reader, Some(retry))).await;
        connection::close(&opened).await;
        submitted
    })
}

/// Says so while the broker takes nothing.
async fn watched<T>(connection: &Connection, say: &dyn Fn(&str), putting: impl Future<Output = T>) -> T {
    let mut putting = std::pin::pin!(putting);
    loop {
        tokio::select! {
            put = &mut putting => return put,
            () = tokio::time::sleep(LOOK) => if connection.status().blocked() {
                say(BLOCKED);
            },
        }
    }
}

async fn put(
    connection: &Connection,
    config: &AmqpConfig,
    spec: &JobSpec,
    first: impl Iterator<Item = Task>,
    reader: Option<Reads>,
    retry: Option<Retry>,
) -> Result<(), AmqpError> {
    let using = |e| AmqpError::using(config, &e);
    let mut first = first.peekable();
    if let Some(task) = first.peek() {
        // What cannot be sent is found out before anything is made.
        seal_first(&config.seal, spec.id, 1, std::slice::from_ref(task))?;
    }
    let channel = connection.create_channel().await.map_err(using)?;
    let out = connection::confirmed_channel(connection).await.map_err(using)?;
    // No two retries number their messages alike.
    let series = if retry.is_some() { SERIES | super::random() >> 2 } else { 0 };
    let seal = &config.seal;
    let mut letters = Letters::default();
    if let Some(retry) = &retry {
        let name = topology::dead(spec.id);
        letters = Letters::open(&channel, seal, spec.id, &name, &retry.letters).await.map_err(using)?;
    }
    let tasks = first.chain(std::mem::take(&mut letters.tasks));
    let posted = post_first(&out, config, spec.id, series, tasks).await?;
    let (event, what) = match retry {
        None => (JobEvent::Submitted(Box::new(spec.clone())), What::Posted(posted)),
        Some(Retry { mut back, mut failures, mut causes, numbers, .. }) => {
            let found: BTreeSet<_> = letters.found.iter().collect();
            for (number, cause, counted) in found.into_iter().filter_map(|path| numbers.get(path)).flatten() {
                back.add(counted);
                failures.push(*number);
                *causes.entry(*cause).or_default() += 1;
            }
            let (back, causes) = (Box::new(back), causes.into_iter().collect());
            (JobEvent::Reopened(spec.id), What::Retried { posted, back, causes, failures })
        }
    };
    let telling = async {
        safe(joblog::record(&out, seal, spec.id, what).await?)?;
        if let Some(Reads(reader)) = reader {
            // However soon the job is over, its end waits for whoever follows it.
            safe(joblog::record(&out, seal, spec.id, What::Follows(reader)).await?)?;
        }
        let baton = seal.seal(&Baton { job: spec.id, number: 0 }).map_err(std::io::Error::other)?;
        safe(connection::publish_safely(&out, &topology::lead(spec.id), &baton).await?)?;
        letters.forget(&channel).await?;
        joblog::append(&out, seal, &event).await
    };
    telling.await.map_err(using)
}

/// Dead letters that are to be worked on again.
#[derive(Default)]
struct Letters {
    tasks: Vec<Task>,
    /// What they are about.
    found: Vec<Vec<u8>>,
    chosen: Vec<u64>,
    others: Vec<u64>,
}

impl Letters {
    async fn open(
        channel: &Channel,
        seal: &Seal,
        job: JobId,
        name: &str,
        about: &BTreeSet<Vec<u8>>,
    ) -> lapin::Result<Self> {
        let mut letters = Letters::default();
        while !about.is_empty()
            && let Some(got) = channel.basic_get(name.into(), BasicGetOptions::default()).await?
        {
            let opened = seal.open_any_tasks(&got.delivery.data, job).ok();
            let chosen = opened.filter(|t| t.tasks.first().is_some_and(|t| about.contains(&what_of(t))));
            match chosen {
                Some(opened) => {
                    letters.found.extend(opened.tasks.first().map(what_of));
                    letters.tasks.extend(opened.tasks);
                    letters.chosen.push(got.delivery.delivery_tag);
                }
                None => letters.others.push(got.delivery.delivery_tag),
            }
        }
        Ok(letters)
    }

    /// They are safe elsewhere; the others go back.
    async fn forget(&self, channel: &Channel) -> lapin::Result<()> {
        for tag in &self.chosen {
            channel.basic_ack(*tag, BasicAckOptions::default()).await?;
        }
        for tag in &self.others {
            channel.basic_nack(*tag, BasicNackOptions { requeue: true, multiple: false }).await?;
        }
        Ok(())
    }
}

/// Ends a job whose baton nobody holds: there is no worker that could.
pub(super) async fn end_unled(
    connection: &Connection,
    config: &AmqpConfig,
    job: JobId,
    why: &str,
) -> lapin::Result<()> {
    let lead = topology::lead(job);
    let holding = connection.create_channel().await?;
    let mut batons = Subscription::new(holding.clone());
    match topology::ready(connection, &lead).await? {
        Some(depth) if depth.consumers > 0 => return Ok(()),
        Some(_) => {
            // As long as it is held here nobody else leads.
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            batons.consumers.push(holding.basic_consume(lead.as_str().into(), "".into(), options, none).await?);
            let Ok(Some(baton)) = tokio::time::timeout(BATON, batons.next()).await else { return Ok(()) };
            baton?;
        }
        // Without its baton nobody will ever lead it.
        None if read_jobs(connection, &config.seal).await?.get(&job).is_none_or(JobState::is_over) => return Ok(()),
        None => {}
    }
    let board = Arc::new(Board::new(Box::new(|_| {})));
    let mut story = Story::new(job, board);
    read_to_now(connection, config, &mut story, job).await?;
    let (seal, out) = (&config.seal, connection::confirmed_channel(connection).await?);
    let (end, totals) = (JobEnd::Cancelled(why.to_owned()), Box::new(story.board.snapshot().totals));
    let sealed = What::Sealed { end: end.clone(), totals: totals.clone(), letters: 0, reply_to: String::new() };
    // Its stream may be gone as well.
    joblog::record(&out, seal, job, sealed).await?;
    joblog::append(&out, seal, &JobEvent::Finished { job, end, totals }).await?;
    let mut names = topology::work_queues(job);
    names.extend(story.parks.iter().map(|session| topology::hold(job, *session)));
    names.extend([topology::dead(job), topology::results(job)]);
    topology::delete(connection, names).await?;
    joblog::append(&out, seal, &JobEvent::Removed(job)).await?;
    topology::delete(connection, vec![lead]).await
}

/// Removes what is kept of a job that is over. Blocks.
///
/// # Errors
/// Any [`AmqpError`].
pub fn forget(config: &AmqpConfig, job: JobId) -> Result<(), AmqpError> {
    super::blocking()?.block_on(async {
        let opened = connection::open_shared(config, "control").await?;
        let forgetting = async {
            let mut names = topology::work_queues(job);
            names.extend([topology::dead(job), topology::results(job), topology::lead(job)]);
            topology::delete(&opened, names).await?;
            let out = connection::confirmed_channel(&opened).await?;
            joblog::append(&out, &config.seal, &JobEvent::Removed(job)).await
        };
        let forgotten = forgetting.await;
        connection::close(&opened).await;
        forgotten.map_err(|e| AmqpError::using(config, &e))
    })
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
    Ok(seal.seal_tasks(&TasksRef { job, origin, attempts: 0, lost: 0, again, tasks: tasks.iter().collect() })?)
}

/// Reads the log of jobs from its beginning to where it ends now.
pub(super) async fn read_jobs(connection: &Connection, seal: &Seal) -> lapin::Result<BTreeMap<JobId, JobState>> {
    let newest = joblog::newest(connection, seal, EMPTY_LOG).await?;
    let mut reader = Reader::open(connection, seal, JOB_LOG, 0).await?;
    let mut jobs = BTreeMap::new();
    loop {
        let reached = reader.has_reached(newest);
        match reader.next(if reached { END_OF_LOG } else { LOG_PATIENCE }).await? {
            Some(Next::Entry(event)) => fold(&mut jobs, event),
            Some(Next::Passed) => {}
            Some(Next::Quiet) if reached => break,
            Some(Next::Quiet) => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            None => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()),
        }
    }
    reader.close().await;
    Ok(jobs)
}

/// All jobs that the log still knows. Blocks.
///
/// # Errors
/// Any [`AmqpError`], which names the broker and the way out.
pub fn jobs(config: &AmqpConfig) -> Result<Vec<JobState>, AmqpError> {
    super::blocking()?.block_on(async {
        let mut tries = 1;
        loop {
            let opened = connection::open_shared(config, "control").await?;
            let jobs = read_jobs(&opened, &config.seal).await.map_err(|e| AmqpError::using(config, &e));
            connection::close(&opened).await;
            match jobs {
                // A stream that was just made may not be there for everybody yet.
                Err(e) if e.is_transient() && tries < READ_TRIES => tracing::debug!(error = %e, "trying again"),
                jobs => return Ok(jobs?.into_values().collect()),
            }
            tries += 1;
            tokio::time::sleep(LOOK).await;
        }
    })
}
