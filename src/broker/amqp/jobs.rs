//! What the job log says of each job.

use super::messages::JobEvent;
use crate::model::fleet::{JobEnd, JobPhase};
use crate::model::{JobId, JobSpec, Totals};
use std::collections::BTreeMap;

/// How a job stands by the log.
#[derive(Debug, Clone, PartialEq)]
pub struct JobState {
    /// The job.
    pub spec: JobSpec,
    /// Where it is on its way.
    pub phase: JobPhase,
    /// Nobody takes a task of it.
    pub paused: bool,
    /// The worker that leads it, as far as the log says.
    pub leader: Option<String>,
    /// Workers that take no task of it any more, and why.
    pub quarantined: Vec<(String, String)>,
    /// Somebody asked for its end, and why.
    pub cancel: Option<String>,
    /// How it ended, and what was done.
    pub end: Option<(JobEnd, Totals)>,
    /// Its queues are gone.
    pub removed: bool,
}

impl JobState {
    fn new(spec: JobSpec) -> Self {
        JobState {
            spec,
            phase: JobPhase::Walking,
            paused: false,
            leader: None,
            quarantined: Vec::new(),
            cancel: None,
            end: None,
            removed: false,
        }
    }

    /// Is it over?
    pub fn is_over(&self) -> bool {
        self.removed || self.end.is_some()
    }

    fn take_in(&mut self, event: JobEvent) {
        match event {
            JobEvent::Submitted(_) => {}
            JobEvent::Finishing(_) => self.phase = self.phase.max(JobPhase::Finishing),
            JobEvent::Stopping(_) => self.phase = self.phase.max(JobPhase::Stopping),
            JobEvent::Removed(_) => (self.phase, self.removed) = (JobPhase::Ended, true),
            JobEvent::Led { worker, .. } => self.leader = Some(worker),
            JobEvent::Paused(_) => self.paused = true,
            JobEvent::Resumed(_) => self.paused = false,
            JobEvent::Cancel { why, .. } => self.cancel = Some(why),
            JobEvent::Quarantined { worker, why, .. } => {
                self.quarantined.retain(|(w, _)| *w != worker);
                self.quarantined.push((worker, why));
            }
            JobEvent::Finished { end, totals, .. } => {
                self.phase = JobPhase::Ended;
                self.end = Some((end, *totals));
            }
            JobEvent::Reopened(_) => {
                let spec = self.spec.clone();
                *self = JobState::new(spec);
            }
        }
    }
}

fn job_of(event: &JobEvent) -> JobId {
    match event {
        JobEvent::Submitted(spec) => spec.id,
        JobEvent::Finishing(job)
        | JobEvent::Stopping(job)
        | JobEvent::Removed(job)
        | JobEvent::Paused(job)
        | JobEvent::Resumed(job)
        | JobEvent::Reopened(job)
        | JobEvent::Led { job, .. }
        | JobEvent::Cancel { job, .. }
        | JobEvent::Quarantined { job, .. }
        | JobEvent::Finished { job, .. } => *job,
    }
}

/// Takes note of an event. One of a job whose beginning is not in the log any more says nothing.
pub(super) fn fold(jobs: &mut BTreeMap<JobId, JobState>, event: JobEvent) {
    match event {
        JobEvent::Submitted(spec) => drop(jobs.entry(spec.id).or_insert_with(|| JobState::new(*spec))),
        event => {
            if let Some(state) = jobs.get_mut(&job_of(&event)) {
                state.take_in(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::conformance::spec;

    fn folded(id: JobId, events: Vec<JobEvent>) -> JobState {
        let mut jobs = BTreeMap::new();
        fold(&mut jobs, JobEvent::Paused(JobId::random()));
        fold(&mut jobs, JobEvent::Submitted(Box::new(spec(id))));
        events.into_iter().for_each(|event| fold(&mut jobs, event));
        assert_eq!(jobs.len(), 1, "what the log does not know from its beginning is passed over");
        jobs.remove(&id).unwrap()
    }

    #[test]
    fn a_job_is_what_its_events_say() {
        let job = JobId::random();
        let led = |worker: &str| JobEvent::Led { job, worker: worker.into() };
        let bad = |why: &str| JobEvent::Quarantined { job, worker: "w".into(), why: why.into() };
        let state = folded(job, vec![led("a"), JobEvent::Paused(job), bad("x"), led("b"), bad("y")]);
        assert!(state.paused && !state.is_over());
        assert_eq!(state.leader.as_deref(), Some("b"));
        assert_eq!(state.quarantined, [("w".to_owned(), "y".to_owned())]);
        let totals = Totals { found: 3, ..Totals::default() };
        let finished = JobEvent::Finished { job, end: JobEnd::Complete, totals: Box::new(totals) };
        let cancel = JobEvent::Cancel { job, why: "enough".into() };
        let events = vec![JobEvent::Stopping(job), JobEvent::Finishing(job), cancel, JobEvent::Resumed(job)];
        let state = folded(job, events);
        assert_eq!((state.phase, state.paused, state.cancel.as_deref()), (JobPhase::Stopping, false, Some("enough")));
        let state = folded(job, vec![finished.clone()]);
        assert_eq!((state.phase, state.end.clone()), (JobPhase::Ended, Some((JobEnd::Complete, totals))));
        assert!(state.is_over() && !state.removed);
        assert!(folded(job, vec![finished.clone(), JobEvent::Removed(job)]).removed);
        let again = folded(job, vec![finished, JobEvent::Reopened(job)]);
        assert_eq!((again.phase, again.end), (JobPhase::Walking, None));
    }
}
