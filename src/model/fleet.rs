//! What is asked of workers, and what they say of themselves: the words between a fleet and whoever controls it.

use super::latency::{Call, Histogram};
use super::policy::Limits;
use super::{Failure, JobId, Timestamp, Totals};
use serde::{Deserialize, Serialize};

/// Which actors an order is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PoolKind {
    /// Dir actors.
    Dirs,
    /// File actors.
    Files,
}

/// An order to a worker, or a question. Only ever add variants at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Answers with [`Answer::Node`].
    Describe,
    /// What each actor does now: [`Answer::Active`].
    Active,
    /// Takes no task any more until [`Order::Resume`]; what waits goes back to the broker.
    Pause,
    /// Takes tasks again.
    Resume,
    /// So many actors more of a kind; of both, if none is named.
    Grow(Option<PoolKind>, u16),
    /// So many fewer; one is left at least. Those that go finish the task in their hands.
    Shrink(Option<PoolKind>, u16),
    /// The node's own limits from now on: each stays as it is if nothing is said of it, and 0 is none.
    Throttle {
        /// Bytes of data a second.
        bytes_per_second: Option<u64>,
        /// Operations a second.
        operations_per_second: Option<u64>,
    },
    /// Ends the worker: it finishes the tasks in its hands, or leaves them to others at once.
    Stop {
        /// At once.
        now: bool,
    },
    /// How the jobs stand that this worker leads: [`Answer::Leading`].
    Leading,
    /// How long calls on filesystems took: [`Answer::Latencies`].
    Latencies,
}

/// What a worker says to an [`Order`]. Only ever add variants at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It does it; in a few words, what holds now.
    Done(String),
    /// It does not, and why.
    Refused(String),
    /// What it is.
    Node(Box<NodeInfo>),
    /// What its actors do; idle ones are not named.
    Active(Vec<Activity>),
    /// How the jobs stand that it leads.
    Leading(Vec<JobProgress>),
    /// How long its calls took since it began; nothing of a node that does not time them.
    Latencies(Vec<JobLatencies>),
}

/// How long calls of a job took on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLatencies {
    /// The job.
    pub job: JobId,
    /// By call; those that nobody made are not named.
    pub calls: Vec<(Call, Histogram)>,
}

/// How much a filesystem holds and can still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Its size, in bytes.
    pub bytes: u64,
    /// What a user without privileges could still write, in bytes.
    pub free_bytes: u64,
    /// Inodes that it has; 0 where it does not count them.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
}

/// A worker, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Version of the program.
    pub version: String,
    /// The host's own name.
    pub host: String,
    /// Process number there.
    pub pid: u32,
    /// When it started, by its clock.
    pub started: Timestamp,
    /// Actors by pool: dirs, files.
    pub actors: [u32; 2],
    /// Those that have a task in hand.
    pub busy: [u32; 2],
    /// It takes no task now.
    pub paused: bool,
    /// It is on its way out.
    pub stopping: bool,
    /// Its own limits.
    pub limits: Limits,
    /// The host's load average over one minute, in thousandths.
    pub load_milli: u32,
    /// Memory that the process holds, in bytes.
    pub rss_bytes: u64,
    /// How long tasks that were taken lately had waited since they were posted, on average, in microseconds.
    pub queue_wait_us: u64,
    /// The broker takes no messages from it: it has an alarm.
    pub blocked: bool,
    /// How it stands with each job that it knows.
    pub jobs: Vec<NodeJob>,
}

/// How a worker stands with a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeJob {
    /// The job.
    pub job: JobId,
    /// Why it takes no task of it: its roots are not the job's, say.
    pub refused: Option<String>,
    /// Deliveries of it that it holds.
    pub unsettled: u64,
    /// It leads the job.
    pub leads: bool,
    /// How full the target is, where that can be said.
    pub target: Option<Space>,
}

/// What an actor does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Its name: "files-3".
    pub actor: String,
    /// Whose task it is.
    pub job: JobId,
    /// What kind of task: "batch", "dirs", "chunk" ...
    pub task: String,
    /// The directory, and the entry where one is being worked on; relative to the root.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// For how long, in milliseconds.
    pub age_ms: u64,
    /// Bytes that it moved for this task so far; 0 where calls are not timed.
    pub bytes: u64,
}

/// How a job stands, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// The job.
    pub job: JobId,
    /// Everything counted so far, what is not settled yet among it.
    pub totals: Totals,
    /// Everything has been found: `totals.found` is final.
    pub walk_over: bool,
    /// Since it was submitted, in milliseconds.
    pub elapsed_ms: u64,
    /// What was said along the way.
    pub notes: Vec<String>,
    /// Some of what failed.
    pub failures: Vec<Failure>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobEnd {
    /// Everything that was found is done with; failed entries are in its totals.
    Complete,
    /// It could not go on.
    Aborted(String),
    /// Somebody ended it.
    Cancelled(String),
}

/// Where a job is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobPhase {
    /// What there is is being found and worked on.
    Walking,
    /// What was held back is let go: removals, attributes of directories.
    Finishing,
    /// It is being ended early.
    Stopping,
    /// It is over.
    Ended,
}
