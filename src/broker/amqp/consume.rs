//! Deliveries: how they come in, and what is in them.

use super::lanes::{Arrived, Lanes};
use super::messages::Tasks;
use super::publish;
use super::run::Run;
use super::token::{Held, Token};
use super::topology;
use crate::broker::MAX_ATTEMPTS;
use crate::model::Queue;
use lapin::message::{Delivery, DeliveryResult};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer, ConsumerDelegate};
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use tokio::sync::mpsc::UnboundedSender;

/// Deliveries of one message without an end before it is set aside: each may have killed a whole worker, but
/// most were lost connections and workers that were stopped, so there are many more than [`MAX_ATTEMPTS`].
const MAX_DELIVERIES: u32 = 20;

/// Consumers of one job on one channel.
pub(super) struct Consumption {
    run: Arc<Run>,
    lanes: Arc<Lanes>,
    channel: Channel,
    /// Told when the broker ends a consumer.
    ended: UnboundedSender<Option<lapin::Error>>,
    consumers: Vec<(Queue, Consumer)>,
    /// Set before the present consumers are ended from here.
    expected: Arc<AtomicBool>,
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

    /// Starts to consume a queue, if anything is to be fetched from it.
    pub async fn start(&mut self, queue: Queue, prefetch: u16) -> lapin::Result<()> {
        if prefetch == 0 || self.consumers.iter().any(|(q, _)| *q == queue) {
            return Ok(());
        }
        // The prefetch of a channel is that of consumers started after it was set.
        self.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let name = topology::tasks(self.run.job, queue);
        let options = BasicConsumeOptions::default();
        let consumer = self.channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await?;
        // Deliveries are counted on the connection's own thread, in the order of what came on the channel:
        // whoever sees the answer to a later question has counted all earlier deliveries.
        consumer.set_delegate(Inlet {
            run: Arc::clone(&self.run),
            lanes: Arc::clone(&self.lanes),
            queue,
            ended: self.ended.clone(),
            expected: Arc::clone(&self.expected),
        });
        self.run.set_consumer(queue, true);
        self.consumers.push((queue, consumer));
        Ok(())
    }

    /// Ends all consumers; deliveries that are here stay.
    pub async fn cancel(&mut self) -> lapin::Result<()> {
        std::mem::take(&mut self.expected).store(true, SeqCst);
        for (queue, consumer) in self.consumers.drain(..) {
            self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            self.run.set_consumer(queue, false);
        }
        Ok(())
    }
}

struct Inlet {
    run: Arc<Run>,
    lanes: Arc<Lanes>,
    queue: Queue,
    ended: UnboundedSender<Option<lapin::Error>>,
    expected: Arc<AtomicBool>,
}

impl ConsumerDelegate for Inlet {
    fn on_new_delivery(&self, delivery: DeliveryResult) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match delivery {
            Ok(Some(delivery)) => self.lanes.arrive(arrived(&self.run, self.queue, delivery)),
            Ok(None) if self.expected.load(SeqCst) => {}
            // The receiver is gone only if the run is over, and then nobody minds.
            Ok(None) => drop(self.ended.send(None)),
            Err(e) => drop(self.ended.send(Some(e))),
        }
        Box::pin(ready(()))
    }
}

fn arrived(run: &Arc<Run>, queue: Queue, delivery: Delivery) -> Arrived {
    let headers = delivery.properties.headers().as_ref();
    let count = headers.and_then(|h| h.inner().get("x-delivery-count")).and_then(number).unwrap_or(0);
    let token = Token::new(run, queue, delivery.delivery_tag);
    Arrived { body: delivery.data, queue, redelivered: delivery.redelivered, count, token }
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

/// Looks into a delivery. None: it was set aside.
pub(super) fn look_into(arrived: Arrived, may_wait: bool) -> Option<Vec<Held>> {
    let Arrived { body, queue, redelivered, count, token } = arrived;
    let run = Arc::clone(&token.run);
    token.begin();
    let tasks = match run.seal.open_tasks(&body, run.job, queue) {
        Ok(tasks) => tasks,
        Err(e) => {
            let reason = format!("a message of queue {} cannot be understood: {e}", topology::tasks(run.job, queue));
            publish::bury(body, b"", &reason, token, may_wait);
            return None;
        }
    };
    let Tasks { attempts, again, tasks, .. } = tasks;
    if count >= MAX_DELIVERIES || attempts >= MAX_ATTEMPTS {
        let reason = format!("gave up after {count} deliveries without an end and {attempts} attempts");
        let directory = tasks.first().map(|t| t.directory().as_bytes().to_vec()).unwrap_or_default();
        publish::bury(body, &directory, &reason, token, may_wait);
        return None;
    }
    let again = again || redelivered || attempts > 0;
    let hold = |task| Held { task: Arc::new(task), attempts, again, token: Arc::clone(&token) };
    Some(tasks.into_iter().map(hold).collect())
}
