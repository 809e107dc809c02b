//! Who controls a fleet: asks its workers, reads the job log, and writes what is wanted into it.

use super::connection::{self, Published};
use super::joblog::{self, Next, Reader};
use super::jobs::{JobState, fold};
use super::messages::{Control, Errand, JobEvent, Word};
use super::stranger::Stranger;
use super::submit::end_unled;
use super::{AmqpConfig, AmqpError, topology};
use crate::model::fleet::{Answer, Order};
use crate::model::{JobId, Queue};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Where the broker cannot say how many workers there are, all are taken to have answered after so much silence.
const QUIET: Duration = Duration::from_millis(300);
/// Most strangers that are told of: anybody can pose as one.
const MAX_STRANGERS: usize = 1000;
/// A log whose end says nothing for so long is empty.
pub(super) const EMPTY_LOG: Duration = Duration::from_secs(1);
/// How long the broker may take for the next event of a log that was not read to its end.
pub(super) const LOG_PATIENCE: Duration = Duration::from_secs(10);
/// A log that was, says nothing for so long.
pub(super) const END_OF_LOG: Duration = Duration::from_millis(150);

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Of those whom it was for, by name.
    pub answers: Vec<(String, Answer)>,
    /// Workers that cannot read what they are asked.
    pub strangers: Vec<Stranger>,
    /// Workers that the broker knows and that did not answer in time.
    pub silent: u32,
}

/// A queue of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDepth {
    /// Which one: "dirs", "files" ...
    pub name: &'static str,
    /// Messages that wait.
    pub ready: u32,
    /// Workers that consume from it.
    pub consumers: u32,
}

/// One connection of somebody who controls a fleet. Calls block, and must not come from an async context.
pub struct Office {
    config: AmqpConfig,
    runtime: Runtime,
    connection: Connection,
    /// Confirmed.
    out: Channel,
    mailbox: String,
    replies: Mutex<Consumer>,
    log: Mutex<Log>,
    asked: AtomicU64,
}

/// The job log, as far as it was read.
#[derive(Default)]
struct Log {
    reader: Option<Reader<JobEvent>>,
    jobs: BTreeMap<JobId, JobState>,
}

struct Opened {
    connection: Connection,
    out: Channel,
    mailbox: String,
    replies: Consumer,
}

async fn open(config: &AmqpConfig) -> Result<Opened, AmqpError> {
    let connection = connection::open_shared(config, "office").await?;
    let opening = async {
        let out = connection::confirmed_channel(&connection).await?;
        let ear = connection.create_channel().await?;
        let mailbox = format!("treehaul.replies.office.{}", JobId::random());
        topology::declare_mailbox(&ear, &mailbox, false).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = ear.basic_consume(mailbox.as_str().into(), "".into(), options, FieldTable::default()).await?;
        Ok((out, mailbox, replies))
    };
    match opening.await {
        Ok((out, mailbox, replies)) => Ok(Opened { connection, out, mailbox, replies }),
        Err(e) => {
            connection::close(&connection).await;
            Err(AmqpError::using(config, &e))
        }
    }
}

impl Office {
    /// Connects to a broker.
    ///
    /// # Errors
    /// Any [`AmqpError`]. With one of any call that is transient, connect anew.
    ///
    /// # Blocking
    /// Until the broker answers.
    pub fn connect(config: &AmqpConfig) -> Result<Self, AmqpError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("office").enable_all().build()?;
        let Opened { connection, out, mailbox, replies } = runtime.block_on(open(config))?;
        let (replies, log) = (Mutex::new(replies), Mutex::default());
        Ok(Office { config: config.clone(), runtime, connection, out, mailbox, replies, log, asked: AtomicU64::new(0) })
    }

    fn named<T>(&self, result: lapin::Result<T>) -> Result<T, AmqpError> {
        result.map_err(|e| AmqpError::using(&self.config, &e))
    }

    /// Gives an order to the workers whose names match one of the globs; to all, if there are none. Waits until all
    /// that the broker knows have answered, for `patience` at most.
    ///
    /// # Errors
    /// [`AmqpError`], of the broker alone; what workers refuse is among the answers.
    pub fn ask(&self, nodes: &[String], order: &Order, patience: Duration) -> Result<Answers, AmqpError> {
        let id = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let errand = Errand { nodes: nodes.to_vec(), order: order.clone(), reply_to: self.mailbox.clone(), id };
        let body = self.config.seal.seal(&Control::Order(errand))?;
        self.named(self.runtime.block_on(self.send_out(&body, id, patience)))
    }

    async fn send_out(&self, body: &[u8], id: u64, patience: Duration) -> lapin::Result<Answers> {
        let mut replies = self.replies.lock().await;
        let properties = BasicProperties::default().with_reply_to(self.mailbox.as_str().into());
        // Mandatory: without any worker it comes back at once.
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let before = self.workers().await;
        let sent = self.out.basic_publish(topology::CONTROL.into(), "".into(), options, body, properties).await?;
        if connection::published(&sent.await?)? == Published::NoQueue {
            return Ok(Answers::default());
        }
        // Afterwards: whoever hears the question is counted by now. Before: who is told to stop is gone by now.
        let known = before.zip(self.workers().await).map(|(before, after)| before.max(after));
        let mut heard = Heard { id, known, ..Heard::default() };
        let end = Instant::now() + patience;
        while !heard.is_all() {
            let until = if heard.may_be_all() { end.min(Instant::now() + QUIET) } else { end };
            let Ok(delivery) = tokio::time::timeout_at(until, replies.next()).await else { break };
            let gone = || lapin::Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionAborted));
            heard.take_in(&self.config, &delivery.ok_or_else(gone)??.data);
        }
        Ok(heard.into_answers())
    }

    /// How many workers the broker knows, if it can say.
    async fn workers(&self) -> Option<u32> {
        let channel = self.connection.create_channel().await.ok()?;
        let depth = connection::depth(&channel, topology::WORKERS).await.ok()?;
        let _ = channel.close(200, "done".into()).await; // it goes with the connection
        Some(depth.consumers)
    }

    /// All jobs of the log, by name.
    ///
    /// # Errors
    /// [`AmqpError`].
    pub fn jobs(&self) -> Result<Vec<JobState>, AmqpError> {
        self.named(self.runtime.block_on(async {
            let mut log = self.log.lock().await;
            let (mut reader, newest) = match log.reader.take() {
                Some(reader) => (reader, None),
                None => {
                    let newest = joblog::newest(&self.connection, &self.config.seal, EMPTY_LOG).await?;
                    (Reader::open(&self.connection, &self.config.seal, topology::JOB_LOG, 0).await?, newest)
                }
            };
            loop {
                let reached = reader.has_reached(newest);
                match reader.next(if reached { END_OF_LOG } else { LOG_PATIENCE }).await? {
                    Some(Next::Entry(event)) => fold(&mut log.jobs, event),
                    Some(Next::Passed) => {}
                    Some(Next::Quiet) if reached => break,
                    Some(Next::Quiet) => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                    None => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()),
                }
            }
            log.reader = Some(reader);
            Ok(log.jobs.values().cloned().collect())
        }))
    }

    fn append(&self, event: &JobEvent) -> Result<(), AmqpError> {
        self.named(self.runtime.block_on(joblog::append(&self.out, &self.config.seal, event)))
    }

    /// Has nobody take a task of a job until it is resumed, also those who join later.
    ///
    /// # Errors
    /// [`AmqpError`].
    pub fn pause_job(&self, job: JobId) -> Result<(), AmqpError> {
        self.append(&JobEvent::Paused(job))
    }

    /// Has a job go on.
    ///
    /// # Errors
    /// [`AmqpError`].
    pub fn resume_job(&self, job: JobId) -> Result<(), AmqpError> {
        self.append(&JobEvent::Resumed(job))
    }

    /// Asks for a job's end; its leader sees to it. One that nobody leads is ended here.
    ///
    /// # Errors
    /// [`AmqpError`].
    pub fn cancel_job(&self, job: JobId, why: &str) -> Result<(), AmqpError> {
        self.append(&JobEvent::Cancel { job, why: why.to_owned() })?;
        self.named(self.runtime.block_on(end_unled(&self.connection, &self.config, job, why)))
    }

    /// The queues of a job that the broker has: those of tasks, the reports, and the dead letters.
    ///
    /// # Errors
    /// [`AmqpError`].
    pub fn depths(&self, job: JobId) -> Result<Vec<QueueDepth>, AmqpError> {
        let mut queues: Vec<_> = Queue::ALL.iter().map(|q| (q.noun(), topology::tasks(job, *q))).collect();
        queues.extend([("results", topology::results(job)), ("dead", topology::dead(job))]);
        let asking = queues.iter().map(|(noun, name)| self.depth_of(noun, name));
        let found = self.runtime.block_on(try_join_all(asking));
        Ok(self.named(found)?.into_iter().flatten().collect())
    }

    async fn depth_of(&self, noun: &'static str, queue: &str) -> lapin::Result<Option<QueueDepth>> {
        // Each on a channel of its own: the answer that a queue is missing closes it.
        let channel = self.connection.create_channel().await?;
        match connection::depth(&channel, queue).await {
            Ok(depth) => {
                channel.close(200, "done".into()).await?;
                Ok(Some(QueueDepth { name: noun, ready: depth.ready, consumers: depth.consumers }))
            }
            Err(e) if connection::is_missing(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        self.runtime.block_on(connection::close(&self.connection));
    }
}

/// What was heard after one question.
#[derive(Default)]
struct Heard {
    id: u64,
    known: Option<u32>,
    words: u32,
    answers: Answers,
}

impl Heard {
    fn take_in(&mut self, config: &AmqpConfig, body: &[u8]) {
        if let Some(stranger) = Stranger::read(body) {
            let strangers = &self.answers.strangers;
            if strangers.len() < MAX_STRANGERS && !strangers.contains(&stranger) {
                self.answers.strangers.push(stranger);
            }
            return;
        }
        match config.seal.open::<Word>(body) {
            Ok(word) if word.id == self.id => {
                self.words += 1;
                self.answers.answers.extend(word.answer.map(|answer| (word.worker, answer)));
            }
            Ok(_) => {} // late, to an earlier question
            Err(e) => tracing::warn!(error = %e, "passed over an answer"),
        }
    }

    fn count(&self) -> u32 {
        self.words.saturating_add(u32::try_from(self.answers.strangers.len()).unwrap_or(u32::MAX))
    }

    /// Have all answered? Strangers may be of a version that the broker does not count.
    fn is_all(&self) -> bool {
        self.answers.strangers.is_empty() && self.known.is_some_and(|known| self.words >= known)
    }

    /// Could silence mean that all have answered?
    fn may_be_all(&self) -> bool {
        self.known.is_none_or(|known| self.count() >= known)
    }

    fn into_answers(mut self) -> Answers {
        self.answers.silent = self.known.unwrap_or(0).saturating_sub(self.count());
        self.answers.answers.sort_by(|a, b| a.0.cmp(&b.0));
        self.answers.strangers.sort();
        self.answers
    }
}
