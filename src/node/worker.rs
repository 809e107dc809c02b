//! A worker: serves every job of a broker until it is stopped.

use super::orders::{self, Desk, Leave};
use super::spaces::Spaces;
use super::{Allowed, Ended, Health, NodeError, PoolSizes, Pools, Signals, Stats, layers};
use crate::actor::Jobs;
use crate::broker::Broker;
use crate::broker::amqp::{AmqpConfig, JobGate, Worker};
use crate::fs::layers::Limiter;
use crate::fs::posix::{RootKind, kind_of};
use crate::fs::{self, Filesystem, Options};
use crate::model::fleet::{Answer, Order, Space};
use crate::model::policy::Limits;
use crate::model::{JobId, JobSpec, Report, RootIdentity, Totals, escaped};
use crate::pass::{OpenError, Pass, Roots, row};
use crate::telemetry::{Flusher, Meters};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

/// How long a stopping worker waits for the broker to confirm what was done.
const CLOSING: Duration = Duration::from_secs(20);
/// How often it looks whether the broker is lost for good.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A job that this node takes part in.
type Known = (JobSpec, Arc<dyn Pass>);

/// The jobs that this node takes part in.
struct Table {
    passes: RwLock<HashMap<JobId, Known>>,
    /// Where jobs may work.
    allowed: Allowed,
    /// The node's own bound, which all its jobs share.
    limiter: Arc<Limiter>,
    /// What its actors count, and how long its calls take.
    meters: Option<Arc<Meters>>,
    /// How full targets are.
    spaces: Arc<Spaces>,
    /// Where orders are obeyed, once there is something to give orders to.
    desk: OnceLock<Desk>,
}

impl Jobs for Table {
    fn pass(&self, job: JobId) -> Option<Arc<dyn Pass>> {
        self.passes.read().unwrap_or_else(PoisonError::into_inner).get(&job).map(|(_, pass)| Arc::clone(pass))
    }
}

impl JobGate for Table {
    fn admit(&self, spec: &JobSpec) -> Result<(), String> {
        // Looked at again after each reconnection: mounts may have gone.
        let (pass, target) = self.open_job(spec)?;
        self.spaces.insert(spec.id, target);
        self.passes.write().unwrap_or_else(PoisonError::into_inner).insert(spec.id, (spec.clone(), Arc::from(pass)));
        tracing::info!(job = %spec.id, source = escaped(&spec.source), target = escaped(&spec.target), "serving a job");
        Ok(())
    }

    fn may_finish(&self, job: JobId, totals: &Totals) -> Result<(), String> {
        let known = self.passes.read().unwrap_or_else(PoisonError::into_inner).get(&job).cloned();
        let (spec, pass) = known.ok_or("this worker has left the job")?;
        super::check_source(&spec).and_then(|()| pass.may_finish(totals))
    }

    fn conclude(&self, job: JobId) -> Report {
        let mut report = Report::default();
        if let Some(pass) = self.pass(job) {
            pass.conclude(&mut report);
        }
        report
    }

    fn retire(&self, job: JobId) {
        self.passes.write().unwrap_or_else(PoisonError::into_inner).remove(&job);
        self.spaces.remove(job);
        if let Some(meters) = &self.meters {
            meters.over(job);
        }
        tracing::info!(%job, "the job is over");
    }

    fn target(&self, job: JobId) -> Option<Space> {
        self.spaces.of(job)
    }

    fn order(&self, order: Order) -> Answer {
        tracing::debug!(?order, "told");
        match self.desk.get() {
            Some(desk) => desk.obey(order),
            None => Answer::Refused("it is just starting".to_owned()),
        }
    }

    fn answered(&self, order: &Order) {
        if let Some(desk) = self.desk.get() {
            desk.answered(order);
        }
    }
}

/// A pass, and its target as it is without layers that slow it down.
type Opened = (Box<dyn Pass>, Arc<dyn Filesystem>);

impl Table {
    /// Opens a job's roots, if they are allowed, are here and are the job's: nothing is made, nothing is touched.
    fn open_job(&self, spec: &JobSpec) -> Result<Opened, String> {
        let checked = self.allowed.check(spec)?;
        let timings = self.meters.as_ref().map(|meters| meters.timings(spec.id));
        let opened = open_checked(spec, checked.spec(), &self.limiter, timings.as_ref());
        if let (Err(_), Some(meters)) = (&opened, &self.meters) {
            meters.over(spec.id);
        }
        opened.map_err(|why| checked.in_own_words(&why))
    }
}

/// `held` is the job with the directories that it may use.
fn open_checked(
    spec: &JobSpec,
    held: &JobSpec,
    node: &Arc<Limiter>,
    timed: layers::Timed<'_>,
) -> Result<Opened, String> {
    let row = row(&spec.pass).ok_or_else(|| format!("this version has no pass '{}'", spec.pass))?;
    let options = Options::of(spec.id, &spec.policy);
    let (adapter, path) = fs::adapter_of(&held.target).map_err(|e| e.to_string())?;
    // A dry run makes no target: workers may find none.
    if !spec.policy.dry_run
        && adapter.scheme == "file"
        && kind_of(path).map_err(|e| e.to_string())? != RootKind::Directory
    {
        return Err(format!("target {} is not there: mount it", escaped(&spec.target)));
    }
    let source = layers::open_source(&held.source, &options, timed).map_err(|e| format!("source: {e}"))?;
    check_root("source", &spec.source, source.as_ref(), &spec.source_root)?;
    let target = layers::open_target(&held.target, row.access, &spec.policy, &options, timed);
    let roots = Roots { source, target: target.map_err(|e| format!("target: {e}"))? };
    if !spec.target_root.is_nowhere() {
        check_root("target", &spec.target, roots.target.as_ref(), &spec.target_root)?;
    }
    let target = Arc::clone(&roots.target);
    let pass = row.prepare(held, layers::limited(roots, &spec.policy, Some(node)), false).map_err(|e| match e {
        OpenError::Fs(e) => format!("target {} does not have the job's mark: mount it ({e})", escaped(&spec.target)),
        OpenError::Refused(why) => why,
    })?;
    Ok((pass, target))
}

/// Is a root, as it is seen here, the one that the job was submitted with?
fn check_root(role: &str, path: &[u8], root: &dyn Filesystem, submitted: &RootIdentity) -> Result<(), String> {
    let here = root.identity().map_err(|e| format!("{role}: {e}"))?;
    here.differs(submitted).map_or(Ok(()), |why| Err(format!("{role} {} {why}", escaped(path))))
}

/// Works until SIGINT, SIGTERM or an order, where it is `allowed`, within the node's own `limits` and those of each job.
/// What `stats` says is counted, timed and sent. Blocks.
///
/// # Errors
/// [`NodeError`], if the broker cannot be reached at the start or is lost for good.
pub fn run_worker(
    config: &AmqpConfig,
    name: &str,
    sizes: PoolSizes,
    limits: Limits,
    allowed: Allowed,
    stats: Stats,
    health: &Health,
) -> Result<Ended, NodeError> {
    let table = Arc::new(Table {
        passes: RwLock::default(),
        allowed,
        limiter: Arc::new(Limiter::new(limits)),
        meters: stats.meters.clone(),
        spaces: Arc::default(),
        desk: OnceLock::new(),
    });
    let mut config = config.clone();
    config.prefetch = orders::prefetch([sizes.dirs, sizes.files]);
    let worker = Worker::connect(&config, name.to_owned(), Arc::clone(&table) as Arc<dyn JobGate>)?;
    health.connected(&worker);
    if worker.name() != name {
        tracing::warn!(name = escaped(worker.name().as_bytes()), "another worker has this one's name");
    }
    let (called, PoolSizes { dirs, files }) = (escaped(worker.name().as_bytes()), sizes);
    tracing::info!(name = called, broker = %config, dir_actors = dirs, file_actors = files, "working");
    let (left, flusher) = actix::System::new().block_on(work(&worker, &table, sizes, stats, health))?;
    let at_once = matches!(left, Left::AtOnce);
    let settled = worker.close(if at_once { Duration::ZERO } else { CLOSING });
    // What could not be sent in time is nobody's failure, and was said.
    flusher.map(Flusher::finish);
    match left {
        Left::Lost(why) => Ok(Ended::Aborted(why)),
        Left::AtOnce => Ok(Ended::Complete),
        _ if !settled => {
            Err(NodeError::System("the broker did not confirm what was done; it will be done again".into()))
        }
        Left::Signalled(number) => Ok(Ended::Signalled(number)),
        Left::Told => Ok(Ended::Complete),
    }
}

/// Why the work ended.
enum Left {
    Signalled(i32),
    Told,
    /// Told not to wait for what is in hand.
    AtOnce,
    Lost(String),
}

/// Works until there is a reason to end, and until what is in hand is finished.
async fn work(
    worker: &Arc<Worker>,
    table: &Arc<Table>,
    sizes: PoolSizes,
    stats: Stats,
    health: &Health,
) -> Result<(Left, Option<Flusher>), NodeError> {
    let mut signals = Signals::new()?;
    let jobs = Arc::clone(table) as Arc<dyn Jobs>;
    let (port, meters) = (Arc::new(Arc::clone(worker)) as Arc<dyn Broker>, table.meters.clone());
    let pools = Pools::start(sizes, &port, &jobs, meters.as_ref());
    let (at_work, rosters, spaces) = (Arc::downgrade(worker), pools.rosters.clone(), Arc::clone(&table.spaces));
    let stats = Stats { name: worker.name().to_owned(), ..stats };
    let flusher = stats.start(Box::new(move || orders::gauges(&at_work, &rosters, &spaces)))?;
    health.started(&pools);
    let wanted = [sizes.dirs, sizes.files];
    let desk = table.desk.get_or_init(|| Desk::new(worker, &pools, wanted, Arc::clone(&table.limiter), meters));
    let left = tokio::select! {
        number = signals.next() => Left::Signalled(number),
        () = desk.is_leaving(Leave::Drain) => Left::Told,
        why = lost(worker) => Left::Lost(why),
    };
    match &left {
        Left::Signalled(signal) => tracing::info!(signal, "stopping: what is in hand is finished"),
        Left::Lost(why) => tracing::error!(why, "stopping: the broker is lost for good"),
        Left::Told | Left::AtOnce => tracing::info!("told to stop: what is in hand is finished"),
    }
    desk.leave().send_if_modified(|leave| Leave::Drain > std::mem::replace(leave, Leave::Drain.max(*leave)));
    worker.drain();
    tokio::select! {
        biased;
        () = desk.is_leaving(Leave::Now) => Ok((Left::AtOnce, flusher)),
        number = signals.next() => std::process::exit(128 + number),
        () = pools.drain() => Ok((left, flusher)),
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
