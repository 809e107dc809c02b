//! Opening a connection, and the few calls on channels that everybody needs.

use super::{AmqpConfig, AmqpError, Identity};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connect, Connection, ConnectionProperties};
use std::time::Duration;

/// How long the broker may take to answer a new connection.
const OPEN_PATIENCE: Duration = Duration::from_secs(15);
/// Written to disk before it is confirmed.
const PERSISTENT: u8 = 2;

/// Opens a connection. `role` is what the broker's management shows.
pub(super) async fn open(config: &AmqpConfig, role: &str) -> Result<Connection, AmqpError> {
    let properties = ConnectionProperties::default().with_connection_name(format!("treehaul {role}").into());
    let identity = config.identity.clone().map(|Identity { cert, key }| OwnedIdentity::PKCS8 { pem: cert, key });
    let tls = OwnedTLSConfig { identity, cert_chain: config.ca.clone() };
    let runtime = lapin::runtime::default_runtime().map_err(|e| AmqpError::opening(config, &e))?;
    let opening = config.uri.clone().connect_with_config(properties, tls, runtime);
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
