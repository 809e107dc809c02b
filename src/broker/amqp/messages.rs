//! What travels: the kinds of messages, and what is in them.

use crate::model::fleet::{Answer, JobEnd, Order};
use crate::model::outcome::Cause;
use crate::model::{JobId, JobSpec, Queue, Report, Task, Totals};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::time::Duration;

/// A value that travels as a message of its own kind.
pub(super) trait Payload: Serialize + DeserializeOwned {
    /// The byte that tells it from others.
    const KIND: u8;
    /// It is not believed any more after so long.
    const LIVES: Duration;
}

/// What belongs to a job is believed as long as its log is kept.
const JOB: Duration = Duration::from_secs(90 * 24 * 3600);
/// What is said to those who listen; clocks of nodes may differ.
const TALK: Duration = Duration::from_secs(600);

/// Tasks of one queue of one job.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tasks {
    pub job: JobId,
    /// Which message this is. One that is moved to another queue as it is keeps it.
    pub origin: Origin,
    /// How often they killed their actor.
    pub attempts: u32,
    /// How many workers were lost with them, of which the broker does not know.
    pub lost: u32,
    /// Somebody may have worked on them before, though the broker does not know.
    pub again: bool,
    #[serde(deserialize_with = "super::envelope::few_tasks")]
    pub tasks: Vec<Task>,
}

/// Which message of tasks it is: named by the run that published it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Origin {
    /// The run; 0 stands for whoever submitted the job.
    pub session: u64,
    /// Counts the messages of that run, from 1.
    pub number: u64,
    /// The delivery of that run that the message was published for, by its tag; 0 in session 0, which is done.
    pub attempt: u64,
}

/// Marks numbers of messages that nobody of this fleet published.
const FOREIGN: u64 = 1 << 63;

impl Origin {
    /// For a message that nobody of this fleet published.
    pub fn foreign() -> Self {
        // No submitter counts that far.
        Origin { session: 0, number: FOREIGN | super::random(), attempt: 0 }
    }

    /// Is it one of those?
    pub fn is_foreign(&self) -> bool {
        self.session == 0 && self.number & FOREIGN != 0
    }
}

/// A delivery that has been worked on to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Done {
    /// The message that was delivered.
    pub origin: Origin,
    /// Which delivery of the reporting run it was, by its tag.
    pub attempt: u64,
    /// The queue that the message was for.
    pub queue: Queue,
    /// Messages published for it, by queue.
    pub posted: [u32; 3],
    /// All that was done for it.
    pub report: Report,
}

/// A part of the report of a delivery, sent ahead of its [`Done`] because there is much of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// The delivery of the reporting run, by its tag.
    pub attempt: u64,
    /// What was done.
    pub report: Report,
}

/// [`Tasks`] as they are written: the tasks may be in other hands as well.
#[derive(Serialize)]
pub(super) struct TasksRef<'a> {
    pub job: JobId,
    pub origin: Origin,
    pub attempts: u32,
    pub lost: u32,
    pub again: bool,
    pub tasks: Vec<&'a Task>,
}

/// What a worker did since its last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Results {
    /// Which run: a job on one channel of one worker.
    pub session: u64,
    /// Counts up from 1 within the session: a report that comes twice is known.
    pub number: u64,
    /// The worker's name.
    pub worker: String,
    /// Reports of deliveries that are not done, ahead of them.
    pub parts: Vec<Part>,
    /// Deliveries that are done; they are acknowledged after this is safe.
    pub done: Vec<Done>,
    /// What was done for all other deliveries of this run so far: shown, and never sealed.
    pub in_progress: Totals,
    /// The whole job cannot go on, and why.
    pub abort: Option<String>,
    /// Nothing of this job is left with the worker, as far as it knows.
    pub idle: bool,
}

/// An entry of a job's own stream: whoever reads it from its beginning knows how the job stands. Only ever add variants
/// at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub job: JobId,
    pub what: What,
}

/// What a [`Record`] says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum What {
    /// So many first messages were posted, by queue.
    Posted([u64; 3]),
    Results(Box<Results>),
    /// Whoever wrote it has read everything before it when it comes back.
    Mark(u64),
    /// To be said once.
    Note(String),
    /// The walk is over; with the totals that were found then.
    WalkOver,
    /// This run parks deliveries that take long in a queue of its own.
    Parks(u64),
    /// What the pass did at its end.
    Concluded(Box<Report>),
    /// Somebody reads along, and says so when it has read the end.
    Follows(u64),
    /// It reads no more.
    Leaves(u64),
    /// Some of what failed is posted again; it counts no more.
    Retried {
        /// Messages, by queue.
        posted: [u64; 3],
        /// What is taken back.
        back: Box<Totals>,
        /// How many failures of each cause.
        causes: Vec<(Cause, u64)>,
        /// Numbers of the failures, counted from 1 in the order in which they were told.
        failures: Vec<u64>,
    },
    /// The end.
    Sealed {
        end: JobEnd,
        totals: Box<Totals>,
        /// Messages in the dead letters.
        letters: u32,
        /// Readers say here that they have read it.
        reply_to: String,
    },
    /// The leader found that there is no use in going on, and why.
    Aborts(String),
}

/// The right to lead a job: whoever holds it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Baton {
    pub job: JobId,
    /// Counts up as it is renewed.
    pub number: u64,
}

/// An entry of the job log. Only ever add variants at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum JobEvent {
    /// A job began.
    Submitted(Box<JobSpec>),
    /// The walk is over: finish tasks may run.
    Finishing(JobId),
    /// The job is being ended early: nobody works on it any more.
    Stopping(JobId),
    /// Its queues are gone.
    Removed(JobId),
    /// A worker leads it from now on.
    Led { job: JobId, worker: String },
    /// Nobody takes a task of it until it is resumed.
    Paused(JobId),
    /// It goes on.
    Resumed(JobId),
    /// Somebody wants it to end; its leader does that.
    Cancel { job: JobId, why: String },
    /// This worker is to take no task of it any more.
    Quarantined { job: JobId, worker: String, why: String },
    /// It is over; what failed, if anything did, is kept until it is removed.
    Finished { job: JobId, end: JobEnd, totals: Box<Totals> },
    /// Some of what failed is tried again.
    Reopened(JobId),
}

/// A question or an order to all workers. Only ever add variants at the end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Control {
    /// Asks how a worker stands with a job.
    Probe(Probe),
    /// Asks some workers for something.
    Order(Errand),
}

/// An order on its way to those whom it is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Errand {
    /// Globs of worker names; none means everybody.
    pub nodes: Vec<String>,
    pub order: Order,
    pub reply_to: String,
    /// Comes back with the answers.
    pub id: u64,
}

/// What a worker says to an [`Errand`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Word {
    pub id: u64,
    pub worker: String,
    /// None: the order is for others. Who asks knows then that nobody is missing.
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Probe {
    pub job: JobId,
    pub round: u64,
    pub reply_to: String,
    /// Make sure first that everything the broker sent has arrived.
    pub deep: bool,
    /// Workers with idle actors, by pool.
    pub hungry: [u32; 2],
}

/// A worker's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reply {
    pub round: u64,
    pub worker: String,
    pub session: u64,
    /// How it stands with the job.
    pub standing: Standing,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Standing {
    /// It has not heard of the job, or has left it.
    Unknown,
    /// It takes no task of the job.
    Refused(String),
    /// It takes part.
    Works(Tally),
    /// It reads along, and has read the end.
    HasRead(u64),
}

/// Counters only grow; each is by queue in the order of `Queue::ALL`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub consumers: [u32; 3],
    /// Deliveries that are not acknowledged yet.
    pub unsettled: u64,
    pub delivered: [u64; 3],
    pub settled: [u64; 3],
    /// Number of the last report.
    pub results: u64,
    /// Actors that wait for work, by pool.
    pub idle: [u32; 2],
}

impl Payload for Tasks {
    const KIND: u8 = 1;
    const LIVES: Duration = JOB;
}
impl Payload for Record {
    const KIND: u8 = 2;
    const LIVES: Duration = JOB;
}
impl Payload for JobEvent {
    const KIND: u8 = 3;
    const LIVES: Duration = JOB;
}
impl Payload for Control {
    const KIND: u8 = 4;
    const LIVES: Duration = TALK;
}
impl Payload for Reply {
    const KIND: u8 = 5;
    const LIVES: Duration = TALK;
}
impl Payload for Word {
    const KIND: u8 = 6;
    const LIVES: Duration = TALK;
}
impl Payload for Baton {
    const KIND: u8 = 7;
    const LIVES: Duration = JOB;
}
