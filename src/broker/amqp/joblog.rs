//! The log of jobs: a stream that every worker replays from its beginning.

use super::connection::{self, Published};
use super::envelope::Seal;
use super::messages::JobEvent;
use super::topology::JOB_LOG;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, Consumer};
use std::time::Duration;

/// Events that may be on their way at a time.
const PREFETCH: u16 = 200;

/// Appends an event; it is safe when this returns.
pub(super) async fn append(channel: &Channel, seal: &Seal, event: &JobEvent) -> lapin::Result<()> {
    let body = seal.seal(event).map_err(std::io::Error::other)?;
    match connection::publish_safely(channel, JOB_LOG, &body).await? {
        Published::Safe => Ok(()),
        Published::NoQueue => Err(std::io::Error::other("the job log is gone").into()),
    }
}

/// A reader of the log.
pub(super) struct Reader {
    channel: Channel,
    consumer: Consumer,
    seal: Seal,
    /// Place in the log of what was read last.
    place: Option<i64>,
}

impl Reader {
    /// Begins at the first event that the broker still has.
    pub async fn open(connection: &Connection, seal: &Seal) -> lapin::Result<Self> {
        Self::open_at(connection, seal, "first").await
    }

    async fn open_at(connection: &Connection, seal: &Seal, place: &str) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), AMQPValue::LongString(LongString::from(place)));
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(JOB_LOG.into(), "".into(), options, arguments).await?;
        Ok(Reader { channel, consumer, seal: seal.clone(), place: None })
    }

    /// Has everything been read that was in the log when `newest` was asked for?
    pub fn has_reached(&self, newest: Option<i64>) -> bool {
        newest.is_none_or(|newest| self.place.is_some_and(|place| place >= newest))
    }

    /// The next event, or that none came for a while; none at all when the broker ends the reading. Entries
    /// that this version does not know are passed over: a newer version may write them.
    pub async fn next(&mut self, quiet: Duration) -> lapin::Result<Option<Next>> {
        loop {
            let Ok(delivery) = tokio::time::timeout(quiet, self.consumer.next()).await else {
                return Ok(Some(Next::Quiet));
            };
            let Some(delivery) = delivery else { return Ok(None) };
            let delivery = delivery?;
            self.place = place_of(&delivery).or(self.place);
            self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
            match self.seal.open(&delivery.data) {
                Ok(event) => return Ok(Some(Next::Event(event))),
                Err(e) => tracing::warn!(error = %e, "passed over an entry of the job log"),
            }
        }
    }
}

/// A place near the end of the log: what the broker wrote last, it wrote at once. None: the log says nothing for `quiet`.
pub(super) async fn newest(connection: &Connection, seal: &Seal, quiet: Duration) -> lapin::Result<Option<i64>> {
    let mut reader = Reader::open_at(connection, seal, "last").await?;
    let place = match tokio::time::timeout(quiet, reader.consumer.next()).await {
        Ok(Some(delivery)) => place_of(&delivery?),
        Ok(None) | Err(_) => None,
    };
    reader.channel.close(200, "done".into()).await?;
    Ok(place)
}

/// Where in the log a delivery is from.
fn place_of(delivery: &Delivery) -> Option<i64> {
    match delivery.properties.headers().as_ref()?.inner().get("x-stream-offset")? {
        AMQPValue::LongLongInt(place) => Some(*place),
        AMQPValue::LongInt(place) => Some(i64::from(*place)),
        _ => None,
    }
}

/// What a reader meets.
pub(super) enum Next {
    Event(JobEvent),
    Quiet,
}
