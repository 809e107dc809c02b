//! The leader at work: looks, moves the job on, seals it, clears up.
//!
//! Who leads a job is decided by its baton: one message in a queue with a single active consumer. The worker that holds
//! it, unacknowledged, leads; when it is gone the broker gives the baton to another, which reads the job's stream
//! and goes on from there. Invariant: whatever a leader does may be done again by the next one.

use super::connection::{self, Depth, Subscription};
use super::consume;
use super::link::{Heard, Link};
use super::messages::{self, Baton, JobEvent, Probe, Reply, Standing, What};
use super::quiescence::{Look, Verdict, Watch};
use super::session::{JobState, Session};
use super::story::{Sealed, Story};
use super::topology;
use crate::model::fleet::{JobEnd, JobPhase};
use crate::model::{JobId, JobSpec, Queue, Report, Totals, escaped};
use crate::telemetry::Board;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a look waits for workers that the broker counts.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a look listens to workers that take no part.
const LISTEN: Duration = Duration::from_millis(50);
/// Pause between looks when nothing seems to be left.
const SHORT_PAUSE: Duration = Duration::from_millis(5);
/// Pause between looks while there is work.
const LONG_PAUSE: Duration = Duration::from_millis(250);
/// The same while the job is paused.
const PAUSED_PAUSE: Duration = Duration::from_secs(1);
/// How long workers may take to let go of a job that is stopped: the files in their hands.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// The baton is renewed so often: the broker takes what is held for long for forgotten.
const RENEW: Duration = Duration::from_secs(5);
/// Batons that may be on their way: an old one and its successor, and some that dead leaders left.
const BATONS: u16 = 16;
/// How long readers may take to say that they have read the end.
const FAREWELL: Duration = Duration::from_secs(3);
/// So many entries of a worker, and of all others, say something about its failures.
const ENOUGH: u64 = 100;

/// Leads the job whenever the baton comes; returns when the job is gone, or this worker is on its way out.
pub(super) async fn serve(
    session: &Arc<Session>,
    spec: &JobSpec,
    states: watch::Receiver<JobState>,
) -> lapin::Result<()> {
    let job = spec.id;
    let channel = connection::confirmed_channel(session.connection()).await?;
    channel.basic_qos(BATONS, BasicQosOptions::default()).await?;
    let mut batons = Subscription::new(channel.clone());
    let (none, options) = (FieldTable::default(), BasicConsumeOptions::default());
    match channel.basic_consume(topology::lead(job).into(), "".into(), options, none).await {
        Err(e) if connection::is_missing(&e) => return Ok(()),
        consumer => batons.consumers.push(consumer?),
    }
    let mut held: Option<(u64, u64)> = None;
    let mut leading: Option<Pin<Box<dyn Future<Output = lapin::Result<()>> + Send + '_>>> = None;
    let mut renew = tokio::time::interval(RENEW);
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            baton = batons.next() => {
                let Some(baton) = baton.transpose()? else { return Ok(()) };
                let number = session.seal().open::<Baton>(&baton.data).ok().filter(|b| b.job == job).map(|b| b.number);
                let old = match number {
                    Some(number) => held.replace((baton.delivery_tag, number)).map(|(tag, _)| tag),
                    None => Some(baton.delivery_tag),
                };
                if let Some(tag) = old {
                    channel.basic_ack(tag, BasicAckOptions::default()).await?;
                }
                if held.is_some() && leading.is_none() {
                    leading = Some(Box::pin(lead(session, spec, states.clone())));
                }
            }
            ended = async { match leading.as_mut() { Some(leading) => leading.await, None => std::future::pending().await } } => return ended,
            _ = renew.tick() => if let Some((_, number)) = held {
                let baton = Baton { job, number: number + 1 };
                let body = session.seal().seal(&baton).map_err(std::io::Error::other)?;
                connection::publish_safely(&channel, &topology::lead(job), &body).await?;
            },
            () = session.is_leaving() => {
                // The broker gives the baton to another worker.
                drop(leading);
                channel.close(200, "leaving".into()).await?;
                return std::future::pending().await;
            }
        }
    }
}

/// Leads the job to its end and clears up.
async fn lead(session: &Arc<Session>, spec: &JobSpec, states: watch::Receiver<JobState>) -> lapin::Result<()> {
    let ended = states.borrow().phase == JobPhase::Ended;
    if ended && topology::ready(session.connection(), &topology::results(spec.id)).await?.is_none() {
        // Whoever led it before came as far as that.
        return remove(session, spec.id, BTreeSet::new(), true).await;
    }
    let mut lead = Lead::open(session, spec, states).await?;
    let _registered = session.register_board(spec, &lead.story.board);
    let sealed = match lead.story.sealed.clone() {
        Some(sealed) => sealed,
        None => lead.bring_to_its_end().await?,
    };
    lead.clear_up(&sealed).await
}

struct Lead<'a> {
    session: &'a Arc<Session>,
    spec: &'a JobSpec,
    states: watch::Receiver<JobState>,
    link: Link<'a>,
    story: Story,
    watch: Watch,
    replies: Vec<Reply>,
    round: u64,
    pause: Duration,
    /// Marks are counted.
    marks: u64,
    quarantined: BTreeSet<String>,
    /// Readers who have read the end.
    have_read: BTreeSet<u64>,
}

impl<'a> Lead<'a> {
    async fn open(
        session: &'a Arc<Session>,
        spec: &'a JobSpec,
        states: watch::Receiver<JobState>,
    ) -> lapin::Result<Self> {
        let link = Link::open(session.connection(), session.seal(), spec.id).await?;
        let board = Arc::new(Board::new(Box::new(|_| {})));
        let mut lead = Lead {
            session,
            spec,
            states,
            link,
            story: Story::new(spec.id, board),
            watch: Watch::new(session.unnoticed(), false),
            replies: Vec::new(),
            round: 0,
            pause: SHORT_PAUSE,
            marks: 0,
            quarantined: BTreeSet::new(),
            have_read: BTreeSet::new(),
        };
        lead.catch_up().await?;
        // Whoever led it before may have known of workers that are silent now.
        let took_over = lead.story.marks > lead.marks;
        lead.watch = Watch::new(session.unnoticed(), took_over);
        if lead.story.walk_over {
            lead.watch.enter_finishing();
        }
        if lead.story.walk_over && lead.story.sealed.is_none() {
            // Who found that may have died before it was told.
            lead.link.append(&JobEvent::Finishing(spec.id)).await?;
        }
        let worker = session.worker_name().to_owned();
        lead.link.append(&JobEvent::Led { job: spec.id, worker }).await?;
        tracing::info!(job = %spec.id, "leads the job");
        Ok(lead)
    }

    /// Reads the job's stream up to here.
    async fn catch_up(&mut self) -> lapin::Result<()> {
        self.marks += 1;
        let mark = super::random();
        self.link.record(What::Mark(mark)).await?;
        while self.story.mark != Some(mark) {
            self.attend(Instant::now() + ANSWER).await?;
        }
        Ok(())
    }

    /// Says something once, to all who read the stream.
    async fn note(&mut self, text: &str) -> lapin::Result<()> {
        if !self.story.board.snapshot().notes.iter().any(|n| n == text) {
            self.story.board.note(text);
            self.link.record(What::Note(text.to_owned())).await?;
        }
        Ok(())
    }

    fn cancelled(&self) -> Option<String> {
        self.states.borrow().cancel.clone()
    }

    async fn bring_to_its_end(&mut self) -> lapin::Result<Sealed> {
        let mut end = self.follow().await?;
        if !self.story.concluded {
            let report = self.conclude().await?;
            self.link.record(What::Concluded(Box::new(report))).await?;
            self.catch_up().await?;
        }
        let (board, salt) = (Arc::clone(&self.story.board), self.spec.policy.verify.salt);
        if end == JobEnd::Complete {
            let settled = tokio::task::spawn_blocking(move || board.settle(&salt)).await;
            if let Err(why) = settled.unwrap_or_else(|e| Err(e.to_string())) {
                end = JobEnd::Aborted(why);
            }
        }
        let mut totals = self.story.board.snapshot().totals;
        let letters = topology::ready(self.link.connection, &topology::dead(self.spec.id)).await?;
        let letters = letters.map_or(0, |d| d.ready);
        if letters > 0 && totals.failed == 0 {
            totals.failed = u64::from(letters);
        }
        let reply_to = self.link.mailbox.clone();
        let sealed = Sealed { end, totals, letters, reply_to };
        self.seal(&sealed).await?;
        Ok(sealed)
    }

    async fn seal(&mut self, sealed: &Sealed) -> lapin::Result<()> {
        let Sealed { end, totals, letters, reply_to } = sealed.clone();
        self.link.record(What::Sealed { end, totals: Box::new(totals), letters, reply_to }).await
    }

    async fn conclude(&mut self) -> lapin::Result<Report> {
        let (gate, job) = (self.session.gate(), self.spec.id);
        let concluded = tokio::task::spawn_blocking(move || gate.conclude(job)).await;
        Ok(concluded.unwrap_or_else(|e| {
            let mut report = Report::default();
            report.totals.failed = 1;
            tracing::error!(%job, error = %e, "ending the job failed");
            report
        }))
    }

    /// Follows the job until everything is done, or it is ended early.
    async fn follow(&mut self) -> lapin::Result<JobEnd> {
        loop {
            if let Some(end) = self.early_end() {
                self.end_early().await?;
                return Ok(end);
            }
            let look = self.look().await?;
            self.mind_failures().await?;
            let queues = self.watch.queues();
            if look.depths.iter().take(queues).all(|d| d.ready == 0) && look.tallies.values().all(|t| t.unsettled == 0)
            {
                self.catch_up().await?;
            }
            let balanced = self.story.is_balanced(queues);
            match self.watch.observe(&look, balanced, Instant::now()) {
                Verdict::Busy => self.rest(&look).await?,
                Verdict::Quiet => self.listen(SHORT_PAUSE).await?,
                Verdict::Over | Verdict::Lost if !self.is_empty().await? => {}
                Verdict::Lost => {
                    let lost: i64 = self.story.accounts.outstanding().iter().take(queues).sum();
                    self.abort(format!(
                        "{lost} messages of the job are lost: somebody purged or deleted a queue; run it again, what is \
                         done is kept"
                    ))
                    .await?;
                }
                Verdict::Over if self.watch.is_finishing() => return Ok(JobEnd::Complete),
                Verdict::Over => self.enter_finishing().await?,
            }
        }
    }

    /// Ends the job early, also if this leader dies on the way.
    async fn abort(&mut self, why: String) -> lapin::Result<()> {
        self.link.record(What::Aborts(why.clone())).await?;
        self.story.abort.get_or_insert(why);
        Ok(())
    }

    fn early_end(&self) -> Option<JobEnd> {
        let aborted = self.story.abort.clone().map(JobEnd::Aborted);
        aborted.or_else(|| self.cancelled().map(JobEnd::Cancelled))
    }

    async fn enter_finishing(&mut self) -> lapin::Result<()> {
        let (gate, job, totals) = (self.session.gate(), self.spec.id, self.story.board.snapshot().totals);
        let allowed = tokio::task::spawn_blocking(move || gate.may_finish(job, &totals)).await;
        if let Err(why) = allowed.unwrap_or_else(|e| Err(e.to_string())) {
            return self.abort(why).await;
        }
        self.link.record(What::WalkOver).await?;
        self.link.append(&JobEvent::Finishing(job)).await?;
        self.watch.enter_finishing();
        self.pause = SHORT_PAUSE;
        Ok(())
    }

    /// Looks at queues and workers once.
    async fn look(&mut self) -> lapin::Result<Look> {
        // What is moved between queues must be seen in one of them: those that it comes from are asked first.
        let parked = self.parked().await?;
        let (depths, suspects) = self.depths().await?;
        let hungry = [0, 1].map(|pool| self.idle_workers(pool));
        self.round += 1;
        let known = std::mem::take(&mut self.replies);
        let deep = depths.iter().take(self.watch.queues()).all(|d| d.ready == 0);
        let (job, round, reply_to) = (self.spec.id, self.round, self.link.mailbox.clone());
        self.link.probe(Probe { job, round, reply_to, deep, hungry }).await?;
        let start = Instant::now();
        loop {
            let tallies = self.tallies();
            let orphans = parked.iter().filter(|session| !tallies.contains_key(*session)).count();
            let look = Look { depths, tallies, holds: suspects + u32::try_from(orphans).unwrap_or(u32::MAX) };
            let partners = known.iter().filter(|k| matches!(k.standing, Standing::Works(_)));
            // Who took part last time is waited for, unless it is gone; others only show that they are there.
            let missing = |k: &Reply| !self.replies.iter().any(|r| r.session == k.session);
            let answered = !partners.into_iter().any(missing) && self.watch.is_answered(&look);
            let all = answered && !self.replies.is_empty() && !known.iter().any(missing);
            let until = start + if answered { LISTEN } else { ANSWER };
            if all || matches!(self.attend(until).await?, Heard::Nothing) {
                self.recover_parked(&parked, &look).await?;
                return Ok(look);
            }
        }
    }

    /// What is ready, and how many suspects wait.
    async fn depths(&self) -> lapin::Result<([Depth; 3], u32)> {
        let [dirs, files, finish] = Queue::ALL.map(|q| topology::tasks(self.spec.id, q));
        let suspects = topology::suspects(self.spec.id);
        let ask = &self.link.ask;
        let (dirs, files, finish, suspects) = tokio::try_join!(
            connection::depth(ask, &dirs),
            connection::depth(ask, &files),
            connection::depth(ask, &finish),
            connection::depth(ask, &suspects)
        )?;
        Ok(([dirs, files, finish], suspects.ready))
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

    /// Runs whose queue for what takes long is there.
    async fn parked(&mut self) -> lapin::Result<BTreeSet<u64>> {
        let mut there = BTreeSet::new();
        for session in self.story.parks.clone() {
            if topology::ready(self.link.connection, &topology::hold(self.spec.id, session)).await?.is_some() {
                there.insert(session);
            } else {
                self.story.parks.remove(&session);
            }
        }
        Ok(there)
    }

    /// What dead workers had parked goes back to where it came from.
    async fn recover_parked(&mut self, parked: &BTreeSet<u64>, look: &Look) -> lapin::Result<()> {
        for session in parked.iter().filter(|s| !look.tallies.contains_key(*s)) {
            let name = topology::hold(self.spec.id, *session);
            // As long as it has a consumer the broker has not noticed the death yet, or there is none.
            if topology::ready(self.link.connection, &name).await?.is_some_and(|depth| depth.consumers == 0) {
                self.unpark(&name).await?;
                topology::delete(self.link.connection, vec![name]).await?;
            }
        }
        Ok(())
    }

    async fn unpark(&self, name: &str) -> lapin::Result<()> {
        while let Some(got) = self.link.ask.basic_get(name.into(), BasicGetOptions::default()).await? {
            let (to, body) = consume::unparked(self.session.seal(), &got.delivery, self.spec.id);
            if connection::publish_safely(&self.link.out, &to, &body).await? == connection::Published::NoQueue {
                return Err(std::io::Error::other("a queue of the job is gone").into());
            }
            self.link.ask.basic_ack(got.delivery.delivery_tag, BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    /// A worker whose entries fail far more often than elsewhere is taken off the job.
    async fn mind_failures(&mut self) -> lapin::Result<()> {
        let Some((worker, why)) = outlier(&self.story.by_worker, &self.quarantined) else { return Ok(()) };
        self.quarantined.insert(worker.clone());
        let shown = escaped(worker.as_bytes());
        self.note(&format!("worker {shown} is in quarantine for this job: {why}")).await?;
        self.link.append(&JobEvent::Quarantined { job: self.spec.id, worker, why }).await
    }

    /// Waits for the next look, the shorter the nearer the end seems.
    async fn rest(&mut self, look: &Look) -> lapin::Result<()> {
        let ready = look.depths.iter().take(self.watch.queues()).any(|d| d.ready > 0);
        self.pause = if std::mem::take(&mut self.story.hinted) {
            SHORT_PAUSE
        } else if self.states.borrow().paused {
            PAUSED_PAUSE
        } else if ready {
            LONG_PAUSE
        } else {
            (self.pause * 2).min(LONG_PAUSE)
        };
        self.listen(self.pause).await
    }

    /// Hears what comes for a while, or until a worker says that nothing is left.
    async fn listen(&mut self, pause: Duration) -> lapin::Result<()> {
        let until = Instant::now() + pause;
        while !self.story.hinted && self.early_end().is_none() {
            if matches!(self.attend(until).await?, Heard::Nothing) {
                break;
            }
        }
        Ok(())
    }

    /// Hears one thing and takes it in.
    async fn attend(&mut self, until: Instant) -> lapin::Result<Heard> {
        let heard = self.link.hear(until).await?;
        match heard {
            Heard::Record(record) => self.story.take(*record),
            Heard::Reply(reply) => self.take_reply(reply).await?,
            Heard::Stranger(stranger) => {
                let (name, why) = (escaped(stranger.name.as_bytes()), stranger.why());
                self.note(&format!("worker {name} takes no part in the job: {why}")).await?;
            }
            Heard::Other => {}
            Heard::Nothing => return Ok(Heard::Nothing),
        }
        Ok(Heard::Other)
    }

    async fn take_reply(&mut self, reply: Reply) -> lapin::Result<()> {
        match &reply.standing {
            Standing::Refused(reason) => {
                let (name, reason) = (escaped(reply.worker.as_bytes()), escaped(reason.as_bytes()));
                self.note(&format!("worker {name} takes no part in the job: {reason}")).await?;
            }
            Standing::HasRead(reader) => drop(self.have_read.insert(*reader)),
            Standing::Unknown | Standing::Works(_) => {}
        }
        if reply.round == self.round {
            self.replies.retain(|r| r.session != reply.session);
            self.replies.push(reply);
        }
        Ok(())
    }

    /// Asks the queues themselves: unlike a count, taking a message is agreed on by all replicas.
    async fn is_empty(&self) -> lapin::Result<bool> {
        let job = self.spec.id;
        let queues = Queue::ALL[..self.watch.queues()].iter().map(|q| topology::tasks(job, *q));
        for name in queues.chain([topology::suspects(job)]) {
            if let Some(got) = self.link.ask.basic_get(name.into(), BasicGetOptions::default()).await? {
                let requeue = BasicNackOptions { requeue: true, multiple: false };
                self.link.ask.basic_nack(got.delivery.delivery_tag, requeue).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the job: nobody takes its tasks any more, and those in hand are waited for.
    async fn end_early(&mut self) -> lapin::Result<()> {
        self.link.append(&JobEvent::Stopping(self.spec.id)).await?;
        let until = Instant::now() + STOP_PATIENCE;
        loop {
            for name in topology::work_queues(self.spec.id) {
                self.link.ask.queue_purge(name.into(), QueuePurgeOptions::default()).await?;
            }
            let look = self.look().await?;
            // The workers' word counts: a quorum queue may go on counting a consumer that was cancelled.
            if look.tallies.values().all(|t| t.unsettled == 0 && t.consumers == [0; 3]) {
                break;
            }
            if Instant::now() > until {
                self.note("workers still had tasks of the job in hand when it was ended").await?;
                break;
            }
            self.attend(Instant::now() + 4 * SHORT_PAUSE).await?;
        }
        self.catch_up().await
    }

    /// Tells everybody, waits for those who read along, and removes what the job had on the broker.
    async fn clear_up(&mut self, sealed: &Sealed) -> lapin::Result<()> {
        let (job, until) = (self.spec.id, Instant::now() + FAREWELL);
        let (end, totals) = (sealed.end.clone(), Box::new(sealed.totals));
        if sealed.reply_to != self.link.mailbox {
            // Another leader sealed it, and is gone: those who read along answer to this one.
            self.seal(&Sealed { reply_to: self.link.mailbox.clone(), ..sealed.clone() }).await?;
        }
        self.link.append(&JobEvent::Finished { job, end, totals }).await?;
        while !self.story.readers.is_subset(&self.have_read) && Instant::now() < until {
            self.attend(until).await?;
        }
        let keeps = sealed.totals.failed > 0 || sealed.letters > 0;
        remove(self.session, job, self.story.parks.clone(), !keeps).await
    }
}

/// Removes a job's queues, the one of its baton last. What failed is kept unless `all` goes.
async fn remove(session: &Arc<Session>, job: JobId, parks: BTreeSet<u64>, all: bool) -> lapin::Result<()> {
    let session = Arc::clone(session);
    // The worker leaves a job as soon as it hears that it is removed; this goes on.
    let removing = tokio::spawn(async move { remove_now(&session, job, &parks, all).await });
    removing.await.unwrap_or_else(|e| Err(std::io::Error::other(e).into()))
}

async fn remove_now(session: &Session, job: JobId, parks: &BTreeSet<u64>, all: bool) -> lapin::Result<()> {
    let connection = session.connection();
    let mut names = topology::work_queues(job);
    names.extend(parks.iter().map(|s| topology::hold(job, *s)));
    if all {
        names.extend([topology::dead(job), topology::results(job)]);
    }
    topology::delete(connection, names).await?;
    if all {
        let out = connection::confirmed_channel(connection).await?;
        super::joblog::append(&out, session.seal(), &JobEvent::Removed(job)).await?;
    }
    topology::delete(connection, vec![topology::lead(job)]).await
}

/// A worker of which far more fails than of all others together, and what is said of it.
fn outlier(by_worker: &BTreeMap<String, Totals>, known: &BTreeSet<String>) -> Option<(String, String)> {
    let all = by_worker.values().fold((0, 0), |(done, failed), t| (done + t.done(), failed + t.failed));
    by_worker.iter().filter(|(name, _)| !known.contains(*name)).find_map(|(name, t)| {
        let (done, failed) = (t.done(), t.failed);
        let (others, others_failed) = (all.0 - done, all.1 - failed);
        // A fifth of its own, and ten times the share of all others.
        let far = failed * 5 >= done && failed * others > 10 * others_failed * done;
        let why = || format!("{failed} of {done} entries failed there, and {others_failed} of {others} elsewhere");
        (done >= ENOUGH && others >= ENOUGH && far).then(|| (name.clone(), why()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(done: u64, failed: u64) -> Totals {
        Totals { copied: done - failed, failed, ..Totals::default() }
    }

    #[test]
    fn a_worker_is_taken_off_only_where_far_more_fails_than_elsewhere() {
        let judge = |workers: &[(&str, Totals)]| {
            let all = workers.iter().map(|(n, t)| ((*n).to_owned(), *t)).collect();
            outlier(&all, &BTreeSet::new()).map(|(name, _)| name)
        };
        let bad = ("bad", worker(200, 150));
        assert_eq!(judge(&[bad, ("good", worker(1000, 3))]).as_deref(), Some("bad"));
        assert_eq!(judge(&[bad, ("good", worker(1000, 300))]), None, "it fails everywhere");
        assert_eq!(judge(&[bad]), None, "nobody to compare with");
        assert_eq!(judge(&[("bad", worker(60, 60)), ("good", worker(1000, 0))]), None, "too few to say");
        assert_eq!(judge(&[("fair", worker(1000, 20)), ("good", worker(1000, 0))]), None, "a few may fail anywhere");
    }
}
