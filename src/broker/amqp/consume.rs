//! Deliveries: how they come in, and what is in them.

use super::connection::Subscription;
use super::envelope::{self, Seal};
use super::lanes::{Arrived, Lanes};
use super::messages::{Origin, Tasks};
use super::publish;
use super::run::Run;
use super::token::{Held, Token};
use super::topology;
use crate::broker::MAX_ATTEMPTS;
use crate::model::{JobId, Queue, Task};
use futures_util::{FutureExt, StreamExt};
use lapin::message::{Delivery, DeliveryResult};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer, ConsumerDelegate};
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// So many workers may be lost with a message, among others, before it is worked on alone.
const SUSPECT_AFTER: u32 = 2;
/// So many workers may be lost with a single entry that was worked on alone before it is set aside.
const ALONE: u32 = 2;

/// Where deliveries come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A queue of tasks.
    Tasks(Queue),
    /// Tasks with which workers died.
    Suspects,
    /// What this run parked itself.
    Hold,
}

impl Source {
    fn name(self, run: &Run) -> String {
        match self {
            Source::Tasks(queue) => topology::tasks(run.job, queue),
            Source::Suspects => topology::suspects(run.job),
            Source::Hold => topology::hold(run.job, run.session),
        }
    }
}

/// Consumers of one job on one channel.
pub(super) struct Consumption {
    run: Arc<Run>,
    lanes: Arc<Lanes>,
    channel: Channel,
    /// Told when the broker ends a consumer.
    ended: UnboundedSender<Option<lapin::Error>>,
    consumers: Vec<(Source, Consumer)>,
    /// Set before the present consumers are ended from here.
    expected: Arc<AtomicBool>,
}

impl Drop for Consumption {
    fn drop(&mut self) {
        let consumers = std::mem::take(&mut self.consumers).into_iter().map(|(_, consumer)| consumer).collect();
        drop(Subscription { channel: self.channel.clone(), consumers });
    }
}

impl Consumption {
    pub fn new(
        run: &Arc<Run>,
        lanes: &Arc<Lanes>,
        channel: Channel,
        ended: UnboundedSender<Option<lapin::Error>>,
    ) -> Self {
        let (run, lanes) = (Arc::clone(run), Arc::clone(lanes));
        Consumption { run, lanes, channel, ended, consumers: Vec::new(), expected: Arc::default() }
    }

    /// Starts to consume a queue, `prefetch` messages at a time; 0 is as many as there are.
    pub async fn start(&mut self, source: Source, prefetch: u16) -> lapin::Result<()> {
        if self.consumes(source) {
            return Ok(());
        }
        // The prefetch of a channel is that of consumers started after it was set.
        self.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let name = source.name(&self.run);
        let options = BasicConsumeOptions::default();
        let consumer = self.channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await?;
        // Deliveries are counted on the connection's own thread, in the order of what came on the channel:
        // whoever sees the answer to a later question has counted all earlier deliveries.
        consumer.set_delegate(self.inlet(source));
        if let Source::Tasks(queue) = source {
            self.run.set_consumer(queue, true);
        }
        self.consumers.push((source, consumer));
        self.collect();
        Ok(())
    }

    fn inlet(&self, source: Source) -> Inlet {
        let (run, lanes) = (Arc::clone(&self.run), Arc::clone(&self.lanes));
        Inlet { run, lanes, source, ended: self.ended.clone(), expected: Arc::clone(&self.expected) }
    }

    /// Takes in what came past the inlets: lapin puts aside a delivery that arrives in the moment in which its delegate
    /// is set, and does not look there again.
    pub fn collect(&mut self) {
        let mut strays = Vec::new();
        for (source, consumer) in &mut self.consumers {
            while let Some(Some(delivery)) = consumer.next().now_or_never() {
                strays.push((*source, delivery));
            }
        }
        for (source, delivery) in strays {
            self.inlet(source).take(delivery.map(Some));
        }
    }

    /// Is the queue being consumed?
    pub fn consumes(&self, source: Source) -> bool {
        self.consumers.iter().any(|(s, _)| *s == source)
    }

    /// Ends all consumers but that of what is parked; deliveries that are here stay.
    pub async fn cancel(&mut self) -> lapin::Result<()> {
        let (parked, ended) = std::mem::take(&mut self.consumers).into_iter().partition(|(s, _)| *s == Source::Hold);
        self.consumers = parked;
        // The consumer of what is parked goes on, and its end is never expected.
        std::mem::take(&mut self.expected).store(true, SeqCst);
        for (source, consumer) in ended {
            self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            if let Source::Tasks(queue) = source {
                self.run.set_consumer(queue, false);
            }
        }
        Ok(())
    }
}

struct Inlet {
    run: Arc<Run>,
    lanes: Arc<Lanes>,
    source: Source,
    ended: UnboundedSender<Option<lapin::Error>>,
    expected: Arc<AtomicBool>,
}

impl ConsumerDelegate for Inlet {
    fn on_new_delivery(&self, delivery: DeliveryResult) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.take(delivery);
        Box::pin(ready(()))
    }
}

impl Inlet {
    fn take(&self, delivery: DeliveryResult) {
        match delivery {
            Ok(Some(delivery)) if self.source == Source::Hold => parked(&self.run, &delivery),
            Ok(Some(delivery)) => self.lanes.arrive(arrived(&self.run, self.source, delivery)),
            Ok(None) if self.source != Source::Hold && self.expected.load(SeqCst) => {}
            // The receiver is gone only if the run is over, and then nobody minds.
            Ok(None) => drop(self.ended.send(None)),
            Err(e) => drop(self.ended.send(Some(e))),
        }
    }
}

/// A copy has come back: from now on it stands for the delivery.
fn parked(run: &Run, delivery: &Delivery) {
    let headers = delivery.properties.headers().as_ref();
    let attempt = headers.and_then(|h| h.inner().get(publish::ATTEMPT_HEADER)).and_then(|value| match value {
        AMQPValue::LongLongInt(n) => Some(n.cast_unsigned()),
        _ => None,
    });
    // One that is settled meanwhile needs it no more.
    let old = attempt.and_then(|a| run.token(a)).map_or(delivery.delivery_tag, |t| t.moved(delivery.delivery_tag));
    run.acknowledge(old);
}

fn arrived(run: &Arc<Run>, source: Source, delivery: Delivery) -> Arrived {
    let headers = delivery.properties.headers().as_ref();
    let count = headers.and_then(|h| h.inner().get("x-delivery-count")).and_then(number).unwrap_or(0);
    let counted = if let Source::Tasks(queue) = source { queue } else { Queue::Files };
    let token = Token::new(run, counted, delivery.delivery_tag, delivery.data);
    Arrived { source, redelivered: delivery.redelivered, count, token }
}

fn number(value: &AMQPValue) -> Option<u32> {
    let wide = match value {
        AMQPValue::LongLongInt(n) => *n,
        AMQPValue::LongInt(n) => i64::from(*n),
        AMQPValue::LongUInt(n) => i64::from(*n),
        AMQPValue::ShortInt(n) => i64::from(*n),
        AMQPValue::ShortShortInt(n) => i64::from(*n),
        _ => return None,
    };
    u32::try_from(wide).ok()
}

/// Looks into a delivery. None: it was set aside, or goes elsewhere.
pub(super) fn look_into(arrived: Arrived, may_wait: bool) -> Option<Vec<Held>> {
    let Arrived { source, redelivered, count, token } = arrived;
    let run = Arc::clone(&token.run);
    let opened = match source {
        Source::Tasks(queue) => run.seal.open_tasks(&token.body, run.job, queue),
        Source::Suspects | Source::Hold => run.seal.open_any_tasks(&token.body, run.job),
    };
    let Tasks { origin, attempts, lost, again, tasks, .. } = match opened {
        Ok(tasks) => tasks,
        Err(e) => {
            let reason = format!("a message of queue {} cannot be understood: {e}", source.name(&run));
            let queue = if let Source::Tasks(queue) = source { queue } else { Queue::Files };
            token.begin(Origin::foreign(), queue, redelivered);
            // Nobody counted it, so it counts for itself.
            token.posted(queue);
            publish::bury(token.body.clone(), b"", &reason, token, may_wait);
            return None;
        }
    };
    let queue = tasks.first().map_or(Queue::Files, Task::queue);
    let waited = envelope::age_of_tasks(&token.body).max(token.age());
    let since = Instant::now().checked_sub(waited).unwrap_or_else(Instant::now);
    let (again, count) = (again || redelivered || attempts > 0, count + lost);
    token.begin(origin, queue, again);
    let singles: Vec<Task> = tasks.iter().flat_map(Task::singles).collect();
    let alone = source == Source::Suspects;
    let is_culprit = alone && singles.len() == 1 && count >= ALONE;
    if is_culprit || attempts >= MAX_ATTEMPTS {
        let lost = if alone { count + SUSPECT_AFTER } else { count };
        let reason = format!("gave up: {lost} workers were lost with it, and {attempts} actors");
        let directory = tasks.first().map(what_of).unwrap_or_default();
        publish::bury(token.body.clone(), &directory, &reason, token, may_wait);
        return None;
    }
    // First as it is, then entry by entry.
    let suspects = match (alone, count) {
        (false, SUSPECT_AFTER..) => Some(tasks.clone()),
        (true, 1..) if singles.len() > 1 => Some(singles),
        _ => None,
    };
    if let Some(alone) = suspects {
        tracing::warn!(job = %run.job, count, "workers were lost with a message; what it holds is worked on alone");
        let hold = |task| Held {
            task: Arc::new(task),
            attempts,
            lost: 0,
            again,
            suspect: true,
            since,
            token: Arc::clone(&token),
        };
        if publish::post(alone.into_iter().map(hold).collect(), may_wait).is_err() {
            tracing::debug!("the connection is gone; the broker delivers again by itself");
        }
        return None;
    }
    if alone {
        token.set_alone();
    }
    let hold = |task| Held {
        task: Arc::new(task),
        attempts,
        lost: count,
        again,
        suspect: alone,
        since,
        token: Arc::clone(&token),
    };
    Some(tasks.into_iter().map(hold).collect())
}

/// Where a message goes that a lost worker had parked, and how: it was lost once more.
pub(super) fn unparked(seal: &Seal, delivery: &Delivery, job: JobId) -> (String, Vec<u8>) {
    let Ok(parked) = seal.open_any_tasks(&delivery.data, job) else {
        // It was understood once; where it lies it is seen.
        return (topology::dead(job), delivery.data.clone());
    };
    let headers = delivery.properties.headers().as_ref();
    let alone = headers.is_some_and(|h| h.inner().contains_key(publish::ALONE_HEADER));
    let queue = parked.tasks.first().map_or(Queue::Files, Task::queue);
    let to = if alone { topology::suspects(job) } else { topology::tasks(job, queue) };
    let again = Tasks { lost: parked.lost + 1, again: true, ..parked };
    let body = seal.seal(&again).unwrap_or_else(|_| delivery.data.clone());
    (to, body)
}

/// What a task is about: its directory, and the entry if it is only one.
pub(super) fn what_of(task: &Task) -> Vec<u8> {
    match task.only_name() {
        Some(name) => task.directory().display_join(name),
        None => task.directory().as_bytes().to_vec(),
    }
}
