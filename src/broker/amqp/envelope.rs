//! What a message looks like: a head in the clear, a keyed hash over everything, one value of the codec.
//!
//! Invariant: what [`Seal::open`] returns was written by this wire version for this kind of message by somebody who
//! has the fleet's key, and has not expired. The job that a message belongs to is a part of every value.

use super::messages::{Payload, Tasks, TasksRef};
use crate::broker::codec::{self, CodecError};
use crate::model::{JobId, Queue, Task};
use serde::Serialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Every message starts with it.
pub(super) const MAGIC: [u8; 2] = *b"th";
/// Raised with every change that an older worker would misread.
pub(super) const WIRE_VERSION: u8 = 5;
/// Magic, version, kind, and when it expires: seconds since 1970, little-endian.
const HEAD_BYTES: usize = 12;
/// The keyed hash behind the head.
const MAC_BYTES: usize = 32;
/// Without a key the hash only finds damage.
const NO_KEY: [u8; 32] = *b"treehaul fleet without a key ...";

/// Writes and reads messages with the fleet's key.
#[derive(Clone)]
pub struct Seal {
    key: [u8; 32],
}

impl Seal {
    /// With the fleet's key; without one, whoever may publish to the broker is believed.
    pub fn new(key: Option<[u8; 32]>) -> Self {
        Seal { key: key.unwrap_or(NO_KEY) }
    }

    /// Is there a key?
    pub fn is_keyed(&self) -> bool {
        self.key != NO_KEY
    }

    fn mac(&self, head: &[u8], body: &[u8]) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(head).update(body);
        hasher.finalize().into()
    }

    fn write<T: Serialize>(&self, kind: u8, lives: Duration, value: &T) -> Result<Vec<u8>, EnvelopeError> {
        let mut bytes = vec![MAGIC[0], MAGIC[1], WIRE_VERSION, kind];
        bytes.extend((now() + lives.as_secs()).to_le_bytes());
        bytes.extend([0; MAC_BYTES]);
        codec::encode_into(value, &mut bytes)?;
        self.sign(&mut bytes);
        Ok(bytes)
    }

    /// Puts the keyed hash in its place.
    fn sign(&self, bytes: &mut [u8]) {
        let mac = self.mac(&bytes[..HEAD_BYTES], &bytes[HEAD_BYTES + MAC_BYTES..]);
        bytes[HEAD_BYTES..HEAD_BYTES + MAC_BYTES].copy_from_slice(&mac);
    }

    /// What somebody with the key can write who keeps to no other rule.
    #[cfg(test)]
    pub(super) fn seal_raw(&self, kind: u8, expires: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![MAGIC[0], MAGIC[1], WIRE_VERSION, kind];
        bytes.extend(expires.to_le_bytes());
        bytes.extend([0; MAC_BYTES]);
        bytes.extend(body);
        self.sign(&mut bytes);
        bytes
    }

    /// What is behind the head and the hash.
    #[cfg(test)]
    pub(super) fn body(bytes: &[u8]) -> &[u8] {
        &bytes[HEAD_BYTES + MAC_BYTES..]
    }

    /// Writes a message.
    pub(super) fn seal<T: Payload>(&self, value: &T) -> Result<Vec<u8>, EnvelopeError> {
        self.write(T::KIND, T::LIVES, value)
    }

    /// Writes tasks.
    pub(super) fn seal_tasks(&self, value: &TasksRef<'_>) -> Result<Vec<u8>, EnvelopeError> {
        self.write(Tasks::KIND, Tasks::LIVES, value)
    }

    /// Reads a message.
    pub(super) fn open<T: Payload>(&self, bytes: &[u8]) -> Result<T, EnvelopeError> {
        let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else { return Err(EnvelopeError::Foreign) };
        let Some((mac, body)) = rest.split_first_chunk::<MAC_BYTES>() else { return Err(EnvelopeError::Foreign) };
        if head[..2] != MAGIC {
            return Err(EnvelopeError::Foreign);
        }
        if head[2] != WIRE_VERSION {
            return Err(EnvelopeError::Version(head[2]));
        }
        // Compared in constant time.
        if blake3::Hash::from(self.mac(head, body)) != blake3::Hash::from(*mac) {
            return Err(EnvelopeError::Forged);
        }
        if head[3] != T::KIND {
            return Err(EnvelopeError::Kind(head[3]));
        }
        let mut expires = [0; 8];
        expires.copy_from_slice(&head[4..]);
        if u64::from_le_bytes(expires) < now() {
            return Err(EnvelopeError::Expired);
        }
        Ok(codec::decode(body)?)
    }

    /// When a message that could be [opened](Seal::open) was written, in seconds since 1970.
    pub(super) fn written<T: Payload>(bytes: &[u8]) -> u64 {
        let expires = bytes.get(4..).and_then(|rest| rest.first_chunk::<8>());
        expires.map_or(0, |expires| u64::from_le_bytes(*expires)).saturating_sub(T::LIVES.as_secs())
    }

    /// Reads tasks of any one queue of a job.
    pub(super) fn open_any_tasks(&self, bytes: &[u8], job: JobId) -> Result<Tasks, EnvelopeError> {
        let opened: Tasks = self.open(bytes)?;
        if opened.job != job {
            return Err(EnvelopeError::WrongJob(opened.job));
        }
        let queue = opened.tasks.first().map_or(Queue::Files, Task::queue);
        if opened.tasks.is_empty() || opened.tasks.iter().any(|t| t.queue() != queue) {
            return Err(EnvelopeError::WrongQueue(queue));
        }
        Ok(opened)
    }

    /// Reads tasks that came from a queue of a job.
    pub(super) fn open_tasks(&self, bytes: &[u8], job: JobId, queue: Queue) -> Result<Tasks, EnvelopeError> {
        let opened = self.open_any_tasks(bytes, job)?;
        if opened.tasks.iter().any(|t| t.queue() != queue) {
            return Err(EnvelopeError::WrongQueue(queue));
        }
        Ok(opened)
    }
}

/// How long ago a message of tasks that was opened was published, at least: by the clocks of both nodes, to the second.
pub(super) fn age_of_tasks(bytes: &[u8]) -> Duration {
    let expires = bytes.get(4..HEAD_BYTES).and_then(|head| head.try_into().ok()).map_or(u64::MAX, u64::from_le_bytes);
    let published = expires.saturating_sub(Tasks::LIVES.as_secs());
    // It may have been the last moment of that second.
    Duration::from_secs(now().saturating_sub(published).saturating_sub(1))
}

/// Most tasks in one message: many times what a bundle of [`publish`](super::publish) holds.
const MAX_TASKS: usize = 4096;

/// Reads the tasks of a message. A task takes far more memory than the few bytes that one can be written in.
pub(super) fn few_tasks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Task>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Task>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_TASKS} tasks")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Task>, A::Error> {
            let mut tasks = Vec::new();
            while let Some(task) = seq.next_element()? {
                if tasks.len() == MAX_TASKS {
                    return Err(serde::de::Error::custom(format_args!("more than {MAX_TASKS} tasks")));
                }
                tasks.push(task);
            }
            Ok(tasks)
        }
    }
    from.deserialize_seq(Few)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
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
    /// The keyed hash is wrong.
    #[error("not written with this fleet's key, or damaged; every worker and submitter needs the same key file")]
    Forged,
    /// It is too old.
    #[error("it has expired; check that the clocks of all nodes agree")]
    Expired,
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

#[cfg(test)]
mod tests {
    use super::super::messages::{Control, Done, JobEvent, Origin, Part, Record, Reply, Results, What, Word};
    use super::*;
    use crate::model::{Failure, Operation, Report, Totals};
    use proptest::prelude::*;

    const ORIGIN: Origin = Origin { session: 1, number: 2, attempt: 3 };

    fn tasks(job: JobId) -> Tasks {
        Tasks { job, origin: ORIGIN, attempts: 1, lost: 2, again: true, tasks: vec![Task::root()] }
    }

    fn plain() -> Seal {
        Seal::new(None)
    }

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let (job, seal) = (JobId::random(), plain());
        let bytes = seal.seal(&tasks(job)).unwrap();
        let root = Task::root();
        let same = TasksRef { job, origin: ORIGIN, attempts: 1, lost: 2, again: true, tasks: vec![&root] };
        assert_eq!(seal.seal_tasks(&same).unwrap()[HEAD_BYTES + MAC_BYTES..], bytes[HEAD_BYTES + MAC_BYTES..]);
        assert_eq!(seal.open_tasks(&bytes, job, Queue::Dirs).unwrap(), tasks(job));
    }

    #[test]
    fn what_does_not_belong_here_is_told_apart() {
        let (job, seal) = (JobId::random(), Seal::new(Some([7; 32])));
        let good = seal.seal(&tasks(job)).unwrap();
        let open = |bytes: &[u8]| seal.open_tasks(bytes, job, Queue::Dirs).unwrap_err();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert!(matches!(open(b"th"), EnvelopeError::Foreign));
        assert!(matches!(open(&with(0, b'x')), EnvelopeError::Foreign));
        assert!(matches!(open(&with(2, 9)), EnvelopeError::Version(9)));
        assert!(matches!(open(&with(3, 5)), EnvelopeError::Forged));
        assert!(matches!(open(&with(4, !good[4])), EnvelopeError::Forged));
        assert!(matches!(open(&with(good.len() - 1, !good[good.len() - 1])), EnvelopeError::Forged));
        assert!(matches!(open(&good[..good.len() - 1]), EnvelopeError::Forged));
        let kind = seal.write(5, Duration::ZERO, &0u8).unwrap();
        assert!(matches!(open(&kind), EnvelopeError::Kind(5)));
        let short = seal.write(Tasks::KIND, Duration::from_secs(9), &0u8).unwrap();
        assert!(matches!(open(&short), EnvelopeError::Body(_)));
        let old = seal.seal_raw(Tasks::KIND, now() - 1, Seal::body(&good));
        assert!(matches!(open(&old), EnvelopeError::Expired));
        for other in [Seal::new(Some([8; 32])), plain()] {
            assert!(matches!(other.open_tasks(&good, job, Queue::Dirs), Err(EnvelopeError::Forged)));
        }
        assert!(matches!(seal.open_tasks(&good, job, Queue::Files), Err(EnvelopeError::WrongQueue(_))));
        assert!(matches!(seal.open_tasks(&good, JobId::random(), Queue::Dirs), Err(EnvelopeError::WrongJob(_))));
    }

    #[test]
    fn a_message_of_tasks_tells_when_it_was_published() {
        let lives = Tasks::LIVES.as_secs();
        let age = |published: u64| age_of_tasks(&plain().seal_raw(Tasks::KIND, published + lives, b""));
        let old = now() - 100;
        assert!((99..=101).contains(&age(old).as_secs()), "{:?}", age(old));
        assert_eq!((age(now()), age(now() + 3600)), (Duration::ZERO, Duration::ZERO), "clocks may differ");
        assert_eq!(age_of_tasks(b"th"), Duration::ZERO);
    }

    #[test]
    fn a_message_of_countless_small_tasks_is_refused() {
        let (job, seal) = (JobId::random(), plain());
        let message = |n| Tasks { tasks: vec![Task::root(); n], ..tasks(job) };
        let most = seal.seal(&message(MAX_TASKS)).unwrap();
        assert_eq!(seal.open_tasks(&most, job, Queue::Dirs).unwrap().tasks.len(), MAX_TASKS);
        let more = seal.seal(&message(MAX_TASKS + 1)).unwrap();
        assert!(matches!(seal.open_tasks(&more, job, Queue::Dirs), Err(EnvelopeError::Body(_))));
    }

    proptest! {
        #[test]
        fn a_report_reads_back_as_it_was_written(
            counts in proptest::collection::vec(any::<u64>(), 2),
            paths in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..5),
            placed in proptest::collection::btree_map(any::<u32>(), any::<u64>(), 0..20),
        ) {
            let mut report = Report { placed: placed.into_iter().collect(), ..Report::default() };
            (report.totals.found, report.totals.misplaced) = (counts[0], counts[1]);
            report.failures = paths
                .into_iter()
                .map(|path| Failure::new(path, Operation::Read, Some(5), String::new()))
                .collect();
            let done = Done { origin: ORIGIN, attempt: 4, queue: Queue::Files, posted: [1, 2, 3], report };
            let parts = vec![Part { attempt: 5, report: done.report.clone() }];
            let (worker, in_progress) = ("w".to_owned(), Totals::default());
            let results =
                Results { session: 1, number: 2, worker, parts, done: vec![done], in_progress, abort: None, idle: false };
            let record = Record { job: JobId::random(), what: What::Results(Box::new(results)) };
            let seal = plain();
            prop_assert_eq!(seal.open::<Record>(&seal.seal(&record).unwrap()).unwrap(), record);
        }

        #[test]
        fn hostile_bytes_never_panic(kind in 1..=6u8, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let seal = plain();
            let bytes = seal.seal_raw(kind, u64::MAX, &body);
            let _ = seal.open::<Tasks>(&bytes);
            let _ = seal.open::<Record>(&bytes);
            let _ = seal.open::<JobEvent>(&bytes);
            let _ = seal.open::<Control>(&bytes);
            let _ = seal.open::<Reply>(&bytes);
            let _ = seal.open::<Word>(&bytes);
        }
    }
}
