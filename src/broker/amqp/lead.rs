//! The leader at work: looks, absorbs results, moves the job on.
//!
//! Invariant: a report counts once, however often it comes; it is acknowledged after it is on the board.

use super::connection::{self, Depth, Published};
use super::envelope::Seal;
use super::link::{Heard, Link};
use super::messages::{self, JobEvent, Probe, Reply, Results, Standing};
use super::quiescence::{Look, Verdict, Watch};
use super::{AmqpConfig, Fleet, Member, Outcome, joblog, topology};
use crate::broker::Gate;
use crate::model::{JobId, JobSpec, Queue, escaped};
use crate::telemetry::Board;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a look waits for workers that the broker counts.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a look listens to workers that take no part.
const LISTEN: Duration = Duration::from_millis(50);
/// Pause between looks when nothing seems to be left.
const SHORT_PAUSE: Duration = Duration::from_millis(5);
/// Pause between looks while there is work.
const LONG_PAUSE: Duration = Duration::from_millis(250);
/// So long without any worker is said.
const LONELY: Duration = Duration::from_secs(3);
/// How long workers may take to let go of a job that is stopped: the files in their hands.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How long the last reports may take.
const REPORT_PATIENCE: Duration = Duration::from_secs(30);

/// What the leader knows of its job, whatever becomes of its connection.
pub(super) struct Memory {
    spec: JobSpec,
    board: Arc<Board>,
    gate: Gate,
    seal: Seal,
    watch: Watch,
    /// The last report of each session.
    absorbed: HashMap<u64, u64>,
    /// The last counters of every session that ever answered.
    heard: HashMap<u64, messages::Tally>,
    replies: Vec<Reply>,
    round: u64,
    abort: Option<String>,
    /// Reports are missing: totals may be too small.
    lossy: bool,
    /// A worker said that it has nothing left.
    hinted: bool,
    pause: Duration,
    served: Instant,
}

impl Memory {
    pub fn new(spec: JobSpec, board: Arc<Board>, gate: Gate, config: &AmqpConfig) -> Self {
        Memory {
            spec,
            board,
            gate,
            seal: config.seal.clone(),
            watch: Watch::new(config.unnoticed(), false),
            absorbed: HashMap::new(),
            heard: HashMap::new(),
            replies: Vec::new(),
            round: 0,
            abort: None,
            lossy: false,
            hinted: false,
            pause: SHORT_PAUSE,
            served: Instant::now(),
        }
    }

    pub fn job(&self) -> JobId {
        self.spec.id
    }

    /// What becomes of a job that is ended early.
    pub fn ended_early(&self) -> Outcome {
        self.abort.clone().map_or(Outcome::Stopped, Outcome::Aborted)
    }

    /// Follows the job until it is over, or the connection fails.
    pub async fn follow(
        &mut self,
        link: &mut Link,
        config: &AmqpConfig,
        stop: &dyn Fn() -> bool,
        on_look: &mut dyn FnMut(&Fleet),
    ) -> lapin::Result<Outcome> {
        loop {
            if self.abort.is_some() || stop() {
                return self.end_early(link).await;
            }
            let look = self.look(link).await?;
            on_look(&self.fleet(&look));
            self.mind_loneliness(&look, config);
            self.heard.extend(&look.tallies);
            match self.watch.observe(&look, self.sums_agree(), Instant::now()) {
                Verdict::Busy => self.rest(link, &look, stop).await?,
                Verdict::Quiet => self.listen(link, SHORT_PAUSE, stop).await?,
                Verdict::Over | Verdict::Lost if !self.is_empty(link).await? => {}
                Verdict::Over | Verdict::Lost => {
                    self.hear_last_reports(link, &look).await?;
                    if self.watch.is_finishing() {
                        return Ok(Outcome::Complete);
                    }
                    self.board.set_walk_over();
                    if self.lossy && self.spec.policy.delete.is_some() {
                        self.abort = Some(
                            "reports of workers are missing, so it is not known how much would be removed: nothing was \
                             removed; run it again"
                                .into(),
                        );
                        continue;
                    }
                    if let Err(why) = (self.gate)(&self.board.snapshot().totals) {
                        self.abort = Some(why);
                        continue;
                    }
                    joblog::append(&link.out, &self.seal, &JobEvent::Finishing(self.spec.id)).await?;
                    self.watch.enter_finishing();
                    self.pause = SHORT_PAUSE;
                }
            }
        }
    }

    /// Were as many tasks settled as posted? The leader posted one, the root.
    fn sums_agree(&self) -> bool {
        let sum = |of: fn(&messages::Tally) -> &[u64; 3]| -> u64 {
            self.heard.values().map(|t| of(t)[..self.watch.queues()].iter().sum::<u64>()).sum()
        };
        sum(|t| &t.posted) + 1 == sum(|t| &t.settled)
    }

    /// Looks at queues and workers once.
    async fn look(&mut self, link: &mut Link) -> lapin::Result<Look> {
        let depths = self.depths(link).await?;
        let hungry = [0, 1].map(|pool| self.idle_workers(pool));
        self.round += 1;
        let known = std::mem::take(&mut self.replies);
        let deep = depths.iter().take(self.watch.queues()).all(|d| d.ready == 0);
        let (job, round, reply_to) = (self.spec.id, self.round, link.mailbox.clone());
        link.probe(Probe { job, round, reply_to, deep, hungry }).await?;
        let start = Instant::now();
        loop {
            let look = Look { depths, tallies: self.tallies(), holds: 0 };
            let partners = known.iter().filter(|k| matches!(k.standing, Standing::Works(_)));
            // Who took part last time is waited for, unless it is gone; others only show that they are there.
            let missing = |k: &Reply| !self.replies.iter().any(|r| r.session == k.session);
            let answered = !partners.into_iter().any(missing) && self.watch.is_answered(&look);
            if answered && !self.replies.is_empty() && !known.iter().any(missing) {
                return Ok(look);
            }
            let until = start + if answered { LISTEN } else { ANSWER };
            if matches!(self.attend(link, until).await?, Heard::Nothing) {
                return Ok(look);
            }
        }
    }

    async fn depths(&self, link: &Link) -> lapin::Result<[Depth; 3]> {
        let ask = |queue| {
            let name = topology::tasks(self.spec.id, queue);
            async move { connection::depth(&link.ask, &name).await }
        };
        let [dirs, files, finish] = Queue::ALL;
        let (dirs, files, finish) = tokio::try_join!(ask(dirs), ask(files), ask(finish))?;
        Ok([dirs, files, finish])
    }

    fn tallies(&self) -> BTreeMap<u64, messages::Tally> {
        let works = |r: &Reply| match &r.standing {
            Standing::Works(tally) => Some((r.session, *tally)),
            _ => None,
        };
        self.replies.iter().filter_map(works).collect()
    }

    fn idle_workers(&self, pool: usize) -> u32 {
        let idle = |r: &&Reply| matches!(&r.standing, Standing::Works(tally) if tally.idle[pool] > 0);
        u32::try_from(self.replies.iter().filter(idle).count()).unwrap_or(u32::MAX)
    }

    fn fleet(&self, look: &Look) -> Fleet {
        let member = |r: &Reply| {
            let (unsettled, idle, refused) = match &r.standing {
                Standing::Works(tally) => (tally.unsettled, tally.idle, None),
                Standing::Refused(reason) => (0, [0; 2], Some(reason.clone())),
                Standing::Unknown => return None,
            };
            Some(Member { name: r.worker.clone(), unsettled, idle, refused })
        };
        Fleet { ready: look.depths.map(|d| d.ready), members: self.replies.iter().filter_map(member).collect() }
    }

    fn mind_loneliness(&mut self, look: &Look, config: &AmqpConfig) {
        if look.depths.iter().any(|d| d.consumers > 0) {
            self.served = Instant::now();
        } else if self.served.elapsed() > LONELY {
            let note = format!("no worker takes part in the job: start `treehaul worker --broker {config}` on a node");
            self.board.note(&note);
        }
    }

    /// Waits for the next look, the shorter the nearer the end seems.
    async fn rest(&mut self, link: &mut Link, look: &Look, stop: &dyn Fn() -> bool) -> lapin::Result<()> {
        let ready = look.depths.iter().take(self.watch.queues()).any(|d| d.ready > 0);
        self.pause = if std::mem::take(&mut self.hinted) {
            SHORT_PAUSE
        } else if ready {
            LONG_PAUSE
        } else {
            (self.pause * 2).min(LONG_PAUSE)
        };
        self.listen(link, self.pause, stop).await
    }

    /// Hears what comes for a while, or until a worker says that nothing is left.
    async fn listen(&mut self, link: &mut Link, pause: Duration, stop: &dyn Fn() -> bool) -> lapin::Result<()> {
        let until = Instant::now() + pause;
        while !self.hinted && self.abort.is_none() && !stop() {
            if matches!(self.attend(link, until).await?, Heard::Nothing) {
                break;
            }
        }
        Ok(())
    }

    /// Hears one thing and takes it in.
    async fn attend(&mut self, link: &mut Link, until: Instant) -> lapin::Result<Heard> {
        let heard = link.hear(until).await?;
        match &heard {
            Heard::Result(delivery) => self.absorb(link, delivery).await?,
            Heard::Reply(delivery) => self.take_reply(&delivery.data),
            Heard::Nothing => {}
        }
        Ok(heard)
    }

    fn take_reply(&mut self, body: &[u8]) {
        let reply: Reply = match self.seal.open(body) {
            Ok(reply) => reply,
            Err(e) => return tracing::warn!(error = %e, "passed over a worker's answer"),
        };
        if let Standing::Refused(reason) = &reply.standing {
            let (name, reason) = (escaped(reply.worker.as_bytes()), escaped(reason.as_bytes()));
            self.board.note(&format!("worker {name} takes no part in the job: {reason}"));
        }
        if reply.round == self.round {
            self.replies.retain(|r| r.session != reply.session);
            self.replies.push(reply);
        }
    }

    async fn absorb(&mut self, link: &Link, delivery: &Delivery) -> lapin::Result<()> {
        match self.seal.open::<Results>(&delivery.data) {
            Ok(results) if results.job == self.spec.id => {
                let last = self.absorbed.entry(results.session).or_default();
                if results.number > *last {
                    *last = results.number;
                    self.abort = self.abort.take().or_else(|| results.report.abort.clone());
                    self.board.absorb(results.report);
                }
                self.hinted |= results.idle;
            }
            Ok(results) => self.bury(link, delivery, &format!("belongs to job {}", results.job)).await?,
            Err(e) => self.bury(link, delivery, &e.to_string()).await?,
        }
        link.results_channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await
    }

    async fn bury(&mut self, link: &Link, delivery: &Delivery, reason: &str) -> lapin::Result<()> {
        self.lossy = true;
        let reason = format!("a report cannot be understood: {reason}");
        self.board.note(&format!("{reason}; it is in the job's dead letters, and totals may lack it"));
        let mut headers = FieldTable::default();
        headers.insert("x-treehaul-reason".into(), AMQPValue::LongString(LongString::from(reason.as_str())));
        let dead = topology::dead(self.spec.id);
        let sent = connection::publish(&link.out, &dead, &delivery.data, headers).await?.await?;
        match connection::published(&sent)? {
            Published::Safe => Ok(()),
            // Somebody deleted it; the report would come again for ever.
            Published::NoQueue => {
                self.board.note("the job's dead letters are gone");
                Ok(())
            }
        }
    }

    /// Asks the queues themselves: unlike a count, taking a message is agreed on by all replicas.
    async fn is_empty(&self, link: &Link) -> lapin::Result<bool> {
        for queue in &Queue::ALL[..self.watch.queues()] {
            let name = topology::tasks(self.spec.id, *queue);
            if let Some(got) = link.ask.basic_get(name.into(), BasicGetOptions::default()).await? {
                let requeue = BasicNackOptions { requeue: true, multiple: false };
                link.ask.basic_nack(got.delivery.delivery_tag, requeue).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hears every report that the workers of this look have sent, and what those who died left.
    async fn hear_last_reports(&mut self, link: &mut Link, look: &Look) -> lapin::Result<()> {
        let mut until = Instant::now() + REPORT_PATIENCE;
        let name = topology::results(self.spec.id);
        loop {
            let missing = look.tallies.iter().any(|(s, t)| self.absorbed.get(s).copied().unwrap_or(0) < t.results);
            // The second answer stands behind what the first question made the broker send.
            connection::depth(&link.results_channel, &name).await?;
            let left = connection::depth(&link.results_channel, &name).await?.ready;
            let mut heard = false;
            while !matches!(self.attend(link, Instant::now()).await?, Heard::Nothing) {
                heard = true;
            }
            if !missing && left == 0 && !heard {
                return Ok(());
            }
            if heard {
                until = Instant::now() + REPORT_PATIENCE;
            }
            if Instant::now() > until {
                self.lossy = true;
                self.board.note("some reports of workers did not arrive; totals may be too small");
                return Ok(());
            }
            if !heard {
                self.attend(link, Instant::now() + SHORT_PAUSE).await?;
            }
        }
    }

    /// Ends the job: nobody takes its tasks any more, and those in hand are waited for.
    async fn end_early(&mut self, link: &mut Link) -> lapin::Result<Outcome> {
        joblog::append(&link.out, &self.seal, &JobEvent::Stopping(self.spec.id)).await?;
        let until = Instant::now() + STOP_PATIENCE;
        loop {
            for queue in Queue::ALL {
                let name = topology::tasks(self.spec.id, queue);
                link.ask.queue_purge(name.into(), QueuePurgeOptions::default()).await?;
            }
            let look = self.look(link).await?;
            // The workers' word counts: a quorum queue may go on counting a consumer that was cancelled.
            if look.tallies.values().all(|t| t.unsettled == 0 && t.consumers == [0; 3]) {
                self.hear_last_reports(link, &look).await?;
                break;
            }
            if Instant::now() > until {
                self.board.note("workers still had tasks of the job in hand when it was stopped");
                break;
            }
            self.attend(link, Instant::now() + 4 * SHORT_PAUSE).await?;
        }
        Ok(self.ended_early())
    }
}
