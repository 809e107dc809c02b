//! Following one job: submitting it, knowing when it is over, clearing up.

use super::envelope::Seal;
use super::lead::Memory;
use super::link::Link;
use super::messages::{JobEvent, TasksRef};
use super::patience::Patience;
use super::{AmqpConfig, AmqpError, connection, joblog, topology};
use crate::broker::Gate;
use crate::model::{JobId, JobSpec, Queue, Task};
use crate::telemetry::Board;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How often the caller is asked whether to stop while the broker is away.
const ASK_STOP: Duration = Duration::from_millis(50);
/// A broker that is asked when the job shall stop may take so long to answer: the fleet should hear of it.
const LAST_WORD: Duration = Duration::from_secs(3);
/// Weight of the first tasks in one message, in bytes.
const FIRST_BYTES: usize = 64 << 10;
/// How often the removal of a job is tried.
const REMOVE_TRIES: u32 = 5;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was posted got done, or failed and is listed.
    Complete,
    /// Ended early because the caller said so.
    Stopped,
    /// Ended early because a task said that there is no use in going on.
    Aborted(String),
}

/// The end of a job; its totals are on the board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// Messages in the job's dead letters.
    pub dead: u32,
}

/// The fleet at one moment, as far as one job goes.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// Messages that are ready, by queue in the order of [`Queue::ALL`].
    pub ready: [u32; 3],
    /// Workers that answered.
    pub members: Vec<Member>,
}

/// One worker.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Deliveries of the job that it holds.
    pub unsettled: u64,
    /// Actors that wait, by pool.
    pub idle: [u32; 2],
    /// Why it takes no task of the job, if so.
    pub refused: Option<String>,
}

/// Follows one job from its beginning to its end.
pub struct Leader {
    config: AmqpConfig,
    runtime: Runtime,
    link: Option<Link>,
    memory: Memory,
}

impl Leader {
    /// Makes the queues of a job, posts its first tasks, which are for dir actors, and tells the fleet. Calls of a leader block, and must
    /// not come from an async context.
    ///
    /// # Errors
    /// Any [`AmqpError`]. What was made stays with the broker then; nobody works on it if the job could not be
    /// told to the fleet.
    pub fn submit(
        config: &AmqpConfig,
        spec: JobSpec,
        first: impl IntoIterator<Item = Task>,
        board: Arc<Board>,
        gate: Gate,
    ) -> Result<Leader, AmqpError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("lead").enable_all().build()?;
        let link = runtime.block_on(submit(config, &spec, first.into_iter()))?;
        let memory = Memory::new(spec, board, gate, config);
        Ok(Leader { config: config.clone(), runtime, link: Some(link), memory })
    }

    /// Follows the job until it is over. `stop` is asked several times a second; true ends the job early.
    /// `on_look` hears of the fleet every time it was looked at. A lost broker is tried again for ever, or
    /// until `stop`: then the fleet goes on until it hears that the job is removed.
    ///
    /// # Errors
    /// [`AmqpError`], if the broker refuses this process or the job time after time.
    pub fn run(&mut self, stop: &dyn Fn() -> bool, on_look: &mut dyn FnMut(&Fleet)) -> Result<Ended, AmqpError> {
        let mut patience = Patience::new();
        loop {
            let link = match self.link.take() {
                Some(link) => Some(link),
                None => self.runtime.block_on(reconnect(&self.config, self.memory.job(), stop, &mut patience))?,
            };
            let Some(mut link) = link else {
                return Ok(Ended { outcome: self.memory.ended_early(), dead: 0 });
            };
            let began = Instant::now();
            match self.runtime.block_on(self.memory.follow(&mut link, &self.config, stop, on_look)) {
                Ok(outcome) => {
                    let dead = self.runtime.block_on(link.dead_letters(self.memory.job()));
                    self.link = Some(link);
                    return Ok(Ended { outcome, dead });
                }
                Err(e) => {
                    let error = AmqpError::using(&self.config, &e);
                    tracing::warn!(%error, "trying to come back");
                    patience.lived(began.elapsed());
                    patience.bear(error)?;
                    self.runtime.block_on(connection::close(&link.connection));
                }
            }
        }
    }

    /// Removes the job's queues and tells the fleet that it is gone. Dead letters stay, if there are any, and
    /// their number is given back.
    ///
    /// # Errors
    /// [`AmqpError`]; may be called again.
    pub fn remove(&mut self) -> Result<u32, AmqpError> {
        let mut patience = Patience::new();
        let mut tries = 1;
        loop {
            match self.runtime.block_on(remove(&self.config, self.link.take(), self.memory.job())) {
                Err(error) if error.is_transient() && tries < REMOVE_TRIES => {
                    tracing::debug!(%error, "the job was not removed yet");
                }
                ended => return ended,
            }
            tries += 1;
            std::thread::sleep(patience.pause());
        }
    }
}

/// Tries once. What an earlier try removed is not missed.
async fn remove(config: &AmqpConfig, link: Option<Link>, job: JobId) -> Result<u32, AmqpError> {
    let connection = match link {
        Some(link) => link.connection,
        None => connection::open(config, "leader").await?,
    };
    let removing = async {
        let letters = topology::delete_job(&connection, job).await?;
        let out = connection::confirmed_channel(&connection).await?;
        joblog::append(&out, &config.seal, &JobEvent::Removed(job)).await?;
        Ok(letters)
    };
    let removed = removing.await;
    connection::close(&connection).await;
    removed.map_err(|e| AmqpError::using(config, &e))
}

async fn submit(config: &AmqpConfig, spec: &JobSpec, first: impl Iterator<Item = Task>) -> Result<Link, AmqpError> {
    let mut bodies = first_messages(&config.seal, spec.id, first).peekable();
    if let Some(Err(_)) = bodies.peek()
        && let Some(Err(e)) = bodies.next()
    {
        return Err(e);
    }
    let connection = connection::open(config, "leader").await?;
    let submitting = async {
        let channel = connection.create_channel().await?;
        let shared = topology::declare_shared(&channel);
        let own = topology::declare_job(&connection, spec.id, config.queue_type);
        tokio::try_join!(shared, own)?;
        let link = Link::open(connection, &config.seal, spec.id).await?;
        let queue = topology::tasks(spec.id, Queue::Dirs);
        for body in bodies {
            let body = body.map_err(|e| lapin::Error::from(std::io::Error::other(e)))?;
            connection::publish_safely(&link.out, &queue, &body).await?;
        }
        joblog::append(&link.out, &config.seal, &JobEvent::Submitted(Box::new(spec.clone()))).await?;
        Ok(link)
    };
    submitting.await.map_err(|e| AmqpError::using(config, &e))
}

/// The messages of a job's first tasks.
fn first_messages(
    seal: &Seal,
    job: JobId,
    tasks: impl Iterator<Item = Task>,
) -> impl Iterator<Item = Result<Vec<u8>, AmqpError>> {
    let mut tasks = tasks.peekable();
    std::iter::from_fn(move || {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while bytes < FIRST_BYTES
            && let Some(task) = tasks.next()
        {
            bytes += task.weight_bytes();
            group.push(task);
        }
        let message = TasksRef { job, attempts: 0, again: false, tasks: group.iter().collect() };
        (!group.is_empty()).then(|| seal.seal_tasks(&message).map_err(AmqpError::from))
    })
}

/// A new link; none if the job shall stop before there is one.
async fn reconnect(
    config: &AmqpConfig,
    job: JobId,
    stop: &dyn Fn() -> bool,
    patience: &mut Patience,
) -> Result<Option<Link>, AmqpError> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(patience.pause()) => {}
            () = told(stop) => {}
        }
        let opened = tokio::select! {
            opened = open_link(config, job) => opened,
            () = async { told(stop).await; tokio::time::sleep(LAST_WORD).await } => return Ok(None),
        };
        match opened {
            Ok(link) => {
                tracing::warn!(broker = %config, "the broker is back");
                return Ok(Some(link));
            }
            Err(_) if stop() => return Ok(None),
            Err(e) => patience.bear(e)?,
        }
    }
}

/// Returns when the caller says stop.
async fn told(stop: &dyn Fn() -> bool) {
    while !stop() {
        tokio::time::sleep(ASK_STOP).await;
    }
}

async fn open_link(config: &AmqpConfig, job: JobId) -> Result<Link, AmqpError> {
    let connection = connection::open(config, "leader").await?;
    Link::open(connection, &config.seal, job).await.map_err(|e| AmqpError::using(config, &e))
}
