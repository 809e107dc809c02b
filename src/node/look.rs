//! One look at a whole fleet: jobs, their queues, workers.

use super::json::{failure_json, missing_json, node_json};
use crate::broker::amqp::{AmqpError, Answers, JobState, Office, QueueDepth};
use crate::model::fleet::{Answer, JobEnd, JobPhase, JobProgress, NodeInfo, Order};
use crate::model::{JobId, escaped};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Jobs that are over and still of interest, at most.
const ENDED_SHOWN: usize = 5;
/// Jobs that are over and removed, at most.
const GONE_KEPT: usize = 20;

/// What there was at one moment.
pub struct Look {
    /// When.
    pub at: Instant,
    /// Jobs that are not over; then the last ones that are over and not removed.
    pub jobs: Vec<JobLook>,
    /// The newest jobs that are over and removed, as the log has them.
    pub gone: Vec<JobState>,
    /// Workers that described themselves, by name.
    pub nodes: Vec<(String, NodeInfo)>,
    /// All that workers answered.
    pub answers: Answers,
}

/// A job at that moment.
#[derive(Clone)]
pub struct JobLook {
    /// By the log.
    pub state: JobState,
    /// By its leader, if one answered.
    pub progress: Option<JobProgress>,
    /// Its queues.
    pub queues: Vec<QueueDepth>,
    /// Deliveries that workers hold.
    pub unsettled: u64,
    /// Who leads it.
    pub leader: Option<String>,
}

impl Look {
    /// Looks.
    ///
    /// # Errors
    /// [`AmqpError`].
    pub fn take(office: &Office, nodes: &[String], patience: Duration) -> Result<Self, AmqpError> {
        let at = Instant::now();
        let answers = office.ask(nodes, &Order::Describe, patience)?;
        let described: Vec<(String, NodeInfo)> = answers
            .answers
            .iter()
            .filter_map(|(name, answer)| match answer {
                Answer::Node(info) => Some((name.clone(), (**info).clone())),
                _ => None,
            })
            .collect();
        let leads = described.iter().any(|(_, info)| info.jobs.iter().any(|job| job.leads));
        let led = if leads { office.ask(nodes, &Order::Leading, patience)? } else { Answers::default() };
        let (states, gone) = shown(office.jobs()?);
        let jobs =
            states.into_iter().map(|state| look_at(office, state, &described, &led)).collect::<Result<_, _>>()?;
        Ok(Look { at, jobs, gone, nodes: described, answers })
    }

    /// Workers that take no task of a job, and why.
    pub fn refusals<'a>(&'a self, job: &JobLook) -> impl Iterator<Item = (&'a str, &'a str)> {
        let id = job.state.spec.id;
        self.nodes.iter().filter_map(move |(name, info)| {
            let refused = info.jobs.iter().find(|j| j.job == id)?.refused.as_deref()?;
            Some((name.as_str(), refused))
        })
    }

    /// As one JSON object.
    pub fn json(&self) -> Value {
        let mut all = missing_json(&self.answers);
        all["jobs"] = self.jobs.iter().map(JobLook::json).collect();
        let nodes = self.nodes.iter().map(|(name, info)| node_json(&escaped(name.as_bytes()), info));
        all["nodes"] = nodes.collect();
        all
    }
}

/// Jobs that are worth a look, and those that are gone; the newest last.
fn shown(all: Vec<JobState>) -> (Vec<JobState>, Vec<JobState>) {
    let (mut gone, mut all): (Vec<JobState>, Vec<JobState>) = all.into_iter().partition(|job| job.removed);
    gone.sort_by_key(|job| (job.spec.submitted, job.spec.id));
    gone.drain(..gone.len().saturating_sub(GONE_KEPT));
    all.sort_by_key(|job| (!job.is_over(), job.spec.submitted, job.spec.id));
    let over = all.iter().filter(|job| job.is_over()).count();
    all.drain(..over.saturating_sub(ENDED_SHOWN));
    all.sort_by_key(|job| (job.is_over(), job.spec.submitted, job.spec.id));
    (all, gone)
}

fn look_at(
    office: &Office,
    state: JobState,
    nodes: &[(String, NodeInfo)],
    led: &Answers,
) -> Result<JobLook, AmqpError> {
    let id = state.spec.id;
    let of_job = |info: &NodeInfo| info.jobs.iter().find(|job| job.job == id).cloned();
    let stands: Vec<_> = nodes.iter().filter_map(|(name, info)| Some((name, of_job(info)?))).collect();
    let leads = stands.iter().find(|(_, job)| job.leads).map(|(name, _)| (*name).clone());
    Ok(JobLook {
        progress: progress_of(led, id),
        queues: office.depths(id)?,
        unsettled: stands.iter().map(|(_, job)| job.unsettled).fold(0, u64::saturating_add),
        leader: leads.or_else(|| state.leader.clone()),
        state,
    })
}

/// The one that knows most, should two believe that they lead.
fn progress_of(led: &Answers, id: JobId) -> Option<JobProgress> {
    let all = led.answers.iter().filter_map(|(_, answer)| match answer {
        Answer::Leading(jobs) => jobs.iter().find(|job| job.job == id),
        _ => None,
    });
    all.max_by_key(|progress| progress.totals.found).cloned()
}

impl JobLook {
    /// A job of which there is nothing but the log.
    pub fn of_log(state: JobState) -> Self {
        JobLook { state, progress: None, queues: Vec::new(), unsettled: 0, leader: None }
    }

    /// It is over, with this state: what was seen of it before is kept.
    pub fn close(&mut self, state: JobState) {
        if let (Some(progress), Some((_, totals))) = (&mut self.progress, &state.end) {
            (progress.totals, progress.walk_over) = (*totals, true);
        }
        self.queues.clear();
        (self.unsettled, self.state) = (0, state);
    }

    /// How it stands, in a word or two.
    pub fn standing(&self) -> String {
        let state = &self.state;
        match &state.end {
            Some((JobEnd::Complete, totals)) if totals.failed > 0 => "complete with failed entries".into(),
            Some((JobEnd::Complete, _)) => "complete".into(),
            Some((JobEnd::Aborted(why), _)) => format!("aborted: {}", escaped(why.as_bytes())),
            Some((JobEnd::Cancelled(why), _)) => format!("cancelled: {}", escaped(why.as_bytes())),
            None if state.removed => "removed".into(),
            None if state.phase == JobPhase::Stopping || state.cancel.is_some() => "stopping".into(),
            None if state.paused => "paused".into(),
            None if state.phase == JobPhase::Finishing => "finishing".into(),
            None => "walking".into(),
        }
    }

    /// Messages that wait in a queue; none if the broker has no such queue.
    pub fn ready(&self, queue: &str) -> Option<u32> {
        self.queues.iter().find(|q| q.name == queue).map(|q| q.ready)
    }

    fn json(&self) -> Value {
        let (spec, progress) = (&self.state.spec, self.progress.as_ref());
        let totals = progress.map(|p| p.totals).or_else(|| self.state.end.as_ref().map(|(_, totals)| *totals));
        let totals = totals.map(|t| t.iter().map(|(k, v)| (k.to_owned(), v.into())).collect::<serde_json::Map<_, _>>());
        let queues: serde_json::Map<String, Value> = self
            .queues
            .iter()
            .map(|q| (q.name.to_owned(), json!({ "ready": q.ready, "consumers": q.consumers })))
            .collect();
        let texts = |all: &[String]| all.iter().map(|text| escaped(text.as_bytes())).collect::<Vec<_>>();
        let pair = |(node, why): &(String, String)| json!({ "node": escaped(node.as_bytes()), "why": escaped(why.as_bytes()) });
        json!({
            "job": spec.id.to_string(),
            "pass": escaped(spec.pass.as_bytes()),
            "source": escaped(&spec.source),
            "target": escaped(&spec.target),
            "submitted": spec.submitted.sec,
            "standing": self.standing(),
            "paused": self.state.paused,
            "over": self.state.is_over(),
            "leader": self.leader.as_ref().map(|name| escaped(name.as_bytes())),
            "quarantined": self.state.quarantined.iter().map(pair).collect::<Vec<_>>(),
            "queues": queues,
            "unacknowledged": self.unsettled,
            "totals": totals,
            "walk_over": progress.map(|p| p.walk_over),
            "elapsed_seconds": progress.map(|p| p.elapsed_ms as f64 / 1000.0),
            "notes": progress.map(|p| texts(&p.notes)),
            "failures": progress.map(|p| p.failures.iter().map(failure_json).collect::<Vec<_>>()),
        })
    }
}
