//! The streams: the log of all jobs, and each job's own. Whoever reads one from its beginning knows how things stand.

use super::connection::{self, Published, Subscription};
use super::envelope::{EnvelopeError, Seal};
use super::messages::{JobEvent, Payload, Record, What};
use super::topology::{self, JOB_LOG};
use crate::model::JobId;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection};
use std::marker::PhantomData;
use std::time::Duration;

/// Entries that may be on their way at a time.
const PREFETCH: u16 = 200;

/// Appends an event to the log of jobs; it is safe when this returns.
pub(super) async fn append(channel: &Channel, seal: &Seal, event: &JobEvent) -> lapin::Result<()> {
    let body = seal.seal(event).map_err(std::io::Error::other)?;
    match connection::publish_safely(channel, JOB_LOG, &body).await? {
        Published::Safe => Ok(()),
        Published::NoQueue => Err(std::io::Error::other("the job log is gone").into()),
    }
}

/// Appends to a job's own stream; it is safe when this returns, unless the job is gone.
pub(super) async fn record(channel: &Channel, seal: &Seal, job: JobId, what: What) -> lapin::Result<Published> {
    let body = seal.seal(&Record { job, what }).map_err(std::io::Error::other)?;
    connection::publish_safely(channel, &topology::results(job), &body).await
}

/// A reader of a stream.
pub(super) struct Reader<T> {
    entries: Subscription,
    seal: Seal,
    /// That something was not ours has been said.
    warned: bool,
    /// Offset of the entry after the last one that was read.
    pub next_offset: i64,
    /// When that one was written, in seconds since 1970.
    pub written: u64,
    kind: PhantomData<fn() -> T>,
}

impl<T: Payload> Reader<T> {
    /// Begins at an offset, or at the first entry that the broker still has.
    pub async fn open(connection: &Connection, seal: &Seal, stream: &str, from: i64) -> lapin::Result<Self> {
        let place = match from {
            0 => AMQPValue::LongString(LongString::from("first")),
            offset => AMQPValue::LongLongInt(offset),
        };
        Self::open_at(connection, seal, stream, place, from).await
    }

    async fn open_at(
        connection: &Connection,
        seal: &Seal,
        stream: &str,
        place: AMQPValue,
        next_offset: i64,
    ) -> lapin::Result<Self> {
        let mut entries = Subscription::new(connection.create_channel().await?);
        entries.channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), place);
        let options = BasicConsumeOptions::default();
        let consumer = entries.channel.basic_consume(stream.into(), "".into(), options, arguments).await?;
        entries.consumers.push(consumer);
        Ok(Reader { entries, seal: seal.clone(), warned: false, next_offset, written: 0, kind: PhantomData })
    }

    /// Has everything been read that was in the stream when `newest` was asked for?
    pub fn has_reached(&self, newest: Option<i64>) -> bool {
        newest.is_none_or(|newest| self.next_offset > newest)
    }

    /// The next delivery, to be given to [`Reader::read`]; none when the broker ends the reading. May be dropped while it
    /// waits: nothing is lost.
    pub async fn delivery(&mut self) -> Option<lapin::Result<Delivery>> {
        self.entries.next().await
    }

    /// Reads a delivery. None: it is passed over, since it was read before, or is not understood; a newer version may
    /// have written it.
    pub async fn read(&mut self, delivery: Delivery) -> lapin::Result<Option<T>> {
        self.entries.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
        if let Some(offset) = place_of(&delivery) {
            // A broker may begin a little before the offset that it was asked for.
            if offset < self.next_offset {
                return Ok(None);
            }
            self.next_offset = offset + 1;
        }
        match self.seal.open(&delivery.data) {
            Ok(entry) => {
                self.written = Seal::written::<T>(&delivery.data);
                return Ok(Some(entry));
            }
            Err(EnvelopeError::Version(version)) => {
                tracing::debug!(version, "passed over an entry of another wire version");
            }
            Err(e) if !std::mem::replace(&mut self.warned, true) => {
                tracing::warn!(error = %e, "passed over entries of a log that are not ours");
            }
            Err(_) => {}
        }
        Ok(None)
    }

    /// The next entry, or that none came for a while; none at all when the broker ends the reading.
    pub async fn next(&mut self, quiet: Duration) -> lapin::Result<Option<Next<T>>> {
        let Ok(delivery) = tokio::time::timeout(quiet, self.delivery()).await else {
            return Ok(Some(Next::Quiet));
        };
        let Some(delivery) = delivery else { return Ok(None) };
        Ok(Some(self.read(delivery?).await?.map_or(Next::Passed, Next::Entry)))
    }

    /// Ends the reading.
    pub async fn close(self) {
        drop(self.entries.channel.close(200, "done".into()).await); // it may be gone already
    }
}

/// A place near the end of the log of jobs: what the broker wrote last, it wrote at once. None: the log says nothing for
/// `quiet`.
pub(super) async fn newest(connection: &Connection, seal: &Seal, quiet: Duration) -> lapin::Result<Option<i64>> {
    let last = AMQPValue::LongString(LongString::from("last"));
    let mut reader = Reader::<JobEvent>::open_at(connection, seal, JOB_LOG, last, 0).await?;
    let place = match tokio::time::timeout(quiet, reader.delivery()).await {
        Ok(Some(delivery)) => place_of(&delivery?),
        Ok(None) | Err(_) => None,
    };
    reader.close().await;
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
pub(super) enum Next<T> {
    Entry(T),
    /// One that is passed over.
    Passed,
    Quiet,
}
