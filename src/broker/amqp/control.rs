//! A worker's ear: questions and orders that come to all workers.

use super::connection;
use super::lanes::Lanes;
use super::messages::{Control, Errand, Probe, Reply, Standing, Word};
use super::publish;
use super::run::Run;
use super::session::Session;
use super::stranger;
use super::topology;
use crate::model::Queue;
use crate::model::filter::NameGlobs;
use crate::model::fleet::{Answer, Order};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Answers to messages that cannot be read go to mailboxes with such names alone.
const MAILBOXES: &str = "treehaul.replies.";

/// How long the broker may take to take an answer before the order is followed without it.
const SAYING: Duration = Duration::from_secs(2);

/// The control queue of one connection.
pub(super) struct Ear {
    channel: Channel,
    /// Confirmed: a worker may be gone right after what it says here.
    words: Channel,
    consumer: Consumer,
    /// It lets the broker count this worker.
    _present: Option<Consumer>,
}

impl Ear {
    /// Begins to listen.
    pub async fn open(connection: &Connection, session: u64) -> lapin::Result<Self> {
        // First: who hears a question is counted by then.
        let present = be_counted(connection).await;
        let present = present.inspect_err(|e| tracing::debug!(error = %e, "this worker is not counted")).ok();
        let channel = connection.create_channel().await?;
        let name = format!("treehaul.control.{session:016x}");
        topology::declare_mailbox(&channel, &name, true).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await?;
        let words = connection::confirmed_channel(connection).await?;
        Ok(Ear { channel, words, consumer, _present: present })
    }

    /// Answers until the connection fails.
    pub async fn serve(mut self, session: &Arc<Session>) -> lapin::Result<()> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let words = self.words.clone();
        tokio::select! {
            ended = self.listen(session, &orders) => ended,
            ended = obey(session, &words, inbox) => ended,
        }
    }

    async fn listen(&mut self, session: &Arc<Session>, orders: &UnboundedSender<Errand>) -> lapin::Result<()> {
        let mut warned = false;
        while let Some(delivery) = self.consumer.next().await {
            let delivery = delivery?;
            match session.seal().open(&delivery.data) {
                Ok(Control::Probe(probe)) => {
                    let (session, channel) = (Arc::clone(session), self.channel.clone());
                    tokio::spawn(async move {
                        // A failure means that the connection is lost, which its owner sees as well.
                        if let Err(e) = answer(&session, &channel, probe).await {
                            tracing::debug!(error = %e, "a probe was not answered");
                        }
                    });
                }
                // The receiver lives as long as this future.
                Ok(Control::Order(errand)) => drop(orders.send(errand)),
                Err(e) => {
                    // It may come several times a second.
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(error = %e, "passed over control messages");
                    }
                    if let Some(frame) = stranger::introduction(session.worker_name(), &e) {
                        self.introduce(&delivery, &frame).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells who this is to whoever sent what cannot be read.
    async fn introduce(&self, unread: &Delivery, frame: &[u8]) -> lapin::Result<()> {
        let Some(mailbox) = unread.properties.reply_to().clone() else { return Ok(()) };
        if !mailbox.as_str().starts_with(MAILBOXES) {
            return Ok(());
        }
        reply(&self.channel, mailbox.as_str(), frame).await
    }
}

async fn be_counted(connection: &Connection) -> lapin::Result<Consumer> {
    let channel = connection.create_channel().await?;
    topology::declare_workers(&channel).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(topology::WORKERS.into(), "".into(), options, FieldTable::default()).await
}

async fn reply(channel: &Channel, mailbox: &str, body: &[u8]) -> lapin::Result<()> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), mailbox.into(), options, body, properties).await.map(drop)
}

/// As [`reply`], and the broker has it.
async fn say(words: &Channel, mailbox: &str, body: &[u8]) -> lapin::Result<()> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    words.basic_publish("".into(), mailbox.into(), options, body, properties).await?.await.map(drop)
}

/// Does what is ordered, one order after the other.
async fn obey(session: &Arc<Session>, words: &Channel, mut inbox: UnboundedReceiver<Errand>) -> lapin::Result<()> {
    while let Some(Errand { nodes, order, reply_to, id }) = inbox.recv().await {
        let worker = session.worker_name().to_owned();
        let meant = NameGlobs::new(&nodes).is_ok_and(|globs| globs.matches(&worker));
        let answer = if meant { Some(execute(session, order.clone()).await) } else { None };
        let word = Word { id, worker, answer };
        let body = session.seal().seal(&word).or_else(|e| {
            let answer = Some(Answer::Refused(format!("the answer cannot be sent: {e}")));
            session.seal().seal(&Word { answer, ..word })
        });
        let body = body.map_err(std::io::Error::other)?;
        let said = say(words, &reply_to, &body);
        // A broker with an alarm takes no word; the order holds all the same.
        if let Ok(said) = tokio::time::timeout(SAYING, said).await {
            said?;
        }
        if meant {
            let gate = Arc::clone(&session.core().gate);
            if let Err(error) = tokio::task::spawn_blocking(move || gate.answered(&order)).await {
                tracing::error!(%error, "an order was not followed");
            }
        }
    }
    Ok(())
}

async fn execute(session: &Arc<Session>, order: Order) -> Answer {
    if order == Order::Leading {
        return Answer::Leading(session.core().leading());
    }
    let session = Arc::clone(session);
    let done = tokio::task::spawn_blocking(move || {
        let gate = &session.core().gate;
        let mut answer = gate.order(order);
        if let Answer::Node(info) = &mut answer {
            info.jobs = session.node_jobs();
            info.jobs.iter_mut().for_each(|known| known.target = gate.target(known.job));
        }
        answer
    });
    done.await.unwrap_or_else(|e| Answer::Refused(format!("it failed: {e}")))
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
    let said = Reply { round: probe.round, worker, session: number, standing };
    let body = session.seal().seal(&said).map_err(std::io::Error::other)?;
    reply(channel, &probe.reply_to, &body).await
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
