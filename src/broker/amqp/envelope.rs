//! What a message looks like: four bytes in the clear, then one value of the codec.
//!
//! Invariant: what [`open`] returns was written by this wire version for this kind of message, and names the
//! job of the queue it came from.

use crate::broker::codec::{self, CodecError};
use crate::model::{JobId, JobSpec, Queue, Report, Task};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Every message starts with it.
const MAGIC: [u8; 2] = *b"th";
/// Raised with every change that an older worker would misread.
pub(super) const WIRE_VERSION: u8 = 2;

/// A value that travels as a message of its own kind.
pub(super) trait Payload: Serialize + DeserializeOwned {
    /// The byte that tells it from others.
    const KIND: u8;
}

/// Tasks of one queue of one job.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tasks {
    pub job: JobId,
    /// How often they killed their actor.
    pub attempts: u32,
    /// Somebody may have worked on them before, though the broker does not know.
    pub again: bool,
    pub tasks: Vec<Task>,
}

/// [`Tasks`] as they are written: the tasks may be in other hands as well.
#[derive(Serialize)]
pub(super) struct TasksRef<'a> {
    pub job: JobId,
    pub attempts: u32,
    pub again: bool,
    pub tasks: Vec<&'a Task>,
}

/// What a worker did since its last report.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Results {
    pub job: JobId,
    /// Which run: a job on one channel of one worker.
    pub session: u64,
    /// Counts up from 1 within the session: a report that comes twice is known.
    pub number: u64,
    pub report: Report,
    /// Nothing of this job is left with the worker, as far as it knows.
    pub idle: bool,
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
}

/// A question or an order to all workers. Only ever add variants at the end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Control {
    /// Asks how a worker stands with a job.
    Probe(Probe),
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
}

/// Counters only grow; each is by queue in the order of `Queue::ALL`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub consumers: [u32; 3],
    /// Deliveries that are not acknowledged yet.
    pub unsettled: u64,
    pub delivered: [u64; 3],
    pub posted: [u64; 3],
    pub settled: [u64; 3],
    /// Number of the last report.
    pub results: u64,
    /// Actors that wait for work, by pool.
    pub idle: [u32; 2],
}

impl Payload for Tasks {
    const KIND: u8 = 1;
}
impl Payload for Results {
    const KIND: u8 = 2;
}
impl Payload for JobEvent {
    const KIND: u8 = 3;
}
impl Payload for Control {
    const KIND: u8 = 4;
}
impl Payload for Reply {
    const KIND: u8 = 5;
}

/// Why a message cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Shorter than its first four bytes, or not begun with the magic.
    #[error("not a message of treehaul")]
    Foreign,
    /// Another wire version.
    #[error("wire version {0}, this is version {WIRE_VERSION}")]
    Version(u8),
    /// Something else was expected here.
    #[error("message kind {0} is not expected here")]
    Kind(u8),
    /// The body is malformed.
    #[error("malformed: {0}")]
    Body(#[from] CodecError),
    /// It belongs to another job.
    #[error("belongs to job {0}")]
    WrongJob(JobId),
    /// It holds a task for another queue, or none.
    #[error("does not hold tasks of queue {}", .0.noun())]
    WrongQueue(Queue),
}

/// Writes a message.
pub(super) fn seal<T: Payload>(value: &T) -> Result<Vec<u8>, EnvelopeError> {
    let mut bytes = vec![MAGIC[0], MAGIC[1], WIRE_VERSION, T::KIND];
    codec::encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// Writes tasks.
pub(super) fn seal_tasks(value: &TasksRef<'_>) -> Result<Vec<u8>, EnvelopeError> {
    let mut bytes = vec![MAGIC[0], MAGIC[1], WIRE_VERSION, Tasks::KIND];
    codec::encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// Reads a message.
pub(super) fn open<T: Payload>(bytes: &[u8]) -> Result<T, EnvelopeError> {
    let Some((&[a, b, version, kind], body)) = bytes.split_first_chunk::<4>() else {
        return Err(EnvelopeError::Foreign);
    };
    if [a, b] != MAGIC {
        return Err(EnvelopeError::Foreign);
    }
    if version != WIRE_VERSION {
        return Err(EnvelopeError::Version(version));
    }
    if kind != T::KIND {
        return Err(EnvelopeError::Kind(kind));
    }
    Ok(codec::decode(body)?)
}

/// Reads tasks that came from a queue of a job.
pub(super) fn open_tasks(bytes: &[u8], job: JobId, queue: Queue) -> Result<Tasks, EnvelopeError> {
    let opened: Tasks = open(bytes)?;
    if opened.job != job {
        return Err(EnvelopeError::WrongJob(opened.job));
    }
    if opened.tasks.is_empty() || opened.tasks.iter().any(|t| t.queue() != queue) {
        return Err(EnvelopeError::WrongQueue(queue));
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tasks(job: JobId) -> Tasks {
        Tasks { job, attempts: 1, again: true, tasks: vec![Task::root()] }
    }

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let job = JobId::random();
        let bytes = seal(&tasks(job)).unwrap();
        let root = Task::root();
        let same = TasksRef { job, attempts: 1, again: true, tasks: vec![&root] };
        assert_eq!(seal_tasks(&same).unwrap(), bytes);
        assert_eq!(open_tasks(&bytes, job, Queue::Dirs).unwrap(), tasks(job));
    }

    #[test]
    fn what_does_not_belong_here_is_told_apart() {
        let job = JobId::random();
        let good = seal(&tasks(job)).unwrap();
        let open = |bytes: &[u8]| open_tasks(bytes, job, Queue::Dirs).unwrap_err();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert!(matches!(open(b"th"), EnvelopeError::Foreign));
        assert!(matches!(open(&with(0, b'x')), EnvelopeError::Foreign));
        assert!(matches!(open(&with(2, 9)), EnvelopeError::Version(9)));
        assert!(matches!(open(&with(3, 5)), EnvelopeError::Kind(5)));
        assert!(matches!(open(&good[..good.len() - 1]), EnvelopeError::Body(_)));
        assert!(matches!(open_tasks(&good, job, Queue::Files), Err(EnvelopeError::WrongQueue(_))));
        assert!(matches!(open_tasks(&good, JobId::random(), Queue::Dirs), Err(EnvelopeError::WrongJob(_))));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(kind in 1..=5u8, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = vec![b't', b'h', WIRE_VERSION, kind];
            bytes.extend(body);
            let _ = open::<Tasks>(&bytes);
            let _ = open::<Results>(&bytes);
            let _ = open::<JobEvent>(&bytes);
            let _ = open::<Control>(&bytes);
            let _ = open::<Reply>(&bytes);
        }
    }
}
