//! Following a job: reading its stream until it is sealed. Whoever follows changes nothing.

use super::connection::{self, Depth, Subscription};
use super::joblog::{self, Next, Reader};
use super::jobs::JobState;
use super::messages::{Probe, Record, Reply, Standing, What};
use super::patience::Patience;
use super::story::{Sealed, Story};
use super::submit::{Reads, read_jobs};
use super::{AmqpConfig, AmqpError, BLOCKED, messages, topology};
use crate::model::fleet::JobEnd;
use crate::model::{JobId, Queue, Report, Totals, escaped};
use crate::telemetry::Board;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How often the caller is asked whether to leave.
const ASK_STOP: Duration = Duration::from_millis(50);
/// A job of which nothing is heard for so long is looked after.
const SILENCE: Duration = Duration::from_secs(3);
/// How long workers may take to answer, and the broker to take a message.
const ANSWER: Duration = Duration::from_secs(1);
/// How long the leader may take to clear up once the job is sealed.
const CLEAR_UP: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const CLEARED: Duration = Duration::from_millis(10);

/// How following ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// The job is over.
    Ended {
        /// How.
        end: JobEnd,
        /// Messages in its dead letters.
        letters: u32,
    },
    /// The caller left; the job goes on.
    Left,
}

/// Reads along with one job.
pub struct Follower {
    config: AmqpConfig,
    runtime: Runtime,
    story: Story,
    job: JobId,
    /// Names this reader in the stream.
    reader: u64,
    offset: i64,
}

impl Follower {
    /// For a job that is, or was, on the broker. What its stream tells goes to the board. Calls of a follower block, and
    /// must not come from an async context.
    ///
    /// # Errors
    /// [`AmqpError::Threads`].
    pub fn new(config: &AmqpConfig, job: JobId, reader: Reads, board: Arc<Board>) -> Result<Self, AmqpError> {
        let runtime = super::blocking()?;
        let story = Story::new(job, board);
        Ok(Follower { config: config.clone(), runtime, story, job, reader: reader.0, offset: 0 })
    }

    /// Reads until the job is over, or the caller leaves: `stop` is asked several times a second. A lost broker is tried
    /// again for ever.
    ///
    /// # Errors
    /// [`AmqpError`], if the broker refuses this process time after time, or does not know the job.
    pub fn run(&mut self, stop: &dyn Fn() -> bool) -> Result<Followed, AmqpError> {
        let mut patience = Patience::new();
        loop {
            let began = Instant::now();
            let (config, story) = (self.config.clone(), &mut self.story);
            let mut reading =
                Reading { config: &config, story, job: self.job, reader: self.reader, offset: self.offset };
            let ended = self.runtime.block_on(reading.once(stop));
            self.offset = reading.offset;
            match ended {
                Ok(followed) => return Ok(followed),
                Err(_) if stop() => return Ok(Followed::Left),
                Err(error @ AmqpError::NoJob(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "trying to come back");
                    self.story.board.note(&format!("lost the broker for a while: {error}"));
                    patience.lived(began.elapsed());
                    patience.bear(error)?;
                    let until = Instant::now() + patience.pause();
                    self.runtime.block_on(async {
                        while Instant::now() < until && !stop() {
                            tokio::time::sleep(ASK_STOP).await;
                        }
                    });
                }
            }
        }
    }
}

/// Reads what a job's stream tells up to now; tells how often failed entries were tried again. Blocks.
///
/// # Errors
/// Any [`AmqpError`].
pub fn replay(config: &AmqpConfig, job: JobId, board: Arc<Board>) -> Result<u64, AmqpError> {
    let mut story = Story::new(job, board);
    super::blocking()?.block_on(async {
        let connection = connection::open(config, "reader").await?;
        let read = read_to_now(&connection, config, &mut story, job).await;
        connection::close(&connection).await;
        read.map_err(|e| AmqpError::using(config, &e))
    })?;
    Ok(story.retries)
}

/// Reads up to a mark that is made now.
pub(super) async fn read_to_now(
    connection: &Connection,
    config: &AmqpConfig,
    story: &mut Story,
    job: JobId,
) -> lapin::Result<()> {
    let name = topology::results(job);
    if topology::ready(connection, &name).await?.is_none() {
        return Ok(());
    }
    let out = connection::confirmed_channel(connection).await?;
    let mark = super::random();
    joblog::record(&out, &config.seal, job, What::Mark(mark)).await?;
    let mut stream: Reader<Record> = Reader::open(connection, &config.seal, &name, 0).await?;
    while story.mark != Some(mark) {
        match stream.next(SILENCE).await? {
            Some(Next::Entry(record)) => story.take(record),
            Some(Next::Passed | Next::Quiet) => {}
            None => return Ok(()),
        }
    }
    Ok(())
}

/// One connection of a follower.
struct Reading<'a> {
    config: &'a AmqpConfig,
    story: &'a mut Story,
    job: JobId,
    reader: u64,
    offset: i64,
}

impl Reading<'_> {
    async fn once(&mut self, stop: &dyn Fn() -> bool) -> Result<Followed, AmqpError> {
        let opening = async {
            tokio::select! {
                opened = connection::open(self.config, "follower") => opened.map(Some),
                () = told(stop) => Ok(None),
            }
        };
        let Some(connection) = opening.await? else { return Ok(Followed::Left) };
        let followed = self.read(&connection, stop).await;
        connection::close(&connection).await;
        match followed {
            Ok(Some(followed)) => Ok(followed),
            Ok(None) => self.ask_log().await,
            Err(e) => Err(AmqpError::using(self.config, &e)),
        }
    }

    /// Reads until the end; none if there is nothing to read any more.
    async fn read(&mut self, connection: &Connection, stop: &dyn Fn() -> bool) -> lapin::Result<Option<Followed>> {
        let name = topology::results(self.job);
        if topology::ready(connection, &name).await?.is_none() {
            return Ok(None);
        }
        let out = connection::confirmed_channel(connection).await?;
        let mut stream: Reader<Record> = Reader::open(connection, &self.config.seal, &name, self.offset).await?;
        self.tell(&out, What::Follows(self.reader)).await?;
        let (mut heard, mut caught_up) = (Instant::now(), false);
        loop {
            if stop() {
                self.tell(&out, What::Leaves(self.reader)).await?;
                return Ok(Some(Followed::Left));
            }
            match stream.next(ASK_STOP).await? {
                None => return Ok(None),
                Some(Next::Entry(record)) => {
                    self.offset = stream.next_offset;
                    heard = Instant::now();
                    self.story.board.set_written(stream.written);
                    caught_up |= record.what == What::Follows(self.reader);
                    self.story.take(record);
                    // An end from before may have been followed by another beginning.
                    if let Some(sealed) = self.story.sealed.clone().filter(|_| caught_up) {
                        return self.say_goodbye(connection, &out, sealed).await.map(Some);
                    }
                }
                Some(Next::Quiet) if heard.elapsed() > SILENCE => {
                    if let Some(sealed) = self.story.sealed.clone() {
                        return self.say_goodbye(connection, &out, sealed).await.map(Some);
                    }
                    self.look_after(connection).await?;
                    heard = Instant::now();
                }
                Some(Next::Passed | Next::Quiet) => {}
            }
        }
    }

    /// Appends to the stream, unless the broker takes nothing now: a reader needs no place in it.
    async fn tell(&self, out: &Channel, what: What) -> lapin::Result<()> {
        let telling = joblog::record(out, &self.config.seal, self.job, what);
        match tokio::time::timeout(ANSWER, telling).await {
            Ok(told) => told.map(drop),
            Err(_) => Ok(()),
        }
    }

    /// Is somebody there who works? Says what keeps the job from going on.
    async fn look_after(&mut self, connection: &Connection) -> lapin::Result<()> {
        let looking = async {
            let mut depths = Vec::new();
            for queue in Queue::ALL {
                depths.extend(topology::ready(connection, &topology::tasks(self.job, queue)).await?);
            }
            let replies = self.ask_around(connection).await?;
            let paused = read_jobs(connection, &self.config.seal).await?.get(&self.job).is_some_and(|j| j.paused);
            Ok::<_, lapin::Error>((depths, replies, paused))
        };
        let looked = tokio::time::timeout(5 * ANSWER, looking).await;
        if connection.status().blocked() {
            self.story.board.note(BLOCKED);
            return Ok(());
        }
        let Ok(looked) = looked else { return Ok(()) };
        let (depths, replies, paused) = looked?;
        if paused {
            let job = self.job;
            self.story.board.note(&format!("the job is paused: `treehaul resume {job}` has it go on"));
            return Ok(());
        }
        let works = replies.iter().any(|r| matches!(r.standing, Standing::Works(_)));
        for reply in replies {
            if let Standing::Refused(reason) = reply.standing {
                let (name, reason) = (escaped(reply.worker.as_bytes()), escaped(reason.as_bytes()));
                self.story.board.note(&format!("worker {name} takes no part in the job: {reason}"));
            }
        }
        for (depth, what) in depths.iter().zip(["directories", "files", "what comes last"]).take(2) {
            if works && depth.ready > 0 && depth.consumers == 0 {
                self.story.board.note(&format!("nobody works on {what}: start a worker without --queues on a node"));
            }
        }
        if !works && depths.first().is_some_and(|Depth { consumers, .. }| *consumers == 0) {
            let config = self.config;
            let note = format!("no worker takes part in the job: start `treehaul worker --broker {config}` on a node");
            self.story.board.note(&note);
        }
        Ok(())
    }

    /// Asks all workers how they stand with the job.
    async fn ask_around(&self, connection: &Connection) -> lapin::Result<Vec<Reply>> {
        let channel = connection.create_channel().await?;
        let mut answers = Subscription::new(channel.clone());
        let mailbox = format!("treehaul.replies.{}.{}", self.job, JobId::random());
        topology::declare_mailbox(&channel, &mailbox, false).await?;
        let (options, none) =
            (BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() }, FieldTable::default());
        answers.consumers.push(channel.basic_consume(mailbox.as_str().into(), "".into(), options, none).await?);
        let properties = BasicProperties::default().with_reply_to(mailbox.as_str().into());
        let probe = Probe { job: self.job, round: 0, reply_to: mailbox, deep: false, hungry: [0; 2] };
        let body = self.config.seal.seal(&messages::Control::Probe(probe)).map_err(std::io::Error::other)?;
        let options = BasicPublishOptions::default();
        channel.basic_publish(topology::CONTROL.into(), "".into(), options, &body, properties).await?;
        let mut replies = Vec::new();
        while let Ok(Some(answer)) = tokio::time::timeout(ANSWER / 2, answers.next()).await {
            replies.extend(self.config.seal.open::<Reply>(&answer?.data).ok());
        }
        Ok(replies)
    }

    /// Tells the leader that the end was read, and waits until it has cleared up.
    async fn say_goodbye(&self, connection: &Connection, out: &Channel, sealed: Sealed) -> lapin::Result<Followed> {
        self.story.board.set_in_progress(Totals::default());
        if sealed.letters > 0 && self.story.board.snapshot().totals.failed == 0 {
            let totals = Totals { failed: u64::from(sealed.letters), ..Totals::default() };
            self.story.board.absorb(Report { totals, ..Report::default() });
        }
        let standing = Standing::HasRead(self.reader);
        let reply = Reply { round: 0, worker: String::new(), session: self.reader, standing };
        let body = self.config.seal.seal(&reply).map_err(std::io::Error::other)?;
        let until = Instant::now() + CLEAR_UP;
        connection::publish(out, &sealed.reply_to, &body, FieldTable::default()).await?.await?;
        while Instant::now() < until && topology::ready(connection, &topology::lead(self.job)).await?.is_some() {
            tokio::time::sleep(CLEARED).await;
        }
        Ok(Followed::Ended { end: sealed.end, letters: sealed.letters })
    }

    /// Nothing is left to read: the log of jobs knows how it ended.
    async fn ask_log(&mut self) -> Result<Followed, AmqpError> {
        let connection = connection::open_shared(self.config, "follower").await?;
        let jobs = read_jobs(&connection, &self.config.seal).await;
        connection::close(&connection).await;
        let state = jobs.map_err(|e| AmqpError::using(self.config, &e))?.remove(&self.job);
        match state {
            Some(JobState { end: Some((end, totals)), .. }) => {
                self.story.board.set_totals(totals);
                Ok(Followed::Ended { end, letters: 0 })
            }
            // The broker may be without a part of it for a while.
            Some(JobState { removed: false, .. }) => {
                let why = "it does not have the job's stream now".to_owned();
                Err(AmqpError::Lost { broker: self.config.to_string(), why })
            }
            _ => Err(AmqpError::NoJob(self.job)),
        }
    }
}

/// Returns when the caller leaves.
async fn told(stop: &dyn Fn() -> bool) {
    while !stop() {
        tokio::time::sleep(ASK_STOP).await;
    }
}
