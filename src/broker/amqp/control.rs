//! A worker's ear: questions and orders that come to all workers.

use super::connection;
use super::lanes::Lanes;
use super::messages::{Control, Probe, Reply, Standing};
use super::publish;
use super::run::Run;
use super::session::Session;
use super::topology;
use crate::model::Queue;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::sync::Arc;

/// The control queue of one connection.
pub(super) struct Ear {
    channel: Channel,
    consumer: Consumer,
}

impl Ear {
    /// Begins to listen.
    pub async fn open(connection: &Connection, session: u64) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        let name = format!("treehaul.control.{session:016x}");
        topology::declare_mailbox(&channel, &name, true).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await?;
        Ok(Ear { channel, consumer })
    }

    /// Answers until the connection fails.
    pub async fn serve(mut self, session: &Arc<Session>) -> lapin::Result<()> {
        while let Some(delivery) = self.consumer.next().await {
            match session.seal().open(&delivery?.data) {
                Ok(Control::Probe(probe)) => {
                    let (session, channel) = (Arc::clone(session), self.channel.clone());
                    tokio::spawn(async move {
                        // A failure means that the connection is lost, which its owner sees as well.
                        if let Err(e) = answer(&session, &channel, probe).await {
                            tracing::debug!(error = %e, "a probe was not answered");
                        }
                    });
                }
                Err(e) => tracing::warn!(error = %e, "passed over a control message"),
            }
        }
        Ok(())
    }
}

async fn answer(session: &Session, channel: &Channel, probe: Probe) -> lapin::Result<()> {
    let (number, standing) = match session.standing(probe.job) {
        Some(Ok((run, consuming))) => {
            if probe.deep {
                fetch_all(&run, &consuming).await?;
            }
            let idle = session.lanes().idle();
            share(session.lanes(), &run, &probe, session.swap_said_idle(idle));
            (run.session, Standing::Works(run.tally(idle)))
        }
        Some(Err(reason)) => (session.id, Standing::Refused(reason)),
        None => (session.id, Standing::Unknown),
    };
    let worker = session.worker_name().to_owned();
    let reply = Reply { round: probe.round, worker, session: number, standing };
    let body = session.seal().seal(&reply).map_err(std::io::Error::other)?;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), probe.reply_to.into(), options, &body, properties).await.map(drop)
}

/// Returns when all deliveries that the broker had sent before have been counted.
///
/// The first answer comes after them to the broker's end of the channel, but may overtake them there; the
/// second question stands behind them in line.
async fn fetch_all(run: &Run, consuming: &Channel) -> lapin::Result<()> {
    for _ in 0..2 {
        for queue in Queue::ALL {
            connection::depth(consuming, &topology::tasks(run.job, queue)).await?;
        }
    }
    Ok(())
}

/// Gives work away if other workers wait for it.
fn share(lanes: &Lanes, run: &Arc<Run>, probe: &Probe, said_idle: [u32; 2]) {
    let others_wait = [0, 1].map(|p| probe.hungry[p] > u32::from(said_idle[p] > 0));
    if publish::post(lanes.share(run, others_wait), false).is_err() {
        tracing::debug!("the connection is gone; there is nothing to share");
    }
}
