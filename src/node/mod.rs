//! The composition root of a process: opens roots and broker by URL, wires actors, starts and stops them.

mod allowed;
mod alone;
pub mod doctor;
pub mod export;
mod fleet;
mod health;
pub mod history;
pub mod json;
mod layers;
mod live;
mod look;
mod orders;
mod placing;
mod roots;
mod single;
mod spaces;
mod stats;
mod worker;

pub use allowed::{Allowed, Checked};
pub use alone::run_alone;
pub use fleet::{follow, listen, reopen, running_between, submit};
pub use health::Health;
pub use live::{Live, Times};
pub use look::{JobLook, Look};
pub use placing::{lost_projects, missing_mdts};
pub use roots::{Prepared, prepare};
pub use single::run_single;
pub use stats::{OpenOutlet, Stats};
pub use worker::run_worker;

use crate::actor::Jobs;
use crate::broker::Broker;
use crate::fs::RootError;
use crate::fs::{Options, Side};
use crate::model::{JobId, JobSpec, escaped};
use crate::pass::{OpenError, Pass};
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How many actors of each kind. A worker without actors of a kind leaves their queues alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSizes {
    /// Dir actors.
    pub dirs: usize,
    /// File actors.
    pub files: usize,
}

impl PoolSizes {
    /// Sizes for one job on this machine's own filesystems: a listing keeps several copiers busy, and a copier
    /// that waits for a disk leaves its core to another.
    pub fn for_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        PoolSizes { dirs: cores.clamp(2, 16), files: (2 * cores).clamp(4, 64) }
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was found is done with.
    Complete,
    /// It could not go on.
    Aborted(String),
    /// SIGINT or SIGTERM, by number.
    Signalled(i32),
    /// The same while a fleet was followed: its job goes on.
    Left(i32),
}

/// Why a job could not be run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A root is wrong or cannot be opened.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The target cannot be prepared.
    #[error("cannot prepare the target: {0}")]
    Target(#[from] crate::fs::FsError),
    /// The pass must not, or cannot, be run; nothing was touched.
    #[error("{0}")]
    Refused(String),
    /// The broker cannot be used.
    #[error(transparent)]
    Broker(#[from] crate::broker::amqp::AmqpError),
    /// The machine does not give what is needed.
    #[error("{0}")]
    System(String),
}

impl From<OpenError> for NodeError {
    fn from(e: OpenError) -> Self {
        match e {
            OpenError::Fs(e) => NodeError::Target(e),
            OpenError::Refused(why) => NodeError::Refused(why),
        }
    }
}

/// What this process needs of the system, once, before any thread starts.
///
/// Files are made with exactly the mode that is asked for, as many may be open as the system allows, and one that
/// becomes larger than it allows is that file's failure.
pub fn prepare_process() {
    rustix::process::umask(rustix::fs::Mode::empty());
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(e) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::debug!(error = %e, "cannot raise the limit of open files");
    }
    if let Err(e) = crate::fs::posix::outlive_file_limits() {
        tracing::debug!(error = %e, "a limit on file sizes would end the process");
    }
}

/// Asks the kernel to serve this process's reads and writes last, once, before any thread starts.
///
/// # Errors
/// The system's, where it does not let the process.
pub fn be_nice() -> std::io::Result<()> {
    crate::fs::posix::be_nice()
}

/// The one job of a process that works alone.
struct OnlyJob(JobId, Arc<dyn Pass>);

impl Jobs for OnlyJob {
    fn pass(&self, job: JobId) -> Option<Arc<dyn Pass>> {
        (job == self.0).then(|| Arc::clone(&self.1))
    }
}

/// The pass decides whether the job may go on; without its source it must not.
fn gate_of(pass: &Arc<dyn Pass>, spec: &JobSpec) -> crate::broker::Gate {
    let (pass, spec) = (Arc::clone(pass), spec.clone());
    Box::new(move |totals| check_source(&spec).and_then(|()| pass.may_finish(totals)))
}

/// Is the source's root still there, and the same? If it is not, everything in it seemed to vanish.
fn check_source(spec: &JobSpec) -> Result<(), String> {
    let gone = |why: String| format!("the source {} is not what it was any more: {why}", escaped(&spec.source));
    let opened = crate::fs::open(&spec.source, Side::Source, &Options::of(spec.id, &spec.policy))
        .map_err(|e| gone(e.to_string()))?;
    let now = opened.identity().map_err(|e| gone(e.to_string()))?;
    now.differs(&spec.source_root).map_or(Ok(()), |why| Err(gone(why)))
}

/// Both pools of a process.
struct Pools {
    dirs: actix::Addr<crate::actor::PoolSupervisor>,
    files: actix::Addr<crate::actor::PoolSupervisor>,
    /// What the actors of each do.
    rosters: [Arc<crate::actor::Roster>; 2],
}

impl Pools {
    fn start(
        sizes: PoolSizes,
        broker: &Arc<dyn Broker>,
        jobs: &Arc<dyn Jobs>,
        meters: Option<&Arc<crate::telemetry::Meters>>,
    ) -> Self {
        use crate::actor::{PoolSupervisor, Roster};
        use crate::broker::Pool;
        let rosters = [Pool::Dirs, Pool::Files].map(Roster::new);
        let start = |pool: Pool, n| {
            let roster = Arc::clone(&rosters[pool as usize]);
            PoolSupervisor::start_pool(pool, n, Arc::clone(broker), Arc::clone(jobs), roster, meters.cloned())
        };
        Pools { dirs: start(Pool::Dirs, sizes.dirs), files: start(Pool::Files, sizes.files), rosters }
    }

    /// Waits until every actor has finished the task in its hands.
    async fn drain(&self) {
        let (dirs, files) = (self.dirs.send(crate::actor::Drain), self.files.send(crate::actor::Drain));
        for gone in [dirs.await, files.await] {
            if let Err(e) = gone {
                tracing::warn!(error = %e, "a pool ended before its actors");
            }
        }
    }
}

/// SIGINT and SIGTERM. The first asks to finish what is in hand; the second ends the process at once.
struct Signals {
    int: Signal,
    term: Signal,
}

impl Signals {
    fn new() -> Result<Self, NodeError> {
        let listen = |kind| signal(kind).map_err(|e| NodeError::System(format!("cannot listen for signals: {e}")));
        Ok(Signals { int: listen(SignalKind::interrupt())?, term: listen(SignalKind::terminate())? })
    }

    /// The next one, by number.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.int.recv() => libc::SIGINT,
            _ = self.term.recv() => libc::SIGTERM,
        }
    }
}
