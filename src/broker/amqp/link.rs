//! A leader's channels: where it asks, and what it hears.

use super::connection::{self, Subscription};
use super::envelope::Seal;
use super::joblog::{self, Reader};
use super::messages::{Control, JobEvent, Probe, Record, Reply, What};
use super::stranger::Stranger;
use super::topology;
use crate::model::JobId;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection};
use std::time::Instant;

/// A leader's channels.
pub(super) struct Link<'a> {
    pub connection: &'a Connection,
    /// Confirmed.
    pub out: Channel,
    pub ask: Channel,
    pub stream: Reader<Record>,
    replies: Subscription,
    /// Where answers go to.
    pub mailbox: String,
    seal: Seal,
    job: JobId,
}

impl<'a> Link<'a> {
    pub async fn open(connection: &'a Connection, seal: &Seal, job: JobId) -> lapin::Result<Self> {
        let out = connection::confirmed_channel(connection).await?;
        let ask = connection.create_channel().await?;
        let stream = Reader::open(connection, seal, &topology::results(job), 0).await?;
        let mailbox = format!("treehaul.replies.{job}.{}", JobId::random());
        let mut replies = Subscription::new(connection.create_channel().await?);
        topology::declare_mailbox(&replies.channel, &mailbox, false).await?;
        let (options, none) =
            (BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() }, FieldTable::default());
        replies.consumers.push(replies.channel.basic_consume(mailbox.as_str().into(), "".into(), options, none).await?);
        Ok(Link { connection, out, ask, stream, replies, mailbox, seal: seal.clone(), job })
    }

    /// Appends to the log of jobs.
    pub async fn append(&self, event: &JobEvent) -> lapin::Result<()> {
        joblog::append(&self.out, &self.seal, event).await
    }

    /// Appends to the job's stream.
    pub async fn record(&self, what: What) -> lapin::Result<()> {
        match joblog::record(&self.out, &self.seal, self.job, what).await? {
            connection::Published::Safe => Ok(()),
            connection::Published::NoQueue => Err(closed()),
        }
    }

    /// Asks all workers.
    pub async fn probe(&self, probe: Probe) -> lapin::Result<()> {
        // Also for those who cannot read the body.
        let properties = BasicProperties::default().with_reply_to(probe.reply_to.as_str().into());
        let body = self.seal.seal(&Control::Probe(probe)).map_err(std::io::Error::other)?;
        let options = BasicPublishOptions::default();
        self.ask.basic_publish(topology::CONTROL.into(), "".into(), options, &body, properties).await.map(drop)
    }

    /// Waits for the next thing to hear.
    pub async fn hear(&mut self, until: Instant) -> lapin::Result<Heard> {
        let left = until.saturating_duration_since(Instant::now());
        // What is dropped here has not taken anything yet.
        let heard = tokio::select! {
            biased;
            delivery = self.stream.delivery() => Ok(delivery.ok_or_else(closed)??),
            reply = self.replies.next() => Err(reply.ok_or_else(closed)??),
            () = tokio::time::sleep(left) => return Ok(Heard::Nothing),
        };
        Ok(match heard {
            Ok(delivery) => self.stream.read(delivery).await?.map_or(Heard::Other, |r| Heard::Record(Box::new(r))),
            Err(reply) => match self.seal.open(&reply.data) {
                Ok(reply) => Heard::Reply(reply),
                Err(e) => match Stranger::read(&reply.data) {
                    Some(stranger) => Heard::Stranger(stranger),
                    None => {
                        tracing::debug!(error = %e, "passed over an answer");
                        Heard::Other
                    }
                },
            },
        })
    }
}

/// What a leader hears.
pub(super) enum Heard {
    Record(Box<Record>),
    Reply(Reply),
    /// A worker that cannot read what it is asked.
    Stranger(Stranger),
    /// Something that is not understood.
    Other,
    Nothing,
}

fn closed() -> lapin::Error {
    std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()
}
