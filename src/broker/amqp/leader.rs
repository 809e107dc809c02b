//! Following one job: submitting it, knowing when it is over, clearing up.

use super::envelope::{self, JobEvent, TasksRef};
use super::lead::Memory;
use super::link::Link;
use super::{AmqpConfig, AmqpError, connection, joblog, topology};
use crate::model::{JobSpec, Queue, Task};
use crate::telemetry::Board;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// First pause before a lost broker is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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
    /// Makes the queues of a job, posts its first task and tells the fleet. Calls of a leader block, and must
    /// not come from an async context.
    ///
    /// # Errors
    /// Any [`AmqpError`]. What was made stays with the broker then; nobody works on it if the job could not be
    /// told to the fleet.
    pub fn submit(config: &AmqpConfig, spec: JobSpec, first: &Task, board: Arc<Board>) -> Result<Leader, AmqpError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("lead").enable_all().build()?;
        let link = runtime.block_on(submit(config, &spec, first))?;
        let memory = Memory::new(spec, board);
        Ok(Leader { config: config.clone(), runtime, link: Some(link), memory })
    }

    /// Follows the job until it is over. `stop` is asked several times a second; true ends the job early.
    /// `on_look` hears of the fleet every time it was looked at. A lost broker is tried again for ever, or
    /// until `stop`.
    ///
    /// # Errors
    /// [`AmqpError`], if the broker does not let this process in any more, or is lost when the job shall stop.
    pub fn run(&mut self, stop: &dyn Fn() -> bool, on_look: &mut dyn FnMut(&Fleet)) -> Result<Ended, AmqpError> {
        loop {
            let mut link = match self.link.take() {
                Some(link) => link,
                None => self.runtime.block_on(reconnect(&self.config, &self.memory, stop))?,
            };
            match self.runtime.block_on(self.memory.follow(&mut link, &self.config, stop, on_look)) {
                Ok(outcome) => {
                    let dead = self.runtime.block_on(link.dead_letters(self.memory.job()));
                    self.link = Some(link);
                    return Ok(Ended { outcome, dead });
                }
                Err(e) => {
                    let error = AmqpError::using(&self.config, &e);
                    if !error.is_transient() {
                        return Err(error);
                    }
                    tracing::warn!(%error, "trying to come back");
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
        let link = match self.link.take() {
            Some(link) => link,
            None => self.runtime.block_on(reconnect(&self.config, &self.memory, &|| true))?,
        };
        let job = self.memory.job();
        let removed = self.runtime.block_on(async {
            let letters = topology::delete_job(&link.connection, job).await?;
            joblog::append(&link.out, &JobEvent::Removed(job)).await?;
            connection::close(&link.connection).await;
            Ok(letters)
        });
        removed.map_err(|e| AmqpError::using(&self.config, &e))
    }
}

async fn submit(config: &AmqpConfig, spec: &JobSpec, first: &Task) -> Result<Link, AmqpError> {
    let tasks = TasksRef { job: spec.id, attempts: 0, again: false, tasks: vec![first] };
    let body = envelope::seal_tasks(&tasks)?;
    let connection = connection::open(config, "leader").await?;
    let submitting = async {
        let channel = connection.create_channel().await?;
        let shared = topology::declare_shared(&channel);
        let own = topology::declare_job(&connection, spec.id, config.queue_type);
        tokio::try_join!(shared, own)?;
        let link = Link::open(connection, spec.id).await?;
        let queue = topology::tasks(spec.id, Queue::Dirs);
        connection::publish_safely(&link.out, &queue, &body).await?;
        joblog::append(&link.out, &JobEvent::Submitted(spec.clone())).await?;
        Ok(link)
    };
    submitting.await.map_err(|e| AmqpError::using(config, &e))
}

async fn reconnect(config: &AmqpConfig, memory: &Memory, stop: &dyn Fn() -> bool) -> Result<Link, AmqpError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let opened = match connection::open(config, "leader").await {
            Ok(c) => Link::open(c, memory.job()).await.map_err(|e| AmqpError::using(config, &e)),
            Err(e) => Err(e),
        };
        match opened {
            Ok(link) => {
                tracing::warn!(broker = %config, "the broker is back");
                return Ok(link);
            }
            Err(e) if !e.is_transient() || stop() => return Err(e),
            Err(e) => tracing::debug!(error = %e, "the broker is not back yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
