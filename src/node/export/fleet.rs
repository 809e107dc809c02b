//! A broker that is looked at from a thread of its own: what it takes is not waited for.

use super::super::look::{JobLook, Look};
use crate::broker::amqp::{AmqpConfig, AmqpError, JobState, Office};
use crate::model::fleet::JobEnd;
use crate::model::{JobId, Totals, escaped};
use crate::telemetry::export::JobTold;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Workers may take so long to answer.
const WORKERS: Duration = Duration::from_secs(2);
/// A cycle waits so long for a look; the first one, in which there is no connection yet, longer.
const PATIENCE: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(20)];
/// A look that came too late for its cycle is good for another one, if it is no older.
const STILL_GOOD: Duration = Duration::from_secs(30);

/// A job that is gone is told of for so long after it was first seen to be over.
const ENDED_SECONDS: u64 = 3600;

/// The one who looks.
pub(super) struct Fleet {
    ask: Sender<()>,
    answers: Receiver<Result<Look, String>>,
    /// A look is under way.
    is_asked: bool,
    /// Nothing came back yet.
    is_first: bool,
    /// Came back too late.
    late: Option<Result<Look, String>>,
}

impl Fleet {
    pub fn new(config: AmqpConfig) -> Self {
        let (ask, asked) = channel::<()>();
        let (tell, answers) = channel();
        let mut office = None;
        let looking = move || {
            while asked.recv().is_ok() {
                let looked = look(&config, &mut office);
                if looked.is_err() {
                    office = None;
                }
                if tell.send(looked.map_err(|e| e.to_string())).is_err() {
                    return;
                }
            }
        };
        // Without the thread nobody answers, which is told as such.
        if let Err(e) = std::thread::Builder::new().name("look".into()).spawn(looking) {
            tracing::error!(error = %e, "the broker is not looked at");
        }
        Fleet { ask, answers, is_asked: false, is_first: true, late: None }
    }

    /// Has it look, unless it still does.
    pub fn ask(&mut self) {
        self.late = self.answers.try_recv().ok();
        if self.late.is_some() {
            self.is_asked = false;
        }
        let is_good = |told: &Result<Look, String>| told.as_ref().is_ok_and(|told| told.at.elapsed() < STILL_GOOD);
        self.late.take_if(|late| !is_good(late));
        self.is_asked = self.late.is_none() && (self.is_asked || self.ask.send(()).is_ok());
    }

    /// What it saw.
    pub fn answer(&mut self) -> Result<Look, String> {
        if let Some(late) = self.late.take() {
            return late;
        }
        let patience = PATIENCE[usize::from(std::mem::take(&mut self.is_first))];
        let answer = self.answers.recv_timeout(patience);
        self.is_asked = matches!(answer, Err(RecvTimeoutError::Timeout));
        answer.unwrap_or_else(|e| Err(format!("nothing is known of it: {e}")))
    }
}

fn look(config: &AmqpConfig, office: &mut Option<Office>) -> Result<Look, AmqpError> {
    let office = match office {
        Some(office) => office,
        None => office.insert(Office::connect(config)?),
    };
    Look::take(office, &[], WORKERS)
}

/// Jobs, as they are told.
pub(super) fn jobs_of(look: &Look) -> impl Iterator<Item = (JobId, JobTold)> {
    look.jobs.iter().map(|job| told_of(look, job))
}

fn told_of(look: &Look, job: &JobLook) -> (JobId, JobTold) {
    let spec = &job.state.spec;
    let end = job.state.end.as_ref().map(|(_, totals): &(JobEnd, Totals)| *totals);
    let totals = end.or_else(|| job.progress.as_ref().map(|progress| progress.totals));
    let told = JobTold {
        pass: escaped(spec.pass.as_bytes()),
        source: escaped(&spec.source),
        target: escaped(&spec.target),
        standing: job.standing(),
        is_running: !job.state.is_over(),
        is_paused: job.state.paused,
        totals: totals.map(|t| [t.found, t.done(), t.failed, t.bytes_copied]),
        elapsed_ms: job.progress.as_ref().map(|progress| progress.elapsed_ms),
        refusing: look.refusals(job).count() as u64,
        queues: job.queues.iter().map(|q| (q.name, q.ready, q.consumers)).collect(),
        unacknowledged: job.unsettled,
    };
    (spec.id, told)
}

/// Jobs that are over, by when that was first seen: those that are gone are told of for a while.
#[derive(Default)]
pub(super) struct Ended(Option<BTreeMap<JobId, u64>>);

impl Ended {
    /// Jobs that are gone and still told of. At first those that are not old; what a look does not name is forgotten.
    pub fn meet(&mut self, look: &Look, at: u64) -> Vec<(JobId, JobTold)> {
        let is_first = self.0.is_none();
        let known = self.0.take().unwrap_or_default();
        let over = look.jobs.iter().map(|job| &job.state).chain(&look.gone).filter(|state| state.is_over());
        let seen = |state: &JobState| match known.get(&state.spec.id) {
            Some(seen) => *seen,
            None if is_first => u64::try_from(state.spec.submitted.sec).unwrap_or(0).min(at),
            None => at,
        };
        let seen: BTreeMap<JobId, u64> = over.map(|state| (state.spec.id, seen(state))).collect();
        let is_told =
            |job: &JobState| seen.get(&job.spec.id).is_some_and(|seen| seen.saturating_add(ENDED_SECONDS) > at);
        let gone = look.gone.iter().filter(|job| is_told(job));
        let told = gone.map(|job| told_of(look, &JobLook::of_log(job.clone()))).collect();
        self.0 = Some(seen);
        told
    }
}
