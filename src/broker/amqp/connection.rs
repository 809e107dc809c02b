//! Opening a connection, and the few calls on channels that everybody needs.

use super::{AmqpConfig, AmqpError, Identity, topology};
use crate::model::JobId;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connect, Connection, ConnectionProperties, Consumer};
use std::time::Duration;

/// How long the broker may take to answer a new connection.
const OPEN_PATIENCE: Duration = Duration::from_secs(15);
/// Written to disk before it is confirmed.
const PERSISTENT: u8 = 2;

/// How often what all share is declared: on a new broker several clients get in each other's way.
const SHARED_TRIES: u32 = 24;
/// Between two tries.
const SHARED_PAUSE: Duration = Duration::from_millis(250);

/// Opens a connection to any node of the broker. `role` is what the broker's management shows.
pub(super) async fn open(config: &AmqpConfig, role: &str) -> Result<Connection, AmqpError> {
    let mut failed = None;
    for node in config.nodes() {
        match open_to(config, node, role).await {
            Ok(connection) => return Ok(connection),
            Err(e) => failed = Some(e),
        }
    }
    Err(failed.unwrap_or_else(|| AmqpError::Url("it names no host".to_owned())))
}

/// As [`open`], to a broker that has what all jobs share.
pub(super) async fn open_shared(config: &AmqpConfig, role: &str) -> Result<Connection, AmqpError> {
    open_declaring(config, role, None).await
}

/// As [`open_shared`], to a broker that has the queues of a job as well.
pub(super) async fn open_for_job(config: &AmqpConfig, role: &str, job: JobId) -> Result<Connection, AmqpError> {
    open_declaring(config, role, Some(job)).await
}

async fn open_declaring(config: &AmqpConfig, role: &str, job: Option<JobId>) -> Result<Connection, AmqpError> {
    let mut tries = 1;
    loop {
        let connection = open(config, role).await?;
        let declared = async {
            let channel = connection.create_channel().await?;
            topology::declare_shared(&channel).await?;
            if let Some(job) = job {
                topology::declare_job(&connection, job, config.queue_type).await?;
            }
            channel.close(200, "done".into()).await
        };
        let error = match declared.await {
            Ok(()) => return Ok(connection),
            Err(e) => AmqpError::using(config, &e),
        };
        close(&connection).await;
        if tries >= SHARED_TRIES {
            return Err(error);
        }
        tracing::debug!(%error, "not everything can be declared yet");
        tries += 1;
        tokio::time::sleep(SHARED_PAUSE).await;
    }
}

async fn open_to(config: &AmqpConfig, node: &AMQPUri, role: &str) -> Result<Connection, AmqpError> {
    let properties = ConnectionProperties::default().with_connection_name(format!("treehaul {role}").into());
    let identity = config.identity.clone().map(|Identity { cert, key }| OwnedIdentity::PKCS8 { pem: cert, key });
    let tls = OwnedTLSConfig { identity, cert_chain: config.ca.clone() };
    let runtime = lapin::runtime::default_runtime().map_err(|e| AmqpError::opening(config, &e))?;
    let opening = node.clone().connect_with_config(properties, tls, runtime);
    let Ok(opened) = tokio::time::timeout(OPEN_PATIENCE, opening).await else {
        let why = format!("no answer within {} s", OPEN_PATIENCE.as_secs());
        return Err(AmqpError::Unreachable { broker: config.to_string(), why });
    };
    opened.map_err(|e| AmqpError::opening(config, &e))
}

/// Closes a connection without waiting long for a broker that may be gone.
pub(super) async fn close(connection: &Connection) {
    let closing = connection.close(200, "done".into());
    if let Ok(Err(e)) | Err(e) = tokio::time::timeout(Duration::from_secs(2), closing).await.map_err(lapin_timeout) {
        tracing::debug!(error = %e, "the broker's connection was not closed in order");
    }
}

fn lapin_timeout(_: tokio::time::error::Elapsed) -> lapin::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// A channel with what is consumed on it.
///
/// A consumer that is dropped is cancelled in the background, and the answer to that ends the whole connection if the
/// channel is being closed meanwhile. So the channel is closed first.
pub(super) struct Subscription {
    pub channel: Channel,
    pub consumers: Vec<Consumer>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let (channel, consumers) = (self.channel.clone(), std::mem::take(&mut self.consumers));
        // Without a runtime the connection is gone, too.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                drop(channel.close(200, "done".into()).await); // it may be closed already
                drop(consumers);
            });
        }
    }
}

impl Subscription {
    /// For a channel on which nothing is consumed yet.
    pub fn new(channel: Channel) -> Self {
        Subscription { channel, consumers: Vec::new() }
    }

    /// The next delivery of the only consumer. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Option<lapin::Result<Delivery>> {
        self.consumers.first_mut()?.next().await
    }
}

/// A channel whose publishes are confirmed.
pub(super) async fn confirmed_channel(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    /// It is safe in the queue.
    Safe,
    /// There is no such queue any more.
    NoQueue,
}

/// Reads a confirmation. A refused message counts as a lost connection: a queue whose leader moved refuses
/// for good on a channel that saw the move.
pub(super) fn published(confirmation: &Confirmation) -> lapin::Result<Published> {
    match confirmation {
        Confirmation::Ack(None) => Ok(Published::Safe),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Ok(Published::NoQueue),
        Confirmation::Nack(None) => Err(std::io::Error::other("the broker refused a message").into()),
        Confirmation::NotRequested => Err(std::io::Error::other("the broker does not confirm messages").into()),
    }
}

/// Publishes to a queue by name; the future ends when the message is on its way.
pub(super) async fn publish(
    channel: &Channel,
    queue: &str,
    body: &[u8],
    headers: FieldTable,
) -> lapin::Result<lapin::PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
    channel.basic_publish("".into(), queue.into(), options, body, properties).await
}

/// Publishes and waits until the message is safe.
pub(super) async fn publish_safely(channel: &Channel, queue: &str, body: &[u8]) -> lapin::Result<Published> {
    published(&publish(channel, queue, body, FieldTable::default()).await?.await?)
}

/// Ready messages and consumers of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Depth {
    pub ready: u32,
    pub consumers: u32,
}

/// Asks for a queue's depth; an error closes the channel.
pub(super) async fn depth(channel: &Channel, queue: &str) -> lapin::Result<Depth> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(Depth { ready: found.message_count(), consumers: found.consumer_count() })
}

/// Did the broker say that the thing does not exist?
pub(super) fn is_missing(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(amqp) if amqp.get_id() == 404)
}
