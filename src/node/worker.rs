//! A worker: serves every job of a broker until it is stopped.

use super::{Allowed, Ended, NodeError, PoolSizes, Pools, Signals, layers};
use crate::actor::Jobs;
use crate::broker::Broker;
use crate::broker::amqp::{AmqpConfig, JobGate, Worker};
use crate::fs::layers::Limiter;
use crate::fs::posix::{RootKind, kind_of};
use crate::fs::{self, Options, Side};
use crate::model::policy::Limits;
use crate::model::{JobId, JobSpec, RelPath, escaped};
use crate::pass::{OpenError, Pass, Roots, row};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long a stopping worker waits for the broker to confirm what was done.
const CLOSING: Duration = Duration::from_secs(20);
/// How often it looks whether the broker is lost for good.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The jobs that this node takes part in.
#[derive(Default)]
struct Table {
    passes: RwLock<HashMap<JobId, Arc<dyn Pass>>>,
    /// Where jobs may work.
    allowed: Allowed,
    /// The node's own bound, which all its jobs share.
    limiter: Option<Arc<Limiter>>,
}

impl Jobs for Table {
    fn pass(&self, job: JobId) -> Option<Arc<dyn Pass>> {
        self.passes.read().unwrap_or_else(PoisonError::into_inner).get(&job).cloned()
    }
}

impl JobGate for Table {
    fn admit(&self, spec: &JobSpec) -> Result<(), String> {
        // Looked at again after each reconnection: mounts may have gone.
        let pass = open_job(spec, &self.allowed, self.limiter.as_ref())?;
        self.passes.write().unwrap_or_else(PoisonError::into_inner).insert(spec.id, Arc::from(pass));
        tracing::info!(job = %spec.id, source = escaped(&spec.source), target = escaped(&spec.target), "serving a job");
        Ok(())
    }

    fn retire(&self, job: JobId) {
        self.passes.write().unwrap_or_else(PoisonError::into_inner).remove(&job);
        tracing::info!(%job, "the job is over");
    }
}

/// Opens a job's roots, if they are allowed, are here and are the job's: nothing is made, nothing is touched.
fn open_job(spec: &JobSpec, allowed: &Allowed, node: Option<&Arc<Limiter>>) -> Result<Box<dyn Pass>, String> {
    let checked = allowed.check(spec)?;
    open_checked(spec, checked.spec(), node).map_err(|why| checked.in_own_words(&why))
}

/// `held` is the job with the directories that it may use.
fn open_checked(spec: &JobSpec, held: &JobSpec, node: Option<&Arc<Limiter>>) -> Result<Box<dyn Pass>, String> {
    let row = row(&spec.pass).ok_or_else(|| format!("this version has no pass '{}'", spec.pass))?;
    let options = Options { job: spec.id };
    let (adapter, path) = fs::adapter_of(&held.target).map_err(|e| e.to_string())?;
    // A dry run makes no target: workers may find none.
    if !spec.policy.dry_run
        && adapter.scheme == "file"
        && kind_of(path).map_err(|e| e.to_string())? != RootKind::Directory
    {
        return Err(format!("target {} is not there: mount it", escaped(&spec.target)));
    }
    let source = fs::open(&held.source, Side::Source, &options).map_err(|e| format!("source: {e}"))?;
    let root = source.open_dir(&RelPath::root()).and_then(|d| d.metadata()).map_err(|e| format!("source: {e}"))?;
    if root.ino != spec.source_ino {
        return Err(format!("source {} is not the one that was submitted: mount it", escaped(&spec.source)));
    }
    let target = layers::open_target(&held.target, row.access, &spec.policy, &options);
    let roots = Roots { source, target: target.map_err(|e| format!("target: {e}"))? };
    row.prepare(held, layers::limited(roots, &spec.policy, node), false).map_err(|e| match e {
        OpenError::Fs(e) => format!("target {} does not have the job's mark: mount it ({e})", escaped(&spec.target)),
        OpenError::Refused(why) => why,
    })
}

/// Works until SIGINT or SIGTERM, where it is `allowed`, within the node's own `limits` and those of each job. Blocks.
///
/// # Errors
/// [`NodeError`], if the broker cannot be reached at the start or is lost for good.
pub fn run_worker(
    config: &AmqpConfig,
    name: String,
    sizes: PoolSizes,
    limits: Limits,
    allowed: Allowed,
) -> Result<Ended, NodeError> {
    let limiter = (limits != Limits::default()).then(|| Arc::new(Limiter::new(limits)));
    let table = Arc::new(Table { limiter, allowed, ..Table::default() });
    let mut config = config.clone();
    config.prefetch = [sizes.dirs, sizes.files].map(|n| u16::try_from(2 * n).unwrap_or(u16::MAX));
    let shown = name.clone();
    let worker = Worker::connect(&config, name, Arc::clone(&table) as Arc<dyn JobGate>)?;
    tracing::info!(name = escaped(shown.as_bytes()), broker = %config, ?sizes, "working");
    let jobs = table as Arc<dyn Jobs>;
    let broker = Arc::new(Arc::clone(&worker)) as Arc<dyn Broker>;
    let lost = actix::System::new().block_on(async {
        let mut signals = Signals::new()?;
        let pools = Pools::start(sizes, &broker, &jobs);
        let outcome = tokio::select! {
            number = signals.next() => Ok(number),
            why = lost(&worker) => Err(why),
        };
        worker.drain();
        tokio::select! {
            () = pools.drain() => {}
            number = signals.next() => std::process::exit(128 + number),
        }
        Ok::<_, NodeError>(outcome)
    })?;
    let settled = worker.close(CLOSING);
    match lost {
        Ok(number) if settled => Ok(Ended::Signalled(number)),
        Ok(_) => Err(NodeError::System("the broker did not confirm what was done; it will be done again".into())),
        Err(why) => Ok(Ended::Aborted(why)),
    }
}

/// Waits until the broker is lost for good.
async fn lost(worker: &Worker) -> String {
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        if let Some(why) = worker.failed() {
            return why;
        }
    }
}

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
