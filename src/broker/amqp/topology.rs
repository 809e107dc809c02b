//! Names and shapes of queues and exchanges.
//!
//! Nothing here may change shape within one wire version: the broker refuses to declare a queue again
//! with other arguments.

use super::QueueType;
use super::connection::{self, Depth};
use crate::model::{JobId, Queue};
use futures_util::future::try_join_all;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, ExchangeKind};

/// The stream that says which jobs exist.
pub(super) const JOB_LOG: &str = "treehaul.jobs";
/// Where everybody hears of control messages.
pub(super) const CONTROL: &str = "treehaul.control";
/// Every worker consumes from it, and nothing is ever in it: so the broker knows how many there are.
pub(super) const WORKERS: &str = "treehaul.workers";
/// A job's events are kept that long at least; by then it is over.
const JOB_LOG_AGE: &str = "90D";
/// The log is cut beyond that, oldest first: some hundred thousand events.
const JOB_LOG_BYTES: i64 = 256 << 20;
/// The unit in which the log is cut.
const JOB_LOG_SEGMENT_BYTES: i64 = 8 << 20;
/// The same for the stream of a job.
const JOB_SEGMENT_BYTES: i64 = 64 << 20;
/// A queue sets a message aside by itself after so many returns; far beyond what [`super::consume`] allows,
/// and there so that the broker's own default (20 since RabbitMQ 4) cannot lose a task.
const DELIVERY_LIMIT: i64 = 10_000;

/// A job's queue for tasks.
pub(super) fn tasks(job: JobId, queue: Queue) -> String {
    format!("treehaul.{job}.{}", queue.noun())
}

/// A job's queue for tasks with which workers died.
pub(super) fn suspects(job: JobId) -> String {
    format!("treehaul.{job}.suspects")
}

/// Where a run parks deliveries that take long.
pub(super) fn hold(job: JobId, session: u64) -> String {
    format!("treehaul.{job}.hold.{session:016x}")
}

/// A job's queue for the right to lead it.
pub(super) fn lead(job: JobId) -> String {
    format!("treehaul.{job}.lead")
}

/// A job's stream of reports.
pub(super) fn results(job: JobId) -> String {
    format!("treehaul.{job}.results")
}

/// A job's queue for what nobody could work on.
pub(super) fn dead(job: JobId) -> String {
    format!("treehaul.{job}.dead")
}

/// What only one worker of a name can have.
pub(super) fn nameplate(worker: &str) -> String {
    format!("treehaul.worker.{worker}")
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

/// Declares what all jobs share.
pub(super) async fn declare_shared(channel: &Channel) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("stream"));
    arguments.insert("x-max-age".into(), text(JOB_LOG_AGE));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(JOB_LOG_BYTES));
    arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(JOB_LOG_SEGMENT_BYTES));
    channel.queue_declare(JOB_LOG.into(), durable(), arguments).await?;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(CONTROL.into(), ExchangeKind::Fanout, options, FieldTable::default()).await
}

/// Declares the queue that counts workers. Not a part of what all share: a cluster may be without it for a while.
pub(super) async fn declare_workers(channel: &Channel) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("classic"));
    channel.queue_declare(WORKERS.into(), durable(), arguments).await.map(drop)
}

/// Declares the queues of a job, each on a channel of its own so that the broker makes them side by side. What is there
/// already stays.
pub(super) async fn declare_job(connection: &Connection, job: JobId, queue_type: QueueType) -> lapin::Result<()> {
    let mut plain = FieldTable::default();
    plain.insert("x-queue-type".into(), text(queue_type.noun()));
    let mut limited = plain.clone();
    if queue_type == QueueType::Quorum {
        limited.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
        limited.insert("x-dead-letter-exchange".into(), text(""));
        limited.insert("x-dead-letter-routing-key".into(), text(&dead(job)));
    }
    let mut single = plain.clone();
    single.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    if queue_type == QueueType::Quorum {
        single.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    }
    let mut stream = FieldTable::default();
    stream.insert("x-queue-type".into(), text("stream"));
    stream.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(JOB_SEGMENT_BYTES));
    let mut wanted: Vec<_> = Queue::ALL.iter().map(|q| (tasks(job, *q), limited.clone())).collect();
    wanted.extend([(suspects(job), limited), (dead(job), plain), (lead(job), single), (results(job), stream)]);
    let declaring = wanted.into_iter().map(|(name, arguments)| async move {
        let channel = connection.create_channel().await?;
        channel.queue_declare(name.into(), durable(), arguments).await?;
        channel.close(200, "done".into()).await
    });
    try_join_all(declaring).await.map(drop)
}

/// Declares the queue where a run parks what takes long.
pub(super) async fn declare_hold(channel: &Channel, job: JobId, session: u64) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text(QueueType::Quorum.noun()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    channel.queue_declare(hold(job, session).into(), durable(), arguments).await.map(drop)
}

/// A queue that lives as long as its connection; `control` says whether control messages come to it.
pub(super) async fn declare_mailbox(channel: &Channel, name: &str, control: bool) -> lapin::Result<()> {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, FieldTable::default()).await?;
    if control {
        let options = QueueBindOptions::default();
        channel.queue_bind(name.into(), CONTROL.into(), "".into(), options, FieldTable::default()).await?;
    }
    Ok(())
}

/// How many messages are in a queue; none if there is no such queue.
pub(super) async fn ready(connection: &Connection, queue: &str) -> lapin::Result<Option<Depth>> {
    let channel = connection.create_channel().await?;
    match connection::depth(&channel, queue).await {
        Ok(depth) => {
            channel.close(200, "done".into()).await?;
            Ok(Some(depth))
        }
        Err(e) if connection::is_missing(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes queues. One that is gone is not missed.
pub(super) async fn delete(connection: &Connection, names: Vec<String>) -> lapin::Result<()> {
    let deleting = names.into_iter().map(|name| async move {
        let channel = connection.create_channel().await?;
        match channel.queue_delete(name.into(), QueueDeleteOptions::default()).await {
            Err(e) if !connection::is_missing(&e) => Err(e),
            _ => channel.close(200, "done".into()).await.or(Ok(())),
        }
    });
    try_join_all(deleting).await.map(drop)
}

/// The queues in which tasks of a job may lie, without those where runs park.
pub(super) fn work_queues(job: JobId) -> Vec<String> {
    let mut names: Vec<_> = Queue::ALL.iter().map(|q| tasks(job, *q)).collect();
    names.push(suspects(job));
    names
}
