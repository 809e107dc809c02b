//! A leader's connection: where it asks, and what it hears.

use super::envelope::Seal;
use super::messages::{Control, Probe};
use super::{connection, topology};
use crate::model::JobId;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::time::Instant;

/// Reports on their way to the leader at a time.
const PREFETCH: u16 = 200;

/// A leader's connection.
pub(super) struct Link {
    pub connection: Connection,
    /// Confirmed.
    pub out: Channel,
    pub ask: Channel,
    pub results_channel: Channel,
    results: Consumer,
    replies: Consumer,
    /// Where answers go to.
    pub mailbox: String,
    seal: Seal,
}

impl Link {
    pub async fn open(connection: Connection, seal: &Seal, job: JobId) -> lapin::Result<Self> {
        let out = connection::confirmed_channel(&connection).await?;
        let ask = connection.create_channel().await?;
        let results_channel = connection.create_channel().await?;
        results_channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (none, options) = (FieldTable::default(), BasicConsumeOptions::default());
        let results =
            results_channel.basic_consume(topology::results(job).into(), "".into(), options, none.clone()).await?;
        let mailbox = format!("treehaul.replies.{job}.{}", JobId::random());
        topology::declare_mailbox(&ask, &mailbox, false).await?;
        let options = BasicConsumeOptions { no_ack: true, ..options };
        let replies = ask.basic_consume(mailbox.as_str().into(), "".into(), options, none).await?;
        Ok(Link { connection, out, ask, results_channel, results, replies, mailbox, seal: seal.clone() })
    }

    /// How many messages of the job were set aside; none if the broker cannot say.
    pub async fn dead_letters(&self, job: JobId) -> u32 {
        let Ok(channel) = self.connection.create_channel().await else { return 0 };
        connection::depth(&channel, &topology::dead(job)).await.map_or(0, |d| d.ready)
    }

    /// Asks all workers.
    pub async fn probe(&self, probe: Probe) -> lapin::Result<()> {
        let body = self.seal.seal(&Control::Probe(probe)).map_err(std::io::Error::other)?;
        // Also for those who cannot read the body.
        let properties = BasicProperties::default().with_reply_to(self.mailbox.as_str().into());
        let options = BasicPublishOptions::default();
        self.ask.basic_publish(topology::CONTROL.into(), "".into(), options, &body, properties).await.map(drop)
    }

    /// Waits for the next thing to hear.
    pub async fn hear(&mut self, until: Instant) -> lapin::Result<Heard> {
        tokio::select! {
            biased;
            result = self.results.next() => Ok(Heard::Result(result.ok_or_else(closed)??)),
            reply = self.replies.next() => Ok(Heard::Reply(reply.ok_or_else(closed)??)),
            () = tokio::time::sleep_until(until.into()) => Ok(Heard::Nothing),
        }
    }
}

/// What a leader hears.
pub(super) enum Heard {
    Result(Delivery),
    Reply(Delivery),
    Nothing,
}

fn closed() -> lapin::Error {
    std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()
}
